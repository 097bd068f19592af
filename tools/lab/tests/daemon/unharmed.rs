//! What shows that an attack changed nothing: pings all answered, daemons alive and lean, drops counted.

use std::fmt;
use std::thread;
use std::time::Duration;

use ipop_lab::{Container, Daemon, Process};
use libtest_mimic::Failed;

use super::kit::{HERE, Outcome, Pair, THERE, ensure, resident};

/// Memory that a gateway may have after all that, in KiB.
const MEMORY: u64 = 100 << 10;
/// Senders pause after so many, so that the test shows what the program makes of them and not how long a queue is.
const BURST: usize = 100;
const PAUSE: Duration = Duration::from_millis(2);

pub(crate) fn pace(number: usize) {
    if number % BURST == BURST - 1 {
        thread::sleep(PAUSE);
    }
}

/// Pings every 50 ms until it is told to stop.
pub(crate) struct Pings(Process);

impl Pings {
    pub(crate) fn start(from: &Container, to: &str) -> Result<Pings, Failed> {
        let mut process = from.spawn(["ping", "-n", "-i", "0.05", "-W", "2", to])?;
        process.wait_for_stdout("icmp_seq=3", Duration::from_secs(3))?;
        Ok(Pings(process))
    }

    /// Every one must have been answered, once.
    pub(crate) fn stop(self, what: &str) -> Outcome {
        self.tell()?.whole(what)
    }

    /// What has become of them.
    pub(crate) fn tell(mut self) -> Result<RoundTrips, Failed> {
        self.0.signal(nix::sys::signal::Signal::SIGINT)?;
        let output = self.0.wait(Duration::from_secs(5))?;
        let line = |part: &str| output.stdout.lines().rev().find(|line| line.contains(part)).unwrap_or_default();
        let summary = line("transmitted").to_owned();
        let number = |at: usize| summary.split_whitespace().nth(at).and_then(|n| n.parse::<i64>().ok());
        let time = |at: usize| line("rtt ").split(['=', '/']).nth(at).and_then(|ms| ms.trim().parse().ok());
        // After "rtt min/avg/max/mdev = ", the least first.
        let (Some(sent), Some(received), Some(average), Some(longest)) = (number(0), number(3), time(5), time(6))
        else {
            return Err(format!("ping says {}", output.stdout).into());
        };
        Ok(RoundTrips { sent, lost: sent - received, average, longest, summary })
    }
}

/// What became of pings; times in milliseconds.
#[derive(Debug)]
pub(crate) struct RoundTrips {
    pub(crate) sent: i64,
    pub(crate) lost: i64,
    pub(crate) average: f64,
    pub(crate) longest: f64,
    summary: String,
}

impl RoundTrips {
    /// Every one has been answered, once.
    pub(crate) fn whole(&self, what: &str) -> Outcome {
        // The last one may have been on its way when the signal came.
        let whole = self.sent > 3 && self.lost <= 1 && !self.summary.contains("duplicates");
        ensure(whole, format!("pings {what}: {}", self.summary))
    }
}

impl fmt::Display for RoundTrips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RoundTrips { sent, lost, average, longest, .. } = self;
        write!(f, "{lost} of {sent} lost, {average:.2} ms on average, {longest:.1} ms at most")
    }
}

pub(crate) fn unharmed(pair: &Pair, what: &str, daemons: [&mut Daemon; 2]) -> Outcome {
    for daemon in daemons {
        let name = daemon.gateway().name().to_owned();
        ensure(daemon.is_running(), format!("{what}: {name} ended: {}", daemon.log()))?;
        ensure(!daemon.log().contains("panicked"), format!("{what}: {name}: {}", daemon.log()))?;
        let memory = resident(daemon.pid())?;
        ensure(memory < MEMORY, format!("{what}: {name} has {memory} KiB"))?;
        let lines = daemon.log().lines().count();
        ensure(lines < 100, format!("{what}: {name} wrote {lines} log lines"))?;
    }
    pair.c0.ping(THERE, 1)?;
    pair.c1.ping(HERE, 1)?;
    Ok(())
}

pub(crate) fn counted(daemon: &Daemon, reasons: &[&str]) -> Outcome {
    for reason in reasons {
        ensure(daemon.counter(&format!("/drops/{reason}"))? > 0, format!("nothing is counted as {reason}"))?;
    }
    Ok(())
}

/// What a gateway believes of its first peer.
pub(crate) fn belief(daemon: &Daemon) -> ipop_lab::Result<String> {
    let peer = &daemon.status("peers")?["peers"][0];
    Ok(format!("{} {} {} {} {}", peer["state"], peer["ups"], peer["uid"], peer["remote_name"], peer["address"]))
}
