//! What a new configuration would change, and what must wait for a restart.
//!
//! In flow: two valid configurations. Out flow: [`Plan`], which `routelet plan` prints and a reload
//! logs. Whether a peer's session is reset is decided in one place only,
//! [`PeerConfig::change_to`](routelet_bgp::core::config::PeerConfig::change_to): the driver acts on the
//! same answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use routelet_bgp::core::config::{PeerChange, PeerConfig, SpeakerConfig};
use serde::Serialize;

use super::Config;
use crate::cni::CniConfig;
use crate::kernel::{Encapsulation, TunnelConfig, TunnelPool};

/// What happens to a peer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerStep {
    /// It is new.
    Added,
    /// It goes; its session ends with Cease/Peer De-configured.
    Removed,
    /// These keys change under the running session.
    Live(Vec<String>),
    /// The session is reset, because of these keys.
    Reset(String),
}

/// The difference between two configurations.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Peers that change, by name.
    pub peers: BTreeMap<String, PeerStep>,
    /// What changes in the speaker without touching a session, in words.
    pub speaker: Vec<String>,
    /// What changes in the kernel, in words.
    pub kernel: Vec<String>,
    /// What changes in the CNI configuration, in words. Pods that run keep what they have.
    pub cni: Vec<String>,
    /// What changes in metrics and probes, in words.
    pub metrics: Vec<String>,
    /// What stays as it is until the agent is restarted, in words.
    pub restart_required: Vec<String>,
}

impl Plan {
    /// Whether nothing changes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The peers whose sessions end or are reset.
    pub fn interrupted(&self) -> impl Iterator<Item = &str> {
        self.peers
            .iter()
            .filter(|(_, step)| matches!(step, PeerStep::Removed | PeerStep::Reset(_)))
            .map(|(name, _)| name.as_str())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changes");
        }
        let mut lines = Vec::new();
        for (name, step) in &self.peers {
            lines.push(match step {
                PeerStep::Added => format!("peer {name}: added"),
                PeerStep::Removed => format!("peer {name}: removed, its session ends"),
                PeerStep::Live(keys) => format!("peer {name}: live change of {}", keys.join(", ")),
                PeerStep::Reset(keys) => format!("peer {name}: session RESET, for {keys}"),
            });
        }
        lines.extend(self.speaker.iter().map(|words| format!("speaker: {words}")));
        lines.extend(self.kernel.iter().map(|words| format!("kernel: {words}")));
        lines.extend(self.cni.iter().map(|words| format!("pods to come: {words}")));
        lines.extend(self.metrics.iter().map(|words| format!("metrics: {words}")));
        lines.extend(self.restart_required.iter().map(|words| format!("after a restart: {words}")));
        f.write_str(&lines.join("\n"))
    }
}

impl Config {
    /// What changes when `new` takes the place of this configuration in a running agent.
    #[must_use]
    pub fn plan(&self, new: &Self) -> Plan {
        let restart_required = self.restart_required(new);
        let new = &self.applicable(new.clone());
        Plan {
            peers: peers(&self.speaker, &new.speaker),
            speaker: speaker(&self.speaker, &new.speaker),
            kernel: self.kernel_changes(new),
            cni: self.cni_changes(new),
            metrics: self.metrics_changes(new),
            restart_required,
        }
    }

    /// What `new` changes that a running agent keeps until it is restarted, each as `key: old → new`.
    #[must_use]
    pub fn restart_required(&self, new: &Self) -> Vec<String> {
        let mut words = Words::default();
        words.changed("node.name", &self.node_name, &new.node_name);
        words.changed("node.routerID", &self.speaker.router_id, &new.speaker.router_id);
        let listen = |config: &Self| {
            let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
            format!("[{}]", listen.join(", "))
        };
        words.changed("bgp.listenAddresses, bgp.listenPort", &listen(self), &listen(new));
        words.changed("kernel.enabled", &self.kernel.enabled, &new.kernel.enabled);
        words.changed("api.socket", &self.api_socket.display(), &new.api_socket.display());
        words.changed("stateDir", &self.state_dir.display(), &new.state_dir.display());
        words.0
    }

