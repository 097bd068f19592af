//! Sockets inside a namespace: raw Ethernet on an interface, and UDP.

use std::io::{ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, cmsg_space,
    getsockopt, recvmsg, send, setsockopt, socket, sockopt,
};

use crate::error::{Context, Result};
use crate::interrupt;
use crate::netns::Netns;

/// The largest frame that can arrive: a super-frame of a veth or a TAP.
const LARGEST: usize = 65_535 + 18;
/// `sll_pkttype` of a frame that this machine itself sends (PACKET_OUTGOING of packet(7)).
const OUTGOING: u8 = 4;
/// So much may wait in the socket's buffer.
const BUFFER: usize = 8 << 20;
/// Where the VLAN tag stands in a frame: behind destination and source.
const TAG_OFFSET: usize = 12;
/// `tp_status` flags of [`AuxData`]: the frame had a tag; its EtherType is told too.
const VLAN_VALID: u32 = 1 << 4;
const VLAN_TPID_VALID: u32 = 1 << 6;
/// The EtherType of a tag where it is not told.
const DOT1Q: u16 = 0x8100;

/// `struct tpacket_auxdata`: status, two lengths, two offsets, then the tag's TCI and its EtherType.
type AuxData = [u8; 20];

/// PACKET_AUXDATA: the kernel takes the VLAN tag out of a frame and tells it beside.
#[derive(Debug, Clone, Copy)]
struct PacketAuxData;
nix::setsockopt_impl!(PacketAuxData, libc::SOL_PACKET, libc::PACKET_AUXDATA, bool, sockopt::SetBool);

/// PACKET_VNET_HDR: in front of what is sent stands a `struct virtio_net_hdr`.
#[derive(Debug, Clone, Copy)]
struct PacketVnetHdr;
nix::setsockopt_impl!(PacketVnetHdr, libc::SOL_PACKET, libc::PACKET_VNET_HDR, bool, sockopt::SetBool);

/// PACKET_STATISTICS: what has come, and what of it was dropped because the buffer was full. Asking forgets it.
#[derive(Debug, Clone, Copy)]
struct PacketStatistics;
nix::getsockopt_impl!(
    PacketStatistics,
    libc::SOL_PACKET,
    libc::PACKET_STATISTICS,
    libc::tpacket_stats,
    sockopt::GetStruct<libc::tpacket_stats>
);

/// Which frames [`RawPort`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those that arrive at the interface: for `eth0` of a container, what the bridge sends there.
    Incoming,
    /// Those that leave through it too, whether the host's stack or this port sent them.
    Both,
}

/// A raw Ethernet port on an interface of a namespace (AF_PACKET).
///
/// What to know: the namespace's own stack sees the arriving frames too, and answers ARP and ping. VLAN tags are seen and
/// may be sent (the kernel takes them out of the frame, and this puts them back). Frames between local interfaces may come with unfinished checksums, and several TCP segments
/// as one frame, longer than the MTU.
#[derive(Debug)]
pub struct RawPort {
    socket: OwnedFd,
    name: String,
    direction: Direction,
    buffer: Vec<u8>,
}

impl RawPort {
    /// Opens a port for the frames that arrive at `interface`.
    pub fn open(netns: &Netns, interface: &str) -> Result<Self> {
        Self::open_for(netns, interface, Direction::Incoming)
    }

    /// Opens a port and says which frames it shall give.
    pub fn open_for(netns: &Netns, interface: &str, direction: Direction) -> Result<Self> {
        let name = format!("{interface} in {}", netns.name());
        let socket = netns.within(|| open(interface))?;
        let mut port = Self {
            socket: socket.context(format!("opening a raw port on {name}"))?,
            name,
            direction,
            buffer: vec![0; LARGEST],
        };
        // Until it was bound the socket received from all interfaces.
        port.drain()?;
        Ok(port)
    }

