//! The lab itself: what it builds works without `ipop` too, and nothing remains of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use ipop_lab::arp::{Arp, Operation};
use ipop_lab::trials::{Outcome, run, trial};
use ipop_lab::{
    BRIDGE, Cmd, Container, Direction, Error, Family, Kind, Lab, RawPort, clean_stale, exists, interrupt,
    lab_available, lxc_available, tear_down, udp_socket, vlan_available,
};

/// The addresses of the two containers that most tests use.
const HERE: &str = "10.0.3.3";
const THERE: &str = "10.0.3.104";

/// How often a test process that shall be killed says that it is ready.
const HELPER: &str = "IPOP_LAB_TEST_HELPER";

fn main() -> ExitCode {
    if std::env::var_os(HELPER).is_some() {
        return leave_a_lab_behind();
    }
    let lab = lab_available();
    let lxc = lxc_available();
    let vlans = vlan_available();
    let plain = |name, test| trial(name, &lab, test);
    let tagged = |name, test| trial(name, &vlans, test);
    let real = |name, test| trial(name, &lxc, test);
    let trials = vec![
        plain("bridges_joined_by_a_veth_pass_frames", veth_joins),
        plain("bridges_joined_by_vxlan_pass_frames_over_ipv6", vxlan_joins),
        plain("four_gateways_reach_each_other", four_gateways),
        plain("a_container_moves_with_its_addresses", move_plain),
        tagged("a_vlan_is_a_segment_of_its_own", vlan),
        plain("a_raw_port_sends_and_receives", raw_port),
        plain("a_raw_port_keeps_vlan_tags", raw_port_tags),
        plain("a_udp_socket_belongs_to_its_namespace", udp),
        plain("a_path_can_be_a_black_hole_for_large_packets", path_mtu),
        plain("a_pulled_cable_can_be_put_back", cable),
        plain("a_command_that_hangs_is_killed", timeout),
        plain("an_error_tells_command_and_stderr", failure),
        plain("the_default_configuration_names_the_other_gateways", configuration),
        plain("nothing_remains_after_a_panic", panic),
        plain("two_labs_at_once", two_labs),
        plain("a_kept_lab_is_taken_down_by_name", kept),
        plain("what_a_killed_process_left_is_removed", killed),
        real("lxc_containers_ping_each_other", lxc_ping),
        real("an_lxc_container_moves", lxc_move),
        real("an_lxc_container_runs_iperf3", lxc_iperf),
        real("a_command_in_an_lxc_container_is_killed_on_drop", lxc_spawn),
    ];
    run(trials)
}

fn pair(lab: &Lab) -> ipop_lab::Result<(Container, Container)> {
    Ok((
        lab.container(0, "c0", &["10.0.3.3/24", "fd03::3/64"])?,
        lab.container(1, "c1", &["10.0.3.104/24", "fd03::104/64"])?,
    ))
}

fn ensure(condition: bool, what: &str) -> Outcome {
    if condition { Ok(()) } else { Err(what.into()) }
}

/// Fails while anything of a run is left: namespaces, files, processes inside.
fn ensure_gone(run: &str, dir: &Path) -> Outcome {
    let namespaces = Cmd::words("ip netns list").run()?;
    ensure(!namespaces.contains(run), &format!("namespaces of {run} remain: {namespaces}"))?;
    ensure(!dir.exists(), &format!("{} remains", dir.display()))?;
    ensure(!exists(run), &format!("{run} still exists"))?;
    let processes = Cmd::words("ps -e -o pid,args").run()?;
    ensure(!processes.contains(&format!("{run}/")), &format!("processes remain: {processes}"))
}

fn veth_joins() -> Outcome {
    let lab = Lab::builder().build()?;
    let (c0, c1) = pair(&lab)?;
    ensure(c0.ping(THERE, 1).is_err(), "nothing joins the bridges, yet a ping passes")?;
    // That nobody answered is remembered for a while.
    c0.netns().ip("neigh flush all")?;
    lab.join_by_veth()?;
    c0.ping(THERE, 3)?;
    c1.ping("fd03::3", 3)?;
    lab.gateway(0).run(["ping", "-c1", "-W2", "10.99.0.2"])?;
    Ok(())
}

