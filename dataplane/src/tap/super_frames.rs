//! Whether super-frames of TCP and UDP pass the port whole: tried before it is in any bridge.
//!
//! ```text
//!   packet socket on the TAP  -- (a) send -->  queue of the port: one frame, with its header?
//!                            <-- (b) arrives -- write to a queue
//! ```
//!
//! Nobody is disturbed: the frames go from and to MAC addresses that nobody has, so the host drops (b) on the ground that it is for
//! somebody else (`ip_rcv_core()`, `PACKET_OTHERHOST`), and the addresses inside are those for documentation (RFC 5737,
//! RFC 3849).
//!
//! An interface that others use cannot be tried so. There the kernel is asked alone, on the loopback: the same function
//! (`virtio_net_hdr_to_skb()`) says what it takes, whatever the interface, and what a card cannot do is done before
//! (`validate_xmit_skb()` in net/core/dev.c).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send, setsockopt};
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use super::{Tap, packet_socket};
use crate::datagram::segment::{MAX_DATAGRAMS, Transport};
use crate::feature::{State, words};
use crate::wire::checksum::{fold, pseudo_header};
use crate::wire::ip::{TCP_CSUM_OFFSET, UDP_CSUM_OFFSET, UDP_HEADER_LEN, protocol};
use crate::wire::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_HEADER_LEN, VnetHeader};

/// Packets come and go behind a virtio_net_hdr (packet(7) does not say so; net/packet/af_packet.c).
#[derive(Clone)]
struct PacketVnetHdr;
nix::setsockopt_impl!(PacketVnetHdr, libc::SOL_PACKET, libc::PACKET_VNET_HDR, bool, nix::sys::socket::sockopt::SetBool);

/// All of it happens in the system calls that cause it; this is for a machine that stands still.
const PATIENCE: Duration = Duration::from_millis(500);
const SEGMENT: usize = 1400;
const PAYLOAD: usize = 40 * SEGMENT;
/// Octets of each datagram of a trial.
const DATAGRAM: usize = 100;
/// Datagrams that a super-frame of UDP may have, in this kernel or before Linux 6.9 (`UDP_MAX_SEGMENTS`).
const MOST_DATAGRAMS: [usize; 2] = [MAX_DATAGRAMS, 64];
const ETHERNET: [u8; 12] = [0x02, 0x49, 0x50, 0x4f, 0x50, 0x02, 0x02, 0x49, 0x50, 0x4f, 0x50, 0x01];
const BUFFER: usize = 17 * 4096;

/// What became of super-frames of UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpTrial {
    /// Whether they pass.
    pub state: State,
    /// How many datagrams one may have.
    pub max_datagrams: usize,
    /// The kernel has taken some. What it refuses later, it refuses for another reason than that it does not know them.
    pub proven: bool,
}

impl UdpTrial {
    /// They do not pass, for this reason, or were not tried.
    pub fn failed(state: State) -> UdpTrial {
        UdpTrial { state, max_datagrams: MAX_DATAGRAMS, proven: false }
    }

    /// With as many datagrams as a kernel takes, and fewer if it does not; `attempt` gives the reason.
    fn of(mut attempt: impl FnMut(Kind) -> Result<State, String>) -> UdpTrial {
        let mut first = None;
        for max_datagrams in MOST_DATAGRAMS {
            match attempt(Kind::Udp(max_datagrams)) {
                Ok(state) => return UdpTrial { proven: true, state, max_datagrams },
                Err(reason) => first = first.or(Some(reason)),
            }
        }
        UdpTrial::failed(State::Off(first.unwrap_or_default()))
    }
}

/// What is tried.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Tcp,
    /// So many datagrams.
    Udp(usize),
}

const FAMILIES: [(bool, &str); 2] = [(false, "IPv4"), (true, "IPv6")];

impl Tap {
    /// Sends super-frames of TCP both ways. Drops whatever else the port has to say, so only for a port in no bridge.
    pub fn try_super_frames(&self) -> State {
        self.try_kind(&open(&self.name), Kind::Tcp).unwrap_or_else(State::Off)
    }

