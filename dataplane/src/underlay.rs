//! UDP sockets to the other gateways.
// UNSAFETY: socket options that socket2 has no name for. Invariant: each passes live memory and its size, an int as
// the kernel takes it for the options named here (ip(7), ipv6(7), udp(7)), or an array where the call says so.
#![allow(unsafe_code)]

mod knock;
mod trains;

pub use knock::Knock;
pub use trains::{Trains, try_trains};

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use crate::{PATIENCE, PAUSE};
use socket2::{Domain, Protocol, Socket, Type};

/// Trains of 64 KiB come in bursts; the default of 208 KiB holds three of them.
const BUFFER: usize = 8 << 20;

/// Why there is no socket, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// Somebody has the port.
    #[error(
        "UDP {0} is in use: another ipop runs here, or choose another \"listen\" port (`ss -ulpn` shows who has it)"
    )]
    InUse(SocketAddr),
    /// Another call failed.
    #[error("{what} for UDP {listen}: {error}")]
    Call {
        /// The operation.
        what: &'static str,
        /// The address.
        listen: SocketAddr,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// What one worker sends and receives with.
pub struct Underlay {
    /// It has the address that peers send to.
    pub listen: UdpSocket,
    /// Others that it only sends from ([`sources`]).
    pub sources: Vec<UdpSocket>,
}

impl From<UdpSocket> for Underlay {
    /// Everything leaves from the port that peers send to.
    fn from(listen: UdpSocket) -> Underlay {
        Underlay { listen, sources: Vec::new() }
    }
}

/// Opens `count` sockets that are only sent from, on ports that the kernel chooses: so that flows to one peer differ in what
/// routers and network cards spread them by, and the peer's kernel over its workers.
pub fn sources(listen: SocketAddr, count: usize) -> Result<Vec<UdpSocket>, UnderlayError> {
    let any_port = SocketAddr::new(listen.ip(), 0);
    let open = || {
        let socket = plain(any_port)?;
        // Nobody reads what comes to it; the kernel makes as little room for that as it can.
        let call = |error| UnderlayError::Call { what: "SO_RCVBUF", listen: any_port, error };
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 0).map_err(call)?;
        bind_to(socket, any_port)
    };
    (0..count).map(|_| open()).collect()
}

/// Opens `count` sockets on one address; the kernel spreads flows over them (SO_REUSEPORT).
pub fn bind(listen: SocketAddr, count: usize) -> Result<Vec<UdpSocket>, UnderlayError> {
    // The kernel takes a moment to let go of the socket of a process that was killed: it ends the ring first.
    let begin = Instant::now();
    let first = loop {
        match open(listen, false) {
            Err(UnderlayError::InUse(_)) if begin.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            result => break result?,
        }
    };
    if count == 1 {
        return Ok(vec![first]);
    }
    // SO_REUSEPORT alone would let a second process of this user share the port unnoticed; the socket without it has
    // shown that nobody else has the port.
    drop(first);
    (0..count).map(|_| open(listen, true)).collect()
}

fn open(listen: SocketAddr, shared: bool) -> Result<UdpSocket, UnderlayError> {
    let call = |what, error| UnderlayError::Call { what, listen, error };
    let socket = plain(listen)?;
    // Without it (Linux before 5.0) every datagram is received by itself: slower, not wrong.
    let _ = set_gro(&socket, true);
    // How a router has marked what it forwards. A kernel that does not tell loses the mark, and nothing else.
    if listen.is_ipv6() {
        let _ = set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
    }
    let _ = set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
    socket.set_reuse_port(shared).map_err(|e| call("SO_REUSEPORT", e))?;
    set_buffer(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF).map_err(|e| call("SO_RCVBUF", e))?;
    bind_to(socket, listen)
}

/// A socket that can send.
fn plain(listen: SocketAddr) -> Result<Socket, UnderlayError> {
    let call = |what, error| UnderlayError::Call { what, listen, error };
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM.nonblocking(), Some(Protocol::UDP))
        .map_err(|e| call("socket", e))?;
    if listen.is_ipv6() {
        // The wildcard serves IPv4 peers too, as mapped addresses.
        socket.set_only_v6(!listen.ip().is_unspecified()).map_err(|e| call("IPV6_V6ONLY", e))?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
            .map_err(|e| call("IPV6_MTU_DISCOVER", e))?;
    }
    if listen.is_ipv4() || listen.ip().is_unspecified() {
        // Never fragmented, neither here nor on the way: the datagram format knows the path MTU. What ICMP says of it is not
        // heeded, since anybody can say it in a router's name (ip(7), RFC 8899, section 4.6): only the interface's own MTU
        // refuses a datagram.
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
            .map_err(|e| call("IP_MTU_DISCOVER", e))?;
    }
    if !listen.ip().is_unspecified() {
        // An address that comes late, or goes and comes back, is no reason for another socket: nothing is sent or received
        // until some interface has it.
        let (level, name) = match listen {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_FREEBIND),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
        };
        set_option(&socket, level, name, 1).map_err(|e| call("IP_FREEBIND", e))?;
    }
    set_buffer(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF).map_err(|e| call("SO_SNDBUF", e))?;
    Ok(socket)
}

/// Without CAP_NET_ADMIN the kernel caps the size at net.core.rmem_max and net.core.wmem_max; that is slower, not wrong.
fn set_buffer(socket: &Socket, force: libc::c_int, usual: libc::c_int) -> io::Result<()> {
    let set = |name| set_option(socket, libc::SOL_SOCKET, name, BUFFER as libc::c_int);
    set(force).or_else(|_| set(usual))
}

