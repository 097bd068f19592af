use std::collections::BTreeMap;

use super::{page, plots, sample, write, xml};
use crate::result::{Category, Detail, ResultFile};

fn named(files: Vec<ResultFile>) -> Vec<(String, ResultFile)> {
    let name = |(index, file)| (format!("file{index}"), file);
    files.into_iter().enumerate().map(name).collect()
}

/// Every page and every plot of it is well-formed.
fn checked(files: Vec<ResultFile>) -> (String, Vec<(String, String)>) {
    let files = named(files);
    let (page, plots) = (page(&files), plots(&files));
    for text in plots.iter().map(|(_, svg)| svg).chain([&page]) {
        xml::check(text).unwrap_or_else(|error| panic!("{error}"));
        assert!(!text.contains("NaN") && !text.contains("=\"inf"), "a number is none");
    }
    for outside in ["src=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(outside), "{outside} loads something");
    }
    (page, plots)
}

fn stems(plots: &[(String, String)]) -> Vec<&str> {
    plots.iter().map(|(stem, _)| stem.as_str()).collect()
}

#[test]
fn a_comparison_shows_everything() {
    let file = sample::compare(5);
    let (page, plots) = checked(vec![file.clone()]);
    let all =
        ["tcp-throughput", "packets-udp", "packets-raw", "latency-under-load", "latency-ping-pong", "cpu-cost", "arp"];
    assert_eq!(stems(&plots), all);
    for system in file.systems() {
        assert!(page.contains(&system.label), "{} is missing", system.label);
        assert!(plots.iter().filter(|(stem, _)| stem != "packets-raw").all(|(_, svg)| svg.contains(&system.label)));
    }
    for figure in &file.measurements[3].figures {
        assert!(page.contains(&figure.id), "{} is missing", figure.id);
    }
    assert!(page.contains("★"), "nothing is best");
    assert!(page.contains("n2n drops frames of unknown EtherTypes") && page.contains("rounds 1, 2, 3, 4, 5"));
    assert!(page.contains("last line: &lt;TLS &amp; &quot;keys&quot;&gt;"));
    assert!(page.contains("here 0.1 %:"), "the tolerance is not stated");
}

#[test]
fn one_round_has_no_spread() {
    let (page, plots) = checked(vec![sample::compare(1)]);
    assert!(!page.contains("class=\"spread\""));
    assert!(plots.iter().all(|(_, svg)| !svg.contains("class=\"whisker\"")));
}

#[test]
fn one_system_is_compared_with_nothing() {
    let (page, plots) = checked(vec![sample::lab()]);
    assert_eq!(plots.len(), 7);
    assert!(page.contains("Measurement of ipop, clear text"));
    assert!(!page.contains("★&#160;") && !page.contains("× VXLAN"));
    assert!(page.contains("every measurement came to its end"));
}

#[test]
fn the_same_system_in_two_files_is_told_apart() {
    let (page, _) = checked(vec![sample::compare(3), sample::lab()]);
    assert!(page.contains("ipop, clear text (file0)") && page.contains("ipop, clear text (file1)"));
    assert!(page.contains("tinc, clear text<") && !page.contains("tinc, clear text (file0)"));
}

#[test]
fn nothing_from_a_file_is_markup() {
    let evil = "<&\"'>]]><script>";
    let mut file = sample::compare(3);
    file.kind = evil.to_owned();
    file.started = evil.to_owned();
    file.scenario.name = evil.to_owned();
    let facts = BTreeMap::from([(evil.to_owned(), evil.to_owned())]);
    file.fingerprint.machine = facts.clone();
    file.fingerprint.versions = facts;
    for measurement in &mut file.measurements {
        measurement.system.label = evil.to_owned();
        measurement.system.version = Some(evil.to_owned());
        measurement.error = Some(evil.to_owned());
        measurement.skipped.insert(evil.to_owned(), evil.to_owned());
        measurement.figures[0].id = evil.to_owned();
    }
    let files = [(evil.to_owned(), file.clone()), (format!("{evil}2"), file)];
    xml::check(&page(&files)).unwrap_or_else(|error| panic!("{error}"));
    assert!(plots(&files).iter().all(|(_, svg)| xml::check(svg).is_ok()));
    assert!(!page(&files).contains("<script"));
}

#[test]
fn whatever_is_missing_leaves_the_rest() {
    checked(Vec::new());
    checked(vec![sample::file("run", Vec::new())]);
    let nothing = sample::empty("veth", "veth", Category::Limit, 1);
    let (page, plots) = checked(vec![sample::file("lab", vec![nothing.clone()])]);
    assert!(page.contains("No figure was measured") && plots.is_empty());

    for group in ["tcp", "udp", "raw", "latency", "arp", "udp/64", "latency/open"] {
        let mut file = sample::compare(2);
        for (index, measurement) in file.measurements.iter_mut().enumerate() {
            measurement.figures.retain(|figure| figure.id.starts_with(group) && (index > 3 || figure.value < 1e4));
            measurement.resident.clear();
        }
        checked(vec![file]);
    }
}

#[test]
fn odd_numbers_do_no_harm() {
    let mut file = sample::compare(2);
    for measurement in &mut file.measurements {
        for (index, figure) in measurement.figures.iter_mut().enumerate() {
            figure.value = [0.0, f64::NAN, f64::INFINITY, 1e-300, 1e300][index % 5];
            if let Detail::Latency(detail) = &mut figure.detail {
                detail.latency.histogram.reset();
                detail.latency.count = 0;
            }
        }
    }
    checked(vec![file]);
}

#[test]
fn files_are_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let stored = dir.path().join("compare.json");
    sample::lab().save(&stored).expect("a file");
    let out = dir.path().join("a/b");
    let written = write(&[stored], &out).expect("a report");
    assert_eq!(written[0], out.join("index.html"));
    assert_eq!(written.len(), 8);
    assert!(written.iter().all(|path| path.is_file()));
    let missing = write(&[dir.path().join("none.json")], &out);
    assert!(missing.is_err_and(|error| error.to_string().contains("none.json")));
}
