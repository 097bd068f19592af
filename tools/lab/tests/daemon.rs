//! The program itself: how it starts and ends, what it refuses, what it survives, what it answers.
//!
//! ```text
//!   gw-a                                          gw-b
//!  +--------------------------------+            +--------------------------------+
//!  | lxcbr0 --- ipop                |            |                ipop --- lxcbr0 |
//!  |   |          |                 |            |                 |          |   |
//!  |   |      [ipop run]--UDP--eth0-+---(veth)---+-eth0--UDP--[ipop run]      |   |
//!  |   |          |            :    |            |   :                        |   |
//!  |   |    control socket     :    |            | forger: datagrams in the   |   |
//!  |   |                  captured  |            | name of any address        |   |
//!  +---|----------------------------+            +----------------------------|---+
//!    c0 10.0.3.3, guest (frames of nonsense)                       10.0.3.104 c1
//! ```

#[path = "daemon/config.rs"]
mod config;
#[path = "daemon/confinement.rs"]
mod confinement;
#[path = "daemon/garbage.rs"]
mod garbage;
#[path = "daemon/kit.rs"]
mod kit;
#[path = "daemon/life.rs"]
mod life;
#[path = "daemon/noise.rs"]
mod noise;
#[path = "daemon/readers.rs"]
mod readers;
#[path = "daemon/sealed.rs"]
mod sealed;
#[path = "daemon/sessions.rs"]
mod sessions;
#[path = "daemon/stream.rs"]
mod stream;
#[path = "daemon/tcp.rs"]
mod tcp;
#[path = "daemon/unharmed.rs"]
mod unharmed;
#[path = "daemon/wire.rs"]
mod wire;

use std::process::ExitCode;

use ipop_lab::ipop_available;
use ipop_lab::trials::{program_available, run, trial};

fn main() -> ExitCode {
    let ipop = ipop_available();
    let setpriv = ipop.clone().and_then(|()| program_available("setpriv", "util-linux"));
    let python = ipop.clone().and_then(|()| noise::available());
    let plain = |name, test| trial(name, &ipop, test);
    let trials = vec![
        // The longest first, beside all others.
        plain("a_silent_peer_is_noticed", life::silent_peer),
        plain("sealed_rekeys_under_load", sessions::rekeys_under_load),
        plain("sealed_starts_and_crashes", sessions::starts_and_crashes),
        plain("sealed_preshared_keys", sessions::preshared_keys),
        plain("it_comes_and_goes", life::comes_and_goes),
        plain("the_tap_can_be_attached_by_hand", life::attached_by_hand),
        plain("a_peer_may_come_later", life::late_peer),
        plain("killed_and_started_again", life::killed_and_restarted),
        plain("killed_and_started_at_once", life::restarted_at_once),
        plain("ports_and_cables_go_down_and_up", life::ports_and_cables),
        plain("several_workers", life::several_workers),
        plain("a_second_instance_is_refused", life::two_instances),
        plain("impossible_starts_are_explained", life::impossible_starts),
        plain("a_bridge_that_is_made_anew_gets_its_port_back", life::bridge_made_anew),
        plain("a_deleted_tap_ends_it", life::tap_deleted),
        trial("nobody_may_run_or_ask", &setpriv, life::no_permission),
        trial("a_group_may_ask_and_change_nothing", &setpriv, readers::group),
        plain("no_thread_keeps_rights_that_it_does_not_use", confinement::rights),
        trial("forbidden_calls_are_refused", &confinement::tracing_available(&ipop), confinement::forbidden_calls),
        plain("confinement_can_be_switched_off", confinement::switched_off),
        plain("it_runs_as_the_user_that_it_is_told", confinement::users),
        trial("the_capabilities_of_the_unit_are_enough", &setpriv, confinement::unit),
        plain("wrong_configs_are_explained", config::wrong_configs),
        plain("keys_are_made_and_checked", config::keys),
        plain("values_that_cannot_work_are_explained", config::values_that_cannot_work),
        plain("what_is_no_config_is_explained", config::no_config),
        plain("keys_of_ipop_give_a_warning", config::keys_of_ipop),
        plain("questions_are_answered", config::questions),
        plain("datagrams_of_nonsense", garbage::datagrams),
        plain("frames_of_nonsense", garbage::frames),
        plain("nonsense_on_the_control_socket", garbage::control_socket),
        plain("forged_handshakes", garbage::handshakes),
        plain("a_flood_of_hellos", garbage::hello_flood),
        plain("itself_as_peer", garbage::itself_as_peer),
        plain("sealed_forged_datagrams", sealed::forged),
        plain("sealed_replays_at_another_worker", sealed::replays_at_another_worker),
        plain("sealed_without_clear_text", sealed::no_clear_text),
        plain("sealed_against_a_stranger", sealed::stranger),
        plain("sealed_flood_of_initiations", sealed::flood_of_initiations),
        plain("sealed_flood_of_hellos", sealed::flood_of_hellos),
        plain("sealed_roaming", sessions::roaming),
        plain("sealed_sec_differs", sessions::sec_differs),
        trial("sealed_against_another_implementation", &python, noise::against_another_implementation),
    ];
    run(trials)
}
