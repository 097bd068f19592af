//! Network namespaces, named as `ip netns` names them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Cmd, Output, Process};
use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::run::{Run, cleanup};

/// The directory where `ip netns` pins namespaces.
const PINNED: &str = "/run/netns";

/// `ip netns add` makes /run/netns a shared mount on first use; two at once may stumble over each other.
static ADDING: Mutex<()> = Mutex::new(());

/// A network namespace. Dropping it kills the processes inside and deletes it, unless the run is kept.
#[derive(Debug)]
pub struct Netns {
    name: String,
    run: Arc<Run>,
}

impl Netns {
    /// Creates the namespace `<run>-<label>`, with `lo` up and without the delays of IPv6 duplicate address detection.
    pub fn new(run: &Arc<Run>, label: &str) -> Result<Self> {
        let netns = Self::named(run, label, |name| ["ip", "netns", "add", name].map(str::to_owned).into())?;
        if Path::new("/proc/sys/net/ipv6").exists() {
            // The larger of "all" and the interface's own value counts, so both.
            netns.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
            netns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
            // A link that goes down and up again keeps its IPv6 address, as it keeps its IPv4 address.
            netns.sysctl("net/ipv6/conf/all/keep_addr_on_down", "1")?;
        }
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Gives the namespace in which the process `pid` lives the name `<run>-<label>`.
    pub(crate) fn attach(run: &Arc<Run>, label: &str, pid: u32) -> Result<Self> {
        Self::named(run, label, |name| ["ip", "netns", "attach", name, &pid.to_string()].map(str::to_owned).into())
    }

    /// Lets the name stand for the namespace of another process, once the first one is gone.
    pub(crate) fn attach_again(&self, pid: u32) -> Result<()> {
        remove(&self.name)?;
        let _one_at_a_time = ADDING.lock().unwrap_or_else(PoisonError::into_inner);
        Cmd::new(["ip", "netns", "attach", &self.name, &pid.to_string()]).run().map(drop)
    }

    fn named(run: &Arc<Run>, label: &str, command: impl FnOnce(&str) -> Vec<String>) -> Result<Self> {
        let name = format!("{}-{label}", run.name());
        let _one_at_a_time = ADDING.lock().unwrap_or_else(PoisonError::into_inner);
        Cmd::new(command(&name)).run()?;
        Ok(Self { name, run: Arc::clone(run) })
    }

    /// The name that `ip netns exec` takes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(PINNED).join(&self.name)
    }

    /// A command that will run inside.
    pub fn command<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Cmd {
        let enter = ["ip", "netns", "exec", &self.name].map(str::to_owned);
        Cmd::new(enter.into_iter().chain(argv.into_iter().map(Into::into)))
    }

    /// Runs a command inside to its end, whatever its exit status.
    pub fn exec<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Output> {
        self.command(argv).output()
    }

    /// Runs a command inside, which must succeed, and gives its stdout.
    pub fn run<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<String> {
        self.command(argv).run()
    }

    /// Starts a command inside; it is killed when the [`Process`] is dropped.
    pub fn spawn<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Process> {
        self.command(argv).spawn()
    }

    /// `ip -n <this namespace> <words>`: what must succeed.
    pub fn ip(&self, words: &str) -> Result<String> {
        Cmd::words(&format!("ip -n {} {words}", self.name)).run()
    }

    /// Sets a value below /proc/sys, as seen from inside: `sysctl("net/ipv4/ip_forward", "0")`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.within(|| fs::write(format!("/proc/sys/{key}"), value))?
            .context(format!("setting {key} to {value} in {}", self.name))
    }

    /// Runs `work` in a thread that has entered the namespace. A socket opened there belongs to the namespace for
    /// good, and may be used from any thread.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let entered = || -> io::Result<File> {
            let file = File::open(self.path())?;
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            Ok(file)
        };
        thread::scope(|scope| {
            let thread = scope.spawn(|| entered().map(|_namespace| work()));
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .context(format!("entering the namespace {}", self.name))
        })
    }

    /// Waits until the kernel has noticed that `interface` has a carrier; before, IPv6 does not use it.
    pub(crate) fn wait_carrier(&self, interface: &str, timeout: Duration) -> Result<()> {
        let what = format!("{interface} in {} to be up", self.name);
        interrupt::wait_until(&what, timeout, || {
            let state = self.link_property(interface, "/operstate")?;
            Ok((state.as_deref() == Some("UP")).then_some(()))
        })
    }

    /// Waits until `port` is a forwarding port of its bridge; frames sent before would be lost.
    pub fn wait_forwarding(&self, port: &str, timeout: Duration) -> Result<()> {
        let what = format!("{port} in {} to forward", self.name);
        interrupt::wait_until(&what, timeout, || {
            let shown = Cmd::words(&format!("ip -n {} -j -d link show dev {port}", self.name)).output()?;
            let links: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
            let state = links.pointer("/0/linkinfo/info_slave_data/state");
            Ok((state.and_then(|state| state.as_str()) == Some("forwarding")).then_some(()))
        })
    }

    /// The Ethernet address of an interface, as text.
    pub fn mac_of(&self, interface: &str) -> Result<String> {
        self.link_property(interface, "/address")?
            .ok_or_else(|| Error::other(format!("{interface} in {} has no address", self.name)))
    }

    /// One text out of what `ip` tells about an interface; `None` also while there is no such interface.
    fn link_property(&self, interface: &str, pointer: &str) -> Result<Option<String>> {
        let shown = Cmd::words(&format!("ip -n {} -j -d link show dev {interface}", self.name)).output()?;
        let links: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
        let value = links.get(0).and_then(|link| link.pointer(pointer));
        Ok(value.and_then(|value| value.as_str()).map(str::to_owned))
    }

    /// The run that this namespace belongs to.
    pub(crate) fn lab_run(&self) -> &Arc<Run> {
        &self.run
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.run.is_kept()
            && let Err(error) = remove(&self.name)
        {
            eprintln!("removing the namespace {}: {error}", self.name);
        }
    }
}

/// The names of all namespaces of the machine.
pub(crate) fn list() -> Result<Vec<String>> {
    match fs::read_dir(PINNED) {
        Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(format!("reading {PINNED}")),
    }
}

/// Kills all processes of a namespace and deletes it.
pub(crate) fn remove(name: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(3);
    // A process may fork while it is being killed, so look again.
    while let Ok(pids) = cleanup(["ip", "netns", "pids", name]).run() {
        let pids: Vec<i32> = pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        if pids.is_empty() || Instant::now() > end {
            break;
        }
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
    cleanup(["ip", "netns", "del", name]).run().map(drop)
}
