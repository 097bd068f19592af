//! What is asked, answered, announced, verified and forgotten, in the network of `net.rs`.

use super::net::{EXPIRY_S, FRESH_S, Net, both, say};
use super::questions::{ASKER_RATE, PATIENCE_MS, RETRY_MS, RPC_RATE};
use super::*;

#[test]
fn the_six_steps_of_the_page() {
    both(|mut net| {
        let c1 = net.hosts[1].ip;
        net.ask(0, c1);
        assert_eq!(net.answers(0), 1, "exactly one reply reaches the asker");
        assert_eq!((net.sent("_request"), net.sent("_reply")), (2, 2), "to both peers each");
        assert_eq!(net.data, 0, "nothing was forwarded as data");
        net.advance(200);
        assert_eq!(net.knows(0, 1), Some(Owner::Peer(PeerId(1))));
        assert_eq!(net.knows(2, 1), Some(Owner::Peer(PeerId(1))), "a gateway that was not concerned knows too");
        assert_eq!(net.knows(1, 0), Some(Owner::Peer(PeerId(0))), "and the asker is known");
        let Heard::Question { asker, asker_mac, .. } = net.hosts[1].heard[0] else { panic!() };
        assert_eq!((asker, asker_mac), (Some(net.hosts[0].ip), net.hosts[0].mac), "asked in the asker's name");
    });
}

#[test]
fn answered_locally_while_it_is_fresh_and_confirmed_by_its_gateway_afterwards() {
    both(|mut net| {
        let c1 = net.hosts[1].ip;
        net.ask(0, c1);
        let before = net.messages.len();
        net.advance(900);
        net.ask(0, c1);
        assert_eq!(
            (net.answers(0), net.stats(0).answered_locally, net.messages.len()),
            (2, 1, before),
            "no message left"
        );
        // When the holder has been quiet for a while its gateway is asked whether that is still true.
        net.advance(400);
        net.ask(0, c1);
        assert_eq!((net.answers(0), net.stats(0).answered_locally, net.sent("_query")), (3, 2, 0));
        net.advance(300);
        assert_eq!((net.sent("_query"), net.stats(1).verifications), (1, 1));
        let (requests, sent) = (net.sent("_request"), net.stats(0).rpc_requests_sent);
        net.advance(u64::from(FRESH_S) * 1000 + 1000);
        net.ask(0, c1);
        assert_eq!((net.answers(0), net.stats(0).answered_locally, net.stats(0).confirmed), (4, 2, 1));
        assert_eq!(
            (net.sent("_request"), net.stats(0).rpc_requests_sent),
            (requests + 1, sent + 1),
            "it alone is asked"
        );
        net.advance(u64::from(EXPIRY_S) * 3000);
        net.ask(0, c1);
        assert_eq!((net.answers(0), net.sent("_request")), (5, requests + 3), "everybody is asked anew");
    });
}

#[test]
fn a_gateway_that_is_asked_for_what_has_gone_says_so_and_the_others_are_asked() {
    both(|mut net| {
        let (c1, other) = (net.hosts[1].ip, net.hosts[3].mac);
        net.ask(0, c1);
        net.advance(u64::from(FRESH_S) * 1000 + 1000);
        // Somebody behind the third gateway has it now, and has not said so.
        net.hosts[1].silent = true;
        net.hosts[3].ip = c1;
        net.hosts[0].heard.clear();
        net.ask(0, c1);
        net.advance(700);
        assert_eq!(net.hosts[0].answers_from(other), 1);
        assert_eq!(net.hosts[0].answers_from(net.hosts[1].mac), 0);
        let key = Key { vlan: Vlan::UNTAGGED, ip: c1 };
        assert_eq!(net.gateways[0].resolver.entries.get(&key).map(|entry| entry.mac), Some(other));
    });
}

#[test]
fn whoever_was_given_a_wrong_answer_hears_the_right_one() {
    both(|mut net| {
        let (c1, other, c2) = (net.hosts[1].ip, net.hosts[3].mac, 2);
        net.ask(0, c1);
        net.advance(2000);
        net.hosts[1].silent = true;
        net.hosts[3].ip = c1;
        // Fresh as it is, it is wrong, and that is found out.
        net.ask(c2, c1);
        assert_eq!(net.hosts[c2].answers_from(net.hosts[1].mac), 1);
        net.advance(2000);
        let of_other =
            |heard: &Heard| matches!(heard, Heard::Announced { mac, .. } | Heard::Answer { mac, .. } if *mac == other);
        let right = net.hosts[c2].heard.iter().any(of_other);
        assert!(right, "{:?}", net.hosts[c2].heard);
    });
}

