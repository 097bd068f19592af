//! Programs that read raw frames take a frame for a datagram.

use std::net::{SocketAddr, UdpSocket};

use ipop_lab::{Container, RawPort, udp_socket};
use libtest_mimic::Failed;
use nix::sys::socket::{setsockopt, sockopt};

use crate::kit::{Outcome, SOON, Scene, THERE, THERE_V6, capture, ensure, is_finished, offload, udp_at};

/// Datagrams of a burst, and bursts. A burst is less than any queue on the way holds.
const BURST: usize = 20;
const BURSTS: usize = 20;
const SIZE: usize = 300;
/// A port that nobody reads raw, and one that the config may list (proxy DHCP of PXE).
const ORDINARY: u16 = 5001;
const LISTED: u16 = 4011;

/// The way of bursts from c0 to c1, which has a socket and a raw one.
struct Way {
    sender: UdpSocket,
    receiver: UdpSocket,
    port: RawPort,
    number: u16,
}

impl Way {
    fn new(c0: &Container, c1: &Container, to: &str, from_port: u16, to_port: u16) -> Result<Way, Failed> {
        let any = |port: u16| SocketAddr::new(if to.contains(':') { [0; 16].into() } else { [0; 4].into() }, port);
        let receiver = udp_socket(c1.netns(), any(to_port), SOON)?;
        let sender = udp_socket(c0.netns(), any(from_port), SOON)?;
        sender.connect(SocketAddr::new(to.parse()?, to_port))?;
        // Both find each other first.
        sender.send(b"?")?;
        receiver.recv(&mut [0; 1])?;
        let port = RawPort::open(c1.netns(), c1.interface())?;
        Ok(Way { sender, receiver, port, number: to_port })
    }

    /// Sends bursts; what c1's raw socket sees of them. Its UDP socket must see every datagram, in order.
    fn bursts(&mut self, gso: bool) -> Result<Vec<Vec<u8>>, Failed> {
        if gso {
            setsockopt(&self.sender, sockopt::UdpGsoSegment, &(SIZE as i32))?;
        }
        let mut frames = Vec::new();
        for burst in 0..BURSTS {
            let octets: Vec<u8> = (0..BURST * SIZE).map(|at| (at / SIZE * 7 + burst) as u8).collect();
            for part in octets.chunks(if gso { octets.len() } else { SIZE }) {
                self.sender.send(part)?;
            }
            frames.extend(capture(&mut self.port, self.number, octets.len())?);
            for expected in octets.chunks(SIZE) {
                let mut datagram = [0; 2 * SIZE];
                let len = self.receiver.recv(&mut datagram)?;
                ensure(datagram[..len] == *expected, || format!("burst {burst}: a datagram came changed"))?;
            }
        }
        Ok(frames)
    }

    /// Every datagram is one frame, with a checksum that is complete.
    fn single(&mut self, gso: bool) -> Outcome {
        let frames = self.bursts(gso)?;
        let count = frames.len();
        ensure(count == BURST * BURSTS, || format!("port {}: {} datagrams in {count}", self.number, BURST * BURSTS))?;
        let finished = |frame: &Vec<u8>| udp_at(frame, self.number).is_some_and(|at| is_finished(frame, at));
        let bad = frames.iter().find(|frame| !finished(frame));
        ensure(bad.is_none(), || format!("port {}: the checksum is off: {:02x?}", self.number, bad))
    }

    /// Fewer frames than datagrams: this is what the others are spared.
    fn merged(&mut self) -> Outcome {
        let count = self.bursts(false)?.len();
        ensure(count < BURST * BURSTS, || format!("port {}: nothing was merged", self.number))
    }
}

pub(crate) fn dhcp() -> Outcome {
    let scene = Scene::start(|_, _| {})?;
    let (c0, c1) = scene.pair()?;
    // A relay and a server, a server and a client, of both families; and what only comes from such a port.
    let ways = [(THERE, 67, 67), (THERE, 67, 68), (THERE, 68, 67), (THERE_V6, 547, 547), (THERE_V6, 546, 547)];
    for (to, from_port, to_port) in ways.into_iter().chain([(THERE_V6, 547, 546), (THERE, 67, 40_067)]) {
        Way::new(&c0, &c1, to, from_port, to_port)?.single(false)?;
    }
    for to in [THERE, THERE_V6] {
        Way::new(&c0, &c1, to, 0, ORDINARY)?.merged()?;
        Way::new(&c0, &c1, to, 0, LISTED)?.merged()?;
    }
    Ok(())
}

pub(crate) fn listed() -> Outcome {
    let scene = Scene::start(|_, config| config["raw_udp_ports"] = [LISTED, 7].into())?;
    let (c0, c1) = scene.pair()?;
    for (from_port, to_port) in [(0, LISTED), (LISTED, 40_011), (0, 7), (0, 67)] {
        Way::new(&c0, &c1, THERE, from_port, to_port)?.single(false)?;
    }
    Way::new(&c0, &c1, THERE, 0, ORDINARY)?.merged()
}

/// Also where only the receiver's gateway knows that somebody reads them.
pub(crate) fn super_frames() -> Outcome {
    let scene = Scene::start(|gateway, config| {
        if gateway == 1 {
            config["raw_udp_ports"] = [LISTED].into();
        }
    })?;
    let (c0, c1) = scene.pair()?;
    Way::new(&c0, &c1, THERE, 67, 67)?.single(true)?;
    Way::new(&c0, &c1, THERE_V6, 547, 547)?.single(true)?;
    let frames = Way::new(&c0, &c1, THERE, 0, LISTED)?.bursts(true)?.len();
    ensure(frames == BURST * BURSTS, || format!("{} datagrams in {frames} frames", BURST * BURSTS))?;
    let frames = Way::new(&c0, &c1, THERE, 0, ORDINARY)?.bursts(true)?.len();
    ensure(frames < BURST * BURSTS, || "an ordinary super-frame was cut".into())
}

pub(crate) fn merging_off() -> Outcome {
    let scene = Scene::start(|_, config| config["offloads"]["udp_merge"] = false.into())?;
    let (c0, c1) = scene.pair()?;
    let frames = Way::new(&c0, &c1, THERE, 0, ORDINARY)?.bursts(false)?.len();
    ensure(frames == BURST * BURSTS, || format!("{} datagrams in {frames} frames", BURST * BURSTS))?;
    let [merge, uso] = ["udp_merge", "uso"].map(|name| offload(&scene.daemons[1], name));
    let (merge, uso) = (merge?, uso?);
    ensure(merge["on"] == false && merge["reason"] == "switched off in the config", || merge.to_string())?;
    ensure(uso["on"] == true, || uso.to_string())?;
    // What a guest has made a super-frame stays one.
    let frames = Way::new(&c0, &c1, THERE, 0, ORDINARY)?.bursts(true)?.len();
    ensure(frames < BURST * BURSTS, || "a super-frame was cut".into())
}
