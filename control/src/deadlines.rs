//! What is due when. A deadline is noted where it is made; nobody sweeps a table to find the next one.
//!
//! Entries are hints. Whoever takes one looks whether its object is still there and really due, so a deadline that has moved
//! is noted again, and the old note is passed over.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Deadlines in milliseconds of the gateway's clock, with what they are about.
#[derive(Debug)]
pub(crate) struct Deadlines<T>(BinaryHeap<Reverse<(u64, T)>>);

impl<T: Ord> Default for Deadlines<T> {
    fn default() -> Self {
        Deadlines(BinaryHeap::new())
    }
}

impl<T: Ord> Deadlines<T> {
    /// Notes one.
    pub(crate) fn push(&mut self, at_ms: u64, what: T) {
        self.0.push(Reverse((at_ms, what)));
    }

    /// The earliest one, due or not.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((at_ms, _))| *at_ms)
    }

    /// Takes the earliest one if its time has come.
    pub(crate) fn pop_due(&mut self, now_ms: u64) -> Option<T> {
        self.next_ms().filter(|at_ms| *at_ms <= now_ms)?;
        self.0.pop().map(|Reverse((_, what))| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_in_the_order_of_time() {
        let mut deadlines = Deadlines::default();
        for (at_ms, what) in [(30, 'c'), (10, 'a'), (20, 'b'), (10, 'A')] {
            deadlines.push(at_ms, what);
        }
        assert_eq!((deadlines.next_ms(), deadlines.pop_due(9)), (Some(10), None));
        let due: Vec<char> = std::iter::from_fn(|| deadlines.pop_due(20)).collect();
        assert_eq!(due, ['A', 'a', 'b']);
        assert_eq!(deadlines.next_ms(), Some(30));
    }
}
