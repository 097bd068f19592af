//! `ipop-bench serve`: the passive end.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{PROTOCOL, Reply, Request, Wire, printable, switches};
use socket2::{SockRef, TcpKeepalive};

use crate::cpu::Watch;
use crate::error::{Context, Error, Result};
use crate::traffic::arp::Responder;
use crate::traffic::flows::{Flows, Role, accept};
use crate::traffic::packet::{cycle, unfit};
use crate::traffic::receiver::{Expected, Receiver};
use crate::traffic::socket::Link;

/// Whoever connects and does not say so soon what he wants is no `run`.
const GREETING: Duration = Duration::from_secs(5);
/// Whoever does not read our answers for so long is gone.
const UNREAD: Duration = Duration::from_secs(15);
/// A `run` is silent while it measures. TCP itself asks after this time, and then in these steps, whether it is there.
const ALIVE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(3)];
/// A window is not longer than a scenario may ask for.
const LONGEST_WINDOW: f64 = 3700.0;
/// More flows than a scenario may ask for are a mistake.
const MOST_FLOWS: u32 = 128;
/// What an echo over TCP moves at once, at most.
const BLOCK: usize = 64 << 10;

/// The passive end, listening.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    busy: Arc<AtomicBool>,
}

impl Server {
    /// Listens for `run`. All addresses means those of both families, or of IPv4 where the kernel has nothing else.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let listener = match TcpListener::bind(address) {
            Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
            }
            bound => bound,
        };
        let listener = listener.map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => Error::other(format!(
                "{address} is taken: does another ipop-bench serve run here? Or give --listen another port"
            )),
            ErrorKind::AddrNotAvailable => Error::other(format!("no interface here has the address {}", address.ip())),
            _ => Error::Io { what: format!("listening on {address}"), source: error },
        })?;
        Ok(Self { listener, busy: Arc::default() })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().context("asking for the own address")
    }

    /// Serves one `run` at a time, for ever. What a client sends never ends it; `note` is told how each session went.
    pub fn serve(&self, note: impl Fn(&str) + Clone + Send + 'static) -> Result<()> {
        loop {
            let (stream, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or the client is gone again: neither lasts.
                    note(&format!("accepting a connection: {error}"));
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            // A socket for both families tells IPv4 addresses in IPv6 form.
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            let Ok(mut wire) = prepare(&stream).and_then(|()| Wire::new(stream)) else {
                continue;
            };
            if self.busy.swap(true, Ordering::AcqRel) {
                let text = "the other end is measuring with somebody else; try again later".to_owned();
                let _ = wire.write(&Reply::Error { text });
                continue;
            }
            let turn = Turn(Arc::clone(&self.busy));
            let note = note.clone();
            thread::spawn(move || {
                note(&format!("{from}: begins"));
                match Session::new(wire, turn).and_then(|mut session| session.serve()) {
                    Ok(()) => note(&format!("{from}: done")),
                    Err(error) => note(&format!("{from}: {}", printable(&error.to_string()))),
                }
            });
        }
    }
}

/// Nobody shall keep the others out by saying or reading nothing.
fn prepare(stream: &TcpStream) -> Result<()> {
    let [idle, interval] = ALIVE;
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    stream
        .set_read_timeout(Some(GREETING))
        .and_then(|()| stream.set_write_timeout(Some(UNREAD)))
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive))
        .context("setting up a connection")
}

