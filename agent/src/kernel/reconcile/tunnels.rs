//! The reconciler's tunnels: routes and devices brought together.
//!
//! What always holds: choices are made again whenever a device, an entry or a resolution has changed,
//! before the routes concerned are looked at; operations on devices go to the writer before the
//! routes that depend on them.

use std::collections::BTreeSet;
use std::time::Instant;

use ipnet::IpNet;
use routelet_bgp::core::forwarding::NextHopSet;

use super::super::desired::{SetId, SetKey, Want, combine};
use super::super::topology::Resolution;
use super::super::tunnel::{NoTarget, Operation, Pace, TunnelConfig, Tunnels};
use super::super::writer::Job;
use super::{Arc, Reconciler, SyncState, Target};

impl Reconciler {
    /// How slowly tunnels come and go; only before the first snapshot.
    pub(in super::super) fn set_pace(&mut self, pace: Pace) {
        self.tunnels = Tunnels::new(self.config.tunnels.clone(), pace);
    }

    /// The set for a prefix that is to lead to these next hops.
    pub(super) fn set_for(&mut self, prefix: &IpNet, next_hops: NextHopSet) -> SetId {
        let asked = self.tunnels.asked_for(prefix);
        self.set(SetKey { next_hops, asked })
    }

    /// Where a set leads now.
    pub(super) fn combined(&self, key: &SetKey) -> Result<Arc<Target>, NoTarget> {
        combine(key.next_hops.iter().filter_map(|next_hop| {
            let resolution = self.next_hops.resolution(next_hop)?;
            Some(self.tunnels.choose(key.asked, next_hop, resolution).way())
        }))
    }

    /// Takes another configuration of the tunnels.
    pub(super) fn apply_tunnels(&mut self, config: TunnelConfig, now: Instant) {
        self.tunnels.apply(config, now);
        self.follow(now);
        self.look_at_tunnels(now);
        // Nodes may have come and gone.
        self.choose_again(now);
    }

    /// Moves the routes that are there to what their pools ask for, when that is due.
    pub(super) fn follow(&mut self, now: Instant) {
        if !self.tunnels.follow(now) {
            return;
        }
        for id in self.table.ids() {
            let Some(route) = self.table.get(id) else { continue };
            let (prefix, Want::Set(set)) = (route.key.prefix, route.want()) else { continue };
            let key = self.table.set_key(set);
            if key.asked == self.tunnels.asked_for(&prefix) {
                continue;
            }
            let next_hops = key.next_hops.clone();
            let set = self.set_for(&prefix, next_hops);
            self.set_want(id, Want::Set(set), now);
        }
        self.look_at_tunnels(now);
    }

    /// The topology or the configuration has changed: devices, and what is chosen, may have to.
    pub(super) fn look_at_tunnels(&mut self, now: Instant) {
        if self.tunnels.active() && self.observe_tunnels(now) {
            self.choose_again(now);
        }
    }

    /// Has the tunnels look at the topology; says whether choices may be other ones.
    pub(super) fn observe_tunnels(&mut self, now: Instant) -> bool {
        let mut ways = BTreeSet::new();
        for (_, key) in self.table.sets_that_ask() {
            for next_hop in &key.next_hops {
                if let Some(Resolution::Reachable { hops, .. }) =
                    self.next_hops.resolution(next_hop)
                {
                    ways.extend(hops.iter().map(|hop| hop.interface));
                }
            }
        }
        self.tunnels.observe(&self.topology, &ways, now)
    }

    /// Decides again by which way packets travel, for every set that asks.
    pub(super) fn choose_again(&mut self, now: Instant) {
        let sets: Vec<_> = self.table.sets_that_ask().map(|(set, _)| set).collect();
        self.combine_again(&sets, now);
    }

    /// Works out anew where these sets lead, and has the routes concerned looked at.
    pub(super) fn combine_again(&mut self, sets: &[SetId], now: Instant) {
        for set in sets {
            let target = self.combined(self.table.set_key(*set));
            if self.table.set_target(*set, target) {
                self.retarget(*set, now);
            }
        }
    }

    /// What is to be done to the devices, if anything. To be handed over before any routes.
    pub(in super::super) fn next_tunnel_job(&mut self, now: Instant) -> Option<Job> {
        if !self.loaded || !self.tunnels.active() {
            return None;
        }
        let quiet = self.queue.is_empty() && self.in_flight == 0 && self.recheck_running.is_none();
        let settled = quiet && self.sync >= SyncState::Sweeping;
        let (table, objects) = (&self.table, &self.objects);
        let leave = super::super::tunnel::Leave {
            settled,
            used: &|interface| {
                objects.uses(interface) || table.any_present(|target| target.uses(interface))
            },
            source_used: &|source| table.any_present(|target| target.source() == Some(source)),
        };
        let operations = self.tunnels.operations(&self.topology, leave, now);
        (!operations.is_empty()).then(|| Job::Tunnel(operations))
    }

    /// Takes what came of operations.
    pub(super) fn tunnel_done(&mut self, results: super::super::tunnel::Results, now: Instant) {
        let entries = results.iter().any(|(operation, _)| {
            matches!(operation, Operation::PutNeighbour { .. } | Operation::RemoveNeighbour { .. })
        });
        self.tunnels.done(results, now);
        self.look_at_tunnels(now);
        if entries {
            self.choose_again(now);
        }
    }

    /// The interfaces whose neighbour entries are watched.
    pub(in super::super) fn watched_neighbours(&self) -> Vec<u32> {
        self.tunnels.watched()
    }
}
