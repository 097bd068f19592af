//! The story: what IPOP's page tells of c0 that pings c1, seen happen.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipop_lab::arp::{Arp, BROADCAST, Operation};
use ipop_lab::{Container, Daemon, Direction, Error, Kind, Lab, RawPort, Result, interrupt, lxc_available};
use serde_json::Value;

use crate::RUN;
use crate::page::Page;

/// The addresses of the containers on IPOP's page.
const C0: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 3);
const C1: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 104);

/// The gateways must hear of each other within this time.
const PEERS_UP: Duration = Duration::from_secs(15);
/// What is on its way arrives within this time.
const SETTLED: Duration = Duration::from_millis(200);

const DRAWING: &str = "
  gw-a                                          gw-b
 +---------------------------------+           +---------------------------------+
 | lxcbr0 ---- ipop (TAP)          |           |          (TAP) ipop ---- lxcbr0 |
 |   |           |                 |           |                 |           |   |
 |   |       [ipop run] --- eth0 --+-- UDP ----+-- eth0 --- [ipop run]       |   |
 |   |                 10.99.0.1   |           |   10.99.0.2                 |   |
 +---|-----------------------------+           +-----------------------------|---+
     | eth0                                                             eth0 |
  c0   10.0.3.3                                                  10.0.3.104   c1";

/// Everything that takes part.
struct Scene<'a> {
    page: &'a Page,
    c0: Container,
    c1: Container,
    gw_a: Daemon,
    gw_b: Daemon,
}

/// Tells the story; what it built is gone when it returns, unless `keep`.
pub(crate) fn tell(page: &Page, keep: bool) -> Result<()> {
    page.title("ipop: containers on the bridges of two hosts, on one layer-2 segment");
    let kind = match lxc_available() {
        Ok(()) => {
            page.say(
                "The containers are real LXC containers. The two gateway hosts are network namespaces of this machine.",
            );
            Kind::Lxc
        }
        Err(reason) => {
            page.say("LXC containers cannot run here, so plain network namespaces stand in for them. The reason:");
            page.aside(&reason);
            Kind::Plain
        }
    };

    page.step("Two gateways with a bridge and a container each");
    let lab = Lab::builder().name(RUN).containers(kind).without_inner_ipv6().build()?;
    let c0 = lab.container(0, "c0", &[&format!("{C0}/24")])?;
    let c1 = lab.container(1, "c1", &[&format!("{C1}/24")])?;
    page.output(DRAWING);
    page.say("");
    page.say("The gateways reach each other on the underlay, 10.99.0.0/24. The containers do not: nothing joins the two bridges yet.");
    let before = c0.exec(["ping", "-n", "-c", "1", "-W", "1", &C1.to_string()])?;
    page.command("c0", &format!("ping -c 1 {C1}"));
    page.output(summary(&before.stdout));
    ensure(!before.success(), "the containers reach each other without ipop")?;
    page.check("no answer");
    // That nobody answered is remembered for a moment.
    c0.netns().ip("neigh flush dev eth0")?;

    page.step("ipop starts on both gateways");
    let config_a = lab.gateway(0).config();
    let gw_a = lab.gateway(0).start_ipop(&config_a)?;
    let gw_b = lab.gateway(1).start_ipop(&lab.gateway(1).config())?;
    page.command("gw-a", &format!("cat {}", gw_a.config_file().display()));
    page.output(&serde_json::to_string_pretty(&config_a).unwrap_or_default());
    for daemon in [&gw_a, &gw_b] {
        let run = format!("ipop run --config {} &", daemon.config_file().display());
        page.command(daemon.gateway().name(), &run);
    }
    gw_a.wait_peers_up(PEERS_UP)?;
    gw_b.wait_peers_up(PEERS_UP)?;
    page.check("the TAP ipop is a port of lxcbr0 on both, and each gateway hears the other");

    let scene = Scene { page, c0, c1, gw_a, gw_b };
    scene.first_resolution()?;
    scene.ping()?;
    scene.second_resolution()?;
    scene.throughput()?;
    scene.full_size()?;
    scene.tables()?;
    if keep {
        scene.keep(&lab);
    } else {
        page.step("Everything is taken down");
    }
    Ok(())
}

