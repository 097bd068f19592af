//! What workers tell the control thread: bounded queues that drop and count when they are full.
//!
//! News of MACs has a queue of its own. It is what a guest can cause most of, and it is small: beside messages and frames
//! each piece would move as many octets as the largest of those.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::addr::PeerId;
use crate::forward::Learn;
use crate::wire::vnet::PartialChecksum;

/// Largest frame or message that an event carries: a control message fits the smallest datagram.
pub const EVENT_BYTES: usize = 1280;
/// Events that may wait.
const QUEUE_LEN: usize = 1024;
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
    /// The peer has begun to use the session with this index of ours.
    SessionUsed(PeerId, u32),
    /// The newest datagram of a sealed session came from another address than the peer has.
    Roamed(PeerId, SocketAddr),
    /// The kernel said EMSGSIZE for a datagram to this peer.
    TooBig(PeerId),
    /// The worker has stopped, because of this error.
    Failed(String),
}

/// Wakes the control thread; called at most once per batch.
pub trait Wake: Send + Sync {
    /// Makes the control thread look at its queues soon.
    fn wake(&self);
}

/// The queues of all workers to the control thread.
pub struct Events {
    queue: ArrayQueue<Event>,
    learn: ArrayQueue<Learn>,
    signalled: AtomicBool,
    waker: Box<dyn Wake>,
}

impl Events {
    /// Empty queues.
    pub fn new(waker: Box<dyn Wake>) -> Events {
        Events {
            queue: ArrayQueue::new(QUEUE_LEN),
            learn: ArrayQueue::new(LEARN_QUEUE_LEN),
            signalled: AtomicBool::new(false),
            waker,
        }
    }

    /// Worker: leaves an event; false if there is no room for its kind. What guests can cause in any number leaves room
    /// for what peers say.
    pub fn push(&self, event: Event) -> bool {
        let room = match event {
            Event::Resolution(..) => QUEUE_LEN / 4 * 3,
            _ => QUEUE_LEN,
        };
        self.queue.len() < room && self.try_push(event).is_ok()
    }

    /// Worker: leaves an event, or gives it back if the queue is full.
    // The event is as large as it is on purpose, and the one caller wants it back.
    #[allow(clippy::result_large_err)]
    pub fn try_push(&self, event: Event) -> Result<(), Event> {
        self.queue.push(event)
    }

    /// Worker: leaves a source that the table does not know so; false if there is no room. It is told again by the next
    /// frame.
    pub fn push_learn(&self, learn: Learn) -> bool {
        self.learn.push(learn).is_ok()
    }

    /// Worker: wakes the control thread unless somebody has.
    pub fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Control: call before emptying the queue, so that what comes later signals again.
    pub fn acknowledge(&self) {
        // A swap and not a store: reading the worker's swap also acquires what the worker pushed before it.
        self.signalled.swap(false, Ordering::AcqRel);
    }

    /// Control: the next event.
    pub fn pop(&self) -> Option<Event> {
        self.queue.pop()
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
    use std::sync::atomic::AtomicU32;

    struct CountWakes(Arc<AtomicU32>);
    impl Wake for CountWakes {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_wake_until_acknowledged_and_a_bounded_queue() {
        let wakes = Arc::new(AtomicU32::new(0));
        let events = Events::new(Box::new(CountWakes(wakes.clone())));
        let pushed = (0..2000).filter(|_| events.push(Event::TooBig(PeerId(0)))).count();
        assert_eq!(pushed, QUEUE_LEN);
        events.signal();
        events.signal();
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        events.acknowledge();
        events.signal();
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn new_macs_take_no_room_from_the_rest() {
        let events = Events::new(Box::new(CountWakes(Arc::default())));
        let learn = |n| Learn {
            key: crate::mac_table::MacKey::new(Default::default(), crate::addr::MacAddr::from_u64(n)),
            at: crate::mac_table::Owner::Local,
            known: None,
        };
        let pushed = (0..2000).filter(|n| events.push_learn(learn(*n))).count();
        assert_eq!(pushed, LEARN_QUEUE_LEN);
        assert!(events.push(Event::TooBig(PeerId(3))));
        assert!(matches!(events.pop(), Some(Event::TooBig(PeerId(3)))));
        assert_eq!(events.pop_learn(), Some(learn(0)));
        assert!(events.push_learn(learn(2000)));
    }

    #[test]
    fn too_long_for_an_event() {
        assert!(EventBytes::copy(&[0; EVENT_BYTES + 1]).is_none());
        assert_eq!(&EventBytes::copy(&[7; 3]).unwrap()[..], [7; 3]);
    }
}
