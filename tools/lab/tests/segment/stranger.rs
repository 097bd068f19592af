//! A peer that sends what no gateway of ours would: the daemon must not rely on what the others filter.
//!
//! ```text
//!   c0 -- lxcbr0 -- ipop -- gw-a ===== 10.99.0.2:5800 in gw-b: this test, speaking the protocol by hand
//! ```

use std::net::{SocketAddr, UdpSocket};

use ipop_lab::arp::BROADCAST;
use ipop_lab::{Daemon, Lab, RawPort, TAP, udp_socket};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::Test;
use crate::support::{Outcome, SOON, ensure, numbered, until};

pub(crate) const TESTS: &[Test] = &[
    Test::new("bridge_group_addresses_from_a_peer_are_refused", reserved),
    Test::new("group_addresses_as_source_from_a_peer_are_refused", sources),
];

/// From the description of the datagram format: version 2, then the type, network 0.
const DATA: u32 = 0x2100_0000;
const HANDSHAKE: u32 = 0x2200_0000;
/// A record with a whole frame.
const FRAME: u8 = 1;
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
        let daemon = lab.gateway(0).start_ipop(&lab.gateway(0).config())?;
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
        stranger.send(HANDSHAKE, 0, hello.to_string().as_bytes())?;
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
        let length = u16::try_from(frame.len())?.to_be_bytes();
        self.send(DATA, self.their_session, &[&[FRAME, 0, length[0], length[1]], frame].concat())
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

fn reserved() -> Outcome {
    let frame = |low| numbered([0x01, 0x80, 0xc2, 0, 0, low], [0x02, 0, 0, 0, 0xcc, 1], low.into(), 60);
    Stranger::connect()?.refused(&(0..16).map(frame).collect::<Vec<_>>(), "bridge_reserved")
}

fn sources() -> Outcome {
    let sources = [BROADCAST, [0x01, 0x00, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [0; 6]];
    let frames: Vec<_> = sources.into_iter().map(|source| numbered(BROADCAST, source, 0, 60)).collect();
    Stranger::connect()?.refused(&frames, "bad_source")
}
