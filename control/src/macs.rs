//! Who owns a MAC: what workers learn, what peers claim, who is right when they disagree, and when it is forgotten.
//!
//! The rules, in the order in which they apply:
//!
//! 1. A frame from the port makes its source local at once, wherever it was before. If it was at a peer, the MAC has
//!    moved here: its move number rises. All peers are told (`mac_moved`), also of a MAC that is merely new here: one of
//!    them may have it still, and would keep its traffic.
//! 2. A peer that claims a local MAC puts it to the test, whatever its move number: anybody can count up, and a peer that has
//!    restarted has lost the number. A MAC that gives no sign of life has moved, and the bridge is shown where it is now, by
//!    a frame from it. One that does stays; the peers are told so, with a number above the claim's. Of several claims
//!    the one with the highest number gets what is silent.
//! 3. Among peers the higher number wins (RFC 7432, section 7.7): only the gateway that has a MAC can test it.
//! 4. A peer has only MACs that it may have, and as many as it may ([`Limits`]); this side does not fill the table either.

use std::collections::HashMap;
use std::sync::Arc;

use ipop_dataplane::addr::{MacAddr, PeerId, Vlan};
use ipop_dataplane::forward::{Learn, RateLimit};
use ipop_dataplane::mac_table::{MacEntry, MacKey, MacTable, MacWriter, Owner, newer_move};
use ipop_dataplane::wire::ethernet::{emit_header, ethertype};

use crate::action::{Action, To};
use crate::limits::{Limits, Reason, Refusal, Tally};
use crate::rpc::{MacMoved, Message};

/// Time for a sign of life from a MAC that can be asked because its IP address is known, or that somebody says has moved:
/// it must be reachable again within a second.
const ASKED_MS: u64 = 400;
/// The same for one that cannot be asked, and that no higher number speaks for.
const WATCHED_MS: u64 = 1100;
/// For how long frames do not contradict a move that a peer has told.
const SETTLE_MS: u64 = 2000;
/// MACs that can be at test at a time, and of these for the claims of one peer. It also bounds the questions and messages
/// that a peer can cause.
const MAX_CONTESTS: usize = 1024;
const MAX_CONTESTS_OF_PEER: usize = 256;
/// When a MAC was last seen that never sends and does not age, as the table keeps it.
const RESERVED: u32 = (1 << 28) - 1;

/// New MACs per second that peers are told of, and MACs that all are told have stayed. Neither a guest that makes up MACs
/// nor a peer that claims them must flood the others with messages; of those beyond, peers learn from frames.
const NEWS_RATE: u64 = 200;

/// A local MAC that a peer claims too.
#[derive(Debug, Clone, Copy)]
struct Contest {
    peer: PeerId,
    /// The higher of the numbers on both sides.
    moves: u16,
    /// It is the peer's.
    newer: bool,
    /// What the table says from now on of when it was seen, until it is seen.
    seen_before: u32,
    alive: bool,
    decide_at_ms: u64,
}

