//! Zero-copy sends (`IORING_OP_SENDMSG_ZC`), by evidence: only to peers whose path has been seen not to copy.
//!
//! What is sent so is read by the network card itself, unless something on the way copies it after all: veth, loopback and
//! TAP do (`skb_orphan_frags()`), and so does a card without scatter-gather. Then a zero-copy send costs more than a
//! plain one. Nobody can tell in advance; but the kernel tells afterwards, with the notification that it needs the octets
//! no more (`IORING_SEND_ZC_REPORT_USAGE`). So now and then one train is sent as a trial, and what came of it decides
//! about those that follow.

use std::io;

use crate::addr::PeerId;
use crate::feature::words;

/// include/uapi/linux/io_uring.h
pub(super) const IORING_SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
const IORING_NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31;

/// Pages that one send may be gathered from: `MAX_SKB_FRAGS`, which is 17 unless the kernel was built with more.
const MAX_PIECES: usize = 17;
/// Smaller trains are copied: to pin pages and to be told that they are free takes longer than to copy a few of them
/// (perf/results/2026-11-22-zero-copy.txt).
const LEAST: usize = 32 * 1024;
/// A path that copies is tried again after this time: routes change.
const AGAIN_MS: u64 = 60_000;

/// What is known of the path to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// No train was large enough, and in few enough pieces, yet.
    Untried,
    /// The kernel refused with this error, at this time in milliseconds of the gateway's clock.
    Refused(u16, u64),
    /// The kernel copied, when it was tried at this time.
    Copied(u64),
    /// A trial is under way.
    Trying,
    /// The kernel does not copy: large trains are sent so.
    On,
}

impl Path {
    /// As one word, never 0 but for [`Path::Untried`].
    pub fn pack(self) -> u64 {
        match self {
            Path::Untried => 0,
            Path::Trying => 1,
            Path::On => 2,
            Path::Copied(at_ms) => 3 | at_ms << 16,
            Path::Refused(errno, at_ms) => 4 | (u64::from(errno) & 0xfff) << 4 | at_ms << 16,
        }
    }

    /// For people, at this time.
    pub fn describe(self, now_ms: u64) -> String {
        let ago = |at_ms: u64| now_ms.saturating_sub(at_ms) / 1000;
        match self {
            Path::Untried => "not tried".to_owned(),
            Path::Refused(errno, at_ms) => {
                let error = words(&io::Error::from_raw_os_error(errno.into()));
                format!("off ({error}, tried {} s ago)", ago(at_ms))
            }
            Path::Copied(at_ms) => format!("off (the kernel copied, tried {} s ago)", ago(at_ms)),
            Path::Trying => "is being tried".to_owned(),
            Path::On => "on".to_owned(),
        }
    }

    /// What [`Path::pack`] made.
    pub fn unpack(word: u64) -> Path {
        match word & 0xf {
            0 => Path::Untried,
            1 => Path::Trying,
            2 => Path::On,
            3 => Path::Copied(word >> 16),
            _ => Path::Refused((word >> 4 & 0xfff) as u16, word >> 16),
        }
    }
}

/// How a train is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Copy,
    ZeroCopy,
    /// Without a copy, and at once, so that it can be repeated before another train to the peer leaves.
    Trial,
}

/// The paths to all peers.
pub(crate) struct ZeroCopy {
    /// Empty if the kernel cannot, or shall not.
    paths: Vec<Path>,
    /// What has changed since it was last asked for.
    changed: Vec<PeerId>,
    /// The worker's clock, as of this batch.
    pub(crate) now_ms: u64,
}

impl ZeroCopy {
    /// For so many peers; 0 to copy always.
    pub(super) fn new(peers: usize) -> ZeroCopy {
        ZeroCopy { paths: vec![Path::Untried; peers], changed: Vec::with_capacity(peers), now_ms: 0 }
    }

