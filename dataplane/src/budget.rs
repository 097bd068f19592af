//! How much a peer may say to the control thread: one budget for each, which all workers share.
//!
//! A peer chooses by its source ports how many workers hear of it, so a budget of each worker would be worth as many times
//! more. What is shared is single words, so nobody waits for anybody; and a peer that says more than it may is refused
//! after one load, so that it does not take the line of the cache from the workers that serve others.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Control messages per second that a peer may send.
pub const MESSAGE_RATE: u64 = 4000;
/// Frames per second that are held for a peer while it is settled where their source is.
const HELD_RATE: u64 = 200;

/// A token bucket that threads share: at most `rate` per second, in bursts of at most `rate / 4`.
///
/// One word says when the bucket will be full again (the generic cell rate algorithm, ITU-T I.371, of which this is the
/// virtual scheduling form): what is missing then is what was taken. So there is nothing to be refilled, and taking is
/// one exchange.
#[derive(Debug)]
pub struct SharedRate {
    full_at_ns: AtomicU64,
    token_ns: u64,
    burst_ns: u64,
}

impl SharedRate {
    /// A full bucket.
    pub fn new(rate: u64) -> SharedRate {
        let token_ns = 1_000_000_000 / rate.max(1);
        SharedRate { full_at_ns: AtomicU64::new(0), token_ns, burst_ns: token_ns * (rate / 4).max(1) }
    }

    /// Takes a token if there is one. Threads need not agree on the time: for one that is behind there is less.
    pub fn allow(&self, now_ms: u64) -> bool {
        let now_ns = now_ms * 1_000_000;
        let take =
            |full_at: u64| Some(full_at.max(now_ns) + self.token_ns).filter(|next| *next <= now_ns + self.burst_ns);
        // Nothing else is published with it.
        self.full_at_ns.fetch_update(Relaxed, Relaxed, take).is_ok()
    }
}

/// What one peer may say, and how much of it waits.
#[derive(Debug)]
pub struct PeerBudget {
    pub(crate) messages: SharedRate,
    pub(crate) held: SharedRate,
    /// Its messages in the queue, and its frames in that for held ones.
    pub(crate) queued_messages: AtomicU32,
    pub(crate) queued_frames: AtomicU32,
    /// That its path carries less is in the queue.
    pub(crate) too_big: AtomicBool,
    /// That a datagram of its link has come in by the port is in the queue.
    pub(crate) circled: AtomicBool,
    dropped: AtomicU64,
}

impl Default for PeerBudget {
    fn default() -> PeerBudget {
        PeerBudget {
            messages: SharedRate::new(MESSAGE_RATE),
            held: SharedRate::new(HELD_RATE),
            queued_messages: AtomicU32::new(0),
            queued_frames: AtomicU32::new(0),
            too_big: AtomicBool::new(false),
            circled: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        }
    }
}

impl PeerBudget {
    /// Counts a message that was dropped because the peer sends too many.
    pub fn drop_message(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    /// Workers may tell again that a datagram of its link has come in by the port.
    pub fn may_circle_again(&self) {
        self.circled.store(false, Relaxed);
    }

    /// Messages that were dropped because the peer sends too many.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;
    use crate::forward::RateLimit;

    #[test]
    fn it_is_the_bucket_of_one_thread() {
        for rate in [1, 4, 20, 200, 4000] {
            let (shared, mut own) = (SharedRate::new(rate), RateLimit::new(rate));
            let mut now_ms = 10_000;
            for turn in 0..20_000u64 {
                now_ms += turn * 7919 % 5;
                assert_eq!(shared.allow(now_ms), own.allow(now_ms), "rate {rate}, {now_ms} ms, turn {turn}");
            }
        }
    }

    /// Four workers, whose clocks differ by a batch, take no more than one would.
    #[test]
    fn threads_share_it() {
        let (rate, taken) = (SharedRate::new(MESSAGE_RATE), AtomicUsize::new(0));
        thread::scope(|scope| {
            for worker in 0..4 {
                let (rate, taken) = (&rate, &taken);
                scope.spawn(move || {
                    for ms in 0..2000u64 {
                        let allowed = (0..20).filter(|_| rate.allow(1000 + ms + worker)).count();
                        taken.fetch_add(allowed, Relaxed);
                    }
                });
            }
        });
        // Two seconds, and the burst; each worker asked for ten times the rate.
        let most = MESSAGE_RATE as usize * 2 + MESSAGE_RATE as usize / 4 + 16;
        let taken = taken.load(Relaxed);
        assert!((most - 200..=most).contains(&taken), "{taken} of {most}");
    }

    #[test]
    fn what_was_saved_up_is_a_quarter_of_a_second() {
        let rate = SharedRate::new(100);
        assert_eq!((0..1000).filter(|_| rate.allow(3_600_000)).count(), 25);
        assert!(!rate.allow(3_600_000) && !rate.allow(0));
        assert!(rate.allow(3_600_010));
    }
}
