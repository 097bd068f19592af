//! The gateway: sets everything up, then runs the control thread's loop until it is told to stop.

mod error;
mod fair;
mod features;
mod held;
mod overload;
mod peers;
mod port;
mod post;
mod refusals;
mod signals;
mod tables;
mod throttle;
mod troubles;
mod turn;
mod view;
mod ways;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipop_dataplane::addr::{MacAddr, PeerId};
use ipop_dataplane::ending::{Counters, Ending};
use ipop_dataplane::event::{Events, Wake};
use ipop_dataplane::mac_table::MacTable;
use ipop_dataplane::peers::{MIN_DATAGRAM, PeerTable, same_address};
use ipop_dataplane::port::{Port, PortMtu};
use ipop_dataplane::raw_ports::RawPorts;
use ipop_dataplane::tap::TapError;
use ipop_dataplane::underlay::{self, KernelDrops, Underlay};
use ipop_dataplane::worker::{Shared, Worker, WorkerConfig};
use ipop_dataplane::{PATIENCE, PAUSE};
use mio::unix::SourceFd;
use mio::{Interest, Poll, Token, Waker};
use tracing::{Level, debug, info, warn};

pub use self::error::GatewayError;
use self::error::call;
use self::fair::Fair;
use self::features::KernelOffloads;
use self::held::Held;
use self::overload::Overload;
use self::port::PortWatch;
use self::refusals::Refusals;
use self::signals::{Asked, Signals};
use self::throttle::{About, Throttle};
use self::troubles::Knocks;
use self::turn::Timers;
use self::ways::Ways;
use crate::action::Action;
use crate::admin::{self, Admin, AdminError, Readers};
use crate::config::{Config, PeerConfig};
use crate::confine::{Confine, Confinement};
use crate::keys::PrivateKey;
use crate::link::{Identity, Link, LinkEvent};
use crate::log::Log;
use crate::macs::Macs;
use crate::notify::Notify;
use crate::report::RpcMessage;
use crate::resolution::{Resolver, Step};
use crate::routes::Routes;
use crate::rpc::Message;

const EVENTS: Token = Token(0);
const SIGNALS: Token = Token(1);
const ADMIN: Token = Token(2);
const FIRST_CLIENT: usize = 16;

/// How long a turn of the loop goes on with clients of the control socket.
const CLIENTS: Duration = Duration::from_millis(1);
/// Messages that `ipop rpc` remembers.
const RPC_LOG: usize = 256;

struct MioWake(Waker);

impl Wake for MioWake {
    fn wake(&self) {
        // Fails only when the eventfd is gone, and then the control thread is too.
        let _ = self.0.wake();
    }
}

/// A running gateway.
pub struct Gateway {
    config: Config,
    identity: Arc<Identity>,
    epoch: Instant,
    links: Vec<Link>,
    macs: Macs,
    resolver: Resolver,
    /// Endings that the control thread decides.
    counters: Counters,
    refusals: Refusals,
    overload: Overload,
    /// The last messages, and how many there were before them.
    rpc_log: VecDeque<RpcMessage>,
    rpc_forgotten: u64,
    /// Frames whose source was on this side when they came from a peer.
    held: Vec<Held>,
    /// The workers' newest table of peers, and whether something in it has changed since.
    published: Arc<PeerTable>,
    table_changed: bool,
    timers: Timers,
    throttle: Throttle,
    knocks: Knocks,
    log: Log,
    notify: Notify,
    watch: PortWatch,
    /// No interface has the address that it listens on.
    address_missing: bool,
    events: Arc<Events>,
    /// What has been taken from there, by who has caused it.
    fair: Fair,
    ways: Ways,
    udp: std::net::UdpSocket,
    /// For each worker's socket.
    underlay_drops: Vec<KernelDrops>,
    offloads: KernelOffloads,
    confinement: Confinement,
    // Workers end before the port and the sockets that they use go away.
    workers: Vec<Worker>,
    port: Port,
    /// What the workers know of its MTU.
    port_mtu: Arc<PortMtu>,
}

