//! The tokio driver of the speaker: what the agent starts, and the handle it talks through.
//!
//! ```text
//!                requests (64)                    coalesced: latest per prefix
//!  SpeakerHandle ────────────► speaker thread (1) ────────────► RouteQueue ──► kernel
//!                               ▲          │   │
//!          PeerEvents (64 reads)│  commands│   │WriteQueue, one per Established session:
//!                               │      (64)▼   ▼encoded UPDATEs, stopped at 1 MiB
//!                              session task, one per peer
//!                               ▲          │
//!  listener, one per address ───┘          └─► connections: at most one outgoing, one
//!   (connections of known peers)               incoming, one Established
//! ```
//!
//! Who waits for whom: a session task whose events the speaker does not take stops reading, and goes
//! on writing, keeping time and taking commands; the speaker never waits for a session. Session
//! tasks run on the caller's runtime, on as many threads as it has.
//!
//! While the speaker rests, a session task handles a few UPDATEs itself ([`state`]), and whoever
//! handles them writes small pieces to resting sessions at once ([`queue`]): a single change needs
//! no other thread.

pub mod codec;
mod command;
mod connect;
mod events;
mod handle;
mod link;
mod listener;
mod queue;
mod request;
mod sockopt;
mod speaker;
mod state;
mod task;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use routelet_proto::FamilySet;
use tokio::sync::{Notify, mpsc};

use crate::core::forwarding::{ForwardingNextHop, RouteChange};

/// What the kernel side is to do, coalesced: the latest change of each prefix, the next hops to
/// track. The speaker writes, one reader takes all at once. Bounded by the table.
#[derive(Debug, Default)]
pub struct RouteQueue {
    pending: Mutex<PendingRoutes>,
    ready: Notify,
}

/// What has gathered since the last [`RouteQueue::take`].
#[derive(Debug, Default)]
pub struct PendingRoutes {
    /// Latest change of each prefix.
    pub changes: HashMap<IpNet, RouteChange, foldhash::fast::FixedState>,
    /// Next hops to begin (`true`) or to cease (`false`) tracking.
    pub tracking: HashMap<ForwardingNextHop, bool, foldhash::fast::FixedState>,
    /// The speaker's first sync is in `changes` or came before.
    pub first_sync: bool,
}

impl RouteQueue {
    /// Waits until there is something, then takes all of it.
    pub async fn take(&self) -> PendingRoutes {
        loop {
            let ready = self.ready.notified();
            {
                let mut pending = self.pending.lock().expect("invariant: no holder panics");
                if !pending.changes.is_empty() || !pending.tracking.is_empty() || pending.first_sync
                {
                    return std::mem::take(&mut *pending);
                }
            }
            ready.await;
        }
    }

    /// Adds to what has gathered and wakes the reader.
    pub fn update(&self, change: impl FnOnce(&mut PendingRoutes)) {
        change(&mut self.pending.lock().expect("invariant: no holder panics"));
        self.ready.notify_one();
    }
}

/// How to start the driver.
#[derive(Clone, Debug, Default)]
pub struct DriverConfig {
    /// Where to listen; empty: nowhere, all peers are connected to.
    pub listen: Vec<SocketAddr>,
    /// The process has restarted: peers may hold our routes (R bit, RFC 4724 §3).
    pub restarted: bool,
    /// Families whose forwarding state of a former life is in place (F bit).
    pub forwarding: FamilySet,
}

/// How sessions end when the speaker stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StopMode {
    /// As for a restart: silently where graceful restart was negotiated, else with
    /// Cease/Administrative Shutdown.
    Restart,
    /// Everything is withdrawn, then Cease/Administrative Shutdown.
    Withdraw,
}

/// What is done to a peer by hand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PeerCommand {
    /// Cease/Administrative Reset with a message; the session comes back.
    Reset(String),
    /// Cease/Administrative Shutdown with a message; it stays down until enabled.
    Disable(String),
    /// Lets it come back.
    Enable,
}

/// A request that cannot be met.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// No such peer.
    #[error("no peer is named {0}; `routelet peers` lists them")]
    UnknownPeer(String),
    /// The speaker has stopped.
    #[error("the speaker has stopped")]
    Stopped,
}

/// The handle to a running speaker; clones talk to the same one. When the last is dropped, the
/// speaker stops as for a restart.
#[derive(Clone, Debug)]
pub struct SpeakerHandle {
    shared: Arc<request::Shared>,
    requests: mpsc::Sender<request::Request>,
}
