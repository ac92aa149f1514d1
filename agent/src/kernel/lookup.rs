//! What the kernel really has for one destination, for `routelet explain`.
//!
//! In flow: an address, perhaps a prefix. Out flow: routes in words, asked of the kernel now. Runs
//! on a thread of its own with a socket of its own: a list of a large table must hold up no write.

use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::fast::FixedState;
use ipnet::IpNet;

use super::KernelLookup;
use super::render;
use super::route::{MAIN_TABLE, RouteFilter};
use super::socket::{RequestError, RequestSocket};

/// What to look for, and the names of the interfaces.
pub(super) struct Question {
    pub address: IpAddr,
    pub prefix: Option<IpNet>,
    /// Our table.
    pub table: u32,
    pub link_names: HashMap<u32, String, FixedState>,
    /// How the next hops resolve, known already.
    pub next_hops: Vec<(IpAddr, String)>,
}

/// Asks the kernel. What cannot be asked is left out.
pub(super) fn answer(question: Question) -> KernelLookup {
    let Question { address, prefix, table, link_names, next_hops } = question;
    let name = |index: u32| link_names.get(&index).cloned().unwrap_or_else(|| format!("if{index}"));
    let mut lookup = KernelLookup { next_hops, ..KernelLookup::default() };
    let mut socket = match RequestSocket::open() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "netlink could not be opened to look up a route");
            return lookup;
        }
    };
    lookup.route = match socket.route_to(address) {
        Ok(route) => route.map(|route| render::route_to(&route, &name)),
        Err(RequestError::Kernel(error)) => match error.errno {
            libc::EINVAL => Some(format!("blackhole {address}")),
            libc::EHOSTUNREACH => Some(format!("unreachable {address}")),
            libc::EACCES => Some(format!("prohibit {address}")),
            _ => None,
        },
        Err(RequestError::Socket(_)) => None,
    };
    if let Some(prefix) = prefix.map(|prefix| prefix.trunc()) {
        let mut tables = vec![table];
        if table != MAIN_TABLE {
            tables.push(MAIN_TABLE);
        }
        for table in tables {
            let mut routes =
                socket.routes(RouteFilter { table, protocol: None }).unwrap_or_default();
            routes.retain(|route| route.key.prefix == prefix);
            routes.sort_by_key(|route| route.key.metric);
            lookup.candidates.extend(routes.iter().map(|route| render::route(route, &name)));
        }
    }
    lookup
}
