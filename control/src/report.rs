//! What `ipop status` and its like show: the same structures for the control socket and for the program that reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::macs::MacStats;
use crate::resolution::ResolutionStats;

/// One sentence on a reason in [`Status::drops`].
pub fn drop_reason(name: &str) -> Option<&'static str> {
    use ipop_dataplane::ending::Ending;
    Ending::ALL.iter().find(|ending| ending.name() == name).map(|ending| ending.describe())
}

/// One sentence on a reason in [`Status::refused`].
pub fn refusal_reason(name: &str) -> Option<&'static str> {
    use crate::limits::Reason;
    Reason::ALL.iter().find(|reason| reason.name() == name).map(|reason| reason.describe())
}

/// `ipop status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Name of the gateway.
    pub name: String,
    /// Its identity: of its public key, or in clear text new at every start.
    pub uid: String,
    /// Process.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Whether links are encrypted.
    pub sec: bool,
    /// Network identifier.
    pub network: u32,
    /// The port.
    pub port: PortStatus,
    /// UDP address.
    pub listen: String,
    /// No interface of the host has that address at the moment.
    #[serde(default)]
    pub address_missing: bool,
    /// What is not there (yet) and will be taken when it comes, in words.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// What the kernel does for us.
    #[serde(default)]
    pub offloads: Vec<Feature>,
    /// What the gateway may still do.
    #[serde(default)]
    pub confinement: Confinement,
    /// The worker threads.
    pub workers: Vec<WorkerStatus>,
    /// Peers that are up, and all of them.
    pub peers: Usage,
    /// Entries of the MAC table, and how many it can have.
    pub mac_table: Usage,
    /// Entries of the ARP and ND table.
    pub arp_entries: usize,
    /// Frames that went where they should, by where that is.
    pub frames: BTreeMap<String, u64>,
    /// Everything that was dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Sources that workers did not tell the control thread of: there were too many.
    pub learn_lost: u64,
    /// ARP and neighbour discovery.
    pub arp: ResolutionStats,
    /// What happened to MACs.
    pub macs: MacStats,
    /// Claims of MACs and addresses that were refused, by reason.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// Lines of the log that were lost, because they could not be written.
    #[serde(default)]
    pub log_lost: u64,
}

/// Part of how many.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Usage {
    /// In use.
    pub used: usize,
    /// At most.
    pub of: usize,
}

/// What the port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortKind {
    /// A TAP of the gateway's own.
    Tap,
    /// A whole interface.
    AfPacket,
}

/// The port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PortStatus {
    /// What it is.
    pub kind: PortKind,
    /// Interface name.
    pub name: String,
    /// Its own MAC, if it has one.
    pub mac: String,
    /// Its MTU; absent if the interface is gone.
    pub mtu: Option<usize>,
    /// False if somebody has set it down.
    #[serde(default)]
    pub up: bool,
    /// Bridge that it is a port of.
    pub bridge: Option<String>,
}

/// A worker thread.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Core that it is pinned to.
    pub cpu: Option<usize>,
    /// UDP ports that it sends from; the first is the one that peers send to.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// `io_uring` or `system calls`.
    #[serde(default)]
    pub engine: String,
    /// Why not io_uring.
    #[serde(default)]
    pub no_io_uring: Option<String>,
    /// Parts of io_uring that can be missing.
    #[serde(default)]
    pub features: Vec<Feature>,
}

/// Something that can be missing without harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// What it is called, in the config too where it can be switched off.
    pub name: String,
    /// In use.
    pub on: bool,
    /// Why not; or, for one that is in use, why that could not be tried at the start.
    pub reason: Option<String>,
    /// Seconds since it became so, if it was otherwise at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_s: Option<u64>,
}

/// What the gateway may still do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Whose rights it has.
    pub user: String,
    /// Capabilities of the control thread; while `capabilities` is on in the features the workers have none.
    pub capabilities: Vec<String>,
    /// What keeps it there.
    pub features: Vec<Feature>,
}

impl From<&crate::confine::Confinement> for Confinement {
    fn from(it: &crate::confine::Confinement) -> Confinement {
        let features = it.features.iter().map(Feature::from).collect();
        Confinement { user: it.user.clone(), capabilities: it.capabilities.clone(), features }
    }
}

impl From<&ipop_dataplane::feature::Feature> for Feature {
    fn from(feature: &ipop_dataplane::feature::Feature) -> Feature {
        let state = &feature.state;
        let reason = state.reason().map(str::to_owned);
        Feature { name: feature.name.to_owned(), on: state.is_on(), reason, changed_s: None }
    }
}

/// `ipop peers`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peers {
    /// In the order of the config.
    pub peers: Vec<Peer>,
}

