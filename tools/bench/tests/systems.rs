//! Every system joins two bridges, stops without a trace, and can be started again; what this machine lacks is visibly
//! ignored.
//!
//! ```text
//!   c0 --- lxcbr0 --- (system) --- gw-a ===== gw-b --- (system) --- lxcbr0 --- c1
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ipop_bench::systems::{Kind, Running, all, select};
use ipop_lab::trials::{Outcome, run, trial_of};
use ipop_lab::{Cmd, Container, Lab, interrupt};
use libtest_mimic::Failed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Of the containers; the underlay has 1500.
const MTU: u32 = 1400;
const HERE: &str = "10.0.3.3";
const THERE: &str = "10.0.3.104";
/// The first answer comes within this time.
const FIRST_ANSWER: Duration = Duration::from_secs(15);
/// A process that was killed is missed within this time.
const MISSED: Duration = Duration::from_secs(3);
/// What the kernel still has to take apart is gone within this time.
const GONE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let trials = all().into_iter().map(|kind| {
        let id = kind.system().id;
        let available = kind.missing().map_or(Ok(()), |missing| Err(missing.reason));
        trial_of(&id.clone(), &available, move || whole_life(&id))
    });
    run(trials.collect())
}

fn whole_life(id: &str) -> Outcome {
    let [kind] = <[_; 1]>::try_from(select(&[id.to_owned()])?).map_err(|_| "one id selects one system")?;
    let lab = Lab::builder().build()?;
    let c0 = lab.container_builder(0, "c0").addresses(&["10.0.3.3/24"]).mtu(MTU).start()?;
    let c1 = lab.container_builder(1, "c1").addresses(&["10.0.3.104/24"]).mtu(MTU).start()?;
    let before = traces(&lab)?;

    for round in 1..=2 {
        let mut running = start(kind.as_ref(), &lab)?;
        passes(&c0, &c1)?;
        running.check()?;
        if round == 2 {
            killed(running.as_mut())?;
        }
        drop(running);
        gone(round, &lab, &before)?;
        ensure(!lab.lab_run().dir().join(id).exists(), &format!("round {round} leaves files behind"))?;
        forget(&c0, &c1)?;
        ensure(c0.ping(THERE, 1).is_err(), "frames still pass")?;
        // That nobody answered must not be remembered in the next round.
        forget(&c0, &c1)?;
    }
    Ok(())
}

/// Its processes must run, and be what their names say.
fn start(kind: &dyn Kind, lab: &Lab) -> Result<Box<dyn Running>, Failed> {
    let running = kind.start(lab, MTU)?;
    for (name, pid) in running.processes() {
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
        let program = command.trim();
        let known = name.contains(program) || program.strip_suffix('d').is_some_and(|program| name.contains(program));
        ensure(known && name.contains("gw-"), &format!("{name:?} is a {program:?}"))?;
    }
    let names = running.processes().len();
    let expected = if kind.system().version.is_some() { 2..=3 } else { 0..=0 };
    ensure(expected.contains(&names), &format!("{names} processes"))?;
    Ok(running)
}

/// Small and full-size packets, and the answer to an ARP request.
fn passes(c0: &Container, c1: &Container) -> Outcome {
    let begin = Instant::now();
    while let Err(error) = c0.ping(THERE, 1) {
        if begin.elapsed() > FIRST_ANSWER {
            return Err(error.into());
        }
    }
    c0.ping(THERE, 3)?;
    c1.ping(HERE, 1)?;
    let full = (MTU - 28).to_string();
    c0.run(["ping", "-c3", "-i0.2", "-W2", "-s", &full, "-M", "do", THERE])?;
    forget(c0, c1)?;
    c0.ping(THERE, 1)?;
    let neighbour = c0.netns().ip(&format!("neigh show {THERE}"))?;
    ensure(neighbour.contains(c1.mac()), &format!("{THERE} is not at {}: {neighbour}", c1.mac()))
}

/// Kills one process; the system must notice and tell which.
fn killed(running: &mut dyn Running) -> Outcome {
    let Some((name, pid)) = running.processes().pop() else {
        return Ok(());
    };
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?;
    let begin = Instant::now();
    loop {
        match running.check() {
            Err(error) => return ensure(error.to_string().contains(&name), &format!("no {name} in {error}")),
            Ok(()) if begin.elapsed() > MISSED => return Err(format!("nobody misses {name}").into()),
            Ok(()) => interrupt::sleep(Duration::from_millis(20))?,
        }
    }
}

fn forget(c0: &Container, c1: &Container) -> Outcome {
    for container in [c0, c1] {
        container.netns().ip("neigh flush all")?;
    }
    Ok(())
}

/// The gateways are as they were before. The kernel takes the rings of a process that was killed apart after its end, and
/// a TAP that they read goes with them (io_uring/io_uring.c, io_ring_ctx_wait_and_kill).
fn gone(round: u32, lab: &Lab, before: &[String]) -> Outcome {
    let begin = Instant::now();
    loop {
        let after = traces(lab)?;
        if after == before {
            return Ok(());
        }
        ensure(
            begin.elapsed() < GONE,
            &format!("round {round} leaves something behind: {before:#?} became {after:#?}"),
        )?;
        interrupt::sleep(Duration::from_millis(20))?;
    }
}

/// What a system could leave behind on the gateways: processes, interfaces and their MTU, routes, rules.
fn traces(lab: &Lab) -> ipop_lab::Result<Vec<String>> {
    let mut all = Vec::new();
    for gateway in lab.gateways() {
        let netns = gateway.netns();
        all.push(Cmd::new(["ip", "netns", "pids", netns.name()]).run()?);
        all.push(netns.ip("-oneline link show")?);
        all.push(netns.ip("route show table all")?);
        all.push(netns.ip("rule show")?);
    }
    Ok(all)
}

fn ensure(condition: bool, what: &str) -> Outcome {
    if condition { Ok(()) } else { Err(what.into()) }
}
