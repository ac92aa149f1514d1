//! Next-hop tracking: which next hops the attribute sets in use have, and how each one is.
//!
//! A next hop is an address with, where it is link-local, the interface of the session it came
//! over. It exists while an attribute set refers to it; the kernel side is asked about it when it
//! appears and released when it goes. Without tracking every next hop is reachable with metric 0,
//! and no index from next hops to destinations is kept.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use foldhash::fast::FixedState;
use routelet_proto::{Family, NextHop};

use super::Output;
use super::dest_set::DestSet;
use super::slab::Slab;
use crate::core::forwarding::{ForwardingNextHop, NextHopState};

/// A next hop's number; [`NextHopId::NONE`] for routes that start here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NextHopId(u32);

impl NextHopId {
    pub(super) const NONE: Self = Self(u32::MAX);
}

/// The next hops in use.
#[derive(Debug)]
pub(super) struct NextHops {
    index: HashMap<ForwardingNextHop, u32, FixedState>,
    slab: Slab<Tracked>,
    tracking: bool,
    unknown: usize,
    /// Track and untrack requests not handed out yet.
    pub(super) requests: VecDeque<Output>,
}

#[derive(Debug)]
struct Tracked {
    next_hop: ForwardingNextHop,
    state: NextHopState,
    refs: u32,
    /// Destinations with a path through it, possibly too many; only while tracking.
    destinations: [DestSet; Family::ALL.len()],
}

impl NextHops {
    pub(super) fn new() -> Self {
        Self {
            index: HashMap::default(),
            slab: Slab::new(),
            tracking: false,
            unknown: 0,
            requests: VecDeque::new(),
        }
    }

    /// One more attribute set uses `next_hop`.
    pub(super) fn acquire(&mut self, next_hop: ForwardingNextHop) -> NextHopId {
        if let Some(id) = self.index.get(&next_hop) {
            self.slab[*id].refs += 1;
            return NextHopId(*id);
        }
        let state = self.initial_state(&next_hop);
        self.request(next_hop, &state);
        let id = self.slab.insert(Tracked {
            next_hop,
            state,
            refs: 1,
            destinations: Default::default(),
        });
        self.index.insert(next_hop, id);
        NextHopId(id)
    }

    /// One attribute set less uses it.
    pub(super) fn release(&mut self, id: NextHopId) {
        if id == NextHopId::NONE {
            return;
        }
        let tracked = &mut self.slab[id.0];
        tracked.refs -= 1;
        if tracked.refs > 0 {
            return;
        }
        tracked.destinations = Default::default();
        let (next_hop, state) = (tracked.next_hop, tracked.state.clone());
        self.index.remove(&next_hop);
        self.slab.release(id.0);
        self.cease(next_hop, &state);
    }

    /// How it is; routes of our own are always reachable.
    pub(super) fn state(&self, id: NextHopId) -> &NextHopState {
        if id == NextHopId::NONE {
            return &NextHopState::Reachable { metric: 0 };
        }
        &self.slab[id.0].state
    }

    /// Its metric, if it is reachable.
    pub(super) fn metric(&self, id: NextHopId) -> Option<u32> {
        match self.state(id) {
            NextHopState::Reachable { metric } => Some(*metric),
            _ => None,
        }
    }

    /// Where packets go, if it is not one of ours.
    pub(super) fn forwarding(&self, id: NextHopId) -> Option<ForwardingNextHop> {
        (id != NextHopId::NONE).then(|| self.slab[id.0].next_hop)
    }

    /// Notes that a destination has a path through it.
    pub(super) fn used_by(&mut self, id: NextHopId, family: Family, destination: u32) {
        if self.tracking && id != NextHopId::NONE {
            self.slab[id.0].destinations[family.index()].insert(destination);
        }
    }

    /// Takes an answer. The destinations to decide again, per family, if it changed anything.
    pub(super) fn answer(
        &mut self,
        next_hop: &ForwardingNextHop,
        state: &NextHopState,
    ) -> Option<[Vec<u32>; Family::ALL.len()]> {
        if !self.tracking || unusable(next_hop) {
            return None;
        }
        let tracked = &mut self.slab[*self.index.get(next_hop)?];
        if tracked.state == *state {
            return None;
        }
        if tracked.state == NextHopState::Unknown {
            self.unknown -= 1;
        } else if *state == NextHopState::Unknown {
            self.unknown += 1;
        }
        tracked.state = state.clone();
        Some([0, 1].map(|family| tracked.destinations[family].iter().collect()))
    }

    /// How many have no answer yet.
    pub(super) const fn unknown(&self) -> usize {
        self.unknown
    }

    /// The tracked ones.
    pub(super) fn tracked(&self) -> impl Iterator<Item = ForwardingNextHop> + '_ {
        self.index.keys().copied().filter(|next_hop| self.tracking && !unusable(next_hop))
    }

    /// Switches tracking. Every state starts anew, so every destination must be decided again and
    /// its use of next hops noted.
    pub(super) fn set_tracking(&mut self, tracking: bool) {
        if self.tracking == tracking {
            return;
        }
        let mut all: Vec<_> = self.index.iter().map(|(next_hop, id)| (*next_hop, *id)).collect();
        all.sort_unstable();
        for (next_hop, id) in &all {
            let state = self.slab[*id].state.clone();
            self.cease(*next_hop, &state);
        }
        self.tracking = tracking;
        for (next_hop, id) in all {
            let state = self.initial_state(&next_hop);
            self.request(next_hop, &state);
            self.slab[id].state = state;
            self.slab[id].destinations = Default::default();
        }
    }

    fn initial_state(&self, next_hop: &ForwardingNextHop) -> NextHopState {
        if unusable(next_hop) {
            NextHopState::Unreachable {
                reason: "a link-local address from a peer that is not on link".to_owned(),
            }
        } else if self.tracking {
            NextHopState::Unknown
        } else {
            NextHopState::Reachable { metric: 0 }
        }
    }

    fn request(&mut self, next_hop: ForwardingNextHop, state: &NextHopState) {
        if *state == NextHopState::Unknown {
            self.unknown += 1;
            self.requests.push_back(Output::TrackNextHop(next_hop));
        }
    }

    fn cease(&mut self, next_hop: ForwardingNextHop, state: &NextHopState) {
        if self.tracking && !unusable(&next_hop) {
            self.unknown -= usize::from(*state == NextHopState::Unknown);
            self.requests.push_back(Output::UntrackNextHop(next_hop));
        }
    }
}

/// The interface that belongs to a next hop received over a session: the session's where there is
/// a link-local address in it, else none.
pub(super) fn interface_of(next_hop: &NextHop, session_interface: u32) -> u32 {
    match next_hop {
        NextHop::V6WithLinkLocal(..) => session_interface,
        NextHop::V6(address) if address.is_unicast_link_local() => session_interface,
        _ => 0,
    }
}

/// What to forward through: of two addresses the link-local one where the peer is on link, else
/// the global one (RFC 2545 §3).
pub(super) fn resolve(next_hop: &NextHop, interface: u32) -> ForwardingNextHop {
    let address: IpAddr = match *next_hop {
        NextHop::V6WithLinkLocal(_, link_local) if interface != 0 => link_local.into(),
        other => other.address(),
    };
    ForwardingNextHop { address, interface }
}

fn unusable(next_hop: &ForwardingNextHop) -> bool {
    next_hop.interface == 0
        && matches!(next_hop.address, IpAddr::V6(address) if address.is_unicast_link_local())
}
