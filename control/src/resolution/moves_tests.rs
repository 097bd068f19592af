//! Containers that move from one gateway to another, and peers that say so without being right.

use super::net::{Net, both, macs, say};
use super::*;

/// From the first word of a container to the moment when everybody must reach it, and the longest way of a message.
const REACHABLE_MS: u64 = 900;

#[test]
fn a_container_that_moves_is_known_within_a_second() {
    both(|mut net| {
        let (c0, c1) = (net.hosts[0].ip, net.hosts[1].ip);
        net.ask(0, c1);
        net.hosts[1].gateway = 2;
        net.ask(1, c0);
        assert_eq!(net.knows(0, 1), Some(Owner::Peer(PeerId(1))), "its old gateway has not been heard");
        net.advance(REACHABLE_MS);
        for gateway in [0, 1] {
            assert_eq!(net.knows(gateway, 1), Some(Owner::Peer(PeerId(2))), "{gateway}");
        }
        assert_eq!(net.knows(2, 1), Some(Owner::Local));
        let answers = net.answers(0);
        net.ask(0, c1);
        assert_eq!(net.answers(0), answers + 1);
    });
}

/// Back to the gateway that has it at test at that moment, and on again.
#[test]
fn a_container_that_moves_to_and_fro_is_known_within_a_second() {
    both(|mut net| {
        let (c0, c1) = (net.hosts[0].ip, net.hosts[1].ip);
        net.ask(0, c1);
        // More of it within minutes would freeze it (RFC 7432, section 15.1).
        for (gateway, pause) in [(2, 200), (1, 100), (2, REACHABLE_MS)] {
            net.hosts[1].gateway = gateway;
            net.ask(1, c0);
            net.advance(pause);
        }
        let key = MacKey::new(Vlan::UNTAGGED, net.hosts[1].mac);
        let owners = net.gateways.iter().map(|gateway| gateway.macs.table().lookup(key).map(|entry| entry.owner));
        let there = Some(Owner::Peer(PeerId(2)));
        assert_eq!(owners.collect::<Vec<_>>(), [there, there, Some(Owner::Local)]);
    });
}

/// What it says in the meantime is heard in the segment that it has left, too.
#[test]
fn the_first_word_of_a_container_that_has_moved_is_not_lost() {
    both(|mut net| {
        let (c0, c1, c1_mac) = (net.hosts[0].ip, net.hosts[1].ip, net.hosts[1].mac);
        net.hosts[3].gateway = 1;
        net.ask(0, c1);
        net.hosts[1].gateway = 2;
        let frame = say::announcement(c1, c1_mac, false, Announcement::Reply, Vlan::UNTAGGED);
        net.say(1, &frame);
        let announced = |net: &Net, host: usize| {
            let of_it = |h: &&Heard| matches!(h, Heard::Announced { mac, .. } if *mac == c1_mac);
            net.hosts[host].heard.iter().filter(of_it).count()
        };
        // Everybody hears it when the gateway that it has left has spoken.
        assert_eq!((announced(&net, 0), announced(&net, 3)), (0, 0));
        net.advance(500);
        assert_eq!((announced(&net, 0), announced(&net, 3)), (1, 1));
        net.ask(0, c1);
        net.ask(3, c0);
        assert_eq!((net.answers(0), net.answers(3)), (2, 1));
    });
}

/// It need not be repeated to be answered.
#[test]
fn the_first_question_of_a_container_that_has_moved_is_answered() {
    both(|mut net| {
        let (c1, neighbour) = (net.hosts[1].ip, net.hosts[3].ip);
        net.hosts[3].gateway = 1;
        net.ask(0, c1);
        net.hosts[1].gateway = 2;
        net.ask(1, neighbour);
        assert_eq!(net.answers(1), 0);
        net.advance(500);
        assert_eq!(net.answers(1), 1);
        net.advance(2000);
        assert_eq!(net.answers(1), 1, "once");
    });
}

/// Nor by a third gateway: an answer before everybody knows where it is would go to where it was.
#[test]
fn the_first_question_to_a_third_gateway_is_answered() {
    both(|mut net| {
        let (c0, c1) = (net.hosts[0].ip, net.hosts[1].ip);
        net.ask(0, c1);
        net.advance(2000);
        for (gateway, answers) in [(2, 1), (1, 2), (2, 3)] {
            net.hosts[1].gateway = gateway;
            net.ask(1, c0);
            net.advance(500);
            assert_eq!(net.answers(1), answers, "at {gateway}");
            let key = MacKey::new(Vlan::UNTAGGED, net.hosts[1].mac);
            let place = net.gateways[0].macs.table().lookup(key).map(|entry| entry.owner);
            assert_eq!(place, Some(Owner::Peer(PeerId(gateway as u16))));
            net.advance(12_000);
        }
    });
}

