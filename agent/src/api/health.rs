//! Health: whether the node is ready, and what it waits for.
//!
//! In flow: the daemon's snapshots, asked when somebody wants to know. Out flow: [`Check`]s, for the
//! probes ([`crate::metrics`]), `routelet status --ready`, the report in the API, and what is told to
//! the node.
//!
//! What always holds: *ready* never depends on one peer of many: a session that is down is a problem,
//! and the others are served.

use super::Snapshot;
use crate::kernel::{KernelStatus, TunnelStatus};

/// One thing that must be well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// What is looked at, in one word or two.
    pub name: &'static str,
    /// What it waits for, in words; nothing when it is well.
    pub pending: Option<String>,
}

impl Check {
    /// What is looked at, whether it is well, and what it waits for if not.
    pub(crate) fn new(name: &'static str, well: bool, pending: impl Into<String>) -> Self {
        Self { name, pending: (!well).then(|| pending.into()) }
    }
}

/// What readiness consists of: a configuration is applied (there is a snapshot), the first sync is
/// complete, the kernel has acknowledged, and no tunnel is missing that nodes are reached through.
/// `kernel` is `None` if the kernel side does not answer.
#[must_use]
pub fn checks(snapshot: &Snapshot, kernel: Option<&KernelStatus>) -> Vec<Check> {
    let mut checks = vec![
        Check::new("configuration", true, ""),
        Check::new(
            "first sync",
            snapshot.first_sync,
            "the first sync: peers have not sent everything",
        ),
    ];
    if snapshot.config.kernel.enabled {
        checks.push(match kernel {
            None => Check::new("kernel", false, "the kernel side: it does not answer"),
            Some(kernel) => Check::new("kernel", kernel.synced, "the first routes in the kernel"),
        });
        checks.extend(kernel.into_iter().flat_map(|kernel| &kernel.tunnels).filter_map(tunnel));
    }
    checks
}

/// A tunnel that is not there, while nodes are reached through it.
fn tunnel(tunnel: &TunnelStatus) -> Option<Check> {
    let why = tunnel.ready.as_ref().err().filter(|_| tunnel.withholds)?;
    let (device, nodes) = (&tunnel.device, tunnel.nodes);
    Some(Check::new("tunnel", false, format!("{device}, which leads to {nodes} nodes: {why}")))
}

/// What readiness waits for, in words; nothing when ready.
#[must_use]
pub fn pending(snapshot: &Snapshot, kernel: Option<&KernelStatus>) -> Vec<String> {
    checks(snapshot, kernel).into_iter().filter_map(|check| check.pending).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Encapsulation;

    #[test]
    fn a_tunnel_that_routes_wait_for_is_waited_for() {
        let up = TunnelStatus {
            device: "routelet-ipip".to_owned(),
            encapsulation: Encapsulation::IpIp,
            ready: Ok(()),
            withholds: false,
            local: None,
            mtu: 1480,
            addresses: Vec::new(),
            nodes: 2,
        };
        assert_eq!(tunnel(&up), None);
        let lingering = TunnelStatus { ready: Err("kept for a while".to_owned()), ..up.clone() };
        assert_eq!(tunnel(&lingering), None);
        let missing =
            TunnelStatus { ready: Err("no module ipip".to_owned()), withholds: true, ..up };
        let words = "routelet-ipip, which leads to 2 nodes: no module ipip";
        assert_eq!(tunnel(&missing).and_then(|check| check.pending).as_deref(), Some(words));
    }
}
