//! OpenVPN 2, <https://openvpn.net/>, from peer to peer.

use std::sync::OnceLock;

use ipop_lab::{Cmd, Gateway, Lab};

use super::daemon::{Daemons, Program, SOCKET_BUFFER, missing, pair};
use super::{Kind, Missing, Running, system};
use crate::error::{Error, Result};
use crate::result::{Category, System};

const OPENVPN: Program = Program::new("openvpn", &["apt-get", "install", "-y", "openvpn"]);
const OPENSSL: Program = Program::new("openssl", &["apt-get", "install", "-y", "openssl"]);
const TAP: &str = "openvpn0";
/// Its default port.
const PORT: u16 = 1194;

/// With TLS or without.
pub(super) struct OpenVpn {
    id: &'static str,
    label: &'static str,
    tls: bool,
}

/// The first is what is left of OpenVPN when everything that can be turned off is. The second is what its manual shows
/// for two peers: TLS, each knows the other's certificate, and the cipher that 2.6 prefers.
pub(super) const MODES: [OpenVpn; 2] = [
    OpenVpn { id: "openvpn-clear", label: "OpenVPN, clear text", tls: false },
    OpenVpn { id: "openvpn-encrypted", label: "OpenVPN, TLS, AES-256-GCM", tls: true },
];

impl Kind for OpenVpn {
    fn system(&self) -> System {
        static VERSION: OnceLock<Option<String>> = OnceLock::new();
        let version = VERSION.get_or_init(|| OPENVPN.version("--version"));
        system(self.id, self.label, Category::UserSpace, version.clone())
    }

    fn missing(&self) -> Option<Missing> {
        if self.tls { missing(&[&OPENVPN, &OPENSSL]) } else { missing(&[&OPENVPN]) }
    }

    fn start(&self, lab: &Lab, inner_mtu: u32) -> Result<Box<dyn Running>> {
        let pair = pair(lab)?;
        let mut daemons = Daemons::new(lab, self.id, inner_mtu)?;
        let identities = match self.tls {
            true => Some([Identity::generate(&daemons, pair[0].0)?, Identity::generate(&daemons, pair[1].0)?]),
            false => None,
        };
        for (gateway, other) in pair {
            // fast-io: a write to the TAP or the socket is tried at once instead of asking poll before; by the manual
            // it saves 5 to 10 % of the processor. The receive buffer because the system's default loses packets at
            // every burst. Offloading to the kernel (DCO) does not know TAPs.
            let mut config = format!(
                "dev {TAP}\ndev-type tap\nproto udp\nlocal {}\nremote {}\nport {PORT}\ntun-mtu {inner_mtu}\n\
                 fast-io\nrcvbuf {SOCKET_BUFFER}\nsndbuf {SOCKET_BUFFER}\ndisable-dco\n",
                gateway.underlay_ip(),
                other.underlay_ip(),
            );
            config += &match &identities {
                None => "cipher none\nauth none\n".to_owned(),
                Some(identities) => {
                    let (own, peer) = (&identities[gateway.index()], &identities[other.index()]);
                    let role = if gateway.index() == 0 { "tls-server\ndh none" } else { "tls-client" };
                    format!(
                        "{role}\ncert {}\nkey {}\npeer-fingerprint {}\ndata-ciphers AES-256-GCM\n",
                        own.certificate, own.key, peer.fingerprint
                    )
                }
            };
            let file = daemons.file(&format!("{}.conf", gateway.name()), &config)?;
            let command = gateway.netns().command(OPENVPN.line(["--config", &file]));
            daemons.spawn(gateway, "openvpn", command, Some(TAP))?;
        }
        Ok(Box::new(daemons))
    }
}

/// A certificate that a peer made for itself.
struct Identity {
    certificate: String,
    key: String,
    fingerprint: String,
}

impl Identity {
    fn generate(daemons: &Daemons, gateway: &Gateway) -> Result<Self> {
        let path = |suffix: &str| daemons.dir().join(gateway.name()).with_extension(suffix).display().to_string();
        let (certificate, key, subject) = (path("crt"), path("key"), format!("/CN={}", gateway.name()));
        let curve = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let files = ["-days", "30", "-subj", &subject, "-keyout", &key, "-out", &certificate];
        Cmd::new(OPENSSL.line(curve.into_iter().chain(files))).run()?;
        let text = Cmd::new(OPENSSL.line(["x509", "-in", &certificate, "-noout", "-fingerprint", "-sha256"])).run()?;
        let (_, fingerprint) =
            text.trim().split_once('=').ok_or_else(|| Error::other("openssl gives no fingerprint"))?;
        Ok(Self { certificate, key, fingerprint: fingerprint.to_owned() })
    }
}
