//! Floods of senders and of sources: what never proved alive makes room for what does, so newcomers are never locked
//! out.

use std::time::Duration;

use ipop_lab::arp::{Arp, BROADCAST, Mac, gratuitous};
use ipop_lab::{Container, interrupt};
use libtest_mimic::Failed;

use crate::Test;
use crate::probe::every;
use crate::support::{Outcome, Sender, World, data, ensure, ip, port, tagged};

pub(crate) const TESTS: &[Test] = &[
    Test::new("mac_a_flood_of_senders_locks_nobody_out", senders),
    Test::new("mac_a_flood_of_sources_locks_nobody_out", sources),
    Test::new("mac_every_vlan_gives_its_places_back", every_vlan),
];

/// A small table, so that a flood fills it quickly; this side has three quarters of it.
const SMALL: usize = 1024;

/// Two guests that were not there before reach b1, and b1 reaches them, ten of ten each.
fn newcomers_are_reached(world: &World, b1: &Container) -> Result<[Container; 2], Failed> {
    let newcomers = [world.guest("a3")?, world.guest("a4")?];
    let mut checks = Vec::new();
    for newcomer in &newcomers {
        for (from, to) in [(newcomer, "10.0.3.21".to_owned()), (b1, newcomer.ip()?.to_string())] {
            checks.push(from.ping(&to, 10).map(drop).map_err(Failed::from));
        }
    }
    every(checks)?;
    Ok(newcomers)
}

/// 96 000 senders that ARP names, all from one Ethernet source, and more of them while the newcomers come.
fn senders() -> Outcome {
    const COUNT: u64 = 96_000;
    let world = World::new()?;
    let [a1, a2, b1] = world.guests(["a1", "a2", "b1"])?;
    a1.ping("10.0.3.21", 1)?;
    let own = a2.mac_bytes()?;
    let forged = move |number: u64| {
        let [.., x, y, z] = number.to_be_bytes();
        let request = Arp::request([0x02, 0xfb, 0, x, y, z], [10, 16 + x, y, z].into(), ip("b1"));
        Arp { source: own, ..request }.frame()
    };
    let first = move |number| (number < COUNT).then(|| forged(number));
    Sender::start(port(&a2)?, Duration::from_micros(125), first).finish()?;
    let on = Sender::start(port(&a2)?, Duration::from_micros(3333), move |number| Some(forged(COUNT + number)));
    newcomers_are_reached(&world, &b1)?;
    on.end()?;
    ensure(world.total("/mac_table/used")? < 100, || "MACs were learned that no frame came from".into())
}

/// As `macof` does it: every frame has another Ethernet source.
fn sources() -> Outcome {
    const COUNT: u64 = 6000;
    let world = World::with(|config| config["max_macs"] = SMALL.into())?;
    let [a1, a2, b1, b2] = world.guests(["a1", "a2", "b1", "b2"])?;
    a1.ping("10.0.3.21", 1)?;
    let forged = |number: u64| {
        let [.., x, y, z] = number.to_be_bytes();
        let source: Mac = [0x02, 0xfc, 0, x, y, z];
        // Now to everyone, now to a station that is not there.
        data(if number.is_multiple_of(2) { BROADCAST } else { [0x02, 0xfd, 0, x, y, z] }, source, 0)
    };
    let first = move |number| (number < COUNT).then(|| forged(number));
    Sender::start(port(&a2)?, Duration::from_micros(500), first).finish()?;
    let on = Sender::start(port(&a2)?, Duration::from_micros(3333), move |number| Some(forged(COUNT + number)));
    let newcomers = newcomers_are_reached(&world, &b1)?;
    for newcomer in &newcomers {
        // Known, and not merely flooded.
        for (gateway, place) in [(0, "local"), (1, "gw-a")] {
            let found = world.place(gateway, newcomer.mac())?;
            ensure(found.as_deref() == Some(place), || {
                format!("gateway {gateway} has {} at {found:?}", newcomer.name())
            })?;
        }
    }
    a1.ping("10.0.3.22", 5)?;
    on.end()?;
    drop(b2);
    for daemon in &world.daemons {
        let used = daemon.counter("/mac_table/used")?;
        ensure(used <= SMALL as u64, || format!("{} has {used} entries", daemon.gateway().name()))?;
    }
    Ok(())
}

/// Three ARPs in each VLAN. They make gateways ask back in each of them, and what a gateway keeps for that must not
/// outlive the stations, nor lie outside its share of the table.
fn every_vlan() -> Outcome {
    const EXPIRY: u64 = 3;
    let world = World::with(|config| {
        config["max_macs"] = SMALL.into();
        config["mac_expiry"] = EXPIRY.into();
        config["arp_expiry"] = EXPIRY.into();
    })?;
    let [a1, a2, b1] = [world.station("a1")?, world.station("a2")?, world.station("b1")?];
    let mut shared = Vec::new();
    for vlan in 1..=4094 {
        // One address, claimed by a guest, by another, and by one behind another gateway.
        for station in [&a1, &a2, &b1] {
            station.send(&tagged(&gratuitous(station.mac, [10, 0, 3, 66].into()), vlan))?;
        }
        if vlan % 8 == 0 {
            interrupt::sleep(Duration::from_millis(6))?;
        }
        if vlan % 512 == 0 {
            for daemon in &world.daemons {
                shared.push(local_entries(daemon)?);
            }
        }
    }
    println!("entries that no peer brought, at most: {:?}", shared.iter().max());
    let most = (SMALL * 3 / 4) as u64;
    // A table may change between two questions about it.
    let kept = shared.iter().all(|used| *used <= most + 50);
    ensure(kept, || format!("this side's share is {most}, and it had {shared:?} entries"))?;
    // All are silent from now on. Announcements are paced, so the last of them are heard only a while after that.
    let patience = Duration::from_secs(30);
    let free = interrupt::wait_until("the places to return", patience, || {
        Ok((world.total("/mac_table/used")? < 100).then_some(()))
    });
    free.map_err(|error| format!("{error}: {}", tables(&world)))?;
    drop([a1, a2, b1]);
    let b1 = world.guest("b2")?;
    let newcomer = world.guest("a3")?;
    newcomer.ping("10.0.3.22", 5)?;
    b1.ping("10.0.3.13", 5)?;
    Ok(())
}

/// Entries of the table that are no peer's, those that `ipop macs` does not show too.
fn local_entries(daemon: &ipop_lab::Daemon) -> ipop_lab::Result<u64> {
    let rows = daemon.status("macs")?;
    let rows = rows["macs"].as_array().map_or(&[][..], Vec::as_slice);
    let theirs = rows.iter().filter(|row| row["where"] != "local").count() as u64;
    Ok(daemon.counter("/mac_table/used")?.saturating_sub(theirs))
}

/// What the tables hold, for the message of a failed test.
fn tables(world: &World) -> String {
    let one = |daemon: &ipop_lab::Daemon| -> ipop_lab::Result<String> {
        let (name, used) = (daemon.gateway().name(), daemon.counter("/mac_table/used")?);
        let table = daemon.status("macs")?;
        let rows = table["macs"].as_array().map_or(&[][..], Vec::as_slice);
        let some: Vec<String> = rows.iter().rev().take(2).map(ToString::to_string).collect();
        Ok(format!("{name} uses {used} places and shows {} rows, such as {}", rows.len(), some.join(", ")))
    };
    let all: Vec<String> =
        world.daemons.iter().map(|daemon| one(daemon).unwrap_or_else(|error| error.to_string())).collect();
    all.join("; ")
}
