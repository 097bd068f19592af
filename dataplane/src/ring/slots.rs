//! Memory of what is in flight: a send slot is one `sendmsg` (a train of datagrams), a write slot one frame for the port.
//!
//! A slot is reached only by its [`SlotId`], which cannot be copied: submitting takes it, and the completion gives it
//! back. So nobody can touch memory that the kernel is reading.
// UNSAFETY: `msghdr` and `iovec` hold raw pointers. Invariant: they point into the slot itself, which is boxed and never
// moves, or into a pool buffer that the slot holds a reference to until it is cleared.
#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::RawFd;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use super::pool::BufferPool;
use crate::datagram::record::{PAD, RECORD_HEADER_LEN, RecordHeader};
use crate::session::Outgoing;
use crate::wire::VnetHeader;
use crate::wire::vnet::{GSO_UDP_L4, VNET_HEADER_LEN};

/// Scratch of a send slot: one GSO send of 64 KiB, where every octet may be copied.
/// Above 65 493 octets the kernel segments in software, so trains stay below.
pub(crate) const MAX_TRAIN: usize = 65_000;
/// Datagrams of one GSO send (`UDP_MAX_SEGMENTS`, 64 before Linux 6.9, 128 since).
pub(crate) const MAX_DATAGRAMS: usize = 64;
/// Two per slice: headers, payload.
const SEND_IOVECS: usize = 2 * MAX_DATAGRAMS + 2;
/// Headers and as many slices as a receive can bring, twice: a super-frame spans two trains.
const WRITE_IOVECS: usize = 2 * MAX_DATAGRAMS;
/// virtio_net_hdr and the headers of a joined super-frame.
const WRITE_SCRATCH: usize = VNET_HEADER_LEN + crate::datagram::segment::MAX_HEADERS;

/// A slot that its holder owns.
#[derive(Debug)]
pub(crate) struct SlotId(u16);

/// Slots of one kind.
pub(crate) struct Slots<T> {
    slots: Vec<Box<T>>,
    free: Vec<u16>,
}

impl<T> Slots<T> {
    pub(crate) fn new(count: u16, new: impl Fn() -> Box<T>) -> Slots<T> {
        Slots { slots: (0..count).map(|_| new()).collect(), free: (0..count).collect() }
    }

    pub(crate) fn take(&mut self) -> Option<SlotId> {
        self.free.pop().map(SlotId)
    }

    pub(crate) fn get(&mut self, id: &SlotId) -> &mut T {
        &mut self.slots[usize::from(id.0)]
    }

    /// How many can be taken.
    pub(crate) fn available(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn give_back(&mut self, id: SlotId) {
        self.free.push(id.0);
    }

    /// Lets all of them stay for ever.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
        self.free.clear();
    }

    /// For a submission: the number that the completion will bring back.
    pub(super) fn lend(&mut self, id: SlotId) -> (u16, &mut T) {
        (id.0, &mut self.slots[usize::from(id.0)])
    }

    /// For a completion: the slot whose number was lent.
    pub(super) fn returned(&self, number: u16) -> SlotId {
        SlotId(number)
    }
}

/// Words of a control message (cmsg(3)) with up to eight octets of data, and of the two that a send can have.
const CLASS_WORDS: usize = 3;
const CONTROL_WORDS: usize = 2 * CLASS_WORDS;

/// Writes a control message; its octets, with what aligns the next one. Nothing if there is no room.
fn put_control(words: &mut [u64], level: i32, kind: i32, data: &[u8]) -> usize {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let bytes = zerocopy::IntoBytes::as_mut_bytes(words);
    let len = HEADER + data.len();
    let space = len.next_multiple_of(size_of::<u64>());
    let Some(message) = bytes.get_mut(..space) else { return 0 };
    message[..8].copy_from_slice(&(len as u64).to_ne_bytes());
    message[8..12].copy_from_slice(&level.to_ne_bytes());
    message[12..16].copy_from_slice(&kind.to_ne_bytes());
    message[HEADER..len].copy_from_slice(data);
    space
}

/// Also as an IPv6 socket writes it: the kernel sends IPv4 then, and heeds its options.
fn is_v4(to: SocketAddr) -> bool {
    to.ip().to_canonical().is_ipv4()
}

const NO_IOVEC: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// One `sendmsg`.
pub(crate) struct SendSlot {
    msg: libc::msghdr,
    iovecs: [libc::iovec; SEND_IOVECS],
    iovec_count: usize,
    name: libc::sockaddr_storage,
    control: [u64; CONTROL_WORDS],
    scratch: Box<[u8]>,
    used: usize,
    /// Where the datagram at the end begins in the scratch, if everything is copied there to be sealed.
    sealed: Option<usize>,
    buffers: Vec<u16>,
    /// Size of the datagrams, if there is more than one.
    segment: Option<u16>,
    /// Octets in all iovecs.
    pub(crate) len: usize,
    /// Which of the worker's sockets it leaves from.
    pub(super) source: u8,
    /// The traffic class of its datagrams, and how many octets of `control` say so.
    class: u8,
    class_len: usize,
    /// Peer that it goes to and frames in it, for the account when the send fails.
    pub(crate) peer: crate::addr::PeerId,
    /// Frames in it.
    pub(crate) frames: u64,
}

