//! What depends on the kernel: this machine's, and those of distributions, which a virtual machine boots.
//!
//! ```text
//!   this kernel:   the cases of cases.rs and big_tcp.rs
//!   another one:   boots_linux_… ── a machine with this program in it ── the same cases there
//! ```

mod big_tcp;
mod cases;
mod other;
mod support;

use std::process::ExitCode;

use ipop_lab::ipop_available;
use ipop_lab::trials::{run, trial};

fn main() -> ExitCode {
    let mut trials = other::trials();
    let cases = [cases::CASES, big_tcp::CASES].into_iter().flatten();
    trials.extend(cases.map(|(name, case)| trial(name, &ipop_available(), *case)));
    run(trials)
}
