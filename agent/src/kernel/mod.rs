//! The kernel side: what the speaker wants in the FIB, and what the FIB really has.
//!
//! In flow: [`RouteQueue`] (the latest change of each prefix, next hops to track), the kernel
//! configuration, netlink notifications. Out flow: batches of route messages, next-hop answers to
//! the speaker, [`RouteStatus`] for the CLI.
//!
//! What always holds: only routes with our own protocol number are changed or removed; nothing is
//! removed before the first sync; a next hop is never resolved through a route of our own.
//!
//! ```text
//!  RouteQueue ─┐                                   ┌─► SpeakerHandle (next-hop answers)
//!  commands ───┼─► manager (one task: Reconciler) ─┤
//!  monitor ────┘        ▲                          └─► jobs ─► writer (one thread, blocking)
//!   (links, addresses,  └──────── results, in order ◄──────────┘
//!    others' routes)
//! ```
//!
//! `reconcile` decides, without IO or clock, over `desired` (what is wanted, what the kernel has),
//! `topology` and `nexthop` (what resolves how), `tunnel` (by which way), `objects` (large next-hop
//! sets as nexthop objects of the kernel) and `hold` (how long to wait); `writer`, `monitor` and
//! `query` talk to the kernel over [`crate::netlink`], in the messages of `route` and `link`. `memory` keeps
//! where our routes are across restarts.

mod desired;
mod forwarding;
mod hold;
mod kind;
mod latency;
mod link;
mod lookup;
mod manager;
mod memory;
mod monitor;
mod nexthop;
mod objects;
mod pace;
mod query;
mod reconcile;
mod render;
mod route;
mod topology;
mod tunnel;
mod writer;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use routelet_bgp::core::forwarding::NextHopAnswer;
use routelet_bgp::io::{RouteQueue, SpeakerHandle};
use routelet_proto::FamilySet;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::latency::{BOUNDS, Latency};
use self::manager::{Command, Manager};
use self::memory::Memory;
use self::monitor::Monitor;
pub(crate) use self::pace::RepairPace;
use self::reconcile::Reconciler;
use self::tunnel::Pace;
pub use self::tunnel::{
    Encapsulation, TunnelConfig, TunnelMode, TunnelNode, TunnelPool, TunnelStatus,
};
use self::writer::Territory;
use crate::netlink::RequestSocket;

/// Where a container finds the host's `/proc/sys/net`, writable; its own is not.
pub const MOUNTED_SYSCTLS: &str = "/host/proc/sys/net";

/// What the kernel side is told to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelConfig {
    /// `false`: no netlink at all.
    pub enabled: bool,
    /// Routing table, 1 to 2^32-1; 254 is main.
    pub table: u32,
    /// Protocol number of our routes, 5 to 255.
    pub protocol: u8,
    /// Metric of our routes, never 1024.
    pub metric: u32,
    /// Metric of the blackholes behind own pod CIDRs.
    pub blackhole_metric: u32,
    /// Own pod CIDRs, each of which gets a blackhole.
    pub blackholes: Vec<IpNet>,
    /// Whether routes that others delete are put back.
    pub repair: bool,
    /// Whether large next-hop sets become nexthop objects of the kernel.
    pub nexthop_objects: NexthopObjects,
    /// Where is remembered in which tables and under which protocol numbers our routes are, so that
    /// what a former life has left elsewhere goes at the first sync; `None`: nowhere.
    pub memory: Option<PathBuf>,
    /// Which prefixes travel by which tunnel, and between which nodes.
    pub tunnels: TunnelConfig,
}

/// How routes are written that share their next hops with many others.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum NexthopObjects {
    /// By nexthop objects, where the kernel has them.
    #[default]
    Auto,
    /// By their hops, always.
    Never,
}

impl fmt::Display for NexthopObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "Auto",
            Self::Never => "Never",
        })
    }
}

/// What became of a prefix in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteStatus {
    /// It is in the FIB as wanted.
    Installed,
    /// It is on its way.
    Pending,
    /// The kernel refused it, or somebody else's route is in its place; in words.
    Failed(String),
}

