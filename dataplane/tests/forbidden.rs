//! Where a policy forbids io_uring, a worker runs on system calls and says why.
// A program of its own: the filter is the thread's for good, and that of the threads it starts.
// UNSAFETY: prctl(2) with a filter. Invariant: the kernel copies the program, which is alive during the call.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use ipop_dataplane::event::{Events, Wake};
use ipop_dataplane::feature::EngineChoice;
use ipop_dataplane::forward::GroupMask;
use ipop_dataplane::mac_table::MacTable;
use ipop_dataplane::offloads::Offloads;
use ipop_dataplane::peers::PeerTable;
use ipop_dataplane::port::PortKind;
use ipop_dataplane::underlay;
use ipop_dataplane::worker::{Shared, Waiting, Worker, WorkerConfig};

struct Nobody;
impl Wake for Nobody {
    fn wake(&self) {}
}

/// io_uring_setup(2) says EPERM to this thread and those that it starts, as in many containers.
fn forbid_io_uring() {
    let load_number = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let is_setup = libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_io_uring_setup as u32 };
    let answer = |k| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let mut program =
        [load_number, is_setup, answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32), answer(libc::SECCOMP_RET_ALLOW)];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: see the top of the file.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

fn start(engine: EngineChoice) -> std::io::Result<Worker> {
    let socket = underlay::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let (_, inner) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let (macs, _) = MacTable::new(16, [5, 6]);
    let shared = Shared {
        macs,
        own_mac: Default::default(),
        port_mtu: Arc::default(),
        claims: [].into(),
        events: Arc::new(Events::new(Box::new(Nobody))),
    };
    let config = WorkerConfig {
        lane: 0,
        workers: 1,
        cpu: None,
        port: PortKind::Tap,
        groups: GroupMask::ALL,
        network: 3,
        flood_rate: 1000,
        waiting: Waiting::default(),
        epoch: Instant::now(),
        offloads: Offloads::ALL,
        outer_class: Default::default(),
        raw_ports: Arc::default(),
        engine,
        udp_gso: true,
        zero_copy: true,
    };
    Worker::spawn(config, inner.into(), socket.into(), shared, Arc::new(PeerTable::new(vec![], None)), || Ok(()))
}

#[test]
fn the_reason_is_told() {
    forbid_io_uring();
    let worker = start(EngineChoice::Auto).unwrap();
    assert_eq!(worker.engine.no_io_uring.as_deref(), Some("Operation not permitted"));
    assert_eq!(worker.engine.name(), "system calls");
    let error = start(EngineChoice::IoUring).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "Operation not permitted");
}
