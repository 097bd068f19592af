//! Frames from peers that wait until it is settled where their source is.

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::ending::Ending;
use ipop_dataplane::mac_table::{MacKey, Owner};
use ipop_dataplane::wire::Frame;
use ipop_dataplane::wire::vnet::PartialChecksum;

use super::Gateway;

/// Frames that are held at a time, and for how long: a little more than a contest about a MAC takes.
const MAX_HELD: usize = 64;
const HELD_MS: u64 = 1500;

/// One of them.
pub(super) struct Held {
    key: MacKey,
    peer: PeerId,
    frame: Box<[u8]>,
    csum: Option<PartialChecksum>,
    until_ms: u64,
}

/// Whether one more frame of a peer may be held: if it has no more than there are places left, so that there are some for
/// another.
fn has_place(held: &[Held], peer: PeerId) -> bool {
    held.iter().filter(|other| other.peer == peer).count() < MAX_HELD.saturating_sub(held.len())
}

impl Gateway {
    pub(super) fn hold(&mut self, peer: PeerId, bytes: Box<[u8]>, csum: Option<PartialChecksum>, now_ms: u64) {
        let Ok(frame) = Frame::parse(&bytes) else { return };
        if !has_place(&self.held, peer) {
            return self.counters.add(Ending::SourceIsLocal, 1);
        }
        let key = MacKey::new(frame.vlan, frame.src);
        self.held.push(Held { key, peer, frame: bytes, csum, until_ms: now_ms + HELD_MS });
    }

    /// Delivers what was held for MACs that have turned out to be at the peer; gives up what has waited for long.
    pub(super) fn release_held(&mut self, now_ms: u64) {
        if self.held.is_empty() {
            return;
        }
        for held in std::mem::take(&mut self.held) {
            match self.macs.table().lookup(held.key).map(|entry| entry.owner) {
                Some(owner) if owner == Owner::Peer(held.peer) => {
                    if self.inject(&held.frame, held.csum) {
                        self.counters.add(Ending::Delivered, 1);
                    }
                }
                Some(Owner::Local) if now_ms < held.until_ms => self.held.push(held),
                _ => self.counters.add(Ending::SourceIsLocal, 1),
            }
        }
    }

    /// When the first of them has waited for long.
    pub(super) fn held_until_ms(&self) -> Option<u64> {
        self.held.iter().map(|held| held.until_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_leaves_places_for_another() {
        let key = MacKey::new(Default::default(), ipop_dataplane::addr::MacAddr([2, 0, 0, 0, 0, 1]));
        let mut held = Vec::new();
        let mut fill = |peer| {
            let before = held.len();
            while has_place(&held, peer) {
                held.push(Held { key, peer, frame: Box::default(), csum: None, until_ms: 0 });
            }
            held.len() - before
        };
        assert_eq!([0, 1, 2].map(|peer| fill(PeerId(peer))), [32, 16, 8]);
    }
}
