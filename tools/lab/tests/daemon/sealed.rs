//! Sealed links under attack: by somebody who sees everything on the underlay and sends in any name, but has no key.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use blake2::digest::{FixedOutput, KeyInit, Update, consts::U16};
use blake2::{Blake2s256, Blake2sMac, Digest};
use ipop_control::keys::{PrivateKey, PublicKey};
use ipop_control::link::noise::{Initiator, Introduction};
use ipop_lab::{Container, Daemon, Direction, Gateway, Lab, RawPort};
use libtest_mimic::Failed;

use super::kit::{HERE, Outcome, Pair, Random, THERE, ensure, peer_state, says, until, with_logs};
use super::stream::{PATTERN, STREAM_PORT, Stream};
use super::unharmed::{Pings, belief, counted, pace, unharmed};
use super::wire::{DATA, Forger, HELLO, INITIATION, RESPONSE, VERSION, datagram, payloads};

/// How many datagrams are forged, unless IPOP_FORGED says more.
const FORGED: usize = 200_000;
/// Octets of UDP payload that a packet of the lab's underlay has room for.
const MOST: usize = 1472;
/// What can become of a forged datagram at a sealed link.
const ENDS: [&str; 13] = [
    "datagram_truncated",
    "datagram_version",
    "datagram_type",
    "datagram_network",
    "session_unknown",
    "lane_unknown",
    "not_authentic",
    "replayed",
    "handshake_stamp",
    "handshake_rate",
    "handshake_late",
    "handshake_refused",
    "control_queue_full",
];

/// Drops for one of the reasons why something forged is refused.
fn refused(daemon: &Daemon) -> ipop_lab::Result<u64> {
    let status = daemon.status("status")?;
    Ok(ENDS.iter().filter_map(|reason| status["drops"][reason].as_u64()).sum())
}

/// The stamp of a handshake, made by hand: BLAKE2s with a key that is made of the receiver's public key.
fn stamp(receiver: &PublicKey, mut datagram: Vec<u8>) -> Vec<u8> {
    let key = Blake2s256::new().chain_update(b"ipop handshake stamp").chain_update(receiver.as_bytes()).finalize();
    let mut mac = <Blake2sMac<U16> as KeyInit>::new(&key);
    Update::update(&mut mac, &datagram);
    datagram.extend(mac.finalize_fixed());
    datagram
}

/// The private key of a gateway of the lab.
fn key_of(gateway: &Gateway) -> Result<PrivateKey, Failed> {
    let config = gateway.config();
    let path = config["private_key_file"].as_str().ok_or("no private_key_file")?;
    Ok(PrivateKey::load(path.as_ref())?)
}

/// The datagrams of the peer, as they come in at gw-a while `during` lets them come.
fn captured(pair: &Pair, during: Duration) -> Result<Vec<Vec<u8>>, Failed> {
    let mut uplink = RawPort::open(pair.gateway(0).netns(), "eth0")?;
    let frames = uplink.capture(during)?;
    let genuine = payloads(&frames, pair.gateway(1).endpoint());
    Ok(genuine.into_iter().filter(|payload| payload[0] == VERSION | DATA).collect())
}

