//! Who has an address when two say so: the holder that is known is asked, and the answer decides (RFC 9161, section 3.7, for
//! what becomes of duplicates).
//!
//! | known | says otherwise | until it is decided | who is asked |
//! |---|---|---|---|
//! | a station of this side | a peer | the entry stays; the segment hears the newcomer after [`BELIEVE_MS`] of silence | the station, alone |
//! | a peer | another peer, a station of this side | the newcomer is believed | the gateway that is known (`arp_query`) |
//! | a station of this side | another one | the newcomer is believed, as the bridge does | the first one, alone |
//! | nothing | a peer, unasked | nobody hears of it | the whole segment |
//!
//! An address that was found to be a duplicate of late is not believed to have moved before its holder has been silent.

use super::*;

/// Silence of a holder on this side after which the segment hears the newcomer; it may still answer later. A host answers in
/// far less than a millisecond.
const BELIEVE_MS: u64 = 15;
/// Silence after which the newcomer has the address.
const DECIDE_MS: u64 = 300;
/// The question is repeated after this time.
const REPEAT_MS: u64 = 100;
/// How long the segment has to object to an address of which nothing was known.
const SEGMENT_MS: u64 = 100;
/// The gateway of a holder hears of a newcomer as everybody does. It is asked after so long, in case it did not.
const ASK_GATEWAY_MS: u64 = 50;
/// How long that gateway has to say that its station is alive, and when it is asked again.
const GATEWAY_MS: u64 = 1000;
const ASK_AGAIN_MS: u64 = 300;
/// For how long nobody is believed unheard after a duplicate.
const DUPLICATE_MS: u64 = 60_000;
const MAX_ARBITRATIONS: usize = 4096;
/// Between two words to all peers about who has an address.
const TRUTH_MS: u64 = 1000;
/// What is right is said once more after this time.
const SAY_AGAIN_MS: u64 = 200;

/// One address that two claim.
#[derive(Debug)]
pub(super) struct Arbitration {
    /// Who has it, as far as is known: the word that made the entry.
    old: Option<Word>,
    new: Word,
    /// The table has the newcomer already.
    entered: bool,
    /// The segment has heard the newcomer.
    heard: bool,
    /// What the newcomer wants to know, to be put to the segment once it is believed.
    question: Option<Request>,
    asked: u32,
    since_ms: u64,
    next_ms: u64,
}

impl Arbitration {
    pub(super) fn concerns(&self, peer: PeerId) -> bool {
        self.new.owner == Owner::Peer(peer) || self.old.as_ref().is_some_and(|old| old.owner == Owner::Peer(peer))
    }
}

/// What became of a word about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learned {
    /// It was known.
    Known,
    /// The table says so now.
    Changed,
    /// The table says otherwise, and the word has no right to replace it (O flag of RFC 4861).
    Kept,
    /// Nobody has asked, and nobody hears of it.
    Ignored,
    /// Whoever has it is asked first.
    Waits,
    /// Whoever says so may not.
    Refused,
}

/// Who was asked before somebody said where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Nobody: it comes by itself.
    Unasked,
    /// Everybody, by a station of this side. If somebody on this side has answered it, we have not seen that.
    Asked,
    /// This segment, by us, and nobody here has answered; or the word is of this side itself.
    Checked,
    /// The station itself, by us: it has the address.
    Proof,
}

