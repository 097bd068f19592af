//! Where the kernel sends what goes to a peer: by which interface, to whom, and what that carries.
//!
//! Asked of the kernel's own tables (rtnetlink(7)), by a thread that has nothing else to do. The sockets for that can change
//! these tables too, if who sends has CAP_NET_ADMIN, which the control thread may have to keep; the rights of who has opened
//! a socket do not count when a message names its destination (netlink_sendmsg() in net/netlink/af_netlink.c). So this
//! thread has no capability, and its files are its own: the control thread does not have the sockets (unshare(2), CLONE_FILES).

mod interfaces;
mod netlink;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use ipop_dataplane::addr::MacAddr;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;

use self::interfaces::{INFO_LEN, Interfaces};
use self::netlink::{Attributes, CHANGES, Netlink, address, attribute, octets, u16_at, u32_at};

pub use self::interfaces::Way;

/// `struct rtmsg` and `struct ndmsg`.
const ROUTE_LEN: usize = 12;
const NEIGHBOUR_LEN: usize = 12;
/// RTM_F_FIB_MATCH: the entry of the table, without what ICMP has added (Linux 4.13).
const FIB_MATCH: u32 = 0x2000;
/// include/uapi/linux/rtnetlink.h: for rules that look at ports (Linux 4.19).
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
const RTAX_MTU: u16 = 2;
/// RTEXT_FILTER_SKIP_STATS: nobody looks at an interface's counters here.
const SKIP_STATS: u32 = 1 << 3;
/// include/uapi/linux/neighbour.h.
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// The way to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The interface that it leaves by.
    pub interface: String,
    /// Who takes it there: the peer itself, or a router.
    pub next_hop: IpAddr,
    /// Octets of an IP packet that interface and route carry.
    pub mtu: usize,
    /// How it comes out of the port, if it does.
    pub into_port: Option<Way>,
    /// The MAC of the next hop, if [`Way::Some`] depends on it and the kernel knows it.
    pub next_hop_mac: Option<MacAddr>,
}

/// What is asked: the ways from a socket that listens here to peers, and whether they lead to this port.
struct Question {
    port: String,
    listen: SocketAddr,
    peers: Vec<SocketAddr>,
}

/// For each peer in turn, or why there is no way.
type Answer = Vec<io::Result<Route>>;

/// The thread that asks.
#[derive(Debug)]
pub struct Routes {
    questions: Option<Sender<Question>>,
    answers: Receiver<Answer>,
    bell: Arc<EventFd>,
    changed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Routes {
    /// Starts the thread; returns when it works, or with the reason why not. To be called before anything is open that is
    /// not its business. `opened` is called on it once nothing is left to be opened: there it can give up rights. `wake` is
    /// called when [`Self::changed`] would say so.
    pub fn start(
        opened: impl FnOnce() -> io::Result<()> + Send + 'static,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<Routes> {
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let changed = Arc::new(AtomicBool::new(false));
        let (questions, asked) = channel();
        let (answer, answers) = channel();
        let (ready, started) = channel();
        let thread = std::thread::Builder::new().name("routes".to_owned()).spawn({
            let (bell, changed) = (bell.clone(), changed.clone());
            move || {
                let begin = || {
                    SigSet::all().thread_block()?;
                    unshare(CloneFlags::CLONE_FILES)?;
                    let tables = Tables::open()?;
                    opened()?;
                    Ok(tables)
                };
                let mut tables = match begin() {
                    Ok(tables) => tables,
                    Err(error) => return ready.send(Err(error)).unwrap_or(()),
                };
                let _ = ready.send(Ok(()));
                tables.serve(&bell, &asked, &answer, || {
                    changed.store(true, Ordering::Release);
                    wake();
                });
            }
        })?;
        let started = started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended before it began")));
        started.map(|()| Routes { questions: Some(questions), answers, bell, changed, thread: Some(thread) })
    }

    /// True if the way to a peer may be another one than at the last call.
    pub fn changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// The ways from a socket that listens here to peers, in their order.
    pub fn ask(&self, port: &str, listen: SocketAddr, peers: Vec<SocketAddr>) -> Vec<io::Result<Route>> {
        let count = peers.len();
        let question = Question { port: port.to_owned(), listen, peers };
        let sent = self.questions.as_ref().is_some_and(|questions| questions.send(question).is_ok());
        let answer = if sent && self.bell.write(1).is_ok() { self.answers.recv().ok() } else { None };
        let ended = || (0..count).map(|_| Err(io::Error::other("the thread that asks for routes has ended"))).collect();
        answer.unwrap_or_else(ended)
    }
}

impl Drop for Routes {
    /// Ends the thread, and waits for it: the bell is its too.
    fn drop(&mut self) {
        self.questions = None;
        if let (Some(thread), Ok(_)) = (self.thread.take(), self.bell.write(1)) {
            let _ = thread.join();
        }
    }
}

/// The kernel's tables, as the thread has them.
struct Tables {
    asking: Netlink,
    changes: Netlink,
    interfaces: Interfaces,
}

impl Tables {
    /// Opens the sockets, and reads what interfaces there are.
    fn open() -> io::Result<Tables> {
        let (asking, changes) = (Netlink::open(0)?, Netlink::open(CHANGES)?);
        let mut tables = Tables { asking, changes, interfaces: Interfaces::default() };
        // What changes from here on is told.
        tables.read_interfaces()?;
        Ok(tables)
    }

