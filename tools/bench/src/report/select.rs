//! What reports and tables show: the systems as rows, and the values of their figures.

use super::columns::{Key, Source, keys};
use super::format::Quantity;
use crate::result::histogram::Latency;
use crate::result::stats::Summary;
use crate::result::{Category, Detail, Figure, Measurement, ResultFile, System, Unit};

/// With fewer times the 99th percentile is made by less than ten of them, and says next to nothing.
const ENOUGH: u64 = 1000;

/// One system of one file, with all of its rounds.
pub(crate) struct Row<'a> {
    /// Which file it comes from. Ratios are taken within a file, because another file may come from another machine.
    pub(crate) file: usize,
    /// What was measured.
    pub(crate) system: &'a System,
    /// Its label, with the name of the file where the system is in several of them.
    pub(crate) label: String,
    /// Every measurement of it.
    pub(crate) rounds: Vec<&'a Measurement>,
}

/// The values of one figure in all rounds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    /// Median and range.
    pub(crate) summary: Summary,
    /// Each round.
    pub(crate) rounds: Vec<f64>,
    /// The generator was the limit in some round: the true value may be higher.
    pub(crate) at_least: bool,
}

/// What can be compared about a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The number itself.
    Value,
    /// The 99th percentile of a distribution of times, if there are enough of them.
    P99,
    /// Processor seconds per gigabit.
    PerGigabit,
    /// Processor seconds per million packets.
    PerMillion,
}

impl Part {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Value, Self::P99, Self::PerGigabit, Self::PerMillion];

    /// The value in one figure.
    pub(crate) fn of(self, figure: &Figure) -> Option<f64> {
        match self {
            Self::Value => Some(figure.value),
            Self::P99 => match &figure.detail {
                Detail::Latency(detail) if detail.latency.count >= ENOUGH => Some(detail.latency.p99 as f64),
                _ => None,
            },
            Self::PerGigabit => figure.cpu.as_ref()?.per_gigabit(),
            Self::PerMillion => figure.cpu.as_ref()?.per_million_packets(),
        }
    }

    /// What the value measures, in a figure with this unit.
    pub(crate) fn quantity(self, unit: Unit) -> Quantity {
        match (self, unit) {
            (Self::PerGigabit, _) => Quantity::CostPerGigabit,
            (Self::PerMillion, _) => Quantity::CostPerMillion,
            (_, Unit::BitsPerSecond) => Quantity::Throughput,
            (_, Unit::PacketsPerSecond) => Quantity::PacketRate,
            (_, Unit::Nanoseconds) => Quantity::Time,
        }
    }

    /// What is written behind the id of the figure.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Value => "",
            Self::P99 => " p99",
            Self::PerGigabit | Self::PerMillion => " CPU",
        }
    }
}

