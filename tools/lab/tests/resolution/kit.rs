//! What the tests of resolution share: stations that say only what a test makes them say, and waiting for their frames.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipop_lab::arp::{Arp, Mac};
pub(crate) use ipop_lab::trials::Outcome;
use ipop_lab::{Container, Daemon, Lab, RawPort, interrupt};
use libtest_mimic::Failed;
use serde_json::Value;

/// A frame that comes at all comes within this time.
pub(crate) const SOON: Duration = Duration::from_secs(3);
/// So long a test listens for a frame that must not come. Frames take a millisecond or two here.
pub(crate) const HUSH: Duration = Duration::from_millis(300);

pub(crate) fn ensure(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(what.into().into()) }
}

/// Waits until `ready` says so.
pub(crate) fn until(what: &str, timeout: Duration, mut ready: impl FnMut() -> ipop_lab::Result<bool>) -> Outcome {
    interrupt::wait_until(what, timeout, || Ok(ready()?.then_some(())))?;
    Ok(())
}

/// A container without addresses: its kernel stays silent, so the wire carries only what the test sends.
pub(crate) struct Station {
    port: RawPort,
    pub(crate) mac: Mac,
    pub(crate) ip: Ipv4Addr,
    /// Only to be held: dropping it removes the station.
    _container: Container,
}

impl Station {
    pub(crate) fn new(lab: &Lab, gateway: usize, name: &str, ip: &str) -> Result<Station, Failed> {
        let container = lab.container(gateway, name, &[])?;
        let mut port = RawPort::open(container.netns(), container.interface())?;
        port.drain()?;
        Ok(Station { port, mac: container.mac_bytes()?, ip: ip.parse()?, _container: container })
    }

    pub(crate) fn send(&self, frame: &[u8]) -> Outcome {
        Ok(self.port.send(frame)?)
    }

    /// Asks everyone for an address.
    pub(crate) fn ask(&self, target: Ipv4Addr) -> Outcome {
        self.send(&self.request(target).frame())
    }

    pub(crate) fn request(&self, target: Ipv4Addr) -> Arp {
        Arp::request(self.mac, self.ip, target)
    }

    /// A question in the name of nobody (RFC 5227).
    pub(crate) fn probe(&self, target: Ipv4Addr) -> Arp {
        Arp::request(self.mac, Ipv4Addr::UNSPECIFIED, target)
    }

    /// The answer to `asker`.
    pub(crate) fn reply_to(&self, asker: &Station) -> Arp {
        Arp::reply(self.mac, self.ip, asker.mac, asker.ip)
    }

    /// Waits for exactly this frame; what else comes before is passed over.
    pub(crate) fn hear(&mut self, what: &str, frame: &[u8]) -> Outcome {
        let (heard, came) = self.port.capture_until(SOON, |seen| seen == frame)?;
        ensure(came, format!("{what}: {frame:02x?} did not come, but {}", list(&heard)))
    }

    /// Everything that comes before it has been quiet for [`HUSH`], but for what a gateway asks in its own name.
    pub(crate) fn rest(&mut self) -> Result<Vec<Vec<u8>>, Failed> {
        let mut all = Vec::new();
        while let Some(frame) = self.port.recv(HUSH)? {
            if !is_gateways_question(&frame) {
                all.push(frame);
            }
        }
        Ok(all)
    }

    /// Exactly these frames come, once each and nothing else: the first ones are waited for, then silence.
    pub(crate) fn hear_only(&mut self, what: &str, frames: &[Vec<u8>]) -> Outcome {
        let mut heard = Vec::new();
        let end = Instant::now() + SOON;
        while heard.len() < frames.len() {
            match self.port.recv(end.saturating_duration_since(Instant::now()))? {
                Some(frame) if is_gateways_question(&frame) => {}
                Some(frame) => heard.push(frame),
                None => break,
            }
        }
        heard.extend(self.rest()?);
        let (mut wanted, mut seen) = (frames.to_vec(), heard.clone());
        wanted.sort();
        seen.sort();
        ensure(wanted == seen, format!("{what}: expected {}, heard {}", list(frames), list(&heard)))
    }

    pub(crate) fn hear_nothing(&mut self, what: &str) -> Outcome {
        self.hear_only(what, &[])
    }

    /// The next frame that is `wanted`, and all that came before it.
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
                Err(format!("{what} did not come, but {}", list(&heard)).into())
            }
        }
    }

    pub(crate) fn drain(&mut self) -> Outcome {
        Ok(self.port.drain()?)
    }
}

/// True for what a gateway asks in its own name: whether a station still has an address, or whether one on this side has an
/// address that a peer claims. It speaks from a MAC that begins with fe, and for IPv4 from the dummy address of RFC 7600.
pub(crate) fn is_gateways_question(frame: &[u8]) -> bool {
    let untagged =
        if frame.get(12..14) == Some(&[0x81, 0x00]) { [&frame[..12], &frame[16..]].concat() } else { frame.to_vec() };
    let frame = &untagged[..];
    let solicits = frame.len() > 54 && frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 135;
    let asks = Arp::parse(frame).is_some_and(|arp| arp.sender_ip == Ipv4Addr::new(192, 0, 0, 8));
    frame.get(6) == Some(&0xfe) && (solicits || asks)
}