    /// `new` as far as a running agent can take it: what must wait for a restart stays as it is here.
    #[must_use]
    pub fn applicable(&self, new: Self) -> Self {
        let mut speaker = SpeakerConfig::clone(&new.speaker);
        // A cluster id that merely followed the router id goes on following it.
        if speaker.cluster_id == speaker.router_id.0 {
            speaker.cluster_id = self.speaker.router_id.0;
        }
        speaker.router_id = self.speaker.router_id;
        speaker.host_name.clone_from(&self.speaker.host_name);
        speaker.track_next_hops = self.speaker.track_next_hops;
        let mut kernel = new.kernel;
        kernel.enabled = self.kernel.enabled;
        kernel.memory.clone_from(&self.kernel.memory);
        let mut firewall = new.firewall;
        firewall.enabled = self.firewall.enabled;
        Self {
            node_name: self.node_name.clone(),
            pod_cidrs: new.pod_cidrs,
            speaker: Arc::new(speaker),
            listen: self.listen.clone(),
            kernel,
            cni: new.cni,
            firewall,
            api_socket: self.api_socket.clone(),
            metrics: new.metrics,
            state_dir: self.state_dir.clone(),
            warnings: new.warnings,
        }
    }

    fn metrics_changes(&self, new: &Self) -> Vec<String> {
        let mut words = Words::default();
        let listen = |config: &Self| match config.metrics.listen {
            Some(address) => address.to_string(),
            None => "none".to_owned(),
        };
        words.changed("metrics.listen", &listen(self), &listen(new));
        words.changed("metrics.meshPeers", &self.metrics.mesh_peers, &new.metrics.mesh_peers);
        words.0
    }

    fn kernel_changes(&self, new: &Self) -> Vec<String> {
        let mut words = Words::default();
        words.changed("kernel.table", &self.kernel.table, &new.kernel.table);
        words.changed("kernel.protocol", &self.kernel.protocol, &new.kernel.protocol);
        words.changed("kernel.metric", &self.kernel.metric, &new.kernel.metric);
        words.changed(
            "kernel.blackholeMetric",
            &self.kernel.blackhole_metric,
            &new.kernel.blackhole_metric,
        );
        words.changed("kernel.repair", &self.kernel.repair, &new.kernel.repair);
        words.changed(
            "kernel.nexthopObjects",
            &self.kernel.nexthop_objects,
            &new.kernel.nexthop_objects,
        );
        words.lists("blackhole", &self.kernel.blackholes, &new.kernel.blackholes);
        words.0.extend(tunnels(&self.kernel.tunnels, &new.kernel.tunnels));
        let (old, new) = (&self.firewall, &new.firewall);
        words.changed("kernel.forwardAccept", old.forward_accept.word(), new.forward_accept.word());
        words.lists("natOutgoing for pool", &old.nat, &new.nat);
        words.0
    }

    fn cni_changes(&self, new: &Self) -> Vec<String> {
        let (old, new) = (&self.cni, &new.cni);
        let mut words = Words::default();
        words.changed("cni.enabled", &old.enabled, &new.enabled);
        if !old.enabled && !new.enabled {
            return words.0;
        }
        let dirs = |config: &CniConfig| {
            let dirs: Vec<_> =
                config.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
            format!("[{}]", dirs.join(", "))
        };
        let mtu = |config: &CniConfig| match config.mtu {
            Some(mtu) => mtu.to_string(),
            None => "what fits".to_owned(),
        };
        words.changed("cni.confDir", &old.conf_dir.display(), &new.conf_dir.display());
        words.changed("cni.binDirs", &dirs(old), &dirs(new));
        words.changed("cni.plugin", &old.plugin, &new.plugin);
        words.changed("cni.mtu", &mtu(old), &mtu(new));
        words.changed("octets of encapsulation", &old.overhead, &new.overhead);
        let tunnel = |config: &CniConfig| match config.tunnel_mtu {
            Some(mtu) => mtu.to_string(),
            None => "none of its own".to_owned(),
        };
        words.changed("MTU of tunnels", &tunnel(old), &tunnel(new));
        words.lists("range of pod addresses", &old.pod_cidrs, &new.pod_cidrs);
        words.0
    }
}

