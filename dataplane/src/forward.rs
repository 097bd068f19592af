//! Where a frame goes: pure decisions on tables and headers, without any file descriptor.

use crate::addr::{MacAddr, PeerId};
use crate::claims::Claims;
use crate::ending::Ending;
use crate::mac_table::{MacEntry, MacKey, MacTable, Owner};
use crate::wire::ethernet::ethertype;
use crate::wire::{Frame, arp, ndp};

/// Which frames to 01:80:c2:00:00:0x are carried: bit x, as in the `group_fwd_mask` of Linux' bridge. These are the addresses
/// of protocols that concern one link, or one bridge (IEEE 802.1Q-2022, table 8-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupMask(u16);

impl GroupMask {
    /// 01:80:c2:00:00:01, pause frames. They mean the one cable that they came by, and no bridge forwards them.
    const PAUSE: u16 = 1 << 1;
    /// All that can be: what a bridge hands to a TAP it has decided to forward, and what it gets there it decides itself.
    pub const ALL: GroupMask = GroupMask(!Self::PAUSE);
    /// What Linux' bridge forwards unless it is told otherwise: spanning tree, so that a loop through the segment is found.
    pub const SPANNING_TREE: GroupMask = GroupMask(1);

    /// `None` with the bit of pause frames.
    pub fn new(bits: u16) -> Option<GroupMask> {
        (bits & Self::PAUSE == 0).then_some(GroupMask(bits))
    }

    /// As a bridge shows it.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Why a frame stays on its link, if it does.
    fn refuses(self, frame: &Frame<'_>) -> Option<Ending> {
        if frame.ethertype == ethertype::MAC_CONTROL {
            return Some(Ending::MacControl);
        }
        let reserved = frame.dst.is_bridge_reserved() && self.0 >> (frame.dst.0[5] & 0x0f) & 1 == 0;
        reserved.then_some(Ending::BridgeReserved)
    }
}

/// Where a frame from the port goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To the peer that owns the destination.
    Peer(PeerId),
    /// Broadcast or multicast: to every peer that is up.
    AllPeers,
    /// Unknown unicast: to every peer that is up, within the flood rate.
    Flood,
    /// ARP or neighbour discovery: to the control thread.
    Control,
    /// Nowhere.
    Drop(Ending),
}

/// What a frame says about its source that the table does not know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learn {
    /// The source.
    pub key: MacKey,
    /// Where the frame came from.
    pub at: Owner,
    /// What the table says.
    pub known: Option<MacEntry>,
}

impl Learn {
    /// One word that tells this piece of news from others with all but certainty; never 0.
    pub fn mark(&self) -> u64 {
        let owner = match self.at {
            Owner::Local => 0xfff,
            Owner::Peer(peer) => u64::from(peer.0),
        };
        (self.key.bits() ^ owner << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
    }
}

/// Steps (3) and (4): looks at the source, then decides by the destination. `now` in seconds renews the source's age. `own`
/// is the MAC that the gateway asks stations from: what they send to it goes nowhere.
pub fn from_port(
    table: &MacTable,
    own: MacAddr,
    groups: GroupMask,
    frame: &Frame<'_>,
    now: u32,
) -> (Verdict, Option<Learn>) {
    if !frame.src.is_station() {
        return (Verdict::Drop(Ending::BadSource), None);
    }
    if let Some(ending) = groups.refuses(frame) {
        return (Verdict::Drop(ending), None);
    }
    let source = MacKey::new(frame.vlan, frame.src);
    let learn = match table.lookup(source) {
        Some(known) if known.owner == Owner::Local => {
            table.touch(source, known, now);
            None
        }
        known => Some(Learn { key: source, at: Owner::Local, known }),
    };
    let verdict = if is_resolution(frame) {
        Verdict::Control
    } else if frame.dst.is_group() {
        Verdict::AllPeers
    } else {
        match table.lookup(MacKey::new(frame.vlan, frame.dst)).map(|entry| entry.owner) {
            Some(Owner::Peer(peer)) => Verdict::Peer(peer),
            Some(Owner::Local) => Verdict::Drop(Ending::StaysLocal),
            None if frame.dst == own => Verdict::Drop(Ending::StaysLocal),
            None => Verdict::Flood,
        }
    };
    (verdict, learn)
}

/// True for what the control thread resolves: ARP, and neighbour solicitation and advertisement, with at most one
/// customer tag. A question to one station is a check whether it is alive, and travels as data.
fn is_resolution(frame: &Frame<'_>) -> bool {
    let asks_one = |question: bool| question && !frame.dst.is_group();
    frame.is_plain()
        && match frame.ethertype {
            ethertype::ARP => !asks_one(arp::is_request(frame)),
            ethertype::IPV6 => ndp::is_neighbour_discovery(frame) && !asks_one(ndp::is_solicitation(frame)),
            _ => false,
        }
}

/// Step (10): whether a frame from `peer` may be written to the port, and what is to be learned from it.
///
/// A source that is on this side stays here until the control thread moves it: otherwise a peer, or a loop in
/// somebody's cabling, could draw the traffic of a local MAC to itself with one frame.
pub fn from_peer(
    table: &MacTable,
    claims: &Claims,
    groups: GroupMask,
    frame: &Frame<'_>,
    peer: PeerId,
    now: u32,
) -> (Result<(), Ending>, Option<Learn>) {
    if !frame.src.is_station() {
        return (Err(Ending::BadSource), None);
    }
    if let Some(ending) = groups.refuses(frame) {
        return (Err(ending), None);
    }
    if let Err(ending) = claims.check(frame) {
        return (Err(ending), None);
    }
    let source = MacKey::new(frame.vlan, frame.src);
    let at = Owner::Peer(peer);
    match table.lookup(source) {
        Some(known) if known.owner == at => {
            table.touch(source, known, now);
            (Ok(()), None)
        }
        // The control thread refuses it too, and says so in the log.
        known if !claims.allow_mac(frame.src) => (Err(Ending::MacNotAllowed), Some(Learn { key: source, at, known })),
        known @ Some(MacEntry { owner: Owner::Local, .. }) => {
            (Err(Ending::SourceIsLocal), Some(Learn { key: source, at, known }))
        }
        known => (Ok(()), Some(Learn { key: source, at, known })),
    }
}

/// A token bucket: at most `rate` per second, in bursts of at most `rate / 4`.
#[derive(Debug)]
pub struct RateLimit {
    rate: u64,
    /// Thousandths of a token.
    tokens: u64,
    filled_ms: u64,
}

impl RateLimit {
    /// A full bucket.
    pub fn new(rate: u64) -> RateLimit {
        RateLimit { rate, tokens: Self::burst(rate), filled_ms: 0 }
    }