    /// The same with super-frames of UDP, which must be switched on.
    pub fn try_udp_super_frames(&self) -> UdpTrial {
        let socket = open(&self.name);
        UdpTrial::of(|kind| self.try_kind(&socket, kind))
    }

    fn try_kind(&self, socket: &io::Result<OwnedFd>, kind: Kind) -> Result<State, String> {
        for (v6, family) in FAMILIES {
            let (vnet, frame) = super_frame(v6, kind);
            let outcome = self.write_super_frame(socket, &vnet, &frame);
            outcome
                .and_then(|()| self.read_super_frame(socket, &vnet, &frame))
                .map_err(|reason| format!("{family}: {reason}"))?;
        }
        Ok(match socket {
            Ok(_) => State::On,
            Err(error) => State::Untested(format!("no packet socket to try it with: {}", words(error))),
        })
    }

    /// (a)
    fn read_super_frame(&self, socket: &io::Result<OwnedFd>, vnet: &VnetHeader, frame: &[u8]) -> Result<(), String> {
        let Ok(socket) = socket else { return Ok(()) };
        let sent = send(socket.as_raw_fd(), &[&host_header(vnet)[..], frame].concat(), MsgFlags::MSG_DONTWAIT);
        sent.map_err(|error| format!("a super-frame cannot be sent to the port: {}", words(&error.into())))?;
        let mut buffer = vec![0; BUFFER];
        let mut found = None;
        let end = Instant::now() + PATIENCE;
        while found.is_none() && wait(&self.queues, end) {
            for queue in &self.queues {
                // All of it, so that nothing is left behind for the workers.
                while let Ok(len) = nix::unistd::read(queue, &mut buffer) {
                    let Ok((header, arrived)) = VnetHeader::ref_from_prefix(&buffer[..len]) else { continue };
                    if arrived.starts_with(&ETHERNET) {
                        let whole = arrived == frame && (header.gso(), header.gso_size) == (vnet.gso(), vnet.gso_size);
                        found.get_or_insert((whole, arrived.len()));
                    }
                }
            }
        }
        match found {
            Some((true, _)) => Ok(()),
            Some((false, len)) => Err(format!("a super-frame of {} octets came as one of {len}", frame.len())),
            None => Err("a super-frame that was sent to the port did not come".to_owned()),
        }
    }

    /// (b)
    fn write_super_frame(&self, socket: &io::Result<OwnedFd>, vnet: &VnetHeader, frame: &[u8]) -> Result<(), String> {
        let Some(queue) = self.queues.first() else { return Ok(()) };
        let written = nix::unistd::write(queue, &[vnet.as_bytes(), frame].concat());
        written.map_err(|error| format!("the port refuses super-frames: {}", words(&error.into())))?;
        let Ok(socket) = socket else { return Ok(()) };
        let mut buffer = vec![0; BUFFER];
        let end = Instant::now() + PATIENCE;
        while wait(std::slice::from_ref(socket), end) {
            while let Ok(len) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                let Some((header, arrived)) = buffer[..len].split_at_checked(VNET_HEADER_LEN) else { continue };
                if arrived == frame && header[1..6] == host_header(vnet)[1..6] {
                    return Ok(());
                }
            }
        }
        Err("a super-frame that the port took did not arrive behind it".to_owned())
    }
}

/// Whether the kernel takes super-frames of TCP and UDP from a packet socket. Nobody receives them.
pub fn try_on_loopback() -> (State, UdpTrial) {
    let socket = match open("lo") {
        Ok(socket) => socket,
        Err(error) => return not_tried(&words(&error)),
    };
    let attempt = |kind| -> Result<State, Errno> {
        for (v6, _) in FAMILIES {
            let (vnet, frame) = super_frame(v6, kind);
            send(socket.as_raw_fd(), &[&host_header(&vnet)[..], &frame].concat(), MsgFlags::MSG_DONTWAIT)?;
        }
        Ok(State::On)
    };
    match attempt(Kind::Tcp) {
        Ok(tso) => {
            let refused = |error: Errno| format!("the kernel refuses it: {}", words(&error.into()));
            (tso, UdpTrial::of(|kind| attempt(kind).map_err(refused)))
        }
        // Every kernel that has the header takes them, so it is about the loopback.
        Err(error) => not_tried(&words(&error.into())),
    }
}

