//! The worker's io_uring: multishot receives into provided buffers, sends and writes from slots. Where there is no io_uring,
//! plain system calls stand in for it (`calls.rs`); whoever uses the [`Ring`] does not notice.
//!
//! The ring owns the memory of what is in flight. It cannot overflow: completions that can be outstanding are bounded by
//! the numbers of buffers and slots, and the completion queue is larger than their sum.
// UNSAFETY: submission entries hold raw pointers. Invariant: they point into slots and pools that this struct owns; the
// slots are boxed and lent out until their completion; the drop order below lets the requests end first.
#![allow(unsafe_code)]

mod calls;
mod pool;
mod queue;
mod slots;
mod uring;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::{CancelBuilder, Fixed, RecvMsgOut};
use io_uring::{opcode, squeue};

pub(crate) use pool::BufferPool;
pub(crate) use queue::Queue;
pub(crate) use slots::{MAX_DATAGRAMS, SendSlot, SlotId, Slots, WriteSlot};

use crate::addr::PeerId;
use crate::feature::{self, EngineChoice};
use calls::Calls;
use queue::{Completion, Engine};

const PORT: Fixed = Fixed(0);
const UNDERLAY: Fixed = Fixed(1);
const STOP: Fixed = Fixed(2);
const PORT_GROUP: u16 = 0;
const UNDERLAY_GROUP: u16 = 1;

/// A frame with its virtio_net_hdr: the largest that a TAP can hand over, in whole pages.
const PORT_BUFFER: usize = 17 * 4096;
/// A 64 KiB train behind `struct io_uring_recvmsg_out`, name and control data.
const UNDERLAY_BUFFER: usize = 17 * 4096;
const _: () = assert!(PORT_BUFFER >= crate::wire::ethernet::MAX_FRAME + crate::wire::vnet::VNET_HEADER_LEN);
const PORT_BUFFERS: u16 = 256;
const UNDERLAY_BUFFERS: u16 = 128;
const SEND_SLOTS: u16 = 64;
const WRITE_SLOTS: u16 = 256;
const SQ_ENTRIES: u32 = 512;
const CQ_ENTRIES: u32 = 2048;
const _: () =
    assert!(CQ_ENTRIES > PORT_BUFFERS as u32 + UNDERLAY_BUFFERS as u32 + SEND_SLOTS as u32 + WRITE_SLOTS as u32 + 8);

/// Room for a `sockaddr_in6` in front of each datagram.
const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();
/// Room for the `UDP_GRO` message.
const CONTROL_LEN: usize = 64;

/// What a completion is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    PortRead,
    UnderlayReceive,
    Stop,
    Send(u16),
    Write(u16),
}

impl Token {
    fn pack(self) -> u64 {
        match self {
            Token::PortRead => 0,
            Token::UnderlayReceive => 1,
            Token::Stop => 2,
            Token::Send(slot) => 3 << 32 | u64::from(slot),
            Token::Write(slot) => 4 << 32 | u64::from(slot),
        }
    }

    fn unpack(data: u64) -> Token {
        match (data >> 32, data as u16) {
            (0, 0) => Token::PortRead,
            (0, 1) => Token::UnderlayReceive,
            (3, slot) => Token::Send(slot),
            (4, slot) => Token::Write(slot),
            _ => Token::Stop,
        }
    }
}

/// What the worker has to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// `len` octets from the port in a buffer of the port's pool: virtio_net_hdr and frame.
    Frame { buffer: u16, len: usize },
    /// A train from the underlay in a buffer of its pool; read it with [`Ring::train`].
    Train { buffer: u16, len: usize },
    /// The stop event was signalled.
    Stop,
}

/// A send or a write that the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// True for the port, false for the underlay.
    pub(crate) port: bool,
    pub(crate) peer: PeerId,
    pub(crate) frames: u64,
    pub(crate) errno: i32,
}

