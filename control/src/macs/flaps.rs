//! MACs that change sides again and again: counted, and frozen where they last proved alive (RFC 7432, section 15.1).

use std::collections::HashMap;

use ipop_dataplane::addr::MacAddr;
use ipop_dataplane::mac_table::MacKey;

/// N of RFC 7432: so many contradictions freeze a MAC.
pub(super) const MOVES: u32 = 5;
/// M of RFC 7432: within so long.
pub(super) const WINDOW_MS: u64 = 180_000;
/// MACs that are counted at a time. What finds no place is settled each time anew, but not frozen.
const MAX_FLAPS: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Flap {
    since_ms: u64,
    count: u32,
    frozen_until_ms: u64,
}

/// How often each MAC was contradicted of late.
#[derive(Debug)]
pub(super) struct Flaps {
    map: HashMap<MacKey, Flap>,
    /// For how long a MAC is frozen; 0 never.
    freeze_ms: u64,
}

impl Flaps {
    pub(super) fn new(freeze_ms: u64) -> Flaps {
        Flaps { map: HashMap::new(), freeze_ms }
    }

    /// Somebody claimed the MAC and lost, or it went back to where it had come from. True if that freezes it.
    pub(super) fn note(&mut self, key: MacKey, now_ms: u64) -> bool {
        if self.map.len() >= MAX_FLAPS && !self.map.contains_key(&key) {
            return false;
        }
        let flap = self.map.entry(key).or_insert(Flap { since_ms: now_ms, count: 0, frozen_until_ms: 0 });
        if now_ms - flap.since_ms > WINDOW_MS {
            (flap.since_ms, flap.count) = (now_ms, 0);
        }
        flap.count += 1;
        let freezes = self.freeze_ms > 0 && flap.count >= MOVES && flap.frozen_until_ms <= now_ms;
        if freezes {
            flap.frozen_until_ms = now_ms + self.freeze_ms;
        }
        freezes
    }

    /// For how many milliseconds more the MAC is frozen.
    pub(super) fn frozen_ms(&self, key: MacKey, now_ms: u64) -> Option<u64> {
        self.map.get(&key).and_then(|flap| flap.frozen_until_ms.checked_sub(now_ms)).filter(|left| *left > 0)
    }

    /// MACs that are frozen now.
    pub(super) fn frozen(&self, now_ms: u64) -> usize {
        self.map.values().filter(|flap| flap.frozen_until_ms > now_ms).count()
    }

    /// An operator says that the MAC is in order, in whatever VLAN. How many were frozen.
    pub(super) fn release(&mut self, mac: MacAddr, now_ms: u64) -> usize {
        let before = self.frozen(now_ms);
        self.map.retain(|key, _| key.mac() != mac);
        before - self.frozen(now_ms)
    }

    /// The MAC is nowhere any more.
    pub(super) fn forget(&mut self, key: MacKey) {
        self.map.remove(&key);
    }

    /// Forgets what has been quiet for the whole window, and what was frozen and has served its time.
    pub(super) fn expire(&mut self, now_ms: u64) {
        self.map.retain(|_, flap| {
            if flap.count >= MOVES { flap.frozen_until_ms > now_ms } else { now_ms - flap.since_ms <= WINDOW_MS }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u8) -> MacKey {
        MacKey::new(Default::default(), MacAddr([2, 0, 0, 0, 0, last]))
    }

    #[test]
    fn five_within_the_window_freeze_for_the_time() {
        let mut flaps = Flaps::new(60_000);
        let frozen: Vec<bool> = (0..5).map(|n| flaps.note(key(1), n * 1000)).collect();
        assert_eq!(frozen, [false, false, false, false, true]);
        assert_eq!((flaps.frozen_ms(key(1), 5000), flaps.frozen_ms(key(2), 5000)), (Some(59_000), None));
        assert_eq!((flaps.frozen(5000), flaps.frozen_ms(key(1), 64_000)), (1, None));
        flaps.expire(64_000);
        assert!(!flaps.note(key(1), 64_001), "it begins anew");
    }

    #[test]
    fn few_in_a_long_time_freeze_nothing() {
        let mut flaps = Flaps::new(60_000);
        assert!((0..100).all(|n| !flaps.note(key(1), n * (WINDOW_MS / 3))));
    }

    #[test]
    fn an_operator_releases_and_zero_never_freezes() {
        let mut flaps = Flaps::new(60_000);
        assert_eq!((0..5).filter(|_| flaps.note(key(1), 0)).count(), 1);
        assert_eq!((flaps.release(key(2).mac(), 1), flaps.release(key(1).mac(), 1)), (0, 1));
        assert_eq!(flaps.frozen_ms(key(1), 1), None);
        let mut never = Flaps::new(0);
        assert!((0..50).all(|_| !never.note(key(1), 0)));
    }
}
