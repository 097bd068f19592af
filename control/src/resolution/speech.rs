//! ARP and neighbour discovery as one language: the frames that a gateway makes.
//!
//! What stations say travels as they have said it. Made here are answers from the table, questions of the gateway's own, the
//! truth about an address where somebody has said something else, and what a peer has told without the frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipop_dataplane::addr::{MacAddr, Vlan};
use ipop_dataplane::wire::arp::{Arp, Operation};
use ipop_dataplane::wire::ndp::{Body, Nd, solicited_node};

use super::heard::Flags;
use crate::rpc::Announcement;

/// The sender of questions that a gateway asks: the dummy address of RFC 7600, which no station has. With the unspecified
/// address they would be probes, and a station that is configuring itself would take them for a conflict (RFC 5227, 2.1.1).
const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Ethernet addresses of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    pub(crate) src: MacAddr,
    pub(crate) dst: MacAddr,
    pub(crate) vlan: Vlan,
}

/// Somebody who asks: an address, if it has one, and the MAC that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speaker {
    pub(crate) ip: Option<IpAddr>,
    pub(crate) mac: MacAddr,
}

/// The question as a broadcast, or a multicast to the target's group.
pub(crate) fn question(target: IpAddr, asker: Speaker, src: MacAddr, vlan: Vlan) -> Vec<u8> {
    match target {
        IpAddr::V4(target_ip) => arp(Operation::Request, asker.mac, v4(asker.ip), MacAddr::ZERO, target_ip).to_frame(
            MacAddr::BROADCAST,
            src,
            vlan,
        ),
        IpAddr::V6(target) => {
            let dst = solicited_node(target);
            // Duplicate address detection must not name a source (RFC 4861, 7.2.2).
            let source_mac = asker.ip.map(|_| asker.mac);
            Nd { src: v6(asker.ip), dst, target, body: Body::Solicitation { source_mac } }.to_frame(
                MacAddr::of_ipv6_group(dst),
                src,
                vlan,
            )
        }
    }
}

/// The gateway's own question, whether somebody has the address: to `mac` alone, or to all.
pub(crate) fn own_question(target: IpAddr, mac: Option<MacAddr>, own: MacAddr, vlan: Vlan) -> Vec<u8> {
    let ip = match target {
        IpAddr::V4(_) => DUMMY.into(),
        IpAddr::V6(_) => link_local(own).into(),
    };
    let asker = Speaker { ip: Some(ip), mac: own };
    match (mac.filter(|mac| !mac.is_group()), target) {
        (Some(mac), IpAddr::V6(target)) => {
            let body = Body::Solicitation { source_mac: Some(own) };
            Nd { src: link_local(own), dst: target, target, body }.to_frame(mac, own, vlan)
        }
        (to, _) => {
            let mut frame = question(target, asker, own, vlan);
            if let (Some(to), Some(dst)) = (to, frame.get_mut(..6)) {
                dst.copy_from_slice(&to.0);
            }
            frame
        }
    }
}

/// The answer to one asker, as the owner of the address would give it.
pub(crate) fn answer(ip: IpAddr, mac: MacAddr, flags: Flags, asker: Speaker, path: Path) -> Vec<u8> {
    let Path { src, dst, vlan } = path;
    match ip {
        IpAddr::V4(ip) => arp(Operation::Reply, mac, ip, asker.mac, v4(asker.ip)).to_frame(dst, src, vlan),
        IpAddr::V6(target) => {
            let Flags { router, overrides } = flags;
            let body = Body::Advertisement { target_mac: Some(mac), router, solicited: true, overrides };
            Nd { src: target, dst: v6(asker.ip), target, body }.to_frame(dst, src, vlan)
        }
    }
}

/// The announcement to all, or to `path.dst` alone. Linux lets one replace an entry that is younger than a second, which
/// an answer may not (arp_process() in net/ipv4/arp.c).
pub(crate) fn announcement(ip: IpAddr, mac: MacAddr, flags: Flags, how: Announcement, path: Path) -> Vec<u8> {
    let Path { src, dst, vlan } = path;
    match ip {
        IpAddr::V4(ip) => {
            let (operation, target_mac) = match how {
                Announcement::Request => (Operation::Request, MacAddr::ZERO),
                Announcement::Reply => (Operation::Reply, MacAddr::BROADCAST),
            };
            arp(operation, mac, ip, target_mac, ip).to_frame(dst, src, vlan)
        }
        IpAddr::V6(target) => {
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let dst = if dst.is_group() { MacAddr::of_ipv6_group(group) } else { dst };
            let Flags { router, overrides } = flags;
            let body = Body::Advertisement { target_mac: Some(mac), router, solicited: false, overrides };
            Nd { src: target, dst: group, target, body }.to_frame(dst, src, vlan)
        }
    }
}

