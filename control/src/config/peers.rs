//! The other gateways in the config.

use std::net::SocketAddr;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::claims::Claims;
use ipop_dataplane::peers::same_address;
use serde_json::Value;

use super::limits::PeerDefaults;
use super::security::Identity;
use super::{Keys, keys};
use crate::keys::{PresharedKey, PublicKey};
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

/// What a peer's entry says of who and where it is, as far as it says so.
struct Entry {
    name: Option<String>,
    address: Option<SocketAddr>,
    public_key: Option<PublicKey>,
}

impl Keys<'_> {
    pub(super) fn peers(
        &self,
        listen: Option<SocketAddr>,
        identity: &Identity,
        defaults: PeerDefaults,
    ) -> Vec<PeerConfig> {
        if !self.object.contains_key("peers") {
            let example = "[ { \"name\": \"gw-b\", \"address\": \"10.99.0.2:5800\" } ]";
            self.fault("peers", format!("is missing: a list such as {example}"));
        }
        let list = self.value("peers", "a list of objects is allowed", Value::as_array);
        let list = list.map(Vec::as_slice).unwrap_or_default();
        if list.len() > PeerId::LIMIT {
            self.fault("peers", format!("has {} entries; up to {} are allowed", list.len(), PeerId::LIMIT));
            return Vec::new();
        }
        let mut entries = Vec::with_capacity(list.len());
        let mut peers = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let Value::Object(object) = value else {
                self.fault(&format!("peers[{index}]"), "must be an object with \"name\" and \"address\"");
                continue;
            };
            let keys = self.inner(&format!("peers[{index}]"), object);
            keys.check_names(keys::PEER);
            for key in ["name", "address"].into_iter().filter(|key| !object.contains_key(*key)) {
                keys.fault(key, "is missing");
            }
            let (name, address) = (keys.label("name"), keys.address("address"));
            if let Some(name) = &name {
                keys.check_name(name, &entries);
            }
            if let Some(address) = address {
                keys.check_address(address, listen, &entries);
            }
            let public_key = keys.public_key(name.as_deref().unwrap_or("the peer"), identity, &entries);
            let preshared_key = keys.preshared_key(identity);
            let (claims, share) = (keys.claims(), keys.share(defaults));
            if let (Some(name), Some(address)) = (&name, address) {
                peers.push(PeerConfig { name: name.clone(), address, public_key, preshared_key, claims, share });
            }
            entries.push(Entry { name, address, public_key });
        }
        peers
    }

    fn check_name(&self, name: &str, others: &[Entry]) {
        if name == "local" {
            self.fault("name", "is \"local\", which the tables use for this side");
        }
        if others.iter().any(|other| other.name.as_deref() == Some(name)) {
            self.fault("name", format!("\"{name}\" is there twice; names tell peers apart"));
        }
    }

    fn check_address(&self, address: SocketAddr, listen: Option<SocketAddr>, others: &[Entry]) {
        let here = |other: &&Entry| other.address.is_some_and(|other| same_address(other, address));
        if let Some(other) = others.iter().find(here) {
            let name = other.name.as_deref().unwrap_or("another peer");
            self.fault("address", format!("{address} is the address of \"{name}\" already"));
        }
        if address.ip().is_unspecified() {
            self.fault("address", format!("{} is no host's address", address.ip()));
        }
        let Some(listen) = listen else { return };
        if same_address(address, listen) {
            self.fault("address", format!("{address} is this gateway's own \"listen\" address"));
        }
        let both = listen.is_ipv6() && listen.ip().is_unspecified();
        if listen.is_ipv4() != address.is_ipv4() && !both {
            let message = format!(
                "{address} cannot be reached from \"listen\" {listen}: both must be IPv4 or both IPv6 (or listen on [::])"
            );
            self.fault("address", message);
        }
    }

    /// The public key of a peer; required where links are sealed.
    fn public_key(&self, name: &str, identity: &Identity, others: &[Entry]) -> Option<PublicKey> {
        let fail = |message: String| self.fault("public_key", message);
        if identity.sealed && !self.object.contains_key("public_key") {
            fail(format!(
                "is missing: what `ipop pubkey /etc/ipop/key` prints on {name} (`ipop keygen --out /etc/ipop/key` makes a \
                 key there)"
            ));
        }
        let text = self.text("public_key")?;
        let key: PublicKey = match text.parse() {
            Ok(key) => key,
            Err(error) => {
                fail(format!("\"{text}\" {error}"));
                return None;
            }
        };
        if identity.key.as_ref().is_some_and(|own| own.public() == key) {
            fail(format!(
                "is this gateway's own; every gateway has a key of its own: what `ipop pubkey /etc/ipop/key` prints on \
                 {name}"
            ));
        }
        if let Some(other) = others.iter().find(|other| other.public_key == Some(key)) {
            fail(format!(
                "is the key of \"{}\" already; every gateway has a key of its own: what `ipop pubkey /etc/ipop/key` \
                 prints on {name}",
                other.name.as_deref().unwrap_or("another peer")
            ));
        }
        Some(key)
    }

    /// The secret shared with a peer. In clear text it would not be used, and is not read.
    fn preshared_key(&self, identity: &Identity) -> Option<PresharedKey> {
        let file = self.path("preshared_key_file").filter(|_| identity.sealed)?;
        PresharedKey::load(&file).map_err(|e| self.fault("preshared_key_file", e.to_string())).ok()
    }
}
