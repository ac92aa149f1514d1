//! Next hops: tracking, multipath, what is sent on, IPv6.

use std::net::SocketAddr;

use routelet_proto::NextHop;

use super::rig::{Rig, accept_all, config, ip, own, path, peer};
use crate::core::config::{NextHopMode, OriginatedKind, PeerConfig, PeerKind};
use crate::core::forwarding::{ForwardingNextHop, NextHopState};
use crate::core::speaker::Output;

fn external(name: &str, address: &str, asn: u32) -> PeerConfig {
    PeerConfig { rules: accept_all(), ..peer(name, PeerKind::External, address, asn) }
}

fn internal(name: &str, address: &str) -> PeerConfig {
    PeerConfig { rules: accept_all(), ..peer(name, PeerKind::Internal, address, 64512) }
}

fn unreachable() -> NextHopState {
    NextHopState::Unreachable { reason: "no route to it".to_owned() }
}

#[test]
fn an_unresolved_path_is_ineligible_and_tells_no_peer() {
    let peers = vec![internal("a", "10.0.0.2"), external("tor", "10.0.0.3", 65001)];
    let mut rig = Rig::with_peers(config(), peers);
    rig.answer = None;
    rig.announce("a", &path(&[], "10.9.9.9"), &["172.16.0.0/16"]);
    assert_eq!(rig.why("172.16.0.0/16"), "next hop 10.9.9.9 not resolved yet");
    assert!(rig.sent("tor").is_empty() && rig.fib.is_empty());
    rig.answer("10.9.9.9", NextHopState::Reachable { metric: 7 });
    assert_eq!(rig.sent("tor"), ["172.16.0.0/16"]);
    assert_eq!(rig.forwarding("172.16.0.0/16"), ["10.9.9.9"]);
    rig.answer("10.9.9.9", unreachable());
    assert_eq!(rig.why("172.16.0.0/16"), "next hop 10.9.9.9 unreachable: no route to it");
    assert!(rig.sent("tor").is_empty() && rig.fib.is_empty());
}

#[test]
fn metrics_decide_and_only_destinations_concerned_move() {
    let peers = vec![internal("a", "10.0.0.2"), internal("b", "10.0.0.3")];
    let mut rig = Rig::with_peers(config(), peers);
    rig.announce("a", &path(&[], "10.9.0.1"), &["172.16.0.0/16", "172.17.0.0/16"]);
    rig.announce("b", &path(&[], "10.9.0.2"), &["172.16.0.0/16"]);
    assert_eq!(rig.forwarding("172.16.0.0/16"), ["10.9.0.1", "10.9.0.2"]);
    let before = rig.route_changes;
    rig.answer("10.9.0.1", NextHopState::Reachable { metric: 10 });
    assert_eq!(rig.forwarding("172.16.0.0/16"), ["10.9.0.2"]);
    assert_eq!(rig.route_changes - before, 1, "the other prefix has only that one");
    rig.answer("10.9.0.2", NextHopState::Reachable { metric: 20 });
    assert_eq!(rig.forwarding("172.16.0.0/16"), ["10.9.0.1"]);
    rig.answer("10.9.0.2", NextHopState::Reachable { metric: 10 });
    assert_eq!(rig.forwarding("172.16.0.0/16"), ["10.9.0.1", "10.9.0.2"]);
}

#[test]
fn a_next_hop_is_tracked_while_a_route_has_it() {
    let mut rig = Rig::with_peers(config(), vec![internal("a", "10.0.0.2")]);
    let next_hop = ForwardingNextHop { address: ip("10.9.9.9"), interface: 0 };
    rig.announce("a", &path(&[], "10.9.9.9"), &["172.16.0.0/16", "172.17.0.0/16"]);
    let mut other = path(&[], "10.9.9.9");
    other.med = Some(5);
    rig.announce("a", &other, &["172.17.0.0/16"]);
    assert_eq!(rig.tracked.iter().collect::<Vec<_>>(), [&next_hop]);
    assert_eq!(rig.speaker.tracked_next_hops().collect::<Vec<_>>(), [next_hop]);
    rig.withdraw("a", &["172.16.0.0/16"]);
    assert_eq!(rig.tracked.len(), 1);
    rig.withdraw("a", &["172.17.0.0/16"]);
    assert!(rig.tracked.is_empty());
}

#[test]
fn the_first_sync_waits_for_answers() {
    let mut config = config();
    config.peers = vec![internal("a", "10.0.0.2").into()];
    let mut rig = Rig::new(config);
    rig.answer = None;
    rig.up("a");
    rig.announce("a", &path(&[], "10.9.9.9"), &["172.16.0.0/16"]);
    rig.end_of_rib("a");
    assert!(!rig.events.contains(&Output::FirstSync));
    rig.answer("10.9.9.9", NextHopState::Reachable { metric: 0 });
    assert_eq!(rig.events, [Output::FirstSync]);
}

