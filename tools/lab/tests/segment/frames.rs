//! Frames of every kind arrive octet for octet, and those that no bridge forwards do not.
//!
//! ```text
//!   c0 -- lxcbr0 -- ipop -- gw-a ===== gw-b -- ipop -- lxcbr0 -- c1
//!                    ^                          ^
//!                    +-- raw ports on the TAPs -+   where the bridge itself would filter
//! ```

use ipop_lab::Lab;
use ipop_lab::arp::{BROADCAST, Mac};

use crate::Test;
use crate::support::{Outcome, Segment, ensure, ethernet, numbered, until};

pub(crate) const TESTS: &[Test] = &[
    Test::new("short_frames_arrive_as_they_are", short),
    Test::new("unknown_ethertypes_arrive_as_they_are", strange),
    Test::new("llc_and_802_3_frames_arrive_as_they_are", llc),
    Test::new("frames_of_every_length_arrive_as_they_are", lengths),
    Test::new("pause_frames_stay_local_and_other_groups_do_not", reserved),
    Test::new("a_group_address_is_no_source", bad_source),
];

/// Sends frames from c0 and expects the same, and nothing else, at c1.
fn carries(frames: impl Fn(Mac, Mac) -> Vec<Vec<u8>>) -> Outcome {
    let segment = Segment::start(&Lab::builder().without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    let frames = frames(stations[1].mac, stations[0].mac);
    for frame in &frames {
        stations[0].port.send(frame)?;
    }
    let last = numbered(BROADCAST, stations[0].mac, u32::MAX, 60);
    stations[0].port.send(&last)?;
    let seen = until(&mut stations[1].port, &last)?;
    for (sent, seen) in frames.iter().zip(&seen) {
        ensure(sent == seen, || format!("{sent:02x?} became {seen:02x?}"))?;
    }
    ensure(frames.len() == seen.len(), || format!("{} frames became {}", frames.len(), seen.len()))
}

/// A TAP does not pad, so neither does the switch: 14 octets are a frame.
fn short() -> Outcome {
    carries(|to, from| {
        let known = (14..=60).map(|length| {
            let payload: Vec<u8> = (14..length).map(|at| at as u8).collect();
            ethernet(to, from, 0x88b6, &payload)
        });
        let everyone = (14..=60).step_by(5).map(|length| ethernet(BROADCAST, from, 0x88b6, &vec![0xa5; length - 14]));
        known.chain(everyone).collect()
    })
}

fn strange() -> Outcome {
    carries(|to, from| {
        let kinds = [0x0600, 0x0801, 0x1234, 0x22f3, 0x6003, 0x8035, 0x809b, 0x8137, 0x8847, 0x8863, 0x88a2, 0x88e5];
        let kinds = kinds.into_iter().chain([0x88f7, 0x8906, 0x9000, 0xfffe, 0xffff]);
        kinds.map(|kind| ethernet(to, from, kind, &[kind as u8; 200])).collect()
    })
}

/// The field behind the addresses is a length there: spanning tree over SNAP, IPX, NetBIOS.
fn llc() -> Outcome {
    carries(|to, from| {
        let snap = [&[0xaa, 0xaa, 0x03, 0x00, 0x00, 0x0c, 0x01, 0x0b][..], &[7; 40]].concat();
        let netbios = [&[0xf0, 0xf0, 0x03][..], &[9; 80]].concat();
        let raw_ipx = [0xff; 30];
        let large = [0x42; 1500];
        let mut frames: Vec<Vec<u8>> = [&snap[..], &netbios, &raw_ipx, &large]
            .into_iter()
            .map(|body| ethernet(to, from, body.len() as u16, body))
            .collect();
        // Padding behind the length that the frame tells.
        frames.push([ethernet(to, from, 3, &[0xe0, 0xe0, 0x03]), vec![0; 43]].concat());
        frames.push(ethernet([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd], from, 48, &snap));
        frames.push(ethernet(to, from, 0, &[0; 46]));
        frames
    })
}

/// Around every border: what is copied and what is gathered, one datagram and two pieces.
fn lengths() -> Outcome {
    carries(|to, from| {
        let lengths = (60..130).chain(500..530).chain(1180..1260).chain(1400..=1514);
        (0..).zip(lengths).map(|(number, length)| numbered(to, from, number, length)).collect()
    })
}

/// Through the TAPs: the kernel's bridge keeps most of these for itself, and what it hands on is carried, but for pause frames.
fn reserved() -> Outcome {
    let segment = Segment::start(&Lab::builder().without_inner_ipv6())?;
    let (here, mut there) = (segment.tap(0)?, segment.tap(1)?);
    let from = [0x02, 0, 0, 0, 0xaa, 1];
    let group = |low| numbered([0x01, 0x80, 0xc2, 0, 0, low], from, u32::from(low), 60);
    for low in 0..16 {
        here.send(&group(low))?;
    }
    // The neighbours of the block are ordinary groups: 01:80:c2:00:00:10, and GARP's.
    let ordinary = [
        numbered([0x01, 0x80, 0xc2, 0, 0, 0x10], from, 100, 60),
        numbered([0x01, 0x80, 0xc2, 0, 0, 0x21], from, 101, 60),
        numbered([0x01, 0x80, 0xc2, 0, 1, 0x00], from, 102, 60),
    ];
    for frame in &ordinary {
        here.send(frame)?;
    }
    let last = numbered(BROADCAST, from, 103, 60);
    here.send(&last)?;
    let seen = until(&mut there, &last)?;
    let carried: Vec<_> = (0..16).filter(|low| *low != 1).map(group).chain(ordinary).collect();
    ensure(seen == carried, || format!("gw-b wrote {seen:02x?}"))?;
    let dropped = segment.counter(0, "/drops/bridge_reserved")?;
    ensure(dropped == 1, || format!("bridge_reserved is {dropped}"))
}

fn bad_source() -> Outcome {
    let segment = Segment::start(&Lab::builder().without_inner_ipv6())?;
    let (here, mut there) = (segment.tap(0)?, segment.tap(1)?);
    let sources = [BROADCAST, [0x01, 0x00, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [0x03, 0, 0, 0, 0, 1], [0; 6]];
    for (number, source) in (0..).zip(sources) {
        here.send(&numbered(BROADCAST, source, number, 60))?;
    }
    let last = numbered(BROADCAST, [0x02, 0, 0, 0, 0xaa, 1], 99, 60);
    here.send(&last)?;
    let seen = until(&mut there, &last)?;
    ensure(seen.is_empty(), || format!("gw-b wrote {seen:02x?}"))?;
    let dropped = segment.counter(0, "/drops/bad_source")?;
    ensure(dropped == sources.len() as u64, || format!("bad_source is {dropped}"))?;
    let macs = segment.daemons[0].status("macs")?.to_string();
    ensure(!macs.contains("ff:ff") && !macs.contains("01:00:5e"), || format!("a group was learned: {macs}"))
}
