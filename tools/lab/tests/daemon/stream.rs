//! Numbered datagrams from one container to another while something goes on, and what became of each.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipop_lab::{Container, udp_socket};
use libtest_mimic::Failed;
use nix::sys::socket::{setsockopt, sockopt};

use super::kit::{Outcome, ensure};

/// The port that they are sent to.
pub(crate) const STREAM_PORT: u16 = 7007;
/// What no number is made of: captures are searched for it.
pub(crate) const PATTERN: &[u8] = b"in clear text: ";
/// For what is on the way when the sender stops.
const LAST: Duration = Duration::from_millis(400);

/// The same number several times, so that nothing else passes for it.
fn body(number: u32) -> Vec<u8> {
    let number = number.to_be_bytes();
    [PATTERN, &number.repeat(20 + usize::from(number[3]))].concat()
}

fn number_in(bytes: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(*bytes.get(PATTERN.len()..)?.first_chunk()?);
    (bytes == body(number)).then_some(number)
}

/// A sender and a receiver at work.
pub(crate) struct Stream {
    stop_sending: Arc<AtomicBool>,
    stop_receiving: Arc<AtomicBool>,
    sender: JoinHandle<u32>,
    receiver: JoinHandle<(Vec<u8>, u64)>,
}

/// What became of a stream.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) sent: u32,
    pub(crate) missing: usize,
    pub(crate) doubled: usize,
    /// Datagrams that nobody sent.
    pub(crate) invented: u64,
}

impl Stream {
    /// So many per second.
    pub(crate) fn start(from: &Container, to: &Container, rate: u32) -> Result<Stream, Failed> {
        let target = SocketAddr::new(to.ip()?, STREAM_PORT);
        let sending = udp_socket(from.netns(), SocketAddr::new(from.ip()?, 0), LAST)?;
        let receiving = udp_socket(to.netns(), target, Duration::from_millis(50))?;
        setsockopt(&receiving, sockopt::RcvBufForce, &(8 << 20))?;
        let flags = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let [stop_sending, stop_receiving] = flags.clone();
        let [until, end] = flags;
        let receiver = thread::spawn(move || receive(&receiving, &end));
        let sender = thread::spawn(move || send(&sending, target, rate, &until));
        Ok(Stream { stop_sending, stop_receiving, sender, receiver })
    }

    pub(crate) fn stop(self) -> Result<Tally, Failed> {
        let panicked = |_| Failed::from("a thread of the stream panicked");
        self.stop_sending.store(true, Relaxed);
        let sent = self.sender.join().map_err(panicked)?;
        thread::sleep(LAST);
        self.stop_receiving.store(true, Relaxed);
        let (mut counts, invented) = self.receiver.join().map_err(panicked)?;
        let beyond = counts.iter().skip(sent as usize).map(|count| u64::from(*count)).sum::<u64>();
        counts.resize(sent as usize, 0);
        let number = |of: fn(&&u8) -> bool| counts.iter().filter(of).count();
        Ok(Tally { sent, missing: number(|c| **c == 0), doubled: number(|c| **c > 1), invented: invented + beyond })
    }
}

impl Tally {
    /// Every one has arrived, once, and nothing else.
    pub(crate) fn whole(&self, what: &str) -> Outcome {
        ensure(self.missing == 0, format!("{what}: {self:?}"))?;
        self.genuine(what)
    }

    /// Some may be lost, but none came twice and none was made up.
    pub(crate) fn genuine(&self, what: &str) -> Outcome {
        let good = self.sent > 100 && self.missing < self.sent as usize && self.doubled == 0 && self.invented == 0;
        ensure(good, format!("{what}: {self:?}"))
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, rate: u32, stop: &AtomicBool) -> u32 {
    let begin = Instant::now();
    let mut sent = 0;
    while !stop.load(Relaxed) {
        let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        // After a pause that the machine made, not all at once.
        for _ in 0..due.saturating_sub(sent).min(32) {
            // Refused while there is no answer to ARP: that one counts as not sent.
            if socket.send_to(&body(sent), to).is_ok() {
                sent += 1;
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// How often each number came, and how many others.
fn receive(socket: &UdpSocket, stop: &AtomicBool) -> (Vec<u8>, u64) {
    let (mut counts, mut invented) = (Vec::new(), 0);
    let mut buffer = [0; 2048];
    while !stop.load(Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(length) => match number_in(&buffer[..length]).map(|number| number as usize) {
                Some(number) if number < 1 << 24 => {
                    counts.resize(counts.len().max(number + 1), 0_u8);
                    counts[number] = counts[number].saturating_add(1);
                }
                _ => invented += 1,
            },
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    (counts, invented)
}
