//! Two workers back to back, without root: a socket pair stands for each TAP, the loopback for the underlay.
//!
//! ```text
//!   test ── seqpacket pair ── worker A ══ UDP on 127.0.0.1 ══ worker B ── seqpacket pair ── test
//! ```

use std::io::{ErrorKind, IoSlice};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipop_dataplane::addr::{MacAddr, PeerId, Vlan};
use ipop_dataplane::datagram::segment::SuperFrame;
use ipop_dataplane::datagram::{DATA, DatagramHeader};
use ipop_dataplane::ending::Ending;
use ipop_dataplane::event::{Event, Events, Wake};
use ipop_dataplane::feature::EngineChoice;
use ipop_dataplane::mac_table::{MacEntry, MacKey, MacTable, Owner};
use ipop_dataplane::peers::{PeerTable, PeerView, session_index};
use ipop_dataplane::underlay;
use ipop_dataplane::wire::{VnetHeader, ethernet::emit_header};
use ipop_dataplane::worker::{Shared, Worker, WorkerConfig};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reference::{guests, reference};
use zerocopy::{FromBytes, IntoBytes};

mod reference;

/// How the workers work.
#[derive(Clone, Copy)]
struct Mode {
    engine: EngineChoice,
    udp_gso: bool,
}

/// Every test in every mode.
macro_rules! in_all_modes {
    ($($test:ident),+ $(,)?) => {
        in_all_modes!(io_uring IoUring true: $($test)+);
        in_all_modes!(system_calls Calls true: $($test)+);
        in_all_modes!(io_uring_without_gso IoUring false: $($test)+);
        in_all_modes!(system_calls_without_gso Calls false: $($test)+);
    };
    ($name:ident $engine:ident $udp_gso:literal: $($test:ident)+) => {
        mod $name {
            use super::{EngineChoice, Mode};
            $(#[test]
            fn $test() {
                super::$test(Mode { engine: EngineChoice::$engine, udp_gso: $udp_gso });
            })+
        }
    };
}

in_all_modes!(
    every_frame_arrives_as_it_was_and_in_order,
    super_frames_arrive_as_the_same_segments,
    slices_of_two_lanes_are_not_joined,
    garbage_is_counted_and_harmless,
    a_port_that_ends_is_reported,
);

struct Nobody;
impl Wake for Nobody {
    fn wake(&self) {}
}

struct Side {
    address: std::net::SocketAddr,
    port: OwnedFd,
    worker: Worker,
    events: Arc<Events>,
}

const SOURCE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const TARGET: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// `max_datagram` is what the path between the two carries.
fn pair(mode: Mode, max_datagram: usize) -> [Side; 2] {
    let sockets: Vec<UdpSocket> =
        (0..2).flat_map(|_| underlay::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap()).collect();
    let sessions = [session_index(PeerId(0), 1), session_index(PeerId(0), 2)];
    let addresses: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
    let mut sides = Vec::new();
    for (index, socket) in sockets.into_iter().enumerate() {
        let other = 1 - index;
        let view = PeerView {
            address: addresses[other],
            their_session: sessions[other],
            our_session: sessions[index],
            up: true,
            max_datagram,
        };
        let (macs, mut writer) = MacTable::new(64, [5, 6]);
        for (mac, home) in [(SOURCE, 0), (TARGET, 1)] {
            let owner = if home == index { Owner::Local } else { Owner::Peer(PeerId(0)) };
            writer.insert(MacKey::new(Vlan::UNTAGGED, mac), MacEntry { owner, moves: 0, seen: 0 }).unwrap();
        }
        let events = Arc::new(Events::new(Box::new(Nobody)));
        let (port, inner) = nix::sys::socket::socketpair(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::SeqPacket,
            None,
            nix::sys::socket::SockFlag::SOCK_NONBLOCK,
        )
        .unwrap();
        for fd in [&port, &inner] {
            nix::sys::socket::setsockopt(fd, nix::sys::socket::sockopt::SndBuf, &(8 << 20)).unwrap();
        }
        let config = WorkerConfig {
            lane: 0,
            cpu: None,
            network: 3,
            flood_rate: 1000,
            epoch: Instant::now(),
            engine: mode.engine,
            udp_gso: mode.udp_gso,
        };
        let shared = Shared { macs, events: events.clone() };
        let worker = Worker::spawn(config, inner, socket, shared, Arc::new(PeerTable::new(vec![view])));
        sides.push(Side { address: addresses[index], port, worker: worker.expect("it starts"), events });
    }
    sides.try_into().ok().expect("two sides")
}

impl Side {
    fn send(&self, vnet: &VnetHeader, frame: &[u8]) {
        let parts = [IoSlice::new(vnet.as_bytes()), IoSlice::new(frame)];
        loop {
            match nix::sys::uio::writev(&self.port, &parts) {
                Err(nix::errno::Errno::EAGAIN) => std::thread::sleep(Duration::from_micros(200)),
                result => return assert!(result.is_ok(), "{result:?}"),
            }
        }
    }

