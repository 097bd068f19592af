//! Who owns a MAC: what workers learn, what peers claim, who is right when they disagree, and when it is forgotten.
//!
//! MACs are learned from Ethernet sources alone: a frame from the port, a frame from a peer, a peer's word that it has seen
//! one (`mac_moved`). What ARP and neighbour discovery say inside is a matter of addresses ([`crate::resolution`]). The rules
//! are those of EVPN (RFC 7432, sections 7.7 and 15), with one more: nothing is taken from a gateway that has not been heard.
//!
//! 1. A new MAC is entered. Where a part of the table is full, what never proved alive makes room (`room.rs`).
//! 2. A peer that claims a MAC of this side puts it to the test, whatever its mobility sequence number: anybody can count up,
//!    and a peer that has restarted has lost the number. Alive, it stays, and all are told so with a number above the
//!    claim's. Silent, it goes to the claim with the highest number; all are told (`mac_released`), and the bridge is shown
//!    the new direction by a frame from the MAC (`contest.rs`).
//! 3. A claim on a MAC behind a third gateway is settled by that one, which tests it as in rule 2. Until it has spoken the old
//!    path stays; if it has not heard of the claim it is asked (`mac_query`). A claim that loses is counted here, there, and
//!    by the claimant (`disputes.rs`).
//! 4. A frame from the port makes its source local at once, so that what has moved is reachable from its neighbours with its
//!    first frame. If it was at a peer, that peer has its say as in rule 3, and if it says that the MAC lives there, the MAC
//!    goes back, and the bridge is shown so. If it has answered a question on this side too it is put to the test here once
//!    more: one that answers on both sides is on both, and each keeps it for itself.
//! 5. A MAC for which claims lose or that goes to and fro, five times within three minutes, is frozen
//!    where it last proved alive: for a time no claim on it is heard (`flaps.rs`).
//! 6. A peer has only MACs that it may have, and as many as it may ([`Limits`]); this side does not fill the table either. A
//!    MAC in "sticky_macs" never leaves this side.

mod contest;
mod disputes;
mod flaps;
mod room;

use std::collections::HashMap;
use std::sync::Arc;

use ipop_dataplane::addr::{MacAddr, PeerId, Vlan};
use ipop_dataplane::forward::RateLimit;
use ipop_dataplane::mac_table::{MacEntry, MacKey, MacTable, MacWriter, Owner, newer_move};
use ipop_dataplane::wire::ethernet::{emit_header, ethertype};

use self::contest::Contests;
use self::disputes::Disputes;
use self::flaps::Flaps;
use self::room::Room;
use crate::action::{Action, To};
use crate::limits::{Limits, Reason, Refusal, Tally};
use crate::rpc::{MacMoved, Message};

/// For how long frames that were under way do not contradict a move.
const SETTLE_MS: u64 = 2000;
/// A MAC that goes back within this time to where it came from goes to and fro.
const RETURN_MS: u64 = 10_000;
/// Moves that are remembered for that.
const MAX_MOVES: usize = 4096;
/// A MAC that was found alive so short ago is not asked again for the next claim.
const PROOF_MS: u64 = 100;
/// Between two words about a MAC that is alive here.
const QUIET_MS: u64 = 100;
/// When a MAC was last seen that does not age, as the table keeps it.
const RESERVED: u32 = (1 << 28) - 1;

/// New MACs per second that peers are told of, and MACs that all are told have stayed. Neither a guest that makes up MACs
/// nor a peer that claims them must flood the others with messages; of those beyond, peers learn from frames.
const NEWS_RATE: u64 = 200;
/// MACs per second that come here from peers. What is beyond stays where it is until its next frame.
const MOVE_RATE: u64 = 1000;
/// Frames per second that show the bridge where a MAC is that somebody on this side pretends to have.
const REPAIR_RATE: u64 = 200;

/// What became of a peer's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The MAC is the peer's.
    Accepted,
    /// The MAC stays local for now, and is put to the test from now on.
    Contested,
    /// The MAC stays local for now; it is at test already.
    AtTest,
    /// The MAC stays at another peer until that has spoken.
    Disputed,
    /// The peer may not have it.
    Refused,
}

