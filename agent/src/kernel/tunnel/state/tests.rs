//! Decisions without a kernel: which way, which devices, in which order.

use ipnet::IpNet;
use routelet_bgp::core::forwarding::ForwardingNextHop;
use std::time::Duration;

use super::super::super::link::{Address, Link};
use super::super::super::route::{Hop, KernelRoute, RTN_UNICAST, RouteKey};
use super::super::choice::Choice;
use super::super::perform::Refusal;
use super::super::{Encapsulation, TunnelMode, TunnelPool};
use super::*;

const ETH0: u32 = 2;
const ETH1: u32 = 3;
const LO: u32 = 1;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link {
        index,
        name: name.to_owned(),
        up: true,
        carrier: true,
        loopback: index == LO,
        mtu,
        mac: None,
        kind: LinkKind::Physical,
    }
}

fn route(prefix: &str, via: Option<&str>, interface: u32) -> KernelRoute {
    let hop = Hop { via: via.map(address), interface, onlink: false, hops: 0 };
    KernelRoute {
        key: RouteKey { prefix: net(prefix), metric: 0, table: 254 },
        protocol: 2,
        kind: RTN_UNICAST,
        scope: 0,
        hops: [hop].into_iter().collect(),
        preferred_source: None,
        nexthop_id: 0,
    }
}

fn pool(cidr: &str, asks: Option<(Encapsulation, TunnelMode)>) -> TunnelPool {
    TunnelPool { name: cidr.to_owned(), cidr: net(cidr), asks }
}

fn node(name: &str, addresses: &[&str], pod_cidrs: &[&str]) -> TunnelNode {
    TunnelNode {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        pod_cidrs: pod_cidrs.iter().map(|text| net(text)).collect(),
    }
}

fn config(encapsulation: Encapsulation, mode: TunnelMode) -> TunnelConfig {
    TunnelConfig {
        pools: vec![pool("10.244.0.0/16", Some((encapsulation, mode)))],
        node: node("a", &["10.0.0.1", "fd00::1"], &["10.244.1.0/24", "fd44:1::/64"]),
        nodes: vec![
            node("b", &["10.0.0.2", "10.9.9.2", "fd00::2"], &["10.244.2.0/24", "fd44:2::/64"]),
            node("c", &["192.0.2.3"], &["10.244.3.0/24"]),
        ],
        ..TunnelConfig::default()
    }
}

/// The tunnels of node a, a kernel that does what it is asked, and time.
struct Bench {
    tunnels: Tunnels,
    topology: Topology,
    now: Instant,
    next_index: u32,
}

impl Bench {
    fn new(config: TunnelConfig) -> Self {
        let links = vec![link(LO, "lo", 65536), link(ETH0, "eth0", 1500), link(ETH1, "eth1", 9000)];
        let addresses = [("10.0.0.1", ETH0), ("fd00::1", ETH0), ("10.1.0.1", ETH1)];
        let addresses = addresses
            .map(|(text, interface)| Address { interface, address: address(text) })
            .to_vec();
        let routes = vec![
            route("10.0.0.0/24", None, ETH0),
            route("10.1.0.0/24", None, ETH1),
            route("fd00::/64", None, ETH0),
            route("0.0.0.0/0", Some("10.0.0.254"), ETH0),
            route("::/0", Some("fd00::fe"), ETH0),
        ];
        Self::with(config, Topology::new(links, addresses, routes.into_iter()))
    }

    fn with(config: TunnelConfig, topology: Topology) -> Self {
        let pace = Pace { lead: Duration::from_secs(2), linger: Duration::from_secs(10) };
        let now = tokio::time::Instant::now().into_std();
        let mut tunnels = Tunnels::new(config, pace);
        tunnels.observe(&topology, &BTreeSet::new(), now);
        Self { tunnels, topology, now, next_index: 100 }
    }

    fn observe(&mut self) -> bool {
        self.tunnels.observe(&self.topology, &BTreeSet::from([ETH0]), self.now)
    }

    fn operations(&mut self, used: bool) -> Vec<Operation> {
        self.observe();
        let leave = Leave { settled: true, used: &|_| used, source_used: &|_| used };
        self.tunnels.operations(&self.topology, leave, self.now)
    }

