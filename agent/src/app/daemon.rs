//! The running daemon as one value: its parts, its configuration, and what the API may do with
//! them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ipnet::IpNet;
use routelet_bgp::core::config::{PeerConfig, SpeakerConfig};
use routelet_bgp::core::view::{
    ExplainView, PeerTableView, RouteQuery, RouteSelector, RouteView, SessionView,
};
use routelet_bgp::io::{PeerCommand, RequestError, SpeakerHandle, StopMode};
use tokio::signal::unix::Signal;
use tokio::sync::{Mutex, mpsc, watch};

use crate::api::convert::plan::changes;
use crate::api::{Backend, ClusterSnapshot, Snapshot, views};
use crate::cni::CniHandle;
use crate::config::{self, Config, ConfigWatcher, LoadError, Loaded};
use crate::kernel::{KernelHandle, KernelLookup, KernelStatus, RouteStatus, RouteWay};
use crate::kube::state::{Origin, State};
use crate::metrics;
use crate::nft::{FirewallHandle, FirewallStatus};

/// What `status` shows in place of a file's name where there is none.
pub const ORIGIN: &str = "Kubernetes";

/// Why the configuration is read again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    /// `routelet reload`.
    Request,
    /// The file, or one that it names, has changed.
    FileChanged,
    /// Kubernetes objects have.
    Cluster,
}

impl Trigger {
    fn words(self) -> &'static str {
        match self {
            Self::Signal => "SIGHUP",
            Self::Request => "`routelet reload`",
            Self::FileChanged => "the file changed",
            Self::Cluster => "the objects changed",
        }
    }
}

/// The running daemon. Tables and the kernel's state live with their owners; here is only the
/// configuration, changed by one reload at a time and read as a snapshot.
#[derive(Debug)]
pub struct Daemon {
    /// `None`: it comes from Kubernetes objects.
    file: Option<PathBuf>,
    /// The file, or the word for where it comes from.
    origin: PathBuf,
    speaker: SpeakerHandle,
    kernel: KernelHandle,
    cni: CniHandle,
    firewall: FirewallHandle,
    metrics: metrics::Control,
    /// In a cluster: what the Kubernetes side says.
    states: OnceLock<watch::Receiver<State>>,
    started: Instant,
    started_wall: jiff::Timestamp,
    current: watch::Sender<Current>,
    /// Peers that somebody disabled by hand, until they are enabled or the process ends. Holding it
    /// is the right to tell the speaker what to do.
    disabled: Mutex<BTreeSet<Arc<str>>>,
    stop: mpsc::Sender<StopMode>,
}

/// What runs beside it.
#[derive(Clone, Debug)]
pub struct Parts {
    /// BGP.
    pub speaker: SpeakerHandle,
    /// Routes.
    pub kernel: KernelHandle,
    /// Rules of nf_tables.
    pub firewall: FirewallHandle,
    /// The CNI configuration.
    pub cni: CniHandle,
    /// Metrics and probes.
    pub metrics: metrics::Control,
}

/// The configuration that runs, and what became of a newer one.
#[derive(Clone, Debug)]
struct Current {
    config: Arc<Config>,
    files: Vec<PathBuf>,
    generation: u64,
    loaded: Instant,
    refused: Option<(String, Instant)>,
    needs_restart: Vec<String>,
    /// What hinders a newer one, in words, where it does not come from a file.
    notes: Vec<String>,
}

impl Daemon {
    /// A daemon of these parts, which run with `loaded` already: from `file`, or from Kubernetes
    /// objects. `stop` takes requests to end.
    pub fn new(
        file: Option<PathBuf>,
        loaded: Loaded,
        parts: Parts,
        stop: mpsc::Sender<StopMode>,
    ) -> Self {
        let Parts { speaker, kernel, cni, firewall, metrics } = parts;
        metrics.listen(loaded.config.metrics.listen);
        let now = now();
        let current = Current {
            config: Arc::new(loaded.config),
            files: loaded.files,
            generation: 1,
            loaded: now,
            refused: None,
            needs_restart: Vec::new(),
            notes: Vec::new(),
        };
        Self {
            origin: file.clone().unwrap_or_else(|| PathBuf::from(ORIGIN)),
            file,
            speaker,
            kernel,
            cni,
            firewall,
            metrics,
            states: OnceLock::new(),
            started: now,
            started_wall: jiff::Timestamp::now(),
            current: watch::Sender::new(current),
            disabled: Mutex::default(),
            stop,
        }
    }

