//! The program as a service: what its log, its signals, its config file and its peers' mistakes do to it, and what it says
//! of them.
//!
//! ```text
//!   gw-a                          gw-b                          gw-c
//!  +--------------------+        +--------------------+        +--------------------+
//!  | lxcbr0 -- ipop ----+--UDP---+---- ipop -- lxcbr0 |        |  a gateway with    |
//!  |   |         |      |        |                |   +--UDP---+  the key of gw-a   |
//!  +---|---------|------+        +----------------|---+        +--------------------+
//!     c0       stderr: full, closed,             c1
//!              or read by nobody
//! ```

mod config;
mod kit;
mod log;
mod reasons;
mod signals;
mod twins;

use std::process::ExitCode;

use ipop_lab::ipop_available;
use ipop_lab::trials::{program_available, run, trial};

fn main() -> ExitCode {
    let ipop = ipop_available();
    let mounts = ipop.clone().and_then(|()| program_available("unshare", "util-linux"));
    let plain = |name, test| trial(name, &ipop, test);
    let trials = vec![
        // The longest first, beside all others.
        plain("twins_are_named_and_traffic_stays_with_one", twins::two_gateways_with_one_key),
        plain("log_of_a_peer_that_flaps", log::flapping_peer),
        plain("log_to_a_pipe_that_nobody_reads", log::pipe_that_nobody_reads),
        plain("log_to_a_full_device", log::full_device),
        plain("log_to_a_reader_that_goes_away", log::reader_that_goes_away),
        trial("log_to_a_disk_that_is_full", &mounts, log::full_disk),
        plain("signals_that_end_it_and_those_that_do_not", signals::each),
        plain("signals_in_a_flood", signals::flood),
        plain("reason_no_route", reasons::no_route),
        plain("reason_nobody_there", reasons::nobody_there),
        plain("reason_network", reasons::network),
        plain("reason_sec", reasons::sec),
        plain("reason_version", reasons::version),
        plain("reason_key", reasons::key),
        plain("reason_preshared_key", reasons::preshared_key),
        plain("reason_clock", reasons::clock),
        plain("handshakes_of_healthy_gateways_are_not_refused", reasons::healthy),
        plain("config_with_many_faults", config::many_faults),
        plain("config_files_that_are_none", config::files),
        plain("check_without_a_place_to_print", config::nowhere_to_print),
    ];
    run(trials)
}
