//! What the kernel really has for one destination, for `routelet explain`.
//!
//! In flow: an address, perhaps a prefix. Out flow: routes in words, asked of the kernel now. Runs
//! on a thread of its own with a socket of its own: a list of a large table must hold up no write.

use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::fast::FixedState;
use ipnet::IpNet;

use super::query;
use super::render;
use super::route::{MAIN_TABLE, RouteFilter};
use super::tunnel;
use super::{KernelLookup, NextHopLookup};
use crate::netlink::RequestError;

/// What to look for, and the names of the interfaces.
pub(super) struct Question {
    pub address: IpAddr,
    pub prefix: Option<IpNet>,
    /// Our table.
    pub table: u32,
    pub link_names: HashMap<u32, String, FixedState>,
    /// What is known already of the next hops, and the neighbours to look up for each.
    pub next_hops: Vec<(NextHopLookup, Vec<(u32, IpAddr)>)>,
}

/// Asks the kernel. What cannot be asked is left out.
pub(super) fn answer(question: Question) -> KernelLookup {
    let Question { address, prefix, table, link_names, next_hops } = question;
    let name = |index: u32| link_names.get(&index).cloned().unwrap_or_else(|| format!("if{index}"));
    let (known, neighbours): (Vec<_>, Vec<_>) = next_hops.into_iter().unzip();
    let mut lookup = KernelLookup { next_hops: known, ..KernelLookup::default() };
    let mut socket = match query::open() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "netlink could not be opened to look up a route");
            return lookup;
        }
    };
    lookup.route = match query::route_to(&mut socket, address) {
        Ok(route) => route.map(|route| render::route_to(&route, &name)),
        Err(RequestError::Kernel(error)) => match error.errno {
            libc::EINVAL => Some(format!("blackhole {address}")),
            libc::EHOSTUNREACH => Some(format!("unreachable {address}")),
            libc::EACCES => Some(format!("prohibit {address}")),
            _ => None,
        },
        Err(RequestError::Socket(_)) => None,
    };
    for (next_hop, neighbours) in lookup.next_hops.iter_mut().zip(neighbours) {
        let words: Vec<_> = neighbours
            .into_iter()
            .map(|(interface, address)| {
                let known = tunnel::neighbour(&mut socket, interface, address);
                let known = known.unwrap_or_else(|| "no entry".to_owned());
                format!("{address} on {}: {known}", name(interface))
            })
            .collect();
        next_hop.neighbour = (!words.is_empty()).then(|| words.join(", "));
    }
    if let Some(prefix) = prefix.map(|prefix| prefix.trunc()) {
        let mut tables = vec![table];
        if table != MAIN_TABLE {
            tables.push(MAIN_TABLE);
        }
        for table in tables {
            let filter = RouteFilter { table, protocol: None };
            let mut routes = query::routes(&mut socket, filter).unwrap_or_default();
            routes.retain(|route| route.key.prefix == prefix);
            routes.sort_by_key(|route| route.key.metric);
            lookup.candidates.extend(routes.iter().map(|route| render::route(route, &name)));
        }
    }
    lookup
}
