//! The table of addresses, and how many of its entries each peer and each station on this side has.

use std::collections::HashMap;
use std::sync::Arc;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::mac_table::{MacKey, Owner};

use super::{Entry, Key, MAX_ENTRIES};
use crate::limits::{Limits, Reason, Tally};

/// Who an entry counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Peer(PeerId),
    Station(MacKey),
}

impl Holder {
    fn of(key: &Key, entry: &Entry) -> Holder {
        match entry.owner {
            Owner::Peer(peer) => Holder::Peer(peer),
            Owner::Local => Holder::Station(MacKey::new(key.vlan, entry.mac)),
        }
    }
}

/// Why an entry finds no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The table has no room for anyone.
    Table,
    /// Whoever it would count for has what it may have.
    Share(Reason),
}

/// The table. Whose an entry is changes only by [`Entries::put`] and [`Entries::give`].
#[derive(Debug, Default)]
pub(super) struct Entries {
    map: HashMap<Key, Entry>,
    held: Tally<Holder>,
    local: usize,
    pub(super) limits: Arc<Limits>,
}

impl Entries {
    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.map.get(key)
    }

    /// For everything but the owner and the MAC.
    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.map.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.map.iter()
    }

    /// For everything but the owner and the MAC.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Key, &mut Entry)> {
        self.map.iter_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Enters what is new, or replaces what was known, if whoever it counts for may have one more.
    pub(super) fn put(&mut self, key: Key, entry: Entry) -> Result<(), Full> {
        let (holder, known) = (Holder::of(&key, &entry), self.map.get(&key));
        let new = known.is_none_or(|known| Holder::of(&key, known) != holder);
        if new && let Some(reason) = self.full(holder, known.is_some_and(|known| known.owner == Owner::Local)) {
            return Err(Full::Share(reason));
        }
        if known.is_none() && self.map.len() >= MAX_ENTRIES {
            return Err(Full::Table);
        }
        self.remove(&key);
        self.count(holder);
        self.map.insert(key, entry);
        Ok(())
    }

    /// Why this holder may not have one more. `instead`: in the place of another entry of this side.
    fn full(&self, holder: Holder, instead: bool) -> Option<Reason> {
        match holder {
            Holder::Peer(peer) => {
                let limit = self.limits.share(Owner::Peer(peer)).addresses;
                self.held.is_full(&holder, limit).then_some(Reason::PeerAddresses)
            }
            Holder::Station(_) if self.held.is_full(&holder, self.limits.addresses_per_mac) => {
                Some(Reason::StationAddresses)
            }
            Holder::Station(_) => {
                let limit = self.limits.local.addresses.filter(|limit| !instead && self.local >= *limit);
                limit.map(|_| Reason::LocalAddresses)
            }
        }
    }

    fn count(&mut self, holder: Holder) {
        self.held.add(holder);
        self.local += usize::from(matches!(holder, Holder::Station(_)));
    }

    fn discount(&mut self, holder: Holder) {
        self.held.remove(&holder);
        self.local -= usize::from(matches!(holder, Holder::Station(_)));
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.map.remove(key)?;
        self.discount(Holder::of(key, &entry));
        Some(entry)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        let gone: Vec<Key> = self.map.iter().filter(|(_, entry)| !keep(entry)).map(|(key, _)| *key).collect();
        for key in gone {
            self.remove(&key);
        }
    }

    /// A MAC is at a peer now, and its addresses with it, those that the peer may have.
    pub(super) fn give(&mut self, mac: MacKey, peer: PeerId) {
        let (vlan, mac) = (mac.vlan(), mac.mac());
        let moved: Vec<Key> =
            self.map.iter().filter(|(k, e)| k.vlan == vlan && e.mac == mac).map(|(k, _)| *k).collect();
        for key in moved {
            let Some(entry) = self.remove(&key).filter(|_| self.limits.allow_ip(peer, key.ip)) else { continue };
            // One that finds no place is asked for again when somebody needs it.
            let _ = self.put(key, Entry { owner: Owner::Peer(peer), verify: None, ..entry });
        }
    }
}
