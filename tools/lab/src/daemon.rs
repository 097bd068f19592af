//! `ipop run` on a gateway.

use std::env;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::command::{Cmd, Process};
use crate::error::{Context, Error, Result};
use crate::gateway::Gateway;
use crate::interrupt;

/// The daemon must be ready within this time.
const READY: Duration = Duration::from_secs(10);
/// After SIGTERM it has this long before it is killed.
const FAREWELL: Duration = Duration::from_secs(3);
/// So much of the log is shown when a test panics.
const LAST_LINES: usize = 40;

/// The `ipop` program: what IPOP_BIN names, or the one beside the running program (or beside its `deps` directory,
/// where cargo puts tests).
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("IPOP_BIN") {
        let path = PathBuf::from(path);
        return if path.is_file() {
            path.canonicalize().context("IPOP_BIN")
        } else {
            Err(Error::other(format!("IPOP_BIN names {}, which is no file", path.display())))
        };
    }
    let own = env::current_exe().context("finding the running program")?;
    let dir = own.parent().unwrap_or(Path::new("/"));
    let candidates = [Some(dir), dir.parent()];
    candidates
        .into_iter()
        .flatten()
        .map(|dir| dir.join("ipop"))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::other(format!("no `ipop` beside {}: build it, or set IPOP_BIN", own.display())))
}

/// A running `ipop`. Dropping it stops it: SIGTERM, and SIGKILL after three seconds.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    gateway: Gateway,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    /// Starts `ipop run --config FILE` and waits until it is ready. `number` makes the names of the files.
    pub(crate) fn start(gateway: &Gateway, config: &Value, number: u32) -> Result<Self> {
        let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_owned);
        let socket = text("control_socket").ok_or_else(|| {
            Error::other("the configuration has no control_socket, so nobody could tell when it is ready")
        })?;
        let base = gateway.lab_run().dir().join(format!("{}-{number}", gateway.name()));
        let (config_file, log_file) = (base.with_extension("json"), base.with_extension("log"));
        let pretty = serde_json::to_string_pretty(config).context("writing the configuration")?;
        fs::write(&config_file, pretty + "\n").context(format!("writing {}", config_file.display()))?;
        let log = File::create(&log_file).context(format!("creating {}", log_file.display()))?;
        let binary = binary()?;
        let argv = [binary.display().to_string(), "run".into(), "--config".into(), config_file.display().to_string()];
        let process = gateway.netns().command(argv).spawn_to_file(&log)?;
        let mut daemon = Self {
            process,
            gateway: gateway.clone(),
            binary,
            config: config_file,
            log: log_file,
            socket: socket.into(),
        };
        daemon.wait_ready()?;
        // A bridge that comes later has its port later.
        if let (Some(tap), Some(bridge)) = (text("tap"), text("bridge"))
            && gateway.exec(["ip", "link", "show", &bridge])?.success()
        {
            daemon.explain(gateway.netns().wait_forwarding(&tap, READY))?;
        }
        Ok(daemon)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let what = format!("`ipop` on {} to accept at its control socket", self.gateway.name());
        let ready = interrupt::wait_until(&what, READY, || {
            if let Some(status) = self.process.ended()? {
                let what = format!("`ipop` on {} ended at once ({status})", self.gateway.name());
                return Err(self.with_log(what));
            }
            // Through the file system, which the namespaces share.
            Ok(UnixStream::connect(&self.socket).ok().map(drop))
        });
        self.explain(ready)
    }

    /// What was waited for in vain: the log may tell why.
    fn explain(&self, result: Result<()>) -> Result<()> {
        match result {
            Err(error @ Error::InVain { .. }) => Err(self.with_log(error.to_string())),
            other => other,
        }
    }

    fn with_log(&self, what: String) -> Error {
        Error::Daemon { what, log: self.log() }
    }

    /// The gateway it runs on.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its configuration file.
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// All that it has written to stdout and stderr.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("({}: {error})", self.log.display()),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Does it still run?
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.ended(), Ok(None))
    }

    /// The command line that asks it something: `ipop <kind> [--json] --socket PATH`.
    pub fn query(&self, kind: &str, json: bool) -> Cmd {
        let words: Vec<&str> = [kind].into_iter().chain(json.then_some("--json")).collect();
        self.order(&words)
    }

    /// The command line that tells it something: `ipop <words> --socket PATH`.
    pub fn order(&self, words: &[&str]) -> Cmd {
        let (binary, socket) = (self.binary.display().to_string(), self.socket.display().to_string());
        let all = [binary.as_str()].into_iter().chain(words.iter().copied());
        Cmd::new(all.chain(["--socket", socket.as_str()]))
    }

    /// What `ipop <kind> --json` says; `kind` is status, peers, macs, arp or rpc.
    pub fn status(&self, kind: &str) -> Result<Value> {
        let query = self.query(kind, true);
        let text = query.run()?;
        serde_json::from_str(&text).map_err(|error| Error::other(format!("`{}`: {error}: {text}", query.line())))
    }

    /// A number from `ipop status --json` by its JSON pointer, such as "/arp/rpc_requests_sent"; 0 if it is not there.
    pub fn counter(&self, pointer: &str) -> Result<u64> {
        let status = self.status("status")?;
        Ok(status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0))
    }

    /// Waits until every configured peer is "up".
    pub fn wait_peers_up(&self, timeout: Duration) -> Result<()> {
        let what = format!("the peers of {} to be up", self.gateway.name());
        interrupt::wait_until(&what, timeout, || {
            let answer = self.status("peers")?;
            let peers = answer.get("peers").and_then(Value::as_array);
            let up = peers.is_some_and(|peers| !peers.is_empty() && peers.iter().all(|peer| peer["state"] == "up"));
            Ok(up.then_some(()))
        })
    }

    /// Sends a signal, such as SIGHUP or SIGSTOP.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Ends it by SIGTERM and gives the exit status; an error if it has to be killed.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        match self.wait_end(FAREWELL)? {
            Some(status) => Ok(status),
            None => {
                Err(self.with_log(format!("`ipop` on {} did not end {FAREWELL:?} after SIGTERM", self.gateway.name())))
            }
        }
    }

    /// Kills it, as a crash would.
    pub fn kill(mut self) {
        self.process.kill();
    }

    fn wait_end(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + timeout;
        loop {
            let status = self.process.ended()?;
            if status.is_some() || Instant::now() >= end {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.gateway.lab_run().is_kept() {
            self.process.leave_running();
            return;
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            eprintln!("--- last lines of the log of {} ---\n{tail}", self.gateway.name());
        }
        // What does not end in time is killed when the process is dropped.
        if self.process.signal(Signal::SIGTERM).is_ok() {
            let _ = self.wait_end(FAREWELL);
        }
    }
}
