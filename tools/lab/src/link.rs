//! Properties of interfaces that the `ip` of Debian 12 has no words for, by rtnetlink(7).

use std::io;
use std::os::fd::AsRawFd;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::error::{Context, Result};
use crate::netns::Netns;

/// include/uapi/linux/if_link.h. The last two are of Linux 6.3; an older kernel takes no notice of them.
const SIZES: [u16; 4] = [IFLA_GSO_MAX_SIZE, IFLA_GRO_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE];
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_GRO_MAX_SIZE: u16 = 58;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const IFLA_GRO_IPV4_MAX_SIZE: u16 = 64;

impl Netns {
    /// How long the super-frames of an interface may become, those that leave it and those that arrive.
    pub fn set_super_frame_size(&self, interface: &str, octets: u32) -> Result<()> {
        self.within(|| set_sizes(interface, octets))?
            .context(format!("setting the size of super-frames of {interface} in {}", self.name()))
    }
}

fn set_sizes(interface: &str, octets: u32) -> io::Result<()> {
    let index = if_nametoindex(interface)?;
    // struct ifinfomsg: family, type, index, flags, which flags to change.
    let mut body = [&[0; 4][..], &index.to_ne_bytes(), &[0; 8]].concat();
    for kind in SIZES {
        body.extend_from_slice(&8u16.to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(&octets.to_ne_bytes());
    }
    // struct nlmsghdr: length, type, flags, number, sender.
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&body);
    let (kind, protocol) = (SockType::Raw, SockProtocol::NetlinkRoute);
    let socket = socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    // The answer is a struct nlmsgerr: behind the header stands 0, or the error.
    let mut answer = [0; 4096];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match answer[..len].get(16..20).and_then(|error| error.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
