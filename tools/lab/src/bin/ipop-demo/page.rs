//! How the story looks on a terminal.

use std::cell::Cell;
use std::env;
use std::io::{self, IsTerminal, Write};

/// Lines of prose are broken here.
const WIDTH: usize = 88;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const CYAN: &str = "36";

/// Where the story is written. A closed pipe (`tools/demo | head`) does not stop it from taking things down.
pub(crate) struct Page {
    colour: bool,
    step: Cell<u32>,
}

impl Page {
    /// On stdout; in colour if that is a terminal and NO_COLOR is not set.
    pub(crate) fn new() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: io::stdout().is_terminal() && !refused, step: Cell::new(0) }
    }

    /// The headline.
    pub(crate) fn title(&self, text: &str) {
        self.line(&self.paint(BOLD, text));
    }

    /// Begins the next numbered step.
    pub(crate) fn step(&self, text: &str) {
        self.step.set(self.step.get() + 1);
        let text = format!("{}. {text}", self.step.get());
        self.line("");
        self.line(&self.paint(BOLD, &text));
    }

    /// A paragraph of explanation.
    pub(crate) fn say(&self, text: &str) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(&format!("   {line}"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(format!("   {line}").trim_end());
    }

    /// What a person would type, and where.
    pub(crate) fn command(&self, host: &str, line: &str) {
        let prompt = self.paint(CYAN, &format!("{host}#"));
        self.line("");
        self.line(&format!("   {prompt} {}", self.paint(BOLD, line)));
    }

    /// Text as it is, such as the output of a command.
    pub(crate) fn output(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.line(format!("   {line}").replace('\t', "    ").trim_end());
        }
    }

    /// Text of less weight.
    pub(crate) fn aside(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("   {}", self.paint(DIM, line)));
        }
    }

    /// Something that was checked, and is true.
    pub(crate) fn check(&self, text: &str) {
        self.line(&format!("   {} {text}", self.paint(GREEN, "✓")));
    }

    /// The end of a demo that did not work; goes to stderr.
    pub(crate) fn failure(&self, text: &str) {
        let place = match self.step.get() {
            0 => "before the first step".to_owned(),
            step => format!("in step {step}"),
        };
        let message = format!("✗ The demo ended {place}: {text}");
        let _ = writeln!(io::stderr(), "\n{}", self.paint(RED, &message));
    }

    fn line(&self, text: &str) {
        let _ = writeln!(io::stdout(), "{text}");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