/// Runs a gateway until SIGTERM, SIGINT or SIGQUIT. `log` is where what it says ends up; `ready` is called once everything
/// works.
pub fn run(config: Config, log: Log, ready: impl FnOnce()) -> Result<(), GatewayError> {
    // Before any thread is started.
    let signals = Signals::block()?;
    let confine = Confine::plan(&config)?;
    let confined = confine.as_ref().map(Confine::log);
    log.start(move || confined.map_or(Ok(()), |confine| confine())).map_err(call("the thread of the log"))?;
    check_patiently(&config.control_socket)?;
    let mut poll = Poll::new().map_err(call("epoll"))?;
    let registry = poll.registry().try_clone().map_err(call("epoll"))?;
    registry.register(&mut SourceFd(&signals.descriptor()), SIGNALS, Interest::READABLE).map_err(call("epoll"))?;
    let waker = Waker::new(&registry, EVENTS).map_err(call("eventfd"))?;
    let path = config.control_socket.clone();
    let events = Events::for_peers(Box::new(MioWake(waker)), config.peers.len());
    let mut gateway = Gateway::start(config, events, log, confine.as_ref())?;
    let group = gateway.config.control_group.as_deref();
    let (listener, readers) = admin::bind(&path, confine.as_ref().map(Confine::user), group)?;
    match readers {
        Readers::Group(group) => debug!("members of the group '{group}' may ask on {}", path.display()),
        Readers::Nobody(why) => {
            info!("only who has started the gateway, and root, may ask on {}: {why}", path.display())
        }
    }
    let mut admin = Admin::new(&path, listener, &registry, ADMIN, FIRST_CLIENT).map_err(call("epoll"))?;
    // Everything is open, and what could go wrong has been said.
    if let Some(confine) = confine {
        let user = confine.user();
        if !admin.can_be_removed_by(user) {
            warn!(
                "the control socket {} will be left when the gateway ends, because its directory is not {}'s, and \
                 replaced by the next; give it a directory of its own and ipop makes it",
                path.display(),
                user.name
            );
        }
        gateway.confinement = confine.control(admin.directory()).map_err(call("giving up rights"))?;
    }
    gateway.log_confinement();
    gateway.tell_manager();
    gateway.notify.ready();
    ready();

    let mut happened = mio::Events::with_capacity(64);
    let (mut more, mut signalled) = (false, false);
    loop {
        let now_ms = gateway.now_ms();
        let deadline_ms = admin.next_deadline().unwrap_or(u64::MAX).min(gateway.next_deadline());
        let timeout = if more { 0 } else { deadline_ms.saturating_sub(now_ms) };
        match poll.poll(&mut happened, Some(Duration::from_millis(timeout))) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(call("epoll_wait")(e)),
            _ => {}
        }
        for event in &happened {
            match event.token() {
                EVENTS => {}
                SIGNALS => signalled = true,
                ADMIN => admin.somebody_comes(),
                client => admin.wake(client),
            }
        }
        if signalled {
            let (asked, more) = signals.read();
            signalled = more;
            for asked in asked {
                match asked {
                    Asked::Nothing(number, line) => gateway.say(About::Signal(number), Level::WARN, line),
                    Asked::End(name) => {
                        gateway.throttle.end();
                        info!("stopping: {name}");
                        gateway.notify.stopping();
                        gateway.say_goodbye();
                        return Ok(());
                    }
                }
            }
        }
        let more_events = gateway.turn()?;
        // After the events, and no more than one client while there are others.
        let (begin, now_ms) = (Instant::now(), gateway.now_ms());
        let goes_on = || !more_events && begin.elapsed() < CLIENTS;
        more = admin.turn(&registry, now_ms, &mut gateway, goes_on) || more_events || signalled;
    }
}

