//! Packet rates: at full blast, and the highest without loss.

use std::net::SocketAddr;
use std::time::Duration;

use super::Bench;
use crate::error::{Error, Result};
use crate::result::{Cpu, Detail, Figure, Lossless, Packets, Trial, Unit, ids};
use crate::scenario::{PacketKind, Search, Size, Steady};
use crate::session::client::unexpected;
use crate::session::{Reply, Request};
use crate::traffic::Clock;
use crate::traffic::generator::{Generator, Pace, Sent};
use crate::traffic::receiver::Counted;
use crate::traffic::socket::udp_socket;

/// A generator that offers less than this share of what it was told to offer has reached its own limit.
const HELD: f64 = 0.98;

/// While nothing has passed, the next trial offers this share of the last.
const DESCENT: f64 = 0.7;

/// What full blast has shown, in packets per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blasted {
    offered: f64,
    arrived: f64,
}

/// One stream of packets, and what became of it.
struct Outcome {
    packets: Packets,
    /// Packets per second that arrived, each number once.
    rate: f64,
    cpu: Cpu,
}

impl Outcome {
    fn blasted(&self) -> Blasted {
        Blasted { offered: self.packets.offered, arrived: self.rate }
    }
}

/// Sends one stream.
fn stream(bench: &mut Bench<'_>, kind: PacketKind, size: Size, pace: Pace, seconds: f64) -> Result<Outcome> {
    let session = &mut *bench.session;
    let tag = session.tag();
    let to = session.listen(&Request::ReceivePackets { kind, size, mtu: session.link.mtu, tag })?;
    // Keeps the port ours while packets carry it.
    let own = udp_socket(SocketAddr::new(session.local.ip(), 0))?;
    let from = own.local_addr().map_or(0, |address| address.port());
    let mut generator = Generator::new(&session.link, kind, &session.route(from, to.port()), size, tag)?;
    let window = session.open_window()?;
    let sent = generator.run(pace, Duration::from_secs_f64(seconds), 0, Clock::start())?;
    let counted = stop(bench)?;
    let mut cpu = bench.session.close_window(window)?;
    cpu.packets = Some(counted.unique as f64);
    // A path that queues delivers for longer than the sender sends; a receiver that was not let run takes all at once.
    let time = sent.seconds.max(counted.seconds);
    Ok(Outcome { packets: packets(&sent, &counted), rate: counted.unique as f64 / time, cpu })
}

/// Ends a stream: what the other end has counted.
pub(super) fn stop(bench: &mut Bench<'_>) -> Result<Counted> {
    bench.session.begin(&Request::Stop)?;
    match bench.session.finish(Duration::ZERO)? {
        Reply::Packets(counted) => Ok(counted),
        other => Err(unexpected(&other)),
    }
}

fn packets(sent: &Sent, counted: &Counted) -> Packets {
    Packets {
        sent: sent.packets,
        received: counted.received,
        lost: sent.packets.saturating_sub(counted.unique),
        duplicates: counted.duplicates,
        reordered: counted.reordered,
        socket_dropped: counted.socket_dropped,
        damaged: counted.damaged,
        offered: sent.rate(),
        seconds: sent.seconds,
    }
}

/// Full blast. Gives what was offered and what arrived; `None` if nothing did.
pub(super) fn blast(bench: &mut Bench<'_>, seconds: f64, kind: PacketKind, size: Size) -> Result<Option<Blasted>> {
    one(bench, ids::blast(kind, size), Pace::Blast, seconds, kind, size)
}

/// A steady stream, to see what a path does to it that has no reason to be busy.
pub(super) fn steady(bench: &mut Bench<'_>, steady: &Steady, kind: PacketKind, size: Size) -> Result<()> {
    one(bench, ids::steady(kind, size), Pace::Rate(steady.rate), steady.seconds, kind, size).map(drop)
}

/// One stream, as a figure. Gives what was offered and what arrived; `None` if nothing did.
fn one(
    bench: &mut Bench<'_>,
    id: String,
    pace: Pace,
    seconds: f64,
    kind: PacketKind,
    size: Size,
) -> Result<Option<Blasted>> {
    bench.begin(&id)?;
    if let Some(reason) = bench.unfit(kind, size) {
        bench.skip(&id, reason);
        return Ok(None);
    }
    let outcome = stream(bench, kind, size, pace, seconds)?;
    let blasted = outcome.blasted();
    let Outcome { packets, rate, cpu } = outcome;
    if packets.received == 0 {
        bench.skip(&id, format!("none of {} packets arrived: are both ends on one layer-2 segment?", packets.sent));
        return Ok(None);
    }
    bench.add(Figure {
        id,
        value: rate,
        unit: Unit::PacketsPerSecond,
        detail: Detail::Packets(packets),
        cpu: Some(cpu),
    });
    Ok(Some(blasted))
}

/// The binary search of RFC 2544, section 26.1: first the most that can be offered, which is measured if it is not known,
/// then what arrived of it, then between the highest rate that passed and the lowest that did not. Gives the rate that was
/// found.
///
/// Halves are taken of the ratio, not of the difference: where ten times more is offered than passes, the steps would
/// else be as wide as what is looked for.
pub(super) fn search(
    bench: &mut Bench<'_>,
    search: &Search,
    kind: PacketKind,
    size: Size,
    known: Option<Blasted>,
) -> Result<Option<f64>> {
    let id = ids::lossless(kind, size);
    bench.begin(&id)?;
    if let Some(reason) = bench.unfit(kind, size) {
        bench.skip(&id, reason);
        return Ok(None);
    }
    let Blasted { offered: most, arrived } = match known {
        Some(known) => known,
        None => stream(bench, kind, size, Pace::Blast, search.seconds)?.blasted(),
    };
    let (mut low, mut high) = (0.0_f64, most);
    let mut trials = Vec::new();
    let mut best: Option<Outcome> = None;
    // Whether the best trial could have been offered more, if there had been a better generator.
    let mut generator_bound = false;
    for number in 0..search.trials {
        let wanted = match number {
            // RFC 2544 begins at the maximum.
            0 => most,
            1 if arrived > 0.0 && arrived < high => arrived,
            _ if low > 0.0 => (low * high).sqrt(),
            _ => high * DESCENT,
        };
        let outcome = stream(bench, kind, size, Pace::Rate(wanted), search.seconds)?;
        let packets = outcome.packets;
        let loss = packets.lost as f64 / packets.sent.max(1) as f64;
        let passed = loss <= search.tolerance;
        trials.push(Trial { wanted, offered: packets.offered, loss, passed });
        let held = packets.offered >= wanted * HELD;
        if passed {
            low = low.max(packets.offered.min(wanted));
            if best.as_ref().is_none_or(|best| packets.offered > best.packets.offered) {
                best = Some(outcome);
                generator_bound = !held || number == 0;
            }
        }
        if !passed || !held {
            high = high.min(wanted);
        }
        if number == 0 && passed {
            break;
        }
    }
    let Some(best) = best else {
        let least = trials.iter().map(|trial| trial.wanted).fold(f64::INFINITY, f64::min);
        bench.skip(&id, format!("every trial lost more than {}, down to {least:.0} packets/s", search.tolerance));
        return Ok(None);
    };
    let value = best.packets.offered;
    let detail = Lossless { tolerance: search.tolerance, trials, packets: best.packets, generator_bound };
    bench.add(Figure {
        id,
        value,
        unit: Unit::PacketsPerSecond,
        detail: Detail::Lossless(detail),
        cpu: Some(best.cpu),
    });
    if value > 0.0 { Ok(Some(value)) } else { Err(Error::other("the generator sent nothing")) }
}
