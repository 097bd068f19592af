//! The tables of the page.

use std::fmt::Write as _;

use super::columns::{Key, Present, best, versus_user_space, versus_vxlan};
use super::format::{self, Quantity, count, escape, plural, share, significant};
use super::look;
use super::notes::{Note, packets};
use super::select::{Cell, Part, Row};
use crate::result::{Detail, Packets, ids};

/// Opens a container that scrolls by itself, also with the keyboard.
pub(super) fn scroll(name: &str) -> String {
    format!("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\">\n", escape(name))
}

/// Opens a table with these headings: the class of the cell, a text, and a smaller one below it.
fn open(page: &mut String, class: &str, name: &str, headings: &[(&str, &str, &str)]) {
    let _ = write!(page, "{}<table class=\"{class}\">\n<thead><tr>", scroll(name));
    for (class, text, small) in headings {
        let small = if small.is_empty() { String::new() } else { format!("<small>{}</small>", escape(small)) };
        let _ = write!(page, "<th scope=\"col\" class=\"{class}\">{}{small}</th>", escape(text));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
}

/// Opens a table with the same columns for each of several groups.
fn open_grouped(page: &mut String, name: &str, groups: &[String], columns: &[&str]) {
    let _ = write!(
        page,
        "{}<table class=\"grouped\">\n<thead><tr><th scope=\"col\" rowspan=\"2\" class=\"text\">System</th>",
        scroll(name)
    );
    for group in groups {
        let span = columns.len();
        let _ = write!(page, "<th scope=\"colgroup\" colspan=\"{span}\" class=\"first\">{}</th>", escape(group));
    }
    page.push_str("</tr>\n<tr>");
    for _ in groups {
        for (index, column) in columns.iter().enumerate() {
            let class = if index == 0 { "first" } else { "" };
            let _ = write!(page, "<th scope=\"col\" class=\"{class}\"><small>{}</small></th>", escape(column));
        }
    }
    page.push_str("</tr></thead>\n<tbody>\n");
}

fn close(page: &mut String) {
    page.push_str("</tbody>\n</table>\n</div>\n");
}

/// A row, with the heading of a group before it where one begins.
fn begin(page: &mut String, rows: &[Row], index: usize, columns: usize, small: &str) {
    let row = &rows[index];
    let new = index == 0 || rows[index - 1].group() != row.group();
    if new && rows.iter().any(|other| other.group() != rows[0].group()) {
        let _ = writeln!(
            page,
            "<tr class=\"group\"><th scope=\"rowgroup\" colspan=\"{columns}\">{}</th></tr>",
            row.group()
        );
    }
    let small = if small.is_empty() { String::new() } else { format!("<small>{}</small>", escape(small)) };
    let class = look::class(row.system.category);
    let _ = write!(page, "<tr class=\"{class}\"><th scope=\"row\">{}{small}</th>", escape(&row.label));
}

/// A cell where a group of columns begins.
fn first_cell(page: &mut String, text: &str) {
    let _ = write!(page, "<td class=\"first\">{}</td>", escape(text));
}

fn cell(page: &mut String, text: &str) {
    let _ = write!(page, "<td>{}</td>", escape(text));
}

/// The figures that matter most, in two tables: rates, and times with costs. One would be too wide for a screen.
pub(super) fn summary(page: &mut String, rows: &[Row], keys: &[Key]) {
    if rows.len() > 1 {
        page.push_str(
            "<p class=\"note\">★ and an underline mark the best overlay of a column. The small line below a value has two \
             ratios: how many times the value of the <b>kernel's VXLAN</b>, and how many times that of the <b>best overlay in \
             user space</b>, other than ipop, that encrypts, or does not, as this system. Both are taken within a file.</p>\n",
        );
    }
    page.push_str("<p class=\"note\">Memory is that of all watched processes together, on both ends.</p>\n");
    let (rates, others): (Vec<&Key>, Vec<&Key>) = keys.iter().partition(|key| key.quantity.more_is_better());
    for (name, keys, better) in [
        ("Throughput and packet rates", rates, "more is better"),
        ("Times, processor time and memory", others, "less is better"),
    ] {
        if keys.is_empty() {
            continue;
        }
        let _ = writeln!(page, "<h3>{name} <small class=\"note\">– {better}</small></h3>");
        let mut headings = vec![("text".to_owned(), "System".to_owned(), String::new())];
        let ratios = rows.iter().any(|row| keys.iter().any(|key| ratios(rows, row, key).is_some()));
        headings.extend(keys.iter().map(|key| {
            let small = if ratios { "\n× VXLAN · × user" } else { "" };
            (String::new(), key.title(), format!("{}{small}", key.quantity.unit()))
        }));
        let headings: Vec<_> = headings.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
        open(page, "summary", name, &headings);
        let best: Vec<Option<usize>> = keys.iter().map(|key| best(rows, key)).collect();
        for (index, row) in rows.iter().enumerate() {
            let encrypted = if row.system.encrypted { "encrypted" } else { "not encrypted" };
            let version = row.system.version.as_deref().map_or(String::new(), |version| format!("{version}, "));
            begin(page, rows, index, headings.len(), &format!("{version}{encrypted}"));
            for (key, best) in keys.iter().zip(&best) {
                summary_cell(page, rows, row, key, *best == Some(index));
            }
            page.push_str("</tr>\n");
        }
        close(page);
    }
}

fn summary_cell(page: &mut String, rows: &[Row], row: &Row, key: &Key, best: bool) {
    let Some(Cell { summary, at_least, .. }) = row.cell(key) else {
        page.push_str("<td>–</td>");
        return;
    };
    let bound = if at_least { "≥" } else { "" };
    let value = format!("{bound}{}", key.quantity.text(summary.median));
    let value = match best {
        true => format!("<b class=\"best\">★&#160;{value}<span class=\"hidden\"> (best)</span></b>"),
        false => value,
    };
    let spread = match summary.count {
        1 => String::new(),
        _ => format!("<small class=\"spread\">{}</small>", format::spread(summary.spread())),
    };
    let ratios = ratios(rows, row, key).map_or(String::new(), |text| format!("<small>{text}</small>"));
    let _ = write!(page, "<td>{value}{spread}{ratios}</td>");
}

/// How a value compares with the kernel's VXLAN, and with the best other overlay in user space.
fn ratios(rows: &[Row], row: &Row, key: &Key) -> Option<String> {
    let ratios = [versus_vxlan(rows, row, key), versus_user_space(rows, row, key)];
    let text = |ratio: Option<f64>| ratio.map_or("–".to_owned(), format::ratio);
    ratios.iter().any(Option::is_some).then(|| ratios.map(text).join(" · "))
}

/// What the round trips under load mean: at which rates they were taken.
pub(super) fn under_load(page: &mut String, rows: &[Row]) {
    let loads = Present::in_rows(rows).loads;
    let groups: Vec<String> = loads.iter().map(|load| format!("{load} % of lossless")).collect();
    let columns = ["offered, kpps", "p50, µs", "p99, µs", "unanswered"];
    open_grouped(page, "Round-trip times under load", &groups, &columns);
    for (index, row) in rows.iter().enumerate() {
        begin(page, rows, index, 1 + groups.len() * columns.len(), "");
        for &load in &loads {
            let id = ids::open_loop(load);
            let text =
                |value: Option<f64>, quantity: Quantity| value.map_or("–".to_owned(), |value| quantity.text(value));
            let offered = row.detail(&id, |detail| match detail {
                Detail::Latency(detail) => detail.offered,
                _ => None,
            });
            first_cell(page, &text(offered, Quantity::PacketRate));
            cell(page, &text(row.percentile(&id, |times| times.p50), Quantity::Time));
            cell(page, &text(row.percentile(&id, |times| times.p99), Quantity::Time));
            let (unanswered, all) = row.unanswered(&id);
            cell(page, &share(unanswered, all));
        }
        page.push_str("</tr>\n");
    }
    close(page);
}

/// Loss, duplicates and reordering, over all rounds.
pub(super) fn integrity(page: &mut String, rows: &[Row]) {
    page.push_str(
        "<p>Totals over all rounds. At full blast loss is expected, because more is sent than can be carried; at a steady low \
         rate nothing needs to be lost, reordered or duplicated, and nothing may ever be damaged. Reordered packets are \
         counted after RFC 4737, duplicates after RFC 5560. “At the socket” is the part of the loss that happened at the \
         receiver, behind the overlay.</p>\n",
    );
    let groups = [("Steady rate", "steady"), ("Best lossless trial", "lossless"), ("Full blast", "blast")];
    let is = |end: &str, id: &str| id.rsplit('/').next() == Some(end);
    let has = |end: &str| rows.iter().any(|row| packets(row, |id| is(end, id)).is_some());
    let shown: Vec<_> = groups.into_iter().filter(|(_, end)| has(end)).collect();
    if shown.is_empty() {
        page.push_str("<p class=\"note\">No packets were counted.</p>\n");
        return;
    }
    let groups: Vec<String> = shown.iter().map(|(name, _)| (*name).to_owned()).collect();
    let columns = ["lost", "reordered", "duplicates", "damaged"];
    open_grouped(page, "Packets lost, reordered, duplicated and damaged", &groups, &columns);
    for (index, row) in rows.iter().enumerate() {
        begin(page, rows, index, 1 + groups.len() * columns.len(), "");
        for (_, end) in &shown {
            let Some(sum) = packets(row, |id| is(end, id)) else {
                first_cell(page, "–");
                (1..columns.len()).for_each(|_| cell(page, "–"));
                continue;
            };
            first_cell(page, &share(sum.lost, sum.sent));
            cell(page, &share(sum.reordered, sum.received));
            cell(page, &count(sum.duplicates));
            cell(page, &count(sum.damaged));
        }
        page.push_str("</tr>\n");
    }
    close(page);
    page.push_str("<details>\n<summary>Packets of each figure</summary>\n");
    let headings = ["sent", "received", "lost", "", "at the socket", "reordered", "duplicates", "damaged"];
    let headings = headings.map(|text| ("", text, ""));
    let headings = [&[("text", "System", ""), ("text", "Figure", "")], &headings[..]].concat();
    open(page, "", "Packets of each figure", &headings);
    for (index, row) in rows.iter().enumerate() {
        for id in row.ids() {
            let Some(sum) = packets(row, |other| other == id) else { continue };
            figure_row(page, &rows[index], id, &sum);
        }
    }
    close(page);
    page.push_str("</details>\n");
}

fn figure_row(page: &mut String, row: &Row, id: &str, sum: &Packets) {
    let _ = write!(page, "<tr><th scope=\"row\">{}</th><td class=\"text\">{}</td>", escape(&row.label), escape(id));
    cell(page, &count(sum.sent));
    cell(page, &count(sum.received));
    cell(page, &count(sum.lost));
    cell(page, &share(sum.lost, sum.sent));
    for number in [sum.socket_dropped, sum.reordered, sum.duplicates, sum.damaged] {
        cell(page, &count(number));
    }
    page.push_str("</tr>\n");
}

/// What was skipped and what failed, with the reasons.
pub(super) fn missing(page: &mut String, notes: &[Note]) {
    if notes.is_empty() {
        page.push_str("<p>Nothing: every measurement came to its end, and nothing was skipped.</p>\n");
        return;
    }
    let headings = [("text", "System", ""), ("text", "What", ""), ("text", "Rounds", ""), ("text", "Why", "")];
    open(page, "", "What was skipped and what failed", &headings);
    for note in notes {
        let (class, what) = match &note.what {
            Some(what) => ("", format!("{what} skipped")),
            None => ("failed", "ended early".to_owned()),
        };
        let _ = write!(page, "<tr class=\"{class}\"><th scope=\"row\">{}</th>", escape(&note.label));
        for text in [&what, &note.rounds(), &note.reason] {
            let _ = write!(page, "<td class=\"text\">{}</td>", escape(text));
        }
        page.push_str("</tr>\n");
    }
    close(page);
}

/// Every figure of every system.
pub(super) fn all_figures(page: &mut String, rows: &[Row]) {
    let headings = [
        ("text", "System", ""),
        ("text", "Figure", ""),
        ("", "median", ""),
        ("text", "unit", ""),
        ("", "smallest", ""),
        ("", "largest", ""),
        ("", "spread", ""),
        ("", "rounds", ""),
        ("text", "beside it", "medians"),
    ];
    open(page, "", "All figures", &headings);
    for row in rows {
        for id in row.ids() {
            let (Some(cell), Some(figure)) = (row.values(id, Part::Value), row.figures(id).next()) else { continue };
            let quantity = Part::Value.quantity(figure.unit);
            let _ =
                write!(page, "<tr><th scope=\"row\">{}</th><td class=\"text\">{}</td>", escape(&row.label), escape(id));
            let bound = if cell.at_least { "≥" } else { "" };
            let _ = write!(page, "<td><b>{bound}{}</b></td>", quantity.text(cell.summary.median));
            let _ = write!(page, "<td class=\"text\">{}</td>", quantity.unit());
            for value in [cell.summary.min, cell.summary.max] {
                let _ = write!(page, "<td>{}</td>", quantity.text(value));
            }
            let spread = if cell.summary.count > 1 { format::spread(cell.summary.spread()) } else { "–".to_owned() };
            let _ = write!(page, "<td>{spread}</td><td>{}</td>", cell.summary.count);
            let _ = writeln!(page, "<td class=\"text\">{}</td></tr>", escape(&beside(row, id)));
        }
    }
    close(page);
}

/// What else is known about a figure, in words.
fn beside(row: &Row, id: &str) -> String {
    let mut texts = Vec::new();
    for (name, value) in [
        ("p90", row.percentile(id, |times| times.p90)),
        ("p99", row.percentile(id, |times| times.p99)),
        ("p99.9", row.percentile(id, |times| times.p999)),
        ("max", row.percentile(id, |times| times.max)),
        (
            "of it the generator",
            row.detail(id, |detail| match detail {
                Detail::Latency(detail) => detail.late.map(|late| late as f64),
                _ => None,
            }),
        ),
    ] {
        texts.extend(value.map(|value| format!("{name} {} µs", Quantity::Time.text(value))));
    }
    texts.extend(row.retransmits(id).map(|number| plural(number as usize, "retransmission")));
    if let Some(sum) = packets(row, |other| other == id) {
        texts.push(format!("lost {}", share(sum.lost, sum.sent)));
        for (number, what) in [(sum.reordered, "reordered"), (sum.duplicates, "duplicated"), (sum.damaged, "damaged")] {
            if number > 0 {
                texts.push(format!("{} {what}", count(number)));
            }
        }
    }
    for part in [Part::PerGigabit, Part::PerMillion] {
        let cost = row.values(id, part).map(|cell| significant(cell.summary.median));
        let unit = if part == Part::PerGigabit { Quantity::CostPerGigabit } else { Quantity::CostPerMillion }.unit();
        texts.extend(cost.map(|cost| format!("{cost} {unit}")));
    }
    texts.join(", ")
}
