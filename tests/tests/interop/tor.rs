//! A router of another AS above the nodes.

use anyhow::ensure;
use routelet_tests::harness::{Case, eventually};
use routelet_tests::routers::{Kind, Router, Speaker};
use routelet_tests::scene::{Fabric, Place, SERVER, SERVER_NETS, Scene, address, pings};
use routelet_tests::want::{ARRIVAL, Want, gone};

use super::setup::{
    NODES_AS, TOR_AS, Yaml, blackholed, decorated_server_nets, in_kernel, neighbor, not_in_kernel,
    plain_server_nets, router_spec, tor_peer,
};

pub const CASES: &[Case] = &[
    ("bird::tor", |scene| tor(scene, Kind::Bird)),
    ("frr::tor", |scene| tor(scene, Kind::Frr)),
    ("bird::tor_only_same_as_allowas_in", |scene| same_as(scene, Kind::Bird, Cure::AllowasIn)),
    ("frr::tor_only_same_as_allowas_in", |scene| same_as(scene, Kind::Frr, Cure::AllowasIn)),
    ("bird::tor_only_same_as_as_override", |scene| same_as(scene, Kind::Bird, Cure::AsOverride)),
    ("frr::tor_only_same_as_as_override", |scene| same_as(scene, Kind::Frr, Cure::AsOverride)),
    ("bird::tor_only_as_per_rack", |scene| as_per_rack(scene, Kind::Bird)),
    ("frr::tor_only_as_per_rack", |scene| as_per_rack(scene, Kind::Frr)),
];

/// One node below one ToR: all attributes on both sides, kernel, ping, restarts, withdrawals.
fn tor(scene: &Scene, kind: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let place = fabric.place(1, 1)?;
    let mut spec = router_spec(TOR_AS, "172.30.1.1");
    spec.neighbors.push(neighbor(&place, NODES_AS, 1));
    spec.announcements = decorated_server_nets();
    let mut tor = kind.router(scene, "tor", &fabric.tor, spec)?;
    let peers = vec![tor_peer(&place, TOR_AS, ", filters: [servers]")];
    let yaml = Yaml { place: &place, asn: NODES_AS, mesh: None, peers }.text();
    let mut node = scene.routelet("node1", &place.netns, &yaml)?;

    tor.start()?;
    node.start()?;
    exchanged(&place, &node, &*tor)?;

    tor.stop()?;
    Speaker::wait_established(&node, 0)?;
    tor.start()?;
    exchanged(&place, &node, &*tor)?;

    node.stop()?;
    for family in [0, 1] {
        in_kernel(&place.netns, SERVER_NETS[family], address(1, 1, family))?;
        pings(&place.pod, SERVER[family].parse()?)?;
    }
    node.start()?;
    exchanged(&place, &node, &*tor)?;

    // One family's withdrawal leaves the other alone, in both directions.
    tor.withdraw(SERVER_NETS[0].parse()?)?;
    gone(&node, SERVER_NETS[0])?;
    not_in_kernel(&place.netns, SERVER_NETS[0])?;
    in_kernel(&place.netns, SERVER_NETS[1], address(1, 1, 1))?;
    let own = place.pod_cidr(1).to_string();
    node.configure(&yaml.replacen(&format!(", '{own}'"), "", 1))?;
    node.reload()?;
    gone(tor.speaker(), &own)?;
    ensure!(!tor.routes(place.pod_cidr(0))?.is_empty(), "the IPv4 pod CIDR went too");
    Ok(())
}

fn exchanged(
    place: &Place,
    node: &routelet::lab::node::Node,
    tor: &dyn Router,
) -> anyhow::Result<()> {
    Speaker::wait_established(node, 1)?;
    tor.wait_established(1)?;
    for family in [0, 1] {
        Want::path(&[TOR_AS])
            .next_hop(address(1, 1, family))
            .origin("incomplete")
            .med(Some(50))
            .communities(&["65001:100", "65001:200"], &["65001:1:2"])
            .reflected(None, &[])
            .at(node, SERVER_NETS[family])?;
        Want::path(&[NODES_AS])
            .next_hop(place.address(family))
            .origin("igp")
            .med(None)
            .communities(&[], &[])
            .reflected(None, &[])
            .at(tor.speaker(), &place.pod_cidr(family).to_string())?;
        in_kernel(&place.netns, SERVER_NETS[family], address(1, 1, family))?;
        blackholed(place, family)?;
        pings(&place.pod, SERVER[family].parse()?)?;
    }
    Ok(())
}

