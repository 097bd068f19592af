//! UDP ports whose datagrams programs read from raw sockets, where a super-frame is one frame and a checksum is as it
//! stands: DHCP's, and those that the config adds.
//!
//! Datagrams from or to such a port reach the receiver's port one by one, also those that a guest has sent as one
//! super-frame: on a cable they would be single frames, and a program that reads frames takes one message from each. (A
//! bridge would hand it the super-frame.) And they leave the sender with finished checksums.

/// DHCP and DHCPv6: servers, relays and clients (RFC 2131, section 4.1; RFC 8415, section 7.2).
const DHCP: [u16; 4] = [67, 68, 546, 547];

/// A set of ports, one look-up of a bit for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPorts(Box<[u64; 1 << 10]>);

impl RawPorts {
    /// DHCP's ports, and `more`.
    pub fn with(more: &[u16]) -> RawPorts {
        let mut words = Box::new([0; 1 << 10]);
        for port in DHCP.iter().chain(more) {
            words[usize::from(port >> 6)] |= 1 << (port & 63);
        }
        RawPorts(words)
    }

    /// True if `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] & 1 << (port & 63) != 0
    }

    /// True if one end of a flow is one of them: datagrams of a server come from it, and go to it.
    pub fn either(&self, ports: [u16; 2]) -> bool {
        ports.into_iter().any(|port| self.contains(port))
    }
}

impl Default for RawPorts {
    fn default() -> Self {
        RawPorts::with(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_what_it_was_given_and_nothing_else() {
        let more = [0, 63, 64, 4011, 65_535];
        let ports = RawPorts::with(&more);
        let expected = |port| DHCP.contains(&port) || more.contains(&port);
        assert!((0..=u16::MAX).all(|port| ports.contains(port) == expected(port)));
        assert!(ports.either([4011, 9]) && ports.either([9, 4011]) && !ports.either([9, 10]));
        assert_eq!(RawPorts::default(), RawPorts::with(&[67, 547]));
    }
}