fn bind_to(socket: Socket, listen: SocketAddr) -> Result<UdpSocket, UnderlayError> {
    socket.bind(&listen.into()).map_err(|error| match error.raw_os_error() {
        Some(libc::EADDRINUSE) => UnderlayError::InUse(listen),
        _ => UnderlayError::Call { what: "bind", listen, error },
    })?;
    Ok(socket.into())
}

/// Counts what the kernel drops because a socket's buffer is full.
#[derive(Debug)]
pub struct KernelDrops {
    socket: UdpSocket,
    seen: Cell<u32>,
}

impl KernelDrops {
    /// Of this socket, from now on.
    pub fn of(socket: UdpSocket) -> KernelDrops {
        let drops = KernelDrops { socket, seen: Cell::new(0) };
        drops.take();
        drops
    }

    /// Datagrams since the last call; 0 on a kernel that does not tell (before 4.12).
    pub fn take(&self) -> u64 {
        let Ok(now) = dropped(&self.socket) else { return 0 };
        now.wrapping_sub(self.seen.replace(now)).into()
    }
}

/// `sk_drops` of a socket, which wraps.
fn dropped(socket: &impl AsFd) -> io::Result<u32> {
    // include/uapi/linux/sock_diag.h: SK_MEMINFO_DROPS, the last of SK_MEMINFO_VARS.
    const DROPS: usize = 8;
    let mut memory = [0u32; DROPS + 1];
    let mut size = size_of_val(&memory) as libc::socklen_t;
    // SAFETY: SO_MEMINFO fills an array of u32 up to the size that is given.
    let result = unsafe {
        let fd = socket.as_fd().as_raw_fd();
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, memory.as_mut_ptr().cast(), &mut size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(memory[DROPS]) }
}

/// Whether an interface of this host has the address, and may use it already: one of IPv6 is looked for on the wire first
/// (RFC 4862, section 5.4).
pub fn is_local(address: IpAddr) -> bool {
    let bound = UdpSocket::bind((address, 0));
    !bound.is_err_and(|error| error.raw_os_error() == Some(libc::EADDRNOTAVAIL))
}

/// Octets of UDP payload that the kernel believes the path to `peer` carries, from the route, IPsec and what ICMP has told
/// it: a hint, since ICMP is not proved to be a router's.
pub fn path_payload(listen: SocketAddr, peer: SocketAddr) -> io::Result<usize> {
    // No datagram leaves: connecting a UDP socket looks up the route, and the MTU option needs that.
    let socket = knock::connect(listen, peer)?;
    let (level, name, headers) = match peer.ip().to_canonical() {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU, 20 + 8),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU, 40 + 8),
    };
    let mtu = usize::try_from(get_option(&socket, level, name)?).unwrap_or(0);
    Ok(mtu.saturating_sub(headers))
}

/// Receives trains of datagrams as one, or one by one.
pub fn set_gro(socket: &impl AsFd, on: bool) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, libc::c_int::from(on))
}

fn set_option(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: see the top of the file.
    let result = unsafe {
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn get_option(socket: &impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: see the top of the file.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, std::ptr::from_mut(&mut value).cast(), &mut size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_one_owner() {
        for count in [1, 2] {
            let first = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
            let taken = first[0].local_addr().unwrap();
            assert!(matches!(bind(taken, count), Err(UnderlayError::InUse(a)) if a == taken));
        }
    }

    #[test]
    fn several_sockets_share_an_address() {
        let probe = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = probe[0].local_addr().unwrap();
        drop(probe);
        assert_eq!(bind(address, 3).unwrap().len(), 3);
    }

    #[test]
    fn an_address_that_is_not_there_yet_is_no_obstacle() {
        for (address, local) in [("192.0.2.1", false), ("2001:db8::1", false), ("127.0.0.1", true)] {
            let ip = address.parse().unwrap();
            assert_eq!(is_local(ip), local, "{address}");
            assert_eq!(bind(SocketAddr::new(ip, 0), 2).unwrap().len(), 2);
        }
    }

    #[test]
    fn what_finds_the_buffer_full_is_counted() {
        let socket = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 0).unwrap();
        let drops = KernelDrops::of(socket.try_clone().unwrap());
        assert_eq!(drops.take(), 0);
        let near = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            near.send_to(&[0; 1000], socket.local_addr().unwrap()).unwrap();
        }
        let dropped = drops.take();
        assert!((90..100).contains(&dropped), "{dropped} of 100");
        assert_eq!(drops.take(), 0);
    }

    #[test]
    fn sources_send_and_keep_nothing() {
        for listen in ["127.0.0.1:5800", "[::1]:5800"] {
            let sources = sources(listen.parse().unwrap(), 3).unwrap();
            let ports: std::collections::HashSet<_> = sources.iter().map(|s| s.local_addr().unwrap().port()).collect();
            assert!(ports.len() == 3 && !ports.contains(&0), "{ports:?}");
        }
    }

    #[test]
    fn loopback_carries_its_mtu() {
        let any = "127.0.0.1:0".parse().unwrap();
        let payload = path_payload(any, "127.0.0.1:9".parse().unwrap()).unwrap();
        assert!(payload > 1200, "{payload}");
    }
}
