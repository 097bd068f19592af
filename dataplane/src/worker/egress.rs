//! Port to peers: steps (1) to (6).

use std::io;
use std::ops::Range;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use super::Context;
use super::outbox::{Outboxes, Path};
use crate::addr::PeerId;
use crate::circle;
use crate::datagram::fragment::{FRAGMENT_HEADER_LEN, FragmentHeader, MAX_BODY};
use crate::datagram::record::{
    CHECKSUM_FIELD_LEN, ChecksumField, FLAG_CHECKSUM, FRAGMENT, FramePrefix, RECORD_HEADER_LEN, RecordHeader,
};
use crate::datagram::segment::{Headers, MAX_DATAGRAMS as MAX_UDP_SEGMENTS, MAX_HEADERS, Run, SuperFrame, Transport};
use crate::ending::{Ending, bump};
use crate::event::{Event, EventBytes, Notice};
use crate::forward::{self, RateLimit, Verdict};
use crate::raw_ports::RawPorts;
use crate::ring::{BufferPool, Place, Sender};
use crate::wire::ethernet::ethertype;
use crate::wire::ip::{IpLayout, UDP_CSUM_OFFSET, UdpHeader, protocol};
use crate::wire::vnet::{self, PartialChecksum, VNET_HEADER_LEN};
use crate::wire::{Frame, VnetHeader, checksum};

/// Frames up to this size are copied behind their record header: cheaper than one more place to gather from, and
/// a datagram of many small frames stays one piece. Larger ones are gathered from where the kernel put them.
const COPY_MAX: usize = 512;
/// Send slots that one frame to one peer can need: 64 KiB of slices, and the train that was open before.
const SLOTS_PER_FRAME: usize = 4;

/// The direction from the port to the peers.
pub(super) struct Egress {
    outboxes: Outboxes,
    flood: RateLimit,
    /// Number of the next super-frame.
    super_frames: u16,
    /// Number of the next frame that goes out in pieces.
    fragmented: u32,
    /// A frame whose checksum is finished here.
    finished: Box<[u8; 2048]>,
}

/// A frame from the port, parsed and checked.
#[derive(Clone, Copy)]
struct Parcel<'a> {
    frame: Frame<'a>,
    vnet: VnetHeader,
    csum: Option<PartialChecksum>,
    /// The pool buffer that the frame lies in.
    buffer: u16,
    /// Where it begins there.
    at: usize,
}

impl<'a> Parcel<'a> {
    /// Step (2).
    fn parse(pool: &'a BufferPool, place: Place) -> Result<Parcel<'a>, Ending> {
        let Place { buffer, at, len } = place;
        let (vnet, bytes) =
            VnetHeader::read_from_prefix(pool.bytes(buffer, at..at + len)).map_err(|_| Ending::FrameTruncated)?;
        let frame = Frame::parse(bytes).map_err(|_| Ending::FrameTruncated)?;
        let csum = vnet.partial_checksum();
        if csum.is_some_and(|csum| !csum.fits(bytes.len())) {
            return Err(Ending::FrameMetadata);
        }
        Ok(Parcel { frame, vnet, csum, buffer, at: at + VNET_HEADER_LEN })
    }

    /// True for UDP with an unfinished checksum for somebody who reads it raw. Such programs check the sum themselves (that
    /// is why lxc-net has a CHECKSUM rule for port 68), so it is finished before it leaves.
    fn is_read_raw(&self, raw: &RawPorts) -> bool {
        self.csum.is_some_and(|csum| csum.offset == UDP_CSUM_OFFSET)
            && IpLayout::locate(&self.frame).is_some_and(|layout| {
                layout.protocol == protocol::UDP
                    && UdpHeader::ref_from_prefix(&self.frame.bytes[layout.l4..])
                        .is_ok_and(|(udp, _)| raw.either([udp.src_port.get(), udp.dst_port.get()]))
            })
    }
}

impl Egress {
    pub(super) fn new(peers: usize, sources: usize, flood_rate: u64) -> Egress {
        Egress {
            outboxes: Outboxes::new(peers, sources),
            flood: RateLimit::new(flood_rate),
            super_frames: 0,
            fragmented: 0,
            finished: Box::new([0; 2048]),
        }
    }

