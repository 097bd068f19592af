//! Instructions of each workload, counted by Valgrind. See ../README.md.
// The attribute makes modules and functions that nobody documents.
#![allow(missing_docs, unreachable_pub)]

use std::hint::black_box;

use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use ipop_benches::{Run, built};

/// Has the C library copy memory in its plain way. Which of its ways it takes else depends on the processor (Valgrind shows
/// one of a few, after the one that is there), and which instructions that takes on how things are aligned. Names that a
/// C library does not know are ignored.
const PLAIN_COPY: &str = "glibc.cpu.hwcaps=-AVX512VL,-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-SSSE3,-SSE4_2";

fn configuration() -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    // Caches are not simulated: that takes time, and only instructions are compared.
    config.tool(Callgrind::with_args(["--cache-sim=no"])).env("GLIBC_TUNABLES", PLAIN_COPY);
    config
}

/// Leaked, so that neither moving nor dropping it is counted.
fn workload(name: &str) -> &'static mut Run {
    Box::leak(Box::new(built(name)))
}

// One line for each workload; `tests/allocations.rs` makes sure that none is missing.
#[library_benchmark(setup = workload)]
#[bench::parse_tcp("parse_tcp")]
#[bench::parse_udp("parse_udp")]
#[bench::parse_arp("parse_arp")]
#[bench::mac_lookup_10("mac_lookup_10")]
#[bench::mac_lookup_10k("mac_lookup_10k")]
#[bench::mac_lookup_1m("mac_lookup_1m")]
#[bench::mac_miss_10k("mac_miss_10k")]
#[bench::mac_refresh_10k("mac_refresh_10k")]
#[bench::learn_at_worker("learn_at_worker")]
#[bench::learn_at_writer("learn_at_writer")]
#[bench::forward_from_port("forward_from_port")]
#[bench::forward_from_peer("forward_from_peer")]
#[bench::cut_64k_mtu1500("cut_64k_mtu1500")]
#[bench::cut_64k_mtu9000("cut_64k_mtu9000")]
#[bench::cut_verified("cut_verified")]
#[bench::join_64k_mtu1500("join_64k_mtu1500")]
#[bench::join_64k_mtu9000("join_64k_mtu9000")]
#[bench::datagram_open("datagram_open")]
#[bench::walk_small_frames("walk_small_frames")]
#[bench::walk_big_frame("walk_big_frame")]
#[bench::reassemble_9000("reassemble_9000")]
#[bench::finish_dhcp_checksum("finish_dhcp_checksum")]
#[bench::rpc_encode_arp_request("rpc_encode_arp_request")]
#[bench::rpc_decode_arp_request("rpc_decode_arp_request")]
#[bench::rpc_encode_arp_reply("rpc_encode_arp_reply")]
#[bench::rpc_decode_arp_reply("rpc_decode_arp_reply")]
fn instructions(run: &mut Run) -> u64 {
    black_box(run())
}

library_benchmark_group!(name = frame_path, benchmarks = instructions);
main!(config = configuration(), library_benchmark_groups = frame_path);
