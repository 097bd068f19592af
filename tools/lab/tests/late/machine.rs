//! A machine that boots: systemd in namespaces of its own, with the network of a gateway of the lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipop_lab::trials::program_available;
use ipop_lab::{Cmd, Netns, Process, Run, interrupt, ipop_binary};
use libtest_mimic::Failed;

use crate::support::{Outcome, SOON, ensure};

/// One command of it.
const COMMAND: Duration = Duration::from_secs(60);

/// Whether systemd can be booted here: found out by doing so. The error is the reason why not.
pub(crate) fn available() -> Result<(), String> {
    ipop_lab::ipop_available()?;
    for program in ["systemctl", "systemd-sysusers"] {
        program_available(program, "systemd")?;
    }
    for program in ["unshare", "nsenter", "setpriv"] {
        program_available(program, "util-linux")?;
    }
    if !Path::new("/lib/systemd/systemd").exists() {
        return Err("there is no /lib/systemd/systemd (package systemd)".into());
    }
    let boots = || -> Outcome {
        let run = Run::new()?;
        let netns = Netns::new(&run, "boot")?;
        let machine = Machine::boot(&run, &netns)?;
        machine.wait_booted()
    };
    boots().map_err(|error| format!("systemd does not boot in namespaces here: {}", error.message().unwrap_or("")))
}

/// The machine. Dropping it is pulling its plug; what it has in /etc, /var and /usr/local is there at the next boot in the run.
pub(crate) struct Machine {
    process: Process,
    cgroup: PathBuf,
}

impl Machine {
    /// Boots it in a network namespace.
    pub(crate) fn boot(run: &Arc<Run>, netns: &Netns) -> Result<Machine, Failed> {
        let root = run.dir().join("root");
        fs::create_dir_all(&root)?;
        let cgroup = cgroup2()?.join(netns.name());
        fs::create_dir_all(&cgroup).map_err(|error| format!("{}: {error}", cgroup.display()))?;
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let source = here.join("../..").canonicalize()?;
        let paths = [here.join("tests/late/boot.sh"), root, cgroup.clone(), source, ipop_binary()?];
        let network = format!("--net={}", netns.path().display());
        // Not `ip netns exec`, which hides the cgroups.
        let words =
            ["nsenter", &network, "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh"];
        let paths = paths.iter().map(|path| path.display().to_string());
        let process = Cmd::new(words.into_iter().map(str::to_owned).chain(paths)).spawn();
        // The cgroup goes with it, also if nothing has come of it.
        let process = process.inspect_err(|_| drop(fs::remove_dir(&cgroup)))?;
        Ok(Machine { process, cgroup })
    }

    /// Waits until all that starts at boot has started.
    pub(crate) fn wait_booted(&self) -> Outcome {
        let booted = interrupt::wait_until("systemd to have booted", SOON * 3, || {
            let state = self.command(["systemctl", "is-system-running"]).output()?.stdout;
            Ok(matches!(state.trim(), "running" | "degraded").then_some(()))
        });
        booted.map_err(|error| {
            let jobs =
                self.command(["systemctl", "list-jobs"]).output().map(|output| output.stdout).unwrap_or_default();
            format!("{error}: {}{jobs}", self.process.stderr()).into()
        })
    }

    /// A command of it.
    pub(crate) fn command<'a>(&self, argv: impl IntoIterator<Item = &'a str>) -> Cmd {
        let pid = self.process.pid().to_string();
        // The namespace that the process has made is that of its child.
        let children = format!("--pid=/proc/{pid}/ns/pid_for_children");
        let enter = ["nsenter", "--target", &pid, "--mount", "--uts", "--ipc", "--net", &children].map(str::to_owned);
        Cmd::new(enter.into_iter().chain(argv.into_iter().map(str::to_owned))).timeout(COMMAND)
    }

    /// What a command prints; an error if it fails.
    pub(crate) fn run<'a>(&self, argv: impl IntoIterator<Item = &'a str>) -> Result<String, Failed> {
        Ok(self.command(argv).run()?)
    }

    /// What a line of the shell prints, in the folder of the repository.
    pub(crate) fn shell(&self, line: &str) -> Result<String, Failed> {
        self.run(["sh", "-ec", &format!("cd /src; {line}")])
    }

    /// Writes one of its files.
    pub(crate) fn write(&self, path: &str, text: &str) -> Outcome {
        self.run(["sh", "-ec", "printf %s \"$2\" > \"$1\"", "sh", path, text]).map(drop)
    }

    /// A property of the unit.
    pub(crate) fn property(&self, name: &str) -> Result<String, Failed> {
        let shown = self.run(["systemctl", "show", "--value", "--property", name, "ipop"])?;
        Ok(shown.trim().to_owned())
    }

    /// Waits until `systemctl status` says this of the unit.
    pub(crate) fn wait_status(&self, words: &[&str]) -> Outcome {
        let status = || self.command(["systemctl", "--no-pager", "--lines=30", "status", "ipop"]).output();
        let said = interrupt::wait_until(&format!("{words:?} in the unit's status"), SOON, || {
            let status = status()?.stdout;
            Ok(words.iter().all(|word| status.contains(word)).then_some(()))
        });
        said.map_err(|error| format!("{error}:\n{}", status().map(|output| output.stdout).unwrap_or_default()).into())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With the first process all others of its namespace end.
        self.process.kill();
        let removed = interrupt::wait_until("the cgroups to be empty", SOON, || Ok(remove(&self.cgroup).ok()));
        if let Err(error) = removed {
            eprintln!("{}: {error}", self.cgroup.display());
        }
    }
}

/// Removes a cgroup and those in it.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Where the host has its cgroup2.
fn cgroup2() -> Result<PathBuf, Failed> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2) == Some(&"cgroup2"));
    let place = found.and_then(|fields| fields.get(1).map(PathBuf::from)).ok_or("there is no cgroup2 here")?;
    ensure(place.is_dir(), || format!("{} is no directory", place.display()))?;
    Ok(place)
}
