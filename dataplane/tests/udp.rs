//! UDP through two workers, or one and a peer that the test plays: merged, cut and joined, and always the same datagrams.
//!
//! ```text
//!   frames ── worker A ── worker B ──► frames and super-frames ── reference ──► datagrams
//!     └──────────────────── reference ─────────────────────────────────────► datagrams
//! ```

use std::time::Duration;

use ipop_dataplane::datagram::record::{self, FramePrefix};
use ipop_dataplane::datagram::segment::SuperFrame;
use ipop_dataplane::ending::Ending;
use ipop_dataplane::offloads::Offloads;
use ipop_dataplane::wire::{Frame, VnetHeader, vnet};
use pair::{Kind, Peer, SOURCE, Side, TARGET, pair, pair_of};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reference::udp::{Datagram, Oddity, Sum, datagrams, set_id, trains};

mod pair;
mod reference;

const PATIENCE: Duration = Duration::from_secs(5);

/// From the station at A to the one at B.
fn addressed(datagram: &Datagram) -> Vec<u8> {
    let mut frame = datagram.frame();
    frame[..6].copy_from_slice(&TARGET.0);
    frame[6..12].copy_from_slice(&SOURCE.0);
    frame
}

fn datagram(len: usize) -> Datagram {
    Datagram {
        v6: false,
        tags: 0,
        ports: [40_000, 5001],
        id: 7,
        dont_fragment: true,
        tos: 0,
        ttl: 64,
        sum: Sum::Partial,
        oddity: Oddity::None,
        payload: (0..len).map(|i| (i % 251) as u8).collect(),
        gso_size: 0,
    }
}

/// What `b` writes to its port until `count` datagrams are there: by write.
fn receive(a: &Side, b: &Side, count: usize) -> Vec<Vec<Vec<u8>>> {
    let (mut writes, mut seen) = (Vec::new(), 0);
    while seen < count {
        let received = b.receive(PATIENCE);
        let (vnet, frame) = received.unwrap_or_else(|| panic!("{seen} of {count}; {:?} {:?}", a.drops(), b.drops()));
        let cut = datagrams(&frame, &vnet);
        seen += cut.len();
        writes.push(cut);
    }
    assert_eq!(seen, count, "nothing arrives twice");
    writes
}

/// Frame records, packed into datagrams of one size.
fn packed(peer: &mut Peer, lane: u8, frames: &[(VnetHeader, Vec<u8>)], per_datagram: usize) -> Vec<Vec<u8>> {
    let pack = |frames: &[(VnetHeader, Vec<u8>)]| {
        let records = frames.iter().flat_map(|(vnet, frame)| {
            let prefix = FramePrefix::new(frame.len(), vnet.partial_checksum()).unwrap();
            [prefix.bytes(), frame].concat()
        });
        peer.datagram(lane, &records.collect::<Vec<u8>>())
    };
    frames.chunks(per_datagram).map(pack).collect()
}

/// Frame records, as many as fit datagrams of 9000 octets, filled up so that they make trains.
fn packed_full(peer: &mut Peer, frames: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    const RECORDS: usize = 9000;
    let (mut bodies, mut open) = (Vec::new(), Vec::new());
    for (vnet, frame) in frames {
        let prefix = FramePrefix::new(frame.len(), vnet.partial_checksum()).unwrap();
        // Room for the header of the filling stays.
        if open.len() + prefix.bytes().len() + frame.len() + 4 > RECORDS {
            let gap = RECORDS - open.len() - 4;
            record::emit(&mut open, record::PAD, 0, &vec![0; gap]);
            bodies.push(std::mem::take(&mut open));
        }
        open.extend_from_slice(prefix.bytes());
        open.extend_from_slice(frame);
    }
    bodies.push(open);
    bodies.iter().map(|body| peer.datagram(0, body)).collect()
}

type Train = Vec<(Datagram, bool)>;

