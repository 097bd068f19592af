//! What the kernel drops for a gateway that does not keep up is counted, at either end of it.
//!
//! ```text
//!   c0 -- lxcbr0 --[queue of the TAP]-- gw-a ====[buffer of the socket]== gw-b -- lxcbr0 -- c1
//! ```

use std::time::Duration;

use ipop_lab::{Lab, interrupt};
use nix::sys::signal::Signal;

use crate::Test;
use crate::support::{Outcome, SOON, Segment, ensure, numbered};

pub(crate) const TESTS: &[Test] = &[
    Test::new("what_the_kernel_drops_at_the_tap_is_counted", at_the_tap),
    Test::new("what_the_kernel_drops_at_the_underlay_is_counted", at_the_underlay),
];

/// Frames that are longer than the queue of a TAP, and as octets than the buffer of a socket, by far.
const FRAMES: u32 = 20_000;
/// How long one frame that should come is waited for before the next is sent.
const PATIENCE: Duration = Duration::from_millis(200);

fn at_the_tap() -> Outcome {
    stopped(0, "port_kernel_drops", "underlay_kernel_drops")
}

fn at_the_underlay() -> Outcome {
    stopped(1, "underlay_kernel_drops", "port_kernel_drops")
}

/// Sends from c0 to c1 while one of the gateways stands still.
fn stopped(gateway: usize, counted: &str, not: &str) -> Outcome {
    let mut segment = Segment::start(&Lab::builder())?;
    let (here, mut there) = (segment.station(0, "c0")?, segment.station(1, "c1")?);
    there.introduce()?;
    segment.wait_place(0, 0, there.container.mac(), "gw-b", SOON)?;
    segment.daemons[gateway].signal(Signal::SIGSTOP)?;
    let frame = numbered(there.mac, here.mac, 1, 1514);
    let sent = (0..FRAMES).try_for_each(|_| here.port.send(&frame));
    segment.daemons[gateway].signal(Signal::SIGCONT)?;
    sent?;
    let dropped = segment.wait_counter(gateway, &format!("/drops/{counted}"), 1)?;
    ensure(dropped < FRAMES.into(), || format!("{dropped} of {FRAMES}"))?;
    let other = segment.counter(gateway, &format!("/drops/{not}"))?;
    ensure(other == 0, || format!("{not} counts {other} too"))?;
    // It goes on. What waited in the gateway comes all at once, and may be more than the socket of the test holds.
    let last = numbered(there.mac, here.mac, 2, 200);
    interrupt::wait_until("a frame after the overload", SOON, || {
        here.port.send(&last)?;
        let (_, came) = there.port.capture_until(PATIENCE, |frame| frame == last)?;
        Ok(came.then_some(()))
    })?;
    Ok(())
}
