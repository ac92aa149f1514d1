//! Both families: over one session of either, with nodes that have one family only, and with
//! link-local next hops; always to the end, which is a pod's answer.

use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use routelet::lab::netns::{Netns, Via};
use routelet::lab::network::{attach_pod, everything};
use routelet::lab::node::Node;
use routelet_tests::harness::{self, Case, eventually, ip};
use routelet_tests::routers::Speaker;
use routelet_tests::scene::{Fabric, Place, SERVER, SERVER_NETS, Scene, address, pings};
use routelet_tests::want::{ARRIVAL, Want};

fn main() -> ExitCode {
    let cases: &[Case] = &[
        ("one_ipv4_session_carries_both_families", over_ipv4),
        ("one_ipv6_session_carries_both_families", over_ipv6),
        ("nodes_with_ipv6_only", ipv6_only),
        ("a_node_with_one_family_among_nodes_with_both", mixed),
        ("link_local_next_hops", link_local),
    ];
    harness::main(cases)
}

const NODES_AS: u32 = 64512;
const TOR_AS: u32 = 65001;

/// What every node and the ToR have.
const POOLS: &str = "pools:
  - {name: pods, cidr: 10.244.0.0/16}
  - {name: pods6, cidr: 'fd44::/48'}
";
/// The server's network is none of the cluster's.
const SERVERS: &str = "filters:
  - name: servers
    importV4: [{action: Accept, cidr: 198.51.100.0/24, matchOperator: Equal}]
    importV6: [{action: Accept, cidr: '2001:db8:100::/64', matchOperator: Equal}]
";

/// A mesh node below the ToR of its subnet.
fn node_yaml(words: &str, others: &[String], tor: IpAddr) -> String {
    format!(
        "node: {words}
bgp: {{asNumber: {NODES_AS}, connectRetryTime: 1s}}
nodes: [{}]
peers: [{{name: tor, peerIP: '{tor}', asNumber: {TOR_AS}, filters: [servers]}}]
{SERVERS}{POOLS}",
        others.join(", ")
    )
}

/// The ToR of two subnets, which knows all pods and announces the server's network.
fn tor_yaml(addresses: &str, nets: &str, peers: &[IpAddr]) -> String {
    let peers: Vec<_> = peers
        .iter()
        .enumerate()
        .map(|(index, peer)| {
            format!("{{name: node{}, peerIP: '{peer}', asNumber: {NODES_AS}}}", index + 1)
        })
        .collect();
    format!(
        "node: {{name: tor, addresses: [{addresses}], podCIDRs: [{nets}]}}
bgp: {{asNumber: {TOR_AS}, nodeToNodeMeshEnabled: false, connectRetryTime: 1s}}
peers: [{}]
{POOLS}",
        peers.join(", ")
    )
}

/// TCP connections of BGP that are up, over IPv4 and over IPv6.
fn connections(netns: &Netns) -> anyhow::Result<[usize; 2]> {
    let mut counts = [0; 2];
    for (count, table) in counts.iter_mut().zip(["tcp", "tcp6"]) {
        let text = netns.run(|| fs::read_to_string(format!("/proc/thread-self/net/{table}")))?;
        let bgp = |address: &&str| address.ends_with(":00B3");
        *count = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields.get(3) == Some(&"01") && fields[1..3].iter().any(bgp))
            .count();
    }
    Ok(counts)
}

/// Waits until a node has this many connections, over IPv4 and over IPv6, and no other: of two that
/// crossed at the start one is on its way out for a moment.
fn has_connections(node: &Node, wanted: [usize; 2]) -> anyhow::Result<()> {
    eventually(&format!("the connections of {}", node.name()), ARRIVAL, || {
        let is = connections(node.netns())?;
        ensure!(is == wanted, "{is:?} are up, not {wanted:?}");
        Ok(())
    })
}

