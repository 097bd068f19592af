//! Peers to port: steps (7) to (12).

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use zerocopy::IntoBytes;

use super::handshakes::Handshakes;
use super::pieces::{Found, Pieces, Put};
use super::{Context, News, ROUND, WorkerStats};
use crate::addr::PeerId;
use crate::claims::{Claims, sum_is_harmless};
use crate::datagram::fragment::{Outcome, Sender};
use crate::datagram::record::{self, RECORD_HEADER_LEN, Records};
use crate::datagram::segment::{Headers, Run, Slice, Transport};
use crate::datagram::{DATA, DATA_ASIDE, DATAGRAM_HEADER_LEN, DatagramHeader, HELLO, INITIATION};
use crate::ending::{Ending, bump};
use crate::event::{Event, EventBytes, Events, Foreign, Notice};
use crate::forward::{self, GroupMask, RateLimit};
use crate::mac_table::MacTable;
use crate::merge::UdpRun;
use crate::peers::{PeerTable, same_address};
use crate::ring::{Place, SlotId, Writer};
use crate::session::Freshness;
use crate::wire::traffic_class;
use crate::wire::vnet::{PartialChecksum, VNET_HEADER_LEN};
use crate::wire::{Frame, VnetHeader};

/// Write slots that one record can need: the joined run before it, and itself.
const SLOTS_PER_RECORD: usize = 2;
/// News of a peer that has moved, per second: each one changes the workers' tables. Each worker has its own, because
/// datagrams that are played again elsewhere come to another worker, and must not keep the peer from being moved back.
const ROAMING_RATE: u64 = 4;

/// The direction from the peers to the port.
pub(super) struct Ingress {
    pieces: Pieces,
    join: Option<Join>,
    /// Frames since the worker last submitted; those of a super-frame, which is one write, are one.
    frames: usize,
    round_is_over: bool,
    handshakes: Handshakes,
    /// For each peer.
    roaming: Vec<RateLimit>,
}

/// A super-frame that is being joined in its write slot.
struct Join {
    slot: SlotId,
    peer: PeerId,
    /// Super-frames are numbered by lane.
    lane: u8,
    of: Joined,
}

/// What a super-frame is joined of.
enum Joined {
    /// Slices that a peer made of one.
    Slices { run: Run, headers: Headers, header_len: usize },
    /// UDP datagrams that came one by one. Where the first one lies; until a second joins it, it is written as it is.
    Datagrams { run: UdpRun, buffer: u16, first: Range<usize> },
}

/// Where the record at hand comes from.
#[derive(Clone, Copy)]
struct Origin {
    peer: PeerId,
    lane: u8,
    buffer: u16,
    /// The traffic class of the datagram.
    class: u8,
}

impl Ingress {
    pub(super) fn new(peers: usize, workers: usize) -> Ingress {
        Ingress {
            pieces: Pieces::default(),
            join: None,
            frames: 0,
            round_is_over: false,
            handshakes: Handshakes::new(peers, workers),
            roaming: (0..peers).map(|_| RateLimit::new(ROAMING_RATE)).collect(),
        }
    }

    /// Begins to count frames.
    pub(super) fn begin_round(&mut self) {
        (self.frames, self.round_is_over) = (0, false);
    }

    /// True if there were enough of them.
    pub(super) fn round_is_over(&self) -> bool {
        self.round_is_over || self.frames >= ROUND
    }

    /// Handles what one receive brought: datagrams of equal size from one address.
    pub(super) fn train(&mut self, context: &mut Context<'_>, place: Place) -> io::Result<()> {
        let buffer = place.buffer;
        // A datagram may be empty.
        let Some(train) = context.ring.train(place).filter(|train| !train.range.is_empty()) else {
            context.count(Ending::DatagramTruncated);
            return Ok(());
        };
        let mut at = train.range.start;
        while at < train.range.end {
            let end = (at + train.segment).min(train.range.end);
            match self.open(context, (buffer, train.class), at..end, train.from) {
                Ok(Some((origin, records))) => self.records(context, origin, at + DATAGRAM_HEADER_LEN..records)?,
                Ok(None) => {}
                Err(ending) => context.count(ending),
            }
            at = end;
        }
        self.interrupt_pieces(context);
        Ok(())
    }

