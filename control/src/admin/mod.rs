//! The control socket: one JSON object per line in, one per line out.
//!
//! `{"command":"status"}` is answered with the structure of [`crate::report`], anything else with `{"error":"…"}`.
//!
//! The mode of the socket says who may ask. Who may also change something is decided for each request, by the user that the
//! kernel names (SO_PEERCRED, unix(7)): root, and whoever has started the gateway.
//!
//! Clients take turns: in one turn of the control thread each gets one request, or one part of an answer, and that only
//! when its socket has taken what was there before. So one that asks without pause holds nobody up, and one that does not
//! read costs one part of an answer and no more, however large the table that it has asked for.

mod client;
mod socket;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};
use serde_json::{Value, json};
use tracing::warn;

use self::client::{Client, Next};
use self::socket::directory_of;
pub use self::socket::{AdminError, Readers, bind, check};
use crate::confine::User;

/// Clients at a time.
const MAX_CLIENTS: usize = 32;
/// A request is one short line.
const MAX_REQUEST: usize = 4096;
/// A client that neither asks nor reads for so long is closed.
const IDLE_MS: u64 = 30_000;
/// Clients that are accepted in one turn.
const ACCEPTED_PER_TURN: usize = 16;
/// When the kernel has no descriptor for a client it is tried again after this time, and one that has said nothing for as
/// long as this makes room.
const RETRY_MS: u64 = 100;
const SILENT_MS: u64 = 1000;
/// Between two lines of the log about that.
const LOG_MS: u64 = 60_000;

/// What can be asked.
pub const COMMANDS: &[&str] = &["status", "peers", "macs", "arp", "rpc", "rekey"];

/// Whether a command does more than tell.
fn changes(command: &str) -> bool {
    command == "rekey" || command.starts_with("macs release")
}

/// Where answers come from.
pub trait Answers {
    /// An answer that has begun, and how far it has come.
    type Answer;

    /// The answer to a command; `None` if there is no such command.
    fn begin(&mut self, command: &str) -> Option<Self::Answer>;

    /// Appends the next part of an answer to `out`; false if it was the last. All parts together are one line, without its
    /// end.
    fn go_on(&mut self, answer: &mut Self::Answer, out: &mut Vec<u8>) -> bool;
}

/// What is known of the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listening {
    /// Nobody waits there.
    Idle,
    /// Somebody may wait.
    Ready,
    /// Somebody waits, but could not be accepted. The kernel tells once of one who waits, so this is tried again.
    RetryAt(u64),
}

/// The listening socket and its clients.
pub struct Admin<A> {
    /// Open, so that the socket can be removed whoever may go through the directories above.
    directory: File,
    name: OsString,
    listener: UnixListener,
    listening: Listening,
    log_at_ms: u64,
    clients: Vec<Option<Client<A>>>,
    /// Who has started the gateway.
    owner: Uid,
    /// Whose turn is next.
    turn: usize,
    /// Tokens from this one on are clients'.
    first: usize,
}

impl<A> Admin<A> {
    /// Serves `listener` under `token`; clients get the tokens from `first` on.
    pub fn new(
        path: &Path,
        mut listener: UnixListener,
        registry: &Registry,
        token: Token,
        first: usize,
    ) -> io::Result<Admin<A>> {
        registry.register(&mut listener, token, Interest::READABLE)?;
        let clients = (0..MAX_CLIENTS).map(|_| None).collect();
        let directory =
            File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(directory_of(path))?;
        let name = path.file_name().unwrap_or_default().to_owned();
        let listening = Listening::Ready;
        let owner = nix::unistd::geteuid();
        Ok(Admin { directory, name, listener, listening, log_at_ms: 0, clients, owner, turn: 0, first })
    }

    /// Where the socket is, which is removed in the end.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether a process with this user's rights, and in no other group, can remove the socket.
    pub fn can_be_removed_by(&self, user: &User) -> bool {
        let Ok(found) = self.directory.metadata() else { return false };
        let (own, group, mode) = (found.uid() == user.uid.as_raw(), found.gid() == user.gid.as_raw(), found.mode());
        let rights = if own {
            mode >> 6
        } else if group {
            mode >> 3
        } else {
            mode
        };
        // In a sticky directory only the owner of a file, which is root, may remove it (unlink(2)).
        rights & 0o3 == 0o3 && (own || mode & libc::S_ISVTX == 0)
    }

    /// The listener is readable.
    pub fn somebody_comes(&mut self) {
        if self.listening == Listening::Idle {
            self.listening = Listening::Ready;
        }
    }

    /// Something happened to the client with this token.
    pub fn wake(&mut self, token: Token) {
        let place = token.0.checked_sub(self.first);
        if let Some(Some(client)) = place.and_then(|place| self.clients.get_mut(place)) {
            client.ready = true;
        }
    }

