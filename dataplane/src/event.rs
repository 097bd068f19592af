//! What workers tell the control thread: bounded queues that drop and count when they are full.
//!
//! Each kind has a queue of its own, so that none takes room from another; notices, which are few and matter most, have
//! room for each peer. Within a queue a source, a peer or a station, may have as many places as are left free: one that
//! floods has half of them, two a third each, and one that comes then still finds room (dynamic thresholds, as in the
//! shared buffers of switches: Choudhury and Hahne, 1998). So whoever sends more than the control thread takes loses
//! only what is its own.
//!
//! News of MACs is what a guest can cause most of, and it is small: beside messages and frames each piece would move as
//! many octets as the largest of those.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::addr::PeerId;
use crate::budget::PeerBudget;
use crate::forward::Learn;
use crate::wire::vnet::PartialChecksum;

/// Largest frame or message that an event carries: a control message fits the smallest datagram.
pub const EVENT_BYTES: usize = 1280;
/// Events that may wait: messages of peers, frames of guests, frames that are held, handshakes.
const MESSAGES: usize = 1024;
const FRAMES: usize = 512;
const HELD: usize = 64;
const HANDSHAKES: usize = 64;
/// Notices that may wait: more than the budget of a peer allows it to cause, and the end of every worker.
const NOTICES_PER_PEER: usize = 8;
const NOTICES_OF_WORKERS: usize = 256;
/// Stations are told apart by a hash, in so many parts.
const STATIONS: usize = 256;
/// News of MACs that may wait.
pub const LEARN_QUEUE_LEN: usize = 1024;

/// Octets copied into an event, so that the frame path allocates nothing.
#[derive(Clone)]
pub struct EventBytes {
    len: u16,
    bytes: [u8; EVENT_BYTES],
}

impl EventBytes {
    /// A copy of `bytes`, `None` if they are too many.
    pub fn copy(bytes: &[u8]) -> Option<EventBytes> {
        let mut copy = EventBytes { len: bytes.len() as u16, bytes: [0; EVENT_BYTES] };
        copy.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(copy)
    }
}

impl std::ops::Deref for EventBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for EventBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} octets", self.len)
    }
}

/// What happened.
#[derive(Debug, Clone)]
// The large variants are the common ones, and a Box would be an allocation in the frame path.
#[allow(clippy::large_enum_variant)]
pub enum Event {
    /// ARP or neighbour discovery from the port. The flag says that its checksum is still to be finished.
    Resolution(EventBytes, bool),
    /// A frame from a peer whose source is on this side, with its unfinished checksum: to be delivered if the source turns
    /// out to have moved.
    Held(PeerId, EventBytes, Option<PartialChecksum>),
    /// A control record from a peer.
    Message(PeerId, EventBytes),
    /// What opens a session: a hello, an initiation or a response, from anyone; stamps are checked and cut off.
    Handshake {
        /// Where it came from.
        from: SocketAddr,
        /// [`HELLO`](crate::datagram::HELLO), [`INITIATION`](crate::datagram::INITIATION) or
        /// [`RESPONSE`](crate::datagram::RESPONSE).
        kind: u8,
        /// The session index in its header.
        session: u32,
        /// What follows the header.
        body: EventBytes,
    },
    /// What a worker has noticed by itself.
    Notice(Notice),
}

/// What is rare, and waits behind nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The peer has begun to use the session with this index of ours.
    SessionUsed(PeerId, u32),
    /// The newest datagram of the sealed session with this index of ours came from another address than the peer has.
    Roamed(PeerId, u32, SocketAddr),
    /// What opens a session came from there, but is not for this gateway.
    Foreign(SocketAddr, Foreign),
    /// The kernel said EMSGSIZE for a datagram to this peer.
    TooBig(PeerId),
    /// Reading from the port, or receiving from peers, keeps failing with this error.
    ReceiveFails {
        /// True for the port.
        port: bool,
        /// The kernel's number.
        errno: i32,
    },
    /// A datagram of the link to this peer came in by the port. Told once, until the control thread wants to hear it again
    /// ([`PeerBudget::may_circle_again`]).
    Circled(PeerId),
    /// The worker has stopped, because of this error.
    Failed(String),
}

/// Why what opens a session is not for this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// It is of another version.
    Version(u8),
    /// It is of another network.
    Network(u32),
    /// It was made for another key: its stamp says so. Told of peers only.
    Key,
}

