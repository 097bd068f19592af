//! IPv6 neighbour discovery between gateways.

use std::net::Ipv6Addr;
use std::time::Duration;

use ipop_lab::ndp::{
    ALL_NODES, OVERRIDE, ROUTER, SOLICITED, advertisement, check, group_mac, icmp6, solicitation, solicited_node,
};
use ipop_lab::{Container, Lab};
use libtest_mimic::Failed;

use super::kit::{Outcome, Station, World, ensure, tagged_long, until};

const ASKER: Ipv6Addr = Ipv6Addr::new(0xfd03, 0, 0, 0, 0, 0, 0, 3);
const TARGET: Ipv6Addr = Ipv6Addr::new(0xfd03, 0, 0, 0, 0, 0, 0, 0x104);

fn stations(world: &World) -> Result<(Station, Station, Station), Failed> {
    // The IPv4 addresses are not used.
    Ok((
        world.station(0, "asker", "10.0.3.3")?,
        world.station(1, "target", "10.0.3.104")?,
        world.station(2, "third", "10.0.3.7")?,
    ))
}

fn answer(target: &Station, asker: &Station, flags: u8) -> Vec<u8> {
    advertisement(target.mac, TARGET, asker.mac, ASKER, flags)
}

fn resolve(asker: &mut Station, target: &mut Station, flags: u8) -> Outcome {
    let question = solicitation(asker.mac, ASKER, TARGET);
    asker.send(&question)?;
    target.hear("the solicitation", &question)?;
    target.send(&answer(target, asker, flags))?;
    asker.hear("the advertisement", &answer(target, asker, flags))
}

/// The six steps in IPv6.
pub(crate) fn six_steps() -> Outcome {
    let world = World::new(3, 300)?;
    let (mut asker, mut target, mut third) = stations(&world)?;
    let question = solicitation(asker.mac, ASKER, TARGET);
    asker.send(&question)?;
    target.hear("the solicitation", &question)?;
    third.hear("the solicitation in the third segment", &question)?;
    let reply = answer(&target, &asker, SOLICITED | OVERRIDE);
    target.send(&reply)?;
    asker.hear_only("the advertisement", std::slice::from_ref(&reply))?;
    let asked = world.count(0, "arp/rpc_requests_sent")?;
    third.hear_only("the advertisement is for the asker only", &vec![question.clone(); asked as usize - 1])?;
    for gateway in 0..3 {
        for counter in ["to_peer", "to_all_peers", "flooded", "delivered"] {
            world.expect_count(gateway, &format!("frames/{counter}"), 0)?;
        }
    }
    world.await_belief("fd03::3", asker.mac, 0)?;
    world.await_belief("fd03::104", target.mac, 1)?;
    let sent = world.messages(0, "sent", "nd_request")?;
    ensure(
        !sent.is_empty()
            && sent[0]["message"]["target_ip6"] == "fd03::104"
            && sent[0]["message"]["asker_ip6"] == "fd03::3",
        format!("nd_request: {sent:?}"),
    )?;
    // From here on without an RPC, for the third gateway too.
    asker.send(&question)?;
    asker.hear_only("the advertisement from the table", std::slice::from_ref(&reply))?;
    let other: Ipv6Addr = "fd03::7".parse()?;
    third.send(&solicitation(third.mac, other, TARGET))?;
    let reply = advertisement(target.mac, TARGET, third.mac, other, SOLICITED | OVERRIDE);
    third.hear_only("the advertisement from the third table", &[reply])?;
    target.hear_only("the target is left in peace", &vec![question; asked as usize - 1])?;
    world.expect_count(0, "arp/rpc_requests_sent", asked)?;
    world.expect_count(2, "arp/rpc_requests_sent", 0)
}

/// "I am a router" is part of the answer, the first and the second time.
pub(crate) fn router_flag() -> Outcome {
    let world = World::new(3, 300)?;
    let (mut asker, mut target, _third) = stations(&world)?;
    resolve(&mut asker, &mut target, ROUTER | SOLICITED | OVERRIDE)?;
    asker.rest()?;
    asker.send(&solicitation(asker.mac, ASKER, TARGET))?;
    asker.hear_only("from the table", &[answer(&target, &asker, ROUTER | SOLICITED | OVERRIDE)])?;
    world.expect_count(0, "arp/answered_locally", 1)
}

