//! Who owns a MAC, and who owns an address: what guests can spoil for others by mistake or by malice, and how soon
//! a segment is right again after an honest change.
//!
//! ```text
//!   gw-a                   gw-b                   gw-c
//!  +-----------------+    +-----------------+    +-----------------+
//!  | lxcbr0 --- ipop +----+ ipop --- lxcbr0 +----+ ipop --- lxcbr0 |
//!  |  |  |           |    |           |  |  |    |           |     |
//!  +--|--|-----------+    +-----------|--|--+    +-----------|-----+
//!    a1  a2                          b1  b2                 c1
//!   10.0.3.11, .12                  10.0.3.21, .22         10.0.3.31      (fd03::11 and so on)
//! ```
//!
//! A guest is a container whose kernel answers ARP and ping, or a mute one in whose name the test speaks. Nothing but
//! frames, answers and counters is looked at, so the tests hold whatever the gateways do inside.

mod address_bursts;
mod address_changes;
mod address_failover;
mod address_lies;
mod address_questions;
mod mac_clusters;
mod mac_floods;
mod mac_senders;
mod mac_spoofing;
mod probe;
mod support;
mod wire_arp;
mod wire_nd;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{PoisonError, RwLock};

use ipop_lab::trials::{Outcome, program_available, run, trial_of};
use ipop_lab::{ipop_available, lab_available};
use libtest_mimic::Trial;

/// Held for reading by most tests, and for writing by one that promises milliseconds: that one runs alone.
static MACHINE: RwLock<()> = RwLock::new(());

fn main() -> ExitCode {
    let trials = [
        // The long ones first, so that nothing waits for them alone.
        mac_floods::TESTS,
        address_questions::TESTS,
        mac_spoofing::TESTS,
        mac_senders::TESTS,
        mac_clusters::TESTS,
        address_changes::TESTS,
        address_lies::TESTS,
        address_bursts::TESTS,
        address_failover::TESTS,
        wire_arp::TESTS,
        wire_nd::TESTS,
    ];
    run(trials.into_iter().flatten().map(Test::trial).collect())
}

/// A test and what it needs.
struct Test {
    name: &'static str,
    /// "ipv6", or a program, which is in the package of the same name.
    needs: &'static [&'static str],
    alone: bool,
    run: fn() -> Outcome,
}

impl Test {
    const fn new(name: &'static str, run: fn() -> Outcome) -> Test {
        Test { name, needs: &[], alone: false, run }
    }

    const fn needs(self, needs: &'static [&'static str]) -> Test {
        Test { needs, ..self }
    }

    /// Nothing else of this program runs beside it.
    const fn alone(self) -> Test {
        Test { alone: true, ..self }
    }

    /// A trial that is visibly ignored where it cannot run.
    fn trial(&self) -> Trial {
        let available = lab_available().and_then(|()| ipop_available());
        let available = available.and_then(|()| self.needs.iter().try_for_each(|need| provided(need)));
        let (alone, test) = (self.alone, self.run);
        trial_of(self.name, &available, move || {
            if alone {
                let _machine = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
                test()
            } else {
                let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
                test()
            }
        })
    }
}

fn provided(need: &str) -> Result<(), String> {
    match need {
        "ipv6" if Path::new("/proc/sys/net/ipv6").exists() => Ok(()),
        "ipv6" => Err("the kernel has no IPv6".into()),
        program => program_available(program, program),
    }
}
