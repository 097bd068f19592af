//! Every way a frame or a datagram can end, and the counters of them: one enum, counted by index in one place.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

macro_rules! endings {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $class:ident;)+) => {
        /// How a frame or a datagram ended. Each is counted under one of these. A frame for several peers counts once as
        /// passed, and what becomes of a copy of it counts beside that; so does a send that the kernel refuses later.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Ending { $($(#[doc = $doc])+ $variant,)+ }

        impl Ending {
            /// All of them, in order of their index.
            pub const ALL: &'static [Ending] = &[$(Ending::$variant,)+];

            /// The name in `ipop status`.
            pub fn name(self) -> &'static str {
                match self { $(Ending::$variant => $name,)+ }
            }

            /// One sentence for people.
            pub fn describe(self) -> &'static str {
                match self { $(Ending::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// Whether the frame went on or was dropped, and where.
            pub fn class(self) -> Class {
                match self { $(Ending::$variant => Class::$class,)+ }
            }
        }
    };
}

/// Which list of `ipop status` an [`Ending`] stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The frame went where it should.
    Passed,
    /// Something was dropped, for the reason that the ending names.
    Dropped,
}

endings! {
    /// From the port to the one peer that owns the destination.
    ToPeer = "to_peer", Passed;
    /// Broadcast or multicast from the port to every peer.
    ToAllPeers = "to_all_peers", Passed;
    /// Unknown unicast from the port to every peer.
    Flooded = "flooded", Passed;
    /// ARP or neighbour discovery from the port, taken by the control thread.
    ToControl = "to_control", Passed;
    /// From a peer to the port.
    Delivered = "delivered", Passed;
    /// From a peer, with a source that is on this side: kept by the control thread until it is settled who has the MAC, and
    /// then counted again, as delivered or as source_is_local.
    Held = "held", Passed;

    /// Port: the frame or its virtio_net_hdr is cut short.
    FrameTruncated = "frame_truncated", Dropped;
    /// Port: checksum or super-frame metadata contradicts the frame.
    FrameMetadata = "frame_metadata", Dropped;
    /// Port: a kind of super-frame that packet sockets of this kernel cannot describe: of UDP before Linux 6.2, of SCTP.
    SuperFrameUnknown = "super_frame_unknown", Dropped;
    /// Source address is a group address or zero.
    BadSource = "bad_source", Dropped;
    /// MAC control, such as a pause frame, which means one cable.
    MacControl = "mac_control", Dropped;
    /// Destination 01:80:c2:00:00:0x, which bridges do not forward unless they are told to.
    BridgeReserved = "bridge_reserved", Dropped;
    /// Port: a datagram of this gateway's own links, which would go round: the route to a peer leads through the overlay, or a
    /// bridge that the uplink is in too has flooded it.
    OwnDatagram = "own_datagram", Dropped;
    /// Port: the destination is on this side; the bridge delivers it.
    StaysLocal = "stays_local", Dropped;
    /// Port: no peer is up.
    NoPeer = "no_peer", Dropped;
    /// Port: the peer that owns the destination is down.
    PeerDown = "peer_down", Dropped;
    /// Port: the session with the peer has no counters left and waits for new keys.
    SessionExhausted = "session_exhausted", Dropped;
    /// Port: more unknown unicast than the flood rate allows.
    FloodRate = "flood_rate", Dropped;
    /// Port: the frame is larger than fragments can carry.
    FrameOversize = "frame_oversize", Dropped;
    /// The queue to the control thread is full.
    ControlQueueFull = "control_queue_full", Dropped;
    /// Every send slot is in flight.
    SendSlots = "send_slots", Dropped;
    /// The kernel refused the datagram: larger than the path carries (EMSGSIZE).
    SendTooBig = "send_too_big", Dropped;
    /// The kernel's send queue is full (EAGAIN, ENOBUFS).
    SendQueueFull = "send_queue_full", Dropped;
    /// The kernel knows no way to the peer (ENETUNREACH, EHOSTUNREACH and others).
    SendUnreachable = "send_unreachable", Dropped;

    /// Peer: the datagram is shorter than its header.
    DatagramTruncated = "datagram_truncated", Dropped;
    /// Peer: another version of the datagram format.
    DatagramVersion = "datagram_version", Dropped;
    /// Peer: a datagram type that this version does not know.
    DatagramType = "datagram_type", Dropped;
    /// Peer: another network's identifier.
    DatagramNetwork = "datagram_network", Dropped;
    /// Peer: the receiver index is not one of ours (a peer that has not noticed our restart, or a stranger).
    SessionUnknown = "session_unknown", Dropped;
    /// Peer: a lane that no gateway has.
    LaneUnknown = "lane_unknown", Dropped;
    /// Peer: a datagram in clear text did not come from the peer's address.
    SourceAddress = "source_address", Dropped;
    /// Peer: the datagram was not sealed with the key of the session, or was changed on the way.
    NotAuthentic = "not_authentic", Dropped;
    /// Peer: the datagram or the piece of a frame was seen before, or is older than the window.
    Replayed = "replayed", Dropped;
    /// Peer: a record is cut short or longer than the datagram.
    RecordMalformed = "record_malformed", Dropped;
    /// Peer: a record type that this version does not know.
    RecordType = "record_type", Dropped;
    /// Peer: the frame in a record is cut short or contradicts its metadata.
    RecordFrame = "record_frame", Dropped;
    /// Peer: an unfinished checksum that stands where no guest leaves one.
    ChecksumPlace = "checksum_place", Dropped;
    /// Peer: a slice of a super-frame whose headers are not those of a TCP segment or UDP datagram, that has no whole datagrams, or that
    /// asks for what no kernel does.
    SegmentMalformed = "segment_malformed", Dropped;
    /// Peer: a router has marked the datagram as congested, and the frame in it cannot carry the mark (RFC 6040, section 4.2).
    CongestionUnmarked = "congestion_unmarked", Dropped;
    /// Peer: the source address is on this side.
    SourceIsLocal = "source_is_local", Dropped;
    /// Peer: the source address is not in the peer's "allowed_macs".
    MacNotAllowed = "mac_not_allowed", Dropped;
    /// Peer: ARP or neighbour discovery in the name of an address that is not in the peer's "allowed_ips".
    IpNotAllowed = "ip_not_allowed", Dropped;
    /// Peer: fragments of one frame overlap or disagree.
    FragmentMalformed = "fragment_malformed", Dropped;
    /// Peer: the other fragments of the frame did not come in time.
    FragmentTimeout = "fragment_timeout", Dropped;
    /// Peer: given up for a newer frame because the table of unfinished frames is full.
    FragmentEvicted = "fragment_evicted", Dropped;
    /// Port: the kernel dropped it before it was read, because the queue of the TAP, or the packet socket's buffer, was full.
    PortKernelDrops = "port_kernel_drops", Dropped;
    /// Peers: the kernel dropped the datagram before it was read, because the UDP socket's buffer was full.
    UnderlayKernelDrops = "underlay_kernel_drops", Dropped;
    /// The port does not take the frame because it is down (EIO, ENETDOWN, ENXIO).
    PortDown = "port_down", Dropped;
    /// The frame, or a segment of the super-frame, is larger than the MTU of the port.
    PortTooBig = "port_too_big", Dropped;
    /// The port's send queue is full (ENOBUFS, EAGAIN).
    PortQueueFull = "port_queue_full", Dropped;
    /// The kernel refused the frame at the port.
    PortRefused = "port_refused", Dropped;
    /// Every write slot is in flight.
    WriteSlots = "write_slots", Dropped;
    /// Reading from the port failed. Nothing is known to be lost, but while it lasts nothing comes.
    PortReadFailed = "port_read_failed", Dropped;
    /// Receiving from peers failed. Nothing is known to be lost, but while it lasts nothing comes.
    ReceiveFailed = "receive_failed", Dropped;
    /// Port: malformed ARP.
    ArpMalformed = "arp_malformed", Dropped;
    /// Port: malformed neighbour discovery.
    NdMalformed = "nd_malformed", Dropped;
    /// A handshake that crosses one of ours, as when both gateways begin at once: one of the two is dropped, which is as it
    /// should be.
    HandshakeCrossed = "handshake_crossed", Dropped;
    /// The answer to a handshake that has been begun anew meanwhile, as on a busy machine, or an answer that came twice.
    HandshakeLate = "handshake_late", Dropped;
    /// A handshake datagram that is no legal handshake, is from a stranger or was seen before.
    HandshakeRefused = "handshake_refused", Dropped;
    /// A handshake datagram whose stamp does not show that it was meant for this gateway.
    HandshakeStamp = "handshake_stamp", Dropped;
    /// More handshake datagrams than there can be a reason for.
    HandshakeRate = "handshake_rate", Dropped;
    /// A JSON message from a peer that is malformed or unknown.
    RpcRefused = "rpc_refused", Dropped;
    /// A JSON message from a peer beyond its rate.
    RpcRate = "rpc_rate", Dropped;
}

