//! What all these tests use: a segment with its gateways, frames with a face, and questions to the daemons.

use std::time::Duration;

use ipop_lab::arp::Mac;
use ipop_lab::topology::Builder;
pub(crate) use ipop_lab::trials::Outcome;
use ipop_lab::{Container, Daemon, Lab, RawPort, interrupt};
use libtest_mimic::Failed;
use serde_json::Value;

/// The addresses of the two containers that most tests use: `c0` on gw-a, `c1` on gw-b.
pub(crate) const HERE: &str = "10.0.3.3";
pub(crate) const THERE: &str = "10.0.3.104";
pub(crate) const HERE_V6: &str = "fd03::3";
pub(crate) const THERE_V6: &str = "fd03::104";

/// What should happen at once has this long before the test fails.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// For experiments on a local network, so nobody answers (IEEE 802, local experimental EtherType 1).
pub(crate) const EXPERIMENTAL: u16 = 0x88b5;

pub(crate) fn ensure(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(what().into()) }
}

/// A lab with a running daemon on every gateway.
pub(crate) struct Segment {
    // Dropped first: a daemon says goodbye while its namespace is there.
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) lab: Lab,
}

impl Segment {
    pub(crate) fn start(builder: &Builder) -> Result<Segment, Failed> {
        Segment::start_with(builder, |_, _| {})
    }

    /// Starts every daemon with a configuration that `change` has seen.
    pub(crate) fn start_with(builder: &Builder, change: impl Fn(usize, &mut Value)) -> Result<Segment, Failed> {
        let lab = builder.build()?;
        let mut daemons = Vec::new();
        for gateway in lab.gateways() {
            let mut config = gateway.config();
            change(gateway.index(), &mut config);
            daemons.push(gateway.start_ipop(&config)?);
        }
        for daemon in &daemons {
            daemon.wait_peers_up(Duration::from_secs(15))?;
        }
        Ok(Segment { daemons, lab })
    }

    /// `c0` on gw-a and `c1` on gw-b, with IPv4 and IPv6.
    pub(crate) fn pair(&self) -> Result<(Container, Container), Failed> {
        Ok((
            self.lab.container(0, "c0", &["10.0.3.3/24", "fd03::3/64"])?,
            self.lab.container(1, "c1", &["10.0.3.104/24", "fd03::104/64"])?,
        ))
    }

    /// One container without any address on every gateway, and a port on each of them: nobody speaks but the test.
    pub(crate) fn stations(&self) -> Result<Vec<Station>, Failed> {
        (0..self.lab.gateways().len()).map(|gateway| self.station(gateway, &format!("c{gateway}"))).collect()
    }

    /// A container without any address.
    pub(crate) fn station(&self, gateway: usize, name: &str) -> Result<Station, Failed> {
        Station::of(self.lab.container(gateway, name, &[])?)
    }

    /// A counter of one daemon, by its JSON pointer in `ipop status`.
    pub(crate) fn counter(&self, gateway: usize, pointer: &str) -> Result<u64, Failed> {
        Ok(self.daemons[gateway].counter(pointer)?)
    }

    /// Waits until a counter has risen to `at_least`, and gives it.
    pub(crate) fn wait_counter(&self, gateway: usize, pointer: &str, at_least: u64) -> Result<u64, Failed> {
        let what = format!("{pointer} of gateway {gateway} to reach {at_least}");
        Ok(interrupt::wait_until(&what, SOON, || {
            let value = self.daemons[gateway].counter(pointer)?;
            Ok((value >= at_least).then_some(value))
        })?)
    }

    /// What `ipop peers` of one gateway says of one peer.
    pub(crate) fn peer(&self, gateway: usize, name: &str) -> Result<Value, Failed> {
        let answer = self.daemons[gateway].status("peers")?;
        let peers = answer["peers"].as_array().ok_or("no list of peers")?;
        let peer = peers.iter().find(|peer| peer["name"] == name);
        Ok(peer.ok_or_else(|| format!("no peer {name} in {answer}"))?.clone())
    }

    /// Frames that one gateway has sent to one peer.
    pub(crate) fn sent_to(&self, gateway: usize, name: &str) -> Result<u64, Failed> {
        Ok(self.peer(gateway, name)?["tx_frames"].as_u64().ok_or("no tx_frames")?)
    }

    /// Waits until one gateway has found that the path to a peer carries `from..=to`.
    pub(crate) fn wait_path_mtu(
        &self,
        gateway: usize,
        peer: &str,
        range: std::ops::RangeInclusive<u64>,
        timeout: Duration,
    ) -> Outcome {
        let what = format!("gateway {gateway} to find a path MTU of {range:?} to {peer}");
        let look = || -> ipop_lab::Result<Option<()>> {
            let answer = self.daemons[gateway].status("peers")?;
            let peers = answer["peers"].as_array().map_or(&[][..], Vec::as_slice);
            let mtu = peers.iter().find(|one| one["name"] == peer).and_then(|one| one["path_mtu"].as_u64());
            Ok(mtu.filter(|mtu| range.contains(mtu)).map(drop))
        };
        interrupt::wait_until(&what, timeout, look).map_err(|error| {
            let now = self.peer(gateway, peer).map(|peer| peer["path_mtu"].to_string());
            format!("{error}; it says {now:?}").into()
        })
    }

