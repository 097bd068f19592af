//! Who this gateway is, and the switch that turns encryption off.

use serde_json::Value;

use super::Keys;
use crate::keys::PrivateKey;

/// Whether links are sealed, and the private key, if there is one.
pub(super) struct Identity {
    pub(super) sealed: bool,
    pub(super) key: Option<PrivateKey>,
}

impl Keys<'_> {
    /// The private key; none for clear text, which has to be said.
    pub(super) fn identity(&self, warnings: &mut Vec<String>) -> Identity {
        let file = self.path("private_key_file");
        let sealed = self.value("sec", "true or false is allowed", Value::as_bool).unwrap_or(true);
        if !sealed {
            warnings.push(
                "\"sec\" is false: frames travel in clear text, and whoever can send from a peer's address is that peer. Use \
                 it on wires that you trust"
                    .to_owned(),
            );
            if file.is_some() {
                warnings.push("\"private_key_file\" is not used while \"sec\" is false".to_owned());
            }
            return Identity { sealed, key: None };
        }
        if !self.object.contains_key("private_key_file") {
            self.fault(
                "private_key_file",
                "is missing: make a key by `ipop keygen --out /etc/ipop/key` and write \"private_key_file\": \
                 \"/etc/ipop/key\" (or, on a wire that you trust, \"sec\": false for clear text)",
            );
        }
        let load = |file| PrivateKey::load(file).map_err(|e| self.fault("private_key_file", e.to_string())).ok();
        Identity { sealed, key: file.as_deref().and_then(load) }
    }
}
