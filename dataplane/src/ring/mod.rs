//! The worker's io_uring: multishot receives into provided buffers, sends and writes from slots. Where there is no io_uring,
//! plain system calls stand in for it (`calls.rs`); whoever uses the [`Ring`] does not notice.
//!
//! The ring owns the memory of what is in flight. Completions that do not fit the queue wait in the kernel
//! (`IORING_FEAT_NODROP`), so none is lost.
// UNSAFETY: submission entries hold raw pointers. Invariant: they point into slots and pools that this struct owns; the
// slots are boxed and lent out until their completion; the drop order below lets the requests end first.
#![allow(unsafe_code)]

mod calls;
mod complete;
mod message;
mod pool;
mod queue;
mod receive;
mod slots;
mod submit;
mod uring;
mod waiting;
mod zero_copy;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fixed, RecvMsgOut};
use io_uring::{opcode, squeue};

pub(crate) use pool::{BufferPool, Layout};
pub(crate) use queue::Queue;
pub(crate) use slots::{MAX_DATAGRAMS, SendSlot, SlotId, Slots, WriteSlot};
pub(crate) use submit::{Sender, Writer};

pub use waiting::Waiting;
use waiting::{Look, Spin};
pub use zero_copy::Path as ZeroCopyPath;
use zero_copy::ZeroCopy;

use crate::addr::PeerId;
use crate::ending::Ending;
use crate::feature::{self, EngineChoice, State};
use crate::port::PortKind;
use crate::wire::ethernet::VLAN_TAG_LEN;
use crate::wire::tag;
use calls::Calls;
use queue::{Engine, Token};
use receive::Receive;

const PORT: Fixed = Fixed(0);
const UNDERLAY: Fixed = Fixed(1);
const WAKE: Fixed = Fixed(2);
/// Sockets that are only sent from are the registered files from here on.
const SOURCES: u32 = 3;
const PORT_GROUP: u16 = 0;
const UNDERLAY_GROUP: u16 = 1;

/// The largest message in whole pages: a frame with its virtio_net_hdr, and a 64 KiB train; both may lie behind `struct
/// io_uring_recvmsg_out`, name and control data.
const MAX_MESSAGE: usize = 17 * 4096;
const _: () =
    assert!(MAX_MESSAGE >= 16 + AUXDATA_LEN + crate::wire::ethernet::MAX_FRAME + crate::wire::vnet::VNET_HEADER_LEN);
const _: () = assert!(MAX_MESSAGE >= 65_535 + 16 + NAME_LEN + CONTROL_LEN);
/// The largest message of a packet socket, in whole pages: an interface may be told to have super-frames of up to
/// `GSO_MAX_SIZE` octets (include/linux/netdevice.h).
const MAX_PACKET_MESSAGE: usize = 129 * 4096;
const _: () = assert!(MAX_PACKET_MESSAGE >= MAX_MESSAGE + 7 * 65_535);
/// 2 MiB that are used: enough for a batch, and small enough to stay in the cache, since the kernel uses buffers in turns. What is
/// behind them is for a message that is longer than usual, and costs no memory until there is one.
const fn back_to_back(largest: usize) -> Layout {
    Layout { count: 4, len: 512 * 1024 - MAX_MESSAGE + largest, min_left: largest }
}
/// For kernels that cannot lay messages back to back.
const fn one_each(largest: usize) -> Layout {
    Layout { count: 64, len: largest, min_left: 0 }
}
const SEND_SLOTS: u16 = 64;
const WRITE_SLOTS: u16 = 256;
const SQ_ENTRIES: u32 = 512;
/// What does not fit waits in the kernel (`IORING_FEAT_NODROP`).
const CQ_ENTRIES: u32 = 4096;
/// How long the end of a ring waits for the kernel to have sent what it sends without a copy.
const ZERO_COPY_PATIENCE: Duration = Duration::from_secs(1);
/// Looking for the rest of a super-frame: its sender is at it.
const SETTLE: Duration = Duration::from_micros(20);

