//! As much of IPv4, IPv6, TCP and UDP as it takes to find a TCP or UDP header and to patch lengths.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::{Frame, ethertype};

/// IP protocol numbers.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// RFC 9260.
    pub const SCTP: u8 = 132;
}

/// RFC 791, section 3.1, without options.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version (4) and header length in 32-bit words.
    pub version_ihl: u8,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Header and payload.
    pub total_len: U16,
    /// Identification.
    pub id: U16,
    /// Flags (3 bits) and fragment offset.
    pub fragment: U16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Checksum of the header.
    pub checksum: U16,
    /// Source.
    pub src: [u8; 4],
    /// Destination.
    pub dst: [u8; 4],
}

/// RFC 8200, section 3.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (6), traffic class, flow label.
    pub version_class_flow: U32,
    /// Everything behind this header.
    pub payload_len: U16,
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: [u8; 16],
    /// Destination.
    pub dst: [u8; 16],
}

/// RFC 9293, section 3.1, without options.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Sequence number.
    pub seq: U32,
    /// Acknowledgement number.
    pub ack: U32,
    /// Data offset in 32-bit words (4 bits), reserved.
    pub data_offset: u8,
    /// CWR ECE URG ACK PSH RST SYN FIN.
    pub flags: u8,
    /// Window.
    pub window: U16,
    /// Checksum.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

/// RFC 768.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Header and payload.
    pub len: U16,
    /// Checksum.
    pub checksum: U16,
}

/// TCP flag bits.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// Urgent.
    pub const URG: u8 = 0x20;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// Length of [`Ipv4Header`] without options.
pub const IPV4_HEADER_LEN: usize = size_of::<Ipv4Header>();
/// Length of [`Ipv6Header`].
pub const IPV6_HEADER_LEN: usize = size_of::<Ipv6Header>();
/// Length of [`TcpHeader`] without options.
pub const TCP_HEADER_LEN: usize = size_of::<TcpHeader>();
/// Length of [`UdpHeader`].
pub const UDP_HEADER_LEN: usize = size_of::<UdpHeader>();
/// Where the checksum stands in a TCP header.
pub const TCP_CSUM_OFFSET: u16 = 16;
/// Where the checksum stands in a UDP header.
pub const UDP_CSUM_OFFSET: u16 = 6;
const _: () = assert!(IPV4_HEADER_LEN == 20 && IPV6_HEADER_LEN == 40 && TCP_HEADER_LEN == 20);
const _: () = assert!(UDP_HEADER_LEN == 8);

/// Where the parts of an IP packet in a frame lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpLayout {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol behind the last extension header.
    pub protocol: u8,
    /// Where that protocol's header begins in the frame.
    pub l4: usize,
    /// Where the IP packet ends in the frame; what follows is Ethernet padding.
    pub end: usize,
}

/// How long a packet is, of which `available` octets are there, and whose length field does not count `before` octets.
fn stated_len(field: U16, before: usize, available: usize) -> usize {
    match usize::from(field.get()) {
        0 if available > before + 65_535 => available,
        len => before + len,
    }
}

impl IpLayout {
    /// Finds the transport header. `None` if this is no IP packet, a fragment, or one that is cut short.
    ///
    /// A TCP super-frame may be longer than the length fields can say ("BIG TCP"): they are 0 then (`iph_set_totlen()` in
    /// include/linux/ip.h; RFC 2675 for IPv6), and the packet ends with the frame.
    pub fn locate(frame: &Frame<'_>) -> Option<IpLayout> {
        match frame.ethertype {
            ethertype::IPV4 => Self::locate_v4(frame),
            ethertype::IPV6 => Self::locate_v6(frame),
            _ => None,
        }
    }

