//! Which pools ask for which tunnel, and the nodes that tunnels may lead to.

use crate::config::problem::{Place, Problems};
use crate::config::spec::{ConfigSpec, NodeSpec, PoolSpec};
use crate::kernel::{Encapsulation, TunnelConfig, TunnelMode, TunnelNode, TunnelPool};

use super::LocalNode;

/// What the kernel side must know about tunnels.
pub(super) fn tunnels(
    spec: &ConfigSpec,
    local: &LocalNode,
    members: &[&NodeSpec],
    problems: &mut Problems,
) -> TunnelConfig {
    let pools = spec.pools.iter().map(|pool| TunnelPool {
        name: pool.name.value.clone(),
        cidr: pool.cidr.value,
        asks: asks(pool, problems),
    });
    let pools: Vec<_> = pools.collect();
    let of_ipip = |pool: &&TunnelPool| {
        pool.asks.is_some_and(|(encapsulation, _)| encapsulation == Encapsulation::IpIp)
    };
    if local.v4.is_none()
        && spec.kernel.enabled
        && let Some(pool) = pools.iter().find(of_ipip)
    {
        problems.warn(
            Place::NONE,
            format!("pools[{}].ipipMode", pool.name),
            "this node has no IPv4 address, which IP-in-IP needs: routes to the pool that need the \
             tunnel stay out of the kernel; use vxlanMode",
        );
    }
    TunnelConfig {
        pools,
        node: TunnelNode {
            name: local.name.clone(),
            addresses: local.addresses.iter().map(|at| at.value.addr()).collect(),
            pod_cidrs: local.pod_cidrs.iter().map(|at| at.value).collect(),
        },
        nodes: members
            .iter()
            .map(|node| TunnelNode {
                name: node.name.value.clone(),
                addresses: node.addresses.iter().map(|at| at.value.addr()).collect(),
                pod_cidrs: node.pod_cidrs.iter().map(|at| at.value).collect(),
            })
            .collect(),
        vxlan_port: spec.tunnels.vxlan_port,
        vxlan_vni: spec.tunnels.vxlan_vni,
        mtu: spec.tunnels.mtu,
        guard: spec.tunnels.guard,
    }
}

fn asks(pool: &PoolSpec, problems: &mut Problems) -> Option<(Encapsulation, TunnelMode)> {
    let path = |key: &str| format!("pools[{}].{key}", pool.name.value);
    if let (Some(ipip), Some(vxlan)) = (pool.ipip_mode, pool.vxlan_mode) {
        let later = ipip.place.max(vxlan.place);
        problems.error(
            later,
            path(if later == vxlan.place { "vxlanMode" } else { "ipipMode" }),
            "a pool has one tunnel: at most one of ipipMode and vxlanMode is other than `Never`",
        );
    }
    if let Some(ipip) = pool.ipip_mode
        && pool.cidr.value.addr().is_ipv6()
    {
        problems.error(
            ipip.place,
            path("ipipMode"),
            format!("IP-in-IP carries IPv4 only and {} is IPv6; use vxlanMode", pool.cidr.value),
        );
    }
    let ipip = pool.ipip_mode.map(|at| (Encapsulation::IpIp, at.value));
    ipip.or_else(|| pool.vxlan_mode.map(|at| (Encapsulation::Vxlan, at.value)))
}
