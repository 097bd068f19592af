//! A peer that sends what no gateway of ours would: the daemon must not rely on what the others filter.
//!
//! ```text
//!   c0 -- lxcbr0 -- ipop -- gw-a ===== 10.99.0.2:5800 in gw-b: this test, speaking the protocol by hand
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ipop_lab::arp::BROADCAST;
use ipop_lab::{Daemon, Lab, RawPort, TAP, udp_socket};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::Test;
use crate::support::{Outcome, SOON, ensure, numbered, until};

pub(crate) const TESTS: &[Test] = &[
    Test::new("bridge_group_addresses_from_a_peer_are_refused", reserved),
    Test::new("group_addresses_as_source_from_a_peer_are_refused", sources),
    Test::new("messages_of_a_peer_are_bounded_in_number", message_rate),
    Test::new("messages_of_a_peer_are_bounded_in_size_and_depth", message_size),
];

/// From the description of the datagram format: version 3, then the type, network 0.
const DATA: u32 = 0x3100_0000;
const HELLO: u32 = 0x3200_0000;
/// A record with a whole frame, and one with a message.
const FRAME: u8 = 1;
const CONTROL: u8 = 4;
/// What this gateway wants to be sent to.
const SESSION: u32 = 0x0077_0001;

struct Stranger {
    socket: UdpSocket,
    target: SocketAddr,
    their_session: u32,
    counter: u64,
    daemon: Daemon,
    lab: Lab,
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
        let mut stranger = Stranger { socket, target, their_session: 0, counter: 0, daemon, lab };
        let mut buffer = [0; 2048];
        while stranger.their_session == 0 {
            let (length, _) = stranger.socket.recv_from(&mut buffer)?;
            let hello: Value = serde_json::from_slice(&buffer[16.min(length)..length]).unwrap_or_default();
            if hello["msg_type"] == "hello" {
                stranger.their_session = u32::try_from(hello["session"].as_u64().ok_or("no session")?)?;
            }
        }
        let hello = json!({
            "msg_type": "hello", "uid": "stranger", "name": "gw-b",
            "session": SESSION, "your_session": stranger.their_session,
        });
        stranger.send(HELLO, 0, hello.to_string().as_bytes())?;
        stranger.daemon.wait_peers_up(SOON)?;
        Ok(stranger)
    }

    fn send(&mut self, kind: u32, session: u32, body: &[u8]) -> Outcome {
        let header = [&kind.to_be_bytes()[..], &session.to_be_bytes(), &self.counter.to_be_bytes()].concat();
        self.counter += 1;
        self.socket.send_to(&[&header, body].concat(), self.target)?;
        Ok(())
    }

    fn send_frame(&mut self, frame: &[u8]) -> Outcome {
        self.send(DATA, self.their_session, &record(FRAME, frame)?)
    }

    fn count(&self, pointer: &str) -> Result<u64, Failed> {
        Ok(self.daemon.counter(pointer)?)
    }

    /// A frame still passes.
    fn passes(&mut self) -> Outcome {
        let mut port = RawPort::open(self.lab.gateway(0).netns(), TAP)?;
        let good = numbered(BROADCAST, [0x02, 0, 0, 0, 0xcc, 1], 1, 60);
        self.send_frame(&good)?;
        until(&mut port, &good).map(drop)
    }

    /// Sends what must be refused, and then what must not: that alone may reach the TAP.
    fn refused(mut self, bad: &[Vec<u8>], counter: &str) -> Outcome {
        let mut port = RawPort::open(self.lab.gateway(0).netns(), TAP)?;
        for frame in bad {
            self.send_frame(frame)?;
        }
        let good = numbered(BROADCAST, [0x02, 0, 0, 0, 0xcc, 1], 1, 60);
        self.send_frame(&good)?;
        let seen = until(&mut port, &good)?;
        ensure(seen.is_empty(), || format!("gw-a wrote {seen:02x?}"))?;
        let dropped = self.daemon.counter(&format!("/drops/{counter}"))?;
        ensure(dropped == bad.len() as u64, || format!("{counter} is {dropped}"))
    }
}

fn record(kind: u8, body: &[u8]) -> Result<Vec<u8>, Failed> {
    let length = u16::try_from(body.len())?.to_be_bytes();
    Ok([&[kind, 0, length[0], length[1]], body].concat())
}

/// A peer that says more than anyone can mean is heard as fast as is allowed; all else is counted.
fn message_rate() -> Outcome {
    let mut stranger = Stranger::connect()?;
    let begin = Instant::now();
    for group in 0..2500_u32 {
        let mut records = Vec::new();
        for number in 8 * group..8 * (group + 1) {
            let mac = format!("02:00:00:{:02x}:{:02x}:{:02x}", number >> 16, number >> 8 & 0xff, number & 0xff);
            let message = json!({ "msg_type": "mac_moved", "mac": mac, "seq": 0 });
            records.extend(record(CONTROL, message.to_string().as_bytes())?);
        }
        let session = stranger.their_session;
        stranger.send(DATA, session, &records)?;
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
fn message_size() -> Outcome {
    let mut stranger = Stranger::connect()?;
    let nested = |open: &str, count: usize| open.repeat(count).into_bytes();
    let long = format!("{{\"msg_type\":\"path_probe\",\"size\":7,\"x\":\"{}\"}}", "y".repeat(1000));
    let bodies =
        [nested("[", 1024), nested("{\"a\":", 170), nested("[", 1400), long.into_bytes(), vec![], vec![0xff; 64]];
    let session = stranger.their_session;
    for body in &bodies {
        stranger.send(DATA, session, &record(CONTROL, body)?)?;
    }
    stranger.passes()?;
    let end = Instant::now() + SOON;
    while stranger.count("/drops/rpc_refused")? < bodies.len() as u64 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let refused = stranger.count("/drops/rpc_refused")?;
    ensure(refused == bodies.len() as u64, || format!("{refused} of {} are counted", bodies.len()))
}

fn reserved() -> Outcome {
    let frame = |low| numbered([0x01, 0x80, 0xc2, 0, 0, low], [0x02, 0, 0, 0, 0xcc, 1], low.into(), 60);
    Stranger::connect()?.refused(&(0..16).map(frame).collect::<Vec<_>>(), "bridge_reserved")
}

fn sources() -> Outcome {
    let sources = [BROADCAST, [0x01, 0x00, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [0; 6]];
    let frames: Vec<_> = sources.into_iter().map(|source| numbered(BROADCAST, source, 0, 60)).collect();
    Stranger::connect()?.refused(&frames, "bad_source")
}
