//! Opens an io_uring with what this kernel has of it.
//!
//! Needed are SENDMSG, WRITEV, READ, multishot RECVMSG (Linux 6.0) and provided-buffer rings (5.19): without one of them there is
//! no io_uring for us. Multishot READ (6.7) and deferred task work (6.1) only make it faster. The opcodes are looked up;
//! multishot is a flag that no probe lists, so it is tried on a socket pair.
//!
//! No seccomp filter sees what is asked of a ring, so the ring has a list of its own: once it is set up it takes the opcodes
//! that a worker uses, on the registered files, and nothing else.
// UNSAFETY: as in `mod.rs`. Invariant: buffers and message header of the trial live in `try_multishot` until the requests
// on them are cancelled, which is waited for.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::register::Restriction;
use io_uring::types::{CancelBuilder, Fd};
use io_uring::{IoUring, Probe, opcode, squeue};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};

use super::pool::{BufferPool, Layout};
use super::{CONTROL_LEN, CQ_ENTRIES, NAME_LEN, SQ_ENTRIES, back_to_back, one_each};
use crate::feature::{Feature, State, words};

/// Name of the feature that [`super::Ring`] asks for.
pub(super) const MULTISHOT_READ: &str = "multishot_read";
const DEFERRED_TASK_WORK: &str = "deferred_task_work";

const BACK_TO_BACK_BUFFERS: &str = "back_to_back";
/// Name of the feature that says what the ring is kept from.
const RESTRICTIONS: &str = "ring_restrictions";

/// A ring and its buffers.
pub(super) struct Opened {
    pub(super) io: IoUring,
    pub(super) pools: [BufferPool; 2],
    /// What could be missing.
    pub(super) features: Vec<Feature>,
    /// Zero-copy sends can be asked for.
    pub(super) zero_copy: State,
}

/// A ring over `files` with a pool of buffers for each group and its largest message, or what is missing for good.
pub(super) fn open(files: &[RawFd], groups: [(u16, usize); 2]) -> Result<Opened, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {}", words(&error));
    let (io, deferred) = set_up(SQ_ENTRIES, CQ_ENTRIES, Begin::Disabled).map_err(|error| words(&error))?;
    let mut probe = Probe::new();
    io.submitter().register_probe(&mut probe).map_err(failed("IORING_REGISTER_PROBE"))?;
    for (code, name) in [
        (opcode::SendMsg::CODE, "SENDMSG"),
        (opcode::RecvMsg::CODE, "RECVMSG"),
        (opcode::Writev::CODE, "WRITEV"),
        (opcode::Read::CODE, "READ"),
    ] {
        if !probe.is_supported(code) {
            return Err(format!("this kernel's has no {name}"));
        }
    }
    let make = |layout: fn(usize) -> Layout| -> io::Result<[BufferPool; 2]> {
        let [first, second] = groups.map(|(_, largest)| BufferPool::new(layout(largest)));
        let pools = [first?, second?];
        for (pool, (group, _)) in pools.iter().zip(groups) {
            register(&io, group, pool)?;
        }
        Ok(pools)
    };
    let (pools, back_to_back) = match make(back_to_back) {
        Ok(pools) => (pools, State::On),
        // An unknown flag, or a field that should be zero.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            (make(one_each).map_err(failed("provided buffers"))?, State::Off(words(&error)))
        }
        Err(error) => return Err(failed("provided buffers")(error)),
    };
    try_multishot(Multishot::Receive).map_err(failed("multishot RECVMSG"))?;
    let read = match probe.is_supported(opcode::ReadMulti::CODE) {
        true => try_multishot(Multishot::Read).map_or_else(|error| State::Off(words(&error)), |()| State::On),
        false => State::Off("not in this kernel".to_owned()),
    };
    // Last: while the kernel ends a ring, in the background, it holds the files.
    io.submitter().register_files(files).map_err(failed("registered files"))?;
    let restrictions = restrict(&io).map_or_else(|error| State::Off(words(&error)), |()| State::On);
    io.submitter().register_enable_rings().map_err(failed("IORING_REGISTER_ENABLE_RINGS"))?;
    let features = vec![
        Feature::new(MULTISHOT_READ, read),
        Feature::new(BACK_TO_BACK_BUFFERS, back_to_back),
        Feature::new(DEFERRED_TASK_WORK, deferred),
        Feature::new(RESTRICTIONS, restrictions),
    ];
    // Whether it is of use is seen on each path. It came with 6.1, and the report of what it did with 6.2; a kernel in
    // between refuses the trial, and is sent to with copies.
    let zero_copy = match probe.is_supported(opcode::SendMsgZc::CODE) {
        true => State::On,
        false => State::Off("not in this kernel".to_owned()),
    };
    Ok(Opened { io, pools, features, zero_copy })
}

