//! ARP and neighbour discovery between gateways: requests become RPCs, answers live in a table until they expire.
//!
//! The table says which MAC has an address, on whose side, who said so, and when that was last confirmed. RFC 9161 and the
//! kernel's `neigh_suppress` are the checklist. The rules:
//!
//! - A question to all for an address at a peer is answered from the table while the entry is *fresh*: its holder has spoken
//!   by ARP or neighbour discovery within "arp_fresh" seconds. After three tenths of that the holder's gateway is asked
//!   whether that is still true (`arp_query`), and whoever has been given a wrong answer hears the right one. An entry that is *stale* is
//!   confirmed first: the question goes to that gateway alone, and to all if it does not answer.
//! - One for an address on the asker's own side is left to its owner; if the entry is stale, or the asker repeats itself, the
//!   owner is verified, and the peers are asked when it is silent.
//! - One for an unknown address is held back and asked of all peers, once for all who want to know. Stations take turns
//!   (`questions.rs`).
//! - A peer that is asked puts the question to its own segment as the asker has sent it. The owner's answer is kept, told to
//!   all peers, and not forwarded; the asker's gateway gives it to everyone who asked.
//! - A question to one station is a check whether it is alive, and goes there as it is; so does the answer.
//! - Probes and duplicate address detection are never answered from the table, announcements are repeated everywhere as they
//!   were made. What is more than peers can be told waits, and the last word about an address is never lost
//!   (`announcements.rs`).
//! - Who says that an address is at another MAC than the one known is believed as quickly as on a bridge, and the holder is
//!   asked. If it answers, the address is a duplicate: that is logged and counted, and all who have heard the other hear the
//!   holder (`arbitration.rs`).
//! - An address that a peer claims unasked and of which nothing is known is first asked for in the own segment.
//! - The owner's gateway verifies an address before the others forget it, and withdraws it when the owner is silent.
//! - Addresses count for the station that spoke, by its Ethernet source, whatever MAC it named (`entries.rs`).

mod announcements;
mod arbitration;
mod entries;
mod heard;
mod peers;
mod questions;
mod segment;
mod speech;
mod table;
mod timers;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipop_dataplane::addr::{MacAddr, PeerId, Vlan};
use ipop_dataplane::ending::Ending;
use ipop_dataplane::forward::{Learn, RateLimit};
use ipop_dataplane::mac_table::{MacKey, Owner};
use ipop_dataplane::wire::Frame;

use self::announcements::Announcements;
use self::arbitration::Arbitration;
use self::entries::{Entries, Full};
use self::heard::{Flags, Heard};
use self::questions::Questions;
use self::speech::{Path, Speaker};
pub use self::table::{Entry, Key, Pending, ResolutionStats, Source, Unanswered};
use self::table::{Verify, Word};
use crate::action::{Action, To};
use crate::deadlines::Deadlines;
use crate::limits::{Limits, Reason, Refusal};
use crate::macs::{Claim, Due, Here, Macs};
use crate::rpc::{Announcement, MAX_CARRIED, MacMoved, MacQuery, Message, Reply, Request, Withdraw};

/// How long an injected question or a probe waits for its answer.
const ANSWER_MS: u64 = 3000;
/// A local address asked for twice within this time did not answer the first time.
const REPEAT_MS: u64 = 3000;
/// Questions to verify one address, and the time between two: before peers forget it; because somebody asks for it; because
/// somebody says otherwise.
const VERIFY_TRIES: u32 = 3;
const VERIFY_MS: u64 = 1000;
const VERIFY_QUICKLY_MS: u64 = 100;
/// How long a station may take to answer the question of a peer before it is asked by its gateway.
const PATIENCE_MS: u64 = 150;
/// An address that was confirmed so short ago is not asked for again because a peer wants to know.
const JUST_NOW_MS: u64 = 200;
/// Entries of the ARP and ND table.
pub const MAX_ENTRIES: usize = 65_536;
/// Bounds of what is under way. What is new and finds no place is counted as a question not asked.
const MAX_PENDING: usize = 4096;
/// Peers that are told one by one of the end of a verification; for more of them all are told.
const MAX_WAITING: usize = 16;
/// Frames per second that are sent on as they are, probes apart from the rest.
const FORWARD_RATE: u64 = 2000;
const PROBE_RATE: u64 = 500;
/// Questions of one peer per second that are put to the segment, each of which reaches every station in it.
const INJECT_RATE: u64 = questions::RPC_RATE;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Verify(Key),
    Confirm(Key),
    Pending(Key),
    Arbitrate(Key),
    SetRight(Key),
    /// Stations or announcements that wait for the rate.
    Pump,
}

