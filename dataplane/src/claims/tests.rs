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

proptest! {
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
