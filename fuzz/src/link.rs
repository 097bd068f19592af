//! Two sealed links and a wire that somebody else owns: it loses, doubles, reorders, changes and makes up datagrams. Once
//! it leaves them alone they find each other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use ipop_control::link::noise::Responder;
use ipop_control::link::{Identity, Link, Outcome};
use ipop_dataplane::addr::PeerId;
use ipop_dataplane::datagram::{DATA, DATAGRAM_HEADER_LEN, DatagramHeader, INITIATION, RESPONSE};
use ipop_dataplane::session::Gate;
use zerocopy::IntoBytes;

use crate::Input;
use crate::datagram::NETWORK;
use crate::handshake::KEYS;

/// What the wire may do before it has to leave them alone.
const STEPS: usize = 60;
/// Seconds within which both are up then: the longest that a lost answer, a session that was agreed to in vain and the
/// other side's silence can take together.
const PATIENCE_S: u64 = 60;
/// Longer than any session is kept beside the current one.
const LEFTOVERS_S: u64 = 35;

struct Side {
    link: Link,
    own: Arc<Identity>,
    received: u64,
    random: u64,
}

struct World {
    sides: [Side; 2],
    /// Receiver and datagram.
    wire: VecDeque<(usize, Vec<u8>)>,
    now_ms: u64,
}

fn address(side: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, side as u8 + 1], 5800))
}

fn side(side: usize, life: u64) -> Side {
    let (private, public) = KEYS[side].clone();
    let own = Arc::new(Identity {
        uid: public.uid(),
        private,
        public,
        life,
        name: format!("gw-{side}"),
        network: NETWORK,
        workers: 1,
    });
    let link = Link::sealed(PeerId(0), "peer".to_owned(), address(1 - side), own.clone(), KEYS[1 - side].1, None);
    Side { link, own, received: 0, random: 1000 * side as u64 }
}

impl World {
    fn follow(&mut self, side: usize, outcome: Outcome) {
        self.wire.extend(outcome.send.into_iter().map(|(_, datagram)| (1 - side, datagram)));
    }

    fn pass_time(&mut self, ms: u64) {
        self.now_ms += ms;
        for side in 0..2 {
            let Side { link, received, random, .. } = &mut self.sides[side];
            let outcome = link.tick(self.now_ms, *received, &mut || next(random));
            self.follow(side, outcome);
        }
    }

    /// What worker and control thread do with a datagram; true if it was data, and authentic.
    fn arrive(&mut self, side: usize, mut datagram: Vec<u8>) -> bool {
        let (from, now_ms) = (address(1 - side), self.now_ms);
        let Side { link, own, received, random } = &mut self.sides[side];
        let Ok((header, _)) = DatagramHeader::parse(&datagram, NETWORK) else { return false };
        let session = header.session.get();
        if header.kind() == DATA {
            let incoming = link.view(from).incoming;
            let Some(incoming) = incoming.iter().find(|incoming| incoming.session() == session) else { return false };
            if incoming.open(&header, &mut datagram).is_err() {
                return false;
            }
            *received += 1;
            if incoming.is_unused() {
                incoming.set_used();
                let outcome = link.session_used(session, now_ms);
                self.follow(side, outcome);
            }
            return true;
        }
        let Some(bytes) = Gate::of(own.public.as_bytes()).pass(&datagram) else { return false };
        let body = &bytes[DATAGRAM_HEADER_LEN..];
        let outcome = match header.kind() {
            INITIATION => Responder::read(&own.private, NETWORK, body)
                .and_then(|responder| link.initiation(responder, from, now_ms, &mut || next(random)).ok()),
            RESPONSE => link.response(session, body, from, now_ms, &mut || next(random)),
            _ => None,
        };
        if let Some(outcome) = outcome {
            self.follow(side, outcome);
        }
        false
    }

    fn deliver_all(&mut self) {
        // An exchange that never ends would be a finding.
        for _ in 0..1000 {
            let Some((to, datagram)) = self.wire.pop_front() else { return };
            self.arrive(to, datagram);
        }
        panic!("they talk without end");
    }

    /// Both are up and what each says is heard.
    fn converse(&mut self) -> bool {
        (0..2).all(|side| {
            let said = self.sides[side].link.is_up().then(|| self.sides[side].link.datagram(b"\0\0\0\0")).flatten();
            said.is_some_and(|datagram| self.arrive(1 - side, datagram))
        })
    }

    /// What is left of handshakes that crossed must not part them again: they go on hearing each other, and end with one
    /// session.
    fn stay_together(&mut self) {
        for _ in 0..LEFTOVERS_S {
            self.pass_time(1000);
            self.deliver_all();
            assert!(self.converse(), "they lose each other again");
        }
        self.deliver_all();
        let [a, b] = [0, 1].map(|side| self.sides[side].link.view(address(side)));
        for (from, to) in [(&a, &b), (&b, &a)] {
            let sent_with = from.outgoing.as_ref().map(|outgoing| outgoing.session());
            assert_eq!(sent_with, to.incoming.first().map(|incoming| incoming.session()));
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let [action, amount] = input.array();
        let amount = usize::from(amount);
        match action % 10 {
            0 => self.pass_time(amount as u64 * 10),
            1 => self.pass_time(amount as u64 * 1000),
            2 => drop(self.wire.pop_front()),
            3 => self.wire.extend(self.wire.front().cloned()),
            4 => self.wire.rotate_left(amount % self.wire.len().max(1)),
            5 => {
                if let Some((_, datagram)) = self.wire.front_mut() {
                    let len = datagram.len();
                    datagram[amount % len] ^= action | 1;
                }
            }
            6 => {
                // Made up, with a stamp if it has a header.
                let mut datagram = DatagramHeader::new(input.u8(), NETWORK, amount as u32, 255, 0).as_bytes().to_vec();
                datagram.extend_from_slice(input.take(amount));
                Gate::of(KEYS[amount & 1].1.as_bytes()).stamp(&mut datagram);
                self.wire.push_front((amount & 1, datagram));
            }
            7 => self.sides[amount & 1] = side(amount & 1, self.sides[amount & 1].own.life + 1),
            8 => {
                let now_ms = self.now_ms;
                let outcome = self.sides[amount & 1].link.goodbye(now_ms);
                self.follow(amount & 1, outcome);
            }
            _ => drop(self.sides[amount & 1].link.ask_for_keys()),
        }
        // Every other action lets the oldest arrive.
        if action & 0x80 == 0
            && let Some((to, datagram)) = self.wire.pop_front()
        {
            self.arrive(to, datagram);
        }
    }
}

fn next(random: &mut u64) -> u64 {
    *random += 1;
    *random
}

/// Each two octets are something that the wire, the clock or an operator does.
pub fn link(data: &[u8]) -> bool {
    let mut world = World { sides: [side(0, 1), side(1, 2)], wire: VecDeque::new(), now_ms: 1000 };
    let mut input = Input(data);
    for _ in 0..STEPS {
        if input.0.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    for _ in 0..PATIENCE_S {
        world.pass_time(1000);
        world.deliver_all();
        if world.converse() {
            world.stay_together();
            return data.len() > 3;
        }
    }
    panic!("they do not find each other again");
}
