//! `ipop-bench`: measures what a layer-2 segment can do, and compares overlays.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use clap::{Args, Parser, Subcommand};
use ipop_bench::compare::{self, Plan};
use ipop_bench::cpu::Watch;
use ipop_bench::error::{Context, Error, Result};
use ipop_bench::lab::Pins;
use ipop_bench::progress::Progress;
use ipop_bench::result::fingerprint::Fingerprint;
use ipop_bench::result::{Category, Measurement, ResultFile, SCHEMA, System};
use ipop_bench::scenario::{Scenario, Size};
use ipop_bench::session::client::Session;
use ipop_bench::session::{PORT, server::Server};
use ipop_bench::{diff, measure, report, storm, systems, table};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Measures what a layer-2 segment can do: throughput, packet rates, loss, latency, ARP, and what they cost.
#[derive(Debug, Parser)]
#[command(name = "ipop-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The passive end: receives, counts and sends back. Start it first.
    Serve(Serve),
    /// The active end: measures the path to a `serve` on the same segment.
    Run(Run),
    /// Builds two gateways with a container each, joins them by ipop, measures, and takes it all down.
    Lab(Lab),
    /// Measures ipop, a plain cable, kernel VXLAN and other overlays in one lab, in turns.
    Compare(Compare),
    /// Measures what a guest that sends from random MACs costs the traffic of others.
    Storm(Storm),
    /// Turns results into one HTML page and plots.
    Report(Report),
    /// Tells what changed between two results beyond the noise. Exit status 1: something got worse.
    Diff(Diff),
}

#[derive(Debug, Args)]
struct Serve {
    /// Address and port to listen on. Packets and flows use other ports of the same address.
    #[arg(long, value_name = "ADDRESS[:PORT]", default_value = "[::]:7410", value_parser = endpoint)]
    listen: SocketAddr,
    /// Run on this core only.
    #[arg(long, value_name = "CORE")]
    cpu: Option<usize>,
}

#[derive(Debug, Args)]
struct What {
    /// What to measure: full, compare, quick, glance, a file, or JSON itself.
    #[arg(long, value_name = "SCENARIO")]
    scenario: Option<String>,
    /// Only a first look, done in less than a minute.
    #[arg(long, conflicts_with = "scenario")]
    quick: bool,
}

impl What {
    fn load(&self, usual: &str, quick: &str) -> Result<Scenario> {
        Scenario::load(self.scenario.as_deref().unwrap_or(if self.quick { quick } else { usual }))
    }
}

#[derive(Debug, Args)]
struct Run {
    /// Where `ipop-bench serve` listens.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = endpoint)]
    to: SocketAddr,
    #[command(flatten)]
    what: What,
    /// Only send so many UDP packets per second, and tell what was lost, doubled and reordered.
    #[arg(long, value_name = "PACKETS/S", conflicts_with_all = ["scenario", "quick"])]
    rate: Option<f64>,
    /// With --rate: the size of the frames, or imix.
    #[arg(long, value_name = "BYTES", default_value = "64", requires = "rate", value_parser = size)]
    size: Size,
    /// With --rate: for how long.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, requires = "rate")]
    seconds: f64,
    /// Write result.json and the latency histograms into this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the result as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// What the result shall be called.
    #[arg(long, value_name = "TEXT", default_value = "path")]
    label: String,
    /// Run on this core only.
    #[arg(long, value_name = "CORE")]
    cpu: Option<usize>,
    /// Also tell what these processes of this machine cost; may be repeated.
    #[arg(long, value_name = "NAME=PID", value_parser = watched)]
    watch: Vec<(String, u32)>,
    /// Where /proc is, if a container has the host's elsewhere.
    #[arg(long, value_name = "DIR", default_value = "/proc")]
    proc: PathBuf,
    /// Tell on stderr, a line each, what is measured next.
    #[arg(long, hide = true)]
    notes: bool,
}

#[derive(Debug, Args)]
struct InLab {
    #[command(flatten)]
    what: What,
    /// Write results here. Default: ipop-bench-DATE-TIME in the working directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The cores of the two ends.
    #[arg(long, value_name = "NEAR,FAR", value_parser = pins, default_value = "0,1")]
    pin: Pins,
    /// Pin nothing.
    #[arg(long, conflicts_with = "pin")]
    no_pin: bool,
    /// Print the result as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Lab {
    #[command(flatten)]
    lab: InLab,
    /// Which system joins the gateways; see `compare --list`.
    #[arg(long, value_name = "ID", default_value = "ipop-clear")]
    system: String,
}

