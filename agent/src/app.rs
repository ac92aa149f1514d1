//! The daemon: what is started, in which order, and how it drains.
//!
//! In flow: the command line, one configuration file or Kubernetes objects, signals. Out flow: a running speaker, kernel
//! side and API, and an exit code.
//!
//! ```text
//!  start:  logging ─► metrics and probes ─► file or objects ─► API socket (one daemon per path)
//!          ─► speaker ─► firewall ─► kernel ─► CNI ─► API ─► watch of file or objects
//!  stop:   API ─► CNI ─► sessions ─► kernel ─► firewall; routes and rules stay unless `stop --withdraw`
//!  SIGHUP or changed file ─► reload     SIGTERM, SIGINT ─► stop     the second of them ─► exit at once
//! ```
//!
//! What always holds: a configuration is applied whole or not at all; a panic anywhere ends the
//! process with a non-zero exit and leaves the routes in the kernel.

pub mod cluster;
mod daemon;
pub mod failure;
mod life;
mod limits;
pub mod logging;
mod memory;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use routelet_bgp::io::{DriverConfig, SpeakerHandle, StopMode};
use routelet_proto::FamilySet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use self::cluster::{Cluster, ClusterOptions};
use self::daemon::{Daemon, Parts};
use self::life::Life;
use self::logging::LogFormat;
use crate::api;
use crate::cni::CniHandle;
use crate::config::metrics::Listen;
use crate::config::{self, Config, ConfigWatcher, Loaded};
use crate::kernel::{KernelHandle, Tuning};
use crate::metrics;
use crate::nft::FirewallHandle;

/// How long requests under way may take when the daemon stops.
const API_DRAIN: Duration = Duration::from_secs(1);

/// Threads for sessions and the API; the speaker has one of its own.
const MOST_WORKERS: usize = 4;

/// What the command line says about the daemon.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The configuration file; in a cluster the one with what concerns this host only.
    pub config: Option<PathBuf>,
    /// Where the configuration comes from Kubernetes objects.
    pub cluster: Option<ClusterOptions>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: String,
    /// Socket of the API, before the one in the file.
    pub socket: Option<PathBuf>,
    /// Where metrics and probes are served, before what the file says.
    pub metrics: Option<Listen>,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What hindered the start, in words: an unreadable or refused file, a socket in use, a missing
/// capability. Failures later on are logged and become a non-zero exit code.
pub fn run(mut options: RunOptions) -> anyhow::Result<ExitCode> {
    // `status` shows it to people who are elsewhere.
    if let Some(config) = &mut options.config {
        *config = std::path::absolute(&*config)
            .with_context(|| format!("cannot find {}", config.display()))?;
    }
    logging::start(options.log_format, &options.log_level)?;
    let json = options.log_format == LogFormat::Json;
    let mut panics = failure::watch_panics();
    limits::raise_open_files();
    memory::prepare();
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, MOST_WORKERS))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.spawn(memory::settle());
    let code = runtime.block_on(async {
        tokio::select! {
            code = serve(options) => code,
            words = panics.recv() => {
                let words = words.unwrap_or_default();
                tracing::error!(reason = %words, "ending after an internal error; routes stay in the kernel");
                Ok(ExitCode::FAILURE)
            }
        }
    });
    // What still runs is not waited for: everything that matters has been drained or must not be.
    runtime.shutdown_background();
    match code {
        // Whoever reads JSON lines gets this one as such too.
        Err(error) if json => {
            tracing::error!(reason = format!("{error:#}"), "cannot start");
            Ok(ExitCode::FAILURE)
        }
        code => code,
    }
}

