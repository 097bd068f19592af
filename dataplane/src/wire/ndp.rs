//! Neighbour solicitation and advertisement (RFC 4861, sections 4.3 and 4.4).

use std::net::{IpAddr, Ipv6Addr};

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum;
use super::ethernet::{Frame, emit_header, ethertype};
use super::ip::{IPV6_HEADER_LEN, Ipv6Header, protocol};
use crate::addr::{MacAddr, Vlan};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const FLAG_ROUTER: u32 = 1 << 31;
const FLAG_SOLICITED: u32 = 1 << 30;
const FLAG_OVERRIDE: u32 = 1 << 29;
/// RFC 4861, 6.1 and 7.1: a message that crossed a router is not a neighbour's.
const HOP_LIMIT: u8 = 255;

/// The fixed part that both messages share: ICMPv6 header, flags or reserved, target.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct NdPacket {
    kind: u8,
    code: u8,
    checksum: U16,
    flags: U32,
    target: [u8; 16],
}
const _: () = assert!(size_of::<NdPacket>() == 24);

/// What a neighbour discovery message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Who has `target`? Without a source link-layer address when it detects duplicates.
    Solicitation {
        /// Source link-layer address option.
        source_mac: Option<MacAddr>,
    },
    /// `target` is here.
    Advertisement {
        /// Target link-layer address option.
        target_mac: Option<MacAddr>,
        /// R: the sender is a router.
        router: bool,
        /// S: this answers a solicitation.
        solicited: bool,
        /// O: replaces what is cached.
        overrides: bool,
    },
}

/// A legal neighbour solicitation or advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nd {
    /// IPv6 source; unspecified in duplicate address detection.
    pub src: Ipv6Addr,
    /// IPv6 destination.
    pub dst: Ipv6Addr,
    /// The address that it is about.
    pub target: Ipv6Addr,
    /// The rest.
    pub body: Body,
}

/// True if the frame carries a neighbour solicitation or advertisement directly behind the IPv6 header.
/// (RFC 6980 forbids fragments; Linux does not look behind other extension headers for them either.)
pub fn is_neighbour_discovery(frame: &Frame<'_>) -> bool {
    let p = frame.payload();
    frame.ethertype == ethertype::IPV6
        && p.len() > IPV6_HEADER_LEN
        && p[6] == protocol::ICMPV6
        && matches!(p[IPV6_HEADER_LEN], SOLICITATION | ADVERTISEMENT)
}

/// True if a frame for which [`is_neighbour_discovery`] holds is a solicitation.
pub fn is_solicitation(frame: &Frame<'_>) -> bool {
    frame.payload().get(IPV6_HEADER_LEN) == Some(&SOLICITATION)
}

/// The message breaks a rule of RFC 4861, section 7.1, and a receiver must drop it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NdMalformed;

impl Nd {
    /// Reads the message of a frame for which [`is_neighbour_discovery`] holds. `checksum_pending` says that
    /// the checksum is still to be finished by hardware, so it cannot be verified.
    pub fn parse(frame: &Frame<'_>, checksum_pending: bool) -> Result<Nd, NdMalformed> {
        let (ip, rest) = Ipv6Header::ref_from_prefix(frame.payload()).map_err(|_| NdMalformed)?;
        let icmp = rest.get(..usize::from(ip.payload_len.get())).ok_or(NdMalformed)?;
        let (packet, options) = NdPacket::ref_from_prefix(icmp).map_err(|_| NdMalformed)?;
        let (src, dst) = (Ipv6Addr::from(ip.src), Ipv6Addr::from(ip.dst));
        let target = Ipv6Addr::from(packet.target);
        let sum = checksum::pseudo_header(IpAddr::V6(src), IpAddr::V6(dst), protocol::ICMPV6, icmp.len());
        let sum_ok = checksum_pending || checksum::fold(checksum::add(icmp, sum)) == 0xffff;
        if ip.hop_limit != HOP_LIMIT || packet.code != 0 || target.is_multicast() || src.is_multicast() || !sum_ok {
            return Err(NdMalformed);
        }
        let flags = packet.flags.get();
        let body = match packet.kind {
            SOLICITATION => {
                let source_mac = link_layer_option(options, OPTION_SOURCE)?;
                // Duplicate address detection goes to the solicited-node group and names no source.
                if src.is_unspecified() && (source_mac.is_some() || !dst.is_multicast()) {
                    return Err(NdMalformed);
                }
                Body::Solicitation { source_mac }
            }
            ADVERTISEMENT => {
                let solicited = flags & FLAG_SOLICITED != 0;
                if src.is_unspecified() || (dst.is_multicast() && solicited) {
                    return Err(NdMalformed);
                }
                Body::Advertisement {
                    target_mac: link_layer_option(options, OPTION_TARGET)?,
                    router: flags & FLAG_ROUTER != 0,
                    solicited,
                    overrides: flags & FLAG_OVERRIDE != 0,
                }
            }
            _ => return Err(NdMalformed),
        };
        Ok(Nd { src, dst, target, body })
    }

