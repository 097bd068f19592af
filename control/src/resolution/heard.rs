//! ARP and neighbour discovery as one language: what a frame says.

use std::net::IpAddr;

use ipop_dataplane::addr::MacAddr;
use ipop_dataplane::ending::Ending;
use ipop_dataplane::wire::arp::{Arp, ArpError, Operation};
use ipop_dataplane::wire::ethernet::{Frame, ethertype};
use ipop_dataplane::wire::ndp::{Body, Nd};

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
    Answer { ip: IpAddr, mac: MacAddr, flags: Flags },
    /// `ip` is at `mac`, said to all.
    Announced { ip: IpAddr, mac: MacAddr, flags: Flags, how: Announcement },
    /// Not ours to understand.
    Foreign,
}

/// What an advertisement says of its sender and of itself (RFC 4861, 4.4). ARP has no flags, and always overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) router: bool,
    pub(crate) overrides: bool,
}

impl Flags {
    pub(crate) const OF_ARP: Flags = Flags { router: false, overrides: true };
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
        let flags = Flags::OF_ARP;
        let announced = |how| Heard::Announced { ip: sender, mac, flags, how };
        match arp.operation {
            Operation::Request if arp.sender_ip.is_unspecified() => {
                Heard::Question { target, asker: None, asker_mac: mac }
            }
            // RFC 5227, section 3: an announcement is a request for the own address.
            Operation::Request if sender == target => announced(Announcement::Request),
            Operation::Request => Heard::Question { target, asker: Some(sender), asker_mac: mac },
            Operation::Reply if sender == target || dst.is_group() => announced(Announcement::Reply),
            Operation::Reply => Heard::Answer { ip: sender, mac, flags },
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
            Body::Advertisement { target_mac, router, overrides, .. } => {
                let (mac, flags) = (target_mac.unwrap_or(frame.src), Flags { router, overrides });
                if frame.dst.is_group() {
                    Heard::Announced { ip: target, mac, flags, how: Announcement::Reply }
                } else {
                    Heard::Answer { ip: target, mac, flags }
                }
            }
        }
    }
}
