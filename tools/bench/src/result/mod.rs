//! Results that last: what a measurement found, on what machine, with which settings, as JSON.
//!
//! A file is one [`ResultFile`]. It holds [`Measurement`]s: one system, measured once. A measurement holds
//! [`Figure`]s: one number each, with what it took to get it. Figures with the same id can be compared between systems,
//! rounds and files; [`ids`] lists how they are called.

pub mod fingerprint;
pub mod histogram;
pub mod stats;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, read, write};
use crate::scenario::Scenario;
use fingerprint::Fingerprint;
use histogram::Latency;

/// The version of this format. It is raised when an older reader would misunderstand a file.
pub const SCHEMA: u32 = 1;

/// Everything that one call of `run`, `lab` or `compare` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultFile {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// `run`, `lab` or `compare`.
    pub kind: String,
    /// When it began: RFC 3339, UTC.
    pub started: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Machine, kernel, versions and settings.
    pub fingerprint: Fingerprint,
    /// What was to be measured.
    pub scenario: Scenario,
    /// What was found, in the order in which it was measured.
    pub measurements: Vec<Measurement>,
}

/// One system, measured once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured.
    pub system: System,
    /// 1 in the first round.
    pub round: u32,
    /// What was found.
    pub figures: Vec<Figure>,
    /// What could not be measured, by figure id or group, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, String>,
    /// Why the measurement ended early, if it did; the figures until then are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Resident memory of each watched process at the end, in bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resident: BTreeMap<String, u64>,
}

/// A system in one of its modes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct System {
    /// Short and unique, such as `tinc-encrypted`; what `--systems` takes.
    pub id: String,
    /// For people, such as `tinc, encrypted`.
    pub label: String,
    /// What kind of system it is.
    pub category: Category,
    /// Does it encrypt?
    pub encrypted: bool,
    /// Its own version, where it has one.
    pub version: Option<String>,
}

/// Kinds of systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// No overlay at all: what the machine can do.
    Limit,
    /// An overlay in the kernel.
    Kernel,
    /// `ipop`.
    Ipop,
    /// Another overlay in user space.
    UserSpace,
    /// Whatever lies between the two ends of `ipop-bench run`.
    Path,
}

/// One number, and what it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// See [`ids`].
    pub id: String,
    /// The number itself.
    pub value: f64,
    /// Its unit.
    pub unit: Unit,
    /// What is known beside the number.
    pub detail: Detail,
    /// What was spent while it was measured.
    pub cpu: Option<Cpu>,
}

/// The unit of a [`Figure`], which also tells whether more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unit {
    /// Payload bits of TCP per second.
    #[serde(rename = "bit/s")]
    BitsPerSecond,
    /// Frames per second.
    #[serde(rename = "packet/s")]
    PacketsPerSecond,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
}

impl Unit {
    /// Is a larger number better?
    pub fn more_is_better(self) -> bool {
        !matches!(self, Self::Nanoseconds)
    }
}

/// What is known beside the number of a [`Figure`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Detail {
    /// TCP throughput.
    Stream(Stream),
    /// A stream of numbered packets, at full blast or steady.
    Packets(Packets),
    /// The search for the highest rate without loss; the packets are those of the best trial.
    Lossless(Lossless),
    /// Round trips (the number is the median).
    Latency(LatencyDetail),
}

/// TCP throughput, as the receiver saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Payload bytes received within the window.
    pub bytes: u64,
    /// The window, in seconds.
    pub seconds: f64,
    /// Segments sent again, over the whole transfer; `None` where the sender could not tell.
    pub retransmits: Option<u64>,
}

/// What became of numbered packets. `sent = received - duplicates + lost`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Packets {
    /// Packets that the generator handed to the kernel.
    pub sent: u64,
    /// Packets that arrived, with duplicates.
    pub received: u64,
    /// Numbers that never arrived.
    pub lost: u64,
    /// Packets whose number had arrived before (RFC 5560).
    pub duplicates: u64,
    /// Packets, duplicates aside, whose number is smaller than one that arrived before (RFC 4737).
    pub reordered: u64,
    /// Of the lost ones, those that had reached the receiver's machine and found its socket full.
    pub socket_dropped: u64,
    /// Packets that arrived with another length or content. Their numbers count as lost. A UDP packet whose checksum
    /// shows the damage never arrives.
    pub damaged: u64,
    /// Packets per second that were offered.
    pub offered: f64,
    /// From the first packet to the last that was sent, in seconds.
    pub seconds: f64,
}

/// The outcome of a binary search after RFC 2544, section 26.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lossless {
    /// The share of packets that a trial may lose and still pass; 0.001 is one in a thousand.
    pub tolerance: f64,
    /// Every trial, in order.
    pub trials: Vec<Trial>,
    /// The packets of the best trial that passed.
    pub packets: Packets,
    /// The generator could offer no more: the true limit is higher.
    pub generator_bound: bool,
}

