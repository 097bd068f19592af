//! One MAC, this side and two peers that claim it; and limits.

use ipop_dataplane::claims::Claims;

use super::contest::{ASKED_MS, MAX_CONTESTS_OF_PEER, WATCHED_LONG_MS, WATCHED_MS};
use super::flaps::MOVES;
use super::*;
use crate::limits::Share;

const B: PeerId = PeerId(0);
const C: PeerId = PeerId(1);

fn key() -> MacKey {
    MacKey::new(Vlan::UNTAGGED, MacAddr([2, 0, 0, 0, 0, 1]))
}

fn macs() -> Macs {
    limited(Limits::none(2))
}

/// What moves again and again is not frozen unless a test says so.
fn limited(limits: Limits) -> Macs {
    Macs::new(MacTable::new(16, [1, 2]).1, 300, Arc::new(limits))
}

/// Does all that is due. Returns what went to a peer.
fn decide(macs: &mut Macs, now_ms: u64, out: &mut Vec<Action>) -> Vec<(MacKey, PeerId)> {
    let mut gone = Vec::new();
    while let Some(due) = macs.due(now_ms, out) {
        if let Due::Gone(key, peer) = due {
            gone.push((key, peer));
        }
    }
    gone
}

fn released(to: To, key: MacKey, seq: u16) -> Action {
    Action::Message(to, Message::MacReleased(mac_moved(key, seq)))
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
fn a_newer_move_takes_a_local_mac_that_is_silent_and_tells_all() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 5000, &mut out);
    assert_eq!(out, [moved(To::All, key(), 0)], "a new one is told, too");
    out.clear();
    // Though it has spoken in this very second.
    assert_eq!(macs.claim(key(), B, 1, 5001, &mut out), Claim::Contested);
    macs.asked(key(), 5001);
    assert_eq!(macs.due(5101, &mut out), Some(Due::Ask(key())), "asked once more");
    assert_eq!(decide(&mut macs, 5000 + ASKED_MS, &mut out), []);
    assert_eq!(decide(&mut macs, 5001 + ASKED_MS, &mut out), [(key(), B)]);
    assert_eq!(entry(&macs), Some((Owner::Peer(B), 1)));
    assert!(matches!(&out[..], [Action::Inject(frame), _] if frame[6..12] == key().mac().0));
    assert_eq!(out[1], released(To::All, key(), 1), "whoever waits for our word has it");
}

#[test]
fn a_frame_that_a_worker_sees_is_a_sign_of_life() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 5000, &mut out);
    macs.claim(key(), B, 1, 5001, &mut out);
    let known = macs.table().lookup(key()).unwrap();
    macs.table().touch(key(), known, 5);
    // It is seen long before the time is over.
    assert_eq!(decide(&mut macs, 5102, &mut out), []);
    assert_eq!(entry(&macs), Some((Owner::Local, 2)));
}

#[test]
fn the_news_of_a_move_hurries_the_test_that_a_frame_has_begun() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    assert_eq!(macs.seen_at(key(), B, 5000, &mut out), Claim::Contested);
    assert_eq!(macs.told(key(), B, 1, 5001, &mut out), Claim::AtTest);
    // Saying it again, or more, puts nothing off.
    assert_eq!(macs.told(key(), B, 2, 5300, &mut out), Claim::AtTest);
    assert_eq!(decide(&mut macs, 5001 + WATCHED_MS, &mut out), [(key(), B)]);
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
    assert!(macs.is_unsettled(key(), C) && !macs.is_unsettled(key(), B));
    assert_eq!(decide(&mut macs, 5200 + WATCHED_MS, &mut out), [(key(), C)]);
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
    assert_eq!(decide(&mut macs, ASKED_MS, &mut out), []);
    assert_eq!(entry(&macs), Some((Owner::Local, 1)));
    assert_eq!(out, [refuse(Owner::Peer(B), Reason::MacIsHere, key()), moved(To::All, key(), 1)]);
    assert_eq!(macs.stats.conflicts, 1);
}

#[test]
fn a_local_mac_that_is_silent_goes() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    macs.claim(key(), B, 0, 5000, &mut out);
    assert_eq!(decide(&mut macs, 5000 + WATCHED_LONG_MS - 1, &mut out), []);
    assert_eq!(decide(&mut macs, 5000 + WATCHED_LONG_MS, &mut out), [(key(), B)]);
    assert_eq!(entry(&macs), Some((Owner::Peer(B), 1)));
}