/// Room for a `sockaddr_in6` in front of each datagram.
const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();
/// Room for the `UDP_GRO` message.
const CONTROL_LEN: usize = 64;
/// Room for a `struct tpacket_auxdata`, and for the tag that it tells of: the frame follows.
const AUXDATA_LEN: usize = 40;
const _: () = assert!(AUXDATA_LEN >= VLAN_TAG_LEN);

/// What has come from the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Virtio_net_hdr and frame.
    Frame(Place),
    /// The port had a frame, but it could not be taken.
    Lost(Ending),
}

/// Where something that has come lies: `len` octets in a buffer of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) buffer: u16,
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// What has come and was not fetched yet. It keeps its memory.
struct Arrivals<T> {
    list: Vec<T>,
    /// The first that was not fetched.
    next: usize,
}

impl<T: Copy> Arrivals<T> {
    fn new() -> Arrivals<T> {
        Arrivals { list: Vec::with_capacity(CQ_ENTRIES as usize), next: 0 }
    }

    fn push(&mut self, arrival: T) {
        self.list.push(arrival);
    }

    fn pop(&mut self) -> Option<T> {
        let arrival = self.list.get(self.next).copied();
        self.next += usize::from(arrival.is_some());
        // Moved to the front only now and then: there may be many of them.
        if self.next == self.list.len() || self.next >= CQ_ENTRIES as usize {
            self.list.drain(..self.next);
            self.next = 0;
        }
        arrival
    }

    fn len(&self) -> usize {
        self.list.len() - self.next
    }
}

/// A send or a write that the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// True for the port, false for the underlay.
    pub(crate) port: bool,
    pub(crate) peer: PeerId,
    pub(crate) frames: u64,
    pub(crate) errno: i32,
    /// It was a UDP super-frame.
    pub(crate) uso: bool,
}

/// An error where something should have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReceiveFailure {
    /// True for the port, false for the underlay.
    pub(crate) port: bool,
    pub(crate) errno: i32,
    /// It lasts, and people should be told.
    pub(crate) tell: bool,
}

/// A received train: who sent it, where the datagrams lie in the buffer, how long each is (the last may be shorter).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Train {
    pub(crate) from: SocketAddr,
    pub(crate) range: Range<usize>,
    pub(crate) segment: usize,
    /// The traffic class that they arrived with: the kernel joins what is alike.
    pub(crate) class: u8,
}

/// What a ring is made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// What the port is.
    pub(crate) port: PortKind,
    /// How to wait.
    pub(crate) waiting: Waiting,
    /// io_uring or system calls.
    pub(crate) choice: EngineChoice,
    /// Without it every datagram is a send of its own.
    pub(crate) gso: bool,
    /// Trains may be sent without a copy, where that is seen to work.
    pub(crate) zero_copy: bool,
    /// How many peers there are.
    pub(crate) peers: usize,
}

/// What a ring works on.
pub(crate) struct Files<'a> {
    /// A queue of the port.
    pub(crate) port: BorrowedFd<'a>,
    /// Sends, and receives.
    pub(crate) underlay: BorrowedFd<'a>,
    /// An eventfd that wakes the worker.
    pub(crate) wake: BorrowedFd<'a>,
    /// Sockets that are only sent from.
    pub(crate) sources: Vec<BorrowedFd<'a>>,
}

