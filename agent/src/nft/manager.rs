//! The task that owns the firewall: obeys commands, and puts back what others change.
//!
//! In flow: commands of the agent, notifications, time. Out flow: calls of the engine, on a thread that
//! may block.
//!
//! What always holds: it does nothing without a cause (a command or a notification), and nothing over
//! and over without growing pauses.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::FirewallStatus;
use super::engine::Engine;
use super::monitor::{Monitor, Seen};
use super::ruleset::FirewallConfig;
use crate::kernel::RepairPace;

/// How long after a change its author's name may take to arrive.
const AUTHOR: Duration = Duration::from_millis(10);

/// What the agent asks.
#[derive(Debug)]
pub(super) enum Command {
    Apply(Box<FirewallConfig>, oneshot::Sender<()>),
    Status(oneshot::Sender<FirewallStatus>),
    Stop { withdraw: bool, done: oneshot::Sender<()> },
}

/// See the module.
pub(super) struct Manager {
    engine: Engine,
    monitor: Option<Monitor>,
    commands: mpsc::Receiver<Command>,
    own: RepairPace,
    forward: RepairPace,
    /// What was refused for a reason that may pass is tried again.
    retry: RepairPace,
    /// Notifications were lost: our table is compared before it is put back.
    unsure: bool,
    by: Option<String>,
}

impl Manager {
    /// Opens the monitor in the network namespace of the calling thread.
    pub(super) fn new(engine: Engine, commands: mpsc::Receiver<Command>) -> Self {
        // Before anything is put there, so that no change falls between.
        let monitor = engine.port().and_then(|port| match Monitor::open(port) {
            Ok(monitor) => Some(monitor),
            Err(error) => {
                tracing::warn!(%error, "changes of the firewall by others will not be noticed");
                None
            }
        });
        Self {
            engine,
            monitor,
            commands,
            own: RepairPace::default(),
            forward: RepairPace::default(),
            retry: RepairPace::default(),
            unsure: false,
            by: None,
        }
    }

    /// Runs until stopped.
    pub(super) async fn run(mut self, ready: oneshot::Sender<()>) {
        self = self
            .blocking(|engine| {
                engine.put_table();
                engine.sync_forward();
            })
            .await;
        let _ = ready.send(());
        loop {
            let due = [self.own.due(), self.forward.due(), self.retry.due()];
            let due = due.into_iter().flatten().min();
            tokio::select! {
                seen = next(&mut self.monitor) => self.saw(seen).await,
                command = self.commands.recv() => match command {
                    Some(Command::Apply(config, done)) => {
                        if *config != *self.engine.config() {
                            self = self.blocking(move |engine| engine.apply(*config)).await;
                        }
                        let _ = done.send(());
                    }
                    Some(Command::Status(reply)) => drop(reply.send(self.engine.status())),
                    Some(Command::Stop { withdraw, done }) => {
                        if withdraw {
                            self.blocking(Engine::withdraw).await;
                        }
                        let _ = done.send(());
                        return;
                    }
                    // Every handle is gone: rules stay.
                    None => return,
                },
                () = until(due) => {
                    let now = now();
                    if self.own.take(now) {
                        let (by, unsure) = (self.by.take(), std::mem::take(&mut self.unsure));
                        self = self
                            .blocking(move |engine| {
                                if !unsure || !engine.is_intact() {
                                    engine.repair_table(by.as_deref());
                                }
                            })
                            .await;
                    }
                    if self.forward.take(now) {
                        self = self.blocking(Engine::sync_forward).await;
                    }
                    if self.retry.take(now) && self.engine.wants_retry() {
                        self = self.blocking(Engine::put_table).await;
                    }
                }
            }
        }
    }

    /// Notes what others did, to be mended when it is due.
    async fn saw(&mut self, seen: Seen) {
        let now = now();
        if seen.own || seen.overrun {
            // What was seen for certain stays certain.
            self.unsure = !seen.own && (self.own.due().is_none() || self.unsure);
            self.own.want(now);
        }
        if seen.forward || seen.overrun {
            self.forward.want(now);
        }
        self.by = seen.by.or(self.by.take());
        if self.by.is_none()
            && let Some(monitor) = &mut self.monitor
        {
            let rest = tokio::time::timeout(AUTHOR, monitor.author()).await;
            self.by = rest.ok();
        }
    }

    /// Calls the engine on a thread that may block.
    async fn blocking(self, job: impl FnOnce(&mut Engine) + Send + 'static) -> Self {
        let Self { mut engine, mut monitor, commands, own, forward, mut retry, unsure, by } = self;
        let done = tokio::task::spawn_blocking(move || {
            job(&mut engine);
            engine
        });
        let engine = match done.await {
            Ok(engine) => engine,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => std::future::pending().await,
        };
        if let Some(monitor) = &mut monitor {
            monitor.watched = engine.watched();
        }
        if engine.wants_retry() {
            retry.want(now());
        }
        Self { engine, monitor, commands, own, forward, retry, unsure, by }
    }
}

async fn next(monitor: &mut Option<Monitor>) -> Seen {
    match monitor {
        Some(monitor) => monitor.next().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
