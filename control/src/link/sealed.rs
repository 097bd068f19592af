//! How a sealed link gets its sessions: handshakes ([`super::noise`]), and how one session follows another without a lost
//! frame.
//!
//! Up to three sessions live at a time. *current* is what is sent with. *next* was asked for by the peer and answered;
//! it becomes the current one when the peer uses it, because only then is it sure that the answer arrived. *last* was
//! current before, and what is still on the way in it is taken.
//!
//! Two handshakes can cross, and their datagrams overtake each other. So that both ends keep the same session, they order
//! sessions by what one of them has said in each: the time of the gateway with the lower public key, which only rises. A
//! *next* that is older than the current session is taken, and never sent with.

use std::sync::Arc;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::datagram::{CONTROL_LANE, DatagramHeader, INITIATION, RESPONSE};
use ipop_dataplane::forward::RateLimit;
use ipop_dataplane::peers::session_index;
use ipop_dataplane::session::{Cipher, Gate, Incoming, Outgoing};
use zerocopy::IntoBytes;

use super::noise::{Initiator, Introduction, Keys, Responder};
use super::{Identity, Randomness};
use crate::keys::{PresharedKey, PublicKey};

/// Between initiations that are not answered.
const RETRY_MS: u64 = 1000;
/// Age at which the initiator of a session asks for new keys, and how much of it is chance, so that the links of a gateway do
/// not do so at once.
const REKEY_MS: u64 = 120_000;
const REKEY_JITTER_MS: u64 = 10_000;
/// The responder leaves the initiator that much time.
const RESPONDER_MS: u64 = 30_000;
/// How long datagrams of the session before are taken, and an answer that the peer does not use is kept.
const GRACE_MS: u64 = 30_000;
/// Age at which keys are given up although there are no others.
const TOO_OLD_MS: u64 = 600_000;
/// Datagrams after which there must be new keys; far below [`ipop_dataplane::session::MAX_COUNTER`].
const REKEY_DATAGRAMS: u64 = 1 << 34;
/// Initiations of a peer that are answered per second.
const ANSWERS_PER_SECOND: u64 = 5;
/// Initiations of the peer that are ignored in a row because ours goes first.
const MOST_IGNORED: u32 = 2;

/// A session with its two directions.
struct Session {
    outgoing: Arc<Outgoing>,
    incoming: Arc<Incoming>,
    /// Higher than that of the sessions before it, and the same at both ends.
    order: u64,
    since_ms: u64,
    rekey_at_ms: u64,
    cipher: Cipher,
    life: u64,
    name: String,
}

/// A handshake of ours without an answer yet.
struct Pending {
    initiator: Initiator,
    introduction: Introduction,
    sent_ms: u64,
}

/// What the peer says of itself in the current session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// New at each of its starts.
    pub life: u64,
    /// Its name for itself.
    pub name: String,
}

/// Why an initiation of the peer is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// Its time is not later than that of the last one: recorded and played again, or overtaken, or the peer's clock has gone
    /// back. The last one was of another life, or not; by how many nanoseconds this one is older.
    Old(bool, u64),
    /// It crosses one of ours, which goes first.
    Crossed,
    /// There were too many.
    TooMany,
    /// Another gateway has the peer's key, and the link stays with the one that it has.
    Twin,
}

/// The sessions of one link.
pub struct Sealed {
    id: PeerId,
    own: Arc<Identity>,
    key: PublicKey,
    preshared: Option<PresharedKey>,
    gate: Gate,
    pending: Option<Pending>,
    next: Option<Session>,
    current: Option<Session>,
    last: Option<(Session, u64)>,
    /// The highest timestamp of an initiation of the peer, and the last of ours.
    heard_timestamp: u64,
    heard_life: u64,
    sent_timestamp: u64,
    answers: RateLimit,
    ignored: u32,
    rekey_asked: bool,
    /// [`REKEY_DATAGRAMS`], unless a test cannot wait for them.
    pub(super) rekey_datagrams: u64,
    /// Sessions that were made.
    pub handshakes: u64,
}

impl Sealed {
    /// Without a session yet.
    pub fn new(id: PeerId, own: Arc<Identity>, key: PublicKey, preshared: Option<PresharedKey>) -> Sealed {
        Sealed {
            id,
            own,
            key,
            preshared,
            gate: Gate::of(key.as_bytes()),
            pending: None,
            next: None,
            current: None,
            last: None,
            heard_timestamp: 0,
            heard_life: 0,
            sent_timestamp: 0,
            answers: RateLimit::new(ANSWERS_PER_SECOND),
            ignored: 0,
            rekey_asked: false,
            rekey_datagrams: REKEY_DATAGRAMS,
            handshakes: 0,
        }
    }

