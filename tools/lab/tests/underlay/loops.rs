//! Routes to peers that lead into the overlay, and what only looks like it.

use std::net::IpAddr;
use std::time::Duration;

use ipop_lab::{
    BRIDGE, Builder, Container, Daemon, Direction, Family, Lab, RawPort, TAP, UPLINK, interrupt, vlan_available,
};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::support::{
    HERE, Outcome, SOON, THERE, UP, ensure, pair, peer, throughout, wait_log, wait_path_mtu, wait_peer, wait_ping,
};

/// What may go round until it is noticed: some hundred frames that were on the way, and by no means what a loop makes.
const FEW: u64 = 2000;

/// gw-a has an address in the overlay, so that it can be told to send by way of a container there.
fn builder(family: Family) -> Builder {
    Lab::builder().family(family).bridge_address(0, "10.0.3.1/24").bridge_address(0, "fd03::1/64 nodad")
}

/// The address of a container on another side, in the family of the underlay.
fn guest(family: Family, last: &str) -> String {
    if family == Family::V4 { format!("10.0.3.{last}") } else { format!("fd03::{last}") }
}

fn route(lab: &Lab, change: &str, by: &str) -> Outcome {
    let to = lab.gateway(1).underlay_ip();
    Ok(lab.gateway(0).netns().ip(&format!("route {change} {to} {by}")).map(drop)?)
}

/// Frames that came in by the port of a gateway for peers.
fn from_port(daemon: &Daemon) -> Result<u64, Failed> {
    let status = daemon.status("status")?;
    let count = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    Ok(["/frames/to_peer", "/frames/flooded", "/drops/own_datagram"].iter().map(|pointer| count(pointer)).sum())
}

fn wait_loop(daemon: &Daemon, parts: &[&str]) -> Outcome {
    let told = wait_peer(daemon, "gw-b", "to be down because of a loop", SOON, |peer| {
        peer["state"] == "down" && peer["trouble"] == "loop"
    })?;
    let text = told["trouble_text"].as_str().unwrap_or_default();
    ensure(parts.iter().all(|part| text.contains(part)), || format!("{text:?} does not name {parts:?}"))?;
    let line: Vec<&str> = ["peer gw-b"].iter().chain(parts).copied().collect();
    wait_log(daemon, &line)?;
    let table = daemon.query("peers", false).run()?;
    ensure(table.contains("gw-b is down: ") && table.contains(parts[0]), || table.clone())
}

fn wait_mended(daemon: &Daemon) -> Outcome {
    wait_peer(daemon, "gw-b", "to be up again", UP, |peer| peer["state"] == "up" && peer["trouble"].is_null()).map(drop)
}

/// A third gateway is there to be left alone.
pub(crate) fn at_run_time(family: Family) -> Outcome {
    let lab = builder(family).gateways(3).build()?;
    let daemons = lab.start_ipop()?;
    run_time(&lab, &daemons, family)
}

pub(crate) fn in_clear_text() -> Outcome {
    let lab = builder(Family::V4).gateways(3).build()?;
    let daemons = lab.start_ipop_with(|_, config| config["sec"] = false.into())?;
    run_time(&lab, &daemons, Family::V4)
}