/// What `routelet status` says about the kernel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KernelStatus {
    /// Routes wanted.
    pub desired: usize,
    /// Of those, acknowledged by the kernel.
    pub installed: usize,
    /// Of those, refused.
    pub failed: usize,
    /// Routes of an earlier life found at start and kept until the first sync.
    pub adopted: usize,
    /// Whether the stale ones have been removed after the first sync.
    pub synced: bool,
    /// Routes put back because somebody else had removed or changed them, since start.
    pub repaired: u64,
    /// Groups of next hops that the kernel has as objects; `None`: switched off, or it cannot.
    pub nexthop_objects: Option<usize>,
    /// Times from the speaker's decision to the kernel's acknowledgement, since start.
    pub latency: Latency,
    /// What went wrong, since start.
    pub errors: KernelErrors,
    /// Problems in words, each with its fix (forwarding off, missing capability, …).
    pub problems: Vec<String>,
    /// The tunnel devices that are needed, or there.
    pub tunnels: Vec<TunnelStatus>,
}

/// What went wrong between us and the kernel, counted since start. None of it is lost: what was
/// refused is tried again, what is not known is asked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KernelErrors {
    /// Writes of routes that the kernel refused.
    pub refused: u64,
    /// Writes of routes whose answers were lost.
    pub lost: u64,
    /// Times that notifications were lost.
    pub overruns: u64,
    /// Comparisons of our routes with the kernel's that an event or an error has made necessary.
    pub dumps: u64,
    /// Comparisons that failed.
    pub failed_dumps: u64,
    /// Next-hop sets that are plain because the kernel refused their objects.
    pub surrendered: u64,
}

/// By which way packets of a route get to one of its next hops.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteWay {
    /// The next hop.
    pub next_hop: IpAddr,
    /// Name of the device; several with commas.
    pub device: String,
    /// How packets are wrapped; `None`: not at all.
    pub encapsulation: Option<Encapsulation>,
}

/// What is known of one next hop of a route, for `explain`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NextHopLookup {
    /// The next hop.
    pub address: Option<IpAddr>,
    /// How it resolves: device, on link or gateway, in words.
    pub resolution: String,
    /// How packets to it are wrapped and why, or why not, or why the route is not installed.
    pub encapsulation: String,
    /// The largest packet that the way takes, octets; `None`: there is no way.
    pub mtu: Option<u32>,
    /// What the neighbour table says of each neighbour on the way, with commas.
    pub neighbour: Option<String>,
}

/// What the kernel says about one destination, for `explain`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KernelLookup {
    /// The route packets to the address really take, as `ip route get` would print it.
    pub route: Option<String>,
    /// Every route of ours or others for exactly the prefix, as `ip route show` would print them.
    pub candidates: Vec<String>,
    /// The next hops of our route.
    pub next_hops: Vec<NextHopLookup>,
}

/// Who takes answers about next hops: the speaker, but for tests.
pub trait NextHopSink: Send + Sync + 'static {
    /// Takes them; may wait while the speaker is busy, meanwhile newer answers replace older ones.
    fn answer(&self, answers: Vec<NextHopAnswer>) -> impl Future<Output = ()> + Send;
}

impl NextHopSink for SpeakerHandle {
    async fn answer(&self, answers: Vec<NextHopAnswer>) {
        self.answer_next_hops(answers).await;
    }
}

/// Figures that nobody configures, but tests do.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Receive buffer of the monitor, octets.
    pub monitor_buffer: usize,
    /// Receive buffer for the answers to the writer, octets.
    pub answer_buffer: usize,
    /// How long the speaker has, after an answer about a next hop, to send the routes that follow
    /// from it, before stale routes may go.
    pub settle: Duration,
    /// Time between two slow comparisons of everything.
    pub audit: Duration,
    /// How long a new tunnel device is there before routes are moved to it: the other nodes get
    /// theirs at about the same time, not at the same moment.
    pub tunnel_lead: Duration,
    /// How long a tunnel device is kept that is not needed any more.
    pub tunnel_linger: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            monitor_buffer: monitor::RECEIVE_BUFFER,
            answer_buffer: query::RECEIVE_BUFFER,
            settle: Duration::from_millis(250),
            audit: Duration::from_secs(300),
            tunnel_lead: Duration::from_secs(2),
            tunnel_linger: Duration::from_secs(10),
        }
    }
}

