//! What the kernel was asked for and what it does: tried at the start, one by one, and told to whoever asks.
//!
//! A kernel may lack an offload, a policy may forbid a system call, a device may refuse what others take. Each such thing is
//! a [`Feature`] that is switched off alone; nothing else changes with it.

use std::io;

/// Whether something is in use, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It was tried and works.
    On,
    /// It is in use, but could not be tried, for this reason.
    Untested(String),
    /// It is in use, but not all of it: what is missing.
    Partly(String),
    /// It is not in use, for this reason.
    Off(String),
}

impl State {
    /// In use.
    pub fn is_on(&self) -> bool {
        !matches!(self, State::Off(_))
    }

    /// Switched off in the config.
    pub fn by_config() -> State {
        State::Off("switched off in the config".to_owned())
    }

    /// Why it is off, or was not tried, or what is missing.
    pub fn reason(&self) -> Option<&str> {
        match self {
            State::On => None,
            State::Untested(reason) | State::Partly(reason) | State::Off(reason) => Some(reason),
        }
    }
}

/// Something that can be missing without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// The name of the config key, where there is one.
    pub name: &'static str,
    /// In use or not.
    pub state: State,
}

impl Feature {
    /// A feature and its state.
    pub fn new(name: &'static str, state: State) -> Feature {
        Feature { name, state }
    }
}

/// The plain words of an error: without the number that Rust adds, which says nothing more.
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or(&text).to_owned()
}

/// Which engine a worker shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// io_uring where it works, system calls elsewhere.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// System calls only.
    Calls,
}

/// How a worker reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// `None`: io_uring. Otherwise system calls, and why not io_uring.
    pub no_io_uring: Option<String>,
    /// Trains can be sent without a copy; whether that is of use is found for each peer.
    pub zero_copy: State,
    /// Parts of io_uring that can be missing.
    pub features: Vec<Feature>,
}

impl Engine {
    /// `io_uring` or `system calls`.
    pub fn name(&self) -> &'static str {
        if self.no_io_uring.is_none() { "io_uring" } else { "system calls" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_no_number() {
        assert_eq!(words(&io::Error::from_raw_os_error(libc::EPERM)), "Operation not permitted");
        assert_eq!(words(&io::Error::other("own words")), "own words");
    }

    #[test]
    fn untested_is_in_use() {
        assert!(State::On.is_on() && State::Untested("no right".into()).is_on() && !State::by_config().is_on());
        assert_eq!(State::Untested("no right".into()).reason(), Some("no right"));
    }
}
