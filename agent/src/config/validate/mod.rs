//! From values to a valid [`Config`]: everything that only shows when the parts are put together.
//!
//! In flow: [`ConfigSpec`]. Out flow: [`Config`], with each conflict noted in [`Problems`] at the place
//! of the part that should change. `cluster.rs` compares nodes and prefixes, `filter.rs` finds the
//! rules of a peer, `peer.rs` makes the peers; this file resolves who we are and assembles.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use routelet_bgp::core::config::{
    OriginatedKind, OriginatedRoute, PeerConfig, PeerKind, SpeakerConfig,
};
use routelet_proto::{Asn, BgpIdentifier, Family};

use self::peer::PeerBuilder;
use super::Config;
use super::problem::{Place, Problems};
use super::spec::{At, ConfigSpec, NodeSpec};
use crate::kernel::KernelConfig;

mod cluster;
mod cni;
mod filter;
mod firewall;
mod peer;
mod tunnels;

/// How long the first sync waits for a peer that is not there, on a cold start.
const INITIAL_DEFERRAL: Duration = Duration::from_secs(5);

/// This node, with its name resolved and with what its entry among the nodes adds.
#[derive(Clone, Debug)]
struct LocalNode {
    name: String,
    addresses: Vec<At<IpNet>>,
    pod_cidrs: Vec<At<IpNet>>,
    asn: Asn,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl LocalNode {
    /// Our address of the family that `peer` has.
    fn address_towards(&self, peer: IpAddr) -> Option<IpAddr> {
        match peer {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    /// Our address in the subnet that `peer` is in: what a router on that link expects us to have.
    fn address_beside(&self, peer: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().find(|at| at.value.contains(&peer)).map(|at| at.value.addr())
    }

    fn has_family(&self, family: Family) -> bool {
        match family {
            Family::Ipv4Unicast => self.v4.is_some(),
            Family::Ipv6Unicast => self.v6.is_some(),
        }
    }
}

/// Makes a configuration of `spec`; it is valid only if nothing was noted in `problems`.
pub(super) fn validate(
    spec: &ConfigSpec,
    host_name: Option<&str>,
    problems: &mut Problems,
) -> Option<Config> {
    let local = local_node(spec, host_name, problems)?;
    let members: Vec<&NodeSpec> =
        spec.nodes.iter().filter(|node| node.name.value != local.name).collect();
    let cluster = cluster::cluster(spec, &local, &members, problems);
    let router_id = router_id(spec, &local);
    check_router_ids(router_id, &members, problems);
    check_kernel(spec, problems);
    let tunnels = tunnels::tunnels(spec, &local, &members, problems);
    let listen = listen(spec, &local, problems);
    let filters = filter::Filters::new(&spec.filters, problems);
    let mut builder = PeerBuilder::new(spec, &local, &listen, filters, problems);
    builder.configured();
    builder.mesh(&members);
    let peers = builder.finish();
    warn_open_policy(&cluster, &peers, problems);

    let pod_cidrs: Vec<IpNet> = local.pod_cidrs.iter().map(|at| at.value).collect();
    if pod_cidrs.is_empty() && spec.kernel.enabled {
        problems.warn(spec.node.place, "node.podCIDRs", "is empty: this node advertises nothing");
    }
    if peers.is_empty() {
        problems.warn(Place::NONE, "peers", "there is no peer at all, neither here nor in `nodes`");
    }
    let firewall = firewall::firewall(spec, &local, &members, &tunnels);
    let own = |prefix, kind| OriginatedRoute { prefix, kind };
    let pods = pod_cidrs.iter().map(|&prefix| own(prefix, OriginatedKind::PodCidr));
    let services = spec.services.advertise.iter();
    let services = services.map(|at| own(at.value, OriginatedKind::Service));
    let originated = pods.chain(services).collect();
    let cluster_id = spec.node.route_reflector_cluster_id.map_or(router_id, |at| at.value);
    let cni = cni::cni(spec, &local, &peers, &tunnels, problems);
    Some(Config {
        node_name: local.name.clone(),
        speaker: Arc::new(SpeakerConfig {
            asn: local.asn,
            router_id: BgpIdentifier(router_id),
            cluster_id,
            host_name: local.name.clone(),
            address_v4: local.v4,
            address_v6: local.v6,
            maximum_paths: spec.bgp.maximum_paths,
            track_next_hops: spec.kernel.enabled,
            initial_deferral: INITIAL_DEFERRAL,
            originated,
            cluster: Arc::new(cluster),
            peers,
        }),
        listen,
        kernel: KernelConfig {
            enabled: spec.kernel.enabled,
            table: spec.kernel.table,
            protocol: spec.kernel.protocol,
            metric: spec.kernel.metric,
            blackhole_metric: spec.kernel.blackhole_metric.value,
            blackholes: pod_cidrs.clone(),
            repair: spec.kernel.repair,
            nexthop_objects: spec.kernel.nexthop_objects,
            memory: Some(spec.state_dir.join("kernel-routes")),
            tunnels,
        },
        cni,
        firewall,
        pod_cidrs,
        api_socket: spec.api_socket.clone(),
        metrics: spec.metrics,
        state_dir: spec.state_dir.clone(),
        warnings: Vec::new(),
    })
}

/// Who we are. The list of nodes may be the same file on every node: then our own entry in it says
/// what `node` leaves out.
fn local_node(
    spec: &ConfigSpec,
    host_name: Option<&str>,
    problems: &mut Problems,
) -> Option<LocalNode> {
    let node = &spec.node;
    let name = match (&node.name, host_name) {
        (Some(name), _) => name.value.clone(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => {
            problems.error(
                node.place,
                "node.name",
                "is missing, and this host has no name to take its place",
            );
            return None;
        }
    };
    let entry = spec.nodes.iter().find(|entry| entry.name.value == name);
    if let Some(entry) = entry {
        let values = |list: &[At<IpNet>]| list.iter().map(|at| at.value).collect::<Vec<_>>();
        for (key, ours, theirs) in [
            ("addresses", &node.addresses, &entry.addresses),
            ("podCIDRs", &node.pod_cidrs, &entry.pod_cidrs),
        ] {
            if let Some(ours) = ours
                && values(ours) != values(theirs)
            {
                problems.error(
                    theirs.first().map_or(entry.place, |at| at.place),
                    format!("nodes[{name}].{key}"),
                    format!(
                        "this is the node itself, and node.{key}{} says otherwise; leave out one of them",
                        ours.first().map_or(String::new(), |at| at.place.hint())
                    ),
                );
            }
        }
    }
    let addresses = node.addresses.clone().or_else(|| entry.map(|entry| entry.addresses.clone()));
    let pod_cidrs = node.pod_cidrs.clone().or_else(|| entry.map(|entry| entry.pod_cidrs.clone()));
    let Some(addresses) = addresses else {
        problems.error(
            node.place,
            "node.addresses",
            format!(
                "is missing: write the node's addresses with the lengths of their subnets, for \
                 example [172.30.1.11/24], or list {name} in `nodes`"
            ),
        );
        return None;
    };
    if addresses.is_empty() && problems.is_valid() {
        problems.error(node.place, "node.addresses", "is empty: at least one address is needed");
    }
    let own_as = node.as_number.or_else(|| entry.and_then(|entry| entry.as_number));
    Some(LocalNode {
        asn: own_as.unwrap_or(spec.bgp.as_number).value,
        v4: first_v4(&addresses),
        v6: first_v6(&addresses),
        pod_cidrs: pod_cidrs.unwrap_or_default(),
        addresses,
        name,
    })
}

/// The address a node is peered with over IPv4.
fn first_v4(addresses: &[At<IpNet>]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|at| match at.value {
        IpNet::V4(net) => Some(net.addr()),
        IpNet::V6(_) => None,
    })
}

/// The address a node is peered with over IPv6.
fn first_v6(addresses: &[At<IpNet>]) -> Option<Ipv6Addr> {
    addresses.iter().find_map(|at| match at.value {
        IpNet::V6(net) => Some(net.addr()),
        IpNet::V4(_) => None,
    })
}

fn router_id(spec: &ConfigSpec, local: &LocalNode) -> Ipv4Addr {
    match spec.node.router_id {
        Some(configured) => configured.value,
        None => default_router_id(&local.name, local.v4),
    }
}

/// The BGP Identifier of a node that has none configured: its first IPv4 address, else 32 bits
/// hashed from its name. The hash is FNV-1a and must stay the same in all versions: two agents must
/// not disagree about a node, and a node not with itself after an upgrade.
fn default_router_id(name: &str, v4: Option<Ipv4Addr>) -> Ipv4Addr {
    v4.unwrap_or_else(|| {
        let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, octet| {
            (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193)
        });
        Ipv4Addr::from(hash.max(1))
    })
}

/// Two speakers with the same identifier never get a session up (RFC 6286 §2.2). Another node's may
/// be configured there, so what we compute of it is worth a warning only.
fn check_router_ids(own: Ipv4Addr, members: &[&NodeSpec], problems: &mut Problems) {
    for node in members {
        if default_router_id(&node.name.value, first_v4(&node.addresses)) == own {
            problems.warn(
                node.place,
                format!("nodes[{}]", node.name.value),
                format!(
                    "has our router id {own} unless another is configured there; no session comes \
                     up between two speakers with the same one"
                ),
            );
        }
    }
}

fn check_kernel(spec: &ConfigSpec, problems: &mut Problems) {
    let blackhole = spec.kernel.blackhole_metric;
    if blackhole.value <= spec.kernel.metric {
        problems.error(
            blackhole.place,
            "kernel.blackholeMetric",
            format!(
                "{} is not greater than kernel.metric {}: the blackhole must be what is used last",
                blackhole.value, spec.kernel.metric
            ),
        );
    }
}

/// Where we listen: on the node's addresses unless told otherwise.
fn listen(spec: &ConfigSpec, local: &LocalNode, problems: &mut Problems) -> Vec<SocketAddr> {
    let port = spec.bgp.listen_port;
    let Some(configured) = &spec.bgp.listen_addresses else {
        return local.addresses.iter().map(|at| SocketAddr::new(at.value.addr(), port)).collect();
    };
    for (index, at) in configured.iter().enumerate() {
        let conflict = configured[..index].iter().find(|earlier| {
            earlier.value == at.value
                || earlier.value.is_ipv4() == at.value.is_ipv4()
                    && (earlier.value.is_unspecified() || at.value.is_unspecified())
        });
        if let Some(conflict) = conflict {
            problems.error(
                at.place,
                "bgp.listenAddresses",
                format!(
                    "{} is covered by {} already; leave out one of them",
                    at.value, conflict.value
                ),
            );
        }
    }
    configured.iter().map(|at| SocketAddr::new(at.value, port)).collect()
}

/// With neither pools nor pod CIDRs of others the default policy cannot tell what belongs to the
/// cluster, and accepts from the cluster's own speakers everything but the default route.
fn warn_open_policy(
    cluster: &routelet_bgp::core::policy::ClusterPrefixes,
    peers: &[Arc<PeerConfig>],
    problems: &mut Problems,
) {
    if !cluster.pools.is_empty() || !cluster.pod_cidrs.is_empty() {
        return;
    }
    let open = peers.iter().find(|peer| {
        let decided = |family: Family| {
            peer.rules.import[family.index()].iter().any(|rule| rule.prefix.is_none())
        };
        peer.kind != PeerKind::External && !peer.families.iter().all(decided)
    });
    if let Some(peer) = open {
        problems.warn(
            Place::NONE,
            "pools",
            format!(
                "there are neither pools nor pod CIDRs of other nodes: from {} and its like \
                 everything but the default route is accepted",
                peer.name
            ),
        );
    }
}
