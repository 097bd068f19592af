//! A gateway whose port is a whole interface (AF_PACKET) instead of a TAP in a bridge.
//!
//! ```text
//!   gw-a                                    gw-b
//!  +-----------------------------+         +-----------------------------+
//!  |  v-c0 (in no bridge)        |         |        lxcbr0               |
//!  |   |   [ipop run, AF_PACKET]-+---UDP---+-[ipop run]---ipop     |     |
//!  +---|-------------------------+         +-----------------------|-----+
//!      c0 10.0.3.3                                   10.0.3.104    c1
//! ```

use std::time::Duration;

use ipop_lab::arp::Mac;
use ipop_lab::gateway::with_interface;
use ipop_lab::topology::Builder;
use ipop_lab::traffic::{datagrams, exchange, transfer};
use ipop_lab::{Container, Daemon, Lab, interrupt};
use libtest_mimic::Failed;
use serde_json::Value;

use crate::Test;
use crate::bulk::transport_sum;
use crate::support::{
    HERE, HERE_V6, Outcome, SOON, Segment, Station, THERE, THERE_V6, ensure, ethernet, numbered, until,
};
use crate::tags;

pub(crate) const TESTS: &[Test] = &[
    Test::new("an_interface_as_port_carries_streams", streams),
    Test::new("an_interface_as_port_carries_udp_super_frames", udp_super_frames),
    Test::new("an_interface_as_port_with_two_workers", two_workers),
    Test::new("an_interface_as_port_carries_tags", carries_tags),
    Test::with("an_interface_as_port_finishes_tagged_frames", &["ethtool"], tagged_offloads),
    Test::with("an_interface_as_port_carries_vlan_interfaces", &["vlan"], vlan_interfaces),
    Test::new("an_interface_as_port_goes_down_and_up", down_and_up),
    Test::new("an_interface_as_port_refuses_what_is_too_long", too_long),
    Test::new("an_interface_as_port_counts_what_the_kernel_drops", kernel_drops),
    Test::new("an_interface_that_cannot_be_the_port_is_explained", refused),
];

const MIB: usize = 1 << 20;

/// The end of c0's cable on gw-a.
const INTERFACE: &str = "v-c0";

/// Daemons on both gateways, gw-a's with the interface that c0 is behind.
fn start(builder: &Builder, change: impl Fn(usize, &mut Value)) -> Result<(Segment, Container, Container), Failed> {
    start_with(builder, [&["10.0.3.3/24", "fd03::3/64"], &["10.0.3.104/24", "fd03::104/64"]], change)
}

/// The same with containers that say nothing by themselves.
fn start_silent() -> Result<(Segment, Container, Container), Failed> {
    start_with(&Lab::builder().without_inner_ipv6(), [&[], &[]], |_, _| {})
}

fn start_with(
    builder: &Builder,
    addresses: [&[&str]; 2],
    change: impl Fn(usize, &mut Value),
) -> Result<(Segment, Container, Container), Failed> {
    let lab = builder.build()?;
    let c0 = lab.container(0, "c0", addresses[0])?;
    let c1 = lab.container(1, "c1", addresses[1])?;
    lab.gateway(0).netns().ip(&format!("link set {INTERFACE} nomaster"))?;
    let mut daemons = Vec::new();
    for gateway in lab.gateways() {
        let mut config = gateway.config();
        if gateway.index() == 0 {
            config = with_interface(config, INTERFACE);
        }
        change(gateway.index(), &mut config);
        daemons.push(gateway.start_ipop(&config)?);
    }
    for daemon in &daemons {
        daemon.wait_peers_up(Duration::from_secs(15))?;
    }
    Ok((Segment { daemons, lab }, c0, c1))
}

