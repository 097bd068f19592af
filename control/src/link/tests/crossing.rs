//! Handshakes that are played again, cross, or overtake each other.

use super::*;

#[test]
fn what_was_recorded_does_nothing_when_it_is_played_again() {
    let mut world = World::sealed();
    let mut recorded = Vec::new();
    for _ in 0..5 {
        world.now_ms += 100;
        world.tick();
        while let Some((side, datagram)) = world.wire.pop_front() {
            recorded.push((side, datagram.clone()));
            world.arrive(side, datagram);
        }
    }
    world.exchange();
    let before = world.sessions();
    for (side, datagram) in recorded {
        assert!(!world.arrive(side, datagram) || world.wire.is_empty(), "it was answered");
    }
    assert_eq!(world.sessions(), before);
    world.exchange();
}

#[test]
fn a_replayed_initiation_does_not_end_a_session_after_a_restart() {
    let mut world = World::sealed();
    world.now_ms += 100;
    world.tick();
    let initiation = world.wire.iter().find(|(side, _)| *side == 1).unwrap().1.clone();
    world.deliver();
    world.restart(1);
    world.pass(1500);
    world.exchange();
    let sessions = world.sessions();
    // The new life does not know the timestamp... but it has seen a newer one.
    world.arrive(1, initiation.clone());
    world.pass(500);
    assert_eq!(world.sessions(), sessions);
    // Not even one that has seen none believes it: it answers, and nobody uses the answer.
    world.restart(1);
    world.arrive(1, initiation);
    assert!(!world.sides[1].link.is_up());
    world.pass(2500);
    world.exchange();
}

#[test]
fn initiations_that_are_played_again_do_not_delay_a_start() {
    let mut world = World::sealed();
    let mut recorded = Vec::new();
    for _ in 0..12 {
        world.now_ms += 1000;
        world.tick();
        recorded.extend(world.wire.drain(..).filter(|(side, _)| *side == 1).map(|(_, datagram)| datagram));
    }
    assert_eq!(recorded.len(), 12);
    let mut again = VecDeque::from(recorded.clone());
    world.pass(2000);
    world.exchange();
    world.restart(1);
    world.now_ms += 100;
    world.tick();
    // In their order, so that each is newer than the one before, and faster than the answer to its own. More of them than
    // it ignores.
    for datagram in recorded.drain(..6) {
        world.arrive(1, datagram);
    }
    world.deliver();
    assert!(world.sides[1].link.is_up(), "its own handshake was given up");
    world.exchange();
    // It knows what is new now.
    for datagram in recorded {
        // As many as would be answered.
        world.now_ms += 300;
        world.arrive(1, datagram);
        assert!(world.wire.is_empty(), "it was answered");
    }
    // The same without a peer that answers: it goes on asking, every second.
    world.restart(1);
    let mut asked = 0;
    for _ in 0..50 {
        world.now_ms += 100;
        world.tick();
        let sent = world.wire.drain(..).filter(|(side, datagram)| *side == 0 && datagram[0] & 0xf == INITIATION);
        asked += sent.count();
        if let Some(datagram) = again.pop_front() {
            world.arrive(1, datagram);
        }
    }
    assert!((4..=6).contains(&asked), "it asked {asked} times in five seconds");
}

/// A session that the peer was given, and used, while a second handshake was under way: what comes of it comes late.
#[test]
fn a_session_that_was_overtaken_is_not_gone_back_to() {
    for (a, b) in [(0, 1), (1, 0)] {
        let mut world = World::sealed();
        // What `a` says is lost until it answers.
        while world.wire.is_empty() {
            world.now_ms += 1000;
            world.tick();
            let to_a: Vec<_> = world.wire.drain(..).filter(|(side, _)| *side == a).collect();
            for (_, datagram) in to_a {
                world.arrive(a, datagram);
            }
        }
        let (_, answer) = world.wire.pop_front().unwrap();
        world.arrive(b, answer);
        let (_, late) = world.wire.pop_front().unwrap();
        assert!(world.sides[b].link.is_up() && !world.sides[a].link.is_up() && world.wire.is_empty());
        // What `b` says is late, but for the answer to another handshake.
        while !world.sides[a].link.is_up() {
            world.now_ms += 1000;
            world.tick();
            while let Some((side, datagram)) = world.wire.pop_front() {
                if side == b || datagram[0] & 0xf == RESPONSE {
                    world.arrive(side, datagram);
                }
            }
        }
        let before = world.agreed();
        assert!(world.arrive(a, late), "it is taken");
        world.deliver();
        assert_eq!(world.agreed(), before, "it went back");
        world.pass(60_000);
        world.exchange();
        assert!(world.sides.iter().all(|side| side.events == [LinkEvent::Up]));
    }
}

/// Both handshakes of two that crossed are answered: the same of the two sessions stays at both ends.
#[test]
fn of_two_sessions_that_cross_both_ends_keep_the_same() {
    for first in [0, 1] {
        let mut world = World::sealed();
        let mut answers = Vec::new();
        // Initiations arrive, until both have answered one of the last; answers do not yet.
        while answers.len() < 2 {
            answers.clear();
            world.now_ms += 1000;
            world.tick();
            for (side, datagram) in std::mem::take(&mut world.wire) {
                world.arrive(side, datagram);
            }
            answers.extend(world.wire.drain(..));
        }
        answers.sort_by_key(|(side, _)| *side != first);
        for (side, datagram) in answers {
            world.arrive(side, datagram);
        }
        world.deliver();
        world.agreed();
        world.exchange();
        world.pass(60_000);
        world.exchange();
        assert!(world.sides.iter().all(|side| side.events == [LinkEvent::Up]));
    }
}
