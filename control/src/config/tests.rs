//! What a config says, and what is wrong with it.

use std::os::unix::fs::PermissionsExt;

use ipop_dataplane::claims::Claims;
use ipop_dataplane::forward::GroupMask;
use serde_json::json;

use super::*;
use crate::keys::PresharedKey;
use crate::limits::Share;

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
fn datagrams_are_of_the_class_that_the_config_says() {
    for (value, class) in [
        (json!("inherit"), Some(OuterClass::INHERIT)),
        (json!(0), Some(OuterClass::default())),
        (json!(46), OuterClass::fixed(46)),
        (json!(64), None),
        (json!("46"), None),
    ] {
        assert_eq!(with("dscp", value.clone()).ok().map(|config| config.outer_class), class, "{value}");
    }
    assert_eq!(Config::parse("x.json", &minimal().to_string()).unwrap().outer_class, OuterClass::default());
}

#[test]
fn a_port_is_a_tap_or_an_interface() {
    let config = with("port", json!({ "af_packet": "eth1" })).unwrap();
    assert_eq!(config.port, PortConfig::AfPacket { interface: "eth1".into(), groups: GroupMask::SPANNING_TREE });
    for (mask, groups) in
        [(json!("0x4009"), Some(0x4009)), (json!(0), Some(0)), (json!("0xfffd"), Some(0xfffd)), (json!(2), None)]
    {
        let config = with("port", json!({ "af_packet": "eth1", "group_fwd_mask": mask }));
        assert_eq!(config.ok().map(|config| config.port.groups().bits()), groups, "{mask}");
    }
    for wrong in [json!("4009"), json!("0x10000"), json!(65536), json!(-1), json!([])] {
        let text = with("port", json!({ "af_packet": "eth1", "group_fwd_mask": wrong })).unwrap_err().to_string();
        assert!(text.starts_with("x.json: \"port.group_fwd_mask\": is ") && text.contains("0x4009"), "{text}");
    }
    assert_eq!(with("bridge", json!("lxcbr0")).unwrap().port.groups(), GroupMask::ALL);
    assert_eq!((config.port.to_string().as_str(), config.port.bridge()), ("AF_PACKET on eth1", None));
    for (key, value) in [("tap", json!("ipop")), ("bridge", json!("lxcbr0")), ("mtu", json!(1500))] {
        let mut config = minimal();
        (config["port"], config[key]) = (json!({ "af_packet": "eth1" }), value);
        let text = Config::parse("x.json", &config.to_string()).unwrap_err().to_string();
        assert!(text.starts_with(&format!("x.json: \"{key}\": cannot be there beside \"port\"")), "{text}");
    }
    let mut config = minimal();
    (config["port"], config["offloads"]) = (json!({ "af_packet": "eth1" }), json!({ "tso": false }));
    let text = Config::parse("x.json", &config.to_string()).unwrap_err().to_string();
    assert!(
        text.starts_with("x.json: \"offloads.tso\": does not apply to") && text.contains("ethtool -K eth1"),
        "{text}"
    );
    config["offloads"] = json!({ "uso": false });
    assert!(!Config::parse("x.json", &config.to_string()).unwrap().offloads.uso);
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
        ("sec", json!("no"), "true or false"),
        ("cpus", json!([0, 1]), "2 cores for 1 workers"),
        ("source_ports", json!(0), "a whole number from 1 to 16"),
        ("source_ports", json!(17), "such as 4"),
        ("spin", json!(1001), "a whole number from 0 to 1000"),
        ("min_wait", json!(-1), "a whole number from 0 to 1000"),
        ("io_uring", json!("auto"), "is \"auto\"; true or false is allowed"),
        ("offloads", json!(false), "an object of switches"),
        ("raw_udp_ports", json!(67), "is 67; a list of UDP ports"),
        ("raw_udp_ports", json!([67, 0]), "has 0; UDP ports from 1 to 65535"),
        ("raw_udp_ports", json!(["dhcp"]), "has \"dhcp\"; UDP ports"),
        ("raw_udp_ports", json!([65_536]), "has 65536"),
        ("offloads", json!({"udp_merge": 1}), "\"offloads.udp_merge\": is 1; true or false"),
        ("offloads", json!({"tso": 0}), "\"offloads.tso\": is 0; true or false"),
        ("offloads", json!({"udp_gos": false}), "\"offloads.udp_gos\": is not a key of this program; did you mean"),
        ("offloads", json!({"stun": false}), "\"offloads.stun\": is not a key"),
        ("user", json!(1000), "the name of a user is allowed"),
        ("user", json!(true), "or false to keep the rights"),
        ("confine", json!("no"), "is \"no\"; true or false"),
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
    let all = OffloadSwitches { tso: true, uso: true, udp_merge: true, udp_gso: true, udp_gro: true, zero_copy: true };
    assert_eq!(config.offloads, all);
    let choices = [true, false].map(|on| with("io_uring", json!(on)).unwrap().io_uring);
    assert_eq!(choices, [EngineChoice::IoUring, EngineChoice::Calls]);
    let config = with("offloads", json!({ "udp_gro": false, "tso": true })).unwrap();
    assert_eq!(config.offloads, OffloadSwitches { udp_gro: false, ..all });
    let config = with("offloads", json!({ "udp_merge": false })).unwrap();
    assert_eq!(config.offloads, OffloadSwitches { udp_merge: false, ..all });
    assert!(config.raw_udp_ports.is_empty());
    assert_eq!(with("raw_udp_ports", json!([4011, 65_535])).unwrap().raw_udp_ports, [4011, 65_535]);
}

