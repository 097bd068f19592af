//! On what a result was measured: machine, kernel, versions and settings.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::thread;

use serde::{Deserialize, Serialize};

/// Whatever may explain why two results differ.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Processor, number of cores, memory, hypervisor.
    pub machine: BTreeMap<String, String>,
    /// Kernel and distribution.
    pub kernel: BTreeMap<String, String>,
    /// Versions of `ipop-bench`, `ipop` and the other systems.
    pub versions: BTreeMap<String, String>,
    /// System settings, and how the measurement was set up: MTUs, pinning, rounds.
    pub settings: BTreeMap<String, String>,
}

/// Settings below /proc/sys that change what a network does.
const SYSCTLS: [&str; 10] = [
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/core/netdev_max_backlog",
    "net/core/netdev_budget",
    "net/core/busy_poll",
    "net/core/default_qdisc",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "kernel/sched_rt_runtime_us",
];

impl Fingerprint {
    /// What this machine tells about itself. Facts that cannot be found are left out.
    pub fn of_this_machine() -> Self {
        let mut fingerprint = Self::default();
        let file = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let line = |text: &str, key: &str, separator: char| {
            let (_, value) =
                text.lines().filter_map(|line| line.split_once(separator)).find(|(k, _)| k.trim() == key)?;
            Some(value.trim().trim_matches('"').to_owned())
        };
        let cpuinfo = file("/proc/cpuinfo").unwrap_or_default();
        let machine = [
            ("processor", line(&cpuinfo, "model name", ':')),
            ("megahertz", line(&cpuinfo, "cpu MHz", ':')),
            ("cores", thread::available_parallelism().ok().map(|cores| cores.to_string())),
            ("memory", file("/proc/meminfo").and_then(|text| line(&text, "MemTotal", ':'))),
            ("virtual", Some(cpuinfo.contains(" hypervisor").to_string())),
            ("clocksource", file("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
            ("load before", file("/proc/loadavg")),
        ];
        let kernel = [
            ("release", file("/proc/sys/kernel/osrelease")),
            ("version", file("/proc/sys/kernel/version")),
            ("distribution", file("/etc/os-release").and_then(|text| line(&text, "PRETTY_NAME", '='))),
        ];
        let found = |pairs: &[(&str, Option<String>)]| {
            pairs.iter().filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?))).collect()
        };
        fingerprint.machine = found(&machine);
        fingerprint.kernel = found(&kernel);
        for key in SYSCTLS {
            if let Some(value) = file(&format!("/proc/sys/{key}")) {
                fingerprint.settings.insert(key.replace('/', "."), value.replace('\t', " "));
            }
        }
        fingerprint.versions.insert("ipop-bench".into(), env!("CARGO_PKG_VERSION").into());
        // `tools/ipop-bench` tells which commit it was built from.
        if let Ok(commit) = env::var("IPOP_COMMIT") {
            fingerprint.versions.insert("commit".into(), commit);
        }
        fingerprint
    }

    /// Notes a setting.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        self.settings.insert(key.to_owned(), value.to_string());
    }
}
