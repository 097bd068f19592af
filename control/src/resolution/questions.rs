//! What stations of this side want to know: questions that peers are asked, one station after the other.

use std::collections::VecDeque;

use ipop_dataplane::mac_table::MacEntry;

use super::*;

/// Time for the peers to answer before they are asked again, once, in case something was lost.
pub(super) const RETRY_MS: u64 = 400;
/// Time for the one gateway that is known to have the address.
const CONFIRM_MS: u64 = 250;
/// A station that repeats its question after so long is asked for again.
const AGAIN_MS: u64 = 500;
/// How long an answer is waited for after the last question; then the address counts as unanswered.
pub(super) const PATIENCE_MS: u64 = 1500;
/// For how long it is remembered that nobody answered.
const REMEMBER_MS: u64 = 60_000;
/// Questions to peers per second, all stations together, and of one station; no more than a peer puts to its segment. What is
/// more waits for its turn.
pub(super) const RPC_RATE: u64 = 1000;
pub(super) const ASKER_RATE: u64 = 500;
/// Questions of one station that wait; it repeats what finds no place.
const MAX_WAITING: usize = 1024;
const MAX_ASKERS: usize = 32;
/// The part of "arp_fresh" (3 of 10) for which a holder is silent before its gateway is asked whether what was told from the
/// table is still true.
const QUIET: (u64, u64) = (3, 10);
/// Between two looks at what waits.
const PUMP_MS: u64 = 10;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) speaker: Speaker,
    /// The Ethernet source of the question, to which the answer goes.
    pub(super) station: MacAddr,
    pub(super) owed: Owed,
}

/// What an asker gets when somebody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    /// The answer.
    Answer,
    /// It was given a wrong one from the table, and hears the right one as an announcement, which alone replaces it.
    Correction,
    /// It has its answer from the table, and hears no more unless that was wrong.
    Nothing,
}

/// Whom a question waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its turn.
    Queued,
    /// A station of this side, which is being verified.
    Verified,
    /// The gateway that is known to have the address.
    Holder(PeerId),
    /// Everybody.
    All,
}

#[derive(Debug)]
struct Question {
    pending: Pending,
    stage: Stage,
    /// When it last began to wait for its turn.
    queued_ms: u64,
    /// It has been repeated, or is not to be.
    repeated: bool,
    askers: Vec<Asker>,
    /// As the first of them has asked.
    frame: Option<Box<[u8]>>,
}

/// The queue of one station.
#[derive(Debug)]
struct Queue {
    keys: VecDeque<Key>,
    rate: RateLimit,
    used_ms: u64,
}

/// Questions under way.
#[derive(Debug)]
pub(super) struct Questions {
    map: HashMap<Key, Question>,
    unanswered: HashMap<Key, Unanswered>,
    queues: HashMap<MacKey, Queue>,
    /// Stations with something in their queue, in the order of their turns.
    turns: VecDeque<MacKey>,
    rate: RateLimit,
}

impl Default for Questions {
    fn default() -> Self {
        Questions {
            map: HashMap::new(),
            unanswered: HashMap::new(),
            queues: HashMap::new(),
            turns: VecDeque::new(),
            rate: RateLimit::new(RPC_RATE),
        }
    }
}

impl Questions {
    pub(super) fn pending(&self) -> impl Iterator<Item = (&Key, &Pending, usize)> {
        self.map.iter().map(|(key, question)| (key, &question.pending, question.askers.len()))
    }

    pub(super) fn unanswered(&self) -> impl Iterator<Item = (&Key, &Unanswered)> {
        self.unanswered.iter()
    }

    pub(super) fn is_waiting(&self, key: &Key) -> bool {
        self.map.contains_key(key)
    }

    /// Somebody has answered, and everyone who asked is given that.
    pub(super) fn answered(&mut self, key: &Key) -> Vec<Asker> {
        self.unanswered.remove(key);
        self.map.remove(key).map(|question| question.askers).unwrap_or_default()
    }

    /// What nobody answered for may be there now.
    pub(super) fn forgive(&mut self) {
        self.unanswered.clear();
    }

    /// A peer is gone: what only it was asked is asked of all, soon.
    pub(super) fn ask_all(&mut self, peer: PeerId, now_ms: u64, timers: &mut Deadlines<Timer>) {
        for (key, question) in self.map.iter_mut().filter(|(_, question)| question.stage == Stage::Holder(peer)) {
            question.pending.next_ms = now_ms;
            timers.push(now_ms, Timer::Pending(*key));
        }
    }

    /// The time has come for what waits for this address.
    pub(super) fn hurry(&mut self, key: &Key, now_ms: u64, timers: &mut Deadlines<Timer>) {
        if let Some(question) = self.map.get_mut(key)
            && matches!(question.stage, Stage::Holder(_) | Stage::Verified)
        {
            question.pending.next_ms = now_ms;
            timers.push(now_ms, Timer::Pending(*key));
        }
    }

