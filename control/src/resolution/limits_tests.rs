//! Limits of the table and of what peers may claim, in the networks of the other tests.

use std::collections::HashMap;

use ipop_dataplane::claims::Claims;
use proptest::prelude::*;

use super::net::{Net, both, say};
use super::*;
use crate::limits::Share;

const UNTAGGED: ipop_dataplane::addr::Vlan = ipop_dataplane::addr::Vlan::UNTAGGED;

fn limit(net: &mut Net, gateway: usize, limits: Limits) {
    net.gateways[gateway].resolver.entries.limits = Arc::new(limits);
}

/// An announcement of this host's MAC for the address with this last octet.
fn announcement(net: &Net, host: usize, last: u8) -> (IpAddr, Vec<u8>) {
    let ip = if net.hosts[host].ip.is_ipv4() {
        IpAddr::from([10, 0, 3, last])
    } else {
        format!("fd00::{last:x}").parse().unwrap()
    };
    (ip, say::announcement(ip, net.hosts[host].mac, false, Announcement::Reply, UNTAGGED))
}

fn known(net: &Net, gateway: usize, owner: Owner) -> usize {
    net.gateways[gateway].resolver.entries.iter().filter(|(_, entry)| entry.owner == owner).count()
}

fn refusals(net: &Net, gateway: usize, reason: Reason) -> usize {
    net.refusals.iter().filter(|(at, refusal)| *at == gateway && refusal.reason == reason).count()
}

#[test]
fn a_peer_speaks_only_for_addresses_that_it_may_have() {
    both(|mut net| {
        let (c1, c1_mac) = (net.hosts[1].ip, net.hosts[1].mac);
        // Gateway 1 may have c1, nothing else.
        let claims = Claims::new(None, Some(vec![c1.into()]));
        limit(&mut net, 0, Limits { claims: [Claims::default(), claims, Claims::default()].into(), ..Limits::none(3) });
        net.ask(0, c1);
        assert_eq!(net.knows(0, 1), Some(Owner::Peer(PeerId(1))));
        net.hosts[0].heard.clear();
        let (stolen, frame) = announcement(&net, 1, 99);
        net.say(1, &frame);
        let (unknown, _) = announcement(&net, 1, 77);
        let question = say::question(unknown, Some(stolen), c1_mac, UNTAGGED);
        net.say(1, &question);
        let probe = say::question(stolen, None, c1_mac, UNTAGGED);
        net.say(1, &probe);
        assert_eq!(net.hosts[0].heard, [], "nothing of it is heard on the other side");
        assert_eq!((known(&net, 0, Owner::Peer(PeerId(1))), refusals(&net, 0, Reason::IpNotAllowed)), (1, 3));
        // The third gateway has no list.
        net.advance(200);
        assert_eq!(known(&net, 2, Owner::Peer(PeerId(1))), 2);
    });
}

#[test]
fn a_peer_has_as_many_addresses_as_it_may_have() {
    both(|mut net| {
        let shares = vec![Share::default(), Share { macs: None, addresses: Some(3) }, Share::default()];
        limit(&mut net, 0, Limits { shares, ..Limits::none(3) });
        for last in 10..20 {
            let (_, frame) = announcement(&net, 1, last);
            net.say(1, &frame);
        }
        net.advance(200);
        assert_eq!((known(&net, 0, Owner::Peer(PeerId(1))), refusals(&net, 0, Reason::PeerAddresses)), (3, 7));
        // What it has it may confirm, and another peer is not concerned.
        let (_, frame) = announcement(&net, 1, 12);
        net.say(1, &frame);
        let (_, frame) = announcement(&net, 3, 30);
        net.say(3, &frame);
        net.advance(200);
        assert_eq!((known(&net, 0, Owner::Peer(PeerId(2))), refusals(&net, 0, Reason::PeerAddresses)), (1, 7));
    });
}

#[test]
fn one_mac_has_as_many_addresses_as_it_may_have() {
    both(|mut net| {
        limit(&mut net, 0, Limits { addresses_per_mac: Some(3), ..Limits::none(3) });
        for last in 10..20 {
            let (_, frame) = announcement(&net, 0, last);
            net.say(0, &frame);
        }
        // Nor does it ask in the name of more.
        let (other, _) = announcement(&net, 0, 50);
        net.say(0, &say::question(net.hosts[1].ip, Some(other), net.hosts[0].mac, UNTAGGED));
        assert_eq!((known(&net, 0, Owner::Local), refusals(&net, 0, Reason::StationAddresses)), (3, 8));
        net.advance(200);
        assert_eq!(known(&net, 1, Owner::Peer(PeerId(0))), 3, "peers hear of no more");
        // Its neighbour is not concerned.
        net.ask(2, net.hosts[1].ip);
        assert_eq!(net.knows(0, 2), Some(Owner::Local));
    });
}

