//! A worker: one thread, one ring, one queue of the port, one socket, both directions, run to completion.

mod egress;
mod handshakes;
mod ingress;
mod news;
mod outbox;
mod pieces;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::utils::CachePadded;
use nix::sys::eventfd::EventFd;

use crate::addr::MacAddr;
use crate::claims::Claims;
use crate::ending::{Counters, Ending, PeerCounters};
use crate::event::{Event, Events, Notice};
use crate::feature::{Engine, EngineChoice};
use crate::forward::GroupMask;
use crate::mac_table::MacTable;
use crate::offloads::Offloads;
use crate::peers::{Mailbox, PeerTable};
use crate::port::{self, LargestFrame, PortKind, PortMtu};
use crate::raw_ports::RawPorts;
use crate::ring::{Arrival, Files, Ring, Setup};
use crate::underlay::Underlay;
use crate::wire::traffic_class::OuterClass;

pub use crate::ring::{Waiting, ZeroCopyPath};

use egress::Egress;
use ingress::Ingress;
use news::News;

/// Frames of each direction that are handled before what they have led to leaves: a frame is in nobody's way for longer, and
/// neither direction in that of the other.
const ROUND: usize = 256;
/// Rounds that one round may grow by, while each of them leaves a super-frame unfinished.
const SETTLE_ROUNDS: usize = 4;

/// What a worker is told at its start.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Its lane: 0 and up, below [`crate::datagram::CONTROL_LANE`].
    pub lane: u8,
    /// How many workers there are.
    pub workers: usize,
    /// The core that it stays on.
    pub cpu: Option<usize>,
    /// What its queue of the port is.
    pub port: PortKind,
    /// Which reserved group addresses it carries, both ways.
    pub groups: GroupMask,
    /// Network identifier, 24 bits.
    pub network: u32,
    /// Unknown unicast frames per second that are flooded.
    pub flood_rate: u64,
    /// How it waits for the next frame.
    pub waiting: Waiting,
    /// The start of the gateway's clock.
    pub epoch: Instant,
    /// What the port can do.
    pub offloads: Offloads,
    /// UDP ports whose datagrams are left single.
    pub raw_ports: Arc<RawPorts>,
    /// The traffic class of what goes to peers.
    pub outer_class: OuterClass,
    /// io_uring or system calls.
    pub engine: EngineChoice,
    /// Trains of datagrams are sent as one (UDP GSO).
    pub udp_gso: bool,
    /// Trains may be sent without a copy, to peers whose path is seen not to copy them.
    pub zero_copy: bool,
}

impl WorkerConfig {
    fn io(&self, peers: usize) -> Setup {
        let WorkerConfig { port, waiting, engine: choice, udp_gso: gso, zero_copy, .. } = *self;
        Setup { port, waiting, choice, gso, zero_copy, peers }
    }
}

/// What a worker counts.
pub struct WorkerStats {
    /// Endings of frames and datagrams.
    pub counters: Counters,
    /// Traffic by peer.
    pub peers: Box<[CachePadded<PeerCounters>]>,
    /// Sources that the control thread was not told of: beyond the rate, or the queue was full. The frames went on.
    pub learn_lost: std::sync::atomic::AtomicU64,
    /// UDP GSO was refused on the way to some peer, and is not used any more.
    pub gso_refused: AtomicBool,
    /// The port has refused a UDP super-frame, and gets none any more.
    pub uso_refused: AtomicBool,
}

impl WorkerStats {
    fn new(peers: usize) -> WorkerStats {
        WorkerStats {
            counters: Counters::default(),
            peers: (0..peers).map(|_| CachePadded::default()).collect(),
            learn_lost: Default::default(),
            gso_refused: Default::default(),
            uso_refused: Default::default(),
        }
    }
}

/// A running worker.
pub struct Worker {
    /// Its counters.
    pub stats: Arc<WorkerStats>,
    /// Where it fetches the table of peers.
    pub mailbox: Arc<Mailbox<PeerTable>>,
    /// How it reads and writes.
    pub engine: Engine,
    /// UDP ports that it sends from; the first is the one that peers send to.
    pub ports: Vec<u16>,
    thread: Option<JoinHandle<()>>,
    wake: Arc<EventFd>,
    stopping: Arc<AtomicBool>,
}

/// What workers share.
#[derive(Clone)]
pub struct Shared {
    /// The MAC table.
    pub macs: Arc<MacTable>,
    /// The MAC that the gateway asks stations from.
    pub own_mac: MacAddr,
    /// The port's MTU.
    pub port_mtu: Arc<PortMtu>,
    /// What each peer may claim, by its number.
    pub claims: Arc<[Claims]>,
    /// The queues to the control thread, and what each peer may put there.
    pub events: Arc<Events>,
}

