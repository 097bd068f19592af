//! A guest that sends with the Ethernet source of another: duplicate-MAC detection as in RFC 7432, section 15.1.
//!
//! A MAC that jumps between gateways is frozen where it last proved alive, so that the spoofer takes nothing from its
//! owner; people see it in `ipop macs` and release it by hand, or time does.

use std::time::Duration;

use ipop_lab::arp::{BROADCAST, Mac};
use ipop_lab::interrupt;
use libtest_mimic::Failed;

use crate::Test;
use crate::probe::{Answers, Pings, every};
use crate::support::{HUSH, Outcome, SOON, Sender, World, data, ensure, ip, port};

pub(crate) const TESTS: &[Test] = &[
    Test::new("mac_a_spoofed_source_takes_nothing_and_is_frozen", frozen),
    Test::new("mac_a_spoofed_source_takes_nothing_beside_the_spoofer", beside),
    Test::new("mac_a_claim_that_loses_is_counted_by_all_three", counted),
    Test::new("mac_a_freeze_ends_by_itself", thawed),
    Test::new("mac_a_sticky_one_never_leaves", sticky),
];

const AGAIN: Duration = Duration::from_millis(300);
const PING: Duration = Duration::from_millis(50);
const WHILE: Duration = Duration::from_secs(10);
/// Part of the pings that b1 answers while it is spoofed.
const SHARE: f64 = 0.95;

/// a1 sends with b1's source every 0.3 s, while one other guest pings b1.
fn spoof(world: &World, pinger: &str) -> Result<(Answers, String), Failed> {
    let [a1, pinger, b1] = world.guests(["a1", pinger, "b1"])?;
    pinger.ping("10.0.3.21", 1)?;
    a1.ping("10.0.3.21", 1)?;
    let victim = b1.mac_bytes()?;
    let spoofer = Sender::start(port(&a1)?, AGAIN, move |number| Some(data(BROADCAST, victim, number as u32)));
    let answers = Pings::start(&pinger, ip("b1"), PING, WHILE)?.end()?;
    println!("{answers}");
    let mac = b1.mac().to_owned();
    spoofer.end()?;
    Ok((answers, mac))
}

/// The gateways that show the MAC as frozen.
fn frozen_rows(world: &World, mac: &str) -> Result<Vec<usize>, Failed> {
    let mut frozen = Vec::new();
    for gateway in 0..world.daemons.len() {
        if let Some(row) = world.mac(gateway, mac)?.filter(|row| row["frozen_s"].is_number()) {
            // It is frozen where it proved alive.
            let place = if gateway == 1 { "local" } else { "gw-b" };
            ensure(row["where"] == place, || format!("gateway {gateway} says {row}"))?;
            frozen.push(gateway);
        }
    }
    Ok(frozen)
}

/// Seen from a third gateway; and what people see of it, and can do.
fn frozen() -> Outcome {
    let world = World::new()?;
    let (answers, mac) = spoof(&world, "c1")?;
    let frozen = frozen_rows(&world, &mac)?;
    let counted = world.total("/macs/frozen")?;
    every([
        answers.ensure_share(SHARE),
        ensure(!frozen.is_empty(), || "no gateway shows the MAC with `frozen_s`".into()),
        ensure(counted >= 1, || "/macs/frozen is 0 everywhere".into()),
        ensure(!world.logged(&[&mac, "frozen"]).is_empty(), || "no gateway has logged that it is frozen".into()),
    ])?;
    for gateway in frozen {
        let daemon = &world.daemons[gateway];
        daemon.order(&["macs", "release", &mac]).run()?;
        let what = format!("{mac} to be free again at {}", daemon.gateway().name());
        interrupt::wait_until(&what, SOON, || {
            let row = world.mac(gateway, &mac)?;
            Ok(row.is_none_or(|row| row["frozen_s"].is_null()).then_some(()))
        })?;
    }
    Ok(())
}

