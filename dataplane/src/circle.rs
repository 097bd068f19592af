//! Datagrams of the gateway's own links that come in by its port, where they would be sent again, as frames.
//!
//! It happens when the route to a peer leads through the overlay; when a bridge that the uplink is in too floods what it
//! knows no port for; and when the port is an interface by which peers are reached. Such a frame carries a session index that
//! only the two ends of a link have chosen, from or to the address of the peer. Nothing else follows from it than that it
//! goes no further: whoever forges one has lost a frame of his own.

use std::net::SocketAddr;

use zerocopy::FromBytes;

use crate::addr::PeerId;
use crate::datagram::{DATA, DATA_ASIDE, DatagramHeader};
use crate::peers::PeerTable;
use crate::wire::Frame;
use crate::wire::ethernet::ethertype;
use crate::wire::ip::{IPV6_HEADER_LEN, IpLayout, UDP_HEADER_LEN, UdpHeader, protocol};

/// The peer whose link a frame carries a datagram of.
pub fn link_of(frame: &Frame<'_>, table: &PeerTable, network: u32) -> Option<PeerId> {
    let payload = frame.payload();
    // Neither fragments nor extension headers: none of ours has any. Most frames end here, or at the version below.
    let (next, l4) = match frame.ethertype {
        ethertype::IPV4 => (payload.get(9)?, usize::from(payload.first()? & 0x0f) * 4),
        ethertype::IPV6 => (payload.get(6)?, IPV6_HEADER_LEN),
        _ => return None,
    };
    if *next != protocol::UDP {
        return None;
    }
    let (udp, datagram) = UdpHeader::ref_from_prefix(payload.get(l4..)?).ok()?;
    let (header, _) = DatagramHeader::parse(datagram, network).ok()?;
    if !matches!(header.kind(), DATA | DATA_ASIDE) {
        return None;
    }
    let ip = IpLayout::locate(frame).filter(|ip| ip.end - ip.l4 >= UDP_HEADER_LEN)?;
    let (from, to) = (ip.src, SocketAddr::new(ip.dst, udp.dst_port.get()));
    table.sent_to(header.session.get(), to).or_else(|| table.sent_by(header.session.get(), from))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use zerocopy::IntoBytes;

    use super::*;
    use crate::datagram::HELLO;
    use crate::peers::{PeerView, session_index};
    use crate::session::{Incoming, Outgoing};

    const PEER: &str = "10.99.0.2:5800";
    const OWN: &str = "10.99.0.1:5800";
    /// What the peer wants to be sent to, and what it has to send to.
    const THEIRS: u32 = 0x77_0009;
    const NETWORK: u32 = 7;

    fn ours() -> u32 {
        session_index(PeerId(1), 0xbeef)
    }

    fn table(address: &str) -> PeerTable {
        let view = |address: &str, theirs, ours| PeerView {
            address: address.parse().unwrap(),
            outgoing: Some(Arc::new(Outgoing::new(theirs, None, 1))),
            incoming: vec![Arc::new(Incoming::new(ours, None))],
            up: true,
            max_datagram: 1472,
        };
        // Another peer has chosen the same index.
        let other = view("10.99.0.3:5800", THEIRS, session_index(PeerId(0), 1));
        PeerTable::new(vec![other, view(address, THEIRS, ours())], None)
    }

    fn frame(from: &str, to: &str, kind: u8, network: u32, session: u32) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let datagram = [DatagramHeader::new(kind, network, session, 0, 1).as_bytes(), &[0; 40]].concat();
        let udp_len = (UDP_HEADER_LEN + datagram.len()) as u16;
        let mut bytes = vec![2; 12];
        match (from.ip(), to.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                bytes.extend_from_slice(&[0x08, 0, 0x45, 0]);
                bytes.extend_from_slice(&(20 + udp_len).to_be_bytes());
                bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol::UDP, 0, 0]);
                bytes.extend_from_slice(&[src.octets(), dst.octets()].concat());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                bytes.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
                bytes.extend_from_slice(&udp_len.to_be_bytes());
                bytes.extend_from_slice(&[protocol::UDP, 64]);
                bytes.extend_from_slice(&[src.octets(), dst.octets()].concat());
            }
            _ => unreachable!(),
        }
        for field in [from.port(), to.port(), udp_len, 0] {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        bytes.extend_from_slice(&datagram);
        bytes
    }

    fn found(bytes: &[u8], table: &PeerTable) -> Option<PeerId> {
        link_of(&Frame::parse(bytes).unwrap(), table, NETWORK)
    }

    #[test]
    fn datagrams_of_a_link_either_way() {
        let table = table(PEER);
        let peer = Some(PeerId(1));
        for (from, to, kind, session, expected) in [
            (OWN, PEER, DATA, THEIRS, peer),
            ("10.99.0.1:40000", PEER, DATA_ASIDE, THEIRS, peer),
            (PEER, OWN, DATA, ours(), peer),
            ("10.99.0.2:40000", OWN, DATA_ASIDE, ours(), peer),
            (OWN, "10.99.0.3:5800", DATA, THEIRS, Some(PeerId(0))),
            // Other hosts, another port, other sessions; handshakes do not go round, since no frame becomes one.
            (OWN, "10.99.0.4:5800", DATA, THEIRS, None),
            (OWN, "10.99.0.2:5801", DATA, THEIRS, None),
            ("10.99.0.4:5800", OWN, DATA, ours(), None),
            (OWN, PEER, DATA, THEIRS + 1, None),
            (PEER, OWN, DATA, ours() ^ 1 << 20, None),
            (OWN, PEER, HELLO, THEIRS, None),
        ] {
            assert_eq!(
                found(&frame(from, to, kind, NETWORK, session), &table),
                expected,
                "{from} {to} {kind} {session:x}"
            );
        }
        assert_eq!(found(&frame(OWN, PEER, DATA, NETWORK + 1, THEIRS), &table), None);
    }

    #[test]
    fn over_ipv6_and_behind_tags() {
        let table = table("[fd99::2]:5800");
        let mut bytes = frame("[fd99::1]:5800", "[fd99::2]:5800", DATA, NETWORK, THEIRS);
        assert_eq!(found(&bytes, &table), Some(PeerId(1)));
        bytes.splice(12..12, [0x81, 0, 0, 10]);
        assert_eq!(found(&bytes, &table), Some(PeerId(1)));
    }

    /// An IPv6 socket has its IPv4 peers as mapped addresses.
    #[test]
    fn mapped_addresses() {
        let table = table(&format!("[{}]:5800", Ipv4Addr::new(10, 99, 0, 2).to_ipv6_mapped()));
        assert_eq!(found(&frame(OWN, PEER, DATA, NETWORK, THEIRS), &table), Some(PeerId(1)));
        assert_eq!(found(&frame(PEER, OWN, DATA, NETWORK, ours()), &table), Some(PeerId(1)));
    }

    #[test]
    fn frames_that_are_cut_short() {
        let table = table(PEER);
        let whole = frame(OWN, PEER, DATA, NETWORK, THEIRS);
        for len in 14..whole.len() {
            assert_eq!(found(&whole[..len], &table), None, "{len}");
        }
    }
}
