//! What a running gateway may still do: as the kernel shows it, and as it turns out when it is tried.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ipop_lab::{BRIDGE, Daemon, Gateway, TAP};
use libtest_mimic::Failed;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::kit::{Outcome, Pair, ensure, refused, says, until, with_logs};

const NET_ADMIN: u64 = 1 << 12;

/// What /proc says of a thread.
#[derive(Debug, PartialEq, Eq)]
struct Rights {
    uids: Vec<u32>,
    groups: String,
    capabilities: u64,
    no_new_privs: u32,
    seccomp: u32,
}

/// The threads of a daemon by number, those that the kernel has made for it among them.
fn threads(daemon: &Daemon) -> Result<BTreeMap<i32, Rights>, Failed> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
        let task = task?;
        let status = std::fs::read_to_string(task.path().join("status"))?;
        let field = |name: &str| -> Result<String, Failed> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok(line.ok_or_else(|| format!("no {name} in {status}"))?.trim().to_owned())
        };
        let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"];
        let sets: Vec<u64> =
            sets.map(|set| Ok(u64::from_str_radix(&field(set)?, 16)?)).into_iter().collect::<Result<_, Failed>>()?;
        let rights = Rights {
            uids: field("Uid")?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?,
            groups: field("Groups")?,
            capabilities: sets.iter().fold(0, |all, set| all | set),
            no_new_privs: field("NoNewPrivs")?.parse()?,
            seccomp: field("Seccomp")?.parse()?,
        };
        threads.insert(task.file_name().to_string_lossy().parse()?, rights);
    }
    Ok(threads)
}

fn uid_of(name: &str) -> Option<u32> {
    Some(nix::unistd::User::from_name(name).ok()??.uid.as_raw())
}

/// Every thread has the user's rights, and the control thread the capabilities that it uses.
fn has_only(daemon: &Daemon, user: &str, workers: usize, control: u64) -> Outcome {
    let threads = threads(daemon)?;
    ensure(threads.len() > workers, format!("{} threads for {workers} workers", threads.len()))?;
    let uid = uid_of(user).ok_or("no such user")?;
    for (tid, rights) in threads {
        let capabilities = if tid == daemon.pid() as i32 { control } else { 0 };
        let groups = String::new();
        let expected = Rights { uids: vec![uid; 4], groups, capabilities, no_new_privs: 1, seccomp: 2 };
        ensure(rights == expected, format!("thread {tid}: {rights:?} instead of {expected:?}"))?;
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    ensure(core.split_whitespace().filter(|word| *word == "0").count() == 2, format!("core files: {core}"))?;
    // Not dumpable: what /proc has of it is root's.
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{}/environ", daemon.pid()))?);
    ensure(owner == 0, format!("its /proc entries belong to {owner}"))
}

fn usual_user() -> &'static str {
    if uid_of("ipop").is_some() { "ipop" } else { "nobody" }
}

fn start_with(gateway: &Gateway, changes: &[(&str, Value)]) -> Result<Daemon, Failed> {
    let mut config = gateway.config();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    Ok(gateway.start_ipop(&config)?)
}

/// On both engines, with and without a bridge to look after.
pub(crate) fn rights() -> Outcome {
    let pair = Pair::new()?;
    for io_uring in [true, false] {
        let start = |index, workers: u64| {
            start_with(pair.gateway(index), &[("io_uring", io_uring.into()), ("workers", workers.into())])
        };
        let (a, b) = (start(0, 1)?, start(1, 2)?);
        a.wait_peers_up(Duration::from_secs(5))?;
        with_logs(pair.traffic_within("while confined", Duration::from_secs(3)), &[&a, &b])?;
        has_only(&a, usual_user(), 1, NET_ADMIN)?;
        has_only(&b, usual_user(), 2, NET_ADMIN)?;
        let confinement = a.status("status")?["confinement"].clone();
        ensure(confinement["user"] == usual_user(), confinement.to_string())?;
        ensure(confinement["capabilities"] == json!(["NET_ADMIN"]), confinement.to_string())?;
        let names = ["user", "capabilities", "no_new_privs", "landlock", "seccomp", "no_core_dump"];
        let expected = names.map(|name| json!({ "name": name, "on": true, "reason": null }));
        ensure(confinement["features"] == json!(expected), confinement.to_string())?;
        let table = a.query("status", false).run()?;
        let user = format!("user {}, capabilities NET_ADMIN; user on", usual_user());
        says("status", &table, &[&user, "landlock on, seccomp on"])?;
        ensure(table.contains("ring_restrictions on") == io_uring, table)?;
        // Nothing that it does came to be refused, of what it says.
        ensure(!a.log().contains("not permitted") && !a.log().contains("WARN confinement"), a.log())?;
    }
    // Attached by hand, it has nothing to do that takes a capability.
    let mut config = pair.gateway(0).config();
    config.as_object_mut().ok_or("no object")?.remove("bridge");
    let a = pair.gateway(0).start_ipop(&config)?;
    pair.gateway(0).run(["ip", "link", "set", TAP, "master", BRIDGE])?;
    has_only(&a, usual_user(), 1, 0)?;
    ensure(a.status("status")?["confinement"]["capabilities"] == json!([]), "capabilities without a bridge")
}

