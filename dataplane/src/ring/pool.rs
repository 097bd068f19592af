//! Buffers that the kernel picks from by itself (provided-buffer ring, `IORING_REGISTER_PBUF_RING`).
// UNSAFETY: raw memory shared with the kernel. Invariant: a buffer is the kernel's from `hand_over` on; each completion makes
// the next part of it ours, and the whole buffer is handed over again only when the kernel is done with it and the last
// reference to a part is released. Both maps live as long as the pool, and the pool outlives the ring's requests (see
// the drop order in `Ring`).
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Anonymous memory, page-aligned, resident only where it was touched.
struct Map {
    at: NonNull<u8>,
    len: NonZeroUsize,
    /// It stays when this is dropped.
    kept: bool,
}

impl Map {
    fn new(len: usize) -> io::Result<Map> {
        let len = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh private mapping, placed by the kernel, aliases nothing.
        let at = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE) }?;
        Ok(Map { at: at.cast(), len, kept: false })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // SAFETY: mapped in `new` with this length and not unmapped since.
        let _ = unsafe { munmap(self.at.cast(), self.len.get()) };
    }
}

/// How a pool is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Buffers, a power of two.
    pub(crate) count: u16,
    /// Octets of each.
    pub(crate) len: usize,
    /// 0: each message has a buffer of its own. Otherwise messages lie back to back, and the kernel goes on to the next
    /// buffer when fewer octets than this are left: the largest message (`IOU_PBUF_RING_INC` with `min_left`).
    pub(crate) min_left: usize,
}

/// What is known of one buffer.
#[derive(Debug, Default)]
struct State {
    /// How many hold a part of it.
    refs: Cell<u32>,
    /// Octets that the kernel has filled since it got the buffer.
    filled: usize,
    /// The kernel may still fill what is behind `filled`.
    open: bool,
    /// Up to where the kernel may be reading it.
    lent: Cell<usize>,
}

/// A group of equal buffers.
pub(crate) struct BufferPool {
    entries: Map,
    data: Map,
    layout: Layout,
    tail: u16,
    /// Where system calls take the next entry from; io_uring has a head of its own in the kernel.
    head: u16,
    states: Vec<State>,
    /// Buffers that the kernel is done with and that somebody holds a part of.
    held: usize,
}

impl BufferPool {
    /// Buffers that are all the kernel's.
    pub(crate) fn new(layout: Layout) -> io::Result<BufferPool> {
        let count = usize::from(layout.count);
        let mut pool = BufferPool {
            entries: Map::new(count * size_of::<BufRingEntry>())?,
            data: Map::new(count * layout.len)?,
            layout,
            tail: 0,
            head: 0,
            states: (0..count).map(|_| State::default()).collect(),
            held: 0,
        };
        for buffer in 0..layout.count {
            pool.hand_over(buffer);
        }
        Ok(pool)
    }

    /// Lets the octets stay for ever.
    pub(super) fn leak(&mut self) {
        self.data.kept = true;
    }

    /// Address of the ring of entries, for registration.
    pub(crate) fn address(&self) -> u64 {
        self.entries.at.as_ptr() as u64
    }

    /// How it is laid out.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// True if the kernel has a buffer to fill.
    pub(crate) fn has_free(&self) -> bool {
        self.held < usize::from(self.layout.count)
    }

    /// A completion named this buffer: the next `len` octets of it are ours, with one reference. `more` if the kernel
    /// goes on to fill it. Returns where they begin.
    pub(crate) fn received(&mut self, buffer: u16, len: usize, more: bool) -> usize {
        let state = &mut self.states[usize::from(buffer)];
        assert!(state.open && state.filled + len <= self.layout.len, "the kernel filled what it did not own");
        let at = state.filled;
        state.filled += len;
        state.refs.set(state.refs.get() + 1);
        if !more {
            state.open = false;
            self.held += 1;
        }
        at
    }

    /// For the engine without io_uring, which stands in for the kernel: number and address of the buffer to fill after
    /// `skip` others. `None` if there are not so many.
    pub(super) fn vacant(&self, skip: u16) -> Option<(u16, *mut u8)> {
        if skip >= self.tail.wrapping_sub(self.head) {
            return None;
        }
        let slot = usize::from(self.head.wrapping_add(skip) & (self.layout.count - 1));
        // SAFETY: `slot` is below `count`, so the entry lies inside the map, and `hand_over` has filled it in.
        let buffer = unsafe { (*self.entries.at.as_ptr().cast::<BufRingEntry>().add(slot)).bid() };
        // SAFETY: buffers lie inside the map.
        Some((buffer, unsafe { self.data.at.as_ptr().add(usize::from(buffer) * self.layout.len) }))
    }

    /// For the same: the first `count` of the vacant buffers are filled.
    pub(super) fn filled(&mut self, count: u16) {
        debug_assert!(count <= self.tail.wrapping_sub(self.head));
        self.head = self.head.wrapping_add(count);
    }

    /// One more holder of a part of the buffer.
    pub(crate) fn retain(&self, buffer: u16) {
        let State { refs, .. } = &self.states[usize::from(buffer)];
        assert!(refs.get() > 0, "a buffer that the kernel owns cannot be retained");
        refs.set(refs.get() + 1);
    }

    /// One holder less; the last one gives the buffer back to the kernel, if that is done with it.
    pub(crate) fn release(&mut self, buffer: u16) {
        let state = &self.states[usize::from(buffer)];
        assert!(state.refs.get() > 0, "a buffer that the kernel owns cannot be released");
        state.refs.set(state.refs.get() - 1);
        if state.refs.get() == 0 && !state.open {
            self.held -= 1;
            self.hand_over(buffer);
        }
    }

