//! Broadcast, multicast and unknown unicast go to everyone; what is known does not.
//!
//! ```text
//!   c0 -- gw-a ===== gw-b -- c1
//!           \\       //
//!              gw-c -- c2
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipop_lab::arp::{BROADCAST, Mac};
use ipop_lab::{Container, Lab, udp_socket};

use crate::Test;
use crate::support::{Outcome, SOON, Segment, ensure, number_of, numbered, numbers, until};

pub(crate) const TESTS: &[Test] = &[
    Test::new("multicast_frames_reach_every_gateway", groups),
    Test::new("multicast_sockets_hear_each_other", sockets),
    Test::new("unknown_unicast_is_flooded_until_it_is_learned", unknown),
    Test::new("unknown_unicast_is_flooded_within_a_rate", rate),
];

/// A station that nobody has heard of.
const NOBODY: Mac = [0x02, 0, 0, 0xdd, 0xdd, 0xdd];

fn groups() -> Outcome {
    let segment = Segment::start(&Lab::builder().gateways(3).without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    let groups: [Mac; 5] = [
        [0x01, 0x00, 0x5e, 0, 0, 1],
        [0x01, 0x00, 0x5e, 0x7f, 0xff, 0xfa],
        [0x33, 0x33, 0, 0, 0, 1],
        [0x33, 0x33, 0xff, 0x12, 0x34, 0x56],
        // Of nobody's protocol: any group goes to everyone.
        [0x03, 0x00, 0, 0x20, 0, 0],
    ];
    let frames: Vec<Vec<u8>> =
        (0..).zip(groups).map(|(number, group)| numbered(group, stations[0].mac, number, 300)).collect();
    for frame in &frames {
        stations[0].port.send(frame)?;
    }
    let last = numbered(BROADCAST, stations[0].mac, 99, 60);
    stations[0].port.send(&last)?;
    for station in &mut stations[1..] {
        let seen = until(&mut station.port, &last)?;
        ensure(seen == frames, || format!("{} got {seen:02x?}", station.container.name()))?;
    }
    let to_all = segment.counter(0, "/frames/to_all_peers")?;
    ensure(to_all == 6, || format!("{to_all} frames went to all peers"))
}

fn sockets() -> Outcome {
    let segment = Segment::start(&Lab::builder().gateways(3))?;
    let addresses = ["10.0.3.1/24", "10.0.3.2/24", "10.0.3.3/24"];
    let containers = (0..3)
        .map(|index| {
            let v6 = format!("fd03::{}/64", index + 1);
            segment.lab.container(index, &format!("c{index}"), &[addresses[index], &v6])
        })
        .collect::<ipop_lab::Result<Vec<Container>>>()?;
    let (v4, v6): (Ipv4Addr, Ipv6Addr) = ("239.1.2.3".parse()?, "ff15::1234".parse()?);
    let receivers = containers[1..]
        .iter()
        .map(|container| {
            let four = udp_socket(container.netns(), "0.0.0.0:7000".parse()?, SOON)?;
            let six = udp_socket(container.netns(), "[::]:7001".parse()?, SOON)?;
            let own = match container.ip()? {
                std::net::IpAddr::V4(own) => own,
                std::net::IpAddr::V6(_) => return Err("the first address is IPv4".into()),
            };
            container.netns().within(|| four.join_multicast_v4(&v4, &own))??;
            container.netns().within(|| six.join_multicast_v6(&v6, 0))??;
            Ok((four, six))
        })
        .collect::<Result<Vec<(UdpSocket, UdpSocket)>, libtest_mimic::Failed>>()?;
    // Bound to an address of the interface, so that the group is reached through it.
    udp_socket(containers[0].netns(), "10.0.3.1:0".parse()?, SOON)?
        .send_to(b"to the group", SocketAddr::from((v4, 7000)))?;
    udp_socket(containers[0].netns(), "[fd03::1]:0".parse()?, SOON)?
        .send_to(b"to the group", SocketAddr::from((v6, 7001)))?;
    for (four, six) in &receivers {
        for socket in [four, six] {
            let mut buffer = [0; 64];
            let (length, _) = socket.recv_from(&mut buffer)?;
            ensure(&buffer[..length] == b"to the group", || "something else came".into())?;
        }
    }
    Ok(())
}

fn unknown() -> Outcome {
    let segment = Segment::start(&Lab::builder().gateways(3).without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    let (sender, owner) = (stations[0].mac, stations[1].mac);
    // To a station that has not spoken yet: everyone gets it, so it does too.
    let first = numbered(owner, sender, 1, 60);
    stations[0].port.send(&first)?;
    until(&mut stations[1].port, &first)?;
    until(&mut stations[2].port, &first)?;
    ensure(segment.counter(0, "/frames/flooded")? == 1, || "it was not flooded".into())?;
    // It speaks, and only to the sender: gw-a learns it.
    let answer = numbered(sender, owner, 2, 60);
    stations[1].port.send(&answer)?;
    until(&mut stations[0].port, &answer)?;
    let mac = stations[1].container.mac().to_owned();
    segment.wait_place(0, 0, &mac, "gw-b", SOON)?;
    stations[0].port.send(&numbered(owner, sender, 3, 60))?;
    let last = numbered(BROADCAST, sender, 4, 60);
    stations[0].port.send(&last)?;
    ensure(numbers(&until(&mut stations[1].port, &last)?) == [3], || "the owner did not get it".into())?;
    let strays = numbers(&until(&mut stations[2].port, &last)?);
    ensure(strays.is_empty(), || format!("gw-c still gets {strays:?}"))?;
    let flooded = segment.counter(0, "/frames/flooded")?;
    ensure(flooded == 1, || format!("{flooded} frames were flooded"))
}

fn rate() -> Outcome {
    const COUNT: u32 = 400;
    const RATE: u64 = 100;
    let slow = |_, config: &mut serde_json::Value| config["flood_rate"] = RATE.into();
    let segment = Segment::start_with(&Lab::builder().gateways(3).without_inner_ipv6(), slow)?;
    let mut stations = segment.stations()?;
    let sender = stations[0].mac;
    let begin = std::time::Instant::now();
    for number in 0..COUNT {
        stations[0].port.send(&numbered(NOBODY, sender, number, 60))?;
    }
    // Broadcast is not limited, and neither is what is known.
    let last = numbered(BROADCAST, sender, COUNT, 60);
    stations[0].port.send(&last)?;
    let arrived: Vec<usize> = stations[1..]
        .iter_mut()
        .map(|station| Ok(until(&mut station.port, &last)?.iter().filter(|frame| number_of(frame).is_some()).count()))
        .collect::<Result<_, libtest_mimic::Failed>>()?;
    let took = begin.elapsed();
    let dropped = segment.counter(0, "/drops/flood_rate")?;
    let flooded = segment.counter(0, "/frames/flooded")?;
    ensure(flooded + dropped == u64::from(COUNT), || format!("{flooded} flooded and {dropped} dropped of {COUNT}"))?;
    // A burst of a quarter of a second, and what the time since has allowed.
    let allowed = RATE / 4 + took.as_millis() as u64 * RATE / 1000 + 1;
    ensure((RATE / 4..=allowed).contains(&flooded), || format!("{flooded} were flooded, {allowed} were allowed"))?;
    let all = arrived.iter().all(|count| *count as u64 == flooded);
    ensure(all, || format!("{flooded} were flooded, but {arrived:?} arrived"))
}
