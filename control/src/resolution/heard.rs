//! ARP and neighbour discovery as one language: what a frame says, and the frames that say it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipop_dataplane::addr::{MacAddr, Vlan};
use ipop_dataplane::ending::Ending;
use ipop_dataplane::wire::arp::{Arp, ArpError, Operation};
use ipop_dataplane::wire::ethernet::{Frame, ethertype};
use ipop_dataplane::wire::ndp::{Body, Nd, solicited_node};

use crate::rpc::Announcement;

/// What a frame from the segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Who has `target`?
    Question {
        target: IpAddr,
        /// Nobody yet in an ARP probe or duplicate address detection.
        asker: Option<IpAddr>,
        asker_mac: MacAddr,
    },
    /// `ip` is at `mac`, said to one station.
    Answer { ip: IpAddr, mac: MacAddr, router: bool },
    /// `ip` is at `mac`, said to all.
    Announced { ip: IpAddr, mac: MacAddr, router: bool, how: Announcement },
    /// Not ours to understand.
    Foreign,
}

impl Heard {
    /// Reads a frame that the workers took for ARP or neighbour discovery.
    pub(crate) fn parse(frame: &Frame<'_>, checksum_pending: bool) -> Result<Heard, Ending> {
        if frame.ethertype == ethertype::ARP {
            match Arp::parse(frame) {
                Ok(arp) => Ok(Heard::from_arp(&arp, frame.dst)),
                Err(ArpError::Foreign) => Ok(Heard::Foreign),
                Err(ArpError::Malformed) => Err(Ending::ArpMalformed),
            }
        } else {
            let nd = Nd::parse(frame, checksum_pending).map_err(|_| Ending::NdMalformed)?;
            Ok(Heard::from_nd(&nd, frame))
        }
    }

    fn from_arp(arp: &Arp, dst: MacAddr) -> Heard {
        let (sender, target) = (IpAddr::V4(arp.sender_ip), IpAddr::V4(arp.target_ip));
        let mac = arp.sender_mac;
        let announced = |how| Heard::Announced { ip: sender, mac, router: false, how };
        match arp.operation {
            Operation::Request if arp.sender_ip.is_unspecified() => {
                Heard::Question { target, asker: None, asker_mac: mac }
            }
            // RFC 5227, section 3: an announcement is a request for the own address.
            Operation::Request if sender == target => announced(Announcement::Request),
            Operation::Request => Heard::Question { target, asker: Some(sender), asker_mac: mac },
            Operation::Reply if sender == target || dst.is_group() => announced(Announcement::Reply),
            Operation::Reply => Heard::Answer { ip: sender, mac, router: false },
        }
    }

    fn from_nd(nd: &Nd, frame: &Frame<'_>) -> Heard {
        let target = IpAddr::V6(nd.target);
        match nd.body {
            Body::Solicitation { source_mac } => Heard::Question {
                target,
                asker: (!nd.src.is_unspecified()).then_some(IpAddr::V6(nd.src)),
                asker_mac: source_mac.unwrap_or(frame.src),
            },
            Body::Advertisement { target_mac, router, .. } => {
                let mac = target_mac.unwrap_or(frame.src);
                if frame.dst.is_group() {
                    Heard::Announced { ip: target, mac, router, how: Announcement::Reply }
                } else {
                    Heard::Answer { ip: target, mac, router }
                }
            }
        }
    }
}

/// The question as a broadcast, or a multicast to the target's group, from the asker itself.
pub(crate) fn question(target: IpAddr, asker: Option<IpAddr>, asker_mac: MacAddr, vlan: Vlan) -> Vec<u8> {
    match target {
        IpAddr::V4(target_ip) => arp(Operation::Request, asker_mac, v4(asker), MacAddr::ZERO, target_ip).to_frame(
            MacAddr::BROADCAST,
            asker_mac,
            vlan,
        ),
        IpAddr::V6(target) => {
            let dst = solicited_node(target);
            // Duplicate address detection must not name a source (RFC 4861, 7.2.2).
            let source_mac = asker.map(|_| asker_mac);
            Nd { src: v6(asker), dst, target, body: Body::Solicitation { source_mac } }.to_frame(
                MacAddr::of_ipv6_group(dst),
                asker_mac,
                vlan,
            )
        }
    }
}

