//! The config file: strict JSON, flat, IPOP's key names where they exist.

mod keys;
mod offloads;
mod port;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::feature::EngineChoice;
use ipop_dataplane::peers::same_address;
use ipop_dataplane::worker::Waiting;
use serde_json::{Map, Value};

pub use self::offloads::OffloadSwitches;
pub use self::port::PortConfig;
use crate::json::parse_strict;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of this gateway, for people.
    pub name: String,
    /// The port.
    pub port: PortConfig,
    /// UDP address.
    pub listen: SocketAddr,
    /// Network identifier, 24 bits.
    pub network: u32,
    /// The other gateways.
    pub peers: Vec<PeerConfig>,
    /// Seconds that an answer to an ARP or ND request is good for.
    pub arp_expiry: u32,
    /// Seconds after which a MAC that sends nothing is forgotten.
    pub mac_expiry: u32,
    /// Largest number of MAC addresses in the table.
    pub max_macs: usize,
    /// Unknown unicast frames per second and worker that are flooded.
    pub flood_rate: u64,
    /// Number of worker threads.
    pub workers: usize,
    /// Core of each worker; empty: not pinned.
    pub cpus: Vec<usize>,
    /// How workers wait for frames.
    pub waiting: Waiting,
    /// io_uring or system calls.
    pub io_uring: EngineChoice,
    /// What the kernel may be asked for.
    pub offloads: OffloadSwitches,
    /// UNIX socket for `ipop status` and its like.
    pub control_socket: PathBuf,
    /// What a person should know about the file, although it is valid.
    pub warnings: Vec<String>,
}

/// One of the other gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Name, unique.
    pub name: String,
    /// UDP address, unique.
    pub address: SocketAddr,
}