/// Sends random trains; how many frames there were, and how many of them were merged.
fn check_trains(a: &Side, b: &Side, mut send: impl FnMut(&[(VnetHeader, Vec<u8>)])) -> (usize, usize) {
    let mut runner = TestRunner::deterministic();
    let (mut sent, mut merged) = (0, 0);
    for _ in 0..60 {
        let train: Train = trains(0..3).new_tree(&mut runner).unwrap().current();
        let frames: Vec<_> = train.iter().map(|(datagram, _)| (datagram.vnet(), addressed(datagram))).collect();
        send(&frames);
        let writes = receive(a, b, frames.len());
        merged += frames.len() - writes.len();
        sent += frames.len();
        for (((datagram, atomic), (vnet, frame)), mut arrived) in train.iter().zip(&frames).zip(writes.concat()) {
            let sent = &datagrams(frame, vnet)[0];
            if *atomic && arrived != *sent {
                set_id(&mut arrived, datagram.l3(), datagram.id);
            }
            assert!(arrived == *sent, "{datagram:?}\n{arrived:02x?} instead of\n{sent:02x?}");
        }
    }
    assert_eq!(b.drops(), vec![]);
    b.wait_counted(Ending::Delivered, sent as u64);
    (sent, merged)
}

#[test]
fn trains_arrive_as_they_were_and_in_order() {
    for max_datagram in [1232, 1472, 8972] {
        let [a, b] = pair(max_datagram);
        // How many come in one batch, and so how many are merged, depends on the machine.
        check_trains(&a, &b, |frames| frames.iter().for_each(|(vnet, frame)| a.send(vnet, frame)));
        assert_eq!(a.drops(), vec![]);
    }
}

#[test]
fn what_is_merged_is_what_was_sent() {
    let [a, b] = pair(1472);
    let mut peer = Peer::of(&b);
    let (sent, merged) = check_trains(&a, &b, |frames| {
        for train in packed_full(&mut peer, frames).chunks(7) {
            peer.send(train);
        }
    });
    assert!(merged * 3 > sent, "{merged} of {sent} merged");
}

#[test]
fn a_run_is_one_write() {
    let [a, b] = pair(1472);
    let mut peer = Peer::of(&b);
    // What follows must not depend on whether the checksum is finished.
    for (v6, sum) in [(false, Sum::Partial), (false, Sum::Complete), (true, Sum::Partial), (true, Sum::Complete)] {
        let mut frames: Vec<_> = (0..100)
            .map(|n| {
                let datagram = Datagram { v6, sum, id: 7 + n, payload: vec![n as u8; 64], ..datagram(0) };
                (datagram.vnet(), addressed(&datagram))
            })
            .collect();
        let short = Datagram { v6, sum, id: 107, payload: vec![9; 10], ..datagram(0) };
        frames.push((short.vnet(), addressed(&short)));
        frames.push((short.vnet(), addressed(&short)));
        let train = packed(&mut peer, 0, &frames, 10);
        peer.send(&train);
        let writes = receive(&a, &b, 102);
        let lens: Vec<_> = writes.iter().map(Vec::len).collect();
        assert_eq!(lens, [64, 37, 1], "a shorter one ends the run");
        let sent: Vec<_> = frames.iter().flat_map(|(vnet, frame)| datagrams(frame, vnet)).collect();
        assert!(writes.concat() == sent);
    }
    b.wait_counted(Ending::Delivered, 4 * 102);
    // Their octets count too, as those of as many frames.
    let octets = 2 * (100 * (64 + 42) + 2 * (10 + 42)) + 2 * (100 * (64 + 62) + 2 * (10 + 62));
    assert_eq!(b.worker.stats.peers[0].rx_bytes.load(std::sync::atomic::Ordering::Relaxed), octets);
}

