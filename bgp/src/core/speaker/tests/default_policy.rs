//! The table of the design's section 5, a test per cell, and the rules that stand above it.

use super::rig::{Rig, accept_all, config, ip, net, own, path, peer, rule};
use crate::core::config::{OriginatedKind, PeerConfig, PeerKind, SpeakerConfig};
use crate::core::policy::{Action, ClusterPrefixes, MatchOperator, NodeOrigin, PolicyRules};
use crate::core::view::NotInstalled;

const REJECTED: &str = "rejected by the default policy";

fn cluster(change: impl FnOnce(&mut ClusterPrefixes)) -> SpeakerConfig {
    let mut config = config();
    let cluster = std::sync::Arc::make_mut(&mut config.cluster);
    cluster.services = vec![net("10.96.0.0/12")];
    cluster.pod_cidrs = vec![net("10.250.2.0/24")];
    change(cluster);
    config.originated = vec![
        own("10.244.1.0/24", OriginatedKind::PodCidr),
        own("10.96.0.1/32", OriginatedKind::Service),
    ];
    config
}

fn mesh(name: &str, address: &str) -> PeerConfig {
    peer(name, PeerKind::Mesh, address, 64512)
}

fn reflector(name: &str, address: &str) -> PeerConfig {
    peer(name, PeerKind::Internal, address, 64512)
}

fn tor(name: &str, address: &str) -> PeerConfig {
    peer(name, PeerKind::External, address, 65001)
}

/// Prefixes in a pool, in another node's pod CIDR, a service address, a default route, another.
const PREFIXES: [&str; 5] =
    ["10.244.2.0/24", "10.250.2.0/26", "10.96.0.10/32", "0.0.0.0/0", "172.16.0.0/16"];

/// Which of [`PREFIXES`] are accepted from a peer.
fn accepted(config: SpeakerConfig, from: PeerConfig) -> [bool; 5] {
    let asns: &[u32] = if from.kind == PeerKind::External { &[65001] } else { &[] };
    let name = from.name.to_string();
    let mut rig = Rig::with_peers(config, vec![from]);
    rig.announce(&name, &path(asns, "10.0.0.2"), &PREFIXES);
    PREFIXES.map(|prefix| {
        let why = rig.why(prefix);
        assert!(why.starts_with("best") || why.starts_with(REJECTED), "{why}");
        why.starts_with("best")
    })
}

#[test]
fn mesh_accepts_pools_pod_cidrs_and_services() {
    let expected = [true, true, true, false, false];
    assert_eq!(accepted(cluster(|_| ()), mesh("node", "10.0.0.2")), expected);
}

#[test]
fn reflector_accepts_pools_pod_cidrs_and_services() {
    let expected = [true, true, true, false, false];
    assert_eq!(accepted(cluster(|_| ()), reflector("rr", "10.0.0.2")), expected);
}

#[test]
fn external_accepts_pools_and_pod_cidrs_only() {
    let expected = [true, true, false, false, false];
    assert_eq!(accepted(cluster(|_| ()), tor("tor", "10.0.0.2")), expected);
}

#[test]
fn without_pools_and_pod_cidrs_a_mesh_peer_may_send_all_but_the_default_route() {
    let empty = || {
        cluster(|cluster| {
            cluster.pools.clear();
            cluster.pod_cidrs.clear();
        })
    };
    let expected = [true, true, true, false, true];
    assert_eq!(accepted(empty(), mesh("node", "10.0.0.2")), expected);
    assert_eq!(accepted(empty(), tor("tor", "10.0.0.2")), [false; 5]);
}

#[test]
fn service_addresses_are_reflected_but_never_installed() {
    let client =
        |name, address| PeerConfig { route_reflector_client: true, ..reflector(name, address) };
    let peers = vec![client("a", "10.0.0.2"), client("b", "10.0.0.3")];
    let mut rig = Rig::with_peers(cluster(|_| ()), peers);
    rig.announce("a", &path(&[], "10.0.0.2"), &["10.96.0.10/32"]);
    assert!(rig.sent("b").contains(&"10.96.0.10/32".to_owned()));
    assert!(rig.fib.is_empty());
    assert_eq!(rig.paths("10.96.0.10/32")[0].not_installed, Some(NotInstalled::Service));
    assert_eq!(rig.paths("10.96.0.1/32")[0].not_installed, Some(NotInstalled::Local));
}