/// Whatever the number, and whether by frames or by messages: the old path stays until the holder has spoken.
#[test]
fn what_is_behind_a_third_gateway_is_settled_by_that_one() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.claim(key(), B, 3, 0, &mut out);
    for (seq, now) in [(4, 100), (9, 110), (0, 120)] {
        assert_eq!(macs.told(key(), C, seq, now, &mut out), Claim::Disputed);
        assert_eq!(macs.seen_at(key(), C, now, &mut out), Claim::Disputed);
    }
    assert_eq!((entry(&macs), out.len()), (Some((Owner::Peer(B), 3)), 0));
    // It is alive there.
    assert_eq!(macs.told(key(), B, 10, 200, &mut out), Claim::Accepted);
    assert_eq!(entry(&macs), Some((Owner::Peer(B), 10)));
    assert_eq!(out, [refuse(Owner::Peer(C), Reason::MacIsThere, key())]);
    out.clear();
    // It is not.
    macs.told(key(), C, 11, 5000, &mut out);
    macs.released(key(), B, 0, 5300, &mut out);
    assert_eq!((entry(&macs), out.len()), (Some((Owner::Peer(C), 11)), 0));
}

#[test]
fn a_holder_that_has_not_heard_of_a_claim_is_asked() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.claim(key(), B, 3, 0, &mut out);
    macs.told(key(), C, 4, 100, &mut out);
    let asked = |out: &[Action]| out.iter().filter(|action| matches!(action, Action::MacQuery(B, _, Some(C)))).count();
    decide(&mut macs, 499, &mut out);
    assert_eq!(asked(&out), 0);
    decide(&mut macs, 500, &mut out);
    decide(&mut macs, 900, &mut out);
    assert_eq!(asked(&out), 2);
    // If it never speaks, its peers have its silence, and the claim nothing.
    decide(&mut macs, 1400, &mut out);
    assert_eq!(out.last(), Some(&refuse(Owner::Peer(C), Reason::MacIsThere, key())));
    assert_eq!((entry(&macs), macs.next_ms()), (Some((Owner::Peer(B), 3)), None));
    // One that is gone is not asked.
    macs.told(key(), C, 4, 5000, &mut out);
    macs.flush(B, 5010, &mut out);
    assert_eq!(entry(&macs), Some((Owner::Peer(C), 4)));
}

#[test]
fn a_peer_that_asks_hears_how_the_test_ended() {
    let (mut macs, mut out) = (macs(), Vec::new());
    assert_eq!(macs.asked_by(key(), B, Some(C), 7, 0, &mut out), Claim::Refused);
    assert_eq!(out, [released(To::Peer(B), key(), 7)], "it is not here");
    macs.here(key(), 0, &mut out);
    out.clear();
    assert_eq!(macs.asked_by(key(), B, Some(C), 7, 5000, &mut out), Claim::Contested);
    macs.asked(key(), 5000);
    macs.here(key(), 5002, &mut out);
    macs.look(key(), 5002, &mut out);
    assert_eq!(out, [refuse(Owner::Peer(C), Reason::MacIsHere, key()), moved(To::All, key(), 8)], "at once");
    out.clear();
    assert_eq!(macs.asked_by(key(), C, None, 9, 5003, &mut out), Claim::Refused, "it has just been found alive");
    assert_eq!(out, [moved(To::Peer(C), key(), 9)]);
    // Silent, with nobody to give it to.
    out.clear();
    macs.asked_by(key(), B, None, 9, 9000, &mut out);
    assert_eq!(decide(&mut macs, 9000 + WATCHED_MS, &mut out), []);
    assert_eq!((entry(&macs), &out[..]), (None, &[released(To::All, key(), 9)][..]));
}

