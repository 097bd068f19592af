//! The names of the keys: ours, and those of IPOP that mean nothing here.

/// Keys of the file.
pub(super) const TOP: &[&str] = &[
    "switchmode",
    "name",
    "tap",
    "bridge",
    "port",
    "mtu",
    "listen",
    "sec",
    "private_key_file",
    "network",
    "peers",
    "arp_expiry",
    "arp_fresh",
    "mac_expiry",
    "mac_freeze",
    "sticky_macs",
    "max_macs",
    "max_macs_per_peer",
    "max_addresses_per_peer",
    "max_addresses_per_mac",
    "flood_rate",
    "workers",
    "cpus",
    "source_ports",
    "spin",
    "min_wait",
    "io_uring",
    "offloads",
    "dscp",
    "raw_udp_ports",
    "control_socket",
    "control_group",
    "user",
    "confine",
];

/// Keys of `port`.
pub(super) const PORT: &[&str] = &["af_packet", "group_fwd_mask"];

/// Keys of `offloads`.
pub(super) const OFFLOADS: &[&str] = &["tso", "uso", "udp_merge", "udp_gso", "udp_gro", "zero_copy"];

/// Keys of an entry in `peers`.
pub(super) const PEER: &[&str] = &[
    "name",
    "address",
    "public_key",
    "preshared_key_file",
    "allowed_macs",
    "allowed_ips",
    "max_macs",
    "max_addresses",
];

/// What stands here in the place of a key of IPOP's controllers.
pub(super) fn replaced(key: &str) -> Option<&'static str> {
    Some(match key {
        "xmpp_username" | "xmpp_password" | "xmpp_host" | "xmpp_port" | "xmpp_svr" => {
            "\"peers\" lists the other gateways"
        }
        "stun" | "turn" => "peers are reached directly, by the \"address\" in \"peers\"",
        "ip4" | "ip4_mask" | "ip6" | "ip6_mask" | "ip6_prefix" | "subnet_mask" | "bridge_ip" => {
            "the port has no address of its own; containers have theirs, or get them by DHCP over the segment"
        }
        "tap_name" => "write \"tap\"",
        "local_uid" | "uid_size" | "nick" => "the \"uid\" comes from the gateway's key; \"name\" is for people",
        "svpn_port" | "contr_port" | "localhost" | "localhost6" => {
            "dataplane and control are one process; \"control_socket\" is the way in"
        }
        "tincan_logging" | "controller_logging" => "the option --log sets the level",
        "icc" | "icc_port" => "\"listen\" is the one UDP port between gateways",
        "on-demand_connection" | "on-demand_inactive_timeout" | "trim_enabled" => {
            "every gateway keeps a link to every peer"
        }
        "multihop" | "multihop_cl" | "multihop_ihc" | "multihop_hl" | "multihop_tl" | "multihop_sr" => {
            "frames go straight to the peer that owns the destination"
        }
        "router_mode" | "router_ip" | "router_ip4_mask" | "router_ip6_mask" => "nothing is routed; this is a switch",
        "stat_report" | "stat_server" | "stat_server_port" => "nothing is reported to anyone; see `ipop status`",
        "wait_time" | "buf_size" => "there is nothing to set",
        _ => return None,
    })
}

/// The known key that is nearest to `key`, if one is near.
pub(super) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let best = known.iter().min_by_key(|name| distance(key, name))?;
    (distance(key, best) <= 1 + key.len() / 4).then_some(best)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_key() {
        assert_eq!(nearest("brigde", TOP), Some("bridge"));
        assert_eq!(nearest("arp_expire", TOP), Some("arp_expiry"));
        assert_eq!(nearest("frobnicate", TOP), None);
    }

    #[test]
    fn what_replaces_a_key_is_what_is_there() {
        assert_eq!(replaced("local_uid"), Some("the \"uid\" comes from the gateway's key; \"name\" is for people"));
        assert_eq!(replaced("switchmode"), None);
    }

    #[test]
    fn distances() {
        for (a, b, d) in [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0)] {
            assert_eq!(distance(a, b), d);
        }
    }
}
