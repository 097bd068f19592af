//! Step (2), and what the control thread reads of an ARP frame.

use std::hint::black_box;

use ipop_dataplane::wire::arp::Arp;
use ipop_dataplane::wire::ip::{IpLayout, UDP_CSUM_OFFSET, UdpHeader, protocol};
use ipop_dataplane::wire::vnet::PartialChecksum;
use ipop_dataplane::wire::{Frame, VnetHeader};
use zerocopy::FromBytes;

use crate::{BATCH, Run, frames};

const ACK_PAYLOAD: usize = 0;
const DNS_PORT: u16 = 53;
const DNS_PAYLOAD: usize = 100;

/// A frame from the port and its metadata, checked as a worker checks them.
pub(crate) fn from_port(bytes: &[u8]) -> (VnetHeader, Frame<'_>, Option<PartialChecksum>) {
    let (vnet, bytes) = VnetHeader::read_from_prefix(bytes).expect("a frame begins with its virtio_net_hdr");
    let frame = Frame::parse(bytes).expect("the frame is whole");
    let csum = vnet.partial_checksum();
    assert!(csum.is_none_or(|csum| csum.fits(bytes.len())));
    (vnet, frame, csum)
}

/// Reads one frame [`BATCH`] times.
fn repeat(bytes: Vec<u8>, read: impl Fn(&[u8]) -> u64 + 'static) -> Run {
    Box::new(move || (0..BATCH).map(|_| read(black_box(&bytes))).sum())
}

/// A TCP acknowledgement: a worker reads no more of it than Ethernet and the metadata.
pub(crate) fn tcp() -> Run {
    repeat(frames::tcp(ACK_PAYLOAD, 0), |bytes| {
        let (vnet, frame, csum) = black_box(from_port(bytes));
        u64::from(vnet.gso()) + frame.l3 as u64 + u64::from(csum.is_some())
    })
}

/// UDP with an unfinished checksum: a worker looks at the port too, because of DHCP clients.
pub(crate) fn udp() -> Run {
    repeat(frames::udp(DNS_PORT, DNS_PAYLOAD), |bytes| {
        let (_, frame, csum) = black_box(from_port(bytes));
        assert!(csum.is_some_and(|csum| csum.offset == UDP_CSUM_OFFSET));
        let layout = IpLayout::locate(&frame).expect("this is IP");
        assert!(layout.protocol == protocol::UDP);
        let (udp, _) = UdpHeader::ref_from_prefix(&frame.bytes[layout.l4..]).expect("the packet is whole");
        u64::from(udp.dst_port.get())
    })
}

/// An ARP request.
pub(crate) fn arp() -> Run {
    repeat(frames::arp_request(), |bytes| {
        let (_, frame, _) = black_box(from_port(bytes));
        let arp = Arp::parse(&frame).expect("the request is legal");
        arp.sender_mac.to_u64() ^ u64::from(u32::from(arp.target_ip))
    })
}
