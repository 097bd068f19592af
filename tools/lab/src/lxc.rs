//! Real LXC containers inside a namespace that stands for a host.
//!
//! Three things need care. LXC looks for its bridge in /sys/class/net, so it must see a /sys that belongs to the
//! namespace: `ip netns exec` mounts one. That /sys has no cgroups, so the host's are bound into it; through a side
//! path, in a private mount namespace, so that nothing remains on the host. And LXC talks to a container through an
//! abstract UNIX socket, which belongs to the network namespace: *every* lxc-* command must run in there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::command::Cmd;
use crate::error::{Context, Error, Result};
use crate::gateway::Gateway;
use crate::requirement;
use crate::run::{Run, cleanup};
use crate::topology::{BRIDGE, Lab};
use crate::{Kind, netns};

/// The directory in a run's own directory that lxc-* commands get as `-P`.
const PATH: &str = "lxc";
/// The side path for the host's cgroups.
const SIDE: &str = "cgroup";
/// The file beside a container's `config` that tells in which namespace it was started.
const WHERE: &str = "gateway";

/// Where LXC keeps its locks, in a tree like that of the paths given by `-P`.
const LOCKS: &str = "/run/lxc/lock";

/// Outside: keeps the host's cgroups at a side path. $1 is that path, $2 the namespace.
const OUTSIDE: &str = r#"side=$1; ns=$2; shift 2
mount --rbind /sys/fs/cgroup "$side" && exec ip netns exec "$ns" sh -c "$INSIDE" sh "$side" "$@""#;
/// Inside: binds them where LXC looks for them.
const INSIDE: &str = r#"side=$1; shift; mount --rbind "$side" /sys/fs/cgroup && exec "$@""#;

/// Programs of the host that are bound into the container: busybox's own are too simple, or missing.
const TOOLS: [&str; 6] = ["ping", "arping", "iperf3", "ip", "ethtool", "tcpdump"];

/// The template's start script asks for an address by DHCP, over and over. Ours does not.
const START_SCRIPT: &str = "#!/bin/sh\n/bin/mount -a\n";

/// A file or directory of the host that is seen inside, read-only.
#[derive(Debug, Clone)]
pub(crate) struct Bind {
    pub(crate) outside: PathBuf,
    pub(crate) inside: String,
}

/// A container directory. Dropping it stops the container and removes the directory.
#[derive(Debug)]
pub(crate) struct LxcContainer {
    run: Arc<Run>,
    name: String,
}

impl LxcContainer {
    /// Makes the container's root and configuration; does not start it.
    pub(crate) fn create(gateway: &Gateway, name: &str, mac: &str, port: &str, binds: &[Bind]) -> Result<Self> {
        let run = Arc::clone(gateway.lab_run());
        let path = run.dir().join(PATH);
        fs::create_dir_all(&path).context(format!("creating {}", path.display()))?;
        let container = Self { run, name: name.to_owned() };
        container.lxc(gateway, "lxc-create", &["-t", "busybox"]).timeout(Duration::from_secs(60)).run()?;
        container.configure(mac, port, binds)?;
        Ok(container)
    }

    /// Starts it, and gives the process id of its init.
    pub(crate) fn start(&self, gateway: &Gateway) -> Result<u32> {
        self.note(gateway)?;
        let log = self.dir().join("log");
        let _ = fs::remove_file(&log);
        let log_name = log.display().to_string();
        if let Err(error) = self.lxc(gateway, "lxc-start", &["-d", "-l", "WARN", "-o", &log_name]).run() {
            let log = fs::read_to_string(&log).unwrap_or_default();
            return Err(Error::other(format!("{error}\n{}", log.trim())));
        }
        let pid = self.lxc(gateway, "lxc-info", &["-p", "-H"]).run()?;
        pid.trim().parse().map_err(|_| Error::other(format!("lxc-info gives {pid:?} as the process of {}", self.name)))
    }

    /// Stops it without asking its init, which would take its time.
    pub(crate) fn stop(&self, gateway: &Gateway) -> Result<()> {
        self.lxc(gateway, "lxc-stop", &["-k"]).run().map(drop)
    }

    /// Stops it and removes its directory.
    pub(crate) fn destroy(self) -> Result<()> {
        self.remove()
    }

