//! Is the switch a full layer-2 segment? Real TAPs, bridges and namespaces, and the real daemon.
//!
//! ```text
//!   gw-a                       gw-b                       gw-c ...
//!  +----------------------+   +----------------------+   +----------------------+
//!  | lxcbr0 --- ipop(TAP) |   | (TAP)ipop --- lxcbr0 |   | (TAP)ipop --- lxcbr0 |
//!  |   |         |        |   |       |          |   |   |       |          |   |
//!  |   |     [ipop run]---+---+---[ipop run]-----+---+---+---[ipop run]     |   |
//!  +---|------------------+   +------------------|---+   +------------------|---+
//!      c0 10.0.3.3                               c1 10.0.3.104              c2
//! ```
//!
//! Every module has a drawing of what it adds to this.

mod bulk;
mod datagrams;
mod engines;
mod flood;
mod frames;
mod interface;
mod jumbo;
mod moves;
mod order;
mod overload;
mod ports;
mod reach;
mod services;
mod stranger;
mod support;
mod tags;
mod tunnels;

use std::process::ExitCode;

use ipop_lab::trials::{Outcome, run, trial};
use ipop_lab::{ipop_available, lxc_available, tool, vlan_available, vxlan_available};
use libtest_mimic::Trial;

/// What a test needs besides `ipop` itself.
type Needs = &'static [&'static str];

fn main() -> ExitCode {
    let trials = [
        // The long ones first, so that nothing waits for them alone.
        bulk::TESTS,
        interface::TESTS,
        jumbo::TESTS,
        datagrams::TESTS,
        engines::TESTS,
        moves::TESTS,
        services::TESTS,
        reach::TESTS,
        flood::TESTS,
        tags::TESTS,
        tunnels::TESTS,
        frames::TESTS,
        stranger::TESTS,
        order::TESTS,
        overload::TESTS,
        ports::TESTS,
    ];
    let trials = trials.into_iter().flatten().map(Test::trial).collect();
    run(trials)
}

/// A test and what it needs.
struct Test {
    name: &'static str,
    needs: Needs,
    run: fn() -> Outcome,
}

impl Test {
    const fn new(name: &'static str, run: fn() -> Outcome) -> Test {
        Test { name, needs: &[], run }
    }

    /// Needs programs, real containers ("lxc"), or interfaces of a kind ("vlan", "vxlan").
    const fn with(name: &'static str, needs: Needs, run: fn() -> Outcome) -> Test {
        Test { name, needs, run }
    }

    /// A trial that is visibly ignored where it cannot run.
    fn trial(&self) -> Trial {
        let missing = ipop_available().err().or_else(|| self.needs.iter().find_map(|need| lacking(need)));
        trial(self.name, &missing.map_or(Ok(()), Err), self.run)
    }
}

fn lacking(need: &str) -> Option<String> {
    match need {
        "lxc" => lxc_available().err(),
        "vlan" => vlan_available().err(),
        "vxlan" => vxlan_available().err(),
        program if tool(program).is_none() => Some(format!("{program} is not installed")),
        _ => None,
    }
}
