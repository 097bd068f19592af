//! What the kernel says beside a received datagram or frame: its sender's address and control messages (cmsg(3)), as octets
//! of a buffer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::wire::tag::Tag;

/// A `sockaddr_in` or `sockaddr_in6` as the kernel wrote it.
pub(super) fn address(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    let ip = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(*name.get(4..)?.first_chunk::<4>()?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(*name.get(8..)?.first_chunk::<16>()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The data of the first message of a kind.
fn find(mut control: &[u8], level: i32, kind: i32) -> Option<&[u8]> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    while let Some(header) = control.first_chunk::<HEADER>() {
        let len = usize::from_ne_bytes(*header.first_chunk()?);
        let found = (i32::from_ne_bytes(*header[8..].first_chunk()?), i32::from_ne_bytes(*header[12..].first_chunk()?));
        let data = control.get(HEADER..len)?;
        if found == (level, kind) {
            return Some(data);
        }
        control = control.get(len.next_multiple_of(size_of::<usize>())..)?;
    }
    None
}

/// The size of the datagrams in a train, from `UDP_GRO`; `None` if there is just one.
pub(super) fn gro_size(control: &[u8]) -> Option<usize> {
    let data = find(control, libc::SOL_UDP, libc::UDP_GRO)?;
    usize::try_from(i32::from_ne_bytes(*data.first_chunk()?)).ok()
}

/// The traffic class of a datagram, from `IP_TOS` or `IPV6_TCLASS`; 0 if the kernel does not tell.
pub(super) fn traffic_class(control: &[u8]) -> u8 {
    let v4 = find(control, libc::SOL_IP, libc::IP_TOS).and_then(|data| data.first().copied());
    let v6 = || Some(i32::from_ne_bytes(*find(control, libc::SOL_IPV6, libc::IPV6_TCLASS)?.first_chunk()?) as u8);
    v4.or_else(v6).unwrap_or(0)
}

/// The tag that the kernel took out of a frame, from `PACKET_AUXDATA`: a `struct tpacket_auxdata`
/// (include/uapi/linux/if_packet.h).
pub(super) fn tag(control: &[u8]) -> Option<Tag> {
    let data = find(control, libc::SOL_PACKET, libc::PACKET_AUXDATA)?.first_chunk::<20>()?;
    let status = u32::from_ne_bytes(*data.first_chunk()?);
    let short = |at: usize| u16::from_ne_bytes([data[at], data[at + 1]]);
    let known = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let tpid = if known { short(18) } else { crate::wire::ethernet::ethertype::VLAN };
    (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| Tag { tpid, control: short(16) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut m = (16 + data.len()).to_ne_bytes().to_vec();
        m.extend_from_slice(&level.to_ne_bytes());
        m.extend_from_slice(&kind.to_ne_bytes());
        m.extend_from_slice(data);
        m.resize(m.len().next_multiple_of(8), 0);
        m
    }

    /// ip(7), ipv6(7): family, port, for IPv6 the flow label, the address.
    #[test]
    fn addresses_of_both_families() {
        let v4 = [&(libc::AF_INET as u16).to_ne_bytes()[..], &5800u16.to_be_bytes(), &[10, 99, 0, 2], &[0; 8]].concat();
        assert_eq!(address(&v4), "10.99.0.2:5800".parse().ok());
        let ip: Ipv6Addr = "fd99::2".parse().unwrap();
        let head = [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &5800u16.to_be_bytes(), &[0; 4]].concat();
        assert_eq!(address(&[&head[..], &ip.octets(), &[0; 4]].concat()), "[fd99::2]:5800".parse().ok());
        assert_eq!(address(&[1, 0, 0]), None);
        assert_eq!(address(&head), None);
    }

    #[test]
    fn gro_size_among_other_messages() {
        let ttl = message(libc::SOL_IP, 8, &1i32.to_ne_bytes());
        let control = [ttl.clone(), message(libc::SOL_UDP, libc::UDP_GRO, &1472i32.to_ne_bytes())].concat();
        assert_eq!(gro_size(&control), Some(1472));
        assert_eq!(gro_size(&ttl), None);
        assert_eq!(gro_size(&[0; 16]), None);
    }

    #[test]
    fn traffic_classes_of_both_families() {
        let gro = message(libc::SOL_UDP, libc::UDP_GRO, &1472i32.to_ne_bytes());
        let v4 = [message(libc::SOL_IP, libc::IP_TOS, &[0xb9]), gro.clone()].concat();
        let v6 = [gro.clone(), message(libc::SOL_IPV6, libc::IPV6_TCLASS, &3i32.to_ne_bytes())].concat();
        assert_eq!([&v4, &v6, &gro].map(|control| traffic_class(control)), [0xb9, 3, 0]);
    }

    #[test]
    fn tags_in_the_auxiliary_data() {
        let data = |status: u32, tci: u16, tpid: u16| {
            let mut data = status.to_ne_bytes().to_vec();
            data.resize(16, 0xee);
            data.extend_from_slice(&tci.to_ne_bytes());
            data.extend_from_slice(&tpid.to_ne_bytes());
            message(libc::SOL_PACKET, libc::PACKET_AUXDATA, &data)
        };
        let (vlan, tpid) = (libc::TP_STATUS_VLAN_VALID, libc::TP_STATUS_VLAN_TPID_VALID);
        assert_eq!(tag(&data(vlan | tpid, 0x600a, 0x88a8)), Some(Tag { tpid: 0x88a8, control: 0x600a }));
        assert_eq!(tag(&data(vlan, 10, 0)), Some(Tag { tpid: 0x8100, control: 10 }), "a kernel that names no TPID");
        assert_eq!(tag(&data(vlan | tpid, 0, 0x8100)), Some(Tag { tpid: 0x8100, control: 0 }), "a tag of priority 0");
        assert_eq!(tag(&data(libc::TP_STATUS_CSUM_VALID, 0, 0)), None);
        assert_eq!(tag(&data(vlan, 10, 0)[..32]), None, "cut short");
    }
}