    /// Handles what one read from the port brought.
    pub(super) fn frame(&mut self, context: &mut Context<'_>, place: Place) -> io::Result<()> {
        let ending = match self.decide(context, place) {
            Verdict::Drop(ending) => ending,
            Verdict::Control => Ending::ToControl,
            Verdict::Peer(peer) => {
                if context.table.get(peer).is_some_and(|view| view.up) {
                    self.post(context, place, peer)?.err().unwrap_or(Ending::ToPeer)
                } else {
                    Ending::PeerDown
                }
            }
            Verdict::AllPeers | Verdict::Flood if context.table.up.is_empty() => Ending::NoPeer,
            Verdict::AllPeers => {
                self.post_to_all(context, place)?;
                Ending::ToAllPeers
            }
            Verdict::Flood if !self.flood.allow(context.now.ms) => Ending::FloodRate,
            Verdict::Flood => {
                self.post_to_all(context, place)?;
                Ending::Flooded
            }
        };
        context.count(ending);
        Ok(())
    }

    /// Steps (2) to (4), and what goes to the control thread.
    fn decide(&mut self, context: &mut Context<'_>, place: Place) -> Verdict {
        let parcel = match Parcel::parse(&context.ring.port_pool, place) {
            Ok(parcel) => parcel,
            Err(ending) => return Verdict::Drop(ending),
        };
        if let Some(peer) = circle::link_of(&parcel.frame, &context.table, context.network) {
            context.news.push(Event::Notice(Notice::Circled(peer)));
            return Verdict::Drop(Ending::OwnDatagram);
        }
        let (verdict, learn) =
            forward::from_port(&context.macs, context.own_mac, context.groups, &parcel.frame, context.now.seconds());
        if let Some(learn) = learn {
            context.news.learn(learn, context.now);
        }
        if verdict == Verdict::Control {
            // Too large for an event, so no ARP and no neighbour's message that anyone would send.
            let Some(bytes) = EventBytes::copy(parcel.frame.bytes) else {
                let arp = parcel.frame.ethertype == ethertype::ARP;
                return Verdict::Drop(if arp { Ending::ArpMalformed } else { Ending::NdMalformed });
            };
            if !context.news.push(Event::Resolution(bytes, parcel.csum.is_some())) {
                return Verdict::Drop(Ending::ControlQueueFull);
            }
        }
        verdict
    }

    fn post_to_all(&mut self, context: &mut Context<'_>, place: Place) -> io::Result<()> {
        for index in 0..context.table.up.len() {
            if let Err(ending) = self.post(context, place, context.table.up[index])? {
                context.count(ending);
            }
        }
        Ok(())
    }

    /// Step (5): appends the frame to a peer's outbox, in one record, in slices, or in pieces.
    fn post(&mut self, context: &mut Context<'_>, place: Place, peer: PeerId) -> io::Result<Result<(), Ending>> {
        let mut from = Some(0);
        while let Some(offset) = from {
            from = match self.post_from(context, place, peer, offset)? {
                Ok(next) => next,
                Err(ending) => return Ok(Err(ending)),
            };
        }
        Ok(Ok(()))
    }

