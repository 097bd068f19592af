//! What these tests share: a segment of three gateways, guests that are named after their gateway, and mute stations
//! through which a test speaks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipop_lab::arp::{Arp, BROADCAST, Mac, format_mac, gratuitous};
pub(crate) use ipop_lab::trials::Outcome;
use ipop_lab::{Container, Daemon, Lab, RawPort, interrupt};
use libtest_mimic::Failed;
use serde_json::Value;

/// What comes at all comes within this time.
pub(crate) const SOON: Duration = Duration::from_secs(3);
/// So long a test listens for what must not come.
pub(crate) const HUSH: Duration = Duration::from_millis(400);

pub(crate) fn ensure(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(what().into()) }
}

/// A lab whose daemons are up.
pub(crate) struct World {
    // Dropped first: a daemon says goodbye while its namespace is there.
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) lab: Lab,
}

impl World {
    /// Without IPv6 in the guests, so that their kernels say nothing by themselves.
    pub(crate) fn new() -> Result<World, Failed> {
        World::with(|_| ())
    }

    /// The same with configurations that `change` has seen.
    pub(crate) fn with(change: impl Fn(&mut Value)) -> Result<World, Failed> {
        World::of(Lab::builder().gateways(3).without_inner_ipv6().build()?, change)
    }

    /// With IPv6 in the guests.
    pub(crate) fn with_ipv6() -> Result<World, Failed> {
        World::of(Lab::builder().gateways(3).build()?, |_| ())
    }

    fn of(lab: Lab, change: impl Fn(&mut Value)) -> Result<World, Failed> {
        let daemons = lab.start_ipop_with(|_, config| change(config))?;
        Ok(World { daemons, lab })
    }

    /// The guest `a1`, `b2`, ...: behind gw-a, gw-b, ..., with the addresses that belong to its name.
    pub(crate) fn guest(&self, name: &str) -> Result<Container, Failed> {
        let (gateway, host) = seat(name);
        self.guest_at(name, gateway, host)
    }

    /// Several at once.
    pub(crate) fn guests<const N: usize>(&self, names: [&str; N]) -> Result<[Container; N], Failed> {
        let guests: Vec<Container> = names.iter().map(|name| self.guest(name)).collect::<Result<_, _>>()?;
        guests.try_into().map_err(|_| "as many guests as names".into())
    }

    /// A guest somewhere, with the addresses 10.0.3.`host` and fd03::`host`.
    pub(crate) fn guest_at(&self, name: &str, gateway: usize, host: u8) -> Result<Container, Failed> {
        let addresses = [format!("10.0.3.{host}/16"), format!("fd03::{host}/64")];
        let wanted = if self.has_ipv6() { &addresses[..] } else { &addresses[..1] };
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        Ok(self.lab.container(gateway, name, &wanted)?)
    }

    /// A guest that says only what the test makes it say.
    pub(crate) fn station(&self, name: &str) -> Result<Station, Failed> {
        let (gateway, host) = seat(name);
        Station::of(self.lab.container(gateway, name, &[])?, host)
    }

    fn has_ipv6(&self) -> bool {
        let setting = self.lab.gateway(0).run(["cat", "/proc/sys/net/ipv6/conf/lxcbr0/disable_ipv6"]);
        setting.is_ok_and(|text| text.trim() == "0")
    }

    /// A number of `ipop status --json`, such as `/arp/duplicates`, of all gateways together.
    pub(crate) fn total(&self, pointer: &str) -> ipop_lab::Result<u64> {
        self.daemons.iter().map(|daemon| daemon.counter(pointer)).sum()
    }

    /// Waits until a number of all gateways together is at least this.
    pub(crate) fn await_total(&self, pointer: &str, least: u64) -> Outcome {
        let what = format!("{pointer} of all gateways together to reach {least}");
        Ok(interrupt::wait_until(&what, SOON, || Ok((self.total(pointer)? >= least).then_some(())))?)
    }

    /// The row of `ipop macs --json` for a MAC without VLAN.
    pub(crate) fn mac(&self, gateway: usize, mac: &str) -> ipop_lab::Result<Option<Value>> {
        let table = self.daemons[gateway].status("macs")?;
        let rows = table["macs"].as_array().cloned().unwrap_or_default();
        Ok(rows.into_iter().find(|row| row["mac"] == mac && row["vlan"] == 0))
    }

    /// Where a gateway believes a MAC to be.
    pub(crate) fn place(&self, gateway: usize, mac: &str) -> ipop_lab::Result<Option<String>> {
        Ok(self.mac(gateway, mac)?.and_then(|row| row["where"].as_str().map(str::to_owned)))
    }

    /// The gateways whose log has a line with all these words.
    pub(crate) fn logged(&self, words: &[&str]) -> Vec<&str> {
        let says = |daemon: &&Daemon| daemon.log().lines().any(|line| words.iter().all(|word| line.contains(word)));
        self.daemons.iter().filter(says).map(|daemon| daemon.gateway().name()).collect()
    }
}

/// The gateway and the host number that a guest's name tells: `b1` is behind gateway 1 and has number 21.
fn seat(name: &str) -> (usize, u8) {
    let [letter, digit] = *name.as_bytes() else { panic!("{name} is no guest's name") };
    let gateway = letter - b'a';
    (gateway.into(), 10 * (gateway + 1) + (digit - b'0'))
}

/// The IPv4 address of a guest of that name.
pub(crate) fn ip(name: &str) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 3, seat(name).1)
}

/// The IPv6 address of a guest of that name: the number is read as it is written, so b1 has fd03::21.
pub(crate) fn ip6(name: &str) -> Ipv6Addr {
    let number = seat(name).1;
    Ipv6Addr::new(0xfd03, 0, 0, 0, 0, 0, 0, u16::from(number / 10 * 16 + number % 10))
}