#[test]
fn what_is_not_merged() {
    let port = |port| move |d: &mut Datagram| d.ports[1] = port;
    type Change = Box<dyn Fn(&mut Datagram)>;
    let both = |change: Change| [Box::new(|_: &mut Datagram| ()) as Change, change];
    let cases: Vec<(&str, Offloads, [u8; 2], [Change; 2])> = vec![
        ("one flow", Offloads::ALL, [0, 0], both(Box::new(|_| ()))),
        ("a port without USO", Offloads::WITHOUT_USO, [0, 0], both(Box::new(|_| ()))),
        ("merging is off", Offloads { udp_merge: false, ..Offloads::ALL }, [0, 0], both(Box::new(|_| ()))),
        ("two lanes", Offloads::ALL, [0, 1], both(Box::new(|_| ()))),
        ("DHCP", Offloads::ALL, [0, 0], [Box::new(port(68)), Box::new(port(68))]),
        ("DHCPv6", Offloads::ALL, [0, 0], [Box::new(port(546)), Box::new(port(546))]),
        ("another port", Offloads::ALL, [0, 0], both(Box::new(port(9)))),
        ("another TTL", Offloads::ALL, [0, 0], both(Box::new(|d| d.ttl = 63))),
        ("congestion experienced", Offloads::ALL, [0, 0], both(Box::new(|d| d.tos = 3))),
        ("one larger", Offloads::ALL, [0, 0], both(Box::new(|d| d.payload.push(1)))),
        ("one without a checksum", Offloads::ALL, [0, 0], both(Box::new(|d| d.sum = Sum::Zero))),
        ("one with a wrong checksum", Offloads::ALL, [0, 0], both(Box::new(|d| d.sum = Sum::Wrong))),
        ("an identification that jumps", Offloads::ALL, [0, 0], both(Box::new(|d| d.id = 9))),
        ("one that goes back", Offloads::ALL, [0, 0], both(Box::new(|d| d.id = 6))),
        ("DF and not", Offloads::ALL, [0, 0], both(Box::new(|d| d.dont_fragment = false))),
    ];
    for (name, offloads, lanes, changes) in cases {
        let [a, b] = pair_of(1472, Kind { offloads, ..Kind::default() });
        let mut peer = Peer::of(&b);
        let train: Vec<_> = lanes
            .into_iter()
            .zip(changes)
            .map(|(lane, change)| {
                let mut datagram = datagram(100);
                change(&mut datagram);
                packed(&mut peer, lane, &[(datagram.vnet(), addressed(&datagram))], 1).remove(0)
            })
            .collect();
        // Two trains if the second is larger, and then perhaps two batches; nothing may be merged in any case.
        if train[1].len() > train[0].len() {
            train.iter().for_each(|d| peer.send(std::slice::from_ref(d)))
        } else {
            peer.send(&train)
        }
        let writes = receive(&a, &b, 2);
        assert_eq!(writes.len(), if name == "one flow" { 1 } else { 2 }, "{name}");
    }
}

/// A super-frame of `len` octets of payload.
fn super_frames() -> impl Strategy<Value = Datagram> {
    (any::<bool>(), 1usize..64_000, 1u16..9000, any::<u16>(), any::<bool>(), 0u8..10).prop_map(
        |(v6, len, gso_size, id, dont_fragment, odd)| {
            let oddity = if odd == 0 { Oddity::Options } else { Oddity::None };
            // Not more than the kernel makes.
            let gso_size = gso_size.max((len / 128 + 1) as u16);
            Datagram { v6, id, dont_fragment, oddity, gso_size, ..datagram(len.max(usize::from(gso_size) + 1)) }
        },
    )
}

#[test]
fn super_frames_arrive_as_the_same_datagrams() {
    for offloads in [Offloads::ALL, Offloads::WITHOUT_USO] {
        for max_datagram in [1232, 1472, 8972] {
            let [a, b] = pair_of(max_datagram, Kind { offloads, ..Kind::default() });
            let mut runner = TestRunner::deterministic();
            for _ in 0..60 {
                let sent = super_frames().new_tree(&mut runner).unwrap().current();
                let (vnet, frame) = (sent.vnet(), addressed(&sent));
                let expected = datagrams(&frame, &vnet);
                a.send(&vnet, &frame);
                let writes = receive(&a, &b, expected.len());
                assert!(offloads.uso || writes.len() == expected.len(), "no super-frame");
                assert!(writes.concat() == expected, "{sent:?}");
            }
            assert_eq!((a.drops(), b.drops()), (vec![], vec![]));
        }
    }
}

#[test]
fn a_super_frame_is_few_writes() {
    let [a, b] = pair(1472);
    let sent = Datagram { gso_size: 1400, ..datagram(44 * 1400) };
    for _ in 0..20 {
        a.send(&sent.vnet(), &addressed(&sent));
        let writes = receive(&a, &b, 44);
        // It takes two trains, which may be two batches.
        assert!(writes.len() <= 3, "{}", writes.len());
    }
}

