//! VLAN tags: carried as they are, and every VLAN is a table of its own. By raw ports, because not every kernel has
//! VLAN interfaces.
//!
//! ```text
//!   c0 -- gw-a ===== gw-b -- c1        M is a MAC that c0 uses in VLAN 10
//!           \\       //                and c1 uses in VLAN 20
//!              gw-c -- c2
//! ```

use ipop_lab::Lab;
use ipop_lab::arp::{Arp, BROADCAST, Mac, format_mac};

use crate::Test;
use crate::support::{Outcome, SOON, Segment, Station, ensure, numbered, numbers, tagged, until};

pub(crate) const TESTS: &[Test] = &[
    Test::new("tags_arrive_as_they_are", carried),
    Test::new("vlans_learn_apart", apart),
    Test::new("arp_is_resolved_in_its_vlan", resolved),
];

/// 802.1Q and 802.1ad.
const CUSTOMER: u16 = 0x8100;
const SERVICE: u16 = 0x88a8;

fn carried() -> Outcome {
    let segment = Segment::start(&Lab::builder().without_inner_ipv6())?;
    arrive_as_they_are(&mut segment.stations()?)
}

/// From the first station to the second.
pub(crate) fn arrive_as_they_are(stations: &mut [Station]) -> Outcome {
    let (to, from) = (stations[1].mac, stations[0].mac);
    let mut frames = Vec::new();
    for destination in [to, BROADCAST] {
        let plain = |number, length| numbered(destination, from, number, length);
        frames.extend([
            tagged(plain(0, 60), CUSTOMER, 10),
            tagged(plain(1, 60), CUSTOMER, 4094),
            // Priority, drop eligible, and both with a VLAN.
            tagged(plain(2, 60), CUSTOMER, 0xe000),
            tagged(plain(3, 60), CUSTOMER, 0x1000),
            tagged(plain(4, 60), CUSTOMER, 0xb00a),
            // A tagged frame is four octets longer.
            tagged(plain(5, 1514), CUSTOMER, 10),
            // Service tag alone, service over customer, customer over customer, three of them.
            tagged(plain(6, 100), SERVICE, 0x6064),
            tagged(tagged(plain(7, 100), CUSTOMER, 10), SERVICE, 100),
            tagged(tagged(plain(8, 100), CUSTOMER, 10), CUSTOMER, 0xe014),
            tagged(tagged(tagged(plain(9, 100), CUSTOMER, 10), CUSTOMER, 20), SERVICE, 30),
            // The older number for stacked tags is only an EtherType.
            tagged(tagged(plain(10, 100), CUSTOMER, 10), 0x9100, 20),
        ]);
    }
    for frame in &frames {
        stations[0].port.send(frame)?;
    }
    let last = numbered(BROADCAST, from, 99, 60);
    stations[0].port.send(&last)?;
    let seen = until(&mut stations[1].port, &last)?;
    for (sent, seen) in frames.iter().zip(&seen) {
        ensure(sent == seen, || format!("{:02x?} became {:02x?}", &sent[..40], &seen[..40.min(seen.len())]))?;
    }
    ensure(frames.len() == seen.len(), || format!("{} frames became {}", frames.len(), seen.len()))
}

