//! Sends numbered packets through an AF_PACKET socket: as many as possible, or at a given rate by the clock.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Clock;
use super::packet::{CYCLE, Mark, Route, Template, WANTS_ECHO, cycle};
use super::sequence::NUMBERS;
use super::socket::{BATCH, Link, outbox, send};
use crate::error::{Error, Result};
use crate::result::histogram;
use crate::scenario::{PacketKind, Size};

/// So many frames are made at a time: the largest multiple of the mix's cycle in a batch, so that the frame of a number
/// always has the same place.
const SLOTS: usize = BATCH - BATCH % CYCLE;
/// The generator waits by sleeping down to this time before the next packet is due, and asks the clock for the rest: a
/// timer may be late by so much.
const SPIN: Duration = Duration::from_micros(10);
/// A stream that was held up may take so much longer.
const GRACE: Duration = Duration::from_millis(50);
/// When the interface takes nothing for so long, something is wrong.
const STUCK: Duration = Duration::from_secs(2);

/// How fast to send.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// As fast as the interface takes them.
    Blast,
    /// So many packets per second, each by the clock.
    Rate(f64),
}

/// Makes and sends packets.
#[derive(Debug)]
pub struct Generator {
    socket: OwnedFd,
    slots: Vec<Template>,
    tag: u32,
}

/// What was sent.
#[derive(Debug)]
pub struct Sent {
    /// Packets that the kernel took.
    pub packets: u64,
    /// Of these, packets that asked for an echo.
    pub probes: u64,
    /// From the first to the end of the last, in seconds.
    pub seconds: f64,
    /// Nanoseconds from the moment a probe was due to the moment it was made. Empty at full blast.
    pub lateness: Histogram<u64>,
}

impl Sent {
    /// Packets per second.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.packets as f64 / self.seconds } else { 0.0 }
    }
}

impl Generator {
    /// A generator on this interface. `tag` tells its packets from all others.
    pub fn new(link: &Link, kind: PacketKind, route: &Route, size: Size, tag: u32) -> Result<Self> {
        let templates = cycle(size, link.mtu)
            .into_iter()
            .map(|length| Template::new(kind, route, length, link.mtu))
            .collect::<Result<Vec<_>>>()?;
        let slots = templates.iter().cycle().take(SLOTS).cloned().collect();
        // It only sends: no EtherType, so that the kernel does not hand it copies.
        Ok(Self { socket: link.raw_socket(0)?, slots, tag })
    }

    /// Sends for this long. Every `probe`th packet asks for an echo; none does if that is 0.
    pub fn run(&mut self, pace: Pace, time: Duration, probe: u64, clock: Clock) -> Result<Sent> {
        // The default of 50 µs would be more than the whole latency that we want to see.
        let _ = nix::sys::prctl::set_timerslack(1);
        let start = Instant::now();
        let begin = clock.of(start);
        let total = match pace {
            Pace::Blast => NUMBERS,
            Pace::Rate(rate) => (rate * time.as_secs_f64()).round().clamp(1.0, NUMBERS as f64) as u64,
        };
        // A rate that cannot be reached is not made up for by sending for longer.
        let enough = time + time / 20 + GRACE;
        let mut sent = Sent { packets: 0, probes: 0, seconds: 0.0, lateness: histogram::new() };
        let mut outbox = outbox();
        let mut progress = start;
        while sent.packets < total {
            let now = Instant::now();
            let passed = now.duration_since(start);
            let due = match pace {
                Pace::Blast if passed >= time => break,
                Pace::Rate(_) if passed >= enough => break,
                Pace::Blast => u64::MAX,
                // At time 0 packet 0 is due.
                Pace::Rate(rate) => ((passed.as_secs_f64() * rate) as u64 + 1).min(total),
            };
            if due <= sent.packets {
                wait(start + due_after(pace, sent.packets), now);
                continue;
            }
            let slot = (sent.packets % SLOTS as u64) as usize;
            let count = usize::try_from(due - sent.packets).unwrap_or(SLOTS).min(SLOTS - slot);
            let now = clock.of(now);
            for (number, template) in (sent.packets..).zip(&mut self.slots[slot..slot + count]) {
                let asks = probe != 0 && number % probe == 0;
                let time = match pace {
                    Pace::Blast => now,
                    Pace::Rate(_) => begin + due_after(pace, number).as_nanos() as u64,
                };
                let flags = if asks { WANTS_ECHO } else { 0 };
                let _ = template.stamp(Mark {
                    tag: self.tag.into(),
                    flags: flags.into(),
                    number: number.into(),
                    time: time.into(),
                });
            }
            let frames: Vec<_> =
                self.slots[slot..slot + count].iter().map(|template| [IoSlice::new(template.frame())]).collect();
            let went = send(self.socket.as_raw_fd(), &mut outbox, &frames)? as u64;
            if went > 0 {
                progress = Instant::now();
            } else if progress.elapsed() > STUCK {
                return Err(Error::other("the interface has taken no frame for two seconds: is it up?"));
            } else {
                thread::yield_now();
            }
            if probe != 0 {
                for number in (sent.packets..sent.packets + went).filter(|number| number % probe == 0) {
                    sent.probes += 1;
                    let due = begin + due_after(pace, number).as_nanos() as u64;
                    histogram::record(&mut sent.lateness, now.saturating_sub(due));
                }
            }
            sent.packets += went;
        }
        sent.seconds = match pace {
            Pace::Blast => start.elapsed().as_secs_f64(),
            // The time of the last packet is part of the stream, as that of all others is.
            Pace::Rate(_) => start.elapsed().max(time).as_secs_f64(),
        };
        Ok(sent)
    }
}

/// When a packet is due, counted from the start.
fn due_after(pace: Pace, number: u64) -> Duration {
    match pace {
        Pace::Blast => Duration::ZERO,
        Pace::Rate(rate) => Duration::from_secs_f64(number as f64 / rate),
    }
}

/// Waits until `due`.
fn wait(due: Instant, now: Instant) {
    let left = due.saturating_duration_since(now);
    if left > SPIN {
        thread::sleep(left - SPIN);
    } else {
        // Whoever shares the core, such as the thread that receives the answers, shall not wait for us.
        thread::yield_now();
    }
}
