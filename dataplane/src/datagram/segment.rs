//! Slices of TCP and UDP super-frames: cut at the sender, joined at the receiver, any subset of them.
//!
//! A TAP with offloads hands over TCP, and UDP of programs that use `UDP_SEGMENT`, as *super-frames* of up to 64 KiB: one
//! set of headers, the payload of many segments or datagrams. A slice can stand alone: it carries the super-frame's
//! headers as they were, its place, and a piece of payload. The body of a segment record is
//!
//! ```text
//!   +-------------------------------+-------------------------------+
//!   |     number of the super-frame |     offset in its payload     |
//!   +-------------------------------+---------------+---------------+
//!   |     gso_size                  | header length |   reserved    |
//!   +-------------------------------+---------------+---------------+
//!   |     headers: Ethernet, tags, IP, TCP or UDP; then the payload |
//! ```
//!
//! with the flags [`FLAG_LAST`] on the last slice and [`FLAG_ECN`] when the kernel marked a super-frame of TCP so. The receiver
//! joins neighbouring slices into one super-frame again and patches the headers for the part that it has
//! ([`Headers::patch`]): total length, IPv4 identification and checksum, sequence number, flags, UDP length,
//! pseudo-header sum.
//! A lost datagram costs its own slice and nothing else, nothing waits, and no state outlives the batch.
//!
//! TCP is a stream and may be cut anywhere. UDP is not: a slice has whole datagrams, each of gso_size octets of payload; only
//! the super-frame's last may be shorter.
//!
//! A super-frame of TCP may be longer than 64 KiB where an interface's `gso_max_size` or `gro_max_size` allows it ("BIG TCP");
//! it is made several that are not ([`SuperFrame::part`]), each with slices of its own.
//!
//! A frame that is no super-frame is never cut so, also if it is TCP and does not fit a datagram: headers of a cut frame are
//! written anew, with a checksum that somebody finishes later, and a frame must arrive as it was. It travels in pieces
//! ([`super::fragment`]).
//!
//! A slice asks the receiver's kernel for something, and a peer could ask for what no kernel takes. So [`Run::start`] refuses
//! what `virtio_net_hdr_to_skb()` (include/linux/virtio_net.h) would: no size, the size that means something else
//! (`GSO_BY_FRAGS`), an ECN mark on UDP, too many datagrams. Where the sum stands, and that headers and payload are there, is
//! not the peer's to say ([`Headers::validate`], [`Headers::patch`]). What the port refuses all the same is the kernel's
//! lack, not the peer's wish.

mod big;

use std::net::IpAddr;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::record::{RECORD_HEADER_LEN, RecordHeader, SEGMENT};
use crate::wire::ethernet::{Frame, MAX_FRAME, ethertype};
use crate::wire::ip::{self, IpLayout, Ipv4Header, TCP_CSUM_OFFSET, TCP_HEADER_LEN, TcpHeader, tcp_flags};
use crate::wire::ip::{UDP_CSUM_OFFSET, UDP_HEADER_LEN, UdpHeader};
use crate::wire::vnet::{self, PartialChecksum};
use crate::wire::{VnetHeader, checksum};

