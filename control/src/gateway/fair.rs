//! In which order the control thread takes what the workers tell it: every source has a queue of its own, and they take
//! turns.
//!
//! Sources are the peers, and the stations on this side by VLAN and Ethernet source. A source that sends more than its
//! turns allow waits behind itself, and loses what its queue does not hold; another waits for one of its events, not for
//! all. Peers and stations alternate, so that a guest that makes up addresses does not put the peers off, nor many peers
//! the guests. Notices come first, and a few handshakes: they are rationed where they arise.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::SocketAddr;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::event::{Event, Notice};
use ipop_dataplane::mac_table::MacKey;
use ipop_dataplane::wire::Frame;
use ipop_dataplane::wire::vnet::PartialChecksum;

/// What may wait of one peer, and of all: no less than workers leave of one at a time.
const PEER: Bound = Bound { each: 512, all: 4096, sources: usize::MAX };
/// The same of stations: a burst of announcements fits, as of somebody who takes over addresses by the hundred. Beyond so
/// many stations, which is what making up addresses looks like, they share a queue.
const STATION: Bound = Bound { each: 256, all: 4096, sources: 256 };
/// Handshakes that may wait, and how many of them go before everything else in one turn: each takes some 0.2 ms.
const HANDSHAKES: usize = 128;
const HANDSHAKES_PER_TURN: usize = 4;

/// What is to be done: an event with no more octets than it has.
#[derive(Debug, PartialEq)]
pub(super) enum Work {
    Resolution(Box<[u8]>, bool),
    Held(PeerId, Box<[u8]>, Option<PartialChecksum>),
    Message(PeerId, Box<[u8]>),
    Handshake { from: SocketAddr, kind: u8, session: u32, body: Box<[u8]> },
    Notice(Notice),
}

/// What found no room.
#[derive(Debug, PartialEq)]
pub(super) enum Lost {
    Frame,
    Held,
    Message(PeerId),
    Handshake,
}

/// The queues of all sources.
#[derive(Debug, Default)]
pub(super) struct Fair {
    notices: VecDeque<Notice>,
    handshakes: VecDeque<Work>,
    handshakes_left: usize,
    peers: Round<PeerId>,
    /// `None` is the queue of those that share one.
    stations: Round<Option<MacKey>>,
    /// It was a peer's turn last.
    was_peer: bool,
}

impl Fair {
    /// Puts an event behind what else its source has sent.
    pub(super) fn add(&mut self, event: Event) -> Result<(), Lost> {
        match event {
            Event::Notice(notice) => self.notices.push_back(notice),
            Event::Handshake { .. } if self.handshakes.len() >= HANDSHAKES => return Err(Lost::Handshake),
            Event::Handshake { from, kind, session, body } => {
                self.handshakes.push_back(Work::Handshake { from, kind, session, body: body[..].into() });
            }
            Event::Message(peer, bytes) => {
                let queue = self.peers.room(peer, &PEER).ok_or(Lost::Message(peer))?;
                queue.push_back(Work::Message(peer, bytes[..].into()));
            }
            Event::Held(peer, bytes, csum) => {
                let queue = self.peers.room(peer, &PEER).ok_or(Lost::Held)?;
                queue.push_back(Work::Held(peer, bytes[..].into(), csum));
            }
            Event::Resolution(bytes, checksum_pending) => {
                let station = Frame::parse(&bytes).ok().map(|frame| MacKey::new(frame.vlan, frame.src));
                let queue = self.stations.room(station.filter(|station| self.stations.has_place(station)), &STATION);
                queue.ok_or(Lost::Frame)?.push_back(Work::Resolution(bytes[..].into(), checksum_pending));
            }
        }
        Ok(())
    }

    /// A turn of the loop begins: some handshakes may go first again.
    pub(super) fn begin_turn(&mut self) {
        self.handshakes_left = HANDSHAKES_PER_TURN;
    }

