//! n2n 1.3, which Debian still ships.
//!
//! It always encrypts (Twofish), and it knows only the MAC addresses of its own TAPs. Frames for any other MAC, such as
//! all those of containers behind a bridge, go to its supernode, which sends them to everybody. So the supernode
//! belongs to the data path, and is listed among the processes. With its headers a packet of 1400 bytes no longer fits
//! the underlay in one piece; the kernel fragments it, as it does with the MTU that n2n has by default.

use std::sync::OnceLock;
use std::time::Duration;

use ipop_lab::Lab;

use super::daemon::{Daemons, Program, endpoint, missing, pair, secret};
use super::{Kind, Missing, Running, system};
use crate::error::Result;
use crate::result::{Category, System};

const INSTALL: &[&str] = &["apt-get", "install", "-y", "n2n"];
const EDGE: Program = Program::new("edge", INSTALL);
const SUPERNODE: Program = Program::new("supernode", INSTALL);
const TAP: &str = "n2n0";
const PORT: u16 = 7654;
/// Edges that come before the supernode listens would not try again for a minute.
const SUPERNODE_READY: Duration = Duration::from_secs(5);

/// The only mode.
pub(super) struct N2n;

/// It cannot do without encryption.
pub(super) const MODES: [N2n; 1] = [N2n];

impl Kind for N2n {
    fn system(&self) -> System {
        static VERSION: OnceLock<Option<String>> = OnceLock::new();
        let version = VERSION.get_or_init(|| SUPERNODE.version("-h"));
        system("n2n-encrypted", "n2n, Twofish, by supernode", Category::UserSpace, version.clone())
    }

    fn missing(&self) -> Option<Missing> {
        missing(&[&EDGE, &SUPERNODE])
    }

    fn start(&self, lab: &Lab, inner_mtu: u32) -> Result<Box<dyn Running>> {
        let pair = pair(lab)?;
        let mut daemons = Daemons::new(lab, "n2n-encrypted", inner_mtu)?;
        let key = secret()?;
        let [(hub, _), _] = pair;
        let supernode = SUPERNODE.line(["-l", &PORT.to_string()]);
        let relay = daemons.spawn(hub, "n2n supernode", hub.netns().command(supernode), None)?;
        relay.wait("the port", SUPERNODE_READY, |relay| Ok(relay.log().contains("ready")))?;
        for (gateway, _) in pair {
            // -r: also frames that are not from and for the address of the TAP, which it insists on.
            let number = gateway.index() + 1;
            let (address, mac) = (format!("169.254.77.{number}"), format!("02:00:00:00:77:{number:02x}"));
            let (mtu, supernode) = (inner_mtu.to_string(), endpoint(hub, PORT));
            let segment = ["-d", TAP, "-a", &address, "-m", &mac, "-M", &mtu, "-r"];
            let community = ["-c", "ipop-bench", "-l", &supernode];
            let edge = EDGE.line(segment.into_iter().chain(community));
            let command = gateway.netns().command(edge).env("N2N_KEY", &key);
            daemons.spawn(gateway, "n2n edge", command, Some(TAP))?;
        }
        Ok(Box::new(daemons))
    }
}
