//! Every input that is committed holds: `corpus/` is what reaches much, `regressions/` what once was a finding.

use std::path::Path;

use ipop_fuzz::TARGETS;

/// The inputs in a folder of a target, none where the folder is not there.
fn inputs(kind: &str, target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let read = |path: std::path::PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        (path.display().to_string(), bytes)
    };
    entries.map(|entry| read(entry.unwrap().path())).collect()
}

#[test]
fn every_input_holds_and_some_are_understood() {
    for (name, target) in TARGETS {
        let (mut replayed, mut understood) = (0, 0);
        for (path, bytes) in [inputs("corpus", name), inputs("regressions", name)].concat() {
            // Shown if the target panics.
            println!("{path}");
            replayed += 1;
            understood += usize::from(target(&bytes));
        }
        assert!(replayed >= 4, "{name}: the corpus has gone");
        assert!(
            understood >= 2,
            "{name}: of {replayed} inputs {understood} get past the first refusal; make seeds anew"
        );
    }
}

#[test]
fn every_target_is_built_and_every_folder_is_a_targets() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |sub: &str| {
        let entries = std::fs::read_dir(folder.join(sub)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let known = |name: &str| TARGETS.iter().any(|(target, _)| *target == name);
    for sub in ["fuzz_targets", "corpus", "regressions"] {
        let names = names(sub);
        names.iter().for_each(|name| assert!(known(name), "{sub}/{name} belongs to no target"));
        assert!(sub == "regressions" || names.len() == TARGETS.len(), "{sub} lacks some: {names:?}");
    }
}