/// What became of a MAC that has sent a frame on this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// It is local.
    Local,
    /// It is local until the peer that had it says otherwise.
    Provisional,
    /// It is not local, or there was no room for it.
    Elsewhere,
}

/// What the caller can help with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The MAC went from here to a peer.
    Gone(MacKey, PeerId),
    /// The MAC at test is to be asked once more.
    Ask(MacKey),
}

/// What happened to MACs, for `ipop status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MacStats {
    /// Entered into the table.
    pub learned: u64,
    /// Forgotten because they sent nothing.
    pub aged: u64,
    /// Forgotten to make room for others.
    #[serde(default)]
    pub evicted: u64,
    /// Came here from a peer.
    pub moved_here: u64,
    /// Went from here to a peer.
    pub moved_away: u64,
    /// Claimed by a peer while alive here.
    pub conflicts: u64,
    /// Claimed while behind another gateway, which has been heard.
    #[serde(default)]
    pub disputes: u64,
    /// Frozen because claims on them kept losing, or because they went to and fro.
    #[serde(default)]
    pub frozen: u64,
    /// Not entered because the table is full.
    pub table_full: u64,
}

/// The MAC table and the rules about it.
pub struct Macs {
    writer: MacWriter,
    expiry_s: u32,
    contests: Contests,
    disputes: Disputes,
    flaps: Flaps,
    /// When a MAC moved, and from where.
    moved: HashMap<MacKey, (u64, Owner)>,
    /// When a MAC of this side was last found alive by a test.
    alive: HashMap<MacKey, u64>,
    limits: Arc<Limits>,
    held: Tally<Owner>,
    room: Room,
    news: RateLimit,
    verdicts: RateLimit,
    moves: RateLimit,
    repairs: RateLimit,
    /// What happened.
    pub stats: MacStats,
}

impl Macs {
    /// The rules over a table. `expiry_s`: seconds after which a MAC that sends nothing is forgotten.
    pub fn new(writer: MacWriter, expiry_s: u32, limits: Arc<Limits>) -> Macs {
        let mut macs = Macs {
            writer,
            expiry_s,
            contests: Contests::default(),
            disputes: Disputes::default(),
            flaps: Flaps::new(u64::from(limits.mac_freeze_s) * 1000),
            moved: HashMap::new(),
            alive: HashMap::new(),
            limits,
            held: Tally::default(),
            room: Room::default(),
            news: RateLimit::new(NEWS_RATE),
            verdicts: RateLimit::new(NEWS_RATE),
            moves: RateLimit::new(MOVE_RATE),
            repairs: RateLimit::new(REPAIR_RATE),
            stats: MacStats::default(),
        };
        for mac in macs.limits.clone().sticky_macs.iter() {
            let key = MacKey::new(Vlan::UNTAGGED, *mac);
            macs.enter(key, MacEntry { owner: Owner::Local, moves: 0, seen: RESERVED });
        }
        macs
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
        self.owner_entry(MacKey::new(vlan, mac)).map_or(0, |entry| entry.moves)
    }

    /// When something is due that [`Macs::due`] does.
    pub fn next_ms(&self) -> Option<u64> {
        self.contests.next_ms().into_iter().chain(self.disputes.next_ms()).min()
    }

    /// True while it is not settled whether this MAC is this peer's, which claims it.
    pub fn is_unsettled(&self, key: MacKey, peer: PeerId) -> bool {
        self.contests.get(key).is_some_and(|contest| contest.claimant == Some(peer))
            || self.disputes.get(key).is_some_and(|dispute| dispute.claimant == Owner::Peer(peer))
    }

    /// True if a MAC at test is being asked for the second time.
    pub fn is_asked_again(&self, key: MacKey) -> bool {
        self.contests.get(key).is_some_and(|contest| contest.asked_again)
    }

    /// True for a MAC that is local until the peer that had it says otherwise.
    pub fn is_provisional(&self, key: MacKey) -> bool {
        self.disputes.get(key).is_some_and(|dispute| dispute.claimant == Owner::Local)
    }

