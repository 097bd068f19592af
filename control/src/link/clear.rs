//! How a link in clear text (`"sec": false`) gets its session: each side says in a hello who it is, under which session index
//! it wants to be sent to, and which index it knows of the other side.
//!
//! ```json
//! {"msg_type":"hello","uid":"5b3c…","name":"gw-a","session":3735879680,"your_session":65537,"up":false}
//! ```
//!
//! Everyone chooses anew at each start, so a peer that restarted is noticed at its first hello, and what was meant for
//! its earlier life is not taken for anything else.

use std::sync::Arc;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::datagram::{CONTROL_LANE, DatagramHeader, HELLO};
use ipop_dataplane::forward::RateLimit;
use ipop_dataplane::peers::session_index;
use ipop_dataplane::session::{Incoming, Outgoing};
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use super::{Identity, Randomness, printable};

/// Answers to hellos per second: two confused gateways must not talk each other to death.
pub(super) const ANSWERS_PER_SECOND: u64 = 20;
/// Restarts of a peer per second that are believed: each one empties tables.
const LIVES_PER_SECOND: u64 = 1;

/// The body of a hello datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "msg_type", rename = "hello")]
pub struct Hello {
    /// Identity of the sender, new at every start.
    pub uid: String,
    /// Its name, for people.
    pub name: String,
    /// Session index that it wants to be sent to.
    pub session: u32,
    /// Session index of the receiver that it knows.
    pub your_session: Option<u32>,
    /// It takes the link for up.
    #[serde(default)]
    pub up: bool,
}

impl Hello {
    /// Reads a body; `None` if it is no hello. Texts are without control characters then.
    pub fn parse(bytes: &[u8]) -> Option<Hello> {
        let mut hello: Hello = serde_json::from_slice(bytes).ok()?;
        (hello.uid, hello.name) = (printable(&hello.uid), printable(&hello.name));
        (!hello.uid.is_empty() && hello.uid.len() <= 64 && hello.session != 0).then_some(hello)
    }
}

/// What is known of the peer's present life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// New at each of its starts.
    pub uid: String,
    /// Its name for itself.
    pub name: String,
}

/// What a hello has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// The peer knows our session index.
    pub acknowledged: bool,
    /// It came back as another life.
    pub another_life: bool,
    /// A hello must go back at once.
    pub answer: bool,
}

/// The session of one link.
pub struct Clear {
    id: PeerId,
    own: Arc<Identity>,
    incoming: Arc<Incoming>,
    them: Option<(Remote, Arc<Outgoing>)>,
    answers: RateLimit,
    lives: RateLimit,
}

impl Clear {
    /// Nothing is known of the peer yet.
    pub fn new(id: PeerId, own: Arc<Identity>, random: &mut Randomness<'_>) -> Clear {
        // 0 is nobody's index.
        let incoming = Incoming::new(session_index(id, (random() as u16).max(1)), None);
        Clear {
            id,
            own,
            incoming: Arc::new(incoming),
            them: None,
            answers: RateLimit::new(ANSWERS_PER_SECOND),
            lives: RateLimit::new(LIVES_PER_SECOND),
        }
    }

    /// What is sent with.
    pub fn outgoing(&self) -> Option<&Arc<Outgoing>> {
        self.them.as_ref().map(|(_, outgoing)| outgoing)
    }

    /// What is taken.
    pub fn incoming(&self) -> &Arc<Incoming> {
        &self.incoming
    }

    /// What the peer says of itself.
    pub fn remote(&self) -> Option<&Remote> {
        self.them.as_ref().map(|(remote, _)| remote)
    }

    /// The hello to send now.
    pub fn hello(&self, up: bool) -> Hello {
        Hello {
            uid: self.own.uid.clone(),
            name: self.own.name.clone(),
            session: self.incoming.session(),
            your_session: self.outgoing().map(|outgoing| outgoing.session()),
            up,
        }
    }

    /// The same as a datagram.
    pub fn datagram(&self, up: bool) -> Vec<u8> {
        let header = DatagramHeader::new(HELLO, self.own.network, 0, CONTROL_LANE, 0);
        let body = serde_json::to_vec(&self.hello(up)).unwrap_or_default();
        [header.as_bytes(), &body].concat()
    }

    /// A hello came from the peer's address; `None` if it is not believed.
    pub fn heard(&mut self, hello: &Hello, now_ms: u64, random: &mut Randomness<'_>) -> Option<Heard> {
        let another_life = self.remote().is_some_and(|them| them.uid != hello.uid);
        if another_life && !self.lives.allow(now_ms) {
            return None;
        }
        if another_life {
            // Its counters begin anew, so our window for it must: that goes with the session index.
            let fresh = session_index(self.id, (random() as u16).max(1));
            let ours = self.incoming.session();
            self.incoming = Arc::new(Incoming::new(if fresh == ours { fresh ^ 1 << 31 } else { fresh }, None));
        }
        let remote = Remote { uid: hello.uid.clone(), name: hello.name.chars().take(64).collect() };
        let same_session = self.outgoing().is_some_and(|outgoing| outgoing.session() == hello.session);
        let news = !same_session || self.remote() != Some(&remote);
        let outgoing = match &self.them {
            // The peer's window knows the counters of this session.
            Some((_, outgoing)) if same_session && !another_life => outgoing.clone(),
            _ => Arc::new(Outgoing::new(hello.session, None, self.own.workers)),
        };
        self.them = Some((remote, outgoing));
        let acknowledged = hello.your_session == Some(self.incoming.session());
        // Also when the other side has not heard that we know it: one hello of ours was lost.
        let answer = (news || !acknowledged || !hello.up) && self.answers.allow(now_ms);
        Some(Heard { acknowledged, another_life, answer })
    }
}