fn run_time(lab: &Lab, daemons: &[Daemon], family: Family) -> Outcome {
    let (c0, _c1) = pair(lab)?;
    let _c2 = lab.container(2, "c2", &["10.0.3.203/24", "fd03::203/64"])?;
    let by = guest(family, "104");
    wait_ping(&c0, THERE)?;
    // The host of gw-a knows the guest's MAC.
    lab.gateway(0).run(["ping", "-n", "-c1", "-W5", &by])?;
    for round in 0..2 {
        let before = from_port(&daemons[0])?;
        let _traffic = c0.spawn(["ping", "-n", "-q", "-i0.002", "-s", "1000", THERE])?;
        let mut beside = c0.spawn(["ping", "-n", "-i0.1", "-c30", "10.0.3.203"])?;
        beside.wait_for_stdout("icmp_seq=2 ", SOON)?;
        route(lab, "replace", &format!("via {by} dev {BRIDGE}"))?;
        wait_loop(&daemons[0], &[&lab.gateway(1).underlay_ip().to_string(), BRIDGE, &by])?;
        let beside = beside.wait(Duration::from_secs(20))?;
        ensure(beside.stdout.contains(" 30 received"), || format!("round {round}, to gw-c: {}", beside.stdout))?;
        let went_round = daemons[0].counter("/drops/own_datagram")?;
        ensure(went_round < FEW, || format!("round {round}: {went_round} came round"))?;
        // The traffic itself is some 500 frames a second until the link is down.
        let frames = from_port(&daemons[0])? - before;
        ensure(frames < 2 * FEW, || format!("round {round}: {frames} frames came in by the port"))?;
        route(lab, "del", &format!("via {by} dev {BRIDGE}"))?;
        wait_mended(&daemons[0])?;
        wait_ping(&c0, THERE)?;
    }
    let other = peer(&daemons[0], "gw-c")?;
    ensure(other["ups"] == 1, || format!("gw-c: {other}"))
}

/// The guest is behind a third gateway, so that there is an overlay for the route to lead through at the start.
pub(crate) fn at_the_start() -> Outcome {
    let lab = builder(Family::V4).gateways(3).build()?;
    let (c0, _c1) = pair(&lab)?;
    let _c2 = lab.container(2, "c2", &["10.0.3.203/24"])?;
    let by = format!("via 10.0.3.203 dev {BRIDGE}");
    route(&lab, "add", &by)?;
    let daemons = lab.gateways().iter().map(|gateway| gateway.start_ipop(&gateway.config()));
    let daemons = daemons.collect::<Result<Vec<_>, _>>()?;
    wait_loop(&daemons[0], &["10.99.0.2", BRIDGE, "10.0.3.203", "gw-c"])?;
    wait_ping(&c0, "10.0.3.203")?;
    let before = from_port(&daemons[0])?;
    // Held as long as the route is so.
    throughout(Duration::from_secs(3), || {
        let peer = peer(&daemons[0], "gw-b")?;
        ensure(peer["state"] == "down" && peer["trouble"] == "loop", || format!("gw-b: {peer}"))
    })?;
    let frames = from_port(&daemons[0])? - before;
    ensure(frames < 100, || format!("{frames} frames came in by the port"))?;
    route(&lab, "del", &by)?;
    wait_mended(&daemons[0])?;
    wait_ping(&c0, THERE)
}

/// All that leaves by the TAP, or by an interface on top of it, comes in by the port.
pub(crate) fn by_the_port() -> Outcome {
    let lab = builder(Family::V4).build()?;
    let daemons = lab.start_ipop()?;
    let (c0, _c1) = pair(&lab)?;
    let a = lab.gateway(0).netns();
    wait_ping(&c0, THERE)?;
    let mut interfaces = vec![TAP];
    // Not every kernel has VLANs.
    if vlan_available().is_ok() {
        a.ip(&format!("link add link {TAP} name above type vlan id 10"))?;
        a.ip("link set above up")?;
        interfaces.push("above");
    }
    for interface in interfaces {
        route(&lab, "add", &format!("dev {interface}"))?;
        wait_loop(&daemons[0], &["10.99.0.2", interface])?;
        route(&lab, "del", &format!("dev {interface}"))?;
        wait_mended(&daemons[0])?;
    }
    wait_ping(&c0, THERE)
}