    /// Does what is asked until there is no more; all of it in words.
    fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..20 {
            let operations = self.operations(false);
            if operations.is_empty() {
                return all;
            }
            for operation in &operations {
                all.extend(self.perform(operation));
            }
            let results = operations.into_iter().map(|operation| (operation, Ok(()))).collect();
            self.tunnels.done(results, self.now);
        }
        panic!("it never settles: {all:?}");
    }

    /// What the kernel does; in words but for entries and filters.
    fn perform(&mut self, operation: &Operation) -> Option<String> {
        match operation {
            Operation::Create { device, kind, mtu, mac } => {
                self.next_index += 1;
                let (kind, mac) = (kind.clone(), *mac);
                let link = Link { kind, mac, ..link(self.next_index, device.name(), *mtu) };
                self.topology.link(link);
                Some(format!("create {device} {mtu}"))
            }
            Operation::Change { device, interface, mtu, mac } => {
                let before = self.topology.link_at(*interface).unwrap().clone();
                self.topology.link(Link { mtu: *mtu, mac: *mac, up: true, ..before });
                Some(format!("change {device} {mtu}"))
            }
            Operation::Remove { device, interface } => {
                self.topology.link_gone(*interface);
                Some(format!("remove {device}"))
            }
            Operation::AddAddress { device, interface, address } => {
                self.topology.address(Address { interface: *interface, address: *address });
                Some(format!("add {address} to {device}"))
            }
            Operation::RemoveAddress { device, interface, address } => {
                self.topology.address_gone(Address { interface: *interface, address: *address });
                Some(format!("take {address} from {device}"))
            }
            Operation::Loosen { .. }
            | Operation::PutNeighbour { .. }
            | Operation::RemoveNeighbour { .. } => None,
        }
    }

    fn choose(&self, prefix: &str, next_hop: &str) -> Choice {
        let next_hop = ForwardingNextHop { address: address(next_hop), interface: 0 };
        let resolution = self.topology.resolve(&next_hop);
        self.tunnels.choose(self.tunnels.asked_for(&net(prefix)), &next_hop, &resolution)
    }

    /// Device and neighbour, or the reason why not.
    fn way(&self, prefix: &str, next_hop: &str) -> Result<String, String> {
        match self.choose(prefix, next_hop).way() {
            Ok(way) => {
                let hop = way.hops[0];
                let source = way.source.map_or(String::new(), |source| format!(" src {source}"));
                let (via, name) = (hop.via.unwrap(), self.topology.link_name(hop.interface));
                let onlink = if hop.onlink { " onlink" } else { "" };
                Ok(format!("{via} dev {name}{onlink}{source}"))
            }
            Err(no) if no.withhold => Err(format!("withheld: {}", no.reason)),
            Err(no) => Err(no.reason.to_string()),
        }
    }

    fn entries(&self, device: Device) -> Vec<String> {
        let entries = &self.tunnels.devices[device as usize].entries;
        let mut words: Vec<_> = entries
            .iter()
            .map(|(key, value)| match (key, value) {
                (NeighbourKey::Address(address), NeighbourValue::Mac(mac)) => {
                    format!("{address} at {mac}")
                }
                (NeighbourKey::Mac(mac), NeighbourValue::Node(node)) => format!("{mac} on {node}"),
                other => format!("{other:?}"),
            })
            .collect();
        words.sort_unstable();
        words
    }
}

fn refuse(bench: &mut Bench, errno: i32) {
    let operations = bench.operations(false);
    let refusal = Refusal { errno, words: "Operation not supported (EOPNOTSUPP)".to_owned() };
    let results = operations.into_iter().map(|operation| match &operation {
        Operation::Create { .. } => (operation, Err(refusal.clone())),
        _ => (operation, Ok(())),
    });
    let results = results.collect();
    bench.tunnels.done(results, bench.now);
    bench.observe();
}

