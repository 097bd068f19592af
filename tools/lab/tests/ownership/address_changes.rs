//! An address changes hands and nobody says so: whoever asks for it then must not be told for minutes what was true
//! before.
//!
//! An answer from a gateway's table is good only while its owner gave a sign of life a moment ago; the guest that asks
//! here never asked before, so nothing but the gateways can mislead it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipop_lab::arp::gratuitous;
use ipop_lab::interrupt;

use crate::Test;
use crate::probe::{every, reached};
use crate::support::{Outcome, World, announce, let_go, port, take};

pub(crate) const TESTS: &[Test] = &[
    Test::new("address_of_a_container_made_anew_is_reachable", made_anew),
    Test::new("address_of_a_changed_mac_is_reachable", changed_mac),
    Test::new("address_dropped_silently_goes_back_to_its_other_holder", dropped),
    Test::new("address_taken_up_silently_elsewhere_is_reachable", taken_up),
];

/// So soon it must be reachable again.
const LIMIT: Duration = Duration::from_secs(3);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 200);

/// b1's cable is deleted and made anew: the same address, another MAC.
fn made_anew() -> Outcome {
    let world = World::new()?;
    let [a1, a2, b1, c1] = world.guests(["a1", "a2", "b1", "c1"])?;
    a1.ping("10.0.3.21", 1)?;
    drop(b1);
    // The lab gives every container another MAC.
    let _anew = world.guest_at("anew", 1, 21)?;
    let begin = Instant::now();
    every([&a2, &c1].map(|guest| reached(guest, "10.0.3.21", begin, LIMIT).map(drop)))
}

/// As a bridge in a guest does whose first port goes.
fn changed_mac() -> Outcome {
    let world = World::new()?;
    let [a1, a2, b1, c1] = world.guests(["a1", "a2", "b1", "c1"])?;
    a1.ping("10.0.3.21", 1)?;
    b1.netns().ip("link set eth0 address 02:00:00:00:0b:01")?;
    let begin = Instant::now();
    every([&a2, &c1].map(|guest| reached(guest, "10.0.3.21", begin, LIMIT).map(drop)))
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
fn taken_up() -> Outcome {
    let world = World::new()?;
    let [a1, a2, b1, c1] = world.guests(["a1", "a2", "b1", "c1"])?;
    a1.ping("10.0.3.21", 1)?;
    drop(b1);
    take(&c1, Ipv4Addr::new(10, 0, 3, 21))?;
    let b2 = world.guest("b2")?;
    let begin = Instant::now();
    every([&a2, &b2].map(|guest| reached(guest, "10.0.3.21", begin, LIMIT).map(drop)))
}
