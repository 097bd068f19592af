//! What a peer with a valid key, a guest or a client of the control socket can do to others by saying what is not true, or
//! by saying too much.
//!
//! ```text
//!   gw-a                          gw-b                          gw-c
//!  +--------------------+        +--------------------+        +--------------------+
//!  | lxcbr0 -- ipop ----+--UDP---+---- ipop -- lxcbr0 |        |  peer.py: a key    |
//!  |   |                |        |                |   +--UDP---+  that both know,   |
//!  +---|----------------+        +----------------|---+        |  and no daemon     |
//!    a1, a2                                    b1, c9          +--------------------+
//!    10.0.3.11, .12                            10.0.3.21, .39
//! ```
//!
//! Guests are real: their kernels answer. gw-c is no gateway of ours but a program of the tests, which speaks the format and
//! says what a test makes it say. It is told apart from bystanders by what arrives there and by what is written about it.

mod addresses;
mod clients;
mod flood;
mod kit;
mod macs;
mod peer;
mod talk;
mod timers;

use std::process::ExitCode;

use ipop_lab::ipop_available;
use ipop_lab::trials::{program_available, run, trial};

fn main() -> ExitCode {
    let ipop = ipop_available();
    let peer = ipop.clone().and_then(|()| peer::available());
    let prlimit = ipop.clone().and_then(|()| program_available("setpriv", "util-linux"));
    let trials = vec![
        // The longest first, beside all others.
        trial("flood_of_one_question_by_a_peer", &peer, flood::one_question),
        trial("mac_a_move_that_is_not_true_told_to_a_third_gateway", &peer, macs::told_to_third),
        trial("mac_a_move_that_is_not_true_told_to_all", &peer, macs::told_to_all),
        trial("mac_frames_with_the_source_of_a_third_gateways_station", &peer, macs::frames),
        trial("address_a_peer_announces_a_silent_one", &peer, addresses::announced_unasked),
        trial("address_a_peer_announces_a_silent_one_in_use", &peer, addresses::announced_in_use),
        trial("address_a_peer_answers_unasked", &peer, addresses::answered_unasked),
        trial("clients_that_pipeline_delay_no_resolution", &ipop, clients::pipelining),
        trial("clients_that_do_not_read_cost_no_memory", &ipop, clients::not_reading),
        trial("clients_come_back_when_descriptors_do", &prlimit, clients::out_of_descriptors),
        trial("timers_a_move_beside_an_arp_storm_at_the_old_gateway", &ipop, timers::storm_at_the_old_gateway),
        trial("timers_a_move_beside_an_arp_storm_at_the_new_gateway", &ipop, timers::storm_at_the_new_gateway),
        trial("timers_a_move_beside_a_peers_flood", &peer, timers::flood_at_the_old_gateway),
        trial("timers_a_move_beside_clients_that_pipeline", &ipop, timers::clients_at_the_old_gateway),
        trial("timers_a_question_is_repeated_beside_an_arp_storm", &ipop, timers::repeated_beside_a_storm),
        trial("timers_a_question_is_repeated_beside_clients_that_pipeline", &ipop, timers::repeated_beside_clients),
    ];
    run(trials)
}
