//! Where the control socket is made.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::net::UnixListener;

use crate::config::{DEFAULT_CONTROL_GROUP, DEFAULT_CONTROL_SOCKET};
use crate::confine::User;

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
    /// The group that the config names.
    #[error("there is no group '{0}': create it (`groupadd --system {0}`), or name another \"control_group\"")]
    NoGroup(String),
    /// The kernel does not give the socket to the group.
    #[error(
        "not permitted to give the control socket to the group '{0}': run as root or with CAP_CHOWN, or leave \
         \"control_group\" out"
    )]
    Group(String),
    /// Another call failed.
    #[error("cannot create the control socket {}: {error}", path.display())]
    Call {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
}

fn failed(path: &Path) -> impl Fn(io::Error) -> AdminError {
    move |error| match error.kind() {
        io::ErrorKind::PermissionDenied => AdminError::Permission(path.to_owned()),
        _ => AdminError::Call { path: path.to_owned(), error },
    }
}

pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

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

/// Who may ask besides the user who has started the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readers {
    /// Members of this group.
    Group(String),
    /// Nobody, and why.
    Nobody(String),
}

impl Readers {
    /// Gives the socket to the group that the config names, or to the usual one if that can be.
    fn admit(path: &Path, named: Option<&str>) -> Result<Readers, AdminError> {
        let name = named.unwrap_or(DEFAULT_CONTROL_GROUP);
        let Some(group) = nix::unistd::Group::from_name(name).ok().flatten() else {
            return match named {
                Some(_) => Err(AdminError::NoGroup(name.to_owned())),
                None => Ok(Readers::Nobody(format!("there is no group '{name}'"))),
            };
        };
        match nix::unistd::chown(path, None, Some(group.gid)) {
            Ok(()) => Ok(Readers::Group(name.to_owned())),
            Err(_) if named.is_some() => Err(AdminError::Group(name.to_owned())),
            Err(error) => Ok(Readers::Nobody(format!("the socket cannot be given to the group '{name}': {error}"))),
        }
    }
}

/// Listens on `path`, mode 0660, in the place of a socket that a killed process left. Whoever can connect may take
/// the gateway for ready, so this comes last. The socket is this user's and the group's, but a directory that is made for
/// it, and the usual one, are `owner`'s, who has to remove the socket from it in the end.
pub fn bind(path: &Path, owner: Option<&User>, group: Option<&str>) -> Result<(UnixListener, Readers), AdminError> {
    check(path)?;
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
    let readers = Readers::admit(path, group).inspect_err(|_| drop(std::fs::remove_file(path)))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed(path))?;
    // Last: a root without CAP_DAC_OVERRIDE could not put it there afterwards.
    if let Some(owner) = owner.filter(|_| made || path == Path::new(DEFAULT_CONTROL_SOCKET)) {
        // Where that is not permitted the socket is left in the end, which is said.
        let _ = nix::unistd::chown(directory, Some(owner.uid), Some(owner.gid));
    }
    Ok((listener, readers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/ipop.sock");
        let (live, _) = bind(&path, None, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(bind(&path, None, None), Err(AdminError::InUse(_))));
        drop(live);
        assert!(bind(&path, None, None).is_ok());
        let missing = "a-group-that-is-not-there";
        assert!(matches!(bind(&path, None, Some(missing)), Err(AdminError::NoGroup(name)) if name == missing));
        assert!(!path.exists(), "nothing is left that nobody listens on");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(bind(&file, None, None), Err(AdminError::NotASocket(_))));
    }
}
