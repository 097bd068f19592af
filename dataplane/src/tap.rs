//! The TAP device: the gateway's port on its bridge.
// UNSAFETY: ioctls, and the address of a packet socket. Invariant: every ioctl here takes a pointer to a live local
// `ifreq` or integer of the type that the kernel's header gives for its number (include/uapi/linux/if_tun.h, sockios.h), and the kernel keeps no pointer.
#![allow(unsafe_code)]

mod drops;
mod super_frames;

pub use super_frames::{UdpTrial, try_on_loopback};

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use nix::errno::Errno;

use crate::addr::MacAddr;
use crate::interface::{self, control_call, request};
use crate::wire::vnet::VNET_HEADER_LEN;
use crate::{PATIENCE, PAUSE};
use drops::Drops;

/// What went wrong with the port, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// `/dev/net/tun` cannot be opened.
    #[error("cannot open /dev/net/tun: {0}; load the module with `modprobe tun`, or give the container this device")]
    NoTun(io::Error),
    /// No CAP_NET_ADMIN.
    #[error("not permitted to create the TAP device '{0}': run as root or with CAP_NET_ADMIN")]
    Permission(String),
    /// Somebody has the name.
    #[error(
        "an interface '{0}' exists already: another ipop runs here, or something else has the name \
         (`ip -d link show {0}` tells, `ip link del {0}` removes it, or choose another \"tap\")"
    )]
    Exists(String),
    /// It was there.
    #[error(
        "the TAP device '{0}' was deleted, and without CAP_NET_ADMIN, which is kept if the config names a \"bridge\", it cannot \
         be made anew: start again"
    )]
    Deleted(String),
    /// The interface that should be a bridge is not there.
    #[error(
        "there is no bridge '{0}': create it (`ip link add {0} type bridge`, or start lxc-net), or leave \"bridge\" out and attach the TAP by hand"
    )]
    NoBridge(String),
    /// It is there but no bridge.
    #[error("'{0}' is not a bridge: \"bridge\" names the Linux bridge that the containers are attached to")]
    NotABridge(String),
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

/// TCP super-frames.
const OFFLOAD_TSO: libc::c_uint = libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// `TUN_F_USO4 | TUN_F_USO6`, UDP super-frames; not in the libc crate. `set_offload()` in drivers/net/tun.c wants both
/// or none.
const OFFLOAD_USO: libc::c_uint = 0x20 | 0x40;
/// Makes an interface a port of a bridge: include/uapi/linux/sockios.h; not in the libc crate.
pub const SIOCBRADDIF: libc::c_ulong = 0x89a2;

/// A TAP device and its queues. The device goes away when the last queue is closed.
#[derive(Debug)]
pub struct Tap {
    /// The name in the config; the device may have another one by now.
    name: String,
    /// 0 before it is there.
    index: i32,
    mac: MacAddr,
    queues: Vec<OwnedFd>,
    /// The offloads that are on, as TUNSETOFFLOAD takes them.
    mask: libc::c_uint,
    /// `None` without a sysfs that shows the device.
    drops: Option<Drops>,
}

impl Tap {
    /// Creates the device with `queues` queues, the offloads that the kernel knows, and a `virtio_net_hdr` in front
    /// of every frame. The device is up but in no bridge.
    ///
    /// Its MAC begins with fe, as libvirt's and LXC's do: a bridge takes the lowest MAC of its ports for itself
    /// (`br_stp_recalculate_bridge_id()`), and must not change it when this port comes.
    pub fn create(name: &str, queues: usize, random: [u8; 5]) -> Result<Tap, TapError> {
        let [a, b, c, d, e] = random;
        let mac = MacAddr([0xfe, a, b, c, d, e]);
        let mut tap = Tap { name: name.to_owned(), index: 0, mac, queues: Vec::new(), mask: 0, drops: None };
        for _ in 0..queues {
            tap.queues.push(tap.open_file()?);
        }
        tap.attach_patiently()?;
        tap.set_offloads(true, true)?;
        tap.set_up_device()?;
        Ok(tap)
    }

    /// True if somebody has deleted the device, or moved it to another network namespace.
    pub fn is_gone(&self) -> bool {
        interface::name_of(self.index).is_err() || !self.queues.iter().all(is_attached)
    }

    /// Makes a device that [is gone](Tap::is_gone) anew, as it was but for its MTU, and in no bridge. Its queues are the same files: the
    /// kernel only detaches them from the device (`tun_detach_all()` in drivers/net/tun.c), so whoever has them goes on with
    /// them. Takes CAP_NET_ADMIN, as [`Tap::create`] does.
    pub fn make_anew(&mut self) -> Result<(), TapError> {
        self.attach()?;
        self.set_mask(self.mask)?;
        self.set_up_device()
    }