/// M speaks only to c2, so that the bridges of gw-a and gw-b, which know no VLANs, are not confused about it.
fn apart() -> Outcome {
    const M: Mac = [0x02, 0, 0, 0, 0xbb, 1];
    let segment = Segment::start(&Lab::builder().gateways(3).without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    let centre = stations[2].mac;
    for vlan in [10, 20] {
        stations[2].port.send(&tagged(numbered(BROADCAST, centre, 0, 60), CUSTOMER, vlan))?;
    }
    let centre_text = format_mac(centre);
    for (speaker, vlan) in [(0, 10), (1, 20)] {
        segment.wait_place(speaker, vlan, &centre_text, "gw-c", SOON)?;
        let frame = tagged(numbered(centre, M, 1, 60), CUSTOMER, vlan);
        stations[speaker].port.send(&frame)?;
        until(&mut stations[2].port, &frame)?;
    }
    let m = format_mac(M);
    segment.wait_place(2, 10, &m, "gw-a", SOON)?;
    segment.wait_place(2, 20, &m, "gw-b", SOON)?;
    ensure(segment.place(2, 0, &m)?.is_none(), || "it is known without a VLAN too".into())?;
    let seq: Vec<_> = [10, 20].into_iter().map(|vlan| segment.place(2, vlan, &m)).collect::<Result<_, _>>()?;
    ensure(seq.iter().flatten().all(|(_, seq)| *seq == 0), || format!("M counts as moved: {seq:?}"))?;
    // Each goes to its own owner. The priority does not matter for that.
    stations[2].port.send(&tagged(numbered(M, centre, 10, 60), CUSTOMER, 0x600a))?;
    stations[2].port.send(&tagged(numbered(M, centre, 20, 60), CUSTOMER, 20))?;
    let last = numbered(BROADCAST, centre, 99, 60);
    stations[2].port.send(&last)?;
    for (station, number) in [(0, 10), (1, 20)] {
        let seen = until(&mut stations[station].port, &last)?;
        let vlan_frames: Vec<_> = seen.iter().filter(|frame| frame[..6] == M).collect();
        let expected = [tagged(numbered(M, centre, number, 60), CUSTOMER, if number == 10 { 0x600a } else { 20 })];
        ensure(vlan_frames.iter().copied().eq(&expected), || format!("c{station} got {vlan_frames:02x?}"))?;
    }
    // In a VLAN where M is not known it is flooded, as always.
    stations[2].port.send(&numbered(M, centre, 30, 60))?;
    stations[2].port.send(&numbered(BROADCAST, centre, 31, 60))?;
    for station in &mut stations[..2] {
        let seen = until(&mut station.port, &numbered(BROADCAST, centre, 31, 60))?;
        ensure(numbers(&seen) == [30], || format!("{} got {seen:02x?}", station.container.name()))?;
    }
    Ok(())
}

/// A question in VLAN 10 is put in VLAN 10, and so is its answer; what VLAN 20 knows does not count.
fn resolved() -> Outcome {
    let segment = Segment::start(&Lab::builder().gateways(3).without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    let (asker, owner) = (stations[0].mac, stations[1].mac);
    let (ip, target) = ("10.0.3.3".parse()?, "10.0.3.104".parse()?);
    let request = tagged(Arp::request(asker, ip, target).frame(), CUSTOMER, 10);
    // c2 has the same address in another VLAN.
    let other = Arp::request(stations[2].mac, target, target).frame();
    stations[2].port.send(&tagged(other, CUSTOMER, 20))?;
    stations[0].port.send(&request)?;
    let is_question = |frame: &[u8]| {
        frame[12..16] == [0x81, 0, 0, 10]
            && Arp::parse(&[&frame[..12], &frame[16..]].concat()).is_some_and(|arp| arp.target_ip == target)
    };
    let (frames, asked) = stations[1].port.capture_until(SOON, is_question)?;
    ensure(asked, || format!("the owner was not asked: {frames:02x?}"))?;
    let question = &frames[frames.len() - 1];
    ensure(question[6..12] == asker, || format!("it was asked in another's name: {question:02x?}"))?;
    let answer = tagged(Arp::reply(owner, target, asker, ip).frame(), CUSTOMER, 10);
    stations[1].port.send(&answer)?;
    let is_answer = |frame: &[u8]| {
        let arp = Arp::parse(&[&frame[..12], frame.get(16..).unwrap_or_default()].concat());
        frame[12..16] == [0x81, 0, 0, 10] && arp.is_some_and(|arp| arp.sender_ip == target && arp.sender_mac == owner)
    };
    let (frames, answered) = stations[0].port.capture_until(SOON, is_answer)?;
    ensure(answered, || format!("the asker got no answer: {frames:02x?}"))
}