#[test]
fn a_guest_that_pretends_to_have_a_mac_loses_it_when_its_gateway_has_been_heard() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.claim(key(), B, 3, 0, &mut out);
    assert_eq!(macs.here(key(), 100, &mut out), Here::Provisional);
    assert_eq!((entry(&macs), &out[..]), (Some((Owner::Local, 4)), &[moved(To::All, key(), 4)][..]));
    assert_eq!(macs.here(key(), 101, &mut out), Here::Local);
    out.clear();
    assert_eq!(macs.told(key(), B, 5, 103, &mut out), Claim::Accepted);
    assert_eq!(entry(&macs), Some((Owner::Peer(B), 5)));
    assert_eq!(out[0], refuse(Owner::Local, Reason::MacIsThere, key()));
    assert!(matches!(&out[1..], [Action::Inject(frame)] if frame[6..12] == key().mac().0), "the bridge is shown so");
}

/// Both gateways hear an answer: each keeps it, and they do not go on about it.
#[test]
fn a_mac_that_answers_on_both_sides_stays_on_both() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.claim(key(), B, 3, 0, &mut out);
    macs.here(key(), 100, &mut out);
    macs.proved(key());
    assert_eq!(macs.told(key(), B, 5, 103, &mut out), Claim::Contested);
    let alive = |macs: &mut Macs, now, out: &mut Vec<Action>| {
        out.clear();
        macs.here(key(), now, out);
        macs.look(key(), now, out);
    };
    alive(&mut macs, 104, &mut out);
    assert_eq!(out, [refuse(Owner::Peer(B), Reason::MacIsHere, key()), moved(To::All, key(), 6)]);
    // The other side says the same.
    assert_eq!(macs.told(key(), B, 7, 106, &mut out), Claim::Contested);
    alive(&mut macs, 107, &mut out);
    assert_eq!(out, [refuse(Owner::Peer(B), Reason::MacIsHere, key())], "the last word");
    assert_eq!(entry(&macs).map(|(owner, _)| owner), Some(Owner::Local));
}

#[test]
fn a_mac_that_has_gone_back_is_let_go_though_it_has_answered_here() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.claim(key(), B, 3, 0, &mut out);
    macs.here(key(), 100, &mut out);
    macs.proved(key());
    assert_eq!(macs.told(key(), B, 5, 1000, &mut out), Claim::Contested);
    assert_eq!(decide(&mut macs, 1000 + WATCHED_MS, &mut out), [(key(), B)]);
}

#[test]
fn a_mac_that_has_moved_here_is_confirmed_by_the_word_or_the_silence_of_its_former_gateway() {
    for word in [true, false] {
        let (mut macs, mut out) = (macs(), Vec::new());
        macs.claim(key(), B, 3, 0, &mut out);
        macs.here(key(), 100, &mut out);
        if word {
            macs.released(key(), B, 0, 400, &mut out);
        } else {
            for now in (100..2000).step_by(100) {
                decide(&mut macs, now, &mut out);
            }
        }
        decide(&mut macs, 2500, &mut out);
        assert_eq!((entry(&macs), macs.next_ms()), (Some((Owner::Local, 4)), None), "{word}");
        // From here on it is one of ours like any other.
        assert_eq!(macs.told(key(), B, 5, 3000, &mut out), Claim::Contested);
    }
}

fn freezing() -> Macs {
    limited(Limits { mac_freeze_s: 60, ..Limits::none(2) })
}

#[test]
fn claims_that_keep_losing_freeze_a_mac_where_it_is() {
    let (mut macs, mut out) = (freezing(), Vec::new());
    macs.claim(key(), B, 3, 0, &mut out);
    let mut now = 0;
    for n in 0..u64::from(MOVES) {
        now = 300 * n;
        assert_eq!(macs.here(key(), now, &mut out), Here::Provisional, "{n}");
        macs.told(key(), B, 5 + 2 * n as u16, now + 3, &mut out);
    }
    assert!(out.iter().any(|action| *action == Action::Frozen(key(), Some(Owner::Peer(B)))));
    assert_eq!((macs.frozen_ms(key(), now + 3), macs.stats.frozen), (Some(60_000), 1));
    out.clear();
    // From here on the pretender only makes its own bridge be set right, and no peer is believed either.
    assert_eq!(macs.here(key(), now + 300, &mut out), Here::Elsewhere);
    assert!(matches!(&out[..], [Action::Refuse(Refusal { reason: Reason::MacFrozen, .. }), Action::Inject(_)]));
    assert_eq!(macs.told(key(), C, 999, now + 300, &mut out), Claim::Refused);
    assert_eq!(macs.table().lookup(key()).map(|entry| entry.owner), Some(Owner::Peer(B)));
    // By an operator, or after the time.
    let mut later = now + 301;
    assert_eq!(macs.release(key().mac(), later), 1);
    assert_eq!(macs.here(key(), later, &mut out), Here::Provisional);
    for n in 0..u64::from(MOVES) {
        later += 300 * n;
        macs.here(key(), later, &mut out);
        macs.told(key(), B, 100 + 2 * n as u16, later + 3, &mut out);
    }
    assert_eq!(macs.here(key(), later + 60_000, &mut out), Here::Elsewhere);
    assert_eq!(macs.here(key(), later + 60_003, &mut out), Here::Provisional);
}