    /// The same from `offset` in the payload of a super-frame on; where the rest begins, if that was not all. A super-frame of
    /// more than 64 KiB goes out in parts.
    fn post_from(
        &mut self,
        context: &mut Context<'_>,
        place: Place,
        peer: PeerId,
        offset: usize,
    ) -> io::Result<Result<Option<usize>, Ending>> {
        if context.ring.free_sends() < SLOTS_PER_FRAME {
            self.flush(context)?;
            context.submit()?;
        }
        let Context { ring, table, stats, lane, network, raw_ports, outer_class, .. } = context;
        let (Some(view), Some(account)) = (table.get(peer), stats.peers.get(peer.index())) else {
            return Ok(Err(Ending::PeerDown));
        };
        let mut sender = ring.sender();
        let parcel = match Parcel::parse(sender.pool, place) {
            Ok(parcel) => parcel,
            Err(ending) => return Ok(Err(ending)),
        };
        let Some(outgoing) = view.outgoing.as_deref() else { return Ok(Err(Ending::PeerDown)) };
        if !outgoing.has_counters(*lane) {
            return Ok(Err(Ending::SessionExhausted));
        }
        // A flow leaves from one socket, or its frames would overtake each other.
        let source = self.outboxes.source(&parcel.frame);
        let class = outer_class.of(&parcel.frame);
        let mut path = Path { view, outgoing, peer, source, class, lane: *lane, network: *network };
        let outcome = self.append(&mut sender, &mut path, &parcel, offset, raw_ports)?;
        // A super-frame counts once.
        if outcome == Ok(None) {
            bump(&account.tx_frames, 1);
            bump(&account.tx_bytes, parcel.frame.bytes.len() as u64);
        }
        Ok(outcome)
    }

    fn append(
        &mut self,
        sender: &mut Sender<'_>,
        path: &mut Path<'_>,
        parcel: &Parcel<'_>,
        from: usize,
        raw: &RawPorts,
    ) -> io::Result<Result<Option<usize>, Ending>> {
        let (bytes, pool) = (parcel.frame.bytes, sender.pool);
        let capacity = path.capacity();
        if parcel.vnet.gso() == vnet::GSO_NONE
            && let Some(prefix) = FramePrefix::new(bytes.len(), parcel.csum)
            && prefix.bytes().len() + bytes.len() <= capacity
        {
            if parcel.is_read_raw(raw) && bytes.len() <= self.finished.len() {
                return Ok(self.append_finished(sender, path, parcel)?.map(|()| None));
            }
            let need = prefix.bytes().len() + bytes.len();
            let Some(slot) = self.outboxes.room(sender, path, need)? else { return Ok(Err(Ending::SendSlots)) };
            slot.frames += 1;
            slot.append_copy(prefix.bytes());
            if bytes.len() <= COPY_MAX {
                slot.append_copy(bytes);
            } else {
                slot.append_buffer(pool, parcel.buffer, parcel.at..parcel.at + bytes.len());
            }
            return Ok(Ok(None));
        }
        let outcome = match SuperFrame::new(&parcel.frame, &parcel.vnet) {
            Some(super_frame) if super_frame.is_big() => {
                return self.append_part(sender, path, parcel, &super_frame, from);
            }
            Some(super_frame) => match super_frame.slice_len(capacity) {
                _ if super_frame.transport == Transport::Udp && parcel.is_read_raw(raw) => {
                    return self.append_datagram(sender, path, parcel, &super_frame, from, true);
                }
                Some(slice) => {
                    let payload_at = parcel.at + super_frame.headers.len();
                    self.append_slices(sender, path, (parcel.buffer, payload_at), &super_frame, slice)?
                }
                None if super_frame.transport == Transport::Udp => {
                    return self.append_datagram(sender, path, parcel, &super_frame, from, false);
                }
                None => Err(Ending::FrameMetadata),
            },
            // A super-frame that is not as we know it cannot be cut, and in pieces it would lose what it is.
            None if parcel.vnet.gso() != vnet::GSO_NONE => Err(Ending::FrameMetadata),
            None => self.append_pieces(sender, path, parcel)?,
        };
        Ok(outcome.map(|()| None))
    }

    fn append_finished(
        &mut self,
        sender: &mut Sender<'_>,
        path: &mut Path<'_>,
        parcel: &Parcel<'_>,
    ) -> io::Result<Result<(), Ending>> {
        let len = parcel.frame.bytes.len();
        self.finished[..len].copy_from_slice(parcel.frame.bytes);
        if let Some(csum) = parcel.csum {
            vnet::finish_checksum(&mut self.finished[..len], csum);
        }
        let Some(prefix) = FramePrefix::new(len, None) else { return Ok(Err(Ending::FrameOversize)) };
        let Some(slot) = self.outboxes.room(sender, path, prefix.bytes().len() + len)? else {
            return Ok(Err(Ending::SendSlots));
        };
        slot.frames += 1;
        slot.append_copy(prefix.bytes());
        slot.append_copy(&self.finished[..len]);
        Ok(Ok(()))
    }

