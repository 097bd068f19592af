//! Everybody reaches everybody, and a frame goes where it should and nowhere else.
//!
//! ```text
//!   c0 -- gw-a ===== gw-b -- c1
//!           \\       //
//!            gw-c, gw-d -- c2, c3       every gateway has a link to every other
//! ```

use ipop_lab::arp::BROADCAST;
use ipop_lab::{Container, Family, Kind, Lab};

use crate::Test;
use crate::support::{
    HERE, HERE_V6, Outcome, SOON, Segment, THERE, THERE_V6, ensure, number_of, numbered, numbers, until,
};

pub(crate) const TESTS: &[Test] = &[
    Test::new("unicast_over_an_ipv4_underlay", over_ipv4),
    Test::new("unicast_over_an_ipv6_underlay", over_ipv6),
    Test::new("unicast_where_both_listen_on_any_address", on_any),
    Test::with("unicast_between_lxc_containers", &["lxc"], between_lxc),
    Test::new("three_gateways_all_pairs", three),
    Test::new("four_gateways_all_pairs", four),
    Test::new("unicast_goes_to_the_owner_alone", owner_alone),
    Test::new("a_broadcast_arrives_everywhere_once_and_does_not_come_back", split_horizon),
];

fn over_ipv4() -> Outcome {
    both_ways(&Segment::start(&Lab::builder())?)
}

fn over_ipv6() -> Outcome {
    both_ways(&Segment::start(&Lab::builder().family(Family::V6))?)
}

fn on_any() -> Outcome {
    // The peers' addresses stay those of IPv4.
    let any = |_, config: &mut serde_json::Value| config["listen"] = "[::]:5800".into();
    both_ways(&Segment::start_with(&Lab::builder(), any)?)
}

fn between_lxc() -> Outcome {
    both_ways(&Segment::start(&Lab::builder().containers(Kind::Lxc))?)
}

fn both_ways(segment: &Segment) -> Outcome {
    let (c0, c1) = segment.pair()?;
    c0.ping(THERE, 3)?;
    c1.ping(HERE, 3)?;
    c0.ping(THERE_V6, 3)?;
    c1.ping(HERE_V6, 3)?;
    Ok(())
}

fn three() -> Outcome {
    all_pairs(3)
}

fn four() -> Outcome {
    all_pairs(4)
}

fn all_pairs(gateways: usize) -> Outcome {
    let segment = Segment::start(&Lab::builder().gateways(gateways))?;
    let containers = (0..gateways)
        .map(|index| {
            let (v4, v6) = (format!("10.0.3.{}/24", index + 1), format!("fd03::{}/64", index + 1));
            segment.lab.container(index, &format!("c{index}"), &[&v4, &v6])
        })
        .collect::<ipop_lab::Result<Vec<Container>>>()?;
    for (index, container) in containers.iter().enumerate() {
        for other in (0..gateways).filter(|other| *other != index) {
            container.ping(&format!("10.0.3.{}", other + 1), 2)?;
            container.ping(&format!("fd03::{}", other + 1), 1)?;
        }
    }
    Ok(())
}

fn owner_alone() -> Outcome {
    const COUNT: u32 = 50;
    let segment = Segment::start(&Lab::builder().gateways(3).without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    stations[1].introduce()?;
    let owner = stations[1].container.mac().to_owned();
    segment.wait_place(0, 0, &owner, "gw-b", SOON)?;
    let (to_owner, to_other) = (segment.sent_to(0, "gw-b")?, segment.sent_to(0, "gw-c")?);
    for number in 0..COUNT {
        stations[0].port.send(&numbered(stations[1].mac, stations[0].mac, number, 60))?;
    }
    let last = numbered(BROADCAST, stations[0].mac, COUNT, 60);
    stations[0].port.send(&last)?;
    let at_owner = numbers(&until(&mut stations[1].port, &last)?);
    ensure(at_owner == (0..COUNT).collect::<Vec<_>>(), || format!("the owner got {at_owner:?}"))?;
    let elsewhere = until(&mut stations[2].port, &last)?;
    // The owner's own introduction was for everyone.
    let strays = elsewhere.iter().filter(|frame| number_of(frame) != Some(u32::MAX)).count();
    ensure(strays == 0, || format!("{strays} frames for c1 came to c2: {elsewhere:02x?}"))?;
    let sent = (segment.sent_to(0, "gw-b")? - to_owner, segment.sent_to(0, "gw-c")? - to_other);
    ensure(sent == (u64::from(COUNT) + 1, 1), || format!("gw-a sent {sent:?} frames to gw-b and gw-c"))
}

/// If gw-b sent on what it has from gw-a, the copy would reach gw-c before anything that c1 says after it has seen the
/// frame itself. So when a word of everyone has come to everyone, all copies are there.
fn split_horizon() -> Outcome {
    const COUNT: u32 = 20;
    const GATEWAYS: u32 = 4;
    let segment = Segment::start(&Lab::builder().gateways(GATEWAYS as usize).without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    for number in 0..COUNT {
        stations[0].port.send(&numbered(BROADCAST, stations[0].mac, number, 200))?;
    }
    let words: Vec<Vec<u8>> =
        (0..GATEWAYS).map(|index| numbered(BROADCAST, stations[index as usize].mac, 1000 + index, 60)).collect();
    stations[0].port.send(&words[0])?;
    let mut seen = vec![Vec::new()];
    for (station, word) in stations[1..].iter_mut().zip(&words[1..]) {
        seen.push(until(&mut station.port, &words[0])?);
        station.port.send(word)?;
    }
    for (index, station) in stations.iter_mut().enumerate() {
        let mut awaited: Vec<u32> = (1..GATEWAYS).filter(|other| *other as usize != index).collect();
        // A quick one was heard before c0 had ended.
        awaited.retain(|other| !numbers(&seen[index]).contains(&(1000 + other)));
        while !awaited.is_empty() {
            let frame = station.port.recv(SOON)?.ok_or_else(|| format!("c{index} did not hear {awaited:?}"))?;
            awaited.retain(|other| number_of(&frame) != Some(1000 + other));
            seen[index].push(frame);
        }
        let early = numbers(&seen[index]);
        let from_c0: Vec<u32> = early.into_iter().filter(|number| *number < 1000).collect();
        let expected: Vec<u32> = if index == 0 { Vec::new() } else { (0..COUNT).collect() };
        ensure(from_c0 == expected, || format!("c{index} got {from_c0:?}"))?;
    }
    Ok(())
}