    /// Step (8): whose datagram it is, whether it is authentic and new, and where its records end. `None` if it has been
    /// handled.
    fn open(
        &mut self,
        context: &mut Context<'_>,
        (buffer, class): (u16, u8),
        range: Range<usize>,
        from: SocketAddr,
    ) -> Result<Option<(Origin, usize)>, Ending> {
        let start = range.start;
        let datagram = context.ring.underlay_pool.bytes_mut(buffer, range);
        let header = match DatagramHeader::parse(datagram, context.network) {
            Ok((header, _)) => header,
            Err(ending) => {
                let foreign = foreign(ending, datagram);
                self.tell_foreign(context, foreign, from);
                return Err(ending);
            }
        };
        if !matches!(header.kind(), DATA | DATA_ASIDE) {
            let (table, news) = (&context.table, &mut context.news);
            let result = self.handshake(table, news, context.now.ms, &header, datagram, from);
            if result == Err(Ending::HandshakeStamp) {
                self.tell_foreign(context, Some(Foreign::Key), from);
            }
            return result.map(|()| None);
        }
        let (peer, incoming) = context.table.sender(&header, from)?;
        let (freshness, end) = incoming.open(&header, datagram)?;
        if let Some(account) = context.stats.peers.get(peer.index()) {
            bump(&account.rx_datagrams, 1);
        }
        if incoming.is_sealed() {
            // Until it is told: while the queue is full the peer would be left waiting for an answer in its new session.
            if incoming.is_unused() && context.news.push(Event::Notice(Notice::SessionUsed(peer, incoming.session()))) {
                incoming.set_used();
            }
            // A late one may still come from where the peer was, and one from aside does not tell.
            if freshness == Freshness::Newest
                && header.kind() == DATA
                && context.table.get(peer).is_some_and(|view| !same_address(view.address, from))
                && self.roaming.get_mut(peer.index()).is_some_and(|limit| limit.allow(context.now.ms))
            {
                context.news.push(Event::Notice(Notice::Roamed(peer, incoming.session(), from)));
            }
        }
        Ok(Some((Origin { peer, lane: header.lane(), buffer, class }, start + end)))
    }

    /// Somebody wants to open a session, but not with this gateway: the control thread says so, of each peer once a second.
    fn tell_foreign(&mut self, context: &mut Context<'_>, foreign: Option<Foreign>, from: SocketAddr) {
        if let Some(foreign) = foreign
            // Whoever is no peer, and uses another key, may have meant anybody.
            && self.handshakes.may_tell(&context.table, from, foreign != Foreign::Key, context.now.ms)
        {
            context.news.push(Event::Notice(Notice::Foreign(from, foreign)));
        }
    }

    /// What opens sessions goes to the control thread, if it is for this gateway and not too much.
    fn handshake(
        &mut self,
        table: &PeerTable,
        news: &mut News,
        now_ms: u64,
        header: &DatagramHeader,
        datagram: &[u8],
        from: SocketAddr,
    ) -> Result<(), Ending> {
        let datagram = self.handshakes.admit(table, header.kind(), datagram, from, now_ms)?;
        let body = datagram.get(DATAGRAM_HEADER_LEN..).and_then(EventBytes::copy).ok_or(Ending::HandshakeRefused)?;
        let event = Event::Handshake { from, kind: header.kind(), session: header.session.get(), body };
        if news.push(event) { Ok(()) } else { Err(Ending::ControlQueueFull) }
    }

