//! ARP and neighbour discovery between gateways: requests become RPCs, answers live in a table until they expire.
//!
//! The table says which MAC has an address, and on whose side. The rules (RFC 9161 and the kernel's `neigh_suppress`
//! are the checklist):
//!
//! - A request to all for an address at a peer is answered from the table. One for an address on the asker's own side is
//!   left to its owner; if the asker repeats it, the owner may have gone, and the peers are asked.
//! - One for an unknown address is held back and asked of all peers, once for all who want to know. After some tries the
//!   address counts as unanswered and is not asked for again before a back-off that doubles.
//! - A peer that is asked puts the question to its own segment in the name of the asker. The owner's answer is kept, told
//!   to all peers, and not forwarded; the asker's gateway gives it to everyone who asked.
//! - A request to one station is a check whether it is alive, and goes there as it is; so does the answer.
//! - Probes and duplicate address detection are never answered from the table, announcements are repeated everywhere.
//! - The owner's gateway verifies an address before the others forget it, and withdraws it when the owner is silent.

mod heard;
mod table;

use std::collections::HashMap;
use std::net::IpAddr;

use ipop_dataplane::addr::{MacAddr, PeerId};
use ipop_dataplane::ending::Ending;
use ipop_dataplane::forward::RateLimit;
use ipop_dataplane::mac_table::{MacKey, Owner};
use ipop_dataplane::wire::Frame;

use crate::action::{Action, To};
use crate::macs::{Claim, Macs};
use crate::rpc::{Announcement, Message, Reply, Request, Withdraw};
use heard::Heard;
pub use table::{Entry, Key, Pending, ResolutionStats, Source, Unanswered};

/// Time for the peers to answer before they are asked again. Longer than a peer needs to settle who has the asker's MAC
/// after a move, shorter than the second after which hosts repeat their question (RFC 1122, 2.3.2.1).
const RETRY_MS: u64 = 600;
/// How often an address is asked for before it counts as unanswered.
const TRIES: u32 = 3;
/// The first back-off; it doubles up to the longest.
const BACK_OFF_MS: u64 = 2000;
const LONGEST_BACK_OFF_MS: u64 = 30_000;
/// How long an injected question or a probe waits for its answer.
const ANSWER_MS: u64 = 3000;
/// A local address asked for twice within this time did not answer the first time.
const REPEAT_MS: u64 = 3000;
/// Between two questions to verify one address, and how many.
const VERIFY_MS: u64 = 1000;
const VERIFY_TRIES: u32 = 3;
/// The same where a peer disputes the address.
const DISPUTE_MS: u64 = 300;
/// Bounds of the tables; the oldest or the newest goes, as is said where they are used.
const MAX_ENTRIES: usize = 65_536;
const MAX_PENDING: usize = 4096;
const MAX_ASKERS: usize = 32;
/// Requests to peers per second, all guests together; below what a peer takes (`MESSAGE_RATE` of the workers).
const RPC_RATE: u64 = 2000;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asker {
    ip: IpAddr,
    mac: MacAddr,
}

/// The table and everything that is under way.
pub struct Resolver {
    uid: String,
    /// The address that verifications are asked from. Nothing else has it.
    own_mac: MacAddr,
    expiry_ms: u64,
    entries: HashMap<Key, Entry>,
    pending: HashMap<Key, (Pending, Vec<Asker>)>,
    unanswered: HashMap<Key, Unanswered>,
    /// Questions put to our segment for a peer: how many answers to take for the RPC, and until when.
    injected: HashMap<(Key, MacAddr), (u32, u64)>,
    /// Probes that wait for a conflict.
    probing: HashMap<(Key, MacAddr), u64>,
    /// When the next entry is to be verified, as of the last look.
    verify_at_ms: u64,
    rate: RateLimit,
    /// Apart from the rest, so that a guest that scans does not keep others from taking over or finding duplicates.
    announcements: RateLimit,
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
}

impl Resolver {
    /// An empty table. `uid` is this gateway's, `own_mac` an address that no station has.
    pub fn new(uid: String, own_mac: MacAddr, expiry_s: u32) -> Resolver {
        Resolver {
            uid,
            own_mac,
            expiry_ms: u64::from(expiry_s) * 1000,
            entries: HashMap::new(),
            pending: HashMap::new(),
            unanswered: HashMap::new(),
            injected: HashMap::new(),
            probing: HashMap::new(),
            verify_at_ms: u64::MAX,
            rate: RateLimit::new(RPC_RATE),
            announcements: RateLimit::new(RPC_RATE / 4),
            probes: RateLimit::new(RPC_RATE / 4),
            forwards: RateLimit::new(RPC_RATE),
            stats: ResolutionStats::default(),
        }
    }

