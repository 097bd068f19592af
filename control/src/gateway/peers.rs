//! The links to the peers: what comes in on them, and what changes when they come and go.

use ipop_dataplane::datagram::{HELLO, INITIATION};
use ipop_dataplane::event::Foreign;
use ipop_dataplane::session::Gate;

use super::throttle::About;
use super::troubles::{Refused, Why};
use super::*;
use crate::keys::PublicKey;
use crate::link::Outcome;
use crate::link::clear::Hello;
use crate::link::noise::Responder;
use crate::link::sealed::Unanswered;
use crate::link::trouble::Trouble;
use crate::rpc::MacQuery;

impl Gateway {
    pub(super) fn take_message(&mut self, peer: PeerId, bytes: &[u8], now_ms: u64) {
        let Some(link) = self.links.get_mut(peer.index()) else { return };
        let Some(message) = Message::parse(bytes).filter(|_| link.is_up()) else {
            return self.counters.add(Ending::RpcRefused, 1);
        };
        match message {
            Message::Bye => {
                let outcome = link.goodbye(now_ms);
                self.follow(peer, outcome, now_ms);
            }
            Message::KeyInUse(other) => self.own_key_is_used(peer, other, now_ms),
            Message::Probe(size) => self.send_message(peer, &Message::ProbeReply(size)),
            Message::ProbeReply(size) => {
                let changed = link.path.as_mut().is_some_and(|path| path.acknowledged(usize::from(size), now_ms));
                if changed {
                    let line = format!("path to {} carries {size} octets of UDP payload", link.name());
                    self.say(About::Path(peer), Level::INFO, line);
                    self.table_changed = true;
                }
            }
            message => {
                self.remember("received", peer_name(&self.links, peer), &message);
                let claimant = self.claimant(peer, &message);
                let result = self.step(now_ms, |resolver, step| resolver.from_peer(peer, &message, claimant, step));
                if let Err(ending) = result {
                    self.counters.add(ending, 1);
                }
            }
        }
    }

    /// Which peer a `mac_query` is about: the one with that uid, or the one that asks.
    fn claimant(&self, peer: PeerId, message: &Message) -> Option<PeerId> {
        match message {
            Message::MacQuery(MacQuery { claimant: Some(uid), .. }) => {
                let of_uid = |link: &&Link| link.identity().is_some_and(|(own, _)| own == *uid);
                self.links.iter().find(of_uid).map(Link::id)
            }
            _ => Some(peer),
        }
    }

    /// A datagram that opens a session, by its kind.
    pub(super) fn take_handshake(&mut self, from: SocketAddr, kind: u8, session: u32, body: &[u8], now_ms: u64) {
        let found = match kind {
            _ if (kind == HELLO) != self.config.identity.is_none() => Err(Refused::from(Trouble::Sec)),
            HELLO => self.take_hello(from, body, now_ms),
            INITIATION => self.take_initiation(from, body, now_ms),
            _ => self.take_response(session, body, from, now_ms),
        };
        match found {
            Ok((id, outcome)) => self.follow(id, outcome, now_ms),
            Err(Refused(ending, why)) => {
                self.counters.add(ending, 1);
                self.tell_refused(from, why, now_ms);
            }
        }
    }

    /// What opens a session, but was not made for this gateway.
    pub(super) fn take_foreign(&mut self, from: SocketAddr, foreign: Foreign, now_ms: u64) {
        let trouble = match foreign {
            Foreign::Version(version) => Trouble::Version(version),
            Foreign::Network(network) => Trouble::Network(network),
            Foreign::Key => Trouble::MadeForAnother,
        };
        self.tell_refused(from, Why::Trouble(None, trouble), now_ms);
    }

