//! Full-size TCP from a guest that finishes its checksums itself: the path does not carry it in one datagram, and what
//! arrives is what was sent, also to somebody who reads raw frames.

use ipop_lab::RawPort;
use ipop_lab::arp::BROADCAST;

use crate::kit::{Outcome, SOON, Scene, ensure, ipv4, sum};

pub(crate) fn arrives_finished() -> Outcome {
    let scene = Scene::start(|_, _| {})?;
    let c0 = scene.lab.container(0, "c0", &[])?;
    let c1 = scene.lab.container(1, "c1", &[])?;
    let here = RawPort::open(c0.netns(), c0.interface())?;
    let mut there = RawPort::open(c1.netns(), c1.interface())?;
    let mut on_tap = RawPort::open(scene.lab.gateway(1).netns(), ipop_lab::TAP)?;
    // So that all know where it is.
    RawPort::open(c1.netns(), c1.interface())?.send(&[&BROADCAST[..], &c1.mac_bytes()?, &[0x88, 0xb5, 0]].concat())?;
    for (number, length) in (0u32..).zip([40, 1000, 1400, 1460, 1499, 1500]) {
        // PSH and ACK, five words of header.
        let mut frame = ipv4(c1.mac_bytes()?, c0.mac_bytes()?, 6, length - 20);
        frame.extend([0x1b, 0x58, 0x1b, 0x59, 0, 0, 0, number as u8, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
        frame.resize(14 + length, 0x5a);
        let check = !sum(&frame[26..], 6 + (length - 20) as u32);
        frame[50..52].copy_from_slice(&check.to_be_bytes());
        here.send(&frame)?;
        for (who, port) in [("the TAP of gw-b", &mut on_tap), ("c1", &mut there)] {
            let is_it = |seen: &[u8]| seen.get(14..46) == Some(&frame[14..46]);
            let (seen, came) = port.capture_until(SOON, is_it)?;
            ensure(came, || format!("{length} octets did not come to {who}"))?;
            let last = seen.last().map_or(&[][..], Vec::as_slice);
            ensure(last == frame, || format!("{length} octets came to {who} changed: {:02x?}", &last[..54]))?;
        }
    }
    Ok(())
}
