//! Probes, announcements and addresses that change hands.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipop_lab::arp::{self, Arp, BROADCAST, Operation};

use super::kit::{Outcome, World, ensure, until};

/// A probe is for the owner, never for a table: only the owner knows whether it is still there.
pub(crate) fn probe() -> Outcome {
    let world = World::new(3, 300)?;
    let mut prober = world.station(0, "prober", "10.0.3.9")?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut target = world.station(1, "target", "10.0.3.104")?;
    let mut third = world.station(2, "third", "10.0.3.7")?;
    world.resolve(&mut asker, &mut target)?;
    for station in [&mut prober, &mut target, &mut third] {
        station.rest()?;
    }
    let probe = prober.probe(target.ip).frame();
    prober.send(&probe)?;
    target.hear_only("the probe", std::slice::from_ref(&probe))?;
    third.hear_only("the probe in the third segment", std::slice::from_ref(&probe))?;
    prober.hear_nothing("no table answers a probe")?;
    // RFC 5227: the answer to a probe is for 0.0.0.0.
    let conflict = Arp::reply(target.mac, target.ip, prober.mac, Ipv4Addr::UNSPECIFIED).frame();
    target.send(&conflict)?;
    prober.hear_only("the conflict", &[conflict])?;
    world.expect_count(0, "arp/probes_captured", 1)?;
    // The prober has no address yet, so nobody may know it by the one it asked for.
    world.await_belief("10.0.3.104", target.mac, 1)
}

/// The same by the program that people use for it.
pub(crate) fn arping() -> Outcome {
    let world = World::new(2, 300)?;
    let prober = world.lab.container(0, "prober", &[])?;
    let _owner = world.lab.container(1, "owner", &["10.0.3.104/24"])?;
    let ask = |ip: &str| prober.exec(["arping", "-D", "-I", "eth0", "-c", "2", "-w", "3", ip]);
    let taken = ask("10.0.3.104")?;
    ensure(
        taken.status.code() == Some(1) && taken.stdout.contains("Received 1 response"),
        format!("a taken address: {} {}{}", taken.status, taken.stdout, taken.stderr),
    )?;
    let free = ask("10.0.3.105")?;
    ensure(
        free.status.code() == Some(0) && free.stdout.contains("Received 0 response"),
        format!("a free address: {} {}{}", free.status, free.stdout, free.stderr),
    )
}

/// Both forms of gratuitous ARP: heard once in every other segment, and true from then on.
pub(crate) fn gratuitous() -> Outcome {
    let world = World::new(3, 300)?;
    let mut host = world.station(0, "host", "10.0.3.3")?;
    let mut far = world.station(1, "far", "10.0.3.104")?;
    let mut third = world.station(2, "third", "10.0.3.7")?;
    let as_request = arp::gratuitous(host.mac, host.ip);
    let as_reply = |ip: Ipv4Addr| {
        let reply = Arp::reply(host.mac, ip, BROADCAST, ip);
        Arp { operation: Operation::Reply, ..reply }.frame()
    };
    for (frame, ip) in [(as_request, "10.0.3.3"), (as_reply("10.0.3.33".parse()?), "10.0.3.33")] {
        host.send(&frame)?;
        far.hear_only("the announcement", std::slice::from_ref(&frame))?;
        third.hear_only("the announcement in the third segment", std::slice::from_ref(&frame))?;
        host.hear_nothing("no echo")?;
        world.await_belief(ip, host.mac, 0)?;
        far.ask(ip.parse()?)?;
        far.hear_only("an answer", &[Arp::reply(host.mac, ip.parse()?, far.mac, far.ip).frame()])?;
        // Nobody had been asked before, so whoever knows better can say so now.
        let question = far.request(ip.parse()?).frame();
        third.hear_only("the question", std::slice::from_ref(&question))?;
        host.hear("the question at its holder", &question)?;
        // It says nothing, so its gateway asks it too.
        host.rest()?;
    }
    world.expect_count(0, "arp/announcements_captured", 2)?;
    world.expect_count(1, "arp/answered_locally", 2)?;
    world.expect_count(1, "arp/rpc_requests_sent", 2)?;
    world.expect_count(0, "frames/to_all_peers", 0)
}

