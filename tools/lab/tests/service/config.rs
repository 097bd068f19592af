//! `ipop check`, and the same at the start.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ipop_lab::{Gateway, Lab, Output};
use libtest_mimic::Failed;
use nix::sys::stat::Mode;
use serde_json::json;

use super::kit::{Outcome, ensure, ipop};

/// `ipop check` and `ipop run`: both must fail, and say the same.
fn refused(gateway: &Gateway, path: &Path) -> Result<Vec<String>, Failed> {
    let path = path.display().to_string();
    let run = |command: &str| -> Result<Output, Failed> {
        let output = ipop(gateway, &[command, "--config", &path])?.output()?;
        ensure(output.status.code() == Some(1), format!("{command} {path}: {}: {}", output.status, output.stderr))?;
        Ok(output)
    };
    let (check, start) = (run("check")?, run("run")?);
    ensure(check.stderr == start.stderr, format!("{} but {}", check.stderr, start.stderr))?;
    Ok(check.stderr.lines().map(str::to_owned).collect())
}

pub(crate) fn many_faults() -> Outcome {
    let lab = Lab::builder().build()?;
    let gateway = lab.gateway(0);
    let mut config = gateway.config();
    config["brigde"] = "lxcbr0".into();
    config["workers"] = 0.into();
    config["user"] = "nobody-of-this-name".into();
    config["peers"][0]["address"] = "10.99.0.2".into();
    config["peers"][0]["public_key"] = "x".into();
    let path = lab.lab_run().dir().join("faults.json");
    std::fs::write(&path, config.to_string())?;
    let lines = refused(gateway, &path)?;
    let expected = [
        "\"brigde\": is not a key of this program; did you mean \"bridge\"?",
        "\"workers\": is 0; a whole number from 1 to 64 is allowed",
        "\"peers[0].address\": is \"10.99.0.2\"",
        "\"peers[0].public_key\": \"x\" is no key",
        "\"user\": there is no user 'nobody-of-this-name': create it",
    ];
    ensure(lines.len() == expected.len(), format!("{lines:#?}"))?;
    for (line, expected) in lines.iter().zip(expected) {
        let begin = format!("ipop: {}: {expected}", path.display());
        ensure(line.starts_with(&begin), format!("{line} instead of {begin}"))?;
    }
    Ok(())
}

pub(crate) fn files() -> Outcome {
    let lab = Lab::builder().build()?;
    let gateway = lab.gateway(0);
    let path = |name: &str| lab.lab_run().dir().join(name);
    let text = gateway.config().to_string();
    let says = |path: &Path, part: &str| -> Outcome {
        let lines = refused(gateway, path)?;
        let good = lines.len() == 1 && lines[0].starts_with(&format!("ipop: {}: ", path.display()));
        ensure(good && lines[0].contains(part), format!("{lines:?} instead of {part}"))
    };
    let fifo = path("fifo.json");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
    for endless in [fifo.as_path(), Path::new("/dev/zero")] {
        says(endless, "cannot be read: it is no regular file")?;
    }
    let large = path("large.json");
    std::fs::File::create(&large)?.set_len(1 << 40)?;
    says(&large, "too large")?;

    let config = path("mode.json");
    std::fs::write(&config, &text)?;
    let check = || Ok::<_, Failed>(ipop(gateway, &["check", "--config", &config.display().to_string()])?.output()?);
    for mode in [0o666, 0o602, 0o620] {
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(mode))?;
        says(&config, &format!("others may write to it (mode {mode:03o}): chmod go-w {}", config.display()))?;
    }
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644))?;
    ensure(check()?.success(), check()?.stderr)?;
    std::os::unix::fs::chown(&config, Some(65534), None)?;
    says(&config, &format!("is the file of user 65534, who can change it: chown 0 {}", config.display()))?;
    std::os::unix::fs::chown(&config, Some(0), None)?;
    std::fs::write(&config, format!("\u{feff}{text}"))?;
    ensure(check()?.success(), format!("a byte order mark: {}", check()?.stderr))
}

/// Neither panics where nothing can be printed.
pub(crate) fn nowhere_to_print() -> Outcome {
    let lab = Lab::builder().build()?;
    let gateway = lab.gateway(0);
    let path = lab.lab_run().dir().join("good.json");
    let mut config = gateway.config();
    std::fs::write(&path, config.to_string())?;
    let binary = ipop_lab::ipop_binary()?;
    let shell = |words: &str| -> Result<Output, Failed> {
        let line = format!("{} {words}", binary.display()).replace("FILE", &path.display().to_string());
        Ok(gateway.exec(["sh", "-c", &line])?)
    };
    let output = shell("check --config FILE >/dev/full")?;
    ensure(output.status.code() == Some(1), format!("{}: {}", output.status, output.stderr))?;
    ensure(output.stderr.contains("No space left"), output.stderr)?;
    config["workers"] = json!(0);
    std::fs::write(&path, config.to_string())?;
    for command in ["check", "run"] {
        let output = shell(&format!("{command} --config FILE 2>/dev/full"))?;
        ensure(output.status.code() == Some(1), format!("{command}: {}", output.status))?;
    }
    Ok(())
}
