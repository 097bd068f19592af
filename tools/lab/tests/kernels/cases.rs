//! What must work on every kernel from Linux 6.0 on, by whatever it has.

use ipop_lab::traffic::transfer_in_any_order;
use ipop_lab::trials::Outcome;
use ipop_lab::{interrupt, udp_socket};
use nix::sys::socket::{setsockopt, sockopt};

use crate::support::{HERE, HERE_V6, Joined, Port, SOON, THERE, THERE_V6, ensure, since};

pub(crate) type Case = (&'static str, fn() -> Outcome);

pub(crate) const CASES: &[Case] = &[
    ("taps_encrypted", || carries([Port::Tap, Port::Tap], true)),
    ("taps_in_clear_text", || carries([Port::Tap, Port::Tap], false)),
    ("an_interface_and_a_tap_encrypted", || carries([Port::Interface, Port::Tap], true)),
    ("an_interface_and_a_tap_in_clear_text", || carries([Port::Interface, Port::Tap], false)),
    ("interfaces_encrypted", || carries([Port::Interface, Port::Interface], true)),
    ("interfaces_in_clear_text", || carries([Port::Interface, Port::Interface], false)),
    ("an_interface_on_system_calls", on_system_calls),
    ("udp_super_frames_from_taps", || udp_super_frames(Port::Tap)),
    ("udp_super_frames_from_interfaces", || udp_super_frames(Port::Interface)),
    ("features_are_what_the_kernel_has", features),
];

fn carries(ports: [Port; 2], sec: bool) -> Outcome {
    Joined::start(ports, |config| config["sec"] = sec.into())?.carries_everything()
}

fn on_system_calls() -> Outcome {
    Joined::start([Port::Interface; 2], |config| config["io_uring"] = false.into())?.carries_everything()
}

/// As programs with much to send make them (`UDP_SEGMENT`). Packet sockets know them since Linux 6.2; before, they are lost with
/// a reason, nothing else is, and a host that is told not to make them has what it sends carried.
fn udp_super_frames(port: Port) -> Outcome {
    let joined = Joined::start([port; 2], |_| {})?;
    let Joined { c0, c1, daemons, .. } = &joined;
    if port == Port::Interface && !since(6, 2)? {
        let sender = udp_socket(c0.netns(), "0.0.0.0:0".parse()?, SOON)?;
        setsockopt(&sender, sockopt::UdpGsoSegment, &1000)?;
        interrupt::wait_until("lost super-frames to be counted", SOON, || {
            // The discard port.
            let _ = sender.send_to(&[0; 4000], format!("{THERE}:9"));
            Ok((daemons[0].counter("/drops/super_frame_unknown")? > 0).then_some(()))
        })?;
        c0.ping(THERE, 2)?;
        for container in [c0, c1] {
            container.run(["ethtool", "-K", "eth0", "tx-udp-segmentation", "off"])?;
        }
    }
    for (here, there, address, size) in
        [(c0, c1, THERE, 1000), (c1, c0, HERE, 100), (c0, c1, THERE_V6, 1200), (c1, c0, HERE_V6, 1400)]
    {
        transfer_in_any_order(here, there, address, size, Some(size as i32))?;
    }
    joined.daemons.iter().try_for_each(|daemon| {
        let drops = &daemon.status("status")?["drops"];
        ensure(drops["frame_metadata"] == 0 && drops["port_refused"] == 0, || drops.to_string())
    })
}

/// What is off must be off because the kernel has not got it, and the reason says so.
fn features() -> Outcome {
    let joined = Joined::start([Port::Tap, Port::Interface], |_| {})?;
    for (gateway, name, on) in [
        (0, "tso", true),
        (0, "uso", since(6, 2)?),
        (1, "uso", since(6, 2)?),
        (0, "udp_gso", true),
        (0, "udp_gro", true),
        (0, "zero_copy", since(6, 1)?),
        (0, "multishot_read", since(6, 7)?),
        (0, "deferred_task_work", since(6, 1)?),
        (0, "ring_restrictions", true),
    ] {
        let (is_on, reason) = joined.feature(gateway, name)?;
        ensure(is_on == on, || format!("gateway {gateway}: {name} is {is_on} ({reason})"))?;
        ensure(is_on || !reason.is_empty(), || format!("{name} is off without a reason"))?;
    }
    let text = joined.daemons[1].query("status", false).run()?;
    ensure(since(6, 2)? || text.contains("tx-udp-segmentation off"), || text.clone())
}
