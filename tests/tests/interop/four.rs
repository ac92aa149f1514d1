//! GoBGP and OpenBGPD as routers beside a node, and a reflector of ours that serves all four.
//!
//! GoBGP and OpenBGPD put nothing into their kernels here, so what is looked at is tables, and on
//! our side the kernel.

use anyhow::ensure;
use routelet_tests::harness::Case;
use routelet_tests::routers::{Announcement, Kind, Router, RouterSpec, Speaker};
use routelet_tests::scene::{Place, SERVER_NETS, Scene, address};
use routelet_tests::want::{Want, gone};

use super::setup::{
    NODES_AS, TOR_AS, Yaml, decorated_server_nets, in_kernel, neighbor, not_in_kernel, router_spec,
    tor_peer,
};

pub const CASES: &[Case] = &[
    ("gobgp::tor", |scene| tor(scene, Kind::Gobgp)),
    ("openbgpd::tor", |scene| tor(scene, Kind::Openbgpd)),
    ("gobgp::internal", |scene| internal(scene, Kind::Gobgp)),
    ("openbgpd::internal", |scene| internal(scene, Kind::Openbgpd)),
    ("all_four::clients_of_our_reflector", clients_of_our_reflector),
];

/// A router of another AS: attributes of both families, its restart, withdrawals both ways.
///
/// OpenBGPD gets a session a family: over IPv4 it sends another AS `::1` as next hop of IPv6 routes
/// (seen in 7.7 on Linux, whatever its filters set), which nobody can use.
fn tor(scene: &Scene, kind: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let place = fabric.place(1, 1)?;
    let mut spec = router_spec(TOR_AS, "172.30.1.1");
    spec.neighbors.push(neighbor(&place, NODES_AS, 1));
    spec.announcements = decorated_server_nets();
    let mut peers = vec![tor_peer(&place, TOR_AS, ", filters: [servers]")];
    if kind == Kind::Openbgpd {
        let mut second = neighbor(&place, NODES_AS, 1);
        second.name = "node1-ipv6".into();
        second.address = place.address(1);
        second.local[0] = second.local[1];
        spec.neighbors.push(second);
        peers = vec![
            tor_peer(&place, TOR_AS, ", filters: [servers], families: [ipv4-unicast]"),
            format!(
                "{{name: tor6, peerIP: '{}', asNumber: {TOR_AS}, filters: [servers], \
                 families: [ipv6-unicast]}}",
                address(1, 1, 1)
            ),
        ];
    }
    let sessions = peers.len();
    let mut tor = kind.router(scene, "tor", &fabric.tor, spec)?;
    let yaml = Yaml { place: &place, asn: NODES_AS, mesh: None, peers }.text();
    let mut node = scene.routelet("node1", &place.netns, &yaml)?;

    tor.start()?;
    node.start()?;
    for life in 1..=2 {
        Speaker::wait_established(&node, sessions)?;
        tor.wait_established(sessions)?;
        for family in [0, 1] {
            Want::path(&[TOR_AS])
                .next_hop(address(1, 1, family))
                .origin("incomplete")
                .med(Some(50))
                .communities(&["65001:100", "65001:200"], &["65001:1:2"])
                .reflected(None, &[])
                .at(&node, SERVER_NETS[family])?;
            Want::path(&[NODES_AS])
                .next_hop(place.address(family))
                .origin("igp")
                .med(None)
                .communities(&[], &[])
                .reflected(None, &[])
                .at(tor.speaker(), &place.pod_cidr(family).to_string())?;
            in_kernel(&place.netns, SERVER_NETS[family], address(1, 1, family))?;
        }
        if life == 1 {
            tor.stop()?;
            Speaker::wait_established(&node, 0)?;
            tor.start()?;
        }
    }

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

/// A router of the node's own AS, a member of the mesh.
fn internal(scene: &Scene, kind: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let ours = fabric.place(1, 1)?;
    let theirs = fabric.place(9, 1)?;
    let mut spec = router_spec(NODES_AS, "172.30.1.19");
    spec.neighbors.push(neighbor(&ours, NODES_AS, 19));
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
    let mesh: &[&Place] = &[&theirs];
    let yaml = Yaml { place: &ours, asn: NODES_AS, mesh: Some(mesh), peers: vec![] }.text();
    let mut node = scene.routelet("node1", &ours.netns, &yaml)?;
    router.start()?;
    node.start()?;
    Speaker::wait_established(&node, 1)?;
    router.wait_established(1)?;
    for family in [0, 1] {
        let prefix = theirs.pod_cidr(family).to_string();
        Want::path(&[])
            .next_hop(theirs.address(family))
            .origin("igp")
            .med(Some(7))
            .local_pref(Some(150))
            .communities(&["64512:9"], &["64512:9:9"])
            .reflected(None, &[])
            .at(&node, &prefix)?;
        in_kernel(&ours.netns, &prefix, theirs.address(family))?;
        Want::path(&[])
            .next_hop(ours.address(family))
            .origin("igp")
            .med(None)
            .local_pref(Some(100))
            .communities(&[], &[])
            .reflected(None, &[])
            .at(router.speaker(), &ours.pod_cidr(family).to_string())?;
    }
    for family in [0, 1] {
        let prefix = theirs.pod_cidr(family);
        router.withdraw(prefix)?;
        gone(&node, &prefix.to_string())?;
        not_in_kernel(&ours.netns, &prefix.to_string())?;
    }
    Ok(())
}

/// BIRD, FRR, GoBGP and OpenBGPD are clients of one reflector of ours. Each announces its pod CIDRs;
/// each of the others shows them with the announcer's next hop, ORIGINATOR_ID and CLUSTER_LIST.
fn clients_of_our_reflector(scene: &Scene) -> anyhow::Result<()> {
    const CLUSTER: &str = "172.30.1.100";
    let kinds = [Kind::Bird, Kind::Frr, Kind::Gobgp, Kind::Openbgpd];
    let fabric = scene.fabric(1)?;
    let host = fabric.host("reflector", 1, 100)?;
    let mut yaml = format!(
        "node: {{name: reflector, addresses: [{CLUSTER}/24, 'fd30:0:0:1::100/64']}}
bgp: {{asNumber: {NODES_AS}, nodeToNodeMeshEnabled: false, connectRetryTime: 1s, holdTime: 9s}}
kernel: {{enabled: false}}
pools:
  - {{name: pods, cidr: 10.244.0.0/16}}
  - {{name: pods6, cidr: 'fd44::/48'}}
peers:
"
    );
    let mut places = Vec::new();
    let mut routers: Vec<Box<dyn Router>> = Vec::new();
    for (number, kind) in (1u8..).zip(kinds) {
        let place = fabric.place(number, 1)?;
        let locals = [0, 1].map(|family| place.address(family));
        let mut spec = RouterSpec {
            asn: NODES_AS,
            router_id: locals[0].to_string(),
            forwards: false,
            ..RouterSpec::default()
        };
        spec.neighbors.push(routelet_tests::routers::Neighbor {
            name: "reflector".into(),
            address: address(1, 100, 0),
            asn: NODES_AS,
            local: locals,
            reflector_client: false,
            as_override: false,
        });
        for family in [0, 1] {
            spec.announcements.push(Announcement {
                communities: vec![(64512, u16::from(number))],
                large_communities: vec![(64512, 7, u32::from(number))],
                ..Announcement::plain(place.pod_cidr(family))
            });
        }
        yaml.push_str(&format!(
            "  - {{name: {}, peerIP: {}, asNumber: {NODES_AS}, routeReflectorClient: true}}\n",
            place.name, locals[0]
        ));
        routers.push(kind.router(scene, &place.name, &place.netns, spec)?);
        places.push(place);
    }
    let mut reflector = scene.routelet("reflector", &host, &yaml)?;
    for router in &mut routers {
        router.start()?;
    }
    reflector.start()?;
    Speaker::wait_established(&reflector, kinds.len())?;

    let reflected = |of: usize, family: usize, at: &dyn Router| -> anyhow::Result<()> {
        let place: &Place = &places[of];
        let number = place.number;
        Want::path(&[])
            .next_hop(place.address(family))
            .origin("igp")
            .local_pref(Some(100))
            .communities(&[&format!("64512:{number}")], &[&format!("64512:7:{number}")])
            .reflected(Some(&place.address(0).to_string()), &[CLUSTER])
            .at(at.speaker(), &place.pod_cidr(family).to_string())
    };
    for (of, place) in places.iter().enumerate() {
        for family in [0, 1] {
            Want::path(&[])
                .next_hop(place.address(family))
                .reflected(None, &[])
                .at(&reflector, &place.pod_cidr(family).to_string())?;
            for (at, router) in routers.iter().enumerate() {
                if at == of {
                    // Its own comes from nobody else.
                    let paths = router.routes(place.pod_cidr(family))?;
                    ensure!(paths.len() == 1, "{}: its own came back: {paths:?}", router.name());
                } else {
                    reflected(of, family, &**router)?;
                }
            }
        }
    }
    // Each withdraws its IPv4 prefix; the IPv6 one stays.
    for (of, place) in places.iter().enumerate() {
        let prefix = place.pod_cidr(0);
        routers[of].withdraw(prefix)?;
        for (at, router) in routers.iter().enumerate() {
            if at != of {
                gone(router.speaker(), &prefix.to_string())?;
                reflected(of, 1, &**router)?;
            }
        }
    }
    Ok(())
}
