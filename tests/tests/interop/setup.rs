//! What the topologies share: the agent's configuration, a router's peers, what a kernel shows.

use std::net::IpAddr;

use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use routelet::lab::netns::Netns;
use routelet_tests::harness::{eventually, ip};
use routelet_tests::routers::{Announcement, Neighbor, RouterSpec};
use routelet_tests::scene::{Place, SERVER_NETS, address, pings};
use routelet_tests::want::ARRIVAL;

/// AS of the nodes, where they share one.
pub const NODES_AS: u32 = 64512;
/// AS of a ToR that is not theirs.
pub const TOR_AS: u32 = 65001;

/// The agent's configuration on a node.
pub struct Yaml<'a> {
    pub place: &'a Place,
    pub asn: u32,
    /// The other nodes of the mesh; `None`: no mesh.
    pub mesh: Option<&'a [&'a Place]>,
    /// Entries of `peers`, each a mapping in braces.
    pub peers: Vec<String>,
}

impl Yaml<'_> {
    /// The file. Peers may name one of two filters: `servers` lets the server's network in, `all`
    /// everything in and out.
    pub fn text(&self) -> String {
        let mut text = format!(
            "node: {}\nbgp: {{asNumber: {}, nodeToNodeMeshEnabled: {}, connectRetryTime: 1s, holdTime: 9s}}\n",
            self.place.words(),
            self.asn,
            self.mesh.is_some()
        );
        if let Some(others) = self.mesh {
            text.push_str("nodes:\n");
            for other in others {
                text.push_str(&format!("  - {}\n", other.words()));
            }
        }
        if !self.peers.is_empty() {
            text.push_str("peers:\n");
            for peer in &self.peers {
                text.push_str(&format!("  - {peer}\n"));
            }
        }
        let names = |name: &str| self.peers.iter().any(|peer| peer.contains(name));
        if names("[servers]") {
            text.push_str(&format!(
                "filters:
  - name: servers
    importV4: [{{action: Accept, cidr: {}, matchOperator: Equal}}]
    importV6: [{{action: Accept, cidr: '{}', matchOperator: Equal}}]
",
                SERVER_NETS[0], SERVER_NETS[1]
            ));
        }
        if names("[all]") {
            text.push_str(
                "filters:
  - name: all
    importV4: [{action: Accept}]
    exportV4: [{action: Accept}]
    importV6: [{action: Accept}]
    exportV6: [{action: Accept}]
",
            );
        }
        text.push_str("pools:\n  - {name: pods, cidr: 10.244.0.0/16}\n");
        text.push_str("  - {name: pods6, cidr: 'fd44::/48'}\n");
        text
    }
}

/// An entry of `peers` for the router `.1` of the place's subnet.
pub fn tor_peer(place: &Place, asn: u32, more: &str) -> String {
    format!("{{name: tor, peerIP: {}, asNumber: {asn}{more}}}", address(place.subnet, 1, 0))
}

/// The router's side of a session with a node.
pub fn neighbor(place: &Place, asn: u32, router_host: u8) -> Neighbor {
    let local = [0, 1].map(|family| address(place.subnet, router_host, family));
    Neighbor {
        name: place.name.clone(),
        address: place.address(0),
        asn,
        local,
        reflector_client: false,
        as_override: false,
    }
}

/// A router that originates nothing yet.
pub fn router_spec(asn: u32, router_id: &str) -> RouterSpec {
    RouterSpec { asn, router_id: router_id.into(), forwards: true, ..RouterSpec::default() }
}

/// The server's network with every attribute that a router may add.
pub fn decorated_server_nets() -> Vec<Announcement> {
    SERVER_NETS
        .iter()
        .map(|prefix| Announcement {
            med: Some(50),
            origin: "incomplete",
            communities: vec![(65001, 100), (65001, 200)],
            large_communities: vec![(65001, 1, 2)],
            ..Announcement::plain(prefix.parse().expect("invariant: the constant is a prefix"))
        })
        .collect()
}

/// The server's network without anything optional.
pub fn plain_server_nets() -> Vec<Announcement> {
    SERVER_NETS
        .iter()
        .map(|prefix| {
            Announcement::plain(prefix.parse().expect("invariant: the constant is a prefix"))
        })
        .collect()
}

/// Waits until the kernel has a route of the agent's own protocol and metric through this gateway.
/// For IPv6 that may be the same machine's link-local address, which routers send beside the global
/// one (RFC 2545 §3).
pub fn in_kernel(netns: &Netns, prefix: &str, gateway: IpAddr) -> anyhow::Result<()> {
    let net: IpNet = prefix.parse()?;
    let family = if net.addr().is_ipv4() { "-4" } else { "-6" };
    eventually(&format!("{prefix} via {gateway} in {}", netns.name()), ARRIVAL, || {
        let routes = ip(netns, &format!("{family} route show exact {prefix} proto 179"))?;
        let [route] = &routes[..] else { bail!("{} routes: {routes:?}", routes.len()) };
        ensure!(route["metric"] == 1179, "metric: {route}");
        let is: IpAddr = route["gateway"].as_str().context("no gateway")?.parse()?;
        let ours = is == gateway || link_local(netns, gateway)? == Some(is);
        ensure!(ours, "gateway: {route}");
        Ok(())
    })
}

/// The link-local address of the machine that has `address` on link, by its MAC (RFC 4291 §2.5.1).
fn link_local(netns: &Netns, address: IpAddr) -> anyhow::Result<Option<IpAddr>> {
    if address.is_ipv4() {
        return Ok(None);
    }
    pings(netns, address)?;
    let neighbors = ip(netns, &format!("-6 neigh show to {address}"))?;
    let mac = neighbors.iter().find_map(|one| one["lladdr"].as_str()).context("no neighbour")?;
    let mac: Vec<u16> =
        mac.split(':').map(|octet| u16::from_str_radix(octet, 16)).collect::<Result<_, _>>()?;
    let [a, b, c, d, e, f] = mac[..] else { bail!("no MAC: {mac:?}") };
    let groups = [(a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f];
    Ok(Some(IpAddr::from([0xfe80, 0, 0, 0, groups[0], groups[1], groups[2], groups[3]])))
}

/// Waits until the kernel has no route of the agent's to this prefix.
pub fn not_in_kernel(netns: &Netns, prefix: &str) -> anyhow::Result<()> {
    let net: IpNet = prefix.parse()?;
    let family = if net.addr().is_ipv4() { "-4" } else { "-6" };
    eventually(&format!("no {prefix} in {}", netns.name()), ARRIVAL, || {
        let routes = ip(netns, &format!("{family} route show exact {prefix} proto 179"))?;
        ensure!(routes.is_empty(), "still there: {routes:?}");
        Ok(())
    })
}

/// That unused addresses of the pod CIDR fall into a blackhole of the lowest preference.
pub fn blackholed(place: &Place, family: usize) -> anyhow::Result<()> {
    let cidr = place.pod_cidr(family);
    let flag = if family == 0 { "-4" } else { "-6" };
    let routes = ip(&place.netns, &format!("{flag} route show exact {cidr} proto 179"))?;
    let route = routes.first().context("no route of ours behind the pod CIDR")?;
    ensure!(route["type"] == "blackhole" && route["metric"] == 65000, "no blackhole: {route}");
    Ok(())
}