    /// What is to be done next.
    pub(super) fn next(&mut self) -> Option<Work> {
        if let Some(notice) = self.notices.pop_front() {
            return Some(Work::Notice(notice));
        }
        if self.handshakes_left > 0
            && let Some(handshake) = self.handshakes.pop_front()
        {
            self.handshakes_left -= 1;
            return Some(handshake);
        }
        self.was_peer = !self.was_peer;
        let work = if self.was_peer {
            self.peers.next().or_else(|| self.stations.next())
        } else {
            self.stations.next().or_else(|| self.peers.next())
        };
        work.or_else(|| self.handshakes.pop_front())
    }
}

/// How much may wait.
struct Bound {
    each: usize,
    all: usize,
    sources: usize,
}

/// Sources of one kind, which take turns.
#[derive(Debug)]
struct Round<K> {
    /// None is empty: a source that has nothing to say takes no place.
    queues: HashMap<K, VecDeque<Work>>,
    /// Whose turn it is: each that has a queue, once.
    turns: VecDeque<K>,
    waiting: usize,
}

impl<K> Default for Round<K> {
    fn default() -> Round<K> {
        Round { queues: HashMap::new(), turns: VecDeque::new(), waiting: 0 }
    }
}

impl Round<Option<MacKey>> {
    fn has_place(&self, station: &MacKey) -> bool {
        self.queues.len() < STATION.sources || self.queues.contains_key(&Some(*station))
    }
}

impl<K: Copy + Eq + Hash> Round<K> {
    /// The queue of a source, to put one thing into; `None` if the source has as much there as it may, or as is left free.
    fn room(&mut self, source: K, bound: &Bound) -> Option<&mut VecDeque<Work>> {
        let free = bound.all.saturating_sub(self.waiting);
        let has = self.queues.get(&source).map_or(0, VecDeque::len);
        if has >= free.min(bound.each) {
            return None;
        }
        if has == 0 {
            self.turns.push_back(source);
        }
        self.waiting += 1;
        Some(self.queues.entry(source).or_default())
    }

    /// The first of the source whose turn it is.
    fn next(&mut self) -> Option<Work> {
        let source = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&source)?;
        let work = queue.pop_front()?;
        self.waiting -= 1;
        if queue.is_empty() {
            self.queues.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        Some(work)
    }
}

#[cfg(test)]
mod tests {
    use ipop_dataplane::event::EventBytes;

    use super::*;

    fn message(peer: u16) -> Event {
        Event::Message(PeerId(peer), EventBytes::copy(b"{}").unwrap())
    }

    fn frame(station: u16, number: u8) -> Event {
        let [high, low] = station.to_be_bytes();
        let mut bytes = vec![0xff; 6];
        bytes.extend([2, 0, 0, 0, high, low, 8, 6, number]);
        bytes.resize(60, 0);
        Event::Resolution(EventBytes::copy(&bytes).unwrap(), false)
    }

    fn handshake() -> Event {
        let body = EventBytes::copy(&[7; 60]).unwrap();
        Event::Handshake { from: "10.0.0.1:1".parse().unwrap(), kind: 1, session: 0, body }
    }

    /// How many of these there is room for.
    fn flood(fair: &mut Fair, event: impl Fn() -> Event) -> usize {
        (0..5000).filter(|_| fair.add(event()).is_ok()).count()
    }

    fn station_of(work: &Work) -> Option<u16> {
        let Work::Resolution(bytes, _) = work else { return None };
        Some(u16::from_be_bytes([bytes[10], bytes[11]]))
    }

    /// After how many others this comes.
    fn wait_of(fair: &mut Fair, is_it: impl Fn(&Work) -> bool) -> usize {
        std::iter::from_fn(|| fair.next()).position(|work| is_it(&work)).expect("it comes")
    }

    #[test]
    fn a_peer_that_floods_delays_another_by_one_event() {
        let mut fair = Fair::default();
        assert_eq!(flood(&mut fair, || message(0)), PEER.each);
        assert_eq!(fair.add(message(0)), Err(Lost::Message(PeerId(0))));
        fair.add(message(1)).unwrap();
        fair.add(frame(7, 0)).unwrap();
        assert!(wait_of(&mut fair, |work| station_of(work) == Some(7)) <= 1);
        assert!(wait_of(&mut fair, |work| matches!(work, Work::Message(PeerId(1), _))) <= 1);
    }