/// What changes of the tunnels. The tunnel of a pool is changed without losing a packet; VXLAN devices
/// with another port or network identifier are made anew.
fn tunnels(old: &TunnelConfig, new: &TunnelConfig) -> Vec<String> {
    let mut words = Words::default();
    for pool in &new.pools {
        let before = old.pools.iter().find(|before| before.cidr == pool.cidr);
        let before = before.map_or_else(|| "Never".to_owned(), TunnelPool::asked);
        words.changed(&format!("tunnel of pool {}", pool.cidr), &before, &pool.asked());
    }
    for pool in old.pools.iter().filter(|pool| pool.asks.is_some()) {
        if !new.pools.iter().any(|after| after.cidr == pool.cidr) {
            words.0.push(format!("tunnel of pool {}: {} → Never", pool.cidr, pool.asked()));
        }
    }
    if old.uses(Encapsulation::Vxlan) && new.uses(Encapsulation::Vxlan) {
        let (port, vni) = (words.0.len(), "VXLAN is interrupted until all nodes have it");
        words.changed("tunnels.vxlanPort", &old.vxlan_port, &new.vxlan_port);
        words.changed("tunnels.vxlanVNI", &old.vxlan_vni, &new.vxlan_vni);
        words.0[port..].iter_mut().for_each(|line| line.push_str(&format!(" ({vni})")));
    }
    let mtu =
        |config: &TunnelConfig| config.mtu.map_or("automatic".to_owned(), |mtu| mtu.to_string());
    words.changed("tunnels.mtu", &mtu(old), &mtu(new));
    words.changed("tunnels.guard", &old.guard, &new.guard);
    words.0
}

fn peers(old: &SpeakerConfig, new: &SpeakerConfig) -> BTreeMap<String, PeerStep> {
    let by_name = |config: &SpeakerConfig| -> BTreeMap<String, Arc<PeerConfig>> {
        config.peers.iter().map(|peer| (peer.name.to_string(), peer.clone())).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let mut steps = BTreeMap::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        steps.insert(name.clone(), PeerStep::Removed);
    }
    for (name, peer) in new {
        let step = match old.get(&name).map(|old| old.change_to(&peer)) {
            None => PeerStep::Added,
            Some(PeerChange::Unchanged) => continue,
            Some(PeerChange::Live) => PeerStep::Live(live_keys(&old[&name], &peer)),
            Some(PeerChange::Reset(keys)) => PeerStep::Reset(keys),
        };
        steps.insert(name, step);
    }
    steps
}

/// The keys that differ and can change under a running session.
fn live_keys(old: &PeerConfig, new: &PeerConfig) -> Vec<String> {
    let keys = [
        ("kind", old.kind != new.kind),
        ("connectRetryTime", old.connect_retry_time != new.connect_retry_time),
        ("routeReflectorClient", old.route_reflector_client != new.route_reflector_client),
        ("numAllowedLocalASNumbers", old.num_allowed_local_as != new.num_allowed_local_as),
        ("nextHopMode", old.next_hop_mode != new.next_hop_mode),
        ("maximumPrefixes", old.maximum_prefixes != new.maximum_prefixes),
        ("filters", old.rules != new.rules),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
}

fn speaker(old: &SpeakerConfig, new: &SpeakerConfig) -> Vec<String> {
    let mut words = Words::default();
    words.changed("asNumber", &old.asn, &new.asn);
    words.changed("routeReflectorClusterID", &old.cluster_id, &new.cluster_id);
    words.changed("bgp.maximumPaths", &old.maximum_paths, &new.maximum_paths);
    let check = |config: &SpeakerConfig| match config.cluster.origin_check {
        true => "Enabled",
        false => "Disabled",
    };
    words.changed("bgp.meshOriginCheck", check(old), check(new));
    let originated = |config: &SpeakerConfig| {
        config.originated.iter().map(|route| route.prefix).collect::<Vec<_>>()
    };
    words.lists("advertised prefix", &originated(old), &originated(new));
    let addresses = |config: &SpeakerConfig| config.cluster.own_addresses.clone();
    words.lists("node address", &addresses(old), &addresses(new));
    words.lists("connected subnet", &old.cluster.connected, &new.cluster.connected);
    words.lists("pool", &old.cluster.pools, &new.cluster.pools);
    words.lists("service range", &old.cluster.services, &new.cluster.services);
    words.lists("pod CIDR of another node", &old.cluster.pod_cidrs, &new.cluster.pod_cidrs);
    words.0
}

/// Differences, in words.
#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn changed<T: fmt::Display + ?Sized>(&mut self, key: &str, old: &T, new: &T) {
        let (old, new) = (old.to_string(), new.to_string());
        if old != new {
            self.0.push(format!("{key}: {old} → {new}"));
        }
    }

    fn lists<T: fmt::Display + Ord>(&mut self, what: &str, old: &[T], new: &[T]) {
        let (old, new): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
            (old.iter().collect(), new.iter().collect());
        self.0.extend(new.difference(&old).map(|item| format!("{what} {item} added")));
        self.0.extend(old.difference(&new).map(|item| format!("{what} {item} removed")));
    }
}
