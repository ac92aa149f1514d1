//! What the own Node is told when its network works: NetworkUnavailable is False, and the startup taint
//! goes.
//!
//! In flow: the own Node as the watch shows it, and whether the first routes are in the kernel. Out
//! flow: two patches of the own Node, once each.
//!
//! What always holds: nothing is ever set back, for routes stay when the agent stops; conditions and
//! taints of others are not touched: the condition goes by a merge that knows it by its type, the taint
//! by its place, and only if it still is in that place.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::disk::now;
use super::objects::{Node, NodeObject, STARTUP_TAINT};

/// Why the network is available, as other network plugins have theirs.
const REASON: &str = "RouteletIsUp";
/// What was told is not told again for so long, whatever the watch shows.
const SETTLE: Duration = Duration::from_secs(10);

/// What was told, and when.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    last: Option<Instant>,
}

impl Readiness {
    /// Tells `node`, our own, that its network works, as far as it does not say so yet.
    ///
    /// # Errors
    /// The API server's; it is to be tried again.
    pub(super) async fn tell(
        &mut self,
        client: &Client,
        node: &Node,
        manager: &str,
    ) -> kube::Result<()> {
        let settled = self.last.is_none_or(|last| last.elapsed() >= SETTLE);
        if !settled || node.network_available && node.startup_taints.is_empty() {
            return Ok(());
        }
        if !node.network_available {
            network_is_available(client, &node.name, manager).await?;
            tracing::info!("NetworkUnavailable is False: the first routes are in the kernel");
        }
        self.last = Some(Instant::now());
        // The last one first, so that the places of the others stay.
        for place in node.startup_taints.iter().rev() {
            match remove_taint(client, &node.name, manager, *place).await {
                Ok(()) => tracing::info!(taint = STARTUP_TAINT, "the startup taint is removed"),
                // The taints have changed meanwhile: the watch will say how.
                Err(kube::Error::Api(status)) if matches!(status.code, 409 | 422) => return Ok(()),
                Err(error) => {
                    self.last = None;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

async fn network_is_available(client: &Client, name: &str, manager: &str) -> kube::Result<()> {
    let condition = json!({
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": REASON,
        "message": "routelet has the first routes in the kernel",
        "lastHeartbeatTime": now(),
        "lastTransitionTime": now(),
    });
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    let api: Api<NodeObject> = Api::all(client.clone());
    api.patch_status(name, &params, &patch).await.map(drop)
}

/// Taints are a list without keys to the API server: one is removed by its place, after a test that it
/// is there.
async fn remove_taint(
    client: &Client,
    name: &str,
    manager: &str,
    place: usize,
) -> kube::Result<()> {
    let taint = format!("/spec/taints/{place}");
    let patch = json!([
        {"op": "test", "path": format!("{taint}/key"), "value": STARTUP_TAINT},
        {"op": "remove", "path": taint},
    ]);
    let request = hyper::Request::patch(format!("/api/v1/nodes/{name}?fieldManager={manager}"))
        .header(hyper::header::CONTENT_TYPE, "application/json-patch+json")
        .body(patch.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    client.request::<Value>(request).await.map(drop)
}