#[test]
fn a_dhcp_client_gets_finished_checksums_and_no_super_frame() {
    let [a, b] = pair(1472);
    for port in [68, 546] {
        let sent = Datagram { v6: port == 546, ports: [67, port], gso_size: 301, ..datagram(1000) };
        a.send(&sent.vnet(), &addressed(&sent));
        for expected in datagrams(&addressed(&sent), &sent.vnet()) {
            let (vnet, frame) = b.receive(PATIENCE).expect("it arrives");
            assert_eq!(vnet, VnetHeader::default());
            assert!(frame == expected);
        }
    }
    // Nobody may make thousands of frames of one.
    let sent = Datagram { ports: [67, 68], gso_size: 1, ..datagram(1000) };
    a.send(&sent.vnet(), &addressed(&sent));
    assert!(b.receive(Duration::from_millis(50)).is_none());
    assert_eq!(a.drops(), [("frame_metadata", 1)]);
}

/// Super-frames that contradict themselves.
#[test]
fn odd_super_frames_are_counted() {
    let [a, b] = pair(1472);
    let good = Datagram { gso_size: 500, ..datagram(2000) };
    let frame = addressed(&good);
    let no_checksum = VnetHeader { flags: 0, ..good.vnet() };
    let mut elsewhere = good.vnet();
    elsewhere.csum_offset.set(16);
    let mut no_size = good.vnet();
    no_size.gso_size.set(0);
    let tcp = VnetHeader { gso_type: vnet::GSO_TCPV4, ..good.vnet() };
    for header in [no_checksum, elsewhere, no_size, tcp] {
        a.send(&header, &frame);
    }
    let fragment = Datagram { oddity: Oddity::Fragment, ..good.clone() };
    a.send(&fragment.vnet(), &addressed(&fragment));
    a.send(&good.vnet(), &frame);
    assert!(receive(&a, &b, 4).concat() == datagrams(&frame, &good.vnet()), "the good one behind them arrives");
    assert_eq!((a.drops(), b.drops()), (vec![("frame_metadata", 5)], vec![]));
}

#[test]
fn lost_and_reordered_slices_cost_only_themselves() {
    let [a, b] = pair(1472);
    let mut peer = Peer::of(&b);
    let mut runner = TestRunner::deterministic();
    let order = (proptest::collection::vec(any::<bool>(), 128), proptest::collection::vec(0usize..3, 128));
    for number in 0..80 {
        let sent = super_frames().new_tree(&mut runner).unwrap().current();
        let (lost, moved) = order.new_tree(&mut runner).unwrap().current();
        let (vnet, frame) = (sent.vnet(), addressed(&sent));
        let expected = datagrams(&frame, &vnet);
        let parsed = Frame::parse(&frame).unwrap();
        let super_frame = SuperFrame::new(&parsed, &vnet).unwrap();
        let slice = super_frame.slice_len(9000.max(sent.payload.len() / 40)).unwrap();
        assert!(slice.is_multiple_of(usize::from(sent.gso_size)));
        let mut slices: Vec<(Vec<u8>, &[Vec<u8>])> = Vec::new();
        let per_slice = slice / usize::from(sent.gso_size);
        for (index, offset) in (0..sent.payload.len()).step_by(slice).enumerate() {
            let part = &sent.payload[offset..sent.payload.len().min(offset + slice)];
            let mut record = vec![0; super_frame.prefix_len()];
            super_frame.write_prefix(&mut record, number, offset, part.len());
            record.extend_from_slice(part);
            let first = index * per_slice;
            slices.push((record, &expected[first..expected.len().min(first + per_slice)]));
        }
        // In every second round all come, in the wrong order.
        let mut keep = lost.iter().map(|lost| number % 2 == 0 || !lost);
        slices.retain(|_| keep.next().unwrap_or(true));
        for (at, by) in moved.iter().take(slices.len()).enumerate() {
            let with = (at + by).min(slices.len() - 1);
            slices.swap(at, with);
        }
        for (record, _) in &slices {
            // One by one: some would not fit a train.
            let datagram = peer.datagram(0, record);
            peer.send(&[datagram]);
        }
        let arrives: Vec<_> = slices.iter().flat_map(|(_, datagrams)| datagrams.iter().cloned()).collect();
        let writes = receive(&a, &b, arrives.len());
        assert!(writes.concat() == arrives, "{sent:?}");
    }
    assert_eq!(b.drops(), vec![]);
}