/// A question to one station alone, whether it still has the address, from a gateway that has no address itself.
pub(crate) fn verification(target: IpAddr, mac: MacAddr, from: MacAddr, vlan: Vlan) -> Vec<u8> {
    match target {
        IpAddr::V4(target_ip) => {
            arp(Operation::Request, from, Ipv4Addr::UNSPECIFIED, MacAddr::ZERO, target_ip).to_frame(mac, from, vlan)
        }
        IpAddr::V6(target) => {
            let body = Body::Solicitation { source_mac: Some(from) };
            Nd { src: link_local(from), dst: target, target, body }.to_frame(mac, from, vlan)
        }
    }
}

/// The answer to one asker, as the owner of the address would give it.
pub(crate) fn answer(
    ip: IpAddr,
    mac: MacAddr,
    router: bool,
    asker: Option<IpAddr>,
    asker_mac: MacAddr,
    vlan: Vlan,
) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(Operation::Reply, mac, ip, asker_mac, v4(asker)).to_frame(asker_mac, mac, vlan),
        IpAddr::V6(target) => {
            let body = Body::Advertisement { target_mac: Some(mac), router, solicited: true, overrides: true };
            Nd { src: target, dst: v6(asker), target, body }.to_frame(asker_mac, mac, vlan)
        }
    }
}

/// The announcement to all, as the owner of the address makes it.
pub(crate) fn announcement(ip: IpAddr, mac: MacAddr, router: bool, how: Announcement, vlan: Vlan) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => {
            let (operation, target_mac) = match how {
                Announcement::Request => (Operation::Request, MacAddr::ZERO),
                Announcement::Reply => (Operation::Reply, MacAddr::BROADCAST),
            };
            arp(operation, mac, ip, target_mac, ip).to_frame(MacAddr::BROADCAST, mac, vlan)
        }
        IpAddr::V6(target) => {
            let dst = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let body = Body::Advertisement { target_mac: Some(mac), router, solicited: false, overrides: true };
            Nd { src: target, dst, target, body }.to_frame(MacAddr::of_ipv6_group(dst), mac, vlan)
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
    use super::*;

    const ASKER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OWNER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn hear(bytes: &[u8]) -> Heard {
        Heard::parse(&Frame::parse(bytes).unwrap(), false).unwrap()
    }

    #[test]
    fn what_is_said_is_heard_in_both_languages() {
        let vlan = Vlan::customer(10);
        for (asker, owner) in [("10.0.3.3", "10.0.3.104"), ("fd00::3", "fd00::104")] {
            let (asker, ip): (IpAddr, IpAddr) = (asker.parse().unwrap(), owner.parse().unwrap());
            for asker in [Some(asker), None] {
                let heard = hear(&question(ip, asker, ASKER_MAC, vlan));
                assert_eq!(heard, Heard::Question { target: ip, asker, asker_mac: ASKER_MAC });
            }
            let heard = hear(&answer(ip, OWNER_MAC, false, Some(asker), ASKER_MAC, vlan));
            assert_eq!(heard, Heard::Answer { ip, mac: OWNER_MAC, router: false });
            let heard = hear(&announcement(ip, OWNER_MAC, false, Announcement::Reply, vlan));
            assert_eq!(heard, Heard::Announced { ip, mac: OWNER_MAC, router: false, how: Announcement::Reply });
        }
        let ip = "10.0.3.104".parse().unwrap();
        let heard = hear(&announcement(ip, OWNER_MAC, false, Announcement::Request, vlan));
        assert!(matches!(heard, Heard::Announced { how: Announcement::Request, .. }));
    }

    #[test]
    fn an_answer_to_a_probe_has_no_target_address() {
        let ip = "10.0.3.104".parse().unwrap();
        let bytes = answer(ip, OWNER_MAC, false, None, ASKER_MAC, Vlan::UNTAGGED);
        assert_eq!(hear(&bytes), Heard::Answer { ip, mac: OWNER_MAC, router: false });
    }

    #[test]
    fn a_verification_is_a_legal_question_to_one() {
        for ip in ["10.0.3.104", "fd00::104"] {
            let ip: IpAddr = ip.parse().unwrap();
            let bytes = verification(ip, OWNER_MAC, ASKER_MAC, Vlan::UNTAGGED);
            assert_eq!(Frame::parse(&bytes).unwrap().dst, OWNER_MAC);
            assert!(
                matches!(hear(&bytes), Heard::Question { target, asker_mac, .. } if target == ip && asker_mac == ASKER_MAC)
            );
        }
    }
}