impl SendSlot {
    pub(crate) fn new() -> Box<SendSlot> {
        // SAFETY: all-zero is a valid msghdr and sockaddr_storage.
        let (msg, name) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Box::new(SendSlot {
            msg,
            iovecs: [NO_IOVEC; SEND_IOVECS],
            iovec_count: 0,
            name,
            control: [0; CONTROL_WORDS],
            scratch: vec![0; MAX_TRAIN].into_boxed_slice(),
            used: 0,
            sealed: None,
            buffers: Vec::with_capacity(SEND_IOVECS),
            segment: None,
            len: 0,
            source: 0,
            class: 0,
            class_len: 0,
            peer: crate::addr::PeerId(0),
            frames: 0,
        })
    }

    /// Begins a train of a traffic class to a peer, from one of the worker's sockets: 0 is the one that it receives on. What is to be sealed is
    /// gathered in the slot, and sealed there.
    pub(crate) fn begin(&mut self, peer: crate::addr::PeerId, (source, class): (u8, u8), outgoing: &Outgoing) {
        (self.peer, self.source, self.class) = (peer, source, class);
        self.sealed = outgoing.is_sealed().then_some(0);
    }

    /// The datagram at the end of the train is complete: seals it, if it is to be sealed.
    pub(crate) fn end_datagram(&mut self, outgoing: &Outgoing) {
        if let Some(begin) = self.sealed {
            self.append_own(outgoing.tag_len());
            outgoing.seal(&mut self.scratch[begin..self.used]);
            self.sealed = Some(self.used);
        }
    }

