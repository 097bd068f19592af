//! Round trips: under load by the clock, one at a time, and for ARP.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::socket::MsgFlags;
use zerocopy::IntoBytes;

use super::{Bench, rate};
use crate::error::{Context, Error, Result};
use crate::result::histogram::{self, Latency};
use crate::result::{Cpu, Detail, Figure, LatencyDetail, Unit, ids};
use crate::scenario::{Arp, OpenLoop, PacketKind, PingPong, Size};
use crate::session::client::unexpected;
use crate::session::{Reply, Request};
use crate::traffic::Clock;
use crate::traffic::arp::{Asker, address};
use crate::traffic::flows::connect;
use crate::traffic::generator::{Generator, Pace};
use crate::traffic::packet::{IS_ECHO, MARK, Mark, WANTS_ECHO, overhead};
use crate::traffic::sequence::{Arrival, Sequence};
use crate::traffic::socket::{Inbox, udp_socket};

/// An answer that has not come after this time never comes.
const PATIENCE: Duration = Duration::from_secs(1);
/// Round trips that are made and not counted: caches fill, addresses are learned.
const WARM_UP: Duration = Duration::from_millis(20);
/// Bytes per message of the ping-pong over TCP.
const MESSAGE: usize = 64;
/// The smallest Ethernet frame, without its check sequence, that the ping-pong over UDP uses.
const SMALLEST: usize = 64;

/// Adds a figure out of a histogram; leaves it out, with a reason, if nothing was answered.
fn add(bench: &mut Bench<'_>, id: &str, mut detail: LatencyDetail, histogram: &Histogram<u64>, cpu: Cpu) {
    if histogram.is_empty() {
        bench.skip(id, format!("none of {} requests was answered", detail.unanswered));
        return;
    }
    detail.latency = Latency::from(histogram);
    let value = detail.latency.p50 as f64;
    bench.add(Figure {
        id: id.to_owned(),
        value,
        unit: Unit::Nanoseconds,
        detail: Detail::Latency(detail),
        cpu: Some(cpu),
    });
}

fn detail(unanswered: u64) -> LatencyDetail {
    LatencyDetail { latency: Latency::from(&histogram::new()), unanswered, offered: None, late: None }
}

/// Packets by the clock at a share of the rate that passes without loss; some of them ask for an answer. The time of
/// each counts from when it was due, so that a path (or a generator) that stalls cannot hide how long it made the others
/// wait.
pub(super) fn open_loop(bench: &mut Bench<'_>, open_loop: &OpenLoop, load: u32, limit: Option<f64>) -> Result<()> {
    let id = ids::open_loop(load);
    bench.begin(&id)?;
    let Some(limit) = limit else {
        bench.skip(&id, "the highest rate without loss is not known");
        return Ok(());
    };
    let wanted = limit * f64::from(load) / 100.0;
    let mut probe = (wanted / open_loop.probes_per_second).ceil().max(1.0) as u64;
    // Of a mix of sizes all sizes ask in turn.
    while open_loop.size == Size::Imix && (probe.is_multiple_of(2) || probe.is_multiple_of(3)) {
        probe += 1;
    }
    let session = &mut *bench.session;
    let (tag, size, kind) = (session.tag(), open_loop.size, PacketKind::Udp);
    let to = session.listen(&Request::ReceivePackets { kind, size, mtu: session.link.mtu, tag })?;
    let socket = udp_socket(SocketAddr::new(session.local.ip(), 0))?;
    let from = socket.local_addr().map_or(0, |address| address.port());
    let mut generator = Generator::new(&session.link, kind, &session.route(from, to.port()), size, tag)?;
    let window = session.open_window()?;
    let clock = Clock::start();
    let stop = AtomicBool::new(false);
    let time = Duration::from_secs_f64(open_loop.seconds);
    let (sent, counted, echoes) = thread::scope(|scope| {
        let listening = scope.spawn(|| collect(&socket, tag, clock, &stop));
        let sent = generator.run(Pace::Rate(wanted), time, probe, clock);
        // The receiver at the other end waits until it is quiet, and with it so do we.
        let counted = rate::stop(bench);
        stop.store(true, Ordering::Release);
        let echoes = listening.join().map_err(|_| Error::other("a thread panicked")).and_then(|echoes| echoes);
        Ok::<_, Error>((sent?, counted?, echoes?))
    })?;
    let mut cpu = bench.session.close_window(window)?;
    cpu.packets = Some(counted.unique as f64);
    let mut detail = detail(sent.probes.saturating_sub(echoes.len()));
    detail.offered = Some(sent.rate());
    detail.late = Some(sent.lateness.value_at_quantile(0.5));
    add(bench, &id, detail, &echoes, cpu);
    Ok(())
}

/// Takes the time of every mark that comes back.
fn collect(socket: &UdpSocket, tag: u32, clock: Clock, stop: &AtomicBool) -> Result<Histogram<u64>> {
    let mut histogram = histogram::new();
    let mut inbox = Inbox::new();
    let mut sequence = Sequence::default();
    while !stop.load(Ordering::Acquire) {
        inbox.receive(socket.as_raw_fd(), MsgFlags::empty(), |packet, _| {
            let Some(mark) = Mark::read(packet) else { return };
            let ours = mark.tag.get() == tag && mark.flags.get() == IS_ECHO;
            if ours && sequence.record(mark.number.get()) == Arrival::First {
                histogram::record(&mut histogram, clock.now().saturating_sub(mark.time.get()));
            }
        })?;
    }
    Ok(histogram)
}

