//! Import, loops, limits and the first octets of a session.

use std::time::Duration;

use routelet_proto::{
    BgpIdentifier, CeaseSubcode, ErrorCode, Family, FamilySet, Issue, RefreshSubtype, Role,
    RouteRefresh, Treatment, Update,
};

use super::rig::{Rig, accept_all, bare_config, config, own, path, peer};
use crate::core::config::{OriginatedKind, PeerConfig, PeerKind};
use crate::core::speaker::Output;
use crate::core::view::{RouteSelector, RouteTable};

fn external(name: &str, address: &str, asn: u32) -> PeerConfig {
    PeerConfig { rules: accept_all(), ..peer(name, PeerKind::External, address, asn) }
}

fn internal(name: &str, address: &str) -> PeerConfig {
    PeerConfig { rules: accept_all(), ..peer(name, PeerKind::Internal, address, 64512) }
}

#[test]
fn a_route_is_learned_installed_and_passed_on() {
    let peers = vec![external("tor", "10.0.0.2", 65001), internal("node", "10.0.0.3")];
    let mut rig = Rig::with_peers(config(), peers);
    rig.announce("tor", &path(&[65001, 65010], "10.0.0.2"), &["172.16.0.0/16"]);
    assert_eq!(rig.forwarding("172.16.0.0/16"), ["10.0.0.2"]);
    assert_eq!(rig.sent("node"), ["172.16.0.0/16"]);
    let sent = rig.sent_attributes("node", "172.16.0.0/16");
    assert_eq!(sent.next_hop.address().to_string(), "10.0.0.1");
    assert_eq!(sent.local_pref, Some(100));
    assert_eq!(sent.as_path.to_string(), "65001 65010");
    assert!(rig.sent("tor").is_empty());

    rig.withdraw("tor", &["172.16.0.0/16"]);
    assert!(rig.fib.is_empty() && rig.sent("node").is_empty());
    assert!(rig.tracked.is_empty());
    assert_eq!(rig.speaker.sizes(), (0, 0), "nothing is left behind");
}

#[test]
fn own_prefixes_are_the_first_octets_then_the_rest_then_end_of_rib() {
    let mut config = config();
    config.originated = vec![
        own("10.244.1.0/24", OriginatedKind::PodCidr),
        own("10.96.0.10/32", OriginatedKind::Service),
    ];
    let mut rig = Rig::with_peers(config, vec![external("tor", "10.0.0.2", 65001)]);
    rig.announce("tor", &path(&[65001], "10.0.0.2"), &["172.16.0.0/16"]);
    rig.end_of_rib("tor");
    let node = internal("node", "10.0.0.3");
    rig.edit(|config| config.peers.push(node.into()));
    rig.up("node");
    let first = &rig.heard["node"].updates[0];
    let prefixes: Vec<_> =
        first.announced[0].nlri.iter_any().map(|(_, net)| net.to_string()).collect();
    assert_eq!(prefixes.len(), 2);
    assert!(prefixes.contains(&"10.244.1.0/24".to_owned()));
    assert_eq!(rig.sent("node").len(), 3);
    assert_eq!(rig.heard["node"].end_of_rib, [Family::Ipv4Unicast, Family::Ipv6Unicast]);
}

#[test]
fn loops_are_refused_and_say_so() {
    let peers = vec![external("tor", "10.0.0.2", 65001), internal("rr", "10.0.0.3")];
    let mut rig = Rig::with_peers(config(), peers);
    rig.announce("tor", &path(&[65001, 64512], "10.0.0.2"), &["172.16.0.0/16"]);
    assert!(rig.why("172.16.0.0/16").contains("our own AS"));
    rig.announce("tor", &path(&[65009], "10.0.0.2"), &["172.16.0.0/16"]);
    assert!(rig.why("172.16.0.0/16").contains("begins with 65009"));
    rig.announce("tor", &path(&[], "10.0.0.2"), &["172.16.0.0/16"]);
    assert!(rig.why("172.16.0.0/16").contains("does not begin"));
    rig.announce("tor", &path(&[65001], "10.0.0.1"), &["172.16.0.0/16"]);
    assert!(rig.why("172.16.0.0/16").contains("next hop is an address of this host"));
    rig.announce("tor", &path(&[65001], "192.168.7.1"), &["172.16.0.0/16"]);
    assert!(rig.why("172.16.0.0/16").contains("next hop is an address of this host"));

    let mut looped = path(&[], "10.0.0.9");
    looped.rare_mut().originator_id = Some(BgpIdentifier("10.0.0.1".parse().unwrap()));
    rig.announce("rr", &looped, &["172.17.0.0/16"]);
    assert!(rig.why("172.17.0.0/16").contains("ORIGINATOR_ID"));
    let mut looped = path(&[], "10.0.0.9");
    looped.rare_mut().cluster_list = vec!["10.0.0.7".parse().unwrap(), "10.0.0.1".parse().unwrap()];
    rig.announce("rr", &looped, &["172.17.0.0/16"]);
    assert!(rig.why("172.17.0.0/16").contains("CLUSTER_LIST"));
    assert!(rig.fib.is_empty() && rig.sent("rr").is_empty() && rig.sent("tor").is_empty());
}

