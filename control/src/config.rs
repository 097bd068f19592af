//! The config file: strict JSON, flat, IPOP's key names where they exist.

mod confine;
mod file;
mod keys;
mod limits;
mod offloads;
mod peers;
mod port;
mod security;

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipop_dataplane::addr::MacAddr;
use ipop_dataplane::datagram::MAX_WORKERS;
use ipop_dataplane::feature::EngineChoice;
use ipop_dataplane::wire::traffic_class::OuterClass;
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
    /// The traffic class of what goes to peers.
    pub outer_class: OuterClass,
    /// UDP ports, beside DHCP's, that programs read from raw sockets.
    pub raw_udp_ports: Vec<u16>,
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

/// All that is wrong with a config: of each fault the file, the key, what is wrong and what is allowed. One fault is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(file, faults))]
pub struct ConfigError {
    file: String,
    faults: Vec<Fault>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    key: Option<String>,
    message: String,
}

fn lines(file: &str, faults: &[Fault]) -> String {
    let line = |Fault { key, message }: &Fault| match key {
        Some(key) => format!("{file}: \"{key}\": {message}"),
        None => format!("{file}: {message}"),
    };
    faults.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl ConfigError {
    fn of_file(file: &str, message: String) -> ConfigError {
        ConfigError { file: file.to_owned(), faults: vec![Fault { key: None, message }] }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        let text = file::read(path).map_err(|message| ConfigError::of_file(&file, message))?;
        Config::parse(&file, &text)
    }

    /// Checks the text of a file that is called `file` in errors.
    pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let fail = |message: String| ConfigError::of_file(file, message);
        let value = parse_strict(text).map_err(|e| fail(format!("not valid JSON: {e}")))?;
        let Value::Object(object) = value else {
            return Err(fail("the file must be one JSON object: { \"switchmode\": 1, ... }".into()));
        };
        let faults = RefCell::default();
        let keys = Keys { file, prefix: String::new(), object: &object, faults: &faults };
        let config = keys.config();
        match faults.into_inner() {
            none if none.is_empty() => Ok(config),
            faults => Err(ConfigError { file: file.to_owned(), faults }),
        }
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "gateway".to_owned())
}

/// An object of the file and where it stands. What is wrong with a value is kept, and it is as if it were not there.
struct Keys<'a> {
    file: &'a str,
    prefix: String,
    object: &'a Map<String, Value>,
    faults: &'a RefCell<Vec<Fault>>,
}

