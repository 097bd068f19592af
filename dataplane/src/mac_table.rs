//! The MAC table: who owns a MAC address in a VLAN. One writer, any number of readers, no lock.
//!
//! The control thread is the only one that inserts, moves and removes ([`MacWriter`] cannot be cloned);
//! workers look up ([`MacTable::lookup`], wait-free) and refresh the age of what they see
//! ([`MacTable::touch`], one compare-and-swap at most once per second and entry).
//!
//! An entry is two words. The key has the VLAN and the MAC:
//!
//! ```text
//!   63  60      48 47                                            0
//!   +-+---+-------+-----------------------------------------------+
//!   |1| 0 | VLAN  |                      MAC                      |   0 in an empty slot
//!   +-+---+-------+-----------------------------------------------+
//! ```
//!
//! and the value has what is known of it:
//!
//! ```text
//!   63  59       48 47         36 35    28 27                    0
//!   +-+-+----------+-------------+--------+-----------------------+
//!   |V| |  owner   | move number |  reuse |   last seen, seconds  |
//!   +-+-+----------+-------------+--------+-----------------------+
//! ```
//!
//! *reuse* counts how often the slot changed its key. A reader reads the value, the key and the value again, and
//! believes the value only if *reuse* stayed the same: so it can never take one key's value for another's. A key is
//! in one of two buckets of four slots, one cache line each, so that a look-up touches at most two lines. The hash is
//! keyed, because strangers choose MACs: nobody outside can fill a chosen bucket.

use crate::addr::{MacAddr, PeerId, Vlan};
use crate::sync::{AtomicU64, Ordering};

const SLOTS: usize = 4;
/// An odd constant without a pattern: the fractional part of the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
const KEY_VALID: u64 = 1 << 63;
const VALUE_VALID: u64 = 1 << 63;
const OWNER_SHIFT: u32 = 48;
const OWNER_LOCAL: u64 = 0xfff;
const MOVE_SHIFT: u32 = 36;
const MOVE_MASK: u64 = 0xfff;
const REUSE_SHIFT: u32 = 28;
const REUSE_MASK: u64 = 0xff << REUSE_SHIFT;
const SEEN_MASK: u64 = (1 << 28) - 1;

/// VLAN and MAC in one word: what frames are forwarded by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MacKey(u64);

impl MacKey {
    /// The key of `mac` in `vlan`.
    pub fn new(vlan: Vlan, mac: MacAddr) -> MacKey {
        MacKey(KEY_VALID | u64::from(vlan.bits()) << 48 | mac.to_u64())
    }

    /// The word itself.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The MAC address.
    pub fn mac(self) -> MacAddr {
        MacAddr::from_u64(self.0)
    }

    /// The VLAN.
    pub fn vlan(self) -> Vlan {
        Vlan::from_bits((self.0 >> 48) as u16 & 0x1fff).unwrap_or_default()
    }
}

/// Where a MAC address is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Owner {
    /// Behind this gateway's port.
    Local,
    /// Behind a peer.
    Peer(PeerId),
}

/// What the table knows of a MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacEntry {
    /// Where it is.
    pub owner: Owner,
    /// How often it moved between gateways, modulo 4096 (compare with [`newer_move`]); a claim with a higher number wins
    /// (RFC 7432, section 7.7).
    pub moves: u16,
    /// When a frame from it was last seen, in seconds of the gateway's clock.
    pub seen: u32,
}

/// True if move number `a` is newer than `b`, in serial number arithmetic (RFC 1982) of 12 bits.
pub fn newer_move(a: u16, b: u16) -> bool {
    let distance = a.wrapping_sub(b) & MOVE_MASK as u16;
    distance != 0 && distance < 1 << 11
}

