//! The window of counters already seen (RFC 6479): a datagram that the underlay doubled is dropped.

const WORDS: usize = 128;
const WORD_BITS: u64 = 64;

/// How far a datagram may come late, in counters of its lane. One word less than the bitmap has: the word
/// that the newest counter enters is cleared when it is entered (RFC 6479, section 3).
const WINDOW: u64 = (WORDS as u64 - 1) * WORD_BITS;

/// The window of one lane of one peer.
pub struct ReplayWindow {
    /// One above the highest counter seen.
    next: u64,
    bits: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow { next: 0, bits: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// True, and remembered, if `counter` was not seen before and is not older than the window.
    pub fn accept(&mut self, counter: u64) -> bool {
        let word = counter / WORD_BITS;
        if counter >= self.next {
            // Clear the words between the old end and the new one; all of them after a long jump. Before the first
            // counter there is no old end, and every word is clear.
            let last = self.next.wrapping_sub(1) / WORD_BITS;
            let steps = if self.next == 0 { 0 } else { (word - last).min(WORDS as u64) };
            for step in 0..steps {
                self.bits[((word - step) % WORDS as u64) as usize] = 0;
            }
            self.next = counter + 1;
        } else if self.next - 1 - counter >= WINDOW {
            return false;
        }
        let mask = 1 << (counter % WORD_BITS);
        let bits = &mut self.bits[(word % WORDS as u64) as usize];
        let fresh = *bits & mask == 0;
        *bits |= mask;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn in_order_twice() {
        let mut window = ReplayWindow::default();
        assert!((0..20_000).all(|c| window.accept(c)));
        assert!(!(0..20_000).any(|c| window.accept(c)));
    }

    #[test]
    fn late_but_inside() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(WINDOW + 10));
        assert!(window.accept(11));
        assert!(!window.accept(10));
        assert!(!window.accept(11));
    }

    proptest! {
        #[test]
        fn same_as_a_set(jumps in proptest::collection::vec((0u64..20_000, any::<bool>()), 1..500)) {
            let mut window = ReplayWindow::default();
            let mut seen = HashSet::new();
            let mut top = 0u64;
            for (jump, back) in jumps {
                let counter = if back { top.saturating_sub(jump) } else { top + jump % 300 };
                let expected = (seen.is_empty() || counter > top || top - counter < WINDOW) && seen.insert(counter);
                prop_assert_eq!(window.accept(counter), expected, "{}", counter);
                top = top.max(counter);
            }
        }
    }
}
