//! Configuration edits: what they do to sessions and to routes, and what they leave alone.

use std::sync::Arc;

use routelet_proto::Asn;

use super::rig::{Rig, accept_all, config, net, own, path, peer, rule};
use crate::core::config::{OriginatedKind, PeerConfig, PeerKind};
use crate::core::policy::{Action, MatchOperator, PolicyRules};
use crate::core::speaker::{Output, PeerAction};

fn rig() -> Rig {
    let mut config = config();
    config.originated = vec![own("10.244.1.0/24", OriginatedKind::PodCidr)];
    let peers = vec![
        peer("node", PeerKind::Mesh, "10.0.0.2", 64512),
        PeerConfig { rules: accept_all(), ..peer("tor", PeerKind::External, "10.0.0.3", 65001) },
    ];
    let mut rig = Rig::with_peers(config, peers);
    rig.announce("node", &path(&[], "10.0.0.2"), &["10.244.2.0/24"]);
    rig.announce("tor", &path(&[65001], "10.0.0.3"), &["0.0.0.0/0", "172.16.0.0/16"]);
    rig
}

#[test]
fn the_same_configuration_again_does_nothing() {
    let mut rig = rig();
    let (changes, updates) = (rig.route_changes, rig.heard["tor"].updates.len());
    assert_eq!(rig.edit(|_| ()), []);
    assert_eq!(rig.route_changes, changes);
    assert_eq!(rig.heard["tor"].updates.len(), updates);
}

#[test]
fn an_import_policy_edit_needs_no_reset_and_no_refresh() {
    let mut rig = rig();
    let reject = |prefix| rule(Action::Reject, Some((prefix, MatchOperator::Equal)));
    let changes = rig.route_changes;
    let actions = rig.edit_peer("tor", |peer| {
        Arc::make_mut(&mut peer.rules).import[0].insert(0, reject("0.0.0.0/0"));
    });
    assert!(matches!(&actions[..], [PeerAction::Update(_, _, None)]));
    assert_eq!(rig.route_changes - changes, 1, "only the prefix concerned");
    assert_eq!(rig.why("0.0.0.0/0"), "rejected by filter test, rule 0");
    assert_eq!(rig.forwarding("172.16.0.0/16"), ["10.0.0.3"]);
    rig.edit_peer("tor", |peer| peer.rules = accept_all());
    assert_eq!(rig.forwarding("0.0.0.0/0"), ["10.0.0.3"]);
}

#[test]
fn an_export_policy_edit_sends_only_the_difference() {
    let mut rig = rig();
    assert_eq!(rig.sent("tor"), ["10.244.1.0/24", "10.244.2.0/24"]);
    let updates = rig.heard["tor"].updates.len();
    let actions = rig.edit_peer("tor", |peer| peer.rules = Arc::default());
    assert!(matches!(&actions[..], [PeerAction::Update(_, _, None)]));
    assert_eq!(rig.sent("tor"), ["10.244.1.0/24"]);
    assert_eq!(rig.heard["tor"].updates.len() - updates, 1, "one withdrawal");
    let export = [vec![rule(Action::Accept, None)], vec![]];
    rig.edit_peer("tor", |peer| {
        peer.rules = Arc::new(PolicyRules { export, ..PolicyRules::default() });
    });
    assert_eq!(rig.sent("tor"), ["10.244.1.0/24", "10.244.2.0/24"]);
    assert_eq!(rig.heard["tor"].updates.len() - updates, 2, "and one announcement");
    assert_eq!(rig.heard["tor"].idle_withdrawals, 0);
    assert_eq!(rig.heard["tor"].end_of_rib.len(), 2, "End-of-RIB comes once in a session");
    // What was held before the edits is still known to be held.
    rig.withdraw("node", &["10.244.2.0/24"]);
    assert_eq!(rig.sent("tor"), ["10.244.1.0/24"]);
}

#[test]
fn routes_that_go_while_a_peer_changes_groups_are_withdrawn_from_it() {
    let mut rig = rig();
    rig.writable("tor", false);
    rig.edit_peer("tor", |peer| peer.next_hop_mode = crate::core::config::NextHopMode::Myself);
    rig.withdraw("node", &["10.244.2.0/24"]);
    rig.writable("tor", true);
    assert_eq!(rig.sent("tor"), ["10.244.1.0/24"]);
}

