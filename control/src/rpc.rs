//! The messages that gateways exchange as JSON, with IPOP's names where it has them.
//!
//! | `msg_type` | meaning |
//! |---|---|
//! | `bye` | the sender stops |
//! | `arp_request`, `nd_request` | who has `target_ip4` / `target_ip6`? The asker's addresses come along |
//! | `arp_reply`, `nd_reply` | `target_ip4` / `target_ip6` has `mac` |
//! | `arp_query`, `nd_query` | does `mac`, at the receiver, still have `target_ip4` / `target_ip6`? A reply or a withdrawal follows |
//! | `arp_withdraw`, `nd_withdraw` | `mac` has it no longer |
//! | `mac_moved` | `mac` is at the sender |
//! | `mac_released` | `mac` is at the sender no longer |
//! | `mac_query` | is `mac` still at the receiver? `claimant` says no, the sender if it is absent |
//! | `path_probe`, `probe_reply` | path MTU |
//! | `key_in_use` | another gateway, at `address`, has the receiver's key |
//!
//! Questions, answers and announcements carry the station's own `frame` (base64) beside IPOP's members, and that frame is
//! what the other side repeats: flags, options, tags, priorities and sources survive. Without it the receiver makes one of
//! the members.
//!
//! ARP and neighbour discovery are the same exchange with other addresses, so they are one [`Message`] here and get
//! their names on the way out. Unknown members are ignored, so that later versions can add some.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipop_dataplane::addr::{MacAddr, Vlan};
use serde::{Deserialize, Serialize};

/// Largest message, in octets: it must fit the smallest datagram with all headers.
pub const MAX_MESSAGE: usize = 1024;
/// Largest frame that a message carries, in octets; with base64 and the longest members it stays below [`MAX_MESSAGE`].
pub const MAX_CARRIED: usize = 480;

/// A message between gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who has the address?
    Request(Request),
    /// The address is here.
    Reply(Reply),
    /// Is the address still there?
    Query(Withdraw),
    /// The address is here no longer.
    Withdraw(Withdraw),
    /// The MAC is at the sender.
    MacMoved(MacMoved),
    /// The MAC is at the sender no longer.
    MacReleased(MacMoved),
    /// Is the MAC still at the receiver?
    MacQuery(MacQuery),
    /// Answer this if it arrived: the datagram has this many octets of UDP payload.
    Probe(u16),
    /// A probe of this size arrived.
    ProbeReply(u16),
    /// Another gateway, at this address, has the receiver's key.
    KeyInUse(SocketAddr),
    /// The sender stops.
    Bye,
}

/// `arp_request`, `nd_request`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The address that is asked for.
    pub target: IpAddr,
    /// Who asks; nobody yet in a probe (RFC 5227) and in duplicate address detection (RFC 4862).
    pub asker: Option<IpAddr>,
    /// The asker's MAC.
    pub asker_mac: MacAddr,
    /// The broadcast domain.
    pub vlan: Vlan,
    /// How often the asker's MAC has moved between gateways.
    pub seq: u16,
    /// The question itself.
    pub frame: Option<Box<[u8]>>,
}

/// `arp_reply`, `nd_reply`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The address.
    pub target: IpAddr,
    /// Who has it.
    pub mac: MacAddr,
    /// The gateway that says so.
    pub uid: String,
    /// The broadcast domain.
    pub vlan: Vlan,
    /// How often the MAC has moved between gateways.
    pub seq: u16,
    /// Whose request it answers, if it answers one.
    pub asker_mac: Option<MacAddr>,
    /// Set for a gratuitous ARP or unsolicited advertisement, which receivers repeat in their segments.
    pub announcement: Option<Announcement>,
    /// The sender of the advertisement is a router.
    pub router: bool,
    /// The advertisement replaces what is cached (RFC 4861, 4.4); ARP always does.
    pub overrides: bool,
    /// The answer or announcement itself.
    pub frame: Option<Box<[u8]>>,
}

/// How an address was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Announcement {
    /// ARP request for the own address (RFC 5227, 3).
    Request,
    /// ARP reply nobody asked for, or unsolicited neighbour advertisement.
    Reply,
}

/// `arp_withdraw`, `nd_withdraw`, `arp_query`, `nd_query`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdraw {
    /// The address.
    pub target: IpAddr,
    /// Who had it, or is thought to have it.
    pub mac: MacAddr,
    /// The broadcast domain.
    pub vlan: Vlan,
}

