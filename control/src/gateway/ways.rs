//! The ways to the peers: what they carry, and whether one leads through the overlay itself.
//!
//! A datagram that the kernel routes into the port's bridge, and the bridge into the port, would be sent again as a frame,
//! in a larger datagram that takes the same way. Workers drop what comes round (`circle.rs`), whatever the reason. Here is
//! found out why: the route's interface leads to the port, and its next hop is a station behind a peer. An uplink in the same
//! bridge as the port is no such thing: its next hop is a station of this side. To a peer whose route leads through the
//! overlay nothing is sent until it does not.
//!
//! The kernel's tables say so, and no frame does: a guest can make frames that look as if they came round.

use std::net::IpAddr;

use ipop_dataplane::addr::MacAddr;
use ipop_dataplane::mac_table::Owner;

use super::throttle::About;
use super::*;
use crate::path_mtu::Local;
use crate::routes::{Route, Routes, Way};

/// Peers that are looked at in one turn, and in a second while nothing is known to have changed.
const AT_ONCE: usize = 32;
/// Between two looks at all peers: where routes change all the time each change is not worth one.
const PAUSE_MS: u64 = 200;
/// Between two looks because of what came round, for one peer.
const CIRCLED_MS: u64 = 1000;

/// What is known of the ways.
pub(super) struct Ways {
    routes: Routes,
    /// By peer: interface and next hop, at the last look.
    peers: Vec<Option<(String, IpAddr)>>,
    /// Who is looked at next, and how many are before all have been.
    next: usize,
    left: usize,
    /// When everybody may be looked at again, if something has changed.
    changed: bool,
    all_ms: u64,
    /// Peers whose datagrams came round, and when workers may say so again.
    circled: Vec<(PeerId, u64)>,
}

impl Ways {
    pub(super) fn new(routes: Routes, peers: usize) -> Ways {
        let peers = vec![None; peers];
        Ways { routes, peers, next: 0, left: 0, changed: true, all_ms: 0, circled: Vec::new() }
    }

    /// Some peers are looked at, in turns, whatever has been told: the kernel tells neither of what ICMP says, nor of
    /// neighbours.
    pub(super) fn look_at_some(&mut self) {
        self.left = self.left.max(AT_ONCE.min(self.peers.len()));
    }

    /// When somebody is to be looked at.
    pub(super) fn next_ms(&self) -> Option<u64> {
        let again = self.circled.iter().map(|(_, again_ms)| *again_ms);
        let all = self.changed.then_some(self.all_ms);
        again.chain(all).chain((self.left > 0).then_some(0)).min()
    }

    /// The next of those that are due.
    fn due(&mut self, now_ms: u64) -> Vec<PeerId> {
        self.changed |= self.routes.changed();
        if self.changed && now_ms >= self.all_ms {
            (self.changed, self.left, self.all_ms) = (false, self.peers.len(), now_ms + PAUSE_MS);
        }
        let count = AT_ONCE.min(self.left);
        let due = (self.next..).take(count).map(|index| PeerId((index % self.peers.len()) as u16)).collect();
        (self.left, self.next) = (self.left - count, self.next + count);
        if self.next >= self.peers.len() {
            self.next -= self.peers.len();
        }
        due
    }
}

/// What this host knows of the path to a peer. Without a route nothing; what every path should carry is then all that is used.
fn local(route: Option<&Route>, listen: SocketAddr, peer: SocketAddr) -> Local {
    let headers = if peer.ip().to_canonical().is_ipv4() { 20 + 8 } else { 40 + 8 };
    let ceiling = route.map_or(MIN_DATAGRAM, |route| route.mtu.saturating_sub(headers));
    Local { ceiling, hint: underlay::path_payload(listen, peer).ok() }
}

impl Gateway {
    /// Looks at some of those that are due.
    pub(super) fn look_at_ways(&mut self, now_ms: u64) {
        let events = &self.events;
        self.ways.circled.retain(|(peer, again_ms)| {
            let waits = now_ms < *again_ms;
            if !waits && let Some(budget) = events.budget(*peer) {
                budget.may_circle_again();
            }
            waits
        });
        let due = self.ways.due(now_ms);
        if !due.is_empty() {
            self.look_at(&due, now_ms);
        }
    }

    fn routes_to(&self, peers: &[PeerId]) -> Vec<Option<Route>> {
        let addresses = peers.iter().filter_map(|peer| Some(self.links.get(peer.index())?.address())).collect();
        // Without a route the kernel sends nothing, and says so.
        self.ways.routes.ask(&self.port.name(), self.config.listen, addresses).into_iter().map(Result::ok).collect()
    }

    /// What this host knows of the path to a peer.
    pub(super) fn local_path(&self, peer: PeerId) -> Option<Local> {
        let address = self.links.get(peer.index())?.address();
        Some(local(self.routes_to(&[peer]).first()?.as_ref(), self.config.listen, address))
    }