/// Genuine datagrams changed, cut, extended, mixed and played again, out of order, from the peer's address and from
/// elsewhere: none of them counts, and all of them are counted.
pub(crate) fn forged() -> Outcome {
    let number = std::env::var("IPOP_FORGED").ok().map_or(Ok(FORGED), |text| text.parse())?;
    let (pair, mut a, mut b) = Pair::joined()?;
    let forger = Forger::new(pair.gateway(1), pair.gateway(0))?;
    let peer = pair.gateway(1).endpoint();
    let stream = Stream::start(&pair.c1, &pair.c0, 2000)?;
    let genuine = captured(&pair, Duration::from_millis(500))?;
    ensure(genuine.len() > 200, format!("{} datagrams were captured", genuine.len()))?;
    let calm = Pings::start(&pair.c0, THERE)?;
    thread::sleep(Duration::from_secs(2));
    let calm = calm.tell()?;
    // All that a guest is given beside the stream: the pings, and ARP.
    let mut guest = RawPort::open(pair.c0.netns(), pair.c0.interface())?;
    let pings = Pings::start(&pair.c0, THERE)?;
    let before = refused(&a)?;
    let begin = Instant::now();
    let mut random = Random(4);
    for number in 0..number {
        let mut payload = genuine[random.below(genuine.len())].clone();
        match number % 10 {
            0..=2 => {}
            3 | 4 => {
                for _ in 0..=random.below(3) {
                    let at = random.below(payload.len());
                    payload[at] ^= 1 << random.below(8);
                }
            }
            5 => payload.truncate(random.below(payload.len())),
            6 => {
                // What still fits into a packet.
                let more = (1 + random.below(40)).min(MOST.saturating_sub(payload.len()));
                payload.extend(random.bytes(more));
            }
            7 => {
                let other = &genuine[random.below(genuine.len())];
                payload.truncate(16);
                payload.extend(&other[16..]);
            }
            // Counters far ahead: if one of them moved the window, everything genuine would be too old.
            8 => payload[10..16].copy_from_slice(&[0, 0, 7, 0xff, random.next() as u8, random.next() as u8]),
            _ => payload[0] = VERSION | [INITIATION, RESPONSE, 0, 7][random.below(4)],
        }
        let elsewhere = SocketAddr::new(peer.ip(), 1024 + random.below(50_000) as u16);
        forger.send(if random.below(2) == 0 { peer } else { elsewhere }, &payload)?;
        // Often enough that its buffer does not overflow.
        if number % 1000 == 0 {
            all_expected(&mut guest, Duration::ZERO)?;
        }
        pace(number);
    }
    let rate = number as f64 / begin.elapsed().as_secs_f64();
    let attacked = pings.tell()?;
    let stream = stream.stop()?;
    println!(
        "{number} forged datagrams, {rate:.0} per second. Pings before: {calm}; meanwhile: {attacked}; of a stream of {} \
         datagrams {} lost",
        stream.sent, stream.missing
    );
    attacked.whole("during forged datagrams")?;
    stream.whole("the stream during forged datagrams")?;
    all_expected(&mut guest, Duration::from_millis(100))?;
    let lost = guest.lost()?;
    ensure(lost == 0, format!("{lost} frames to the guest were not looked at"))?;
    // Sender, gateways and guests share the cores of one machine; a gateway that is held up takes far longer.
    ensure(attacked.average < calm.average + 50.0, format!("pings took {attacked}, before that {calm}"))?;
    unharmed(&pair, "forged datagrams", [&mut a, &mut b])?;
    counted(&a, &ENDS[..6])?;
    counted(&a, &["not_authentic", "replayed", "handshake_stamp"])?;
    let all = until("all to be counted", Duration::from_secs(3), || Ok(refused(&a)? - before >= number as u64));
    let (sum, drops) = (refused(&a)? - before, a.status("status")?["drops"].clone());
    ensure(all.is_ok() && sum == number as u64, format!("{sum} of {number} are counted: {drops}"))?;
    let peers = a.status("peers")?;
    let peer = &peers["peers"][0];
    ensure(peer["ups"] == 1 && peer["sessions"] == 1, format!("the link did not stay as it was: {peer}"))
}

/// The guest has been given nothing that nobody sent.
fn all_expected(guest: &mut RawPort, time: Duration) -> Outcome {
    let invented = guest.capture(time)?.into_iter().find(|frame| !is_expected(frame));
    ensure(invented.is_none(), format!("a frame that nobody sent: {invented:02x?}"))
}

/// ARP, a ping, or UDP to the stream's port.
fn is_expected(frame: &[u8]) -> bool {
    match (frame.get(12..14), frame.get(23)) {
        (Some([8, 6]), _) => frame.len() <= 60,
        (Some([8, 0]), Some(1)) => frame.len() == 98,
        (Some([8, 0]), Some(17)) => frame.get(36..38) == Some(&STREAM_PORT.to_be_bytes()),
        _ => false,
    }
}

