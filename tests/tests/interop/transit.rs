//! What passes through us: from another AS to our own, and from our own to another AS.

use ipnet::IpNet;
use routelet_tests::harness::Case;
use routelet_tests::routers::{Announcement, Kind, Speaker};
use routelet_tests::scene::{SERVER_NETS, Scene, address};
use routelet_tests::want::{Want, gone};

use super::setup::{
    NODES_AS, TOR_AS, Yaml, decorated_server_nets, neighbor, router_spec, tor_peer,
};

pub const CASES: &[Case] = &[
    ("transit::bird_to_frr", |scene| transit(scene, Kind::Bird, Kind::Frr)),
    ("transit::frr_to_bird", |scene| transit(scene, Kind::Frr, Kind::Bird)),
];

/// `outside` (eBGP) – routelet – `inside` (iBGP), all in one subnet; filters let everything through.
fn transit(scene: &Scene, outside: Kind, inside: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let place = fabric.place(1, 1)?;
    let mut spec = router_spec(TOR_AS, "172.30.1.1");
    spec.neighbors.push(neighbor(&place, NODES_AS, 1));
    spec.announcements = decorated_server_nets();
    let mut tor = outside.router(scene, "tor", &fabric.tor, spec)?;

    let host = fabric.host("inner", 1, 100)?;
    let mut spec = router_spec(NODES_AS, "172.30.1.100");
    spec.neighbors.push(neighbor(&place, NODES_AS, 100));
    let inner: [IpNet; 2] = ["203.0.113.0/24".parse()?, "2001:db8:113::/64".parse()?];
    for prefix in inner {
        spec.announcements.push(Announcement {
            local_pref: Some(150),
            origin: "egp",
            communities: vec![(64512, 7)],
            large_communities: vec![(64512, 7, 7)],
            ..Announcement::plain(prefix)
        });
    }
    let mut router = inside.router(scene, "inner", &host, spec)?;
    let peers = vec![
        tor_peer(&place, TOR_AS, ", filters: [all]"),
        format!(
            "{{name: inner, peerIP: {}, asNumber: {NODES_AS}, filters: [all]}}",
            address(1, 100, 0)
        ),
    ];
    let yaml = Yaml { place: &place, asn: NODES_AS, mesh: None, peers }.text();
    let mut node = scene.routelet("node1", &place.netns, &yaml)?;
    tor.start()?;
    router.start()?;
    node.start()?;
    Speaker::wait_established(&node, 2)?;
    for family in [0, 1] {
        // Into our AS: path and MED as they were, LOCAL_PREF added, next hop self.
        Want::path(&[TOR_AS])
            .next_hop(place.address(family))
            .origin("incomplete")
            .med(Some(50))
            .local_pref(Some(100))
            .communities(&["65001:100", "65001:200"], &["65001:1:2"])
            .reflected(None, &[])
            .at(router.speaker(), SERVER_NETS[family])?;
        // Out of it: our AS added, LOCAL_PREF left out, third-party next hop in the shared subnet;
        // over IPv4 nothing says that the peer is in the IPv6 subnet too, so there it is self.
        let next_hop = [address(1, 100, 0), place.address(1)][family];
        Want::path(&[NODES_AS])
            .next_hop(next_hop)
            .origin("egp")
            .med(None)
            .communities(&["64512:7"], &["64512:7:7"])
            .at(tor.speaker(), &inner[family].to_string())?;
    }
    for family in [0, 1] {
        router.withdraw(inner[family])?;
        gone(tor.speaker(), &inner[family].to_string())?;
        tor.withdraw(SERVER_NETS[family].parse()?)?;
        gone(router.speaker(), SERVER_NETS[family])?;
    }
    Ok(())
}