impl Worker {
    /// Starts a worker on a queue of the port and its sockets; returns when its engine works, or with the reason why not.
    /// `opened` is called on its thread once nothing is left to be opened: there it can give up rights.
    pub fn spawn(
        config: WorkerConfig,
        port: OwnedFd,
        underlay: Underlay,
        shared: Shared,
        table: Arc<PeerTable>,
        opened: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Worker> {
        let peers = table.peers.len();
        let sockets = std::iter::once(&underlay.listen).chain(&underlay.sources);
        let ports = sockets.map(|socket| Ok(socket.local_addr()?.port())).collect::<io::Result<_>>()?;
        let stats = Arc::new(WorkerStats::new(peers));
        let mailbox = Arc::new(Mailbox::default());
        let wake = Arc::new(EventFd::new()?);
        let stopping = Arc::new(AtomicBool::new(false));
        let (ready, started) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("worker-{}", config.lane)).spawn({
            let (stats, mailbox, wake, stopping) = (stats.clone(), mailbox.clone(), wake.clone(), stopping.clone());
            move || {
                let begin = || {
                    // Signals belong to the control thread.
                    nix::sys::signal::SigSet::all().thread_block()?;
                    if let Some(cpu) = config.cpu {
                        pin(cpu)?;
                    }
                    let files = Files {
                        port: port.as_fd(),
                        underlay: underlay.listen.as_fd(),
                        wake: wake.as_fd(),
                        sources: underlay.sources.iter().map(AsFd::as_fd).collect(),
                    };
                    let ring = Ring::new(files, config.io(peers))?;
                    opened()?;
                    Ok(ring)
                };
                let ring = match begin() {
                    Ok(ring) => ring,
                    Err(error) => return ready.send(Err(error)).unwrap_or(()),
                };
                let engine = ring.report().clone();
                let events = shared.events.clone();
                let mut state = State::new(&config, ring, port.as_fd(), shared, stats, mailbox, table);
                let _ = ready.send(Ok(engine));
                // A panic here is a defect. It must not leave a gateway behind that looks alive and moves nothing.
                let run = std::panic::AssertUnwindSafe(|| state.run(&stopping).map_err(|error| error.to_string()));
                let ended = std::panic::catch_unwind(run).unwrap_or_else(|_| Err("it panicked".to_owned()));
                if let Err(error) = ended {
                    // There is room for it, but it must get through also where there is none.
                    let mut notice = Notice::Failed(error);
                    // Unless the gateway ends anyway: then nobody empties the queue.
                    while !stopping.load(Relaxed)
                        && let Err(again) = events.push_notice(notice)
                    {
                        notice = again;
                        events.signal();
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                    events.signal();
                }
            }
        })?;
        match started.recv() {
            Ok(Ok(engine)) => Ok(Worker { stats, mailbox, engine, ports, thread: Some(thread), wake, stopping }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the worker thread ended before it began")),
        }
    }

    /// Makes the worker look at its mailbox soon, also if it has nothing else to do.
    pub fn wake(&self) -> io::Result<()> {
        self.wake.write(1)?;
        Ok(())
    }
}

impl Drop for Worker {
    /// Ends the worker after its current batch and waits for it.
    fn drop(&mut self) {
        self.stopping.store(true, Relaxed);
        if let (Some(thread), Ok(())) = (self.thread.take(), self.wake()) {
            let _ = thread.join();
        }
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    Ok(())
}

/// The gateway's clock, read once per batch.
#[derive(Debug, Clone, Copy)]
struct Now {
    ms: u64,
}

impl Now {
    fn seconds(self) -> u32 {
        (self.ms / 1000) as u32
    }
}

/// What both directions use.
struct Context<'a> {
    ring: Ring,
    port: std::os::fd::BorrowedFd<'a>,
    macs: Arc<MacTable>,
    own_mac: MacAddr,
    groups: GroupMask,
    port_mtu: Arc<PortMtu>,
    /// As of this round.
    largest: LargestFrame,
    offloads: Offloads,
    raw_ports: Arc<RawPorts>,
    outer_class: OuterClass,
    claims: Arc<[Claims]>,
    table: Arc<PeerTable>,
    stats: Arc<WorkerStats>,
    events: Arc<Events>,
    news: News,
    now: Now,
    lane: u8,
    network: u32,
}

impl Context<'_> {
    fn count(&self, ending: Ending) {
        self.stats.counters.add(ending, 1);
    }

    /// Submits in the middle of a round.
    fn submit(&mut self) -> io::Result<()> {
        self.ring.submit_now()?;
        self.account();
        Ok(())
    }

    /// Counts what the kernel took and what it refused.
    fn account(&mut self) {
        let Context { ring, stats, news, offloads, .. } = self;
        for (peer, (frames, octets)) in ring.written() {
            ingress::account_delivery(stats, peer, frames, octets);
        }
        for refusal in ring.refusals() {
            // What is asked of the port has been looked at, so the kernel cannot do it. But if it has been seen to, then it
            // is about this frame alone.
            if refusal.uso && refusal.errno == libc::EINVAL && !offloads.uso_proven {
                (offloads.uso, offloads.udp_merge) = (false, false);
                stats.uso_refused.store(true, Relaxed);
            }
            let ending = match (refusal.port, refusal.errno) {
                (true, errno) => port::refusal(errno),
                (false, libc::EMSGSIZE) => {
                    news.push(Event::Notice(Notice::TooBig(refusal.peer)));
                    Ending::SendTooBig
                }
                (false, libc::EAGAIN | libc::ENOBUFS) => Ending::SendQueueFull,
                (false, _) => Ending::SendUnreachable,
            };
            stats.counters.add(ending, refusal.frames);
        }
        for failure in ring.receive_failures() {
            stats.counters.add(if failure.port { Ending::PortReadFailed } else { Ending::ReceiveFailed }, 1);
            if failure.tell {
                news.push(Event::Notice(Notice::ReceiveFails { port: failure.port, errno: failure.errno }));
            }
        }
        for (peer, path) in ring.zero_copy.changes() {
            if let Some(account) = stats.peers.get(peer.index()) {
                account.zero_copy.store(path.pack(), Relaxed);
            }
        }
        if ring.gso_refused() {
            stats.gso_refused.store(true, Relaxed);
        }
    }
}

struct State<'a> {
    context: Context<'a>,
    egress: Egress,
    ingress: Ingress,
    mailbox: Arc<Mailbox<PeerTable>>,
    epoch: Instant,
}

