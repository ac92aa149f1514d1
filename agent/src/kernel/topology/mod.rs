//! What the node is connected to: links, addresses, and the routes of others in the main table.
//!
//! In flow: a [`Snapshot`]'s parts, then single events. Out flow: how a next hop resolves.
//!
//! What always holds: no route of our own is in here, so that a next hop can never resolve through
//! one; nor does it through a tunnel device of ours, whoever's the route is. A route whose interface is down is not in here either, as it is not in the kernel: the
//! kernel takes IPv4 routes away silently when a link goes down, or the last address of an
//! interface goes, and this table does the same by itself.
//!
//! A next hop behind another router (no address of a connected subnet) resolves to that router: the
//! route to be installed leads `via` the router, not `via` the next hop. One step is enough: the
//! kernel accepts only gateways that are on link.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use foldhash::fast::FixedState;
use ipnet::IpNet;
use prefix_trie::joint::map::JointPrefixMap;
use routelet_bgp::core::forwarding::ForwardingNextHop;
use smallvec::SmallVec;

use super::link::{Address, Link};
use super::render;
use super::route::{self, Hop, Hops, KernelRoute, RTN_THROW, RTN_UNICAST};
use super::tunnel::Device;

/// Routes with the same prefix, by metric, of whatever protocols.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteList(SmallVec<[KernelRoute; 1]>);

impl RouteList {
    /// Takes a notification of a new route.
    pub(super) fn add(&mut self, route: KernelRoute, replaces: bool) {
        // An IPv6 route that grew a hop is reported whole, without the flag.
        self.0.retain(|known| {
            let same_metric = known.key == route.key;
            let grown = known.protocol == route.protocol
                && known.hops.iter().all(|hop| route.hops.contains(hop));
            !(same_metric && (replaces || grown))
        });
        let at = self.0.partition_point(|known| known.key.metric <= route.key.metric);
        self.0.insert(at, route);
    }

    /// Takes a notification of a removal, of a whole route or of some hops of one.
    pub(super) fn remove(&mut self, gone: &KernelRoute) {
        let same = |known: &KernelRoute| known.key == gone.key && known.protocol == gone.protocol;
        if let Some(at) = self.0.iter().position(|known| same(known) && known.hops == gone.hops) {
            self.0.remove(at);
            return;
        }
        let partly = |known: &KernelRoute| gone.hops.iter().any(|hop| known.hops.contains(hop));
        if let Some(at) = self.0.iter().position(|known| same(known) && partly(known)) {
            self.0[at].hops.retain(|hop| !gone.hops.contains(hop));
            if self.0[at].hops.is_empty() {
                self.0.remove(at);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn first(&self) -> Option<&KernelRoute> {
        self.0.first()
    }
}

/// How a next hop resolves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Resolution {
    /// Through these hops.
    Reachable {
        hops: Hops,
        /// 0: on link; else that of the route, at least 1.
        metric: u32,
        /// In words: device, on link or gateway, by which route.
        how: String,
    },
    /// Not, and why.
    Unreachable(String),
}

/// Which next hops a change may concern.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Affected {
    None,
    /// Those covered by the prefix.
    Under(IpNet),
    All,
}

/// See the module.
#[derive(Default)]
pub(super) struct Topology {
    links: HashMap<u32, Link, FixedState>,
    addresses: HashMap<IpAddr, BTreeSet<u32>, FixedState>,
    routes: JointPrefixMap<IpNet, RouteList>,
    /// Prefixes with a route over an interface; may name some that are gone by now.
    by_interface: HashMap<u32, HashSet<IpNet, FixedState>, FixedState>,
}

impl Topology {
    pub(super) fn new(
        links: Vec<Link>,
        addresses: Vec<Address>,
        routes: impl Iterator<Item = KernelRoute>,
    ) -> Self {
        let mut topology = Self::default();
        for link in links {
            topology.links.insert(link.index, link);
        }
        for address in addresses {
            topology.address(address);
        }
        for route in routes {
            topology.route(route, false);
        }
        topology
    }

    /// An interface appeared or changed.
    pub(super) fn link(&mut self, link: Link) -> Affected {
        let before = self.links.get(&link.index);
        if before == Some(&link) {
            return Affected::None;
        }
        let state = |link: &Link| (link.up, link.carrier);
        // A new interface that is still down (every new pod has one) concerns nobody.
        let affected = match before {
            None if !link.up => Affected::None,
            Some(before) if state(before) == state(&link) => Affected::None,
            _ => Affected::All,
        };
        let (index, up) = (link.index, link.up);
        self.links.insert(index, link);
        if !up {
            self.purge(index, |_| true);
        }
        affected
    }

