//! Notifications of the kernel: links, addresses, routes, nexthop objects, forwarding.
//!
//! In flow: a multicast netlink socket. Out flow: [`Event`]s in the kernel's order.
//!
//! What always holds: what our own writer has caused does not arrive (a filter in the kernel drops
//! it before it takes room in the receive buffer: a hundred thousand routes of ours would overrun
//! any buffer); a gap is reported as [`Event::Overrun`], never silent.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::SockFilter;

use super::kind;
use super::link::{Address, Link};
use super::objects::KernelObject;
use super::route::KernelRoute;
use super::tunnel::Neighbour;
use crate::netlink::wire::{self, Header};
use crate::netlink::{Notice, NotificationSocket};

/// Octets that may wait, where the capability allows it.
pub(super) const RECEIVE_BUFFER: usize = 8 << 20;

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const RTNLGRP_IPV6_NETCONF: u32 = 25;
const RTNLGRP_NEXTHOP: u32 = 32;
const GROUPS: [u32; 8] = [
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV6_NETCONF,
];

/// Something happened in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Event {
    /// An interface appeared or changed.
    Link(Link),
    /// An interface is gone.
    LinkGone(u32),
    Address(Address),
    AddressGone(Address),
    Route {
        route: KernelRoute,
        /// It took the place of the one with the same key.
        replaces: bool,
        /// Netlink port of whoever did it; 0: the kernel.
        port: u32,
    },
    RouteGone {
        route: KernelRoute,
        port: u32,
    },
    /// Somebody made, changed or deleted a nexthop object.
    Object {
        id: u32,
        port: u32,
    },
    /// An entry of a watched interface's neighbour table appeared or changed.
    Neighbour(Neighbour),
    NeighbourGone(Neighbour),
    /// A setting such as forwarding changed.
    Settings,
    /// Notifications were lost; only a dump can tell what.
    Overrun,
}

/// The socket; see the module.
pub(super) struct Monitor {
    socket: NotificationSocket,
    own_port: u32,
    watched: Vec<u32>,
}

impl Monitor {
    /// Opens it in the network namespace of the calling thread. Route notifications caused by the
    /// netlink port `own_port` are not delivered. `receive_buffer`: octets, [`RECEIVE_BUFFER`]
    /// but in tests.
    pub(super) fn open(own_port: u32, receive_buffer: usize) -> io::Result<Self> {
        let mut socket = NotificationSocket::open(NETLINK_ROUTE, receive_buffer)?;
        socket.filter(&filter(own_port, &[]))?;
        for group in GROUPS {
            socket.join(group)?;
        }
        if let Err(error) = socket.join(RTNLGRP_NEXTHOP) {
            // A kernel without nexthop objects has no such group.
            tracing::debug!(%error, "no notifications of nexthop objects");
        }
        Ok(Self { socket, own_port, watched: Vec::new() })
    }

    /// From now on entries of these interfaces' neighbour tables are reported, and of no others:
    /// every pod has its entry, and whenever it is used that changes.
    pub(super) fn watch_neighbours(&mut self, interfaces: Vec<u32>) {
        if self.watched == interfaces {
            return;
        }
        match self.socket.filter(&filter(self.own_port, &interfaces)) {
            Ok(()) => self.watched = interfaces,
            Err(error) => tracing::warn!(%error, "neighbour tables cannot be watched"),
        }
    }

    /// Waits for notifications, then returns what is there, at most a burst of it.
    pub(super) async fn next(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while events.is_empty() {
            self.socket.wait(|notice| take(notice, &mut events)).await;
        }
        events
    }

    /// What is there now, at most a burst of it.
    pub(super) fn poll(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.socket.poll(|notice| take(notice, &mut events));
        events
    }
}

fn take(notice: Notice<'_>, events: &mut Vec<Event>) {
    match notice {
        Notice::Message(header, payload) => events.extend(event(header, payload)),
        Notice::Lost(error) => {
            if error.raw_os_error() != Some(libc::ENOBUFS) {
                tracing::warn!(%error, "kernel notifications interrupted");
            }
            if events.last() != Some(&Event::Overrun) {
                events.push(Event::Overrun);
            }
        }
    }
}

fn event(header: Header, payload: &[u8]) -> Option<Event> {
    Some(match header.kind {
        kind::RTM_NEWLINK => Event::Link(Link::parse(payload)?),
        kind::RTM_DELLINK => Event::LinkGone(Link::parse(payload)?.index),
        kind::RTM_NEWADDR => Event::Address(Address::parse(payload)?),
        kind::RTM_DELADDR => Event::AddressGone(Address::parse(payload)?),
        kind::RTM_NEWROUTE => Event::Route {
            route: KernelRoute::parse(payload)?,
            replaces: header.flags & wire::NLM_F_REPLACE != 0,
            port: header.port,
        },
        kind::RTM_DELROUTE => {
            Event::RouteGone { route: KernelRoute::parse(payload)?, port: header.port }
        }
        kind::RTM_NEWNEXTHOP | kind::RTM_DELNEXTHOP => {
            Event::Object { id: KernelObject::parse(payload)?.id, port: header.port }
        }
        kind::RTM_NEWNEIGH => Event::Neighbour(Neighbour::parse(payload)?),
        kind::RTM_DELNEIGH => Event::NeighbourGone(Neighbour::parse(payload)?),
        kind::RTM_NEWNETCONF => Event::Settings,
        _ => return None,
    })
}

/// A classic BPF program that drops messages about routes and nexthop objects of one port, and
/// neighbour messages but for some interfaces. Multi-octet loads are big-endian, netlink headers are
/// in host order, hence the swapped constants.
fn filter(port: u32, interfaces: &[u32]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PORT: u32 = 12;
    const KIND: u32 = 4;
    const NEIGHBOUR_INTERFACE: u32 = 20;
    let kind = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    let word = |word: u32| u32::from_be_bytes(word.to_ne_bytes());
    let accept = || SockFilter::new(RETURN, 0, 0, u32::MAX);
    let drop = || SockFilter::new(RETURN, 0, 0, 0);
    let mut program = vec![
        SockFilter::new(LOAD_HALF, 0, 0, KIND),
        SockFilter::new(JUMP_EQUAL, 9, 0, kind(kind::RTM_NEWNEIGH)),
        SockFilter::new(JUMP_EQUAL, 8, 0, kind(kind::RTM_DELNEIGH)),
        SockFilter::new(JUMP_EQUAL, 3, 0, kind(kind::RTM_NEWROUTE)),
        SockFilter::new(JUMP_EQUAL, 2, 0, kind(kind::RTM_DELROUTE)),
        SockFilter::new(JUMP_EQUAL, 1, 0, kind(kind::RTM_NEWNEXTHOP)),
        SockFilter::new(JUMP_EQUAL, 0, 2, kind(kind::RTM_DELNEXTHOP)),
        SockFilter::new(LOAD_WORD, 0, 0, PORT),
        SockFilter::new(JUMP_EQUAL, 1, 0, word(port)),
        accept(),
        drop(),
        SockFilter::new(LOAD_WORD, 0, 0, NEIGHBOUR_INTERFACE),
    ];
    for interface in interfaces {
        program.push(SockFilter::new(JUMP_EQUAL, 0, 1, word(*interface)));
        program.push(accept());
    }
    program.push(drop());
    program
}