#[test]
fn a_mac_that_is_frozen_here_is_not_put_to_the_test_again() {
    let (mut macs, mut out) = (freezing(), Vec::new());
    macs.here(key(), 0, &mut out);
    for n in 0..u64::from(MOVES) {
        assert_eq!(macs.told(key(), B, 1 + 2 * n as u16, 500 * n, &mut out), Claim::Contested);
        macs.here(key(), 500 * n + 2, &mut out);
        macs.look(key(), 500 * n + 2, &mut out);
    }
    out.clear();
    assert_eq!(macs.told(key(), B, 50, 5000, &mut out), Claim::Refused);
    // The claimant may wait for our word, but not for each of its claims.
    assert_eq!(out, [refuse(Owner::Peer(B), Reason::MacFrozen, key()), moved(To::Peer(B), key(), 50)]);
    out.clear();
    assert_eq!(macs.told(key(), B, 50, 5001, &mut out), Claim::Refused);
    assert_eq!(out, [refuse(Owner::Peer(B), Reason::MacFrozen, key())]);
    assert_eq!(macs.asked_by(key(), B, None, 50, 5400, &mut out), Claim::Refused);
    assert_eq!(out.last(), Some(&moved(To::Peer(B), key(), 50)));
}

#[test]
fn a_container_that_moves_from_gateway_to_gateway_is_not_frozen() {
    let (mut macs, mut out) = (freezing(), Vec::new());
    macs.claim(key(), B, 0, 0, &mut out);
    let mut holder = B;
    for n in 1..=20u16 {
        let next = if holder == B { C } else { B };
        let now = u64::from(n) * 15_000;
        assert_eq!(macs.told(key(), next, n, now, &mut out), Claim::Disputed, "{n}");
        macs.released(key(), holder, 0, now + 300, &mut out);
        assert_eq!(entry(&macs), Some((Owner::Peer(next), n)));
        holder = next;
    }
    assert_eq!(macs.stats.frozen, 0);
}

#[test]
fn a_late_frame_does_not_undo_a_move() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.claim(key(), B, 0, 0, &mut out);
    macs.told(key(), C, 1, 100, &mut out);
    macs.released(key(), B, 0, 150, &mut out);
    assert_eq!(macs.seen_at(key(), B, 200, &mut out), Claim::Disputed);
    assert_eq!((entry(&macs), macs.next_ms().is_some_and(|at| at > 500)), (Some((Owner::Peer(C), 1)), false));
}

#[test]
fn a_sticky_mac_never_leaves() {
    let mac = key().mac();
    let (mut macs, mut out) = (limited(Limits { sticky_macs: [mac].into(), ..Limits::none(2) }), Vec::new());
    assert_eq!(entry(&macs), Some((Owner::Local, 0)), "though it has said nothing yet");
    macs.introduce(B, &mut out);
    assert_eq!(out, [moved(To::Peer(B), key(), 0)]);
    out.clear();
    assert_eq!(macs.told(key(), C, 900, 5000, &mut out), Claim::Refused);
    assert_eq!(out, [refuse(Owner::Peer(C), Reason::MacIsSticky, key()), moved(To::Peer(C), key(), 900)]);
    assert_eq!(macs.asked_by(key(), B, Some(C), 900, 5001, &mut out), Claim::Refused);
    assert_eq!(out.last(), Some(&moved(To::Peer(B), key(), 900)));
    macs.here(key(), 6000, &mut out);
    macs.expire(10_000_000);
    assert_eq!(entry(&macs).map(|(owner, _)| owner), Some(Owner::Local), "nor does it age");
}

