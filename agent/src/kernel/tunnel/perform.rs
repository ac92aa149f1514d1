//! What is to be done to tunnel devices, and doing it: the only part of this room that talks to the
//! kernel. Runs on the writer's thread, in order with the writes of routes.

use std::net::IpAddr;
use std::path::Path;

use super::super::kind;
use super::super::link::{Link, LinkKind};
use super::message::{self, Neighbour};
use super::{Device, Mac};
use crate::netlink::wire::KernelError;
use crate::netlink::{BatchOutcome, RequestError, RequestSocket};

/// Entries in one `send`.
const BATCH: usize = 128;

/// One thing to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) enum Operation {
    /// Create the device and switch it on.
    Create {
        device: Device,
        kind: LinkKind,
        mtu: u32,
        mac: Option<Mac>,
    },
    /// Give an existing one this MTU and address, and switch it on.
    Change {
        device: Device,
        interface: u32,
        mtu: u32,
        mac: Option<Mac>,
    },
    /// Remove it.
    Remove {
        device: Device,
        interface: u32,
    },
    AddAddress {
        device: Device,
        interface: u32,
        address: IpAddr,
    },
    RemoveAddress {
        device: Device,
        interface: u32,
        address: IpAddr,
    },
    /// See to it that the reverse-path filter is not strict.
    Loosen {
        interface: u32,
        name: String,
    },
    PutNeighbour {
        device: Device,
        neighbour: Neighbour,
    },
    RemoveNeighbour {
        device: Device,
        neighbour: Neighbour,
    },
}

impl Operation {
    /// The interface that it is done to; none where that is yet to be made.
    pub(super) fn interface(&self) -> Option<u32> {
        match self {
            Self::Create { .. } => None,
            Self::Change { interface, .. }
            | Self::Remove { interface, .. }
            | Self::AddAddress { interface, .. }
            | Self::RemoveAddress { interface, .. }
            | Self::Loosen { interface, .. } => Some(*interface),
            Self::PutNeighbour { neighbour, .. } | Self::RemoveNeighbour { neighbour, .. } => {
                Some(neighbour.interface)
            }
        }
    }
}

/// Why something was not done, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) struct Refusal {
    /// The kernel's error number; 0: its answer was lost.
    pub errno: i32,
    pub words: String,
}

/// Each operation with what came of it.
pub(in super::super) type Results = Vec<(Operation, Result<(), Refusal>)>;

/// Does them in order.
pub(in super::super) fn perform(socket: &mut RequestSocket, operations: Vec<Operation>) -> Results {
    let mut results: Results =
        operations.into_iter().map(|operation| (operation, Ok(()))).collect();
    let mut rest = results.as_mut_slice();
    while !rest.is_empty() {
        let entries = rest.iter().take(BATCH).take_while(|(operation, _)| is_entry(operation));
        let count = entries.count();
        if count > 0 {
            let (now, later) = rest.split_at_mut(count);
            put_entries(socket, now);
            rest = later;
        } else {
            let (now, later) = rest.split_at_mut(1);
            now[0].1 = one(socket, &now[0].0);
            rest = later;
        }
    }
    results
}

