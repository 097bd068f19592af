//! TCP super-frames of more than 64 KiB ("BIG TCP"), where the operator lets the kernel make them.
//!
//! ```text
//!   c0 eth0 -- v-c0 [gw-a]        gso_max_size and gro_max_size 185000, IPv6 since Linux 5.19, IPv4 since 6.3
//! ```

use ipop_lab::traffic::exchange;
use ipop_lab::trials::Outcome;

use crate::cases::Case;
use crate::support::{Joined, Port, THERE, THERE_V6, ensure, since};

pub(crate) const CASES: &[Case] =
    &[("big_tcp_passes_interfaces", || passes(Port::Interface)), ("big_tcp_passes_taps", || passes(Port::Tap))];

const MIB: usize = 1 << 20;
const SIZE: u32 = 185_000;

fn passes(port: Port) -> Outcome {
    let joined = Joined::start([port; 2], |_| {})?;
    let Joined { c0, c1, daemons, lab } = &joined;
    for (container, gateway) in [c0, c1].into_iter().zip(lab.gateways()) {
        container.netns().set_super_frame_size(container.interface(), SIZE)?;
        gateway.netns().set_super_frame_size(&container.port(), SIZE)?;
    }
    let versions = [(THERE_V6, true), (THERE, since(6, 3)?)];
    for (target, big) in versions {
        let taken = |pointer: &str| daemons[0].counter(pointer);
        let before = (taken("/frames/to_peer")?, taken("/drops/frame_metadata")?);
        exchange(c0, c1, target, 2, 4 * MIB)?;
        let (frames, dropped) = (taken("/frames/to_peer")? - before.0, taken("/drops/frame_metadata")? - before.1);
        ensure(dropped == 0, || format!("{target}: {dropped} of {frames} frames were not understood"))?;
        eprintln!("{target}: 8 MiB in {frames} frames (big: {big})");
    }
    c0.ping(THERE, 2).map(drop)?;
    Ok(())
}
