//! How sealed sessions begin, follow each other and move, and what is said where none comes about.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use ipop_control::keys::PresharedKey;
use ipop_lab::{Daemon, RawPort, UPLINK};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::kit::{Outcome, Pair, THERE, ensure, failed_clearly, ipop, peer_state, says, until, with_logs};
use super::stream::Stream;
use super::tcp::Tcp;
use super::unharmed::{belief, unharmed};
use super::wire::{DATA, Forger, VERSION, datagram, payloads};

/// How many sessions there were with the first peer.
fn sessions(daemon: &Daemon) -> ipop_lab::Result<u64> {
    Ok(daemon.status("peers")?["peers"][0]["sessions"].as_u64().unwrap_or(0))
}

/// Keys change twenty times under load, asked for by either side and by both at once; every datagram arrives, once. Each
/// of two workers has numbers of its own in every session, and TCP its super-frames.
pub(crate) fn rekeys_under_load() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined_with(|config| config["workers"] = 2.into())?;
    let tcp = [Tcp::start(&pair.c0, &pair.c1)?, Tcp::start(&pair.c1, &pair.c0)?];
    let streams = [Stream::start(&pair.c0, &pair.c1, 3000)?, Stream::start(&pair.c1, &pair.c0, 3000)?];
    for round in 0..20 {
        let before = [sessions(&a)?, sessions(&b)?];
        for (daemon, is_asked) in [(&a, round % 3 != 1), (&b, round % 3 != 0)] {
            if is_asked {
                ensure(daemon.status("rekey")?["asked"] == 1, "the peer is not asked for new keys")?;
            }
        }
        let changed = until(&format!("rekey {round}"), Duration::from_secs(5), || {
            Ok(sessions(&a)? > before[0] && sessions(&b)? > before[1])
        });
        with_logs(changed, &[&a, &b])?;
    }
    for (stream, what) in streams.into_iter().zip(["there", "back"]) {
        stream.stop()?.whole(&format!("{what}, with 20 changes of keys"))?;
    }
    for (tcp, what) in tcp.into_iter().zip(["there", "back"]) {
        tcp.stop(&format!("TCP {what}, with 20 changes of keys"))?;
    }
    unharmed(&pair, "rekeys", [&mut a, &mut b])?;
    for daemon in [&a, &b] {
        for reason in ["not_authentic", "session_unknown", "replayed"] {
            ensure(daemon.counter(&format!("/drops/{reason}"))? == 0, format!("{reason} at {:?}", daemon.gateway()))?;
        }
        ensure(daemon.status("peers")?["peers"][0]["ups"] == 1, "the link went down meanwhile")?;
    }
    says("ipop rekey", &a.query("rekey", false).run()?, &["new keys", "1 peer"])?;
    b.kill();
    until("the peer to be gone", Duration::from_secs(25), || Ok(peer_state(&a, 0)? == "down"))?;
    says("ipop rekey", &a.query("rekey", false).run()?, &["no peer"])?;
    let output = ipop(pair.gateway(0), &["rekey", "--socket", "/nowhere/ipop.sock"])?.output()?;
    failed_clearly("ipop rekey", &output, &["no control socket"])
}