#[test]
fn num_allowed_local_as_lets_our_as_pass_so_often() {
    let tor = PeerConfig { num_allowed_local_as: 1, ..external("tor", "10.0.0.2", 65001) };
    let mut rig = Rig::with_peers(config(), vec![tor]);
    rig.announce("tor", &path(&[65001, 64512], "10.0.0.2"), &["172.16.0.0/16"]);
    assert_eq!(rig.forwarding("172.16.0.0/16"), ["10.0.0.2"]);
    rig.announce("tor", &path(&[65001, 64512, 64512], "10.0.0.2"), &["172.16.0.0/16"]);
    assert!(rig.why("172.16.0.0/16").contains("our own AS"));
    assert!(rig.fib.is_empty());
}

#[test]
fn local_as_stands_alone_in_the_path_and_is_a_loop_too() {
    let local_as = routelet_proto::Asn(65100);
    let tor = PeerConfig { local_as, ..external("tor", "10.0.0.2", 65001) };
    let mut config = config();
    config.originated = vec![own("10.244.1.0/24", OriginatedKind::PodCidr)];
    let mut rig = Rig::with_peers(config, vec![tor]);
    assert_eq!(rig.sent_attributes("tor", "10.244.1.0/24").as_path.to_string(), "65100");
    rig.announce("tor", &path(&[65001, 65100], "10.0.0.2"), &["172.16.0.0/16"]);
    assert!(rig.why("172.16.0.0/16").contains("our own AS"));
}

#[test]
fn own_pod_cidrs_and_addresses_are_refused_whatever_the_filter() {
    let mut rig = Rig::with_peers(config(), vec![external("tor", "10.0.0.2", 65001)]);
    let from_tor = path(&[65001], "10.0.0.2");
    for prefix in ["10.244.1.0/24", "10.244.1.128/25", "10.244.1.7/32"] {
        rig.announce("tor", &from_tor, &[prefix]);
        assert!(rig.why(prefix).contains("our own pod CIDR 10.244.1.0/24"), "{prefix}");
    }
    rig.announce("tor", &from_tor, &["192.168.7.1/32", "fd00::1/128"]);
    assert!(rig.why("192.168.7.1/32").contains("address of this host"));
    rig.announce("tor", &from_tor, &["192.168.7.0/24", "10.244.0.0/16"]);
    assert_eq!(rig.fib.len(), 2, "less specific ones are fine");
}

#[test]
fn external_local_pref_is_not_ours_and_both_versions_are_shown() {
    let mut rig = Rig::with_peers(config(), vec![external("tor", "10.0.0.2", 65001)]);
    let mut attributes = path(&[65001], "10.0.0.2");
    attributes.local_pref = Some(500);
    rig.announce("tor", &attributes, &["172.16.0.0/16"]);
    assert_eq!(rig.paths("172.16.0.0/16")[0].attributes.local_pref, None);
    let received = rig.routes(RouteTable::Received("tor".into()), RouteSelector::All);
    assert_eq!(received[0].attributes.local_pref, Some(500));
    let explained = rig.speaker.explain(RouteSelector::Longest("172.16.3.4".parse().unwrap()));
    assert_eq!(explained.prefix.unwrap().to_string(), "172.16.0.0/16");
    assert_eq!(explained.paths[0].received.as_ref().unwrap().local_pref, Some(500));
    rig.withdraw("tor", &["172.16.0.0/16"]);
    assert_eq!(rig.speaker.sizes(), (0, 0));
}