/// What became of a peer's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The MAC is the peer's.
    Accepted,
    /// The MAC stays local for now, and is put to the test from now on.
    Contested,
    /// The MAC stays local for now; it is at test already.
    AtTest,
    /// Another peer has a newer claim.
    Outdated,
    /// The peer may not have it.
    Refused,
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
    limits: Arc<Limits>,
    held: Tally<Owner>,
    news: RateLimit,
    verdicts: RateLimit,
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
            limits: Arc::default(),
            held: Tally::default(),
            news: RateLimit::new(NEWS_RATE),
            verdicts: RateLimit::new(NEWS_RATE),
            stats: MacStats::default(),
        }
    }

    /// The same rules within limits.
    #[must_use]
    pub fn with_limits(self, limits: Arc<Limits>) -> Macs {
        Macs { limits, ..self }
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

    /// True while this MAC is, for the claim of this peer.
    pub fn is_at_test(&self, key: MacKey, peer: PeerId) -> bool {
        self.contests.get(&key).is_some_and(|contest| contest.peer == peer)
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
            None if self.is_full(Owner::Local) => out.push(refuse(Owner::Local, Reason::LocalMacs, key)),
            None => {
                let entered = self.enter(key, MacEntry { owner: Owner::Local, moves: 0, seen: now });
                if entered && self.news.allow(now_ms) {
                    out.push(moved(To::All, key, 0));
                }
            }
        }
    }

    /// A peer says, by a frame or a message, that the MAC is on its side, and how often it has moved.
    pub fn claim(&mut self, key: MacKey, peer: PeerId, moves: u16, now_ms: u64, out: &mut Vec<Action>) -> Claim {
        let now = seconds(now_ms);
        let theirs = MacEntry { owner: Owner::Peer(peer), moves, seen: now };
        let known = self.table().lookup(key);
        if let Some(reason) = self.refused(key, peer, known) {
            out.push(refuse(theirs.owner, reason, key));
            return Claim::Refused;
        }
        match known {
            Some(known) if known.owner == Owner::Local => self.contest(key, known, theirs, now_ms),
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

    /// Puts a local MAC to the test, or lets a newer claim take the place of the one that it is at test for.
    fn contest(&mut self, key: MacKey, known: MacEntry, theirs: MacEntry, now_ms: u64) -> Claim {
        let Owner::Peer(peer) = theirs.owner else { return Claim::AtTest };
        let newer = newer_move(theirs.moves, known.moves);
        let moves = if newer { theirs.moves } else { known.moves };
        let decide_at_ms = now_ms + if newer { ASKED_MS } else { WATCHED_MS };
        let is_full = self.contests.len() >= MAX_CONTESTS;
        match self.contests.get_mut(&key) {
            // A frame can be faster than the news of the move. It begins no other test, or there would be no end to it.
            Some(contest) if contest.peer == peer => {
                if newer_move(moves, contest.moves) {
                    (contest.moves, contest.newer) = (moves, true);
                    contest.decide_at_ms = contest.decide_at_ms.min(decide_at_ms);
                }
                return Claim::AtTest;
            }
            Some(contest) if !newer_move(moves, contest.moves) => return Claim::AtTest,
            None if is_full => return Claim::AtTest,
            _ => {}
        }
        let of_peer = self.contests.values().filter(|contest| contest.peer == peer).count();
        if of_peer >= MAX_CONTESTS_OF_PEER || known.seen == RESERVED {
            return Claim::AtTest;
        }
        // So that the next frame shows, even one within the second of the last: workers enter when they see it.
        let seen_before = seconds(now_ms).saturating_sub(2);
        self.enter(key, MacEntry { seen: seen_before, ..known });
        self.contests.insert(key, Contest { peer, moves, newer, seen_before, alive: false, decide_at_ms });
        Claim::Contested
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
            // Above both, so that nobody who has an old number disagrees.
            let above = (contest.moves + 1) & 0xfff;
            let owner = Owner::Peer(contest.peer);
            if contest.alive || known.seen != contest.seen_before {
                self.stats.conflicts += 1;
                out.push(refuse(owner, Reason::MacIsHere, key));
                self.enter(key, MacEntry { moves: above, seen: seconds(now_ms), ..known });
                // The other peers may have believed the claim.
                let to = if self.verdicts.allow(now_ms) { To::All } else { To::Peer(contest.peer) };
                out.push(moved(to, key, above));
            } else if self.is_full(owner) {
                out.push(refuse(owner, Reason::PeerMacs, key));
            } else {
                // What the peer has told of a move is known to all; where it has lost the number, nobody has this one.
                let moves = if contest.newer { contest.moves } else { above };
                let theirs = MacEntry { owner, moves, seen: seconds(now_ms) };
                self.leave(key, theirs, now_ms, out);
                gone.push((key, contest.peer));
            }
        }
        gone
    }

    /// Forgets what was at a peer that is gone.
    pub fn flush(&mut self, peer: PeerId) {
        self.keep(|entry| entry.owner != Owner::Peer(peer));
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
        self.keep(|entry| now.saturating_sub(entry.seen) < expiry);
        self.stats.aged += (before - self.writer.len()) as u64;
    }

    /// Why the peer may not have this MAC.
    fn refused(&self, key: MacKey, peer: PeerId, known: Option<MacEntry>) -> Option<Reason> {
        let owner = Owner::Peer(peer);
        if !self.limits.allow_mac(peer, key.mac()) {
            return Some(Reason::MacNotAllowed);
        }
        let new = known.is_none_or(|known| known.owner != owner);
        (new && self.is_full(owner)).then_some(Reason::PeerMacs)
    }

    fn is_full(&self, owner: Owner) -> bool {
        self.held.is_full(&owner, self.limits.share(owner).macs)
    }

    fn keep(&mut self, keep: impl Fn(MacEntry) -> bool) {
        let Macs { writer, held, .. } = self;
        writer.retain(|_, entry| {
            let kept = keep(entry);
            if !kept {
                held.remove(&entry.owner);
            }
            kept
        });
    }

    /// False if the table is full.
    fn enter(&mut self, key: MacKey, entry: MacEntry) -> bool {
        let before = self.writer.len();
        let known = self.table().lookup(key);
        let result = self.writer.insert(key, entry);
        match result {
            Ok(()) => {
                if let Some(known) = known {
                    self.held.remove(&known.owner);
                }
                self.held.add(entry.owner);
                self.stats.learned += (self.writer.len() - before) as u64;
            }
            Err(_) => self.stats.table_full += 1,
        }
        result.is_ok()
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

fn refuse(who: Owner, reason: Reason, key: MacKey) -> Action {
    Action::Refuse(Refusal { who, reason, mac: key.mac(), ip: None })
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
mod tests;
