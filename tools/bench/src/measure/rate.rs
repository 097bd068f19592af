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

/// One stream of packets, and what became of it.
struct Outcome {
    packets: Packets,
    /// Packets per second that arrived, each number once.
    rate: f64,
    cpu: Cpu,
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

/// Full blast. Gives the rate that was offered; `None` if nothing arrived.
pub(super) fn blast(bench: &mut Bench<'_>, seconds: f64, kind: PacketKind, size: Size) -> Result<Option<f64>> {
    one(bench, ids::blast(kind, size), Pace::Blast, seconds, kind, size)
}

/// A steady stream, to see what a path does to it that has no reason to be busy.
pub(super) fn steady(bench: &mut Bench<'_>, steady: &Steady, kind: PacketKind, size: Size) -> Result<()> {
    one(bench, ids::steady(kind, size), Pace::Rate(steady.rate), steady.seconds, kind, size).map(drop)
}

/// One stream, as a figure. Gives the rate that was offered; `None` if nothing arrived.
fn one(
    bench: &mut Bench<'_>,
    id: String,
    pace: Pace,
    seconds: f64,
    kind: PacketKind,
    size: Size,
) -> Result<Option<f64>> {
    bench.begin(&id)?;
    if let Some(reason) = bench.unfit(kind, size) {
        bench.skip(&id, reason);
        return Ok(None);
    }
    let Outcome { packets, rate, cpu } = stream(bench, kind, size, pace, seconds)?;
    if packets.received == 0 {
        bench.skip(&id, format!("none of {} packets arrived: are both ends on one layer-2 segment?", packets.sent));
        return Ok(None);
    }
    let offered = packets.offered;
    bench.add(Figure {
        id,
        value: rate,
        unit: Unit::PacketsPerSecond,
        detail: Detail::Packets(packets),
        cpu: Some(cpu),
    });
    Ok(Some(offered))
}

/// The binary search of RFC 2544, section 26.1, from nothing to `most`, which is measured if it is not known. Gives the
/// rate that was found.
pub(super) fn search(
    bench: &mut Bench<'_>,
    search: &Search,
    kind: PacketKind,
    size: Size,
    most: Option<f64>,
) -> Result<Option<f64>> {
    let id = ids::lossless(kind, size);
    bench.begin(&id)?;
    if let Some(reason) = bench.unfit(kind, size) {
        bench.skip(&id, reason);
        return Ok(None);
    }
    let most = match most {
        Some(most) => most,
        None => stream(bench, kind, size, Pace::Blast, search.seconds)?.packets.offered,
    };
    let (mut low, mut high) = (0.0, most);
    let mut trials = Vec::new();
    let mut best: Option<Outcome> = None;
    // Whether the best trial could have been offered more, if there had been a better generator.
    let mut generator_bound = false;
    for number in 0..search.trials {
        // RFC 2544 begins at the maximum.
        let wanted = if number == 0 { most } else { f64::midpoint(low, high) };
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
