//! A peer that sends what no gateway of ours would: the daemon must not rely on what the others filter. In clear text, and
//! where it is about what a peer can cause, in a sealed session too.
//!
//! ```text
//!   c0 -- lxcbr0 -- ipop -- gw-a ===== 10.99.0.2:5800 in gw-b: this test, speaking the protocol by hand
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipop_control::keys::PrivateKey;
use ipop_control::link::noise::Responder;
use ipop_control::link::{Identity, Link, Outcome as LinkOutcome};
use ipop_dataplane::addr::PeerId;
use ipop_dataplane::datagram::{self, DATAGRAM_HEADER_LEN, DatagramHeader};
use ipop_dataplane::session::Gate;
use ipop_lab::arp::{Arp, BROADCAST};
use ipop_lab::{Daemon, Lab, RawPort, TAP, udp_socket};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::Test;
use crate::support::{Outcome, SOON, ensure, numbered, until};

pub(crate) const TESTS: &[Test] = &[
    Test::new("pause_frames_from_a_peer_are_refused", pause),
    Test::new("group_addresses_as_source_from_a_peer_are_refused", sources),
    Test::new("unfinished_checksums_from_a_peer_stand_in_their_place", checksum_place),
    Test::new("messages_of_a_peer_are_bounded_in_number", || message_rate(Stranger::connect()?)),
    Test::new("messages_of_a_peer_are_bounded_in_size_and_depth", || message_size(Stranger::connect()?)),
    Test::new("messages_of_a_sealed_peer_are_bounded_in_number", || message_rate(Stranger::connect_sealed()?)),
    Test::new("messages_of_a_sealed_peer_are_bounded_in_size_and_depth", || message_size(Stranger::connect_sealed()?)),
];

/// From the description of the datagram format: version 3, then the type, network 0.
const DATA: u32 = 0x3100_0000;
const HELLO: u32 = 0x3200_0000;
/// A record with a whole frame, and one with a message.
const FRAME: u8 = 1;
const CONTROL: u8 = 4;
/// What this gateway wants to be sent to.
const SESSION: u32 = 0x0077_0001;

/// Set in a record whose frame has an unfinished checksum.
const UNFINISHED: u8 = 1;

struct Stranger {
    socket: UdpSocket,
    target: SocketAddr,
    session: Session,
    daemon: Daemon,
    lab: Lab,
}

enum Session {
    Clear { theirs: u32, counter: u64 },
    Sealed(Box<Link>),
}

impl Stranger {
    /// Starts gw-a and opens a link to it in the place of gw-b.
    fn connect() -> Result<Stranger, Failed> {
        let lab = Lab::builder().without_inner_ipv6().build()?;
        let socket = udp_socket(lab.gateway(1).netns(), lab.gateway(1).endpoint(), SOON)?;
        let mut config = lab.gateway(0).config();
        config["sec"] = false.into();
        let daemon = lab.gateway(0).start_ipop(&config)?;
        let target = lab.gateway(0).endpoint();
        let mut theirs = 0;
        let mut buffer = [0; 2048];
        while theirs == 0 {
            let (length, _) = socket.recv_from(&mut buffer)?;
            let hello: Value = serde_json::from_slice(&buffer[16.min(length)..length]).unwrap_or_default();
            if hello["msg_type"] == "hello" {
                theirs = u32::try_from(hello["session"].as_u64().ok_or("no session")?)?;
            }
        }
        let hello = json!({
            "msg_type": "hello", "uid": "stranger", "name": "gw-b",
            "session": SESSION, "your_session": theirs,
        });
        socket.send_to(&clear(HELLO, 0, 0, hello.to_string().as_bytes()), target)?;
        daemon.wait_peers_up(SOON)?;
        Ok(Stranger { socket, target, session: Session::Clear { theirs, counter: 1 }, daemon, lab })
    }

