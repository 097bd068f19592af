//! When a request that receives is made again after it has failed.
//!
//! One failure means little, and the next request is made at once. But an error that lasts would come back at once, too, and a
//! worker that answers it so has no time for anything else. So from the third in a row on it waits, twice as long each
//! time and a second at most, by the clock that the worker reads once per batch.

use std::time::Duration;

/// In a row, before it waits.
const AT_ONCE: u32 = 2;
/// The longest wait.
const LONGEST_MS: u64 = 1000;
/// So long without a failure, and the next one is the first of another row: nothing need have come meanwhile.
const QUIET_MS: u64 = 2 * LONGEST_MS;
/// Between two times that people are told.
const TELL_MS: u64 = 60_000;

/// The requests on one file.
#[derive(Debug, Default)]
pub(super) struct Receive {
    /// The kernel has one.
    pub(super) armed: bool,
    failures: u32,
    failed_ms: u64,
    again_ms: u64,
    tell_ms: u64,
}

/// What is to be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// It lasts.
    pub(super) lasting: bool,
    /// People should be told.
    pub(super) tell: bool,
}

impl Receive {
    /// Something has come.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The request has failed.
    pub(super) fn failed(&mut self, now_ms: u64) -> Failure {
        if now_ms >= self.failed_ms + QUIET_MS {
            self.failures = 0;
        }
        self.failed_ms = now_ms;
        self.failures = self.failures.saturating_add(1);
        let lasting = self.failures > AT_ONCE;
        let waits = self.failures.saturating_sub(AT_ONCE + 1).min(10);
        self.again_ms = if lasting { now_ms + (1 << waits).min(LONGEST_MS) } else { now_ms };
        let tell = lasting && now_ms >= self.tell_ms;
        if tell {
            self.tell_ms = now_ms + TELL_MS;
        }
        Failure { lasting, tell }
    }

    /// A new request may be made.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        !self.armed && now_ms >= self.again_ms
    }

    /// How long it waits before it is made, if it does.
    pub(super) fn pause(&self, now_ms: u64) -> Option<Duration> {
        let left = self.again_ms.saturating_sub(now_ms);
        (!self.armed && left > 0).then(|| Duration::from_millis(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_and_longer_for_an_error_that_lasts_and_not_for_one() {
        let mut receive = Receive::default();
        let mut now_ms = 5;
        assert!(receive.is_due(now_ms));
        for _ in 0..2 {
            assert_eq!(receive.failed(now_ms), Failure { lasting: false, tell: false });
            assert!(receive.is_due(now_ms) && receive.pause(now_ms).is_none());
        }
        let mut waits = Vec::new();
        for number in 0..12 {
            assert_eq!(receive.failed(now_ms), Failure { lasting: true, tell: number == 0 });
            let pause = receive.pause(now_ms).unwrap();
            assert!(!receive.is_due(now_ms));
            waits.push(pause.as_millis());
            now_ms += pause.as_millis() as u64;
            assert!(receive.is_due(now_ms) && receive.pause(now_ms).is_none());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]);
        receive.succeeded();
        assert!(!receive.failed(now_ms).lasting && receive.is_due(now_ms));
        // The row ends by itself.
        for _ in 0..4 {
            receive.failed(now_ms);
        }
        assert!(!receive.failed(now_ms + QUIET_MS).lasting);
        // While there is a request, nothing is due.
        receive.armed = true;
        assert!(!receive.is_due(u64::MAX) && receive.pause(0).is_none());
    }
}
