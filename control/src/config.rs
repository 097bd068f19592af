//! The config file: strict JSON, flat, IPOP's key names where they exist.

mod confine;
mod keys;
mod limits;
mod offloads;
mod peers;
mod port;
mod security;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipop_dataplane::addr::MacAddr;
use ipop_dataplane::datagram::MAX_WORKERS;
use ipop_dataplane::feature::EngineChoice;
use ipop_dataplane::worker::Waiting;
use serde_json::{Map, Value};

pub use self::confine::UserChoice;
pub use self::offloads::OffloadSwitches;
pub use self::peers::PeerConfig;
pub use self::port::PortConfig;
use crate::json::parse_strict;
use crate::keys::PrivateKey;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this gateway, for people.
    pub name: String,
    /// The port.
    pub port: PortConfig,
    /// UDP address.
    pub listen: SocketAddr,
    /// Network identifier, 24 bits.
    pub network: u32,
    /// The private key of this gateway; `None` for clear text.
    pub identity: Option<PrivateKey>,
    /// The other gateways.
    pub peers: Vec<PeerConfig>,
    /// Seconds that an answer to an ARP or ND request is good for.
    pub arp_expiry: u32,
    /// Seconds for which an answer is used without asking again.
    pub arp_fresh: u32,
    /// Seconds after which a MAC that sends nothing is forgotten.
    pub mac_expiry: u32,
    /// Seconds for which a MAC stays where it is when claims on it keep losing; 0 never.
    pub mac_freeze: u32,
    /// MACs that never leave this side.
    pub sticky_macs: Vec<MacAddr>,
    /// Largest number of MAC addresses in the table.
    pub max_macs: usize,
    /// Addresses that one MAC of this side may have.
    pub max_addresses_per_mac: usize,
    /// Unknown unicast frames per second and worker that are flooded.
    pub flood_rate: u64,
    /// Number of worker threads.
    pub workers: usize,
    /// Core of each worker; empty: not pinned.
    pub cpus: Vec<usize>,
    /// UDP ports that each worker sends from, with the one that peers send to.
    pub source_ports: usize,
    /// How workers wait for frames.
    pub waiting: Waiting,
    /// io_uring or system calls.
    pub io_uring: EngineChoice,
    /// What the kernel may be asked for.
    pub offloads: OffloadSwitches,
    /// UNIX socket for `ipop status` and its like.
    pub control_socket: PathBuf,
    /// Group whose members may ask over the control socket, and change nothing; `None`: [`DEFAULT_CONTROL_GROUP`] if there is
    /// one.
    pub control_group: Option<String>,
    /// Whose rights it keeps once everything is open.
    pub user: UserChoice,
    /// It gives up what it does not need any more once everything is open.
    pub confine: bool,
    /// What a person should know about the file, although it is valid.
    pub warnings: Vec<String>,
}

/// The place of the control socket unless the config says otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/ipop/ipop.sock";

/// The group that may ask over the control socket unless the config says otherwise.
pub const DEFAULT_CONTROL_GROUP: &str = "ipop";

