//! TCP flows: a thread each, and bytes counted where they arrive.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};

use crate::error::{Context, Error, Result};

/// Bytes per call, as iperf3 does by default.
const BLOCK: usize = 128 << 10;
/// A connection of a flow must be made within this time.
const CONNECT: Duration = Duration::from_secs(5);
/// A flow that moves nothing looks this often whether it shall stop.
const GLANCE: Duration = Duration::from_millis(100);
/// A flow introduces itself within this time after it has connected.
const GREETING: Duration = Duration::from_secs(1);
/// How long to wait for the next connection before looking again.
const PAUSE: Duration = Duration::from_millis(2);

/// TCP_INFO, see tcp(7).
#[derive(Debug, Clone, Copy)]
struct TcpInfo;
nix::getsockopt_impl!(TcpInfo, libc::IPPROTO_TCP, libc::TCP_INFO, libc::tcp_info, sockopt::GetStruct<libc::tcp_info>);

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// This end sends.
    Send,
    /// This end receives.
    Receive,
}

/// Some flows that run. Dropping them ends them.
#[derive(Debug)]
pub struct Flows {
    streams: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    role: Role,
}

/// Opens connections to `to`, each introduced by the tag.
pub fn connect(to: SocketAddr, flows: u32, tag: u32) -> Result<Vec<TcpStream>> {
    (0..flows)
        .map(|_| {
            let mut stream = TcpStream::connect_timeout(&to, CONNECT).context(format!("connecting to {to}"))?;
            stream.write_all(&tag.to_be_bytes()).context(format!("writing to {to}"))?;
            Ok(stream)
        })
        .collect()
}

/// Accepts connections that introduce themselves with the tag; strangers are turned away.
pub fn accept(listener: &TcpListener, flows: u32, tag: u32) -> Result<Vec<TcpStream>> {
    listener.set_nonblocking(true).context("listening")?;
    let end = Instant::now() + CONNECT;
    let mut streams = Vec::new();
    while streams.len() < flows as usize {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let absent = flows as usize - streams.len();
            return Err(Error::other(format!("{absent} of {flows} TCP flows have not connected")));
        }
        match listener.accept() {
            Ok((mut stream, _)) => {
                let mut word = [0; 4];
                // A stranger who says nothing gets a moment, and not all of the time.
                let greeted = stream
                    .set_nonblocking(false)
                    .and_then(|()| stream.set_read_timeout(Some(left.min(GREETING))))
                    .and_then(|()| stream.read_exact(&mut word));
                if greeted.is_ok() && word == tag.to_be_bytes() {
                    streams.push(stream);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(error).context("accepting a TCP flow"),
        }
    }
    Ok(streams)
}

impl Flows {
    /// Starts to send or to receive on all of these connections.
    pub fn start(streams: Vec<TcpStream>, role: Role) -> Result<Self> {
        let mut flows = Self { streams, threads: Vec::new(), bytes: Arc::default(), stop: Arc::default(), role };
        for stream in &flows.streams {
            stream
                .set_read_timeout(Some(GLANCE))
                .and_then(|()| stream.set_write_timeout(Some(GLANCE)))
                .context("setting up a TCP flow")?;
            let stream = stream.try_clone().context("setting up a TCP flow")?;
            let (bytes, stop) = (Arc::clone(&flows.bytes), Arc::clone(&flows.stop));
            flows.threads.push(thread::spawn(move || move_bytes(stream, role, &bytes, &stop)));
        }
        Ok(flows)
    }

    /// Bytes moved so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts the bytes of a window that begins now: bytes and seconds. An error if all flows end before it does.
    pub fn window(&self, time: Duration) -> Result<(u64, f64)> {
        let (start, before) = (Instant::now(), self.bytes());
        loop {
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok((self.bytes() - before, start.elapsed().as_secs_f64()));
            }
            if self.threads.iter().all(JoinHandle::is_finished) {
                return Err(Error::other("all TCP flows have ended before their time"));
            }
            thread::sleep(left.min(GLANCE));
        }
    }

    /// Segments that were sent again, on all flows; `None` at the receiving end.
    pub fn retransmits(&self) -> Option<u64> {
        if self.role == Role::Receive {
            return None;
        }
        self.streams.iter().map(|stream| Some(u64::from(getsockopt(stream, TcpInfo).ok()?.tcpi_total_retrans))).sum()
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for stream in &self.streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Moves bytes until it is told to stop or the other end closes.
fn move_bytes(mut stream: TcpStream, role: Role, bytes: &AtomicU64, stop: &AtomicBool) {
    let mut block = vec![0x5a; BLOCK];
    while !stop.load(Ordering::Relaxed) {
        let moved = match role {
            Role::Send => stream.write(&block),
            Role::Receive => stream.read(&mut block),
        };
        match moved {
            Ok(0) => return,
            Ok(count) => {
                bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}