    /// Step (9). Offsets instead of slices, because making room for a write may hand buffers back to the kernel.
    fn records(&mut self, context: &mut Context<'_>, origin: Origin, range: Range<usize>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            if self.frames >= ROUND {
                self.end_round(context)?;
            }
            if context.ring.free_writes() < SLOTS_PER_RECORD {
                context.submit()?;
            }
            let bytes = context.ring.underlay_pool.bytes(origin.buffer, at..range.end);
            let record = match Records::new(bytes).next() {
                Some(Ok(record)) => record,
                Some(Err(ending)) => {
                    context.count(ending);
                    return Ok(());
                }
                None => return Ok(()),
            };
            let body_at = at + RECORD_HEADER_LEN;
            at = body_at + record.body.len();
            let (kind, flags) = (record.kind, record.flags);
            if !matches!(kind, record::FRAGMENT | record::PAD) {
                self.interrupt_pieces(context);
            }
            let outcome = match kind {
                record::PAD => Ok(()),
                record::FRAME => self.frame(context, origin, flags, body_at..at)?,
                record::SEGMENT => self.segment(context, origin, flags, body_at..at)?,
                record::FRAGMENT => self.fragment(context, origin, flags, body_at..at)?,
                record::CONTROL => {
                    message(&context.events, &mut context.news, origin.peer, record.body, context.now.ms)
                }
                _ => Err(Ending::RecordType),
            };
            if let Err(ending) = outcome {
                context.count(ending);
            }
        }
        Ok(())
    }

    /// So many frames have come that what they have led to leaves now, also in the middle of a train. Of a super-frame, of
    /// which more may come, nothing is written yet.
    fn end_round(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.join.as_ref().is_some_and(|join| matches!(join.of, Joined::Datagrams { .. })) {
            finish(&mut self.join, context)?;
        }
        (self.frames, self.round_is_over) = (0, true);
        context.submit()
    }

    fn frame(
        &mut self,
        context: &mut Context<'_>,
        origin: Origin,
        flags: u8,
        range: Range<usize>,
    ) -> io::Result<Result<(), Ending>> {
        if let Err(ending) = take_mark(context, origin, |bytes| record::frame_in(flags, bytes), range.clone()) {
            return Ok(Err(ending));
        }
        let writer = context.ring.writer();
        let body = writer.pool.bytes(origin.buffer, range.clone());
        let (csum, frame) = match record::parse_frame(flags, body) {
            Ok(parsed) => parsed,
            Err(ending) => return Ok(Err(ending)),
        };
        let frame_at = range.end - frame.len();
        self.frames += 1;
        if let Some(join) = &mut self.join
            && join.merge(writer, origin, frame_at..range.end, csum)
        {
            return Ok(Ok(()));
        }
        if let Err(ending) = check(context, origin.peer, frame_at..range.end, origin.buffer, csum) {
            let held = ending == Ending::SourceIsLocal && self.hold(context, origin, frame_at..range.end, csum);
            return Ok(Err(if held { Ending::Held } else { ending }));
        }
        let frame = context.ring.underlay_pool.bytes(origin.buffer, frame_at..range.end);
        if !context.largest.holds(frame, frame.len()) {
            return Ok(Err(Ending::PortTooBig));
        }
        finish(&mut self.join, context)?;
        let mut writer = context.ring.writer();
        let Some(id) = writer.slots.take() else { return Ok(Err(Ending::WriteSlots)) };
        let slot = writer.slots.get(&id);
        slot.peer = origin.peer;
        slot.begin(VNET_HEADER_LEN).copy_from_slice(VnetHeader::plain(csum).as_bytes());
        slot.append_buffer(writer.pool, origin.buffer, frame_at..range.end);
        if context.offloads.udp_merge
            && let Ok(frame) = Frame::parse(writer.pool.bytes(origin.buffer, frame_at..range.end))
            && let Some(run) = UdpRun::start(&frame, csum, &context.raw_ports)
        {
            let of = Joined::Datagrams { run, buffer: origin.buffer, first: frame_at..range.end };
            self.join = Some(Join { slot: id, peer: origin.peer, lane: origin.lane, of });
            return Ok(Ok(()));
        }
        writer.write(id)?;
        Ok(Ok(()))
    }

    /// The first frames of a container that has moved here from us can be faster than the news of the move. So a few
    /// frames whose source seems to be on this side go to the control thread, which knows a moment later.
    fn hold(
        &self,
        context: &mut Context<'_>,
        origin: Origin,
        range: Range<usize>,
        csum: Option<PartialChecksum>,
    ) -> bool {
        let frame = EventBytes::copy(context.ring.underlay_pool.bytes(origin.buffer, range));
        frame.is_some_and(|frame| {
            context.events.may_hold(origin.peer, context.now.ms)
                && context.news.push(Event::Held(origin.peer, frame, csum))
        })
    }

    /// Step (11).
    fn segment(
        &mut self,
        context: &mut Context<'_>,
        origin: Origin,
        flags: u8,
        range: Range<usize>,
    ) -> io::Result<Result<(), Ending>> {
        if let Err(ending) = take_mark(context, origin, |bytes| Slice::headers_in(flags, bytes), range.clone()) {
            return Ok(Err(ending));
        }
        let writer = context.ring.writer();
        let Some(slice) = Slice::parse(flags, writer.pool.bytes(origin.buffer, range.clone())) else {
            return Ok(Err(Ending::SegmentMalformed));
        };
        let header_len = slice.headers.len();
        let payload_at = range.end - slice.payload.len();
        if let Some(join) = &mut self.join
            && (join.peer, join.lane) == (origin.peer, origin.lane)
            && let Joined::Slices { run, header_len, .. } = &mut join.of
        {
            let slot = writer.slots.get(&join.slot);
            // Equal headers are one flow, whatever the sender says: nothing is ever joined across flows.
            let same = slot.own().get(VNET_HEADER_LEN..) == Some(slice.headers);
            // Of a stream there is no telling how many segments it is.
            let few = run.transport == Transport::Tcp
                || run.len + slice.payload.len() <= context.offloads.max_datagrams * usize::from(run.gso_size);
            if same && few && slot.has_room() && run.extend(&slice, *header_len) {
                slot.append_buffer(writer.pool, origin.buffer, payload_at..range.end);
                return Ok(Ok(()));
            }
        }
        let Ok(headers) = Headers::validate(slice.headers) else { return Ok(Err(Ending::SegmentMalformed)) };
        let Some(run) = Run::start(&slice, &headers) else { return Ok(Err(Ending::SegmentMalformed)) };
        let headers_range = payload_at - header_len..payload_at;
        let raw = headers.transport() == Transport::Udp && context.raw_ports.either(headers.ports(slice.headers));
        // Where its sum is to stand is our own finding.
        if let Err(ending) = check(context, origin.peer, headers_range.clone(), origin.buffer, None) {
            return Ok(Err(ending));
        }
        finish(&mut self.join, context)?;
        self.frames += 1;
        if headers.transport() == Transport::Udp
            && (raw || !context.offloads.uso || run.datagrams() > context.offloads.max_datagrams)
        {
            self.frames += run.datagrams() - 1;
            return write_datagrams(context, origin, &headers, &run, headers_range.start..range.end);
        }
        let writer = context.ring.writer();
        let Some(slot_id) = writer.slots.take() else { return Ok(Err(Ending::WriteSlots)) };
        let slot = writer.slots.get(&slot_id);
        slot.peer = origin.peer;
        slot.begin(VNET_HEADER_LEN + header_len)[VNET_HEADER_LEN..]
            .copy_from_slice(writer.pool.bytes(origin.buffer, headers_range));
        slot.append_buffer(writer.pool, origin.buffer, payload_at..range.end);
        let of = Joined::Slices { run, headers, header_len };
        self.join = Some(Join { slot: slot_id, peer: origin.peer, lane: origin.lane, of });
        Ok(Ok(()))
    }

    fn fragment(
        &mut self,
        context: &mut Context<'_>,
        origin: Origin,
        flags: u8,
        range: Range<usize>,
    ) -> io::Result<Result<(), Ending>> {
        let now_ms = context.now.ms;
        let timed_out = self.pieces.expire(now_ms);
        context.stats.counters.add(Ending::FragmentTimeout, timed_out as u64);
        let sender = Sender { peer: origin.peer, lane: origin.lane };
        let found = Found { sender, flags, buffer: origin.buffer, range };
        let (put, evicted) = self.pieces.add(&mut context.ring.underlay_pool, found, now_ms);
        context.stats.counters.add(Ending::FragmentEvicted, evicted);
        let (flags, body) = match put {
            Put::InPlace(flags, range) => return self.frame(context, origin, flags, range),
            Put::Table(Outcome::Complete(flags, body)) => (flags, body),
            Put::Table(Outcome::Stored) => return Ok(Ok(())),
            Put::Table(Outcome::Duplicate) => return Ok(Err(Ending::Replayed)),
            Put::Table(Outcome::Malformed) => return Ok(Err(Ending::FragmentMalformed)),
        };
        // What came before this frame is written before it.
        finish(&mut self.join, context)?;
        context.submit()?;
        self.frames += 1;
        // Its memory cannot be changed any more, and a drop says the same as the mark (RFC 3168, section 5.3).
        if traffic_class::is_congestion(origin.class) {
            return Ok(Err(Ending::CongestionUnmarked));
        }
        let (csum, bytes) = match record::parse_frame(flags, body) {
            Ok(parsed) => parsed,
            Err(ending) => return Ok(Err(ending)),
        };
        let Context { macs, claims, groups, news, now, .. } = context;
        let verdict = check_frame((macs, claims, *groups), news, *now, origin.peer, bytes, csum);
        Ok(verdict.and_then(|()| {
            if context.largest.holds(bytes, bytes.len()) {
                write_now(context, origin.peer, csum, bytes)
            } else {
                Err(Ending::PortTooBig)
            }
        }))
    }

    /// What has begun to come in pieces must wait for the rest elsewhere.
    fn interrupt_pieces(&mut self, context: &Context<'_>) {
        let evicted = self.pieces.interrupt(&context.ring.underlay_pool, context.now.ms);
        context.stats.counters.add(Ending::FragmentEvicted, evicted);
    }

    /// True if the rest of a super-frame is still to come.
    pub(super) fn is_unfinished(&self) -> bool {
        self.join.as_ref().is_some_and(|join| matches!(&join.of, Joined::Slices { run, .. } if !run.last))
    }

    /// Step (12): the writes leave with the worker's next submission; what was being joined is complete now.
    pub(super) fn flush(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        finish(&mut self.join, context)
    }
}

