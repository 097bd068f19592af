//! One guest says that it has the address of another that is alive.
//!
//! The gateway of the old holder asks it; it answers, so the address is a duplicate or a lie: logged, counted, and those
//! who heard the lie are told the truth. What the liar's own segment heard directly is put right in the same way.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipop_lab::ndp::{ALL_NODES, OVERRIDE, advertisement, group_mac};
use ipop_lab::{Container, interrupt};

use crate::Test;
use crate::probe::{Pings, every};
use crate::support::{Outcome, SOON, World, announce, ensure, ip, ip6, port, take};

pub(crate) const TESTS: &[Test] = &[
    Test::new("address_claimed_by_one_gratuitous_arp_stays_reachable", by_arp),
    Test::new("address_claimed_by_one_advertisement_stays_reachable", by_nd).needs(&["ipv6"]),
    Test::new("address_claimed_before_anyone_asked_is_resolved_to_its_owner", before_anyone_asked),
    Test::new("address_claimed_after_others_asked_is_resolved_to_its_owner", after_others_asked),
    Test::new("address_claimed_by_nd_is_resolved_to_its_owner", asked_by_nd).needs(&["ipv6"]),
    Test::new("address_with_two_living_holders_is_logged_and_counted", duplicate),
];

/// The longest time for which the lie may be believed.
const LIMIT: Duration = Duration::from_secs(3);
const PING: Duration = Duration::from_millis(50);
/// Longer than the limit by enough to see it missed.
const WHILE: Duration = Duration::from_secs(7);

/// Others ping the victim; a second later the lie is told.
fn outage(world: &World, pingers: &[&Container], target: &str, lie: impl FnOnce() -> Outcome) -> Outcome {
    for guest in pingers {
        guest.ping(target, 1)?;
    }
    let mut running = Vec::new();
    for guest in pingers {
        running.push(Pings::start(guest, target, PING, WHILE)?);
    }
    interrupt::sleep(Duration::from_secs(1))?;
    lie()?;
    let mut checks = Vec::new();
    for pings in running {
        let answers = pings.end()?;
        println!("{answers}");
        checks.push(answers.ensure_outage(LIMIT));
    }
    // Its owner is alive, so it counts as a duplicate.
    checks.push(world.await_total("/arp/duplicates", 1));
    every(checks)
}

fn by_arp() -> Outcome {
    let world = World::new()?;
    let [a1, a2, _b1, b2, c1] = world.guests(["a1", "a2", "b1", "b2", "c1"])?;
    outage(&world, &[&a1, &b2, &c1], "10.0.3.21", || announce(&a2, ip("b1")))
}

fn by_nd() -> Outcome {
    let world = World::with_ipv6()?;
    let [a1, a2, _b1, b2, c1] = world.guests(["a1", "a2", "b1", "b2", "c1"])?;
    outage(&world, &[&a1, &b2, &c1], "fd03::21", || advertise(&a2))
}

/// An advertisement of a guest for b1's address, with the Override flag.
fn advertise(guest: &Container) -> Outcome {
    let frame = advertisement(guest.mac_bytes()?, ip6("b1"), group_mac(ALL_NODES), ALL_NODES, OVERRIDE);
    Ok(port(guest)?.send(&frame)?)
}

/// Nobody has heard of b2's address before a2 claims it, and b2 has said nothing yet.
fn before_anyone_asked() -> Outcome {
    let world = World::new()?;
    let [a2, _b2, c1] = world.guests(["a2", "b2", "c1"])?;
    announce(&a2, ip("b2"))?;
    all_answered(&c1, ip("b2").to_string())
}

/// Gateways know the owner, and so does a1; c1 does not.
fn after_others_asked() -> Outcome {
    let world = World::new()?;
    let [a1, a2, _b2, c1] = world.guests(["a1", "a2", "b2", "c1"])?;
    a1.ping("10.0.3.22", 1)?;
    announce(&a2, ip("b2"))?;
    all_answered(&c1, ip("b2").to_string())
}

fn asked_by_nd() -> Outcome {
    let world = World::with_ipv6()?;
    let [a1, a2, _b1, c1] = world.guests(["a1", "a2", "b1", "c1"])?;
    a1.ping("fd03::21", 1)?;
    advertise(&a2)?;
    all_answered(&c1, ip6("b1").to_string())
}

/// The first answer that a guest gets is the owner's, so that no ping is lost. Asked half a second later than the lie:
/// by then all have heard it.
fn all_answered(guest: &Container, target: String) -> Outcome {
    interrupt::sleep(Duration::from_millis(500))?;
    let answers = Pings::start(guest, target, Duration::from_millis(200), Duration::from_secs(3))?.end()?;
    println!("{answers}");
    answers.ensure_all()
}

/// Two guests are configured with the same address, and both answer.
fn duplicate() -> Outcome {
    let world = World::new()?;
    let [a1, _b1, c1] = world.guests(["a1", "b1", "c1"])?;
    let shared: Ipv4Addr = ip("b1");
    a1.ping(&shared.to_string(), 1)?;
    take(&c1, shared)?;
    announce(&c1, shared)?;
    world.await_total("/arp/duplicates", 1)?;
    let named = interrupt::wait_until("a log to name the duplicate", SOON, || {
        Ok((!world.logged(&["duplicate", "10.0.3.21"]).is_empty()).then_some(()))
    });
    named?;
    // Either of them answers.
    let answers = Pings::start(&a1, shared, Duration::from_millis(200), Duration::from_secs(2))?.end()?;
    ensure(answers.lost() < 5, || answers.to_string())
}
