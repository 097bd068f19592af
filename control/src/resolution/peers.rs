//! What peers say: their questions, answers and claims.

use super::*;
use crate::resolution::arbitration::{Evidence, Learned};
use crate::resolution::questions::Owed;

/// A question that was put to the segment so short ago is not put again: its answer is for all.
const JOIN_MS: u64 = 200;
/// Networks for which a station behind peers is remembered.
const MAX_VOUCHERS: usize = 4096;

impl Resolver {
    /// A message from a peer. `claimant` is who a `mac_query` is about.
    pub fn from_peer(
        &mut self,
        peer: PeerId,
        message: &Message,
        claimant: Option<PeerId>,
        step: &mut Step<'_>,
    ) -> Result<(), Ending> {
        match message {
            Message::Request(request) => return self.peer_asks(peer, request, step),
            Message::Reply(reply) => return self.peer_replies(peer, reply, step),
            Message::Query(query) => self.peer_queries(peer, query, step),
            Message::Withdraw(withdraw) => self.peer_withdraws(peer, withdraw, step),
            Message::MacMoved(moved) => {
                self.stats.rpc_moves_received += 1;
                let key = MacKey::new(moved.vlan, moved.mac);
                let claim = step.macs.told(key, peer, moved.seq, step.now_ms, step.out);
                self.help(key, claim, step);
            }
            Message::MacReleased(MacMoved { mac, vlan, seq }) => {
                self.stats.rpc_moves_received += 1;
                let key = MacKey::new(*vlan, *mac);
                step.macs.released(key, peer, *seq, step.now_ms, step.out);
                self.follow(key, step);
            }
            Message::MacQuery(MacQuery { mac, vlan, seq, .. }) => {
                self.stats.rpc_moves_received += 1;
                let key = MacKey::new(*vlan, *mac);
                let claim = step.macs.asked_by(key, peer, claimant, *seq, step.now_ms, step.out);
                self.help(key, claim, step);
            }
            Message::Probe(_) | Message::ProbeReply(_) | Message::KeyInUse(_) | Message::Bye => {}
        }
        Ok(())
    }

    fn help(&mut self, key: MacKey, claim: Claim, step: &mut Step<'_>) {
        if claim == Claim::Contested {
            self.ask_for_life(key, step);
        }
    }

    fn peer_asks(&mut self, peer: PeerId, request: &Request, step: &mut Step<'_>) -> Result<(), Ending> {
        self.stats.rpc_requests_received += 1;
        let (vlan, mac) = (request.vlan, request.asker_mac);
        let expected = Heard::Question { target: request.target, asker: request.asker, asker_mac: mac };
        let source = self.source_of(request.frame.as_deref(), vlan, expected)?;
        // A probe is after its target; it has no address yet.
        let name = request.asker.unwrap_or(request.target);
        if !self.allow(peer, Key { vlan, ip: name }, mac, source, step) {
            return Ok(());
        }
        match source {
            Some(source) => {
                let place = MacKey::new(vlan, source);
                match self.claim(place, peer, request.seq, step) {
                    Claim::Disputed => {
                        // An answer would go to where it was.
                        self.postpone(place, peer, Message::Request(request.clone()), step);
                        return Ok(());
                    }
                    Claim::Contested | Claim::AtTest => {
                        // The bridge would take the source for ours, and draw its traffic here.
                        self.stats.asker_is_local += 1;
                        self.postpone(place, peer, Message::Request(request.clone()), step);
                        return Ok(());
                    }
                    Claim::Refused => return Ok(()),
                    Claim::Accepted => {}
                }
            }
            None if self.place_of(vlan, mac, step) == Some(Owner::Local) => {
                self.stats.asker_is_local += 1;
                return Ok(());
            }
            None => {}
        }
        let speaker = Speaker { ip: request.asker, mac };
        if let Some(ip) = request.asker {
            let word = Word {
                owner: Owner::Peer(peer),
                mac,
                station: source.unwrap_or(mac),
                flags: None,
                source: Source::RequestRpc,
                announcement: None,
                frame: None,
            };
            let name = Key { vlan, ip };
            match self.learn(name, word, Evidence::Unasked, step) {
                Learned::Refused => return Ok(()),
                // Stations learn from questions too, so none is put in the name of an address that is another's here.
                Learned::Waits if !self.is_believed(name, request) => return Ok(()),
                _ => {}
            }
            self.vouch(vlan, ip, source, speaker);
        }
        self.put_question(peer, Key { vlan, ip: request.target }, speaker, source, request.frame.as_deref(), step);
        Ok(())
    }

