//! End-to-end tests as programs: what cannot run here is visibly ignored, with the reason.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::interrupt;
use crate::requirement::tool;

/// What a test says in the end.
pub type Outcome = Result<(), Failed>;

/// A test that is visibly ignored where it cannot run.
pub fn trial(name: &str, available: &Result<(), String>, test: fn() -> Outcome) -> Trial {
    trial_of(name, available, test)
}

/// The same for a test that remembers what it is about.
pub fn trial_of(name: &str, available: &Result<(), String>, test: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    match available {
        Ok(()) => Trial::test(name, test),
        Err(reason) => Trial::test(format!("{name} (ignored: {reason})"), test).with_ignored_flag(true),
    }
}

/// Whether a program is there; the reason names its package.
pub fn program_available(program: &str, package: &str) -> Result<(), String> {
    match tool(program) {
        Some(_) => Ok(()),
        None => Err(format!("{program} is not installed (package {package})")),
    }
}

/// The `main` of a test program. Ctrl-C lets the labs take themselves down.
///
/// Two tests run at a time unless the command line says otherwise: each is several daemons and dozens of commands, and
/// some promise times.
pub fn run(trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(2));
    if let Err(error) = interrupt::install() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
