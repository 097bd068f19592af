//! What a worker may write to the port.

/// UDP super-frames at the port. TCP super-frames can always be written, whatever the port hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// The port takes UDP super-frames (Linux 6.2). Without it, those of a peer are written as the datagrams that they hold.
    pub uso: bool,
    /// Datagrams of one flow that arrive together are merged into UDP super-frames; takes `uso`.
    pub udp_merge: bool,
}

impl Offloads {
    /// All of them.
    pub const ALL: Offloads = Offloads { uso: true, udp_merge: true };
    /// What a kernel older than 6.2 has.
    pub const WITHOUT_USO: Offloads = Offloads { uso: false, udp_merge: false };
}