    /// A frame from the port that is ARP or neighbour discovery.
    pub fn from_port(&mut self, bytes: &[u8], checksum_pending: bool, step: &mut Step<'_>) -> Result<(), Ending> {
        let frame = Frame::parse(bytes).map_err(|_| Ending::FrameTruncated)?;
        let heard = Heard::parse(&frame, checksum_pending)?;
        match heard {
            // Not ours to answer: a check whether one station is alive (workers take these for data), or another protocol.
            Heard::Question { .. } if !frame.dst.is_group() => self.forward(&frame, checksum_pending, step),
            Heard::Foreign => self.forward(&frame, checksum_pending, step),
            Heard::Question { target, asker, asker_mac } => {
                self.stats.requests_captured += 1;
                let key = Key { vlan: frame.vlan, ip: target };
                if let Some(ip) = asker {
                    self.learn_local(Key { vlan: frame.vlan, ip }, asker_mac, None, Source::Request, step);
                }
                match asker {
                    Some(ip) => self.asked(key, Asker { ip, mac: asker_mac }, step),
                    None => self.probed(key, asker_mac, step),
                }
            }
            Heard::Answer { ip, mac, router } => {
                let key = Key { vlan: frame.vlan, ip };
                self.learn_local(key, mac, Some(router), Source::Reply, step);
                if frame.dst != self.own_mac {
                    self.answered(key, mac, router, &frame, checksum_pending, step);
                }
            }
            Heard::Announced { ip, mac, router, how } => {
                let key = Key { vlan: frame.vlan, ip };
                self.learn_local(key, mac, Some(router), Source::Announcement, step);
                self.stats.announcements_captured += 1;
                if self.announcements.allow(step.now_ms) {
                    self.announce(key, mac, router, None, Some(how), step);
                }
            }
        }
        Ok(())
    }

    /// A message from a peer.
    pub fn from_peer(&mut self, peer: PeerId, message: &Message, step: &mut Step<'_>) {
        match message {
            Message::Request(request) => self.peer_asks(peer, request, step),
            Message::Reply(reply) => self.peer_replies(peer, reply, step),
            Message::Withdraw(withdraw) => self.peer_withdraws(peer, withdraw),
            Message::MacMoved(moved) => {
                self.stats.rpc_moves_received += 1;
                let key = MacKey::new(moved.vlan, moved.mac);
                self.claim(key, peer, moved.seq, step);
            }
            Message::Probe(_) | Message::ProbeReply(_) => {}
        }
    }

