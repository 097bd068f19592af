//! What the kernel tells of any network interface.
// UNSAFETY: ioctls. Invariant: every ioctl here takes a pointer to a live local `ifreq` or `in6_ifreq`, as the kernel's header says for
// its number (include/uapi/linux/sockios.h), the field of the union that is read is the one that it fills, and the kernel
// keeps no pointer.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::addr::MacAddr;

/// Takes an address away: include/uapi/linux/sockios.h; not in the libc crate.
pub const SIOCDIFADDR: libc::c_ulong = 0x8936;

/// The MTU.
pub fn mtu_of(name: &str) -> io::Result<usize> {
    let mut request = request(name);
    control_call(libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: SIOCGIFMTU filled this field of the union.
    Ok(unsafe { request.ifr_ifru.ifru_mtu }.max(0) as usize)
}

/// The index. Asked over an IPv4 socket: if_nametoindex(3) asks over a UNIX one, which a confined thread does not get.
pub fn index_of(name: &str) -> io::Result<i32> {
    let mut request = request(name);
    control_call(libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: SIOCGIFINDEX filled this field of the union.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

/// The name.
pub fn name_of(index: i32) -> io::Result<String> {
    let mut request = request("");
    request.ifr_ifru.ifru_ifindex = index;
    control_call(libc::SIOCGIFNAME, &mut request)?;
    let name = request.ifr_name.iter().map(|octet| *octet as u8).take_while(|octet| *octet != 0).collect();
    String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// False if somebody has set the interface down, or deleted it.
pub fn is_up(name: &str) -> bool {
    let mut request = request(name);
    // SAFETY: SIOCGIFFLAGS filled this field of the union.
    control_call(libc::SIOCGIFFLAGS, &mut request).is_ok()
        && unsafe { request.ifr_ifru.ifru_flags } & libc::IFF_UP as libc::c_short != 0
}

/// The Ethernet address; `None` for an interface of another kind, such as a tunnel or `lo`.
pub fn ethernet_address(name: &str) -> io::Result<Option<MacAddr>> {
    let mut request = request(name);
    control_call(libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: SIOCGIFHWADDR filled this field of the union.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from as u8;
    }
    Ok((address.sa_family == libc::ARPHRD_ETHER).then_some(MacAddr(mac)))
}

/// Takes away the link-local IPv6 address that the kernel has given an interface by its MAC (RFC 4291, appendix A), before
/// anybody hears of it.
pub(crate) fn forget_link_local(index: i32, MacAddr([a, b, c, d, e, f]): MacAddr) -> io::Result<()> {
    let address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let request =
        libc::in6_ifreq { ifr6_addr: libc::in6_addr { s6_addr: address }, ifr6_prefixlen: 64, ifr6_ifindex: index };
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None)?;
    // SAFETY: on an IPv6 socket it takes a struct in6_ifreq (include/uapi/linux/ipv6.h).
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCDIFADDR, std::ptr::from_ref(&request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(crate) fn request(name: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // Names are checked in the config; a longer one is cut here, with the terminating zero left in place.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

pub(crate) fn control_call(number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: every number passed here takes a struct ifreq.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), number, std::ptr::from_mut(request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_no_ethernet() {
        assert!(mtu_of("lo").unwrap() >= 1500);
        assert_eq!(ethernet_address("lo").unwrap(), None);
        assert!(mtu_of("no-such-one").is_err() && !is_up("no-such-one"));
        assert_eq!(name_of(index_of("lo").unwrap()).unwrap(), "lo");
        assert!(index_of("no-such-one").is_err() && name_of(i32::MAX).is_err());
    }
}
