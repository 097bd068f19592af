//! Many systems in one lab, one after the other, in several rounds.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Context, Error, Result};
use crate::lab::{Bench, Pins};
use crate::progress::Progress;
use crate::result::fingerprint::Fingerprint;
use crate::result::{Detail, ResultFile, SCHEMA, histogram};
use crate::scenario::Scenario;
use crate::systems::Kind;

/// The time of day, to the second: 2026-11-22T15:50:58Z.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What to compare, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `lab` or `compare`, for the result.
    pub kind: &'static str,
    /// What to measure.
    pub scenario: Scenario,
    /// How often.
    pub rounds: u32,
    /// Where the two ends run.
    pub pins: Option<Pins>,
    /// Where the results go.
    pub out: PathBuf,
}

/// Starting a system, waiting until it carries frames and taking it down takes about this long.
const OVERHEAD: Duration = Duration::from_secs(3);

/// Sorts out the systems that cannot run here; tells which, why, and what helps. With `install` that help is fetched.
pub fn available(kinds: Vec<Box<dyn Kind>>, install: bool) -> Result<Vec<Box<dyn Kind>>> {
    let mut able = Vec::new();
    for kind in kinds {
        let mut missing = kind.missing();
        // One thing may be missing behind the other.
        while let Some(command) = missing.as_ref().filter(|_| install).and_then(|lack| lack.install.clone()) {
            let lack = missing.as_ref().map_or("", |lack| &lack.reason);
            eprintln!("{}: {lack}; installing it: {}", kind.system().label, command.join(" "));
            if let Err(error) = run(&command) {
                eprintln!("{error}");
                break;
            }
            let now = kind.missing();
            if now == missing {
                break;
            }
            missing = now;
        }
        match missing {
            None => able.push(kind),
            Some(lack) => {
                let help = lack.install.map(|command| format!(" (--install does: {})", command.join(" ")));
                eprintln!("left out: {}: {}{}", kind.system().label, lack.reason, help.unwrap_or_default());
            }
        }
    }
    if able.is_empty() { Err(Error::other("none of the systems can run here")) } else { Ok(able) }
}

/// Runs an installer where everybody sees what it does; its messages are not our result, so they go to stderr.
fn run(command: &[String]) -> Result<()> {
    let (program, arguments) = command.split_first().ok_or_else(|| Error::other("an empty command"))?;
    let line = command.join(" ");
    let status = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::io::stderr())
        .status()
        .context(format!("running `{line}`"))?;
    if status.success() { Ok(()) } else { Err(Error::other(format!("`{line}` failed ({status})"))) }
}

/// Measures all systems in all rounds: A B C, A B C, and so on, so that what changes on the machine with time changes
/// for all. Writes the result after every round, and gives it at the end.
pub fn measure(plan: &Plan, kinds: &[Box<dyn Kind>], progress: &mut Progress) -> Result<ResultFile> {
    prepare(&plan.out)?;
    let file = measure_into(plan, kinds, progress);
    // Not if there is a round in it already.
    let _ = std::fs::remove_dir(&plan.out);
    file
}

/// The directory for a result. One that has a result already is not written over.
pub fn prepare(out: &Path) -> Result<()> {
    let result = out.join("result.json");
    if result.exists() {
        return Err(Error::other(format!("{} exists already: give another --out", result.display())));
    }
    std::fs::create_dir_all(out).context(format!("creating {}", out.display()))
}

fn measure_into(plan: &Plan, kinds: &[Box<dyn Kind>], progress: &mut Progress) -> Result<ResultFile> {
    let began = SystemTime::now();
    let start = Instant::now();
    let mut fingerprint = Fingerprint::of_this_machine();
    for kind in kinds {
        let system = kind.system();
        if let Some(version) = system.version {
            // tinc-clear and tinc-encrypted are one program.
            let name = system.id.split('-').next().unwrap_or_default().to_owned();
            fingerprint.versions.insert(name, version);
        }
    }
    fingerprint.set("rounds", plan.rounds);
    progress.show("building the lab");
    let mut bench = Bench::build(plan.scenario.inner_mtu, plan.pins)?;
    bench.describe(&mut fingerprint);
    let mut file = ResultFile {
        schema: SCHEMA,
        kind: plan.kind.into(),
        started: now(),
        seconds: 0.0,
        fingerprint,
        scenario: plan.scenario.clone(),
        measurements: Vec::new(),
    };
    let total = kinds.len() * plan.rounds as usize;
    for round in 1..=plan.rounds {
        for kind in kinds {
            let label = kind.system().label;
            let number = file.measurements.len();
            let left = remaining(start.elapsed(), number, total, &plan.scenario);
            let mut note = |step: &str| {
                progress.show(&format!("[{}/{total}] round {round}, {label}: {step} ({left} left)", number + 1));
            };
            let measurement = bench.measure(kind.as_ref(), &plan.scenario, round, &mut note)?;
            if let Some(error) = &measurement.error {
                progress.say(&format!("round {round}, {label}: {error}"));
            }
            file.measurements.push(measurement);
        }
        file.seconds = start.elapsed().as_secs_f64();
        file.save(&plan.out.join("result.json"))?;
    }
    progress.show("taking the lab down");
    drop(bench);
    progress.clear();
    save(&file, began, &plan.out)?;
    Ok(file)
}

/// What is left, for people: from what it took so far, or from what the scenario says.
fn remaining(elapsed: Duration, done: usize, total: usize, scenario: &Scenario) -> String {
    let each = match u32::try_from(done) {
        Ok(done @ 1..) => elapsed / done,
        _ => scenario.duration() + OVERHEAD,
    };
    let seconds = each.as_secs_f64() * (total - done) as f64;
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

/// Writes `result.json`; and in `latency` one `.hlog` and one `.hgrm` for each system and latency figure, over all rounds.
pub fn save(file: &ResultFile, began: SystemTime, out: &Path) -> Result<()> {
    let dir = out.join("latency");
    std::fs::create_dir_all(&dir).context(format!("creating {}", dir.display()))?;
    file.save(&out.join("result.json"))?;
    for system in file.systems() {
        let mut ids: Vec<&str> = Vec::new();
        for figure in file.measurements.iter().flat_map(|measurement| &measurement.figures) {
            if matches!(figure.detail, Detail::Latency(_)) && !ids.contains(&figure.id.as_str()) {
                ids.push(&figure.id);
            }
        }
        for id in ids {
            let rounds = file.figures(&system.id, id).filter_map(|figure| match &figure.detail {
                Detail::Latency(detail) => Some(&detail.latency),
                _ => None,
            });
            let merged = histogram::merge(rounds);
            if !merged.is_empty() {
                let stem = dir.join(format!("{}-{}", system.id, id.replace('/', "-")));
                histogram::save(&merged, &stem, began, Duration::from_secs_f64(file.seconds))?;
            }
        }
    }
    Ok(())
}
