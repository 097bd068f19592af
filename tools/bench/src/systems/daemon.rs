//! What is the same for all programs that make a TAP on each gateway: finding them, starting them, plugging their TAPs
//! into the bridges, watching them, and removing every trace of them.

use std::env;
use std::fs::{self, DirBuilder};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipop_lab::{Cmd, Gateway, Lab, Process, UPLINK, interrupt, lab_available, tool};

use super::{Missing, Running};
use crate::error::{Context, Error, Result, write};

/// A daemon's TAP must be there within this time.
const TAP_READY: Duration = Duration::from_secs(10);
/// What `ipop` asks for as the socket's buffers, given also to those that can be told. What the kernel allows
/// (net.core.rmem_max) may be less.
pub(super) const SOCKET_BUFFER: u32 = 8 << 20;

/// So much of what a daemon writes is kept.
const KEPT: usize = 32 * 1024;
/// So many of its last lines stand in an error.
const LAST_LINES: usize = 12;

/// A program and how to get it.
pub(super) struct Program {
    name: &'static str,
    install: &'static [&'static str],
}

impl Program {
    pub(super) const fn new(name: &'static str, install: &'static [&'static str]) -> Self {
        Self { name, install }
    }

    /// Its path, also from where `cargo install` puts programs.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
        let installed = cargo.map(|cargo| cargo.join("bin").join(self.name)).filter(|path| path.is_file());
        tool(self.name).or(installed)
    }

    /// The program with the arguments, as a command line.
    pub(super) fn line<S: Into<String>>(&self, arguments: impl IntoIterator<Item = S>) -> Vec<String> {
        let program = self.path().map_or(self.name.to_owned(), |path| path.display().to_string());
        [program].into_iter().chain(arguments.into_iter().map(Into::into)).collect()
    }

    /// Its version: the first number in what it says when it is called with this argument.
    pub(super) fn version(&self, argument: &str) -> Option<String> {
        version_of(&self.path()?, argument)
    }
}

/// What a system that needs these programs and a TAP lacks here.
pub(super) fn missing(programs: &[&Program]) -> Option<Missing> {
    if let Err(reason) = lab_available() {
        return Some(Missing::beyond_help(reason));
    }
    let install = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
    if !Path::new("/dev/net/tun").exists() {
        return Some(Missing { reason: "/dev/net/tun is missing".into(), install: install(&["modprobe", "tun"]) });
    }
    let absent = programs.iter().find(|program| program.path().is_none())?;
    Some(Missing { reason: format!("{} is not installed", absent.name), install: install(absent.install) })
}

/// The first number in what a program says when it is called with this argument.
pub(super) fn version_of(program: &Path, argument: &str) -> Option<String> {
    // Not every program that tells its version also calls that a success.
    let output = Cmd::new([&program.display().to_string(), argument]).output().ok()?;
    version_in(&output.stdout).or_else(|| version_in(&output.stderr))
}

fn version_in(text: &str) -> Option<String> {
    let number = |word: &str| {
        let word = word.strip_prefix('v').map_or(word, |rest| rest.trim_start_matches('.'));
        word.starts_with(|c: char| c.is_ascii_digit()).then(|| word.to_owned())
    };
    text.split_whitespace().find_map(number)
}

/// The last lines of a log.
pub(super) fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

/// The two gateways of a lab, each with the other one.
pub(super) fn pair(lab: &Lab) -> Result<[(&Gateway, &Gateway); 2]> {
    match lab.gateways() {
        [a, b] => Ok([(a, b), (b, a)]),
        others => Err(Error::other(format!("systems are compared between 2 gateways, not {}", others.len()))),
    }
}

/// A UDP port of a gateway on the underlay, as text.
pub(super) fn endpoint(gateway: &Gateway, port: u16) -> String {
    SocketAddr::new(gateway.underlay_ip(), port).to_string()
}

/// A random secret of 128 bits, in hexadecimal.
pub(super) fn secret() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    let mut source = fs::File::open("/dev/urandom").context("opening /dev/urandom")?;
    source.read_exact(&mut bytes).context("reading /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The daemons of one system, with all that was made for them. Dropping it removes everything.
pub(super) struct Daemons {
    // Dropped in this order: nobody uses a TAP, a route or a file any more when it goes.
    daemons: Vec<Daemon>,
    routes: Vec<DefaultRoute>,
    dir: Dir,
    inner_mtu: u32,
}

impl Daemons {
    /// None yet. Their directory, which only root can enter, is called like the system.
    pub(super) fn new(lab: &Lab, id: &str, inner_mtu: u32) -> Result<Self> {
        let path = lab.lab_run().dir().join(id);
        DirBuilder::new().mode(0o700).create(&path).context(format!("creating {}", path.display()))?;
        Ok(Self { daemons: Vec::new(), routes: Vec::new(), dir: Dir(path), inner_mtu })
    }

    /// Where their files go.
    pub(super) fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// Writes a file into their directory and gives its path.
    pub(super) fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context(format!("creating {}", parent.display()))?;
        }
        write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Gives a gateway a default route, for programs that cannot do without.
    pub(super) fn add_default_route(&mut self, gateway: &Gateway) -> Result<()> {
        gateway.netns().ip(&DefaultRoute::words("add"))?;
        self.routes.push(DefaultRoute(gateway.clone()));
        Ok(())
    }

    /// Asks all daemons whether they are ready, see [`Daemon::wait`].
    pub(super) fn wait(
        &mut self,
        what: &str,
        timeout: Duration,
        ready: impl Fn(&mut Daemon) -> Result<bool>,
    ) -> Result<()> {
        self.daemons.iter_mut().try_for_each(|daemon| daemon.wait(what, timeout, &ready))
    }

    /// Starts a program on a gateway. If it makes a TAP, waits until that is there and plugs it into the bridge.
    ///
    /// So the second daemon starts when the first one listens. That matters: an answer that is lost in the beginning,
    /// or two first messages that cross, cost some of them seconds.
    pub(super) fn spawn(
        &mut self,
        gateway: &Gateway,
        name: &str,
        command: Cmd,
        tap: Option<&'static str>,
    ) -> Result<&mut Daemon> {
        let process = command.keep_last(KEPT).spawn()?;
        let tap = tap.map(|name| Tap { name, gateway: gateway.clone() });
        self.daemons.push(Daemon { name: format!("{name} {}", gateway.name()), process, tap });
        let daemon = self.daemons.last_mut().expect("it was pushed a moment ago");
        daemon.plug(self.inner_mtu)?;
        Ok(daemon)
    }
}

