//! The link to one peer: opened by an exchange of hellos, kept by them, ended by silence or a goodbye.
//!
//! A hello says who the gateway is, under which session index it wants to be sent to, and which index it knows of the
//! other side:
//!
//! ```json
//! {"msg_type":"hello","uid":"5b3c…","name":"gw-a","session":3735879680,"your_session":65537,"up":false}
//! ```
//!
//! A link is up when both sides know each other's index. Everyone chooses anew at each start, so a peer that restarted
//! is noticed at its first hello, and what was meant for its earlier life is not taken for anything else.

use std::net::SocketAddr;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::forward::RateLimit;
use ipop_dataplane::peers::{PeerView, session_index};
use serde::{Deserialize, Serialize};

use crate::path_mtu::PathMtu;

/// Between hellos while the link is down.
const HELLO_DOWN_MS: u64 = 1000;
/// Between hellos while it is up: they are the keep-alive.
const HELLO_UP_MS: u64 = 5000;
/// Silence after which the peer counts as gone: three hellos.
const SILENCE_MS: u64 = 3 * HELLO_UP_MS + 1000;
/// Answers to hellos per second: two confused gateways must not talk each other to death.
const ANSWERS_PER_SECOND: u64 = 20;
/// Restarts of a peer per second that are believed: each one empties tables.
const LIVES_PER_SECOND: u64 = 1;

/// The body of a handshake datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "msg_type", rename_all = "snake_case")]
pub enum Handshake {
    /// Opens or keeps the link.
    Hello {
        /// Identity of the sender, new at every start.
        uid: String,
        /// Its name, for people.
        name: String,
        /// Session index that it wants to be sent to.
        session: u32,
        /// Session index of the receiver that it knows.
        your_session: Option<u32>,
        /// It takes the link for up.
        #[serde(default)]
        up: bool,
    },
    /// The sender stops.
    Bye {
        /// Identity of the sender.
        uid: String,
        /// Session index that it had.
        session: u32,
    },
}

impl Handshake {
    /// The body of the datagram.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a body; `None` if it is no handshake.
    pub fn parse(bytes: &[u8]) -> Option<Handshake> {
        let handshake: Handshake = serde_json::from_slice(bytes).ok()?;
        let (Handshake::Hello { uid, session, .. } | Handshake::Bye { uid, session }) = &handshake;
        (!uid.is_empty() && uid.len() <= 64 && *session != 0).then_some(handshake)
    }
}

/// What the gateway must do about a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The peer can be sent to.
    Up,
    /// It cannot any longer; the reason, for the log.
    Down(&'static str),
    /// It came back as another life without a pause: what was known of it is stale.
    Restarted,
}

/// What is known of the peer's present life.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Them {
    uid: String,
    name: String,
    session: u32,
}

/// The link to one peer.
pub struct Link {
    id: PeerId,
    name: String,
    address: SocketAddr,
    our_session: u32,
    them: Option<Them>,
    /// They know our session index.
    acknowledged: bool,
    up: bool,
    up_since_ms: u64,
    last_heard_ms: Option<u64>,
    next_hello_ms: u64,
    answers: RateLimit,
    lives: RateLimit,
    /// The path MTU, while the link is up.
    pub path: Option<PathMtu>,
    /// Datagrams that workers had received at the last look.
    heard_datagrams: u64,
    /// The next number in the control thread's lane.
    counter: u64,
    /// How often the link came up.
    pub ups: u64,
}

