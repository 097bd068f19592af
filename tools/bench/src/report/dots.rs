//! Pairs of values on one logarithmic axis: a row a system, a hollow and a filled dot with a line between them.

use super::axis::Axis;
use super::bars::{ROW, Slot, WIDTH, draw_axis, draw_labels, label_width, slots, tip};
use super::format::Quantity;
use super::look;
use super::select::{Cell, Row};
use super::svg::{Anchor, Svg, width_of};

const HEAD: f64 = 40.0;
const FOOT: f64 = 52.0;
/// Room for the values on both sides.
const VALUE: f64 = 64.0;

/// One of the two values.
pub(super) struct Dot {
    /// What it is called.
    pub(super) name: String,
    /// One a row, as stored.
    pub(super) cells: Vec<Option<Cell>>,
}

/// Draws two values for each system: hollow the first, filled the second.
pub(super) fn draw(rows: &[Row], quantity: Quantity, pair: &[Dot; 2]) -> Svg {
    let slots = slots(rows);
    let (left, height) = (label_width(rows) + VALUE, ROW * slots.len() as f64);
    let width = WIDTH - left - VALUE;
    let mut svg = Svg::new(WIDTH, HEAD + height + FOOT);
    let all = pair.iter().flat_map(|dot| dot.cells.iter().flatten());
    let axis = Axis::log(all.flat_map(|cell| [cell.summary.min, cell.summary.max]).map(|value| quantity.scaled(value)));
    legend(&mut svg, pair, left);
    draw_axis(&mut svg, axis, (left, HEAD), (width, height), quantity.unit());
    draw_labels(&mut svg, rows, &slots, left - VALUE, HEAD);
    for (place, slot) in slots.iter().enumerate() {
        let Slot::System(index) = slot else { continue };
        let (row, middle) = (&rows[*index], HEAD + (place as f64 + 0.5) * ROW);
        let at = |value: f64| left + axis.at(quantity.scaled(value)) * width;
        let cells = pair.each_ref().map(|dot| dot.cells[*index].as_ref());
        let medians = cells.map(|cell| cell.map(|cell| cell.summary.median));
        if let [Some(first), Some(second)] = medians {
            svg.line((at(first), middle), (at(second), middle), &format!("span {}", look::class(row.system.category)));
        }
        if medians == [None, None] {
            svg.text((left + 6.0, middle + 4.5), Anchor::Start, "missing", "not measured");
        }
        for (which, cell) in cells.into_iter().enumerate() {
            let Some(cell) = cell else { continue };
            svg.open("", &format!("{}, {}", pair[which].name, tip(row, quantity, cell)));
            range(&mut svg, cell, at, middle);
            let x = at(cell.summary.median);
            mark(&mut svg, which, &format!("dot-mark {}", look::class(row.system.category)), (x, middle));
            // The value stands on the side where the other dot is not.
            let other = medians[1 - which].unwrap_or(if which == 0 { f64::INFINITY } else { 0.0 });
            let leftmost = cell.summary.median < other || (cell.summary.median == other && which == 0);
            let text = quantity.text(cell.summary.median);
            let class = format!("value {}", look::class(row.system.category));
            if leftmost {
                svg.text((x.min(at(cell.summary.min)) - 10.0, middle + 4.5), Anchor::End, &class, &text);
            } else {
                svg.text((x.max(at(cell.summary.max)) + 10.0, middle + 4.5), Anchor::Start, &class, &text);
            }
            svg.close();
        }
    }
    svg
}

/// From the smallest to the largest round.
fn range(svg: &mut Svg, cell: &Cell, at: impl Fn(f64) -> f64, middle: f64) {
    if cell.summary.count > 1 {
        let (low, high) = (at(cell.summary.min), at(cell.summary.max));
        svg.line((low, middle), (high, middle), "whisker");
        for x in [low, high] {
            svg.line((x, middle - 4.0), (x, middle + 4.0), "whisker");
        }
    }
}

fn mark(svg: &mut Svg, which: usize, class: &str, at: (f64, f64)) {
    svg.circle(at, 4.6, &format!("{class} {}", if which == 0 { "hollow" } else { "filled" }));
}

fn legend(svg: &mut Svg, pair: &[Dot; 2], left: f64) {
    let mut x = left;
    for (which, dot) in pair.iter().enumerate() {
        mark(svg, which, "dot-mark path", (x + 6.0, 12.0));
        svg.text((x + 18.0, 16.5), Anchor::Start, "legend", &dot.name);
        x += 44.0 + width_of(&dot.name, 12.0);
    }
}
