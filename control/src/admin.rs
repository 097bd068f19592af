//! The control socket: one JSON object per line in, one per line out.
//!
//! `{"command":"status"}` is answered with the structure of [`crate::report`], anything else with `{"error":"…"}`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde_json::{Value, json};

use crate::config::DEFAULT_CONTROL_SOCKET;
use crate::confine::User;

/// Clients at a time.
const MAX_CLIENTS: usize = 32;
/// A request is one short line.
const MAX_REQUEST: usize = 4096;
/// A client that neither asks nor reads for so long is closed.
const IDLE_MS: u64 = 30_000;

/// What can be asked.
pub const COMMANDS: &[&str] = &["status", "peers", "macs", "arp", "rpc", "rekey"];

/// Why there is no control socket, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Somebody answers there.
    #[error("another ipop answers on {}: stop it, or choose another \"control_socket\"", .0.display())]
    InUse(PathBuf),
    /// The path is something else.
    #[error("{} is there and is not a socket: choose another \"control_socket\"", .0.display())]
    NotASocket(PathBuf),
    /// The directory is somebody else's.
    #[error("not permitted to create the control socket {}: run as root, or choose another \"control_socket\"", .0.display())]
    Permission(PathBuf),
    /// Another call failed.
    #[error("cannot create the control socket {}: {error}", path.display())]
    Call {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
}

struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    /// The answer that is being written, and how much of it has been.
    output: Vec<u8>,
    written: usize,
    active_ms: u64,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> AdminError {
    move |error| match error.kind() {
        io::ErrorKind::PermissionDenied => AdminError::Permission(path.to_owned()),
        _ => AdminError::Call { path: path.to_owned(), error },
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The listening socket and its clients.
pub struct Admin {
    /// Open, so that the socket can be removed whoever may go through the directories above.
    directory: File,
    name: OsString,
    listener: UnixListener,
    clients: Vec<Option<Client>>,
    /// Tokens from this one on are clients'.
    first: usize,
}

impl Admin {
    /// Whether `path` can be listened on. A socket that a killed process left can, a live one cannot.
    pub fn check(path: &Path) -> Result<(), AdminError> {
        let found = match std::fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(_) => return Ok(()),
        };
        if !found.file_type().is_socket() {
            return Err(AdminError::NotASocket(path.to_owned()));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
            Err(e) => Err(failed(path)(e)),
            Ok(_) => Err(AdminError::InUse(path.to_owned())),
        }
    }

    /// Listens on `path`, mode 0660, in the place of a socket that a killed process left. Whoever can connect may take
    /// the gateway for ready, so this comes last. The socket is this user's, but a directory that is made for it, and
    /// the usual one, are `owner`'s, who has to remove the socket from it in the end.
    pub fn bind(path: &Path, owner: Option<&User>) -> Result<UnixListener, AdminError> {
        Admin::check(path)?;
        let directory = directory_of(path);
        let made = !directory.exists();
        if made {
            std::fs::create_dir_all(directory).map_err(failed(path))?;
        }
        if path.exists() {
            std::fs::remove_file(path).map_err(failed(path))?;
        }
        // Nobody may connect between bind and chmod.
        let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path).map_err(failed(path));
        nix::sys::stat::umask(mask);
        let listener = listener?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed(path))?;
        // Last: a root without CAP_DAC_OVERRIDE could not put it there afterwards.
        if let Some(owner) = owner.filter(|_| made || path == Path::new(DEFAULT_CONTROL_SOCKET)) {
            // Where that is not permitted the socket is left in the end, which is said.
            let _ = nix::unistd::chown(directory, Some(owner.uid), Some(owner.gid));
        }
        Ok(listener)
    }

    /// Serves `listener` under `token`; clients get the tokens from `first` on.
    pub fn new(
        path: &Path,
        mut listener: UnixListener,
        registry: &Registry,
        token: Token,
        first: usize,
    ) -> io::Result<Admin> {
        registry.register(&mut listener, token, Interest::READABLE)?;
        let clients = (0..MAX_CLIENTS).map(|_| None).collect();
        let directory =
            File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(directory_of(path))?;
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Admin { directory, name, listener, clients, first })
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
    pub fn accept(&mut self, registry: &Registry, now_ms: u64) {
        // Errors of one client, or too many open files, must not end the gateway: they wait for the next event.
        while let Ok((mut stream, _)) = self.listener.accept() {
            // A crowd of clients that say nothing must not lock others out: the one that is idle for longest goes.
            let idle = |client: &Option<Client>| client.as_ref().map_or(0, |client| client.active_ms + 1);
            let Some(place) = (0..self.clients.len()).min_by_key(|place| idle(&self.clients[*place])) else { return };
            self.clients[place] = None;
            let interest = Interest::READABLE | Interest::WRITABLE;
            if registry.register(&mut stream, Token(self.first + place), interest).is_ok() {
                let (input, output) = (Vec::new(), Vec::new());
                self.clients[place] = Some(Client { stream, input, output, written: 0, active_ms: now_ms });
            }
        }
    }

    /// Something happened to the client with this token. `answer` gives the response to a command, `None` for an
    /// unknown one.
    pub fn serve(&mut self, token: Token, now_ms: u64, mut answer: impl FnMut(&str) -> Option<Value>) {
        let Some(place) = token.0.checked_sub(self.first) else { return };
        let Some(slot) = self.clients.get_mut(place) else { return };
        let keep = slot.as_mut().is_some_and(|client| {
            client.active_ms = now_ms;
            let open = client.read(&mut answer);
            client.flush() && (open || !client.output.is_empty())
        });
        if !keep {
            // Closing the descriptor takes it out of the poll as well.
            *slot = None;
        }
    }

    /// Closes clients that have been idle for long.
    pub fn expire(&mut self, now_ms: u64) {
        for slot in &mut self.clients {
            if slot.as_ref().is_some_and(|client| now_ms - client.active_ms >= IDLE_MS) {
                *slot = None;
            }
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let _ = unlinkat(&self.directory, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
}

impl Client {
    /// Reads and answers whole lines; false at the end of the stream or after nonsense.
    fn read(&mut self, answer: &mut impl FnMut(&str) -> Option<Value>) -> bool {
        let mut chunk = [0; 1024];
        loop {
            // One who asks without reading the answers has to wait until the socket takes them.
            if !self.flush() {
                return false;
            }
            if !self.output.is_empty() {
                return true;
            }
            // One line at a time, so that the answers to many do not pile up.
            if let Some(end) = self.input.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                self.respond(&reply_to(&line, answer));
                continue;
            }
            if self.input.len() > MAX_REQUEST {
                self.respond(&json!({"error": format!("a request is one line of at most {MAX_REQUEST} octets")}));
                return false;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(len) => self.input.extend_from_slice(&chunk[..len]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            }
        }
    }

    fn respond(&mut self, value: &Value) {
        (self.output, self.written) = (value.to_string().into_bytes(), 0);
        self.output.push(b'\n');
    }

    /// Writes what can be written; false if the client is gone.
    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return false,
                Ok(len) => {
                    self.written += len;
                    if self.written == self.output.len() {
                        (self.output, self.written) = (Vec::new(), 0);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// What one line is answered with; `answer` gives the response to a command, `None` for an unknown one.
pub fn reply_to(line: &[u8], answer: &mut impl FnMut(&str) -> Option<Value>) -> Value {
    let request: Value = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(e) => return json!({"error": format!("not JSON: {e}; a request is {{\"command\":\"status\"}}")}),
    };
    let Some(command) = request.get("command").and_then(Value::as_str) else {
        return json!({"error": "no \"command\"; a request is {\"command\":\"status\"}"});
    };
    answer(command).unwrap_or_else(
        || json!({"error": format!("unknown command \"{command}\"; there are: {}", COMMANDS.join(", "))}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(line: &str) -> String {
        reply_to(line.as_bytes(), &mut |command| (command == "status").then(|| json!({"ok": 1}))).to_string()
    }

    #[test]
    fn requests_and_nonsense() {
        assert_eq!(reply(r#"{"command":"status"}"#), r#"{"ok":1}"#);
        assert!(reply("hello").contains("not JSON"));
        assert!(reply("{}").contains("no \\\"command\\\""));
        assert!(reply(r#"{"command":"frobnicate"}"#).contains("there are: status, peers, macs, arp, rpc, rekey"));
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/ipop.sock");
        let live = Admin::bind(&path, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(Admin::bind(&path, None), Err(AdminError::InUse(_))));
        drop(live);
        assert!(Admin::bind(&path, None).is_ok());
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(Admin::bind(&file, None), Err(AdminError::NotASocket(_))));
    }
}
