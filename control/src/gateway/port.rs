//! The port: made at the start, looked after once a second.

use ipop_dataplane::ending::Ending;
use ipop_dataplane::interface::mtu_of;
use ipop_dataplane::packet::{PacketError, PacketPort};
use ipop_dataplane::port::Port;
use ipop_dataplane::tap::{Tap, TapError};
use ipop_dataplane::underlay::{self, KernelDrops};
use tracing::{Level, info, warn};

use super::throttle::About;
use super::{Gateway, GatewayError};
use crate::config::{Config, PortConfig};
use crate::routes::{Routes, Way};

/// How often the port is put into its bridge at most, and within what time.
const PUT_AT_MOST: usize = 3;
const PUT_WINDOW_MS: u64 = 60_000;

/// Makes the port: creates the TAP, or opens the interface.
pub(super) fn open(config: &Config, routes: &Routes, tap_mac: [u8; 5]) -> Result<Port, GatewayError> {
    match &config.port {
        PortConfig::Tap { name, mtu, .. } => {
            let tap = Tap::create(name, config.workers, tap_mac)?;
            if let Some(mtu) = mtu {
                tap.set_mtu(*mtu)?;
            }
            Ok(Port::Tap(tap))
        }
        PortConfig::AfPacket { interface, .. } => {
            let found = routes.ask(interface, config.listen, config.peers.iter().map(|peer| peer.address).collect());
            for (peer, route) in config.peers.iter().zip(found) {
                // No route yet is no reason to refuse.
                if route.is_ok_and(|route| route.into_port == Some(Way::All)) {
                    return Err(GatewayError::PortIsUnderlay { interface: interface.clone(), peer: peer.name.clone() });
                }
            }
            Ok(Port::Packet(PacketPort::open(interface, config.workers)?))
        }
    }
}

/// Where the TAP is that should be in a bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// As the config says, or the config says nothing.
    #[default]
    Right,
    /// In a bridge of another name: the one that the config means was renamed, or somebody has put it there.
    Other(String),
    /// In none: the bridge is not there.
    NoBridge(String),
    /// In none: somebody takes it out again and again. Whoever does that means it, and a pause is better than a fight.
    TakenOut,
}

/// What becomes of the port, looked at once a second.
#[derive(Debug, Default)]
pub(super) struct PortWatch {
    down: bool,
    place: Place,
    /// When it was put into the bridge lately.
    put_ms: Vec<u64>,
    /// Why a port that is not there cannot be had yet.
    missing: Option<String>,
}

impl PortWatch {
    /// What is missing, in words.
    pub(super) fn missing(&self) -> Option<&str> {
        match &self.place {
            Place::NoBridge(why) => self.missing.as_deref().or(Some(why)),
            _ => self.missing.as_deref(),
        }
    }
}

impl Gateway {
    /// Looks after the port: what was deleted or has come late is made anew or taken, as far as that can be.
    pub(super) fn look_at_port(&mut self) -> Result<(), GatewayError> {
        self.keep_port()?;
        self.keep_in_bridge();
        self.count_kernel_drops();
        self.port_mtu.set(self.port.mtu());
        let down = self.watch.missing.is_none() && !self.port.is_up();
        if down != self.watch.down {
            self.watch.down = down;
            let name = self.port.name();
            if down {
                let line = format!("{name} is down, so nothing passes; `ip link set {name} up` mends it");
                self.say(About::Port, Level::WARN, line);
            } else if self.watch.missing.is_none() {
                self.say(About::Port, Level::INFO, format!("{name} is up again"));
            }
        }
        Ok(())
    }