impl MacEntry {
    fn pack(self, reuse: u64) -> u64 {
        let owner = match self.owner {
            Owner::Local => OWNER_LOCAL,
            Owner::Peer(peer) => u64::from(peer.0) & 0xfff,
        };
        VALUE_VALID
            | owner << OWNER_SHIFT
            | (u64::from(self.moves) & MOVE_MASK) << MOVE_SHIFT
            | (reuse & REUSE_MASK)
            | (u64::from(self.seen) & SEEN_MASK)
    }

    fn unpack(value: u64) -> MacEntry {
        let owner = match value >> OWNER_SHIFT & 0xfff {
            OWNER_LOCAL => Owner::Local,
            peer => Owner::Peer(PeerId(peer as u16)),
        };
        MacEntry { owner, moves: (value >> MOVE_SHIFT & MOVE_MASK) as u16, seen: (value & SEEN_MASK) as u32 }
    }
}

#[repr(align(64))]
struct Bucket {
    keys: [AtomicU64; SLOTS],
    values: [AtomicU64; SLOTS],
}

/// The table as workers see it.
pub struct MacTable {
    buckets: Box<[Bucket]>,
    seed: [u64; 2],
}

/// Both buckets of a key are full, or the table holds as many entries as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the MAC table is full")]
pub struct TableFull;

impl MacTable {
    /// A table for at least `capacity` entries, and the one handle that may change it. `seed` keys the hash and must
    /// not be known to anyone who can choose MAC addresses.
    pub fn new(capacity: usize, seed: [u64; 2]) -> (std::sync::Arc<MacTable>, MacWriter) {
        // A quarter full at most, one entry to a bucket of four on average: with the emptier of two buckets to go to, a
        // key then always finds a place (tested with the largest capacity of a gateway). At half full one in 80 000 does not.
        let buckets = capacity.max(SLOTS).next_power_of_two();
        let bucket = |_| Bucket {
            keys: std::array::from_fn(|_| AtomicU64::new(0)),
            values: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        let table = std::sync::Arc::new(MacTable { buckets: (0..buckets).map(bucket).collect(), seed });
        (table.clone(), MacWriter { table, capacity, len: 0 })
    }

    /// The two buckets that may hold `key`.
    fn buckets_of(&self, key: MacKey) -> [&Bucket; 2] {
        // Folded multiplications: every bit of the key and of the seed reaches both halves. After a single one the
        // hashes of consecutive MACs are an arithmetic progression, and some seeds crowd it into few buckets.
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            (product >> 64) as u64 ^ product as u64
        };
        let [first, second] = self.seed;
        let hash = fold(fold(key.0 ^ first, second | 1) ^ second, MIX);
        let mask = self.buckets.len() - 1;
        let first = hash as usize & mask;
        let second = (hash >> 32) as usize & mask;
        [&self.buckets[first], &self.buckets[second]]
    }

    fn slot_of(&self, key: MacKey) -> Option<(&Bucket, usize, u64)> {
        for bucket in self.buckets_of(key) {
            for slot in 0..SLOTS {
                // Acquire on each: the value is read before the key, the key before the value is read again. A writer
                // that changes the key in between changes `reuse` first, so the comparison below fails.
                let before = bucket.values[slot].load(Ordering::Acquire);
                if before & VALUE_VALID == 0 || bucket.keys[slot].load(Ordering::Acquire) != key.0 {
                    continue;
                }
                let after = bucket.values[slot].load(Ordering::Acquire);
                if after & VALUE_VALID != 0 && (before ^ after) & REUSE_MASK == 0 {
                    return Some((bucket, slot, after));
                }
            }
        }
        None
    }

    /// What is known of `key`. Wait-free; never another key's entry.
    pub fn lookup(&self, key: MacKey) -> Option<MacEntry> {
        self.slot_of(key).map(|(_, _, value)| MacEntry::unpack(value))
    }

