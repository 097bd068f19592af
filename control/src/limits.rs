//! What this side and each peer may put into the tables, and what becomes of a claim that goes beyond.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipop_dataplane::addr::{MacAddr, PeerId};
use ipop_dataplane::claims::Claims;
use ipop_dataplane::mac_table::Owner;

/// Bounds of the tables' parts. Without any, everything is allowed.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// What each peer may claim, by its number.
    pub claims: Arc<[Claims]>,
    /// How much each peer may bring, by its number.
    pub shares: Vec<Share>,
    /// How much this side may bring.
    pub local: Share,
    /// Addresses that one MAC of this side may have.
    pub addresses_per_mac: Option<usize>,
}

/// A part of the tables. `None`: all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Entries of the MAC table.
    pub macs: Option<usize>,
    /// Entries of the ARP and ND table.
    pub addresses: Option<usize>,
}

impl Limits {
    /// True if the peer may have this MAC behind it.
    pub fn allow_mac(&self, peer: PeerId, mac: MacAddr) -> bool {
        self.claims.get(peer.index()).is_none_or(|claims| claims.allow_mac(mac))
    }

    /// True if a station behind the peer may have this address.
    pub fn allow_ip(&self, peer: PeerId, ip: IpAddr) -> bool {
        self.claims.get(peer.index()).is_none_or(|claims| claims.allow_ip(ip))
    }

    /// What this owner may bring.
    pub fn share(&self, owner: Owner) -> Share {
        match owner {
            Owner::Local => self.local,
            Owner::Peer(peer) => self.shares.get(peer.index()).copied().unwrap_or_default(),
        }
    }
}

/// How many entries each one has.
#[derive(Debug)]
pub(crate) struct Tally<K>(HashMap<K, usize>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Tally(HashMap::new())
    }
}

impl<K: Eq + Hash> Tally<K> {
    pub(crate) fn of(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, key: K) {
        *self.0.entry(key).or_insert(0) += 1;
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(count) = self.0.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(key);
            }
        }
    }

    /// True if there is a limit and no room below it.
    pub(crate) fn is_full(&self, key: &K, limit: Option<usize>) -> bool {
        limit.is_some_and(|limit| self.of(key) >= limit)
    }
}

/// Why a claim was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The MAC is not in the peer's "allowed_macs".
    MacNotAllowed,
    /// The address is not in the peer's "allowed_ips".
    IpNotAllowed,
    /// The peer has "max_macs" MACs.
    PeerMacs,
    /// The peer has "max_addresses" addresses.
    PeerAddresses,
    /// One MAC of this side has "max_addresses_per_mac" addresses.
    StationAddresses,
    /// This side has its part of the MAC table.
    LocalMacs,
    /// This side has its part of the ARP and ND table.
    LocalAddresses,
    /// The MAC is alive on this side.
    MacIsHere,
    /// The address is alive on this side.
    IpIsHere,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 9] = [
        Reason::MacNotAllowed,
        Reason::IpNotAllowed,
        Reason::PeerMacs,
        Reason::PeerAddresses,
        Reason::StationAddresses,
        Reason::LocalMacs,
        Reason::LocalAddresses,
        Reason::MacIsHere,
        Reason::IpIsHere,
    ];

    /// The name of its counter in `ipop status`.
    pub fn name(self) -> &'static str {
        match self {
            Reason::MacNotAllowed => "mac_not_allowed",
            Reason::IpNotAllowed => "ip_not_allowed",
            Reason::PeerMacs => "peer_macs",
            Reason::PeerAddresses => "peer_addresses",
            Reason::StationAddresses => "station_addresses",
            Reason::LocalMacs => "local_macs",
            Reason::LocalAddresses => "local_addresses",
            Reason::MacIsHere => "mac_is_here",
            Reason::IpIsHere => "ip_is_here",
        }
    }

    /// One sentence for people, with the key of the config that has to do with it.
    pub fn describe(self) -> &'static str {
        match self {
            Reason::MacNotAllowed => "the MAC is not in the peer's \"allowed_macs\"",
            Reason::IpNotAllowed => "the address is not in the peer's \"allowed_ips\"",
            Reason::PeerMacs => "the peer has as many MACs as it may (\"max_macs\" of the peer, \"max_macs_per_peer\")",
            Reason::PeerAddresses => {
                "the peer has as many addresses as it may (\"max_addresses\" of the peer, \"max_addresses_per_peer\")"
            }
            Reason::StationAddresses => "the MAC has as many addresses as it may (\"max_addresses_per_mac\")",
            Reason::LocalMacs => "this side has its three quarters of the MAC table (\"max_macs\")",
            Reason::LocalAddresses => "this side has its three quarters of the ARP and ND table",
            Reason::MacIsHere => "the MAC is alive on this side",
            Reason::IpIsHere => "the address belongs to a station that is alive on this side",
        }
    }
}

/// A claim that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Whose claim.
    pub who: Owner,
    /// Why.
    pub reason: Reason,
    /// The MAC.
    pub mac: MacAddr,
    /// The address, if it is about one.
    pub ip: Option<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_forgets_who_has_nothing() {
        let mut tally = Tally::default();
        tally.add("a");
        tally.add("a");
        assert_eq!((tally.of(&"a"), tally.is_full(&"a", Some(2)), tally.is_full(&"a", None)), (2, true, false));
        tally.remove(&"a");
        tally.remove(&"a");
        tally.remove(&"a");
        assert!(tally.0.is_empty() && !tally.is_full(&"a", Some(1)));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