/// With two workers, what is played again from another port comes to the other worker: it must know too. First at the
/// moment when the original is on its way, then later.
pub(crate) fn replays_at_another_worker() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined_with(|config| config["workers"] = 2.into())?;
    let forger = Forger::new(pair.gateway(1), pair.gateway(0))?;
    let peer = pair.gateway(1).endpoint();
    let elsewhere = |number: usize| SocketAddr::new(peer.ip(), 20_000 + (number % 64) as u16);
    let mut uplink = RawPort::open(pair.gateway(0).netns(), "eth0")?;
    let stream = Stream::start(&pair.c1, &pair.c0, 2000)?;
    let (mut seen, before) = (Vec::new(), a.counter("/drops/replayed")?);
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let Some(frame) = uplink.recv(Duration::from_millis(50))? else { continue };
        for payload in payloads(&[frame], peer).into_iter().filter(|payload| payload[0] == VERSION | DATA) {
            forger.send(elsewhere(seen.len()), &payload)?;
            seen.push(payload);
        }
    }
    stream.stop()?.whole("the stream while it is played again")?;
    ensure(seen.len() > 1000, format!("{} were played again", seen.len()))?;
    for port in 0..64 {
        for payload in seen.iter().rev().take(20) {
            forger.send(elsewhere(port), payload)?;
        }
        pace(99);
    }
    let number = seen.len() as u64 + 64 * 20;
    let counted =
        until("all to be counted", Duration::from_secs(2), || Ok(a.counter("/drops/replayed")? == number + before));
    let drops = a.status("status")?["drops"].clone();
    counted.map_err(|error| format!("{}: {number} were played again, {drops}", error.message().unwrap_or_default()))?;
    // One that was faster than the original moved the peer; the next original moves it back.
    until("the peer to be where it is", Duration::from_secs(3), || {
        Ok(a.status("peers")?["peers"][0]["address"] == peer.to_string())
    })?;
    unharmed(&pair, "replays", [&mut a, &mut b])
}

/// What is found of a conversation by somebody who listens on the underlay.
fn overheard(pair: &Pair) -> Result<Vec<&'static str>, Failed> {
    let mut uplink = RawPort::open_for(pair.gateway(0).netns(), "eth0", Direction::Both)?;
    // A question and an answer that must cross as JSON, whatever was learned before.
    let fresh = pair.lab.container(1, "c9", &["10.0.3.9/24"])?;
    pair.c0.exec(["ping", "-n", "-c3", "-i0.2", "-p", "636c656172", &fresh.ip()?.to_string()])?;
    let stream = Stream::start(&pair.c0, &pair.c1, 500)?;
    thread::sleep(Duration::from_millis(400));
    stream.stop()?.whole("the stream")?;
    let frames = uplink.capture(Duration::from_millis(200))?;
    ensure(frames.len() > 100, format!("{} packets on the underlay", frames.len()))?;
    let mac = |container: &Container| container.mac_bytes().map(|mac| mac.to_vec());
    let ip = |text: &str| text.parse::<std::net::Ipv4Addr>().map(|ip| ip.octets().to_vec());
    let secrets = [
        ("a stream", PATTERN.to_vec()),
        ("a ping", b"clearclearclear".to_vec()),
        ("JSON", b"\"msg_type\"".to_vec()),
        ("a MAC", mac(&pair.c0)?),
        ("another MAC", mac(&pair.c1)?),
        ("both addresses", [ip(HERE)?, ip(THERE)?].concat()),
    ];
    let found = |secret: &Vec<u8>| frames.iter().any(|frame| frame.windows(secret.len()).any(|part| part == secret));
    Ok(secrets.iter().filter(|(_, secret)| found(secret)).map(|(name, _)| *name).collect())
}

/// Who listens on the underlay learns nothing; without keys everything.
pub(crate) fn no_clear_text() -> Outcome {
    {
        let (pair, _a, _b) = Pair::joined_in_clear_text()?;
        let found = overheard(&pair)?;
        ensure(found.len() == 6, format!("in clear text only {found:?} is found, so nothing would be noticed"))?;
    }
    let (pair, a, _b) = Pair::joined()?;
    let found = overheard(&pair)?;
    ensure(found.is_empty(), format!("the underlay shows {found:?}"))?;
    let answered = a.counter("/arp/rpc_replies_received")?;
    ensure(answered > 0 || a.status("rpc")?.to_string().contains("arp_reply"), "no message crossed")
}

