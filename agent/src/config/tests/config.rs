use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use routelet_bgp::core::config::{GracefulRestartConfig, NextHopMode, PeerKind};
use routelet_bgp::core::policy::{Action, ClusterPrefixes, MatchOperator, PrefixMatch, Rule};
use routelet_proto::{Asn, Family, FamilySet, HoldTime, Role};

use super::*;
use crate::kernel::{NexthopObjects, TunnelConfig, TunnelNode};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn defaults() {
    let config = with("");
    assert_eq!(config.node_name, "a");
    assert_eq!(config.pod_cidrs, [net("10.244.1.0/24")]);
    assert_eq!(config.listen, ["10.0.0.1:179".parse().unwrap()]);
    assert_eq!(config.api_socket, PathBuf::from("/run/routelet/routelet.sock"));
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/routelet"));
    assert_eq!(
        config.kernel,
        KernelConfig {
            enabled: true,
            table: 254,
            protocol: 179,
            metric: 1179,
            blackhole_metric: 65_000,
            blackholes: vec![net("10.244.1.0/24")],
            repair: true,
            nexthop_objects: NexthopObjects::Auto,
            memory: Some(PathBuf::from("/var/lib/routelet/kernel-routes")),
            tunnels: TunnelConfig {
                node: TunnelNode {
                    name: "a".to_owned(),
                    addresses: vec!["10.0.0.1".parse().unwrap()],
                    pod_cidrs: vec![net("10.244.1.0/24")],
                },
                ..TunnelConfig::default()
            },
        }
    );
    let speaker = &config.speaker;
    assert_eq!(speaker.asn, Asn(64512));
    assert_eq!(speaker.router_id.0, Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(speaker.cluster_id, Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(speaker.maximum_paths, 16);
    assert!(speaker.track_next_hops);
    assert_eq!(speaker.initial_deferral, Duration::from_secs(5));
    assert_eq!(
        *speaker.cluster,
        ClusterPrefixes {
            own_pod_cidrs: vec![net("10.244.1.0/24")],
            own_addresses: vec![ip("10.0.0.1")],
            connected: vec![net("10.0.0.0/24")],
            ..ClusterPrefixes::default()
        }
    );
    assert!(speaker.peers.is_empty());
}

#[test]
fn a_mesh_peer_is_internal_with_long_graceful_restart() {
    let config = with("nodes: [{name: b, addresses: [10.0.0.2/24], podCIDRs: [10.244.2.0/24]}]");
    let peer = peer(&config, "b");
    assert_eq!(peer.kind, PeerKind::Mesh);
    assert_eq!(peer.address, ip("10.0.0.2"));
    assert_eq!(peer.source_address, Some(ip("10.0.0.1")));
    assert_eq!((peer.port, peer.ttl, peer.minimum_received_ttl), (179, 255, None));
    assert_eq!((peer.remote_as, peer.local_as), (Asn(64512), Asn(64512)));
    assert_eq!(peer.families, FamilySet::EMPTY.with(Family::Ipv4Unicast));
    assert_eq!(peer.next_hop_mode, NextHopMode::Auto);
    assert_eq!(
        peer.graceful_restart,
        Some(GracefulRestartConfig { restart_time: 300, notification: true })
    );
    assert_eq!((Some(peer.hold_time), peer.keepalive_time), (HoldTime::new(90), None));
    assert_eq!(config.speaker.cluster.pod_cidrs, [net("10.244.2.0/24")]);
}

#[test]
fn a_mesh_of_two_as_is_external_and_sends_self() {
    let config = read(
        "node: {name: a, addresses: [10.0.0.1/24], asNumber: 65101}
nodes:
  - {name: b, addresses: [10.0.0.2/24], asNumber: 65102}
  - {name: c, addresses: [10.0.0.3/24], asNumber: 65101}",
    )
    .unwrap();
    let (b, c) = (peer(&config, "b"), peer(&config, "c"));
    assert_eq!((b.kind, b.remote_as, b.local_as), (PeerKind::Mesh, Asn(65102), Asn(65101)));
    assert_eq!((b.next_hop_mode, b.ttl), (NextHopMode::Myself, 255));
    assert_eq!((c.kind, c.remote_as), (PeerKind::Mesh, Asn(65101)));
    assert_eq!(c.next_hop_mode, NextHopMode::Auto);
}

#[test]
fn one_session_carries_both_families_over_ipv4_where_both_have_it() {
    let config = read(
        "node: {name: a, addresses: [10.0.0.1/24, 'fd00::1/64']}
nodes:
  - {name: b, addresses: ['fd00::2/64', 10.0.0.2/24]}
  - {name: c, addresses: ['fd00::3/64']}",
    )
    .unwrap();
    assert_eq!(peer(&config, "b").address, ip("10.0.0.2"));
    assert_eq!(peer(&config, "b").families, FamilySet::ALL);
    assert_eq!(peer(&config, "c").address, ip("fd00::3"));
    assert_eq!(peer(&config, "c").source_address, Some(ip("fd00::1")));
    assert_eq!(config.listen.len(), 2);
}

#[test]
fn the_list_of_nodes_may_be_shared_and_tells_a_node_who_it_is() {
    let config = read(
        "nodes:
  - {name: host, addresses: [10.0.0.1/24], podCIDRs: [10.244.1.0/24], asNumber: 65101}
  - {name: b, addresses: [10.0.0.2/24], podCIDRs: [10.244.2.0/24]}",
    )
    .unwrap();
    assert_eq!(config.node_name, "host");
    assert_eq!(config.speaker.asn, Asn(65101));
    assert_eq!(config.pod_cidrs, [net("10.244.1.0/24")]);
    assert_eq!(config.speaker.peers.len(), 1);
    assert_eq!(config.speaker.cluster.pod_cidrs, [net("10.244.2.0/24")]);
}

#[test]
fn a_node_without_ipv4_has_a_router_id_of_its_name() {
    let router_id = |name: &str| {
        let text = format!("node: {{name: {name}, addresses: ['fd00::1/64']}}");
        read(&text).unwrap().speaker.router_id.0
    };
    // FNV-1a of "node-a", computed by hand from its definition: must never change.
    assert_eq!(u32::from(router_id("node-a")), fnv1a("node-a"));
    assert_eq!(u32::from(router_id("a")), 0xe40c_292c);
    assert_ne!(router_id("node-a"), router_id("node-b"));
}

/// FNV-1a once more, in 64 bits with a remainder, as the other half of a comparison.
fn fnv1a(text: &str) -> u32 {
    let mut hash = 2_166_136_261_u64;
    for octet in text.bytes() {
        hash = (hash ^ u64::from(octet)) * 16_777_619 % (1 << 32);
    }
    u32::try_from(hash).unwrap()
}

#[test]
fn every_key_of_a_peer_arrives() {
    let config = with(
        "bgp: {asNumber: 1.10, keepaliveTime: 25s, connectRetryTime: 3s, listenPort: 1179}
peers:
  - name: tor
    peerIP: 192.0.2.1:1790
    asNumber: 4200000001
    localASNumber: 65010
    numAllowedLocalASNumbers: 2
    families: [ipv4-unicast]
    filters: [one, two]
    nextHopMode: Self
    maximumPrefixes: 1000
    role: Customer
    sourceAddress: 10.0.0.9
    passive: true
    holdTime: 1m30s
    keepaliveTime: 10s
    maxRestartTime: 2m
    ttlSecurity: 1
    password: {file: /etc/key}
  - name: other
    peerIP: 192.0.2.2
    asNumber: 65536
    holdTime: 9s
    nextHopMode: Keep
    routeReflectorClient: false
    sourceAddress: None
    maxRestartTime: 0s
    ttl: 3
  - {name: client, peerIP: 192.0.2.3, asNumber: 65546, routeReflectorClient: true}
  - {name: ll, peerIP: 'fe80::1%eth0', asNumber: 65001}
filters:
  - name: one
    importV4:
      - {action: Reject, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {max: 24}}
      - {action: Accept, cidr: 0.0.0.0/0, matchOperator: Equal}
    exportV6: [{action: Accept}]
  - name: two
    importV4: [{action: Accept, cidr: 11.0.0.0/8, matchOperator: NotIn}]
",
    );
    assert_eq!(config.speaker.asn, Asn(65546));
    assert_eq!(config.listen, ["10.0.0.1:1179".parse().unwrap()]);
    let tor = peer(&config, "tor");
    assert_eq!((tor.kind, tor.enabled, tor.port), (PeerKind::External, true, 1790));
    assert_eq!((tor.remote_as, tor.local_as), (Asn(4_200_000_001), Asn(65010)));
    assert_eq!(tor.num_allowed_local_as, 2);
    assert_eq!(tor.families, FamilySet::EMPTY.with(Family::Ipv4Unicast));
    assert_eq!(tor.next_hop_mode, NextHopMode::Myself);
    assert_eq!(tor.maximum_prefixes, Some(1000));
    assert_eq!(tor.role, Some(Role::Customer));
    assert_eq!(tor.source_address, Some(ip("10.0.0.9")));
    assert!(tor.passive);
    assert_eq!(tor.hold_time.seconds(), 90);
    assert_eq!(tor.keepalive_time, Some(Duration::from_secs(10)));
    assert_eq!(tor.connect_retry_time, Duration::from_secs(3));
    assert_eq!(
        tor.graceful_restart,
        Some(GracefulRestartConfig { restart_time: 120, notification: false })
    );
    assert_eq!((tor.ttl, tor.minimum_received_ttl), (255, Some(255)));
    assert_eq!(tor.password, Some(Password(Arc::from(&b"secret"[..]))));
    let rule = |filter: &str, index, action, prefix| Rule {
        filter: filter.into(),
        index,
        action,
        prefix: Some(prefix),
    };
    assert_eq!(
        tor.rules.import[Family::Ipv4Unicast.index()],
        [
            rule(
                "one",
                0,
                Action::Reject,
                PrefixMatch {
                    net: net("10.0.0.0/8"),
                    operator: MatchOperator::In,
                    length: Some((8, 24)),
                }
            ),
            rule(
                "one",
                1,
                Action::Accept,
                PrefixMatch { net: net("0.0.0.0/0"), operator: MatchOperator::Equal, length: None }
            ),
            rule(
                "two",
                0,
                Action::Accept,
                PrefixMatch {
                    net: net("11.0.0.0/8"),
                    operator: MatchOperator::NotIn,
                    length: None,
                }
            ),
        ]
    );
    assert_eq!(tor.rules.export[Family::Ipv6Unicast.index()].len(), 1);
    assert!(tor.rules.import[Family::Ipv6Unicast.index()].is_empty());
    assert!(tor.rules.export[Family::Ipv4Unicast.index()].is_empty());

    let other = peer(&config, "other");
    assert_eq!((other.source_address, other.graceful_restart), (None, None));
    assert_eq!((other.ttl, other.minimum_received_ttl), (3, None));
    assert_eq!(other.next_hop_mode, NextHopMode::Keep);
    // 25 s of `bgp` would be longer than its hold time: a third of that again.
    assert_eq!(other.keepalive_time, None);
    let client = peer(&config, "client");
    assert_eq!((client.kind, client.route_reflector_client), (PeerKind::Internal, true));
    assert_eq!(client.keepalive_time, Some(Duration::from_secs(25)));
    let link_local = peer(&config, "ll");
    assert_eq!(link_local.interface.as_deref(), Some("eth0"));
    assert_eq!((link_local.address, link_local.source_address), (ip("fe80::1"), None));
    assert_eq!(link_local.families, FamilySet::ALL);
}

#[test]
fn a_router_in_our_second_subnet_sees_our_address_there() {
    let config = read(
        "node: {name: a, addresses: [10.0.0.1/24, 10.0.1.1/24]}
peers:
  - {name: first, peerIP: 10.0.0.2, asNumber: 7}
  - {name: second, peerIP: 10.0.1.2, asNumber: 7}
  - {name: node, peerIP: 10.0.1.3, asNumber: 7, sourceAddress: UseNodeIP}
  - {name: far, peerIP: 192.0.2.1, asNumber: 7}",
    )
    .unwrap();
    for (name, source) in
        [("first", "10.0.0.1"), ("second", "10.0.1.1"), ("node", "10.0.0.1"), ("far", "10.0.0.1")]
    {
        assert_eq!(peer(&config, name).source_address, Some(ip(source)), "{name}");
    }
}

#[test]
fn ttl_security_counts_links() {
    for (hops, least) in [(1, 255), (2, 254), (254, 2)] {
        let config = with(&format!(
            "peers: [{{name: p, peerIP: 10.0.0.2, asNumber: 7, ttlSecurity: {hops}}}]"
        ));
        assert_eq!(peer(&config, "p").minimum_received_ttl, Some(least));
    }
}

#[test]
fn a_reflector_offers_both_families_and_needs_no_kernel() {
    let config = read(include_str!("../../../../docs/examples/reflector.yaml")).unwrap();
    assert!(!config.kernel.enabled && !config.speaker.track_next_hops);
    let client = peer(&config, "client-1");
    assert_eq!((client.kind, client.families), (PeerKind::Internal, FamilySet::ALL));
    assert!(client.passive && client.route_reflector_client);
    assert_eq!(peer(&config, "edge-1").kind, PeerKind::External);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn five_thousand_nodes_are_compared_in_one_sweep() {
    use std::fmt::Write;
    let mut text = String::from(NODE);
    text.push_str("nodes:\n");
    for index in 0..5000_u32 {
        let (high, low) = (index / 250 + 1, index % 250 + 1);
        writeln!(
            text,
            "  - {{name: n{index}, addresses: [10.{high}.0.{low}/16], podCIDRs: [172.{high}.{low}.0/24]}}"
        )
        .unwrap();
    }
    assert_eq!(read(&text).unwrap().speaker.peers.len(), 5000);
}
