//! How a system looks in plots. Nothing is told by colour alone: the dash is the category, the marker is the system within
//! it, and a hollow marker encrypts.

use super::select::Row;
use super::svg::Svg;
use crate::result::Category;

/// How many colours and markers there are before they begin again.
const VARIETY: usize = 8;

/// The looks of one system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    category: Category,
    index: usize,
    hollow: bool,
}

impl Look {
    /// The looks of all rows: within a category, no two of the first eight are alike.
    pub(super) fn of(rows: &[Row]) -> Vec<Self> {
        let look = |(place, row): (usize, &Row)| {
            let category = row.system.category;
            let index = rows[..place].iter().filter(|other| other.system.category == category).count() % VARIETY;
            Self { category, index, hollow: row.system.encrypted }
        };
        rows.iter().enumerate().map(look).collect()
    }

    /// The classes of its line.
    pub(super) fn line(self) -> String {
        format!("line {} {}", class(self.category), self.colour())
    }

    /// The class of its category.
    pub(super) fn class(self) -> &'static str {
        class(self.category)
    }

    /// The class of its colour.
    pub(super) fn colour(self) -> String {
        // The few systems of the other categories start elsewhere on the palette, so that colours repeat late.
        let start = match self.category {
            Category::Ipop | Category::Path => 0,
            Category::Kernel => 2,
            Category::UserSpace => 3,
            Category::Limit => return "c-limit".to_owned(),
        };
        format!("c{}", (start + self.index) % VARIETY)
    }

    /// Draws its marker.
    pub(super) fn marker(self, svg: &mut Svg, (x, y): (f64, f64), radius: f64) {
        let class = format!("marker {} {}", self.colour(), if self.hollow { "hollow" } else { "filled" });
        let turned = |corners: &[(f64, f64)]| -> Vec<(f64, f64)> {
            corners.iter().map(|(right, down)| (x + right * radius, y + down * radius)).collect()
        };
        let corners = match self.index {
            0 => return svg.circle((x, y), radius, &class),
            1 => turned(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
            2 => turned(&[(0.0, -1.2), (1.1, 0.9), (-1.1, 0.9)]),
            3 => turned(&[(0.0, 1.2), (1.1, -0.9), (-1.1, -0.9)]),
            4 => turned(&[(0.0, -1.35), (1.2, 0.0), (0.0, 1.35), (-1.2, 0.0)]),
            5 => turned(&cross(0.0)),
            6 => turned(&[(1.2, 0.0), (-0.9, 1.1), (-0.9, -1.1)]),
            _ => turned(&cross(45.0)),
        };
        svg.polygon(&corners, &class);
    }
}

/// The class of a category: how bars are filled and lines are dashed.
pub(super) fn class(category: Category) -> &'static str {
    match category {
        Category::Limit => "limit",
        Category::Kernel => "kernel",
        Category::Ipop => "ipop",
        Category::UserSpace => "user-space",
        Category::Path => "path",
    }
}

/// What a category is called.
pub(super) fn name(category: Category) -> &'static str {
    match category {
        Category::Limit => "no overlay",
        Category::Kernel => "overlay in the kernel",
        Category::Ipop => "ipop",
        Category::UserSpace => "overlay in user space",
        Category::Path => "measured path",
    }
}

/// The categories in some rows, each once, in a fixed order.
pub(super) fn categories(rows: &[Row]) -> Vec<Category> {
    let mut categories: Vec<Category> = rows.iter().map(|row| row.system.category).collect();
    categories.sort_unstable();
    categories.dedup();
    categories
}

/// A plus with thick arms, turned by some degrees.
fn cross(degrees: f64) -> Vec<(f64, f64)> {
    let (arm, half) = (1.3, 0.42);
    let corner = [(half, -arm), (half, -half), (arm, -half)];
    let (sin, cos) = f64::to_radians(degrees).sin_cos();
    (0..4)
        .flat_map(|quarter| {
            corner.map(|(x, y)| match quarter {
                0 => (x, y),
                1 => (-y, x),
                2 => (-x, -y),
                _ => (y, -x),
            })
        })
        .map(|(x, y)| (x * cos - y * sin, x * sin + y * cos))
        .collect()
}
