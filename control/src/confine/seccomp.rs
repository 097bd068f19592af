//! seccomp: the system calls that a thread makes after its start, and no other.
//!
//! The lists are those of both engines and of glibc and musl. Another call fails with EPERM, rather than ending the process: no list
//! is complete for every C library that will come, a call that fails is dealt with where any failing call is, and a gateway
//! that is killed takes a segment down. Whoever has taken over a thread gains nothing from trying again.

use std::collections::BTreeMap;
use std::io;

use libc::{c_int, c_long, c_ulong};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::{Keeps, Role};

/// What any thread may: its frames, its memory, its end.
const BOTH: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    // abort(3) and tgkill(2) are how a program ends that has found itself broken.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Engines. What is asked of a ring is restricted by the ring itself.
const WORKER: &[c_long] =
    &[libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_recvmmsg, libc::SYS_sendmmsg];

/// Questions to the kernel's tables, over sockets that are open.
const ROUTES: &[c_long] = &[libc::SYS_recvfrom, libc::SYS_sendto];

/// Events, clients of the control socket, and what is asked of the system once in a while.
const CONTROL: &[c_long] = &[
    libc::SYS_accept4,
    // A socket that asks for the MTU of a path.
    libc::SYS_bind,
    libc::SYS_capget,
    libc::SYS_connect,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_geteuid,
    libc::SYS_getdents64,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_newfstatat,
    // Statistics of the port, from a file that is open already.
    libc::SYS_pread64,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// What is asked of interfaces.
const LOOK: &[c_ulong] = &[
    libc::SIOCGIFFLAGS,
    libc::SIOCGIFHWADDR,
    libc::SIOCGIFINDEX,
    libc::SIOCGIFMTU,
    libc::SIOCGIFNAME,
    libc::TUNGETIFF as c_ulong,
];
/// What keeps the port in its bridge, and makes a TAP anew that was deleted.
const CHANGE: &[c_ulong] = &[
    ipop_dataplane::tap::SIOCBRADDIF,
    ipop_dataplane::interface::SIOCDIFADDR,
    libc::SIOCSIFFLAGS,
    libc::SIOCSIFHWADDR,
    libc::SIOCSIFMTU,
    libc::TUNSETIFF as c_ulong,
    libc::TUNSETOFFLOAD as c_ulong,
    libc::TUNSETVNETHDRSZ as c_ulong,
    libc::TUNSETVNETLE as c_ulong,
];
/// What makes packet sockets take an interface that has come late, or was made anew.
const TAKE: &[(c_int, c_int)] = &[
    (libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP),
    (libc::SOL_PACKET, libc::PACKET_FANOUT),
    (libc::SOL_SOCKET, libc::SO_DETACH_FILTER),
];

/// Puts the calling thread behind its filter.
pub(super) fn install(role: Role) -> io::Result<()> {
    let program = program(role).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(|error| match error {
        Error::Prctl(error) | Error::Seccomp(error) => error,
        error => io::Error::other(error),
    })
}

fn program(role: Role) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    let always = |calls: &[c_long]| calls.iter().map(|call| (*call, Vec::new())).collect::<Vec<_>>();
    rules.extend(always(BOTH));
    // Memory, but none that can be run.
    let not_executable = masked(2, libc::PROT_EXEC as u64, 0)?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![not_executable.clone()])?]);
    }
    match role {
        Role::Worker => rules.extend(always(WORKER)),
        Role::Log => {}
        Role::Routes => rules.extend(always(ROUTES)),
        Role::Control(keeps) => {
            rules.extend(always(CONTROL));
            // Nothing is written or created by opening it.
            let flags = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
            rules.insert(libc::SYS_openat, vec![SeccompRule::new(vec![masked(2, flags, libc::O_RDONLY as u64)?])?]);
            // No UNIX sockets: any service of the system that listens on one could be written to.
            let datagrams = |family: c_int| {
                let kind = masked(1, 0xf, libc::SOCK_DGRAM as u64)?;
                SeccompRule::new(vec![equal(0, family as u64)?, kind])
            };
            let families = [libc::AF_INET, libc::AF_INET6].map(datagrams);
            rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
            let requests = LOOK.iter().chain(if keeps == Keeps::Bridge { CHANGE } else { &[] });
            let requests = requests.map(|request| SeccompRule::new(vec![equal(1, *request)?]));
            rules.insert(libc::SYS_ioctl, requests.collect::<Result<_, _>>()?);
            if keeps == Keeps::Interface {
                let options = TAKE
                    .iter()
                    .map(|(level, name)| SeccompRule::new(vec![equal(1, *level as u64)?, equal(2, *name as u64)?]));
                rules.insert(libc::SYS_setsockopt, options.collect::<Result<_, _>>()?);
            }
        }
    }
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?.try_into()
}

fn equal(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}