/// The handle to the running kernel side; clones talk to the same one.
///
/// When the last clone is dropped, it stops and leaves the routes.
#[derive(Clone, Debug)]
pub struct KernelHandle {
    /// `None`: not enabled.
    commands: Option<mpsc::Sender<Command>>,
    failure: watch::Receiver<Option<String>>,
    /// Drains the queue where the kernel side is not enabled; ends with the last clone.
    _drain: Option<Arc<Drain>>,
}

impl KernelHandle {
    /// Opens netlink, adopts what stands under our protocol number, and starts the tasks and the
    /// writer's thread. With `enabled: false` it only drains the queue.
    ///
    /// # Errors
    /// In words that name the capability (NET_ADMIN) where that is what is missing.
    pub async fn start_with<S: NextHopSink>(
        config: KernelConfig,
        queue: Arc<RouteQueue>,
        sink: S,
        tuning: Tuning,
    ) -> anyhow::Result<Self> {
        Self::open(config, tuning)?.launch(queue, sink)
    }

    /// The first half of a start: opens netlink and looks at what stands under our protocol number,
    /// which the speaker must know before its first OPEN. Nothing is changed yet. To be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// As [`KernelHandle::start_with`].
    pub fn open(config: KernelConfig, tuning: Tuning) -> anyhow::Result<KernelStart> {
        if !config.enabled {
            return Ok(KernelStart(None));
        }
        if let Some(problem) = config.problem() {
            bail!("{problem}");
        }
        let mut socket =
            query::open_with(tuning.answer_buffer).context("cannot open a netlink socket")?;
        let territory = Territory { table: config.table, protocol: config.protocol };
        writer::check_permission(&mut socket, territory).context("cannot change routes")?;
        // Before the first dump, so that no change falls between the two.
        let monitor = Monitor::open(socket.port(), tuning.monitor_buffer)
            .context("cannot listen to kernel notifications")?;
        let now = tokio::time::Instant::now().into_std();
        let memory = Memory::new(config.memory.clone());
        let mut reconciler = Reconciler::new(config, &memory.read(), tuning.settle, now);
        reconciler.set_pace(Pace { lead: tuning.tunnel_lead, linger: tuning.tunnel_linger });
        let snapshot = writer::dump_all(&mut socket, &reconciler.territories())
            .context("cannot list the kernel's routes")?;
        reconciler.snapshot(snapshot, now);
        let opened = Opened { socket, monitor, reconciler, audit: tuning.audit, memory };
        Ok(KernelStart(Some(opened)))
    }

    /// Takes a new configuration and applies the difference. One that is impossible is logged and
    /// changes nothing; `enabled` takes effect at the next start only.
    pub async fn apply(&self, config: KernelConfig) {
        if config.enabled != self.commands.is_some() {
            tracing::warn!("kernel.enabled takes effect at the next start");
            return;
        }
        if let Some(problem) = config.problem() {
            tracing::error!(problem, "kernel configuration refused");
            return;
        }
        self.ask(|done| Command::Apply(config, done)).await;
    }

    /// What became of these prefixes, in order; `None` for one that is not wanted.
    pub async fn route_status(&self, prefixes: Vec<IpNet>) -> Vec<Option<RouteStatus>> {
        let count = prefixes.len();
        let statuses = self.ask(|reply| Command::RouteStatus(prefixes, reply)).await;
        statuses.unwrap_or_else(|| vec![None; count])
    }

    /// By which ways the routes for these prefixes lead, in order; none for one that leads nowhere.
    pub async fn route_ways(&self, prefixes: Vec<IpNet>) -> Vec<Vec<RouteWay>> {
        let count = prefixes.len();
        let ways = self.ask(|reply| Command::RouteWays(prefixes, reply)).await;
        ways.unwrap_or_else(|| vec![Vec::new(); count])
    }

    /// For `routelet status`.
    pub async fn status(&self) -> KernelStatus {
        match self.ask(Command::Status).await {
            Some(status) => status,
            None => KernelStatus {
                problems: self.failure.borrow().iter().cloned().collect(),
                ..KernelStatus::default()
            },
        }
    }

    /// For `routelet explain`: what the kernel really has for `address` and for exactly `prefix`.
    pub async fn lookup(&self, address: IpAddr, prefix: Option<IpNet>) -> KernelLookup {
        self.ask(|reply| Command::Lookup(address, prefix, reply)).await.unwrap_or_default()
    }

