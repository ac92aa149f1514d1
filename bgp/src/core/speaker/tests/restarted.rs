//! Graceful restart as the speaker that restarts (RFC 4724 §4.1): how long each peer is waited for.

use std::sync::Arc;
use std::time::Duration;

use routelet_proto::FamilySet;

use super::rig::{Rig, config, path, peer};
use crate::core::config::{GracefulRestartConfig, PeerConfig, PeerKind};
use crate::core::speaker::Output;

fn with_restart(peer: PeerConfig, restart_time: u16) -> PeerConfig {
    let graceful_restart = Some(GracefulRestartConfig { restart_time, notification: false });
    PeerConfig { graceful_restart, ..peer }
}

fn mesh(name: &str, address: &str) -> PeerConfig {
    with_restart(peer(name, PeerKind::Mesh, address, 64512), 300)
}

fn reflector(name: &str, address: &str) -> PeerConfig {
    with_restart(peer(name, PeerKind::Internal, address, 64512), 120)
}

fn restarted(peers: Vec<PeerConfig>) -> Rig {
    let mut config = config();
    config.peers = peers.into_iter().map(Arc::new).collect();
    Rig::restarted(config)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// After how many seconds from now the first sync is complete.
fn synced_after(rig: &mut Rig) -> u64 {
    for passed in 0..1000 {
        if rig.events == [Output::FirstSync] {
            return passed;
        }
        rig.pass(seconds(1));
    }
    panic!("never: {:?}", rig.events);
}

#[test]
fn a_node_that_died_meanwhile_is_waited_for_a_few_seconds() {
    let mut rig = restarted(vec![mesh("a", "10.0.0.2"), mesh("dead", "10.0.0.3")]);
    rig.up_restarted("a", FamilySet::ALL);
    rig.end_of_rib("a");
    assert_eq!(synced_after(&mut rig), 8);
}

#[test]
fn a_node_whose_host_answers_may_be_restarting_too() {
    let mut rig = restarted(vec![mesh("a", "10.0.0.2"), mesh("b", "10.0.0.3")]);
    rig.up_restarted("a", FamilySet::ALL);
    rig.end_of_rib("a");
    rig.pass(seconds(2));
    rig.reached("b");
    rig.pass(seconds(60));
    rig.reached("b");
    assert!(rig.events.is_empty());
    assert_eq!(synced_after(&mut rig), 240, "its restart time, from when it was first heard of");
}

#[test]
fn a_node_that_comes_back_late_is_waited_for_until_end_of_rib() {
    let mut rig = restarted(vec![mesh("a", "10.0.0.2")]);
    rig.reached("a");
    rig.pass(seconds(200));
    rig.up_restarted("a", FamilySet::ALL);
    rig.pass(seconds(200));
    assert!(rig.events.is_empty(), "up, and End-of-RIB is still to come");
    rig.announce("a", &path(&[], "10.0.0.2"), &["10.244.2.0/24"]);
    rig.end_of_rib("a");
    assert_eq!(rig.events, [Output::FirstSync]);
    assert_eq!(rig.forwarding("10.244.2.0/24"), ["10.0.0.2"]);
}

#[test]
fn a_peer_without_graceful_restart_may_never_say_end_of_rib() {
    let tor = with_restart(peer("tor", PeerKind::External, "10.0.0.9", 65001), 120);
    let mut rig = restarted(vec![tor]);
    rig.up("tor");
    assert_eq!(synced_after(&mut rig), 5);
    let mut rig = restarted(vec![peer("off", PeerKind::External, "10.0.0.9", 65001)]);
    assert_eq!(synced_after(&mut rig), 5, "graceful restart switched off here");
}

#[test]
fn the_only_reflector_is_waited_for_and_one_of_two_is_not() {
    let mut rig = restarted(vec![reflector("rr", "10.0.0.2")]);
    assert_eq!(synced_after(&mut rig), 120, "what it told goes on forwarding without it");

    let both = || vec![reflector("rr-1", "10.0.0.2"), reflector("rr-2", "10.0.0.3")];
    let mut rig = restarted(both());
    rig.up_restarted("rr-1", FamilySet::ALL);
    rig.end_of_rib("rr-1");
    assert_eq!(synced_after(&mut rig), 8);
    let mut rig = restarted(both());
    rig.pass(seconds(20));
    rig.up_restarted("rr-1", FamilySet::ALL);
    assert!(rig.events.is_empty());
    rig.end_of_rib("rr-1");
    assert_eq!(rig.events, [Output::FirstSync]);
}

#[test]
fn a_reflector_that_restarts_waits_for_the_clients_that_call_it() {
    let client = |name, address| PeerConfig {
        route_reflector_client: true,
        passive: true,
        ..reflector(name, address)
    };
    let mut rig = restarted(vec![client("a", "10.0.0.2"), client("b", "10.0.0.3")]);
    rig.up_restarted("a", FamilySet::ALL);
    rig.end_of_rib("a");
    rig.pass(seconds(100));
    assert!(rig.heard["a"].end_of_rib.is_empty(), "b may still be on its way");
    rig.pass(seconds(21));
    assert_eq!(rig.heard["a"].end_of_rib.len(), 2, "its deferral, and no longer");
}

#[test]
fn own_prefixes_and_end_of_rib_of_a_node_wait_for_nobody() {
    let mut config = config();
    config.originated =
        vec![super::rig::own("10.244.1.0/24", crate::core::config::OriginatedKind::PodCidr)];
    config.peers = vec![mesh("a", "10.0.0.2").into(), mesh("b", "10.0.0.3").into()];
    let mut rig = Rig::restarted(config);
    rig.up_restarted("a", FamilySet::ALL);
    assert_eq!(rig.sent("a"), ["10.244.1.0/24"]);
    assert_eq!(rig.heard["a"].end_of_rib.len(), 2);
}

#[test]
fn on_a_cold_start_an_answer_prolongs_nothing() {
    let mut config = config();
    config.peers = vec![mesh("a", "10.0.0.2").into()];
    let mut rig = Rig::new(config);
    rig.pass(seconds(4));
    rig.reached("a");
    assert_eq!(synced_after(&mut rig), 1);
}
