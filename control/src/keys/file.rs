//! Files with a secret in them: nobody but their owner may read or write them, at no time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::KeyError;

/// The permissions that a secret must not have: any for its group or for others.
const OTHERS: u32 = 0o077;

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> KeyError {
    move |error| KeyError::Io { path: path.to_owned(), what, error }
}

/// Opens a secret. What is asked of the file is asked of the open file: the name could lead elsewhere by then.
pub(super) fn open(path: &Path) -> Result<File, KeyError> {
    // A pipe that nobody writes to would be waited for otherwise.
    let nonblocking = nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::NotFound => "is not there (`ipop keygen --out FILE` makes a key)",
            _ => "cannot be read",
        };
        failed(path, what)(error)
    })?;
    let about = file.metadata().map_err(failed(path, "cannot be looked at"))?;
    if !about.is_file() {
        return Err(KeyError::NoFile(path.to_owned()));
    }
    let (owner, user, mode) = (about.uid(), nix::unistd::geteuid().as_raw(), about.mode() & 0o777);
    if owner != 0 && owner != user {
        return Err(KeyError::Owner { path: path.to_owned(), owner, user });
    }
    if mode & OTHERS != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode });
    }
    Ok(file)
}

/// Makes a file that was not there, with a secret that is on the disk when this returns. Where it fails there is no file.
pub(super) fn create(path: &Path, secret: &[u8]) -> Result<(), KeyError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(parent).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(path, "cannot be made, for want of its directory (mkdir -p)")(error),
        _ => failed(path, "cannot be made, since its directory cannot be read")(error),
    })?;
    // O_EXCL follows no symbolic link and takes no file that is there; the mode holds from the first moment.
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
            _ => failed(path, "cannot be made")(error),
        })?;
    // The name has to be on the disk too (fsync(2)).
    file.write_all(secret).and_then(|()| file.sync_all()).and_then(|()| directory.sync_all()).map_err(|error| {
        // Half a key is no use, and would be in the way of the next try.
        let _ = std::fs::remove_file(path);
        failed(path, "cannot be written")(error)
    })
}