#[test]
fn the_claims_of_a_peer_that_is_gone_are_void() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    macs.claim(key(), B, 0, 5000, &mut out);
    macs.flush(B, 0, &mut out);
    assert_eq!(decide(&mut macs, 10_000, &mut out), []);
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
    macs.flush(C, 0, &mut out);
    assert!(entry(&macs).is_some());
    macs.flush(B, 0, &mut out);
    assert!(entry(&macs).is_none());
}

fn numbered(last: u8) -> MacKey {
    MacKey::new(Vlan::UNTAGGED, MacAddr([2, 0, 0, 0, 0, last]))
}

fn share(macs: usize) -> Share {
    Share { macs: Some(macs), addresses: None }
}

fn shares(macs: usize) -> Vec<Share> {
    vec![share(macs), Share::default()]
}

#[test]
fn a_peer_has_only_what_it_may_have() {
    let claims = [Claims::new(Some(vec![numbered(2).mac()]), None), Claims::default()].into();
    let (mut macs, mut out) = (limited(Limits { claims, ..Limits::none(2) }), Vec::new());
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

/// Of a peer that invents MACs the last ones are known; of one whose MACs are alive, those.
#[test]
fn a_peer_has_as_many_as_it_may_have() {
    let (mut macs, mut out) = (limited(Limits { shares: shares(2), ..Limits::none(2) }), Vec::new());
    for last in 1..=3 {
        assert_eq!(macs.claim(numbered(last), B, 0, 0, &mut out), Claim::Accepted);
    }
    let has = |macs: &Macs, last| macs.table().lookup(numbered(last)).map(|entry| entry.owner) == Some(Owner::Peer(B));
    assert_eq!(([1, 2, 3].map(|last| has(&macs, last)), macs.stats.evicted), ([false, true, true], 1));
    macs.proved(numbered(2));
    macs.proved(numbered(3));
    assert_eq!(macs.claim(numbered(4), B, 0, 0, &mut out), Claim::Refused);
    assert_eq!(out, [refuse(Owner::Peer(B), Reason::PeerMacs, numbered(4))]);
    assert_eq!(macs.claim(numbered(2), B, 1, 0, &mut out), Claim::Accepted, "it has this one already");
    // One that is forgotten makes room, and so does one that goes elsewhere.
    macs.told(numbered(2), C, 2, 0, &mut out);
    macs.released(numbered(2), B, 0, 0, &mut out);
    assert_eq!(macs.claim(numbered(4), B, 0, 200_000, &mut out), Claim::Accepted);
    macs.expire(300_000);
    assert_eq!(macs.usage().0, 1);
    macs.flush(B, 300_000, &mut out);
    assert_eq!(macs.usage().0, 0);
}

#[test]
fn a_full_peer_does_not_get_a_silent_mac() {
    let (mut macs, mut out) = (limited(Limits { shares: shares(1), ..Limits::none(2) }), Vec::new());
    macs.here(key(), 0, &mut out);
    macs.claim(key(), B, 0, 5000, &mut out);
    macs.claim(numbered(2), B, 0, 5000, &mut out);
    macs.proved(numbered(2));
    assert_eq!(decide(&mut macs, 5000 + WATCHED_LONG_MS, &mut out), []);
    assert_eq!(entry(&macs), Some((Owner::Local, 0)));
}

#[test]
fn this_side_leaves_room_for_peers_and_for_newcomers() {
    let (mut macs, mut out) = (limited(Limits { local: share(3), ..Limits::none(2) }), Vec::new());
    macs.here(numbered(1), 0, &mut out);
    macs.proved(numbered(1));
    // A guest that makes up sources.
    for last in 10..200 {
        assert_eq!(macs.here(numbered(last), 1000, &mut out), Here::Local, "{last}");
        assert_eq!(macs.usage().0, usize::from(last - 8).min(3));
    }
    assert!(macs.table().lookup(numbered(1)).is_some(), "one that has answered stays");
    assert_eq!(macs.here(numbered(3), 1000, &mut out), Here::Local);
    assert_eq!(macs.claim(numbered(4), B, 0, 1000, &mut out), Claim::Accepted);
    // Of those that go on speaking, the newcomers' turn comes last; if all have proved alive, nobody goes.
    for (key, _) in macs.table().iter().collect::<Vec<_>>() {
        macs.proved(key);
    }
    out.clear();
    assert_eq!(macs.here(numbered(5), 1000, &mut out), Here::Elsewhere);
    assert_eq!(out, [refuse(Owner::Local, Reason::LocalMacs, numbered(5))]);
}

#[test]
fn what_goes_on_speaking_stays_longer_than_what_was_seen_once() {
    let (mut macs, mut out) = (limited(Limits { local: share(2), ..Limits::none(2) }), Vec::new());
    macs.here(numbered(1), 1000, &mut out);
    macs.here(numbered(2), 1000, &mut out);
    macs.here(numbered(1), 9000, &mut out);
    macs.here(numbered(3), 9000, &mut out);
    let there = [1, 2, 3].map(|last| macs.table().lookup(numbered(last)).is_some());
    assert_eq!(there, [true, false, true]);
}

#[test]
fn a_table_that_is_full_takes_from_whoever_has_most() {
    let (mut macs, mut out) = (macs(), Vec::new());
    for last in 1..=14 {
        macs.claim(numbered(last), B, 0, 0, &mut out);
    }
    macs.here(numbered(20), 0, &mut out);
    macs.here(numbered(21), 0, &mut out);
    macs.proved(numbered(20));
    macs.proved(numbered(21));
    assert_eq!(macs.here(numbered(22), 0, &mut out), Here::Local);
    assert_eq!((macs.usage(), macs.table().lookup(numbered(1))), ((16, 16), None));
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
        now += 300;
        assert_eq!(decide(&mut macs, now, &mut out), []);
        // The number is above the thief's, so that all hear of it.
        number = (number + 1) & 0xfff;
        assert_eq!(entry(&macs), Some((Owner::Local, number)));
        assert_eq!(out, [refuse(Owner::Peer(B), Reason::MacIsHere, key()), moved(To::All, key(), number)]);
    }
    assert_eq!(macs.stats.moved_away, 0);
}

