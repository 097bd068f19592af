//! The link to one peer: opened by a handshake, kept by signs of life, ended by silence or a goodbye.
//!
//! There are two ways to open one. Where links are sealed the peers prove who they are and agree on keys
//! ([`sealed`], [`noise`]); where the config says `"sec": false` they just say hello ([`clear`]). What follows is the same
//! for both. Time is an argument, so tests own the clock.

pub mod clear;
mod lives;
pub mod noise;
pub mod sealed;
pub mod trouble;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::datagram::{DATAGRAM_HEADER_LEN, VERSION};
use ipop_dataplane::peers::{MIN_DATAGRAM, PeerView, same_address};
use ipop_dataplane::session::{Cipher, Outgoing, TAG_LEN};

use self::clear::{Clear, Hello};
use self::lives::Lives;
pub use self::lives::Twins;
use self::noise::Responder;
use self::sealed::{Sealed, Unanswered};
use self::trouble::{Trouble, Troubles};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::path_mtu::{Local, PathMtu};

/// Between hellos while a link in clear text is down.
const HELLO_DOWN_MS: u64 = 1000;
/// Between signs of life while it is up.
const ALIVE_MS: u64 = 5000;
/// Silence after which the peer counts as gone: three signs of life.
const SILENCE_MS: u64 = 3 * ALIVE_MS + 1000;
/// A peer that has not been heard for so long, since the start or since it went, is missed.
const MISSING_MS: u64 = 10_000;
/// A handshake that is answered leads to a session within this time, if the peer hears the answer.
const INCOMPLETE_MS: u64 = 5000;

/// Where random numbers come from.
pub type Randomness<'a> = dyn FnMut() -> u64 + 'a;

/// What all links of a gateway share.
pub struct Identity {
    /// The key; in clear text one that is not used.
    pub private: PrivateKey,
    /// Its public part.
    pub public: PublicKey,
    /// Who the gateway is in messages.
    pub uid: String,
    /// A random number, new at every start.
    pub life: u64,
    /// Its name, for people.
    pub name: String,
    /// Network identifier, 24 bits.
    pub network: u32,
    /// Number of workers.
    pub workers: usize,
}

/// What the gateway must do about a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The peer can be sent to.
    Up,
    /// It cannot any longer, for this reason.
    Down(Trouble),
    /// It came back as another life without a pause: what was known of it is stale.
    Restarted,
}

/// What follows from what a link has seen.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What has changed.
    pub event: Option<LinkEvent>,
    /// Datagrams to send, and where to.
    pub send: Vec<(SocketAddr, Vec<u8>)>,
    /// The workers must know: the table of peers is another.
    pub changed: bool,
    /// Two gateways have the peer's key, as is seen now.
    pub twins: bool,
}

enum Opening {
    Clear(Clear),
    Sealed(Box<Sealed>),
}

/// The link to one peer.
pub struct Link {
    id: PeerId,
    name: String,
    /// Where it is now, and where the config says.
    address: SocketAddr,
    configured: SocketAddr,
    network: u32,
    opening: Opening,
    up: bool,
    up_since_ms: u64,
    down_since_ms: u64,
    last_heard_ms: Option<u64>,
    next_sign_ms: u64,
    /// The peer's last life that we had a session with, and those before.
    life: Option<u64>,
    lives: Lives,
    troubles: Troubles,
    /// Since when it has been answered without coming up.
    answered_since_ms: Option<u64>,
    /// The path MTU, while the link is up.
    pub path: Option<PathMtu>,
    /// Why nothing is sent to the peer, although it could be.
    suspended: Option<String>,
    /// Datagrams that workers had received at the last look.
    heard_datagrams: u64,
    /// How often the link came up.
    pub ups: u64,
}

impl Link {
    /// A link in clear text, which is down.
    pub fn clear(
        id: PeerId,
        name: String,
        address: SocketAddr,
        own: Arc<Identity>,
        random: &mut Randomness<'_>,
    ) -> Link {
        let network = own.network;
        Link::new(id, name, address, network, Opening::Clear(Clear::new(id, own, random)))
    }

    /// A sealed link, which is down, to the peer that has this key.
    pub fn sealed(
        id: PeerId,
        name: String,
        address: SocketAddr,
        own: Arc<Identity>,
        key: PublicKey,
        preshared: Option<PresharedKey>,
    ) -> Link {
        let network = own.network;
        Link::new(id, name, address, network, Opening::Sealed(Box::new(Sealed::new(id, own, key, preshared))))
    }