#[test]
fn cross_subnet_asks_the_kernels_routes_and_always_does_not() {
    for mode in [TunnelMode::CrossSubnet, TunnelMode::Always] {
        let mut bench = Bench::new(config(Encapsulation::IpIp, mode));
        bench.settle();
        let near = match mode {
            TunnelMode::CrossSubnet => "10.0.0.2 dev eth0",
            TunnelMode::Always => "10.0.0.2 dev routelet-ipip onlink src 10.244.1.0",
        };
        assert_eq!(bench.way("10.244.2.0/24", "10.0.0.2").unwrap(), near);
        let far = "192.0.2.3 dev routelet-ipip onlink src 10.244.1.0";
        assert_eq!(bench.way("10.244.3.0/24", "192.0.2.3").unwrap(), far);
        // Unknown next hops, on link and behind a gateway: plain in both modes.
        assert_eq!(bench.way("10.244.9.0/24", "10.0.0.77").unwrap(), "10.0.0.77 dev eth0");
        assert_eq!(bench.way("10.244.9.0/24", "192.0.2.77").unwrap(), "10.0.0.254 dev eth0");
        // A prefix outside every pool: plain.
        assert_eq!(bench.way("10.9.0.0/24", "192.0.2.3").unwrap(), "10.0.0.254 dev eth0");
    }
}

#[test]
fn nodes_with_host_addresses_decide_by_routes_not_by_lengths() {
    let mut bench = Bench::new(config(Encapsulation::IpIp, TunnelMode::CrossSubnet));
    bench.settle();
    // An interface route to one host: on link.
    bench.topology.route(route("192.0.2.3/32", None, ETH1), false);
    assert_eq!(bench.way("10.244.3.0/24", "192.0.2.3").unwrap(), "192.0.2.3 dev eth1");
    bench.topology.route_gone(&route("192.0.2.3/32", None, ETH1));
    assert!(bench.way("10.244.3.0/24", "192.0.2.3").unwrap().contains("routelet-ipip"));
    // A host route through a gateway inside our own subnet: behind a gateway.
    bench.topology.route(route("10.0.0.2/32", Some("10.0.0.9"), ETH0), false);
    assert!(bench.way("10.244.2.0/24", "10.0.0.2").unwrap().contains("routelet-ipip"));
}

#[test]
fn a_secondary_subnet_and_an_address_change_are_decided_again() {
    let mut bench = Bench::new(config(Encapsulation::IpIp, TunnelMode::CrossSubnet));
    bench.settle();
    assert!(bench.way("10.244.2.0/24", "10.9.9.2").unwrap().contains("routelet-ipip"));
    bench.topology.route(route("10.9.9.0/24", None, ETH0), false);
    assert_eq!(bench.way("10.244.2.0/24", "10.9.9.2").unwrap(), "10.9.9.2 dev eth0");
    // The other node moves into another subnet.
    let mut moved = bench.tunnels.config().clone();
    moved.nodes[0].addresses = vec![address("198.51.100.2")];
    bench.tunnels.apply(moved, bench.now);
    bench.settle();
    assert!(bench.way("10.244.2.0/24", "198.51.100.2").unwrap().contains("routelet-ipip"));
    // Its old address is nobody's.
    assert_eq!(bench.way("10.244.2.0/24", "10.0.0.2").unwrap(), "10.0.0.2 dev eth0");
}

#[test]
fn a_route_waits_for_device_address_and_entries_and_says_so() {
    let mut bench = Bench::new(config(Encapsulation::Vxlan, TunnelMode::Always));
    let mut reasons = vec![bench.way("10.244.2.0/24", "10.0.0.2").unwrap_err()];
    for _ in 0..3 {
        let operations = bench.operations(false);
        for operation in &operations {
            bench.perform(operation);
        }
        let results = operations.into_iter().map(|operation| (operation, Ok(()))).collect();
        bench.tunnels.done(results, bench.now);
        bench.observe();
        reasons.push(match bench.way("10.244.2.0/24", "10.0.0.2") {
            Ok(way) => way,
            Err(why) => why,
        });
    }
    assert_eq!(
        reasons,
        [
            "routelet-vxlan is being created",
            "routelet-vxlan is waiting for its address 10.244.1.0",
            "10.244.2.0 dev routelet-vxlan onlink src 10.244.1.0",
            "10.244.2.0 dev routelet-vxlan onlink src 10.244.1.0",
        ]
    );
}

