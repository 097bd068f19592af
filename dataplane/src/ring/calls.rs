//! The engine without io_uring: the same requests and completions, by plain system calls.
//!
//! It stands where the kernel's ring stands otherwise. Sends and writes are collected and made when the worker submits, each
//! kind in its order; then ppoll(2) waits, and what has come is read into the vacant buffers of the pools, a bounded number
//! at a time so that both directions get their turn. A received train is laid out as a multishot RECVMSG of io_uring does
//! it, so the worker sees no difference.
// UNSAFETY: raw pointers to slots and buffers, for system calls that are over when they return. Invariant: a message or a
// list of iovecs that is queued here lies in a slot that is lent until its completion, and buffers are filled only while
// the pool says that they are vacant.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem::zeroed;
use std::os::fd::RawFd;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;

use super::pool::BufferPool;
use super::queue::{Completion, Engine, Token};
use super::{AUXDATA_LEN, CONTROL_LEN, NAME_LEN, Ring, SEND_SLOTS, WRITE_SLOTS};
use crate::port::PortKind;

/// Frames read from the port before the worker looks at them.
const FRAMES: u16 = 64;
/// Messages received by one call.
const MESSAGES: usize = 32;
/// `struct io_uring_recvmsg_out`: four numbers in front of name, control data and payload.
const OUT_LEN: usize = 16;

/// What is collected, and room for what the calls need.
pub(super) struct Calls {
    kind: PortKind,
    port: RawFd,
    underlay: RawFd,
    wake: RawFd,
    messages: Vec<libc::mmsghdr>,
    /// The sockets and slots of `messages`.
    senders: Vec<(RawFd, u16)>,
    writes: Vec<(u16, *const libc::iovec, u32)>,
    received: Box<[libc::mmsghdr; MESSAGES]>,
    payloads: Box<[libc::iovec; MESSAGES]>,
}

impl Calls {
    /// The descriptors must outlive it.
    pub(super) fn new(kind: PortKind, [port, underlay, wake]: [RawFd; 3]) -> Calls {
        Calls {
            kind,
            port,
            underlay,
            wake,
            messages: Vec::with_capacity(SEND_SLOTS.into()),
            senders: Vec::with_capacity(SEND_SLOTS.into()),
            writes: Vec::with_capacity(WRITE_SLOTS.into()),
            // SAFETY: all-zero is a valid mmsghdr and iovec.
            received: Box::new(unsafe { zeroed() }),
            // SAFETY: as above.
            payloads: Box::new(unsafe { zeroed() }),
        }
    }

    /// # Safety
    ///
    /// What the message points to must stay until the completion of the slot.
    pub(super) unsafe fn send(&mut self, socket: RawFd, slot: u16, message: *const libc::msghdr) {
        // SAFETY: the caller's promise.
        self.messages.push(libc::mmsghdr { msg_hdr: unsafe { *message }, msg_len: 0 });
        self.senders.push((socket, slot));
    }

    /// # Safety
    ///
    /// As for a send.
    pub(super) unsafe fn write(&mut self, slot: u16, iovecs: *const libc::iovec, count: u32) {
        self.writes.push((slot, iovecs, count));
    }

    /// Makes what was collected.
    pub(super) fn submit(&mut self, done: &mut VecDeque<Completion>) {
        let mut next = 0;
        while let Some(rest) = self.messages.get_mut(next..).filter(|rest| !rest.is_empty()) {
            // As many as follow each other from one socket.
            let (socket, _) = self.senders[next];
            let count = self.senders[next..].iter().take_while(|(other, _)| *other == socket).count();
            // SAFETY: the promise of `send`. An error is that of the first message; that of a later one ends the call
            // early and shows again when that one is the first (sendmmsg(2)).
            let sent = unsafe { libc::sendmmsg(socket, rest.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT as _) };
            match sent {
                0.. => {
                    let sent = (sent as usize).clamp(1, count);
                    for (_, slot) in &self.senders[next..next + sent] {
                        done.push_back(Completion::of(Token::Send(*slot), 0));
                    }
                    next += sent;
                }
                _ => {
                    done.push_back(Completion::of(Token::Send(self.senders[next].1), -Errno::last_raw()));
                    next += 1;
                }
            }
        }
        self.messages.clear();
        self.senders.clear();
        for (slot, iovecs, count) in self.writes.drain(..) {
            // SAFETY: the promise of `write`.
            let written = unsafe { libc::writev(self.port, iovecs, count as libc::c_int) };
            let result = if written < 0 { -Errno::last_raw() } else { written as i32 };
            done.push_back(Completion::of(Token::Write(slot), result));
        }
    }

