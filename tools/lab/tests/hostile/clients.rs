//! Clients of the control socket that ask without end, that do not read, and that come when there are no descriptors left.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipop_lab::arp::BROADCAST;
use ipop_lab::{Cmd, Daemon};
use libtest_mimic::Failed;

use super::kit::{Outcome, Scene, ensure, pause, until};
use super::talk::{Talk, all_answer, data};

const STATUS: &str = "{\"command\":\"status\"}\n";
const MACS: &str = "{\"command\":\"macs\"}\n";

/// Eight clients ask for the status as fast as they are answered, with many requests ahead, and guests go on finding each
/// other.
pub(crate) fn pipelining() -> Outcome {
    let scene = Scene::pair()?;
    let a1 = scene.container(0, "a1", &["10.0.3.11/24"])?;
    let (_b1, new) = scene.with_more(1, "b1", "10.0.3.21/24", 121, 9)?;
    a1.ping("10.0.3.21", 1)?;
    let crowd = Crowd::start(&scene.daemons[0], 8)?;
    pause(500)?;
    let found = all_answer(&a1, &new, "beside clients that pipeline");
    let rate = crowd.stop()?;
    println!("clients got {rate:.0} answers per second");
    found?;
    ensure(rate > 8.0, format!("clients got only {rate:.1} answers per second"))
}

/// Clients that ask for the status as fast as they are answered, with many requests ahead.
pub(crate) struct Crowd {
    clients: Vec<UnixStream>,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<u64>>,
    begin: Instant,
}

impl Crowd {
    pub(crate) fn start(daemon: &Daemon, number: usize) -> Result<Crowd, Failed> {
        let (mut writers, mut readers, mut clients) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..number {
            let client = UnixStream::connect(daemon.socket())?;
            let (mut writing, mut reading) = (client.try_clone()?, client.try_clone()?);
            writers.push(thread::spawn(move || {
                let requests = STATUS.repeat(50);
                while writing.write_all(requests.as_bytes()).is_ok() {}
            }));
            readers.push(thread::spawn(move || {
                let (mut chunk, mut answers) = (vec![0; 1 << 16], 0);
                while let Ok(count @ 1..) = reading.read(&mut chunk) {
                    answers += chunk[..count].iter().filter(|octet| **octet == b'\n').count() as u64;
                }
                answers
            }));
            clients.push(client);
        }
        Ok(Crowd { clients, writers, readers, begin: Instant::now() })
    }

    /// How many answers per second they got.
    pub(crate) fn stop(mut self) -> Result<f64, Failed> {
        let took = self.begin.elapsed().as_secs_f64();
        self.close();
        let mut answers = 0;
        for reader in std::mem::take(&mut self.readers) {
            answers += reader.join().map_err(|_| "a client panicked")?;
        }
        Ok(answers as f64 / took)
    }

