//! ARP arrives as it was sent, octet for octet: a gateway carries it and does not make it anew.
//!
//! What the gateways read of it is theirs to know. What stands around it is for the stations: priority, an Ethernet
//! source that is not the sender, a group as destination, octets behind the message.

use std::net::Ipv4Addr;

use ipop_lab::arp::{Arp, BROADCAST, Mac};
use libtest_mimic::Failed;

use crate::Test;
use crate::support::{Outcome, SOON, Station, World, ensure, tagged};

pub(crate) const TESTS: &[Test] = &[
    Test::new("wire_arp_keeps_the_priority_of_its_vlan", priority),
    Test::new("wire_arp_keeps_its_priority_tag", priority_tag),
    Test::new("wire_arp_keeps_source_and_destination", ends),
    Test::new("wire_arp_keeps_what_follows_it", trailing),
];

/// Priority 5 in the upper three bits of a tag.
const PRIORITY: u16 = 5 << 13;
const VLAN: u16 = 10;

/// a1 sends them; b1 and c1 must hear each of them as it is.
pub(crate) fn arrive(stations: &mut [Station; 3], frames: &[(&str, Vec<u8>)]) -> Outcome {
    let [from, to @ ..] = stations;
    let mut altered = Vec::new();
    for (what, frame) in frames {
        from.send(frame)?;
        for station in to.iter_mut() {
            if let Err(error) = station.hear(&format!("{what} at {}", station.container.name()), frame) {
                altered.push(error.message().unwrap_or_default().to_owned());
            }
        }
    }
    ensure(altered.is_empty(), || altered.join("\n"))
}

pub(crate) fn stations(world: &World) -> Result<[Station; 3], Failed> {
    Ok([world.station("a1")?, world.station("b1")?, world.station("c1")?])
}

fn priority() -> Outcome {
    let world = World::new()?;
    let mut stations = stations(&world)?;
    let request = stations[0].request(stations[1].ip).frame();
    let announcement = Arp::request(stations[0].mac, stations[0].ip, stations[0].ip).frame();
    let frames = [
        ("a question with priority 5 in VLAN 10", tagged(&request, PRIORITY | VLAN)),
        ("an announcement with priority 5 in VLAN 10", tagged(&announcement, PRIORITY | VLAN)),
    ];
    arrive(&mut stations, &frames)?;
    answered(&mut stations, |frame| tagged(frame, PRIORITY | VLAN))
}

/// VLAN 0 is none: the tag is there for the priority, and the frame belongs to the untagged network.
fn priority_tag() -> Outcome {
    let world = World::new()?;
    let mut stations = stations(&world)?;
    let request = stations[0].request(stations[1].ip).frame();
    arrive(&mut stations, &[("a question with a priority tag", tagged(&request, PRIORITY))])?;
    answered(&mut stations, |frame| tagged(frame, PRIORITY))?;
    for daemon in &world.daemons {
        let table = daemon.status("arp")?;
        let rows = table["entries"].as_array().map_or(&[][..], Vec::as_slice);
        let row = rows.iter().find(|row| row["ip"] == "10.0.3.21");
        ensure(row.is_some_and(|row| row["vlan"] == 0), || format!("{}: {table}", daemon.gateway().name()))?;
    }
    Ok(())
}

/// b1 answers what it has just been asked, in its own way, and a1 hears just that.
fn answered(stations: &mut [Station; 3], dress: impl Fn(&[u8]) -> Vec<u8>) -> Outcome {
    let [a1, b1, _] = stations;
    let answer = dress(&Arp::reply(b1.mac, b1.ip, a1.mac, a1.ip).frame());
    b1.send(&answer)?;
    a1.hear("the answer", &answer)
}

/// The frame's source need not be the sender, nor its destination everyone.
fn ends() -> Outcome {
    const SHARED: Mac = [0x02, 0xbf, 0x0a, 0x00, 0x03, 0x66];
    const GROUP: Mac = [0x03, 0x00, 0x00, 0x00, 0x00, 0x01];
    let world = World::new()?;
    let mut stations = stations(&world)?;
    let (mac, target) = (stations[0].mac, stations[1].ip);
    let other = Arp { source: mac, ..Arp::request(SHARED, [10, 0, 3, 102].into(), target) };
    let request = stations[0].request([10, 0, 3, 78].into());
    let announcement = Arp::request(mac, stations[0].ip, stations[0].ip);
    let as_reply = Arp { destination: BROADCAST, ..Arp::reply(mac, stations[0].ip, mac, stations[0].ip) };
    let frames = [
        ("a question whose source is not the sender", other.frame()),
        ("a question to a group", Arp { destination: GROUP, ..request }.frame()),
        (
            "a question that names a target MAC",
            Arp { target_mac: [0x44; 6], ..stations[0].request([10, 0, 3, 79].into()) }.frame(),
        ),
        ("an announcement to a group", Arp { destination: GROUP, ..announcement }.frame()),
        ("an announcement that names everyone as target", Arp { target_mac: BROADCAST, ..announcement }.frame()),
        ("an announcement as a reply", as_reply.frame()),
    ];
    arrive(&mut stations, &frames)?;
    // An answer that names another MAC than it comes from.
    let [a1, b1, _] = &mut stations;
    let question = Arp::request(a1.mac, a1.ip, [10, 0, 3, 103].into());
    a1.send(&question.frame())?;
    b1.hear("the question", &question.frame())?;
    let answer = Arp { source: b1.mac, ..Arp::reply(SHARED, question.target_ip, a1.mac, a1.ip) };
    b1.send(&answer.frame())?;
    a1.hear("the answer whose source is not the sender", &answer.frame())
}

/// Ethernet pads a short frame, and what the padding is made of, or whether more follows, is nobody's business here.
fn trailing() -> Outcome {
    let world = World::new()?;
    let mut stations = stations(&world)?;
    let request = |last: u8, length: usize| {
        let mut frame = stations[0].request([10, 0, 3, last].into()).frame();
        frame.truncate(42);
        frame.extend((frame.len()..length).map(|at| at as u8 ^ 0x5a));
        frame
    };
    let frames = [
        ("a question with padding that is not zero", request(80, 60)),
        ("a question without padding", request(81, 42)),
        ("a question with more behind it", request(82, 120)),
    ];
    arrive(&mut stations, &frames)?;
    let [a1, b1, _] = &mut stations;
    a1.send(&a1.request(b1.ip).frame())?;
    b1.wait_for("the question", SOON, |frame| {
        Arp::parse(frame).is_some_and(|arp| arp.target_ip == Ipv4Addr::new(10, 0, 3, 21))
    })?;
    answered(&mut stations, |frame| [&frame[..42], &[0xa5; 30]].concat())
}
