//! Loops through the segment: spanning tree finds them, because its frames get through.

use std::time::Duration;

use ipop_lab::arp::BROADCAST;
use ipop_lab::{BRIDGE, Netns, interrupt};
use libtest_mimic::Failed;
use serde_json::Value;

use crate::Test;
use crate::support::{BOTH, EXPERIMENTAL, Outcome, Segment, ensure, frame, numbers_until, port};

pub(crate) const TESTS: &[Test] = &[
    Test { name: "a_loop_behind_two_gateways_is_blocked", needs: &[("vxlan", "")], run: nested },
    Test { name: "bridges_of_gateways_elect_one_root", needs: &[("vxlan", "")], run: own_bridges },
];

/// Twice the forward delay of four seconds, and some of the slowness of a busy machine.
const CONVERGED: Duration = Duration::from_secs(40);
/// Hundredths of a second: as short as the protocol lets them be.
const TIMERS: &str = "forward_delay 400 hello_time 100 max_age 600";
const FRAMES: u8 = 50;

/// What spanning tree has decided: root, and the states of these ports.
fn decided(netns: &Netns, bridge: &str, ports: &[&str]) -> ipop_lab::Result<(String, Vec<String>)> {
    let show = |name: &str| -> ipop_lab::Result<Value> {
        let text = netns.run(["ip", "-j", "-d", "link", "show", name])?;
        Ok(serde_json::from_str::<Value>(&text).unwrap_or_default()[0]["linkinfo"].clone())
    };
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // iproute2 of Debian 12 shows the own id for that of the root.
    let root = netns.run(["cat", &format!("/sys/class/net/{bridge}/bridge/root_id")])?;
    let states = ports.iter().map(|port| Ok(word(&show(port)?["info_slave_data"]["state"])));
    Ok((root, states.collect::<ipop_lab::Result<_>>()?))
}

/// A bridge with spanning tree in two guests, and a cable between these guests: the loop leads through both gateways.
fn nested() -> Outcome {
    for overlay in BOTH {
        let segment = Segment::start(overlay, 0)?;
        let (c0, c1) = (segment.guest(0, "c0")?, segment.guest(1, "c1")?);
        let (a2, b2) = (segment.guest(0, "a2")?, segment.guest(1, "b2")?);
        a2.netns().ip(&format!("link add cable type veth peer name cable netns {}", b2.netns().name()))?;
        for guest in [&a2, &b2] {
            let netns = guest.netns();
            netns.ip(&format!("link add nested type bridge stp_state 1 {TIMERS}"))?;
            for port in [guest.interface(), "cable"] {
                netns.ip(&format!("link set {port} master nested"))?;
            }
            // The cable comes up last, so that nothing circles before the bridges know of each other.
            for name in ["nested", guest.interface(), "cable"] {
                netns.ip(&format!("link set {name} up"))?;
            }
        }
        let look = || -> ipop_lab::Result<(String, String, Vec<String>)> {
            let (left, mut states) = decided(a2.netns(), "nested", &[a2.interface(), "cable"])?;
            let (right, more) = decided(b2.netns(), "nested", &[b2.interface(), "cable"])?;
            states.extend(more);
            Ok((left, right, states))
        };
        let done = interrupt::wait_until("one port to block", CONVERGED, || {
            let (left, right, states) = look()?;
            let count = |state: &str| states.iter().filter(|one| *one == state).count();
            Ok((left == right && count("blocking") == 1 && count("forwarding") == 3).then_some(()))
        });
        done.map_err(|error| -> Failed { format!("{overlay:?}: {error}: {:?}", look()).into() })?;
        // Each comes once: nothing circles.
        let (sender, mut receiver, source) = (port(&c0)?, port(&c1)?, c0.mac_bytes()?);
        receiver.drain()?;
        for number in 0..FRAMES {
            sender.send(&frame(BROADCAST, source, EXPERIMENTAL, number))?;
        }
        let came = numbers_until(&mut receiver, FRAMES - 1)?;
        ensure(came.iter().copied().eq(0..FRAMES - 1), || format!("{overlay:?}: {came:?}"))?;
        let late = receiver.capture(Duration::from_secs(1))?;
        let late = late.iter().filter(|frame| frame[..6] == BROADCAST).count();
        ensure(late == 0, || format!("{overlay:?}: {late} broadcasts came later"))?;
    }
    Ok(())
}

/// Spanning tree on lxcbr0 itself: the bridges talk through the port that the overlay is.
fn own_bridges() -> Outcome {
    for overlay in BOTH {
        let segment = Segment::start(overlay, 0)?;
        let (c0, c1) = (segment.guest(0, "c0")?, segment.guest(1, "c1")?);
        for gateway in segment.lab.gateways() {
            gateway.netns().ip(&format!("link set {BRIDGE} type bridge stp_state 1 {TIMERS}"))?;
        }
        let ports = match overlay {
            crate::support::Overlay::Ipop => [ipop_lab::TAP],
            crate::support::Overlay::Vxlan => ["vxlan0"],
        };
        let look = || -> ipop_lab::Result<[(String, Vec<String>); 2]> {
            let decided = |index| decided(segment.lab.gateway(index).netns(), BRIDGE, &ports);
            Ok([decided(0)?, decided(1)?])
        };
        let done = interrupt::wait_until("both to have one root", CONVERGED, || {
            let [left, right] = look()?;
            Ok((left == right && left.1 == ["forwarding"]).then_some(()))
        });
        done.map_err(|error| -> Failed { format!("{overlay:?}: {error}: {:?}", look()).into() })?;
        let (sender, mut receiver) = (port(&c0)?, port(&c1)?);
        // The guests' own ports were taken down and up by that as well.
        let source = c0.mac_bytes()?;
        let told = interrupt::wait_until("a broadcast to get through", CONVERGED, || {
            sender.send(&frame(BROADCAST, source, EXPERIMENTAL, 1))?;
            let (_, came) = receiver.capture_until(Duration::from_millis(300), |frame| frame[6..12] == source)?;
            Ok(came.then_some(()))
        });
        told.map_err(|error| -> Failed { format!("{overlay:?}: {error}").into() })?;
    }
    Ok(())
}
