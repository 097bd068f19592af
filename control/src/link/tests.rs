//! Two links that talk to each other over a channel that the test owns, and its clock.

use std::collections::VecDeque;

use ipop_dataplane::datagram::{DATA, DATAGRAM_HEADER_LEN, DatagramHeader, HELLO, INITIATION, RESPONSE};
use ipop_dataplane::session::{Freshness, Gate};

use super::noise::Responder;
use super::*;

mod crossing;

const NETWORK: u32 = 3;

struct Side {
    link: Link,
    own: Arc<Identity>,
    received: u64,
    events: Vec<LinkEvent>,
    random: u64,
    /// Session indexes that were reported as used.
    used: Vec<u32>,
}

struct World {
    sides: [Side; 2],
    /// Receiver and datagram.
    wire: VecDeque<(usize, Vec<u8>)>,
    now_ms: u64,
}

fn address(side: usize) -> SocketAddr {
    format!("10.0.0.{}:5800", side + 1).parse().unwrap()
}

fn identity(private: PrivateKey, life: u64) -> Arc<Identity> {
    let public = private.public();
    let uid = if life == 0 { public.uid() } else { format!("{life}") };
    Arc::new(Identity { uid, private, public, life, name: format!("life {life}"), network: NETWORK, workers: 1 })
}

impl Side {
    fn new(side: usize, own: Arc<Identity>, peer: Option<PublicKey>) -> Side {
        let mut random = 77 + side as u64;
        let (name, to) = ("peer".to_owned(), address(1 - side));
        let link = match peer {
            Some(key) => Link::sealed(PeerId(0), name, to, own.clone(), key, None),
            None => Link::clear(PeerId(0), name, to, own.clone(), &mut || {
                random += 1;
                random
            }),
        };
        Side { link, own, received: 0, events: Vec::new(), random: 1000 * side as u64, used: Vec::new() }
    }
}

impl World {
    fn sealed() -> World {
        let keys = [(); 2].map(|()| PrivateKey::generate().unwrap());
        let public = [keys[1].public(), keys[0].public()];
        let mut keys = keys.into_iter();
        let sides = [0, 1].map(|side| {
            let own = identity(keys.next().unwrap(), side as u64 + 1);
            Side::new(side, own, Some(public[side]))
        });
        World { sides, wire: VecDeque::new(), now_ms: 0 }
    }

    fn clear() -> World {
        let sides =
            [0, 1].map(|side| Side::new(side, identity(PrivateKey::generate().unwrap(), side as u64 + 1), None));
        World { sides, wire: VecDeque::new(), now_ms: 0 }
    }

    /// Another life of this side.
    fn restart(&mut self, side: usize) {
        let old = &self.sides[side];
        let own = identity(old.own.private.clone(), old.own.life + 10);
        self.sides[side] = Side::new(side, own, old.link.key().copied());
    }

    fn follow(&mut self, side: usize, outcome: Outcome) {
        if matches!(outcome.event, Some(LinkEvent::Up | LinkEvent::Restarted)) {
            self.sides[side].link.search_path(Local { ceiling: 1472, hint: None }, self.now_ms);
        }
        self.sides[side].events.extend(outcome.event);
        self.wire.extend(outcome.send.into_iter().map(|(_, datagram)| (1 - side, datagram)));
    }

    fn tick(&mut self) {
        for side in 0..2 {
            let Side { link, received, random, .. } = &mut self.sides[side];
            let outcome = link.tick(self.now_ms, *received, &mut || {
                *random += 1;
                *random
            });
            self.follow(side, outcome);
        }
    }

