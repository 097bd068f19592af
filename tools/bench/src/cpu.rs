//! Processor time: of the whole machine, and of some processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::result::Cpu;

/// The kernel tells times to user space in hundredths of a second, whatever its own clock is (USER_HZ).
const TICKS: f64 = 100.0;
/// Where `idle` and `iowait` stand in the line "cpu" of /proc/stat, see proc_stat(5).
const IDLE: [usize; 2] = [3, 4];
/// Where `steal` stands; and behind it the two that are counted in others already.
const STEAL: usize = 7;
/// Where user and system time stand in /proc/PID/stat, counted from behind the command's closing parenthesis.
const OWN_TIMES: [usize; 2] = [11, 12];

/// A processor clock, read twice: before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Busy seconds of all cores since the machine was started.
    pub machine: f64,
    /// Seconds of each process since it was started.
    pub processes: BTreeMap<String, f64>,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Watch {
    proc: PathBuf,
    /// Name and process id, as numbered in `proc`.
    pids: Vec<(String, u32)>,
    /// What this process itself is called.
    own: String,
}

impl Watch {
    /// Reads the processor clocks in this `/proc`, those of these processes, and our own under the name `own`.
    pub fn new(proc: &Path, pids: Vec<(String, u32)>, own: &str) -> Self {
        Self { proc: proc.to_owned(), pids, own: own.to_owned() }
    }

    /// Reads all clocks. What cannot be read is left out.
    pub fn read(&self) -> Reading {
        let file = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let mut processes: BTreeMap<String, f64> = BTreeMap::new();
        for (name, pid) in &self.pids {
            if let Some(time) = of_process(&file(self.proc.join(pid.to_string()).join("stat"))) {
                *processes.entry(name.clone()).or_default() += time;
            }
        }
        // Whatever `proc` is, this one knows us.
        if let Some(time) = of_process(&file("/proc/self/stat".into())) {
            processes.insert(self.own.clone(), time);
        }
        Reading { machine: of_machine(&file(self.proc.join("stat"))).unwrap_or_default(), processes }
    }

    /// Resident memory of each watched process now, in bytes.
    pub fn resident(&self) -> BTreeMap<String, u64> {
        let one = |pid: u32| {
            let status = fs::read_to_string(self.proc.join(pid.to_string()).join("status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
        };
        self.pids.iter().filter_map(|(name, pid)| Some((name.clone(), one(*pid)?))).collect()
    }

    /// The first of these processes that is gone.
    pub fn gone(&self) -> Option<&str> {
        let lives = |pid: u32| {
            let stat = fs::read_to_string(self.proc.join(pid.to_string()).join("stat")).unwrap_or_default();
            // One that has ended and that its parent has not asked about yet is in state Z.
            stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
        };
        self.pids.iter().find(|(_, pid)| !lives(*pid)).map(|(name, _)| name.as_str())
    }
}

/// A window in which processor time is measured.
#[derive(Debug)]
pub struct Window {
    begun: Instant,
    before: Vec<Reading>,
    lasted: Option<Duration>,
}

impl Window {
    /// Opens it, with one reading for each machine.
    pub fn open(before: Vec<Reading>) -> Self {
        Self { begun: Instant::now(), before, lasted: None }
    }

    /// Notes that it ends here, although not all later readings are there yet.
    #[must_use]
    pub fn end(self) -> Self {
        Self { lasted: Some(self.begun.elapsed()), ..self }
    }

    /// Closes it, with the later readings of the same machines.
    pub fn close(self, after: &[Reading]) -> Cpu {
        let window = self.lasted.unwrap_or_else(|| self.begun.elapsed()).as_secs_f64();
        let mut cpu = Cpu { window, machine: 0.0, processes: BTreeMap::new(), bits: None, packets: None };
        for (before, after) in self.before.iter().zip(after) {
            cpu.machine += (after.machine - before.machine).max(0.0);
            for (name, time) in &after.processes {
                let spent = time - before.processes.get(name).copied().unwrap_or_default();
                *cpu.processes.entry(name.clone()).or_default() += spent.max(0.0);
            }
        }
        cpu
    }
}

/// Busy seconds out of /proc/stat. Time that the hypervisor took away was not spent here.
fn of_machine(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let busy = ticks.iter().take(STEAL).enumerate().filter(|(at, _)| !IDLE.contains(at)).map(|(_, ticks)| ticks);
    Some(busy.sum::<f64>() / TICKS)
}

/// User and system seconds out of /proc/PID/stat. The command's name may hold spaces and parentheses.
fn of_process(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    OWN_TIMES.into_iter().map(|at| words.get(at)?.parse::<f64>().ok()).sum::<Option<f64>>().map(|ticks| ticks / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts() {
        // user nice system idle iowait irq softirq steal guest guest_nice
        assert_eq!(of_machine("cpu  100 20 30 4000 500 6 7 80 9 9\ncpu0 1 2 3\n"), Some(1.63));
        assert_eq!(of_machine("cpu0 1 2 3\n"), None);
        let stat = "42 (a) (b c) S 1 42 42 0 -1 4194560 95 0 0 0 250 150 0 0 20 0 1 0 7 1 2";
        assert_eq!(of_process(stat), Some(4.0));
        assert_eq!(of_process("42 (gone"), None);
    }

    #[test]
    fn work_is_seen() {
        let watch = Watch::new(Path::new("/proc"), vec![("test".into(), std::process::id())], "own");
        let window = Window::open(vec![watch.read()]);
        let end = Instant::now() + Duration::from_millis(200);
        let mut sum = 0u64;
        while Instant::now() < end {
            sum = std::hint::black_box(sum.wrapping_mul(3).wrapping_add(1));
        }
        let cpu = window.close(&[watch.read()]);
        assert!(cpu.processes["test"] > 0.0 && cpu.machine > 0.0, "{cpu:?}");
        assert!(cpu.processes.contains_key("own"));
        assert!(watch.resident()["test"] > 100_000);
        assert_eq!(watch.gone(), None);
    }
}
