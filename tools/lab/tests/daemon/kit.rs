//! What the tests of the program share.

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) use ipop_lab::trials::Outcome;
use ipop_lab::{Cmd, Container, Daemon, Gateway, Lab, Output, Process, interrupt, ipop_binary};
use libtest_mimic::Failed;
use serde_json::Value;

/// The addresses of the two containers.
pub(crate) const HERE: &str = "10.0.3.3";
pub(crate) const THERE: &str = "10.0.3.104";

pub(crate) fn ensure(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(what.into().into()) }
}

/// Fails unless `text` has all of `parts`.
pub(crate) fn says(what: &str, text: &str, parts: &[&str]) -> Outcome {
    for part in parts {
        ensure(text.contains(part), format!("{what}: {part:?} is missing in: {text}"))?;
    }
    Ok(())
}

pub(crate) fn until(what: &str, timeout: Duration, mut ready: impl FnMut() -> ipop_lab::Result<bool>) -> Outcome {
    interrupt::wait_until(what, timeout, || Ok(ready()?.then_some(())))?;
    Ok(())
}

/// Two gateways with a container each; daemons are a test's own business.
pub(crate) struct Pair {
    pub(crate) c0: Container,
    pub(crate) c1: Container,
    pub(crate) lab: Lab,
}

impl Pair {
    pub(crate) fn new() -> Result<Pair, Failed> {
        let lab = Lab::builder().without_inner_ipv6().build()?;
        let c0 = lab.container(0, "c0", &["10.0.3.3/24"])?;
        let c1 = lab.container(1, "c1", &["10.0.3.104/24"])?;
        Ok(Pair { c0, c1, lab })
    }

    /// With daemons that hear each other and a ping that has passed.
    pub(crate) fn joined() -> Result<(Pair, Daemon, Daemon), Failed> {
        Pair::joined_with(|_| ())
    }

    /// The same without keys.
    pub(crate) fn joined_in_clear_text() -> Result<(Pair, Daemon, Daemon), Failed> {
        Pair::joined_with(|config| config["sec"] = false.into())
    }

    /// The same with both configurations changed.
    pub(crate) fn joined_with(change: impl Fn(&mut Value)) -> Result<(Pair, Daemon, Daemon), Failed> {
        let pair = Pair::new()?;
        let mut daemons = pair.lab.start_ipop_with(|_, config| change(config))?;
        let (Some(b), Some(a)) = (daemons.pop(), daemons.pop()) else { return Err("no two daemons".into()) };
        pair.c0.ping(THERE, 1)?;
        Ok((pair, a, b))
    }

    pub(crate) fn gateway(&self, index: usize) -> &Gateway {
        self.lab.gateway(index)
    }

    /// Traffic both ways within the time, counted from now; gives the time it took.
    pub(crate) fn traffic_within(&self, what: &str, limit: Duration) -> Result<Duration, Failed> {
        let begin = Instant::now();
        for (from, to) in [(&self.c0, THERE), (&self.c1, HERE)] {
            until(&format!("traffic to {to} {what}"), limit.saturating_sub(begin.elapsed()), || {
                Ok(from.exec(["ping", "-n", "-c1", "-W0.3", to])?.success())
            })?;
        }
        Ok(begin.elapsed())
    }
}

/// Adds the ends of the logs to what went wrong.
pub(crate) fn with_logs<T>(result: Result<T, Failed>, daemons: &[&Daemon]) -> Result<T, Failed> {
    result.map_err(|failed| {
        let mut text = failed.message().unwrap_or_default().to_owned();
        for daemon in daemons {
            let log = daemon.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(12)..].join("\n");
            text += &format!("\n--- {} ---\n{end}", daemon.gateway().name());
        }
        text.into()
    })
}

/// The state that `daemon` believes its peer number `index` to be in.
pub(crate) fn peer_state(daemon: &Daemon, index: usize) -> ipop_lab::Result<String> {
    Ok(daemon.status("peers")?["peers"][index]["state"].as_str().unwrap_or_default().to_owned())
}

/// Writes a file into the run's directory.
pub(crate) fn file(lab: &Lab, name: &str, text: &str) -> Result<PathBuf, Failed> {
    let path = lab.lab_run().dir().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

/// `ipop <words>` on a gateway, not yet started.
pub(crate) fn ipop(gateway: &Gateway, words: &[&str]) -> Result<Cmd, Failed> {
    let binary = ipop_binary()?.display().to_string();
    Ok(gateway.netns().command([binary.as_str()].into_iter().chain(words.iter().copied())))
}

/// Starts `ipop run` with a config of its own file name.
pub(crate) fn start(lab: &Lab, gateway: &Gateway, name: &str, config: &Value) -> Result<Process, Failed> {
    let path = file(lab, &format!("{name}.json"), &config.to_string())?;
    Ok(ipop(gateway, &["run", "--config", &path.display().to_string()])?.spawn()?)
}

/// `ipop run` must fail: exit status 1, and a line for each fault.
pub(crate) fn refused(lab: &Lab, gateway: &Gateway, name: &str, config: &Value, parts: &[&str]) -> Outcome {
    let output = start(lab, gateway, name, config)?.wait(Duration::from_secs(8))?;
    failed_clearly(name, &output, parts)
}

pub(crate) fn failed_clearly(what: &str, output: &Output, parts: &[&str]) -> Outcome {
    let text = format!("{}{}", output.stdout, output.stderr);
    ensure(output.status.code() == Some(1), format!("{what}: {}: {text}", output.status))?;
    let last = output.stderr.lines().last().unwrap_or_default();
    ensure(last.starts_with("ipop: "), format!("{what}: the last line is no error message: {text}"))?;
    ensure(!text.contains("panicked"), format!("{what}: {text}"))?;
    // One line for each fault.
    let errors: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("ipop: ")).collect();
    says(what, &errors.join("\n"), parts)
}

/// Is there an interface of this name?
pub(crate) fn has_link(gateway: &Gateway, name: &str) -> ipop_lab::Result<bool> {
    Ok(gateway.exec(["ip", "link", "show", name])?.success())
}

/// The bridge that an interface is a port of.
pub(crate) fn master(gateway: &Gateway, name: &str) -> ipop_lab::Result<String> {
    let shown = gateway.exec(["ip", "-j", "link", "show", name])?;
    let links: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
    Ok(links[0]["master"].as_str().unwrap_or_default().to_owned())
}

/// The resident memory of a process in KiB.
pub(crate) fn resident(pid: u32) -> Result<u64, Failed> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Numbers that look random and are the same in every run (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}
