//! `ipop-bench` as a person runs it: what it reports is what happened, mistakes are explained, and nothing is left.

mod faults;
mod kit;
mod mistakes;
mod whole;

use std::process::ExitCode;

use ipop_lab::trials::{program_available, run, trial};
use ipop_lab::{ipop_available, lab_available, vxlan_available};

fn main() -> ExitCode {
    let lab = lab_available();
    let vxlan = vxlan_available().and_then(|()| program_available("ethtool", "ethtool"));
    let ipop = ipop_available();
    run(vec![
        trial("injected_loss_duplication_and_reordering_is_reported_exactly", &vxlan, faults::all_kinds),
        trial("a_mix_of_sizes_with_faults_is_reported_exactly", &vxlan, faults::mix),
        trial("damaged_packets_are_told_from_lost_ones", &vxlan, faults::damage),
        trial("a_clean_path_is_reported_clean", &lab, faults::clean),
        trial("sent_frames_are_those_on_the_wire", &lab, faults::on_the_wire),
        trial("the_other_end_is_missing", &lab, mistakes::no_server),
        trial("the_other_end_is_of_another_version", &lab, mistakes::other_version),
        trial("the_other_end_is_something_else", &lab, mistakes::stranger),
        trial("the_port_is_taken", &lab, mistakes::port_taken),
        trial("the_other_end_is_busy", &lab, mistakes::busy),
        trial("no_permission_for_raw_frames", &lab, mistakes::no_permission),
        trial("no_permission_for_a_lab", &lab, mistakes::not_root),
        trial("a_server_survives_garbage", &lab, mistakes::garbage),
        trial("the_other_end_goes_away", &lab, mistakes::server_killed),
        trial("wrong_arguments_and_files_are_explained", &lab, mistakes::arguments),
        trial("a_frame_that_does_not_fit_is_left_out_with_the_reason", &lab, whole::unfit),
        trial("ipv6_is_measured_too", &lab, whole::ipv6),
        trial("a_quick_lab_measures_everything_and_makes_a_report", &ipop, whole::quick_lab),
        trial("ctrl_c_leaves_nothing_behind", &ipop, whole::interrupted),
    ])
}
