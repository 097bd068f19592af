//! What it costs known traffic when a guest on the same bridge sends from MACs that it makes up.
//!
//! The frames of such a guest cost time by themselves. So each rate is measured twice in every round: from random MACs,
//! and from the guest's own. What the second takes less is what learning costs.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::compare;
use crate::error::{Error, Result};
use crate::lab::{Bench, Pins};
use crate::progress::Progress;
use crate::report::grid::{Column, lay_out};
use crate::result::fingerprint::Fingerprint;
use crate::result::stats::Summary;
use crate::result::{Detail, Measurement, ResultFile, SCHEMA, System};
use crate::scenario::Scenario;
use crate::systems::Kind;
use crate::traffic::socket::{BATCH, Link, outbox, send};

/// Where the guest sends to: a station that is nowhere, so that each frame is unknown to the gateway at both ends.
const NOWHERE: [u8; 6] = [0x02, 0xdb, 0, 0, 0, 1];
/// For experiments on a local network (IEEE 802, local experimental EtherType 1).
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
/// The smallest frame, without its check sequence.
const FRAME: usize = 60;
/// How often the guest sends what is due: seldom enough to leave the cores to those that are measured.
const PAUSE: Duration = Duration::from_micros(500);
/// How wide the table may be.
const WIDTH: usize = 120;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The known traffic.
    pub scenario: Scenario,
    /// How often.
    pub rounds: u32,
    /// Frames per second of the guest, one after the other.
    pub rates: Vec<u32>,
    /// Where the two ends run.
    pub pins: Option<Pins>,
    /// Where the results go.
    pub out: PathBuf,
}

/// What the guest does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    Silent,
    OneMac(u32),
    RandomMacs(u32),
}

impl Guest {
    fn id(self) -> String {
        match self {
            Guest::Silent => "silent".into(),
            Guest::OneMac(rate) => format!("one-{rate}"),
            Guest::RandomMacs(rate) => format!("random-{rate}"),
        }
    }

    fn label(self) -> String {
        match self {
            Guest::Silent => "a silent guest".into(),
            Guest::OneMac(rate) => format!("{rate}/s from one MAC"),
            Guest::RandomMacs(rate) => format!("{rate}/s from random MACs"),
        }
    }
}

/// Measures with every kind of guest in every round. The gateways live as long as all of it, as their tables do.
pub fn measure(plan: &Plan, kind: &dyn Kind, progress: &mut Progress) -> Result<ResultFile> {
    compare::prepare(&plan.out)?;
    let (began, start) = (SystemTime::now(), Instant::now());
    let mut fingerprint = Fingerprint::of_this_machine();
    fingerprint.set("rounds", plan.rounds);
    progress.show("building the lab");
    let bench = Bench::build(plan.scenario.inner_mtu, plan.pins)?;
    bench.describe(&mut fingerprint);
    let mut running = bench.start(kind)?;
    let guest = bench.guest()?;
    let ip = guest.ip()?;
    let (link, socket) = guest.netns().within(|| {
        let link = Link::with_address(ip)?;
        let socket = link.raw_socket(0)?;
        Ok::<_, Error>((link, socket))
    })??;
    let mut guests = vec![Guest::Silent];
    guests.extend(plan.rates.iter().flat_map(|&rate| [Guest::OneMac(rate), Guest::RandomMacs(rate)]));
    let mut file = ResultFile {
        schema: SCHEMA,
        kind: "storm".into(),
        started: compare::now(),
        seconds: 0.0,
        fingerprint,
        scenario: plan.scenario.clone(),
        measurements: Vec::new(),
    };
    for round in 1..=plan.rounds {
        // None of them is always the first.
        guests.rotate_left(1);
        for &guest in &guests {
            let mut note = |step: &str| progress.show(&format!("round {round}, {}: {step}", guest.label()));
            let stop = AtomicBool::new(false);
            let (measured, sent) = thread::scope(|scope| {
                let source = scope.spawn(|| storm(&socket, link.mac, guest, &stop));
                let measured = bench.run(&mut *running, &plan.scenario, &mut note);
                stop.store(true, Relaxed);
                (measured, source.join())
            });
            let offered = sent.map_err(|_| Error::other("the guest's thread has panicked"))??;
            let system = System { id: guest.id(), label: guest.label(), ..kind.system() };
            let mut measurement = Measurement { system, round, ..measured? };
            if let Guest::OneMac(rate) | Guest::RandomMacs(rate) = guest
                && offered < f64::from(rate) * 0.9
            {
                measurement.skipped.insert("guest".into(), format!("it sent only {offered:.0}/s"));
            }
            file.measurements.push(measurement);
        }
        file.seconds = start.elapsed().as_secs_f64();
        file.save(&plan.out.join("result.json"))?;
    }
    progress.clear();
    compare::save(&file, began, &plan.out)?;
    Ok(file)
}

