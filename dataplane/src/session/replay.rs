//! The window of counters already seen: a datagram that the underlay doubled, or that somebody plays again, is dropped.
//!
//! RFC 6479 keeps a ring of bitmaps that one thread updates. Here several workers share a window, since a datagram that is
//! played again from another port arrives at another worker; so each word carries beside its bits the number of the
//! block of counters that they are of, and is replaced as a whole. A word only ever goes on to a newer block, so no counter
//! is taken twice, whatever the threads do.

#[cfg(not(loom))]
const WORDS: usize = 512;
#[cfg(loom)]
const WORDS: usize = 2;
const BITS: u64 = 32;

/// How far a datagram may come late, in counters of its lane, and still be taken.
pub const REPLAY_WINDOW: u64 = (WORDS as u64 - 1) * BITS;
/// Counters stay below: a block's number has 32 bits.
pub const MAX_COUNTER: u64 = 1 << 36;

use crate::sync::{AtomicU64, Ordering};

/// What a counter is to a [`ReplayWindow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Higher than all before.
    Newest,
    /// Not seen before, though higher ones were.
    Late,
    /// Seen before, too old to tell, or higher than counters go.
    Stale,
}

/// The window of one lane of one session.
pub struct ReplayWindow {
    /// One above the highest counter seen; racing threads may leave it a little low.
    next: AtomicU64,
    /// The number of a block of 32 counters, and a bit for each that was seen.
    words: Box<[AtomicU64]>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow { next: AtomicU64::new(0), words: (0..WORDS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl ReplayWindow {
    /// False if [`Self::accept`] would refuse the counter: worth asking before a datagram is authenticated.
    pub fn may_accept(&self, counter: u64) -> bool {
        let (slot, block, bit) = place(counter);
        counter < MAX_COUNTER && merged(self.words[slot].load(Ordering::Relaxed), block, bit).is_some()
    }

    /// Takes the counter of an authentic datagram, unless it is stale.
    pub fn accept(&self, counter: u64) -> Freshness {
        if counter >= MAX_COUNTER {
            return Freshness::Stale;
        }
        let (slot, block, bit) = place(counter);
        // One word decides, so its own order is all that matters.
        let taken = self.words[slot]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| merged(word, block, bit))
            .is_ok();
        if !taken {
            return Freshness::Stale;
        }
        if counter < self.next.load(Ordering::Relaxed) {
            return Freshness::Late;
        }
        self.next.store(counter + 1, Ordering::Relaxed);
        Freshness::Newest
    }
}

fn place(counter: u64) -> (usize, u64, u64) {
    let block = counter / BITS;
    ((block % WORDS as u64) as usize, block, 1 << (counter % BITS))
}

/// The word with the counter in it; `None` if it is there already, or the word has gone on to a newer block.
fn merged(word: u64, block: u64, bit: u64) -> Option<u64> {
    let known = word >> BITS;
    match known.cmp(&block) {
        std::cmp::Ordering::Less => Some(block << BITS | bit),
        std::cmp::Ordering::Equal if word & bit == 0 => Some(word | bit),
        _ => None,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn accepts(window: &ReplayWindow, counter: u64) -> bool {
        let before = window.may_accept(counter);
        let taken = window.accept(counter) != Freshness::Stale;
        assert_eq!(before, taken);
        taken
    }

    #[test]
    fn in_order_twice() {
        let window = ReplayWindow::default();
        assert!((0..40_000).all(|c| window.accept(c) == Freshness::Newest));
        assert!(!(0..40_000).any(|c| accepts(&window, c)));
    }

    #[test]
    fn late_but_inside() {
        let window = ReplayWindow::default();
        assert!(accepts(&window, REPLAY_WINDOW + 10));
        assert_eq!(window.accept(11), Freshness::Late);
        assert!(!accepts(&window, 11));
    }

    #[test]
    fn counters_end() {
        let window = ReplayWindow::default();
        assert!(!accepts(&window, u64::MAX >> 8));
        assert!(accepts(&window, MAX_COUNTER - 1));
        assert!(!accepts(&window, MAX_COUNTER - 1));
        assert!(!accepts(&window, MAX_COUNTER));
    }

    proptest! {
        /// Never twice, and always if new and inside of the window.
        #[test]
        fn against_a_set(jumps in proptest::collection::vec((0u64..40_000, any::<bool>()), 1..500)) {
            let window = ReplayWindow::default();
            let mut seen = HashSet::new();
            let mut top = 0u64;
            for (jump, back) in jumps {
                let counter = if back { top.saturating_sub(jump) } else { top + jump % 600 };
                let taken = accepts(&window, counter);
                if seen.contains(&counter) {
                    prop_assert!(!taken, "{} twice", counter);
                } else if counter > top || top - counter < REPLAY_WINDOW {
                    prop_assert!(taken, "{} of {}", counter, top);
                }
                if taken {
                    seen.insert(counter);
                }
                top = top.max(counter);
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Two workers get the same datagram, and a third one that takes over its word.
    #[test]
    fn nothing_is_taken_twice() {
        loom::model(|| {
            let window = Arc::new(ReplayWindow::default());
            let takers: Vec<_> = [5, 5, 5 + WORDS as u64 * BITS]
                .into_iter()
                .map(|counter| {
                    let window = window.clone();
                    thread::spawn(move || window.accept(counter) != Freshness::Stale)
                })
                .collect();
            let taken: Vec<bool> = takers.into_iter().map(|t| t.join().unwrap()).collect();
            assert!(!(taken[0] && taken[1]));
            assert!(taken[2]);
        });
    }
}
