//! A blocking netlink socket for requests: batches of writes, dumps, single questions.
//!
//! In flow: requests. Out flow: per request what the kernel answered. Everything that asks the
//! kernel goes through here; notifications come through [`super::monitor`].
//!
//! What always holds: an answer is attributed by its sequence number, so that a late answer to an
//! abandoned request is never taken for another's. A batch carries the acknowledge flag on its last
//! message only; the kernel reports failures of the others without it, and answers in order.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use super::objects::{self, KernelObject};
use super::route::{self, Address, KernelRoute, Link, RouteFilter};
use super::wire::{self, KernelError};

/// Octets of answers that may wait; a batch in which every message fails copies all of them back.
pub(super) const RECEIVE_BUFFER: usize = 4 << 20;
/// Longest the kernel may take over one answer. It works inside `send`, so this is never reached
/// unless answers were lost.
const TIMEOUT: Duration = Duration::from_secs(5);
/// One datagram of a dump is at most 32 kB.
const READ_SIZE: usize = 64 << 10;
/// How often a dump that changed under way is begun again.
const DUMP_ATTEMPTS: usize = 4;

/// What became of a batch.
#[derive(Debug)]
pub(super) enum BatchOutcome {
    /// Every message was answered; these (by index) failed.
    Answered(Vec<(usize, KernelError)>),
    /// Answers were lost; what the kernel has done is unknown.
    Lost(String),
}

/// A dump or a question that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
}

/// The socket; see the module.
pub(super) struct RequestSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
    out: Vec<u8>,
    read: Vec<u8>,
}

