//! Who is where: learned, forgotten, and corrected when a container moves.
//!
//! ```text
//!   a0 -- gw-a ===== gw-b -- b0, and at first m
//!           \\       //
//!              gw-c -- c0
//! ```
//!
//! After a move everybody must reach `m` within a second of its first word, the neighbours on its old gateway too.

use std::time::{Duration, Instant};

use ipop_lab::arp::{BROADCAST, Mac};
use ipop_lab::{Container, Kind, Lab, interrupt};

use crate::Test;
use crate::support::{Outcome, SOON, Segment, Station, ensure, numbered, until};

pub(crate) const TESTS: &[Test] = &[
    Test::new("a_mac_that_is_silent_is_forgotten", ageing),
    Test::new("macs_are_learned_on_both_sides", learned),
    Test::new("a_container_that_moves_and_announces_itself_is_reachable", announced),
    Test::new("a_container_that_moves_and_sends_a_ping_is_reachable", ping),
    Test::new("a_container_that_moves_and_asks_by_arp_is_reachable", asking),
    Test::new("a_container_that_moves_between_two_gateways_is_reachable", two_gateways),
    Test::new("a_mac_without_an_address_that_moves_and_speaks_to_all_is_reachable", without_address),
    Test::new("a_mac_without_an_address_that_moves_and_speaks_to_one_is_reachable", one_conversation),
    Test::new("a_container_that_moves_to_a_gateway_that_forgot_it_is_reachable", forgotten),
    Test::with("an_lxc_container_that_moves_is_reachable", &["lxc"], lxc),
];

/// So soon after its first frame a container must be reachable from everywhere.
const REACHABLE: Duration = Duration::from_secs(1);
const MOVER: &str = "10.0.3.50";

