//! Which of the numbered packets arrived, how often, and in which order. Exact, not estimated.

/// Packet numbers from here on are taken for damage: a bitmap for them would need more than 128 MiB.
pub const NUMBERS: u64 = 1 << 30;

/// Counts the packets of one trial.
#[derive(Debug, Default)]
pub struct Sequence {
    /// One bit for each number that has arrived.
    seen: Vec<u64>,
    /// The number that would arrive next if nothing were lost or reordered: the highest so far and one.
    next: u64,
    received: u64,
    duplicates: u64,
    reordered: u64,
}

/// What [`Sequence::record`] says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Its number had not arrived before.
    First,
    /// It had.
    Duplicate,
    /// The number is too large to be true.
    Absurd,
}

impl Sequence {
    /// Notes the arrival of a packet.
    pub fn record(&mut self, number: u64) -> Arrival {
        if number >= NUMBERS {
            return Arrival::Absurd;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.seen.len() {
            // In large steps: growing must not cost time again and again.
            self.seen.resize((word + 1).next_power_of_two().max(1024), 0);
        }
        self.received += 1;
        if self.seen[word] & bit != 0 {
            self.duplicates += 1;
            return Arrival::Duplicate;
        }
        self.seen[word] |= bit;
        if number < self.next {
            self.reordered += 1;
        } else {
            self.next = number + 1;
        }
        Arrival::First
    }

    /// Packets, with duplicates.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Packets whose number had arrived before (RFC 5560).
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Packets, duplicates aside, that arrived after one with a higher number (RFC 4737, section 3).
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Different numbers.
    pub fn unique(&self) -> u64 {
        self.received - self.duplicates
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn counts(numbers: impl IntoIterator<Item = u64>) -> (u64, u64, u64, u64) {
        let mut sequence = Sequence::default();
        for number in numbers {
            sequence.record(number);
        }
        (sequence.received(), sequence.unique(), sequence.duplicates(), sequence.reordered())
    }

    #[test]
    fn by_hand() {
        assert_eq!(counts(0..1000), (1000, 1000, 0, 0));
        assert_eq!(counts([0, 1, 3, 2, 4]), (5, 5, 0, 1));
        // The example of RFC 4737, section 3.4: 7 and 8 arrive late.
        assert_eq!(counts([1, 2, 3, 4, 5, 6, 9, 10, 7, 8, 11]), (11, 11, 0, 2));
        assert_eq!(counts([0, 0, 1, 1, 1]), (5, 2, 3, 0));
        // A late duplicate is a duplicate, not a reordered packet.
        assert_eq!(counts([0, 1, 2, 0]), (4, 3, 1, 0));
        assert_eq!(Sequence::default().record(u64::MAX), Arrival::Absurd);
        assert_eq!(Sequence::default().record(NUMBERS - 1), Arrival::First);
    }

    proptest! {
        /// Against sets and the definitions.
        #[test]
        fn as_the_definitions_say(numbers in prop::collection::vec(0u64..300, 0..400)) {
            let unique: BTreeSet<u64> = numbers.iter().copied().collect();
            let mut late = 0;
            for (at, number) in numbers.iter().enumerate() {
                let before = &numbers[..at];
                if !before.contains(number) && before.iter().any(|earlier| earlier > number) {
                    late += 1;
                }
            }
            let (received, found, duplicates, reordered) = counts(numbers.iter().copied());
            prop_assert_eq!(received, numbers.len() as u64);
            prop_assert_eq!(found, unique.len() as u64);
            prop_assert_eq!(duplicates, received - found);
            prop_assert_eq!(reordered, late);
        }
    }
}