/// Duplicate address detection reaches the owner although the table knows, and its objection reaches the newcomer.
pub(crate) fn duplicate_on_the_wire() -> Outcome {
    let world = World::new(3, 300)?;
    let (mut asker, mut target, mut third) = stations(&world)?;
    resolve(&mut asker, &mut target, SOLICITED | OVERRIDE)?;
    for station in [&mut asker, &mut target, &mut third] {
        station.rest()?;
    }
    let detection = solicitation(third.mac, Ipv6Addr::UNSPECIFIED, TARGET);
    third.send(&detection)?;
    target.hear_only("the detection", std::slice::from_ref(&detection))?;
    third.hear_nothing("no table answers it")?;
    // RFC 4861, 7.2.4: the objection goes to all nodes.
    let objection = advertisement(target.mac, TARGET, group_mac(ALL_NODES), ALL_NODES, OVERRIDE);
    target.send(&objection)?;
    third.hear_only("the objection", &[objection])?;
    world.expect_count(2, "arp/answered_locally", 0)
}

/// The same by the kernel's own detection, which the lab turns off elsewhere.
pub(crate) fn kernel_detection() -> Outcome {
    let world = World::of(Lab::builder().build()?, 300)?;
    let newcomer = world.lab.container(0, "newcomer", &[])?;
    let _owner = world.lab.container(1, "owner", &["fd03::104/64"])?;
    for interface in ["all", "eth0"] {
        newcomer.netns().sysctl(&format!("net/ipv6/conf/{interface}/accept_dad"), "1")?;
    }
    newcomer.netns().ip("-6 address add fd03::104/64 dev eth0")?;
    let shown = |container: &Container| container.netns().ip("-6 address show dev eth0 scope global");
    until("the kernel to find the duplicate", Duration::from_secs(5), || Ok(shown(&newcomer)?.contains("dadfailed")))?;
    newcomer.netns().ip("-6 address del fd03::104/64 dev eth0")?;
    newcomer.netns().ip("-6 address add fd03::105/64 dev eth0")?;
    until("the free address to be accepted", Duration::from_secs(5), || Ok(!shown(&newcomer)?.contains("tentative")))?;
    let shown = shown(&newcomer)?;
    ensure(shown.contains("fd03::105") && !shown.contains("dadfailed"), format!("the free address: {shown}"))?;
    newcomer.ping("fd03::104", 2)?;
    Ok(())
}

/// An advertisement that nobody asked for is repeated once everywhere and is true from then on.
pub(crate) fn unsolicited() -> Outcome {
    let world = World::new(3, 300)?;
    let (mut asker, mut target, mut third) = stations(&world)?;
    let announcement = advertisement(target.mac, TARGET, group_mac(ALL_NODES), ALL_NODES, OVERRIDE);
    target.send(&announcement)?;
    asker.hear_only("the announcement", std::slice::from_ref(&announcement))?;
    third.hear_only("the announcement in the third segment", std::slice::from_ref(&announcement))?;
    target.hear_nothing("no echo")?;
    world.await_belief("fd03::104", target.mac, 1)?;
    asker.send(&solicitation(asker.mac, ASKER, TARGET))?;
    asker.hear_only("the answer", &[answer(&target, &asker, SOLICITED | OVERRIDE)])?;
    // The address goes to another host on another gateway.
    let takeover = advertisement(third.mac, TARGET, group_mac(ALL_NODES), ALL_NODES, OVERRIDE);
    third.send(&takeover)?;
    asker.hear_only("the takeover", std::slice::from_ref(&takeover))?;
    target.hear("the takeover at the first owner", &takeover)?;
    asker.send(&solicitation(asker.mac, ASKER, TARGET))?;
    asker.hear_only("the new owner", &[answer(&third, &asker, SOLICITED | OVERRIDE)])
}

/// Neighbour unreachability detection asks the owner itself.
pub(crate) fn unicast_check() -> Outcome {
    let world = World::new(3, 300)?;
    let (mut asker, mut target, mut third) = stations(&world)?;
    resolve(&mut asker, &mut target, SOLICITED | OVERRIDE)?;
    for station in [&mut asker, &mut target, &mut third] {
        station.rest()?;
    }
    let check = check(asker.mac, ASKER, target.mac, TARGET);
    asker.send(&check)?;
    target.hear_only("the check", &[check])?;
    asker.hear_nothing("the owner has not answered")?;
    target.send(&answer(&target, &asker, SOLICITED))?;
    asker.hear_only("the owner's answer, as it gave it", &[answer(&target, &asker, SOLICITED)])?;
    third.hear_nothing("it is nobody else's business")?;
    world.expect_count(0, "arp/answered_locally", 0)
}