impl Scene<'_> {
    /// Steps ① to ⑥ of IPOP's page.
    fn first_resolution(&self) -> Result<()> {
        let page = self.page;
        page.step("c0 pings c1 for the first time: the ARP exchange ① to ⑥");
        let mut at_c0 = self.tap_cable(&self.c0)?;
        let mut at_c1 = self.tap_cable(&self.c1)?;
        page.command("c0", &format!("ping -c 1 {C1}"));
        page.output(&self.c0.ping(&C1.to_string(), 1)?);

        let (sent, answered) = interrupt::wait_until("the ARP RPC", Duration::from_secs(3), || {
            let sent = self.rpc(&self.gw_a, "sent", "arp_request")?;
            let answered = self.rpc(&self.gw_b, "sent", "arp_reply")?;
            Ok(sent.zip(answered))
        })?;
        let (mac0, mac1) = (self.c0.mac_bytes()?, self.c1.mac_bytes()?);
        let request =
            |arp: &Arp| arp.operation == Operation::Request && arp.target_ip == C1 && arp.destination == BROADCAST;
        let reply = |arp: &Arp| arp.operation == Operation::Reply && arp.sender_ip == C1;
        let near = arps(&at_c0.capture(SETTLED)?);
        let far = arps(&at_c1.capture(SETTLED)?);
        let asked = one(&near, request, "ARP requests of c0 on its bridge")?;
        let repeated = one(&far, request, "ARP requests for c1 on its bridge")?;
        let replied = one(&far, reply, "ARP replies of c1 on its bridge")?;
        let delivered = one(&near, reply, "ARP replies that reach c0")?;

        page.say("");
        page.say("What passed, seen at the bridge ports of c0 and c1, and by `ipop rpc --json` on both gateways:");
        let steps = [
            ("① c0 asks its bridge", asked.to_string()),
            ("② gw-a asks its peers, by RPC", sent.to_string()),
            ("③ gw-b asks its own bridge, in c0's name", repeated.to_string()),
            ("④ c1 answers", replied.to_string()),
            ("⑤ gw-b tells its peers, by RPC", answered.to_string()),
            ("⑥ gw-a answers c0", delivered.to_string()),
        ];
        for (what, seen) in &steps {
            page.output(what);
            page.aside(&format!("   {seen}"));
        }
        ensure(repeated.sender_mac == mac0 && repeated.sender_ip == C0, "③ was not asked in c0's name")?;
        ensure(delivered.sender_mac == mac1, "⑥ does not carry the MAC of c1")?;
        let asks_back = |arp: &Arp| arp.operation == Operation::Request && arp.sender_ip == C1;
        ensure(!far.iter().any(asks_back), "c1 had to ask for the MAC of c0")?;
        for (daemon, kind) in [(&self.gw_b, "arp_request"), (&self.gw_a, "arp_reply")] {
            let arrived = self.rpc(daemon, "received", kind)?.is_some();
            ensure(arrived, &format!("{} received no {kind}", daemon.gateway().name()))?;
        }
        page.check("one question, one answer; c1 learned c0's MAC from ③ and did not ask");
        Ok(())
    }

    fn ping(&self) -> Result<()> {
        let page = self.page;
        page.step("Frames go straight to the gateway that owns the destination");
        page.command("c0", &format!("ping -c 10 -i 0.2 {C1}"));
        let text = self.c0.ping(&C1.to_string(), 10)?;
        page.output(&text);
        ensure(!text.contains("Redirect"), "an ICMP redirect came")?;
        page.check("nothing lost, nothing twice, no ICMP redirect");
        Ok(())
    }

    /// The cache of c0 is emptied; gw-a answers from its table.
    fn second_resolution(&self) -> Result<()> {
        let page = self.page;
        page.step("c0 forgets, and asks again: gw-a answers by itself");
        page.say("When the neighbour entry of c0 has expired, c0 broadcasts the same ARP request. gw-a still has the answer in its table, so that no RPC leaves.");
        let mut at_c1 = self.tap_cable(&self.c1)?;
        let names = ["requests_captured", "answered_locally", "rpc_requests_sent"];
        let read =
            || -> Result<Vec<u64>> { names.iter().map(|name| self.gw_a.counter(&format!("/arp/{name}"))).collect() };
        let before = read()?;
        page.command("c0", "ip neigh flush dev eth0");
        self.c0.run(["ip", "neigh", "flush", "dev", "eth0"])?;
        page.command("c0", &format!("ping -c 1 {C1}"));
        page.output(summary(&self.c0.ping(&C1.to_string(), 1)?));
        let after = read()?;
        let seen = arps(&at_c1.capture(SETTLED)?);
        page.command("gw-a", "ipop status --json    (\"arp\", before and after)");
        for ((name, before), after) in names.iter().zip(&before).zip(&after) {
            page.output(&format!("{name:<20} {before:>4} -> {after:>4}"));
        }
        ensure(after[1] > before[1], "gw-a did not answer from its table")?;
        ensure(after[2] == before[2], "an arp_request RPC left gw-a")?;
        let broadcast = seen.iter().any(|arp| arp.destination == BROADCAST && arp.target_ip == C1);
        ensure(!broadcast, "the request was seen on the bridge of gw-b")?;
        page.check("answered locally: no RPC was sent, and the bridge of gw-b heard nothing of it");
        Ok(())
    }

    fn throughput(&self) -> Result<()> {
        let page = self.page;
        page.step("TCP throughput, both ways");
        let mut server = self.c1.spawn(["iperf3", "-s", "--forceflush"])?;
        server.wait_for_stdout("Server listening", Duration::from_secs(5))?;
        page.command("c1", "iperf3 -s &");
        let target = C1.to_string();
        for (direction, what) in [(None, "c0 to c1"), (Some("-R"), "c1 to c0")] {
            let line = ["iperf3", "-c", &target, "-t", "4", "-f", "g"];
            let command = self.c0.command(line.into_iter().chain(direction));
            page.command("c0", &[&line[..], direction.as_slice()].concat().join(" "));
            let text = command.timeout(Duration::from_secs(20)).run()?;
            let result = text
                .lines()
                .find(|line| line.trim_end().ends_with("receiver"))
                .ok_or_else(|| Error::other(format!("iperf3 told no result: {text}")))?;
            let lines = text.lines().filter(|line| line.contains("sender") || line.contains("receiver"));
            page.output(&lines.collect::<Vec<_>>().join("\n"));
            let rate = rate_in(result).filter(|rate| *rate > 0.0);
            let rate = rate.ok_or_else(|| Error::other(format!("nothing got through: {result}")))?;
            page.check(&format!("{what}: {rate} Gbit/s"));
        }
        Ok(())
    }

    fn full_size(&self) -> Result<()> {
        let page = self.page;
        page.step("The containers keep their MTU of 1500, although the underlay has no more than that itself");
        let target = C1.to_string();
        let line = ["ping", "-n", "-c", "3", "-i", "0.2", "-M", "do", "-s", "1472", &target];
        page.command("c0", &line.join(" "));
        let text = self.c0.run(line)?;
        page.output(&text);
        ensure(text.contains(" 0% packet loss"), "full-size packets were lost")?;
        page.check("1500-byte packets with \"don't fragment\" arrive");
        Ok(())
    }

    fn tables(&self) -> Result<()> {
        let page = self.page;
        page.step("What gw-a knows");
        for kind in ["peers", "macs", "arp", "status"] {
            page.command("gw-a", &format!("ipop {kind}"));
            page.output(&self.gw_a.query(kind, false).run()?);
        }
        let knows = |kind: &str, list: &str, key: &str, value: &str, place: &str| -> Result<()> {
            let table = self.gw_a.status(kind)?;
            let rows = table[list].as_array().cloned().unwrap_or_default();
            let found = rows.iter().any(|row| row[key] == value && row["where"] == place);
            ensure(found, &format!("`ipop {kind}` does not show {value} at {place}"))
        };
        knows("macs", "macs", "mac", self.c0.mac(), "local")?;
        knows("macs", "macs", "mac", self.c1.mac(), "gw-b")?;
        knows("arp", "entries", "ip", &C1.to_string(), "gw-b")?;
        page.check("c0 is local, c1 is behind gw-b");
        Ok(())
    }

    /// Leaves all as it is and says how to use it.
    fn keep(self, lab: &Lab) {
        let page = self.page;
        lab.keep();
        page.step("The lab stays up");
        page.say("A shell in the containers, a shell on the gateways, a question to ipop:");
        page.output("");
        for container in [&self.c0, &self.c1] {
            page.output(&container.manual_command("sh"));
        }
        for daemon in [&self.gw_a, &self.gw_b] {
            page.output(&format!("ip netns exec {} sh", daemon.gateway().netns().name()));
            page.output(&daemon.query("arp", false).line());
        }
        page.say("");
        page.say("Take it down with: tools/demo --down");
    }

    /// A raw port at the bridge's end of a container's cable: sees what the container sends and what it gets.
    fn tap_cable(&self, container: &Container) -> Result<RawPort> {
        RawPort::open_for(container.gateway().netns(), &container.port(), Direction::Both)
    }

    /// The RPC message about c1 of this kind that a gateway saw last.
    fn rpc(&self, daemon: &Daemon, direction: &str, kind: &str) -> Result<Option<Value>> {
        let answer = daemon.status("rpc")?;
        let messages = answer["messages"].as_array().cloned().unwrap_or_default();
        let target = C1.to_string();
        let wanted = |entry: &&Value| {
            let message = &entry["message"];
            entry["direction"] == direction && message["msg_type"] == kind && message["target_ip4"] == target.as_str()
        };
        Ok(messages.iter().rev().find(wanted).map(|entry| entry["message"].clone()))
    }
}

fn ensure(condition: bool, complaint: &str) -> Result<()> {
    if condition { Ok(()) } else { Err(Error::other(complaint)) }
}

fn arps(frames: &[Vec<u8>]) -> Vec<Arp> {
    frames.iter().filter_map(|frame| Arp::parse(frame)).collect()
}

/// The message that there must be exactly one of.
fn one(messages: &[Arp], wanted: impl Fn(&Arp) -> bool, what: &str) -> Result<Arp> {
    let found: Vec<Arp> = messages.iter().copied().filter(wanted).collect();
    match found[..] {
        [only] => Ok(only),
        _ => Err(Error::other(format!("{} {what} instead of one", found.len()))),
    }
}

/// The last lines of what ping writes.
fn summary(text: &str) -> &str {
    text.find("---").map_or(text, |start| &text[start..])
}

/// The number before "Gbits/sec" in a line of iperf3.
fn rate_in(line: &str) -> Option<f64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "Gbits/sec")?;
    words.get(unit.checked_sub(1)?)?.parse().ok()
}
