//! A path that loses, doubles, reorders and damages packets on purpose, and keeps the books itself.
//!
//! Two gateways are joined by VXLAN, which carries one frame in one datagram; the datagrams take the way through a proxy
//! on a third gateway.
//!
//! ```text
//!   near --- lxcbr0 --- vxlan0 === gw-c: proxy === vxlan0 --- lxcbr0 --- far
//! ```

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipop_bench::traffic::packet::ETHERTYPE;
use ipop_lab::trials::Outcome;
use ipop_lab::{RawPort, udp_socket};
use libtest_mimic::Failed;

use crate::kit::{Bench, ensure, packets};

/// The VXLAN port and the length of its header (RFC 7348).
const VXLAN: u16 = 4789;
const HEADER: usize = 8;
/// A size of frames that nothing but the stream has: so the proxy tells it from the conversation of the two ends.
const SIZE: usize = 333;
/// A frame that is kept back is let go after this time if no other comes; the receiver waits longer.
const KEPT: Duration = Duration::from_millis(40);

/// What the proxy did to the frames of the stream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Books {
    seen: u64,
    lost: u64,
    doubled: u64,
    reordered: u64,
    damaged: u64,
}

/// What shall happen to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Lose,
    Double,
    /// Comes behind the next one.
    Delay,
    /// A byte behind the mark is changed, and the UDP checksum with it.
    Damage,
}

/// Passes datagrams on from one gateway to the other, and keeps the books. Dropping it ends it.
struct Proxy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Books>>,
}

impl Proxy {
    fn start(bench: &Bench, is_stream: fn(&[u8]) -> bool, fate: fn(u64) -> Fate) -> Result<Self, Failed> {
        let [a, b, c] = bench.lab.gateways() else { return Err("not three gateways".into()) };
        for gateway in [a, b] {
            let (local, remote) = (gateway.underlay_ip(), c.underlay_ip());
            gateway.netns().ip(&format!(
                "link add vxlan0 type vxlan id 42 dev eth0 local {local} remote {remote} dstport {VXLAN}"
            ))?;
            // What leaves here is handed to a socket, and nobody after that would finish a checksum or cut a super-frame.
            gateway.run(["ethtool", "-K", "vxlan0", "tx", "off"])?;
            gateway.plug("vxlan0")?;
        }
        let socket = udp_socket(c.netns(), SocketAddr::new(c.underlay_ip(), VXLAN), KEPT)?;
        let ends = [a, b].map(|gateway| SocketAddr::new(gateway.underlay_ip(), VXLAN));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || pass_on(&socket, ends, is_stream, fate, &stopped));
        Ok(Self { stop, thread: Some(thread) })
    }

    fn books(mut self) -> Result<Books, Failed> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or("no thread")?;
        Ok(thread.join().map_err(|_| "the proxy panicked")?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn pass_on(
    socket: &UdpSocket,
    [a, b]: [SocketAddr; 2],
    is_stream: fn(&[u8]) -> bool,
    fate: fn(u64) -> Fate,
    stop: &AtomicBool,
) -> Books {
    let mut books = Books::default();
    let mut kept: Option<Vec<u8>> = None;
    let mut buffer = [0; 2048];
    let send = |datagram: &[u8], to| {
        socket.send_to(datagram, to).expect("the underlay takes datagrams");
    };
    while !stop.load(Ordering::Relaxed) {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                // Nothing came behind it, so it is late, but in order.
                if let Some(datagram) = kept.take() {
                    send(&datagram, b);
                }
                continue;
            }
            Err(error) => panic!("the proxy's socket: {error}"),
        };
        let datagram = &mut buffer[..length];
        // The kernel's VXLAN sends from a port of each flow's own.
        let (to, forward) = if from.ip() == a.ip() { (b, true) } else { (a, false) };
        if !forward || !is_stream(&datagram[HEADER..]) {
            send(datagram, to);
            continue;
        }
        let number = books.seen;
        books.seen += 1;
        let overtaken = kept.take();
        let fate = fate(number);
        match fate {
            Fate::Pass => send(datagram, to),
            Fate::Lose => books.lost += 1,
            Fate::Double => {
                books.doubled += 1;
                send(datagram, to);
                send(datagram, to);
            }
            Fate::Damage => {
                books.damaged += 1;
                // The last byte of a frame of even length is the low half of a word; a change there and the opposite
                // change two bytes before it leave the checksum right, so that the kernel hands the packet on.
                datagram[length - 1] = datagram[length - 1].wrapping_add(1);
                datagram[length - 3] = datagram[length - 3].wrapping_sub(1);
                send(datagram, to);
            }
            Fate::Delay => kept = Some(datagram.to_vec()),
        }
        if let Some(datagram) = overtaken {
            if matches!(fate, Fate::Pass | Fate::Double) {
                books.reordered += 1;
            }
            send(&datagram, to);
        }
    }
    books
}