    /// Stops. Routes stay, unless `withdraw`: then everything of ours is removed.
    pub async fn stop(&self, withdraw: bool) {
        self.ask(|done| Command::Stop { withdraw, done }).await;
    }

    /// Completes when the writer or a task has panicked, with the reason; never otherwise.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        loop {
            if let Some(reason) = failure.borrow_and_update().clone() {
                return reason;
            }
            if failure.changed().await.is_err() {
                // Ended well, or never begun.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.as_ref()?.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// The kernel side between its two halves: opened, not yet acting.
pub struct KernelStart(Option<Opened>);

struct Opened {
    socket: RequestSocket,
    monitor: Monitor,
    reconciler: Reconciler,
    audit: Duration,
    memory: Memory,
}

impl KernelStart {
    /// Families of which routes of ours from a former life are in the kernel: packets are being
    /// forwarded by them.
    #[must_use]
    pub fn found(&self) -> FamilySet {
        self.0.as_ref().map_or(FamilySet::EMPTY, |opened| opened.reconciler.found())
    }

    /// The second half: starts the tasks and the writer's thread. Not enabled, it only drains the
    /// queue.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn launch<S: NextHopSink>(
        self,
        queue: Arc<RouteQueue>,
        sink: S,
    ) -> anyhow::Result<KernelHandle> {
        let (failed, failure) = watch::channel(None);
        let Some(Opened { socket, monitor, reconciler, audit, memory }) = self.0 else {
            let drain = tokio::spawn(async move {
                loop {
                    queue.take().await;
                }
            });
            let drain = Some(Arc::new(Drain(drain.abort_handle())));
            return Ok(KernelHandle { commands: None, failure, _drain: drain });
        };
        // Some more than the writes in flight: a dump, lists of nexthop objects, the tunnels.
        let (jobs, jobs_out) = mpsc::channel(writer::JOBS + 5);
        let (done, results) = mpsc::channel(writer::JOBS + 5);
        let writer = std::thread::Builder::new()
            .name("kernel-writer".to_owned())
            .spawn(move || writer::run(socket, jobs_out, &done))
            .context("cannot start the writer's thread")?;
        let (commands, commands_out) = mpsc::channel(64);
        let manager = Manager {
            reconciler,
            monitor,
            jobs,
            results,
            commands: commands_out,
            queue,
            sink: Arc::new(sink),
            audit,
            memory,
        };
        let manager = tokio::spawn(manager.run());
        tokio::spawn(async move {
            let reason = match manager.await {
                Ok(Ok(())) => return,
                Ok(Err(_)) => match writer.join() {
                    Err(panic) => format!("the kernel writer panicked: {}", panic_text(&*panic)),
                    Ok(()) => "the kernel writer has ended".to_owned(),
                },
                Err(error) if error.is_panic() => {
                    let panic = error.into_panic();
                    format!("the kernel task panicked: {}", panic_text(&*panic))
                }
                // The runtime is shutting down.
                Err(_) => return,
            };
            tracing::error!(reason, "the kernel side has failed; routes stay as they are");
            let _ = failed.send(Some(reason));
        });
        Ok(KernelHandle { commands: Some(commands), failure, _drain: None })
    }
}

impl KernelConfig {
    /// What is impossible about it, in words with the fix.
    fn problem(&self) -> Option<String> {
        let metrics = [("metric", self.metric), ("blackholeMetric", self.blackhole_metric)];
        for (name, metric) in metrics {
            if metric == 0 || metric == 1024 {
                return Some(format!(
                    "kernel.{name} must not be {metric}: the kernel gives IPv6 routes without a \
                     metric 1024, and replacing ours would replace those"
                ));
            }
        }
        if self.metric == self.blackhole_metric {
            return Some("kernel.metric and kernel.blackholeMetric must differ".to_owned());
        }
        if self.protocol < 5 {
            return Some(format!(
                "kernel.protocol must be 5 to 255: {} is the kernel's or an administrator's",
                self.protocol
            ));
        }
        if self.table == 0 || self.table == 255 {
            return Some(format!("kernel.table must not be {}; 254 is main", self.table));
        }
        None
    }
}

#[derive(Debug)]
struct Drain(tokio::task::AbortHandle);

impl Drop for Drain {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}