#[test]
fn several_askers_share_one_question() {
    both(|mut net| {
        net.hosts[1].silent = true;
        let c1 = net.hosts[1].ip;
        net.ask(0, c1);
        net.ask(2, c1);
        net.ask(0, c1);
        assert_eq!((net.sent("_request"), net.stats(0).joined), (2, 2));
        net.hosts[1].silent = false;
        net.advance(RETRY_MS);
        assert_eq!((net.answers(0), net.answers(2)), (1, 1), "one reply each");
    });
}

#[test]
fn a_target_that_does_not_exist_is_asked_for_with_bounds() {
    both(|mut net| {
        let nobody = if net.hosts[0].ip.is_ipv4() { "10.0.3.99" } else { "fd00::99" }.parse().unwrap();
        for _ in 0..60 {
            net.ask(0, nobody);
            net.advance(1000);
        }
        let sent = net.stats(0).rpc_requests_sent;
        // As on a bridge, once for each time the host asks, and once more for the first.
        assert!((60..=62).contains(&sent), "{sent} questions in a minute of asking every second");
        assert_eq!(net.answers(0), 0);
    });
}

#[test]
fn one_that_appears_is_found_though_it_was_given_up() {
    both(|mut net| {
        net.hosts[1].silent = true;
        let c1 = net.hosts[1].ip;
        net.ask(0, c1);
        net.advance(RETRY_MS + PATIENCE_MS);
        assert_eq!(net.stats(0).unanswered, 1);
        net.hosts[1].silent = false;
        let host = &net.hosts[1];
        let frame = say::announcement(host.ip, host.mac, false, Announcement::Reply, Vlan::UNTAGGED);
        net.say(1, &frame);
        net.advance(150);
        net.ask(0, c1);
        assert_eq!((net.answers(0), net.stats(0).answered_locally), (1, 1));
    });
}

#[test]
fn an_address_on_the_own_side_is_left_to_its_owner() {
    both(|mut net| {
        let (c0, c2) = (net.hosts[0].ip, net.hosts[2].ip);
        net.ask(2, c0);
        net.advance(5000);
        let before = net.messages.len();
        net.ask(0, c2);
        assert_eq!((net.answers(0), net.messages.len()), (1, before), "the owner's own answer, and no message");
        // The owner is gone, but nobody knows: the second question goes out.
        net.hosts[2].silent = true;
        net.advance(5000);
        net.ask(0, c2);
        assert_eq!(net.messages.len(), before);
        net.advance(1000);
        net.ask(0, c2);
        assert!(net.messages.len() > before);
    });
}

#[test]
fn a_question_to_one_station_goes_there_as_it_is() {
    let mut net = Net::new(false);
    let (c1, c1_mac) = (net.hosts[1].ip, net.hosts[1].mac);
    net.ask(0, c1);
    let messages = net.messages.len();
    let asker = &net.hosts[0];
    let mut unicast = say::question(c1, Some(asker.ip), asker.mac, Vlan::UNTAGGED);
    unicast[..6].copy_from_slice(&c1_mac.0);
    net.say(0, &unicast);
    assert_eq!((net.answers(0), net.data), (2, 2), "there and back as data");
    assert_eq!(net.messages.len(), messages);
    net.hosts[1].silent = true;
    net.say(0, &unicast);
    assert_eq!(net.answers(0), 2, "never answered from the table");
}

#[test]
fn a_probe_reaches_the_owner_and_its_conflict_comes_back() {
    let mut net = Net::new(false);
    let (c1, prober) = (net.hosts[1].ip, net.hosts[0].mac);
    net.ask(2, c1);
    let frame = say::question(c1, None, prober, Vlan::UNTAGGED);
    net.say(0, &frame);
    assert_eq!(net.answers(0), 1);
    assert!(net.hosts[1].heard.iter().any(|h| matches!(h, Heard::Question { asker: None, .. })));
    // Nobody has the address: silence, and no back-off for those who ask later.
    let free: IpAddr = "10.0.3.50".parse().unwrap();
    net.say(0, &say::question(free, None, prober, Vlan::UNTAGGED));
    net.advance(5000);
    assert_eq!((net.answers(0), net.stats(0).unanswered), (1, 0));
}

