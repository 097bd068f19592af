//! A peer in clear text that the test plays: it has gw-b's address, and sends what no gateway of ours would.

use std::net::{SocketAddr, UdpSocket};

use ipop_lab::arp::Mac;
use ipop_lab::{Daemon, Lab, RawPort, TAP, udp_socket};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::kit::{Outcome, SOON};

/// From the description of the datagram format: version 3, then the type, network 0.
const DATA: u32 = 0x3100_0000;
const HELLO: u32 = 0x3200_0000;
/// A record with a whole frame, and one with a slice.
pub(crate) const FRAME: u8 = 1;
pub(crate) const SEGMENT: u8 = 2;
/// Flags of a slice.
pub(crate) const LAST: u8 = 1;
pub(crate) const ECN: u8 = 2;
/// What this gateway wants to be sent to.
const SESSION: u32 = 0x0077_0001;
/// The station that it pretends to have, and the one that it sends to.
pub(crate) const FROM: Mac = [0x02, 0, 0, 0, 0xcc, 1];
pub(crate) const TO: Mac = [0x02, 0, 0, 0, 0xcc, 2];

/// gw-a, and the one in the place of gw-b.
pub(crate) struct Stranger {
    socket: UdpSocket,
    target: SocketAddr,
    theirs: u32,
    counter: u64,
    /// What gw-a writes to its TAP.
    pub(crate) port: RawPort,
    pub(crate) daemon: Daemon,
    pub(crate) lab: Lab,
}

impl Stranger {
    /// Starts gw-a with a configuration that `change` has seen, and opens a link to it.
    pub(crate) fn connect(change: impl Fn(&mut Value)) -> Result<Stranger, Failed> {
        let lab = Lab::builder().without_inner_ipv6().build()?;
        let socket = udp_socket(lab.gateway(1).netns(), lab.gateway(1).endpoint(), SOON)?;
        let mut config = lab.gateway(0).config();
        config["sec"] = false.into();
        change(&mut config);
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
        socket.send_to(&datagram(HELLO, 0, 0, hello.to_string().as_bytes()), target)?;
        daemon.wait_peers_up(SOON)?;
        let port = RawPort::open(lab.gateway(0).netns(), TAP)?;
        Ok(Stranger { socket, target, theirs, counter: 1, port, daemon, lab })
    }

    /// Sends one record.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, body: &[u8]) -> Outcome {
        self.counter += 1;
        let length = u16::try_from(body.len())?.to_be_bytes();
        let record = [&[kind, flags, length[0], length[1]], body].concat();
        self.socket.send_to(&datagram(DATA, self.theirs, self.counter, &record), self.target)?;
        Ok(())
    }
}

fn datagram(kind: u32, session: u32, counter: u64, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &session.to_be_bytes(), &counter.to_be_bytes(), body].concat()
}

/// The body of a segment record.
pub(crate) fn slice(number: u16, offset: u16, gso_size: u16, headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let fields = [number, offset, gso_size].map(u16::to_be_bytes).concat();
    [&fields[..], &[headers.len() as u8, 0], headers, payload].concat()
}
