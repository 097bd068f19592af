//! An address changes hands and nobody says so: whoever asks for it then must not be told for minutes what was true
//! before.
//!
//! An answer from a gateway's table is good only while its owner gave a sign of life a moment ago; the guest that asks
//! here never asked before, so nothing but the gateways can mislead it.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use ipop_lab::arp::gratuitous;
use ipop_lab::{Container, interrupt};
use libtest_mimic::Failed;

use crate::Test;
use crate::probe::{every, reached};
use crate::support::{Outcome, World, announce, ip, ip6, let_go, port, take};

pub(crate) const TESTS: &[Test] = &[
    Test::new("address_of_a_container_made_anew_is_reachable", || made_anew(false)),
    Test::new("address_of_a_container_made_anew_is_reachable_by_nd", || made_anew(true)).needs(&["ipv6"]),
    Test::new("address_of_a_changed_mac_is_reachable", || changed_mac(false)),
    Test::new("address_of_a_changed_mac_is_reachable_by_nd", || changed_mac(true)).needs(&["ipv6"]),
    Test::new("address_dropped_silently_goes_back_to_its_other_holder", dropped),
    Test::new("address_taken_up_silently_elsewhere_is_reachable", || taken_up(false)),
    Test::new("address_taken_up_silently_elsewhere_is_reachable_by_nd", || taken_up(true)).needs(&["ipv6"]),
];

/// So soon it must be reachable again.
const LIMIT: Duration = Duration::from_secs(3);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 200);

/// A segment with IPv4 or IPv6, and the address of b1.
fn world(by_nd: bool) -> Result<(World, IpAddr), Failed> {
    Ok(if by_nd { (World::with_ipv6()?, ip6("b1").into()) } else { (World::new()?, ip("b1").into()) })
}

/// Each of them reaches the address in time, counted from now; both ask at once.
fn all_reach(guests: [&Container; 2], target: IpAddr) -> Outcome {
    let begin = Instant::now();
    let outcomes = thread::scope(|scope| {
        let asking = guests.map(|guest| scope.spawn(move || reached(guest, target, begin, LIMIT).map(drop)));
        asking.map(|asker| asker.join().unwrap_or_else(|_| Err("an asker panicked".into())))
    });
    every(outcomes)
}

/// b1's cable is deleted and made anew: the same address, another MAC.
fn made_anew(by_nd: bool) -> Outcome {
    let (world, target) = world(by_nd)?;
    let [a1, a2, b1, c1] = world.guests(["a1", "a2", "b1", "c1"])?;
    a1.ping(&target.to_string(), 1)?;
    drop(b1);
    // The lab gives every container another MAC.
    let _anew = world.guest_at("anew", 1, 21)?;
    all_reach([&a2, &c1], target)
}

/// As a bridge in a guest does whose first port goes.
fn changed_mac(by_nd: bool) -> Outcome {
    let (world, target) = world(by_nd)?;
    let [a1, a2, b1, c1] = world.guests(["a1", "a2", "b1", "c1"])?;
    a1.ping(&target.to_string(), 1)?;
    b1.netns().ip("link set eth0 address 02:00:00:00:0b:01")?;
    all_reach([&a2, &c1], target)
}

/// b1 has the address all the time; c1 takes it, says so five times as keepalived does, and drops it silently.
fn dropped() -> Outcome {
    let world = World::new()?;
    let [a1, a2, b1, c1] = world.guests(["a1", "a2", "b1", "c1"])?;
    take(&b1, VIP)?;
    announce(&b1, VIP)?;
    a1.ping(&VIP.to_string(), 1)?;
    take(&c1, VIP)?;
    let (newcomer, word) = (port(&c1)?, gratuitous(c1.mac_bytes()?, VIP));
    for _ in 0..5 {
        newcomer.send(&word)?;
    }
    interrupt::sleep(Duration::from_secs(1))?;
    let_go(&c1, VIP)?;
    reached(&a2, VIP, Instant::now(), LIMIT).map(drop)
}

/// b1 is gone, and a guest behind another gateway has its address.
fn taken_up(by_nd: bool) -> Outcome {
    let (world, target) = world(by_nd)?;
    let [a1, a2, b1, b2, c1] = world.guests(["a1", "a2", "b1", "b2", "c1"])?;
    a1.ping(&target.to_string(), 1)?;
    drop(b1);
    take(&c1, target)?;
    all_reach([&a2, &b2], target)
}