    /// Sends a whole Ethernet frame, without check sequence.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).map(drop).context(format!(
            "sending {} bytes on {}",
            frame.len(),
            self.name
        ))
    }

    /// Sends a frame as a host does that leaves work to its network card: `header` is a `struct virtio_net_hdr` in the
    /// machine's byte order, and says what is left to be done.
    pub fn send_unfinished(&self, header: [u8; 10], frame: &[u8]) -> Result<()> {
        let switch =
            |on| setsockopt(&self.socket, PacketVnetHdr, &on).context(format!("PACKET_VNET_HDR on {}", self.name));
        switch(true)?;
        let sent = self.send(&[&header, frame].concat());
        // What is received has no header.
        switch(false)?;
        sent
    }

    /// The next frame; `None` if none comes in time.
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            interrupt::check()?;
            // In slices, so that an interrupt is noticed; and rounded up, so that the last one does not spin.
            let slice = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX).min(50);
            let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waiting, PollTimeout::from(slice)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    return Err(error).context(format!("waiting for a frame on {}", self.name));
                }
            }
        }
    }

    /// All frames that come during `time`.
    pub fn capture(&mut self, time: Duration) -> Result<Vec<Vec<u8>>> {
        self.capture_until(time, |_| false).map(|(frames, _)| frames)
    }

    /// All frames up to the first that `last` accepts (that one included), but for no longer than `timeout`. The flag
    /// tells if it came.
    pub fn capture_until(
        &mut self,
        timeout: Duration,
        mut last: impl FnMut(&[u8]) -> bool,
    ) -> Result<(Vec<Vec<u8>>, bool)> {
        let end = Instant::now() + timeout;
        let mut frames = Vec::new();
        while let Some(frame) = self.recv(end.saturating_duration_since(Instant::now()))? {
            let done = last(&frame);
            frames.push(frame);
            if done {
                return Ok((frames, true));
            }
        }
        Ok((frames, false))
    }

    /// Frames since it was opened, or since this was asked, that are not among those that it gives: nobody took them out of
    /// the socket's buffer in time.
    pub fn lost(&self) -> Result<u32> {
        let lost = getsockopt(&self.socket, PacketStatistics).map(|statistics| statistics.tp_drops);
        lost.context(format!("PACKET_STATISTICS on {}", self.name))
    }

    /// Throws away what has arrived so far.
    pub fn drain(&mut self) -> Result<()> {
        while self.take()?.is_some() {}
        Ok(())
    }

    /// The next frame that is already there.
    fn take(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let mut control = [0; cmsg_space::<AuxData>()];
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let received =
                recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
            let (length, outgoing, tag) = match received {
                Ok(message) => {
                    let outgoing = message.address.is_some_and(|from| from.pkttype() == OUTGOING);
                    let tag = message.cmsgs().ok().and_then(|mut all| all.find_map(|one| tag_in(&one)));
                    (message.bytes, outgoing, tag)
                }
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context(format!("receiving on {}", self.name)),
            };
            if outgoing && self.direction == Direction::Incoming {
                continue;
            }
            let mut frame = self.buffer[..length].to_vec();
            if let Some(tag) = tag
                && frame.len() >= TAG_OFFSET
            {
                frame.splice(TAG_OFFSET..TAG_OFFSET, tag);
            }
            return Ok(Some(frame));
        }
    }
}

/// The VLAN tag that the kernel took out of a frame: EtherType and TCI, as on the wire.
fn tag_in(message: &ControlMessageOwned) -> Option<[u8; 4]> {
    let ControlMessageOwned::Unknown(unknown) = message else {
        return None;
    };
    let data: &AuxData = unknown.data_bytes.first_chunk()?;
    let [s0, s1, s2, s3, .., tci0, tci1, tpid0, tpid1] = *data;
    let status = u32::from_ne_bytes([s0, s1, s2, s3]);
    let tci = u16::from_ne_bytes([tci0, tci1]);
    let tpid = if status & VLAN_TPID_VALID == 0 { DOT1Q } else { u16::from_ne_bytes([tpid0, tpid1]) };
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
    (status & VLAN_VALID != 0).then_some([a, b, c, d])
}

/// Opens a socket and binds it to one interface.
fn open(interface: &str) -> nix::Result<OwnedFd> {
    let mut links = getifaddrs()?.filter(|link| link.interface_name == interface);
    // This address has the interface's index, and no protocol: the socket keeps its own.
    let address = links.find_map(|link| link.address?.as_link_addr().copied());
    let address = address.ok_or(Errno::ENODEV)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    setsockopt(&socket, PacketAuxData, &true)?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// A UDP socket inside a namespace: to talk to a gateway as a stranger would.
///
/// `local` may be `0.0.0.0:0` or `[::]:0`. Receiving gives up after `timeout`.
pub fn udp_socket(netns: &Netns, local: SocketAddr, timeout: Duration) -> Result<UdpSocket> {
    let what = format!("opening a UDP socket on {local} in {}", netns.name());
    // A socket that was closed here may live on for a moment in a process that another thread is just starting.
    let end = Instant::now() + Duration::from_secs(1);
    let socket = loop {
        match netns.within(|| UdpSocket::bind(local))? {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => break result.context(what.clone())?,
        }
    };
    socket.set_read_timeout(Some(interrupt::patient(timeout))).context(what)?;
    Ok(socket)
}