/// Lets the next one in when it is dropped.
#[derive(Debug)]
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What goes on beside the conversation.
#[derive(Debug)]
enum Activity {
    None,
    /// A listener whose flows are accepted in the background.
    Accepting(JoinHandle<Result<Flows>>),
    Flows(Flows),
    Packets(Receiver),
    /// Kept only to be ended.
    Echo(#[expect(dead_code, reason = "ends when it is dropped")] Echo),
    Arp(#[expect(dead_code, reason = "ends when it is dropped")] Responder),
}

#[derive(Debug)]
struct Session {
    // Dropped in this order: when the client sees the end of the connection, the next one is let in.
    activity: Activity,
    _turn: Turn,
    wire: Wire,
    local: IpAddr,
    link: Link,
    watch: Watch,
}

impl Session {
    fn new(mut wire: Wire, turn: Turn) -> Result<Self> {
        let local = wire.stream().local_addr().context("asking for the own address")?.ip().to_canonical();
        let link = match Link::with_address(local) {
            Ok(link) => link,
            Err(error) => {
                wire.write(&Reply::Error { text: format!("at the other end: {error}") })?;
                return Err(error);
            }
        };
        let watch = Watch::new(Path::new("/proc"), Vec::new(), "ipop-bench serve");
        Ok(Self { activity: Activity::None, _turn: turn, wire, local, link, watch })
    }

    fn serve(&mut self) -> Result<()> {
        while let Some(request) = self.wire.read::<Request>()? {
            let patience = Duration::from_secs_f64(LONGEST_WINDOW);
            self.wire.stream().set_read_timeout(Some(patience)).context("setting a timeout")?;
            let reply = self
                .answer(request)
                .unwrap_or_else(|error| Reply::Error { text: format!("at the other end: {error}") });
            self.wire.write(&reply)?;
        }
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Result<Reply> {
        match request {
            Request::Hello { protocol, version } if protocol != PROTOCOL => Err(Error::other(format!(
                "it speaks protocol {PROTOCOL} (ipop-bench {}), and this end protocol {protocol} (ipop-bench {version}): \
                 use the same version on both ends",
                env!("CARGO_PKG_VERSION")
            ))),
            Request::Hello { .. } => Ok(Reply::Hello {
                protocol: PROTOCOL,
                version: env!("CARGO_PKG_VERSION").into(),
                mac: self.link.mac,
                mtu: self.link.mtu,
                switches: switches(),
            }),
            Request::Cpu => Ok(Reply::Cpu(self.watch.read())),
            Request::ReceiveFlows { flows, tag } => self.listen(flows, tag, Role::Receive),
            Request::SendFlows { flows, tag } => self.listen(flows, tag, Role::Send),
            Request::CountFlows { seconds } => {
                let seconds = Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_WINDOW));
                let (bytes, seconds) = self.flows()?.window(seconds)?;
                Ok(Reply::Counted { bytes, seconds })
            }
            Request::ReceivePackets { kind, size, mtu, tag } => {
                let lengths = cycle(size, mtu);
                if let Some(reason) = unfit(kind, self.local.is_ipv6(), &lengths, mtu) {
                    return Err(Error::other(reason));
                }
                let expected = Expected { tag, kind, lengths };
                let receiver = Receiver::start(&self.link, SocketAddr::new(self.local, 0), expected)?;
                let port = receiver.port;
                self.activity = Activity::Packets(receiver);
                Ok(Reply::Listening { port })
            }
            Request::EchoTcp { tag } => {
                let (echo, port) = Echo::start(self.local, tag)?;
                self.activity = Activity::Echo(echo);
                Ok(Reply::Listening { port })
            }
            Request::AnswerArp => {
                self.activity = Activity::Arp(Responder::start(&self.link)?);
                Ok(Reply::Done)
            }
            Request::Stop => self.stop(),
        }
    }

    fn stop(&mut self) -> Result<Reply> {
        if matches!(self.activity, Activity::Accepting(_)) {
            self.flows()?;
        }
        match std::mem::replace(&mut self.activity, Activity::None) {
            Activity::Flows(flows) => Ok(Reply::Sent { retransmits: flows.retransmits() }),
            Activity::Packets(receiver) => receiver.finish().map(Reply::Packets),
            Activity::None | Activity::Accepting(_) | Activity::Echo(_) | Activity::Arp(_) => Ok(Reply::Done),
        }
    }

    /// Listens on a port of the system's choice, and moves bytes on the flows as soon as all are there.
    fn listen(&mut self, flows: u32, tag: u32, role: Role) -> Result<Reply> {
        if !(1..=MOST_FLOWS).contains(&flows) {
            return Err(Error::other(format!("{flows} flows are not between 1 and {MOST_FLOWS}")));
        }
        let (listener, port) = listener(self.local)?;
        let accepting = thread::spawn(move || Flows::start(accept(&listener, flows, tag)?, role));
        self.activity = Activity::Accepting(accepting);
        Ok(Reply::Listening { port })
    }

    /// The flows that were asked for, once all are connected.
    fn flows(&mut self) -> Result<&Flows> {
        self.activity = match std::mem::replace(&mut self.activity, Activity::None) {
            Activity::Accepting(thread) => {
                Activity::Flows(thread.join().map_err(|_| Error::other("a thread panicked"))??)
            }
            other => other,
        };
        match &self.activity {
            Activity::Flows(flows) => Ok(flows),
            _ => Err(Error::other("there are no flows")),
        }
    }
}

fn listener(local: IpAddr) -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind(SocketAddr::new(local, 0)).context("listening")?;
    let port = listener.local_addr().context("asking for the own address")?.port();
    Ok((listener, port))
}

/// Sends back what comes over one TCP connection.
#[derive(Debug)]
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(local: IpAddr, tag: u32) -> Result<(Self, u16)> {
        let (listener, port) = listener(local)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            if let Ok(streams) = accept(&listener, 1, tag) {
                streams.into_iter().for_each(|stream| send_back(stream, &stopped));
            }
        });
        Ok((Self { stop, thread: Some(thread) }, port))
    }
}

fn send_back(mut stream: TcpStream, stop: &AtomicBool) {
    let glance = Some(Duration::from_millis(50));
    let prepared = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(glance));
    // An answer that is not read is the end of it.
    if prepared.and_then(|()| stream.set_write_timeout(Some(UNREAD))).is_err() {
        return;
    }
    let mut block = vec![0; BLOCK];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut block) {
            Ok(0) => return,
            Ok(count) => {
                if stream.write_all(&block[..count]).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
