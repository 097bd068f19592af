//! Instruction counts that were accepted (`perf/instructions.json`), and what new ones mean beside them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Beyond this many percent more, a count has failed; beyond as many fewer, it is worth being stored.
pub const TOLERANCE_PERCENT: f64 = 3.0;

/// What decides which instructions there are to count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeWith {
    /// `rustc --version`.
    pub rustc: String,
    /// The target triple, which begins with the architecture.
    pub target: String,
    /// Name and version of the C library: copying and comparing memory is its code.
    pub libc: String,
    /// `valgrind --version`.
    pub valgrind: String,
    /// Version of gungraun and its runner.
    pub gungraun: String,
}

impl MadeWith {
    /// Why counts made with `self` cannot be compared with counts made with `other`, `None` if they can. Valgrind and
    /// gungraun only count, so their versions stand in the file for people.
    pub fn difference(&self, other: &MadeWith) -> Option<String> {
        let pairs = [(&self.target, &other.target), (&self.rustc, &other.rustc), (&self.libc, &other.libc)];
        let (ours, theirs) = pairs.into_iter().find(|(ours, theirs)| ours != theirs)?;
        Some(format!("the stored counts were made with {theirs}, this is {ours}"))
    }
}

/// Instructions by the name of the workload.
pub type Counts = BTreeMap<String, u64>;

/// The stored file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// With what.
    pub made_with: MadeWith,
    /// How many.
    pub instructions: Counts,
}

/// What a count is beside the stored one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Within the tolerance.
    Same {
        /// Instructions.
        count: u64,
        /// Against the stored count.
        percent: f64,
    },
    /// Fewer than the tolerance allows: good, and to be stored, so that they cannot become more again unnoticed.
    Fewer {
        /// Instructions.
        count: u64,
        /// Against the stored count.
        percent: f64,
    },
    /// More than the tolerance allows.
    More {
        /// Instructions.
        count: u64,
        /// Against the stored count.
        percent: f64,
    },
    /// Not in the stored file.
    New {
        /// Instructions.
        count: u64,
    },
    /// In the stored file, but not measured.
    Gone,
}

impl Verdict {
    /// True if somebody has to do something before this is in order.
    pub fn is_failure(self) -> bool {
        matches!(self, Verdict::More { .. } | Verdict::New { .. } | Verdict::Gone)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Same { count, percent } => write!(f, "ok ({count} instructions, {percent:+.1} %)"),
            Verdict::Fewer { count, percent } => write!(f, "ok ({count} instructions, {percent:+.1} %: store it)"),
            Verdict::More { count, percent } => write!(f, "FAILED ({count} instructions, {percent:+.1} %)"),
            Verdict::New { count } => write!(f, "FAILED ({count} instructions, none stored)"),
            Verdict::Gone => write!(f, "FAILED (stored, but not measured)"),
        }
    }
}

/// Every count that is measured or stored, by name.
pub fn compare(stored: &Counts, measured: &Counts) -> Vec<(String, Verdict)> {
    let mut verdicts: Vec<_> =
        measured.iter().map(|(name, count)| (name.clone(), judge(stored.get(name), *count))).collect();
    let gone = stored.keys().filter(|name| !measured.contains_key(*name));
    verdicts.extend(gone.map(|name| (name.clone(), Verdict::Gone)));
    verdicts
}

fn judge(stored: Option<&u64>, count: u64) -> Verdict {
    let Some(stored) = stored else { return Verdict::New { count } };
    let percent = (count as f64 - *stored as f64) * 100.0 / *stored as f64;
    if percent > TOLERANCE_PERCENT {
        Verdict::More { count, percent }
    } else if percent < -TOLERANCE_PERCENT {
        Verdict::Fewer { count, percent }
    } else {
        Verdict::Same { count, percent }
    }
}

/// The counts in what the runner printed: a JSON object a line, one for each benchmark.
pub fn parse_counts(output: &str) -> Result<Counts, String> {
    let objects = output.lines().filter(|line| line.starts_with('{'));
    objects
        .map(|line| {
            let summary: serde_json::Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
            let name = summary["id"].as_str().ok_or("a benchmark without an id")?;
            let count = &summary["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"];
            let count = count.as_u64().ok_or(format!("{name}: no instruction count"))?;
            Ok((name.to_owned(), count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, u64)]) -> Counts {
        list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn more_fails_and_fewer_is_told() {
        let stored = counts(&[("a", 1000), ("b", 1000), ("c", 1000), ("d", 1000)]);
        let measured = counts(&[("a", 1030), ("b", 1031), ("c", 970), ("d", 969)]);
        let verdicts = compare(&stored, &measured);
        let failures: Vec<_> = verdicts.iter().filter(|(_, v)| v.is_failure()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(failures, ["b"]);
        assert!(matches!(verdicts[2].1, Verdict::Same { .. }));
        assert!(matches!(verdicts[3].1, Verdict::Fewer { .. }));
    }

    #[test]
    fn what_is_only_on_one_side_fails() {
        let verdicts = compare(&counts(&[("old", 1)]), &counts(&[("new", 1)]));
        assert_eq!(verdicts, [("new".to_owned(), Verdict::New { count: 1 }), ("old".to_owned(), Verdict::Gone)]);
        assert!(verdicts.iter().all(|(_, verdict)| verdict.is_failure()));
    }

    #[test]
    fn another_compiler_makes_other_instructions_another_valgrind_does_not() {
        let text = |text: &str| text.to_owned();
        let here = MadeWith {
            rustc: text("rustc 1.95.0"),
            target: text("x86_64-unknown-linux-gnu"),
            libc: text("glibc 2.36"),
            valgrind: text("valgrind-3.19.0"),
            gungraun: text("0.20.0"),
        };
        assert_eq!(here.difference(&MadeWith { valgrind: text("valgrind-3.24.0"), ..here.clone() }), None);
        for other in [
            MadeWith { rustc: text("rustc 1.96.0"), ..here.clone() },
            MadeWith { target: text("aarch64-unknown-linux-gnu"), ..here.clone() },
            MadeWith { libc: text("glibc 2.41"), ..here.clone() },
        ] {
            assert!(here.difference(&other).is_some());
        }
    }

    #[test]
    fn counts_are_found_in_what_the_runner_prints() {
        let line = |id: &str, values: &str| {
            format!(
                r#"{{"id":"{id}","profiles":[{{"data":{{"total":{{"metrics":{{"Ir":{{"values":{values}}}}}}}}}}}]}}"#
            )
        };
        let output = [line("a", r#"{"new":7}"#), line("b", r#"{"new":8,"old":9}"#)].join("\n");
        assert_eq!(parse_counts(&output), Ok(counts(&[("a", 7), ("b", 8)])));
        assert!(parse_counts(&line("a", "{}")).is_err());
    }
}