/// What each of a mesh peer, a reflector and a ToR is sent, besides what a client sent.
fn advertised(config: SpeakerConfig, source: PeerConfig, asns: &[u32]) -> [Vec<String>; 3] {
    let name = source.name.to_string();
    let peers =
        vec![source, mesh("node", "10.0.0.4"), reflector("rr", "10.0.0.5"), tor("tor", "10.0.0.6")];
    let mut rig = Rig::with_peers(config, peers);
    rig.announce(&name, &path(asns, "10.0.0.2"), &["10.244.2.0/24"]);
    assert_eq!(rig.forwarding("10.244.2.0/24"), ["10.0.0.2"]);
    ["node", "rr", "tor"].map(|name| rig.sent(name))
}

const OWN: [&str; 2] = ["10.96.0.1/32", "10.244.1.0/24"];
const ALL: [&str; 3] = ["10.96.0.1/32", "10.244.1.0/24", "10.244.2.0/24"];

#[test]
fn mesh_reflector_and_external_are_sent_own_pod_cidrs_and_services() {
    let sent = advertised(cluster(|_| ()), mesh("other", "10.0.0.2"), &[]);
    assert_eq!(sent, [OWN; 3]);
    let sent = advertised(cluster(|_| ()), tor("other", "10.0.0.2"), &[65001]);
    assert_eq!(sent, [OWN; 3]);
}

#[test]
fn a_reflector_also_reflects_to_mesh_and_internal_but_not_outside() {
    let client = PeerConfig { route_reflector_client: true, ..reflector("other", "10.0.0.2") };
    let sent = advertised(cluster(|_| ()), client, &[]);
    assert_eq!(sent, [&ALL[..], &ALL[..], &OWN[..]]);
}

#[test]
fn an_explicit_accept_imports_and_exports_what_it_matches() {
    let rules = PolicyRules {
        import: [vec![rule(Action::Accept, Some(("0.0.0.0/0", MatchOperator::Equal)))], vec![]],
        export: [vec![rule(Action::Accept, Some(("0.0.0.0/0", MatchOperator::Equal)))], vec![]],
    };
    let rules = std::sync::Arc::new(rules);
    let from = PeerConfig { rules: rules.clone(), ..tor("tor", "10.0.0.2") };
    let to = PeerConfig { rules: rules.clone(), ..mesh("node", "10.0.0.3") };
    let outside = PeerConfig { rules, ..peer("tor-2", PeerKind::External, "10.0.0.4", 65002) };
    let mut rig = Rig::with_peers(cluster(|_| ()), vec![from, to, outside]);
    rig.announce("tor", &path(&[65001], "10.0.0.2"), &["0.0.0.0/0", "172.16.0.0/16"]);
    assert_eq!(rig.forwarding("0.0.0.0/0"), ["10.0.0.2"]);
    assert!(rig.why("172.16.0.0/16").starts_with(REJECTED));
    for name in ["node", "tor-2"] {
        assert!(rig.sent(name).contains(&"0.0.0.0/0".to_owned()), "{name}");
        assert_eq!(rig.why_sent(name, "0.0.0.0/0"), "yes: filter test, rule 0");
        assert_eq!(rig.why_sent(name, "10.244.1.0/24"), "yes: the default policy");
        assert_eq!(rig.why_sent(name, "172.16.0.0/16"), "no: it has no best path");
    }
}

#[test]
fn a_reject_holds_back_even_our_own() {
    let reject = || vec![rule(Action::Reject, Some(("10.96.0.0/12", MatchOperator::In)))];
    let rules = PolicyRules { import: [reject(), vec![]], export: [reject(), vec![]] };
    let node = PeerConfig { rules: rules.into(), ..mesh("node", "10.0.0.2") };
    let mut rig = Rig::with_peers(cluster(|_| ()), vec![node]);
    assert_eq!(rig.sent("node"), ["10.244.1.0/24"]);
    rig.announce("node", &path(&[], "10.0.0.2"), &["10.96.0.10/32", "10.244.2.0/24"]);
    assert_eq!(rig.why("10.96.0.10/32"), "rejected by filter test, rule 0");
    assert_eq!(rig.why("10.244.2.0/24"), "best: the only path");
}

