//! Tests of MACs on this side that a peer claims: is it still alive here?

use std::collections::HashMap;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::mac_table::{MacEntry, MacKey, Owner, newer_move};

use super::{Claim, Due, Macs, arrival_notice, disputes, mac_moved, moved, newer_of, refuse, seconds};
use crate::action::{Action, To};
use crate::deadlines::Deadlines;
use crate::limits::Reason;
use crate::rpc::{MacQuery, Message};

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

impl Macs {
    /// Puts a local MAC to the test, or lets a newer claim take the place of the one that it is at test for.
    pub(super) fn contest(
        &mut self,
        key: MacKey,
        known: MacEntry,
        claimant: Option<PeerId>,
        moves: u16,
        now_ms: u64,
    ) -> Claim {
        let newer = newer_move(moves, known.moves);
        let moves = newer_of(known.moves, moves);
        let decide_at_ms = now_ms + if newer { WATCHED_MS } else { WATCHED_LONG_MS };
        match self.contests.get_mut(key) {
            // A frame can be faster than the news of the move. It begins no other test, or there would be no end to it.
            Some(contest) if contest.claimant == claimant => {
                if newer_move(moves, contest.moves) {
                    (contest.moves, contest.newer) = (moves, true);
                    contest.decide_at_ms = contest.decide_at_ms.min(decide_at_ms);
                    self.contests.look_again(key, now_ms);
                }
                return Claim::AtTest;
            }
            Some(contest) if !newer_move(moves, contest.moves) || contest.rounds >= MAX_ROUNDS => return Claim::AtTest,
            _ => {}
        }
        if !self.contests.has_room(claimant) {
            return Claim::AtTest;
        }
        // So that the next frame shows, even one within the second of the last: workers enter when they see it.
        let seen_before = seconds(now_ms).saturating_sub(2);
        self.enter(key, MacEntry { seen: seen_before, ..known });
        let (askers, rounds) =
            self.contests.remove(key).map_or((Vec::new(), 0), |contest| (contest.askers, contest.rounds + 1));
        let contest = Contest {
            claimant,
            moves,
            newer,
            seen_before,
            alive: false,
            decide_at_ms,
            asked_again: false,
            rounds,
            askers,
        };
        self.contests.insert(key, contest, now_ms);
        Claim::Contested
    }

    /// The MAC at test has been asked; its answer decides sooner.
    pub fn asked(&mut self, key: MacKey, now_ms: u64) {
        if let Some(contest) = self.contests.get_mut(key)
            && !contest.asked_again
        {
            contest.decide_at_ms = contest.decide_at_ms.min(now_ms + ASKED_MS);
            self.contests.look_again(key, now_ms);
        }
    }

    /// Looks at a test at once, since the MAC may have given a sign of life.
    pub fn look(&mut self, key: MacKey, now_ms: u64, out: &mut Vec<Action>) {
        if let (Some(contest), Some(known)) = (self.contests.get(key), self.owner_entry(key))
            && known.owner == Owner::Local
            && contest.is_alive(known)
        {
            self.stays(key, known, now_ms, out);
        }
    }

