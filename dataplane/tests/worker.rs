//! Two workers back to back: see [`pair`].

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ipop_dataplane::addr::Vlan;
use ipop_dataplane::datagram::segment::SuperFrame;
use ipop_dataplane::ending::Ending;
use ipop_dataplane::event::{Event, Notice};
use ipop_dataplane::feature::EngineChoice;
use ipop_dataplane::peers::PeerTable;
use ipop_dataplane::port::PortKind;
use ipop_dataplane::session::{Cipher, Incoming};
use ipop_dataplane::wire::{VnetHeader, ethernet::emit_header};
use ipop_dataplane::worker::Waiting;
use pair::{Kind, Peer, SOURCE, Side, TARGET, pair_of};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reference::{guests, reference};

mod pair;
mod reference;

/// Every test in every mode.
macro_rules! in_modes {
    ($tests:tt $($name:ident $engine:ident $udp_gso:literal $cipher:expr;)+) => {
        $(in_modes!(@mode $name $engine $udp_gso $cipher; $tests);)+
    };
    (@mode $name:ident $engine:ident $udp_gso:literal $cipher:expr; [$($test:ident),+ $(,)?]) => {
        mod $name {
            #[allow(unused_imports)]
            use super::{Cipher, EngineChoice, Kind};
            $(#[test]
            fn $test() {
                let kind = Kind { engine: EngineChoice::$engine, udp_gso: $udp_gso, cipher: $cipher, ..Kind::default() };
                super::$test(kind);
            })+
        }
    };
}

in_modes!(
    [
        every_frame_arrives_as_it_was_and_in_order,
        every_way_of_waiting_ends_when_a_frame_comes,
        super_frames_arrive_as_the_same_segments,
        slices_of_two_lanes_are_not_joined,
        garbage_is_counted_and_harmless,
        a_port_that_ends_is_reported,
        an_idle_worker_lets_go_of_old_keys_when_it_is_woken,
    ]
    io_uring IoUring true None;
    system_calls Calls true None;
    io_uring_without_gso IoUring false None;
    system_calls_without_gso Calls false None;
);

in_modes!(
    [every_frame_arrives_as_it_was_and_in_order, super_frames_arrive_as_the_same_segments]
    io_uring_sealed IoUring true Some(Cipher::Aes256Gcm);
    system_calls_sealed Calls true Some(Cipher::ChaCha20Poly1305);
    io_uring_sealed_without_gso IoUring false Some(Cipher::ChaCha20Poly1305);
);

/// A frame that is nobody's protocol, with its number in it.
fn plain(len: usize, number: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    emit_header(&mut frame, TARGET, SOURCE, Vlan::UNTAGGED, 0x88b5);
    frame.extend((0..len).map(|i| (i.wrapping_mul(31) ^ number) as u8));
    frame
}

fn every_frame_arrives_as_it_was_and_in_order(kind: Kind) {
    let paths = [508, 1232, 1472, 8972].map(|max_datagram| (PortKind::Tap, max_datagram));
    for (port, max_datagram) in paths.into_iter().chain([(PortKind::Packet, 1472)]) {
        let [a, b] = pair_of(max_datagram, Kind { port, ..kind });
        let mut runner = TestRunner::deterministic();
        let sizes = proptest::collection::vec(
            prop_oneof![3 => 0usize..200, 2 => 1000usize..1500, 1 => 1500usize..9000, 1 => 30_000usize..65_000],
            150,
        );
        let sizes = sizes.new_tree(&mut runner).unwrap().current();
        let frames: Vec<_> = sizes.iter().enumerate().map(|(n, len)| plain(*len, n)).collect();
        for burst in frames.chunks(25) {
            for frame in burst {
                a.send(&VnetHeader::default(), frame);
            }
            for frame in burst {
                let (vnet, arrived) = b
                    .receive(Duration::from_secs(5))
                    .unwrap_or_else(|| panic!("lost; {:?} {:?}", a.drops(), b.drops()));
                assert_eq!(vnet, VnetHeader::default());
                assert!(arrived == *frame, "{} octets arrived instead of {}", arrived.len(), frame.len());
            }
        }
        assert!(b.receive(Duration::from_millis(20)).is_none(), "nothing arrives twice");
        assert_eq!((a.drops(), b.drops()), (vec![], vec![]));
        b.wait_counted(Ending::Delivered, 150);
    }
}