    /// The frame of this message, with its checksum.
    pub fn to_frame(&self, dst: MacAddr, src: MacAddr, vlan: Vlan) -> Vec<u8> {
        let (kind, flags, option) = match self.body {
            Body::Solicitation { source_mac } => (SOLICITATION, 0, source_mac.map(|mac| (OPTION_SOURCE, mac))),
            Body::Advertisement { target_mac, router, solicited, overrides } => {
                let bit = |on: bool, flag: u32| if on { flag } else { 0 };
                let flags = bit(router, FLAG_ROUTER) | bit(solicited, FLAG_SOLICITED) | bit(overrides, FLAG_OVERRIDE);
                (ADVERTISEMENT, flags, target_mac.map(|mac| (OPTION_TARGET, mac)))
            }
        };
        let packet =
            NdPacket { kind, code: 0, checksum: U16::new(0), flags: U32::new(flags), target: self.target.octets() };
        let mut icmp = packet.as_bytes().to_vec();
        if let Some((code, mac)) = option {
            icmp.extend_from_slice(&[code, 1]);
            icmp.extend_from_slice(&mac.0);
        }
        let pseudo = checksum::pseudo_header(IpAddr::V6(self.src), IpAddr::V6(self.dst), protocol::ICMPV6, icmp.len());
        let sum = !checksum::fold(checksum::add(&icmp, pseudo));
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let ip = Ipv6Header {
            version_class_flow: U32::new(6 << 28),
            payload_len: U16::new(icmp.len() as u16),
            next_header: protocol::ICMPV6,
            hop_limit: HOP_LIMIT,
            src: self.src.octets(),
            dst: self.dst.octets(),
        };
        let mut out = Vec::with_capacity(96);
        emit_header(&mut out, dst, src, vlan, ethertype::IPV6);
        out.extend_from_slice(ip.as_bytes());
        out.extend_from_slice(&icmp);
        out
    }
}

/// The solicited-node group of an address (RFC 4291, 2.7.1).
pub fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let o = ip.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
}

/// Finds a link-layer address option of one kind. Every option must have a length (RFC 4861, 4.6).
fn link_layer_option(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, NdMalformed> {
    let mut found = None;
    while !options.is_empty() {
        let (kind, len) = match options {
            [kind, len, ..] if *len > 0 => (*kind, usize::from(*len) * 8),
            _ => return Err(NdMalformed),
        };
        let option = options.get(..len).ok_or(NdMalformed)?;
        if kind == wanted && len == 8 && found.is_none() {
            let mac = MacAddr([option[2], option[3], option[4], option[5], option[6], option[7]]);
            if !mac.is_neighbour() {
                return Err(NdMalformed);
            }
            found = Some(mac);
        }
        options = &options[len..];
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x00, 0x16, 0x3e, 0, 0, 1]);

    fn addr(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
    }

    fn solicitation() -> Nd {
        Nd {
            src: addr(1),
            dst: solicited_node(addr(2)),
            target: addr(2),
            body: Body::Solicitation { source_mac: Some(MAC) },
        }
    }

    fn advertisement() -> Nd {
        let body = Body::Advertisement { target_mac: Some(MAC), router: true, solicited: true, overrides: false };
        Nd { src: addr(2), dst: addr(1), target: addr(2), body }
    }

    fn parse(bytes: &[u8]) -> Result<Nd, NdMalformed> {
        let frame = Frame::parse(bytes).unwrap();
        assert!(is_neighbour_discovery(&frame));
        Nd::parse(&frame, false)
    }

    #[test]
    fn emit_then_parse() {
        for nd in [solicitation(), advertisement()] {
            let bytes = nd.to_frame(MacAddr::of_ipv6_group(nd.dst), MAC, Vlan::customer(10));
            assert_eq!(parse(&bytes), Ok(nd));
        }
    }

    #[test]
    fn rules_of_rfc_4861() {
        let good = solicitation().to_frame(MAC, MAC, Vlan::UNTAGGED);
        let mut routed = good.clone();
        routed[14 + 7] = 64;
        assert_eq!(parse(&routed), Err(NdMalformed));
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(parse(&flipped), Err(NdMalformed));
        let mut no_length = good.clone();
        no_length[14 + 40 + 24 + 1] = 0;
        assert!(Nd::parse(&Frame::parse(&no_length).unwrap(), true).is_err());
        for len in 14 + 41..good.len() {
            assert_eq!(parse(&good[..len]), Err(NdMalformed), "{len}");
        }
        let dad_with_source = Nd { src: Ipv6Addr::UNSPECIFIED, ..solicitation() };
        assert_eq!(parse(&dad_with_source.to_frame(MAC, MAC, Vlan::UNTAGGED)), Err(NdMalformed));
        let to_all_but_solicited = Nd { dst: "ff02::1".parse().unwrap(), ..advertisement() };
        assert_eq!(parse(&to_all_but_solicited.to_frame(MAC, MAC, Vlan::UNTAGGED)), Err(NdMalformed));
    }

    #[test]
    fn solicited_node_group() {
        assert_eq!(
            solicited_node("fd00::1:2345:6789".parse().unwrap()),
            "ff02::1:ff45:6789".parse::<Ipv6Addr>().unwrap()
        );
    }
}
