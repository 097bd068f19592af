use super::*;
use crate::report::sample;
use crate::result::Category;

/// Results of one system that has one figure, with these values in rounds.
fn file(values: &[f64]) -> ResultFile {
    let measurement = |(round, &value): (usize, &f64)| {
        let mut measurement = sample::empty("ipop-clear", "ipop", Category::Ipop, round as u32 + 1);
        let mut figure = sample::stream("tcp/1/forward".to_owned(), value);
        figure.cpu = None;
        measurement.figures.push(figure);
        measurement
    };
    sample::file("compare", values.iter().enumerate().map(measurement).collect())
}

fn verdict(old: &[f64], new: &[f64]) -> Verdict {
    compare(&file(old), &file(new)).changes[0].verdict()
}

#[test]
fn only_disjoint_ranges_are_beyond_the_noise() {
    assert_eq!(verdict(&[10.0, 11.0, 12.0], &[7.0, 8.0, 9.0]), Verdict::Worse);
    assert_eq!(verdict(&[10.0, 11.0, 12.0], &[13.0, 14.0, 15.0]), Verdict::Better);
    assert_eq!(verdict(&[10.0, 11.0, 12.0], &[7.0, 8.0, 10.0]), Verdict::Noise, "the ranges touch");
    assert_eq!(verdict(&[10.0, 10.01, 10.02], &[10.1, 10.11, 10.12]), Verdict::Noise, "one percent");
    assert_eq!(verdict(&[10.0, 11.0], &[1.0, 2.0, 3.0]), Verdict::CannotTell);
    assert_eq!(verdict(&[0.0, 0.0, 0.0], &[0.0, 0.0, 0.0]), Verdict::Noise);
    assert_eq!(verdict(&[0.0, 0.0, 0.0], &[1.0, 1.0, 1.0]), Verdict::Better);
}

#[test]
fn regressions_are_told() {
    assert!(compare(&file(&[10.0; 3]), &file(&[9.0; 3])).has_regressions());
    assert!(!compare(&file(&[9.0; 3]), &file(&[10.0; 3])).has_regressions());
    assert!(!compare(&file(&[10.0; 2]), &file(&[1.0; 2])).has_regressions(), "two rounds tell nothing");
}

#[test]
fn chances_are_those_of_permutations() {
    let chance = |rounds: usize| compare(&file(&vec![1.0; rounds]), &file(&vec![1.0; rounds])).changes[0].chance();
    assert!((chance(3) - 0.1).abs() < 1e-12);
    assert!((chance(5) - 2.0 / 252.0).abs() < 1e-12);
}

#[test]
fn less_time_is_better() {
    let file = |nanoseconds: f64| {
        let mut file = sample::lab();
        for figure in &mut file.measurements[0].figures {
            if figure.id == "arp/warm" {
                figure.value = nanoseconds;
            }
        }
        file
    };
    let diff = compare(&file(100.0), &file(200.0));
    let change = &diff.changes[0];
    assert_eq!((change.figure.as_str(), change.is_better(), change.relative()), ("arp/warm", false, 1.0));
    assert!(diff.changes.iter().any(|change| change.figure == "latency/ping-pong/udp p99"));
    assert!(!diff.changes.iter().any(|change| change.figure == "arp/warm p99"), "of 100 times");
    assert!(diff.changes.iter().any(|change| change.figure == "tcp/1/forward CPU"));
    let text = diff.to_string();
    assert!(text.contains("Cannot tell for") && text.contains("Hints only") && text.contains("+100.0 %"), "{text}");
}

#[test]
fn a_file_does_not_differ_from_itself() {
    let file = sample::compare(5);
    let diff = compare(&file, &file);
    assert!(diff.warnings.is_empty() && diff.facts.is_empty() && !diff.has_regressions());
    assert!(diff.only_old.is_empty() && diff.only_new.is_empty());
    assert!(diff.changes.iter().all(|change| matches!(change.verdict(), Verdict::Noise | Verdict::CannotTell)));
}

#[test]
fn circumstances_and_gaps_are_listed() {
    let (old, mut new) = (sample::compare(3), sample::compare(3));
    new.fingerprint.machine.insert("cores".to_owned(), "4".to_owned());
    new.fingerprint.machine.insert("load before".to_owned(), "9".to_owned());
    new.fingerprint.kernel.remove("release");
    new.scenario.arp = None;
    new.measurements.retain(|measurement| measurement.system.id != "veth");
    for measurement in &mut new.measurements {
        measurement.figures.retain(|figure| measurement.system.id != "vxlan" || figure.id != "arp/cold");
        measurement.system.version = Some("2".to_owned());
    }
    let diff = compare(&old, &new);
    assert_eq!(diff.warnings.len(), 2, "{:?}", diff.warnings);
    assert!(diff.facts.contains(&("machine: cores".to_owned(), "8".to_owned(), "4".to_owned())));
    assert!(diff.facts.contains(&("kernel: release".to_owned(), "6.8.0-generic".to_owned(), "-".to_owned())));
    assert!(diff.facts.contains(&("version: ipop-clear".to_owned(), "1.2.3".to_owned(), "2".to_owned())));
    assert_eq!(diff.only_old, ["veth: the whole system", "vxlan: arp/cold"]);
    assert!(compare(&new, &old).only_new == diff.only_old);

    new.fingerprint.machine = old.fingerprint.machine.clone();
    new.fingerprint.machine.insert("load before".to_owned(), "9".to_owned());
    new.scenario = old.scenario.clone();
    assert!(compare(&old, &new).warnings.is_empty(), "the load is different every time");
}
