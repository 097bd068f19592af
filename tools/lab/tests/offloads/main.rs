//! What the switch makes of frames to save work, and who must not notice: programs that read raw frames, peers that ask for
//! what no kernel does, ports that carry less.
//!
//! ```text
//!   gw-a                       gw-b
//!  +----------------------+   +----------------------+
//!  | lxcbr0 --- ipop(TAP) |   | (TAP)ipop --- lxcbr0 |
//!  |   |         [ipop]---+---+---[ipop]        |    |      or in the place of gw-b: this test, speaking the
//!  +---|------------------+   +-----------------|----+      protocol by hand (`stranger.rs`)
//!      c0 10.0.3.3                              c1 10.0.3.104, and a raw socket on its eth0
//! ```

mod dhcp;
mod finished;
mod kit;
mod raw;
mod stranger;
mod too_big;
mod wishes;

use std::process::ExitCode;

use ipop_lab::ipop_available;
use ipop_lab::trials::{program_available, run, trial};

fn main() -> ExitCode {
    let ipop = ipop_available();
    let kea = ipop.clone().and_then(|()| program_available("kea-dhcp4", "kea-dhcp4-server"));
    let trials = vec![
        trial("kea_answers_every_request_of_a_burst", &kea, dhcp::kea),
        trial("raw_readers_of_dhcp_see_single_datagrams", &ipop, raw::dhcp),
        trial("raw_readers_of_listed_ports_see_single_datagrams", &ipop, raw::listed),
        trial("raw_readers_see_the_datagrams_of_a_guests_super_frame", &ipop, raw::super_frames),
        trial("nothing_is_merged_where_merging_is_off", &ipop, raw::merging_off),
        trial("a_finished_checksum_arrives_finished", &ipop, finished::arrives_finished),
        trial("what_no_kernel_does_is_refused_and_uso_stays", &ipop, wishes::refused),
        trial("offloads_say_what_is_true", &ipop, wishes::shown),
        trial("frames_above_the_ports_mtu_are_dropped_by_name", &ipop, too_big::frames),
        trial("segments_above_the_ports_mtu_are_dropped_by_name", &ipop, too_big::segments),
    ];
    run(trials)
}