    /// How to send a train of `len` octets; `pieces` counts the pages that it lies in.
    pub(super) fn way(&mut self, peer: PeerId, len: usize, pieces: impl FnOnce() -> usize) -> Way {
        let Some(path) = self.paths.get(peer.index()) else { return Way::Copy };
        let way = match *path {
            Path::On => Way::ZeroCopy,
            Path::Untried => Way::Trial,
            Path::Copied(at_ms) | Path::Refused(_, at_ms) if self.now_ms >= at_ms + AGAIN_MS => Way::Trial,
            _ => return Way::Copy,
        };
        if len < LEAST || pieces() > MAX_PIECES {
            return Way::Copy;
        }
        if way == Way::Trial {
            self.set(peer, Path::Trying);
        }
        way
    }

    /// The kernel has not taken a train: then it says "copied" too, which means nothing.
    pub(super) fn refused(&mut self, peer: PeerId, errno: i32) {
        self.set(peer, Path::Refused(errno as u16, self.now_ms));
    }

    /// The kernel needs the octets no more, and says whether it has copied them.
    pub(super) fn notified(&mut self, peer: PeerId, usage: i32) {
        let copied = usage as u32 & IORING_NOTIF_USAGE_ZC_COPIED != 0;
        match self.paths.get(peer.index()) {
            Some(Path::Trying) if !copied => self.set(peer, Path::On),
            Some(Path::Trying | Path::On) if copied => self.set(peer, Path::Copied(self.now_ms)),
            _ => {}
        }
    }

    fn set(&mut self, peer: PeerId, path: Path) {
        if let Some(place) = self.paths.get_mut(peer.index()) {
            *place = path;
            if !self.changed.contains(&peer) {
                self.changed.push(peer);
            }
        }
    }

    /// What is known by now of the paths on which something has changed.
    pub(crate) fn changes(&mut self) -> impl Iterator<Item = (PeerId, Path)> + '_ {
        self.changed.drain(..).map(|peer| (peer, self.paths[peer.index()]))
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::feature::EngineChoice;
    use crate::port::PortKind;
    use crate::ring::queue::{Completion, Token};
    use crate::ring::{Files, Ring, Setup};

    const PEER: PeerId = PeerId(1);
    const COPIED: i32 = IORING_NOTIF_USAGE_ZC_COPIED as i32;
    const LARGE: usize = 64_000;

    #[test]
    fn a_path_survives_as_a_word() {
        let paths = [Path::Untried, Path::Trying, Path::On, Path::Copied(1 << 40), Path::Refused(90, 77)];
        assert_eq!(paths.map(|path| Path::unpack(path.pack())), paths);
        assert_eq!(Path::Copied(3000).describe(15_100), "off (the kernel copied, tried 12 s ago)");
        assert_eq!(Path::Refused(90, 3000).describe(4000), "off (Message too long, tried 1 s ago)");
    }

