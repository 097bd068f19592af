//! The port in the config: a TAP of the gateway's own, or a whole interface.

use ipop_dataplane::forward::GroupMask;
use serde_json::{Map, Value};

use super::{Keys, keys};

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
    pub(super) fn port(&self) -> PortConfig {
        let example = "{ \"af_packet\": \"eth1\" }";
        if self.object.contains_key("port") {
            let object = self.value("port", &format!("an object is allowed, such as {example}"), Value::as_object);
            let (interface, groups) = object.map(|object| self.packet_port(object, example)).unwrap_or_default();
            return PortConfig::AfPacket {
                interface: interface.unwrap_or_default(),
                groups: groups.unwrap_or(GroupMask::SPANNING_TREE),
            };
        }
        let name = self.interface("tap").unwrap_or_else(|| "ipop".to_owned());
        let bridge = self.interface("bridge");
        if bridge.as_ref() == Some(&name) {
            self.fault("bridge", "is the same interface as \"tap\"");
        }
        let mtu = self.number("mtu", 1500, 576..=65_521).map(|mtu| mtu as usize);
        PortConfig::Tap { name, bridge, mtu }
    }

    fn packet_port(&self, object: &Map<String, Value>, example: &str) -> (Option<String>, Option<GroupMask>) {
        let keys = self.inner("port", object);
        keys.check_names(keys::PORT);
        if !object.contains_key("af_packet") {
            keys.fault("af_packet", format!("is missing: the port is a whole interface by {example}"));
        }
        for (key, why) in [
            ("tap", "the port is either a TAP or a whole interface"),
            ("bridge", "only a TAP is attached to a bridge"),
            ("mtu", "the interface keeps the MTU that it has"),
        ] {
            if self.object.contains_key(key) {
                self.fault(key, format!("cannot be there beside \"port\": {why}; leave one of them out"));
            }
        }
        (keys.interface("af_packet"), keys.groups())
    }

    /// A mask as bridges have it, which are set and shown in hexadecimal digits.
    fn groups(&self) -> Option<GroupMask> {
        let key = "group_fwd_mask";
        let allowed = "a mask of 16 bits is allowed, such as \"0x4009\" for spanning tree, 802.1X and LLDP";
        let bits = self.value(key, allowed, |value| match value {
            Value::String(text) => text.strip_prefix("0x").and_then(|digits| u16::from_str_radix(digits, 16).ok()),
            _ => value.as_u64().and_then(|number| u16::try_from(number).ok()),
        })?;
        let mask = GroupMask::new(bits);
        if mask.is_none() {
            self.fault(key, format!("is {bits:#x}; bit 1 cannot be set, since pause frames are never carried"));
        }
        mask
    }
}