    /// Notes that a frame from `key` was seen at second `now`. Writes only if the entry is older and still as `known`.
    pub fn touch(&self, key: MacKey, known: MacEntry, now: u32) {
        if known.seen == now {
            return;
        }
        if let Some((bucket, slot, value)) = self.slot_of(key)
            && MacEntry::unpack(value) == known
        {
            let fresh = value & !SEEN_MASK | u64::from(now) & SEEN_MASK;
            // The control thread may have changed the entry meanwhile; then its word stands.
            let _ = bucket.values[slot].compare_exchange(value, fresh, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// All entries, each one read consistently, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (MacKey, MacEntry)> + '_ {
        self.buckets.iter().flat_map(|bucket| {
            (0..SLOTS).filter_map(|slot| {
                let before = bucket.values[slot].load(Ordering::Acquire);
                let key = bucket.keys[slot].load(Ordering::Acquire);
                let after = bucket.values[slot].load(Ordering::Acquire);
                let steady = (before ^ after) & (REUSE_MASK | VALUE_VALID) == 0;
                (key != 0 && after & VALUE_VALID != 0 && steady).then(|| (MacKey(key), MacEntry::unpack(after)))
            })
        })
    }
}

/// The one handle that changes a [`MacTable`]; the control thread has it.
pub struct MacWriter {
    table: std::sync::Arc<MacTable>,
    capacity: usize,
    len: usize,
}

impl MacWriter {
    /// The table, for looking up.
    pub fn table(&self) -> &MacTable {
        &self.table
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Largest number of entries.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets what is known of `key`.
    pub fn insert(&mut self, key: MacKey, entry: MacEntry) -> Result<(), TableFull> {
        if let Some((bucket, slot, value)) = self.table.slot_of(key) {
            replace(bucket, slot, entry.pack(value));
            return Ok(());
        }
        if self.len >= self.capacity {
            return Err(TableFull);
        }
        let free = |bucket: &Bucket| {
            let empty = |slot: &usize| bucket.values[*slot].load(Ordering::Relaxed) & VALUE_VALID == 0;
            (0..SLOTS).filter(empty).count()
        };
        let [first, second] = self.table.buckets_of(key);
        // The emptier of the two: this is what keeps any bucket from filling up (the power of two choices).
        let bucket = if free(second) > free(first) { second } else { first };
        for slot in 0..SLOTS {
            let old = bucket.values[slot].load(Ordering::Relaxed);
            if old & VALUE_VALID != 0 {
                continue;
            }
            // First the new reuse number without the valid bit, then the key, then the value: a reader that
            // holds the old value sees another reuse number at its second look.
            let reuse = old.wrapping_add(1 << REUSE_SHIFT) & REUSE_MASK;
            bucket.values[slot].store(reuse, Ordering::Release);
            bucket.keys[slot].store(key.0, Ordering::Release);
            bucket.values[slot].store(entry.pack(reuse), Ordering::Release);
            self.len += 1;
            return Ok(());
        }
        Err(TableFull)
    }

    /// Forgets `key`; says what was known.
    pub fn remove(&mut self, key: MacKey) -> Option<MacEntry> {
        let (bucket, slot, value) = self.table.slot_of(key)?;
        replace(bucket, slot, value & REUSE_MASK);
        self.len -= 1;
        Some(MacEntry::unpack(value))
    }

    /// Keeps the entries for which `keep` says so; calls `removed` for the others.
    pub fn retain(&mut self, mut keep: impl FnMut(MacKey, MacEntry) -> bool) {
        for bucket in self.table.buckets.iter() {
            for slot in 0..SLOTS {
                let value = bucket.values[slot].load(Ordering::Acquire);
                let key = MacKey(bucket.keys[slot].load(Ordering::Relaxed));
                if value & VALUE_VALID != 0 && !keep(key, MacEntry::unpack(value)) {
                    replace(bucket, slot, value & REUSE_MASK);
                    self.len -= 1;
                }
            }
        }
    }
}

/// Replaces a value that workers may be renewing. A swap and not a store: a read-modify-write has its place in the one
/// order of all changes to the word, so a concurrent [`MacTable::touch`] either comes before it or fails.
fn replace(bucket: &Bucket, slot: usize, value: u64) {
    bucket.values[slot].swap(value, Ordering::AcqRel);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key(n: u64) -> MacKey {
        MacKey::new(Vlan::UNTAGGED, MacAddr::from_u64(n))
    }

    fn entry(peer: u16) -> MacEntry {
        MacEntry { owner: Owner::Peer(PeerId(peer)), moves: 1, seen: 5 }
    }

    #[test]
    fn entries_survive_packing() {
        for e in [entry(4094), MacEntry { owner: Owner::Local, moves: 4095, seen: (1 << 28) - 1 }] {
            assert_eq!(MacEntry::unpack(e.pack(7 << REUSE_SHIFT)), e);
        }
        let key = MacKey::new(Vlan::service(4095), MacAddr::BROADCAST);
        assert_eq!((key.vlan(), key.mac()), (Vlan::service(4095), MacAddr::BROADCAST));
    }

    #[test]
    fn vlans_are_apart() {
        let (table, mut writer) = MacTable::new(16, [1, 2]);
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        writer.insert(MacKey::new(Vlan::customer(10), mac), entry(1)).unwrap();
        assert_eq!(table.lookup(MacKey::new(Vlan::customer(20), mac)), None);
        assert_eq!(table.lookup(MacKey::new(Vlan::customer(10), mac)), Some(entry(1)));
    }

    /// Whatever MACs a segment has, and whatever the seed: as many as were asked for find a place.
    #[test]
    fn a_table_takes_what_it_was_made_for() {
        let vendor = |n: u64| 0x0016_3e00_0000 + n;
        let scattered = |n: u64| n.wrapping_mul(0x5851_f42d_4c95_7f2d) >> 16;
        let strided = |n: u64| 0x0200_0000_0000 + (n << 8);
        let kinds: [fn(u64) -> u64; 3] = [vendor, scattered, strided];
        for (capacity, seeds) in [(4, 200), (1000, 200), (65_536, 8u64)] {
            for seed in 1..=seeds {
                let seed = [seed.wrapping_mul(0x2545_f491_4f6c_dd1d), (!seed).wrapping_mul(MIX)];
                for kind in kinds {
                    let (table, mut writer) = MacTable::new(capacity, seed);
                    for n in 0..capacity as u64 {
                        assert_eq!(writer.insert(key(kind(n)), entry(1)), Ok(()), "{n} of {capacity}, seed {seed:?}");
                    }
                    assert!((0..capacity as u64).all(|n| table.lookup(key(kind(n))).is_some()));
                    assert_eq!(writer.insert(key(1 << 47), entry(1)), Err(TableFull));
                }
            }
        }
    }

    #[test]
    fn touch_renews_only_what_it_saw() {
        let (table, mut writer) = MacTable::new(16, [1, 2]);
        writer.insert(key(1), entry(1)).unwrap();
        table.touch(key(1), entry(1), 9);
        assert_eq!(table.lookup(key(1)).unwrap().seen, 9);
        table.touch(key(1), entry(1), 12); // stale view: the entry has moved on
        assert_eq!(table.lookup(key(1)).unwrap().seen, 9);
    }

    #[test]
    fn capacity_is_kept() {
        let (_, mut writer) = MacTable::new(100, [3, 4]);
        let stored = (0..200).filter(|n| writer.insert(key(*n), entry(1)).is_ok()).count();
        assert_eq!((stored, writer.len()), (100, 100));
    }

    #[test]
    fn move_numbers_wrap() {
        assert!(newer_move(1, 0) && newer_move(0, 4095) && !newer_move(4095, 0) && !newer_move(5, 5));
    }

    proptest! {
        /// Against a HashMap: same answers after any sequence of operations.
        #[test]
        fn same_as_a_hash_map(ops in proptest::collection::vec((0u8..4, 0u64..64, 0u16..100), 1..400), seed: [u64; 2]) {
            let (table, mut writer) = MacTable::new(64, seed);
            let mut oracle: HashMap<u64, MacEntry> = HashMap::new();
            for (op, n, peer) in ops {
                match op {
                    0 | 1 => if writer.insert(key(n), entry(peer)).is_ok() { oracle.insert(n, entry(peer)); },
                    2 => prop_assert_eq!(writer.remove(key(n)), oracle.remove(&n)),
                    _ => {
                        writer.retain(|_, e| e.owner != Owner::Peer(PeerId(peer)));
                        oracle.retain(|_, e| e.owner != Owner::Peer(PeerId(peer)));
                    }
                }
                prop_assert_eq!(writer.len(), oracle.len());
            }
            for n in 0..64 {
                prop_assert_eq!(table.lookup(key(n)), oracle.get(&n).copied());
            }
            prop_assert_eq!(table.iter().count(), oracle.len());
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;

    fn key(n: u64) -> MacKey {
        MacKey::new(Vlan::UNTAGGED, MacAddr::from_u64(n))
    }

    fn entry(peer: u16, seen: u32) -> MacEntry {
        MacEntry { owner: Owner::Peer(PeerId(peer)), moves: 0, seen }
    }

    /// A slot changes from key 1 to key 2 while a reader looks for key 1: it finds key 1's entry or none.
    #[test]
    fn a_reader_never_takes_another_keys_entry() {
        loom::model(|| {
            let (table, mut writer) = one_bucket();
            writer.insert(key(1), entry(1, 0)).unwrap();
            let reader = thread::spawn(move || table.lookup(key(1)));
            writer.remove(key(1));
            writer.insert(key(2), entry(2, 0)).unwrap();
            let found = reader.join().unwrap();
            assert!(found.is_none() || found == Some(entry(1, 0)), "{found:?}");
        });
    }

    /// The same with a slot that comes back to key 1 for another owner: the old entry or the new one, no mixture.
    #[test]
    fn a_slot_that_is_reused_twice() {
        loom::model(|| {
            let (table, mut writer) = one_bucket();
            writer.insert(key(1), entry(1, 0)).unwrap();
            let reader = thread::spawn(move || table.lookup(key(1)));
            writer.remove(key(1));
            writer.insert(key(2), entry(2, 0)).unwrap();
            writer.remove(key(2));
            writer.insert(key(1), entry(3, 0)).unwrap();
            let found = reader.join().unwrap();
            assert!([None, Some(entry(1, 0)), Some(entry(3, 0))].contains(&found), "{found:?}");
        });
    }

    /// A worker renews the age while control moves the entry: the move is never lost.
    #[test]
    fn touch_never_undoes_a_move() {
        loom::model(|| {
            let (table, mut writer) = one_bucket();
            writer.insert(key(1), entry(1, 0)).unwrap();
            let worker = {
                let table = table.clone();
                thread::spawn(move || table.touch(key(1), entry(1, 0), 7))
            };
            writer.insert(key(1), entry(2, 3)).unwrap();
            worker.join().unwrap();
            assert_eq!(table.lookup(key(1)), Some(entry(2, 3)));
        });
    }

    /// A worker renews the age while control removes the entry and reuses the slot: nothing comes back to life.
    #[test]
    fn touch_never_revives() {
        loom::model(|| {
            let (table, mut writer) = one_bucket();
            writer.insert(key(1), entry(1, 0)).unwrap();
            let worker = {
                let table = table.clone();
                thread::spawn(move || table.touch(key(1), entry(1, 0), 7))
            };
            writer.remove(key(1));
            worker.join().unwrap();
            assert_eq!(table.lookup(key(1)), None);
            assert_eq!(writer.len(), 0);
        });
    }

    /// As small as it gets, so that the model checker meets every reuse of a slot.
    fn one_bucket() -> (std::sync::Arc<MacTable>, MacWriter) {
        let (table, writer) = MacTable::new(1, [1, 2]);
        (table, MacWriter { capacity: 8, ..writer })
    }
}
