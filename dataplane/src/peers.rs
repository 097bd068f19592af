//! What workers know of the peers: a table that the control thread publishes whole whenever something changes.

use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::addr::PeerId;
use crate::datagram::DATAGRAM_HEADER_LEN;
use crate::ending::Ending;

/// One peer as a worker needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Where its datagrams go to and come from.
    pub address: SocketAddr,
    /// The session index that it chose for us to send with.
    pub their_session: u32,
    /// The session index that we chose for it to send with.
    pub our_session: u32,
    /// Both sides know each other's index, and it was heard of lately.
    pub up: bool,
    /// Octets of UDP payload that the path carries unfragmented.
    pub max_datagram: usize,
}

/// All peers, by [`PeerId`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerTable {
    /// By [`PeerId`].
    pub peers: Vec<PeerView>,
    /// Those that are up: where floods go.
    pub up: Vec<PeerId>,
}

impl PeerTable {
    /// A table of these peers.
    pub fn new(peers: Vec<PeerView>) -> PeerTable {
        let up = peers.iter().enumerate().filter(|(_, p)| p.up).map(|(i, _)| PeerId(i as u16)).collect();
        PeerTable { peers, up }
    }

    /// The peer with this number.
    pub fn get(&self, id: PeerId) -> Option<&PeerView> {
        self.peers.get(id.index())
    }

    /// The sender of a datagram: the peer whose session index it carries, provided that it came from the peer's address.
    ///
    /// The low 16 bits of an index that we chose are the peer's number, so this is one array access.
    pub fn sender(&self, session: u32, from: SocketAddr) -> Result<PeerId, Ending> {
        let id = PeerId(session as u16);
        match self.get(id) {
            Some(peer) if peer.our_session == session && same_address(peer.address, from) => Ok(id),
            Some(peer) if peer.our_session == session => Err(Ending::SourceAddress),
            _ => Err(Ending::SessionUnknown),
        }
    }
}

/// Composes a session index from a peer's number and 16 random bits.
pub fn session_index(peer: PeerId, random: u16) -> u32 {
    u32::from(random) << 16 | u32::from(peer.0)
}

/// Compares address and port; IPv6 flow labels and scopes are the kernel's business.
pub fn same_address(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
}

/// Smallest payload that every peer must be reachable with: IPv6's minimum MTU of 1280 octets (RFC 8200, section 5)
/// less IPv6 and UDP headers.
pub const MIN_DATAGRAM: usize = 1280 - 40 - 8;
/// Largest payload that is used: the loopback's MTU of 64 KiB would exceed what one GSO send may carry.
pub const MAX_DATAGRAM: usize = 16_384;
const _: () = assert!(MIN_DATAGRAM > DATAGRAM_HEADER_LEN + 400 && MAX_DATAGRAM < 65_000);

/// A place for the newest table: the writer replaces what was not fetched yet, the reader takes it when it comes by.
///
/// No lock and no waiting on either side. A table that a worker has done with goes back to the writer through
/// `done`, so that memory is freed on the control thread.
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

    fn peer(address: &str, our_session: u32, up: bool) -> PeerView {
        PeerView { address: address.parse().unwrap(), their_session: 1, our_session, up, max_datagram: 1472 }
    }

    #[test]
    fn a_sender_needs_index_and_address() {
        let ours = session_index(PeerId(1), 0xbeef);
        let table = PeerTable::new(vec![peer("10.0.0.1:1", 7 << 16, true), peer("10.0.0.2:1", ours, true)]);
        assert_eq!(table.sender(ours, "10.0.0.2:1".parse().unwrap()), Ok(PeerId(1)));
        assert_eq!(table.sender(ours, "[::ffff:10.0.0.2]:1".parse().unwrap()), Ok(PeerId(1)));
        assert_eq!(table.sender(ours, "10.0.0.2:2".parse().unwrap()), Err(Ending::SourceAddress));
        assert_eq!(table.sender(ours ^ 1 << 16, "10.0.0.2:1".parse().unwrap()), Err(Ending::SessionUnknown));
        assert_eq!(table.sender(99, "10.0.0.2:1".parse().unwrap()), Err(Ending::SessionUnknown));
    }

    #[test]
    fn floods_go_to_peers_that_are_up() {
        let table = PeerTable::new(vec![peer("10.0.0.1:1", 0, false), peer("10.0.0.2:1", 1, true)]);
        assert_eq!(table.up, [PeerId(1)]);
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
