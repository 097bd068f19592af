//! A whole interface as the port.

use ipop_lab::{Daemon, Lab, TAP, interrupt};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::Test;
use crate::support::{Outcome, SOON, World, ensure, logged, logged_times};

pub(crate) const TESTS: &[Test] = &[
    ("an_interface_may_come_late", late),
    ("an_interface_may_come_late_and_down_for_two_workers", late_for_two),
    ("an_interface_is_deleted_and_comes_back", back),
    ("an_interface_is_deleted_and_comes_back_on_system_calls", back_on_calls),
    ("an_interface_that_comes_back_for_two_workers_is_left_to_the_next_start", back_for_two),
    ("an_interface_may_be_renamed", renamed),
];

/// The gateway's end of a cable to c0's bridge, which stands for what is behind a network card.
const INTERFACE: &str = "port0";

fn with_interface(config: &mut Value) {
    if let Some(config) = config.as_object_mut() {
        config.remove("tap");
        config.remove("bridge");
    }
    config["port"] = json!({ "af_packet": INTERFACE });
}

/// gw-a has the interface, gw-b a TAP as usual.
fn start(world: &World, change: impl Fn(&mut Value)) -> Result<[Daemon; 2], Failed> {
    world.start(|index, config| {
        if index == 0 {
            with_interface(config);
            change(config);
        }
    })
}

fn plug(world: &World) -> Outcome {
    let netns = world.gateway(0).netns();
    netns.ip(&format!("link add {INTERFACE} type veth peer name cable"))?;
    netns.ip(&format!("link set cable master {} up", ipop_lab::BRIDGE))?;
    Ok(())
}

fn set_up(world: &World) -> Outcome {
    world.gateway(0).netns().ip(&format!("link set {INTERFACE} up")).map(drop).map_err(Failed::from)
}

/// As at boot, before its driver is loaded.
fn late() -> Outcome {
    comes_late(1)
}

fn late_for_two() -> Outcome {
    comes_late(2)
}

fn comes_late(workers: u64) -> Outcome {
    let world = World::new(&Lab::builder())?;
    let [mut a, _b] = start(&world, |config| config["workers"] = workers.into())?;
    logged(&a, &["there is no interface 'port0'", "trying again every second"])?;
    let status = a.status("status")?;
    ensure(status["waiting_for"].to_string().contains("port0"), || format!("the status does not say so: {status}"))?;
    let text = a.query("status", false).run()?;
    ensure(text.contains("waiting     there is no interface 'port0'"), || text.clone())?;
    world.no_traffic("without an interface")?;
    // What other interfaces receive meanwhile is not the segment's.
    let seen = a.counter("/frames/to_peer")? + a.counter("/frames/to_control")?;
    ensure(seen == 0, || format!("{seen} frames of other interfaces"))?;
    plug(&world)?;
    set_up(&world)?;
    world.traffic("with the interface")?;
    world.streams()?;
    logged(&a, &["port0 is the port now"])?;
    let port = a.status("status")?["port"].clone();
    let mac = world.gateway(0).netns().mac_of(INTERFACE)?;
    ensure(port["name"] == INTERFACE && port["up"] == true && port["mac"] == mac, || format!("{port}"))?;
    // Each frame comes to one worker.
    let output = world.c1.run(["ping", "-n", "-c10", "-i0.1", crate::support::HERE])?;
    ensure(!output.contains("DUP"), || output.clone())?;
    ensure(a.is_running(), || "it ended".into())
}

fn back() -> Outcome {
    comes_back(true)
}

fn back_on_calls() -> Outcome {
    comes_back(false)
}

/// As a card that is taken out of the machine and put back, or whose driver is loaded anew.
fn comes_back(io_uring: bool) -> Outcome {
    let world = World::new(&Lab::builder())?;
    plug(&world)?;
    set_up(&world)?;
    let [mut a, _b] = start(&world, |config| config["io_uring"] = io_uring.into())?;
    world.traffic("at first")?;
    for round in 0..2 {
        world.gateway(0).netns().ip(&format!("link del {INTERFACE}"))?;
        logged_times(&a, &["there is no interface 'port0'"], round + 1)?;
        world.no_traffic("without the interface")?;
        plug(&world)?;
        set_up(&world)?;
        world.traffic("when it is back")?;
        world.streams()?;
    }
    ensure(a.is_running(), || "it ended".into())
}

/// Its sockets are a group, which the kernel does not bind anew. A service manager starts it again.
fn back_for_two() -> Outcome {
    let world = World::new(&Lab::builder())?;
    plug(&world)?;
    set_up(&world)?;
    let [mut a, _b] = start(&world, |config| config["workers"] = 2.into())?;
    world.traffic("at first")?;
    world.gateway(0).netns().ip(&format!("link del {INTERFACE}"))?;
    logged(&a, &["there is no interface 'port0'"])?;
    ensure(a.is_running(), || "it ended before the interface is back".into())?;
    plug(&world)?;
    set_up(&world)?;
    interrupt::wait_until("it to end", SOON, || Ok((!a.is_running()).then_some(())))?;
    logged(&a, &["'port0' is there again", "start again"])?;
    drop(a);
    let mut config = world.gateway(0).config();
    with_interface(&mut config);
    config["workers"] = 2.into();
    let _a = world.gateway(0).start_ipop(&config)?;
    world.traffic("after the next start")
}

/// Known by its number, and shown by its new name. Another one of the old name is another one.
fn renamed() -> Outcome {
    let world = World::new(&Lab::builder())?;
    plug(&world)?;
    set_up(&world)?;
    let [a, _b] = start(&world, |_| {})?;
    world.traffic("at first")?;
    let netns = world.gateway(0).netns();
    netns.ip(&format!("link set {INTERFACE} name other0"))?;
    netns.ip(&format!("link add {INTERFACE} type bridge"))?;
    netns.ip(&format!("link set {INTERFACE} up"))?;
    world.traffic("under another name")?;
    let name = a.status("status")?["port"]["name"].clone();
    ensure(name == "other0", || format!("the status shows {name}"))?;
    ensure(!a.log().contains(&format!("an interface '{TAP}'")), || a.log())
}