/// `struct io_uring_buf_reg` as of Linux 6.18 (include/uapi/linux/io_uring.h); the crate does not know `min_left`.
#[repr(C)]
struct BufferRegistration {
    address: u64,
    entries: u32,
    group: u16,
    flags: u16,
    min_left: u32,
    reserved: [u32; 5],
}

fn register(io: &IoUring, group: u16, pool: &BufferPool) -> io::Result<()> {
    // include/uapi/linux/io_uring.h
    const IORING_REGISTER_PBUF_RING: libc::c_uint = 22;
    const IOU_PBUF_RING_INC: u16 = 2;
    let Layout { count, min_left, .. } = pool.layout();
    let registration = BufferRegistration {
        address: pool.address(),
        entries: u32::from(count),
        group,
        flags: if min_left > 0 { IOU_PBUF_RING_INC } else { 0 },
        min_left: min_left as u32,
        reserved: [0; 5],
    };
    // SAFETY: the kernel reads one such struct; the address is that of a live page-aligned map of so many entries, owned
    // by the pool, which stands beside the ring and is dropped after it.
    let result = unsafe {
        let (fd, registration) = (io.as_raw_fd(), std::ptr::from_ref(&registration));
        libc::syscall(libc::SYS_io_uring_register, fd, IORING_REGISTER_PBUF_RING, registration, 1)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps a ring that is not enabled yet to what a worker asks of it: its opcodes, on registered files only, and of what can
/// be registered only what ends a ring (`Ring::drop`). Nothing lifts this again (io_uring_register(2)).
fn restrict(io: &IoUring) -> io::Result<()> {
    // include/uapi/linux/io_uring.h
    const IORING_UNREGISTER_FILES: u8 = 3;
    const IORING_REGISTER_SYNC_CANCEL: u8 = 24;
    let (fixed, select) = (squeue::Flags::FIXED_FILE.bits(), squeue::Flags::BUFFER_SELECT.bits());
    let opcodes = [
        opcode::SendMsg::CODE,
        opcode::SendMsgZc::CODE,
        opcode::RecvMsg::CODE,
        opcode::Writev::CODE,
        opcode::Read::CODE,
        opcode::ReadMulti::CODE,
    ];
    // The kernel refuses a list with an opcode that it does not know.
    let mut probe = Probe::new();
    io.submitter().register_probe(&mut probe)?;
    let mut list: Vec<Restriction> =
        opcodes.into_iter().filter(|code| probe.is_supported(*code)).map(Restriction::sqe_op).collect();
    list.extend([
        Restriction::register_op(IORING_UNREGISTER_FILES),
        Restriction::register_op(IORING_REGISTER_SYNC_CANCEL),
        Restriction::sqe_flags_allowed(fixed | select),
        Restriction::sqe_flags_required(fixed),
    ]);
    io.submitter().register_restrictions(&mut list)
}

/// Whether a ring takes requests from the start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    Enabled,
    /// Only then can it be restricted.
    Disabled,
}

/// A ring that runs the completions' work when they are waited for, if the kernel can.
fn set_up(sq_entries: u32, cq_entries: u32, begin: Begin) -> io::Result<(IoUring, State)> {
    let builder = || {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(cq_entries);
        if begin == Begin::Disabled {
            builder.setup_r_disabled();
        }
        builder
    };
    let mut deferred = builder();
    // The flag in shared memory says that there is work, so looking for it takes no system call.
    deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    match deferred.build(sq_entries) {
        // An unknown flag.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Ok((builder().build(sq_entries)?, State::Off(words(&error))))
        }
        result => Ok((result?, State::On)),
    }
}

