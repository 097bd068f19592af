//! Neighbour discovery arrives as it was sent: flags, options, destination and all (RFC 9047 shows which flags EVPN
//! had to add for that).

use std::net::Ipv6Addr;

use ipop_lab::arp::Mac;
use ipop_lab::ndp::{
    ADVERTISEMENT, ALL_NODES, ALL_ROUTERS, OVERRIDE, SOLICITATION, SOLICITED, advertisement, group_mac, icmp6,
    solicitation, solicited_node,
};

use crate::Test;
use crate::support::{Outcome, SOON, Station, World, ensure, ip6, port, show, tagged};
use crate::wire_arp::{arrive, stations};

pub(crate) const TESTS: &[Test] = &[
    Test::new("wire_nd_without_override_leaves_the_owner", flags).needs(&["ipv6"]),
    Test::new("wire_nd_keeps_nonce_and_unknown_options", options),
    Test::new("wire_nd_keeps_its_group", group),
    Test::new("wire_nd_keeps_what_is_around_it", around),
    Test::new("wire_nd_from_the_table_keeps_its_flags", table),
];

/// Option of 8 octets: a nonce (RFC 3971, 5.3.2; RFC 7527), and one of a number that nobody has defined.
const NONCE: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];
const UNKNOWN: [u8; 8] = [200, 1, 9, 8, 7, 6, 5, 4];

/// A solicitation to the target's group with these options.
fn solicit(station: &Station, src: Ipv6Addr, target: Ipv6Addr, options: &[&[u8]]) -> Vec<u8> {
    let body = [&[0; 4][..], &target.octets(), &options.concat()].concat();
    let group = solicited_node(target);
    icmp6(group_mac(group), station.mac, src, group, SOLICITATION, &body)
}

/// a1 advertises b1's address without Override: whoever has an entry keeps it (RFC 4861, 7.2.5).
fn flags() -> Outcome {
    let world = World::with_ipv6()?;
    let [a1, b1, c1] = world.guests(["a1", "b1", "c1"])?;
    c1.ping("fd03::21", 1)?;
    let mut ear = Station::of(c1, 31)?;
    let frame = advertisement(a1.mac_bytes()?, ip6("b1"), group_mac(ALL_NODES), ALL_NODES, 0);
    port(&a1)?.send(&frame)?;
    let about = |seen: &[u8]| {
        seen.get(12..14) == Some(&[0x86, 0xdd])
            && seen.get(54) == Some(&ADVERTISEMENT)
            && seen.get(62..78) == Some(&ip6("b1").octets()[..])
    };
    let heard = ear.wait_for("an advertisement of b1's address", SOON, about)?;
    ensure(heard == frame, || format!("{} became {}", show(&frame), show(&heard)))?;
    ear.container.ping("fd03::21", 5)?;
    let neighbours = ear.container.netns().ip("-6 neigh show dev eth0")?;
    let kept = neighbours.lines().any(|line| line.starts_with("fd03::21 ") && line.contains(b1.mac()));
    ensure(kept, || format!("c1 has lost b1, which is {}: {neighbours}", b1.mac()))
}

