//! What the control socket is told of the gateway.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::ending::{Class, Ending, PeerCounters};
use ipop_dataplane::mac_table::{MacEntry, MacKey, Owner};
use ipop_dataplane::port::PortKind;
use ipop_dataplane::worker::ZeroCopyPath;

use super::{Gateway, peer_name};
use crate::report;
use crate::resolution::{Entry, Key, Pending, Unanswered};

pub(super) fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Gateway {
    pub(super) fn status(&self) -> report::Status {
        self.count_kernel_drops();
        let (mut frames, mut drops) = (BTreeMap::new(), BTreeMap::new());
        for ending in Ending::ALL {
            let by_workers: u64 = self.workers.iter().map(|w| w.stats.counters.get(*ending)).sum();
            let list = match ending.class() {
                Class::Passed => &mut frames,
                Class::Dropped => &mut drops,
            };
            list.insert(ending.name().to_owned(), by_workers + self.counters.get(*ending));
        }
        let (used, of) = self.macs.usage();
        let up = self.links.iter().filter(|link| link.is_up()).count();
        report::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.config.name.clone(),
            uid: self.identity.uid.clone(),
            pid: std::process::id(),
            uptime_s: self.now_ms() / 1000,
            sec: self.config.identity.is_some(),
            network: self.config.network,
            port: report::PortStatus {
                kind: match self.port.kind() {
                    PortKind::Tap => report::PortKind::Tap,
                    PortKind::Packet => report::PortKind::AfPacket,
                },
                name: self.port.name(),
                mac: self.port_mac(),
                mtu: self.port.mtu(),
                up: self.port.is_up(),
                bridge: self.port.bridge(),
            },
            listen: self.config.listen.to_string(),
            address_missing: self.address_missing,
            waiting_for: self.waiting_for(),
            offloads: self.shown_offloads(),
            confinement: report::Confinement::from(&self.confinement),
            workers: self.worker_status(),
            peers: report::Usage { used: up, of: self.links.len() },
            mac_table: report::Usage { used, of },
            arp_entries: self.resolver.entries().count(),
            frames,
            drops,
            learn_lost: self.workers.iter().map(|w| load(&w.stats.learn_lost)).sum(),
            arp: self.resolver.stats,
            macs: self.macs.stats,
            refused: self.refusals.report(),
            log_lost: self.log.lost(),
        }
    }

    /// So many peers from this number on.
    pub(super) fn peer_rows(&self, from: usize, count: usize) -> impl Iterator<Item = report::Peer> {
        let now_ms = self.now_ms();
        let mut macs = vec![0; self.links.len()];
        for (_, entry) in self.macs.table().iter() {
            if let Owner::Peer(peer) = entry.owner
                && let Some(count) = macs.get_mut(peer.index())
            {
                *count += 1;
            }
        }
        let peer = move |(index, link): (usize, &crate::link::Link)| {
            let sum = |field: fn(&PeerCounters) -> &AtomicU64| -> u64 {
                self.workers.iter().map(|w| load(field(&w.stats.peers[index]))).sum()
            };
            let view = link.view(link.address());
            let trouble = link.trouble(now_ms);
            let twins = link.twins(now_ms);
            let headers = if link.address().is_ipv4() { 28 } else { 48 };
            report::Peer {
                id: link.id().0,
                name: link.name().to_owned(),
                address: link.address().to_string(),
                state: if link.is_up() { "up" } else { "down" }.to_owned(),
                trouble: trouble.map(|trouble| trouble.name().to_owned()),
                trouble_text: trouble.map(ToString::to_string),
                key_twice: twins.map(|twins| [twins.here, twins.there].map(|address| address.to_string())),
                up_s: link.up_since_ms().map(|since| (now_ms - since) / 1000),
                ups: link.ups,
                uid: link.identity().map(|(uid, _)| uid),
                remote_name: link.identity().map(|(_, name)| name),
                public_key: link.key().map(ToString::to_string),
                cipher: link.seal(now_ms).map(|(cipher, ..)| cipher.to_string()),
                keys_age_s: link.seal(now_ms).map(|(_, age_ms, _)| age_ms / 1000),
                sessions: link.seal(now_ms).map(|(.., sessions)| sessions),
                last_heard_s: link.last_heard_ms().map(|heard| now_ms.saturating_sub(heard) / 1000),
                path_payload: view.max_datagram,
                path_mtu: view.max_datagram + headers,
                macs: macs[index],
                rx_frames: sum(|c| &c.rx_frames),
                rx_bytes: sum(|c| &c.rx_bytes),
                rx_datagrams: sum(|c| &c.rx_datagrams),
                tx_frames: sum(|c| &c.tx_frames),
                tx_bytes: sum(|c| &c.tx_bytes),
                tx_datagrams: sum(|c| &c.tx_datagrams),
                messages_dropped: self.messages_dropped(link.id()),
                zero_copy: self.zero_copy(index, now_ms),
            }
        };
        self.links.iter().enumerate().skip(from).take(count).map(peer)
    }

    /// What the workers have found out about the path to a peer: the newest that one of them has.
    fn zero_copy(&self, peer: usize, now_ms: u64) -> String {
        let paths = self.workers.iter().map(|w| ZeroCopyPath::unpack(load(&w.stats.peers[peer].zero_copy)));
        paths.max().unwrap_or(ZeroCopyPath::Untried).describe(now_ms)
    }

    pub(super) fn place(&self, owner: Owner) -> String {
        match owner {
            Owner::Local => "local".to_owned(),
            Owner::Peer(PeerId(id)) => peer_name(&self.links, PeerId(id)),
        }
    }

    pub(super) fn mac_row(&self, key: MacKey, entry: &MacEntry) -> report::Mac {
        let age_s = (self.now_ms() / 1000).saturating_sub(u64::from(entry.seen));
        report::Mac {
            vlan: key.vlan().vid(),
            service: key.vlan().is_service(),
            mac: key.mac().to_string(),
            place: self.place(entry.owner),
            seq: entry.moves,
            age_s,
            expires_in_s: u64::from(self.config.mac_expiry).saturating_sub(age_s),
            frozen_s: self.macs.frozen_ms(key, self.now_ms()).map(|ms| ms.div_ceil(1000)),
            sticky: self.config.sticky_macs.contains(&key.mac()),
        }
    }

    pub(super) fn arp_row(&self, key: &Key, entry: &Entry, now_ms: u64) -> report::ArpEntry {
        report::ArpEntry {
            vlan: key.vlan.vid(),
            ip: key.ip.to_string(),
            mac: entry.mac.to_string(),
            place: self.place(entry.owner),
            source: entry.source.name().to_owned(),
            age_s: now_ms.saturating_sub(entry.learned_ms) / 1000,
            expires_in_s: entry.expires_ms.saturating_sub(now_ms).div_ceil(1000),
        }
    }
}

pub(super) fn pending_row(key: &Key, pending: &Pending, askers: usize) -> report::ArpPending {
    report::ArpPending { vlan: key.vlan.vid(), ip: key.ip.to_string(), askers, tries: pending.tries }
}

pub(super) fn unanswered_row(key: &Key, unanswered: &Unanswered, now_ms: u64) -> report::ArpUnanswered {
    report::ArpUnanswered {
        vlan: key.vlan.vid(),
        ip: key.ip.to_string(),
        failures: unanswered.failures,
        forgotten_in_ms: unanswered.until_ms.saturating_sub(now_ms),
    }
}
