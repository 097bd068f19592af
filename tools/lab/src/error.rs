//! What can go wrong while a lab is built or used.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a step of the lab failed. Every variant carries enough to be understood without a second run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A command could not be started at all.
    #[error("cannot start `{command}`: {source}")]
    Start {
        /// The command line.
        command: String,
        /// What the operating system said.
        source: io::Error,
    },

    /// A command ended with something else than success.
    #[error("`{command}` failed ({status}): {text}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to stderr; to stdout, where stderr is empty.
        text: String,
    },

    /// A command did not end in time and was killed.
    #[error("`{command}` was still running after {after:?} and was killed; it had written: {text}")]
    TimedOut {
        /// The command line.
        command: String,
        /// The time it was given.
        after: Duration,
        /// What it had written to stdout and stderr.
        text: String,
    },

    /// Something that was waited for did not happen.
    #[error("waited {after:?} in vain for {what}")]
    InVain {
        /// What was expected.
        what: String,
        /// The time it was given.
        after: Duration,
    },

    /// `ipop` ended, or did not become ready; with its log.
    #[error("{what}; its log:\n{log}")]
    Daemon {
        /// What happened.
        what: String,
        /// The text of the daemon's log.
        log: String,
    },

    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },

    /// SIGINT or SIGTERM arrived (see [`crate::interrupt`]).
    #[error("interrupted")]
    Interrupted,

    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// An error that is best told in words.
    pub fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }
}

/// Adds what was tried to an error of the operating system.
pub(crate) trait Context<T> {
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::System { what: what.into(), source: source.into() })
    }
}