    /// What worker and control thread do with a datagram; false if it was dropped.
    fn arrive(&mut self, side: usize, mut datagram: Vec<u8>) -> bool {
        let from = address(1 - side);
        let Side { link, own, random, .. } = &mut self.sides[side];
        let mut random = || {
            *random += 1;
            *random
        };
        let (header, _) = DatagramHeader::parse(&datagram, NETWORK).unwrap();
        let outcome = match header.kind() {
            DATA => {
                let incoming = link.view(from).incoming;
                let Some(session) = incoming.iter().find(|s| s.session() == header.session.get()) else {
                    return false;
                };
                match session.open(&header, &mut datagram) {
                    Ok((Freshness::Newest | Freshness::Late, _)) => {}
                    _ => return false,
                }
                self.sides[side].received += 1;
                if session.is_sealed() && session.is_unused() {
                    session.set_used();
                    self.sides[side].used.push(session.session());
                    let outcome = self.sides[side].link.session_used(session.session(), self.now_ms);
                    self.follow(side, outcome);
                }
                return true;
            }
            HELLO => {
                let hello = Hello::parse(&datagram[DATAGRAM_HEADER_LEN..]).unwrap();
                link.hello(&hello, self.now_ms, &mut random)
            }
            kind => {
                let gate = Gate::of(own.public.as_bytes());
                let Some(bytes) = gate.pass(&datagram) else { return false };
                let body = &bytes[DATAGRAM_HEADER_LEN..];
                if kind == INITIATION {
                    let Some(responder) = Responder::read(&own.private, NETWORK, body) else { return false };
                    match link.initiation(responder, from, self.now_ms, &mut random) {
                        Ok(outcome) => outcome,
                        Err(_) => return false,
                    }
                } else {
                    let session = header.session.get();
                    match link.response(session, body, from, self.now_ms, &mut random) {
                        Some(outcome) => outcome,
                        None => return false,
                    }
                }
            }
        };
        self.follow(side, outcome);
        true
    }

    /// Delivers all that is on the wire and what it causes.
    fn deliver(&mut self) {
        while let Some((side, datagram)) = self.wire.pop_front() {
            self.arrive(side, datagram);
        }
    }

    /// Lets time pass, looking in steps of 100 ms.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now_ms += 100;
            self.tick();
            self.deliver();
        }
    }

    /// A datagram each way, which must arrive.
    fn exchange(&mut self) {
        for side in 0..2 {
            let datagram = self.sides[side].link.datagram(b"\0\0\0\0").expect("there is a session");
            assert!(self.arrive(1 - side, datagram), "from {side} at {} ms", self.now_ms);
        }
        self.deliver();
    }

    fn open(mut self) -> World {
        self.pass(300);
        assert!(self.sides.iter().all(|side| side.link.is_up() && side.events == [LinkEvent::Up]));
        self.exchange();
        self
    }

    fn sessions(&self) -> [u64; 2] {
        [0, 1].map(|side| self.sides[side].link.seal(self.now_ms).map_or(0, |(.., sessions)| sessions))
    }
}

#[test]
fn links_open_at_once() {
    World::sealed().open();
    World::clear().open();
}

impl World {
    /// The indexes of the session that both send with; it must be the same.
    fn agreed(&self) -> [u32; 2] {
        let [a, b] = [0, 1].map(|side| self.sides[side].link.view(address(side)));
        assert_eq!(a.outgoing.unwrap().session(), b.incoming[0].session());
        assert_eq!(b.outgoing.unwrap().session(), a.incoming[0].session());
        [a.incoming[0].session(), b.incoming[0].session()]
    }
}

#[test]
fn both_begin_at_once_and_have_one_session() {
    for _ in 0..8 {
        let world = World::sealed().open();
        assert_eq!(world.sessions(), [1, 1]);
        world.agreed();
    }
}

#[test]
fn keys_change_under_traffic_without_a_loss() {
    let mut world = World::sealed().open();
    let mut exchanged = 0;
    while world.now_ms < 900_000 {
        world.now_ms += 100;
        world.tick();
        // While a handshake is under way traffic goes on, in both directions, between any two of its datagrams.
        loop {
            world.exchange_without_delivery();
            exchanged += 1;
            let Some((side, datagram)) = world.wire.pop_front() else { break };
            world.arrive(side, datagram);
        }
    }
    let sessions = world.sessions();
    assert!((7..=9).contains(&sessions[0]) && sessions[0] == sessions[1], "{sessions:?} of {exchanged}");
    assert!(world.sides.iter().all(|side| side.events == [LinkEvent::Up]));
}

