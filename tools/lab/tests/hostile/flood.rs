//! A peer that repeats one question as fast as it can, from so many ports that every worker hears it.

use std::time::Instant;

use ipop_lab::Lab;
use ipop_lab::arp::{Arp, BROADCAST, format_mac};
use serde_json::{Value, json};

use super::kit::{Outcome, Scene, THIEF, ensure, pause};
use super::talk::{Count, all_answer};

const SECONDS: u32 = 6;
pub(crate) const RATE: u32 = 20_000;
pub(crate) const PORTS: u32 = 16;
/// Broadcasts per second that guests may hear of it, with some room for a busy machine.
const HEARD: f64 = 1300.0;

/// What the peer repeats: valid, and never the last word.
pub(crate) fn question(target: &str) -> Value {
    json!({
        "msg_type": "arp_request", "target_ip4": target, "asker_ip4": "10.0.3.31", "asker_mac": format_mac(THIEF), "seq": 0,
    })
}

pub(crate) fn one_question() -> Outcome {
    let (scene, mut peer) = Scene::with_peer(&Lab::builder(), |config| config["workers"] = 4.into())?;
    let (a1, new) = scene.with_more(0, "a1", "10.0.3.11/24", 101, 12)?;
    let b1 = scene.container(1, "b1", &["10.0.3.21/24"])?;
    b1.ping("10.0.3.11", 1)?;
    let heard = Count::start(&a1, |frame| {
        Arp::parse(frame).is_some_and(|arp| arp.destination == BROADCAST && arp.sender_mac == THIEF)
    })?;
    let log_before = scene.daemons[0].log().len();
    peer.flood("gw-a", &question("10.0.3.11"), RATE, SECONDS, PORTS)?;
    let begin = Instant::now();
    pause(1000)?;
    let answered = all_answer(&b1, &new, "during a peer's flood");
    let flood = peer.answer()?;
    let took = begin.elapsed().as_secs_f64();
    let heard = heard.stop()? as f64 / took;
    let [dropped_a, dropped_b] = [scene.count(0, "drops/rpc_rate")?, scene.count(1, "drops/rpc_rate")?];
    let full = scene.count(0, "drops/control_queue_full")?;
    println!(
        "{flood} questions; guests heard {heard:.0} broadcasts per second; gw-a dropped {dropped_a} by rate and {full} by a \
         full queue, gw-b {dropped_b}"
    );
    answered?;
    let sent = flood["sent"].as_u64().unwrap_or(0);
    ensure(sent >= u64::from(RATE * SECONDS), format!("only {flood} were sent"))?;
    ensure(heard <= HEARD, format!("guests heard {heard:.0} broadcasts per second"))?;
    ensure(dropped_b == 0, format!("gw-b dropped {dropped_b} messages of gw-a"))?;
    let log = scene.daemons[0].log();
    let named = log[log_before..].lines().any(|line| line.contains("WARN") && line.contains("gw-c"));
    ensure(named, format!("gw-a's log does not say who floods it: {log}"))
}