    /// A TAP that was deleted is made anew, on the files that the workers read. An interface is taken when it is there (again).
    fn keep_port(&mut self) -> Result<(), GatewayError> {
        let found = match &mut self.port {
            Port::Packet(packet) => match packet.find() {
                Err(error @ PacketError::Gone(_)) => return Err(error.into()),
                found => found.map(|new| new.then_some("is the port now")).map_err(|error| error.to_string()),
            },
            Port::Tap(tap) if !tap.is_gone() => Ok(None),
            Port::Tap(tap) => {
                let mtu = match &self.config.port {
                    PortConfig::Tap { mtu, .. } => *mtu,
                    PortConfig::AfPacket { .. } => None,
                };
                match tap.make_anew().and_then(|()| mtu.map_or(Ok(()), |mtu| tap.set_mtu(mtu))) {
                    Ok(()) => Ok(Some("was deleted, and is made anew")),
                    Err(TapError::Permission(name)) => return Err(TapError::Deleted(name).into()),
                    Err(error) => Err(format!("{} was deleted, and cannot be made anew: {error}", tap.name())),
                }
            }
        };
        match found {
            Ok(None) => self.watch.missing = None,
            Ok(Some(what)) => {
                self.watch.missing = None;
                self.say(About::Port, Level::WARN, format!("{} {what}", self.port.name()));
            }
            Err(why) if self.watch.missing.as_ref() != Some(&why) => {
                self.say(About::Port, Level::WARN, format!("{why}; trying again every second"));
                self.watch.missing = Some(why);
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// The port's own MAC, for people.
    pub(super) fn port_mac(&self) -> String {
        self.port.mac().map_or_else(|| "no MAC yet".to_owned(), |mac| mac.to_string())
    }

    /// A bridge that was made anew (lxc-net restarts so) gets its port back, and so does one that the port was taken out of. A
    /// port that somebody has put elsewhere stays there.
    pub(super) fn keep_in_bridge(&mut self) {
        let (Port::Tap(tap), Some(bridge)) = (&self.port, self.config.port.bridge()) else { return };
        if self.watch.missing.is_some() {
            return;
        }
        let (name, bridge) = (tap.name(), bridge.to_owned());
        let now_ms = self.now_ms();
        self.watch.put_ms.retain(|put_ms| now_ms.saturating_sub(*put_ms) < PUT_WINDOW_MS);
        let present = tap.bridge();
        self.follow_bridge_mtu(tap, present.as_deref().unwrap_or(&bridge));
        let place = if present.is_none() && self.watch.put_ms.len() >= PUT_AT_MOST {
            Place::TakenOut
        } else {
            match (tap.attach_to(&bridge), present) {
                (Ok(true), _) => {
                    self.watch.put_ms.push(now_ms);
                    self.say(About::Port, Level::INFO, format!("{name} is a port of {bridge} now"));
                    // There is nothing else to be said of it.
                    self.watch.place = Place::Right;
                    Place::Right
                }
                (_, Some(other)) if other != bridge => Place::Other(other),
                (Ok(false), _) => Place::Right,
                (Err(error), _) => Place::NoBridge(error.to_string()),
            }
        };
        if place == self.watch.place {
            return;
        }
        let (level, line) = match &place {
            Place::Right => (Level::INFO, format!("{name} is a port of {bridge} again")),
            Place::Other(other) => (
                Level::WARN,
                format!(
                    "{name} is a port of {other}, not of {bridge}, because the bridge was renamed or somebody has put it there, \
                     and stays there until somebody takes it out (`ip link set {name} nomaster`)"
                ),
            ),
            Place::NoBridge(why) => (Level::WARN, format!("{why}; trying again every second")),
            Place::TakenOut => {
                (Level::WARN, format!("{name} was taken out of {bridge} again and again; it is put back in a minute"))
            }
        };
        self.say(About::Port, level, line);
        self.watch.place = place;
    }

    /// What is not there (yet), in words.
    pub(super) fn waiting_for(&self) -> Vec<String> {
        let address =
            self.address_missing.then(|| format!("an interface with the address {}", self.config.listen.ip()));
        self.watch.missing().map(str::to_owned).into_iter().chain(address).collect()
    }

    /// A line for the service manager.
    pub(super) fn tell_manager(&mut self) {
        let up = self.links.iter().filter(|link| link.is_up()).count();
        let waiting = self.waiting_for();
        let waiting = if waiting.is_empty() { String::new() } else { format!("waiting: {}; ", waiting.join("; ")) };
        self.notify.status(format!("{waiting}{up} of {} peers up", self.links.len()));
    }

    /// Says when the address that peers send to goes, and when it comes (back).
    pub(super) fn look_at_address(&mut self) {
        let ip = self.config.listen.ip();
        let missing = !ip.is_unspecified() && !underlay::is_local(ip);
        if missing != self.address_missing {
            self.address_missing = missing;
            if missing {
                warn!(
                    "no interface of this host has the address {ip} of \"listen\" (`ip address` shows those that it has): \
                     waiting for it, until then no peer is reached"
                );
            } else {
                info!("this host has the address {ip} now");
            }
        }
    }

    pub(super) fn count_kernel_drops(&self) {
        self.counters.add(Ending::PortKernelDrops, self.port.kernel_drops());
        let underlay = self.underlay_drops.iter().map(KernelDrops::take).sum();
        self.counters.add(Ending::UnderlayKernelDrops, underlay);
    }

    /// The port takes every frame that the bridge's other ports may have.
    pub(super) fn follow_bridge_mtu(&self, tap: &Tap, bridge: &str) {
        if matches!(self.config.port, PortConfig::Tap { mtu: Some(_), .. }) {
            return;
        }
        // The bridge's own MTU is the least of its ports', ours included, unless somebody has set it: so ours must not
        // come from there alone, or it could never rise.
        let wanted = tap.bridge_ports(bridge).filter_map(|port| mtu_of(&port).ok()).chain(mtu_of(bridge).ok()).max();
        if let (Some(wanted), Ok(mtu)) = (wanted, tap.mtu())
            && wanted != mtu
            && tap.set_mtu(wanted).is_ok()
        {
            info!("{} takes frames of {wanted} octets now, as other ports of {bridge} do", tap.name());
        }
    }
}
