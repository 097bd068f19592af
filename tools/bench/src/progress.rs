//! What is going on, on a terminal; nothing of it where stderr is a file or a pipe.

use std::io::{IsTerminal, Write, stderr};

/// One line that is written over again and again.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    shown: String,
}

/// A line longer than this would wrap, and could not be written over.
const WIDTH: usize = 100;

impl Progress {
    /// Shows something only if stderr is a terminal.
    pub fn new() -> Self {
        Self { terminal: stderr().is_terminal(), shown: String::new() }
    }

    /// Shows this instead of what was shown last.
    pub fn show(&mut self, text: &str) {
        if self.terminal && text != self.shown {
            let line: String = text.chars().take(WIDTH).collect();
            // \x1b[K clears to the end of the line (ECMA-48, EL).
            let _ = write!(stderr(), "\r{line}\x1b[K");
            let _ = stderr().flush();
            text.clone_into(&mut self.shown);
        }
    }

    /// Says something that stays, also where stderr is no terminal.
    pub fn say(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(stderr(), "{text}");
    }

    /// Takes away what is shown.
    pub fn clear(&mut self) {
        if self.terminal && !self.shown.is_empty() {
            let _ = write!(stderr(), "\r\x1b[K");
            let _ = stderr().flush();
            self.shown.clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
