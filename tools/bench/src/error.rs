//! What can go wrong while something is measured.

use std::fmt::Display;
use std::io;
use std::path::Path;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a measurement or a report failed; the text says what to do about it where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },

    /// The lab could not be built or used.
    #[error(transparent)]
    Lab(#[from] ipop_lab::Error),

    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// An error that is a sentence.
    pub fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }

    /// Has a signal ended it?
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Lab(ipop_lab::Error::Interrupted))
    }
}

/// Says what was tried when something failed.
pub trait Context<T> {
    /// `Err` becomes an [`Error`] that begins with `what`.
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|source| Error::Io { what: what.to_string(), source: source.into() })
    }
}

/// Reads a whole text file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).context(format!("reading {}", path.display()))
}

/// Writes a whole text file.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).context(format!("writing {}", path.display()))
}
