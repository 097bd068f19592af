//! Records: what a datagram carries.
//!
//! ```text
//!   +---------------+---------------+-------------------------------+
//!   |     type      |     flags     |      length of the body       |
//!   +---------------+---------------+-------------------------------+
//!   |     body                                                      |
//! ```
//!
//! | type | body |
//! |---|---|
//! | 0 pad | anything; probes of the path MTU are filled up with it, and datagrams that are to be as long as their neighbours |
//! | 1 frame | if flag CHECKSUM: start (2), offset (2) of the checksum still to be finished; the Ethernet frame |
//! | 2 segment | [`super::segment`] |
//! | 3 fragment | [`super::fragment`] |
//! | 4 control | a JSON object |

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ending::Ending;
use crate::wire::vnet::PartialChecksum;

/// Filling.
pub const PAD: u8 = 0;
/// A whole frame.
pub const FRAME: u8 = 1;
/// A slice of a TCP or UDP super-frame.
pub const SEGMENT: u8 = 2;
/// A piece of a frame.
pub const FRAGMENT: u8 = 3;
/// JSON.
pub const CONTROL: u8 = 4;

/// Flag of [`FRAME`] and [`FRAGMENT`]: the frame's body begins with a [`ChecksumField`].
pub const FLAG_CHECKSUM: u8 = 1;

/// The 4 octets in front of every record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    /// What the body is.
    pub kind: u8,
    /// Depends on the kind; unknown flags are ignored.
    pub flags: u8,
    /// Octets of the body.
    pub len: U16,
}

/// Length of [`RecordHeader`].
pub const RECORD_HEADER_LEN: usize = size_of::<RecordHeader>();
const _: () = assert!(RECORD_HEADER_LEN == 4);

/// Where the receiver's host is to finish the checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChecksumField {
    start: U16,
    offset: U16,
}

/// Length of [`ChecksumField`].
pub const CHECKSUM_FIELD_LEN: usize = size_of::<ChecksumField>();

impl From<PartialChecksum> for ChecksumField {
    fn from(csum: PartialChecksum) -> Self {
        ChecksumField { start: U16::new(csum.start), offset: U16::new(csum.offset) }
    }
}

/// The parts in front of a frame's octets in a record, in the order in which they go out. At most 8 octets.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FramePrefix {
    header: RecordHeader,
    checksum: ChecksumField,
}

impl FramePrefix {
    /// The prefix of a frame of `len` octets, `None` if that is more than a record can say.
    pub fn new(len: usize, csum: Option<PartialChecksum>) -> Option<FramePrefix> {
        let body = len + if csum.is_some() { CHECKSUM_FIELD_LEN } else { 0 };
        Some(FramePrefix {
            header: RecordHeader {
                kind: FRAME,
                flags: if csum.is_some() { FLAG_CHECKSUM } else { 0 },
                len: U16::new(u16::try_from(body).ok()?),
            },
            checksum: csum.unwrap_or(PartialChecksum { start: 0, offset: 0 }).into(),
        })
    }

    /// The octets that precede the frame.
    pub fn bytes(&self) -> &[u8] {
        let len = if self.header.flags & FLAG_CHECKSUM != 0 { size_of::<Self>() } else { RECORD_HEADER_LEN };
        &self.as_bytes()[..len]
    }
}

/// Where the frame stands in the body of a frame record, if that is one.
pub fn frame_in(flags: u8, body: &[u8]) -> Option<std::ops::Range<usize>> {
    let (_, frame) = parse_frame(flags, body).ok()?;
    Some(body.len() - frame.len()..body.len())
}

/// Splits the body of a frame record into checksum and frame; refuses a checksum that lies outside the frame.
pub fn parse_frame(flags: u8, body: &[u8]) -> Result<(Option<PartialChecksum>, &[u8]), Ending> {
    if flags & FLAG_CHECKSUM == 0 {
        return Ok((None, body));
    }
    let (field, frame) = ChecksumField::ref_from_prefix(body).map_err(|_| Ending::RecordFrame)?;
    let csum = PartialChecksum { start: field.start.get(), offset: field.offset.get() };
    if !csum.fits(frame.len()) {
        return Err(Ending::RecordFrame);
    }
    Ok((Some(csum), frame))
}

/// A record as it lies in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the body is.
    pub kind: u8,
    /// Flags of that kind.
    pub flags: u8,
    /// The body.
    pub body: &'a [u8],
}

/// Walks the records behind a datagram's header. Ends after the first malformed one, which it yields as an error.
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Records<'a> {
        Records { rest: bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Ending>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = RecordHeader::ref_from_prefix(self.rest).ok().and_then(|(header, rest)| {
            let (body, rest) = rest.split_at_checked(usize::from(header.len.get()))?;
            Some((Record { kind: header.kind, flags: header.flags, body }, rest))
        });
        match parsed {
            Some((record, rest)) => {
                self.rest = rest;
                Some(Ok(record))
            }
            None => {
                self.rest = &[];
                Some(Err(Ending::RecordMalformed))
            }
        }
    }
}

/// Appends a record to a datagram that is built in memory. Bodies beyond 65 535 octets are cut off; none is that long.
pub fn emit(out: &mut Vec<u8>, kind: u8, flags: u8, body: &[u8]) {
    let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(RecordHeader { kind, flags, len: U16::new(len) }.as_bytes());
    out.extend_from_slice(&body[..usize::from(len)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frame_with_and_without_checksum() {
        let csum = PartialChecksum { start: 34, offset: 6 };
        let frame = [7u8; 60];
        for csum in [None, Some(csum)] {
            let mut bytes = FramePrefix::new(frame.len(), csum).unwrap().bytes().to_vec();
            bytes.extend_from_slice(&frame);
            let record = Records::new(&bytes).next().unwrap().unwrap();
            assert_eq!(parse_frame(record.flags, record.body), Ok((csum, &frame[..])));
        }
        assert!(FramePrefix::new(65_532, Some(csum)).is_none());
    }

    #[test]
    fn vector() {
        let prefix = FramePrefix::new(60, Some(PartialChecksum { start: 34, offset: 16 })).unwrap();
        assert_eq!(prefix.bytes(), [1, 1, 0, 64, 0, 34, 0, 16]);
        assert_eq!(FramePrefix::new(60, None).unwrap().bytes(), [1, 0, 0, 60]);
    }

    #[test]
    fn a_checksum_outside_the_frame_is_refused() {
        assert_eq!(parse_frame(FLAG_CHECKSUM, &[0, 34, 0]), Err(Ending::RecordFrame));
        let mut body = vec![0, 50, 0, 16];
        body.extend_from_slice(&[0; 60]);
        assert_eq!(parse_frame(FLAG_CHECKSUM, &body), Err(Ending::RecordFrame));
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_walked(list in proptest::collection::vec((any::<u8>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..100)), 0..10)) {
            let mut bytes = Vec::new();
            for (kind, flags, body) in &list {
                emit(&mut bytes, *kind, *flags, body);
            }
            let walked: Result<Vec<_>, _> = Records::new(&bytes).collect();
            let walked = walked.unwrap();
            prop_assert_eq!(walked.len(), list.len());
            for (record, (kind, flags, body)) in walked.iter().zip(&list) {
                prop_assert_eq!(record, &Record { kind: *kind, flags: *flags, body });
            }
        }

        #[test]
        fn garbage_ends(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let errors = Records::new(&bytes).filter(|r| r.is_err()).count();
            prop_assert!(errors <= 1);
        }
    }
}
