//! How the program starts and ends, and what it survives.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ipop_lab::{BRIDGE, Gateway, TAP, interrupt, tool};
use nix::sys::signal::Signal;

use super::kit::{
    HERE, Outcome, Pair, THERE, ensure, has_link, master, peer_state, refused, says, start, until, with_logs,
};

/// Traffic must be back within this time of a daemon's being ready.
const BACK: Duration = Duration::from_secs(2);

/// What `ipop run` makes is there while it runs, and gone after either signal; the peer is told.
pub(crate) fn comes_and_goes() -> Outcome {
    let pair = Pair::new()?;
    let gateway = pair.gateway(0);
    let b = pair.gateway(1).start_ipop(&pair.gateway(1).config())?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let config = gateway.config();
        let socket = config["control_socket"].as_str().unwrap_or_default().to_owned();
        let mut process = start(&pair.lab, gateway, "own", &config)?;
        b.wait_peers_up(Duration::from_secs(5))?;
        ensure(master(gateway, TAP)? == BRIDGE, "the TAP is no port of the bridge")?;
        let mode = std::fs::metadata(&socket)?.permissions().mode() & 0o777;
        ensure(mode == 0o660, format!("the socket has mode {mode:o}"))?;
        pair.traffic_within("after the start", BACK)?;
        process.signal(signal)?;
        let output = process.wait(Duration::from_secs(3))?;
        ensure(output.status.code() == Some(0), format!("{signal}: {}: {}", output.status, output.stderr))?;
        ensure(!has_link(gateway, TAP)?, format!("{signal}: the TAP is still there"))?;
        ensure(!std::path::Path::new(&socket).exists(), format!("{signal}: the socket is still there"))?;
        // Well before the silence would tell.
        until("the peer to notice the goodbye", Duration::from_secs(1), || Ok(peer_state(&b, 0)? == "down"))?;
        says("gw-b's log", &b.log(), &["gw-a is down: it said goodbye"])?;
    }
    Ok(())
}

/// Without "bridge" it is for a person to attach the TAP, as on IPOP's page.
pub(crate) fn attached_by_hand() -> Outcome {
    let pair = Pair::new()?;
    let mut config = pair.gateway(0).config();
    config.as_object_mut().ok_or("no object")?.remove("bridge");
    let a = pair.gateway(0).start_ipop(&config)?;
    let b = pair.gateway(1).start_ipop(&pair.gateway(1).config())?;
    b.wait_peers_up(Duration::from_secs(5))?;
    ensure(master(pair.gateway(0), TAP)?.is_empty(), "it attached the TAP to a bridge that nobody named")?;
    ensure(a.status("status")?["port"]["bridge"].is_null(), "the status names a bridge")?;
    ensure(!pair.c0.exec(["ping", "-c1", "-W0.5", THERE])?.success(), "a ping passes without the TAP")?;
    if tool("brctl").is_some() {
        pair.gateway(0).run(["brctl", "addif", BRIDGE, TAP])?;
    } else {
        pair.gateway(0).run(["ip", "link", "set", TAP, "master", BRIDGE])?;
    }
    pair.traffic_within("after brctl", Duration::from_secs(4))?;
    ensure(a.status("status")?["port"]["bridge"] == BRIDGE, "the status does not name the bridge")
}

/// A peer that is not there yet is no error, and is noticed when it comes.
pub(crate) fn late_peer() -> Outcome {
    let pair = Pair::new()?;
    let mut a = pair.gateway(0).start_ipop(&pair.gateway(0).config())?;
    // Frames for nobody, among them.
    ensure(!pair.c0.exec(["ping", "-c2", "-i0.2", "-W0.5", THERE])?.success(), "a ping without a peer")?;
    ensure(peer_state(&a, 0)? == "down", "the peer is not there, but up")?;
    ensure(a.is_running(), "it ended")?;
    let _b = pair.gateway(1).start_ipop(&pair.gateway(1).config())?;
    pair.traffic_within("once the peer is there", BACK + Duration::from_secs(1))?;
    Ok(())
}

/// A crash of either side: traffic is back soon after the program is.
pub(crate) fn killed_and_restarted() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined()?;
    for round in 0..2 {
        b.kill();
        released(pair.gateway(1))?;
        b = pair.gateway(1).start_ipop(&pair.gateway(1).config())?;
        with_logs(pair.traffic_within(&format!("after gw-b's crash {round}"), BACK), &[&a, &b])?;
        a.kill();
        released(pair.gateway(0))?;
        a = pair.gateway(0).start_ipop(&pair.gateway(0).config())?;
        with_logs(pair.traffic_within(&format!("after gw-a's crash {round}"), BACK), &[&a, &b])?;
    }
    ensure(a.stop()?.success(), "gw-a ended badly")?;
    let a = pair.gateway(0).start_ipop(&pair.gateway(0).config())?;
    pair.traffic_within("after an orderly restart", BACK)?;
    drop(a);
    ensure(b.is_running(), "gw-b did not survive")
}

