//! The addresses 01:80:c2:00:00:0x, one by one.

use ipop_lab::arp::{BROADCAST, Mac};
use ipop_lab::{Container, Lab, RawPort};
use libtest_mimic::Failed;
use serde_json::json;

use crate::Test;
use crate::support::{
    BOTH, EXPERIMENTAL, Outcome, Overlay, Segment, ensure, forward_groups, frame, numbers_until, port,
};

pub(crate) const TESTS: &[Test] = &[
    Test { name: "reserved_groups_are_carried_as_over_vxlan", needs: &[("vxlan", "")], run: as_over_vxlan },
    Test { name: "pause_frames_are_never_carried", needs: &[], run: pause },
    Test { name: "an_interface_as_port_carries_what_its_mask_says", needs: &[], run: mask_of_an_interface },
];

const LAST: u8 = 99;
/// MAC control (IEEE 802.3-2022, clause 31).
const MAC_CONTROL: u16 = 0x8808;

fn group(low: u8) -> Mac {
    [0x01, 0x80, 0xc2, 0, 0, low]
}

/// Sends a frame to each of the sixteen addresses; which of them come out.
fn carried(from: &Container, to: &Container) -> Result<Vec<u8>, Failed> {
    let (sender, mut receiver) = (port(from)?, port(to)?);
    let source = from.mac_bytes()?;
    for low in 0..16 {
        sender.send(&frame(group(low), source, EXPERIMENTAL, low))?;
    }
    sender.send(&frame(BROADCAST, source, EXPERIMENTAL, LAST))?;
    numbers_until(&mut receiver, LAST)
}

/// What the bridge hands on is carried, and what it does not hand on is its own business.
fn as_over_vxlan() -> Outcome {
    // Linux' bridge does not let anybody set the bits 0 to 2; it forwards spanning tree while it takes no part in it.
    for (mask, expected) in [(0xfff8, (0..16).filter(|low| ![1, 2].contains(low)).collect()), (0, vec![0])] {
        for overlay in BOTH {
            let segment = Segment::start(overlay, mask)?;
            let (c0, c1) = (segment.guest(0, "c0")?, segment.guest(1, "c1")?);
            let carried = carried(&c0, &c1)?;
            ensure(carried == expected, || {
                format!("{overlay:?}, mask {mask:#x}: {carried:?} instead of {expected:?}")
            })?;
        }
    }
    Ok(())
}

/// Not even if somebody puts them into the TAP himself, to whatever address.
fn pause() -> Outcome {
    let segment = Segment::start(Overlay::Ipop, 0)?;
    let (c0, c1) = (segment.guest(0, "c0")?, segment.guest(1, "c1")?);
    let tap = |gateway: usize| RawPort::open(segment.lab.gateway(gateway).netns(), ipop_lab::TAP);
    let (here, mut there, source) = (tap(0)?, tap(1)?, c0.mac_bytes()?);
    there.drain()?;
    for (to, ethertype) in [
        (group(1), MAC_CONTROL),
        (BROADCAST, MAC_CONTROL),
        (c1.mac_bytes()?, MAC_CONTROL),
        // Pause frames' address with another type.
        (group(1), EXPERIMENTAL),
    ] {
        here.send(&frame(to, source, ethertype, 1))?;
    }
    let last = frame(BROADCAST, source, EXPERIMENTAL, LAST);
    here.send(&last)?;
    let (frames, came) = there.capture_until(crate::support::SOON, |frame| frame == last)?;
    ensure(came, || "the last frame did not come".into())?;
    let forbidden = frames.iter().find(|frame| frame[12..14] == MAC_CONTROL.to_be_bytes() || frame[..6] == group(1));
    ensure(forbidden.is_none(), || format!("gw-b wrote {forbidden:02x?}"))?;
    for (reason, expected) in [("mac_control", 3), ("bridge_reserved", 1)] {
        let dropped = segment.daemons[0].counter(&format!("/drops/{reason}"))?;
        ensure(dropped == expected, || format!("{reason} is {dropped} instead of {expected}"))?;
    }
    Ok(())
}

/// No bridge has decided there, so the config does, in both directions.
fn mask_of_an_interface() -> Outcome {
    for (mask, expected) in [(Some("0x4008"), vec![3, 14]), (Some("0"), vec![]), (None, vec![0])] {
        let lab = Lab::builder().without_inner_ipv6().build()?;
        forward_groups(&lab, 0xfff8)?;
        let (c0, c1) = (lab.container(0, "c0", &[])?, lab.container(1, "c1", &[])?);
        lab.gateway(0).netns().ip(&format!("link set {} nomaster", c0.port()))?;
        let mut config = lab.gateway(0).config();
        for key in ["tap", "bridge"] {
            config.as_object_mut().ok_or("no object")?.remove(key);
        }
        config["port"] = match mask {
            Some("0") => json!({ "af_packet": c0.port(), "group_fwd_mask": 0 }),
            Some(mask) => json!({ "af_packet": c0.port(), "group_fwd_mask": mask }),
            None => json!({ "af_packet": c0.port() }),
        };
        let daemons = [lab.gateway(0).start_ipop(&config)?, lab.gateway(1).start_ipop(&lab.gateway(1).config())?];
        for daemon in &daemons {
            daemon.wait_peers_up(crate::support::SOON)?;
        }
        for (from, to) in [(&c0, &c1), (&c1, &c0)] {
            let carried = carried(from, to)?;
            ensure(carried == expected, || {
                format!("{} to {}, mask {mask:?}: {carried:?} instead of {expected:?}", from.name(), to.name())
            })?;
        }
    }
    Ok(())
}
