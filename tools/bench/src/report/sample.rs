//! Made-up results that look like real ones: systems, rounds, noise, and some trouble.

use std::collections::BTreeMap;

use crate::result::fingerprint::Fingerprint;
use crate::result::histogram::{self, Latency};
use crate::result::{
    Category, Cpu, Detail, Figure, LatencyDetail, Lossless, Measurement, Packets, ResultFile, SCHEMA, Stream, System,
    Trial, Unit, ids,
};
use crate::scenario::{PacketKind, Scenario, Size};

/// Id, label, category, and how fast: TCP in Gbit/s, small packets per millisecond, microseconds of a round trip.
type Made = (&'static str, &'static str, Category, f64, f64, f64);

const SYSTEMS: [Made; 13] = [
    ("veth", "veth, no overlay", Category::Limit, 48.0, 1450.0, 8.0),
    ("vxlan", "VXLAN in the kernel", Category::Kernel, 14.2, 690.0, 14.0),
    ("vxlan-wireguard-encrypted", "VXLAN over WireGuard", Category::Kernel, 4.6, 410.0, 24.0),
    ("ipop-clear", "ipop, clear text", Category::Ipop, 12.4, 905.0, 19.0),
    ("ipop-encrypted", "ipop, AES-256-GCM", Category::Ipop, 7.9, 640.0, 22.0),
    ("fastd-clear", "fastd, clear text", Category::UserSpace, 2.9, 240.0, 36.0),
    ("fastd-encrypted", "fastd, Salsa20/12, UMAC", Category::UserSpace, 1.9, 195.0, 41.0),
    ("tinc-clear", "tinc, clear text", Category::UserSpace, 1.75, 151.0, 45.0),
    ("tinc-encrypted", "tinc, AES-256-CBC, SHA-256", Category::UserSpace, 0.72, 96.0, 60.0),
    ("openvpn-encrypted", "OpenVPN, TLS, AES-256-GCM", Category::UserSpace, 0.88, 83.0, 66.0),
    ("vpncloud-clear", "VpnCloud, clear text", Category::UserSpace, 2.4, 188.0, 39.0),
    ("vpncloud-encrypted", "VpnCloud, AES-256-GCM", Category::UserSpace, 2.1, 172.0, 42.0),
    ("n2n-encrypted", "n2n, AES-256", Category::UserSpace, 0.51, 71.0, 58.0),
];

/// SplitMix64: the same noise in every run of the tests.
struct Noise(u64);

impl Noise {
    /// Evenly between 0 and 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A factor near 1.
    fn factor(&mut self) -> f64 {
        1.0 + 0.12 * (self.share() + self.share() - 1.0)
    }

    /// A skewed distribution around this median, in nanoseconds.
    fn times(&mut self, count: u32, median: f64) -> Latency {
        let mut histogram = histogram::new();
        for _ in 0..count {
            let tail = 1.0 / (1.0 - self.share() * 0.9999);
            histogram::record(&mut histogram, (median * (0.75 + 0.18 * tail.powf(0.75) * 0.7)) as u64);
        }
        Latency::from(&histogram)
    }
}

/// A comparison of 13 systems in so many rounds.
pub(crate) fn compare(rounds: u32) -> ResultFile {
    let mut noise = Noise(42);
    let mut measurements = Vec::new();
    for round in 1..=rounds {
        measurements.extend(SYSTEMS.iter().map(|made| measure(made, round, &mut noise)));
    }
    file("compare", measurements)
}

/// One system in one round.
pub(crate) fn lab() -> ResultFile {
    file("lab", vec![measure(&SYSTEMS[3], 1, &mut Noise(7))])
}

/// A file with these measurements.
pub(crate) fn file(kind: &str, measurements: Vec<Measurement>) -> ResultFile {
    let facts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    ResultFile {
        schema: SCHEMA,
        kind: kind.to_owned(),
        started: "2025-03-01T12:34:56Z".to_owned(),
        seconds: 2345.0,
        fingerprint: Fingerprint {
            machine: facts(&[
                ("processor", "Some Processor 9000 @ 2.80GHz"),
                ("cores", "8"),
                ("memory", "32768 MiB"),
                ("virtual", "true"),
                ("load before", "0.10 0.05 0.01 1/200 4711"),
            ]),
            kernel: facts(&[("release", "6.8.0-generic"), ("distribution", "A Linux 24.04")]),
            versions: facts(&[("ipop", "0.1.0"), ("ipop-bench", "0.1.0"), ("tinc", "1.0.36"), ("fastd", "22")]),
            settings: facts(&[("net.core.rmem_max", "212992"), ("rounds", "5"), ("underlay MTU", "1500")]),
        },
        scenario: Scenario::load("compare").expect("a scenario that is built in"),
        measurements,
    }
}

/// A measurement of one system with nothing in it.
pub(crate) fn empty(id: &str, label: &str, category: Category, round: u32) -> Measurement {
    let system = System {
        id: id.to_owned(),
        label: label.to_owned(),
        category,
        encrypted: id.ends_with("-encrypted"),
        version: Some("1.2.3".to_owned()),
    };
    Measurement { system, round, figures: Vec::new(), skipped: BTreeMap::new(), error: None, resident: BTreeMap::new() }
}

