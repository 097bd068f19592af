//! The conversation between `ipop-bench run` and `ipop-bench serve`: lines of JSON over one TCP connection.
//!
//! `run` asks, `serve` answers, one answer for each request. The numbered packets, the flows and the echoes themselves go
//! beside it.

pub mod client;
pub mod server;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cpu::Reading;
use crate::error::{Context, Error, Result};
use crate::scenario::{PacketKind, Size};
use crate::traffic::receiver::Counted;

/// Raised when the other end would misunderstand.
pub const PROTOCOL: u32 = 1;
/// The TCP port of `serve`, unless it is told otherwise.
pub const PORT: u16 = 7410;
/// No line is longer.
const LONGEST_LINE: u64 = 64 << 10;

/// What `run` asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The first request.
    Hello {
        /// [`PROTOCOL`] of the asker.
        protocol: u32,
        /// Its version, for people.
        version: String,
    },
    /// The processor clocks.
    Cpu,
    /// Listen for TCP flows and receive what comes on them.
    ReceiveFlows {
        /// How many.
        flows: u32,
        /// What each begins with.
        tag: u32,
    },
    /// Listen for TCP flows and send on them until [`Request::Stop`].
    SendFlows {
        /// How many.
        flows: u32,
        /// What each begins with.
        tag: u32,
    },
    /// Count what arrives on the flows in a window that begins now.
    CountFlows {
        /// Seconds.
        seconds: f64,
    },
    /// Receive numbered packets, and echo those that ask for it, until [`Request::Stop`].
    ReceivePackets {
        /// UDP or raw Ethernet.
        kind: PacketKind,
        /// The size of the frames.
        size: Size,
        /// The sender's MTU, which the mix of sizes depends on.
        mtu: usize,
        /// What their marks carry.
        tag: u32,
    },
    /// Send back whatever comes over TCP, until [`Request::Stop`].
    EchoTcp {
        /// What the connection begins with.
        tag: u32,
    },
    /// Answer ARP requests for addresses of 198.18.0.0/15, until [`Request::Stop`].
    AnswerArp,
    /// End what was asked for last, and tell how it went.
    Stop,
}

/// What `serve` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Who it is.
    Hello {
        /// [`PROTOCOL`] of the answerer.
        protocol: u32,
        /// Its version, for people.
        version: String,
        /// The Ethernet address of the interface that the connection came in by.
        mac: [u8; 6],
        /// The MTU of that interface.
        mtu: usize,
        /// How often the machine's cores have switched tasks, which tells whether both ends are on the same machine.
        switches: u64,
    },
    /// The processor clocks.
    Cpu(Reading),
    /// It listens there: TCP or UDP as asked for; 0 where there are no ports.
    Listening {
        /// The port.
        port: u16,
    },
    /// The bytes of a window.
    Counted {
        /// Payload bytes.
        bytes: u64,
        /// The window.
        seconds: f64,
    },
    /// The flows that it sent on have ended.
    Sent {
        /// Segments sent again.
        retransmits: Option<u64>,
    },
    /// What became of the packets.
    Packets(Counted),
    /// Done; nothing to tell.
    Done,
    /// It did not work.
    Error {
        /// The reason.
        text: String,
    },
}

/// How often the cores of this machine have switched tasks since it was started (`ctxt` of proc_stat(5)).
///
/// If what the other end answers lies between our own readings before and after, both ends are on the same machine, and
/// share processors and their clocks. The machine's boot id would be simpler, but LXC gives each container one of its own.
pub(crate) fn switches() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().find_map(|line| line.strip_prefix("ctxt ")?.trim().parse().ok()).unwrap_or_default()
}

/// Text of the other end, or about what it sent, without what a terminal would take for a command.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Wire {
    reader: BufReader<TcpStream>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub(crate) fn write(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message).map_err(|error| Error::other(error.to_string()))?;
        line.push(b'\n');
        self.reader.get_mut().write_all(&line).context("writing to the other end")
    }

    /// The next message; `None` once the other end has closed.
    pub(crate) fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = Vec::new();
        let count =
            (&mut self.reader).take(LONGEST_LINE).read_until(b'\n', &mut line).context("reading from the other end")?;
        if count == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Err(Error::other("the other end sent a line that is too long, or only a part of one"));
        }
        let message = serde_json::from_slice(&line).map_err(|error| {
            Error::other(format!("the other end sent something else than ipop-bench does: {error}"))
        })?;
        Ok(Some(message))
    }
}
