//! The gateway's port: what it is, and what the rest of the gateway asks of it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::addr::MacAddr;
use crate::ending::Ending;
use crate::packet::PacketPort;
use crate::tap::Tap;
use crate::wire::ethernet::{ETHERNET_HEADER_LEN, VLAN_TAG_LEN, ethertype};

/// Where a worker's frames come from. Both hand them over, and take them, behind a `virtio_net_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// A TAP is read, one frame at a time.
    Tap,
    /// A packet socket is received from: the frame's VLAN tag comes beside it.
    Packet,
}

/// The port.
#[derive(Debug)]
pub enum Port {
    /// A TAP of the gateway's own, for a bridge.
    Tap(Tap),
    /// A whole interface, through packet sockets.
    Packet(PacketPort),
}

impl Port {
    /// What it is to a worker.
    pub fn kind(&self) -> PortKind {
        match self {
            Port::Tap(_) => PortKind::Tap,
            Port::Packet(_) => PortKind::Packet,
        }
    }

    /// The interface's name.
    pub fn name(&self) -> String {
        match self {
            Port::Tap(tap) => tap.name(),
            Port::Packet(packet) => packet.name(),
        }
    }

    /// The interface's own MAC address; `None` for one that has never been there.
    pub fn mac(&self) -> Option<MacAddr> {
        match self {
            Port::Tap(tap) => Some(tap.mac()),
            Port::Packet(packet) => packet.mac(),
        }
    }

    /// One descriptor per worker.
    pub fn queues(&self) -> &[OwnedFd] {
        match self {
            Port::Tap(tap) => tap.queues(),
            Port::Packet(packet) => packet.queues(),
        }
    }

    /// The MTU as it is now; `None` if the interface is gone.
    pub fn mtu(&self) -> Option<usize> {
        match self {
            Port::Tap(tap) => tap.mtu().ok(),
            Port::Packet(packet) => packet.mtu().ok(),
        }
    }

    /// False if somebody has set the interface down, or deleted it.
    pub fn is_up(&self) -> bool {
        match self {
            Port::Tap(tap) => tap.is_up(),
            Port::Packet(packet) => packet.is_up(),
        }
    }

    /// Frames for us that the kernel has dropped since the last call, as far as it tells.
    pub fn kernel_drops(&self) -> u64 {
        match self {
            Port::Tap(tap) => tap.kernel_drops(),
            Port::Packet(packet) => packet.kernel_drops(),
        }
    }

    /// The bridge that it is a port of.
    pub fn bridge(&self) -> Option<String> {
        match self {
            Port::Tap(tap) => tap.bridge(),
            Port::Packet(_) => None,
        }
    }
}

/// Writes one frame, which begins with its virtio_net_hdr, to a queue: what the control thread injects.
pub fn write_frame(queue: BorrowedFd<'_>, frame: &[u8]) -> io::Result<()> {
    nix::unistd::write(queue, frame).map(drop).map_err(io::Error::from)
}

/// How a frame ended that a write to a port refused: `tun_get_user()` in drivers/net/tun.c, `packet_snd()` in
/// net/packet/af_packet.c.
pub fn refusal(errno: i32) -> Ending {
    match errno {
        // A TAP that is down; one that is gone; an interface that is down; one that is gone.
        libc::EIO | libc::EBADFD | libc::ENETDOWN | libc::ENXIO => Ending::PortDown,
        libc::EMSGSIZE => Ending::PortTooBig,
        libc::ENOBUFS | libc::EAGAIN => Ending::PortQueueFull,
        _ => Ending::PortRefused,
    }
}

/// The port's MTU, which may change at any time: the control thread looks, and workers read what it has seen.
#[derive(Debug, Default)]
pub struct PortMtu(AtomicUsize);

impl PortMtu {
    /// `None` if it is not known, and nothing is too large.
    pub fn set(&self, mtu: Option<usize>) {
        self.0.store(mtu.unwrap_or(0), Relaxed);
    }

    /// As it is now.
    pub fn largest(&self) -> LargestFrame {
        match self.0.load(Relaxed) {
            0 => LargestFrame(usize::MAX),
            mtu => LargestFrame(mtu + ETHERNET_HEADER_LEN + VLAN_TAG_LEN),
        }
    }
}

/// What may be written to the port. A TAP takes frames of any length, and its bridge then drops those that are larger than
/// the port behind it carries (`is_skb_forwardable()` in net/core/dev.c) without a word, but for super-frames, whose
/// segments it does not look at. The rule here is the same, with the port's own MTU, and for segments too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargestFrame(usize);

impl LargestFrame {
    /// True if a frame that begins so and has `len` octets may be written, or cut so from a super-frame. Its outer tag does
    /// not count: the kernel takes it out of the frame first.
    pub fn holds(self, headers: &[u8], len: usize) -> bool {
        len <= self.0 || (len <= self.0.saturating_add(VLAN_TAG_LEN) && is_tagged(headers))
    }
}

fn is_tagged(frame: &[u8]) -> bool {
    const TYPE: usize = 12;
    let kind = frame.get(TYPE..TYPE + 2).and_then(|octets| octets.try_into().ok()).map(u16::from_be_bytes);
    kind.is_some_and(|kind| matches!(kind, ethertype::VLAN | ethertype::SERVICE_VLAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_may_have_the_mtu_a_header_and_tags() {
        let mtu = PortMtu::default();
        let (mut plain, mut tagged) = ([0; 60], [0; 60]);
        plain[12..14].copy_from_slice(&[8, 0]);
        assert!(mtu.largest().holds(&plain, 65_553), "it is not known yet");
        for (kind, at_most) in [([0x81, 0], 1522), ([0x88, 0xa8], 1522), ([0x86, 0xdd], 1518)] {
            mtu.set(Some(1500));
            tagged[12..14].copy_from_slice(&kind);
            assert!(mtu.largest().holds(&plain, 1518) && !mtu.largest().holds(&plain, 1519));
            assert!(mtu.largest().holds(&tagged, at_most) && !mtu.largest().holds(&tagged, at_most + 1), "{kind:x?}");
            assert!(!mtu.largest().holds(&[], 1519));
            mtu.set(Some(9000));
            assert!(mtu.largest().holds(&plain, 9018) && !mtu.largest().holds(&plain, 9019));
        }
    }
}
