//! The log: a bounded queue of lines, and a thread that writes them.
//!
//! Whatever reads the log can stop reading, and a disk can be full, so nobody but that thread waits for it. A line that finds
//! no room, or that the kernel does not take, is lost and counted; when lines are written again, one of them says how many
//! were lost. The descriptor may be shared with other processes (a terminal, a pipe), so it is not made non-blocking.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use tracing::{error, warn};

/// Lines that wait, and their octets.
const MAX_LINES: usize = 1024;
const MAX_OCTETS: usize = 1 << 20;
/// Between two lines about lost ones, while more are being lost.
const NOTICE: Duration = Duration::from_secs(10);
/// How often [`Log::flush`] looks.
const LOOK: Duration = Duration::from_millis(2);

/// With its line feed.
type Line = Box<[u8]>;

/// A log; clones are the same one.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    lines: SyncSender<Line>,
    /// What the thread gets when it starts.
    unwritten: Mutex<Option<(Receiver<Line>, File)>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Octets that wait.
    octets: AtomicUsize,
    /// Lines that were taken into the queue, and those of them that have left it, written or not.
    taken: AtomicU64,
    done: AtomicU64,
    /// Lines that were not written.
    lost: AtomicU64,
}

impl Log {
    /// A log that is written to this file once it is [started](Log::start); until then lines wait.
    pub fn new(file: File) -> Log {
        let (lines, waiting) = sync_channel(MAX_LINES);
        Log(Arc::new(Shared { lines, unwritten: Mutex::new(Some((waiting, file))), counts: Arc::default() }))
    }

    /// To standard error.
    pub fn to_stderr() -> io::Result<Log> {
        Ok(Log::new(File::from(io::stderr().as_fd().try_clone_to_owned()?)))
    }

    /// Starts the thread that writes, which first calls `confine`. Does nothing if it runs already.
    pub fn start(&self, confine: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let Some((lines, file)) = self.0.unwritten.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let counts = self.0.counts.clone();
        let (tell, told) = channel();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let confined = confine();
            let go_on = confined.is_ok();
            // Whoever started it waits for this.
            let _ = tell.send(confined);
            if go_on {
                Writer { counts, file, cut: false, told: 0, notice_at: None }.run(&lines);
            }
        })?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))
    }

    /// Leaves a line, which ends with a line feed. Never waits.
    pub fn line(&self, line: &[u8]) {
        let Shared { lines, counts, .. } = &*self.0;
        let room = counts.octets.fetch_add(line.len(), SeqCst) + line.len() <= MAX_OCTETS;
        // Before it is there, so that it is not done before it was taken.
        counts.taken.fetch_add(1, SeqCst);
        if !room || lines.try_send(line.into()).is_err() {
            counts.octets.fetch_sub(line.len(), SeqCst);
            counts.lost.fetch_add(1, SeqCst);
            counts.done.fetch_add(1, SeqCst);
        }
    }

    /// How many lines were lost.
    pub fn lost(&self) -> u64 {
        self.0.counts.lost.load(SeqCst)
    }

    /// Waits until everything is written, for `limit` at most.
    pub fn flush(&self, limit: Duration) {
        // What goes wrong before the gateway is set up is written too.
        if self.start(|| Ok(())).is_err() {
            return;
        }
        let begin = Instant::now();
        let counts = &self.0.counts;
        while counts.done.load(SeqCst) < counts.taken.load(SeqCst) && begin.elapsed() < limit {
            std::thread::sleep(LOOK);
        }
    }

    /// Makes panics lines of the log: by itself a panic is written to standard error, however long that takes.
    pub fn take_panics() {
        std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
            let thread = std::thread::current();
            let backtrace = std::backtrace::Backtrace::capture();
            error!("thread '{}' {info}\n{backtrace}", thread.name().unwrap_or("unnamed"));
        }));
    }
}

