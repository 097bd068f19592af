//! ARP between gateways, as the stations see it on the wire.

use std::time::Duration;

use ipop_lab::arp::{self, Arp, BROADCAST};

use super::kit::{Outcome, SOON, World, ensure, tagged, until};

/// The six steps of IPOP's page, with a third gateway that only listens.
pub(crate) fn six_steps() -> Outcome {
    let world = World::new(3, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut target = world.station(1, "target", "10.0.3.104")?;
    let mut third = world.station(2, "third", "10.0.3.7")?;
    let question = asker.request(target.ip).frame();
    // (1) to (3): captured, told, put to every other segment in the asker's own name.
    asker.send(&question)?;
    target.hear("the question to the target", &question)?;
    third.hear("the question in the third segment", &question)?;
    // (4) to (6): answered, told, given to the asker and to nobody else.
    let answer = target.reply_to(&asker).frame();
    target.send(&answer)?;
    asker.hear_only("the answer", std::slice::from_ref(&answer))?;
    // On a slow machine the answer may come too late to prevent a second try; nothing else may follow.
    let asked = world.count(0, "arp/rpc_requests_sent")?;
    third.hear_only("the answer is for the asker only", &vec![question.clone(); asked as usize - 1])?;
    target.hear_only("nothing comes back to the target", &vec![question; asked as usize - 1])?;
    // None of it travelled as data.
    for gateway in 0..3 {
        for counter in ["to_peer", "to_all_peers", "flooded", "delivered"] {
            world.expect_count(gateway, &format!("frames/{counter}"), 0)?;
        }
    }
    world.expect_count(0, "frames/to_control", 1)?;
    world.expect_count(1, "frames/to_control", 1)?;
    world.expect_count(1, "arp/replies_captured", 1)?;
    world.expect_count(0, "arp/replies_injected", 1)?;
    world.expect_count(2, "arp/replies_injected", 0)?;
    world.await_belief("10.0.3.3", asker.mac, 0)?;
    world.await_belief("10.0.3.104", target.mac, 1)?;
    // In IPOP's words.
    let sent = world.messages(0, "sent", "arp_request")?;
    let [request, ..] = &sent[..] else { return Err("no arp_request".into()) };
    let text = request["message"].to_string();
    ensure(
        request["message"]["target_ip4"] == "10.0.3.104"
            && request["message"]["asker_ip4"] == "10.0.3.3"
            && request["message"]["asker_mac"] == arp::format_mac(asker.mac),
        format!("the arp_request says {text}"),
    )?;
    let got = world.messages(0, "received", "arp_reply")?;
    let [reply] = &got[..] else { return Err(format!("not one arp_reply: {got:?}").into()) };
    let uid = world.daemons[1].status("status")?["uid"].clone();
    let text = reply["message"].to_string();
    ensure(
        reply["message"]["target_ip4"] == "10.0.3.104"
            && reply["message"]["mac"] == arp::format_mac(target.mac)
            && reply["message"]["uid"] == uid
            && reply["peer"] == "gw-b",
        format!("the arp_reply says {text}"),
    )
}

/// What is known is answered at once, to whomever asks, without a word to the peers.
pub(crate) fn second_request() -> Outcome {
    let world = World::new(3, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut other = world.station(0, "other", "10.0.3.4")?;
    let mut third = world.station(2, "third", "10.0.3.7")?;
    let mut target = world.station(1, "target", "10.0.3.104")?;
    world.resolve(&mut asker, &mut target)?;
    for station in [&mut asker, &mut other, &mut target, &mut third] {
        station.rest()?;
    }
    asker.ask(target.ip)?;
    asker.hear_only("the second answer", &[target.reply_to(&asker).frame()])?;
    other.drain()?;
    other.ask(target.ip)?;
    other.hear_only("the answer to another asker", &[target.reply_to(&other).frame()])?;
    // A gateway that was not concerned has learned it too, and the target knows its asker already.
    third.ask(target.ip)?;
    third.hear_only("the answer on the third gateway", &[target.reply_to(&third).frame()])?;
    target.hear_nothing("the target is left in peace")?;
    target.ask(asker.ip)?;
    target.hear_only("the way back", &[asker.reply_to(&target).frame()])?;
    world.expect_count(0, "arp/answered_locally", 2)?;
    world.expect_count(1, "arp/answered_locally", 1)?;
    world.expect_count(2, "arp/answered_locally", 1)?;
    world.expect_count(0, "arp/rpc_requests_sent", 1)?;
    world.expect_count(1, "arp/rpc_requests_sent", 0)?;
    world.expect_count(2, "arp/rpc_requests_sent", 0)
}

/// When the entry has expired, the peers are asked again. The owner answers its gateway's verification meanwhile, so
/// nothing is withdrawn.
pub(crate) fn expiry() -> Outcome {
    let world = World::new(2, 2)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let owner = world.lab.container(1, "owner", &["10.0.3.104/24"])?;
    // A kernel's own answer has no padding, and comes as it is.
    let answer = Arp::reply(owner.mac_bytes()?, "10.0.3.104".parse()?, asker.mac, asker.ip).frame()[..42].to_vec();
    asker.ask("10.0.3.104".parse()?)?;
    asker.hear("the first answer", &answer)?;
    world.await_count(0, "arp/rpc_requests_sent", 1)?;
    until("the entry to expire on gw-a", Duration::from_secs(6), || Ok(world.belief(0, 0, "10.0.3.104")?.is_none()))?;
    world.expect_count(0, "arp/withdrawn", 0)?;
    asker.drain()?;
    asker.ask("10.0.3.104".parse()?)?;
    asker.hear_only("the answer after the expiry", &[answer])?;
    world.expect_count(0, "arp/rpc_requests_sent", 2)?;
    // If the owner was verified meanwhile, it was there. (The silent asker, on the other gateway, is another matter.)
    world.expect_count(1, "arp/gone", 0)
}

/// A host that left without a word is withdrawn everywhere before the peers would have forgotten it.
pub(crate) fn withdrawal() -> Outcome {
    withdrawn_within(24)
}

/// The same where everything has to be quick.
pub(crate) fn quick_withdrawal() -> Outcome {
    withdrawn_within(6)
}

fn withdrawn_within(expiry: u32) -> Outcome {
    let world = World::new(3, expiry)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut target = world.station(1, "target", "10.0.3.104")?;
    world.resolve(&mut asker, &mut target)?;
    world.await_belief("10.0.3.104", target.mac, 1)?;
    target.rest()?;
    let target_mac = target.mac;
    // Not a glance at the daemons until this is over: every question to a gateway makes it look at its clock.
    let limit = Duration::from_secs(u64::from(expiry) + 1);
    let is_verification = |frame: &[u8]| {
        Arp::parse(frame).is_some_and(|arp| {
            arp.destination == target_mac
                && !arp.sender_ip.is_unspecified()
                && arp.target_ip.octets() == [10, 0, 3, 104]
        })
    };
    for number in 1..=3 {
        let frame = target.wait_for(&format!("verification {number}"), limit, is_verification)?;
        ensure(frame[..6] == target.mac, "the verification is not for its host alone")?;
    }
    for gateway in [0, 2] {
        until("the withdrawal to arrive", SOON, || Ok(world.belief(gateway, 0, "10.0.3.104")?.is_none()))?;
        let withdrawn = world.messages(gateway, "received", "arp_withdraw")?;
        let expired = world.count(gateway, "arp/expired")?;
        ensure(
            withdrawn.iter().any(|m| m["message"]["target_ip4"] == "10.0.3.104" && m["peer"] == "gw-b"),
            format!("the entry is gone without an arp_withdraw ({expired} entries have expired)"),
        )?;
    }
    world.expect_count(1, "arp/gone", 1)?;
    // gw-a had one entry from a peer; if it was withdrawn, it did not expire.
    world.expect_count(0, "arp/withdrawn", 1)?;
    world.expect_count(0, "arp/expired", 0)
}

/// A question to one station checks whether it is alive: only that station may answer.
pub(crate) fn unicast_request() -> Outcome {
    let world = World::new(3, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut target = world.station(1, "target", "10.0.3.104")?;
    let mut third = world.station(2, "third", "10.0.3.7")?;
    world.resolve(&mut asker, &mut target)?;
    for station in [&mut asker, &mut target, &mut third] {
        station.rest()?;
    }
    let check = Arp { destination: target.mac, ..asker.request(target.ip) };
    asker.send(&check.frame())?;
    target.hear_only("the check", &[check.frame()])?;
    asker.hear_nothing("the owner has not answered")?;
    target.send(&target.reply_to(&asker).frame())?;
    asker.hear_only("the owner's answer", &[target.reply_to(&asker).frame()])?;
    third.hear_nothing("it is nobody else's business")?;
    world.expect_count(0, "arp/answered_locally", 0)?;
    world.expect_count(0, "arp/rpc_requests_sent", 1)
}

/// Whoever is on the asker's own side answers by itself.
pub(crate) fn own_side() -> Outcome {
    let world = World::new(2, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut neighbour = world.station(0, "neighbour", "10.0.3.4")?;
    let mut far = world.station(1, "far", "10.0.3.104")?;
    neighbour.send(&arp::gratuitous(neighbour.mac, neighbour.ip))?;
    far.hear_only("the announcement", &[arp::gratuitous(neighbour.mac, neighbour.ip)])?;
    asker.rest()?;
    asker.ask(neighbour.ip)?;
    neighbour.hear_only("the question, from the bridge", &[asker.request(neighbour.ip).frame()])?;
    asker.hear_nothing("the gateway does not answer for a neighbour")?;
    far.hear_nothing("the far segment is not asked")?;
    world.expect_count(0, "arp/rpc_requests_sent", 0)?;
    world.expect_count(0, "arp/left_to_owner", 1)?;
    neighbour.send(&neighbour.reply_to(&asker).frame())?;
    asker.hear_only("the neighbour's answer", &[neighbour.reply_to(&asker).frame()])
}

/// Nobody has the address: two tries, and one more for each that the host makes. When it appears after all, it is found.
pub(crate) fn absent_target() -> Outcome {
    let world = World::new(2, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut far = world.station(1, "far", "10.0.3.104")?;
    let ghost = "10.0.3.250".parse()?;
    let question = asker.request(ghost).frame();
    asker.ask(ghost)?;
    until("the question to be given up", Duration::from_secs(10), || {
        Ok(world.daemons[0].counter("/arp/unanswered")? == 1)
    })?;
    let tries = world.count(0, "arp/rpc_requests_sent")?;
    ensure(tries == 2, format!("{tries} tries"))?;
    far.hear_only("the tries", &vec![question.clone(); tries as usize])?;
    for number in 1..=3 {
        asker.ask(ghost)?;
        far.hear_only("as on a bridge", std::slice::from_ref(&question))?;
        world.expect_count(0, "arp/rpc_requests_sent", tries + number)?;
        std::thread::sleep(Duration::from_millis(700));
    }
    let unanswered = world.daemons[0].status("arp")?["unanswered"].clone();
    ensure(unanswered[0]["ip"] == "10.0.3.250", format!("unanswered: {unanswered}"))?;
    // A host appears, and says nothing. The asker's host goes on asking every second, as hosts do.
    let late = world.lab.container(1, "late", &["10.0.3.250/24"])?;
    let answer = Arp::reply(late.mac_bytes()?, ghost, asker.mac, asker.ip).frame()[..42].to_vec();
    asker.ask(ghost)?;
    asker.hear("an answer to the next question", &answer)
}

/// A host that announces itself ends the back-off at once.
pub(crate) fn announced_after_back_off() -> Outcome {
    let world = World::new(2, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let ghost = world.station(1, "ghost", "10.0.3.250")?;
    asker.ask(ghost.ip)?;
    until("the question to be given up", Duration::from_secs(10), || {
        Ok(world.daemons[0].counter("/arp/unanswered")? == 1)
    })?;
    let announcement = arp::gratuitous(ghost.mac, ghost.ip);
    ghost.send(&announcement)?;
    asker.hear("the announcement", &announcement)?;
    asker.ask(ghost.ip)?;
    asker.hear_only("the answer", &[ghost.reply_to(&asker).frame()])
}

/// One question for all who ask at the same time, one answer for each.
pub(crate) fn several_askers() -> Outcome {
    let world = World::new(2, 300)?;
    let mut askers = Vec::new();
    for (name, ip) in [("a1", "10.0.3.3"), ("a2", "10.0.3.4"), ("a3", "10.0.3.5")] {
        askers.push(world.station(0, name, ip)?);
    }
    let mut target = world.station(1, "target", "10.0.3.104")?;
    askers[0].ask(target.ip)?;
    target.hear("the question", &askers[0].request(target.ip).frame())?;
    for asker in &askers {
        asker.ask(target.ip)?;
    }
    world.await_count(0, "arp/joined", 3)?;
    target.send(&target.reply_to(&askers[0]).frame())?;
    let pending = world.count(0, "arp/rpc_requests_sent")?;
    for asker in &mut askers {
        let answer = target.reply_to(asker).frame();
        asker.hear("an answer", &answer)?;
        // Only the others' questions may follow, not a second answer, nor one for somebody else.
        let more = asker.rest()?;
        let replies = more.iter().filter_map(|frame| Arp::parse(frame)).filter(|arp| arp.destination != BROADCAST);
        ensure(replies.count() == 0, "more than one answer")?;
    }
    // A retry may have been due while the test waited, but nobody caused an RPC of his own.
    ensure(pending <= 2, format!("{pending} RPCs for one address"))?;
    let asked_by_others =
        target.rest()?.iter().filter_map(|frame| Arp::parse(frame)).filter(|a| a.sender_ip != askers[0].ip).count();
    ensure(asked_by_others == 0, "the target was asked by more than the first asker")?;
    world.expect_count(0, "arp/replies_injected", 3)
}

/// The same addresses in a VLAN and beside it are different hosts.
pub(crate) fn vlan() -> Outcome {
    let world = World::new(2, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut inside = world.station(1, "inside", "10.0.3.104")?;
    let mut outside = world.station(1, "outside", "10.0.3.104")?;
    let question = asker.request(inside.ip).frame();
    asker.send(&tagged(&question, 10))?;
    inside.hear("the tagged question", &tagged(&question, 10))?;
    inside.send(&tagged(&inside.reply_to(&asker).frame(), 10))?;
    asker.hear_only("the tagged answer", &[tagged(&inside.reply_to(&asker).frame(), 10)])?;
    let known = world.belief(0, 10, "10.0.3.104")?;
    ensure(known == Some((arp::format_mac(inside.mac), "gw-b".into())), format!("VLAN 10: {known:?}"))?;
    ensure(world.belief(0, 0, "10.0.3.104")?.is_none(), "known without a tag, too")?;
    // The untagged question is another one.
    outside.rest()?;
    asker.send(&question)?;
    outside.hear("the untagged question", &question)?;
    outside.send(&outside.reply_to(&asker).frame())?;
    asker.hear_only("the untagged answer", &[outside.reply_to(&asker).frame()])?;
    inside.rest()?;
    asker.send(&tagged(&question, 10))?;
    asker.hear_only("from VLAN 10's table", &[tagged(&inside.reply_to(&asker).frame(), 10)])?;
    inside.hear_nothing("VLAN 10 is known")?;
    world.expect_count(0, "arp/answered_locally", 1)
}

/// What is no legal ARP goes nowhere; what is ARP for other hardware or protocols, or RARP, goes as data.
pub(crate) fn malformed_and_foreign() -> Outcome {
    let world = World::new(2, 300)?;
    let asker = world.station(0, "asker", "10.0.3.3")?;
    let mut far = world.station(1, "far", "10.0.3.104")?;
    let good = asker.request(far.ip);
    let all_as_sender = Arp { sender_mac: [0xff; 6], ..good }.frame();
    let multicast_target = asker.request("224.0.0.1".parse()?).frame();
    let zero_sender = Arp { sender_mac: [0; 6], ..good }.frame();
    let truncated = good.frame()[..34].to_vec();
    for (number, (what, frame)) in [
        ("truncated", truncated),
        ("everybody as sender", all_as_sender),
        ("a multicast target", multicast_target),
        ("zero as sender", zero_sender),
    ]
    .into_iter()
    .enumerate()
    {
        asker.send(&frame)?;
        let counted = world.await_count(0, "drops/arp_malformed", number as u64 + 1);
        counted.map_err(|_| format!("{what} is not counted as arp_malformed"))?;
    }
    far.hear_nothing("malformed ARP")?;
    world.expect_count(0, "arp/rpc_requests_sent", 0)?;
    let change = |at: usize, to: [u8; 2]| {
        let mut frame = good.frame();
        frame[at..at + 2].copy_from_slice(&to);
        frame
    };
    for (what, frame) in [
        ("ARP of IEEE 802 hardware", change(14, [0, 6])),
        ("ARP for another protocol", change(16, [0x80, 0xf3])),
        ("an inverse ARP request", change(20, [0, 8])),
        ("RARP", {
            let mut frame = change(20, [0, 3]);
            frame[12..14].copy_from_slice(&[0x80, 0x35]);
            frame
        }),
    ] {
        asker.send(&frame)?;
        far.hear_only(what, &[frame])?;
    }
    world.expect_count(0, "drops/arp_malformed", 4)
}