    /// The question that a newcomer has asked while the holder of its address was being asked.
    pub(super) fn put_held_question(&mut self, request: &Request, peer: PeerId, step: &mut Step<'_>) {
        let speaker = Speaker { ip: request.asker, mac: request.asker_mac };
        let frame = request.frame.as_deref();
        let source = frame.and_then(|frame| Frame::parse(frame).ok()).map(|frame| frame.src);
        self.put_question(peer, Key { vlan: request.vlan, ip: request.target }, speaker, source, frame, step);
    }

    /// Whether one more question may be put to the segment on account of a peer.
    pub(super) fn may_inject(&mut self, peer: PeerId, step: &Step<'_>) -> bool {
        let rate = self.inject_rates.entry(peer).or_insert_with(|| RateLimit::new(INJECT_RATE));
        let allowed = rate.allow(step.now_ms);
        self.stats.rate_limited += u64::from(!allowed);
        allowed
    }

    /// Puts a question of a peer to our segment, as the asker has sent it. One that was put just now is not put again.
    fn put_question(
        &mut self,
        peer: PeerId,
        key: Key,
        asker: Speaker,
        source: Option<MacAddr>,
        frame: Option<&[u8]>,
        step: &mut Step<'_>,
    ) {
        let now = step.now_ms;
        let station = source.unwrap_or(asker.mac);
        let room = self.injected.len() < MAX_PENDING;
        let known = self.injected.get_mut(&(key, station));
        if let Some(injected) = known
            && asker.ip.is_some()
            && injected.at_ms + JOIN_MS > now
        {
            self.stats.joined += 1;
            if !injected.peers.contains(&peer) && injected.peers.len() < MAX_WAITING {
                injected.peers.push(peer);
            }
            return;
        }
        if !self.may_inject(peer, step) {
            return;
        }
        if room || self.injected.contains_key(&(key, station)) {
            let injected = self.injected.entry((key, station)).or_insert_with(|| Injected {
                expected: 0,
                at_ms: now,
                peers: Vec::new(),
            });
            injected.expected += 1;
            injected.at_ms = now;
            if !injected.peers.contains(&peer) && injected.peers.len() < MAX_WAITING {
                injected.peers.push(peer);
            }
        }
        self.stats.requests_injected += 1;
        let made = || speech::question(key.ip, asker, self.source_for(key.vlan, asker.mac, step), key.vlan);
        let frame = frame.map_or_else(made, <[u8]>::to_vec);
        step.inject(frame);
        // If the station that is known does not answer, its address goes to whoever does, and peers hear that it is gone.
        let old = |entry: &Entry| entry.owner == Owner::Local && entry.learned_ms + JUST_NOW_MS < now;
        if asker.ip.is_some() && self.entries.get(&key).is_some_and(old) {
            self.start_verification(key, PATIENCE_MS, step);
        }
    }

