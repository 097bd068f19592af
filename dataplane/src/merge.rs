//! Merging UDP datagrams of one flow into one super-frame, step (11): pure decisions on octets, without any descriptor.
//!
//! A TAP takes one frame per write, and each write runs the kernel's receive path to its end. A run of datagrams that came
//! together is written as one `GSO_UDP_L4` super-frame, which the receiving end cuts into the same datagrams again.
//!
//! The rules are those of the kernel's own GRO (`udp_gro_receive_segment()` in net/ipv4/udp_offload.c, `inet_gro_receive()`
//! in net/ipv4/af_inet.c, `ipv6_gro_receive()` in net/ipv6/ip6_offload.c), and one more: nothing is repaired. A checksum
//! is written anew at the receiving end, so each must have been right, or still to be finished.

use crate::raw_ports::RawPorts;
use crate::wire::ethernet::ethertype;
use crate::wire::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, UDP_CSUM_OFFSET, UDP_HEADER_LEN, protocol};
use crate::wire::vnet::{self, PartialChecksum};
use crate::wire::{Frame, VnetHeader, checksum};

/// Datagrams in one write. The kernel merges as many (`UDP_GRO_CNT_MAX`) and allows `UDP_MAX_SEGMENTS`, 128, in a super-frame.
pub const MAX_FRAMES: usize = 64;
/// Headers that merged datagrams can have: Ethernet, two tags, IPv6, UDP.
pub const MAX_HEADERS: usize = 14 + 8 + IPV6_HEADER_LEN + UDP_HEADER_LEN;
/// What an IP packet can be long. IPv6 could be longer by its header; a super-frame should not.
const MAX_PACKET: usize = 65_535;
/// "Don't fragment" in IPv4's flags.
const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, or an offset.
const FRAGMENTED: u16 = 0x3fff;

/// A run of datagrams of one flow, one after the other. The octets stay with the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpRun {
    l3: usize,
    l4: usize,
    ipv4: bool,
    /// Octets in the first frame; the others have as many, the last may have fewer.
    frame_len: usize,
    /// Octets of UDP payload.
    payload: usize,
    frames: usize,
    /// Where the first one's checksum is to be finished, if it is.
    csum: Option<PartialChecksum>,
    /// By how much the IPv4 identification rises; settled by the second frame.
    id_step: u16,
    /// Nothing can follow.
    ended: bool,
}

