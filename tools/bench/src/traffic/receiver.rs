//! Receives numbered packets, counts them, and sends back the marks that ask for it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, SockaddrLike, SockaddrStorage, sendto};
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use super::packet::{CYCLE, ETHERTYPE, IS_ECHO, MARK, Mark, WANTS_ECHO, overhead};
use super::sequence::{Arrival, Sequence};
use super::socket::{Inbox, Link, dropped, udp_socket};
use crate::error::{Error, Result};
use crate::scenario::PacketKind;

/// The trial is over when nothing has come for this long after the sender has stopped.
const QUIET: Duration = Duration::from_millis(150);
/// A segment that never falls silent is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The shortest Ethernet frame that AF_PACKET may send, and an echo is padded to.
const SHORTEST: usize = 60;

/// What arrived in one trial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Packets, with duplicates.
    pub received: u64,
    /// Different numbers.
    pub unique: u64,
    /// Packets whose number had arrived before.
    pub duplicates: u64,
    /// Packets that arrived after one with a higher number.
    pub reordered: u64,
    /// Packets of another length or content than was sent. The kernel drops a UDP packet whose checksum shows the damage:
    /// that one is lost.
    pub damaged: u64,
    /// Packets that the kernel dropped at the socket.
    pub socket_dropped: u64,
    /// From the first packet to the last, in seconds.
    pub seconds: f64,
}

/// Packets of which trial to count.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// The tag of their marks.
    pub tag: u32,
    /// What carries them.
    pub kind: PacketKind,
    /// The lengths of their frames.
    pub lengths: [usize; CYCLE],
}

/// A thread that receives. Dropping it stops it.
#[derive(Debug)]
pub struct Receiver {
    /// The UDP port that it listens on; 0 for raw frames.
    pub port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Counted>>>,
}

impl Receiver {
    /// Starts to receive on this address and interface.
    pub fn start(link: &Link, local: SocketAddr, expected: Expected) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (socket, port): (OwnedFd, u16) = match expected.kind {
            PacketKind::Raw => (link.test_socket()?, 0),
            PacketKind::Udp => {
                let socket = udp_socket(SocketAddr::new(local.ip(), 0))?;
                let port = socket.local_addr().map_or(0, |address| address.port());
                (socket.into(), port)
            }
        };
        let stopped = Arc::clone(&stop);
        let mac = link.mac;
        let ipv6 = local.is_ipv6();
        let thread = thread::spawn(move || receive(&socket, expected, mac, ipv6, &stopped));
        Ok(Self { port, stop, thread: Some(thread) })
    }

    /// Waits until no more packets come, and tells what came. To be called when the sender has stopped.
    pub fn finish(mut self) -> Result<Counted> {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else {
            return Ok(Counted::default());
        };
        thread.join().map_err(|_| Error::other("the receiver's thread panicked"))?
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn receive(socket: &OwnedFd, expected: Expected, mac: [u8; 6], ipv6: bool, stop: &AtomicBool) -> Result<Counted> {
    let mut inbox = Inbox::new();
    let mut sequence = Sequence::default();
    let mut counted = Counted::default();
    let headers = overhead(expected.kind, ipv6);
    let payloads = expected.lengths.map(|length| length - headers);
    let (mut first, mut last) = (None, Instant::now());
    let mut stopped = None;
    loop {
        inbox.receive(socket.as_raw_fd(), MsgFlags::empty(), |packet, from| {
            let payload = match expected.kind {
                PacketKind::Udp => packet,
                PacketKind::Raw => packet.get(headers..).unwrap_or_default(),
            };
            let ours = Mark::peek(payload).is_some_and(|mark| mark.tag.get() == expected.tag);
            if !ours {
                return;
            }
            last = Instant::now();
            first.get_or_insert(last);
            let expected_len = |mark: &Mark| payloads[(mark.number.get() % CYCLE as u64) as usize];
            let mark = Mark::read(payload).filter(|mark| payload.len() == expected_len(mark));
            match mark.map(|mark| (mark, sequence.record(mark.number.get()))) {
                None | Some((_, Arrival::Absurd)) => counted.damaged += 1,
                Some((mark, Arrival::First)) if mark.flags.get() & WANTS_ECHO != 0 => {
                    echo(socket.as_raw_fd(), mark, packet, from, expected.kind, mac);
                }
                Some(_) => {}
            }
        })?;
        if stop.load(Ordering::Acquire) {
            let since = *stopped.get_or_insert_with(Instant::now);
            if (since.elapsed() >= QUIET && last.elapsed() >= QUIET) || since.elapsed() >= PATIENCE {
                break;
            }
        }
    }
    counted.received = sequence.received();
    counted.unique = sequence.unique();
    counted.duplicates = sequence.duplicates();
    counted.reordered = sequence.reordered();
    counted.socket_dropped = dropped(&socket.as_fd());
    counted.seconds = first.map_or(0.0, |first| last.duration_since(first).as_secs_f64());
    Ok(counted)
}

/// Sends a mark back. One that the kernel refuses is one that the asker does not get; it counts them.
fn echo(socket: RawFd, mut mark: Mark, packet: &[u8], from: Option<SockaddrStorage>, kind: PacketKind, mac: [u8; 6]) {
    mark.flags = IS_ECHO.into();
    match (kind, from) {
        (PacketKind::Udp, Some(from)) if from.len() > 0 => {
            let _ = sendto(socket, mark.as_bytes(), &from, MsgFlags::MSG_DONTWAIT);
        }
        (PacketKind::Raw, _) => {
            let mut frame = [0; SHORTEST];
            frame[..6].copy_from_slice(&packet[6..12]);
            frame[6..12].copy_from_slice(&mac);
            frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
            frame[14..14 + MARK].copy_from_slice(mark.as_bytes());
            let _ = nix::sys::socket::send(socket, &frame, MsgFlags::MSG_DONTWAIT);
        }
        (PacketKind::Udp, _) => {}
    }
}
