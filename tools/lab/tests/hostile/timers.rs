//! What a gateway does by the clock is not put off by a guest that keeps it busy: whether a MAC that moved is still where
//! it was is settled in less than a second.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipop_lab::arp::Arp;
use ipop_lab::interrupt;

use super::kit::{Outcome, Scene, ensure, pause};
use super::talk::Talk;

/// Questions per second for addresses that nobody has.
const STORM: u32 = 20_000;
/// So soon after its first frame a container must be reachable.
const REACHABLE: Duration = Duration::from_secs(1);

/// gw-b, where it was, has to find out that it is gone.
pub(crate) fn storm_at_the_old_gateway() -> Outcome {
    storm(1)
}

/// gw-a, where it is now, has to believe that it has come.
pub(crate) fn storm_at_the_new_gateway() -> Outcome {
    storm(0)
}

fn storm(place: usize) -> Outcome {
    let scene = Scene::pair()?;
    let a1 = scene.container(0, "a1", &["10.0.3.11/24"])?;
    let b1 = scene.container(1, "b1", &["10.0.3.21/24"])?;
    let noisy = scene.container(place, "noisy", &["10.0.3.66/24"])?;
    let mut moving = scene.container(1, "m", &["10.0.3.50/24"])?;
    for neighbour in [&a1, &b1] {
        neighbour.ping("10.0.3.50", 2)?;
    }
    let mac = noisy.mac_bytes()?;
    let talk = Talk::of(&noisy, STORM, move |number| {
        let absent = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + (number % 60_000) as u32);
        Arp::request(mac, Ipv4Addr::new(10, 0, 3, 66), absent).frame()
    })?;
    pause(1500)?;
    moving.move_to(scene.lab.gateway(0))?;
    let begin = Instant::now();
    moving.announce()?;
    let mut took = Vec::new();
    for neighbour in [&b1, &a1] {
        let what = format!("{} to reach what has moved", neighbour.name());
        let reached = interrupt::wait_until(&what, Duration::from_secs(15), || {
            Ok(neighbour.exec(["ping", "-n", "-c1", "-W0.1", "10.0.3.50"])?.success().then_some(()))
        });
        took.push((neighbour.name(), begin.elapsed()));
        reached?;
    }
    let time = begin.elapsed();
    let sent = talk.stop()?;
    println!("{sent} questions of the storm; reached after {took:?}");
    ensure(time < REACHABLE, format!("what has moved is reached after {took:?}"))
}