    fn peer_replies(&mut self, peer: PeerId, reply: &Reply, step: &mut Step<'_>) -> Result<(), Ending> {
        self.stats.rpc_replies_received += 1;
        let key = Key { vlan: reply.vlan, ip: reply.target };
        let flags = Flags { router: reply.router, overrides: reply.overrides };
        let expected = match reply.announcement {
            Some(how) => Heard::Announced { ip: key.ip, mac: reply.mac, flags, how },
            None => Heard::Answer { ip: key.ip, mac: reply.mac, flags },
        };
        let source = self.source_of(reply.frame.as_deref(), key.vlan, expected)?;
        if !self.allow(peer, key, reply.mac, source, step) {
            return Ok(());
        }
        if let Some(source) = source {
            let place = MacKey::new(key.vlan, source);
            match self.claim(place, peer, reply.seq, step) {
                Claim::Contested | Claim::AtTest | Claim::Disputed => {
                    self.postpone(place, peer, Message::Reply(reply.clone()), step);
                    return Ok(());
                }
                Claim::Refused => return Ok(()),
                Claim::Accepted => {}
            }
        }
        let word = Word {
            owner: Owner::Peer(peer),
            mac: reply.mac,
            station: source.unwrap_or(reply.mac),
            flags: Some(flags),
            source: Source::ReplyRpc,
            announcement: reply.announcement,
            frame: reply.frame.clone(),
        };
        if let Some(mac) = reply.asker_mac
            && self.probing.remove(&(key, mac)).is_some()
        {
            self.stats.replies_injected += 1;
            let path = Path { src: self.source_for(key.vlan, word.station, step), dst: mac, vlan: key.vlan };
            let made = || speech::answer(key.ip, word.mac, flags, Speaker { ip: None, mac }, path);
            let frame = word.frame.as_deref().map_or_else(made, <[u8]>::to_vec);
            step.inject(frame);
        }
        let asked = reply.asker_mac.is_some_and(|mac| self.injected.contains_key(&(key, mac)));
        let evidence = match reply.announcement {
            // We have asked this segment for a peer, and nobody has answered.
            _ if asked => Evidence::Checked,
            None if self.questions.is_waiting(&key) => Evidence::Asked,
            _ => Evidence::Unasked,
        };
        match self.learn(key, word.clone(), evidence, step) {
            // Nobody here hears of it before the holder has had its say.
            Learned::Waits | Learned::Refused => return Ok(()),
            Learned::Known | Learned::Changed => {
                if let Some(source) = source.filter(|_| reply.announcement.is_none()) {
                    step.macs.proved(MacKey::new(key.vlan, source));
                }
                self.give_answer(key, &word, step);
            }
            Learned::Kept | Learned::Ignored => {}
        }
        self.repeat(key, &word, step);
        Ok(())
    }

    /// Everyone who waits for an address gets it: the one whom the owner has answered by that frame, the others by one that
    /// says the same.
    pub(super) fn give_answer(&mut self, key: Key, word: &Word, step: &mut Step<'_>) {
        let frame = word.frame.as_deref().filter(|_| word.announcement.is_none());
        let to = frame.and_then(|frame| Frame::parse(frame).ok()).map(|frame| frame.dst);
        let flags = word.flags.unwrap_or(Flags::OF_ARP);
        for asker in self.questions.answered(&key) {
            match asker.owed {
                Owed::Answer => self.stats.replies_injected += 1,
                Owed::Correction => {
                    self.set_right(key, word, false, &[(asker.speaker, asker.station, step.now_ms)], step);
                    continue;
                }
                Owed::Nothing => continue,
            }
            let path = Path { src: self.source_for(key.vlan, word.station, step), dst: asker.station, vlan: key.vlan };
            let own = frame.filter(|_| to == Some(asker.station)).map(<[u8]>::to_vec);
            step.inject(own.unwrap_or_else(|| speech::answer(key.ip, word.mac, flags, asker.speaker, path)));
        }
    }

