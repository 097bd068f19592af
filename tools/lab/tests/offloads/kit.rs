//! What these tests share: the gateways of the drawing, frames that are built by hand, and counts.

use std::time::Duration;

use ipop_lab::arp::Mac;
pub(crate) use ipop_lab::trials::Outcome;
use ipop_lab::{Container, Daemon, Lab, RawPort, interrupt};
use libtest_mimic::Failed;
use serde_json::Value;

pub(crate) const HERE: &str = "10.0.3.3";
pub(crate) const THERE: &str = "10.0.3.104";
pub(crate) const THERE_V6: &str = "fd03::104";
/// What should happen at once has this long before the test fails.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn ensure(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(what().into()) }
}

/// Two gateways with their daemons; taken down in the order of the fields.
pub(crate) struct Scene {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) lab: Lab,
}

impl Scene {
    /// `change` sees the configuration of every gateway.
    pub(crate) fn start(change: impl Fn(usize, &mut Value)) -> Result<Scene, Failed> {
        let lab = Lab::builder().build()?;
        let mut daemons = Vec::new();
        for gateway in lab.gateways() {
            let mut config = gateway.config();
            change(gateway.index(), &mut config);
            daemons.push(gateway.start_ipop(&config)?);
        }
        for daemon in &daemons {
            daemon.wait_peers_up(Duration::from_secs(15))?;
        }
        let scene = Scene { daemons, lab };
        for (gateway, peer) in [(0, "gw-b"), (1, "gw-a")] {
            let daemon = &scene.daemons[gateway];
            interrupt::wait_until("the full MTU of the path to be found", SOON, || {
                let peers = daemon.status("peers")?;
                let peers = peers["peers"].as_array().map_or(&[][..], Vec::as_slice);
                Ok(peers.iter().any(|one| one["name"] == peer && one["path_mtu"] == 1500).then_some(()))
            })?;
        }
        Ok(scene)
    }

    /// `c0` on gw-a and `c1` on gw-b, with IPv4 and IPv6.
    pub(crate) fn pair(&self) -> Result<(Container, Container), Failed> {
        Ok((
            self.lab.container(0, "c0", &["10.0.3.3/24", "fd03::3/64"])?,
            self.lab.container(1, "c1", &["10.0.3.104/24", "fd03::104/64"])?,
        ))
    }
}

/// What `ipop status` says of an offload.
pub(crate) fn offload(daemon: &Daemon, name: &str) -> Result<Value, Failed> {
    let status = daemon.status("status")?;
    let list = status["offloads"].as_array().map_or(&[][..], Vec::as_slice);
    let found = list.iter().find(|offload| offload["name"] == name);
    Ok(found.ok_or_else(|| format!("no offload {name} in {status}"))?.clone())
}

/// Waits until a counter has risen to `at_least`, and gives it.
pub(crate) fn wait_counter(daemon: &Daemon, pointer: &str, at_least: u64) -> Result<u64, Failed> {
    let what = format!("{pointer} to reach {at_least}");
    let reached = interrupt::wait_until(&what, SOON, || {
        let value = daemon.counter(pointer)?;
        Ok((value >= at_least).then_some(value))
    });
    reached.map_err(|error| format!("{error}; drops: {:?}", daemon.status("status").map(|s| s["drops"].clone())).into())
}

/// Folded, as the checksums of IP, TCP and UDP are.
pub(crate) fn sum(octets: &[u8], start: u32) -> u16 {
    let words = octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.map(u64::from).sum::<u64>() + u64::from(start);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Ethernet and IPv4 headers for so many octets behind them, from 10.0.3.104 to 10.0.3.3.
pub(crate) fn ipv4(to: Mac, from: Mac, protocol: u8, len: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from, &[8, 0, 0x45, 0]].concat();
    frame.extend((20 + len as u16).to_be_bytes());
    frame.extend([0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 0, 3, 104, 10, 0, 3, 3]);
    let header = !sum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    frame
}

/// A UDP datagram with a payload, and the right checksum.
pub(crate) fn udp(to: Mac, from: Mac, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len();
    let mut frame = ipv4(to, from, 17, len);
    frame.extend(ports.iter().chain(&[len as u16, 0]).flat_map(|field| field.to_be_bytes()));
    frame.extend(payload);
    let check = !sum(&frame[26..], 17 + len as u32);
    frame[40..42].copy_from_slice(&check.to_be_bytes());
    frame
}

/// Where UDP begins in a frame without tags and options, if it is UDP and from or to this port.
pub(crate) fn udp_at(frame: &[u8], port: u16) -> Option<usize> {
    let at = match (frame.get(12..14)?, frame.get(23)?, frame.get(20)?) {
        ([8, 0], 17, _) => 34,
        ([0x86, 0xdd], _, 17) => 54,
        _ => return None,
    };
    let ports = [frame.get(at..at + 2)?, frame.get(at + 2..at + 4)?];
    ports.contains(&&port.to_be_bytes()[..]).then_some(at)
}

/// True if the checksum of UDP is complete, and right. The frame is one without tags and options, and has no padding.
pub(crate) fn is_finished(frame: &[u8], udp_at: usize) -> bool {
    let addresses = if udp_at == 34 { 26 } else { 22 };
    sum(&frame[addresses..], 17 + (frame.len() - udp_at) as u32) == 0xffff
}

/// Frames from or to a UDP port, until they carry so many octets of payload.
pub(crate) fn capture(port: &mut RawPort, udp_port: u16, octets: usize) -> Result<Vec<Vec<u8>>, Failed> {
    let mut seen = 0;
    let last = |frame: &[u8]| {
        seen += udp_at(frame, udp_port).map_or(0, |at| frame.len() - at - 8);
        seen >= octets
    };
    let (mut frames, came) = port.capture_until(SOON, last)?;
    frames.retain(|frame| udp_at(frame, udp_port).is_some());
    ensure(came, || format!("port {udp_port}: only {seen} of {octets} octets came, in {} frames", frames.len()))?;
    Ok(frames)
}