impl<'a> State<'a> {
    fn new(
        config: &WorkerConfig,
        ring: Ring,
        port: std::os::fd::BorrowedFd<'a>,
        shared: Shared,
        stats: Arc<WorkerStats>,
        mailbox: Arc<Mailbox<PeerTable>>,
        table: Arc<PeerTable>,
    ) -> State<'a> {
        let peers = table.peers.len();
        let news = News::new(shared.events.clone(), stats.clone());
        let sources = ring.sources();
        State {
            context: Context {
                ring,
                port,
                macs: shared.macs,
                own_mac: shared.own_mac,
                groups: config.groups,
                largest: shared.port_mtu.largest(),
                port_mtu: shared.port_mtu,
                offloads: config.offloads,
                raw_ports: config.raw_ports.clone(),
                outer_class: config.outer_class,
                claims: shared.claims,
                table,
                stats,
                events: shared.events,
                news,
                now: Now { ms: 0 },
                lane: config.lane,
                network: config.network,
            },
            egress: Egress::new(peers, sources, config.flood_rate),
            ingress: Ingress::new(peers, config.workers),
            mailbox,
            epoch: config.epoch,
        }
    }

    /// Until it is told to stop. The steps are those of ARCHITECTURE.md.
    fn run(&mut self, stopping: &AtomicBool) -> io::Result<()> {
        loop {
            self.context.ring.submit()?;
            self.context.account();
            self.context.ring.wait()?;
            self.mailbox.refresh(&mut self.context.table);
            self.context.now = Now { ms: self.epoch.elapsed().as_millis() as u64 };
            self.context.ring.set_now(self.context.now.ms);
            self.context.largest = self.context.port_mtu.largest();
            let mut woken = self.round()?;
            // The next train brings the rest of a super-frame. Writing it whole is half the work for the bridge, and makes
            // half the acknowledgements.
            for _ in 0..SETTLE_ROUNDS {
                if woken || !self.ingress.is_unfinished() || !self.context.ring.settle()? {
                    break;
                }
                self.context.account();
                // What has just come may be in a session that began meanwhile.
                self.mailbox.refresh(&mut self.context.table);
                woken = self.round()?;
            }
            self.ingress.flush(&mut self.context)?; // (12)
            self.context.news.signal(self.context.now);
            if woken && stopping.load(Relaxed) {
                return self.context.ring.submit();
            }
        }
    }

    /// Handles some of what has arrived; true if the control thread has woken it. What is left is another round: the clock and
    /// the table of peers are looked at in between.
    fn round(&mut self) -> io::Result<bool> {
        let State { context, egress, ingress, .. } = self;
        // (1) to (5)
        for _ in 0..ROUND {
            match context.ring.next_frame() {
                Some(Arrival::Frame(place)) => {
                    egress.frame(context, place)?;
                    context.ring.port_pool.release(place.buffer);
                }
                Some(Arrival::Lost(ending)) => context.count(ending),
                None => break,
            }
        }
        egress.flush(context)?; // (6)
        // (7) to (11)
        ingress.begin_round();
        while !ingress.round_is_over()
            && let Some(place) = context.ring.next_train()
        {
            ingress.train(context, place)?;
            context.ring.underlay_pool.release(place.buffer);
        }
        Ok(context.ring.take_woken())
    }
}

#[cfg(test)]
mod tests;
