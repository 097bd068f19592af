//! A guest that sends with the Ethernet source of another: duplicate-MAC detection as in RFC 7432, section 15.1.
//!
//! A MAC that jumps between gateways is frozen where it last proved alive, so that the spoofer takes nothing from its
//! owner; people see it in `ipop macs` and release it by hand, or time does.

use std::time::Duration;

use ipop_lab::arp::BROADCAST;
use ipop_lab::interrupt;
use libtest_mimic::Failed;

use crate::Test;
use crate::probe::{Answers, Pings, every};
use crate::support::{Outcome, SOON, Sender, World, data, ensure, ip, port};

pub(crate) const TESTS: &[Test] = &[
    Test::new("mac_a_spoofed_source_takes_nothing_and_is_frozen", frozen),
    Test::new("mac_a_spoofed_source_takes_nothing_beside_the_spoofer", beside),
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