/// Seen from the spoofer's own bridge, which has learned the wrong port from the very frame: its gateway has to put
/// that right too.
fn beside() -> Outcome {
    let world = World::new()?;
    let (answers, _mac) = spoof(&world, "a2")?;
    answers.ensure_share(SHARE)
}

/// One forged frame: the gateway of the owner, that of the spoofer and a third one know of it, and say so.
fn counted() -> Outcome {
    let world = World::new()?;
    let [a1, b1, c1] = world.guests(["a1", "b1", "c1"])?;
    for guest in [&a1, &c1] {
        guest.ping("10.0.3.21", 1)?;
    }
    port(&a1)?.send(&data(BROADCAST, b1.mac_bytes()?, 0))?;
    for (gateway, counter) in [(0, "/macs/disputes"), (1, "/macs/conflicts"), (2, "/macs/disputes")] {
        let daemon = &world.daemons[gateway];
        // The frame and the message about it are two claims where one comes much later.
        let what = format!("{counter} of {} to count it", daemon.gateway().name());
        interrupt::wait_until(&what, WHILE, || Ok((daemon.counter(counter)? >= 1).then_some(())))?;
    }
    interrupt::wait_until("all three to log it", WHILE, || Ok((world.logged(&[b1.mac()]).len() == 3).then_some(())))?;
    for gateway in 0..3 {
        let place = if gateway == 1 { "local" } else { "gw-b" };
        let seen = world.place(gateway, b1.mac())?;
        ensure(seen.as_deref() == Some(place), || format!("gateway {gateway} has it at {seen:?}"))?;
    }
    Ok(())
}

/// Nobody has to release it.
fn thawed() -> Outcome {
    let world = World::with(|config| config["mac_freeze"] = 4.into())?;
    let (_, mac) = spoof(&world, "c1")?;
    let what = "no gateway to show it as frozen any more";
    interrupt::wait_until(what, Duration::from_secs(10), || {
        for gateway in 0..world.daemons.len() {
            if world.mac(gateway, &mac)?.is_some_and(|row| row["frozen_s"].is_number()) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    ensure(world.total("/macs/frozen")? >= 1, || "it was not frozen at all".into())
}

/// Its owner is silent, so any other MAC would go to the guest that claims it.
fn sticky() -> Outcome {
    const STICKY: &str = "02:bf:00:00:00:21";
    const VICTIM: Mac = [2, 0xbf, 0, 0, 0, 0x21];
    let world = World::with(|config| {
        if config["name"] == "gw-b" {
            config["sticky_macs"] = [STICKY].as_slice().into();
        }
    })?;
    let (a1, c1) = (world.guest("a1")?, world.station("c1")?);
    let spoofer = Sender::start(port(&a1)?, AGAIN, move |number| Some(data(BROADCAST, VICTIM, number as u32)));
    interrupt::wait_until("the claim to lose", WHILE, || Ok((world.total("/macs/disputes")? >= 1).then_some(())))?;
    // Longer than any test of a MAC takes.
    interrupt::sleep(Duration::from_secs(2))?;
    let mut heard = port(&a1)?;
    heard.drain()?;
    c1.send(&data(VICTIM, c1.mac, 7))?;
    let (_, came) = heard.capture_until(HUSH, |frame| frame[..6] == VICTIM)?;
    spoofer.end()?;
    ensure(!came, || "a frame for the sticky MAC came to the guest that claims it".into())?;
    for gateway in 0..3 {
        let place = if gateway == 1 { "local" } else { "gw-b" };
        let row = world.mac(gateway, STICKY)?.ok_or_else(|| format!("gateway {gateway} does not know it"))?;
        ensure(row["where"] == place, || format!("gateway {gateway} has it at {row}"))?;
        ensure((row["sticky"] == true) == (gateway == 1), || format!("gateway {gateway} shows {row}"))?;
    }
    Ok(())
}
