//! A peer that speaks for addresses of others, without having been asked. Those who use the addresses notice nothing.

use ipop_lab::Lab;
use ipop_lab::arp::format_mac;
use serde_json::{Value, json};

use super::kit::{Outcome, Scene, THIEF, ensure, pause};
use super::peer::Peer;
use super::talk::ping;

const A2: [&str; 2] = ["10.0.3.12", "fd03::12"];
const B1: [&str; 2] = ["10.0.3.21", "fd03::21"];

/// That the address has the thief's MAC. `announcement` is what gateways say where nobody has asked.
fn claim(address: &str, announcement: Option<&str>) -> Value {
    let mac = format_mac(THIEF);
    let mut claim = match address.contains(':') {
        false => json!({"msg_type": "arp_reply", "target_ip4": address, "mac": mac, "uid": "x", "seq": 0}),
        true => json!({"msg_type": "nd_reply", "target_ip6": address, "mac": mac, "uid": "x", "seq": 0}),
    };
    if let Some(kind) = announcement {
        claim["announcement"] = kind.into();
    }
    claim
}

/// Says so in every way that there is.
fn announce(peer: &mut Peer) -> Outcome {
    for address in A2 {
        for kind in ["request", "reply"] {
            peer.say("gw-a", &claim(address, Some(kind)))?;
        }
    }
    Ok(())
}

/// Nothing was ever heard of the addresses: their owner is on gw-a's own side, and has not said a word with them.
pub(crate) fn announced_unasked() -> Outcome {
    let (scene, mut peer) = Scene::with_peer(&Lab::builder(), |_| {})?;
    let a1 = scene.container(0, "a1", &["10.0.3.11/24", "fd03::11/64"])?;
    let _a2 = scene.container(0, "a2", &["10.0.3.12/24", "fd03::12/64"])?;
    for _ in 0..3 {
        announce(&mut peer)?;
        pause(300)?;
    }
    for address in A2 {
        ping(&a1, address, 10, 0.1)?.whole(&format!("a1 to {address}, which a peer has announced before"))?;
    }
    nothing_stolen(&scene, &mut peer)
}

/// gw-a still knows nothing of the addresses, but two guests on its own bridge use them. What is repeated into the segment
/// changes the caches of both.
pub(crate) fn announced_in_use() -> Outcome {
    let (scene, mut peer) = Scene::with_peer(&Lab::builder(), |_| {})?;
    let a1 = scene.container(0, "a1", &["10.0.3.11/24", "fd03::11/64"])?;
    let _a2 = scene.container(0, "a2", &["10.0.3.12/24", "fd03::12/64"])?;
    let pings = A2.map(|address| format!("ping -n -q -c150 -i0.02 -W1 {address}"));
    let pings = pings.map(|line| a1.spawn(line.split_whitespace()));
    // A kernel does not believe a second answer within a second of the first (`locktime`).
    pause(1200)?;
    for _ in 0..5 {
        announce(&mut peer)?;
        pause(300)?;
    }
    for process in pings {
        let output = process?.wait(std::time::Duration::from_secs(10))?;
        println!("{}", output.stdout.trim());
        ensure(output.stdout.contains(" 0% packet loss"), format!("a1 to a2: {}", output.stdout))?;
    }
    nothing_stolen(&scene, &mut peer)
}

fn nothing_stolen(scene: &Scene, peer: &mut Peer) -> Outcome {
    let stolen = peer.frames_for(THIEF)?;
    ensure(stolen == 0, format!("{stolen} frames for a2 came to the peer"))?;
    scene.await_count(0, "refused/ip_is_here", 1)
}

/// Answers that nobody waits for, as if they were late: for an address of gw-a's own side, and for one of a third gateway,
/// neither of which gw-a knows.
pub(crate) fn answered_unasked() -> Outcome {
    let (scene, mut peer) = Scene::with_peer(&Lab::builder(), |_| {})?;
    let a1 = scene.container(0, "a1", &["10.0.3.11/24", "fd03::11/64"])?;
    let _a2 = scene.container(0, "a2", &["10.0.3.12/24", "fd03::12/64"])?;
    let _b1 = scene.container(1, "b1", &["10.0.3.21/24", "fd03::21/64"])?;
    for asker in [None, Some(a1.mac())] {
        for address in A2.into_iter().chain(B1) {
            let mut answer = claim(address, None);
            if let Some(mac) = asker {
                answer["asker_mac"] = mac.into();
            }
            peer.say("gw-a", &answer)?;
        }
        pause(300)?;
    }
    let mut lost = Vec::new();
    for address in A2.into_iter().chain(B1) {
        let pinged = ping(&a1, address, 10, 0.1)?;
        if pinged.received < pinged.sent {
            lost.push(format!("{address}: {pinged:?}"));
        }
    }
    println!("{} frames came to the peer", peer.frames_for(THIEF)?);
    ensure(lost.is_empty(), format!("a1 does not reach {lost:?}"))
}
