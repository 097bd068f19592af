//! What the tests of this program share.

use std::time::{Duration, Instant};

pub(crate) use ipop_lab::trials::Outcome;
use ipop_lab::{Container, Daemon, Lab, interrupt};
use libtest_mimic::Failed;
use serde_json::Value;

pub(crate) const HERE: &str = "10.0.3.3";
pub(crate) const THERE: &str = "10.0.3.104";

/// What should happen at once has this long before the test fails.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// A link must come up in this time.
pub(crate) const UP: Duration = Duration::from_secs(20);

pub(crate) fn ensure(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(what().into()) }
}

/// What `ipop peers` says of one peer.
pub(crate) fn peer(daemon: &Daemon, name: &str) -> ipop_lab::Result<Value> {
    let answer = daemon.status("peers")?;
    let peers = answer["peers"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(peers.iter().find(|peer| peer["name"] == name).cloned().unwrap_or_default())
}

/// Waits until `ipop peers` says of a peer what is wanted.
pub(crate) fn wait_peer(
    daemon: &Daemon,
    name: &str,
    what: &str,
    timeout: Duration,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value, Failed> {
    let look = || {
        let peer = peer(daemon, name)?;
        Ok(wanted(&peer).then_some(peer))
    };
    interrupt::wait_until(&format!("{name}: {what}"), timeout, look).map_err(|error| {
        let now = peer(daemon, name);
        format!("{error}; `ipop peers` says {now:?}; the log:\n{}", daemon.log()).into()
    })
}

pub(crate) fn wait_path_mtu(daemon: &Daemon, name: &str, mtu: u64, timeout: Duration) -> Outcome {
    wait_peer(daemon, name, &format!("a path MTU of {mtu}"), timeout, |peer| peer["path_mtu"] == mtu).map(drop)
}

/// Looks again and again for so long; it must hold each time.
pub(crate) fn throughout(time: Duration, mut holds: impl FnMut() -> Outcome) -> Outcome {
    let end = Instant::now() + time;
    while Instant::now() < end {
        holds()?;
        interrupt::sleep(Duration::from_millis(50))?;
    }
    Ok(())
}

/// Waits until one line of a log has all of these.
pub(crate) fn wait_log(daemon: &Daemon, parts: &[&str]) -> Outcome {
    let found = || {
        let log = daemon.log();
        Ok(log.lines().any(|line| parts.iter().all(|part| line.contains(part))).then_some(()))
    };
    interrupt::wait_until(&format!("a line of the log with {parts:?}"), SOON, found)
        .map_err(|error| format!("{error}:\n{}", daemon.log()).into())
}

/// `c0` on gw-a and `c1` on gw-b.
pub(crate) fn pair(lab: &Lab) -> Result<(Container, Container), Failed> {
    Ok((
        lab.container(0, "c0", &["10.0.3.3/24", "fd03::3/64"])?,
        lab.container(1, "c1", &["10.0.3.104/24", "fd03::104/64"])?,
    ))
}

/// Waits until a ping comes back.
pub(crate) fn wait_ping(from: &Container, to: &str) -> Outcome {
    let once = || Ok(from.exec(["ping", "-n", "-c1", "-W1", to])?.success().then_some(()));
    Ok(interrupt::wait_until(&format!("a ping from {} to {to}", from.name()), SOON, once)?)
}
