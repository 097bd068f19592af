//! Which figures there are, which of them matter most, and how systems compare in them.

use std::collections::BTreeSet;

use super::format::{Quantity, plural};
use super::select::{Part, Row};
use crate::result::{Category, Unit, ids};
use crate::scenario::{PacketKind, Size};

/// Where the value of a column comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// From a figure with this id.
    Figure(String, Part),
    /// From the memory of the watched processes, together.
    Resident,
}

/// A column of the summary.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    /// Two short lines.
    pub(crate) heading: [String; 2],
    /// Where the value comes from.
    pub(crate) source: Source,
    /// What it measures.
    pub(crate) quantity: Quantity,
}

/// Which figures there are, over all rows.
#[derive(Debug, Default)]
pub(crate) struct Present {
    /// Numbers of TCP flows.
    pub(crate) flows: Vec<u32>,
    /// What was blasted, by kind of packet, with the sizes from small to large, and the mix last.
    pub(crate) blast: Vec<(PacketKind, Vec<Size>)>,
    /// What was searched for the highest rate without loss.
    pub(crate) lossless: Vec<(PacketKind, Vec<Size>)>,
    /// Loads of the open-loop round trips, in percent.
    pub(crate) loads: Vec<u32>,
}

impl Key {
    /// A column with the value of a figure.
    pub(crate) fn new(heading: [&str; 2], id: String, part: Part, unit: Unit) -> Self {
        let source = Source::Figure(id, part);
        Self { heading: heading.map(str::to_owned), source, quantity: part.quantity(unit) }
    }

    /// The column with the memory.
    pub(crate) fn resident() -> Self {
        let heading = ["memory", "resident"].map(str::to_owned);
        Self { heading, source: Source::Resident, quantity: Quantity::Memory }
    }

    /// The heading in one line.
    pub(crate) fn title(&self) -> String {
        self.heading.join(" ").trim_end().to_owned()
    }
}

impl Present {
    /// Looks at the ids of all figures.
    pub(crate) fn in_rows(rows: &[Row]) -> Self {
        let ids: BTreeSet<&str> = rows.iter().flat_map(Row::ids).collect();
        let mut present = Self::default();
        for id in ids {
            let parts: Vec<&str> = id.split('/').collect();
            match parts[..] {
                ["tcp", flows, _] => present.flows.extend(flows.parse::<u32>()),
                ["latency", "open", load] => present.loads.extend(load.parse::<u32>()),
                [kind, size, what @ ("blast" | "lossless")] => {
                    let kind = match kind {
                        "udp" => PacketKind::Udp,
                        "raw" => PacketKind::Raw,
                        _ => continue,
                    };
                    let size = match size.parse() {
                        Ok(bytes) => Size::Bytes(bytes),
                        Err(_) if size == "imix" => Size::Imix,
                        Err(_) => continue,
                    };
                    let list = if what == "blast" { &mut present.blast } else { &mut present.lossless };
                    match list.iter_mut().find(|(known, _)| *known == kind) {
                        Some((_, sizes)) => sizes.push(size),
                        None => list.push((kind, vec![size])),
                    }
                }
                _ => {}
            }
        }
        present.flows.sort_unstable();
        present.flows.dedup();
        present.loads.sort_unstable();
        for list in [&mut present.blast, &mut present.lossless] {
            list.sort_by_key(|(kind, _)| *kind != PacketKind::Udp);
            list.iter_mut().for_each(|(_, sizes)| sizes.sort_by_key(|&size| bytes(size).unwrap_or(u16::MAX)));
        }
        present
    }

    /// The smallest and the largest size that was blasted, with the kind of packet that comes first: UDP, if it was sent.
    pub(crate) fn extremes(list: &[(PacketKind, Vec<Size>)]) -> Vec<(PacketKind, Size)> {
        let Some((kind, sizes)) = list.first() else { return Vec::new() };
        let fixed: Vec<Size> = sizes.iter().copied().filter(|&size| bytes(size).is_some()).collect();
        let mut ends: Vec<_> = [fixed.first(), fixed.last()].into_iter().flatten().map(|&size| (*kind, size)).collect();
        ends.dedup();
        ends
    }

    /// The smallest and the largest number of flows.
    pub(crate) fn flow_extremes(&self) -> Vec<u32> {
        let mut ends: Vec<u32> = [self.flows.first(), self.flows.last()].into_iter().flatten().copied().collect();
        ends.dedup();
        ends
    }
}

/// The size, if it is one and no mix.
pub(crate) fn bytes(size: Size) -> Option<u16> {
    match size {
        Size::Bytes(bytes) => Some(bytes),
        Size::Imix => None,
    }
}