#[test]
fn announcements_are_repeated_everywhere() {
    both(|mut net| {
        let host = &net.hosts[1];
        let (ip, mac) = (host.ip, host.mac);
        for round in 1..=3 {
            net.say(1, &say::announcement(ip, mac, false, Announcement::Reply, Vlan::UNTAGGED));
            // Of the first one nothing is known: stations there may object.
            net.advance(if round == 1 { 150 } else { 0 });
            for other in [0, 2, 3] {
                let announced = Heard::Announced { ip, mac, flags: Flags::OF_ARP, how: Announcement::Reply };
                let heard = net.hosts[other].heard.iter().filter(|heard| **heard == announced).count();
                let own = |heard: &&Heard| matches!(heard, Heard::Question { asker_mac, .. } if asker_mac.0[0] == 0xfe);
                assert_eq!((heard, net.hosts[other].heard.iter().filter(own).count()), (round, 1), "{other}");
            }
        }
        assert_eq!(net.knows(0, 1), Some(Owner::Peer(PeerId(1))));
    });
}

/// Of what has only been announced all are asked once more, and nobody waits for that.
#[test]
fn what_has_been_announced_is_told_to_everyone_who_asks() {
    both(|mut net| {
        let host = &net.hosts[1];
        let (ip, frame) = (host.ip, say::announcement(host.ip, host.mac, false, Announcement::Reply, Vlan::UNTAGGED));
        net.say(1, &frame);
        net.advance(150);
        net.hosts[1].silent = true;
        net.ask(0, ip);
        net.ask(2, ip);
        net.ask(0, ip);
        assert_eq!((net.answers(0), net.answers(2), net.stats(0).rpc_requests_sent), (2, 1, 1));
    });
}

#[test]
fn a_host_that_left_is_withdrawn_everywhere() {
    both(|mut net| {
        let c1 = net.hosts[1].ip;
        net.ask(0, c1);
        net.hosts[1].silent = true;
        net.advance(u64::from(EXPIRY_S) * 1000 / 2 + VERIFY_MS * 5);
        assert_eq!((net.knows(0, 1), net.knows(1, 1), net.knows(2, 1)), (None, None, None));
        assert_eq!(net.stats(0).withdrawn, 1);
    });
}

#[test]
fn a_host_that_lives_is_verified_quietly() {
    both(|mut net| {
        let c1 = net.hosts[1].ip;
        net.ask(0, c1);
        let messages = net.messages.len();
        net.advance(u64::from(EXPIRY_S) * 1000 - 1000);
        assert_eq!(net.knows(0, 1), Some(Owner::Peer(PeerId(1))));
        assert!(net.stats(1).verifications >= 1);
        assert_eq!(net.messages.len(), messages);
        net.advance(u64::from(EXPIRY_S) * 1000 * 2);
        assert_eq!((net.knows(0, 1), net.knows(1, 1)), (None, None), "a quiet network becomes quiet");
    });
}

#[test]
fn a_peer_does_not_take_an_address_that_lives_here() {
    let mut net = Net::new(false);
    let (c0, c0_mac, thief) = (net.hosts[0].ip, net.hosts[0].mac, net.hosts[3].mac);
    net.ask(0, net.hosts[1].ip);
    net.say(3, &say::announcement(c0, thief, false, Announcement::Reply, Vlan::UNTAGGED));
    net.advance(5000);
    let key = Key { vlan: Vlan::UNTAGGED, ip: c0 };
    let entry = net.gateways[0].resolver.entries.get(&key).unwrap();
    assert_eq!((entry.mac, entry.owner), (c0_mac, Owner::Local));
    assert_eq!(net.stats(0).conflicts, 1);
}

#[test]
fn an_address_whose_owner_is_silent_goes_to_the_one_that_announces_it() {
    both(|mut net| {
        let (c0, standby) = (net.hosts[0].ip, net.hosts[3].mac);
        net.ask(0, net.hosts[1].ip);
        net.hosts[0].silent = true;
        net.say(3, &say::announcement(c0, standby, false, Announcement::Reply, Vlan::UNTAGGED));
        net.advance(1500);
        for gateway in [0, 1] {
            let key = Key { vlan: Vlan::UNTAGGED, ip: c0 };
            let entry = net.gateways[gateway].resolver.entries.get(&key).unwrap();
            assert_eq!((entry.mac, entry.owner), (standby, Owner::Peer(PeerId(2))), "{gateway}");
        }
    });
}

