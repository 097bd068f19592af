//! Where requests go and completions come from: the kernel's ring, or system calls.
// UNSAFETY: as in `mod.rs`, whose requests these are.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};

use super::calls::Calls;

/// include/uapi/linux/io_uring.h
const IORING_ENTER_GETEVENTS: u32 = 1;
/// Completions that end a sleep before its least time.
const BATCH: usize = 32;

/// What a completion is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    PortRead,
    UnderlayReceive,
    Wake,
    Send(u16),
    Write(u16),
}

impl Token {
    pub(super) fn pack(self) -> u64 {
        match self {
            Token::PortRead => 0,
            Token::UnderlayReceive => 1,
            Token::Wake => 2,
            Token::Send(slot) => 3 << 32 | u64::from(slot),
            Token::Write(slot) => 4 << 32 | u64::from(slot),
        }
    }

    pub(super) fn unpack(data: u64) -> Token {
        match (data >> 32, data as u16) {
            (0, 0) => Token::PortRead,
            (0, 1) => Token::UnderlayReceive,
            (3, slot) => Token::Send(slot),
            (4, slot) => Token::Write(slot),
            _ => Token::Wake,
        }
    }
}

/// What a completion says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Completion {
    pub(super) token: Token,
    /// Octets, or an error as a negative number.
    pub(super) result: i32,
    pub(super) buffer: Option<u16>,
    /// The request stays, and there will be others.
    pub(super) more: bool,
    /// It only tells that the kernel needs the octets of an earlier send no more.
    pub(super) notification: bool,
    /// The kernel goes on to fill the buffer.
    pub(super) open: bool,
}

impl Completion {
    pub(super) fn of(token: Token, result: i32) -> Completion {
        Completion { token, result, buffer: None, more: false, notification: false, open: false }
    }
}

impl From<cqueue::Entry> for Completion {
    fn from(entry: cqueue::Entry) -> Completion {
        Completion {
            token: Token::unpack(entry.user_data()),
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            more: cqueue::more(entry.flags()),
            notification: cqueue::notif(entry.flags()),
            open: cqueue::buffer_more(entry.flags()),
        }
    }
}

/// Who does the work.
pub(super) enum Engine {
    Uring(IoUring),
    Calls(Calls),
}

/// The submission side.
pub(crate) struct Queue {
    pub(super) engine: Engine,
    /// Completions that come from no kernel's ring.
    pub(super) done: VecDeque<Completion>,
    /// What is sent from: first the socket that also receives.
    pub(super) sockets: Vec<RawFd>,
    /// Trains leave as one send (`UDP_SEGMENT`), not datagram by datagram.
    pub(super) gso: bool,
}