/// The columns of the summary, as far as there is anything in them: throughput and rates first, then times and costs.
pub(crate) fn keys(rows: &[Row]) -> Vec<Key> {
    let present = Present::in_rows(rows);
    let packets = |(kind, size): (PacketKind, Size)| format!("{} {size} B", kind.to_string().to_uppercase());
    let flows = |flows: u32| format!("TCP {}", plural(flows as usize, "flow"));
    let mut keys = Vec::new();
    for count in present.flow_extremes() {
        for (direction, backward) in [("forward", false), ("backward", true)] {
            keys.push(Key::new(
                [&flows(count), direction],
                ids::tcp(count, backward),
                Part::Value,
                Unit::BitsPerSecond,
            ));
        }
    }
    let (blasts, searches) = (Present::extremes(&present.blast), Present::extremes(&present.lossless));
    let rate = |what: (PacketKind, Size), name: &str, id: fn(PacketKind, Size) -> String| {
        Key::new([&packets(what), name], id(what.0, what.1), Part::Value, Unit::PacketsPerSecond)
    };
    keys.extend(blasts.first().map(|&what| rate(what, "blast", ids::blast)));
    keys.extend(searches.first().map(|&what| rate(what, "lossless", ids::lossless)));
    keys.extend(blasts.get(1).map(|&what| rate(what, "blast", ids::blast)));
    for (heading, id) in [
        (["ping-pong", "TCP p50"], ids::PING_PONG_TCP),
        (["ping-pong", "UDP p50"], ids::PING_PONG_UDP),
        (["ARP cold", "p50"], ids::ARP_COLD),
        (["ARP warm", "p50"], ids::ARP_WARM),
    ] {
        keys.push(Key::new(heading, id.to_owned(), Part::Value, Unit::Nanoseconds));
    }
    keys.extend(costs(&present, 1));
    keys.push(Key::resident());
    keys.retain(|key| rows.iter().any(|row| row.cell(key).is_some()));
    keys
}

/// The costs of TCP forward and of blasts, of the first `each` of the extremes.
pub(crate) fn costs(present: &Present, each: usize) -> Vec<Key> {
    let streams = present.flow_extremes().into_iter().take(each).map(|flows| {
        let name = plural(flows as usize, "flow");
        Key::new(["CPU, TCP", &name], ids::tcp(flows, false), Part::PerGigabit, Unit::BitsPerSecond)
    });
    let blasts = Present::extremes(&present.blast).into_iter().take(each).map(|(kind, size)| {
        let heading = [format!("CPU, {}", kind.to_string().to_uppercase()), format!("{size} B")];
        Key::new([&heading[0], &heading[1]], ids::blast(kind, size), Part::PerMillion, Unit::PacketsPerSecond)
    });
    streams.chain(blasts).collect()
}

/// The overlay with the best median in a column; `None` where there is no choice.
pub(crate) fn best(rows: &[Row], key: &Key) -> Option<usize> {
    let overlay = |row: &Row| !matches!(row.system.category, Category::Limit | Category::Path);
    let candidates: Vec<_> = medians(rows, key).filter(|&(index, _)| overlay(&rows[index])).collect();
    if candidates.len() < 2 { None } else { best_of(candidates.into_iter(), key.quantity).map(|(index, _)| index) }
}

/// How many times the median of the kernel's VXLAN in the same file.
pub(crate) fn versus_vxlan(rows: &[Row], row: &Row, key: &Key) -> Option<f64> {
    let plain =
        |other: &&Row| other.file == row.file && other.system.category == Category::Kernel && !other.system.encrypted;
    let called = |test: fn(&str) -> bool| rows.iter().filter(plain).find(move |other| test(&other.system.id));
    let vxlan = called(|id| id == "vxlan").or_else(|| called(|id| id.contains("vxlan")))?;
    quotient(row.median(key)?, vxlan.median(key)?)
}

/// How many times the best median among the user-space overlays in the same file that encrypt, or do not, as this one.
pub(crate) fn versus_user_space(rows: &[Row], row: &Row, key: &Key) -> Option<f64> {
    let peer = |other: &Row| {
        other.file == row.file
            && other.system.category == Category::UserSpace
            && other.system.encrypted == row.system.encrypted
    };
    let peers = medians(rows, key).filter(|&(index, _)| peer(&rows[index]));
    quotient(row.median(key)?, best_of(peers, key.quantity)?.1)
}

fn medians<'a>(rows: &'a [Row], key: &'a Key) -> impl Iterator<Item = (usize, f64)> + 'a {
    rows.iter().enumerate().filter_map(|(index, row)| Some((index, row.median(key)?)))
}

fn best_of(values: impl Iterator<Item = (usize, f64)>, quantity: Quantity) -> Option<(usize, f64)> {
    values.reduce(|best, next| if quantity.is_better(next.1, best.1) { next } else { best })
}

fn quotient(value: f64, by: f64) -> Option<f64> {
    (by > 0.0).then_some(value / by)
}
