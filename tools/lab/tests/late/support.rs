//! Two gateways with a container each.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

pub(crate) use ipop_lab::trials::Outcome;
use ipop_lab::{Builder, Container, Daemon, Gateway, Lab, interrupt};
use libtest_mimic::Failed;
use serde_json::Value;

/// What comes back has this long.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const HERE: &str = "10.0.3.3";
pub(crate) const THERE: &str = "10.0.3.104";

pub(crate) fn ensure(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(what().into()) }
}

/// A lab without daemons.
pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) c0: Container,
    pub(crate) c1: Container,
}

impl World {
    pub(crate) fn new(builder: &Builder) -> Result<World, Failed> {
        let lab = builder.build()?;
        let c0 = lab.container(0, "c0", &["10.0.3.3/24"])?;
        let c1 = lab.container(1, "c1", &["10.0.3.104/24"])?;
        Ok(World { lab, c0, c1 })
    }

    pub(crate) fn gateway(&self, index: usize) -> &Gateway {
        self.lab.gateway(index)
    }

    /// Starts both daemons.
    pub(crate) fn start(&self, change: impl Fn(usize, &mut Value)) -> Result<[Daemon; 2], Failed> {
        let start = |index: usize| -> Result<Daemon, Failed> {
            let mut config = self.gateway(index).config();
            change(index, &mut config);
            Ok(self.gateway(index).start_ipop(&config)?)
        };
        Ok([start(0)?, start(1)?])
    }

    /// Pings pass in both directions, sooner or later.
    pub(crate) fn traffic(&self, when: &str) -> Outcome {
        for (from, to) in [(&self.c0, THERE), (&self.c1, HERE)] {
            let what = format!("traffic from {} to {to} {when}", from.name());
            interrupt::wait_until(&what, SOON, || {
                Ok(from.exec(["ping", "-n", "-c1", "-W0.3", to])?.success().then_some(()))
            })?;
        }
        Ok(())
    }

    /// A stream each way arrives as it was sent.
    pub(crate) fn streams(&self) -> Outcome {
        for (from, to, address) in [(&self.c0, &self.c1, THERE), (&self.c1, &self.c0, HERE)] {
            stream(from, to, address)?;
        }
        Ok(())
    }

    /// Nothing passes.
    pub(crate) fn no_traffic(&self, when: &str) -> Outcome {
        let output = self.c0.exec(["ping", "-n", "-c2", "-i0.2", "-W0.3", THERE])?;
        ensure(!output.success(), || format!("a ping passes {when}: {}", output.stdout))
    }
}

/// Waits until a daemon's log has a line with all these words.
pub(crate) fn logged(daemon: &Daemon, words: &[&str]) -> Outcome {
    logged_times(daemon, words, 1)
}

/// Waits until a daemon's log has so many lines with all these words.
pub(crate) fn logged_times(daemon: &Daemon, words: &[&str], times: usize) -> Outcome {
    let found = interrupt::wait_until(&format!("{words:?} in the log"), SOON, || {
        let log = daemon.log();
        let count = log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
        Ok((count >= times).then_some(()))
    });
    found.map_err(|error| format!("{error}:\n{}", daemon.log()).into())
}

/// What is sent in a stream: some megabytes, so that there are super-frames.
const STREAM: usize = 4 << 20;
/// A stream that stands still for so long is broken.
const STALLED: Duration = Duration::from_secs(10);

fn stream(from: &Container, to: &Container, address: &str) -> Outcome {
    let address: IpAddr = address.parse()?;
    let listener = to.netns().within(|| TcpListener::bind((address, 0)))??;
    let target = listener.local_addr()?;
    let mut near = from.netns().within(|| TcpStream::connect_timeout(&target, STALLED))??;
    let (mut far, _) = listener.accept()?;
    near.set_write_timeout(Some(STALLED))?;
    far.set_read_timeout(Some(STALLED))?;
    let sent: Vec<u8> = (0..STREAM).map(|at| (at / 251) as u8).collect();
    let received = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let written = near.write_all(&sent);
            // Closed, so that the reader comes to the end.
            drop(near);
            written
        });
        let mut received = Vec::new();
        let read = far.read_to_end(&mut received);
        writer.join().map_err(|_| "the writer panicked")??;
        read?;
        Ok::<_, Failed>(received)
    })?;
    ensure(received == sent, || format!("{} of {STREAM} octets arrived, or others", received.len()))
}