/// Starts everything, waits for a reason to stop, drains.
async fn serve(options: RunOptions) -> anyhow::Result<ExitCode> {
    let mut stop_signals = StopSignals::new()?;
    let hangup = signal(SignalKind::hangup()).context("cannot listen to signals")?;
    let (metrics, subject) = metrics::start::<Daemon>(options.metrics);
    let feed = match (&options.cluster, &options.config) {
        (Some(cluster), file) => tokio::select! {
            cluster = Cluster::start(
                cluster,
                file.as_deref(),
                &metrics,
                |pending| subject.waits_for(pending),
            ) => Feed::Cluster(Box::new(cluster?)),
            name = stop_signals.next() => {
                tracing::info!(because = name, "stopping, without ever having had a configuration");
                return Ok(ExitCode::SUCCESS);
            }
        },
        (None, Some(file)) => {
            // What is wrong is said before anything is watched; what counts is read after the watch
            // has begun, so that no change falls between.
            config::load(file)?;
            let watcher = ConfigWatcher::new(file);
            Feed::File(file.clone(), watcher, Box::new(config::load(file)?))
        }
        (None, None) => anyhow::bail!("there is neither a configuration file nor a cluster"),
    };
    let (file, loaded) = match &feed {
        Feed::File(file, _, loaded) => (Some(file.clone()), Loaded::clone(loaded)),
        Feed::Cluster(cluster) => (None, cluster.loaded()),
    };
    let config = loaded.config.clone();
    for warning in &config.warnings {
        let file = file.as_deref().unwrap_or(Path::new(daemon::ORIGIN));
        tracing::warn!(file = %file.display(), "{warning}");
    }
    let socket = options.socket.unwrap_or_else(|| config.api_socket.clone());
    let (listener, guard) = api::bind(&socket)?;

    // What the kernel has of a former life must be known before the first OPEN.
    let kernel = KernelHandle::open(config.kernel.clone(), Tuning::default())
        .context("cannot start the kernel side")?;
    let life = Life::begin(&socket);
    let restart = Restart::of(&config, life.follows, kernel.found());
    let driver = DriverConfig {
        listen: config.listen.clone(),
        restarted: restart.restarted,
        forwarding: restart.forwarding,
    };
    let speaker = SpeakerHandle::start(driver, config.speaker.clone())
        .await
        .context("cannot start the BGP speaker")?;
    // Before tunnels exist, so that none is ever without its guard.
    let firewall = FirewallHandle::start(config.firewall.clone()).await;
    let kernel = match kernel.launch(speaker.route_queue(), speaker.clone()) {
        Ok(kernel) => kernel,
        Err(error) => {
            speaker.stop(StopMode::Restart).await;
            return Err(error).context("cannot start the kernel side");
        }
    };

    let (stop, mut stop_requests) = mpsc::channel(1);
    let cni = CniHandle::start(config.cni.clone(), kernel.clone());
    let parts = Parts {
        speaker: speaker.clone(),
        kernel: kernel.clone(),
        cni: cni.clone(),
        firewall: firewall.clone(),
        metrics,
    };
    let daemon = Arc::new(Daemon::new(file, loaded, parts, stop));
    subject.set(daemon.clone());
    let (end_api, api_ended) = oneshot::channel::<()>();
    let mut api_task =
        tokio::spawn(api::serve(listener, daemon.clone(), api::Access::own(), async {
            let _ = api_ended.await;
        }));
    let mut watch_task = match feed {
        Feed::File(_, watcher, _) => tokio::spawn(daemon.clone().watch(watcher, hangup)),
        Feed::Cluster(cluster) => tokio::spawn(cluster.follow(daemon.clone(), hangup)),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %config.node_name,
        asn = config.speaker.asn.0,
        router_id = %config.speaker.router_id,
        peers = config.speaker.peers.len(),
        socket = %socket.display(),
        restarted = restart.restarted,
        forwarding = %restart.words(),
        "routelet runs"
    );

    let reason = tokio::select! {
            name = stop_signals.next() => Reason::Stop(StopMode::Restart, name),
            Some(mode) = stop_requests.recv() => Reason::Stop(mode, "`routelet stop`"),
            words = speaker.failed() => Reason::Failed(words),
            words = kernel.failed() => Reason::Failed(words),
            ended = &mut watch_task => Reason::Failed(format!("the watch ended: {ended:?}")),
            ended = &mut api_task => Reason::Failed(format!("the API ended: {ended:?}")),
    };
    let (mode, why) = match reason {
        Reason::Stop(mode, why) => (mode, why),
        Reason::Failed(words) => {
            tracing::error!(reason = %words, "ending after a failure; routes stay in the kernel");
            return Ok(ExitCode::FAILURE);
        }
    };

    let withdraw = mode == StopMode::Withdraw;
    tracing::info!(because = why, withdraw, "stopping");
    watch_task.abort();
    let drain = async {
        let _ = end_api.send(());
        let _ = tokio::time::timeout(API_DRAIN, &mut api_task).await;
        // First of all no new pods.
        cni.stop(withdraw).await;
        speaker.stop(mode).await;
        kernel.stop(withdraw).await;
        firewall.stop(withdraw).await;
        // Whatever else a part leaves on the host is taken away here, after the peers know.
        if withdraw {
            life.end();
        }
    };
    tokio::select! {
        () = drain => {}
        name = stop_signals.next() => {
            tracing::warn!(because = name, "stopping at once, sessions are not ended in order");
            return Ok(ExitCode::FAILURE);
        }
    }
    drop(guard);
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Where configurations come from.
enum Feed {
    /// This file, and what stood in it first.
    File(PathBuf, ConfigWatcher, Box<Loaded>),
    /// Kubernetes objects.
    Cluster(Box<Cluster>),
}

/// What the first OPENs say of a former life (RFC 4724 §3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Restart {
    restarted: bool,
    forwarding: FamilySet,
}

