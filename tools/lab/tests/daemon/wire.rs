//! Datagrams of ipop as an attacker would make them: by the drawing of the format, and from addresses that are not
//! the attacker's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipop_lab::arp::{Mac, parse_mac};
use ipop_lab::{Gateway, RawPort};
use libtest_mimic::Failed;

use super::kit::Outcome;

/// Version 3 of the format, in the upper half of the first octet; the type is in the lower.
pub(crate) const VERSION: u8 = 0x30;
pub(crate) const DATA: u8 = 1;
pub(crate) const HELLO: u8 = 2;
pub(crate) const INITIATION: u8 = 3;
pub(crate) const RESPONSE: u8 = 4;
/// Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;

/// A datagram: header, then `body`.
pub(crate) fn datagram(kind: u8, session: u32, lane: u8, counter: u64, body: &[u8]) -> Vec<u8> {
    let number = u64::from(lane) << 56 | counter;
    [&[VERSION | kind, 0, 0, 0][..], &session.to_be_bytes(), &number.to_be_bytes(), body].concat()
}

/// A record: type, flags, length, body.
pub(crate) fn record(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let [high, low] = (body.len() as u16).to_be_bytes();
    [&[kind, flags, high, low], body].concat()
}

/// Sends UDP from one gateway's uplink to another gateway in the name of any address and port.
pub(crate) struct Forger {
    port: RawPort,
    macs: (Mac, Mac),
    to: SocketAddr,
}

impl Forger {
    pub(crate) fn new(on: &Gateway, victim: &Gateway) -> Result<Forger, Failed> {
        let mac = |gateway: &Gateway| -> Result<Mac, Failed> {
            let text = gateway.netns().mac_of("eth0")?;
            parse_mac(&text).ok_or_else(|| format!("{text} is no MAC").into())
        };
        Ok(Forger { port: RawPort::open(on.netns(), "eth0")?, macs: (mac(victim)?, mac(on)?), to: victim.endpoint() })
    }

    pub(crate) fn send(&self, from: SocketAddr, payload: &[u8]) -> Outcome {
        let (IpAddr::V4(source), IpAddr::V4(target)) = (from.ip(), self.to.ip()) else {
            return Err("IPv4 only".into());
        };
        let mut udp = [from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        udp.extend((payload.len() as u16 + 8).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        let sum = checksum(&[pseudo(source, target, udp.len()), udp.clone()].concat());
        // 0 would mean that there is none (RFC 768).
        udp[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
        let mut ip = vec![0x45, 0];
        ip.extend((udp.len() as u16 + 20).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip.extend(source.octets());
        ip.extend(target.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let frame = [&self.macs.0[..], &self.macs.1, &[8, 0], &ip, &udp].concat();
        Ok(self.port.send(&frame)?)
    }
}

fn pseudo(source: Ipv4Addr, target: Ipv4Addr, length: usize) -> Vec<u8> {
    let mut bytes = [source.octets(), target.octets()].concat();
    bytes.extend([0, 17]);
    bytes.extend((length as u16).to_be_bytes());
    bytes
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The payloads of the datagrams that `from` sent, out of frames captured on an uplink. A captured train of
/// equal datagrams looks like one long one, so only what fits a packet is taken.
pub(crate) fn payloads(frames: &[Vec<u8>], from: SocketAddr) -> Vec<Vec<u8>> {
    let IpAddr::V4(source) = from.ip() else { return Vec::new() };
    let is_ours = |f: &&Vec<u8>| {
        f.len() > HEADERS + 16
            && f.len() <= 1514
            && f[12..14] == [8, 0]
            && f[23] == 17
            && f[26..30] == source.octets()
            && f[34..36] == from.port().to_be_bytes()
    };
    let payload = |f: &Vec<u8>| {
        let length = usize::from(u16::from_be_bytes([f[38], f[39]])).clamp(8, f.len() - 34);
        f[HEADERS..34 + length].to_vec()
    };
    frames.iter().filter(is_ours).map(payload).collect()
}