/// Wakes the control thread; called at most once per batch.
pub trait Wake: Send + Sync {
    /// Makes the control thread look at its queues soon.
    fn wake(&self);
}

/// The queues of all workers to the control thread.
pub struct Events {
    notices: ArrayQueue<Notice>,
    handshakes: ArrayQueue<Event>,
    messages: ArrayQueue<Event>,
    frames: ArrayQueue<Event>,
    held: ArrayQueue<Event>,
    learn: ArrayQueue<Learn>,
    peers: Box<[CachePadded<PeerBudget>]>,
    /// How many frames of stations wait, by the hash of their address. Its key is secret, so that none can choose whom it
    /// shares a part with.
    stations: Box<[AtomicU32]>,
    hash: RandomState,
    signalled: AtomicBool,
    waker: Box<dyn Wake>,
}

/// Takes one of the places that `waiting` counts, if no more of them are taken than are left in `queue`.
fn push_fairly(queue: &ArrayQueue<Event>, waiting: &AtomicU32, event: Event) -> bool {
    let free = queue.capacity().saturating_sub(queue.len());
    if waiting.load(Relaxed) as usize >= free {
        return false;
    }
    // Before the event, so that whoever takes it does not count below zero.
    waiting.fetch_add(1, Relaxed);
    let pushed = queue.push(event).is_ok();
    if !pushed {
        waiting.fetch_sub(1, Relaxed);
    }
    pushed
}

impl Events {
    /// Empty queues, of workers without a peer.
    pub fn new(waker: Box<dyn Wake>) -> Events {
        Events::for_peers(waker, 0)
    }

    /// Empty queues, for the peers below this number. Others may say nothing.
    pub fn for_peers(waker: Box<dyn Wake>, peers: usize) -> Events {
        Events {
            notices: ArrayQueue::new(NOTICES_OF_WORKERS + NOTICES_PER_PEER * peers),
            handshakes: ArrayQueue::new(HANDSHAKES),
            messages: ArrayQueue::new(MESSAGES),
            frames: ArrayQueue::new(FRAMES),
            held: ArrayQueue::new(HELD),
            learn: ArrayQueue::new(LEARN_QUEUE_LEN),
            peers: (0..peers).map(|_| CachePadded::default()).collect(),
            stations: (0..STATIONS).map(|_| AtomicU32::new(0)).collect(),
            hash: RandomState::new(),
            signalled: AtomicBool::new(false),
            waker,
        }
    }

    /// What a peer may say.
    pub fn budget(&self, peer: PeerId) -> Option<&PeerBudget> {
        self.peers.get(peer.index()).map(|budget| &**budget)
    }

    /// Worker: whether the peer may send one more message now.
    pub fn may_send_message(&self, peer: PeerId, now_ms: u64) -> bool {
        self.budget(peer).is_some_and(|budget| budget.messages.allow(now_ms))
    }

    /// Worker: whether one more frame of the peer may be held now.
    pub fn may_hold(&self, peer: PeerId, now_ms: u64) -> bool {
        self.budget(peer).is_some_and(|budget| budget.held.allow(now_ms))
    }

    /// Worker: leaves an event; false if there is no room for it.
    pub fn push(&self, event: Event) -> bool {
        match &event {
            Event::Notice(notice) => self.push_notice(notice.clone()).is_ok(),
            Event::Handshake { .. } => self.handshakes.push(event).is_ok(),
            Event::Message(peer, _) => {
                self.budget(*peer).is_some_and(|budget| push_fairly(&self.messages, &budget.queued_messages, event))
            }
            Event::Held(peer, ..) => {
                self.budget(*peer).is_some_and(|budget| push_fairly(&self.held, &budget.queued_frames, event))
            }
            Event::Resolution(frame, _) => {
                self.station(frame).is_some_and(|waiting| push_fairly(&self.frames, waiting, event))
            }
        }
    }

    /// Worker: leaves a notice, or gives it back if there is no room.
    pub fn push_notice(&self, notice: Notice) -> Result<(), Notice> {
        // Every datagram says so until somebody has looked at it; once is enough.
        let waits = match notice {
            Notice::TooBig(peer) => self.budget(peer).map(|budget| &budget.too_big),
            Notice::Circled(peer) => self.budget(peer).map(|budget| &budget.circled),
            _ => return self.notices.push(notice),
        };
        let Some(waits) = waits else { return Err(notice) };
        if waits.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.notices.push(notice).inspect_err(|_| waits.store(false, Ordering::Release))
    }