fn not_tried(error: &str) -> (State, UdpTrial) {
    let state = State::Untested(format!("no loopback to try it on: {error}"));
    (state.clone(), UdpTrial::failed(state))
}

fn open(interface: &str) -> io::Result<OwnedFd> {
    let socket = packet_socket(interface)?;
    setsockopt(&socket, PacketVnetHdr, &true)?;
    Ok(socket)
}

/// False if the time is over.
fn wait(fds: &[OwnedFd], end: Instant) -> bool {
    let left = end.saturating_duration_since(Instant::now());
    let mut fds: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
        Ok(0) => false,
        Ok(_) | Err(Errno::EINTR) => !left.is_zero(),
        Err(_) => false,
    }
}

/// A segment of much data, or datagrams, with numbers for payload.
fn super_frame(v6: bool, kind: Kind) -> (VnetHeader, Vec<u8>) {
    const TCP_LEN: usize = 20;
    let (transport, payload, segment) = match kind {
        Kind::Tcp => (Transport::Tcp, PAYLOAD, SEGMENT),
        Kind::Udp(count) => (Transport::Udp, count * DATAGRAM, DATAGRAM),
    };
    let (protocol, segment_len) = match transport {
        Transport::Tcp => (protocol::TCP, TCP_LEN + payload),
        Transport::Udp => (protocol::UDP, UDP_HEADER_LEN + payload),
    };
    let mut frame = ETHERNET.to_vec();
    let (src, dst): (IpAddr, IpAddr) = if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((segment_len as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        let [src, dst] = [1, 2].map(|host| [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        frame.extend([src, dst].concat());
        (src.into(), dst.into())
    } else {
        frame.extend([0x08, 0x00]);
        let at = frame.len();
        frame.extend([0x45, 0]);
        frame.extend((20 + segment_len as u16).to_be_bytes());
        let [src, dst] = [1, 2].map(|host| [192, 0, 2, host]);
        frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([src, dst].concat());
        let sum = !fold(crate::wire::checksum::add(&frame[at..], 0));
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        (src.into(), dst.into())
    };
    let start = frame.len();
    let pseudo = fold(pseudo_header(src, dst, protocol, segment_len));
    // Ports (discard).
    frame.extend([0, 9, 0, 9]);
    match transport {
        Transport::Tcp => {
            // Sequence, acknowledgement, five words of header, ACK, window, sum of the pseudo header, no pointer.
            frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff]);
            frame.extend(pseudo.to_be_bytes());
            frame.extend([0, 0]);
        }
        Transport::Udp => {
            frame.extend((segment_len as u16).to_be_bytes());
            frame.extend(pseudo.to_be_bytes());
        }
    }
    let header_len = frame.len();
    frame.extend((0..payload).map(|number| (number / 7) as u8));
    let (gso_type, csum_offset) = match (transport, v6) {
        (Transport::Tcp, false) => (GSO_TCPV4, TCP_CSUM_OFFSET),
        (Transport::Tcp, true) => (GSO_TCPV6, TCP_CSUM_OFFSET),
        (Transport::Udp, _) => (GSO_UDP_L4, UDP_CSUM_OFFSET),
    };
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type,
        hdr_len: U16::new(header_len as u16),
        gso_size: U16::new(segment as u16),
        csum_start: U16::new(start as u16),
        csum_offset: U16::new(csum_offset),
    };
    (vnet, frame)
}

