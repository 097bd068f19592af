//! What the resolver remembers.

use std::net::IpAddr;

use ipop_dataplane::addr::{MacAddr, PeerId, Vlan};
use ipop_dataplane::mac_table::Owner;
use serde::{Deserialize, Serialize};

use crate::rpc::Announcement;

/// An address in a broadcast domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The broadcast domain.
    pub vlan: Vlan,
    /// The address.
    pub ip: IpAddr,
}

/// Where an entry was learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The station asked for somebody.
    Request,
    /// The station answered.
    Reply,
    /// The station announced itself.
    Announcement,
    /// It was the asker in a peer's `arp_request` or `nd_request`.
    RequestRpc,
    /// A peer's `arp_reply` or `nd_reply`.
    ReplyRpc,
}

impl Source {
    /// The name in `ipop arp`.
    pub fn name(self) -> &'static str {
        match self {
            Source::Request => "request",
            Source::Reply => "reply",
            Source::Announcement => "announcement",
            Source::RequestRpc => "request_rpc",
            Source::ReplyRpc => "reply_rpc",
        }
    }
}

/// Who has an address. Times are milliseconds of the gateway's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub mac: MacAddr,
    /// On which side.
    pub owner: Owner,
    /// It says that it is a router (neighbour discovery only).
    pub router: bool,
    /// Where this is known from.
    pub source: Source,
    /// When it was learned or last confirmed.
    pub learned_ms: u64,
    /// When it is forgotten.
    pub expires_ms: u64,
    /// When peers were last told of it.
    pub(super) told_ms: Option<u64>,
    /// Who asked for it last on its own side, and when.
    pub(super) asked: Option<(MacAddr, u64)>,
    /// Being verified: questions sent, when the next is due.
    pub(super) verify: Option<(u32, u64)>,
    /// The peer that says otherwise.
    pub(super) claim: Option<Remote>,
}

/// What a peer says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) peer: PeerId,
    pub(super) mac: MacAddr,
    /// Only answers say whether it is a router.
    pub(super) router: Option<bool>,
    pub(super) source: Source,
    /// Set if our segment is to hear it too.
    pub(super) announcement: Option<Announcement>,
}

impl Entry {
    pub(super) fn new(mac: MacAddr, owner: Owner, router: bool, source: Source, now_ms: u64, expiry_ms: u64) -> Entry {
        Entry {
            mac,
            owner,
            router,
            source,
            learned_ms: now_ms,
            expires_ms: now_ms + expiry_ms,
            told_ms: None,
            asked: None,
            verify: None,
            claim: None,
        }
    }
}

/// A question that peers have been asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// When it was first asked.
    pub since_ms: u64,
    /// How often.
    pub tries: u32,
    /// When it is asked again, or given up.
    pub next_ms: u64,
}

/// An address that nobody answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// How many times in a row.
    pub failures: u32,
    /// It is not asked for again before this.
    pub until_ms: u64,
}

/// What happened, for `ipop status`. ARP and neighbour discovery together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolutionStats {
    /// Requests that came from the port.
    pub requests_captured: u64,
    /// Of these, probes and duplicate address detection.
    pub probes_captured: u64,
    /// Answered from the table.
    pub answered_locally: u64,
    /// Left to an owner on the asker's own side.
    pub left_to_owner: u64,
    /// Joined a question that was under way.
    pub joined: u64,
    /// Not asked because of a back-off.
    pub held_by_back_off: u64,
    /// Not asked because no peer is up, a table is full or the rate is exceeded.
    pub not_asked: u64,
    /// Beyond the rate of messages that guests may cause.
    pub rate_limited: u64,
    /// Replies from the port that answered a peer's question.
    pub replies_captured: u64,
    /// Announcements from the port.
    pub announcements_captured: u64,
    /// Frames sent on as they were: requests to one station and their answers, foreign ARP.
    pub forwarded: u64,
    /// `arp_request`, `nd_request` sent.
    pub rpc_requests_sent: u64,
    /// `arp_request`, `nd_request` received.
    pub rpc_requests_received: u64,
    /// `arp_reply`, `nd_reply` sent.
    pub rpc_replies_sent: u64,
    /// `arp_reply`, `nd_reply` received.
    pub rpc_replies_received: u64,
    /// `arp_withdraw`, `nd_withdraw` sent.
    pub rpc_withdraws_sent: u64,
    /// `arp_withdraw`, `nd_withdraw` received.
    pub rpc_withdraws_received: u64,
    /// `mac_moved` received.
    pub rpc_moves_received: u64,
    /// Requests of peers put to our segment.
    pub requests_injected: u64,
    /// Answers given to askers on our side.
    pub replies_injected: u64,
    /// Announcements of peers repeated in our segment.
    pub announcements_injected: u64,
    /// Requests of peers in the name of a MAC that is on our side.
    pub asker_is_local: u64,
    /// Questions that nobody answered.
    pub unanswered: u64,
    /// Questions to local stations whether they still have their address.
    pub verifications: u64,
    /// Local stations that did not answer to that.
    pub gone: u64,
    /// Entries that a peer withdrew.
    pub withdrawn: u64,
    /// Entries that expired.
    pub expired: u64,
    /// Addresses that came here from a peer, or changed their MAC here.
    pub moved: u64,
    /// Addresses that a peer claims for another MAC than the one here.
    pub conflicts: u64,
    /// Not entered because the table is full.
    pub table_full: u64,
}
