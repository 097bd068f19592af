//! What a worker tells the control thread, and how often.

use std::sync::Arc;

use super::{Now, WorkerStats};
use crate::ending::bump;
use crate::event::{Event, Events};
use crate::forward::{Learn, RateLimit};

/// One source is told of again after so long: of one that is new, since the control thread may have had no room for it; of
/// one that is elsewhere, since it may be two that take turns.
const NEW_AGAIN_MS: u64 = 1000;
const MOVED_AGAIN_MS: u64 = 20;

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
    /// What was told of late and when, by hash: a burst of frames from a new MAC is one event, not one each.
    recent: [(u64, u64); 256],
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
            recent: [(0, 0); 256],
        }
    }

    pub(super) fn push(&mut self, event: Event) -> bool {
        self.pending = true;
        self.events.push(event)
    }

    /// Tells of a source, unless that was done just now.
    pub(super) fn learn(&mut self, learn: Learn, now: Now) {
        let (mark, moved) = (learn.mark(), learn.known.is_some());
        let place = &mut self.recent[(mark >> 56) as usize];
        let again = if moved { MOVED_AGAIN_MS } else { NEW_AGAIN_MS };
        if place.0 == mark && now.ms - place.1 < again {
            return;
        }
        if self.learns[usize::from(moved)].allow(now.ms) && self.events.push_learn(learn) {
            *place = (mark, now.ms);
            self.pending |= moved;
            self.learn_pending = true;
        } else {
            bump(&self.stats.learn_lost, 1);
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
        let mut found = 0;
        // 200 000 MACs in two seconds, in batches of a millisecond.
        for ms in 0..2000 {
            for frame in 0..100 {
                news.learn(learn(1 + ms * 100 + frame, None), Now { ms });
            }
            let before = wakes.load(Relaxed);
            news.signal(Now { ms });
            if wakes.load(Relaxed) > before {
                found += taken(&events);
            }
        }
        found += taken(&events);
        let told = 200_000 - stats.learn_lost.load(Relaxed) as usize;
        assert_eq!(told, found, "what was told is found");
        let (rate, wake_rate) = (LEARN_RATE as usize, LEARN_WAKE_RATE as usize);
        assert!((2 * rate..=2 * rate + rate / 4).contains(&told), "{told} told");
        let woken = wakes.load(Relaxed);
        assert!((2 * wake_rate - 1..=2 * wake_rate + wake_rate / 4).contains(&woken), "{woken} wake-ups");
        // In the middle of it one moves here from elsewhere.
        let known = Some(MacEntry { owner: Owner::Peer(crate::addr::PeerId(0)), moves: 0, seen: 0 });
        news.learn(learn(7, known), Now { ms: 1999 });
        news.signal(Now { ms: 1999 });
        assert_eq!((wakes.load(Relaxed) - woken, taken(&events)), (1, 1));
    }

    /// Once a second while it is new; again and again while it is elsewhere, for then the last word counts.
    #[test]
    fn one_mac_is_told_at_once_and_again() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let events = Arc::new(Events::new(Box::new(CountWakes(wakes.clone()))));
        let mut news = News::new(events.clone(), Arc::new(WorkerStats::new(1)));
        (0..100).for_each(|_| news.learn(learn(1, None), Now { ms: 5 }));
        news.signal(Now { ms: 5 });
        assert_eq!((wakes.load(Relaxed), taken(&events)), (1, 1));
        news.learn(learn(1, None), Now { ms: 1004 });
        assert_eq!(taken(&events), 0);
        news.learn(learn(1, None), Now { ms: 1005 });
        assert_eq!(taken(&events), 1, "the control thread may have had no room for it");
        let known = Some(MacEntry { owner: Owner::Peer(crate::addr::PeerId(0)), moves: 0, seen: 0 });
        (2000..2100).for_each(|ms| news.learn(learn(1, known), Now { ms }));
        assert_eq!(taken(&events), 5);
    }
}