    /// Waits for something to read, at most as long as this says, and reads it. Where something failed to come it is not to
    /// be looked at for a while (`due`).
    fn receive(
        &mut self,
        at_most: Option<Duration>,
        due: [bool; 2],
        port_pool: &mut BufferPool,
        underlay_pool: &mut BufferPool,
        done: &mut VecDeque<Completion>,
    ) -> io::Result<()> {
        // A negative descriptor is ignored (poll(2)): nothing is read without a buffer to read it into.
        let only_if = |due: bool, pool: &BufferPool, fd| if due && pool.vacant(0).is_some() { fd } else { -1 };
        let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let port = only_if(due[0], port_pool, self.port);
        let underlay = only_if(due[1], underlay_pool, self.underlay);
        let mut fds = [port, underlay, self.wake].map(entry);
        let end = at_most
            .map(|time| libc::timespec { tv_sec: time.as_secs() as libc::time_t, tv_nsec: time.subsec_nanos().into() });
        let timeout = end.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `fds` and `end` are alive.
        if unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout, ptr::null()) } < 0 {
            return match Errno::last() {
                Errno::EINTR => Ok(()),
                error => Err(error.into()),
            };
        }
        let [port, underlay, wake] = fds.map(|fd| fd.revents != 0);
        if port {
            match self.kind {
                PortKind::Tap => self.read_port(port_pool, done),
                PortKind::Packet => {
                    let (token, control_len) = (Token::PortRead, AUXDATA_LEN);
                    let source = Source { socket: self.port, token, name_len: 0, control_len };
                    self.receive_messages(source, port_pool, done);
                }
            }
        }
        if underlay {
            let (token, name_len, control_len) = (Token::UnderlayReceive, NAME_LEN, CONTROL_LEN);
            let source = Source { socket: self.underlay, token, name_len, control_len };
            self.receive_messages(source, underlay_pool, done);
        }
        if wake {
            let mut value = 0_u64;
            // SAFETY: `value` is alive, and as long as this says. An eventfd that is ready does not wait.
            let read = unsafe { libc::read(self.wake, (&raw mut value).cast(), size_of_val(&value)) };
            let result = if read < 0 { -Errno::last_raw() } else { read as i32 };
            done.push_back(Completion::of(Token::Wake, result));
        }
        Ok(())
    }

    /// Frames of a TAP, each the whole content of a buffer.
    fn read_port(&self, pool: &mut BufferPool, done: &mut VecDeque<Completion>) {
        for _ in 0..FRAMES {
            let Some((buffer, address)) = pool.vacant(0) else { return };
            // SAFETY: the buffer is vacant, so nobody else looks at it, and as long as this says.
            let read = unsafe { libc::read(self.port, address.cast(), pool.layout().len) };
            match read {
                1.. => {
                    pool.filled(1);
                    done.push_back(received(Token::PortRead, read as i32, buffer));
                }
                // An end of file has no buffer, as with io_uring.
                0 => return done.push_back(Completion::of(Token::PortRead, 0)),
                _ if Errno::last() == Errno::EAGAIN => return,
                _ => return done.push_back(Completion::of(Token::PortRead, -Errno::last_raw())),
            }
        }
    }

    /// Messages of a socket, laid out as a multishot RECVMSG does: four numbers, name, control data, payload.
    fn receive_messages(&mut self, from: Source, pool: &mut BufferPool, done: &mut VecDeque<Completion>) {
        let Source { socket, token, name_len, control_len } = from;
        let payload_at = OUT_LEN + name_len + control_len;
        let mut count = 0;
        for (number, (message, payload)) in self.received.iter_mut().zip(self.payloads.iter_mut()).enumerate() {
            let Some((_, address)) = pool.vacant(number as u16) else { break };
            let at = |offset: usize| address.wrapping_add(offset).cast();
            *payload = libc::iovec { iov_base: at(payload_at), iov_len: pool.layout().len - payload_at };
            let message = &mut message.msg_hdr;
            (message.msg_name, message.msg_namelen) = (at(OUT_LEN), name_len as u32);
            (message.msg_control, message.msg_controllen) = (at(OUT_LEN + name_len), control_len as _);
            (message.msg_iov, message.msg_iovlen) = (payload, 1);
            count += 1;
        }
        // SAFETY: `count` messages were filled in above, and point into vacant buffers at the places that each has room for.
        let received_count = unsafe {
            let flags = libc::MSG_DONTWAIT as _;
            libc::recvmmsg(socket, self.received.as_mut_ptr(), count, flags, ptr::null_mut())
        };
        if received_count < 0 {
            // Errors of earlier sends (ICMP) come this way too; which of them end the worker is not known here.
            return match Errno::last() {
                Errno::EAGAIN | Errno::EINTR => {}
                error => done.push_back(Completion::of(token, -(error as i32))),
            };
        }
        for (number, message) in self.received[..received_count as usize].iter().enumerate() {
            let Some((buffer, address)) = pool.vacant(number as u16) else { break };
            let header = &message.msg_hdr;
            let head = [header.msg_namelen, header.msg_controllen as u32, message.msg_len, header.msg_flags as u32];
            // SAFETY: the buffer is vacant and larger than its head.
            unsafe { address.cast::<[u32; 4]>().write_unaligned(head) };
            done.push_back(received(token, (payload_at + message.msg_len as usize) as i32, buffer));
        }
        pool.filled(received_count as u16);
    }
}

