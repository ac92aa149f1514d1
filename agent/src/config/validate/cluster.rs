//! Nodes and prefixes against each other: nothing twice, nothing inside what is another's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use routelet_bgp::core::policy::{ClusterPrefixes, NodeOrigin};

use super::LocalNode;
use crate::config::problem::{Place, Problems};
use crate::config::spec::{At, ConfigSpec, NodeSpec};

/// A prefix and whose it is.
#[derive(Clone, Copy, Debug)]
struct Owned<'a> {
    net: IpNet,
    place: Place,
    owner: &'a str,
}

/// What the default policy knows about the cluster.
pub(super) fn cluster(
    spec: &ConfigSpec,
    local: &LocalNode,
    members: &[&NodeSpec],
    problems: &mut Problems,
) -> ClusterPrefixes {
    check_names("nodes", spec.nodes.iter().map(|node| &node.name), problems);
    check_names("pools", spec.pools.iter().map(|pool| &pool.name), problems);
    let mut pods = owned(&local.name, &local.pod_cidrs);
    let mut addresses = owned(&local.name, &local.addresses);
    for node in members {
        pods.extend(owned(&node.name.value, &node.pod_cidrs));
        addresses.extend(owned(&node.name.value, &node.addresses));
    }
    let path = |owned: &Owned<'_>, key: &str| {
        // The place tells the entry of the list from `node`: our own entry may stand in either.
        let own = owned.owner == local.name
            && !spec.nodes.iter().any(|node| node.name.value == local.name);
        if own { format!("node.{key}") } else { format!("nodes[{}].{key}", owned.owner) }
    };
    check_addresses(&addresses, &path, problems);
    let pods = check_overlaps(pods, problems, |inner, outer| {
        let message = if inner.owner == outer.owner {
            format!("{} overlaps {}{}", inner.net, outer.net, outer.place.hint())
        } else {
            format!(
                "{} overlaps {} of {}{}: a pod address must belong to one node",
                inner.net,
                outer.net,
                outer.owner,
                outer.place.hint()
            )
        };
        (path(inner, "podCIDRs"), message)
    });
    check_hosts_outside_pods(&addresses, &pods, &path, problems);
    let pools = spec
        .pools
        .iter()
        .map(|pool| Owned { net: pool.cidr.value, place: pool.cidr.place, owner: &pool.name.value })
        .collect();
    let pools = check_overlaps(pools, problems, |inner, outer| {
        (
            format!("pools[{}].cidr", inner.owner),
            format!(
                "{} overlaps {} of {}{}; pools must be apart",
                inner.net,
                outer.net,
                outer.owner,
                outer.place.hint()
            ),
        )
    });
    if !pools.is_empty() {
        for pod in &pods {
            if !covering(&pools, pod.net.network()).is_some_and(|pool| pool.net.contains(&pod.net))
            {
                problems.warn(
                    pod.place,
                    path(pod, "podCIDRs"),
                    format!("{} is outside every pool", pod.net),
                );
            }
        }
    }
    ClusterPrefixes {
        pools: spec.pools.iter().map(|pool| pool.cidr.value).collect(),
        pod_cidrs: members
            .iter()
            .flat_map(|node| node.pod_cidrs.iter().map(|at| at.value))
            .collect(),
        services: services(spec, &pods, &pools, problems),
        own_pod_cidrs: local.pod_cidrs.iter().map(|at| at.value).collect(),
        own_addresses: local.addresses.iter().map(|at| at.value.addr()).collect(),
        connected: connected(local),
        origin_check: spec.bgp.mesh_origin_check.unwrap_or(false),
        origins: members
            .iter()
            .map(|node| NodeOrigin {
                name: node.name.value.as_str().into(),
                addresses: node.addresses.iter().map(|at| at.value.addr()).collect(),
                pod_cidrs: node.pod_cidrs.iter().map(|at| at.value).collect(),
            })
            .collect(),
    }
}