/// A frame of the stream, by its length; the conversation is TCP.
fn by_length(frame: &[u8]) -> bool {
    frame.len() == SIZE
}

/// A frame of a stream of mixed lengths: UDP over IPv4.
fn by_protocol(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&17)
}

/// Of 1000: ten are lost, ten doubled, ten overtaken.
fn some_of_each(number: u64) -> Fate {
    match number % 100 {
        7 => Fate::Lose,
        33 => Fate::Double,
        61 => Fate::Delay,
        _ => Fate::Pass,
    }
}

/// Faults in a row and at the same time.
fn wild(number: u64) -> Fate {
    match number % 37 {
        3..=5 => Fate::Lose,
        10 | 11 => Fate::Double,
        // Delayed, and the one that overtakes is doubled; delayed, and the next one is lost.
        20 | 25 => Fate::Delay,
        21 => Fate::Double,
        26 => Fate::Lose,
        _ => Fate::Pass,
    }
}

/// What the tool reports is what the proxy did, to the packet.
fn agree(arguments: &[&str], is_stream: fn(&[u8]) -> bool, fate: fn(u64) -> Fate) -> Result<Books, Failed> {
    let bench = Bench::unjoined(3)?;
    let proxy = Proxy::start(&bench, is_stream, fate)?;
    let _serve = bench.serve()?;
    let measurement = bench.measure(arguments)?;
    let found = packets(&measurement)?;
    let books = proxy.books()?;
    let told = Books {
        seen: found.sent,
        lost: found.lost - found.damaged,
        doubled: found.duplicates,
        reordered: found.reordered,
        damaged: found.damaged,
    };
    ensure(told == books, &format!("the proxy did {books:?}, and ipop-bench tells {told:?} ({found:?})"))?;
    ensure(found.socket_dropped == 0, &format!("{found:?}"))?;
    ensure(found.received == found.sent - found.lost + found.duplicates, &format!("{found:?}"))?;
    Ok(books)
}

pub(crate) fn all_kinds() -> Outcome {
    let books = agree(&["--rate", "2000", "--size", "333", "--seconds", "2"], by_length, some_of_each)?;
    ensure(books == Books { seen: 4000, lost: 40, doubled: 40, reordered: 40, damaged: 0 }, &format!("{books:?}"))?;
    agree(&["--rate", "1000", "--size", "333", "--seconds", "1.5"], by_length, wild).map(drop)
}

pub(crate) fn mix() -> Outcome {
    let books = agree(&["--rate", "1500", "--size", "imix", "--seconds", "1"], by_protocol, wild)?;
    ensure(books.lost > 50 && books.doubled > 50 && books.reordered > 20, &format!("{books:?}"))
}

pub(crate) fn damage() -> Outcome {
    let fate = |number| if number % 50 == 9 { Fate::Damage } else { Fate::Pass };
    // An even length, see above.
    let even = |frame: &[u8]| frame.len() == 400;
    let books = agree(&["--rate", "1000", "--size", "400", "--seconds", "1"], even, fate)?;
    ensure(books.damaged == 20, &format!("{books:?}"))
}

pub(crate) fn clean() -> Outcome {
    let bench = Bench::by_cable()?;
    let _serve = bench.serve()?;
    for size in ["64", "1400", "imix"] {
        let found = packets(&bench.measure(&["--rate", "5000", "--size", size, "--seconds", "1"])?)?;
        let whole = (found.sent, found.received) == (5000, 5000)
            && found.lost + found.duplicates + found.reordered + found.damaged == 0;
        ensure(whole, &format!("{size}: {found:?}"))?;
    }
    Ok(())
}

/// Against an AF_PACKET socket of the test's own: as many frames as told, of the size that was asked for.
pub(crate) fn on_the_wire() -> Outcome {
    let bench = Bench::by_cable()?;
    let _serve = bench.serve()?;
    let mut port = RawPort::open(bench.far.netns(), bench.far.interface())?;
    let scenario = r#"{"name": "raw", "about": "", "steady":
        {"kinds": ["raw"], "sizes": [200], "rate": 2000, "seconds": 1}}"#;
    let found = packets(&bench.measure(&["--scenario", scenario])?)?;
    let frames = port.capture(Duration::from_millis(300))?;
    let ours = frames.iter().filter(|frame| frame.get(12..14) == Some(&ETHERTYPE.to_be_bytes()));
    let lengths: Vec<usize> = ours.map(Vec::len).collect();
    ensure(found.sent == 2000 && found.received == 2000, &format!("{found:?}"))?;
    ensure(lengths.len() == 2000 && lengths.iter().all(|&length| length == 200), &format!("{} frames", lengths.len()))
}
