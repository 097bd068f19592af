//! Tests of MACs on this side that a peer claims: is it still alive here?

use std::collections::HashMap;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::mac_table::{MacEntry, MacKey};

use crate::deadlines::Deadlines;

/// Time for an answer of a MAC whose IP address is known. Two questions are asked in it; a host answers in far less.
pub(super) const ASKED_MS: u64 = 300;
/// Time for a frame of a MAC that cannot be asked, and that somebody says has moved: it must be reachable again within a
/// second.
pub(super) const WATCHED_MS: u64 = 700;
/// The same where no number speaks for a move.
pub(super) const WATCHED_LONG_MS: u64 = 1100;
/// The question is repeated after this time, and looks for frames are so far apart.
pub(super) const LOOK_MS: u64 = 100;
/// MACs that can be at test at a time, and of these for the claims of one peer. It also bounds the questions and messages
/// that a peer can cause.
pub(super) const MAX_CONTESTS: usize = 1024;
pub(super) const MAX_CONTESTS_OF_PEER: usize = 256;
/// Newer claims that begin a test anew: two that outbid each other must not put off its end.
pub(super) const MAX_ROUNDS: u8 = 3;
/// Gateways that are told of the outcome one by one; for more of them all are told.
pub(super) const MAX_ASKERS: usize = 16;

/// A local MAC at test.
#[derive(Debug, Clone)]
pub(super) struct Contest {
    /// Who claims it; nobody if a peer has only asked.
    pub(super) claimant: Option<PeerId>,
    /// The higher of the mobility sequence numbers on both sides.
    pub(super) moves: u16,
    /// It is the claimant's.
    pub(super) newer: bool,
    /// What the table says from now on of when it was seen, until it is seen.
    pub(super) seen_before: u32,
    pub(super) alive: bool,
    pub(super) decide_at_ms: u64,
    pub(super) asked_again: bool,
    /// How many newer claims have taken the place of older ones.
    pub(super) rounds: u8,
    /// Peers that wait for the outcome.
    pub(super) askers: Vec<PeerId>,
}

impl Contest {
    pub(super) fn is_alive(&self, known: MacEntry) -> bool {
        self.alive || known.seen != self.seen_before
    }

    pub(super) fn add_asker(&mut self, peer: PeerId) {
        if self.askers.len() <= MAX_ASKERS && !self.askers.contains(&peer) {
            self.askers.push(peer);
        }
    }
}

/// All tests under way.
#[derive(Debug, Default)]
pub(super) struct Contests {
    map: HashMap<MacKey, Contest>,
    of_peer: HashMap<PeerId, usize>,
    deadlines: Deadlines<MacKeyOrd>,
}

/// Keys in some order, for the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MacKeyOrd(pub(super) MacKey);

impl Ord for MacKeyOrd {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.bits().cmp(&other.0.bits())
    }
}

impl PartialOrd for MacKeyOrd {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Contests {
    pub(super) fn get_mut(&mut self, key: MacKey) -> Option<&mut Contest> {
        self.map.get_mut(&key)
    }

    pub(super) fn get(&self, key: MacKey) -> Option<&Contest> {
        self.map.get(&key)
    }

    /// False if there is no room for one more for this claimant.
    pub(super) fn has_room(&self, claimant: Option<PeerId>) -> bool {
        let of_claimant = claimant.and_then(|peer| self.of_peer.get(&peer)).copied().unwrap_or(0);
        self.map.len() < MAX_CONTESTS && of_claimant < MAX_CONTESTS_OF_PEER
    }

    pub(super) fn insert(&mut self, key: MacKey, contest: Contest, now_ms: u64) {
        self.remove(key);
        if let Some(peer) = contest.claimant {
            *self.of_peer.entry(peer).or_insert(0) += 1;
        }
        self.map.insert(key, contest);
        self.look_again(key, now_ms);
    }

    pub(super) fn remove(&mut self, key: MacKey) -> Option<Contest> {
        let contest = self.map.remove(&key)?;
        if let Some(peer) = contest.claimant
            && let Some(count) = self.of_peer.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                self.of_peer.remove(&peer);
            }
        }
        Some(contest)
    }

    /// The next look at a test: soon, but when it is to be decided at the latest.
    pub(super) fn look_again(&mut self, key: MacKey, now_ms: u64) {
        if let Some(contest) = self.map.get(&key) {
            self.deadlines.push(contest.decide_at_ms.min(now_ms + LOOK_MS), MacKeyOrd(key));
        }
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.deadlines.next_ms()
    }

    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<MacKey> {
        self.deadlines.pop_due(now_ms).map(|key| key.0)
    }

    /// The claims of a peer are void.
    pub(super) fn flush(&mut self, peer: PeerId) {
        let of_peer: Vec<MacKey> =
            self.map.iter().filter(|(_, contest)| contest.claimant == Some(peer)).map(|(key, _)| *key).collect();
        for key in of_peer {
            self.remove(key);
        }
        self.map.values_mut().for_each(|contest| contest.askers.retain(|asker| *asker != peer));
    }
}