#[test]
fn a_kernel_without_the_tunnel_withholds_the_routes_that_need_it_and_no_others() {
    let mut bench = Bench::new(config(Encapsulation::IpIp, TunnelMode::CrossSubnet));
    refuse(&mut bench, libc::EOPNOTSUPP);
    let why = bench.way("10.244.3.0/24", "192.0.2.3").unwrap_err();
    assert!(why.starts_with("withheld: this kernel has no IP-in-IP: load the module"), "{why}");
    assert_eq!(bench.way("10.244.2.0/24", "10.0.0.2").unwrap(), "10.0.0.2 dev eth0");
    assert_eq!(bench.tunnels.problems().len(), 1, "{:?}", bench.tunnels.problems());
    // Not tried again at once, but later, when the module may be there.
    assert_eq!(bench.settle(), Vec::<String>::new());
    bench.now += Duration::from_secs(61);
    assert_eq!(bench.settle(), ["create routelet-ipip 1480", "add 10.244.1.0 to routelet-ipip"]);
    assert!(bench.way("10.244.3.0/24", "192.0.2.3").unwrap().contains("routelet-ipip"));
    assert!(bench.tunnels.problems().is_empty());
}

#[test]
fn somebody_elses_interface_of_our_name_is_left_alone() {
    let mut bench = Bench::new(config(Encapsulation::IpIp, TunnelMode::Always));
    let kind = LinkKind::Other("dummy".into());
    bench.topology.link(Link { kind, ..link(50, "routelet-ipip", 1500) });
    assert_eq!(bench.settle(), Vec::<String>::new());
    let why = bench.way("10.244.3.0/24", "192.0.2.3").unwrap_err();
    assert!(why.starts_with("withheld: an interface of another kind"), "{why}");
}

#[test]
fn the_mtu_follows_the_link_below() {
    let mut bench = Bench::new(config(Encapsulation::Vxlan, TunnelMode::Always));
    assert_eq!(bench.settle(), ["create routelet-vxlan 1450", "add 10.244.1.0 to routelet-vxlan"]);
    bench.topology.link(link(ETH0, "eth0", 9000));
    assert_eq!(bench.settle(), ["change routelet-vxlan 8950"]);
    let fixed = TunnelConfig { mtu: Some(1400), ..bench.tunnels.config().clone() };
    bench.tunnels.apply(fixed, bench.now);
    assert_eq!(bench.settle(), ["change routelet-vxlan 1400"]);
    // With its address on the loopback, what counts are the links by which nodes are reached.
    let mut bench = Bench::new(config(Encapsulation::IpIp, TunnelMode::Always));
    bench.topology.address_gone(Address { interface: ETH0, address: address("10.0.0.1") });
    bench.topology.address(Address { interface: LO, address: address("10.0.0.1") });
    assert_eq!(bench.settle()[0], "create routelet-ipip 1480");
}

#[test]
fn entries_lead_to_each_node_and_go_with_it() {
    let mut vxlan = config(Encapsulation::Vxlan, TunnelMode::Always);
    vxlan.pools.push(pool("fd44::/16", Some((Encapsulation::Vxlan, TunnelMode::Always))));
    let mut bench = Bench::new(vxlan.clone());
    bench.settle();
    let (b, c) = (Mac::of_node("b"), Mac::of_node("c"));
    let mut wanted = vec![
        format!("10.244.2.0 at {b}"),
        format!("10.244.3.0 at {c}"),
        format!("{b} on 10.0.0.2"),
        format!("{c} on 192.0.2.3"),
    ];
    wanted.sort_unstable();
    assert_eq!(bench.entries(Device::Vxlan), wanted);
    let six = vec![format!("{b} on fd00::2"), format!("{} at {b}", b.link_local())];
    assert_eq!(bench.entries(Device::Vxlan6), six);
    let way = format!("{} dev routelet-vxlan6 onlink src fd44:1::", b.link_local());
    assert_eq!(bench.way("fd44:2::/64", "fd00::2").unwrap(), way);
    vxlan.nodes.remove(1);
    bench.tunnels.apply(vxlan, bench.now);
    bench.settle();
    assert_eq!(bench.entries(Device::Vxlan).len(), 2);
    // One that somebody takes away is put back.
    let interface = bench.tunnels.devices[Device::Vxlan as usize].interface.unwrap();
    let (key, value) = (NeighbourKey::Mac(b), NeighbourValue::Node(address("10.0.0.2")));
    let entry = super::super::Neighbour { interface, key, value };
    assert!(bench.tunnels.entry_event(&entry, true));
    assert_eq!(bench.operations(false).len(), 1);
}

