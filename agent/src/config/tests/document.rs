use std::collections::BTreeSet;
use std::path::Path;

use super::*;

const DOCUMENT: &str = include_str!("../../../../docs/configuration.md");

#[test]
fn the_document_lists_every_key_and_no_other() {
    let documented: BTreeSet<String> = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key.to_owned())
        .collect();
    let known: BTreeSet<String> = known_keys().into_iter().collect();
    let missing: Vec<_> = known.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&known).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "missing {missing:?}, invented {invented:?}"
    );
}

#[test]
fn the_examples_of_the_document_are_valid() {
    let blocks: Vec<&str> = DOCUMENT
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split_once("```").expect("the block ends").0)
        .collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let config = read(block).unwrap_or_else(|error| panic!("{error}\n{block}"));
        assert!(config.warnings.is_empty(), "{:?}\n{block}", config.warnings);
    }
}

#[test]
fn the_error_that_the_document_shows_is_what_comes() {
    let shown = DOCUMENT.split("```text\n").nth(1).unwrap().split_once("\n```").unwrap().0;
    let text = "node: {addresses: [10.0.0.1/24]}\n#\n#\n#\n#\nbgp:\n  holdTime: 2s\n";
    let error = parse("node.yaml", text, None, &|_| Err(String::new())).unwrap_err();
    // Without a host name there is one more; the one shown is about line 7.
    assert!(error.to_string().contains(shown), "{error}");
}

#[test]
fn every_example_file_is_valid_and_linked() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let config = read(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
            assert!(DOCUMENT.contains(&format!("(examples/{name})")), "{name} is not linked");
            count += 1;
        }
    }
    assert!(count >= 6, "{count} examples");
}
