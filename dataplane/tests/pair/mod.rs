//! Two workers back to back, without root: a socket pair stands for each port, TAP or packet socket, the loopback for
//! the underlay.
//!
//! ```text
//!   test ── seqpacket pair ── worker A ══ UDP on 127.0.0.1 ══ worker B ── seqpacket pair ── test
//! ```
// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::io::{ErrorKind, IoSlice};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipop_dataplane::addr::{MacAddr, PeerId, Vlan};
use ipop_dataplane::claims::Claims;
use ipop_dataplane::datagram::{DATA, DatagramHeader};
use ipop_dataplane::ending::Ending;
use ipop_dataplane::event::{Events, Wake};
use ipop_dataplane::feature::EngineChoice;
use ipop_dataplane::forward::GroupMask;
use ipop_dataplane::mac_table::{MacEntry, MacKey, MacTable, Owner};
use ipop_dataplane::offloads::Offloads;
use ipop_dataplane::peers::{PeerTable, PeerView, session_index};
use ipop_dataplane::port::{PortKind, PortMtu};
use ipop_dataplane::session::{Cipher, Incoming, KEY_LEN, Key, Outgoing};
use ipop_dataplane::underlay::{self, Underlay};
use ipop_dataplane::wire::VnetHeader;
use ipop_dataplane::worker::{Shared, Waiting, Worker, WorkerConfig};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use zerocopy::{FromBytes, IntoBytes};

struct Nobody;
impl Wake for Nobody {
    fn wake(&self) {}
}

pub struct Side {
    pub address: std::net::SocketAddr,
    pub port: OwnedFd,
    pub worker: Worker,
    /// What the worker began with.
    pub table: Arc<PeerTable>,
    pub events: Arc<Events>,
    pub port_mtu: Arc<PortMtu>,
}

pub const SOURCE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub const TARGET: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// `max_datagram` is what the path between the two carries.
pub fn pair(max_datagram: usize) -> [Side; 2] {
    pair_of(max_datagram, Kind::default())
}

/// What kind of workers.
#[derive(Clone, Copy)]
pub struct Kind {
    pub port: PortKind,
    pub offloads: Offloads,
    pub waiting: Waiting,
    pub engine: EngineChoice,
    pub udp_gso: bool,
    /// Datagrams are sealed.
    pub cipher: Option<Cipher>,
    /// Sockets that are sent from besides the one that is received on.
    pub sources: usize,
}

impl Default for Kind {
    fn default() -> Self {
        Kind {
            port: PortKind::Tap,
            offloads: Offloads::ALL,
            waiting: Waiting::default(),
            engine: EngineChoice::IoUring,
            udp_gso: true,
            cipher: None,
            sources: 0,
        }
    }
}

/// The same of another kind.
pub fn pair_of(max_datagram: usize, kind: Kind) -> [Side; 2] {
    let sockets: Vec<UdpSocket> =
        (0..2).flat_map(|_| underlay::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap()).collect();
    let sessions = [session_index(PeerId(0), 1), session_index(PeerId(0), 2)];
    let addresses: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
    let mut sides = Vec::new();
    for (index, socket) in sockets.into_iter().enumerate() {
        let other = 1 - index;
        let key = |from: usize| kind.cipher.map(|cipher| Key::new(cipher, &[from as u8; KEY_LEN]));
        let view = PeerView {
            address: addresses[other],
            outgoing: Some(Arc::new(Outgoing::new(sessions[other], key(index), 1))),
            incoming: vec![Arc::new(Incoming::new(sessions[index], key(other)))],
            up: true,
            max_datagram,
        };
        let (macs, mut writer) = MacTable::new(64, [5, 6]);
        for (mac, home) in [(SOURCE, 0), (TARGET, 1)] {
            let owner = if home == index { Owner::Local } else { Owner::Peer(PeerId(0)) };
            // Guests' tagged frames are in VLAN 10.
            for vlan in [Vlan::UNTAGGED, Vlan::customer(10)] {
                writer.insert(MacKey::new(vlan, mac), MacEntry { owner, moves: 0, seen: 0 }).unwrap();
            }
        }
        let port_mtu = Arc::<PortMtu>::default();
        let events = Arc::new(Events::for_peers(Box::new(Nobody), 1));
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
        let Kind { port: port_kind, offloads, waiting, engine, udp_gso, cipher: _, sources } = kind;
        let sources = underlay::sources(addresses[index], sources).unwrap();
        let config = WorkerConfig {
            lane: 0,
            workers: 1,
            cpu: None,
            port: port_kind,
            groups: GroupMask::SPANNING_TREE,
            network: 3,
            flood_rate: 1000,
            waiting,
            epoch: Instant::now(),
            offloads,
            outer_class: Default::default(),
            raw_ports: Arc::default(),
            engine,
            udp_gso,
            zero_copy: true,
        };
        let shared = Shared {
            macs,
            own_mac: Default::default(),
            port_mtu: port_mtu.clone(),
            claims: [Claims::default()].into(),
            events: events.clone(),
        };
        let table = Arc::new(PeerTable::new(vec![view], None));
        let underlay = Underlay { listen: socket, sources };
        let worker = Worker::spawn(config, inner, underlay, shared, table.clone(), || Ok(()));
        sides.push(Side {
            address: addresses[index],
            port,
            worker: worker.expect("it starts"),
            table,
            events,
            port_mtu,
        });
    }
    sides.try_into().ok().expect("two sides")
}

