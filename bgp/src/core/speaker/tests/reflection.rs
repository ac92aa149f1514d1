//! Route reflection (RFC 4456), case by case.

use routelet_proto::BgpIdentifier;

use super::rig::{Rig, accept_all, config, path, peer};
use crate::core::config::{PeerConfig, PeerKind};

const PREFIX: &str = "10.244.7.0/24";

fn client(name: &str, address: &str) -> PeerConfig {
    PeerConfig { route_reflector_client: true, ..non_client(name, address) }
}

fn non_client(name: &str, address: &str) -> PeerConfig {
    peer(name, PeerKind::Internal, address, 64512)
}

fn reflector() -> Rig {
    let peers = vec![
        client("c1", "10.0.0.2"),
        client("c2", "10.0.0.3"),
        non_client("n1", "10.0.0.4"),
        non_client("n2", "10.0.0.5"),
        PeerConfig { rules: accept_all(), ..peer("tor", PeerKind::External, "10.0.0.6", 65001) },
    ];
    Rig::with_peers(config(), peers)
}

fn holders(rig: &Rig) -> Vec<&str> {
    ["c1", "c2", "n1", "n2", "tor"]
        .into_iter()
        .filter(|name| rig.heard[*name].routes.keys().any(|net| net.to_string() == PREFIX))
        .collect()
}

#[test]
fn from_a_client_to_everybody_else() {
    let mut rig = reflector();
    rig.announce("c1", &path(&[], "10.0.0.2"), &[PREFIX]);
    assert_eq!(holders(&rig), ["c2", "n1", "n2", "tor"]);
}

#[test]
fn from_a_non_client_to_clients_only() {
    let mut rig = reflector();
    rig.announce("n1", &path(&[], "10.0.0.4"), &[PREFIX]);
    assert_eq!(holders(&rig), ["c1", "c2", "tor"]);
}

#[test]
fn from_outside_to_nobody_without_a_filter() {
    let mut rig = reflector();
    rig.announce("tor", &path(&[65001], "10.0.0.6"), &[PREFIX]);
    assert!(holders(&rig).is_empty());
    rig.edit_peer("c1", |peer| peer.rules = accept_all());
    assert_eq!(holders(&rig), ["c1"]);
}

#[test]
fn originator_and_cluster_are_added_and_the_next_hop_stays() {
    let mut rig = reflector();
    let mut attributes = path(&[65009], "10.9.9.9");
    attributes.local_pref = Some(150);
    attributes.med = Some(30);
    rig.announce("c1", &attributes, &[PREFIX]);
    let sent = rig.sent_attributes("n1", PREFIX);
    assert_eq!(sent.originator_id(), Some(BgpIdentifier("10.0.0.2".parse().unwrap())));
    assert_eq!(sent.cluster_list(), ["10.0.0.1".parse::<std::net::Ipv4Addr>().unwrap()]);
    assert_eq!(sent.next_hop.address().to_string(), "10.9.9.9");
    assert_eq!((sent.local_pref, sent.med), (Some(150), Some(30)));
    assert_eq!(sent.as_path.to_string(), "65009");
    let outside = rig.sent_attributes("tor", PREFIX);
    assert_eq!((outside.local_pref, outside.med, outside.rare.is_none()), (None, None, true));
    assert_eq!(outside.as_path.to_string(), "64512 65009");
}

#[test]
fn an_originator_stays_and_the_cluster_goes_in_front() {
    let mut rig = reflector();
    let mut attributes = path(&[], "10.9.9.9");
    attributes.rare_mut().originator_id = Some(BgpIdentifier("10.0.0.99".parse().unwrap()));
    attributes.rare_mut().cluster_list = vec!["10.0.0.50".parse().unwrap()];
    rig.announce("n1", &attributes, &[PREFIX]);
    let sent = rig.sent_attributes("c2", PREFIX);
    assert_eq!(sent.originator_id(), Some(BgpIdentifier("10.0.0.99".parse().unwrap())));
    let clusters: Vec<_> = sent.cluster_list().iter().map(ToString::to_string).collect();
    assert_eq!(clusters, ["10.0.0.1", "10.0.0.50"]);
}

#[test]
fn when_the_best_path_moves_to_a_member_it_gets_a_withdrawal() {
    let mut rig = reflector();
    let mut attributes = path(&[], "10.0.0.3");
    attributes.local_pref = Some(90);
    rig.announce("c2", &attributes, &[PREFIX]);
    assert_eq!(holders(&rig), ["c1", "n1", "n2", "tor"]);
    rig.announce("c1", &path(&[], "10.0.0.2"), &[PREFIX]);
    assert_eq!(holders(&rig), ["c2", "n1", "n2", "tor"]);
    rig.withdraw("c1", &[PREFIX]);
    assert_eq!(holders(&rig), ["c1", "n1", "n2", "tor"]);
    rig.withdraw("c2", &[PREFIX]);
    assert!(holders(&rig).is_empty());
    for (name, heard) in &rig.heard {
        assert_eq!(heard.idle_withdrawals, 0, "{name} is withdrawn only what it has");
    }
}

#[test]
fn a_slow_source_still_gets_its_withdrawal() {
    let mut rig = reflector();
    let mut attributes = path(&[], "10.0.0.3");
    attributes.local_pref = Some(90);
    rig.announce("c2", &attributes, &[PREFIX]);
    rig.writable("c1", false);
    rig.withdraw("c2", &[PREFIX]);
    rig.announce("c1", &path(&[], "10.0.0.2"), &[PREFIX]);
    assert_eq!(holders(&rig), ["c1", "c2", "n1", "n2", "tor"]);
    rig.writable("c1", true);
    assert_eq!(holders(&rig), ["c2", "n1", "n2", "tor"]);
}

#[test]
fn becoming_a_client_takes_effect_without_a_reset() {
    let mut rig = reflector();
    rig.announce("n1", &path(&[], "10.0.0.4"), &[PREFIX]);
    let actions = rig.edit_peer("n1", |peer| peer.route_reflector_client = true);
    assert!(
        matches!(&actions[..], [crate::core::speaker::PeerAction::Update(_, _, None)]),
        "{actions:?}"
    );
    assert_eq!(holders(&rig), ["c1", "c2", "n2", "tor"]);
    rig.edit_peer("n1", |peer| peer.route_reflector_client = false);
    assert_eq!(holders(&rig), ["c1", "c2", "tor"]);
}
