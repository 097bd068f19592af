//! What the resolver remembers.

use std::net::IpAddr;

use ipop_dataplane::addr::{MacAddr, Vlan};
use ipop_dataplane::mac_table::Owner;
use serde::{Deserialize, Serialize};

use super::arbitration::Evidence;
use super::heard::Flags;
use super::speech::Speaker;
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
    /// Whose it is, by the word of ARP or neighbour discovery.
    pub mac: MacAddr,
    /// On which side.
    pub owner: Owner,
    /// The Ethernet source of whoever said so. Where a cluster shares a MAC it is another than `mac`.
    pub station: MacAddr,
    /// The flags of what was said.
    pub(super) flags: Flags,
    /// Where this is known from.
    pub source: Source,
    /// When it was learned or last confirmed.
    pub learned_ms: u64,
    /// When it is forgotten.
    pub expires_ms: u64,
    /// Nobody on this side has it: the segment was asked. Always true of an entry of this side.
    pub(super) checked: bool,
    /// A peer has announced it, and nobody else was asked.
    pub(super) hearsay: bool,
    /// When peers were last told of it.
    pub(super) told_ms: Option<u64>,
    /// Who asked for it last on its own side, and when.
    pub(super) asked: Option<(MacAddr, u64)>,
    /// Its gateway will be asked whether it is still true, for it was told to somebody.
    pub(super) confirming: bool,
    /// Being verified.
    pub(super) verify: Option<Verify>,
    /// A timer will look whether it is to be verified.
    pub(super) noted: bool,
    /// Stations that were answered from this entry of late: they hear it if it was wrong.
    pub(super) given: Vec<(Speaker, MacAddr, u64)>,
}

/// A station of this side is being asked whether it still has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verify {
    /// Questions sent.
    pub(super) tries: u32,
    /// When the next one is due.
    pub(super) due_ms: u64,
    /// Between two.
    pub(super) every_ms: u64,
}

/// What somebody says of an address: the segment, or a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) owner: Owner,
    pub(super) mac: MacAddr,
    pub(super) station: MacAddr,
    /// Only answers and announcements have them.
    pub(super) flags: Option<Flags>,
    pub(super) source: Source,
    /// Set if our segment is to hear it too.
    pub(super) announcement: Option<Announcement>,
    /// The station's own frame.
    pub(super) frame: Option<Box<[u8]>>,
}

impl Entry {
    /// What the entry says, as a word of its holder.
    pub(super) fn word(&self) -> Word {
        let (announcement, frame) = (None, None);
        let (mac, station, source) = (self.mac, self.station, self.source);
        Word { owner: self.owner, mac, station, flags: Some(self.flags), source, announcement, frame }
    }

    /// The entry that a word makes, in the place of `known`.
    pub(super) fn of(word: &Word, known: Option<&Entry>, evidence: Evidence, now_ms: u64, expiry_ms: u64) -> Entry {
        let same = known.filter(|known| (known.owner, known.mac) == (word.owner, word.mac));
        Entry {
            mac: word.mac,
            owner: word.owner,
            station: word.station,
            flags: word.flags.or(same.map(|same| same.flags)).unwrap_or(Flags::OF_ARP),
            source: word.source,
            learned_ms: now_ms,
            expires_ms: now_ms + expiry_ms,
            checked: matches!(evidence, Evidence::Checked | Evidence::Proof)
                || word.owner == Owner::Local
                || same.is_some_and(|same| same.checked),
            hearsay: evidence == Evidence::Unasked
                && word.source == Source::ReplyRpc
                && same.is_none_or(|same| same.hearsay),
            told_ms: same.and_then(|same| same.told_ms),
            asked: known.and_then(|known| known.asked),
            confirming: same.is_some_and(|same| same.confirming),
            verify: None,
            noted: known.is_some_and(|known| known.noted),
            given: same.map(|same| same.given.clone()).unwrap_or_default(),
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
    /// When something is done about it next.
    pub next_ms: u64,
}

/// An address that nobody answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// How many times in a row.
    pub failures: u32,
    /// When that is forgotten.
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
    /// Put to the one gateway that has the address, because the entry was not fresh.
    #[serde(default)]
    pub confirmed: u64,
    /// Wait for their turn: the station asks faster than peers are asked.
    #[serde(default)]
    pub queued: u64,
    /// Not asked because no peer is up, or a table or queue is full.
    pub not_asked: u64,
    /// Beyond the rate of frames sent on as they are, or of questions that a peer may put to our segment.
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
    /// `arp_query`, `nd_query` sent.
    #[serde(default)]
    pub rpc_queries_sent: u64,
    /// `arp_query`, `nd_query` received.
    #[serde(default)]
    pub rpc_queries_received: u64,
    /// `mac_moved`, `mac_released`, `mac_query` received.
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
    /// Addresses that somebody claims for another MAC than the one known; their holders are asked.
    pub conflicts: u64,
    /// Of these, those whose holder is alive: two stations have the same address, or one lies.
    #[serde(default)]
    pub duplicates: u64,
    /// The truth about an address told to a segment that had heard something else.
    #[serde(default)]
    pub corrections: u64,
    /// Not entered because the table is full.
    pub table_full: u64,
}