    #[test]
    fn one_trial_decides_until_it_is_repeated() {
        let mut zero_copy = ZeroCopy::new(2);
        let way = |zero_copy: &mut ZeroCopy, len| zero_copy.way(PEER, len, || 16);
        assert_eq!(way(&mut zero_copy, LEAST - 1), Way::Copy);
        assert_eq!(zero_copy.way(PEER, LARGE, || MAX_PIECES + 1), Way::Copy);
        assert_eq!([(); 2].map(|()| way(&mut zero_copy, LARGE)), [Way::Trial, Way::Copy], "one at a time");
        zero_copy.notified(PEER, COPIED);
        assert_eq!(zero_copy.changes().collect::<Vec<_>>(), [(PEER, Path::Copied(0))]);
        zero_copy.now_ms = AGAIN_MS - 1;
        assert_eq!(way(&mut zero_copy, LARGE), Way::Copy);
        zero_copy.now_ms = AGAIN_MS;
        assert_eq!(way(&mut zero_copy, LARGE), Way::Trial);
        zero_copy.notified(PEER, 0);
        assert_eq!([LEAST - 1, LEAST].map(|len| way(&mut zero_copy, len)), [Way::Copy, Way::ZeroCopy]);
        // A route may change at any time.
        zero_copy.notified(PEER, COPIED);
        assert_eq!(way(&mut zero_copy, LARGE), Way::Copy);
        assert_eq!(zero_copy.changes().collect::<Vec<_>>(), [(PEER, Path::Copied(AGAIN_MS))]);
        // What the kernel has not even taken it calls copied.
        zero_copy.now_ms = 2 * AGAIN_MS;
        assert_eq!(way(&mut zero_copy, LARGE), Way::Trial);
        zero_copy.refused(PEER, libc::EMSGSIZE);
        zero_copy.notified(PEER, COPIED);
        assert_eq!(zero_copy.paths[1], Path::Refused(libc::EMSGSIZE as u16, 2 * AGAIN_MS));
        assert_eq!(zero_copy.paths[0], Path::Untried);
        assert_eq!(ZeroCopy::new(0).way(PEER, LARGE, || 1), Way::Copy);
    }

    /// A ring, with the socket that it sends to. The others keep it alive.
    fn ring() -> (Ring, UdpSocket, impl Sized) {
        let (port, end) = UnixDatagram::pair().unwrap();
        let [near, far] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        far.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let wake = nix::sys::eventfd::EventFd::new().unwrap();
        let choice = EngineChoice::IoUring;
        let setup =
            Setup { port: PortKind::Tap, waiting: Default::default(), choice, gso: true, zero_copy: true, peers: 2 };
        let files = Files { port: port.as_fd(), underlay: near.as_fd(), wake: wake.as_fd(), sources: Vec::new() };
        let ring = Ring::new(files, setup).unwrap();
        (ring, far, (port, end, near, wake))
    }

    /// Sends a train of datagrams of 1000 octets that all begin with `mark`.
    fn send(ring: &mut Ring, far: std::net::SocketAddr, len: usize, mark: u8) {
        let mut sender = ring.sender();
        let id = sender.slots.take().unwrap();
        let slot = sender.slots.get(&id);
        slot.peer = PEER;
        slot.append_own(len).fill(mark);
        sender.send(id, far, Some(1000)).unwrap();
    }

    /// Over the loopback, which copies: the trial arrives, in its place, and the train after the trial is a plain one.
    #[test]
    fn the_kernel_tells_that_the_loopback_copies() {
        let (mut ring, far, _files) = ring();
        let to = far.local_addr().unwrap();
        let slots = ring.free_sends();
        for (mark, len) in [(1, 3000), (2, LARGE), (3, 3000)] {
            send(&mut ring, to, len, mark);
        }
        let mut marks = Vec::new();
        while marks.len() < 70 {
            ring.submit().unwrap();
            let mut datagram = [0; 2000];
            assert_eq!(far.recv(&mut datagram).unwrap(), 1000);
            marks.push(datagram[0]);
        }
        assert_eq!(marks, [vec![1; 3], vec![2; 64], vec![3; 3]].concat());
        while ring.free_sends() < slots {
            ring.submit().unwrap();
        }
        assert_eq!(ring.zero_copy.changes().collect::<Vec<_>>(), [(PEER, Path::Copied(0))]);
        assert!(ring.refusals().next().is_none());
    }

    /// Datagrams of 1000 octets to nobody's port 0 are refused either way: once by the trial, once by the repetition.
    #[test]
    fn a_refused_trial_is_repeated_and_counted_once() {
        let (mut ring, _far, _files) = ring();
        let slots = ring.free_sends();
        send(&mut ring, "127.0.0.1:0".parse().unwrap(), LARGE, 1);
        while ring.free_sends() < slots {
            ring.submit().unwrap();
        }
        assert_eq!(ring.refusals().map(|refusal| refusal.errno).collect::<Vec<_>>(), [libc::EINVAL]);
        let changes: Vec<_> = ring.zero_copy.changes().collect();
        assert_eq!(changes, [(PEER, Path::Refused(libc::EINVAL as u16, 0))]);
    }