/// `mac_moved`, `mac_released`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacMoved {
    /// The MAC.
    pub mac: MacAddr,
    /// The broadcast domain.
    pub vlan: Vlan,
    /// How often it has moved between gateways, this time included.
    pub seq: u16,
}

/// `mac_query`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacQuery {
    /// The MAC.
    pub mac: MacAddr,
    /// The broadcast domain.
    pub vlan: Vlan,
    /// How often it has moved between gateways, by the word of the claimant.
    pub seq: u16,
    /// The uid of the gateway that claims it, if that is not the sender.
    pub claimant: Option<String>,
}

/// The JSON object: every member that any message has.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Wire {
    msg_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_ip4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_ip6: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asker_ip4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asker_ip6: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asker_mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    announcement: Option<Announcement>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    router: bool,
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    overrides: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frame: Option<String>,
}

impl Wire {
    fn set_target(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.target_ip4 = Some(ip),
            IpAddr::V6(ip) => self.target_ip6 = Some(ip),
        }
    }
}

impl Message {
    /// The message's name.
    pub fn msg_type(&self) -> &'static str {
        match self {
            Message::Request(m) if m.target.is_ipv4() => "arp_request",
            Message::Request(_) => "nd_request",
            Message::Reply(m) if m.target.is_ipv4() => "arp_reply",
            Message::Reply(_) => "nd_reply",
            Message::Query(m) if m.target.is_ipv4() => "arp_query",
            Message::Query(_) => "nd_query",
            Message::Withdraw(m) if m.target.is_ipv4() => "arp_withdraw",
            Message::Withdraw(_) => "nd_withdraw",
            Message::MacMoved(_) => "mac_moved",
            Message::MacReleased(_) => "mac_released",
            Message::MacQuery(_) => "mac_query",
            Message::Probe(_) => "path_probe",
            Message::ProbeReply(_) => "probe_reply",
            Message::KeyInUse(_) => "key_in_use",
            Message::Bye => "bye",
        }
    }

    /// The JSON object.
    pub fn to_value(&self) -> serde_json::Value {
        let mut wire = Wire { msg_type: self.msg_type().to_owned(), ..Wire::default() };
        let vlan = |vlan: Vlan| (vlan != Vlan::UNTAGGED).then_some(vlan.bits());
        let text = |frame: &Option<Box<[u8]>>| frame.as_ref().map(|frame| STANDARD.encode(frame));
        match self {
            Message::Request(m) => {
                wire.set_target(m.target);
                match m.asker {
                    Some(IpAddr::V4(ip)) => wire.asker_ip4 = Some(ip),
                    Some(IpAddr::V6(ip)) => wire.asker_ip6 = Some(ip),
                    None => {}
                }
                wire.asker_mac = Some(m.asker_mac.to_string());
                (wire.vlan, wire.seq, wire.frame) = (vlan(m.vlan), Some(m.seq), text(&m.frame));
            }
            Message::Reply(m) => {
                wire.set_target(m.target);
                wire.mac = Some(m.mac.to_string());
                wire.uid = Some(m.uid.clone());
                wire.asker_mac = m.asker_mac.map(|mac| mac.to_string());
                (wire.vlan, wire.seq) = (vlan(m.vlan), Some(m.seq));
                (wire.announcement, wire.router, wire.frame) = (m.announcement, m.router, text(&m.frame));
                wire.overrides = (!m.overrides).then_some(false);
            }
            Message::Withdraw(m) | Message::Query(m) => {
                wire.set_target(m.target);
                (wire.mac, wire.vlan) = (Some(m.mac.to_string()), vlan(m.vlan));
            }
            Message::MacMoved(m) | Message::MacReleased(m) => {
                (wire.mac, wire.vlan, wire.seq) = (Some(m.mac.to_string()), vlan(m.vlan), Some(m.seq));
            }
            Message::MacQuery(m) => {
                (wire.mac, wire.vlan, wire.seq) = (Some(m.mac.to_string()), vlan(m.vlan), Some(m.seq));
                wire.claimant = m.claimant.clone();
            }
            Message::Probe(size) | Message::ProbeReply(size) => wire.size = Some(*size),
            Message::KeyInUse(address) => wire.address = Some(*address),
            Message::Bye => {}
        }
        serde_json::to_value(wire).unwrap_or_default()
    }

    /// The text of the JSON object.
    pub fn to_json(&self) -> String {
        self.to_value().to_string()
    }

    /// Reads a message from a peer. `None` if it is too long, no such object, or has an address that no station has.
    pub fn parse(bytes: &[u8]) -> Option<Message> {
        if bytes.len() > MAX_MESSAGE {
            return None;
        }
        let wire: Wire = serde_json::from_slice(bytes).ok()?;
        let station = |text: &Option<String>| -> Option<MacAddr> {
            let mac: MacAddr = text.as_deref()?.parse().ok()?;
            mac.is_station().then_some(mac)
        };
        // What ARP and neighbour discovery name may be a group's, as clusters do (MS NLB in multicast mode).
        let neighbour = |text: &Option<String>| -> Option<MacAddr> {
            let mac: MacAddr = text.as_deref()?.parse().ok()?;
            mac.is_neighbour().then_some(mac)
        };
        let frame = match &wire.frame {
            None => None,
            Some(text) => Some(carried(text)?),
        };
        let moved = |seq: u16| {
            let vlan = Vlan::from_bits(wire.vlan.unwrap_or(0))?;
            Some(MacMoved { mac: station(&wire.mac)?, vlan, seq: seq & 0xfff })
        };
        let vlan = Vlan::from_bits(wire.vlan.unwrap_or(0))?;
        // Twelve bits, as the MAC table keeps it.
        let seq = wire.seq.unwrap_or(0) & 0xfff;
        let (family, kind) = wire.msg_type.split_once('_').unwrap_or((&wire.msg_type, ""));
        let target = || match family {
            "arp" => wire.target_ip4.map(IpAddr::V4),
            "nd" => wire.target_ip6.map(IpAddr::V6),
            _ => None,
        };
        let asker = match family {
            "arp" => wire.asker_ip4.map(IpAddr::V4),
            _ => wire.asker_ip6.map(IpAddr::V6),
        };
        let is_host = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ipop_dataplane::wire::arp::is_host(ip),
            IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback(),
        };
        let address = || {
            let target = target().filter(|ip| is_host(*ip))?;
            Some(Withdraw { target, mac: neighbour(&wire.mac)?, vlan })
        };
        let message = match (family, kind) {
            ("arp" | "nd", "request") => {
                let target = target().filter(|ip| is_host(*ip))?;
                if asker.is_some_and(|ip| !is_host(ip)) {
                    return None;
                }
                Message::Request(Request { target, asker, asker_mac: neighbour(&wire.asker_mac)?, vlan, seq, frame })
            }
            ("arp" | "nd", "reply") => Message::Reply(Reply {
                target: target().filter(|ip| is_host(*ip))?,
                mac: neighbour(&wire.mac)?,
                uid: wire.uid.filter(|uid| uid.len() <= 64).unwrap_or_default(),
                vlan,
                seq,
                asker_mac: match &wire.asker_mac {
                    None => None,
                    some => Some(neighbour(some)?),
                },
                announcement: wire.announcement,
                router: wire.router,
                overrides: wire.overrides.unwrap_or(true),
                frame,
            }),
            ("arp" | "nd", "withdraw") => Message::Withdraw(address()?),
            ("arp" | "nd", "query") => Message::Query(address()?),
            ("mac", "moved") => Message::MacMoved(moved(wire.seq?)?),
            ("mac", "released") => Message::MacReleased(moved(wire.seq?)?),
            ("mac", "query") => Message::MacQuery(MacQuery {
                mac: station(&wire.mac)?,
                vlan,
                seq: wire.seq? & 0xfff,
                claimant: wire.claimant.filter(|uid| uid.len() <= 64),
            }),
            ("probe", "reply") => Message::ProbeReply(wire.size?),
            ("path", "probe") => Message::Probe(wire.size?),
            ("key", "in_use") => Message::KeyInUse(wire.address?),
            ("bye", "") => Message::Bye,
            _ => return None,
        };
        Some(message)
    }
}