fn arp(
    operation: Operation,
    sender_mac: MacAddr,
    sender_ip: Ipv4Addr,
    target_mac: MacAddr,
    target_ip: Ipv4Addr,
) -> Arp {
    Arp { operation, sender_mac, sender_ip, target_mac, target_ip }
}

fn v4(ip: Option<IpAddr>) -> Ipv4Addr {
    match ip {
        Some(IpAddr::V4(ip)) => ip,
        _ => Ipv4Addr::UNSPECIFIED,
    }
}

fn v6(ip: Option<IpAddr>) -> Ipv6Addr {
    match ip {
        Some(IpAddr::V6(ip)) => ip,
        _ => Ipv6Addr::UNSPECIFIED,
    }
}

/// The link-local address of a MAC (RFC 4291, appendix A).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let m = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]])
}

#[cfg(test)]
mod tests {
    use ipop_dataplane::wire::Frame;

    use super::super::heard::Heard;
    use super::*;

    const ASKER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OWNER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const FLAGS: Flags = Flags::OF_ARP;

    fn hear(bytes: &[u8]) -> Heard {
        Heard::parse(&Frame::parse(bytes).unwrap(), false).unwrap()
    }

    fn path(dst: MacAddr) -> Path {
        Path { src: OWNER_MAC, dst, vlan: Vlan::customer(10) }
    }

    #[test]
    fn what_is_said_is_heard_in_both_languages() {
        for (asker, owner) in [("10.0.3.3", "10.0.3.104"), ("fd00::3", "fd00::104")] {
            let (asker, ip): (IpAddr, IpAddr) = (asker.parse().unwrap(), owner.parse().unwrap());
            for asker in [Some(asker), None] {
                let heard = hear(&question(ip, Speaker { ip: asker, mac: ASKER_MAC }, ASKER_MAC, Vlan::customer(10)));
                assert_eq!(heard, Heard::Question { target: ip, asker, asker_mac: ASKER_MAC });
            }
            let asker = Speaker { ip: Some(asker), mac: ASKER_MAC };
            let heard = hear(&answer(ip, OWNER_MAC, FLAGS, asker, path(ASKER_MAC)));
            assert_eq!(heard, Heard::Answer { ip, mac: OWNER_MAC, flags: FLAGS });
            for dst in [MacAddr::BROADCAST, ASKER_MAC] {
                let bytes = announcement(ip, OWNER_MAC, FLAGS, Announcement::Request, path(dst));
                let frame = Frame::parse(&bytes).unwrap();
                assert_eq!((frame.dst.is_group(), frame.src), (dst.is_group(), OWNER_MAC));
                let Heard::Announced { mac, .. } =
                    hear(&announcement(ip, OWNER_MAC, FLAGS, Announcement::Reply, path(MacAddr::BROADCAST)))
                else {
                    panic!()
                };
                assert_eq!(mac, OWNER_MAC);
            }
        }
    }

    #[test]
    fn flags_are_kept() {
        let ip = "fd00::104".parse().unwrap();
        let asker = Speaker { ip: Some("fd00::3".parse().unwrap()), mac: ASKER_MAC };
        for flags in [Flags { router: true, overrides: false }, Flags { router: false, overrides: true }] {
            assert_eq!(
                hear(&answer(ip, OWNER_MAC, flags, asker, path(ASKER_MAC))),
                Heard::Answer { ip, mac: OWNER_MAC, flags }
            );
        }
    }

    #[test]
    fn an_answer_to_a_probe_has_no_target_address() {
        let ip = "10.0.3.104".parse().unwrap();
        let bytes = answer(ip, OWNER_MAC, FLAGS, Speaker { ip: None, mac: ASKER_MAC }, path(ASKER_MAC));
        assert_eq!(hear(&bytes), Heard::Answer { ip, mac: OWNER_MAC, flags: FLAGS });
    }

    /// RFC 5227 knows a probe by its sender, which is unspecified.
    #[test]
    fn a_gateways_own_question_is_no_probe() {
        for ip in ["10.0.3.104", "fd00::104"] {
            let ip: IpAddr = ip.parse().unwrap();
            for to in [Some(OWNER_MAC), None] {
                let bytes = own_question(ip, to, ASKER_MAC, Vlan::UNTAGGED);
                let frame = Frame::parse(&bytes).unwrap();
                assert_eq!(to.unwrap_or(frame.dst), frame.dst);
                assert_eq!((frame.src, frame.dst.is_group()), (ASKER_MAC, to.is_none()));
                let Heard::Question { target, asker, asker_mac } = hear(&bytes) else { panic!() };
                assert_eq!((target, asker.is_some(), asker_mac), (ip, true, ASKER_MAC));
                assert_ne!(asker, Some(ip));
            }
        }
    }
}
