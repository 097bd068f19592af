//! What a gateway stands on may come late, go, come back, and be called something else: its address, its bridge, its port.

mod address;
mod boot;
mod interface;
mod machine;
mod port;
mod support;

use std::process::ExitCode;

use ipop_lab::ipop_available;
use ipop_lab::trials::{Outcome, run, trial};

/// A test and its name.
type Test = (&'static str, fn() -> Outcome);

fn main() -> ExitCode {
    let available = ipop_available();
    let trials = [address::TESTS, port::TESTS, interface::TESTS].into_iter().flatten();
    let booted = machine::available();
    let at_boot = boot::TESTS.iter().map(|(name, test)| trial(name, &booted, *test));
    run(trials.map(|(name, test)| trial(name, &available, *test)).chain(at_boot).collect())
}