impl Resolver {
    /// Takes in what somebody says of an address.
    pub(super) fn learn(&mut self, key: Key, word: Word, evidence: Evidence, step: &mut Step<'_>) -> Learned {
        if let Some(arbitration) = self.arbitrations.get(&key) {
            let same = |other: &Word| (other.owner, other.mac) == (word.owner, word.mac);
            let local = word.owner == Owner::Local;
            match &arbitration.old {
                Some(old) if same(old) => self.uphold(key, step),
                // Nothing was known, and the claimant has moved here, or stations on this side have been asked in the meantime.
                None if local && word.mac == arbitration.new.mac
                    || evidence != Evidence::Unasked && same(&arbitration.new) && !arbitration.entered =>
                {
                    self.arbitrations.remove(&key);
                }
                // Nothing was known, and somebody has answered who does not claim it unasked.
                None if local || evidence != Evidence::Unasked && !same(&arbitration.new) => {
                    self.object(key, word.clone(), step);
                }
                // It may ask in the meantime, if it takes nothing from anybody.
                None if same(&arbitration.new) && word.source == Source::RequestRpc => return Learned::Kept,
                _ if same(&arbitration.new) && !arbitration.entered => return Learned::Waits,
                _ => {}
            }
        }
        let unasked = word.owner != Owner::Local && evidence == Evidence::Unasked && word.source == Source::ReplyRpc;
        let Some(known) = self.entries.get(&key) else {
            return match word.announcement {
                // An answer to nothing is for nobody.
                None if unasked => Learned::Ignored,
                Some(_) if unasked => self.open(key, None, word, step),
                _ => self.enter(key, &word, evidence, step),
            };
        };
        if (known.owner, known.mac) == (word.owner, word.mac) {
            return self.enter(key, &word, evidence, step);
        }
        if word.flags.is_some_and(|flags| !flags.overrides) {
            return Learned::Kept;
        }
        // The address stays at its MAC: where that is, the MAC table knows, which goes by frames.
        if known.mac == word.mac && known.owner != Owner::Local && word.owner != Owner::Local {
            let place = self.place_of(key.vlan, word.mac, step);
            let unmoved = place == Some(known.owner);
            return if unmoved { Learned::Known } else { self.enter(key, &word, evidence, step) };
        }
        // What nobody on this side was asked about has no right against a station of this side, and what nobody at all was
        // asked about none against an answer.
        let standing = match word.owner {
            Owner::Local => known.mac != word.mac && (known.checked || evidence != Evidence::Proof),
            Owner::Peer(_) => !known.hearsay || unasked,
        };
        let old = known.word();
        if !standing && known.mac != word.mac {
            self.stats.duplicates += 1;
            let reason = if word.owner == Owner::Local { Reason::IpIsHere } else { Reason::IpIsThere };
            step.refuse(&old, reason, key, Some((word.mac, word.owner)));
        }
        if !standing || old.owner == word.owner && old.owner != Owner::Local {
            return self.enter(key, &word, evidence, step);
        }
        self.stats.conflicts += 1;
        self.open(key, Some(old), word, step)
    }

    /// Asks who has the address.
    fn open(&mut self, key: Key, old: Option<Word>, new: Word, step: &mut Step<'_>) -> Learned {
        let now = step.now_ms;
        if let Some(running) = self.arbitrations.get_mut(&key) {
            // A newer claim takes the place of the one that waits. Who is asked, and for how long, stays.
            let entered = running.entered;
            running.heard |= new.owner == Owner::Local;
            running.new = new.clone();
            return if entered { self.enter(key, &new, Evidence::Checked, step) } else { Learned::Waits };
        }
        let local = old.as_ref().is_some_and(|old| old.owner == Owner::Local);
        let waits = old.is_none() || self.duplicates.contains_key(&key) || local && new.owner != Owner::Local;
        if let (None, Owner::Peer(peer)) = (&old, new.owner)
            && !self.may_inject(peer, step)
        {
            return Learned::Ignored;
        }
        if self.arbitrations.len() >= MAX_ARBITRATIONS {
            self.stats.rate_limited += 1;
            return if waits { Learned::Waits } else { self.enter(key, &new, Evidence::Checked, step) };
        }
        let learned = if waits { Learned::Waits } else { self.enter(key, &new, Evidence::Checked, step) };
        if learned == Learned::Refused {
            return learned;
        }
        let (asked, since_ms) = (0, now);
        let heard = new.owner == Owner::Local;
        let question = None;
        let arbitration = Arbitration { old, new, entered: !waits, heard, question, asked, since_ms, next_ms: now };
        self.arbitrations.insert(key, arbitration);
        self.arbitrate(key, step);
        learned
    }

    /// The next thing to do about an address that two claim.
    pub(super) fn arbitrate(&mut self, key: Key, step: &mut Step<'_>) {
        let now = step.now_ms;
        let Some(arbitration) = self.arbitrations.get_mut(&key).filter(|arbitration| arbitration.next_ms <= now) else {
            return;
        };
        let age_ms = now - arbitration.since_ms;
        let holder = arbitration.old.as_ref().map(|old| (old.owner, old.mac));
        let asked = arbitration.asked;
        let (next_ms, ask) = match holder {
            // Nothing was known: all are asked, once.
            None if asked == 0 => (SEGMENT_MS, true),
            None => (0, false),
            Some((Owner::Local, _)) if asked == 0 => (BELIEVE_MS, true),
            Some((Owner::Local, _)) if age_ms < REPEAT_MS => (REPEAT_MS, false),
            Some((Owner::Local, _)) if asked == 1 => (DECIDE_MS, true),
            Some((Owner::Local, _)) if age_ms < DECIDE_MS => (DECIDE_MS, false),
            Some((Owner::Local, _)) => (0, false),
            Some((Owner::Peer(_), _)) if asked == 0 && arbitration.entered && age_ms < ASK_GATEWAY_MS => {
                (ASK_GATEWAY_MS, false)
            }
            Some((Owner::Peer(_), _)) if asked == 0 => (age_ms + ASK_AGAIN_MS, true),
            Some((Owner::Peer(_), _)) if asked == 1 => (GATEWAY_MS.max(age_ms + ASK_AGAIN_MS), true),
            Some((Owner::Peer(_), _)) => (0, false),
        };
        if next_ms == 0 {
            return self.grant(key, step);
        }
        arbitration.asked += u32::from(ask);
        arbitration.next_ms = arbitration.since_ms + next_ms;
        self.timers.push(arbitration.next_ms, Timer::Arbitrate(key));
        let believe =
            holder.is_some_and(|(owner, _)| owner == Owner::Local) && age_ms >= BELIEVE_MS && !arbitration.heard;
        if ask {
            match holder {
                None => self.ask_station(key, None, 0, step),
                Some((Owner::Local, mac)) => self.ask_station(key, Some(mac), asked, step),
                Some((Owner::Peer(peer), mac)) => self.query(key, mac, peer, step),
            }
        }
        if believe {
            self.repeat_newcomer(key, step);
        }
    }

