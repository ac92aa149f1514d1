//! Graceful restart as the receiving speaker (RFC 4724 §4.2), first sync, End-of-RIB.

use std::time::Duration;

use routelet_proto::{Family, FamilySet};

use super::rig::{Rig, accept_all, config, path, peer};
use crate::core::config::{PeerConfig, PeerKind};
use crate::core::speaker::Output;

const V4: FamilySet = FamilySet::EMPTY.with(Family::Ipv4Unicast);

fn pair() -> Rig {
    let peers = vec![
        peer("node", PeerKind::Mesh, "10.0.0.2", 64512),
        PeerConfig { rules: accept_all(), ..peer("tor", PeerKind::External, "10.0.0.3", 65001) },
    ];
    let mut rig = Rig::with_peers(config(), peers);
    rig.announce("node", &path(&[], "10.0.0.2"), &["10.244.2.0/24", "10.244.3.0/24"]);
    rig.announce("node", &path(&[], "fd00::2"), &["fd00:244:2::/64"]);
    rig.end_of_rib("node");
    rig.end_of_rib("tor");
    rig
}

fn stale(rig: &Rig) -> Vec<String> {
    let all = rig.routes(crate::core::view::RouteTable::All, crate::core::view::RouteSelector::All);
    all.iter().filter(|route| route.stale).map(|route| route.prefix.to_string()).collect()
}

#[test]
fn routes_outlive_a_restart_and_nobody_hears_of_it() {
    let mut rig = pair();
    let (changes, updates) = (rig.route_changes, rig.heard["tor"].updates.len());
    rig.down("node", Some((FamilySet::ALL, 120)));
    assert_eq!(stale(&rig).len(), 3);
    rig.pass(Duration::from_secs(60));
    rig.up_restarted("node", FamilySet::ALL);
    rig.announce("node", &path(&[], "10.0.0.2"), &["10.244.2.0/24", "10.244.3.0/24"]);
    rig.announce("node", &path(&[], "fd00::2"), &["fd00:244:2::/64"]);
    assert!(stale(&rig).is_empty());
    rig.end_of_rib("node");
    rig.pass(Duration::from_secs(600));
    assert_eq!(rig.route_changes, changes);
    assert_eq!(rig.heard["tor"].updates.len(), updates);
    assert_eq!((rig.fib.len(), rig.sent("tor").len()), (3, 3));
}

#[test]
fn what_is_not_repeated_goes_with_end_of_rib() {
    let mut rig = pair();
    rig.down("node", Some((FamilySet::ALL, 120)));
    rig.up_restarted("node", FamilySet::ALL);
    rig.announce("node", &path(&[], "10.0.0.2"), &["10.244.2.0/24"]);
    assert_eq!(stale(&rig), ["10.244.3.0/24", "fd00:244:2::/64"]);
    rig.end_of_rib("node");
    assert_eq!(rig.sent("tor"), ["10.244.2.0/24"]);
    assert_eq!(rig.fib.len(), 1);
}

#[test]
fn a_peer_that_does_not_come_back_loses_its_routes_with_the_timer() {
    let mut rig = pair();
    rig.down("node", Some((FamilySet::ALL, 120)));
    rig.pass(Duration::from_secs(119));
    assert_eq!(rig.fib.len(), 3);
    rig.pass(Duration::from_secs(2));
    assert!(rig.fib.is_empty() && rig.sent("tor").is_empty());
    assert_eq!(rig.speaker.poll_timeout(), None);
}

#[test]
fn a_peer_that_never_says_end_of_rib_is_swept_in_the_end() {
    let mut rig = pair();
    rig.down("node", Some((FamilySet::ALL, 120)));
    rig.up_restarted("node", FamilySet::ALL);
    rig.announce("node", &path(&[], "10.0.0.2"), &["10.244.2.0/24"]);
    rig.pass(Duration::from_secs(121));
    assert_eq!(rig.fib.len(), 1);
}

#[test]
fn families_not_preserved_go_at_once() {
    let mut rig = pair();
    rig.down("node", Some((V4, 120)));
    assert_eq!(rig.fib.len(), 2, "IPv6 is not retained");
    rig.up_restarted("node", FamilySet::EMPTY);
    assert!(rig.fib.is_empty(), "the F bit is clear");

    let mut rig = pair();
    rig.down("node", Some((FamilySet::ALL, 120)));
    rig.up_restarted("node", V4);
    assert_eq!(stale(&rig), ["10.244.2.0/24", "10.244.3.0/24"]);

    let mut rig = pair();
    rig.down("node", Some((FamilySet::ALL, 120)));
    rig.up("node");
    assert!(rig.fib.is_empty(), "no graceful restart any more");
}

#[test]
fn a_second_failure_drops_what_was_stale_already() {
    let mut rig = pair();
    rig.down("node", Some((FamilySet::ALL, 120)));
    rig.up_restarted("node", FamilySet::ALL);
    rig.announce("node", &path(&[], "10.0.0.2"), &["10.244.2.0/24"]);
    rig.down("node", Some((FamilySet::ALL, 120)));
    assert_eq!(stale(&rig), ["10.244.2.0/24"]);
    assert_eq!(rig.fib.len(), 1);
}