/// What helps where all nodes have the same AS and only the ToR between them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cure {
    /// `numAllowedLocalASNumbers` on the nodes.
    AllowasIn,
    /// The router replaces the nodes' AS by its own.
    AsOverride,
}

fn same_as(scene: &Scene, kind: Kind, cure: Cure) -> anyhow::Result<()> {
    let fabric = scene.fabric(2)?;
    let places = [fabric.place(1, 1)?, fabric.place(2, 2)?];
    let mut spec = router_spec(TOR_AS, "172.30.1.1");
    for place in &places {
        let mut one = neighbor(place, NODES_AS, 1);
        one.as_override = cure == Cure::AsOverride;
        spec.neighbors.push(one);
    }
    spec.announcements = plain_server_nets();
    let mut tor = kind.router(scene, "tor", &fabric.tor, spec)?;
    tor.start()?;
    let yaml = |place: &Place, more: &str| {
        let peers = vec![tor_peer(place, TOR_AS, more)];
        Yaml { place, asn: NODES_AS, mesh: None, peers }.text()
    };
    let mut nodes = Vec::new();
    for place in &places {
        let yaml = yaml(place, ", filters: [servers]");
        let mut node = scene.routelet(&place.name, &place.netns, &yaml)?;
        node.start()?;
        nodes.push(node);
    }
    tor.wait_established(2)?;
    let path = match cure {
        Cure::AsOverride => [TOR_AS, TOR_AS],
        Cure::AllowasIn => {
            // Refused with a reason that names the cure; then the cure is taken live.
            let there = places[1].pod_cidr(0).to_string();
            eventually("the reason", ARRIVAL, || {
                let routes = nodes[0].json(&["routes", &there])?;
                let reason = routes[0]["reason"].as_str().unwrap_or_default();
                ensure!(reason.contains("numAllowedLocalASNumbers"), "{routes}");
                Ok(())
            })?;
            for (place, node) in places.iter().zip(&mut nodes) {
                node.configure(&yaml(place, ", filters: [servers], numAllowedLocalASNumbers: 1"))?;
                node.reload()?;
            }
            [TOR_AS, NODES_AS]
        }
    };
    across(&fabric, &places, &nodes, [&path, &path])?;
    for node in &nodes {
        let peers = node.json(&["peers"])?;
        ensure!(peers[0]["flaps"] == 0, "the session was reset: {peers}");
    }
    Ok(())
}

fn as_per_rack(scene: &Scene, kind: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(2)?;
    let places = [fabric.place(1, 1)?, fabric.place(2, 2)?];
    let asns = [64601, 64602];
    let mut spec = router_spec(TOR_AS, "172.30.1.1");
    for (place, asn) in places.iter().zip(asns) {
        spec.neighbors.push(neighbor(place, asn, 1));
    }
    spec.announcements = plain_server_nets();
    let mut tor = kind.router(scene, "tor", &fabric.tor, spec)?;
    tor.start()?;
    let mut nodes = Vec::new();
    for (place, asn) in places.iter().zip(asns) {
        let peers = vec![tor_peer(place, TOR_AS, ", filters: [servers]")];
        let yaml = Yaml { place, asn, mesh: None, peers }.text();
        let mut node = scene.routelet(&place.name, &place.netns, &yaml)?;
        node.start()?;
        nodes.push(node);
    }
    tor.wait_established(2)?;
    across(&fabric, &places, &nodes, [&[TOR_AS, asns[1]], &[TOR_AS, asns[0]]])
}

/// Each node has the other's pods through the ToR, by these paths, and packets pass.
fn across(
    _fabric: &Fabric,
    places: &[Place; 2],
    nodes: &[routelet::lab::node::Node],
    paths: [&[u32]; 2],
) -> anyhow::Result<()> {
    for (here, there) in [(0, 1), (1, 0)] {
        for family in [0, 1] {
            let prefix = places[there].pod_cidr(family).to_string();
            let gateway = address(places[here].subnet, 1, family);
            Want::path(paths[here]).next_hop(gateway).origin("igp").at(&nodes[here], &prefix)?;
            in_kernel(&places[here].netns, &prefix, gateway)?;
        }
    }
    for (here, there) in [(0, 1), (1, 0)] {
        for family in [0, 1] {
            pings(&places[here].pod, places[there].pod_addresses[family])?;
            pings(&places[here].pod, SERVER[family].parse()?)?;
        }
    }
    Ok(())
}