/// Where a system call can be made in another process's name.
pub(crate) fn tracing_available(ipop: &Result<(), String>) -> Result<(), String> {
    ipop.clone()?;
    if cfg!(target_arch = "x86_64") { Ok(()) } else { Err("registers are known for x86-64 only".to_owned()) }
}

/// Calls that a thread has no use for fail in it, and it goes on.
pub(crate) fn forbidden_calls() -> Outcome {
    let (pair, a, _b) = Pair::joined()?;
    const EPERM: i64 = -(nix::libc::EPERM as i64);
    let control = a.pid() as i32;
    let (netlink, raw) = (nix::libc::AF_NETLINK as u64, nix::libc::SOCK_RAW as u64);
    for tid in threads(&a)?.into_keys() {
        for (name, number, arguments) in [
            ("execve", nix::libc::SYS_execve, [0; 3]),
            ("openat", nix::libc::SYS_openat, [nix::libc::AT_FDCWD as u64, 0, nix::libc::O_RDWR as u64]),
            ("socket", nix::libc::SYS_socket, [netlink, raw, 0]),
            ("io_uring_setup", nix::libc::SYS_io_uring_setup, [0; 3]),
            ("process_vm_readv", nix::libc::SYS_process_vm_readv, [0; 3]),
            ("mmap", nix::libc::SYS_mmap, [0, 4096, nix::libc::PROT_EXEC as u64]),
        ] {
            let result = trace::call(tid, number, arguments)?;
            ensure(result == EPERM, format!("{name} in thread {tid}: {result}"))?;
        }
        // A file that is there, and a datagram socket, are for the control thread to ask for: the one without a name.
        let looked = trace::call(tid, nix::libc::SYS_openat, [nix::libc::AT_FDCWD as u64, 0, 0])?;
        let expected = if tid == control { -i64::from(nix::libc::EFAULT) } else { EPERM };
        ensure(looked == expected, format!("reading in thread {tid}: {looked}"))?;
    }
    pair.c0.ping(super::kit::THERE, 2)?;
    Ok(())
}

/// `"confine": false`, for perf and debuggers: everything stays, and it says so.
pub(crate) fn switched_off() -> Outcome {
    let pair = Pair::new()?;
    let a = start_with(pair.gateway(0), &[("confine", false.into())])?;
    for (tid, rights) in threads(&a)? {
        let kept = rights.uids == [0; 4] && rights.seccomp == 0 && rights.capabilities & NET_ADMIN != 0;
        ensure(kept, format!("{tid}: {rights:?}"))?;
    }
    let confinement = a.status("status")?["confinement"].clone();
    let off = confinement["features"].as_array().ok_or("no features")?;
    let why = "switched off in the config";
    ensure(
        off.len() == 6 && off.iter().all(|one| one["on"] == false && one["reason"] == why),
        confinement.to_string(),
    )?;
    says("log", &a.log(), &["\"confine\" is false"])?;
    if cfg!(target_arch = "x86_64") {
        // What is refused elsewhere for its number is looked at here.
        let result = trace::call(a.pid() as i32, nix::libc::SYS_execve, [0; 3])?;
        ensure(result == -i64::from(nix::libc::EFAULT), format!("execve of nothing: {result}"))?;
    }
    Ok(())
}

/// As systemd starts it: root with no more capabilities than the unit lists.
pub(crate) fn unit() -> Outcome {
    const UNIT: &str = include_str!("../../../../dist/ipop.service");
    let listed = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).ok_or("no capabilities")?;
    let set = listed.to_lowercase().replace("cap_", "+").replace(' ', ",");
    let pair = Pair::new()?;
    let gateway = pair.gateway(0);
    let config = gateway.config();
    let path = super::kit::file(&pair.lab, "unit.json", &config.to_string())?.display().to_string();
    let program = ipop_lab::ipop_binary()?.display().to_string();
    let bounding = format!("--bounding-set=-all,{set}");
    let words = ["setpriv", "--no-new-privs", &bounding, &program, "run", "--config", &path];
    let mut process = gateway.spawn(words)?;
    let socket = Path::new(config["control_socket"].as_str().unwrap_or_default());
    until("the control socket", Duration::from_secs(5), || Ok(socket.exists()))?;
    let b = start_with(pair.gateway(1), &[])?;
    b.wait_peers_up(Duration::from_secs(5))?;
    pair.traffic_within("with what the unit permits", Duration::from_secs(3))?;
    process.signal(Signal::SIGTERM)?;
    let output = process.wait(Duration::from_secs(3))?;
    says("log", &output.stderr, &[&format!("runs as user {}; ", usual_user()), "control thread: NET_ADMIN"])?;
    ensure(!output.stderr.contains("confinement: "), output.stderr)?;
    ensure(output.status.success() && !socket.exists(), "the socket is left, or it ended badly")
}