/// The place of the control socket unless the config says otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/ipop/ipop.sock";

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
        keys.required_modes(&mut warnings)?;

        let listen = keys.address("listen")?.ok_or_else(|| {
            keys.error("listen", "is missing: the UDP address of this gateway, such as \"10.99.0.1:5800\"")
        })?;
        let workers = keys.number("workers", 1, 1..=64)?.unwrap_or(1) as usize;
        Ok(Config {
            name: keys.label("name")?.unwrap_or_else(host_name),
            port: keys.port()?,
            listen,
            network: keys.number("network", 0, 0..=0xff_ffff)?.unwrap_or(0) as u32,
            peers: keys.peers(listen)?,
            arp_expiry: keys.number("arp_expiry", 300, 1..=86_400)?.unwrap_or(300) as u32,
            mac_expiry: keys.number("mac_expiry", 300, 1..=86_400)?.unwrap_or(300) as u32,
            max_macs: keys.number("max_macs", 65_536, 16..=1 << 20)?.unwrap_or(65_536) as usize,
            flood_rate: keys.number("flood_rate", 10_000, 1..=10_000_000)?.unwrap_or(10_000),
            workers,
            cpus: keys.cpus(workers)?,
            waiting: keys.waiting()?,
            io_uring: match keys.switch("io_uring")? {
                None => EngineChoice::Auto,
                Some(true) => EngineChoice::IoUring,
                Some(false) => EngineChoice::Calls,
            },
            offloads: keys.offloads()?,
            control_socket: keys.socket_path("control_socket")?,
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

    fn required_modes(&self, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
        self.text("private_key_file")?;
        match self.object.get("switchmode") {
            Some(Value::Number(n)) if n.as_u64() == Some(1) => {}
            Some(other) => {
                return Err(
                    self.error("switchmode", format!("is {other}; only 1 is allowed: this program is a switch"))
                );
            }
            None => return Err(self.error("switchmode", "is missing; write \"switchmode\": 1")),
        }
        match self.object.get("sec") {
            Some(Value::Bool(false)) => {
                warnings.push(
                    "\"sec\" is false: frames travel in clear text, and whoever can send from a peer's address is \
                     that peer. Use it on wires that you trust"
                        .to_owned(),
                );
                if self.object.contains_key("private_key_file") {
                    warnings.push("\"private_key_file\" is not used while \"sec\" is false".to_owned());
                }
                Ok(())
            }
            Some(Value::Bool(true)) | None => Err(self.error(
                "sec",
                "encrypted links are not there yet in this version; write \"sec\": false to run in clear text on a \
                 wire that you trust",
            )),
            Some(other) => Err(self.error("sec", format!("is {other}; true or false is allowed"))),
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

    fn peers(&self, listen: SocketAddr) -> Result<Vec<PeerConfig>, ConfigError> {
        let Some(value) = self.object.get("peers") else {
            return Err(self.error(
                "peers",
                "is missing: a list such as [ { \"name\": \"gw-b\", \"address\": \"10.99.0.2:5800\" } ]",
            ));
        };
        let Value::Array(list) = value else {
            return Err(self.error("peers", format!("is {value}; a list of objects is allowed")));
        };
        if list.len() > PeerId::LIMIT {
            return Err(self.error("peers", format!("has {} entries; up to {} are allowed", list.len(), PeerId::LIMIT)));
        }
        let mut peers: Vec<PeerConfig> = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let Value::Object(object) = value else {
                return Err(self.error(&format!("peers[{index}]"), "must be an object with \"name\" and \"address\""));
            };
            let keys = Keys { file: self.file, prefix: format!("{}peers[{index}].", self.prefix), object };
            keys.check_names(keys::PEER)?;
            keys.text("public_key")?;
            let name = keys.label("name")?.ok_or_else(|| keys.error("name", "is missing"))?;
            let address = keys.address("address")?.ok_or_else(|| keys.error("address", "is missing"))?;
            keys.check_peer(&name, address, listen, &peers)?;
            peers.push(PeerConfig { name, address });
        }
        Ok(peers)
    }

    fn check_peer(
        &self,
        name: &str,
        address: SocketAddr,
        listen: SocketAddr,
        others: &[PeerConfig],
    ) -> Result<(), ConfigError> {
        if name == "local" {
            return Err(self.error("name", "is \"local\", which the tables use for this side"));
        }
        if others.iter().any(|other| other.name == name) {
            return Err(self.error("name", format!("\"{name}\" is there twice; names tell peers apart")));
        }
        if let Some(other) = others.iter().find(|other| same_address(other.address, address)) {
            return Err(self.error("address", format!("{address} is the address of \"{}\" already", other.name)));
        }
        if same_address(address, listen) {
            return Err(self.error("address", format!("{address} is this gateway's own \"listen\" address")));
        }
        if address.ip().is_unspecified() {
            return Err(self.error("address", format!("{} is no host's address", address.ip())));
        }
        let both = listen.is_ipv6() && listen.ip().is_unspecified();
        if listen.is_ipv4() != address.is_ipv4() && !both {
            let message = format!(
                "{address} cannot be reached from \"listen\" {listen}: both must be IPv4 or both IPv6 (or listen on [::])"
            );
            return Err(self.error("address", message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn minimal() -> Value {
        json!({
            "switchmode": 1, "sec": false, "listen": "10.99.0.1:5800",
            "peers": [ { "name": "gw-b", "address": "10.99.0.2:5800" } ]
        })
    }

    fn with(key: &str, value: Value) -> Result<Config, ConfigError> {
        let mut config = minimal();
        config[key] = value;
        Config::parse("x.json", &config.to_string())
    }

    fn message(key: &str, value: Value) -> String {
        with(key, value).unwrap_err().to_string()
    }

    #[test]
    fn the_least_that_is_needed() {
        let config = Config::parse("x.json", &minimal().to_string()).unwrap();
        assert_eq!(config.port, PortConfig::Tap { name: "ipop".into(), bridge: None, mtu: None });
        assert_eq!(config.workers, 1);
        assert_eq!((config.arp_expiry, config.mac_expiry), (300, 300));
        assert!(config.warnings[0].contains("clear text"), "{:?}", config.warnings);
    }

    #[test]
    fn workers_wait_as_they_are_told() {
        assert_eq!(with("workers", json!(1)).unwrap().waiting, Waiting::default());
        let waiting = |key, value| with(key, json!(value)).unwrap().waiting;
        assert_eq!(waiting("spin", 0), Waiting { spin: Duration::ZERO, ..Waiting::default() });
        assert_eq!(waiting("min_wait", 50), Waiting { min_wait: Duration::from_micros(50), ..Waiting::default() });
    }

    #[test]
    fn a_port_is_a_tap_or_an_interface() {
        let config = with("port", json!({ "af_packet": "eth1" })).unwrap();
        assert_eq!(config.port, PortConfig::AfPacket { interface: "eth1".into() });
        assert_eq!((config.port.to_string().as_str(), config.port.bridge()), ("AF_PACKET on eth1", None));
        for (key, value) in [("tap", json!("ipop")), ("bridge", json!("lxcbr0")), ("mtu", json!(1500))] {
            let mut config = minimal();
            (config["port"], config[key]) = (json!({ "af_packet": "eth1" }), value);
            let text = Config::parse("x.json", &config.to_string()).unwrap_err().to_string();
            assert!(text.starts_with(&format!("x.json: \"{key}\": cannot be there beside \"port\"")), "{text}");
        }
    }

    #[test]
    fn an_error_names_file_key_fault_and_remedy() {
        let cases = [
            ("bridge_name", json!("x"), "x.json: \"bridge_name\": is not a key"),
            ("brigde", json!("x"), "did you mean \"bridge\"?"),
            ("listen", json!("10.99.0.1"), "such as \"10.99.0.1:5800\""),
            ("listen", json!("10.99.0.1:0"), "a port from 1 to 65535"),
            ("arp_expiry", json!(0), "a whole number from 1 to 86400"),
            ("arp_expiry", json!("300"), "is \"300\""),
            ("tap", json!("a/b"), "1 to 15 characters"),
            ("tap", json!("sixteencharacter"), "1 to 15 characters"),
            ("port", json!("eth1"), "such as { \"af_packet\": \"eth1\" }"),
            ("port", json!({}), "\"port.af_packet\": is missing"),
            (
                "port",
                json!({ "afpacket": "eth1" }),
                "\"port.afpacket\": is not a key of this program; did you mean \"af_packet\"?",
            ),
            ("port", json!({ "af_packet": "sixteencharacter" }), "\"port.af_packet\": is \"sixteencharacter\""),
            ("switchmode", json!(0), "only 1 is allowed"),
            ("sec", json!(true), "write \"sec\": false"),
            ("sec", json!("no"), "true or false"),
            ("cpus", json!([0, 1]), "2 cores for 1 workers"),
            ("spin", json!(1001), "a whole number from 0 to 1000"),
            ("min_wait", json!(-1), "a whole number from 0 to 1000"),
            ("io_uring", json!("auto"), "is \"auto\"; true or false is allowed"),
            ("offloads", json!(false), "an object of switches"),
            ("offloads", json!({"tso": 0}), "\"offloads.tso\": is 0; true or false"),
            ("offloads", json!({"udp_gos": false}), "\"offloads.udp_gos\": is not a key of this program; did you mean"),
            ("offloads", json!({"stun": false}), "\"offloads.stun\": is not a key"),
            ("peers", json!({}), "a list of objects"),
            ("peers", json!([{"name": "b"}]), "\"peers[0].address\": is missing"),
            (
                "peers",
                json!([{"name": "b", "adress": "1.1.1.1:1"}]),
                "\"peers[0].adress\": is not a key of this program; did you mean \"address\"?",
            ),
            ("peers", json!([{"name": "b", "address": "10.99.0.1:5800"}]), "own \"listen\" address"),
            ("peers", json!([{"name": "b", "address": "[fd99::1]:5800"}]), "both must be IPv4 or both IPv6"),
            (
                "peers",
                json!([{"name": "b", "address": "1.1.1.1:1"}, {"name": "b", "address": "1.1.1.2:1"}]),
                "is there twice",
            ),
            (
                "peers",
                json!([{"name": "b", "address": "1.1.1.1:1"}, {"name": "c", "address": "1.1.1.1:1"}]),
                "address of \"b\" already",
            ),
        ];
        for (key, value, expected) in cases {
            let text = message(key, value.clone());
            assert!(text.contains(expected), "{key} {value}: {text}");
            assert!(text.starts_with("x.json: \""), "{text}");
        }
    }

    #[test]
    fn everything_is_on_unless_it_is_off() {
        let config = Config::parse("x.json", &minimal().to_string()).unwrap();
        assert_eq!(config.io_uring, EngineChoice::Auto);
        assert_eq!(config.offloads, OffloadSwitches { tso: true, uso: true, udp_gso: true, udp_gro: true });
        let choices = [true, false].map(|on| with("io_uring", json!(on)).unwrap().io_uring);
        assert_eq!(choices, [EngineChoice::IoUring, EngineChoice::Calls]);
        let config = with("offloads", json!({ "udp_gro": false, "tso": true })).unwrap();
        assert_eq!(config.offloads, OffloadSwitches { tso: true, uso: true, udp_gso: true, udp_gro: false });
    }

    #[test]
    fn security_is_not_switched_off_by_silence() {
        let mut config = minimal();
        config.as_object_mut().unwrap().remove("sec");
        let text = Config::parse("x.json", &config.to_string()).unwrap_err().to_string();
        assert!(text.contains("\"sec\": encrypted links are not there yet"), "{text}");
    }

    #[test]
    fn keys_of_ipop_are_explained() {
        let config = with("xmpp_host", json!("talk.example")).unwrap();
        assert!(
            config.warnings.iter().any(|w| w.contains("xmpp_host") && w.contains("peers")),
            "{:?}",
            config.warnings
        );
    }

    #[test]
    fn both_families_on_the_wildcard() {
        let mut config = minimal();
        config["listen"] = json!("[::]:5800");
        assert!(Config::parse("x.json", &config.to_string()).is_ok());
    }

    #[test]
    fn not_even_json() {
        for text in ["", "[]", "{", "{\"a\":1,\"a\":2}"] {
            assert!(Config::parse("x.json", text).unwrap_err().to_string().starts_with("x.json: "), "{text}");
        }
    }
}