#[test]
fn without_a_kernel_every_next_hop_is_good_and_nothing_is_installed() {
    let mut config = config();
    config.track_next_hops = false;
    let peers = vec![internal("a", "10.0.0.2"), external("tor", "10.0.0.3", 65001)];
    let mut rig = Rig::with_peers(config, peers);
    rig.announce("a", &path(&[], "10.9.9.9"), &["172.16.0.0/16"]);
    assert_eq!(rig.sent("tor"), ["172.16.0.0/16"]);
    assert!(rig.tracked.is_empty() && rig.fib.is_empty());
    // Switched on it is as if it had been; and off again.
    rig.edit(|config| config.track_next_hops = true);
    assert_eq!(rig.forwarding("172.16.0.0/16"), ["10.9.9.9"]);
    assert_eq!(rig.sent("tor"), ["172.16.0.0/16"]);
    rig.edit(|config| config.track_next_hops = false);
    assert!(rig.tracked.is_empty() && rig.fib.is_empty());
    assert_eq!(rig.sent("tor"), ["172.16.0.0/16"]);
}

/// The next hop with which `to` holds a route that `from` sent with `next_hop`.
fn sent_next_hop(from: PeerConfig, next_hop: &str, to: PeerConfig) -> String {
    let external = from.kind == PeerKind::External;
    let asns: Vec<u32> = external.then_some(from.remote_as.0).into_iter().collect();
    let (from_name, to_name) = (from.name.to_string(), to.name.to_string());
    let mut rig = Rig::with_peers(config(), vec![from, to]);
    rig.announce(&from_name, &path(&asns, next_hop), &["172.16.0.0/16"]);
    rig.sent_attributes(&to_name, "172.16.0.0/16").next_hop.address().to_string()
}

#[test]
fn auto_sends_self_from_ebgp_to_ibgp() {
    let next_hop =
        sent_next_hop(external("tor", "10.0.0.2", 65001), "10.0.0.2", internal("a", "10.0.0.3"));
    assert_eq!(next_hop, "10.0.0.1");
}

#[test]
fn auto_leaves_it_when_reflecting() {
    let client = PeerConfig { route_reflector_client: true, ..internal("c", "10.0.0.2") };
    assert_eq!(sent_next_hop(client, "10.9.9.9", internal("a", "10.0.0.3")), "10.9.9.9");
}

#[test]
fn auto_names_a_third_party_on_a_shared_subnet_to_ebgp() {
    let to = || external("tor", "10.0.0.3", 65001);
    assert_eq!(sent_next_hop(internal("a", "10.0.0.2"), "10.0.0.2", to()), "10.0.0.2");
    assert_eq!(sent_next_hop(internal("a", "10.0.0.2"), "10.9.9.9", to()), "10.0.0.1");
    let elsewhere = external("tor", "10.7.0.3", 65001);
    assert_eq!(sent_next_hop(internal("a", "10.0.0.2"), "10.0.0.2", elsewhere), "10.0.0.1");
}

#[test]
fn an_ebgp_mesh_peer_is_sent_self() {
    let to = PeerConfig { kind: PeerKind::Mesh, ..external("node", "10.0.0.3", 65003) };
    assert_eq!(sent_next_hop(internal("a", "10.0.0.2"), "10.0.0.2", to), "10.0.0.1");
}

#[test]
fn self_and_keep_are_what_they_say() {
    let mode = |next_hop_mode, peer: PeerConfig| PeerConfig { next_hop_mode, ..peer };
    let client = PeerConfig { route_reflector_client: true, ..internal("c", "10.0.0.2") };
    let myself = mode(NextHopMode::Myself, internal("a", "10.0.0.3"));
    assert_eq!(sent_next_hop(client, "10.9.9.9", myself), "10.0.0.1");
    let keep = mode(NextHopMode::Keep, internal("a", "10.0.0.3"));
    let tor = external("tor", "10.0.0.2", 65001);
    assert_eq!(sent_next_hop(tor.clone(), "10.0.0.2", keep), "10.0.0.2");
    let keep = mode(NextHopMode::Keep, external("tor-2", "10.7.0.3", 65002));
    assert_eq!(sent_next_hop(tor, "10.0.0.2", keep.clone()), "10.0.0.2");
    let mut config = config();
    config.originated = vec![own("10.244.1.0/24", OriginatedKind::PodCidr)];
    let rig = Rig::with_peers(config, vec![keep]);
    let sent = rig.sent_attributes("tor-2", "10.244.1.0/24");
    assert_eq!(sent.next_hop, NextHop::from(ip("10.0.0.1")), "own routes excepted");
}

