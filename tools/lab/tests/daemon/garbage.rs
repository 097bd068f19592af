//! Nonsense from everywhere, while two containers go on talking.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ipop_lab::{Daemon, RawPort, udp_socket};
use libtest_mimic::Failed;

use super::kit::{HERE, Outcome, Pair, Random, THERE, ensure, until, with_logs};
use super::unharmed::{Pings, belief, counted, pace, unharmed};
use super::wire::{DATA, Forger, HELLO, INITIATION, VERSION, datagram, payloads, record};

/// 100 000 datagrams: noise, headers that are almost right, replays, and records that are nonsense.
pub(crate) fn datagrams() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined_in_clear_text()?;
    let peer = pair.gateway(1).endpoint();
    let forger = Forger::new(pair.gateway(1), pair.gateway(0))?;
    // What really passes, to be mutated and sent again.
    let mut uplink = RawPort::open(pair.gateway(0).netns(), "eth0")?;
    uplink.drain()?;
    pair.c1.ping(HERE, 5)?;
    let genuine = payloads(&uplink.capture(Duration::from_millis(100))?, peer);
    let data: Vec<&Vec<u8>> = genuine.iter().filter(|payload| payload[0] == VERSION | DATA).collect();
    ensure(data.len() >= 5, format!("{} datagrams captured", data.len()))?;
    let session = u32::from_be_bytes([data[0][4], data[0][5], data[0][6], data[0][7]]);
    let pings = Pings::start(&pair.c0, THERE)?;
    let mut random = Random(1);
    // From others: a stranger's port on the peer's host.
    let stranger = udp_socket(pair.gateway(1).netns(), "0.0.0.0:0".parse()?, Duration::from_secs(1))?;
    for number in 0..70_000 {
        let length = random.below(200);
        let mut bytes = random.bytes(length);
        match number % 7 {
            0 => {}
            1 => bytes = datagram(DATA, random.next() as u32, 0, number as u64, &bytes),
            2 => bytes = datagram(HELLO, 0, 255, 0, &bytes),
            3 => bytes = datagram(5 + random.below(11) as u8, session, 0, 0, &bytes),
            4 => {
                bytes = datagram(DATA, session, 0, 0, &bytes);
                bytes[1 + random.below(3)] = 1;
            }
            5 => bytes = datagram(DATA, session, 9, number as u64, &record(1, 0, &bytes)),
            _ => bytes = data[random.below(data.len())].clone(),
        }
        stranger.send_to(&bytes, pair.gateway(0).endpoint())?;
        pace(number);
    }
    // From the peer's own address and port. A lane of its own: whoever could guess the counters of a real lane in
    // clear text could silence it, which "sec": false says aloud.
    let lane = 63;
    let in_session = |number: usize, body: &[u8]| datagram(DATA, session, lane, number as u64, body);
    for number in 0..30_000 {
        let length = random.below(120);
        let noise = random.bytes(length);
        let payload = match number % 6 {
            0 => data[random.below(data.len())].clone(),
            1 => noise,
            2 => in_session(number, &noise),
            3 => in_session(number, &record(random.below(8) as u8, random.below(4) as u8, &noise)),
            4 => {
                let mut records = data[random.below(data.len())][16..].to_vec();
                for _ in 0..=random.below(4) {
                    // Types, lengths and what is behind the addresses of the frame, but no station's own MAC.
                    let at = if random.below(4) == 0 { random.below(4) } else { 16 + random.below(records.len() - 16) };
                    records[at] = random.next() as u8;
                }
                in_session(number, &records)
            }
            _ => {
                in_session(number, &record(4, 0, format!("{{\"msg_type\":\"arp_reply\",\"mac\":{number}}}").as_bytes()))
            }
        };
        forger.send(peer, &payload)?;
        pace(number);
    }
    pings.stop("during 100 000 datagrams of nonsense")?;
    unharmed(&pair, "datagrams", [&mut a, &mut b])?;
    counted(
        &a,
        &[
            "datagram_truncated",
            "datagram_version",
            "datagram_type",
            "datagram_network",
            "session_unknown",
            "source_address",
            "replayed",
            "record_malformed",
            "record_type",
            "record_frame",
            "segment_malformed",
            "fragment_malformed",
            "handshake_refused",
            "rpc_refused",
            "bad_source",
        ],
    )?;
    // Nothing was lost on the way to the counters: every stranger's datagram is a drop.
    let drops = a.status("status")?["drops"].clone();
    let sum: u64 = drops.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    ensure(sum >= 75_000, format!("only {sum} drops are counted: {drops}"))?;
    ensure(a.status("peers")?["peers"][0]["ups"] == 1, "the link went down meanwhile")
}

