//! BIRD and FRR with each other: what the harness renders and reads is right, whatever we do.

use routelet_tests::harness::Case;
use routelet_tests::routers::{Announcement, Kind, Neighbor, RouterSpec};
use routelet_tests::scene::{SERVER, SERVER_NETS, Scene, address, pings};
use routelet_tests::want::{Want, gone};

pub const CASES: &[Case] = &[
    ("field::bird_tor_of_frr", |scene| tor(scene, Kind::Bird, Kind::Frr)),
    ("field::frr_tor_of_bird", |scene| tor(scene, Kind::Frr, Kind::Bird)),
];

/// One is the ToR of the other: attributes of both families, a withdrawal, a restart, a ping.
fn tor(scene: &Scene, above: Kind, below: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let place = fabric.place(1, 1)?;
    let locals = |host| [address(1, host, 0), address(1, host, 1)];
    let mut spec = RouterSpec {
        asn: 65001,
        router_id: "172.30.1.1".into(),
        forwards: true,
        ..RouterSpec::default()
    };
    spec.neighbors.push(Neighbor {
        name: "node1".into(),
        address: address(1, 11, 0),
        asn: 64512,
        local: locals(1),
        reflector_client: false,
        as_override: false,
    });
    for prefix in SERVER_NETS {
        spec.announcements.push(Announcement {
            med: Some(50),
            origin: "incomplete",
            communities: vec![(65001, 100)],
            large_communities: vec![(65001, 1, 2)],
            ..Announcement::plain(prefix.parse()?)
        });
    }
    let mut tor = above.router(scene, "tor", &fabric.tor, spec)?;
    let mut spec = RouterSpec {
        asn: 64512,
        router_id: "172.30.1.11".into(),
        forwards: true,
        ..RouterSpec::default()
    };
    spec.neighbors.push(Neighbor {
        name: "tor".into(),
        address: address(1, 1, 0),
        asn: 65001,
        local: locals(11),
        reflector_client: false,
        as_override: false,
    });
    for family in [0, 1] {
        spec.announcements.push(Announcement::plain(place.pod_cidr(family)));
    }
    let mut node = below.router(scene, "node1", &place.netns, spec)?;
    tor.start()?;
    node.start()?;

    let check = |tor: &dyn routelet_tests::routers::Router,
                 node: &dyn routelet_tests::routers::Router|
     -> anyhow::Result<()> {
        tor.wait_established(1)?;
        node.wait_established(1)?;
        for family in [0, 1] {
            Want::path(&[65001])
                .next_hop(address(1, 1, family))
                .origin("incomplete")
                .med(Some(50))
                .communities(&["65001:100"], &["65001:1:2"])
                .at(node.speaker(), SERVER_NETS[family])?;
            Want::path(&[64512])
                .next_hop(place.address(family))
                .origin("igp")
                .communities(&[], &[])
                .at(tor.speaker(), &place.pod_cidr(family).to_string())?;
            pings(&place.pod, SERVER[family].parse()?)?;
        }
        Ok(())
    };
    check(&*tor, &*node)?;
    tor.stop()?;
    // Both keep routes for a while: they have negotiated graceful restart.
    node.wait_established(0)?;
    tor.start()?;
    check(&*tor, &*node)?;
    for prefix in SERVER_NETS {
        tor.withdraw(prefix.parse()?)?;
        gone(node.speaker(), prefix)?;
    }
    Ok(())
}