/// A user by name, none, and one that there is not.
pub(crate) fn users() -> Outcome {
    let pair = Pair::new()?;
    let gateway = pair.gateway(0);
    for (value, name) in [(json!("daemon"), "daemon"), (json!(false), "root"), (json!("root"), "root")] {
        let a = start_with(gateway, &[("user", value)])?;
        has_only(&a, name, 1, NET_ADMIN)?;
        ensure(a.status("status")?["confinement"]["user"] == name, "the status names another user")?;
        let socket = a.socket().to_owned();
        ensure(a.stop()?.success() && !Path::new(&socket).exists(), format!("{name}: the socket is left"))?;
        // It was made for this user; the next one gets its own.
        std::fs::remove_dir(socket.parent().ok_or("no directory")?)?;
    }
    let mut config = gateway.config();
    config["user"] = "nobody-of-that-name".into();
    refused(&pair.lab, gateway, "unknown-user", &config, &["no user 'nobody-of-that-name'", "useradd"])?;
    // A directory of somebody else's: it works, and says what will be left.
    config = gateway.config();
    config["control_socket"] = pair.lab.lab_run().dir().join("foreign.sock").display().to_string().into();
    let mut a = gateway.start_ipop(&config)?;
    says("log", &a.log(), &["foreign.sock", "will be left"])?;
    a.signal(Signal::SIGTERM)?;
    ensure(a.stop()?.success(), "it ended badly")?;
    let again = gateway.start_ipop(&config)?;
    ensure(again.status("status").is_ok(), "the socket that was left is in the way")
}

/// System calls in the name of another process's thread.
mod trace {
    use libtest_mimic::Failed;

    /// Within this time a thread of a gateway at rest does so.
    #[cfg(target_arch = "x86_64")]
    const ASLEEP: std::time::Duration = std::time::Duration::from_secs(10);

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn call(_: i32, _: i64, _: [u64; 3]) -> Result<i64, Failed> {
        Err("registers are known for x86-64 only".into())
    }

    /// Makes a sleeping thread make a call, gives what the kernel answers, and lets it go on as if nothing had been.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn call(tid: i32, number: i64, [first, second, third]: [u64; 3]) -> Result<i64, Failed> {
        use nix::sys::ptrace;
        use nix::sys::wait::{WaitPidFlag, waitpid};

        let thread = nix::unistd::Pid::from_raw(tid);
        let stopped = || waitpid(thread, Some(WaitPidFlag::__WALL));
        // If it sleeps in a call, the instruction before is `syscall`, of two octets. A worker looks for the next frame for a
        // while before it sleeps.
        let (before, at) = ipop_lab::interrupt::wait_until("a thread to sleep in a system call", ASLEEP, || {
            let failed = |error: nix::errno::Errno| ipop_lab::Error::other(format!("ptrace of {tid}: {error}"));
            ptrace::attach(thread).map_err(failed)?;
            stopped().map_err(failed)?;
            let before = ptrace::getregs(thread).map_err(failed)?;
            let at = before.rip - 2;
            let word = ptrace::read(thread, at as ptrace::AddressType).map_err(failed)?;
            if word & 0xffff == 0x050f {
                return Ok(Some((before, at)));
            }
            ptrace::detach(thread, None).map_err(failed)?;
            Ok(None)
        })?;
        let mut call = before;
        (call.rip, call.rax, call.rdi, call.rsi, call.rdx) = (at, number as u64, first, second, third);
        // No call is to be restarted when it goes on.
        call.orig_rax = u64::MAX;
        ptrace::setregs(thread, call)?;
        ptrace::step(thread, None)?;
        stopped()?;
        let result = ptrace::getregs(thread)?.rax as i64;
        let mut after = before;
        after.orig_rax = u64::MAX;
        // ERESTARTSYS and its like (include/linux/errno.h): the interrupted call is made again.
        if (-516..=-512).contains(&(before.rax as i64)) {
            (after.rip, after.rax) = (at, before.orig_rax);
        }
        ptrace::setregs(thread, after)?;
        ptrace::detach(thread, None)?;
        Ok(result)
    }
}
