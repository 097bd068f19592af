//! Trains to peers that are being filled: steps (5) and (6).

use std::io;

use zerocopy::IntoBytes;

use super::Context;
use crate::addr::PeerId;
use crate::datagram::record::RECORD_HEADER_LEN;
use crate::datagram::{DATA, DATA_ASIDE, DATAGRAM_HEADER_LEN};
use crate::ending::bump;
use crate::flow;
use crate::peers::PeerView;
use crate::ring::{MAX_DATAGRAMS, SendSlot, Sender, SlotId};
use crate::session::Outgoing;
use crate::wire::Frame;

/// At most one octet in so many of a datagram is padding, so that the next one can follow in the same train.
const MAX_PADDING_SHARE: usize = 4;

/// The train to one peer, from one socket, that is being filled in this batch.
#[derive(Default)]
struct Outbox {
    slot: Option<SlotId>,
    /// It is in the list of those to flush.
    listed: bool,
    /// Traffic class of the train.
    class: u8,
    /// Octets in the datagram at the end of the train, with its tag.
    open: usize,
    /// Datagrams in the train.
    datagrams: usize,
    /// Size of the datagrams before the last, 0 while there is only one. GSO wants them equal; the last may be shorter.
    segment: usize,
    /// Datagrams since the last flush.
    sent: u64,
}

/// The outboxes of one worker: for each peer one for each socket that the worker sends from.
pub(super) struct Outboxes {
    /// By peer, and for each by socket.
    outboxes: Vec<Outbox>,
    sources: usize,
    /// Peers and sockets whose outbox may hold something.
    dirty: Vec<(PeerId, u8)>,
}

/// The way to one peer.
pub(super) struct Path<'a> {
    pub(super) view: &'a PeerView,
    pub(super) outgoing: &'a Outgoing,
    pub(super) peer: PeerId,
    /// Which of the worker's sockets it leaves from.
    pub(super) source: u8,
    /// Traffic class of the datagrams.
    pub(super) class: u8,
    pub(super) lane: u8,
    pub(super) network: u32,
}

impl Path<'_> {
    /// Octets of records that a datagram has room for.
    pub(super) fn capacity(&self) -> usize {
        self.view.max_datagram - DATAGRAM_HEADER_LEN - self.outgoing.tag_len()
    }
}

impl Outboxes {
    pub(super) fn new(peers: usize, sources: usize) -> Outboxes {
        Outboxes {
            outboxes: (0..peers * sources).map(|_| Outbox::default()).collect(),
            sources,
            dirty: Vec::with_capacity(peers * sources),
        }
    }

    /// The socket that a frame leaves from.
    pub(super) fn source(&self, frame: &Frame<'_>) -> u8 {
        if self.sources > 1 { (flow::hash(frame) as usize % self.sources) as u8 } else { 0 }
    }

    /// Octets that the datagram at the end of a peer's train has room for; 0 if there is none.
    pub(super) fn left(&self, path: &Path<'_>) -> usize {
        let outbox = &self.outboxes[self.number(path.peer, path.source)];
        let size = if outbox.segment == 0 { path.view.max_datagram } else { outbox.segment };
        if outbox.slot.is_some() && outbox.class == path.class { size.saturating_sub(outbox.open) } else { 0 }
    }

    fn number(&self, peer: PeerId, source: u8) -> usize {
        peer.index() * self.sources + usize::from(source)
    }

    /// Makes room for a record of `need` octets at the end of a peer's train, in the datagram that is open if it fits,
    /// else in the next one, else in a new train. `None` if no slot is free.
    pub(super) fn room<'s>(
        &mut self,
        sender: &'s mut Sender<'_>,
        path: &Path<'_>,
        need: usize,
    ) -> io::Result<Option<&'s mut SendSlot>> {
        let number = self.number(path.peer, path.source);
        let outbox = &mut self.outboxes[number];
        let tag = path.outgoing.tag_len();
        let whole = DATAGRAM_HEADER_LEN + need + tag;
        if outbox.class != path.class {
            // Datagrams of one send are of one class.
            outbox.close(sender, path.view, path.outgoing)?;
        }
        if let Some(id) = &outbox.slot {
            let slot = sender.slots.get(id);
            let limit = if outbox.segment == 0 { path.view.max_datagram } else { outbox.segment };
            if outbox.open + need <= limit && slot.has_room(need + tag) {
                outbox.open += need;
                return Ok(outbox.slot.as_ref().map(|id| sender.slots.get(id)));
            }
            // The datagram is closed now. Another may follow if it is no longer than those before it and they are equal,
            // which a little padding helps with: a send costs more than some octets.
            let segment = if outbox.segment == 0 { outbox.open } else { outbox.segment };
            let gap = segment.saturating_sub(outbox.open);
            let equal = gap == 0 || (RECORD_HEADER_LEN..=segment / MAX_PADDING_SHARE).contains(&gap);
            let follows = whole <= segment && outbox.datagrams < MAX_DATAGRAMS && slot.has_room(gap + tag + whole);
            if equal && follows {
                outbox.segment = segment;
                slot.append_padding(gap);
                slot.end_datagram(path.outgoing);
            } else {
                outbox.close(sender, path.view, path.outgoing)?;
            }
        }
        if outbox.slot.is_none() {
            let Some(id) = sender.slots.take() else { return Ok(None) };
            sender.slots.get(&id).begin(path.peer, (path.source, path.class), path.outgoing);
            (outbox.slot, outbox.datagrams, outbox.segment, outbox.class) = (Some(id), 0, 0, path.class);
            if !std::mem::replace(&mut outbox.listed, true) {
                self.dirty.push((path.peer, path.source));
            }
        }
        outbox.datagrams += 1;
        outbox.sent += 1;
        outbox.open = whole;
        let kind = if path.source == 0 { DATA } else { DATA_ASIDE };
        let header = path.outgoing.next_header(kind, path.network, path.lane);
        Ok(outbox.slot.as_ref().map(|id| {
            let slot = sender.slots.get(id);
            slot.append_copy(header.as_bytes());
            slot
        }))
    }

    /// Sends what they hold.
    pub(super) fn flush(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Context { ring, table, stats, .. } = context;
        for (peer, source) in self.dirty.drain(..) {
            let outbox = &mut self.outboxes[peer.index() * self.sources + usize::from(source)];
            outbox.listed = false;
            if let Some(view) = table.get(peer)
                && let Some(outgoing) = &view.outgoing
            {
                outbox.close(&mut ring.sender(), view, outgoing)?;
            }
            if let Some(account) = stats.peers.get(peer.index()) {
                bump(&account.tx_datagrams, std::mem::take(&mut outbox.sent));
            }
        }
        Ok(())
    }
}

impl Outbox {
    fn close(&mut self, sender: &mut Sender<'_>, view: &PeerView, outgoing: &Outgoing) -> io::Result<()> {
        let Some(id) = self.slot.take() else { return Ok(()) };
        sender.slots.get(&id).end_datagram(outgoing);
        let segment = (self.datagrams > 1).then_some(self.segment as u16);
        sender.send(id, view.address, segment)
    }
}
