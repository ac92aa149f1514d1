//! docs/rfc-coverage.md and the tests it names agree: what is named exists, and every case over TCP
//! that carries the number of an RFC is named.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of the document, and where they are from the root.
const FOLDERS: &[(&str, &str)] = &[
    ("conformance/", "tests/tests/conformance/"),
    ("interop/", "tests/tests/interop/"),
    ("session/", "bgp/src/core/session/tests/"),
    ("speaker/", "bgp/src/core/speaker/tests/"),
    ("agent/", "agent/src/"),
    ("daemons/", "tests/tests/"),
    ("decision/", "bgp/src/core/speaker/decision/"),
    ("io/", "bgp/src/io/tests/"),
    ("proto/", "proto/src/"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `folder/file::test` of every name in backticks.
fn named() -> Vec<(PathBuf, String)> {
    let text = fs::read_to_string(root().join("docs/rfc-coverage.md")).unwrap();
    let mut names = Vec::new();
    for word in text.split('`').skip(1).step_by(2) {
        let Some((file, test)) = word.split_once("::") else { continue };
        let Some((folder, real)) = FOLDERS.iter().find(|(folder, _)| file.starts_with(folder))
        else {
            continue;
        };
        let path = format!("{real}{}.rs", &file[folder.len()..]);
        names.push((root().join(path), test.to_owned()));
    }
    names
}

#[test]
fn every_test_that_is_named_exists() {
    let names = named();
    assert!(names.len() > 100, "the document is read wrongly: {} names", names.len());
    let mut missing = Vec::new();
    for (path, test) in &names {
        let source = fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{} for {test}: {error}", path.display()));
        // A function, a case by its whole name, or the beginning of a family of cases.
        let forms = if test.ends_with('_') {
            vec![format!("\"{test}{{")]
        } else {
            vec![format!("fn {test}("), format!("\"{test}\"")]
        };
        if !forms.iter().any(|form| source.contains(form)) {
            missing.push(format!("{} in {}", test, path.display()));
        }
    }
    assert!(missing.is_empty(), "named and not there: {missing:#?}");
}

#[test]
fn every_case_with_the_number_of_an_rfc_is_named() {
    let named: BTreeSet<String> = named().into_iter().map(|(_, test)| test).collect();
    let mut cases = BTreeSet::new();
    for entry in fs::read_dir(root().join("tests/tests/conformance")).unwrap() {
        let source = fs::read_to_string(entry.unwrap().path()).unwrap();
        for word in source.split('"').filter(|word| word.starts_with("rfc")) {
            let name = word.split('{').next().unwrap_or_default();
            if name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_') {
                cases.insert(name.to_owned());
            }
        }
    }
    assert!(cases.len() > 100, "the cases are read wrongly: {} cases", cases.len());
    let missing: Vec<_> = cases.difference(&named).collect();
    assert!(missing.is_empty(), "not in docs/rfc-coverage.md: {missing:#?}");
}
