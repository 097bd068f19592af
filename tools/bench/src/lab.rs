//! A lab to measure in: two gateways, a container on each, and room for one system after the other between them.

use std::env;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipop_lab::{Cmd, Container, Kind, Lab, Process, TAP, interrupt, lxc_available};

use crate::error::{Context, Error, Result};
use crate::result::fingerprint::Fingerprint;
use crate::result::{Measurement, ResultFile};
use crate::scenario::Scenario;
use crate::session::PORT;
use crate::systems;

/// The addresses of the two ends.
const NEAR: &str = "10.0.3.3";
const FAR: &str = "10.0.3.104";
const GUEST: &str = "10.0.3.5/24";
/// Where a container finds the program and the host's processes.
const PROGRAM_INSIDE: &str = "/usr/bin/ipop-bench";
const PROC_INSIDE: &str = "/host-proc";
/// The underlay's MTU.
const UNDERLAY_MTU: u32 = 1500;
/// The containers' MTU, unless the scenario has another.
const USUAL_INNER_MTU: u32 = 1400;
/// A system must carry a ping within this time after it was started.
const REACHABLE: Duration = Duration::from_secs(20);
/// `serve` must listen within this time.
const LISTENING: Duration = Duration::from_secs(10);
/// How often to look how far a measurement is.
const GLANCE: Duration = Duration::from_millis(500);

/// On which cores the two ends run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pins {
    /// The core of the end that generates.
    pub near: usize,
    /// The core of the other end.
    pub far: usize,
}

/// The lab. Dropping it takes it down.
#[derive(Debug)]
pub struct Bench {
    // Dropped in this order: containers, gateways.
    near: Container,
    far: Container,
    lab: Lab,
    program: String,
    proc: String,
    inner_mtu: u32,
    pins: Option<Pins>,
    lxc: std::result::Result<(), String>,
}

impl Bench {
    /// Builds it: LXC containers where they can be had, plain namespaces elsewhere.
    pub fn build(inner_mtu: u32, pins: Option<Pins>) -> Result<Self> {
        ipop_lab::lab_available().map_err(|reason| Error::other(format!("no lab can be built here: {reason}")))?;
        ipop_lab::clean_stale()?;
        let inner_mtu = if inner_mtu == 0 { USUAL_INNER_MTU } else { inner_mtu };
        let own = env::current_exe().context("finding the running program")?;
        let lxc = lxc_available();
        let (kind, program, proc) = match lxc {
            Ok(()) => (Kind::Lxc, PROGRAM_INSIDE.to_owned(), PROC_INSIDE),
            Err(_) => (Kind::Plain, own.display().to_string(), "/proc"),
        };
        let lab = Lab::builder().underlay_mtu(UNDERLAY_MTU).containers(kind).build()?;
        let container = |gateway, name, address: &str| {
            lab.container_builder(gateway, name)
                .addresses(&[&format!("{address}/24")])
                .mtu(inner_mtu)
                .bind(own.clone(), PROGRAM_INSIDE)
                .bind(PathBuf::from("/proc"), PROC_INSIDE)
                .start()
        };
        let (near, far) = (container(0, "near", NEAR)?, container(1, "far", FAR)?);
        Ok(Self { near, far, lab, program, proc: proc.to_owned(), inner_mtu, pins, lxc })
    }

    /// Starts `serve`. Each measurement gets one of its own: a system may die and leave the other end waiting for a `run` that has
    /// long gone.
    fn serve(&self) -> Result<Process> {
        let mut line = vec![self.program.clone(), "serve".into(), "--listen".into(), format!("{FAR}:{PORT}")];
        line.extend(pin(self.pins.map(|pins| pins.far)));
        let mut serve = self.far.spawn(line)?;
        serve.wait_for_stdout("listening", LISTENING)?;
        Ok(serve)
    }

    /// Notes how the lab is set up.
    pub fn describe(&self, fingerprint: &mut Fingerprint) {
        let containers = match &self.lxc {
            Ok(()) => "LXC".to_owned(),
            Err(reason) => format!("plain namespaces ({reason})"),
        };
        fingerprint.set("containers", containers);
        fingerprint.set("inner MTU", self.inner_mtu);
        fingerprint.set("underlay MTU", UNDERLAY_MTU);
        let pins = self.pins.map(|pins| format!("near {}, far {}", pins.near, pins.far));
        fingerprint.set("pinned to cores", pins.unwrap_or_else(|| "none".into()));
    }

