//! Longest prefix, metrics, and what the kernel takes away silently.

use super::*;
use crate::kernel::link::LinkKind;
use crate::kernel::route::{RTN_BLACKHOLE, RouteKey};

const ETH0: u32 = 2;
const ETH1: u32 = 3;

fn link(index: u32, up: bool, carrier: bool) -> Link {
    let name = format!("eth{}", index - 2);
    Link {
        index,
        name,
        up,
        carrier,
        loopback: false,
        mtu: 1500,
        mac: None,
        kind: LinkKind::Physical,
    }
}

fn route(prefix: &str, metric: u32, hops: &[(&str, u32)]) -> KernelRoute {
    let hops = hops.iter().map(|(via, interface)| Hop {
        via: via.parse().ok(),
        interface: *interface,
        onlink: false,
        hops: 0,
    });
    KernelRoute {
        key: RouteKey { prefix: prefix.parse().unwrap(), metric, table: 254 },
        protocol: 4,
        kind: RTN_UNICAST,
        scope: 0,
        hops: hops.collect(),
        preferred_source: None,
        nexthop_id: 0,
    }
}

fn topology(routes: &[KernelRoute]) -> Topology {
    let links = vec![link(ETH0, true, true), link(ETH1, true, true)];
    let address = Address { interface: ETH0, address: "10.0.0.1".parse().unwrap() };
    Topology::new(links, vec![address], routes.iter().cloned())
}

fn resolve(topology: &Topology, address: &str, interface: u32) -> Resolution {
    topology.resolve(&ForwardingNextHop { address: address.parse().unwrap(), interface })
}

/// Hops as (via, interface) and the metric.
fn way(topology: &Topology, address: &str) -> Result<(Vec<(String, u32)>, u32), String> {
    match resolve(topology, address, 0) {
        Resolution::Reachable { hops, metric, .. } => {
            let hops = hops.iter().map(|hop| (hop.via.unwrap().to_string(), hop.interface));
            Ok((hops.collect(), metric))
        }
        Resolution::Unreachable(reason) => Err(reason),
    }
}

fn one(via: &str, interface: u32, metric: u32) -> Result<(Vec<(String, u32)>, u32), String> {
    Ok((vec![(via.to_owned(), interface)], metric))
}

#[test]
fn the_longest_prefix_then_the_lowest_metric() {
    let mut topology = topology(&[
        route("10.0.0.0/24", 0, &[("", ETH0)]),
        route("0.0.0.0/0", 100, &[("10.0.0.9", ETH0)]),
        route("0.0.0.0/0", 50, &[("10.0.0.8", ETH0)]),
        route("192.0.2.0/24", 7, &[("10.0.0.7", ETH0)]),
    ]);
    assert_eq!(way(&topology, "10.0.0.2"), one("10.0.0.2", ETH0, 0));
    assert_eq!(way(&topology, "192.0.2.1"), one("10.0.0.7", ETH0, 7));
    assert_eq!(way(&topology, "198.51.100.1"), one("10.0.0.8", ETH0, 50));
    topology.route_gone(&route("0.0.0.0/0", 50, &[("10.0.0.8", ETH0)]));
    assert_eq!(way(&topology, "198.51.100.1"), one("10.0.0.9", ETH0, 100));
    topology.route_gone(&route("0.0.0.0/0", 100, &[("10.0.0.9", ETH0)]));
    assert!(way(&topology, "198.51.100.1").unwrap_err().contains("no route"));
    assert!(way(&topology, "10.0.0.1").unwrap_err().contains("of this node"));
}

#[test]
fn a_gateway_without_a_metric_is_farther_than_on_link() {
    let topology = topology(&[route("192.0.2.0/24", 0, &[("10.0.0.7", ETH0)])]);
    assert_eq!(way(&topology, "192.0.2.1"), one("10.0.0.7", ETH0, 1));
}

#[test]
fn a_blackhole_covers_and_a_throw_does_not() {
    let mut blackhole = route("192.0.2.0/24", 0, &[]);
    blackhole.kind = RTN_BLACKHOLE;
    let mut throw = route("198.51.100.0/24", 0, &[]);
    throw.kind = RTN_THROW;
    let default = route("0.0.0.0/0", 9, &[("10.0.0.9", ETH0)]);
    let topology = topology(&[blackhole, throw, default]);
    assert!(way(&topology, "192.0.2.1").unwrap_err().contains("blackhole 192.0.2.0/24"));
    assert_eq!(way(&topology, "198.51.100.1"), one("10.0.0.9", ETH0, 9));
}

