//! Health: whether the agent lives, whether it is ready, and what it waits for.
//!
//! In flow: the daemon's snapshots, asked when somebody wants to know. Out flow: [`Check`]s, for the
//! probes, `routelet status --ready`, the report in the API, and what is told to the node.
//!
//! What always holds: *live* means that the speaker's thread answers; a node that merely waits, for the
//! API server or for its peers, is alive. *Ready* never depends on one peer of many: a session that is
//! down is a problem, and the others are served.

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use routelet_bgp::core::view::RouteSelector;
use tokio::time::timeout;

use super::Subject;
use crate::api::{Backend, Snapshot};
use crate::kernel::{KernelStatus, TunnelStatus};

/// How long a part of the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One thing that must be well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// What is looked at, in one word or two.
    pub name: &'static str,
    /// What it waits for, in words; nothing when it is well.
    pub pending: Option<String>,
}

impl Check {
    fn new(name: &'static str, well: bool, pending: impl Into<String>) -> Self {
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

/// An answer of a probe.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Report(Vec<Check>);

impl Report {
    pub(super) fn is_well(&self) -> bool {
        self.0.iter().all(|check| check.pending.is_none())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.0 {
            match &check.pending {
                None => writeln!(f, "[+] {}", check.name)?,
                Some(words) => writeln!(f, "[-] {}: {words}", check.name)?,
            }
        }
        f.write_str(if self.is_well() { "ok\n" } else { "not ok\n" })
    }
}

/// Whether the speaker's thread answers. Without a configuration there is none that could hang.
pub(super) async fn live<B: Backend>(subject: &Subject<B>) -> Report {
    let Some(daemon) = subject.daemon() else {
        return Report(vec![Check::new("process", true, "")]);
    };
    // A destination that never is in the table: the question costs nothing.
    let nowhere = IpNet::from(std::net::IpAddr::from([255, 255, 255, 255]));
    let answered = timeout(PATIENCE, daemon.explain(RouteSelector::Exact(nowhere))).await;
    let words = match answered {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("it has not answered for {} s", PATIENCE.as_secs())),
    };
    Report(vec![Check { name: "speaker", pending: words }])
}

/// Whether the node's routes can be relied on.
pub(super) async fn ready<B: Backend>(subject: &Subject<B>) -> Report {
    let Some(daemon) = subject.daemon() else {
        let words = subject.waiting().join("; ");
        return Report(vec![Check::new("configuration", false, words)]);
    };
    let kernel = timeout(PATIENCE, daemon.kernel_status()).await.ok();
    Report(checks(&daemon.snapshot(), kernel.as_ref()))
}

/// Both, in one.
pub(super) async fn healthy<B: Backend>(subject: &Subject<B>) -> Report {
    let (mut live, ready) = (live(subject).await, ready(subject).await);
    live.0.extend(ready.0);
    live
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