/// Sends until it is told to stop; gives frames per second.
fn storm(socket: &OwnedFd, own: [u8; 6], guest: Guest, stop: &AtomicBool) -> Result<f64> {
    let (rate, random) = match guest {
        Guest::Silent => return Ok(0.0),
        Guest::OneMac(rate) => (rate, false),
        Guest::RandomMacs(rate) => (rate, true),
    };
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&NOWHERE);
    frame[6..12].copy_from_slice(&own);
    frame[12..14].copy_from_slice(&EXPERIMENTAL);
    let mut frames = [frame; BATCH];
    let mut outbox = outbox();
    // Others than last time, which the gateways know by now.
    let mut state = RandomState::new().build_hasher().finish() | 1;
    let (start, mut sent) = (Instant::now(), 0u64);
    while !stop.load(Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64 - sent;
        if due == 0 {
            thread::sleep(PAUSE);
            continue;
        }
        let count = due.min(BATCH as u64) as usize;
        if random {
            for frame in &mut frames[..count] {
                frame[6..12].copy_from_slice(&made_up(&mut state));
            }
        }
        let batch: Vec<_> = frames[..count].iter().map(|frame| [IoSlice::new(frame)]).collect();
        sent += send(socket.as_raw_fd(), &mut outbox, &batch)? as u64;
    }
    Ok(sent as f64 / start.elapsed().as_secs_f64())
}

/// A station's address that is locally administered (IEEE 802c), from a xorshift generator.
fn made_up(state: &mut u64) -> [u8; 6] {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let [.., a, b, c, d, e] = state.to_be_bytes();
    [0x06, a, b, c, d, e]
}

/// The figures with every kind of guest, and what random MACs leave of them, as a table.
pub fn summary(file: &ResultFile) -> String {
    let mut ids: Vec<&str> = Vec::new();
    for figure in file.measurements.iter().flat_map(|measurement| &measurement.figures) {
        if !ids.contains(&figure.id.as_str()) {
            ids.push(&figure.id);
        }
    }
    let guests: Vec<System> = file.systems().into_iter().cloned().collect();
    let values = |guest: &str, id: &str| -> Vec<f64> { file.figures(guest, id).map(|figure| figure.value).collect() };
    let range = |values: Vec<f64>, scale: f64, digits: usize| {
        Summary::of(values.into_iter().map(|value| value / scale))
            .map_or("-".to_owned(), |s| format!("{:.digits$} ({:.digits$} to {:.digits$})", s.median, s.min, s.max))
    };
    let first = Column::words(&["guest"], guests.iter().map(|guest| guest.label.clone()).collect());
    let mut columns = Vec::new();
    for id in ids {
        let stream = file
            .measurements
            .iter()
            .flat_map(|m| &m.figures)
            .any(|figure| figure.id == id && matches!(figure.detail, Detail::Stream(_)));
        let (unit, scale) = if stream { ("Gbit/s", 1e9) } else { ("thousand/s", 1e3) };
        let cells = guests.iter().map(|guest| range(values(&guest.id, id), scale, 2)).collect();
        columns.push(Column::numbers(&[id, unit], cells));
        let ratios = guests.iter().map(|guest| {
            let Some(rate) = guest.id.strip_prefix("random-") else { return String::new() };
            let one = values(&format!("one-{rate}"), id);
            range(values(&guest.id, id).into_iter().zip(one).map(|(random, one)| random / one).collect(), 1.0, 3)
        });
        columns.push(Column::numbers(&["random", "/ one MAC"], ratios.collect()));
    }
    let mut text = lay_out(&first, &columns, WIDTH);
    text += "\nMedian and range of the rounds; ratios are those within a round.\n";
    let resident = |measurement: Option<&Measurement>| {
        let all = measurement.map(|m| &m.resident).into_iter().flatten();
        all.map(|(name, octets)| format!("{name} {:.1} MiB", *octets as f64 / f64::from(1 << 20)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    text += &format!("Resident after the first: {}\n", resident(file.measurements.first()));
    text += &format!("Resident after the last:  {}\n", resident(file.measurements.last()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn macs_are_stations_and_all_but_never_the_same() {
        let mut state = 12345;
        let macs: HashSet<_> = (0..100_000).map(|_| made_up(&mut state)).collect();
        assert!(macs.len() > 99_900, "{}", macs.len());
        assert!(macs.iter().all(|mac| mac[0] & 3 == 2), "locally administered, and no group");
    }
}
