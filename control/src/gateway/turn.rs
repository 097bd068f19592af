//! One turn of the control thread: what the workers tell, in fair order and for a bounded time; what the clock brings.
//!
//! A turn is short, whatever waits: between any two the deadlines, the signals and the control socket are looked at.

use std::io;
use std::time::{Duration, Instant};

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::ending::Ending;
use ipop_dataplane::event::{LEARN_QUEUE_LEN, Notice};
use ipop_dataplane::feature::words;
use ipop_dataplane::forward::Learn;
use ipop_dataplane::mac_table::Owner;
use tracing::warn;

use super::fair::{Lost, Work};
use super::{Gateway, GatewayError, view};
use crate::path_mtu::PathMtu;

/// How long a turn may go on with new sources, and with events. What one of them costs is the kernel's business (an
/// answer runs through the whole bridge, a message to all is a send for each), so this is time and not a number.
const SOURCES: Duration = Duration::from_micros(1000);
const EVENTS: Duration = Duration::from_micros(2000);
/// Sources that are entered between two looks at the clock.
const SOURCES_AT_ONCE: usize = 32;

/// Between two looks at everything while something is under way, and while nothing is.
const BUSY_TICK_MS: u64 = 100;
const IDLE_TICK_MS: u64 = 1000;
/// How often some of the peers that are missing are asked for.
const KNOCK_MS: u64 = 3000;
/// Between two lines of the log about a full table.
const TROUBLE_LOG_MS: u64 = 60_000;

/// When what the clock brings was done last, and is due next.
#[derive(Debug, Default)]
pub(super) struct Timers {
    last_tick_ms: Option<u64>,
    second_ms: u64,
    knock_ms: u64,
    /// When a full MAC table may be logged again, and how often it had been full then.
    trouble_log_ms: u64,
    table_full: u64,
}

impl Timers {
    /// When everything is looked at again, if something is under way or not.
    fn tick_ms(&self, busy: bool) -> u64 {
        let interval = if busy { BUSY_TICK_MS } else { IDLE_TICK_MS };
        self.last_tick_ms.map_or(0, |last_ms| last_ms + interval).min(self.second_ms)
    }

    /// Somebody waits for the next look.
    pub(super) fn hurry(&mut self) {
        self.last_tick_ms = None;
    }
}

impl Gateway {
    /// When something is due that only the clock brings. Asked in every turn, whether or not more events wait: what has
    /// just come up may want it sooner.
    pub(super) fn next_deadline(&self) -> u64 {
        let others = [self.held_until_ms(), self.resolver.next_ms(), self.macs.next_ms(), self.ways.next_ms()];
        others.into_iter().flatten().fold(self.next_tick(), u64::min)
    }

    /// When everything is looked at.
    fn next_tick(&self) -> u64 {
        let busy = self.links.iter().any(|link| link.path.as_ref().is_some_and(PathMtu::is_searching));
        self.timers.tick_ms(busy)
    }

    /// One turn; true if there is more to do at once.
    pub(super) fn turn(&mut self) -> Result<bool, GatewayError> {
        let now_ms = self.now_ms();
        let more = self.take_events(now_ms)?;
        let now_ms = self.now_ms();
        self.tick(now_ms)?;
        self.look_at_ways(now_ms);
        self.release_held(now_ms);
        self.publish();
        Ok(more)
    }

    /// Handles some of what the workers have left; true if there is more.
    fn take_events(&mut self, now_ms: u64) -> Result<bool, GatewayError> {
        self.events.acknowledge();
        self.sort_events();
        let begin = Instant::now();
        let more_sources = self.take_sources(now_ms, begin);
        let begin = Instant::now();
        self.fair.begin_turn();
        while let Some(work) = self.fair.next() {
            self.work(work, now_ms)?;
            if begin.elapsed() >= EVENTS {
                return Ok(true);
            }
        }
        Ok(more_sources)
    }

    /// Puts what the workers have left into the queues of who has caused it. All of it, so that one who fills a queue of
    /// the workers does not keep others out; that costs little.
    fn sort_events(&mut self) {
        let events = self.events.clone();
        events.drain(|event| match self.fair.add(event) {
            Ok(()) => {}
            // Counted as held before, and now by what has become of it.
            Err(Lost::Held) => self.counters.add(Ending::SourceIsLocal, 1),
            Err(lost) => {
                self.counters.add(Ending::ControlQueueFull, 1);
                if let Lost::Message(peer) = lost
                    && let Some(budget) = self.events.budget(peer)
                {
                    budget.drop_message();
                }
            }
        });
    }

