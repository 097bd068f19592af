//! Horizontal bars: a row a system, a panel a figure.

use super::axis::{Axis, LINEAR_UP_TO};
use super::format::{Quantity, plural};
use super::look;
use super::select::{Cell, Row};
use super::svg::{Anchor, Svg, fit, width_of};
use crate::result::Category;

/// The width of all plots.
pub(super) const WIDTH: f64 = 1120.0;
/// The size of labels.
pub(super) const FONT: f64 = 13.0;

/// The height of a row.
pub(super) const ROW: f64 = 28.0;
const BAR: f64 = 13.0;
/// The width of a median on a logarithmic axis.
const BOX: f64 = 13.0;
const GAP: f64 = 30.0;
/// Room above the rows for the title of the panel, and below them for the axis.
const HEAD: f64 = 34.0;
const FOOT: f64 = 52.0;
/// Room behind the longest bar for its value.
const VALUE: f64 = 58.0;
const LEGEND: f64 = 34.0;

/// One figure of all systems.
pub(super) struct Panel {
    /// What it shows.
    pub(super) title: String,
    /// What the figure measures.
    pub(super) quantity: Quantity,
    /// One a row, as stored.
    pub(super) cells: Vec<Option<Cell>>,
}

/// What stands at a height: a heading, or the row with this index.
pub(super) enum Slot {
    /// The name of a group.
    Heading(&'static str),
    /// A system.
    System(usize),
}

/// Rows and the headings between them; without headings if there is but one group.
pub(super) fn slots(rows: &[Row]) -> Vec<Slot> {
    let groups = rows.iter().map(Row::group);
    let several = groups.clone().any(|group| group != rows[0].group());
    let mut slots = Vec::new();
    let mut last = "";
    for (index, group) in groups.enumerate() {
        if several && group != last {
            slots.push(Slot::Heading(group));
        }
        last = group;
        slots.push(Slot::System(index));
    }
    slots
}

/// Draws panels, `columns` beside each other.
pub(super) fn draw(rows: &[Row], panels: &[Panel], columns: usize) -> Svg {
    let slots = slots(rows);
    let columns = columns.min(panels.len()).max(1);
    let labels = label_width(rows);
    let width = (WIDTH - labels - GAP * (columns - 1) as f64) / columns as f64;
    let height = HEAD + slots.len() as f64 * ROW + FOOT;
    let mut svg = Svg::new(WIDTH, LEGEND + panels.len().div_ceil(columns) as f64 * height);
    legend(&mut svg, rows, panels.iter().flat_map(|panel| panel.cells.iter().flatten()));
    for (line, panels) in panels.chunks(columns).enumerate() {
        let top = LEGEND + line as f64 * height;
        draw_labels(&mut svg, rows, &slots, labels, top + HEAD);
        for (column, panel) in panels.iter().enumerate() {
            draw_panel(&mut svg, rows, &slots, panel, (labels + column as f64 * (width + GAP), top), width);
        }
    }
    svg
}

/// The width of the column with the labels.
pub(super) fn label_width(rows: &[Row]) -> f64 {
    rows.iter().map(|row| width_of(&row.label, FONT)).fold(110.0, f64::max).min(270.0) + 14.0
}

/// The labels of the rows, right-aligned at `right`.
pub(super) fn draw_labels(svg: &mut Svg, rows: &[Row], slots: &[Slot], right: f64, top: f64) {
    for (place, slot) in slots.iter().enumerate() {
        let middle = top + (place as f64 + 0.5) * ROW;
        match slot {
            Slot::Heading(text) => {
                svg.text((0.0, middle + 7.0), Anchor::Start, "group", text);
                svg.line((0.0, middle + 12.5), (WIDTH, middle + 12.5), "rule");
            }
            Slot::System(index) => {
                let row = &rows[*index];
                let class = format!("label {}", look::class(row.system.category));
                let text = fit(&row.label, FONT, right - 14.0);
                svg.open("", &row.label);
                svg.text((right - 12.0, middle + 4.5), Anchor::End, &class, &text);
                svg.close();
            }
        }
    }
}

/// The vertical lines of an axis and its numbers.
pub(super) fn draw_axis(svg: &mut Svg, axis: Axis, (left, top): (f64, f64), (width, height): (f64, f64), name: &str) {
    let bottom = top + height;
    for (tick, text) in axis.ticks((width / 48.0) as usize) {
        let x = left + axis.at(tick) * width;
        svg.line((x, top), (x, bottom), if tick == 0.0 { "axis" } else { "grid" });
        svg.text((x, bottom + 17.0), Anchor::Middle, "tick", &text);
    }
    let scale = if axis.log { ", logarithmic" } else { "" };
    svg.text((left, bottom + 35.0), Anchor::Start, "unit", &format!("{name}{scale}"));
}

fn draw_panel(svg: &mut Svg, rows: &[Row], slots: &[Slot], panel: &Panel, (left, top): (f64, f64), width: f64) {
    let plot = width - VALUE;
    let top = top + HEAD;
    let axis = axis(rows, panel);
    svg.text((left, top - 14.0), Anchor::Start, "panel", &panel.title);
    draw_axis(svg, axis, (left, top), (plot, slots.len() as f64 * ROW), panel.quantity.unit());
    for (place, slot) in slots.iter().enumerate() {
        let Slot::System(index) = slot else { continue };
        let middle = top + (place as f64 + 0.5) * ROW;
        match &panel.cells[*index] {
            Some(cell) => {
                svg.open("", &tip(&rows[*index], panel.quantity, cell));
                draw_cell(svg, &rows[*index], panel.quantity, cell, axis, (left, middle), plot);
                svg.close();
            }
            None => svg.text((left + 6.0, middle + 4.5), Anchor::Start, "missing", "not measured"),
        }
    }
}

/// The largest value of what is no overlay, or of all others.
fn largest(rows: &[Row], panel: &Panel, limits: bool) -> f64 {
    let values = rows.iter().zip(&panel.cells).filter(|(row, _)| (row.system.category == Category::Limit) == limits);
    let values = values.filter_map(|(_, cell)| cell.as_ref());
    values.map(|cell| panel.quantity.scaled(cell.summary.max)).fold(0.0, f64::max)
}

/// What the machine can do without an overlay may be far beyond what any overlay does. Such a bar is broken, so that it
/// does not make all others tiny.
pub(super) fn breaks(rows: &[Row], panel: &Panel) -> bool {
    let overlays = largest(rows, panel, false);
    overlays > 0.0 && largest(rows, panel, true) > 2.0 * overlays && !axis(rows, panel).log
}

/// The axis of a panel: linear, unless the overlays differ too much for that.
pub(super) fn axis(rows: &[Row], panel: &Panel) -> Axis {
    let (overlays, limit) = (largest(rows, panel, false), largest(rows, panel, true));
    let scaled = |cells: &mut dyn Iterator<Item = &Cell>| -> Vec<f64> {
        let ends = cells.flat_map(|cell| [cell.summary.min, cell.summary.median, cell.summary.max]);
        ends.map(|value| panel.quantity.scaled(value)).collect()
    };
    let is_overlay = |(row, _): &(&Row, &Option<Cell>)| row.system.category != Category::Limit;
    let mut of_overlays = rows.iter().zip(&panel.cells).filter(is_overlay).filter_map(|(_, cell)| cell.as_ref());
    if Axis::covering(&scaled(&mut of_overlays), LINEAR_UP_TO).log {
        return Axis::log(scaled(&mut panel.cells.iter().flatten()));
    }
    if overlays > 0.0 && limit > 2.0 * overlays {
        Axis::linear(overlays * 1.25)
    } else {
        Axis::linear(overlays.max(limit))
    }
}

fn draw_cell(
    svg: &mut Svg,
    row: &Row,
    quantity: Quantity,
    cell: &Cell,
    axis: Axis,
    (left, middle): (f64, f64),
    width: f64,
) {
    let at = |value: f64| left + axis.at(quantity.scaled(value)) * width;
    let class = look::class(row.system.category);
    let end = at(cell.summary.median);
    let broken = !axis.log && quantity.scaled(cell.summary.median) > axis.end();
    // A logarithmic axis has no zero from which a bar could begin: a box stands where the bar would end.
    let (begin, length) = if axis.log { (end - BOX / 2.0, BOX) } else { (left, (end - left).max(1.0)) };
    if axis.log {
        svg.line((left, middle), (begin, middle), "guide");
        whisker(svg, cell, at, middle);
    }
    let (corner, size) = ((begin, middle - BAR / 2.0), (length, BAR));
    svg.rect(corner, size, &format!("bar {class}"));
    hatch(svg, row.system.category, corner, size);
    if broken {
        draw_break(svg, (end - 24.0, middle));
    } else if !axis.log {
        whisker(svg, cell, at, middle);
    }
    let after = if axis.log { begin + length } else { end };
    let after = if broken { after } else { after.max(at(cell.summary.max)) };
    let bound = if cell.at_least { "≥" } else { "" };
    let text = format!("{bound}{}", quantity.text(cell.summary.median));
    svg.text((after + 8.0, middle + 4.5), Anchor::Start, &format!("value {class}"), &text);
}

/// The range of the rounds, and each of them, unless there is but one.
pub(super) fn whisker(svg: &mut Svg, cell: &Cell, at: impl Fn(f64) -> f64, middle: f64) {
    if cell.summary.count < 2 {
        return;
    }
    let (low, high) = (at(cell.summary.min), at(cell.summary.max));
    for class in ["halo", "whisker"] {
        svg.line((low, middle), (high, middle), class);
        for x in [low, high] {
            svg.line((x, middle - 4.0), (x, middle + 4.0), class);
        }
    }
    for &value in &cell.rounds {
        svg.circle((at(value), middle + BAR / 2.0 + 3.8), 1.7, "round");
    }
}

/// Two slanted lines through a bar that goes on beyond the end of the axis.
fn draw_break(svg: &mut Svg, (x, middle): (f64, f64)) {
    let slanted = |shift: f64| [(x + shift, middle + BAR * 0.8), (x + shift + 7.0, middle - BAR * 0.8)];
    let ([a, b], [c, d]) = (slanted(0.0), slanted(5.0));
    svg.polygon(&[a, b, d, c], "gap");
    svg.line(a, b, "break");
    svg.line(c, d, "break");
}

/// Slanted lines for the kernel's overlays and dots for those in user space, drawn as shapes: patterns would need ids
/// that are unique within a page.
fn hatch(svg: &mut Svg, category: Category, (left, top): (f64, f64), (width, height): (f64, f64)) {
    match category {
        Category::Kernel => {
            let mut x = left + 2.0;
            while x + height * 0.6 < left + width {
                svg.line((x, top + height), (x + height * 0.6, top), "hatch");
                x += 6.0;
            }
        }
        Category::UserSpace => {
            let mut x = left + 4.0;
            while x + 2.0 < left + width {
                svg.circle((x, top + height / 2.0), 1.3, "dot");
                x += 6.0;
            }
        }
        Category::Limit | Category::Ipop | Category::Path => {}
    }
}

/// Which fill is which category, and what whisker and dots are.
fn legend<'a>(svg: &mut Svg, rows: &[Row], mut cells: impl Iterator<Item = &'a Cell>) {
    let middle = 12.0;
    let mut x = 1.0;
    let categories = look::categories(rows);
    if categories.len() > 1 {
        for category in categories {
            let (corner, size) = ((x, middle - BAR / 2.0), (30.0, BAR));
            svg.rect(corner, size, &format!("bar {}", look::class(category)));
            hatch(svg, category, corner, size);
            svg.text((x + 38.0, middle + 4.5), Anchor::Start, "legend", look::name(category));
            x += 60.0 + width_of(look::name(category), 12.0);
        }
    }
    if cells.any(|cell| cell.summary.count > 1) {
        let rounds = [4.0, 14.0, 17.0, 22.0, 36.0].to_vec();
        if let Some(cell) = Cell::of(rounds) {
            whisker(svg, &cell, |value| x + value, middle);
        }
        svg.text((x + 48.0, middle + 4.5), Anchor::Start, "legend", "smallest to largest round; below it each round");
    }
}

/// What is said when the pointer rests on a value.
pub(super) fn tip(row: &Row, quantity: Quantity, cell: &Cell) -> String {
    let Cell { summary, .. } = cell;
    let mut text = format!("{}: {} {}", row.label, quantity.text(summary.median), quantity.unit());
    if summary.count > 1 {
        let (min, max) = (quantity.text(summary.min), quantity.text(summary.max));
        text += &format!(" (median of {}, {min} to {max})", plural(summary.count, "round"));
    }
    text
}
