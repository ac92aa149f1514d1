//! The seam to the kernel: what forwarding should be, and what is known about next hops.

use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use smallvec::SmallVec;

/// The forwarding of one prefix has changed. Only the latest per prefix matters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteChange {
    /// Which prefix.
    pub prefix: IpNet,
    /// Where its packets go now; empty: nowhere, the route is to be removed.
    pub next_hops: NextHopSet,
    /// When the change was decided, for the update-to-kernel latency.
    pub decided: Instant,
}

/// Next hops of one route, sorted, without repetition, at most `maximumPaths`.
pub type NextHopSet = SmallVec<[ForwardingNextHop; 1]>;

/// One next hop to forward through.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ForwardingNextHop {
    /// Its address; link-local only together with an interface.
    pub address: IpAddr,
    /// Index of the interface it must be reached over; 0: whichever the kernel finds.
    pub interface: u32,
}

/// What the kernel side says about a tracked next hop.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NextHopAnswer {
    /// Which next hop.
    pub next_hop: ForwardingNextHop,
    /// How it is.
    pub state: NextHopState,
}

/// Whether packets can be sent to a next hop.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NextHopState {
    /// Not answered yet; paths through it are ineligible.
    Unknown,
    /// Yes, at this IGP metric (0: on link).
    Reachable {
        /// The metric of the route it resolves through, for the decision process.
        metric: u32,
    },
    /// No, and why.
    Unreachable {
        /// In words, for `routes` and `explain`.
        reason: String,
    },
}
