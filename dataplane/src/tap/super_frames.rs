//! Whether TCP super-frames pass the port whole: tried before it is in any bridge.
//!
//! ```text
//!   packet socket on the TAP  -- (a) send -->  queue of the port: one frame, with its header?
//!                            <-- (b) arrives -- write to a queue
//! ```
//!
//! Nobody is disturbed: the frames go from and to MAC addresses that nobody has, so the host drops (b) on the ground that it is for
//! somebody else (`ip_rcv_core()`, `PACKET_OTHERHOST`), and the addresses inside are those for documentation (RFC 5737,
//! RFC 3849).

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
use crate::feature::{State, words};
use crate::wire::checksum::{fold, pseudo_header};
use crate::wire::ip::{TCP_CSUM_OFFSET, protocol};
use crate::wire::vnet::{GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, VNET_HEADER_LEN, VnetHeader};

/// Packets come and go behind a virtio_net_hdr (packet(7) does not say so; net/packet/af_packet.c).
#[derive(Clone)]
struct PacketVnetHdr;
nix::setsockopt_impl!(PacketVnetHdr, libc::SOL_PACKET, libc::PACKET_VNET_HDR, bool, nix::sys::socket::sockopt::SetBool);

/// All of it happens in the system calls that cause it; this is for a machine that stands still.
const PATIENCE: Duration = Duration::from_millis(500);
const SEGMENT: usize = 1400;
const PAYLOAD: usize = 40 * SEGMENT;
const ETHERNET: [u8; 12] = [0x02, 0x49, 0x50, 0x4f, 0x50, 0x02, 0x02, 0x49, 0x50, 0x4f, 0x50, 0x01];
const BUFFER: usize = 17 * 4096;
/// `struct virtio_net_hdr` of a packet socket, in the byte order of the host.
const HOST_HEADER_LEN: usize = 10;

impl Tap {
    /// Sends super-frames both ways. Drops whatever else the port has to say, so only for a port in no bridge.
    pub fn try_super_frames(&self) -> State {
        let socket = open(&self.name);
        for (v6, family) in [(false, "IPv4"), (true, "IPv6")] {
            let (vnet, frame) = super_frame(v6);
            let outcome = self.write_super_frame(&socket, &vnet, &frame);
            if let Err(reason) = outcome.and_then(|()| self.read_super_frame(&socket, &vnet, &frame)) {
                return State::Off(format!("{family}: {reason}"));
            }
        }
        match socket {
            Ok(_) => State::On,
            Err(error) => State::Untested(format!("no packet socket to try it with: {}", words(&error))),
        }
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
                let Some((header, arrived)) = buffer[..len].split_at_checked(HOST_HEADER_LEN) else { continue };
                if arrived == frame && header[1..6] == host_header(vnet)[1..6] {
                    return Ok(());
                }
            }
        }
        Err("a super-frame that the port took did not arrive behind it".to_owned())
    }
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

/// A segment of much data, with numbers for payload.
fn super_frame(v6: bool) -> (VnetHeader, Vec<u8>) {
    const TCP_LEN: usize = 20;
    let segment_len = TCP_LEN + PAYLOAD;
    let mut frame = ETHERNET.to_vec();
    let (src, dst): (IpAddr, IpAddr) = if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((segment_len as u16).to_be_bytes());
        frame.extend([protocol::TCP, 64]);
        let [src, dst] = [1, 2].map(|host| [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        frame.extend([src, dst].concat());
        (src.into(), dst.into())
    } else {
        frame.extend([0x08, 0x00]);
        let at = frame.len();
        frame.extend([0x45, 0]);
        frame.extend((20 + segment_len as u16).to_be_bytes());
        let [src, dst] = [1, 2].map(|host| [192, 0, 2, host]);
        frame.extend([0, 1, 0x40, 0, 64, protocol::TCP, 0, 0]);
        frame.extend([src, dst].concat());
        let sum = !fold(crate::wire::checksum::add(&frame[at..], 0));
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        (src.into(), dst.into())
    };
    let start = frame.len();
    let pseudo = fold(pseudo_header(src, dst, protocol::TCP, segment_len));
    // Ports (discard), sequence, acknowledgement, five words of header, ACK, window, sum of the pseudo header, no pointer.
    frame.extend([0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff]);
    frame.extend(pseudo.to_be_bytes());
    frame.extend([0, 0]);
    let header_len = frame.len();
    frame.extend((0..PAYLOAD).map(|number| (number / 7) as u8));
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: if v6 { GSO_TCPV6 } else { GSO_TCPV4 },
        hdr_len: U16::new(header_len as u16),
        gso_size: U16::new(SEGMENT as u16),
        csum_start: U16::new(start as u16),
        csum_offset: U16::new(TCP_CSUM_OFFSET),
        num_buffers: U16::new(0),
    };
    (vnet, frame)
}

/// The same header for a packet socket.
fn host_header(vnet: &VnetHeader) -> [u8; HOST_HEADER_LEN] {
    const _: () = assert!(VNET_HEADER_LEN == HOST_HEADER_LEN + 2);
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
            let (vnet, frame) = super_frame(v6);
            let parsed = SuperFrame::new(&Frame::parse(&frame).unwrap(), &vnet).expect("it can be cut");
            assert_eq!((parsed.payload.len(), parsed.gso_size), (PAYLOAD, SEGMENT as u16));
            assert_eq!(parsed.headers.len(), usize::from(vnet.hdr_len.get()));
        }
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
                    let mut buffer = vec![0; BUFFER];
                    for queue in &tap.queues {
                        assert_eq!(nix::unistd::read(queue, &mut buffer), Err(Errno::EAGAIN), "nothing is left behind");
                    }
                }
                tap.set_offloads(false, true).unwrap();
                let State::Off(reason) = tap.try_super_frames() else { panic!("they pass although they are off") };
                assert!(reason.starts_with("IPv4: a super-frame of 56054 octets came as one of 1454"), "{reason}");
                tap.set_offloads(true, true).unwrap();
                assert_eq!(tap.try_super_frames(), State::On);
            }
        });
        alone.join().unwrap();
    }
}