#[test]
fn family_that_cannot_be_read_is_given_up_until_the_next_session() {
    let mut rig = Rig::with_peers(config(), vec![external("tor", "10.0.0.2", 65001)]);
    let v4 = path(&[65001], "10.0.0.2");
    let v6 = path(&[65001], "fd00::2");
    rig.announce("tor", &v4, &["172.16.0.0/16"]);
    rig.announce("tor", &v6, &["fd01::/32"]);
    assert_eq!(rig.fib.len(), 2);
    let spoiled = Update {
        issues: vec![Issue {
            treatment: Treatment::DisableFamily(Family::Ipv6Unicast.afi_safi()),
            attribute: Some(14),
            offset: 23,
            detail: "made up".to_owned(),
        }],
        ..Update::default()
    };
    rig.update("tor", &spoiled);
    rig.announce("tor", &v6, &["fd02::/32"]);
    rig.announce("tor", &v4, &["172.17.0.0/16"]);
    assert!(rig.paths("fd01::/32").is_empty() && rig.paths("fd02::/32").is_empty());
    assert_eq!(rig.fib.len(), 2, "the other family lives on");
    let told = Output::FamilyDisabled(rig.ids["tor"], Family::Ipv6Unicast, "made up".to_owned());
    assert!(rig.events.contains(&told));
    assert_eq!(rig.speaker.peers()[0].disabled, [None, Some("made up".to_owned())]);
    rig.down("tor", None);
    rig.up("tor");
    rig.announce("tor", &v6, &["fd02::/32"]);
    assert_eq!(rig.paths("fd02::/32").len(), 1);
}

#[test]
fn too_many_prefixes_end_the_session() {
    let tor = PeerConfig { maximum_prefixes: Some(2), ..external("tor", "10.0.0.2", 65001) };
    let mut rig = Rig::with_peers(config(), vec![tor]);
    let from_tor = path(&[65001], "10.0.0.2");
    rig.announce("tor", &from_tor, &["172.16.0.0/16", "172.17.0.0/16"]);
    rig.announce("tor", &from_tor, &["172.17.0.0/16", "fd01::/32"]);
    assert!(!rig.events.iter().any(|event| matches!(event, Output::ResetPeer(..))));
    rig.announce("tor", &from_tor, &["172.18.0.0/16"]);
    let resets: Vec<_> =
        rig.events.iter().filter(|event| matches!(event, Output::ResetPeer(..))).collect();
    let [Output::ResetPeer(id, notification, words)] = resets[..] else { panic!("{resets:?}") };
    assert_eq!(*id, rig.ids["tor"]);
    assert_eq!(notification.code, ErrorCode::Cease(CeaseSubcode::MaximumPrefixes));
    assert_eq!(notification.data[..], [0, 1, 1, 0, 0, 0, 2]);
    assert!(words.contains("more than 2"));
    rig.announce("tor", &from_tor, &["172.19.0.0/16"]);
    assert!(rig.paths("172.19.0.0/16").is_empty(), "no more is taken");
    rig.down("tor", None);
    assert!(rig.fib.is_empty());
}

#[test]
fn roles_mark_and_stop_leaks() {
    let with_role =
        |name, address, asn, role| PeerConfig { role: Some(role), ..external(name, address, asn) };
    let peers = vec![
        with_role("provider", "10.0.0.2", 65001, Role::Customer),
        with_role("customer", "10.0.0.3", 65002, Role::Provider),
        with_role("lateral", "10.0.0.4", 65003, Role::Peer),
    ];
    let mut rig = Rig::with_peers(config(), peers);
    rig.announce("provider", &path(&[65001], "10.0.0.2"), &["172.16.0.0/16"]);
    let otc = |attributes: &routelet_proto::PathAttributes| {
        attributes.rare.as_ref().and_then(|rare| rare.otc).map(|asn| asn.0)
    };
    assert_eq!(otc(rig.sent_attributes("customer", "172.16.0.0/16")), Some(65001));
    assert!(rig.sent("lateral").is_empty());
    assert_eq!(rig.why_sent("lateral", "172.16.0.0/16"), "no: BGP roles forbid it");

    rig.announce("customer", &path(&[65002], "10.0.0.3"), &["172.17.0.0/16"]);
    assert_eq!(otc(rig.sent_attributes("lateral", "172.17.0.0/16")), Some(64512));
    assert_eq!(otc(rig.sent_attributes("provider", "172.17.0.0/16")), None);

    let mut leaked = path(&[65002], "10.0.0.3");
    leaked.rare_mut().otc = Some(routelet_proto::Asn(65009));
    rig.announce("customer", &leaked, &["172.18.0.0/16"]);
    assert!(rig.why("172.18.0.0/16").contains("route leak"));
    leaked.as_path = path(&[65003], "10.0.0.4").as_path;
    rig.announce("lateral", &leaked, &["172.19.0.0/16"]);
    assert!(rig.why("172.19.0.0/16").contains("route leak"));
}

#[test]
fn a_refresh_request_is_answered_once_per_flood() {
    let peers = vec![external("tor", "10.0.0.2", 65001), internal("node", "10.0.0.3")];
    let mut config = bare_config();
    config.originated = vec![own("10.244.1.0/24", OriginatedKind::PodCidr)];
    let mut rig = Rig::with_peers(config, peers);
    rig.announce("tor", &path(&[65001], "10.0.0.2"), &["172.16.0.0/16"]);
    let before = rig.heard["node"].updates.len();
    let refresh = |subtype| RouteRefresh { family: Family::Ipv4Unicast.afi_safi(), subtype };
    for _ in 0..100 {
        let id = rig.ids["node"];
        let request = refresh(RefreshSubtype::Request);
        rig.speaker.handle_route_refresh(rig.now, id, request);
    }
    rig.settle();
    let answers = rig.heard["node"].updates.len() - before;
    assert_eq!(answers, 4, "two UPDATEs, once at once and once for the requests meanwhile");
    assert!(rig.heard["node"].refreshes.is_empty());
}