/// One step of the search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Packets per second that were to be offered.
    pub wanted: f64,
    /// Packets per second that were offered.
    pub offered: f64,
    /// The share of packets that were lost.
    pub loss: f64,
    /// Did it pass?
    pub passed: bool,
}

/// Round trips.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatencyDetail {
    /// The distribution.
    #[serde(flatten)]
    pub latency: Latency,
    /// Requests that were not answered in time.
    pub unanswered: u64,
    /// Packets per second that were offered meanwhile, answered or not; `None` for closed loops.
    pub offered: Option<f64>,
    /// How late the generator itself was, as a median in nanoseconds: that much of the time is not the path's. `None`
    /// for closed loops.
    pub late: Option<u64>,
}

/// Processor time spent while a figure was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// How long was watched, in seconds.
    pub window: f64,
    /// Busy seconds of all cores of the machine (of both machines together, where the ends are on two).
    pub machine: f64,
    /// Seconds of each watched process.
    pub processes: BTreeMap<String, f64>,
    /// Payload bits that were moved meanwhile, for streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<f64>,
    /// Packets that arrived meanwhile, for packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<f64>,
}

impl Cpu {
    /// Processor seconds of the machine per gigabit, for streams.
    pub fn per_gigabit(&self) -> Option<f64> {
        self.bits.filter(|&bits| bits > 0.0).map(|bits| self.machine / (bits / 1e9))
    }

    /// Processor seconds of the machine per million packets, for packets.
    pub fn per_million_packets(&self) -> Option<f64> {
        self.packets.filter(|&packets| packets > 0.0).map(|packets| self.machine / (packets / 1e6))
    }
}

impl ResultFile {
    /// Reads a file, and says what is wrong with it if something is.
    pub fn load(path: &Path) -> Result<Self> {
        /// Enough to tell a file of another version.
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let text = read(path)?;
        let no_result =
            |error: serde_json::Error| Error::other(format!("{} is no result of ipop-bench: {error}", path.display()));
        let Version { schema } = serde_json::from_str(&text).map_err(no_result)?;
        if schema != SCHEMA {
            return Err(Error::other(format!(
                "{} has schema version {schema}; this ipop-bench reads version {SCHEMA}",
                path.display()
            )));
        }
        serde_json::from_str(&text).map_err(no_result)
    }

    /// Writes the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::other(error.to_string()))?;
        write(path, &(text + "\n"))
    }

    /// The systems, in the order of their first measurement.
    pub fn systems(&self) -> Vec<&System> {
        let mut systems: Vec<&System> = Vec::new();
        for measurement in &self.measurements {
            if !systems.iter().any(|known| known.id == measurement.system.id) {
                systems.push(&measurement.system);
            }
        }
        systems
    }

    /// The figures of one system with one id, one a round.
    pub fn figures<'a>(&'a self, system: &'a str, id: &'a str) -> impl Iterator<Item = &'a Figure> {
        self.measurements
            .iter()
            .filter(move |measurement| measurement.system.id == system)
            .flat_map(|measurement| &measurement.figures)
            .filter(move |figure| figure.id == id)
    }
}

/// How figures are called.
pub mod ids {
    use crate::scenario::{PacketKind, Size};

    /// `tcp/4/forward`: throughput with 4 flows from `run` to `serve`; `backward` the other way.
    pub fn tcp(flows: u32, backward: bool) -> String {
        format!("tcp/{flows}/{}", if backward { "backward" } else { "forward" })
    }

    /// `udp/64/blast`, `raw/imix/blast`: packets received per second while as many as possible are sent.
    pub fn blast(kind: PacketKind, size: Size) -> String {
        format!("{kind}/{size}/blast")
    }

    /// `udp/64/steady`: packets received per second out of a stream at a steady rate.
    pub fn steady(kind: PacketKind, size: Size) -> String {
        format!("{kind}/{size}/steady")
    }

    /// `udp/64/lossless`: the highest rate without loss.
    pub fn lossless(kind: PacketKind, size: Size) -> String {
        format!("{kind}/{size}/lossless")
    }

    /// `latency/open/90`: round trips at 90 % of the highest rate without loss.
    pub fn open_loop(load: u32) -> String {
        format!("latency/open/{load}")
    }

    /// One packet at a time over TCP, there and back.
    pub const PING_PONG_TCP: &str = "latency/ping-pong/tcp";
    /// One packet at a time over UDP, there and back.
    pub const PING_PONG_UDP: &str = "latency/ping-pong/udp";
    /// From an ARP request for an address nobody asked for before, to its answer.
    pub const ARP_COLD: &str = "arp/cold";
    /// From an ARP request for an address that was just asked for, to its answer.
    pub const ARP_WARM: &str = "arp/warm";
}