/// A message of a peer goes to the control thread, within what the peer may say to all workers together.
fn message(events: &Events, news: &mut News, peer: PeerId, body: &[u8], now_ms: u64) -> Result<(), Ending> {
    let budget = events.budget(peer).ok_or(Ending::SessionUnknown)?;
    let ending = if !events.may_send_message(peer, now_ms) {
        Ending::RpcRate
    } else if !news.push(Event::Message(peer, EventBytes::copy(body).ok_or(Ending::RpcRefused)?)) {
        Ending::ControlQueueFull
    } else {
        return Ok(());
    };
    budget.drop_message();
    Err(ending)
}

/// Queues the super-frame that is being joined.
fn finish(join: &mut Option<Join>, context: &mut Context<'_>) -> io::Result<()> {
    let Some(join) = join.take() else { return Ok(()) };
    let largest = context.largest;
    let mut writer = context.ring.writer();
    let slot = writer.slots.get(&join.slot);
    let (vnet, headers) = slot.own().split_at_mut(VNET_HEADER_LEN);
    match &join.of {
        Joined::Slices { run, header_len, .. } if !largest.holds(headers, header_len + run.largest()) => {
            context.ring.forget_write(join.slot);
            context.count(Ending::PortTooBig);
            return Ok(());
        }
        Joined::Slices { run, headers: layout, .. } => {
            vnet.copy_from_slice(layout.patch(headers, run).as_bytes());
        }
        Joined::Datagrams { run, .. } if run.frames() > 1 => {
            vnet.copy_from_slice(run.patch(headers).as_bytes());
            slot.merged(run.frames() as u64 - 1, run.header_len());
        }
        Joined::Datagrams { .. } => {}
    }
    writer.write(join.slot)
}

