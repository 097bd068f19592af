//! What a path carries, and who may say so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipop_lab::arp::{Mac, parse_mac};
use ipop_lab::{Daemon, Family, Lab, Netns, RawPort, UPLINK, interrupt, ndp};
use libtest_mimic::Failed;

use crate::support::{Outcome, SOON, THERE, UP, ensure, pair, peer, throughout, wait_path_mtu, wait_ping};

/// The least that ICMP can say, and be listened to by the kernel.
fn least(family: Family) -> u16 {
    if family == Family::V4 { 552 } else { 1280 }
}

/// One message in the name of a host that is no router, about datagrams of gw-a to gw-b.
pub(crate) fn forged(family: Family) -> Outcome {
    let lab = Lab::builder().switched().family(family).build()?;
    let rogue = rogue(&lab)?;
    let daemons = lab.start_ipop()?;
    let (c0, _c1) = pair(&lab)?;
    let (a, b) = (lab.gateway(0), lab.gateway(1));
    wait_path_mtu(&daemons[0], "gw-b", 1500, UP)?;
    wait_ping(&c0, THERE)?;
    let mac = |text: String| parse_mac(&text).ok_or(format!("{text:?} is no MAC"));
    let (to, from) = (mac(a.netns().mac_of(UPLINK)?)?, mac(rogue.mac_of(UPLINK)?)?);
    let port = RawPort::open(&rogue, UPLINK)?;
    port.send(&too_big(to, from, a.endpoint(), b.endpoint(), least(family)))?;
    // The kernel believes it, for ten minutes.
    let target = b.underlay_ip().to_string();
    let told = format!("mtu {}", least(family));
    interrupt::wait_until("the kernel of gw-a to have heard it", SOON, || {
        Ok(a.run(["ip", "route", "get", &target])?.contains(&told).then_some(()))
    })?;
    let mut wire = RawPort::open(b.netns(), UPLINK)?;
    throughout(Duration::from_secs(4), || {
        let mtu = peer(&daemons[0], "gw-b")?["path_mtu"].clone();
        ensure(mtu == 1500, || format!("the path MTU is {mtu}"))?;
        // A datagram each, and not three.
        wire.drain()?;
        c0.run(["ping", "-n", "-c1", "-W2", "-M", "do", "-s", "1300", THERE])?;
        let (seen, whole) = wire.capture_until(SOON, |frame| frame.len() > 1380)?;
        ensure(whole, || format!("cut: {:?}", seen.iter().map(Vec::len).collect::<Vec<_>>()))
    })?;
    ensure(!daemons[0].log().contains("became smaller"), || daemons[0].log())
}

/// A router between the two says what its far side carries; what it has said once is not believed for ever.
pub(crate) fn honest(family: Family) -> Outcome {
    let lab = Lab::builder().switched().family(family).build()?;
    let daemons = routed(&lab, family)?;
    let (c0, _c1) = pair(&lab)?;
    let router = lab.underlay().ok_or("no underlay")?;
    wait_path_mtu(&daemons[0], "gw-b", 1500, UP)?;
    let large = ["ping", "-n", "-c1", "-W0.3", "-M", "do", "-s", "1472", THERE];
    wait_ping(&c0, THERE)?;
    c0.run(large)?;
    router.ip("link set to-gw-b mtu 1400")?;
    // A search without a hint ends within 8 octets of it, and below.
    interrupt::wait_until("the path MTU that the router has told", Duration::from_secs(40), || {
        c0.exec(large)?;
        Ok((peer(&daemons[0], "gw-b")?["path_mtu"] == 1400).then_some(()))
    })
    .map_err(|error| format!("{error}: {:?}\n{}", peer(&daemons[0], "gw-b"), daemons[0].log()))?;
    interrupt::wait_until("full-size frames to pass", SOON, || Ok(c0.exec(large)?.success().then_some(())))?;
    router.ip("link set to-gw-b mtu 1500")?;
    wait_path_mtu(&daemons[0], "gw-b", 1500, Duration::from_secs(60))
}

/// What somebody has set for a route holds, as long as it is set; with `lock` or without.
pub(crate) fn of_route(family: Family) -> Outcome {
    let lab = Lab::builder().family(family).build()?;
    let daemons = lab.start_ipop()?;
    let (a, b) = (lab.gateway(0).netns(), lab.gateway(1).underlay_ip());
    wait_path_mtu(&daemons[0], "gw-b", 1500, UP)?;
    for (words, mtu) in [("mtu 1380", 1380), ("mtu lock 1320", 1320), ("mtu 1420", 1420), ("", 1500)] {
        a.ip(&format!("route replace {b} dev {UPLINK} {words}"))?;
        wait_path_mtu(&daemons[0], "gw-b", mtu, SOON)?;
    }
    // And that of the interface.
    lab.gateway(0).set_underlay_mtu(1400)?;
    wait_path_mtu(&daemons[0], "gw-b", 1400, SOON)?;
    lab.gateway(0).set_underlay_mtu(1500)?;
    wait_path_mtu(&daemons[0], "gw-b", 1500, SOON)
}

