//! What a peer may ask the kernel for, and what is said of what the kernel does.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::kit::{Outcome, SOON, Scene, ensure, ipv4, offload, udp, udp_at, wait_counter};
use crate::stranger::{ECN, FROM, LAST, SEGMENT, Stranger, TO, slice};

fn udp_headers() -> Vec<u8> {
    udp(TO, FROM, [9, 5001], &[0; 300])[..42].to_vec()
}

fn tcp_headers() -> Vec<u8> {
    let mut headers = ipv4(TO, FROM, 6, 20);
    headers.extend([0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    headers
}

/// The frames that carry UDP to port 5001 and end as this payload does.
fn arrives(stranger: &mut Stranger, payload: &[u8]) -> Result<Vec<Vec<u8>>, Failed> {
    let (mut frames, came) = stranger.port.capture_until(SOON, |frame| frame.ends_with(payload))?;
    ensure(came, || format!("{} frames came, and not what was waited for", frames.len()))?;
    frames.retain(|frame| udp_at(frame, 5001).is_some());
    Ok(frames)
}

pub(crate) fn refused() -> Outcome {
    let mut stranger = Stranger::connect(|_| {})?;
    let (udp, tcp) = (udp_headers(), tcp_headers());
    let mut bad = Vec::new();
    // An ECN mark on datagrams; no size; the size that means something else; parts of datagrams; too many of them.
    for (flags, gso_size, len) in [
        (ECN | LAST, 100, 300),
        (ECN | LAST, 300, 300),
        (ECN, 100, 300),
        (LAST, 0, 300),
        (LAST, 0xffff, 300),
        (0, 100, 250),
        (LAST, 1, 129),
        (LAST, 5, 1000),
    ] {
        bad.push((flags, slice(1, 0, gso_size, &udp, &vec![1; len])));
    }
    bad.push((LAST, slice(1, 50, 100, &udp, &[1; 100])));
    // Tiny segments, and none; headers with more behind them, with less, and of nobody.
    for gso_size in [0, 1, 47, 0xffff] {
        bad.push((LAST | ECN, slice(1, 0, gso_size, &tcp, &[1; 300])));
    }
    for headers in [&udp[..41], &[&udp[..], &[0]].concat(), &tcp[..53], &udp[..14], &[]] {
        bad.push((LAST, slice(1, 0, 100, headers, &[1; 300])));
    }
    bad.push((LAST, slice(1, 0, 100, &udp, &[])));
    for (flags, body) in &bad {
        stranger.send(SEGMENT, *flags, body)?;
    }
    wait_counter(&stranger.daemon, "/drops/segment_malformed", bad.len() as u64)?;
    // Every combination of the flags, with sizes and lengths around every border: whatever is taken, the kernel takes too.
    let sizes = [0, 1, 2, 47, 48, 99, 100, 101, 300, 1200, 0x8000, 0xfffe, 0xffff];
    for (headers, flags) in [(&udp, 0), (&tcp, 0)].into_iter().flat_map(|(h, _)| (0..=7).map(move |flags| (h, flags))) {
        for gso_size in sizes {
            for len in [1, 64, 100, 128, 200, 300, 1280] {
                for offset in [0, 100, 65_535 - 1280 - 60] {
                    stranger.send(SEGMENT, flags, &slice(2, offset, gso_size, headers, &vec![2; len]))?;
                }
            }
        }
    }
    // A super-frame is still written as one.
    let good = slice(3, 0, 100, &udp, &[vec![3; 299], b"the end".to_vec()].concat()[6..]);
    stranger.send(SEGMENT, LAST, &good)?;
    let frames = arrives(&mut stranger, b"the end")?;
    let last = frames.last().map_or(0, Vec::len);
    ensure(last == 42 + 300, || format!("the good one came as a frame of {last} octets"))?;
    let drops = stranger.daemon.status("status")?["drops"].clone();
    ensure(drops["port_refused"] == 0, || format!("the kernel refused: {drops}"))?;
    let uso = offload(&stranger.daemon, "uso")?;
    ensure(uso["on"] == true && uso["reason"] == Value::Null, || uso.to_string())
}

/// What is on was tried, or it says why not; and nothing has changed since.
pub(crate) fn shown() -> Outcome {
    let scene = Scene::start(|gateway, config| {
        if gateway == 1 {
            config["offloads"]["uso"] = false.into();
        }
    })?;
    for name in ["tso", "uso", "udp_merge", "udp_gso", "udp_gro"] {
        let state = offload(&scene.daemons[0], name)?;
        ensure(state["on"] == true && state["reason"] == Value::Null, || state.to_string())?;
        ensure(state["changed_s"] == Value::Null, || state.to_string())?;
    }
    // Nobody has sent anything yet that could tell.
    let zero_copy = offload(&scene.daemons[0], "zero_copy")?;
    let reason = zero_copy["reason"].as_str().unwrap_or_default();
    ensure(zero_copy["on"] == true && reason.contains("first large train"), || zero_copy.to_string())?;
    let merge = offload(&scene.daemons[1], "udp_merge")?;
    ensure(merge["on"] == false && merge["reason"] == "takes uso", || merge.to_string())
}
