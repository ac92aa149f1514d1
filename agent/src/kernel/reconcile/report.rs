//! What the reconciler says about itself: status, per route and in sums.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::desired::{Route, Want};
use super::super::route::host_prefix;
use super::super::topology::Resolution;
use super::super::{KernelStatus, RouteStatus};
use super::{Reconciler, SyncState, blackhole_key};

impl Reconciler {
    /// In sums. A scan of the table.
    pub(in super::super) fn status(&self) -> KernelStatus {
        let mut status = KernelStatus {
            adopted: self.adopted,
            synced: self.sync == SyncState::Done,
            repaired: self.repaired,
            nexthop_objects: self.objects.enabled().then(|| self.objects.counts().1),
            latency: self.latency.clone(),
            errors: self.errors,
            problems: self.write_problem.iter().cloned().chain(self.tunnels.problems()).collect(),
            tunnels: self.tunnels.status(&self.topology),
            ..KernelStatus::default()
        };
        for (id, route) in self.table.iter().filter(|(_, route)| route.want() != Want::Nothing) {
            status.desired += 1;
            match self.route_status_of(id, route) {
                RouteStatus::Installed => status.installed += 1,
                RouteStatus::Failed(_) => status.failed += 1,
                RouteStatus::Pending => {}
            }
        }
        status
    }

    /// What became of a prefix; a route before the blackhole behind it.
    pub(in super::super) fn route_status(&self, prefix: IpNet) -> Option<RouteStatus> {
        self.wanted(prefix).map(|(id, route)| self.route_status_of(id, route))
    }

    /// The next hops of the wanted route for exactly the prefix, or else of the longest one that
    /// covers the address, and how each resolves.
    pub(in super::super) fn next_hops_for(
        &self,
        address: IpAddr,
        prefix: Option<IpNet>,
    ) -> Vec<(IpAddr, String)> {
        let route = match prefix {
            Some(prefix) => self.wanted(prefix),
            None => {
                let host = host_prefix(address);
                (0..=host.prefix_len())
                    .rev()
                    .filter_map(|length| IpNet::new(address, length).ok())
                    .find_map(|prefix| self.wanted(prefix))
            }
        };
        let Some(Want::Set(set)) = route.map(|(_, route)| route.want()) else {
            return Vec::new();
        };
        let next_hops = self.table.set_key(set).next_hops.iter();
        next_hops
            .map(|next_hop| {
                let words = match self.next_hops.resolution(next_hop) {
                    Some(Resolution::Reachable { how, .. }) => how.clone(),
                    Some(Resolution::Unreachable(reason)) => format!("unreachable: {reason}"),
                    None => "not resolved yet".to_owned(),
                };
                (next_hop.address, words)
            })
            .collect()
    }

    fn wanted(&self, prefix: IpNet) -> Option<(u32, &Route)> {
        let blackhole = blackhole_key(&self.config, prefix);
        [self.key(prefix), blackhole].iter().find_map(|key| {
            let id = self.table.find(key)?;
            let route = self.table.get(id)?;
            (route.want() != Want::Nothing).then_some((id, route))
        })
    }

    fn route_status_of(&self, id: u32, route: &Route) -> RouteStatus {
        if let Some(failure) = &route.failure {
            return RouteStatus::Failed(failure.to_string());
        }
        if self.settled(id) { RouteStatus::Installed } else { RouteStatus::Pending }
    }
}