#[test]
fn the_first_matching_rule_decides() {
    let rules = PolicyRules {
        import: [
            vec![
                rule(Action::Reject, Some(("10.244.3.0/24", MatchOperator::Equal))),
                rule(Action::Accept, Some(("10.0.0.0/8", MatchOperator::In))),
                rule(Action::Reject, None),
            ],
            vec![],
        ],
        export: Default::default(),
    };
    let tor = PeerConfig { rules: rules.into(), ..tor("tor", "10.0.0.2") };
    let mut rig = Rig::with_peers(cluster(|_| ()), vec![tor]);
    let prefixes = ["10.244.3.0/24", "10.9.0.0/16", "172.16.0.0/16", "10.244.1.0/25"];
    rig.announce("tor", &path(&[65001], "10.0.0.2"), &prefixes);
    let best: Vec<_> =
        prefixes.into_iter().filter(|net| rig.why(net).starts_with("best")).collect();
    assert_eq!(best, ["10.9.0.0/16"]);
    assert!(rig.why("10.244.1.0/25").contains("our own pod CIDR"), "above every rule");
}

#[test]
fn no_filter_overrides_the_ibgp_rule_and_communities() {
    use routelet_proto::Community;
    let open = |peer: PeerConfig| PeerConfig { rules: accept_all(), ..peer };
    let peers = vec![
        open(mesh("a", "10.0.0.2")),
        open(mesh("b", "10.0.0.3")),
        open(tor("tor", "10.0.0.4")),
    ];
    let mut rig = Rig::with_peers(cluster(|_| ()), peers);
    let mut attributes = path(&[], "10.0.0.2");
    rig.announce("a", &attributes, &["10.244.2.0/24"]);
    assert_eq!(rig.why_sent("b", "10.244.2.0/24"), "no: learned by iBGP, and not reflected");
    assert_eq!(rig.why_sent("a", "10.244.2.0/24"), "no: the peer itself sent it");
    assert!(rig.sent("tor").contains(&"10.244.2.0/24".to_owned()));
    for (community, to_tor) in [
        (Community::NO_EXPORT, "no: it carries NO_EXPORT"),
        (Community::NO_EXPORT_SUBCONFED, "no: it carries NO_EXPORT_SUBCONFED"),
        (Community::NO_ADVERTISE, "no: it carries NO_ADVERTISE"),
        (Community(64512 << 16 | 1), "yes: filter test, rule 0"),
    ] {
        attributes.communities = [community].into_iter().collect();
        rig.announce("a", &attributes, &["10.244.2.0/24"]);
        assert_eq!(rig.why_sent("tor", "10.244.2.0/24"), to_tor);
        assert_eq!(
            rig.sent("tor").contains(&"10.244.2.0/24".to_owned()),
            to_tor.starts_with("yes")
        );
    }
    attributes = path(&[65001], "10.0.0.4");
    attributes.communities = [Community::NO_EXPORT].into_iter().collect();
    rig.announce("tor", &attributes, &["172.16.0.0/16"]);
    assert!(rig.why_sent("b", "172.16.0.0/16").starts_with("yes"), "inside the AS it goes on");
    attributes.communities = [Community::NO_ADVERTISE].into_iter().collect();
    rig.announce("tor", &attributes, &["172.16.0.0/16"]);
    assert_eq!(rig.why_sent("b", "172.16.0.0/16"), "no: it carries NO_ADVERTISE");
}

/// Two other nodes, one of them without known pod CIDRs, and one more.
fn checked(enabled: bool) -> SpeakerConfig {
    cluster(|cluster| {
        let node = |name: &str, address: &str, pod_cidrs: &[&str]| NodeOrigin {
            name: name.into(),
            addresses: vec![ip(address)],
            pod_cidrs: pod_cidrs.iter().map(|cidr| net(cidr)).collect(),
        };
        cluster.origin_check = enabled;
        cluster.origins = vec![
            node("node-b", "10.0.0.2", &["10.244.2.0/24"]),
            node("node-c", "10.0.0.3", &["10.244.3.0/24"]),
            node("node-d", "10.0.0.4", &[]),
        ];
    })
}