/// Both start at the same moment, again and again: they end with one session, whoever was first. One that crashes is back
/// soon, with a new session.
pub(crate) fn starts_and_crashes() -> Outcome {
    let pair = Pair::new()?;
    for round in 0..4 {
        let (a, mut b) = thread::scope(|scope| -> Result<(Daemon, Daemon), Failed> {
            let start = |index: usize| {
                let gateway = pair.gateway(index);
                scope.spawn(move || gateway.start_ipop(&gateway.config()))
            };
            let (a, b) = (start(0), start(1));
            let join = |thread: thread::ScopedJoinHandle<'_, ipop_lab::Result<Daemon>>| {
                thread.join().map_err(|_| Failed::from("a thread panicked"))
            };
            Ok((join(a)??, join(b)??))
        })?;
        let back = Duration::from_secs(2);
        with_logs(pair.traffic_within(&format!("after both started, {round}"), back), &[&a, &b])?;
        // Long enough for an initiation that is repeated.
        thread::sleep(Duration::from_millis(2200));
        let numbers = [sessions(&a)?, sessions(&b)?];
        with_logs(ensure(numbers == [1, 1], format!("{numbers:?} sessions after a start")), &[&a, &b])?;
        if round % 2 == 0 {
            b.kill();
            b = pair.gateway(1).start_ipop(&pair.gateway(1).config())?;
            with_logs(pair.traffic_within(&format!("after a crash, {round}"), back), &[&a, &b])?;
            thread::sleep(Duration::from_millis(2200));
            let numbers = [sessions(&a)?, sessions(&b)?];
            with_logs(ensure(numbers == [2, 1], format!("{numbers:?} sessions after a crash")), &[&a, &b])?;
            says("gw-a's log", &a.log(), &["peer gw-b has restarted"])?;
            // For gw-a the link has not been down, and yet the path may be another.
            for daemon in [&a, &b] {
                let found = || Ok(daemon.status("peers")?["peers"][0]["path_mtu"] == 1500);
                with_logs(until("the path MTU after a crash", Duration::from_secs(3), found), &[&a, &b])?;
            }
        }
        ensure(a.stop()?.success() && b.stop()?.success(), "one ended badly")?;
    }
    Ok(())
}

/// gw-b gets another address while traffic flows; gw-a follows, and follows nobody else.
pub(crate) fn roaming() -> Outcome {
    let pair = Pair::new()?;
    let mut config = pair.gateway(1).config();
    config["listen"] = "0.0.0.0:5800".into();
    let mut a = pair.gateway(0).start_ipop(&pair.gateway(0).config())?;
    let mut b = pair.gateway(1).start_ipop(&config)?;
    for daemon in [&a, &b] {
        daemon.wait_peers_up(Duration::from_secs(5))?;
    }
    pair.c0.ping(THERE, 1)?;
    let address = || -> ipop_lab::Result<Value> { Ok(a.status("peers")?["peers"][0]["address"].clone()) };
    ensure(address()? == "10.99.0.2:5800", "where the peer is at first")?;
    let mut uplink = RawPort::open(pair.gateway(0).netns(), UPLINK)?;
    let streams = [Stream::start(&pair.c0, &pair.c1, 500)?, Stream::start(&pair.c1, &pair.c0, 500)?];
    for host in [22, 23, 2] {
        let netns = pair.gateway(1).netns();
        netns.ip(&format!("address flush dev {UPLINK}"))?;
        netns.ip(&format!("address add 10.99.0.{host}/24 dev {UPLINK}"))?;
        let there = format!("10.99.0.{host}:5800");
        with_logs(until(&there, Duration::from_secs(2), || Ok(address()? == there.as_str())), &[&a, &b])?;
        pair.traffic_within(&format!("from {there}"), Duration::from_secs(2))?;
        // Longer than what is lost, so that it shows if the rest passes.
        thread::sleep(Duration::from_secs(1));
    }
    for stream in streams {
        // What is sent while there is no address is lost.
        let tally = stream.stop()?;
        tally.genuine("while the peer moves")?;
        ensure(tally.missing < tally.sent as usize / 3, format!("too much is lost: {tally:?}"))?;
    }
    says("gw-a's log", &a.log(), &["peer gw-b has moved from 10.99.0.2:5800 to 10.99.0.22:5800"])?;
    // Somebody else at a third address, with what was recorded and with what is made up.
    let frames = uplink.capture(Duration::from_millis(50))?;
    let recorded = payloads(&frames, "10.99.0.2:5800".parse()?);
    let newest = recorded.iter().rfind(|payload| payload[0] == VERSION | DATA).ok_or("nothing was recorded")?;
    let session = u32::from_be_bytes([newest[4], newest[5], newest[6], newest[7]]);
    let forger = Forger::new(pair.gateway(1), pair.gateway(0))?;
    let before = belief(&a)?;
    let third: SocketAddr = "10.99.0.66:5800".parse()?;
    for number in 0..200 {
        forger.send(third, newest)?;
        forger.send(third, &datagram(DATA, session, 0, 1 << 20 | number, &[7; 40]))?;
    }
    until("all to be refused", Duration::from_secs(2), || {
        Ok(a.counter("/drops/replayed")? >= 200 && a.counter("/drops/not_authentic")? >= 200)
    })?;
    ensure(belief(&a)? == before, format!("{before} became {}", belief(&a)?))?;
    ensure(a.status("peers")?["peers"][0]["sessions"] == 1, "a move took another session")?;
    unharmed(&pair, "roaming", [&mut a, &mut b])
}

