//! What rtnetlink is asked: routes, links, addresses, nexthop objects, the way to an address.
//!
//! In flow: a socket and what to look for. Out flow: what the kernel has, parsed.
//!
//! What always holds: what the kernel does not know at all (a table, a family) is an empty list.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::kind;
use super::link::{self, Address, Link};
use super::objects::{self, KernelObject};
use super::route::{self, KernelRoute, RouteFilter};
use crate::netlink::wire::KernelError;
use crate::netlink::{RequestError, RequestSocket};

/// Octets of answers that may wait; a batch in which every message fails copies all of them back.
pub(super) const RECEIVE_BUFFER: usize = 4 << 20;
/// Longest the kernel may take over one answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a socket in the network namespace of the calling thread.
pub(super) fn open() -> io::Result<RequestSocket> {
    open_with(RECEIVE_BUFFER)
}

/// The same with another receive buffer, octets; smaller only in tests.
pub(super) fn open_with(buffer: usize) -> io::Result<RequestSocket> {
    let socket = RequestSocket::open(NETLINK_ROUTE, TIMEOUT)?;
    socket.be_strict()?;
    socket.set_receive_buffer(buffer);
    Ok(socket)
}

/// All routes of both families that pass the filter; an absent table is an empty one.
pub(super) fn routes(
    socket: &mut RequestSocket,
    filter: RouteFilter,
) -> Result<Vec<KernelRoute>, RequestError> {
    let mut routes = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let dumped = socket.dump(
            kind::RTM_NEWROUTE,
            |out, sequence| route::write_route_dump(out, sequence, family, filter),
            KernelRoute::parse,
        );
        match dumped {
            Ok(found) if routes.is_empty() => routes = found,
            Ok(found) => routes.extend(found),
            // ENOENT: no such table yet; EAFNOSUPPORT, EOPNOTSUPP: no such family here.
            Err(RequestError::Kernel(KernelError {
                errno: libc::ENOENT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP,
                ..
            })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(routes)
}

/// All interfaces.
pub(super) fn links(socket: &mut RequestSocket) -> Result<Vec<Link>, RequestError> {
    socket.dump(kind::RTM_NEWLINK, link::write_link_dump, Link::parse)
}

/// All addresses.
pub(super) fn addresses(socket: &mut RequestSocket) -> Result<Vec<Address>, RequestError> {
    socket.dump(kind::RTM_NEWADDR, link::write_address_dump, Address::parse)
}

/// All nexthop objects; `None` where the kernel has none (before Linux 5.3).
pub(super) fn objects(
    socket: &mut RequestSocket,
) -> Result<Option<Vec<KernelObject>>, RequestError> {
    match socket.dump(kind::RTM_NEWNEXTHOP, objects::write_dump, KernelObject::parse) {
        Ok(objects) => Ok(Some(objects)),
        Err(RequestError::Kernel(error)) if error.errno == libc::EOPNOTSUPP => Ok(None),
        Err(error) => Err(error),
    }
}

/// The route packets to `address` take, our own included.
pub(super) fn route_to(
    socket: &mut RequestSocket,
    address: IpAddr,
) -> Result<Option<KernelRoute>, RequestError> {
    socket.ask(
        kind::RTM_NEWROUTE,
        |out, sequence| route::write_route_get(out, sequence, address),
        KernelRoute::parse_answer,
    )
}
