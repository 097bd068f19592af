//! A peer that is down says why, in the log and in `ipop peers`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipop_control::keys::{PresharedKey, PrivateKey};
use ipop_control::link::noise::{Initiator, Introduction};
use ipop_dataplane::datagram::{CONTROL_LANE, DATAGRAM_HEADER_LEN, INITIATION, VERSION};
use ipop_dataplane::session::Gate;
use ipop_lab::{Daemon, udp_socket};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::kit::{Outcome, Pair, SOON, ensure, log_says, until};

/// Waits until this is why the first peer is down, and gives the sentence.
fn down_for(daemon: &Daemon, reason: &str) -> Result<String, Failed> {
    let what = format!("{} to say {reason}", daemon.gateway().name());
    let peer = || Ok::<_, Failed>(daemon.status("peers")?["peers"][0].clone());
    let said = until(&what, SOON, || Ok(peer()?["trouble"] == reason));
    said.map_err(|_| format!("waited in vain for {what}: {:?}\n{}", peer().map(|p| p.to_string()), daemon.log()))?;
    let peer = peer()?;
    ensure(peer["state"] == "down", peer.to_string())?;
    let sentence = peer["trouble_text"].as_str().unwrap_or_default().to_owned();
    let table = daemon.query("peers", false).run()?;
    let name = peer["name"].as_str().unwrap_or_default();
    ensure(table.contains(&format!("{name} is down: {sentence}")), table)?;
    log_says(daemon, &[&format!("peer {name} ("), "stays down", &sentence])?;
    Ok(sentence)
}

/// The kernel has no way there.
pub(crate) fn no_route() -> Outcome {
    let pair = Pair::new()?;
    let a = pair.start(0, |config| config["peers"][0]["address"] = "192.0.2.9:5800".into())?;
    let sentence = down_for(&a, "unreachable")?;
    ensure(sentence.contains("Network is unreachable"), sentence)?;
    // As soon as there is a way it is no more the reason.
    pair.gateway(0).netns().ip("route add 192.0.2.9/32 via 10.99.0.2")?;
    until("the reason to end", SOON, || Ok(a.status("peers")?["peers"][0]["trouble"] != "unreachable"))
}

/// Nothing comes, of somebody who listens, and then of nobody.
pub(crate) fn nobody_there() -> Outcome {
    let pair = Pair::new()?;
    let a = pair.start(0, |_| ())?;
    let silent = udp_socket(pair.gateway(1).netns(), pair.gateway(1).endpoint(), SOON)?;
    down_for(&a, "unheard")?;
    drop(silent);
    down_for(&a, "refused")?;
    // It is no reason any more when the peer comes.
    let _b = pair.start(1, |_| ())?;
    a.wait_peers_up(SOON)?;
    let peer = a.status("peers")?["peers"][0].clone();
    ensure(peer["trouble"].is_null() && peer["trouble_text"].is_null(), peer.to_string())
}

pub(crate) fn network() -> Outcome {
    let pair = Pair::new()?;
    let a = pair.start(0, |config| config["network"] = 7.into())?;
    let b = pair.start(1, |config| config["network"] = 9.into())?;
    for (daemon, theirs) in [(&a, "network 9"), (&b, "network 7")] {
        let sentence = down_for(daemon, "network")?;
        ensure(sentence.contains(theirs), sentence)?;
    }
    Ok(())
}

pub(crate) fn sec() -> Outcome {
    let pair = Pair::new()?;
    let a = pair.start(0, |_| ())?;
    let b = pair.start(1, |config| config["sec"] = false.into())?;
    down_for(&a, "sec")?;
    down_for(&b, "sec").map(drop)
}

/// Something at the peer's address that speaks another version.
pub(crate) fn version() -> Outcome {
    let pair = Pair::new()?;
    let a = pair.start(0, |_| ())?;
    let socket = udp_socket(pair.gateway(1).netns(), pair.gateway(1).endpoint(), SOON)?;
    let mut datagram = vec![0; 216];
    datagram[0] = (VERSION + 1) << 4 | INITIATION;
    let target = pair.gateway(0).endpoint();
    until("the version to be told", SOON, || {
        socket.send_to(&datagram, target)?;
        Ok(a.status("peers")?["peers"][0]["trouble"] == "version")
    })?;
    let sentence = down_for(&a, "version")?;
    ensure(sentence.contains(&format!("version {} of the protocol", VERSION + 1)), sentence)
}

