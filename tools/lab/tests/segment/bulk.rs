//! Streams arrive whole and at full size, with and without offloads, and whatever the path carries.
//!
//! ```text
//!   c0 (MTU 1500) -- gw-a ==== underlay (1500, or less than it says) ==== gw-b -- (MTU 1500) c1
//!        TCP: super-frames, cut into slices on the way, joined again at the other end
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use ipop_lab::arp::Mac;
use ipop_lab::traffic::{datagrams, exchange};
use ipop_lab::{Family, Kind, Lab, interrupt, udp_socket};
use libtest_mimic::Failed;

use crate::Test;
use crate::support::{HERE, Outcome, SOON, Segment, THERE, THERE_V6, ensure, ethernet, until};

pub(crate) const TESTS: &[Test] = &[
    Test::with("a_black_hole_that_opens_later_is_noticed", &["ethtool"], late_black_hole),
    Test::with("a_black_hole_on_the_underlay_is_found_out", &["ethtool"], black_hole),
    Test::with("tcp_runs_at_full_segments", &["lxc", "iperf3"], full_segments),
    Test::new("full_size_packets_pass_an_underlay_of_the_same_mtu", full_size),
    Test::new("tcp_streams_arrive_whole_over_ipv4", whole_v4),
    Test::new("tcp_streams_arrive_whole_over_ipv6", whole_v6),
    Test::with("streams_arrive_whole_without_offloads", &["ethtool"], without_offloads),
    Test::with("checksums_are_complete_behind_the_switch", &["ethtool"], checksums),
    Test::new("checksums_to_dhcp_clients_are_finished_by_the_switch", to_dhcp_clients),
    Test::new("a_wrong_checksum_is_not_repaired", wrong_checksum),
    Test::with("a_segment_that_was_cut_arrives_as_it_was", &["ethtool"], joined_again),
    Test::with("a_trailer_behind_a_segment_is_kept", &["ethtool"], trailers),
    Test::new("two_workers_carry_several_streams", two_workers),
];

const MIB: usize = 1 << 20;
fn full_size() -> Outcome {
    for (family, headers) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let segment = Segment::start(&Lab::builder().family(family))?;
        let (c0, c1) = segment.pair()?;
        for (container, target, size) in [(&c0, THERE, "1472"), (&c1, HERE, "1472"), (&c0, THERE_V6, "1452")] {
            let ping = container.run(["ping", "-n", "-c3", "-i0.1", "-W2", "-M", "do", "-s", size, target])?;
            ensure(ping.contains(" 0% packet loss"), || format!("underlay {headers}: {ping}"))?;
        }
        segment.wait_full_path(1500)?;
    }
    Ok(())
}

/// Nothing is set by hand: the kernel of a real container chooses the segment size, and few are sent twice.
fn full_segments() -> Outcome {
    let segment = Segment::start(&Lab::builder().containers(Kind::Lxc))?;
    let (c0, c1) = segment.pair()?;
    segment.wait_full_path(1500)?;
    // With time stamps, 12 octets of each segment.
    for (target, mss) in [(THERE, 1448), (THERE_V6, 1428)] {
        let mut server = c1.spawn(["iperf3", "-s", "-1", "--forceflush"])?;
        server.wait_for_stdout("Server listening", SOON)?;
        let report = c0.run(["iperf3", "-c", target, "-t", "1", "-J"])?;
        let report: serde_json::Value = serde_json::from_str(&report)?;
        let number = |pointer| report.pointer(pointer).and_then(serde_json::Value::as_u64);
        let used = number("/start/tcp_mss_default").ok_or("no segment size")?;
        ensure(used == mss, || format!("{target}: segments of {used} octets"))?;
        let octets = number("/end/sum_received/bytes").ok_or("no octets")?;
        let again = number("/end/sum_sent/retransmits").ok_or("no retransmissions")?;
        ensure(octets > 10 << 20, || format!("{target}: only {octets} octets in a second"))?;
        ensure(again * mss < octets / 50, || format!("{target}: {again} segments again for {octets} octets"))?;
        server.wait(SOON)?;
    }
    Ok(())
}

