//! Buffers that the kernel picks from by itself (provided-buffer ring, `IORING_REGISTER_PBUF_RING`).
// UNSAFETY: raw memory shared with the kernel. Invariant: a buffer is the kernel's from `hand_over` until a completion
// names it, and ours from then until its last reference is released; both maps live as long as the pool, and the pool
// outlives the ring's requests (see the drop order in `Ring`).
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
}

impl Map {
    fn new(len: usize) -> io::Result<Map> {
        let len = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh private mapping, placed by the kernel, aliases nothing.
        let at = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE) }?;
        Ok(Map { at: at.cast(), len })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length and not unmapped since.
        let _ = unsafe { munmap(self.at.cast(), self.len.get()) };
    }
}

/// A group of equal buffers.
pub(crate) struct BufferPool {
    entries: Map,
    data: Map,
    count: u16,
    buffer_len: usize,
    tail: u16,
    /// Where system calls take the next entry from; io_uring has a head of its own in the kernel.
    head: u16,
    /// How many hold the buffer; 0 while it is the kernel's.
    refs: Vec<Cell<u16>>,
    held: usize,
}

impl BufferPool {
    /// `count` (a power of two) buffers of `buffer_len` octets, all of them the kernel's.
    pub(crate) fn new(count: u16, buffer_len: usize) -> io::Result<BufferPool> {
        let mut pool = BufferPool {
            entries: Map::new(usize::from(count) * size_of::<BufRingEntry>())?,
            data: Map::new(usize::from(count) * buffer_len)?,
            count,
            buffer_len,
            tail: 0,
            head: 0,
            refs: vec![Cell::new(0); usize::from(count)],
            held: 0,
        };
        for buffer in 0..count {
            pool.hand_over(buffer);
        }
        Ok(pool)
    }

    /// Address of the ring of entries and their number, for registration.
    pub(crate) fn registration(&self) -> (u64, u16) {
        (self.entries.at.as_ptr() as u64, self.count)
    }

    /// Octets per buffer.
    pub(crate) fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    /// True if the kernel has at least one buffer.
    pub(crate) fn has_free(&self) -> bool {
        self.held < usize::from(self.count)
    }

    /// A completion named this buffer: it is ours, with one reference.
    pub(crate) fn received(&mut self, buffer: u16) {
        let refs = &self.refs[usize::from(buffer)];
        debug_assert_eq!(refs.get(), 0, "the kernel filled a buffer that it did not own");
        refs.set(1);
        self.held += 1;
    }

    /// For the engine without io_uring, which stands in for the kernel: number and address of the buffer to fill after
    /// `skip` others. `None` if there are not so many.
    pub(super) fn vacant(&self, skip: u16) -> Option<(u16, *mut u8)> {
        if skip >= self.tail.wrapping_sub(self.head) {
            return None;
        }
        let slot = usize::from(self.head.wrapping_add(skip) & (self.count - 1));
        // SAFETY: `slot` is below `count`, so the entry lies inside the map, and `hand_over` has filled it in.
        let buffer = unsafe { (*self.entries.at.as_ptr().cast::<BufRingEntry>().add(slot)).bid() };
        // SAFETY: buffers lie inside the map.
        Some((buffer, unsafe { self.data.at.as_ptr().add(usize::from(buffer) * self.buffer_len) }))
    }

    /// For the same: the first `count` of the vacant buffers are filled.
    pub(super) fn filled(&mut self, count: u16) {
        debug_assert!(count <= self.tail.wrapping_sub(self.head));
        self.head = self.head.wrapping_add(count);
    }

    /// One more holder of the buffer.
    pub(crate) fn retain(&self, buffer: u16) {
        let refs = &self.refs[usize::from(buffer)];
        assert!(refs.get() > 0, "a buffer that the kernel owns cannot be retained");
        refs.set(refs.get() + 1);
    }

    /// One holder less; the last one gives the buffer back to the kernel.
    pub(crate) fn release(&mut self, buffer: u16) {
        let refs = &self.refs[usize::from(buffer)];
        assert!(refs.get() > 0, "a buffer that the kernel owns cannot be released");
        refs.set(refs.get() - 1);
        if refs.get() == 0 {
            self.held -= 1;
            self.hand_over(buffer);
        }
    }

    /// The octets of a buffer that is ours. Handing it over takes `&mut self`, so none of this can be alive then.
    pub(crate) fn bytes(&self, buffer: u16, range: Range<usize>) -> &[u8] {
        assert!(self.refs[usize::from(buffer)].get() > 0 && range.start <= range.end && range.end <= self.buffer_len);
        let start = usize::from(buffer) * self.buffer_len + range.start;
        // SAFETY: inside the map (asserted above), and ours, so the kernel does not write to it.
        unsafe { std::slice::from_raw_parts(self.data.at.as_ptr().add(start), range.len()) }
    }

    /// The same octets for the kernel to read; the caller keeps a reference until that is done.
    pub(crate) fn iovec(&self, buffer: u16, range: Range<usize>) -> libc::iovec {
        let bytes = self.bytes(buffer, range);
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    }

    fn hand_over(&mut self, buffer: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        let base = self.entries.at.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `slot` is below `count`, so the entry lies inside the map, which is page-aligned; the kernel reads
        // entries only below the tail that is stored after this one is filled in. The tail overlays the first
        // entry's unused field (struct io_uring_buf_ring), which `set_addr` and its like leave alone.
        unsafe {
            let entry = &mut *base.add(slot);
            entry.set_addr(self.data.at.as_ptr() as u64 + (usize::from(buffer) * self.buffer_len) as u64);
            entry.set_len(self.buffer_len as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()).store(self.tail, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reference_gives_the_buffer_back() {
        let mut pool = BufferPool::new(2, 64).unwrap();
        assert_eq!(pool.tail, 2);
        pool.received(1);
        pool.retain(1);
        pool.release(1);
        assert_eq!(pool.tail, 2);
        assert_eq!(pool.bytes(1, 0..64), [0; 64]);
        pool.release(1);
        assert_eq!(pool.tail, 3);
        pool.received(0);
        pool.received(1);
        assert!(!pool.has_free());
    }

    #[test]
    fn vacant_buffers_are_taken_in_the_order_they_came_back() {
        let mut pool = BufferPool::new(2, 64).unwrap();
        let number = |pool: &BufferPool, skip| pool.vacant(skip).map(|(buffer, _)| buffer);
        assert_eq!([0, 1, 2].map(|skip| number(&pool, skip)), [Some(0), Some(1), None]);
        pool.filled(2);
        pool.received(0);
        pool.received(1);
        assert_eq!(number(&pool, 0), None);
        pool.release(1);
        assert_eq!([0, 1].map(|skip| number(&pool, skip)), [Some(1), None]);
        pool.release(0);
        assert_eq!(number(&pool, 1), Some(0));
    }

    #[test]
    #[should_panic(expected = "the kernel owns")]
    fn a_buffer_of_the_kernel_cannot_be_released() {
        BufferPool::new(2, 64).unwrap().release(0);
    }
}