    pub(super) fn sweep(&mut self, now_ms: u64) {
        self.unanswered.retain(|_, unanswered| unanswered.until_ms > now_ms);
        self.queues.retain(|_, queue| !queue.keys.is_empty() || queue.used_ms + 1000 > now_ms);
    }
}

impl Resolver {
    /// A station asks everyone for an address.
    pub(super) fn asked(&mut self, key: Key, asker: Asker, frame: Option<Box<[u8]>>, step: &mut Step<'_>) {
        let now = step.now_ms;
        // A question that nobody waits for, because the table has answered, is not in the way of that.
        let fresh = self.entries.get(&key).is_some_and(|entry| now - entry.learned_ms <= self.fresh_ms);
        let waited_for =
            |question: &&mut Question| !fresh || question.askers.iter().any(|asker| asker.owed != Owed::Nothing);
        if let Some(question) = self.questions.map.get_mut(&key).filter(waited_for) {
            self.stats.joined += 1;
            if question.askers.len() < MAX_ASKERS
                && !question.askers.iter().any(|known| known.station == asker.station && known.speaker == asker.speaker)
            {
                question.askers.push(asker);
            }
            // Its own repetition, as on a bridge.
            if question.stage == Stage::All && question.queued_ms + AGAIN_MS <= now {
                // In its own name: whoever asked first may be one that nobody answers.
                question.askers.retain(|known| (known.station, known.speaker) != (asker.station, asker.speaker));
                question.askers.insert(0, asker);
                question.frame = frame;
                self.enqueue(key, asker, step);
            }
            return;
        }
        let station = MacKey::new(key.vlan, asker.station);
        let stage = match self.entries.get_mut(&key).filter(|entry| entry.expires_ms > now) {
            // Never the asker's own address: that it asks means that something has changed.
            Some(entry) if entry.mac == asker.speaker.mac => Stage::Queued,
            Some(entry) => {
                let age_ms = now - entry.learned_ms;
                match entry.owner {
                    // One that has just come here waits until everybody knows: what it sends to the address would be answered
                    // to where it was.
                    Owner::Peer(_) if age_ms <= self.fresh_ms && !step.macs.is_provisional(station) => {
                        return self.answer_locally(key, asker, frame, step);
                    }
                    Owner::Peer(peer) => {
                        Stage::Holder(match step.macs.table().lookup(MacKey::new(key.vlan, entry.mac)) {
                            Some(MacEntry { owner: Owner::Peer(holder), .. }) => holder,
                            _ => peer,
                        })
                    }
                    Owner::Local => {
                        let before = entry.asked.replace((asker.station, now)).filter(|(_, at)| now - at <= REPEAT_MS);
                        if before.is_some_and(|(mac, _)| mac == asker.station) {
                            Stage::Queued
                        } else if before.is_none() && age_ms <= self.fresh_ms {
                            self.stats.left_to_owner += 1;
                            return;
                        } else {
                            // Several who ask, or nobody who spoke of late: the owner is popular, or gone. It will tell.
                            self.stats.left_to_owner += 1;
                            self.start_verification(key, 0, step);
                            Stage::Verified
                        }
                    }
                }
            }
            None => Stage::Queued,
        };
        if step.peers_up == 0 || !self.has_place() {
            self.stats.not_asked += 1;
            return;
        }
        let pending = Pending { since_ms: now, tries: 0, next_ms: u64::MAX };
        self.questions
            .map
            .insert(key, Question { pending, stage, queued_ms: now, repeated: false, askers: vec![asker], frame });
        match stage {
            Stage::Holder(peer) => {
                self.stats.confirmed += 1;
                self.send_question(key, To::Peer(peer), step);
                self.next_step(key, now + CONFIRM_MS);
            }
            Stage::Verified => self.next_step(key, now + VERIFY_QUICKLY_MS * u64::from(VERIFY_TRIES + 1)),
            Stage::Queued | Stage::All => self.enqueue(key, asker, step),
        }
    }

