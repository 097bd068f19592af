//! A packet socket as the gateway's port: a whole interface instead of a bridge.
//!
//! Every frame that arrives on the interface goes to the gateway, and what the gateway writes leaves through it. The
//! socket is a tap: the host's own stack sees what arrives too, so the interface should have no address. What the host
//! itself sends through the interface is not taken.
// UNSAFETY: socket options that no crate has a name for. Invariant: each passes a live int or a live struct of the type
// that the kernel takes for the option, and its size (packet(7), include/uapi/linux/if_packet.h); the kernel keeps no
// pointer.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Instant;

use afpacket::sync::RawPacketStream;

use crate::addr::MacAddr;
use crate::{PATIENCE, PAUSE, interface};

// A packet socket's virtio_net_hdr is in the byte order of the host (`vio_le()` in net/packet/af_packet.c), the TAP's and
// `VnetHeader` are little-endian.
#[cfg(target_endian = "big")]
compile_error!("the AF_PACKET port reads virtio_net_hdr as little-endian");

/// Super-frames of 64 KiB come in bursts; the default of 208 KiB holds two of them.
const BUFFER: libc::c_int = 8 << 20;

/// Why the interface cannot be the port, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// No CAP_NET_RAW.
    #[error("not permitted to open a packet socket on '{0}': run as root or with CAP_NET_RAW and CAP_NET_ADMIN")]
    Permission(String),
    /// There is no such interface. It may come.
    #[error("there is no interface '{0}' for \"af_packet\" (`ip link` shows those that there are)")]
    NoInterface(String),
    /// It is of another kind.
    #[error("'{0}' is no Ethernet interface: \"af_packet\" wants one, such as a network card or a veth")]
    NotEthernet(String),
    /// Another gateway has it.
    #[error("another ipop uses the interface '{0}' already (`pgrep -a ipop` shows who runs)")]
    InUse(String),
    /// It is down, and the kernel is one before Linux 6.13.
    #[error(
        "the interface '{0}' is down, and this kernel spreads frames over several workers only from one that is up"
    )]
    Down(String),
    /// It was deleted, and there is a new one.
    #[error(
        "the interface '{0}' is there again, but the packet sockets of several workers, which are a group, cannot be bound to it: \
         start again"
    )]
    Gone(String),
    /// Another call failed.
    #[error("{what} on '{name}': {error}")]
    Call {
        /// The operation.
        what: &'static str,
        /// The interface.
        name: String,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// Packet sockets on one interface, which may come late, and go and come back.
#[derive(Debug)]
pub struct PacketPort {
    name: String,
    /// -1 while there is none.
    index: libc::c_int,
    mac: Option<MacAddr>,
    queues: Vec<OwnedFd>,
    /// Packet sockets know no owner: these names say that a gateway has the interface of this name, and the one of this number
    /// that it had at the start. Like the interface they belong to the network namespace, and they go with the process.
    _owner: [Option<UnixDatagram>; 2],
}

impl PacketPort {
    /// Opens `queues` sockets on an interface, which the kernel spreads flows over. If there is none of this name the sockets
    /// are bound to none, until [`PacketPort::find`] has found it.
    pub fn open(name: &str, queues: usize) -> Result<PacketPort, PacketError> {
        let present = interface::index_of(name).ok();
        let owner = present.map(|index| own(name, &format!("ipop-af_packet-{index}"))).transpose()?;
        let mut port = PacketPort {
            name: name.to_owned(),
            index: -1,
            mac: None,
            queues: Vec::with_capacity(queues),
            _owner: [Some(own(name, &format!("ipop-af_packet-{name}"))?), owner],
        };
        for _ in 0..queues {
            port.queues.push(open().map_err(|(what, error)| match error.kind() {
                io::ErrorKind::PermissionDenied => PacketError::Permission(name.to_owned()),
                _ => port.failed(what, error),
            })?);
        }
        match port.find() {
            Ok(_) | Err(PacketError::NoInterface(_) | PacketError::Down(_)) => Ok(port),
            Err(error) => Err(error),
        }
    }

    /// Looks after the sockets: true if they had no interface, and have one now.
    pub fn find(&mut self) -> Result<bool, PacketError> {
        // On the event NETDEV_UNREGISTER the kernel sets the socket's interface to -1 (`packet_notifier()`).
        let bound = self.queues.first().and_then(|queue| bound_index(queue.as_fd()).ok());
        if self.index > 0 && bound == Some(self.index) {
            return Ok(false);
        }
        self.index = -1;
        let index = interface::index_of(&self.name).map_err(|_| PacketError::NoInterface(self.name.clone()))?;
        let mac = interface::ethernet_address(&self.name)
            .map_err(|error| self.failed("SIOCGIFHWADDR", error))?
            .ok_or_else(|| PacketError::NotEthernet(self.name.clone()))?;
        for queue in &self.queues {
            self.bind(queue, index)?;
        }
        if self.queues.len() > 1 {
            self.spread()?;
        }
        for queue in &self.queues {
            // ENOENT: it has none since it was bound the first time.
            let _ = set_option(queue, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
        }
        (self.index, self.mac) = (index, Some(mac));
        Ok(true)
    }

    fn bind(&self, queue: &OwnedFd, index: libc::c_int) -> Result<(), PacketError> {
        if bound_index(queue.as_fd()).ok() == Some(index) {
            // By an earlier try, when the sockets could not be made a group.
            return Ok(());
        }
        bind(queue, index).map_err(|error| match error.raw_os_error() {
            // One that is in a group is never bound anew (`packet_do_bind()`).
            Some(libc::EINVAL) if self.queues.len() > 1 => PacketError::Gone(self.name.clone()),
            _ => self.failed("bind", error),
        })?;
        // SAFETY: all-zero is a valid packet_mreq.
        let mut membership: libc::packet_mreq = unsafe { std::mem::zeroed() };
        (membership.mr_ifindex, membership.mr_type) = (index, libc::PACKET_MR_PROMISC as libc::c_ushort);
        set_option(queue, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, membership)
            .map_err(|error| self.failed("PACKET_ADD_MEMBERSHIP", error))
    }

    fn failed(&self, what: &'static str, error: io::Error) -> PacketError {
        PacketError::Call { what, name: self.name.clone(), error }
    }

    /// The interface's name, which anybody may change.
    pub fn name(&self) -> String {
        self.present_name().unwrap_or_else(|_| self.name.clone())
    }

    /// The interface's own MAC address; that which it had if it is gone.
    pub fn mac(&self) -> Option<MacAddr> {
        self.mac
    }

    /// One socket per worker.
    pub fn queues(&self) -> &[OwnedFd] {
        &self.queues
    }

    /// The MTU as it is now.
    pub fn mtu(&self) -> Result<usize, PacketError> {
        let error = |error| self.failed("SIOCGIFMTU", error);
        self.present_name().and_then(|name| interface::mtu_of(&name)).map_err(error)
    }

    /// False if somebody has set the interface down, or deleted it.
    pub fn is_up(&self) -> bool {
        self.present_name().is_ok_and(|name| interface::is_up(&name))
    }

    /// Frames that the kernel has dropped since the last call because nobody read them fast enough.
    pub fn kernel_drops(&self) -> u64 {
        // The kernel forgets what it tells.
        self.queues.iter().map(|queue| statistics(queue.as_fd()).map_or(0, |s| u64::from(s.tp_drops))).sum()
    }

    fn present_name(&self) -> io::Result<String> {
        interface::name_of(self.index)
    }

    /// Makes the sockets a group: a flow, both directions of it, stays with one of them. The kernel chooses a number that
    /// no other group has.
    fn spread(&self) -> Result<(), PacketError> {
        // The group has a flag of its own for what PACKET_IGNORE_OUTGOING says for one socket.
        let kind = libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
        let mut id = 0;
        for (index, queue) in self.queues.iter().enumerate() {
            let group =
                |queue: &OwnedFd| fanout_group(queue.as_fd()).map_err(|error| self.failed("PACKET_FANOUT", error));
            // Those that an earlier try has put there stay.
            if group(queue)? == 0 {
                let unique = if index == 0 { libc::PACKET_FANOUT_FLAG_UNIQUEID } else { 0 };
                let value = (id | (kind | unique) << 16) as libc::c_int;
                set_option(queue, libc::SOL_PACKET, libc::PACKET_FANOUT, value).map_err(|error| {
                    match error.raw_os_error() {
                        Some(libc::EINVAL) if !interface::is_up(&self.name) => PacketError::Down(self.name.clone()),
                        _ => self.failed("PACKET_FANOUT", error),
                    }
                })?;
            }
            if index == 0 {
                id = group(queue)? & 0xffff;
            }
        }
        Ok(())
    }
}

/// Takes a name that only one gateway can have. The kernel takes a moment to end a process that was killed.
fn own(name: &str, claim: &str) -> Result<UnixDatagram, PacketError> {
    let failed = |error| PacketError::Call { what: "claiming the interface", name: name.to_owned(), error };
    let address = SocketAddr::from_abstract_name(claim).map_err(failed)?;
    let begin = Instant::now();
    loop {
        match UnixDatagram::bind_addr(&address) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && begin.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(PacketError::InUse(name.to_owned())),
            result => return result.map_err(failed),
        }
    }
}

/// A socket that is bound to no interface yet.
fn open() -> Result<OwnedFd, (&'static str, io::Error)> {
    // BPF_RET | BPF_K, 0: no octet of any frame.
    const NOTHING: (u16, u8, u8, u32) = (0x06, 0, 0, 0);
    let mut stream = RawPacketStream::new().map_err(|e| ("opening a packet socket", e))?;
    // SAFETY: `stream` is alive until the duplicate has been made.
    let borrowed = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    // A duplicate, because the crate closes the descriptor that its `into_raw_fd` gives away; and with CLOEXEC.
    let socket = borrowed.try_clone_to_owned().map_err(|e| ("dup", e))?;
    // The crate's socket takes the frames of every interface until it is bound. Not this one.
    stream.set_bpf_filter(vec![NOTHING]).map_err(|e| ("SO_ATTACH_FILTER", e))?;
    stream.drain();
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
        .map_err(|e| ("PACKET_IGNORE_OUTGOING", e))?;
    stream.set_non_blocking().map_err(|e| ("O_NONBLOCK", e))?;
    // No PACKET_QDISC_BYPASS: that way the kernel drops a super-frame for an interface that does not segment it by itself
    // (`__dev_direct_xmit()` in net/core/dev.c), and every frame while the interface's queue is full.
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1).map_err(|e| ("PACKET_VNET_HDR", e))?;
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1).map_err(|e| ("PACKET_AUXDATA", e))?;
    for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        // Without CAP_NET_ADMIN the kernel caps the size at net.core.[rw]mem_max; that is slower, not wrong.
        set_option(&socket, libc::SOL_SOCKET, force, BUFFER)
            .or_else(|_| set_option(&socket, libc::SOL_SOCKET, plain, BUFFER))
            .map_err(|e| ("SO_RCVBUF, SO_SNDBUF", e))?;
    }
    Ok(socket)
}

