//! Containers on a gateway's bridge: real LXC ones, or plain namespaces where a test needs many or LXC cannot run.
//! Both look the same from here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::arp::{self, Mac};
use crate::command::{Cmd, Output, Process};
use crate::error::{Error, Result};
use crate::gateway::Gateway;
use crate::lxc::{Bind, LxcContainer};
use crate::netns::Netns;
use crate::raw::RawPort;

/// The interface of every container.
const INTERFACE: &str = "eth0";
/// An interface name has at most 15 characters, and the bridge port is called "v-" and the container's name.
const LONGEST_NAME: usize = 13;

/// What a container is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A network namespace and nothing else: quick, and enough for frames.
    Plain,
    /// An LXC container from the `busybox` template.
    Lxc,
}

/// A container that is not started yet.
#[derive(Debug, Clone)]
pub struct ContainerBuilder {
    gateway: Gateway,
    name: String,
    kind: Kind,
    mac: String,
    mtu: u32,
    addresses: Vec<String>,
    binds: Vec<Bind>,
    ipv6: bool,
}

impl ContainerBuilder {
    pub(crate) fn new(gateway: &Gateway, name: &str, kind: Kind, mac: String, ipv6: bool) -> Self {
        let (addresses, binds) = (Vec::new(), Vec::new());
        Self { gateway: gateway.clone(), name: name.to_owned(), kind, mac, mtu: 1500, addresses, binds, ipv6 }
    }

    /// What it is made of.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Its addresses with prefix length, IPv4 or IPv6.
    #[must_use]
    pub fn addresses(mut self, addresses: &[&str]) -> Self {
        self.addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        self
    }

    /// Its Ethernet address.
    #[must_use]
    pub fn mac(mut self, mac: impl Into<String>) -> Self {
        self.mac = mac.into();
        self
    }

    /// The MTU of both ends of its cable. Default 1500.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Shows a file or directory of the host inside, read-only, at an absolute path. A plain container sees all of the
    /// host's files at their own paths, and nothing elsewhere.
    #[must_use]
    pub fn bind(mut self, outside: impl Into<PathBuf>, inside: &str) -> Self {
        self.binds.push(Bind { outside: outside.into(), inside: inside.to_owned() });
        self
    }

    /// Starts it and waits until its bridge port forwards.
    pub fn start(self) -> Result<Container> {
        if self.name.is_empty() || self.name.len() > LONGEST_NAME {
            return Err(Error::other(format!(
                "a container's name has 1 to {LONGEST_NAME} characters: {:?}",
                self.name
            )));
        }
        let (netns, lxc) = match self.kind {
            Kind::Plain => (self.start_plain()?, None),
            Kind::Lxc => {
                let lxc =
                    LxcContainer::create(&self.gateway, &self.name, &self.mac, &port_of(&self.name), &self.binds)?;
                let pid = lxc.start(&self.gateway)?;
                (Netns::attach(self.gateway.lab_run(), &self.name, pid)?, Some(lxc))
            }
        };
        let container = Container { lxc, netns, vlans: Vec::new(), spec: self };
        container.furnish()?;
        Ok(container)
    }

    fn start_plain(&self) -> Result<Netns> {
        let netns = Netns::new(self.gateway.lab_run(), &self.name)?;
        netns.ip(&format!(
            "link add {INTERFACE} address {} type veth peer name {} netns {}",
            self.mac,
            port_of(&self.name),
            self.gateway.netns().name()
        ))?;
        Ok(netns)
    }
}

/// The end of a container's cable that is plugged into the bridge.
fn port_of(name: &str) -> String {
    format!("v-{name}")
}

/// A running container. Dropping it removes it.
#[derive(Debug)]
pub struct Container {
    // Dropped in this order: LXC stops its processes before the name of their namespace goes.
    lxc: Option<LxcContainer>,
    netns: Netns,
    vlans: Vec<(u16, Vec<String>)>,
    spec: ContainerBuilder,
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it is made of.
    pub fn kind(&self) -> Kind {
        self.spec.kind
    }

    /// The gateway it is on.
    pub fn gateway(&self) -> &Gateway {
        &self.spec.gateway
    }