    /// Notes that a MAC is alive here; false if that was said just now.
    fn may_tell(&mut self, key: MacKey, now_ms: u64) -> bool {
        let before = self.alive.get(&key).copied();
        let room = self.alive.len() < MAX_MOVES || before.is_some();
        if room {
            self.alive.insert(key, now_ms);
        }
        room && before.is_none_or(|at| now_ms - at >= QUIET_MS)
    }

    /// For how many milliseconds more no claim on the MAC is heard.
    pub fn frozen_ms(&self, key: MacKey, now_ms: u64) -> Option<u64> {
        self.flaps.frozen_ms(key, now_ms)
    }

    /// An operator says that the MAC is in order. How many entries that concerned.
    pub fn release(&mut self, mac: MacAddr, now_ms: u64) -> usize {
        self.flaps.release(mac, now_ms)
    }

    /// A peer has come: it is told of what never leaves this side, for that may be silent.
    pub fn introduce(&self, peer: PeerId, out: &mut Vec<Action>) {
        for mac in self.limits.sticky_macs.iter() {
            out.push(moved(To::Peer(peer), MacKey::new(Vlan::UNTAGGED, *mac), self.moves(Vlan::UNTAGGED, *mac)));
        }
    }

    /// A worker saw a frame of a peer whose source the table does not know so. If the answer is a claim that is contested,
    /// the caller can help by asking the MAC for a sign of life.
    pub fn seen_at(&mut self, key: MacKey, peer: PeerId, now_ms: u64, out: &mut Vec<Action>) -> Claim {
        let known = self.owner_entry(key);
        // Frames that were under way when the MAC moved must not move it back.
        if self.moved.get(&key).is_some_and(|(at, from)| *from == Owner::Peer(peer) && now_ms - at < SETTLE_MS)
            && known.is_some_and(|entry| entry.owner != Owner::Local)
        {
            return Claim::Disputed;
        }
        let moves = known.map_or(0, |entry| entry.moves);
        self.claim(key, peer, moves, now_ms, out)
    }

    /// The MAC sent a frame on this side.
    pub fn here(&mut self, key: MacKey, now_ms: u64, out: &mut Vec<Action>) -> Here {
        let now = seconds(now_ms);
        match self.owner_entry(key) {
            Some(known) if known.owner == Owner::Local => {
                if let Some(contest) = self.contests.get_mut(key) {
                    contest.alive = true;
                }
                self.table().touch(key, known, now);
                Here::Local
            }
            Some(MacEntry { owner: Owner::Peer(holder), moves, .. }) => {
                let frozen = self.flaps.frozen_ms(key, now_ms).is_some();
                if frozen {
                    out.push(refuse(Owner::Local, Reason::MacFrozen, key));
                }
                let moves = (moves + 1) & 0xfff;
                if frozen || !self.moves.allow(now_ms) || !self.disputes.open(key, holder, Owner::Local, moves, now_ms)
                {
                    self.repair(key, now_ms, out);
                    return Here::Elsewhere;
                }
                self.enter(key, MacEntry { owner: Owner::Local, moves, seen: now });
                self.stats.moved_here += 1;
                out.push(moved(To::All, key, moves));
                Here::Provisional
            }
            _ => {
                if !self.has_room(Owner::Local) {
                    out.push(refuse(Owner::Local, Reason::LocalMacs, key));
                    return Here::Elsewhere;
                }
                let entered = self.enter(key, MacEntry { owner: Owner::Local, moves: 0, seen: now });
                if entered && self.news.allow(now_ms) {
                    out.push(moved(To::All, key, 0));
                }
                if entered { Here::Local } else { Here::Elsewhere }
            }
        }
    }

    /// The MAC has answered a question, wherever it is: it is no invention.
    pub fn proved(&mut self, key: MacKey) {
        if self.table().lookup(key).is_some() {
            self.room.prove(key);
        }
        if let Some(dispute) = self.disputes.get_mut(key).filter(|dispute| dispute.claimant == Owner::Local) {
            dispute.proved = true;
        }
    }

