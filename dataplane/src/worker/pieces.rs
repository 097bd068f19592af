//! Frames that come in pieces (step (11)): put together where they lie, as long as nothing comes between their pieces, else in
//! the table of unfinished frames.

use std::ops::Range;

use zerocopy::FromBytes;
use zerocopy::byteorder::network_endian::U32;

use crate::datagram::fragment::{FragmentHeader, MAX_BODY, Outcome, Reassembly, Sender};
use crate::ring::BufferPool;

/// The unfinished frames of one worker.
#[derive(Default)]
pub(super) struct Pieces {
    table: Reassembly,
    /// The last thing in the train that is looked at.
    tail: Option<Tail>,
}

/// The beginning of a frame, in one piece, behind which only headers and padding have come so far: its rest may follow.
struct Tail {
    sender: Sender,
    number: u32,
    flags: u8,
    total: usize,
    buffer: u16,
    range: Range<usize>,
}

/// Where a piece was received.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) sender: Sender,
    /// Flags of its record.
    pub(super) flags: u8,
    /// Buffer of the underlay's pool.
    pub(super) buffer: u16,
    /// The body of the record there.
    pub(super) range: Range<usize>,
}

/// What became of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put<'a> {
    /// The frame is complete, and lies in the buffer that its last piece came in: flags and body as of a frame record.
    InPlace(u8, Range<usize>),
    /// Anything else, as the table says.
    Table(Outcome<'a>),
}

impl Pieces {
    /// Gives up frames whose deadline has passed; says how many.
    pub(super) fn expire(&mut self, now_ms: u64) -> usize {
        self.table.expire(now_ms)
    }

    /// Takes a piece. The number is that of older unfinished frames that had to go for it.
    pub(super) fn add(&mut self, pool: &mut BufferPool, found: Found, now_ms: u64) -> (Put<'_>, u64) {
        let Found { sender, flags, buffer, range } = found;
        let Ok((header, piece)) = FragmentHeader::read_from_prefix(pool.bytes(buffer, range.clone())) else {
            return (Put::Table(Outcome::Malformed), 0);
        };
        let (number, total, len) = (header.number.get(), header.total.get() as usize, piece.len());
        let at = range.end - len;
        if let Some(tail) = &mut self.tail
            && (tail.sender, tail.number, tail.flags, tail.total, tail.buffer) == (sender, number, flags, total, buffer)
            && tail.range.len() == header.offset.get() as usize
            && (1..=total - tail.range.len()).contains(&len)
        {
            // Over what lay between, which has been read.
            let (from, before) = (tail.range.start, tail.range.len());
            pool.bytes_mut(buffer, from..at).copy_within(..before, at - before - from);
            tail.range = at - before..range.end;
            if before + len < total {
                return (Put::Table(Outcome::Stored), 0);
            }
            let whole = tail.range.clone();
            self.tail = None;
            return (Put::InPlace(flags, whole), 0);
        }
        let evicted = self.interrupt(pool, now_ms);
        let begins = header.offset.get() == 0 && (1..total).contains(&len) && total <= MAX_BODY;
        if begins && !self.table.has(sender, number) {
            self.tail = Some(Tail { sender, number, flags, total, buffer, range: at..range.end });
            return (Put::Table(Outcome::Stored), evicted);
        }
        let (outcome, also_evicted) =
            self.table.insert(sender, flags, header, pool.bytes(buffer, at..range.end), now_ms);
        (Put::Table(outcome), evicted + u64::from(also_evicted))
    }