#[test]
fn ipv6_over_an_ipv4_session_needs_an_address_of_ours() {
    let mut config = config();
    config.originated = vec![own("fd00:244:1::/64", OriginatedKind::PodCidr)];
    let rig = Rig::with_peers(config.clone(), vec![internal("a", "10.0.0.2")]);
    let sent = rig.sent_attributes("a", "fd00:244:1::/64");
    assert_eq!(sent.next_hop, NextHop::from(ip("fd00::1")));
    config.address_v6 = None;
    let mut rig = Rig::with_peers(config, vec![internal("a", "10.0.0.2")]);
    assert!(rig.sent("a").is_empty());
    let why = rig.why_sent("a", "fd00:244:1::/64");
    assert_eq!(
        why,
        "no: this node has no ipv6-unicast address to be its next hop towards the peer"
    );
    rig.edit(|config| config.address_v6 = Some("fd00::8".parse().unwrap()));
    let sent = rig.sent_attributes("a", "fd00:244:1::/64");
    assert_eq!(sent.next_hop, NextHop::from(ip("fd00::8")));
}

#[test]
fn of_two_ipv6_next_hops_the_link_local_one_is_used_on_link() {
    let mut config = config();
    config.peers = vec![external("tor", "fd00::2", 65001).into(), internal("a", "10.0.0.3").into()];
    let mut rig = Rig::new(config);
    rig.up("a");
    let mut up = rig.session("tor");
    let mut both = path(&[65001], "fd00::2");
    both.next_hop =
        NextHop::V6WithLinkLocal("fd00::2".parse().unwrap(), "fe80::2".parse().unwrap());
    rig.up_with("tor", up.clone());
    rig.announce("tor", &both, &["fd01::/48"]);
    assert_eq!(rig.forwarding("fd01::/48"), ["fd00::2"], "the interface is not known");
    rig.down("tor", None);
    up.interface = 7;
    rig.up_with("tor", up);
    rig.announce("tor", &both, &["fd01::/48"]);
    let expected = ForwardingNextHop { address: ip("fe80::2"), interface: 7 };
    assert_eq!(rig.fib.values().next().unwrap()[..], [expected]);
    assert_eq!(rig.sent_attributes("a", "fd01::/48").next_hop, NextHop::from(ip("fd00::1")));
}

#[test]
fn a_lone_link_local_next_hop_needs_an_interface() {
    let mut rig = Rig::with_peers(config(), vec![external("tor", "fd00::2", 65001)]);
    rig.announce("tor", &path(&[65001], "fe80::2"), &["fd01::/48"]);
    assert!(rig.why("fd01::/48").contains("not on link"), "{}", rig.why("fd01::/48"));
    assert!(rig.tracked.is_empty() && rig.fib.is_empty());
}

#[test]
fn a_session_over_link_local_addresses_sends_both() {
    let mut config = config();
    config.originated = vec![own("fd00:244:1::/64", OriginatedKind::PodCidr)];
    config.peers = vec![external("tor", "fe80::2", 65001).into()];
    let mut rig = Rig::new(config);
    let mut up = rig.session("tor");
    up.local = SocketAddr::new(ip("fe80::1"), 179);
    up.interface = 3;
    rig.up_with("tor", up);
    assert_eq!(
        rig.sent_attributes("tor", "fd00:244:1::/64").next_hop,
        NextHop::V6WithLinkLocal("fd00::1".parse().unwrap(), "fe80::1".parse().unwrap())
    );
}

#[test]
fn dual_tors_of_different_as_make_a_multipath() {
    let peers = vec![external("tor-1", "10.0.0.2", 65001), external("tor-2", "10.0.0.3", 65002)];
    let mut config = config();
    config.maximum_paths = 2;
    let mut rig = Rig::with_peers(config, peers);
    rig.announce("tor-1", &path(&[65001, 1], "10.0.0.2"), &["0.0.0.0/0"]);
    rig.announce("tor-2", &path(&[65002, 1], "10.0.0.3"), &["0.0.0.0/0"]);
    assert_eq!(rig.forwarding("0.0.0.0/0"), ["10.0.0.2", "10.0.0.3"]);
    let paths = rig.paths("0.0.0.0/0");
    assert!(paths[0].best && !paths[0].multipath && paths[1].multipath);
    assert_eq!(paths[0].reason.to_string(), "best at step 8 (BGP Identifier)");
    rig.edit(|config| config.maximum_paths = 1);
    assert_eq!(rig.forwarding("0.0.0.0/0"), ["10.0.0.2"]);
    rig.edit(|config| config.maximum_paths = 2);
    rig.down("tor-1", None);
    assert_eq!(rig.forwarding("0.0.0.0/0"), ["10.0.0.3"]);
}
