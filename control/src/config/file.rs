//! The config file: read by root, at the start.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Octets. A config with the most peers, and some addresses for each, has a tenth of this.
const MAX_LEN: u64 = 16 << 20;
/// The permissions that a config must not have: others who write to it decide what root does.
const WRITABLE: u32 = 0o022;

/// The text of a config, or what is wrong with the file. What is asked of the file is asked of the open file: the name could
/// lead elsewhere by then.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    // A pipe that nobody writes to would be waited for otherwise.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err("cannot be read: it is no regular file".to_owned());
    }
    let (owner, user, mode) = (about.uid(), nix::unistd::geteuid().as_raw(), about.mode() & 0o777);
    if owner != 0 && owner != user {
        return Err(format!("is the file of user {owner}, who can change it: chown {user} {}", path.display()));
    }
    if mode & WRITABLE != 0 {
        return Err(format!("others may write to it (mode {mode:03o}): chmod go-w {}", path.display()));
    }
    let mut octets = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut octets).map_err(failed)?;
    if octets.len() as u64 > MAX_LEN {
        return Err(format!("is too large for a config: more than {} MiB", MAX_LEN >> 20));
    }
    String::from_utf8(octets).map_err(|error| format!("cannot be read: it is no UTF-8: {}", error.utf8_error()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_file_that_nobody_else_can_write_and_that_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, "{}").unwrap();
        for (mode, good) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false), (0o666, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let result = read(&path);
            assert_eq!(result.is_ok(), good, "{mode:o}: {result:?}");
            assert!(good || result.unwrap_err().contains("chmod go-w"));
        }
        for bad in ["/dev/zero", "/dev/null", "/proc/self", "/dev/stdin/x"] {
            assert!(read(Path::new(bad)).unwrap_err().starts_with("cannot be read"), "{bad}");
        }
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read(&fifo).unwrap_err().contains("no regular file"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(MAX_LEN + 1).unwrap();
        assert!(read(&path).unwrap_err().contains("too large"));
    }
}
