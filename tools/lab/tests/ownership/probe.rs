//! Pings as a measure: how many were answered, and for how long none was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipop_lab::{Container, Process};
use libtest_mimic::Failed;

use crate::support::{Outcome, ensure};

/// A `ping` that runs beside the test.
pub(crate) struct Pings {
    process: Process,
    what: String,
    interval: Duration,
    whole: Duration,
}

/// How it ended.
pub(crate) struct Answers {
    what: String,
    interval: Duration,
    sent: u32,
    /// Round-trip times by sequence number.
    times: BTreeMap<u32, Duration>,
}

impl Pings {
    /// Pings `target` for so long, so often.
    pub(crate) fn start(
        guest: &Container,
        target: impl ToString,
        interval: Duration,
        whole: Duration,
    ) -> Result<Pings, Failed> {
        let target = target.to_string();
        let count = whole.as_millis() / interval.as_millis();
        let (seconds, count) = (format!("{:.3}", interval.as_secs_f64()), count.to_string());
        let process = guest.spawn(["ping", "-n", "-i", &seconds, "-c", &count, "-W", "1", &target])?;
        Ok(Pings { process, what: format!("{} to {target}", guest.name()), interval, whole })
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Result<Answers, Failed> {
        let output = self.process.wait(3 * self.whole + Duration::from_secs(10))?;
        let text = &output.stdout;
        let sent = text.lines().find_map(|line| line.split_once(" packets transmitted")?.0.parse().ok());
        let sent = sent.ok_or_else(|| format!("`{}`: {text}{}", output.command, output.stderr))?;
        // "64 bytes from 10.0.3.21: icmp_seq=7 ttl=64 time=0.345 ms"; a line about an error has no time.
        let answer = |line: &str| {
            let number = word_after(line, "icmp_seq=")?.parse().ok()?;
            let milliseconds: f64 = word_after(line, "time=")?.parse().ok()?;
            Some((number, Duration::from_secs_f64(milliseconds / 1000.0)))
        };
        Ok(Answers { what: self.what, interval: self.interval, sent, times: text.lines().filter_map(answer).collect() })
    }
}

fn word_after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_once(key)?.1.split_whitespace().next()
}

impl Answers {
    /// Pings without an answer.
    pub(crate) fn lost(&self) -> u32 {
        self.sent - u32::try_from(self.times.len()).unwrap_or(self.sent)
    }

    /// The longest time without an answer: the pings in a row that had none, or one that came late because it lay
    /// in a queue while nobody knew where to send it.
    pub(crate) fn outage(&self) -> Duration {
        let mut known: Vec<u32> = vec![0];
        known.extend(self.times.keys());
        known.push(self.sent + 1);
        let gap = known.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap_or(0);
        (self.interval * gap).max(self.times.values().max().copied().unwrap_or_default())
    }

    /// At least this part was answered.
    pub(crate) fn ensure_share(&self, least: f64) -> Outcome {
        let share = f64::from(self.sent - self.lost()) / f64::from(self.sent);
        ensure(share >= least, || format!("{self}, {:.1} %", share * 100.0))
    }

    /// Every one was answered.
    pub(crate) fn ensure_all(&self) -> Outcome {
        ensure(self.lost() == 0, || self.to_string())
    }

    /// Nobody was away for longer than this.
    pub(crate) fn ensure_outage(&self, longest: Duration) -> Outcome {
        ensure(self.outage() <= longest, || self.to_string())
    }
}

impl std::fmt::Display for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, sent, .. } = self;
        write!(f, "{what}: {} of {sent} pings answered, outage {:?}", sent - self.lost(), self.outage())?;
        let lost: Vec<u32> = (1..=*sent).filter(|number| !self.times.contains_key(number)).collect();
        if (1..=10).contains(&lost.len()) { write!(f, ", lost {lost:?}") } else { Ok(()) }
    }
}

/// All of these, with all that they have to say if one fails.
pub(crate) fn every(checks: impl IntoIterator<Item = Outcome>) -> Outcome {
    let failures: Vec<String> =
        checks.into_iter().filter_map(|check| check.err()?.message().map(str::to_owned)).collect();
    ensure(failures.is_empty(), || failures.join("; "))
}

/// Pings until an answer comes, and gives how long it has been since `begin`.
pub(crate) fn reached(
    guest: &Container,
    target: impl ToString,
    begin: Instant,
    limit: Duration,
) -> Result<Duration, Failed> {
    let target = target.to_string();
    // Longer than the limit, so that the message says by how much it was missed.
    let end = begin + 3 * limit;
    while Instant::now() < end {
        if guest.exec(["ping", "-n", "-c1", "-W0.2", &target])?.success() {
            let took = begin.elapsed();
            let what = || format!("{} reached {target} after {took:?}, allowed are {limit:?}", guest.name());
            println!("{}", what());
            ensure(took <= limit, what)?;
            return Ok(took);
        }
    }
    Err(format!("{} did not reach {target} in {:?}, allowed are {limit:?}", guest.name(), 3 * limit).into())
}
