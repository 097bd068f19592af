//! Gateways, their bridges, and the underlay between them.
//!
//! ```text
//!   namespace <run>-gw-a                       namespace <run>-gw-b
//!  +------------------------------+           +------------------------------+
//!  |  lxcbr0 (bridge)             |           |             lxcbr0 (bridge)  |
//!  |   |   |                      |           |                      |   |   |
//!  | v-c0  ipop (TAP)             |           |             (TAP) ipop  v-c1 |
//!  |   |     |                    |           |                    |     |   |
//!  |   |   [ipop run]--UDP--eth0  |           |  eth0--UDP--[ipop run]   |   |
//!  |   |            10.99.0.1/24 -+--(veth)---+- 10.99.0.2/24            |   |
//!  +---|--------------------------+           +--------------------------|---+
//!  +---|---------------+                                 +---------------|---+
//!  | eth0              |   containers: LXC, or plain     |              eth0 |
//!  | c0    10.0.3.3/24 |   namespaces                    | 10.0.3.104/24  c1 |
//!  +-------------------+                                 +-------------------+
//! ```
//!
//! With more than two gateways (or by [`Builder::switched`]) the underlay is a switch instead of a single veth pair:
//!
//! ```text
//!   gw-a eth0 ---- to-gw-a +---------------------------+ to-gw-b ---- eth0 gw-b
//!                          | namespace <run>-underlay  |
//!   gw-c eth0 ---- to-gw-c |     bridge "underlay"     | to-gw-d ---- eth0 gw-d
//!                          +---------------------------+
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipop_control::keys::PrivateKey;
use serde_json::Value;

use crate::container::{Container, ContainerBuilder, Kind};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Member, key_file};
use crate::netns::Netns;
use crate::run::Run;

/// The bridge of every gateway, as LXC calls it.
pub const BRIDGE: &str = "lxcbr0";
/// The TAP that `ipop` makes with the default configuration.
pub const TAP: &str = "ipop";
/// The UDP port in the default configuration.
pub const PORT: u16 = 5800;

/// The interface of a gateway that leads to the underlay.
pub const UPLINK: &str = "eth0";
/// The namespace and the bridge of a switched underlay.
const UNDERLAY: &str = "underlay";
/// Ports of a bridge that are about to forward need a moment.
pub(crate) const PORT_READY: Duration = Duration::from_secs(3);

/// Daemons must hear of each other within this time.
const PEERS_UP: Duration = Duration::from_secs(15);

/// The address family of the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 10.99.0.1/24, 10.99.0.2/24, ...
    V4,
    /// fd99::1/64, fd99::2/64, ...
    V6,
}

impl Family {
    fn address(self, index: usize) -> IpAddr {
        let host = index as u8 + 1;
        match self {
            Self::V4 => Ipv4Addr::new(10, 99, 0, host).into(),
            Self::V6 => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, u16::from(host)).into(),
        }
    }
}

/// What a lab shall look like.
#[derive(Debug, Clone)]
pub struct Builder {
    gateways: usize,
    family: Family,
    underlay_mtu: u32,
    switched: bool,
    bridge_mtu: Option<u32>,
    bridge_addresses: Vec<(usize, String)>,
    inner_ipv6: bool,
    kind: Kind,
    name: Option<String>,
}

impl Builder {
    /// The number of gateways: 2 to 26. Default 2.
    #[must_use]
    pub fn gateways(mut self, count: usize) -> Self {
        self.gateways = count;
        self
    }

    /// The address family of the underlay. Default IPv4.
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// The MTU of the underlay. Default 1500.
    #[must_use]
    pub fn underlay_mtu(mut self, mtu: u32) -> Self {
        self.underlay_mtu = mtu;
        self
    }

    /// Puts a switch between the gateways even when there are only two, for [`Lab::set_path_mtu`].
    #[must_use]
    pub fn switched(mut self) -> Self {
        self.switched = true;
        self
    }