    /// Octets of a buffer that are ours. Handing it over takes `&mut self`, so none of this can be alive then.
    pub(crate) fn bytes(&self, buffer: u16, range: Range<usize>) -> &[u8] {
        let state = &self.states[usize::from(buffer)];
        assert!(state.refs.get() > 0 && range.start <= range.end && range.end <= state.filled);
        let start = usize::from(buffer) * self.layout.len + range.start;
        // SAFETY: inside the map, since no more is filled than there is, and ours: the kernel writes behind `filled` only.
        unsafe { std::slice::from_raw_parts(self.data.at.as_ptr().add(start), range.len()) }
    }

    /// Octets to change, behind all that was given to the kernel to read.
    pub(crate) fn bytes_mut(&mut self, buffer: u16, range: Range<usize>) -> &mut [u8] {
        let state = &self.states[usize::from(buffer)];
        assert!(state.refs.get() > 0 && range.start <= range.end && range.end <= state.filled);
        assert!(range.start >= state.lent.get(), "the kernel may be reading it");
        let start = usize::from(buffer) * self.layout.len + range.start;
        // SAFETY: inside the map, ours alone (asserted above), and `&mut self` rules out slices of it.
        unsafe { std::slice::from_raw_parts_mut(self.data.at.as_ptr().add(start), range.len()) }
    }

    /// The same octets for the kernel to read; the caller keeps a reference until that is done.
    pub(crate) fn iovec(&self, buffer: u16, range: Range<usize>) -> libc::iovec {
        let lent = &self.states[usize::from(buffer)].lent;
        lent.set(lent.get().max(range.end));
        let bytes = self.bytes(buffer, range);
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    }

    fn hand_over(&mut self, buffer: u16) {
        let state = &mut self.states[usize::from(buffer)];
        (state.filled, state.open) = (0, true);
        state.lent.set(0);
        let slot = usize::from(self.tail & (self.layout.count - 1));
        let base = self.entries.at.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `slot` is below `count`, so the entry lies inside the map, which is page-aligned; the kernel reads
        // entries only below the tail that is stored after this one is filled in. The tail overlays the first
        // entry's unused field (struct io_uring_buf_ring), which `set_addr` and its like leave alone.
        unsafe {
            let entry = &mut *base.add(slot);
            entry.set_addr(self.data.at.as_ptr() as u64 + (usize::from(buffer) * self.layout.len) as u64);
            entry.set_len(self.layout.len as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()).store(self.tail, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(min_left: usize) -> BufferPool {
        BufferPool::new(Layout { count: 2, len: 64, min_left }).unwrap()
    }

    #[test]
    fn the_last_reference_gives_the_buffer_back() {
        let mut pool = pool(0);
        assert_eq!(pool.tail, 2);
        assert_eq!(pool.received(1, 64, false), 0);
        pool.bytes_mut(1, 2..4).fill(7);
        pool.retain(1);
        pool.release(1);
        assert_eq!(pool.tail, 2);
        assert_eq!(pool.bytes(1, 0..6), [0, 0, 7, 7, 0, 0]);
        pool.release(1);
        assert_eq!(pool.tail, 3);
        pool.received(0, 1, false);
        pool.received(1, 1, false);
        assert!(!pool.has_free());
    }

    #[test]
    fn messages_lie_back_to_back_until_the_kernel_is_done() {
        let mut pool = pool(16);
        assert_eq!(pool.received(0, 10, true), 0);
        assert_eq!(pool.received(0, 20, true), 10);
        pool.release(0);
        pool.release(0);
        assert_eq!(pool.tail, 2, "the kernel still has it");
        assert_eq!(pool.received(0, 20, false), 30);
        assert_eq!(pool.bytes(0, 30..50), [0; 20]);
        assert!(pool.has_free());
        pool.release(0);
        assert_eq!(pool.tail, 3);
        assert_eq!(pool.received(1, 64, false), 0);
        assert_eq!(pool.received(0, 5, true), 0, "it begins anew");
    }

    #[test]
    #[should_panic(expected = "range.end <= state.filled")]
    fn what_is_not_filled_is_not_ours() {
        let mut pool = pool(16);
        pool.received(0, 10, true);
        pool.bytes(0, 0..11);
    }

    #[test]
    #[should_panic(expected = "may be reading")]
    fn what_the_kernel_reads_cannot_be_changed() {
        let mut pool = pool(16);
        pool.received(0, 10, true);
        pool.received(0, 10, true);
        assert_eq!(pool.iovec(0, 3..10).iov_len, 7);
        assert_eq!(pool.bytes_mut(0, 10..20).len(), 10);
        pool.bytes_mut(0, 9..11);
    }

    #[test]
    fn vacant_buffers_are_taken_in_the_order_they_came_back() {
        let mut pool = pool(0);
        let number = |pool: &BufferPool, skip| pool.vacant(skip).map(|(buffer, _)| buffer);
        assert_eq!([0, 1, 2].map(|skip| number(&pool, skip)), [Some(0), Some(1), None]);
        pool.filled(2);
        pool.received(0, 1, false);
        pool.received(1, 1, false);
        assert_eq!(number(&pool, 0), None);
        pool.release(1);
        assert_eq!([0, 1].map(|skip| number(&pool, skip)), [Some(1), None]);
        pool.release(0);
        assert_eq!(number(&pool, 1), Some(0));
    }

    #[test]
    #[should_panic(expected = "the kernel owns")]
    fn a_buffer_of_the_kernel_cannot_be_released() {
        pool(0).release(0);
    }
}
