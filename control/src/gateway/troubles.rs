//! What is wrong with a peer, told in the log: why it is down, and that a key is used twice.

use std::io;
use std::net::SocketAddr;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::ending::Ending;
use ipop_dataplane::feature::words;
use ipop_dataplane::peers::same_address;
use ipop_dataplane::underlay::Knock;
use tracing::Level;

use super::Gateway;
use super::post::emit_message;
use super::throttle::About;
use crate::link::Link;
use crate::link::trouble::Trouble;
use crate::rpc::Message;

/// Peers that are asked for at a time whether anybody listens at their address.
const KNOCKS: usize = 8;

/// The questions whether anybody listens there.
#[derive(Debug, Default)]
pub(super) struct Knocks {
    asked: Vec<(PeerId, Knock)>,
    /// Whose turn is next.
    turn: usize,
}

/// A handshake that leads to nothing: how it is counted, and what is told of it.
pub(super) struct Refused(pub(super) Ending, pub(super) Why);

/// What is told of a handshake that leads to nothing.
pub(super) enum Why {
    /// It is as it should be.
    Nothing,
    /// What it is, as the rest of a sentence.
    Says(String),
    /// It may be why a peer is down: this one, or the one at the address that it comes from.
    Trouble(Option<PeerId>, Trouble),
    /// It is of another gateway with the peer's key.
    Twins(PeerId),
}

impl Refused {
    pub(super) fn says(what: impl Into<String>) -> Refused {
        Refused(Ending::HandshakeRefused, Why::Says(what.into()))
    }
}

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Refused {
        Refused(Ending::HandshakeRefused, Why::Trouble(None, trouble))
    }
}

impl Gateway {
    /// A handshake from there leads to nothing.
    pub(super) fn tell_refused(&mut self, from: SocketAddr, why: Why, now_ms: u64) {
        let (peer, trouble) = match why {
            Why::Nothing => return,
            Why::Says(what) => {
                let line = format!("a handshake from {from}, which {what}; it is ignored");
                return self.say(About::Strangers, Level::WARN, line);
            }
            Why::Twins(peer) => return self.tell_twins(peer, now_ms),
            Why::Trouble(peer, trouble) => (peer, trouble),
        };
        let at_address = || self.links.iter().find(|link| same_address(link.address(), from)).map(Link::id);
        match peer.or_else(at_address) {
            Some(peer) => self.see_trouble(peer, trouble, now_ms),
            None => {
                let line = format!("a handshake from {from}, which is the address of no peer: {trouble}");
                self.say(About::Strangers, Level::WARN, line);
            }
        }
    }

    /// Something was seen that may be why a peer is down.
    pub(super) fn see_trouble(&mut self, peer: PeerId, trouble: Trouble, now_ms: u64) {
        let untold = self.links.get_mut(peer.index()).and_then(|link| link.see(trouble, now_ms));
        self.tell_trouble(peer, untold);
    }

    /// A datagram to the peer was refused by the kernel.
    pub(super) fn cannot_send(&mut self, peer: PeerId, error: &io::Error) {
        // The queue is full, or the path carries less than was thought: both are no news of the peer.
        if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::EMSGSIZE | libc::EINTR)) {
            let now_ms = self.now_ms();
            self.see_trouble(peer, Trouble::Unreachable(words(error)), now_ms);
        }
    }

    /// Asks for some of the peers that are missing whether anybody listens at their address, and hears what became of the
    /// questions before. Called every few seconds.
    pub(super) fn knock(&mut self, now_ms: u64) {
        for (peer, knock) in std::mem::take(&mut self.knocks.asked) {
            if knock.is_refused() {
                self.see_trouble(peer, Trouble::Refused, now_ms);
            }
        }
        let (begin, count) = (self.knocks.turn, self.links.len());
        for index in (begin..count).chain(0..begin.min(count)) {
            let Some(link) = self.links.get(index).filter(|link| link.is_missing(now_ms)) else { continue };
            // A refusal to send is seen by what else is sent there.
            if let Ok(knock) = Knock::at(self.config.listen, link.address(), self.config.network) {
                self.knocks.asked.push((link.id(), knock));
            }
            self.knocks.turn = index + 1;
            if self.knocks.asked.len() == KNOCKS {
                break;
            }
        }
    }

    pub(super) fn tell_trouble(&mut self, peer: PeerId, trouble: Option<Trouble>) {
        if let (Some(link), Some(trouble)) = (self.links.get(peer.index()), trouble) {
            let line = format!("peer {} ({}) stays down: {trouble}", link.name(), link.address());
            self.say(About::Trouble(peer), Level::WARN, line);
        }
    }

    /// Two gateways have the peer's key: the log is told, and both of them are, where they can be.
    pub(super) fn tell_twins(&mut self, peer: PeerId, now_ms: u64) {
        let Some(link) = self.links.get(peer.index()) else { return };
        let Some(twins) = link.twins(now_ms) else { return };
        let line = format!(
            "two gateways have the key of peer {}: {} and {}. The link stays with the first; give the other a key of its own \
             (`ipop keygen`)",
            link.name(),
            twins.here,
            twins.there
        );
        let told = [twins.there, twins.here].map(|other| {
            let mut records = Vec::new();
            emit_message(&mut records, &Message::KeyInUse(other), link.smallest_capacity());
            records
        });
        let datagrams = link.to_twins(told, now_ms);
        self.say(About::Twins(peer), Level::ERROR, line);
        for (to, datagram) in datagrams {
            self.send_datagram(peer, to, &datagram);
        }
    }

    /// A peer says that another gateway has this gateway's key.
    pub(super) fn own_key_is_used(&mut self, peer: PeerId, other: SocketAddr, now_ms: u64) {
        let Some(link) = self.links.get_mut(peer.index()) else { return };
        link.see(Trouble::OwnKeyTwice(other), now_ms);
        let line = format!(
            "peer {} says that another gateway, at {other}, has this gateway's key: every gateway needs a key of its own \
             (`ipop keygen`), or they take each other's traffic",
            link.name()
        );
        self.say(About::Twins(peer), Level::ERROR, line);
    }
}