impl Join {
    /// Step (11) for a frame that came whole: takes it in if it is the next datagram of the flow that is being joined.
    fn merge(
        &mut self,
        writer: Writer<'_>,
        origin: Origin,
        range: Range<usize>,
        csum: Option<PartialChecksum>,
    ) -> bool {
        let Joined::Datagrams { run, buffer, first } = &mut self.of else { return false };
        let slot = writer.slots.get(&self.slot);
        let first_frame = writer.pool.bytes(*buffer, first.clone());
        let frame = writer.pool.bytes(origin.buffer, range.clone());
        let next = (self.peer, self.lane) == (origin.peer, origin.lane)
            && slot.has_room()
            && run.extend(first_frame, frame, csum);
        if next {
            let headers = run.header_len();
            if run.frames() == 2 {
                // From here on the headers are our own, to be patched.
                slot.begin(VNET_HEADER_LEN + headers)[VNET_HEADER_LEN..].copy_from_slice(&first_frame[..headers]);
                slot.append_buffer(writer.pool, *buffer, first.start + headers..first.end);
            }
            slot.append_buffer(writer.pool, origin.buffer, range.start + headers..range.end);
        }
        next
    }
}

/// Step (12) for a slice of UDP that must not be a super-frame at the port: its datagrams, one by one. `range` has the headers
/// and the payload.
fn write_datagrams(
    context: &mut Context<'_>,
    origin: Origin,
    headers: &Headers,
    run: &Run,
    range: Range<usize>,
) -> io::Result<Result<(), Ending>> {
    let payload_at = range.end - run.len;
    let size = usize::from(run.gso_size).max(1);
    let header_len = payload_at - range.start;
    let begin = context.ring.underlay_pool.bytes(origin.buffer, range.start..payload_at);
    if !context.largest.holds(begin, header_len + run.largest()) {
        return Ok(Err(Ending::PortTooBig));
    }
    for offset in (0..run.len).step_by(size) {
        if context.ring.free_writes() == 0 {
            context.submit()?;
        }
        let mut writer = context.ring.writer();
        let Some(id) = writer.slots.take() else {
            context.count(Ending::WriteSlots);
            continue;
        };
        let slot = writer.slots.get(&id);
        slot.peer = origin.peer;
        let own = slot.begin(VNET_HEADER_LEN + header_len);
        let (vnet, own) = own.split_at_mut(VNET_HEADER_LEN);
        own.copy_from_slice(writer.pool.bytes(origin.buffer, range.start..payload_at));
        let datagram = Run { offset: run.offset + offset, len: size.min(run.len - offset), ..*run };
        vnet.copy_from_slice(headers.patch(own, &datagram).as_bytes());
        slot.append_buffer(writer.pool, origin.buffer, payload_at + offset..payload_at + offset + datagram.len);
        writer.write(id)?;
    }
    Ok(Ok(()))
}

