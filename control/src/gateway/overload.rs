//! Peers that say more than they may: named in the log, once a minute each.

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::budget::MESSAGE_RATE;
use tracing::warn;

use super::{Gateway, peer_name};

/// Between two lines of the log about the same peer.
const LOG_MS: u64 = 60_000;

/// What has been told of each peer.
#[derive(Debug, Default)]
pub(super) struct Overload {
    peers: Vec<Told>,
}

/// How many messages the log has told of as dropped, and when the next line may be written.
#[derive(Debug, Default, Clone)]
struct Told {
    dropped: u64,
    log_at_ms: u64,
}

impl Overload {
    /// How many of the `dropped` messages of a peer are to be told of now.
    fn untold(&mut self, peer: PeerId, dropped: u64, now_ms: u64) -> Option<u64> {
        if self.peers.len() <= peer.index() {
            self.peers.resize(peer.index() + 1, Told::default());
        }
        let told = self.peers.get_mut(peer.index())?;
        let more = dropped.saturating_sub(told.dropped);
        if more == 0 || now_ms < told.log_at_ms {
            return None;
        }
        *told = Told { dropped, log_at_ms: now_ms + LOG_MS };
        Some(more)
    }
}

impl Gateway {
    /// Looks at what was dropped; called once a second.
    pub(super) fn name_overload(&mut self, now_ms: u64) {
        for index in 0..self.links.len() {
            let peer = PeerId(index as u16);
            let dropped = self.messages_dropped(peer);
            if let Some(more) = self.overload.untold(peer, dropped, now_ms) {
                warn!(
                    "peer {} sends more messages than the {MESSAGE_RATE} per second that it may, or that are taken from \
                     it: {more} dropped; those of the next minute are told of then",
                    peer_name(&self.links, peer)
                );
            }
        }
    }

    /// Messages of a peer that were dropped because there were too many.
    pub(super) fn messages_dropped(&self, peer: PeerId) -> u64 {
        self.events.budget(peer).map_or(0, |budget| budget.dropped())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_named_once_a_minute_with_what_has_come_since() {
        let mut overload = Overload::default();
        let [one, other] = [PeerId(0), PeerId(7)];
        assert_eq!(overload.untold(one, 0, 1000), None);
        assert_eq!(overload.untold(one, 500, 2000), Some(500));
        assert_eq!(overload.untold(one, 9000, 3000), None);
        assert_eq!(overload.untold(other, 3, 3000), Some(3));
        assert_eq!(overload.untold(one, 9001, 62_000), Some(8501));
        assert_eq!(overload.untold(one, 9001, 200_000), None, "it has stopped");
        assert_eq!(overload.untold(one, 9002, 201_000), Some(1));
    }
}