    fn new(id: PeerId, name: String, address: SocketAddr, network: u32, opening: Opening) -> Link {
        Link {
            id,
            name,
            address,
            configured: address,
            network,
            opening,
            up: false,
            up_since_ms: 0,
            down_since_ms: 0,
            last_heard_ms: None,
            next_sign_ms: 0,
            life: None,
            lives: Lives::default(),
            troubles: Troubles::default(),
            answered_since_ms: None,
            path: None,
            suspended: None,
            heard_datagrams: 0,
            ups: 0,
        }
    }

    /// The peer's number.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The peer's name in our config.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it can be sent to.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Since when, in the gateway's clock.
    pub fn up_since_ms(&self) -> Option<u64> {
        self.up.then_some(self.up_since_ms)
    }

    /// When it was last heard of.
    pub fn last_heard_ms(&self) -> Option<u64> {
        self.last_heard_ms
    }

    /// Its identity and the name that it gives itself.
    pub fn identity(&self) -> Option<(String, String)> {
        match &self.opening {
            Opening::Clear(clear) => clear.remote().map(|them| (them.uid.clone(), them.name.clone())),
            Opening::Sealed(sealed) => sealed.remote().map(|them| (sealed.key().uid(), them.name)),
        }
    }

    /// What keeps it down; `None` while it is up.
    pub fn trouble(&self, now_ms: u64) -> Option<&Trouble> {
        self.troubles.current(now_ms).filter(|_| !self.up)
    }

    /// True if it has been down for some time, and nothing is known but that nothing comes.
    pub fn is_missing(&self, now_ms: u64) -> bool {
        !self.up
            && now_ms.saturating_sub(self.down_since_ms) >= MISSING_MS
            && self.troubles.current(now_ms).is_none_or(Trouble::is_absence)
    }

    /// Something was seen of the peer that may be the reason why it is down, or will be. What the log is to tell of that.
    pub fn see(&mut self, trouble: Trouble, now_ms: u64) -> Option<Trouble> {
        self.troubles.see(trouble, now_ms);
        if self.up { None } else { self.troubles.untold(now_ms) }
    }

    /// The kernel takes datagrams for the peer.
    pub fn reachable(&mut self) {
        self.troubles.reachable();
    }

    /// The two gateways that have the peer's key, if there are two.
    pub fn twins(&self, now_ms: u64) -> Option<Twins> {
        self.lives.twins(now_ms)
    }

    /// Datagrams with these records for the one and the other of them.
    pub fn to_twins(&self, records: [Vec<u8>; 2], now_ms: u64) -> Vec<(SocketAddr, Vec<u8>)> {
        let (Opening::Sealed(sealed), Some(twins)) = (&self.opening, self.twins(now_ms)) else { return Vec::new() };
        let of = |outgoing: Option<&Arc<Outgoing>>, to, records: &[u8]| {
            Some((to, outgoing?.datagram(self.network, records)?))
        };
        let [here, there] = records;
        let datagrams = [of(sealed.outgoing(), twins.here, &here), of(sealed.last_outgoing(), twins.there, &there)];
        datagrams.into_iter().flatten().collect()
    }

    /// The peer's key, if the link is sealed.
    pub fn key(&self) -> Option<&PublicKey> {
        match &self.opening {
            Opening::Clear(_) => None,
            Opening::Sealed(sealed) => Some(sealed.key()),
        }
    }

    /// How it is sealed at the moment, since when in milliseconds, and the how manieth session it is.
    pub fn seal(&self, now_ms: u64) -> Option<(Cipher, u64, u64)> {
        match &self.opening {
            Opening::Clear(_) => None,
            Opening::Sealed(sealed) => sealed.keys(now_ms).map(|(cipher, age)| (cipher, age, sealed.handshakes)),
        }
    }

    /// Asks for new keys soon; false if there are none to replace.
    pub fn ask_for_keys(&mut self) -> bool {
        match &mut self.opening {
            Opening::Sealed(sealed) if self.up => {
                sealed.ask_for_keys();
                true
            }
            _ => false,
        }
    }

    /// A datagram with these records from the control thread.
    pub fn datagram(&self, records: &[u8]) -> Option<Vec<u8>> {
        let outgoing = match &self.opening {
            Opening::Clear(clear) => clear.outgoing(),
            Opening::Sealed(sealed) => sealed.outgoing(),
        };
        outgoing?.datagram(self.network, records)
    }

    /// Octets of a datagram that are no records.
    pub fn overhead(&self) -> usize {
        DATAGRAM_HEADER_LEN + if self.key().is_some() { TAG_LEN } else { 0 }
    }

    /// Octets of records that fit the smallest datagram.
    pub fn smallest_capacity(&self) -> usize {
        MIN_DATAGRAM - self.overhead()
    }