    /// The kernel takes a moment to let go of the device of a process that was killed: it ends the ring first.
    fn attach_patiently(&self) -> Result<(), TapError> {
        let begin = Instant::now();
        loop {
            match self.attach() {
                Err(TapError::Exists(_)) if begin.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                result => return result,
            }
        }
    }

    fn open_file(&self) -> Result<OwnedFd, TapError> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
        file.map(OwnedFd::from).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => TapError::Permission(self.name.clone()),
            _ => TapError::NoTun(error),
        })
    }

    /// Attaches each file that has no device; the first creates it.
    fn attach(&self) -> Result<(), TapError> {
        let mut first = !self.queues.iter().any(is_attached);
        for queue in self.queues.iter().filter(|queue| !is_attached(queue)) {
            self.attach_queue(queue, first)?;
            first = false;
        }
        Ok(())
    }

    fn attach_queue(&self, queue: &OwnedFd, first: bool) -> Result<(), TapError> {
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if self.queues.len() > 1 {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        if first {
            // The TAP of a gateway belongs to one process: without this a second one could join a multi-queue device.
            flags |= libc::IFF_TUN_EXCL;
        }
        let mut request = request(&self.name);
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF takes a struct ifreq.
        match Errno::result(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &mut request) }) {
            Err(Errno::EPERM | Errno::EACCES) => return Err(TapError::Permission(self.name.clone())),
            Err(Errno::EBUSY | Errno::EEXIST) => return Err(TapError::Exists(self.name.clone())),
            Err(error) => return Err(self.failed("TUNSETIFF", error.into())),
            Ok(_) => {}
        }
        let (header_len, little_endian): (libc::c_int, libc::c_int) = (VNET_HEADER_LEN as libc::c_int, 1);
        // SAFETY: both take a pointer to an int.
        unsafe {
            self.check("TUNSETVNETHDRSZ", libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ, &header_len))?;
            self.check("TUNSETVNETLE", libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETLE, &little_endian))
        }
    }

    /// What a device that has just been created is told. By the name in the config: nobody has renamed it yet.
    fn set_up_device(&mut self) -> Result<(), TapError> {
        let name = self.name.clone();
        let index = interface::index_of(&name).map_err(|error| self.failed("SIOCGIFINDEX", error))?;
        self.set_mac()?;
        // Nobody asked the port for an address of its own: no link-local one, and no router solicitation. Not
        // an error where the file is missing (a kernel without IPv6). A confined thread may not write it.
        let without = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1");
        self.set_up()?;
        if without.is_err() {
            // It is not there without IPv6, or where the kernel makes addresses in another way.
            let _ = interface::forget_link_local(index, self.mac);
        }
        self.drops = Drops::open(&name, index).ok();
        self.index = index;
        Ok(())
    }

    /// Has the kernel hand over TCP and UDP super-frames, or not; `Ok(false)` if it does not know those of UDP (before Linux 6.2),
    /// which are then off.
    pub fn set_offloads(&mut self, tso: bool, uso: bool) -> Result<bool, TapError> {
        let mask = libc::TUN_F_CSUM | if tso { OFFLOAD_TSO } else { 0 };
        // A mask with a flag that it does not know is refused.
        let known = !uso || self.set_mask(mask | OFFLOAD_USO).is_ok();
        let uso = uso && known;
        if !uso {
            // If it was about anything else, this says so.
            self.set_mask(mask)?;
        }
        self.mask = mask | if uso { OFFLOAD_USO } else { 0 };
        Ok(known)
    }

    /// The mask is the device's, so one queue is enough; every new queue would need it set anew.
    fn set_mask(&self, mask: libc::c_uint) -> Result<(), TapError> {
        let Some(queue) = self.queues.first() else { return Ok(()) };
        // SAFETY: TUNSETOFFLOAD takes the mask by value.
        let result = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) };
        self.check("TUNSETOFFLOAD", result)
    }

    /// The interface's name, which anybody may change.
    pub fn name(&self) -> String {
        interface::name_of(self.index).unwrap_or_else(|_| self.name.clone())
    }

    /// The interface's own MAC address; no frame is ever sent from it.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// One descriptor per worker.
    pub fn queues(&self) -> &[OwnedFd] {
        &self.queues
    }

    /// Sets the MTU: what the bridge may hand to this port.
    pub fn set_mtu(&self, mtu: usize) -> Result<(), TapError> {
        let mut request = self.request();
        request.ifr_ifru.ifru_mtu = mtu as libc::c_int;
        self.interface_call("SIOCSIFMTU", libc::SIOCSIFMTU, &mut request)
    }

    /// The MTU as it is now.
    pub fn mtu(&self) -> Result<usize, TapError> {
        interface::mtu_of(&self.name()).map_err(|error| self.failed("SIOCGIFMTU", error))
    }

    /// Makes the device a port of `bridge`. `Ok(false)` if it is a port of a bridge already.
    pub fn attach_to(&self, bridge: &str) -> Result<bool, TapError> {
        let mut request = request(bridge);
        request.ifr_ifru.ifru_ifindex = self.index;
        match control_call(SIOCBRADDIF, &mut request) {
            Ok(()) => Ok(true),
            Err(e) => match e.raw_os_error() {
                Some(libc::EBUSY) => Ok(false),
                Some(libc::ENODEV) => Err(TapError::NoBridge(bridge.to_owned())),
                Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOTTY) => Err(TapError::NotABridge(bridge.to_owned())),
                _ => Err(self.failed("SIOCBRADDIF", e)),
            },
        }
    }

    /// Frames to the device that the kernel has dropped since the last call, because nobody read them fast enough.
    pub fn kernel_drops(&self) -> u64 {
        self.drops.as_ref().map_or(0, Drops::take)
    }

    /// The bridge that the device is a port of, as sysfs shows it.
    pub fn bridge(&self) -> Option<String> {
        let link = std::fs::read_link(format!("/sys/class/net/{}/master", self.name())).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// The other ports of a bridge, as sysfs shows them.
    pub fn bridge_ports(&self, bridge: &str) -> impl Iterator<Item = String> + '_ {
        let ports = std::fs::read_dir(format!("/sys/class/net/{bridge}/brif")).into_iter().flatten();
        let own = self.name();
        ports.flatten().filter_map(|port| port.file_name().into_string().ok()).filter(move |port| *port != own)
    }

    fn set_mac(&self) -> Result<(), TapError> {
        let mut request = self.request();
        // SAFETY: writing a field of the union; sa_data has 14 octets.
        unsafe {
            request.ifr_ifru.ifru_hwaddr.sa_family = libc::ARPHRD_ETHER;
            for (to, from) in request.ifr_ifru.ifru_hwaddr.sa_data.iter_mut().zip(self.mac.0) {
                *to = from as libc::c_char;
            }
        }
        self.interface_call("SIOCSIFHWADDR", libc::SIOCSIFHWADDR, &mut request)
    }

    /// False if somebody has set the interface down, or deleted it.
    pub fn is_up(&self) -> bool {
        interface::is_up(&self.name())
    }

    fn set_up(&self) -> Result<(), TapError> {
        let mut request = self.request();
        self.interface_call("SIOCGIFFLAGS", libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS filled this field of the union.
        unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
        self.interface_call("SIOCSIFFLAGS", libc::SIOCSIFFLAGS, &mut request)
    }

    fn interface_call(
        &self,
        what: &'static str,
        number: libc::c_ulong,
        request: &mut libc::ifreq,
    ) -> Result<(), TapError> {
        control_call(number, request).map_err(|error| self.failed(what, error))
    }

    fn check(&self, what: &'static str, result: libc::c_int) -> Result<(), TapError> {
        Errno::result(result).map(drop).map_err(|error| self.failed(what, error.into()))
    }

    fn failed(&self, what: &'static str, error: io::Error) -> TapError {
        TapError::Call { what, name: self.name.clone(), error }
    }

    fn request(&self) -> libc::ifreq {
        request(&self.name())
    }
}