/// A port on the interface of a guest.
pub(crate) fn port(guest: &Container) -> Result<RawPort, Failed> {
    Ok(RawPort::open(guest.netns(), guest.interface())?)
}

/// A guest takes a further address, and says nothing about it.
pub(crate) fn take(guest: &Container, address: impl Into<IpAddr>) -> Outcome {
    let address = address.into();
    let length = if address.is_ipv4() { "32" } else { "128 nodad" };
    guest.netns().ip(&format!("address add dev {} {address}/{length}", guest.interface()))?;
    Ok(())
}

/// A guest lets go of such an address, and says nothing about it.
pub(crate) fn let_go(guest: &Container, address: Ipv4Addr) -> Outcome {
    guest.netns().ip(&format!("address del {address}/32 dev {}", guest.interface()))?;
    Ok(())
}

/// A guest's gratuitous ARP for an address.
pub(crate) fn announce(guest: &Container, address: Ipv4Addr) -> Outcome {
    Ok(port(guest)?.send(&gratuitous(guest.mac_bytes()?, address))?)
}

/// A frame of an EtherType for experiments (IEEE 802, local experimental EtherType 1), which no kernel answers.
pub(crate) fn data(to: Mac, from: Mac, number: u32) -> Vec<u8> {
    let mut frame = [&to[..], &from, &[0x88, 0xb5], &number.to_be_bytes()].concat();
    frame.resize(60, 7);
    frame
}

/// Puts a customer's tag into a frame: VLAN, and priority in the upper three bits.
pub(crate) fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let [high, low] = tci.to_be_bytes();
    let mut tagged = frame.to_vec();
    tagged.splice(12..12, [0x81, 0x00, high, low]);
    tagged
}

/// A mute guest and the port through which the test speaks for it.
pub(crate) struct Station {
    pub(crate) port: RawPort,
    pub(crate) mac: Mac,
    pub(crate) ip: Ipv4Addr,
    pub(crate) container: Container,
}

impl Station {
    pub(crate) fn of(container: Container, host: u8) -> Result<Station, Failed> {
        let mut port = port(&container)?;
        port.drain()?;
        Ok(Station { port, mac: container.mac_bytes()?, ip: Ipv4Addr::new(10, 0, 3, host), container })
    }

    pub(crate) fn send(&self, frame: &[u8]) -> Outcome {
        Ok(self.port.send(frame)?)
    }

    pub(crate) fn request(&self, target: Ipv4Addr) -> Arp {
        Arp::request(self.mac, self.ip, target)
    }

    /// Waits for exactly this frame; what else comes before is passed over.
    pub(crate) fn hear(&mut self, what: &str, frame: &[u8]) -> Outcome {
        self.wait_for(what, SOON, |seen| seen == frame).map(drop).map_err(|error| {
            let reason = error.message().unwrap_or_default();
            format!("{what}: wanted {}: {reason}", show(frame)).into()
        })
    }

    /// The next frame that is `wanted`.
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        timeout: Duration,
        wanted: impl FnMut(&[u8]) -> bool,
    ) -> Result<Vec<u8>, Failed> {
        let (mut heard, came) = self.port.capture_until(timeout, wanted)?;
        match heard.pop() {
            Some(frame) if came => Ok(frame),
            last => {
                heard.extend(last);
                let name = self.container.name();
                // What is repeated says nothing new.
                heard.dedup();
                let list: Vec<String> = heard.iter().map(|frame| show(frame)).collect();
                Err(format!("{what} did not come to {name} in {timeout:?}, but {list:#?}").into())
            }
        }
    }

    /// Everything that comes before it has been quiet for [`HUSH`].
    pub(crate) fn rest(&mut self) -> Result<Vec<Vec<u8>>, Failed> {
        let mut all = Vec::new();
        while let Some(frame) = self.port.recv(HUSH)? {
            all.push(frame);
        }
        Ok(all)
    }

    /// All learn where this station is, by a frame that is neither ARP nor neighbour discovery.
    pub(crate) fn introduce(&self) -> Outcome {
        self.send(&data(BROADCAST, self.mac, u32::MAX))
    }
}

/// A frame for a message of a failed test.
pub(crate) fn show(frame: &[u8]) -> String {
    let octets: String = frame.iter().map(|octet| format!("{octet:02x}")).collect();
    match Arp::parse(frame) {
        Some(arp) => format!("[{arp}; sender {}] {octets}", format_mac(arp.sender_mac)),
        None => octets,
    }
}

/// A guest that sends again and again, in a thread, until it is told to end.
pub(crate) struct Sender {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<ipop_lab::Result<u64>>>,
}

impl Sender {
    /// Sends what `frames` gives for 0, 1, 2, ..., so far apart, until it gives nothing more.
    pub(crate) fn start(
        port: RawPort,
        pause: Duration,
        mut frames: impl FnMut(u64) -> Option<Vec<u8>> + Send + 'static,
    ) -> Sender {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            let begin = Instant::now();
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                let Some(frame) = frames(sent) else { break };
                // By the clock and not by naps, which would add up.
                let due = begin + pause * u32::try_from(sent).unwrap_or(u32::MAX);
                let left = due.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    thread::sleep(left);
                }
                port.send(&frame)?;
                sent += 1;
            }
            Ok(sent)
        };
        Sender { stop, thread: Some(thread::spawn(run)) }
    }

    /// Waits until all is sent; gives how many frames that were.
    pub(crate) fn finish(mut self) -> Result<u64, Failed> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(sent)) => Ok(sent?),
            _ => Err("a sender panicked".into()),
        }
    }

    /// Ends it; gives how many frames it has sent.
    pub(crate) fn end(self) -> Result<u64, Failed> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