fn whole_v4() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let (c0, c1) = segment.pair()?;
    exchange(&c0, &c1, THERE, 1, 48 * MIB)
}

fn whole_v6() -> Outcome {
    let segment = Segment::start(&Lab::builder().family(Family::V6))?;
    let (c0, c1) = segment.pair()?;
    exchange(&c0, &c1, THERE_V6, 1, 48 * MIB)
}

fn two_workers() -> Outcome {
    let two = |_, config: &mut serde_json::Value| config["workers"] = 2.into();
    let segment = Segment::start_with(&Lab::builder(), two)?;
    let workers = segment.daemons[0].status("status")?["workers"].as_array().map_or(0, Vec::len);
    ensure(workers == 2, || format!("{workers} workers"))?;
    let (c0, c1) = segment.pair()?;
    c0.ping(THERE, 10)?;
    c1.ping("fd03::3", 5)?;
    exchange(&c0, &c1, THERE, 8, 6 * MIB)?;
    exchange(&c0, &c1, THERE_V6, 4, 6 * MIB)
}

/// Each of the three ways in which a host can leave work to the network card, or not.
fn without_offloads() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let (c0, c1) = segment.pair()?;
    segment.wait_full_path(1500)?;
    let settings: [&[&str]; 3] = [
        &["tso", "off"],
        &["tso", "off", "gso", "off", "gro", "off"],
        // This takes away the others too.
        &["tx", "off"],
    ];
    for setting in settings {
        for container in [&c0, &c1] {
            let line = ["ethtool", "-K", "eth0"].into_iter().chain(setting.iter().copied());
            container.run(line)?;
        }
        exchange(&c0, &c1, THERE, 1, 8 * MIB).map_err(|error| format!("IPv4, {setting:?}: {error:?}"))?;
        exchange(&c0, &c1, THERE_V6, 1, 4 * MIB).map_err(|error| format!("IPv6, {setting:?}: {error:?}"))?;
        datagrams(&c0, &c1, THERE).map_err(|error| format!("IPv4, {setting:?}: {error:?}"))?;
        datagrams(&c0, &c1, THERE_V6).map_err(|error| format!("IPv6, {setting:?}: {error:?}"))?;
    }
    Ok(())
}

/// c0 leaves checksums to its card. The cable to c1 has no card that would: what c1 sees there was finished on the
/// way, by software that believes what the switch says about the frame.
fn checksums() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let (c0, c1) = segment.pair()?;
    segment.wait_full_path(1500)?;
    segment.lab.gateway(1).run(["ethtool", "-K", &c1.port(), "tx", "off"])?;
    let mut port = ipop_lab::RawPort::open(c1.netns(), c1.interface())?;
    datagrams(&c0, &c1, THERE)?;
    datagrams(&c0, &c1, THERE_V6)?;
    exchange(&c0, &c1, THERE, 1, MIB)?;
    exchange(&c0, &c1, THERE_V6, 1, MIB)?;
    let mut seen = [0; 4];
    for frame in port.capture(Duration::ZERO)? {
        ensure(frame.len() <= 1514, || format!("a frame of {} octets", frame.len()))?;
        let Some((kind, sum)) = transport_sum(&frame) else { continue };
        ensure(sum == 0xffff, || format!("a checksum is off ({sum:04x}): {:02x?}", &frame[..frame.len().min(80)]))?;
        seen[kind] += 1;
    }
    // Two datagrams of each nine are more than one IP packet: the large one, and over IPv6 that of 1472.
    ensure(seen[0] >= 7 && seen[1] >= 7, || format!("too few datagrams were seen: {seen:?}"))?;
    ensure(seen[2] > MIB / 1448 && seen[3] > MIB / 1428, || format!("too few segments were seen: {seen:?}"))
}

