//! What the kernel drops because the TAP's queue is full: nobody is told but the interface's statistics.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The counter of frames to the device that were dropped, `tx_dropped` in its statistics: `tun_net_xmit()` in
/// drivers/net/tun.c counts there what finds the queue full (or the device without a reader).
#[derive(Debug)]
pub(super) struct Drops {
    file: File,
    seen: Cell<u64>,
}

impl Drops {
    /// Of the interface with this name and index. The file stays open: later the process may not be allowed to open it.
    pub(super) fn open(name: &str, index: i32) -> io::Result<Drops> {
        let directory = format!("/sys/class/net/{name}");
        // A sysfs that was mounted in another network namespace shows the interfaces there.
        let shown = std::fs::read_to_string(format!("{directory}/ifindex"))?;
        if shown.trim().parse() != Ok(index) {
            return Err(io::Error::other(format!("{directory} is another interface")));
        }
        let drops = Drops { file: File::open(format!("{directory}/statistics/tx_dropped"))?, seen: Cell::new(0) };
        drops.seen.set(drops.read()?);
        Ok(drops)
    }

    /// How many since the last call.
    pub(super) fn take(&self) -> u64 {
        let Ok(now) = self.read() else { return 0 };
        now.saturating_sub(self.seen.replace(now))
    }

    fn read(&self) -> io::Result<u64> {
        let mut text = [0; 24];
        let len = self.file.read_at(&mut text, 0)?;
        let number = std::str::from_utf8(&text[..len]).ok().and_then(|text| text.trim().parse().ok());
        number.ok_or_else(|| io::Error::other("no number in tx_dropped"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_interface_is_looked_at() {
        let Ok(index) = nix::net::if_::if_nametoindex("lo") else { return eprintln!("not run: no loopback here") };
        if std::fs::read_to_string("/sys/class/net/lo/ifindex").is_err() {
            return eprintln!("not run: no sysfs here");
        }
        assert_eq!(Drops::open("lo", index as i32).unwrap().take(), 0);
        assert!(Drops::open("lo", index as i32 + 1).unwrap_err().to_string().contains("another interface"));
        assert!(Drops::open("no-such-one", 1).is_err());
    }
}
