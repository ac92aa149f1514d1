//! Several speakers back to back: what one transmits is decoded and given to the other.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use routelet_proto::Asn;

use super::rig::{Rig, accept_all, config, net, own, path, peer};
use crate::core::config::{OriginatedKind, PeerConfig, PeerKind, SpeakerConfig};
use crate::core::speaker::Output;

struct Net {
    nodes: Vec<(&'static str, Rig)>,
}

/// Node `number` of an AS: 10.0.0.number, pods 10.244.number.0/24.
fn node(number: u8, asn: u32) -> SpeakerConfig {
    let mut config = config();
    let address = std::net::Ipv4Addr::new(10, 0, 0, number);
    config.asn = Asn(asn);
    config.router_id = routelet_proto::BgpIdentifier(address);
    config.cluster_id = address;
    config.address_v4 = Some(address);
    config.address_v6 = None;
    let pods = net(&format!("10.244.{number}.0/24"));
    let cluster = Arc::make_mut(&mut config.cluster);
    cluster.own_pod_cidrs = vec![pods];
    cluster.own_addresses = vec![address.into()];
    config.originated = vec![own(&pods.to_string(), OriginatedKind::PodCidr)];
    config
}

impl Net {
    fn new(nodes: Vec<(&'static str, SpeakerConfig)>) -> Self {
        let nodes = nodes.into_iter().map(|(name, config)| (name, Rig::new(config))).collect();
        let mut net = Self { nodes };
        let links: Vec<(usize, String)> = net
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(place, (_, rig))| rig.ids.keys().map(move |peer| (place, peer.clone())))
            .collect();
        for (place, peer) in links {
            net.nodes[place].1.up(&peer);
        }
        net.run();
        net
    }

    /// Passes messages on until there are none.
    fn run(&mut self) {
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < 100, "the network comes to rest");
            let mut letters = Vec::new();
            for (from, rig) in &mut self.nodes {
                for (to, heard) in &mut rig.heard {
                    letters.extend(heard.inbox.drain(..).map(|update| (*from, to.clone(), update)));
                }
            }
            if letters.is_empty() {
                return;
            }
            for (from, to, update) in letters {
                let rig = &mut self.nodes.iter_mut().find(|(name, _)| *name == to).unwrap().1;
                rig.speaker.handle_update(rig.now, rig.ids[from], &update);
                rig.settle();
            }
        }
    }

    fn get(&mut self, name: &str) -> &mut Rig {
        &mut self.nodes.iter_mut().find(|(other, _)| *other == name).unwrap().1
    }

    /// Prefix via next hop, of a node's kernel.
    fn fib(&mut self, name: &str) -> Vec<String> {
        let fib = &self.get(name).fib;
        fib.iter()
            .map(|(prefix, set)| {
                let via: Vec<_> = set.iter().map(|hop| hop.address.to_string()).collect();
                format!("{prefix} via {}", via.join(" "))
            })
            .collect()
    }
}