    fn take_hello(&mut self, from: SocketAddr, body: &[u8], now_ms: u64) -> Result<(PeerId, Outcome), Refused> {
        let hello = Hello::parse(body).ok_or(Refused::says("is no hello"))?;
        if hello.uid == self.identity.uid {
            // Our own hello names the link that it was sent for.
            let sent_to = peer_name(&self.links, PeerId(hello.session as u16));
            return Err(Refused::says(format!(
                "is this gateway's own: peer {sent_to} is this gateway itself; take it out of \"peers\""
            )));
        }
        let link = self.links.iter_mut().find(|link| same_address(link.address(), from));
        let link = link.ok_or(Refused::says("comes from the address of no peer in the config"))?;
        Ok((link.id(), link.hello(&hello, now_ms, &mut random_u64)))
    }

    fn take_initiation(&mut self, from: SocketAddr, body: &[u8], now_ms: u64) -> Result<(PeerId, Outcome), Refused> {
        let Identity { private, public, network, .. } = &*self.identity;
        let responder = Responder::read(private, *network, body)
            .ok_or(Refused::says("was not made for this gateway's key, or for another network (\"network\")"))?;
        if responder.peer == *public.as_bytes() {
            return Err(Refused::says(
                "has this gateway's own key: another gateway uses it too, or this is its own peer",
            ));
        }
        let link = self.links.iter_mut().find(|link| link.key().is_some_and(|key| *key.as_bytes() == responder.peer));
        let Some(link) = link else {
            let key = PublicKey::new(responder.peer).map_or_else(|error| error.to_string(), |key| key.to_string());
            return Err(Refused::from(Trouble::UnknownKey(key)));
        };
        let id = link.id();
        let outcome = link.initiation(responder, from, now_ms, &mut random_u64);
        outcome.map(|outcome| (id, outcome)).map_err(|unanswered| match unanswered {
            Unanswered::Crossed => Refused(Ending::HandshakeCrossed, Why::Nothing),
            Unanswered::TooMany => Refused(Ending::HandshakeRate, Why::Nothing),
            // Played again, or overtaken by a later one: that is nothing to tell.
            Unanswered::Old(false, _) => Refused(Ending::HandshakeRefused, Why::Nothing),
            Unanswered::Old(true, by) => {
                let trouble = Trouble::Clock(Duration::from_nanos(by));
                Refused(Ending::HandshakeRefused, Why::Trouble(Some(id), trouble))
            }
            Unanswered::Twin => Refused(Ending::HandshakeRefused, Why::Twins(id)),
        })
    }

    fn take_response(
        &mut self,
        session: u32,
        body: &[u8],
        from: SocketAddr,
        now_ms: u64,
    ) -> Result<(PeerId, Outcome), Refused> {
        let link = self.links.iter_mut().find(|link| link.awaits(session));
        let link = link.ok_or(Refused(Ending::HandshakeLate, Why::Nothing))?;
        let id = link.id();
        let outcome = link.response(session, body, from, now_ms, &mut random_u64);
        let wrong = || Refused(Ending::HandshakeRefused, Why::Trouble(Some(id), Trouble::PresharedKey));
        Ok((id, outcome.ok_or_else(wrong)?))
    }

    /// Does what follows from what a link has seen.
    pub(super) fn follow(&mut self, id: PeerId, outcome: Outcome, now_ms: u64) {
        self.table_changed |= outcome.changed;
        if let Some(event) = outcome.event {
            self.link_changed(id, &event, now_ms);
        }
        // Before anything is sent with a new session the workers must be able to take what comes back.
        self.publish();
        for (to, datagram) in outcome.send {
            self.send_datagram(id, to, &datagram);
        }
        if outcome.twins {
            self.tell_twins(id, now_ms);
        }
    }

    /// New keys for every sealed link that is up, now and not when the old ones have aged. Returns how many there are.
    pub(super) fn ask_for_keys(&mut self) -> usize {
        let asked = self.links.iter_mut().map(Link::ask_for_keys).filter(|asked| *asked).count();
        // Links look at what they were asked for when they look at the clock.
        self.timers.hurry();
        asked
    }

