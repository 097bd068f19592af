//! Time of each workload. See ../README.md.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use ipop_benches::{BESIDE_A_WRITER, CONTROL_THREAD, FRAME_PATH, SEALED};

const WARM_UP: Duration = Duration::from_millis(300);
const MEASUREMENT: Duration = Duration::from_secs(1);
const SAMPLES: usize = 50;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(WARM_UP)
        .measurement_time(MEASUREMENT)
        .sample_size(SAMPLES)
        .configure_from_args();
    for (group, workloads) in [
        ("frame path", FRAME_PATH),
        ("sealed", SEALED),
        ("beside a writer", BESIDE_A_WRITER),
        ("control thread", CONTROL_THREAD),
    ] {
        let mut group = criterion.benchmark_group(group);
        for workload in workloads {
            group.throughput(Throughput::Elements(workload.elements));
            group.bench_function(workload.name, |bencher| {
                let mut run = (workload.build)();
                bencher.iter(|| black_box(run()));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
