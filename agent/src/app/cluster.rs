//! The daemon in a cluster: its configurations come from the API server, its reports go there.
//!
//! In flow: [`State`]s of the Kubernetes side. Out flow: the same applies as for a file, and [`Facts`]
//! for the node's status. The daemon starts with the first configuration there is: from the API
//! server, or from the disk if that does not answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use kube::Client;
use routelet_bgp::core::config::PeerKind;
use routelet_bgp::core::view::SessionView;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::daemon::{Daemon, Trigger};
use crate::api::{Backend, health};
use crate::config::{self, Config, Loaded};
use crate::kube::address::ThisHost;
use crate::kube::crd::PeerStatus;
use crate::kube::source::{self, Options, Timing};
use crate::kube::state::State;
use crate::kube::status::{self, Agent, Facts, Rhythm};
use crate::metrics;

/// What the command line says about the cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Name of the own Node; the host's by default.
    pub node: Option<String>,
    /// The agents' namespace, where the Secrets are; that of the credentials by default.
    pub namespace: Option<String>,
}

/// The Kubernetes side, with the configuration to start with.
pub struct Cluster {
    client: Client,
    node: String,
    states: watch::Receiver<State>,
    first: Arc<Config>,
    generation: u64,
}

impl Cluster {
    /// Connects, and waits for the first configuration as long as it takes: without one there is
    /// nothing to run, and a restart would not bring it. `waits_for` takes what it waits for.
    ///
    /// # Errors
    /// No credentials, no node name, or a file that is refused.
    pub async fn start(
        options: &ClusterOptions,
        file: Option<&Path>,
        metrics: &metrics::Control,
        waits_for: impl Fn(Vec<String>),
    ) -> anyhow::Result<Self> {
        let timing = Timing::default();
        let (client, namespace) = crate::kube::connect(timing.pace)
            .await
            .map_err(|words| anyhow::anyhow!("cannot talk to a Kubernetes API server: {words}"))?;
        let node = match &options.node {
            Some(node) => node.clone(),
            None => config::host_name()
                .context("this host has no name; say the node's with --node-name")?
                .to_lowercase(),
        };
        let text = match file {
            Some(file) => Some(
                std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read {}", file.display()))?,
            ),
            None => None,
        };
        // Whoever probes must see that we wait, and for what.
        metrics.listen(config::base_metrics(text.as_deref().unwrap_or_default()).listen);
        let name = file.map(|file| file.display().to_string()).unwrap_or_default();
        let source = Options {
            client: client.clone(),
            node: node.clone(),
            namespace: options.namespace.clone().unwrap_or(namespace),
            state_dir: PathBuf::from(source::STATE_DIR),
            host: Arc::new(ThisHost),
            timing,
        };
        let base = text.as_deref().map(|text| (name.as_str(), text));
        let mut states = source::start(source, base)?;
        let mut said = Vec::new();
        loop {
            let state = states.borrow_and_update().clone();
            waits_for(state.pending());
            if let Some(first) = state.config {
                let generation = state.generation;
                return Ok(Self { client, node, states, first, generation });
            }
            let pending = state.pending();
            if pending != said {
                tracing::info!(%node, reason = %pending.join("; "), "waiting");
                said = pending;
            }
            states.changed().await.context("the Kubernetes side ended")?;
        }
    }

    /// The configuration to start with.
    pub fn loaded(&self) -> Loaded {
        Loaded { config: Config::clone(&self.first), files: Vec::new() }
    }

    /// Reports what `daemon` does, and applies what changes, for ever.
    pub async fn follow(self, daemon: Arc<Daemon>, mut hangup: Signal) {
        let Self { client, node, mut states, mut generation, .. } = self;
        daemon.in_cluster(states.clone());
        let _reports = Reports(tokio::spawn(status::report(
            client,
            node,
            states.clone(),
            daemon.clone(),
            Rhythm::default(),
        )));
        loop {
            let state = states.borrow_and_update().clone();
            daemon.note(notes(&state));
            if let Some(config) = state.config.filter(|_| state.generation != generation) {
                generation = state.generation;
                let loaded = Loaded { config: Config::clone(&config), files: Vec::new() };
                if let Err(error) = daemon.take(loaded, Trigger::Cluster).await {
                    tracing::error!(%error, "the configuration cannot be applied");
                }
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                _ = hangup.recv() => {
                    tracing::info!("SIGHUP: what the API server has is here already");
                }
            }
        }
    }
}

/// What `status` says about where the configuration comes from.
fn notes(state: &State) -> Vec<String> {
    let refused = state.refused.iter().map(|(key, refused)| {
        let kept = if refused.previous_in_use { "; the version before stays in use" } else { "" };
        format!("{key} is refused: {}{kept}", refused.message)
    });
    state.pending().into_iter().chain(refused).collect()
}

/// Ends the reports when it is dropped.
struct Reports(tokio::task::JoinHandle<()>);

impl Drop for Reports {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Agent for Daemon {
    async fn facts(&self) -> Facts {
        let snapshot = self.snapshot();
        let mut pending = health::pending(&snapshot, Some(&self.kernel_status().await));
        let started = self.started_at();
        let peers = match self.peers().await {
            Ok(peers) => peers.iter().map(|(session, _)| peer(session, started)).collect(),
            Err(error) => {
                pending.push(error.to_string());
                Vec::new()
            }
        };
        Facts { router_id: snapshot.config.speaker.router_id.to_string(), peers, pending }
    }
}

/// A session as a row. Times count from one moment that both clocks know, so that the same moment
/// always gives the same words.
fn peer(session: &SessionView, started: (Instant, jiff::Timestamp)) -> PeerStatus {
    let (instant, wall) = started;
    let since = match session.since.checked_duration_since(instant) {
        Some(after) => wall.checked_add(after),
        None => wall.checked_sub(instant.duration_since(session.since)),
    };
    PeerStatus {
        name: session.config.name.to_string(),
        peer_ip: session.config.address.to_string(),
        kind: match session.config.kind {
            PeerKind::Mesh => "Mesh",
            PeerKind::Internal => "Internal",
            PeerKind::External => "External",
        }
        .to_owned(),
        as_number: session.config.remote_as.0.into(),
        state: session.state.to_string(),
        since: since.ok().map(|since| since.strftime("%Y-%m-%dT%H:%M:00Z").to_string()),
        last_error: session.last_error.as_ref().map(|(words, _)| words.clone()),
    }
}
