//! A TCP stream from one container to another while something goes on. Every octet is compared.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipop_lab::Container;
use libtest_mimic::Failed;

use super::kit::{Outcome, Random, ensure};

/// What is written at a time: more than a super-frame, so that there are some.
const BLOCK: usize = 256 << 10;
/// Between two writes, so that others find the machine free now and then: 25 MB per second.
const PAUSE: Duration = Duration::from_millis(10);
/// A stream that stands still for so long is broken.
const STALLED: Duration = Duration::from_secs(5);

/// A writer and a reader at work.
pub(crate) struct Tcp {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<io::Result<u64>>,
    reader: JoinHandle<Result<u64, String>>,
}

impl Tcp {
    pub(crate) fn start(from: &Container, to: &Container) -> Result<Tcp, Failed> {
        let address = SocketAddr::new(to.ip()?, 0);
        let listener = to.netns().within(|| TcpListener::bind(address))??;
        let target = listener.local_addr()?;
        let near = from.netns().within(|| TcpStream::connect_timeout(&target, STALLED))??;
        let (far, _) = listener.accept()?;
        near.set_write_timeout(Some(STALLED))?;
        far.set_read_timeout(Some(STALLED))?;
        let block = Random(9).bytes(BLOCK);
        let (expected, stop) = (block.clone(), Arc::new(AtomicBool::new(false)));
        let until = stop.clone();
        let writer = thread::spawn(move || write(near, &block, &until));
        let reader = thread::spawn(move || read(far, &expected));
        Ok(Tcp { stop, writer, reader })
    }

    /// All that was written has been read, as it was.
    pub(crate) fn stop(self, what: &str) -> Outcome {
        self.stop.store(true, Relaxed);
        let panicked = |_| Failed::from("a thread of the stream panicked");
        let (written, read) = (self.writer.join().map_err(panicked)?, self.reader.join().map_err(panicked)?);
        let (written, read) = (written.map_err(|error| format!("{what}: {error}"))?, read?);
        ensure(written == read && read > BLOCK as u64, format!("{what}: {read} of {written} octets"))
    }
}

fn write(mut stream: TcpStream, block: &[u8], stop: &AtomicBool) -> io::Result<u64> {
    let mut written = 0;
    while !stop.load(Relaxed) {
        stream.write_all(block)?;
        written += block.len() as u64;
        thread::sleep(PAUSE);
    }
    Ok(written)
}

/// Until the writer closes.
fn read(mut stream: TcpStream, expected: &[u8]) -> Result<u64, String> {
    let (mut octets, mut buffer) = (0, vec![0; expected.len()]);
    loop {
        let at = (octets % expected.len() as u64) as usize;
        let rest = expected.len() - at;
        match stream.read(&mut buffer[..rest]).map_err(|error| format!("reading at {octets}: {error}"))? {
            0 => return Ok(octets),
            length if buffer[..length] != expected[at..at + length] => return Err(format!("differs behind {octets}")),
            length => octets += length as u64,
        }
    }
}
