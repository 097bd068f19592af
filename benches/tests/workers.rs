//! Two whole workers allocate nothing once they run: their parts that no workload can reach included.
//!
//! ```text
//!   test ── seqpacket pair ── worker ══ UDP on 127.0.0.1 ══ worker ── seqpacket pair ── test
//! ```
// One test in this program: the allocations of all other threads are counted.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipop_benches::allocations::{self, Counting};
use ipop_benches::{ETHERNET_DATAGRAM, LOCAL, REMOTE, arp_request, plain, tcp, udp};
use ipop_dataplane::addr::{MacAddr, PeerId, Vlan};
use ipop_dataplane::claims::Claims;
use ipop_dataplane::ending::{Class, Ending};
use ipop_dataplane::event::{Events, Wake};
use ipop_dataplane::feature::EngineChoice;
use ipop_dataplane::forward::GroupMask;
use ipop_dataplane::mac_table::{MacEntry, MacKey, MacTable, Owner};
use ipop_dataplane::offloads::Offloads;
use ipop_dataplane::peers::{PeerTable, PeerView, session_index};
use ipop_dataplane::port::PortKind;
use ipop_dataplane::session::{Cipher, Incoming, KEY_LEN, Key, Outgoing};
use ipop_dataplane::underlay;
use ipop_dataplane::wire::vnet::{self, VNET_HEADER_LEN};
use ipop_dataplane::worker::{Shared, Waiting, Worker, WorkerConfig};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NETWORK: u32 = 3;
const FLOOD_RATE: u64 = 1_000_000;
const PORT_BUFFER: usize = 4 << 20;
/// Rounds before anything is counted: lanes are heard of, libraries make what they make at first use.
const WARM_UP: usize = 20;
const ROUNDS: usize = 200;
const SOME_PORT: u16 = 5201;
/// Datagrams that are sent at once, and what each carries.
const BURST: usize = 20;
const BURST_PAYLOAD: usize = 100;
/// Ethernet, IPv4, UDP.
const UDP_HEADERS: usize = 14 + 20 + 8;
const PATIENCE: Duration = Duration::from_secs(5);
const STRANGER: MacAddr = MacAddr([0x00, 0x16, 0x3e, 0, 0x02, 0x05]);

struct Nobody;
impl Wake for Nobody {
    fn wake(&self) {}
}

struct Side {
    port: OwnedFd,
    worker: Worker,
    events: Arc<Events>,
}

/// The gateway of `home`, with the one of `away` as its only peer.
fn side(
    engine: EngineChoice,
    socket: UdpSocket,
    peer: SocketAddr,
    [ours, theirs]: [u32; 2],
    [home, away]: [MacAddr; 2],
) -> Side {
    let (macs, mut writer) = MacTable::new(16, [5, 6]);
    for (mac, owner) in [(home, Owner::Local), (away, Owner::Peer(PeerId(0)))] {
        writer.insert(MacKey::new(Vlan::UNTAGGED, mac), MacEntry { owner, moves: 0, seen: 0 }).expect("there is room");
    }
    // Sealed, as it is by default; the same key both ways, since the sessions are not.
    let key = || Some(Key::new(Cipher::Aes256Gcm, &[7; KEY_LEN]));
    let view = PeerView {
        address: peer,
        outgoing: Some(Arc::new(Outgoing::new(theirs, key(), 1))),
        incoming: vec![Arc::new(Incoming::new(ours, key()))],
        up: true,
        max_datagram: ETHERNET_DATAGRAM,
    };
    let events = Arc::new(Events::for_peers(Box::new(Nobody), 1));
    let (port, inner) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK).expect("a socket pair");
    for end in [&port, &inner] {
        setsockopt(end, sockopt::SndBuf, &PORT_BUFFER).expect("the buffer is set");
    }
    let config = WorkerConfig {
        lane: 0,
        workers: 1,
        cpu: None,
        port: PortKind::Tap,
        groups: GroupMask::ALL,
        network: NETWORK,
        flood_rate: FLOOD_RATE,
        waiting: Waiting::default(),
        epoch: Instant::now(),
        offloads: Offloads::ALL,
        outer_class: Default::default(),
        raw_ports: Arc::default(),
        engine,
        udp_gso: true,
        zero_copy: true,
    };
    let shared = Shared {
        macs,
        own_mac: Default::default(),
        port_mtu: Arc::default(),
        claims: [Claims::default()].into(),
        events: events.clone(),
    };
    let worker =
        Worker::spawn(config, inner, socket.into(), shared, Arc::new(PeerTable::new(vec![view], None)), || Ok(()));
    Side { port, worker: worker.expect("it starts"), events }
}

