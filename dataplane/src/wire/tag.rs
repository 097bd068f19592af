//! Puts back the VLAN tag that the kernel takes out of a frame before a packet socket sees it (`skb_vlan_untag()` in
//! `__netif_receive_skb_core()`, net/core/dev.c). A TAP hands frames over with their tags.

use zerocopy::byteorder::little_endian::U16 as Le16;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use super::ethernet::{ETHERNET_HEADER_LEN, VLAN_TAG_LEN};
use super::vnet::{self, VNET_HEADER_LEN, VnetHeader};
use crate::addr::MacAddr;

/// The two addresses in front of a tag.
const ADDRESSES: usize = 2 * size_of::<MacAddr>();

/// A tag as `PACKET_AUXDATA` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// EtherType of the tag.
    pub tpid: u16,
    /// Priority, drop eligible, VLAN identifier.
    pub control: u16,
}

/// Puts `tag` behind the addresses of a frame. `bytes` are [`VLAN_TAG_LEN`] octets of room, the virtio_net_hdr, and the
/// frame: header and addresses move into the room, nothing else moves, and what the header says of places in the frame
/// is corrected. False, and nothing changed, if there is not even an Ethernet header.
pub fn restore(bytes: &mut [u8], tag: Tag) -> bool {
    if bytes.len() < VLAN_TAG_LEN + VNET_HEADER_LEN + ETHERNET_HEADER_LEN {
        return false;
    }
    let moved = VNET_HEADER_LEN + ADDRESSES;
    bytes.copy_within(VLAN_TAG_LEN..VLAN_TAG_LEN + moved, 0);
    let tag = [U16::new(tag.tpid), U16::new(tag.control)];
    bytes[moved..moved + VLAN_TAG_LEN].copy_from_slice(tag.as_bytes());
    if let Ok((header, _)) = VnetHeader::mut_from_prefix(bytes) {
        // Saturated values lie outside of every frame, and are found out where the header is checked.
        let later = |place: Le16| Le16::new(place.get().saturating_add(VLAN_TAG_LEN as u16));
        if header.flags & vnet::NEEDS_CSUM != 0 {
            header.csum_start = later(header.csum_start);
        }
        if header.gso_type != vnet::GSO_NONE {
            header.hdr_len = later(header.hdr_len);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The oracle builds the tagged frame from its parts, and finds the checksummed octets in it.
        #[test]
        fn the_frame_is_what_it_was_on_the_wire(
            addresses in any::<[u8; 12]>(),
            payload in proptest::collection::vec(any::<u8>(), 2..200),
            (tpid, control) in (any::<u16>(), any::<u16>()),
            partial in any::<Option<prop::sample::Index>>(),
            (gso_type, gso_size) in (prop_oneof![Just(0u8), Just(1), Just(0x84)], any::<u16>()),
        ) {
            let frame = [&addresses[..], &payload].concat();
            let start = partial.map(|index| ETHERNET_HEADER_LEN + index.index(payload.len() - 1));
            let mut vnet = VnetHeader { gso_type, gso_size: gso_size.into(), hdr_len: 40.into(), ..Default::default() };
            if let Some(start) = start {
                (vnet.flags, vnet.csum_start, vnet.csum_offset) = (1, (start as u16).into(), 6.into());
            }
            let mut bytes = [&[0xee; 4][..], vnet.as_bytes(), &frame].concat();
            let restored = restore(&mut bytes, Tag { tpid, control });
            prop_assert!(restored);

            let mut expected = addresses.to_vec();
            expected.extend(tpid.to_be_bytes());
            expected.extend(control.to_be_bytes());
            expected.extend(&payload);
            prop_assert_eq!(&bytes[VNET_HEADER_LEN..], &expected);
            let (after, _) = VnetHeader::read_from_prefix(&bytes).unwrap();
            if let Some(start) = start {
                let tail = expected.get(usize::from(after.csum_start.get())..).unwrap_or_default();
                prop_assert_eq!(tail, frame.get(start..).unwrap_or_default(), "the same octets are summed");
            }
            prop_assert_eq!(after.hdr_len.get(), if gso_type == 0 { 40 } else { 44 });
            let unchanged = |h: VnetHeader| (h.flags, h.gso_type, h.gso_size, h.csum_offset);
            prop_assert_eq!(unchanged(after), unchanged(vnet));
        }
    }

    #[test]
    fn less_than_an_ethernet_header_is_left_alone() {
        for len in 0..4 + 10 + 14 {
            let mut bytes: Vec<u8> = (0..len as u8).collect();
            let before = bytes.clone();
            assert!(!restore(&mut bytes, Tag { tpid: 0x8100, control: 1 }));
            assert_eq!(bytes, before);
        }
    }

    #[test]
    fn a_place_beyond_every_frame_stays_there() {
        let vnet = VnetHeader { flags: 1, csum_start: 65_534.into(), ..Default::default() };
        let mut bytes = [&[0; 4][..], vnet.as_bytes(), &[0; 60]].concat();
        assert!(restore(&mut bytes, Tag { tpid: 0x8100, control: 1 }));
        let (after, frame) = VnetHeader::ref_from_prefix(&bytes).unwrap();
        assert!(!after.partial_checksum().unwrap().fits(frame.len()));
    }
}