impl Queue {
    /// # Safety
    ///
    /// What the entry points to must stay until its completion.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry, token: Token) -> io::Result<()> {
        let Engine::Uring(io) = &mut self.engine else { return Ok(()) };
        let entry = entry.user_data(token.pack());
        // SAFETY: the caller's promise.
        while unsafe { io.submission().push(&entry) }.is_err() {
            io.submit()?;
        }
        Ok(())
    }

    /// Submits everything, without waiting for anything.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        match &mut self.engine {
            Engine::Uring(io) => {
                let pending = io.submission().len() as u32;
                // Deferred work runs only in a call that asks for completions, also when none is waited for.
                // SAFETY: no argument is passed; so many entries are in the queue, and what they point to is kept (`push`).
                let entered =
                    unsafe { io.submitter().enter::<libc::sigset_t>(pending, 0, IORING_ENTER_GETEVENTS, None) };
                passing(entered, &[libc::EINTR])
            }
            Engine::Calls(calls) => {
                calls.submit(&mut self.done);
                Ok(())
            }
        }
    }

    /// True if the kernel has completions for us, or work to do that makes some. Takes no system call.
    pub(super) fn has_work(&mut self) -> bool {
        match &mut self.engine {
            Engine::Uring(io) => !io.completion().is_empty() || io.submission().taskrun(),
            Engine::Calls(_) => false,
        }
    }

    /// Sleeps until there is a completion, but at least `min_wait`, unless there are many, and for `at_most`.
    pub(super) fn sleep(&mut self, min_wait: Duration, at_most: Option<Duration>) -> io::Result<()> {
        let Engine::Uring(io) = &mut self.engine else { return Ok(()) };
        let result = if let Some(at_most) = at_most {
            let end = Timespec::from(at_most);
            io.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&end))
        } else if min_wait.is_zero() {
            io.submit_and_wait(1)
        } else {
            let args = SubmitArgs::new().min_wait_usec(min_wait.as_micros() as u32);
            io.submitter().submit_with_args(BATCH, &args)
        };
        passing(result, &[libc::EINTR, libc::ETIME])
    }

    /// The result of a send that was submitted just now. Completions before it wait their turn.
    pub(super) fn result_of(&mut self, send: Token) -> Option<&mut i32> {
        if let Engine::Uring(io) = &mut self.engine {
            self.done.extend(io.completion().map(Completion::from));
        }
        let sent = self.done.iter_mut().rev().find(|completion| completion.token == send && !completion.notification);
        sent.map(|completion| &mut completion.result)
    }

    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        self.done.pop_front().or_else(|| match &mut self.engine {
            Engine::Uring(io) => io.completion().next().map(Completion::from),
            Engine::Calls(_) => None,
        })
    }
}

/// Nothing is wrong if a call ended with one of these.
fn passing(result: io::Result<usize>, errors: &[i32]) -> io::Result<()> {
    match result {
        Err(e) if !e.raw_os_error().is_some_and(|code| errors.contains(&code)) => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::feature::EngineChoice;
    use crate::port::PortKind;
    use crate::ring::{Files, Ring, Setup};

    /// The way to a peer may lead through a device, or IPsec, that takes datagrams but no trains.
    #[test]
    fn tokens_survive() {
        for token in
            [Token::PortRead, Token::UnderlayReceive, Token::Wake, Token::Send(0), Token::Send(63), Token::Write(255)]
        {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }

    #[test]
    fn a_path_that_refuses_trains_gets_datagrams() {
        let (port, _far) = UnixDatagram::pair().unwrap();
        let [near, far] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        far.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let wake = nix::sys::eventfd::EventFd::new().unwrap();
        for choice in [EngineChoice::Calls, EngineChoice::IoUring] {
            let files = Files { port: port.as_fd(), underlay: near.as_fd(), wake: wake.as_fd(), sources: Vec::new() };
            let setup = Setup {
                port: PortKind::Tap,
                waiting: Default::default(),
                choice,
                gso: true,
                zero_copy: false,
                peers: 1,
            };
            let mut ring = Ring::new(files, setup).unwrap();
            let id = ring.sends.take().unwrap();
            let (number, slot) = ring.sends.lend(id);
            slot.append_copy(&[7; 250]);
            slot.prepare(far.local_addr().unwrap(), Some(100));
            ring.complete(Completion::of(Token::Send(number), -libc::EIO)).unwrap();
            for len in [100, 100, 50] {
                assert_eq!(far.recv(&mut [0; 300]).unwrap(), len);
            }
            assert!(ring.gso_refused() && !ring.queue.gso && ring.refusals().next().is_none());
            // A single datagram has no other way.
            let id = ring.sends.take().unwrap();
            let (number, slot) = ring.sends.lend(id);
            slot.append_copy(&[7; 250]);
            slot.prepare(far.local_addr().unwrap(), None);
            ring.complete(Completion::of(Token::Send(number), -libc::EIO)).unwrap();
            assert_eq!(ring.refusals().map(|refusal| refusal.errno).collect::<Vec<_>>(), [libc::EIO]);
        }
    }
}
