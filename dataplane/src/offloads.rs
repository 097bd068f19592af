//! What a worker may write to the port.

use crate::datagram::segment::MAX_DATAGRAMS;

/// UDP super-frames at the port. TCP super-frames can always be written, whatever the port hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// The port takes UDP super-frames (Linux 6.2). Without it, those of a peer are written as the datagrams that they hold.
    pub uso: bool,
    /// Datagrams that such a super-frame may have: `UDP_MAX_SEGMENTS`, 64 before Linux 6.9.
    pub max_datagrams: usize,
    /// Datagrams of one flow that arrive together are merged into UDP super-frames; takes `uso`.
    pub udp_merge: bool,
    /// They have been seen to pass, so one that is refused is no reason to do without.
    pub uso_proven: bool,
}

impl Offloads {
    /// All of them.
    pub const ALL: Offloads = Offloads { uso: true, max_datagrams: MAX_DATAGRAMS, udp_merge: true, uso_proven: true };
    /// What a kernel older than 6.2 has.
    pub const WITHOUT_USO: Offloads = Offloads { uso: false, udp_merge: false, ..Offloads::ALL };
}
