//! `ipop-bench run`'s side of the conversation.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{PROTOCOL, Reply, Request, Wire, printable, switches};
use crate::cpu::{Reading, Watch, Window};
use crate::error::{Context, Error, Result};
use crate::result::Cpu;
use crate::traffic::packet::Route;
use crate::traffic::socket::Link;

/// The other end answers within this time, besides the time that the request itself takes.
const ANSWER: Duration = Duration::from_secs(15);
/// It must be reachable within this time.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection to the other end.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    /// The address that `serve` listens on.
    pub remote: SocketAddr,
    /// Our address on the way to it.
    pub local: SocketAddr,
    /// The interface that leads to it.
    pub link: Link,
    /// The other end's Ethernet address.
    pub remote_mac: [u8; 6],
    /// Are both ends on the same machine?
    pub same_machine: bool,
    watch: Watch,
    next_tag: u32,
}

impl Session {
    /// Connects, and finds out whether both ends understand each other. `watch` tells what the processor time is spent
    /// on.
    pub fn connect(remote: SocketAddr, watch: Watch) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&remote, CONNECT).map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => {
                Error::other(format!("nothing listens on {remote}: start `ipop-bench serve` there first"))
            }
            ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                Error::other(format!("{remote} cannot be reached ({error}): does `ping {}` work?", remote.ip()))
            }
            _ => Error::Io { what: format!("connecting to {remote}"), source: error },
        })?;
        stream.set_read_timeout(Some(ANSWER)).context("setting a timeout")?;
        let local = stream.local_addr().context("asking for the own address")?;
        let mut wire = Wire::new(stream)?;
        let before = switches();
        wire.write(&Request::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").into() })?;
        let Reply::Hello { protocol, version, mac, mtu, switches: theirs } = answer(&mut wire)? else {
            return Err(Error::other(format!("{remote} answers, but it is no ipop-bench")));
        };
        let after = switches();
        let version = printable(&version);
        if protocol != PROTOCOL {
            return Err(Error::other(format!(
                "the other end speaks protocol {protocol} (ipop-bench {version}), and this one protocol {PROTOCOL} \
                 (ipop-bench {}): use the same version on both ends",
                env!("CARGO_PKG_VERSION")
            )));
        }
        let link = Link::with_address(local.ip())?;
        if link.mtu != mtu {
            eprintln!("ipop-bench: the MTU is {} here and {mtu} at the other end; large frames may be lost", link.mtu);
        }
        let same_machine = (before..=after).contains(&theirs);
        Ok(Self { wire, remote, local, link, remote_mac: mac, same_machine, watch, next_tag: first_tag() })
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.begin(request)?;
        self.finish(Duration::ZERO)
    }

    /// Asks for something that takes its time; [`Session::finish`] gets the answer.
    pub fn begin(&mut self, request: &Request) -> Result<()> {
        self.wire.write(request)
    }

    /// Waits for an answer, which may take so much longer than usual.
    pub fn finish(&mut self, time: Duration) -> Result<Reply> {
        self.wire.stream().set_read_timeout(Some(ANSWER + time)).context("setting a timeout")?;
        answer(&mut self.wire)
    }

    /// Asks for something to be started that listens on a port, and gives its address.
    pub fn listen(&mut self, request: &Request) -> Result<SocketAddr> {
        match self.ask(request)? {
            Reply::Listening { port } => Ok(SocketAddr::new(self.remote.ip(), port)),
            other => Err(unexpected(&other)),
        }
    }

    /// A number that no other trial on this segment uses.
    pub fn tag(&mut self) -> u32 {
        self.next_tag = self.next_tag.wrapping_add(1);
        self.next_tag
    }

    /// The way from a UDP port here to one at the other end.
    pub fn route(&self, from: u16, to: u16) -> Route {
        Route {
            source: self.link.mac,
            destination: self.remote_mac,
            from: SocketAddr::new(self.local.ip(), from),
            to: SocketAddr::new(self.remote.ip(), to),
        }
    }

    /// What is watched on this machine.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Begins to measure processor time.
    pub fn open_window(&mut self) -> Result<Window> {
        // The other end first: asking costs time on both machines.
        let theirs = self.their_reading()?;
        Ok(Window::open(self.readings(theirs)))
    }

    /// Ends it.
    pub fn close_window(&mut self, window: Window) -> Result<Cpu> {
        // Ours at once, before the question costs anything.
        let (ours, window) = (self.watch.read(), window.end());
        let theirs = self.their_reading()?;
        Ok(window.close(&self.combine(ours, theirs)))
    }

    fn their_reading(&mut self) -> Result<Reading> {
        match self.ask(&Request::Cpu)? {
            Reply::Cpu(reading) => Ok(reading),
            other => Err(unexpected(&other)),
        }
    }

    fn readings(&self, theirs: Reading) -> Vec<Reading> {
        self.combine(self.watch.read(), theirs)
    }

    /// One reading for each machine: on the same machine its clock counts once.
    fn combine(&self, ours: Reading, mut theirs: Reading) -> Vec<Reading> {
        if self.same_machine {
            theirs.machine = 0.0;
        }
        vec![ours, theirs]
    }
}

/// An answer that does not belong to the question.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::other(format!("the other end gave an answer that does not belong to the question: {reply:?}"))
}

fn answer(wire: &mut Wire) -> Result<Reply> {
    match wire.read() {
        Ok(Some(Reply::Error { text })) => Err(Error::other(printable(&text))),
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(Error::other("the other end has closed the connection: has ipop-bench serve been stopped?")),
        Err(Error::Io { source, .. }) if matches!(source.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(Error::other("the other end does not answer any more: is it, or the path to it, down?"))
        }
        Err(error) => Err(Error::other(printable(&error.to_string()))),
    }
}

/// Differs from run to run, so that a late packet of an earlier run is nobody's.
fn first_tag() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.as_millis() as u32).rotate_left(10) ^ std::process::id()
}