/// An interface of the host that is plugged into the bridge with a cable.
pub(crate) fn by_a_cable() -> Outcome {
    let lab = builder(Family::V4).build()?;
    let daemons = lab.start_ipop()?;
    let (c0, _c1) = pair(&lab)?;
    let a = lab.gateway(0);
    a.netns().ip("link add host0 type veth peer name plug0")?;
    a.netns().ip("address add 10.0.3.2/24 dev host0")?;
    a.netns().ip("link set host0 up")?;
    a.plug("plug0")?;
    wait_ping(&c0, THERE)?;
    let by = format!("via {THERE} dev host0");
    route(&lab, "add", &by)?;
    wait_loop(&daemons[0], &["10.99.0.2", "host0", THERE])?;
    // The cable is pulled out of the bridge: that is another way, though the route is the same.
    a.netns().ip("link set plug0 nomaster")?;
    wait_peer(&daemons[0], "gw-b", "no loop", SOON, |peer| peer["trouble"].is_null())?;
    route(&lab, "del", &by)?;
    wait_mended(&daemons[0])?;
    wait_ping(&c0, THERE)
}

/// The next hop is a station of this side, which sends into the overlay what it is given. No route of the host tells.
pub(crate) fn sent_back_by_a_guest() -> Outcome {
    let lab = builder(Family::V4).gateways(3).build()?;
    let daemons = lab.start_ipop()?;
    let (c0, _c1) = pair(&lab)?;
    let _c2 = lab.container(2, "c2", &["10.0.3.203/24"])?;
    c0.netns().sysctl("net/ipv4/ip_forward", "1")?;
    c0.netns().ip(&format!("route add 10.99.0.2 via {THERE}"))?;
    wait_ping(&c0, THERE)?;
    lab.gateway(0).run(["ping", "-n", "-c1", "-W5", HERE])?;
    let before = from_port(&daemons[0])?;
    let traffic = c0.spawn(["ping", "-n", "-q", "-i0.01", THERE])?;
    let by = format!("via {HERE} dev {BRIDGE}");
    route(&lab, "add", &by)?;
    wait_log(&daemons[0], &["gw-b", "10.99.0.2", BRIDGE, "own_datagram"])?;
    c0.ping("10.0.3.203", 10)?;
    drop(traffic);
    let frames = from_port(&daemons[0])? - before;
    ensure(frames < 2 * FEW, || format!("{frames} frames came in by the port"))?;
    route(&lab, "del", &by)?;
    wait_mended(&daemons[0])?;
    wait_ping(&c0, THERE)
}

/// With a whole interface as the port, that is checked not only at the start.
pub(crate) fn by_a_whole_interface() -> Outcome {
    const INTERFACE: &str = "v-c0";
    let lab = Lab::builder().build()?;
    let (c0, _c1) = pair(&lab)?;
    let a = lab.gateway(0);
    a.netns().ip(&format!("link set {INTERFACE} nomaster"))?;
    let mut config = a.config();
    if let Some(config) = config.as_object_mut() {
        config.remove("tap");
        config.remove("bridge");
    }
    config["port"] = json!({ "af_packet": INTERFACE });
    let daemons = [a.start_ipop(&config)?, lab.gateway(1).start_ipop(&lab.gateway(1).config())?];
    for daemon in &daemons {
        daemon.wait_peers_up(UP)?;
    }
    wait_ping(&c0, THERE)?;
    for _round in 0..2 {
        let _traffic = c0.spawn(["ping", "-n", "-q", "-i0.002", THERE])?;
        route(&lab, "add", &format!("dev {INTERFACE}"))?;
        wait_loop(&daemons[0], &["10.99.0.2", INTERFACE])?;
        route(&lab, "del", &format!("dev {INTERFACE}"))?;
        wait_mended(&daemons[0])?;
        wait_ping(&c0, THERE)?;
    }
    let went_round = daemons[0].counter("/drops/own_datagram")?;
    ensure(went_round < FEW, || format!("{went_round} came round"))
}

