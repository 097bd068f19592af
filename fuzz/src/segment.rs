//! Super-frames: slices of them that came from a peer, cutting and joining, datagrams that are merged.

use ipop_dataplane::datagram::record::{self, Records, SEGMENT};
use ipop_dataplane::datagram::segment::{Headers, Run, Slice, SuperFrame, Transport};
use ipop_dataplane::merge::UdpRun;
use ipop_dataplane::raw_ports::RawPorts;
use ipop_dataplane::wire::ip::IpLayout;
use ipop_dataplane::wire::{Frame, VnetHeader, checksum, vnet};

use crate::Input;
use crate::reference::udp::{Datagram, Oddity, Sum, datagrams, set_id};
use crate::reference::{Guest, reference};

/// Slices from a peer that means harm, as records: each frame for the port is one that the kernel can believe.
pub fn slices(data: &[u8]) -> bool {
    let slices = Records::new(data).map_while(Result::ok).filter_map(|record| Slice::parse(record.flags, record.body));
    let frames = join(slices);
    for (header, frame) in &frames {
        check(header, frame);
        let parsed = Frame::parse(frame).expect("it has been checked");
        if let Some(super_frame) = SuperFrame::new(&parsed, header) {
            cut_and_join(&super_frame, 1400);
        }
    }
    !frames.is_empty()
}

/// Joins as the worker does: what cannot be believed is left out, neighbours become one frame.
fn join<'a>(slices: impl Iterator<Item = Slice<'a>>) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut joined: Vec<(Run, Headers, Vec<u8>, Vec<u8>)> = Vec::new();
    for slice in slices {
        if let Some((run, _, headers, payload)) = joined.last_mut()
            && headers == slice.headers
            && run.extend(&slice, headers.len())
        {
            payload.extend_from_slice(slice.payload);
        } else if let Ok(headers) = Headers::validate(slice.headers)
            && let Some(run) = Run::start(&slice, &headers)
        {
            joined.push((run, headers, slice.headers.to_vec(), slice.payload.to_vec()));
        }
    }
    let patch = |(run, layout, mut octets, payload): (Run, Headers, Vec<u8>, Vec<u8>)| {
        assert_eq!(run.len, payload.len());
        let header = layout.patch(&mut octets, &run);
        octets.extend_from_slice(&payload);
        (header, octets)
    };
    joined.into_iter().map(patch).collect()
}

/// Lengths and sums are right, and the header for the port says what the frame is.
fn check(header: &VnetHeader, frame: &[u8]) {
    let parsed = Frame::parse(frame).expect("Ethernet");
    let layout = IpLayout::locate(&parsed).expect("a whole IP packet");
    assert_eq!(layout.end, frame.len(), "nothing behind the packet");
    let csum = header.partial_checksum().expect("a sum to finish");
    assert!(csum.fits(frame.len()) && usize::from(csum.start) == layout.l4);
    let field = layout.l4 + usize::from(csum.offset);
    let stored = u16::from_be_bytes([frame[field], frame[field + 1]]);
    assert_eq!(stored, checksum::fold(layout.pseudo_header(frame.len() - layout.l4)));
    if layout.src.is_ipv4() {
        let end = parsed.l3 + usize::from(frame[parsed.l3] & 15) * 4;
        assert_eq!(checksum::fold(checksum::add(&frame[parsed.l3..end], 0)), 0xffff);
    }
    let headers = usize::from(header.hdr_len.get());
    assert!(headers < frame.len() && headers > layout.l4);
    match header.gso() {
        vnet::GSO_NONE => {}
        vnet::GSO_UDP_L4 => {
            let size = usize::from(header.gso_size.get());
            assert!(size < frame.len() - headers && frame.len() - headers <= 128 * size);
        }
        _ => assert!(header.gso_size.get() >= 48 && frame.len() - headers > usize::from(header.gso_size.get())),
    }
}