fn vxlan_joins() -> Outcome {
    let lab = Lab::builder().family(Family::V6).underlay_mtu(1600).build()?;
    lab.join_by_vxlan()?;
    let (c0, _c1) = pair(&lab)?;
    c0.ping(THERE, 3)?;
    c0.run(["ping", "-c1", "-W2", "-s", "1472", "-M", "do", THERE])?;
    lab.gateway(0).run(["ping", "-c1", "-W2", "fd99::2"])?;
    Ok(())
}

fn four_gateways() -> Outcome {
    let lab = Lab::builder().gateways(4).build()?;
    lab.join_by_veth()?;
    let names = ["c0", "c1", "c2", "c3"];
    let addresses = ["10.0.3.1", "10.0.3.2", "10.0.3.3", "10.0.3.4"];
    let mut containers = Vec::new();
    for (index, (name, address)) in names.into_iter().zip(addresses).enumerate() {
        containers.push(lab.container(index, name, &[&format!("{address}/24")])?);
    }
    for (index, container) in containers.iter().enumerate() {
        for (other, address) in addresses.iter().enumerate().filter(|(other, _)| *other != index) {
            container.ping(address, 1)?;
            let underlay = format!("10.99.0.{}", other + 1);
            lab.gateway(index).run(["ping", "-c1", "-W2", &underlay])?;
        }
    }
    Ok(())
}

fn move_plain() -> Outcome {
    let lab = Lab::builder().gateways(3).build()?;
    lab.join_by_veth()?;
    moves(&lab)
}

fn moves(lab: &Lab) -> Outcome {
    let (c0, mut c1) = pair(lab)?;
    c0.ping(THERE, 1)?;
    let mac = c1.mac().to_owned();
    c1.move_to(lab.gateway(2))?;
    c1.announce()?;
    ensure(c1.netns().mac_of(c1.interface())? == mac, "the MAC changed")?;
    ensure(c1.gateway().index() == 2, "it is not where it moved to")?;
    c0.ping(THERE, 2)?;
    c1.move_to(lab.gateway(0))?;
    c1.announce()?;
    c0.ping(THERE, 2)?;
    Ok(())
}

fn vlan() -> Outcome {
    let lab = Lab::builder().build()?;
    lab.join_by_veth()?;
    let (mut c0, mut c1) = pair(&lab)?;
    c0.add_vlan(10, &["10.10.0.1/24"])?;
    c1.add_vlan(10, &["10.10.0.2/24"])?;
    c1.add_vlan(11, &["10.11.0.2/24"])?;
    c0.ping("10.10.0.2", 2)?;
    // A raw port on the VLAN's interface sees what belongs to the VLAN.
    let mut port = RawPort::open(c1.netns(), "eth0.10")?;
    c0.ping("10.10.0.2", 1)?;
    let (_, seen) = port.capture_until(Duration::from_secs(2), |frame| frame.get(12..14) == Some(&[0x08, 0x00]))?;
    ensure(seen, "the raw port on the VLAN saw nothing")
}

