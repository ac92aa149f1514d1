//! Routers of the nodes' own AS: as a member of the mesh, as a reflector, and as a reflecting ToR.

use std::net::IpAddr;

use anyhow::ensure;
use routelet::lab::node::Node;
use routelet_tests::harness::Case;
use routelet_tests::routers::{Announcement, Kind, Speaker};
use routelet_tests::scene::{Place, SERVER, SERVER_NETS, Scene, address, pings};
use routelet_tests::want::{Want, gone};

use super::setup::{
    NODES_AS, TOR_AS, Yaml, in_kernel, neighbor, not_in_kernel, plain_server_nets, router_spec,
    tor_peer,
};

pub const CASES: &[Case] = &[
    ("bird::mesh", |scene| mesh(scene, Kind::Bird)),
    ("frr::mesh", |scene| mesh(scene, Kind::Frr)),
    ("bird::mesh_and_tor", |scene| mesh_and_tor(scene, Kind::Bird)),
    ("frr::mesh_and_tor", |scene| mesh_and_tor(scene, Kind::Frr)),
    ("bird::reflector", |scene| reflector(scene, Kind::Bird)),
    ("frr::reflector", |scene| reflector(scene, Kind::Frr)),
    ("bird::reflecting_tor", |scene| reflecting_tor(scene, Kind::Bird)),
    ("frr::reflecting_tor", |scene| reflecting_tor(scene, Kind::Frr)),
];

/// Two nodes of ours, and one that runs the router, all in one mesh.
fn mesh(scene: &Scene, kind: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let ours = [fabric.place(1, 1)?, fabric.place(2, 1)?];
    let theirs = fabric.place(9, 1)?;
    let mut spec = router_spec(NODES_AS, "172.30.1.19");
    for place in &ours {
        spec.neighbors.push(neighbor(place, NODES_AS, 19));
    }
    for family in [0, 1] {
        spec.announcements.push(Announcement {
            med: Some(7),
            local_pref: Some(150),
            communities: vec![(64512, 9)],
            large_communities: vec![(64512, 9, 9)],
            ..Announcement::plain(theirs.pod_cidr(family))
        });
    }
    let mut router = kind.router(scene, "node9", &theirs.netns, spec)?;
    let mut nodes = Vec::new();
    for (place, other) in [(&ours[0], &ours[1]), (&ours[1], &ours[0])] {
        let mesh: &[&Place] = &[other, &theirs];
        let yaml = Yaml { place, asn: NODES_AS, mesh: Some(mesh), peers: vec![] }.text();
        nodes.push(scene.routelet(&place.name, &place.netns, &yaml)?);
    }
    router.start()?;
    for node in &mut nodes {
        node.start()?;
    }
    let check = |nodes: &[Node], router: &dyn Speaker| -> anyhow::Result<()> {
        router.wait_established(2)?;
        for (here, there) in [(0, 1), (1, 0)] {
            Speaker::wait_established(&nodes[here], 2)?;
            for family in [0, 1] {
                let prefix = theirs.pod_cidr(family).to_string();
                Want::path(&[])
                    .next_hop(theirs.address(family))
                    .origin("igp")
                    .med(Some(7))
                    .local_pref(Some(150))
                    .communities(&["64512:9"], &["64512:9:9"])
                    .reflected(None, &[])
                    .at(&nodes[here], &prefix)?;
                in_kernel(&ours[here].netns, &prefix, theirs.address(family))?;
                let prefix = ours[there].pod_cidr(family).to_string();
                Want::path(&[])
                    .next_hop(ours[there].address(family))
                    .local_pref(Some(100))
                    .at(&nodes[here], &prefix)?;
                Want::path(&[])
                    .next_hop(ours[there].address(family))
                    .origin("igp")
                    .med(None)
                    .local_pref(Some(100))
                    .communities(&[], &[])
                    .reflected(None, &[])
                    .at(router, &prefix)?;
                // Mesh members pass nothing on.
                ensure!(router.routes(ours[there].pod_cidr(family))?.len() == 1, "two paths");
                pings(&ours[here].pod, ours[there].pod_addresses[family])?;
                pings(&ours[here].pod, theirs.pod_addresses[family])?;
            }
        }
        Ok(())
    };
    check(&nodes, router.speaker())?;
    router.stop()?;
    router.start()?;
    check(&nodes, router.speaker())?;
    nodes[0].stop()?;
    nodes[0].start()?;
    check(&nodes, router.speaker())?;
    for family in [0, 1] {
        let prefix = theirs.pod_cidr(family);
        router.withdraw(prefix)?;
        for (node, place) in nodes.iter().zip(&ours) {
            gone(node, &prefix.to_string())?;
            not_in_kernel(&place.netns, &prefix.to_string())?;
        }
    }
    Ok(())
}

