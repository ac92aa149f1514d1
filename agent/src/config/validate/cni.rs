//! What pods need to know of the configuration: whether, where, and how large their packets may be.

use std::net::IpAddr;
use std::sync::Arc;

use routelet_bgp::core::config::PeerConfig;

use super::LocalNode;
use crate::cni::CniConfig;
use crate::config::problem::Problems;
use crate::config::scalar;
use crate::config::spec::ConfigSpec;
use crate::kernel::TunnelConfig;

/// For the CNI configuration.
pub(super) fn cni(
    spec: &ConfigSpec,
    local: &LocalNode,
    peers: &[Arc<PeerConfig>],
    tunnels: &TunnelConfig,
    problems: &mut Problems,
) -> CniConfig {
    if let Some(enabled) = spec.cni.enabled
        && enabled.value
        && !spec.kernel.enabled
    {
        problems.error(
            enabled.place,
            "cni.enabled",
            "is true while kernel.enabled is false: pods would get addresses that no other node \
             reaches; switch one of them",
        );
    }
    CniConfig {
        enabled: spec.cni.enabled.is_some_and(|at| at.value),
        conf_dir: spec.cni.conf_dir.clone(),
        bin_dirs: spec.cni.bin_dirs.clone(),
        plugin: spec.cni.plugin,
        mtu: spec.cni.mtu,
        overhead: tunnels.overhead(),
        tunnel_mtu: tunnels.mtu.filter(|_| tunnels.overhead() > 0),
        pod_cidrs: local.pod_cidrs.iter().map(|at| at.value).collect(),
        addresses: local.v4.map(IpAddr::V4).into_iter().chain(local.v6.map(IpAddr::V6)).collect(),
        towards: one_of_each_family(peers),
    }
}

/// A peer's address in each family there is, none that is link-local.
fn one_of_each_family(peers: &[Arc<PeerConfig>]) -> Vec<IpAddr> {
    let first = |ipv4: bool| {
        let mut addresses = peers.iter().map(|peer| peer.address);
        addresses.find(|peer| peer.is_ipv4() == ipv4 && !scalar::is_link_local(*peer))
    };
    [true, false].into_iter().filter_map(first).collect()
}