impl World {
    fn exchange_without_delivery(&mut self) {
        for side in 0..2 {
            let datagram = self.sides[side].link.datagram(b"\0\0\0\0").expect("there is a session");
            assert!(self.arrive(1 - side, datagram), "from {side} at {} ms", self.now_ms);
        }
    }
}

#[test]
fn keys_are_changed_when_somebody_asks() {
    let mut world = World::sealed().open();
    assert!(world.sides[0].link.ask_for_keys());
    world.pass(300);
    assert_eq!(world.sessions(), [2, 2]);
    world.pass(5000);
    assert_eq!(world.sessions(), [2, 2], "once");
    world.exchange();
    assert!(!World::clear().open().sides[0].link.ask_for_keys());
}

#[test]
fn keys_change_after_so_many_datagrams() {
    let mut world = World::sealed().open();
    for side in &mut world.sides {
        let Opening::Sealed(sealed) = &mut side.link.opening else { unreachable!() };
        sealed.rekey_datagrams = 1000;
    }
    // 100 rounds of 100 datagrams each way, in ten seconds: far from any age.
    for _ in 0..100 {
        world.now_ms += 100;
        world.tick();
        world.deliver();
        (0..100).for_each(|_| world.exchange_without_delivery());
    }
    let sessions = world.sessions();
    assert!((9..=11).contains(&sessions[0]) && sessions[0] == sessions[1], "{sessions:?}");
    assert!(world.sides.iter().all(|side| side.events == [LinkEvent::Up]));
}

#[test]
fn a_peer_that_restarts_is_back_at_once() {
    for mut world in [World::sealed().open(), World::clear().open()] {
        world.pass(3000);
        world.restart(1);
        world.pass(1500);
        assert!(world.sides[1].link.is_up());
        assert!(world.sides[0].events.starts_with(&[LinkEvent::Up, LinkEvent::Restarted]));
        world.exchange();
    }
}

#[test]
fn the_path_to_a_peer_that_restarts_is_looked_for_again() {
    for mut world in [World::sealed().open(), World::clear().open()] {
        world.pass(3000);
        world.sides[0].link.path.as_mut().unwrap().acknowledged(1472, world.now_ms);
        world.restart(1);
        world.pass(1500);
        assert_eq!(world.sides[0].events[1], LinkEvent::Restarted);
        let now_ms = world.now_ms;
        let path = world.sides[0].link.path.as_mut().expect("a search");
        assert_eq!(path.poll(now_ms), Some(1472));
        assert!(path.acknowledged(1472, now_ms));
        assert_eq!(world.sides[0].link.view(address(1)).max_datagram, 1472);
        world.sides[0].link.goodbye(now_ms);
        world.sides[0].link.search_path(Local { ceiling: 1472, hint: None }, now_ms);
        assert!(world.sides[0].link.path.is_none(), "there is no path while it is down");
    }
}

#[test]
fn a_lossy_wire_delays_and_nothing_more() {
    for seed in 0..50u64 {
        let mut world = World::sealed();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for _ in 0..400 {
            world.now_ms += 100;
            world.tick();
            while let Some((side, datagram)) = world.wire.pop_front() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Half of everything is lost.
                if state >> 63 == 0 {
                    world.arrive(side, datagram);
                }
            }
        }
        world.pass(17_000);
        assert!(world.sides.iter().all(|side| side.link.is_up()), "seed {seed}");
        world.exchange();
    }
}

#[test]
fn silence_ends_it_and_traffic_keeps_it() {
    for mut world in [World::sealed().open(), World::clear().open()] {
        world.pass(60_000);
        assert!(world.sides.iter().all(|side| side.link.is_up()), "signs of life are enough");
        for _ in 0..SILENCE_MS / 100 + 1 {
            world.now_ms += 100;
            world.tick();
            world.wire.clear();
        }
        assert!(world.sides.iter().all(|side| side.events.last() == Some(&LinkEvent::Down(Trouble::Silent))));
        world.pass(2500);
        world.exchange();
    }
}