    /// The same with gw-b's key, which is the only thing that gw-a asks for.
    fn connect_sealed() -> Result<Stranger, Failed> {
        let lab = Lab::builder().without_inner_ipv6().build()?;
        let socket = udp_socket(lab.gateway(1).netns(), lab.gateway(1).endpoint(), Duration::from_millis(100))?;
        let daemon = lab.gateway(0).start_ipop(&lab.gateway(0).config())?;
        let target = lab.gateway(0).endpoint();
        let key = |index: usize| -> Result<PrivateKey, Failed> {
            let config = lab.gateway(index).config();
            Ok(PrivateKey::load(config["private_key_file"].as_str().ok_or("no private_key_file")?.as_ref())?)
        };
        let (private, public) = (key(1)?, key(1)?.public());
        let (uid, name) = (public.uid(), "gw-b".to_owned());
        let own = Arc::new(Identity { private, public, uid, life: 7, name, network: 0, workers: 1 });
        let mut link = Link::sealed(PeerId(0), "gw-a".to_owned(), target, own.clone(), key(0)?.public(), None);
        let begin = Instant::now();
        while !link.is_up() {
            ensure(begin.elapsed() < SOON, || "no session with gw-a".into())?;
            let now_ms = begin.elapsed().as_millis() as u64;
            let mut send = link.tick(now_ms, 0, &mut || now_ms).send;
            let mut buffer = [0; 2048];
            if let Ok(length) = socket.recv(&mut buffer) {
                send.extend(heard(&mut link, &own, target, &mut buffer[..length], now_ms).send);
            }
            for (to, datagram) in send {
                socket.send_to(&datagram, to)?;
            }
        }
        let mut stranger = Stranger { socket, target, session: Session::Sealed(Box::new(link)), daemon, lab };
        // A sign of life, by which gw-a knows that the session is in use.
        stranger.send(&[])?;
        stranger.daemon.wait_peers_up(SOON)?;
        Ok(stranger)
    }

    /// A datagram with these records.
    fn send(&mut self, records: &[u8]) -> Outcome {
        let datagram = match &mut self.session {
            Session::Clear { theirs, counter } => {
                *counter += 1;
                clear(DATA, *theirs, *counter, records)
            }
            Session::Sealed(link) => link.datagram(records).ok_or("no session")?,
        };
        self.socket.send_to(&datagram, self.target)?;
        Ok(())
    }

    fn count(&self, pointer: &str) -> Result<u64, Failed> {
        Ok(self.daemon.counter(pointer)?)
    }

    /// A frame still passes.
    fn passes(&mut self) -> Outcome {
        let mut port = RawPort::open(self.lab.gateway(0).netns(), TAP)?;
        let good = numbered(BROADCAST, [0x02, 0, 0, 0, 0xcc, 1], 1, 60);
        self.send(&record(FRAME, 0, &good)?)?;
        until(&mut port, &good).map(drop)
    }

    /// Sends frames that must be refused, and then one that must not: that alone may reach the TAP.
    fn refused(mut self, flags: u8, bad: &[Vec<u8>], counter: &str) -> Outcome {
        let mut port = RawPort::open(self.lab.gateway(0).netns(), TAP)?;
        for frame in bad {
            self.send(&record(FRAME, flags, frame)?)?;
        }
        let good = numbered(BROADCAST, [0x02, 0, 0, 0, 0xcc, 1], 1, 60);
        self.send(&record(FRAME, 0, &good)?)?;
        let seen = until(&mut port, &good)?;
        ensure(seen.is_empty(), || format!("gw-a wrote {seen:02x?}"))?;
        let dropped = self.daemon.counter(&format!("/drops/{counter}"))?;
        ensure(dropped == bad.len() as u64, || format!("{counter} is {dropped}"))
    }
}

fn clear(kind: u32, session: u32, counter: u64, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &session.to_be_bytes(), &counter.to_be_bytes(), body].concat()
}

/// What follows from a datagram of gw-a for a sealed link.
fn heard(link: &mut Link, own: &Identity, from: SocketAddr, octets: &mut [u8], now_ms: u64) -> LinkOutcome {
    let Ok((header, _)) = DatagramHeader::parse(octets, own.network) else { return LinkOutcome::default() };
    let (kind, session) = (header.kind(), header.session.get());
    if kind == datagram::DATA {
        let incoming = link.view(from).incoming;
        let opened = incoming.iter().any(|one| one.session() == session && one.open(&header, octets).is_ok());
        return if opened { link.session_used(session, now_ms) } else { LinkOutcome::default() };
    }
    let Some(octets) = Gate::of(own.public.as_bytes()).pass(octets) else { return LinkOutcome::default() };
    let body = &octets[DATAGRAM_HEADER_LEN..];
    let outcome = match kind {
        datagram::INITIATION => Responder::read(&own.private, own.network, body)
            .and_then(|responder| link.initiation(responder, from, now_ms, &mut || now_ms).ok()),
        datagram::RESPONSE => link.response(session, body, from, now_ms, &mut || now_ms),
        _ => None,
    };
    outcome.unwrap_or_default()
}