/// Counters of one thread. Only that thread writes; others may read at any time.
#[derive(Debug)]
pub struct Counters {
    counts: CachePadded<Box<[AtomicU64]>>,
}

impl Default for Counters {
    fn default() -> Self {
        Counters { counts: CachePadded::new(Ending::ALL.iter().map(|_| AtomicU64::new(0)).collect()) }
    }
}

impl Counters {
    /// Counts `n` endings of one kind. One writer only, so a load and a store, no locked instruction.
    pub fn add(&self, ending: Ending, n: u64) {
        bump(&self.counts[ending as usize], n);
    }

    /// How many ended so.
    pub fn get(&self, ending: Ending) -> u64 {
        self.counts[ending as usize].load(Relaxed)
    }
}

/// Adds to a counter that has one writer.
pub fn bump(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// What one worker exchanged with one peer.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Frames from the peer that were written to the port; super-frames count once.
    pub rx_frames: AtomicU64,
    /// Their octets.
    pub rx_bytes: AtomicU64,
    /// Valid datagrams from the peer: the sign of life that the control thread looks at.
    pub rx_datagrams: AtomicU64,
    /// Frames sent to the peer; super-frames count once.
    pub tx_frames: AtomicU64,
    /// Their octets.
    pub tx_bytes: AtomicU64,
    /// Datagrams sent to the peer.
    pub tx_datagrams: AtomicU64,
    /// What is known of zero-copy sends to it: a [`crate::worker::ZeroCopyPath`] as one word.
    pub zero_copy: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_indexes_in_order() {
        let names: HashSet<_> = Ending::ALL.iter().map(|e| e.name()).collect();
        assert_eq!(names.len(), Ending::ALL.len());
        assert!(Ending::ALL.iter().enumerate().all(|(i, e)| *e as usize == i));
    }

    #[test]
    fn counts_by_index() {
        let counters = Counters::default();
        counters.add(Ending::FloodRate, 3);
        counters.add(Ending::FloodRate, 1);
        assert_eq!(counters.get(Ending::FloodRate), 4);
        assert_eq!(counters.get(Ending::ToPeer), 0);
    }
}
