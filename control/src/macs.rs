//! Who owns a MAC: what workers learn, what peers claim, who is right when they disagree, and when it is forgotten.
//!
//! The rules, in the order in which they apply:
//!
//! 1. A frame from the port makes its source local at once, wherever it was before. If it was at a peer, the MAC has
//!    moved here: its move number rises. All peers are told (`mac_moved`), also of a MAC that is merely new here: one of
//!    them may have it still, and would keep its traffic.
//! 2. A claim of a peer with a higher move number than ours wins over everything, also over "local"
//!    (RFC 7432, section 7.7). The bridge is shown where the MAC is now, by a frame from it.
//! 3. A claim that is not newer does not take a local MAC away. But it may be right: the peer may have restarted and lost
//!    the number. So the MAC is put to the test: if it gives no sign of life, it has moved; if it does, the peer is told.

use std::collections::HashMap;

use ipop_dataplane::addr::{MacAddr, PeerId, Vlan};
use ipop_dataplane::forward::{Learn, RateLimit};
use ipop_dataplane::mac_table::{MacEntry, MacKey, MacTable, MacWriter, Owner, newer_move};
use ipop_dataplane::wire::ethernet::{emit_header, ethertype};

use crate::action::{Action, To};
use crate::rpc::{MacMoved, Message};

/// Time for a sign of life from a MAC whose IP address is known, so that it can be asked.
const ASKED_MS: u64 = 400;
/// The same where nothing can be asked: a little more than the resolution of "last seen".
const WATCHED_MS: u64 = 1100;
/// For how long frames do not contradict a move that a peer has told.
const SETTLE_MS: u64 = 2000;
/// MACs that can be at test at a time.
const MAX_CONTESTS: usize = 1024;

/// New MACs per second that peers are told of. A guest that makes up MACs must not flood them with messages; of those
/// beyond, peers learn from frames.
const NEWS_RATE: u64 = 1000;

/// A local MAC that a peer claims too.
#[derive(Debug, Clone, Copy)]
struct Contest {
    peer: PeerId,
    seen_before: u32,
    alive: bool,
    decide_at_ms: u64,
}

/// What became of a peer's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The MAC is the peer's.
    Accepted,
    /// The MAC was local and is the peer's now.
    MovedAway,
    /// The MAC stays local for now, and is put to the test from now on.
    Contested,
    /// The MAC stays local for now; it is at test already.
    AtTest,
    /// Another peer has a newer claim.
    Outdated,
}

/// What happened to MACs, for `ipop status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MacStats {
    /// Entered into the table.
    pub learned: u64,
    /// Forgotten because they sent nothing.
    pub aged: u64,
    /// Came here from a peer.
    pub moved_here: u64,
    /// Went from here to a peer.
    pub moved_away: u64,
    /// Claimed by a peer while alive here.
    pub conflicts: u64,
    /// Not entered because the table is full.
    pub table_full: u64,
}

/// The MAC table and the rules about it.
pub struct Macs {
    writer: MacWriter,
    expiry_s: u32,
    contests: HashMap<MacKey, Contest>,
    /// When a MAC moved by number, for a moment.
    moved_at: HashMap<MacKey, u64>,
    news: RateLimit,
    /// What happened.
    pub stats: MacStats,
}

impl Macs {
    /// The rules over a table. `expiry_s`: seconds after which a MAC that sends nothing is forgotten.
    pub fn new(writer: MacWriter, expiry_s: u32) -> Macs {
        Macs {
            writer,
            expiry_s,
            contests: HashMap::new(),
            moved_at: HashMap::new(),
            news: RateLimit::new(NEWS_RATE),
            stats: MacStats::default(),
        }
    }

    /// The table.
    pub fn table(&self) -> &MacTable {
        self.writer.table()
    }

    /// Entries and how many there can be.
    pub fn usage(&self) -> (usize, usize) {
        (self.writer.len(), self.writer.capacity())
    }

    /// How often this MAC has moved, as far as we know.
    pub fn moves(&self, vlan: Vlan, mac: MacAddr) -> u16 {
        self.table().lookup(MacKey::new(vlan, mac)).map_or(0, |entry| entry.moves)
    }

