//! Columns of plain text.

use std::fmt::Write as _;

/// A column: texts that stand below each other.
pub(crate) struct Column {
    heading: Vec<String>,
    cells: Vec<String>,
    /// Words are aligned left, numbers right.
    left: bool,
}

impl Column {
    /// A column with words.
    pub(crate) fn words(heading: &[&str], cells: Vec<String>) -> Self {
        Self { heading: heading.iter().map(|&line| line.to_owned()).collect(), cells, left: true }
    }

    /// A column with numbers.
    pub(crate) fn numbers(heading: &[&str], cells: Vec<String>) -> Self {
        Self { left: false, ..Self::words(heading, cells) }
    }

    fn width(&self) -> usize {
        self.heading.iter().chain(&self.cells).map(|text| text.chars().count()).max().unwrap_or(0)
    }

    fn pad(&self, text: &str) -> String {
        let width = self.width();
        if self.left { format!("{text:<width$}") } else { format!("{text:>width$}") }
    }
}

/// Two spaces are enough to tell columns apart.
const GAP: &str = "  ";

/// Columns beside each other; those that would not fit into `width` stand below, after the first column again.
pub(crate) fn lay_out(first: &Column, columns: &[Column], width: usize) -> String {
    let mut text = String::new();
    let mut rest = columns;
    while !rest.is_empty() {
        let mut used = first.width();
        let fitting = rest.iter().take_while(|column| {
            used += GAP.len() + column.width();
            used <= width
        });
        let (now, later) = rest.split_at(fitting.count().max(1));
        if !text.is_empty() {
            text.push('\n');
        }
        block(&mut text, first, now);
        rest = later;
    }
    text
}

fn block(text: &mut String, first: &Column, columns: &[Column]) {
    let all = || std::iter::once(first).chain(columns);
    let mut line = |of: &dyn Fn(&Column) -> &str| {
        let cells: Vec<String> = all().map(|column| column.pad(of(column))).collect();
        let _ = writeln!(text, "{}", cells.join(GAP).trim_end());
    };
    let lines = all().map(|column| column.heading.len()).max().unwrap_or(0);
    for index in 0..lines {
        // Headings stand at the bottom of their lines.
        line(&|column| (index + column.heading.len()).checked_sub(lines).map_or("", |index| &column.heading[index]));
    }
    for index in 0..first.cells.len() {
        line(&|column| column.cells.get(index).map_or("", String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_stands_below() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let first = Column::words(&["a"], texts(&["one", "two"]));
        let columns = [
            Column::numbers(&["µ", "s"], texts(&["1", "22.5"])),
            Column::numbers(&["b"], texts(&["-", "-"])),
            Column::words(&["c"], texts(&["x", "y"])),
        ];
        let expected = "        µ\na       s  b\none     1  -\ntwo  22.5  -\n\na    c\none  x\ntwo  y\n";
        assert_eq!(lay_out(&first, &columns, 12), expected);
    }
}
