//! What this side and each peer may put into the tables, and what becomes of a claim that goes beyond.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipop_dataplane::addr::{MacAddr, PeerId};
use ipop_dataplane::claims::Claims;
use ipop_dataplane::mac_table::Owner;

/// Bounds of the tables' parts, and what stays where it is.
///
/// A peer without an entry may claim nothing, and bring nothing: whoever forgets to say what it may has not let it do all.
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
    /// MACs that never leave this side.
    pub sticky_macs: HashSet<MacAddr>,
    /// For how many seconds a MAC is frozen that moves too often; 0 never.
    pub mac_freeze_s: u32,
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
    /// No limits, for so many peers.
    pub fn none(peers: usize) -> Limits {
        Limits {
            claims: vec![Claims::default(); peers].into(),
            shares: vec![Share::default(); peers],
            ..Limits::default()
        }
    }

    /// True if the peer may have this MAC behind it.
    pub fn allow_mac(&self, peer: PeerId, mac: MacAddr) -> bool {
        self.claims.get(peer.index()).is_some_and(|claims| claims.allow_mac(mac))
    }

    /// True if a station behind the peer may have this address.
    pub fn allow_ip(&self, peer: PeerId, ip: IpAddr) -> bool {
        self.claims.get(peer.index()).is_some_and(|claims| claims.allow_ip(ip))
    }

    /// What this owner may bring.
    pub fn share(&self, owner: Owner) -> Share {
        const NOTHING: Share = Share { macs: Some(0), addresses: Some(0) };
        match owner {
            Owner::Local => self.local,
            Owner::Peer(peer) => self.shares.get(peer.index()).copied().unwrap_or(NOTHING),
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

    /// Who has most.
    pub(crate) fn largest(&self) -> Option<K>
    where
        K: Copy,
    {
        self.0.iter().max_by_key(|(_, count)| **count).map(|(key, _)| *key)
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
    /// The MAC is behind another gateway, which has been heard.
    MacIsThere,
    /// The MAC is frozen where it is.
    MacFrozen,
    /// The MAC is in "sticky_macs" of this side.
    MacIsSticky,
    /// The address is alive on this side.
    IpIsHere,
    /// The address is alive behind another gateway.
    IpIsThere,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 13] = [
        Reason::MacNotAllowed,
        Reason::IpNotAllowed,
        Reason::PeerMacs,
        Reason::PeerAddresses,
        Reason::StationAddresses,
        Reason::LocalMacs,
        Reason::LocalAddresses,
        Reason::MacIsHere,
        Reason::MacIsThere,
        Reason::MacFrozen,
        Reason::MacIsSticky,
        Reason::IpIsHere,
        Reason::IpIsThere,
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
            Reason::MacIsThere => "mac_is_there",
            Reason::MacFrozen => "mac_frozen",
            Reason::MacIsSticky => "mac_is_sticky",
            Reason::IpIsHere => "ip_is_here",
            Reason::IpIsThere => "ip_is_there",
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
            Reason::MacIsThere => "the MAC is alive behind another gateway",
            Reason::MacFrozen => {
                "the MAC is frozen where it is alive, because claims on it kept losing (\"mac_freeze\")"
            }
            Reason::MacIsSticky => "the MAC never leaves this side (\"sticky_macs\")",
            Reason::IpIsHere => "duplicate address: its holder is alive on this side",
            Reason::IpIsThere => "duplicate address: its holder is alive behind another gateway",
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
    /// Who has the address: the MAC, and where it is.
    pub holder: Option<(MacAddr, Owner)>,
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
