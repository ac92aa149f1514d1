//! The thread that writes to the kernel.
//!
//! In flow: [`Job`]s in a bounded channel: writes and dumps. Out flow: one [`JobDone`] per job, in
//! the order of the jobs, so that a dump shows exactly what the writes before it have done.
//!
//! A thread of its own with a blocking socket, because a batch of many messages in one `send` with
//! one acknowledgement is two to three times as fast as asynchronous requests, and because the
//! kernel works inside `send`: milliseconds in which no other task should stand still.

use tokio::sync::mpsc;

use super::link::{Address, Link};
use super::objects::{self, KernelObject, ObjectAction, ObjectWrite};
use super::query;
use super::route::{Form, KernelRoute, MAIN_TABLE, RouteFilter, RouteKey, write_delete, write_put};
use super::tunnel::{self, Neighbour, Operation, Results};
use crate::netlink::wire::{self, KernelError};
use crate::netlink::{BatchOutcome, RequestError, RequestSocket, WriteError};

/// Messages in one `send`. More gains nothing, and a thousand failures at once overrun a receive
/// buffer of the default size.
const BATCH: usize = 128;
/// Jobs that may wait; with [`CHUNK`] the bound on what is in flight.
pub(super) const JOBS: usize = 4;
/// Writes in one job.
pub(super) const CHUNK: usize = 1024;

/// What is to be done to one route.
#[derive(Clone, Debug)]
pub(super) struct Write {
    /// The reconciler's number of the route.
    pub id: u32,
    pub key: RouteKey,
    /// Ours; the kernel deletes nothing of another protocol.
    pub protocol: u8,
    pub action: Action,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// Create it; `EEXIST` when anybody has a route there.
    Create(Form),
    /// Put it in the place of the one that is there, in one step.
    Replace(Form),
    /// Take it away.
    Delete,
}

/// A prefix is ours where both the table and the protocol are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Territory {
    pub table: u32,
    pub protocol: u8,
}

/// Work for the thread.
#[derive(Debug)]
pub(super) enum Job {
    /// At most [`CHUNK`] writes.
    Write(Vec<Write>),
    /// Writes of nexthop objects, in this order.
    Objects(Vec<ObjectWrite>),
    /// List all nexthop objects.
    ListObjects,
    /// Work on tunnel devices.
    Tunnel(Vec<Operation>),
    /// List our own routes.
    DumpOwn(Vec<Territory>),
    /// List everything: links, addresses, the main table, our tables.
    DumpAll(Vec<Territory>),
}

/// What came of a job.
#[derive(Debug)]
pub(super) enum JobDone {
    /// The writes; `None`: done, or already as asked; `Some`: refused.
    Written(Vec<(Write, Result<(), WriteError>)>),
    Objects(Vec<(ObjectWrite, Result<(), WriteError>)>),
    ObjectList(Result<Option<Vec<KernelObject>>, RequestError>),
    Tunnel(Results),
    OwnRoutes(Result<Vec<KernelRoute>, RequestError>),
    Everything(Result<Box<Snapshot>, RequestError>),
}

/// Everything the kernel says at one time.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    /// Routes of the main table and of our tables, of everybody.
    pub routes: Vec<KernelRoute>,
    /// `None`: the kernel has no nexthop objects.
    pub objects: Option<Vec<KernelObject>>,
    /// Entries of our tunnel devices.
    pub neighbours: Vec<Neighbour>,
}

/// Runs until the channel of jobs is closed.
pub(super) fn run(
    mut socket: RequestSocket,
    mut jobs: mpsc::Receiver<Job>,
    done: &mpsc::Sender<JobDone>,
) {
    while let Some(job) = jobs.blocking_recv() {
        let result = match job {
            Job::Write(writes) => JobDone::Written(write(&mut socket, writes)),
            Job::Objects(writes) => JobDone::Objects(write_objects(&mut socket, writes)),
            Job::ListObjects => JobDone::ObjectList(query::objects(&mut socket)),
            Job::Tunnel(operations) => JobDone::Tunnel(tunnel::perform(&mut socket, operations)),
            Job::DumpOwn(territories) => JobDone::OwnRoutes(dump_own(&mut socket, &territories)),
            Job::DumpAll(territories) => {
                JobDone::Everything(dump_all(&mut socket, &territories).map(Box::new))
            }
        };
        if done.blocking_send(result).is_err() {
            return;
        }
    }
}