/// Waits until the kernel sends a prefix through this gateway, by a route of the agent's.
fn in_kernel(netns: &Netns, prefix: IpNet, gateway: IpAddr) -> anyhow::Result<()> {
    let flag = if prefix.addr().is_ipv4() { "-4" } else { "-6" };
    eventually(&format!("{prefix} via {gateway} in {}", netns.name()), ARRIVAL, || {
        let routes = ip(netns, &format!("{flag} route show exact {prefix} proto 179"))?;
        let text = gateway.to_string();
        // With a nexthop object `ip -d` repeats what is in it.
        let found = routes.iter().any(|route| route.to_string().contains(&format!("\"{text}\"")));
        ensure!(found, "{routes:?}");
        Ok(())
    })
}

/// Both ends of every family that both have: path, kernel and pods.
fn exchanged(nodes: &[Node], places: &[&Place]) -> anyhow::Result<()> {
    for (node, here) in nodes.iter().zip(places) {
        for there in places.iter().filter(|there| there.number != here.number) {
            for family in [0, 1] {
                let prefix = there.pod_cidr(family);
                let next_hop = there.address(family);
                Want::path(&[]).next_hop(next_hop).at(node, &prefix.to_string())?;
                let gateway = if there.subnet == here.subnet {
                    next_hop
                } else {
                    address(here.subnet, 1, family)
                };
                in_kernel(&here.netns, prefix, gateway)?;
                pings(&here.pod, there.pod_addresses[family])?;
                pings(&here.netns, there.pod_addresses[family])?;
            }
        }
    }
    Ok(())
}

/// RFC 2545: IPv6 prefixes with an IPv6 next hop over a session that is IPv4.
fn over_ipv4(scene: &Scene) -> anyhow::Result<()> {
    let fabric = scene.fabric(2)?;
    let places = [fabric.place(1, 1)?, fabric.place(2, 1)?, fabric.place(3, 2)?];
    let peers: Vec<_> = places.iter().map(|place| place.address(0)).collect();
    let tor = tor_yaml(
        "172.30.1.1/24, 172.30.2.1/24, 'fd30:0:0:1::1/64', 'fd30:0:0:2::1/64'",
        &format!("{}, '{}'", SERVER_NETS[0], SERVER_NETS[1]),
        &peers,
    );
    let mut tor = scene.routelet("tor", &fabric.tor, &tor)?;
    tor.start()?;
    let mut nodes = Vec::new();
    for place in &places {
        let others: Vec<_> =
            places.iter().filter(|other| other.number != place.number).map(Place::words).collect();
        let yaml = node_yaml(&place.words(), &others, address(place.subnet, 1, 0));
        let mut node = scene.routelet(&place.name, &place.netns, &yaml)?;
        node.start()?;
        nodes.push(node);
    }
    exchanged(&nodes, &places.each_ref())?;
    for (node, place) in nodes.iter().zip(&places) {
        has_connections(node, [3, 0])?;
        let peers = node.json(&["peers"])?;
        for peer in peers.as_array().context("no peers")? {
            let families = peer["families"].as_array().context("no families")?;
            ensure!(families.len() == 2, "{peer}");
            let both = families.iter().all(|counts| counts["accepted"].as_u64() > Some(0));
            ensure!(both, "a family without routes: {families:?}");
        }
        for server in SERVER {
            pings(&place.pod, server.parse()?)?;
        }
    }
    Ok(())
}

/// And IPv4 prefixes with an IPv4 next hop over a session that is IPv6.
fn over_ipv6(scene: &Scene) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let places = [fabric.place(1, 1)?, fabric.place(2, 1)?];
    let mut nodes = Vec::new();
    for (here, there) in [(0, 1), (1, 0)] {
        let place = &places[here];
        let yaml = format!(
            "node: {}
bgp: {{asNumber: {NODES_AS}, nodeToNodeMeshEnabled: false, connectRetryTime: 1s}}
peers: [{{name: other, peerIP: '{}', asNumber: {NODES_AS}}}]
{POOLS}",
            place.words(),
            places[there].address(1)
        );
        let mut node = scene.routelet(&place.name, &place.netns, &yaml)?;
        node.start()?;
        nodes.push(node);
    }
    exchanged(&nodes, &places.each_ref())?;
    nodes.iter().try_for_each(|node| has_connections(node, [0, 1]))
}

