//! Pieces of a frame that does not fit a datagram, and the bounded table that puts them together.
//!
//! What is cut is the body of a frame record (checksum field, if the flag says so, and frame). The body of a fragment
//! record is
//!
//! ```text
//!   +---------------------------------------------------------------+
//!   |                     number of the frame                       |
//!   +---------------------------------------------------------------+
//!   |                     octets of the whole body                  |
//!   +---------------------------------------------------------------+
//!   |                     offset of this piece                      |
//!   +---------------------------------------------------------------+
//!   |                     the piece                                 |
//! ```
//!
//! Pieces have any size: the first one usually fills a datagram that has something else in it already.
//!
//! The flags are those of the frame record and the same in every piece. Pieces may come in any order. A frame whose
//! pieces overlap or disagree is dropped whole (RFC 5722 has the reason), one that stays unfinished is dropped at its
//! deadline or when the table needs its place.

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::PeerId;
use crate::wire::ethernet::MAX_FRAME;

use super::record::CHECKSUM_FIELD_LEN;

/// The 12 octets in front of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FragmentHeader {
    /// Which frame of the sender's lane; wraps.
    pub number: U32,
    /// Octets of the body that was cut.
    pub total: U32,
    /// Where the piece stood in it.
    pub offset: U32,
}

/// Length of [`FragmentHeader`].
pub const FRAGMENT_HEADER_LEN: usize = size_of::<FragmentHeader>();
const _: () = assert!(FRAGMENT_HEADER_LEN == 12);

/// Largest body that can be cut.
pub const MAX_BODY: usize = MAX_FRAME + CHECKSUM_FIELD_LEN;
/// Frames that may be unfinished at a time.
const ENTRIES: usize = 64;
/// Of these, of one peer: one that never finishes a frame must not take the places of all others.
const ENTRIES_PER_PEER: usize = 32;
/// Pieces that one frame may come in; 64 KiB over a path of 576 octets take 138.
const PIECES: usize = 160;
/// How long a frame may stay unfinished. Its pieces leave in one burst; what is not here after this was lost.
pub const DEADLINE_MS: u64 = 500;

/// Who a fragment is from: pieces of different senders never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// The peer.
    pub peer: PeerId,
    /// The thread of the peer.
    pub lane: u8,
}

struct Entry {
    sender: Sender,
    number: u32,
    flags: u8,
    total: usize,
    deadline_ms: u64,
    /// Offset and length of each piece that is here, sorted by offset.
    pieces: [(u32, u32); PIECES],
    count: usize,
    body: Box<[u8]>,
}

/// What became of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// More pieces are missing.
    Stored,
    /// The frame is complete: its flags and its body, as of a frame record.
    Complete(u8, &'a [u8]),
    /// The same piece came twice; nothing changed.
    Duplicate,
    /// The piece is malformed or contradicts an earlier one; the frame is given up.
    Malformed,
}

/// The table of unfinished frames of one worker: at most 64, with memory set aside at the start.
pub struct Reassembly {
    entries: Vec<Entry>,
    free: Vec<Box<[u8]>>,
    done: Box<[u8]>,
}

impl Default for Reassembly {
    fn default() -> Self {
        // Pages of these buffers are only resident once a frame needed them.
        let buffer = || vec![0u8; MAX_BODY].into_boxed_slice();
        Reassembly {
            entries: Vec::with_capacity(ENTRIES),
            free: (0..ENTRIES).map(|_| buffer()).collect(),
            done: buffer(),
        }
    }
}