impl Running for Daemons {
    fn processes(&self) -> Vec<(String, u32)> {
        self.daemons.iter().map(|daemon| (daemon.name.clone(), daemon.process.pid())).collect()
    }

    fn check(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::check)
    }
}

/// One program on one gateway.
pub(super) struct Daemon {
    name: String,
    // Dropped before its TAP, which the kernel normally removes with it.
    process: Process,
    tap: Option<Tap>,
}

impl Daemon {
    /// Its process, to be signalled.
    pub(super) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it wrote last.
    pub(super) fn log(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// An error once it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.process.ended()? {
            Some(status) => {
                self.process.drain();
                let log = last_lines(&self.log());
                Err(Error::other(format!("{} has ended ({status}); it wrote last:\n{log}", self.name)))
            }
            None => Ok(()),
        }
    }

    fn plug(&mut self, inner_mtu: u32) -> Result<()> {
        let Some(Tap { name: tap, gateway }) = &self.tap else {
            return Ok(());
        };
        let (tap, gateway) = (*tap, gateway.clone());
        self.wait(&format!("the interface {tap}"), TAP_READY, |_| {
            Ok(gateway.netns().ip(&format!("link show dev {tap}")).is_ok())
        })?;
        gateway.netns().ip(&format!("link set {tap} mtu {inner_mtu}"))?;
        Ok(gateway.plug(tap)?)
    }

    /// Asks again and again until the answer is yes; ends early when the daemon does. The error carries its last lines.
    pub(super) fn wait(
        &mut self,
        what: &str,
        timeout: Duration,
        mut ready: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let mut failure = None;
        let what = format!("{what} of {}", self.name);
        let waited = interrupt::wait_until(&what, timeout, || match self.check().and_then(|()| ready(self)) {
            Ok(ready) => Ok(ready.then_some(())),
            Err(error) => {
                failure = Some(error);
                Ok(Some(()))
            }
        });
        match (failure, waited) {
            (Some(error), _) => Err(error),
            (None, Err(error @ ipop_lab::Error::InVain { .. })) => {
                Err(Error::other(format!("{error}; it wrote last:\n{}", last_lines(&self.log()))))
            }
            (None, waited) => Ok(waited?),
        }
    }
}

/// An interface that goes with its daemon, or else is removed.
struct Tap {
    name: &'static str,
    gateway: Gateway,
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Err(error) = self.gateway.remove_link(self.name) {
            eprintln!("removing {} from {}: {error}", self.name, self.gateway.name());
        }
    }
}

/// A default route of a gateway. It leads to the underlay, whose only hosts are the gateways: nobody answers.
struct DefaultRoute(Gateway);

impl DefaultRoute {
    fn words(verb: &str) -> String {
        format!("route {verb} default dev {UPLINK} metric 4242")
    }
}

impl Drop for DefaultRoute {
    fn drop(&mut self) {
        let words = format!("ip -n {} {}", self.0.netns().name(), Self::words("delete"));
        if let Err(error) = Cmd::words(&words).uninterrupted().run() {
            eprintln!("removing the default route from {}: {error}", self.0.name());
        }
    }
}

/// The directory of a system's files.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        let found = [
            ("tinc version 1.0.36 (built Jan 1 2024, protocol 17)", "1.0.36"),
            ("fastd v22", "22"),
            ("OpenVPN 2.6.14 x86_64-pc-linux-gnu", "2.6.14"),
            ("Welcome to n2n v.1.3.2 for unknown", "1.3.2"),
            ("ipop 0.1.0", "0.1.0"),
        ];
        for (text, version) in found {
            assert_eq!(version_in(text).as_deref(), Some(version), "{text}");
        }
        assert_eq!(version_in("no number here"), None);
    }

    #[test]
    fn an_error_shows_the_end_of_a_log() {
        let log: String = (1..=30).map(|number| format!("line {number}\n")).collect();
        let last = last_lines(&log);
        assert!(last.starts_with("line 19\n") && last.ends_with("line 30"), "{last}");
        assert_eq!(last_lines("one"), "one");
    }
}