/// Two octets in network order. The caller has checked that they are there.
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl UdpRun {
    /// A run of one, if the frame is a plain UDP datagram that others may follow, and nobody reads it `raw`. Its checksums
    /// are looked at when one does.
    pub fn start(frame: &Frame<'_>, csum: Option<PartialChecksum>, raw: &RawPorts) -> Option<UdpRun> {
        let (bytes, l3) = (frame.bytes, frame.l3);
        let packet = frame.payload();
        let (ipv4, l4) = match frame.ethertype {
            ethertype::IPV4 => (true, l3 + IPV4_HEADER_LEN),
            ethertype::IPV6 => (false, l3 + IPV6_HEADER_LEN),
            _ => return None,
        };
        if bytes.len() <= l4 + UDP_HEADER_LEN || packet.len() > MAX_PACKET {
            return None;
        }
        // No options, no extension headers, no fragments: the same as the kernel.
        let plain = if ipv4 {
            packet[0] == 0x45 && packet[9] == protocol::UDP && be16(packet, 6) & FRAGMENTED == 0
        } else {
            packet[0] >> 4 == 6 && packet[6] == protocol::UDP
        };
        let run = UdpRun {
            l3,
            l4,
            ipv4,
            frame_len: bytes.len(),
            payload: bytes.len() - l4 - UDP_HEADER_LEN,
            frames: 1,
            csum,
            id_step: 0,
            ended: false,
        };
        let whole = plain && !raw.either([be16(bytes, l4), be16(bytes, l4 + 2)]);
        (whole && run.lengths_are_right(bytes) && run.may_have(csum)).then_some(run)
    }

    /// Takes the frame in if it continues the run, which began with `first`.
    pub fn extend(&mut self, first: &[u8], frame: &[u8], csum: Option<PartialChecksum>) -> bool {
        let continues = !self.ended
            && first.len() == self.frame_len
            && frame.len() <= self.frame_len
            && frame.len() > self.l4 + UDP_HEADER_LEN
            && self.is_same_flow(first, frame)
            && self.frames < MAX_FRAMES
            && self.header_len() - self.l3 + self.payload + frame.len() - self.header_len() <= MAX_PACKET
            && self.lengths_are_right(frame)
            && self.may_have(csum);
        if !continues {
            return false;
        }
        if self.ipv4 && !self.id_follows(first, frame) {
            return false;
        }
        if self.frames == 1 && !self.is_intact(first, self.csum) {
            self.ended = true;
            return false;
        }
        if !self.is_intact(frame, csum) {
            return false;
        }
        self.frames += 1;
        self.payload += frame.len() - self.header_len();
        self.ended = frame.len() < self.frame_len;
        true
    }

    /// Octets of headers: Ethernet, tags, IP, UDP.
    pub fn header_len(&self) -> usize {
        self.l4 + UDP_HEADER_LEN
    }

    /// Datagrams in the run.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// The header for the port of a run of one.
    pub fn plain(&self) -> VnetHeader {
        VnetHeader::plain(self.csum)
    }

    /// Patches the first frame's headers for the whole run, as `udp_gro_complete_segment()` would, and returns the header for
    /// the port. For runs of more than one.
    pub fn patch(&self, headers: &mut [u8]) -> VnetHeader {
        let udp_len = UDP_HEADER_LEN + self.payload;
        let put = |headers: &mut [u8], at: usize, value: u16| {
            if let Some(field) = headers.get_mut(at..at + 2) {
                field.copy_from_slice(&value.to_be_bytes());
            }
        };
        if self.ipv4 {
            put(headers, self.l3 + 2, (IPV4_HEADER_LEN + udp_len) as u16);
            put(headers, self.l3 + 10, 0);
            let sum = !checksum::fold(checksum::add(&headers[self.l3..self.l4], 0));
            put(headers, self.l3 + 10, sum);
        } else {
            put(headers, self.l3 + 4, udp_len as u16);
        }
        put(headers, self.l4 + 4, udp_len as u16);
        let partial = checksum::fold(self.pseudo_header(headers, udp_len));
        put(headers, self.l4 + usize::from(UDP_CSUM_OFFSET), partial);
        let mut vnet = VnetHeader::plain(Some(self.place()));
        vnet.gso_type = vnet::GSO_UDP_L4;
        vnet.gso_size.set((self.frame_len - self.header_len()) as u16);
        vnet.hdr_len.set(self.header_len() as u16);
        vnet
    }

    fn place(&self) -> PartialChecksum {
        PartialChecksum { start: self.l4 as u16, offset: UDP_CSUM_OFFSET }
    }

    /// An unfinished checksum must be UDP's.
    fn may_have(&self, csum: Option<PartialChecksum>) -> bool {
        csum.is_none_or(|csum| csum == self.place())
    }

    /// True if both are equal in all but lengths, identification and checksums. The cheap test: most frames end here.
    fn is_same_flow(&self, first: &[u8], frame: &[u8]) -> bool {
        let (l3, l4) = (self.l3, self.l4);
        let equal = |from: usize, to: usize| first[from..to] == frame[from..to];
        if self.ipv4 {
            // Addresses, ports; flags, TTL, protocol; Ethernet, tags, version, TOS.
            equal(l3 + 12, l4 + 4) && equal(l3 + 6, l3 + 10) && equal(0, l3 + 2)
        } else {
            // Next header, hop limit, addresses, ports; Ethernet, tags, version, class, flow label.
            equal(l3 + 6, l4 + 4) && equal(0, l3 + 4)
        }
    }

    /// True if IP and UDP say that the frame ends where it ends: no padding, no trailer.
    fn lengths_are_right(&self, frame: &[u8]) -> bool {
        let udp_len = frame.len() - self.l4;
        let ip_len = if self.ipv4 {
            usize::from(be16(frame, self.l3 + 2)) == udp_len + IPV4_HEADER_LEN
        } else {
            usize::from(be16(frame, self.l3 + 4)) == udp_len
        };
        ip_len && usize::from(be16(frame, self.l4 + 4)) == udp_len
    }

    /// The identification rises by one with every frame, as it will when the super-frame is cut again. With DF set it may
    /// stand still too: that of an atomic datagram means nothing (RFC 6864, section 4.1).
    fn id_follows(&mut self, first: &[u8], frame: &[u8]) -> bool {
        let rise = be16(frame, self.l3 + 4).wrapping_sub(be16(first, self.l3 + 4));
        if self.frames == 1 {
            let atomic = be16(first, self.l3 + 6) & DONT_FRAGMENT != 0;
            self.id_step = if atomic && rise == 0 { 0 } else { 1 };
        }
        rise == self.id_step * self.frames as u16
    }

    /// True if the checksums of IP and UDP are right, or UDP's still to be finished and right as far as it is there.
    /// Without a checksum (0, RFC 768) there is nothing that a super-frame could say.
    fn is_intact(&self, frame: &[u8], csum: Option<PartialChecksum>) -> bool {
        if self.ipv4 && checksum::fold(checksum::add(&frame[self.l3..self.l4], 0)) != 0xffff {
            return false;
        }
        let udp = &frame[self.l4..];
        let stored = be16(udp, usize::from(UDP_CSUM_OFFSET));
        let pseudo = self.pseudo_header(frame, udp.len());
        match csum {
            Some(_) => stored == checksum::fold(pseudo),
            None => stored != 0 && checksum::fold(checksum::add(udp, pseudo)) == 0xffff,
        }
    }

    fn pseudo_header(&self, frame: &[u8], udp_len: usize) -> u64 {
        let addresses = if self.ipv4 { self.l3 + 12 } else { self.l3 + 8 };
        checksum::add(&frame[addresses..self.l4], u64::from(protocol::UDP) + udp_len as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A datagram with whole checksums, number `n` of its flow.
    fn datagram(n: u16, payload: &[u8]) -> Vec<u8> {
        let mut f = vec![0x02, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0];
        let udp_len = (8 + payload.len()) as u16;
        f.extend_from_slice(&[0x45, 0]);
        f.extend_from_slice(&(20 + udp_len).to_be_bytes());
        f.extend_from_slice(&n.to_be_bytes());
        f.extend_from_slice(&[0, 0, 64, 17, 0, 0, 10, 0, 3, 3, 10, 0, 3, 104, 0x9c, 0x40, 0x13, 0x89]);
        f.extend_from_slice(&udp_len.to_be_bytes());
        f.extend_from_slice(&[0, 0]);
        f.extend_from_slice(payload);
        finish(&mut f);
        f
    }

    fn finish(f: &mut [u8]) {
        f[24..26].copy_from_slice(&[0, 0]);
        let sum = !checksum::fold(checksum::add(&f[14..34], 0));
        f[24..26].copy_from_slice(&sum.to_be_bytes());
        let udp_len = f.len() - 34;
        f[40..42].copy_from_slice(&[0, 0]);
        let sum = !checksum::fold(checksum::add(&f[34..], checksum::add(&f[26..34], 17 + udp_len as u64)));
        f[40..42].copy_from_slice(&sum.to_be_bytes());
    }

    fn start(first: &[u8]) -> Option<UdpRun> {
        UdpRun::start(&Frame::parse(first).unwrap(), None, &RawPorts::with(&[5353]))
    }

    #[test]
    fn a_run_and_its_headers() {
        let first = datagram(7, &[1; 100]);
        let mut run = start(&first).unwrap();
        assert!(run.extend(&first, &datagram(8, &[2; 100]), None));
        assert!(!run.extend(&first, &datagram(8, &[2; 100]), None), "its identification has been there");
        assert!(run.extend(&first, &datagram(9, &[3; 10]), None));
        assert!(!run.extend(&first, &datagram(10, &[3; 10]), None), "a shorter one was the last");
        let mut headers = first[..run.header_len()].to_vec();
        let vnet = run.patch(&mut headers);
        assert_eq!((run.frames(), vnet.gso_type, vnet.gso_size.get(), vnet.hdr_len.get()), (3, 5, 100, 42));
        assert_eq!((vnet.flags, vnet.csum_start.get(), vnet.csum_offset.get()), (1, 34, 6));
        assert_eq!((be16(&headers, 16), be16(&headers, 38)), (20 + 8 + 210, 8 + 210));
        assert_eq!(checksum::fold(checksum::add(&headers[14..34], 0)), 0xffff);
        // From RFC 768 by hand: 10.0.3.3, 10.0.3.104, protocol, length.
        assert_eq!(u32::from(be16(&headers, 40)), 0x0a00 + 0x0303 + 0x0a00 + 0x0368 + 17 + 218);
    }

    #[test]
    fn at_most_64_and_at_most_64_kib() {
        for (len, most) in [(10, MAX_FRAMES), (1472, 44), (9000, 7)] {
            let first = datagram(0, &vec![0; len]);
            let mut run = start(&first).unwrap();
            let taken = (1..100).take_while(|n| run.extend(&first, &datagram(*n, &vec![0; len]), None)).count();
            assert_eq!(taken + 1, most, "{len}");
        }
    }

    #[test]
    fn what_cannot_begin_a_run() {
        let good = datagram(1, &[5; 50]);
        assert!(start(&good).is_some());
        // Version and header length, more fragments, an offset, another protocol, lengths.
        for (at, value) in
            [(14, 0x55), (14, 0x46), (20, 0x20), (21, 1), (23, 6), (17, 77), (17, 79), (39, 57), (39, 59)]
        {
            let mut bad = good.clone();
            bad[at] = value;
            finish(&mut bad);
            assert_eq!(start(&bad), None, "{at} {value}");
        }
        for (at, port) in [34, 36].into_iter().flat_map(|at| [67, 68, 546, 547, 5353, 5354].map(|port| (at, port))) {
            let mut other = good.clone();
            other[at..at + 2].copy_from_slice(&u16::to_be_bytes(port));
            finish(&mut other);
            assert_eq!(start(&other).is_some(), port == 5354, "{at} {port}");
        }
        assert_eq!(start(&datagram(1, &[])), None);
        let elsewhere = PartialChecksum { start: 34, offset: 4 };
        assert_eq!(UdpRun::start(&Frame::parse(&good).unwrap(), Some(elsewhere), &RawPorts::default()), None);
        (0..good.len()).filter(|len| *len >= 14).for_each(|len| assert_eq!(start(&good[..len]), None));
    }

    /// Whatever differs in the headers, but for identification, length and sums, is another flow; whatever differs in the
    /// payload is a wrong checksum.
    #[test]
    fn every_octet_counts() {
        let (first, second) = (datagram(1, &[5; 50]), datagram(2, &[6; 50]));
        for at in 0..second.len() {
            let mut other = second.clone();
            other[at] ^= 4;
            let mut run = start(&first).unwrap();
            assert!(!run.extend(&first, &other, None), "{at}");
            // And the first one's are looked at too, when it matters.
            let mut other = first.clone();
            other[at] ^= 4;
            assert!(start(&other).is_none_or(|mut run| !run.extend(&other, &second, None)), "{at}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            first in proptest::collection::vec(any::<u8>(), 14..90),
            next in proptest::collection::vec(any::<u8>(), 0..90),
            v6: bool,
        ) {
            let mut first = first;
            first[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
            let good = datagram(3, &next);
            for first in [&first, &good] {
                let Some(mut run) = start(first) else { continue };
                run.extend(first, &next, None);
                run.extend(&next, first, None);
                let mut headers = first[..run.header_len()].to_vec();
                run.patch(&mut headers);
            }
        }
    }
}