impl Reassembly {
    /// Gives up frames whose deadline has passed; says how many.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let before = self.entries.len();
        let mut at = 0;
        while at < self.entries.len() {
            if self.entries[at].deadline_ms <= now_ms { self.discard(at) } else { at += 1 }
        }
        before - self.entries.len()
    }

    /// Takes the body of a fragment record. The second value is true if an older unfinished frame had to go for it.
    pub fn add(&mut self, sender: Sender, flags: u8, record: &[u8], now_ms: u64) -> (Outcome<'_>, bool) {
        match FragmentHeader::read_from_prefix(record) {
            Ok((header, piece)) => self.insert(sender, flags, header, piece, now_ms),
            Err(_) => (Outcome::Malformed, false),
        }
    }

    /// True if pieces of this frame are here.
    pub fn has(&self, sender: Sender, number: u32) -> bool {
        self.entries.iter().any(|entry| entry.sender == sender && entry.number == number)
    }

    /// The same as [`Self::add`] for a record that was taken apart.
    pub fn insert(
        &mut self,
        sender: Sender,
        flags: u8,
        header: FragmentHeader,
        piece: &[u8],
        now_ms: u64,
    ) -> (Outcome<'_>, bool) {
        let (number, total) = (header.number.get(), header.total.get() as usize);
        let offset = header.offset.get() as usize;
        let found = self.entries.iter().position(|e| e.sender == sender && e.number == number);
        if piece.is_empty() || total > MAX_BODY || offset >= total || piece.len() > total - offset {
            if let Some(at) = found {
                self.discard(at);
            }
            return (Outcome::Malformed, false);
        }
        let mut evicted = false;
        let at = match found {
            Some(at) => at,
            None => {
                // The oldest goes: its own sender's if that has its share, else anyone's. Entries are in the order of
                // their arrival.
                let of_sender = |e: &Entry| e.sender.peer == sender.peer;
                let oldest = if self.entries.iter().filter(|e| of_sender(e)).count() >= ENTRIES_PER_PEER {
                    self.entries.iter().position(of_sender)
                } else if self.free.is_empty() {
                    Some(0)
                } else {
                    None
                };
                if let Some(oldest) = oldest {
                    self.discard(oldest);
                    evicted = true;
                }
                let Some(body) = self.free.pop() else { return (Outcome::Malformed, evicted) };
                let deadline_ms = now_ms + DEADLINE_MS;
                let pieces = [(0, 0); PIECES];
                self.entries.push(Entry { sender, number, flags, total, deadline_ms, pieces, count: 0, body });
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[at];
        if entry.total != total || entry.flags != flags {
            self.discard(at);
            return (Outcome::Malformed, evicted);
        }
        match entry.insert(offset, piece) {
            Inserted::Yes if entry.is_complete() => {
                let mut entry = self.entries.remove(at);
                std::mem::swap(&mut entry.body, &mut self.done);
                self.free.push(entry.body);
                (Outcome::Complete(flags, &self.done[..total]), evicted)
            }
            Inserted::Yes => (Outcome::Stored, evicted),
            Inserted::Duplicate => (Outcome::Duplicate, evicted),
            Inserted::Overlap => {
                self.discard(at);
                (Outcome::Malformed, evicted)
            }
        }
    }

    fn discard(&mut self, at: usize) {
        let entry = self.entries.remove(at);
        self.free.push(entry.body);
    }
}

enum Inserted {
    Yes,
    Duplicate,
    Overlap,
}

impl Entry {
    fn insert(&mut self, offset: usize, piece: &[u8]) -> Inserted {
        let (from, len) = (offset as u32, piece.len() as u32);
        let here = &self.pieces[..self.count];
        let at = here.partition_point(|(start, _)| *start < from);
        if here.get(at) == Some(&(from, len)) {
            return Inserted::Duplicate;
        }
        let clear_before = at == 0 || here[at - 1].0 + here[at - 1].1 <= from;
        let clear_behind = here.get(at).is_none_or(|(start, _)| from + len <= *start);
        if !clear_before || !clear_behind || self.count == PIECES {
            return Inserted::Overlap;
        }
        self.pieces.copy_within(at..self.count, at + 1);
        self.pieces[at] = (from, len);
        self.count += 1;
        self.body[offset..offset + piece.len()].copy_from_slice(piece);
        Inserted::Yes
    }

    fn is_complete(&self) -> bool {
        // Pieces do not overlap and lie inside, so they cover the frame if their lengths add up to it.
        self.pieces[..self.count].iter().map(|(_, len)| *len as usize).sum::<usize>() == self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SENDER: Sender = Sender { peer: PeerId(1), lane: 0 };

    fn piece(number: u32, body: &[u8], from: usize, to: usize) -> Vec<u8> {
        let header = FragmentHeader {
            number: U32::new(number),
            total: U32::new(body.len() as u32),
            offset: U32::new(from as u32),
        };
        [header.as_bytes(), &body[from..to]].concat()
    }

    #[test]
    fn an_overlap_gives_the_frame_up() {
        let mut table = Reassembly::default();
        let body = [1u8; 100];
        assert_eq!(table.add(SENDER, 0, &piece(1, &body, 0, 60), 0).0, Outcome::Stored);
        assert_eq!(table.add(SENDER, 0, &piece(1, &body, 59, 100), 0).0, Outcome::Malformed);
        assert!(table.entries.is_empty());
    }

    #[test]
    fn a_piece_twice_changes_nothing() {
        let mut table = Reassembly::default();
        let body = [1u8; 100];
        table.add(SENDER, 0, &piece(1, &body, 0, 60), 0);
        assert_eq!(table.add(SENDER, 0, &piece(1, &body, 0, 60), 0).0, Outcome::Duplicate);
        assert_eq!(table.add(SENDER, 0, &piece(1, &body, 60, 100), 0).0, Outcome::Complete(0, &body));
    }

    #[test]
    fn senders_do_not_mix() {
        let mut table = Reassembly::default();
        let body = [1u8; 100];
        table.add(SENDER, 0, &piece(1, &body, 0, 60), 0);
        let other = Sender { lane: 1, ..SENDER };
        assert_eq!(table.add(other, 0, &piece(1, &body, 60, 100), 0).0, Outcome::Stored);
    }

    #[test]
    fn memory_and_time_are_bounded() {
        let mut table = Reassembly::default();
        let body = [1u8; 100];
        let evictions = (0..200).filter(|n| table.add(SENDER, 0, &piece(*n, &body, 0, 60), 5).1).count();
        assert_eq!((table.entries.len(), evictions), (ENTRIES_PER_PEER, 200 - ENTRIES_PER_PEER));
        for peer in 2..10 {
            let other = Sender { peer: PeerId(peer), lane: 0 };
            for n in 0..32 {
                table.add(other, 0, &piece(n, &body, 0, 60), 5);
            }
        }
        assert_eq!(table.entries.len(), ENTRIES);
        assert_eq!(table.expire(5 + DEADLINE_MS - 1), 0);
        assert_eq!(table.expire(5 + DEADLINE_MS), ENTRIES);
    }

    #[test]
    fn impossible_pieces_are_malformed() {
        let mut table = Reassembly::default();
        for (total, offset, len) in
            [(100u32, 100u32, 1usize), (100, 90, 11), (MAX_BODY as u32 + 1, 0, 10), (100, u32::MAX, 10), (100, 0, 0)]
        {
            let header = FragmentHeader { number: U32::new(1), total: U32::new(total), offset: U32::new(offset) };
            let record = [header.as_bytes(), &vec![0; len]].concat();
            assert_eq!(table.add(SENDER, 0, &record, 0).0, Outcome::Malformed, "{total} {offset} {len}");
        }
        assert_eq!(table.add(SENDER, 0, &[0; 11], 0).0, Outcome::Malformed);
    }

    proptest! {
        #[test]
        fn any_order_makes_the_frame(body in proptest::collection::vec(any::<u8>(), 1..5000), cut in 50usize..2000, order: prop::sample::Index, repeat: prop::sample::Index) {
            let mut table = Reassembly::default();
            let mut pieces: Vec<_> = (0..body.len()).step_by(cut).map(|from| piece(9, &body, from, (from + cut).min(body.len()))).collect();
            let n = pieces.len();
            pieces.rotate_left(order.index(n));
            pieces.insert(0, pieces[repeat.index(n)].clone());
            let mut complete = 0;
            for p in &pieces {
                if let (Outcome::Complete(flags, whole), _) = table.add(SENDER, 1, p, 0) {
                    prop_assert_eq!((flags, whole), (1, &body[..]));
                    complete += 1;
                    break;
                }
            }
            prop_assert_eq!(complete, 1);
        }
    }
}