    /// What workers need to know; `address` in the family of the socket.
    pub fn view(&self, address: SocketAddr) -> PeerView {
        let (outgoing, incoming) = match &self.opening {
            Opening::Clear(clear) => (clear.outgoing().cloned(), vec![clear.incoming().clone()]),
            Opening::Sealed(sealed) => (sealed.outgoing().cloned(), sealed.incoming()),
        };
        let max_datagram = self.path.as_ref().map_or(MIN_DATAGRAM, PathMtu::size);
        PeerView { address, outgoing, incoming, up: self.up, max_datagram }
    }

    /// A hello came from the peer's address.
    pub fn hello(&mut self, hello: &Hello, now_ms: u64, random: &mut Randomness<'_>) -> Outcome {
        let Opening::Clear(clear) = &mut self.opening else { return Outcome::default() };
        if self.suspended.is_some() {
            return Outcome::default();
        }
        let Some(heard) = clear.heard(hello, now_ms, random) else { return Outcome::default() };
        self.last_heard_ms = Some(now_ms);
        let event = match (self.up, heard.acknowledged) {
            (false, true) => Some(self.came_up(now_ms)),
            (true, acknowledged) if heard.another_life => {
                self.up = acknowledged;
                Some(LinkEvent::Restarted)
            }
            _ => None,
        };
        let send = if heard.answer { self.sign_of_life() } else { Vec::new() };
        Outcome { event, send, changed: true, ..Outcome::default() }
    }

    /// Sends nothing until [`Self::resume`]; a link that is up goes down.
    pub fn suspend(&mut self, why: String, now_ms: u64) -> Outcome {
        let event = self.forget(Trouble::Loop(why.clone()), now_ms);
        self.suspended = Some(why);
        Outcome { changed: event.is_some(), event, ..Outcome::default() }
    }

    /// Tries again at the next tick.
    pub fn resume(&mut self) {
        self.suspended = None;
        self.troubles.unloop();
    }

    /// Why nothing is sent, if nothing is.
    pub fn suspended(&self) -> Option<&str> {
        self.suspended.as_deref()
    }

    /// The peer's initiation came from `from`.
    pub fn initiation(
        &mut self,
        responder: Responder,
        from: SocketAddr,
        now_ms: u64,
        random: &mut Randomness<'_>,
    ) -> Result<Outcome, Unanswered> {
        let Opening::Sealed(sealed) = &mut self.opening else { return Ok(Outcome::default()) };
        if self.suspended.is_some() {
            return Ok(Outcome::default());
        }
        let theirs = &responder.introduction;
        if self.up && self.lives.refuses(theirs.life.get(), theirs.timestamp.get(), from, now_ms) {
            return Err(Unanswered::Twin);
        }
        let answer = sealed.answer(responder, now_ms, random)?;
        if !self.up && now_ms.saturating_sub(*self.answered_since_ms.get_or_insert(now_ms)) >= INCOMPLETE_MS {
            self.troubles.see(Trouble::Incomplete, now_ms);
        }
        // What is not authentic yet moves nothing but this answer, which is smaller than the question.
        Ok(Outcome { changed: true, send: vec![(from, answer)], ..Outcome::default() })
    }

    /// True if an initiation of ours that proposed this session waits for its answer.
    pub fn awaits(&self, session: u32) -> bool {
        matches!(&self.opening, Opening::Sealed(sealed) if sealed.awaits(session))
    }

    /// The answer to an initiation came from `from`.
    pub fn response(
        &mut self,
        session: u32,
        message: &[u8],
        from: SocketAddr,
        now_ms: u64,
        random: &mut Randomness<'_>,
    ) -> Option<Outcome> {
        let Opening::Sealed(sealed) = &mut self.opening else { return None };
        if !sealed.finish(session, message, now_ms, random) {
            return None;
        }
        self.address = from;
        let mut outcome = self.has_session(now_ms);
        // The peer waits for a sign that the answer arrived.
        outcome.send = self.sign_of_life();
        Some(outcome)
    }

    /// The peer uses the session with this index of ours for the first time.
    pub fn session_used(&mut self, session: u32, now_ms: u64) -> Outcome {
        let Opening::Sealed(sealed) = &mut self.opening else { return Outcome::default() };
        if sealed.used(session, now_ms) { self.has_session(now_ms) } else { Outcome::default() }
    }

