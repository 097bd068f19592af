//! `ipop` itself.

use std::sync::OnceLock;

use ipop_lab::{Daemon, Lab, ipop_available, ipop_binary};
use serde_json::Value;

use super::daemon::{last_lines, version_of};
use super::{Kind, Missing, Running, system};
use crate::error::{Error, Result};
use crate::result::{Category, System};

/// One way to configure it.
pub(super) struct Ipop {
    id: &'static str,
    label: &'static str,
    /// Changes the default configuration of the gateway with this number.
    change: fn(&mut Value, usize),
}

/// Each is measured on its own. The first two are set beside the others: there the scheduler places every daemon. In the third
/// each gateway has the core that its container is pinned to, as if that core were its machine.
pub(super) const MODES: [Ipop; 3] = [
    Ipop { id: "ipop-clear", label: "ipop, clear text", change: |config, _| config["sec"] = false.into() },
    // As it is by default.
    Ipop { id: "ipop-encrypted", label: "ipop, encrypted", change: |_, _| {} },
    Ipop {
        id: "ipop-pinned",
        label: "ipop, clear text, a core each",
        change: |config, gateway| {
            config["sec"] = false.into();
            config["cpus"] = vec![gateway].into();
        },
    },
];

impl Kind for Ipop {
    fn system(&self) -> System {
        system(self.id, self.label, Category::Ipop, version())
    }

    fn missing(&self) -> Option<Missing> {
        available()
    }

    fn start(&self, lab: &Lab, inner_mtu: u32) -> Result<Box<dyn Running>> {
        let daemons = lab.start_ipop_with(|gateway, config| {
            config["mtu"] = inner_mtu.into();
            (self.change)(config, gateway.index());
        })?;
        for daemon in &daemons {
            // A figure must not stand under the wrong heading.
            if daemon.status("status")?["sec"] != self.system().encrypted {
                return Err(Error::other(format!("{} runs otherwise than {} says", name(daemon), self.id)));
            }
        }
        Ok(Box::new(Daemons(daemons)))
    }
}

pub(super) fn version() -> Option<String> {
    static VERSION: OnceLock<Option<String>> = OnceLock::new();
    VERSION.get_or_init(|| version_of(&ipop_binary().ok()?, "--version")).clone()
}

pub(super) fn available() -> Option<Missing> {
    ipop_available().err().map(Missing::beyond_help)
}

pub(super) struct Daemons(pub(super) Vec<Daemon>);

impl Running for Daemons {
    fn processes(&self) -> Vec<(String, u32)> {
        self.0.iter().map(|daemon| (name(daemon), daemon.pid())).collect()
    }

    fn check(&mut self) -> Result<()> {
        match self.0.iter_mut().find_map(|daemon| (!daemon.is_running()).then_some(daemon)) {
            Some(daemon) => Err(Error::other(format!("{} has ended:\n{}", name(daemon), last_lines(&daemon.log())))),
            None => Ok(()),
        }
    }
}

fn name(daemon: &Daemon) -> String {
    format!("ipop {}", daemon.gateway().name())
}
