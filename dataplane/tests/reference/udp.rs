//! UDP as guests send it, and what a network card makes of it, written from the RFCs alone.

use ipop_dataplane::wire::{VnetHeader, vnet};
use proptest::prelude::*;

use super::sum16;

/// What the checksum field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// The pseudo-header's, to be finished.
    Partial,
    /// The right one.
    Complete,
    /// A wrong one.
    Wrong,
    /// None (RFC 768).
    Zero,
}

/// What is unusual about a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    None,
    /// Octets behind the packet.
    Trailer,
    /// IPv4 options, or an IPv6 header of destination options.
    Options,
    /// The first fragment of more.
    Fragment,
    /// UDP's length field says less than there is.
    ShortLength,
    /// IPv4's header has a wrong checksum.
    HeaderSum,
    /// A datagram without an octet of payload.
    Empty,
    /// Another protocol.
    Protocol,
    /// The frame is not even IP.
    NoIp,
}

/// A UDP datagram in a frame, or a super-frame of them.
#[derive(Debug, Clone)]
pub struct Datagram {
    pub v6: bool,
    pub tags: usize,
    pub ports: [u16; 2],
    pub id: u16,
    pub dont_fragment: bool,
    pub tos: u8,
    pub ttl: u8,
    pub sum: Sum,
    pub oddity: Oddity,
    pub payload: Vec<u8>,
    /// 0 if it is one datagram.
    pub gso_size: u16,
}

