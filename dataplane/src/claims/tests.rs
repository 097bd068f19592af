//! Lists against frames that stay within them, and frames that do not.

use proptest::prelude::*;

use super::*;
use crate::addr::Vlan;
use crate::wire::arp::Operation;
use crate::wire::ethernet::emit_header;
use crate::wire::ndp::{Body, Nd};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn claims(ips: &[&str]) -> Claims {
    Claims::new(None, Some(ips.iter().map(|ip| ip.parse().unwrap()).collect()))
}

fn allowed(claims: &Claims, bytes: &[u8]) -> bool {
    claims.check(&Frame::parse(bytes).unwrap()).is_ok()
}

fn arp(operation: Operation, sender: &str, target: &str) -> Vec<u8> {
    let arp = Arp {
        operation,
        sender_mac: MAC,
        sender_ip: sender.parse().unwrap(),
        target_mac: MacAddr::ZERO,
        target_ip: target.parse().unwrap(),
    };
    arp.to_frame(MacAddr::BROADCAST, MAC, Vlan::UNTAGGED)
}

fn nd(src: &str, target: &str, body: Body) -> Vec<u8> {
    let nd = Nd { src: src.parse().unwrap(), dst: "ff02::1".parse().unwrap(), target: target.parse().unwrap(), body };
    nd.to_frame(MacAddr::BROADCAST, MAC, Vlan::UNTAGGED)
}

fn advertisement() -> Body {
    Body::Advertisement { target_mac: Some(MAC), router: false, solicited: false, overrides: true }
}

#[test]
fn without_lists_everything_is_allowed() {
    let claims = Claims::default();
    assert!(claims.allow_mac(MAC) && claims.allow_ip("10.0.3.1".parse().unwrap()));
    assert!(allowed(&claims, &arp(Operation::Reply, "10.0.3.1", "10.0.3.2")));
}

#[test]
fn an_empty_list_allows_nothing() {
    let claims = Claims::new(Some(vec![]), Some(vec![]));
    assert!(!claims.allow_mac(MAC) && !claims.allow_ip("10.0.3.1".parse().unwrap()));
}

#[test]
fn macs_are_found_in_any_order() {
    let claims = Claims::new(Some(vec![OTHER, MAC]), None);
    assert!(claims.allow_mac(MAC) && claims.allow_mac(OTHER) && !claims.allow_mac(MacAddr([2, 0, 0, 0, 0, 3])));
}

#[test]
fn arp_claims_its_sender_and_a_probe_its_target() {
    let claims = claims(&["10.0.3.0/25", "10.0.4.1/32"]);
    for (operation, sender, target, expected) in [
        (Operation::Request, "10.0.3.1", "10.0.9.9", true),
        (Operation::Request, "10.0.3.128", "10.0.3.1", false),
        (Operation::Reply, "10.0.4.1", "10.0.9.9", true),
        (Operation::Reply, "10.0.4.2", "10.0.3.1", false),
        (Operation::Request, "0.0.0.0", "10.0.3.7", true),
        (Operation::Request, "0.0.0.0", "10.0.9.9", false),
    ] {
        assert_eq!(allowed(&claims, &arp(operation, sender, target)), expected, "{operation:?} {sender} {target}");
    }
}

#[test]
fn neighbour_discovery_claims_its_target_or_its_sender() {
    let claims = claims(&["fd00::/64", "fe80::/10"]);
    let solicitation = || Body::Solicitation { source_mac: Some(MAC) };
    let detection = || Body::Solicitation { source_mac: None };
    for (src, target, body, expected) in [
        ("fd00::1", "fd00::1", advertisement(), true),
        ("fe80::1", "fd00::1", advertisement(), true),
        ("fe80::1", "fd11::1", advertisement(), false),
        ("fd11::1", "fd00::1", advertisement(), false),
        ("fd00::1", "fd11::1", solicitation(), true),
        ("fd11::1", "fd00::1", solicitation(), false),
        ("::", "fd00::1", detection(), true),
        ("::", "fd11::1", detection(), false),
    ] {
        assert_eq!(allowed(&claims, &nd(src, target, body)), expected, "{src} {target} {body:?}");
    }
}

#[test]
fn neighbour_discovery_does_not_hide_behind_extension_headers() {
    let claims = claims(&["fd00::/64"]);
    for (target, expected) in [("fd00::1", true), ("fd11::1", false)] {
        let mut frame = nd("fd00::1", target, advertisement());
        let options_at = 14 + IPV6_HEADER_LEN;
        // Destination options, 8 octets: PadN.
        frame.splice(options_at..options_at, [protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0]);
        frame[14 + 6] = 60;
        assert_eq!(allowed(&claims, &frame), expected, "{target}");
    }
}

#[test]
fn data_is_not_looked_into() {
    let mut frame = Vec::new();
    emit_header(&mut frame, OTHER, MAC, Vlan::UNTAGGED, ethertype::IPV4);
    frame.resize(60, 0x45);
    assert!(allowed(&claims(&[]), &frame));
}

/// An IPv4 packet of this protocol, with options if `words` are more than 5.
fn ipv4(protocol: u8, words: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    emit_header(&mut frame, OTHER, MAC, Vlan::UNTAGGED, ethertype::IPV4);
    frame.push(0x40 | words);
    frame.resize(14 + 9, 0);
    frame.push(protocol);
    frame.resize(120, 0);
    frame
}

