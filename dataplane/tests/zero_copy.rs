//! A worker finds out on real devices where the kernel copies: the loopback does; a cable that ends nowhere drops what it is
//! given before anybody would have to.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use ipop_dataplane::addr::{MacAddr, PeerId, Vlan};
use ipop_dataplane::datagram::DatagramHeader;
use ipop_dataplane::ending::{Class, Ending};
use ipop_dataplane::event::{Events, Wake};
use ipop_dataplane::feature::{EngineChoice, State};
use ipop_dataplane::forward::GroupMask;
use ipop_dataplane::mac_table::{MacEntry, MacKey, MacTable, Owner};
use ipop_dataplane::offloads::Offloads;
use ipop_dataplane::peers::{PeerTable, PeerView};
use ipop_dataplane::port::PortKind;
use ipop_dataplane::session::{Incoming, Outgoing};
use ipop_dataplane::underlay;
use ipop_dataplane::wire::VnetHeader;
use ipop_dataplane::wire::ethernet::{emit_header, ethertype};
use ipop_dataplane::wire::vnet::{GSO_TCPV4, PartialChecksum};
use ipop_dataplane::worker::{Shared, Waiting, Worker, WorkerConfig, ZeroCopyPath};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sched::{CloneFlags, unshare};
use zerocopy::IntoBytes;

const NETWORK: u32 = 3;
const HERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Slices for this are copied behind their headers, so that a train of them lies in one piece, and 64 of them are enough for a trial.
const MAX_DATAGRAM: usize = 548;
const SOON: Duration = Duration::from_secs(5);

struct Nobody;
impl Wake for Nobody {
    fn wake(&self) {}
}

/// A worker between a test's port and a socket, with one peer.
struct Side {
    port: OwnedFd,
    worker: Worker,
}

impl Side {
    fn start(socket: UdpSocket, peer: SocketAddr, engine: EngineChoice, zero_copy: bool) -> Side {
        let (port, inner) = UnixDatagram::pair().unwrap();
        inner.set_nonblocking(true).unwrap();
        nix::sys::socket::setsockopt(&port, nix::sys::socket::sockopt::SndBuf, &(1 << 20)).unwrap();
        let (macs, mut writer) = MacTable::new(16, [5, 6]);
        for (mac, owner) in [(HERE, Owner::Local), (THERE, Owner::Peer(PeerId(0)))] {
            writer.insert(MacKey::new(Vlan::UNTAGGED, mac), MacEntry { owner, moves: 0, seen: 0 }).unwrap();
        }
        let shared = Shared {
            macs,
            own_mac: Default::default(),
            port_mtu: Arc::default(),
            claims: [Default::default()].into(),
            events: Arc::new(Events::for_peers(Box::new(Nobody), 1)),
        };
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
            zero_copy,
        };
        let view = PeerView {
            address: peer,
            outgoing: Some(Arc::new(Outgoing::new(1, None, 1))),
            incoming: vec![Arc::new(Incoming::new(1 << 16, None))],
            up: true,
            max_datagram: MAX_DATAGRAM,
        };
        let table = Arc::new(PeerTable::new(vec![view], None));
        Side {
            port: port.into(),
            worker: Worker::spawn(config, inner.into(), socket.into(), shared, table, || Ok(())).unwrap(),
        }
    }

    fn path(&self) -> ZeroCopyPath {
        ZeroCopyPath::unpack(self.worker.stats.peers[0].zero_copy.load(Relaxed))
    }

    fn datagrams(&self) -> u64 {
        self.worker.stats.peers[0].tx_datagrams.load(Relaxed)
    }

    /// Sends TCP super-frames, one after the other, each when the worker has done the one before.
    fn send(&self, count: u64) {
        for number in 0..count {
            let before = self.worker.stats.counters.get(Ending::ToPeer);
            nix::unistd::write(&self.port, &super_frame(number as u8)).unwrap();
            wait(|| self.worker.stats.counters.get(Ending::ToPeer) > before);
        }
    }

    fn nothing_was_dropped(&self) {
        let counters = &self.worker.stats.counters;
        let dropped = Ending::ALL.iter().filter(|ending| ending.class() == Class::Dropped);
        let dropped: Vec<_> = dropped.map(|e| (e.name(), counters.get(*e))).filter(|(_, n)| *n > 0).collect();
        assert_eq!(dropped, []);
    }
}