impl Side {
    pub fn send(&self, vnet: &VnetHeader, frame: &[u8]) {
        let parts = [IoSlice::new(vnet.as_bytes()), IoSlice::new(frame)];
        loop {
            match nix::sys::uio::writev(&self.port, &parts) {
                Err(nix::errno::Errno::EAGAIN) => std::thread::sleep(Duration::from_micros(200)),
                result => return assert!(result.is_ok(), "{result:?}"),
            }
        }
    }

    pub fn receive(&self, timeout: Duration) -> Option<(VnetHeader, Vec<u8>)> {
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

    /// Waits until so many frames have ended so: the other end has them a moment before they are counted.
    pub fn wait_counted(&self, ending: Ending, count: u64) {
        let counted = || self.worker.stats.counters.get(ending);
        eventually(|| counted() >= count);
        assert_eq!(counted(), count, "{}", ending.name());
    }

    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.worker.stats.counters;
        let dropped = Ending::ALL.iter().filter(|e| e.class() == ipop_dataplane::ending::Class::Dropped);
        dropped.map(|e| (e.name(), counters.get(*e))).filter(|(_, n)| *n > 0).collect()
    }
}

/// Waits for it, five seconds at most; what it is when that is over, the caller looks at.
pub fn eventually(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !done() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A peer of worker B whose datagrams the test writes itself.
pub struct Peer {
    socket: UdpSocket,
    to: SockaddrStorage,
    session: u32,
    counter: u64,
}

impl Peer {
    /// Becomes B's only peer.
    pub fn of(b: &Side) -> Peer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let session = session_index(PeerId(0), 2);
        let address = socket.local_addr().unwrap();
        let view = PeerView {
            address,
            outgoing: Some(Arc::new(Outgoing::new(1, None, 1))),
            incoming: vec![Arc::new(Incoming::new(session, None))],
            up: true,
            max_datagram: 1472,
        };
        b.worker.mailbox.publish(Arc::new(PeerTable::new(vec![view], None)));
        Peer { socket, to: b.address.into(), session, counter: 0 }
    }

    /// A datagram with these records.
    pub fn datagram(&mut self, lane: u8, records: &[u8]) -> Vec<u8> {
        let mut datagram = DatagramHeader::new(DATA, 3, self.session, lane, self.counter).as_bytes().to_vec();
        self.counter += 1;
        datagram.extend_from_slice(records);
        datagram
    }

    /// Sends datagrams of equal size, the last may be shorter, as one train, so that they are in one batch.
    pub fn send(&self, datagrams: &[Vec<u8>]) {
        let segment = datagrams[0].len() as u16;
        let train = datagrams.concat();
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let parts = [IoSlice::new(&train)];
        sendmsg(self.socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&self.to)).unwrap();
    }
}