/// Starts both with what `change` makes of their configs; no link may come about within some seconds.
fn never_up(pair: &Pair, change: impl Fn(usize, &mut Value)) -> Result<(Daemon, Daemon), Failed> {
    let start = |index: usize| {
        let mut config = pair.gateway(index).config();
        change(index, &mut config);
        pair.gateway(index).start_ipop(&config)
    };
    let (a, b) = (start(0)?, start(1)?);
    thread::sleep(Duration::from_secs(4));
    for daemon in [&a, &b] {
        let peer = daemon.status("peers")?["peers"][0].clone();
        ensure(peer["state"] == "down" && peer["ups"] == 0, format!("{peer} at {}", daemon.gateway().name()))?;
    }
    let ping = pair.c0.exec(["ping", "-n", "-c2", "-i0.3", "-W0.5", THERE])?;
    ensure(!ping.success(), format!("a ping passes: {}", ping.stdout))?;
    Ok((a, b))
}

fn said_once(daemon: &Daemon, parts: &[&str]) -> Outcome {
    let (name, log) = (daemon.gateway().name(), daemon.log());
    let lines: Vec<&str> = log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).collect();
    ensure(lines.len() == 1, format!("{name}: {} lines with {parts:?}: {log}", lines.len()))
}

/// One side sealed, the other in clear text: both say so.
pub(crate) fn sec_differs() -> Outcome {
    let pair = Pair::new()?;
    let (a, b) = never_up(&pair, |index, config| {
        if index == 1 {
            config["sec"] = false.into();
        }
    })?;
    said_once(&a, &["peer gw-b (10.99.0.2:5800) stays down", "\"sec\" must be the same on both gateways"])?;
    said_once(&b, &["peer gw-a (10.99.0.1:5800) stays down", "\"sec\" must be the same on both gateways"])
}

/// The same preshared key opens the link, another one or none on one side does not.
pub(crate) fn preshared_keys() -> Outcome {
    let pair = Pair::new()?;
    let paths = ["one", "other"].map(|name| pair.lab.lab_run().dir().join(name));
    for path in &paths {
        PresharedKey::generate()?.create(path)?;
    }
    let with = |config: &mut Value, path: &std::path::Path| {
        config["peers"][0]["preshared_key_file"] = json!(path.display().to_string());
    };
    {
        let start = |index: usize| {
            let mut config = pair.gateway(index).config();
            with(&mut config, &paths[0]);
            pair.gateway(index).start_ipop(&config)
        };
        let (a, b) = (start(0)?, start(1)?);
        with_logs(pair.traffic_within("with the same preshared key", Duration::from_secs(3)), &[&a, &b])?;
    }
    for (what, second) in [("different", Some(1)), ("only one", None)] {
        let (a, b) = never_up(&pair, |index, config| match (index, second) {
            (0, _) => with(config, &paths[0]),
            (_, Some(other)) => with(config, &paths[other]),
            _ => {}
        })?;
        // The one that asked is the one that can tell; which of them is a matter of their keys.
        let logs = a.log() + &b.log();
        let lines = logs.lines().filter(|line| line.contains("\"preshared_key_file\" must be the same")).count();
        ensure((1..=2).contains(&lines), format!("{what}: {lines} lines say what is the matter: {logs}"))?;
    }
    Ok(())
}
