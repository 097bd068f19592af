//! MACs behind a peer that somebody else claims: the gateway that has one is asked, and until it answers the old path stays.

use std::collections::HashMap;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::mac_table::{MacKey, Owner, newer_move};

use super::contest::MacKeyOrd;
use crate::deadlines::Deadlines;

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