/// A socket to receive from, and room for what comes beside a payload.
struct Source {
    socket: RawFd,
    token: Token,
    name_len: usize,
    control_len: usize,
}

fn received(token: Token, result: i32, buffer: u16) -> Completion {
    Completion { token, result, buffer: Some(buffer), more: true, notification: false, open: false }
}

impl Ring {
    /// What [`Ring::wait`] does where the kernel's ring does it otherwise: takes what has come, and sleeps until something
    /// comes if `wait`.
    pub(super) fn receive_by_calls(&mut self, wait: bool) -> io::Result<()> {
        let at_most = if wait { self.pause() } else { Some(Duration::ZERO) };
        let due = [&self.port_requests, &self.underlay_requests].map(|requests| requests.is_due(self.now_ms));
        let Engine::Calls(calls) = &mut self.queue.engine else { return Ok(()) };
        calls.receive(at_most, due, &mut self.port_pool, &mut self.underlay_pool, &mut self.queue.done)?;
        self.reap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    /// A message that is refused does not keep those behind it from being sent, and each has its own result.
    #[test]
    fn one_refusal_is_one() {
        let [near, other, far] = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        far.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let mut calls = Calls::new(PortKind::Tap, [-1, near.as_raw_fd(), -1]);
        let mut slots: Vec<_> = (0..4).map(|_| super::super::SendSlot::new()).collect();
        for (number, slot) in (0..).zip(&mut slots) {
            slot.append_copy(&[number as u8; 10]);
            // Port 0 is refused with EINVAL (udp_sendmsg()).
            let to = if number == 1 { "127.0.0.1:0".parse().unwrap() } else { far.local_addr().unwrap() };
            let message = slot.prepare(to, None);
            let from = if number == 2 { &other } else { &near };
            // SAFETY: the slots live longer than the call.
            unsafe { calls.send(from.as_raw_fd(), number, message) };
        }
        let mut done = VecDeque::new();
        calls.submit(&mut done);
        let results: Vec<_> = done.iter().map(|completion| (completion.token, completion.result)).collect();
        let expected = [(0, 0), (1, -libc::EINVAL), (2, 0), (3, 0)].map(|(slot, result)| (Token::Send(slot), result));
        assert_eq!(results, expected);
        for number in [0, 2, 3] {
            let mut buffer = [0xff; 20];
            let (len, from) = far.recv_from(&mut buffer).unwrap();
            assert_eq!((len, buffer[0]), (10, number));
            assert_eq!(from, if number == 2 { &other } else { &near }.local_addr().unwrap());
        }
        done.clear();
        calls.submit(&mut done);
        assert!(done.is_empty(), "nothing is sent twice");
    }
}
