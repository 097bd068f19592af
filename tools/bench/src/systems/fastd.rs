//! fastd, <https://fastd.readthedocs.io/>.

use std::sync::OnceLock;

use ipop_lab::{Cmd, Lab};

use super::daemon::{Daemons, Program, endpoint, missing, pair};
use super::{Kind, Missing, Running, system};
use crate::error::{Error, Result};
use crate::result::{Category, System};

const FASTD: Program = Program::new("fastd", &["apt-get", "install", "-y", "fastd"]);
const TAP: &str = "fastd0";
const PORT: u16 = 10_000;

/// A method, as fastd calls what becomes of the payload.
pub(super) struct Fastd {
    id: &'static str,
    label: &'static str,
    method: &'static str,
}

/// The second is what its documentation recommends where encryption is wanted.
pub(super) const MODES: [Fastd; 2] = [
    Fastd { id: "fastd-clear", label: "fastd, clear text", method: "null" },
    Fastd { id: "fastd-encrypted", label: "fastd, Salsa20/12, UMAC", method: "salsa2012+umac" },
];

impl Kind for Fastd {
    fn system(&self) -> System {
        static VERSION: OnceLock<Option<String>> = OnceLock::new();
        let version = VERSION.get_or_init(|| FASTD.version("--version"));
        system(self.id, self.label, Category::UserSpace, version.clone())
    }

    fn missing(&self) -> Option<Missing> {
        missing(&[&FASTD])
    }

    fn start(&self, lab: &Lab, inner_mtu: u32) -> Result<Box<dyn Running>> {
        let pair = pair(lab)?;
        let mut daemons = Daemons::new(lab, self.id, inner_mtu)?;
        let keys = [Key::generate()?, Key::generate()?];
        for (gateway, other) in pair {
            // Only the second one calls. When both do at the same time, each takes the other's call for a repeated one,
            // and no frame passes until they try again after 20 s.
            let remote =
                if gateway.index() == 0 { String::new() } else { format!("remote {};", endpoint(other, PORT)) };
            // The documentation has no advice for throughput beyond the method and an MTU that needs no fragments.
            let config = format!(
                "mode tap;\ninterface \"{TAP}\";\nmtu {inner_mtu};\nmethod \"{}\";\nbind {};\nsecret \"{}\";\n\
                 peer \"{}\" {{ key \"{}\"; {remote} }}\n",
                self.method,
                endpoint(gateway, PORT),
                keys[gateway.index()].secret,
                other.name(),
                keys[other.index()].public,
            );
            let file = daemons.file(&format!("{}.conf", gateway.name()), &config)?;
            let command = gateway.netns().command(FASTD.line(["--config", &file]));
            daemons.spawn(gateway, "fastd", command, Some(TAP))?;
        }
        Ok(Box::new(daemons))
    }
}

/// The identity of a peer.
struct Key {
    secret: String,
    public: String,
}

impl Key {
    fn generate() -> Result<Self> {
        let text = Cmd::new(FASTD.line(["--generate-key"])).run()?;
        let value = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.map(|value| value.trim().to_owned()).ok_or_else(|| Error::other("fastd generates no key"))
        };
        Ok(Self { secret: value("Secret:")?, public: value("Public:")? })
    }
}
