//! Signals that end the gateway, and all the others.

use std::thread;
use std::time::Duration;

use ipop_lab::Daemon;
use nix::libc;
use nix::sys::signal::Signal;

use super::kit::{Outcome, Pair, SOON, ensure, log_says, until};

/// Those that would end it without a word (signal(7)).
const OTHERS: [i32; 14] = [
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    // Of real time: the first and the last that are a program's own.
    34,
    64,
];

fn send(daemon: &Daemon, signal: i32) -> Outcome {
    let pid = daemon.pid().to_string();
    Ok(ipop_lab::Cmd::new(["kill", &format!("-{signal}"), &pid]).run().map(drop)?)
}

/// The gateway has looked at what was there before.
fn answers(daemon: &Daemon) -> Outcome {
    daemon.status("status")?;
    Ok(())
}

pub(crate) fn each() -> Outcome {
    let pair = Pair::new()?;
    let mut a = pair.start(0, |_| ())?;
    let b = pair.start(1, |_| ())?;
    for signal in OTHERS {
        send(&a, signal)?;
        answers(&a)?;
        ensure(a.is_running(), format!("signal {signal} ended it"))?;
    }
    for name in ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPWR", "signal 34", "signal 64"] {
        log_says(&a, &[name, "does nothing", "of process"])?;
    }
    log_says(&a, &["SIGHUP", "the config is read at the start only"])?;
    ensure(!a.log().contains("SIGPIPE"), "SIGPIPE is nothing to tell")?;
    // It stops and goes on as it is told.
    a.signal(Signal::SIGTSTP)?;
    thread::sleep(Duration::from_millis(100));
    a.signal(Signal::SIGCONT)?;
    pair.traffic()?;
    // Whatever ends it ends it well.
    let mut a = Some(a);
    for signal in [Signal::SIGQUIT, Signal::SIGINT, Signal::SIGTERM] {
        let mut daemon = a.take().map_or_else(|| pair.start(0, |_| ()), Ok)?;
        b.wait_peers_up(SOON)?;
        daemon.signal(signal)?;
        until(&format!("{signal} to end it"), SOON, || Ok(!daemon.is_running()))?;
        log_says(&daemon, &["stopping", signal.as_str()])?;
        until("the goodbye to be heard", SOON, || Ok(b.status("peers")?["peers"][0]["trouble"] == "goodbye"))?;
    }
    Ok(())
}

/// As many as there can be: a few lines, and the gateway does its work.
pub(crate) fn flood() -> Outcome {
    let pair = Pair::new()?;
    let mut a = pair.start(0, |_| ())?;
    let b = pair.start(1, |_| ())?;
    b.wait_peers_up(SOON)?;
    // Signals of real time queue up.
    let script = format!("i=0; while [ $i -lt 3000 ]; do kill -40 {0}; kill -HUP {0}; i=$((i+1)); done", a.pid());
    let mut flood = pair.gateway(0).spawn(["sh", "-c", &script])?;
    pair.traffic()?;
    until("the flood to end", SOON * 2, || {
        answers(&a)?;
        Ok(flood.ended()?.is_some())
    })?;
    ensure(a.is_running(), "it ended")?;
    for name in ["signal 40", "SIGHUP"] {
        log_says(&a, &[name, "does nothing"])?;
        let lines = a.log().lines().filter(|line| line.contains(name)).count();
        ensure(lines <= 3, format!("{lines} lines about {name}"))?;
    }
    pair.traffic()?;
    ensure(a.stop()?.success(), "it ended badly")
}
