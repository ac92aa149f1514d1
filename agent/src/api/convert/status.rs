//! The status of the agent, and what is wrong with it.

use std::time::Instant;

use super::{count, seconds_since};
use crate::api::backend::Snapshot;
use crate::api::health;
use crate::api::views;
use crate::kernel::{KernelStatus, TunnelStatus};
use crate::nft::FirewallStatus;

/// The whole agent. `peers` are those of [`super::peers`].
#[must_use]
pub fn status(
    snapshot: &Snapshot,
    peers: &[views::Peer],
    (kernel, firewall): (&KernelStatus, &FirewallStatus),
    now: Instant,
) -> views::Status {
    let config = &snapshot.config;
    let speaker = &config.speaker;
    let established = |peer: &&views::Peer| peer.state == "Established";
    let sum = |of: fn(&views::Peer) -> u64| peers.iter().map(of).sum();
    views::Status {
        node_name: config.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: seconds_since(now, snapshot.started),
        as_number: speaker.asn.0,
        router_id: speaker.router_id.to_string(),
        listen: config.listen.clone(),
        pod_cidrs: config.pod_cidrs.clone(),
        config: views::ConfigStatus {
            file: snapshot.file.display().to_string(),
            generation: snapshot.generation,
            loaded_seconds: seconds_since(now, snapshot.loaded),
            refused: snapshot.refused.as_ref().map(|(words, _)| words.clone()),
            refused_seconds: snapshot.refused.as_ref().map(|(_, at)| seconds_since(now, *at)),
            needs_restart: snapshot.needs_restart.clone(),
            warnings: config.warnings.clone(),
        },
        first_sync: snapshot.first_sync,
        peers: views::PeerSums {
            configured: count(peers.len()),
            established: count(peers.iter().filter(established).count()),
            disabled: count(peers.iter().filter(|peer| !peer.enabled).count()),
            received: sum(|peer| peer.received),
            accepted: sum(|peer| peer.accepted),
            advertised: sum(|peer| peer.advertised),
        },
        kernel: views::Kernel {
            enabled: config.kernel.enabled,
            table: config.kernel.table,
            protocol: config.kernel.protocol,
            metric: config.kernel.metric,
            desired: count(kernel.desired),
            installed: count(kernel.installed),
            failed: count(kernel.failed),
            adopted: count(kernel.adopted),
            synced: kernel.synced,
            repaired: kernel.repaired,
            tunnels: kernel.tunnels.iter().map(tunnel).collect(),
            problems: kernel.problems.clone(),
        },
        cni: views::Cni {
            enabled: config.cni.enabled,
            file: config.cni.conf_dir.join(crate::cni::FILE_NAME).display().to_string(),
            written: snapshot.cni.written,
            plugin: config.cni.plugin.to_string(),
            mtu: snapshot.cni.mtu,
            waiting: snapshot.cni.waiting.clone(),
            problems: snapshot.cni.problems.clone(),
        },
        firewall: views::Firewall {
            guard: firewall.guard.clone(),
            nat_outgoing: firewall.nat.clone(),
            service_addresses: firewall.services.clone(),
            forward: firewall.forward.clone(),
            repaired: firewall.repaired,
            problems: firewall.problems.clone(),
        },
        pending: health::pending(snapshot, Some(kernel)),
        problems: problems(snapshot, peers, kernel, firewall),
    }
}

fn tunnel(tunnel: &TunnelStatus) -> views::Tunnel {
    views::Tunnel {
        device: tunnel.device.clone(),
        encapsulation: tunnel.encapsulation.to_string(),
        ready: tunnel.ready.is_ok(),
        state: tunnel.ready.as_ref().map_or_else(Clone::clone, |()| "up".to_owned()),
        local: tunnel.local,
        mtu: Some(tunnel.mtu).filter(|mtu| *mtu > 0),
        addresses: tunnel.addresses.clone(),
        nodes: count(tunnel.nodes),
    }
}

/// What is wrong, a line each. A peer somebody disabled is not: it is what they wanted.
fn problems(
    snapshot: &Snapshot,
    peers: &[views::Peer],
    kernel: &KernelStatus,
    firewall: &FirewallStatus,
) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some((words, _)) = &snapshot.refused {
        problems.push(format!(
            "the configuration in {} was refused, an older one keeps running: {words}",
            snapshot.file.display()
        ));
    }
    problems.extend(snapshot.problems.iter().cloned());
    problems.extend(snapshot.notes.iter().map(|note| format!("configuration: {note}")));
    for field in &snapshot.needs_restart {
        problems.push(format!("a change of the configuration waits for a restart: {field}"));
    }
    problems.extend(peers.iter().filter_map(views::Peer::problem));
    if !snapshot.first_sync {
        problems.push("the first sync is not complete: peers have not sent everything".to_owned());
    }
    match kernel.failed {
        0 => {}
        1 => problems
            .push("1 route is not in the kernel: `routelet routes` says which and why".to_owned()),
        failed => problems.push(format!(
            "{failed} routes are not in the kernel: `routelet routes` says which and why"
        )),
    }
    problems.extend(kernel.problems.iter().map(|problem| format!("kernel: {problem}")));
    problems.extend(
        snapshot
            .cni
            .waiting
            .iter()
            .map(|what| format!("the CNI configuration is not written yet: it waits for {what}")),
    );
    problems.extend(snapshot.cni.problems.iter().map(|problem| format!("CNI: {problem}")));
    problems.extend(firewall.problems.iter().map(|problem| format!("firewall: {problem}")));
    problems
}

impl views::Peer {
    /// What is wrong with the session, in one line; `None` if it is up or disabled.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let disabled = self.families.iter().any(|counts| counts.disabled.is_some());
        if (self.state == "Established" && !disabled) || !self.enabled {
            return None;
        }
        let why = self.last_error.as_deref().unwrap_or(if self.passive {
            "it has not connected to us yet (passive)"
        } else {
            "no attempt has been answered yet"
        });
        if disabled {
            return Some(format!("peer {} ({}): {why}", self.name, self.peer_ip));
        }
        Some(format!(
            "peer {} ({}) is {}, not Established: {why}",
            self.name, self.peer_ip, self.state
        ))
    }
}