/// The kernel takes a moment to end the ring of a killed process, which holds TAP and socket.
fn released(gateway: &Gateway) -> Outcome {
    until("the kernel to let go of the killed one's port", Duration::from_secs(3), || {
        let sockets = gateway.run(["ss", "-Hunl", "sport", "=", ":5800"])?;
        Ok(sockets.trim().is_empty() && !has_link(gateway, TAP)?)
    })
}

/// A supervisor starts it again at once: it waits for that moment by itself.
pub(crate) fn restarted_at_once() -> Outcome {
    let (pair, a, b) = Pair::joined()?;
    b.kill();
    let b = pair.gateway(1).start_ipop(&pair.gateway(1).config())?;
    let soon = BACK + Duration::from_secs(1);
    with_logs(pair.traffic_within("after a restart without a pause", soon), &[&a, &b])?;
    Ok(())
}

/// Ports and cables that go down and come back.
pub(crate) fn ports_and_cables() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined()?;
    for (what, gateway) in [("the peer's TAP", 1), ("the own TAP", 0)] {
        let gateway = pair.gateway(gateway);
        gateway.run(["ip", "link", "set", TAP, "down"])?;
        ensure(!pair.c0.exec(["ping", "-c1", "-W0.5", THERE])?.success(), format!("{what} is down, yet a ping"))?;
        gateway.run(["ip", "link", "set", TAP, "up"])?;
        pair.traffic_within(&format!("after {what} was down"), Duration::from_secs(3))?;
    }
    pair.gateway(1).set_underlay(false)?;
    ensure(!pair.c0.exec(["ping", "-c3", "-i0.5", "-W0.5", THERE])?.success(), "a ping without a cable")?;
    interrupt::sleep(Duration::from_secs(1))?;
    pair.gateway(1).set_underlay(true)?;
    pair.traffic_within("after the cable is back", Duration::from_secs(4))?;
    ensure(a.is_running() && b.is_running(), "a daemon ended")
}

/// A second instance is refused, says what the two cannot share, and does the first one no harm.
pub(crate) fn two_instances() -> Outcome {
    let (pair, mut a, _b) = Pair::joined()?;
    let gateway = pair.gateway(0);
    let first = gateway.config();
    let dir = pair.lab.lab_run().dir().display().to_string();
    for (what, own, part) in [
        ("tap", ["listen", "control_socket"], "'ipop' exists already"),
        ("listen", ["tap", "control_socket"], "UDP 10.99.0.1:5800 is in use"),
        ("control_socket", ["tap", "listen"], "gw-a/ipop.sock"),
    ] {
        let mut config = first.clone();
        for key in own {
            config[key] = match key {
                "tap" => "ipop2".into(),
                "listen" => "10.99.0.1:5801".into(),
                _ => format!("{dir}/second.sock").into(),
            };
        }
        refused(&pair.lab, gateway, &format!("second-{what}"), &config, &[part])?;
        ensure(!has_link(gateway, "ipop2")?, format!("{what}: the second one's TAP is left"))?;
        let left = std::path::Path::new(&format!("{dir}/second.sock")).exists();
        ensure(!left, format!("{what}: the second one's socket is left"))?;
        ensure(a.is_running(), format!("{what}: the first one ended"))?;
        ensure(a.status("status").is_ok(), format!("{what}: the first one's socket is dead"))?;
        ensure(master(gateway, TAP)? == BRIDGE, format!("{what}: the first one's TAP left the bridge"))?;
        pair.c0.ping(THERE, 1)?;
    }
    // With several queues the kernel would let a second process join the device or the port.
    let mut config = first;
    config["workers"] = 2.into();
    config["control_socket"] = format!("{dir}/second.sock").into();
    refused(&pair.lab, gateway, "second-workers", &config, &["'ipop' exists already"])?;
    config["tap"] = "ipop2".into();
    refused(&pair.lab, gateway, "second-workers-port", &config, &["UDP 10.99.0.1:5800 is in use"])?;
    pair.c1.ping(HERE, 1)?;
    Ok(())
}

/// What makes a start impossible is named.
pub(crate) fn impossible_starts() -> Outcome {
    let pair = Pair::new()?;
    let gateway = pair.gateway(0);
    for (key, value, parts) in [
        ("bridge", "eth0", ["'eth0' is not a bridge", "\"bridge\""]),
        ("tap", "eth0", ["'eth0'", "\"tap\""]),
        ("control_socket", "/proc/nowhere/ipop.sock", ["control socket", "/proc/nowhere/ipop.sock"]),
        ("control_socket", "/etc/hostname", ["/etc/hostname", "not a socket"]),
    ] {
        let mut config = gateway.config();
        config[key] = value.into();
        refused(&pair.lab, gateway, &format!("impossible-{key}"), &config, &parts)?;
        ensure(!has_link(gateway, TAP)?, format!("{key} {value}: the TAP is left"))?;
    }
    let socket = gateway.config()["control_socket"].as_str().unwrap_or_default().to_owned();
    ensure(!std::path::Path::new(&socket).exists(), "a control socket is left")
}