#[test]
fn a_peer_does_not_get_by_asking_what_it_may_not_claim() {
    let claims = [Claims::new(Some(vec![]), None), Claims::default()].into();
    let (mut macs, mut out) = (limited(Limits { claims, ..Limits::none(2) }), Vec::new());
    macs.here(key(), 0, &mut out);
    for (asks, claimant) in [(B, B), (C, B)] {
        assert_eq!(macs.asked_by(key(), asks, Some(claimant), 9, 5000, &mut out), Claim::Refused);
    }
    assert_eq!(decide(&mut macs, 10_000, &mut out), []);
    assert_eq!(entry(&macs), Some((Owner::Local, 0)));
}

#[test]
fn two_that_outbid_each_other_do_not_put_off_the_end() {
    let (mut macs, mut out) = (macs(), Vec::new());
    macs.here(key(), 0, &mut out);
    for n in 0..20 {
        macs.told(key(), if n % 2 == 0 { B } else { C }, 1 + n as u16, 5000 + 200 * n, &mut out);
        decide(&mut macs, 5000 + 200 * n, &mut out);
    }
    assert!(matches!(entry(&macs), Some((Owner::Peer(_), _))));
}

/// Nobody forgot to say what it may do: there is no such peer.
#[test]
fn a_peer_without_limits_may_claim_nothing() {
    let (mut macs, mut out) = (limited(Limits::none(1)), Vec::new());
    assert_eq!(macs.claim(key(), C, 0, 0, &mut out), Claim::Refused);
    assert_eq!(macs.claim(key(), B, 0, 0, &mut out), Claim::Accepted);
}

#[test]
fn a_peer_that_claims_much_leaves_room_for_the_claims_of_others() {
    let (mut macs, mut out) = (Macs::new(MacTable::new(1024, [1, 2]).1, 300, Arc::new(Limits::none(2))), Vec::new());
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
    decide(&mut macs, 5000 + WATCHED_MS, &mut out);
    // The others hear of no more than the rate.
    let to_all = out.iter().filter(|action| matches!(action, Action::Message(To::All, _))).count();
    assert_eq!((out.len(), to_all), (2 * (MAX_CONTESTS_OF_PEER + 1), NEWS_RATE as usize / 4));
}