#[test]
fn a_peer_does_not_take_a_mac_that_lives_here_nor_its_address() {
    both(|mut net| {
        net.ask(0, net.hosts[1].ip);
        let (mac, vlan) = (net.hosts[0].mac, Vlan::UNTAGGED);
        for seq in [1000, 2000, 3000, 1, 1500] {
            let message = Message::MacMoved(crate::rpc::MacMoved { mac, vlan, seq });
            for gateway in [0, 2] {
                net.step(gateway, |resolver, step| resolver.from_peer(PeerId(1), &message, None, step)).unwrap();
            }
            assert_eq!(net.knows(0, 0), Some(Owner::Local));
            net.advance(1000);
            let owner = |net: &Net, gateway: usize| {
                net.gateways[gateway].macs.table().lookup(MacKey::new(vlan, mac)).map(|entry| entry.owner)
            };
            assert_eq!((net.knows(0, 0), owner(&net, 0)), (Some(Owner::Local), Some(Owner::Local)), "{seq}");
            assert_eq!(owner(&net, 2), Some(Owner::Peer(PeerId(0))), "the third hears who has it");
        }
        let refused = |(at, refusal): &&(usize, Refusal)| *at == 0 && refusal.reason == Reason::MacIsHere;
        assert_eq!(net.refusals.iter().filter(refused).count(), 5);
    });
}

#[test]
fn a_mac_that_is_on_two_sides_stays_on_both() {
    both(|mut net| {
        net.hosts[3].mac = net.hosts[0].mac;
        let c1 = net.hosts[1].ip;
        for _ in 0..20 {
            net.ask(0, c1);
            net.advance(100);
            net.ask(3, c1);
            net.advance(100);
        }
        let key = MacKey::new(Vlan::UNTAGGED, net.hosts[0].mac);
        for gateway in [0, 2] {
            let entry = net.gateways[gateway].macs.table().lookup(key).unwrap();
            assert_eq!(entry.owner, Owner::Local, "{gateway}");
            assert_eq!(net.gateways[gateway].macs.stats.moved_away, 0, "{gateway}");
        }
    });
}

/// The MAC table has no place for every MAC of this side, and then every claim to one is new.
#[test]
fn an_address_that_lives_here_stays_though_its_mac_is_not_in_the_table() {
    both(|mut net| {
        let local = crate::limits::Share { macs: Some(0), addresses: None };
        let limits = Limits { local, ..Limits::none(3) };
        net.gateways[0].macs = macs(limits);
        let host = &net.hosts[0];
        let (ip, mac) = (host.ip, host.mac);
        net.say(0, &say::announcement(ip, mac, false, Announcement::Reply, Vlan::UNTAGGED));
        let reply = Reply {
            target: ip,
            mac,
            uid: "uid-1".to_owned(),
            vlan: Vlan::UNTAGGED,
            seq: 9,
            asker_mac: None,
            announcement: None,
            router: false,
            overrides: true,
            frame: None,
        };
        net.step(0, |resolver, step| resolver.from_peer(PeerId(1), &Message::Reply(reply), None, step)).unwrap();
        assert_eq!(net.knows(0, 0), Some(Owner::Local));
        net.advance(2000);
        assert_eq!(net.knows(0, 0), Some(Owner::Local));
    });
}

#[test]
fn a_move_is_found_out_though_the_number_was_lost() {
    both(|mut net| {
        let (c0, c1) = (net.hosts[0].ip, net.hosts[1].ip);
        net.ask(0, c1);
        // Gateway 2 forgot everything, as after a restart.
        net.gateways[2].macs = macs(Limits::none(3));
        net.hosts[1].gateway = 2;
        net.advance(2000);
        net.ask(1, c0);
        net.advance(1000);
        assert_eq!(net.knows(1, 1), Some(Owner::Peer(PeerId(2))), "the old gateway let go");
        assert_eq!(net.answers(1), 1, "and the asker was answered within a second");
    });
}
