//! The datagram that gateways exchange over UDP, version 3.
//!
//! ```text
//!    0                   1                   2                   3
//!    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!   +-------+-------+-----------------------------------------------+
//!   |version| type  |                    network                    |
//!   +-------+-------+-----------------------------------------------+
//!   |                  session index of the receiver                |
//!   +---------------+-----------------------------------------------+
//!   |     lane      |                                               |
//!   +---------------+            counter                            |
//!   |                                                               |
//!   +---------------------------------------------------------------+
//!   |                  records, to the end of the datagram          |
//!   |                  or to its last 16 octets, which are a tag    |
//! ```
//!
//! All fields are in network byte order. *type* is [`DATA`] (records follow), [`DATA_ASIDE`] (the same from a port where the
//! sender does not listen, one of several so that flows can be told apart on the way), [`INITIATION`] or [`RESPONSE`] (the two
//! messages of a handshake follow: see `ipop-control`'s `link` module) or, in clear text, [`HELLO`] (a JSON object follows). The
//! session index of what opens a session is 0, that of a response is the index that the initiation has proposed. *lane* is the
//! sending thread, so that threads never share a counter; within a lane the counter rises by one per datagram, and a
//! receiver drops what it has seen ([`ReplayWindow`](crate::session::ReplayWindow)). Every gateway chooses the session index
//! under which it wants to be sent to, anew for every session, so a datagram meant for an earlier life is recognised.
//!
//! The records of a sealed session are encrypted, and the tag guards them and the header ([`crate::session`]).
//!
//! Version 3 has sealed sessions; version 2 had segments of UDP. A version that is not one's own is refused as a whole.
//!
//! Records are described in [`record`], their slices of TCP and UDP super-frames in [`segment`] and pieces of
//! anything else in [`fragment`].

pub mod fragment;
pub mod record;
pub mod segment;

use zerocopy::byteorder::network_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ending::Ending;

/// The version that this code speaks.
pub const VERSION: u8 = 3;
/// Datagram type: records.
pub const DATA: u8 = 1;
/// Datagram type: opens a session in clear text.
pub const HELLO: u8 = 2;
/// Datagram type: the first message of a handshake.
pub const INITIATION: u8 = 3;
/// Datagram type: the second message of a handshake.
pub const RESPONSE: u8 = 4;
/// Datagram type: records, from a port of the sender that it does not listen on. It says nothing of where the sender is reached.
pub const DATA_ASIDE: u8 = 5;
/// The lane of the control thread; workers have 0 and up.
pub const CONTROL_LANE: u8 = 255;
/// Workers that a gateway can have, and lanes beside the control thread's.
pub const MAX_WORKERS: usize = 64;

/// The 16 octets in front of every datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DatagramHeader {
    version_type_network: U32,
    /// Session index of the receiver; 0 where it has none yet.
    pub session: U32,
    lane_counter: U64,
}

/// Length of [`DatagramHeader`].
pub const DATAGRAM_HEADER_LEN: usize = size_of::<DatagramHeader>();
const _: () = assert!(DATAGRAM_HEADER_LEN == 16);
const COUNTER_BITS: u32 = 56;

impl DatagramHeader {
    /// A header of this version. Only the low 24 bits of `network` and the low 56 of `counter` count.
    pub fn new(kind: u8, network: u32, session: u32, lane: u8, counter: u64) -> DatagramHeader {
        let first = u32::from(VERSION) << 28 | u32::from(kind & 0xf) << 24 | network & 0xff_ffff;
        let counter = u64::from(lane) << COUNTER_BITS | counter & ((1 << COUNTER_BITS) - 1);
        DatagramHeader {
            version_type_network: U32::new(first),
            session: U32::new(session),
            lane_counter: U64::new(counter),
        }
    }

    /// Splits a datagram into header and rest; refuses other versions and networks.
    pub fn parse(datagram: &[u8], network: u32) -> Result<(DatagramHeader, &[u8]), Ending> {
        let (header, rest) = DatagramHeader::read_from_prefix(datagram).map_err(|_| Ending::DatagramTruncated)?;
        if header.version_type_network.get() >> 28 != u32::from(VERSION) {
            return Err(Ending::DatagramVersion);
        }
        if header.version_type_network.get() & 0xff_ffff != network {
            return Err(Ending::DatagramNetwork);
        }
        Ok((header, rest))
    }

    /// Version, type and network of a datagram that may be of another version or network.
    pub fn peek(datagram: &[u8]) -> Option<(u8, u8, u32)> {
        let first = u32::from_be_bytes(*datagram.first_chunk()?);
        Some(((first >> 28) as u8, (first >> 24) as u8 & 0xf, first & 0xff_ffff))
    }

    /// [`DATA`], [`DATA_ASIDE`], [`HELLO`], [`INITIATION`], [`RESPONSE`], or one that a later version may define.
    pub fn kind(&self) -> u8 {
        (self.version_type_network.get() >> 24) as u8 & 0xf
    }

    /// The sending thread.
    pub fn lane(&self) -> u8 {
        (self.lane_counter.get() >> COUNTER_BITS) as u8
    }

    /// The datagram's number in its lane.
    pub fn counter(&self) -> u64 {
        self.lane_counter.get() & ((1 << COUNTER_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vector of the format: any change of it is a new version.
    #[test]
    fn vector() {
        let header = DatagramHeader::new(DATA, 0x00abcd, 0x0102_0304, 2, 0x1122_3344_5566);
        let bytes = [0x31, 0x00, 0xab, 0xcd, 1, 2, 3, 4, 2, 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66];
        assert_eq!(header.as_bytes(), bytes);
        let (parsed, rest) = DatagramHeader::parse(&bytes, 0xabcd).unwrap();
        assert_eq!((parsed, rest.len()), (header, 0));
        assert_eq!((parsed.kind(), parsed.lane(), parsed.counter()), (DATA, 2, 0x1122_3344_5566));
        assert_eq!(DatagramHeader::peek(&bytes), Some((VERSION, DATA, 0xabcd)));
        assert_eq!(DatagramHeader::peek(&bytes[..3]), None);
    }

    #[test]
    fn refusals() {
        let bytes = *DatagramHeader::new(DATA, 7, 1, 0, 0).as_bytes().first_chunk::<16>().unwrap();
        assert_eq!(DatagramHeader::parse(&bytes[..15], 7).unwrap_err(), Ending::DatagramTruncated);
        assert_eq!(DatagramHeader::parse(&bytes, 8).unwrap_err(), Ending::DatagramNetwork);
        let mut other = bytes;
        other[0] = 0x11;
        assert_eq!(DatagramHeader::parse(&other, 7).unwrap_err(), Ending::DatagramVersion);
    }
}
