//! The page: one file with everything in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::charts::Plot;
use super::columns::keys;
use super::format::{escape, plural};
use super::notes::notes;
use super::select::Row;
use super::svg::STYLE;
use super::tables;
use crate::result::ResultFile;

const PAGE_STYLE: &str = include_str!("page.css");

/// The whole page. Every element is closed, so that it is XML as well: tests read it with a simple parser.
pub(super) fn page(files: &[(String, ResultFile)], rows: &[Row], plots: &[Plot]) -> String {
    let title = title(files, rows);
    let keys = keys(rows);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n",
        title = escape(&title)
    );
    head(&mut page, files, rows);
    page.push_str("</header>\n");
    how_to_read(&mut page, files);

    section(&mut page, "summary", "Summary");
    tables::summary(&mut page, rows, &keys);

    section(&mut page, "plots", "Plots");
    if plots.is_empty() {
        page.push_str("<p>No figure was measured.</p>\n");
    } else if rows.len() > 1 {
        page.push_str(
            "<p class=\"note\">In plots with lines, ipop is thick, overlays of the kernel are dashed, the others in user space \
             dotted, and what is no overlay is thin. A hollow marker encrypts.</p>\n",
        );
    }
    for plot in plots {
        let _ = write!(
            page,
            "<figure id=\"{stem}\">\n<h3>{}</h3>\n<figcaption>{}</figcaption>\n{}{}</div>\n</figure>\n",
            escape(&plot.title),
            escape(&plot.caption),
            tables::scroll(&plot.title),
            plot.inline(),
            stem = plot.stem,
        );
        if plot.stem == super::charts::UNDER_LOAD {
            tables::under_load(&mut page, rows);
        }
    }

    section(&mut page, "integrity", "What became of the packets");
    tables::integrity(&mut page, rows);

    section(&mut page, "missing", "What is missing");
    tables::missing(&mut page, &notes(rows));

    section(&mut page, "details", "Everything else");
    details(&mut page, "All figures", |page| tables::all_figures(page, rows));
    for (name, file) in files {
        let about = if files.len() > 1 { format!(" of {name}") } else { String::new() };
        details(&mut page, &format!("Machine, versions and settings{about}"), |page| fingerprint(page, file));
        details(&mut page, &format!("Scenario{about}"), |page| {
            let json = serde_json::to_string_pretty(&file.scenario).unwrap_or_default();
            let _ = writeln!(page, "<pre>{}</pre>", escape(&json));
        });
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn title(files: &[(String, ResultFile)], rows: &[Row]) -> String {
    match (rows, files) {
        ([row], _) => format!("Measurement of {}", row.label),
        ([], _) => "No measurement".to_owned(),
        (_, [_]) => format!("{} systems compared", rows.len()),
        _ => format!("{} systems compared, from {} files", rows.len(), files.len()),
    }
}

fn section(page: &mut String, id: &str, title: &str) {
    let _ = writeln!(page, "<h2 id=\"{id}\">{}</h2>", escape(title));
}

fn details(page: &mut String, summary: &str, body: impl FnOnce(&mut String)) {
    let _ = writeln!(page, "<details>\n<summary>{}</summary>", escape(summary));
    body(page);
    page.push_str("</details>\n");
}

/// When, on what, and where to find what.
fn head(page: &mut String, files: &[(String, ResultFile)], rows: &[Row]) {
    for (index, (name, file)) in files.iter().enumerate() {
        let rounds = rows.iter().filter(|row| row.file == index).map(|row| row.rounds.len()).max().unwrap_or(0);
        let _ = writeln!(
            page,
            "<p class=\"lead\">{}{}, {}, {}, scenario “{}”, took {}</p>",
            if files.len() > 1 { format!("<b>{}</b>: ", escape(name)) } else { String::new() },
            escape(&file.started),
            escape(&format!("ipop-bench {}", file.kind)),
            plural(rounds, "round"),
            escape(&file.scenario.name),
            minutes(file.seconds),
        );
        list(page, &summary_of(file));
    }
    page.push_str("<nav aria-label=\"Contents\"><ul>");
    for (id, text) in [
        ("summary", "Summary"),
        ("plots", "Plots"),
        ("integrity", "Packets"),
        ("missing", "Missing"),
        ("details", "All figures and settings"),
    ] {
        let _ = write!(page, "<li><a href=\"#{id}\">{text}</a></li>");
    }
    page.push_str("</ul></nav>\n");
}

/// The few facts about a machine that explain the most.
fn summary_of(file: &ResultFile) -> BTreeMap<String, String> {
    let fingerprint = &file.fingerprint;
    let join = |map: &BTreeMap<String, String>, keys: &[(&str, &str)]| {
        let texts = keys.iter().filter_map(|(key, unit)| map.get(*key).map(|value| format!("{value}{unit}")));
        texts.collect::<Vec<_>>().join(", ")
    };
    let virtual_machine = match fingerprint.machine.get("virtual").map(String::as_str) {
        Some("true") => ", virtual machine",
        _ => "",
    };
    let machine =
        join(&fingerprint.machine, &[("processor", ""), ("cores", " cores"), ("memory", "")]) + virtual_machine;
    let kernel = join(&fingerprint.kernel, &[("release", ""), ("distribution", "")]);
    let versions = fingerprint.versions.iter().map(|(what, version)| format!("{what} {version}"));
    let facts = [("Machine", machine), ("Kernel", kernel), ("Versions", versions.collect::<Vec<_>>().join(", "))];
    facts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key.to_owned(), text)).collect()
}

