//! The port in the config: a TAP of the gateway's own, or a whole interface.

use ipop_dataplane::forward::GroupMask;
use serde_json::Value;

use super::{ConfigError, Keys, keys};

/// What the gateway's frames come from and go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortConfig {
    /// A TAP device of its own.
    Tap {
        /// Its name.
        name: String,
        /// Bridge that it is attached to, if that is ours to do.
        bridge: Option<String>,
        /// Its MTU; otherwise the bridge's.
        mtu: Option<usize>,
    },
    /// A whole interface.
    AfPacket {
        /// Its name.
        interface: String,
        /// Which reserved group addresses are carried.
        groups: GroupMask,
    },
}

impl PortConfig {
    /// Which reserved group addresses are carried. Before a TAP the bridge decides.
    pub fn groups(&self) -> GroupMask {
        match self {
            PortConfig::Tap { .. } => GroupMask::ALL,
            PortConfig::AfPacket { groups, .. } => *groups,
        }
    }

    /// The bridge to attach it to.
    pub fn bridge(&self) -> Option<&str> {
        match self {
            PortConfig::Tap { bridge, .. } => bridge.as_deref(),
            PortConfig::AfPacket { .. } => None,
        }
    }
}

impl std::fmt::Display for PortConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PortConfig::Tap { name, bridge: Some(bridge), .. } => write!(f, "{name}, bridge {bridge}"),
            PortConfig::Tap { name, bridge: None, .. } => write!(f, "{name}, bridge none (attach it by hand)"),
            PortConfig::AfPacket { interface, .. } => write!(f, "AF_PACKET on {interface}"),
        }
    }
}

impl Keys<'_> {
    /// A TAP, or the interface in `"port": { "af_packet": "eth1" }`.
    pub(super) fn port(&self) -> Result<PortConfig, ConfigError> {
        let Some(value) = self.object.get("port") else {
            let name = self.interface("tap")?.unwrap_or_else(|| "ipop".to_owned());
            let bridge = self.interface("bridge")?;
            if bridge.as_ref() == Some(&name) {
                return Err(self.error("bridge", "is the same interface as \"tap\""));
            }
            let mtu = self.number("mtu", 1500, 576..=65_521)?.map(|mtu| mtu as usize);
            return Ok(PortConfig::Tap { name, bridge, mtu });
        };
        let example = "{ \"af_packet\": \"eth1\" }";
        let Value::Object(object) = value else {
            return Err(self.error("port", format!("is {value}; an object is allowed, such as {example}")));
        };
        let keys = Keys { file: self.file, prefix: format!("{}port.", self.prefix), object };
        keys.check_names(keys::PORT)?;
        let interface = keys.interface("af_packet")?.ok_or_else(|| {
            keys.error("af_packet", format!("is missing: the port is a whole interface by {example}"))
        })?;
        for (key, why) in [
            ("tap", "the port is either a TAP or a whole interface"),
            ("bridge", "only a TAP is attached to a bridge"),
            ("mtu", "the interface keeps the MTU that it has"),
        ] {
            if self.object.contains_key(key) {
                return Err(self.error(key, format!("cannot be there beside \"port\": {why}; leave one of them out")));
            }
        }
        Ok(PortConfig::AfPacket { interface, groups: keys.groups()? })
    }

    /// A mask as bridges have it, which are set and shown in hexadecimal digits.
    fn groups(&self) -> Result<GroupMask, ConfigError> {
        let key = "group_fwd_mask";
        let Some(value) = self.object.get(key) else { return Ok(GroupMask::SPANNING_TREE) };
        let bits = match value {
            Value::String(text) => text.strip_prefix("0x").and_then(|digits| u16::from_str_radix(digits, 16).ok()),
            _ => value.as_u64().and_then(|number| u16::try_from(number).ok()),
        };
        let bits = bits.ok_or_else(|| {
            let allowed = "a mask of 16 bits is allowed, such as \"0x4009\" for spanning tree, 802.1X and LLDP";
            self.error(key, format!("is {value}; {allowed}"))
        })?;
        GroupMask::new(bits).ok_or_else(|| {
            self.error(key, format!("is {value}; bit 1 cannot be set, since pause frames are never carried"))
        })
    }
}
