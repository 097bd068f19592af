//! As much of rtnetlink(7) as it takes to ask for a route, the interfaces and a neighbour, and to hear of changes.
//!
//! Read by hand: of each message a few attributes matter, and one that is new or odd in another must not hide them. The
//! crates that know all of netlink refuse the whole message then.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto, socket,
};

/// Answers to a dump come in messages of up to 32 KiB if there is room for them (netlink_dump() in net/netlink/af_netlink.c).
const BUFFER: usize = 32 << 10;
/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER_LEN: usize = 16;
/// `struct nlattr`: length, type.
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// NLA_TYPE_MASK: two bits of a type are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// What changed in the kernel's tables is told to who has joined these groups (RTMGRP_*, rtnetlink(7)).
pub(super) const CHANGES: u32 = groups(&[
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
]);

const fn groups(numbers: &[libc::c_uint]) -> u32 {
    let (mut mask, mut at) = (0, 0);
    while at < numbers.len() {
        mask |= 1 << (numbers[at] - 1);
        at += 1;
    }
    mask
}

/// A socket to the kernel's tables.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// A socket that hears of these groups; 0 for one that only asks.
    pub(super) fn open(groups: u32) -> io::Result<Netlink> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Netlink { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Asks, and hands each message of the answer to `take`, with its type. The kernel answers within the call.
    pub(super) fn ask(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        body: &[u8],
        mut take: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Vec::with_capacity(HEADER_LEN + body.len());
        request.extend_from_slice(&((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        request.extend_from_slice(&self.sequence.to_ne_bytes());
        request.extend_from_slice(&0u32.to_ne_bytes());
        request.extend_from_slice(body);
        sendto(self.socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let dump = flags & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
        loop {
            let sequence = self.sequence;
            for message in self.receive()? {
                match i32::from(message.kind) {
                    // An answer to an earlier question, which was given up.
                    _ if message.sequence != sequence => {}
                    libc::NLMSG_ERROR => {
                        let errno = u32_at(message.body, 0).map_or(libc::EPROTO, |code| -(code as i32));
                        return if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) };
                    }
                    libc::NLMSG_DONE => return Ok(()),
                    _ => {
                        take(message.kind, message.body);
                        if !dump {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    /// Takes what has been told since the last call. An error of kind [`io::ErrorKind::WouldBlock`] means nothing more; any
    /// other that something is lost.
    pub(super) fn news(&mut self, mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.receive()?.for_each(|message| take(message.kind, message.body));
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Messages<'_>> {
        loop {
            let (len, from) = recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut self.buffer)?;
            // Port 0 is the kernel's; nobody else has a say.
            if from.is_some_and(|from| from.pid() == 0) {
                return Ok(Messages(self.buffer.get(..len).unwrap_or_default()));
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of one receive.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = u32_at(self.0, 0)? as usize;
        let message =
            Message { kind: u16_at(self.0, 4)?, sequence: u32_at(self.0, 8)?, body: self.0.get(HEADER_LEN..len)? };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes of a message, or those inside another attribute: type and value.
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let len = usize::from(u16_at(self.0, 0)?);
        let attribute = (u16_at(self.0, 2)? & ATTRIBUTE_TYPE, self.0.get(ATTRIBUTE_HEADER_LEN..len)?);
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    }
}

/// Appends an attribute.
pub(super) fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&((ATTRIBUTE_HEADER_LEN + value.len()) as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An address in network byte order.
pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

/// The octets of an address, and its family.
pub(super) fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(ip) => (libc::AF_INET as u8, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6 as u8, ip.octets().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_are_cut_short_end_the_list() {
        let mut list = Vec::new();
        attribute(&mut list, 3 | 1 << 15, b"eth0\0");
        attribute(&mut list, 4, &1500u32.to_ne_bytes());
        let all: Vec<_> = Attributes(&list).collect();
        assert_eq!(all, [(3, &b"eth0\0"[..]), (4, &1500u32.to_ne_bytes()[..])]);
        for len in 0..list.len() {
            assert!(Attributes(&list[..len]).count() < 2, "{len}");
        }
        // A length below that of its own header would never end.
        assert_eq!(Attributes(&[0; 64]).count(), 0);
        assert_eq!(Messages(&[0; 64]).count(), 0);
    }
}