/// What a receiver must drop (RFC 4861, 7.1) is not even asked of the peers.
pub(crate) fn malformed() -> Outcome {
    let world = World::new(2, 300)?;
    let asker = world.station(0, "asker", "10.0.3.3")?;
    let mut far = world.station(1, "far", "10.0.3.104")?;
    let good = solicitation(asker.mac, ASKER, TARGET);
    let mut bad_sum = good.clone();
    bad_sum[56] ^= 1;
    let mut routed = good.clone();
    routed[21] = 64;
    let group = solicited_node(TARGET);
    let mut body = vec![0; 4];
    body.extend(ALL_NODES.octets());
    let group_target = icmp6(group_mac(group), asker.mac, ASKER, group, 135, &body);
    body[4..].copy_from_slice(&TARGET.octets());
    body.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    let endless_option = icmp6(group_mac(group), asker.mac, ASKER, group, 135, &body);
    let short = good[..50].to_vec();
    for (number, (what, frame)) in [
        ("a bad checksum", bad_sum),
        ("hop limit 64", routed),
        ("a multicast target", group_target),
        ("an option of length 0", endless_option),
    ]
    .into_iter()
    .enumerate()
    {
        asker.send(&frame)?;
        let counted = world.await_count(0, "drops/nd_malformed", number as u64 + 1);
        counted.map_err(|_| format!("{what} is not counted as nd_malformed"))?;
    }
    // Cut off before ICMPv6 begins it is nothing that could be understood, and must not hurt.
    asker.send(&short)?;
    let heard = far.rest()?;
    ensure(heard.iter().all(|frame| *frame == short), format!("it travelled: {heard:02x?}"))?;
    world.expect_count(0, "arp/rpc_requests_sent", 0)?;
    asker.send(&good)?;
    far.hear_only("the good one", &[good])
}

/// Router discovery and multicast listener reports are multicast like any other.
pub(crate) fn other_icmpv6() -> Outcome {
    let world = World::new(2, 300)?;
    let host = world.station(0, "host", "10.0.3.3")?;
    let mut far = world.station(1, "far", "10.0.3.104")?;
    let local: Ipv6Addr = "fe80::3".parse()?;
    let (routers, reports): (Ipv6Addr, Ipv6Addr) = ("ff02::2".parse()?, "ff02::16".parse()?);
    let rs = icmp6(group_mac(routers), host.mac, local, routers, 133, &[0; 4]);
    let mut lifetimes = vec![64, 0, 0x07, 0x08];
    lifetimes.extend([0; 8]);
    let ra = icmp6(group_mac(ALL_NODES), host.mac, local, ALL_NODES, 134, &lifetimes);
    let mld = icmp6(group_mac(reports), host.mac, local, reports, 143, &[0; 4]);
    for (what, frame) in [("a router solicitation", rs), ("a router advertisement", ra), ("a listener report", mld)] {
        host.send(&frame)?;
        far.hear_only(what, &[frame])?;
    }
    world.expect_count(0, "frames/to_all_peers", 3)?;
    world.expect_count(0, "frames/to_control", 0)
}

/// A VLAN is a world of its own in IPv6, too.
pub(crate) fn vlan() -> Outcome {
    let world = World::new(2, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut target = world.station(1, "target", "10.0.3.104")?;
    let question = solicitation(asker.mac, ASKER, TARGET);
    asker.send(&tagged_long(&question, 10))?;
    target.hear("the tagged solicitation", &tagged_long(&question, 10))?;
    let reply = tagged_long(&answer(&target, &asker, SOLICITED | OVERRIDE), 10);
    target.send(&reply)?;
    asker.hear_only("the tagged advertisement", std::slice::from_ref(&reply))?;
    target.rest()?;
    asker.send(&tagged_long(&question, 10))?;
    asker.hear_only("from VLAN 10's table", &[reply])?;
    target.hear_nothing("VLAN 10 is known")?;
    asker.send(&question)?;
    target.hear("the untagged solicitation is another one", &question)?;
    world.expect_count(0, "arp/answered_locally", 1)
}
