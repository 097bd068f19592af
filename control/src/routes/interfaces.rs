//! Which interface frames of another one come out of.

use std::collections::HashMap;

use super::netlink::{Attributes, u32_at};

/// `struct ifinfomsg`: family, type, index, flags, changed flags.
pub(super) const INFO_LEN: usize = 16;

/// How frames that leave by one interface come to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// All of them.
    All,
    /// Some: a bridge is in between, and decides by the destination's MAC.
    Some,
}

/// What matters of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    mtu: u32,
    /// The bridge, bond or VRF that it is a port of.
    master: Option<u32>,
    /// The interface below it, or the other end of a veth pair, if that is in this namespace.
    link: Option<u32>,
    veth: bool,
}

impl Interface {
    /// Reads the body of RTM_NEWLINK; `None` if it does not tell of the interface as a whole.
    fn parse(body: &[u8]) -> Option<(u32, Interface)> {
        let index = u32_at(body, 4)?;
        let mut it = Interface { name: String::new(), mtu: 0, master: None, link: None, veth: false };
        let mut elsewhere = false;
        for (kind, value) in Attributes(body.get(INFO_LEN..)?) {
            match kind {
                libc::IFLA_IFNAME => it.name = text(value),
                libc::IFLA_MTU => it.mtu = u32_at(value, 0)?,
                libc::IFLA_MASTER => it.master = u32_at(value, 0),
                libc::IFLA_LINK => it.link = u32_at(value, 0),
                libc::IFLA_LINK_NETNSID => elsewhere = true,
                libc::IFLA_LINKINFO => {
                    it.veth =
                        Attributes(value).any(|(kind, value)| kind == libc::IFLA_INFO_KIND && text(value) == "veth");
                }
                _ => {}
            }
        }
        // An index says nothing in another namespace; that of itself is how some drivers say that there is none.
        it.link = it.link.filter(|link| !elsewhere && *link != 0 && *link != index);
        (!it.name.is_empty() && it.mtu > 0).then_some((index, it))
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|octet| *octet == 0).next().unwrap_or_default()).into_owned()
}

/// All interfaces of the namespace.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    by_index: HashMap<u32, Interface>,
}

impl Interfaces {
    /// Takes a message in; true if that changes something that matters.
    pub(super) fn take(&mut self, kind: u16, body: &[u8]) -> bool {
        // The bridge tells of its ports in messages of the same kind.
        if body.first().is_none_or(|family| i32::from(*family) == libc::AF_BRIDGE) {
            return false;
        }
        match kind {
            libc::RTM_NEWLINK => Interface::parse(body)
                .is_some_and(|(index, it)| self.by_index.insert(index, it.clone()).is_none_or(|before| before != it)),
            libc::RTM_DELLINK => u32_at(body, 4).is_some_and(|index| self.by_index.remove(&index).is_some()),
            _ => false,
        }
    }

    pub(super) fn index_of(&self, name: &str) -> Option<u32> {
        self.by_index.iter().find(|(_, it)| it.name == name).map(|(index, _)| *index)
    }

    pub(super) fn name_of(&self, index: u32) -> &str {
        self.by_index.get(&index).map_or("?", |it| &it.name)
    }

    pub(super) fn mtu_of(&self, index: u32) -> Option<u32> {
        self.by_index.get(&index).map(|it| it.mtu)
    }