/// The ring with everything that it may touch.
pub(crate) struct Ring {
    // Dropped first: `Drop` has cancelled what was in flight, then the descriptor closes, then the memory goes.
    queue: Queue,
    receive: Box<libc::msghdr>,
    /// For a packet socket, which is received from; a TAP is read.
    port_receive: Option<Box<libc::msghdr>>,
    wake_value: Box<u64>,
    pub(crate) port_pool: BufferPool,
    pub(crate) underlay_pool: BufferPool,
    sends: Slots<SendSlot>,
    writes: Slots<WriteSlot>,
    /// From the port, and from peers: two queues, since each direction has its share of a round.
    frames: Arrivals<Arrival>,
    trains: Arrivals<Place>,
    /// The control thread has something for the worker.
    woken: bool,
    refusals: Vec<Refusal>,
    pub(crate) zero_copy: ZeroCopy,
    port_requests: Receive,
    underlay_requests: Receive,
    wake_armed: bool,
    /// Errors of those requests since they were last asked for.
    failures: Vec<ReceiveFailure>,
    /// The worker's clock, as of this round.
    now_ms: u64,
    /// Sends whose octets the kernel still reads, although they are done.
    unnotified: usize,
    /// READ_MULTISHOT works (Linux 6.7); otherwise one read at a time.
    port_multishot: bool,
    spin: Spin,
    settle: Spin,
    /// Zero if the kernel does not know it (Linux 6.12).
    min_wait: Duration,
    /// The kernel refused a train that its datagrams may pass one by one.
    gso_refused: bool,
    /// What works, for people.
    report: feature::Engine,
    /// Writes since the account was last taken: the peer, its frames, and their octets.
    written: Vec<(PeerId, (u64, u64))>,
}

impl Ring {
    /// A ring over these files. Must be made on the worker's thread.
    pub(crate) fn new(files: Files<'_>, setup: Setup) -> io::Result<Ring> {
        let Setup { port, waiting, choice, gso, zero_copy, peers } = setup;
        let Files { port: port_file, underlay, wake, sources } = files;
        let [port_file, underlay, wake] = [port_file, underlay, wake].map(|file| file.as_raw_fd());
        let sources = sources.iter().map(|file| file.as_raw_fd());
        let sockets: Vec<_> = [underlay].into_iter().chain(sources.clone()).collect();
        // In the order of their numbers.
        let files: Vec<_> = [port_file, underlay, wake].into_iter().chain(sources).collect();
        let largest = match port {
            PortKind::Tap => MAX_MESSAGE,
            PortKind::Packet => MAX_PACKET_MESSAGE,
        };
        let opened = match choice {
            EngineChoice::Calls => Err("switched off in the config".to_owned()),
            _ => uring::open(&files, [(PORT_GROUP, largest), (UNDERLAY_GROUP, MAX_MESSAGE)]),
        };
        let mut spin = waiting.spin;
        let mut min_wait = Duration::ZERO;
        let (engine, [port_pool, underlay_pool], report) = match opened {
            Ok(uring::Opened { io, pools, features, zero_copy: known }) => {
                if io.params().is_feature_min_timeout() {
                    min_wait = waiting.min_wait;
                }
                let zero_copy = match (zero_copy, gso, known) {
                    (false, ..) => State::by_config(),
                    (_, false, _) => State::Off("takes udp_gso".to_owned()),
                    (.., known) => known,
                };
                (Engine::Uring(io), pools, feature::Engine { no_io_uring: None, zero_copy, features })
            }
            Err(reason) if choice == EngineChoice::IoUring => return Err(io::Error::other(reason)),
            Err(reason) => {
                // Nothing says that there is work but a system call, so there is nothing to look at.
                spin = Duration::ZERO;
                let zero_copy = if zero_copy { State::Off("takes io_uring".to_owned()) } else { State::by_config() };
                let report = feature::Engine { no_io_uring: Some(reason), zero_copy, features: Vec::new() };
                let pools = [BufferPool::new(one_each(largest))?, BufferPool::new(one_each(MAX_MESSAGE))?];
                (Engine::Calls(Calls::new(port, [port_file, underlay, wake])), pools, report)
            }
        };
        Ok(Ring {
            queue: Queue { engine, done: VecDeque::with_capacity(CQ_ENTRIES as usize), sockets, gso },
            receive: multishot_header(NAME_LEN, CONTROL_LEN),
            port_receive: (port == PortKind::Packet).then(|| multishot_header(0, AUXDATA_LEN)),
            wake_value: Box::new(0),
            port_pool,
            underlay_pool,
            sends: Slots::new(SEND_SLOTS, SendSlot::new),
            writes: Slots::new(WRITE_SLOTS, WriteSlot::new),
            frames: Arrivals::new(),
            trains: Arrivals::new(),
            woken: false,
            refusals: Vec::with_capacity(usize::from(SEND_SLOTS + WRITE_SLOTS)),
            zero_copy: ZeroCopy::new(if report.zero_copy.is_on() { peers } else { 0 }),
            port_requests: Receive::default(),
            underlay_requests: Receive::default(),
            wake_armed: false,
            failures: Vec::with_capacity(4),
            now_ms: 0,
            unnotified: 0,
            port_multishot: report.features.iter().all(|f| f.name != uring::MULTISHOT_READ || f.state.is_on()),
            settle: Spin::new(if spin.is_zero() { spin } else { SETTLE }),
            spin: Spin::new(spin),
            min_wait,
            gso_refused: false,
            report,
            written: Vec::with_capacity(usize::from(WRITE_SLOTS)),
        })
    }

