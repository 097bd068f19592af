//! Frames of a peer that may not have every address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ipop_dataplane::claims::{Claims, sum_is_harmless};
use ipop_dataplane::wire::arp::Arp;
use ipop_dataplane::wire::ethernet::ethertype;
use ipop_dataplane::wire::ndp::{self, Body, Nd};
use ipop_dataplane::wire::{Frame, vnet::PartialChecksum};

use crate::Input;

/// Octets in front of the frame: a prefix of each family, the place of an unfinished checksum, and the sum.
pub const PARAMETERS: usize = 5 + 17 + 6;

/// A frame and its checksum against a list of addresses: what it says is allowed if the list has it, a longer list allows no
/// less, and what the kernel may write changes nothing.
pub fn claims(data: &[u8]) -> bool {
    let mut input = Input(data);
    let (ip4, len4) = (Ipv4Addr::from(input.array::<4>()), input.u8() % 33);
    let (ip6, len6) = (Ipv6Addr::from(input.array::<16>()), input.u8() % 129);
    let csum = PartialChecksum { start: input.u16(), offset: input.u16() };
    let sum: [u8; 2] = input.array();
    let bytes = input.0;
    let Ok(frame) = Frame::parse(bytes) else { return false };

    let net4 = IpNet::V4(Ipv4Net::new(ip4, len4).expect("a length of IPv4"));
    let net6 = IpNet::V6(Ipv6Net::new(ip6, len6).expect("a length of IPv6"));
    let lists = [vec![], vec![net4], vec![net4, net6]].map(|list| Claims::new(None, Some(list)));
    let verdicts = lists.each_ref().map(|list| list.check(&frame).is_ok());
    assert!(verdicts.is_sorted(), "a longer list allows less: {verdicts:?}");
    assert!(Claims::default().check(&frame).is_ok(), "no list refuses nothing");

    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => ip.into(),
    };
    let is_in = |ip: IpAddr, net: IpAddr, len: u8| len == 0 || (bits(ip) ^ bits(net)) >> (128 - u32::from(len)) == 0;
    let has = |ip: IpAddr| match ip {
        IpAddr::V4(_) => is_in(ip, ip4.into(), len4),
        IpAddr::V6(_) => is_in(ip, ip6.into(), len6),
    };
    let understood = match said(&frame) {
        Some(claimed) => {
            let expected = claimed.iter().all(|ip| has(*ip));
            assert_eq!(verdicts[2], expected, "{claimed:?} with {net4} and {net6}");
            assert_eq!(verdicts[0], claimed.is_empty());
            true
        }
        None => false,
    };

    if csum.fits(bytes.len()) && sum_is_harmless(&frame, csum) {
        assert!(frame.ethertype != ethertype::ARP, "ARP has no sum");
        let mut written = bytes.to_vec();
        let at = usize::from(csum.start) + usize::from(csum.offset);
        written[at..at + 2].copy_from_slice(&sum);
        let after = Frame::parse(&written).expect("it was whole");
        let head = |frame: &Frame<'_>| (frame.dst, frame.src, frame.vlan, frame.ethertype, frame.l3);
        assert_eq!(head(&after), head(&frame));
        assert_eq!(lists.each_ref().map(|list| list.check(&after).is_ok()), verdicts, "a sum changes the verdict");
    }
    understood
}

/// The addresses that a frame claims, if it is legal ARP or neighbour discovery.
fn said(frame: &Frame<'_>) -> Option<Vec<IpAddr>> {
    if frame.ethertype == ethertype::ARP {
        let arp = Arp::parse(frame).ok()?;
        return Some(vec![if arp.sender_ip.is_unspecified() { arp.target_ip.into() } else { arp.sender_ip.into() }]);
    }
    let nd = ndp::is_neighbour_discovery(frame).then(|| Nd::parse(frame, true).ok()).flatten()?;
    let mut claimed: Vec<IpAddr> = Vec::new();
    if !nd.src.is_unspecified() {
        claimed.push(nd.src.into());
    }
    if nd.src.is_unspecified() || matches!(nd.body, Body::Advertisement { .. }) {
        claimed.push(nd.target.into());
    }
    Some(claimed)
}