    /// The peer's public key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// What is sent with.
    pub fn outgoing(&self) -> Option<&Arc<Outgoing>> {
        self.current.as_ref().map(|session| &session.outgoing)
    }

    /// What was sent with before, as long as the peer takes it.
    pub fn last_outgoing(&self) -> Option<&Arc<Outgoing>> {
        self.last.as_ref().map(|(session, _)| &session.outgoing)
    }

    /// True if this session has had its time: there is a newer one.
    pub fn is_last(&self, session: u32) -> bool {
        self.last.as_ref().is_some_and(|(last, _)| last.incoming.session() == session)
    }

    /// What is taken, the likeliest first.
    pub fn incoming(&self) -> Vec<Arc<Incoming>> {
        let sessions = self.current.iter().chain(&self.next).chain(self.last.iter().map(|(session, _)| session));
        sessions.map(|session| session.incoming.clone()).collect()
    }

    /// What the peer says of itself.
    pub fn remote(&self) -> Option<Remote> {
        self.current.as_ref().map(|session| Remote { life: session.life, name: session.name.clone() })
    }

    /// The cipher and the age of the current keys, for people.
    pub fn keys(&self, now_ms: u64) -> Option<(Cipher, u64)> {
        self.current.as_ref().map(|session| (session.cipher, now_ms.saturating_sub(session.since_ms)))
    }

    /// Asks for new keys at the next tick.
    pub fn ask_for_keys(&mut self) {
        self.rekey_asked = true;
    }

    /// The peer is gone: what was agreed with it ends.
    pub fn forget(&mut self) {
        (self.pending, self.next, self.current, self.last) = (None, None, None, None);
    }

    /// Looks at the clock. Returns an initiation to send, and whether the workers' table has changed.
    pub fn tick(&mut self, now_ms: u64, random: &mut Randomness<'_>) -> (Option<Vec<u8>>, bool) {
        let before = self.incoming().len();
        if self.last.as_ref().is_some_and(|(_, until_ms)| now_ms >= *until_ms) {
            self.last = None;
        }
        if self.next.as_ref().is_some_and(|next| now_ms >= next.since_ms + GRACE_MS) {
            self.next = None;
        }
        let changed = before != self.incoming().len();
        // Also when the peer has been answered: what it had begun may have been recorded and played again.
        let wanted = self.current.as_ref().is_none_or(|current| {
            self.rekey_asked || now_ms >= current.rekey_at_ms || current.outgoing.used() >= self.rekey_datagrams
        });
        let waiting = self.pending.as_ref().is_some_and(|pending| now_ms < pending.sent_ms + RETRY_MS);
        let initiation = if wanted && !waiting { self.initiate(now_ms, random) } else { None };
        (initiation, changed)
    }

    /// True if the keys have been in use for too long, and the peer gives no others.
    pub fn is_too_old(&self, now_ms: u64) -> bool {
        self.current.as_ref().is_some_and(|current| now_ms >= current.since_ms + TOO_OLD_MS)
    }

    fn initiate(&mut self, now_ms: u64, random: &mut Randomness<'_>) -> Option<Vec<u8>> {
        let introduction = self.introduce(random);
        let Identity { private, network, .. } = &*self.own;
        let begun = Initiator::begin(private, &self.key, self.preshared.as_ref(), *network, &introduction);
        // Fails only if the kernel has no random numbers; there is another attempt in a second.
        let (initiator, message) = begun.ok()?;
        self.pending = Some(Pending { initiator, introduction, sent_ms: now_ms });
        Some(self.datagram(INITIATION, 0, &message))
    }

    /// The peer's first message, already read. Returns the answer to send.
    pub fn answer(
        &mut self,
        responder: Responder,
        now_ms: u64,
        random: &mut Randomness<'_>,
    ) -> Result<Vec<u8>, Unanswered> {
        let theirs = responder.introduction;
        let timestamp = theirs.timestamp.get();
        if timestamp <= self.heard_timestamp {
            return Err(Unanswered::Old(theirs.life.get() != self.heard_life, self.heard_timestamp - timestamp));
        }
        if self.pending.is_some() && self.is_lower() && self.ignored < MOST_IGNORED {
            // Both have begun at the same time; the peer will answer ours, if it can hear us.
            (self.heard_timestamp, self.heard_life) = (timestamp, theirs.life.get());
            self.ignored += 1;
            return Err(Unanswered::Crossed);
        }
        // Only what is answered counts: one that was ignored must not be the reason why the next is not answered.
        if !self.answers.allow(now_ms) {
            return Err(Unanswered::TooMany);
        }
        // A handshake of our own goes on: this one may lead to nothing.
        (self.heard_timestamp, self.heard_life, self.ignored) = (timestamp, theirs.life.get(), 0);
        let introduction = self.introduce(random);
        // Fails only if the kernel has no random numbers; the peer tries again.
        let answer = responder.answer(self.preshared.as_ref(), &introduction);
        let (message, keys) = answer.map_err(|_| Unanswered::TooMany)?;
        let datagram = self.datagram(RESPONSE, theirs.session.get(), &message);
        let rekey_at_ms = now_ms + REKEY_MS + RESPONDER_MS + random() % REKEY_JITTER_MS;
        self.next = Some(self.session(&introduction, &theirs, &keys, now_ms, rekey_at_ms));
        Ok(datagram)
    }