    /// Every gateway has found the full MTU of its uplink to every peer.
    pub(crate) fn wait_full_path(&self, mtu: u64) -> Outcome {
        for gateway in 0..self.daemons.len() {
            for peer in self.lab.gateways().iter().filter(|peer| peer.index() != gateway) {
                self.wait_path_mtu(gateway, peer.name(), mtu..=mtu, SOON)?;
            }
        }
        Ok(())
    }

    /// Where a gateway believes a MAC to be, and how often it has moved, from `ipop macs`.
    pub(crate) fn place(&self, gateway: usize, vlan: u16, mac: &str) -> ipop_lab::Result<Option<(String, u64)>> {
        let answer = self.daemons[gateway].status("macs")?;
        let macs = answer["macs"].as_array().map_or(&[][..], Vec::as_slice);
        let entry = macs.iter().find(|entry| entry["mac"] == mac && entry["vlan"] == vlan);
        Ok(entry.map(|entry| {
            (entry["where"].as_str().unwrap_or_default().to_owned(), entry["seq"].as_u64().unwrap_or_default())
        }))
    }

    /// Waits until a gateway believes a MAC to be at `place`; gives how often it has moved.
    pub(crate) fn wait_place(
        &self,
        gateway: usize,
        vlan: u16,
        mac: &str,
        place: &str,
        timeout: Duration,
    ) -> Result<u64, Failed> {
        let what = format!("gateway {gateway} to see {mac} (VLAN {vlan}) at {place}");
        let found = interrupt::wait_until(&what, timeout, || {
            let found = self.place(gateway, vlan, mac)?;
            Ok(found.filter(|(at, _)| at == place).map(|(_, seq)| seq))
        });
        found.map_err(|error| format!("{error}; it says {:?}", self.place(gateway, vlan, mac)).into())
    }

    /// A port on the TAP itself. What it sends is read by the daemon, what it receives was written by the daemon; the
    /// bridge, which filters some frames, is not asked.
    pub(crate) fn tap(&self, gateway: usize) -> Result<RawPort, Failed> {
        Ok(RawPort::open(self.lab.gateway(gateway).netns(), ipop_lab::TAP)?)
    }
}

/// A container and a port on its interface.
pub(crate) struct Station {
    pub(crate) port: RawPort,
    pub(crate) mac: Mac,
    pub(crate) container: Container,
}

impl Station {
    pub(crate) fn of(container: Container) -> Result<Station, Failed> {
        let port = RawPort::open(container.netns(), container.interface())?;
        Ok(Station { port, mac: container.mac_bytes()?, container })
    }

    /// Sends a frame to everyone, so that all learn the station.
    pub(crate) fn introduce(&self) -> Outcome {
        Ok(self.port.send(&numbered(ipop_lab::arp::BROADCAST, self.mac, u32::MAX, 60))?)
    }
}

/// An Ethernet II frame as it is, without padding.
pub(crate) fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// Puts a tag into a frame: in front of those that it has.
pub(crate) fn tagged(mut frame: Vec<u8>, tpid: u16, tci: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
    frame.splice(12..12, [a, b, c, d]);
    frame
}

/// A frame of `length` octets that carries a number, and behind it octets that depend on the number.
pub(crate) fn numbered(destination: Mac, source: Mac, number: u32, length: usize) -> Vec<u8> {
    let mut frame = ethernet(destination, source, EXPERIMENTAL, &number.to_be_bytes());
    frame.extend((frame.len()..length).map(|at| (number as usize * 7 + at) as u8));
    frame
}

/// The number of a [`numbered`] frame.
pub(crate) fn number_of(frame: &[u8]) -> Option<u32> {
    let (kind, number) = (frame.get(12..14)?, frame.get(14..18)?);
    (kind == EXPERIMENTAL.to_be_bytes()).then(|| u32::from_be_bytes(number.try_into().unwrap_or_default()))
}

/// Receives up to and with the frame that is exactly `last`, and gives what came before it. A flow keeps its order, so
/// what was sent earlier and is not among these was dropped.
pub(crate) fn until(port: &mut RawPort, last: &[u8]) -> Result<Vec<Vec<u8>>, Failed> {
    let (mut frames, came) = port.capture_until(SOON, |frame| frame == last)?;
    if !came {
        let shown: Vec<String> = frames.iter().map(|frame| format!("{:02x?}", &frame[..frame.len().min(64)])).collect();
        return Err(format!("{:02x?} did not come; what came: {shown:#?}", &last[..last.len().min(64)]).into());
    }
    frames.pop();
    Ok(frames)
}

/// The frames that somebody in the test sent, without what a kernel may have had to say.
pub(crate) fn numbers(frames: &[Vec<u8>]) -> Vec<u32> {
    frames.iter().filter_map(|frame| number_of(frame)).collect()
}