    /// True while a local MAC is at test.
    pub fn is_contested(&self) -> bool {
        !self.contests.is_empty()
    }

    /// A worker saw a frame whose source the table did not know so. If the answer is a claim that is contested, the
    /// caller can help by asking the MAC for a sign of life.
    pub fn learn(&mut self, learn: Learn, now_ms: u64, out: &mut Vec<Action>) -> Option<Claim> {
        match learn.at {
            Owner::Local => {
                self.here(learn.key, now_ms, out);
                None
            }
            Owner::Peer(peer) => {
                let known = self.table().lookup(learn.key);
                // Frames that were under way when the MAC moved must not move it back.
                let just_moved = self.moved_at.get(&learn.key).is_some_and(|at| now_ms - at < SETTLE_MS);
                if just_moved && known.is_some_and(|entry| entry.owner != Owner::Local) {
                    return Some(Claim::Outdated);
                }
                let moves = known.map_or(0, |entry| entry.moves);
                Some(self.claim(learn.key, peer, moves, now_ms, out))
            }
        }
    }

    /// The MAC sent a frame on this side.
    pub fn here(&mut self, key: MacKey, now_ms: u64, out: &mut Vec<Action>) {
        if let Some(contest) = self.contests.get_mut(&key) {
            contest.alive = true;
        }
        let now = seconds(now_ms);
        match self.table().lookup(key) {
            Some(known) if known.owner == Owner::Local => self.writer.table().touch(key, known, now),
            Some(known) => {
                let moves = (known.moves + 1) & 0xfff;
                self.enter(key, MacEntry { owner: Owner::Local, moves, seen: now });
                self.stats.moved_here += 1;
                out.push(moved(To::All, key, moves));
            }
            None => {
                self.enter(key, MacEntry { owner: Owner::Local, moves: 0, seen: now });
                if self.news.allow(now_ms) {
                    out.push(moved(To::All, key, 0));
                }
            }
        }
    }

    /// A peer says, by a frame or a message, that the MAC is on its side, and how often it has moved.
    pub fn claim(&mut self, key: MacKey, peer: PeerId, moves: u16, now_ms: u64, out: &mut Vec<Action>) -> Claim {
        let now = seconds(now_ms);
        let theirs = MacEntry { owner: Owner::Peer(peer), moves, seen: now };
        match self.table().lookup(key) {
            Some(known) if known.owner == Owner::Local => {
                if newer_move(moves, known.moves) {
                    self.leave(key, theirs, now_ms, out);
                    return Claim::MovedAway;
                }
                if self.contests.contains_key(&key) || self.contests.len() >= MAX_CONTESTS {
                    return Claim::AtTest;
                }
                let decide_at_ms = now_ms + WATCHED_MS;
                let contest = Contest { peer, seen_before: known.seen, alive: false, decide_at_ms };
                self.contests.insert(key, contest);
                Claim::Contested
            }
            // Among peers the newer move wins; an equal one is the newer word.
            Some(known) if known.owner != theirs.owner && newer_move(known.moves, moves) => Claim::Outdated,
            Some(known) => {
                if newer_move(moves, known.moves) && self.moved_at.len() < MAX_CONTESTS {
                    self.moved_at.insert(key, now_ms);
                }
                // Its own gateway may know less than others of how often it moved.
                let moves = if newer_move(known.moves, moves) { known.moves } else { moves };
                self.enter(key, MacEntry { moves, ..theirs });
                Claim::Accepted
            }
            None => {
                self.enter(key, theirs);
                Claim::Accepted
            }
        }
    }

    /// The MAC at test has been asked; its answer decides sooner.
    pub fn asked(&mut self, key: MacKey, now_ms: u64) {
        if let Some(contest) = self.contests.get_mut(&key) {
            contest.decide_at_ms = contest.decide_at_ms.min(now_ms + ASKED_MS);
        }
    }

