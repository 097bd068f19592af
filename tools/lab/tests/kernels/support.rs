//! Two gateways, a container behind each, and what must pass between them.

use std::time::Duration;

use ipop_lab::gateway::with_interface;
use ipop_lab::traffic::{datagrams, exchange, transfer_in_any_order};
use ipop_lab::trials::Outcome;
use ipop_lab::{Container, Daemon, Lab, interrupt};
use libtest_mimic::Failed;
use nix::sys::utsname::uname;
use serde_json::Value;

pub(crate) const HERE: &str = "10.0.3.3";
pub(crate) const THERE: &str = "10.0.3.104";
pub(crate) const HERE_V6: &str = "fd03::3";
pub(crate) const THERE_V6: &str = "fd03::104";

/// What should happen at once has this long before the test fails.
pub(crate) const SOON: Duration = Duration::from_secs(5);
const MIB: usize = 1 << 20;

/// What a gateway has for a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// A TAP in a bridge, as the container's cable is.
    Tap,
    /// The end of the container's cable.
    Interface,
}

pub(crate) struct Joined {
    // Dropped first: a daemon says goodbye while its namespace is there.
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) c0: Container,
    pub(crate) c1: Container,
    pub(crate) lab: Lab,
}

pub(crate) fn ensure(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(what().into()) }
}

/// True on the kernel of this version, or a later one.
pub(crate) fn since(major: u32, minor: u32) -> Result<bool, Failed> {
    let name = uname()?;
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(a)), Some(Ok(b))) => Ok((a, b) >= (major, minor)),
        _ => Err(format!("no version of Linux: {release}").into()),
    }
}

impl Joined {
    pub(crate) fn start(ports: [Port; 2], change: impl Fn(&mut Value)) -> Result<Joined, Failed> {
        let lab = Lab::builder().build()?;
        let c0 = lab.container(0, "c0", &["10.0.3.3/24", "fd03::3/64"])?;
        let c1 = lab.container(1, "c1", &["10.0.3.104/24", "fd03::104/64"])?;
        let mut daemons = Vec::new();
        for ((gateway, port), container) in lab.gateways().iter().zip(ports).zip([&c0, &c1]) {
            let mut config = gateway.config();
            if port == Port::Interface {
                gateway.netns().ip(&format!("link set {} nomaster", container.port()))?;
                config = with_interface(config, &container.port());
            }
            change(&mut config);
            daemons.push(gateway.start_ipop(&config)?);
        }
        for daemon in &daemons {
            daemon.wait_peers_up(Duration::from_secs(15))?;
        }
        let joined = Joined { daemons, c0, c1, lab };
        for gateway in 0..2 {
            interrupt::wait_until("the whole path to be found", SOON, || {
                let answer = joined.daemons[gateway].status("peers")?;
                Ok((answer["peers"][0]["path_mtu"] == 1500).then_some(()))
            })?;
        }
        Ok(joined)
    }

    /// Small and full packets, streams, datagrams, of both IP versions and in both directions.
    pub(crate) fn carries_everything(&self) -> Outcome {
        let Joined { c0, c1, .. } = self;
        c0.ping(THERE, 3)?;
        c1.ping(HERE, 3)?;
        for (container, target, size) in
            [(c0, THERE, "1472"), (c1, HERE, "1472"), (c0, THERE_V6, "1452"), (c1, HERE_V6, "1452")]
        {
            let ping = container.run(["ping", "-n", "-c2", "-i0.2", "-W10", "-M", "do", "-s", size, target])?;
            ensure(ping.contains(" 0% packet loss"), || format!("{size} octets to {target}: {ping}"))?;
        }
        exchange(c0, c1, THERE, 2, MIB / 2)?;
        exchange(c0, c1, THERE_V6, 1, MIB)?;
        datagrams(c0, c1, THERE)?;
        datagrams(c1, c0, HERE_V6)?;
        transfer_in_any_order(c0, c1, THERE, 1000, None)?;
        transfer_in_any_order(c1, c0, HERE_V6, 1200, None)?;
        for daemon in &self.daemons {
            let drops = &daemon.status("status")?["drops"];
            for drop in
                ["frame_truncated", "frame_metadata", "segment_malformed", "port_refused", "super_frame_unknown"]
            {
                ensure(drops[drop] == 0, || drops.to_string())?;
            }
        }
        Ok(())
    }

    /// Whether a feature is on at a gateway, and why not.
    pub(crate) fn feature(&self, gateway: usize, name: &str) -> Result<(bool, String), Failed> {
        let status = self.daemons[gateway].status("status")?;
        let lists = [&status["offloads"], &status["workers"][0]["features"], &status["confinement"]["features"]];
        let mut all = lists.into_iter().filter_map(Value::as_array).flatten();
        let feature = all.find(|feature| feature["name"] == name).ok_or_else(|| format!("no {name} in {status}"))?;
        Ok((feature["on"] == true, feature["reason"].as_str().unwrap_or_default().to_owned()))
    }
}
