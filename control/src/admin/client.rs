//! One client of the control socket.

use std::io::{self, Read, Write};

use mio::net::UnixStream;
use serde_json::{Value, json};

use super::{Answers, MAX_REQUEST, reply_to};

/// What is read at a time.
const CHUNK: usize = 1024;

/// What becomes of a client after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It may have more to do at once.
    Again,
    /// The kernel tells when it has.
    Wait,
    /// It is gone, or has to go.
    Close,
}

/// A client, what it has asked and what it is answered.
pub(super) struct Client<A> {
    stream: UnixStream,
    /// It is of a user who may change something.
    may_change: bool,
    /// What has come of its next requests.
    input: Vec<u8>,
    /// The part of an answer that is being written, and how much of it has been.
    output: Vec<u8>,
    written: usize,
    /// The answer that is being given.
    answer: Option<A>,
    /// It is closed when everything is written.
    ends: bool,
    /// There may be something to do. The kernel tells once that a socket is readable or writable, so this stays until the
    /// socket itself says otherwise.
    pub(super) ready: bool,
    /// When it asked or read something last.
    pub(super) active_ms: u64,
}

impl<A> Client<A> {
    pub(super) fn new(stream: UnixStream, may_change: bool, now_ms: u64) -> Client<A> {
        Client {
            stream,
            may_change,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            answer: None,
            ends: false,
            ready: true,
            active_ms: now_ms,
        }
    }

    /// Writes what is left, then does one thing more: a request, or a part of the answer to the one before.
    pub(super) fn turn(&mut self, now_ms: u64, answers: &mut impl Answers<Answer = A>) -> Next {
        self.try_turn(now_ms, answers).unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Next::Wait,
            _ => Next::Close,
        })
    }

    fn try_turn(&mut self, now_ms: u64, answers: &mut impl Answers<Answer = A>) -> io::Result<Next> {
        self.flush(now_ms)?;
        while self.answer.is_none() {
            if self.ends {
                return Ok(Next::Close);
            }
            if let Some(end) = self.input.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                match reply_to(&line, self.may_change, |command| answers.begin(command)) {
                    Ok(answer) => self.answer = Some(answer),
                    Err(error) => {
                        self.say(&error);
                        self.flush(now_ms)?;
                        return Ok(Next::Again);
                    }
                }
            } else if self.input.len() > MAX_REQUEST {
                self.say(&json!({"error": format!("a request is one line of at most {MAX_REQUEST} octets")}));
                self.ends = true;
                self.flush(now_ms)?;
            } else {
                self.ends = !self.read(now_ms)?;
            }
        }
        if let Some(answer) = &mut self.answer
            && !answers.go_on(answer, &mut self.output)
        {
            self.output.push(b'\n');
            self.answer = None;
        }
        self.flush(now_ms)?;
        Ok(Next::Again)
    }

    /// False at the end of the stream.
    fn read(&mut self, now_ms: u64) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        let len = retry(|| self.stream.read(&mut chunk))?;
        self.input.extend_from_slice(&chunk[..len]);
        self.active_ms = now_ms;
        Ok(len > 0)
    }

    fn say(&mut self, value: &Value) {
        self.output.extend_from_slice(value.to_string().as_bytes());
        self.output.push(b'\n');
    }

    /// Writes everything; `WouldBlock` if the socket does not take it now.
    fn flush(&mut self, now_ms: u64) -> io::Result<()> {
        while self.written < self.output.len() {
            let len = retry(|| self.stream.write(&self.output[self.written..]))?;
            if len == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written += len;
            self.active_ms = now_ms;
        }
        // Not kept for the next answer, which may be short.
        (self.output, self.written) = (Vec::new(), 0);
        Ok(())
    }

    /// Octets of memory that it has.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
