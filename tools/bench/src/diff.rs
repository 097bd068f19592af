//! Two results beside each other: what became better, what became worse, and what is noise.
//!
//! # The rule
//!
//! With at least three rounds on each side, a change is beyond the noise when the two ranges, from the smallest round to
//! the largest, do not overlap, and the medians differ by more than 2 %. That needs no assumption about how the noise is
//! distributed: if nothing changed, every order of the n + m rounds is equally likely, and in 2 of the C(n + m, n) ways to
//! deal them out all rounds of one side are below all of the other. So by chance alone the ranges of a value are disjoint
//! with a probability of 10 % for 3 rounds each, and of 0.8 % for 5. Among many values that happens to some; how many are
//! to be expected is printed. The 2 % keep differences out that are true and do not matter.
//!
//! With fewer rounds nothing can be told; changes over 25 % are listed as hints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use crate::report::format::{Quantity, plural};
use crate::report::grid::{Column, lay_out};
use crate::report::select::{Part, Row, rows};
use crate::result::ResultFile;
use crate::result::stats::Summary;

/// Fewer rounds than this tell nothing.
const ROUNDS: usize = 3;
/// Smaller changes do not matter.
const MATTERS: f64 = 0.02;
/// Larger changes are worth a hint, even if nothing can be told.
const HINT: f64 = 0.25;
/// Facts about a machine that are never twice the same.
const VOLATILE: [&str; 2] = ["load before", "megahertz"];

/// What differs between two results. `{}` shows what is beyond the noise, `{:#}` every value.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// What may make the comparison meaningless.
    pub warnings: Vec<String>,
    /// Facts of the fingerprints and systems that differ: which, old and new.
    pub facts: Vec<(String, String, String)>,
    /// Every value that is on both sides, the worst change first.
    pub changes: Vec<Change>,
    /// Systems and figures that only the old result has.
    pub only_old: Vec<String>,
    /// Systems and figures that only the new result has.
    pub only_new: Vec<String>,
    old: String,
    new: String,
}

/// A value on both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The id of the system.
    pub system: String,
    /// The id of the figure, and what of it.
    pub figure: String,
    /// Before.
    pub old: Summary,
    /// After.
    pub new: Summary,
    quantity: Quantity,
}

/// What can be said about a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is too small, or smaller than the noise.
    Noise,
    /// It is better, and beyond the noise.
    Better,
    /// It is worse, and beyond the noise.
    Worse,
    /// There are not enough rounds.
    CannotTell,
}

impl Change {
    /// The change of the median as a share of the old one; infinite if that was zero.
    pub fn relative(&self) -> f64 {
        let difference = self.new.median - self.old.median;
        if difference == 0.0 { 0.0 } else { difference / self.old.median.abs() }
    }

    /// Is the new median better?
    pub fn is_better(&self) -> bool {
        self.quantity.is_better(self.new.median, self.old.median)
    }

    /// See [the rule](self#the-rule).
    pub fn verdict(&self) -> Verdict {
        let disjoint = self.old.max < self.new.min || self.new.max < self.old.min;
        if self.old.count.min(self.new.count) < ROUNDS {
            Verdict::CannotTell
        } else if !disjoint || self.relative().abs() <= MATTERS {
            Verdict::Noise
        } else if self.is_better() {
            Verdict::Better
        } else {
            Verdict::Worse
        }
    }

    /// How many times worse it became. Twice as slow and half as fast are the same.
    fn harm(&self) -> f64 {
        let ratio = match self.quantity.more_is_better() {
            true => self.old.median / self.new.median,
            false => self.new.median / self.old.median,
        };
        if ratio.is_nan() { 1.0 } else { ratio }
    }

    /// How likely the ranges are disjoint by chance.
    fn chance(&self) -> f64 {
        let (n, m) = (self.old.count, self.new.count);
        let ways: f64 = (1..=n).map(|index| (m + index) as f64 / index as f64).product();
        2.0 / ways
    }
}

impl Diff {
    /// Did anything become worse, beyond the noise?
    pub fn has_regressions(&self) -> bool {
        self.changes.iter().any(|change| change.verdict() == Verdict::Worse)
    }

    fn with(&self, verdict: Verdict) -> Vec<&Change> {
        self.changes.iter().filter(|change| change.verdict() == verdict).collect()
    }
}