    /// Lets our segment hear what a peer has announced.
    pub(super) fn repeat(&mut self, key: Key, word: &Word, step: &mut Step<'_>) {
        let Some(how) = word.announcement else { return };
        self.stats.announcements_injected += 1;
        self.newcomer_is_heard(key, word);
        let path = Path { src: self.source_for(key.vlan, word.station, step), dst: MacAddr::BROADCAST, vlan: key.vlan };
        let flags = word.flags.unwrap_or(Flags::OF_ARP);
        let made = || speech::announcement(key.ip, word.mac, flags, how, path);
        let frame = word.frame.as_deref().map_or_else(made, <[u8]>::to_vec);
        step.inject(frame);
    }

    /// A peer asks whether an address is still here.
    fn peer_queries(&mut self, peer: PeerId, query: &Withdraw, step: &mut Step<'_>) {
        self.stats.rpc_queries_received += 1;
        let key = Key { vlan: query.vlan, ip: query.target };
        let known = self.entries.get(&key).filter(|entry| entry.owner == Owner::Local);
        match known.map(|entry| (entry.learned_ms, self.arbitrations.contains_key(&key))) {
            None => {
                self.stats.rpc_withdraws_sent += 1;
                step.send(To::Peer(peer), Message::Withdraw(*query));
            }
            Some((learned_ms, false)) if learned_ms + JUST_NOW_MS >= step.now_ms => {
                self.tell_waiting(key, &[peer], step);
            }
            Some(_) => {
                let peers = self.waiting.entry(key).or_default();
                if peers.len() <= MAX_WAITING && !peers.contains(&peer) {
                    peers.push(peer);
                }
                self.start_verification(key, 0, step);
            }
        }
    }

    /// The address is here: whoever asked hears it.
    pub(super) fn tell_waiting(&mut self, key: Key, peers: &[PeerId], step: &mut Step<'_>) {
        let Some(word) = self.word_of(key) else { return };
        if peers.len() > MAX_WAITING {
            return self.send_word(To::All, key, &word, None, step);
        }
        for peer in peers {
            self.send_word(To::Peer(*peer), key, &word, None, step);
        }
    }

    fn peer_withdraws(&mut self, peer: PeerId, withdraw: &Withdraw, step: &mut Step<'_>) {
        self.stats.rpc_withdraws_received += 1;
        let key = Key { vlan: withdraw.vlan, ip: withdraw.target };
        self.yielded(key, peer, step);
        if self.entries.get(&key).is_some_and(|e| e.owner == Owner::Peer(peer) && e.mac == withdraw.mac) {
            let given = self.entries.remove(&key).map(|entry| entry.given).unwrap_or_default();
            self.stats.withdrawn += 1;
            self.look_for(key, &given, step);
        }
        self.questions.hurry(&key, step.now_ms, &mut self.timers);
    }

    /// Asks a peer whether its station still has an address.
    pub(super) fn query(&mut self, key: Key, mac: MacAddr, peer: PeerId, step: &mut Step<'_>) {
        self.stats.rpc_queries_sent += 1;
        step.send(To::Peer(peer), Message::Query(Withdraw { target: key.ip, mac, vlan: key.vlan }));
    }

    /// The Ethernet source of the frame in a message, which must say what the message says, and be one that a station sends.
    fn source_of(&self, frame: Option<&[u8]>, vlan: Vlan, expected: Heard) -> Result<Option<MacAddr>, Ending> {
        let Some(bytes) = frame else { return Ok(None) };
        let frame = Frame::parse(bytes).map_err(|_| Ending::RpcRefused)?;
        let heard = Heard::parse(&frame, false).map_err(|_| Ending::RpcRefused)?;
        let question = matches!(expected, Heard::Question { .. });
        let good = frame.vlan == vlan
            && frame.is_plain()
            && frame.src.is_station()
            && heard == expected
            && (!question || frame.dst.is_group());
        if good { Ok(Some(frame.src)) } else { Err(Ending::RpcRefused) }
    }

