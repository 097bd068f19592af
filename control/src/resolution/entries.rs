//! The table of addresses, and how many of its entries each peer and each station on this side has.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::mac_table::{MacKey, Owner};

use super::{Entry, Key, MAX_ENTRIES};
use crate::limits::{Limits, Reason};

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
            // Whoever spoke, and not whom it named: a guest can name any number.
            Owner::Local => Holder::Station(MacKey::new(key.vlan, entry.station)),
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
    held: HashMap<Holder, HashSet<Key>>,
    /// Of each MAC that is named, wherever it is.
    named: HashMap<MacKey, HashSet<Key>>,
    local: usize,
    pub(super) limits: Arc<Limits>,
}

impl Entries {
    pub(super) fn new(limits: Arc<Limits>) -> Entries {
        Entries { limits, ..Entries::default() }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.map.get(key)
    }

    /// For everything but the owner and the station.
    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.map.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.map.iter()
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
        if new || known.is_some_and(|known| known.mac != entry.mac) {
            self.remove(&key);
            self.held.entry(holder).or_default().insert(key);
            self.named.entry(MacKey::new(key.vlan, entry.mac)).or_default().insert(key);
            self.local += usize::from(matches!(holder, Holder::Station(_)));
        }
        self.map.insert(key, entry);
        Ok(())
    }

    /// Why this holder may not have one more. `instead`: in the place of another entry of this side.
    fn full(&self, holder: Holder, instead: bool) -> Option<Reason> {
        let held = self.held.get(&holder).map_or(0, HashSet::len);
        let is_full = |limit: Option<usize>| limit.is_some_and(|limit| held >= limit);
        match holder {
            Holder::Peer(peer) => {
                is_full(self.limits.share(Owner::Peer(peer)).addresses).then_some(Reason::PeerAddresses)
            }
            Holder::Station(_) if is_full(self.limits.addresses_per_mac) => Some(Reason::StationAddresses),
            Holder::Station(_) => {
                let limit = self.limits.local.addresses.filter(|limit| !instead && self.local >= *limit);
                limit.map(|_| Reason::LocalAddresses)
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.map.remove(key)?;
        let holder = Holder::of(key, &entry);
        discard(&mut self.held, holder, key);
        discard(&mut self.named, MacKey::new(key.vlan, entry.mac), key);
        self.local -= usize::from(matches!(holder, Holder::Station(_)));
        Some(entry)
    }

    /// Forgets what nobody has confirmed for long. How many entries that were.
    pub(super) fn expire(&mut self, now_ms: u64) -> u64 {
        let gone: Vec<Key> =
            self.map.iter().filter(|(_, entry)| entry.expires_ms <= now_ms).map(|(key, _)| *key).collect();
        for key in &gone {
            self.remove(key);
        }
        gone.len() as u64
    }

    /// All addresses of a peer.
    pub(super) fn of_peer(&self, peer: PeerId) -> Vec<Key> {
        self.held.get(&Holder::Peer(peer)).into_iter().flatten().copied().collect()
    }

    /// Up to `most` addresses of a MAC.
    pub(super) fn of_mac(&self, mac: MacKey, most: usize) -> Vec<Key> {
        self.named.get(&mac).into_iter().flatten().take(most).copied().collect()
    }

    /// A MAC is at a peer now, and its addresses with it, those that the peer may have.
    pub(super) fn give(&mut self, mac: MacKey, peer: PeerId) {
        let moved: Vec<Key> = self.held.get(&Holder::Station(mac)).into_iter().flatten().copied().collect();
        for key in moved {
            self.hand_over(key, peer);
        }
    }

    /// An address is behind a peer now, if the peer may have it.
    pub(super) fn hand_over(&mut self, key: Key, peer: PeerId) {
        if let Some(entry) = self.remove(&key).filter(|_| self.limits.allow_ip(peer, key.ip)) {
            // One that finds no place is asked for again when somebody needs it.
            let _ = self.put(key, Entry { owner: Owner::Peer(peer), verify: None, ..entry });
        }
    }
}

/// Takes a key out of a list, and the list away with its last.
fn discard<K: Eq + Hash>(lists: &mut HashMap<K, HashSet<Key>>, of: K, key: &Key) {
    if let Some(keys) = lists.get_mut(&of) {
        keys.remove(key);
        if keys.is_empty() {
            lists.remove(&of);
        }
    }
}
