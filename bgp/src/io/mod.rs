//! The tokio driver of the speaker: what the agent starts, and the handle it talks through.
//!
//! ```text
//!  agent ──apply, queries──► SpeakerHandle ──(bounded)──► speaker thread ──► RouteQueue (latest per prefix) ──► kernel
//!                                                          ▲      │
//!                             events, UPDATE batches (bounded)    │ octets (counted, per session)
//!                                                          │      ▼
//!  TCP ◄──────────────────────────────────────────────► session task, one per peer
//!  listener, one per address ──accepted connection──► session task of that peer
//! ```

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use tokio::sync::Notify;

use crate::core::config::SpeakerConfig;
use crate::core::forwarding::{ForwardingNextHop, NextHopAnswer, RouteChange};
use crate::core::view::{
    ExplainView, PeerTableView, RouteQuery, RouteSelector, RouteView, SessionView,
};

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
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// Where to listen; empty: nowhere, all peers are connected to.
    pub listen: Vec<SocketAddr>,
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

/// The handle to a running speaker; clones talk to the same one.
#[derive(Clone, Debug)]
pub struct SpeakerHandle {
    queue: Arc<RouteQueue>,
}

impl SpeakerHandle {
    /// Binds the listeners, starts the speaker's thread and its tasks.
    ///
    /// # Errors
    /// An address that cannot be bound, in words that name the address and the capability
    /// (NET_BIND_SERVICE) where that is what is missing.
    pub async fn start(driver: DriverConfig, config: Arc<SpeakerConfig>) -> std::io::Result<Self> {
        let _ = (driver, config);
        todo!()
    }

    /// What the kernel side is to do.
    #[must_use]
    pub fn route_queue(&self) -> Arc<RouteQueue> {
        self.queue.clone()
    }

    /// Applies a new configuration; returns when the speaker has taken it.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn apply(&self, config: Arc<SpeakerConfig>) -> Result<(), RequestError> {
        let _ = config;
        todo!()
    }

    /// Answers about next hops, from the kernel side.
    pub async fn answer_next_hops(&self, answers: Vec<NextHopAnswer>) {
        let _ = answers;
        todo!()
    }

    /// The peers: session and tables side by side, by name.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn peers(&self) -> Result<Vec<(SessionView, PeerTableView)>, RequestError> {
        todo!()
    }

    /// Routes.
    ///
    /// # Errors
    /// [`RequestError::UnknownPeer`] for a table of a peer that is not there.
    pub async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteView>, RequestError> {
        let _ = query;
        todo!()
    }

    /// Everything about one destination.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn explain(&self, selector: RouteSelector) -> Result<ExplainView, RequestError> {
        let _ = selector;
        todo!()
    }

    /// Does something to a peer by hand.
    ///
    /// # Errors
    /// [`RequestError::UnknownPeer`].
    pub async fn command(&self, peer: &str, command: PeerCommand) -> Result<(), RequestError> {
        let _ = (peer, command);
        todo!()
    }

    /// Whether every configured peer has sent End-of-RIB or its deferral has passed.
    #[must_use]
    pub fn first_sync(&self) -> bool {
        todo!()
    }

    /// Ends every session and the thread; returns when all is sent and closed, at the latest after
    /// two seconds.
    pub async fn stop(&self, mode: StopMode) {
        let _ = mode;
        todo!()
    }

    /// Completes when the speaker's thread or a session task has panicked, with the reason; never
    /// otherwise. The agent then ends with a non-zero exit.
    pub async fn failed(&self) -> String {
        std::future::pending().await
    }
}
