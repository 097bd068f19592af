//! What peers are told of addresses on this side, unasked: at once while the rate allows it, in turn when it does not. A
//! newer word about an address takes the place of the one that waits, so that the last one always arrives.

use std::collections::VecDeque;

use super::*;

/// Announcements per second: some hundreds of addresses that fail over at once are through within a second.
const RATE: u64 = 500;
const PUMP_MS: u64 = 10;

/// Words that wait.
#[derive(Debug)]
pub(super) struct Announcements {
    /// By the address and the MAC that is named: two that claim the same do not silence each other.
    words: HashMap<(Key, MacAddr), Word>,
    order: VecDeque<(Key, MacAddr)>,
    rate: RateLimit,
}

impl Default for Announcements {
    fn default() -> Self {
        Announcements { words: HashMap::new(), order: VecDeque::new(), rate: RateLimit::new(RATE) }
    }
}

impl Resolver {
    /// Tells all peers where an address is.
    pub(super) fn announce(&mut self, key: Key, word: Word, step: &mut Step<'_>) {
        if step.peers_up == 0 {
            return;
        }
        let Announcements { words, order, rate } = &mut self.announcements;
        if order.is_empty() && rate.allow(step.now_ms) {
            return self.send_word(To::All, key, &word, None, step);
        }
        let place = (key, word.mac);
        if words.len() >= MAX_ENTRIES && !words.contains_key(&place) {
            self.stats.rate_limited += 1;
            return;
        }
        if words.insert(place, word).is_none() {
            order.push_back(place);
        }
        self.timers.push(step.now_ms + PUMP_MS, Timer::Pump);
    }

    pub(super) fn pump(&mut self, step: &mut Step<'_>) {
        self.pump_questions(step);
        while !self.announcements.order.is_empty() && self.announcements.rate.allow(step.now_ms) {
            let Some(place) = self.announcements.order.pop_front() else { break };
            if let Some(word) = self.announcements.words.remove(&place) {
                self.send_word(To::All, place.0, &word, None, step);
            }
        }
        if !self.announcements.order.is_empty() {
            self.timers.push(step.now_ms + PUMP_MS, Timer::Pump);
        }
    }

    /// The `arp_reply` of a word.
    pub(super) fn send_word(&mut self, to: To, key: Key, word: &Word, asker_mac: Option<MacAddr>, step: &mut Step<'_>) {
        if step.peers_up == 0 {
            return;
        }
        self.stats.rpc_replies_sent += 1;
        self.told(key, step.now_ms);
        let flags = word.flags.unwrap_or(Flags::OF_ARP);
        let reply = Reply {
            target: key.ip,
            mac: word.mac,
            uid: self.uid.clone(),
            vlan: key.vlan,
            seq: step.macs.moves(key.vlan, word.station),
            asker_mac,
            announcement: word.announcement,
            router: flags.router,
            overrides: flags.overrides,
            frame: word.frame.clone(),
        };
        step.send(to, Message::Reply(reply));
    }

    /// Peers know of an address of this side from now on, so it is verified before they forget it.
    pub(super) fn told(&mut self, key: Key, now_ms: u64) {
        if let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.owner == Owner::Local) {
            entry.told_ms = Some(now_ms);
            if !entry.noted {
                entry.noted = true;
                self.timers.push(entry.expires_ms.saturating_sub(self.expiry_ms / 2), Timer::Verify(key));
            }
        }
    }
}