    /// An interface is gone.
    pub(super) fn link_gone(&mut self, index: u32) -> Affected {
        self.purge(index, |_| true);
        self.by_interface.remove(&index);
        let was_up = self.links.remove(&index).is_some_and(|link| link.up);
        self.addresses.retain(|_, interfaces| {
            interfaces.remove(&index);
            !interfaces.is_empty()
        });
        if was_up { Affected::All } else { Affected::None }
    }

    /// The node has an address more.
    pub(super) fn address(&mut self, address: Address) -> Affected {
        if self.addresses.entry(address.address).or_default().insert(address.interface) {
            Affected::Under(route::host_prefix(address.address))
        } else {
            Affected::None
        }
    }

    /// The node has an address less.
    pub(super) fn address_gone(&mut self, gone: Address) -> Affected {
        if let Some(interfaces) = self.addresses.get_mut(&gone.address) {
            interfaces.remove(&gone.interface);
            if interfaces.is_empty() {
                self.addresses.remove(&gone.address);
            }
        }
        if gone.address.is_ipv4() {
            let last = !self.addresses.iter().any(|(address, interfaces)| {
                address.is_ipv4() && interfaces.contains(&gone.interface)
            });
            self.purge(gone.interface, |route| {
                route.key.prefix.addr().is_ipv4()
                    && (last || route.preferred_source == Some(gone.address))
            });
        }
        Affected::All
    }

    /// Somebody else's route in the main table is new or changed.
    pub(super) fn route(&mut self, route: KernelRoute, replaces: bool) -> Affected {
        if route.is_local() {
            return Affected::None;
        }
        let prefix = route.key.prefix;
        for hop in &route.hops {
            self.by_interface.entry(hop.interface).or_default().insert(prefix);
        }
        match self.routes.get_mut(&prefix) {
            Some(list) => list.add(route, replaces),
            None => {
                let mut list = RouteList::default();
                list.add(route, false);
                self.routes.insert(prefix, list);
            }
        }
        Affected::Under(prefix)
    }

    /// Somebody else's route in the main table is gone.
    pub(super) fn route_gone(&mut self, gone: &KernelRoute) -> Affected {
        let Some(list) = self.routes.get_mut(&gone.key.prefix) else {
            return Affected::None;
        };
        list.remove(gone);
        if list.is_empty() {
            self.routes.remove(&gone.key.prefix);
        }
        Affected::Under(gone.key.prefix)
    }

    /// Takes away what the kernel takes away silently: the hops over an interface of the routes
    /// that match, and routes without any hop left.
    fn purge(&mut self, interface: u32, matches: impl Fn(&KernelRoute) -> bool) {
        let Some(prefixes) = self.by_interface.get_mut(&interface) else {
            return;
        };
        prefixes.retain(|prefix| {
            let Some(list) = self.routes.get_mut(prefix) else {
                return false;
            };
            // A route with further hops stays, its dead hop too; resolution skips dead hops.
            list.0.retain(|route| {
                let only = !route.hops.is_empty()
                    && route.hops.iter().all(|hop| hop.interface == interface);
                !(only && matches(route))
            });
            let empty = list.is_empty();
            if empty {
                self.routes.remove(prefix);
            }
            !empty
        });
    }

    /// An interface.
    pub(super) fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// The interface with this name.
    pub(super) fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The interfaces that have an address of the node.
    pub(super) fn holders(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        self.addresses.get(&address).into_iter().flatten().copied()
    }