    /// Does one thing that is due. The caller calls until there is nothing more.
    pub fn due(&mut self, now_ms: u64, out: &mut Vec<Action>) -> Option<Due> {
        while let Some(key) = self.contests.pop_due(now_ms) {
            let Some(contest) = self.contests.get_mut(key) else { continue };
            let ask = !contest.asked_again && contest.decide_at_ms > now_ms;
            let due = contest.decide_at_ms <= now_ms;
            let Some(known) = self.writer.table().lookup(key).filter(|entry| entry.owner == Owner::Local) else {
                self.contests.remove(key);
                continue;
            };
            if contest.is_alive(known) {
                self.stays(key, known, now_ms, out);
            } else if due {
                if let Some(peer) = self.goes(key, known, now_ms, out) {
                    return Some(Due::Gone(key, peer));
                }
            } else {
                contest.asked_again = true;
                self.contests.look_again(key, now_ms);
                if ask {
                    return Some(Due::Ask(key));
                }
            }
        }
        while let Some(due) = self.disputes.pop_due(now_ms) {
            match due {
                disputes::Due::Ask(key, dispute) => {
                    let claimant = match dispute.claimant {
                        Owner::Peer(peer) => Some(peer),
                        Owner::Local => None,
                    };
                    let query = MacQuery { mac: key.mac(), vlan: key.vlan(), seq: dispute.moves, claimant: None };
                    out.push(Action::MacQuery(dispute.holder, query, claimant));
                }
                // Frames speak for what is on this side; what a peer claims has to be granted.
                disputes::Due::Silence(key, dispute) => match dispute.claimant {
                    Owner::Local => self.note_move(key, Owner::Peer(dispute.holder), Owner::Local, now_ms, out),
                    claimant => out.push(refuse(claimant, Reason::MacIsThere, key)),
                },
            }
        }
        None
    }

    /// The MAC is alive: it stays, whatever the number of the claim.
    pub(super) fn stays(&mut self, key: MacKey, known: MacEntry, now_ms: u64, out: &mut Vec<Action>) {
        let Some(contest) = self.contests.remove(key) else { return };
        self.stats.conflicts += 1;
        // Above both, so that nobody who has an old number disagrees.
        let above = contest.moves.wrapping_add(1) & 0xfff;
        self.enter(key, MacEntry { moves: above, seen: seconds(now_ms), ..known });
        let tell = self.may_tell(key, now_ms);
        if let Some(peer) = contest.claimant {
            out.push(refuse(Owner::Peer(peer), Reason::MacIsHere, key));
        }
        self.flap(key, now_ms, out);
        // One that is on two sides would have both gateways tell each other without end.
        if tell {
            self.tell(&contest, |to| moved(to, key, above), now_ms, out);
        }
    }

    /// The MAC is silent: it goes to the peer that claims it, which is returned, or is unknown.
    pub(super) fn goes(&mut self, key: MacKey, known: MacEntry, now_ms: u64, out: &mut Vec<Action>) -> Option<PeerId> {
        let contest = self.contests.remove(key)?;
        // What the peer has told of a move is known to all; where it has lost the number, nobody has this one.
        let moves = if contest.newer { contest.moves } else { contest.moves.wrapping_add(1) & 0xfff };
        let Some(peer) = contest.claimant else {
            self.remove(key);
            self.tell(&contest, |to| Action::Message(to, Message::MacReleased(mac_moved(key, moves))), now_ms, out);
            return None;
        };
        let owner = Owner::Peer(peer);
        if !self.has_room(owner) {
            out.push(refuse(owner, Reason::PeerMacs, key));
            self.enter(key, known);
            return None;
        }
        self.disputes.close(key);
        self.enter(key, MacEntry { owner, moves, seen: seconds(now_ms) });
        self.note_move(key, Owner::Local, owner, now_ms, out);
        self.stats.moved_away += 1;
        // The bridge would go on delivering to the old port.
        out.push(Action::Inject(arrival_notice(key)));
        self.tell(&contest, |to| Action::Message(to, Message::MacReleased(mac_moved(key, moves))), now_ms, out);
        Some(peer)
    }

    /// All are told of an outcome, within the rate; beyond it those that wait for it.
    pub(super) fn tell(
        &mut self,
        contest: &Contest,
        message: impl Fn(To) -> Action,
        now_ms: u64,
        out: &mut Vec<Action>,
    ) {
        if self.verdicts.allow(now_ms) || contest.askers.len() > MAX_ASKERS {
            return out.push(message(To::All));
        }
        let waiting =
            contest.askers.iter().chain(contest.claimant.iter().filter(|peer| !contest.askers.contains(peer)));
        out.extend(waiting.map(|peer| message(To::Peer(*peer))));
    }
}