/// Those clients read raw frames and look at the sum themselves, and not all of them know that a kernel may have left it
/// unfinished.
fn to_dhcp_clients() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let (c0, c1) = segment.pair()?;
    let mut port = ipop_lab::RawPort::open(c1.netns(), c1.interface())?;
    for (from, target) in [("0.0.0.0:67", "10.0.3.104:68"), ("[::]:547", "[fd03::104]:546")] {
        let (from, target): (SocketAddr, SocketAddr) = (from.parse()?, target.parse()?);
        let port_number = target.port().to_be_bytes();
        udp_socket(c0.netns(), from, SOON)?.send_to(b"an offer of an odd length", target)?;
        let is_it = |frame: &[u8]| {
            let udp = if target.is_ipv4() { 34 } else { 54 };
            frame.get(udp + 2..udp + 4) == Some(&port_number) && transport_sum(frame).is_some_and(|(kind, _)| kind < 2)
        };
        let (frames, came) = port.capture_until(SOON, is_it)?;
        ensure(came, || format!("nothing for {target} came"))?;
        let sum = frames.last().and_then(|frame| transport_sum(frame)).map(|(_, sum)| sum);
        ensure(sum == Some(0xffff), || format!("{target}: the checksum is off: {:02x?}", frames.last()))?;
    }
    Ok(())
}