    /// Starts a system, measures it, and takes it away again. What goes wrong with it stands in the result; only an
    /// interrupt is an error. `note` is told how far it is.
    pub fn measure(
        &mut self,
        kind: &dyn systems::Kind,
        scenario: &Scenario,
        round: u32,
        note: &mut dyn FnMut(&str),
    ) -> Result<Measurement> {
        let outcome = self.attempt(kind, scenario, note);
        let failed = |error: Error| Measurement {
            system: kind.system(),
            round,
            figures: Vec::new(),
            skipped: Default::default(),
            error: Some(error.to_string()),
            resident: Default::default(),
        };
        match outcome {
            Ok(measurement) => Ok(Measurement { system: kind.system(), round, ..measurement }),
            Err(error) if error.is_interrupt() || interrupt::requested() => Err(ipop_lab::Error::Interrupted.into()),
            Err(error) => Ok(failed(error)),
        }
    }

    fn attempt(
        &mut self,
        kind: &dyn systems::Kind,
        scenario: &Scenario,
        note: &mut dyn FnMut(&str),
    ) -> Result<Measurement> {
        note("starts");
        let mut running = self.start(kind)?;
        self.run(&mut *running, scenario, note)
    }

    /// Starts a system, and waits until it carries a ping.
    pub fn start(&self, kind: &dyn systems::Kind) -> Result<Box<dyn systems::Running>> {
        let mut running = kind.start(&self.lab, self.inner_mtu)?;
        self.wait_reachable()?;
        running.check()?;
        Ok(running)
    }

    /// Measures a system that was started.
    pub fn run(
        &self,
        running: &mut dyn systems::Running,
        scenario: &Scenario,
        note: &mut dyn FnMut(&str),
    ) -> Result<Measurement> {
        let mut serve = self.serve()?;
        let mut line = vec![self.program.clone(), "run".into(), "--to".into(), format!("{FAR}:{PORT}")];
        let scenario_text = serde_json::to_string(scenario).map_err(|error| Error::other(error.to_string()))?;
        line.extend(["--scenario".into(), scenario_text, "--json".into(), "--notes".into()]);
        line.extend(["--proc".into(), self.proc.clone()]);
        for (name, pid) in running.processes() {
            line.extend(["--watch".into(), format!("{name}={pid}")]);
        }
        line.extend(pin(self.pins.map(|pins| pins.near)));
        let limit = scenario.duration() * 3 + Duration::from_secs(60);
        let output = follow(&self.near.command(line), limit, note)?;
        // Its own words explain more than what the other end noticed.
        running.check()?;
        if let Some(status) = serve.ended()? {
            return Err(Error::other(format!("ipop-bench serve has ended ({status}): {}", serve.stderr())));
        }
        if !output.success() {
            let reason = output.stderr.lines().last().unwrap_or_default();
            return Err(Error::other(reason.strip_prefix("ipop-bench: ").unwrap_or(reason)));
        }
        let mut file: ResultFile = serde_json::from_str(&output.stdout)
            .map_err(|error| Error::other(format!("ipop-bench run gave no result: {error}")))?;
        file.measurements.pop().ok_or_else(|| Error::other("ipop-bench run gave no measurement"))
    }

    /// One more container, beside the near end, whose frames the bridges do not learn from: the kernel's own work for MACs
    /// that a guest makes up shall not count as that of the gateways, which run already.
    pub fn guest(&self) -> Result<Container> {
        let guest = self.lab.container(0, "guest", &[GUEST])?;
        self.lab.gateway(0).run(["bridge", "link", "set", "dev", &guest.port(), "learning", "off"])?;
        self.lab.gateway(1).run(["bridge", "link", "set", "dev", TAP, "learning", "off"])?;
        Ok(guest)
    }

    /// Waits until a ping comes back. What the ends knew of the last system's days is forgotten before.
    fn wait_reachable(&self) -> Result<()> {
        for container in [&self.near, &self.far] {
            container.netns().ip("neigh flush all")?;
        }
        let end = Instant::now() + REACHABLE;
        loop {
            let ping = self.near.exec(["ping", "-n", "-c", "1", "-W", "1", FAR])?;
            if ping.success() {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(Error::other(format!(
                    "no ping has come from {} to {} within {REACHABLE:?}",
                    self.near.name(),
                    self.far.name()
                )));
            }
            interrupt::sleep(Duration::from_millis(100))?;
        }
    }
}

/// Runs a command to its end, and tells the last line of its stderr meanwhile.
fn follow(command: &Cmd, limit: Duration, note: &mut dyn FnMut(&str)) -> Result<ipop_lab::Output> {
    let mut process = command.spawn()?;
    let end = Instant::now() + limit;
    while process.ended()?.is_none() && Instant::now() < end {
        interrupt::sleep(GLANCE)?;
        note(process.stderr().trim_end().lines().last().unwrap_or_default());
    }
    Ok(process.wait(Duration::from_secs(1))?)
}

fn pin(core: Option<usize>) -> Vec<String> {
    core.map_or(Vec::new(), |core| vec!["--cpu".into(), core.to_string()])
}
