//! Two gateways with one key take each other's sessions: seen by the lives that a key has had.
//!
//! A gateway that restarts has a new life, and the one before never comes back. So if a life has a session again after another
//! life had one, both live. Sessions prove that: nobody else has the key, and what was recorded leads to none. From then on
//! the link stays with the life that it has, while that is heard, and the other one is not answered. A further life may be
//! the one that has restarted, so it is.

use std::net::SocketAddr;

/// Lives that are remembered.
const REMEMBERED: usize = 4;
/// Without a sign of the other gateway for so long, there is only one. It is seen when it has been silent to this one and
/// tries again, which takes less than 20 seconds.
const OVER_MS: u64 = 120_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    number: u64,
    address: SocketAddr,
}

/// Where the two are: the one that the link stays with, and the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Twins {
    /// The link's.
    pub here: SocketAddr,
    /// Not answered.
    pub there: SocketAddr,
}

/// The lives of one key.
#[derive(Debug, Default)]
pub(super) struct Lives {
    current: Option<Life>,
    /// The newest last.
    past: Vec<Life>,
    /// Which other life was seen last, and when.
    other: Option<(Life, u64)>,
    /// The newest time that it has put on a handshake.
    other_timestamp: u64,
}

impl Lives {
    /// There is a session with this life. True if another one lives too.
    pub(super) fn has_session(&mut self, number: u64, address: SocketAddr, now_ms: u64) -> bool {
        let Some(current) = self.current.filter(|current| current.number != number) else {
            self.current = Some(Life { number, address });
            return false;
        };
        let known = self.past.iter().position(|life| life.number == number);
        let back = known.map(|at| self.past.remove(at));
        if self.past.len() == REMEMBERED {
            self.past.remove(0);
        }
        self.past.push(current);
        // Where it was: where it is now shows by its next datagram.
        self.current = Some(back.unwrap_or(Life { number, address }));
        if back.is_some() {
            self.other = Some((current, now_ms));
        }
        back.is_some()
    }

    /// The one with the session is at another address.
    pub(super) fn moved(&mut self, address: SocketAddr) {
        if let Some(current) = &mut self.current {
            current.address = address;
        }
    }

    /// A handshake of another life comes in while the current one is up. True if it is not to be answered.
    pub(super) fn refuses(&mut self, number: u64, timestamp: u64, from: SocketAddr, now_ms: u64) -> bool {
        let current = self.current.is_some_and(|current| current.number == number);
        if current || self.twins(now_ms).is_none() || !self.past.iter().any(|life| life.number == number) {
            return false;
        }
        // One that was recorded says nothing of now.
        if timestamp > self.other_timestamp {
            self.other_timestamp = timestamp;
            self.other = Some((Life { number, address: from }, now_ms));
        }
        true
    }

    /// Both addresses, while there are two.
    pub(super) fn twins(&self, now_ms: u64) -> Option<Twins> {
        let (other, seen_ms) = self.other?;
        let (here, there) = (self.current?.address, other.address);
        (now_ms.saturating_sub(seen_ms) < OVER_MS).then_some(Twins { here, there })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 5800))
    }

    #[test]
    fn a_gateway_that_restarts_and_moves_is_one() {
        let mut lives = Lives::default();
        for number in 0..20 {
            assert!(!lives.has_session(number, at(number as u8 % 3), number * 1000));
            assert!(!lives.has_session(number, at(7), number * 1000 + 1), "new keys");
            lives.moved(at(9));
            assert_eq!(lives.twins(number * 1000 + 2), None);
            // Its earlier life may have left something on the wire.
            assert!(!lives.refuses(number.saturating_sub(1), u64::MAX, at(1), number * 1000 + 2));
        }
        assert!(lives.past.len() <= REMEMBERED);
    }

    #[test]
    fn a_life_that_comes_back_shows_that_there_are_two_and_is_kept() {
        let mut lives = Lives::default();
        lives.has_session(1, at(1), 0);
        lives.has_session(2, at(1), 1000);
        lives.moved(at(2));
        assert!(lives.has_session(1, at(2), 17_000));
        let both = Some(Twins { here: at(1), there: at(2) });
        assert_eq!(lives.twins(17_000), both);
        assert!(!lives.refuses(1, 5, at(1), 18_000), "new keys for the one");
        assert!(lives.refuses(2, 5, at(2), 18_000));
        assert!(!lives.refuses(3, 5, at(1), 18_000), "one of them has restarted");
        assert!(lives.refuses(2, 6, at(2), 120_000));
        assert!(lives.refuses(2, 6, at(66), 121_000), "played again, from elsewhere");
        assert_eq!(lives.twins(239_999), both);
        assert_eq!(lives.twins(240_000), None);
        assert!(!lives.refuses(2, 7, at(2), 240_000), "the other one is alone now");
    }
}
