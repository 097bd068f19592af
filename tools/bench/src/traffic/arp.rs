//! ARP for addresses that nobody else has: 198.18.0.0/15, set aside for benchmarks (RFC 2544, appendix C; RFC 6815).

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipop_lab::arp::{Arp, Operation};
use nix::sys::socket::{MsgFlags, send};

use super::socket::{Inbox, Link, drain};
use crate::error::{Context, Result};

/// ARP's EtherType (RFC 826).
const ETHERTYPE: u16 = 0x0806;
/// The first of the addresses, and how many there are.
const FIRST: u32 = 0xc612_0000;
const COUNT: u32 = 1 << 17;

/// One of the addresses; numbers beyond the last begin again.
pub fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + number % COUNT)
}

fn is_ours(ip: Ipv4Addr) -> bool {
    (FIRST..FIRST + COUNT).contains(&u32::from(ip))
}

/// A thread that answers requests for all of these addresses, as a host does that has them. Dropping it ends it.
#[derive(Debug)]
pub struct Responder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Starts to answer on this interface.
    pub fn start(link: &Link) -> Result<Self> {
        let socket = link.raw_socket(ETHERTYPE)?;
        let mac = link.mac;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || respond(&socket, mac, &stopped));
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn respond(socket: &OwnedFd, mac: [u8; 6], stop: &AtomicBool) {
    let mut inbox = Inbox::new();
    while !stop.load(Ordering::Relaxed) {
        let received = inbox.receive(socket.as_raw_fd(), MsgFlags::empty(), |frame, _| {
            if let Some(request) = Arp::parse(frame)
                && request.operation == Operation::Request
                && is_ours(request.target_ip)
            {
                let reply = Arp::reply(mac, request.target_ip, request.sender_mac, request.sender_ip);
                // One that the kernel refuses is one that the asker counts as unanswered.
                let _ = send(socket.as_raw_fd(), &reply.frame(), MsgFlags::MSG_DONTWAIT);
            }
        });
        if received.is_err() {
            return;
        }
    }
}

/// Asks for addresses and takes the time.
#[derive(Debug)]
pub struct Asker {
    socket: OwnedFd,
    inbox: Inbox,
    mac: [u8; 6],
    ip: Ipv4Addr,
}

impl Asker {
    /// Asks on this interface, in the name of the host's own address if that is IPv4.
    pub fn new(link: &Link, own: IpAddr) -> Result<Self> {
        let ip = match own {
            IpAddr::V4(ip) => ip,
            // An address that nobody has asks for nobody's sake; the answer goes by Ethernet address.
            IpAddr::V6(_) => address(COUNT - 1),
        };
        Ok(Self { socket: link.raw_socket(ETHERTYPE)?, inbox: Inbox::new(), mac: link.mac, ip })
    }

    /// From the request to the answer; `None` if none comes in time.
    pub fn ask(&mut self, target: Ipv4Addr, timeout: Duration) -> Result<Option<Duration>> {
        let request = Arp::request(self.mac, self.ip, target).frame();
        // An answer that was sent twice, or came too late, is not the answer to this.
        drain(self.socket.as_raw_fd(), &mut self.inbox)?;
        let start = Instant::now();
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty()).context("sending an ARP request")?;
        while start.elapsed() < timeout {
            let mut answered = None;
            self.inbox.receive(self.socket.as_raw_fd(), MsgFlags::empty(), |frame, _| {
                let fits = |reply: Arp| reply.operation == Operation::Reply && reply.sender_ip == target;
                if Arp::parse(frame).is_some_and(fits) {
                    answered.get_or_insert(start.elapsed());
                }
            })?;
            if answered.is_some() {
                return Ok(answered);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_those_for_benchmarks() {
        assert_eq!(address(0), Ipv4Addr::new(198, 18, 0, 0));
        assert_eq!(address(COUNT - 1), Ipv4Addr::new(198, 19, 255, 255));
        assert_eq!(address(COUNT), address(0));
        assert!(
            is_ours(address(77))
                && !is_ours(Ipv4Addr::new(198, 20, 0, 0))
                && !is_ours(Ipv4Addr::new(198, 17, 255, 255))
        );
    }
}