/// A directory with a key file, the config that names it, and the public key in it.
fn secure() -> (tempfile::TempDir, Value, String) {
    let dir = tempfile::tempdir().unwrap();
    let key = PrivateKey::generate().unwrap();
    key.create(&dir.path().join("key")).unwrap();
    let mut config = minimal();
    config.as_object_mut().unwrap().remove("sec");
    config["private_key_file"] = json!("key");
    config["peers"][0]["public_key"] = json!(PrivateKey::generate().unwrap().public().to_string());
    (dir, config, key.public().to_string())
}

fn parse_in(dir: &Path, config: &Value) -> Result<Config, ConfigError> {
    Config::parse(dir.join("x.json").to_str().unwrap(), &config.to_string())
}

#[test]
fn security_is_on_unless_it_is_off() {
    let (dir, mut config, public) = secure();
    for sec in [None, Some(true)] {
        if let Some(sec) = sec {
            config["sec"] = json!(sec);
        }
        let parsed = parse_in(dir.path(), &config).unwrap();
        assert_eq!(parsed.identity.unwrap().public().to_string(), public);
        assert_eq!(json!(parsed.peers[0].public_key.unwrap().to_string()), config["peers"][0]["public_key"]);
    }
    config["sec"] = json!(false);
    let parsed = parse_in(dir.path(), &config).unwrap();
    assert!(parsed.identity.is_none() && parsed.warnings[0].contains("clear text"), "{:?}", parsed.warnings);
}

#[test]
fn a_preshared_key_is_read_from_its_file() {
    let (dir, mut config, _) = secure();
    let key = PresharedKey::generate().unwrap();
    key.create(&dir.path().join("shared")).unwrap();
    assert!(parse_in(dir.path(), &config).unwrap().peers[0].preshared_key.is_none());
    config["peers"][0]["preshared_key_file"] = json!(dir.path().join("shared"));
    let parsed = parse_in(dir.path(), &config).unwrap();
    assert_eq!(parsed.peers[0].preshared_key.as_ref().unwrap().as_bytes(), key.as_bytes());
}

