//! What is sent and counted: numbered packets and TCP flows.

pub mod arp;
pub mod flows;
pub mod generator;
pub mod packet;
pub mod receiver;
pub mod sequence;
pub mod socket;

use std::time::{Duration, Instant};

/// Nanoseconds since a moment of this process: what a packet carries as its time, and compares when it comes back.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that begins at 0 now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since then.
    pub fn now(self) -> u64 {
        self.of(Instant::now())
    }

    /// The same of another moment; 0 if that was earlier.
    pub fn of(self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.0).as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long it has run.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
