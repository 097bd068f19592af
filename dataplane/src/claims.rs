//! What a peer may claim: the MACs and addresses that its config allows it, where it has such lists.
//!
//! MACs cost nothing in the usual case: the control thread lets no MAC into the table for a peer that may not have it, so
//! that only frames whose source is not in the table as this peer's have to be looked at. Addresses are looked at in ARP
//! and neighbour discovery alone, which say who has one; whoever routes sends packets of many others.
//!
//! What is looked at must be what hosts get: the kernel writes two octets into a frame whose checksum is unfinished, and
//! [`sum_is_harmless`] says where it may.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::addr::MacAddr;
use crate::ending::Ending;
use crate::wire::Frame;
use crate::wire::arp::{Arp, ArpError};
use crate::wire::ethernet::ethertype;
use crate::wire::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, TCP_CSUM_OFFSET, UDP_CSUM_OFFSET, UDP_HEADER_LEN, protocol};
use crate::wire::vnet::PartialChecksum;

/// Extension headers that a receiver looks behind for ICMPv6 (RFC 8200, section 4): hop-by-hop, routing, destination
/// options. Neighbour discovery behind a fragment header is dropped by hosts (RFC 6980).
const EXTENSIONS: [u8; 3] = [0, 43, 60];
/// The types of neighbour discovery (RFC 4861, section 4): from router solicitation to redirect.
const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
const ADVERTISEMENT: u8 = 136;
const SOLICITATION: u8 = 135;
/// Where the checksum stands in ICMPv6.
const ICMPV6_CSUM_OFFSET: u16 = 2;

/// What one peer may claim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Sorted.
    macs: Option<Box<[MacAddr]>>,
    ips: Option<Box<[IpNet]>>,
}

impl Claims {
    /// Only these MACs and addresses; `None` allows all.
    pub fn new(macs: Option<Vec<MacAddr>>, ips: Option<Vec<IpNet>>) -> Claims {
        let sorted = |mut macs: Vec<MacAddr>| {
            macs.sort_unstable();
            macs.into()
        };
        Claims { macs: macs.map(sorted), ips: ips.map(Into::into) }
    }

    /// True if the peer may have this MAC behind it.
    pub fn allow_mac(&self, mac: MacAddr) -> bool {
        self.macs.as_ref().is_none_or(|macs| macs.binary_search(&mac).is_ok())
    }

    /// True if a station behind the peer may have this address.
    pub fn allow_ip(&self, ip: IpAddr) -> bool {
        self.ips.as_ref().is_none_or(|list| list.iter().any(|net| net.contains(&ip)))
    }

    /// Refuses ARP and neighbour discovery in the name of an address that the peer may not have.
    pub fn check(&self, frame: &Frame<'_>) -> Result<(), Ending> {
        let allowed = self.ips.is_none()
            || match frame.ethertype {
                ethertype::ARP => match Arp::parse(frame) {
                    // A probe has no sender yet; it is after the target (RFC 5227, 2.1.1).
                    Ok(arp) if arp.sender_ip.is_unspecified() => self.allow_ip(arp.target_ip.into()),
                    Ok(arp) => self.allow_ip(arp.sender_ip.into()),
                    Err(ArpError::Foreign) => true,
                    // A host may be less strict than we are.
                    Err(ArpError::Malformed) => false,
                },
                ethertype::IPV6 => self.check_discovery(frame.payload()),
                _ => true,
            };
        if allowed { Ok(()) } else { Err(Ending::IpNotAllowed) }
    }

    /// An advertisement claims its target, everything else its sender; duplicate address detection has none yet and is
    /// after the target (RFC 4862, section 5.4).
    fn check_discovery(&self, packet: &[u8]) -> bool {
        let address = |at: usize| -> Option<Ipv6Addr> {
            let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            Some(octets.into())
        };
        let Some(at) = icmpv6(packet) else { return true };
        let Some(kind) = packet.get(at).filter(|kind| DISCOVERY.contains(kind)) else { return true };
        let Some(sender) = address(8) else { return false };
        let sender_ok = sender.is_unspecified() || self.allow_ip(sender.into());
        let claims_target = *kind == ADVERTISEMENT || (*kind == SOLICITATION && sender.is_unspecified());
        // Behind type, code, checksum and flags.
        sender_ok && (!claims_target || address(at + 8).is_some_and(|target| self.allow_ip(target.into())))
    }
}

/// True if a checksum that is to be finished stands where one can: in the place of its own transport protocol, or behind
/// that one's header, where guests that have tunnels leave the inner one unfinished. Nothing else has such a sum: not ARP,
/// and no octet of the headers up to there nor of neighbour discovery may change after [`Claims::check`] has read it.
/// The sum lies within the frame.
pub fn sum_is_harmless(frame: &Frame<'_>, csum: PartialChecksum) -> bool {
    let packet = frame.payload();
    let transport = match frame.ethertype {
        ethertype::IPV4 => ipv4_transport(packet),
        ethertype::IPV6 => ipv6_transport(packet),
        // A third tag, behind which nothing is looked at.
        ethertype::VLAN | ethertype::SERVICE_VLAN => return usize::from(csum.start) >= frame.l3,
        _ => None,
    };
    let Some((protocol, at)) = transport else { return false };
    let Some(behind) = usize::from(csum.start).checked_sub(frame.l3 + at) else { return false };
    match protocol {
        protocol::TCP => (behind, csum.offset) == (0, TCP_CSUM_OFFSET),
        protocol::UDP => behind >= UDP_HEADER_LEN || (behind, csum.offset) == (0, UDP_CSUM_OFFSET),
        protocol::ICMPV6 => (behind, csum.offset) == (0, ICMPV6_CSUM_OFFSET),
        _ => true,
    }
}

/// The protocol of an IPv4 packet, and where its header begins.
fn ipv4_transport(packet: &[u8]) -> Option<(u8, usize)> {
    let length = usize::from(*packet.first()? & 0x0f) * 4;
    (length >= IPV4_HEADER_LEN).then_some((*packet.get(9)?, length))
}

/// The same of an IPv6 packet, behind its extension headers.
fn ipv6_transport(packet: &[u8]) -> Option<(u8, usize)> {
    let (mut next, mut at) = (*packet.get(6)?, IPV6_HEADER_LEN);
    while EXTENSIONS.contains(&next) {
        let (after, length) = (*packet.get(at)?, *packet.get(at + 1)?);
        (next, at) = (after, at + 8 * (usize::from(length) + 1));
    }
    Some((next, at))
}

/// Where the ICMPv6 message of an IPv6 packet begins.
fn icmpv6(packet: &[u8]) -> Option<usize> {
    ipv6_transport(packet).filter(|(next, _)| *next == protocol::ICMPV6).map(|(_, at)| at)
}

#[cfg(all(test, not(loom)))]
mod tests;
