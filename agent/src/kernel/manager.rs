//! The one task that owns the kernel's desired state.
//!
//! In flow: the speaker's [`RouteQueue`], commands of the agent, kernel notifications, results of
//! the writer's thread, time. Out flow: jobs for the writer, answers to the speaker.
//!
//! What always holds: this task never blocks on the kernel nor on the speaker; what is in flight
//! is bounded ([`JOBS`] jobs of [`CHUNK`] writes, one dump), the rest waits in the table where the
//! latest wish wins.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use routelet_bgp::io::{PendingRoutes, RouteQueue};
use tokio::sync::{mpsc, oneshot};

use super::lookup::{self, Question};
use super::memory::Memory;
use super::monitor::{Event, Monitor};
use super::pace::RepairPace;
use super::reconcile::Reconciler;
use super::writer::{CHUNK, JOBS, Job, JobDone};
use super::{
    KernelConfig, KernelLookup, KernelStatus, NextHopSink, RouteStatus, RouteWay, forwarding,
};

/// Longest a withdrawal may take before stopping anyway.
const WITHDRAW_LONGEST: Duration = Duration::from_secs(20);

/// What the agent asks.
pub(super) enum Command {
    Apply(KernelConfig, oneshot::Sender<()>),
    RouteStatus(Vec<IpNet>, oneshot::Sender<Vec<Option<RouteStatus>>>),
    RouteWays(Vec<IpNet>, oneshot::Sender<Vec<Vec<RouteWay>>>),
    Status(oneshot::Sender<KernelStatus>),
    Lookup(std::net::IpAddr, Option<IpNet>, oneshot::Sender<KernelLookup>),
    Stop { withdraw: bool, done: oneshot::Sender<()> },
}

/// See the module.
pub(super) struct Manager<S> {
    pub reconciler: Reconciler,
    pub monitor: Monitor,
    pub jobs: mpsc::Sender<Job>,
    pub results: mpsc::Receiver<JobDone>,
    pub commands: mpsc::Receiver<Command>,
    pub queue: Arc<RouteQueue>,
    pub sink: Arc<S>,
    /// Time between two slow comparisons of everything.
    pub audit: Duration,
    pub memory: Memory,
}

/// Why the loop went on.
enum Wake {
    Events(Vec<Event>),
    Done(Option<JobDone>),
    Command(Option<Command>),
    Pending(PendingRoutes),
    Answered,
    Time,
    Audit,
}

struct Stopping {
    withdraw: bool,
    /// A last comparison has been asked for.
    compared: bool,
    not_after: Instant,
    done: Option<oneshot::Sender<()>>,
}

impl<S: NextHopSink> Manager<S> {
    /// Runs until stopped.
    ///
    /// # Errors
    /// The writer's thread has ended before its time.
    pub(super) async fn run(self) -> Result<(), String> {
        let Self { mut reconciler, mut monitor, jobs, mut results, mut commands, .. } = self;
        let (queue, sink, mut memory) = (self.queue, self.sink, self.memory);
        let start = tokio::time::Instant::now() + self.audit;
        let mut audit = tokio::time::interval_at(start, self.audit);
        audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut write_jobs = 0;
        let mut answering: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
        let mut stopping: Option<Stopping> = None;
        let mut problems = Vec::new();
        let mut settings = RepairPace::due_at(now());
        loop {
            let now = now();
            if answering.is_none() {
                let answers = reconciler.take_answers();
                if !answers.is_empty() {
                    let sink = sink.clone();
                    answering = Some(Box::pin(async move { sink.answer(answers).await }));
                }
            }
            reconciler.advance(answering.is_some(), now);
            if reconciler.take_settings_changed() {
                settings.want(now);
            }
            if settings.due().is_some_and(|due| due <= now) {
                let found = check_forwarding(&reconciler, &problems);
                problems = found.problems;
                // Only a switch that others flip back makes us wait longer.
                if !(found.changed && settings.take(now)) {
                    settings.skip();
                }
            }
            // Before anything is written in a new place.
            memory.write(&reconciler.territories());
            monitor.watch_neighbours(reconciler.watched_neighbours());
            if stopping.as_ref().is_none_or(|stopping| stopping.withdraw) {
                pump(&mut reconciler, &jobs, &mut write_jobs, now)?;
            }
            if let Some(stop) = &mut stopping
                && stopped(stop, &mut reconciler, now)
            {
                if let Some(done) = stop.done.take() {
                    let _ = done.send(());
                }
                return Ok(());
            }
            let mut deadline = reconciler.deadline(answering.is_some(), now);
            if let Some(due) = settings.due() {
                deadline = Some(deadline.map_or(due, |at| at.min(due)));
            }
            if let Some(stop) = &stopping {
                deadline = Some(deadline.map_or(stop.not_after, |at| at.min(stop.not_after)));
            }
            let wake = tokio::select! {
                events = monitor.next() => Wake::Events(events),
                done = results.recv() => Wake::Done(done),
                command = commands.recv(), if stopping.is_none() => Wake::Command(command),
                pending = queue.take(), if stopping.is_none() => Wake::Pending(pending),
                () = finish(&mut answering) => Wake::Answered,
                () = until(deadline) => Wake::Time,
                _ = audit.tick() => Wake::Audit,
            };
            let now = self::now();
            match wake {
                Wake::Events(events) => reconciler.events(events, now),
                Wake::Done(None) => return Err("the writer's thread has ended".to_owned()),
                Wake::Done(Some(done)) => {
                    // Notifications first: they happened before what the writer found after.
                    reconciler.events(monitor.poll(), now);
                    if matches!(done, JobDone::Written(_) | JobDone::Objects(_)) {
                        write_jobs -= 1;
                    }
                    reconciler.done(done, now);
                }
                Wake::Command(Some(Command::Stop { withdraw, done })) => {
                    if withdraw {
                        reconciler.withdraw_all(now);
                    }
                    let not_after = now + WITHDRAW_LONGEST;
                    let done = Some(done);
                    stopping = Some(Stopping { withdraw, compared: false, not_after, done });
                }
                Wake::Command(Some(command)) => obey(command, &mut reconciler, &problems, now),
                Wake::Command(None) => {
                    // Every handle is gone: as a stop that leaves the routes.
                    stopping = Some(Stopping {
                        withdraw: false,
                        compared: false,
                        not_after: now + WITHDRAW_LONGEST,
                        done: None,
                    });
                }
                Wake::Pending(pending) => take(&mut reconciler, pending, now),
                Wake::Answered => {
                    answering = None;
                    reconciler.answered(now);
                }
                Wake::Time => {}
                Wake::Audit => reconciler.audit(),
            }
        }
    }
}