/// Two nodes in two subnets with a mesh of their own, and the router as ToR between them.
fn mesh_and_tor(scene: &Scene, kind: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(2)?;
    let places = [fabric.place(1, 1)?, fabric.place(2, 2)?];
    let mut spec = router_spec(TOR_AS, "172.30.1.1");
    for place in &places {
        spec.neighbors.push(neighbor(place, NODES_AS, 1));
    }
    spec.announcements = plain_server_nets();
    let mut tor = kind.router(scene, "tor", &fabric.tor, spec)?;
    tor.start()?;
    let mut nodes = Vec::new();
    for (place, other) in [(&places[0], &places[1]), (&places[1], &places[0])] {
        let peers = vec![tor_peer(place, TOR_AS, ", filters: [servers]")];
        let yaml = Yaml { place, asn: NODES_AS, mesh: Some(&[other]), peers }.text();
        let mut node = scene.routelet(&place.name, &place.netns, &yaml)?;
        node.start()?;
        nodes.push(node);
    }
    tor.wait_established(2)?;
    for (here, there) in [(0, 1), (1, 0)] {
        Speaker::wait_established(&nodes[here], 2)?;
        for family in [0, 1] {
            // From the mesh, with the other node as next hop; the kernel sends it to the gateway.
            let gateway = address(places[here].subnet, 1, family);
            let prefix = places[there].pod_cidr(family).to_string();
            Want::path(&[])
                .next_hop(places[there].address(family))
                .local_pref(Some(100))
                .at(&nodes[here], &prefix)?;
            in_kernel(&places[here].netns, &prefix, gateway)?;
            Want::path(&[TOR_AS]).next_hop(gateway).at(&nodes[here], SERVER_NETS[family])?;
            in_kernel(&places[here].netns, SERVER_NETS[family], gateway)?;
            // What a node learned from the mesh it does not tell the ToR.
            Want::path(&[NODES_AS])
                .next_hop(places[there].address(family))
                .at(tor.speaker(), &prefix)?;
            ensure!(tor.routes(places[there].pod_cidr(family))?.len() == 1, "two paths");
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

/// A reflector beside the path: it has no pods and forwards nothing.
fn reflector(scene: &Scene, kind: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let places = [fabric.place(1, 1)?, fabric.place(2, 1)?];
    let host = fabric.host("reflector", 1, 100)?;
    let mut spec = router_spec(NODES_AS, "172.30.1.100");
    spec.forwards = false;
    for place in &places {
        let mut one = neighbor(place, NODES_AS, 100);
        one.reflector_client = true;
        spec.neighbors.push(one);
    }
    let mut router = kind.router(scene, "reflector", &host, spec)?;
    router.start()?;
    let peer = format!("{{name: rr, peerIP: {}, asNumber: {NODES_AS}}}", address(1, 100, 0));
    let nodes = clients(scene, &places, |_| peer.clone())?;
    let check = |router: &dyn Speaker| reflected(&places, &nodes, router, "172.30.1.100", None);
    check(router.speaker())?;
    router.stop()?;
    // The nodes know nothing of its restart, so what they had may stay for a while; it comes back.
    router.start()?;
    check(router.speaker())
}

/// The ToR is of the nodes' AS and reflects between two subnets, next hops unchanged.
fn reflecting_tor(scene: &Scene, kind: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(2)?;
    let places = [fabric.place(1, 1)?, fabric.place(2, 2)?];
    let mut spec = router_spec(NODES_AS, "172.30.1.1");
    for place in &places {
        let mut one = neighbor(place, NODES_AS, 1);
        one.reflector_client = true;
        spec.neighbors.push(one);
    }
    spec.announcements = plain_server_nets();
    let mut tor = kind.router(scene, "tor", &fabric.tor, spec)?;
    tor.start()?;
    let nodes = clients(scene, &places, |place| tor_peer(place, NODES_AS, ", filters: [servers]"))?;
    let gateways = |place: &Place, family| address(place.subnet, 1, family);
    reflected(&places, &nodes, tor.speaker(), "172.30.1.1", Some(&gateways))?;
    for (place, node) in places.iter().zip(&nodes) {
        for family in [0, 1] {
            Want::path(&[])
                .next_hop(address(place.subnet, 1, family))
                .local_pref(Some(100))
                .reflected(None, &[])
                .at(node, SERVER_NETS[family])?;
            pings(&place.pod, SERVER[family].parse()?)?;
        }
    }
    Ok(())
}

fn clients(
    scene: &Scene,
    places: &[Place],
    peer: impl Fn(&Place) -> String,
) -> anyhow::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for place in places {
        let yaml = Yaml { place, asn: NODES_AS, mesh: None, peers: vec![peer(place)] }.text();
        let mut node = scene.routelet(&place.name, &place.netns, &yaml)?;
        node.start()?;
        nodes.push(node);
    }
    Ok(nodes)
}

/// Where a node's kernel sends packets of a family.
type Gateways<'a> = &'a dyn Fn(&Place, usize) -> IpAddr;

/// Each client has the other's pods with its next hop, ORIGINATOR_ID and CLUSTER_LIST. `gateways`
/// says where the kernel sends what is not on link.
fn reflected(
    places: &[Place; 2],
    nodes: &[Node],
    router: &dyn Speaker,
    cluster: &str,
    gateways: Option<Gateways<'_>>,
) -> anyhow::Result<()> {
    router.wait_established(2)?;
    for (here, there) in [(0, 1), (1, 0)] {
        let originator = places[there].address(0).to_string();
        for family in [0, 1] {
            let prefix = places[there].pod_cidr(family).to_string();
            let next_hop = places[there].address(family);
            Want::path(&[])
                .next_hop(next_hop)
                .origin("igp")
                .local_pref(Some(100))
                .reflected(Some(&originator), &[cluster])
                .at(&nodes[here], &prefix)?;
            let gateway = gateways.map_or(next_hop, |gateways| gateways(&places[here], family));
            in_kernel(&places[here].netns, &prefix, gateway)?;
            Want::path(&[])
                .next_hop(next_hop)
                .local_pref(Some(100))
                .reflected(None, &[])
                .at(router, &prefix)?;
        }
    }
    for (here, there) in [(0, 1), (1, 0)] {
        for family in [0, 1] {
            pings(&places[here].pod, places[there].pod_addresses[family])?;
        }
    }
    Ok(())
}
