//! Addresses that two claim: who is believed, who is set right, and that it comes to an end.

use ipop_dataplane::claims::Claims;

use super::net::{Net, both, say};
use super::*;

const UNTAGGED: Vlan = Vlan::UNTAGGED;

fn announce(net: &mut Net, host: usize, ip: IpAddr, mac: MacAddr) {
    // From its own Ethernet source, whatever MAC it names.
    let mut frame = say::announcement(ip, mac, false, Announcement::Reply, UNTAGGED);
    frame[6..12].copy_from_slice(&net.hosts[host].mac.0);
    net.say(host, &frame);
}

fn entry(net: &Net, gateway: usize, ip: IpAddr) -> Option<(MacAddr, Owner)> {
    let key = Key { vlan: UNTAGGED, ip };
    net.gateways[gateway].resolver.entries.get(&key).map(|entry| (entry.mac, entry.owner))
}

/// The last that a host has heard of an address.
fn believes(net: &Net, host: usize, address: IpAddr) -> Option<MacAddr> {
    net.hosts[host].heard.iter().rev().find_map(|heard| match heard {
        Heard::Announced { ip, mac, .. } | Heard::Answer { ip, mac, .. } if *ip == address => Some(*mac),
        _ => None,
    })
}

#[test]
fn a_lie_about_a_living_host_is_set_right_everywhere() {
    both(|mut net| {
        let (c0, c1, c1_mac, liar) = (net.hosts[0].ip, net.hosts[1].ip, net.hosts[1].mac, net.hosts[2].mac);
        net.ask(0, c1);
        net.ask(1, c0);
        net.advance(500);
        announce(&mut net, 2, c1, liar);
        net.advance(1000);
        for (gateway, place) in [(0, Owner::Peer(PeerId(1))), (1, Owner::Local), (2, Owner::Peer(PeerId(1)))] {
            assert_eq!(entry(&net, gateway, c1), Some((c1_mac, place)), "{gateway}");
        }
        for host in [0, 3] {
            assert_eq!(believes(&net, host, c1), Some(c1_mac), "{host}");
        }
        assert!(net.refusals.iter().any(|(at, refusal)| *at == 1 && refusal.reason == Reason::IpIsHere));
    });
}

/// More lies before the truth arrives do not make the first liar the holder.
#[test]
fn two_lies_are_no_better_than_one() {
    both(|mut net| {
        let (c0, c1, c1_mac) = (net.hosts[0].ip, net.hosts[1].ip, net.hosts[1].mac);
        net.ask(0, c1);
        net.ask(1, c0);
        net.advance(500);
        for last in [1, 2, 1, 1] {
            announce(&mut net, 2, c1, MacAddr([2, 0, 0, 0, 8, last]));
        }
        net.advance(2000);
        assert_eq!(entry(&net, 0, c1), Some((c1_mac, Owner::Peer(PeerId(1)))));
        assert_eq!(believes(&net, 0, c1), Some(c1_mac));
    });
}

/// Both gateways know their own holder, and each hears of the other one.
#[test]
fn an_address_with_two_living_holders_does_not_make_gateways_talk_without_end() {
    both(|mut net| {
        let (c1, c1_mac, other) = (net.hosts[1].ip, net.hosts[1].mac, net.hosts[3].mac);
        net.hosts[3].ip = c1;
        net.up = false;
        for host in [1, 3] {
            let mac = net.hosts[host].mac;
            announce(&mut net, host, c1, mac);
        }
        net.up = true;
        for _ in 0..10 {
            announce(&mut net, 1, c1, c1_mac);
            net.advance(1000);
        }
        let replies = net.sent("_reply");
        assert!(replies <= 100, "{replies} in ten seconds of ten announcements to two peers each");
        assert_eq!(entry(&net, 1, c1), Some((c1_mac, Owner::Local)));
        assert_eq!(entry(&net, 2, c1), Some((other, Owner::Local)));
    });
}

/// Only an answer to a question of the gateway's own proves something.
#[test]
fn an_answer_to_the_gateway_that_nobody_asked_for_is_no_proof() {
    both(|mut net| {
        let (c0, c1, c1_mac, liar) = (net.hosts[0].ip, net.hosts[1].ip, net.hosts[1].mac, net.hosts[2].mac);
        // Known by its own question alone.
        net.ask(1, c0);
        net.advance(500);
        let own = net.gateways[0].resolver.own_mac();
        net.say(2, &say::answer(c1, liar, Some(c0), own, UNTAGGED));
        net.advance(2000);
        assert_eq!(entry(&net, 0, c1), Some((c1_mac, Owner::Peer(PeerId(1)))));
    });
}

/// One that asks what nobody answers it is not in the way of others who ask the same.
#[test]
fn a_question_that_a_peer_refuses_does_not_stand_for_all() {
    both(|mut net| {
        let (c0, c1) = (net.hosts[0].ip, net.hosts[1].ip);
        // Gateway 1 listens to c0 alone.
        let claims = [Claims::new(None, Some(vec![c0.into()])), Claims::default(), Claims::default()].into();
        net.gateways[1].resolver.entries.limits = Arc::new(Limits { claims, ..Limits::none(3) });
        net.ask(2, c1);
        net.ask(0, c1);
        for _ in 0..3 {
            net.advance(1000);
            net.ask(0, c1);
        }
        assert!(net.answers(0) >= 1);
    });
}

#[test]
fn a_guest_that_asks_for_very_much_keeps_no_place_from_others() {
    let mut net = Net::new(false);
    for n in 0..8000u32 {
        net.hosts[0].mac = MacAddr([2, 0, 0, 0, 1, (n % 8) as u8]);
        net.ask(0, IpAddr::from((0x0a00_8000 + n).to_be_bytes()));
    }
    let c1 = net.hosts[1].ip;
    net.ask(2, c1);
    net.advance(500);
    assert_eq!(net.answers(2), 1);
}