    /// When there is something to do that nothing else tells of.
    pub fn next_deadline(&self) -> Option<u64> {
        match self.listening {
            Listening::RetryAt(at_ms) => Some(at_ms),
            Listening::Idle | Listening::Ready => None,
        }
    }

    /// Accepts clients, serves one request or one part of an answer to each that has something to do, in turns and while
    /// `goes_on`, and closes those that have been idle for long. True if there is more to do.
    pub fn turn(
        &mut self,
        registry: &Registry,
        now_ms: u64,
        answers: &mut impl Answers<Answer = A>,
        goes_on: impl Fn() -> bool,
    ) -> bool {
        self.accept(registry, now_ms);
        let begin = self.turn;
        for place in (0..self.clients.len()).map(|step| (begin + step) % MAX_CLIENTS) {
            let Some(slot) = self.clients.get_mut(place) else { continue };
            let Some(client) = slot.as_mut().filter(|client| client.ready) else { continue };
            match client.turn(now_ms, answers) {
                Next::Again => {}
                Next::Wait => client.ready = false,
                // Closing the descriptor takes it out of the poll as well.
                Next::Close => *slot = None,
            }
            self.turn = place + 1;
            if !goes_on() {
                break;
            }
        }
        for slot in &mut self.clients {
            if slot.as_ref().is_some_and(|client| now_ms.saturating_sub(client.active_ms) >= IDLE_MS) {
                *slot = None;
            }
        }
        self.listening == Listening::Ready || self.clients.iter().flatten().any(|client| client.ready)
    }

    fn accept(&mut self, registry: &Registry, now_ms: u64) {
        match self.listening {
            Listening::Idle => return,
            Listening::RetryAt(at_ms) if now_ms < at_ms => return,
            Listening::RetryAt(_) | Listening::Ready => self.listening = Listening::Ready,
        }
        for _ in 0..ACCEPTED_PER_TURN {
            match self.listener.accept() {
                Ok((stream, _)) => self.welcome(stream, registry, now_ms),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return self.listening = Listening::Idle,
                    // It has gone again.
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                    _ => return self.refused(&error, now_ms),
                },
            }
        }
    }

    fn welcome(&mut self, mut stream: UnixStream, registry: &Registry, now_ms: u64) {
        // A crowd of clients that say nothing must not lock others out: the one that is idle for longest goes.
        let Some(place) = self.idlest() else { return };
        self.clients[place] = None;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if registry.register(&mut stream, Token(self.first + place), interest).is_ok() {
            let may_change = getsockopt(&stream, PeerCredentials)
                .is_ok_and(|peer| peer.uid() == 0 || Uid::from_raw(peer.uid()) == self.owner);
            self.clients[place] = Some(Client::new(stream, may_change, now_ms));
        }
    }

    /// A place that nobody has, else that of the client that is idle for longest.
    fn idlest(&self) -> Option<usize> {
        let idle = |place: &usize| self.clients[*place].as_ref().map_or(0, |client| client.active_ms + 1);
        (0..self.clients.len()).min_by_key(idle)
    }

    /// A client could not be accepted: too many open files here (EMFILE) or in the system (ENFILE), or no memory. It waits.
    fn refused(&mut self, error: &io::Error, now_ms: u64) {
        self.listening = Listening::RetryAt(now_ms + RETRY_MS);
        if now_ms >= self.log_at_ms {
            self.log_at_ms = now_ms + LOG_MS;
            warn!("a client of the control socket has to wait: {error}");
        }
        let silent = |client: &Client<A>| now_ms.saturating_sub(client.active_ms) >= SILENT_MS;
        let longest = self.clients.iter_mut().filter(|slot| slot.as_ref().is_some_and(silent));
        if let Some(slot) = longest.min_by_key(|slot| slot.as_ref().map(|client| client.active_ms)) {
            *slot = None;
        }
    }
}

impl<A> Drop for Admin<A> {
    fn drop(&mut self) {
        let _ = unlinkat(&self.directory, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// What one line asks for, as `answer` gives it by the command, `None` for an unknown one; or what is wrong with it.
pub fn reply_to<T>(line: &[u8], may_change: bool, answer: impl FnOnce(&str) -> Option<T>) -> Result<T, Value> {
    let request: Value = serde_json::from_slice(line)
        .map_err(|error| json!({"error": format!("not JSON: {error}; a request is {{\"command\":\"status\"}}")}))?;
    let Some(command) = request.get("command").and_then(Value::as_str) else {
        return Err(json!({"error": "no \"command\"; a request is {\"command\":\"status\"}"}));
    };
    if changes(command) && !may_change {
        return Err(
            json!({"error": format!("only root may do that (\"{command}\"): your group may ask, and change nothing")}),
        );
    }
    answer(command)
        .ok_or_else(|| json!({"error": format!("unknown command \"{command}\"; there are: {}", COMMANDS.join(", "))}))
}
