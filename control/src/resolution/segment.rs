//! What the segment says: questions, answers and announcements of stations on this side.

use super::*;

impl Resolver {
    pub(super) fn asked(&mut self, key: Key, asker: Asker, step: &mut Step<'_>) {
        let now = step.now_ms;
        match self.entries.get_mut(&key).filter(|entry| entry.expires_ms > now) {
            // Never the asker's own address: that it asks means that something has changed.
            Some(entry) if entry.mac == asker.mac => {}
            Some(entry) => match entry.owner {
                Owner::Peer(_) => {
                    let frame = heard::answer(key.ip, entry.mac, entry.router, Some(asker.ip), asker.mac, key.vlan);
                    self.stats.answered_locally += 1;
                    return step.inject(frame);
                }
                Owner::Local => {
                    let before = entry.asked.replace((asker.mac, now)).filter(|(_, at)| now - at <= REPEAT_MS);
                    if before.is_none_or(|(mac, _)| mac != asker.mac) {
                        self.stats.left_to_owner += 1;
                        // Several who ask: the owner is popular, or gone. It will tell.
                        if before.is_some() {
                            entry.verify.get_or_insert((0, now));
                            self.verify_at_ms = now;
                        }
                        return;
                    }
                }
            },
            None => {}
        }
        if let Some((_, askers)) = self.pending.get_mut(&key) {
            self.stats.joined += 1;
            if !askers.contains(&asker) && askers.len() < MAX_ASKERS {
                askers.push(asker);
            }
            return;
        }
        if self.unanswered.get(&key).is_some_and(|u| u.until_ms > now) {
            self.stats.held_by_back_off += 1;
            return;
        }
        if step.peers_up == 0
            || self.pending.len() >= MAX_PENDING
            || !self.may_ask(MacKey::new(key.vlan, asker.mac), now)
        {
            self.stats.not_asked += 1;
            return;
        }
        let pending = Pending { since_ms: now, tries: 1, next_ms: now + RETRY_MS };
        self.pending.insert(key, (pending, vec![asker]));
        self.ask_peers(key, Some(asker.ip), asker.mac, step);
    }

    pub(super) fn probed(&mut self, key: Key, asker_mac: MacAddr, step: &mut Step<'_>) {
        self.stats.probes_captured += 1;
        if step.peers_up == 0 || self.probing.len() >= MAX_PENDING || !self.probes.allow(step.now_ms) {
            self.stats.not_asked += 1;
            return;
        }
        self.probing.insert((key, asker_mac), step.now_ms + ANSWER_MS);
        self.ask_peers(key, None, asker_mac, step);
    }

    pub(super) fn answered(
        &mut self,
        key: Key,
        mac: MacAddr,
        router: bool,
        frame: &Frame<'_>,
        checksum_pending: bool,
        step: &mut Step<'_>,
    ) {
        let place = (key, frame.dst);
        match self.injected.get_mut(&place) {
            Some((expected, _)) => {
                *expected -= 1;
                if *expected == 0 {
                    self.injected.remove(&place);
                }
                self.stats.replies_captured += 1;
                self.announce(key, mac, router, Some(frame.dst), None, step);
            }
            // The answer to a question that went as it was, so it goes as it is.
            None => self.forward(frame, checksum_pending, step),
        }
    }

    /// Sends a frame on as data would go, with its checksum finished.
    pub(super) fn forward(&mut self, frame: &Frame<'_>, checksum_pending: bool, step: &mut Step<'_>) {
        let to = match step.macs.table().lookup(MacKey::new(frame.vlan, frame.dst)).map(|entry| entry.owner) {
            Some(Owner::Local) if !frame.dst.is_group() => return,
            Some(Owner::Peer(peer)) if !frame.dst.is_group() => To::Peer(peer),
            _ => To::All,
        };
        if !self.forwards.allow(step.now_ms) {
            self.stats.rate_limited += 1;
            return;
        }
        self.stats.forwarded += 1;
        step.out.push(Action::Frame(to, finish(frame, checksum_pending)));
    }

    /// The address is at this MAC on this side: a station has just said so itself.
    /// Only answers and announcements say whether it is a router (`router`). False if the MAC may have no more addresses.
    pub(super) fn learn_local(
        &mut self,
        key: Key,
        mac: MacAddr,
        router: Option<bool>,
        source: Source,
        step: &mut Step<'_>,
    ) -> bool {
        step.macs.here(MacKey::new(key.vlan, mac), step.now_ms, step.out);
        let now = step.now_ms;
        let known = self.entries.get(&key);
        let changed = known.is_some_and(|known| known.owner != Owner::Local || known.mac != mac);
        let router = router.unwrap_or(known.is_some_and(|known| known.router && known.mac == mac));
        let entry = Entry {
            told_ms: known.filter(|_| !changed).and_then(|known| known.told_ms),
            asked: known.and_then(|known| known.asked),
            ..Entry::new(mac, Owner::Local, router, source, now, self.expiry_ms)
        };
        // The owner lives, so whoever says otherwise is wrong.
        let wrong = known.filter(|_| !changed).and_then(|known| known.claim);
        match self.entries.put(key, entry) {
            Ok(()) => {}
            Err(Full::Table) => self.stats.table_full += 1,
            Err(Full::Share(reason)) => {
                step.refuse(Owner::Local, reason, mac, key.ip);
                return false;
            }
        }
        if let Some(claim) = wrong {
            step.refuse(Owner::Peer(claim.peer), Reason::IpIsHere, claim.mac, key.ip);
        }
        self.unanswered.remove(&key);
        if changed {
            self.stats.moved += 1;
            // An announcement tells the peers anyway.
            if source != Source::Announcement && self.allowed(now) {
                let router = self.entries.get(&key).is_some_and(|entry| entry.router);
                self.announce(key, mac, router, None, None, step);
            }
        }
        // Whoever waits for it here gets its answer from the owner.
        self.pending.remove(&key);
        true
    }
}

/// A copy of the frame with its checksum finished, if that was left to hardware (only ICMPv6 has one here).
fn finish(frame: &Frame<'_>, checksum_pending: bool) -> Vec<u8> {
    let mut bytes = frame.bytes.to_vec();
    if checksum_pending {
        use ipop_dataplane::wire::vnet::{PartialChecksum, finish_checksum};
        let start = frame.l3 + ipop_dataplane::wire::ip::IPV6_HEADER_LEN;
        finish_checksum(&mut bytes, PartialChecksum { start: start as u16, offset: 2 });
    }
    bytes
}