    /// Decides the tests whose time has come. Returns the MACs that went to a peer.
    pub fn decide(&mut self, now_ms: u64, out: &mut Vec<Action>) -> Vec<(MacKey, PeerId)> {
        let mut gone = Vec::new();
        let due: Vec<_> =
            self.contests.iter().filter(|(_, c)| c.decide_at_ms <= now_ms).map(|(k, c)| (*k, *c)).collect();
        for (key, contest) in due {
            self.contests.remove(&key);
            let Some(known) = self.table().lookup(key).filter(|entry| entry.owner == Owner::Local) else { continue };
            // One above ours either way, so that nobody who has the old number disagrees.
            let moves = (known.moves + 1) & 0xfff;
            if contest.alive || known.seen != contest.seen_before {
                self.stats.conflicts += 1;
                self.enter(key, MacEntry { moves, ..known });
                out.push(moved(To::Peer(contest.peer), key, moves));
            } else {
                let theirs = MacEntry { owner: Owner::Peer(contest.peer), moves, seen: seconds(now_ms) };
                self.leave(key, theirs, now_ms, out);
                gone.push((key, contest.peer));
            }
        }
        gone
    }

    /// Forgets what was at a peer that is gone.
    pub fn flush(&mut self, peer: PeerId) {
        self.writer.retain(|_, entry| entry.owner != Owner::Peer(peer));
        self.contests.retain(|_, contest| contest.peer != peer);
    }

    /// Enters a MAC of the gateway's own, which never sends: what is sent to it ends here.
    pub fn reserve(&mut self, key: MacKey) {
        if self.table().lookup(key).is_none() {
            self.enter(key, MacEntry { owner: Owner::Local, moves: 0, seen: u32::MAX });
        }
    }

    /// Forgets what has sent nothing for long.
    pub fn expire(&mut self, now_ms: u64) {
        let (now, expiry) = (seconds(now_ms), self.expiry_s);
        self.moved_at.retain(|_, at| now_ms - *at < SETTLE_MS);
        let before = self.writer.len();
        self.writer.retain(|_, entry| now.saturating_sub(entry.seen) < expiry);
        self.stats.aged += (before - self.writer.len()) as u64;
    }

    fn enter(&mut self, key: MacKey, entry: MacEntry) {
        let before = self.writer.len();
        match self.writer.insert(key, entry) {
            Ok(()) => self.stats.learned += (self.writer.len() - before) as u64,
            Err(_) => self.stats.table_full += 1,
        }
    }

    /// A local MAC is a peer's now: show the bridge, which would go on delivering to the old port.
    fn leave(&mut self, key: MacKey, theirs: MacEntry, now_ms: u64, out: &mut Vec<Action>) {
        self.contests.remove(&key);
        self.enter(key, theirs);
        if self.moved_at.len() < MAX_CONTESTS {
            self.moved_at.insert(key, now_ms);
        }
        self.stats.moved_away += 1;
        out.push(Action::Inject(arrival_notice(key)));
    }
}

fn moved(to: To, key: MacKey, seq: u16) -> Action {
    Action::Message(to, Message::MacMoved(MacMoved { mac: key.mac(), vlan: key.vlan(), seq }))
}

fn seconds(ms: u64) -> u32 {
    (ms / 1000) as u32
}