/// A received train: who sent it, where the datagrams lie in the buffer, how long each is (the last may be shorter).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Train {
    pub(crate) from: SocketAddr,
    pub(crate) range: Range<usize>,
    pub(crate) segment: usize,
}

/// What it takes to send: a view on parts of the ring, so that octets of the pool can be borrowed meanwhile.
pub(crate) struct Sender<'a> {
    pub(crate) queue: &'a mut Queue,
    pub(crate) slots: &'a mut Slots<SendSlot>,
    pub(crate) pool: &'a BufferPool,
}

/// What it takes to write to the port.
pub(crate) struct Writer<'a> {
    pub(crate) queue: &'a mut Queue,
    pub(crate) slots: &'a mut Slots<WriteSlot>,
    pub(crate) pool: &'a BufferPool,
}

/// The ring with everything that it may touch.
pub(crate) struct Ring {
    // Dropped first: `Drop` has cancelled what was in flight, then the descriptor closes, then the memory goes.
    queue: Queue,
    receive: Box<libc::msghdr>,
    stop_value: Box<u64>,
    pub(crate) port_pool: BufferPool,
    pub(crate) underlay_pool: BufferPool,
    sends: Slots<SendSlot>,
    writes: Slots<WriteSlot>,
    arrivals: VecDeque<Arrival>,
    refusals: Vec<Refusal>,
    port_armed: bool,
    underlay_armed: bool,
    /// READ_MULTISHOT works (Linux 6.7); otherwise one read at a time.
    port_multishot: bool,
    /// The kernel refused a train that its datagrams may pass one by one.
    gso_refused: bool,
    /// What works, for people.
    report: feature::Engine,
    /// Written frames and octets by peer since the account was last taken.
    written: Vec<(PeerId, u64)>,
}

impl Sender<'_> {
    /// Queues a train. `segment` is the size of its datagrams if there is more than one.
    pub(crate) fn send(&mut self, id: SlotId, to: SocketAddr, segment: Option<u16>) -> io::Result<()> {
        let (number, slot) = self.slots.lend(id);
        let msg = slot.prepare(to, segment);
        if !self.queue.gso {
            // Single datagrams too, or they would overtake.
            let result = slot.send_each(self.queue.underlay);
            self.queue.done.push_back(Completion::of(Token::Send(number), result));
            return Ok(());
        }
        // MSG_DONTWAIT: a full send queue is an error to be counted, not a request that waits and is overtaken.
        let entry = opcode::SendMsg::new(UNDERLAY, msg).flags(libc::MSG_DONTWAIT as u32).build();
        // SAFETY: the slot is lent, so nobody reaches it until the completion; it is boxed, and it holds its buffers.
        unsafe {
            match &mut self.queue.engine {
                Engine::Uring(_) => self.queue.push(entry, Token::Send(number))?,
                Engine::Calls(calls) => calls.send(number, msg),
            }
        }
        Ok(())
    }
}

impl Writer<'_> {
    /// Queues a frame for the port.
    pub(crate) fn write(&mut self, id: SlotId) -> io::Result<()> {
        let (number, slot) = self.slots.lend(id);
        let (iovecs, count) = slot.iovecs();
        let entry = opcode::Writev::new(PORT, iovecs, count).build();
        // SAFETY: as for a send.
        unsafe {
            match &mut self.queue.engine {
                Engine::Uring(_) => self.queue.push(entry, Token::Write(number))?,
                Engine::Calls(calls) => calls.write(number, iovecs, count),
            }
        }
        Ok(())
    }
}

