//! Signals: which of them end the gateway, and what becomes of the others.
//!
//! Most signals end a process without a word unless it says otherwise (signal(7)), and a gateway that is gone takes a segment
//! down. So all are blocked and read from a descriptor, in every thread, but for those that tell of a fault of the program
//! itself, those of job control, and those that do nothing by default.

use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};

use super::GatewayError;
use super::error::call;

/// These end it, cleanly.
const END: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
/// These are as they were. SIGPIPE is ignored by every Rust program.
const LEFT_ALONE: [Signal; 13] = [
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGWINCH,
    Signal::SIGPIPE,
];
/// Signals that are read at a time: those of real time queue up.
const AT_ONCE: usize = 32;

/// Where they are read.
pub(super) struct Signals(SignalFd);

/// What a signal asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// To end; the name of the signal.
    End(String),
    /// Nothing; number of the signal, and a line for the log.
    Nothing(u32, String),
}

impl Signals {
    /// Blocks them in the calling thread and those that it will start.
    pub(super) fn block() -> Result<Signals, GatewayError> {
        let mut signals = SigSet::all();
        LEFT_ALONE.into_iter().for_each(|signal| signals.remove(signal));
        signals.thread_block().map_err(|e| call("blocking signals")(e.into()))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&signals, flags).map(Signals).map_err(|e| call("signalfd")(e.into()))
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Those that have come, and whether there may be more.
    pub(super) fn read(&self) -> (Vec<Asked>, bool) {
        let mut asked = Vec::new();
        for _ in 0..AT_ONCE {
            match self.0.read_signal() {
                Ok(Some(signal)) => asked.push(meaning(&signal)),
                Err(Errno::EINTR) => {}
                Ok(None) | Err(_) => return (asked, false),
            }
        }
        (asked, true)
    }
}

fn meaning(signal: &siginfo) -> Asked {
    let number = signal.ssi_signo;
    let known = Signal::try_from(number as i32).ok();
    let name = known.map_or_else(|| format!("signal {number}"), |signal| signal.as_str().to_owned());
    if known.is_some_and(|signal| END.contains(&signal)) {
        return Asked::End(name);
    }
    let sender = match signal.ssi_pid {
        0 => String::new(),
        process => format!(" (of process {process}, user {})", signal.ssi_uid),
    };
    let hint = match known {
        Some(Signal::SIGHUP) => "; the config is read at the start only",
        _ => "",
    };
    Asked::Nothing(number, format!("{name}{sender} does nothing{hint}"))
}
