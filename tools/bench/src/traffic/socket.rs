//! The sockets of the generator and the receiver.

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    LinkAddr, MsgFlags, MultiHeaders, SockaddrStorage, bind, getsockopt, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::packet::ETHERTYPE;
use crate::error::{Context, Error, Result};

/// What may wait in a socket's buffer. Enough for the pauses of a busy scheduler, and little enough that an overload
/// does not hide in it: about 20 ms of small packets at 200 000 a second.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Packets per system call.
pub const BATCH: usize = 64;
/// The longest packet.
const LONGEST: usize = 9216;
/// How often a receiver that gets nothing looks whether it shall stop.
pub const GLANCE: Duration = Duration::from_millis(20);
/// The MTU of an interface that does not tell.
const USUAL_MTU: usize = 1500;
/// Where the count of dropped packets stands among SO_MEMINFO's numbers (SK_MEMINFO_DROPS of linux/sock_diag.h).
const DROPS: usize = 8;

/// PACKET_QDISC_BYPASS: frames go to the driver at once, see packet(7).
#[derive(Debug, Clone, Copy)]
struct QdiscBypass;
nix::setsockopt_impl!(QdiscBypass, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, bool, sockopt::SetBool);

/// SO_MEMINFO: nine numbers about a socket's memory, see socket(7).
#[derive(Debug, Clone, Copy)]
struct MemInfo;
nix::getsockopt_impl!(MemInfo, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; 9], sockopt::GetStruct<[u32; 9]>);

/// An interface of this machine.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU.
    pub mtu: usize,
    /// It, as an AF_PACKET socket is bound to it.
    address: LinkAddr,
}

impl Link {
    /// The interface that has this address.
    pub fn with_address(ip: IpAddr) -> Result<Self> {
        let all: Vec<_> = getifaddrs().context("listing the interfaces")?.collect();
        let has = |address: &SockaddrStorage| match ip {
            IpAddr::V4(ip) => address.as_sockaddr_in().is_some_and(|found| found.ip() == ip),
            IpAddr::V6(ip) => address.as_sockaddr_in6().is_some_and(|found| found.ip() == ip),
        };
        let name = all
            .iter()
            .find(|one| one.address.as_ref().is_some_and(has))
            .map(|one| one.interface_name.clone())
            .ok_or_else(|| Error::other(format!("no interface here has the address {ip}")))?;
        let link =
            all.iter().filter(|one| one.interface_name == name).find_map(|one| one.address?.as_link_addr().copied());
        let Some((address, mac)) =
            link.and_then(|address| Some((address, address.addr()?))).filter(|(_, mac)| mac != &[0; 6])
        else {
            return Err(Error::other(format!("{name} ({ip}) is no Ethernet interface")));
        };
        let mtu = fs::read_to_string(format!("/sys/class/net/{name}/mtu"));
        let mtu = mtu.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL_MTU);
        Ok(Self { name, mac, mtu, address })
    }

    /// An AF_PACKET socket on this interface that sends past the queueing discipline. It receives frames of this
    /// EtherType; none at all with 0.
    pub fn raw_socket(&self, ethertype: u16) -> Result<OwnedFd> {
        let protocol = Protocol::from(i32::from(ethertype.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).map_err(|source| {
            if source.kind() == std::io::ErrorKind::PermissionDenied {
                Error::other("raw frames need the capability CAP_NET_RAW: run ipop-bench as root")
            } else {
                Error::Io { what: "opening an AF_PACKET socket".into(), source }
            }
        })?;
        let socket = OwnedFd::from(socket);
        setsockopt(&socket, QdiscBypass, &true).context("setting PACKET_QDISC_BYPASS")?;
        prepare(&socket)?;
        // The address names no protocol, so the socket keeps its own.
        bind(socket.as_raw_fd(), &self.address).context(format!("binding to {}", self.name))?;
        // What came in between opening and binding came from any interface.
        drain(socket.as_raw_fd(), &mut Inbox::new())?;
        Ok(socket)
    }

    /// [`Link::raw_socket`] for the frames that the generator makes.
    pub fn test_socket(&self) -> Result<OwnedFd> {
        self.raw_socket(ETHERTYPE)
    }
}

/// Throws away what a socket holds; not for ever, if more comes all the time.
pub fn drain(socket: RawFd, inbox: &mut Inbox) -> Result<()> {
    for _ in 0..RECEIVE_BUFFER / LONGEST {
        if inbox.receive(socket, MsgFlags::MSG_DONTWAIT, |_, _| ())? == 0 {
            break;
        }
    }
    Ok(())
}

/// A UDP socket on this address; port 0 for any.
pub fn udp_socket(local: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(local).context(format!("opening a UDP socket on {local}"))?;
    prepare(&socket)?;
    Ok(socket)
}

/// Receive buffer and time-out.
fn prepare<F: AsFd>(socket: &F) -> Result<()> {
    // The limit of ordinary users is lower, and then that is what we get.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER).context("setting the receive buffer")?;
    }
    SockRef::from(socket).set_read_timeout(Some(GLANCE)).context("setting the receive timeout")
}

/// Packets that reached the socket and were dropped because its buffer was full, since it was opened.
pub fn dropped<F: AsFd>(socket: &F) -> u64 {
    getsockopt(socket, MemInfo).map_or(0, |numbers| u64::from(numbers[DROPS]))
}

/// Sends whole frames, at most [`BATCH`], with one system call. Gives how many went out: fewer if the interface refuses.
pub fn send<'a>(
    socket: RawFd,
    outbox: &'a mut MultiHeaders<SockaddrStorage>,
    frames: &'a [[IoSlice<'a>; 1]],
) -> Result<usize> {
    let addresses = [None; BATCH];
    match sendmmsg(socket, outbox, frames, &addresses[..frames.len()], [], MsgFlags::empty()) {
        Ok(sent) => Ok(sent.count()),
        // The interface's queue is full, or a signal came: none of them went out.
        Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => Ok(0),
        Err(error) => Err(error).context("sending frames"),
    }
}

/// What [`send`] needs, made once.
pub fn outbox() -> MultiHeaders<SockaddrStorage> {
    MultiHeaders::preallocate(BATCH, None)
}

/// Buffers for a batch of packets.
pub struct Inbox {
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Vec<u8>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    /// Buffers for [`BATCH`] packets of up to 9 KiB.
    pub fn new() -> Self {
        Self { headers: MultiHeaders::preallocate(BATCH, None), buffers: vec![0; BATCH * LONGEST] }
    }

    /// Waits for packets, at most for [`GLANCE`], and gives each with the sender's address to `take`. Returns how many
    /// there were.
    pub fn receive(
        &mut self,
        socket: RawFd,
        flags: MsgFlags,
        mut take: impl FnMut(&[u8], Option<SockaddrStorage>),
    ) -> Result<usize> {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.chunks_exact_mut(LONGEST).map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let flags = flags | MsgFlags::MSG_WAITFORONE;
        match recvmmsg(socket, &mut self.headers, &mut slices, flags, None) {
            Ok(messages) => {
                let mut count = 0;
                for message in messages {
                    count += 1;
                    let packet = message.iovs().next().unwrap_or_default();
                    take(packet, message.address);
                }
                Ok(count)
            }
            // ECONNREFUSED: an ICMP answer to an echo whose asker has gone.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED | Errno::ENETDOWN) => Ok(0),
            Err(error) => Err(error).context("receiving packets"),
        }
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}