fn set_option<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    // SAFETY: see the top of the file.
    let result = unsafe {
        let size = size_of::<T>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// # Safety
///
/// `T` is what the kernel gives for the option, or larger, and every pattern of bits is one of its values.
unsafe fn get_option<T>(socket: BorrowedFd<'_>, name: libc::c_int, mut value: T) -> io::Result<T> {
    let mut size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the caller's promise.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, name, std::ptr::from_mut(&mut value).cast(), &mut size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn fanout_group(socket: BorrowedFd<'_>) -> io::Result<libc::c_uint> {
    // SAFETY: PACKET_FANOUT gives an int.
    unsafe { get_option(socket, libc::PACKET_FANOUT, 0) }
}

fn statistics(socket: BorrowedFd<'_>) -> io::Result<libc::tpacket_stats> {
    // SAFETY: a socket that was told no PACKET_VERSION gives a struct tpacket_stats, two integers.
    unsafe { get_option(socket, libc::PACKET_STATISTICS, libc::tpacket_stats { tp_packets: 0, tp_drops: 0 }) }
}

/// All frames of an interface.
fn bind(socket: &OwnedFd, index: libc::c_int) -> io::Result<()> {
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: a live sockaddr_ll, which is what a packet socket's name is, and its size.
    let result = unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The interface that a socket is bound to; -1 if it is gone.
fn bound_index(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: a live sockaddr_ll, which is what a packet socket's name is, and its size.
    let result = unsafe { libc::getsockname(socket.as_raw_fd(), std::ptr::from_mut(&mut address).cast(), &mut size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(address.sll_ifindex) }
}