#[test]
fn what_the_open_carries_resets_that_session_only() {
    let mut rig = rig();
    let tor = rig.ids["tor"];
    let actions = rig.edit_peer("tor", |peer| {
        peer.remote_as = Asn(65002);
        peer.ttl = 1;
    });
    let [PeerAction::Update(id, _, Some(words))] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((*id, &**words), (tor, "asNumber, ttl"));
    assert_eq!(rig.forwarding("10.244.2.0/24"), ["10.0.0.2"]);
}

#[test]
fn peers_come_and_go_and_handles_are_not_used_again() {
    let mut rig = rig();
    let tor = rig.ids["tor"];
    let actions = rig.edit(|config| config.peers.retain(|peer| &*peer.name != "tor"));
    assert_eq!(actions, [PeerAction::Stop(tor)]);
    assert!(rig.forwarding("0.0.0.0/0").is_empty());
    assert_eq!(rig.fib.len(), 1);
    let new =
        PeerConfig { rules: accept_all(), ..peer("tor", PeerKind::External, "10.0.0.3", 65001) };
    let actions = rig.edit(|config| config.peers.push(new.into()));
    assert!(matches!(&actions[..], [PeerAction::Start(id, _)] if *id != tor));
    rig.up("tor");
    assert_eq!(rig.sent("tor").len(), 2);
}

#[test]
fn own_routes_are_advertised_and_withdrawn_live() {
    let mut rig = rig();
    rig.edit(|config| {
        config.originated.push(own("10.96.0.1/32", OriginatedKind::Service));
    });
    assert!(rig.sent("node").contains(&"10.96.0.1/32".to_owned()));
    let updates = rig.heard["node"].updates.len();
    rig.edit(|config| config.originated.retain(|route| route.kind == OriginatedKind::Service));
    assert_eq!(rig.sent("node"), ["10.96.0.1/32"]);
    assert_eq!(rig.heard["node"].updates.len() - updates, 1);
    rig.edit(|config| config.originated.clear());
    assert!(rig.sent("node").is_empty() && rig.sent("tor") == ["10.244.2.0/24"]);
}

#[test]
fn a_new_node_of_the_cluster_opens_its_pod_cidr() {
    let mut rig = rig();
    rig.announce("node", &path(&[], "10.0.0.2"), &["10.99.0.0/24"]);
    assert!(rig.why("10.99.0.0/24").starts_with("rejected by the default policy"));
    rig.edit(|config| {
        Arc::make_mut(&mut config.cluster).pod_cidrs.push(net("10.99.0.0/24"));
    });
    assert_eq!(rig.forwarding("10.99.0.0/24"), ["10.0.0.2"]);
    rig.edit(|config| {
        Arc::make_mut(&mut config.cluster).own_pod_cidrs.push(net("10.99.0.0/16"));
    });
    assert!(rig.why("10.99.0.0/24").contains("our own pod CIDR"));
    assert!(rig.forwarding("10.99.0.0/24").is_empty());
}

#[test]
fn a_prefix_that_becomes_a_service_leaves_the_kernel_and_returns() {
    let mut rig = rig();
    rig.edit(|config| {
        Arc::make_mut(&mut config.cluster).services.push(net("10.244.2.0/24"));
    });
    assert!(rig.forwarding("10.244.2.0/24").is_empty());
    assert!(rig.sent("tor").contains(&"10.244.2.0/24".to_owned()));
    rig.edit(|config| Arc::make_mut(&mut config.cluster).services.clear());
    assert_eq!(rig.forwarding("10.244.2.0/24"), ["10.0.0.2"]);
}

#[test]
fn a_lower_limit_takes_effect_at_once() {
    let mut rig = rig();
    rig.edit_peer("tor", |peer| peer.maximum_prefixes = Some(1));
    assert!(rig.events.iter().any(|event| matches!(event, Output::ResetPeer(..))));
}

#[test]
fn a_changed_next_hop_mode_sends_everything_again_and_loses_nothing() {
    let mut rig = rig();
    assert_eq!(
        rig.sent_attributes("tor", "10.244.2.0/24").next_hop.address().to_string(),
        "10.0.0.2"
    );
    rig.edit_peer("tor", |peer| peer.next_hop_mode = crate::core::config::NextHopMode::Myself);
    assert_eq!(
        rig.sent_attributes("tor", "10.244.2.0/24").next_hop.address().to_string(),
        "10.0.0.1"
    );
    assert_eq!(rig.sent("tor").len(), 2);
    let withdrawn: usize =
        rig.heard["tor"].updates.iter().map(|update| update.withdrawn.len()).sum();
    assert_eq!(withdrawn, 0);
}