/// The frame in a message.
fn carried(text: &str) -> Option<Box<[u8]>> {
    STANDARD.decode(text).ok().filter(|frame| frame.len() <= MAX_CARRIED).map(Vec::into_boxed_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> Request {
        Request {
            target: "10.0.3.104".parse().unwrap(),
            asker: Some("10.0.3.3".parse().unwrap()),
            asker_mac: "00:16:3e:00:00:03".parse().unwrap(),
            vlan: Vlan::UNTAGGED,
            seq: 0,
            frame: None,
        }
    }

    fn reply() -> Reply {
        Reply {
            target: "fd00::104".parse().unwrap(),
            mac: "00:16:3e:00:01:04".parse().unwrap(),
            uid: "abc".into(),
            vlan: Vlan::customer(10),
            seq: 3,
            asker_mac: Some("00:16:3e:00:00:03".parse().unwrap()),
            announcement: None,
            router: true,
            overrides: true,
            frame: None,
        }
    }

    #[test]
    fn names_of_ipop() {
        assert_eq!(
            Message::Request(request()).to_json(),
            r#"{"msg_type":"arp_request","target_ip4":"10.0.3.104","asker_ip4":"10.0.3.3","asker_mac":"00:16:3e:00:00:03","seq":0}"#
        );
    }

    #[test]
    fn every_message_survives() {
        let mac = "00:16:3e:00:00:03".parse().unwrap();
        let messages = [
            Message::Request(request()),
            Message::Request(Request { asker: None, ..request() }),
            Message::Reply(reply()),
            Message::Reply(Reply { asker_mac: None, announcement: Some(Announcement::Request), ..reply() }),
            Message::Request(Request { frame: Some(vec![0xa5; MAX_CARRIED].into()), ..request() }),
            Message::Reply(Reply { overrides: false, frame: Some(vec![1; 60].into()), ..reply() }),
            Message::Reply(Reply { mac: MacAddr([3, 0xbf, 10, 0, 3, 99]), ..reply() }),
            Message::Withdraw(Withdraw { target: "10.0.3.1".parse().unwrap(), mac, vlan: Vlan::customer(4095) }),
            Message::Query(Withdraw { target: "fd00::1".parse().unwrap(), mac, vlan: Vlan::UNTAGGED }),
            Message::MacMoved(MacMoved { mac, vlan: Vlan::service(1), seq: 9 }),
            Message::MacReleased(MacMoved { mac, vlan: Vlan::UNTAGGED, seq: 9 }),
            Message::MacQuery(MacQuery { mac, vlan: Vlan::customer(7), seq: 9, claimant: None }),
            Message::MacQuery(MacQuery { mac, vlan: Vlan::customer(7), seq: 9, claimant: Some("ab".repeat(32)) }),
            Message::Probe(1472),
            Message::ProbeReply(1472),
            Message::KeyInUse("[fd99::1]:5800".parse().unwrap()),
            Message::Bye,
        ];
        for message in messages {
            let json = message.to_json();
            assert!(json.len() < MAX_MESSAGE);
            assert_eq!(Message::parse(json.as_bytes()), Some(message), "{json}");
        }
    }

    #[test]
    fn refusals() {
        let bad = [
            "",
            "null",
            "{}",
            r#"{"msg_type":"arp_request"}"#,
            r#"{"msg_type":"frobnicate","size":1}"#,
            r#"{"msg_type":"arp_request","target_ip4":"10.0.3.104","asker_mac":"ff:ff:ff:ff:ff:ff"}"#,
            r#"{"msg_type":"arp_request","target_ip6":"fd00::1","asker_mac":"00:16:3e:00:00:03"}"#,
            r#"{"msg_type":"arp_request","target_ip4":"224.0.0.1","asker_mac":"00:16:3e:00:00:03"}"#,
            r#"{"msg_type":"arp_reply","target_ip4":"10.0.3.1","mac":"00:16:3e:00:00:03","vlan":9000}"#,
            r#"{"msg_type":"arp_reply","target_ip4":"10.0.3.1","mac":"00:16:3e:00:00:03","seq":-1}"#,
            r#"{"msg_type":"arp_reply","target_ip4":"10.0.3.1","mac":"00:16:3e:00:00:03","frame":"no base64"}"#,
            r#"{"msg_type":"mac_moved","mac":"01:16:3e:00:00:03","seq":1}"#,
        ];
        for text in bad {
            assert_eq!(Message::parse(text.as_bytes()), None, "{text}");
        }
        let long = format!(r#"{{"msg_type":"path_probe","size":1,"x":"{}"}}"#, "y".repeat(MAX_MESSAGE));
        assert_eq!(Message::parse(long.as_bytes()), None);
    }

    #[test]
    fn deep_nesting_is_no_harm() {
        // As deep as the largest message can be: the parser must not follow it by recursion.
        let depth = (MAX_MESSAGE - 40) / 2;
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let depth = depth / open.len().max(1);
            let (open, close) = (open.repeat(depth), close.repeat(depth));
            let text = format!(r#"{{"msg_type":"path_probe","size":7,"x":{open}{close}}}"#);
            assert!(matches!(Message::parse(text.as_bytes()), None | Some(Message::Probe(7))), "{text}");
            assert_eq!(Message::parse(open.as_bytes()), None);
            assert_eq!(crate::link::clear::Hello::parse(text.as_bytes()), None);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_message(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Message::parse(&bytes), None);
        }
    }
}
