//! The results of a file as a table for the terminal.

use std::fmt::Write as _;

use crate::report::columns::{Key, best, keys, versus_user_space, versus_vxlan};
use crate::report::format::{self, Quantity, count, share, significant};
use crate::report::grid::{Column, lay_out};
use crate::report::notes::{notes, packets};
use crate::report::select::{Cell, Part, Row, rows};
use crate::result::{Detail, ResultFile};

/// How wide a table may be.
const WIDTH: usize = 120;
/// How wide the label of a system may be.
const LABEL: usize = 28;

/// For one system all of its figures, below each other; for several a row for each, with the figures that matter most.
/// What was skipped and what failed is listed below.
pub fn summary(file: &ResultFile) -> String {
    let rows = rows([("", file)]);
    let mut text = match &rows[..] {
        [] => "Nothing was measured.\n".to_owned(),
        [row] => one(row),
        _ => several(&rows),
    };
    let notes = notes(&rows);
    if !notes.is_empty() {
        text.push_str("\nMissing:\n");
    }
    for note in notes {
        let what = note.what.as_ref().map_or("ended early".to_owned(), |what| format!("{what} skipped"));
        let _ = writeln!(text, "  {}, {}: {what}: {}", note.label, note.rounds(), note.reason);
    }
    text
}

/// Median and half the range: `7.12 ±3%`.
fn value(quantity: Quantity, cell: Option<Cell>) -> String {
    let Some(Cell { summary, at_least, .. }) = cell else { return "-".to_owned() };
    let bound = if at_least { "≥" } else { "" };
    let median = quantity.text(summary.median);
    // Padded, so that the medians stand below each other.
    let spread = if summary.count > 1 { format!(" {:>5}", format::spread(summary.spread())) } else { String::new() };
    format!("{bound}{median}{spread}")
}

fn several(rows: &[Row]) -> String {
    let keys = keys(rows);
    let labels = rows.iter().map(|row| match row.label.chars().count() > LABEL {
        true => row.label.chars().take(LABEL - 1).chain(['…']).collect(),
        false => row.label.clone(),
    });
    let first = Column::words(&["system"], labels.collect());
    let heading = |key: &Key| [key.heading[0].clone(), key.heading[1].clone(), key.quantity.unit().to_owned()];
    let values = keys.iter().map(|key| {
        let best = best(rows, key);
        let cells = rows.iter().enumerate().map(|(index, row)| {
            let mark = if best == Some(index) { "*" } else { "" };
            format!("{mark}{}", value(key.quantity, row.cell(key)))
        });
        Column::numbers(&heading(key).each_ref().map(String::as_str), cells.collect())
    });
    let mut text = lay_out(&first, &values.collect::<Vec<_>>(), WIDTH);
    text.push_str("\n* best overlay");
    if rows.iter().any(|row| row.rounds.len() > 1) {
        text.push_str("; median of the rounds ± half their range");
    }
    text.push_str("; ≥ the generator was the limit\n");
    for (title, of) in [
        ("Times the kernel's VXLAN:", versus_vxlan as fn(&[Row], &Row, &Key) -> Option<f64>),
        (
            "Times the best overlay in user space, other than ipop, that encrypts or does not as the system does:",
            versus_user_space,
        ),
    ] {
        let ratios: Vec<Vec<Option<f64>>> =
            keys.iter().map(|key| rows.iter().map(|row| of(rows, row, key)).collect()).collect();
        if ratios.iter().flatten().all(Option::is_none) {
            continue;
        }
        let columns = keys.iter().zip(ratios).map(|(key, ratios)| {
            let cells = ratios.into_iter().map(|ratio| ratio.map_or("-".to_owned(), format::ratio));
            Column::numbers(&[&key.heading[0], &key.heading[1]], cells.collect())
        });
        let _ = write!(text, "\n{title}\n{}", lay_out(&first, &columns.collect::<Vec<_>>(), WIDTH));
    }
    text
}

/// What is known of a kind of figure: a heading, and the text for a figure.
type Known<'a> = (&'a str, &'a dyn Fn(&str) -> String);