/// Hands the writer what there is room for.
fn pump(
    reconciler: &mut Reconciler,
    jobs: &mpsc::Sender<Job>,
    write_jobs: &mut usize,
    now: Instant,
) -> Result<(), String> {
    let hand_over = |job| {
        // The channel holds all the writes and the one dump that may be on their way.
        jobs.try_send(job).map_err(|_| "the writer's thread has ended".to_owned())
    };
    // Before the routes that depend on it.
    if let Some(job) = reconciler.next_tunnel_job(now) {
        hand_over(job)?;
    }
    while *write_jobs < JOBS {
        // Objects first, because routes refer to them; last as well, when it has turned out that no
        // route needs them any more.
        let job = reconciler.next_objects().or_else(|| {
            let writes = reconciler.next_writes(CHUNK);
            (!writes.is_empty()).then_some(Job::Write(writes))
        });
        let Some(job) = job.or_else(|| reconciler.next_objects()) else { break };
        *write_jobs += 1;
        hand_over(job)?;
    }
    // And when it has turned out that no route needs a device any more.
    if let Some(job) = reconciler.next_tunnel_job(now) {
        hand_over(job)?;
    }
    if let Some(job) = reconciler.next_object_list() {
        hand_over(job)?;
    }
    if let Some(job) = reconciler.next_dump(now) {
        hand_over(job)?;
    }
    Ok(())
}

fn take(reconciler: &mut Reconciler, pending: PendingRoutes, now: Instant) {
    let PendingRoutes { changes, tracking, first_sync, .. } = pending;
    for (next_hop, begin) in tracking {
        reconciler.track(next_hop, begin);
    }
    for change in changes.into_values() {
        reconciler.change(change, now);
    }
    if first_sync {
        reconciler.first_sync();
    }
}

fn obey(command: Command, reconciler: &mut Reconciler, problems: &[String], now: Instant) {
    match command {
        Command::Apply(config, done) => {
            reconciler.apply(config, now);
            let _ = done.send(());
        }
        Command::RouteStatus(prefixes, reply) => {
            let statuses =
                prefixes.into_iter().map(|prefix| reconciler.route_status(prefix)).collect();
            let _ = reply.send(statuses);
        }
        Command::RouteWays(prefixes, reply) => {
            let ways = prefixes.into_iter().map(|prefix| reconciler.route_ways(prefix)).collect();
            let _ = reply.send(ways);
        }
        Command::Status(reply) => {
            let mut status = reconciler.status();
            status.problems.extend_from_slice(problems);
            let _ = reply.send(status);
        }
        Command::Lookup(address, prefix, reply) => {
            let question = Question {
                address,
                prefix,
                table: reconciler.config().table,
                link_names: reconciler.topology().link_names(),
                next_hops: reconciler.next_hops_for(address, prefix),
            };
            let spawned =
                std::thread::Builder::new().name("kernel-lookup".to_owned()).spawn(move || {
                    let _ = reply.send(lookup::answer(question));
                });
            if let Err(error) = spawned {
                tracing::warn!(%error, "no thread for a lookup");
            }
        }
        Command::Stop { .. } => unreachable!("handled by the loop"),
    }
}

/// Whether all is done that stopping asks for.
fn stopped(stop: &mut Stopping, reconciler: &mut Reconciler, now: Instant) -> bool {
    if now >= stop.not_after {
        tracing::warn!("the kernel did not answer in time; stopping anyway");
        return true;
    }
    if !stop.withdraw {
        return reconciler.quiet();
    }
    if reconciler.idle() && !stop.compared {
        stop.compared = true;
        reconciler.recheck_own();
    }
    stop.compared && reconciler.idle()
}

fn check_forwarding(reconciler: &Reconciler, known: &[String]) -> forwarding::Outcome {
    let blackholes = &reconciler.config().blackholes;
    let ipv4 = blackholes.iter().any(|prefix| matches!(prefix, IpNet::V4(_)));
    let ipv6 = blackholes.iter().any(|prefix| matches!(prefix, IpNet::V6(_)));
    let outcome = forwarding::ensure(ipv4, ipv6, &reconciler.topology().advertised_defaults());
    for problem in outcome.problems.iter().filter(|problem| !known.contains(problem)) {
        tracing::warn!("{problem}");
    }
    outcome
}

async fn finish(answering: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match answering {
        Some(answering) => answering.await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
