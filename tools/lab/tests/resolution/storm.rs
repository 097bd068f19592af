//! More questions than anyone can mean.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use super::kit::{Outcome, World, ensure, until};

/// Addresses that nobody has, asked for by one guest at once.
const ASKED: u32 = 12_000;

/// A guest that scans a network does not drown its peers, and others still find each other.
pub(crate) fn scan() -> Outcome {
    let mut world = World::new(2, 300)?;
    let mut scanner = world.station(0, "scanner", "10.0.3.66")?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let owner = world.lab.container(1, "owner", &["10.0.3.104/16"])?;
    let begin = Instant::now();
    let mut found = false;
    for number in 0..ASKED {
        scanner.ask(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + number))?;
        if number % 20 == 19 {
            thread::sleep(Duration::from_millis(4));
        }
        // A host repeats its question every second.
        if !found && number % 4000 == 2000 {
            asker.drain()?;
            asker.ask("10.0.3.104".parse()?)?;
            let own = asker.mac;
            found = asker.wait_for("an answer", Duration::from_millis(800), |frame| frame[..6] == own).is_ok();
        }
    }
    let (took, sent) = (begin.elapsed(), world.count(0, "arp/rpc_requests_sent")?);
    ensure(found, format!("another guest got no answer in {took:?}, during a scan"))?;
    // 2000 RPCs per second and a burst; each address may be tried three times.
    let bound = 3 * (2000 * (took.as_secs() + 1) + 500);
    ensure(sent <= bound, format!("{sent} RPCs in {took:?}"))?;
    ensure(world.count(0, "arp/requests_captured")? >= u64::from(ASKED) / 2, "the scan did not arrive")?;
    until("all questions to be given up", Duration::from_secs(8), || {
        Ok(world.daemons[0].status("arp")?["pending"].as_array().is_some_and(Vec::is_empty))
    })?;
    // The peer's own limit for messages was not reached: nothing of value is among what is dropped there.
    world.expect_count(1, "drops/rpc_rate", 0)?;
    ensure(world.daemons.iter_mut().all(|daemon| daemon.is_running()), "a daemon ended")?;
    drop(owner);
    scanner.drain()
}