    /// True if one more record of `len` octets fits, gathered from at most two places.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.len + len <= MAX_TRAIN && self.iovec_count + 2 <= SEND_IOVECS && self.buffers.len() < SEND_IOVECS
    }

    /// Appends `len` octets of the slot's own, for the caller to fill in.
    pub(crate) fn append_own(&mut self, len: usize) -> &mut [u8] {
        let range = self.used..self.used + len;
        self.used = range.end;
        self.len += len;
        let base = self.scratch[range.clone()].as_mut_ptr();
        let last = self.iovecs[..self.iovec_count].last_mut();
        match last.filter(|last| last.iov_base as usize + last.iov_len == base as usize) {
            Some(last) => last.iov_len += len,
            None => {
                self.iovecs[self.iovec_count] = libc::iovec { iov_base: base.cast(), iov_len: len };
                self.iovec_count += 1;
            }
        }
        &mut self.scratch[range]
    }

    /// Appends a copy.
    pub(crate) fn append_copy(&mut self, bytes: &[u8]) {
        self.append_own(bytes.len()).copy_from_slice(bytes);
    }

    /// Appends a padding record of `len` octets in all; nothing for 0.
    pub(crate) fn append_padding(&mut self, len: usize) {
        if let Some(body) = len.checked_sub(RECORD_HEADER_LEN) {
            self.append_copy(RecordHeader { kind: PAD, flags: 0, len: U16::new(body as u16) }.as_bytes());
            self.append_own(body).fill(0);
        }
    }

    /// Appends octets of a pool buffer, which stays referenced until the send is done.
    /// They are copied if they are to be sealed: encrypting in place would change them for other peers.
    pub(crate) fn append_buffer(&mut self, pool: &BufferPool, buffer: u16, range: Range<usize>) {
        if self.sealed.is_some() {
            return self.append_copy(pool.bytes(buffer, range));
        }
        if self.buffers.last() != Some(&buffer) {
            pool.retain(buffer);
            self.buffers.push(buffer);
        }
        self.len += range.len();
        self.iovecs[self.iovec_count] = pool.iovec(buffer, range);
        self.iovec_count += 1;
    }

    /// Fills in the message header: destination, traffic class, and the size of the datagrams if there is more than one.
    pub(super) fn prepare(&mut self, to: SocketAddr, segment: Option<u16>) -> *const libc::msghdr {
        self.segment = segment;
        let name = socket2::SockAddr::from(to);
        // SAFETY: a sockaddr_storage has room for every address, and `name` is a different object.
        unsafe {
            std::ptr::copy_nonoverlapping(
                name.as_ptr().cast::<u8>(),
                std::ptr::from_mut(&mut self.name).cast::<u8>(),
                name.len() as usize,
            );
        }
        self.msg.msg_name = std::ptr::from_mut(&mut self.name).cast();
        self.msg.msg_namelen = name.len();
        self.msg.msg_iov = self.iovecs.as_mut_ptr();
        self.msg.msg_iovlen = self.iovec_count;
        self.msg.msg_control = std::ptr::null_mut();
        self.msg.msg_controllen = 0;
        let mut len = 0;
        if self.class != 0 {
            let (level, kind) =
                if is_v4(to) { (libc::SOL_IP, libc::IP_TOS) } else { (libc::SOL_IPV6, libc::IPV6_TCLASS) };
            len += put_control(&mut self.control[..CLASS_WORDS], level, kind, &i32::from(self.class).to_ne_bytes());
        }
        // The size of the datagrams comes last, so that it is easily left out.
        self.class_len = len;
        if let Some(segment) = segment {
            let rest = &mut self.control[len / size_of::<u64>()..];
            len += put_control(rest, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        if len > 0 {
            self.msg.msg_control = self.control.as_mut_ptr().cast();
            self.msg.msg_controllen = len;
        }
        &self.msg
    }

    /// True if the slot was prepared to leave as several datagrams.
    pub(super) fn is_train(&self) -> bool {
        self.segment.is_some()
    }

    /// Pages that the octets lie in, each as often as it is gathered from.
    pub(super) fn pages(&self) -> usize {
        const PAGE: usize = 4096;
        self.iovecs[..self.iovec_count]
            .iter()
            .map(|one| (one.iov_base as usize % PAGE + one.iov_len).div_ceil(PAGE))
            .sum()
    }

    /// Sends what was prepared, now. A result as of sendmsg(2), an error as a negative number.
    pub(super) fn send_now(&self, socket: RawFd) -> i32 {
        // SAFETY: the message points into the slot and to buffers that it holds (`prepare`).
        let sent = unsafe { libc::sendmsg(socket, &self.msg, libc::MSG_DONTWAIT) };
        if sent < 0 { -nix::errno::Errno::last_raw() } else { sent as i32 }
    }

    /// Sends what was prepared, now, and each datagram by itself: for a kernel or a path without UDP GSO. A result as of
    /// sendmsg(2), the last error as a negative number if there was one.
    pub(super) fn send_each(&self, socket: RawFd) -> i32 {
        let segment = self.segment.map_or(self.len, usize::from).max(1);
        let mut result = 0;
        for start in (0..self.len).step_by(segment) {
            let (iovecs, count) = self.part(start..(start + segment).min(self.len));
            let mut msg = self.msg;
            (msg.msg_iov, msg.msg_iovlen) = (iovecs.as_ptr().cast_mut(), count);
            msg.msg_controllen = self.class_len;
            if self.class_len == 0 {
                msg.msg_control = std::ptr::null_mut();
            }
            // SAFETY: name and octets are the slot's or in buffers that it holds, `iovecs` is on the stack.
            if unsafe { libc::sendmsg(socket, &msg, libc::MSG_DONTWAIT) } < 0 {
                result = -nix::errno::Errno::last_raw();
            }
        }
        result
    }

    /// Where the octets of a range lie, and in how many places.
    fn part(&self, range: Range<usize>) -> ([libc::iovec; SEND_IOVECS], usize) {
        let (mut iovecs, mut count, mut at) = ([NO_IOVEC; SEND_IOVECS], 0, 0);
        for whole in &self.iovecs[..self.iovec_count] {
            let (from, to) = (range.start.max(at), range.end.min(at + whole.iov_len));
            if from < to {
                let iov_base = whole.iov_base.cast::<u8>().wrapping_add(from - at).cast();
                iovecs[count] = libc::iovec { iov_base, iov_len: to - from };
                count += 1;
            }
            at += whole.iov_len;
        }
        (iovecs, count)
    }

    /// Empties the slot and lets go of its buffers.
    pub(crate) fn clear(&mut self, pool: &mut BufferPool) {
        for buffer in self.buffers.drain(..) {
            pool.release(buffer);
        }
        (self.iovec_count, self.used, self.len, self.frames) = (0, 0, 0, 0);
        self.sealed = None;
    }
}

/// One `writev` to the port.
pub(crate) struct WriteSlot {
    iovecs: [libc::iovec; WRITE_IOVECS],
    iovec_count: usize,
    scratch: [u8; WRITE_SCRATCH],
    buffers: Vec<u16>,
    /// Octets in all iovecs.
    pub(crate) len: usize,
    /// Who sent the frame, for the account.
    pub(crate) peer: crate::addr::PeerId,
    /// Frames that the peer sent for it, and their octets beyond [`Self::len`], where several were merged.
    merged: (u64, usize),
}

impl WriteSlot {
    pub(crate) fn new() -> Box<WriteSlot> {
        Box::new(WriteSlot {
            iovecs: [NO_IOVEC; WRITE_IOVECS],
            iovec_count: 0,
            scratch: [0; WRITE_SCRATCH],
            buffers: Vec::with_capacity(WRITE_IOVECS),
            len: 0,
            peer: crate::addr::PeerId(0),
            merged: (0, 0),
        })
    }

    /// Begins the frame, or begins it again, with `len` octets of the slot's own; they stay changeable through
    /// [`Self::own`]. Buffers that were appended stay referenced.
    pub(crate) fn begin(&mut self, len: usize) -> &mut [u8] {
        let own = &mut self.scratch[..len];
        self.iovecs[0] = libc::iovec { iov_base: own.as_mut_ptr().cast(), iov_len: len };
        self.iovec_count = 1;
        self.len = len;
        own
    }

    /// The octets that [`Self::begin`] set aside.
    pub(crate) fn own(&mut self) -> &mut [u8] {
        let len = if self.iovec_count > 0 { self.iovecs[0].iov_len } else { 0 };
        &mut self.scratch[..len]
    }

    /// The frame stands for `more` others too, whose headers of `header_len` octets are not in it.
    pub(crate) fn merged(&mut self, more: u64, header_len: usize) {
        self.merged = (more, more as usize * header_len);
    }

    /// Frames of the peer that this is, and their octets.
    pub(super) fn account(&self) -> (u64, u64) {
        let octets = self.len.saturating_sub(VNET_HEADER_LEN) + self.merged.1;
        (1 + self.merged.0, octets as u64)
    }

    /// True if it is a UDP super-frame.
    pub(super) fn is_uso(&self) -> bool {
        self.iovec_count > 0 && VnetHeader::ref_from_prefix(&self.scratch).is_ok_and(|(h, _)| h.gso() == GSO_UDP_L4)
    }

    /// True if one more piece fits.
    pub(crate) fn has_room(&self) -> bool {
        self.iovec_count < WRITE_IOVECS
    }

    /// Appends octets of a pool buffer, which stays referenced until the write is done.
    pub(crate) fn append_buffer(&mut self, pool: &BufferPool, buffer: u16, range: Range<usize>) {
        if self.buffers.last() != Some(&buffer) {
            pool.retain(buffer);
            self.buffers.push(buffer);
        }
        self.len += range.len();
        self.iovecs[self.iovec_count] = pool.iovec(buffer, range);
        self.iovec_count += 1;
    }

    pub(super) fn iovecs(&self) -> (*const libc::iovec, u32) {
        (self.iovecs.as_ptr(), self.iovec_count as u32)
    }

    /// Empties the slot and lets go of its buffers.
    pub(crate) fn clear(&mut self, pool: &mut BufferPool) {
        for buffer in self.buffers.drain(..) {
            pool.release(buffer);
        }
        (self.iovec_count, self.len, self.merged) = (0, 0, (0, 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_can_leave_datagram_by_datagram() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut pool = BufferPool::new(super::super::pool::Layout { count: 2, len: 4096, min_left: 0 }).unwrap();
        pool.received(0, 4096, false);
        let mut slot = SendSlot::new();
        // Datagrams of 100 octets end inside of what is gathered, and where it ends.
        slot.append_copy(&[1; 150]);
        slot.append_buffer(&pool, 0, 0..50);
        slot.append_copy(&[2; 30]);
        slot.prepare(receiver.local_addr().unwrap(), Some(100));
        assert!(slot.is_train());
        assert_eq!(slot.send_each(std::os::fd::AsRawFd::as_raw_fd(&sender)), 0);
        let mut arrived = Vec::new();
        for len in [100, 100, 30] {
            let mut buffer = [0xff; 200];
            assert_eq!(receiver.recv(&mut buffer).unwrap(), len);
            arrived.extend_from_slice(&buffer[..len]);
        }
        assert_eq!(arrived, [&[1u8; 150][..], &[0; 50], &[2; 30]].concat());
        assert_eq!(slot.send_each(-1), -libc::EBADF);
        slot.clear(&mut pool);
    }

    #[test]
    fn pages_are_counted_where_they_are_gathered_from() {
        let mut pool = BufferPool::new(super::super::pool::Layout { count: 2, len: 8 * 4096, min_left: 0 }).unwrap();
        pool.received(0, 8 * 4096, false);
        let mut slot = SendSlot::new();
        assert_eq!(slot.pages(), 0);
        // A pool's buffer begins with a page.
        slot.append_buffer(&pool, 0, 0..4096);
        assert_eq!(slot.pages(), 1);
        slot.append_buffer(&pool, 0, 4095..4097);
        assert_eq!(slot.pages(), 1 + 2);
        let mut slot = SendSlot::new();
        slot.append_copy(&[0; MAX_TRAIN]);
        assert!((16..=17).contains(&slot.pages()), "a train that is all copied, wherever the scratch begins");
    }
}