    fn close(&mut self) {
        for client in &self.clients {
            let _ = client.shutdown(Shutdown::Both);
        }
        for writer in std::mem::take(&mut self.writers) {
            let _ = writer.join();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.close();
    }
}

/// Thirty clients ask for a large table a hundred thousand times, and read nothing.
pub(crate) fn not_reading() -> Outcome {
    const MACS_WANTED: u64 = 10_000;
    let scene = Scene::pair()?;
    let a1 = scene.container(0, "a1", &["10.0.3.11/24"])?;
    let daemon = &scene.daemons[0];
    let many = Talk::of(&a1, 2500, |number| {
        let [.., x, y] = (number as u16).to_be_bytes();
        data(BROADCAST, [0x02, 0, 0, 0x10 + (number / 11_000) as u8, x, y])
    })?;
    let known = || Ok(daemon.status("macs")?["macs"].as_array().map_or(0, Vec::len) as u64);
    let filled = until("ten thousand MACs to be known", Duration::from_secs(15), || Ok(known()? >= MACS_WANTED));
    many.stop()?;
    filled?;
    // What answering once costs is not of interest.
    for _ in 0..3 {
        known()?;
    }
    let (before, mut most) = (resident(daemon)?, 0);
    let mut clients = Vec::new();
    for _ in 0..30 {
        let client = UnixStream::connect(daemon.socket())?;
        client.set_nonblocking(true)?;
        clients.push((client, 0));
    }
    let requests = MACS.repeat(100_000);
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        for (client, written) in &mut clients {
            match client.write(&requests.as_bytes()[*written..]) {
                Ok(count) => *written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        most = most.max(resident(daemon)?);
        thread::sleep(Duration::from_millis(5));
    }
    let written = clients.iter().map(|(_, written)| written / MACS.len()).sum::<usize>();
    println!("30 clients left {written} requests; {before} KiB before, {most} KiB with them");
    // It still answers those who read.
    ensure(known()? >= MACS_WANTED, "MACs are gone")?;
    let growth = most.saturating_sub(before);
    ensure(growth < 10 << 10, format!("{growth} KiB for 30 clients that do not read"))
}

/// The daemon may open nothing more, and clients come. It waits without spinning, and serves them once it can: also the
/// one that came meanwhile and has waited since.
pub(crate) fn out_of_descriptors() -> Outcome {
    let scene = Scene::pair()?;
    let daemon = &scene.daemons[0];
    // The limit is on the number, so the lowest that is free is the first that shall not be had.
    let open: Vec<u32> = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let free = (0..).find(|number| !open.contains(number)).unwrap_or(0);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid()))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).ok_or("no limit of open files")?;
    let numbers: Vec<&str> = line.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
    let [soft, hard] = numbers[..] else { return Err(format!("two limits? {line}").into()) };
    let (user, group) = (proc_status(daemon, "Uid:")?, proc_status(daemon, "Gid:")?);
    let limit = |soft: &str| {
        // As the daemon's own user: even root may not do this everywhere (CAP_SYS_RESOURCE).
        let line = format!("setpriv --reuid={user} --regid={group} --clear-groups prlimit --pid={}", daemon.pid());
        Cmd::words(&format!("{line} --nofile={soft}:{hard}")).run()
    };
    limit(&free.to_string())?;
    let mut waiting = UnixStream::connect(daemon.socket())?;
    waiting.write_all(STATUS.as_bytes())?;
    let crowd = (0..4).map(|_| UnixStream::connect(daemon.socket())).collect::<Result<Vec<_>, _>>()?;
    let used = worked(daemon)?;
    pause(2000)?;
    let used = worked(daemon)? - used;
    println!("no descriptor from {free} on; it worked for {used:?} in two seconds");
    ensure(used < Duration::from_secs(1), format!("it spins: {used:?} in two seconds"))?;
    waiting.set_read_timeout(Some(Duration::from_millis(50)))?;
    ensure(waiting.read(&mut [0; 1]).is_err(), "a client was served without a descriptor: the test is void")?;
    limit(soft)?;
    // The one that waits comes first: the next client would bring it in as well.
    waiting.set_read_timeout(Some(Duration::from_secs(3)))?;
    let served = waiting.read(&mut [0; 1]).is_ok_and(|count| count == 1);
    ensure(daemon.status("status")?["uid"].is_string(), "it does not answer any longer")?;
    drop(crowd);
    ensure(served, "a client that came meanwhile was not served within three seconds")
}

/// Resident memory in KiB.
fn resident(daemon: &Daemon) -> Result<u64, Failed> {
    proc_status(daemon, "VmRSS:")
}

/// The first number of a line of its /proc/PID/status.
fn proc_status(daemon: &Daemon, key: &str) -> Result<u64, Failed> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).and_then(|rest| rest.split_whitespace().next());
    Ok(line.ok_or_else(|| format!("no {key} in {status}"))?.parse()?)
}

/// Time that all its threads have had a processor. The kernel counts in hundredths of a second (USER_HZ).
fn worked(daemon: &Daemon) -> Result<Duration, Failed> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid()))?;
    // The name in parentheses may have spaces; utime and stime are the 12th and 13th field behind it (proc(5)).
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