/// A gateway whose key nobody has listed.
pub(crate) fn stranger() -> Outcome {
    let lab = Lab::builder().gateways(3).without_inner_ipv6().build()?;
    let containers = [(0, "c0", "10.0.3.3/24"), (1, "c1", "10.0.3.104/24"), (2, "c2", "10.0.3.7/24")];
    let containers =
        containers.iter().map(|(at, name, ip)| lab.container(*at, name, &[*ip])).collect::<Result<Vec<_>, _>>()?;
    let start = |index: usize, peers: &[usize]| {
        let mut config = lab.gateway(index).config();
        let all = config["peers"].take();
        config["peers"] = peers.iter().map(|peer| all[*peer].clone()).collect::<Vec<_>>().into();
        lab.gateway(index).start_ipop(&config)
    };
    // The peers of each in the lab's config: all others, in order.
    let (a, b, c) = (start(0, &[0])?, start(1, &[0])?, start(2, &[0, 1])?);
    for member in [&a, &b] {
        member.wait_peers_up(Duration::from_secs(5))?;
    }
    let mut guests =
        containers[..2].iter().map(|at| RawPort::open(at.netns(), "eth0")).collect::<Result<Vec<_>, _>>()?;
    let mut outside = RawPort::open(containers[2].netns(), "eth0")?;
    containers[0].ping(THERE, 5)?;
    for (from, to) in [(2, HERE), (2, THERE), (0, "10.0.3.7"), (1, "10.0.3.7")] {
        let ping = containers[from].exec(["ping", "-n", "-c3", "-i0.4", "-W0.5", to])?;
        ensure(!ping.success(), format!("c{from} reaches {to}: {}", ping.stdout))?;
    }
    thread::sleep(Duration::from_secs(1));
    let mac = containers[2].mac_bytes()?;
    for guest in &mut guests {
        let from_stranger =
            guest.capture(Duration::from_millis(50))?.iter().any(|frame| frame.get(6..12) == Some(&mac));
        ensure(!from_stranger, "a frame of the stranger's container came in")?;
    }
    let macs = [containers[0].mac_bytes()?, containers[1].mac_bytes()?];
    let got_out = outside.capture(Duration::from_millis(50))?;
    let got_out = got_out.iter().any(|frame| macs.iter().any(|mac| frame.get(6..12) == Some(mac)));
    ensure(!got_out, "a frame of a member's container came out at the stranger's")?;
    for peer in 0..2 {
        ensure(peer_state(&c, peer)? == "down", "the stranger has a link")?;
    }
    for member in [&a, &b] {
        let name = member.gateway().name();
        counted(member, &["handshake_refused"])?;
        let log = member.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("a handshake from")).collect();
        ensure(lines.len() == 1, format!("{name}: {} lines about the stranger: {lines:?}", lines.len()))?;
        says(name, lines[0], &["10.99.0.3:5800", "has a key that is no peer's in the config"])?;
    }
    Ok(())
}

/// Hellos, which cost no key, in the name of the peer and of others: new keys come all the same.
pub(crate) fn flood_of_hellos() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined()?;
    let forger = Forger::new(pair.gateway(1), pair.gateway(0))?;
    let peer = pair.gateway(1).endpoint();
    let hello = datagram(HELLO, 0, 255, 0, br#"{"msg_type":"hello","uid":"x","name":"x","session":7}"#);
    let stop = AtomicBool::new(false);
    let (changed, sent) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Relaxed) {
                let port = if sent % 2 == 0 { peer.port() } else { 10_000 + (sent % 40_000) as u16 };
                if forger.send(SocketAddr::new(peer.ip(), port), &hello).is_err() {
                    break;
                }
                pace(sent);
                sent += 1;
            }
            sent
        });
        let begin = Instant::now();
        let changed = (2..=11).try_for_each(|number| {
            // More often than a peer answers would be refused for that.
            thread::sleep(Duration::from_millis(300));
            ensure(a.status("rekey")?["asked"] == 1, "the peer is not asked for new keys")?;
            until(&format!("session {number} during a flood of hellos"), Duration::from_secs(5), || {
                Ok(a.status("peers")?["peers"][0]["sessions"] == number)
            })
        });
        // A handshake that is lost is repeated after a second.
        let changed = changed.and_then(|()| {
            let took = begin.elapsed();
            ensure(took < Duration::from_secs(6), format!("ten changes of keys took {took:?}"))
        });
        stop.store(true, Relaxed);
        (changed, flood.join())
    });
    with_logs(changed, &[&a, &b])?;
    let sent = sent.map_err(|_| "the flood panicked")?;
    ensure(sent > 5000, format!("only {sent} hellos were sent"))?;
    counted(&a, &["handshake_rate", "handshake_refused"])?;
    says("gw-a's log", &a.log(), &["\"sec\" must be the same on both gateways"])?;
    unharmed(&pair, "a flood of hellos", [&mut a, &mut b])
}

