//! A peer that claims a MAC which lives behind another gateway: by a message, and by frames. Nothing for it comes to the
//! peer, and the one who is robbed notices nothing.

use std::thread;
use std::time::{Duration, Instant};

use ipop_lab::arp::format_mac;
use ipop_lab::{Builder, Container, Lab};
use serde_json::json;

use super::kit::{Outcome, SOON, Scene, ensure, pause, until};
use super::peer::Peer;
use super::talk::{Count, Talk, data};

/// Frames per second of a bystander to the MAC that is claimed.
const TO_VICTIM: u32 = 500;

/// Guests that say nothing before the test does.
fn silent() -> Builder {
    Lab::builder().without_inner_ipv6()
}

/// Only gw-a hears the claim; gw-b, where the MAC is, can say what is true.
pub(crate) fn told_to_third() -> Outcome {
    let (scene, mut peer) = Scene::with_peer(&silent(), |_| {})?;
    told(&scene, &mut peer, &["gw-a"])?;
    scene.await_count(0, "refused/mac_is_there", 1)
}

/// gw-b hears it too, and knows better.
pub(crate) fn told_to_all() -> Outcome {
    let (scene, mut peer) = Scene::with_peer(&silent(), |_| {})?;
    told(&scene, &mut peer, &["gw-a", "gw-b"])?;
    scene.await_count(0, "refused/mac_is_there", 1)?;
    scene.await_count(1, "refused/mac_is_here", 1)
}

fn told(scene: &Scene, peer: &mut Peer, listeners: &[&str]) -> Outcome {
    let a1 = scene.container(0, "a1", &["10.0.3.11/24"])?;
    let b1 = scene.container(1, "b1", &["10.0.3.21/24"])?;
    let mac = b1.mac_bytes()?;
    a1.ping("10.0.3.21", 2)?;
    undisturbed(peer, &a1, &b1, 50, |peer| {
        pause(500)?;
        for _ in 0..4 {
            let moves = scene.moves_of(mac)?;
            for listener in listeners {
                peer.say(listener, &json!({"msg_type": "mac_moved", "mac": format_mac(mac), "seq": moves + 1}))?;
            }
            pause(1500)?;
        }
        Ok(())
    })?;
    scene.log_says(0, &["gw-c", &format_mac(mac)])
}

/// A few frames per second bear the source of a station that sends many. The peer has had another session before, so what was
/// learned of its first one must not speak for it; and they begin while the station is new, when a gateway that tells of each
/// source once in a while has just told of it.
pub(crate) fn frames() -> Outcome {
    let (scene, mut peer) = Scene::with_peer(&silent(), |_| {})?;
    for gateway in ["gw-a", "gw-b"] {
        peer.part(gateway)?;
    }
    for daemon in &scene.daemons {
        until("the peer to be back", SOON, || Ok(daemon.status("peers")?["peers"][1]["ups"] == 2))?;
    }
    scene.wait_peers_up()?;
    let a1 = scene.container(0, "a1", &["10.0.3.11/24"])?;
    let c9 = scene.container(1, "c9", &["10.0.3.39/24"])?;
    let forged = data(a1.mac_bytes()?, c9.mac_bytes()?);
    undisturbed(&mut peer, &a1, &c9, 220, |peer| {
        let begin = Instant::now();
        for number in 1..=18 {
            peer.frame("gw-a", &forged)?;
            thread::sleep((Duration::from_millis(333) * number).saturating_sub(begin.elapsed()));
        }
        Ok(())
    })
}

/// While `attack` goes on, everything that `from` sends to `victim` arrives there, and nothing at the peer. The victim sends
/// `rate` frames per second all the time.
fn undisturbed(
    peer: &mut Peer,
    from: &Container,
    victim: &Container,
    rate: u32,
    attack: impl FnOnce(&mut Peer) -> Outcome,
) -> Outcome {
    let (here, there) = (from.mac_bytes()?, victim.mac_bytes()?);
    let arrived = Count::of(victim, data(there, here))?;
    let back = Talk::start(victim, data(here, there), rate)?;
    // What is sent to somebody unknown goes to every peer, and rightly so.
    pause(30)?;
    let before = peer.frames_for(there)?;
    let talks = [back, Talk::start(from, data(there, here), TO_VICTIM)?];
    attack(peer)?;
    let [back, sent] = talks.map(Talk::stop);
    let (back, sent, arrived) = (back?, sent?, arrived.stop()?);
    let stolen = peer.frames_for(there)? - before;
    println!("of {sent} frames {arrived} arrived and {stolen} came to the peer; the victim sent {back}");
    ensure(stolen == 0, format!("{stolen} of {sent} frames came to the peer, {arrived} arrived"))?;
    ensure(arrived * 100 >= sent * 99, format!("{arrived} of {sent} frames arrived"))
}