/// Cuts as a sender does; a receiver takes every slice, and has the payload again.
pub(crate) fn cut_and_join(super_frame: &SuperFrame<'_>, capacity: usize) {
    let Some(size) = super_frame.slice_len(capacity) else { return };
    // A guest's kernel makes no smaller segments, and a receiver takes none.
    if super_frame.transport == Transport::Tcp && (1..48).contains(&super_frame.gso_size) {
        return;
    }
    let records = records(super_frame, size, |_| false);
    let slices: Vec<_> = records.iter().map(|record| slice(record)).collect();
    let joined: Vec<u8> = slices.iter().flat_map(|slice| slice.payload).copied().collect();
    assert_eq!(joined, super_frame.payload);
    let frames = join(slices.into_iter());
    let headers = super_frame.headers.len();
    let arrived: Vec<u8> = frames.iter().flat_map(|(_, frame)| &frame[headers..]).copied().collect();
    assert_eq!(arrived, super_frame.payload, "a receiver refuses what a sender cuts");
    frames.iter().for_each(|(header, frame)| check(header, frame));
}

fn records(super_frame: &SuperFrame<'_>, size: usize, lost: impl Fn(usize) -> bool) -> Vec<Vec<u8>> {
    let offsets = (0..super_frame.payload.len()).step_by(size).enumerate().filter(|(index, _)| !lost(*index));
    let record = |(_, offset): (usize, usize)| {
        let payload = &super_frame.payload[offset..super_frame.payload.len().min(offset + size)];
        let mut record = vec![0; super_frame.prefix_len()];
        super_frame.write_prefix(&mut record, 7, offset, payload.len());
        record.extend_from_slice(payload);
        record
    };
    offsets.map(record).collect()
}

fn slice(record: &[u8]) -> Slice<'_> {
    let record = Records::new(record).next().expect("one record").expect("a whole one");
    assert_eq!(record.kind, SEGMENT);
    Slice::parse(record.flags, record.body).expect("a slice")
}

/// The segment records that a sender makes of a super-frame, where a slice may have `size` octets of payload.
pub fn cut_into_records(frame: &[u8], header: &VnetHeader, size: usize) -> Vec<u8> {
    let parsed = Frame::parse(frame).expect("a guest's frame");
    records(&SuperFrame::new(&parsed, header).expect("a super-frame"), size, |_| false).concat()
}

/// A super-frame that the input describes, cut, some of it lost, joined and segmented: the segments are those of the
/// original, byte for byte if nothing was lost.
pub fn cut(data: &[u8]) -> bool {
    let mut input = Input(data);
    let [kind, flags, words] = input.array();
    let (gso_size, capacity, lost) = (input.u16().clamp(200, 9000), usize::from(input.u16()), input.u16());
    let (len, number) = (usize::from(input.u16()).clamp(1, 60_000), input.u16());
    let payload: Vec<u8> = if input.0.is_empty() {
        (0..len).map(|at| at as u8).collect()
    } else {
        input.0.iter().copied().cycle().take(len).collect()
    };
    let (v6, tags) = (kind & 1 != 0, usize::from(kind >> 1 & 3).min(2));
    let lost = |index: usize| lost >> (index % 16) & 1 != 0;
    if kind & 8 != 0 {
        udp(v6, tags, number, gso_size, capacity, payload)
    } else {
        let guest = Guest {
            v6,
            tags,
            option_words: usize::from(words % 11),
            // SYN and RST are never cut, URG is a super-frame's as it is.
            flags: flags & !0x06,
            seq: u32::from(number) << 16 | 0xfff0,
            ip_id: number,
            gso_size,
            ecn: flags & 0x80 != 0,
            payload,
        };
        tcp(&guest, capacity, lost)
    }
}

fn tcp(guest: &Guest, capacity: usize, lost: impl Fn(usize) -> bool) -> bool {
    let (frame, header) = (guest.frame(), guest.vnet());
    let parsed = Frame::parse(&frame).expect("a guest's frame");
    let super_frame = SuperFrame::new(&parsed, &header).expect("a super-frame");
    let Some(size) = super_frame.slice_len(capacity) else { return false };
    let expected = reference(&frame, &header, guest.l3(), guest.v6);
    let whole = records(&super_frame, size, |_| false);
    let joined = join(whole.iter().map(|record| slice(record)));
    assert_eq!(joined.len(), 1);
    assert_eq!(reference(&joined[0].1, &joined[0].0, guest.l3(), guest.v6), expected);
    // With some lost, what arrives is what was sent, in its place.
    let kept = records(&super_frame, size, lost);
    let (l4, headers) = (guest.l4(), guest.headers_len());
    for (header, joined) in join(kept.iter().map(|record| slice(record))) {
        check(&header, &joined);
        for segment in reference(&joined, &header, guest.l3(), guest.v6) {
            let seq = u32::from_be_bytes([segment[l4 + 4], segment[l4 + 5], segment[l4 + 6], segment[l4 + 7]]);
            let offset = seq.wrapping_sub(guest.seq) as usize;
            assert_eq!(segment[headers..], guest.payload[offset..offset + segment.len() - headers]);
        }
    }
    true
}