    /// Whether frames that leave by `from` come out of `to`.
    pub(super) fn way(&self, from: u32, to: u32) -> Option<Way> {
        let mut open = vec![(from, Way::All)];
        let mut seen = Vec::new();
        while let Some((at, way)) = open.pop() {
            if at == to {
                return Some(way);
            }
            if seen.contains(&at) {
                continue;
            }
            seen.push(at);
            // Of a bridge, any port may be the way out. A VRF's ports are none of its ways, but then routes name the port.
            open.extend(
                self.by_index.iter().filter(|(_, it)| it.master == Some(at)).map(|(port, _)| (*port, Way::Some)),
            );
            let Some(it) = self.by_index.get(&at) else { continue };
            match it.link {
                // What goes into one end of a cable comes out of the other, and into the bridge that this is plugged in.
                Some(other) if it.veth => {
                    let bridge = self.by_index.get(&other).and_then(|other| other.master);
                    open.extend(bridge.map(|bridge| (bridge, way)));
                    open.extend((other == to).then_some((other, way)));
                }
                // VLANs, macvlans and the like.
                Some(lower) => open.push((lower, way)),
                None => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LXCBR0: u32 = 2;
    const TAP: u32 = 3;
    const ETH0: u32 = 4;
    const VETH: u32 = 5;
    const PLUG: u32 = 6;
    const TAGGED: u32 = 7;
    const BR1: u32 = 8;
    const ABOVE: u32 = 9;
    const UPLINK: u32 = 10;

    fn interfaces() -> Interfaces {
        let mut all = Interfaces::default();
        let mut add = |index, name: &str, master: Option<u32>, link: Option<u32>, veth| {
            let it = Interface { name: name.to_owned(), mtu: 1500, master, link, veth };
            all.by_index.insert(index, it);
        };
        add(LXCBR0, "lxcbr0", None, None, false);
        add(TAP, "ipop", Some(LXCBR0), None, false);
        add(ETH0, "eth0", None, None, false);
        add(VETH, "host0", None, Some(PLUG), true);
        add(PLUG, "plug0", Some(LXCBR0), Some(VETH), true);
        add(TAGGED, "lxcbr0.10", None, Some(LXCBR0), false);
        add(BR1, "br1", None, None, false);
        add(ABOVE, "macvlan0", Some(BR1), Some(TAP), false);
        add(UPLINK, "eth0.7", None, Some(ETH0), false);
        all
    }

    #[test]
    fn ways_into_the_port() {
        let all = interfaces();
        for (from, way) in [
            (TAP, Some(Way::All)),
            (ABOVE, Some(Way::All)),
            (LXCBR0, Some(Way::Some)),
            (TAGGED, Some(Way::Some)),
            (VETH, Some(Way::Some)),
            (BR1, Some(Way::Some)),
            (ETH0, None),
            (UPLINK, None),
            (99, None),
        ] {
            assert_eq!(all.way(from, TAP), way, "{}", all.name_of(from));
        }
        // The end of a cable that is plugged in leads out to the other end, not into its own bridge.
        assert_eq!(all.way(PLUG, TAP), None);
        // An end of a cable may be the port.
        assert_eq!(all.way(VETH, PLUG), Some(Way::All));
    }

    #[test]
    fn bridges_in_a_ring_are_no_endless_walk() {
        let mut all = interfaces();
        all.by_index.get_mut(&LXCBR0).unwrap().master = Some(BR1);
        all.by_index.get_mut(&BR1).unwrap().master = Some(LXCBR0);
        assert_eq!(all.way(BR1, ETH0), None);
    }

    #[test]
    fn messages_change_what_is_known() {
        let message = |attributes: &[(u16, &[u8])]| {
            let mut body = vec![0; INFO_LEN];
            body[4..8].copy_from_slice(&7u32.to_ne_bytes());
            attributes.iter().for_each(|(kind, value)| super::super::netlink::attribute(&mut body, *kind, value));
            body
        };
        let (name, mtu, link) = ((libc::IFLA_IFNAME, &b"x0\0"[..]), 1400u32.to_ne_bytes(), 9u32.to_ne_bytes());
        let whole = message(&[name, (libc::IFLA_MTU, &mtu), (libc::IFLA_LINK, &link)]);
        let mut all = Interfaces::default();
        assert!(all.take(libc::RTM_NEWLINK, &whole));
        assert!(!all.take(libc::RTM_NEWLINK, &whole), "the same again");
        assert_eq!((all.index_of("x0"), all.mtu_of(7), all.way(7, 9)), (Some(7), Some(1400), Some(Way::All)));
        // As of a wireless card, which tells of an event.
        assert!(!all.take(libc::RTM_NEWLINK, &message(&[name])));
        let mut port = whole.clone();
        port[0] = libc::AF_BRIDGE as u8;
        assert!(!all.take(libc::RTM_DELLINK, &port), "it left its bridge");
        let far = (libc::IFLA_LINK_NETNSID, &link[..]);
        assert!(all.take(libc::RTM_NEWLINK, &message(&[name, (libc::IFLA_MTU, &mtu), (libc::IFLA_LINK, &link), far])));
        assert_eq!(all.way(7, 9), None, "another namespace's 9");
        assert!(all.take(libc::RTM_DELLINK, &whole));
        assert_eq!(all.index_of("x0"), None);
    }
}
