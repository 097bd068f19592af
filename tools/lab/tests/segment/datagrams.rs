//! UDP as programs send it that have much to send: datagrams in bursts, and super-frames of them (`UDP_SEGMENT`).
//!
//! ```text
//!   c0 -- gw-a: super-frames from the TAP, cut into slices ==== gw-b: joined and merged, one write each -- c1
//! ```
//!
//! Whatever happens on the way, the program at the other end receives the same datagrams.

use ipop_lab::traffic::{BURST, transfer};
use ipop_lab::{Container, Lab};
use libtest_mimic::Failed;

use crate::Test;
use crate::support::{Outcome, Segment, THERE, THERE_V6, ensure};

pub(crate) const TESTS: &[Test] = &[
    Test::new("datagrams_in_bursts_arrive_as_they_were", bursts),
    Test::new("udp_super_frames_arrive_as_their_datagrams", super_frames),
    Test::with("checksums_of_merged_datagrams_are_right", &["ethtool"], without_offloads),
];

fn bursts() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let (c0, c1) = segment.pair()?;
    segment.wait_full_path(1500)?;
    for address in [THERE, THERE_V6] {
        for size in [1, 64, 1000, 1360] {
            let writes = many(&segment, &c0, &c1, address, size, None)?;
            ensure(writes < 40 * BURST as u64, || format!("{address}: nothing of {size} octets was merged"))?;
        }
        // Not merged: with their headers they do not fit the path, and travel in pieces.
        many(&segment, &c0, &c1, address, 1452, None)?;
    }
    Ok(())
}

fn super_frames() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let (c0, c1) = segment.pair()?;
    segment.wait_full_path(1500)?;
    for address in [THERE, THERE_V6] {
        // One that does not fit the path, too.
        for size in [64, 700, 1400, 1452] {
            let sent = segment.sent_to(0, "gw-b")?;
            many(&segment, &c0, &c1, address, size, Some(size as i32))?;
            let frames = segment.sent_to(0, "gw-b")? - sent;
            ensure(frames < 20 * BURST as u64, || {
                format!("{address}: the TAP handed over {frames} frames for datagrams of {size} octets")
            })?;
        }
    }
    let drops = segment.daemons[0].status("status")?["drops"].clone();
    ensure(drops["frame_metadata"] == 0, || format!("gw-a dropped {drops}"))
}

/// Without offloads c0's kernel finishes every checksum and cuts every super-frame, and c1's verifies every checksum.
fn without_offloads() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let (c0, c1) = segment.pair()?;
    segment.wait_full_path(1500)?;
    c0.run(["ethtool", "-K", "eth0", "tx", "off"])?;
    c1.run(["ethtool", "-K", "eth0", "rx", "off"])?;
    for address in [THERE, THERE_V6] {
        for (size, gso) in [(64, None), (1000, Some(1000))] {
            let writes = many(&segment, &c0, &c1, address, size, gso)?;
            ensure(writes < 40 * BURST as u64, || format!("{address}: nothing of {size} octets was merged"))?;
        }
    }
    Ok(())
}

/// Sends bursts of numbered datagrams and compares what arrives; how many frames gw-b wrote to its TAP for them.
fn many(
    segment: &Segment,
    here: &Container,
    there: &Container,
    address: &str,
    size: usize,
    gso: Option<i32>,
) -> Result<u64, Failed> {
    let mut port = segment.tap(1)?;
    transfer(here, there, address, size, gso)?;
    let mut writes = 0;
    while let Some(frame) = port.recv(std::time::Duration::from_millis(50))? {
        writes += u64::from(frame.len() > size);
    }
    Ok(writes)
}
