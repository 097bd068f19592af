//! Switches: what the kernel may be asked for.

use ipop_dataplane::wire::traffic_class::OuterClass;
use serde_json::{Map, Value};

use super::{Keys, PortConfig, keys};

/// What the kernel may be asked for, if it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffloadSwitches {
    /// TCP super-frames between the kernel and the port.
    pub tso: bool,
    /// UDP super-frames between the kernel and the port.
    pub uso: bool,
    /// Datagrams of one flow that are written as one super-frame.
    pub udp_merge: bool,
    /// Trains of datagrams that are sent as one.
    pub udp_gso: bool,
    /// Trains of datagrams that are received as one.
    pub udp_gro: bool,
    /// Trains that are sent without a copy, to peers whose path is seen not to copy.
    pub zero_copy: bool,
}

impl Keys<'_> {
    pub(super) fn switch(&self, key: &str) -> Option<bool> {
        self.value(key, "true or false is allowed", Value::as_bool)
    }

    /// How routers treat the datagrams (RFC 2474): as the frames in them say, or as the number says.
    pub(super) fn outer_class(&self) -> OuterClass {
        let class = |value: &Value| match value {
            Value::String(word) => (word == "inherit").then_some(OuterClass::INHERIT),
            _ => value.as_u64().and_then(|number| OuterClass::fixed(u8::try_from(number).ok()?)),
        };
        let allowed = "\"inherit\" is allowed, for that of the frame inside, or a number from 0 to 63, such as 46";
        self.value("dscp", allowed, class).unwrap_or_default()
    }

    /// UDP ports that somebody reads from raw sockets.
    pub(super) fn raw_udp_ports(&self) -> Vec<u16> {
        const KEY: &str = "raw_udp_ports";
        let list = self.value(KEY, "a list of UDP ports is allowed, such as [4011]", Value::as_array);
        let port = |value: &Value| {
            let port = value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
            if port.is_none() {
                self.fault(KEY, format!("has {value}; UDP ports from 1 to 65535 are allowed, such as [4011]"));
            }
            port
        };
        list.into_iter().flatten().filter_map(port).collect()
    }

    pub(super) fn offloads(&self, port: &PortConfig) -> OffloadSwitches {
        let none = Map::new();
        let allowed = "an object of switches is allowed, such as { \"tso\": false }";
        let object = self.value("offloads", allowed, Value::as_object).unwrap_or(&none);
        let keys = self.inner("offloads", object);
        keys.check_names(keys::OFFLOADS);
        let on = |key| keys.switch(key).unwrap_or(true);
        let tso = on("tso");
        if let (false, PortConfig::AfPacket { interface, .. }) = (tso, port) {
            let message = format!(
                "does not apply to \"af_packet\": others decide what comes from that interface; `ethtool -K {interface} gro off` \
                 keeps it from joining what arrives"
            );
            keys.fault("tso", message);
        }
        OffloadSwitches {
            tso,
            uso: on("uso"),
            udp_merge: on("udp_merge"),
            udp_gso: on("udp_gso"),
            udp_gro: on("udp_gro"),
            zero_copy: on("zero_copy"),
        }
    }
}