    fn receive(&self, timeout: Duration) -> Option<(VnetHeader, Vec<u8>)> {
        let end = Instant::now() + timeout;
        let mut buffer = vec![0; 70_000];
        while Instant::now() < end {
            match nix::unistd::read(&self.port, &mut buffer).map_err(std::io::Error::from) {
                Ok(len) => {
                    let (vnet, frame) = VnetHeader::read_from_prefix(&buffer[..len]).unwrap();
                    return Some((vnet, frame.to_vec()));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_micros(100)),
                Err(e) => panic!("{e} on {}", self.port.as_raw_fd()),
            }
        }
        None
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.worker.stats.counters;
        let dropped = Ending::ALL.iter().filter(|e| e.class() == ipop_dataplane::ending::Class::Dropped);
        dropped.map(|e| (e.name(), counters.get(*e))).filter(|(_, n)| *n > 0).collect()
    }
}

/// A frame that is nobody's protocol, with its number in it.
fn plain(len: usize, number: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    emit_header(&mut frame, TARGET, SOURCE, Vlan::UNTAGGED, 0x88b5);
    frame.extend((0..len).map(|i| (i.wrapping_mul(31) ^ number) as u8));
    frame
}

fn every_frame_arrives_as_it_was_and_in_order(mode: Mode) {
    for max_datagram in [508, 1232, 1472, 8972] {
        let [a, b] = pair(mode, max_datagram);
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
        assert_eq!(b.worker.stats.counters.get(Ending::Delivered), 150);
    }
}

fn super_frames_arrive_as_the_same_segments(mode: Mode) {
    for max_datagram in [1232, 1472, 8972] {
        let [a, b] = pair(mode, max_datagram);
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
fn slices_of_two_lanes_are_not_joined(mode: Mode) {
    let [a, b] = pair(mode, 1472);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let session = session_index(PeerId(0), 2);
    let view = PeerView {
        address: peer.local_addr().unwrap(),
        their_session: 1,
        our_session: session,
        up: true,
        max_datagram: 1472,
    };
    b.worker.mailbox.publish(Arc::new(PeerTable::new(vec![view])));
    let mut runner = TestRunner::deterministic();
    let mut guest = guests().new_tree(&mut runner).unwrap().current();
    (guest.tags, guest.payload, guest.gso_size) = (0, vec![1; 4000], 1000);
    let mut other = guest.clone();
    other.payload = vec![2; 4000];
    let slice = |guest: &reference::Guest, lane, counter, offset: usize| {
        let mut frame = guest.frame();
        frame[..6].copy_from_slice(&TARGET.0);
        frame[6..12].copy_from_slice(&SOURCE.0);
        let parsed = ipop_dataplane::wire::Frame::parse(&frame).unwrap();
        let super_frame = SuperFrame::new(&parsed, &guest.vnet()).unwrap();
        let mut datagram = DatagramHeader::new(DATA, 3, session, lane, counter).as_bytes().to_vec();
        let at = datagram.len();
        datagram.resize(at + super_frame.prefix_len(), 0);
        super_frame.write_prefix(&mut datagram[at..], 7, offset, 1000);
        datagram.extend_from_slice(&super_frame.payload[offset..offset + 1000]);
        datagram
    };
    let to = b.address;
    // One train, so that they are in one batch.
    let parts = [(&guest, 0, 0, 0), (&other, 1, 0, 1000), (&other, 1, 1, 2000)];
    let datagrams: Vec<_> = parts.map(|(guest, lane, counter, offset)| slice(guest, lane, counter, offset)).into();
    let segment = datagrams[0].len() as u16;
    let to: nix::sys::socket::SockaddrStorage = to.into();
    let train = datagrams.concat();
    let control = [nix::sys::socket::ControlMessage::UdpGsoSegments(&segment)];
    let flags = nix::sys::socket::MsgFlags::empty();
    nix::sys::socket::sendmsg(peer.as_raw_fd(), &[IoSlice::new(&train)], &control, flags, Some(&to)).unwrap();
    let mut seen = Vec::new();
    while seen.iter().map(Vec::len).sum::<usize>() < 3000 {
        let (_, frame) = b.receive(Duration::from_secs(5)).expect("all slices arrive");
        seen.push(frame[guest.headers_len()..].to_vec());
    }
    assert!(seen.iter().all(|payload| payload.iter().all(|octet| *octet == payload[0])), "no frame has octets of both");
    drop(a);
}

fn garbage_is_counted_and_harmless(mode: Mode) {
    let [a, b] = pair(mode, 1472);
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
    let count = |ending| a.worker.stats.counters.get(ending);
    assert_eq!((count(Ending::FrameTruncated), count(Ending::FrameMetadata)), (1, 1));
    assert_eq!((count(Ending::BadSource), count(Ending::BridgeReserved)), (1, 1));
}

fn a_port_that_ends_is_reported(mode: Mode) {
    let [a, b] = pair(mode, 1472);
    drop(b);
    let Side { port, worker, events, .. } = a;
    drop(port);
    let end = Instant::now() + Duration::from_secs(5);
    let failed = loop {
        match events.pop() {
            Some(Event::Failed(reason)) => break Some(reason),
            Some(_) => {}
            None if Instant::now() > end => break None,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    assert!(failed.is_some());
    drop(worker);
}