impl Restart {
    /// By the mark of a former life and the families of its routes that are in the kernel.
    ///
    /// Without a kernel of its own, as a reflector has none, the packets for what it advertises go
    /// past it, and its restart or reboot preserves them all. That is not known of prefixes that it
    /// originates itself: those stand only if nothing but the process has ended.
    fn of(config: &Config, follows: bool, found: FamilySet) -> Self {
        let restarted = follows || !found.is_empty();
        let forwarding = if config.kernel.enabled {
            found
        } else if restarted || config.speaker.originated.is_empty() {
            FamilySet::ALL
        } else {
            FamilySet::EMPTY
        };
        Self { restarted, forwarding }
    }

    fn words(self) -> String {
        let families: Vec<_> = self.forwarding.iter().map(|family| family.to_string()).collect();
        if families.is_empty() { "none".to_owned() } else { families.join(" ") }
    }
}

/// Why the daemon ends.
enum Reason {
    /// Somebody wants it to.
    Stop(StopMode, &'static str),
    /// It cannot go on.
    Failed(String),
}

/// The signals that stop the daemon.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Completes with the name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use routelet_proto::Family;

    use super::*;

    const V4: FamilySet = FamilySet::EMPTY.with(Family::Ipv4Unicast);

    fn config(pods: &str, kernel: bool) -> Config {
        let text = format!(
            "node: {{name: n, addresses: [10.0.0.1/24], podCIDRs: [{pods}]}}\n\
             bgp: {{asNumber: 64512}}\nkernel: {{enabled: {kernel}}}\n"
        );
        config::load_text(Path::new("n.yaml"), &text).unwrap().config
    }

    #[test]
    fn a_restart_is_known_by_its_mark_or_by_routes() {
        let node = config("10.244.1.0/24", true);
        let of = |follows, found| {
            let restart = Restart::of(&node, follows, found);
            (restart.restarted, restart.forwarding)
        };
        assert_eq!(of(false, FamilySet::EMPTY), (false, FamilySet::EMPTY));
        assert_eq!(of(false, V4), (true, V4));
        assert_eq!(of(true, V4), (true, V4));
        assert_eq!(of(true, FamilySet::EMPTY), (true, FamilySet::EMPTY), "somebody flushed them");
    }

    #[test]
    fn a_reflector_preserves_what_never_went_through_it() {
        let forwarding =
            |config: &Config, follows| Restart::of(config, follows, FamilySet::EMPTY).forwarding;
        let reflector = config("", false);
        assert_eq!(forwarding(&reflector, false), FamilySet::ALL, "after a reboot too");
        assert_eq!(forwarding(&reflector, true), FamilySet::ALL);
        let announcer = config("10.244.1.0/24", false);
        assert_eq!(forwarding(&announcer, false), FamilySet::EMPTY);
        assert_eq!(forwarding(&announcer, true), FamilySet::ALL);
    }
}