fn raw_port() -> Outcome {
    let lab = Lab::builder().without_inner_ipv6().build()?;
    lab.join_by_veth()?;
    let (c0, c1) = pair_v4(&lab)?;
    let (here, there): (Ipv4Addr, Ipv4Addr) = (HERE.parse()?, THERE.parse()?);
    let mut port = RawPort::open(c0.netns(), c0.interface())?;
    let mut bridge = RawPort::open_for(lab.gateway(1).netns(), BRIDGE, Direction::Both)?;
    let request = Arp::request(c0.mac_bytes()?, here, there);
    port.send(&request.frame())?;
    let answer = |frame: &[u8]| Arp::parse(frame).is_some_and(|arp| arp.operation == Operation::Reply);
    let (frames, answered) = port.capture_until(Duration::from_secs(2), answer)?;
    ensure(answered, "no ARP reply")?;
    let reply = frames.last().and_then(|frame| Arp::parse(frame)).ok_or("no reply")?;
    ensure(reply.sender_mac == c1.mac_bytes()? && reply.sender_ip == there, "a strange reply")?;
    // Its own request must not come back to it.
    ensure(frames.iter().all(|frame| Arp::parse(frame) != Some(request)), "an echo")?;
    let seen = bridge.capture(Duration::from_millis(100))?;
    ensure(seen.iter().any(|frame| Arp::parse(frame) == Some(request)), "the bridge saw no request")?;
    // Silence is reported in time.
    let start = Instant::now();
    ensure(port.recv(Duration::from_millis(50))?.is_none(), "a frame out of nothing")?;
    ensure(start.elapsed() < Duration::from_secs(1), "recv took too long")
}

fn raw_port_tags() -> Outcome {
    let lab = Lab::builder().without_inner_ipv6().build()?;
    lab.join_by_veth()?;
    let (c0, c1) = pair_v4(&lab)?;
    let sender = RawPort::open(c0.netns(), c0.interface())?;
    let mut receiver = RawPort::open(c1.netns(), c1.interface())?;
    let mut frame = Arp::request(c0.mac_bytes()?, HERE.parse()?, THERE.parse()?).frame();
    frame.splice(12..12, [0x81, 0x00, 0x60, 0x0a]);
    sender.send(&frame)?;
    let (frames, seen) = receiver.capture_until(Duration::from_secs(2), |seen| seen == frame)?;
    ensure(seen, &format!("{frame:02x?} became {frames:02x?}"))
}

fn pair_v4(lab: &Lab) -> ipop_lab::Result<(Container, Container)> {
    Ok((lab.container(0, "c0", &["10.0.3.3/24"])?, lab.container(1, "c1", &["10.0.3.104/24"])?))
}

fn udp() -> Outcome {
    let lab = Lab::builder().build()?;
    let timeout = Duration::from_secs(2);
    let receiver = udp_socket(lab.gateway(1).netns(), "0.0.0.0:5800".parse()?, timeout)?;
    let sender = udp_socket(lab.gateway(0).netns(), "0.0.0.0:0".parse()?, timeout)?;
    sender.send_to(b"garbage", lab.gateway(1).endpoint())?;
    let mut buffer = [0; 64];
    let (length, from): (usize, SocketAddr) = receiver.recv_from(&mut buffer)?;
    ensure(&buffer[..length] == b"garbage", "other garbage")?;
    ensure(from.ip() == lab.gateway(0).underlay_ip(), "from somewhere else")
}

fn path_mtu() -> Outcome {
    let lab = Lab::builder().switched().build()?;
    let large = ["ping", "-c1", "-W1", "-s", "1472", "-M", "do", "10.99.0.2"];
    lab.gateway(0).run(large)?;
    lab.set_path_mtu(1, 1400)?;
    ensure(!lab.gateway(0).exec(large)?.success(), "the large packet passed")?;
    lab.gateway(0).run(["ping", "-c1", "-W1", "-s", "1300", "-M", "do", "10.99.0.2"])?;
    let plain = Lab::builder().build()?;
    ensure(plain.set_path_mtu(1, 1400).is_err(), "there is no switch, yet it was changed")
}

fn cable() -> Outcome {
    let lab = Lab::builder().family(Family::V6).build()?;
    let ping = ["ping", "-c1", "-W1", "fd99::2"];
    lab.gateway(0).run(ping)?;
    lab.gateway(1).set_underlay(false)?;
    ensure(!lab.gateway(0).exec(ping)?.success(), "a ping through no cable")?;
    lab.gateway(1).set_underlay(true)?;
    interrupt::wait_until("the ping to pass again", Duration::from_secs(5), || {
        Ok(lab.gateway(0).exec(ping)?.success().then_some(()))
    })?;
    Ok(())
}

