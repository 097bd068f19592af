//! TCP as guests send it, and segmentation as network cards do it, written from the RFCs alone.
// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, missing_docs)]

use ipop_dataplane::wire::{VnetHeader, vnet};
use proptest::prelude::*;

pub mod udp;

pub const FIN: u8 = 1;
pub const PSH: u8 = 8;
const ACK: u8 = 16;
const ECE: u8 = 64;
pub const CWR: u8 = 128;

/// What a guest's TCP hands to its network card.
#[derive(Debug, Clone)]
pub struct Guest {
    pub v6: bool,
    pub tags: usize,
    pub option_words: usize,
    pub flags: u8,
    pub seq: u32,
    pub ip_id: u16,
    pub gso_size: u16,
    pub ecn: bool,
    pub payload: Vec<u8>,
}

impl Guest {
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags
    }

    pub fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 } else { 20 }
    }

    pub fn headers_len(&self) -> usize {
        self.l4() + 20 + 4 * self.option_words
    }

    /// The frame with its partial checksum, as a TAP hands it over.
    pub fn frame(&self) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..self.tags {
            f.extend_from_slice(&[0x81, 0x00, 0x20, tag as u8 + 10]);
        }
        f.extend_from_slice(if self.v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        let tcp_len = 20 + 4 * self.option_words + self.payload.len();
        // What the field cannot say is 0.
        let length = |octets: usize| u16::try_from(octets).unwrap_or(0).to_be_bytes();
        if self.v6 {
            f.extend_from_slice(&[0x60, 0, 0, 0]);
            f.extend_from_slice(&length(tcp_len));
            f.extend_from_slice(&[6, 64]);
            f.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
            f.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4]);
        } else {
            let at = f.len();
            f.extend_from_slice(&[0x45, 0]);
            f.extend_from_slice(&length(20 + tcp_len));
            f.extend_from_slice(&self.ip_id.to_be_bytes());
            f.extend_from_slice(&[0x40, 0, 64, 6, 0, 0, 10, 0, 3, 3, 10, 0, 3, 104]);
            let sum = !sum16(&f[at..at + 20], 0);
            f[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let tcp = f.len();
        f.extend_from_slice(&[0x9c, 0x40, 0x14, 0x51]);
        f.extend_from_slice(&self.seq.to_be_bytes());
        f.extend_from_slice(&[0, 0, 0, 7, ((5 + self.option_words) << 4) as u8, self.flags, 1, 0, 0, 0, 0, 0]);
        f.extend((0..4 * self.option_words).map(|i| i as u8));
        f.extend_from_slice(&self.payload);
        let partial = pseudo(&f, self.l3(), self.v6, tcp_len);
        f[tcp + 16..tcp + 18].copy_from_slice(&partial.to_be_bytes());
        f
    }

    /// The frame and its metadata with the hop-by-hop header that has the length of a long IPv6 packet (RFC 2675).
    pub fn with_jumbo_option(&self) -> (Vec<u8>, VnetHeader) {
        let (mut frame, mut vnet, at) = (self.frame(), self.vnet(), self.l4());
        let length = (frame.len() - at + 8) as u32;
        frame[self.l3() + 6] = 0;
        frame.splice(at..at, [&[6, 0, 0xc2, 4][..], &length.to_be_bytes()].concat());
        vnet.csum_start.set(vnet.csum_start.get() + 8);
        (frame, vnet)
    }

    pub fn vnet(&self) -> VnetHeader {
        let mut header = VnetHeader::plain(Some(vnet::PartialChecksum { start: self.l4() as u16, offset: 16 }));
        if self.gso_size > 0 {
            header.gso_type = if self.v6 { vnet::GSO_TCPV6 } else { vnet::GSO_TCPV4 };
            if self.ecn {
                header.gso_type |= vnet::GSO_ECN;
            }
            header.gso_size.set(self.gso_size);
        }
        header
    }
}

fn sum16(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The folded sum of the pseudo-header.
fn pseudo(frame: &[u8], l3: usize, v6: bool, tcp_len: usize) -> u16 {
    let addresses = if v6 { &frame[l3 + 8..l3 + 40] } else { &frame[l3 + 12..l3 + 20] };
    sum16(addresses, 6 + tcp_len as u32)
}

/// What a network card makes of a frame with metadata: whole segments with whole checksums (RFC 791, 8200, 9293).
pub fn reference(frame: &[u8], header: &VnetHeader, l3: usize, v6: bool) -> Vec<Vec<u8>> {
    let l4 = usize::from(header.csum_start.get());
    let headers = l4 + usize::from(frame[l4 + 12] >> 4) * 4;
    let payload = &frame[headers..];
    let size = match header.gso() {
        vnet::GSO_NONE => payload.len(),
        _ => usize::from(header.gso_size.get()),
    };
    let mut segments = Vec::new();
    for (index, part) in payload.chunks(size).enumerate() {
        let mut s = frame[..headers].to_vec();
        s.extend_from_slice(part);
        let ip_len = s.len() - l3;
        if v6 {
            s[l3 + 4..l3 + 6].copy_from_slice(&((ip_len - 40) as u16).to_be_bytes());
        } else {
            s[l3 + 2..l3 + 4].copy_from_slice(&(ip_len as u16).to_be_bytes());
            let id = u16::from_be_bytes([s[l3 + 4], s[l3 + 5]]).wrapping_add(index as u16);
            s[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
            s[l3 + 10..l3 + 12].copy_from_slice(&[0, 0]);
            let sum = !sum16(&s[l3..l3 + 20], 0);
            s[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let seq = u32::from_be_bytes(s[l4 + 4..l4 + 8].try_into().unwrap()).wrapping_add((index * size) as u32);
        s[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
        if (index + 1) * size < payload.len() {
            s[l4 + 13] &= !(FIN | PSH);
        }
        if index > 0 {
            s[l4 + 13] &= !CWR;
        }
        s[l4 + 16..l4 + 18].copy_from_slice(&[0, 0]);
        let partial = pseudo(&s, l3, v6, s.len() - l4);
        let sum = !sum16(&s[l4..], u32::from(partial));
        s[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
        segments.push(s);
    }
    segments
}

pub fn guests() -> impl Strategy<Value = Guest> {
    guests_of(1..64_000)
}

pub fn guests_of(len: std::ops::Range<usize>) -> impl Strategy<Value = Guest> {
    let payload = (len, any::<u8>()).prop_map(|(len, salt)| {
        (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ salt).collect::<Vec<u8>>()
    });
    let flags = (any::<[bool; 4]>()).prop_map(|[fin, psh, ece, cwr]| {
        let bit = |on: bool, flag: u8| if on { flag } else { 0 };
        ACK | bit(fin, FIN) | bit(psh, PSH) | bit(ece, ECE) | bit(cwr, CWR)
    });
    (any::<bool>(), 0usize..3, 0usize..=10, flags, any::<u32>(), any::<u16>(), 200u16..9000, payload).prop_map(
        |(v6, tags, option_words, flags, seq, ip_id, gso_size, payload)| Guest {
            v6,
            tags,
            option_words,
            flags,
            seq,
            ip_id,
            gso_size,
            ecn: flags & CWR != 0,
            payload,
        },
    )
}