impl Ring {
    /// A ring over a port, an underlay socket and an eventfd that ends the worker. Must be made on the worker's thread.
    /// Without `gso` every datagram is a send of its own.
    pub(crate) fn new(
        port: BorrowedFd<'_>,
        underlay: BorrowedFd<'_>,
        stop: BorrowedFd<'_>,
        choice: EngineChoice,
        gso: bool,
    ) -> io::Result<Ring> {
        let port_pool = BufferPool::new(PORT_BUFFERS, PORT_BUFFER)?;
        let underlay_pool = BufferPool::new(UNDERLAY_BUFFERS, UNDERLAY_BUFFER)?;
        let files = [port.as_raw_fd(), underlay.as_raw_fd(), stop.as_raw_fd()];
        let opened = match choice {
            EngineChoice::Calls => Err("switched off in the config".to_owned()),
            _ => uring::open(&files, [(&port_pool, PORT_GROUP), (&underlay_pool, UNDERLAY_GROUP)]),
        };
        let (engine, report) = match opened {
            Ok((io, features)) => (Engine::Uring(io), feature::Engine { no_io_uring: None, features }),
            Err(reason) if choice == EngineChoice::IoUring => return Err(io::Error::other(reason)),
            Err(reason) => {
                let report = feature::Engine { no_io_uring: Some(reason), features: Vec::new() };
                (Engine::Calls(Calls::new(files[0], files[1], files[2])), report)
            }
        };
        // SAFETY: all-zero is a valid msghdr; only the two lengths are read for a multishot receive.
        let mut receive: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        receive.msg_namelen = NAME_LEN as u32;
        receive.msg_controllen = CONTROL_LEN;
        let mut ring = Ring {
            queue: Queue {
                engine,
                done: VecDeque::with_capacity(CQ_ENTRIES as usize),
                underlay: underlay.as_raw_fd(),
                gso,
            },
            receive,
            stop_value: Box::new(0),
            port_pool,
            underlay_pool,
            sends: Slots::new(SEND_SLOTS, SendSlot::new),
            writes: Slots::new(WRITE_SLOTS, WriteSlot::new),
            arrivals: VecDeque::with_capacity(CQ_ENTRIES as usize),
            refusals: Vec::with_capacity(usize::from(SEND_SLOTS + WRITE_SLOTS)),
            port_armed: false,
            underlay_armed: false,
            port_multishot: report.features.iter().all(|f| f.name != uring::MULTISHOT_READ || f.state.is_on()),
            gso_refused: false,
            report,
            written: Vec::with_capacity(usize::from(WRITE_SLOTS)),
        };
        let read = opcode::Read::new(STOP, std::ptr::from_mut(&mut *ring.stop_value).cast(), 8).build();
        // SAFETY: `stop_value` is boxed and lives as long as the ring.
        unsafe { ring.queue.push(read, Token::Stop)? };
        Ok(ring)
    }

    /// Submits everything and waits for at least one arrival or completion.
    pub(crate) fn submit_and_wait(&mut self) -> io::Result<()> {
        self.arm()?;
        let Engine::Uring(io) = &mut self.queue.engine else { return self.call_and_wait() };
        if self.arrivals.is_empty() {
            match io.submit_and_wait(usize::from(self.queue.done.is_empty())) {
                Err(e) if e.raw_os_error() != Some(libc::EINTR) => return Err(e),
                _ => {}
            }
        }
        self.reap()
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

    /// The next arrival of the batch. A buffer that it names has one reference, which the caller releases.
    pub(crate) fn next_arrival(&mut self) -> Option<Arrival> {
        self.arrivals.pop_front()
    }

    /// The sends and writes that failed since the last call.
    pub(crate) fn refusals(&mut self) -> std::vec::Drain<'_, Refusal> {
        self.refusals.drain(..)
    }