/// Compares two results, value by value.
pub fn compare(old: &ResultFile, new: &ResultFile) -> Diff {
    let (old_rows, new_rows) = (rows([("", old)]), rows([("", new)]));
    let (only_old, only_new) = (only(&old_rows, &new_rows), only(&new_rows, &old_rows));
    let mut changes = Vec::new();
    for row in &old_rows {
        let Some(other) = find(&new_rows, row) else { continue };
        for id in row.ids() {
            let Some(figure) = row.figures(id).next() else { continue };
            for part in Part::ALL {
                let (Some(old), Some(new)) = (row.values(id, part), other.values(id, part)) else { continue };
                changes.push(Change {
                    system: row.system.id.clone(),
                    figure: format!("{id}{}", part.suffix()),
                    old: old.summary,
                    new: new.summary,
                    quantity: part.quantity(figure.unit),
                });
            }
        }
    }
    changes.sort_by(|a, b| b.harm().total_cmp(&a.harm()));
    let facts = facts(old, new, &old_rows, &new_rows);
    let warnings = warnings(old, new, &facts);
    Diff { warnings, facts, changes, only_old, only_new, old: about(old, &old_rows), new: about(new, &new_rows) }
}

fn find<'a, 'b>(rows: &'a [Row<'b>], wanted: &Row) -> Option<&'a Row<'b>> {
    rows.iter().find(|row| row.system.id == wanted.system.id)
}

/// What is in `rows` and not in `others`: systems, and figures of systems that are in both.
fn only(rows: &[Row], others: &[Row]) -> Vec<String> {
    let lacks = |row: &Row| {
        let id = &row.system.id;
        let Some(other) = find(others, row) else { return Some(format!("{id}: the whole system")) };
        let known = other.ids();
        let figures: Vec<&str> = row.ids().into_iter().filter(|id| !known.contains(id)).collect();
        (!figures.is_empty()).then(|| format!("{id}: {}", figures.join(", ")))
    };
    rows.iter().filter_map(lacks).collect()
}

/// Facts that differ, with a dash where one side knows nothing.
fn facts(old: &ResultFile, new: &ResultFile, old_rows: &[Row], new_rows: &[Row]) -> Vec<(String, String, String)> {
    let all = |file: &ResultFile, rows: &[Row], others: &[Row]| -> BTreeMap<(u8, String), String> {
        let print = &file.fingerprint;
        let maps = [&print.machine, &print.kernel, &print.versions, &print.settings];
        let names = ["machine", "kernel", "version", "setting"];
        let facts = maps.into_iter().zip(names).enumerate().flat_map(|(order, (map, name))| {
            map.iter().map(move |(key, value)| ((order as u8, format!("{name}: {key}")), value.clone()))
        });
        let versions = rows
            .iter()
            .filter(|row| find(others, row).is_some())
            .filter_map(|row| Some(((2, format!("version: {}", row.system.id)), row.system.version.clone()?)));
        facts.chain(versions).collect()
    };
    let (old, new) = (all(old, old_rows, new_rows), all(new, new_rows, old_rows));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let text = |facts: &BTreeMap<_, String>, key| facts.get(key).map_or("-".to_owned(), Clone::clone);
    let pairs = keys.into_iter().map(|key| (key.1.clone(), text(&old, key), text(&new, key)));
    pairs.filter(|(_, old, new)| old != new).collect()
}

fn warnings(old: &ResultFile, new: &ResultFile, facts: &[(String, String, String)]) -> Vec<String> {
    let mut warnings = Vec::new();
    let differs = |(key, ..): &(String, String, String)| {
        key.strip_prefix("machine: ").is_some_and(|key| !VOLATILE.contains(&key))
    };
    if facts.iter().any(differs) {
        warnings.push("the machines differ, so the values say little about the systems".to_owned());
    }
    let parts = |file: &ResultFile| serde_json::to_value(&file.scenario).unwrap_or_default();
    let (old_parts, new_parts) = (parts(old), parts(new));
    let names = ["inner_mtu", "tcp", "blast", "steady", "lossless", "latency", "ping_pong", "arp"];
    let differing: Vec<&str> = names.into_iter().filter(|&name| old_parts.get(name) != new_parts.get(name)).collect();
    if !differing.is_empty() {
        warnings.push(format!(
            "the scenarios differ in {}: figures with the same name were measured differently",
            differing.join(", ")
        ));
    }
    if old.kind != new.kind {
        warnings.push(format!("the one is a result of `{}`, the other of `{}`", old.kind, new.kind));
    }
    warnings
}

fn about(file: &ResultFile, rows: &[Row]) -> String {
    let rounds = rows.iter().map(|row| row.rounds.len()).max().unwrap_or(0);
    let (systems, rounds) = (plural(rows.len(), "system"), plural(rounds, "round"));
    format!("{}, {}, scenario {}, {systems}, {rounds}", file.started, file.kind, file.scenario.name)
}