impl Link {
    /// A link that is down. `random` chooses the session index.
    pub fn new(id: PeerId, name: String, address: SocketAddr, random: u16) -> Link {
        Link {
            id,
            name,
            address,
            // 0 is nobody's index.
            our_session: session_index(id, random.max(1)),
            them: None,
            acknowledged: false,
            up: false,
            up_since_ms: 0,
            last_heard_ms: None,
            next_hello_ms: 0,
            answers: RateLimit::new(ANSWERS_PER_SECOND),
            lives: RateLimit::new(LIVES_PER_SECOND),
            path: None,
            heard_datagrams: 0,
            counter: 0,
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
    pub fn identity(&self) -> Option<(&str, &str)> {
        self.them.as_ref().map(|them| (them.uid.as_str(), them.name.as_str()))
    }

    /// Session index to send to it with, and the next counter in the control thread's lane.
    pub fn next_datagram(&mut self) -> Option<(u32, u64)> {
        let session = self.them.as_ref()?.session;
        self.counter += 1;
        Some((session, self.counter - 1))
    }

    /// What workers need to know; `address` in the family of the socket.
    pub fn view(&self, address: SocketAddr) -> PeerView {
        PeerView {
            address,
            their_session: self.them.as_ref().map_or(0, |them| them.session),
            our_session: self.our_session,
            up: self.up,
            max_datagram: self.path.as_ref().map_or(ipop_dataplane::peers::MIN_DATAGRAM, PathMtu::size),
        }
    }

    /// The hello to send now.
    pub fn hello(&self, uid: &str, name: &str) -> Handshake {
        Handshake::Hello {
            uid: uid.to_owned(),
            name: name.to_owned(),
            session: self.our_session,
            your_session: self.them.as_ref().map(|them| them.session),
            up: self.up,
        }
    }

    /// A handshake came from the peer's address. Returns what changed and whether a hello must go back at once.
    /// `random` is asked for a new session index, if one is needed.
    pub fn heard(
        &mut self,
        handshake: &Handshake,
        now_ms: u64,
        random: impl FnOnce() -> u16,
    ) -> (Option<LinkEvent>, bool) {
        match handshake {
            Handshake::Bye { uid, session } => {
                let known = self.them.as_ref().is_some_and(|them| them.uid == *uid && them.session == *session);
                (known.then(|| self.forget("it said goodbye")).flatten(), false)
            }
            Handshake::Hello { uid, name, session, your_session, up } => {
                let another_life = self.them.as_ref().is_some_and(|them| them.uid != *uid);
                if another_life && !self.lives.allow(now_ms) {
                    return (None, false);
                }
                self.last_heard_ms = Some(now_ms);
                if another_life {
                    // Its counters begin anew, so our window for it must: that goes with the session index.
                    let fresh = session_index(self.id, random().max(1));
                    self.our_session = if fresh == self.our_session { fresh ^ 1 << 31 } else { fresh };
                }
                let them = Them { uid: uid.clone(), name: name.chars().take(64).collect(), session: *session };
                let news = self.them.as_ref() != Some(&them);
                self.them = Some(them);
                self.acknowledged = *your_session == Some(self.our_session);
                let event = match (self.up, self.acknowledged) {
                    (false, true) => {
                        self.up = true;
                        self.up_since_ms = now_ms;
                        self.ups += 1;
                        Some(LinkEvent::Up)
                    }
                    (true, _) if another_life => {
                        self.up = self.acknowledged;
                        Some(LinkEvent::Restarted)
                    }
                    _ => None,
                };
                // Also when the other side has not heard that we know it: one hello of ours was lost.
                let answer = (news || !self.acknowledged || !up) && self.answers.allow(now_ms);
                (event, answer)
            }
        }
    }

    /// Looks at the clock and at what workers have received of the peer. Returns what changed and whether a
    /// hello is due.
    pub fn tick(&mut self, now_ms: u64, received_datagrams: u64) -> (Option<LinkEvent>, bool) {
        if received_datagrams != self.heard_datagrams {
            self.heard_datagrams = received_datagrams;
            self.last_heard_ms = Some(now_ms);
        }
        let silent = self.last_heard_ms.is_none_or(|heard| now_ms.saturating_sub(heard) >= SILENCE_MS);
        let event = if self.up && silent { self.forget("it is silent") } else { None };
        let due = now_ms >= self.next_hello_ms;
        if due {
            self.next_hello_ms = now_ms + if self.up { HELLO_UP_MS } else { HELLO_DOWN_MS };
        }
        (event, due)
    }

    fn forget(&mut self, why: &'static str) -> Option<LinkEvent> {
        self.acknowledged = false;
        self.path = None;
        self.next_hello_ms = 0;
        std::mem::take(&mut self.up).then_some(LinkEvent::Down(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(random: u16) -> Link {
        Link::new(PeerId(0), "peer".into(), "10.0.0.1:1".parse().unwrap(), random)
    }

    #[test]
    fn a_lost_answer_is_given_again() {
        let (mut a, mut b) = (link(1), link(2));
        b.heard(&a.hello("A", "a"), 0, || 9);
        assert_eq!(a.heard(&b.hello("B", "b"), 0, || 9), (Some(LinkEvent::Up), true));
        // The hello that would have told B is lost. B's next one is answered.
        assert_eq!(a.heard(&b.hello("B", "b"), 1000, || 9), (None, true));
        assert_eq!(b.heard(&a.hello("A", "a"), 1000, || 9).0, Some(LinkEvent::Up));
    }

    #[test]
    fn a_peer_has_not_many_lives_at_once() {
        let (mut a, mut b) = (link(1), link(2));
        talk(&mut a, "A", &mut b, "B", 0);
        let forged = |n: u32| Handshake::Hello {
            uid: format!("X{n}"),
            name: "x".into(),
            session: 5,
            your_session: None,
            up: false,
        };
        let believed = (0..1000).filter(|n| a.heard(&forged(*n), 0, || 9).0.is_some()).count();
        assert!(believed <= 1, "{believed}");
    }

    /// Delivers hellos between two links until neither answers; returns the events on both sides.
    fn talk(a: &mut Link, uid_a: &str, b: &mut Link, uid_b: &str, now: u64) -> (Vec<LinkEvent>, Vec<LinkEvent>) {
        let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
        let mut to_b = Some(a.hello(uid_a, "a"));
        for _ in 0..10 {
            let Some(hello) = to_b.take() else { break };
            let (event, answer) = b.heard(&hello, now, || 77);
            at_b.extend(event);
            if answer {
                let (event, answer) = a.heard(&b.hello(uid_b, "b"), now, || 78);
                at_a.extend(event);
                to_b = answer.then(|| a.hello(uid_a, "a"));
            }
        }
        (at_a, at_b)
    }

    #[test]
    fn one_hello_opens_the_link_on_both_sides() {
        let (mut a, mut b) = (link(1), link(2));
        assert_eq!(talk(&mut a, "A", &mut b, "B", 0), (vec![LinkEvent::Up], vec![LinkEvent::Up]));
        assert_eq!(a.next_datagram(), Some((b.our_session, 0)));
        assert_eq!(b.next_datagram(), Some((a.our_session, 0)));
        assert_eq!(a.next_datagram(), Some((b.our_session, 1)));
    }

    #[test]
    fn a_restart_is_noticed_and_gets_a_new_session() {
        let (mut a, mut b) = (link(1), link(2));
        talk(&mut a, "A", &mut b, "B", 0);
        let before = a.our_session;
        let mut b = link(3);
        let (at_a, at_b) = talk(&mut b, "B2", &mut a, "A", 10);
        let _ = at_a;
        assert!(at_b.contains(&LinkEvent::Restarted), "{at_b:?}");
        assert!(a.is_up() && b.is_up());
        assert_ne!(a.our_session, before);
    }

    #[test]
    fn silence_ends_it_and_traffic_keeps_it() {
        let (mut a, mut b) = (link(1), link(2));
        talk(&mut a, "A", &mut b, "B", 0);
        assert_eq!(a.tick(10_000, 5), (None, true));
        assert_eq!(a.tick(10_000 + SILENCE_MS - 1, 5).0, None);
        assert_eq!(a.tick(10_000 + SILENCE_MS, 5).0, Some(LinkEvent::Down("it is silent")));
        assert!(!a.is_up());
    }

    #[test]
    fn only_a_known_life_can_say_goodbye() {
        let (mut a, mut b) = (link(1), link(2));
        talk(&mut a, "A", &mut b, "B", 0);
        let session = b.our_session;
        let forged = Handshake::Bye { uid: "B".into(), session: session ^ 1 };
        assert_eq!(a.heard(&forged, 1, || 9), (None, false));
        let real = Handshake::Bye { uid: "B".into(), session };
        assert_eq!(a.heard(&real, 1, || 9).0, Some(LinkEvent::Down("it said goodbye")));
    }

    #[test]
    fn answers_are_limited() {
        let mut a = link(1);
        let hello = Handshake::Hello { uid: "B".into(), name: "b".into(), session: 5, your_session: None, up: false };
        let answers = (0..1000).filter(|_| a.heard(&hello, 0, || 9).1).count();
        assert!(answers <= ANSWERS_PER_SECOND as usize, "{answers}");
    }

    #[test]
    fn handshakes_survive_and_garbage_does_not() {
        let hello = link(1).hello("A", "a");
        assert_eq!(Handshake::parse(hello.to_json().as_bytes()), Some(hello));
        for bad in [
            "",
            "{}",
            r#"{"msg_type":"hello","uid":"","name":"","session":1}"#,
            r#"{"msg_type":"bye","uid":"x","session":0}"#,
        ] {
            assert_eq!(Handshake::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
