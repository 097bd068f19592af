//! ARP for IPv4 over Ethernet (RFC 826), probes and announcements included (RFC 5227).

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::{Frame, emit_header, ethertype};
use crate::addr::{MacAddr, Vlan};

/// The 28 octets of an ARP packet whose hardware is Ethernet and whose protocol is IPv4.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ArpPacket {
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    sender_mac: MacAddr,
    sender_ip: [u8; 4],
    target_mac: MacAddr,
    target_ip: [u8; 4],
}
const _: () = assert!(size_of::<ArpPacket>() == 28);

const HARDWARE_ETHERNET: u16 = 1;

/// What the packet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opcode 1.
    Request,
    /// Opcode 2.
    Reply,
}

/// A legal ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// Hardware address of the sender. Clusters name one that they share, which may be a group's.
    pub sender_mac: MacAddr,
    /// Address of the sender; unspecified in a probe.
    pub sender_ip: Ipv4Addr,
    /// Hardware address of the target; without meaning in a request.
    pub target_mac: MacAddr,
    /// Address asked for, or the one that is answered.
    pub target_ip: Ipv4Addr,
}

/// Why an ARP frame is not an [`Arp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpError {
    /// Other hardware, protocol or opcode (RARP, InARP): not ours to understand, so carry it unseen.
    Foreign,
    /// Cut short, or with addresses that no station can have.
    Malformed,
}

impl Arp {
    /// Reads the ARP packet of a frame whose EtherType is ARP.
    pub fn parse(frame: &Frame<'_>) -> Result<Arp, ArpError> {
        let (packet, _) = ArpPacket::ref_from_prefix(frame.payload()).map_err(|_| ArpError::Malformed)?;
        let ethernet_ipv4 = packet.hardware.get() == HARDWARE_ETHERNET
            && packet.protocol.get() == ethertype::IPV4
            && packet.hardware_len == 6
            && packet.protocol_len == 4;
        let operation = match packet.operation.get() {
            1 if ethernet_ipv4 => Operation::Request,
            2 if ethernet_ipv4 => Operation::Reply,
            _ => return Err(ArpError::Foreign),
        };
        let arp = Arp {
            operation,
            sender_mac: packet.sender_mac,
            sender_ip: packet.sender_ip.into(),
            target_mac: packet.target_mac,
            target_ip: packet.target_ip.into(),
        };
        // What Linux refuses too (arp_process() in net/ipv4/arp.c): group and loopback targets.
        // A reply to a probe has no target address (RFC 5227, 2.1.1: the prober's is 0.0.0.0).
        let target_ok = is_host(arp.target_ip) || (operation == Operation::Reply && arp.target_ip.is_unspecified());
        let sender_ok = is_host(arp.sender_ip) || (operation == Operation::Request && arp.sender_ip.is_unspecified());
        if !arp.sender_mac.is_neighbour() || !target_ok || !sender_ok {
            return Err(ArpError::Malformed);
        }
        Ok(arp)
    }

    /// The frame of this packet, padded to the 60 octets of the shortest Ethernet frame.
    pub fn to_frame(&self, dst: MacAddr, src: MacAddr, vlan: Vlan) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        emit_header(&mut out, dst, src, vlan, ethertype::ARP);
        let packet = ArpPacket {
            hardware: U16::new(HARDWARE_ETHERNET),
            protocol: U16::new(ethertype::IPV4),
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(match self.operation {
                Operation::Request => 1,
                Operation::Reply => 2,
            }),
            sender_mac: self.sender_mac,
            sender_ip: self.sender_ip.octets(),
            target_mac: self.target_mac,
            target_ip: self.target_ip.octets(),
        };
        out.extend_from_slice(packet.as_bytes());
        out.resize(out.len().max(60), 0);
        out
    }
}

/// True if the opcode of an ARP frame is that of a request.
pub fn is_request(frame: &Frame<'_>) -> bool {
    ArpPacket::ref_from_prefix(frame.payload()).is_ok_and(|(packet, _)| packet.operation.get() == 1)
}

/// True for an address that an interface can have.
pub fn is_host(ip: Ipv4Addr) -> bool {
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: MacAddr = MacAddr([0x00, 0x16, 0x3e, 0, 0, 1]);

    fn request() -> Arp {
        Arp {
            operation: Operation::Request,
            sender_mac: ASKER,
            sender_ip: Ipv4Addr::new(10, 0, 3, 3),
            target_mac: MacAddr::ZERO,
            target_ip: Ipv4Addr::new(10, 0, 3, 104),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Arp, ArpError> {
        Arp::parse(&Frame::parse(bytes).unwrap())
    }

    #[test]
    fn emit_then_parse() {
        for vlan in [Vlan::UNTAGGED, Vlan::customer(10)] {
            let bytes = request().to_frame(MacAddr::BROADCAST, ASKER, vlan);
            assert!(bytes.len() >= 60);
            assert_eq!(Frame::parse(&bytes).unwrap().vlan, vlan);
            assert_eq!(parse(&bytes), Ok(request()));
        }
    }

    #[test]
    fn truncated_is_malformed() {
        let bytes = request().to_frame(MacAddr::BROADCAST, ASKER, Vlan::UNTAGGED);
        for len in 14..42 {
            assert_eq!(parse(&bytes[..len]), Err(ArpError::Malformed), "{len}");
        }
    }

    #[test]
    fn other_hardware_is_foreign() {
        let mut bytes = request().to_frame(MacAddr::BROADCAST, ASKER, Vlan::UNTAGGED);
        bytes[15] = 6;
        assert_eq!(parse(&bytes), Err(ArpError::Foreign));
        let mut bytes = request().to_frame(MacAddr::BROADCAST, ASKER, Vlan::UNTAGGED);
        bytes[21] = 9;
        assert_eq!(parse(&bytes), Err(ArpError::Foreign));
    }

    #[test]
    fn impossible_addresses_are_malformed() {
        let bad = [
            Arp { sender_mac: MacAddr::BROADCAST, ..request() },
            Arp { sender_mac: MacAddr::ZERO, ..request() },
            Arp { target_ip: Ipv4Addr::new(224, 0, 0, 1), ..request() },
            Arp { target_ip: Ipv4Addr::UNSPECIFIED, ..request() },
            Arp { sender_ip: Ipv4Addr::LOCALHOST, ..request() },
            Arp { operation: Operation::Reply, sender_ip: Ipv4Addr::UNSPECIFIED, ..request() },
        ];
        for arp in bad {
            assert_eq!(
                parse(&arp.to_frame(MacAddr::BROADCAST, ASKER, Vlan::UNTAGGED)),
                Err(ArpError::Malformed),
                "{arp:?}"
            );
        }
        let cluster = Arp { sender_mac: MacAddr([3, 0xbf, 10, 0, 3, 99]), ..request() };
        let bytes = cluster.to_frame(MacAddr::BROADCAST, ASKER, Vlan::UNTAGGED);
        assert_eq!(parse(&bytes), Ok(cluster), "MS NLB in multicast mode");
        let probe = Arp { sender_ip: Ipv4Addr::UNSPECIFIED, ..request() };
        assert!(parse(&probe.to_frame(MacAddr::BROADCAST, ASKER, Vlan::UNTAGGED)).is_ok());
    }
}
