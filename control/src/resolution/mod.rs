//! ARP and neighbour discovery between gateways: requests become RPCs, answers live in a table until they expire.
//!
//! The table says which MAC has an address, and on whose side. The rules (RFC 9161 and the kernel's `neigh_suppress`
//! are the checklist):
//!
//! - A request to all for an address at a peer is answered from the table. One for an address on the asker's own side is
//!   left to its owner; if the asker repeats it, the owner may have gone, and the peers are asked; if several ask, the owner
//!   is verified.
//! - One for an unknown address is held back and asked of all peers, once for all who want to know. After some tries the
//!   address counts as unanswered and is not asked for again before a back-off that doubles.
//! - A peer that is asked puts the question to its own segment in the name of the asker. The owner's answer is kept, told
//!   to all peers, and not forwarded; the asker's gateway gives it to everyone who asked.
//! - A request to one station is a check whether it is alive, and goes there as it is; so does the answer.
//! - Probes and duplicate address detection are never answered from the table, announcements are repeated everywhere.
//! - The owner's gateway verifies an address before the others forget it, and withdraws it when the owner is silent.

mod entries;
mod heard;
mod peers;
mod segment;
mod table;
mod timers;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipop_dataplane::addr::{MacAddr, PeerId};
use ipop_dataplane::ending::Ending;
use ipop_dataplane::forward::RateLimit;
use ipop_dataplane::mac_table::{MacKey, Owner};
use ipop_dataplane::wire::Frame;

use crate::action::{Action, To};
use crate::limits::{Limits, Reason, Refusal};
use crate::macs::{Claim, Macs};
use crate::rpc::{Announcement, Message, Reply, Request, Withdraw};
use entries::{Entries, Full};
use heard::Heard;
use table::Remote;
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
/// Entries of the ARP and ND table.
pub const MAX_ENTRIES: usize = 65_536;
/// Bounds of what is under way. What is new and finds no place is counted as a question not asked.
const MAX_PENDING: usize = 4096;
const MAX_ASKERS: usize = 32;
/// Requests to peers per second, all guests together; below what a peer takes (`MESSAGE_RATE` of the workers).
const RPC_RATE: u64 = 2000;
/// New questions per second of one station: one that scans must leave room for the others.
const ASKER_RATE: u64 = 200;
/// Stations whose rate is kept apart, and for how long after their last question.
const MAX_RATED: usize = 1024;
const RATED_MS: u64 = 5000;

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
    entries: Entries,
    pending: HashMap<Key, (Pending, Vec<Asker>)>,
    unanswered: HashMap<Key, Unanswered>,
    /// Questions put to our segment for a peer: how many answers to take for the RPC, and until when.
    injected: HashMap<(Key, MacAddr), (u32, u64)>,
    /// The last that a peer has said in the name of a MAC that is at test. No more than there are tests.
    postponed: HashMap<MacKey, (PeerId, Message)>,
    /// Probes that wait for a conflict.
    probing: HashMap<(Key, MacAddr), u64>,
    /// When the next entry is to be verified, as of the last look.
    verify_at_ms: u64,
    rate: RateLimit,
    /// What is left to each asker of the last seconds, and when it last asked; and to all who find no place there.
    askers: HashMap<MacKey, (RateLimit, u64)>,
    crowd: RateLimit,
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

    fn refuse(&mut self, who: Owner, reason: Reason, mac: MacAddr, ip: IpAddr) {
        self.out.push(Action::Refuse(Refusal { who, reason, mac, ip: Some(ip) }));
    }
}

