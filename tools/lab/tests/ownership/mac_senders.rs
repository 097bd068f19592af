//! The sender that ARP or neighbour discovery names is no proof of where a MAC is: only the Ethernet source is.
//!
//! A proxy, a cluster or a liar may name any MAC as the sender. What such a frame says is where an address is
//! (RFC 9161), and never which port a MAC is behind; a switch that learns it hands b1's frames to whoever writes
//! b1's MAC into a payload.

use std::time::{Duration, Instant};

use ipop_lab::arp::{Arp, BROADCAST, Mac, format_mac};
use ipop_lab::ndp::{ALL_NODES, OVERRIDE, SOLICITATION, advertisement, group_mac, icmp6, solicited_node};

use crate::Test;
use crate::probe::{Pings, every};
use crate::support::{Outcome, SOON, Sender, World, ensure, ip, ip6, port};

pub(crate) const TESTS: &[Test] = &[
    Test::new("mac_a_sender_named_by_arp_is_not_learned", named_by_arp),
    Test::new("mac_a_sender_named_by_nd_is_not_learned", named_by_nd).needs(&["ipv6"]),
    Test::new("mac_600_senders_named_by_arp_are_not_learned", many),
];

/// The lie is told so often.
const AGAIN: Duration = Duration::from_millis(300);
/// And the victim is pinged so often, for so long.
const PING: Duration = Duration::from_millis(50);
const WHILE: Duration = Duration::from_secs(6);

/// The MAC is behind gw-b for everyone, and has never moved.
fn unmoved(world: &World, mac: &str) -> Outcome {
    for (gateway, place) in [(0, "gw-b"), (1, "local"), (2, "gw-b")] {
        let row = world.mac(gateway, mac)?.ok_or_else(|| format!("gateway {gateway} does not know {mac}"))?;
        ensure(row["where"] == place && row["seq"] == 0, || format!("gateway {gateway} says {row}"))?;
    }
    Ok(())
}

fn named_by_arp() -> Outcome {
    let world = World::new()?;
    let [a1, a2, b1, c1] = world.guests(["a1", "a2", "b1", "c1"])?;
    for guest in [&a1, &c1] {
        guest.ping("10.0.3.21", 1)?;
    }
    let (own, victim) = (a2.mac_bytes()?, b1.mac_bytes()?);
    // A question, an answer to nobody in particular, and an announcement: each for an address that b1 does not have.
    let lie = move |number: u64| {
        let question = Arp::request(victim, [10, 0, 3, 150].into(), ip("a1"));
        let lie = match number % 3 {
            0 => question,
            1 => Arp {
                destination: BROADCAST,
                ..Arp::reply(victim, [10, 0, 3, 151].into(), victim, [10, 0, 3, 152].into())
            },
            _ => Arp { target_ip: question.sender_ip, ..question },
        };
        Some(Arp { source: own, ..lie }.frame())
    };
    let lies = Sender::start(port(&a2)?, AGAIN, lie);
    let pings = [&a1, &c1].map(|guest| Pings::start(guest, ip("b1"), PING, WHILE));
    for pings in pings {
        pings?.end()?.ensure_all()?;
    }
    lies.end()?;
    unmoved(&world, b1.mac())
}

fn named_by_nd() -> Outcome {
    let world = World::with_ipv6()?;
    let [a1, a2, b1, c1] = world.guests(["a1", "a2", "b1", "c1"])?;
    for guest in [&a1, &c1] {
        guest.ping("fd03::21", 1)?;
    }
    let (own, victim) = (a2.mac_bytes()?, b1.mac_bytes()?);
    let lie = move |number: u64| {
        let (absent, asked) = ("fd03::150".parse().ok()?, ip6("a1"));
        let mut frame = match number % 2 {
            0 => {
                let body = [&[0; 4][..], &asked.octets(), &[1, 1], &victim].concat();
                let group = solicited_node(asked);
                icmp6(group_mac(group), own, absent, group, SOLICITATION, &body)
            }
            _ => advertisement(victim, absent, group_mac(ALL_NODES), ALL_NODES, OVERRIDE),
        };
        frame[6..12].copy_from_slice(&own);
        Some(frame)
    };
    let lies = Sender::start(port(&a2)?, AGAIN, lie);
    let pings = [&a1, &c1].map(|guest| Pings::start(guest, ip6("b1"), PING, WHILE));
    for pings in pings {
        pings?.end()?.ensure_all()?;
    }
    lies.end()?;
    unmoved(&world, b1.mac())
}

/// 600 MACs that nobody has, named at once: no table has room for what was never the source of a frame.
fn many() -> Outcome {
    const COUNT: u64 = 600;
    let world = World::new()?;
    let [a1, a2, b1, c1] = world.guests(["a1", "a2", "b1", "c1"])?;
    c1.ping("10.0.3.21", 1)?;
    let pings = [
        Pings::start(&a1, ip("b1"), PING, Duration::from_secs(4))?,
        Pings::start(&c1, ip("b1"), PING, Duration::from_secs(4))?,
    ];
    let own = a2.mac_bytes()?;
    let named = |number: u64| -> Mac { [0x02, 0xfa, 0, 0, (number >> 8) as u8, number as u8] };
    let frames = move |number: u64| {
        let address = [10, 0, 40 + (number >> 8) as u8, number as u8];
        let request = Arp::request(named(number), address.into(), ip("c1"));
        (number < COUNT).then(|| Arp { source: own, ..request }.frame())
    };
    Sender::start(port(&a2)?, Duration::from_micros(100), frames).finish()?;
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        for daemon in &world.daemons {
            let table = daemon.status("macs")?.to_string();
            let wrong = (0..COUNT).filter(|number| table.contains(&format_mac(named(*number)))).count();
            ensure(wrong == 0, || format!("{} has entries for {wrong} of the MACs", daemon.gateway().name()))?;
        }
    }
    let [near, far] = pings;
    every([near.end()?.ensure_all(), far.end()?.ensure_all()])?;
    unmoved(&world, b1.mac())
}