    /// True if an initiation of ours that proposed this session waits for its answer.
    pub fn awaits(&self, session: u32) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.introduction.session.get() == session)
    }

    /// The answer to an initiation of ours. True if there is a new current session.
    pub fn finish(&mut self, session: u32, message: &[u8], now_ms: u64, random: &mut Randomness<'_>) -> bool {
        let Some(pending) = self.pending.as_mut().filter(|p| p.introduction.session.get() == session) else {
            return false;
        };
        let Some((theirs, keys)) = pending.initiator.finish(message) else { return false };
        let ours = pending.introduction;
        (self.pending, self.ignored) = (None, 0);
        // What the peer has begun before was recorded, or crossed ours.
        if theirs.timestamp.get() > self.heard_timestamp {
            (self.heard_timestamp, self.heard_life) = (theirs.timestamp.get(), theirs.life.get());
        }
        let rekey_at_ms = now_ms + REKEY_MS + random() % REKEY_JITTER_MS;
        let session = self.session(&ours, &theirs, &keys, now_ms, rekey_at_ms);
        self.promote(session, now_ms);
        true
    }

    /// The peer uses this session. True if that makes it the current one.
    pub fn used(&mut self, session: u32, now_ms: u64) -> bool {
        let current = self.current.as_ref().map_or(0, |current| current.order);
        match self.next.take_if(|next| next.incoming.session() == session && next.order > current) {
            Some(next) => {
                self.pending = None;
                self.promote(next, now_ms);
                true
            }
            None => false,
        }
    }

    fn promote(&mut self, session: Session, now_ms: u64) {
        self.rekey_asked = false;
        self.handshakes += 1;
        if let Some(before) = self.current.replace(session) {
            self.last = Some((before, now_ms + GRACE_MS));
        }
    }

    /// True for one of the two gateways: where both would do the same, one has to do something else.
    fn is_lower(&self) -> bool {
        self.own.public.as_bytes() < self.key.as_bytes()
    }

    fn session(
        &self,
        ours: &Introduction,
        theirs: &Introduction,
        keys: &Keys,
        since_ms: u64,
        rekey_at_ms: u64,
    ) -> Session {
        let cipher = ours.cipher(theirs);
        let lower = if self.is_lower() { ours } else { theirs };
        let outgoing = Outgoing::new(theirs.session.get(), Some(keys.sending(cipher)), self.own.workers);
        let incoming = Incoming::new(ours.session.get(), Some(keys.receiving(cipher)));
        Session {
            outgoing: Arc::new(outgoing),
            incoming: Arc::new(incoming),
            order: lower.timestamp.get(),
            since_ms,
            rekey_at_ms,
            cipher,
            life: theirs.life.get(),
            name: theirs.name(),
        }
    }

    /// With a session index that no living session has, and none that was proposed.
    fn introduce(&mut self, random: &mut Randomness<'_>) -> Introduction {
        self.sent_timestamp = super::nanoseconds().max(self.sent_timestamp + 1);
        let proposed = self.pending.iter().map(|pending| pending.introduction.session.get());
        let taken: Vec<u32> = self.incoming().iter().map(|incoming| incoming.session()).chain(proposed).collect();
        let mut number = random() as u16;
        let session = loop {
            // 0 is nobody's index.
            let index = session_index(self.id, number.max(1));
            if !taken.contains(&index) {
                break index;
            }
            // At most four are taken, so the next free one is near.
            number = number.max(1).wrapping_add(1);
        };
        Introduction::new(self.sent_timestamp, self.own.life, session, &self.own.name)
    }

    fn datagram(&self, kind: u8, session: u32, message: &[u8]) -> Vec<u8> {
        let header = DatagramHeader::new(kind, self.own.network, session, CONTROL_LANE, 0);
        let mut datagram = [header.as_bytes(), message].concat();
        self.gate.stamp(&mut datagram);
        datagram
    }
}
