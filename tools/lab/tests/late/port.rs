//! The bridge, and the port in it.

use ipop_lab::{BRIDGE, Lab, TAP, interrupt};

use crate::Test;
use crate::support::{Outcome, SOON, World, ensure, logged};

pub(crate) const TESTS: &[Test] = &[
    ("a_bridge_may_come_late", late_bridge),
    ("bridge_and_tap_may_be_renamed", renamed),
    ("a_tap_that_is_taken_out_comes_back", taken_out),
];

/// A bridge that is made anew has no ports, and the containers have to be put back.
fn make_bridge(world: &World) -> Outcome {
    let gateway = world.gateway(0).netns();
    gateway.ip(&format!("link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0"))?;
    gateway.ip(&format!("link set {BRIDGE} up"))?;
    gateway.ip(&format!("link set {} master {BRIDGE} up", world.c0.port()))?;
    Ok(())
}

/// As at boot, before lxc-net has made it.
fn late_bridge() -> Outcome {
    let world = World::new(&Lab::builder())?;
    world.gateway(0).netns().ip(&format!("link del {BRIDGE}"))?;
    let [a, _b] = world.start(|_, _| {})?;
    logged(&a, &["there is no bridge 'lxcbr0'", "trying again every second"])?;
    ensure(a.status("status")?["port"]["bridge"].is_null(), || "the status names a bridge".into())?;
    world.no_traffic("without a bridge")?;
    make_bridge(&world)?;
    world.traffic("with the bridge")?;
    logged(&a, &["is a port of lxcbr0 now"])
}

/// What is known by its number keeps working, and is shown by its new name.
fn renamed() -> Outcome {
    let world = World::new(&Lab::builder())?;
    let [a, _b] = world.start(|_, _| {})?;
    world.traffic("at first")?;
    let gateway = world.gateway(0).netns();
    gateway.ip(&format!("link set {TAP} name other-tap"))?;
    gateway.ip(&format!("link set {BRIDGE} name other-br"))?;
    world.traffic("under other names")?;
    logged(&a, &["no bridge 'lxcbr0' any more", "other-tap is a port of other-br"])?;
    let port = a.status("status")?["port"].clone();
    let shown = port["name"] == "other-tap" && port["bridge"] == "other-br" && port["up"] == true;
    ensure(shown, || format!("the status shows {port}"))?;
    gateway.ip(&format!("link set other-tap name {TAP}"))?;
    gateway.ip(&format!("link set other-br name {BRIDGE}"))?;
    world.traffic("under the old names")
}

fn taken_out() -> Outcome {
    let world = World::new(&Lab::builder())?;
    let [a, _b] = world.start(|_, _| {})?;
    world.traffic("at first")?;
    world.gateway(0).netns().ip(&format!("link set {TAP} nomaster"))?;
    interrupt::wait_until("it to be a port again", SOON, || {
        Ok((a.status("status")?["port"]["bridge"] == BRIDGE).then_some(()))
    })?;
    world.traffic("after that")?;
    logged(&a, &["is a port of lxcbr0 now"])
}