    /// Whether a peer may say this of an address and a MAC, and send from that source.
    fn allow(&self, peer: PeerId, key: Key, mac: MacAddr, source: Option<MacAddr>, step: &mut Step<'_>) -> bool {
        let limits = &self.entries.limits;
        let reason = if !limits.allow_ip(peer, key.ip) {
            Reason::IpNotAllowed
        } else if !limits.allow_mac(peer, mac) || source.is_some_and(|source| !limits.allow_mac(peer, source)) {
            Reason::MacNotAllowed
        } else {
            return true;
        };
        let who = Owner::Peer(peer);
        step.out.push(Action::Refuse(Refusal { who, reason, mac, ip: Some(key.ip), holder: None }));
        false
    }

    /// The addresses of a MAC that has moved from one peer to another move with it, and the peer is listened to.
    pub(super) fn follow(&mut self, mac: MacKey, step: &mut Step<'_>) {
        let Some(Owner::Peer(peer)) = self.place_of(mac.vlan(), mac.mac(), step) else { return };
        for key in self.entries.of_mac(mac, usize::MAX) {
            if self.entries.get(&key).is_some_and(|entry| !matches!(entry.owner, Owner::Local)) {
                self.entries.hand_over(key, peer);
            }
        }
        self.listen(mac, peer, step);
    }

    /// What a peer has said in the name of a MAC that is its own now.
    fn listen(&mut self, mac: MacKey, peer: PeerId, step: &mut Step<'_>) {
        if let Some((speaker, message)) = self.postponed.remove(&mac)
            && speaker == peer
        {
            // It was read when it came.
            let _ = self.from_peer(peer, &message, None, step);
        }
    }

    /// A host drops questions from addresses to which it has no route (`rp_filter`), so one that does not answer a gateway's
    /// own question is asked once in the name of a station of its network, whose answers come to our port anyway.
    fn vouch(&mut self, vlan: Vlan, ip: IpAddr, source: Option<MacAddr>, speaker: Speaker) {
        let IpAddr::V4(ip) = ip else { return };
        let [a, b, c, _] = ip.octets();
        if source == Some(speaker.mac)
            && (self.vouchers.len() < MAX_VOUCHERS || self.vouchers.contains_key(&(vlan, [a, b, c])))
        {
            self.vouchers.insert((vlan, [a, b, c]), speaker);
        }
    }

    fn claim(&mut self, key: MacKey, peer: PeerId, seq: u16, step: &mut Step<'_>) -> Claim {
        let claim = step.macs.claim(key, peer, seq, step.now_ms, step.out);
        self.help(key, claim, step);
        claim
    }

    /// Keeps what a peer says in the name of a MAC that may not be its own, to be followed if it is.
    fn postpone(&mut self, key: MacKey, peer: PeerId, message: Message, step: &Step<'_>) {
        if step.macs.is_unsettled(key, peer) {
            self.postponed.insert(key, (peer, message));
        }
    }

    /// The tests whose time has come: what has moved takes its addresses along, and is listened to.
    pub(super) fn decide(&mut self, step: &mut Step<'_>) {
        while let Some(due) = step.macs.due(step.now_ms, step.out) {
            match due {
                Due::Ask(key) => self.ask_for_life(key, step),
                Due::Gone(key, peer) => {
                    self.entries.give(key, peer);
                    self.listen(key, peer, step);
                }
            }
        }
        self.postponed.retain(|key, (peer, _)| step.macs.is_unsettled(*key, *peer));
    }

    /// Asks a MAC of this side for a sign of life, at up to two of its addresses.
    pub(super) fn ask_for_life(&mut self, key: MacKey, step: &mut Step<'_>) {
        let local = |address: &Key| self.entries.get(address).is_some_and(|entry| entry.owner == Owner::Local);
        let addresses: Vec<Key> = self.entries.of_mac(key, 8).into_iter().filter(local).take(2).collect();
        let again = step.macs.is_asked_again(key);
        for address in &addresses {
            self.ask_station(*address, Some(key.mac()), u32::from(again), step);
        }
        if !addresses.is_empty() {
            step.macs.asked(key, step.now_ms);
        }
    }
}