    fn work(&mut self, work: Work, now_ms: u64) -> Result<(), GatewayError> {
        match work {
            Work::Resolution(bytes, checksum_pending) => {
                let result = self.step(now_ms, |r, step| r.from_port(&bytes, checksum_pending, step));
                if let Err(ending) = result {
                    self.counters.add(ending, 1);
                }
            }
            Work::Held(peer, bytes, csum) => self.hold(peer, bytes, csum, now_ms),
            Work::Message(peer, bytes) => self.take_message(peer, &bytes, now_ms),
            Work::Handshake { from, kind, session, body } => self.take_handshake(from, kind, session, &body, now_ms),
            Work::Notice(Notice::SessionUsed(peer, session)) => {
                if let Some(link) = self.links.get_mut(peer.index()) {
                    let outcome = link.session_used(session, now_ms);
                    self.follow(peer, outcome, now_ms);
                }
            }
            Work::Notice(Notice::Roamed(peer, session, from)) => self.take_roaming(peer, session, from, now_ms),
            Work::Notice(Notice::Foreign(from, foreign)) => self.take_foreign(from, foreign, now_ms),
            Work::Notice(Notice::TooBig(peer)) => self.path_refused(peer, now_ms),
            Work::Notice(Notice::ReceiveFails { port, errno }) => {
                let what = if port { "reading from the port" } else { "receiving from peers" };
                let error = words(&io::Error::from_raw_os_error(errno));
                warn!("{what} keeps failing: {error}; it is tried again every second, and counted");
            }
            Work::Notice(Notice::Circled(peer)) => self.take_circled(peer, now_ms),
            Work::Notice(Notice::Failed(error)) => return Err(GatewayError::WorkerFailed(error)),
        }
        Ok(())
    }

    /// Handles sources that the workers have left, no more than were there; true if some are left.
    fn take_sources(&mut self, now_ms: u64, begin: Instant) -> bool {
        for _ in 0..LEARN_QUEUE_LEN / SOURCES_AT_ONCE {
            let mut learns: Vec<Learn> = std::iter::from_fn(|| self.events.pop_learn()).take(SOURCES_AT_ONCE).collect();
            if learns.is_empty() {
                return false;
            }
            // News of a peer that has gone down meanwhile is stale.
            learns.retain(|learn| match learn.at {
                Owner::Peer(peer) => self.is_up(peer),
                Owner::Local => true,
            });
            self.step(now_ms, |resolver, step| learns.into_iter().for_each(|learn| resolver.learned(learn, step)));
            if begin.elapsed() >= SOURCES {
                break;
            }
        }
        true
    }

    /// Does what is due by the clock, if anything is.
    fn tick(&mut self, now_ms: u64) -> Result<(), GatewayError> {
        let whole = now_ms >= self.next_tick();
        // What is due by itself is done without looking at every link.
        if whole || self.resolver.next_ms().into_iter().chain(self.macs.next_ms()).any(|due_ms| due_ms <= now_ms) {
            self.step(now_ms, |resolver, step| resolver.tick(step));
        }
        if !whole {
            return Ok(());
        }
        self.timers.last_tick_ms = Some(now_ms);
        for index in 0..self.links.len() {
            let id = PeerId(index as u16);
            let received = self.workers.iter().map(|w| view::load(&w.stats.peers[index].rx_datagrams)).sum();
            let outcome = self.links[index].tick(now_ms, received, &mut super::random_u64);
            self.follow(id, outcome, now_ms);
            let untold = self.links[index].untold_trouble(now_ms);
            self.tell_trouble(id, untold);
            let before = self.links[index].path.as_ref().map(PathMtu::size);
            while let Some(size) = self.links[index].path.as_mut().and_then(|path| path.poll(now_ms)) {
                self.send_probe(id, size);
            }
            self.table_changed |= before != self.links[index].path.as_ref().map(PathMtu::size);
        }
        if now_ms >= self.timers.second_ms {
            self.timers.second_ms = now_ms + IDLE_TICK_MS;
            self.macs.expire(now_ms);
            self.collect();
            self.ways.look_at_some();
            self.look_at_address();
            self.look_at_port()?;
            self.tell_manager();
            self.name_overload(now_ms);
            self.look_at_offloads(now_ms);
            self.throttle.tick(now_ms);
            if now_ms >= self.timers.knock_ms {
                self.timers.knock_ms = now_ms + KNOCK_MS;
                self.knock(now_ms);
            }
            self.warn_of_trouble(now_ms);
        }
        Ok(())
    }

    /// Says what an operator should look at, but not for every frame that shows it.
    fn warn_of_trouble(&mut self, now_ms: u64) {
        let full = self.macs.stats.table_full;
        if now_ms < self.timers.trouble_log_ms {
            return;
        }
        if full != self.timers.table_full {
            warn!("the MAC table is full (\"max_macs\"): frames to MACs that are not in it are flooded");
            self.timers.trouble_log_ms = now_ms + TROUBLE_LOG_MS;
            self.timers.table_full = full;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_up_between_two_looks_is_looked_at_soon_and_not_put_off() {
        let mut timers = Timers { second_ms: u64::MAX, ..Timers::default() };
        assert_eq!(timers.tick_ms(false), 0, "the first is due at once");
        timers.last_tick_ms = Some(5000);
        assert_eq!(timers.tick_ms(false), 6000);
        // The same in each of the turns of a storm, whatever the time is.
        assert_eq!(timers.tick_ms(true), 5100);
        timers.hurry();
        assert_eq!(timers.tick_ms(false), 0);
        timers.last_tick_ms = Some(7000);
        timers.second_ms = 7500;
        assert_eq!(timers.tick_ms(false), 7500);
    }
}
