//! The configuration as a whole: a file in, a [`Config`] or its errors out. What is refused is in
//! `cases.rs` and `errors.rs`, the translation in `config.rs`, differences in `plan.rs`, files in `files.rs`, and
//! the document beside the code in `document.rs`.

use std::sync::Arc;

use routelet_bgp::core::config::{Password, PeerConfig};

use super::*;

mod cases;
mod cni;
mod config;
mod document;
mod errors;
mod files;
mod plan;

/// A node, in one line, so that what a test adds begins at line 2.
const NODE: &str = "node: {name: a, addresses: [10.0.0.1/24], podCIDRs: [10.244.1.0/24]}\n";

/// Reads `text` on a host called `host`; every password is `secret`.
fn read(text: &str) -> Result<Config, ConfigError> {
    let password = |_: &std::path::Path| Ok(Password(Arc::from(&b"secret"[..])));
    parse("f.yaml", text, Some("host"), &password)
}

/// The configuration of [`NODE`] and `more`.
#[track_caller]
fn with(more: &str) -> Config {
    match read(&format!("{NODE}{more}")) {
        Ok(config) => config,
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn peer<'a>(config: &'a Config, name: &str) -> &'a PeerConfig {
    config.speaker.peers.iter().find(|peer| &*peer.name == name).expect("the peer is there")
}