/// A node without IPv4.
struct Ipv6Only {
    number: u8,
    subnet: u8,
    netns: Netns,
    pod: Netns,
    pod_address: IpAddr,
}

impl Ipv6Only {
    fn new(fabric: &Fabric, number: u8, subnet: u8) -> anyhow::Result<Self> {
        let netns = fabric.network.router(&format!("node{number}"))?;
        let own: IpNet = format!("{}/64", address(subnet, 10 + number, 1)).parse()?;
        fabric.lans[usize::from(subnet) - 1].attach(&netns, "eth0", &[own])?;
        let gateway = address(subnet, 1, 1);
        netns.add_route(everything(gateway), Via::Gateway(gateway))?;
        let pod = fabric.network.host(&format!("pod{number}"))?;
        let cidr = format!("fd44:0:0:{number}::/64").parse()?;
        let pod_address = attach_pod(&netns, "pod0", &pod, &[cidr])?[0];
        Ok(Self { number, subnet, netns, pod, pod_address })
    }

    fn address(&self) -> IpAddr {
        address(self.subnet, 10 + self.number, 1)
    }

    fn words(&self) -> String {
        format!(
            "{{name: node{0}, addresses: ['{1}/64'], podCIDRs: ['fd44:0:0:{0}::/64']}}",
            self.number,
            self.address()
        )
    }
}

fn ipv6_only(scene: &Scene) -> anyhow::Result<()> {
    let fabric = scene.fabric(2)?;
    let places = [
        Ipv6Only::new(&fabric, 1, 1)?,
        Ipv6Only::new(&fabric, 2, 1)?,
        Ipv6Only::new(&fabric, 3, 2)?,
    ];
    let peers: Vec<_> = places.iter().map(Ipv6Only::address).collect();
    let tor = tor_yaml(
        "'fd30:0:0:1::1/64', 'fd30:0:0:2::1/64'",
        &format!("'{}'", SERVER_NETS[1]),
        &peers,
    );
    let mut tor = scene.routelet("tor", &fabric.tor, &tor)?;
    tor.start()?;
    let mut nodes = Vec::new();
    for place in &places {
        let others: Vec<_> = places
            .iter()
            .filter(|other| other.number != place.number)
            .map(Ipv6Only::words)
            .collect();
        let yaml = node_yaml(&place.words(), &others, address(place.subnet, 1, 1));
        let mut node = scene.routelet(&format!("node{}", place.number), &place.netns, &yaml)?;
        node.start()?;
        nodes.push(node);
    }
    for (node, here) in nodes.iter().zip(&places) {
        for there in places.iter().filter(|there| there.number != here.number) {
            let prefix: IpNet = format!("fd44:0:0:{}::/64", there.number).parse()?;
            Want::path(&[]).next_hop(there.address()).at(node, &prefix.to_string())?;
            let gateway = if there.subnet == here.subnet {
                there.address()
            } else {
                address(here.subnet, 1, 1)
            };
            in_kernel(&here.netns, prefix, gateway)?;
            pings(&here.pod, there.pod_address)?;
        }
        pings(&here.pod, SERVER[1].parse()?)?;
        has_connections(node, [0, 3])?;
    }
    // Without an IPv4 address each must have found an identifier of its own.
    let ids: Vec<_> = nodes
        .iter()
        .map(|node| Ok(node.json(&["status"])?["routerID"].to_string()))
        .collect::<anyhow::Result<_>>()?;
    ensure!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    Ok(())
}

