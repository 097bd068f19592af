//! What a peer or a guest may claim, and how much: seen on the wire, in the tables, in the counters and in the log.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipop_lab::arp::{Arp, BROADCAST, Mac, format_mac, gratuitous};
use ipop_lab::{Lab, interrupt};
use serde_json::{Value, json};

use super::kit::{Outcome, Station, World, ensure, until};

const ALLOWED: Mac = [0x02, 0, 0, 0, 0xaa, 1];
const STRANGER: Mac = [0x02, 0, 0, 0, 0xaa, 2];

/// gw-a with a limit on its peer gw-b, or on itself.
fn world(change: impl Fn(&mut Value)) -> Result<World, libtest_mimic::Failed> {
    let lab = Lab::builder().without_inner_ipv6().build()?;
    World::with(lab, |gateway, config| {
        if gateway == 0 {
            change(config);
        }
    })
}

/// A broadcast from a MAC, of an EtherType for experiments (IEEE 802, local experimental EtherType 1).
fn data(from: Mac) -> Vec<u8> {
    let mut frame = [&BROADCAST[..], &from, &[0x88, 0xb5]].concat();
    frame.resize(60, 7);
    frame
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 3, last)
}

/// Stations announce themselves with these MACs and addresses.
fn announce(station: &Station, claims: impl IntoIterator<Item = (Mac, Ipv4Addr)>) -> Outcome {
    claims.into_iter().try_for_each(|(mac, ip)| station.send(&gratuitous(mac, ip)))
}

/// How many rows of a table of gw-a are at this place. The gateway's own MAC is none of them.
fn rows(world: &World, kind: &str, list: &str, place: &str) -> ipop_lab::Result<usize> {
    let table = world.daemons[0].status(kind)?;
    Ok(table[list].as_array().map_or(0, |rows| rows.iter().filter(|row| row["where"] == place).count()))
}

/// The log has one line about this, though it happened several times.
fn logged_once(world: &World, parts: &[&str]) -> Outcome {
    let log = world.daemons[0].log();
    let lines = log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count();
    ensure(lines == 1, format!("{lines} lines with {parts:?} in:\n{log}"))
}

/// Neither data nor ARP comes from a MAC that the peer may not have.
pub(crate) fn allowed_macs() -> Outcome {
    let world = world(|config| config["peers"][0]["allowed_macs"] = json!([format_mac(ALLOWED)]))?;
    let mut near = world.station(0, "near", "10.0.3.3")?;
    let far = world.station(1, "far", "10.0.3.104")?;
    for _ in 0..3 {
        far.send(&data(STRANGER))?;
    }
    far.send(&gratuitous(STRANGER, address(7)))?;
    far.send(&data(ALLOWED))?;
    far.send(&gratuitous(ALLOWED, address(8)))?;
    near.hear_only("what the peer may send", &[data(ALLOWED), gratuitous(ALLOWED, address(8))])?;
    world.expect_count(0, "drops/mac_not_allowed", 3)?;
    ensure(world.count(0, "refused/mac_not_allowed")? >= 1, "the claim was not counted")?;
    logged_once(&world, &["peer gw-b claims", &format_mac(STRANGER), "allowed_macs"])?;
    let table = world.daemons[0].status("macs")?.to_string();
    ensure(table.contains(&format_mac(ALLOWED)) && !table.contains(&format_mac(STRANGER)), table)?;
    // The other direction has no list.
    near.send(&data(near.mac))?;
    let mut far = far;
    far.hear("data to the peer", &data(near.mac))
}

/// A peer speaks for no address that it may not have: neither by messages nor by ARP in frames.
pub(crate) fn allowed_ips() -> Outcome {
    let world = world(|config| config["peers"][0]["allowed_ips"] = json!(["10.0.3.104", "10.0.3.128/25"]))?;
    let mut near = world.station(0, "near", "10.0.3.3")?;
    let mut far = world.station(1, "far", "10.0.3.104")?;
    announce(&near, [(near.mac, near.ip)])?;
    far.hear("the announcement", &gratuitous(near.mac, near.ip))?;
    near.drain()?;
    announce(&far, [(far.mac, address(1)), (far.mac, address(2)), (far.mac, address(200))])?;
    // An answer that nobody asked for goes as a frame.
    far.send(&Arp::reply(far.mac, address(1), near.mac, near.ip).frame())?;
    far.send(&Arp::reply(far.mac, far.ip, near.mac, near.ip).frame())?;
    near.hear_only(
        "what the peer may say",
        &[gratuitous(far.mac, address(200)), Arp::reply(far.mac, far.ip, near.mac, near.ip).frame()],
    )?;
    world.expect_count(0, "refused/ip_not_allowed", 2)?;
    world.expect_count(0, "drops/ip_not_allowed", 1)?;
    logged_once(&world, &["peer gw-b claims 10.0.3.1 at", &format_mac(far.mac), "allowed_ips"])?;
    ensure(world.belief(0, 0, "10.0.3.1")?.is_none(), "the address is in the table")?;
    ensure(world.belief(0, 0, "10.0.3.200")?.is_some(), "the allowed address is not in the table")
}