/// A process that was killed goes on listening until the kernel has ended its rings.
fn check_patiently(path: &std::path::Path) -> Result<(), AdminError> {
    let begin = Instant::now();
    loop {
        match admin::check(path) {
            Err(AdminError::InUse(_)) if begin.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

impl Gateway {
    fn start(config: Config, events: Events, log: Log, confine: Option<&Confine>) -> Result<Gateway, GatewayError> {
        let epoch = Instant::now();
        let events = Arc::new(events);
        let random: [u8; 64] = random().map_err(call("asking for random numbers"))?;
        let seed = [u64_at(&random, 0), u64_at(&random, 8)];
        let tap_mac = [random[32], random[33], random[34], random[35], random[36]];
        // Locally administered, like the TAP's, and another one: the bridge owns the TAP's, and would drop its frames.
        let own_mac = MacAddr([0xfe, random[37], random[38], random[39], random[40], random[41]]);

        let (confined, waker) = (confine.map(Confine::routes), events.clone());
        let confined = move || confined.map_or(Ok(()), |confine| confine());
        let routes = Routes::start(confined, move || waker.signal()).map_err(call("asking for routes"))?;
        let mut port = port::open(&config, &routes, tap_mac)?;
        let mut sockets = underlay::bind(config.listen, config.workers)?;
        let offloads = KernelOffloads::try_out(&config, &mut port, &sockets)?;
        let udp = sockets[0].try_clone().map_err(call("dup"))?;
        let same = |socket: &std::net::UdpSocket| Ok(KernelDrops::of(socket.try_clone()?));
        let underlay_drops = sockets.iter().map(same).collect::<io::Result<_>>().map_err(call("dup"))?;
        let identity = Arc::new(identity(&config, &random[16..32])?);
        let links = links(&config, &identity);
        let limits = Arc::new(config.limits());
        let (table, writer) = MacTable::new(config.max_macs, seed);
        let port_mtu = Arc::<PortMtu>::default();
        port_mtu.set(port.mtu());
        let shared = Shared {
            macs: table,
            own_mac,
            port_mtu: port_mtu.clone(),
            claims: limits.claims.clone(),
            events: events.clone(),
        };
        let mut gateway = Gateway {
            resolver: Resolver::new(identity.uid.clone(), own_mac, config.arp_expiry, config.arp_fresh, limits.clone()),
            macs: Macs::new(writer, config.mac_expiry, limits),
            identity,
            epoch,
            links,
            counters: Counters::default(),
            refusals: Refusals::default(),
            overload: Overload::default(),
            rpc_log: VecDeque::with_capacity(RPC_LOG),
            rpc_forgotten: 0,
            held: Vec::new(),
            published: Arc::default(),
            table_changed: false,
            timers: Timers::default(),
            throttle: Throttle::default(),
            knocks: Knocks::default(),
            log,
            notify: Notify::from_env(),
            watch: PortWatch::default(),
            address_missing: false,
            events,
            fair: Fair::default(),
            ways: Ways::new(routes, config.peers.len()),
            udp,
            underlay_drops,
            offloads,
            confinement: Confinement::none(),
            workers: Vec::new(),
            port,
            port_mtu,
            config,
        };
        let raw_ports = Arc::new(RawPorts::with(&gateway.config.raw_udp_ports));
        gateway.published = Arc::new(gateway.peer_table());
        for (lane, socket) in sockets.drain(..).enumerate() {
            let worker = WorkerConfig {
                lane: lane as u8,
                workers: gateway.config.workers,
                cpu: gateway.config.cpus.get(lane).copied(),
                port: gateway.port.kind(),
                groups: gateway.config.port.groups(),
                network: gateway.config.network,
                flood_rate: gateway.config.flood_rate,
                waiting: gateway.config.waiting,
                epoch,
                offloads: gateway.offloads.at_port,
                raw_ports: raw_ports.clone(),
                outer_class: gateway.config.outer_class,
                engine: gateway.config.io_uring,
                udp_gso: gateway.offloads.udp_gso.is_on(),
                zero_copy: gateway.config.offloads.zero_copy,
            };
            let sources = underlay::sources(gateway.config.listen, gateway.config.source_ports - 1)?;
            let underlay = Underlay { listen: socket, sources };
            let queue = gateway.port.queues()[lane].try_clone().map_err(call("dup"))?;
            let confined = confine.map(Confine::worker);
            let confined = move || confined.map_or(Ok(()), |confine| confine());
            let worker =
                Worker::spawn(worker, queue, underlay, shared.clone(), gateway.published.clone(), confined).map_err(
                    |error| GatewayError::Worker { lane: lane as u8, error, hint: features::hint(&gateway.config) },
                )?;
            gateway.workers.push(worker);
        }
        // Last: from here on guests' frames come in.
        if let (Port::Tap(tap), Some(bridge)) = (&gateway.port, gateway.config.port.bridge()) {
            gateway.follow_bridge_mtu(tap, bridge);
            gateway.port_mtu.set(gateway.port.mtu());
            match tap.attach_to(bridge) {
                // It may come later, and is looked for once a second.
                Ok(_) | Err(TapError::NoBridge(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        gateway.log_start();
        gateway.keep_in_bridge();
        gateway.look_at_address();
        Ok(gateway)
    }

    fn log_start(&self) {
        let Config { name, port, listen, peers, arp_expiry, mac_expiry, workers, cpus, network, .. } = &self.config;
        for warning in &self.config.warnings {
            warn!("{warning}");
        }
        self.log_features();
        info!(
            "gateway '{name}' {} uid {}: port {port} ({}, MTU {}), UDP {listen}, network {network}, \
             {} peers, {workers} workers{}, ARP entries live {arp_expiry} s, MACs {mac_expiry} s, control socket {}",
            env!("CARGO_PKG_VERSION"),
            self.identity.uid,
            self.port_mac(),
            self.port.mtu().unwrap_or(0),
            peers.len(),
            if cpus.is_empty() { String::new() } else { format!(" on cores {cpus:?}") },
            self.config.control_socket.display(),
        );
    }

    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Runs a step of the resolver and does what it asks for.
    fn step<T>(&mut self, now_ms: u64, run: impl FnOnce(&mut Resolver, &mut Step<'_>) -> T) -> T {
        let mut out: Vec<Action> = Vec::new();
        let peers_up = self.links.iter().filter(|link| link.is_up()).count();
        let mut step = Step { now_ms, macs: &mut self.macs, peers_up, out: &mut out };
        let result = run(&mut self.resolver, &mut step);
        for action in out {
            self.perform(action);
        }
        result
    }
}

fn peer_name(links: &[Link], peer: PeerId) -> String {
    links.get(peer.index()).map_or_else(|| format!("peer {}", peer.0), |link| link.name().to_owned())
}

/// Who this gateway is. In clear text nobody asks for a key, and `random` says who.
fn identity(config: &Config, random: &[u8]) -> Result<Identity, GatewayError> {
    let failed = |error: crate::keys::KeyError| call("making a key")(io::Error::other(error.to_string()));
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
    let private = config.identity.clone().map_or_else(|| PrivateKey::generate().map_err(failed), Ok)?;
    let public = private.public();
    Ok(Identity {
        uid: if config.identity.is_some() { public.uid() } else { hex(random) },
        private,
        public,
        life: random_u64(),
        name: config.name.clone(),
        network: config.network,
        workers: config.workers,
    })
}

fn links(config: &Config, identity: &Arc<Identity>) -> Vec<Link> {
    let link = |(index, peer): (usize, &PeerConfig)| {
        let (id, name, own) = (PeerId(index as u16), peer.name.clone(), identity.clone());
        match peer.public_key.filter(|_| config.identity.is_some()) {
            Some(key) => Link::sealed(id, name, peer.address, own, key, peer.preshared_key.clone()),
            None => Link::clear(id, name, peer.address, own, &mut random_u64),
        }
    };
    config.peers.iter().enumerate().map(link).collect()
}

/// For session indexes and jitter; the kernel's generator does not fail once the machine has started.
fn random_u64() -> u64 {
    random::<8>().map_or(0, u64::from_ne_bytes)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

fn u64_at(bytes: &[u8; 64], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}