/// A broadcast from the MAC, so that bridges learn where it is now: a reverse ARP request for itself (RFC 903), which
/// is what QEMU sends when a guest has migrated, and which no host answers.
fn arrival_notice(key: MacKey) -> Vec<u8> {
    let mac = key.mac();
    let mut frame = Vec::with_capacity(64);
    emit_header(&mut frame, MacAddr::BROADCAST, mac, key.vlan(), ethertype::RARP);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 3]);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&[0; 4]);
    frame.resize(frame.len().max(60), 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: PeerId = PeerId(0);
    const C: PeerId = PeerId(1);

    fn key() -> MacKey {
        MacKey::new(Vlan::UNTAGGED, MacAddr([2, 0, 0, 0, 0, 1]))
    }

    fn macs() -> Macs {
        Macs::new(MacTable::new(16, [1, 2]).1, 300)
    }

    fn entry(macs: &Macs) -> Option<(Owner, u16)> {
        macs.table().lookup(key()).map(|e| (e.owner, e.moves))
    }

    #[test]
    fn a_move_to_here_is_told_to_all() {
        let (mut macs, mut out) = (macs(), Vec::new());
        macs.claim(key(), B, 4, 0, &mut out);
        macs.here(key(), 0, &mut out);
        assert_eq!(entry(&macs), Some((Owner::Local, 5)));
        assert_eq!(out, [moved(To::All, key(), 5)]);
    }

    #[test]
    fn a_newer_move_takes_a_local_mac_and_tells_the_bridge() {
        let (mut macs, mut out) = (macs(), Vec::new());
        macs.here(key(), 0, &mut out);
        assert_eq!(out, [moved(To::All, key(), 0)], "a new one is told, too");
        out.clear();
        assert_eq!(macs.claim(key(), B, 1, 0, &mut out), Claim::MovedAway);
        assert_eq!(entry(&macs), Some((Owner::Peer(B), 1)));
        assert!(matches!(&out[..], [Action::Inject(frame)] if frame[6..12] == key().mac().0));
    }

    #[test]
    fn a_local_mac_that_lives_stays() {
        let (mut macs, mut out) = (macs(), Vec::new());
        macs.here(key(), 0, &mut out);
        out.clear();
        assert_eq!(macs.claim(key(), B, 0, 0, &mut out), Claim::Contested);
        macs.asked(key(), 0);
        macs.here(key(), 100, &mut out);
        assert_eq!(macs.decide(ASKED_MS, &mut out), []);
        assert_eq!(entry(&macs), Some((Owner::Local, 1)));
        assert_eq!(out, [moved(To::Peer(B), key(), 1)]);
        assert_eq!(macs.stats.conflicts, 1);
    }

    #[test]
    fn a_local_mac_that_is_silent_goes() {
        let (mut macs, mut out) = (macs(), Vec::new());
        macs.here(key(), 0, &mut out);
        macs.claim(key(), B, 0, 5000, &mut out);
        assert_eq!(macs.decide(5000 + WATCHED_MS - 1, &mut out), []);
        assert_eq!(macs.decide(5000 + WATCHED_MS, &mut out), [(key(), B)]);
        assert_eq!(entry(&macs), Some((Owner::Peer(B), 1)));
    }

    #[test]
    fn among_peers_the_newer_move_wins() {
        let (mut macs, mut out) = (macs(), Vec::new());
        macs.claim(key(), B, 3, 0, &mut out);
        macs.claim(key(), C, 2, 0, &mut out);
        assert_eq!(entry(&macs), Some((Owner::Peer(B), 3)));
        macs.claim(key(), C, 3, 0, &mut out);
        assert_eq!(entry(&macs), Some((Owner::Peer(C), 3)));
    }

    #[test]
    fn a_late_frame_does_not_undo_a_move() {
        let (mut macs, mut out) = (macs(), Vec::new());
        macs.claim(key(), B, 0, 0, &mut out);
        macs.claim(key(), C, 1, 100, &mut out);
        let late = Learn { key: key(), at: Owner::Peer(B), known: None };
        assert_eq!(macs.learn(late, 200, &mut out), Some(Claim::Outdated));
        assert_eq!(entry(&macs), Some((Owner::Peer(C), 1)));
        assert_eq!(macs.learn(late, 100 + SETTLE_MS, &mut out), Some(Claim::Accepted));
    }

    #[test]
    fn the_claims_of_a_peer_that_is_gone_are_void() {
        let (mut macs, mut out) = (macs(), Vec::new());
        macs.here(key(), 0, &mut out);
        macs.claim(key(), B, 0, 5000, &mut out);
        macs.flush(B);
        assert_eq!(macs.decide(10_000, &mut out), []);
        assert_eq!(entry(&macs), Some((Owner::Local, 0)));
    }

    #[test]
    fn ages_and_flushes() {
        let (mut macs, mut out) = (macs(), Vec::new());
        macs.claim(key(), B, 0, 0, &mut out);
        macs.expire(299_999);
        assert!(entry(&macs).is_some());
        macs.expire(300_000);
        assert!(entry(&macs).is_none());
        macs.claim(key(), B, 0, 0, &mut out);
        macs.flush(C);
        assert!(entry(&macs).is_some());
        macs.flush(B);
        assert!(entry(&macs).is_none());
    }
}
