//! How long a worker that has nothing to do keeps looking before it sleeps.
//!
//! Going to sleep and being woken costs some microseconds on each side, and more in a virtual machine, where the waker must
//! interrupt another virtual processor. A worker that looks a little longer instead picks the next frame up at once, and
//! whoever brings it need not wake anybody. That is worth it only while the next frame comes soon and nobody else wants
//! the processor, so the time to look adapts to both, as the kernel's own halt polling does
//! (Documentation/virt/guest-halt-polling.rst).

use std::time::{Duration, Instant};

/// How a worker waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// How long it looks for the next frame before it sleeps, at most; it adapts to what that is worth.
    pub spin: Duration,
    /// How long it sleeps at least, so that a batch gathers. 0: until the first frame.
    pub min_wait: Duration,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting { spin: Duration::from_micros(100), min_wait: Duration::ZERO }
    }
}

/// Where growing begins.
const START: Duration = Duration::from_micros(10);

/// The time that is worth looking.
#[derive(Debug)]
pub(crate) struct Spin {
    max: Duration,
    budget: Duration,
}

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Something has come.
    Found,
    /// Nothing in time.
    Nothing,
}

impl Spin {
    /// At most `max` at a time, 0 for never.
    pub(crate) fn new(max: Duration) -> Spin {
        Spin { max, budget: max.min(START) }
    }

    /// Looks until `found` says so or the time is over. Whoever else wants the processor gets it between two looks: it may
    /// be who brings the next frame, or another worker that looks.
    pub(crate) fn look(&mut self, mut found: impl FnMut() -> bool) -> Look {
        if self.budget.is_zero() {
            return if found() { Look::Found } else { Look::Nothing };
        }
        let begin = Instant::now();
        loop {
            // Giving way costs a system call also when nobody wants it.
            for _ in 0..8 {
                if found() {
                    return Look::Found;
                }
                std::hint::spin_loop();
            }
            if begin.elapsed() >= self.budget {
                return Look::Nothing;
            }
            std::thread::yield_now();
        }
    }

    /// After a look for nothing: something came after all, `idle` after the last time. Looking so long is worth it if that
    /// is not longer than it may be, and not worth it otherwise.
    pub(crate) fn slept(&mut self, idle: Duration) {
        self.budget = if idle < self.max { (self.budget * 2).clamp(START, self.max) } else { Duration::ZERO };
    }

    /// After a look for what is sure to come soon or never.
    pub(crate) fn tried(&mut self, look: Look) {
        self.budget = match look {
            Look::Found => self.max,
            Look::Nothing => self.budget / 2,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_longer_while_that_helps_and_not_at_all_when_it_does_not() {
        let max = Duration::from_micros(100);
        let mut spin = Spin::new(max);
        assert_eq!(spin.budget, START);
        for _ in 0..10 {
            spin.slept(Duration::from_micros(50));
        }
        assert_eq!(spin.budget, max);
        spin.slept(Duration::from_millis(1));
        assert_eq!(spin.budget, Duration::ZERO);
        assert_eq!(spin.look(|| false), Look::Nothing);
        spin.slept(Duration::from_micros(50));
        assert_eq!(spin.budget, START);
    }

    #[test]
    fn what_has_come_is_found() {
        for max in [0, 100] {
            let mut spin = Spin::new(Duration::from_micros(max));
            let mut looks = 0;
            let found = || {
                looks += 1;
                max == 0 || looks > 3
            };
            assert_eq!(spin.look(found), Look::Found, "{max}");
        }
    }

    #[test]
    fn a_look_that_was_in_the_way_ends() {
        let mut spin = Spin::new(Duration::from_secs(1));
        for _ in 0..20 {
            spin.slept(Duration::from_millis(1));
        }
        let begin = Instant::now();
        let found = || {
            std::thread::sleep(Duration::from_millis(200));
            false
        };
        assert_eq!(spin.look(found), Look::Nothing);
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}