    /// The segment hears the announcement of the newcomer, and what it asks.
    fn repeat_newcomer(&mut self, key: Key, step: &mut Step<'_>) {
        let Some(arbitration) = self.arbitrations.get_mut(&key) else { return };
        arbitration.heard = true;
        let (word, question) = (arbitration.new.clone(), arbitration.question.take());
        self.repeat(key, &word, step);
        self.put_for(&word, question, step);
    }

    fn put_for(&mut self, newcomer: &Word, question: Option<Request>, step: &mut Step<'_>) {
        if let (Some(question), Owner::Peer(peer)) = (question, newcomer.owner) {
            self.put_held_question(&question, peer, step);
        }
    }

    /// Whether a newcomer is believed that asks something in the name of an address which another has. If not yet, its
    /// question is kept.
    pub(super) fn is_believed(&mut self, key: Key, request: &Request) -> bool {
        let Some(arbitration) = self.arbitrations.get_mut(&key) else { return false };
        if arbitration.new.mac != request.asker_mac {
            return false;
        }
        if !arbitration.heard {
            arbitration.question = Some(request.clone());
        }
        arbitration.heard
    }

    /// The segment hears what a newcomer has announced, so it must hear it if that turns out to be wrong.
    pub(super) fn newcomer_is_heard(&mut self, key: Key, word: &Word) {
        if let Some(arbitration) = self.arbitrations.get_mut(&key)
            && (arbitration.new.owner, arbitration.new.mac) == (word.owner, word.mac)
        {
            arbitration.heard = true;
        }
    }

    /// The holder has spoken: the address is a duplicate, and whoever heard the newcomer hears the holder.
    fn uphold(&mut self, key: Key, step: &mut Step<'_>) {
        let Some(Arbitration { old: Some(old), new, heard, entered, .. }) = self.arbitrations.remove(&key) else {
            return;
        };
        self.stats.duplicates += 1;
        if self.duplicates.len() < MAX_ARBITRATIONS {
            self.duplicates.insert(key, step.now_ms + DUPLICATE_MS);
        }
        let reason = if old.owner == Owner::Local { Reason::IpIsHere } else { Reason::IpIsThere };
        step.refuse(&new, reason, key, Some((old.mac, old.owner)));
        let given = self.entries.get(&key).map(|entry| entry.given.clone()).unwrap_or_default();
        if entered {
            self.enter(key, &old, Evidence::Checked, step);
        }
        self.set_right(key, &old, heard, &given, step);
        self.tell_truth(key, old, step);
        self.questions.hurry(&key, step.now_ms, &mut self.timers);
    }

    /// Somebody has answered for an address that a peer claimed unasked.
    fn object(&mut self, key: Key, holder: Word, step: &mut Step<'_>) {
        let Some(Arbitration { new, heard, .. }) = self.arbitrations.remove(&key) else { return };
        self.stats.duplicates += 1;
        let reason = if holder.owner == Owner::Local { Reason::IpIsHere } else { Reason::IpIsThere };
        step.refuse(&new, reason, key, Some((holder.mac, holder.owner)));
        let given = self.entries.remove(&key).map(|entry| entry.given).unwrap_or_default();
        self.enter(key, &holder, Evidence::Checked, step);
        self.set_right(key, &holder, heard, &given, step);
        self.tell_truth(key, holder, step);
    }

