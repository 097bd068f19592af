//! The numbered packets: how they are made, and how they are known again.
//!
//! Every packet carries a [`Mark`] and, behind it, bytes that the receiver can foretell: a packet whose length or content
//! is not as expected is counted as damaged. As UDP (RFC 768) it has a correct checksum, because a kernel or an overlay
//! may treat packets without one differently.

use std::net::{IpAddr, SocketAddr};

use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Result};
use crate::scenario::{PacketKind, Size};

/// The EtherType of raw frames: "local experimental 1" (IEEE 802, clause 9.2.4).
pub const ETHERTYPE: u16 = 0x88b5;
/// So many packets later the sizes of a mix repeat.
pub const CYCLE: usize = 12;
/// The medium frame of the mix.
const IMIX_MEDIUM: usize = 570;
/// The largest frame of the mix, where the MTU allows it.
const IMIX_LARGEST: usize = 1514;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_UDP: u8 = 17;
/// IPv4's "don't fragment" (RFC 791).
const DONT_FRAGMENT: u16 = 0x4000;
const HOPS: u8 = 64;
/// The longest payload there is.
const LONGEST: usize = 9216;

/// What is written into every packet, at the beginning of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Mark {
    /// The same for all packets of one trial, and different for the next.
    pub tag: U32,
    /// [`WANTS_ECHO`], [`IS_ECHO`].
    pub flags: U16,
    /// Counted from 0.
    pub number: U64,
    /// When it was to be sent, on the sender's own [`super::Clock`].
    pub time: U64,
}

/// The receiver shall send the mark back.
pub const WANTS_ECHO: u16 = 1;
/// This is a mark that was sent back.
pub const IS_ECHO: u16 = 2;
/// The length of a [`Mark`].
pub const MARK: usize = size_of::<Mark>();

/// The byte that stands at this place of a payload, marks aside.
const PATTERN: [u8; LONGEST] = {
    let mut pattern = [0; LONGEST];
    let mut at = 0;
    while at < LONGEST {
        pattern[at] = (at.wrapping_mul(7) % 251) as u8;
        at += 1;
    }
    pattern
};

impl Mark {
    /// The mark of a payload: `None` unless the payload is long enough and the bytes behind the mark are as they were
    /// sent.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (mark, rest) = Self::read_from_prefix(payload).ok()?;
        (PATTERN.get(MARK..payload.len())? == rest).then_some(mark)
    }

    /// The mark at the beginning of a payload, whatever follows it.
    pub fn peek(payload: &[u8]) -> Option<Self> {
        Some(Self::read_from_prefix(payload).ok()?.0)
    }
}

/// From whom to whom, on Ethernet and above.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The sender's Ethernet address.
    pub source: [u8; 6],
    /// The receiver's Ethernet address.
    pub destination: [u8; 6],
    /// The sender's address and UDP port.
    pub from: SocketAddr,
    /// The receiver's address and UDP port.
    pub to: SocketAddr,
}

/// The lengths of frames of twelve packets in a row.
pub fn cycle(size: Size, mtu: usize) -> [usize; CYCLE] {
    match size {
        Size::Bytes(bytes) => [usize::from(bytes); CYCLE],
        Size::Imix => {
            let (small, large) = (64, IMIX_LARGEST.min(mtu.saturating_add(ETHERNET)));
            let medium = IMIX_MEDIUM.min(large);
            // Spread out, so that any few packets in a row are about the mix.
            [small, medium, small, small, medium, small, large, small, medium, small, medium, small]
        }
    }
}

/// The bytes before the payload.
pub fn overhead(kind: PacketKind, ipv6: bool) -> usize {
    match (kind, ipv6) {
        (PacketKind::Raw, _) => ETHERNET,
        (PacketKind::Udp, false) => ETHERNET + IPV4 + UDP,
        (PacketKind::Udp, true) => ETHERNET + IPV6 + UDP,
    }
}

/// Why frames of these lengths cannot be sent or cannot carry a mark, if so.
pub fn unfit(kind: PacketKind, ipv6: bool, lengths: &[usize], mtu: usize) -> Option<String> {
    let shortest = overhead(kind, ipv6) + MARK;
    let longest = mtu.saturating_add(ETHERNET);
    lengths.iter().find_map(|&length| {
        if length < shortest {
            Some(format!("a {kind} frame has at least {shortest} bytes here"))
        } else if length > longest {
            Some(format!("a frame has at most {longest} bytes here (MTU {mtu})"))
        } else {
            None
        }
    })
}

