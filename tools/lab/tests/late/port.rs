//! The bridge, and the port in it.

use std::time::Duration;

use ipop_lab::{BRIDGE, Daemon, Lab, TAP, interrupt};
use serde_json::json;

use crate::Test;
use crate::support::{Outcome, SOON, World, ensure, logged, logged_times};

pub(crate) const TESTS: &[Test] = &[
    ("a_bridge_may_come_late", late_bridge),
    ("bridge_and_tap_may_be_renamed", renamed),
    ("a_tap_that_is_taken_out_comes_back", taken_out),
    ("a_tap_stays_where_somebody_has_put_it", put_elsewhere),
    ("a_tap_that_is_deleted_is_made_anew", deleted),
    ("a_tap_that_is_deleted_is_made_anew_on_system_calls", deleted_on_calls),
    ("a_tap_that_cannot_be_made_anew_is_tried_again", name_taken),
];

/// A bridge that is made anew has no ports, and the containers have to be put back.
pub(crate) fn make_bridge(world: &World) -> Outcome {
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
    logged(&a, &["other-tap is a port of other-br, not of lxcbr0", "renamed"])?;
    let port = a.status("status")?["port"].clone();
    let shown = port["name"] == "other-tap" && port["bridge"] == "other-br" && port["up"] == true;
    ensure(shown, || format!("the status shows {port}"))?;
    gateway.ip(&format!("link set other-tap name {TAP}"))?;
    gateway.ip(&format!("link set other-br name {BRIDGE}"))?;
    world.traffic("under the old names")?;
    logged(&a, &["ipop is a port of lxcbr0 again"])
}

/// Once, or by mistake, it is put back. Whoever does it again and again is not fought.
fn taken_out() -> Outcome {
    let world = World::new(&Lab::builder())?;
    let [a, _b] = world.start(|_, _| {})?;
    world.traffic("at first")?;
    let netns = world.gateway(0).netns();
    for _ in 0..3 {
        netns.ip(&format!("link set {TAP} nomaster"))?;
        in_bridge(&a, BRIDGE)?;
    }
    world.traffic("after that")?;
    logged(&a, &["is a port of lxcbr0 now"])?;
    netns.ip(&format!("link set {TAP} nomaster"))?;
    logged(&a, &["was taken out of lxcbr0 again and again", "in a minute"])?;
    world.no_traffic("while it is out")
}

fn in_bridge(daemon: &Daemon, bridge: &str) -> Outcome {
    Ok(interrupt::wait_until(&format!("a port of {bridge}"), SOON, || {
        Ok((daemon.status("status")?["port"]["bridge"] == bridge).then_some(()))
    })?)
}

fn put_elsewhere() -> Outcome {
    let world = World::new(&Lab::builder())?;
    let [a, _b] = world.start(|_, _| {})?;
    world.traffic("at first")?;
    let netns = world.gateway(0).netns();
    netns.ip("link add other-br type bridge forward_delay 0 mcast_snooping 0")?;
    netns.ip("link set other-br up")?;
    netns.ip(&format!("link set {TAP} master other-br"))?;
    logged(&a, &["ipop is a port of other-br, not of lxcbr0", "stays there"])?;
    netns.ip(&format!("link set {} master other-br", world.c0.port()))?;
    world.traffic("through the other bridge")?;
    in_bridge(&a, "other-br")?;
    // With that bridge the port is nobody's, and goes where the config wants it.
    netns.ip("link del other-br")?;
    in_bridge(&a, BRIDGE)
}

fn deleted() -> Outcome {
    is_made_anew(true)
}

fn deleted_on_calls() -> Outcome {
    is_made_anew(false)
}

/// By somebody who cleans up too much. The gateway goes on with what it knows.
fn is_made_anew(io_uring: bool) -> Outcome {
    let world = World::new(&Lab::builder())?;
    let [mut a, _b] = world.start(|_, config| {
        config["io_uring"] = io_uring.into();
        config["workers"] = 2.into();
    })?;
    world.traffic("at first")?;
    let netns = world.gateway(0).netns();
    let mac = netns.mac_of(TAP)?;
    let place = |daemon: &Daemon| -> Result<String, libtest_mimic::Failed> {
        let macs = daemon.status("macs")?["macs"].clone();
        let rows = macs.as_array().into_iter().flatten();
        let own = rows.filter(|row| row["mac"] == world.c0.mac());
        Ok(own.filter_map(|row| row["where"].as_str()).map(str::to_owned).collect())
    };
    let known = place(&a)?;
    ensure(known == "local", || format!("c0 is not known as local, but as '{known}'"))?;
    // As hosts have it; it would have one.
    netns.sysctl("net/ipv6/conf/default/disable_ipv6", "0")?;
    for round in 0..2 {
        netns.ip(&format!("link del {TAP}"))?;
        logged_times(&a, &["ipop was deleted, and is made anew"], round + 1)?;
        in_bridge(&a, BRIDGE)?;
        ensure(place(&a)? == "local", || "c0 was forgotten".into())?;
        world.traffic("through the new one")?;
        // Frames of both workers' queues, super-frames among them.
        world.streams()?;
        ensure(netns.mac_of(TAP)? == mac, || "it has another MAC".into())?;
        let addresses = netns.ip(&format!("-br address show {TAP}"))?;
        ensure(!addresses.contains("fe80"), || format!("it has an address of its own: {addresses}"))?;
        let port = a.status("status")?["port"].clone();
        ensure(port["up"] == true && port["mtu"] == 1500, || format!("the status shows {port}"))?;
    }
    ensure(a.is_running(), || "it ended".into())
}

/// Somebody else has the name by then. The workers wait and do not try without pause, and the gateway answers.
fn name_taken() -> Outcome {
    let world = World::new(&Lab::builder())?;
    let [mut a, _b] = world.start(|_, _| {})?;
    world.traffic("at first")?;
    let netns = world.gateway(0).netns();
    interrupt::wait_until("the name to be taken before the gateway takes it", SOON, || {
        let _ = netns.ip(&format!("link del {TAP}"));
        Ok(netns.ip(&format!("link add {TAP} type bridge")).is_ok().then_some(()))
    })?;
    logged(&a, &["ipop was deleted, and cannot be made anew", "trying again every second"])?;
    let waiting = a.status("status")?["waiting_for"].to_string();
    ensure(waiting.contains("cannot be made anew"), || format!("the status waits for {waiting}"))?;
    world.no_traffic("without a port")?;
    let before = processor_time(&a)?;
    interrupt::sleep(Duration::from_secs(2))?;
    let spent = processor_time(&a)? - before;
    ensure(spent < 100, || format!("{spent} hundredths of a second of processor time in two seconds"))?;
    netns.ip(&format!("link del {TAP}"))?;
    world.traffic("with a port")?;
    ensure(a.status("status")?["waiting_for"] == json!([]), || "it still waits".into())?;
    ensure(a.is_running(), || "it ended".into())
}

/// In hundredths of a second, of all threads (proc_pid_stat(5)).
fn processor_time(daemon: &Daemon) -> Result<u64, libtest_mimic::Failed> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid()))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11);
    fields.take(2).map(|field| field.parse::<u64>().map_err(|error| format!("{stat}: {error}").into())).sum()
}