fn streams() -> Outcome {
    let (segment, c0, c1) = start(&Lab::builder(), |_, _| {})?;
    c0.ping(THERE, 10)?;
    c1.ping(HERE, 3)?;
    segment.wait_full_path(1500)?;
    for (target, size) in [(THERE, "1472"), (THERE_V6, "1452")] {
        c0.run(["ping", "-n", "-c3", "-i0.1", "-W2", "-M", "do", "-s", size, target])?;
    }
    exchange(&c0, &c1, THERE, 1, 32 * MIB)?;
    exchange(&c0, &c1, THERE_V6, 2, 8 * MIB)?;
    datagrams(&c0, &c1, THERE)?;
    datagrams(&c1, &c0, HERE)?;
    // Both ways mostly as super-frames: one by one it would be 44 000 frames each way.
    let status = segment.daemons[0].status("status")?;
    for (what, count) in [("to_peer", &status["frames"]["to_peer"]), ("delivered", &status["frames"]["delivered"])] {
        ensure(count.as_u64().is_some_and(|count| count < 25_000), || format!("{what}: {count} frames for 48 MiB"))?;
    }
    ensure(status["port"]["kind"] == "af_packet" && status["port"]["name"] == INTERFACE, || status.to_string())?;
    let text = segment.daemons[0].query("status", false).run()?;
    ensure(text.contains("AF_PACKET on v-c0, MTU 1500"), || text.clone())?;
    // The gateway's own frames do not come back to it as the segment's.
    let moved = &status["macs"]["moved"];
    ensure(moved.as_u64().unwrap_or(0) == 0, || format!("MACs have moved: {status}"))
}

/// In both directions, of sizes that fit the path and one that does not. Those come in pieces, and are counted one by one
/// although they are merged.
fn udp_super_frames() -> Outcome {
    const FRAMES: u64 = 1000;
    let (segment, c0, c1) = start(&Lab::builder(), |_, _| {})?;
    segment.wait_full_path(1500)?;
    let both = &["to_peer", "delivered"][..];
    for (addresses, size, whole) in
        [([THERE, HERE], 64, both), ([THERE_V6, HERE_V6], 1300, both), ([THERE, HERE], 1452, &both[..1])]
    {
        let before = segment.daemons[0].status("status")?["frames"].clone();
        transfer(&c0, &c1, addresses[0], size, Some(size as i32))?;
        transfer(&c1, &c0, addresses[1], size, Some(size as i32))?;
        let after = segment.daemons[0].status("status")?["frames"].clone();
        // One by one it would be 1600 each way.
        for what in whole {
            let count = |frames: &Value| frames[what].as_u64().ok_or(format!("no number of {what}"));
            let frames = count(&after)? - count(&before)?;
            ensure(frames < FRAMES, || format!("{size} octets: {frames} frames are {what}"))?;
        }
    }
    Ok(())
}

fn two_workers() -> Outcome {
    let (segment, c0, c1) = start(&Lab::builder(), |_, config| config["workers"] = 2.into())?;
    // Each frame goes to one of the two sockets.
    c0.ping(THERE, 10)?;
    c1.ping(HERE, 5)?;
    exchange(&c0, &c1, THERE, 8, 4 * MIB)?;
    exchange(&c0, &c1, THERE_V6, 4, 4 * MIB)?;
    let count = segment.daemons[0].status("status")?["workers"].as_array().map_or(0, Vec::len);
    ensure(count == 2, || format!("{count} workers"))
}

fn carries_tags() -> Outcome {
    let (_segment, c0, c1) = start_silent()?;
    let mut stations = [Station::of(c0)?, Station::of(c1)?];
    tags::arrive_as_they_are(&mut stations)?;
    stations.reverse();
    tags::arrive_as_they_are(&mut stations)
}