fn ipv6(protocol: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    emit_header(&mut frame, OTHER, MAC, Vlan::UNTAGGED, ethertype::IPV6);
    frame.extend([0x60, 0, 0, 0, 0, 0, protocol, 64]);
    frame.resize(120, 0);
    frame
}

fn harmless(bytes: &[u8], start: u16, offset: u16) -> bool {
    sum_is_harmless(&Frame::parse(bytes).unwrap(), PartialChecksum { start, offset })
}

#[test]
fn a_sum_stands_in_its_protocols_header_or_in_a_tunnel() {
    const SCTP: u8 = 132;
    const GRE: u8 = 47;
    const ROUTING: u8 = 43;
    let mut routed = ipv6(ROUTING);
    routed[54] = protocol::TCP;
    for (frame, start, offset, expected) in [
        (ipv4(protocol::TCP, 5), 34, 16, true),
        (ipv4(protocol::TCP, 7), 42, 16, true),
        (ipv4(protocol::TCP, 7), 34, 16, false),
        (ipv4(protocol::TCP, 5), 34, 14, false),
        (ipv4(protocol::TCP, 5), 26, 2, false),
        (ipv4(protocol::TCP, 4), 30, 16, false),
        (ipv4(protocol::UDP, 5), 34, 6, true),
        (ipv4(protocol::UDP, 5), 34, 16, false),
        // A TCP segment in VXLAN, and in GRE.
        (ipv4(protocol::UDP, 5), 34 + 8 + 8 + 14 + 20, 16, true),
        (ipv4(GRE, 5), 34 + 4 + 20, 16, true),
        (ipv4(SCTP, 5), 34, 8, true),
        (ipv4(GRE, 5), 14, 12, false),
        (ipv6(protocol::TCP), 54, 16, true),
        (ipv6(protocol::TCP), 22, 2, false),
        (ipv6(protocol::ICMPV6), 54, 2, true),
        (ipv6(protocol::ICMPV6), 54, 8, false),
        (ipv6(protocol::ICMPV6), 62, 0, false),
        (routed.clone(), 62, 16, true),
        (routed, 54, 16, false),
    ] {
        assert_eq!(harmless(&frame, start, offset), expected, "{:02x?} {start} {offset}", &frame[12..24]);
    }
}

#[test]
fn no_sum_is_written_into_what_was_looked_at() {
    let frames = [
        arp(Operation::Reply, "10.0.3.1", "10.0.3.2"),
        nd("fd00::1", "fd00::2", advertisement()),
        ipv4(protocol::TCP, 5),
    ];
    for (number, frame) in frames.iter().enumerate() {
        let places = (0..frame.len() as u16).flat_map(|start| (0..frame.len() as u16).map(move |o| (start, o)));
        let allowed = places.filter(|(start, offset)| {
            PartialChecksum { start: *start, offset: *offset }.fits(frame.len()) && harmless(frame, *start, *offset)
        });
        let expected: &[(u16, u16)] = [&[][..], &[(54, 2)], &[(34, 16)]][number];
        assert_eq!(allowed.collect::<Vec<_>>(), expected);
    }
}

proptest! {
    /// Whatever is allowed to be written, the verdict stays, and so do source and VLAN.
    #[test]
    fn a_sum_changes_no_verdict(
        kind in 0..4usize,
        tags in 0..3usize,
        changes in proptest::collection::vec((12..100usize, any::<u8>()), 0..3),
        places in proptest::collection::vec((14..100u16, 0..40u16, any::<[u8; 2]>()), 20),
    ) {
        let mut frame = match kind {
            0 => arp(Operation::Reply, "10.0.3.1", "10.0.3.2"),
            1 => nd("fd00::1", "fd00::2", advertisement()),
            2 => nd("::", "fd00::2", Body::Solicitation { source_mac: None }),
            _ => ipv4(protocol::UDP, 5),
        };
        (0..tags).for_each(|_| drop(frame.splice(12..12, [0x81, 0, 0, 7])));
        for (at, octet) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = octet;
            }
        }
        let Ok(before) = Frame::parse(&frame) else { return Ok(()) };
        for (start, offset, sum) in places {
            let csum = PartialChecksum { start, offset };
            if !csum.fits(frame.len()) || !sum_is_harmless(&before, csum) {
                continue;
            }
            let mut written = frame.clone();
            let at = usize::from(start + offset);
            written[at..at + 2].copy_from_slice(&sum);
            let after = Frame::parse(&written).unwrap();
            prop_assert_eq!((before.src, before.vlan, before.ethertype), (after.src, after.vlan, after.ethertype));
            for list in [&["fd00::/64", "10.0.3.0/24"][..], &["::/1", "0.0.0.0/1"], &[]] {
                prop_assert_eq!(claims(list).check(&before), claims(list).check(&after));
            }
        }
    }

    #[test]
    fn any_packet_is_allowed_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
        let ethertype = [ethertype::ARP, ethertype::IPV6, ethertype::IPV4][kind as usize];
        let mut frame = Vec::new();
        emit_header(&mut frame, OTHER, MAC, Vlan::UNTAGGED, ethertype);
        frame.extend(bytes);
        if let Ok(frame) = Frame::parse(&frame) {
            prop_assert!(Claims::default().check(&frame).is_ok());
            let _ = claims(&["fd00::/64"]).check(&frame);
        }
    }
}