/// Octets of a gateway's or peer's name.
const MAX_NAME: usize = 64;
/// `sun_path` with its terminating zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// What is wrong with a config: the file, the key, what is wrong and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {}{message}", key.as_ref().map(|key| format!("\"{key}\": ")).unwrap_or_default())]
pub struct ConfigError {
    file: String,
    key: Option<String>,
    message: String,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError {
            file: file.clone(),
            key: None,
            message: format!("cannot be read: {e}"),
        })?;
        Config::parse(&file, &text)
    }

    /// Checks the text of a file that is called `file` in errors.
    pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
        let fail = |message: String| ConfigError { file: file.to_owned(), key: None, message };
        let value = parse_strict(text).map_err(|e| fail(format!("not valid JSON: {e}")))?;
        let Value::Object(object) = value else {
            return Err(fail("the file must be one JSON object: { \"switchmode\": 1, ... }".into()));
        };
        let keys = Keys { file, prefix: String::new(), object: &object };
        let mut warnings = keys.check_names(keys::TOP)?;
        keys.switchmode()?;
        let identity = keys.identity(&mut warnings)?;

        let listen = keys.address("listen")?.ok_or_else(|| {
            keys.error("listen", "is missing: the UDP address of this gateway, such as \"10.99.0.1:5800\"")
        })?;
        let max_macs = keys.number("max_macs", 65_536, 16..=1 << 20)?.unwrap_or(65_536) as usize;
        let defaults = keys.peer_defaults(max_macs)?;
        let port = keys.port()?;
        let workers = keys.number("workers", 1, 1..=MAX_WORKERS as u64)?.unwrap_or(1) as usize;
        Ok(Config {
            name: keys.label("name")?.unwrap_or_else(host_name),
            offloads: keys.offloads(&port)?,
            port,
            listen,
            network: keys.number("network", 0, 0..=0xff_ffff)?.unwrap_or(0) as u32,
            peers: keys.peers(listen, identity.as_ref(), defaults)?,
            identity,
            arp_expiry: keys.number("arp_expiry", 300, 1..=86_400)?.unwrap_or(300) as u32,
            arp_fresh: keys.number("arp_fresh", 5, 0..=86_400)?.unwrap_or(5) as u32,
            mac_expiry: keys.number("mac_expiry", 300, 1..=86_400)?.unwrap_or(300) as u32,
            mac_freeze: keys.number("mac_freeze", 180, 0..=86_400)?.unwrap_or(180) as u32,
            sticky_macs: keys.sticky_macs()?,
            max_macs,
            max_addresses_per_mac: keys.addresses_per_mac()?,
            flood_rate: keys.number("flood_rate", 10_000, 1..=10_000_000)?.unwrap_or(10_000),
            workers,
            cpus: keys.cpus(workers)?,
            source_ports: keys.number("source_ports", 4, 1..=16)?.unwrap_or(1) as usize,
            waiting: keys.waiting()?,
            io_uring: match keys.switch("io_uring")? {
                None => EngineChoice::Auto,
                Some(true) => EngineChoice::IoUring,
                Some(false) => EngineChoice::Calls,
            },
            control_socket: keys.socket_path("control_socket")?,
            control_group: keys.label("control_group")?,
            user: keys.user()?,
            confine: keys.switch("confine")?.unwrap_or(true),
            warnings,
        })
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "gateway".to_owned())
}

