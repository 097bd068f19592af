//! Steady traffic of bystanders, and counting what arrives of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipop_lab::arp::Mac;
use ipop_lab::{Container, RawPort};
use libtest_mimic::Failed;

use super::kit::Outcome;

/// IEEE's EtherType for local experiments: nobody answers.
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
/// For what is on the way when a sender stops.
const LAST: Duration = Duration::from_millis(300);

/// A frame that no kernel has an opinion on.
pub(crate) fn data(to: Mac, from: Mac) -> Vec<u8> {
    let mut frame = [&to[..], &from, &EXPERIMENTAL].concat();
    frame.resize(60, 0x5a);
    frame
}

/// Work that a thread does until it is told to stop, at the latest when this is dropped; what it counted.
struct Work {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64, String>>>,
}

impl Work {
    fn start(work: impl FnOnce(&AtomicBool) -> Result<u64, String> + Send + 'static) -> Work {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Work { stop, thread: Some(thread::spawn(move || work(&told))) }
    }

    fn stop(mut self) -> Result<u64, Failed> {
        self.stop.store(true, Relaxed);
        let result = self.thread.take().map(JoinHandle::join).ok_or("stopped twice")?;
        Ok(result.map_err(|_| "a thread panicked")??)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // Its socket keeps the namespace alive.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A station that sends without end.
pub(crate) struct Talk(Work);

impl Talk {
    /// The same frame, so many times per second.
    pub(crate) fn start(from: &Container, frame: Vec<u8>, rate: u32) -> Result<Talk, Failed> {
        Talk::of(from, rate, move |_| frame.clone())
    }

    /// Frames that differ by their number.
    pub(crate) fn of(
        from: &Container,
        rate: u32,
        frame: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> Result<Talk, Failed> {
        let port = RawPort::open(from.netns(), from.interface())?;
        let work = Work::start(move |stop| {
            let (begin, mut sent) = (Instant::now(), 0);
            while !stop.load(Relaxed) {
                // As many as are due, so that the rate does not depend on how long a nap really is.
                let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u64 + 1;
                while sent < due && !stop.load(Relaxed) {
                    port.send(&frame(sent)).map_err(|error| error.to_string())?;
                    sent += 1;
                }
                thread::sleep(Duration::from_micros(500));
            }
            Ok(sent)
        });
        Ok(Talk(work))
    }

    /// How many frames it has sent.
    pub(crate) fn stop(self) -> Result<u64, Failed> {
        self.0.stop()
    }
}

/// Somebody who counts what arrives at a container.
pub(crate) struct Count(Work);

impl Count {
    /// Counts the frames that are `wanted`.
    pub(crate) fn start(at: &Container, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Result<Count, Failed> {
        let mut port = RawPort::open(at.netns(), at.interface())?;
        let work = Work::start(move |stop| {
            let mut count = 0;
            while !stop.load(Relaxed) {
                let frame = port.recv(Duration::from_millis(20)).map_err(|error| error.to_string())?;
                count += u64::from(frame.is_some_and(|frame| wanted(&frame)));
            }
            let lost = port.lost().map_err(|error| error.to_string())?;
            if lost == 0 { Ok(count) } else { Err(format!("{lost} frames were not looked at")) }
        });
        Ok(Count(work))
    }

    /// Counts exactly this frame.
    pub(crate) fn of(at: &Container, frame: Vec<u8>) -> Result<Count, Failed> {
        Count::start(at, move |seen| seen == frame)
    }

    /// How many there were, with those that are still on the way.
    pub(crate) fn stop(self) -> Result<u64, Failed> {
        thread::sleep(LAST);
        self.0.stop()
    }
}

/// What became of a ping.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pinged {
    pub(crate) sent: u32,
    pub(crate) received: u32,
}

impl Pinged {
    /// Every answer came.
    pub(crate) fn whole(self, what: &str) -> Outcome {
        if self.sent == self.received && self.sent > 0 { Ok(()) } else { Err(format!("{what}: {self:?}").into()) }
    }
}

/// Pings `count` times, `interval` seconds apart.
pub(crate) fn ping(from: &Container, target: &str, count: u32, interval: f64) -> Result<Pinged, Failed> {
    let line = format!("ping -n -q -c{count} -i{interval} -W1 {target}");
    let output = from.exec(line.split_whitespace())?;
    let summary = output.stdout.lines().find(|line| line.contains("packets transmitted"));
    let numbers = summary.map(|line| line.split(',').map(|part| part.trim()).collect::<Vec<_>>());
    let number = |at: usize| {
        let part = numbers.as_ref().and_then(|parts| parts.get(at))?;
        part.split_whitespace().next()?.parse().ok()
    };
    let pinged = number(0).zip(number(1)).map(|(sent, received)| Pinged { sent, received });
    Ok(pinged.ok_or_else(|| format!("`{line}`: {}{}", output.stdout, output.stderr))?)
}

/// How long the first answer of a host takes that nobody has asked for yet, if one comes within a second.
pub(crate) fn first_answer(from: &Container, target: &str) -> Result<Option<Duration>, Failed> {
    let output = from.exec(["ping", "-n", "-c1", "-W1", target])?;
    let time = output.stdout.split("time=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let time: Option<f64> = time.and_then(|text| text.parse().ok());
    Ok(time.map(|milliseconds| Duration::from_secs_f64(milliseconds / 1000.0)))
}

/// Asks for hosts that nobody has asked for yet; an error unless each answers.
pub(crate) fn all_answer(from: &Container, targets: &[String], what: &str) -> Outcome {
    let mut answers = Vec::new();
    for target in targets {
        answers.push(first_answer(from, target)?);
        thread::sleep(Duration::from_millis(100));
    }
    let text: Vec<String> = answers
        .iter()
        .map(|answer| answer.map_or("-".to_owned(), |time| format!("{:.1}", time.as_secs_f64() * 1000.0)))
        .collect();
    let answered = answers.iter().flatten().count();
    println!("{what}: {answered} of {} answered, after ms: {}", targets.len(), text.join(" "));
    if answered == targets.len() {
        return Ok(());
    }
    Err(format!("{what}: {answered} of {} new addresses answered: {}", targets.len(), text.join(" ")).into())
}