/// One peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peer {
    /// Its number.
    pub id: u16,
    /// Its name in the config.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// `up` or `down`.
    pub state: String,
    /// What keeps it down, as one word, and as a sentence.
    #[serde(default)]
    pub trouble: Option<String>,
    /// The sentence.
    #[serde(default)]
    pub trouble_text: Option<String>,
    /// Two gateways have its key: where the one is that the link stays with, and where the other.
    #[serde(default)]
    pub key_twice: Option<[String; 2]>,
    /// For how long it has been up, seconds.
    pub up_s: Option<u64>,
    /// How often the link came up.
    pub ups: u64,
    /// Its identity.
    pub uid: Option<String>,
    /// The name that it gives itself.
    pub remote_name: Option<String>,
    /// Its public key, if the link is sealed.
    #[serde(default)]
    pub public_key: Option<String>,
    /// How datagrams are sealed.
    #[serde(default)]
    pub cipher: Option<String>,
    /// Seconds since the keys were agreed on.
    #[serde(default)]
    pub keys_age_s: Option<u64>,
    /// How many sessions there were with it.
    #[serde(default)]
    pub sessions: Option<u64>,
    /// Seconds since it was last heard of.
    pub last_heard_s: Option<u64>,
    /// Octets of UDP payload that the path carries, as far as is known.
    pub path_payload: usize,
    /// The same as an MTU: with UDP and IP headers.
    pub path_mtu: usize,
    /// MACs behind it.
    pub macs: usize,
    /// Frames from it that were delivered; a super-frame is one.
    pub rx_frames: u64,
    /// Their octets.
    pub rx_bytes: u64,
    /// Datagrams from it.
    pub rx_datagrams: u64,
    /// Frames to it; a super-frame is one.
    pub tx_frames: u64,
    /// Their octets.
    pub tx_bytes: u64,
    /// Datagrams to it.
    pub tx_datagrams: u64,
    /// Messages from it that were dropped because it sends too many.
    #[serde(default)]
    pub messages_dropped: u64,
    /// Whether trains to it leave without a copy, and why not.
    #[serde(default)]
    pub zero_copy: String,
}

/// `ipop macs`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Macs {
    /// Sorted by VLAN and MAC.
    pub macs: Vec<Mac>,
}

/// One entry of the MAC table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mac {
    /// VLAN, 0 for untagged.
    pub vlan: u16,
    /// It is an 802.1ad service VLAN.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub service: bool,
    /// The MAC.
    pub mac: String,
    /// `local` or the peer's name.
    #[serde(rename = "where")]
    pub place: String,
    /// How often it moved between gateways.
    pub seq: u16,
    /// Seconds since a frame from it was seen.
    pub age_s: u64,
    /// Seconds until it is forgotten.
    pub expires_in_s: u64,
    /// Seconds for which it stays where it is, because claims on it kept losing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_s: Option<u64>,
    /// It never leaves this side.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
}

/// `ipop macs release`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Released {
    /// Entries that were frozen and are not any more.
    pub released: usize,
}

/// `ipop arp`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Arp {
    /// Sorted by VLAN and address.
    pub entries: Vec<ArpEntry>,
    /// Questions under way.
    pub pending: Vec<ArpPending>,
    /// Addresses that are not asked for at the moment.
    pub unanswered: Vec<ArpUnanswered>,
}

/// One entry of the ARP and ND table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArpEntry {
    /// VLAN, 0 for untagged.
    pub vlan: u16,
    /// The address.
    pub ip: String,
    /// Who has it.
    pub mac: String,
    /// `local` or the peer's name.
    #[serde(rename = "where")]
    pub place: String,
    /// How it was learned.
    pub source: String,
    /// Seconds since it was learned or confirmed.
    pub age_s: u64,
    /// Seconds until it is forgotten.
    pub expires_in_s: u64,
}

/// A question under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArpPending {
    /// VLAN, 0 for untagged.
    pub vlan: u16,
    /// The address that is asked for.
    pub ip: String,
    /// How many wait for it.
    pub askers: usize,
    /// How often it was asked.
    pub tries: u32,
}

/// An address that nobody answered for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArpUnanswered {
    /// VLAN, 0 for untagged.
    pub vlan: u16,
    /// The address.
    pub ip: String,
    /// How many times in a row.
    pub failures: u32,
    /// Milliseconds until that is forgotten.
    pub forgotten_in_ms: u64,
}

/// `ipop rekey`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rekey {
    /// Peers that are asked for new keys: those that are up.
    pub asked: usize,
}

/// `ipop rpc`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rpc {
    /// The last messages, oldest first.
    pub messages: Vec<RpcMessage>,
}

/// A message that passed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RpcMessage {
    /// Milliseconds since the start.
    pub at_ms: u64,
    /// `sent` or `received`.
    pub direction: String,
    /// The peer's name, or `all`.
    pub peer: String,
    /// What it was.
    pub message: serde_json::Value,
}
