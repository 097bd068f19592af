//! tinc 1.0, <https://www.tinc-vpn.org/>.

use std::sync::OnceLock;
use std::time::Duration;

use ipop_lab::{Cmd, Gateway, Lab, interrupt};
use nix::sys::signal::Signal;

use super::daemon::{Daemon, Daemons, Program, SOCKET_BUFFER, missing, pair};
use super::{Kind, Missing, Running, system};
use crate::error::{Result, read};
use crate::result::{Category, System};

const TINCD: Program = Program::new("tincd", &["apt-get", "install", "-y", "tinc"]);
const TAP: &str = "tinc0";
/// Its default port.
const PORT: u16 = 655;
/// It probes the path up to 30 times, once a second.
const PATH_KNOWN: Duration = Duration::from_secs(40);
/// How often it is asked about the path.
const GLANCE: Duration = Duration::from_millis(200);
/// The Ethernet header.
const HEADER: u32 = 14;

/// A pair of cipher and digest.
pub(super) struct Tinc {
    id: &'static str,
    label: &'static str,
    cipher: &'static str,
    digest: &'static str,
}

/// Its own defaults, Blowfish and SHA-1, are what nobody should run.
pub(super) const MODES: [Tinc; 2] = [
    Tinc { id: "tinc-clear", label: "tinc, clear text", cipher: "none", digest: "none" },
    Tinc { id: "tinc-encrypted", label: "tinc, AES-256-CBC, SHA-256", cipher: "aes-256-cbc", digest: "sha256" },
];

impl Kind for Tinc {
    fn system(&self) -> System {
        static VERSION: OnceLock<Option<String>> = OnceLock::new();
        let version = VERSION.get_or_init(|| TINCD.version("--version"));
        system(self.id, self.label, Category::UserSpace, version.clone())
    }

    fn missing(&self) -> Option<Missing> {
        missing(&[&TINCD])
    }

    fn start(&self, lab: &Lab, inner_mtu: u32) -> Result<Box<dyn Running>> {
        let pair = pair(lab)?;
        let mut daemons = Daemons::new(lab, self.id, inner_mtu)?;
        for (gateway, other) in pair {
            // ReplayWindow as its manual advises for high bandwidth: with 16, packets that come late are taken for
            // replayed ones. The receive buffer because the system's default loses packets at every burst.
            let config = format!(
                "Name = {}\nMode = switch\nDeviceType = tap\nInterface = {TAP}\nBindToAddress = {}\nConnectTo = {}\n\
                 ReplayWindow = 128\nUDPRcvBuf = {SOCKET_BUFFER}\nUDPSndBuf = {SOCKET_BUFFER}\n",
                node(gateway),
                gateway.underlay_ip(),
                node(other),
            );
            daemons.file(&format!("{}/tinc.conf", gateway.name()), &config)?;
            let key = TINCD.line(["-c", &directory(&daemons, gateway), "-K2048"]);
            daemons.file(&format!("{}/hosts/{}", gateway.name(), node(gateway)), "")?;
            Cmd::new(key).run()?;
        }
        for (gateway, other) in pair {
            let public = read(&daemons.dir().join(format!("{}/hosts/{}", gateway.name(), node(gateway))))?;
            let host = format!(
                "Address = {} {PORT}\nPort = {PORT}\nCipher = {}\nDigest = {}\n{public}",
                gateway.underlay_ip(),
                self.cipher,
                self.digest,
            );
            for reader in [gateway, other] {
                daemons.file(&format!("{}/hosts/{}", reader.name(), node(gateway)), &host)?;
            }
        }
        for (gateway, _) in pair {
            let directory = directory(&daemons, gateway);
            let pidfile = format!("--pidfile={directory}/pid");
            let command = gateway.netns().command(TINCD.line(["-D", "-c", &directory, &pidfile]));
            daemons.spawn(gateway, "tinc", command, Some(TAP))?;
        }
        // Until it knows that the path can carry them, it sends large frames by TCP, which is not what would be seen
        // a minute later.
        daemons.wait("the path MTU", PATH_KNOWN, |daemon| path_known(daemon, inner_mtu + HEADER))?;
        Ok(Box::new(daemons))
    }
}

/// Does it send frames of this size by UDP, or will it never?
fn path_known(daemon: &mut Daemon, frame: u32) -> Result<bool> {
    // It lists all nodes in its log.
    daemon.process().signal(Signal::SIGUSR2)?;
    interrupt::sleep(GLANCE)?;
    Ok(path_of(&daemon.log()).is_some_and(|(limit, least)| least >= frame || least == limit))
}

/// The path MTU to the other node, and how much of it is certain: out of the last line like
/// `gw_b at 10.99.0.2 ... pmtu 1518 (min 730 max 1518)`.
fn path_of(log: &str) -> Option<(u32, u32)> {
    let line = log.lines().rev().find(|line| line.contains(" pmtu ") && !line.contains(" at MYSELF "))?;
    let mut words = line.rsplit_once(" pmtu ")?.1.split_whitespace();
    let limit = words.next()?.parse().ok()?;
    let least = words.nth(1)?.parse().ok()?;
    Some((limit, least))
}

/// A name that it allows: letters, digits, underscores.
fn node(gateway: &Gateway) -> String {
    gateway.name().replace('-', "_")
}

fn directory(daemons: &Daemons, gateway: &Gateway) -> String {
    daemons.dir().join(gateway.name()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_found_in_the_log() {
        let log = "Ready\n a at MYSELF cipher 0 pmtu 1518 (min 0 max 1518)\n \
                   b at 10.99.0.2 port 655 via b pmtu 1518 (min 730 max 1518)\nEnd of nodes.\n \
                   b at 10.99.0.2 port 655 via b pmtu 1467 (min 1447 max 1467)\n";
        assert_eq!(path_of(log), Some((1467, 1447)));
        assert_eq!(path_of("Ready\n a at MYSELF pmtu 1518 (min 0 max 1518)\n"), None);
    }
}