    /// The frames that the port took since the last call: from whom, and how many octets.
    pub(crate) fn written(&mut self) -> std::vec::Drain<'_, (PeerId, u64)> {
        self.written.drain(..)
    }

    /// The parts that sending needs.
    pub(crate) fn sender(&mut self) -> Sender<'_> {
        Sender { queue: &mut self.queue, slots: &mut self.sends, pool: &self.port_pool }
    }

    /// The parts that writing to the port needs.
    pub(crate) fn writer(&mut self) -> Writer<'_> {
        Writer { queue: &mut self.queue, slots: &mut self.writes, pool: &self.underlay_pool }
    }

    /// Send slots that are free.
    pub(crate) fn free_sends(&self) -> usize {
        self.sends.available()
    }

    /// Write slots that are free.
    pub(crate) fn free_writes(&self) -> usize {
        self.writes.available()
    }

    /// Reads the head of a received train. `None` if the kernel cut it off or the address is of no known family.
    pub(crate) fn train(&self, buffer: u16, len: usize) -> Option<Train> {
        let bytes = self.underlay_pool.bytes(buffer, 0..len);
        let out = RecvMsgOut::parse(bytes, &self.receive).ok()?;
        if out.is_payload_truncated() {
            return None;
        }
        let payload = out.payload_data();
        let start = payload.as_ptr() as usize - bytes.as_ptr() as usize;
        Some(Train {
            from: parse_address(out.name_data())?,
            range: start..start + payload.len(),
            segment: parse_gro_size(out.control_data()).unwrap_or(payload.len()).max(1),
        })
    }

    fn arm(&mut self) -> io::Result<()> {
        if let Engine::Calls(_) = self.queue.engine {
            return Ok(());
        }
        if !self.port_armed && self.port_pool.has_free() {
            let entry = if self.port_multishot {
                // io-uring 0.7.15 overwrites the flag of a registered file here, and descriptor 0 would be read.
                opcode::ReadMulti::new(PORT, 0, PORT_GROUP).build().flags(squeue::Flags::FIXED_FILE)
            } else {
                opcode::Read::new(PORT, std::ptr::null_mut(), self.port_pool.buffer_len() as u32)
                    .buf_group(PORT_GROUP)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT)
            };
            // SAFETY: the kernel writes only to buffers that it picks from the registered group.
            unsafe { self.queue.push(entry, Token::PortRead)? };
            self.port_armed = true;
        }
        if !self.underlay_armed && self.underlay_pool.has_free() {
            let entry = opcode::RecvMsgMulti::new(UNDERLAY, &*self.receive, UNDERLAY_GROUP).build();
            // SAFETY: `receive` is boxed and lives as long as the ring; buffers as above.
            unsafe { self.queue.push(entry, Token::UnderlayReceive)? };
            self.underlay_armed = true;
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

    fn complete(&mut self, completion: Completion) -> io::Result<()> {
        let Completion { token, result, buffer, more } = completion;
        match token {
            Token::PortRead => {
                self.port_armed &= more;
                match (result, buffer) {
                    (len, Some(buffer)) if len >= 0 => {
                        self.port_pool.received(buffer);
                        self.arrivals.push_back(Arrival::Frame { buffer, len: len as usize });
                    }
                    (code, _) if code == -libc::EINVAL && self.port_multishot => self.port_multishot = false,
                    (code, _) if is_passing(code) => {}
                    (code, _) => return Err(io::Error::from_raw_os_error(-code)),
                }
            }
            Token::UnderlayReceive => {
                self.underlay_armed &= more;
                match (result, buffer) {
                    (len, Some(buffer)) if len >= 0 => {
                        self.underlay_pool.received(buffer);
                        self.arrivals.push_back(Arrival::Train { buffer, len: len as usize });
                    }
                    // Errors of earlier sends (ICMP) are reported here too; none of them ends the worker.
                    (code, _) if code != -libc::EBADF && code != -libc::EINVAL => {}
                    (code, _) => return Err(io::Error::from_raw_os_error(-code)),
                }
            }
            Token::Stop => self.arrivals.push_back(Arrival::Stop),
            Token::Send(number) => {
                let id = self.sends.returned(number);
                let slot = self.sends.get(&id);
                let mut result = result;
                if result == -libc::EIO && slot.is_train() {
                    // No checksum offload on the way out, or IPsec (udp_send_skb() in net/ipv4/udp.c). It would say so again.
                    (self.queue.gso, self.gso_refused) = (false, true);
                    result = slot.send_each(self.queue.underlay);
                }
                if result < 0 {
                    let (peer, frames) = (slot.peer, slot.frames);
                    self.refusals.push(Refusal { port: false, peer, frames, errno: -result });
                }
                slot.clear(&mut self.port_pool);
                self.sends.give_back(id);
            }
            Token::Write(number) => {
                let id = self.writes.returned(number);
                let slot = self.writes.get(&id);
                let peer = slot.peer;
                if result < 0 {
                    self.refusals.push(Refusal { port: true, peer, frames: 1, errno: -result });
                } else {
                    let octets = slot.len.saturating_sub(crate::wire::vnet::VNET_HEADER_LEN) as u64;
                    self.written.push((peer, octets));
                }
                slot.clear(&mut self.underlay_pool);
                self.writes.give_back(id);
            }
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let Engine::Uring(io) = &self.queue.engine else { return };
        // Closing the descriptor ends requests some time later; this waits until none can write to our memory.
        let _ = io.submitter().register_sync_cancel(None, CancelBuilder::any());
        // The kernel tears a ring down in the background and would keep the TAP alive meanwhile.
        let _ = io.submitter().unregister_files();
    }
}

/// Results of a read from the port that end neither the port nor the worker.
fn is_passing(code: i32) -> bool {
    [-libc::ENOBUFS, -libc::EAGAIN, -libc::EINTR].contains(&code)
}

/// A `sockaddr_in` or `sockaddr_in6` as the kernel wrote it.
fn parse_address(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    let ip = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(*name.get(4..)?.first_chunk::<4>()?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(*name.get(8..)?.first_chunk::<16>()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The size of the datagrams in a train, from the `UDP_GRO` control message; `None` if there is just one.
fn parse_gro_size(mut control: &[u8]) -> Option<usize> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    while let Some(header) = control.first_chunk::<HEADER>() {
        let len = usize::from_ne_bytes(*header.first_chunk()?);
        let level = i32::from_ne_bytes(*header[8..].first_chunk()?);
        let kind = i32::from_ne_bytes(*header[12..].first_chunk()?);
        let data = control.get(HEADER..len)?;
        if (level, kind) == (libc::SOL_UDP, libc::UDP_GRO) {
            return usize::try_from(i32::from_ne_bytes(*data.first_chunk()?)).ok();
        }
        control = control.get(len.next_multiple_of(size_of::<usize>())..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive() {
        for token in
            [Token::PortRead, Token::UnderlayReceive, Token::Stop, Token::Send(0), Token::Send(63), Token::Write(255)]
        {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }

    #[test]
    fn gro_size_among_other_messages() {
        let message = |level: i32, kind: i32, value: i32| {
            let mut m = 20usize.to_ne_bytes().to_vec();
            m.extend_from_slice(&level.to_ne_bytes());
            m.extend_from_slice(&kind.to_ne_bytes());
            m.extend_from_slice(&value.to_ne_bytes());
            m.resize(24, 0);
            m
        };
        let control = [message(libc::SOL_IP, 8, 1), message(libc::SOL_UDP, libc::UDP_GRO, 1472)].concat();
        assert_eq!(parse_gro_size(&control), Some(1472));
        assert_eq!(parse_gro_size(&control[..24]), None);
        assert_eq!(parse_gro_size(&[0; 16]), None);
    }

    #[test]
    fn addresses_of_both_families() {
        for text in ["10.99.0.2:5800", "[fd99::2]:5800"] {
            let address: SocketAddr = text.parse().unwrap();
            let raw = socket2::SockAddr::from(address);
            // SAFETY: `len` octets of the address are initialised.
            let bytes = unsafe { std::slice::from_raw_parts(raw.as_ptr().cast::<u8>(), raw.len() as usize) };
            assert_eq!(parse_address(bytes), Some(address));
        }
        assert_eq!(parse_address(&[1, 0, 0]), None);
    }
}
