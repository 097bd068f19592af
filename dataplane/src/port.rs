//! The gateway's port: what it is, and what the rest of the gateway asks of it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::addr::MacAddr;
use crate::ending::Ending;
use crate::offloads::Offloads;
use crate::packet::{PacketError, PacketPort};
use crate::tap::Tap;

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

    /// The interface's own MAC address.
    pub fn mac(&self) -> MacAddr {
        match self {
            Port::Tap(tap) => tap.mac(),
            Port::Packet(packet) => packet.mac(),
        }
    }

    /// What may be written. A packet socket takes what its kernel knows, whatever the card can do: what the card cannot is
    /// done before (`validate_xmit_skb()` in net/core/dev.c). A kernel without UDP super-frames says so at the first.
    pub fn offloads(&self) -> Offloads {
        match self {
            Port::Tap(tap) => tap.offloads(),
            Port::Packet(_) => Offloads::ALL,
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

    /// An error if the interface is gone for good and no worker would notice: a deleted TAP ends its workers by itself.
    pub fn check(&self) -> Result<(), PacketError> {
        match self {
            Port::Tap(_) => Ok(()),
            Port::Packet(packet) => packet.check(),
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
        // A TAP that is down; an interface that is down; one that is gone.
        libc::EIO | libc::ENETDOWN | libc::ENXIO => Ending::PortDown,
        libc::EMSGSIZE => Ending::PortTooBig,
        libc::ENOBUFS | libc::EAGAIN => Ending::PortQueueFull,
        _ => Ending::PortRefused,
    }
}