/// lxc-net that restarts deletes the bridge and makes it anew.
pub(crate) fn bridge_made_anew() -> Outcome {
    let (pair, mut a, _b) = Pair::joined()?;
    let gateway = pair.gateway(0);
    gateway.run(["ip", "link", "del", BRIDGE])?;
    until("the loss of the bridge to be logged", Duration::from_secs(3), || {
        Ok(a.log().contains("there is no bridge 'lxcbr0'"))
    })?;
    ensure(a.is_running(), "it ended with the bridge")?;
    gateway.run(["ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"])?;
    gateway.run(["ip", "link", "set", BRIDGE, "up"])?;
    gateway.run(["ip", "link", "set", &pair.c0.port(), "master", BRIDGE, "up"])?;
    until("the TAP to be attached again", Duration::from_secs(3), || Ok(master(gateway, TAP)? == BRIDGE))?;
    pair.traffic_within("through the new bridge", Duration::from_secs(3))?;
    until("the log to say so", Duration::from_secs(2), || Ok(a.log().contains("is a port of lxcbr0 now")))
}

/// Without "bridge" it has no right to make its port anew, and without a port it is of no use: it ends and says why.
pub(crate) fn tap_deleted() -> Outcome {
    let pair = Pair::new()?;
    let gateway = pair.gateway(0);
    let mut config = gateway.config();
    config.as_object_mut().ok_or("no object")?.remove("bridge");
    let socket = config["control_socket"].as_str().unwrap_or_default().to_owned();
    let process = start(&pair.lab, gateway, "deleted", &config)?;
    until("the control socket", Duration::from_secs(5), || Ok(std::path::Path::new(&socket).exists()))?;
    gateway.run(["ip", "link", "del", TAP])?;
    let output = process.wait(Duration::from_secs(5))?;
    super::kit::failed_clearly("the TAP is deleted", &output, &["TAP device", "deleted", "CAP_NET_ADMIN"])?;
    ensure(!std::path::Path::new(&socket).exists(), "the control socket is left")
}

/// Started by somebody who may not: the error says what is missing.
pub(crate) fn no_permission() -> Outcome {
    let pair = Pair::new()?;
    let open = ipop_lab::OpenDir::new(pair.lab.lab_run())?;
    let mut config = pair.gateway(0).config();
    // Its key file is root's.
    config["sec"] = false.into();
    config["control_socket"] = open.path().join("ipop.sock").display().to_string().into();
    let path = open.path().join("config.json");
    std::fs::write(&path, config.to_string())?;
    // The program may lie where only root can go.
    let program = open.path().join("ipop");
    std::fs::copy(ipop_lab::ipop_binary()?, &program)?;
    let (program, path) = (program.display().to_string(), path.display().to_string());
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let run = nobody.into_iter().chain([program.as_str(), "run", "--config", &path]);
    let output = pair.gateway(0).exec(run)?;
    super::kit::failed_clearly("nobody", &output, &["not permitted", "'ipop'", "CAP_NET_ADMIN"])?;
    // Nor may nobody ask a gateway that root runs.
    let a = pair.gateway(0).start_ipop(&pair.gateway(0).config())?;
    let socket = open.path().join("link.sock");
    std::fs::hard_link(a.socket(), &socket).or_else(|_| std::os::unix::fs::symlink(a.socket(), &socket))?;
    let socket = socket.display().to_string();
    let output = pair.gateway(0).exec(nobody.into_iter().chain([program.as_str(), "status", "--socket", &socket]))?;
    super::kit::failed_clearly("nobody asks", &output, &["not permitted", "run as root"])
}

/// A peer that neither speaks nor says goodbye: its silence ends the link, its first word brings it back.
pub(crate) fn silent_peer() -> Outcome {
    let (pair, a, mut b) = Pair::joined()?;
    b.signal(Signal::SIGSTOP)?;
    let noticed = until("the silence to be noticed", Duration::from_secs(25), || Ok(peer_state(&a, 0)? == "down"));
    b.signal(Signal::SIGCONT)?;
    noticed?;
    says("gw-a's log", &a.log(), &["gw-b is down: it is silent"])?;
    pair.traffic_within("after the silence", Duration::from_secs(4))?;
    ensure(a.status("peers")?["peers"][0]["ups"] == 2, "the link did not come up anew")
}

/// Several workers share the port and the address; nothing of theirs is left either.
pub(crate) fn several_workers() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined_with(|config| config["workers"] = 2.into())?;
    pair.traffic_within("with two workers", BACK)?;
    pair.c0.ping(THERE, 5)?;
    ensure(a.status("status")?["workers"].as_array().is_some_and(|list| list.len() == 2), "not two workers")?;
    ensure(a.is_running() && b.is_running(), "one ended")?;
    ensure(a.stop()?.success() && b.stop()?.success(), "one ended badly")?;
    ensure(!has_link(pair.gateway(0), TAP)?, "the TAP is still there")
}