impl RequestSocket {
    /// Opens it in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        Self::open_with(RECEIVE_BUFFER)
    }

    /// The same with another receive buffer, octets; smaller only in tests.
    pub(super) fn open_with(buffer: usize) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        if buffer >= RECEIVE_BUFFER {
            raise_receive_buffer(&socket, buffer);
        } else {
            setsockopt(&socket.as_fd(), RcvBuf, &buffer)?;
        }
        let timeout = TimeVal::milliseconds(i64::try_from(TIMEOUT.as_millis()).unwrap_or(5000));
        setsockopt(&socket.as_fd(), ReceiveTimeout, &timeout)?;
        let (out, read) = (Vec::with_capacity(READ_SIZE), Vec::with_capacity(READ_SIZE));
        Ok(Self { socket, port, sequence: 0, out, read })
    }

    /// The netlink port that notifications caused by this socket carry.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends `count` messages at once and waits for all answers. `encode` appends the message of
    /// an index with the flags and sequence number it is given.
    pub(super) fn batch(
        &mut self,
        count: usize,
        mut encode: impl FnMut(usize, &mut Vec<u8>, (u16, u32)),
    ) -> BatchOutcome {
        self.out.clear();
        let first = self.sequence.wrapping_add(1);
        for index in 0..count {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = if index + 1 == count { wire::NLM_F_ACK } else { 0 };
            encode(index, &mut self.out, (flags, self.sequence));
        }
        if let Err(error) = self.socket.send(&self.out, 0) {
            return BatchOutcome::Lost(format!("send: {error}"));
        }
        let mut failures = Vec::new();
        loop {
            if let Err(error) = self.receive() {
                return BatchOutcome::Lost(format!("receive: {error}"));
            }
            for (header, payload) in wire::messages(&self.read) {
                let index = header.sequence.wrapping_sub(first) as usize;
                if header.kind != wire::NLMSG_ERROR || index >= count {
                    continue;
                }
                if let Some(error) = wire::acknowledgement(header, payload) {
                    failures.push((index, error));
                }
                if index + 1 == count {
                    return BatchOutcome::Answered(failures);
                }
            }
        }
    }

    /// All routes of both families that pass the filter; an absent table is an empty one.
    pub(super) fn routes(&mut self, filter: RouteFilter) -> Result<Vec<KernelRoute>, RequestError> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let dumped = self.dump(
                wire::RTM_NEWROUTE,
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
    pub(super) fn links(&mut self) -> Result<Vec<Link>, RequestError> {
        self.dump(wire::RTM_NEWLINK, route::write_link_dump, Link::parse)
    }

    /// All addresses.
    pub(super) fn addresses(&mut self) -> Result<Vec<Address>, RequestError> {
        self.dump(wire::RTM_NEWADDR, route::write_address_dump, Address::parse)
    }

    /// All nexthop objects; `None` where the kernel has none (before Linux 5.3).
    pub(super) fn objects(&mut self) -> Result<Option<Vec<KernelObject>>, RequestError> {
        match self.dump(wire::RTM_NEWNEXTHOP, objects::write_dump, KernelObject::parse) {
            Ok(objects) => Ok(Some(objects)),
            Err(RequestError::Kernel(error)) if error.errno == libc::EOPNOTSUPP => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The route packets to `address` take, our own included.
    pub(super) fn route_to(
        &mut self,
        address: IpAddr,
    ) -> Result<Option<KernelRoute>, RequestError> {
        self.ask(
            wire::RTM_NEWROUTE,
            |out, sequence| route::write_route_get(out, sequence, address),
            KernelRoute::parse_answer,
        )
    }

    /// Asks a question that has one answer, a message of this kind.
    pub(super) fn ask<T>(
        &mut self,
        kind: u16,
        request: impl Fn(&mut Vec<u8>, u32),
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        self.out.clear();
        self.sequence = self.sequence.wrapping_add(1);
        request(&mut self.out, self.sequence);
        self.socket.send(&self.out, 0)?;
        let mut found = None;
        loop {
            self.receive()?;
            for (header, payload) in wire::messages(&self.read) {
                match header.kind {
                    _ if header.sequence != self.sequence => {}
                    answer if answer == kind => found = parse(payload),
                    wire::NLMSG_ERROR => {
                        return match wire::acknowledgement(header, payload) {
                            Some(error) => Err(error.into()),
                            None => Ok(found),
                        };
                    }
                    _ => {}
                }
            }
        }
    }

    /// Lists what answers with messages of this kind.
    pub(super) fn dump<T>(
        &mut self,
        kind: u16,
        request: impl Fn(&mut Vec<u8>, u32),
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, RequestError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (found, interrupted) = self.dump_once(kind, &request, &parse)?;
            // A table that never holds still is taken as it was seen last: the notifications of
            // what changed meanwhile arrive anyway.
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(found);
            }
        }
    }

    fn dump_once<T>(
        &mut self,
        kind: u16,
        request: impl Fn(&mut Vec<u8>, u32),
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<(Vec<T>, bool), RequestError> {
        self.out.clear();
        self.sequence = self.sequence.wrapping_add(1);
        request(&mut self.out, self.sequence);
        self.socket.send(&self.out, 0)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            self.receive()?;
            for (header, payload) in wire::messages(&self.read) {
                if header.sequence != self.sequence {
                    continue;
                }
                interrupted |= header.flags & wire::NLM_F_DUMP_INTR != 0;
                match header.kind {
                    // Both begin with an error number; 0 or absent ends the dump well.
                    wire::NLMSG_DONE | wire::NLMSG_ERROR => {
                        return match wire::acknowledgement(header, payload) {
                            Some(error) => Err(error.into()),
                            None => Ok((found, interrupted)),
                        };
                    }
                    answer if answer == kind => found.extend(parse(payload)),
                    _ => {}
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        self.read.clear();
        loop {
            match self.socket.recv(&mut self.read, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }
}

/// Asks for a receive buffer beyond the system's limit, or as much of it as is allowed.
pub(crate) fn raise_receive_buffer(socket: &Socket, octets: usize) {
    let fd = socket.as_fd();
    if setsockopt(&fd, RcvBufForce, &octets).is_err() {
        // Without the capability the system's limit (net.core.rmem_max) applies; an overrun is
        // noticed and mended by a dump.
        let _ = setsockopt(&fd, RcvBuf, &octets);
    }
}
