//! Which flow a frame belongs to, as a number, so that frames of one flow can take one way.

use std::net::IpAddr;

use crate::wire::Frame;
use crate::wire::ip::{IpLayout, protocol};

/// The same for all frames of a flow: for TCP, UDP and SCTP of addresses, protocol and ports, for other IP packets without the
/// ports; for what is not IP, and for IP fragments, of the MACs and the EtherType. Without a secret: whoever brings flows that
/// meet has only its own to slow down.
pub(crate) fn hash(frame: &Frame<'_>) -> u32 {
    let Some(layout) = IpLayout::locate(frame) else {
        let mut macs = [0; 16];
        macs[..6].copy_from_slice(&frame.dst.0);
        macs[8..14].copy_from_slice(&frame.src.0);
        return finish(mix(mix(0, frame.ethertype.into()), u128::from_ne_bytes(macs)));
    };
    let ports = frame.bytes.get(layout.l4..layout.l4 + 4).filter(|_| has_ports(layout.protocol));
    let ports = ports.and_then(|ports| ports.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let words = [u128::from(ports) << 8 | u128::from(layout.protocol), address(layout.src), address(layout.dst)];
    finish(words.into_iter().fold(0, mix))
}

fn has_ports(protocol: u8) -> bool {
    [protocol::TCP, protocol::UDP, protocol::SCTP].contains(&protocol)
}

fn address(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Multiplication with an odd number keeps all bits apart, and brings the low ones into the high ones (Knuth, The Art of
/// Computer Programming, volume 3, section 6.4).
fn mix(state: u64, word: u128) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let state = (state ^ word as u64).wrapping_mul(GOLDEN).rotate_left(29);
    (state ^ (word >> 64) as u64).wrapping_mul(GOLDEN).rotate_left(29)
}

/// The high bits are the mixed ones, and whoever chooses one of a few takes the low ones.
fn finish(state: u64) -> u32 {
    (state ^ state >> 31).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::addr::{MacAddr, Vlan};
    use crate::wire::ethernet::{emit_header, ethertype};

    fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        emit_header(&mut out, MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), Vlan::UNTAGGED, kind);
        out.extend_from_slice(payload);
        out
    }

    fn v4(protocol: u8, host: u8, ports: [u16; 2], fragment: u16) -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 3, host, 10, 0, 3, 104];
        ip[6..8].copy_from_slice(&fragment.to_be_bytes());
        ip.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        ip.extend([0; 16]);
        frame(ethertype::IPV4, &ip)
    }

    fn v6(host: u8, ports: [u16; 2]) -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0, 0, 8, protocol::UDP, 64];
        ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 104]);
        ip.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        ip.extend([0, 8, 0, 0]);
        frame(ethertype::IPV6, &ip)
    }

    fn of(bytes: &[u8]) -> u32 {
        hash(&Frame::parse(bytes).unwrap())
    }

    #[test]
    fn a_flow_has_one_number_whatever_else_is_in_its_frames() {
        let mut later = v4(protocol::TCP, 1, [1000, 80], 0);
        let first = of(&later);
        // Identification, checksum and all behind the ports.
        later[18] = 9;
        later[24] = 9;
        later[38..].fill(7);
        assert_eq!(of(&later), first);
        assert_eq!(of(&v6(1, [1, 2])), of(&v6(1, [1, 2])));
    }

    #[test]
    fn what_tells_flows_apart() {
        let flows = [
            v4(protocol::TCP, 1, [1000, 80], 0),
            v4(protocol::UDP, 1, [1000, 80], 0),
            v4(protocol::TCP, 2, [1000, 80], 0),
            v4(protocol::TCP, 1, [1001, 80], 0),
            v4(protocol::TCP, 1, [1000, 81], 0),
            v6(1, [1000, 80]),
            v6(2, [1000, 80]),
            v6(1, [1001, 80]),
            frame(ethertype::ARP, &[0; 28]),
            frame(0x88b5, &[0; 28]),
        ];
        assert_eq!(flows.iter().map(|flow| of(flow)).collect::<HashSet<_>>().len(), flows.len());
    }

    #[test]
    fn packets_without_ports_are_told_apart_by_their_hosts_only() {
        const ICMP: u8 = 1;
        assert_eq!(of(&v4(ICMP, 1, [8, 0], 0)), of(&v4(ICMP, 1, [0, 7], 0)));
        assert_ne!(of(&v4(ICMP, 1, [8, 0], 0)), of(&v4(ICMP, 2, [8, 0], 0)));
        // Only the first fragment has ports.
        assert_eq!(of(&v4(protocol::UDP, 1, [1, 2], 0x2000)), of(&v4(protocol::UDP, 1, [3, 4], 0x0010)));
        // One that is cut off behind the IP header.
        let mut short = v4(protocol::TCP, 1, [1, 2], 0);
        short[17] = 20;
        short.truncate(34);
        of(&short);
    }

    /// Neighbouring ports and hosts, as they occur, over a few ways.
    #[test]
    fn flows_are_spread_evenly() {
        for ways in [2, 3, 4, 8, 16] {
            for all in [
                (0..1600).map(|n| of(&v4(protocol::TCP, 1, [40_000 + n, 5201], 0))).collect::<Vec<_>>(),
                (0..1600).map(|n| of(&v4(protocol::UDP, n as u8, [53, n / 256], 0))).collect(),
                (0..1600).map(|n| of(&v6(n as u8, [40_000 + 2 * n, 80]))).collect(),
            ] {
                let mut counts = vec![0; ways as usize];
                all.iter().for_each(|hash| counts[(hash % ways) as usize] += 1);
                let fair = 1600 / ways as i32;
                assert!(counts.iter().all(|count| (count - fair).abs() < fair / 2), "{ways}: {counts:?}");
            }
        }
    }
}