#[test]
fn an_enhanced_refresh_is_bracketed_and_understood() {
    let peers = vec![external("tor", "10.0.0.2", 65001), internal("node", "10.0.0.3")];
    let mut rig = Rig::with_peers(bare_config(), peers);
    let mut up = rig.session("node");
    up.negotiated.enhanced_route_refresh = true;
    rig.down("node", None);
    rig.up_with("node", up);
    rig.pass(Duration::from_secs(10));
    rig.announce("tor", &path(&[65001], "10.0.0.2"), &["172.16.0.0/16"]);
    let refresh = |subtype| RouteRefresh { family: Family::Ipv4Unicast.afi_safi(), subtype };
    let node = rig.ids["node"];
    rig.speaker.handle_route_refresh(rig.now, node, refresh(RefreshSubtype::Request));
    rig.settle();
    let subtypes: Vec<_> =
        rig.heard["node"].refreshes.iter().map(|refresh| refresh.subtype).collect();
    assert_eq!(subtypes, [RefreshSubtype::BeginOfRefresh, RefreshSubtype::EndOfRefresh]);

    // And the other way round: what is not repeated goes.
    rig.announce("node", &path(&[], "10.0.0.3"), &["172.17.0.0/16", "172.18.0.0/16"]);
    rig.speaker.handle_route_refresh(rig.now, node, refresh(RefreshSubtype::EndOfRefresh));
    assert_eq!(rig.paths("172.18.0.0/16").len(), 1, "an end without a beginning means nothing");
    rig.speaker.handle_route_refresh(rig.now, node, refresh(RefreshSubtype::BeginOfRefresh));
    rig.announce("node", &path(&[], "10.0.0.3"), &["172.17.0.0/16"]);
    rig.speaker.handle_route_refresh(rig.now, node, refresh(RefreshSubtype::EndOfRefresh));
    assert_eq!(rig.paths("172.17.0.0/16").len(), 1);
    assert!(rig.paths("172.18.0.0/16").is_empty());
}

#[test]
fn a_family_that_is_not_negotiated_is_not_sent() {
    let mut config = config();
    config.originated = vec![
        own("10.244.1.0/24", OriginatedKind::PodCidr),
        own("fd00:244:1::/64", OriginatedKind::PodCidr),
    ];
    let v4 = FamilySet::EMPTY.with(Family::Ipv4Unicast);
    let tor = PeerConfig { families: v4, ..external("tor", "10.0.0.2", 65001) };
    let rig = Rig::with_peers(config, vec![tor, internal("node", "10.0.0.3")]);
    assert_eq!(rig.sent("tor"), ["10.244.1.0/24"]);
    assert_eq!(rig.sent("node"), ["10.244.1.0/24", "fd00:244:1::/64"]);
    assert_eq!(rig.heard["tor"].end_of_rib, []);
    assert_eq!(rig.why_sent("tor", "fd00:244:1::/64"), "no: the family is not negotiated");
}

#[test]
fn counts_follow_the_tables() {
    let peers = vec![
        peer("tor", PeerKind::External, "10.0.0.2", 65001),
        PeerConfig { route_reflector_client: true, ..internal("client", "10.0.0.3") },
        internal("node", "10.0.0.4"),
    ];
    let mut rig = Rig::with_peers(config(), peers);
    rig.announce("tor", &path(&[65001], "10.0.0.2"), &["172.16.0.0/16", "10.244.9.0/24"]);
    rig.announce("client", &path(&[], "10.0.0.3"), &["10.244.3.0/24"]);
    let counts = |rig: &Rig, name: &str| {
        let views = rig.speaker.peers();
        let view = views.into_iter().find(|view| &*view.name == name).unwrap();
        let counts = view.families[0];
        (counts.received, counts.accepted, counts.advertised)
    };
    assert_eq!(counts(&rig, "tor"), (2, 1, 0));
    assert_eq!(counts(&rig, "client"), (1, 1, 1));
    assert_eq!(counts(&rig, "node"), (0, 0, 2));
    assert_eq!(rig.sent("node").len(), 2);
    rig.down("client", None);
    assert_eq!(counts(&rig, "client"), (0, 0, 0));
    assert_eq!(counts(&rig, "node"), (0, 0, 1));
}
