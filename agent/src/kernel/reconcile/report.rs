//! What the reconciler says about itself: status, per route and in sums.

use std::net::IpAddr;

use ipnet::IpNet;
use routelet_bgp::core::forwarding::ForwardingNextHop;

use super::super::desired::{Route, SetKey, Want};
use super::super::route::host_prefix;
use super::super::topology::Resolution;
use super::super::{Encapsulation, KernelStatus, NextHopLookup, RouteStatus, RouteWay};
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

    /// By which ways the wanted route for exactly this prefix leads.
    pub(in super::super) fn route_ways(&self, prefix: IpNet) -> Vec<RouteWay> {
        let Some(Want::Set(set)) = self.wanted(prefix).map(|(_, route)| route.want()) else {
            return Vec::new();
        };
        let key = self.table.set_key(set);
        let ways = key.next_hops.iter().filter_map(|next_hop| {
            let resolution = self.next_hops.resolution(next_hop)?;
            let choice = self.tunnels.choose(key.asked, next_hop, resolution);
            let encapsulation = choice.encapsulation();
            let mut devices: Vec<_> =
                choice.way().ok()?.hops.iter().map(|hop| hop.interface).collect();
            devices.sort_unstable();
            devices.dedup();
            let devices: Vec<_> =
                devices.into_iter().map(|index| self.topology.link_name(index)).collect();
            let device = devices.join(", ");
            Some(RouteWay { next_hop: next_hop.address, device, encapsulation })
        });
        ways.collect()
    }

    /// The next hops of the wanted route for exactly the prefix, or else of the longest one that
    /// covers the address, with how each resolves; and the neighbours to look up for each.
    pub(in super::super) fn next_hops_for(
        &self,
        address: IpAddr,
        prefix: Option<IpNet>,
    ) -> Vec<(NextHopLookup, Vec<(u32, IpAddr)>)> {
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
        let key = self.table.set_key(set);
        key.next_hops.iter().map(|next_hop| self.next_hop_lookup(key, next_hop)).collect()
    }

    fn next_hop_lookup(
        &self,
        key: &SetKey,
        next_hop: &ForwardingNextHop,
    ) -> (NextHopLookup, Vec<(u32, IpAddr)>) {
        let mut lookup =
            NextHopLookup { address: Some(next_hop.address), ..NextHopLookup::default() };
        let Some(resolution) = self.next_hops.resolution(next_hop) else {
            lookup.resolution = "not resolved yet".to_owned();
            return (lookup, Vec::new());
        };
        let below = match resolution {
            Resolution::Reachable { how, hops, .. } => {
                lookup.resolution.clone_from(how);
                hops.clone()
            }
            Resolution::Unreachable(reason) => {
                lookup.resolution = format!("unreachable: {reason}");
                return (lookup, Vec::new());
            }
        };
        let choice = self.tunnels.choose(key.asked, next_hop, resolution);
        lookup.encapsulation = choice.words();
        // Inside IP-in-IP there are no neighbours; the one outside counts.
        let inside = choice.encapsulation() != Some(Encapsulation::IpIp);
        let Ok(way) = choice.way() else { return (lookup, Vec::new()) };
        let links = way.hops.iter().filter_map(|hop| self.topology.link_at(hop.interface));
        lookup.mtu = links.map(|link| link.mtu).min();
        let hops = if inside { way.hops } else { below };
        let neighbours = hops.iter().filter_map(|hop| Some((hop.interface, hop.via?)));
        (lookup, neighbours.collect())
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