    /// The counter of the station that a frame is from.
    fn station(&self, frame: &[u8]) -> Option<&AtomicU32> {
        // The source address of an Ethernet frame.
        let hash = self.hash.hash_one(frame.get(6..12)?);
        self.stations.get(hash as usize % STATIONS)
    }

    /// Worker: leaves a source that the table does not know so; false if there is no room. It is told again by the next
    /// frame. Sources that a guest can make up leave room for those that have moved.
    pub fn push_learn(&self, learn: Learn) -> bool {
        let room = if learn.known.is_none() { LEARN_QUEUE_LEN / 4 * 3 } else { LEARN_QUEUE_LEN };
        self.learn.len() < room && self.learn.push(learn).is_ok()
    }

    /// Worker: wakes the control thread unless somebody has.
    pub fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Control: call before emptying the queues, so that what comes later signals again.
    pub fn acknowledge(&self) {
        // A swap and not a store: reading the worker's swap also acquires what the worker pushed before it.
        self.signalled.swap(false, Ordering::AcqRel);
    }

    /// Control: takes what waits in the queues now, each kind in its order, notices first. What comes meanwhile is left,
    /// so that this ends.
    pub fn drain(&self, mut take: impl FnMut(Event)) {
        for _ in 0..self.notices.len() {
            let Some(notice) = self.notices.pop() else { break };
            take(self.taken(Event::Notice(notice)));
        }
        for queue in self.queues() {
            for _ in 0..queue.len() {
                let Some(event) = queue.pop() else { break };
                take(self.taken(event));
            }
        }
    }

    /// Control: the next event, notices first.
    pub fn pop(&self) -> Option<Event> {
        let notice = self.notices.pop().map(Event::Notice);
        notice.or_else(|| self.queues().into_iter().find_map(ArrayQueue::pop)).map(|event| self.taken(event))
    }

    fn queues(&self) -> [&ArrayQueue<Event>; 4] {
        [&self.handshakes, &self.held, &self.messages, &self.frames]
    }

    /// Gives back the place that an event has had.
    fn taken(&self, event: Event) -> Event {
        let waiting = match &event {
            Event::Message(peer, _) => self.budget(*peer).map(|budget| &budget.queued_messages),
            Event::Held(peer, ..) => self.budget(*peer).map(|budget| &budget.queued_frames),
            Event::Resolution(frame, _) => self.station(frame),
            Event::Notice(Notice::TooBig(peer)) => {
                if let Some(budget) = self.budget(*peer) {
                    budget.too_big.store(false, Ordering::Release);
                }
                None
            }
            Event::Notice(_) | Event::Handshake { .. } => None,
        };
        if let Some(waiting) = waiting {
            waiting.fetch_sub(1, Relaxed);
        }
        event
    }

    /// Control: the next source.
    pub fn pop_learn(&self) -> Option<Learn> {
        self.learn.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct CountWakes(Arc<AtomicU32>);
    impl Wake for CountWakes {
        fn wake(&self) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn events(peers: usize) -> Events {
        Events::for_peers(Box::new(CountWakes(Arc::default())), peers)
    }

    fn message(peer: u16) -> Event {
        Event::Message(PeerId(peer), EventBytes::copy(b"{}").unwrap())
    }

    fn frame(station: u8) -> Event {
        let mut bytes = [0xff; 60];
        bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, station]);
        Event::Resolution(EventBytes::copy(&bytes).unwrap(), false)
    }

    fn flood(events: &Events, event: impl Fn() -> Event) -> usize {
        (0..5000).filter(|_| events.push(event())).count()
    }

    #[test]
    fn one_wake_until_acknowledged() {
        let wakes = Arc::new(AtomicU32::new(0));
        let events = Events::new(Box::new(CountWakes(wakes.clone())));
        events.signal();
        events.signal();
        assert_eq!(wakes.load(Relaxed), 1);
        events.acknowledge();
        events.signal();
        assert_eq!(wakes.load(Relaxed), 2);
    }

    #[test]
    fn a_peer_that_floods_leaves_room() {
        let events = events(8);
        assert_eq!(flood(&events, || message(0)), MESSAGES / 2);
        assert_eq!(flood(&events, || message(1)), MESSAGES / 4);
        // Whoever comes then has some, however many there were before.
        for peer in 2..8 {
            assert!(flood(&events, || message(peer)) > 0, "peer {peer}");
        }
        let mut taken = 0;
        events.drain(|_| taken += 1);
        assert!(taken < MESSAGES);
        assert_eq!(flood(&events, || message(0)), MESSAGES / 2, "places are given back");
        assert!(!events.push(message(8)), "nobody's");
    }

