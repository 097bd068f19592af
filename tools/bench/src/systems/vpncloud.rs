//! VpnCloud, <https://vpncloud.ddswd.de/>.

use std::sync::OnceLock;

use ipop_lab::Lab;
use serde_json::json;

use super::daemon::{Daemons, Program, endpoint, missing, pair, secret};
use super::{Kind, Missing, Running, system};
use crate::error::Result;
use crate::result::{Category, System};

const VPNCLOUD: Program = Program::new("vpncloud", &["cargo", "install", "vpncloud", "--version", "2.3.0", "--locked"]);
const TAP: &str = "vpncloud0";
/// Its default port.
const PORT: u16 = 3210;

/// An algorithm of its data channel.
pub(super) struct VpnCloud {
    id: &'static str,
    label: &'static str,
    algorithm: &'static str,
}

/// Left alone, it measures at the start which cipher is the fastest here; fixed, runs can be compared.
pub(super) const MODES: [VpnCloud; 2] = [
    VpnCloud { id: "vpncloud-clear", label: "VpnCloud, clear text", algorithm: "plain" },
    VpnCloud { id: "vpncloud-encrypted", label: "VpnCloud, AES-256-GCM", algorithm: "aes256" },
];

impl Kind for VpnCloud {
    fn system(&self) -> System {
        static VERSION: OnceLock<Option<String>> = OnceLock::new();
        let version = VERSION.get_or_init(|| VPNCLOUD.version("--version"));
        system(self.id, self.label, Category::UserSpace, version.clone())
    }

    fn missing(&self) -> Option<Missing> {
        missing(&[&VPNCLOUD])
    }

    fn start(&self, lab: &Lab, inner_mtu: u32) -> Result<Box<dyn Running>> {
        let pair = pair(lab)?;
        let mut daemons = Daemons::new(lab, self.id, inner_mtu)?;
        let password = secret()?;
        for (gateway, other) in pair {
            // It asks the kernel how it would reach the internet, and panics if it would not.
            daemons.add_default_route(gateway)?;
            // YAML, of which JSON is a part.
            let config = json!({
                "device": { "type": "tap", "name": TAP },
                "mode": "switch",
                "listen": endpoint(gateway, PORT),
                "peers": [endpoint(other, PORT)],
                "crypto": { "password": password, "algorithms": [self.algorithm] },
                "port-forwarding": false,
                "auto-claim": false,
            });
            let file = daemons.file(&format!("{}.yaml", gateway.name()), &config.to_string())?;
            let command = gateway.netns().command(VPNCLOUD.line(["--config", &file]));
            daemons.spawn(gateway, "vpncloud", command, Some(TAP))?;
        }
        Ok(Box::new(daemons))
    }
}