/// In the place of an address that is wrong, in a config that is refused for it.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Keys<'_> {
    fn fault(&self, key: &str, message: impl Into<String>) {
        let key = Some(format!("{}{key}", self.prefix));
        self.faults.borrow_mut().push(Fault { key, message: message.into() });
    }

    /// The object under `key`, which stands at `place`.
    fn inner<'a>(&'a self, place: &str, object: &'a Map<String, Value>) -> Keys<'a> {
        Keys { file: self.file, prefix: format!("{}{place}.", self.prefix), object, faults: self.faults }
    }

    /// What the whole file says; worth nothing if there are faults.
    fn config(&self) -> Config {
        let mut warnings = self.check_names(keys::TOP);
        self.switchmode();
        let identity = self.identity(&mut warnings);
        if !self.object.contains_key("listen") {
            self.fault("listen", "is missing: the UDP address of this gateway, such as \"10.99.0.1:5800\"");
        }
        let listen = self.address("listen");
        let max_macs = self.number("max_macs", 65_536, 16..=1 << 20).unwrap_or(65_536) as usize;
        let defaults = self.peer_defaults(max_macs);
        let port = self.port();
        let workers = self.number("workers", 1, 1..=MAX_WORKERS as u64).unwrap_or(1) as usize;
        Config {
            name: self.label("name").unwrap_or_else(host_name),
            offloads: self.offloads(&port),
            outer_class: self.outer_class(),
            raw_udp_ports: self.raw_udp_ports(),
            port,
            listen: listen.unwrap_or(NO_ADDRESS),
            network: self.number("network", 0, 0..=0xff_ffff).unwrap_or(0) as u32,
            peers: self.peers(listen, &identity, defaults),
            identity: identity.key,
            arp_expiry: self.number("arp_expiry", 300, 1..=86_400).unwrap_or(300) as u32,
            arp_fresh: self.number("arp_fresh", 5, 0..=86_400).unwrap_or(5) as u32,
            mac_expiry: self.number("mac_expiry", 300, 1..=86_400).unwrap_or(300) as u32,
            mac_freeze: self.number("mac_freeze", 180, 0..=86_400).unwrap_or(180) as u32,
            sticky_macs: self.sticky_macs(),
            max_macs,
            max_addresses_per_mac: self.addresses_per_mac(),
            flood_rate: self.number("flood_rate", 10_000, 1..=10_000_000).unwrap_or(10_000),
            workers,
            cpus: self.cpus(workers),
            source_ports: self.number("source_ports", 4, 1..=16).unwrap_or(1) as usize,
            waiting: self.waiting(),
            io_uring: match self.switch("io_uring") {
                None => EngineChoice::Auto,
                Some(true) => EngineChoice::IoUring,
                Some(false) => EngineChoice::Calls,
            },
            control_socket: self.socket_path("control_socket"),
            control_group: self.label("control_group"),
            user: self.user(),
            confine: self.switch("confine").unwrap_or(true),
            warnings,
        }
    }

    /// Finds unknown keys, and names the nearest known one; warns about keys of IPOP that have no meaning here.
    fn check_names(&self, known: &[&str]) -> Vec<String> {
        let mut warnings = Vec::new();
        for key in self.object.keys().filter(|key| !known.contains(&key.as_str())) {
            match (keys::replaced(key).filter(|_| self.prefix.is_empty()), keys::nearest(key, known)) {
                (Some(instead), _) => warnings.push(format!("\"{key}\" has no meaning here: {instead}")),
                (_, Some(near)) => {
                    self.fault(key, format!("is not a key of this program; did you mean \"{near}\"?"));
                }
                _ => self.fault(key, format!("is not a key of this program; there are: {}", known.join(", "))),
            }
        }
        warnings
    }

    fn switchmode(&self) {
        match self.object.get("switchmode") {
            Some(Value::Number(n)) if n.as_u64() == Some(1) => {}
            Some(other) => {
                self.fault("switchmode", format!("is {other}; only 1 is allowed: this program is a switch"));
            }
            None => self.fault("switchmode", "is missing; write \"switchmode\": 1"),
        }
    }

    fn waiting(&self) -> Waiting {
        let usual = Waiting::default();
        let microseconds = |key, usual: Duration| {
            let set = self.number(key, usual.as_micros() as u64, 0..=1000);
            set.map_or(usual, Duration::from_micros)
        };
        Waiting { spin: microseconds("spin", usual.spin), min_wait: microseconds("min_wait", usual.min_wait) }
    }

    /// A value that is there, as `of` understands it, or else what is allowed.
    fn value<'v, T>(&'v self, key: &str, allowed: &str, of: impl FnOnce(&'v Value) -> Option<T>) -> Option<T> {
        let value = self.object.get(key)?;
        let understood = of(value);
        if understood.is_none() {
            self.fault(key, format!("is {value}; {allowed}"));
        }
        understood
    }

    fn text(&self, key: &str) -> Option<String> {
        let fit = |text: &&str| !text.is_empty() && text.len() <= 4096 && !text.contains('\0');
        self.value(key, "a text that is not empty is allowed", |value| value.as_str().filter(fit).map(str::to_owned))
    }

    /// A name for people: it stands in logs and tables, and travels in hellos.
    fn label(&self, key: &str) -> Option<String> {
        let name = self.text(key)?;
        if name.len() > MAX_NAME || name.chars().any(char::is_control) {
            self.fault(key, format!("is no good name: at most {MAX_NAME} octets, no control characters"));
            return None;
        }
        Some(name)
    }

    /// A file; the name is taken from the directory of the config on, unless it begins with "/".
    fn path(&self, key: &str) -> Option<PathBuf> {
        let directory = Path::new(self.file).parent().unwrap_or(Path::new(""));
        self.text(key).map(|name| directory.join(name))
    }

    fn socket_path(&self, key: &str) -> PathBuf {
        let path = self.text(key).unwrap_or_else(|| DEFAULT_CONTROL_SOCKET.to_owned());
        if path.len() > MAX_SOCKET_PATH {
            let message = format!("has {} octets; the path of a UNIX socket has at most {MAX_SOCKET_PATH}", path.len());
            self.fault(key, message);
        }
        path.into()
    }

    fn interface(&self, key: &str) -> Option<String> {
        let name = self.text(key)?;
        // dev_valid_name() in net/core/dev.c.
        let valid = name.len() < 16
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control());
        if !valid {
            let allowed = "the name of a network interface is allowed: 1 to 15 characters, no '/', ':', '%' or blank";
            self.fault(key, format!("is \"{name}\"; {allowed}"));
        }
        valid.then_some(name)
    }

    fn number(&self, key: &str, example: u64, allowed: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let (low, high) = (allowed.start(), allowed.end());
        let text = format!("a whole number from {low} to {high} is allowed, such as {example}");
        self.value(key, &text, |value| value.as_u64().filter(|n| allowed.contains(n)))
    }

    fn address(&self, key: &str) -> Option<SocketAddr> {
        let text = self.text(key)?;
        let Ok(address) = text.parse::<SocketAddr>() else {
            let allowed = "an IP address and a UDP port are allowed, such as \"10.99.0.1:5800\" or \"[fd99::1]:5800\"";
            self.fault(key, format!("is \"{text}\"; {allowed}"));
            return None;
        };
        if address.port() == 0 {
            self.fault(key, "has port 0; a port from 1 to 65535 is allowed");
            return None;
        }
        let broadcast = matches!(address.ip(), IpAddr::V4(ip) if ip.is_broadcast());
        if address.ip().is_multicast() || broadcast {
            let message = format!("is {}, a multicast or broadcast address; a host's is allowed", address.ip());
            self.fault(key, message);
            return None;
        }
        Some(address)
    }

    fn cpus(&self, workers: usize) -> Vec<usize> {
        let list: Option<Vec<usize>> = self.value("cpus", "a list of core numbers is allowed, such as [0]", |value| {
            let number = |value: &Value| value.as_u64().map(|n| n as usize).filter(|n| *n < 1024);
            value.as_array()?.iter().map(number).collect()
        });
        let Some(list) = list else { return Vec::new() };
        let available = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
        let barred = |cpu: &&usize| available.as_ref().is_ok_and(|set| !set.is_set(**cpu).unwrap_or(false));
        if list.iter().enumerate().any(|(i, cpu)| list[..i].contains(cpu)) {
            self.fault("cpus", "names a core twice; every worker needs one of its own");
        } else if list.len() != workers {
            let message =
                format!("has {} cores for {workers} workers; one core for each worker is allowed", list.len());
            self.fault("cpus", message);
        } else if let Some(cpu) = list.iter().find(barred) {
            self.fault("cpus", format!("names core {cpu}, which this process may not use"));
        }
        list
    }
}

#[cfg(test)]
mod tests;
