//! What peers may claim and how much this side and each of them may bring, in the config.

use std::net::IpAddr;

use ipnet::IpNet;
use ipop_dataplane::addr::MacAddr;
use ipop_dataplane::claims::Claims;
use serde_json::Value;

use super::{Config, Keys};
use crate::limits::{Limits, Share};
use crate::resolution::MAX_ENTRIES;

/// Addresses of one peer: a quarter of the table, so that three that go mad leave room.
const ADDRESSES_PER_PEER: u64 = MAX_ENTRIES as u64 / 4;
/// Addresses of one MAC on this side: a host whose containers share its MAC (ipvlan) has some hundreds.
const ADDRESSES_PER_MAC: u64 = 1024;

/// What peers may bring unless their entry says otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerDefaults {
    macs: u64,
    addresses: u64,
}

impl Config {
    /// Bounds of the tables' parts: with these no side and no peer takes all of them.
    pub fn limits(&self) -> Limits {
        let three_quarters = |all: usize| Some(all / 4 * 3);
        Limits {
            claims: self.peers.iter().map(|peer| peer.claims.clone()).collect(),
            shares: self.peers.iter().map(|peer| peer.share).collect(),
            local: Share { macs: three_quarters(self.max_macs), addresses: three_quarters(MAX_ENTRIES) },
            addresses_per_mac: Some(self.max_addresses_per_mac),
            sticky_macs: self.sticky_macs.iter().copied().collect(),
            mac_freeze_s: self.mac_freeze,
        }
    }
}

impl Keys<'_> {
    pub(super) fn peer_defaults(&self, max_macs: usize) -> PeerDefaults {
        let macs = max_macs as u64 / 2;
        let addresses = self.number("max_addresses_per_peer", ADDRESSES_PER_PEER, 1..=MAX_ENTRIES as u64);
        PeerDefaults {
            macs: self.number("max_macs_per_peer", macs, 1..=1 << 20).unwrap_or(macs),
            addresses: addresses.unwrap_or(ADDRESSES_PER_PEER),
        }
    }

    pub(super) fn addresses_per_mac(&self) -> usize {
        let set = self.number("max_addresses_per_mac", ADDRESSES_PER_MAC, 1..=MAX_ENTRIES as u64);
        set.unwrap_or(ADDRESSES_PER_MAC) as usize
    }

    /// How much a peer may bring.
    pub(super) fn share(&self, defaults: PeerDefaults) -> Share {
        let PeerDefaults { macs, addresses } = defaults;
        let macs = self.number("max_macs", macs, 1..=1 << 20).unwrap_or(macs);
        let addresses = self.number("max_addresses", addresses, 1..=MAX_ENTRIES as u64).unwrap_or(addresses);
        Share { macs: Some(macs as usize), addresses: Some(addresses as usize) }
    }

    /// MACs that never leave this side.
    pub(super) fn sticky_macs(&self) -> Vec<MacAddr> {
        self.list("sticky_macs", station).unwrap_or_default()
    }

    /// What a peer may claim.
    pub(super) fn claims(&self) -> Claims {
        Claims::new(self.list("allowed_macs", station), self.list("allowed_ips", network))
    }

    /// A list of texts, each of which `parse` understands or says what is allowed.
    fn list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, &'static str>) -> Option<Vec<T>> {
        let list = self.value(key, "a list of texts is allowed", Value::as_array)?;
        let entry = |value: &Value| {
            let parsed = parse(value.as_str().unwrap_or_default());
            parsed.map_err(|allowed| self.fault(key, format!("has {value}; {allowed}"))).ok()
        };
        Some(list.iter().filter_map(entry).collect())
    }
}

fn station(text: &str) -> Result<MacAddr, &'static str> {
    match text.parse::<MacAddr>() {
        Ok(mac) if mac.is_station() => Ok(mac),
        _ => Err("the MAC of a station is allowed, such as \"00:16:3e:00:01:04\""),
    }
}

/// An address, or a prefix with nothing behind it.
fn network(text: &str) -> Result<IpNet, &'static str> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    match network {
        Ok(network) if network.addr() == network.network() => Ok(network),
        Ok(_) => Err("it has bits behind the prefix; a prefix such as \"10.0.3.0/24\" is allowed, or one address"),
        Err(_) => Err("an address or a prefix is allowed, such as \"10.0.3.104\", \"10.0.3.0/24\" or \"fd00::/64\""),
    }
}