    /// A peer says (`mac_moved`) that the MAC is on its side. Where it has it already, that is the word of the holder on
    /// whatever others claim.
    pub fn told(&mut self, key: MacKey, peer: PeerId, moves: u16, now_ms: u64, out: &mut Vec<Action>) -> Claim {
        let holds = self.disputes.get(key).filter(|dispute| dispute.holder == peer).copied();
        match holds {
            Some(dispute) if dispute.claimant == Owner::Local => self.lose(key, dispute, moves, now_ms, out),
            Some(dispute) => {
                self.disputes.close(key);
                self.lost(key, dispute.claimant, now_ms, out);
                self.claim(key, peer, moves, now_ms, out)
            }
            None => self.claim(key, peer, moves, now_ms, out),
        }
    }

    /// A peer says, by a frame or a message, that the MAC is on its side, and how often it has moved.
    pub fn claim(&mut self, key: MacKey, peer: PeerId, moves: u16, now_ms: u64, out: &mut Vec<Action>) -> Claim {
        let theirs = MacEntry { owner: Owner::Peer(peer), moves, seen: seconds(now_ms) };
        let known = self.owner_entry(key);
        if known.is_some_and(|known| known.owner == theirs.owner) {
            // Its own gateway may know less than others of how often it moved.
            let moves = known.map_or(moves, |known| newer_of(known.moves, moves));
            self.enter(key, MacEntry { moves, ..theirs });
            return Claim::Accepted;
        }
        if let Some(reason) = self.refused(key, peer, now_ms) {
            out.push(refuse(theirs.owner, reason, key));
            // The claimant may wait for our word; but two gateways that have frozen it must not answer each other without end.
            if let Some(known) = known.filter(|known| known.owner == Owner::Local && reason != Reason::MacNotAllowed)
                && self.may_tell(key, now_ms)
            {
                out.push(moved(To::Peer(peer), key, newer_of(known.moves, moves)));
            }
            return Claim::Refused;
        }
        match known {
            Some(known) if known.owner == Owner::Local => self.contest(key, known, Some(peer), moves, now_ms),
            Some(MacEntry { owner: Owner::Peer(holder), .. }) => {
                let open = self.disputes.get(key);
                // A claim that waits already is not put off by being repeated.
                if open.is_some_and(|open| open.claimant == theirs.owner) {
                    self.disputes.renew(key, moves);
                } else if open.is_none_or(|open| newer_move(moves, open.moves)) {
                    self.disputes.open(key, holder, theirs.owner, moves, now_ms);
                }
                Claim::Disputed
            }
            _ if !self.has_room(theirs.owner) => {
                out.push(refuse(theirs.owner, Reason::PeerMacs, key));
                Claim::Refused
            }
            _ => {
                self.enter(key, theirs);
                Claim::Accepted
            }
        }
    }

    /// A peer asks whether a MAC still lives here, because `claimant` says that it does not.
    pub fn asked_by(
        &mut self,
        key: MacKey,
        peer: PeerId,
        claimant: Option<PeerId>,
        moves: u16,
        now_ms: u64,
        out: &mut Vec<Action>,
    ) -> Claim {
        let Some(known) = self.owner_entry(key).filter(|known| known.owner == Owner::Local) else {
            out.push(Action::Message(To::Peer(peer), Message::MacReleased(mac_moved(key, moves))));
            return Claim::Refused;
        };
        let sure = self.is_sticky(key)
            || self.flaps.frozen_ms(key, now_ms).is_some()
            || self.alive.get(&key).is_some_and(|at| now_ms - at < PROOF_MS);
        if sure {
            out.push(moved(To::Peer(peer), key, newer_of(known.moves, moves)));
            return Claim::Refused;
        }
        if claimant.is_some_and(|claimant| self.refused(key, claimant, now_ms).is_some()) {
            out.push(moved(To::Peer(peer), key, newer_of(known.moves, moves)));
            return Claim::Refused;
        }
        let claim = match self.contests.get(key) {
            Some(_) => Claim::AtTest,
            None => self.contest(key, known, claimant, moves, now_ms),
        };
        if let Some(contest) = self.contests.get_mut(key) {
            contest.add_asker(peer);
        }
        claim
    }