impl<'a> Row<'a> {
    /// The figures with one id, one a round.
    pub(crate) fn figures(&self, id: &str) -> impl Iterator<Item = &'a Figure> {
        self.rounds.iter().flat_map(|round| &round.figures).filter(move |figure| figure.id == id)
    }

    /// The ids of its figures, in the order in which they were measured.
    pub(crate) fn ids(&self) -> Vec<&'a str> {
        let mut ids = Vec::new();
        for figure in self.rounds.iter().flat_map(|round| &round.figures) {
            if !ids.contains(&figure.id.as_str()) {
                ids.push(figure.id.as_str());
            }
        }
        ids
    }

    /// The values of a column.
    pub(crate) fn cell(&self, key: &Key) -> Option<Cell> {
        match &key.source {
            Source::Figure(id, part) => self.values(id, *part),
            Source::Resident => {
                let sum = |round: &&Measurement| round.resident.values().sum::<u64>() as f64;
                Cell::of(self.rounds.iter().filter(|round| !round.resident.is_empty()).map(sum).collect())
            }
        }
    }

    /// The values of one part of a figure.
    pub(crate) fn values(&self, id: &str, part: Part) -> Option<Cell> {
        let bound = |figure: &Figure| matches!(&figure.detail, Detail::Lossless(search) if search.generator_bound);
        let cell = Cell::of(self.figures(id).filter_map(|figure| part.of(figure)).collect())?;
        Some(Cell { at_least: part == Part::Value && self.figures(id).any(bound), ..cell })
    }

    /// The median of something that is known beside the value of a figure.
    pub(crate) fn detail(&self, id: &str, of: impl Fn(&Detail) -> Option<f64>) -> Option<f64> {
        Summary::of(self.figures(id).filter_map(|figure| of(&figure.detail))).map(|summary| summary.median)
    }

    /// The median of one percentile, or something else of a distribution.
    pub(crate) fn percentile(&self, id: &str, of: fn(&Latency) -> u64) -> Option<f64> {
        self.detail(id, |detail| match detail {
            Detail::Latency(detail) if detail.latency.count > 0 => Some(of(&detail.latency) as f64),
            _ => None,
        })
    }

    /// The median number of segments that were sent again.
    pub(crate) fn retransmits(&self, id: &str) -> Option<f64> {
        self.detail(id, |detail| match detail {
            Detail::Stream(stream) => stream.retransmits.map(|number| number as f64),
            _ => None,
        })
    }

    /// Requests without an answer, and all requests, of all rounds.
    pub(crate) fn unanswered(&self, id: &str) -> (u64, u64) {
        let details = self.figures(id).filter_map(|figure| match &figure.detail {
            Detail::Latency(detail) => Some(detail),
            _ => None,
        });
        details.fold((0, 0), |(part, all), detail| {
            (part + detail.unanswered, all + detail.unanswered + detail.latency.count)
        })
    }

    /// The value in the middle.
    pub(crate) fn median(&self, key: &Key) -> Option<f64> {
        self.cell(key).map(|cell| cell.summary.median)
    }

    /// Under which heading it stands. Only within one of them a comparison is fair.
    pub(crate) fn group(&self) -> &'static str {
        match (self.system.category, self.system.encrypted) {
            (Category::Path, _) => "Measured path",
            (Category::Limit, _) => "No overlay",
            (_, false) => "Not encrypted",
            (_, true) => "Encrypted",
        }
    }
}

impl Cell {
    /// `None` without a value. What is no number cannot be drawn, so it counts as missing.
    pub(crate) fn of(rounds: Vec<f64>) -> Option<Self> {
        let rounds: Vec<f64> = rounds.into_iter().filter(|value| value.is_finite()).collect();
        Some(Self { summary: Summary::of(rounds.iter().copied())?, rounds, at_least: false })
    }
}

/// The systems of all files: what is no overlay first, then those that do not encrypt, then those that do; each from the
/// highest first column to the lowest.
pub(crate) fn rows<'a>(files: impl IntoIterator<Item = (&'a str, &'a ResultFile)>) -> Vec<Row<'a>> {
    let files: Vec<_> = files.into_iter().collect();
    let mut rows = Vec::new();
    for (file, (name, result)) in files.iter().enumerate() {
        for system in result.systems() {
            let elsewhere = |(other, (_, result)): (usize, &(&str, &ResultFile))| {
                other != file && result.systems().iter().any(|known| known.id == system.id)
            };
            let label = match files.iter().enumerate().any(elsewhere) {
                true => format!("{} ({name})", system.label),
                false => system.label.clone(),
            };
            let rounds = result.measurements.iter().filter(|round| round.system.id == system.id).collect();
            rows.push(Row { file, system, label, rounds });
        }
    }
    let first = keys(&rows).into_iter().next();
    let rank = |row: &Row| {
        let group =
            (row.system.category != Category::Path, row.system.category != Category::Limit, row.system.encrypted);
        let best = first.as_ref().and_then(|key| Some((row.median(key)?, key.quantity.more_is_better())));
        (group, best.map_or(f64::INFINITY, |(median, more)| if more { -median } else { median }))
    };
    rows.sort_by(|a, b| {
        let ((group_a, value_a), (group_b, value_b)) = (rank(a), rank(b));
        group_a.cmp(&group_b).then(value_a.total_cmp(&value_b))
    });
    rows
}