#[test]
fn one_way_only_opens_nothing() {
    let mut world = World::sealed();
    for _ in 0..600 {
        world.now_ms += 100;
        world.tick();
        while let Some((side, datagram)) = world.wire.pop_front() {
            if side == 0 {
                world.arrive(side, datagram);
            }
        }
    }
    assert!(!world.sides[0].link.is_up() && !world.sides[1].link.is_up());
    // The one hears handshakes that come to nothing, the other nothing at all.
    let trouble = |side: usize| world.sides[side].link.trouble(world.now_ms).cloned();
    assert_eq!([trouble(0), trouble(1)], [Some(Trouble::Incomplete), Some(Trouble::Unheard)]);
    world.pass(3000);
    world.exchange();
    assert_eq!(world.sides[0].link.trouble(world.now_ms), None);
}

#[test]
fn an_address_follows_what_is_authentic_and_returns_when_the_peer_is_gone() {
    let mut world = World::sealed().open();
    let elsewhere: SocketAddr = "192.0.2.7:9".parse().unwrap();
    let link = &mut world.sides[0].link;
    let session = link.view(elsewhere).incoming[0].session();
    assert!(link.roamed(session, elsewhere).changed && link.address() == elsewhere);
    assert!(!link.roamed(session, elsewhere).changed);
    link.goodbye(1000);
    assert_eq!(link.address(), address(1));
    let link = &mut World::clear().open().sides[0];
    assert!(!link.link.roamed(session, elsewhere).changed, "nothing is authentic in clear text");
}

#[test]
fn an_answer_is_smaller_than_its_question_and_there_are_not_many() {
    let mut world = World::sealed();
    let mut answers = 0;
    world.now_ms = 5000;
    for _ in 0..100 {
        // Each is newer than the last, as from a peer that has gone mad.
        world.restart(0);
        world.tick();
        let (_, question) = world.wire.drain(..).find(|(side, _)| *side == 1).unwrap();
        world.arrive(1, question.clone());
        for (_, answer) in world.wire.drain(..) {
            answers += 1;
            assert!(answer.len() < question.len(), "{} for {}", answer.len(), question.len());
        }
    }
    assert!((1..=5).contains(&answers), "{answers}");
}

#[test]
fn in_clear_text_answers_are_limited_and_lives_too() {
    let mut world = World::clear();
    let hello = |n: u32| Hello { uid: format!("X{n}"), name: "x".into(), session: 5, your_session: None, up: false };
    let link = &mut world.sides[0].link;
    let mut random = || 9;
    let answered = |outcome: Outcome| !outcome.send.is_empty();
    let answers = (0..1000).filter(|_| answered(link.hello(&hello(0), 0, &mut random))).count();
    assert!(answers <= clear::ANSWERS_PER_SECOND as usize, "{answers}");
    let believed = (1..1000).filter(|n| link.hello(&hello(*n), 0, &mut random).changed).count();
    assert!(believed <= 1, "{believed}");
}

#[test]
fn hellos_survive_and_garbage_does_not() {
    let own = identity(PrivateKey::generate().unwrap(), 1);
    let hello = Clear::new(PeerId(0), own, &mut || 5).hello(false);
    assert_eq!(Hello::parse(&serde_json::to_vec(&hello).unwrap()), Some(hello));
    let forged = r#"{"msg_type":"hello","uid":"a\nb","name":"gw\n\u001b[2J\u0085ERROR","session":1}"#;
    let forged = Hello::parse(forged.as_bytes()).unwrap();
    assert_eq!((forged.uid.as_str(), forged.name.as_str()), ("a?b", "gw??[2J?ERROR"));
    for bad in [
        "",
        "{}",
        r#"{"msg_type":"hello","uid":"","name":"","session":1}"#,
        r#"{"msg_type":"bye","uid":"x","session":1}"#,
    ] {
        assert_eq!(Hello::parse(bad.as_bytes()), None, "{bad}");
    }
}