    /// A peer that has moved; known only because what it sent is authentic.
    pub(super) fn take_roaming(&mut self, id: PeerId, session: u32, from: SocketAddr, now_ms: u64) {
        let Some(link) = self.links.get_mut(id.index()) else { return };
        let before = link.address();
        let outcome = link.roamed(session, from);
        if outcome.changed {
            let line = format!("peer {} has moved from {before} to {from}", link.name());
            self.say(About::Place(id), Level::INFO, line);
        }
        let moved = outcome.changed;
        self.follow(id, outcome, now_ms);
        if moved {
            // The new way may carry less, or lead elsewhere.
            self.search_path(id, now_ms);
            self.look_at(&[id], now_ms);
        }
    }

    pub(super) fn link_changed(&mut self, id: PeerId, event: &LinkEvent, now_ms: u64) {
        if matches!(event, LinkEvent::Up | LinkEvent::Restarted) {
            // In clear text one that has restarted may be down until it is heard of once more, and then comes up.
            self.search_path(id, now_ms);
        }
        let Some(link) = self.links.get_mut(id.index()) else { return };
        let (name, address) = (link.name().to_owned(), link.address());
        match event {
            LinkEvent::Up => {
                let (uid, remote) = link.identity().unwrap_or_default();
                let seal = link.seal(now_ms).map_or("clear text".to_owned(), |(cipher, ..)| cipher.to_string());
                let line = format!("peer {name} is up: {address}, {seal}, calls itself '{remote}', uid {uid}");
                self.say(About::Link(id), Level::INFO, line);
                self.step(now_ms, |resolver, step| resolver.peer_came(id, step));
                // An address that it came from may be another than the config's.
                self.look_at(&[id], now_ms);
            }
            LinkEvent::Down(why) => {
                self.say(About::Link(id), Level::WARN, format!("peer {name} is down: {why}"));
                self.forget_peer(id, now_ms);
            }
            LinkEvent::Restarted => {
                self.say(About::Link(id), Level::INFO, format!("peer {name} has restarted"));
                self.forget_peer(id, now_ms);
            }
        }
        self.table_changed = true;
    }

    pub(super) fn forget_peer(&mut self, id: PeerId, now_ms: u64) {
        self.step(now_ms, |resolver, step| resolver.flush(id, step));
    }

    fn search_path(&mut self, peer: PeerId, now_ms: u64) {
        if let (Some(local), Some(link)) = (self.local_path(peer), self.links.get_mut(peer.index())) {
            link.search_path(local, now_ms);
        }
    }

    /// The kernel has refused a datagram as too large for the interface, or for what IPsec leaves of it.
    pub(super) fn path_refused(&mut self, peer: PeerId, now_ms: u64) {
        let Some(local) = self.local_path(peer) else { return };
        let Some(link) = self.links.get_mut(peer.index()) else { return };
        if link.path.as_mut().is_some_and(|path| path.too_big(local, now_ms)) {
            let line = format!("path to {} became smaller; looking for what it carries", link.name());
            self.say(About::Path(peer), Level::INFO, line);
            self.table_changed = true;
        }
    }

    /// Gives the workers the table of peers if it has changed.
    pub(super) fn publish(&mut self) {
        if std::mem::take(&mut self.table_changed) {
            let table = Arc::new(self.peer_table());
            let before = std::mem::replace(&mut self.published, table.clone());
            let ended = before.has_ended(&table);
            for worker in &self.workers {
                worker.mailbox.publish(table.clone());
                // One that has nothing to do would keep the keys of a session that has ended.
                if ended && let Err(error) = worker.wake() {
                    warn!("a worker cannot be woken: {error}");
                }
            }
        }
    }

    /// Frees the tables that workers have returned, and with them the keys of sessions that have ended.
    pub(super) fn collect(&self) {
        for worker in &self.workers {
            worker.mailbox.collect();
        }
    }

    pub(super) fn is_up(&self, peer: PeerId) -> bool {
        self.links.get(peer.index()).is_some_and(Link::is_up)
    }

    pub(super) fn peer_table(&self) -> PeerTable {
        let views = self.links.iter().map(|link| link.view(self.socket_address(link.address())));
        let gate = self.config.identity.as_ref().map(|_| Gate::of(self.identity.public.as_bytes()));
        PeerTable::new(views.collect(), gate)
    }
}