/// gw-b has made a new key, and gw-a does not know it.
pub(crate) fn key() -> Outcome {
    let pair = Pair::new()?;
    let path = pair.lab.lab_run().dir().join("new.key");
    let key = PrivateKey::generate()?;
    key.create(&path)?;
    let a = pair.start(0, |_| ())?;
    let b = pair.start(1, |config| config["private_key_file"] = path.display().to_string().into())?;
    let sentence = down_for(&a, "unknown_key")?;
    ensure(sentence.contains(&key.public().to_string()), sentence)?;
    down_for(&b, "made_for_another_key").map(drop)
}

pub(crate) fn preshared_key() -> Outcome {
    let pair = Pair::new()?;
    let with = |config: &mut Value, name: &str| -> Outcome {
        let path = pair.lab.lab_run().dir().join(name);
        PresharedKey::generate()?.create(&path)?;
        config["peers"][0]["preshared_key_file"] = json!(path.display().to_string());
        Ok(())
    };
    let [a, b] = [0, 1].map(|index| {
        let mut config = pair.gateway(index).config();
        with(&mut config, &format!("shared-{index}"))?;
        Ok::<_, Failed>(pair.gateway(index).start_ipop(&config)?)
    });
    let (a, b) = (a?, b?);
    for daemon in [&a, &b] {
        down_for(daemon, "preshared_key")?;
    }
    Ok(())
}

/// The peer has started again with a clock that is an hour behind, and cannot be called itself.
pub(crate) fn clock() -> Outcome {
    let pair = Pair::new()?;
    let a = pair.start(0, |_| ())?;
    let socket = udp_socket(pair.gateway(1).netns(), pair.gateway(1).endpoint(), SOON)?;
    let (config, target) = (pair.gateway(1).config(), pair.gateway(0).endpoint());
    let key = PrivateKey::load(std::path::Path::new(config["private_key_file"].as_str().unwrap_or_default()))?;
    let peer = config["peers"][0]["public_key"].as_str().unwrap_or_default().parse()?;
    let call = |before: Duration, life: u64| -> Outcome {
        let time = SystemTime::now().duration_since(UNIX_EPOCH)? - before;
        let introduction = Introduction::new(time.as_nanos() as u64, life, 1 << 16, "gw-b");
        let (_, message) = Initiator::begin(&key, &peer, None, 0, &introduction)?;
        let mut header = [0; DATAGRAM_HEADER_LEN];
        (header[0], header[8]) = (VERSION << 4 | INITIATION, CONTROL_LANE);
        let mut datagram = [&header, message.as_slice()].concat();
        Gate::of(peer.as_bytes()).stamp(&mut datagram);
        socket.send_to(&datagram, target)?;
        Ok(())
    };
    call(Duration::ZERO, 1)?;
    until("the reason", SOON, || {
        call(Duration::from_secs(3600), 2)?;
        Ok(a.status("peers")?["peers"][0]["trouble"] == "clock")
    })?;
    let sentence = down_for(&a, "clock")?;
    ensure(["by 3600 s", "by 3599 s", "by 3601 s"].iter().any(|text| sentence.contains(text)), sentence)
}

/// Gateways that both begin at once have nothing to be alarmed at.
pub(crate) fn healthy() -> Outcome {
    let pair = Pair::new()?;
    for _ in 0..4 {
        let daemons = pair.lab.start_ipop()?;
        pair.traffic()?;
        for daemon in &daemons {
            let drops = daemon.status("status")?["drops"].clone();
            ensure(drops["handshake_refused"] == 0 && drops["handshake_stamp"] == 0, drops.to_string())?;
            daemon.order(&["rekey"]).run()?;
        }
        for daemon in &daemons {
            let sessions = || Ok::<_, Failed>(daemon.status("peers")?["peers"][0]["sessions"].as_u64());
            until("new keys", SOON, || Ok(sessions()? >= Some(2)))?;
            let drops = daemon.status("status")?["drops"].clone();
            ensure(drops["handshake_refused"] == 0, format!("with new keys: {drops}"))?;
        }
    }
    Ok(())
}
