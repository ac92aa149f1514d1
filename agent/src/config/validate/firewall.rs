//! What the firewall must know: who the nodes are, where pods live, which pools ask for what.

use std::net::IpAddr;

use ipnet::IpNet;

use super::LocalNode;
use crate::config::spec::{ConfigSpec, NodeSpec};
use crate::kernel::{Encapsulation, TunnelConfig};
use crate::nft::{Claim, FirewallConfig, Services, Tunnels};

/// The firewall's part of the configuration.
pub(super) fn firewall(
    spec: &ConfigSpec,
    local: &LocalNode,
    members: &[&NodeSpec],
    tunnels: &TunnelConfig,
) -> FirewallConfig {
    let pools = spec.pools.iter().map(|pool| pool.cidr.value);
    let others = members.iter().flat_map(|node| &node.pod_cidrs);
    let mut pods: Vec<IpNet> =
        pools.chain(local.pod_cidrs.iter().chain(others).map(|at| at.value)).collect();
    pods.sort_unstable();
    pods.dedup();
    let nat = spec.pools.iter().filter(|pool| pool.nat_outgoing).map(|pool| pool.cidr.value);
    let addresses = members.iter().flat_map(|node| &node.addresses);
    FirewallConfig {
        enabled: spec.kernel.enabled,
        guard: tunnels.guard,
        tunnels: Tunnels {
            ipip: tunnels.uses(Encapsulation::IpIp),
            vxlan: tunnels
                .uses(Encapsulation::Vxlan)
                .then_some((tunnels.vxlan_port, tunnels.vxlan_vni)),
        },
        own_addresses: local.addresses.iter().map(|at| at.value.addr()).collect(),
        node_addresses: addresses.map(|at| at.value.addr()).collect(),
        own_pod_cidrs: local.pod_cidrs.iter().map(|at| at.value).collect(),
        pods,
        nat: nat.collect(),
        services: services(spec),
        forward_accept: spec.kernel.forward_accept,
        repair: spec.kernel.repair,
    }
}

/// Where services are known, packets to what we advertise and nobody has are dropped.
fn services(spec: &ConfigSpec) -> Services {
    let Some(claimed) = &spec.services.claimed else { return Services::default() };
    let claim = |address: &IpAddr| Claim { address: *address, port: None };
    Services {
        ranges: spec.services.advertise.iter().map(|at| at.value).collect(),
        claimed: claimed.iter().map(claim).collect(),
    }
}