fn options() -> Outcome {
    let world = World::new()?;
    let mut stations = stations(&world)?;
    let (a1, nobody) = (&stations[0], Ipv6Addr::UNSPECIFIED);
    let own = [&[1, 1][..], &a1.mac].concat();
    let answer = {
        let body = [&[OVERRIDE, 0, 0, 0][..], &ip6("a1").octets(), &[2, 1], &a1.mac, &UNKNOWN].concat();
        icmp6(group_mac(ALL_NODES), a1.mac, ip6("a1"), ALL_NODES, ADVERTISEMENT, &body)
    };
    let frames = [
        ("a detection with a nonce", solicit(a1, nobody, ip6("a3"), &[&NONCE])),
        ("a detection with an unknown option", solicit(a1, nobody, ip6("a4"), &[&UNKNOWN])),
        ("a solicitation with both", solicit(a1, ip6("a1"), ip6("b1"), &[&own, &NONCE, &UNKNOWN])),
        ("a solicitation that names no source", solicit(a1, ip6("a1"), ip6("b2"), &[])),
        ("an advertisement with an unknown option", answer),
    ];
    arrive(&mut stations, &frames)?;
    // The same on the way back.
    let [a1, b1, _] = &mut stations;
    let body = [&[SOLICITED, 0, 0, 0][..], &ip6("b1").octets(), &[2, 1], &b1.mac, &NONCE, &UNKNOWN].concat();
    let answer = icmp6(a1.mac, b1.mac, ip6("b1"), ip6("a1"), ADVERTISEMENT, &body);
    b1.send(&answer)?;
    a1.hear("the answer with its options", &answer)
}

/// Routers hear of a host's address before it uses it (RFC 9131), and a solicitation may go to all nodes.
fn group() -> Outcome {
    let world = World::new()?;
    let mut stations = stations(&world)?;
    let mac = stations[0].mac;
    let body = [&[0; 4][..], &ip6("b1").octets(), &[1, 1], &mac].concat();
    let to_all = icmp6(group_mac(ALL_NODES), mac, ip6("a1"), ALL_NODES, SOLICITATION, &body);
    let frames = [
        ("an advertisement to all routers", advertisement(mac, ip6("a1"), group_mac(ALL_ROUTERS), ALL_ROUTERS, 0)),
        (
            "an advertisement with Override to all routers",
            advertisement(mac, ip6("a3"), group_mac(ALL_ROUTERS), ALL_ROUTERS, OVERRIDE),
        ),
        ("a solicitation to all nodes", to_all),
    ];
    arrive(&mut stations, &frames)
}

/// Priority, traffic class, another Ethernet source. (Octets behind an IPv6 packet do not even pass every Linux bridge.)
fn around() -> Outcome {
    const SHARED: Mac = [0x02, 0xbf, 0x0a, 0x00, 0x03, 0x67];
    let world = World::new()?;
    let mut stations = stations(&world)?;
    let mac = stations[0].mac;
    let mut class = solicitation(mac, ip6("a1"), ip6("b3"));
    class[14..18].copy_from_slice(&[0x6c, 0x01, 0x23, 0x45]);
    let mut masked = solicitation(SHARED, ip6("a3"), ip6("b4"));
    masked[6..12].copy_from_slice(&mac);
    let plain = solicitation(mac, ip6("a1"), ip6("b6"));
    let frames = [
        ("a solicitation with a traffic class and a flow label", class),
        ("a solicitation whose source is not the sender", masked),
        ("a solicitation with priority 5 in VLAN 10", tagged(&plain, 5 << 13 | 10)),
        ("a solicitation with a priority tag", tagged(&plain, 5 << 13)),
    ];
    arrive(&mut stations, &frames)
}

/// What is made by a gateway, an answer from its table, repeats what the owner said and adds nothing: an address that
/// does not override, such as an anycast address (RFC 4861, 7.2.7), stays so.
fn table() -> Outcome {
    let world = World::new()?;
    let [mut a1, mut b1, _] = stations(&world)?;
    let mut a2 = world.station("a2")?;
    let question = solicitation(a1.mac, ip6("a1"), ip6("b1"));
    a1.send(&question)?;
    b1.hear("the solicitation", &question)?;
    let owner = b1.mac;
    let answer = |to: &Station, name| advertisement(owner, ip6("b1"), to.mac, ip6(name), SOLICITED);
    b1.send(&answer(&a1, "a1"))?;
    a1.hear("the answer", &answer(&a1, "a1"))?;
    a2.send(&solicitation(a2.mac, ip6("a2"), ip6("b1")))?;
    a2.hear("the answer from the table", &answer(&a2, "a2"))
}