fn wait(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "it takes too long");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// 60 000 octets of TCP in one frame, as a TAP gives it.
fn super_frame(fill: u8) -> Vec<u8> {
    const PAYLOAD: usize = 60_000;
    let mut vnet = VnetHeader::plain(Some(PartialChecksum { start: 34, offset: 16 }));
    vnet.gso_type = GSO_TCPV4;
    vnet.gso_size.set(1400);
    let mut frame = vnet.as_bytes().to_vec();
    emit_header(&mut frame, THERE, HERE, Vlan::UNTAGGED, ethertype::IPV4);
    let total = (20 + 20 + PAYLOAD) as u16;
    frame.extend([0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 3, 3, 10, 0, 3, 104]);
    frame.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 5 << 4, 0x10, 0, 64, 0, 0, 0, 0]);
    frame.extend(std::iter::repeat_n(fill, PAYLOAD));
    frame
}

/// The trial and what follows it arrive, each datagram in its turn.
fn loopback(engine: EngineChoice, zero_copy: bool) -> Side {
    let address = "127.0.0.1:0".parse().unwrap();
    let [near, far] = [(); 2].map(|()| underlay::bind(address, 1).unwrap().remove(0));
    underlay::set_gro(&far, false).unwrap();
    far.set_nonblocking(false).unwrap();
    far.set_read_timeout(Some(SOON)).unwrap();
    let side = Side::start(near, far.local_addr().unwrap(), engine, zero_copy);
    let mut arrived = 0;
    for _ in 0..5 {
        side.send(1);
        wait(|| side.datagrams() > arrived);
        while arrived < side.datagrams() {
            let mut datagram = [0; 2000];
            let len = far.recv(&mut datagram).unwrap();
            let (header, _) = DatagramHeader::parse(&datagram[..len], NETWORK).unwrap();
            assert_eq!(header.counter(), arrived);
            arrived += 1;
        }
    }
    side.nothing_was_dropped();
    side
}

fn the_loopback_copies() -> Result<(), Failed> {
    let side = loopback(EngineChoice::IoUring, true);
    assert_eq!(side.worker.engine.zero_copy, State::On);
    wait(|| matches!(side.path(), ZeroCopyPath::Copied(_)));
    Ok(())
}

fn without_it_nothing_is_tried() -> Result<(), Failed> {
    for (engine, zero_copy, reason) in
        [(EngineChoice::IoUring, false, "switched off in the config"), (EngineChoice::Calls, true, "takes io_uring")]
    {
        let side = loopback(engine, zero_copy);
        assert_eq!(side.worker.engine.zero_copy, State::Off(reason.to_owned()));
        assert_eq!(side.path(), ZeroCopyPath::Untried);
    }
    Ok(())
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Enters a network namespace of this thread's own, which goes with it, and makes a cable there whose other end is down, and a
/// neighbour behind it. Without a carrier the queueing discipline is `noop_qdisc`, which frees what it gets.
fn enter_unplugged() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("unshare(CLONE_NEWNET): {error}"))?;
    ip("link add d0 type veth peer name d1")?;
    ip("address add 10.98.0.1/24 dev d0")?;
    ip("link set d0 up")?;
    ip("neighbour add 10.98.0.2 lladdr 02:00:00:00:00:09 dev d0")
}

fn in_unplugged<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| enter_unplugged().map(|()| work()))
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// More trains than there are slots, so all of them come back; and the kernel never says that it copied.
fn an_unplugged_cable_does_not_copy() -> Result<(), Failed> {
    in_unplugged(|| {
        let socket = underlay::bind("10.98.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let side = Side::start(socket, "10.98.0.2:5800".parse().unwrap(), EngineChoice::IoUring, true);
        side.send(1);
        wait(|| side.path() == ZeroCopyPath::On);
        side.send(100);
        assert_eq!(side.path(), ZeroCopyPath::On);
        let each = side.datagrams() / 101;
        assert!(each * 101 == side.datagrams() && each > 60_000 / MAX_DATAGRAM as u64);
        side.nothing_was_dropped();
    })?;
    Ok(())
}

fn main() -> ExitCode {
    let unplugged = in_unplugged(|| ());
    let name = match &unplugged {
        Ok(()) => "an_unplugged_cable_does_not_copy".to_owned(),
        Err(reason) => format!("an_unplugged_cable_does_not_copy (ignored: {})", reason.trim()),
    };
    let tests = vec![
        Trial::test("the_loopback_copies", the_loopback_copies),
        Trial::test("without_it_nothing_is_tried", without_it_nothing_is_tried),
        Trial::test(name, an_unplugged_cable_does_not_copy).with_ignored_flag(unplugged.is_err()),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
