//! What the tests of this program share: the gateways of the drawing, and questions to the daemons.

use std::time::Duration;

use ipop_lab::arp::{Mac, format_mac};
pub(crate) use ipop_lab::trials::Outcome;
use ipop_lab::{Builder, Container, Daemon, Lab, interrupt};
use libtest_mimic::Failed;
use serde_json::Value;

use super::peer::Peer;

/// A MAC behind gw-c, as far as the hostile peer says.
pub(crate) const THIEF: Mac = [0x02, 0, 0, 0, 0xcc, 1];
/// What is counted is there after this time.
pub(crate) const SOON: Duration = Duration::from_secs(3);

pub(crate) fn ensure(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(what.into().into()) }
}

/// Waits until `ready` says so.
pub(crate) fn until(what: &str, timeout: Duration, mut ready: impl FnMut() -> ipop_lab::Result<bool>) -> Outcome {
    interrupt::wait_until(what, timeout, || Ok(ready()?.then_some(())))?;
    Ok(())
}

pub(crate) fn pause(milliseconds: u64) -> Outcome {
    Ok(interrupt::sleep(Duration::from_millis(milliseconds))?)
}

/// gw-a and gw-b with their daemons; taken down in the order of the fields.
pub(crate) struct Scene {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) lab: Lab,
}

impl Scene {
    /// gw-a and gw-b alone.
    pub(crate) fn pair() -> Result<Scene, Failed> {
        let lab = Lab::builder().without_inner_ipv6().build()?;
        let daemons = lab.start_ipop()?;
        Ok(Scene { daemons, lab })
    }

    /// With the hostile peer, which both of them know. `change` sees the configurations.
    pub(crate) fn with_peer(builder: &Builder, change: impl Fn(&mut Value)) -> Result<(Scene, Peer), Failed> {
        let lab = builder.clone().gateways(3).build()?;
        let peer = Peer::start(&lab)?;
        let mut daemons = Vec::new();
        for gateway in &lab.gateways()[..2] {
            let mut config = gateway.config();
            change(&mut config);
            daemons.push(gateway.start_ipop(&config)?);
        }
        let scene = Scene { daemons, lab };
        scene.wait_peers_up()?;
        Ok((scene, peer))
    }

    pub(crate) fn wait_peers_up(&self) -> Outcome {
        for daemon in &self.daemons {
            daemon.wait_peers_up(Duration::from_secs(15))?;
        }
        Ok(())
    }

    pub(crate) fn container(&self, gateway: usize, name: &str, addresses: &[&str]) -> Result<Container, Failed> {
        Ok(self.lab.container(gateway, name, addresses)?)
    }

    /// A container that has `count` more addresses, from `10.0.3.<first>` on, which it keeps to itself.
    pub(crate) fn with_more(
        &self,
        gateway: usize,
        name: &str,
        address: &str,
        first: u8,
        count: u8,
    ) -> Result<(Container, Vec<String>), Failed> {
        let more: Vec<String> = (first..first + count).map(|last| format!("10.0.3.{last}")).collect();
        let with_length: Vec<String> = more.iter().map(|address| format!("{address}/24")).collect();
        let addresses: Vec<&str> = [address].into_iter().chain(with_length.iter().map(String::as_str)).collect();
        Ok((self.container(gateway, name, &addresses)?, more))
    }

    /// A counter of `ipop status`, such as `refused/mac_is_here`.
    pub(crate) fn count(&self, gateway: usize, counter: &str) -> Result<u64, Failed> {
        Ok(self.daemons[gateway].counter(&format!("/{counter}"))?)
    }

    /// Waits until a counter has risen to `at_least`.
    pub(crate) fn await_count(&self, gateway: usize, counter: &str, at_least: u64) -> Outcome {
        let what = format!("{counter} of {} to reach {at_least}", self.lab.gateway(gateway).name());
        let reached = until(&what, SOON, || Ok(self.daemons[gateway].counter(&format!("/{counter}"))? >= at_least));
        reached.map_err(|error| {
            let refused = self.daemons[gateway].status("status").map(|status| status["refused"].to_string());
            format!("{}; it says {refused:?}", error.message().unwrap_or_default()).into()
        })
    }

    /// How often a MAC has moved, as the gateway knows that counts higher.
    pub(crate) fn moves_of(&self, mac: Mac) -> Result<u64, Failed> {
        let mut highest = 0;
        for daemon in &self.daemons {
            let table = daemon.status("macs")?;
            let rows = table["macs"].as_array().cloned().unwrap_or_default();
            let row = rows.into_iter().find(|row| row["mac"] == format_mac(mac)).unwrap_or_default();
            highest = highest.max(row["seq"].as_u64().unwrap_or(0));
        }
        Ok(highest)
    }

    /// One line of a gateway's log has all of these.
    pub(crate) fn log_says(&self, gateway: usize, parts: &[&str]) -> Outcome {
        let log = self.daemons[gateway].log();
        let found = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        ensure(found, format!("{} has no line with {parts:?} in its log:\n{log}", self.lab.gateway(gateway).name()))
    }
}
