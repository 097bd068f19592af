//! The port: made at the start, looked after once a second.

use ipop_dataplane::ending::Ending;
use ipop_dataplane::interface::mtu_of;
use ipop_dataplane::packet::{PacketError, PacketPort};
use ipop_dataplane::port::Port;
use ipop_dataplane::tap::Tap;
use ipop_dataplane::underlay::{self, KernelDrops};
use tracing::{info, warn};

use super::{Gateway, GatewayError};
use crate::config::{Config, PortConfig};
use crate::routes::{Routes, Way};

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

impl Gateway {
    /// A bridge that was made anew (lxc-net restarts so) gets its port back.
    pub(super) fn keep_in_bridge(&mut self) {
        let (Port::Tap(tap), Some(bridge)) = (&self.port, self.config.port.bridge()) else { return };
        self.follow_bridge_mtu(tap, bridge);
        match tap.attach_to(bridge) {
            Ok(attached) => {
                if attached {
                    info!("{} is a port of {bridge} now", tap.name());
                }
                self.bridge_missing = false;
            }
            Err(error) if !self.bridge_missing => {
                match tap.bridge() {
                    // It was renamed, and traffic goes on.
                    Some(other) => warn!("there is no bridge '{bridge}' any more; {} is a port of {other}", tap.name()),
                    None => warn!("{error}; trying again every second"),
                }
                self.bridge_missing = true;
            }
            Err(_) => {}
        }
    }

    pub(super) fn look_at_port(&mut self) -> Result<(), PacketError> {
        self.port.check()?;
        self.count_kernel_drops();
        self.port_mtu.set(self.port.mtu());
        let down = !self.port.is_up();
        if down != self.port_down {
            self.port_down = down;
            if down {
                warn!("{0} is down, so nothing passes; `ip link set {0} up` mends it", self.port.name());
            } else {
                info!("{} is up again", self.port.name());
            }
        }
        Ok(())
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
