//! The fuzz targets' bodies over their checked-in seeds, and over those seeds with every octet
//! changed and cut at every place: an ordinary test, without nightly.

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::path::Path;

/// Runs `body` over each seed of `target` and over its neighbours.
fn run(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(&folder).expect("the seeds are checked in") {
        let seed = fs::read(entry.expect("a folder entry").path()).expect("a readable seed");
        body(&seed);
        for end in 0..seed.len() {
            body(&seed[..end]);
        }
        for place in 0..seed.len() {
            let mut changed = seed.clone();
            for value in [0, 1, 0x7f, 0x80, 0xff, seed[place] ^ 0x20, seed[place].wrapping_add(1)] {
                changed[place] = value;
                body(&changed);
            }
        }
        seeds += 1;
    }
    assert!(seeds >= 3, "{} has {seeds} seeds only", folder.display());
}

#[test]
fn open() {
    run("open", bodies::open);
}

#[test]
fn update() {
    run("update", bodies::update);
}

#[test]
fn notification() {
    run("notification", bodies::notification);
}

#[test]
fn route_refresh() {
    run("route_refresh", bodies::route_refresh);
}

#[test]
fn message() {
    run("message", bodies::message);
}
