//! Just enough SVG for the plots: shapes with classes, for which `plot.css` has the colours.

use std::fmt::Write as _;

use super::format::escape;

/// The colours and weights, light and dark.
pub(super) const STYLE: &str = include_str!("plot.css");

/// About how wide a character is, as a share of the font size.
const CHARACTER: f64 = 0.59;
/// Where the title stands in a file of its own.
const TITLE_HEIGHT: f64 = 56.0;

/// A drawing.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// To which side of its point a text extends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    /// To the right.
    Start,
    /// To both sides.
    Middle,
    /// To the left.
    End,
}

impl Svg {
    /// An empty drawing.
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// A straight line.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        self.path(&[from, to], class);
    }

    /// A line through points.
    pub(super) fn path(&mut self, points: &[(f64, f64)], class: &str) {
        self.shape(points, class, false);
    }

    /// A closed shape.
    pub(super) fn polygon(&mut self, points: &[(f64, f64)], class: &str) {
        self.shape(points, class, true);
    }

    fn shape(&mut self, points: &[(f64, f64)], class: &str, closed: bool) {
        let _ = write!(self.body, "<path class=\"{class}\" d=\"");
        for (index, (x, y)) in points.iter().enumerate() {
            let _ = write!(self.body, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
        }
        self.body.push_str(if closed { "Z\"/>\n" } else { "\"/>\n" });
    }

    /// A rectangle.
    pub(super) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str) {
        let corner = "rx=\"1.5\"";
        let _ = writeln!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" {corner}/>"
        );
    }

    /// A circle.
    pub(super) fn circle(&mut self, (x, y): (f64, f64), radius: f64, class: &str) {
        let _ = writeln!(self.body, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"/>");
    }

    /// A text; `y` is where its letters stand.
    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    /// What follows until [`Svg::close`] belongs together, and says this when the pointer rests on it.
    pub(super) fn open(&mut self, class: &str, tip: &str) {
        let _ = writeln!(self.body, "<g class=\"{class}\"><title>{}</title>", escape(tip));
    }

    /// Ends what [`Svg::open`] began.
    pub(super) fn close(&mut self) {
        self.body.push_str("</g>\n");
    }

    /// The drawing for a page that has [`STYLE`] and a heading of its own.
    pub(super) fn inline(&self, stem: &str, title: &str, description: &str) -> String {
        self.element(stem, title, description, 0.0, "")
    }

    /// The drawing as a file.
    pub(super) fn standalone(&self, stem: &str, title: &str, description: &str) -> String {
        let mut head = format!("<style>\n{STYLE}</style>\n");
        let (top, height) = (-TITLE_HEIGHT, self.height + TITLE_HEIGHT);
        let _ = writeln!(
            head,
            "<rect class=\"surface\" x=\"-20\" y=\"{top}\" width=\"{}\" height=\"{}\"/>\n\
             <text class=\"heading\" x=\"0\" y=\"-24\">{}</text>",
            self.width + 40.0,
            height + 20.0,
            escape(title)
        );
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", self.element(stem, title, description, 20.0, &head))
    }

    fn element(&self, stem: &str, title: &str, description: &str, margin: f64, head: &str) -> String {
        let top = if head.is_empty() { 0.0 } else { TITLE_HEIGHT };
        let (width, height) = (self.width + 2.0 * margin, self.height + top + margin);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"{:.0} {:.0} {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-labelledby=\"{stem}-title {stem}-desc\">\n\
             <title id=\"{stem}-title\">{}</title>\n<desc id=\"{stem}-desc\">{}</desc>\n{head}{}</svg>\n",
            -margin,
            -top,
            escape(title),
            escape(description),
            self.body
        )
    }
}

/// About how wide a text is.
pub(super) fn width_of(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * CHARACTER
}

/// The text, or its beginning and its end where it is wider than this: labels of one system in several files differ at the
/// end.
pub(super) fn fit(text: &str, size: f64, width: f64) -> String {
    // What was made to fit exactly fits, whatever is lost in calculating.
    if width_of(text, size) <= width + 0.5 {
        return text.to_owned();
    }
    let most = (width / (size * CHARACTER)) as usize;
    let end = text.chars().count() - most / 2;
    let beginning = text.chars().take(most.saturating_sub(most / 2 + 1));
    beginning.chain(['…']).chain(text.chars().skip(end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_labels_keep_both_ends() {
        assert_eq!(fit("short", 10.0, 100.0), "short");
        assert_eq!(fit("tinc, AES-256-CBC (monday)", 10.0, 100.0), "tinc, A…(monday)");
        assert_eq!(fit("tinc", 10.0, 0.0), "…");
    }
}
