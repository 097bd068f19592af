//! What hosts do on a segment: get an address, find a router, and ping, without a trace of the switch between them.
//!
//! ```text
//!   dnsmasq (DHCP, router advertisements)             udhcpc, or the kernel's IPv6
//!   c0 10.0.3.3 -- lxcbr0 -- gw-a ===== gw-b -- lxcbr0 -- c1
//!                                             10.0.3.1 on lxcbr0, 10.0.3.2 on the TAP
//! ```

use std::time::Duration;

use ipop_lab::{Container, Kind, Lab, Process, RawPort, interrupt};
use libtest_mimic::Failed;

use crate::Test;
use crate::support::{HERE, Outcome, SOON, Segment, THERE, ensure};

pub(crate) const TESTS: &[Test] = &[
    Test::new("a_thousand_pings_have_a_thousand_answers", thousand),
    Test::new("the_other_gateway_answers_a_thousand_pings", gateway_addresses),
    Test::with("dhcp_gives_a_lease_across_the_segment", &["dnsmasq", "udhcpc"], dhcp),
    Test::with("dhcp_gives_an_lxc_container_a_lease", &["dnsmasq", "lxc"], dhcp_lxc),
    Test::with("router_advertisements_configure_hosts_across_the_segment", &["dnsmasq"], advertised),
    Test::with("a_router_answers_a_solicitation_across_the_segment", &["dnsmasq", "rdisc6"], solicited),
];

/// Starts dnsmasq in a container with nothing of the machine's own configuration.
fn dnsmasq(container: &Container, segment: &Segment, options: &[&str]) -> Result<Process, Failed> {
    let dir = segment.lab.lab_run().dir().display().to_string();
    let fixed = [
        "dnsmasq".to_owned(),
        "--conf-file=/dev/null".to_owned(),
        "--keep-in-foreground".to_owned(),
        "--log-facility=-".to_owned(),
        "--user=root".to_owned(),
        // No DNS.
        "--port=0".to_owned(),
        "--interface=eth0".to_owned(),
        "--bind-interfaces".to_owned(),
        format!("--dhcp-leasefile={dir}/leases"),
        format!("--pid-file={dir}/dnsmasq.pid"),
    ];
    Ok(container.spawn(fixed.into_iter().chain(options.iter().map(|&option| option.to_owned())))?)
}

/// Its socket is open some moments after its start; the client asks again until then.
fn lease_server(container: &Container, segment: &Segment) -> Result<Process, Failed> {
    let options = ["--dhcp-authoritative", "--no-ping", "--dhcp-range=10.0.3.150,10.0.3.160,255.255.255.0,1h"];
    dnsmasq(container, segment, &options)
}

const UDHCPC: &str = "udhcpc -f -n -q -i eth0 -t 10 -T 1 -s /bin/true";

/// The client reads raw frames, and throws away what has an unfinished checksum.
fn dhcp() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let c0 = segment.lab.container(0, "c0", &["10.0.3.3/24"])?;
    let _server = lease_server(&c0, &segment)?;
    let c1 = segment.lab.container(1, "c1", &[])?;
    lease(&c1, UDHCPC)
}

fn dhcp_lxc() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let c0 = segment.lab.container(0, "c0", &["10.0.3.3/24"])?;
    let _server = lease_server(&c0, &segment)?;
    let c1 = segment.lab.container_builder(1, "c1").kind(Kind::Lxc).start()?;
    lease(&c1, &format!("busybox {UDHCPC}"))
}

fn lease(client: &Container, line: &str) -> Outcome {
    let output = client.exec(line.split(' '))?;
    let text = format!("{}{}", output.stdout, output.stderr);
    ensure(output.success(), || format!("no lease: {text}"))?;
    let address = text.split("lease of ").nth(1).and_then(|rest| rest.split(' ').next());
    let address = address.ok_or_else(|| format!("which address? {text}"))?;
    ensure(address.starts_with("10.0.3.1") && text.contains("10.0.3.3"), || format!("a strange lease: {text}"))?;
    client.netns().ip(&format!("address add {address}/24 dev eth0"))?;
    client.ping(HERE, 2)?;
    Ok(())
}