/// Initiations by the ten thousand: garbage, garbage with a valid stamp, recorded ones, and those of a peer that asks
/// for sessions without end.
pub(crate) fn flood_of_initiations() -> Outcome {
    let (pair, mut a, mut b) = Pair::joined()?;
    let forger = Forger::new(pair.gateway(1), pair.gateway(0))?;
    let peer = pair.gateway(1).endpoint();
    let receiver = key_of(pair.gateway(0))?.public();
    let key = key_of(pair.gateway(1))?;
    let fresh = |number: u64| -> Result<Vec<u8>, Failed> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
        let introduction = Introduction::new(now, 7, 1 + number as u32, "flood");
        let (_, message) = Initiator::begin(&key, &receiver, None, 0, &introduction)?;
        Ok(stamp(&receiver, datagram(INITIATION, 0, 255, 0, &message)))
    };
    let pings = Pings::start(&pair.c1, HERE)?;
    let mut answers = RawPort::open(pair.gateway(1).netns(), "eth0")?;
    let mut random = Random(5);
    let (mut sent, mut recorded, mut responses) = (0, Vec::new(), Vec::new());
    let mut collect = |responses: &mut Vec<Vec<u8>>| -> ipop_lab::Result<()> {
        let seen = payloads(&answers.capture(Duration::from_millis(1))?, pair.gateway(0).endpoint());
        responses.extend(seen.into_iter().filter(|payload| payload[0] == VERSION | RESPONSE));
        Ok(())
    };
    for number in 0..20_000 {
        let stranger = SocketAddr::new(peer.ip(), 10_000 + (number % 40_000) as u16);
        let from = if number % 2 == 0 { peer } else { stranger };
        let payload = match number % 40 {
            0 => {
                recorded = fresh(number)?;
                recorded.clone()
            }
            1..10 => recorded.clone(),
            10..25 => datagram(INITIATION, 0, 255, 0, &random.bytes(200)),
            _ => stamp(&receiver, datagram(INITIATION, 0, 255, 0, &random.bytes(184))),
        };
        forger.send(from, &payload)?;
        sent += 1;
        // What is sent from here passes the capture too, and its buffer is soon full.
        if number % 500 == 0 {
            collect(&mut responses)?;
        }
        pace(number as usize);
    }
    pings.stop(&format!("during {sent} initiations"))?;
    // Each is refused for a reason, or answered; the control thread may have a few hundred before it.
    until("all to be counted", Duration::from_secs(5), || {
        collect(&mut responses)?;
        Ok(refused(&a)? + responses.len() as u64 >= sent)
    })?;
    // 500 asked for a session, in a few seconds.
    ensure((1..60).contains(&responses.len()), format!("{} answers to {sent} initiations", responses.len()))?;
    let largest = responses.iter().map(Vec::len).max().unwrap_or(0);
    ensure(largest < recorded.len(), format!("an answer of {largest} octets to {} octets", recorded.len()))?;
    counted(&a, &["handshake_stamp", "handshake_rate", "handshake_refused"])?;
    // What is not finished changes nothing: neither where the peer is nor its session.
    let belief = belief(&a)?;
    says("what gw-a believes", &belief, &["up", "\"gw-b\"", &peer.to_string()])?;
    ensure(a.status("peers")?["peers"][0]["sessions"] == 1, "the peer's session was replaced")?;
    unharmed(&pair, "a flood of initiations", [&mut a, &mut b])
}