/// The sum over a UDP or TCP packet that is whole, with its pseudo header: ffff if it is right. The first number tells
/// which: UDP over IPv4, over IPv6, TCP over IPv4, over IPv6.
pub(crate) fn transport_sum(frame: &[u8]) -> Option<(usize, u16)> {
    let packet = frame.get(14..)?;
    let (v6, addresses, protocol, payload) = match frame[12..14] {
        [0x08, 0x00] => {
            let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff;
            (false, &packet[12..20], packet[9], (fragment == 0).then(|| &packet[20..length])?)
        }
        [0x86, 0xdd] => {
            let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            (true, &packet[8..40], packet[6], &packet[40..40 + length])
        }
        _ => return None,
    };
    let first = match protocol {
        17 => 0,
        6 => 2,
        _ => return None,
    };
    let words = |octets: &[u8]| -> u32 {
        octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = words(addresses) + u32::from(protocol) + payload.len() as u32 + words(payload);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    Some((first + usize::from(v6), sum as u16))
}

/// A TCP segment in an IP packet of `length` octets, with the right checksum changed by `wrong`.
fn tcp_frame(to: Mac, from: Mac, length: u16, wrong: u16) -> Vec<u8> {
    let mut packet = vec![0x5a; length.into()];
    packet[..20].copy_from_slice(&[0x45, 0x03, 0, 0, 0xab, 0xcd, 0x40, 0, 63, 6, 0, 0, 10, 0, 3, 3, 10, 0, 3, 104]);
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let header = packet[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let folded = !((header & 0xffff) + (header >> 16)) as u16;
    packet[10..12].copy_from_slice(&folded.to_be_bytes());
    // Ports, sequence, acknowledgement, five words of header, PSH and ACK, window, no checksum yet.
    packet[20..40].copy_from_slice(&[0x1b, 0x58, 0x1b, 0x59, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    let mut frame = ethernet(to, from, 0x0800, &packet);
    let sum = transport_sum(&frame).map_or(0, |(_, sum)| !sum);
    frame[50..52].copy_from_slice(&(sum ^ wrong).to_be_bytes());
    frame
}

/// Whoever sent it must learn by silence that it was wrong. A full-size segment does not fit a datagram here; to cut
/// it as TCP would mean to write a new, right checksum.
fn wrong_checksum() -> Outcome {
    let segment = Segment::start(&Lab::builder().without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    stations[1].introduce()?;
    segment.wait_full_path(1500)?;
    for length in [40, 1500] {
        let frame = tcp_frame(stations[1].mac, stations[0].mac, length, 0x0100);
        stations[0].port.send(&frame)?;
        until(&mut stations[1].port, &frame)?;
    }
    Ok(())
}

/// A full-size segment with a right checksum is cut and joined again, and nothing of it may change.
fn joined_again() -> Outcome {
    arrive_as_they_were(&[(40, 0), (1400, 0), (1460, 0), (1500, 0)])
}

/// Nor may it lose what follows the packet, such as the trailers of redundant networks (IEC 62439-3).
fn trailers() -> Outcome {
    arrive_as_they_were(&[(40, 6), (1400, 6), (1494, 6)])
}

/// TCP segments, each an IP packet of so many octets and so many behind it.
fn arrive_as_they_were(lengths: &[(u16, usize)]) -> Outcome {
    let segment = Segment::start(&Lab::builder().without_inner_ipv6())?;
    let mut stations = segment.stations()?;
    // Where bridges pass their packets to iptables, they cut off what follows a packet.
    if std::path::Path::new("/proc/sys/net/bridge").exists() {
        for gateway in segment.lab.gateways() {
            gateway.netns().sysctl("net/bridge/bridge-nf-call-iptables", "0")?;
        }
    }
    // The checksum is finished in front of c1, if it was not.
    segment.lab.gateway(1).run(["ethtool", "-K", &stations[1].container.port(), "tx", "off"])?;
    stations[1].introduce()?;
    segment.wait_full_path(1500)?;
    for (length, trailer) in lengths.iter().copied() {
        let mut frame = tcp_frame(stations[1].mac, stations[0].mac, length, 0);
        frame.resize(frame.len() + trailer, 0x88);
        stations[0].port.send(&frame)?;
        until(&mut stations[1].port, &frame)
            .map_err(|error| format!("a packet of {length} octets with a trailer of {trailer}: {error:?}"))?;
    }
    Ok(())
}

/// Two gateways whose path carries less than their uplinks say. A veth lets a train of datagrams pass whatever its
/// size, so the trains are cut before they leave.
fn narrow(mtu: Option<u32>) -> Result<Segment, Failed> {
    let builder = Lab::builder().switched();
    let lab = builder.build()?;
    for gateway in lab.gateways() {
        gateway.run(["ethtool", "-K", "eth0", "tx-udp-segmentation", "off"])?;
    }
    if let Some(mtu) = mtu {
        lab.set_path_mtu(1, mtu)?;
    }
    let daemons = lab.start_ipop()?;
    Ok(Segment { daemons, lab })
}

fn black_hole() -> Outcome {
    let segment = narrow(Some(1400))?;
    let (c0, c1) = segment.pair()?;
    // At once, and before the size has been found.
    c0.run(["ping", "-n", "-c3", "-i0.1", "-W2", "-M", "do", "-s", "1472", THERE])?;
    exchange(&c0, &c1, THERE, 1, 8 * MIB)?;
    for (gateway, peer) in [(0, "gw-b"), (1, "gw-a")] {
        // A veth lets four octets more pass, room for a VLAN tag (is_skb_forwardable() in net/core/dev.c).
        segment.wait_path_mtu(gateway, peer, 1393..=1404, Duration::from_secs(40))?;
    }
    let table = segment.daemons[0].query("peers", false).run()?;
    ensure(table.contains("139") || table.contains("140"), || format!("`ipop peers` for people: {table}"))?;
    c1.run(["ping", "-n", "-c3", "-i0.1", "-W2", "-M", "do", "-s", "1472", HERE])?;
    exchange(&c0, &c1, THERE, 1, 8 * MIB)
}

/// The size in use is confirmed every half minute, so it takes as long to notice.
fn late_black_hole() -> Outcome {
    let segment = narrow(None)?;
    let (c0, _c1) = segment.pair()?;
    segment.wait_full_path(1500)?;
    let large = ["ping", "-n", "-c1", "-W0.5", "-M", "do", "-s", "1472", THERE];
    c0.run(large)?;
    segment.lab.set_path_mtu(1, 1400)?;
    ensure(!c0.exec(large)?.success(), || "the path still carries it: this lab makes no black hole".into())?;
    interrupt::wait_until("full-size frames to pass again", Duration::from_secs(45), || {
        Ok(c0.exec(large)?.success().then_some(()))
    })?;
    let mtu = segment.peer(0, "gw-b")?["path_mtu"].as_u64();
    ensure(mtu.is_some_and(|mtu| mtu <= 1404), || format!("`ipop peers` says {mtu:?}"))
}
