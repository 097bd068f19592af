//! `ipop` with a whole interface as its port: the containers' cables end at the gateways, not in their bridges.

use ipop_lab::{BRIDGE, Gateway, Lab};
use serde_json::json;

use super::ipop::{Daemons, available, version};
use super::{Kind, Missing, Running, system};
use crate::error::{Error, Result};
use crate::result::{Category, System};

/// The one mode.
pub(super) struct Interface;

impl Kind for Interface {
    fn system(&self) -> System {
        system("ipop-interface", "ipop, AF_PACKET port, clear text", Category::Ipop, version())
    }

    fn missing(&self) -> Option<Missing> {
        available()
    }

    fn start(&self, lab: &Lab, _inner_mtu: u32) -> Result<Box<dyn Running>> {
        let unplugged = lab.gateways().iter().map(Unplugged::take).collect::<Result<Vec<_>>>()?;
        let daemons = Daemons(lab.start_ipop_with(|gateway, config| {
            config["sec"] = false.into();
            config["port"] = json!({ "af_packet": unplugged[gateway.index()].port });
            if let Some(config) = config.as_object_mut() {
                config.remove("tap");
                config.remove("bridge");
            }
        })?);
        Ok(Box::new(Run { daemons, _unplugged: unplugged }))
    }
}

/// The cable of a gateway's container, for as long as it is not in the bridge.
struct Unplugged {
    gateway: Gateway,
    port: String,
}

impl Unplugged {
    fn take(gateway: &Gateway) -> Result<Unplugged> {
        let ports = gateway.run(["ls", &format!("/sys/class/net/{BRIDGE}/brif")])?;
        let [port] = ports.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(Error::other(format!("{} has not one container, but: {ports}", gateway.name())));
        };
        gateway.netns().ip(&format!("link set {port} nomaster"))?;
        Ok(Unplugged { gateway: gateway.clone(), port: port.to_owned() })
    }
}

impl Drop for Unplugged {
    fn drop(&mut self) {
        // The next system says so if it cannot reach the container.
        let _ = self.gateway.plug(&self.port);
    }
}

struct Run {
    // Dropped first: a port belongs to one.
    daemons: Daemons,
    _unplugged: Vec<Unplugged>,
}

impl Running for Run {
    fn processes(&self) -> Vec<(String, u32)> {
        self.daemons.processes()
    }

    fn check(&mut self) -> Result<()> {
        self.daemons.check()
    }
}