    /// Its network namespace (for LXC too), to open a [`RawPort`] in.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The interface inside: `eth0`.
    pub fn interface(&self) -> &'static str {
        INTERFACE
    }

    /// The other end of its cable, a port of `lxcbr0` in the gateway's namespace.
    pub fn port(&self) -> String {
        port_of(&self.spec.name)
    }

    /// Its Ethernet address as text, lower case.
    pub fn mac(&self) -> &str {
        &self.spec.mac
    }

    /// Its Ethernet address.
    pub fn mac_bytes(&self) -> Result<Mac> {
        arp::parse_mac(&self.spec.mac).ok_or_else(|| Error::other(format!("{:?} is not a MAC", self.spec.mac)))
    }

    /// Its first address, without the prefix length.
    pub fn ip(&self) -> Result<IpAddr> {
        let first = self.spec.addresses.first().map_or("", String::as_str);
        let (address, _length) = first.split_once('/').unwrap_or((first, ""));
        address.parse().map_err(|_| Error::other(format!("{} has no address", self.name())))
    }

    /// A command that will run inside: by `ip netns exec`, or by `lxc-attach`.
    pub fn command<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Cmd {
        match &self.lxc {
            Some(lxc) => lxc.attach(&self.spec.gateway, argv),
            None => self.netns.command(argv),
        }
    }

    /// The command line by which a person runs something inside.
    pub fn manual_command(&self, program: &str) -> String {
        match &self.lxc {
            Some(lxc) => lxc.manual_attach(&self.spec.gateway, program),
            None => self.netns.command([program]).line(),
        }
    }

    /// Runs a command inside to its end, whatever its exit status.
    pub fn exec<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Output> {
        self.command(argv).output()
    }

    /// Runs a command inside, which must succeed, and gives its stdout.
    pub fn run<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<String> {
        self.command(argv).run()
    }

    /// Starts a command inside; it is killed when the [`Process`] is dropped.
    pub fn spawn<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Process> {
        self.command(argv).spawn()
    }

    /// Pings an address `count` times, a fifth of a second apart; an error unless every answer came, once.
    pub fn ping(&self, target: &str, count: u32) -> Result<String> {
        let count_text = count.to_string();
        // Not the busybox applet: that one does not report duplicates in its summary.
        let line = ["ping", "-n", "-i", "0.2", "-W", "2", "-c", &count_text, target];
        let limit = Duration::from_secs(10) + Duration::from_millis(200) * count;
        let output = self.command(line).timeout(limit).output()?;
        let stdout = output.clone().into_stdout()?;
        let whole = format!("{count} packets transmitted, {count} received, 0% packet loss");
        if stdout.contains(&whole) && !stdout.contains("duplicates") {
            Ok(stdout)
        } else {
            Err(Error::other(format!("`{}` lost or doubled packets: {stdout}", output.command)))
        }
    }

    /// Changes the MTU of both ends of its cable.
    pub fn set_mtu(&mut self, mtu: u32) -> Result<()> {
        self.spec.mtu = mtu;
        self.apply_mtu()
    }

    /// Adds the interface `eth0.<vlan>`, whose frames carry that VLAN's tag; gives its name. Not every kernel can, see
    /// [`crate::vlan_available`]; tagged frames through a [`RawPort`] always work.
    pub fn add_vlan(&mut self, vlan: u16, addresses: &[&str]) -> Result<String> {
        self.vlans.push((vlan, addresses.iter().map(|&address| address.to_owned()).collect()));
        self.apply_vlan(vlan, self.vlans.last().map_or(&[], |(_, addresses)| addresses))
    }

    /// Moves it to the bridge of another gateway with the same MAC and addresses. A plain container only gets its cable
    /// plugged in elsewhere; an LXC container is stopped, and started again over there. Nobody is told, see
    /// [`Container::announce`].
    pub fn move_to(&mut self, gateway: &Gateway) -> Result<()> {
        if gateway.index() == self.spec.gateway.index() {
            return Ok(());
        }
        let Some(lxc) = &self.lxc else {
            let (here, there) = (self.spec.gateway.netns(), gateway.netns().name());
            here.ip(&format!("link set {} netns {there}", self.port()))?;
            self.spec.gateway = gateway.clone();
            return self.plug();
        };
        lxc.stop(&self.spec.gateway)?;
        self.spec.gateway = gateway.clone();
        let pid = lxc.start(gateway)?;
        self.netns.attach_again(pid)?;
        self.furnish()
    }

    /// Sends a gratuitous ARP request for its (first) IPv4 address, as a host does that has just moved.
    pub fn announce(&self) -> Result<()> {
        let IpAddr::V4(ip) = self.ip()? else {
            return Err(Error::other(format!("{} has no IPv4 address", self.name())));
        };
        let frame = arp::gratuitous(self.mac_bytes()?, ip);
        RawPort::open(&self.netns, INTERFACE)?.send(&frame)
    }

    /// Removes it now, and says if that failed.
    pub fn down(mut self) -> Result<()> {
        match self.lxc.take() {
            Some(lxc) => lxc.destroy(),
            None => Ok(()),
        }
    }

    /// Addresses, VLANs and MTU, after each start.
    fn furnish(&self) -> Result<()> {
        if !self.spec.ipv6 && Path::new("/proc/sys/net/ipv6").exists() {
            self.netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        } else if self.lxc.is_some() && Path::new("/proc/sys/net/ipv6").exists() {
            self.netns.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
            self.netns.sysctl(&format!("net/ipv6/conf/{INTERFACE}/accept_dad"), "0")?;
        }
        self.apply_mtu()?;
        self.add_addresses(INTERFACE, &self.spec.addresses)?;
        self.netns.ip(&format!("link set {INTERFACE} up"))?;
        self.plug()?;
        for (vlan, addresses) in &self.vlans {
            self.apply_vlan(*vlan, addresses)?;
        }
        Ok(())
    }

    fn plug(&self) -> Result<()> {
        self.spec.gateway.plug(&self.port())
    }

    fn apply_mtu(&self) -> Result<()> {
        let mtu = self.spec.mtu;
        let gateway = self.spec.gateway.netns();
        gateway.ip(&format!("link set {} mtu {mtu}", self.port()))?;
        self.netns.ip(&format!("link set {INTERFACE} mtu {mtu}")).map(drop)
    }

    fn apply_vlan(&self, vlan: u16, addresses: &[String]) -> Result<String> {
        let name = format!("{INTERFACE}.{vlan}");
        self.netns.ip(&format!("link add link {INTERFACE} name {name} type vlan id {vlan}"))?;
        self.add_addresses(&name, addresses)?;
        self.netns.ip(&format!("link set {name} up"))?;
        Ok(name)
    }

    fn add_addresses(&self, interface: &str, addresses: &[String]) -> Result<()> {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.netns.ip(&format!("address add {address} dev {interface} {nodad}"))?;
        }
        Ok(())
    }
}