/// Containers keep an MTU that the path does not carry: each of their full frames needs a little more than a datagram.
#[test]
fn frames_that_do_not_fit_fill_their_datagrams() {
    const FRAMES: usize = 200;
    // So that batches gather.
    let waiting = Waiting { spin: Duration::ZERO, min_wait: Duration::from_millis(1) };
    for cipher in [None, Some(Cipher::Aes256Gcm)] {
        let [a, b] = pair_of(1472, Kind { waiting, cipher, ..Kind::default() });
        let frames: Vec<_> = (0..FRAMES).map(|number| plain(1500, number)).collect();
        frames.iter().for_each(|frame| a.send(&VnetHeader::default(), frame));
        for frame in &frames {
            let (_, arrived) = b.receive(Duration::from_secs(5)).unwrap_or_else(|| panic!("lost; {:?}", b.drops()));
            assert!(arrived == *frame);
        }
        let datagrams = a.worker.stats.peers[0].tx_datagrams.load(std::sync::atomic::Ordering::Relaxed) as usize;
        assert!(datagrams < FRAMES * 5 / 4, "{datagrams} datagrams for {FRAMES} frames");
    }
}

fn every_way_of_waiting_ends_when_a_frame_comes(kind: Kind) {
    for (spin, min_wait) in [(0, 0), (1000, 0), (0, 1000), (200, 200)] {
        let [spin, min_wait] = [spin, min_wait].map(Duration::from_micros);
        let [a, b] = pair_of(1472, Kind { waiting: Waiting { spin, min_wait }, ..kind });
        for number in 0..50 {
            a.send(&VnetHeader::default(), &plain(100, number));
            let (_, arrived) = b.receive(Duration::from_secs(5)).unwrap_or_else(|| panic!("{spin:?} {min_wait:?}"));
            assert_eq!(arrived, plain(100, number));
            // Now and then longer than any of them looks.
            std::thread::sleep(Duration::from_micros(if number % 10 == 0 { 3000 } else { 20 }));
        }
    }
}

fn super_frames_arrive_as_the_same_segments(kind: Kind) {
    for (port, max_datagram) in
        [(PortKind::Tap, 1232), (PortKind::Tap, 1472), (PortKind::Tap, 8972), (PortKind::Packet, 1472)]
    {
        let [a, b] = pair_of(max_datagram, Kind { port, ..kind });
        let mut runner = TestRunner::deterministic();
        for _ in 0..40 {
            let mut guest = guests().new_tree(&mut runner).unwrap().current();
            guest.tags = 0;
            let mut frame = guest.frame();
            frame[..6].copy_from_slice(&TARGET.0);
            frame[6..12].copy_from_slice(&SOURCE.0);
            a.send(&guest.vnet(), &frame);
            let expected: Vec<u8> = reference(&frame, &guest.vnet(), guest.l3(), guest.v6)
                .iter()
                .flat_map(|segment| segment[guest.headers_len()..].to_vec())
                .collect();
            let mut payload = Vec::new();
            while payload.len() < expected.len() {
                let (vnet, arrived) = b
                    .receive(Duration::from_secs(5))
                    .unwrap_or_else(|| panic!("lost; {:?} {:?}", a.drops(), b.drops()));
                for segment in reference(&arrived, &vnet, guest.l3(), guest.v6) {
                    let at = guest.l4() + 4;
                    let seq = u32::from_be_bytes(segment[at..at + 4].try_into().unwrap());
                    assert_eq!(seq.wrapping_sub(guest.seq) as usize, payload.len(), "in order, nothing missing");
                    payload.extend_from_slice(&segment[guest.headers_len()..]);
                }
            }
            assert!(payload == expected);
        }
        assert_eq!((a.drops(), b.drops()), (vec![], vec![]));
    }
}