/// The ranges of service addresses. What lies in one is never installed, so that no pod may be there.
fn services(
    spec: &ConfigSpec,
    pods: &[Owned<'_>],
    pools: &[Owned<'_>],
    problems: &mut Problems,
) -> Vec<IpNet> {
    let overlap = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
    for range in &spec.services.ranges {
        let taken = pods.iter().chain(pools).find(|taken| overlap(&taken.net, &range.value));
        if let Some(taken) = taken {
            problems.error(
                range.place,
                "services.ranges",
                format!(
                    "{} overlaps {} of {}{}: service addresses get no route, and those are pods'",
                    range.value,
                    taken.net,
                    taken.owner,
                    taken.place.hint()
                ),
            );
        }
    }
    for advertised in &spec.services.advertise {
        if !spec.services.ranges.iter().any(|range| range.value.contains(&advertised.value)) {
            problems.error(
                advertised.place,
                "services.advertise",
                format!(
                    "{} is in none of services.ranges: the other nodes would not know what it is",
                    advertised.value
                ),
            );
        }
    }
    spec.services.ranges.iter().map(|at| at.value).collect()
}

/// Notes every name that stands twice in a list.
pub(super) fn check_names<'a>(
    list: &str,
    names: impl Iterator<Item = &'a At<String>>,
    problems: &mut Problems,
) {
    let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
    for name in names {
        if let Some(first) = seen.get(name.value.as_str()) {
            problems.error(
                name.place,
                format!("{list}[{}].name", name.value),
                format!("is taken{}; names in `{list}` must be unique", first.hint()),
            );
        } else {
            seen.insert(&name.value, name.place);
        }
    }
}

fn owned<'a>(owner: &'a str, nets: &[At<IpNet>]) -> Vec<Owned<'a>> {
    nets.iter().map(|at| Owned { net: at.value, place: at.place, owner }).collect()
}

/// The subnets we are on, each once.
fn connected(local: &LocalNode) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = local
        .addresses
        .iter()
        .map(|at| at.value.trunc())
        .filter(|net| net.prefix_len() < net.max_prefix_len())
        .collect();
    nets.sort_unstable();
    nets.dedup();
    nets
}

fn check_addresses(
    addresses: &[Owned<'_>],
    path: &impl Fn(&Owned<'_>, &str) -> String,
    problems: &mut Problems,
) {
    let mut seen: BTreeMap<IpAddr, &Owned<'_>> = BTreeMap::new();
    for address in addresses {
        if let Some(first) = seen.get(&address.net.addr()) {
            let message = format!(
                "{} is an address of {} already{}",
                address.net.addr(),
                first.owner,
                first.place.hint()
            );
            problems.error(address.place, path(address, "addresses"), message);
        } else {
            seen.insert(address.net.addr(), address);
        }
    }
}

/// Sorts `nets` and notes each that overlaps one before it; returns those that are apart, sorted.
fn check_overlaps<'a>(
    mut nets: Vec<Owned<'a>>,
    problems: &mut Problems,
    words: impl Fn(&Owned<'a>, &Owned<'a>) -> (String, String),
) -> Vec<Owned<'a>> {
    // Prefixes are disjoint or nested: in this order the one that covers comes right before what it
    // covers. Stable, so that of two equal ones the first in the file counts as the owner.
    nets.sort_by_key(|owned| (owned.net.network(), owned.net.prefix_len()));
    let mut apart: Vec<Owned<'a>> = Vec::with_capacity(nets.len());
    for owned in nets {
        match apart.last() {
            Some(last) if last.net.contains(&owned.net) => {
                // Blame the later of the two in the file.
                let (inner, outer) =
                    if last.place > owned.place { (last, &owned) } else { (&owned, last) };
                let (path, message) = words(inner, outer);
                problems.error(inner.place, path, message);
            }
            _ => apart.push(owned),
        }
    }
    apart
}

/// Which of the sorted, disjoint `nets` covers `address`.
fn covering<'a, 'b>(nets: &'b [Owned<'a>], address: IpAddr) -> Option<&'b Owned<'a>> {
    let after = nets.partition_point(|owned| owned.net.network() <= address);
    nets[..after].last().filter(|owned| owned.net.contains(&address))
}

fn check_hosts_outside_pods(
    addresses: &[Owned<'_>],
    pods: &[Owned<'_>],
    path: &impl Fn(&Owned<'_>, &str) -> String,
    problems: &mut Problems,
) {
    for address in addresses {
        if let Some(pod) = covering(pods, address.net.addr()) {
            // Of two objects the later one is blamed: one wrong Node must not cost the others theirs.
            if !address.place.is_known() && pod.place > address.place {
                let message = format!(
                    "{} covers the address {} of {}: its route would swallow that node's own traffic",
                    pod.net,
                    address.net.addr(),
                    address.owner
                );
                problems.error(pod.place, path(pod, "podCIDRs"), message);
                continue;
            }
            let message = format!(
                "{} lies inside the pod CIDR {} of {}{}: its route would swallow the node's own traffic",
                address.net.addr(),
                pod.net,
                pod.owner,
                pod.place.hint()
            );
            problems.error(address.place, path(address, "addresses"), message);
        }
    }
}
