//! Flows leave from several UDP ports, so that routers, network cards and the peer's kernel can spread them.
//!
//! ```text
//!            / 5800  \
//!   c0 -- gw-a 40001 ==== underlay ==== 5800 gw-b -- c1
//!            \ 40002 /
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use ipop_lab::traffic::{datagrams, exchange};
use ipop_lab::{Family, Lab, RawPort, UPLINK};
use libtest_mimic::Failed;

use crate::Test;
use crate::support::{Outcome, Segment, THERE, THERE_V6, ensure};

pub(crate) const TESTS: &[Test] = &[
    Test::new("several_source_ports_carry_flows_of_one_peer", sealed),
    Test::new("several_source_ports_in_clear_text", clear_text),
    Test::new("several_source_ports_over_ipv6", over_ipv6),
];

const MIB: usize = 1 << 20;

fn sealed() -> Outcome {
    carry(Family::V4, true)
}

fn clear_text() -> Outcome {
    carry(Family::V4, false)
}

fn over_ipv6() -> Outcome {
    carry(Family::V6, true)
}

fn carry(family: Family, sec: bool) -> Outcome {
    let segment = Segment::start_with(&Lab::builder().family(family), |_, config| {
        config["sec"] = sec.into();
        config["workers"] = 2.into();
        config["source_ports"] = 3.into();
    })?;
    let (c0, c1) = segment.pair()?;
    let mut uplink = RawPort::open(segment.lab.gateway(1).netns(), UPLINK)?;
    exchange(&c0, &c1, THERE, 12, MIB)?;
    exchange(&c0, &c1, THERE_V6, 4, MIB)?;
    datagrams(&c0, &c1, THERE)?;

    let status = segment.daemons[0].status("status")?;
    let own = ports(&status["workers"]);
    ensure(own.len() == 1 + 2 * 2, || format!("one port to be reached at, two others a worker: {own:?}"))?;
    let text = segment.daemons[0].query("status", false).run()?;
    ensure(text.contains("; sends from "), || text)?;
    let used = used(&mut uplink, family, 5800)?;
    ensure(used.is_subset(&own) && used.len() >= 3, || format!("{used:?} were used of {own:?}"))?;
    // None of them is taken for a new address of the peer.
    for (gateway, name) in [(0, "gw-b"), (1, "gw-a")] {
        let peer = segment.peer(gateway, name)?;
        let address = segment.lab.gateway(1 - gateway).endpoint().to_string();
        ensure(peer["address"] == address && peer["ups"] == 1, || peer.to_string())?;
        for drop in ["source_address", "datagram_type", "not_authentic", "send_unreachable", "send_slots"] {
            let count = segment.counter(gateway, &format!("/drops/{drop}"))?;
            ensure(count == 0, || format!("{name}: {drop} {count}"))?;
        }
    }
    Ok(())
}

fn ports(workers: &serde_json::Value) -> BTreeSet<u64> {
    let workers = workers.as_array().into_iter().flatten();
    workers
        .flat_map(|worker| worker["ports"].as_array().into_iter().flatten())
        .filter_map(|port| port.as_u64())
        .collect()
}

/// The ports that datagrams for `to` left from, as far as they were captured.
fn used(uplink: &mut RawPort, family: Family, to: u16) -> Result<BTreeSet<u64>, Failed> {
    let udp = match family {
        Family::V4 => 14 + 20,
        Family::V6 => 14 + 40,
    };
    let mut used = BTreeSet::new();
    for frame in uplink.capture(Duration::from_millis(200))? {
        if let Some([from_high, from_low, to_high, to_low]) = frame.get(udp..udp + 4)
            && u16::from_be_bytes([*to_high, *to_low]) == to
            && frame[udp - if family == Family::V4 { 11 } else { 34 }] == 17
        {
            used.insert(u16::from_be_bytes([*from_high, *from_low]).into());
        }
    }
    Ok(used)
}