fn one(row: &Row) -> String {
    let version = row.system.version.as_ref().map_or(String::new(), |version| format!(" {version}"));
    let mut text = format!("{}{version}\n", row.label);
    let cost = |part: Part, quantity: Quantity| move |id: &str| value(quantity, row.values(id, part));
    let time = |of: fn(&crate::result::histogram::Latency) -> u64| {
        move |id: &str| row.percentile(id, of).map_or("-".to_owned(), |time| Quantity::Time.text(time))
    };
    let sum = |id: &str| packets(row, |other| other == id).unwrap_or_default();
    let plain = |quantity: Quantity| move |id: &str| value(quantity, row.values(id, Part::Value));
    let (throughput, rate, median) = (plain(Quantity::Throughput), plain(Quantity::PacketRate), plain(Quantity::Time));
    let section = |title: &str, is: fn(&Detail) -> bool, known: &[Known]| {
        let ids: Vec<&str> =
            row.ids().into_iter().filter(|id| row.figures(id).any(|figure| is(&figure.detail))).collect();
        if ids.is_empty() {
            return String::new();
        }
        let first = Column::words(&[title], ids.iter().map(|&id| id.to_owned()).collect());
        let columns =
            known.iter().map(|(heading, text)| Column::numbers(&[heading], ids.iter().map(|id| text(id)).collect()));
        format!("\n{}", lay_out(&first, &columns.collect::<Vec<_>>(), WIDTH))
    };
    text += &section(
        "throughput",
        |detail| matches!(detail, Detail::Stream(_)),
        &[
            (Quantity::Throughput.unit(), &throughput),
            ("sent again", &|id| row.retransmits(id).map_or("-".to_owned(), |number| count(number as u64))),
            (Quantity::CostPerGigabit.unit(), &cost(Part::PerGigabit, Quantity::CostPerGigabit)),
        ],
    );
    text += &section(
        "packets",
        |detail| matches!(detail, Detail::Packets(_) | Detail::Lossless(_)),
        &[
            (Quantity::PacketRate.unit(), &rate),
            ("lost", &|id| share(sum(id).lost, sum(id).sent)),
            ("reordered", &|id| share(sum(id).reordered, sum(id).received)),
            ("duplicates", &|id| count(sum(id).duplicates)),
            ("damaged", &|id| count(sum(id).damaged)),
            (Quantity::CostPerMillion.unit(), &cost(Part::PerMillion, Quantity::CostPerMillion)),
        ],
    );
    text += &section(
        "round trips, µs",
        |detail| matches!(detail, Detail::Latency(_)),
        &[
            ("p50", &median),
            ("p90", &time(|times| times.p90)),
            ("p99", &time(|times| times.p99)),
            ("p99.9", &time(|times| times.p999)),
            ("max", &time(|times| times.max)),
            ("unanswered", &|id| {
                let (part, all) = row.unanswered(id);
                share(part, all)
            }),
        ],
    );
    let resident = row.cell(&Key::resident());
    if let Some(cell) = resident {
        let _ = writeln!(
            text,
            "\nresident memory of all watched processes: {} {}",
            significant(Quantity::Memory.scaled(cell.summary.median)),
            Quantity::Memory.unit()
        );
    }
    if row.rounds.len() > 1 {
        text.push_str("\nMedian of the rounds ± half their range; packets are totals.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use crate::result::Category;

    #[test]
    fn tables_fit_a_terminal() {
        for file in [sample::compare(5), sample::compare(1), sample::lab()] {
            let text = summary(&file);
            let table = text.split("Missing:").next().expect("a table");
            let widest = table.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(widest <= WIDTH, "{widest} columns:\n{text}");
        }
    }

    #[test]
    fn all_systems_and_their_troubles_are_there() {
        let text = summary(&sample::compare(5));
        for system in sample::compare(1).systems() {
            assert!(text.contains(&system.label), "{} is missing", system.label);
        }
        assert!(text.contains("OpenVPN, TLS, AES-256-GCM, round 2: ended early: openvpn ended"), "{text}");
        assert!(text.contains("n2n, AES-256, rounds 1, 2, 3, 4, 5: raw skipped: n2n drops"), "{text}");
        assert!(text.contains("Times the kernel's VXLAN:"), "{text}");
    }

    #[test]
    fn one_system_shows_every_figure() {
        let file = sample::lab();
        let text = summary(&file);
        for figure in &file.measurements[0].figures {
            assert!(text.contains(&figure.id), "{} is missing", figure.id);
        }
        assert!(!text.contains('±') && !text.contains("Times the"), "one round has no spread:\n{text}");
    }

    #[test]
    fn missing_figures_are_dashes() {
        let mut full = sample::empty("vxlan", "VXLAN", Category::Kernel, 1);
        full.figures.push(sample::stream("tcp/1/forward".to_owned(), 5e9));
        let mut none = sample::empty("tinc-clear", "tinc", Category::UserSpace, 1);
        none.error = Some("tincd is gone".to_owned());
        let text = summary(&sample::file("compare", vec![full, none]));
        let cells = |system: &str| -> Vec<&str> {
            text.lines().find(|line| line.starts_with(system)).expect("a row").split_whitespace().collect()
        };
        assert_eq!(cells("VXLAN")[..2], ["VXLAN", "5.00"]);
        assert_eq!(cells("tinc")[..3], ["tinc", "-", "-"]);
        assert!(text.contains("tinc, round 1: ended early: tincd is gone"), "{text}");
        assert_eq!(summary(&sample::file("run", Vec::new())), "Nothing was measured.\n");
    }
}
