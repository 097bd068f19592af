//! Lines: one a system, with its name at its end.

use super::axis::Axis;
use super::bars::WIDTH;
use super::format::significant;
use super::look::Look;
use super::svg::{Anchor, Svg, fit, width_of};

const GAP: f64 = 28.0;
const HEAD: f64 = 52.0;
const FOOT: f64 = 56.0;
/// Room for the numbers of the vertical axis.
const NUMBERS: f64 = 46.0;
/// From the end of the lines to their labels.
const LEADER: f64 = 48.0;
/// The least distance between two labels.
const LABEL: f64 = 14.5;
/// The size of the labels, and a little more for bold ones.
const LABEL_FONT: f64 = 12.0 * 1.07;

/// A point of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// From 0 to 1.
    pub(super) x: f64,
    /// In the unit of the axis.
    pub(super) y: f64,
    /// With a marker?
    pub(super) mark: bool,
    /// The way to this point is no measurement, only a guide for the eye.
    pub(super) weak: bool,
}

/// A line.
pub(super) struct Series {
    /// Which system.
    pub(super) row: usize,
    /// From left to right; at least one.
    pub(super) points: Vec<Point>,
}

/// A field with lines.
pub(super) struct Panel {
    /// What it shows.
    pub(super) title: String,
    /// What the horizontal axis is.
    pub(super) x_name: String,
    /// Its ticks, from 0 to 1.
    pub(super) x_ticks: Vec<(f64, String)>,
    /// The lines.
    pub(super) series: Vec<Series>,
}

/// What all panels of a drawing share.
pub(super) struct Setting<'a> {
    /// What the vertical axis is, with its unit.
    pub(super) y_name: &'a str,
    /// The height of a panel for each of its lines.
    pub(super) line_height: f64,
    /// The vertical axis of all panels, so that they can be compared.
    pub(super) axis: Axis,
    /// One a row.
    pub(super) labels: Vec<&'a str>,
    /// One a row.
    pub(super) looks: Vec<Look>,
}

/// Draws panels, two beside each other.
pub(super) fn draw(setting: &Setting, panels: &[Panel]) -> Svg {
    let columns = panels.len().clamp(1, 2);
    let width = (WIDTH - GAP * (columns - 1) as f64) / columns as f64;
    let lines = panels.iter().map(|panel| panel.series.len()).max().unwrap_or(0);
    let plot = (lines as f64 * setting.line_height).max(250.0);
    let height = HEAD + plot + FOOT;
    let mut svg = Svg::new(WIDTH, panels.len().div_ceil(columns) as f64 * height);
    for (index, panel) in panels.iter().enumerate() {
        let corner = ((index % columns) as f64 * (width + GAP), (index / columns) as f64 * height);
        draw_panel(&mut svg, setting, panel, corner, (width, plot));
    }
    svg
}

fn draw_panel(svg: &mut Svg, setting: &Setting, panel: &Panel, (left, top): (f64, f64), (width, height): (f64, f64)) {
    let widest = panel.series.iter().map(|series| width_of(setting.labels[series.row], LABEL_FONT));
    let room = widest.fold(40.0, f64::max).min(width * 0.38);
    let (x0, y0) = (left + NUMBERS, top + HEAD);
    let plot = width - NUMBERS - LEADER - room;
    let (at_x, at_y) = (|x: f64| x0 + x * plot, |y: f64| y0 + (1.0 - setting.axis.at(y)) * height);

    svg.text((left, top + 12.0), Anchor::Start, "panel", &panel.title);
    let scale = if setting.axis.log { ", logarithmic" } else { "" };
    svg.text((left, top + 34.0), Anchor::Start, "unit", &format!("{}{scale}", setting.y_name));
    for (tick, text) in setting.axis.ticks((height / 28.0) as usize) {
        svg.line((x0, at_y(tick)), (x0 + plot, at_y(tick)), if tick == 0.0 { "axis" } else { "grid" });
        svg.text((x0 - 8.0, at_y(tick) + 4.0), Anchor::End, "tick", &text);
    }
    for (tick, text) in &panel.x_ticks {
        svg.line((at_x(*tick), y0), (at_x(*tick), y0 + height), "grid");
        svg.text((at_x(*tick), y0 + height + 18.0), Anchor::Middle, "tick", text);
    }
    svg.text((x0, y0 + height + 37.0), Anchor::Start, "unit", &panel.x_name);

    for series in &panel.series {
        let look = setting.looks[series.row];
        let place = |point: &Point| (at_x(point.x), at_y(point.y));
        svg.open("", setting.labels[series.row]);
        for part in series.points.chunk_by(|_, next| !next.weak) {
            let points: Vec<_> = part.iter().map(place).collect();
            svg.path(&points, &look.line());
        }
        for pair in series.points.windows(2).filter(|pair| pair[1].weak) {
            svg.path(&[place(&pair[0]), place(&pair[1])], &format!("weak {}", look.colour()));
        }
        svg.close();
        for point in series.points.iter().filter(|point| point.mark) {
            svg.open("", &format!("{}: {}", setting.labels[series.row], significant(point.y)));
            look.marker(svg, place(point), 4.0);
            svg.close();
        }
    }
    draw_names(svg, setting, panel, (at_x(1.0), room), |point| (at_x(point.x), at_y(point.y)), (y0, y0 + height));
}