    /// An authentic datagram, the newest so far in this session, came from another address. What is still on the way in the
    /// session before comes from where the peer was, or from another gateway with its key.
    pub fn roamed(&mut self, session: u32, from: SocketAddr) -> Outcome {
        let Opening::Sealed(sealed) = &self.opening else { return Outcome::default() };
        let changed = !sealed.is_last(session) && !same_address(self.address, from);
        if changed {
            self.address = from;
            self.lives.moved(from);
        }
        Outcome { changed, ..Outcome::default() }
    }

    /// Looks for what the path carries, while the link is up: when it came up, when the peer has moved or restarted.
    /// `local` is what this host knows of the path.
    pub fn search_path(&mut self, local: Local, now_ms: u64) {
        self.path = self.up.then(|| PathMtu::new(local, now_ms));
    }

    fn has_session(&mut self, now_ms: u64) -> Outcome {
        let Opening::Sealed(sealed) = &self.opening else { return Outcome::default() };
        let life = sealed.remote().map(|them| them.life);
        let before = std::mem::replace(&mut self.life, life);
        self.last_heard_ms = Some(now_ms);
        let twins = life.is_some_and(|life| self.lives.has_session(life, self.address, now_ms));
        let event = match self.up {
            false => Some(self.came_up(now_ms)),
            true => (before != life).then_some(LinkEvent::Restarted),
        };
        Outcome { event, changed: true, twins, ..Outcome::default() }
    }

    fn came_up(&mut self, now_ms: u64) -> LinkEvent {
        self.troubles.end();
        self.answered_since_ms = None;
        (self.up, self.up_since_ms) = (true, now_ms);
        self.ups += 1;
        LinkEvent::Up
    }

    /// What shows the peer that we are here: a hello, or an authentic datagram without records.
    fn sign_of_life(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        let datagram = match &self.opening {
            Opening::Clear(clear) => Some(clear.datagram(self.up)),
            Opening::Sealed(_) => self.datagram(&[]),
        };
        datagram.map(|datagram| (self.address, datagram)).into_iter().collect()
    }

    /// Looks at the clock and at what workers have received of the peer.
    pub fn tick(&mut self, now_ms: u64, received_datagrams: u64, random: &mut Randomness<'_>) -> Outcome {
        if received_datagrams != self.heard_datagrams {
            self.heard_datagrams = received_datagrams;
            self.last_heard_ms = Some(now_ms);
        }
        if self.suspended.is_some() {
            return Outcome::default();
        }
        let mut outcome = Outcome::default();
        let silent = self.last_heard_ms.is_none_or(|heard| now_ms.saturating_sub(heard) >= SILENCE_MS);
        let too_old = matches!(&self.opening, Opening::Sealed(sealed) if sealed.is_too_old(now_ms));
        if self.up && (silent || too_old) {
            outcome.event = self.forget(if silent { Trouble::Silent } else { Trouble::NoNewKeys }, now_ms);
            outcome.changed = true;
        }
        if !self.up && self.last_heard_ms.is_none() && now_ms >= MISSING_MS {
            self.troubles.see(Trouble::Unheard, now_ms);
        }
        if let Opening::Sealed(sealed) = &mut self.opening {
            let (initiation, changed) = sealed.tick(now_ms, random);
            outcome.send.extend(initiation.map(|datagram| (self.address, datagram)));
            outcome.changed |= changed;
        }
        if now_ms >= self.next_sign_ms {
            self.next_sign_ms = now_ms + if self.up { ALIVE_MS } else { HELLO_DOWN_MS };
            outcome.send.extend(self.sign_of_life());
        }
        outcome
    }

    /// The peer said goodbye in its session.
    pub fn goodbye(&mut self, now_ms: u64) -> Outcome {
        Outcome { event: self.forget(Trouble::Goodbye, now_ms), changed: true, ..Outcome::default() }
    }

    /// What the log is to tell of why it is down.
    pub fn untold_trouble(&mut self, now_ms: u64) -> Option<Trouble> {
        if self.up { None } else { self.troubles.untold(now_ms) }
    }

    fn forget(&mut self, why: Trouble, now_ms: u64) -> Option<LinkEvent> {
        self.path = None;
        self.next_sign_ms = 0;
        if let Opening::Sealed(sealed) = &mut self.opening {
            sealed.forget();
            self.address = self.configured;
        }
        // Something that says more may have been seen while it was up.
        self.troubles.see(why.clone(), now_ms);
        let was_up = std::mem::take(&mut self.up);
        self.down_since_ms = now_ms;
        was_up.then(|| LinkEvent::Down(self.troubles.untold(now_ms).unwrap_or(why)))
    }
}

/// What a peer says of itself, fit for one line of a log or of a table: control characters are replaced.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Since 1970, for handshakes.
fn nanoseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests;
