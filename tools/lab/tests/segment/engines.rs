//! Whatever the kernel does not do for the gateway, it carries the same; and it says what it does without.
//!
//! ```text
//!   c0 -- gw-a [system calls] ==== underlay ==== [io_uring] gw-b -- c1
//! ```

use ipop_lab::traffic::{datagrams, exchange};
use ipop_lab::{Lab, interrupt};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::Test;
use crate::support::{HERE, HERE_V6, Outcome, SOON, Segment, THERE, THERE_V6, ensure};

pub(crate) const TESTS: &[Test] = &[
    Test::new("system_calls_and_io_uring_understand_each_other", mixed_engines),
    Test::new("everything_switched_off_on_both_sides", both_sides_off),
    Test::new("everything_switched_off_on_one_side", one_side_off),
    Test::new("each_offload_is_switched_off_alone", one_by_one),
    Test::new("several_workers_on_system_calls", several_workers),
    Test::new("zero_copy_is_off_where_the_kernel_copies", copied),
    Test::new("a_port_goes_down_and_up_under_system_calls", port_down),
];

const MIB: usize = 1 << 20;
const OFFLOADS: [&str; 6] = ["tso", "uso", "udp_merge", "udp_gso", "udp_gro", "zero_copy"];
const IN_CONFIG: &str = "switched off in the config";

fn all_off(config: &mut Value) {
    config["offloads"] =
        OFFLOADS.iter().map(|name| ((*name).to_owned(), json!(false))).collect::<serde_json::Map<_, _>>().into();
}

/// Pings at full size, streams both ways at once, datagrams that must be cut.
fn carries(segment: &Segment) -> Outcome {
    let (c0, c1) = segment.pair()?;
    segment.wait_full_path(1500)?;
    for (container, target, size) in
        [(&c0, THERE, "1472"), (&c1, HERE, "1472"), (&c0, THERE_V6, "1452"), (&c1, HERE_V6, "56")]
    {
        let ping = container.run(["ping", "-n", "-c3", "-i0.1", "-W2", "-M", "do", "-s", size, target])?;
        ensure(ping.contains(" 0% packet loss"), || format!("{target}: {ping}"))?;
    }
    for target in [THERE, THERE_V6] {
        exchange(&c0, &c1, target, 2, 8 * MIB)?;
        datagrams(&c0, &c1, target)?;
    }
    for gateway in 0..2 {
        let status = segment.daemons[gateway].status("status")?;
        for drop in ["send_too_big", "send_slots", "write_slots", "port_refused", "send_unreachable"] {
            ensure(status["drops"][drop] == 0, || format!("gateway {gateway}: {}", status["drops"]))?;
        }
    }
    Ok(())
}

fn mixed_engines() -> Outcome {
    // Required on one side, forbidden on the other.
    let segment = Segment::start_with(&Lab::builder(), |index, config| config["io_uring"] = (index == 1).into())?;
    let worker = |gateway: usize| -> Result<Value, Failed> {
        Ok(segment.daemons[gateway].status("status")?["workers"][0].clone())
    };
    let (a, b) = (worker(0)?, worker(1)?);
    ensure(a["engine"] == "system calls" && a["no_io_uring"] == IN_CONFIG, || a.to_string())?;
    ensure(b["engine"] == "io_uring" && b["no_io_uring"].is_null(), || b.to_string())?;
    let features = b["features"].as_array().map_or(&[][..], Vec::as_slice);
    ensure(features.iter().any(|one| one["name"] == "multishot_read" && one["on"] == true), || b.to_string())?;
    let text = segment.daemons[0].query("status", false).run()?;
    ensure(text.contains("1 (any core), system calls (io_uring: switched off in the config)\n"), || text)?;
    let text = segment.daemons[1].query("status", false).run()?;
    ensure(text.contains("1 (any core), io_uring\n"), || text)?;
    carries(&segment)
}

/// What a gateway says of its offloads: name, on or off, why.
fn offloads(segment: &Segment, gateway: usize) -> Result<Vec<(String, bool, Option<String>)>, Failed> {
    let status = segment.daemons[gateway].status("status")?;
    let list = status["offloads"].as_array().ok_or_else(|| format!("no offloads in {status}"))?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(list
        .iter()
        .map(|one| (text(&one["name"]).unwrap_or_default(), one["on"] == true, text(&one["reason"])))
        .collect())
}