/// A figure with TCP throughput.
pub(crate) fn stream(id: String, value: f64) -> Figure {
    let detail = Stream { bytes: (value / 8.0) as u64, seconds: 1.0, retransmits: Some(3) };
    let cpu =
        Cpu { window: 1.0, machine: 2.6 + 1e9 / value, processes: BTreeMap::new(), bits: Some(value), packets: None };
    Figure { id, value, unit: Unit::BitsPerSecond, detail: Detail::Stream(detail), cpu: Some(cpu) }
}

fn packets(id: String, value: f64, blast: bool, noise: &mut Noise) -> Figure {
    let received = value as u64;
    let lost = if blast { (value * (0.3 + noise.share())) as u64 } else { received / 4000 };
    let sum = Packets {
        sent: received + lost,
        received,
        lost,
        duplicates: u64::from(noise.share() < 0.03),
        reordered: (value * 0.001 * noise.share()) as u64,
        socket_dropped: lost / 5,
        damaged: 0,
        offered: (received + lost) as f64,
        seconds: 1.0,
    };
    let cpu = Cpu { window: 1.0, machine: 3.1, processes: BTreeMap::new(), bits: None, packets: Some(value) };
    let trial = Trial { wanted: value, offered: value, loss: 0.0, passed: true };
    let detail = match id.ends_with("/lossless") {
        true => Detail::Lossless(Lossless {
            tolerance: 0.001,
            trials: vec![trial],
            packets: sum,
            generator_bound: value > 1.4e6,
        }),
        false => Detail::Packets(sum),
    };
    Figure { id, value, unit: Unit::PacketsPerSecond, detail, cpu: Some(cpu) }
}

/// A figure with round trips around this median.
fn latency(id: &str, count: u32, median: f64, offered: Option<f64>, noise: &mut Noise) -> Figure {
    let latency = noise.times(count, median);
    let value = latency.p50 as f64;
    let late = offered.map(|_| 900 + (200.0 * noise.share()) as u64);
    let detail = Detail::Latency(LatencyDetail { latency, unanswered: u64::from(noise.share() < 0.2), offered, late });
    Figure { id: id.to_owned(), value, unit: Unit::Nanoseconds, detail, cpu: None }
}

fn measure(
    &(id, label, category, gigabits, per_millisecond, micros): &Made,
    round: u32,
    noise: &mut Noise,
) -> Measurement {
    let mut measurement = empty(id, label, category, round);
    measurement.resident = [("a", 21_000_000), ("b", 20_500_000)]
        .map(|(name, bytes)| (name.to_owned(), (f64::from(bytes) * noise.factor()) as u64))
        .into();
    let figures = &mut measurement.figures;
    for (flows, gain) in [(1, 1.0), (4, 1.5)] {
        for backward in [false, true] {
            figures.push(stream(ids::tcp(flows, backward), gigabits * gain * 1e9 * noise.factor()));
        }
    }
    let rate = per_millisecond * 1e3;
    for kind in [PacketKind::Udp, PacketKind::Raw] {
        for (size, factor) in [(64, 1.0), (128, 0.99), (256, 0.97), (512, 0.93), (1024, 0.85), (1400, 0.77)] {
            let gain = if kind == PacketKind::Raw { 1.15 } else { 1.0 };
            let value = rate * factor * gain * noise.factor();
            figures.push(packets(ids::blast(kind, Size::Bytes(size)), value, true, noise));
        }
        figures.push(packets(ids::blast(kind, Size::Imix), rate * 0.9 * noise.factor(), true, noise));
    }
    figures.push(packets(ids::steady(PacketKind::Udp, Size::Bytes(64)), 20_000.0, false, noise));
    for size in [64, 1400] {
        let value = rate * 0.8 * noise.factor();
        figures.push(packets(ids::lossless(PacketKind::Udp, Size::Bytes(size)), value, false, noise));
    }
    for (load, factor) in [(10, 1.6), (50, 2.2), (90, 7.0)] {
        let offered = rate * 0.008 * f64::from(load);
        figures.push(latency(&ids::open_loop(load), 3000, micros * factor * 1e3, Some(offered), noise));
    }
    for id in [ids::PING_PONG_TCP, ids::PING_PONG_UDP] {
        figures.push(latency(id, 4000, micros * 1e3 * noise.factor(), None, noise));
    }
    let cold = if category == Category::Ipop { 380.0 } else { micros * 2.2 };
    figures.push(latency(ids::ARP_COLD, 30, cold * 1e3 * noise.factor(), None, noise));
    figures.push(latency(ids::ARP_WARM, 100, micros * 1.3e3 * noise.factor(), None, noise));
    if id.starts_with("openvpn") && round == 2 {
        figures.truncate(9);
        measurement.error = Some("openvpn ended: exit status: 1; last line: <TLS & \"keys\">".to_owned());
    }
    if id.starts_with("n2n") {
        figures.retain(|figure| !figure.id.starts_with("raw/"));
        measurement.skipped.insert("raw".to_owned(), "n2n drops frames of unknown EtherTypes".to_owned());
    }
    measurement
}
