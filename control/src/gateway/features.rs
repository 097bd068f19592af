//! What the kernel does for the gateway: tried at the start, switched off one by one, watched, and told to people.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ipop_dataplane::ending::PeerCounters;
use ipop_dataplane::feature::{EngineChoice, Feature, State};
use ipop_dataplane::offloads::Offloads;
use ipop_dataplane::port::Port;
use ipop_dataplane::tap::{UdpTrial, try_on_loopback};
use ipop_dataplane::underlay::{set_gro, try_trains};
use ipop_dataplane::worker::{Worker, WorkerStats, ZeroCopyPath};
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
    udp_merge: State,
    pub(super) udp_gso: State,
    udp_gro: State,
    /// What workers may write.
    pub(super) at_port: Offloads,
    /// What people were last told, and when it had become so.
    told: Vec<(Feature, Option<u64>)>,
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
                let known = tap.set_offloads(true, true)?;
                let tso = if wanted.tso { tap.try_super_frames() } else { State::by_config() };
                let uso = match (wanted.uso, known) {
                    (false, _) => UdpTrial::failed(State::by_config()),
                    (_, false) => UdpTrial::failed(State::Off("not in this kernel".to_owned())),
                    _ => tap.try_udp_super_frames(),
                };
                tap.set_offloads(tso.is_on(), uso.state.is_on())?;
                (tso, uso)
            }
            // Others decide what comes from an interface, and the kernel cuts what its card cannot take.
            Port::Packet(_) => {
                let (tso, mut uso) = try_on_loopback();
                if let State::Off(reason) = &mut uso.state {
                    // Before Linux 6.2 a virtio_net_hdr has no name for them (include/linux/virtio_net.h).
                    reason.push_str(
                        "; those that come are lost (super_frame_unknown) unless `ethtool -K DEV tx-udp-segmentation off` keeps \
                         their senders from making them",
                    );
                }
                (tso, if wanted.uso { uso } else { UdpTrial::failed(State::by_config()) })
            }
        };
        let UdpTrial { state: uso, max_datagrams, proven } = uso;
        let udp_merge = match (wanted.udp_merge, uso.is_on()) {
            (false, _) => State::by_config(),
            (_, false) => State::Off("takes uso".to_owned()),
            _ => State::On,
        };
        let at_port = Offloads { uso: uso.is_on(), max_datagrams, udp_merge: udp_merge.is_on(), uso_proven: proven };
        let trains = try_trains(config.listen);
        let udp_gro = allowed(wanted.udp_gro, trains.gro);
        if !udp_gro.is_on() {
            for socket in sockets {
                // Only a kernel that does not know it refuses to leave it.
                let known = set_gro(socket, false);
                known.or_else(|error| if wanted.udp_gro { Ok(()) } else { Err(error) }).map_err(call("UDP_GRO"))?;
            }
        }
        let udp_gso = allowed(wanted.udp_gso, trains.gso);
        Ok(KernelOffloads { tso, uso, udp_merge, udp_gso, udp_gro, at_port, told: Vec::new() })
    }

    fn list(&self) -> Vec<Feature> {
        vec![
            Feature::new("tso", self.tso.clone()),
            Feature::new("uso", self.uso.clone()),
            Feature::new("udp_merge", self.udp_merge.clone()),
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

    /// As they are now: a worker may have met a path that refuses trains, or a port that refuses super-frames.
    fn offloads(&self) -> Vec<Feature> {
        let mut list = self.offloads.list();
        let mut stopped = |names: &[&str], refused: fn(&WorkerStats) -> &AtomicBool, reason: &str| {
            let workers = self.workers.iter().filter(|worker| refused(&worker.stats).load(Relaxed)).count();
            let all = workers == self.workers.len();
            let state = match workers {
                0 => return,
                _ if all => State::Off(reason.to_owned()),
                _ => State::Partly(format!("{reason}: not for {workers} of {} workers", self.workers.len())),
            };
            let these = list.iter_mut().filter(|feature| names.contains(&feature.name) && feature.state.is_on());
            these.for_each(|feature| feature.state = state.clone());
        };
        let reason = "a path refused a train, for want of checksum offload or because of IPsec";
        stopped(&["udp_gso"], |stats| &stats.gso_refused, reason);
        stopped(&["uso", "udp_merge"], |stats| &stats.uso_refused, "the port refused a super-frame");
        list.extend(self.workers.first().map(|worker| {
            let state = match &worker.engine.zero_copy {
                State::On => self.zero_copy_paths(),
                state => state.clone(),
            };
            Feature::new("zero_copy", state)
        }));
        list
    }

    /// Whether there is a path on which zero copy is of use.
    fn zero_copy_paths(&self) -> State {
        let unpack = |account: &PeerCounters| ZeroCopyPath::unpack(account.zero_copy.load(Relaxed));
        let known = |path: &ZeroCopyPath| !matches!(path, ZeroCopyPath::Untried | ZeroCopyPath::Trying);
        let paths = self.workers.iter().flat_map(|worker| worker.stats.peers.iter().map(|account| unpack(account)));
        match paths.filter(known).max() {
            Some(ZeroCopyPath::On) => State::On,
            Some(_) => State::Partly("the kernel copies on every path so far; `ipop peers` tells of each".to_owned()),
            None => State::Untested("tried on each path with the first large train; `ipop peers` tells".to_owned()),
        }
    }

    /// Tells people what has changed; called once a second.
    pub(super) fn look_at_offloads(&mut self, now_ms: u64) {
        let now = self.offloads();
        if self.offloads.told.is_empty() {
            self.offloads.told = now.into_iter().map(|feature| (feature, None)).collect();
            return;
        }
        for ((told, since), now) in self.offloads.told.iter_mut().zip(now) {
            if *told == now {
                continue;
            }
            let reason = now.state.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
            match (told.state.is_on(), now.state.is_on()) {
                (true, false) => warn!("{} is off from now on{reason}", now.name),
                (false, true) => info!("{} is on from now on{reason}", now.name),
                _ => info!("{} is still {}{reason}", now.name, if now.state.is_on() { "on" } else { "off" }),
            }
            (*told, *since) = (now, Some(now_ms));
        }
    }

    /// As they are now, and since when, if not since the start.
    pub(super) fn shown_offloads(&self) -> Vec<report::Feature> {
        let now_ms = self.now_ms();
        let show = |now: Feature| {
            let told = self.offloads.told.iter().find(|(told, _)| told.name == now.name);
            // What nobody was told of yet is not a second old.
            let since_ms = told.and_then(|(told, since)| if *told == now { *since } else { Some(now_ms) });
            let changed_s = since_ms.map(|since_ms| now_ms.saturating_sub(since_ms) / 1000);
            report::Feature { changed_s, ..report::Feature::from(&now) }
        };
        self.offloads().into_iter().map(show).collect()
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
