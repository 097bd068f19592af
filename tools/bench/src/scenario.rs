//! What to measure, as data: the files in `perf/scenarios`.

use std::fmt::{self, Display};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result, read};
use crate::traffic::sequence::NUMBERS;

/// The scenarios that come with the program.
const BUILT_IN: [(&str, &str); 5] = [
    ("full", include_str!("../../../perf/scenarios/full.json")),
    ("compare", include_str!("../../../perf/scenarios/compare.json")),
    ("quick", include_str!("../../../perf/scenarios/quick.json")),
    ("glance", include_str!("../../../perf/scenarios/glance.json")),
    ("storm", include_str!("../../../perf/scenarios/storm.json")),
];

/// What to measure. A part that is absent is not measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, for reports.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// The MTU of the containers, where `ipop-bench` makes them. 0: 1400, which all overlays can carry.
    #[serde(default)]
    pub inner_mtu: u32,
    /// TCP throughput.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// Packet rates at full blast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blast: Option<Blast>,
    /// Streams at a steady rate: what is lost, doubled and reordered where nothing needs to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady: Option<Steady>,
    /// The highest rates without loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lossless: Option<Search>,
    /// Open-loop round trips under load. Needs `lossless` with UDP and the same size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<OpenLoop>,
    /// Closed-loop round trips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping_pong: Option<PingPong>,
    /// ARP resolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arp: Option<Arp>,
}

/// TCP throughput.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcp {
    /// Numbers of parallel flows; each is measured both ways.
    pub flows: Vec<u32>,
    /// The window, in seconds.
    pub seconds: f64,
    /// What is left out before the window, in seconds: slow start.
    pub omit: f64,
}

/// Packet rates at full blast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blast {
    /// UDP, raw Ethernet, or both.
    pub kinds: Vec<PacketKind>,
    /// Sizes of the frames.
    pub sizes: Vec<Size>,
    /// How long to send, in seconds.
    pub seconds: f64,
}

/// Streams at a steady rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steady {
    /// UDP, raw Ethernet, or both.
    pub kinds: Vec<PacketKind>,
    /// Sizes of the frames.
    pub sizes: Vec<Size>,
    /// Packets per second.
    pub rate: f64,
    /// How long to send, in seconds.
    pub seconds: f64,
}

/// A binary search for the highest rate without loss (RFC 2544, section 26.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// UDP, raw Ethernet, or both.
    pub kinds: Vec<PacketKind>,
    /// Sizes of the frames.
    pub sizes: Vec<Size>,
    /// How long each trial sends, in seconds.
    pub seconds: f64,
    /// How many trials.
    pub trials: u32,
    /// The share of packets that may be lost: RFC 2544 says 0, which a shared machine never reaches.
    pub tolerance: f64,
}

/// Open-loop round trips: requests leave by the clock, whether the earlier ones were answered or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenLoop {
    /// The size of the frames.
    pub size: Size,
    /// Loads in percent of the highest rate without loss.
    pub loads: Vec<u32>,
    /// How long each takes, in seconds.
    pub seconds: f64,
    /// At most so many packets per second ask for an answer; the others are load.
    pub probes_per_second: f64,
}

/// One packet at a time, there and back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingPong {
    /// How long for TCP, and again for UDP, in seconds.
    pub seconds: f64,
}

/// ARP resolution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arp {
    /// Requests for addresses that nobody asked for before.
    pub cold: u32,
    /// Requests for the same address again.
    pub warm: u32,
}

/// What carries the numbered packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PacketKind {
    /// UDP datagrams, counted at a UDP socket.
    Udp,
    /// Ethernet frames of an EtherType for experiments, counted at an AF_PACKET socket.
    Raw,
}

impl Display for PacketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Raw => "raw",
        })
    }
}