#[test]
fn an_ipv4_pod_travels_over_ipv6_where_the_node_has_nothing_else() {
    let mut only_six = config(Encapsulation::Vxlan, TunnelMode::Always);
    only_six.node.addresses = vec![address("fd00::1")];
    let mut bench = Bench::new(only_six);
    let created = bench.settle();
    assert_eq!(created, ["create routelet-vxlan6 1430", "add 10.244.1.0 to routelet-vxlan6"]);
    let way = "10.244.2.0 dev routelet-vxlan6 onlink src 10.244.1.0";
    assert_eq!(bench.way("10.244.2.0/24", "fd00::2").unwrap(), way);
}

#[test]
fn a_node_without_pods_has_its_own_address_on_the_device_and_no_preferred_source() {
    let mut bare = config(Encapsulation::IpIp, TunnelMode::Always);
    bare.node.pod_cidrs = Vec::new();
    let mut bench = Bench::new(bare);
    assert_eq!(bench.settle(), ["create routelet-ipip 1480", "add 10.0.0.1 to routelet-ipip"]);
    let way = bench.way("10.244.3.0/24", "192.0.2.3").unwrap();
    assert_eq!(way, "192.0.2.3 dev routelet-ipip onlink");
    // The device that has the node's address too is not the link below.
    assert_eq!(bench.settle(), Vec::<String>::new());
    // One without pods among the others is a neighbour by its own address.
    let mut other = config(Encapsulation::Vxlan, TunnelMode::Always);
    other.nodes[1].pod_cidrs = Vec::new();
    let mut bench = Bench::new(other);
    bench.settle();
    let way = "192.0.2.3 dev routelet-vxlan onlink src 10.244.1.0";
    assert_eq!(bench.way("10.244.3.0/24", "192.0.2.3").unwrap(), way);
}

#[test]
fn a_node_without_the_family_that_the_tunnel_needs_says_so() {
    let mut only_six = config(Encapsulation::IpIp, TunnelMode::Always);
    only_six.node.addresses = vec![address("fd00::1")];
    let mut bench = Bench::new(only_six);
    assert_eq!(bench.settle(), Vec::<String>::new());
    let why = bench.way("10.244.2.0/24", "10.0.0.2").unwrap_err();
    assert!(why.contains("no IPv4 address, which IP-in-IP needs"), "{why}");
}

#[test]
fn two_names_with_one_address_are_told() {
    let mut twins = config(Encapsulation::Vxlan, TunnelMode::Always);
    // Names that really collide would take 2^20 trials; the same name has the same effect.
    twins.nodes[1].name = "b".to_owned();
    let mut bench = Bench::new(twins);
    bench.settle();
    assert!(bench.way("10.244.2.0/24", "10.0.0.2").is_ok());
    let why = bench.way("10.244.3.0/24", "192.0.2.3").unwrap_err();
    assert!(why.contains("have the same VXLAN address"), "{why}");
    assert!(bench.tunnels.problems()[0].contains("rename one of them"));
}

#[test]
fn a_device_that_somebody_removes_comes_back_ever_more_slowly() {
    let mut bench = Bench::new(config(Encapsulation::Vxlan, TunnelMode::Always));
    bench.settle();
    let remove = |bench: &mut Bench| {
        let index = bench.topology.link_named("routelet-vxlan").unwrap().index;
        bench.topology.link_gone(index);
        bench.observe();
    };
    remove(&mut bench);
    let why = bench.way("10.244.2.0/24", "10.0.0.2").unwrap_err();
    assert_eq!(why, "routelet-vxlan is being created");
    assert_eq!(bench.settle().len(), 2, "at once");
    remove(&mut bench);
    assert_eq!(bench.settle().len(), 0, "after a while");
    assert!(bench.tunnels.deadline(bench.now).is_some());
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.settle().len(), 2);
    assert_eq!(bench.entries(Device::Vxlan).len(), 4);
}