    /// An answer from the table. Its gateway is asked whether it is still true as soon as the holder has been quiet for a
    /// while, so that nobody is left for long with an answer that has become wrong.
    fn answer_locally(&mut self, key: Key, asker: Asker, frame: Option<Box<[u8]>>, step: &mut Step<'_>) {
        const MAX_GIVEN: usize = 16;
        let now = step.now_ms;
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.given.retain(|(_, station, at)| *station != asker.station && now - at < 30_000);
        if entry.given.len() >= MAX_GIVEN {
            entry.given.remove(0);
        }
        entry.given.push((asker.speaker, asker.station, now));
        let (mac, station, flags, checked, hearsay) =
            (entry.mac, entry.station, entry.flags, entry.checked, entry.hearsay);
        if !entry.confirming {
            entry.confirming = true;
            let due_ms = entry.learned_ms + self.fresh_ms * QUIET.0 / QUIET.1;
            self.timers.push(due_ms.max(now + JUST_NOW_MS), Timer::Confirm(key));
        }
        let path = Path { src: self.source_for(key.vlan, station, step), dst: asker.station, vlan: key.vlan };
        self.stats.answered_locally += 1;
        step.inject(speech::answer(key.ip, mac, flags, asker.speaker, path));
        if hearsay && !self.questions.map.contains_key(&key) && !self.questions.unanswered.contains_key(&key) {
            // Whoever says otherwise is heard: all are asked once, as for an address of which nothing is known.
            self.ask_all_in_the_name_of(key, asker, frame, step);
        }
        if !checked {
            self.check_segment(key, step);
        }
    }

    fn ask_all_in_the_name_of(&mut self, key: Key, asker: Asker, frame: Option<Box<[u8]>>, step: &mut Step<'_>) {
        let now = step.now_ms;
        if step.peers_up == 0 || !self.has_place() {
            self.stats.not_asked += 1;
            return;
        }
        let pending = Pending { since_ms: now, tries: 0, next_ms: u64::MAX };
        let (stage, repeated, askers) = (Stage::Queued, true, vec![Asker { owed: Owed::Nothing, ..asker }]);
        self.questions.map.insert(key, Question { pending, stage, queued_ms: now, repeated, askers, frame });
        self.enqueue(key, asker, step);
    }