    /// Looks at the ways to these peers.
    pub(super) fn look_at(&mut self, peers: &[PeerId], now_ms: u64) {
        for (peer, route) in peers.iter().zip(self.routes_to(peers)) {
            self.look_at_path(*peer, route.as_ref(), now_ms);
            let through = route.as_ref().and_then(|route| self.through_overlay(*peer, route));
            let Some(seen) = self.ways.peers.get_mut(peer.index()) else { return };
            *seen = route.map(|route| (route.interface, route.next_hop));
            self.suspend(*peer, through, now_ms);
        }
    }

    fn look_at_path(&mut self, peer: PeerId, route: Option<&Route>, now_ms: u64) {
        let Some(link) = self.links.get_mut(peer.index()) else { return };
        let address = link.address();
        let (Some(path), Some(_)) = (&mut link.path, route) else { return };
        let before = path.is_searching();
        let smaller = path.look(local(route, self.config.listen, address), now_ms);
        if !before && path.is_searching() {
            self.timers.hurry();
        }
        if smaller {
            let line = format!("path to {} became smaller; looking for what it carries", link.name());
            self.say(About::Path(peer), Level::INFO, line);
            self.table_changed = true;
        }
    }

    /// How the way to a peer leads through the overlay, if it does.
    fn through_overlay(&self, peer: PeerId, route: &Route) -> Option<String> {
        let link = self.links.get(peer.index())?;
        let (port, to) = (self.port.name(), link.address().ip().to_canonical());
        let Route { interface, next_hop, .. } = route;
        let repair = format!("`ip route get {to}` shows the route, which must lead elsewhere");
        if route.into_port? == Way::All {
            let leads = if *interface == port { "is the port".to_owned() } else { format!("leads to the port {port}") };
            return Some(format!("its address {to} is reached by {interface}, which {leads}; {repair}"));
        }
        match route.next_hop_mac.and_then(|mac| self.owner_of(mac)) {
            Some(Owner::Local) => None,
            Some(owner) => {
                let by = if *next_hop == to { interface.clone() } else { format!("{interface} and {next_hop}") };
                let place = self.place(owner);
                Some(format!("its address {to} is reached by {by}, behind peer {place} in the overlay; {repair}"))
            }
            // If it is the same way as before, no more can be learned of it while nothing is sent there.
            None => {
                let by = self.ways.peers.get(peer.index())?.as_ref()?;
                let same = (&by.0, &by.1) == (interface, next_hop);
                link.suspended().filter(|_| same).map(str::to_owned)
            }
        }
    }

    /// Where a MAC is, in whichever VLAN. One that is here in any may be the uplink's.
    fn owner_of(&self, mac: MacAddr) -> Option<Owner> {
        let of_mac = self.macs.table().iter().filter(|(key, _)| key.mac() == mac);
        of_mac.map(|(_, entry)| entry.owner).reduce(|a, b| if a == Owner::Local { a } else { b })
    }

    /// Sends nothing to a peer for this reason, or again if there is none.
    fn suspend(&mut self, peer: PeerId, why: Option<String>, now_ms: u64) {
        let Some(link) = self.links.get_mut(peer.index()) else { return };
        match why {
            Some(why) => {
                let outcome = link.suspend(why, now_ms);
                let untold = link.untold_trouble(now_ms);
                self.follow(peer, outcome, now_ms);
                self.tell_trouble(peer, untold);
            }
            None if link.suspended().is_some() => {
                link.resume();
                let line =
                    format!("the way to peer {} leads through the overlay no more; it is tried again", link.name());
                self.say(About::Trouble(peer), Level::INFO, line);
                self.timers.hurry();
            }
            None => {}
        }
    }

    /// A datagram of the link to this peer came in by the port, and was dropped.
    pub(super) fn take_circled(&mut self, peer: PeerId, now_ms: u64) {
        // Workers say so once until they may again: what is between is nothing but more of it.
        self.ways.circled.push((peer, now_ms + CIRCLED_MS));
        self.look_at(&[peer], now_ms);
        let Some(link) = self.links.get(peer.index()).filter(|link| link.suspended().is_none()) else { return };
        let by = self.ways.peers.get(peer.index()).and_then(|by| by.as_ref());
        let line = format!(
            "datagrams of the link to peer {} ({}, by {}) come in by the port {}, and are dropped (own_datagram): a bridge \
             floods them, or a station sends them back (`bridge fdb` and `ip neighbour` show where they go)",
            link.name(),
            link.address(),
            by.map_or("no interface", |(interface, _)| interface),
            self.port.name(),
        );
        self.say(About::Circled(peer), Level::WARN, line);
    }
}
