//! What the kernel does for the gateway: tried at the start, switched off one by one, and told to people.

use std::net::UdpSocket;
use std::sync::atomic::Ordering;

use ipop_dataplane::feature::{EngineChoice, Feature, State};
use ipop_dataplane::port::Port;
use ipop_dataplane::underlay::{set_gro, try_trains};
use ipop_dataplane::worker::Worker;
use tracing::{info, warn};

use super::{Gateway, GatewayError, call};
use crate::config::Config;
use crate::confine::Confinement;
use crate::report;

/// What may keep a worker from starting.
pub(super) fn hint(config: &Config) -> &'static str {
    match config.io_uring {
        EngineChoice::IoUring => {
            "; \"io_uring\" is true, so it must be allowed (sysctl kernel.io_uring_disabled=0, no seccomp filter against \
             it) and be that of Linux 6.0 or later; without this key system calls take its place"
        }
        _ => "",
    }
}

/// What the gateway asks of the kernel.
pub(super) struct KernelOffloads {
    tso: State,
    uso: State,
    pub(super) udp_gso: State,
    udp_gro: State,
}

impl KernelOffloads {
    /// Tries what the config permits and sets up port and sockets accordingly. The port must be in no bridge yet and
    /// nobody may read from it.
    pub(super) fn try_out(
        config: &Config,
        port: &mut Port,
        sockets: &[UdpSocket],
    ) -> Result<KernelOffloads, GatewayError> {
        let wanted = &config.offloads;
        let allowed = |on: bool, state: State| if on { state } else { State::by_config() };
        let (tso, uso) = match port {
            Port::Tap(tap) => {
                let tso = if wanted.tso { tap.try_super_frames() } else { State::by_config() };
                tap.set_offloads(tso.is_on(), wanted.uso)?;
                let uso = if tap.offloads().uso { State::On } else { State::Off("not in this kernel".to_owned()) };
                (tso, allowed(wanted.uso, uso))
            }
            // Others decide what comes from an interface, and the kernel cuts what its card cannot take.
            Port::Packet(_) => (State::On, allowed(wanted.uso, State::On)),
        };
        let trains = try_trains(config.listen);
        let udp_gro = allowed(wanted.udp_gro, trains.gro);
        if !udp_gro.is_on() {
            for socket in sockets {
                // Only a kernel that does not know it refuses to leave it.
                let known = set_gro(socket, false);
                known.or_else(|error| if wanted.udp_gro { Ok(()) } else { Err(error) }).map_err(call("UDP_GRO"))?;
            }
        }
        Ok(KernelOffloads { tso, uso, udp_gso: allowed(wanted.udp_gso, trains.gso), udp_gro })
    }

    fn list(&self) -> Vec<Feature> {
        vec![
            Feature::new("tso", self.tso.clone()),
            Feature::new("uso", self.uso.clone()),
            Feature::new("udp_gso", self.udp_gso.clone()),
            Feature::new("udp_gro", self.udp_gro.clone()),
        ]
    }
}

impl Gateway {
    /// What is not given up although it should be is a warning.
    pub(super) fn log_confinement(&self) {
        let Confinement { user, capabilities, features } = &self.confinement;
        let capabilities = if capabilities.is_empty() { "none".to_owned() } else { capabilities.join(", ") };
        info!("runs as user {user}; capabilities of the control thread: {capabilities}");
        for feature in features {
            match &feature.state {
                State::Off(_) if feature.state == State::by_config() => {}
                State::Off(reason) => warn!("confinement: {} is off: {reason}", feature.name),
                State::Partly(reason) => warn!("confinement: {} is on, but {reason}", feature.name),
                _ => {}
            }
        }
        if !self.config.confine {
            warn!("\"confine\" is false: the gateway keeps all rights that it was started with");
        }
    }

    /// As they are now: a worker may have met a path that refuses trains.
    pub(super) fn offloads(&self) -> Vec<Feature> {
        let mut list = self.offloads.list();
        list.extend(self.workers.first().map(|worker| Feature::new("zero_copy", worker.engine.zero_copy.clone())));
        if self.workers.iter().any(|worker| worker.stats.gso_refused.load(Ordering::Relaxed)) {
            let reason = "a path refused a train, for want of checksum offload or because of IPsec";
            list.iter_mut().filter(|feature| feature.name == "udp_gso" && feature.state.is_on()).for_each(|feature| {
                feature.state = State::Off(reason.to_owned());
            });
        }
        list
    }

    pub(super) fn worker_status(&self) -> Vec<report::WorkerStatus> {
        let status = |(lane, worker): (usize, &Worker)| report::WorkerStatus {
            cpu: self.config.cpus.get(lane).copied(),
            ports: worker.ports.clone(),
            engine: worker.engine.name().to_owned(),
            no_io_uring: worker.engine.no_io_uring.clone(),
            features: worker.engine.features.iter().map(report::Feature::from).collect(),
        };
        self.workers.iter().enumerate().map(status).collect()
    }

    /// What was asked for and is not there is a warning; what was not asked for is not worth one.
    pub(super) fn log_features(&self) {
        let Some(engine) = self.workers.first().map(|worker| &worker.engine) else { return };
        if let Some(reason) = &engine.no_io_uring {
            if self.config.io_uring == EngineChoice::Auto {
                warn!("io_uring cannot be used ({reason}); the workers run on system calls");
            } else {
                info!("the workers run on system calls (io_uring: {reason})");
            }
        }
        for feature in self.offloads.list().iter().chain(&engine.features) {
            match &feature.state {
                State::On => {}
                State::Off(reason) if feature.state == State::by_config() => info!("{}: {reason}", feature.name),
                State::Off(reason) => warn!("{} is off: {reason}", feature.name),
                State::Untested(reason) | State::Partly(reason) => info!("{} is on, {reason}", feature.name),
            }
        }
    }
}
