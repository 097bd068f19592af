//! DSCP and ECN: what routers between the gateways see, and what becomes of what they mark.
//!
//! ```text
//!   c0 --- gw-a ==== eth0: marks everything as congested === gw-b --- c1
//! ```

use ipop_lab::{Lab, RawPort, UPLINK, interrupt};
use serde_json::json;

use crate::Test;
use crate::support::{BOTH, Outcome, Overlay, SOON, Segment, ensure, port};

pub(crate) const TESTS: &[Test] = &[
    Test { name: "marks_of_guests_are_seen_outside", needs: &[("vxlan", "")], run: outside },
    Test { name: "marks_of_routers_come_in", needs: &[("vxlan", ""), ("nft", "nftables")], run: inside },
];

const HERE: &str = "10.0.3.3/24";
const THERE: &str = "10.0.3.104";

/// The class of an IPv4 packet in an untagged frame, if its protocol is this one.
fn class(frame: &[u8], protocol: u8) -> Option<u8> {
    let wanted = frame.get(12..14) == Some(&[0x08, 0x00]) && frame.get(23) == Some(&protocol);
    wanted.then(|| frame[15])
}

fn ping(guest: &ipop_lab::Container, class: u8) -> ipop_lab::Result<bool> {
    Ok(guest.exec(["ping", "-n", "-c1", "-W1", "-Q", &class.to_string(), THERE])?.success())
}

/// ECN goes out in any case, DSCP if the config wants it.
fn outside() -> Outcome {
    let cases = [
        (Overlay::Vxlan, json!(null), 0xba, 0x02),
        (Overlay::Ipop, json!(null), 0xba, 0x02),
        (Overlay::Ipop, json!("inherit"), 0xba, 0xba),
        (Overlay::Ipop, json!(46), 0x01, 0xb9),
        (Overlay::Ipop, json!("inherit"), 0x00, 0x00),
    ];
    for (overlay, dscp, inner, outer) in cases {
        let lab = Lab::builder().without_inner_ipv6().build()?;
        let _daemons = match overlay {
            Overlay::Vxlan => lab.join_by_vxlan().map(|()| vec![])?,
            Overlay::Ipop => lab.start_ipop_with(|_, config| {
                if !dscp.is_null() {
                    config["dscp"] = dscp.clone();
                }
            })?,
        };
        let (c0, _c1) = (lab.container(0, "c0", &[HERE])?, lab.container(1, "c1", &["10.0.3.104/24"])?);
        interrupt::wait_until("a ping to pass", SOON, || Ok(ping(&c0, inner)?.then_some(())))?;
        let mut uplink = RawPort::open(lab.gateway(1).netns(), UPLINK)?;
        uplink.drain()?;
        ensure(ping(&c0, inner)?, || "a ping is lost".into())?;
        const UDP: u8 = 17;
        // Other datagrams, such as messages and probes, are of no special class.
        let (frames, came) =
            uplink.capture_until(SOON, |frame| class(frame, UDP) == Some(outer) && frame.len() > 120)?;
        let seen: Vec<_> = frames.iter().filter_map(|frame| class(frame, UDP)).collect();
        ensure(came, || format!("{overlay:?}, {dscp}: {inner:#x} inside is {seen:02x?} outside"))?;
    }
    Ok(())
}

/// A router that marks what it would drop is heard by those who understand it, and by the others as a loss.
fn inside() -> Outcome {
    for overlay in BOTH {
        let segment = Segment::start(overlay, 0)?;
        let c0 = segment.lab.container(0, "c0", &[HERE])?;
        let c1 = segment.lab.container(1, "c1", &["10.0.3.104/24"])?;
        interrupt::wait_until("a ping to pass", SOON, || Ok(ping(&c0, 0)?.then_some(())))?;
        let chain =
            format!("chain marks {{ type filter hook ingress device \"{UPLINK}\" priority 0; ip ecn set ce; }}");
        segment.lab.gateway(1).netns().run(["nft", &format!("table netdev router {{ {chain}; }}")])?;
        let mut there = port(&c1)?;
        for (inner, expected) in [(0x02, 0x03), (0x01, 0x03), (0x03, 0x03), (0xba, 0xbb)] {
            there.drain()?;
            ensure(ping(&c0, inner)?, || format!("{overlay:?}: a ping with {inner:#x} is lost"))?;
            let (frames, came) = there.capture_until(SOON, |frame| class(frame, 1) == Some(expected))?;
            let seen: Vec<_> = frames.iter().filter_map(|frame| class(frame, 1)).collect();
            ensure(came, || format!("{overlay:?}: {inner:#x} arrives as {seen:02x?}"))?;
        }
        ensure(!ping(&c0, 0)?, || format!("{overlay:?}: what cannot be marked is not dropped"))?;
        if let [_, b] = &segment.daemons[..] {
            let dropped = b.counter("/drops/congestion_unmarked")?;
            ensure(dropped >= 1, || "it is not counted".into())?;
        }
    }
    Ok(())
}