/// A frame in which only the mark changes from one packet to the next.
#[derive(Debug, Clone)]
pub struct Template {
    frame: Vec<u8>,
    /// Where the payload begins.
    payload: usize,
    /// For UDP: where the checksum stands, and the sum of all that never changes.
    checksum: Option<(usize, u32)>,
}

impl Template {
    /// A frame of `length` bytes; an error if that is too short for the headers and a mark, or too long for the MTU.
    pub fn new(kind: PacketKind, route: &Route, length: usize, mtu: usize) -> Result<Self> {
        let payload = overhead(kind, route.to.is_ipv6());
        if let Some(reason) = unfit(kind, route.to.is_ipv6(), &[length], mtu) {
            return Err(Error::other(reason));
        }
        let mut frame = Vec::with_capacity(length);
        frame.extend(route.destination);
        frame.extend(route.source);
        let checksum = match kind {
            PacketKind::Raw => {
                frame.extend(ETHERTYPE.to_be_bytes());
                None
            }
            PacketKind::Udp => Some(udp_headers(&mut frame, route, length)?),
        };
        frame.extend([0; MARK]);
        frame.extend(&PATTERN[MARK..length - payload]);
        let checksum = checksum.map(|(at, headers)| (at, headers + sum(&frame[payload..])));
        Ok(Self { frame, payload, checksum })
    }

