//! What workers know of the peers: a table that the control thread publishes whole whenever something changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::addr::PeerId;
use crate::datagram::{DATA_ASIDE, DATAGRAM_HEADER_LEN, DatagramHeader};
use crate::ending::Ending;
use crate::session::{Gate, Incoming, Outgoing};

/// One peer as a worker needs it.
#[derive(Debug, Clone)]
pub struct PeerView {
    /// Where its datagrams go to, and in clear text come from.
    pub address: SocketAddr,
    /// What is sent with.
    pub outgoing: Option<Arc<Outgoing>>,
    /// What it may send with: while keys change, those before and after.
    pub incoming: Vec<Arc<Incoming>>,
    /// Both sides have a session, and it was heard of lately.
    pub up: bool,
    /// Octets of UDP payload that the path carries unfragmented.
    pub max_datagram: usize,
}

/// All peers, by [`PeerId`].
#[derive(Debug, Clone, Default)]
pub struct PeerTable {
    /// By [`PeerId`].
    pub peers: Vec<PeerView>,
    /// Those that are up: where floods go.
    pub up: Vec<PeerId>,
    /// What handshakes for this gateway show; `None` in clear text.
    pub gate: Option<Gate>,
    /// The session indexes that are sent to, in their order, and whose they are. Two peers may have chosen the same.
    sent_to: Vec<(u32, PeerId)>,
}

impl PeerTable {
    /// A table of these peers; a peer without a session is not up.
    pub fn new(mut peers: Vec<PeerView>, gate: Option<Gate>) -> PeerTable {
        for peer in &mut peers {
            peer.up &= peer.outgoing.is_some();
        }
        let up = peers.iter().enumerate().filter(|(_, p)| p.up).map(|(i, _)| PeerId(i as u16)).collect();
        let index = |(id, peer): (usize, &PeerView)| Some((peer.outgoing.as_ref()?.session(), PeerId(id as u16)));
        let mut sent_to: Vec<_> = peers.iter().enumerate().filter_map(index).collect();
        sent_to.sort_unstable_by_key(|(session, _)| *session);
        PeerTable { peers, up, gate, sent_to }
    }

    /// True if a session of this table is not in `newer`: whoever holds this one holds keys that have ended.
    pub fn has_ended(&self, newer: &PeerTable) -> bool {
        self.peers.iter().enumerate().any(|(peer, old)| {
            let lives = |session| {
                newer.peers.get(peer).is_some_and(|new| new.incoming.iter().any(|other| Arc::ptr_eq(session, other)))
            };
            !old.incoming.iter().all(lives)
        })
    }

    /// The peer with this number.
    pub fn get(&self, id: PeerId) -> Option<&PeerView> {
        self.peers.get(id.index())
    }

    /// The number of the peer that is at this address. Looks at each.
    pub fn at(&self, address: SocketAddr) -> Option<usize> {
        self.peers.iter().position(|peer| same_address(peer.address, address))
    }

    /// The peer to which datagrams with this session index are sent, if it has this address.
    pub fn sent_to(&self, session: u32, to: SocketAddr) -> Option<PeerId> {
        let first = self.sent_to.partition_point(|(other, _)| *other < session);
        let mut of_session = self.sent_to.get(first..)?.iter().take_while(|(other, _)| *other == session);
        of_session.find(|(_, id)| self.get(*id).is_some_and(|peer| same_address(peer.address, to))).map(|(_, id)| *id)
    }

    /// The peer that sends to this session index, if it has this address.
    pub fn sent_by(&self, session: u32, from: IpAddr) -> Option<PeerId> {
        let id = PeerId(session as u16);
        let peer = self.get(id).filter(|peer| peer.address.ip().to_canonical() == from.to_canonical())?;
        peer.incoming.iter().any(|incoming| incoming.session() == session).then_some(id)
    }

    /// The peer whose session index a datagram of records carries, and the session; in clear text only from the peer's
    /// address, or aside of it ([`DATA_ASIDE`]) from its host.
    ///
    /// The low 16 bits of an index that we chose are the peer's number, so this is one array access.
    pub fn sender(&self, header: &DatagramHeader, from: SocketAddr) -> Result<(PeerId, &Incoming), Ending> {
        let session = header.session.get();
        let id = PeerId(session as u16);
        let peer = self.get(id).ok_or(Ending::SessionUnknown)?;
        match peer.incoming.iter().find(|incoming| incoming.session() == session) {
            Some(incoming) if incoming.is_sealed() => Ok((id, incoming)),
            Some(incoming) if header.kind() == DATA_ASIDE && same_host(peer.address, from) => Ok((id, incoming)),
            Some(incoming) if header.kind() != DATA_ASIDE && same_address(peer.address, from) => Ok((id, incoming)),
            Some(_) => Err(Ending::SourceAddress),
            None => Err(Ending::SessionUnknown),
        }
    }
}

/// Composes a session index from a peer's number and 16 random bits.
pub fn session_index(peer: PeerId, random: u16) -> u32 {
    u32::from(random) << 16 | u32::from(peer.0)
}

/// Compares address and port; IPv6 flow labels and scopes are the kernel's business.
pub fn same_address(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && same_host(a, b)
}

fn same_host(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip().to_canonical() == b.ip().to_canonical()
}

/// Smallest payload that every peer must be reachable with: IPv6's minimum MTU of 1280 octets (RFC 8200, section 5)
/// less IPv6 and UDP headers.
pub const MIN_DATAGRAM: usize = 1280 - 40 - 8;
/// Largest payload that is used: the loopback's MTU of 64 KiB would exceed what one GSO send may carry.
pub const MAX_DATAGRAM: usize = 16_384;
const _: () = assert!(MIN_DATAGRAM > DATAGRAM_HEADER_LEN + 400 && MAX_DATAGRAM < 65_000);

