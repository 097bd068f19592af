//! Traffic that is compared octet by octet: streams, datagrams, super-frames of them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;
use nix::sys::socket::{setsockopt, sockopt};

use crate::container::Container;
use crate::interrupt;
use crate::raw::udp_socket;
use crate::trials::Outcome;

/// Datagrams of one burst of [`transfer`]. Less than any queue on the way holds.
pub const BURST: usize = 40;
/// A datagram is there within this time, or lost.
const ARRIVED: Duration = Duration::from_secs(5);
/// A stream that stands still for so long is broken.
const STALLED: Duration = Duration::from_secs(10);

/// Numbers that look random and are the same in every run (xorshift64*).
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next numbers.
    pub fn fill(&mut self, octets: &mut [u8]) {
        for chunk in octets.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Streams in both directions at once over every one of some connections; every octet is compared.
pub fn exchange(here: &Container, there: &Container, address: &str, connections: u64, octets: usize) -> Outcome {
    let address: IpAddr = address.parse()?;
    let listener = there.netns().within(|| TcpListener::bind((address, 0)))??;
    let target = listener.local_addr()?;
    let pairs = (0..connections).map(|_| connect(here, &listener, target)).collect::<Result<Vec<_>, Failed>>()?;
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, (near, far)) in (1..).zip(&pairs) {
            for (from, to, seed) in [(near, far, number), (far, near, 1000 + number)] {
                threads.push(scope.spawn(move || write_stream(from, seed, octets)));
                threads.push(scope.spawn(move || read_stream(to, seed, octets)));
            }
        }
        // All of them end before one is judged, or the others would be cut off.
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        outcomes
            .into_iter()
            .try_for_each(|outcome| outcome.map_err(|_| "a stream's thread panicked")?.map_err(Failed::from))
    })
}

fn connect(here: &Container, listener: &TcpListener, target: SocketAddr) -> Result<(TcpStream, TcpStream), Failed> {
    let near = here.netns().within(|| TcpStream::connect_timeout(&target, interrupt::patient(STALLED)))??;
    let (far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(interrupt::patient(STALLED)))?;
        stream.set_write_timeout(Some(interrupt::patient(STALLED)))?;
    }
    Ok((near, far))
}

fn write_stream(mut stream: &TcpStream, seed: u64, octets: usize) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut block = vec![0; 1 << 16];
    for at in (0..octets).step_by(block.len()) {
        random.fill(&mut block);
        stream.write_all(&block).map_err(|error| format!("stream {seed}, sending at {at}: {error}"))?;
    }
    Ok(())
}

fn read_stream(mut stream: &TcpStream, seed: u64, octets: usize) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (mut expected, mut block) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    for at in (0..octets).step_by(block.len()) {
        random.fill(&mut expected);
        stream.read_exact(&mut block).map_err(|error| format!("stream {seed}, receiving at {at}: {error}"))?;
        if block != expected {
            return Err(format!("stream {seed} differs at or behind {at}"));
        }
    }
    Ok(())
}

/// UDP datagrams of even and odd sizes, one by one.
pub fn datagrams(here: &Container, there: &Container, address: &str) -> Outcome {
    let address: IpAddr = address.parse()?;
    let receiver = udp_socket(there.netns(), SocketAddr::new(address, 0), ARRIVED)?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sender = udp_socket(here.netns(), any.parse()?, ARRIVED)?;
    for (seed, size) in (1..).zip([0, 1, 18, 511, 1000, 1451, 1452, 1472, 4001]) {
        let (mut sent, mut buffer) = (vec![0; size], [0; 8192]);
        Random::new(seed).fill(&mut sent);
        sender.send_to(&sent, receiver.local_addr()?)?;
        let (length, _) = receiver.recv_from(&mut buffer).map_err(|error| format!("{size} octets of UDP: {error}"))?;
        if buffer[..length] != sent {
            return Err(format!("{size} octets of UDP came changed").into());
        }
    }
    Ok(())
}

/// Bursts of different datagrams of `size` octets, handed over one by one or (`gso`) as super-frames; all must arrive as
/// they were, and in their order.
pub fn transfer(here: &Container, there: &Container, address: &str, size: usize, gso: Option<i32>) -> Outcome {
    bursts(here, there, (address, 40), size, gso, |arrived, sent| arrived == sent)
}

/// Fewer of them where no order is promised: a kernel whose scheduler moves a sender to another core has two queues for one flow.
pub fn transfer_in_any_order(here: &Container, there: &Container, to: &str, size: usize, gso: Option<i32>) -> Outcome {
    let sorted = |octets: &[u8]| {
        let mut datagrams: Vec<Vec<u8>> = octets.chunks(size).map(<[u8]>::to_vec).collect();
        datagrams.sort();
        datagrams
    };
    bursts(here, there, (to, 10), size, gso, |arrived, sent| sorted(arrived) == sorted(sent))
}

fn bursts(
    here: &Container,
    there: &Container,
    (address, count): (&str, usize),
    size: usize,
    gso: Option<i32>,
    same: impl Fn(&[u8], &[u8]) -> bool,
) -> Outcome {
    let wildcard = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let receiver = udp_socket(there.netns(), wildcard.parse()?, ARRIVED)?;
    let sender = udp_socket(here.netns(), wildcard.parse()?, ARRIVED)?;
    sender.connect(SocketAddr::new(address.parse()?, receiver.local_addr()?.port()))?;
    // Both find each other first.
    sender.send(b"?")?;
    receiver.recv(&mut [0; 1])?;
    if let Some(gso) = gso {
        setsockopt(&sender, sockopt::UdpGsoSegment, &gso)?;
    }
    for burst in 0..count {
        let mut octets = vec![0; BURST * size];
        Random::new(burst as u64 + 1).fill(&mut octets);
        let arrived = thread::scope(|scope| {
            let arrived = scope.spawn(|| receive(&receiver, octets.len(), size));
            let sent = octets
                .chunks(if gso.is_some() { octets.len() } else { size })
                .try_for_each(|part| sender.send(part).map(drop));
            sent.and(arrived.join().unwrap_or_else(|_| Err(std::io::Error::other("the receiver panicked"))))
        });
        let arrived = arrived.map_err(|error| format!("burst {burst} of {size} octets to {address}: {error}"))?;
        if !same(&arrived, &octets) {
            return Err(format!("burst {burst} of {size} octets to {address} came changed").into());
        }
    }
    Ok(())
}

/// Datagrams of `size` octets until there are `total`.
fn receive(socket: &UdpSocket, total: usize, size: usize) -> std::io::Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::with_capacity(total), vec![0; 65_536]);
    while all.len() < total {
        let len = socket.recv(&mut buffer)?;
        if len != size {
            return Err(std::io::Error::other(format!("a datagram of {len} octets")));
        }
        all.extend_from_slice(&buffer[..len]);
    }
    Ok(all)
}