/// Configurations with a session between each two of them.
fn full_mesh(
    nodes: Vec<(&'static str, SpeakerConfig)>,
    change: impl Fn(PeerConfig) -> PeerConfig,
) -> Vec<(&'static str, SpeakerConfig)> {
    let all = nodes.clone();
    nodes
        .into_iter()
        .map(|(name, mut config)| {
            for (other, remote) in all.iter().filter(|(other, _)| *other != name) {
                config.peers.push(link(other, PeerKind::Mesh, &config, remote, &change));
            }
            (name, config)
        })
        .collect()
}

fn link(
    name: &str,
    kind: PeerKind,
    local: &SpeakerConfig,
    remote: &SpeakerConfig,
    change: impl Fn(PeerConfig) -> PeerConfig,
) -> Arc<PeerConfig> {
    let address = remote.address_v4.unwrap().to_string();
    let peer = PeerConfig { local_as: local.asn, ..peer(name, kind, &address, remote.asn.0) };
    Arc::new(change(peer))
}

#[test]
fn an_ibgp_mesh_knows_all_pods() {
    let nodes = vec![("a", node(1, 64512)), ("b", node(2, 64512)), ("c", node(3, 64512))];
    let mut net = Net::new(full_mesh(nodes, |peer| peer));
    assert_eq!(net.fib("a"), ["10.244.2.0/24 via 10.0.0.2", "10.244.3.0/24 via 10.0.0.3"]);
    assert_eq!(net.fib("c"), ["10.244.1.0/24 via 10.0.0.1", "10.244.2.0/24 via 10.0.0.2"]);
    for (name, rig) in &net.nodes {
        assert_eq!(rig.events, [Output::FirstSync], "{name} waits for nobody's deferral");
    }
    net.get("b").edit(|config| config.originated.clear());
    net.run();
    assert_eq!(net.fib("a"), ["10.244.3.0/24 via 10.0.0.3"]);
}

#[test]
fn an_ebgp_mesh_with_an_as_per_node_knows_all_pods_and_gives_no_transit() {
    let nodes = vec![("a", node(1, 65101)), ("b", node(2, 65102)), ("c", node(3, 65103))];
    let mut net = Net::new(full_mesh(nodes, |peer| peer));
    assert_eq!(net.fib("a"), ["10.244.2.0/24 via 10.0.0.2", "10.244.3.0/24 via 10.0.0.3"]);
    assert_eq!(net.get("a").paths("10.244.2.0/24").len(), 1);
}

/// A ToR that passes everything on, and two nodes that have no session but with it.
fn tor(asns: [u32; 2], change: impl Fn(PeerConfig) -> PeerConfig) -> Net {
    let mut router = node(254, 65001);
    router.originated = vec![own("0.0.0.0/0", OriginatedKind::PodCidr)];
    let mut nodes = vec![("a", node(1, asns[0])), ("b", node(2, asns[1]))];
    for (name, config) in &mut nodes {
        let open = |peer| PeerConfig { rules: accept_all(), ..peer };
        let towards = link(name, PeerKind::External, &router, config, open);
        config.peers.push(link("tor", PeerKind::External, config, &router, &change));
        router.peers.push(towards);
    }
    nodes.push(("tor", router));
    Net::new(nodes)
}

#[test]
fn nodes_behind_a_tor_with_an_as_each_reach_each_other_directly() {
    let mut net = tor([65101, 65102], |peer| peer);
    assert_eq!(net.fib("a"), ["10.244.2.0/24 via 10.0.0.2"], "third-party next hop");
    assert_eq!(net.fib("b"), ["10.244.1.0/24 via 10.0.0.1"]);
    assert_eq!(net.fib("tor"), ["10.244.1.0/24 via 10.0.0.1", "10.244.2.0/24 via 10.0.0.2"]);
    let why = net.get("a").why("0.0.0.0/0");
    assert!(why.starts_with("rejected by the default policy"), "{why}");
}

#[test]
fn nodes_of_one_as_behind_a_tor_need_num_allowed_local_as() {
    let mut net = tor([64512, 64512], |peer| peer);
    assert!(net.fib("a").is_empty());
    assert!(net.get("a").why("10.244.2.0/24").contains("numAllowedLocalASNumbers"));
    let mut net = tor([64512, 64512], |peer| PeerConfig { num_allowed_local_as: 1, ..peer });
    assert_eq!(net.fib("a"), ["10.244.2.0/24 via 10.0.0.2"]);
    assert_eq!(net.fib("b"), ["10.244.1.0/24 via 10.0.0.1"]);
}

fn reflected(reflectors: &[&'static str]) -> Net {
    let mut clients = vec![("a", node(1, 64512)), ("b", node(2, 64512)), ("c", node(3, 64512))];
    let mut nodes = Vec::new();
    let all: Vec<_> = reflectors
        .iter()
        .enumerate()
        .map(|(place, name)| {
            let mut config = node(100 + place as u8, 64512);
            config.originated.clear();
            config.track_next_hops = false;
            (*name, config)
        })
        .collect();
    for (name, mut reflector) in all.clone() {
        for (client, config) in &mut clients {
            let as_client = |peer| PeerConfig { route_reflector_client: true, ..peer };
            reflector.peers.push(link(client, PeerKind::Internal, &reflector, config, as_client));
            config.peers.push(link(name, PeerKind::Internal, config, &reflector, |peer| peer));
        }
        for (other, remote) in all.iter().filter(|(other, _)| *other != name) {
            reflector.peers.push(link(other, PeerKind::Internal, &reflector, remote, |peer| peer));
        }
        nodes.push((name, reflector));
    }
    nodes.extend(clients);
    Net::new(nodes)
}

#[test]
fn clients_of_a_reflector_know_all_pods_by_their_own_next_hops() {
    let mut net = reflected(&["rr"]);
    assert_eq!(net.fib("a"), ["10.244.2.0/24 via 10.0.0.2", "10.244.3.0/24 via 10.0.0.3"]);
    for (name, rig) in &net.nodes {
        assert_eq!(rig.events, [Output::FirstSync], "{name} synced without any deferral");
    }
}

#[test]
fn two_reflectors_are_redundant_and_do_not_loop() {
    let mut net = reflected(&["rr-1", "rr-2"]);
    for (name, _) in [("a", 1), ("b", 2), ("c", 3)] {
        assert_eq!(net.fib(name).len(), 2, "{name}");
    }
    assert_eq!(net.get("a").paths("10.244.2.0/24").len(), 2);
    net.get("a").down("rr-1", None);
    net.get("rr-1").down("a", None);
    net.run();
    assert_eq!(net.fib("a"), ["10.244.2.0/24 via 10.0.0.2", "10.244.3.0/24 via 10.0.0.3"]);
    assert_eq!(net.fib("b"), ["10.244.1.0/24 via 10.0.0.1", "10.244.3.0/24 via 10.0.0.3"]);
    net.get("b").edit(|config| config.originated.clear());
    net.run();
    assert_eq!(net.fib("a"), ["10.244.3.0/24 via 10.0.0.3"], "no ghost between the reflectors");
}

#[test]
fn a_dead_peer_delays_the_first_sync_of_a_mesh_by_its_deferral_only() {
    let nodes = vec![("a", node(1, 64512)), ("b", node(2, 64512))];
    let mut nodes = full_mesh(nodes, |peer| peer);
    nodes[0].1.peers.push(peer("dead", PeerKind::Mesh, "10.0.0.77", 64512).into());
    let mut net = Net { nodes: nodes.into_iter().map(|(n, c)| (n, Rig::new(c))).collect() };
    net.get("a").up("b");
    net.get("b").up("a");
    net.run();
    assert_eq!(net.get("b").events, [Output::FirstSync]);
    assert!(net.get("a").events.is_empty());
    net.get("a").pass(Duration::from_secs(6));
    assert_eq!(net.get("a").events, [Output::FirstSync]);
}

#[test]
fn unknown_transitive_attributes_and_communities_travel() {
    let mut net = tor([65101, 65102], |peer| peer);
    let mut attributes = path(&[65101], "10.0.0.1");
    attributes.communities = [routelet_proto::Community(7)].into_iter().collect();
    attributes.rare_mut().unknown = vec![routelet_proto::UnknownAttribute {
        flags: 0xe0,
        code: 200,
        value: bytes::Bytes::from_static(b"kept"),
    }];
    let rig = net.get("tor");
    let prefixes: [IpNet; 1] = [super::rig::net("10.244.77.0/24")];
    rig.announce_nets("a", &attributes, &prefixes);
    net.run();
    let paths = net.get("b").paths("10.244.77.0/24");
    assert_eq!(paths[0].attributes.communities, attributes.communities);
    assert_eq!(paths[0].attributes.rare, attributes.rare);
}
