use std::fs::File;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::*;

/// Runs `test` on a thread that is confined for it, and for nobody else.
fn confined<T: Send>(role: Role, directory: &std::path::Path, test: impl FnOnce() -> T + Send) -> T {
    let same = user::Decision::take(&crate::config::UserChoice::Same).unwrap();
    let directory = File::open(directory).unwrap();
    thread::scope(|scope| {
        let run = || {
            let features =
                super::thread(&same, role, matches!(role, Role::Control(_)).then(|| directory.as_fd())).unwrap();
            // All but the user, which is kept here.
            assert!(features[1..].iter().all(|feature| feature.state == State::On), "{features:?}");
            test()
        };
        scope.spawn(run).join().unwrap()
    })
}

fn socket_of(family: AddressFamily, kind: SockType) -> nix::Result<()> {
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>).map(drop)
}

#[test]
fn a_worker_has_its_sockets_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let [socket, other] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    socket.connect(other.local_addr().unwrap()).unwrap();
    confined(Role::Worker, dir.path(), || {
        assert_eq!(nix::unistd::write(&socket, b"x"), Ok(1));
        assert_eq!(socket.connect("127.0.0.1:9").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(socket_of(AddressFamily::Inet, SockType::Datagram), Err(Errno::EPERM));
        assert_eq!(File::open("/dev/null").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(nix::sys::ptrace::traceme(), Err(Errno::EPERM));
        assert_eq!(std::process::Command::new("/bin/true").spawn().unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(thread::Builder::new().spawn(|| ()).is_err());
        assert_eq!(vec![1; 8 << 20].iter().sum::<usize>(), 8 << 20, "memory is to be had");
    });
}

#[test]
fn the_log_is_written_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("log")).unwrap();
    confined(Role::Log, dir.path(), || {
        assert_eq!(nix::unistd::write(&file, b"x"), Ok(1));
        let poll = &mut [nix::poll::PollFd::new(file.as_fd(), nix::poll::PollFlags::POLLOUT)];
        assert_eq!(nix::poll::ppoll(poll, None, None), Ok(1));
        assert_eq!(File::open("/dev/null").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(UdpSocket::bind("127.0.0.1:0").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(std::process::Command::new("/bin/true").spawn().unwrap_err().raw_os_error(), Some(libc::EPERM));
    });
}

#[test]
fn the_control_thread_looks_at_interfaces_and_paths_and_removes_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    for dir in [&dir, &elsewhere] {
        std::fs::write(dir.path().join("ipop.sock"), "").unwrap();
    }
    let remove = |dir: &File| nix::unistd::unlinkat(dir, "ipop.sock", nix::unistd::UnlinkatFlags::NoRemoveDir);
    let [here, there] = [&dir, &elsewhere].map(|dir| File::open(dir.path()).unwrap());
    let address = |text: &str| text.parse().unwrap();
    confined(Role::Control(Keeps::Bridge), dir.path(), || {
        assert!(ipop_dataplane::interface::mtu_of("lo").unwrap() >= 1500);
        let index = ipop_dataplane::interface::index_of("lo").unwrap();
        assert_eq!(ipop_dataplane::interface::name_of(index).unwrap(), "lo");
        let payload = ipop_dataplane::underlay::path_payload(address("127.0.0.1:0"), address("127.0.0.1:9")).unwrap();
        assert!(payload > 1200);
        let keep = CapabilitySet::NET_ADMIN;
        assert!(rustix::thread::capabilities(None).is_ok_and(|sets| keep.contains(sets.permitted | sets.inheritable)));
        assert!(std::fs::read_dir("/sys/class/net/lo/").unwrap().count() > 0);
        assert_eq!((remove(&there), remove(&here)), (Err(Errno::EACCES), Ok(())));
        assert_eq!(File::open("/proc/self/maps").unwrap_err().raw_os_error(), Some(libc::EACCES));
        assert_eq!(File::create(dir.path().join("new")).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(socket_of(AddressFamily::Unix, SockType::Datagram), Err(Errno::EPERM));
        assert_eq!(UnixStream::connect("/run/somebody").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(socket_of(AddressFamily::Netlink, SockType::Raw), Err(Errno::EPERM));
        assert_eq!(socket_of(AddressFamily::Packet, SockType::Datagram), Err(Errno::EPERM));
        assert_eq!(TcpStream::connect("127.0.0.1:9").unwrap_err().raw_os_error(), Some(libc::EPERM));
    });
}
