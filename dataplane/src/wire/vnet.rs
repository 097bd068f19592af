//! The `virtio_net_hdr` in front of every frame on a TAP opened with `IFF_VNET_HDR` and on a packet socket with
//! `PACKET_VNET_HDR` (VIRTIO 1.2, 5.1.6; include/uapi/linux/virtio_net.h).

use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::ETHERNET_HEADER_LEN;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum field holds the pseudo-header sum only.
pub const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_NONE`.
pub const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
pub const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`.
pub const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: datagrams of equal size, the last may be shorter. Not UFO, which is fragments.
pub const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`: the first segment carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`, little-endian (`TUNSETVNETLE`). Not the `virtio_net_hdr_v1` of 12 octets, whose last field
/// means nothing here: packet sockets before Linux 6.4 know these 10 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`] and others.
    pub flags: u8,
    /// [`GSO_NONE`], [`GSO_TCPV4`], [`GSO_TCPV6`] and these with [`GSO_ECN`], [`GSO_UDP_L4`].
    pub gso_type: u8,
    /// Length of all headers of a super-frame; a hint on reads.
    pub hdr_len: U16,
    /// Payload bytes per segment.
    pub gso_size: U16,
    /// Where the checksummed part begins.
    pub csum_start: U16,
    /// Where, counted from `csum_start`, the checksum is to be stored.
    pub csum_offset: U16,
}

/// Length of [`VnetHeader`].
pub const VNET_HEADER_LEN: usize = size_of::<VnetHeader>();
const _: () = assert!(VNET_HEADER_LEN == 10);

/// A checksum that is still to be finished: where it starts and where it is stored, both in octets
/// and from the frame's first octet and from `start` respectively.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First checksummed octet.
    pub start: u16,
    /// Place of the sum behind `start`.
    pub offset: u16,
}

impl PartialChecksum {
    /// True if the sum and its place lie behind the Ethernet header and inside a frame of `len` octets,
    /// which is what `skb_partial_csum_set()` (net/core/skbuff.c) asks for.
    pub fn fits(self, len: usize) -> bool {
        let start = usize::from(self.start);
        start >= ETHERNET_HEADER_LEN && start + usize::from(self.offset) + 2 <= len
    }
}

impl VnetHeader {
    /// The header of a frame that is not a super-frame.
    pub fn plain(csum: Option<PartialChecksum>) -> VnetHeader {
        let mut header = VnetHeader::default();
        if let Some(csum) = csum {
            header.flags = NEEDS_CSUM;
            header.csum_start = U16::new(csum.start);
            header.csum_offset = U16::new(csum.offset);
        }
        header
    }

    /// The unfinished checksum, if there is one.
    pub fn partial_checksum(&self) -> Option<PartialChecksum> {
        (self.flags & NEEDS_CSUM != 0)
            .then(|| PartialChecksum { start: self.csum_start.get(), offset: self.csum_offset.get() })
    }

    /// The kind of super-frame without the ECN mark; [`GSO_NONE`] for an ordinary frame.
    pub fn gso(&self) -> u8 {
        self.gso_type & !GSO_ECN
    }
}

/// Finishes a partial checksum in place, as a network card would. A sum of zero is stored as 0xffff,
/// because zero means "no checksum" in UDP (RFC 768). Does nothing when `csum` does not fit the frame.
pub fn finish_checksum(frame: &mut [u8], csum: PartialChecksum) {
    finish_checksum_with(frame, csum, 0);
}

/// The same for headers that lie apart from their payload, whose sum is `payload`. The headers end at an even
/// distance from where the sum starts.
pub fn finish_checksum_with(headers: &mut [u8], csum: PartialChecksum, payload: u64) {
    if !csum.fits(headers.len()) {
        return;
    }
    let start = usize::from(csum.start);
    let field = start + usize::from(csum.offset);
    let sum = match !super::checksum::fold(super::checksum::add(&headers[start..], payload)) {
        0 => 0xffff,
        sum => sum,
    };
    headers[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_outside_the_frame_does_not_fit() {
        assert!(PartialChecksum { start: 34, offset: 6 }.fits(42));
        assert!(!PartialChecksum { start: 34, offset: 7 }.fits(42));
        assert!(!PartialChecksum { start: 13, offset: 6 }.fits(42));
        assert!(!PartialChecksum { start: 65_535, offset: 65_535 }.fits(42));
    }
}
