//! What the tests of this program share.

use std::time::Duration;

pub(crate) use ipop_lab::trials::Outcome;
use ipop_lab::{Cmd, Container, Daemon, Gateway, Lab, Process, interrupt, ipop_binary};
use libtest_mimic::Failed;
use serde_json::Value;

/// What does not depend on a timer of minutes has happened after this time, also on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const HERE: &str = "10.0.3.3";
pub(crate) const THERE: &str = "10.0.3.104";

pub(crate) fn ensure(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(what.into().into()) }
}

/// Waits until `ready` says so.
pub(crate) fn until(what: &str, timeout: Duration, mut ready: impl FnMut() -> Result<bool, Failed>) -> Outcome {
    interrupt::wait_until(what, timeout, || {
        let ready = ready().map_err(|error| ipop_lab::Error::other(error.message().unwrap_or_default()))?;
        Ok(ready.then_some(()))
    })?;
    Ok(())
}

/// Waits until a line of the log has all of these.
pub(crate) fn log_says(daemon: &Daemon, parts: &[&str]) -> Outcome {
    let what = format!("a line with {parts:?} in the log of {}", daemon.gateway().name());
    let found =
        until(&what, SOON, || Ok(daemon.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))));
    found.map_err(|_| format!("waited in vain for {what}:\n{}", daemon.log()).into())
}

/// `ipop <words>` on a gateway, not yet started.
pub(crate) fn ipop(gateway: &Gateway, words: &[&str]) -> Result<Cmd, Failed> {
    let binary = ipop_binary()?.display().to_string();
    Ok(gateway.netns().command([binary.as_str()].into_iter().chain(words.iter().copied())))
}

/// Two gateways with a container each; daemons are a test's own business.
pub(crate) struct Pair {
    pub(crate) c0: Container,
    _c1: Container,
    pub(crate) lab: Lab,
}

impl Pair {
    pub(crate) fn new() -> Result<Pair, Failed> {
        Pair::of(Lab::builder().without_inner_ipv6().build()?)
    }

    pub(crate) fn of(lab: Lab) -> Result<Pair, Failed> {
        let c0 = lab.container(0, "c0", &[&format!("{HERE}/24")])?;
        let c1 = lab.container(1, "c1", &[&format!("{THERE}/24")])?;
        Ok(Pair { c0, _c1: c1, lab })
    }

    pub(crate) fn gateway(&self, index: usize) -> &Gateway {
        self.lab.gateway(index)
    }

    /// A daemon with the usual config, changed.
    pub(crate) fn start(&self, index: usize, change: impl FnOnce(&mut Value)) -> Result<Daemon, Failed> {
        let mut config = self.gateway(index).config();
        change(&mut config);
        Ok(self.gateway(index).start_ipop(&config)?)
    }

    /// A ping gets through.
    pub(crate) fn traffic(&self) -> Outcome {
        let ping = || Ok(self.c0.exec(["ping", "-n", "-c1", "-W1", THERE])?.success());
        until(&format!("traffic to {THERE}"), SOON, ping)
    }
}

/// `ipop run` on gw-a with a standard error of the test's choice: started by a shell.
pub(crate) struct Service {
    pub(crate) process: Process,
    gateway: Gateway,
    socket: String,
}

impl Service {
    /// `script` has `$IPOP` for the program with its arguments, and `$DIR` for the run's directory.
    pub(crate) fn start(pair: &Pair, script: &str, arguments: &str) -> Result<Service, Failed> {
        let gateway = pair.gateway(0);
        let (config, dir) = (gateway.config(), pair.lab.lab_run().dir());
        let file = dir.join("service.json");
        std::fs::write(&file, config.to_string())?;
        let run = format!("{} run {arguments} --config {}", ipop_binary()?.display(), file.display());
        let script = script.replace("$IPOP", &run).replace("$DIR", &dir.display().to_string());
        let process = gateway.spawn(["sh", "-c", &script])?;
        let socket = config["control_socket"].as_str().unwrap_or_default().to_owned();
        let mut service = Service { process, gateway: gateway.clone(), socket };
        let ready = until("the gateway to answer", SOON, || Ok(service.ask("status").is_ok()));
        ready.map_err(|error| {
            let ended = service.process.ended();
            format!("{}: {ended:?}: {}", error.message().unwrap_or_default(), service.process.stderr())
        })?;
        Ok(service)
    }

    /// What `ipop <kind> --json` says.
    pub(crate) fn ask(&self, kind: &str) -> Result<Value, Failed> {
        let text = ipop(&self.gateway, &[kind, "--json", "--socket", &self.socket])?.run()?;
        Ok(serde_json::from_str(&text)?)
    }

    /// What `ipop <kind>` prints.
    pub(crate) fn show(&self, kind: &str) -> Result<String, Failed> {
        Ok(ipop(&self.gateway, &[kind, "--socket", &self.socket])?.run()?)
    }

    /// Lines of the log that were lost.
    pub(crate) fn lost(&self) -> Result<u64, Failed> {
        Ok(self.ask("status")?["log_lost"].as_u64().ok_or("no log_lost")?)
    }

    /// The process of the gateway itself.
    pub(crate) fn pid(&self) -> Result<i32, Failed> {
        Ok(i32::try_from(self.ask("status")?["pid"].as_u64().ok_or("no pid")?)?)
    }
}