/// The permanent entries of VXLAN devices among these links.
pub(in super::super) fn neighbours(
    socket: &mut RequestSocket,
    links: &[Link],
) -> Result<Vec<Neighbour>, RequestError> {
    let mut found = Vec::new();
    for link in links.iter().filter(|link| Device::of(link).is_some_and(Device::has_neighbours)) {
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_BRIDGE] {
            let entries = socket.dump(
                kind::RTM_NEWNEIGH,
                |out, sequence| message::write_neighbour_dump(out, sequence, family, link.index),
                Neighbour::parse,
            );
            match entries {
                Ok(entries) => {
                    found.extend(entries.into_iter().filter(|entry| entry.interface == link.index));
                }
                // No such family here, or the device has just gone.
                Err(RequestError::Kernel(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// What the neighbour table says of an address, in words; `None`: nothing.
pub(in super::super) fn neighbour(
    socket: &mut RequestSocket,
    interface: u32,
    address: IpAddr,
) -> Option<String> {
    let answer = socket.ask(
        kind::RTM_NEWNEIGH,
        |out, sequence| message::write_neighbour_get(out, sequence, interface, address),
        message::neighbour_words,
    );
    answer.ok().flatten()
}

fn is_entry(operation: &Operation) -> bool {
    matches!(operation, Operation::PutNeighbour { .. } | Operation::RemoveNeighbour { .. })
}

fn put_entries(socket: &mut RequestSocket, results: &mut [(Operation, Result<(), Refusal>)]) {
    let outcome = socket.batch(results.len(), |index, out, flags| match &results[index].0 {
        Operation::PutNeighbour { neighbour, .. } => {
            message::write_neighbour(out, flags, true, neighbour);
        }
        Operation::RemoveNeighbour { neighbour, .. } => {
            message::write_neighbour(out, flags, false, neighbour);
        }
        _ => unreachable!("only entries are batched"),
    });
    match outcome {
        BatchOutcome::Answered(failures) => {
            for (index, error) in failures {
                let gone = matches!(results[index].0, Operation::RemoveNeighbour { .. })
                    && matches!(error.errno, libc::ENOENT | libc::ENODEV);
                if !gone {
                    results[index].1 = Err(error.into());
                }
            }
        }
        BatchOutcome::Lost(words) => {
            for (_, result) in results {
                *result = Err(Refusal { errno: 0, words: words.clone() });
            }
        }
    }
}

fn one(socket: &mut RequestSocket, operation: &Operation) -> Result<(), Refusal> {
    match operation {
        Operation::Create { device, kind, mtu, mac } => {
            let name = device.name();
            request(socket, |out, flags| {
                message::write_create(out, flags, name, kind, *mtu, *mac);
            })?;
            // A kernel without IPv6 makes no link-local addresses either.
            let _ = request(socket, |out, flags| message::write_no_link_local(out, flags, name));
            request(socket, |out, flags| message::write_up(out, flags, name))
        }
        Operation::Change { interface, mtu, mac, .. } => request(socket, |out, flags| {
            message::write_change(out, flags, *interface, *mtu, *mac);
        }),
        Operation::Remove { interface, .. } => {
            let removed =
                request(socket, |out, flags| message::write_remove(out, flags, *interface));
            removed.or_else(|refusal| match refusal.errno {
                libc::ENODEV => Ok(()),
                _ => Err(refusal),
            })
        }
        Operation::AddAddress { interface, address, .. } => request(socket, |out, flags| {
            message::write_address(out, flags, true, *interface, *address);
        }),
        Operation::RemoveAddress { interface, address, .. } => {
            let removed = request(socket, |out, flags| {
                message::write_address(out, flags, false, *interface, *address);
            });
            removed.or_else(|refusal| match refusal.errno {
                libc::EADDRNOTAVAIL | libc::ENODEV => Ok(()),
                _ => Err(refusal),
            })
        }
        Operation::Loosen { interface, name } => loosen(socket, *interface, name),
        Operation::PutNeighbour { .. } | Operation::RemoveNeighbour { .. } => {
            unreachable!("entries are batched")
        }
    }
}

/// What counts is the greater of the setting for all interfaces and of the interface's own: 0 off,
/// 1 strict, 2 loose. Only strict is touched.
fn loosen(socket: &mut RequestSocket, interface: u32, name: &str) -> Result<(), Refusal> {
    let settings = Path::new("/proc/sys/net/ipv4/conf");
    let read = |which: &str| {
        let text = std::fs::read_to_string(settings.join(which).join("rp_filter")).ok()?;
        text.trim().parse::<u32>().ok()
    };
    let own = socket.ask(
        kind::RTM_NEWLINK,
        |out, sequence| message::write_link_get(out, sequence, interface),
        message::read_rp_filter,
    );
    let own = own.ok().flatten().or_else(|| read(name)).unwrap_or(0);
    if own.max(read("all").unwrap_or(0)) != 1 {
        return Ok(());
    }
    let asked = request(socket, |out, flags| message::write_loose(out, flags, interface));
    let Err(refusal) = asked else {
        tracing::info!(
            link = name,
            "reverse-path filter was strict and is loose now (rp_filter=2)"
        );
        return Ok(());
    };
    match std::fs::write(settings.join(name).join("rp_filter"), "2") {
        Ok(()) => Ok(()),
        Err(_) => Err(Refusal {
            errno: refusal.errno,
            words: format!(
                "{name} filters by reverse path strictly, which drops packets of tunnels, and \
                 cannot be changed from here ({}): run `sysctl -w net.ipv4.conf.{name}.rp_filter=2` \
                 on the host",
                refusal.words
            ),
        }),
    }
}

fn request(
    socket: &mut RequestSocket,
    mut encode: impl FnMut(&mut Vec<u8>, (u16, u32)),
) -> Result<(), Refusal> {
    match socket.batch(1, |_, out, flags| encode(out, flags)) {
        BatchOutcome::Answered(mut failures) => match failures.pop() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        },
        BatchOutcome::Lost(words) => Err(Refusal { errno: 0, words }),
    }
}

impl From<KernelError> for Refusal {
    fn from(error: KernelError) -> Self {
        Self { errno: error.errno, words: error.to_string() }
    }
}
