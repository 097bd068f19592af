//! Result files as a page for people: tables and plots in one file, which needs nothing else.

mod axis;
mod bars;
mod charts;
pub(crate) mod columns;
mod dots;
pub(crate) mod format;
pub(crate) mod grid;
mod html;
mod lines;
mod look;
pub(crate) mod notes;
pub(crate) mod select;
mod svg;
mod tables;

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod xml;

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result, write as write_text};
use crate::result::ResultFile;
use select::Row;

/// One HTML page with everything from these files. The name of a file tells systems apart that are in several of them.
pub fn page(files: &[(String, ResultFile)]) -> String {
    let rows = rows(files);
    html::page(files, &rows, &charts::plots(&rows))
}

/// The plots of the page as files of their own: a name without extension, and an SVG.
pub fn plots(files: &[(String, ResultFile)]) -> Vec<(String, String)> {
    charts::plots(&rows(files)).iter().map(|plot| (plot.stem.clone(), plot.standalone())).collect()
}

/// Reads result files, and writes `index.html` and the plots into the directory `out`, which it creates if it is not
/// there. Returns what it wrote.
pub fn write(files: &[PathBuf], out: &Path) -> Result<Vec<PathBuf>> {
    let load = |path: &PathBuf| Ok((name(path), ResultFile::load(path)?));
    let files: Vec<(String, ResultFile)> = files.iter().map(load).collect::<Result<_>>()?;
    fs::create_dir_all(out).context(format!("creating {}", out.display()))?;
    let pages = [(out.join("index.html"), page(&files))];
    let plots = plots(&files).into_iter().map(|(stem, svg)| (out.join(stem + ".svg"), svg));
    let mut written = Vec::new();
    for (path, text) in pages.into_iter().chain(plots) {
        write_text(&path, &text)?;
        written.push(path);
    }
    Ok(written)
}

/// What a file is called in a report.
fn name(path: &Path) -> String {
    path.file_stem().map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned())
}

fn rows(files: &[(String, ResultFile)]) -> Vec<Row<'_>> {
    select::rows(files.iter().map(|(name, file)| (name.as_str(), file)))
}
