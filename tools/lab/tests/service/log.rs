//! Logs that cannot be written: the gateway goes on, counts what is lost, and says so when it can.

use std::fs::OpenOptions;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ipop_lab::RawPort;
use ipop_lab::arp::Arp;
use libtest_mimic::Failed;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::kit::{Outcome, Pair, SOON, Service, ensure, until};

/// Questions of c0 for addresses that nobody has: with `--log debug` each is a line.
fn ask_in_vain(pair: &Pair, questions: u16) -> Outcome {
    let port = RawPort::open(pair.c0.netns(), pair.c0.interface())?;
    let (mac, ip) = (pair.c0.mac_bytes()?, Ipv4Addr::new(10, 0, 3, 3));
    for number in 0..questions {
        let [high, low] = number.to_be_bytes();
        port.send(&Arp::request(mac, ip, Ipv4Addr::new(10, 77, high, low)).frame())?;
    }
    Ok(())
}

/// Asks until more lines are lost than were.
fn lose_lines(pair: &Pair, service: &Service) -> Outcome {
    let before = service.lost()?;
    until("lines to be lost", SOON * 2, || {
        ask_in_vain(pair, 400)?;
        Ok(service.lost()? > before)
    })
}

/// Each line of the text is one of the log: one time, in front.
fn whole_lines(text: &str) -> Outcome {
    for line in text.lines() {
        let times = line.match_indices("Z ").filter(|(at, _)| line[..*at].ends_with(|c: char| c.is_ascii_digit()));
        ensure(line.starts_with("20") && times.count() == 1, format!("not one line: {line}"))?;
    }
    Ok(())
}

fn ends_well(service: Service) -> Outcome {
    kill(Pid::from_raw(service.pid()?), Signal::SIGTERM)?;
    let output = service.process.wait(SOON)?;
    ensure(output.status.code() == Some(0), format!("{}: {}", output.status, output.stderr))
}

/// Each write fails with ENOSPC.
pub(crate) fn full_device() -> Outcome {
    let pair = Pair::new()?;
    let service = Service::start(&pair, "exec $IPOP 2>/dev/full", "")?;
    let _b = pair.start(1, |_| ())?;
    pair.traffic()?;
    until("the lost lines to be counted", SOON, || Ok(service.lost()? >= 3))?;
    let shown = service.show("status")?;
    ensure(shown.contains("lines were lost"), shown)?;
    let metrics = service.show("metrics")?;
    ensure(metrics.contains("ipop_log_lines_lost_total "), metrics)?;
    ends_well(service)
}

/// The pipe is full and stays so: nobody waits for it, and when it is read again, the log says how much was lost.
pub(crate) fn pipe_that_nobody_reads() -> Outcome {
    let pair = Pair::new()?;
    let fifo = pair.lab.lab_run().dir().join("pipe");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
    // Whoever opens it for both does not wait for the other end.
    let mut reader = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo)?;
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096))?;
    let service = Service::start(&pair, "exec $IPOP 2>$DIR/pipe", "--log debug")?;
    let _b = pair.start(1, |_| ())?;
    pair.traffic()?;
    lose_lines(&pair, &service)?;
    pair.traffic()?;
    let mut octets = Vec::new();
    until("the log to say what was lost", SOON, || {
        let mut chunk = [0; 4096];
        while let Ok(len @ 1..) = reader.read(&mut chunk) {
            octets.extend_from_slice(&chunk[..len]);
        }
        Ok(String::from_utf8_lossy(&octets).contains("lines of the log were lost"))
    })?;
    let text = String::from_utf8(octets)?;
    // The last may not be complete yet.
    whole_lines(text.rsplit_once('\n').map_or("", |(lines, _)| lines))?;
    // Full once more, it does not hold up the end.
    lose_lines(&pair, &service)?;
    ends_well(service)
}

/// Each write fails with EPIPE, and there is a SIGPIPE.
pub(crate) fn reader_that_goes_away() -> Outcome {
    let pair = Pair::new()?;
    let service = Service::start(&pair, "$IPOP 2>&1 | head -n 1", "")?;
    until("the reader to end", SOON, || Ok(service.process.stdout().contains('\n')))?;
    let _b = pair.start(1, |_| ())?;
    pair.traffic()?;
    until("the lost lines to be counted", SOON, || Ok(service.lost()? >= 1))?;
    ends_well(service)
}

/// A disk that is full, and has room again.
pub(crate) fn full_disk() -> Outcome {
    let pair = Pair::new()?;
    let dir = pair.lab.lab_run().dir().join("disk");
    std::fs::create_dir(&dir)?;
    // In a mount namespace of its own, which goes with it. Little more than a page is left.
    let script = "exec unshare -m sh -c 'mount -t tmpfs -o size=1m none $DIR/disk && \
                  head -c 1040384 /dev/zero >$DIR/disk/filling && exec $IPOP 2>$DIR/disk/log'";
    let service = Service::start(&pair, script, "--log debug")?;
    let _b = pair.start(1, |_| ())?;
    pair.traffic()?;
    lose_lines(&pair, &service)?;
    pair.traffic()?;
    let inside = PathBuf::from(format!("/proc/{}/root", service.pid()?)).join(dir.strip_prefix(Path::new("/"))?);
    std::fs::remove_file(inside.join("filling"))?;
    until("the log to say what was lost", SOON, || {
        ask_in_vain(&pair, 5)?;
        Ok(std::fs::read_to_string(inside.join("log"))?.contains("lines of the log were lost"))
    })?;
    // What was cut off when the disk was full has a line to itself.
    let text = std::fs::read_to_string(inside.join("log"))?;
    whole_lines(text.rsplit_once('\n').map_or("", |(lines, _)| lines))?;
    ends_well(service)
}

/// A peer that comes and goes makes a few lines, and one that counts the others.
pub(crate) fn flapping_peer() -> Outcome {
    let pair = Pair::new()?;
    let service = Service::start(&pair, "exec $IPOP", "")?;
    for _ in 0..10 {
        let b = pair.start(1, |_| ())?;
        let state =
            || Ok::<_, Failed>(service.ask("peers")?["peers"][0]["state"].as_str().unwrap_or_default().to_owned());
        until("the peer to come", SOON, || Ok(state()? == "up"))?;
        b.stop()?;
        until("the peer to go", SOON, || Ok(state()? == "down"))?;
    }
    let about = |line: &&str| line.contains("peer gw-b is ");
    // On a slow machine all this takes more than a minute, and then some are told of already.
    let lines = service.process.stderr().lines().filter(about).count();
    ensure((5..=9).contains(&lines), format!("{lines} lines: {}", service.process.stderr()))?;
    kill(Pid::from_raw(service.pid()?), Signal::SIGTERM)?;
    let output = service.process.wait(SOON)?;
    // What was left out is told in the end.
    let last = output.stderr.lines().rfind(about).unwrap_or_default();
    let counted =
        last.contains("is down: it said goodbye (and ") && last.ends_with("more like this in the last minute)");
    ensure(counted, format!("not counted: {}", output.stderr))
}
