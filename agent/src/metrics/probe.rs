//! The answers of the probes: whether the agent lives, and whether it is ready.
//!
//! In flow: what is looked at, asked when somebody wants to know. Out flow: [`Report`]s.
//!
//! What always holds: *live* means that the speaker's thread answers; a node that merely waits, for the
//! API server or for its peers, is alive. *Ready* is what [`crate::api::health`] says.

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use routelet_bgp::core::view::RouteSelector;
use tokio::time::timeout;

use super::Subject;
use crate::api::Backend;
use crate::api::health::{Check, checks};

/// How long a part of the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

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