/// A host whose uplink is a port of the same bridge: its route leaves by the bridge, and not through the overlay.
pub(crate) fn uplink_in_the_bridge() -> Outcome {
    let lab = Lab::builder().switched().build()?;
    let (c0, c1) = pair(&lab)?;
    let a = lab.gateway(0);
    let address = a.underlay_ip();
    a.netns().ip(&format!("address del {address}/24 dev {UPLINK}"))?;
    a.plug(UPLINK)?;
    a.netns().ip(&format!("address add {address}/24 dev {BRIDGE}"))?;
    let daemons = lab.start_ipop()?;
    wait_path_mtu(&daemons[0], "gw-b", 1500, UP)?;
    wait_ping(&c0, THERE)?;
    // The bridge forgets where the peer is, as it does after some minutes, and floods what is for it.
    let traffic = c1.spawn(["ping", "-n", "-i0.05", "-c60", HERE])?;
    throughout(Duration::from_secs(3), || {
        a.netns().ip(&format!("link set {BRIDGE} type bridge fdb_flush"))?;
        let peer = peer(&daemons[0], "gw-b")?;
        ensure(peer["state"] == "up" && peer["trouble"].is_null() && peer["ups"] == 1, || format!("gw-b: {peer}"))
    })?;
    let traffic = traffic.wait(Duration::from_secs(20))?;
    ensure(traffic.stdout.contains(" 60 received") && !traffic.stdout.contains("duplicates"), || {
        traffic.stdout.clone()
    })?;
    let went_round = daemons[0].counter("/drops/own_datagram")?;
    let frames = from_port(&daemons[0])?;
    ensure(frames < FEW, || format!("{frames} frames came in by the port, {went_round} went round"))
}

/// A guest that has seen the wire sends what the gateway has sent there: it has lost a frame of its own, and no more.
pub(crate) fn forged() -> Outcome {
    let lab = Lab::builder().build()?;
    let daemons = lab.start_ipop()?;
    let (c0, c1) = pair(&lab)?;
    wait_ping(&c0, THERE)?;
    let datagram = captured(&lab, &c0)?;
    let port = RawPort::open(c0.netns(), c0.interface())?;
    let mut frame = [&c1.mac_bytes()?[..], &c0.mac_bytes()?, &datagram[12..]].concat();
    let before = daemons[0].counter("/drops/own_datagram")?;
    for _ in 0..1000 {
        port.send(&frame)?;
    }
    // The same for the gateway itself, and to all.
    frame[..6].fill(0xff);
    port.send(&frame)?;
    interrupt::wait_until("the forged frames to be counted", SOON, || {
        Ok((daemons[0].counter("/drops/own_datagram")? > before).then_some(()))
    })?;
    wait_log(&daemons[0], &["gw-b", "own_datagram", "ipop"])?;
    throughout(Duration::from_secs(2), || {
        let peer = peer(&daemons[0], "gw-b")?;
        ensure(peer["state"] == "up" && peer["trouble"].is_null() && peer["ups"] == 1, || format!("gw-b: {peer}"))
    })?;
    // One line, not a thousand.
    let lines = daemons[0].log().matches("own_datagram").count();
    ensure(lines == 1, || daemons[0].log())?;
    c0.ping(THERE, 5).map(drop).map_err(Failed::from)
}

/// A datagram of records from gw-a to gw-b, with its Ethernet header.
fn captured(lab: &Lab, c0: &Container) -> Result<Vec<u8>, Failed> {
    let mut wire = RawPort::open_for(lab.gateway(0).netns(), UPLINK, Direction::Both)?;
    let IpAddr::V4(to) = lab.gateway(1).underlay_ip() else { return Err("IPv4 is wanted".into()) };
    c0.ping(THERE, 3)?;
    // Version 3, records.
    let ours = |frame: &[u8]| frame.get(30..34) == Some(&to.octets()) && frame.get(42) == Some(&0x31);
    let (mut frames, found) = wire.capture_until(SOON, ours)?;
    frames.pop().filter(|_| found).ok_or("no datagram to gw-b was seen".into())
}
