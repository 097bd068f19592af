//! What peers say: their questions, answers and claims.

use super::*;

impl Resolver {
    pub(super) fn peer_asks(&mut self, peer: PeerId, request: &Request, step: &mut Step<'_>) {
        self.stats.rpc_requests_received += 1;
        let mac_key = MacKey::new(request.vlan, request.asker_mac);
        if matches!(self.claim(mac_key, peer, request.seq, step), Claim::Contested | Claim::AtTest) {
            // A question in the name of a local MAC would draw the bridge's traffic for it to us.
            self.stats.asker_is_local += 1;
            return;
        }
        if let Some(ip) = request.asker {
            self.learn_remote(Key { vlan: request.vlan, ip }, request.asker_mac, peer, None, Source::RequestRpc, step);
        }
        let key = Key { vlan: request.vlan, ip: request.target };
        if self.injected.len() < MAX_PENDING {
            let (expected, until) = self.injected.entry((key, request.asker_mac)).or_insert((0, 0));
            *expected += 1;
            *until = step.now_ms + ANSWER_MS;
        }
        self.stats.requests_injected += 1;
        step.inject(heard::question(request.target, request.asker, request.asker_mac, request.vlan));
    }

    pub(super) fn peer_replies(&mut self, peer: PeerId, reply: &Reply, step: &mut Step<'_>) {
        self.stats.rpc_replies_received += 1;
        let key = Key { vlan: reply.vlan, ip: reply.target };
        let claim = self.claim(MacKey::new(reply.vlan, reply.mac), peer, reply.seq, step);
        if matches!(claim, Claim::Contested | Claim::AtTest | Claim::Outdated) {
            return;
        }
        self.unanswered.remove(&key);
        self.learn_remote(key, reply.mac, peer, Some(reply.router), Source::ReplyRpc, step);
        if let Some((_, askers)) = self.pending.remove(&key) {
            for asker in askers {
                self.stats.replies_injected += 1;
                step.inject(heard::answer(key.ip, reply.mac, reply.router, Some(asker.ip), asker.mac, key.vlan));
            }
        }
        if let Some(mac) = reply.asker_mac
            && self.probing.remove(&(key, mac)).is_some()
        {
            self.stats.replies_injected += 1;
            step.inject(heard::answer(key.ip, reply.mac, reply.router, None, mac, key.vlan));
        }
        if let Some(how) = reply.announcement {
            self.stats.announcements_injected += 1;
            step.inject(heard::announcement(key.ip, reply.mac, reply.router, how, key.vlan));
        }
    }

    pub(super) fn peer_withdraws(&mut self, peer: PeerId, withdraw: &Withdraw) {
        self.stats.rpc_withdraws_received += 1;
        let key = Key { vlan: withdraw.vlan, ip: withdraw.target };
        if self.entries.get(&key).is_some_and(|e| e.owner == Owner::Peer(peer) && e.mac == withdraw.mac) {
            self.entries.remove(&key);
            self.stats.withdrawn += 1;
        }
    }

    pub(super) fn learn_remote(
        &mut self,
        key: Key,
        mac: MacAddr,
        peer: PeerId,
        router: Option<bool>,
        source: Source,
        step: &mut Step<'_>,
    ) {
        let known = self.entries.get(&key);
        let router = router.unwrap_or(known.is_some_and(|known| known.router && known.mac == mac));
        let entry = Entry::new(mac, Owner::Peer(peer), router, source, step.now_ms, self.expiry_ms);
        let room = self.entries.len() < MAX_ENTRIES;
        match self.entries.get_mut(&key) {
            // The address is at another MAC here. Its owner is asked; if it is silent, the peer's claim counts.
            Some(known) if known.owner == Owner::Local && known.mac != mac => {
                self.stats.conflicts += 1;
                known.claim = Some((peer, mac, router));
                known.verify.get_or_insert((0, step.now_ms));
                self.verify_at_ms = step.now_ms;
            }
            Some(known) => *known = entry,
            None if room => {
                self.entries.insert(key, entry);
            }
            None => self.stats.table_full += 1,
        }
    }

    pub(super) fn claim(&mut self, key: MacKey, peer: PeerId, seq: u16, step: &mut Step<'_>) -> Claim {
        let claim = step.macs.claim(key, peer, seq, step.now_ms, step.out);
        match claim {
            Claim::MovedAway => self.moved_away(key, peer),
            Claim::Contested => self.ask_for_life(key, step),
            Claim::Accepted | Claim::AtTest | Claim::Outdated => {}
        }
        claim
    }

    /// A MAC is at a peer now, and its addresses with it.
    pub(super) fn moved_away(&mut self, key: MacKey, peer: PeerId) {
        for (_, entry) in self.entries.iter_mut().filter(|(k, e)| k.vlan == key.vlan() && e.mac == key.mac()) {
            entry.owner = Owner::Peer(peer);
            entry.verify = None;
        }
    }

    pub(super) fn ask_for_life(&mut self, key: MacKey, step: &mut Step<'_>) {
        let own_mac = self.own_mac;
        let known =
            self.entries.iter().filter(|(k, e)| k.vlan == key.vlan() && e.mac == key.mac() && e.owner == Owner::Local);
        let addresses: Vec<IpAddr> = known.map(|(k, _)| k.ip).take(2).collect();
        for ip in &addresses {
            step.macs.reserve(MacKey::new(key.vlan(), own_mac));
            step.inject(heard::verification(*ip, key.mac(), own_mac, key.vlan()));
        }
        if !addresses.is_empty() {
            step.macs.asked(key, step.now_ms);
        }
    }
}