/// The last slice of its super-frame: the only one that keeps FIN and PSH.
pub const FLAG_LAST: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_ECN`.
pub const FLAG_ECN: u8 = 2;
/// Headers that a slice can carry: its length field is one octet.
pub const MAX_HEADERS: usize = 255;

/// Smallest segment that a peer may ask our kernel to make (`TCP_MIN_SND_MSS`, include/net/tcp.h): with 1 octet, one
/// super-frame would become 65 000 packets.
const MIN_GSO_SIZE: u16 = 48;
/// A size of segments that the kernel keeps for itself (include/linux/skbuff.h).
const GSO_BY_FRAGS: u16 = 0xffff;
/// Datagrams that one UDP super-frame may have (`UDP_MAX_SEGMENTS`, include/linux/udp.h, since Linux 6.9).
pub const MAX_DATAGRAMS: usize = 128;
/// A slice of TCP carries at least this much, or the headers would cost more than they carry.
const MIN_SLICE: usize = 256;

/// What a super-frame is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Segments of a stream.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    fn of(protocol: u8) -> Option<Transport> {
        match protocol {
            ip::protocol::TCP => Some(Transport::Tcp),
            ip::protocol::UDP => Some(Transport::Udp),
            _ => None,
        }
    }

    fn protocol(self) -> u8 {
        match self {
            Transport::Tcp => ip::protocol::TCP,
            Transport::Udp => ip::protocol::UDP,
        }
    }

    fn csum_offset(self) -> u16 {
        match self {
            Transport::Tcp => TCP_CSUM_OFFSET,
            Transport::Udp => UDP_CSUM_OFFSET,
        }
    }
}

/// The 8 octets in front of a slice's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SegmentHeader {
    /// Which super-frame of the sending worker; wraps.
    pub number: U16,
    /// Where the slice stood in the payload.
    pub offset: U16,
    /// Payload per segment or datagram.
    pub gso_size: U16,
    /// Octets of headers that follow.
    pub header_len: u8,
    reserved: u8,
}

/// Length of [`SegmentHeader`].
pub const SEGMENT_HEADER_LEN: usize = size_of::<SegmentHeader>();
const _: () = assert!(SEGMENT_HEADER_LEN == 8);

/// A super-frame, which can be cut.
#[derive(Debug, Clone, Copy)]
pub struct SuperFrame<'a> {
    /// What it is made of.
    pub transport: Transport,
    /// Ethernet, tags, IP, TCP or UDP.
    pub headers: &'a [u8],
    /// What follows them.
    pub payload: &'a [u8],
    /// Payload per segment as the kernel said.
    pub gso_size: u16,
    /// The kernel's ECN mark.
    pub ecn: bool,
}

impl<'a> SuperFrame<'a> {
    /// The frame as one that can be cut, `None` if it is no super-frame, is odd, or has a wrong checksum.
    pub fn new(frame: &Frame<'a>, vnet: &VnetHeader) -> Option<SuperFrame<'a>> {
        let layout = IpLayout::locate(frame)?;
        match vnet.gso() {
            vnet::GSO_NONE => None,
            vnet::GSO_UDP_L4 => Self::of_datagrams(frame, &layout, vnet),
            _ => Self::of_stream(frame, &layout, vnet),
        }
    }

    fn of_datagrams(frame: &Frame<'a>, layout: &IpLayout, vnet: &VnetHeader) -> Option<SuperFrame<'a>> {
        let headers_end = layout.l4 + UDP_HEADER_LEN;
        // `__udp_gso_segment()` (net/ipv4/udp_offload.c) refuses the same: a checksum that is not partial, a header alone.
        let ours = PartialChecksum { start: layout.l4 as u16, offset: UDP_CSUM_OFFSET };
        let whole = layout.protocol == ip::protocol::UDP && headers_end < layout.end && headers_end <= MAX_HEADERS;
        if !whole || vnet.partial_checksum() != Some(ours) || vnet.gso_size.get() == 0 {
            return None;
        }
        Some(SuperFrame {
            transport: Transport::Udp,
            headers: &frame.bytes[..headers_end],
            payload: &frame.bytes[headers_end..layout.end],
            gso_size: vnet.gso_size.get(),
            ecn: false,
        })
    }

    fn of_stream(frame: &Frame<'a>, layout: &IpLayout, vnet: &VnetHeader) -> Option<SuperFrame<'a>> {
        let tcp = tcp_of(frame, layout)?;
        let headers_end = layout.l4 + usize::from(tcp.data_offset >> 4) * 4;
        // SYN counts in the sequence space, so it cannot be cut. Of RST and URG the kernel has decided that every segment
        // gets a copy.
        let odd = tcp.flags & tcp_flags::SYN != 0 || vnet.gso_size.get() == 0;
        if odd || headers_end >= layout.end || headers_end > MAX_HEADERS {
            return None;
        }
        match vnet.partial_checksum() {
            Some(csum) => {
                let ours = usize::from(csum.start) == layout.l4 && csum.offset == TCP_CSUM_OFFSET;
                if !ours {
                    return None;
                }
            }
            None => {
                let segment = &frame.bytes[layout.l4..layout.end];
                if checksum::fold(checksum::add(segment, layout.pseudo_header(segment.len()))) != 0xffff {
                    return None;
                }
            }
        }
        Some(SuperFrame {
            transport: Transport::Tcp,
            headers: &frame.bytes[..headers_end],
            payload: &frame.bytes[headers_end..layout.end],
            gso_size: vnet.gso_size.get(),
            ecn: vnet.gso_type & vnet::GSO_ECN != 0,
        })
    }

    /// Octets in front of each slice's payload: record header, segment header, headers.
    pub fn prefix_len(&self) -> usize {
        RECORD_HEADER_LEN + SEGMENT_HEADER_LEN + self.headers.len()
    }

    /// Payload of each slice where a record may have `capacity` octets, `None` if that is too little.
    pub fn slice_len(&self, capacity: usize) -> Option<usize> {
        let room = capacity.checked_sub(self.prefix_len())?;
        match self.transport {
            Transport::Tcp => (room >= MIN_SLICE).then_some(room),
            Transport::Udp => {
                let size = usize::from(self.gso_size);
                // Of a super-frame that is just one short datagram, gso_size says nothing.
                let datagrams =
                    if self.payload.len() <= room { MAX_DATAGRAMS } else { (room / size).min(MAX_DATAGRAMS) };
                (datagrams > 0).then_some(datagrams * size)
            }
        }
    }

    /// Writes the octets in front of the slice `offset..offset + len` to `out`, which has [`Self::prefix_len`] octets or
    /// more. `number` tells super-frames of one sender apart.
    pub fn write_prefix(&self, out: &mut [u8], number: u16, offset: usize, len: usize) {
        let last = if offset + len == self.payload.len() { FLAG_LAST } else { 0 };
        let ecn = if self.ecn { FLAG_ECN } else { 0 };
        let record = RecordHeader {
            kind: SEGMENT,
            flags: last | ecn,
            len: U16::new((SEGMENT_HEADER_LEN + self.headers.len() + len) as u16),
        };
        let segment = SegmentHeader {
            number: U16::new(number),
            offset: U16::new(offset as u16),
            gso_size: U16::new(self.gso_size),
            header_len: self.headers.len() as u8,
            reserved: 0,
        };
        let (a, rest) = out.split_at_mut(RECORD_HEADER_LEN);
        let (b, c) = rest.split_at_mut(SEGMENT_HEADER_LEN);
        a.copy_from_slice(record.as_bytes());
        b.copy_from_slice(segment.as_bytes());
        c[..self.headers.len()].copy_from_slice(self.headers);
    }
}

/// The TCP header of a located packet, if it is TCP and whole, with a data offset that lies inside the packet.
fn tcp_of<'a>(frame: &Frame<'a>, layout: &IpLayout) -> Option<&'a TcpHeader> {
    if layout.protocol != ip::protocol::TCP {
        return None;
    }
    let (tcp, _) = TcpHeader::ref_from_prefix(frame.bytes.get(layout.l4..layout.end)?).ok()?;
    let header_len = usize::from(tcp.data_offset >> 4) * 4;
    (header_len >= TCP_HEADER_LEN && layout.l4 + header_len <= layout.end).then_some(tcp)
}

/// A slice as it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice<'a> {
    /// Which super-frame.
    pub number: u16,
    /// Place of the payload in the super-frame.
    pub offset: u16,
    /// Payload per segment.
    pub gso_size: u16,
    /// The kernel's ECN mark.
    pub ecn: bool,
    /// The last of its super-frame.
    pub last: bool,
    /// The super-frame's headers.
    pub headers: &'a [u8],
    /// The slice of payload.
    pub payload: &'a [u8],
}

impl<'a> Slice<'a> {
    /// Where the headers stand in the body of a segment record, if that is one.
    pub fn headers_in(flags: u8, body: &[u8]) -> Option<std::ops::Range<usize>> {
        let slice = Slice::parse(flags, body)?;
        let end = body.len() - slice.payload.len();
        Some(end - slice.headers.len()..end)
    }

    /// Reads the body of a segment record. `None` if it is cut short, empty, or ends beyond 64 KiB.
    pub fn parse(flags: u8, body: &'a [u8]) -> Option<Slice<'a>> {
        let (segment, rest) = SegmentHeader::ref_from_prefix(body).ok()?;
        let (headers, payload) = rest.split_at_checked(usize::from(segment.header_len))?;
        let (offset, gso_size) = (segment.offset.get(), segment.gso_size.get());
        if payload.is_empty() || usize::from(offset) + payload.len() + headers.len() > MAX_FRAME {
            return None;
        }
        Some(Slice {
            number: segment.number.get(),
            offset,
            gso_size,
            ecn: flags & FLAG_ECN != 0,
            last: flags & FLAG_LAST != 0,
            headers,
            payload,
        })
    }
}

/// The validated headers of a run of slices that are about to be written to the port.
#[derive(Debug, Clone, Copy)]
pub struct Headers {
    l3: usize,
    l4: usize,
    src: IpAddr,
    dst: IpAddr,
    transport: Transport,
}

/// The headers of a slice are not those of a TCP segment or UDP datagram whose payload follows at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadHeaders;

impl Headers {
    /// Checks the headers of a slice, which come from a peer: Ethernet, at most two tags, IPv4 or IPv6, TCP
    /// or UDP, and not an octet more.
    pub fn validate(headers: &[u8]) -> Result<Headers, BadHeaders> {
        let frame = Frame::parse(headers).map_err(|_| BadHeaders)?;
        let ipv4 = match frame.ethertype {
            ethertype::IPV4 => true,
            ethertype::IPV6 => false,
            _ => return Err(BadHeaders),
        };
        // The length fields say what the super-frame had, not what is here; give the walker lengths that fit.
        let mut copy = [0u8; MAX_HEADERS];
        let copy = copy.get_mut(..headers.len()).ok_or(BadHeaders)?;
        copy.copy_from_slice(headers);
        set_ip_length(copy, frame.l3, ipv4, headers.len());
        let fitted = Frame::parse(copy).map_err(|_| BadHeaders)?;
        let layout = IpLayout::locate(&fitted).ok_or(BadHeaders)?;
        let transport = Transport::of(layout.protocol).ok_or(BadHeaders)?;
        let header_len = match transport {
            Transport::Tcp => usize::from(tcp_of(&fitted, &layout).ok_or(BadHeaders)?.data_offset >> 4) * 4,
            Transport::Udp => UDP_HEADER_LEN,
        };
        if layout.l4 + header_len != headers.len() {
            return Err(BadHeaders);
        }
        Ok(Headers { l3: frame.l3, l4: layout.l4, src: layout.src, dst: layout.dst, transport })
    }

    /// What they are the headers of.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The ports in the same `headers`: source, destination.
    pub fn ports(&self, headers: &[u8]) -> [u16; 2] {
        let at = |offset| headers.get(offset..offset + 2).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
        [at(self.l4), at(self.l4 + 2)]
    }

    /// Patches `headers` for a frame that carries `len` octets of payload from `offset` on, as the kernel's own
    /// segmentation would (`inet_gso_segment()`, `tcp_gso_segment()`, `__udp_gso_segment()`), and returns the header for
    /// the port.
    pub fn patch(&self, headers: &mut [u8], run: &Run) -> VnetHeader {
        let ipv4 = self.src.is_ipv4();
        set_ip_length(headers, self.l3, ipv4, headers.len() + run.len);
        let segments_before = (run.offset / usize::from(run.gso_size).max(1)) as u16;
        if ipv4 && let Ok((ip, _)) = Ipv4Header::mut_from_prefix(&mut headers[self.l3..]) {
            ip.id = U16::new(ip.id.get().wrapping_add(segments_before));
            ip.checksum = U16::new(0);
            let header_len = usize::from(ip.version_ihl & 0xf) * 4;
            let sum = !checksum::fold(checksum::add(&headers[self.l3..self.l3 + header_len], 0));
            headers[self.l3 + 10..self.l3 + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let l4_len = headers.len() - self.l4 + run.len;
        // Partial checksum: the host at the receiving end, or its network card, finishes it.
        let partial =
            U16::new(checksum::fold(checksum::pseudo_header(self.src, self.dst, self.transport.protocol(), l4_len)));
        let l4 = &mut headers[self.l4..];
        match self.transport {
            Transport::Tcp => {
                if let Ok((tcp, _)) = TcpHeader::mut_from_prefix(l4) {
                    tcp.seq = U32::new(tcp.seq.get().wrapping_add(run.offset as u32));
                    if !run.last {
                        tcp.flags &= !(tcp_flags::FIN | tcp_flags::PSH);
                    }
                    if run.offset > 0 {
                        tcp.flags &= !tcp_flags::CWR;
                    }
                    tcp.checksum = partial;
                }
            }
            Transport::Udp => {
                if let Ok((udp, _)) = UdpHeader::mut_from_prefix(l4) {
                    udp.len = U16::new(l4_len as u16);
                    udp.checksum = partial;
                }
            }
        }
        let offset = self.transport.csum_offset();
        let mut vnet = VnetHeader::plain(Some(PartialChecksum { start: self.l4 as u16, offset }));
        if run.len > usize::from(run.gso_size) {
            vnet.gso_type = match self.transport {
                Transport::Tcp if ipv4 => vnet::GSO_TCPV4,
                Transport::Tcp => vnet::GSO_TCPV6,
                Transport::Udp => vnet::GSO_UDP_L4,
            };
            if run.ecn && run.offset == 0 {
                vnet.gso_type |= vnet::GSO_ECN;
            }
            vnet.gso_size.set(run.gso_size);
        }
        vnet.hdr_len.set(headers.len() as u16);
        vnet
    }
}

/// A run of neighbouring slices of one super-frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Which super-frame.
    pub number: u16,
    /// Place of its payload in the super-frame.
    pub offset: usize,
    /// Octets of payload.
    pub len: usize,
    /// Payload per segment.
    pub gso_size: u16,
    /// The kernel's ECN mark.
    pub ecn: bool,
    /// The run has the end of the super-frame.
    pub last: bool,
    /// What it is made of.
    pub transport: Transport,
}

impl Run {
    /// A run of one slice, `None` if it asks for tiny segments, for something that no kernel does, or has no whole datagrams.
    pub fn start(slice: &Slice<'_>, headers: &Headers) -> Option<Run> {
        let (offset, size) = (usize::from(slice.offset), usize::from(slice.gso_size));
        let legal = slice.gso_size != GSO_BY_FRAGS
            && match headers.transport {
                Transport::Tcp => slice.gso_size >= MIN_GSO_SIZE,
                Transport::Udp => {
                    size > 0 && !slice.ecn && offset.is_multiple_of(size) && has_whole_datagrams(slice, 0)
                }
            };
        legal.then_some(Run {
            transport: headers.transport,
            number: slice.number,
            offset,
            len: slice.payload.len(),
            gso_size: slice.gso_size,
            ecn: slice.ecn,
            last: slice.last,
        })
    }

    /// One datagram of a UDP super-frame that has not been sliced.
    pub fn datagram(super_frame: &SuperFrame<'_>, offset: usize, len: usize) -> Run {
        let last = offset + len == super_frame.payload.len();
        Run { number: 0, offset, len, gso_size: super_frame.gso_size, ecn: false, last, transport: Transport::Udp }
    }

    /// Datagrams in it, if it is of UDP.
    pub fn datagrams(&self) -> usize {
        self.len.div_ceil(usize::from(self.gso_size).max(1))
    }

    /// Octets of payload in the largest packet that the run is cut into.
    pub fn largest(&self) -> usize {
        self.len.min(self.gso_size.into())
    }

    /// Takes the slice in, if it is the next one of the same super-frame and `header_len` octets of headers and the
    /// payload still make a frame that IP can express.
    pub fn extend(&mut self, slice: &Slice<'_>, header_len: usize) -> bool {
        let next = slice.number == self.number
            && slice.gso_size == self.gso_size
            && slice.ecn == self.ecn
            && slice.headers.len() == header_len
            && usize::from(slice.offset) == self.offset + self.len
            && !self.last
            && (self.transport == Transport::Tcp || has_whole_datagrams(slice, self.len))
            && header_len + self.len + slice.payload.len() <= 65_535;
        if next {
            self.len += slice.payload.len();
            self.last = slice.last;
        }
        next
    }
}

/// True if the slice ends with a datagram's end, and is not too much for a super-frame that has `len` octets before it.
fn has_whole_datagrams(slice: &Slice<'_>, len: usize) -> bool {
    let size = usize::from(slice.gso_size);
    (slice.last || slice.payload.len().is_multiple_of(size)) && len + slice.payload.len() <= MAX_DATAGRAMS * size
}

/// Sets the IP length field for a frame of `frame_len` octets; lengths beyond the field are cut off and then refused
/// by whoever parses the packet.
fn set_ip_length(headers: &mut [u8], l3: usize, ipv4: bool, frame_len: usize) {
    let (at, len) =
        if ipv4 { (l3 + 2, frame_len - l3) } else { (l3 + 4, frame_len.saturating_sub(l3 + ip::IPV6_HEADER_LEN)) };
    if let Some(field) = headers.get_mut(at..at + 2) {
        field.copy_from_slice(&(len.min(65_535) as u16).to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
