//! Who leaves when a part of the MAC table is full: what never proved alive, the oldest first.
//!
//! A guest can make up any number of sources. A MAC that has answered a question is no invention, so it stays; one that has
//! merely been seen makes room for a newcomer.

use std::collections::{HashMap, HashSet, VecDeque};

use ipop_dataplane::mac_table::{MacEntry, MacKey, MacTable, Owner};

use super::Macs;

/// Entries that are looked at for one that can go, so that a newcomer costs no sweep.
const LOOKS: usize = 32;

/// The order in which MACs came, for each owner, and which have proved alive.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// With the second at which each was entered, or looked at last. Those that have gone meanwhile are passed over.
    queues: HashMap<Owner, VecDeque<(MacKey, u32)>>,
    proved: HashSet<MacKey>,
}

impl Room {
    /// The owner, which has `held` entries now, has got one more.
    pub(super) fn entered(&mut self, owner: Owner, key: MacKey, now: u32, held: usize, table: &MacTable) {
        let queue = self.queues.entry(owner).or_default();
        queue.push_back((key, now));
        // Of those that left by themselves a note remains; as many as there are entries at most.
        if queue.len() > 2 * held + LOOKS {
            let mut seen = HashSet::with_capacity(held);
            queue.retain(|(key, _)| table.lookup(*key).is_some_and(|entry| entry.owner == owner) && seen.insert(*key));
        }
    }

    pub(super) fn left(&mut self, key: MacKey) {
        self.proved.remove(&key);
    }

    /// The MAC has answered a question.
    pub(super) fn prove(&mut self, key: MacKey) {
        self.proved.insert(key);
    }

    /// An entry of this owner that makes room: one that was silent since it came, or else the oldest that has not proved
    /// alive. `None` if none was found. `may_go` says which are not in use for anything else.
    pub(super) fn victim(
        &mut self,
        owner: Owner,
        table: &MacTable,
        mut may_go: impl FnMut(MacKey) -> bool,
    ) -> Option<MacKey> {
        let queue = self.queues.get_mut(&owner)?;
        let mut second = None;
        let mut looks = 0;
        while looks < LOOKS {
            let Some((key, at)) = queue.pop_front() else { break };
            let Some(entry) = table.lookup(key).filter(|entry| entry.owner == owner) else { continue };
            looks += 1;
            if self.proved.contains(&key) || !may_go(key) {
                queue.push_back((key, at));
            } else if entry.seen > at + 1 {
                // It goes on speaking.
                second.get_or_insert(key);
                queue.push_back((key, entry.seen));
            } else {
                return Some(key);
            }
        }
        second
    }

    /// A peer is gone with all it had.
    pub(super) fn flush(&mut self, owner: Owner) {
        self.queues.remove(&owner);
    }
}

impl Macs {
    /// Makes room for one more of this owner if its share is full; false if nothing could go.
    pub(super) fn has_room(&mut self, owner: Owner) -> bool {
        !self.held.is_full(&owner, self.limits.share(owner).macs) || self.evict(owner)
    }

    pub(super) fn evict(&mut self, owner: Owner) -> bool {
        let Macs { room, writer, contests, disputes, limits, .. } = self;
        let busy = |key: MacKey| {
            contests.get(key).is_some() || disputes.get(key).is_some() || limits.sticky_macs.contains(&key.mac())
        };
        let Some(victim) = room.victim(owner, writer.table(), |key| !busy(key)) else { return false };
        self.remove(victim);
        self.stats.evicted += 1;
        true
    }

    pub(super) fn remove(&mut self, key: MacKey) {
        if let Some(known) = self.writer.remove(key) {
            self.held.remove(&known.owner);
            self.room.left(key);
            self.flaps.forget(key);
        }
    }

    pub(super) fn keep(&mut self, keep: impl Fn(MacKey, MacEntry) -> bool) {
        let Macs { writer, held, room, flaps, .. } = self;
        writer.retain(|key, entry| {
            let kept = keep(key, entry);
            if !kept {
                held.remove(&entry.owner);
                room.left(key);
                flaps.forget(key);
            }
            kept
        });
    }

    /// False if the table is full, and nothing was found that could go.
    pub(super) fn enter(&mut self, key: MacKey, entry: MacEntry) -> bool {
        let known = self.owner_entry(key);
        if known.is_none() && self.writer.len() >= self.writer.capacity() {
            // Its own, or else those of whoever has most.
            let _ = self.evict(entry.owner) || self.held.largest().is_some_and(|owner| self.evict(owner));
        }
        if self.writer.insert(key, entry).is_err() {
            self.stats.table_full += 1;
            return false;
        }
        if known.is_none_or(|known| known.owner != entry.owner) {
            if let Some(known) = known {
                self.held.remove(&known.owner);
                self.room.left(key);
            } else {
                self.stats.learned += 1;
            }
            self.held.add(entry.owner);
            let held = self.held.of(&entry.owner);
            self.room.entered(entry.owner, key, entry.seen, held, self.writer.table());
        }
        true
    }
}
