//! What a worker tells the control thread, and how often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Now, WorkerStats};
use crate::ending::bump;
use crate::event::{Event, Events};
use crate::forward::{Learn, RateLimit};
use crate::mac_table::MacTable;

/// How long a worker waits for the control thread to enter a move, and how often in a second: 2 % of its time at most.
const MOVE_PATIENCE: Duration = Duration::from_millis(2);
const MOVE_RATE: u64 = 10;

/// Sources per second that a worker tells of, the new and the moved each, and how often in a second it wakes the control
/// thread for new ones. A guest that makes up MACs must not take the core from known traffic, nor keep the table from
/// learning of a move. Each of the first is told at once; in a storm the control thread finds them in batches.
const LEARN_RATE: u64 = 2000;
const LEARN_WAKE_RATE: u64 = 200;

/// Events to the control thread, signalled once per batch; sources less often.
pub(super) struct News {
    events: Arc<Events>,
    stats: Arc<WorkerStats>,
    pending: bool,
    learn_pending: bool,
    /// Of MACs that the table does not have, and of those that it has elsewhere.
    learns: [RateLimit; 2],
    learn_wakes: RateLimit,
    moves: RateLimit,
    /// Learn events of this second, by hash: a burst of frames from a new MAC is one event, not one each.
    recent: [u64; 256],
    recent_second: u32,
}

impl News {
    pub(super) fn new(events: Arc<Events>, stats: Arc<WorkerStats>) -> News {
        News {
            events,
            stats,
            pending: false,
            learn_pending: false,
            learns: [(); 2].map(|()| RateLimit::new(LEARN_RATE)),
            learn_wakes: RateLimit::new(LEARN_WAKE_RATE),
            moves: RateLimit::new(MOVE_RATE),
            recent: [0; 256],
            recent_second: 0,
        }
    }

    pub(super) fn push(&mut self, event: Event) -> bool {
        self.pending = true;
        self.events.push(event)
    }

    /// False if this was told before, or could not be told.
    pub(super) fn learn(&mut self, learn: Learn, now: Now) -> bool {
        if self.recent_second != now.seconds() {
            self.recent_second = now.seconds();
            self.recent.fill(0);
        }
        let mark = learn.mark();
        let place = &mut self.recent[(mark >> 56) as usize];
        if *place == mark {
            return false;
        }
        *place = mark;
        let moved = learn.known.is_some();
        let told = self.learns[usize::from(moved)].allow(now.ms) && self.events.push_learn(learn);
        if told {
            self.pending |= moved;
            self.learn_pending = true;
        } else {
            bump(&self.stats.learn_lost, 1);
            *place = 0;
        }
        told
    }

    /// Tells of a MAC that has moved from one peer to another, and waits a moment until the table has it: the answer to
    /// the frame at hand can be back at once, and would go to where the MAC was. Rare, and kept so; nothing is
    /// overtaken meanwhile.
    pub(super) fn learn_move(&mut self, learn: Learn, now: Now, macs: &MacTable) {
        if !self.learn(learn, now) || !self.moves.allow(now.ms) {
            return;
        }
        self.signal(now);
        let begin = Instant::now();
        while begin.elapsed() < MOVE_PATIENCE && macs.lookup(learn.key).map(|entry| entry.owner) != Some(learn.at) {
            // The control thread may want this very core.
            std::thread::yield_now();
        }
    }

    /// What must wait is signalled by a later batch, or found when the control thread wakes by itself: within a second.
    pub(super) fn signal(&mut self, now: Now) {
        if self.pending || self.learn_pending && self.learn_wakes.allow(now.ms) {
            (self.pending, self.learn_pending) = (false, false);
            self.events.signal();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::addr::MacAddr;
    use crate::event::Wake;
    use crate::mac_table::{MacEntry, MacKey, Owner};

    struct CountWakes(Arc<AtomicUsize>);

    impl Wake for CountWakes {
        fn wake(&self) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn learn(mac: u64, known: Option<MacEntry>) -> Learn {
        Learn { key: MacKey::new(Default::default(), MacAddr::from_u64(mac)), at: Owner::Local, known }
    }

    /// The control thread's part: what it finds when it was woken.
    fn taken(events: &Events) -> usize {
        events.acknowledge();
        std::iter::from_fn(|| events.pop_learn()).count()
    }

    #[test]
    fn a_storm_of_new_macs_is_rationed_and_does_not_delay_a_move() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let events = Arc::new(Events::new(Box::new(CountWakes(wakes.clone()))));
        let stats = Arc::new(WorkerStats::new(1));
        let mut news = News::new(events.clone(), stats.clone());
        let (mut told, mut found) = (0, 0);
        // 200 000 MACs in two seconds, in batches of a millisecond.
        for ms in 0..2000 {
            for frame in 0..100 {
                told += usize::from(news.learn(learn(1 + ms * 100 + frame, None), Now { ms }));
            }
            let before = wakes.load(Relaxed);
            news.signal(Now { ms });
            if wakes.load(Relaxed) > before {
                found += taken(&events);
            }
        }
        let (rate, wake_rate) = (LEARN_RATE as usize, LEARN_WAKE_RATE as usize);
        assert!((2 * rate..=2 * rate + rate / 4).contains(&told), "{told} told");
        let woken = wakes.load(Relaxed);
        assert!((2 * wake_rate - 1..=2 * wake_rate + wake_rate / 4).contains(&woken), "{woken} wake-ups");
        assert_eq!(stats.learn_lost.load(Relaxed) as usize, 200_000 - told);
        assert_eq!(told, found + taken(&events), "what was told is found");
        // In the middle of it one moves here from elsewhere.
        let known = Some(MacEntry { owner: Owner::Peer(crate::addr::PeerId(0)), moves: 0, seen: 0 });
        assert!(news.learn(learn(7, known), Now { ms: 1999 }));
        news.signal(Now { ms: 1999 });
        assert_eq!((wakes.load(Relaxed) - woken, taken(&events)), (1, 1));
    }

    #[test]
    fn one_new_mac_is_told_once_a_second_and_at_once() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let events = Arc::new(Events::new(Box::new(CountWakes(wakes.clone()))));
        let mut news = News::new(events.clone(), Arc::new(WorkerStats::new(1)));
        let told = (0..100).filter(|_| news.learn(learn(1, None), Now { ms: 5 })).count();
        news.signal(Now { ms: 5 });
        assert_eq!((told, wakes.load(Relaxed), taken(&events)), (1, 1, 1));
        assert!(news.learn(learn(1, None), Now { ms: 1005 }), "the control thread may have had no room for it");
    }
}
