//! Frames that are larger than the port's MTU: a bridge drops those that its other ports do not carry, and says nothing.

use std::time::Duration;

use ipop_lab::{TAP, interrupt};
use libtest_mimic::Failed;

use crate::kit::{Outcome, SOON, ensure, ipv4, udp, wait_counter};
use crate::stranger::{FRAME, FROM, LAST, SEGMENT, Stranger, TO, slice};

/// A gateway whose port's MTU is what the test says.
fn connect() -> Result<Stranger, Failed> {
    Stranger::connect(|config| config["mtu"] = 1000.into())
}

/// A frame with an IP packet of so many octets, and perhaps with tags.
fn frame(len: usize, tags: &[u8]) -> Vec<u8> {
    let mut frame = udp(TO, FROM, [9, 9], &vec![len as u8; len - 28]);
    frame.splice(12..12, tags.iter().copied());
    frame
}

/// The frames of the stranger that the port gets before a small one that is sent now.
fn written(stranger: &mut Stranger, number: u8) -> Result<Vec<Vec<u8>>, Failed> {
    let last = udp(TO, FROM, [7, 7], &[number; 40]);
    stranger.send(FRAME, 0, &last)?;
    let (mut frames, came) = stranger.port.capture_until(SOON, |seen| seen == last)?;
    ensure(came, || format!("frame {number} did not come"))?;
    frames.pop();
    frames.retain(|frame| frame.get(6..12) == Some(&FROM));
    Ok(frames)
}

/// Sets the MTU, and waits until a frame passes or does not: the gateway looks once a second.
fn set_mtu(stranger: &mut Stranger, mtu: u32, frame: &[u8], passes: bool) -> Outcome {
    stranger.lab.gateway(0).netns().ip(&format!("link set {TAP} mtu {mtu}"))?;
    interrupt::wait_until(&format!("an MTU of {mtu} to be noticed"), SOON, || {
        let failed = |error: Failed| ipop_lab::Error::other(format!("{error:?}"));
        stranger.send(FRAME, 0, frame).map_err(failed)?;
        let came = !written(stranger, 0).map_err(failed)?.is_empty();
        std::thread::sleep(Duration::from_millis(50));
        Ok((came == passes).then_some(()))
    })?;
    Ok(())
}

pub(crate) fn frames() -> Outcome {
    const TAGS: [u8; 8] = [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6];
    let mut stranger = connect()?;
    // A tag is room that every interface has (is_skb_forwardable() in net/core/dev.c).
    for (len, tags) in [(1000, &[][..]), (1004, &[]), (1000, &TAGS[..4]), (1000, &TAGS)] {
        let frame = frame(len, tags);
        stranger.send(FRAME, 0, &frame)?;
        let seen = written(&mut stranger, 1)?;
        ensure(seen == [frame], || format!("{len} octets and {tags:02x?}: {} frames came", seen.len()))?;
    }
    // The small ones behind them.
    let delivered = wait_counter(&stranger.daemon, "/frames/delivered", 8)?;
    let too_big = [(1005, &[][..]), (1400, &[]), (1005, &TAGS[..4]), (1001, &TAGS), (1400, &TAGS)];
    for (len, tags) in too_big {
        stranger.send(FRAME, 0, &frame(len, tags))?;
    }
    let seen = written(&mut stranger, 2)?;
    ensure(seen.is_empty(), || format!("{} of them came", seen.len()))?;
    wait_counter(&stranger.daemon, "/drops/port_too_big", too_big.len() as u64)?;
    let now = wait_counter(&stranger.daemon, "/frames/delivered", delivered + 1)?;
    ensure(now == delivered + 1, || format!("{} of them count as delivered", now - delivered - 1))?;
    // Somebody changes it, and changes it again.
    set_mtu(&mut stranger, 1450, &frame(1400, &[]), true)?;
    set_mtu(&mut stranger, 700, &frame(1400, &[]), false)?;
    set_mtu(&mut stranger, 1000, &frame(1000, &[]), true)
}

/// A super-frame is as large as its segments are.
pub(crate) fn segments() -> Outcome {
    const COUNT: u16 = 3;
    let mut stranger = connect()?;
    let mut tcp = ipv4(TO, FROM, 6, 20);
    tcp.extend([0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    let udp = udp(TO, FROM, [9, 5001], &[0; 300])[..42].to_vec();
    // DHCP's datagrams are written one by one.
    let dhcp = crate::kit::udp(TO, FROM, [67, 67], &[0; 300])[..42].to_vec();
    for (headers, packet) in [(&tcp, 40), (&udp, 28), (&dhcp, 28)] {
        for size in [500, 1004 - packet, 1005 - packet, 1200] {
            // The underlay's datagrams carry one of them at a time.
            for number in 0..COUNT {
                let last = if number + 1 == COUNT { LAST } else { 0 };
                let payload = vec![size as u8; size.into()];
                stranger.send(SEGMENT, last, &slice(size, number * size, size, headers, &payload))?;
            }
            let seen = written(&mut stranger, 3)?;
            let octets: usize = seen.iter().map(|frame| frame.len() - headers.len()).sum();
            let expected = if size <= 1004 - packet { usize::from(size * COUNT) } else { 0 };
            ensure(octets == expected, || format!("segments of {size} octets: {octets} octets of payload came"))?;
        }
    }
    // As many as came together were one frame.
    let dropped = wait_counter(&stranger.daemon, "/drops/port_too_big", 1)?;
    ensure(dropped <= 3 * 2 * u64::from(COUNT), || format!("{dropped} frames were dropped"))
}
