//! Whole measurements.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use ipop_bench::result::{Detail, ResultFile};
use ipop_lab::trials::Outcome;
use ipop_lab::{Cmd, Process};
use nix::sys::signal::Signal;

use crate::kit::{Bench, PROGRAM, ensure};

/// Everything that the quick scenario asks for.
const QUICK: [&str; 18] = [
    "tcp/1/forward",
    "tcp/1/backward",
    "tcp/4/forward",
    "tcp/4/backward",
    "udp/64/blast",
    "udp/1400/blast",
    "udp/imix/blast",
    "raw/64/blast",
    "raw/1400/blast",
    "raw/imix/blast",
    "udp/64/lossless",
    "latency/open/10",
    "latency/open/50",
    "latency/open/90",
    "latency/ping-pong/tcp",
    "latency/ping-pong/udp",
    "arp/cold",
    "arp/warm",
];

pub(crate) fn unfit() -> Outcome {
    let bench = Bench::by_cable()?;
    let _serve = bench.serve()?;
    let scenario = r#"{"name": "sizes", "about": "",
        "blast": {"kinds": ["udp"], "sizes": [60, 1414, 1415], "seconds": 0.1}}"#;
    let found = bench.measure(&["--scenario", scenario])?;
    let ids: Vec<&str> = found.figures.iter().map(|figure| figure.id.as_str()).collect();
    ensure(ids == ["udp/1414/blast"], &format!("{ids:?}"))?;
    let reason = |id: &str| found.skipped.get(id).cloned().unwrap_or_default();
    ensure(reason("udp/60/blast").contains("at least 64 bytes"), &reason("udp/60/blast"))?;
    ensure(reason("udp/1415/blast").contains("at most 1414 bytes"), &reason("udp/1415/blast"))
}

pub(crate) fn ipv6() -> Outcome {
    let bench = Bench::by_cable()?;
    let _serve = bench.serve()?;
    let scenario = r#"{"name": "six", "about": "",
        "tcp": {"flows": [2], "seconds": 0.1, "omit": 0},
        "steady": {"kinds": ["udp", "raw"], "sizes": [84, 1414], "rate": 2000, "seconds": 0.3},
        "ping_pong": {"seconds": 0.1}, "arp": {"cold": 3, "warm": 3}}"#;
    let stdout = bench.near.run([PROGRAM, "run", "--to", "fd03::104", "--json", "--scenario", scenario])?;
    let file: ResultFile = serde_json::from_str(&stdout)?;
    let figures = &file.measurements[0].figures;
    let lost: u64 = figures
        .iter()
        .map(|figure| match &figure.detail {
            Detail::Packets(packets) => packets.lost + packets.duplicates + packets.damaged,
            Detail::Latency(detail) => detail.unanswered,
            _ => 0,
        })
        .sum();
    ensure(figures.len() == 10 && lost == 0, &format!("{} figures, {lost} lost: {stdout}", figures.len()))
}

pub(crate) fn quick_lab() -> Outcome {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("result").display().to_string();
    let begin = Instant::now();
    let table = Cmd::new([PROGRAM, "lab", "--quick", "--out", &out]).timeout(Duration::from_secs(120)).run()?;
    ensure(begin.elapsed() < Duration::from_secs(60), &format!("quick took {:?}", begin.elapsed()))?;
    let result = Path::new(&out).join("result.json");
    let file = ResultFile::load(&result)?;
    let [measurement] = file.measurements.as_slice() else { return Err("not one measurement".into()) };
    ensure(measurement.error.is_none(), &format!("{:?}", measurement.error))?;
    let cores = thread::available_parallelism()?.get() as f64;
    for id in &QUICK {
        let figure = measurement.figures.iter().find(|figure| figure.id == *id);
        let reason = measurement.skipped.get(*id);
        let figure = figure.ok_or_else(|| format!("no {id}: {reason:?}"))?;
        let cpu = figure.cpu.as_ref().ok_or("no processor time")?;
        // In steps of 10 ms, and read one after the other.
        let possible = cores * (cpu.window + 0.03);
        ensure(
            figure.value > 0.0 && cpu.machine <= possible,
            &format!("at most {possible} s are possible: {figure:?}"),
        )?;
        ensure(table.contains(id), &format!("no {id} in the table: {table}"))?;
        let Detail::Latency(detail) = &figure.detail else { continue };
        // The files that other tools read say the same.
        let stem = Path::new(&out).join("latency").join(format!("ipop-clear-{}", id.replace('/', "-")));
        let log = fs::read(stem.with_extension("hlog"))?;
        let histograms =
            IntervalLogIterator::new(&log).filter(|entry| matches!(entry, Ok(LogEntry::Interval(_)))).count();
        ensure(histograms == 1, &format!("{histograms} histograms in {}", stem.display()))?;
        let text = fs::read_to_string(stem.with_extension("hgrm"))?;
        ensure(text.contains(&format!("Total count    = {:12}]", detail.latency.count)), &text)?;
    }
    let processes = measurement.figures[0].cpu.as_ref().map(|cpu| cpu.processes.len());
    ensure(processes == Some(4), &format!("two gateways and two ends: {processes:?}"))?;
    ensure(measurement.resident.len() == 2, &format!("{:?}", measurement.resident))?;

    let (result, page) = (result.display().to_string(), dir.path().join("page").display().to_string());
    Cmd::new([PROGRAM, "report", &result, "--out", &page]).run()?;
    let html = fs::read_to_string(Path::new(&page).join("index.html"))?;
    ensure(html.contains("<svg") && html.contains("ipop, clear text"), "no plots, or no names")?;
    let same = Cmd::new([PROGRAM, "diff", &result, &result]).run()?;
    ensure(!same.is_empty(), "diff says nothing")
}

pub(crate) fn interrupted() -> Outcome {
    let dir = tempfile::tempdir()?;
    // While the lab is built, and in the middle of a measurement.
    for wait in [700, 5000] {
        let out = dir.path().join(wait.to_string()).display().to_string();
        let mut lab = Cmd::new([PROGRAM, "lab", "--quick", "--out", &out]).spawn()?;
        let pid = lab.pid();
        thread::sleep(Duration::from_millis(wait));
        ensure(lab.ended()?.is_none(), "it ended too early")?;
        let seen = traces(pid)?;
        ensure(!seen.is_empty(), "nothing was there that could be left behind")?;
        lab.signal(Signal::SIGINT)?;
        gone(lab, pid)?;
    }
    Ok(())
}

fn gone(lab: Process, pid: u32) -> Outcome {
    let output = lab.wait(Duration::from_secs(20))?;
    ensure(output.status.code() == Some(130), &format!("{}: {}", output.status, output.stderr))?;
    ensure(output.stderr.contains("interrupted; everything was taken down"), &output.stderr)?;
    let left = traces(pid)?;
    ensure(left.is_empty(), &format!("left behind: {left:?}"))
}

/// Namespaces, directories and processes of the lab of this process.
fn traces(pid: u32) -> Result<Vec<String>, libtest_mimic::Failed> {
    let name = format!("ipop{pid}-");
    let mut found: Vec<String> = Vec::new();
    for dir in ["/run/netns", "/var/lib/ipop-lab"] {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        found.extend(
            entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|entry| entry.starts_with(&name)),
        );
    }
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&name) {
            found.push(line);
        }
    }
    Ok(found)
}
