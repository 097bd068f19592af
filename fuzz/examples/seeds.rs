//! Writes the seeds of the corpora anew, after a change of a format: `cargo run -p ipop-fuzz --example seeds`.
//!
//! They are the messages that gateways, guests and people really send. What the fuzzer found besides stays as it is.

use std::io;
use std::path::Path;

use ipop_control::keys::{PrivateKey, PublicKey};
use ipop_control::link::noise::{Initiator, Introduction};
use ipop_dataplane::addr::{MacAddr, Vlan};
use ipop_dataplane::datagram::fragment::FragmentHeader;
use ipop_dataplane::datagram::record::{self, FramePrefix};
use ipop_dataplane::datagram::{CONTROL_LANE, DATA, DatagramHeader, HELLO, INITIATION};
use ipop_dataplane::session::Gate;
use ipop_dataplane::wire::arp::{Arp, Operation};
use ipop_dataplane::wire::ndp::{Body, Nd, solicited_node};
use ipop_dataplane::wire::{VnetHeader, vnet};
use ipop_fuzz::datagram::NETWORK;
use ipop_fuzz::guests::{Datagram, Guest, Oddity, Sum};
use zerocopy::IntoBytes;

const MAC: MacAddr = MacAddr([0x00, 0x16, 0x3e, 0, 0, 3]);

fn main() -> io::Result<()> {
    frames()?;
    claims()?;
    super_frames()?;
    datagrams()?;
    fragments()?;
    texts()?;
    handshakes()
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("seed-{name}")), bytes)
}

fn arp(operation: Operation, vlan: Vlan) -> Vec<u8> {
    let arp = Arp {
        operation,
        sender_mac: MAC,
        sender_ip: [10, 0, 3, 3].into(),
        target_mac: MacAddr::ZERO,
        target_ip: [10, 0, 3, 104].into(),
    };
    arp.to_frame(MacAddr::BROADCAST, MAC, vlan)
}

fn nd(body: Body) -> Vec<u8> {
    let [src, target] = ["fd00::3", "fd00::104"].map(|ip| ip.parse().expect("an address"));
    Nd { src, dst: solicited_node(target), target, body }.to_frame(
        MacAddr::of_ipv6_group(solicited_node(target)),
        MAC,
        Vlan::UNTAGGED,
    )
}

fn tcp(v6: bool, tags: usize) -> Guest {
    let payload = (0..1600u32).map(|at| (at * 7) as u8).collect();
    Guest { v6, tags, option_words: 3, flags: 0x98, seq: 7, ip_id: 9, gso_size: 500, ecn: true, payload }
}

fn udp(v6: bool, id: u16, sum: Sum, gso_size: u16) -> Datagram {
    let payload = vec![id as u8; if gso_size > 0 { 750 } else { 40 }];
    let ports = [40_000, 5001];
    let oddity = Oddity::None;
    Datagram { v6, tags: 1, ports, id, dont_fragment: false, tos: 0, ttl: 64, sum, oddity, payload, gso_size }
}

fn frames() -> io::Result<()> {
    let plain = VnetHeader::plain(None);
    let put = |name: &str, header: &VnetHeader, frame: &[u8]| seed("frame", name, &[header.as_bytes(), frame].concat());
    put("arp-request", &plain, &arp(Operation::Request, Vlan::UNTAGGED))?;
    put("arp-reply-vlan", &plain, &arp(Operation::Reply, Vlan::customer(10)))?;
    put("nd-solicitation", &plain, &nd(Body::Solicitation { source_mac: Some(MAC) }))?;
    let advertisement = Body::Advertisement { target_mac: Some(MAC), router: true, solicited: false, overrides: true };
    put("nd-advertisement", &plain, &nd(advertisement))?;
    for (name, guest) in [("tcp4", tcp(false, 0)), ("tcp6-tags", tcp(true, 2))] {
        put(name, &guest.vnet(), &guest.frame())?;
    }
    for (name, guest) in [("udp4", udp(false, 1, Sum::Partial, 200)), ("udp6", udp(true, 1, Sum::Partial, 200))] {
        put(name, &guest.vnet(), &guest.frame())?;
    }
    let single = Guest { gso_size: 0, ecn: false, ..tcp(false, 1) };
    let csum = vnet::PartialChecksum { start: single.l4() as u16, offset: 16 };
    put("tcp-single", &VnetHeader::plain(Some(csum)), &single.frame())
}

