//! Two bridges joined by `ipop`, or by VXLAN, which has to give the same.

use std::time::Duration;

use ipop_lab::arp::Mac;
pub(crate) use ipop_lab::trials::Outcome;
use ipop_lab::{BRIDGE, Container, Daemon, Lab, RawPort};
use libtest_mimic::Failed;

/// What comes at all comes within this time.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// For experiments on a local network, so nobody answers (IEEE 802, local experimental EtherType 1).
pub(crate) const EXPERIMENTAL: u16 = 0x88b5;

pub(crate) fn ensure(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(what().into()) }
}

/// What joins the bridges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlay {
    Ipop,
    Vxlan,
}

/// Both, the one that says what is right first.
pub(crate) const BOTH: [Overlay; 2] = [Overlay::Vxlan, Overlay::Ipop];

/// A lab whose bridges are joined.
pub(crate) struct Segment {
    // Dropped first: a daemon says goodbye while its namespace is there.
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) lab: Lab,
}

impl Segment {
    /// Guests that say nothing by themselves, behind bridges with this `group_fwd_mask`.
    pub(crate) fn start(overlay: Overlay, group_fwd_mask: u16) -> Result<Segment, Failed> {
        let lab = Lab::builder().without_inner_ipv6().build()?;
        forward_groups(&lab, group_fwd_mask)?;
        let daemons = match overlay {
            Overlay::Ipop => lab.start_ipop()?,
            Overlay::Vxlan => {
                lab.join_by_vxlan()?;
                vec![]
            }
        };
        Ok(Segment { daemons, lab })
    }

    /// A guest without addresses.
    pub(crate) fn guest(&self, gateway: usize, name: &str) -> Result<Container, Failed> {
        Ok(self.lab.container(gateway, name, &[])?)
    }
}

/// Tells every bridge which reserved groups it forwards.
pub(crate) fn forward_groups(lab: &Lab, mask: u16) -> Outcome {
    for gateway in lab.gateways() {
        gateway.netns().ip(&format!("link set {BRIDGE} type bridge group_fwd_mask {mask:#x}"))?;
    }
    Ok(())
}

/// A port on a guest's interface.
pub(crate) fn port(guest: &Container) -> Result<RawPort, Failed> {
    Ok(RawPort::open(guest.netns(), guest.interface())?)
}

/// A frame of 60 octets of this type that carries a number.
pub(crate) fn frame(to: Mac, from: Mac, ethertype: u16, number: u8) -> Vec<u8> {
    let mut frame = [&to[..], &from, &ethertype.to_be_bytes(), &[number]].concat();
    frame.resize(60, 0x55);
    frame
}

/// The numbers of the [`frame`]s of our type that come before the one with this number, in their order.
pub(crate) fn numbers_until(port: &mut RawPort, last: u8) -> Result<Vec<u8>, Failed> {
    let number = |frame: &[u8]| (frame.get(12..14) == Some(&EXPERIMENTAL.to_be_bytes()[..])).then(|| frame[14]);
    let (frames, came) = port.capture_until(SOON, |frame| number(frame) == Some(last))?;
    let mut numbers: Vec<u8> = frames.iter().filter_map(|frame| number(frame)).collect();
    ensure(came, || format!("frame {last} did not come, but {numbers:?}"))?;
    numbers.pop();
    Ok(numbers)
}