    /// Reads the file again and applies the difference.
    ///
    /// # Errors
    /// It cannot be read or is refused, whole: the old one keeps running, the reason is logged and
    /// kept for `status`.
    pub async fn reload(&self, trigger: Trigger) -> Result<views::Plan, String> {
        let Some(file) = self.file.clone() else {
            return Err(
                "the configuration comes from Kubernetes objects, and their changes are applied as \
                 they happen"
                    .to_owned(),
            );
        };
        let mut disabled = self.disabled.lock().await;
        // Reading and checking a large file takes longer than a task may hold its thread.
        let loaded = tokio::task::spawn_blocking(move || config::load(&file))
            .await
            .map_err(|error| format!("reading the configuration failed: {error}"))?;
        match loaded {
            Ok(loaded) => self.apply(loaded, trigger, &mut disabled).await,
            Err(error) => Err(self.refuse(&error)),
        }
    }

    /// Applies a valid configuration that did not come from a file.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn take(&self, loaded: Loaded, trigger: Trigger) -> Result<views::Plan, String> {
        let mut disabled = self.disabled.lock().await;
        self.apply(loaded, trigger, &mut disabled).await
    }

    /// Keeps for `status` what hinders a newer configuration.
    pub fn note(&self, notes: Vec<String>) {
        self.current.send_if_modified(|current| {
            let modified = current.notes != notes;
            current.notes = notes;
            modified
        });
    }

    /// From now on the snapshots have what the Kubernetes side says.
    pub fn in_cluster(&self, states: watch::Receiver<State>) {
        let _ = self.states.set(states);
    }

    /// The moment this daemon was made, by both clocks.
    pub fn started_at(&self) -> (Instant, jiff::Timestamp) {
        (self.started, self.started_wall)
    }

    /// Applies a valid configuration.
    async fn apply(
        &self,
        loaded: Loaded,
        trigger: Trigger,
        disabled: &mut BTreeSet<Arc<str>>,
    ) -> Result<views::Plan, String> {
        let Loaded { config: new, files } = loaded;
        let old = self.current.borrow().config.clone();
        let plan = old.plan(&new);
        let changes = changes(&plan);
        for warning in &new.warnings {
            tracing::warn!(file = %self.origin.display(), "{warning}");
        }
        for change in &changes {
            tracing::info!(effect = %change.effect, "configuration: {}", change.what);
        }
        let warnings = new.warnings.clone();
        let config = Arc::new(old.applicable(new));
        if config.speaker != old.speaker {
            disabled.retain(|name| config.speaker.peers.iter().any(|peer| peer.name == *name));
            let speaker = without_disabled(&config.speaker, disabled);
            self.speaker.apply(speaker).await.map_err(|error| error.to_string())?;
        }
        if config.firewall != old.firewall {
            self.firewall.apply(config.firewall.clone()).await;
        }
        self.metrics.listen(config.metrics.listen);
        if config.kernel != old.kernel {
            self.kernel.apply(config.kernel.clone()).await;
        }
        if config.cni != old.cni {
            self.cni.apply(config.cni.clone()).await;
        }
        self.current.send_modify(|current| {
            *current = Current {
                config,
                files,
                generation: current.generation + 1,
                loaded: now(),
                refused: None,
                needs_restart: plan.restart_required,
                notes: std::mem::take(&mut current.notes),
            };
        });
        tracing::info!(
            file = %self.origin.display(),
            because = trigger.words(),
            changes = changes.len(),
            "configuration loaded"
        );
        Ok(views::Plan { applied: true, changes, warnings })
    }

    /// Keeps why the file was refused; gives the words for whoever asked.
    fn refuse(&self, error: &LoadError) -> String {
        let line = error.lines().join("; ");
        tracing::error!(
            file = %self.origin.display(),
            problems = %line,
            "configuration refused, the old one keeps running"
        );
        self.current.send_modify(|current| current.refused = Some((line, now())));
        error.to_string()
    }

    /// Reloads whenever the files change or SIGHUP comes, for ever.
    pub async fn watch(self: Arc<Self>, mut watcher: ConfigWatcher, mut hangup: Signal) {
        let mut current = self.current.subscribe();
        loop {
            watcher.watch(current.borrow_and_update().files.clone());
            let trigger = tokio::select! {
                () = watcher.changed() => Trigger::FileChanged,
                _ = hangup.recv() => Trigger::Signal,
                // Another configuration may name other files.
                Ok(()) = current.changed() => continue,
            };
            // Errors are logged and kept for `status`.
            let _ = self.reload(trigger).await;
        }
    }
}