/// Questions that were put to our segment for peers.
#[derive(Debug)]
struct Injected {
    /// How many answers to take for the RPC.
    expected: u32,
    at_ms: u64,
    peers: Vec<PeerId>,
}

/// The table and everything that is under way.
pub struct Resolver {
    uid: String,
    /// The address that verifications are asked from. Nothing else has it.
    own_mac: MacAddr,
    expiry_ms: u64,
    fresh_ms: u64,
    entries: Entries,
    questions: Questions,
    announcements: Announcements,
    arbitrations: HashMap<Key, Arbitration>,
    /// Addresses that were found to be duplicates, and until when nobody is believed without the holder having been asked.
    duplicates: HashMap<Key, u64>,
    /// When peers were last told who has an address that somebody else claims.
    truths: HashMap<Key, u64>,
    /// The gateway's own questions, to one MAC or to all, whose answers prove something, and until when.
    own_questions: HashMap<(Key, Option<MacAddr>), u64>,
    /// Truths that are told once more, by the MAC that they name.
    repeats: HashMap<Key, MacAddr>,
    /// Questions put to our segment for peers, by the MAC that is to be answered.
    injected: HashMap<(Key, MacAddr), Injected>,
    /// What each peer may put to the segment.
    inject_rates: HashMap<PeerId, RateLimit>,
    /// Peers that wait for the end of a verification.
    waiting: HashMap<Key, Vec<PeerId>>,
    /// The last that a peer has said in the name of a MAC of which it is not settled whose it is. No more than there are such.
    postponed: HashMap<MacKey, (PeerId, Message)>,
    /// Probes that wait for a conflict.
    probing: HashMap<(Key, MacAddr), u64>,
    /// A station of each network behind peers, in whose name a host of that network can be asked.
    vouchers: HashMap<(Vlan, [u8; 3]), Speaker>,
    /// Verifications in the name of such a station: their answers are not for it.
    vouched: HashMap<(Key, MacAddr), u64>,
    timers: Deadlines<Timer>,
    swept_ms: u64,
    probes: RateLimit,
    forwards: RateLimit,
    /// What happened.
    pub stats: ResolutionStats,
}

/// What every step needs: the time, the MACs, whether anyone can be asked, and where the results go.
pub struct Step<'a> {
    /// The gateway's clock.
    pub now_ms: u64,
    /// The MAC table.
    pub macs: &'a mut Macs,
    /// Peers that are up.
    pub peers_up: usize,
    /// What is to be done.
    pub out: &'a mut Vec<Action>,
}

impl Step<'_> {
    fn send(&mut self, to: To, message: Message) {
        self.out.push(Action::Message(to, message));
    }

    fn inject(&mut self, frame: Vec<u8>) {
        self.out.push(Action::Inject(frame));
    }

    fn refuse(&mut self, word: &Word, reason: Reason, key: Key, holder: Option<(MacAddr, Owner)>) {
        let (who, mac) = (word.owner, word.mac);
        self.out.push(Action::Refuse(Refusal { who, reason, mac, ip: Some(key.ip), holder }));
    }
}

impl Resolver {
    /// An empty table. `uid` is this gateway's, `own_mac` an address that no station has, `expiry_s` and `fresh_s` the
    /// seconds for which an entry lives and for which it is used without asking.
    pub fn new(uid: String, own_mac: MacAddr, expiry_s: u32, fresh_s: u32, limits: Arc<Limits>) -> Resolver {
        Resolver {
            uid,
            own_mac,
            expiry_ms: u64::from(expiry_s) * 1000,
            fresh_ms: u64::from(fresh_s) * 1000,
            entries: Entries::new(limits),
            questions: Questions::default(),
            announcements: Announcements::default(),
            arbitrations: HashMap::new(),
            duplicates: HashMap::new(),
            truths: HashMap::new(),
            own_questions: HashMap::new(),
            repeats: HashMap::new(),
            injected: HashMap::new(),
            inject_rates: HashMap::new(),
            waiting: HashMap::new(),
            postponed: HashMap::new(),
            probing: HashMap::new(),
            vouchers: HashMap::new(),
            vouched: HashMap::new(),
            timers: Deadlines::default(),
            swept_ms: 0,
            probes: RateLimit::new(PROBE_RATE),
            forwards: RateLimit::new(FORWARD_RATE),
            stats: ResolutionStats::default(),
        }
    }

