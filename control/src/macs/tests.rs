//! One MAC, this side and two peers that claim it; and limits.

use ipop_dataplane::claims::Claims;

use super::*;
use crate::limits::Share;

const B: PeerId = PeerId(0);
const C: PeerId = PeerId(1);

fn key() -> MacKey {
    MacKey::new(Vlan::UNTAGGED, MacAddr([2, 0, 0, 0, 0, 1]))
}

fn macs() -> Macs {
    Macs::new(MacTable::new(16, [1, 2]).1, 300)
}

fn entry(macs: &Macs) -> Option<(Owner, u16)> {
    macs.table().lookup(key()).map(|e| (e.owner, e.moves))
}

#[test]
fn a_move_to_here_is_told_to_all() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.claim(key(), B, 4, 0, &mut out);
    macs.here(key(), 0, &mut out);
    assert_eq!(entry(&macs), Some((Owner::Local, 5)));
    assert_eq!(out, [moved(To::All, key(), 5)]);
}

#[test]
fn a_newer_move_takes_a_local_mac_and_tells_the_bridge() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    assert_eq!(out, [moved(To::All, key(), 0)], "a new one is told, too");
    out.clear();
    assert_eq!(macs.claim(key(), B, 1, 0, &mut out), Claim::MovedAway);
    assert_eq!(entry(&macs), Some((Owner::Peer(B), 1)));
    assert!(matches!(&out[..], [Action::Inject(frame)] if frame[6..12] == key().mac().0));
}

#[test]
fn a_local_mac_that_lives_stays() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    out.clear();
    assert_eq!(macs.claim(key(), B, 0, 0, &mut out), Claim::Contested);
    macs.asked(key(), 0);
    macs.here(key(), 100, &mut out);
    assert_eq!(macs.decide(ASKED_MS, &mut out), []);
    assert_eq!(entry(&macs), Some((Owner::Local, 1)));
    assert_eq!(out, [refuse(Owner::Peer(B), Reason::MacIsHere, key()), moved(To::Peer(B), key(), 1)]);
    assert_eq!(macs.stats.conflicts, 1);
}

#[test]
fn a_local_mac_that_is_silent_goes() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    macs.claim(key(), B, 0, 5000, &mut out);
    assert_eq!(macs.decide(5000 + WATCHED_MS - 1, &mut out), []);
    assert_eq!(macs.decide(5000 + WATCHED_MS, &mut out), [(key(), B)]);
    assert_eq!(entry(&macs), Some((Owner::Peer(B), 1)));
}

#[test]
fn among_peers_the_newer_move_wins() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.claim(key(), B, 3, 0, &mut out);
    macs.claim(key(), C, 2, 0, &mut out);
    assert_eq!(entry(&macs), Some((Owner::Peer(B), 3)));
    macs.claim(key(), C, 3, 0, &mut out);
    assert_eq!(entry(&macs), Some((Owner::Peer(C), 3)));
}

#[test]
fn a_late_frame_does_not_undo_a_move() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.claim(key(), B, 0, 0, &mut out);
    macs.claim(key(), C, 1, 100, &mut out);
    let late = Learn { key: key(), at: Owner::Peer(B), known: None };
    assert_eq!(macs.learn(late, 200, &mut out), Some(Claim::Outdated));
    assert_eq!(entry(&macs), Some((Owner::Peer(C), 1)));
    assert_eq!(macs.learn(late, 100 + SETTLE_MS, &mut out), Some(Claim::Accepted));
}

#[test]
fn the_claims_of_a_peer_that_is_gone_are_void() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    macs.claim(key(), B, 0, 5000, &mut out);
    macs.flush(B);
    assert_eq!(macs.decide(10_000, &mut out), []);
    assert_eq!(entry(&macs), Some((Owner::Local, 0)));
}

#[test]
fn ages_and_flushes() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.claim(key(), B, 0, 0, &mut out);
    macs.expire(299_999);
    assert!(entry(&macs).is_some());
    macs.expire(300_000);
    assert!(entry(&macs).is_none());
    macs.claim(key(), B, 0, 0, &mut out);
    macs.flush(C);
    assert!(entry(&macs).is_some());
    macs.flush(B);
    assert!(entry(&macs).is_none());
}

fn numbered(last: u8) -> MacKey {
    MacKey::new(Vlan::UNTAGGED, MacAddr([2, 0, 0, 0, 0, last]))
}

fn limited(limits: Limits) -> Macs {
    macs().with_limits(Arc::new(limits))
}

fn share(macs: usize) -> Share {
    Share { macs: Some(macs), addresses: None }
}