    fn locate_v4(frame: &Frame<'_>) -> Option<IpLayout> {
        let (ip, _) = Ipv4Header::ref_from_prefix(frame.payload()).ok()?;
        let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
        let total_len = stated_len(ip.total_len, 0, frame.payload().len());
        // More-fragments flag or an offset: the transport header is not here, or not alone.
        let fragmented = ip.fragment.get() & 0x3fff != 0;
        let fits = header_len >= IPV4_HEADER_LEN && header_len <= total_len && total_len <= frame.payload().len();
        (ip.version_ihl >> 4 == 4 && fits && !fragmented).then(|| IpLayout {
            src: IpAddr::V4(Ipv4Addr::from(ip.src)),
            dst: IpAddr::V4(Ipv4Addr::from(ip.dst)),
            protocol: ip.protocol,
            l4: frame.l3 + header_len,
            end: frame.l3 + total_len,
        })
    }

    fn locate_v6(frame: &Frame<'_>) -> Option<IpLayout> {
        let (ip, _) = Ipv6Header::ref_from_prefix(frame.payload()).ok()?;
        let end = stated_len(ip.payload_len, IPV6_HEADER_LEN, frame.payload().len());
        if ip.version_class_flow.get() >> 28 != 6 || end > frame.payload().len() {
            return None;
        }
        let mut protocol = ip.next_header;
        let mut at = IPV6_HEADER_LEN;
        // Options that may stand before TCP. Other headers end the walk and are taken for the payload: behind a
        // routing header the pseudo-header has another destination (RFC 8200, 8.1), so TCP is not touched there.
        for _ in 0..8 {
            if !matches!(protocol, protocol::HOP_BY_HOP | protocol::DESTINATION) {
                break;
            }
            let extension = frame.payload().get(at..at + 2)?;
            protocol = extension[0];
            at += (usize::from(extension[1]) + 1) * 8;
        }
        (at <= end).then(|| IpLayout {
            src: IpAddr::V6(Ipv6Addr::from(ip.src)),
            dst: IpAddr::V6(Ipv6Addr::from(ip.dst)),
            protocol,
            l4: frame.l3 + at,
            end: frame.l3 + end,
        })
    }

    /// Sum of the pseudo-header for `len` octets of transport header and payload, unfolded.
    pub fn pseudo_header(&self, len: usize) -> u64 {
        super::checksum::pseudo_header(self.src, self.dst, self.protocol, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(fragment: u16, total_len: u16) -> Vec<u8> {
        let mut f = vec![0u8; 14];
        f[12..14].copy_from_slice(&ethertype::IPV4.to_be_bytes());
        let ip = Ipv4Header {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(total_len),
            id: U16::new(1),
            fragment: U16::new(fragment),
            ttl: 64,
            protocol: protocol::TCP,
            checksum: U16::new(0),
            src: [10, 0, 3, 3],
            dst: [10, 0, 3, 104],
        };
        f.extend_from_slice(ip.as_bytes());
        f.extend_from_slice(&[0; 26]);
        f
    }

    #[test]
    fn finds_tcp_and_the_padding_behind_it() {
        let bytes = ipv4(0x4000, 40);
        let layout = IpLayout::locate(&Frame::parse(&bytes).unwrap()).unwrap();
        assert_eq!((layout.protocol, layout.l4, layout.end), (protocol::TCP, 34, 54));
    }

    #[test]
    fn fragments_and_short_packets_have_no_transport_header() {
        for (fragment, total_len) in [(0x2000, 40), (0x0001, 40), (0, 47), (0, 19)] {
            let bytes = ipv4(fragment, total_len);
            assert_eq!(IpLayout::locate(&Frame::parse(&bytes).unwrap()), None, "{fragment:x} {total_len}");
        }
    }

    #[test]
    fn walks_ipv6_options() {
        let mut bytes = vec![0u8; 14];
        bytes[12..14].copy_from_slice(&ethertype::IPV6.to_be_bytes());
        let ip = Ipv6Header {
            version_class_flow: U32::new(6 << 28),
            payload_len: U16::new(28),
            next_header: protocol::HOP_BY_HOP,
            hop_limit: 64,
            src: [0; 16],
            dst: [1; 16],
        };
        bytes.extend_from_slice(ip.as_bytes());
        bytes.extend_from_slice(&[protocol::TCP, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[0; 20]);
        let layout = IpLayout::locate(&Frame::parse(&bytes).unwrap()).unwrap();
        assert_eq!((layout.protocol, layout.l4, layout.end), (protocol::TCP, 62, 82));
    }
}