#[test]
fn a_route_of_several_hops_gives_those_that_live() {
    let two = route("192.0.2.0/24", 5, &[("10.0.0.7", ETH0), ("10.0.1.7", ETH1)]);
    let mut topology = topology(&[two]);
    assert_eq!(way(&topology, "192.0.2.1").unwrap().0.len(), 2);
    assert_eq!(topology.link(link(ETH1, true, false)), Affected::All);
    assert_eq!(way(&topology, "192.0.2.1"), one("10.0.0.7", ETH0, 5));
    topology.link(link(ETH0, false, false));
    assert!(way(&topology, "192.0.2.1").unwrap_err().contains("eth0 is down"));
    // The kernel revives a dead hop of several.
    topology.link(link(ETH0, true, true));
    assert_eq!(way(&topology, "192.0.2.1"), one("10.0.0.7", ETH0, 5));
}

#[test]
fn routes_go_with_their_link_and_do_not_come_back_with_it() {
    let mut topology = topology(&[
        route("10.0.0.0/24", 0, &[("", ETH0)]),
        route("0.0.0.0/0", 0, &[("10.0.1.9", ETH1)]),
    ]);
    topology.link(link(ETH0, false, false));
    topology.link(link(ETH0, true, true));
    assert_eq!(way(&topology, "10.0.0.2"), one("10.0.1.9", ETH1, 1));
    topology.link_gone(ETH1);
    assert!(way(&topology, "10.0.0.2").is_err());
}

#[test]
fn the_last_ipv4_address_of_a_link_takes_its_routes_away() {
    let mut topology = topology(&[
        route("192.0.2.0/24", 0, &[("10.0.0.9", ETH0)]),
        route("2001:db8::/32", 0, &[("fd00::9", ETH0)]),
    ]);
    let second = Address { interface: ETH0, address: "10.7.0.1".parse().unwrap() };
    topology.address(second);
    let mut preferred = route("198.51.100.0/24", 0, &[("10.0.0.9", ETH0)]);
    preferred.preferred_source = Some(second.address);
    topology.route(preferred, false);
    topology.address_gone(second);
    assert!(way(&topology, "198.51.100.1").is_err(), "its preferred source is gone");
    assert!(way(&topology, "192.0.2.1").is_ok());
    topology.address_gone(Address { interface: ETH0, address: "10.0.0.1".parse().unwrap() });
    assert!(way(&topology, "192.0.2.1").is_err());
    assert!(way(&topology, "2001:db8::1").is_ok());
}

#[test]
fn an_interface_may_be_asked_for() {
    let topology = topology(&[
        route("10.0.0.0/24", 0, &[("", ETH0)]),
        route("10.0.0.0/24", 9, &[("", ETH1)]),
        route("fe80::/64", 256, &[("", ETH1)]),
    ]);
    let Resolution::Reachable { hops, .. } = resolve(&topology, "10.0.0.2", ETH1) else {
        panic!("reachable over eth1");
    };
    assert_eq!(hops[0].interface, ETH1);
    assert!(matches!(resolve(&topology, "fe80::1", ETH1), Resolution::Reachable { .. }));
    assert!(matches!(resolve(&topology, "fe80::1", ETH0), Resolution::Unreachable(_)));
    assert!(matches!(resolve(&topology, "fe80::1", 0), Resolution::Unreachable(_)));
    assert!(matches!(resolve(&topology, "fe80::1", 99), Resolution::Unreachable(_)));
}

#[test]
fn what_changes_nothing_concerns_nobody() {
    let mut topology = topology(&[]);
    assert_eq!(topology.link(link(ETH0, true, true)), Affected::None);
    assert_eq!(topology.link(link(9, false, false)), Affected::None);
    assert_eq!(topology.link_gone(9), Affected::None);
    assert_eq!(
        topology.route(route("192.0.2.0/24", 0, &[("10.0.0.9", ETH0)]), false),
        Affected::Under("192.0.2.0/24".parse().unwrap())
    );
}

#[test]
fn an_ipv6_route_grows_and_shrinks_hop_by_hop() {
    let mut list = RouteList::default();
    list.add(route("2001:db8::/32", 5, &[("fd00::1", ETH0)]), false);
    list.add(route("2001:db8::/32", 5, &[("fd00::1", ETH0), ("fd00::2", ETH1)]), false);
    assert_eq!(list.0.len(), 1);
    // Another router's route of the same metric is another route.
    list.add(route("2001:db8::/32", 5, &[("fd00::3", ETH0)]), false);
    assert_eq!(list.0.len(), 2);
    list.remove(&route("2001:db8::/32", 5, &[("fd00::1", ETH0)]));
    list.remove(&route("2001:db8::/32", 5, &[("fd00::3", ETH0)]));
    assert_eq!(list.0.len(), 1);
    assert_eq!(list.0[0].hops.len(), 1);
    list.add(route("2001:db8::/32", 5, &[("fd00::4", ETH0)]), true);
    assert_eq!(list.0.len(), 1);
    assert_eq!(list.0[0].hops[0].via, "fd00::4".parse().ok());
}
