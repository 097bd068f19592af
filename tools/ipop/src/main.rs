//! `ipop`: a layer-2 overlay switch. Runs a gateway, checks its config, makes keys, shows what a running one does.

mod client;
mod metrics;
mod show;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ipop_control::config::{Config, DEFAULT_CONTROL_SOCKET};
use ipop_control::keys::{KeyError, PresharedKey, PrivateKey};
use ipop_control::log::Log;
use tracing_subscriber::EnvFilter;

/// At its end a gateway waits so long for whatever takes its log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Layer-2 overlay switch: joins the Linux bridges of several hosts into one segment.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a gateway until SIGTERM, SIGINT or SIGQUIT.
    Run(RunArgs),
    /// Check a config file without starting anything.
    Check {
        /// The config file (JSON).
        #[arg(long)]
        config: PathBuf,
    },
    /// Make a key for a gateway and print its public key, which goes into the config of the peers.
    Keygen(KeygenArgs),
    /// Print the public key that belongs to a private key.
    Pubkey {
        /// The file that keygen made; "-" for standard input.
        file: PathBuf,
    },
    /// Show the gateway: settings, what passed, what was dropped and why.
    Status(Query),
    /// Show the other gateways: state, path MTU, traffic.
    Peers(Query),
    /// Show which MAC address is where.
    Macs(MacsArgs),
    /// Show the ARP and neighbour discovery table.
    Arp(Query),
    /// Show the last messages exchanged with peers.
    Rpc(Query),
    /// Print all counters in the text format of Prometheus.
    Metrics {
        /// Control socket of the gateway.
        #[arg(long, default_value = DEFAULT_CONTROL_SOCKET)]
        socket: PathBuf,
    },
    /// Agree on new keys with every peer that is up, now instead of after two minutes.
    Rekey(Query),
}

#[derive(Args)]
struct RunArgs {
    /// The config file (JSON).
    #[arg(long)]
    config: PathBuf,
    /// What to log: error, warn, info, debug (each message between gateways), or a filter of the tracing crate.
    #[arg(long, default_value = "info", env = "IPOP_LOG")]
    log: String,
}

