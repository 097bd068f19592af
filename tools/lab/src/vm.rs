//! Another kernel than this machine's: a virtual machine that has nothing but what a test takes along.
//!
//! ```text
//!   target/kernels/linux-image-…     unpacked by tools/test, not installed
//!        │ vmlinuz, modules                 ┌──────────────────────────────────────────┐
//!   Machine::new ── initramfs ── QEMU ──────┤ /init (busybox): file systems, modules,  │
//!        │ programs with their libraries    │ the command, "exit status: N", power off │
//!        └───────── console on ttyS0 ◄──────┴──────────────────────────────────────────┘
//! ```
//!
//! Without hardware virtualization (TCG), so that it runs wherever QEMU does, and about twenty times as slow as the machine
//! itself: the command sees [`interrupt::SLOWNESS`] in its environment. The root file system lies in memory; there is no network
//! but what the command makes, no disk, and no clock to be right.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::Cmd;
use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::requirement::tool;
use crate::run::Run;

/// Everything in the machine may take so many times as long.
const SLOWNESS: u32 = 10;
/// Where the modules lie in the machine.
const MODULES: &str = "/modules";
/// What stands in front of the command's exit status on the console.
const STATUS: &str = "exit status of the command: ";
/// The console's end is shown when something goes wrong.
const LAST_LINES: usize = 60;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// A kernel that was unpacked from its package.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Such as 6.1.0-56-cloud-amd64.
    pub release: String,
    image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// Those that tools/test has put into cargo's target directory, `kernels/<series>/<package>`, in the order of their names. The error is the
    /// reason why there is none.
    pub fn unpacked() -> std::result::Result<Vec<Kernel>, String> {
        if !cfg!(target_arch = "x86_64") {
            return Err("no kernels are fetched for this processor".into());
        }
        // A test program lies in target/<profile>/deps.
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let home = own.ancestors().nth(3).unwrap_or(Path::new(".")).join("kernels");
        let inside = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut packages: Vec<PathBuf> = inside(&home).flat_map(|series| inside(&series)).collect();
        packages.sort();
        let kernels: Vec<Kernel> = packages.iter().filter_map(|package| Kernel::in_package(package)).collect();
        if kernels.is_empty() {
            return Err(format!("no kernel in {}; tools/test fetches it", home.display()));
        }
        Ok(kernels)
    }

    fn in_package(root: &Path) -> Option<Kernel> {
        let mut files = fs::read_dir(root.join("boot")).ok()?.flatten();
        let image = files.find_map(|file| file.file_name().to_str()?.starts_with("vmlinuz-").then(|| file.path()))?;
        let release = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        let modules = ["lib/modules", "usr/lib/modules"].map(|dir| root.join(dir).join(&release));
        let modules = modules.into_iter().find(|dir| dir.is_dir())?;
        Some(Kernel { release, image, modules })
    }

    /// Copies a module to `directory`, behind those that it needs; `order` gets their names as they are to be loaded. One
    /// that is part of the kernel itself is not there, and need not be.
    fn copy_module(&self, name: &str, directory: &Path, order: &mut Vec<String>) -> Result<()> {
        if order.iter().any(|other| other == name) {
            return Ok(());
        }
        let Some(file) = find_module(&self.modules, name) else {
            let built_in = fs::read_to_string(self.modules.join("modules.builtin")).unwrap_or_default();
            let known = built_in.lines().any(|line| module_name(Path::new(line)).as_deref() == Some(name));
            let missing = || Error::other(format!("Linux {} has no module {name}", self.release));
            return if known { Ok(()) } else { Err(missing()) };
        };
        let target = directory.join(format!("{name}.ko"));
        if file.extension().is_some_and(|end| end == "xz") {
            let text = |path: &Path| path.display().to_string();
            let unpack = r#"exec busybox xzcat "$0" > "$1""#;
            Cmd::new(["sh", "-c", unpack, &text(&file), &text(&target)]).run()?;
        } else {
            fs::copy(&file, &target).context(format!("copying {}", file.display()))?;
        }
        for needed in needs(&fs::read(&target).context(format!("reading {}", target.display()))?) {
            self.copy_module(&needed, directory, order)?;
        }
        order.push(name.to_owned());
        Ok(())
    }
}