    /// As much of a super-frame of more than 64 KiB as fits a smaller one, from `from` in its payload on. Returns where the
    /// rest begins.
    fn append_part(
        &mut self,
        sender: &mut Sender<'_>,
        path: &mut Path<'_>,
        parcel: &Parcel<'_>,
        super_frame: &SuperFrame<'_>,
        from: usize,
    ) -> io::Result<Result<Option<usize>, Ending>> {
        let mut headers = [0; MAX_HEADERS];
        let part = super_frame.part(from, &mut headers);
        let Some((part, slice)) = part.and_then(|part| Some((part, part.slice_len(path.capacity())?))) else {
            return Ok(Err(Ending::FrameMetadata));
        };
        let payload_at = parcel.at + super_frame.headers.len() + from;
        let outcome = self.append_slices(sender, path, (parcel.buffer, payload_at), &part, slice)?;
        let next = from + part.payload.len();
        Ok(outcome.map(|()| (next < super_frame.payload.len()).then_some(next)))
    }

    /// Slices of equal size, headers copied and payload gathered, so that they leave as one GSO send. The payload lies in a
    /// buffer of the port's pool, from a place there on.
    fn append_slices(
        &mut self,
        sender: &mut Sender<'_>,
        path: &mut Path<'_>,
        (buffer, payload_at): (u16, usize),
        super_frame: &SuperFrame<'_>,
        slice: usize,
    ) -> io::Result<Result<(), Ending>> {
        let (prefix, pool) = (super_frame.prefix_len(), sender.pool);
        let number = self.super_frames;
        self.super_frames = number.wrapping_add(1);
        for offset in (0..super_frame.payload.len()).step_by(slice) {
            let len = slice.min(super_frame.payload.len() - offset);
            let Some(slot) = self.outboxes.room(sender, path, prefix + len)? else { return Ok(Err(Ending::SendSlots)) };
            slot.frames += u64::from(offset == 0);
            super_frame.write_prefix(slot.append_own(prefix), number, offset, len);
            let from = payload_at + offset;
            if len <= COPY_MAX {
                slot.append_copy(&super_frame.payload[offset..offset + len]);
            } else {
                slot.append_buffer(pool, buffer, from..from + len);
            }
        }
        Ok(Ok(()))
    }

    /// The datagram at `from` in the payload of a UDP super-frame as a frame of its own, cut as `__udp_gso_segment()`
    /// (net/ipv4/udp_offload.c) would, in pieces: for a path that one datagram does not fit, and for those who read it raw
    /// (`finish`). Returns where the next one begins.
    fn append_datagram(
        &mut self,
        sender: &mut Sender<'_>,
        path: &mut Path<'_>,
        parcel: &Parcel<'_>,
        super_frame: &SuperFrame<'_>,
        from: usize,
        finish: bool,
    ) -> io::Result<Result<Option<usize>, Ending>> {
        let (total, size) = (super_frame.payload.len(), usize::from(super_frame.gso_size));
        let Ok(layout) = Headers::validate(super_frame.headers) else { return Ok(Err(Ending::FrameMetadata)) };
        // No kernel makes more; one frame must not become tens of thousands.
        if total > MAX_UDP_SEGMENTS * size {
            return Ok(Err(Ending::FrameMetadata));
        }
        let len = size.min(total - from);
        let mut scratch = [0; CHECKSUM_FIELD_LEN + MAX_HEADERS];
        let (field, headers) = scratch.split_at_mut(CHECKSUM_FIELD_LEN);
        let headers = &mut headers[..super_frame.headers.len()];
        headers.copy_from_slice(super_frame.headers);
        let vnet = layout.patch(headers, &Run::datagram(super_frame, from, len));
        let mut own = headers.len();
        let mut flags = 0;
        if let Some(csum) = vnet.partial_checksum() {
            if finish {
                let sum = checksum::add(&super_frame.payload[from..from + len], 0);
                vnet::finish_checksum_with(headers, csum, sum);
            } else {
                field.copy_from_slice(ChecksumField::from(csum).as_bytes());
                (own, flags) = (own + CHECKSUM_FIELD_LEN, FLAG_CHECKSUM);
            }
        }
        let begin = CHECKSUM_FIELD_LEN + super_frame.headers.len() - own;
        let payload_at = parcel.at + super_frame.headers.len() + from;
        let body = Body {
            flags,
            own: &scratch[begin..begin + own],
            buffer: parcel.buffer,
            rest: payload_at..payload_at + len,
        };
        let next = (from + len < total).then_some(from + len);
        Ok(self.append_body(sender, path, body)?.map(|()| next))
    }