impl Resolver {
    /// An empty table. `uid` is this gateway's, `own_mac` an address that no station has.
    pub fn new(uid: String, own_mac: MacAddr, expiry_s: u32) -> Resolver {
        Resolver {
            uid,
            own_mac,
            expiry_ms: u64::from(expiry_s) * 1000,
            entries: Entries::default(),
            pending: HashMap::new(),
            unanswered: HashMap::new(),
            injected: HashMap::new(),
            postponed: HashMap::new(),
            probing: HashMap::new(),
            verify_at_ms: u64::MAX,
            rate: RateLimit::new(RPC_RATE),
            askers: HashMap::new(),
            crowd: RateLimit::new(ASKER_RATE),
            announcements: RateLimit::new(RPC_RATE / 4),
            probes: RateLimit::new(RPC_RATE / 4),
            forwards: RateLimit::new(RPC_RATE),
            stats: ResolutionStats::default(),
        }
    }

    /// The same within limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Arc<Limits>) -> Resolver {
        self.entries.limits = limits;
        self
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
                // Whoever asks in the name of more addresses than it may have is not listened to: peers would learn them.
                if let Some(ip) = asker
                    && !self.learn_local(Key { vlan: frame.vlan, ip }, asker_mac, None, Source::Request, step)
                {
                    return Ok(());
                }
                match asker {
                    Some(ip) => self.asked(key, Asker { ip, mac: asker_mac }, step),
                    None => self.probed(key, asker_mac, step),
                }
            }
            Heard::Answer { ip, mac, router } => {
                let key = Key { vlan: frame.vlan, ip };
                if self.learn_local(key, mac, Some(router), Source::Reply, step) && frame.dst != self.own_mac {
                    self.answered(key, mac, router, &frame, checksum_pending, step);
                }
            }
            Heard::Announced { ip, mac, router, how } => {
                let key = Key { vlan: frame.vlan, ip };
                self.stats.announcements_captured += 1;
                if self.learn_local(key, mac, Some(router), Source::Announcement, step)
                    && self.announcements.allow(step.now_ms)
                {
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
            Message::Probe(_) | Message::ProbeReply(_) | Message::Bye => {}
        }
    }

    /// Looks at the clock: retries, back-offs, verifications, expiry.
    pub fn tick(&mut self, step: &mut Step<'_>) {
        self.decide(step);
        self.retry(step);
        self.verify(step);
        let now = step.now_ms;
        let before = self.entries.len();
        self.entries.retain(|entry| entry.expires_ms > now);
        self.stats.expired += (before - self.entries.len()) as u64;
        self.injected.retain(|_, (_, until)| *until > now);
        self.probing.retain(|_, until| *until > now);
        self.askers.retain(|_, (_, last_ms)| *last_ms + RATED_MS > now);
        // A back-off is remembered for as long again, so that the next one is longer.
        self.unanswered.retain(|_, u| u.until_ms + LONGEST_BACK_OFF_MS > now);
    }

    /// True if something is due within a second.
    pub fn is_busy(&self, now_ms: u64) -> bool {
        !self.pending.is_empty() || self.verify_at_ms < now_ms + 1000
    }

    /// A peer is gone: what is behind it is unknown now.
    pub fn flush(&mut self, peer: PeerId) {
        self.entries.retain(|entry| entry.owner != Owner::Peer(peer));
        for (_, entry) in self.entries.iter_mut() {
            entry.claim = entry.claim.filter(|claim| claim.peer != peer);
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

    /// A new question of one station.
    fn may_ask(&mut self, asker: MacKey, now_ms: u64) -> bool {
        let room = self.askers.len() < MAX_RATED;
        let own = match self.askers.get_mut(&asker) {
            Some((limit, last_ms)) => {
                *last_ms = now_ms;
                limit.allow(now_ms)
            }
            None if room => {
                let mut limit = RateLimit::new(ASKER_RATE);
                let allowed = limit.allow(now_ms);
                self.askers.insert(asker, (limit, now_ms));
                allowed
            }
            None => self.crowd.allow(now_ms),
        };
        if !own {
            self.stats.rate_limited += 1;
        }
        own && self.allowed(now_ms)
    }

    fn allowed(&mut self, now_ms: u64) -> bool {
        let allowed = self.rate.allow(now_ms);
        self.stats.rate_limited += u64::from(!allowed);
        allowed
    }
}

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod moves_tests;
#[cfg(test)]
mod tests;
