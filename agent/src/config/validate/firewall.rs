//! What the firewall must know: who the nodes are, where pods live, which pools ask for what.

use ipnet::IpNet;

use super::LocalNode;
use crate::config::spec::{ConfigSpec, NodeSpec};
use crate::kernel::{Encapsulation, TunnelConfig};
use crate::nft::{FirewallConfig, Services, Tunnels};

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
        // The part of the agent that advertises service addresses fills it in.
        services: Services::default(),
        forward_accept: spec.kernel.forward_accept,
        repair: spec.kernel.repair,
    }
}