#[derive(Debug, Args)]
struct Compare {
    #[command(flatten)]
    lab: InLab,
    /// How many rounds. Default: 5; with --quick 1.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Only these, by id or name. Default: all; with --quick those in clear text.
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    systems: Vec<String>,
    /// Install what is missing.
    #[arg(long)]
    install: bool,
    /// Only tell which systems there are and what they lack.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Args)]
struct Storm {
    #[command(flatten)]
    lab: InLab,
    /// How many rounds.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100), default_value_t = 7)]
    rounds: u32,
    /// Frames per second of the guest.
    #[arg(long, value_name = "FRAMES/S,...", value_delimiter = ',', default_value = "10000,100000",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rates: Vec<u32>,
}

#[derive(Debug, Args)]
struct Report {
    /// Results of run, lab or compare.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the page and the plots go.
    #[arg(long, value_name = "DIR", default_value = "report")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct Diff {
    /// The result to compare with.
    old: PathBuf,
    /// The result to judge.
    new: PathBuf,
    /// List every value, not only what changed beyond the noise.
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(arguments) => serve(&arguments),
        Command::Run(arguments) => run(arguments),
        Command::Lab(arguments) => lab(arguments),
        Command::Compare(arguments) => compare(arguments),
        Command::Storm(arguments) => storm(arguments),
        Command::Report(arguments) => make_report(&arguments),
        Command::Diff(arguments) => difference(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if error.is_interrupt() => {
            eprintln!("ipop-bench: interrupted; everything was taken down");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("ipop-bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn serve(arguments: &Serve) -> Result<ExitCode> {
    pin_to(arguments.cpu)?;
    let server = Server::bind(arguments.listen)?;
    // The lab waits for this line.
    println!("listening on {}; stop with Ctrl-C", server.address()?);
    server.serve(|note| eprintln!("{note}"))?;
    Ok(ExitCode::SUCCESS)
}

fn run(arguments: Run) -> Result<ExitCode> {
    pin_to(arguments.cpu)?;
    let scenario = match arguments.rate {
        Some(rate) => Scenario::steady(rate, arguments.size, arguments.seconds)?,
        None => arguments.what.load("full", "quick")?,
    };
    if let Some(out) = &arguments.out {
        // Better now than when all is measured.
        compare::prepare(out)?;
    }
    let watch = Watch::new(&arguments.proc, arguments.watch, "ipop-bench run");
    let (began, start, started) = (SystemTime::now(), Instant::now(), compare::now());
    let mut session = Session::connect(arguments.to, watch)?;
    let mut fingerprint = Fingerprint::of_this_machine();
    fingerprint.set("interface", &session.link.name);
    fingerprint.set("inner MTU", session.link.mtu);
    fingerprint.set("both ends on one machine", session.same_machine);
    fingerprint.set("pinned to core", arguments.cpu.map_or("none".into(), |core| core.to_string()));
    let mut progress = Progress::new();
    let mut note = |step: &str| {
        if arguments.notes {
            eprintln!("{step}");
        } else {
            progress.show(&format!("measuring {step} ({:.0} s)", start.elapsed().as_secs_f64()));
        }
    };
    let found = measure::all(&mut session, &scenario, &mut note);
    progress.clear();
    // Nothing at all: an error like any other. With something to show, the error stands beside it.
    if let (Some(error), true) = (&found.error, found.figures.is_empty()) {
        return Err(Error::other(error.to_string()));
    }
    let failed = found.error.is_some();
    let system =
        System { id: "path".into(), label: arguments.label, category: Category::Path, encrypted: false, version: None };
    let measurement = Measurement {
        system,
        round: 1,
        figures: found.figures,
        skipped: found.skipped,
        error: found.error.map(|error| error.to_string()),
        resident: session.watch().resident(),
    };
    let file = ResultFile {
        schema: SCHEMA,
        kind: "run".into(),
        started,
        seconds: start.elapsed().as_secs_f64(),
        fingerprint,
        scenario,
        measurements: vec![measurement],
    };
    if let Some(out) = &arguments.out {
        compare::save(&file, began, out)?;
    }
    print(&file, arguments.json)?;
    // A lab reads the error out of the result.
    Ok(if failed && !arguments.json { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn lab(arguments: Lab) -> Result<ExitCode> {
    let scenario = arguments.lab.what.load("full", "quick")?;
    let kinds = systems::select(&[arguments.system])?;
    in_lab(arguments.lab, "lab", scenario, 1, kinds, false)
}

fn compare(arguments: Compare) -> Result<ExitCode> {
    let quick = arguments.lab.what.quick;
    let mut kinds = if arguments.systems.is_empty() { systems::all() } else { systems::select(&arguments.systems)? };
    if quick && arguments.systems.is_empty() {
        kinds.retain(|kind| !kind.system().encrypted);
    }
    if arguments.list {
        for kind in kinds {
            let system = kind.system();
            let state = match kind.missing() {
                None => system.version.unwrap_or_else(|| "available".into()),
                Some(lack) => {
                    let help = lack.install.map(|command| format!("; install: {}", command.join(" ")));
                    format!("missing: {}{}", lack.reason, help.unwrap_or_default())
                }
            };
            println!("{:22} {:28} {state}", system.id, system.label);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let scenario = arguments.lab.what.load("compare", "glance")?;
    let rounds = arguments.rounds.unwrap_or(if quick { 1 } else { 5 });
    in_lab(arguments.lab, "compare", scenario, rounds, kinds, arguments.install)
}

fn in_lab(
    arguments: InLab,
    kind: &'static str,
    scenario: Scenario,
    rounds: u32,
    kinds: Vec<Box<dyn systems::Kind>>,
    install: bool,
) -> Result<ExitCode> {
    let (out, pins) = arguments.place(kind)?;
    let kinds = compare::available(kinds, install)?;
    let plan = Plan { kind, scenario, rounds, pins, out: out.clone() };
    let file = compare::measure(&plan, &kinds, &mut Progress::new())?;
    print(&file, arguments.json)?;
    eprintln!("{0}; for a page with plots: tools/ipop-bench report {0}", out.join("result.json").display());
    let failed = file.measurements.iter().any(|measurement| measurement.error.is_some());
    Ok(if failed { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

impl InLab {
    /// Where results go and the ends run, once it is clear that a lab can be built.
    fn place(&self, kind: &str) -> Result<(PathBuf, Option<Pins>)> {
        if !ipop_lab::is_root() {
            return Err(Error::other(format!("needs root, for network namespaces: sudo tools/ipop-bench {kind}")));
        }
        ipop_lab::interrupt::install()?;
        let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
        let out = self.out.clone().unwrap_or_else(|| format!("ipop-bench-{stamp}").into());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pins = Some(self.pin).filter(|pins| !self.no_pin && pins.near.max(pins.far) < cores);
        if pins.is_none() && !self.no_pin {
            eprintln!("this machine has {cores} cores, so nothing is pinned");
        }
        Ok((out, pins))
    }
}

fn storm(arguments: Storm) -> Result<ExitCode> {
    let Storm { lab, rounds, rates } = arguments;
    let (out, pins) = lab.place("storm")?;
    let scenario = lab.what.load("storm", "storm")?;
    let kinds = compare::available(systems::select(&["ipop-clear".to_owned()])?, false)?;
    let plan = storm::Plan { scenario, rounds, rates, pins, out: out.clone() };
    let kind = kinds.first().ok_or_else(|| Error::other("ipop cannot run here"))?;
    let file = storm::measure(&plan, &**kind, &mut Progress::new())?;
    if lab.json {
        print(&file, true)?;
    } else {
        print!("{}", storm::summary(&file));
    }
    eprintln!("{}", out.join("result.json").display());
    Ok(ExitCode::SUCCESS)
}

fn make_report(arguments: &Report) -> Result<ExitCode> {
    for path in report::write(&arguments.files, &arguments.out)? {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn difference(arguments: &Diff) -> Result<ExitCode> {
    let diff = diff::compare(&ResultFile::load(&arguments.old)?, &ResultFile::load(&arguments.new)?);
    if arguments.all {
        print!("{diff:#}");
    } else {
        print!("{diff}");
    }
    Ok(if diff.has_regressions() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(file: &ResultFile, json: bool) -> Result<()> {
    if json {
        let text = serde_json::to_string_pretty(file).map_err(|error| Error::other(error.to_string()))?;
        println!("{text}");
    } else {
        println!("{}", table::summary(file).trim_end());
    }
    Ok(())
}

/// Keeps this process, and all threads that it starts, on one core.
fn pin_to(core: Option<usize>) -> Result<()> {
    let Some(core) = core else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .context(format!("running on core {core} only"))
}

/// An address, with or without a port; a name is looked up.
fn endpoint(text: &str) -> std::result::Result<SocketAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, PORT));
    }
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let with_port = if text.contains(':') { text.to_owned() } else { format!("{text}:{PORT}") };
    let mut found = with_port.to_socket_addrs().map_err(|error| format!("{error}"))?;
    found.next().ok_or_else(|| "it has no address".into())
}

fn size(text: &str) -> std::result::Result<Size, String> {
    let value = text.parse::<u16>().map_or_else(|_| text.into(), serde_json::Value::from);
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn watched(text: &str) -> std::result::Result<(String, u32), String> {
    let (name, pid) = text.rsplit_once('=').ok_or("it looks like NAME=PID")?;
    Ok((name.to_owned(), pid.parse().map_err(|_| format!("{pid:?} is no process id"))?))
}

fn pins(text: &str) -> std::result::Result<Pins, String> {
    let core = |text: &str| text.trim().parse().map_err(|_| format!("{text:?} is no core"));
    let (near, far) = text.split_once(',').ok_or("it looks like 0,1")?;
    Ok(Pins { near: core(near)?, far: core(far)? })
}