/// 30 000 frames of nonsense from a guest.
pub(crate) fn frames() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined()?;
    let guest = pair.lab.container(0, "guest", &[])?;
    let port = RawPort::open(guest.netns(), guest.interface())?;
    let own = guest.mac_bytes()?;
    let there = pair.c1.mac_bytes()?;
    let pings = Pings::start(&pair.c1, HERE)?;
    let mut random = Random(2);
    for number in 0..30_000 {
        let length = random.below(if number % 50 == 0 { 1486 } else { 100 });
        let body = random.bytes(length);
        let dst = match random.below(4) {
            0 => there,
            1 => [0xff; 6],
            2 => [0x33, 0x33, 0, 0, 0, random.next() as u8],
            // Unknown, so flooded within the rate.
            _ => [2, 9, 9, 9, random.next() as u8, random.next() as u8],
        };
        let src = if random.below(2) == 0 { own } else { [2, 7, 7, 7, random.next() as u8, random.next() as u8] };
        let kind: &[u8] = match random.below(9) {
            0 => &[8, 0],
            // An IPv4 header that promises a TCP segment.
            1 => &[8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 3, 9, 10, 0, 3, 104],
            2 => &[8, 6],
            3 => &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            4 => &[0x86, 0xdd],
            // An IPv6 header that promises neighbour discovery.
            5 => &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255],
            6 => &[0x81, 0, 0, 10, 8, 6],
            7 => &[0x88, 0xa8, 0, 10, 0x81, 0, 0, 11, 0x86, 0xdd],
            _ => &[0x12, 0x34],
        };
        let frame = [&dst[..], &src, kind, &body].concat();
        port.send(&frame)?;
        pace(number);
    }
    // A solicitation with a wrong checksum, which chance would hardly make.
    let mut solicitation =
        [&[0x33, 0x33, 0xff, 0, 1, 4], &own[..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]].concat();
    solicitation.extend([0xfd; 32]);
    solicitation.extend([135, 0, 0xbe, 0xef, 0, 0, 0, 0]);
    solicitation.extend([0xfd; 16]);
    port.send(&solicitation)?;
    pings.stop("during 30 000 frames of nonsense")?;
    unharmed(&pair, "frames", [&mut a, &mut b])?;
    counted(&a, &["arp_malformed", "nd_malformed"])?;
    let gone_on = a.counter("/frames/flooded")? + a.counter("/drops/flood_rate")?;
    ensure(gone_on > 1000, format!("{gone_on} unknown destinations"))
}

/// Nonsense on the control socket, and clients that say nothing.
pub(crate) fn control_socket() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined()?;
    let pings = Pings::start(&pair.c0, THERE)?;
    let connect = || -> Result<UnixStream, Failed> {
        let stream = UnixStream::connect(a.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        Ok(stream)
    };
    let mut random = Random(3);
    // Each gets an error or is closed; none hangs.
    for (what, bytes) in [
        ("binary", [random.bytes(300), b"\n".to_vec()].concat()),
        ("no JSON", b"status\n".to_vec()),
        ("another form", b"[1,2,3]\n".to_vec()),
        ("another type", b"{\"command\":7}\n".to_vec()),
        ("no such command", b"{\"command\":\"reboot\"}\n".to_vec()),
        ("deep JSON", [vec![b'['; 3000], b"\n".to_vec()].concat()),
        ("a long line", vec![b'x'; 100_000]),
    ] {
        let mut stream = connect()?;
        // The gateway may close before it has read everything.
        let _ = stream.write_all(&bytes);
        let mut answer = vec![0; 4096];
        let length = match stream.read(&mut answer) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => continue,
            Err(error) => return Err(format!("{what}: {error}").into()),
        };
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        ensure(length == 0 || text.contains("\"error\""), format!("{what} is answered by {text}"))?;
    }
    // Many questions at once whose answers nobody reads.
    let mut greedy = connect()?;
    greedy.set_write_timeout(Some(Duration::from_millis(300)))?;
    for _ in 0..5000 {
        if greedy.write_all(b"{\"command\":\"status\"}\n").is_err() {
            break;
        }
    }
    // Half a line, and the rest later.
    let mut halves = connect()?;
    halves.write_all(b"{\"command\":")?;
    let counter = a.counter("/frames/to_peer")?;
    halves.write_all(b"\"peers\"}\n")?;
    let mut answer = [0; 65_536];
    let length = halves.read(&mut answer)?;
    ensure(String::from_utf8_lossy(&answer[..length]).contains("gw-b"), "the two halves are not answered")?;
    // One hundred that say nothing: whoever comes then is answered or told why not.
    let silent: Vec<UnixStream> = (0..100).map(|_| connect()).collect::<Result<_, _>>()?;
    for _ in 0..20 {
        let crowded = a.query("status", true).output()?;
        let told = crowded.success() || crowded.stderr.contains("too many clients");
        ensure(told, format!("in a crowd: {} {}", crowded.status, crowded.stderr))?;
    }
    ensure(!a.log().contains("panicked"), "a panic")?;
    drop((silent, greedy, halves));
    until("the status to be answered again", Duration::from_secs(3), || {
        Ok(a.query("status", true).output()?.success())
    })?;
    until("frames to pass", Duration::from_secs(1), || Ok(a.counter("/frames/to_peer")? > counter))?;
    pings.stop("during nonsense on the control socket")?;
    unharmed(&pair, "control socket", [&mut a, &mut b])
}