#[test]
fn a_router_that_asks_remains_a_router() {
    let mut net = Net::new(true);
    let (ip, mac) = (net.hosts[1].ip, net.hosts[1].mac);
    net.say(1, &say::announcement(ip, mac, true, Announcement::Reply, Vlan::UNTAGGED));
    net.advance(150);
    net.ask(1, net.hosts[0].ip);
    net.ask(0, ip);
    let answer = net.hosts[0].heard.iter().rev().find(|h| matches!(h, Heard::Answer { .. }));
    assert_eq!(answer, Some(&Heard::Answer { ip, mac, flags: Flags { router: true, overrides: true } }));
}

#[test]
fn an_owner_that_several_ask_for_is_verified() {
    both(|mut net| {
        let (c0, c2) = (net.hosts[0].ip, net.hosts[2].ip);
        net.ask(2, c0);
        net.hosts[2].silent = true;
        let asker = |net: &mut Net, last| {
            let mac = MacAddr([2, 0, 0, 0, 9, last]);
            let ip: IpAddr = if c0.is_ipv4() {
                IpAddr::from([10, 0, 3, 100 + last])
            } else {
                format!("fd00::9:{last}").parse().unwrap()
            };
            net.step(0, |r, step| r.from_port(&say::question(c2, Some(ip), mac, Vlan::UNTAGGED), false, step)).unwrap();
        };
        for _ in 0..6 {
            asker(&mut net, 1);
            asker(&mut net, 2);
            net.advance(1000);
        }
        assert!(net.stats(0).rpc_requests_sent > 1, "the peers are asked in the end");
    });
}

#[test]
fn retries_keep_to_the_rate() {
    let mut net = Net::new(false);
    for n in 0..4000u32 {
        net.hosts[0].mac = MacAddr([2, 0, 0, 0, 1, n as u8]);
        net.ask(0, IpAddr::from((0x0a00_8000 + n).to_be_bytes()));
    }
    let first = net.stats(0).rpc_requests_sent;
    net.advance(1000);
    let second = net.stats(0).rpc_requests_sent - first;
    assert!(first <= RPC_RATE && second <= RPC_RATE + RPC_RATE / 4, "{first}, then {second} in a second");
}

#[test]
fn one_that_scans_leaves_room_for_others() {
    let mut net = Net::new(false);
    for n in 0..4000u32 {
        net.ask(0, IpAddr::from((0x0a00_8000 + n).to_be_bytes()));
    }
    assert!(net.stats(0).rpc_requests_sent <= ASKER_RATE);
    net.ask(2, net.hosts[1].ip);
    assert_eq!(net.answers(2), 1);
    // What waited is asked in time, and given up in time.
    net.advance(2500);
    assert!(net.stats(0).rpc_requests_sent >= 1024, "{}", net.stats(0).rpc_requests_sent);
    net.advance(4000);
    assert_eq!(net.gateways[0].resolver.pending().map(|(key, ..)| *key).collect::<Vec<_>>(), []);
}

#[test]
fn without_peers_nothing_is_asked_and_nothing_is_held_against_the_target() {
    let mut net = Net::new(false);
    net.up = false;
    let c1 = net.hosts[1].ip;
    net.ask(0, c1);
    net.advance(5000);
    assert_eq!((net.stats(0).not_asked, net.stats(0).unanswered), (1, 0));
    net.up = true;
    net.ask(0, c1);
    assert_eq!(net.answers(0), 1);
}

#[test]
fn vlans_are_apart() {
    let mut net = Net::new(false);
    let c1 = net.hosts[1].ip;
    net.ask(0, c1);
    let asker = &net.hosts[0];
    let tagged = say::question(c1, Some(asker.ip), asker.mac, Vlan::customer(10));
    net.say(0, &tagged);
    assert_eq!(net.stats(0).answered_locally, 0, "the answer of one VLAN is none in another");
    assert_eq!(net.stats(0).rpc_requests_sent, 2);
}