    /// A command inside the container.
    pub(crate) fn attach<S: Into<String>>(&self, gateway: &Gateway, argv: impl IntoIterator<Item = S>) -> Cmd {
        let options = ["--clear-env", "-v", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "--"];
        let words: Vec<String> =
            options.map(str::to_owned).into_iter().chain(argv.into_iter().map(Into::into)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.lxc(gateway, "lxc-attach", &words)
    }

    /// What a person types to run a program inside.
    pub(crate) fn manual_attach(&self, gateway: &Gateway, program: &str) -> String {
        format!(
            "ip netns exec {} lxc-attach -P {} -n {} -- {program}",
            gateway.netns().name(),
            self.run.dir().join(PATH).display(),
            self.name
        )
    }

    fn dir(&self) -> PathBuf {
        self.run.dir().join(PATH).join(&self.name)
    }

    fn lxc(&self, gateway: &Gateway, program: &str, options: &[&str]) -> Cmd {
        Cmd::new(lxc_line(self.run.dir(), gateway.netns().name(), program, &self.name, options))
    }

    /// Writes down where the container lives, for whoever must remove it.
    fn note(&self, gateway: &Gateway) -> Result<()> {
        let file = self.dir().join(WHERE);
        fs::create_dir_all(self.dir())
            .and_then(|()| fs::write(&file, gateway.netns().name()))
            .context(format!("writing {}", file.display()))
    }

    /// Replaces the network of the template's configuration, and its AppArmor profile: generating one needs parts of
    /// /sys that are not there.
    fn configure(&self, mac: &str, port: &str, binds: &[Bind]) -> Result<()> {
        let file = self.dir().join("config");
        let template = fs::read_to_string(&file).context(format!("reading {}", file.display()))?;
        let foreign = |line: &&str| !line.starts_with("lxc.net.") && !line.starts_with("lxc.apparmor.");
        let mut config: Vec<String> = template.lines().filter(foreign).map(str::to_owned).collect();
        if template.contains("\nlxc.apparmor.") {
            config.push("lxc.apparmor.profile = unconfined".into());
        }
        config.extend([
            "lxc.net.0.type = veth".into(),
            format!("lxc.net.0.link = {BRIDGE}"),
            "lxc.net.0.flags = up".into(),
            "lxc.net.0.name = eth0".into(),
            format!("lxc.net.0.hwaddr = {mac}"),
            format!("lxc.net.0.veth.pair = {port}"),
        ]);
        let found = |&tool: &&str| Some(Bind { outside: requirement::tool(tool)?, inside: format!("/usr/bin/{tool}") });
        for Bind { outside, inside } in TOOLS.iter().filter_map(found).chain(binds.iter().cloned()) {
            let kind = if outside.is_dir() { "dir" } else { "file" };
            // The fields are separated by spaces, as in fstab(5).
            let outside = outside.display().to_string().replace(' ', "\\040");
            let inside = inside.trim_start_matches('/');
            config.push(format!("lxc.mount.entry = {outside} {inside} none ro,bind,create={kind} 0 0"));
        }
        fs::write(&file, config.join("\n") + "\n").context(format!("writing {}", file.display()))?;
        let script = self.dir().join("rootfs/etc/init.d/rcS");
        fs::write(&script, START_SCRIPT).context(format!("writing {}", script.display()))
    }

    fn remove(&self) -> Result<()> {
        let dir = self.dir();
        stop_left(self.run.dir(), &dir, &self.name);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(format!("removing {}", dir.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for LxcContainer {
    fn drop(&mut self) {
        if !self.run.is_kept()
            && let Err(error) = self.remove()
        {
            eprintln!("removing the container {}: {error}", self.name);
        }
    }
}

/// `<program> -P <path> -n <name> <options>` in the namespace, with the host's cgroups.
fn lxc_line(run_dir: &Path, namespace: &str, program: &str, name: &str, options: &[&str]) -> Vec<String> {
    let side = run_dir.join(SIDE);
    // A failure shows when something is mounted there.
    let _ = fs::create_dir_all(&side);
    let (side, path) = (side.display().to_string(), run_dir.join(PATH).display().to_string());
    let inside = format!("INSIDE={INSIDE}");
    let enter = ["env", &inside, "unshare", "-m", "sh", "-c", OUTSIDE, "sh", &side, namespace];
    let lxc = [program, "-P", &path, "-n", name];
    let words = enter.into_iter().chain(lxc).chain(options.iter().copied());
    words.map(str::to_owned).collect()
}

/// Stops all containers of a run's directory whose namespace still exists.
pub(crate) fn stop_all(run_dir: &Path) {
    let Ok(entries) = fs::read_dir(run_dir.join(PATH)) else {
        return;
    };
    for entry in entries.flatten() {
        if let Ok(name) = entry.file_name().into_string() {
            stop_left(run_dir, &entry.path(), &name);
        }
    }
}

/// Removes the lock files that LXC keeps for the containers of a run's directory, which it never does itself.
pub(crate) fn remove_locks(run_dir: &Path) {
    let locks = Path::new(LOCKS).join(run_dir.strip_prefix("/").unwrap_or(run_dir));
    let _ = fs::remove_dir_all(&locks);
    // Not empty while other runs have locks.
    let _ = locks.parent().map(fs::remove_dir);
}

/// Stops one container. That it does not run, or that its namespace is gone and it with it, is fine.
fn stop_left(run_dir: &Path, container: &Path, name: &str) {
    let Ok(namespace) = fs::read_to_string(container.join(WHERE)) else {
        return;
    };
    if netns::list().is_ok_and(|names| names.contains(&namespace)) {
        let _ = cleanup(lxc_line(run_dir, &namespace, "lxc-stop", name, &["-k"])).output();
    }
}

/// Can LXC containers run here? Found out once, by starting one; the error is the reason why not.
pub fn lxc_available() -> std::result::Result<(), String> {
    static ANSWER: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(probe).clone()
}

fn probe() -> std::result::Result<(), String> {
    requirement::lab_available()?;
    for program in ["lxc-create", "lxc-start", "lxc-attach", "lxc-info", "lxc-stop", "unshare"] {
        if requirement::tool(program).is_none() {
            return Err(format!("{program} is not installed (package lxc)"));
        }
    }
    if !Path::new("/usr/share/lxc/templates/lxc-busybox").exists() {
        return Err("LXC's template \"busybox\" is not installed (package lxc-templates, or lxc)".into());
    }
    if requirement::tool("busybox").is_none() {
        return Err("busybox is not installed (package busybox-static)".into());
    }
    let start = || -> Result<()> {
        let lab = Lab::builder().containers(Kind::Lxc).build()?;
        let container = lab.container(0, "probe", &[])?;
        container.run(["true"])?;
        container.down()
    };
    start().map_err(|error| format!("an LXC container does not start: {error}"))
}
