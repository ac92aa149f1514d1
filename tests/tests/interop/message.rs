//! `reset`, `disable` and `enable` with a message: the other side shows the text (RFC 9003).

use std::time::Duration;

use anyhow::ensure;
use routelet_tests::harness::{Case, eventually};
use routelet_tests::routers::{Kind, Speaker};
use routelet_tests::scene::Scene;
use routelet_tests::want::ARRIVAL;

use super::setup::{NODES_AS, TOR_AS, Yaml, neighbor, plain_server_nets, router_spec, tor_peer};

pub const CASES: &[Case] = &[
    ("bird::administrative_message", |scene| administrative_message(scene, Kind::Bird)),
    ("frr::administrative_message", |scene| administrative_message(scene, Kind::Frr)),
    ("gobgp::administrative_message", |scene| administrative_message(scene, Kind::Gobgp)),
    ("openbgpd::administrative_message", |scene| administrative_message(scene, Kind::Openbgpd)),
];

/// How long a router may hold its side idle after a Cease: GoBGP waits half a minute, OpenBGPD as
/// long, and twice that the next time.
const IDLE_HOLD: Duration = Duration::from_secs(180);

fn administrative_message(scene: &Scene, kind: Kind) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let place = fabric.place(1, 1)?;
    let mut spec = router_spec(TOR_AS, "172.30.1.1");
    spec.neighbors.push(neighbor(&place, NODES_AS, 1));
    spec.announcements = plain_server_nets();
    let mut tor = kind.router(scene, "tor", &fabric.tor, spec)?;
    let peers = vec![tor_peer(&place, TOR_AS, ", filters: [servers]")];
    let yaml = Yaml { place: &place, asn: NODES_AS, mesh: None, peers }.text();
    let mut node = scene.routelet("node1", &place.netns, &yaml)?;
    tor.start()?;
    node.start()?;
    Speaker::wait_established(&node, 1)?;
    tor.wait_established(1)?;

    let shown = |text: &str| {
        eventually(&format!("{text:?} at {}", tor.name()), ARRIVAL, || {
            let all = tor.sessions_text()?;
            ensure!(all.contains(text), "it shows {all}");
            Ok(())
        })
    };
    node.text(&["disable", "tor", "--message", "maintenance of rack seven"])?;
    shown("maintenance of rack seven")?;
    tor.wait_established(0)?;
    let peer = node.json(&["peer", "tor"])?;
    ensure!(peer["enabled"] == false && peer["state"] == "Idle", "{peer}");

    let comes_up = || {
        eventually("the session", IDLE_HOLD, || {
            let up = Speaker::established(&node)?;
            ensure!(up == 1, "{}", node.json(&["peer", "tor"])?);
            Ok(())
        })
    };
    node.text(&["enable", "tor"])?;
    comes_up()?;
    tor.wait_established(1)?;
    node.text(&["reset", "tor", "--message", "new line card"])?;
    shown("new line card")?;
    comes_up()
}
