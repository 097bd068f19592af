//! The measurements, in the order in which they are made: the active end of `ipop-bench`.

mod latency;
mod rate;
mod throughput;

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};
use crate::result::Figure;
use crate::scenario::{PacketKind, Scenario, Size};
use crate::session::client::Session;
use crate::traffic::packet::{cycle, unfit};

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The figures, in the order in which they were measured.
    pub figures: Vec<Figure>,
    /// What was not measured, with the reason.
    pub skipped: BTreeMap<String, String>,
    /// Why it ended early, if it did.
    pub error: Option<Error>,
}

/// Measures all that the scenario asks for. `note` is told what comes next.
pub fn all(session: &mut Session, scenario: &Scenario, note: &mut dyn FnMut(&str)) -> Found {
    let mut bench = Bench { session, scenario, note, found: Found::default() };
    let outcome = bench.all();
    Found { error: outcome.err(), ..bench.found }
}

/// A measurement under way.
struct Bench<'a> {
    session: &'a mut Session,
    scenario: &'a Scenario,
    note: &'a mut dyn FnMut(&str),
    found: Found,
}

impl Bench<'_> {
    fn all(&mut self) -> Result<()> {
        let scenario = self.scenario;
        if scenario.blast.is_some()
            || scenario.steady.is_some()
            || scenario.lossless.is_some()
            || scenario.arp.is_some()
        {
            // Better now than after a minute of TCP.
            self.session.link.raw_socket(0)?;
        }
        if let Some(tcp) = &scenario.tcp {
            for &flows in &tcp.flows {
                throughput::measure(self, tcp, flows, false)?;
                throughput::measure(self, tcp, flows, true)?;
            }
        }
        let mut offered = HashMap::new();
        if let Some(blast) = &scenario.blast {
            for (kind, size) in pairs(&blast.kinds, &blast.sizes) {
                offered.insert((kind, size), rate::blast(self, blast.seconds, kind, size)?);
            }
        }
        if let Some(steady) = &scenario.steady {
            for (kind, size) in pairs(&steady.kinds, &steady.sizes) {
                rate::steady(self, steady, kind, size)?;
            }
        }
        let mut lossless = HashMap::new();
        if let Some(search) = &scenario.lossless {
            for (kind, size) in pairs(&search.kinds, &search.sizes) {
                let most = offered.get(&(kind, size)).copied().flatten();
                lossless.insert((kind, size), rate::search(self, search, kind, size, most)?);
            }
        }
        if let Some(open_loop) = &scenario.latency {
            let limit = lossless.get(&(PacketKind::Udp, open_loop.size)).copied().flatten();
            for &load in &open_loop.loads {
                latency::open_loop(self, open_loop, load, limit)?;
            }
        }
        if let Some(ping_pong) = &scenario.ping_pong {
            latency::ping_pong_tcp(self, ping_pong)?;
            latency::ping_pong_udp(self, ping_pong)?;
        }
        if let Some(arp) = &scenario.arp {
            latency::arp(self, arp)?;
        }
        Ok(())
    }

    /// Says what comes next; an error if a watched process has ended.
    fn begin(&mut self, id: &str) -> Result<()> {
        (self.note)(id);
        match self.session.watch().gone() {
            None => Ok(()),
            Some(name) => Err(Error::other(format!("{name} has ended"))),
        }
    }

    fn add(&mut self, figure: Figure) {
        self.found.figures.push(figure);
    }

    fn skip(&mut self, id: &str, reason: impl Into<String>) {
        self.found.skipped.insert(id.to_owned(), reason.into());
    }

    /// Why frames of this size cannot be sent here, if they cannot.
    fn unfit(&self, kind: PacketKind, size: Size) -> Option<String> {
        let mtu = self.session.link.mtu;
        unfit(kind, self.session.remote.is_ipv6(), &cycle(size, mtu), mtu)
    }
}

fn pairs(kinds: &[PacketKind], sizes: &[Size]) -> Vec<(PacketKind, Size)> {
    kinds.iter().flat_map(|&kind| sizes.iter().map(move |&size| (kind, size))).collect()
}