/// The name of a module by its file, in which '-' and '_' are the same.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?.replace('-', "_"))
}

fn find_module(directory: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() { find_module(&path, name) } else { (module_name(&path)? == name).then_some(path) }
    })
}

/// Which other modules a module needs: the text "depends=a,b" among those that modinfo(8) shows.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let list = module[at + KEY.len()..].split(|octet| *octet == 0).next().unwrap_or_default();
    let names = list.split(|octet| *octet == b',').filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).replace('-', "_")).collect()
}

/// Whether virtual machines can be had here; the error is the reason why not.
pub fn vm_available() -> std::result::Result<(), String> {
    for (program, package) in
        [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("ldd", "libc-bin")]
    {
        if tool(program).is_none() {
            return Err(format!("{program} is not installed (package {package})"));
        }
    }
    Ok(())
}

/// A machine that is being put together.
#[derive(Debug)]
pub struct Machine {
    kernel: Kernel,
    /// What will be its root directory.
    root: PathBuf,
    run: std::sync::Arc<Run>,
}

/// What the command in the machine has done.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: i32,
    /// All that came from the console.
    pub console: String,
}

impl Machine {
    /// One with busybox, and nothing else yet.
    pub fn new(kernel: &Kernel) -> Result<Machine> {
        let run = Run::new()?;
        let root = run.dir().join("root");
        for directory in ["bin", "dev", "etc", "proc", "run", "sys", "tmp", "root", "usr/bin", "usr/sbin", "var/lib"] {
            make_directory(&root.join(directory))?;
        }
        let machine = Machine { kernel: kernel.clone(), root, run };
        machine.program("busybox")?;
        machine.text("/etc/passwd", PASSWD)?;
        machine.text("/etc/group", GROUP)?;
        Ok(machine)
    }

    /// Takes a program along by its name, to where it lies here.
    pub fn program(&self, name: &str) -> Result<()> {
        let file = tool(name).ok_or_else(|| Error::other(format!("{name} is not installed")))?;
        self.executable(&file, &Path::new("/usr/bin").join(name))
    }