/// Lists that have the stations, and sums in their place or not.
fn claims() -> io::Result<()> {
    let put = |name: &str, [start, offset]: [u16; 2], frame: &[u8]| {
        let lists = [&[10, 0, 3, 0, 24][..], &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64]];
        let sum = [start.to_be_bytes(), offset.to_be_bytes(), [0x12, 0x34]].concat();
        let parameters = [&lists.concat()[..], &sum].concat();
        assert_eq!(parameters.len(), ipop_fuzz::claims::PARAMETERS);
        seed("claims", name, &[&parameters, frame].concat())
    };
    put("arp-request", [28, 0], &arp(Operation::Request, Vlan::UNTAGGED))?;
    put("arp-reply-vlan", [0, 0], &arp(Operation::Reply, Vlan::customer(10)))?;
    let advertisement = Body::Advertisement { target_mac: Some(MAC), router: true, solicited: true, overrides: true };
    put("nd-advertisement", [54, 2], &nd(advertisement))?;
    put("nd-solicitation", [54, 8], &nd(Body::Solicitation { source_mac: Some(MAC) }))?;
    let mut options = nd(advertisement);
    // Destination options in front: PadN.
    options.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
    options[20] = 60;
    put("nd-options", [62, 2], &options)?;
    let single = Guest { gso_size: 0, ecn: false, ..tcp(true, 1) };
    put("tcp", [single.l4() as u16, 16], &single.frame())?;
    let datagram = udp(false, 1, Sum::Complete, 0).frame();
    put("tunnel", [18 + 20 + 8 + 20, 6], &datagram)
}

/// Parameters of `cut` are described there.
fn super_frames() -> io::Result<()> {
    for (kind, name) in [(0, "tcp4"), (3, "tcp6-tag"), (8, "udp4"), (13, "udp6-tags")] {
        let [gso_size, capacity, len] = [500u16, 1400, 9000].map(u16::to_be_bytes);
        seed(
            "cut",
            name,
            &[&[kind, 0x98, 3], &gso_size[..], &capacity, &[0b100, 2], &len, &[0xff, 0xf0, 1, 2, 3]].concat(),
        )?;
    }
    for (name, frame, header) in [
        ("tcp4", tcp(false, 0).frame(), tcp(false, 0).vnet()),
        ("tcp6-tag", tcp(true, 1).frame(), tcp(true, 1).vnet()),
        ("udp4", udp(false, 1, Sum::Partial, 200).frame(), udp(false, 1, Sum::Partial, 200).vnet()),
        ("udp6", udp(true, 1, Sum::Partial, 200).frame(), udp(true, 1, Sum::Partial, 200).vnet()),
    ] {
        seed("slices", name, &ipop_fuzz::segment::cut_into_records(&frame, &header, 600))?;
    }
    for (name, v6, sum) in
        [("complete4", false, Sum::Complete), ("partial4", false, Sum::Partial), ("complete6", true, Sum::Complete)]
    {
        let mut records = Vec::new();
        for id in 1..4 {
            let datagram = udp(v6, id, sum, 0);
            let (header, frame) = (datagram.vnet(), datagram.frame());
            let prefix = FramePrefix::new(frame.len(), header.partial_checksum()).expect("a short frame");
            records.extend_from_slice(prefix.bytes());
            records.extend_from_slice(&frame);
        }
        seed("merge", name, &records)?;
    }
    let mut two = Vec::new();
    record::emit(&mut two, record::FRAME, 0, &arp(Operation::Request, Vlan::UNTAGGED));
    record::emit(&mut two, record::FRAME, 0, &udp(true, 1, Sum::Complete, 0).frame());
    seed("merge", "others", &two)
}

