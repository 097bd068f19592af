//! Large frames over whatever the underlay carries.
//!
//! ```text
//!   c0 --9000-- lxcbr0 9000 -- ipop -- gw-a ==1500 or 9000== gw-b -- ipop -- lxcbr0 9000 --9000-- c1
//! ```

use std::net::SocketAddr;

use ipop_lab::traffic::{Random, exchange};
use ipop_lab::{Container, Lab, udp_socket};

use crate::Test;
use crate::support::{HERE, Outcome, SOON, Segment, THERE, THERE_V6, ensure};

pub(crate) const TESTS: &[Test] = &[
    Test::new("jumbo_frames_over_an_underlay_of_1500", over_1500),
    Test::new("jumbo_frames_over_an_underlay_of_9000", over_9000),
    Test::new("datagrams_of_64_kib_arrive_whole", large_datagrams),
];

/// The largest UDP payload over IPv4.
const LARGEST: usize = 65_507;

fn over_1500() -> Outcome {
    jumbo(1500)
}

fn over_9000() -> Outcome {
    jumbo(9000)
}

fn jumbo(underlay: u32) -> Outcome {
    let segment = Segment::start(&Lab::builder().underlay_mtu(underlay).bridge_mtu(9000))?;
    let start = |gateway, name, addresses: &[&str]| {
        segment.lab.container_builder(gateway, name).addresses(addresses).mtu(9000).start()
    };
    let c0 = start(0, "c0", &["10.0.3.3/24", "fd03::3/64"])?;
    let c1 = start(1, "c1", &["10.0.3.104/24", "fd03::104/64"])?;
    segment.wait_full_path(underlay.into())?;
    // Nobody has set the MTU of the TAP: it is the bridge's.
    let mtu = segment.daemons[0].status("status")?["port"]["mtu"].clone();
    ensure(mtu == 9000, || format!("the TAP has an MTU of {mtu}"))?;
    for (container, target, size) in [(&c0, THERE, "8972"), (&c1, HERE, "8972"), (&c0, THERE_V6, "8952")] {
        container.run(["ping", "-n", "-c5", "-i0.1", "-W2", "-M", "do", "-s", size, target])?;
    }
    datagrams(&c0, &c1, LARGEST)?;
    exchange(&c0, &c1, THERE, 1, 16 << 20)?;
    let dropped = segment.daemons[1].status("status")?["drops"].clone();
    let of_pieces = ["fragment_malformed", "fragment_evicted", "fragment_timeout", "record_malformed"];
    ensure(of_pieces.iter().all(|name| dropped[name] == 0), || format!("gw-b dropped {dropped}"))
}

/// Containers at 1500: every datagram is 45 IP fragments, and nearly every one of them is two pieces.
fn large_datagrams() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let (c0, c1) = segment.pair()?;
    segment.wait_full_path(1500)?;
    for size in [1472, 1473, 9000, 32_768, LARGEST] {
        datagrams(&c0, &c1, size)?;
    }
    Ok(())
}

/// Sends datagrams to and fro, one at a time, each with its own contents.
fn datagrams(c0: &Container, c1: &Container, size: usize) -> Outcome {
    const COUNT: u64 = 10;
    let there = udp_socket(c1.netns(), "0.0.0.0:7001".parse()?, SOON)?;
    let here = udp_socket(c0.netns(), "0.0.0.0:0".parse()?, SOON)?;
    let target: SocketAddr = format!("{THERE}:7001").parse()?;
    let mut buffer = vec![0; 65_536];
    for number in 0..COUNT {
        let mut sent = vec![0; size];
        Random::new(number + 1).fill(&mut sent);
        here.send_to(&sent, target)?;
        let (length, from) =
            there.recv_from(&mut buffer).map_err(|error| format!("datagram {number} of {size} octets: {error}"))?;
        ensure(buffer[..length] == sent, || format!("datagram {number} of {size} octets came changed"))?;
        there.send_to(&buffer[..length], from)?;
        let (length, _) =
            here.recv_from(&mut buffer).map_err(|error| format!("answer {number} of {size} octets: {error}"))?;
        ensure(buffer[..length] == sent, || format!("answer {number} of {size} octets came changed"))?;
    }
    Ok(())
}