#[test]
fn without_graceful_restart_everything_goes() {
    let mut rig = pair();
    rig.down("node", None);
    assert!(rig.fib.is_empty() && rig.sent("tor").is_empty());
    assert_eq!(rig.speaker.sizes(), (0, 0));
}

#[test]
fn first_sync_without_peers_is_at_once_and_comes_once() {
    let mut rig = Rig::new(config());
    assert_eq!(rig.events, [Output::FirstSync]);
    rig.edit(|config| {
        config.peers.push(peer("late", PeerKind::Mesh, "10.0.0.9", 64512).into());
    });
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.events, [Output::FirstSync]);
}

#[test]
fn first_sync_waits_for_each_peer_its_deferral_and_no_longer() {
    let mut config = config();
    for (name, address) in [("a", "10.0.0.2"), ("b", "10.0.0.3"), ("gone", "10.0.0.4")] {
        config.peers.push(peer(name, PeerKind::Mesh, address, 64512).into());
    }
    let mut off = peer("off", PeerKind::Mesh, "10.0.0.5", 64512);
    off.enabled = false;
    config.peers.push(off.into());
    let mut rig = Rig::new(config);
    rig.up("a");
    rig.end_of_rib("a");
    rig.pass(Duration::from_secs(4));
    rig.up("b");
    rig.pass(Duration::from_millis(1100));
    assert!(rig.events.is_empty(), "b came up late and gets its own deferral");
    rig.announce("b", &path(&[], "10.0.0.3"), &["10.244.3.0/24"]);
    rig.end_of_rib("b");
    assert_eq!(rig.events, [Output::FirstSync], "gone has had its five seconds");
    assert_eq!(rig.forwarding("10.244.3.0/24"), ["10.0.0.3"]);
}

#[test]
fn a_session_that_flaps_does_not_put_first_sync_off_for_ever() {
    let mut config = config();
    config.peers = vec![peer("a", PeerKind::Mesh, "10.0.0.2", 64512).into()];
    let mut rig = Rig::new(config);
    let mut seconds = 0;
    while rig.events.is_empty() {
        assert!(seconds < 60, "it is put off for ever");
        rig.pass(Duration::from_secs(2));
        rig.up("a");
        rig.pass(Duration::from_secs(1));
        rig.down("a", None);
        seconds += 3;
    }
    assert_eq!(seconds, 9, "two seconds until it is up, then five once");
}

#[test]
fn a_peer_that_sends_no_end_of_rib_delays_it_by_its_deferral() {
    let mut config = config();
    config.peers = vec![peer("a", PeerKind::Mesh, "10.0.0.2", 64512).into()];
    let mut rig = Rig::new(config);
    rig.pass(Duration::from_secs(3));
    rig.up("a");
    rig.pass(Duration::from_millis(4900));
    assert!(rig.events.is_empty());
    rig.pass(Duration::from_millis(200));
    assert_eq!(rig.events, [Output::FirstSync]);
}

#[test]
fn end_of_rib_of_a_mesh_node_waits_for_nobody() {
    let mut config = config();
    config.peers = vec![
        peer("a", PeerKind::Mesh, "10.0.0.2", 64512).into(),
        peer("absent", PeerKind::Mesh, "10.0.0.3", 64512).into(),
    ];
    let mut rig = Rig::new(config);
    rig.up("a");
    assert_eq!(rig.heard["a"].end_of_rib.len(), 2);
}

#[test]
fn end_of_rib_of_a_reflector_waits_for_its_clients() {
    let client = |name: &str, address| PeerConfig {
        route_reflector_client: true,
        ..peer(name, PeerKind::Internal, address, 64512)
    };
    let mut config = config();
    config.peers = vec![client("a", "10.0.0.2").into(), client("b", "10.0.0.3").into()];
    let mut rig = Rig::new(config);
    rig.up("a");
    assert!(rig.heard["a"].end_of_rib.is_empty(), "b may have routes for a");
    rig.up("b");
    rig.end_of_rib("a");
    assert_eq!(rig.heard["b"].end_of_rib.len(), 2, "a has said all");
    assert!(rig.heard["a"].end_of_rib.is_empty());
    rig.announce("b", &path(&[], "10.0.0.3"), &["10.244.3.0/24"]);
    rig.end_of_rib("b");
    assert_eq!(rig.heard["a"].end_of_rib.len(), 2);
    assert_eq!(rig.sent("a"), ["10.244.3.0/24"]);

    let mut config = rig.config.clone();
    config.peers[1] = client("b", "10.0.0.3").into();
    let mut rig = Rig::new(config);
    rig.up("a");
    rig.pass(Duration::from_secs(6));
    assert_eq!(rig.heard["a"].end_of_rib.len(), 2, "b is not there and delays nobody for ever");
}