/// Frames for a message of a failed test.
fn list(frames: &[Vec<u8>]) -> String {
    let one = |frame: &Vec<u8>| match Arp::parse(frame) {
        Some(arp) => format!("[{arp}]"),
        None => format!("{frame:02x?}"),
    };
    if frames.is_empty() { "nothing".into() } else { frames.iter().map(one).collect::<Vec<_>>().join(", ") }
}

/// A lab whose daemons are up, with stations; taken down in the order of the fields.
pub(crate) struct World {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) lab: Lab,
}

impl World {
    /// `arp_expiry` in seconds.
    pub(crate) fn new(gateways: usize, arp_expiry: u32) -> Result<World, Failed> {
        World::of(Lab::builder().gateways(gateways).without_inner_ipv6().build()?, arp_expiry)
    }

    pub(crate) fn of(lab: Lab, arp_expiry: u32) -> Result<World, Failed> {
        World::with(lab, |_, config| {
            config["arp_expiry"] = arp_expiry.into();
            // Stations that say only what a test makes them say do not answer when gateways ask whether they are there.
            config["arp_fresh"] = 300.into();
        })
    }

    /// With configurations that `change` has seen.
    pub(crate) fn with(lab: Lab, change: impl Fn(usize, &mut Value)) -> Result<World, Failed> {
        let mut daemons = Vec::new();
        for gateway in lab.gateways() {
            let mut config = gateway.config();
            change(gateway.index(), &mut config);
            daemons.push(gateway.start_ipop(&config)?);
        }
        for daemon in &daemons {
            daemon.wait_peers_up(Duration::from_secs(15))?;
        }
        Ok(World { daemons, lab })
    }

    pub(crate) fn station(&self, gateway: usize, name: &str, ip: &str) -> Result<Station, Failed> {
        Station::new(&self.lab, gateway, name, ip)
    }

    /// A counter of `ipop status`, such as `arp/rpc_requests_sent`.
    pub(crate) fn count(&self, gateway: usize, counter: &str) -> Result<u64, Failed> {
        Ok(self.daemons[gateway].counter(&format!("/{counter}"))?)
    }

    pub(crate) fn expect_count(&self, gateway: usize, counter: &str, expected: u64) -> Outcome {
        let seen = self.count(gateway, counter)?;
        ensure(seen == expected, format!("{counter} of {} is {seen}, not {expected}", self.lab.gateway(gateway).name()))
    }

    /// A counter may lag behind the wire by a moment.
    pub(crate) fn await_count(&self, gateway: usize, counter: &str, expected: u64) -> Outcome {
        let what = format!("{counter} of {} to become {expected}", self.lab.gateway(gateway).name());
        until(&what, SOON, || Ok(self.daemons[gateway].counter(&format!("/{counter}"))? == expected))
    }

    /// Where a gateway believes an address to be: MAC and place.
    pub(crate) fn belief(&self, gateway: usize, vlan: u16, ip: &str) -> ipop_lab::Result<Option<(String, String)>> {
        let table = self.daemons[gateway].status("arp")?;
        let entries = table["entries"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut matching = entries.iter().filter(|entry| entry["vlan"] == vlan && entry["ip"] == ip);
        Ok(matching.next().map(|entry| (text(&entry["mac"]), text(&entry["where"]))))
    }

    /// Waits until all gateways believe that `ip` is at `mac` behind gateway `owner`.
    pub(crate) fn await_belief(&self, ip: &str, mac: Mac, owner: usize) -> Outcome {
        let mac = ipop_lab::arp::format_mac(mac);
        for (index, gateway) in self.lab.gateways().iter().enumerate() {
            let place = if index == owner { "local" } else { self.lab.gateway(owner).name() };
            let expected = Some((mac.clone(), place.to_owned()));
            let what = format!("{} to know that {ip} is at {mac} ({place})", gateway.name());
            until(&what, SOON, || Ok(self.belief(index, 0, ip)? == expected))?;
        }
        Ok(())
    }

    /// The messages of `ipop rpc` of one type and direction.
    pub(crate) fn messages(&self, gateway: usize, direction: &str, kind: &str) -> Result<Vec<Value>, Failed> {
        let log = self.daemons[gateway].status("rpc")?;
        let all = log["messages"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|m| m["direction"] == direction && m["message"]["msg_type"] == kind).collect())
    }

    /// `asker` asks for `target`, which answers: from then on everyone's table has both.
    pub(crate) fn resolve(&self, asker: &mut Station, target: &mut Station) -> Outcome {
        asker.ask(target.ip)?;
        target.hear("the question", &asker.request(target.ip).frame())?;
        target.send(&target.reply_to(asker).frame())?;
        asker.hear("the answer", &target.reply_to(asker).frame())
    }
}

/// Puts a VLAN tag into a frame; as much padding goes as the tag is long.
pub(crate) fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    tagged_long(&frame[..frame.len() - 4], vlan)
}

/// The same for a frame without padding.
pub(crate) fn tagged_long(frame: &[u8], vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    let mut tagged = frame.to_vec();
    tagged.splice(12..12, [0x81, 0x00, high, low]);
    tagged
}
