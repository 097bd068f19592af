//! ARP and neighbour discovery between gateways, seen from outside: exact frames on the wire, counters, tables, RPCs.
//!
//! ```text
//!   gw-a                          gw-b                          gw-c
//!  +--------------------+        +--------------------+        +--------------------+
//!  | lxcbr0 -- ipop ----+--UDP---+---- ipop -- lxcbr0 +--UDP---+---- ipop -- lxcbr0 |
//!  |   |                |        |                |   |        |                |   |
//!  +---|----------------+        +----------------|---+        +----------------|---+
//!    asker, other                              target                         third
//!    10.0.3.3, 10.0.3.4                    10.0.3.104                      10.0.3.7
//! ```
//!
//! Most stations have no address that their kernel knows of: a test speaks for them through a raw port, so that
//! every frame on the wire is one that the test or a gateway has made. The third gateway is not there in every test. For
//! the comparison with the kernel's `neigh_suppress` gw-a and gw-b are joined by VXLAN instead.

#[path = "resolution/arp.rs"]
mod arp;
#[path = "resolution/claims.rs"]
mod claims;
#[path = "resolution/fairness.rs"]
mod fairness;
#[path = "resolution/kit.rs"]
mod kit;
#[path = "resolution/limits.rs"]
mod limits;
#[path = "resolution/nd.rs"]
mod nd;
#[path = "resolution/storm.rs"]
mod storm;
#[path = "resolution/suppress.rs"]
mod suppress;

use std::path::Path;
use std::process::ExitCode;

use ipop_lab::ipop_available;
use ipop_lab::trials::{program_available, run, trial};

fn main() -> ExitCode {
    let ipop = ipop_available();
    let arping = ipop.clone().and_then(|()| program_available("arping", "iputils-arping"));
    let ipv6 = ipop.clone().and_then(|()| {
        let there = Path::new("/proc/sys/net/ipv6").exists();
        if there { Ok(()) } else { Err("the kernel has no IPv6".into()) }
    });
    let plain = |name, test| trial(name, &ipop, test);
    let trials = vec![
        // The longest first, beside all others.
        plain("arp_a_host_that_left_is_withdrawn", arp::withdrawal),
        plain("arp_the_six_steps", arp::six_steps),
        plain("arp_a_second_request_is_answered_locally", arp::second_request),
        plain("arp_after_the_expiry_the_peers_are_asked_again", arp::expiry),
        plain("arp_a_host_that_left_is_withdrawn_quickly", arp::quick_withdrawal),
        plain("arp_a_scan_drowns_nobody", storm::scan),
        plain("arp_a_unicast_request_goes_to_the_owner", arp::unicast_request),
        plain("arp_a_neighbour_answers_by_itself", arp::own_side),
        plain("arp_an_absent_target_is_asked_for_a_few_times", arp::absent_target),
        plain("arp_an_announcement_ends_the_back_off", arp::announced_after_back_off),
        plain("arp_several_askers_share_one_rpc", arp::several_askers),
        plain("arp_a_vlan_is_a_world_of_its_own", arp::vlan),
        plain("arp_malformed_and_foreign", arp::malformed_and_foreign),
        plain("arp_a_probe_reaches_the_owner", claims::probe),
        trial("arp_arping_finds_duplicates", &arping, claims::arping),
        plain("arp_announcements_are_repeated_once", claims::gratuitous),
        plain("arp_an_address_fails_over_to_another_gateway", claims::failover),
        plain("arp_simultaneous_probes_cross", claims::probes_cross),
        plain("arp_a_peer_that_left_takes_its_addresses_along", claims::peer_left),
        plain("arp_a_host_moves_with_its_address", claims::moved_host),
        plain("fair_to_others_while_clients_ask_without_pause", fairness::clients_that_pipeline),
        plain("fair_memory_for_clients_that_do_not_read", fairness::clients_that_do_not_read),
        plain("fair_to_others_while_a_peer_floods", fairness::peer_that_floods),
        plain("fair_to_others_while_a_guest_floods", fairness::guest_that_floods),
        plain("limits_allowed_macs", limits::allowed_macs),
        plain("limits_allowed_ips", limits::allowed_ips),
        plain("limits_a_peer_fills_no_table", limits::peer_shares),
        plain("limits_a_guest_fills_no_table", limits::station_share),
        plain("limits_an_address_that_is_alive_is_not_taken", limits::takeover),
        plain("limits_a_mac_that_is_alive_is_not_taken_by_counting_up", limits::counting_up),
        plain("nd_the_six_steps", nd::six_steps),
        plain("nd_the_router_flag_is_kept", nd::router_flag),
        plain("nd_a_duplicate_is_objected_to", nd::duplicate_on_the_wire),
        trial("nd_the_kernel_detects_a_duplicate", &ipv6, nd::kernel_detection),
        plain("nd_unsolicited_advertisements_are_repeated_once", nd::unsolicited),
        plain("nd_a_unicast_solicitation_goes_to_the_owner", nd::unicast_check),
        plain("nd_a_vlan_is_a_world_of_its_own", nd::vlan),
        plain("nd_malformed", nd::malformed),
        plain("nd_other_icmpv6_is_data", nd::other_icmpv6),
        trial("compared_with_the_kernels_neigh_suppress", &ipv6, suppress::comparison),
    ];
    run(trials)
}
