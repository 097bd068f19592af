//! Which plots there are, and what they show.

use hdrhistogram::Histogram;

use super::axis::Axis;
use super::bars::{self, Panel};
use super::columns::{Key, Present, bytes, costs};
use super::dots::{self, Dot};
use super::format::{Quantity, plural};
use super::lines::{self, Point, Series, Setting};
use super::look::Look;
use super::select::{Part, Row};
use super::svg::Svg;
use crate::result::{Detail, Unit, histogram, ids};
use crate::scenario::{PacketKind, Size};

/// Rates over more than this factor get a logarithmic axis: lines need less room than bars to be told apart.
const LINES_LINEAR_UP_TO: f64 = 8.0;
/// The plot to which a table belongs.
pub(super) const UNDER_LOAD: &str = "latency-under-load";
/// A percentile is drawn if at least so many samples lie beyond it.
const SAMPLES_BEYOND: f64 = 10.0;

/// A plot with all that is said about it.
pub(super) struct Plot {
    /// The name of its file, without extension.
    pub(super) stem: String,
    /// Its heading.
    pub(super) title: String,
    /// How to read it.
    pub(super) caption: String,
    svg: Svg,
    /// The values in words.
    description: String,
}

impl Plot {
    /// For the page.
    pub(super) fn inline(&self) -> String {
        self.svg.inline(&self.stem, &self.title, &self.description)
    }

    /// As a file.
    pub(super) fn standalone(&self) -> String {
        self.svg.standalone(&self.stem, &self.title, &self.description)
    }
}

/// All plots for which there is something to show.
pub(super) fn plots(rows: &[Row]) -> Vec<Plot> {
    let present = Present::in_rows(rows);
    let mut plots = Vec::new();
    plots.extend(throughput(rows, &present));
    plots.extend([PacketKind::Udp, PacketKind::Raw].into_iter().filter_map(|kind| packet_rate(rows, &present, kind)));
    let open: Vec<_> = present
        .loads
        .iter()
        .map(|&load| (format!("Load: {load} % of each system's own lossless rate"), ids::open_loop(load)))
        .collect();
    plots.extend(percentiles(
        rows,
        UNDER_LOAD,
        "Round-trip time under load",
        "Requests leave by the clock; each time counts from the moment the request was due. Every system is loaded \
         relative to its own highest rate without loss, so a fast one carries more packets here than a slow one; the \
         table below tells how many.",
        &open,
    ));
    let closed = [("TCP", ids::PING_PONG_TCP), ("UDP", ids::PING_PONG_UDP)];
    plots.extend(percentiles(
        rows,
        "latency-ping-pong",
        "Round-trip time of one packet at a time",
        "Ping-pong: the next request leaves when the answer to the last one is there, on an otherwise idle path.",
        &closed.map(|(name, id)| (format!("Ping-pong over {name}"), id.to_owned())),
    ));
    plots.extend(cost(rows, &present));
    plots.extend(arp(rows));
    plots
}

fn throughput(rows: &[Row], present: &Present) -> Option<Plot> {
    let streams = present.flows.iter().flat_map(|&flows| [(flows, false), (flows, true)]);
    let keys: Vec<Key> = streams
        .map(|(flows, backward)| {
            let direction = if backward { "backward" } else { "forward" };
            let heading = [&*plural(flows as usize, "flow"), direction];
            Key::new(heading, ids::tcp(flows, backward), Part::Value, Unit::BitsPerSecond)
        })
        .collect();
    let caption = "Payload bits per second as the receiver saw them. Longer is better.";
    bar_plot(rows, &keys, 2, "tcp-throughput", "TCP throughput", caption)
}

fn cost(rows: &[Row], present: &Present) -> Option<Plot> {
    let caption = "Busy seconds of the whole machine, both ends and the generator included, for each gigabit of TCP \
                   payload and for each million packets that arrived. Shorter is better.";
    bar_plot(rows, &costs(present, 2), 2, "cpu-cost", "Processor time", caption)
}