fn udp(v6: bool, tags: usize, id: u16, gso_size: u16, capacity: usize, payload: Vec<u8>) -> bool {
    let gso_size = gso_size.min((payload.len() / 2).max(1) as u16);
    let guest = Datagram {
        v6,
        tags,
        ports: [40_000, 5001],
        id,
        dont_fragment: id & 1 != 0,
        tos: 0,
        ttl: 64,
        sum: Sum::Partial,
        oddity: Oddity::None,
        payload,
        gso_size,
    };
    if guest.payload.len() <= usize::from(gso_size) {
        return false;
    }
    let (frame, header) = (guest.frame(), guest.vnet());
    let parsed = Frame::parse(&frame).expect("a guest's frame");
    let super_frame = SuperFrame::new(&parsed, &header).expect("a super-frame");
    let Some(size) = super_frame.slice_len(capacity) else { return false };
    let records = records(&super_frame, size, |_| false);
    let joined = join(records.iter().map(|record| slice(record)));
    let arrived: Vec<_> = joined.iter().flat_map(|(header, frame)| datagrams(frame, header)).collect();
    assert_eq!(arrived, datagrams(&frame, &header));
    true
}

/// A frame and its unfinished checksum.
type Member<'a> = (Option<vnet::PartialChecksum>, &'a [u8]);

/// Frame records: those that are merged are cut into the same frames again.
pub fn merge(data: &[u8]) -> bool {
    let frames = Records::new(data).map_while(Result::ok).filter_map(|r| record::parse_frame(r.flags, r.body).ok());
    let raw = RawPorts::default();
    let mut run: Option<(UdpRun, Vec<Member<'_>>)> = None;
    let mut merged = false;
    for (csum, frame) in frames {
        if let Some((run, members)) = &mut run
            && run.extend(members[0].1, frame, csum)
        {
            members.push((csum, frame));
            continue;
        }
        merged |= run.take().is_some_and(|(run, members)| same_frames(&run, &members));
        let parsed = Frame::parse(frame).ok();
        run = parsed.and_then(|parsed| UdpRun::start(&parsed, csum, &raw)).map(|run| (run, vec![(csum, frame)]));
    }
    merged | run.is_some_and(|(run, members)| same_frames(&run, &members))
}

fn same_frames(run: &UdpRun, members: &[Member<'_>]) -> bool {
    assert_eq!(run.frames(), members.len());
    if members.len() == 1 {
        return false;
    }
    let headers = run.header_len();
    let mut joined = members[0].1[..headers].to_vec();
    let header = run.patch(&mut joined);
    members.iter().for_each(|(_, frame)| joined.extend_from_slice(&frame[headers..]));
    let l3 = Frame::parse(&joined).expect("Ethernet").l3;
    let v4 = joined[l3 - 2..l3] == [8, 0];
    let cut = datagrams(&joined, &header);
    assert_eq!(cut.len(), members.len());
    for (mut cut, (csum, frame)) in cut.into_iter().zip(members) {
        let mut before = datagrams(frame, &VnetHeader::plain(*csum)).remove(0);
        if v4 {
            // The identification of an atomic datagram means nothing (RFC 6864, 4.1). A header's sum of 0 and of 0xffff
            // say the same, and both are written anew here.
            let atomic = before[l3 + 6] & 0x40 != 0;
            let id = |frame: &[u8]| if atomic { 0 } else { u16::from_be_bytes([frame[l3 + 4], frame[l3 + 5]]) };
            let ids = [id(&before), id(&cut)];
            set_id(&mut before, l3, ids[0]);
            set_id(&mut cut, l3, ids[1]);
        }
        assert_eq!(cut, before);
    }
    true
}