fn hello(uid: &str, name: &str, session: u32, yours: Option<u32>) -> Vec<u8> {
    let yours = yours.map_or("null".into(), |index| index.to_string());
    let body = format!(
        "{{\"msg_type\":\"hello\",\"uid\":\"{uid}\",\"name\":\"{name}\",\"session\":{session},\"your_session\":{yours}}}"
    );
    datagram(HELLO, 0, 255, 0, body.as_bytes())
}

/// A goodbye travels in the session.
fn bye(session: u32) -> Vec<u8> {
    datagram(DATA, session, 200, 0, &record(4, 0, b"{\"msg_type\":\"bye\"}"))
}

/// Handshakes that are forged change nothing.
pub(crate) fn handshakes() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined_in_clear_text()?;
    let forger = Forger::new(pair.gateway(1), pair.gateway(0))?;
    let peer = pair.gateway(1).endpoint();
    let elsewhere: SocketAddr = "10.99.0.2:5999".parse()?;
    let nowhere: SocketAddr = "10.99.0.66:5800".parse()?;
    let uid = |daemon: &Daemon| -> ipop_lab::Result<String> {
        Ok(daemon.status("status")?["uid"].as_str().unwrap_or_default().to_owned())
    };
    let (own, theirs) = (uid(&a)?, uid(&b)?);
    // What the peer sends to, seen on the wire.
    let mut uplink = RawPort::open(pair.gateway(0).netns(), "eth0")?;
    uplink.drain()?;
    pair.c1.ping(HERE, 1)?;
    let seen = payloads(&uplink.capture(Duration::from_millis(100))?, peer);
    let genuine = seen.iter().find(|payload| payload[0] == VERSION | DATA).ok_or("no datagram was captured")?;
    let session = u32::from_be_bytes([genuine[4], genuine[5], genuine[6], genuine[7]]);
    let before = belief(&a)?;
    let pings = Pings::start(&pair.c0, THERE)?;
    let huge = "x".repeat(1300);
    let forged = [
        ("a hello from another port", elsewhere, hello("evil", "evil", 7, Some(7))),
        ("a hello from another host", nowhere, hello("evil", "evil", 7, Some(7))),
        ("the peer's hello from another port", elsewhere, hello(&theirs, "gw-b", 7, None)),
        ("the own uid from the peer's address", peer, hello(&own, "gw-a", 7, Some(7))),
        ("a huge name from another port", elsewhere, hello("evil", &huge, 7, None)),
        ("a huge uid from the peer's address", peer, hello(&huge, "gw-b", 7, None)),
        ("no uid", peer, hello("", "gw-b", 7, None)),
        ("session 0", peer, hello(&theirs, "gw-b", 0, None)),
        ("a goodbye from another port", elsewhere, bye(session)),
        ("a goodbye with another session", peer, bye(session ^ 0x1_0000)),
        ("an initiation, which is for sealed links", peer, datagram(INITIATION, 0, 255, 0, &[0; 200])),
        ("no handshake", peer, datagram(HELLO, 0, 255, 0, b"{\"msg_type\":\"hello\"}")),
    ];
    for (what, from, bytes) in &forged {
        forger.send(*from, bytes)?;
        // The control thread takes them in order, so its answer shows what it made of them.
        pair.c0.ping(THERE, 1).map_err(|error| format!("{what}: {error}"))?;
        let after = belief(&a)?;
        ensure(after == before, format!("{what}: {before} became {after}"))?;
    }
    pings.stop("during forged handshakes")?;
    until("the refusals to be counted", Duration::from_secs(2), || Ok(refusals(&a)? >= 10))?;
    unharmed(&pair, "handshakes", [&mut a, &mut b])
}

