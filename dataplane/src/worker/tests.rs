use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use zerocopy::IntoBytes;

use super::*;
use crate::addr::{PeerId, Vlan};
use crate::datagram::record::FramePrefix;
use crate::datagram::{DATA, DatagramHeader};
use crate::event::Wake;
use crate::mac_table::{MacEntry, MacKey, Owner};
use crate::peers::PeerView;
use crate::session::{Incoming, Outgoing};
use crate::wire::VnetHeader;
use crate::wire::ethernet::emit_header;

const HERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const NETWORK: u32 = 3;
const SESSION: u32 = 1 << 16;
/// Frames in a datagram.
const PACKED: u32 = 5;

struct Nobody;
impl Wake for Nobody {
    fn wake(&self) {}
}

/// What a worker has, and the other ends of it.
struct Bench {
    port: OwnedFd,
    inner: OwnedFd,
    near: UdpSocket,
    far: UdpSocket,
    wake: EventFd,
}

impl Bench {
    fn new() -> Bench {
        let (port, inner) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK).unwrap();
        for fd in [&port, &inner] {
            setsockopt(fd, sockopt::SndBuf, &(8 << 20)).unwrap();
        }
        let [near, far] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        far.set_nonblocking(true).unwrap();
        Bench { port, inner, near, far, wake: EventFd::new().unwrap() }
    }

    /// A worker that does a round when it is told to.
    fn state(&self, engine: EngineChoice) -> State<'_> {
        let config = WorkerConfig {
            lane: 0,
            workers: 1,
            cpu: None,
            port: PortKind::Tap,
            groups: GroupMask::ALL,
            network: NETWORK,
            flood_rate: 1000,
            waiting: Waiting::default(),
            epoch: Instant::now(),
            offloads: Offloads::ALL,
            outer_class: Default::default(),
            raw_ports: Arc::default(),
            engine,
            udp_gso: true,
            zero_copy: false,
        };
        let (macs, mut writer) = MacTable::new(16, [5, 6]);
        for (mac, owner) in [(HERE, Owner::Local), (THERE, Owner::Peer(PeerId(0)))] {
            writer.insert(MacKey::new(Vlan::UNTAGGED, mac), MacEntry { owner, moves: 0, seen: 0 }).unwrap();
        }
        let shared = Shared {
            macs,
            own_mac: Default::default(),
            port_mtu: Arc::default(),
            claims: [Claims::default()].into(),
            events: Arc::new(Events::for_peers(Box::new(Nobody), 1)),
        };
        let view = PeerView {
            address: self.far.local_addr().unwrap(),
            outgoing: Some(Arc::new(Outgoing::new(1, None, 1))),
            incoming: vec![Arc::new(Incoming::new(SESSION, None))],
            up: true,
            max_datagram: 1472,
        };
        let files = Files {
            port: self.inner.as_fd(),
            underlay: self.near.as_fd(),
            wake: self.wake.as_fd(),
            sources: Vec::new(),
        };
        let ring = Ring::new(files, config.io(1)).unwrap();
        let table = Arc::new(PeerTable::new(vec![view], None));
        let stats = Arc::new(WorkerStats::new(1));
        State::new(&config, ring, self.inner.as_fd(), shared, stats, Arc::default(), table)
    }

    /// Puts a frame into the port, and in every fifth call five into a datagram from the peer.
    fn send(&self, number: u32) {
        let mut frame = VnetHeader::default().as_bytes().to_vec();
        emit_header(&mut frame, THERE, HERE, Vlan::UNTAGGED, 0x88b5);
        frame.extend(number.to_be_bytes());
        nix::unistd::write(&self.port, &frame).unwrap();
        let mut datagram = DatagramHeader::new(DATA, NETWORK, SESSION, 0, u64::from(number)).as_bytes().to_vec();
        if !number.is_multiple_of(PACKED) {
            return;
        }
        // So that the end of a round is in the middle of a datagram.
        for number in number..number + PACKED {
            let mut frame = Vec::new();
            emit_header(&mut frame, HERE, THERE, Vlan::UNTAGGED, 0x88b5);
            frame.extend(number.to_be_bytes());
            datagram.extend_from_slice(FramePrefix::new(frame.len(), None).unwrap().bytes());
            datagram.extend_from_slice(&frame);
        }
        self.far.send_to(&datagram, self.near.local_addr().unwrap()).unwrap();
    }

    /// The numbers of the frames that the port got since the last call.
    fn written(&self) -> Vec<u32> {
        let mut frame = [0; 200];
        std::iter::from_fn(|| nix::unistd::read(&self.port, &mut frame).ok().map(|len| number(&frame[..len]))).collect()
    }

    /// Frames that the peer got.
    fn sent(&self) -> Vec<u32> {
        let mut datagram = [0; 2000];
        let mut numbers = Vec::new();
        while let Ok(len) = self.far.recv(&mut datagram) {
            let records = crate::datagram::record::Records::new(&datagram[16..len]);
            numbers.extend(records.map_while(Result::ok).filter(|r| r.kind == 1).map(|record| number(record.body)));
        }
        numbers
    }
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[frame.len() - 4..].try_into().unwrap())
}