fn list(page: &mut String, facts: &BTreeMap<String, String>) {
    if facts.is_empty() {
        return;
    }
    page.push_str("<dl class=\"facts\">\n");
    for (key, value) in facts {
        let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(key), escape(value));
    }
    page.push_str("</dl>\n");
}

fn fingerprint(page: &mut String, file: &ResultFile) {
    let fingerprint = &file.fingerprint;
    for (title, facts) in [
        ("Machine", &fingerprint.machine),
        ("Kernel", &fingerprint.kernel),
        ("Versions", &fingerprint.versions),
        ("Settings", &fingerprint.settings),
    ] {
        let _ = writeln!(page, "<h3>{title}</h3>");
        list(page, facts);
        if facts.is_empty() {
            page.push_str("<p class=\"note\">Nothing is known.</p>\n");
        }
    }
}

fn how_to_read(page: &mut String, files: &[(String, ResultFile)]) {
    let mut tolerances: Vec<f64> =
        files.iter().filter_map(|(_, file)| Some(file.scenario.lossless.as_ref()?.tolerance)).collect();
    tolerances.sort_by(f64::total_cmp);
    tolerances.dedup();
    let tolerances: Vec<String> = tolerances.iter().map(|share| format!("{} %", round(share * 100.0))).collect();
    let tolerance = match tolerances.len() {
        0 => String::new(),
        _ => format!(", here {}", tolerances.join(" and ")),
    };
    let _ = writeln!(
        page,
        "<section class=\"read\">\n<h2>How to read this</h2>\n<p>Each value is the <b>median of the rounds</b>; ± is half \
         the distance from the smallest round to the largest, and <b>whiskers</b> reach from the one to the other. Only \
         differences that are clearly larger than that mean something. <b>Frame sizes</b> count the Ethernet header and \
         not the check sequence (FCS). <b>Blast</b> is what arrives per second while the generator sends as much as it \
         can. <b>Lossless</b> is the highest rate at which no more than a tolerated share of the packets is lost{tolerance}: a \
         binary search after RFC 2544, section 26.1; ≥ marks a value where the generator was the limit. <b>Latency under \
         load</b> is open-loop: requests leave by the clock, and a time counts from the moment the request was due, so a \
         system that stalls cannot hide it. <b>Processor time</b> is the busy time of the whole machine, with both ends, \
         the kernel and the generator in it. Systems that encrypt do more, and are compared with each other.</p>\n</section>"
    );
}

/// Without the digits that a multiplication leaves behind.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn minutes(seconds: f64) -> String {
    if seconds < 120.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}