    /// The others have heard the newcomer of an address of this side as well. Not for each time: if the address has a living
    /// holder behind two gateways, each would answer the other without end.
    fn tell_truth(&mut self, key: Key, holder: Word, step: &mut Step<'_>) {
        let before = self.truths.get(&key).copied();
        let due = before.is_none_or(|at| at + TRUTH_MS <= step.now_ms);
        if holder.owner == Owner::Local && due && (before.is_some() || self.truths.len() < MAX_ARBITRATIONS) {
            self.truths.insert(key, step.now_ms);
            self.announce(key, Word { announcement: Some(Announcement::Reply), frame: None, ..holder }, step);
        }
    }

    /// The holder is silent: the address is where the newcomer says.
    fn grant(&mut self, key: Key, step: &mut Step<'_>) {
        let Some(Arbitration { old, new, entered, heard, question, .. }) = self.arbitrations.remove(&key) else {
            return;
        };
        if entered {
            return;
        }
        let given = self.entries.get(&key).map(|entry| entry.given.clone()).unwrap_or_default();
        let unknown = old.is_none();
        if old.is_some_and(|old| old.owner == Owner::Local) {
            self.stats.gone += 1;
        }
        self.entries.remove(&key);
        // Of what was unknown this segment has been asked, and nobody else.
        let evidence = if unknown { Evidence::Unasked } else { Evidence::Checked };
        if self.enter(key, &new, evidence, step) == Learned::Refused {
            return;
        }
        if new.owner == Owner::Local {
            self.announce(key, Word { announcement: Some(Announcement::Reply), frame: None, ..new.clone() }, step);
        } else if !heard {
            self.repeat(key, &new, step);
        }
        self.set_right(key, &new, false, &given, step);
        self.give_answer(key, &new, step);
        self.put_for(&new, question, step);
    }

    /// The gateway of the holder says that it is gone: the newcomer has the address.
    pub(super) fn yielded(&mut self, key: Key, peer: PeerId, step: &mut Step<'_>) {
        let of_peer =
            |arbitration: &Arbitration| arbitration.old.as_ref().is_some_and(|old| old.owner == Owner::Peer(peer));
        if self.arbitrations.get(&key).is_some_and(of_peer) {
            self.grant(key, step);
        }
    }

    /// Whoever has heard something else of an address hears what is right: all, or those who were given it.
    pub(super) fn set_right(
        &mut self,
        key: Key,
        word: &Word,
        all: bool,
        given: &[(Speaker, MacAddr, u64)],
        step: &mut Step<'_>,
    ) {
        let flags = Flags { overrides: true, ..word.flags.unwrap_or(Flags::OF_ARP) };
        // Not from the MAC that is named: if it is on this side, the bridge would take it for ours.
        let path = |dst| Path { src: self.own_mac, dst, vlan: key.vlan };
        let frame = |dst| speech::announcement(key.ip, word.mac, flags, Announcement::Request, path(dst));
        if all {
            self.stats.corrections += 1;
            step.inject(frame(MacAddr::BROADCAST));
            // Once more: a host may hear it before what it sets right, which came another way.
            if self.repeats.len() < MAX_ARBITRATIONS && self.repeats.insert(key, word.mac).is_none() {
                self.timers.push(step.now_ms + SAY_AGAIN_MS, Timer::SetRight(key));
            }
            return;
        }
        for (_, station, _) in given {
            self.stats.corrections += 1;
            step.inject(frame(*station));
        }
    }

    /// Says once more what is right, if it still is.
    pub(super) fn say_again(&mut self, key: Key, step: &mut Step<'_>) {
        let Some(mac) = self.repeats.remove(&key) else { return };
        let Some(entry) = self.entries.get(&key).filter(|entry| entry.mac == mac) else { return };
        let flags = Flags { overrides: true, ..entry.flags };
        let path = Path { src: self.own_mac, dst: MacAddr::BROADCAST, vlan: key.vlan };
        step.inject(speech::announcement(key.ip, mac, flags, Announcement::Request, path));
    }

    /// Nobody on this side was asked whether it has an address that was learned by the way.
    pub(super) fn check_segment(&mut self, key: Key, step: &mut Step<'_>) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return self.ask_station(key, None, 0, step);
        };
        let new = entry.word();
        if !self.arbitrations.contains_key(&key) && self.arbitrations.len() < MAX_ARBITRATIONS {
            let (asked, since_ms) = (0, step.now_ms);
            let next_ms = since_ms;
            let (entered, heard, question) = (true, false, None);
            let arbitration = Arbitration { old: None, new, entered, heard, question, asked, since_ms, next_ms };
            self.arbitrations.insert(key, arbitration);
            entry.checked = true;
            self.arbitrate(key, step);
        }
    }
}
