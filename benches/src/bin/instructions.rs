//! Counts the instructions of each workload and compares them with those that were accepted. See ../../README.md.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use ipop_benches::baseline::{self, Baseline, Counts, MadeWith, Verdict};
use ipop_benches::{CONTROL_THREAD, FRAME_PATH};

const USAGE: &str = "\
Usage: cargo run --release -p ipop-benches --bin instructions -- check|store

  check  count, and compare with perf/instructions.json
  store  count, and write perf/instructions.json
";

/// The accepted counts, from the repository's root.
const STORED: &str = "perf/instructions.json";
const RUNNER: &str = "gungraun-runner";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] => check(),
        ["store"] => store(),
        ["--help" | "-h"] => {
            print!("{USAGE}");
            Ok(true)
        }
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// True if nothing failed. The last line is like that of `cargo test`, for programs that add up tests.
fn check() -> Result<bool, String> {
    let path = root().join(STORED);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{STORED}: {error}"))?;
    let stored: Baseline = serde_json::from_str(&text).map_err(|error| format!("{STORED}: {error}"))?;
    let made_with = match tools()? {
        Ok(made_with) => made_with,
        Err(reason) => return Ok(skip(&reason)),
    };
    if let Some(reason) = made_with.difference(&stored.made_with) {
        return Ok(skip(&reason));
    }
    let verdicts = baseline::compare(&stored.instructions, &count()?);
    println!("\nrunning {} instruction counts", verdicts.len());
    for (name, verdict) in &verdicts {
        println!("test {name} ... {verdict}");
    }
    let failed = verdicts.iter().filter(|(_, verdict)| verdict.is_failure()).count();
    if failed > 0 || verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Fewer { .. })) {
        println!(
            "\nThe stored counts are out of date, or something is slower than it was. If it is meant to be so:\n    \
             cargo run --release -p ipop-benches --bin instructions -- store"
        );
    }
    if stored.made_with != made_with {
        println!("\nstored with {:?}\ncounted with {made_with:?}", stored.made_with);
    }
    summary(verdicts.len() - failed, failed, 0);
    Ok(failed == 0)
}

fn store() -> Result<bool, String> {
    let made_with = tools()??;
    let counts = Baseline { made_with, instructions: count()? };
    let text = serde_json::to_string_pretty(&counts).map_err(|error| error.to_string())? + "\n";
    std::fs::write(root().join(STORED), text).map_err(|error| format!("{STORED}: {error}"))?;
    println!("{} counts stored in {STORED}", counts.instructions.len());
    Ok(true)
}

fn skip(reason: &str) -> bool {
    println!("skipped: {reason}");
    summary(0, 0, FRAME_PATH.len() + CONTROL_THREAD.len());
    true
}

fn summary(passed: usize, failed: usize, ignored: usize) {
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out"
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What would count here. The inner error says what is missing, and how to get it.
fn tools() -> Result<Result<MadeWith, String>, String> {
    let gungraun = locked_version("gungraun")?;
    let Ok(valgrind) = output("valgrind", &["--version"]) else {
        return Ok(Err("valgrind is missing (apt-get install valgrind)".to_owned()));
    };
    let install = format!("cargo install --locked {RUNNER} --version {gungraun}");
    match output(RUNNER, &["--version"]) {
        Err(_) => return Ok(Err(format!("{RUNNER} is missing ({install})"))),
        // "gungraun-runner 1.2.3"
        Ok(version) if version.rsplit(' ').next() != Some(&gungraun) => {
            return Ok(Err(format!("{version} is installed, and {gungraun} is wanted ({install})")));
        }
        Ok(_) => {}
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let verbose = output(&rustc, &["--version", "--verbose"])?;
    let target = verbose.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(Ok(MadeWith {
        rustc: verbose.lines().next().unwrap_or_default().to_owned(),
        target: target.unwrap_or_default().to_owned(),
        libc: output("getconf", &["GNU_LIBC_VERSION"]).unwrap_or_else(|_| "another C library".to_owned()),
        valgrind,
        gungraun,
    }))
}

/// The version of a package in Cargo.lock: library and runner must be of the same.
fn locked_version(package: &str) -> Result<String, String> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
    let name = format!("name = \"{package}\"");
    let line = lock.lines().skip_while(|line| *line != name).nth(1);
    let version = line.and_then(|line| line.strip_prefix("version = \"")).and_then(|rest| rest.strip_suffix('"'));
    version.map(str::to_owned).ok_or(format!("Cargo.lock has no {package}"))
}

/// What a program prints, without the newline at the end.
fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let run = Command::new(program).args(arguments).stderr(Stdio::null()).output();
    match run {
        Ok(run) if run.status.success() => Ok(String::from_utf8_lossy(&run.stdout).trim_end().to_owned()),
        Ok(run) => Err(format!("{program}: {}", run.status)),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

fn count() -> Result<Counts, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let benchmark = ["bench", "--quiet", "-p", "ipop-benches", "--bench", "instruction_counts", "--"];
    let mut command = Command::new(cargo);
    command.args(benchmark).args(["--output-format=json", "--parallel=auto"]).current_dir(root());
    let run = command.stderr(Stdio::inherit()).output().map_err(|error| format!("cargo bench: {error}"))?;
    if !run.status.success() {
        return Err(format!("cargo bench: {}", run.status));
    }
    baseline::parse_counts(&String::from_utf8_lossy(&run.stdout))
}