    /// While the kernel looks for a neighbour it keeps what is to be sent to it, without a copy. The ring ends meanwhile, and
    /// others use memory of the same size; but what leaves then is what was sent.
    #[test]
    fn what_the_kernel_keeps_outlives_the_ring() {
        let alone = std::thread::spawn(|| {
            let ip = |words: &str| {
                let done = std::process::Command::new("ip").args(words.split(' ')).status();
                done.is_ok_and(|status| status.success())
            };
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err()
                || !ip("link add d0 type veth peer name d1")
            {
                return eprintln!("not run: no network namespace of its own");
            }
            // Nobody answers at d1, which has no address.
            for words in ["link set d1 up", "address add 10.98.0.1/24 dev d0", "link set d0 up"] {
                assert!(ip(words), "{words}");
            }
            let near = UdpSocket::bind("10.98.0.1:0").unwrap();
            let sniffer = crate::tap::packet_socket("d1").unwrap();
            let (port, _end) = UnixDatagram::pair().unwrap();
            let wake = nix::sys::eventfd::EventFd::new().unwrap();
            let choice = EngineChoice::IoUring;
            let setup = Setup {
                port: PortKind::Tap,
                waiting: Default::default(),
                choice,
                gso: true,
                zero_copy: true,
                peers: 2,
            };
            let files = Files { port: port.as_fd(), underlay: near.as_fd(), wake: wake.as_fd(), sources: Vec::new() };
            let mut ring = Ring::new(files, setup).unwrap();
            send(&mut ring, "10.98.0.2:5800".parse().unwrap(), LARGE, 0x77);
            ring.submit().unwrap();
            if ring.unnotified == 0 {
                return eprintln!("not run: this kernel does not keep it: {:?}", ring.zero_copy.paths);
            }
            drop(ring);
            // As somebody does who allocates what was freed.
            let others: Vec<_> = (0..200).map(|_| vec![0xee_u8; crate::ring::slots::MAX_TRAIN]).collect();
            assert!(ip("neighbour replace 10.98.0.2 lladdr 02:00:00:00:00:09 dev d0"));
            let mut seen = 0;
            let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
            let mut frame = vec![0; 70_000];
            while seen < LARGE && std::time::Instant::now() < end {
                match nix::unistd::read(&sniffer, &mut frame) {
                    // Behind Ethernet, IP and UDP: a train, or one datagram of it.
                    Ok(len) if frame[12..14] == [8, 0] && frame[23] == 17 => {
                        assert!(frame[42..len].iter().all(|octet| *octet == 0x77), "octets of somebody else left");
                        seen += len - 42;
                    }
                    Ok(_) => {}
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
                }
            }
            // Unless it had given the neighbour up.
            assert!(seen == 0 || seen == LARGE, "{seen}");
            drop(others);
        });
        alone.join().unwrap();
    }

    #[test]
    fn a_slot_is_the_kernels_until_the_notification() {
        let (mut ring, _far, _files) = ring();
        let slots = ring.free_sends();
        let id = ring.sends.take().unwrap();
        let (number, slot) = ring.sends.lend(id);
        slot.peer = PEER;
        slot.append_copy(&[7; 100]);
        let sent = Completion { more: true, ..Completion::of(Token::Send(number), 100) };
        ring.complete(sent).unwrap();
        assert_eq!(ring.free_sends(), slots - 1);
        assert_eq!(ring.sends.lend(ring.sends.returned(number)).1.len, 100, "it was not cleared");
        ring.complete(Completion { notification: true, ..Completion::of(Token::Send(number), 0) }).unwrap();
        assert_eq!(ring.free_sends(), slots);
    }
}