#[derive(Args)]
struct KeygenArgs {
    /// The file to make, readable for its owner only. One that is there is not overwritten.
    #[arg(long)]
    out: PathBuf,
    /// A secret for two gateways to share ("preshared_key_file") instead; nothing is printed.
    #[arg(long)]
    preshared: bool,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
struct MacsArgs {
    #[command(subcommand)]
    action: Option<MacsAction>,
    #[command(flatten)]
    query: Query,
}

#[derive(Subcommand)]
enum MacsAction {
    /// Hear claims again on a MAC address that is frozen where it is.
    Release {
        /// The MAC address, in whatever VLAN.
        mac: String,
        #[command(flatten)]
        query: Query,
    },
}

#[derive(Args)]
struct Query {
    /// As JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Control socket of the gateway.
    #[arg(long, default_value = DEFAULT_CONTROL_SOCKET)]
    socket: PathBuf,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => return run(&args),
        Command::Check { config } => check(&config),
        Command::Keygen(args) => keygen(&args),
        Command::Pubkey { file } => pubkey(&file),
        Command::Status(query) => show(&query, "status", show::status),
        Command::Peers(query) => show(&query, "peers", show::peers),
        Command::Macs(MacsArgs { action: None, query }) => show(&query, "macs", show::macs),
        Command::Macs(MacsArgs { action: Some(MacsAction::Release { mac, query }), .. }) => {
            show(&query, &format!("macs release {mac}"), show::released)
        }
        Command::Arp(query) => show(&query, "arp", show::arp),
        Command::Rpc(query) => show(&query, "rpc", show::rpc),
        Command::Metrics { socket } => metrics(&socket),
        Command::Rekey(query) => show(&query, "rekey", show::rekey),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Not eprintln!, which panics where nothing can be written.
            let _ = std::io::stderr().write_all(complaint(&message).as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// What a person is told, each line of it.
fn complaint(message: &str) -> String {
    message.lines().map(|line| format!("ipop: {line}\n")).collect()
}

/// Everything that a gateway says goes through its log, which nobody waits for, but for a moment at the end.
fn run(args: &RunArgs) -> ExitCode {
    let Ok(log) = Log::to_stderr() else { return ExitCode::FAILURE };
    let last_lines = LastLines(log.clone());
    let result = gateway(args, log.clone());
    if let Err(message) = &result {
        log.line(complaint(message).as_bytes());
    }
    drop(last_lines);
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Writes what is left, also when the gateway panics.
struct LastLines(Log);

impl Drop for LastLines {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

fn gateway(args: &RunArgs, log: Log) -> Result<(), String> {
    let filter = EnvFilter::try_new(&args.log).map_err(|e| format!("--log {}: {e}", args.log))?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(colour)
        .init();
    Log::take_panics();
    let config = Config::load(&args.config).map_err(|e| e.to_string())?;
    ipop_control::gateway::run(config, log, || tracing::info!("ready")).map_err(|e| e.to_string())
}

fn check(path: &Path) -> Result<(), String> {
    let config = Config::load(path).map_err(|e| e.to_string())?;
    let warnings: String = config.warnings.iter().map(|warning| complaint(&format!("warning: {warning}"))).collect();
    let _ = std::io::stderr().write_all(warnings.as_bytes());
    let key = config.identity.as_ref().map_or("none, clear text".to_owned(), |key| key.public().to_string());
    let mut text = format!("{}: good\n  key    {key}\n  port   {}\n", path.display(), config.port);
    text += &format!("  listen {} (network {})\n", config.listen, config.network);
    for peer in &config.peers {
        text += &format!("  peer   {} at {}\n", peer.name, peer.address);
    }
    print(&text)
}

fn keygen(args: &KeygenArgs) -> Result<(), String> {
    if args.out.as_os_str() == "-" {
        return Err("--out -: a secret is written to a file, never to a terminal or a pipe; name one".to_owned());
    }
    let text = |e: KeyError| e.to_string();
    if args.preshared {
        return PresharedKey::generate().and_then(|key| key.create(&args.out)).map_err(text);
    }
    let key = PrivateKey::generate().map_err(text)?;
    key.create(&args.out).map_err(text)?;
    print(&format!("{}\n", key.public())).map_err(|error| {
        // As if nothing had been made, and the next try will not find it in its way.
        let _ = std::fs::remove_file(&args.out);
        format!("{}: was not kept, for the public key could not be printed: {error}", args.out.display())
    })
}

fn pubkey(file: &Path) -> Result<(), String> {
    let key = match file.as_os_str() == "-" {
        true => PrivateKey::read(std::io::stdin(), Path::new("standard input")),
        false => PrivateKey::load(file),
    };
    print(&format!("{}\n", key.map_err(|e| e.to_string())?.public()))
}

fn show<T: serde::de::DeserializeOwned>(query: &Query, command: &str, render: fn(&T) -> String) -> Result<(), String> {
    let value = client::ask(&query.socket, command)?;
    let text = if query.json {
        serde_json::to_string_pretty(&value).map_err(|e| e.to_string())? + "\n"
    } else {
        render(&parsed(value).map_err(|e| e + "; try --json")?)
    };
    print(&text)
}

fn metrics(socket: &Path) -> Result<(), String> {
    let status = parsed(client::ask(socket, "status")?)?;
    let peers = parsed(client::ask(socket, "peers")?)?;
    print(&metrics::metrics(&status, &peers))
}

fn parsed<T: serde::de::DeserializeOwned>(answer: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(answer)
        .map_err(|error| format!("the gateway is of another version and answers in another form ({error})"))
}

fn print(text: &str) -> Result<(), String> {
    // Not print!: a closed pipe (`ipop macs | head`) is no reason to panic.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.to_string()),
        _ => Ok(()),
    }
}
