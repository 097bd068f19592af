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
use reference::{CWR, FIN, PSH, guests, guests_of, reference};

mod reference;

/// Cuts as the sender does; each slice as the octets of its record.
fn cut(frame: &[u8], header: &VnetHeader, slice: usize, number: u16) -> Option<Vec<Vec<u8>>> {
    let parsed = Frame::parse(frame).unwrap();
    Some(slices(&SuperFrame::new(&parsed, header)?, slice, number))
}

fn slices(super_frame: &SuperFrame<'_>, slice: usize, number: u16) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    for offset in (0..super_frame.payload.len()).step_by(slice) {
        let len = slice.min(super_frame.payload.len() - offset);
        let mut record = vec![0; super_frame.prefix_len()];
        super_frame.write_prefix(&mut record, number, offset, len);
        record.extend_from_slice(&super_frame.payload[offset..offset + len]);
        records.push(record);
    }
    records
}

/// Cuts a super-frame of more than 64 KiB as the sender does.
fn cut_big(frame: &[u8], header: &VnetHeader, slice: usize) -> Vec<Vec<u8>> {
    let parsed = Frame::parse(frame).unwrap();
    let super_frame = SuperFrame::new(&parsed, header).unwrap();
    assert!(super_frame.is_big());
    let (mut records, mut from) = (Vec::new(), 0);
    for number in 0.. {
        let mut headers = [0; 255];
        let Some(part) = super_frame.part(from, &mut headers) else { break };
        assert!(!part.is_big());
        records.extend(slices(&part, slice, number));
        from += part.payload.len();
    }
    assert_eq!(from, super_frame.payload.len());
    records
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
            let headers = Headers::validate(slice.headers).unwrap();
            frames.push((Run::start(&slice, &headers).unwrap(), slice.headers.to_vec(), slice.payload.to_vec()));
        }
    }
    let finish = |(run, mut headers, payload): (Run, Vec<u8>, Vec<u8>)| {
        let header = Headers::validate(&headers).unwrap().patch(&mut headers, &run);
        headers.extend_from_slice(&payload);
        (header, headers)
    };
    frames.into_iter().map(finish).collect()
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
    fn what_ip_cannot_express_arrives_in_parts(guest in guests_of(65_560..524_000), slice in 256usize..9000) {
        let (frame, header) = (guest.frame(), guest.vnet());
        let expected = reference(&frame, &header, guest.l3(), guest.v6);
        let forms = [Some((frame, header)), guest.v6.then(|| guest.with_jumbo_option())];
        for (frame, header) in forms.into_iter().flatten() {
            let joined = join(&cut_big(&frame, &header, slice));
            prop_assert_eq!(joined.len(), guest.payload.len().div_ceil((65_535 - guest.headers_len()) / usize::from(guest.gso_size) * usize::from(guest.gso_size)));
            let arrived: Vec<_> = joined.iter().flat_map(|(header, frame)| reference(frame, header, guest.l3(), guest.v6)).collect();
            prop_assert_eq!(&arrived, &expected);
        }
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

    /// Its checksum would be written anew: it travels in pieces, and arrives as it was.
    #[test]
    fn a_single_segment_is_not_cut(mut guest in guests(), finished in any::<bool>()) {
        guest.gso_size = 0;
        guest.ecn = false;
        guest.payload.truncate(8900);
        let partial = VnetHeader::plain(Some(vnet::PartialChecksum { start: guest.l4() as u16, offset: 16 }));
        let (frame, header) = if finished {
            (reference(&guest.frame(), &partial, guest.l3(), guest.v6).remove(0), VnetHeader::plain(None))
        } else {
            (guest.frame(), partial)
        };
        prop_assert!(SuperFrame::new(&Frame::parse(&frame).unwrap(), &header).is_none());
    }

    /// A super-frame whose sum is finished is cut only if it is right, or the receiver's host would repair it.
    #[test]
    fn a_finished_super_frame_is_cut_only_with_a_good_checksum(guest in guests(), slice in 256usize..900, spoil: bool) {
        let partial = VnetHeader::plain(Some(vnet::PartialChecksum { start: guest.l4() as u16, offset: 16 }));
        let mut whole = reference(&guest.frame(), &partial, guest.l3(), guest.v6).remove(0);
        if spoil {
            *whole.last_mut().unwrap() ^= 0x55;
        }
        let header = VnetHeader { flags: 0, ..guest.vnet() };
        match cut(&whole, &header, slice, 1) {
            None => prop_assert!(spoil),
            Some(records) => {
                prop_assert!(!spoil);
                let expected = reference(&guest.frame(), &guest.vnet(), guest.l3(), guest.v6);
                let (header, joined) = join(&records).remove(0);
                prop_assert_eq!(reference(&joined, &header, guest.l3(), guest.v6), expected);
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
            let run = Run { number: 0, offset: usize::from(offset), len: 100, gso_size: 50, ecn: true, last: false, transport: valid.transport() };
            valid.patch(&mut headers, &run);
        }
    }

    #[test]
    fn garbage_slices_never_panic(flags: u8, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Slice::parse(flags, &body);
    }
}