/// A peer with several workers numbers its super-frames per lane: equal numbers of two lanes are two super-frames.
fn slices_of_two_lanes_are_not_joined(kind: Kind) {
    let [a, b] = pair_of(1472, kind);
    let mut peer = Peer::of(&b);
    let mut runner = TestRunner::deterministic();
    let mut guest = guests().new_tree(&mut runner).unwrap().current();
    (guest.tags, guest.payload, guest.gso_size) = (0, vec![1; 4000], 1000);
    let mut other = guest.clone();
    other.payload = vec![2; 4000];
    let mut slice = |guest: &reference::Guest, lane, offset: usize| {
        let mut frame = guest.frame();
        frame[..6].copy_from_slice(&TARGET.0);
        frame[6..12].copy_from_slice(&SOURCE.0);
        let parsed = ipop_dataplane::wire::Frame::parse(&frame).unwrap();
        let super_frame = SuperFrame::new(&parsed, &guest.vnet()).unwrap();
        let mut record = vec![0; super_frame.prefix_len()];
        super_frame.write_prefix(&mut record, 7, offset, 1000);
        record.extend_from_slice(&super_frame.payload[offset..offset + 1000]);
        peer.datagram(lane, &record)
    };
    let datagrams = [slice(&guest, 0, 0), slice(&other, 1, 1000), slice(&other, 1, 2000)];
    peer.send(&datagrams);
    let mut seen = Vec::new();
    while seen.iter().map(Vec::len).sum::<usize>() < 3000 {
        let (_, frame) = b.receive(Duration::from_secs(5)).expect("all slices arrive");
        seen.push(frame[guest.headers_len()..].to_vec());
    }
    assert!(seen.iter().all(|payload| payload.iter().all(|octet| *octet == payload[0])), "no frame has octets of both");
    drop(a);
}

fn garbage_is_counted_and_harmless(kind: Kind) {
    let [a, b] = pair_of(1472, kind);
    // Frames that no guest should send.
    a.send(&VnetHeader::default(), &[1, 2, 3]);
    a.send(&VnetHeader { flags: 1, ..VnetHeader::default() }, &plain(100, 1));
    let mut group_source = plain(60, 1);
    group_source[6] |= 1;
    a.send(&VnetHeader::default(), &group_source);
    let mut reserved = plain(60, 1);
    reserved[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, 3]);
    a.send(&VnetHeader::default(), &reserved);
    a.send(&VnetHeader::default(), &plain(60, 7));
    assert_eq!(b.receive(Duration::from_secs(5)).unwrap().1, plain(60, 7), "the good one behind them arrives");
    for ending in [Ending::FrameTruncated, Ending::FrameMetadata, Ending::BadSource, Ending::BridgeReserved] {
        a.wait_counted(ending, 1);
    }
}

fn an_idle_worker_lets_go_of_old_keys_when_it_is_woken(kind: Kind) {
    let [a, b] = pair_of(1472, kind);
    let mailbox = &b.worker.mailbox;
    let mut old = Weak::new();
    for round in 0..20 {
        let mut table = PeerTable::clone(&b.table);
        let session = Arc::new(Incoming::new(round, None));
        table.peers[0].incoming.push(session.clone());
        mailbox.publish(Arc::new(table));
        b.worker.wake().unwrap();
        let previous = std::mem::replace(&mut old, Arc::downgrade(&session));
        drop(session);
        let end = Instant::now() + Duration::from_secs(5);
        while previous.strong_count() > 0 {
            assert!(Instant::now() < end, "the session is still there, round {round}");
            std::thread::sleep(Duration::from_millis(1));
            mailbox.collect();
        }
    }
    // It goes on with its work.
    a.send(&VnetHeader::default(), &plain(60, 7));
    assert_eq!(b.receive(Duration::from_secs(5)).expect("a frame").1, plain(60, 7));
    assert_eq!(b.drops(), []);
}

fn a_port_that_ends_is_reported(kind: Kind) {
    let [a, b] = pair_of(1472, kind);
    drop(b);
    let Side { port, worker, events, .. } = a;
    drop(port);
    let end = Instant::now() + Duration::from_secs(5);
    let failed = loop {
        match events.pop() {
            Some(Event::Notice(Notice::Failed(reason))) => break Some(reason),
            Some(_) => {}
            None if Instant::now() > end => break None,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    assert!(failed.is_some());
    drop(worker);
}
