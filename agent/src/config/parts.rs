//! A configuration of parts that do not stand in one file: Kubernetes objects.
//!
//! In flow: a [`ConfigFile`] built of objects, every part with its object's rank as its place
//! ([`Place::of_object`](super::problem::Place::of_object)), and what only objects can say. Out flow:
//! the same validated [`Config`] that a file gives, or the problems, those of values apart from those
//! of values against each other: the caller leaves out or replaces objects and tries again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use super::file::{self, ConfigFile};
use super::metrics::MetricsConfig;
use super::problem::{Problem, Problems};
use super::spec::At;
use super::{Config, ConfigError, ReadPassword, parse, validate};

/// What objects say beyond the keys of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beyond {
    /// Names of nodes that are no peers of the mesh.
    pub off_mesh: BTreeSet<String>,
    /// Names of peers that are nodes of the cluster.
    pub node_peers: BTreeSet<String>,
    /// Addresses in the ranges of service addresses that services have; `None` where they are not known.
    pub claimed: Option<BTreeSet<IpAddr>>,
}

/// Why there is no configuration.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    /// These values are impossible, whatever the others are.
    Values(Vec<Problem>),
    /// These parts do not fit the others.
    Conflicts(Vec<Problem>),
}

/// Makes a configuration of `file`, whose node has a name.
///
/// # Errors
/// What is wrong with its values; if nothing is, what is wrong between them.
pub(crate) fn assemble(
    file: &ConfigFile,
    beyond: &Beyond,
    passwords: ReadPassword<'_>,
) -> Result<Config, Refusal> {
    let mut problems = Problems::default();
    let mut spec = parse::parse(file, passwords, &mut problems);
    if !problems.is_valid() {
        return Err(Refusal::Values(problems.into_errors()));
    }
    // An agent in a cluster brings the network of its node, unless told not to.
    spec.cni.enabled.get_or_insert(At::default_of(spec.kernel.enabled));
    // The API server vouches for whose pod CIDRs are whose.
    spec.bgp.mesh_origin_check.get_or_insert(true);
    spec.services.claimed.clone_from(&beyond.claimed);
    for node in &mut spec.nodes {
        node.mesh = !beyond.off_mesh.contains(&node.name.value);
    }
    for peer in &mut spec.peers {
        peer.of_node = beyond.node_peers.contains(&peer.name.value);
    }
    match validate::validate(&spec, None, &mut problems) {
        Some(config) if problems.is_valid() => {
            Ok(Config { warnings: problems.warnings(), ..config })
        }
        _ => Err(Refusal::Conflicts(problems.into_errors())),
    }
}

/// Reads the file beside the objects: what concerns this host only (`kernel`, `cni`, `api`,
/// `metrics`, `stateDir`); the last also as its value.
///
/// # Errors
/// What is wrong with it; keys that the objects decide are.
pub(crate) fn read_base(name: &str, text: &str) -> Result<(ConfigFile, PathBuf), ConfigError> {
    let mut problems = Problems::default();
    let base = file::read(text, &mut problems).unwrap_or_default();
    let decided = [
        ("node", base.node.as_ref().map(|node| node.place)),
        ("bgp", base.bgp.as_ref().map(|bgp| bgp.place)),
        ("nodes", base.nodes.as_ref().and_then(|list| list.first()).map(|node| node.place)),
        ("peers", base.peers.as_ref().and_then(|list| list.first()).map(|peer| peer.place)),
        ("filters", base.filters.as_ref().and_then(|list| list.first()).map(|filter| filter.place)),
        ("tunnels", base.tunnels.as_ref().map(|tunnels| tunnels.place)),
        ("services", base.services.as_ref().map(|services| services.place)),
        ("pools", base.pools.as_ref().and_then(|list| list.first()).map(|pool| pool.place)),
    ];
    for (key, place) in decided {
        if let Some(place) = place {
            problems.error(
                place,
                key,
                "comes from the Kubernetes objects; beside them a file has only kernel, cni, api, metrics and stateDir",
            );
        }
    }
    let no_secrets = |_: &std::path::Path| Err("no password belongs here".to_owned());
    let spec = parse::parse(&base, &no_secrets, &mut problems);
    if problems.is_valid() {
        Ok((base, spec.state_dir))
    } else {
        Err(problems.into_error(name, text))
    }
}

/// Where metrics and probes are served by the file beside the objects, before there is a configuration:
/// as by default where it does not say so or is refused.
pub(crate) fn base_metrics(text: &str) -> MetricsConfig {
    let mut problems = Problems::default();
    let base = file::read(text, &mut problems).unwrap_or_default();
    let no_secrets = |_: &std::path::Path| Err("no password belongs here".to_owned());
    parse::parse(&base, &no_secrets, &mut problems).metrics
}