/// VRRP-like: the address goes to another gateway's host with another MAC, and the first host is silent.
pub(crate) fn failover() -> Outcome {
    let world = World::new(3, 300)?;
    let virtual_ip: Ipv4Addr = "10.0.3.200".parse()?;
    let first = world.station(0, "first", "10.0.3.200")?;
    let mut second = world.station(1, "second", "10.0.3.200")?;
    let mut beside = world.station(0, "beside", "10.0.3.3")?;
    let mut third = world.station(2, "third", "10.0.3.7")?;
    first.send(&arp::gratuitous(first.mac, virtual_ip))?;
    world.await_belief("10.0.3.200", first.mac, 0)?;
    third.rest()?;
    third.ask(virtual_ip)?;
    third.hear_only("the first owner", &[first.reply_to(&third).frame()])?;
    beside.rest()?;
    let takeover = arp::gratuitous(second.mac, virtual_ip);
    second.rest()?;
    second.send(&takeover)?;
    beside.hear_only("the takeover beside the first owner", std::slice::from_ref(&takeover))?;
    third.hear_only("the takeover in the third segment", std::slice::from_ref(&takeover))?;
    third.ask(virtual_ip)?;
    third.hear_only("the second owner", &[second.reply_to(&third).frame()])?;
    // Where the first owner was, its gateway has to find out that it is silent. A host asks once a second.
    let begin = Instant::now();
    let mac = arp::format_mac(second.mac);
    let (question, answer) = (beside.request(virtual_ip).frame(), second.reply_to(&beside).frame());
    let mut answered = false;
    while begin.elapsed() < Duration::from_secs(8) {
        beside.ask(virtual_ip)?;
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            if second.wait_for("", Duration::from_millis(50), |frame| frame == question).is_ok() {
                second.send(&answer)?;
            }
            answered |= beside.wait_for("", Duration::from_millis(50), |frame| frame == answer).is_ok();
        }
        if answered && world.belief(0, 0, "10.0.3.200")? == Some((mac.clone(), "gw-b".into())) {
            return world.await_belief("10.0.3.200", second.mac, 1);
        }
    }
    Err(format!(
        "after eight seconds: answered beside the first owner: {answered}, gw-a's table: {:?}",
        world.belief(0, 0, "10.0.3.200")?
    )
    .into())
}

/// A host moves with its address and MAC; its announcement makes it local where it is now.
pub(crate) fn moved_host() -> Outcome {
    let world = World::new(3, 300)?;
    let mut host = world.lab.container(0, "host", &["10.0.3.3/24"])?;
    let peer = world.lab.container(1, "peer", &["10.0.3.104/24"])?;
    peer.ping("10.0.3.3", 1)?;
    let mac = host.mac_bytes()?;
    world.await_belief("10.0.3.3", mac, 0)?;
    host.move_to(world.lab.gateway(2))?;
    host.announce()?;
    world.await_belief("10.0.3.3", mac, 2)?;
    peer.ping("10.0.3.3", 2)?;
    // And what is said of it by ARP is still one answer each.
    until("the move to be counted", Duration::from_secs(2), || Ok(world.daemons[2].counter("/macs/moved_here")? >= 1))
}

/// Two hosts that want the same address at the same time hear each other's probe (RFC 5227, 2.1.1), so both desist.
pub(crate) fn probes_cross() -> Outcome {
    let world = World::new(2, 300)?;
    let mut here = world.station(0, "here", "10.0.3.9")?;
    let mut there = world.station(1, "there", "10.0.3.9")?;
    let (first, second) = (here.probe(here.ip).frame(), there.probe(there.ip).frame());
    here.send(&first)?;
    there.send(&second)?;
    there.hear_only("the probe from gw-a", &[first])?;
    here.hear_only("the probe from gw-b", &[second])?;
    // Nobody has the address yet.
    for gateway in 0..2 {
        ensure(world.belief(gateway, 0, "10.0.3.9")?.is_none(), "a probe made an entry")?;
    }
    Ok(())
}

/// What was behind a gateway that has ended is not answered for any longer, and is found again when it is back.
pub(crate) fn peer_left() -> Outcome {
    let mut world = World::new(2, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut target = world.station(1, "target", "10.0.3.104")?;
    world.resolve(&mut asker, &mut target)?;
    asker.rest()?;
    ensure(world.daemons.pop().ok_or("no gw-b")?.stop()?.success(), "gw-b ended badly")?;
    until("gw-a to forget the address", Duration::from_secs(1), || Ok(world.belief(0, 0, "10.0.3.104")?.is_none()))?;
    asker.ask(target.ip)?;
    asker.hear_nothing("an address behind a gateway that is gone")?;
    let config = world.lab.gateway(1).config();
    world.daemons.push(world.lab.gateway(1).start_ipop(&config)?);
    world.daemons[0].wait_peers_up(Duration::from_secs(5))?;
    target.rest()?;
    world.resolve(&mut asker, &mut target)?;
    world.await_belief("10.0.3.104", target.mac, 1)
}
