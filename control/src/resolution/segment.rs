//! What the segment says: questions, answers and announcements of stations on this side.

use super::questions::{Asker, Owed};
use super::*;
use crate::resolution::arbitration::{Evidence, Learned};

impl Resolver {
    /// A frame from the port that is ARP or neighbour discovery.
    pub fn from_port(&mut self, bytes: &[u8], checksum_pending: bool, step: &mut Step<'_>) -> Result<(), Ending> {
        let frame = Frame::parse(bytes).map_err(|_| Ending::FrameTruncated)?;
        let heard = Heard::parse(&frame, checksum_pending)?;
        let vlan = frame.vlan;
        self.is_here(MacKey::new(vlan, frame.src), step);
        // What does not fit into a message goes as data: it is rare, and nobody repeats it in another's name.
        let carried = carried(&frame, checksum_pending);
        let local = |mac, flags, source, announcement, frame: &Option<Box<[u8]>>| Word {
            owner: Owner::Local,
            mac,
            station: bytes.get(6..12).and_then(|src| src.try_into().ok()).map(MacAddr).unwrap_or_default(),
            flags,
            source,
            announcement,
            frame: frame.clone(),
        };
        match heard {
            // Not ours to answer: a check whether one station is alive (workers take these for data), or another protocol.
            Heard::Question { .. } if !frame.dst.is_group() => self.forward(&frame, checksum_pending, step),
            Heard::Foreign => self.forward(&frame, checksum_pending, step),
            Heard::Question { target, asker, asker_mac } => {
                self.stats.requests_captured += 1;
                let (key, station) = (Key { vlan, ip: target }, frame.src);
                // Whoever asks in the name of more addresses than it may have is not listened to: peers would learn them.
                if let Some(ip) = asker
                    && !self.learn_local(Key { vlan, ip }, local(asker_mac, None, Source::Request, None, &None), step)
                {
                    return Ok(());
                }
                let speaker = Speaker { ip: asker, mac: asker_mac };
                match asker {
                    _ if carried.is_none() => self.forward(&frame, checksum_pending, step),
                    Some(_) => self.asked(key, Asker { speaker, station, owed: Owed::Answer }, carried, step),
                    None => self.probed(key, speaker, station, carried, step),
                }
            }
            Heard::Answer { ip, mac, flags } => {
                let key = Key { vlan, ip };
                let own = frame.dst == self.own_mac;
                let proof = own && self.was_asked(key, mac, frame.src, step.now_ms);
                if proof {
                    let station = MacKey::new(vlan, frame.src);
                    step.macs.proved(station);
                    step.macs.look(station, step.now_ms, step.out);
                }
                let word = local(mac, Some(flags), Source::Reply, None, &None);
                let learned = self.learn_here(key, word, if proof { Evidence::Proof } else { Evidence::Checked }, step);
                // The answer to a question that was asked in another's name ends here too.
                if learned && !own && self.vouched.remove(&(key, frame.dst)).is_none() {
                    self.answered(
                        key,
                        local(mac, Some(flags), Source::Reply, None, &carried),
                        &frame,
                        checksum_pending,
                        step,
                    );
                }
            }
            Heard::Announced { ip, mac, flags, how } => {
                let key = Key { vlan, ip };
                self.stats.announcements_captured += 1;
                if self.learn_local(key, local(mac, Some(flags), Source::Announcement, Some(how), &carried), step) {
                    match carried {
                        None => self.forward(&frame, checksum_pending, step),
                        some => {
                            self.announce(key, local(mac, Some(flags), Source::Announcement, Some(how), &some), step)
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A station looks whether an address is free: only its holder may object.
    fn probed(&mut self, key: Key, asker: Speaker, station: MacAddr, frame: Option<Box<[u8]>>, step: &mut Step<'_>) {
        self.stats.probes_captured += 1;
        if step.peers_up == 0 || self.probing.len() >= MAX_PENDING || !self.probes.allow(step.now_ms) {
            self.stats.not_asked += 1;
            return;
        }
        self.probing.insert((key, station), step.now_ms + ANSWER_MS);
        self.ask_peers(To::All, key, asker, station, frame, step);
    }

    fn answered(&mut self, key: Key, word: Word, frame: &Frame<'_>, checksum_pending: bool, step: &mut Step<'_>) {
        let place = (key, frame.dst);
        let Some(injected) = self.injected.get_mut(&place).filter(|_| word.frame.is_some()) else {
            // The answer to a question that went as it was, so it goes as it is.
            return self.forward(frame, checksum_pending, step);
        };
        injected.expected -= 1;
        let peers = injected.peers.clone();
        if injected.expected == 0 {
            self.injected.remove(&place);
        }
        self.stats.replies_captured += 1;
        step.macs.proved(MacKey::new(key.vlan, frame.src));
        // All learn of it, but not of each repetition.
        let news =
            self.entries.get(&key).is_none_or(|entry| entry.told_ms.is_none_or(|told| told + 1000 <= step.now_ms));
        if news {
            self.send_word(To::All, key, &word, Some(frame.dst), step);
        } else {
            for peer in peers {
                self.send_word(To::Peer(peer), key, &word, Some(frame.dst), step);
            }
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

    /// A station has said of itself, or of a MAC that it shares, that an address is there. False if it may have no more.
    fn learn_local(&mut self, key: Key, word: Word, step: &mut Step<'_>) -> bool {
        self.learn_here(key, word, Evidence::Checked, step)
    }

    fn learn_here(&mut self, key: Key, word: Word, evidence: Evidence, step: &mut Step<'_>) -> bool {
        let before = self.entries.get(&key).map(|known| (known.owner, known.mac, known.verify.is_some()));
        let source = word.source;
        let learned = self.learn(key, word, evidence, step);
        match learned {
            // One that waits is told to peers when it is decided.
            Learned::Refused | Learned::Waits => return false,
            Learned::Kept | Learned::Ignored => return true,
            Learned::Known | Learned::Changed => {}
        }
        let moved = before.is_some_and(|(owner, mac, _)| {
            self.entries.get(&key).is_some_and(|entry| (entry.owner, entry.mac) != (owner, mac))
        });
        if moved {
            self.stats.moved += 1;
            // An announcement tells the peers anyway.
            if source != Source::Announcement {
                self.announce_entry(key, step);
            }
        }
        if let Some(peers) = self.waiting.remove(&key) {
            self.tell_waiting(key, &peers, step);
        }
        // Whoever waits for it here gets its answer from the owner.
        self.questions.answered(&key);
        true
    }

    /// Tells all of an address that came here without an announcement.
    fn announce_entry(&mut self, key: Key, step: &mut Step<'_>) {
        if let Some(word) = self.word_of(key) {
            self.announce(key, word, step);
        }
    }

    /// What the table says of an address of this side, as a word.
    pub(super) fn word_of(&self, key: Key) -> Option<Word> {
        self.entries.get(&key).filter(|entry| entry.owner == Owner::Local).map(Entry::word)
    }

    /// Enters what is believed.
    pub(super) fn enter(&mut self, key: Key, word: &Word, evidence: Evidence, step: &mut Step<'_>) -> Learned {
        let known = self.entries.get(&key);
        let same = known.is_some_and(|known| (known.owner, known.mac) == (word.owner, word.mac));
        let given = known.filter(|_| !same).map(|known| known.given.clone()).unwrap_or_default();
        let entry = Entry::of(word, known, evidence, step.now_ms, self.expiry_ms);
        match self.entries.put(key, entry) {
            Ok(()) => {}
            Err(Full::Table) => self.stats.table_full += 1,
            Err(Full::Share(reason)) => {
                step.refuse(word, reason, key, None);
                return Learned::Refused;
            }
        }
        if word.announcement.is_none() {
            self.set_right(key, word, false, &given, step);
        }
        if same { Learned::Known } else { Learned::Changed }
    }
}

/// A frame as a message carries it: as it is, with its checksum finished. `None` if it is too large.
fn carried(frame: &Frame<'_>, checksum_pending: bool) -> Option<Box<[u8]>> {
    (frame.bytes.len() <= MAX_CARRIED).then(|| finish(frame, checksum_pending).into())
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