    fn append_pieces(
        &mut self,
        sender: &mut Sender<'_>,
        path: &mut Path<'_>,
        parcel: &Parcel<'_>,
    ) -> io::Result<Result<(), Ending>> {
        let csum = parcel.csum.map(ChecksumField::from);
        let own: &[u8] = csum.as_ref().map_or(&[], |field| field.as_bytes());
        let flags = if csum.is_some() { FLAG_CHECKSUM } else { 0 };
        let rest = parcel.at..parcel.at + parcel.frame.bytes.len();
        self.append_body(sender, path, Body { flags, own, buffer: parcel.buffer, rest })
    }

    /// Pieces of what would be the body of a frame record.
    fn append_body(
        &mut self,
        sender: &mut Sender<'_>,
        path: &mut Path<'_>,
        body: Body<'_>,
    ) -> io::Result<Result<(), Ending>> {
        const PREFIX: usize = RECORD_HEADER_LEN + FRAGMENT_HEADER_LEN;
        let Body { flags, own: head, buffer, rest } = body;
        let pool = sender.pool;
        let total = head.len() + rest.len();
        let most = path.capacity() - PREFIX;
        if total > MAX_BODY || head.len() > most {
            return Ok(Err(Ending::FrameOversize));
        }
        let number = self.fragmented;
        self.fragmented = number.wrapping_add(1);
        // The first piece fills the datagram that is open: so all are full, and leave as one train. Less than an eighth of a
        // datagram is left to padding.
        let left = self.outboxes.left(path).saturating_sub(PREFIX);
        let mut piece = if left > head.len().max(most / 8) { left } else { most };
        let mut offset = 0;
        while offset < total {
            let len = piece.min(total - offset);
            piece = most;
            let Some(slot) = self.outboxes.room(sender, path, PREFIX + len)? else { return Ok(Err(Ending::SendSlots)) };
            slot.frames += u64::from(offset == 0);
            let record = RecordHeader { kind: FRAGMENT, flags, len: U16::new((FRAGMENT_HEADER_LEN + len) as u16) };
            let fragment = FragmentHeader {
                number: U32::new(number),
                total: U32::new(total as u32),
                offset: U32::new(offset as u32),
            };
            slot.append_copy(record.as_bytes());
            slot.append_copy(fragment.as_bytes());
            // What is not in the buffer lies in the first piece.
            let own = if offset == 0 { head.len() } else { 0 };
            slot.append_copy(&head[..own]);
            let from = rest.start + offset + own - head.len();
            slot.append_buffer(pool, buffer, from..from + len - own);
            offset += len;
        }
        Ok(Ok(()))
    }

    /// Step (6): sends what the outboxes hold.
    pub(super) fn flush(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.outboxes.flush(context)
    }
}

/// The body of a frame record that goes out in pieces: octets of our own, then the rest of what lies in a pool buffer.
struct Body<'a> {
    flags: u8,
    own: &'a [u8],
    buffer: u16,
    rest: Range<usize>,
}
