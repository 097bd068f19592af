//! Stations of this side that are asked whether they still have an address.

use super::*;

impl Resolver {
    /// A question of the gateway's own: to one MAC, or to all. One that is repeated is asked in the name of a station behind a
    /// peer, if one is known.
    pub(super) fn ask_station(&mut self, key: Key, mac: Option<MacAddr>, asked: u32, step: &mut Step<'_>) {
        self.stats.verifications += 1;
        if self.own_questions.len() < MAX_PENDING || self.own_questions.contains_key(&(key, mac)) {
            self.own_questions.insert((key, mac), step.now_ms + ANSWER_MS);
        }
        let voucher = match (key.ip, mac) {
            (IpAddr::V4(ip), Some(_)) if asked % 2 == 1 => {
                let [a, b, c, _] = ip.octets();
                self.vouchers.get(&(key.vlan, [a, b, c])).copied()
            }
            _ => None,
        };
        let voucher = voucher.filter(|voucher| {
            voucher.ip != Some(key.ip) && matches!(self.place_of(key.vlan, voucher.mac, step), Some(Owner::Peer(_)))
        });
        let frame = match (voucher, mac) {
            (Some(voucher), Some(mac)) if self.vouched.len() < MAX_PENDING => {
                self.vouched.insert((key, voucher.mac), step.now_ms + ANSWER_MS);
                let mut frame = speech::question(key.ip, voucher, voucher.mac, key.vlan);
                if let Some(dst) = frame.get_mut(..6) {
                    dst.copy_from_slice(&mac.0);
                }
                frame
            }
            _ => speech::own_question(key.ip, mac, self.own_mac, key.vlan),
        };
        step.inject(frame);
    }

    /// Whether an answer to the gateway is one to a question of its own: anybody can send one.
    pub(super) fn was_asked(&self, key: Key, named: MacAddr, source: MacAddr, now_ms: u64) -> bool {
        [None, Some(named), Some(source)]
            .iter()
            .any(|asked| self.own_questions.get(&(key, *asked)).is_some_and(|until| *until > now_ms))
    }

    /// Begins to verify an address of this side after a time in which it may speak by itself, or hurries.
    pub(super) fn start_verification(&mut self, key: Key, after_ms: u64, step: &mut Step<'_>) {
        let (due_ms, every_ms) = (step.now_ms + after_ms, VERIFY_QUICKLY_MS);
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.owner == Owner::Local) else { return };
        if entry.verify.is_none_or(|verify| verify.every_ms > every_ms) {
            entry.verify = Some(Verify { tries: 0, due_ms, every_ms });
            self.verify(key, step);
        }
    }

    /// Verifies a local address that peers know, before they forget it, and those that somebody asks for.
    pub(super) fn verify(&mut self, key: Key, step: &mut Step<'_>) {
        let (now, expiry) = (step.now_ms, self.expiry_ms);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.noted = false;
        if entry.owner != Owner::Local {
            return;
        }
        // Half-way, so that a withdrawal comes before the entries at the peers have expired by themselves.
        let begin = entry.expires_ms.saturating_sub(expiry / 2);
        let known_to_peers = entry.told_ms.is_some_and(|told| begin < told + expiry);
        if entry.verify.is_none() {
            if !known_to_peers {
                return;
            }
            if now < begin {
                entry.noted = true;
                return self.timers.push(begin, Timer::Verify(key));
            }
            entry.verify = Some(Verify { tries: 0, due_ms: now, every_ms: VERIFY_MS.min(expiry / 16).max(1) });
        }
        let Some(verify) = &mut entry.verify else { return };
        if now < verify.due_ms {
            entry.noted = true;
            return self.timers.push(verify.due_ms, Timer::Verify(key));
        }
        if verify.tries == VERIFY_TRIES {
            return self.gone(key, step);
        }
        let asked = verify.tries;
        verify.tries += 1;
        verify.due_ms = now + verify.every_ms;
        entry.noted = true;
        self.timers.push(verify.due_ms, Timer::Verify(key));
        let mac = entry.mac;
        self.ask_station(key, Some(mac), asked, step);
    }

    /// The local owner of an address is silent: peers that know it forget it, and it is looked for elsewhere.
    fn gone(&mut self, key: Key, step: &mut Step<'_>) {
        let Some(entry) = self.entries.remove(&key) else { return };
        self.stats.gone += 1;
        let waiting = self.waiting.remove(&key).unwrap_or_default();
        let withdraw = Message::Withdraw(Withdraw { target: key.ip, mac: entry.mac, vlan: key.vlan });
        if entry.told_ms.is_some() {
            self.stats.rpc_withdraws_sent += 1;
            step.send(To::All, withdraw);
        } else {
            for peer in waiting {
                self.stats.rpc_withdraws_sent += 1;
                step.send(To::Peer(peer), withdraw.clone());
            }
        }
        self.questions.hurry(&key, step.now_ms, &mut self.timers);
    }
}