fn pair(engine: EngineChoice) -> [Side; 2] {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let mut sockets = (0..2).map(|_| underlay::bind(loopback, 1).expect("a socket").remove(0));
    let (a, b) = (sockets.next().expect("one"), sockets.next().expect("two"));
    let addresses = [&a, &b].map(|socket| socket.local_addr().expect("it is bound"));
    let [at_a, at_b] = [1, 2].map(|random| session_index(PeerId(0), random));
    [
        side(engine, a, addresses[1], [at_a, at_b], [LOCAL, REMOTE]),
        side(engine, b, addresses[0], [at_b, at_a], [REMOTE, LOCAL]),
    ]
}

impl Side {
    /// Waits until something came out of the port; how many octets the frame has.
    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match nix::unistd::read(&self.port, buffer) {
                Ok(len) => return Some(len - VNET_HEADER_LEN),
                Err(nix::errno::Errno::EAGAIN) => std::thread::sleep(Duration::from_micros(50)),
                Err(error) => panic!("{error}"),
            }
        }
        None
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.worker.stats.counters;
        let dropped = Ending::ALL.iter().filter(|ending| ending.class() == Class::Dropped);
        dropped.map(|ending| (ending.name(), counters.get(*ending))).filter(|(_, count)| *count > 0).collect()
    }

    fn count(&self, ending: Ending) -> u64 {
        self.worker.stats.counters.get(ending)
    }
}

/// Sends one frame of each kind and waits until what must arrive has arrived.
fn round(a: &Side, b: &Side, frames: &[(Vec<u8>, bool)], buffer: &mut [u8]) {
    for (frame, travels) in frames {
        nix::unistd::write(&a.port, frame).expect("the port takes it");
        // A super-frame may come in parts, each with all headers.
        let mut arrived = 0;
        while *travels && arrived < frame.len() - VNET_HEADER_LEN {
            let part = b.receive(buffer);
            arrived += part.unwrap_or_else(|| panic!("lost; {:?} {:?}", a.drops(), b.drops()));
        }
    }
    // Datagrams that may be merged: of the parts that come, only the payload is as long as what was sent.
    let datagram = udp(SOME_PORT, BURST_PAYLOAD);
    for _ in 0..BURST {
        nix::unistd::write(&a.port, &datagram).expect("the port takes it");
    }
    let mut arrived = 0;
    while arrived < BURST * BURST_PAYLOAD {
        let part = b.receive(buffer);
        arrived += part.unwrap_or_else(|| panic!("lost; {:?} {:?}", a.drops(), b.drops())) - UDP_HEADERS;
    }
    for side in [a, b] {
        while side.events.pop().is_some() || side.events.pop_learn().is_some() {}
    }
}

/// Makes a frame a UDP super-frame (`VIRTIO_NET_HDR_GSO_UDP_L4`).
fn super_frame(mut frame: Vec<u8>, gso_size: u16) -> Vec<u8> {
    frame[1] = vnet::GSO_UDP_L4;
    frame[4..6].copy_from_slice(&gso_size.to_le_bytes());
    frame
}

#[test]
fn workers_allocate_nothing() {
    // One after the other, see the top.
    for engine in [EngineChoice::IoUring, EngineChoice::Calls] {
        allocate_nothing(engine);
    }
}

fn allocate_nothing(engine: EngineChoice) {
    const SUPER_PAYLOAD: usize = 60_000;
    const GSO_SIZE: u16 = 1448;
    const DHCP_CLIENT: u16 = 68;
    let [a, b] = pair(engine);
    let mut buffer = vec![0; 70_000];
    // Those that arrive nowhere come first: when a later one has arrived, they are done with.
    let frames = [
        // To the control thread.
        (arp_request(), false),
        // Dropped.
        (plain(MacAddr::BROADCAST, REMOTE, 100), false),
        (tcp(0, 0), true),
        (tcp(1200, 0), true),
        (tcp(SUPER_PAYLOAD, GSO_SIZE), true),
        // A super-frame of UDP, and one whose datagrams do not fit the path.
        (super_frame(udp(SOME_PORT, SUPER_PAYLOAD), 1000), true),
        (super_frame(udp(SOME_PORT, 20_000), 2000), true),
        // In pieces.
        (udp(SOME_PORT, 8000), true),
        // With a checksum that is finished.
        (udp(DHCP_CLIENT, 300), true),
        (plain(LOCAL, MacAddr::BROADCAST, 100), true),
        // Unknown at both ends: news to the control thread, a flood.
        (plain(STRANGER, MacAddr([2, 0, 0, 0, 0, 9]), 100), true),
    ];
    (0..WARM_UP).for_each(|_| round(&a, &b, &frames, &mut buffer));
    let before = allocations::elsewhere();
    assert!(before > 0, "they make at the start what they need, and that is seen");
    (0..ROUNDS).for_each(|_| round(&a, &b, &frames, &mut buffer));
    assert_eq!(allocations::elsewhere() - before, 0, "the workers allocated on {engine:?}");
    let rounds = (WARM_UP + ROUNDS) as u64;
    assert_eq!(a.count(Ending::Flooded), rounds, "what was meant to happen happened");
    assert_eq!((a.count(Ending::ToControl), a.count(Ending::BadSource)), (rounds, rounds));
}