/// However much has come, a worker sends what a bounded part of it has led to, and counts it, and goes on with both
/// directions in turns. Nothing changes its order.
#[test]
fn a_round_is_bounded_and_both_directions_have_their_share() {
    const FRAMES: u32 = 1000;
    for engine in [EngineChoice::IoUring, EngineChoice::Calls] {
        let bench = Bench::new();
        let mut state = bench.state(engine);
        state.context.ring.submit().unwrap();
        let counted = |state: &State<'_>, ending| state.context.stats.counters.get(ending) as usize;
        let (mut sent, mut written): (Vec<u32>, Vec<u32>) = Default::default();
        // As much as sockets hold; it lies in the ring's buffers before the first round.
        for number in 0..FRAMES {
            bench.send(number);
            if number % 50 == 49 {
                state.context.ring.submit().unwrap();
                state.context.ring.settle().unwrap();
            }
        }
        let mut rounds = 0;
        while sent.len() < FRAMES as usize || written.len() < FRAMES as usize {
            let before = [Ending::ToPeer, Ending::Delivered].map(|ending| counted(&state, ending));
            state.round().unwrap();
            state.ingress.flush(&mut state.context).unwrap();
            state.context.ring.submit().unwrap();
            state.context.account();
            let (new_sent, new_written) = (bench.sent(), bench.written());
            let taken = counted(&state, Ending::ToPeer) - before[0];
            assert!(taken <= ROUND, "{taken} frames of the port in a round");
            // The datagram, or train, in which the share ends.
            let delivered = counted(&state, Ending::Delivered) - before[1];
            assert!(delivered <= ROUND + 64 * PACKED as usize, "{delivered} frames of peers in a round");
            assert!(delivered == new_written.len(), "{engine:?}: it is counted when it is there");
            if rounds == 0 {
                assert!(taken > 0 && delivered > 0, "{taken} {delivered}");
            }
            sent.extend(new_sent);
            written.extend(new_written);
            rounds += 1;
            assert!(rounds < 10_000, "{} and {} of {FRAMES}", sent.len(), written.len());
            if state.context.ring.has_arrivals() {
                continue;
            }
            state.context.ring.settle().unwrap();
        }
        assert!(rounds >= FRAMES as usize / ROUND, "{rounds}");
        assert!(sent.iter().copied().eq(0..FRAMES), "in order");
        assert!(written.iter().copied().eq(0..FRAMES), "in order");
    }
}

/// An error that lasts costs a request now and then, is counted, and told of once; a worker that waits for it sleeps.
#[test]
fn an_error_that_lasts_is_not_asked_for_again_and_again() {
    for engine in [EngineChoice::IoUring, EngineChoice::Calls] {
        let mut bench = Bench::new();
        // A socket that can never be received from says ENOTCONN for ever.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        bench.near = UdpSocket::from(OwnedFd::from(socket));
        let mut state = bench.state(engine);
        let failures = |state: &State<'_>| state.context.stats.counters.get(Ending::ReceiveFailed);
        let turn = |state: &mut State<'_>, now_ms: u64| {
            state.context.ring.set_now(now_ms);
            state.context.ring.submit().unwrap();
            state.context.ring.settle().unwrap();
            state.context.account();
        };
        for _ in 0..100 {
            turn(&mut state, 5);
        }
        let at_once = failures(&state);
        assert!((1..=4).contains(&at_once), "{engine:?}: {at_once} requests without a pause");
        for now_ms in 5..4005 {
            turn(&mut state, now_ms);
        }
        // 1, 2, 4 ... 512 ms, and then once a second.
        let later = failures(&state) - at_once;
        assert!((8..=16).contains(&later), "{engine:?}: {later} requests in four seconds");
        // It does not wait longer than until the next one, and frames of the other direction are not in its way.
        let begin = Instant::now();
        state.context.ring.wait().unwrap();
        assert!(begin.elapsed() < std::time::Duration::from_secs(10));
        bench_frame(&bench);
        while !state.context.ring.has_arrivals() {
            state.context.ring.wait().unwrap();
        }
        let told = std::iter::from_fn(|| state.context.events.pop());
        let told = told.filter(|event| matches!(event, Event::Notice(Notice::ReceiveFails { port: false, errno }) if *errno == libc::ENOTCONN));
        assert_eq!(told.count(), 1);
    }
}

fn bench_frame(bench: &Bench) {
    let mut frame = VnetHeader::default().as_bytes().to_vec();
    emit_header(&mut frame, THERE, HERE, Vlan::UNTAGGED, 0x88b5);
    nix::unistd::write(&bench.port, &frame).unwrap();
}
