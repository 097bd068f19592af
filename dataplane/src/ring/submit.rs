//! What is submitted: trains to peers, frames to the port.
// UNSAFETY: as in `mod.rs`, whose requests these are.
#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;

use io_uring::opcode;
use io_uring::types::Fixed;

use super::pool::BufferPool;
use super::queue::{Completion, Engine, Queue, Token};
use super::slots::{SendSlot, SlotId, Slots, WriteSlot};
use super::zero_copy::{IORING_SEND_ZC_REPORT_USAGE, Way, ZeroCopy};
use super::{PORT, SEND_SLOTS, SOURCES, UNDERLAY};

/// What it takes to send: a view on parts of the ring, so that octets of the pool can be borrowed meanwhile.
pub(crate) struct Sender<'a> {
    pub(crate) queue: &'a mut Queue,
    pub(crate) slots: &'a mut Slots<SendSlot>,
    pub(crate) pool: &'a BufferPool,
    pub(super) zero_copy: &'a mut ZeroCopy,
}

/// What it takes to write to the port.
pub(crate) struct Writer<'a> {
    pub(crate) queue: &'a mut Queue,
    pub(crate) slots: &'a mut Slots<WriteSlot>,
    pub(crate) pool: &'a BufferPool,
}

impl Sender<'_> {
    /// Queues a train for the socket that its slot names. `segment` is the size of its datagrams if there is more than one.
    pub(crate) fn send(&mut self, id: SlotId, to: SocketAddr, segment: Option<u16>) -> io::Result<()> {
        // A card may be slow to give slots back, and a frame without a slot is lost.
        let plenty = self.slots.available() >= usize::from(SEND_SLOTS / 2);
        let (number, slot) = self.slots.lend(id);
        let msg = slot.prepare(to, segment);
        let socket = self.queue.sockets[usize::from(slot.source)];
        if !self.queue.gso {
            // Single datagrams too, or they would overtake.
            let result = slot.send_each(socket);
            self.queue.done.push_back(Completion::of(Token::Send(number), result));
            return Ok(());
        }
        let (token, peer) = (Token::Send(number), slot.peer);
        let way = if plenty { self.zero_copy.way(peer, slot.len, || slot.pages()) } else { Way::Copy };
        // MSG_DONTWAIT: a full send queue is an error to be counted, not a request that waits and is overtaken.
        let flags = libc::MSG_DONTWAIT as u32;
        let file = match slot.source {
            0 => UNDERLAY,
            source => Fixed(SOURCES + u32::from(source) - 1),
        };
        let entry = match way {
            Way::Copy => opcode::SendMsg::new(file, msg).flags(flags).build(),
            _ => opcode::SendMsgZc::new(file, msg).flags(flags).ioprio(IORING_SEND_ZC_REPORT_USAGE).build(),
        };
        // SAFETY: the slot is lent, so nobody reaches it until the completion (with a zero-copy send: until the
        // notification); it is boxed, and it holds its buffers.
        unsafe {
            match &mut self.queue.engine {
                Engine::Uring(_) => self.queue.push(entry, token)?,
                Engine::Calls(calls) => calls.send(socket, number, msg),
            }
        }
        if way == Way::Trial {
            // The kernel sends while it takes the request, so the result is there.
            self.queue.submit()?;
            if let Some(result) = self.queue.result_of(token).filter(|result| **result < 0) {
                self.zero_copy.refused(peer, -*result);
                *result = slot.send_now(socket);
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