fn both_sides_off() -> Outcome {
    let segment = Segment::start_with(&Lab::builder(), |index, config| {
        config["io_uring"] = (index == 1).into();
        all_off(config);
    })?;
    for gateway in 0..2 {
        let expected: Vec<_> = OFFLOADS.map(|name| (name.to_owned(), false, Some(IN_CONFIG.to_owned()))).into();
        let said = offloads(&segment, gateway)?;
        ensure(said == expected, || format!("{said:?}"))?;
        let text = segment.daemons[gateway].query("status", false).run()?;
        ensure(text.contains("tso off (switched off in the config), uso off ("), || text)?;
    }
    carries(&segment)
}

fn one_side_off() -> Outcome {
    let segment = Segment::start_with(&Lab::builder(), |index, config| {
        if index == 0 {
            config["io_uring"] = false.into();
            all_off(config);
        }
    })?;
    // Nothing is switched off here, and this kernel has all of it; the loopback may be down in this namespace.
    let said = offloads(&segment, 1)?;
    ensure(said.iter().all(|(_, on, _)| *on), || format!("{said:?}"))?;
    ensure(said[0] == ("tso".to_owned(), true, None), || format!("{said:?}"))?;
    carries(&segment)
}

fn one_by_one() -> Outcome {
    for name in OFFLOADS {
        let segment = Segment::start_with(&Lab::builder(), |_, config| config["offloads"] = json!({ name: false }))?;
        let said = offloads(&segment, 0)?;
        let off: Vec<_> = said.iter().filter(|(_, on, _)| !on).map(|(name, ..)| name.as_str()).collect();
        let expected = match name {
            // Without trains there is nothing to send so, and without super-frames nothing to merge datagrams into.
            "udp_gso" => &["udp_gso", "zero_copy"][..],
            "uso" => &["uso", "udp_merge"],
            _ => &[name],
        };
        ensure(off == expected, || format!("{name} was switched off: {said:?}"))?;
        let (c0, c1) = segment.pair()?;
        exchange(&c0, &c1, THERE, 1, 8 * MIB).map_err(|error| format!("without {name}: {error:?}"))?;
    }
    Ok(())
}

/// Over a small path slices are copied behind their headers, so a train is in one piece and a trial can be made of it. What it
/// tells is said, and what is sent arrives either way.
fn copied() -> Outcome {
    let segment = Segment::start(&Lab::builder().underlay_mtu(576))?;
    let (c0, c1) = segment.pair()?;
    let zero_copy = || -> Result<String, Failed> {
        Ok(segment.peer(0, "gw-b")?["zero_copy"].as_str().unwrap_or_default().to_owned())
    };
    let before = zero_copy()?;
    ensure(before == "not tried", || before.clone())?;
    exchange(&c0, &c1, THERE, 2, 32 * MIB)?;
    let after = zero_copy()?;
    ensure(after.starts_with("off (the kernel copied, tried ") && after.ends_with(" s ago)"), || after.clone())?;
    let text = segment.daemons[0].query("peers", false).run()?;
    ensure(text.contains("ZERO COPY") && text.contains("off (the kernel copied, tried "), || text)?;
    let refused = segment.counter(0, "/drops/send_too_big")?;
    ensure(refused == 0, || format!("{refused} trains were too big"))
}

fn several_workers() -> Outcome {
    let segment = Segment::start_with(&Lab::builder(), |_, config| {
        config["workers"] = 2.into();
        config["io_uring"] = false.into();
    })?;
    let (c0, c1) = segment.pair()?;
    c0.ping(THERE, 5)?;
    exchange(&c0, &c1, THERE, 4, 4 * MIB)
}

fn port_down() -> Outcome {
    let segment = Segment::start_with(&Lab::builder(), |_, config| config["io_uring"] = false.into())?;
    let (c0, _c1) = segment.pair()?;
    c0.ping(THERE, 1)?;
    let gateway = segment.lab.gateway(0).clone();
    gateway.run(["ip", "link", "set", ipop_lab::TAP, "down"])?;
    ensure(!c0.exec(["ping", "-c1", "-W0.5", THERE])?.success(), || "a ping passes although the port is down".into())?;
    // Nothing comes from it, so nothing may be done for it.
    let ticks = || -> ipop_lab::Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", segment.daemons[0].pid())).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        Ok(fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum())
    };
    let before = ticks()?;
    interrupt::sleep(std::time::Duration::from_secs(1))?;
    let used = ticks()? - before;
    ensure(used < 20, || format!("{used} ticks of processor time in a second without a port"))?;
    gateway.run(["ip", "link", "set", ipop_lab::TAP, "up"])?;
    Ok(interrupt::wait_until("a ping after the port is up", SOON, || {
        Ok(c0.exec(["ping", "-n", "-c1", "-W0.3", THERE])?.success().then_some(()))
    })?)
}
