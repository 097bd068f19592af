//! The other gateways in the config.

use std::net::SocketAddr;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::claims::Claims;
use ipop_dataplane::peers::same_address;
use serde_json::Value;

use super::limits::PeerDefaults;
use super::{ConfigError, Keys, keys};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::limits::Share;

/// One of the other gateways.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Name, unique.
    pub name: String,
    /// UDP address, unique.
    pub address: SocketAddr,
    /// Its public key, unique; there is one where this gateway has an identity.
    pub public_key: Option<PublicKey>,
    /// The secret that it shares with this gateway besides.
    pub preshared_key: Option<PresharedKey>,
    /// What it may claim.
    pub claims: Claims,
    /// How much it may bring.
    pub share: Share,
}

impl Keys<'_> {
    pub(super) fn peers(
        &self,
        listen: SocketAddr,
        identity: Option<&PrivateKey>,
        defaults: PeerDefaults,
    ) -> Result<Vec<PeerConfig>, ConfigError> {
        let Some(value) = self.object.get("peers") else {
            return Err(self.error(
                "peers",
                "is missing: a list such as [ { \"name\": \"gw-b\", \"address\": \"10.99.0.2:5800\" } ]",
            ));
        };
        let Value::Array(list) = value else {
            return Err(self.error("peers", format!("is {value}; a list of objects is allowed")));
        };
        if list.len() > PeerId::LIMIT {
            return Err(self.error("peers", format!("has {} entries; up to {} are allowed", list.len(), PeerId::LIMIT)));
        }
        let mut peers: Vec<PeerConfig> = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let Value::Object(object) = value else {
                return Err(self.error(&format!("peers[{index}]"), "must be an object with \"name\" and \"address\""));
            };
            let keys = Keys { file: self.file, prefix: format!("{}peers[{index}].", self.prefix), object };
            keys.check_names(keys::PEER)?;
            let name = keys.label("name")?.ok_or_else(|| keys.error("name", "is missing"))?;
            let address = keys.address("address")?.ok_or_else(|| keys.error("address", "is missing"))?;
            keys.check_peer(&name, address, listen, &peers)?;
            let public_key = keys.public_key(&name, identity, &peers)?;
            let preshared_key = keys.preshared_key(identity)?;
            let (claims, share) = (keys.claims()?, keys.share(defaults)?);
            peers.push(PeerConfig { name, address, public_key, preshared_key, claims, share });
        }
        Ok(peers)
    }

    fn check_peer(
        &self,
        name: &str,
        address: SocketAddr,
        listen: SocketAddr,
        others: &[PeerConfig],
    ) -> Result<(), ConfigError> {
        if name == "local" {
            return Err(self.error("name", "is \"local\", which the tables use for this side"));
        }
        if others.iter().any(|other| other.name == name) {
            return Err(self.error("name", format!("\"{name}\" is there twice; names tell peers apart")));
        }
        if let Some(other) = others.iter().find(|other| same_address(other.address, address)) {
            return Err(self.error("address", format!("{address} is the address of \"{}\" already", other.name)));
        }
        if same_address(address, listen) {
            return Err(self.error("address", format!("{address} is this gateway's own \"listen\" address")));
        }
        if address.ip().is_unspecified() {
            return Err(self.error("address", format!("{} is no host's address", address.ip())));
        }
        let both = listen.is_ipv6() && listen.ip().is_unspecified();
        if listen.is_ipv4() != address.is_ipv4() && !both {
            let message = format!(
                "{address} cannot be reached from \"listen\" {listen}: both must be IPv4 or both IPv6 (or listen on [::])"
            );
            return Err(self.error("address", message));
        }
        Ok(())
    }
}
