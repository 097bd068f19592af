//! The frame path asks for no memory. Whole workers: see `workers.rs`.

use std::collections::BTreeSet;
use std::hint::black_box;

use ipop_benches::allocations::{self, Counting};
use ipop_benches::{BESIDE_A_WRITER, CONTROL_THREAD, FRAME_PATH, SEALED};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Enough to come round in the smaller tables, and to move the replay window far.
const RUNS: usize = 300;

#[test]
fn the_counter_counts() {
    let (boxed, count) = allocations::during(|| Box::new([0_u8; 100]));
    assert_eq!((boxed.len(), count), (100, 1));
    let (_, count) = allocations::during(|| {
        let mut grows = vec![0_u8; 1];
        grows.reserve_exact(10_000);
        grows
    });
    assert_eq!(count, 2, "memory that grows counts");
    let (_, count) = allocations::during(|| std::thread::spawn(|| drop(vec![1; 100])).join());
    let elsewhere = allocations::elsewhere();
    assert!(count > 0 && elsewhere > 0, "a thread is made here, and allocates elsewhere");
    assert_eq!(allocations::during(|| black_box(1 + 1)).1, 0);
}

#[test]
fn the_frame_path_allocates_nothing() {
    for workload in FRAME_PATH.iter().chain(SEALED).chain(BESIDE_A_WRITER) {
        let mut run = (workload.build)();
        // The first datagram of a peer's thread makes its replay window.
        run();
        let work = || (0..RUNS).fold(0, |results, _| results ^ run());
        let (results, count) = allocations::during(work);
        black_box(results);
        assert_eq!(count, 0, "{} allocates", workload.name);
    }
}

/// What fails above is seen to fail: the control thread's work does allocate.
#[test]
fn a_workload_that_allocates_is_seen() {
    for workload in CONTROL_THREAD {
        let mut run = (workload.build)();
        assert!(allocations::during(&mut run).1 > 0, "{}", workload.name);
    }
}

/// The list of instruction counts is written by hand, because each entry becomes a function.
#[test]
fn instructions_are_counted_for_every_workload() {
    let source = include_str!("../benches/instruction_counts.rs");
    let counted: BTreeSet<_> =
        source.lines().filter_map(|line| line.strip_prefix("#[bench::")?.split('(').next()).collect();
    let workloads: BTreeSet<_> = FRAME_PATH.iter().chain(CONTROL_THREAD).map(|workload| workload.name).collect();
    assert_eq!(counted, workloads);
}