    /// Forgets what was at a peer that is gone. Claims that it would have had to settle are granted; returns of which MACs.
    pub fn flush(&mut self, peer: PeerId, now_ms: u64, out: &mut Vec<Action>) -> Vec<MacKey> {
        let granted = self.disputes.flush(peer);
        for (key, dispute) in &granted {
            self.settle(*key, *dispute, now_ms, out);
        }
        self.keep(|_, entry| entry.owner != Owner::Peer(peer));
        self.contests.flush(peer);
        self.room.flush(Owner::Peer(peer));
        granted.into_iter().map(|(key, _)| key).collect()
    }

    /// Forgets what has sent nothing for long.
    pub fn expire(&mut self, now_ms: u64) {
        let (now, expiry) = (seconds(now_ms), self.expiry_s);
        self.moved.retain(|_, (at, _)| now_ms - *at < RETURN_MS);
        self.alive.retain(|_, at| now_ms - *at < QUIET_MS);
        self.flaps.expire(now_ms);
        let before = self.writer.len();
        let limits = self.limits.clone();
        self.keep(|key, entry| {
            now.saturating_sub(entry.seen) < expiry
                || entry.owner == Owner::Local && limits.sticky_macs.contains(&key.mac())
        });
        self.stats.aged += (before - self.writer.len()) as u64;
    }

    fn owner_entry(&self, key: MacKey) -> Option<MacEntry> {
        self.table().lookup(key)
    }

    fn is_sticky(&self, key: MacKey) -> bool {
        self.limits.sticky_macs.contains(&key.mac())
    }

    /// Why the peer may not even claim this MAC.
    fn refused(&self, key: MacKey, peer: PeerId, now_ms: u64) -> Option<Reason> {
        if !self.limits.allow_mac(peer, key.mac()) {
            Some(Reason::MacNotAllowed)
        } else if self.is_sticky(key) {
            Some(Reason::MacIsSticky)
        } else if self.flaps.frozen_ms(key, now_ms).is_some() {
            Some(Reason::MacFrozen)
        } else {
            None
        }
    }

    /// The MAC has moved for good. Back and forth within seconds is a sign of two that have the same.
    fn note_move(&mut self, key: MacKey, from: Owner, to: Owner, now_ms: u64, out: &mut Vec<Action>) {
        let before = self.moved.get(&key).copied();
        if self.moved.len() < MAX_MOVES || before.is_some() {
            self.moved.insert(key, (now_ms, from));
        }
        if before.is_some_and(|(at, whence)| whence == to && now_ms - at < RETURN_MS) {
            self.flap(key, now_ms, out);
        }
    }

    fn flap(&mut self, key: MacKey, now_ms: u64, out: &mut Vec<Action>) {
        if self.flaps.note(key, now_ms) {
            self.stats.frozen += 1;
            out.push(Action::Frozen(key, self.owner_entry(key).map(|known| known.owner)));
        }
    }

    /// Shows the bridge where a MAC is that somebody on this side pretends to have.
    fn repair(&mut self, key: MacKey, now_ms: u64, out: &mut Vec<Action>) {
        if self.repairs.allow(now_ms) {
            out.push(Action::Inject(arrival_notice(key)));
        }
    }
}

fn newer_of(a: u16, b: u16) -> u16 {
    if newer_move(b, a) { b } else { a }
}

fn refuse(who: Owner, reason: Reason, key: MacKey) -> Action {
    Action::Refuse(Refusal { who, reason, mac: key.mac(), ip: None, holder: None })
}

fn mac_moved(key: MacKey, seq: u16) -> MacMoved {
    MacMoved { mac: key.mac(), vlan: key.vlan(), seq }
}

fn moved(to: To, key: MacKey, seq: u16) -> Action {
    Action::Message(to, Message::MacMoved(mac_moved(key, seq)))
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