fn timeout() -> Outcome {
    let lab = Lab::builder().build()?;
    let start = Instant::now();
    // The grandchild must die with it.
    let command = lab.gateway(0).netns().command(["sh", "-c", "echo begun; sleep 98765 & wait"]);
    let result = command.timeout(Duration::from_millis(200)).output();
    match result {
        Err(Error::TimedOut { command, text, .. }) => {
            ensure(command.contains("sleep 98765"), "the command line is missing")?;
            ensure(text.contains("begun"), "what it wrote is missing")?;
        }
        other => return Err(format!("not a timeout: {other:?}").into()),
    }
    ensure(start.elapsed() < Duration::from_secs(3), "it took too long")?;
    let inside = Cmd::words(&format!("ip netns pids {}", lab.gateway(0).netns().name())).run()?;
    ensure(inside.trim().is_empty(), "a grandchild survived")
}

fn failure() -> Outcome {
    let lab = Lab::builder().build()?;
    let error = lab.gateway(0).run(["ip", "link", "set", "nosuch", "up"]).err();
    let text = error.ok_or("it succeeded")?.to_string();
    ensure(text.contains("ip link set nosuch up") && text.contains("Cannot find device"), &text)?;
    let output = lab.gateway(0).exec(["sh", "-c", "echo out; echo err >&2; exit 3"])?;
    ensure(output.status.code() == Some(3), "another exit status")?;
    ensure(output.stdout == "out\n" && output.stderr == "err\n", "other texts")
}

fn configuration() -> Outcome {
    let lab = Lab::builder().gateways(3).build()?;
    let config = lab.gateway(1).config();
    ensure(config["name"] == "gw-b" && config["listen"] == "10.99.0.2:5800", "gw-b is someone else")?;
    let peers: Vec<&str> =
        config["peers"].as_array().ok_or("no peers")?.iter().filter_map(|peer| peer["address"].as_str()).collect();
    ensure(peers == ["10.99.0.1:5800", "10.99.0.3:5800"], &format!("{peers:?}"))?;
    let six = Lab::builder().family(Family::V6).build()?;
    ensure(six.gateway(0).config()["listen"] == "[fd99::1]:5800", "IPv6 is written otherwise")
}

