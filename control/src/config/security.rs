//! Who this gateway is, who a peer is, and the switch that turns both off.

use serde_json::Value;

use super::{ConfigError, Keys, PeerConfig};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};

impl Keys<'_> {
    /// The private key; `None` for clear text, which has to be said.
    pub(super) fn identity(&self, warnings: &mut Vec<String>) -> Result<Option<PrivateKey>, ConfigError> {
        let file = self.file("private_key_file")?;
        match self.object.get("sec") {
            Some(Value::Bool(false)) => {
                warnings.push(
                    "\"sec\" is false: frames travel in clear text, and whoever can send from a peer's address is \
                     that peer. Use it on wires that you trust"
                        .to_owned(),
                );
                if file.is_some() {
                    warnings.push("\"private_key_file\" is not used while \"sec\" is false".to_owned());
                }
                Ok(None)
            }
            Some(Value::Bool(true)) | None => {
                let file = file.ok_or_else(|| {
                    self.error(
                        "private_key_file",
                        "is missing: make a key by `ipop keygen --out /etc/ipop/key` and write \"private_key_file\": \
                         \"/etc/ipop/key\" (or, on a wire that you trust, \"sec\": false for clear text)",
                    )
                })?;
                PrivateKey::load(&file).map(Some).map_err(|e| self.error("private_key_file", e.to_string()))
            }
            Some(other) => Err(self.error("sec", format!("is {other}; true or false is allowed"))),
        }
    }

    /// The public key of a peer; required where this gateway has an identity.
    pub(super) fn public_key(
        &self,
        name: &str,
        identity: Option<&PrivateKey>,
        others: &[PeerConfig],
    ) -> Result<Option<PublicKey>, ConfigError> {
        let fail = |message: String| self.error("public_key", message);
        let Some(text) = self.text("public_key")? else {
            return match identity {
                None => Ok(None),
                Some(_) => Err(fail(format!(
                    "is missing: what `ipop pubkey /etc/ipop/key` prints on {name} (`ipop keygen --out /etc/ipop/key` \
                     makes a key there)"
                ))),
            };
        };
        let key: PublicKey = text.parse().map_err(|e| fail(format!("\"{text}\" {e}")))?;
        if identity.is_some_and(|own| own.public() == key) {
            return Err(fail(format!(
                "is this gateway's own; every gateway has a key of its own: what `ipop pubkey /etc/ipop/key` prints on \
                 {name}"
            )));
        }
        match others.iter().find(|other| other.public_key == Some(key)) {
            Some(other) => Err(fail(format!(
                "is the key of \"{}\" already; every gateway has a key of its own: what `ipop pubkey /etc/ipop/key` \
                 prints on {name}",
                other.name
            ))),
            None => Ok(Some(key)),
        }
    }

    /// The secret shared with a peer. Without an identity it would not be used, and is not read.
    pub(super) fn preshared_key(&self, identity: Option<&PrivateKey>) -> Result<Option<PresharedKey>, ConfigError> {
        match self.file("preshared_key_file")? {
            Some(file) if identity.is_some() => {
                PresharedKey::load(&file).map(Some).map_err(|e| self.error("preshared_key_file", e.to_string()))
            }
            _ => Ok(None),
        }
    }
}