/// A host at the switch of the underlay.
fn rogue(lab: &Lab) -> Result<Netns, Failed> {
    let switch = lab.underlay().ok_or("no underlay")?;
    let rogue = Netns::new(lab.lab_run(), "rogue")?;
    switch.ip(&format!("link add to-rogue type veth peer name {UPLINK} netns {}", rogue.name()))?;
    switch.ip("link set to-rogue master underlay up")?;
    rogue.ip(&format!("link set {UPLINK} up"))?;
    switch.wait_forwarding("to-rogue", SOON)?;
    Ok(rogue)
}

/// Makes the switch of the underlay a router, and starts a daemon on each side of it.
fn routed(lab: &Lab, family: Family) -> Result<Vec<Daemon>, Failed> {
    let router = lab.underlay().ok_or("no underlay")?;
    let (nodad, length, any, forward) = match family {
        Family::V4 => ("", 24, "0.0.0.0/0", "net/ipv4/ip_forward"),
        Family::V6 => ("nodad", 64, "::/0", "net/ipv6/conf/all/forwarding"),
    };
    router.sysctl(forward, "1")?;
    let network = |side: usize, host: u16| -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, 98, side as u8, host as u8).into(),
            Family::V6 => Ipv6Addr::new(0xfd98, 0, 0, side as u16, 0, 0, 0, host).into(),
        }
    };
    let mut daemons = Vec::new();
    for gateway in lab.gateways() {
        let (side, port) = (gateway.index(), format!("to-{}", gateway.name()));
        router.ip(&format!("link set {port} nomaster"))?;
        router.ip(&format!("address add {}/{length} dev {port} {nodad}", network(side, 254)))?;
        gateway.netns().ip(&format!("address add {}/{length} dev {UPLINK} {nodad}", network(side, 1)))?;
        gateway.netns().ip(&format!("route add {any} via {} dev {UPLINK}", network(side, 254)))?;
    }
    for gateway in lab.gateways() {
        let side = gateway.index();
        let mut config = gateway.config();
        config["listen"] = SocketAddr::new(network(side, 1), ipop_lab::PORT).to_string().into();
        config["peers"][0]["address"] = SocketAddr::new(network(1 - side, 1), ipop_lab::PORT).to_string().into();
        daemons.push(gateway.start_ipop(&config)?);
    }
    for daemon in &daemons {
        daemon.wait_peers_up(UP)?;
    }
    Ok(daemons)
}

/// "Fragmentation needed" (RFC 792, RFC 1191) or "packet too big" (RFC 4443) about a datagram from `ours` to `theirs`, in
/// the name of another host of that network.
fn too_big(to: Mac, from: Mac, ours: SocketAddr, theirs: SocketAddr, mtu: u16) -> Vec<u8> {
    let udp: Vec<u8> = [ours.port(), theirs.port(), 1480, 0].iter().flat_map(|field| field.to_be_bytes()).collect();
    match (ours.ip(), theirs.ip()) {
        (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
            let quoted = [ipv4(17, ours, theirs, 1500), udp].concat();
            let [high, low] = mtu.to_be_bytes();
            let mut icmp = [&[3, 4, 0, 0, 0, 0, high, low], &quoted[..]].concat();
            let sum = checksum(&icmp);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            let [a, b, c, _] = ours.octets();
            let header = ipv4(1, Ipv4Addr::new(a, b, c, 99), ours, 20 + icmp.len() as u16);
            [&to[..], &from, &[0x08, 0x00], &header, &icmp].concat()
        }
        (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
            let mut quoted = vec![0x60, 0, 0, 0, 0x05, 0xc8, 17, 64];
            quoted.extend([ours.octets(), theirs.octets()].concat());
            quoted.extend(udp);
            let body = [&u32::from(mtu).to_be_bytes()[..], &quoted].concat();
            let mut liar = ours.segments();
            liar[7] = 0x99;
            ndp::icmp6(to, from, liar.into(), ours, 2, &body)
        }
        _ => unreachable!("one family"),
    }
}

fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, length: u16) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 1, 0x40, 0, 64, protocol, 0, 0];
    header.extend([from.octets(), to.octets()].concat());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let sum = (sum >> 16) + (sum & 0xffff);
    !((sum >> 16) + sum) as u16
}
