//! What a new configuration changes, as the API shows it.

use crate::api::views::Change;
use crate::config::{PeerStep, Plan};

/// Effect of a change that happens under running sessions.
pub const LIVE: &str = "live";
/// Effect of a change that ends or resets a session.
pub const RESET: &str = "reset";
/// Effect of a change that only a restart brings about.
pub const RESTART: &str = "restart";

/// The changes of a plan, sessions first.
pub fn changes(plan: &Plan) -> Vec<Change> {
    let change = |effect: &str, what: String| Change { effect: effect.to_owned(), what };
    let peers = plan.peers.iter().map(|(name, step)| match step {
        PeerStep::Added => change(LIVE, format!("peer {name} is added")),
        PeerStep::Removed => change(RESET, format!("peer {name} is removed, its session ends")),
        PeerStep::Live(keys) => change(LIVE, format!("peer {name}: {}", keys.join(", "))),
        PeerStep::Reset(keys) => change(RESET, format!("peer {name}: {keys}")),
    });
    let speaker = plan.speaker.iter().map(|words| change(LIVE, words.clone()));
    let kernel = plan.kernel.iter().map(|words| change(LIVE, words.clone()));
    let cni = plan.cni.iter().map(|words| change(LIVE, format!("pods to come: {words}")));
    let metrics = plan.metrics.iter().map(|words| change(LIVE, words.clone()));
    let restart = plan.restart_required.iter().map(|words| change(RESTART, words.clone()));
    peers.chain(speaker).chain(kernel).chain(cni).chain(metrics).chain(restart).collect()
}