fn panic() -> Outcome {
    let lab = Lab::builder().build()?;
    let (run, dir) = (lab.lab_run().name().to_owned(), lab.lab_run().dir().to_owned());
    let thread = thread::spawn(move || {
        let _sleeper = lab.gateway(0).spawn(["sleep", "1000"]).expect("sleep");
        let _container = lab.container(0, "c0", &["10.0.3.3/24"]).expect("container");
        // Not by `panic!`: the message would look as if this test had failed.
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    ensure(thread.join().is_err(), "it did not panic")?;
    ensure_gone(&run, &dir)
}

fn two_labs() -> Outcome {
    let threads: Vec<_> = (0..2)
        .map(|_| {
            thread::spawn(|| -> ipop_lab::Result<(String, PathBuf)> {
                let lab = Lab::builder().build()?;
                lab.join_by_veth()?;
                let (c0, _c1) = pair(&lab)?;
                c0.ping(THERE, 3)?;
                Ok((lab.lab_run().name().to_owned(), lab.lab_run().dir().to_owned()))
            })
        })
        .collect();
    let mut names = Vec::new();
    for thread in threads {
        let (name, dir) = thread.join().map_err(|_| "a lab panicked")??;
        ensure_gone(&name, &dir)?;
        names.push(name);
    }
    ensure(names[0] != names[1], "both have the same name")
}

fn kept() -> Outcome {
    let name = format!("ipop-lab-test-{}", std::process::id());
    let lab = Lab::builder().name(&name).build()?;
    let dir = lab.lab_run().dir().to_owned();
    ensure(Lab::builder().name(&name).build().is_err(), "the same name twice")?;
    let container = lab.container(0, "c0", &["10.0.3.3/24"])?;
    lab.keep();
    drop((container, lab));
    ensure(exists(&name), "it was not kept")?;
    Cmd::words(&format!("ip -n {name}-c0 link show eth0")).run()?;
    tear_down(&name)?;
    ensure_gone(&name, &dir)
}

fn killed() -> Outcome {
    let own = std::env::current_exe()?;
    let mut child = Command::new(own).env(HELPER, "1").stdout(std::process::Stdio::piped()).spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().ok_or("no stdout")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    let run = line.trim().to_owned();
    let before = exists(&run);
    child.kill()?;
    child.wait()?;
    ensure(before && exists(&run), "the helper made no lab")?;
    let removed = clean_stale()?;
    ensure(removed.contains(&run), &format!("{run} is not among {removed:?}"))?;
    ensure_gone(&run, &Path::new("/var/lib/ipop-lab").join(&run))
}

/// The process that [`killed`] kills.
fn leave_a_lab_behind() -> ExitCode {
    let build = || -> ipop_lab::Result<()> {
        let kind = if lxc_available().is_ok() { Kind::Lxc } else { Kind::Plain };
        let lab = Lab::builder().containers(kind).build()?;
        let _container = lab.container(0, "c0", &["10.0.3.3/24"])?;
        let _sleeper = lab.gateway(1).spawn(["sleep", "1000"])?;
        println!("{}", lab.lab_run().name());
        thread::sleep(Duration::from_secs(60));
        Ok(())
    };
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn lxc_ping() -> Outcome {
    let lab = Lab::builder().containers(Kind::Lxc).build()?;
    let (run, dir) = (lab.lab_run().name().to_owned(), lab.lab_run().dir().to_owned());
    lab.join_by_veth()?;
    let (c0, c1) = pair(&lab)?;
    c0.ping(THERE, 3)?;
    c1.ping("fd03::3", 3)?;
    ensure(c0.run(["cat", "/proc/1/comm"])?.trim() == "init", "it has no init of its own")?;
    ensure(c0.netns().mac_of("eth0")? == c0.mac(), "another MAC")?;
    ensure(c0.exec(["false"])?.status.code() == Some(1), "the exit status is lost")?;
    c0.down()?;
    drop((c1, lab));
    ensure_gone(&run, &dir)
}

fn lxc_move() -> Outcome {
    let lab = Lab::builder().gateways(3).containers(Kind::Lxc).build()?;
    lab.join_by_veth()?;
    moves(&lab)
}

fn lxc_iperf() -> Outcome {
    let lab = Lab::builder().containers(Kind::Lxc).build()?;
    lab.join_by_veth()?;
    let (c0, c1) = pair(&lab)?;
    let mut server = c1.spawn(["iperf3", "-s", "-1", "--forceflush"])?;
    server.wait_for_stdout("Server listening", Duration::from_secs(5))?;
    let report = c0.run(["iperf3", "-c", THERE, "-t", "1", "-J"])?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    let rate = report.pointer("/end/sum_received/bits_per_second").and_then(|rate| rate.as_f64());
    ensure(rate.is_some_and(|rate| rate > 1e6), &format!("{rate:?} bit/s"))?;
    let output = server.wait(Duration::from_secs(5))?;
    ensure(output.success(), "the server failed")
}

fn lxc_spawn() -> Outcome {
    let lab = Lab::builder().containers(Kind::Lxc).build()?;
    let c0 = lab.container(0, "c0", &[])?;
    let sleeper = c0.spawn(["sleep", "98764"])?;
    let count = || -> ipop_lab::Result<usize> {
        let processes = Cmd::words("ps -e -o args").run()?;
        Ok(processes.lines().filter(|line| *line == "sleep 98764").count())
    };
    interrupt::wait_until("the command to run", Duration::from_secs(3), || Ok((count()? == 1).then_some(())))?;
    drop(sleeper);
    interrupt::wait_until("the command to be gone", Duration::from_secs(3), || Ok((count()? == 0).then_some(())))?;
    Ok(())
}
