//! What shows that an attack changed nothing: pings all answered, daemons alive and lean, drops counted.

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
    pub(crate) fn stop(mut self, what: &str) -> Outcome {
        self.0.signal(nix::sys::signal::Signal::SIGINT)?;
        let output = self.0.wait(Duration::from_secs(5))?;
        let summary = output.stdout.lines().rev().find(|line| line.contains("transmitted")).unwrap_or_default();
        let number = |at: usize| summary.split_whitespace().nth(at).and_then(|n| n.parse::<i64>().ok());
        let (sent, received) = (number(0).unwrap_or(0), number(3).unwrap_or(0));
        // The last one may have been on its way when the signal came.
        let whole = sent > 3 && sent - received <= 1 && !summary.contains("duplicates");
        ensure(whole, format!("pings {what}: {summary}"))
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