fn datagrams() -> io::Result<()> {
    let put = |name: &str, records: &[u8], lane, counter| {
        let header = DatagramHeader::new(DATA, NETWORK, 0x0001_0000, lane, counter);
        seed("datagram", name, &[header.as_bytes(), records].concat())
    };
    put("alive", &[], CONTROL_LANE, 3)?;
    let mut records = Vec::new();
    record::emit(&mut records, record::FRAME, 0, &arp(Operation::Request, Vlan::UNTAGGED));
    record::emit(&mut records, record::CONTROL, 0, br#"{"msg_type":"bye"}"#);
    record::emit(&mut records, record::PAD, 0, &[0; 20]);
    put("records", &records, 0, 7)?;
    let datagram = udp(false, 1, Sum::Partial, 0);
    let frame = datagram.frame();
    let prefix = FramePrefix::new(frame.len(), datagram.vnet().partial_checksum()).expect("a short frame");
    put("checksum", &[prefix.bytes(), &frame].concat(), 1, 8)?;
    let slices = ipop_fuzz::segment::cut_into_records(&tcp(false, 0).frame(), &tcp(false, 0).vnet(), 600);
    put("slices", &slices, 0, 1 << 35)?;
    seed(
        "datagram",
        "hello",
        &[DatagramHeader::new(HELLO, NETWORK, 0, CONTROL_LANE, 0).as_bytes(), HELLOS[0].1.as_bytes()].concat(),
    )
}

/// A sender and what it says.
type Piece = (u8, Vec<u8>);

fn fragments() -> io::Result<()> {
    let body = udp(false, 1, Sum::Complete, 0).frame();
    let piece = |number: u32, from: usize, to: usize| {
        let header =
            FragmentHeader { number: number.into(), total: (body.len() as u32).into(), offset: (from as u32).into() };
        [header.as_bytes(), &body[from..to]].concat()
    };
    let end = body.len();
    let trains: [(&str, &[Piece]); 5] = [
        ("in-order", &[(1, piece(1, 0, 40)), (1, piece(1, 40, end))]),
        ("reordered", &[(1, piece(1, 60, end)), (1, piece(1, 0, 30)), (1, piece(1, 30, 60))]),
        ("doubled", &[(1, piece(2, 0, 40)), (1, piece(2, 0, 40)), (1, piece(2, 40, end))]),
        ("senders", &[(1, piece(3, 0, 40)), (17, piece(3, 0, 50)), (1, piece(3, 40, end)), (17, piece(3, 50, end))]),
        ("overlap", &[(1, piece(4, 0, 41)), (1, piece(4, 40, end)), (1, piece(4, 0, end))]),
    ];
    for (name, pieces) in trains {
        let mut records = Vec::new();
        pieces.iter().for_each(|(sender, piece)| record::emit(&mut records, *sender, 1, piece));
        seed("fragment", name, &records)?;
    }
    Ok(())
}

const HELLOS: [(&str, &str); 4] = [
    ("first", r#"{"msg_type":"hello","uid":"5b3c","name":"gw-a","session":3735879680,"your_session":null,"up":false}"#),
    (
        "answer",
        r#"{"msg_type":"hello","uid":"77aa","name":"gw-b","session":65537,"your_session":3735879680,"up":true}"#,
    ),
    ("escapes", r#"{"msg_type":"hello","uid":"\u00e9\n","name":"\ud83d\ude00","session":1,"x":[{}]}"#),
    ("nobody", r#"{"msg_type":"hello","uid":"","name":"gw-a","session":0}"#),
];

fn texts() -> io::Result<()> {
    for (name, text) in HELLOS {
        seed("hello", name, text.as_bytes())?;
    }
    for (name, text) in [
        (
            "arp-request",
            r#"{"msg_type":"arp_request","target_ip4":"10.0.3.104","asker_ip4":"10.0.3.3","asker_mac":"00:16:3e:00:00:03","seq":0}"#,
        ),
        (
            "nd-request",
            r#"{"msg_type":"nd_request","target_ip6":"fd00::104","asker_mac":"00:16:3e:00:00:03","vlan":10,"seq":1}"#,
        ),
        (
            "arp-reply",
            r#"{"msg_type":"arp_reply","target_ip4":"10.0.3.104","mac":"00:16:3e:00:01:04","uid":"5b3c","seq":65535,"announcement":"request"}"#,
        ),
        (
            "nd-reply",
            r#"{"msg_type":"nd_reply","target_ip6":"fe80::1","mac":"00:16:3e:00:01:04","uid":"5b3c","asker_mac":"00:16:3e:00:00:03","router":true}"#,
        ),
        ("withdraw", r#"{"msg_type":"nd_withdraw","target_ip6":"fd00::1","mac":"00:16:3e:00:01:04","vlan":4096}"#),
        ("mac-moved", r#"{"msg_type":"mac_moved","mac":"00:16:3e:00:01:04","seq":3}"#),
        ("probe", r#"{"msg_type":"path_probe","size":1472}"#),
        ("probe-reply", r#"{"msg_type":"probe_reply","size":65535}"#),
        ("bye", r#"{"msg_type":"bye"}"#),
    ] {
        seed("rpc", name, text.as_bytes())?;
    }
    let peers = r#""peers":[{"name":"gw-b","address":"10.99.0.2:5800","public_key":"KEY"}]"#;
    let peers = peers.replace("KEY", &keys()[1].1.to_string());
    for (name, keys) in [
        ("least", r#""switchmode":1,"sec":false,"listen":"10.99.0.1:5800""#),
        ("sealed", r#""switchmode":1,"listen":"[::]:5800","private_key_file":"key""#),
        (
            "most",
            r#""switchmode":1,"sec":false,"listen":"[::]:5800","name":"gw-a","tap":"ipop0","bridge":"lxcbr0","mtu":9000,"network":7,"arp_expiry":60,"mac_expiry":60,"max_macs":1024,"flood_rate":10,"workers":2,"spin":0,"min_wait":50,"io_uring":false,"offloads":{"tso":false,"udp_gro":true},"control_socket":"ipop.sock""#,
        ),
        ("port", r#""switchmode":1,"sec":false,"listen":"10.99.0.1:5800","port":{"af_packet":"eth1"},"cpus":[0]"#),
        (
            "ipop",
            r#""switchmode":1,"sec":false,"listen":"10.99.0.1:5800","xmpp_host":"example.org","stun":["example.org"]"#,
        ),
    ] {
        seed("config", name, format!("{{{keys},{peers}}}").as_bytes())?;
    }
    for command in ipop_control::admin::COMMANDS {
        seed("admin", command, format!("{{\"command\":\"{command}\"}}\n").as_bytes())?;
    }
    seed("admin", "unknown", b"{\"command\":\"frobnicate\\u0000\"}\n")?;
    for (index, (_, public)) in keys().iter().enumerate() {
        seed("key", &format!("public-{index}"), public.to_string().as_bytes())?;
    }
    seed("key", "file", b"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\r\n")?;
    seed("key", "low-order", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
}

fn keys() -> &'static [(PrivateKey, PublicKey); 2] {
    &ipop_fuzz::handshake::KEYS
}

/// Of these the octets change with every run, since each handshake has keys of its own.
fn handshakes() -> io::Result<()> {
    let [(a, _), (b, b_public)] = keys();
    let introduction = Introduction::new(7, 8, 0x0001_0000, "gw-a");
    let (_, message) = Initiator::begin(a, b_public, None, NETWORK, &introduction).expect("a message");
    seed("handshake", "message", &message)?;
    let mut datagram = [DatagramHeader::new(INITIATION, NETWORK, 0, CONTROL_LANE, 0).as_bytes(), &message].concat();
    Gate::of(b.public().as_bytes()).stamp(&mut datagram);
    seed("handshake", "datagram", &datagram)?;
    let both = [introduction.as_bytes(), Introduction::new(9, 10, 0x0002_0000, "gw-b").as_bytes()].concat();
    for (name, front) in [("whole", [0, 0, 0]), ("first-changed", [1, 40, 1]), ("second-changed", [2, 40, 0x80])] {
        seed("handshake", name, &[&front[..], &both].concat())?;
    }
    // Only one of them has instructions for AES, whatever this machine has: octet 20.
    let mut ciphers = both.clone();
    (ciphers[20], ciphers[introduction.as_bytes().len() + 20]) = (1, 0);
    seed("handshake", "ciphers", &[&[0, 0, 0], &ciphers[..]].concat())?;
    seed("link", "opened", &[0, 0, 0, 1, 0, 1, 0, 100])?;
    seed("link", "lost", &[0x80, 0, 2, 0, 0x80, 100, 2, 0, 0, 200])?;
    seed("link", "keys", &[0, 0, 0, 1, 0, 1, 9, 0, 0, 1, 0x80, 1, 3, 0, 4, 1, 1, 130])?;
    seed("link", "restarted", &[0, 0, 0, 1, 0, 1, 7, 0, 0, 1, 0, 1, 8, 1, 0, 200])?;
    seed("link", "changed", &[0x80, 0, 0x85, 20, 0, 1, 6, 40, 3, 1, 2, 3, 1, 20])
}