    /// The frame with this mark.
    pub fn stamp(&mut self, mark: Mark) -> &[u8] {
        let mark = mark.as_bytes();
        self.frame[self.payload..self.payload + MARK].copy_from_slice(mark);
        if let Some((at, rest)) = self.checksum {
            // A checksum of 0 would mean "none" (RFC 768).
            let checksum = match !fold(rest + sum(mark)) {
                0 => 0xffff,
                other => other,
            };
            self.frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        &self.frame
    }

    /// The frame as it was last stamped.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }
}

/// Appends EtherType, IP and UDP headers. Gives the place of the UDP checksum, and the sum of pseudo-header and header.
fn udp_headers(frame: &mut Vec<u8>, route: &Route, length: usize) -> Result<(usize, u32)> {
    let too_long = |_| Error::other("too long for a packet");
    let ip = frame.len() + 2;
    let addresses = match (route.from.ip(), route.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(length - ip).map_err(too_long)?;
            frame.extend(ETHERTYPE_IPV4.to_be_bytes());
            // Version 4, five words, no type of service.
            frame.extend([0x45, 0]);
            frame.extend(total.to_be_bytes());
            frame.extend([0, 0]);
            frame.extend(DONT_FRAGMENT.to_be_bytes());
            frame.extend([HOPS, PROTOCOL_UDP, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
            let checksum = !fold(sum(&frame[ip..]));
            frame[ip + 10..ip + 12].copy_from_slice(&checksum.to_be_bytes());
            sum(&from.octets()) + sum(&to.octets())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let payload = u16::try_from(length - ip - IPV6).map_err(too_long)?;
            frame.extend(ETHERTYPE_IPV6.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(payload.to_be_bytes());
            frame.extend([PROTOCOL_UDP, HOPS]);
            frame.extend(from.octets());
            frame.extend(to.octets());
            sum(&from.octets()) + sum(&to.octets())
        }
        _ => return Err(Error::other("one end has an IPv4 address and the other an IPv6 address")),
    };
    let udp = frame.len();
    let datagram = u16::try_from(length - udp).map_err(too_long)?;
    for word in [route.from.port(), route.to.port(), datagram, 0] {
        frame.extend(word.to_be_bytes());
    }
    // The pseudo-header has the protocol and the length once more (RFC 768, RFC 8200 section 8.1).
    Ok((udp + 6, addresses + u32::from(PROTOCOL_UDP) + u32::from(datagram) + sum(&frame[udp..])))
}

/// The sum of big-endian 16-bit words; an odd byte at the end counts as the higher half of a word (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while let high @ 1.. = sum >> 16 {
        sum = (sum & 0xffff) + high;
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: usize = 1500;

    fn route(from: &str, to: &str) -> Route {
        let [from, to] = [from, to].map(|text| text.parse().expect("a socket address"));
        Route { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2], from, to }
    }

    fn mark(number: u64) -> Mark {
        Mark { tag: 0xdead_beef.into(), flags: WANTS_ECHO.into(), number: number.into(), time: (number * 77).into() }
    }

    /// The checksum of a whole packet by the definition, pseudo-header included: 0 if it is right.
    fn verify(pseudo: &[u8], datagram: &[u8]) -> u16 {
        !fold(sum(pseudo) + sum(datagram))
    }

    #[test]
    fn udp_over_ipv4_has_right_lengths_and_checksums() {
        let route = route("10.0.3.3:40000", "10.0.3.104:7411");
        for length in [64, 65, 570, 1514] {
            let mut template = Template::new(PacketKind::Udp, &route, length, MTU).expect("a template");
            for number in [0, 1, 65_535, 1 << 40] {
                let frame = template.stamp(mark(number)).to_vec();
                assert_eq!(frame.len(), length);
                assert_eq!(verify(&[], &frame[14..34]), 0, "IPv4 header checksum");
                assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), length - 14);
                let datagram = &frame[34..];
                let mut pseudo = frame[26..34].to_vec();
                pseudo.extend([0, 17]);
                pseudo.extend((datagram.len() as u16).to_be_bytes());
                assert_eq!(verify(&pseudo, datagram), 0, "UDP checksum of {length} bytes");
                assert_eq!(usize::from(u16::from_be_bytes([datagram[4], datagram[5]])), datagram.len());
                assert_eq!(Mark::read(&datagram[8..]), Some(mark(number)));
            }
        }
    }

    #[test]
    fn udp_over_ipv6_has_a_right_checksum() {
        let route = route("[fd00::1]:40000", "[fd00::2]:7411");
        assert!(Template::new(PacketKind::Udp, &route, 64, MTU).is_err_and(|error| error.to_string().contains("84")));
        let mut template = Template::new(PacketKind::Udp, &route, 90, MTU).expect("a template");
        let frame = template.stamp(mark(3)).to_vec();
        let mut pseudo = frame[22..54].to_vec();
        pseudo.extend([0, 0, 0, 36, 0, 0, 0, 17]);
        assert_eq!(frame[18..21], [0, 36, 17]);
        assert_eq!(verify(&pseudo, &frame[54..]), 0);
        assert_eq!(Mark::read(&frame[62..]), Some(mark(3)));
    }

    #[test]
    fn raw_frames_and_limits() {
        let route = route("10.0.3.3:1", "10.0.3.104:2");
        let mut template = Template::new(PacketKind::Raw, &route, 60, MTU).expect("a template");
        let frame = template.stamp(mark(9));
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        assert_eq!(Mark::read(&frame[14..]), Some(mark(9)));
        assert!(Template::new(PacketKind::Raw, &route, 1515, MTU).is_err());
        assert!(Template::new(PacketKind::Raw, &route, 35, MTU).is_err());
    }

    #[test]
    fn damage_is_noticed() {
        let route = route("10.0.3.3:1", "10.0.3.104:2");
        let mut template = Template::new(PacketKind::Raw, &route, 100, MTU).expect("a template");
        let payload = template.stamp(mark(9))[14..].to_vec();
        assert_eq!(Mark::read(&payload), Some(mark(9)));
        for at in MARK..payload.len() {
            let mut damaged = payload.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Mark::read(&damaged), None, "byte {at}");
        }
        assert_eq!(Mark::read(&payload[..MARK - 1]), None);
        assert_eq!(Mark::read(&[0; 10_000]), None);
    }

    #[test]
    fn the_mix_is_seven_four_one() {
        let count = |mtu, length| cycle(Size::Imix, mtu).iter().filter(|&&one| one == length).count();
        assert_eq!([64, 570, 1514].map(|length| count(1500, length)), [7, 4, 1]);
        assert_eq!([64, 570, 1414].map(|length| count(1400, length)), [7, 4, 1]);
        assert_eq!(cycle(Size::Bytes(512), 1400), [512; CYCLE]);
    }
}