    #[test]
    fn a_station_that_floods_leaves_room() {
        let events = events(0);
        assert_eq!(flood(&events, || frame(1)), FRAMES / 2);
        // The one chance in 256 that both are in one part is not for a test.
        let other = (2..).find(|n| !std::ptr::eq(events.station(&[*n; 12]).unwrap(), station(&events, 1))).unwrap();
        let mut bytes = [other; 60];
        bytes[6..12].fill(other);
        assert!(events.push(Event::Resolution(EventBytes::copy(&bytes).unwrap(), false)));
        while events.pop().is_some() {}
        assert_eq!(flood(&events, || frame(1)), FRAMES / 2, "places are given back");
    }

    fn station(events: &Events, station: u8) -> &AtomicU32 {
        let Event::Resolution(frame, _) = frame(station) else { unreachable!() };
        events.station(&frame).unwrap()
    }

    #[test]
    fn no_kind_takes_room_from_another() {
        let events = events(2);
        flood(&events, || message(0));
        flood(&events, || message(1));
        assert!((0..=255).map(|n| flood(&events, || frame(n))).sum::<usize>() <= FRAMES);
        let held = || Event::Held(PeerId(0), EventBytes::copy(&[7; 60]).unwrap(), None);
        assert_eq!(flood(&events, held), HELD / 2);
        let handshake = || Event::Handshake {
            from: "10.0.0.1:1".parse().unwrap(),
            kind: 1,
            session: 0,
            body: EventBytes::copy(&[7; 60]).unwrap(),
        };
        assert_eq!(flood(&events, handshake), HANDSHAKES);
        assert!(events.push(Event::Notice(Notice::SessionUsed(PeerId(1), 7))));
        assert_eq!(events.push_notice(Notice::Failed("it".into())), Ok(()));
        // And notices come first.
        assert!(matches!(events.pop(), Some(Event::Notice(Notice::SessionUsed(PeerId(1), 7)))));
        let mut kinds = Vec::new();
        events.drain(|event| kinds.push(matches!(event, Event::Notice(Notice::Failed(_)))));
        assert!(kinds[0] && !kinds[1..].contains(&true));
        assert!(events.pop().is_none());
    }

    #[test]
    fn a_path_that_carries_less_is_told_once_until_it_was_looked_at() {
        let events = events(2);
        let too_big = |peer| Event::Notice(Notice::TooBig(PeerId(peer)));
        assert_eq!(flood(&events, || too_big(0)) + flood(&events, || too_big(1)), 10_000);
        let count = || std::iter::from_fn(|| events.pop()).count();
        assert_eq!(count(), 2);
        assert!(events.push(too_big(0)));
        assert_eq!(count(), 1);
        assert!(!events.push(too_big(2)), "nobody's path");
    }

    #[test]
    fn new_macs_take_no_room_from_the_rest() {
        let events = events(4);
        let learn = |n| Learn {
            key: crate::mac_table::MacKey::new(Default::default(), crate::addr::MacAddr::from_u64(n)),
            at: crate::mac_table::Owner::Local,
            known: None,
        };
        let pushed = (0..2000).filter(|n| events.push_learn(learn(*n))).count();
        assert_eq!(pushed, LEARN_QUEUE_LEN / 4 * 3);
        let moved = Learn {
            known: Some(crate::mac_table::MacEntry { owner: crate::mac_table::Owner::Local, moves: 0, seen: 0 }),
            ..learn(1)
        };
        assert!(events.push_learn(moved), "what has moved finds room");
        assert!(events.push(message(3)));
        assert!(matches!(events.pop(), Some(Event::Message(PeerId(3), _))));
        let taken = std::iter::from_fn(|| events.pop_learn()).take(2).collect::<Vec<_>>();
        assert_eq!(taken, [learn(0), learn(1)]);
        assert!(events.push_learn(learn(2000)));
    }

    #[test]
    fn too_long_for_an_event() {
        assert!(EventBytes::copy(&[0; EVENT_BYTES + 1]).is_none());
        assert_eq!(&EventBytes::copy(&[7; 3]).unwrap()[..], [7; 3]);
    }
}
