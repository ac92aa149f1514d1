//! Next hops somebody wants to know about, and what is known.
//!
//! In flow: next hops to track, for the speaker or for a next-hop set; which of them a change of
//! the topology may concern. Out flow: those whose resolution is another than before.
//!
//! What always holds: a next hop is resolved again only when a change covers it, and reported only
//! when its resolution has really changed.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use ipnet::IpNet;
use prefix_trie::joint::map::JointPrefixMap;
use routelet_bgp::core::forwarding::{ForwardingNextHop, NextHopState};
use smallvec::SmallVec;

use super::route::host_prefix;
use super::topology::{Affected, Resolution, Topology};

/// See the module.
#[derive(Default)]
pub(super) struct NextHops {
    tracked: HashMap<ForwardingNextHop, Tracked, FixedState>,
    by_address: JointPrefixMap<IpNet, SmallVec<[ForwardingNextHop; 1]>>,
}

struct Tracked {
    /// The speaker wants answers.
    speaker: bool,
    /// Next-hop sets it is in.
    sets: u32,
    resolution: Resolution,
}

impl NextHops {
    /// Begins to track for the speaker, and says how it is now.
    pub(super) fn track(
        &mut self,
        next_hop: ForwardingNextHop,
        topology: &Topology,
    ) -> &Resolution {
        let tracked = self.enter(next_hop, topology);
        tracked.speaker = true;
        &tracked.resolution
    }

    /// Ceases to track for the speaker.
    pub(super) fn untrack(&mut self, next_hop: &ForwardingNextHop) {
        if let Some(tracked) = self.tracked.get_mut(next_hop) {
            tracked.speaker = false;
            self.leave_if_unused(next_hop);
        }
    }

    /// A next-hop set uses it; says how it is now.
    pub(super) fn retain(
        &mut self,
        next_hop: ForwardingNextHop,
        topology: &Topology,
    ) -> &Resolution {
        let tracked = self.enter(next_hop, topology);
        tracked.sets += 1;
        &tracked.resolution
    }

    /// A next-hop set uses it no longer.
    pub(super) fn release(&mut self, next_hop: &ForwardingNextHop) {
        if let Some(tracked) = self.tracked.get_mut(next_hop) {
            tracked.sets = tracked.sets.saturating_sub(1);
            self.leave_if_unused(next_hop);
        }
    }

    pub(super) fn resolution(&self, next_hop: &ForwardingNextHop) -> Option<&Resolution> {
        self.tracked.get(next_hop).map(|tracked| &tracked.resolution)
    }

    /// Resolves again what the changes may concern. Returns those that have changed; with each,
    /// the answer for the speaker where it wants one that says something new.
    pub(super) fn refresh(
        &mut self,
        affected: &[Affected],
        topology: &Topology,
    ) -> Vec<(ForwardingNextHop, Option<NextHopState>)> {
        let mut concerned: Vec<ForwardingNextHop> = if affected.contains(&Affected::All) {
            self.tracked.keys().copied().collect()
        } else {
            let prefixes = affected.iter().filter_map(|affected| match affected {
                Affected::Under(prefix) => Some(prefix),
                _ => None,
            });
            prefixes
                .flat_map(|prefix| self.by_address.children(prefix))
                .flat_map(|(_, next_hops)| next_hops.iter().copied())
                .collect()
        };
        concerned.sort_unstable();
        concerned.dedup();
        let mut changed = Vec::new();
        for next_hop in concerned {
            let tracked = self.tracked.get_mut(&next_hop).expect("the index follows the map");
            let resolution = topology.resolve(&next_hop);
            if resolution == tracked.resolution {
                continue;
            }
            let (before, after) = (state(&tracked.resolution), state(&resolution));
            tracked.resolution = resolution;
            let answer = (tracked.speaker && before != after).then_some(after);
            changed.push((next_hop, answer));
        }
        changed
    }

    fn enter(&mut self, next_hop: ForwardingNextHop, topology: &Topology) -> &mut Tracked {
        self.tracked.entry(next_hop).or_insert_with(|| {
            let host = host_prefix(next_hop.address);
            match self.by_address.get_mut(&host) {
                Some(next_hops) => next_hops.push(next_hop),
                None => {
                    self.by_address.insert(host, SmallVec::from_buf([next_hop]));
                }
            }
            Tracked { speaker: false, sets: 0, resolution: topology.resolve(&next_hop) }
        })
    }

    fn leave_if_unused(&mut self, next_hop: &ForwardingNextHop) {
        if self.tracked.get(next_hop).is_some_and(|tracked| tracked.speaker || tracked.sets > 0) {
            return;
        }
        self.tracked.remove(next_hop);
        let host = host_prefix(next_hop.address);
        if let Some(next_hops) = self.by_address.get_mut(&host) {
            next_hops.retain(|known| known != next_hop);
            if next_hops.is_empty() {
                self.by_address.remove(&host);
            }
        }
    }
}

/// What the speaker is told of a resolution.
pub(super) fn state(resolution: &Resolution) -> NextHopState {
    match resolution {
        Resolution::Reachable { metric, .. } => NextHopState::Reachable { metric: *metric },
        Resolution::Unreachable(reason) => NextHopState::Unreachable { reason: reason.clone() },
    }
}
