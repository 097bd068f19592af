//! What the port and the gateway leave to each other.

/// Offloads of a port, and what a worker makes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// TCP super-frames are read from the port and written to it.
    pub tso: bool,
    /// UDP super-frames are (Linux 6.2). Without it, those of a peer are written as the datagrams that they hold.
    pub uso: bool,
    /// Datagrams of one flow that arrive together are merged into UDP super-frames; takes `uso`.
    pub udp_merge: bool,
}

impl Offloads {
    /// All of them.
    pub const ALL: Offloads = Offloads { tso: true, uso: true, udp_merge: true };
    /// What a kernel older than 6.2 has.
    pub const WITHOUT_USO: Offloads = Offloads { tso: true, uso: false, udp_merge: false };
}