/// What a router has marked the datagram with, the frame in it has from now on, or its headers: where they stand in the body
/// of the record, `place` says.
fn take_mark(
    context: &mut Context<'_>,
    origin: Origin,
    place: impl FnOnce(&[u8]) -> Option<Range<usize>>,
    body: Range<usize>,
) -> Result<(), Ending> {
    if !traffic_class::may_change(origin.class) {
        return Ok(());
    }
    let body = context.ring.underlay_pool.bytes_mut(origin.buffer, body);
    // What is malformed is counted so in a moment.
    let marked = place(body).and_then(|place| Some(traffic_class::take_mark(body.get_mut(place)?, origin.class)));
    marked.unwrap_or(Ok(())).map_err(|traffic_class::NotCapable| Ending::CongestionUnmarked)
}

/// Step (10) for a frame, or the headers of one, in a buffer of the underlay's pool.
fn check(
    context: &mut Context<'_>,
    peer: PeerId,
    range: Range<usize>,
    buffer: u16,
    csum: Option<PartialChecksum>,
) -> Result<(), Ending> {
    let Context { ring, macs, claims, groups, news, now, .. } = context;
    check_frame((macs, claims, *groups), news, *now, peer, ring.underlay_pool.bytes(buffer, range), csum)
}

fn check_frame(
    (macs, claims, groups): (&MacTable, &[Claims], GroupMask),
    news: &mut super::News,
    now: super::Now,
    peer: PeerId,
    bytes: &[u8],
    csum: Option<PartialChecksum>,
) -> Result<(), Ending> {
    let frame = Frame::parse(bytes).map_err(|_| Ending::RecordFrame)?;
    if csum.is_some_and(|csum| !sum_is_harmless(&frame, csum)) {
        return Err(Ending::ChecksumPlace);
    }
    let claims = claims.get(peer.index()).ok_or(Ending::SessionUnknown)?;
    let (verdict, learn) = forward::from_peer(macs, claims, groups, &frame, peer, now.seconds());
    if let Some(learn) = learn {
        news.learn(learn, now);
    }
    verdict
}

/// Writes a frame that lies in memory of our own, without the ring: reassembled frames are rare.
fn write_now(context: &Context<'_>, peer: PeerId, csum: Option<PartialChecksum>, frame: &[u8]) -> Result<(), Ending> {
    let header = VnetHeader::plain(csum);
    let parts = [io::IoSlice::new(header.as_bytes()), io::IoSlice::new(frame)];
    match nix::sys::uio::writev(context.port, &parts) {
        Ok(_) => {
            account_delivery(&context.stats, peer, 1, frame.len() as u64);
            Ok(())
        }
        Err(errno) => Err(crate::port::refusal(errno as i32)),
    }
}

/// Counts what the port took in one write.
pub(super) fn account_delivery(stats: &WorkerStats, peer: PeerId, frames: u64, octets: u64) {
    stats.counters.add(Ending::Delivered, frames);
    if let Some(account) = stats.peers.get(peer.index()) {
        bump(&account.rx_frames, frames);
        bump(&account.rx_bytes, octets);
    }
}
/// What a datagram that is refused for this reason says of its sender, if it is one that opens a session.
fn foreign(ending: Ending, datagram: &[u8]) -> Option<Foreign> {
    let (version, kind, network) = DatagramHeader::peek(datagram)?;
    match ending {
        _ if !matches!(kind, HELLO | INITIATION) => None,
        Ending::DatagramVersion => Some(Foreign::Version(version)),
        Ending::DatagramNetwork => Some(Foreign::Network(network)),
        _ => None,
    }
}