#[test]
fn this_side_leaves_room_for_the_addresses_of_peers() {
    both(|mut net| {
        let local = Share { macs: None, addresses: Some(2) };
        limit(&mut net, 0, Limits { local, ..Limits::none(3) });
        for last in 10..13 {
            let (_, frame) = announcement(&net, 0, last);
            net.say(0, &frame);
        }
        assert_eq!((known(&net, 0, Owner::Local), refusals(&net, 0, Reason::LocalAddresses)), (2, 1));
        // An address that passes from one station here to another takes no more room.
        let (_, frame) = announcement(&net, 2, 10);
        net.say(2, &frame);
        assert_eq!((known(&net, 0, Owner::Local), refusals(&net, 0, Reason::LocalAddresses)), (2, 1));
    });
}

#[test]
fn an_address_that_lives_here_is_not_announced_as_a_peers() {
    both(|mut net| {
        net.ask(0, net.hosts[1].ip);
        net.hosts[2].heard.clear();
        let frame = say::announcement(net.hosts[0].ip, net.hosts[3].mac, false, Announcement::Reply, UNTAGGED);
        net.say(3, &frame);
        net.say(3, &say::question(net.hosts[1].ip, Some(net.hosts[0].ip), net.hosts[3].mac, UNTAGGED));
        net.advance(5000);
        let thief = net.hosts[3].mac;
        let of_thief = |heard: &&Heard| match heard {
            Heard::Announced { mac, .. } | Heard::Answer { mac, .. } => *mac == thief,
            Heard::Question { asker_mac, .. } => *asker_mac == thief,
            Heard::Foreign => false,
        };
        assert_eq!(net.hosts[2].heard.iter().filter(of_thief).count(), 0);
        assert!(refusals(&net, 0, Reason::IpIsHere) >= 1);
        // Once the owner is silent, its neighbours hear who has the address now.
        net.hosts[0].silent = true;
        net.say(3, &frame);
        net.advance(2000);
        assert_eq!(net.hosts[2].heard.iter().filter(of_thief).count(), 1);
    });
}

/// What can happen to the table.
#[derive(Debug, Clone)]
enum Change {
    Put { ip: u8, mac: u8, owner: Owner },
    Remove { ip: u8 },
    Give { mac: u8, peer: u16 },
    Forget { peer: u16 },
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![Just(Owner::Local), (0..2u16).prop_map(|peer| Owner::Peer(PeerId(peer)))]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..12u8, 0..4u8, owner()).prop_map(|(ip, mac, owner)| Change::Put { ip, mac, owner }),
        1 => (0..12u8).prop_map(|ip| Change::Remove { ip }),
        1 => (0..4u8, 0..2u16).prop_map(|(mac, peer)| Change::Give { mac, peer }),
        1 => (0..2u16).prop_map(|peer| Change::Forget { peer }),
    ]
}

proptest! {
    /// Whatever happens, nobody has more than the limits say, and one that has less finds room.
    #[test]
    fn nobody_exceeds_its_share(changes in proptest::collection::vec(change(), 1..100)) {
        let limits = Limits {
            shares: vec![Share { macs: None, addresses: Some(3) }; 2],
            local: Share { macs: None, addresses: Some(5) },
            addresses_per_mac: Some(2),
            ..Limits::none(3)
        };
        let mut entries = Entries::new(Arc::new(limits));
        let key = |ip: u8| Key { vlan: UNTAGGED, ip: IpAddr::from([10, 0, 0, ip]) };
        let mac = |last: u8| MacAddr([2, 0, 0, 0, 0, last]);
        for change in changes {
            match change {
                Change::Put { ip, mac: last, owner } => {
                    let others: Vec<MacAddr> = entries
                        .iter()
                        .filter(|(k, e)| **k != key(ip) && e.owner == owner)
                        .map(|(_, e)| e.mac)
                        .collect();
                    let (all, per_mac) = (others.len(), others.iter().filter(|m| **m == mac(last)).count());
                    let fits = match owner {
                        Owner::Local => all < 5 && per_mac < 2,
                        Owner::Peer(_) => all < 3,
                    };
                    let word = Word {
                        owner,
                        mac: mac(last),
                        station: mac(last),
                        flags: None,
                        source: Source::Reply,
                        announcement: None,
                        frame: None,
                    };
                    let entry = Entry::of(&word, None, arbitration::Evidence::Checked, 0, 1000);
                    prop_assert_eq!(entries.put(key(ip), entry).is_ok(), fits);
                }
                Change::Remove { ip } => drop(entries.remove(&key(ip))),
                Change::Give { mac: last, peer } => entries.give(MacKey::new(UNTAGGED, mac(last)), PeerId(peer)),
                Change::Forget { peer } => {
                    entries.of_peer(PeerId(peer)).iter().for_each(|key| drop(entries.remove(key)));
                    prop_assert!(entries.iter().all(|(_, entry)| entry.owner != Owner::Peer(PeerId(peer))));
                }
            }
            let mut held: HashMap<(Owner, Option<MacAddr>), usize> = HashMap::new();
            for (_, entry) in entries.iter() {
                *held.entry((entry.owner, None)).or_default() += 1;
                if entry.owner == Owner::Local {
                    *held.entry((entry.owner, Some(entry.mac))).or_default() += 1;
                }
            }
            for ((owner, mac), count) in held {
                let limit = match (owner, mac) { (Owner::Peer(_), _) => 3, (_, None) => 5, (_, Some(_)) => 2 };
                prop_assert!(count <= limit, "{:?} {:?} has {}", owner, mac, count);
            }
        }
    }
}
