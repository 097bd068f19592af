//! Two containers with a path between them, and the program.

use std::net::SocketAddr;
use std::time::Duration;

use ipop_bench::result::{Detail, Figure, Measurement, Packets, ResultFile};
use ipop_lab::trials::Outcome;
use ipop_lab::{Cmd, Container, Lab, Process};
use libtest_mimic::Failed;

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ipop-bench");
/// The end that measures, and the one that serves.
pub(crate) const NEAR: &str = "10.0.3.3";
pub(crate) const FAR: &str = "10.0.3.104";
/// A run that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(90);
const LISTENING: Duration = Duration::from_secs(5);

/// A lab with two containers.
pub(crate) struct Bench {
    pub(crate) near: Container,
    pub(crate) far: Container,
    pub(crate) lab: Lab,
}

impl Bench {
    /// Bridges joined by a cable.
    pub(crate) fn by_cable() -> Result<Self, Failed> {
        let bench = Self::unjoined(2)?;
        bench.lab.join_by_veth()?;
        Ok(bench)
    }

    /// Containers on the first two of so many gateways, with nothing between them.
    pub(crate) fn unjoined(gateways: usize) -> Result<Self, Failed> {
        let lab = Lab::builder().gateways(gateways).build()?;
        let near = lab.container_builder(0, "near").addresses(&["10.0.3.3/24", "fd03::3/64"]).mtu(1400).start()?;
        let far = lab.container_builder(1, "far").addresses(&["10.0.3.104/24", "fd03::104/64"]).mtu(1400).start()?;
        Ok(Self { near, far, lab })
    }

    /// Starts `serve` at the far end.
    pub(crate) fn serve(&self) -> Result<Process, Failed> {
        let mut serve = self.far.spawn([PROGRAM, "serve"])?;
        serve.wait_for_stdout("listening", LISTENING)?;
        Ok(serve)
    }

    /// `run` at the near end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Cmd {
        let line = [PROGRAM, "run", "--to", FAR];
        self.near.command(line.iter().chain(arguments).copied()).timeout(LIMIT)
    }

    /// What `run --json` finds.
    pub(crate) fn measure(&self, arguments: &[&str]) -> Result<Measurement, Failed> {
        let stdout = self.run(&[arguments, &["--json"]].concat()).run()?;
        let mut file: ResultFile = serde_json::from_str(&stdout)?;
        Ok(file.measurements.pop().ok_or("no measurement")?)
    }
}

/// The packets of the only figure.
pub(crate) fn packets(measurement: &Measurement) -> Result<Packets, Failed> {
    match measurement.figures.as_slice() {
        [Figure { detail: Detail::Packets(packets), .. }] => Ok(*packets),
        other => Err(format!("not one figure of packets: {other:?}; {:?}", measurement.skipped).into()),
    }
}

/// A command that must fail, with this exit status and with all of these words on stderr.
pub(crate) fn fails(command: &Cmd, status: i32, words: &[&str]) -> Outcome {
    let output = command.output()?;
    ensure(output.status.code() == Some(status), &format!("{}: {}\n{}", output.command, output.status, output.stderr))?;
    for word in words {
        ensure(output.stderr.contains(word), &format!("no {word:?} in {:?}", output.stderr))?;
    }
    ensure(!output.stderr.contains("panicked"), &output.stderr)
}

pub(crate) fn ensure(truth: bool, otherwise: &str) -> Outcome {
    if truth { Ok(()) } else { Err(otherwise.into()) }
}

/// An address of the far end.
pub(crate) fn far(port: u16) -> Result<SocketAddr, Failed> {
    Ok(format!("{FAR}:{port}").parse()?)
}
