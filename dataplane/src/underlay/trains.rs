//! Whether trains of datagrams are sent and received as one: tried on the loopback.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt};

use super::set_gro;
use crate::feature::{State, words};

/// For a machine that stands still, or a loopback that is filtered.
const PATIENCE: Duration = Duration::from_millis(500);
const SEGMENT: u16 = 1000;
const TRAIN: usize = 7 * SEGMENT as usize + 300;

/// UDP GSO and UDP GRO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trains {
    /// Sending.
    pub gso: State,
    /// Receiving.
    pub gro: State,
}

/// Sends a train from one socket to another, over the family that the underlay has.
pub fn try_trains(listen: SocketAddr) -> Trains {
    let untested = |error: io::Error| State::Untested(format!("not tried on the loopback: {}", words(&error)));
    let (near, far) = match pair(listen) {
        Ok(pair) => pair,
        Err(error) => {
            let state = untested(error);
            return Trains { gso: state.clone(), gro: state };
        }
    };
    let listens = set_gro(&far, true);
    let payload: Vec<u8> = (0..TRAIN).map(|number| (number / 3) as u8).collect();
    let sent = far.local_addr().and_then(|to| send_train(&near, &payload, to));
    let gso = match &sent {
        Ok(()) => State::On,
        // No way to the loopback: `ip link set lo up` was not done here, or no address of this family.
        Err(error) if !is_about_trains(error) => {
            let state = untested(io::Error::other(words(error)));
            return Trains { gso: state.clone(), gro: state };
        }
        Err(error) => State::Off(words(error)),
    };
    let gro = match listens {
        Err(error) => State::Off(words(&error)),
        Ok(()) if !gso.is_on() => State::Untested("there is no train to try it with".to_owned()),
        Ok(()) => match receive_train(&far, &payload) {
            Ok(true) => State::On,
            Ok(false) => State::Off("a train came as single datagrams".to_owned()),
            Err(error) => return Trains { gso: untested(io::Error::other(words(&error))), gro: untested(error) },
        },
    };
    Trains { gso, gro }
}

fn pair(listen: SocketAddr) -> io::Result<(UdpSocket, UdpSocket)> {
    let loopback: IpAddr = if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    Ok((UdpSocket::bind((loopback, 0))?, UdpSocket::bind((loopback, 0))?))
}

/// Errors of a kernel that does not know the option (4.18 does), or cannot do it (udp_send_skb() in net/ipv4/udp.c).
fn is_about_trains(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    number.is_some_and(|number| [libc::EINVAL, libc::EIO, libc::ENOPROTOOPT, libc::EOPNOTSUPP].contains(&number))
}

fn send_train(socket: &UdpSocket, payload: &[u8], to: SocketAddr) -> io::Result<()> {
    // Before Linux 4.18 an unknown control message is ignored, an unknown option is not.
    setsockopt(socket, nix::sys::socket::sockopt::UdpGsoSegment, &0)?;
    let to = SockaddrStorage::from(to);
    let control = [ControlMessage::UdpGsoSegments(&SEGMENT)];
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(payload)], &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
    Ok(())
}

/// True if the train came as one.
fn receive_train(socket: &UdpSocket, payload: &[u8]) -> io::Result<bool> {
    let (mut seen, mut whole) = (0, false);
    let end = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 1 << 16];
    while seen < payload.len() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::other("a train did not arrive"));
        }
        socket.set_read_timeout(Some(left))?;
        let mut control = nix::cmsg_space!(libc::c_int);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
        let message = match received {
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        let len = message.bytes;
        let size = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::UdpGroSegments(size) => Some(size),
            _ => None,
        });
        whole |= len == payload.len() && size == Some(SEGMENT.into());
        if payload.get(seen..seen + len) != Some(&buffer[..len]) {
            return Ok(false);
        }
        seen += len;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_both() {
        for listen in ["127.0.0.1:1", "[::1]:1"] {
            let trains = try_trains(listen.parse().unwrap());
            assert!(trains.gso.is_on() && trains.gro.is_on(), "{trains:?}");
        }
        assert_eq!(try_trains("10.99.0.1:1".parse().unwrap()), Trains { gso: State::On, gro: State::On });
    }

    #[test]
    fn a_receiver_without_gro_is_seen() {
        let (near, far) = pair("127.0.0.1:1".parse().unwrap()).unwrap();
        let payload = vec![7; TRAIN];
        for (gro, whole) in [(false, false), (true, true)] {
            set_gro(&far, gro).unwrap();
            send_train(&near, &payload, far.local_addr().unwrap()).unwrap();
            assert_eq!(receive_train(&far, &payload).unwrap(), whole);
        }
        assert!(receive_train(&far, &payload).is_err(), "nothing is left");
    }

    #[test]
    fn a_loopback_that_is_down_is_no_verdict() {
        let alone = std::thread::spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return eprintln!("not run: no network namespace of its own");
            }
            let trains = try_trains("10.99.0.1:5800".parse().unwrap());
            let State::Untested(reason) = &trains.gso else { panic!("{trains:?}") };
            assert!(reason.starts_with("not tried on the loopback: "), "{reason}");
            assert!(trains.gro.is_on());
        });
        alone.join().unwrap();
    }
}