/// Each write is a line.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the thread knows.
struct Writer {
    counts: Arc<Counts>,
    file: File,
    /// The last line was cut off in its middle.
    cut: bool,
    /// How many lost lines the log has told of, and when.
    told: u64,
    notice_at: Option<Instant>,
}

impl Writer {
    fn run(mut self, lines: &Receiver<Line>) {
        while let Ok(line) = lines.recv() {
            let waiting = self.counts.octets.fetch_sub(line.len(), SeqCst) - line.len();
            match self.write(&line) {
                Ok(()) => self.tell_of_lost(waiting == 0),
                Err(_) => drop(self.counts.lost.fetch_add(1, SeqCst)),
            }
            self.counts.done.fetch_add(1, SeqCst);
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let whole;
        let mut rest = line;
        if self.cut {
            whole = [b"\n", line].concat();
            rest = &whole;
        }
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    self.cut = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody who shares the descriptor has made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ppoll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)], None, None)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Something was written: says what was not, when the queue is empty or every ten seconds.
    fn tell_of_lost(&mut self, empty: bool) {
        let lost = self.counts.lost.load(SeqCst);
        let due = empty || self.notice_at.is_none_or(|at| at.elapsed() >= NOTICE);
        if lost > self.told && due {
            // If there is no room for this line, it is one of those that the next one tells of.
            let untold = lost - std::mem::replace(&mut self.told, lost);
            self.notice_at = Some(Instant::now());
            warn!("{untold} lines of the log were lost, since they could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn pipe() -> (File, File) {
        let (read, write): (OwnedFd, OwnedFd) = nix::unistd::pipe().unwrap();
        (read.into(), write.into())
    }

    #[test]
    fn lines_come_out_in_order_also_those_from_before_the_start() {
        let (mut reader, file) = pipe();
        let log = Log::new(file);
        log.line(b"one\n");
        log.start(|| Ok(())).unwrap();
        log.line(b"two\n");
        log.flush(LONG);
        let mut text = [0; 8];
        reader.read_exact(&mut text).unwrap();
        assert_eq!((&text, log.lost()), (b"one\ntwo\n", 0));
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let (mut reader, file) = pipe();
        let log = Log::new(file);
        log.start(|| Ok(())).unwrap();
        let line = [[b'x'; 999].as_slice(), b"\n"].concat();
        for _ in 0..10_000 {
            log.line(&line);
        }
        // More than pipe and queue can hold.
        assert!(log.lost() > 7000, "{}", log.lost());
        log.flush(Duration::from_millis(20));
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all.len())
        });
        log.flush(LONG);
        let written = 10_000 - log.lost();
        drop(log);
        // The thread ends with the last sender, which closes the pipe; what was taken has been written.
        assert_eq!(reading.join().unwrap().unwrap() as u64, written * 1000);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_a_cut_line_is_ended() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let log = Log::new(full);
        log.start(|| Ok(())).unwrap();
        (0..5).for_each(|_| log.line(b"a line\n"));
        log.flush(LONG);
        assert_eq!(log.lost(), 5);

        let (reader, file) = pipe();
        drop(reader);
        let log = Log::new(file);
        log.line(b"to nobody\n");
        log.flush(LONG);
        assert_eq!(log.lost(), 1);

        let (mut reader, file) = pipe();
        let mut writer = Writer { counts: Arc::default(), file, cut: true, told: 0, notice_at: None };
        writer.write(b"next\n").unwrap();
        assert!(!writer.cut);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\nnext\n");
    }

    #[test]
    fn a_descriptor_that_others_made_non_blocking_is_waited_for() {
        let (mut reader, file) = pipe();
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let log = Log::new(file);
        log.start(|| Ok(())).unwrap();
        let line = [[b'x'; 999].as_slice(), b"\n"].concat();
        (0..200).for_each(|_| log.line(&line));
        let mut all = vec![0; 200_000];
        reader.read_exact(&mut all).unwrap();
        log.flush(LONG);
        assert_eq!(log.lost(), 0);
    }
}
