//! MACs behind a peer that somebody else claims: the gateway that has one is asked, and until it answers the old path stays.

use std::collections::HashMap;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::mac_table::{MacEntry, MacKey, Owner, newer_move};

use super::contest::MacKeyOrd;
use super::{Claim, Macs, newer_of, refuse, seconds};
use crate::action::Action;
use crate::deadlines::Deadlines;
use crate::limits::Reason;

/// The holder hears of a claim as everybody does, and speaks when its test is over. It is asked only after that time, in
/// case the claim was not sent to it or something was lost.
const ASK_MS: [u64; 3] = [400, 400, 500];
/// Claims that wait at a time, and of these those of one claimant.
const MAX_DISPUTES: usize = 1024;
const MAX_DISPUTES_OF_ONE: usize = 256;

/// A claim that waits for the word of the holder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dispute {
    pub(super) holder: PeerId,
    pub(super) claimant: Owner,
    /// The claimant's mobility sequence number.
    pub(super) moves: u16,
    /// The MAC has answered a question on this side.
    pub(super) proved: bool,
    asked: usize,
    due_ms: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Disputes {
    map: HashMap<MacKey, Dispute>,
    of_one: HashMap<Owner, usize>,
    deadlines: Deadlines<MacKeyOrd>,
}

/// What is to be done with a claim that has waited.
pub(super) enum Due {
    /// The holder is asked.
    Ask(MacKey, Dispute),
    /// The holder says nothing: the claim is dropped.
    Silence(MacKey, Dispute),
}

impl Disputes {
    pub(super) fn get(&self, key: MacKey) -> Option<&Dispute> {
        self.map.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: MacKey) -> Option<&mut Dispute> {
        self.map.get_mut(&key)
    }

    /// Begins to wait; false if too many do.
    pub(super) fn open(&mut self, key: MacKey, holder: PeerId, claimant: Owner, moves: u16, now_ms: u64) -> bool {
        let before = self.close(key).filter(|before| before.holder == holder);
        let of_one = self.of_one.get(&claimant).copied().unwrap_or(0);
        if self.map.len() >= MAX_DISPUTES || of_one >= MAX_DISPUTES_OF_ONE {
            return false;
        }
        // One that takes the place of another does not put off the end.
        let (asked, due_ms) = before.map_or((0, now_ms + ASK_MS[0]), |before| (before.asked, before.due_ms));
        self.map.insert(key, Dispute { holder, claimant, moves, proved: false, asked, due_ms });
        *self.of_one.entry(claimant).or_insert(0) += 1;
        self.deadlines.push(due_ms, MacKeyOrd(key));
        true
    }

    /// The claimant has told a number of its claim, which it may not have had before.
    pub(super) fn renew(&mut self, key: MacKey, moves: u16) {
        if let Some(dispute) = self.map.get_mut(&key).filter(|dispute| newer_move(moves, dispute.moves)) {
            dispute.moves = moves;
        }
    }

    pub(super) fn close(&mut self, key: MacKey) -> Option<Dispute> {
        let dispute = self.map.remove(&key)?;
        if let Some(count) = self.of_one.get_mut(&dispute.claimant) {
            *count -= 1;
            if *count == 0 {
                self.of_one.remove(&dispute.claimant);
            }
        }
        Some(dispute)
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.deadlines.next_ms()
    }

    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<Due> {
        while let Some(MacKeyOrd(key)) = self.deadlines.pop_due(now_ms) {
            let Some(dispute) = self.map.get_mut(&key).filter(|dispute| dispute.due_ms <= now_ms) else { continue };
            dispute.asked += 1;
            let Some(wait) = ASK_MS.get(dispute.asked) else {
                return self.close(key).map(|dispute| Due::Silence(key, dispute));
            };
            dispute.due_ms = now_ms + wait;
            let dispute = *dispute;
            self.deadlines.push(dispute.due_ms, MacKeyOrd(key));
            return Some(Due::Ask(key, dispute));
        }
        None
    }

    /// A peer is gone: what it claimed is void, and what it had is anybody's. Returns the claims on the latter.
    pub(super) fn flush(&mut self, peer: PeerId) -> Vec<(MacKey, Dispute)> {
        let concerned = |d: &Dispute| d.holder == peer || d.claimant == Owner::Peer(peer);
        let keys: Vec<MacKey> = self.map.iter().filter(|(_, d)| concerned(d)).map(|(key, _)| *key).collect();
        let closed: Vec<_> = keys.into_iter().filter_map(|key| Some((key, self.close(key)?))).collect();
        closed.into_iter().filter(|(_, dispute)| dispute.holder == peer).collect()
    }
}

impl Macs {
    /// The peer that had a MAC which has sent frames here says that it lives there.
    pub(super) fn lose(
        &mut self,
        key: MacKey,
        dispute: Dispute,
        moves: u16,
        now_ms: u64,
        out: &mut Vec<Action>,
    ) -> Claim {
        self.disputes.close(key);
        let holder = Owner::Peer(dispute.holder);
        // It was here as well; is it still?
        if let Some(known) = self.owner_entry(key).filter(|_| dispute.proved) {
            return self.contest(key, known, Some(dispute.holder), moves, now_ms);
        }
        self.contests.remove(key);
        self.enter(key, MacEntry { owner: holder, moves, seen: seconds(now_ms) });
        self.lost(key, Owner::Local, now_ms, out);
        self.repair(key, now_ms, out);
        Claim::Accepted
    }

    /// A claim has lost: counted, logged, and at last frozen.
    pub(super) fn lost(&mut self, key: MacKey, claimant: Owner, now_ms: u64, out: &mut Vec<Action>) {
        self.stats.disputes += 1;
        out.push(refuse(claimant, Reason::MacIsThere, key));
        self.flap(key, now_ms, out);
    }

    /// A peer has let go of a MAC: it goes to whoever claims it, or is unknown from now on.
    pub fn released(&mut self, key: MacKey, peer: PeerId, moves: u16, now_ms: u64, out: &mut Vec<Action>) {
        let dispute = self.disputes.get(key).filter(|dispute| dispute.holder == peer).copied();
        if let Some(mut dispute) = dispute {
            self.disputes.close(key);
            dispute.moves = newer_of(dispute.moves, moves);
            self.settle(key, dispute, now_ms, out);
        } else if self.owner_entry(key).is_some_and(|known| known.owner == Owner::Peer(peer)) {
            self.remove(key);
        }
    }

    /// The holder has nothing against a claim.
    pub(super) fn settle(&mut self, key: MacKey, dispute: Dispute, now_ms: u64, out: &mut Vec<Action>) {
        let holder = Owner::Peer(dispute.holder);
        match dispute.claimant {
            Owner::Local => self.note_move(key, holder, Owner::Local, now_ms, out),
            Owner::Peer(_) if !self.has_room(dispute.claimant) => {
                self.remove(key);
                out.push(refuse(dispute.claimant, Reason::PeerMacs, key));
            }
            owner @ Owner::Peer(_) => {
                let known = self.owner_entry(key).map_or(dispute.moves, |known| known.moves);
                let moves = newer_of(known, dispute.moves);
                self.enter(key, MacEntry { owner, moves, seen: seconds(now_ms) });
                self.note_move(key, holder, owner, now_ms, out);
            }
        }
    }
}
