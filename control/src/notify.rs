//! What a service manager is told (sd_notify(3)): that the gateway has started, and what it waits for.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::debug;

/// The environment variable that names the socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// A service manager, if there is one that wants to know. Nothing that it does or leaves is waited for, or an error.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    status: String,
}

impl Notify {
    /// Connects to the manager that has started this process; a confined thread could not do so later.
    pub fn from_env() -> Notify {
        let Some(name) = env::var_os(VARIABLE) else { return Notify::default() };
        match connect(name.as_bytes()) {
            Ok(socket) => Notify { socket: Some(socket), status: String::new() },
            Err(error) => {
                debug!("{VARIABLE} {}: {error}", name.display());
                Notify::default()
            }
        }
    }

    /// The gateway works, or will as soon as what it waits for is there: whoever starts services after it may go on.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// How it is, for people, in one line.
    pub fn status(&mut self, status: String) {
        if status != self.status {
            self.send(&format!("STATUS={}", status.replace('\n', " ")));
            self.status = status;
        }
    }

    /// It ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, state: &str) {
        if let Some(Err(error)) = self.socket.as_ref().map(|socket| socket.send(state.as_bytes())) {
            debug!("{VARIABLE}: {error}");
        }
    }
}

/// A name that begins with @ is abstract.
fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        name => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 100];
        let len = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_hears_each_change_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("ipop-notify-test-{}", std::process::id());
        let managers = [
            (path.as_os_str().as_bytes().to_vec(), UnixDatagram::bind(&path).unwrap()),
            (
                format!("@{abstract_name}").into_bytes(),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap(),
            ),
        ];
        for (name, manager) in managers {
            let mut notify = Notify { socket: Some(connect(&name).unwrap()), status: String::new() };
            for status in ["waiting\nfor it", "waiting\nfor it", "2 of 2"] {
                notify.status(status.to_owned());
            }
            notify.ready();
            notify.stopping();
            let heard = [(); 4].map(|()| told(&manager));
            assert_eq!(heard, ["STATUS=waiting for it", "STATUS=2 of 2", "READY=1", "STOPPING=1"]);
        }
    }

    #[test]
    fn a_manager_that_is_gone_or_does_not_read_holds_nobody_up() {
        assert!(connect(b"/no/such/socket").is_err());
        let (here, there) = UnixDatagram::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let mut notify = Notify { socket: Some(here), status: String::new() };
        (0..10_000).for_each(|number| notify.status(number.to_string()));
        drop(there);
        notify.ready();
    }
}