    /// Takes a file along, and the libraries that it needs.
    pub fn executable(&self, file: &Path, target: &Path) -> Result<()> {
        self.copy(file, target)?;
        // Fails for what needs none.
        let libraries = Cmd::new(["ldd".to_owned(), file.display().to_string()]).output()?.stdout;
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':')) {
            self.copy(Path::new(library), Path::new(library))?;
        }
        Ok(())
    }

    fn copy(&self, file: &Path, target: &Path) -> Result<()> {
        let target = self.inside(target);
        if target.exists() {
            return Ok(());
        }
        make_directory(target.parent().unwrap_or(&self.root))?;
        fs::copy(file, &target).map(drop).context(format!("copying {} to {}", file.display(), target.display()))
    }

    /// A file with this text, which can be run.
    pub fn text(&self, target: &str, text: &str) -> Result<()> {
        let file = self.inside(Path::new(target));
        let write =
            || fs::write(&file, text).and_then(|()| fs::set_permissions(&file, PermissionsExt::from_mode(0o755)));
        write().context(format!("writing {}", file.display()))
    }

    fn inside(&self, target: &Path) -> PathBuf {
        self.root.join(target.strip_prefix("/").unwrap_or(target))
    }

    /// Boots it with these modules, runs a command of the shell, and powers it off. An error if it does not come to the
    /// command's end within `limit`.
    pub fn run(self, modules: &[&str], command: &str, limit: Duration) -> Result<Finished> {
        let directory = self.inside(Path::new(MODULES));
        make_directory(&directory)?;
        let mut order = Vec::new();
        for module in modules {
            self.kernel.copy_module(module, &directory, &mut order)?;
        }
        self.text("/init", &init(&order, command))?;
        symlink("busybox", self.root.join("usr/bin/sh")).context("naming the shell")?;
        symlink("/usr/bin/sh", self.root.join("bin/sh")).context("naming the shell")?;
        let (archive, console) = (self.run.dir().join("initramfs"), self.run.dir().join("console"));
        let text = |path: &Path| path.display().to_string();
        let pack = r#"cd "$0" && find . | busybox cpio -o -H newc > "$1""#;
        Cmd::new(["sh", "-c", pack, &text(&self.root), &text(&archive)]).timeout(Duration::from_secs(120)).run()?;
        let mut qemu = vec!["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1G"];
        qemu.extend(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        let mut line: Vec<String> = qemu.into_iter().map(str::to_owned).collect();
        line.extend(["-serial".to_owned(), format!("file:{}", text(&console))]);
        line.extend(["-kernel".to_owned(), text(&self.kernel.image), "-initrd".to_owned(), text(&archive)]);
        line.extend(["-append", "console=ttyS0 quiet panic=-1"].map(str::to_owned));
        let log = File::create(self.run.dir().join("qemu.log")).context("creating qemu.log")?;
        let ended = Cmd::new(line).spawn_to_file(&log)?.wait(limit);
        let console = fs::read(&console).map(|octets| String::from_utf8_lossy(&octets).replace('\r', ""));
        let console = console.unwrap_or_default();
        let status = console.rsplit_once(STATUS).and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        match (ended, status) {
            (Ok(_), Some(status)) => Ok(Finished { status, console }),
            (Err(Error::Interrupted), _) => Err(Error::Interrupted),
            (ended, _) => {
                let said = fs::read_to_string(self.run.dir().join("qemu.log")).unwrap_or_default();
                let ended = ended.err().map_or_else(|| "it ended early".to_owned(), |error| error.to_string());
                let lines: Vec<&str> = console.lines().collect();
                let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
                Err(Error::other(format!("a machine with Linux {}: {ended}\n{said}\n{last}", self.kernel.release)))
            }
        }
    }
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).context(format!("creating {}", path.display()))
}

/// What the kernel starts: the file systems that programs expect, the modules, the command.
fn init(modules: &[String], command: &str) -> String {
    let mut script = String::from("#!/usr/bin/busybox sh\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n");
    script.push_str(
        "b=/usr/bin/busybox\n\
         $b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs dev /dev\n\
         exec </dev/null >/dev/ttyS0 2>&1\n\
         for directory in /run /tmp /var/lib; do $b mount -t tmpfs tmpfs $directory; done\n\
         $b mount -t cgroup2 cgroup /sys/fs/cgroup\n\
         for applet in $($b --list); do [ -e /usr/bin/$applet ] || $b ln -s busybox /usr/bin/$applet; done\n",
    );
    for module in modules {
        let _ = writeln!(script, "insmod {MODULES}/{module}.ko");
    }
    let _ = writeln!(script, "ifconfig lo up\nexport {}={SLOWNESS}", interrupt::SLOWNESS);
    let _ = writeln!(script, "{command}\necho \"{STATUS}$?\"\npoweroff -f");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_by_what_others_call_them() {
        assert_eq!(module_name(Path::new("kernel/net/802/stp.ko")).as_deref(), Some("stp"));
        assert_eq!(module_name(Path::new("virtio-rng.ko.xz")).as_deref(), Some("virtio_rng"));
        assert_eq!(module_name(Path::new("modules.order")), None);
        assert_eq!(needs(b"license=GPL\0depends=stp,llc-two\0name=bridge\0"), ["stp", "llc_two"]);
        assert!(needs(b"license=GPL\0depends=\0name=llc\0").is_empty() && needs(b"").is_empty());
    }

    #[test]
    fn the_last_word_is_the_status() {
        let script = init(&["llc".to_owned(), "bridge".to_owned()], "false");
        let lines: Vec<&str> = script.lines().collect();
        assert!(lines.ends_with(&["false", "echo \"exit status of the command: $?\"", "poweroff -f"]));
        let place = |what| lines.iter().position(|line| *line == what).unwrap();
        assert!(place("insmod /modules/llc.ko") < place("insmod /modules/bridge.ko"));
    }
}
