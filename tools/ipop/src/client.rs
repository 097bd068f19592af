//! Asks a running gateway over its control socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to one command, or what a person should do.
pub(crate) fn ask(socket: &Path, command: &str) -> Result<Value, String> {
    let at = socket.display();
    let stream = UnixStream::connect(socket).map_err(|e| match e.kind() {
        ErrorKind::NotFound => format!(
            "there is no control socket {at}: is the gateway running (`ipop run --config FILE`)? \
             --socket names another one"
        ),
        ErrorKind::ConnectionRefused => {
            format!("nobody answers on {at}: the gateway that made this socket was killed; start it again")
        }
        ErrorKind::PermissionDenied => {
            format!("not permitted to use {at}: run as root{}", group_of(socket))
        }
        _ => format!("cannot connect to {at}: {e}"),
    })?;
    let answer = exchange(stream, command).map_err(|e| match e.kind() {
        ErrorKind::WouldBlock => format!("the gateway on {at} does not answer within {} s", TIMEOUT.as_secs()),
        _ => format!("no answer on {at}: {e}"),
    })?;
    let value: Value = serde_json::from_str(&answer).map_err(|e| format!("what answers on {at} is no gateway: {e}"))?;
    match value.get("error").and_then(Value::as_str) {
        Some(error) => Err(format!("the gateway says: {error}")),
        None => Ok(value),
    }
}

/// Who else may ask, as far as that can be seen.
fn group_of(socket: &Path) -> String {
    let Ok(found) = std::fs::metadata(socket) else { return String::new() };
    match nix::unistd::Group::from_gid(found.gid().into()) {
        Ok(Some(group)) if found.gid() != 0 => format!(", or as a member of the group '{}', which may ask", group.name),
        _ => String::new(),
    }
}

fn exchange(mut stream: UnixStream, command: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let written = writeln!(stream, "{}", serde_json::json!({ "command": command }));
    let mut answer = String::new();
    // A gateway that has closed the connection may have said why before.
    BufReader::new(stream).read_line(&mut answer).and(written)?;
    if answer.is_empty() {
        return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the gateway closed the connection"));
    }
    Ok(answer)
}
