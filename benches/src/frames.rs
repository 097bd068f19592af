//! Frames as a TAP hands them over: a `virtio_net_hdr`, then the frame.

use std::net::{IpAddr, Ipv4Addr};

use ipop_dataplane::addr::{MacAddr, Vlan};
use ipop_dataplane::wire::arp::{Arp, Operation};
use ipop_dataplane::wire::ethernet::{emit_header, ethertype};
use ipop_dataplane::wire::ip::{
    IPV4_HEADER_LEN, Ipv4Header, TCP_CSUM_OFFSET, TCP_HEADER_LEN, TcpHeader, UDP_CSUM_OFFSET, UdpHeader, protocol,
};
use ipop_dataplane::wire::vnet::{GSO_TCPV4, PartialChecksum, VNET_HEADER_LEN, VnetHeader};
use ipop_dataplane::wire::{checksum, ethernet};
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

/// The station behind this gateway's port.
pub const LOCAL: MacAddr = MacAddr([0x00, 0x16, 0x3e, 0, 0, 0x03]);
/// The station behind the peer.
pub const REMOTE: MacAddr = MacAddr([0x00, 0x16, 0x3e, 0, 0x01, 0x04]);

const LOCAL_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 3);
const REMOTE_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 104);
/// No-operation twice, then a timestamp: what Linux sends with every segment (RFC 7323, appendix A).
const TCP_OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
const ACK: u8 = 0x10;
const DONT_FRAGMENT: u16 = 0x4000;
const L4: usize = ethernet::ETHERNET_HEADER_LEN + IPV4_HEADER_LEN;
/// Octets of a TCP frame in front of its payload, without the `virtio_net_hdr`.
pub(crate) const TCP_FRAME_HEADERS: usize = L4 + TCP_HEADER_LEN + TCP_OPTIONS.len();

/// Starts a frame from [`LOCAL`] to [`REMOTE`] that will have `payload` octets of IP payload.
fn ipv4(vnet: VnetHeader, protocol: u8, payload: usize) -> Vec<u8> {
    let mut out = vnet.as_bytes().to_vec();
    emit_header(&mut out, REMOTE, LOCAL, Vlan::UNTAGGED, ethertype::IPV4);
    let mut header = Ipv4Header {
        version_ihl: 0x45,
        tos: 0,
        total_len: U16::new((IPV4_HEADER_LEN + payload) as u16),
        id: U16::new(1),
        fragment: U16::new(DONT_FRAGMENT),
        ttl: 64,
        protocol,
        checksum: U16::new(0),
        src: LOCAL_IP.octets(),
        dst: REMOTE_IP.octets(),
    };
    header.checksum = U16::new(!checksum::fold(checksum::add(header.as_bytes(), 0)));
    out.extend_from_slice(header.as_bytes());
    out
}

/// What stands in the checksum field of a packet whose checksum is still to be finished.
fn partial(protocol: u8, len: usize) -> U16 {
    let sum = checksum::pseudo_header(IpAddr::V4(LOCAL_IP), IpAddr::V4(REMOTE_IP), protocol, len);
    U16::new(checksum::fold(sum))
}

fn payload(len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(|index| (index as u8).wrapping_mul(31))
}

/// TCP whose checksum is still to be finished; a super-frame unless `gso_size` is 0.
pub fn tcp(payload_len: usize, gso_size: u16) -> Vec<u8> {
    let mut vnet = VnetHeader::plain(Some(PartialChecksum { start: L4 as u16, offset: TCP_CSUM_OFFSET }));
    if gso_size != 0 {
        vnet.gso_type = GSO_TCPV4;
        vnet.gso_size.set(gso_size);
    }
    let header_len = TCP_HEADER_LEN + TCP_OPTIONS.len();
    let len = header_len + payload_len;
    let mut out = ipv4(vnet, protocol::TCP, len);
    let header = TcpHeader {
        src_port: U16::new(40_000),
        dst_port: U16::new(5201),
        seq: U32::new(1_000_000),
        ack: U32::new(1),
        data_offset: (header_len as u8 / 4) << 4,
        flags: ACK,
        window: U16::new(512),
        checksum: partial(protocol::TCP, len),
        urgent: U16::new(0),
    };
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&TCP_OPTIONS);
    out.extend(payload(payload_len));
    out
}

/// UDP to `port` whose checksum is still to be finished.
pub fn udp(port: u16, payload_len: usize) -> Vec<u8> {
    let vnet = VnetHeader::plain(Some(PartialChecksum { start: L4 as u16, offset: UDP_CSUM_OFFSET }));
    let len = size_of::<UdpHeader>() + payload_len;
    let mut out = ipv4(vnet, protocol::UDP, len);
    let header = UdpHeader {
        src_port: U16::new(40_000),
        dst_port: U16::new(port),
        len: U16::new(len as u16),
        checksum: partial(protocol::UDP, len),
    };
    out.extend_from_slice(header.as_bytes());
    out.extend(payload(payload_len));
    out
}

/// "Who has the remote station's address?", to all.
pub fn arp_request() -> Vec<u8> {
    let question = Arp {
        operation: Operation::Request,
        sender_mac: LOCAL,
        sender_ip: LOCAL_IP,
        target_mac: MacAddr::ZERO,
        target_ip: REMOTE_IP,
    };
    let mut out = VnetHeader::default().as_bytes().to_vec();
    out.extend(question.to_frame(MacAddr::BROADCAST, LOCAL, Vlan::UNTAGGED));
    out
}

/// A frame of a protocol that nobody looks into, from `src` to `dst`.
pub fn plain(src: MacAddr, dst: MacAddr, payload_len: usize) -> Vec<u8> {
    // IEEE 802: local experimental EtherType 1.
    const EXPERIMENTAL: u16 = 0x88b5;
    let mut out = VnetHeader::default().as_bytes().to_vec();
    emit_header(&mut out, dst, src, Vlan::UNTAGGED, EXPERIMENTAL);
    out.extend(payload(payload_len));
    out
}

/// The same frame with the checksum finished, as it comes from a port without offloads.
pub(crate) fn finished(mut bytes: Vec<u8>) -> Vec<u8> {
    let csum = PartialChecksum { start: L4 as u16, offset: TCP_CSUM_OFFSET };
    ipop_dataplane::wire::vnet::finish_checksum(&mut bytes[VNET_HEADER_LEN..], csum);
    let (vnet, _) = VnetHeader::mut_from_prefix(&mut bytes).expect("it begins with one");
    *vnet = VnetHeader { gso_type: vnet.gso_type, gso_size: vnet.gso_size, ..VnetHeader::default() };
    bytes
}

/// Turns the frame around: from [`REMOTE`] to [`LOCAL`], as one that comes from the peer. IP stays as it is.
pub(crate) fn reverse(bytes: &mut [u8]) {
    let addresses = &mut bytes[VNET_HEADER_LEN..];
    addresses[..6].copy_from_slice(&LOCAL.0);
    addresses[6..12].copy_from_slice(&REMOTE.0);
}
