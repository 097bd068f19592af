//! Frames as guests send them.

use ipop_dataplane::datagram::segment::SuperFrame;
use ipop_dataplane::wire::arp::{self, Arp};
use ipop_dataplane::wire::ethernet::VLAN_TAG_LEN;
use ipop_dataplane::wire::ip::IpLayout;
use ipop_dataplane::wire::ndp::{self, Nd};
use ipop_dataplane::wire::tag::{self, Tag};
use ipop_dataplane::wire::vnet::{VNET_HEADER_LEN, finish_checksum};
use ipop_dataplane::wire::{Frame, VnetHeader};
use zerocopy::FromBytes;

use crate::segment::cut_and_join;

/// A frame from the port behind its `virtio_net_hdr`: what is read and written again is the same, and what is cut arrives.
pub fn frame(data: &[u8]) -> bool {
    let Ok((header, bytes)) = VnetHeader::read_from_prefix(data) else { return false };
    restore(data);
    let Ok(frame) = Frame::parse(bytes) else { return false };
    assert_eq!(frame.payload().len(), bytes.len() - frame.l3);
    if let Some(csum) = header.partial_checksum() {
        finish_checksum(&mut bytes.to_vec(), csum);
    }
    if let Some(layout) = IpLayout::locate(&frame) {
        assert!(frame.l3 < layout.l4 && layout.l4 <= layout.end && layout.end <= bytes.len());
    }
    if let Ok(arp) = Arp::parse(&frame) {
        let again = arp.to_frame(frame.dst, frame.src, frame.vlan);
        let again = Frame::parse(&again).expect("a frame of ours");
        assert_eq!((Arp::parse(&again), again.vlan, again.src), (Ok(arp), frame.vlan, frame.src));
        assert_eq!(arp::is_request(&again), arp::is_request(&frame));
    }
    if ndp::is_neighbour_discovery(&frame) {
        let read = [true, false].map(|pending| Nd::parse(&frame, pending));
        assert!(read[1].is_err() || read[0] == read[1], "a sum that is looked at changes nothing else");
        if let Ok(nd) = read[0] {
            let again = nd.to_frame(frame.dst, frame.src, frame.vlan);
            let again = Frame::parse(&again).expect("a frame of ours");
            assert!(ndp::is_neighbour_discovery(&again));
            assert_eq!((Nd::parse(&again, false), again.vlan), (Ok(nd), frame.vlan));
            assert_eq!(ndp::is_solicitation(&again), ndp::is_solicitation(&frame));
        }
    }
    if let Some(super_frame) = SuperFrame::new(&frame, &header).filter(|super_frame| !super_frame.is_big()) {
        cut_and_join(&super_frame, 1400);
    }
    true
}

/// A tag that is put back is there, and the rest is as before.
fn restore(data: &[u8]) {
    let mut bytes = [&[0; VLAN_TAG_LEN][..], data].concat();
    if tag::restore(&mut bytes, Tag { tpid: 0x8100, control: 0x2007 }) {
        let (before, after) = (&data[VNET_HEADER_LEN..], &bytes[VNET_HEADER_LEN..]);
        assert_eq!(
            (&after[..12], &after[12..16], &after[16..]),
            (&before[..12], &[0x81, 0, 0x20, 7][..], &before[12..])
        );
    }
}
