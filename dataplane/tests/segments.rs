//! Cutting and joining TCP super-frames, against a segmentation that is written here from the RFCs alone.
//!
//! ```text
//!   super-frame ── cut ──► slices ── lose some ──► join ──► super-frames ── reference ──► segments
//!        └────────────────────────── reference ───────────────────────────────────────► segments
//! ```
//!
//! Without loss both ways give the same segments byte for byte. With loss, what arrives is what was sent, in order.

use std::collections::BTreeMap;

use ipop_dataplane::datagram::record::{Records, SEGMENT};
use ipop_dataplane::datagram::segment::{Headers, Run, Slice, SuperFrame};
use ipop_dataplane::wire::{Frame, VnetHeader, vnet};
use proptest::prelude::*;

const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;
const ECE: u8 = 64;
const CWR: u8 = 128;

/// What a guest's TCP hands to its network card.
#[derive(Debug, Clone)]
struct Guest {
    v6: bool,
    tags: usize,
    option_words: usize,
    flags: u8,
    seq: u32,
    ip_id: u16,
    gso_size: u16,
    ecn: bool,
    payload: Vec<u8>,
}

impl Guest {
    fn l3(&self) -> usize {
        14 + 4 * self.tags
    }

    fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 } else { 20 }
    }

    fn headers_len(&self) -> usize {
        self.l4() + 20 + 4 * self.option_words
    }

    /// The frame with its partial checksum, as a TAP hands it over.
    fn frame(&self) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..self.tags {
            f.extend_from_slice(&[0x81, 0x00, 0x20, tag as u8 + 10]);
        }
        f.extend_from_slice(if self.v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        let tcp_len = 20 + 4 * self.option_words + self.payload.len();
        if self.v6 {
            f.extend_from_slice(&[0x60, 0, 0, 0]);
            f.extend_from_slice(&(tcp_len as u16).to_be_bytes());
            f.extend_from_slice(&[6, 64]);
            f.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
            f.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4]);
        } else {
            let at = f.len();
            f.extend_from_slice(&[0x45, 0]);
            f.extend_from_slice(&(20 + tcp_len as u16).to_be_bytes());
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

    fn vnet(&self) -> VnetHeader {
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
fn reference(frame: &[u8], header: &VnetHeader, l3: usize, v6: bool) -> Vec<Vec<u8>> {
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

/// Cuts as the sender does; each slice as the octets of its record.
fn cut(frame: &[u8], header: &VnetHeader, slice: usize, number: u16) -> Option<Vec<Vec<u8>>> {
    let parsed = Frame::parse(frame).unwrap();
    let super_frame = SuperFrame::new(&parsed, header)?;
    let mut records = Vec::new();
    for offset in (0..super_frame.payload.len()).step_by(slice) {
        let len = slice.min(super_frame.payload.len() - offset);
        let mut record = vec![0; super_frame.prefix_len()];
        super_frame.write_prefix(&mut record, number, offset, len);
        record.extend_from_slice(&super_frame.payload[offset..offset + len]);
        records.push(record);
    }
    Some(records)
}

/// Joins as the receiver does: neighbours go into one frame, anything else starts a new one.
fn join(records: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut frames: Vec<(Run, Vec<u8>, Vec<u8>)> = Vec::new();
    for record in records {
        let record = Records::new(record).next().unwrap().unwrap();
        assert_eq!(record.kind, SEGMENT);
        let slice = Slice::parse(record.flags, record.body).unwrap();
        if let Some((run, headers, payload)) = frames.last_mut()
            && run.extend(&slice, headers.len())
        {
            payload.extend_from_slice(slice.payload);
        } else {
            frames.push((Run::start(&slice), slice.headers.to_vec(), slice.payload.to_vec()));
        }
    }
    let finish = |(run, mut headers, payload): (Run, Vec<u8>, Vec<u8>)| {
        let header = Headers::validate(&headers).unwrap().patch(&mut headers, &run);
        headers.extend_from_slice(&payload);
        (header, headers)
    };
    frames.into_iter().map(finish).collect()
}

fn guests() -> impl Strategy<Value = Guest> {
    let payload = (1usize..64_000, any::<u8>()).prop_map(|(len, salt)| {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_lost_is_the_same_to_the_byte(guest in guests(), slice in 256usize..9000) {
        let (frame, header) = (guest.frame(), guest.vnet());
        let records = cut(&frame, &header, slice, 7).unwrap();
        let joined = join(&records);
        prop_assert_eq!(joined.len(), 1);
        let (joined_header, joined_frame) = &joined[0];
        let expected = reference(&frame, &header, guest.l3(), guest.v6);
        prop_assert_eq!(reference(joined_frame, joined_header, guest.l3(), guest.v6), expected);
    }

    #[test]
    fn what_arrives_is_what_was_sent(guest in guests(), slice in 256usize..9000, lost in proptest::collection::vec(any::<bool>(), 256)) {
        let (frame, header) = (guest.frame(), guest.vnet());
        let (l3, l4, headers_len) = (guest.l3(), guest.l4(), guest.headers_len());
        let records = cut(&frame, &header, slice, 7).unwrap();
        let kept: Vec<_> = records.iter().zip(&lost).filter(|(_, lost)| !**lost).map(|(r, _)| r.clone()).collect();
        let mut arrived = BTreeMap::new();
        let mut last = None;
        for (joined_header, joined) in join(&kept) {
            for segment in reference(&joined, &joined_header, l3, guest.v6) {
                let seq = u32::from_be_bytes(segment[l4 + 4..l4 + 8].try_into().unwrap());
                let offset = seq.wrapping_sub(guest.seq) as usize;
                let payload = &segment[headers_len..];
                prop_assert!(payload.len() <= usize::from(guest.gso_size).max(slice));
                prop_assert_eq!(payload, &guest.payload[offset..offset + payload.len()]);
                prop_assert!(last.is_none_or(|last| last < offset), "in order");
                last = Some(offset);
                arrived.insert(offset, payload.len());
                let is_last = offset + payload.len() == guest.payload.len();
                let mut flags = guest.flags;
                if !is_last {
                    flags &= !(FIN | PSH);
                }
                if offset > 0 {
                    flags &= !CWR;
                }
                prop_assert_eq!(segment[l4 + 13], flags);
                // What is not about length and place is untouched: addresses, ports, options.
                prop_assert_eq!(&segment[..l3], &frame[..l3]);
                prop_assert_eq!(&segment[l4 + 20..headers_len], &frame[l4 + 20..headers_len]);
            }
        }
        let sent: usize = records.iter().zip(&lost).enumerate().filter(|(_, (_, lost))| !**lost)
            .map(|(i, _)| slice.min(guest.payload.len() - i * slice)).sum();
        prop_assert_eq!(arrived.values().sum::<usize>(), sent);
    }

    #[test]
    fn slices_of_other_super_frames_are_not_joined(guest in guests(), slice in 256usize..2000) {
        let (frame, header) = (guest.frame(), guest.vnet());
        let mut records = cut(&frame, &header, slice, 7).unwrap();
        let second = cut(&frame, &header, slice, 8).unwrap();
        // The first loses its end, the second its beginning, just so that the offsets would match.
        let half = records.len() / 2;
        records.truncate(half);
        records.extend_from_slice(&second[half..]);
        let frames = join(&records);
        prop_assert_eq!(frames.len(), usize::from(half > 0) + 1);
    }

    #[test]
    fn a_single_segment_is_cut_only_with_a_good_checksum(mut guest in guests(), slice in 256usize..900, spoil in any::<bool>()) {
        guest.gso_size = 0;
        guest.ecn = false;
        guest.payload.truncate(8900);
        let partial = VnetHeader::plain(Some(vnet::PartialChecksum { start: guest.l4() as u16, offset: 16 }));
        let mut whole = reference(&guest.frame(), &partial, guest.l3(), guest.v6).remove(0);
        if spoil {
            *whole.last_mut().unwrap() ^= 0x55;
        }
        let plain = VnetHeader::plain(None);
        match cut(&whole, &plain, slice, 1) {
            None => prop_assert!(spoil),
            Some(records) => {
                prop_assert!(!spoil);
                let (header, joined) = join(&records).remove(0);
                prop_assert_eq!(header.gso(), vnet::GSO_NONE);
                prop_assert_eq!(&reference(&joined, &header, guest.l3(), guest.v6)[0], &whole);
            }
        }
    }

    #[test]
    fn garbage_headers_never_panic(headers in proptest::collection::vec(any::<u8>(), 0..255), v6: bool, offset: u16) {
        let mut headers = headers;
        if headers.len() >= 15 {
            let ethertype: [u8; 2] = if v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
            headers[12..14].copy_from_slice(&ethertype);
            headers[14] = if v6 { 0x60 } else { 0x45 };
        }
        if let Ok(valid) = Headers::validate(&headers) {
            let run = Run { number: 0, offset: usize::from(offset), len: 100, gso_size: 50, ecn: true, last: false };
            valid.patch(&mut headers, &run);
        }
    }

    #[test]
    fn garbage_slices_never_panic(flags: u8, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Slice::parse(flags, &body);
    }
}