#[test]
fn a_device_that_is_switched_off_and_removed_comes_back_at_once() {
    let mut bench = Bench::new(config(Encapsulation::IpIp, TunnelMode::Always));
    bench.settle();
    let before = bench.topology.link_named("routelet-ipip").unwrap().clone();
    bench.topology.link(Link { up: false, ..before.clone() });
    let operations = bench.operations(true);
    assert!(matches!(operations[..], [Operation::Change { .. }]), "{operations:?}");
    // It goes before the kernel answers.
    bench.topology.link_gone(before.index);
    assert_eq!(bench.operations(true).len(), 0);
    let refusal = Refusal { errno: libc::ENODEV, words: "No such device (ENODEV)".to_owned() };
    let results = operations.into_iter().map(|operation| (operation, Err(refusal.clone())));
    bench.tunnels.done(results.collect(), bench.now);
    assert_eq!(
        bench.settle(),
        ["create routelet-ipip 1480", "add 10.244.1.0 to routelet-ipip"],
        "at once"
    );
    assert_eq!(bench.way("10.244.2.0/24", "10.0.0.2").unwrap().split(' ').next(), Some("10.0.0.2"));
}

#[test]
fn routes_follow_a_change_after_the_device_is_there_and_the_old_one_goes_last() {
    let mut bench = Bench::new(config(Encapsulation::Vxlan, TunnelMode::Always));
    bench.settle();
    let old = bench.tunnels.asked_for(&net("10.244.2.0/24"));
    bench.tunnels.apply(config(Encapsulation::IpIp, TunnelMode::Always), bench.now);
    assert!(!bench.tunnels.follow(bench.now), "the others have no device yet");
    assert_eq!(bench.settle(), ["create routelet-ipip 1480", "add 10.244.1.0 to routelet-ipip"]);
    // What has not followed is still led as before.
    let next_hop = ForwardingNextHop { address: address("10.0.0.2"), interface: 0 };
    let resolution = bench.topology.resolve(&next_hop);
    assert!(bench.tunnels.choose(old, &next_hop, &resolution).way().is_ok());
    bench.now += Duration::from_secs(2);
    assert!(bench.tunnels.follow(bench.now));
    assert!(!bench.tunnels.follow(bench.now), "once");
    assert_eq!(bench.settle(), Vec::<String>::new(), "others still use the old one");
    bench.now += Duration::from_secs(10);
    assert_eq!(bench.operations(true), [], "a route still leads over it");
    assert_eq!(bench.settle(), ["remove routelet-vxlan"]);
    assert!(bench.way("10.244.2.0/24", "10.0.0.2").unwrap().contains("routelet-ipip"));
}

#[test]
fn a_change_between_modes_of_one_tunnel_needs_no_waiting() {
    let mut bench = Bench::new(config(Encapsulation::Vxlan, TunnelMode::Always));
    bench.settle();
    bench.tunnels.apply(config(Encapsulation::Vxlan, TunnelMode::CrossSubnet), bench.now);
    assert!(bench.tunnels.follow(bench.now));
    assert_eq!(bench.settle(), Vec::<String>::new());
    assert_eq!(bench.way("10.244.2.0/24", "10.0.0.2").unwrap(), "10.0.0.2 dev eth0");
}

#[test]
fn a_new_address_is_there_before_the_old_one_goes() {
    let mut bench = Bench::new(config(Encapsulation::Vxlan, TunnelMode::Always));
    bench.settle();
    let mut moved = bench.tunnels.config().clone();
    moved.node.pod_cidrs = vec![net("10.244.7.0/24")];
    bench.tunnels.apply(moved, bench.now);
    let first = bench.operations(true);
    assert!(matches!(first[..], [Operation::AddAddress { .. }]), "{first:?}");
    for operation in &first {
        bench.perform(operation);
    }
    bench.tunnels.done(first.into_iter().map(|one| (one, Ok(()))).collect(), bench.now);
    assert_eq!(bench.operations(true), [], "a route has the old one as its source");
    assert!(bench.way("10.244.2.0/24", "10.0.0.2").unwrap().ends_with("src 10.244.7.0"));
    assert_eq!(bench.settle(), ["take 10.244.1.0 from routelet-vxlan"]);
}