fn mixed(scene: &Scene) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let both = fabric.place(1, 1)?;
    let one = Ipv6Only::new(&fabric, 2, 1)?;
    let yaml = |words: &str, other: &str| {
        format!(
            "node: {words}
bgp: {{asNumber: {NODES_AS}, connectRetryTime: 1s}}
nodes: [{other}]
{POOLS}"
        )
    };
    let mut nodes = [
        scene.routelet("node1", &both.netns, &yaml(&both.words(), &one.words()))?,
        scene.routelet("node2", &one.netns, &yaml(&one.words(), &both.words()))?,
    ];
    nodes.iter_mut().try_for_each(Node::start)?;
    let there = "fd44:0:0:2::/64";
    Want::path(&[]).next_hop(one.address()).at(&nodes[0], there)?;
    Want::path(&[]).next_hop(both.address(1)).at(&nodes[1], &both.pod_cidr(1).to_string())?;
    in_kernel(&both.netns, there.parse()?, one.address())?;
    pings(&both.pod, one.pod_address)?;
    pings(&one.pod, both.pod_addresses[1])?;
    // IPv4 has no next hop that this node could use, so it is not even offered.
    ensure!(nodes[1].routes(both.pod_cidr(0))?.is_empty(), "IPv4 without an IPv4 address");
    nodes.iter().try_for_each(|node| has_connections(node, [0, 1]))
}

/// The link-local address of a device.
fn link_local_address(netns: &Netns, device: &str) -> anyhow::Result<IpAddr> {
    let links = ip(netns, &format!("-6 address show dev {device} scope link"))?;
    let infos = links.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
    let text = infos.filter_map(|info| info["local"].as_str()).next();
    Ok(text.with_context(|| format!("no link-local address on {device}"))?.parse()?)
}

/// Peers that know each other by nothing but the link: RFC 2545 section 3 has them send the
/// link-local next hop beside the global one, and that is the gateway.
fn link_local(scene: &Scene) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let place = fabric.place(1, 1)?;
    let ours = link_local_address(&place.netns, "eth0")?;
    let theirs = link_local_address(&fabric.tor, "eth1")?;
    let yaml = |words: &str, asn: u32, peer: &str| {
        format!(
            "node: {words}
bgp: {{asNumber: {asn}, nodeToNodeMeshEnabled: false, listenAddresses: ['::', 0.0.0.0], \
             connectRetryTime: 1s}}
peers: [{peer}]
{SERVERS}{POOLS}"
        )
    };
    let node = yaml(
        &place.words(),
        NODES_AS,
        &format!(
            "{{name: tor, peerIP: '{theirs}%eth0', asNumber: {TOR_AS}, filters: [servers], families: \
             [ipv4-unicast, ipv6-unicast]}}"
        ),
    );
    let tor = yaml(
        &format!(
            "{{name: tor, addresses: [172.30.1.1/24, 'fd30:0:0:1::1/64'], podCIDRs: [{}, '{}']}}",
            SERVER_NETS[0], SERVER_NETS[1]
        ),
        TOR_AS,
        &format!(
            "{{name: node1, peerIP: '{ours}%eth1', asNumber: {NODES_AS}, families: [ipv4-unicast, \
             ipv6-unicast]}}"
        ),
    );
    let mut node = scene.routelet("node1", &place.netns, &node)?;
    let mut tor = scene.routelet("tor", &fabric.tor, &tor)?;
    node.start()?;
    tor.start()?;
    in_kernel(&place.netns, SERVER_NETS[1].parse()?, theirs)?;
    in_kernel(&fabric.tor, place.pod_cidr(1), ours)?;
    in_kernel(&place.netns, SERVER_NETS[0].parse()?, address(1, 1, 0))?;
    for server in SERVER {
        pings(&place.pod, server.parse()?)?;
    }
    has_connections(&node, [0, 1])
}
