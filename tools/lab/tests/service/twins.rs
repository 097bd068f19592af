//! Two gateways with one key.

use ipop_lab::{Daemon, Lab};
use libtest_mimic::Failed;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::kit::{Outcome, Pair, SOON, THERE, ensure, log_says, until};

fn twice(daemon: &Daemon) -> Result<Value, Failed> {
    Ok(daemon.status("peers")?["peers"][0]["key_twice"].clone())
}

/// gw-c has the key of gw-a, as after somebody has copied /etc: gw-b names both, tells both, and stays with one. A gateway
/// that starts again, and again, is never taken for two.
pub(crate) fn two_gateways_with_one_key() -> Outcome {
    let pair = Pair::of(Lab::builder().gateways(3).without_inner_ipv6().build()?)?;
    let only = |config: &mut Value, name: &str| {
        let peers = config["peers"].as_array().cloned().unwrap_or_default();
        config["peers"] = peers.into_iter().filter(|peer| peer["name"] == name).collect();
    };
    let b = pair.start(1, |config| only(config, "gw-a"))?;
    let start_a = || pair.start(0, |config| only(config, "gw-b"));
    for _ in 0..3 {
        let a = start_a()?;
        b.wait_peers_up(SOON)?;
        pair.traffic()?;
        a.kill();
    }
    let mut a = start_a()?;
    pair.traffic()?;
    ensure(twice(&b)?.is_null(), format!("one gateway that starts again and again is two: {}", b.log()))?;
    ensure(!b.log().contains("two gateways"), b.log())?;

    let c = pair.start(2, |config| {
        config["private_key_file"] = pair.gateway(0).config()["private_key_file"].clone();
        only(config, "gw-b");
    })?;
    // gw-a has to miss gw-b first, which takes 16 seconds.
    until("gw-b to notice", SOON * 4, || Ok(!twice(&b)?.is_null()))?;
    log_says(&b, &["two gateways have the key of peer gw-a", "10.99.0.1:5800", "10.99.0.3:5800"])?;
    let both = twice(&b)?;
    let mut sorted: Vec<&str> = both.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    sorted.sort_unstable();
    ensure(json!(sorted) == json!(["10.99.0.1:5800", "10.99.0.3:5800"]), both.to_string())?;
    let shown = b.query("peers", false).run()?;
    ensure(shown.contains("two gateways have its key") && shown.contains("10.99.0.3:5800"), shown)?;
    log_says(&a, &["another gateway, at 10.99.0.3:5800, has this gateway's key"])?;
    log_says(&c, &["another gateway, at 10.99.0.1:5800, has this gateway's key"])?;

    // It came back, so it is the one that the link stays with.
    ensure(both[0] == "10.99.0.1:5800", format!("the link is with {both}"))?;
    let ups = |daemon: &Daemon| Ok::<_, Failed>(daemon.status("peers")?["peers"][0]["ups"].clone());
    pair.traffic()?;
    let before = (ups(&a)?, ups(&b)?);
    // Longer than what it took to lose the link before.
    let ping = pair.c0.command(["ping", "-n", "-q", "-c", "100", "-i", "0.25", THERE]);
    let text = ping.timeout(SOON * 4).output()?.stdout;
    let received = text.split(" received").next().and_then(|text| text.rsplit(' ').next()?.parse::<u32>().ok());
    ensure(received.is_some_and(|received| received >= 95), text)?;
    ensure((ups(&a)?, ups(&b)?) == before, "the link came up again")?;
    let lines = b.log().lines().filter(|line| line.contains("two gateways")).count();
    ensure(lines <= 7, format!("{lines} lines: {}", b.log()))?;
    let trouble = c.status("peers")?["peers"][0].clone();
    ensure(trouble["state"] == "down" && trouble["trouble"] == "own_key_twice", trouble.to_string())?;

    // The one may start again: that is a third life, and not the other's.
    a.signal(Signal::SIGKILL)?;
    until("the end", SOON, || Ok(!a.is_running()))?;
    drop(a);
    let _a = start_a()?;
    pair.traffic()
}