    /// Looks at the clock: retries, back-offs, verifications, expiry.
    pub fn tick(&mut self, step: &mut Step<'_>) {
        for (key, peer) in step.macs.decide(step.now_ms, step.out) {
            self.moved_away(key, peer);
        }
        self.retry(step);
        self.verify(step);
        let now = step.now_ms;
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.expires_ms > now);
        self.stats.expired += (before - self.entries.len()) as u64;
        self.injected.retain(|_, (_, until)| *until > now);
        self.probing.retain(|_, until| *until > now);
        // A back-off is remembered for as long again, so that the next one is longer.
        self.unanswered.retain(|_, u| u.until_ms + LONGEST_BACK_OFF_MS > now);
    }

    /// True if something is due within a second.
    pub fn is_busy(&self, now_ms: u64) -> bool {
        !self.pending.is_empty() || self.verify_at_ms < now_ms + 1000
    }

    /// A peer is gone: what is behind it is unknown now.
    pub fn flush(&mut self, peer: PeerId) {
        self.entries.retain(|_, entry| entry.owner != Owner::Peer(peer));
        for entry in self.entries.values_mut() {
            entry.claim = entry.claim.filter(|(claimant, ..)| *claimant != peer);
        }
    }

    /// A peer came up: addresses that nobody answered for may be there.
    pub fn peer_came(&mut self) {
        self.unanswered.clear();
    }

    /// A worker met a MAC that it does not know so. Local MACs that a peer claims are asked for a sign of life.
    pub fn learned(&mut self, learn: ipop_dataplane::forward::Learn, step: &mut Step<'_>) {
        if step.macs.learn(learn, step.now_ms, step.out) == Some(Claim::Contested) {
            self.ask_for_life(learn.key, step);
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
        self.pending.iter().map(|(key, (pending, askers))| (key, pending, askers.len()))
    }

    /// Addresses that are not asked for at the moment.
    pub fn unanswered(&self) -> impl Iterator<Item = (&Key, &Unanswered)> {
        self.unanswered.iter()
    }

    // --- what the segment says -------------------------------------------------------------------------------------

    fn asked(&mut self, key: Key, asker: Asker, step: &mut Step<'_>) {
        let now = step.now_ms;
        match self.entries.get_mut(&key).filter(|entry| entry.expires_ms > now) {
            // Never the asker's own address: that it asks means that something has changed.
            Some(entry) if entry.mac == asker.mac => {}
            Some(entry) => match entry.owner {
                Owner::Peer(_) => {
                    let frame = heard::answer(key.ip, entry.mac, entry.router, Some(asker.ip), asker.mac, key.vlan);
                    self.stats.answered_locally += 1;
                    return step.inject(frame);
                }
                Owner::Local => {
                    let before = entry.asked.replace((asker.mac, now)).filter(|(_, at)| now - at <= REPEAT_MS);
                    if before.is_none_or(|(mac, _)| mac != asker.mac) {
                        self.stats.left_to_owner += 1;
                        // Several who ask: the owner is popular, or gone. It will tell.
                        if before.is_some() {
                            entry.verify.get_or_insert((0, now));
                            self.verify_at_ms = now;
                        }
                        return;
                    }
                }
            },
            None => {}
        }
        if let Some((_, askers)) = self.pending.get_mut(&key) {
            self.stats.joined += 1;
            if !askers.contains(&asker) && askers.len() < MAX_ASKERS {
                askers.push(asker);
            }
            return;
        }
        if self.unanswered.get(&key).is_some_and(|u| u.until_ms > now) {
            self.stats.held_by_back_off += 1;
            return;
        }
        if step.peers_up == 0 || self.pending.len() >= MAX_PENDING || !self.allowed(now) {
            self.stats.not_asked += 1;
            return;
        }
        let pending = Pending { since_ms: now, tries: 1, next_ms: now + RETRY_MS };
        self.pending.insert(key, (pending, vec![asker]));
        self.ask_peers(key, Some(asker.ip), asker.mac, step);
    }

    fn probed(&mut self, key: Key, asker_mac: MacAddr, step: &mut Step<'_>) {
        self.stats.probes_captured += 1;
        if step.peers_up == 0 || self.probing.len() >= MAX_PENDING || !self.probes.allow(step.now_ms) {
            self.stats.not_asked += 1;
            return;
        }
        self.probing.insert((key, asker_mac), step.now_ms + ANSWER_MS);
        self.ask_peers(key, None, asker_mac, step);
    }

    fn answered(
        &mut self,
        key: Key,
        mac: MacAddr,
        router: bool,
        frame: &Frame<'_>,
        checksum_pending: bool,
        step: &mut Step<'_>,
    ) {
        let place = (key, frame.dst);
        match self.injected.get_mut(&place) {
            Some((expected, _)) => {
                *expected -= 1;
                if *expected == 0 {
                    self.injected.remove(&place);
                }
                self.stats.replies_captured += 1;
                self.announce(key, mac, router, Some(frame.dst), None, step);
            }
            // The answer to a question that went as it was, so it goes as it is.
            None => self.forward(frame, checksum_pending, step),
        }
    }

    /// Sends a frame on as data would go, with its checksum finished.
    fn forward(&mut self, frame: &Frame<'_>, checksum_pending: bool, step: &mut Step<'_>) {
        let to = match step.macs.table().lookup(MacKey::new(frame.vlan, frame.dst)).map(|entry| entry.owner) {
            Some(Owner::Local) if !frame.dst.is_group() => return,
            Some(Owner::Peer(peer)) if !frame.dst.is_group() => To::Peer(peer),
            _ => To::All,
        };
        if !self.forwards.allow(step.now_ms) {
            self.stats.rate_limited += 1;
            return;
        }
        self.stats.forwarded += 1;
        step.out.push(Action::Frame(to, finish(frame, checksum_pending)));
    }

    /// The address is at this MAC on this side: a station has just said so itself.
    /// Only answers and announcements say whether it is a router (`router`).
    fn learn_local(&mut self, key: Key, mac: MacAddr, router: Option<bool>, source: Source, step: &mut Step<'_>) {
        step.macs.here(MacKey::new(key.vlan, mac), step.now_ms, step.out);
        self.unanswered.remove(&key);
        let now = step.now_ms;
        let room = self.entries.len() < MAX_ENTRIES;
        let changed = match self.entries.get_mut(&key) {
            Some(entry) => {
                let changed = entry.owner != Owner::Local || entry.mac != mac;
                let router = router.unwrap_or(entry.router && entry.mac == mac);
                let told_ms = if changed { None } else { entry.told_ms };
                *entry = Entry {
                    told_ms,
                    asked: entry.asked,
                    ..Entry::new(mac, Owner::Local, router, source, now, self.expiry_ms)
                };
                changed
            }
            None if room => {
                let router = router.unwrap_or(false);
                self.entries.insert(key, Entry::new(mac, Owner::Local, router, source, now, self.expiry_ms));
                false
            }
            None => {
                self.stats.table_full += 1;
                false
            }
        };
        if changed {
            self.stats.moved += 1;
            // An announcement tells the peers anyway.
            if source != Source::Announcement && self.allowed(now) {
                let router = self.entries.get(&key).is_some_and(|entry| entry.router);
                self.announce(key, mac, router, None, None, step);
            }
        }
        // Whoever waits for it here gets its answer from the owner.
        self.pending.remove(&key);
    }

    // --- what peers say --------------------------------------------------------------------------------------------

    fn peer_asks(&mut self, peer: PeerId, request: &Request, step: &mut Step<'_>) {
        self.stats.rpc_requests_received += 1;
        let mac_key = MacKey::new(request.vlan, request.asker_mac);
        if matches!(self.claim(mac_key, peer, request.seq, step), Claim::Contested | Claim::AtTest) {
            // A question in the name of a local MAC would draw the bridge's traffic for it to us.
            self.stats.asker_is_local += 1;
            return;
        }
        if let Some(ip) = request.asker {
            self.learn_remote(Key { vlan: request.vlan, ip }, request.asker_mac, peer, None, Source::RequestRpc, step);
        }
        let key = Key { vlan: request.vlan, ip: request.target };
        if self.injected.len() < MAX_PENDING {
            let (expected, until) = self.injected.entry((key, request.asker_mac)).or_insert((0, 0));
            *expected += 1;
            *until = step.now_ms + ANSWER_MS;
        }
        self.stats.requests_injected += 1;
        step.inject(heard::question(request.target, request.asker, request.asker_mac, request.vlan));
    }

    fn peer_replies(&mut self, peer: PeerId, reply: &Reply, step: &mut Step<'_>) {
        self.stats.rpc_replies_received += 1;
        let key = Key { vlan: reply.vlan, ip: reply.target };
        let claim = self.claim(MacKey::new(reply.vlan, reply.mac), peer, reply.seq, step);
        if matches!(claim, Claim::Contested | Claim::AtTest | Claim::Outdated) {
            return;
        }
        self.unanswered.remove(&key);
        self.learn_remote(key, reply.mac, peer, Some(reply.router), Source::ReplyRpc, step);
        if let Some((_, askers)) = self.pending.remove(&key) {
            for asker in askers {
                self.stats.replies_injected += 1;
                step.inject(heard::answer(key.ip, reply.mac, reply.router, Some(asker.ip), asker.mac, key.vlan));
            }
        }
        if let Some(mac) = reply.asker_mac
            && self.probing.remove(&(key, mac)).is_some()
        {
            self.stats.replies_injected += 1;
            step.inject(heard::answer(key.ip, reply.mac, reply.router, None, mac, key.vlan));
        }
        if let Some(how) = reply.announcement {
            self.stats.announcements_injected += 1;
            step.inject(heard::announcement(key.ip, reply.mac, reply.router, how, key.vlan));
        }
    }

    fn peer_withdraws(&mut self, peer: PeerId, withdraw: &Withdraw) {
        self.stats.rpc_withdraws_received += 1;
        let key = Key { vlan: withdraw.vlan, ip: withdraw.target };
        if self.entries.get(&key).is_some_and(|e| e.owner == Owner::Peer(peer) && e.mac == withdraw.mac) {
            self.entries.remove(&key);
            self.stats.withdrawn += 1;
        }
    }

    fn learn_remote(
        &mut self,
        key: Key,
        mac: MacAddr,
        peer: PeerId,
        router: Option<bool>,
        source: Source,
        step: &mut Step<'_>,
    ) {
        let known = self.entries.get(&key);
        let router = router.unwrap_or(known.is_some_and(|known| known.router && known.mac == mac));
        let entry = Entry::new(mac, Owner::Peer(peer), router, source, step.now_ms, self.expiry_ms);
        let room = self.entries.len() < MAX_ENTRIES;
        match self.entries.get_mut(&key) {
            // The address is at another MAC here. Its owner is asked; if it is silent, the peer's claim counts.
            Some(known) if known.owner == Owner::Local && known.mac != mac => {
                self.stats.conflicts += 1;
                known.claim = Some((peer, mac, router));
                known.verify.get_or_insert((0, step.now_ms));
                self.verify_at_ms = step.now_ms;
            }
            Some(known) => *known = entry,
            None if room => {
                self.entries.insert(key, entry);
            }
            None => self.stats.table_full += 1,
        }
    }

    fn claim(&mut self, key: MacKey, peer: PeerId, seq: u16, step: &mut Step<'_>) -> Claim {
        let claim = step.macs.claim(key, peer, seq, step.now_ms, step.out);
        match claim {
            Claim::MovedAway => self.moved_away(key, peer),
            Claim::Contested => self.ask_for_life(key, step),
            Claim::Accepted | Claim::AtTest | Claim::Outdated => {}
        }
        claim
    }

    /// A MAC is at a peer now, and its addresses with it.
    fn moved_away(&mut self, key: MacKey, peer: PeerId) {
        for (_, entry) in self.entries.iter_mut().filter(|(k, e)| k.vlan == key.vlan() && e.mac == key.mac()) {
            entry.owner = Owner::Peer(peer);
            entry.verify = None;
        }
    }

    fn ask_for_life(&mut self, key: MacKey, step: &mut Step<'_>) {
        let own_mac = self.own_mac;
        let known =
            self.entries.iter().filter(|(k, e)| k.vlan == key.vlan() && e.mac == key.mac() && e.owner == Owner::Local);
        let addresses: Vec<IpAddr> = known.map(|(k, _)| k.ip).take(2).collect();
        for ip in &addresses {
            step.macs.reserve(MacKey::new(key.vlan(), own_mac));
            step.inject(heard::verification(*ip, key.mac(), own_mac, key.vlan()));
        }
        if !addresses.is_empty() {
            step.macs.asked(key, step.now_ms);
        }
    }

    // --- what time does --------------------------------------------------------------------------------------------

    fn retry(&mut self, step: &mut Step<'_>) {
        let now = step.now_ms;
        let due: Vec<Key> = self.pending.iter().filter(|(_, (p, _))| p.next_ms <= now).map(|(k, _)| *k).collect();
        for key in due {
            let again = self.pending.get(&key).is_some_and(|(pending, _)| pending.tries < TRIES);
            if again && !self.allowed(now) {
                // Its time stays in the past: it is asked for as soon as the rate allows.
                break;
            }
            let Some((pending, askers)) = self.pending.get_mut(&key) else { continue };
            if again {
                pending.tries += 1;
                pending.next_ms = now + RETRY_MS;
                if let Some(asker) = askers.first().copied() {
                    self.ask_peers(key, Some(asker.ip), asker.mac, step);
                }
                continue;
            }
            self.pending.remove(&key);
            self.stats.unanswered += 1;
            let failures = self.unanswered.get(&key).map_or(0, |u| u.failures) + 1;
            let wait = (BACK_OFF_MS << (failures - 1).min(8)).min(LONGEST_BACK_OFF_MS);
            if self.unanswered.len() < MAX_PENDING {
                self.unanswered.insert(key, Unanswered { failures, until_ms: now + wait });
            }
        }
    }

    /// Verifies local addresses that peers know, before they forget them, and those that a peer disputes.
    fn verify(&mut self, step: &mut Step<'_>) {
        let (now, expiry, own_mac) = (step.now_ms, self.expiry_ms, self.own_mac);
        let mut silent = Vec::new();
        self.verify_at_ms = u64::MAX;
        for (key, entry) in &mut self.entries {
            if entry.owner != Owner::Local {
                continue;
            }
            // Half-way, so that a withdrawal comes before the entries at the peers have expired by themselves.
            let begin = entry.expires_ms - expiry / 2;
            let known_to_peers = entry.told_ms.is_some_and(|told| begin < told + expiry);
            if entry.verify.is_none() && known_to_peers {
                if now >= begin {
                    entry.verify = Some((0, now));
                } else {
                    self.verify_at_ms = self.verify_at_ms.min(begin);
                }
            }
            let Some((tries, due)) = &mut entry.verify else { continue };
            if now >= *due {
                if *tries == VERIFY_TRIES {
                    silent.push(*key);
                    continue;
                }
                *tries += 1;
                *due = now + if entry.claim.is_some() { DISPUTE_MS } else { VERIFY_MS }.min(expiry / 16);
                self.stats.verifications += 1;
                // Hosts verify the one who asked; what they send to it ends here.
                step.macs.reserve(MacKey::new(key.vlan, own_mac));
                step.out.push(Action::Inject(heard::verification(key.ip, entry.mac, own_mac, key.vlan)));
            }
            self.verify_at_ms = self.verify_at_ms.min(*due);
        }
        for key in silent {
            self.gone(key, step);
        }
    }

    /// The local owner of an address is silent: who disputes it gets it, and peers that know it forget it.
    fn gone(&mut self, key: Key, step: &mut Step<'_>) {
        let Some(entry) = self.entries.remove(&key) else { return };
        self.stats.gone += 1;
        match entry.claim {
            Some((peer, mac, router)) => self.learn_remote(key, mac, peer, Some(router), Source::ReplyRpc, step),
            None if entry.told_ms.is_some() => {
                self.stats.rpc_withdraws_sent += 1;
                step.send(To::All, Message::Withdraw(Withdraw { target: key.ip, mac: entry.mac, vlan: key.vlan }));
            }
            None => {}
        }
    }

    // --- what we say -----------------------------------------------------------------------------------------------

    fn ask_peers(&mut self, key: Key, asker: Option<IpAddr>, asker_mac: MacAddr, step: &mut Step<'_>) {
        self.stats.rpc_requests_sent += 1;
        let seq = step.macs.moves(key.vlan, asker_mac);
        // The asker's own entry travels with the request: peers know it from now on.
        if let Some(ip) = asker
            && let Some(entry) = self.entries.get_mut(&Key { vlan: key.vlan, ip })
        {
            entry.told_ms = Some(step.now_ms);
        }
        let request = Request { target: key.ip, asker, asker_mac, vlan: key.vlan, seq };
        step.send(To::All, Message::Request(request));
    }

    fn announce(
        &mut self,
        key: Key,
        mac: MacAddr,
        router: bool,
        asker_mac: Option<MacAddr>,
        announcement: Option<Announcement>,
        step: &mut Step<'_>,
    ) {
        if step.peers_up == 0 {
            return;
        }
        self.stats.rpc_replies_sent += 1;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.told_ms = Some(step.now_ms);
        }
        let seq = step.macs.moves(key.vlan, mac);
        let (uid, vlan) = (self.uid.clone(), key.vlan);
        let reply = Reply { target: key.ip, mac, uid, vlan, seq, asker_mac, announcement, router };
        step.send(To::All, Message::Reply(reply));
    }

    fn allowed(&mut self, now_ms: u64) -> bool {
        let allowed = self.rate.allow(now_ms);
        self.stats.rate_limited += u64::from(!allowed);
        allowed
    }
}

/// A copy of the frame with its checksum finished, if that was left to hardware (only ICMPv6 has one here).
fn finish(frame: &Frame<'_>, checksum_pending: bool) -> Vec<u8> {
    let mut bytes = frame.bytes.to_vec();
    if checksum_pending {
        use ipop_dataplane::wire::vnet::{PartialChecksum, finish_checksum};
        let start = frame.l3 + ipop_dataplane::wire::ip::IPV6_HEADER_LEN;
        finish_checksum(&mut bytes, PartialChecksum { start: start as u16, offset: 2 });
    }
    bytes
}

#[cfg(test)]
mod tests;
