//! One who asks too much does not delay others: a peer, and clients of the control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ipop_lab::arp::{Arp, format_mac};
use ipop_lab::{Daemon, Lab, RawPort, udp_socket};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::kit::{Outcome, SOON, Station, World, ensure, until};

/// An answer that takes longer has waited for something. Without a load it takes one or two milliseconds; sender, gateways
/// and guests share the cores of one machine.
const PATIENCE: Duration = Duration::from_millis(300);
/// Addresses that are asked for meanwhile.
const QUESTIONS: u8 = 12;

/// `asker` asks for addresses that nobody has asked for, which `target` has. How long the slowest answer took.
fn ask_for_new(asker: &mut Station, target: &mut Station, subnet: u8) -> Result<Duration, Failed> {
    let mut slowest = Duration::ZERO;
    for number in 1..=QUESTIONS {
        let ip = Ipv4Addr::new(10, 0, subnet, number);
        let question = asker.request(ip).frame();
        let answer = Arp::reply(target.mac, ip, asker.mac, asker.ip).frame();
        asker.drain()?;
        let begin = Instant::now();
        asker.send(&question)?;
        target.wait_for(&format!("the question for {ip}"), SOON, |frame| frame == question)?;
        target.send(&answer)?;
        asker.wait_for(&format!("the answer about {ip}"), SOON, |frame| frame == answer)?;
        slowest = slowest.max(begin.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(slowest)
}

fn expect_quick(slowest: Duration, what: &str) -> Outcome {
    eprintln!("{what}: the slowest of {QUESTIONS} answers took {slowest:.1?}");
    ensure(slowest < PATIENCE, format!("{what}: the slowest of {QUESTIONS} answers took {slowest:?}"))
}

/// Eight clients of the control socket that ask without pause: new addresses are resolved as fast as else.
pub(crate) fn clients_that_pipeline() -> Outcome {
    let world = World::new(2, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut target = world.station(1, "target", "10.0.3.104")?;
    let (over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let slowest = thread::scope(|scope| -> Result<Duration, Failed> {
        let mut ends = Vec::new();
        for _ in 0..8 {
            let stream = UnixStream::connect(world.daemons[0].socket())?;
            ends.push(stream.try_clone()?);
            let (mut writer, mut reader) = (stream.try_clone()?, BufReader::new(stream));
            let (over, answers) = (&over, &answers);
            scope.spawn(move || {
                let asked = b"{\"command\":\"status\"}\n".repeat(10);
                while !over.load(Relaxed) && writer.write_all(&asked).is_ok() {}
            });
            scope.spawn(move || {
                let mut line = String::new();
                while !over.load(Relaxed) && reader.read_line(&mut line).is_ok_and(|len| len > 0) {
                    answers.fetch_add(1, Relaxed);
                    line.clear();
                }
            });
        }
        thread::sleep(Duration::from_millis(300));
        let slowest = ask_for_new(&mut asker, &mut target, 7);
        over.store(true, Relaxed);
        for end in ends {
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
        slowest
    })?;
    let answers = answers.load(Relaxed);
    ensure(answers > 100, format!("only {answers} answers: there was no load"))?;
    expect_quick(slowest, "while clients ask")
}

fn resident_kib(daemon: &Daemon) -> Result<u64, Failed> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Clients that ask for a large table and do not read cost little, and whoever reads gets it whole.
pub(crate) fn clients_that_do_not_read() -> Outcome {
    const MACS: u32 = 6000;
    let world = World::new(2, 300)?;
    let station = world.station(0, "many", "10.0.3.3")?;
    let daemon = &world.daemons[0];
    // Within the rate at which a worker tells of new sources.
    for number in 0..MACS {
        let [_, high, middle, low] = number.to_be_bytes();
        let source = [0x02, 0, 0x5e, high, middle, low];
        station.send(&[&[0xff; 6][..], &source, &[0x88, 0xb5], &[0; 46]].concat())?;
        if number % 10 == 9 {
            thread::sleep(Duration::from_millis(8));
        }
    }
    until("the table to be full of them", SOON, || {
        Ok(daemon.status("macs")?["macs"].as_array().is_some_and(|macs| macs.len() >= MACS as usize))
    })?;
    let before = resident_kib(daemon)?;
    let mut silent = Vec::new();
    for _ in 0..31 {
        let mut stream = UnixStream::connect(daemon.socket())?;
        stream.set_nonblocking(true)?;
        let _ = stream.write(&b"{\"command\":\"macs\"}\n".repeat(2000));
        silent.push(stream);
    }
    // One that reads late gets every row all the same.
    let mut late = UnixStream::connect(daemon.socket())?;
    late.set_read_timeout(Some(SOON))?;
    late.write_all(b"{\"command\":\"macs\"}\n{\"command\":\"arp\"}\n")?;
    thread::sleep(Duration::from_millis(500));
    let after = resident_kib(daemon)?;
    ensure(after < before + 6 * 1024, format!("{before} KiB became {after} KiB"))?;
    late.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    late.read_to_string(&mut text)?;
    let answers: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure(answers.len() == 2, format!("{} answers", answers.len()))?;
    let macs: Vec<_> = answers[0]["macs"].as_array().ok_or("no macs")?.iter().map(|row| row["mac"].as_str()).collect();
    ensure(macs.len() >= MACS as usize && macs.is_sorted(), format!("{} MACs", macs.len()))?;
    ensure(answers[1]["entries"].is_array() && answers[1]["unanswered"].is_array(), answers[1].to_string())
}

/// A peer in clear text, spoken by hand.
struct Peer {
    sockets: Vec<UdpSocket>,
    target: SocketAddr,
    session: u32,
    counter: u64,
}

impl Peer {
    /// Opens a link to the first gateway in the place of the third, and 16 more sockets.
    fn connect(lab: &Lab) -> Result<Peer, Failed> {
        const HELLO: u32 = 0x3200_0000;
        let (own, target) = (lab.gateway(2), lab.gateway(0).endpoint());
        let main = udp_socket(own.netns(), own.endpoint(), SOON)?;
        let mut session = 0;
        let mut buffer = [0; 2048];
        while session == 0 {
            let (length, from) = main.recv_from(&mut buffer)?;
            let hello: Value = serde_json::from_slice(&buffer[16.min(length)..length]).unwrap_or_default();
            if from == target && hello["msg_type"] == "hello" {
                session = u32::try_from(hello["session"].as_u64().ok_or("no session")?)?;
            }
        }
        let hello = json!({
            "msg_type": "hello", "uid": "flooder", "name": own.name(), "session": 0x0077_0001, "your_session": session,
        });
        main.send_to(&datagram(HELLO, 0, 0, hello.to_string().as_bytes()), target)?;
        let port = |number: u16| udp_socket(own.netns(), SocketAddr::new(own.endpoint().ip(), 21_000 + number), SOON);
        let sockets = std::iter::once(Ok(main)).chain((0..16).map(port)).collect::<ipop_lab::Result<_>>()?;
        Ok(Peer { sockets, target, session, counter: 0 })
    }

    /// A message, from each of the ports in turns.
    fn say(&mut self, message: &[u8]) -> Outcome {
        const DATA: u32 = 0x3100_0000;
        const DATA_ASIDE: u32 = 0x3500_0000;
        const CONTROL: u8 = 4;
        self.counter += 1;
        let place = self.counter as usize % self.sockets.len();
        let kind = if place == 0 { DATA } else { DATA_ASIDE };
        let length = u16::try_from(message.len())?.to_be_bytes();
        let record = [&[CONTROL, 0, length[0], length[1]], message].concat();
        self.sockets[place].send_to(&datagram(kind, self.session, self.counter, &record), self.target)?;
        Ok(())
    }
}

fn datagram(kind: u32, session: u32, counter: u64, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &session.to_be_bytes(), &counter.to_be_bytes(), body].concat()
}

/// A peer repeats a question from 16 ports to a gateway with four workers: guests of another peer get their answers, the
/// peer gets no more than its due, and is named.
pub(crate) fn peer_that_floods() -> Outcome {
    let lab = Lab::builder().gateways(3).without_inner_ipv6().build()?;
    let config = |index: usize| {
        let mut config = lab.gateway(index).config();
        config["sec"] = false.into();
        config["workers"] = if index == 0 { 4 } else { 1 }.into();
        config
    };
    let daemons = [lab.gateway(0).start_ipop(&config(0))?, lab.gateway(1).start_ipop(&config(1))?];
    let mut peer = Peer::connect(&lab)?;
    daemons[0].wait_peers_up(SOON)?;
    let mut target = Station::new(&lab, 0, "target", "10.0.3.104")?;
    let mut asker = Station::new(&lab, 1, "asker", "10.0.3.3")?;
    let message = json!({
        "msg_type": "arp_request", "target_ip4": target.ip, "asker_ip4": "10.0.3.99",
        "asker_mac": format_mac([0x02, 0, 0, 0, 0xcc, 1]), "seq": 0,
    })
    .to_string();
    let (over, begin) = (AtomicBool::new(false), Instant::now());
    let slowest = thread::scope(|scope| -> Result<Duration, Failed> {
        let flood = scope.spawn(|| {
            while !over.load(Relaxed) {
                for _ in 0..40 {
                    peer.say(message.as_bytes()).map_err(|error| error.message().unwrap_or_default().to_owned())?;
                }
                thread::sleep(Duration::from_millis(2));
            }
            Ok::<_, String>(peer)
        });
        thread::sleep(Duration::from_millis(1500));
        let slowest = ask_for_new(&mut asker, &mut target, 7);
        over.store(true, Relaxed);
        flood.join().map_err(|_| "the flood ended by itself")??;
        slowest
    })?;
    let took = begin.elapsed();
    let a = &daemons[0];
    let heard = a.counter("/arp/rpc_requests_received")?;
    let most = 4000 * (took.as_secs() + 1) + 1000;
    ensure(heard <= most, format!("{heard} of its messages were taken in {took:?}"))?;
    let dropped = a.counter("/drops/rpc_rate")? + a.counter("/drops/control_queue_full")?;
    let peers = a.status("peers")?["peers"].clone();
    ensure(peers[1]["messages_dropped"] == dropped && dropped > 1000, format!("{dropped} dropped, {peers}"))?;
    ensure(peers[0]["messages_dropped"] == 0, peers.to_string())?;
    let named = format!("peer {} sends more messages", lab.gateway(2).name());
    until("the peer to be named in the log", SOON, || Ok(a.log().contains(&named)))?;
    expect_quick(slowest, "while a peer floods")
}

/// A guest that floods with ARP does not delay what others on its bridge ask.
pub(crate) fn guest_that_floods() -> Outcome {
    let world = World::new(2, 300)?;
    let mut asker = world.station(0, "asker", "10.0.3.3")?;
    let mut target = world.station(1, "target", "10.0.3.104")?;
    let guest = world.lab.container(0, "flooder", &[])?;
    let port = RawPort::open(guest.netns(), guest.interface())?;
    let mac = guest.mac_bytes()?;
    let over = AtomicBool::new(false);
    let slowest = thread::scope(|scope| -> Result<Duration, Failed> {
        let flood = scope.spawn(|| {
            let (mut sent, mut number) = (0_u64, 0_u16);
            while !over.load(Relaxed) {
                for _ in 0..100 {
                    let [high, low] = number.to_be_bytes();
                    number = number.wrapping_add(1);
                    let question = Arp::request(mac, [10, 0, 9, 9].into(), [10, 9, high, low].into());
                    sent += u64::from(port.send(&question.frame()).is_ok());
                }
                thread::sleep(Duration::from_millis(2));
            }
            sent
        });
        thread::sleep(Duration::from_millis(500));
        let slowest = ask_for_new(&mut asker, &mut target, 7);
        over.store(true, Relaxed);
        let sent = flood.join().map_err(|_| "the flood ended by itself")?;
        ensure(sent > 5000, format!("{sent} questions are no flood"))?;
        slowest
    })?;
    expect_quick(slowest, "while a guest floods")
}