#[derive(Clone, Copy)]
enum Multishot {
    Receive,
    Read,
}

/// Reads one datagram from a socket pair. On a ring of its own, so that nothing of it can turn up later.
fn try_multishot(what: Multishot) -> io::Result<()> {
    const GROUP: u16 = 0;
    const OCTETS: &[u8] = b"trial";
    let (near, far) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_NONBLOCK)?;
    send(far.as_raw_fd(), OCTETS, MsgFlags::empty())?;
    let pool = BufferPool::new(Layout { count: 2, len: 512, min_left: 0 })?;
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_namelen, message.msg_controllen) = (NAME_LEN as u32, CONTROL_LEN);
    let (mut io, _) = set_up(4, 8, Begin::Enabled)?;
    register(&io, GROUP, &pool)?;
    let fd = Fd(near.as_raw_fd());
    let entry: squeue::Entry = match what {
        Multishot::Receive => opcode::RecvMsgMulti::new(fd, &message, GROUP).build(),
        Multishot::Read => opcode::ReadMulti::new(fd, 0, GROUP).build(),
    };
    // SAFETY: message and pool outlive the request, which is cancelled below.
    unsafe { io.submission().push(&entry) }.map_err(io::Error::other)?;
    let waited = io.submit_and_wait(1);
    let first = io.completion().next();
    let _ = io.submitter().register_sync_cancel(None, CancelBuilder::any());
    waited?;
    match first.map(|entry| entry.result()) {
        Some(len) if len >= OCTETS.len() as i32 => Ok(()),
        Some(len) if len >= 0 => Err(io::Error::other(format!("{len} octets were read instead of {}", OCTETS.len()))),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("no completion came")),
    }
}

#[cfg(test)]
mod tests {
    use io_uring::types::Fixed;

    use super::*;
    use crate::ring::{MAX_MESSAGE, MAX_PACKET_MESSAGE};

    const GROUPS: [(u16, usize); 2] = [(0, MAX_PACKET_MESSAGE), (1, MAX_MESSAGE)];

    /// These run where io_uring works, as here it must for the rest of the product to be tested.
    #[test]
    fn what_multishot_brings_is_seen() {
        for what in [Multishot::Receive, Multishot::Read] {
            try_multishot(what).unwrap();
        }
    }

    #[test]
    fn all_is_there() {
        let (near, far) = std::os::unix::net::UnixDatagram::pair().unwrap();
        far.send(b"trial").unwrap();
        let mut opened = open(&[near.as_raw_fd()], GROUPS).unwrap();
        assert!(opened.features.iter().all(|feature| feature.state == State::On), "{:?}", opened.features);
        assert_eq!(opened.zero_copy, State::On);
        only_what_a_worker_needs(&mut opened.io, near.as_raw_fd());
        // A descriptor that is none.
        let error = open(&[i32::MAX], GROUPS).map(|_| ()).unwrap_err();
        assert_eq!(error, "registered files: Bad file descriptor");
    }

    /// A registered file can be read; nothing can be done to any other, no other opcode runs, nothing new is registered.
    fn only_what_a_worker_needs(io: &mut IoUring, fd: RawFd) {
        let mut buffer = [0; 8];
        let [read, direct] = [opcode::Read::new(Fixed(0), buffer.as_mut_ptr(), 8).build(), {
            opcode::Read::new(Fd(fd), buffer.as_mut_ptr(), 8).build()
        }];
        let connect = opcode::Connect::new(Fixed(0), std::ptr::null(), 0).build();
        let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/dev/null".as_ptr()).build();
        for (entry, expected) in [
            (read, 5),
            (direct, -libc::EACCES),
            (connect, -libc::EACCES),
            (open, -libc::EACCES),
            (opcode::Nop::new().build(), -libc::EACCES),
        ] {
            // SAFETY: what the entry points to outlives its completion, which is waited for.
            unsafe { io.submission().push(&entry) }.unwrap();
            io.submit_and_wait(1).unwrap();
            assert_eq!(io.completion().next().unwrap().result(), expected, "{entry:?}");
        }
        let error = io.submitter().register_personality().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        assert!(io.submitter().unregister_files().is_ok());
    }
}