/// Writes the names beside the ends of the lines, moved apart where they would overlap, with a thin line to each.
fn draw_names(
    svg: &mut Svg,
    setting: &Setting,
    panel: &Panel,
    (right, room): (f64, f64),
    place: impl Fn(&Point) -> (f64, f64),
    (top, bottom): (f64, f64),
) {
    let mut ends: Vec<_> =
        panel.series.iter().filter_map(|series| Some((series.row, place(series.points.last()?)))).collect();
    ends.sort_by(|(_, a), (_, b)| a.1.total_cmp(&b.1));
    let wanted: Vec<f64> = ends.iter().map(|(_, (_, y))| *y).collect();
    for ((row, (x, y)), label) in ends.into_iter().zip(apart(&wanted, LABEL, top, bottom)) {
        let look = setting.looks[row];
        svg.path(&[(x + 5.0, y), (right + LEADER - 18.0, label), (right + LEADER - 12.0, label)], "leader");
        look.marker(svg, (right + LEADER - 6.0, label), 3.6);
        let text = fit(setting.labels[row], LABEL_FONT, room);
        svg.text((right + LEADER + 3.0, label + 4.0), Anchor::Start, &format!("name {}", look.class()), &text);
    }
}

/// Places near the wanted ones, which are sorted, with at least this distance between them and within the bounds as long
/// as there is room: each group that is too dense is spread around its middle.
fn apart(wanted: &[f64], distance: f64, top: f64, bottom: f64) -> Vec<f64> {
    let distance = distance.min((bottom - top) / wanted.len().max(2).saturating_sub(1) as f64);
    // Groups of labels that touch: how many, and where the first of them stands.
    let mut groups: Vec<(usize, f64)> = Vec::new();
    let height = |count: usize| (count - 1) as f64 * distance;
    for &place in wanted {
        let mut group = (1, place.clamp(top, bottom));
        while let Some(&(count, first)) = groups.last() {
            if first + count as f64 * distance <= group.1 {
                break;
            }
            // The new group stands where its labels have the shortest way together.
            let sum = count + group.0;
            let middle = (count as f64 * (first + height(count) / 2.0)
                + group.0 as f64 * (group.1 + height(group.0) / 2.0))
                / sum as f64;
            group = (sum, (middle - height(sum) / 2.0).min(bottom - height(sum)).max(top));
            groups.pop();
        }
        groups.push(group);
    }
    groups.iter().flat_map(|&(count, first)| (0..count).map(move |index| first + index as f64 * distance)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_overlap() {
        let crowded = [10.0, 10.0, 11.0, 12.0, 50.0, 99.0, 99.5, 100.0];
        let places = apart(&crowded, 5.0, 0.0, 100.0);
        assert_eq!(places.len(), crowded.len());
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] > 4.999), "{places:?}");
        assert!(places[0] >= 0.0 && places[7] <= 100.0 + 1e-9, "{places:?}");
        assert_eq!(places[4], 50.0, "one with room stays");
    }

    #[test]
    fn names_share_what_room_there_is() {
        let places = apart(&[1.0; 21], 10.0, 0.0, 100.0);
        assert!((places[20] - 100.0).abs() < 1e-9 && places[0].abs() < 1e-9, "{places:?}");
        assert!(apart(&[], 10.0, 0.0, 1.0).is_empty());
        assert_eq!(apart(&[3.0], 10.0, 0.0, 5.0), [3.0]);
    }
}