impl Drop for Tap {
    /// The device goes with its last descriptor, but the kernel may do that a little later: who waits for this process to
    /// end shall find it gone.
    fn drop(&mut self) {
        if self.queues.is_empty() {
            return; // Never ours.
        }
        self.queues.clear();
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE && interface::name_of(self.index).is_ok() {
            std::thread::sleep(PAUSE);
        }
    }
}

/// True if there is a device behind this file of /dev/net/tun.
fn is_attached(queue: &OwnedFd) -> bool {
    let mut request = request("");
    // SAFETY: TUNGETIFF takes a struct ifreq, and fills name and flags.
    unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNGETIFF, &mut request) >= 0 }
}

/// A packet socket for whole frames of one interface.
pub(crate) fn packet_socket(name: &str) -> io::Result<OwnedFd> {
    let index = interface::index_of(name)?;
    // Protocol 0: nothing is received before it is bound, so nothing of other interfaces is.
    let kind = socket2::Type::RAW.nonblocking().cloexec();
    let socket = socket2::Socket::new(socket2::Domain::PACKET, kind, None)?;
    // SAFETY: the address is a sockaddr_ll, which a sockaddr_storage has room for.
    let ((), address) = unsafe {
        socket2::SockAddr::try_init(|storage, len| {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = index;
            storage.cast::<libc::sockaddr_ll>().write(address);
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    socket.bind(&address)?;
    Ok(socket.into())
}
