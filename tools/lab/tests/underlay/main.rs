//! What the underlay can do to a link: routers and forgers who say what it carries, and routes that lead into the overlay.
//!
//! ```text
//!   gw-a                           rogue                         gw-b
//!  +-------------------------+       |         +-------------------------+
//!  | lxcbr0 -- ipop -- eth0 -+-------+---------+- eth0 -- ipop -- lxcbr0 |
//!  |   |                     |    underlay     |                     |   |
//!  +---|---------------------+                 +---------------------|---+
//!     c0 10.0.3.3                                                   c1 10.0.3.104
//! ```
//!
//! The underlay is a switch with a rogue at it, or a router with two networks.

mod loops;
mod path;
mod support;

use std::path::Path;
use std::process::ExitCode;

use ipop_lab::trials::{Outcome, run, trial};
use ipop_lab::{Family, ipop_available, lab_available};

type Test = fn() -> Outcome;

fn main() -> ExitCode {
    let v4 = lab_available().and_then(|()| ipop_available());
    let has_v6 = Path::new("/proc/sys/net/ipv6").exists();
    let v6 = v4.clone().and_then(|()| if has_v6 { Ok(()) } else { Err("the kernel has no IPv6".to_owned()) });
    let tests: [(&str, &Result<(), String>, Test); 16] = [
        // The longest first.
        ("an_honest_router_is_heard_and_not_for_ever_v4", &v4, || path::honest(Family::V4)),
        ("an_honest_router_is_heard_and_not_for_ever_v6", &v6, || path::honest(Family::V6)),
        ("a_forged_icmp_message_changes_nothing_v4", &v4, || path::forged(Family::V4)),
        ("a_forged_icmp_message_changes_nothing_v6", &v6, || path::forged(Family::V6)),
        ("the_mtu_of_a_route_is_heeded_v4", &v4, || path::of_route(Family::V4)),
        ("the_mtu_of_a_route_is_heeded_v6", &v6, || path::of_route(Family::V6)),
        ("a_route_into_the_overlay_is_noticed_v4", &v4, || loops::at_run_time(Family::V4)),
        ("a_route_into_the_overlay_is_noticed_v6", &v6, || loops::at_run_time(Family::V6)),
        ("a_route_into_the_overlay_is_noticed_in_clear_text", &v4, loops::in_clear_text),
        ("a_route_into_the_overlay_is_noticed_at_the_start", &v4, loops::at_the_start),
        ("a_route_by_the_port_is_noticed", &v4, loops::by_the_port),
        ("a_route_by_a_cable_into_the_bridge_is_noticed", &v4, loops::by_a_cable),
        ("what_a_guest_sends_back_goes_round_once", &v4, loops::sent_back_by_a_guest),
        ("a_route_by_a_whole_interface_as_port_is_noticed", &v4, loops::by_a_whole_interface),
        ("an_uplink_in_the_bridge_of_the_port_is_no_loop", &v4, loops::uplink_in_the_bridge),
        ("a_guest_that_forges_what_goes_round_harms_nobody", &v4, loops::forged),
    ];
    run(tests.into_iter().map(|(name, available, test)| trial(name, available, test)).collect())
}