#[test]
fn an_error_about_a_key_says_how_to_get_one() {
    let (dir, good, public) = secure();
    std::fs::write(dir.path().join("open"), format!("{public}\n")).unwrap();
    std::fs::set_permissions(dir.path().join("open"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let other = good["peers"][0]["public_key"].clone();
    let second = json!({ "name": "gw-c", "address": "10.99.0.3:5800", "public_key": other });
    let cases: [(&str, Value, &str); 9] = [
        ("/private_key_file", Value::Null, "\"private_key_file\": is missing: make a key by `ipop keygen --out"),
        ("/private_key_file", json!("absent"), "absent: is not there (`ipop keygen --out"),
        ("/private_key_file", json!("open"), "chmod 600 "),
        ("/private_key_file", json!("."), "no regular file"),
        ("/peers/0/public_key", Value::Null, "\"peers[0].public_key\": is missing: what `ipop pubkey"),
        ("/peers/0/public_key", json!("x"), "\"x\" is no key"),
        ("/peers/0/public_key", json!(format!("{}A=", "A".repeat(42))), "low order"),
        ("/peers/0/public_key", json!(public), "\"peers[0].public_key\": is this gateway's own"),
        ("/peers/0/preshared_key_file", json!("absent"), "\"peers[0].preshared_key_file\": "),
    ];
    for (pointer, value, expected) in cases {
        let mut config = good.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let object = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Value::Null => object.remove(key),
            value => object.insert(key.to_owned(), value),
        };
        let text = parse_in(dir.path(), &config).unwrap_err().to_string();
        assert!(text.contains(expected), "{pointer}: {text}");
    }
    let mut config = good;
    config["peers"].as_array_mut().unwrap().push(second);
    let text = parse_in(dir.path(), &config).unwrap_err().to_string();
    assert!(text.contains("\"peers[1].public_key\": is the key of \"gw-b\" already"), "{text}");
}

#[test]
fn keys_of_ipop_are_explained() {
    let config = with("xmpp_host", json!("talk.example")).unwrap();
    assert!(config.warnings.iter().any(|w| w.contains("xmpp_host") && w.contains("peers")), "{:?}", config.warnings);
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

fn peer_with(key: &str, value: Value) -> Result<Config, ConfigError> {
    let mut config = minimal();
    config["peers"][0][key] = value;
    Config::parse("x.json", &config.to_string())
}

#[test]
fn limits_have_defaults_and_a_peer_has_its_own() {
    let config = Config::parse("x.json", &minimal().to_string()).unwrap();
    assert_eq!(config.peers[0].claims, Claims::default());
    assert_eq!(config.peers[0].share, Share { macs: Some(32_768), addresses: Some(16_384) });
    let limits = config.limits();
    assert_eq!(limits.local, Share { macs: Some(49_152), addresses: Some(49_152) });
    assert_eq!(limits.addresses_per_mac, Some(1024));

    let mut config = minimal();
    (config["max_macs_per_peer"], config["max_addresses_per_peer"]) = (json!(100), json!(200));
    (config["max_addresses_per_mac"], config["peers"][0]["max_addresses"]) = (json!(7), json!(8));
    let limits = Config::parse("x.json", &config.to_string()).unwrap().limits();
    assert_eq!(limits.shares, [Share { macs: Some(100), addresses: Some(8) }]);
    assert_eq!(limits.addresses_per_mac, Some(7));
}

#[test]
fn lists_of_what_a_peer_may_claim() {
    let claims = peer_with("allowed_ips", json!(["10.0.3.0/24", "fd00::104"])).unwrap().peers.remove(0).claims;
    for (ip, allowed) in [("10.0.3.77", true), ("10.0.4.1", false), ("fd00::104", true), ("fd00::105", false)] {
        assert_eq!(claims.allow_ip(ip.parse().unwrap()), allowed, "{ip}");
    }
    let claims = peer_with("allowed_macs", json!(["00:16:3e:00:01:04"])).unwrap().peers.remove(0).claims;
    assert!(claims.allow_mac("00:16:3e:00:01:04".parse().unwrap()));
    assert!(!claims.allow_mac("00:16:3e:00:01:05".parse().unwrap()));
    for (key, value, expected) in [
        ("allowed_macs", json!("00:16:3e:00:01:04"), "a list of texts"),
        ("allowed_macs", json!(["00:16:3e"]), "has \"00:16:3e\"; the MAC of a station"),
        ("allowed_macs", json!(["ff:ff:ff:ff:ff:ff"]), "the MAC of a station"),
        ("allowed_ips", json!([7]), "has 7; an address or a prefix"),
        ("allowed_ips", json!(["10.0.3.1/24"]), "bits behind the prefix"),
        ("allowed_ips", json!(["10.0.3.0/33"]), "an address or a prefix"),
        ("max_macs", json!(0), "a whole number from 1 to"),
        ("max_addresses", json!(100_000), "a whole number from 1 to 65536"),
    ] {
        let text = peer_with(key, value.clone()).unwrap_err().to_string();
        assert!(text.contains(&format!("\"peers[0].{key}\"")) && text.contains(expected), "{key} {value}: {text}");
    }
}

#[test]
fn all_faults_are_listed_each_with_its_place() {
    let text = r#"{
        "switchmode": 2, "sec": false, "listen": "10.99.0.1", "brigde": "x", "workers": 0, "user": "nobody-of-this-name",
        "offloads": { "tsu": true, "uso": 1 },
        "peers": [
            { "name": "b", "adress": "10.99.0.2:5800", "allowed_macs": ["x", "00:16:3e:00:01:04", "y"] },
            "gw-c",
            { "name": "b", "address": "10.99.0.3:0", "max_macs": 0 }
        ]
    }"#;
    let error = Config::parse("x.json", text).unwrap_err().to_string();
    let expected = [
        "\"brigde\": is not a key of this program; did you mean \"bridge\"?",
        "\"switchmode\": is 2; only 1",
        "\"listen\": is \"10.99.0.1\"; an IP address",
        "\"workers\": is 0; a whole number from 1 to 64",
        "\"offloads.tsu\": is not a key",
        "\"offloads.uso\": is 1; true or false",
        "\"peers[0].adress\": is not a key of this program; did you mean \"address\"?",
        "\"peers[0].address\": is missing",
        "\"peers[0].allowed_macs\": has \"x\"",
        "\"peers[0].allowed_macs\": has \"y\"",
        "\"peers[1]\": must be an object",
        "\"peers[2].address\": has port 0",
        "\"peers[2].name\": \"b\" is there twice",
        "\"peers[2].max_macs\": is 0",
        "\"user\": there is no user 'nobody-of-this-name'",
    ];
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{error}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("x.json: {expected}")), "{line} instead of {expected}");
    }
}

#[test]
fn a_byte_order_mark_is_no_fault_and_a_syntax_error_has_its_place() {
    let text = minimal().to_string();
    assert!(Config::parse("x.json", &format!("\u{feff}{text}")).is_ok());
    let error = Config::parse("x.json", "{\n  \"switchmode\": 1,\n}").unwrap_err().to_string();
    assert!(error.starts_with("x.json: not valid JSON: ") && error.contains("line 3 column 1"), "{error}");
}