/// Handshakes that were refused, for what they say or for how many they are.
fn refusals(gateway: &Daemon) -> ipop_lab::Result<u64> {
    let count = |reason: &str| gateway.counter(&format!("/drops/{reason}"));
    Ok(count("handshake_refused")? + count("handshake_late")? + count("handshake_rate")? + count("control_queue_full")?)
}

/// Hellos by the ten thousand, from strangers and in the peer's own name.
pub(crate) fn hello_flood() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined_in_clear_text()?;
    let forger = Forger::new(pair.gateway(1), pair.gateway(0))?;
    let peer = pair.gateway(1).endpoint();
    let mut uplink = RawPort::open(pair.gateway(0).netns(), "eth0")?;
    // The keep-alive, as it is.
    let (frames, _) = uplink.capture_until(Duration::from_secs(7), |frame| {
        payloads(&[frame.to_vec()], peer).iter().any(|payload| payload[0] == VERSION | HELLO)
    })?;
    let genuine = payloads(&frames, peer).into_iter().find(|payload| payload[0] == VERSION | HELLO);
    let genuine = genuine.ok_or("no hello was captured")?;
    let before = belief(&a)?;
    let refused = refusals(&a)?;
    let pings = Pings::start(&pair.c1, HERE)?;
    let mut answers = RawPort::open(pair.gateway(1).netns(), "eth0")?;
    answers.drain()?;
    for number in 0..20_000 {
        let stranger = SocketAddr::new(peer.ip(), 10_000 + (number % 40_000) as u16);
        forger.send(stranger, &hello("stranger", "stranger", 7, None))?;
        forger.send(peer, &genuine)?;
        pace(number);
    }
    pings.stop("during 40 000 hellos")?;
    ensure(belief(&a)? == before, format!("{before} became {}", belief(&a)?))?;
    let seen = answers.capture(Duration::from_millis(200))?;
    let hellos = payloads(&seen, pair.gateway(0).endpoint()).iter().filter(|p| p[0] == VERSION | HELLO).count();
    ensure(hellos < 200, format!("{hellos} hellos in answer to 40 000"))?;
    let counted = refusals(&a)? - refused;
    ensure(counted >= 10_000, format!("{counted} of 20 000 strangers' hellos are counted"))?;
    unharmed(&pair, "hello flood", [&mut a, &mut b])
}

/// A config that names the gateway itself, by an address that cannot be recognised as its own.
pub(crate) fn itself_as_peer() -> Outcome {
    let pair = Pair::new()?;
    let gateway = pair.gateway(0);
    gateway.run(["ip", "address", "add", "10.99.0.77/24", "dev", "eth0"])?;
    let mut config = gateway.config();
    config["sec"] = false.into();
    config["listen"] = "0.0.0.0:5800".into();
    let peers = config["peers"].as_array_mut().ok_or("no peers")?;
    let key = ipop_control::keys::PrivateKey::generate()?.public().to_string();
    peers.push(serde_json::json!({ "name": "mirror", "address": "10.99.0.77:5800", "public_key": key }));
    let mut a = gateway.start_ipop(&config)?;
    let mut other = pair.gateway(1).config();
    other["sec"] = false.into();
    let mut b = pair.gateway(1).start_ipop(&other)?;
    pair.traffic_within("to the real peer", Duration::from_secs(4))?;
    let warned = until("the warning", Duration::from_secs(5), || Ok(a.log().contains("is this gateway itself")));
    with_logs(warned, &[&a, &b])?;
    ensure(super::kit::peer_state(&a, 1)? == "down", "it is its own peer")?;
    // No frame may come back through the mirror.
    pair.c0.ping(THERE, 5)?;
    pair.c1.ping(HERE, 5)?;
    let warnings = a.log().lines().filter(|line| line.contains("this gateway itself")).count();
    ensure(warnings == 1, format!("{warnings} warnings in a few seconds"))?;
    unharmed(&pair, "itself as peer", [&mut a, &mut b])
}