/// What a host leaves to its card is told in places of the frame, and the tag moves these. The cable to the receiver has no
/// card that would do the work, so it is done by software that believes what it is told.
fn tagged_offloads() -> Outcome {
    const VLAN: [u8; 4] = [0x81, 0, 0x60, 10];
    let (segment, c0, c1) = start_silent()?;
    segment.lab.gateway(0).run(["ethtool", "-K", &c0.port(), "tx", "off"])?;
    segment.lab.gateway(1).run(["ethtool", "-K", &c1.port(), "tx", "off"])?;
    segment.wait_full_path(1500)?;
    let mut stations = [Station::of(c0)?, Station::of(c1)?];
    for _direction in 0..2 {
        let [here, there] = &mut stations;
        there.introduce()?;
        for (protocol, header_len, payload_len) in [(17u8, 8usize, 700usize), (6, 20, 700), (6, 20, 5000)] {
            let payload: Vec<u8> = (0..payload_len).map(|at| (at % 251) as u8).collect();
            let frame = unfinished(there.mac, here.mac, protocol, header_len, &payload);
            let tagged = [&frame[..12], &VLAN, &frame[12..]].concat();
            // NEEDS_CSUM from behind the IP header on; a super-frame is TCP over IPv4, 1000 octets in each segment.
            let mut header = [1, 0, 0, 0, 0, 0, 38, 0, if protocol == 17 { 6 } else { 16 }, 0];
            if payload_len > 1460 {
                (header[1], header[2]) = (1, 38 + header_len as u8);
                header[4..6].copy_from_slice(&1000u16.to_le_bytes());
            }
            here.port.send_unfinished(header, &tagged)?;
            let mut came = Vec::new();
            while came.len() < payload_len {
                let what = || format!("{} of {payload_len} octets of protocol {protocol} came", came.len());
                let frame = there.port.recv(SOON)?.ok_or_else(what)?;
                if frame.get(12..16) != Some(&VLAN) {
                    continue;
                }
                let plain = [&frame[..12], &frame[16..]].concat();
                let sum = transport_sum(&plain).map(|(_, sum)| sum);
                ensure(sum == Some(0xffff), || format!("protocol {protocol}: {:02x?}", &frame[..frame.len().min(80)]))?;
                came.extend_from_slice(&plain[34 + header_len..]);
            }
            ensure(came == payload, || format!("{payload_len} octets of protocol {protocol} came changed"))?;
        }
        stations.reverse();
    }
    Ok(())
}

