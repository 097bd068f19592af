//! Ethernet II and 802.3 frames with 802.1Q and 802.1ad tags.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::{MacAddr, Vlan};

/// EtherType values that the switch looks at; every other one is carried unseen.
pub mod ethertype {
    /// RFC 791.
    pub const IPV4: u16 = 0x0800;
    /// RFC 826.
    pub const ARP: u16 = 0x0806;
    /// RFC 903; QEMU announces a migrated guest with it.
    pub const RARP: u16 = 0x8035;
    /// MAC control, of which pause frames are (IEEE 802.3-2022, clause 31).
    pub const MAC_CONTROL: u16 = 0x8808;
    /// IEEE 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// RFC 8200.
    pub const IPV6: u16 = 0x86dd;
    /// IEEE 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// The 14 octets in front of every frame.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// EtherType, or a length when below 0x600.
    pub ethertype: U16,
}

/// The 4 octets of a tag that follow the addresses, seen after the TPID: control information and next EtherType.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1), VLAN identifier (12).
    pub control: U16,
    /// EtherType of what follows.
    pub ethertype: U16,
}

/// Length of [`EthernetHeader`].
pub const ETHERNET_HEADER_LEN: usize = size_of::<EthernetHeader>();
/// Length of a tag.
pub const VLAN_TAG_LEN: usize = size_of::<VlanTag>();
const _: () = assert!(ETHERNET_HEADER_LEN == 14 && VLAN_TAG_LEN == 4);

/// Largest frame that a TAP hands over: a 64 KiB IP packet, the Ethernet header and one tag
/// (`tun_get_socket`/`tun_put_user` in drivers/net/tun.c), with room for a second tag.
pub const MAX_FRAME: usize = 65_535 + ETHERNET_HEADER_LEN + 2 * VLAN_TAG_LEN;

/// A parsed view on a frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The whole frame, without FCS.
    pub bytes: &'a [u8],
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Broadcast domain of the outermost tag.
    pub vlan: Vlan,
    /// EtherType behind all tags that were parsed (at most two).
    pub ethertype: u16,
    /// Where the payload of that EtherType begins in `bytes`.
    pub l3: usize,
}

/// The frame ends inside its own header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated;

impl<'a> Frame<'a> {
    /// Parses the Ethernet header and up to two tags.
    pub fn parse(bytes: &'a [u8]) -> Result<Frame<'a>, Truncated> {
        let (header, _) = EthernetHeader::ref_from_prefix(bytes).map_err(|_| Truncated)?;
        let mut frame = Frame {
            bytes,
            dst: header.dst,
            src: header.src,
            vlan: Vlan::UNTAGGED,
            ethertype: header.ethertype.get(),
            l3: ETHERNET_HEADER_LEN,
        };
        for depth in 0..2 {
            let tpid = frame.ethertype;
            if tpid != ethertype::VLAN && tpid != ethertype::SERVICE_VLAN {
                break;
            }
            let (tag, _) = VlanTag::ref_from_prefix(&bytes[frame.l3..]).map_err(|_| Truncated)?;
            if depth == 0 {
                let vid = tag.control.get();
                frame.vlan = if tpid == ethertype::VLAN { Vlan::customer(vid) } else { Vlan::service(vid) };
            }
            frame.ethertype = tag.ethertype.get();
            frame.l3 += VLAN_TAG_LEN;
        }
        Ok(frame)
    }

    /// What follows the Ethernet header and the tags.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.l3..]
    }

    /// True for a frame with at most one customer tag: what ARP and neighbour discovery are understood in.
    /// With more tags the frame belongs to somebody's provider network and is carried unseen.
    pub fn is_plain(&self) -> bool {
        self.l3 == ETHERNET_HEADER_LEN || (self.l3 == ETHERNET_HEADER_LEN + VLAN_TAG_LEN && !self.vlan.is_service())
    }
}

/// Appends an Ethernet header, with an 802.1Q tag unless `vlan` is untagged.
pub fn emit_header(out: &mut Vec<u8>, dst: MacAddr, src: MacAddr, vlan: Vlan, ethertype: u16) {
    let header = |ethertype: u16| EthernetHeader { dst, src, ethertype: U16::new(ethertype) };
    if vlan == Vlan::UNTAGGED {
        out.extend_from_slice(header(ethertype).as_bytes());
    } else {
        let tpid = if vlan.is_service() { ethertype::SERVICE_VLAN } else { ethertype::VLAN };
        out.extend_from_slice(header(tpid).as_bytes());
        let tag = VlanTag { control: U16::new(vlan.vid()), ethertype: U16::new(ethertype) };
        out.extend_from_slice(tag.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(vlan: Vlan, ethertype: u16) -> Vec<u8> {
        let mut out = Vec::new();
        emit_header(&mut out, MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 0, 1]), vlan, ethertype);
        out.extend_from_slice(b"payload");
        out
    }

    #[test]
    fn untagged() {
        let bytes = frame(Vlan::UNTAGGED, ethertype::ARP);
        let f = Frame::parse(&bytes).unwrap();
        assert_eq!((f.vlan, f.ethertype, f.payload()), (Vlan::UNTAGGED, ethertype::ARP, &b"payload"[..]));
        assert!(f.is_plain());
    }

    #[test]
    fn tagged_customer_and_service() {
        let bytes = frame(Vlan::customer(10), ethertype::IPV6);
        let f = Frame::parse(&bytes).unwrap();
        assert_eq!((f.vlan, f.ethertype, f.l3), (Vlan::customer(10), ethertype::IPV6, 18));
        assert!(f.is_plain());
        let bytes = frame(Vlan::service(10), ethertype::IPV6);
        let f = Frame::parse(&bytes).unwrap();
        assert_eq!(f.vlan, Vlan::service(10));
        assert!(!f.is_plain());
    }

    #[test]
    fn double_tag_learns_by_the_outer_one() {
        let mut bytes = frame(Vlan::service(7), ethertype::VLAN);
        bytes.truncate(18);
        bytes.extend_from_slice(&[0, 9, 0x08, 0x06, 1, 2, 3]);
        let f = Frame::parse(&bytes).unwrap();
        assert_eq!((f.vlan, f.ethertype, f.payload()), (Vlan::service(7), ethertype::ARP, &[1, 2, 3][..]));
        assert!(!f.is_plain());
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = frame(Vlan::customer(10), ethertype::ARP);
        for len in 0..18 {
            assert!(Frame::parse(&bytes[..len]).is_err(), "{len}");
        }
        assert!(Frame::parse(&bytes[..18]).is_ok());
    }
}