#[test]
fn a_mesh_node_may_send_its_own_pod_cidrs_and_services_only() {
    let peers = || vec![mesh("b", "10.0.0.2"), mesh("d", "10.0.0.4")];
    let mut rig = Rig::with_peers(checked(true), peers());
    let own = ["10.244.2.0/24", "10.244.2.128/25", "10.96.0.10/32"];
    rig.announce("b", &path(&[], "10.0.0.2"), &own);
    for prefix in own {
        assert!(rig.why(prefix).starts_with("best"), "{}", rig.why(prefix));
    }
    let other = ["10.244.3.0/24", "10.244.3.7/32", "10.244.9.0/24", "172.16.0.0/16"];
    rig.announce("b", &path(&[], "10.0.0.2"), &other);
    let check = "rejected by the mesh origin check: node-b sent it, and it ";
    assert_eq!(rig.why(other[0]), format!("{check}belongs to node-c"));
    assert_eq!(rig.why(other[1]), format!("{check}belongs to node-c"));
    assert_eq!(rig.why(other[2]), format!("{check}is none of its pod CIDRs"));
    assert!(rig.why(other[3]).starts_with(REJECTED), "the default policy has the first word");
    // What is nobody's may come from a node whose pod CIDRs are not known; what is another's may not.
    rig.announce("d", &path(&[], "10.0.0.4"), &["10.244.8.0/24", "10.244.2.0/26"]);
    assert!(rig.why("10.244.8.0/24").starts_with("best"));
    assert!(rig.why("10.244.2.0/26").contains("node-d sent it, and it belongs to node-b"));
}

#[test]
fn a_reflector_sends_pod_cidrs_with_the_next_hop_of_their_node() {
    let mut rig = Rig::with_peers(checked(true), vec![reflector("rr", "10.0.0.9")]);
    rig.announce("rr", &path(&[], "10.0.0.2"), &["10.244.2.0/24", "10.244.3.0/24"]);
    assert!(rig.why("10.244.2.0/24").starts_with("best"));
    let clash = "rejected by the mesh origin check: it belongs to node-c, and its next hop";
    assert_eq!(rig.why("10.244.3.0/24"), format!("{clash} 10.0.0.2 is an address of node-b"));
    rig.announce("rr", &path(&[], "10.0.0.77"), &["10.244.3.0/24"]);
    assert_eq!(
        rig.why("10.244.3.0/24"),
        format!("{clash} 10.0.0.77 is an address of no known node")
    );
    rig.announce("rr", &path(&[], "10.0.0.3"), &["10.244.3.0/24"]);
    assert_eq!(rig.forwarding("10.244.3.0/24"), ["10.0.0.3"]);
}

#[test]
fn a_filter_does_not_override_the_origin_check_and_a_router_outside_is_not_checked() {
    let open = PeerConfig { rules: accept_all(), ..reflector("rr", "10.0.0.9") };
    let mut rig = Rig::with_peers(checked(true), vec![open, tor("tor", "10.0.0.8")]);
    rig.announce("rr", &path(&[], "10.0.0.2"), &["10.244.3.0/24", "172.16.0.0/16"]);
    assert!(rig.why("10.244.3.0/24").contains("mesh origin check"));
    assert!(rig.why("172.16.0.0/16").starts_with("best"));
    rig.announce("tor", &path(&[65001], "10.0.0.8"), &["10.244.2.0/24"]);
    assert!(rig.why("10.244.2.0/24").starts_with("best"));
}

#[test]
fn the_origin_check_and_what_it_knows_change_live() {
    let mut rig = Rig::with_peers(checked(false), vec![mesh("b", "10.0.0.2")]);
    rig.announce("b", &path(&[], "10.0.0.2"), &["10.244.3.0/24"]);
    assert_eq!(rig.forwarding("10.244.3.0/24"), ["10.0.0.2"]);
    let with = |rig: &mut Rig, change: &dyn Fn(&mut ClusterPrefixes)| {
        let actions = rig.edit(|config| change(std::sync::Arc::make_mut(&mut config.cluster)));
        assert!(actions.is_empty(), "no session is touched");
    };
    with(&mut rig, &|cluster| cluster.origin_check = true);
    assert!(rig.fib.is_empty());
    assert!(rig.why("10.244.3.0/24").contains("belongs to node-c"));
    // The pod CIDR moves to the node that sends it.
    with(&mut rig, &|cluster| {
        cluster.origins[0].pod_cidrs = vec![net("10.244.3.0/24")];
        cluster.origins[1].pod_cidrs.clear();
    });
    assert_eq!(rig.forwarding("10.244.3.0/24"), ["10.0.0.2"]);
    with(&mut rig, &|cluster| cluster.origins[0].pod_cidrs.clear());
    with(&mut rig, &|cluster| cluster.origin_check = false);
    assert_eq!(rig.forwarding("10.244.3.0/24"), ["10.0.0.2"]);
}