    /// The addresses of an interface: a scan.
    pub(super) fn addresses_on(&self, interface: u32) -> Vec<IpAddr> {
        let on_it = self.addresses.iter().filter(|(_, on)| on.contains(&interface));
        let mut addresses: Vec<_> = on_it.map(|(address, _)| *address).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Names of all interfaces.
    pub(super) fn link_names(&self) -> HashMap<u32, String, FixedState> {
        self.links.values().map(|link| (link.index, link.name.clone())).collect()
    }

    /// Interfaces whose IPv6 default route comes from router advertisements.
    pub(super) fn advertised_defaults(&self) -> Vec<String> {
        const RTPROT_RA: u8 = 9;
        let default = IpNet::V6(ipnet::Ipv6Net::default());
        let routes = self.routes.get(&default).map_or(&[][..], |list| &list.0);
        let advertised = routes.iter().filter(|route| route.protocol == RTPROT_RA);
        advertised.flat_map(|route| &route.hops).map(|hop| self.link_name(hop.interface)).collect()
    }

    pub(super) fn link_name(&self, index: u32) -> String {
        self.links.get(&index).map_or_else(|| format!("if{index}"), |link| link.name.clone())
    }

    /// Whether an interface is there, switched on, and has its medium.
    fn usable(&self, index: u32) -> Result<(), String> {
        match self.links.get(&index) {
            None => Err(format!("interface {index} is gone")),
            Some(link) if !link.up => Err(format!("{} is down", link.name)),
            Some(link) if !link.carrier => Err(format!("{} has no carrier", link.name)),
            Some(_) => Ok(()),
        }
    }

    /// How packets get to a next hop.
    pub(super) fn resolve(&self, next_hop: &ForwardingNextHop) -> Resolution {
        let address = next_hop.address;
        if self.addresses.contains_key(&address) {
            return Resolution::Unreachable(format!("{address} is an address of this node"));
        }
        if let IpAddr::V6(v6) = address
            && v6.is_unicast_link_local()
        {
            return self.resolve_link_local(next_hop);
        }
        let host = route::host_prefix(address);
        // From the longest prefix to the shortest.
        let mut covers: SmallVec<[(IpNet, &RouteList); 4]> = self.routes.cover(&host).collect();
        covers.reverse();
        for (_, list) in covers {
            let mut reason = None;
            for route in &list.0 {
                if route.kind == RTN_THROW || !self.concerns(route, next_hop) {
                    continue;
                }
                match self.through(route, next_hop) {
                    Ok(resolution) => return resolution,
                    Err(why) => reason = reason.or(Some(why)),
                }
            }
            // The kernel too looks no further than the longest prefix that has a route.
            if let Some(reason) = reason {
                return Resolution::Unreachable(reason);
            }
        }
        let over = match next_hop.interface {
            0 => String::new(),
            index => format!(" over {}", self.link_name(index)),
        };
        Resolution::Unreachable(format!("no route to {address}{over}"))
    }

    fn resolve_link_local(&self, next_hop: &ForwardingNextHop) -> Resolution {
        let ForwardingNextHop { address, interface } = *next_hop;
        if interface == 0 {
            let reason = format!("{address} is link-local and comes without an interface");
            return Resolution::Unreachable(reason);
        }
        if let Err(reason) = self.usable(interface) {
            return Resolution::Unreachable(reason);
        }
        // After a link has come up its fe80::/64 takes a moment; until then the kernel refuses
        // link-local gateways.
        let connected = self.routes.cover(&route::host_prefix(address)).any(|(_, list)| {
            let mut hops = list.0.iter().flat_map(|route| &route.hops);
            hops.any(|hop| hop.interface == interface && hop.via.is_none())
        });
        if !connected {
            let name = self.link_name(interface);
            return Resolution::Unreachable(format!("{name} has no link-local address"));
        }
        let hop = Hop { via: Some(address), interface, onlink: false, hops: 0 };
        let how = format!("on link, dev {}", self.link_name(interface));
        Resolution::Reachable { hops: SmallVec::from_buf([hop]), metric: 0, how }
    }

    fn concerns(&self, route: &KernelRoute, next_hop: &ForwardingNextHop) -> bool {
        next_hop.interface == 0 || route.hops.iter().any(|hop| hop.interface == next_hop.interface)
    }

    fn through(
        &self,
        route: &KernelRoute,
        next_hop: &ForwardingNextHop,
    ) -> Result<Resolution, String> {
        let shown = render::route(route, &|index| self.link_name(index));
        if route.kind != RTN_UNICAST {
            return Err(format!("{} is covered by '{shown}'", next_hop.address));
        }
        let mut reason = None;
        let (mut hops, mut on_link) = (Hops::new(), false);
        for hop in &route.hops {
            if next_hop.interface != 0 && hop.interface != next_hop.interface {
                continue;
            }
            if let Err(why) = self.usable(hop.interface) {
                reason = reason.or(Some(why));
                continue;
            }
            // Through our own tunnel a node would be reached through itself.
            if self.links.get(&hop.interface).is_some_and(|link| Device::of(link).is_some()) {
                let name = self.link_name(hop.interface);
                reason = reason.or(Some(format!("{name} is a tunnel of our own")));
                continue;
            }
            on_link |= hop.via.is_none();
            hops.push(Hop { via: hop.via.or(Some(next_hop.address)), ..*hop });
        }
        if hops.is_empty() {
            return Err(match reason {
                Some(why) => format!("{why} ('{shown}')"),
                None => format!("'{shown}' shows no next hop"),
            });
        }
        hops.sort_unstable();
        hops.dedup();
        let devices: Vec<_> = hops.iter().map(|hop| self.link_name(hop.interface)).collect();
        let (metric, how) = if on_link {
            (0, format!("on link, dev {}", devices.join(", ")))
        } else {
            (route.key.metric.max(1), format!("through '{shown}'"))
        };
        Ok(Resolution::Reachable { hops, metric, how })
    }
}

#[cfg(test)]
mod tests;