fn bar_plot(rows: &[Row], keys: &[Key], columns: usize, stem: &str, title: &str, caption: &str) -> Option<Plot> {
    let panel = |key: &Key| Panel {
        title: key.title(),
        quantity: key.quantity,
        cells: rows.iter().map(|row| row.cell(key)).collect(),
    };
    let panels: Vec<Panel> = keys.iter().map(panel).filter(|panel| panel.cells.iter().any(Option::is_some)).collect();
    if panels.is_empty() {
        return None;
    }
    let mut caption = caption.to_owned();
    if panels.iter().any(|panel| bars::breaks(rows, panel)) {
        caption += " A broken bar goes on beyond the end of the axis, to the value beside it.";
    }
    if panels.iter().any(|panel| bars::axis(rows, panel).log) {
        caption += " Where values are too far apart for bars, boxes stand at the medians on a logarithmic axis.";
    }
    let sentences = panels.iter().map(|panel| {
        let values = rows.iter().zip(&panel.cells);
        let texts = values.filter_map(|(row, cell)| Some(bars::tip(row, panel.quantity, cell.as_ref()?)));
        format!("{}: {}.", panel.title, texts.collect::<Vec<_>>().join("; "))
    });
    Some(Plot {
        stem: stem.to_owned(),
        title: title.to_owned(),
        caption,
        description: sentences.collect::<Vec<_>>().join(" "),
        svg: bars::draw(rows, &panels, columns),
    })
}

fn packet_rate(rows: &[Row], present: &Present, kind: PacketKind) -> Option<Plot> {
    type Id = fn(PacketKind, Size) -> String;
    let lists: [(&[_], Id, &str); 2] = [
        (&present.blast, ids::blast, "Full blast: received while as many as possible are sent"),
        (&present.lossless, ids::lossless, "Lossless: highest rate that still passes"),
    ];
    let scaled = |value: f64| Quantity::PacketRate.scaled(value);
    let mut panels = Vec::new();
    for (list, id, title) in lists {
        let Some((_, sizes)) = list.iter().find(|(known, _)| *known == kind) else { continue };
        let place = |index: usize| if sizes.len() > 1 { index as f64 / (sizes.len() - 1) as f64 } else { 0.5 };
        let x_ticks =
            sizes.iter().enumerate().map(|(index, size)| (place(index), size.to_string().replace("imix", "IMIX")));
        let series = rows.iter().enumerate().filter_map(|(row, system)| {
            let point = |(index, &size): (usize, &Size)| {
                let y = scaled(system.values(&id(kind, size), Part::Value)?.summary.median);
                Some(Point { x: place(index), y, mark: true, weak: bytes(size).is_none() })
            };
            let points: Vec<Point> = sizes.iter().enumerate().filter_map(point).collect();
            (!points.is_empty()).then_some(Series { row, points })
        });
        panels.push(lines::Panel {
            title: title.to_owned(),
            x_name: "frame size in bytes".to_owned(),
            x_ticks: x_ticks.collect(),
            series: series.collect(),
        });
    }
    let (title, unit) = match kind {
        PacketKind::Udp => ("Packet rate of UDP", "kpps"),
        PacketKind::Raw => ("Packet rate of raw Ethernet frames", "kpps"),
    };
    let caption = "Medians, in thousands of frames per second. Higher is better. IMIX is a mix of sizes and no point on \
                   the axis of sizes, hence the dotted line to it.";
    line_plot(rows, panels, (LINES_LINEAR_UP_TO, 26.0), &format!("packets-{kind}"), title, unit, caption)
}

/// Percentiles, with an axis on which each further nine is one step: 50, 90, 99, 99.9, and the longest time at the end.
fn percentiles(rows: &[Row], stem: &str, title: &str, caption: &str, figures: &[(String, String)]) -> Option<Plot> {
    let mut panels = Vec::new();
    for (name, id) in figures {
        let histograms: Vec<_> = rows.iter().map(|row| times(row, id)).collect();
        let nines = histograms.iter().flatten().map(nines).max();
        let Some(nines) = nines else { continue };
        let place = |quantile: f64| (0.5 / (1.0 - quantile)).log10() / (0.5 * 10_f64.powi(nines + 1)).log10();
        let series = histograms.iter().enumerate().filter_map(|(row, times)| {
            let times = times.as_ref()?;
            let micros = |nanoseconds: u64| Quantity::Time.scaled(nanoseconds as f64);
            let whole = |step: i32| step % 10 == 0;
            // Ten steps a nine, from 90 % on; before it from the median up.
            let inner =
                (0..=self::nines(times) * 10).map(|step| (1.0 - 10_f64.powf(-f64::from(step) / 10.0), whole(step)));
            let inner = inner.filter(|(quantile, _)| *quantile > 0.5);
            let mut points: Vec<Point> = [(0.5, true)]
                .into_iter()
                .chain(inner)
                .map(|(quantile, mark)| {
                    let y = micros(times.value_at_quantile(quantile));
                    Point { x: place(quantile), y, mark, weak: false }
                })
                .collect();
            points.push(Point { x: 1.0, y: micros(times.max()), mark: true, weak: true });
            Some(Series { row, points })
        });
        let series = series.collect();
        let named = |step: i32| match step {
            0 => (0.5, "50 %".to_owned()),
            1 => (0.9, "90 %".to_owned()),
            _ => (
                1.0 - 10_f64.powi(-step),
                format!("99{}{} %", if step > 2 { "." } else { "" }, "9".repeat(step as usize - 2)),
            ),
        };
        let mut x_ticks: Vec<_> = (0..=nines).map(named).map(|(quantile, text)| (place(quantile), text)).collect();
        x_ticks.push((1.0, "max".to_owned()));
        panels.push(lines::Panel {
            title: name.clone(),
            x_name: "percentile of all rounds together".to_owned(),
            x_ticks,
            series,
        });
    }
    let caption = format!(
        "{caption} Lower is better. A percentile is drawn if at least {SAMPLES_BEYOND} samples lie beyond it; the dotted line \
         leads to the longest time."
    );
    line_plot(rows, panels, (1.0, 34.0), stem, title, "µs", &caption)
}

