//! Which handshakes the control thread is given: those with the right stamp, and not too many from anybody.
//!
//! A handshake costs the control thread some 0.2 ms, and its sender next to nothing. So everybody has a bucket of his own:
//! each peer, by the address where it is, all strangers together, and whatever speaks the other language. Nobody who
//! empties one takes anything out of another.

use std::net::SocketAddr;

use crate::datagram::{HELLO, INITIATION, RESPONSE};
use crate::ending::Ending;
use crate::forward::RateLimit;
use crate::peers::PeerTable;

/// Per second from the address of a peer. It needs two at most; the rest is what somebody who sends in its name, and
/// knows our public key, has to share with it. One address is always the same worker's.
const PEER_RATE: u64 = 20;
/// Per second from all other addresses, of all workers together: a peer may have moved, and those that call in vain are
/// logged.
const STRANGER_RATE: u64 = 50;
/// Per second from the address of each peer, and from all others together, of what is no handshake of ours, because the other
/// side has another idea of "sec", of the network, of our key or of the protocol: enough to say so. They cost no key, so they
/// must not be in the way of anything.
const FOREIGN_RATE: u64 = 1;

/// How often per second it is looked up whose address something comes from that is not even a handshake of ours.
const LOOKS_PER_SECOND: u64 = 1000;

/// The buckets of one worker.
pub(super) struct Handshakes {
    peers: Vec<RateLimit>,
    strangers: RateLimit,
    foreign_peers: Vec<RateLimit>,
    foreign: RateLimit,
    looks: RateLimit,
}

impl Handshakes {
    /// For a gateway with so many peers and workers.
    pub(super) fn new(peers: usize, workers: usize) -> Handshakes {
        Handshakes {
            peers: (0..peers).map(|_| RateLimit::new(PEER_RATE)).collect(),
            strangers: RateLimit::new((STRANGER_RATE / workers.max(1) as u64).max(1)),
            foreign_peers: (0..peers).map(|_| RateLimit::new(FOREIGN_RATE)).collect(),
            foreign: RateLimit::new(FOREIGN_RATE),
            looks: RateLimit::new(LOOKS_PER_SECOND),
        }
    }