/// The Kubernetes side in numbers.
fn cluster(state: &State) -> ClusterSnapshot {
    ClusterSnapshot {
        live: state.origin == Origin::Live,
        failed: !state.failure.is_empty(),
        refused: state.refused.len(),
        nodes: state.nodes.len(),
        errors: state.errors.counts(),
    }
}

/// The configuration with these peers disabled.
fn without_disabled(
    config: &Arc<SpeakerConfig>,
    disabled: &BTreeSet<Arc<str>>,
) -> Arc<SpeakerConfig> {
    if disabled.is_empty() {
        return config.clone();
    }
    let mut config = SpeakerConfig::clone(config);
    for peer in config.peers.iter_mut().filter(|peer| disabled.contains(&peer.name)) {
        *peer = disabled_peer(peer);
    }
    Arc::new(config)
}

fn disabled_peer(peer: &PeerConfig) -> Arc<PeerConfig> {
    Arc::new(PeerConfig { enabled: false, ..peer.clone() })
}

impl Backend for Daemon {
    async fn peers(&self) -> Result<Vec<(SessionView, PeerTableView)>, RequestError> {
        let mut peers = self.speaker.peers().await?;
        let disabled = self.disabled.lock().await;
        // A session that was stopped by hand keeps its configuration.
        for (session, _) in
            peers.iter_mut().filter(|(session, _)| disabled.contains(&session.config.name))
        {
            session.config = disabled_peer(&session.config);
        }
        Ok(peers)
    }

    async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteView>, RequestError> {
        self.speaker.routes(query).await
    }

    async fn explain(&self, selector: RouteSelector) -> Result<ExplainView, RequestError> {
        self.speaker.explain(selector).await
    }

    async fn command(&self, peer: &str, command: PeerCommand) -> Result<(), RequestError> {
        let mut disabled = self.disabled.lock().await;
        match &command {
            PeerCommand::Reset(_) => {}
            PeerCommand::Disable(_) => {
                disabled.insert(peer.into());
            }
            PeerCommand::Enable if disabled.remove(peer) => {
                // A reload in between has told the speaker that the peer is disabled.
                let config = self.current.borrow().config.speaker.clone();
                self.speaker.apply(without_disabled(&config, &disabled)).await?;
            }
            PeerCommand::Enable => {}
        }
        let done = self.speaker.command(peer, command).await;
        if done.is_err() {
            disabled.remove(peer);
        }
        done
    }

    async fn route_status(&self, prefixes: Vec<IpNet>) -> Vec<Option<RouteStatus>> {
        self.kernel.route_status(prefixes).await
    }

    async fn route_ways(&self, prefixes: Vec<IpNet>) -> Vec<Vec<RouteWay>> {
        self.kernel.route_ways(prefixes).await
    }

    async fn kernel_status(&self) -> KernelStatus {
        self.kernel.status().await
    }

    async fn firewall_status(&self) -> FirewallStatus {
        self.firewall.status().await
    }

    async fn lookup(&self, address: IpAddr, prefix: Option<IpNet>) -> KernelLookup {
        self.kernel.lookup(address, prefix).await
    }

    fn snapshot(&self) -> Snapshot {
        let current = self.current.borrow().clone();
        Snapshot {
            config: current.config,
            file: self.origin.clone(),
            generation: current.generation,
            loaded: current.loaded,
            refused: current.refused,
            needs_restart: current.needs_restart,
            started: self.started,
            first_sync: self.speaker.first_sync(),
            notes: current.notes,
            cni: self.cni.status(),
            problems: self.metrics.problem().into_iter().collect(),
            cluster: self.states.get().map(|states| cluster(&states.borrow())),
        }
    }

    async fn reload(&self) -> Result<views::Plan, String> {
        Self::reload(self, Trigger::Request).await
    }

    fn plan(&self, file: &str, text: &str) -> Result<views::Plan, String> {
        // Without a directory of its own the text is seen as standing beside the running file.
        let path = self.origin.parent().unwrap_or(Path::new("")).join(file);
        let new = config::load_text(&path, text).map_err(|error| error.to_string())?.config;
        let plan = self.current.borrow().config.plan(&new);
        Ok(views::Plan { applied: false, changes: changes(&plan), warnings: new.warnings })
    }

    fn stop(&self, mode: StopMode) {
        // Full: it is stopping already.
        let _ = self.stop.try_send(mode);
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