    /// Answers until nobody asks any more.
    fn serve(&mut self, bell: &EventFd, asked: &Receiver<Question>, answer: &Sender<Answer>, changed: impl Fn()) {
        loop {
            let mut files = [self.changes.as_fd(), bell.as_fd()].map(|file| PollFd::new(file, PollFlags::POLLIN));
            // Interrupted, it looks once more than it must.
            let _ = ppoll(&mut files, None, None);
            let _ = bell.read();
            if self.news() {
                changed();
            }
            loop {
                match asked.try_recv() {
                    Ok(Question { port, listen, peers }) => {
                        let routes = peers.into_iter().map(|peer| self.route(&port, listen, peer)).collect();
                        // Whoever has asked waits for it.
                        let _ = answer.send(routes);
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
        }
    }

    fn read_interfaces(&mut self) -> io::Result<()> {
        let mut body = vec![0; INFO_LEN];
        attribute(&mut body, libc::IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
        let mut interfaces = Interfaces::default();
        self.asking.ask(libc::RTM_GETLINK, libc::NLM_F_DUMP, &body, |kind, body| {
            interfaces.take(kind, body);
        })?;
        self.interfaces = interfaces;
        Ok(())
    }

    /// Takes note of what the kernel has told; true if the way to a peer may be another one.
    fn news(&mut self) -> bool {
        let mut changed = false;
        loop {
            let result = self.changes.news(|kind, body| {
                changed |= match kind {
                    libc::RTM_NEWLINK | libc::RTM_DELLINK => self.interfaces.take(kind, body),
                    _ => true,
                }
            });
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return changed,
                // More has changed than fits the socket.
                Err(_) => {
                    changed = true;
                    if self.read_interfaces().is_err() {
                        return true;
                    }
                }
            }
        }
    }

    /// The way from a socket that listens here to a peer, and whether it leads to this port.
    fn route(&mut self, port: &str, listen: SocketAddr, peer: SocketAddr) -> io::Result<Route> {
        let body = |flags: u32| {
            let (family, to) = octets(peer.ip().to_canonical());
            let from = Some(listen.ip().to_canonical()).filter(|ip| !ip.is_unspecified()).map(octets);
            let from = from.filter(|(of, _)| *of == family).map_or(Vec::new(), |(_, octets)| octets);
            let bits = |octets: &[u8]| octets.len() as u8 * 8;
            let mut body = vec![family, bits(&to), bits(&from), 0, 0, 0, 0, 0];
            body.extend_from_slice(&flags.to_ne_bytes());
            attribute(&mut body, libc::RTA_DST, &to);
            if !from.is_empty() {
                attribute(&mut body, libc::RTA_SRC, &from);
            }
            attribute(&mut body, RTA_IP_PROTO, &[libc::IPPROTO_UDP as u8]);
            attribute(&mut body, RTA_SPORT, &listen.port().to_be_bytes());
            attribute(&mut body, RTA_DPORT, &peer.port().to_be_bytes());
            body
        };
        let (mut interface, mut next_hop) = (None, peer.ip().to_canonical());
        self.asking.ask(libc::RTM_GETROUTE, 0, &body(0), |_, body| {
            for (kind, value) in Attributes(body.get(ROUTE_LEN..).unwrap_or_default()) {
                match kind {
                    libc::RTA_OIF => interface = u32_at(value, 0),
                    libc::RTA_GATEWAY => next_hop = address(value).unwrap_or(next_hop),
                    // A router of the other family: the family, then the address.
                    libc::RTA_VIA => next_hop = value.get(2..).and_then(address).unwrap_or(next_hop),
                    _ => {}
                }
            }
        })?;
        let interface = interface.ok_or(io::ErrorKind::NotFound)?;
        // What somebody has set for the route; in the answer above it would be mixed with what ICMP says.
        let mut set = None;
        self.asking.ask(libc::RTM_GETROUTE, 0, &body(FIB_MATCH), |_, body| {
            let metrics = |(kind, value)| (kind == libc::RTA_METRICS).then_some(value);
            let metrics = Attributes(body.get(ROUTE_LEN..).unwrap_or_default()).find_map(metrics);
            let mtu = |(kind, value)| (kind == RTAX_MTU).then(|| u32_at(value, 0)).flatten();
            set = Attributes(metrics.unwrap_or_default()).find_map(mtu);
        })?;
        let mtu = self.interfaces.mtu_of(interface).into_iter().chain(set).min().unwrap_or(u32::MAX);
        let into_port = self.interfaces.index_of(port).and_then(|port| self.interfaces.way(interface, port));
        let depends = into_port == Some(Way::Some);
        let next_hop_mac = if depends { self.neighbour(interface, next_hop) } else { None };
        let interface = self.interfaces.name_of(interface).to_owned();
        Ok(Route { interface, next_hop, mtu: mtu as usize, into_port, next_hop_mac })
    }

    /// The MAC of a neighbour at an interface, as far as the kernel knows one (Linux 5.0).
    fn neighbour(&mut self, interface: u32, ip: IpAddr) -> Option<MacAddr> {
        let (family, to) = octets(ip);
        let mut body = vec![family, 0, 0, 0];
        body.extend_from_slice(&interface.to_ne_bytes());
        body.resize(NEIGHBOUR_LEN, 0);
        attribute(&mut body, NDA_DST, &to);
        let mut mac = None;
        let asked = self.asking.ask(libc::RTM_GETNEIGH, 0, &body, |_, body| {
            let known = u16_at(body, 8).is_some_and(|state| state & !(libc::NUD_INCOMPLETE | libc::NUD_FAILED) != 0);
            let value = Attributes(body.get(NEIGHBOUR_LEN..).unwrap_or_default()).find(|(kind, _)| *kind == NDA_LLADDR);
            mac = value.filter(|_| known).and_then(|(_, value)| value.try_into().ok()).map(MacAddr);
        });
        asked.ok().and(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(routes: &Routes, port: &str, listen: &str, peer: &str) -> io::Result<Route> {
        routes.ask(port, listen.parse().unwrap(), vec![peer.parse().unwrap()]).remove(0)
    }

    #[test]
    fn the_way_to_oneself() {
        let routes = Routes::start(|| Ok(()), || {}).unwrap();
        for listen in ["0.0.0.0:5800", "127.0.0.1:5800", "[::]:5800"] {
            let route = ask(&routes, "lo", listen, "127.0.0.1:9").unwrap();
            assert_eq!((route.interface.as_str(), route.into_port), ("lo", Some(Way::All)), "{listen}");
            assert!(route.next_hop.is_loopback() && route.mtu > 1200, "{route:?}");
            assert_eq!(ask(&routes, "no such one", listen, "127.0.0.1:9").unwrap().into_port, None);
        }
        assert!(ask(&routes, "lo", "192.0.2.1:1", "127.0.0.1:9").is_err());
    }

    #[test]
    fn who_asks_has_no_socket_to_the_tables() {
        let open = || -> usize {
            let files = std::fs::read_dir("/proc/thread-self/fd").unwrap();
            let is_netlink = |fd: i32| nix::sys::socket::getsockname::<nix::sys::socket::NetlinkAddr>(fd).is_ok();
            files
                .filter(|file| is_netlink(file.as_ref().unwrap().file_name().to_str().unwrap().parse().unwrap()))
                .count()
        };
        let before = open();
        let (tell, told) = channel();
        let opened = move || {
            tell.send(open()).unwrap();
            Ok(())
        };
        let _routes = Routes::start(opened, || {}).unwrap();
        assert_eq!((open(), told.recv().unwrap()), (before, before + 2));
    }

    #[test]
    fn a_thread_that_cannot_begin_says_why() {
        let error = Routes::start(|| Err(io::Error::other("no")), || {}).unwrap_err();
        assert_eq!(error.to_string(), "no");
    }
}