/// UDP or TCP over IPv4 as it leaves a host's stack: in the place of the checksum is the sum of the pseudo-header.
fn unfinished(to: Mac, from: Mac, protocol: u8, header_len: usize, payload: &[u8]) -> Vec<u8> {
    let add = |octets: &[u8]| octets.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum::<u32>();
    let fold = |sum: u32| ((sum & 0xffff) + (sum >> 16)) as u16;
    let length = header_len + payload.len();
    let mut ip = [0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 3, 3, 10, 0, 3, 104];
    ip[2..4].copy_from_slice(&(20 + length as u16).to_be_bytes());
    let sum = !fold(add(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut transport = vec![0; header_len];
    transport[..4].copy_from_slice(&[0x1b, 0x58, 0x1b, 0x59]);
    if protocol == 17 {
        transport[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    } else {
        transport[12..15].copy_from_slice(&[0x50, 0x10, 0xff]);
    }
    let at = if protocol == 17 { 6 } else { 16 };
    let pseudo = fold(add(&ip[12..20]) + u32::from(protocol) + length as u32);
    transport[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    ethernet(to, from, 0x0800, &[&ip[..], &transport, payload].concat())
}

/// Tagged frames with unfinished checksums, and tagged super-frames.
fn vlan_interfaces() -> Outcome {
    let (_segment, mut c0, mut c1) = start(&Lab::builder(), |_, _| {})?;
    c0.add_vlan(10, &["10.0.10.3/24"])?;
    c1.add_vlan(10, &["10.0.10.104/24"])?;
    c0.ping("10.0.10.104", 5)?;
    datagrams(&c0, &c1, "10.0.10.104")?;
    exchange(&c0, &c1, "10.0.10.104", 1, 16 * MIB)
}

fn down_and_up() -> Outcome {
    let (mut segment, c0, c1) = start(&Lab::builder(), |_, _| {})?;
    let netns = segment.lab.gateway(0).netns();
    for round in 0..2 {
        c0.ping(THERE, 2)?;
        netns.ip(&format!("link set {INTERFACE} down"))?;
        let before = segment.counter(0, "/drops/port_down")?;
        ensure(!c1.exec(["ping", "-n", "-c3", "-i0.2", "-W0.5", HERE])?.success(), || {
            "a ping while it is down".into()
        })?;
        segment.wait_counter(0, "/drops/port_down", before + 1)?;
        says("v-c0 is down", &segment.daemons[0], round)?;
        let text = segment.daemons[0].query("status", false).run()?;
        ensure(text.contains("DOWN, AF_PACKET on v-c0"), || text.clone())?;
        netns.ip(&format!("link set {INTERFACE} up"))?;
        interrupt::wait_until("traffic after it was down", SOON, || {
            Ok(c1.exec(["ping", "-n", "-c1", "-W0.3", HERE])?.success().then_some(()))
        })?;
        says("v-c0 is up again", &segment.daemons[0], round)?;
    }
    ensure(segment.daemons[0].is_running(), || "it ended".into())?;
    exchange(&c0, &c1, THERE, 1, 2 * MIB)
}

/// The log has it once more than `before`.
fn says(what: &str, daemon: &Daemon, before: usize) -> Outcome {
    let look = || Ok((daemon.log().matches(what).count() > before).then_some(()));
    Ok(interrupt::wait_until(&format!("the log to say that {what}"), SOON, look)?)
}

/// A frame longer than the interface's MTU is dropped and counted; the next one passes.
fn too_long() -> Outcome {
    let (segment, c0, mut c1) = start_silent()?;
    c1.set_mtu(3000)?;
    let (mut here, there) = (Station::of(c0)?, Station::of(c1)?);
    interrupt::wait_until("gw-b's port to follow", SOON, || {
        Ok((segment.daemons[1].status("status")?["port"]["mtu"] == 3000).then_some(()))
    })?;
    there.port.send(&numbered(here.mac, there.mac, 1, 3014))?;
    let last = numbered(here.mac, there.mac, 2, 1514);
    there.port.send(&last)?;
    let seen = until(&mut here.port, &last)?;
    ensure(seen.iter().all(|frame| frame.len() <= 1514), || "the long one came".into())?;
    segment.wait_counter(0, "/drops/port_too_big", 1).map(drop)
}

/// While the gateway does not read, the kernel keeps what fits the socket's buffer.
fn kernel_drops() -> Outcome {
    use nix::sys::signal::Signal;
    let (mut segment, c0, c1) = start_silent()?;
    let (here, there) = (Station::of(c0)?, Station::of(c1)?);
    segment.daemons[0].signal(Signal::SIGSTOP)?;
    let frame = numbered(there.mac, here.mac, 1, 1514);
    let sent = (0..20_000).try_for_each(|_| here.port.send(&frame));
    segment.daemons[0].signal(Signal::SIGCONT)?;
    sent?;
    let dropped = segment.wait_counter(0, "/drops/port_kernel_drops", 1)?;
    ensure(dropped < 20_000, || format!("{dropped} of 20 000 frames were dropped"))
}

/// What makes the interface useless as a port is named.
fn refused() -> Outcome {
    let (segment, c0, _c1) = start(&Lab::builder(), |_, _| {})?;
    let gateway = segment.lab.gateway(0);
    let dir = segment.lab.lab_run().dir().display().to_string();
    for (interface, listen, part) in [
        (INTERFACE, "10.99.0.1:5801", "another ipop uses the interface 'v-c0' already"),
        ("lo", "10.99.0.1:5801", "'lo' is no Ethernet interface"),
        ("eth0", "10.99.0.1:5801", "the peer gw-b is reached through 'eth0'"),
        ("eth0", "[::]:5801", "the peer gw-b is reached through 'eth0'"),
    ] {
        let mut config = with_interface(gateway.config(), interface);
        config["listen"] = listen.into();
        config["control_socket"] = format!("{dir}/second.sock").into();
        match gateway.start_ipop(&config) {
            Ok(_) => return Err(format!("it runs on {interface}").into()),
            Err(error) => ensure(error.to_string().contains(part), || format!("{interface}: {error}"))?,
        }
    }
    c0.ping(THERE, 1).map(drop).map_err(Failed::from)
}