impl Datagram {
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags
    }

    fn option_len(&self) -> usize {
        if self.oddity == Oddity::Options { 8 } else { 0 }
    }

    pub fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 } else { 20 } + self.option_len()
    }

    /// As a TAP hands it over.
    pub fn frame(&self) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..self.tags {
            f.extend_from_slice(&[0x81, 0x00, 0x20, tag as u8 + 10]);
        }
        let ethertype: [u8; 2] = match (self.oddity, self.v6) {
            (Oddity::NoIp, _) => [0x88, 0xb5],
            (_, true) => [0x86, 0xdd],
            (_, false) => [0x08, 0x00],
        };
        f.extend_from_slice(&ethertype);
        let l3 = f.len();
        let payload: &[u8] = if self.oddity == Oddity::Empty { &[] } else { &self.payload };
        let udp_len = (8 + payload.len()) as u16;
        let ip_payload = udp_len + self.option_len() as u16;
        let protocol = if self.oddity == Oddity::Protocol { 136 } else { 17 };
        if self.v6 {
            f.extend_from_slice(&[0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            f.extend_from_slice(&ip_payload.to_be_bytes());
            f.extend_from_slice(&[if self.option_len() > 0 { 60 } else { protocol }, self.ttl]);
            f.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
            f.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4]);
            if self.option_len() > 0 {
                f.extend_from_slice(&[protocol, 0, 1, 4, 0, 0, 0, 0]); // PadN
            }
        } else {
            let words = 5 + self.option_len() / 4;
            f.extend_from_slice(&[0x40 | words as u8, self.tos]);
            f.extend_from_slice(&(20 + ip_payload).to_be_bytes());
            f.extend_from_slice(&self.id.to_be_bytes());
            let more = if self.oddity == Oddity::Fragment { 0x20 } else { 0 };
            f.extend_from_slice(&[if self.dont_fragment { 0x40 } else { 0 } | more, 0, self.ttl, protocol, 0, 0]);
            f.extend_from_slice(&[10, 0, 3, 3, 10, 0, 3, 104]);
            f.resize(f.len() + self.option_len(), 1); // No operation
            let mut sum = !sum16(&f[l3..], 0);
            if self.oddity == Oddity::HeaderSum {
                sum ^= 0x0100;
            }
            f[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let l4 = f.len();
        let said = if self.oddity == Oddity::ShortLength { udp_len - 1 } else { udp_len };
        for field in [self.ports[0], self.ports[1], said, 0] {
            f.extend_from_slice(&field.to_be_bytes());
        }
        f.extend_from_slice(payload);
        let sum = match self.sum {
            Sum::Zero => 0,
            Sum::Partial => pseudo(&f, l3, l4, self.v6),
            Sum::Complete => complete(&f, l3, l4, self.v6),
            Sum::Wrong => complete(&f, l3, l4, self.v6) ^ 0x1234,
        };
        f[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
        if self.oddity == Oddity::Trailer {
            f.extend_from_slice(&[0; 6]);
        }
        f
    }

    pub fn vnet(&self) -> VnetHeader {
        let start = self.l4() as u16;
        let mut header =
            VnetHeader::plain((self.sum == Sum::Partial).then_some(vnet::PartialChecksum { start, offset: 6 }));
        if self.gso_size > 0 {
            header.gso_type = 5;
            header.gso_size.set(self.gso_size);
        }
        header
    }
}

fn pseudo(frame: &[u8], l3: usize, l4: usize, v6: bool) -> u16 {
    let addresses = if v6 { &frame[l3 + 8..l3 + 40] } else { &frame[l3 + 12..l3 + 20] };
    sum16(addresses, 17 + (frame.len() - l4) as u32)
}

/// The checksum of a datagram that ends with the frame, with a field of 0.
fn complete(frame: &[u8], l3: usize, l4: usize, v6: bool) -> u16 {
    match !sum16(&frame[l4..], u32::from(pseudo(frame, l3, l4, v6))) {
        0 => 0xffff,
        sum => sum,
    }
}

/// What a network card sends for a frame with metadata: the frame with its checksum finished, or the datagrams of a
/// super-frame, each with headers of its own (RFC 768, 791, 8200).
pub fn datagrams(frame: &[u8], header: &VnetHeader) -> Vec<Vec<u8>> {
    let (start, offset) = (usize::from(header.csum_start.get()), usize::from(header.csum_offset.get()));
    let partial = header.flags == 1;
    if header.gso_type == 0 {
        let mut frame = frame.to_vec();
        if partial {
            let sum = match !sum16(&frame[start..], 0) {
                0 => 0xffff,
                sum => sum,
            };
            frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        }
        return vec![frame];
    }
    assert_eq!((header.gso_type, partial, offset), (5, true, 6), "what the kernel asks of a UDP super-frame");
    let is_tag = |at: usize| matches!(frame[at - 2..at], [0x81, 0] | [0x88, 0xa8]);
    let l3 = (0..3).map(|tags| 14 + 4 * tags).find(|at| !is_tag(*at)).expect("two tags at most");
    let (v6, l4) = (frame[l3 - 2..l3] == [0x86, 0xdd], start);
    // Lengths and the sum that stand in the super-frame are what the kernel computes with, so they must be right.
    let udp_len = frame.len() - l4;
    assert_eq!(u16::from_be_bytes([frame[l4 + 4], frame[l4 + 5]]), udp_len as u16);
    assert_eq!(u16::from_be_bytes([frame[l4 + 6], frame[l4 + 7]]), pseudo(frame, l3, l4, v6));
    if v6 {
        assert_eq!(u16::from_be_bytes([frame[l3 + 4], frame[l3 + 5]]), (frame.len() - l3 - 40) as u16);
    } else {
        assert_eq!(u16::from_be_bytes([frame[l3 + 2], frame[l3 + 3]]), (frame.len() - l3) as u16);
        assert_eq!(sum16(&frame[l3..l3 + usize::from(frame[l3] & 15) * 4], 0), 0xffff);
    }
    let size = usize::from(header.gso_size.get());
    let payload = &frame[l4 + 8..];
    assert!(payload.len() > size, "a super-frame of one");
    let cut = |(index, part): (usize, &[u8])| {
        let mut d = [&frame[..l4 + 8], part].concat();
        let ip_len = d.len() - l3;
        if v6 {
            d[l3 + 4..l3 + 6].copy_from_slice(&((ip_len - 40) as u16).to_be_bytes());
        } else {
            d[l3 + 2..l3 + 4].copy_from_slice(&(ip_len as u16).to_be_bytes());
            let id = u16::from_be_bytes([d[l3 + 4], d[l3 + 5]]).wrapping_add(index as u16);
            set_id(&mut d, l3, id);
        }
        d[l4 + 4..l4 + 6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        d[l4 + 6..l4 + 8].copy_from_slice(&[0, 0]);
        let sum = complete(&d, l3, l4, v6);
        d[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
        d
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

/// Sets the identification of an IPv4 packet, and its header's checksum anew.
pub fn set_id(frame: &mut [u8], l3: usize, id: u16) {
    let end = l3 + usize::from(frame[l3] & 15) * 4;
    frame[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
    frame[l3 + 10..l3 + 12].copy_from_slice(&[0, 0]);
    let sum = !sum16(&frame[l3..end], 0);
    frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
}

/// How the identifications of a flow follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    Rising,
    Constant,
    Any,
}

/// A train of frames, of several flows, and for each whether its identification may change under way.
pub fn trains(tags: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(Datagram, bool)>> {
    let ids = prop_oneof![3 => Just(Ids::Rising), 3 => Just(Ids::Constant), 1 => Just(Ids::Any)];
    let sums = prop_oneof![
        3 => Just(vec![Sum::Partial]), 3 => Just(vec![Sum::Complete]), 1 => Just(vec![Sum::Zero]),
        1 => Just(vec![Sum::Wrong]), 2 => Just(vec![Sum::Partial, Sum::Complete]),
        2 => Just(vec![Sum::Complete, Sum::Complete, Sum::Complete, Sum::Wrong]),
        1 => Just(vec![Sum::Partial, Sum::Partial, Sum::Zero]),
    ];
    let flow = (any::<bool>(), tags, any::<bool>(), ids, sums, any::<u16>(), 0u16..3, 1usize..1500);
    let odd = prop_oneof![
        Just(Oddity::Trailer),
        Just(Oddity::Options),
        Just(Oddity::Fragment),
        Just(Oddity::ShortLength),
        Just(Oddity::HeaderSum),
        Just(Oddity::Empty),
        Just(Oddity::Protocol),
        Just(Oddity::NoIp)
    ];
    let oddity = prop_oneof![14 => Just(Oddity::None), 1 => odd];
    // A run of one flow, then of another: what merges, and what must not.
    let burst = (0usize..4, 1usize..90, proptest::collection::vec((oddity, any::<u16>(), 0u8..40), 90));
    (proptest::collection::vec(flow, 4), proptest::collection::vec(burst, 1..8)).prop_map(|(flows, bursts)| {
        let mut next: Vec<u16> = flows.iter().map(|flow| flow.5).collect();
        let mut train = Vec::new();
        for (which, count, frames) in bursts {
            let (v6, tags, dont_fragment, ids, sums, _, port, size) = &flows[which];
            for (oddity, random, change) in &frames[..count] {
                next[which] = match ids {
                    Ids::Rising => next[which].wrapping_add(1),
                    Ids::Constant => next[which],
                    Ids::Any => *random,
                };
                let len = match change {
                    0 => 1 + usize::from(*random) % size,
                    1 => size + usize::from(random % 50),
                    _ => *size,
                };
                let datagram = Datagram {
                    v6: *v6,
                    tags: *tags,
                    ports: [40_000 + which as u16, 5000 + port],
                    id: next[which],
                    dont_fragment: *dont_fragment,
                    tos: if *change == 2 { 3 } else { 0 },
                    ttl: if *change == 3 { 63 } else { 64 },
                    // Only IP has unfinished sums.
                    sum: match sums[usize::from(*random) % sums.len()] {
                        Sum::Partial if *oddity == Oddity::NoIp => Sum::Complete,
                        sum => sum,
                    },
                    oddity: *oddity,
                    payload: (0..len).map(|i| (i as u16).wrapping_mul(*random) as u8).collect(),
                    gso_size: 0,
                };
                let atomic = !v6 && *dont_fragment && *ids == Ids::Constant;
                train.push((datagram, atomic));
            }
        }
        train
    })
}
