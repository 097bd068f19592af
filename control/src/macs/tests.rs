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
fn a_newer_move_takes_a_local_mac_that_is_silent_and_tells_the_bridge() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 5000, &mut out);
    assert_eq!(out, [moved(To::All, key(), 0)], "a new one is told, too");
    out.clear();
    // Though it has spoken in this very second.
    assert_eq!(macs.claim(key(), B, 1, 5001, &mut out), Claim::Contested);
    assert_eq!(macs.decide(5000 + ASKED_MS, &mut out), []);
    assert_eq!(macs.decide(5001 + ASKED_MS, &mut out), [(key(), B)]);
    assert_eq!(entry(&macs), Some((Owner::Peer(B), 1)));
    assert!(matches!(&out[..], [Action::Inject(frame)] if frame[6..12] == key().mac().0));
}

#[test]
fn a_frame_that_a_worker_sees_is_a_sign_of_life() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 5000, &mut out);
    macs.claim(key(), B, 1, 5001, &mut out);
    let known = macs.table().lookup(key()).unwrap();
    macs.table().touch(key(), known, 5);
    assert_eq!(macs.decide(5001 + ASKED_MS, &mut out), []);
    assert_eq!(entry(&macs), Some((Owner::Local, 2)));
}

#[test]
fn the_news_of_a_move_hurries_the_test_that_a_frame_has_begun() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    let frame = Learn { key: key(), at: Owner::Peer(B), known: None };
    assert_eq!(macs.learn(frame, 5000, &mut out), Some(Claim::Contested));
    assert_eq!(macs.claim(key(), B, 1, 5001, &mut out), Claim::AtTest);
    // Saying it again, or more, puts nothing off.
    assert_eq!(macs.claim(key(), B, 2, 5300, &mut out), Claim::AtTest);
    assert_eq!(macs.decide(5001 + ASKED_MS, &mut out), [(key(), B)]);
    assert_eq!(entry(&macs), Some((Owner::Peer(B), 2)));
}

#[test]
fn what_is_silent_goes_to_the_newest_claim() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    assert_eq!(macs.claim(key(), B, 3, 5000, &mut out), Claim::Contested);
    macs.here(key(), 5010, &mut out);
    assert_eq!(macs.claim(key(), C, 3, 5100, &mut out), Claim::AtTest);
    // It may have moved since that sign of life.
    assert_eq!(macs.claim(key(), C, 4, 5200, &mut out), Claim::Contested);
    assert!(macs.is_at_test(key(), C) && !macs.is_at_test(key(), B));
    assert_eq!(macs.decide(5200 + ASKED_MS, &mut out), [(key(), C)]);
    assert_eq!(entry(&macs), Some((Owner::Peer(C), 4)));
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
    assert_eq!(out, [refuse(Owner::Peer(B), Reason::MacIsHere, key()), moved(To::All, key(), 1)]);
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
    let (mut number, mut now) = (0, 0);
    for round in 0..3000u32 {
        // The number of 12 bits comes around.
        number = (number + 1) & 0xfff;
        assert_eq!(macs.claim(key(), B, number, now, &mut out), Claim::Contested, "{round}");
        macs.here(key(), now + 10, &mut out);
        out.clear();
        now += ASKED_MS;
        assert_eq!(macs.decide(now, &mut out), []);
        // The number is above the thief's, so that all hear of it.
        number = (number + 1) & 0xfff;
        assert_eq!(entry(&macs), Some((Owner::Local, number)));
        assert_eq!(out, [refuse(Owner::Peer(B), Reason::MacIsHere, key()), moved(To::All, key(), number)]);
    }
    assert_eq!(macs.stats.moved_away, 0);
}

#[test]
fn what_never_sends_is_not_put_to_the_test() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.reserve(key());
    assert_eq!(macs.claim(key(), B, 9, 5000, &mut out), Claim::AtTest);
    assert_eq!(macs.decide(10_000, &mut out), []);
    assert_eq!(entry(&macs), Some((Owner::Local, 0)));
}

#[test]
fn a_peer_that_claims_much_leaves_room_for_the_claims_of_others() {
    let (mut macs, mut out) = (Macs::new(MacTable::new(1024, [1, 2]).1, 300), Vec::new());
    let numbered = |n: usize| MacKey::new(Vlan::UNTAGGED, MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8]));
    for n in 0..300 {
        macs.here(numbered(n), 5000, &mut out);
    }
    let tested = (0..300).filter(|n| macs.claim(numbered(*n), B, 1, 5000, &mut out) == Claim::Contested).count();
    assert_eq!(tested, MAX_CONTESTS_OF_PEER);
    assert_eq!(macs.claim(numbered(299), C, 1, 5000, &mut out), Claim::Contested);
    for n in 0..300 {
        macs.here(numbered(n), 5010, &mut out);
    }
    out.clear();
    macs.decide(5000 + ASKED_MS, &mut out);
    // The others hear of no more than the rate.
    let to_all = out.iter().filter(|action| matches!(action, Action::Message(To::All, _))).count();
    assert_eq!((out.len(), to_all), (2 * (MAX_CONTESTS_OF_PEER + 1), NEWS_RATE as usize / 4));
}
