//! What time does: retries, back-offs, verification.

use super::*;

impl Resolver {
    pub(super) fn retry(&mut self, step: &mut Step<'_>) {
        let now = step.now_ms;
        let due: Vec<Key> = self.pending.iter().filter(|(_, (p, _))| p.next_ms <= now).map(|(k, _)| *k).collect();
        for key in due {
            let again = self.pending.get(&key).is_some_and(|(pending, _)| pending.tries < TRIES);
            if again && !self.allowed(now) {
                // Its time stays in the past: it is asked for as soon as the rate allows.
                break;
            }
            let Some((pending, askers)) = self.pending.get_mut(&key) else { continue };
            if again {
                pending.tries += 1;
                pending.next_ms = now + RETRY_MS;
                if let Some(asker) = askers.first().copied() {
                    self.ask_peers(key, Some(asker.ip), asker.mac, step);
                }
                continue;
            }
            self.pending.remove(&key);
            self.stats.unanswered += 1;
            let failures = self.unanswered.get(&key).map_or(0, |u| u.failures) + 1;
            let wait = (BACK_OFF_MS << (failures - 1).min(8)).min(LONGEST_BACK_OFF_MS);
            if self.unanswered.len() < MAX_PENDING {
                self.unanswered.insert(key, Unanswered { failures, until_ms: now + wait });
            }
        }
    }

    /// Verifies local addresses that peers know, before they forget them, and those that a peer disputes.
    pub(super) fn verify(&mut self, step: &mut Step<'_>) {
        let (now, expiry, own_mac) = (step.now_ms, self.expiry_ms, self.own_mac);
        let mut silent = Vec::new();
        self.verify_at_ms = u64::MAX;
        for (key, entry) in self.entries.iter_mut() {
            if entry.owner != Owner::Local {
                continue;
            }
            // Half-way, so that a withdrawal comes before the entries at the peers have expired by themselves.
            let begin = entry.expires_ms - expiry / 2;
            let known_to_peers = entry.told_ms.is_some_and(|told| begin < told + expiry);
            if entry.verify.is_none() && known_to_peers {
                if now >= begin {
                    entry.verify = Some((0, now));
                } else {
                    self.verify_at_ms = self.verify_at_ms.min(begin);
                }
            }
            let Some((tries, due)) = &mut entry.verify else { continue };
            if now >= *due {
                if *tries == VERIFY_TRIES {
                    silent.push(*key);
                    continue;
                }
                *tries += 1;
                *due = now + if entry.claim.is_some() { DISPUTE_MS } else { VERIFY_MS }.min(expiry / 16);
                self.stats.verifications += 1;
                // Hosts verify the one who asked; what they send to it ends here.
                step.macs.reserve(MacKey::new(key.vlan, own_mac));
                step.out.push(Action::Inject(heard::verification(key.ip, entry.mac, own_mac, key.vlan)));
            }
            self.verify_at_ms = self.verify_at_ms.min(*due);
        }
        for key in silent {
            self.gone(key, step);
        }
    }

    /// The local owner of an address is silent: who disputes it gets it, and peers that know it forget it.
    pub(super) fn gone(&mut self, key: Key, step: &mut Step<'_>) {
        let Some(entry) = self.entries.remove(&key) else { return };
        self.stats.gone += 1;
        match entry.claim {
            Some(said) => self.hand_over(key, said, step),
            None if entry.told_ms.is_some() => {
                self.stats.rpc_withdraws_sent += 1;
                step.send(To::All, Message::Withdraw(Withdraw { target: key.ip, mac: entry.mac, vlan: key.vlan }));
            }
            None => {}
        }
    }
}