    /// Fixes the MTU of every `lxcbr0`. By default it is the smallest of its ports'.
    #[must_use]
    pub fn bridge_mtu(mut self, mtu: u32) -> Self {
        self.bridge_mtu = Some(mtu);
        self
    }

    /// Gives the bridge of one gateway an address, such as 10.0.3.1/24. By default it has none.
    #[must_use]
    pub fn bridge_address(mut self, gateway: usize, address: impl Into<String>) -> Self {
        self.bridge_addresses.push((gateway, address.into()));
        self
    }

    /// Turns IPv6 off inside bridges and containers: no router solicitations, no listener reports, nothing but what
    /// the test sends.
    #[must_use]
    pub fn without_inner_ipv6(mut self) -> Self {
        self.inner_ipv6 = false;
        self
    }

    /// What [`Lab::container`] makes. Default [`Kind::Plain`].
    #[must_use]
    pub fn containers(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// A fixed name for the run, see [`Run::named`].
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Builds it. What was made before an error is removed again.
    pub fn build(&self) -> Result<Lab> {
        if !(2..=26).contains(&self.gateways) {
            return Err(Error::other(format!("a lab of {} gateways", self.gateways)));
        }
        if let Some((gateway, _)) = self.bridge_addresses.iter().find(|(gateway, _)| *gateway >= self.gateways) {
            return Err(Error::other(format!("no gateway {gateway} for a bridge address")));
        }
        let run = match &self.name {
            Some(name) => Run::named(name)?,
            None => Run::new()?,
        };
        let roster = (0..self.gateways).map(|index| self.member(&run, index)).collect::<Result<Arc<[Member]>>>()?;
        let gateways = (0..self.gateways)
            .map(|index| {
                let netns = Netns::new(&run, &roster[index].name)?;
                Ok(Gateway::new(index, &roster, netns))
            })
            .collect::<Result<Vec<_>>>()?;
        let underlay = self.connect(&run, &gateways)?;
        for gateway in &gateways {
            self.furnish(gateway)?;
        }
        for gateway in &gateways {
            gateway.netns().wait_carrier(UPLINK, PORT_READY)?;
        }
        Ok(Lab { underlay, gateways, kind: self.kind, inner_ipv6: self.inner_ipv6, containers: AtomicU32::new(0), run })
    }

    /// A gateway's name and address, and a key that is made for it.
    fn member(&self, run: &Run, index: usize) -> Result<Member> {
        let name = format!("gw-{}", char::from(b'a' + index as u8));
        let key = PrivateKey::generate()
            .and_then(|key| key.create(&key_file(run, &name)).map(|()| key.public()))
            .map_err(|error| Error::other(format!("the key of {name}: {error}")))?;
        Ok(Member { name, endpoint: SocketAddr::new(self.family.address(index), PORT), public_key: key })
    }

    /// Lays the cables of the underlay.
    fn connect(&self, run: &Arc<Run>, gateways: &[Gateway]) -> Result<Option<Netns>> {
        let mtu = self.underlay_mtu;
        if let ([first, second], false) = (gateways, self.switched) {
            let far = second.netns().name();
            first
                .netns()
                .ip(&format!("link add {UPLINK} mtu {mtu} type veth peer name {UPLINK} mtu {mtu} netns {far}"))?;
            return Ok(None);
        }
        let switch = Netns::new(run, UNDERLAY)?;
        add_bridge(&switch, UNDERLAY, "02:00:00:00:99:00")?;
        for gateway in gateways {
            let (port, far) = (uplink_port(gateway), gateway.netns().name());
            switch.ip(&format!("link add {port} mtu {mtu} type veth peer name {UPLINK} mtu {mtu} netns {far}"))?;
            switch.ip(&format!("link set {port} master {UNDERLAY} up"))?;
        }
        Ok(Some(switch))
    }

    /// Addresses, uplink and bridge of one gateway.
    fn furnish(&self, gateway: &Gateway) -> Result<()> {
        let netns = gateway.netns();
        let (length, nodad) = match self.family {
            Family::V4 => (24, ""),
            Family::V6 => (64, "nodad"),
        };
        let address = gateway.underlay_ip();
        netns.ip(&format!("address add {address}/{length} dev {UPLINK} {nodad}"))?;
        netns.ip(&format!("link set {UPLINK} up"))?;
        let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        if has_ipv6 {
            // Ports of a bridge are not hosts: without this each says hello to the segment when it comes up.
            netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        let mac = format!("02:00:00:00:03:{:02x}", gateway.index());
        add_bridge(netns, BRIDGE, &mac)?;
        if has_ipv6 && self.inner_ipv6 {
            netns.sysctl(&format!("net/ipv6/conf/{BRIDGE}/disable_ipv6"), "0")?;
        }
        if let Some(mtu) = self.bridge_mtu {
            netns.ip(&format!("link set {BRIDGE} mtu {mtu}"))?;
        }
        for (_, address) in self.bridge_addresses.iter().filter(|(index, _)| *index == gateway.index()) {
            netns.ip(&format!("address add {address} dev {BRIDGE}"))?;
        }
        Ok(())
    }
}

/// A bridge that forwards at once, floods what a hub would flood, and keeps its address whatever its ports are.
fn add_bridge(netns: &Netns, name: &str, mac: &str) -> Result<()> {
    netns.ip(&format!("link add {name} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"))?;
    netns.ip(&format!("link set {name} up")).map(drop)
}

/// The port of the underlay's switch that leads to a gateway.
fn uplink_port(gateway: &Gateway) -> String {
    format!("to-{}", gateway.name())
}

/// A topology that exists. Dropping it takes it down, once the last container and daemon of it is dropped too.
#[derive(Debug)]
pub struct Lab {
    gateways: Vec<Gateway>,
    underlay: Option<Netns>,
    kind: Kind,
    inner_ipv6: bool,
    containers: AtomicU32,
    run: Arc<Run>,
}

impl Lab {
    /// Two gateways, IPv4, MTU 1500, plain containers; change what shall be different.
    pub fn builder() -> Builder {
        Builder {
            gateways: 2,
            family: Family::V4,
            underlay_mtu: 1500,
            switched: false,
            bridge_mtu: None,
            bridge_addresses: Vec::new(),
            inner_ipv6: true,
            kind: Kind::Plain,
            name: None,
        }
    }

    /// The name and directory of this run.
    pub fn lab_run(&self) -> &Arc<Run> {
        &self.run
    }

    /// All gateways, gw-a first.
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// One gateway. Panics if there is no such one, as slices do.
    pub fn gateway(&self, index: usize) -> &Gateway {
        &self.gateways[index]
    }

    /// The namespace of the underlay's switch, where there is one.
    pub fn underlay(&self) -> Option<&Netns> {
        self.underlay.as_ref()
    }

    /// Starts a container of the lab's kind on a gateway's bridge, with addresses such as 10.0.3.3/24.
    pub fn container(&self, gateway: usize, name: &str, addresses: &[&str]) -> Result<Container> {
        self.container_builder(gateway, name).addresses(addresses).start()
    }

    /// A container that can be changed before it is started.
    pub fn container_builder(&self, gateway: usize, name: &str) -> ContainerBuilder {
        let number = self.containers.fetch_add(1, Ordering::Relaxed) + 1;
        let [.., high, low] = number.to_be_bytes();
        // 00:16:3e is what LXC uses; counting makes the addresses the same in every run.
        let mac = format!("00:16:3e:00:{high:02x}:{low:02x}");
        ContainerBuilder::new(self.gateway(gateway), name, self.kind, mac, self.inner_ipv6)
    }

    /// Starts `ipop` with the default configuration on all gateways and waits until all hear each other.
    pub fn start_ipop(&self) -> Result<Vec<Daemon>> {
        self.start_ipop_with(|_, _| ())
    }

    /// The same with configurations that `change` has seen.
    pub fn start_ipop_with(&self, change: impl Fn(&Gateway, &mut Value)) -> Result<Vec<Daemon>> {
        let start = |gateway: &Gateway| {
            let mut config = gateway.config();
            change(gateway, &mut config);
            gateway.start_ipop(&config)
        };
        let daemons = self.gateways.iter().map(start).collect::<Result<Vec<_>>>()?;
        for daemon in &daemons {
            daemon.wait_peers_up(PEERS_UP)?;
        }
        Ok(daemons)
    }

    /// Joins all bridges by plain veth pairs, gw-a in the middle, for as long as the lab lives: a reference without any
    /// overlay.
    pub fn join_by_veth(&self) -> Result<()> {
        self.veth_joint(1500).map(Joint::keep)
    }

    /// Joins all bridges by the kernel's VXLAN over the underlay, for as long as the lab lives: a reference overlay.
    pub fn join_by_vxlan(&self) -> Result<()> {
        self.vxlan_joint(None).map(Joint::keep)
    }

    /// Joins all bridges by plain veth pairs with this MTU, gw-a in the middle, until the value is dropped.
    pub fn veth_joint(&self, mtu: u32) -> Result<Joint> {
        let (hub, others) = self.gateways.split_first().expect("a lab has gateways");
        let mut joint = Joint(Vec::new());
        for other in others {
            let (port, far) = (format!("x-{}", other.name()), other.netns().name());
            hub.netns().ip(&format!("link add {port} mtu {mtu} type veth peer name x mtu {mtu} netns {far}"))?;
            joint.add(hub, &port);
            // Neither end has a carrier before both are up.
            hub.netns().ip(&format!("link set {port} up"))?;
            other.plug("x")?;
            hub.plug(&port)?;
        }
        Ok(joint)
    }

    /// Joins all bridges by the kernel's VXLAN over the underlay, until the value is dropped. Without an MTU the kernel
    /// chooses what the underlay can carry.
    pub fn vxlan_joint(&self, mtu: Option<u32>) -> Result<Joint> {
        let mtu = mtu.map_or(String::new(), |mtu| format!("mtu {mtu}"));
        let mut joint = Joint(Vec::new());
        for gateway in &self.gateways {
            let (netns, local) = (gateway.netns(), gateway.underlay_ip());
            netns.ip(&format!("link add vxlan0 {mtu} type vxlan id 42 dev {UPLINK} local {local} dstport 4789"))?;
            joint.add(gateway, "vxlan0");
            for other in self.gateways.iter().filter(|other| other.index() != gateway.index()) {
                let remote = other.underlay_ip().to_string();
                let everyone = ["bridge", "fdb", "append", "00:00:00:00:00:00"];
                netns.run(everyone.into_iter().chain(["dev", "vxlan0", "dst", &remote]))?;
            }
            gateway.plug("vxlan0")?;
        }
        Ok(joint)
    }

    /// Makes the path to one gateway a black hole for larger packets: the switch drops them without a word, while the
    /// gateways' own MTU stays. Needs [`Builder::switched`] or more than two gateways.
    pub fn set_path_mtu(&self, gateway: usize, mtu: u32) -> Result<()> {
        let switch = self.underlay.as_ref().ok_or_else(|| Error::other("set_path_mtu needs a switched underlay"))?;
        let port = uplink_port(self.gateway(gateway));
        switch.ip(&format!("link set {port} mtu {mtu}")).map(drop)
    }

    /// Leaves everything as it is; [`crate::tear_down`] with the run's name removes it. Only of use for a lab with a
    /// fixed name.
    pub fn keep(&self) {
        self.run.keep();
    }
}

/// Interfaces that join bridges. Dropping it removes them, and with them the ports that they are.
#[derive(Debug)]
#[must_use = "dropping it parts the bridges again"]
pub struct Joint(Vec<(Gateway, String)>);

impl Joint {
    fn add(&mut self, gateway: &Gateway, interface: &str) {
        self.0.push((gateway.clone(), interface.to_owned()));
    }

    /// Lets the interfaces live as long as the lab.
    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Joint {
    fn drop(&mut self) {
        for (gateway, interface) in &self.0 {
            if let Err(error) = gateway.remove_link(interface) {
                eprintln!("removing {interface} from {}: {error}", gateway.name());
            }
        }
    }
}
