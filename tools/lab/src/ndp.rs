//! As much of neighbour discovery as a test needs, byte by byte: nothing of the product's own code is used.

use std::net::Ipv6Addr;

use crate::arp::Mac;

/// All nodes of the segment.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All routers of the segment.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Flag of an advertisement: the sender is a router.
pub const ROUTER: u8 = 0x80;
/// Flag of an advertisement: it answers a solicitation.
pub const SOLICITED: u8 = 0x40;
/// Flag of an advertisement: it takes the place of what the reader knew.
pub const OVERRIDE: u8 = 0x20;
/// ICMPv6 type of a solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of an advertisement.
pub const ADVERTISEMENT: u8 = 136;

/// Where one asks for an address (RFC 4291, 2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The Ethernet address of an IPv6 group (RFC 2464, 7).
pub fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// A frame with an ICMPv6 message: type, code and what follows the checksum.
pub fn icmp6(dst_mac: Mac, src_mac: Mac, src: Ipv6Addr, dst: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut icmp = vec![kind, 0, 0, 0];
    icmp.extend(body);
    let sum = checksum(src, dst, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&dst_mac[..], &src_mac, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((icmp.len() as u16).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(icmp);
    frame
}

/// A solicitation to the target's group; from nobody it is duplicate address detection and names no source.
pub fn solicitation(mac: Mac, src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = solicited_node(target);
    let mut body = vec![0; 4];
    body.extend(target.octets());
    if !src.is_unspecified() {
        body.extend([1, 1]);
        body.extend(mac);
    }
    icmp6(group_mac(group), mac, src, group, SOLICITATION, &body)
}

/// A solicitation to one station: is it still there?
pub fn check(mac: Mac, src: Ipv6Addr, target_mac: Mac, target: Ipv6Addr) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(target.octets());
    body.extend([1, 1]);
    body.extend(mac);
    icmp6(target_mac, mac, src, target, SOLICITATION, &body)
}

/// An advertisement of `target` at `mac`.
pub fn advertisement(mac: Mac, target: Ipv6Addr, dst_mac: Mac, dst: Ipv6Addr, flags: u8) -> Vec<u8> {
    let mut body = vec![flags, 0, 0, 0];
    body.extend(target.octets());
    body.extend([2, 1]);
    body.extend(mac);
    icmp6(dst_mac, mac, target, dst, ADVERTISEMENT, &body)
}

fn checksum(src: Ipv6Addr, dst: Ipv6Addr, icmp: &[u8]) -> u16 {
    let mut bytes = [src.octets(), dst.octets()].concat();
    bytes.extend((icmp.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    bytes.extend(icmp);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