/// A peer fills no table, neither with MACs nor with addresses; what it has goes on working.
pub(crate) fn peer_shares() -> Outcome {
    let world = world(|config| {
        config["max_macs_per_peer"] = 1000.into();
        config["peers"][0]["max_macs"] = 4.into();
        config["max_addresses_per_peer"] = 6.into();
    })?;
    let far = world.station(1, "far", "10.0.3.104")?;
    // One MAC with many addresses, then many MACs.
    announce(&far, (1..=10).map(|last| (far.mac, address(last))))?;
    announce(&far, (1..=10).map(|last| ([0x02, 0, 0, 0, 0xbb, last], address(100 + last))))?;
    until("the claims to arrive", Duration::from_secs(3), || {
        let refused = |name: &str| world.daemons[0].counter(&format!("/refused/{name}"));
        // One that is new takes the place of one that never proved alive.
        Ok(refused("peer_addresses")? >= 4 && world.daemons[0].counter("/macs/evicted")? >= 7)
    })?;
    ensure(rows(&world, "macs", "macs", "gw-b")? == 4, "the peer has not four MACs")?;
    ensure(rows(&world, "arp", "entries", "gw-b")? == 6, "the peer has not six addresses")?;

    logged_once(&world, &["peer gw-b claims", "max_addresses"])?;
    let mut near = world.station(0, "near", "10.0.3.3")?;
    near.ask(address(1))?;
    near.hear("an address of before", &Arp::reply(far.mac, address(1), near.mac, near.ip).frame())
}

/// A guest that makes up addresses fills neither the own table nor those of the peers.
pub(crate) fn station_share() -> Outcome {
    let world = world(|config| config["max_addresses_per_mac"] = 5.into())?;
    let near = world.station(0, "near", "10.0.3.3")?;
    let mut beside = world.station(0, "beside", "10.0.3.4")?;
    let mut far = world.station(1, "far", "10.0.3.104")?;
    announce(&near, (10..20).map(|last| (near.mac, address(last))))?;
    let heard: Vec<_> = (10..15).map(|last| gratuitous(near.mac, address(last))).collect();
    far.hear_only("the first five", &heard)?;
    // Nor does it ask in another name.
    near.ask(far.ip)?;
    far.hear_nothing("a question in the name of a sixth address")?;
    world.expect_count(0, "refused/station_addresses", 6)?;
    ensure(rows(&world, "arp", "entries", "local")? == 5, "not five addresses")?;
    logged_once(&world, &[&format_mac(near.mac), "on this side", "max_addresses_per_mac"])?;
    beside.drain()?;
    world.resolve(&mut beside, &mut far)
}

/// An address whose owner answers stays where it is, and its neighbours hear nothing of the one who wants it.
pub(crate) fn takeover() -> Outcome {
    let world = world(|_| {})?;
    let owner = world.lab.container(0, "owner", &["10.0.3.3/24"])?;
    owner.announce()?;
    world.await_belief("10.0.3.3", owner.mac_bytes()?, 0)?;
    let mut beside = world.station(0, "beside", "10.0.3.4")?;
    let thief = world.station(1, "thief", "10.0.3.3")?;
    beside.rest()?;
    for _ in 0..3 {
        announce(&thief, [(thief.mac, thief.ip)])?;
    }
    until("the claim to be refused", Duration::from_secs(3), || {
        Ok(world.daemons[0].counter("/refused/ip_is_here")? >= 1)
    })?;
    let stolen = gratuitous(thief.mac, thief.ip);
    ensure(!beside.rest()?.contains(&stolen), "a neighbour heard the thief")?;
    logged_once(&world, &["peer gw-b claims 10.0.3.3 at", &format_mac(thief.mac), "alive on this side"])?;
    let expected = Some((format_mac(owner.mac_bytes()?), "local".to_owned()));
    ensure(world.belief(0, 0, "10.0.3.3")? == expected, "the address was taken")
}

/// A MAC that is alive stays where it is, with its address, although somebody behind a peer speaks in its name all the time
/// and the peer's number rises. Afterwards everybody reaches it again.
pub(crate) fn counting_up() -> Outcome {
    let lab = Lab::builder().gateways(3).without_inner_ipv6().build()?;
    let world = World::with(lab, |_, _| {})?;
    let owner = world.lab.container(0, "owner", &["10.0.3.3/24"])?;
    let others = [(0, "beside", "10.0.3.4/24"), (1, "near-thief", "10.0.3.5/24"), (2, "third", "10.0.3.6/24")];
    let others = others
        .map(|(gateway, name, ip)| world.lab.container(gateway, name, &[ip]))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    others.iter().try_for_each(|other| other.ping("10.0.3.3", 1).map(drop))?;
    let mac = owner.mac_bytes()?;
    let thief = world.station(1, "thief", "10.0.3.7")?;
    let entry = || -> ipop_lab::Result<Value> {
        let table = world.daemons[0].status("macs")?;
        let rows = table["macs"].as_array().cloned().unwrap_or_default();
        Ok(rows.into_iter().find(|row| row["mac"] == format_mac(mac)).unwrap_or_default())
    };
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        thief.send(&data(mac))?;
        ensure(entry()?["where"] == "local", format!("the MAC was taken: {}", entry()?))?;
        interrupt::sleep(Duration::from_millis(30))?;
    }
    others[0].ping("10.0.3.3", 5)?;
    ensure(entry()?["seq"].as_u64() > Some(4), format!("nobody has counted up: {}", entry()?))?;
    ensure(world.count(0, "refused/mac_is_here")? > 2, "the claims were not counted")?;
    logged_once(&world, &["peer gw-b claims", &format_mac(mac), "alive on this side"])?;
    let expected = Some((format_mac(mac), "local".to_owned()));
    ensure(world.belief(0, 0, "10.0.3.3")? == expected, "the address was taken")?;
    for other in &others {
        until(&format!("{} to reach the owner again", other.name()), Duration::from_secs(3), || {
            Ok(other.exec(["ping", "-n", "-c1", "-W0.3", "10.0.3.3"])?.success())
        })?;
    }
    Ok(())
}
