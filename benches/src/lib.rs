//! Workloads: each is one piece of what a frame meets in a gateway, built so that it always does the same.
//!
//! Two runners share them, `benches/frame_path.rs` (time) and `benches/instruction_counts.rs` (instructions), and so does a
//! test (allocations, `tests/allocations.rs`). A workload calls the functions that the workers and the control thread
//! call, in the order in which these call them; rings, sockets and devices are left out. Numbers in parentheses are the
//! steps of ARCHITECTURE.md.

pub mod allocations;
pub mod baseline;
mod datagrams;
mod frames;
mod macs;
mod parse;
mod rpc;
mod super_frames;

use ipop_dataplane::session::Cipher;

pub use frames::{LOCAL, REMOTE, arp_request, plain, tcp, udp};
pub use super_frames::{ETHERNET_DATAGRAM, JUMBO_DATAGRAM};

/// One run of a workload. What it returns depends on all that was computed, so that nothing is optimised away.
pub type Run = Box<dyn FnMut() -> u64>;

/// Frames, look-ups or datagrams in one run of most workloads: enough that the call itself does not count.
pub const BATCH: usize = 64;

/// A piece of work with a name.
pub struct Workload {
    /// Its name in every report.
    pub name: &'static str,
    /// What one run does this many times.
    pub elements: u64,
    /// Makes everything that it needs.
    pub build: fn() -> Run,
}

const fn batch(name: &'static str, build: fn() -> Run) -> Workload {
    Workload { name, elements: BATCH as u64, build }
}

const fn single(name: &'static str, build: fn() -> Run) -> Workload {
    Workload { name, elements: 1, build }
}

/// What is done for frames and datagrams: allocates nothing.
pub const FRAME_PATH: &[Workload] = &[
    batch("parse_tcp", parse::tcp),
    batch("parse_udp", parse::udp),
    batch("parse_arp", parse::arp),
    batch("mac_lookup_10", || macs::lookup(macs::FEW)),
    batch("mac_lookup_10k", || macs::lookup(macs::MANY)),
    batch("mac_lookup_1m", || macs::lookup(macs::HUGE)),
    batch("mac_miss_10k", || macs::miss(macs::MANY)),
    batch("mac_refresh_10k", || macs::refresh(macs::MANY)),
    batch("learn_at_worker", macs::learn_at_worker),
    batch("learn_at_writer", macs::learn_at_writer),
    batch("forward_from_port", macs::forward_from_port),
    batch("forward_from_peer", macs::forward_from_peer),
    single("cut_64k_mtu1500", || super_frames::cut(super_frames::ETHERNET_DATAGRAM)),
    single("cut_64k_mtu9000", || super_frames::cut(super_frames::JUMBO_DATAGRAM)),
    single("cut_verified", super_frames::cut_verified),
    single("join_64k_mtu1500", || super_frames::join(super_frames::ETHERNET_DATAGRAM)),
    single("join_64k_mtu9000", || super_frames::join(super_frames::JUMBO_DATAGRAM)),
    batch("datagram_open", datagrams::open),
    single("walk_small_frames", datagrams::walk_small),
    batch("walk_big_frame", datagrams::walk_big),
    single("reassemble_9000", datagrams::reassemble),
    single("finish_dhcp_checksum", datagrams::finish_checksum),
];

/// The same where how many instructions it takes depends on the processor, so that only time and allocations are measured.
pub const SEALED: &[Workload] = &[
    single("seal_and_open_aes", || datagrams::seal_and_open(Cipher::Aes256Gcm)),
    single("seal_and_open_chacha", || datagrams::seal_and_open(Cipher::ChaCha20Poly1305)),
];

/// What the control thread does for each question and answer. It may allocate.
pub const CONTROL_THREAD: &[Workload] = &[
    single("rpc_encode_arp_request", rpc::encode_request),
    single("rpc_decode_arp_request", rpc::decode_request),
    single("rpc_encode_arp_reply", rpc::encode_reply),
    single("rpc_decode_arp_reply", rpc::decode_reply),
];

/// Look-ups while another thread changes the table without pause: much more than a control thread ever does. How many
/// instructions they take is chance, so only time and allocations are measured.
pub const BESIDE_A_WRITER: &[Workload] = &[
    batch("mac_lookup_10_beside_a_writer", || macs::lookup_beside_a_writer(macs::FEW)),
    batch("mac_lookup_10k_beside_a_writer", || macs::lookup_beside_a_writer(macs::MANY)),
    batch("mac_lookup_1m_beside_a_writer", || macs::lookup_beside_a_writer(macs::HUGE)),
];

/// Builds the workload of [`FRAME_PATH`] or [`CONTROL_THREAD`] with this name, and runs it once: caches, lazily made state
/// and untouched pages belong to no measurement.
///
/// # Panics
///
/// If there is none.
pub fn built(name: &str) -> Run {
    let workload = FRAME_PATH.iter().chain(CONTROL_THREAD).find(|workload| workload.name == name);
    let mut run = (workload.unwrap_or_else(|| panic!("no workload has the name {name}")).build)();
    run();
    run
}