/// The same header for a packet socket, whose is in the byte order of the host.
fn host_header(vnet: &VnetHeader) -> [u8; VNET_HEADER_LEN] {
    let mut header = [vnet.flags, vnet.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
    let fields = [vnet.hdr_len, vnet.gso_size, vnet.csum_start, vnet.csum_offset];
    for (place, field) in header[2..].chunks_exact_mut(2).zip(fields) {
        place.copy_from_slice(&field.get().to_ne_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::segment::SuperFrame;
    use crate::wire::Frame;

    #[test]
    fn the_trial_is_a_super_frame() {
        for v6 in [false, true] {
            for (kind, expected) in [
                (Kind::Tcp, (Transport::Tcp, PAYLOAD, SEGMENT as u16)),
                (Kind::Udp(64), (Transport::Udp, 64 * DATAGRAM, DATAGRAM as u16)),
            ] {
                let (vnet, frame) = super_frame(v6, kind);
                let parsed = SuperFrame::new(&Frame::parse(&frame).unwrap(), &vnet).expect("it can be cut");
                assert_eq!((parsed.transport, parsed.payload.len(), parsed.gso_size), expected);
                assert_eq!(parsed.headers.len(), usize::from(vnet.hdr_len.get()));
            }
        }
    }

    /// A kernel before 6.9, and one before 6.2.
    #[test]
    fn fewer_datagrams_are_tried_when_many_are_refused() {
        let up_to = |most: usize| {
            UdpTrial::of(|kind| match kind {
                Kind::Udp(count) if count <= most => Ok(State::On),
                _ => Err(format!("{kind:?}")),
            })
        };
        assert_eq!(up_to(128), UdpTrial { state: State::On, max_datagrams: 128, proven: true });
        assert_eq!(up_to(127), UdpTrial { state: State::On, max_datagrams: 64, proven: true });
        assert_eq!(up_to(63), UdpTrial::failed(State::Off("Udp(128)".into())));
    }

    #[test]
    fn the_kernel_takes_them_on_the_loopback() {
        let alone = std::thread::spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return eprintln!("not run: no network namespace of its own");
            }
            let (tso, udp) = try_on_loopback();
            assert!(matches!(&tso, State::Untested(reason) if reason.contains("down")), "{tso:?}");
            assert_eq!(udp, UdpTrial::failed(tso));
            let mut request = crate::interface::request("lo");
            request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
            crate::interface::control_call(libc::SIOCSIFFLAGS, &mut request).unwrap();
            let (tso, udp) = try_on_loopback();
            assert_eq!(tso, State::On);
            // Unless the kernel is older than 6.2.
            assert!(udp.proven == (udp.state == State::On), "{udp:?}");
        });
        alone.join().unwrap();
    }

    /// Ten in a row in a namespace of their own, as root; passes without a word where that cannot be.
    #[test]
    fn a_tap_carries_them_and_says_so_if_not() {
        let alone = std::thread::spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return eprintln!("not run: no network namespace of its own");
            }
            for queues in [1, 3] {
                let mut tap = match Tap::create("trial", queues, [1, 2, 3, 4, 5]) {
                    Ok(tap) => tap,
                    Err(error) => return eprintln!("not run: {error}"),
                };
                for _ in 0..5 {
                    assert_eq!(tap.try_super_frames(), State::On);
                    assert_eq!(tap.try_udp_super_frames().state, State::On);
                    let mut buffer = vec![0; BUFFER];
                    for queue in &tap.queues {
                        assert_eq!(nix::unistd::read(queue, &mut buffer), Err(Errno::EAGAIN), "nothing is left behind");
                    }
                }
                tap.set_offloads(false, true).unwrap();
                let State::Off(reason) = tap.try_super_frames() else { panic!("they pass although they are off") };
                assert!(reason.starts_with("IPv4: a super-frame of 56054 octets came as one of 1454"), "{reason}");
                assert!(tap.set_offloads(true, false).unwrap());
                assert_eq!(tap.try_super_frames(), State::On);
                let UdpTrial { state: State::Off(reason), proven: false, .. } = tap.try_udp_super_frames() else {
                    panic!("those of UDP pass although they are off")
                };
                assert!(reason.starts_with("IPv4: a super-frame of 12842 octets came as one of 142"), "{reason}");
            }
        });
        alone.join().unwrap();
    }
}