/// One message at a time over TCP.
pub(super) fn ping_pong_tcp(bench: &mut Bench<'_>, ping_pong: &PingPong) -> Result<()> {
    let id = ids::PING_PONG_TCP;
    bench.begin(id)?;
    let tag = bench.session.tag();
    let to = bench.session.listen(&Request::EchoTcp { tag })?;
    let mut stream = connect(to, 1, tag)?.pop().ok_or_else(|| Error::other("no connection"))?;
    stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE * 5))).context("setting up TCP")?;
    let mut message = [0x5a; MESSAGE];
    let mut round_trip = || {
        stream
            .write_all(&message)
            .and_then(|()| stream.read_exact(&mut message))
            .context("the ping-pong over TCP")
            .map(|()| true)
    };
    let window = warm_up(bench, &mut round_trip)?;
    let (histogram, unanswered) = closed_loop(ping_pong, &mut round_trip)?;
    let mut cpu = bench.session.close_window(window)?;
    cpu.packets = Some(histogram.len() as f64 * 2.0);
    add(bench, id, detail(unanswered), &histogram, cpu);
    drop(stream);
    done(bench)
}

/// One datagram at a time over UDP.
pub(super) fn ping_pong_udp(bench: &mut Bench<'_>, ping_pong: &PingPong) -> Result<()> {
    let id = ids::PING_PONG_UDP;
    bench.begin(id)?;
    let session = &mut *bench.session;
    let (tag, kind) = (session.tag(), PacketKind::Udp);
    let length = (overhead(kind, session.remote.is_ipv6()) + MARK).max(SMALLEST);
    let size = Size::Bytes(u16::try_from(length).unwrap_or(u16::MAX));
    let to = session.listen(&Request::ReceivePackets { kind, size, mtu: session.link.mtu, tag })?;
    let socket = udp_socket(SocketAddr::new(session.local.ip(), 0))?;
    socket.connect(to).context("connecting a UDP socket")?;
    let (mut number, mut buffer) = (0u64, [0; 128]);
    let mut round_trip = || {
        let mark = Mark { tag: tag.into(), flags: WANTS_ECHO.into(), number: number.into(), time: 0.into() };
        number += 1;
        socket.send(mark.as_bytes()).context("sending a datagram")?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match socket.recv(&mut buffer) {
                Ok(count) => {
                    let echo = Mark::read(&buffer[..count]);
                    if echo.is_some_and(|echo| echo.tag == mark.tag && echo.number == mark.number) {
                        return Ok(true);
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("receiving a datagram"),
            }
        }
        Ok(false)
    };
    let window = warm_up(bench, &mut round_trip)?;
    let (histogram, unanswered) = closed_loop(ping_pong, &mut round_trip)?;
    let mut cpu = bench.session.close_window(window)?;
    cpu.packets = Some(histogram.len() as f64 * 2.0);
    rate::stop(bench)?;
    add(bench, id, detail(unanswered), &histogram, cpu);
    Ok(())
}

/// A few round trips that do not count, and then the window opens.
fn warm_up(bench: &mut Bench<'_>, round_trip: &mut impl FnMut() -> Result<bool>) -> Result<crate::cpu::Window> {
    let end = Instant::now() + WARM_UP;
    while Instant::now() < end {
        round_trip()?;
    }
    bench.session.open_window()
}

/// One round trip after the other.
fn closed_loop(ping_pong: &PingPong, round_trip: &mut impl FnMut() -> Result<bool>) -> Result<(Histogram<u64>, u64)> {
    let (mut histogram, mut unanswered) = (histogram::new(), 0);
    let end = Instant::now() + Duration::from_secs_f64(ping_pong.seconds);
    let mut start = Instant::now();
    while start < end {
        let answered = round_trip()?;
        let now = Instant::now();
        if answered {
            histogram::record(&mut histogram, now.duration_since(start).as_nanos() as u64);
        } else {
            unanswered += 1;
        }
        start = now;
    }
    Ok((histogram, unanswered))
}

/// ARP requests, for new addresses and for one that was just answered.
pub(super) fn arp(bench: &mut Bench<'_>, arp: &Arp) -> Result<()> {
    bench.begin(ids::ARP_COLD)?;
    let mut asker = Asker::new(&bench.session.link, bench.session.local.ip().to_canonical())?;
    match bench.session.ask(&Request::AnswerArp)? {
        Reply::Done => {}
        other => return Err(unexpected(&other)),
    }
    // Nobody knows these yet; the next run takes others.
    let first = bench.session.tag();
    let cold = (0..arp.cold).map(|number| first.wrapping_add(number));
    let known = ask_for(bench, ids::ARP_COLD, &mut asker, cold)?;
    bench.begin(ids::ARP_WARM)?;
    match known {
        Some(known) => {
            ask_for(bench, ids::ARP_WARM, &mut asker, (0..arp.warm).map(|_| known))?;
        }
        None => bench.skip(ids::ARP_WARM, "no address was resolved before"),
    }
    done(bench)
}

/// Asks for each of these, one after the other. Gives the last that was answered.
fn ask_for(
    bench: &mut Bench<'_>,
    id: &str,
    asker: &mut Asker,
    numbers: impl Iterator<Item = u32>,
) -> Result<Option<u32>> {
    let window = bench.session.open_window()?;
    let (mut histogram, mut unanswered, mut last) = (histogram::new(), 0, None);
    for number in numbers {
        match asker.ask(address(number), PATIENCE)? {
            Some(time) => {
                histogram::record(&mut histogram, time.as_nanos() as u64);
                last = Some(number);
            }
            None => unanswered += 1,
        }
    }
    let cpu = bench.session.close_window(window)?;
    add(bench, id, detail(unanswered), &histogram, cpu);
    Ok(last)
}

/// Ends what the other end does for us.
fn done(bench: &mut Bench<'_>) -> Result<()> {
    match bench.session.ask(&Request::Stop)? {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}
