//! One gateway host of a lab.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipop_control::keys::PublicKey;
use serde_json::{Value, json};

use crate::command::{Output, Process};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::netns::Netns;
use crate::run::{Run, cleanup};
use crate::topology::{BRIDGE, PORT_READY, TAP, UPLINK};

/// What every gateway knows of every other: enough for a configuration.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) endpoint: SocketAddr,
    pub(crate) public_key: PublicKey,
}

/// Where the private key of a gateway is.
pub(crate) fn key_file(run: &Run, gateway: &str) -> PathBuf {
    run.dir().join(format!("{gateway}.key"))
}

/// A gateway host: a namespace with an uplink, a bridge, and room for a daemon. Clones are the same gateway.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    index: usize,
    roster: Arc<[Member]>,
    netns: Netns,
    /// How many daemons were started here, for the names of their files.
    daemons: AtomicU32,
}

/// The same configuration with a whole interface for the port, instead of a TAP in a bridge.
pub fn with_interface(mut config: Value, interface: &str) -> Value {
    if let Some(config) = config.as_object_mut() {
        config.remove("tap");
        config.remove("bridge");
    }
    config["port"] = json!({ "af_packet": interface });
    config
}

impl Gateway {
    pub(crate) fn new(index: usize, roster: &Arc<[Member]>, netns: Netns) -> Self {
        Self(Arc::new(Inner { index, roster: Arc::clone(roster), netns, daemons: AtomicU32::new(0) }))
    }

    /// gw-a, gw-b, ...
    pub fn name(&self) -> &str {
        &self.0.roster[self.0.index].name
    }

    /// 0 for gw-a.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.0.netns
    }

    /// Where `ipop` listens by default.
    pub fn endpoint(&self) -> SocketAddr {
        self.0.roster[self.0.index].endpoint
    }

    /// Its address on the underlay.
    pub fn underlay_ip(&self) -> IpAddr {
        self.endpoint().ip()
    }

    /// Runs a command on the gateway to its end, whatever the exit status.
    pub fn exec<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Output> {
        self.netns().exec(argv)
    }

    /// Runs a command on the gateway, which must succeed, and gives its stdout.
    pub fn run<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<String> {
        self.netns().run(argv)
    }

    /// Starts a command on the gateway; it is killed when the [`Process`] is dropped.
    pub fn spawn<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Process> {
        self.netns().spawn(argv)
    }

    /// The default configuration of `ipop` for this gateway: its key, and all other gateways with theirs as peers. Change
    /// what shall be different by indexing: `config["sec"] = false.into()` for clear text.
    pub fn config(&self) -> Value {
        let others = self.0.roster.iter().filter(|member| member.name != self.name());
        let peers: Vec<Value> = others
            .map(|member| {
                json!({
                    "name": member.name,
                    "address": member.endpoint.to_string(),
                    "public_key": member.public_key.to_string(),
                })
            })
            .collect();
        // A directory of its own, which the daemon makes for the user that it runs as.
        let socket = self.lab_run().dir().join(self.name()).join("ipop.sock");
        json!({
            "switchmode": 1,
            "name": self.name(),
            "tap": TAP,
            "bridge": BRIDGE,
            "listen": self.endpoint().to_string(),
            "private_key_file": key_file(self.lab_run(), self.name()).display().to_string(),
            "peers": peers,
            "arp_expiry": 300,
            "mac_expiry": 300,
            "control_socket": socket.display().to_string(),
        })
    }

    /// Starts `ipop run` with this configuration and waits until it is ready.
    pub fn start_ipop(&self, config: &Value) -> Result<Daemon> {
        let number = self.0.daemons.fetch_add(1, Ordering::Relaxed);
        Daemon::start(self, config, number)
    }

    /// Pulls the cable to the underlay, or puts it back.
    pub fn set_underlay(&self, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.netns().ip(&format!("link set {UPLINK} {state}")).map(drop)
    }

    /// Changes the MTU of the uplink.
    pub fn set_underlay_mtu(&self, mtu: u32) -> Result<()> {
        self.netns().ip(&format!("link set {UPLINK} mtu {mtu}")).map(drop)
    }

    /// The run that this gateway belongs to.
    pub(crate) fn lab_run(&self) -> &Arc<Run> {
        self.0.netns.lab_run()
    }

    /// Puts an interface into the bridge and waits until it forwards.
    pub fn plug(&self, port: &str) -> Result<()> {
        self.netns().ip(&format!("link set {port} master {BRIDGE} up"))?;
        self.netns().wait_forwarding(port, PORT_READY)
    }

    /// Deletes an interface, even after Ctrl-C. That it is gone already is fine.
    pub fn remove_link(&self, interface: &str) -> Result<()> {
        let netns = self.netns().name();
        let shown = cleanup(["ip", "-n", netns, "link", "show", "dev", interface]).output()?;
        if !shown.success() {
            return Ok(());
        }
        cleanup(["ip", "-n", netns, "link", "delete", "dev", interface]).run().map(drop)
    }
}
