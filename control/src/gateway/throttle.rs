//! Lines of the log that somebody else can cause: a few each minute for each subject, and how many there were besides.
//!
//! A peer that flaps, moves to and fro or starts again and again, and whoever sends handshakes or signals, must not fill the
//! log. The last of the lines that were left out is written after a minute, with their number, so that the log always says
//! how a thing stands in the end.

use std::collections::HashMap;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::mac_table::Owner;
use tracing::{Level, error, info, warn};

use crate::limits::Reason;

/// How long lines of a subject are counted together.
const MINUTE_MS: u64 = 60_000;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum About {
    /// A link comes up and goes down.
    Link(PeerId),
    /// Why it stays down.
    Trouble(PeerId),
    /// Where the peer is.
    Place(PeerId),
    /// What the path to it carries.
    Path(PeerId),
    /// Datagrams of its link come in by the port.
    Circled(PeerId),
    /// Two gateways have the peer's key, or ours.
    Twins(PeerId),
    /// Handshakes that are nobody's.
    Strangers,
    /// A claim in vain.
    Claim(Owner, Reason),
    /// MACs that are frozen.
    Frozen,
    /// The port goes, comes back, and is moved.
    Port,
    /// A signal that does nothing.
    Signal(u32),
}

impl About {
    /// Lines per minute.
    fn lines(self) -> u32 {
        match self {
            About::Strangers | About::Circled(_) | About::Claim(..) | About::Signal(_) => 1,
            _ => 5,
        }
    }
}

/// What was written of a subject lately.
#[derive(Debug)]
struct Recent {
    since_ms: u64,
    lines: u32,
    left_out: u64,
    last: Option<(Level, String)>,
}

/// The subjects that were written about lately.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    recent: HashMap<About, Recent>,
}

impl Throttle {
    /// Writes a line, or counts it.
    pub(super) fn say(&mut self, about: About, level: Level, now_ms: u64, text: String) {
        if let Some((level, text)) = self.passes(about, level, now_ms, text) {
            write(level, &text);
        }
    }

    fn passes(&mut self, about: About, level: Level, now_ms: u64, text: String) -> Option<(Level, String)> {
        let fresh = || Recent { since_ms: now_ms, lines: 0, left_out: 0, last: None };
        let recent = self.recent.entry(about).or_insert_with(fresh);
        if recent.lines < about.lines() {
            recent.lines += 1;
            return Some((level, text));
        }
        recent.left_out += 1;
        recent.last = Some((level, text));
        None
    }

    /// Writes what was left out, where the minute is over.
    pub(super) fn tick(&mut self, now_ms: u64) {
        for (level, text) in self.due(now_ms) {
            write(level, &text);
        }
    }

    /// Writes what was left out: there is no later.
    pub(super) fn end(&mut self) {
        self.tick(u64::MAX);
    }

    fn due(&mut self, now_ms: u64) -> Vec<(Level, String)> {
        let mut due = Vec::new();
        self.recent.retain(|about, recent| {
            if now_ms.saturating_sub(recent.since_ms) < MINUTE_MS {
                return true;
            }
            // Nothing was left out: the next line is the first of a new minute.
            let Some((level, text)) = recent.last.take() else { return false };
            let more = match recent.left_out {
                1 => String::new(),
                count => format!(" (and {} more like this in the last minute)", count - 1),
            };
            due.push((level, text + &more));
            *recent = Recent { since_ms: now_ms, lines: about.lines(), left_out: 0, last: None };
            true
        });
        due
    }
}

fn write(level: Level, text: &str) {
    match level {
        Level::ERROR => error!("{text}"),
        Level::WARN => warn!("{text}"),
        _ => info!("{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_has_some_lines_a_minute_and_the_last_is_never_lost() {
        let mut throttle = Throttle::default();
        let [one, other] = [About::Link(PeerId(0)), About::Link(PeerId(1))];
        let passed = |throttle: &mut Throttle, about, now_ms: u64| {
            throttle.passes(about, Level::WARN, now_ms, format!("line {now_ms}")).is_some()
        };
        assert_eq!((0..42).filter(|now_ms| passed(&mut throttle, one, *now_ms)).count(), 5);
        assert!(passed(&mut throttle, other, 50), "another peer is another subject");
        assert!(throttle.due(59_999).is_empty());
        let last = "line 41 (and 36 more like this in the last minute)".to_owned();
        assert_eq!(throttle.due(60_000), [(Level::WARN, last)]);
        // While it goes on there is one line a minute.
        assert!(!passed(&mut throttle, one, 60_001));
        assert_eq!(throttle.due(120_000), [(Level::WARN, "line 60001".to_owned())]);
        assert!(throttle.due(180_000).is_empty());
        assert!(throttle.recent.is_empty(), "nothing is kept of those who are quiet");
        assert!(passed(&mut throttle, one, 180_001));
        let claim = About::Claim(Owner::Local, Reason::MacNotAllowed);
        assert!(passed(&mut throttle, claim, 0) && !passed(&mut throttle, claim, 1));
        assert_eq!(throttle.due(u64::MAX).len(), 1, "the rest is told at the end");
    }
}