impl Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old: {}\nnew: {}", self.old, self.new)?;
        for warning in &self.warnings {
            writeln!(f, "WARNING: {warning}")?;
        }
        if !self.facts.is_empty() {
            writeln!(f, "\nCircumstances that differ:")?;
            for (key, old, new) in &self.facts {
                writeln!(f, "  {key}: {old} -> {new}")?;
            }
        }
        self.fmt_judged(f)?;
        self.fmt_unknown(f)?;
        for (title, list) in [("Only in the old result:", &self.only_old), ("Only in the new result:", &self.only_new)]
        {
            if !list.is_empty() {
                writeln!(f, "\n{title}\n  {}", list.join("\n  "))?;
            }
        }
        Ok(())
    }
}

impl Diff {
    fn fmt_judged(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sections = [("Worse, beyond the noise", Verdict::Worse), ("Better, beyond the noise", Verdict::Better)];
        for (title, verdict) in sections {
            let mut changes = self.with(verdict);
            if verdict == Verdict::Better {
                changes.reverse();
            }
            if !changes.is_empty() {
                write!(f, "\n{title}, {}:\n{}", largest_first(&changes), list(&changes))?;
            }
        }
        let (noise, judged) = (self.with(Verdict::Noise), self.changes.len() - self.with(Verdict::CannotTell).len());
        if judged > 0 {
            let judged_changes = self.changes.iter().filter(|change| change.verdict() != Verdict::CannotTell);
            let expected: f64 = judged_changes.map(Change::chance).sum();
            writeln!(
                f,
                "\n{} of {judged} judged values are within the noise. If nothing had changed, about {expected:.1} of them would \
                 look\nas if they had, by chance (half of these worse). Beyond the noise: the ranges of the rounds do not \
                 overlap,\nand the medians differ by more than {:.0} %.",
                noise.len(),
                MATTERS * 100.0
            )?;
            if f.alternate() && !noise.is_empty() {
                write!(f, "\nWithin the noise:\n{}", list(&noise))?;
            }
        }
        Ok(())
    }

    fn fmt_unknown(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = self.with(Verdict::CannotTell);
        if unknown.is_empty() {
            return Ok(());
        }
        let hints: Vec<&Change> =
            unknown.iter().copied().filter(|change| f.alternate() || change.relative().abs() > HINT).collect();
        writeln!(
            f,
            "\nCannot tell for {}: {ROUNDS} rounds on each side are needed, better 5.",
            plural(unknown.len(), "value")
        )?;
        match (f.alternate(), hints.is_empty()) {
            (true, _) => write!(f, "All of them, the worst first:\n{}", list(&hints)),
            (false, false) => {
                write!(f, "Hints only, changed by more than {:.0} %, the worst first:\n{}", HINT * 100.0, list(&hints))
            }
            (false, true) => writeln!(f, "None of them changed by more than {:.0} %.", HINT * 100.0),
        }
    }
}

fn largest_first(changes: &[&Change]) -> &'static str {
    if changes.len() > 1 { "the largest change first" } else { "one value" }
}

/// A line for each change.
fn list(changes: &[&Change]) -> String {
    let column = |of: &dyn Fn(&Change) -> String| changes.iter().map(|change| of(change)).collect::<Vec<_>>();
    let side = |quantity: Quantity, side: &Summary| {
        let (min, max) = (quantity.text(side.min), quantity.text(side.max));
        let range = if side.count > 1 { format!(" ({min}..{max})") } else { String::new() };
        format!("{}{range}", quantity.text(side.median))
    };
    let percent = |change: &Change| match change.relative() * 100.0 {
        percent if percent.is_infinite() => "from 0".to_owned(),
        percent => format!("{percent:+.1} %"),
    };
    let word = |change: &Change| match (change.relative() == 0.0, change.is_better()) {
        (true, _) => "same",
        (_, true) => "better",
        (_, false) => "worse",
    };
    let first = Column::words(&["system"], column(&|change| change.system.clone()));
    let columns = [
        Column::words(&["figure"], column(&|change| change.figure.clone())),
        Column::numbers(&["change"], column(&percent)),
        Column::words(&[""], column(&|change| word(change).to_owned())),
        Column::numbers(&["old"], column(&|change| side(change.quantity, &change.old))),
        Column::numbers(&["new"], column(&|change| side(change.quantity, &change.new))),
        Column::words(&[""], column(&|change| change.quantity.unit().to_owned())),
    ];
    lay_out(&first, &columns, usize::MAX)
}

#[cfg(test)]
mod tests;
