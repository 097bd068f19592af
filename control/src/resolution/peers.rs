//! What peers say: their questions, answers and claims.

use super::*;

impl Resolver {
    pub(super) fn peer_asks(&mut self, peer: PeerId, request: &Request, step: &mut Step<'_>) {
        self.stats.rpc_requests_received += 1;
        let mac_key = MacKey::new(request.vlan, request.asker_mac);
        // A probe is after its target; it has no address yet.
        let name = request.asker.unwrap_or(request.target);
        if !self.allow_ip(peer, request.asker_mac, name, step) {
            return;
        }
        match self.claim(mac_key, peer, request.seq, step) {
            Claim::Contested | Claim::AtTest => {
                // A question in the name of a local MAC would draw the bridge's traffic for it to us.
                self.stats.asker_is_local += 1;
                return self.postpone(mac_key, peer, Message::Request(*request), step);
            }
            Claim::Refused => return,
            Claim::Accepted | Claim::Outdated => {}
        }
        if let Some(ip) = request.asker {
            let mac = request.asker_mac;
            let said = Remote { peer, mac, router: None, source: Source::RequestRpc, announcement: None };
            // Stations learn from questions too, so none is put in the name of an address that is another's here.
            if !self.learn_remote(Key { vlan: request.vlan, ip }, said, step) {
                return;
            }
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
        if !self.allow_ip(peer, reply.mac, reply.target, step) {
            return;
        }
        let mac_key = MacKey::new(reply.vlan, reply.mac);
        match self.claim(mac_key, peer, reply.seq, step) {
            Claim::Contested | Claim::AtTest => {
                return self.postpone(mac_key, peer, Message::Reply(reply.clone()), step);
            }
            Claim::Outdated | Claim::Refused => return,
            Claim::Accepted => {}
        }
        self.unanswered.remove(&key);
        let (router, announcement) = (Some(reply.router), reply.announcement);
        let said = Remote { peer, mac: reply.mac, router, source: Source::ReplyRpc, announcement };
        // Nobody here hears of it before the owner on this side has had its say.
        if !self.learn_remote(key, said, step) {
            return;
        }
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
        self.repeat(key, said, step);
    }

    /// Lets our segment hear what a peer has announced.
    fn repeat(&mut self, key: Key, said: Remote, step: &mut Step<'_>) {
        if let Some(how) = said.announcement {
            self.stats.announcements_injected += 1;
            step.inject(heard::announcement(key.ip, said.mac, said.router.unwrap_or(false), how, key.vlan));
        }
    }

    /// The owner on this side is silent: the address is where a peer says.
    pub(super) fn hand_over(&mut self, key: Key, said: Remote, step: &mut Step<'_>) {
        if self.learn_remote(key, said, step) {
            self.repeat(key, said, step);
        }
    }

    fn allow_ip(&self, peer: PeerId, mac: MacAddr, ip: IpAddr, step: &mut Step<'_>) -> bool {
        let allowed = self.entries.limits.allow_ip(peer, ip);
        if !allowed {
            step.refuse(Owner::Peer(peer), Reason::IpNotAllowed, mac, ip);
        }
        allowed
    }

    pub(super) fn peer_withdraws(&mut self, peer: PeerId, withdraw: &Withdraw) {
        self.stats.rpc_withdraws_received += 1;
        let key = Key { vlan: withdraw.vlan, ip: withdraw.target };
        if self.entries.get(&key).is_some_and(|e| e.owner == Owner::Peer(peer) && e.mac == withdraw.mac) {
            self.entries.remove(&key);
            self.stats.withdrawn += 1;
        }
    }

    /// The address is behind a peer, unless it is alive here. False if the peer is not believed, or not yet.
    fn learn_remote(&mut self, key: Key, said: Remote, step: &mut Step<'_>) -> bool {
        let known = self.entries.get_mut(&key);
        // The address is here, at another MAC or at one that the MAC table has no place for. Its owner is asked; if it is
        // silent, the peer's claim counts.
        if let Some(known) = known
            && known.owner == Owner::Local
        {
            self.stats.conflicts += 1;
            known.claim = Some(said);
            known.verify.get_or_insert((0, step.now_ms));
            self.verify_at_ms = step.now_ms;
            return false;
        }
        let known = self.entries.get(&key);
        let router = said.router.unwrap_or(known.is_some_and(|known| known.router && known.mac == said.mac));
        let owner = Owner::Peer(said.peer);
        let entry = Entry::new(said.mac, owner, router, said.source, step.now_ms, self.expiry_ms);
        match self.entries.put(key, entry) {
            Ok(()) => true,
            Err(Full::Table) => {
                self.stats.table_full += 1;
                true
            }
            Err(Full::Share(reason)) => {
                step.refuse(owner, reason, said.mac, key.ip);
                false
            }
        }
    }

    pub(super) fn claim(&mut self, key: MacKey, peer: PeerId, seq: u16, step: &mut Step<'_>) -> Claim {
        let claim = step.macs.claim(key, peer, seq, step.now_ms, step.out);
        if claim == Claim::Contested {
            self.ask_for_life(key, step);
        }
        claim
    }

    /// Keeps what a peer says in the name of a MAC that is at test, to be followed if it has moved there.
    fn postpone(&mut self, key: MacKey, peer: PeerId, message: Message, step: &Step<'_>) {
        if step.macs.is_at_test(key, peer) {
            self.postponed.insert(key, (peer, message));
        }
    }

    /// The tests whose time has come: what has moved takes its addresses along, and is listened to.
    pub(super) fn decide(&mut self, step: &mut Step<'_>) {
        for (key, peer) in step.macs.decide(step.now_ms, step.out) {
            self.entries.give(key, peer);
            if let Some((speaker, message)) = self.postponed.remove(&key)
                && speaker == peer
            {
                self.from_peer(peer, &message, step);
            }
        }
        self.postponed.retain(|key, (peer, _)| step.macs.is_at_test(*key, *peer));
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