/// Asks for something that changes nothing but needs the capability: deleting a route that cannot
/// exist.
///
/// # Errors
/// The kernel's refusal, which names the capability.
pub(super) fn check_permission(
    socket: &mut RequestSocket,
    territory: Territory,
) -> Result<(), KernelError> {
    let prefix = "192.0.2.255/32".parse().expect("a prefix");
    let key = RouteKey { prefix, metric: u32::MAX, table: territory.table };
    let outcome =
        socket.batch(1, |_, out, sequence| write_delete(out, sequence, &key, territory.protocol));
    match outcome {
        BatchOutcome::Answered(mut failures) => match failures.pop() {
            Some((_, error)) if error.errno == libc::EPERM => Err(error),
            _ => Ok(()),
        },
        BatchOutcome::Lost(_) => Ok(()),
    }
}

fn write(socket: &mut RequestSocket, writes: Vec<Write>) -> Vec<(Write, Result<(), WriteError>)> {
    let mut results: Vec<_> = writes.into_iter().map(|write| (write, Ok(()))).collect();
    for batch in results.chunks_mut(BATCH) {
        let outcome = socket.batch(batch.len(), |index, out, (flags, sequence)| {
            encode(&batch[index].0, out, flags, sequence);
        });
        match outcome {
            BatchOutcome::Answered(failures) => {
                for (index, error) in failures {
                    let gone = error.errno == libc::ESRCH;
                    if !(gone && batch[index].0.action == Action::Delete) {
                        batch[index].1 = Err(WriteError::Refused(error));
                    }
                }
            }
            BatchOutcome::Lost(reason) => {
                for (_, result) in batch {
                    *result = Err(WriteError::Lost(reason.clone()));
                }
            }
        }
    }
    results
}

fn encode(write: &Write, out: &mut Vec<u8>, flags: u16, sequence: u32) {
    let (flags, form) = match &write.action {
        Action::Create(form) => (flags | wire::NLM_F_EXCL, form),
        Action::Replace(form) => (flags | wire::NLM_F_REPLACE, form),
        Action::Delete => return write_delete(out, (flags, sequence), &write.key, write.protocol),
    };
    write_put(out, (flags, sequence), &write.key, write.protocol, form);
}

fn write_objects(
    socket: &mut RequestSocket,
    writes: Vec<ObjectWrite>,
) -> Vec<(ObjectWrite, Result<(), WriteError>)> {
    let mut results: Vec<_> = writes.into_iter().map(|write| (write, Ok(()))).collect();
    for batch in results.chunks_mut(BATCH) {
        let outcome = socket.batch(batch.len(), |index, out, header| {
            let ObjectWrite { id, protocol, action } = &batch[index].0;
            match action {
                ObjectAction::Single(gate) => {
                    objects::write_single(out, header, (*id, *protocol), gate);
                }
                ObjectAction::Group { members, replace } => {
                    objects::write_group(out, header, (*id, *protocol), members, *replace);
                }
                ObjectAction::Delete => objects::write_delete(out, header, *id),
            }
        });
        match outcome {
            BatchOutcome::Answered(failures) => {
                for (index, error) in failures {
                    batch[index].1 = Err(WriteError::Refused(error));
                }
            }
            BatchOutcome::Lost(reason) => {
                for (_, result) in batch {
                    *result = Err(WriteError::Lost(reason.clone()));
                }
            }
        }
    }
    results
}

fn dump_own(
    socket: &mut RequestSocket,
    territories: &[Territory],
) -> Result<Vec<KernelRoute>, RequestError> {
    let mut routes = Vec::new();
    for territory in territories {
        let filter = RouteFilter { table: territory.table, protocol: Some(territory.protocol) };
        routes.append(&mut query::routes(socket, filter)?);
    }
    Ok(routes)
}

/// Lists everything; also used before the thread runs.
pub(super) fn dump_all(
    socket: &mut RequestSocket,
    territories: &[Territory],
) -> Result<Snapshot, RequestError> {
    let mut tables = vec![MAIN_TABLE];
    for territory in territories {
        if !tables.contains(&territory.table) {
            tables.push(territory.table);
        }
    }
    // Objects first: a route then never refers to one that is younger than the list.
    let objects = query::objects(socket)?;
    let links = query::links(socket)?;
    let addresses = query::addresses(socket)?;
    let mut routes = Vec::new();
    for table in tables {
        routes.append(&mut query::routes(socket, RouteFilter { table, protocol: None })?);
    }
    let neighbours = tunnel::neighbours(socket, &links)?;
    Ok(Snapshot { links, addresses, routes, objects, neighbours })
}