fn line_plot(
    rows: &[Row],
    panels: Vec<lines::Panel>,
    (linear_up_to, line_height): (f64, f64),
    stem: &str,
    title: &str,
    unit: &str,
    caption: &str,
) -> Option<Plot> {
    let points = panels.iter().flat_map(|panel| &panel.series).flat_map(|series| &series.points);
    let values: Vec<f64> = points.map(|point| point.y).collect();
    if values.is_empty() {
        return None;
    }
    let setting = Setting {
        y_name: unit,
        axis: Axis::covering(&values, linear_up_to),
        line_height,
        labels: rows.iter().map(|row| row.label.as_str()).collect(),
        looks: Look::of(rows),
    };
    let sentences = panels.iter().map(|panel| {
        let texts = panel.series.iter().map(|series| {
            let marked = series.points.iter().filter(|point| point.mark);
            let texts: Vec<_> = marked.map(|point| super::format::significant(point.y)).collect();
            format!("{}: {}", setting.labels[series.row], texts.join(", "))
        });
        let ticks: Vec<_> = panel.x_ticks.iter().map(|(_, text)| text.as_str()).collect();
        format!("{}, in {unit}, at {}. {}.", panel.title, ticks.join(", "), texts.collect::<Vec<_>>().join("; "))
    });
    Some(Plot {
        stem: stem.to_owned(),
        title: title.to_owned(),
        caption: caption.to_owned(),
        description: sentences.collect::<Vec<_>>().join(" "),
        svg: lines::draw(&setting, &panels),
    })
}

/// All times of one figure, over all rounds; `None` if there are none.
fn times(row: &Row, id: &str) -> Option<Histogram<u64>> {
    let all = row.figures(id).filter_map(|figure| match &figure.detail {
        Detail::Latency(detail) => Some(&detail.latency),
        _ => None,
    });
    Some(histogram::merge(all)).filter(|times| !times.is_empty())
}

/// How many nines the highest percentile has that is worth drawing: 3 for 99.9 %.
fn nines(times: &Histogram<u64>) -> i32 {
    ((times.len() as f64 / SAMPLES_BEYOND).log10().floor() as i32).clamp(1, 4)
}

fn arp(rows: &[Row]) -> Option<Plot> {
    let dot = |name: &str, id: &str| Dot {
        name: name.to_owned(),
        cells: rows.iter().map(|row| row.values(id, Part::Value)).collect(),
    };
    let pair = [
        dot("warm: the address was asked for just before", ids::ARP_WARM),
        dot("cold: nobody asked for the address before", ids::ARP_COLD),
    ];
    if pair.iter().flat_map(|dot| &dot.cells).all(Option::is_none) {
        return None;
    }
    let texts = pair.iter().map(|dot| {
        let values = rows.iter().zip(&dot.cells);
        let texts = values.filter_map(|(row, cell)| Some(bars::tip(row, Quantity::Time, cell.as_ref()?)));
        format!("{}. {}.", dot.name, texts.collect::<Vec<_>>().join("; "))
    });
    Some(Plot {
        stem: "arp".to_owned(),
        title: "ARP resolution".to_owned(),
        caption:
            "Median time from an ARP request to its answer; the whisker is the range of the rounds. Further left is \
                  better."
                .to_owned(),
        description: texts.collect::<Vec<_>>().join(" "),
        svg: dots::draw(rows, Quantity::Time, &pair),
    })
}