    /// Submits everything, and takes what is done and what has arrived.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.arm()?;
        self.submit_now()
    }

    /// Something has come that was not fetched yet.
    pub(crate) fn has_arrivals(&self) -> bool {
        self.woken || self.frames.len() + self.trains.len() > 0
    }

    /// The time, which the worker reads once per round.
    pub(crate) fn set_now(&mut self, now_ms: u64) {
        (self.now_ms, self.zero_copy.now_ms) = (now_ms, now_ms);
    }

    /// Waits for an arrival or a completion unless there is an arrival already: looks for a while, then sleeps.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        if let Engine::Calls(_) = self.queue.engine {
            return self.receive_by_calls(!self.has_arrivals());
        }
        if self.has_arrivals() {
            return Ok(());
        }
        if !self.is_armed() {
            // What was submitted last has ended a multishot request.
            return self.submit();
        }
        let begin = Instant::now();
        let Ring { queue, spin, .. } = self;
        if spin.look(|| queue.has_work()) == Look::Found {
            return self.submit_now();
        }
        self.queue.sleep(self.min_wait, self.pause())?;
        self.spin.slept(begin.elapsed());
        self.reap()
    }

    /// Takes what has come meanwhile, or comes in a moment, for when the rest of something is sure to be on its way.
    /// False if nothing has come.
    pub(crate) fn settle(&mut self) -> io::Result<bool> {
        self.submit_now()?;
        if let Engine::Calls(_) = self.queue.engine {
            self.receive_by_calls(false)?;
        } else if !self.has_arrivals() {
            let Ring { queue, settle, .. } = self;
            let look = settle.look(|| queue.has_work());
            settle.tried(look);
            self.submit_now()?;
        }
        Ok(self.has_arrivals())
    }

    /// Submits everything now and takes back the slots that are done: for when the slots have run out in mid-batch.
    pub(crate) fn submit_now(&mut self) -> io::Result<()> {
        self.queue.submit()?;
        self.reap()
    }

    /// What works, for people.
    pub(crate) fn report(&self) -> &feature::Engine {
        &self.report
    }

    /// True once the kernel has refused a train whose datagrams it may take one by one, as they leave from then on.
    pub(crate) fn gso_refused(&self) -> bool {
        self.gso_refused
    }

    /// The next arrival from the port. A buffer of its pool that it names has one reference, which the caller releases.
    pub(crate) fn next_frame(&mut self) -> Option<Arrival> {
        self.frames.pop()
    }

    /// The next train from the underlay, in a buffer of its pool, with the same rule; read it with [`Ring::train`].
    pub(crate) fn next_train(&mut self) -> Option<Place> {
        self.trains.pop()
    }

    /// True if the control thread has something for the worker; once.
    pub(crate) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// The errors, since the last call, where something should have come.
    pub(crate) fn receive_failures(&mut self) -> std::vec::Drain<'_, ReceiveFailure> {
        self.failures.drain(..)
    }

    /// The sends and writes that failed since the last call.
    pub(crate) fn refusals(&mut self) -> std::vec::Drain<'_, Refusal> {
        self.refusals.drain(..)
    }

    /// What the port took since the last call: from whom, how many frames and octets.
    pub(crate) fn written(&mut self) -> std::vec::Drain<'_, (PeerId, (u64, u64))> {
        self.written.drain(..)
    }

    /// The parts that sending needs.
    pub(crate) fn sender(&mut self) -> Sender<'_> {
        Sender { queue: &mut self.queue, slots: &mut self.sends, pool: &self.port_pool, zero_copy: &mut self.zero_copy }
    }

    /// The parts that writing to the port needs.
    pub(crate) fn writer(&mut self) -> Writer<'_> {
        Writer { queue: &mut self.queue, slots: &mut self.writes, pool: &self.underlay_pool }
    }

    /// Sockets that can be sent from.
    pub(crate) fn sources(&self) -> usize {
        self.queue.sockets.len()
    }

    /// Send slots that are free.
    pub(crate) fn free_sends(&self) -> usize {
        self.sends.available()
    }

    /// A frame that was gathered is not to be written.
    pub(crate) fn forget_write(&mut self, id: SlotId) {
        self.writes.get(&id).clear(&mut self.underlay_pool);
        self.writes.give_back(id);
    }

    /// Write slots that are free.
    pub(crate) fn free_writes(&self) -> usize {
        self.writes.available()
    }

    /// Reads the head of a received train. `None` if the kernel cut it off or the address is of no known family.
    pub(crate) fn train(&self, place: Place) -> Option<Train> {
        let Place { buffer, at, len } = place;
        let bytes = self.underlay_pool.bytes(buffer, at..at + len);
        let out = RecvMsgOut::parse(bytes, &self.receive).ok()?;
        if out.is_payload_truncated() {
            return None;
        }
        let payload = out.payload_data();
        let start = at + payload.as_ptr() as usize - bytes.as_ptr() as usize;
        Some(Train {
            from: message::address(out.name_data())?,
            range: start..start + payload.len(),
            segment: message::gro_size(out.control_data()).unwrap_or(payload.len()).max(1),
            class: message::traffic_class(out.control_data()),
        })
    }

    /// True if there is nothing to arm: it is armed, or there is no buffer to arm it with, or it is not to be yet.
    fn is_armed(&self) -> bool {
        let done = |requests: &Receive, pool: &BufferPool| !requests.is_due(self.now_ms) || !pool.has_free();
        done(&self.port_requests, &self.port_pool)
            && done(&self.underlay_requests, &self.underlay_pool)
            && self.wake_armed
    }

    /// How long a sleep may be, if something is to be armed then.
    fn pause(&self) -> Option<Duration> {
        [&self.port_requests, &self.underlay_requests].into_iter().filter_map(|it| it.pause(self.now_ms)).min()
    }

    /// A message from the port in a buffer: from a TAP it is the frame; from a packet socket the frame lies behind what the
    /// kernel tells of it, and gets its tag back.
    fn frame(&mut self, buffer: u16, at: usize, len: usize) -> Arrival {
        let Some(receive) = &self.port_receive else { return Arrival::Frame(Place { buffer, at, len }) };
        let end = at + len;
        let parsed = RecvMsgOut::parse(self.port_pool.bytes(buffer, at..end), receive).ok();
        // The kernel drops what does not fit, without a word in the length.
        let whole = parsed.filter(|out| !out.is_payload_truncated());
        let found = whole.map(|out| (out.payload_data().len(), message::tag(out.control_data())));
        let Some((frame_len, tag)) = found else {
            self.port_pool.release(buffer);
            return Arrival::Lost(Ending::FrameTruncated);
        };
        let at = end - frame_len;
        if let Some(tag) = tag
            && tag::restore(self.port_pool.bytes_mut(buffer, at - VLAN_TAG_LEN..end), tag)
        {
            return Arrival::Frame(Place { buffer, at: at - VLAN_TAG_LEN, len: frame_len + VLAN_TAG_LEN });
        }
        Arrival::Frame(Place { buffer, at, len: frame_len })
    }

    fn arm(&mut self) -> io::Result<()> {
        if let Engine::Calls(_) = self.queue.engine {
            return Ok(());
        }
        if self.port_requests.is_due(self.now_ms) && self.port_pool.has_free() {
            let entry = if let Some(receive) = &self.port_receive {
                opcode::RecvMsgMulti::new(PORT, &**receive, PORT_GROUP).build()
            } else if self.port_multishot {
                // io-uring 0.7.15 overwrites the flag of a registered file here, and descriptor 0 would be read.
                opcode::ReadMulti::new(PORT, 0, PORT_GROUP).build().flags(squeue::Flags::FIXED_FILE)
            } else {
                opcode::Read::new(PORT, std::ptr::null_mut(), MAX_MESSAGE as u32)
                    .buf_group(PORT_GROUP)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT)
            };
            // SAFETY: the kernel writes only to buffers that it picks from the registered group; `port_receive` is boxed
            // and lives as long as the ring.
            unsafe { self.queue.push(entry, Token::PortRead)? };
            self.port_requests.armed = true;
        }
        if self.underlay_requests.is_due(self.now_ms) && self.underlay_pool.has_free() {
            let entry = opcode::RecvMsgMulti::new(UNDERLAY, &*self.receive, UNDERLAY_GROUP).build();
            // SAFETY: `receive` is boxed and lives as long as the ring; buffers as above.
            unsafe { self.queue.push(entry, Token::UnderlayReceive)? };
            self.underlay_requests.armed = true;
        }
        if !self.wake_armed {
            let read = opcode::Read::new(WAKE, std::ptr::from_mut(&mut *self.wake_value).cast(), 8).build();
            // SAFETY: `wake_value` is boxed and lives as long as the ring.
            unsafe { self.queue.push(read, Token::Wake)? };
            self.wake_armed = true;
        }
        Ok(())
    }

    fn reap(&mut self) -> io::Result<()> {
        // Copied out one by one, since handling a completion needs the whole ring.
        while let Some(completion) = self.queue.next_completion() {
            self.complete(completion)?;
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let Engine::Uring(io) = &self.queue.engine else { return };
        // Closing the descriptor ends requests some time later; this waits until none can write to our memory.
        let _ = io.submitter().register_sync_cancel(None, CancelBuilder::any());
        self.wait_for_notifications();
        let Engine::Uring(io) = &self.queue.engine else { return };
        // The kernel tears a ring down in the background and would keep the TAP alive meanwhile.
        let _ = io.submitter().unregister_files();
    }
}

impl Ring {
    /// A card, or a neighbour that is being looked for, may hold what was sent without a copy. Its memory must not be given to
    /// anybody else, whose octets would then leave: so it waits, and what is held even then is never freed.
    fn wait_for_notifications(&mut self) {
        let begin = Instant::now();
        let mut waits = true;
        while waits {
            // What was cancelled says so, as an error.
            while self.reap().is_err() {}
            let left = ZERO_COPY_PATIENCE.saturating_sub(begin.elapsed());
            waits = self.unnotified > 0 && !left.is_zero() && self.queue.sleep(Duration::ZERO, Some(left)).is_ok();
        }
        if self.unnotified > 0 {
            self.sends.leak();
            self.port_pool.leak();
        }
    }
}

/// For a multishot receive, which reads only the two lengths of it: how much room each buffer has for a name and for
/// control messages.
fn multishot_header(name: usize, control: usize) -> Box<libc::msghdr> {
    // SAFETY: all-zero is a valid msghdr.
    let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
    header.msg_namelen = name as u32;
    header.msg_controllen = control;
    header
}