    #[test]
    fn a_station_that_floods_delays_others_by_one_event() {
        let mut fair = Fair::default();
        assert_eq!(flood(&mut fair, || frame(0, 0)), STATION.each);
        assert_eq!(fair.add(frame(0, 0)), Err(Lost::Frame));
        for station in 1..=3 {
            fair.add(frame(station, 0)).unwrap();
        }
        fair.add(message(1)).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| fair.next()).take(5).map(|work| station_of(&work)).collect();
        assert!(order.contains(&None), "a peer has its turn: {order:?}");
        for station in 1..=3 {
            assert!(order.contains(&Some(station)), "{order:?}");
        }
    }

    #[test]
    fn what_one_source_says_stays_in_order() {
        let mut fair = Fair::default();
        for number in 0..100 {
            fair.add(frame(1, number)).unwrap();
            fair.add(frame(2, number)).unwrap();
        }
        let mut seen = [0, 0];
        while let Some(work) = fair.next() {
            let station = usize::from(station_of(&work).unwrap()) - 1;
            let Work::Resolution(bytes, _) = work else { unreachable!() };
            assert_eq!(bytes[14], seen[station]);
            seen[station] += 1;
        }
        assert_eq!(seen, [100, 100]);
    }

    #[test]
    fn made_up_stations_share_what_there_is_and_leave_the_peers_alone() {
        let mut fair = Fair::default();
        let taken = (0..50_000).filter(|n| fair.add(frame(*n, 0)).is_ok()).count();
        assert_eq!(taken, STATION.sources + STATION.each, "one each, and what is shared");
        // The shared queue is one more.
        assert_eq!(fair.stations.queues.len(), STATION.sources + 1);
        fair.add(message(3)).unwrap();
        assert!(wait_of(&mut fair, |work| matches!(work, Work::Message(..))) <= 1);
        while fair.next().is_some() {}
        assert_eq!((fair.stations.queues.len(), fair.stations.turns.len(), fair.stations.waiting), (0, 0, 0));
        assert_eq!(fair.add(frame(60_000, 0)), Ok(()), "places are given back");
    }

    #[test]
    fn many_that_flood_leave_room_for_one_more() {
        let mut fair = Fair::default();
        for _ in 0..500 {
            (0..40).for_each(|peer| drop(fair.add(message(peer))));
        }
        let room = flood(&mut fair, || message(40));
        assert!(room > PEER.all / 100, "{room}");
        assert!(fair.peers.waiting < PEER.all);
    }

    #[test]
    fn notices_come_first_and_of_handshakes_some() {
        let mut fair = Fair::default();
        flood(&mut fair, || message(0));
        flood(&mut fair, || frame(0, 0));
        assert_eq!(flood(&mut fair, handshake), HANDSHAKES);
        assert_eq!(fair.add(handshake()), Err(Lost::Handshake));
        fair.add(Event::Notice(Notice::TooBig(PeerId(1)))).unwrap();
        for _ in 0..3 {
            fair.begin_turn();
            let turn: Vec<_> = (0..20).filter_map(|_| fair.next()).collect();
            let handshakes = turn.iter().filter(|work| matches!(work, Work::Handshake { .. })).count();
            assert_eq!(handshakes, HANDSHAKES_PER_TURN);
            assert!(turn.iter().any(|work| matches!(work, Work::Message(..))));
        }
        fair.add(Event::Notice(Notice::SessionUsed(PeerId(0), 7))).unwrap();
        assert_eq!(fair.next(), Some(Work::Notice(Notice::SessionUsed(PeerId(0), 7))));
        // Nothing is left behind, though all turns were used up.
        let rest: Vec<_> = std::iter::from_fn(|| fair.next()).collect();
        assert_eq!(rest.iter().filter(|work| matches!(work, Work::Handshake { .. })).count(), HANDSHAKES - 12);
    }

    #[test]
    fn a_frame_that_is_none_is_somebodys_too() {
        let mut fair = Fair::default();
        fair.add(Event::Resolution(EventBytes::copy(&[1; 5]).unwrap(), true)).unwrap();
        assert_eq!(fair.next(), Some(Work::Resolution([1; 5].into(), true)));
        assert_eq!(fair.next(), None);
    }
}