fn learned() -> Outcome {
    let segment = Segment::start(&Lab::builder().gateways(3).without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    let mac = stations[1].container.mac().to_owned();
    stations[1].introduce()?;
    for (gateway, place) in [(0, "gw-b"), (1, "local"), (2, "gw-b")] {
        let seq = segment.wait_place(gateway, 0, &mac, place, SOON)?;
        ensure(seq == 0, || format!("gateway {gateway} thinks it has moved {seq} times"))?;
    }
    ensure(segment.peer(0, "gw-b")?["macs"] == 1, || "`ipop peers` does not count it".into())?;
    // What it hears about it changes nothing for its own gateway.
    let frame = numbered(stations[1].mac, stations[0].mac, 1, 60);
    stations[0].port.send(&frame)?;
    until(&mut stations[1].port, &frame)?;
    segment.wait_place(1, 0, &mac, "local", SOON)?;
    let text = segment.daemons[0].query("macs", false).run()?;
    ensure(text.contains(&mac) && text.contains("gw-b"), || format!("`ipop macs` for people: {text}"))
}

fn ageing() -> Outcome {
    const EXPIRY: u64 = 2;
    let quick = |_, config: &mut serde_json::Value| config["mac_expiry"] = EXPIRY.into();
    let segment = Segment::start_with(&Lab::builder().without_inner_ipv6(), quick)?;
    let stations = segment.stations()?;
    let mac = stations[1].container.mac().to_owned();
    stations[1].introduce()?;
    segment.wait_place(0, 0, &mac, "gw-b", SOON)?;
    // It lives while it speaks.
    let end = Instant::now() + Duration::from_millis(EXPIRY * 1000 + 1500);
    while Instant::now() < end {
        stations[1].introduce()?;
        for (gateway, place) in [(0, "gw-b"), (1, "local")] {
            let found = segment.place(gateway, 0, &mac)?;
            ensure(found.as_ref().is_some_and(|(at, _)| at == place), || format!("gateway {gateway}: {found:?}"))?;
        }
        interrupt::sleep(Duration::from_millis(200))?;
    }
    let silent = Instant::now();
    for gateway in 0..2 {
        interrupt::wait_until("a silent MAC to be forgotten", SOON, || {
            Ok(segment.place(gateway, 0, &mac)?.is_none().then_some(()))
        })?;
    }
    // Ages are whole seconds.
    let after = silent.elapsed();
    ensure(after >= Duration::from_millis((EXPIRY - 1) * 1000), || format!("it was forgotten after {after:?}"))?;
    ensure(segment.counter(0, "/macs/aged")? >= 1, || "`aged` does not count it".into())?;
    let flooded = segment.counter(0, "/frames/flooded")?;
    stations[0].port.send(&numbered(stations[1].mac, stations[0].mac, 1, 60))?;
    segment.wait_counter(0, "/frames/flooded", flooded + 1).map(drop)
}

/// The segment of the drawing, in which everybody has talked with `m`.
struct Party {
    neighbours: Vec<Container>,
    mover: Container,
    segment: Segment,
}

impl Party {
    fn gather(gateways: usize, kind: Kind) -> Result<Party, libtest_mimic::Failed> {
        Party::gather_with(gateways, kind, |_, _| {})
    }

    fn gather_with(
        gateways: usize,
        kind: Kind,
        change: impl Fn(usize, &mut serde_json::Value),
    ) -> Result<Party, libtest_mimic::Failed> {
        // IPv6 would say hello to all when the cable is plugged in, before the word that the test is about.
        let segment = Segment::start_with(&Lab::builder().gateways(gateways).without_inner_ipv6(), change)?;
        let neighbours = (0..gateways)
            .map(|index| {
                let address = format!("10.0.3.{}/24", index + 1);
                segment.lab.container(index, &format!("{}0", char::from(b'a' + index as u8)), &[&address])
            })
            .collect::<ipop_lab::Result<Vec<_>>>()?;
        let mover = segment.lab.container_builder(1, "m").kind(kind).addresses(&["10.0.3.50/24"]).start()?;
        for neighbour in &neighbours {
            neighbour.ping(MOVER, 1)?;
        }
        Ok(Party { neighbours, mover, segment })
    }

    /// Lets `m` know its neighbours' MACs for good. A kernel forgets what it has learned when a cable is unplugged; the
    /// guest of a virtual machine that is moved does not.
    fn remember(&self) -> ipop_lab::Result<()> {
        self.neighbours.iter().try_for_each(|neighbour| {
            let (ip, mac) = (neighbour.ip()?, neighbour.mac());
            let line = format!("neigh replace {ip} lladdr {mac} dev eth0 nud permanent");
            self.mover.netns().ip(&line).map(drop)
        })
    }

    /// Moves `m`, lets it say its first word, and looks who reaches it. Gives its move number at every gateway.
    fn move_to(
        &mut self,
        gateway: usize,
        word: impl FnOnce(&Container) -> ipop_lab::Result<()>,
    ) -> Result<Vec<u64>, libtest_mimic::Failed> {
        self.mover.move_to(self.segment.lab.gateway(gateway))?;
        let begin = Instant::now();
        word(&self.mover)?;
        for neighbour in &self.neighbours {
            let what = format!("{} to reach what moved to gateway {gateway}", neighbour.name());
            let line = ["ping", "-n", "-c1", "-W0.2", MOVER];
            interrupt::wait_until(&what, REACHABLE.saturating_sub(begin.elapsed()), || {
                Ok(neighbour.exec(line)?.success().then_some(()))
            })
            .map_err(|error| self.explain(&error.to_string()))?;
        }
        let mac = self.mover.mac();
        let mut numbers = Vec::new();
        for index in 0..self.neighbours.len() {
            let place = if index == gateway { "local" } else { self.segment.lab.gateway(gateway).name() };
            numbers.push(self.segment.wait_place(index, 0, mac, place, SOON)?);
        }
        // One frame of it, and no more, to each: nobody has two ideas of where it is.
        for neighbour in &self.neighbours {
            neighbour.ping(MOVER, 2)?;
        }
        Ok(numbers)
    }

    fn explain(&self, error: &str) -> String {
        let places: Vec<_> =
            (0..self.neighbours.len()).map(|index| self.segment.place(index, 0, self.mover.mac())).collect();
        format!("{error}; the gateways think it is at {places:?}")
    }

    /// From one gateway to the next; the number must rise each time, everywhere.
    fn travel(&mut self, route: &[usize], word: fn(&Container) -> ipop_lab::Result<()>) -> Outcome {
        let mut number = 0;
        for gateway in route {
            let numbers = self.move_to(*gateway, word)?;
            let risen = numbers.iter().all(|next| *next > number && *next == numbers[0]);
            ensure(risen, || format!("the move number went from {number} to {numbers:?}"))?;
            number = numbers[0];
        }
        Ok(())
    }
}

fn announced() -> Outcome {
    Party::gather(3, Kind::Plain)?.travel(&[2, 0, 1, 0], Container::announce)
}

/// It still knows its neighbours' MACs, so the first frame is the ping itself.
fn ping() -> Outcome {
    let mut party = Party::gather(3, Kind::Plain)?;
    party.remember()?;
    party.travel(&[2, 0, 1], |mover| {
        let partner = if mover.gateway().index() == 0 { "10.0.3.3" } else { "10.0.3.1" };
        first_ping(mover, partner)
    })
}

/// Pings until an answer comes. The very first frame may be lost: it can overtake the news that `m` has moved, and its
/// old gateway takes it for a forgery then.
fn first_ping(mover: &Container, partner: &str) -> ipop_lab::Result<()> {
    mover.run(["ping", "-n", "-c1", "-i0.05", "-w1", partner]).map(drop)
}

/// It has forgotten its neighbours, as after a restart, so the first frame is a question.
fn asking() -> Outcome {
    Party::gather(3, Kind::Plain)?.travel(&[2, 0, 1], |mover| {
        mover.netns().ip("neigh flush all")?;
        mover.run(["ping", "-n", "-c1", "-W1", "10.0.3.2"]).map(drop)
    })
}

fn two_gateways() -> Outcome {
    Party::gather(2, Kind::Plain)?.travel(&[0, 1, 0, 1], Container::announce)
}

/// A real container is stopped and started again elsewhere, and asks for its neighbour there.
fn lxc() -> Outcome {
    Party::gather(2, Kind::Lxc)?.travel(&[0, 1], |mover| first_ping(mover, "10.0.3.1"))
}

/// Nobody can ask it for a sign of life, and its new gateway has never had a frame of it: its word is all that there is.
fn without_address() -> Outcome {
    unheard_of(|_, mac| numbered(BROADCAST, mac, 2, 60))
}

/// It goes on talking to the one station that it talked to before, so the old gateway does not hear it.
fn one_conversation() -> Outcome {
    unheard_of(|partner, mac| numbered(partner, mac, 2, 60))
}

/// `m` has talked with a0 alone. It moves to gw-c, says `word`, and then must be reachable from its new side, from
/// the far one, and from its old one.
fn unheard_of(word: impl Fn(Mac, Mac) -> Vec<u8>) -> Outcome {
    let segment = Segment::start(&Lab::builder().gateways(3).without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    let partner = stations[0].mac;
    stations[0].introduce()?;
    for gateway in [1, 2] {
        segment.wait_place(gateway, 0, stations[0].container.mac(), "gw-a", SOON)?;
    }
    let Station { container: mut moving, port, mac } = segment.station(1, "m")?;
    let first = numbered(partner, mac, 1, 60);
    port.send(&first)?;
    until(&mut stations[0].port, &first)?;
    segment.wait_place(0, 0, moving.mac(), "gw-b", SOON)?;
    drop(port);
    moving.move_to(segment.lab.gateway(2))?;
    let mut moved = Station::of(moving)?;
    let begin = Instant::now();
    moved.port.send(&word(partner, mac))?;
    for (speaker, number) in [(2, 12), (0, 10), (1, 11)] {
        let speaker = &stations[speaker];
        let what = format!("{} to reach what moved to gw-c", speaker.container.name());
        let frame = numbered(mac, speaker.mac, number, 60);
        interrupt::wait_until(&what, REACHABLE.saturating_sub(begin.elapsed()), || {
            speaker.port.send(&frame)?;
            let (_, came) = moved.port.capture_until(Duration::from_millis(20), |seen| seen == frame)?;
            Ok(came.then_some(()))
        })
        .map_err(|error| {
            let places: Vec<_> = (0..3).map(|gateway| segment.place(gateway, 0, moved.container.mac())).collect();
            format!("{error}; the gateways think it is at {places:?}")
        })?;
    }
    for gateway in 0..2 {
        segment.wait_place(gateway, 0, moved.container.mac(), "gw-c", SOON)?;
    }
    Ok(())
}

/// An everyday case of the same: gw-c has forgotten `m`, which has talked with a0 alone for longer than MACs are kept.
fn forgotten() -> Outcome {
    let quick = |index, config: &mut serde_json::Value| {
        if index == 2 {
            config["mac_expiry"] = 1.into();
        }
    };
    let mut party = Party::gather_with(3, Kind::Plain, quick)?;
    party.remember()?;
    // It still knows a0, so what `m` says to a0 over there is not flooded.
    let _talk = party.neighbours[0].spawn(["ping", "-n", "-q", "-i0.2", "10.0.3.3"])?;
    interrupt::wait_until("gw-c to forget m", SOON, || {
        Ok(party.segment.place(2, 0, party.mover.mac())?.is_none().then_some(()))
    })?;
    party.move_to(2, |mover| first_ping(mover, "10.0.3.1")).map(drop)
}