#[test]
fn a_peer_has_only_what_it_may_have() {
    let claims = [Claims::new(Some(vec![numbered(2).mac()]), None)].into();
    let (mut macs, mut out) = (limited(Limits { claims, ..Limits::default() }), Vec::new());
    assert_eq!(macs.claim(key(), B, 9, 0, &mut out), Claim::Refused);
    assert_eq!(out, [refuse(Owner::Peer(B), Reason::MacNotAllowed, key())]);
    assert_eq!(macs.claim(numbered(2), B, 0, 0, &mut out), Claim::Accepted);
    // Not even with a higher number does it take what is on this side.
    macs.here(key(), 0, &mut out);
    assert_eq!(macs.claim(key(), B, 9, 0, &mut out), Claim::Refused);
    assert_eq!(entry(&macs), Some((Owner::Local, 0)));
    // Another peer has no list.
    assert_eq!(macs.claim(numbered(3), C, 0, 0, &mut out), Claim::Accepted);
}

#[test]
fn a_peer_has_as_many_as_it_may_have() {
    let (mut macs, mut out) = (limited(Limits { shares: vec![share(2)], ..Limits::default() }), Vec::new());
    for last in 1..=2 {
        assert_eq!(macs.claim(numbered(last), B, 0, 0, &mut out), Claim::Accepted);
    }
    assert_eq!(macs.claim(numbered(3), B, 0, 0, &mut out), Claim::Refused);
    assert_eq!(out, [refuse(Owner::Peer(B), Reason::PeerMacs, numbered(3))]);
    assert_eq!(macs.claim(numbered(2), B, 1, 0, &mut out), Claim::Accepted, "it has this one already");
    // One that goes elsewhere makes room, and so does one that is forgotten.
    assert_eq!(macs.claim(numbered(2), C, 2, 0, &mut out), Claim::Accepted);
    assert_eq!(macs.claim(numbered(3), B, 0, 200_000, &mut out), Claim::Accepted);
    macs.expire(300_000);
    assert_eq!(macs.claim(numbered(4), B, 0, 300_000, &mut out), Claim::Accepted);
    assert_eq!(macs.claim(numbered(5), B, 0, 300_000, &mut out), Claim::Refused);
    macs.flush(B);
    assert_eq!(macs.claim(numbered(5), B, 0, 300_000, &mut out), Claim::Accepted);
}

#[test]
fn a_full_peer_does_not_get_a_silent_mac() {
    let (mut macs, mut out) = (limited(Limits { shares: vec![share(1)], ..Limits::default() }), Vec::new());
    macs.here(key(), 0, &mut out);
    macs.claim(key(), B, 0, 5000, &mut out);
    macs.claim(numbered(2), B, 0, 5000, &mut out);
    assert_eq!(macs.decide(5000 + WATCHED_MS, &mut out), []);
    assert_eq!(entry(&macs), Some((Owner::Local, 0)));
}

#[test]
fn this_side_leaves_room_for_peers() {
    let (mut macs, mut out) = (limited(Limits { local: share(2), ..Limits::default() }), Vec::new());
    for last in 1..=3 {
        macs.here(numbered(last), 0, &mut out);
    }
    assert_eq!(macs.usage().0, 2);
    assert_eq!(out.last(), Some(&refuse(Owner::Local, Reason::LocalMacs, numbered(3))));
    assert_eq!(macs.claim(numbered(3), B, 0, 0, &mut out), Claim::Accepted);
}

#[test]
fn a_mac_that_is_alive_is_not_taken_by_counting_up() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    let mut number = 0;
    for round in 0..RETURNS {
        number += 1;
        assert_eq!(macs.claim(key(), B, number, 10, &mut out), Claim::MovedAway, "{round}");
        macs.here(key(), 20, &mut out);
        number += 1;
    }
    assert_eq!(macs.claim(key(), B, number + 100, 30, &mut out), Claim::Contested);
    macs.here(key(), 40, &mut out);
    out.clear();
    macs.decide(30 + WATCHED_MS, &mut out);
    // The number is above the thief's, so that it hears of it.
    assert_eq!(entry(&macs), Some((Owner::Local, number + 101)));
    assert!(out.contains(&refuse(Owner::Peer(B), Reason::MacIsHere, key())), "{out:?}");
    // What is silent goes, and after a while the number alone counts again.
    macs.claim(key(), B, number + 200, 5000, &mut out);
    assert_eq!(macs.decide(5000 + WATCHED_MS, &mut out), [(key(), B)]);
    macs.here(key(), 10_000, &mut out);
    let later = RETURNS_MS + 100;
    macs.expire(later);
    assert_eq!(macs.claim(key(), B, number + 300, later, &mut out), Claim::MovedAway);
}