fn record(kind: u8, flags: u8, body: &[u8]) -> Result<Vec<u8>, Failed> {
    let length = u16::try_from(body.len())?.to_be_bytes();
    Ok([&[kind, flags, length[0], length[1]], body].concat())
}

/// A peer that says more than anyone can mean is heard as fast as is allowed; all else is counted.
fn message_rate(mut stranger: Stranger) -> Outcome {
    let begin = Instant::now();
    for group in 0..2500_u32 {
        let mut records = Vec::new();
        for number in 8 * group..8 * (group + 1) {
            let mac = format!("02:00:00:{:02x}:{:02x}:{:02x}", number >> 16, number >> 8 & 0xff, number & 0xff);
            let message = json!({ "msg_type": "mac_moved", "mac": mac, "seq": 0 });
            records.extend(record(CONTROL, 0, message.to_string().as_bytes())?);
        }
        stranger.send(&records)?;
        if group % 50 == 49 {
            // More than the socket's buffer holds is not what this is about.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let account = |stranger: &Stranger| -> Result<[u64; 3], Failed> {
        let heard = stranger.count("/arp/rpc_moves_received")?;
        Ok([heard, stranger.count("/drops/rpc_rate")?, stranger.count("/drops/control_queue_full")?])
    };
    let end = Instant::now() + SOON;
    while account(&stranger)?.iter().sum::<u64>() < 20_000 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let [heard, beyond, full] = account(&stranger)?;
    ensure(heard + beyond + full >= 20_000, || format!("{heard} heard, {beyond} beyond the rate, {full} in vain"))?;
    // 4000 a second, and a quarter of that at once.
    let bound = 4000 * (begin.elapsed().as_secs() + 1) + 1000;
    ensure(heard + full <= bound && beyond > 0, || format!("{heard} heard, {full} in vain, {beyond} beyond the rate"))?;
    stranger.passes()
}

/// What is longer than a message can be, or nested as deep as one can be, is counted and does no harm.
fn message_size(mut stranger: Stranger) -> Outcome {
    let nested = |open: &str, count: usize| open.repeat(count).into_bytes();
    let long = format!("{{\"msg_type\":\"path_probe\",\"size\":7,\"x\":\"{}\"}}", "y".repeat(1000));
    let bodies =
        [nested("[", 1024), nested("{\"a\":", 170), nested("[", 1400), long.into_bytes(), vec![], vec![0xff; 64]];
    for body in &bodies {
        stranger.send(&record(CONTROL, 0, body)?)?;
    }
    stranger.passes()?;
    let end = Instant::now() + SOON;
    while stranger.count("/drops/rpc_refused")? < bodies.len() as u64 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let refused = stranger.count("/drops/rpc_refused")?;
    ensure(refused == bodies.len() as u64, || format!("{refused} of {} are counted", bodies.len()))
}

/// What else bridges say to each other is the bridge's to judge.
fn pause() -> Outcome {
    let (group, from) = ([0x01, 0x80, 0xc2, 0, 0, 1], [0x02, 0, 0, 0, 0xcc, 1]);
    let mut control = numbered(BROADCAST, from, 0, 60);
    control[12..14].copy_from_slice(&[0x88, 0x08]);
    Stranger::connect()?.refused(0, &[numbered(group, from, 0, 60)], "bridge_reserved")?;
    Stranger::connect()?.refused(0, &[control], "mac_control")
}

fn sources() -> Outcome {
    let sources = [BROADCAST, [0x01, 0x00, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [0; 6]];
    let frames: Vec<_> = sources.into_iter().map(|source| numbered(BROADCAST, source, 0, 60)).collect();
    Stranger::connect()?.refused(0, &frames, "bad_source")
}

/// The kernel would write two octets of the sender's address after they were looked at.
fn checksum_place() -> Outcome {
    let mac = [0x02, 0, 0, 0, 0xcc, 2];
    let arp = Arp::reply(mac, [10, 0, 3, 200].into(), BROADCAST, [10, 0, 3, 3].into()).frame();
    let places = [[28_u16, 0], [14, 14], [34, 6]];
    let unfinished = places.map(|[start, offset]| [&start.to_be_bytes()[..], &offset.to_be_bytes(), &arp].concat());
    Stranger::connect()?.refused(UNFINISHED, &unfinished, "checksum_place")
}