#[test]
fn leftovers_of_a_former_life_go_when_it_is_time() {
    let mut none = config(Encapsulation::Vxlan, TunnelMode::Always);
    none.pools[0].asks = None;
    let mut bench = Bench::new(none);
    let kind = LinkKind::IpIp { local: address("10.0.0.1"), remote: address("0.0.0.0") };
    bench.topology.link(Link { kind, ..link(50, "routelet-ipip", 1480) });
    let other = LinkKind::IpIp { local: address("10.0.0.1"), remote: address("10.0.0.5") };
    bench.topology.link(Link { kind: other, ..link(51, "tunl7", 1480) });
    bench.observe();
    bench.now += Duration::from_secs(11);
    let leave = Leave { settled: false, used: &|_| false, source_used: &|_| false };
    assert_eq!(bench.tunnels.operations(&bench.topology, leave, bench.now), [], "first sync");
    assert_eq!(bench.settle(), ["remove routelet-ipip"]);
}

#[test]
fn other_parameters_make_the_device_anew() {
    let mut bench = Bench::new(config(Encapsulation::Vxlan, TunnelMode::Always));
    bench.settle();
    let other = TunnelConfig { vxlan_vni: 7, ..bench.tunnels.config().clone() };
    bench.tunnels.apply(other, bench.now);
    let anew = ["remove routelet-vxlan", "create routelet-vxlan 1450"];
    assert_eq!(bench.settle()[..2], anew);
    assert_eq!(bench.entries(Device::Vxlan).len(), 4);
}

#[test]
fn nothing_resolves_through_our_own_tunnel() {
    let mut bench = Bench::new(config(Encapsulation::IpIp, TunnelMode::Always));
    bench.settle();
    let index = bench.topology.link_named("routelet-ipip").unwrap().index;
    bench.topology.route(route("192.0.2.0/24", None, index), false);
    let why = bench.way("10.244.3.0/24", "192.0.2.3").unwrap_err();
    assert!(why.contains("routelet-ipip is a tunnel of our own"), "{why}");
}

#[test]
fn strict_filters_are_seen_to_once_on_the_device_and_below() {
    let mut bench = Bench::new(config(Encapsulation::IpIp, TunnelMode::Always));
    let mut loosened = Vec::new();
    for _ in 0..5 {
        let operations = bench.operations(false);
        for operation in &operations {
            if let Operation::Loosen { name, .. } = operation {
                loosened.push(name.clone());
            }
            bench.perform(operation);
        }
        bench.tunnels.done(operations.into_iter().map(|one| (one, Ok(()))).collect(), bench.now);
    }
    assert_eq!(loosened, ["eth0", "routelet-ipip"]);
    // And again when somebody may have changed them.
    bench.tunnels.settings_changed();
    assert_eq!(bench.operations(false).len(), 2);
}

#[test]
fn a_withdrawal_removes_devices_without_waiting() {
    let mut bench = Bench::new(config(Encapsulation::IpIp, TunnelMode::Always));
    bench.settle();
    bench.tunnels.withdraw();
    assert!(!bench.tunnels.idle());
    assert_eq!(bench.settle(), ["remove routelet-ipip"]);
    bench.observe();
    assert!(bench.tunnels.idle());
}

#[test]
fn a_set_of_several_next_hops_may_be_mixed() {
    let mut bench = Bench::new(config(Encapsulation::IpIp, TunnelMode::CrossSubnet));
    bench.settle();
    let ways = ["10.0.0.2", "192.0.2.3", "192.0.2.99"].map(|next_hop| {
        let next_hop = ForwardingNextHop { address: address(next_hop), interface: 0 };
        let resolution = bench.topology.resolve(&next_hop);
        let asked = bench.tunnels.asked_for(&net("10.244.9.0/24"));
        bench.tunnels.choose(asked, &next_hop, &resolution).way()
    });
    let target = super::super::super::desired::combine(ways.into_iter()).unwrap();
    let mut devices: Vec<_> =
        target.hops().iter().map(|hop| bench.topology.link_name(hop.interface)).collect();
    devices.sort_unstable();
    assert_eq!(devices, ["eth0", "eth0", "routelet-ipip"]);
    assert_eq!(target.source(), Some(address("10.244.1.0")));
}