    fn burst(rate: u64) -> u64 {
        (rate * 250).max(1000)
    }

    /// Takes a token if there is one.
    pub fn allow(&mut self, now_ms: u64) -> bool {
        let elapsed = now_ms.saturating_sub(self.filled_ms);
        self.filled_ms = self.filled_ms.max(now_ms);
        self.tokens = (self.tokens + elapsed.min(1000) * self.rate).min(Self::burst(self.rate));
        let allowed = self.tokens >= 1000;
        if allowed {
            self.tokens -= 1000;
        }
        allowed
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::addr::Vlan;
    use crate::mac_table::MacWriter;
    use crate::wire::ethernet::emit_header;
    use std::sync::Arc;

    const LOCAL: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const REMOTE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const STRANGER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
    const OWN: MacAddr = MacAddr([0xfe, 0, 0, 0, 0, 9]);
    const PEER: PeerId = PeerId(5);

    fn table() -> (Arc<MacTable>, MacWriter) {
        let (table, mut writer) = MacTable::new(16, [1, 2]);
        let entry = |owner| MacEntry { owner, moves: 0, seen: 0 };
        writer.insert(MacKey::new(Vlan::UNTAGGED, LOCAL), entry(Owner::Local)).unwrap();
        writer.insert(MacKey::new(Vlan::UNTAGGED, REMOTE), entry(Owner::Peer(PEER))).unwrap();
        (table, writer)
    }

    fn frame(dst: MacAddr, src: MacAddr, vlan: Vlan, ethertype: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        emit_header(&mut bytes, dst, src, vlan, ethertype);
        bytes.resize(60, 0);
        bytes
    }

    fn out(dst: MacAddr, src: MacAddr, vlan: Vlan, ethertype: u16) -> (Verdict, bool) {
        let (table, _writer) = table();
        let bytes = frame(dst, src, vlan, ethertype);
        let (verdict, learn) = from_port(&table, OWN, GroupMask::SPANNING_TREE, &Frame::parse(&bytes).unwrap(), 1);
        (verdict, learn.is_some())
    }

    #[test]
    fn verdicts_from_the_port() {
        let untagged = Vlan::UNTAGGED;
        let reserved = |low| MacAddr([1, 0x80, 0xc2, 0, 0, low]);
        let cases = [
            (REMOTE, LOCAL, untagged, ethertype::IPV4, Verdict::Peer(PEER), false),
            (MacAddr::BROADCAST, LOCAL, untagged, ethertype::IPV4, Verdict::AllPeers, false),
            (MacAddr::BROADCAST, LOCAL, untagged, ethertype::ARP, Verdict::Control, false),
            (STRANGER, LOCAL, untagged, 0x1234, Verdict::Flood, false),
            (OWN, LOCAL, untagged, 0x1234, Verdict::Drop(Ending::StaysLocal), false),
            (LOCAL, STRANGER, untagged, ethertype::IPV4, Verdict::Drop(Ending::StaysLocal), true),
            (REMOTE, LOCAL, Vlan::customer(10), ethertype::IPV4, Verdict::Flood, true),
            (MacAddr::BROADCAST, LOCAL, Vlan::customer(10), ethertype::ARP, Verdict::Control, true),
            (MacAddr::BROADCAST, LOCAL, Vlan::service(10), ethertype::ARP, Verdict::AllPeers, true),
            (MacAddr::BROADCAST, LOCAL, untagged, ethertype::RARP, Verdict::AllPeers, false),
            (reserved(0), LOCAL, untagged, 0x0027, Verdict::AllPeers, false),
            (reserved(1), LOCAL, untagged, 0x1234, Verdict::Drop(Ending::BridgeReserved), false),
            (reserved(1), LOCAL, untagged, 0x8808, Verdict::Drop(Ending::MacControl), false),
            (REMOTE, LOCAL, untagged, 0x8808, Verdict::Drop(Ending::MacControl), false),
            (reserved(3), LOCAL, untagged, 0x888e, Verdict::Drop(Ending::BridgeReserved), false),
            (reserved(0x10), LOCAL, untagged, 0x888e, Verdict::AllPeers, false),
            (REMOTE, MacAddr::BROADCAST, untagged, ethertype::IPV4, Verdict::Drop(Ending::BadSource), false),
            (REMOTE, MacAddr::ZERO, untagged, ethertype::IPV4, Verdict::Drop(Ending::BadSource), false),
            // A container that came here from the peer: forwarded at once, and learned.
            (REMOTE, REMOTE, untagged, ethertype::IPV4, Verdict::Peer(PEER), true),
        ];
        for (dst, src, vlan, ethertype, verdict, learns) in cases {
            assert_eq!(out(dst, src, vlan, ethertype), (verdict, learns), "{src} > {dst} {vlan} {ethertype:04x}");
        }
    }

    #[test]
    fn a_question_to_one_station_is_data_and_its_answer_is_not() {
        let (table, _writer) = table();
        for (operation, verdict) in [(1, Verdict::Peer(PEER)), (2, Verdict::Control)] {
            let mut bytes = frame(REMOTE, LOCAL, Vlan::UNTAGGED, ethertype::ARP);
            bytes[21] = operation;
            assert_eq!(
                from_port(&table, OWN, GroupMask::ALL, &Frame::parse(&bytes).unwrap(), 1).0,
                verdict,
                "{operation}"
            );
        }
    }

    #[test]
    fn a_mask_says_which_reserved_groups_are_carried() {
        let (table, _writer) = table();
        for mask in
            [GroupMask::ALL, GroupMask::SPANNING_TREE, GroupMask::new(0).unwrap(), GroupMask::new(0x4008).unwrap()]
        {
            for low in 0..16 {
                let bytes = frame(MacAddr([1, 0x80, 0xc2, 0, 0, low]), LOCAL, Vlan::UNTAGGED, 0x0027);
                let parsed = Frame::parse(&bytes).unwrap();
                let carried = mask.bits() >> low & 1 == 1;
                let verdict = from_port(&table, OWN, mask, &parsed, 1).0;
                let expected = if carried { Verdict::AllPeers } else { Verdict::Drop(Ending::BridgeReserved) };
                assert_eq!(verdict, expected, "{mask:?} {low}");
                let bytes = frame(parsed.dst, REMOTE, Vlan::UNTAGGED, 0x0027);
                let from_peer = from_peer(&table, &Claims::default(), mask, &Frame::parse(&bytes).unwrap(), PEER, 1).0;
                assert_eq!(from_peer.is_ok(), carried, "{mask:?} {low}");
            }
        }
        assert_eq!((GroupMask::new(2), GroupMask::ALL.bits()), (None, 0xfffd));
    }

    #[test]
    fn from_a_peer() {
        let (table, _writer) = table();
        let may = |claims: &Claims, src, peer| {
            let bytes = frame(LOCAL, src, Vlan::UNTAGGED, ethertype::IPV4);
            let (verdict, learn) = from_peer(&table, claims, GroupMask::ALL, &Frame::parse(&bytes).unwrap(), peer, 1);
            (verdict, learn.is_some())
        };
        let check = |src, peer| may(&Claims::default(), src, peer);
        assert_eq!(check(REMOTE, PEER), (Ok(()), false));
        assert_eq!(check(REMOTE, PeerId(6)), (Ok(()), true));
        assert_eq!(check(STRANGER, PEER), (Ok(()), true));
        assert_eq!(check(LOCAL, PEER), (Err(Ending::SourceIsLocal), true));
        assert_eq!(check(MacAddr::ZERO, PEER), (Err(Ending::BadSource), false));
        // The table has only what is allowed, so what is in it is not asked for again.
        let stranger = Claims::new(Some(vec![STRANGER]), None);
        assert_eq!(may(&stranger, REMOTE, PEER), (Ok(()), false));
        assert_eq!(may(&stranger, REMOTE, PeerId(6)), (Err(Ending::MacNotAllowed), true));
        assert_eq!(may(&stranger, STRANGER, PEER), (Ok(()), true));
        assert_eq!(may(&stranger, LOCAL, PEER), (Err(Ending::MacNotAllowed), true));
    }

    #[test]
    fn rate_limit_gives_a_burst_and_then_its_rate() {
        let mut limit = RateLimit::new(1000);
        assert_eq!((0..1000).filter(|_| limit.allow(0)).count(), 250);
        assert_eq!((1..=2000).filter(|ms| limit.allow(*ms)).count(), 2000);
        assert_eq!((0..1000).filter(|_| limit.allow(2000)).count(), 0);
    }
}