    /// Something else comes, or the train has ended: what has begun goes on in the table. Returns how many older unfinished
    /// frames had to go for it.
    pub(super) fn interrupt(&mut self, pool: &BufferPool, now_ms: u64) -> u64 {
        let Some(Tail { sender, number, flags, total, buffer, range }) = self.tail.take() else { return 0 };
        let header = FragmentHeader { number: U32::new(number), total: U32::new(total as u32), offset: U32::new(0) };
        let (_, evicted) = self.table.insert(sender, flags, header, pool.bytes(buffer, range), now_ms);
        u64::from(evicted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::addr::PeerId;
    use crate::ring::Layout;

    const SENDER: Sender = Sender { peer: PeerId(1), lane: 0 };

    fn record(number: u32, body: &[u8], piece: Range<usize>) -> Vec<u8> {
        let header = FragmentHeader {
            number: U32::new(number),
            total: U32::new(body.len() as u32),
            offset: U32::new(piece.start as u32),
        };
        [header.as_bytes(), &body[piece]].concat()
    }

    /// A buffer with these octets in it.
    fn pool_with(octets: &[u8]) -> BufferPool {
        let len = octets.len().next_multiple_of(4096).max(4096);
        let mut pool = BufferPool::new(Layout { count: 2, len, min_left: 0 }).unwrap();
        pool.received(0, octets.len(), false);
        pool.bytes_mut(0, 0..octets.len()).copy_from_slice(octets);
        pool
    }

    fn found(range: Range<usize>) -> Found {
        Found { sender: SENDER, flags: 0, buffer: 0, range }
    }

    #[test]
    fn neighbours_are_put_together_where_they_lie() {
        let body: Vec<u8> = (0..=255).collect();
        let records = [record(7, &body, 0..100), record(7, &body, 100..150), record(7, &body, 150..256)];
        // What lies between is a datagram's header.
        let octets = records.join(&[0xee; 20][..]);
        let mut pool = pool_with(&octets);
        let mut pieces = Pieces::default();
        let mut at = 0;
        let mut puts = Vec::new();
        for record in &records {
            let (put, evicted) = pieces.add(&mut pool, found(at..at + record.len()), 0);
            assert_eq!(evicted, 0);
            puts.push(match put {
                Put::InPlace(flags, range) => Some((flags, range)),
                Put::Table(outcome) => {
                    assert_eq!(outcome, Outcome::Stored);
                    None
                }
            });
            at += record.len() + 20;
        }
        let [None, None, Some((0, range))] = &puts[..] else { panic!("{puts:?}") };
        assert_eq!(range.end, octets.len());
        assert_eq!(pool.bytes(0, range.clone()), body);
        assert!(!pieces.table.has(SENDER, 7));
    }

    #[test]
    fn what_is_interrupted_goes_on_in_the_table() {
        let body: Vec<u8> = (0..=255).collect();
        let records = [record(7, &body, 0..100), record(7, &body, 100..256)];
        let mut pool = pool_with(&records.concat());
        let mut pieces = Pieces::default();
        let split = records[0].len();
        pieces.add(&mut pool, found(0..split), 0);
        assert_eq!(pieces.interrupt(&pool, 0), 0);
        let (put, _) = pieces.add(&mut pool, found(split..split + records[1].len()), 0);
        assert_eq!(put, Put::Table(Outcome::Complete(0, &body)));
    }

    #[test]
    fn impossible_pieces_are_malformed() {
        let body = [1; 100];
        let mut long = record(1, &body, 0..100);
        long[7] = 50;
        let rest = record(2, &body, 60..100);
        let mut beyond = record(2, &body, 60..100);
        beyond.extend([1; 10]);
        for (records, expected) in [
            (vec![long], Outcome::Malformed),
            (vec![vec![0; 11]], Outcome::Malformed),
            (vec![record(1, &body, 0..0)], Outcome::Malformed),
            (vec![record(2, &body, 0..60), beyond], Outcome::Malformed),
            (vec![record(2, &body, 0..60), record(2, &body, 60..60)], Outcome::Malformed),
            (vec![record(2, &body, 0..60), record(2, &body, 0..60)], Outcome::Duplicate),
            (vec![record(2, &body, 0..61), rest], Outcome::Malformed),
        ] {
            let mut pool = pool_with(&records.concat());
            let mut pieces = Pieces::default();
            let mut at = 0;
            for (number, record) in records.iter().enumerate() {
                let (put, _) = pieces.add(&mut pool, found(at..at + record.len()), 0);
                let last = number + 1 == records.len();
                assert_eq!(put, Put::Table(if last { expected.clone() } else { Outcome::Stored }));
                at += record.len();
            }
        }
    }

    /// What the test lays into a buffer.
    #[derive(Debug, Clone)]
    struct Laid {
        frame: u32,
        lane: u8,
        piece: Range<usize>,
        gap: usize,
        interrupted: bool,
    }

    fn body(frame: u32, len: usize) -> Vec<u8> {
        (0..len).map(|i| (i as u32).wrapping_mul(7).wrapping_add(frame * 31) as u8).collect()
    }

    /// Pieces of some frames, mostly in order, some swapped, lost or interrupted; none twice, since a session takes no
    /// datagram twice.
    fn trains() -> impl Strategy<Value = Vec<Laid>> {
        let frame = (1usize..3000, 20usize..1500, 0u8..2);
        let frames = proptest::collection::vec(frame, 1..12);
        let faults = proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..8);
        let gaps = proptest::collection::vec((0usize..80, prop::bool::weighted(0.1)), 64);
        (frames, faults, gaps).prop_map(|(frames, faults, gaps)| {
            let mut laid = Vec::new();
            for (number, (len, cut, lane)) in frames.into_iter().enumerate() {
                for from in (0..len).step_by(cut) {
                    let (gap, interrupted) = gaps[laid.len() % gaps.len()];
                    let piece = from..(from + cut).min(len);
                    laid.push(Laid { frame: number as u32, lane, piece, gap, interrupted });
                }
            }
            for (index, fault) in faults {
                let at = index.index(laid.len());
                match fault {
                    true if laid.len() > 1 => drop(laid.remove(at)),
                    _ => laid.swap(at.saturating_sub(1), at),
                }
            }
            laid
        })
    }

    proptest! {
        /// In place or not, the same frames come out at the same pieces as of a table that knows nothing of places.
        #[test]
        fn as_the_table_alone_would(train in trains(), lens in proptest::collection::vec(1usize..3000, 12)) {
            let bodies: Vec<_> = (0..12).map(|frame| {
                let end = train.iter().filter(|laid| laid.frame == frame).map(|laid| laid.piece.end).max();
                body(frame, end.unwrap_or(0).max(lens[frame as usize] / 8))
            }).collect();
            let records: Vec<_> = train.iter().map(|laid| record(laid.frame, &bodies[laid.frame as usize], laid.piece.clone())).collect();
            let mut octets = Vec::new();
            let mut ranges = Vec::new();
            for (laid, record) in train.iter().zip(&records) {
                octets.extend(std::iter::repeat_n(0xee, laid.gap));
                ranges.push(octets.len()..octets.len() + record.len());
                octets.extend(record);
            }
            let mut pool = pool_with(&octets);
            let (mut pieces, mut alone) = (Pieces::default(), Reassembly::default());
            for ((laid, record), range) in train.iter().zip(&records).zip(ranges) {
                let sender = Sender { lane: laid.lane, ..SENDER };
                let (expected, _) = alone.add(sender, 0, record, 0);
                let expected = match expected {
                    Outcome::Complete(flags, body) => Ok((flags, body.to_vec())),
                    other => Err(format!("{other:?}")),
                };
                let found = Found { sender, flags: 0, buffer: 0, range };
                let put = match pieces.add(&mut pool, found, 0).0 {
                    Put::InPlace(flags, range) => Ok((flags, range)),
                    Put::Table(Outcome::Complete(flags, body)) => {
                        prop_assert_eq!(&expected, &Ok((flags, body.to_vec())));
                        continue;
                    }
                    Put::Table(other) => Err(format!("{other:?}")),
                };
                prop_assert_eq!(put.map(|(flags, range)| (flags, pool.bytes(0, range).to_vec())), expected);
                if laid.interrupted {
                    pieces.interrupt(&pool, 0);
                }
            }
        }
    }
}
