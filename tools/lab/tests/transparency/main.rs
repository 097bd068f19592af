//! What bridges say to each other, and what guests say to bridges, across the segment: spanning tree, LLDP, 802.1X.
//!
//! Each is tried over the kernel's VXLAN too, which says what is right.
//!
//! ```text
//!          c0                                   c1
//!          |                                    |
//!       lxcbr0 --- ipop or VXLAN ============ lxcbr0
//!          |                                    |
//!  a2 [bridge, STP] ------- a cable ------- [bridge, STP] b2
//! ```

mod access;
mod groups;
mod marks;
mod spanning_tree;
mod support;

use std::process::ExitCode;

use ipop_lab::trials::{Outcome, program_available, run, trial};
use ipop_lab::{ipop_available, vxlan_available};
use libtest_mimic::Trial;

fn main() -> ExitCode {
    run([spanning_tree::TESTS, access::TESTS, groups::TESTS, marks::TESTS]
        .into_iter()
        .flatten()
        .map(Test::trial)
        .collect())
}

/// A test and what it needs besides `ipop`.
struct Test {
    name: &'static str,
    /// "vxlan", or programs and their packages.
    needs: &'static [(&'static str, &'static str)],
    run: fn() -> Outcome,
}

impl Test {
    /// A trial that is visibly ignored where it cannot run.
    fn trial(&self) -> Trial {
        let need = |(program, package): &(&str, &str)| match *program {
            "vxlan" => vxlan_available(),
            program => program_available(program, package),
        };
        trial(self.name, &ipop_available().and_then(|()| self.needs.iter().try_for_each(need)), self.run)
    }
}
