//! Newtypes for what is an address and not a number.

use std::fmt;
use std::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IEEE 802 MAC address, in transmission order.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// 00:00:00:00:00:00, never a valid source or destination.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// True for broadcast and multicast: the I/G bit, the lowest of the first octet (IEEE 802-2014, 8.2).
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// True for an address that one station can own: neither group nor zero.
    pub fn is_station(self) -> bool {
        !self.is_group() && self != Self::ZERO
    }

    /// True for an address that a neighbour entry can name: a station's, or that of a group that a cluster shares.
    pub fn is_neighbour(self) -> bool {
        self != Self::ZERO && self != Self::BROADCAST
    }

    /// True for 01:80:c2:00:00:00 to :0f, which are for the bridge itself (IEEE 802.1Q-2022, table 8-1):
    /// spanning tree, pause frames, LACP, 802.1X, LLDP.
    pub fn is_bridge_reserved(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] && self.0[5] < 0x10
    }

    /// The address as the low 48 bits of an integer.
    pub fn to_u64(self) -> u64 {
        let m = self.0;
        u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]])
    }

    /// The address in the low 48 bits of `value`; the rest is ignored.
    pub fn from_u64(value: u64) -> MacAddr {
        let b = value.to_be_bytes();
        MacAddr([b[2], b[3], b[4], b[5], b[6], b[7]])
    }

    /// The IPv4 multicast or IPv6 multicast MAC that IPv6 group `ip` maps to (RFC 2464, section 7).
    pub fn of_ipv6_group(ip: std::net::Ipv6Addr) -> MacAddr {
        let o = ip.octets();
        MacAddr([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six groups of two hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address: six groups of two hexadecimal digits with ':' between them are wanted")]
pub struct ParseMacError;

impl FromStr for MacAddr {
    type Err = ParseMacError;

    /// Strict: `u8::from_str_radix` alone would take "+1" for a group.
    fn from_str(s: &str) -> Result<Self, ParseMacError> {
        let mut mac = [0u8; 6];
        let mut groups = s.split(':');
        for byte in &mut mac {
            let group = groups.next().ok_or(ParseMacError)?;
            if group.len() != 2 || !group.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *byte = u8::from_str_radix(group, 16).map_err(|_| ParseMacError)?;
        }
        if groups.next().is_some() {
            return Err(ParseMacError);
        }
        Ok(MacAddr(mac))
    }
}

/// The broadcast domain of a frame: untagged, an 802.1Q VLAN, or an 802.1ad service VLAN.
///
/// Bits 0 to 11 are the VLAN identifier, bit 12 is set for a service tag (TPID 0x88a8), so that
/// customer VLAN 10 and service VLAN 10 learn apart. Frames that are only priority-tagged (VID 0)
/// belong to the untagged domain (IEEE 802.1Q-2022, 6.9).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Vlan(u16);

impl Vlan {
    /// Frames without a tag.
    pub const UNTAGGED: Vlan = Vlan(0);
    const SERVICE: u16 = 1 << 12;

    /// The domain of an 802.1Q tag; only the low 12 bits count.
    pub fn customer(vid: u16) -> Vlan {
        Vlan(vid & 0xfff)
    }

    /// The domain of an 802.1ad service tag; only the low 12 bits count.
    pub fn service(vid: u16) -> Vlan {
        Vlan((vid & 0xfff) | Self::SERVICE)
    }

    /// The VLAN identifier, 0 to 4095.
    pub fn vid(self) -> u16 {
        self.0 & 0xfff
    }

    /// True for an 802.1ad service VLAN.
    pub fn is_service(self) -> bool {
        self.0 & Self::SERVICE != 0
    }

    /// The 13 bits of the domain as they stand in a table key or an RPC message.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The inverse of [`Vlan::bits`]; `None` for more than 13 bits.
    pub fn from_bits(bits: u16) -> Option<Vlan> {
        (bits < 1 << 13).then_some(Vlan(bits))
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 & Self::SERVICE != 0 { write!(f, "s{}", self.vid()) } else { write!(f, "{}", self.0) }
    }
}

/// A peer's place in the config and in every per-peer array: below [`PeerId::LIMIT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub u16);

impl PeerId {
    /// The largest number of peers; a table entry has 12 bits for the owner and one value means "local".
    pub const LIMIT: usize = 4095;

    /// The number as an index into per-peer arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text_round_trip() {
        let mac: MacAddr = "00:16:3e:0a:FF:01".parse().unwrap();
        assert_eq!(mac.to_string(), "00:16:3e:0a:ff:01");
        assert_eq!(MacAddr::from_u64(mac.to_u64()), mac);
    }

    #[test]
    fn mac_text_is_strict() {
        for bad in [
            "",
            "00:16:3e:0a:ff",
            "00:16:3e:0a:ff:01:02",
            "+1:16:3e:0a:ff:01",
            "0:16:3e:0a:ff:001",
            "00-16-3e-0a-ff-01",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(ParseMacError), "{bad}");
        }
    }

    #[test]
    fn reserved_range_ends_at_0f() {
        assert!(MacAddr([1, 0x80, 0xc2, 0, 0, 0x0f]).is_bridge_reserved());
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]).is_bridge_reserved());
    }

    #[test]
    fn service_and_customer_vlans_differ() {
        assert_ne!(Vlan::customer(10), Vlan::service(10));
        assert_eq!(Vlan::from_bits(Vlan::service(10).bits()), Some(Vlan::service(10)));
        assert_eq!(Vlan::from_bits(1 << 13), None);
    }
}