    /// The holder of an address that was told from the table has been quiet for a while: its gateway is asked.
    pub(super) fn confirm(&mut self, key: Key, step: &mut Step<'_>) {
        let now = step.now_ms;
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.confirming) else { return };
        let due_ms = entry.learned_ms + self.fresh_ms * QUIET.0 / QUIET.1;
        if due_ms > now {
            return self.timers.push(due_ms, Timer::Confirm(key));
        }
        entry.confirming = false;
        let (mac, owner) = (entry.mac, entry.owner);
        if let Owner::Peer(peer) = self.place_of(key.vlan, mac, step).filter(|at| *at != Owner::Local).unwrap_or(owner)
        {
            self.query(key, mac, peer, step);
        }
    }

    /// Puts a question into the queue of its station, and asks at once if nothing is before it.
    fn enqueue(&mut self, key: Key, asker: Asker, step: &mut Step<'_>) {
        let now = step.now_ms;
        let station = MacKey::new(key.vlan, asker.station);
        if self.questions.queues.len() >= MAX_PENDING && !self.questions.queues.contains_key(&station) {
            return self.drop_question(key);
        }
        let queue = self.questions.queues.entry(station).or_insert_with(|| Queue {
            keys: VecDeque::new(),
            rate: RateLimit::new(ASKER_RATE),
            used_ms: now,
        });
        queue.used_ms = now;
        if queue.keys.len() >= MAX_WAITING {
            return self.drop_question(key);
        }
        queue.keys.push_back(key);
        if let Some(question) = self.questions.map.get_mut(&key) {
            question.queued_ms = now;
        }
        if queue.keys.len() == 1 {
            self.questions.turns.push_back(station);
        }
        self.pump_questions(step);
        if self.questions.map.get(&key).is_some_and(|question| question.pending.tries == 0) {
            self.stats.queued += 1;
        }
    }

    /// Whether one more question can be under way. If not, the station with most of them waiting makes room.
    fn has_place(&mut self) -> bool {
        if self.questions.map.len() < MAX_PENDING {
            return true;
        }
        let longest = self.questions.queues.values_mut().max_by_key(|queue| queue.keys.len());
        let Some(key) = longest.filter(|queue| queue.keys.len() > 1).and_then(|queue| queue.keys.pop_back()) else {
            return false;
        };
        self.drop_question(key);
        self.questions.map.len() < MAX_PENDING
    }

    /// One that was never asked is forgotten; its station asks again.
    fn drop_question(&mut self, key: Key) {
        self.stats.not_asked += 1;
        if self.questions.map.get(&key).is_some_and(|question| question.pending.tries == 0) {
            self.questions.map.remove(&key);
        }
    }

    /// Asks what waits for its turn, station by station, as far as the rates allow.
    pub(super) fn pump_questions(&mut self, step: &mut Step<'_>) {
        let now = step.now_ms;
        let mut held = 0;
        while held < self.questions.turns.len() {
            let Some(station) = self.questions.turns.pop_front() else { break };
            let Some(queue) = self.questions.queues.get_mut(&station) else { continue };
            if queue.keys.is_empty() {
                continue;
            }
            if !queue.rate.allow(now) {
                self.questions.turns.push_back(station);
                held += 1;
                continue;
            }
            if !self.questions.rate.allow(now) {
                self.questions.turns.push_front(station);
                break;
            }
            let key = queue.keys.pop_front();
            queue.used_ms = now;
            if !queue.keys.is_empty() {
                self.questions.turns.push_back(station);
            }
            if let Some(key) = key {
                self.ask_everybody(key, step);
            }
        }
        if !self.questions.turns.is_empty() {
            self.timers.push(now + PUMP_MS, Timer::Pump);
        }
    }

    fn ask_everybody(&mut self, key: Key, step: &mut Step<'_>) {
        let now = step.now_ms;
        let Some(question) = self.questions.map.get_mut(&key) else { return };
        question.stage = Stage::All;
        question.pending.tries += 1;
        // Of those that nobody answers for only the station's own questions are sent.
        question.repeated |= self.questions.unanswered.contains_key(&key);
        let first = !question.repeated;
        self.send_question(key, To::All, step);
        self.next_step(key, now + if first { RETRY_MS } else { PATIENCE_MS });
    }

    fn next_step(&mut self, key: Key, at_ms: u64) {
        if let Some(question) = self.questions.map.get_mut(&key) {
            question.pending.next_ms = at_ms;
            self.timers.push(at_ms, Timer::Pending(key));
        }
    }

    /// The time of a question has come: it is asked of all, asked again, or given up.
    pub(super) fn retry(&mut self, key: Key, step: &mut Step<'_>) {
        let now = step.now_ms;
        let Some(question) = self.questions.map.get_mut(&key).filter(|question| question.pending.next_ms <= now) else {
            return;
        };
        let asker = question.askers.first().copied();
        match (question.stage, asker) {
            (Stage::Holder(_) | Stage::Verified, Some(asker)) => {
                question.pending.next_ms = u64::MAX;
                question.pending.tries = 0;
                question.stage = Stage::Queued;
                self.enqueue(key, asker, step);
            }
            (Stage::All, Some(asker)) if !question.repeated => {
                question.repeated = true;
                if question.askers.len() > 1 {
                    question.askers.rotate_left(1);
                    let next = question.askers.first().copied().unwrap_or(asker);
                    question.frame = Some(speech::question(key.ip, next.speaker, next.station, key.vlan).into());
                }
                self.next_step(key, now + PATIENCE_MS);
                // One that asks for very many repeats itself if it wants to.
                let queue = self.questions.queues.get(&MacKey::new(key.vlan, asker.station));
                if queue.is_none_or(|queue| queue.keys.is_empty()) {
                    self.enqueue(key, asker, step);
                }
            }
            (Stage::Queued, Some(_)) => {}
            _ => {
                self.questions.map.remove(&key);
                self.stats.unanswered += 1;
                let failures = self.questions.unanswered.get(&key).map_or(0, |unanswered| unanswered.failures) + 1;
                if self.questions.unanswered.len() < MAX_PENDING {
                    self.questions.unanswered.insert(key, Unanswered { failures, until_ms: now + REMEMBER_MS });
                }
            }
        }
    }

    /// The `arp_request` of a question, in the name of who asked first.
    fn send_question(&mut self, key: Key, to: To, step: &mut Step<'_>) {
        let Some(question) = self.questions.map.get(&key) else { return };
        let Some(asker) = question.askers.first().copied() else { return };
        let frame = question.frame.clone();
        self.ask_peers(to, key, asker.speaker, asker.station, frame, step);
    }

    /// A question of a station to peers.
    pub(super) fn ask_peers(
        &mut self,
        to: To,
        key: Key,
        asker: Speaker,
        station: MacAddr,
        frame: Option<Box<[u8]>>,
        step: &mut Step<'_>,
    ) {
        self.stats.rpc_requests_sent += 1;
        let seq = step.macs.moves(key.vlan, station);
        // The asker's own entry travels with the request: peers know it from now on.
        if let Some(ip) = asker.ip {
            self.told(Key { vlan: key.vlan, ip }, step.now_ms);
        }
        let request = Request { target: key.ip, asker: asker.ip, asker_mac: asker.mac, vlan: key.vlan, seq, frame };
        step.send(to, Message::Request(request));
    }

    /// Somebody was given a wrong answer from the table, and nobody says what is right: it is looked for in its name.
    pub(super) fn look_for(&mut self, key: Key, given: &[(Speaker, MacAddr, u64)], step: &mut Step<'_>) {
        for (speaker, station, _) in given {
            let frame = speech::question(key.ip, *speaker, *station, key.vlan);
            let asker = Asker { speaker: *speaker, station: *station, owed: Owed::Correction };
            self.asked(key, asker, Some(frame.into()), step);
        }
        if !given.is_empty() {
            self.check_segment(key, step);
        }
    }
}