    /// Does what is due: tests of MACs, arbitrations, retries, verifications, what waits for its turn, expiry.
    pub fn tick(&mut self, step: &mut Step<'_>) {
        self.decide(step);
        let now = step.now_ms;
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Verify(key) => self.verify(key, step),
                Timer::Confirm(key) => self.confirm(key, step),
                Timer::Pending(key) => self.retry(key, step),
                Timer::Arbitrate(key) => self.arbitrate(key, step),
                Timer::SetRight(key) => self.say_again(key, step),
                Timer::Pump => {}
            }
        }
        self.pump(step);
        if now >= self.swept_ms + 1000 {
            self.swept_ms = now;
            self.stats.expired += self.entries.expire(now);
            self.injected.retain(|_, injected| injected.at_ms + ANSWER_MS > now);
            self.probing.retain(|_, until| *until > now);
            self.vouched.retain(|_, until| *until > now);
            self.duplicates.retain(|_, until| *until > now);
            self.truths.retain(|_, at| *at + 60_000 > now);
            self.own_questions.retain(|_, until| *until > now);
            let Resolver { waiting, entries, .. } = self;
            waiting.retain(|key, _| entries.get(key).is_some_and(|entry| entry.owner == Owner::Local));
            self.questions.sweep(now);
        }
    }

    /// When [`Resolver::tick`] has something to do; MACs are asked for apart.
    pub fn next_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// A peer is gone: what is behind it is unknown now, and nothing of what it said counts.
    pub fn flush(&mut self, peer: PeerId, step: &mut Step<'_>) {
        let settled = step.macs.flush(peer, step.now_ms, step.out);
        for key in self.entries.of_peer(peer) {
            self.entries.remove(&key);
        }
        self.arbitrations.retain(|_, arbitration| !arbitration.concerns(peer));
        self.postponed.retain(|_, (speaker, _)| *speaker != peer);
        self.waiting.retain(|_, peers| {
            peers.retain(|waiting| *waiting != peer);
            !peers.is_empty()
        });
        self.inject_rates.remove(&peer);
        settled.into_iter().for_each(|mac| self.follow(mac, step));
        self.questions.ask_all(peer, step.now_ms, &mut self.timers);
    }

    /// A peer came up: addresses that nobody answered for may be there.
    pub fn peer_came(&mut self, peer: PeerId, step: &mut Step<'_>) {
        self.questions.forgive();
        step.macs.introduce(peer, step.out);
    }

    /// A worker met a MAC that it does not know so. Local MACs that a peer claims are asked for a sign of life, and so are
    /// those of peers that turn up here.
    pub fn learned(&mut self, learn: Learn, step: &mut Step<'_>) {
        match learn.at {
            Owner::Local => {
                self.is_here(learn.key, step);
            }
            Owner::Peer(peer) => {
                if step.macs.seen_at(learn.key, peer, step.now_ms, step.out) == Claim::Contested {
                    self.ask_for_life(learn.key, step);
                }
            }
        }
    }

    /// The address that verifications are asked from.
    pub fn own_mac(&self) -> MacAddr {
        self.own_mac
    }

    /// The table, for people.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// Questions under way.
    pub fn pending(&self) -> impl Iterator<Item = (&Key, &Pending, usize)> {
        self.questions.pending()
    }

    /// Addresses that nobody answered for of late.
    pub fn unanswered(&self) -> impl Iterator<Item = (&Key, &Unanswered)> {
        self.questions.unanswered()
    }

    /// A MAC has sent a frame on this side. If it was at a peer, it is asked here too: one that answers on both sides is
    /// on both.
    fn is_here(&mut self, key: MacKey, step: &mut Step<'_>) {
        match step.macs.here(key, step.now_ms, step.out) {
            Here::Provisional => {
                for address in self.entries.of_mac(key, 2) {
                    self.ask_station(address, Some(key.mac()), 0, step);
                }
            }
            Here::Local => step.macs.look(key, step.now_ms, step.out),
            Here::Elsewhere => {}
        }
    }

    /// Where a MAC is, as far as is known.
    fn place_of(&self, vlan: Vlan, mac: MacAddr, step: &Step<'_>) -> Option<Owner> {
        step.macs.table().lookup(MacKey::new(vlan, mac)).map(|entry| entry.owner)
    }

    /// The Ethernet source for a frame made in the name of a MAC: its own if it is behind the port's other side, so that the
    /// bridge learns where it is; else the gateway's, so that the bridge learns nothing wrong.
    fn source_for(&self, vlan: Vlan, mac: MacAddr, step: &Step<'_>) -> MacAddr {
        if mac.is_station() && self.place_of(vlan, mac, step) != Some(Owner::Local) { mac } else { self.own_mac }
    }
}

#[cfg(test)]
mod lies_tests;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod moves_tests;
#[cfg(test)]
mod net;
#[cfg(test)]
mod tests;
