//! Tunnels to nodes that are not on our link: which packets travel by which, and the devices.
//!
//! ```text
//!  pools, nodes ──► choice: per (next hop, what the pool asks)  ──► hop of a route, or plain, or not
//!  topology ──────►   ▲ device ready?
//!               state: three devices wanted ──► operations ──► perform (writer's thread)
//!                     ▲ links, addresses, neighbour entries as the kernel reports them
//! ```
//!
//! In flow: the configuration, the topology, entries of neighbour tables. Out flow: [`Choice`]s for
//! the routes, [`Operation`]s for the kernel, status. `choice` and `state` decide without IO or
//! clock; `message` has the octets, `perform` talks to the kernel.
//!
//! What always holds:
//! - one device of our own per encapsulation and family of outer packets, for all nodes; other
//!   people's tunnels, `tunl0` among them, are not touched: ours are told by name and kind;
//! - only a next hop that is an address of a known node is tunnelled to; for such a one that needs
//!   the tunnel the route is never plain instead;
//! - a device has its address before a route leads over it, and its entries for a node before a
//!   route to that node; it is removed only when no route uses it, and not before the first sync;
//! - a device that goes is kept for a while after the last route has left it, and one that comes is
//!   there for a while before the first route takes it: the other nodes do not change at the same
//!   moment.

mod choice;
mod config;
mod identity;
mod message;
mod perform;
mod state;

use std::fmt;
use std::time::Duration;

use super::link::{Link, LinkKind, Mac};

pub(super) use self::choice::{Asked, Way};
pub use self::config::{Encapsulation, TunnelConfig, TunnelMode, TunnelNode, TunnelPool};
pub(super) use self::message::Neighbour;
pub(super) use self::perform::{Operation, Results, neighbour, neighbours, perform};
pub use self::state::TunnelStatus;
pub(super) use self::state::{Leave, Tunnels};

/// The devices of our own.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Device {
    IpIp,
    /// VXLAN over IPv4.
    Vxlan,
    /// VXLAN over IPv6.
    Vxlan6,
}

impl Device {
    pub(super) const ALL: [Self; 3] = [Self::IpIp, Self::Vxlan, Self::Vxlan6];

    /// Its name in the kernel.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::IpIp => "routelet-ipip",
            Self::Vxlan => "routelet-vxlan",
            Self::Vxlan6 => "routelet-vxlan6",
        }
    }

    /// Which of our devices a link is, if any: the name and the kind must fit.
    pub(super) fn of(link: &Link) -> Option<Self> {
        Self::ALL.into_iter().find(|device| {
            device.name() == link.name
                && match link.kind {
                    LinkKind::IpIp { .. } => *device == Self::IpIp,
                    LinkKind::Vxlan(_) => *device != Self::IpIp,
                    LinkKind::Physical | LinkKind::Other(_) => false,
                }
        })
    }

    pub(super) const fn encapsulation(self) -> Encapsulation {
        match self {
            Self::IpIp => Encapsulation::IpIp,
            Self::Vxlan | Self::Vxlan6 => Encapsulation::Vxlan,
        }
    }

    /// Whether outer packets are IPv4.
    pub(super) const fn over_ipv4(self) -> bool {
        !matches!(self, Self::Vxlan6)
    }

    /// Octets of the outer headers: IPv4; IPv4, UDP, VXLAN, Ethernet; the same with IPv6.
    pub(super) const fn overhead(self) -> u32 {
        match self {
            Self::IpIp => 20,
            Self::Vxlan => 50,
            Self::Vxlan6 => 70,
        }
    }

    /// Whether other nodes are told apart by link-layer addresses.
    pub(super) const fn has_neighbours(self) -> bool {
        !matches!(self, Self::IpIp)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a route leads nowhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct NoTarget {
    pub reason: Box<str>,
    /// What is in the kernel instead must go: it would carry packets in the open that belong into a
    /// tunnel. Otherwise what is there stays until there is something better.
    pub withhold: bool,
}

impl NoTarget {
    /// One that leaves alone what is there.
    pub(super) fn wait(reason: impl Into<Box<str>>) -> Self {
        Self { reason: reason.into(), withhold: false }
    }
}

/// How slowly tunnels come and go, so that all nodes of a cluster change from one to another
/// without losing a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long a new device is there before routes are moved to it.
    pub lead: Duration,
    /// How long a device is kept after it is needed no more.
    pub linger: Duration,
}