    /// The datagram without its stamp, if the control thread shall have it.
    pub(super) fn admit<'a>(
        &mut self,
        table: &PeerTable,
        kind: u8,
        datagram: &'a [u8],
        from: SocketAddr,
        now_ms: u64,
    ) -> Result<&'a [u8], Ending> {
        let (datagram, limit) = match (kind, &table.gate) {
            (INITIATION | RESPONSE, Some(gate)) => {
                (gate.pass(datagram).ok_or(Ending::HandshakeStamp)?, self.limit(table, from))
            }
            (HELLO, None) => (datagram, self.limit(table, from)),
            // The control thread says that "sec" differs.
            (HELLO | INITIATION | RESPONSE, _) => (datagram, self.foreign_limit(table, from)),
            _ => return Err(Ending::DatagramType),
        };
        if limit.allow(now_ms) { Ok(datagram) } else { Err(Ending::HandshakeRate) }
    }

    /// Whether the control thread may be told of something that is no handshake of ours, and that a peer has sent or
    /// `anybody`.
    pub(super) fn may_tell(&mut self, table: &PeerTable, from: SocketAddr, anybody: bool, now_ms: u64) -> bool {
        if !self.looks.allow(now_ms) {
            return false;
        }
        match table.at(from).and_then(|peer| self.foreign_peers.get_mut(peer)) {
            Some(limit) => limit.allow(now_ms),
            None => anybody && self.foreign.allow(now_ms),
        }
    }

    fn limit(&mut self, table: &PeerTable, from: SocketAddr) -> &mut RateLimit {
        table.at(from).and_then(|peer| self.peers.get_mut(peer)).unwrap_or(&mut self.strangers)
    }

    fn foreign_limit(&mut self, table: &PeerTable, from: SocketAddr) -> &mut RateLimit {
        table.at(from).and_then(|peer| self.foreign_peers.get_mut(peer)).unwrap_or(&mut self.foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::DATA;
    use crate::peers::{MIN_DATAGRAM, PeerView};
    use crate::session::Gate;

    const SECOND_MS: u64 = 1000;

    fn address(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], port))
    }

    struct World {
        handshakes: Handshakes,
        table: PeerTable,
        stamped: Vec<u8>,
    }

    impl World {
        /// Peers at 10.0.0.1 and 10.0.0.2, port 1.
        fn new(sealed: bool, workers: usize) -> World {
            let view = |host| PeerView {
                address: address(host, 1),
                outgoing: None,
                incoming: Vec::new(),
                up: false,
                max_datagram: MIN_DATAGRAM,
            };
            let gate = Gate::of(&[7; 32]);
            let mut stamped = vec![0; 100];
            gate.stamp(&mut stamped);
            let table = PeerTable::new(vec![view(1), view(2)], sealed.then_some(gate));
            World { handshakes: Handshakes::new(2, workers), table, stamped }
        }

        fn admit(&mut self, kind: u8, from: SocketAddr, now_ms: u64) -> Result<usize, Ending> {
            self.handshakes.admit(&self.table, kind, &self.stamped, from, now_ms).map(<[u8]>::len)
        }

        /// How many pass of 1000 within a second, from `from` and the ports above.
        fn flood(&mut self, kind: u8, from: SocketAddr, ports: u16, begin_ms: u64) -> usize {
            let from = |number: u64| SocketAddr::new(from.ip(), from.port() + number as u16 % ports);
            (0..SECOND_MS).filter(|ms| self.admit(kind, from(*ms), begin_ms + ms).is_ok()).count()
        }
    }

    #[test]
    fn what_costs_no_key_is_in_nobodys_way() {
        for (sealed, foreign, ours) in [(true, HELLO, INITIATION), (false, INITIATION, HELLO)] {
            let mut world = World::new(sealed, 1);
            for from in [address(1, 1), address(9, 1)] {
                assert!(world.flood(foreign, from, 1, SECOND_MS) <= 2, "from {from}");
                assert_eq!(world.admit(foreign, from, 2 * SECOND_MS - 1), Err(Ending::HandshakeRate));
                assert!(world.admit(ours, from, 2 * SECOND_MS - 1).is_ok(), "from {from}");
            }
        }
    }

    #[test]
    fn of_each_peer_it_is_told_what_is_wrong_with_it_whatever_others_do() {
        let mut world = World::new(true, 1);
        for ms in 0..1000 {
            world.handshakes.may_tell(&world.table, address(9, 9), true, ms / 10);
            world.handshakes.may_tell(&world.table, address(1, 1), true, ms / 10);
        }
        assert!(world.handshakes.may_tell(&world.table, address(2, 1), true, 100));
        assert!(!world.handshakes.may_tell(&world.table, address(2, 1), true, 101));
        assert!(!world.handshakes.may_tell(&world.table, address(8, 1), false, 5000), "nobody's");
        assert!(world.handshakes.may_tell(&world.table, address(8, 1), true, 5000));
    }

    #[test]
    fn one_address_takes_nothing_from_another() {
        let mut world = World::new(true, 1);
        // Somebody who knows the key floods in the name of a peer, and in that of everybody else.
        let of_peer = world.flood(INITIATION, address(1, 1), 1, 0);
        assert!((20..=25).contains(&of_peer), "{of_peer}");
        let of_strangers = world.flood(INITIATION, address(1, 2), 500, 0);
        assert!((50..=62).contains(&of_strangers), "{of_strangers}");
        for kind in [INITIATION, RESPONSE] {
            assert_eq!(world.admit(kind, address(2, 1), SECOND_MS), Ok(100));
        }
        assert_eq!(world.admit(INITIATION, address(3, 1), SECOND_MS), Err(Ending::HandshakeRate));
    }

    #[test]
    fn strangers_share_one_rate_however_many_workers_there_are() {
        for workers in [1, 2, 5, 64] {
            let of_all: usize =
                (0..workers).map(|_| World::new(true, workers).flood(INITIATION, address(9, 1), 1, 0)).sum();
            assert!((50..=130).contains(&of_all), "{of_all} of {workers}");
        }
    }

    #[test]
    fn a_stamp_is_looked_at_before_anything_is_counted() {
        let mut world = World::new(true, 1);
        world.stamped[3] ^= 1;
        assert_eq!(world.admit(INITIATION, address(1, 1), 0), Err(Ending::HandshakeStamp));
        assert_eq!(world.admit(DATA, address(1, 1), 0), Err(Ending::DatagramType));
        world.stamped[3] ^= 1;
        assert_eq!(world.admit(INITIATION, address(1, 1), 0), Ok(100));
    }
}