/// A place for the newest table: the writer replaces what was not fetched yet, the reader takes it when it comes by.
///
/// No lock and no waiting on either side; a reader that sleeps must be woken if it shall look. A table that a worker has
/// done with goes back to the writer through `done`, so that memory is freed on the control thread.
#[derive(Debug)]
pub struct Mailbox<T> {
    newest: ArrayQueue<Arc<T>>,
    done: ArrayQueue<Arc<T>>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Mailbox { newest: ArrayQueue::new(1), done: ArrayQueue::new(4) }
    }
}

impl<T> Mailbox<T> {
    /// Writer: leaves `value`, and frees what readers have returned.
    pub fn publish(&self, value: Arc<T>) {
        self.newest.force_push(value);
        self.collect();
    }

    /// Writer: frees what readers have returned; call now and then, so that old keys do not stay in memory.
    pub fn collect(&self) {
        while self.done.pop().is_some() {}
    }

    /// Reader: replaces `current` if something newer is there; says whether it did.
    pub fn refresh(&self, current: &mut Arc<T>) -> bool {
        if self.newest.is_empty() {
            return false;
        }
        let Some(newest) = self.newest.pop() else { return false };
        let old = std::mem::replace(current, newest);
        // The writer empties `done` at each publication, and there is one refresh per publication: never full.
        let _ = self.done.push(old);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::DATA;
    use crate::session::{Cipher, Key};

    fn peer(address: &str, our_session: u32, sealed: bool, up: bool) -> PeerView {
        let key = || sealed.then(|| Key::new(Cipher::Aes256Gcm, &[1; 32]));
        PeerView {
            address: address.parse().unwrap(),
            outgoing: Some(Arc::new(Outgoing::new(1, key(), 1))),
            incoming: vec![Arc::new(Incoming::new(our_session, key()))],
            up,
            max_datagram: 1472,
        }
    }

    #[test]
    fn a_sender_needs_index_and_in_clear_text_its_address() {
        let [a, b] = [session_index(PeerId(0), 7), session_index(PeerId(1), 0xbeef)];
        let peers = vec![peer("10.0.0.1:1", a, true, true), peer("10.0.0.2:1", b, false, true)];
        let table = PeerTable::new(peers, None);
        let sender_of = |kind, session, from: &str| {
            let header = DatagramHeader::new(kind, 0, session, 0, 0);
            table.sender(&header, from.parse().unwrap()).map(|(id, _)| id)
        };
        let sender = |session, from: &str| sender_of(DATA, session, from);
        assert_eq!(sender(b, "10.0.0.2:1"), Ok(PeerId(1)));
        assert_eq!(sender(b, "[::ffff:10.0.0.2]:1"), Ok(PeerId(1)));
        assert_eq!(sender(b, "10.0.0.2:2"), Err(Ending::SourceAddress));
        assert_eq!(sender(a, "10.9.9.9:9"), Ok(PeerId(0)));
        assert_eq!(sender_of(DATA_ASIDE, b, "10.0.0.2:2"), Ok(PeerId(1)));
        assert_eq!(sender_of(DATA_ASIDE, b, "10.0.0.3:1"), Err(Ending::SourceAddress));
        assert_eq!(sender_of(DATA_ASIDE, a, "10.9.9.9:9"), Ok(PeerId(0)));
        assert_eq!(sender(b ^ 1 << 16, "10.0.0.2:1"), Err(Ending::SessionUnknown));
        assert_eq!(sender(99, "10.0.0.2:1"), Err(Ending::SessionUnknown));
    }

    #[test]
    fn floods_go_to_peers_that_are_up() {
        let [a, b] = [1, 2].map(|n| session_index(PeerId(n - 1), 5));
        let mut unopened = peer("10.0.0.3:1", 9, true, true);
        unopened.outgoing = None;
        let peers = vec![peer("10.0.0.1:1", a, true, false), peer("10.0.0.2:1", b, true, true), unopened];
        assert_eq!(PeerTable::new(peers, None).up, [PeerId(1)]);
    }

    #[test]
    fn a_session_that_is_in_the_table_no_more_has_ended() {
        let [one, other] = [1, 2].map(|n| session_index(PeerId(0), n));
        let old = peer("10.0.0.1:1", one, true, true);
        let mut moved = old.clone();
        moved.address = "10.0.0.9:1".parse().unwrap();
        let mut next = old.clone();
        next.incoming.extend(peer("10.0.0.1:1", other, true, true).incoming);
        let mut last = next.clone();
        last.incoming.remove(0);
        let table = |peers: &[&PeerView]| PeerTable::new(peers.iter().map(|peer| (*peer).clone()).collect(), None);
        assert!(!table(&[&old]).has_ended(&table(&[&moved])));
        assert!(!table(&[&old]).has_ended(&table(&[&next])));
        assert!(table(&[&next]).has_ended(&table(&[&last])));
        // The same index again is another session.
        assert!(table(&[&old]).has_ended(&table(&[&peer("10.0.0.1:1", one, true, true)])));
        assert!(table(&[&moved, &old]).has_ended(&table(&[&moved, &last])));
    }

    #[test]
    fn the_newest_is_taken_once() {
        let mailbox = Mailbox::default();
        let mut current = Arc::new(0);
        for n in 1..=5 {
            mailbox.publish(Arc::new(n));
        }
        assert!(mailbox.refresh(&mut current));
        assert_eq!(*current, 5);
        assert!(!mailbox.refresh(&mut current));
    }
}