/// The size of a frame in bytes, Ethernet header included and check sequence not; or a mix of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Size {
    /// All frames have so many bytes.
    Bytes(u16),
    /// "Simple IMIX": of twelve frames seven of 64 bytes, four of 570 and one as large as the MTU allows, at most 1514.
    Imix,
}

/// No interface takes frames outside of this.
const SIZES: std::ops::RangeInclusive<u16> = 60..=9014;

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => serializer.serialize_u16(*bytes),
            Self::Imix => serializer.serialize_str("imix"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Bytes(u16),
            Name(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Bytes(bytes) if SIZES.contains(&bytes) => Ok(Self::Bytes(bytes)),
            Either::Name(name) if name == "imix" => Ok(Self::Imix),
            _ => Err(serde::de::Error::custom(format!(
                "a size is a number of bytes from {} to {}, or \"imix\"",
                SIZES.start(),
                SIZES.end()
            ))),
        }
    }
}

impl Scenario {
    /// One that comes with the program, by name; one from a file; or one as JSON.
    pub fn load(name: &str) -> Result<Self> {
        let (what, text) = match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            Some((_, text)) => (format!("the scenario {name}"), (*text).to_owned()),
            None if name.starts_with('{') => ("the scenario".to_owned(), name.to_owned()),
            None if Path::new(name).is_file() => (name.to_owned(), read(Path::new(name))?),
            None => {
                let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                return Err(Error::other(format!("no scenario {name:?}: give a file, or one of {}", names.join(", "))));
            }
        };
        let scenario: Self = serde_json::from_str(&text).map_err(|error| Error::other(format!("{what}: {error}")))?;
        scenario.check().map_err(|error| Error::other(format!("{what}: {error}")))?;
        Ok(scenario)
    }

    /// One stream of UDP packets at a steady rate, and nothing else.
    pub fn steady(rate: f64, size: Size, seconds: f64) -> Result<Self> {
        let steady = Steady { kinds: vec![PacketKind::Udp], sizes: vec![size], rate, seconds };
        let scenario = Self {
            name: "steady".into(),
            about: "One stream of packets at a steady rate".into(),
            inner_mtu: 0,
            tcp: None,
            blast: None,
            steady: Some(steady),
            lossless: None,
            latency: None,
            ping_pong: None,
            arp: None,
        };
        scenario.check().map_err(Error::other)?;
        Ok(scenario)
    }

    /// What types cannot say.
    fn check(&self) -> std::result::Result<(), String> {
        let time = |what: &str, seconds: f64| {
            if (0.05..=3600.0).contains(&seconds) {
                Ok(())
            } else {
                Err(format!("{what}: {seconds} s is not between 0.05 and 3600"))
            }
        };
        let number = |what: &str, number: u32, most: u32| {
            if (1..=most).contains(&number) {
                Ok(())
            } else {
                Err(format!("{what}: {number} is not between 1 and {most}"))
            }
        };
        if let Some(tcp) = &self.tcp {
            time("tcp.seconds", tcp.seconds)?;
            if !(0.0..=60.0).contains(&tcp.omit) {
                return Err(format!("tcp.omit: {} s is not between 0 and 60", tcp.omit));
            }
            tcp.flows.iter().try_for_each(|&flows| number("tcp.flows", flows, 128))?;
        }
        if let Some(blast) = &self.blast {
            time("blast.seconds", blast.seconds)?;
        }
        if let Some(steady) = &self.steady {
            time("steady.seconds", steady.seconds)?;
            if !(1.0..=1e8).contains(&steady.rate) {
                return Err(format!("steady.rate: {} is not between 1 and 10^8 packets per second", steady.rate));
            }
            if steady.rate * steady.seconds > NUMBERS as f64 {
                return Err(format!("steady: more than {NUMBERS} packets cannot be told apart"));
            }
        }
        if let Some(search) = &self.lossless {
            time("lossless.seconds", search.seconds)?;
            number("lossless.trials", search.trials, 30)?;
            if !(0.0..0.5).contains(&search.tolerance) {
                return Err(format!("lossless.tolerance: {} is not between 0 and 0.5", search.tolerance));
            }
        }
        if let Some(latency) = &self.latency {
            time("latency.seconds", latency.seconds)?;
            latency.loads.iter().try_for_each(|&load| number("latency.loads", load, 100))?;
            if !(1.0..=1e6).contains(&latency.probes_per_second) {
                return Err(format!(
                    "latency.probes_per_second: {} is not between 1 and 10^6",
                    latency.probes_per_second
                ));
            }
            let known =
                |search: &Search| search.kinds.contains(&PacketKind::Udp) && search.sizes.contains(&latency.size);
            if !self.lossless.as_ref().is_some_and(known) {
                return Err(format!("latency needs lossless with udp and size {}", latency.size));
            }
        }
        if let Some(ping_pong) = &self.ping_pong {
            time("ping_pong.seconds", ping_pong.seconds)?;
        }
        if let Some(arp) = &self.arp {
            number("arp.cold", arp.cold, 1000)?;
            number("arp.warm", arp.warm, 100_000)?;
        }
        Ok(())
    }

    /// About how long one measurement takes.
    pub fn duration(&self) -> Duration {
        let count = |lists: (usize, usize)| (lists.0 * lists.1) as f64;
        let tcp = self.tcp.as_ref().map_or(0.0, |tcp| 2.0 * tcp.flows.len() as f64 * (tcp.seconds + tcp.omit + 0.1));
        let blast = self
            .blast
            .as_ref()
            .map_or(0.0, |blast| count((blast.kinds.len(), blast.sizes.len())) * (blast.seconds + 0.35));
        let steady = self
            .steady
            .as_ref()
            .map_or(0.0, |steady| count((steady.kinds.len(), steady.sizes.len())) * (steady.seconds + 0.35));
        let lossless = self.lossless.as_ref().map_or(0.0, |search| {
            count((search.kinds.len(), search.sizes.len())) * f64::from(search.trials + 1) * (search.seconds + 0.35)
        });
        let latency = self.latency.as_ref().map_or(0.0, |latency| latency.loads.len() as f64 * (latency.seconds + 0.5));
        let ping_pong = self.ping_pong.as_ref().map_or(0.0, |ping_pong| 2.0 * ping_pong.seconds);
        let arp = self.arp.as_ref().map_or(0.0, |arp| f64::from(arp.cold + arp.warm) * 0.001);
        Duration::from_secs_f64(tcp + blast + steady + lossless + latency + ping_pong + arp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_scenarios_are_good() {
        for (name, _) in BUILT_IN {
            let scenario = Scenario::load(name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(scenario.name, name);
        }
        let quick = Scenario::load("quick").expect("a scenario").duration();
        assert!(quick < Duration::from_secs(40), "quick takes {quick:?}, which leaves too little of a minute");
    }

    #[test]
    fn mistakes_are_named() {
        let full = BUILT_IN[0].1;
        let broken = |from: &str, to: &str| {
            assert!(full.contains(from), "{from} is not in the scenario");
            let parsed: std::result::Result<Scenario, _> = serde_json::from_str(&full.replacen(from, to, 1));
            match parsed {
                Ok(scenario) => scenario.check().expect_err("a mistake"),
                Err(error) => error.to_string(),
            }
        };
        assert!(broken("\"flows\"", "\"flow\"").contains("unknown field `flow`"));
        assert!(broken("\"imix\"", "\"mix\"").contains("from 60 to 9014, or \"imix\""));
        assert!(broken("64", "59").contains("from 60 to 9014"));
        assert!(broken("\"tolerance\": 0.001", "\"tolerance\": 0.7").contains("lossless.tolerance"));
        assert!(broken("\"loads\": [10", "\"loads\": [0").contains("latency.loads"));
        assert!(
            Scenario::load("nonsense").is_err_and(|error| error.to_string().contains("full, compare, quick, glance"))
        );
    }
}