/// An object of the file and where it stands, for errors.
struct Keys<'a> {
    file: &'a str,
    prefix: String,
    object: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn error(&self, key: &str, message: impl Into<String>) -> ConfigError {
        let key = Some(format!("{}{key}", self.prefix));
        ConfigError { file: self.file.to_owned(), key, message: message.into() }
    }

    /// Refuses unknown keys, names the nearest known one; warns about keys of IPOP that have no meaning here.
    fn check_names(&self, known: &[&str]) -> Result<Vec<String>, ConfigError> {
        let mut warnings = Vec::new();
        for key in self.object.keys() {
            if known.contains(&key.as_str()) {
                continue;
            }
            if let Some(instead) = keys::replaced(key).filter(|_| self.prefix.is_empty()) {
                warnings.push(format!("\"{key}\" has no meaning here: {instead}"));
                continue;
            }
            let message = match keys::nearest(key, known) {
                Some(near) => format!("is not a key of this program; did you mean \"{near}\"?"),
                None => format!("is not a key of this program; there are: {}", known.join(", ")),
            };
            return Err(self.error(key, message));
        }
        Ok(warnings)
    }

    fn switchmode(&self) -> Result<(), ConfigError> {
        match self.object.get("switchmode") {
            Some(Value::Number(n)) if n.as_u64() == Some(1) => Ok(()),
            Some(other) => {
                Err(self.error("switchmode", format!("is {other}; only 1 is allowed: this program is a switch")))
            }
            None => Err(self.error("switchmode", "is missing; write \"switchmode\": 1")),
        }
    }

    fn waiting(&self) -> Result<Waiting, ConfigError> {
        let usual = Waiting::default();
        let microseconds = |key, usual: Duration| {
            let set = self.number(key, usual.as_micros() as u64, 0..=1000)?;
            Ok(set.map_or(usual, Duration::from_micros))
        };
        Ok(Waiting { spin: microseconds("spin", usual.spin)?, min_wait: microseconds("min_wait", usual.min_wait)? })
    }

    fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.object.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() && text.len() <= 4096 && !text.contains('\0') => {
                Ok(Some(text.clone()))
            }
            Some(other) => Err(self.error(key, format!("is {other}; a text that is not empty is allowed"))),
        }
    }

    /// A name for people: it stands in logs and tables, and travels in hellos.
    fn label(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(name) = self.text(key)? else { return Ok(None) };
        if name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(self.error(key, format!("is no good name: at most {MAX_NAME} octets, no control characters")));
        }
        Ok(Some(name))
    }

    /// A file; the name is taken from the directory of the config on, unless it begins with "/".
    fn file(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let directory = Path::new(self.file).parent().unwrap_or(Path::new(""));
        Ok(self.text(key)?.map(|name| directory.join(name)))
    }

    fn socket_path(&self, key: &str) -> Result<PathBuf, ConfigError> {
        let path = self.text(key)?.unwrap_or_else(|| DEFAULT_CONTROL_SOCKET.to_owned());
        if path.len() > MAX_SOCKET_PATH {
            let message = format!("has {} octets; the path of a UNIX socket has at most {MAX_SOCKET_PATH}", path.len());
            return Err(self.error(key, message));
        }
        Ok(path.into())
    }

    fn interface(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(name) = self.text(key)? else { return Ok(None) };
        // dev_valid_name() in net/core/dev.c.
        let valid = name.len() < 16
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control());
        if !valid {
            let allowed = "the name of a network interface is allowed: 1 to 15 characters, no '/', ':', '%' or blank";
            return Err(self.error(key, format!("is \"{name}\"; {allowed}")));
        }
        Ok(Some(name))
    }

    fn number(
        &self,
        key: &str,
        example: u64,
        allowed: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.object.get(key) else { return Ok(None) };
        match value.as_u64().filter(|n| allowed.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => {
                let (low, high) = (allowed.start(), allowed.end());
                let message = format!("is {value}; a whole number from {low} to {high} is allowed, such as {example}");
                Err(self.error(key, message))
            }
        }
    }

    fn address(&self, key: &str) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let address: SocketAddr = text.parse().map_err(|_| {
            let allowed = "an IP address and a UDP port are allowed, such as \"10.99.0.1:5800\" or \"[fd99::1]:5800\"";
            self.error(key, format!("is \"{text}\"; {allowed}"))
        })?;
        if address.port() == 0 {
            return Err(self.error(key, "has port 0; a port from 1 to 65535 is allowed"));
        }
        let broadcast = matches!(address.ip(), IpAddr::V4(ip) if ip.is_broadcast());
        if address.ip().is_multicast() || broadcast {
            let message = format!("is {}, a multicast or broadcast address; a host's is allowed", address.ip());
            return Err(self.error(key, message));
        }
        Ok(Some(address))
    }

    fn cpus(&self, workers: usize) -> Result<Vec<usize>, ConfigError> {
        let Some(value) = self.object.get("cpus") else { return Ok(Vec::new()) };
        let numbers: Option<Vec<usize>> = value
            .as_array()
            .and_then(|list| list.iter().map(|v| v.as_u64().map(|n| n as usize).filter(|n| *n < 1024)).collect());
        match numbers {
            Some(list) if list.iter().enumerate().any(|(i, cpu)| list[..i].contains(cpu)) => {
                Err(self.error("cpus", "names a core twice; every worker needs one of its own"))
            }
            Some(list) if list.len() == workers => {
                let available = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
                match list.iter().find(|cpu| available.as_ref().is_ok_and(|set| !set.is_set(**cpu).unwrap_or(false))) {
                    Some(cpu) => Err(self.error("cpus", format!("names core {cpu}, which this process may not use"))),
                    None => Ok(list),
                }
            }
            Some(list) => Err(self.error(
                "cpus",
                format!("has {} cores for {workers} workers; one core for each worker is allowed", list.len()),
            )),
            None => Err(self.error("cpus", format!("is {value}; a list of core numbers is allowed, such as [0]"))),
        }
    }
}

#[cfg(test)]
mod tests;
