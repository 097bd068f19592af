//! Commands with a timeout: run to the end, or kept running and killed on drop.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::error::{Context, Error, Result};
use crate::interrupt;

/// What a command gets unless it is told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the pipes of a command that has ended may stay open (a background child may have inherited them).
const PIPE_GRACE: Duration = Duration::from_millis(500);

/// A command line, not yet started.
#[derive(Debug, Clone)]
pub struct Cmd {
    argv: Vec<String>,
    environment: Vec<(String, String)>,
    timeout: Duration,
    heed_interrupt: bool,
    kept: usize,
}

impl Cmd {
    /// The program and its arguments; no shell is involved.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            heed_interrupt: true,
            kept: usize::MAX,
        }
    }

    /// Words split at spaces: for command lines that are fixed text.
    pub fn words(line: &str) -> Self {
        Self::new(line.split_whitespace())
    }

    /// The time it may take before it is killed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets an environment variable: for secrets, which do not belong where `ps` shows them.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Keeps only so many bytes of stdout and of stderr, the last ones: for what runs long and may be chatty.
    #[must_use]
    pub fn keep_last(mut self, bytes: usize) -> Self {
        self.kept = bytes;
        self
    }

    /// Runs even after Ctrl-C: for taking things down.
    #[must_use]
    pub fn uninterrupted(mut self) -> Self {
        self.heed_interrupt = false;
        self
    }

    /// The command line, quoted so that it can be pasted into a shell.
    pub fn line(&self) -> String {
        let mut line = String::new();
        for (index, word) in self.argv.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+%@".contains(c);
            let gap = if index == 0 { "" } else { " " };
            if !word.is_empty() && word.chars().all(plain) {
                let _ = write!(line, "{gap}{word}");
            } else {
                let _ = write!(line, "{gap}'{}'", word.replace('\'', r"'\''"));
            }
        }
        line
    }

    /// Runs it to its end, whatever the exit status.
    pub fn output(&self) -> Result<Output> {
        self.spawn()?.wait_as_told(self.timeout, self.heed_interrupt)
    }

    /// Runs it to its end and gives its stdout; anything but success is an error.
    pub fn run(&self) -> Result<String> {
        self.output()?.into_stdout()
    }

    /// Starts it and returns at once. Its stdout and stderr are collected in memory.
    pub fn spawn(&self) -> Result<Process> {
        self.start(Stdio::piped(), Stdio::piped())
    }

    /// Starts it with stdout and stderr going to a file.
    pub(crate) fn spawn_to_file(&self, log: &File) -> Result<Process> {
        let copy = |file: &File| file.try_clone().context("duplicating a file descriptor");
        self.start(copy(log)?.into(), copy(log)?.into())
    }

    fn start(&self, stdout: Stdio, stderr: Stdio) -> Result<Process> {
        let (program, arguments) = self.argv.split_first().ok_or_else(|| Error::other("an empty command line"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            // A group of its own: Ctrl-C reaches us, not the commands, and a kill takes the grandchildren too.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Start { command: self.line(), source })?;
        Ok(Process {
            command: self.line(),
            stdout: Collector::new(child.stdout.take(), self.kept),
            stderr: Collector::new(child.stderr.take(), self.kept),
            child,
            status: None,
        })
    }
}

/// How a command ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line.
    pub command: String,
    /// The exit status.
    pub status: ExitStatus,
    /// What it wrote to stdout (bytes that are not UTF-8 are replaced).
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Output {
    /// Did it end with exit status 0?
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its stdout, or an error that carries the command line and stderr.
    pub fn into_stdout(self) -> Result<String> {
        if self.success() {
            return Ok(self.stdout);
        }
        let text = if self.stderr.trim().is_empty() { self.stdout } else { self.stderr };
        Err(Error::Failed { command: self.command, status: self.status, text: text.trim().to_owned() })
    }
}

/// A running command. Dropping it kills it and the processes of its group.
#[derive(Debug)]
pub struct Process {
    command: String,
    child: Child,
    status: Option<ExitStatus>,
    stdout: Collector,
    stderr: Collector,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().context(format!("waiting for `{}`", self.command))?;
        }
        Ok(self.status)
    }

    /// Once it has ended: gives what it wrote last a moment to arrive through the pipes.
    pub fn drain(&self) {
        self.stdout.finish();
        self.stderr.finish();
    }

    /// Waits until `text` stands in its stdout.
    pub fn wait_for_stdout(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let what = format!("{text:?} from `{}`", self.command);
        interrupt::wait_until(&what, timeout, || {
            if self.stdout.text().contains(text) {
                return Ok(Some(()));
            }
            match self.ended()? {
                // What it wrote last may still be on its way through the pipe.
                Some(_) if self.stdout.finished() => Err(Error::other(format!(
                    "`{}` ended before it wrote {text:?}: {}{}",
                    self.command,
                    self.stdout.text(),
                    self.stderr.text()
                ))),
                _ => Ok(None),
            }
        })
    }

    /// Waits for its end; kills it after `timeout`, or when a signal arrives.
    pub fn wait(self, timeout: Duration) -> Result<Output> {
        self.wait_as_told(timeout, true)
    }

    fn wait_as_told(mut self, timeout: Duration, heed_interrupt: bool) -> Result<Output> {
        let timeout = interrupt::patient(timeout);
        let start = Instant::now();
        let mut nap = Duration::from_micros(500);
        let status = loop {
            if let Some(status) = self.ended()? {
                break status;
            }
            if heed_interrupt {
                interrupt::check()?;
            }
            if start.elapsed() >= timeout {
                self.kill();
                return Err(Error::TimedOut {
                    command: self.command.clone(),
                    after: timeout,
                    text: format!("{}{}", self.stdout.text(), self.stderr.text()),
                });
            }
            thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(10));
        };
        self.drain();
        Ok(Output { command: self.command.clone(), status, stdout: self.stdout.text(), stderr: self.stderr.text() })
    }

    /// Sends a signal to the process itself (not to its group).
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Once it is reaped its number may belong to somebody else.
        if self.ended()?.is_none() {
            kill(self.nix_pid(), signal).context(format!("signalling `{}`", self.command))?;
        }
        Ok(())
    }

    /// Kills it with its whole group, and waits for its end.
    pub fn kill(&mut self) {
        if let Ok(None) = self.ended() {
            let _ = killpg(self.nix_pid(), Signal::SIGKILL);
            self.status = Some(self.child.wait().unwrap_or(ExitStatus::from_raw(9)));
        }
    }

    /// Lets it run on without us.
    pub(crate) fn leave_running(&mut self) {
        self.status = Some(ExitStatus::from_raw(0));
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a pipe to its end in a thread, so that a chatty child never blocks on a full pipe.
#[derive(Debug)]
struct Collector {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collector {
    /// Keeps the last `kept` bytes.
    fn new(pipe: Option<impl Read + Send + 'static>, kept: usize) -> Self {
        let bytes = Arc::new(Mutex::new(VecDeque::new()));
        let reader = pipe.map(|mut pipe| {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                let mut chunk = [0; 8192];
                while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                    let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                    bytes.extend(&chunk[..count]);
                    let surplus = bytes.len().saturating_sub(kept);
                    bytes.drain(..surplus);
                }
            })
        });
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(bytes.make_contiguous()).into_owned()
    }

    fn finished(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn finish(&self) {
        let end = Instant::now() + PIPE_GRACE;
        while !self.finished() && Instant::now() < end {
            thread::sleep(Duration::from_micros(200));
        }
    }
}