fn router(container: &Container, segment: &Segment) -> Result<Process, Failed> {
    dnsmasq(container, segment, &["--enable-ra", "--dhcp-range=fd05::,ra-only,64"])
}

/// By itself: the client says nothing but what a kernel says when its link comes up.
fn advertised() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let c0 = segment.lab.container(0, "c0", &["fd05::1/64"])?;
    let _router = router(&c0, &segment)?;
    let c1 = segment.lab.container(1, "c1", &[])?;
    interrupt::wait_until("an address by router advertisement", Duration::from_secs(15), || {
        let addresses = c1.netns().ip("-6 address show dev eth0 scope global")?;
        Ok(addresses.contains("inet6 fd05::").then_some(()))
    })?;
    let routes = c1.netns().ip("-6 route show default")?;
    ensure(routes.contains("proto ra"), || format!("no default route: {routes:?}"))?;
    c1.ping("fd05::1", 2)?;
    Ok(())
}

/// The question goes to a group, and the answer comes from far away.
fn solicited() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let c0 = segment.lab.container(0, "c0", &["fd05::1/64"])?;
    let _router = router(&c0, &segment)?;
    let c1 = segment.lab.container(1, "c1", &[])?;
    let answer = interrupt::wait_until("a router to answer", Duration::from_secs(15), || {
        let output = c1.exec(["rdisc6", "-1", "-r", "1", "-w", "500", "eth0"])?;
        Ok(output.success().then_some(output.stdout))
    })?;
    ensure(answer.contains("fd05::/64"), || format!("another prefix: {answer}"))?;
    // The address of its frames is the router's own.
    ensure(answer.to_lowercase().contains(c0.mac()), || format!("another router: {answer}"))
}

/// IPOP's two known bugs were redirects and double answers.
fn thousand() -> Outcome {
    let segment = Segment::start(&Lab::builder())?;
    let (c0, c1) = segment.pair()?;
    thousand_pings(&c0, THERE)?;
    thousand_pings(&c1, HERE)?;
    thousand_pings(&c0, "fd03::104")
}

/// The bridge and the TAP of gw-b have addresses, as `lxc-net` gives them, and gw-b would route if it were asked to.
fn gateway_addresses() -> Outcome {
    let segment = Segment::start(&Lab::builder().bridge_address(1, "10.0.3.1/24"))?;
    let far = segment.lab.gateway(1).netns();
    far.sysctl("net/ipv4/ip_forward", "1")?;
    far.ip("address add 10.0.3.2/32 dev ipop")?;
    let (c0, _c1) = segment.pair()?;
    // Through gw-b as a router, the way that made IPOP's hosts send redirects.
    c0.netns().ip("route add default via 10.0.3.1")?;
    for target in ["10.0.3.1", "10.0.3.2", THERE] {
        thousand_pings(&c0, target)?;
    }
    Ok(())
}

fn thousand_pings(container: &Container, target: &str) -> Outcome {
    let mut port = RawPort::open(container.netns(), container.interface())?;
    let ping = container.run(["ping", "-n", "-q", "-i", "0.002", "-c", "1000", "-W", "2", target])?;
    let whole = "1000 packets transmitted, 1000 received, 0% packet loss";
    let clean = ping.contains(whole) && !ping.contains("duplicates") && !ping.contains("errors");
    ensure(clean, || format!("{target}: {ping}"))?;
    // Its own stack may not say all that came to it. Time for a straggler, too.
    let (mut answers, mut redirects) = (0, 0);
    for frame in port.capture(Duration::from_millis(100))? {
        let kind = match frame.get(12..14) {
            Some([0x08, 0x00]) if frame.get(23) == Some(&1) => frame.get(34),
            Some([0x86, 0xdd]) if frame.get(20) == Some(&58) => frame.get(54),
            _ => None,
        };
        match kind {
            Some(0 | 129) => answers += 1,
            // Redirect, and IPv6's redirect.
            Some(5 | 137) => redirects += 1,
            _ => {}
        }
    }
    ensure((answers, redirects) == (1000, 0), || format!("{target}: {answers} answers, {redirects} redirects"))?;
    ensure(port.recv(SOON / 50)?.is_none_or(|frame| frame.get(34) != Some(&0)), || "a late answer".into())
}
