//! What objects become, and what becomes of wrong ones.

use std::net::IpAddr;

use routelet_bgp::core::config::{PeerChange, PeerConfig, PeerKind};
use serde_json::json;

use super::*;
use crate::kube::address::HostAddress;
use crate::kube::objects::{AS_ANNOTATION, CLUSTER_ID_ANNOTATION};

/// A host with the addresses 172.30.1.11/24 and fd00::11/64.
struct Lab;

impl Host for Lab {
    fn addresses(&self) -> Vec<HostAddress> {
        ["172.30.1.11/24", "fd00::11/64"]
            .map(|net| HostAddress { interface: "eth0".to_owned(), net: net.parse().expect("net") })
            .into()
    }

    fn source_towards(&self, _: IpAddr) -> Option<IpAddr> {
        None
    }
}

/// A cluster and the agent of node-a in it.
struct Scene {
    translator: Translator,
    objects: Objects,
    secrets: Secrets,
    created: u32,
}

impl Scene {
    /// Nodes node-a, node-b, …
    fn new(nodes: u8) -> Self {
        let mut objects = Objects::default();
        for index in 1..=nodes {
            let name = format!("node-{}", char::from(b'a' + index - 1));
            let node = Node {
                name: name.clone(),
                uid: name.clone(),
                created: format!("2026-01-01T00:00:{index:02}Z"),
                addresses: vec![format!("172.30.1.{}", 10 + index)],
                pod_cidrs: vec![format!("10.244.{index}.0/24")],
                ..Node::default()
            };
            objects.nodes.insert(name, Arc::new(node));
        }
        let translator = Translator::new("node-a".to_owned(), ConfigFile::default(), Arc::new(Lab));
        Self { translator, objects, secrets: Secrets::default(), created: 0 }
    }

    fn node(&mut self, name: &str) -> &mut Node {
        Arc::make_mut(self.objects.nodes.get_mut(name).expect("node"))
    }

    /// Creates the object, or changes its specification.
    fn put(&mut self, kind: Kind, name: &str, spec: Value) {
        self.created += 1;
        let created = format!("2026-01-02T00:00:{:02}Z", self.created);
        let key = Key::new(kind, name);
        let custom = self.objects.custom.entry(key).or_insert_with(|| Custom {
            name: name.to_owned(),
            uid: created.clone(),
            created,
            ..Custom::default()
        });
        custom.generation += 1;
        custom.spec = spec;
    }

    fn translate(&mut self) -> Translation {
        self.translator.translate(&self.objects, &self.secrets)
    }

    fn config(&mut self) -> Config {
        self.translate().config.expect("a configuration")
    }

    fn refused(&mut self, kind: Kind, name: &str) -> Refused {
        let translation = self.translate();
        assert!(translation.config.is_ok(), "{:?}", translation.config);
        translation.refused.get(&Key::new(kind, name)).cloned().expect("refused")
    }
}

fn names(config: &Config) -> Vec<&str> {
    config.speaker.peers.iter().map(|peer| &*peer.name).collect()
}

fn peer(config: &Config, name: &str) -> Arc<PeerConfig> {
    let found = config.speaker.peers.iter().find(|peer| &*peer.name == name);
    found.unwrap_or_else(|| panic!("{name} is none of {:?}", names(config))).clone()
}

#[test]
fn nodes_alone_are_a_mesh() {
    let mut scene = Scene::new(3);
    let config = scene.config();
    assert_eq!(names(&config), ["node-b", "node-c"]);
    assert!(config.speaker.peers.iter().all(|peer| peer.kind == PeerKind::Mesh));
    assert_eq!(config.speaker.asn.0, 64512);
    assert_eq!(config.speaker.originated[0].prefix, "10.244.1.0/24".parse().expect("net"));
    assert_eq!(config.speaker.cluster.pod_cidrs.len(), 2);
    assert!(config.speaker.cluster.origin_check, "on in a cluster");
    assert_eq!(config.speaker.cluster.origins.len(), 2);
    assert_eq!(
        config.speaker.cluster.connected,
        ["172.30.1.0/24".parse::<ipnet::IpNet>().expect("net")]
    );
}

#[test]
fn objects_give_what_the_same_file_gives() {
    let mut scene = Scene::new(2);
    scene.put(
        Kind::BGPConfiguration,
        "default",
        json!({"asNumber": 64999, "holdTime": "30s", "keepaliveTime": "5s", "maximumPaths": 4,
            "tunnels": {"vxlanPort": 8472, "vxlanVNI": 7, "mtu": 1400, "guard": false}}),
    );
    scene.put(
        Kind::BGPPeer,
        "tor",
        json!({"peerIP": "172.30.1.1", "asNumber": 65001, "filters": ["in"], "ttlSecurity": 1,
            "numAllowedLocalASNumbers": 1, "families": ["ipv4-unicast"], "role": "Customer",
            "nextHopMode": "Self", "maximumPrefixes": 100, "passive": true, "maxRestartTime": "60s",
            "sourceAddress": "172.30.1.11", "localASNumber": 65010, "holdTime": "9s"}),
    );
    scene.put(
        Kind::BGPFilter,
        "in",
        json!({"importV4": [{"action": "Accept", "cidr": "0.0.0.0/0", "matchOperator": "Equal"},
            {"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "In",
             "prefixLength": {"min": 25}}]}),
    );
    scene.put(Kind::IPPool, "pods", json!({"cidr": "10.244.0.0/16", "ipipMode": "CrossSubnet"}));
    scene.put(Kind::IPPool, "v6", json!({"cidr": "fd00:44::/32", "vxlanMode": "Always"}));
    let file = "
node: {name: node-a, addresses: [172.30.1.11/24], podCIDRs: [10.244.1.0/24]}
bgp: {asNumber: 64999, holdTime: 30s, keepaliveTime: 5s, maximumPaths: 4, meshOriginCheck: Enabled}
nodes: [{name: node-b, addresses: [172.30.1.12], podCIDRs: [10.244.2.0/24]}]
peers:
- {name: tor, peerIP: 172.30.1.1, asNumber: 65001, filters: [in], ttlSecurity: 1,
   numAllowedLocalASNumbers: 1, families: [ipv4-unicast], role: Customer, nextHopMode: Self,
   maximumPrefixes: 100, passive: true, maxRestartTime: 60s, sourceAddress: 172.30.1.11,
   localASNumber: 65010, holdTime: 9s}
filters:
- name: in
  importV4:
  - {action: Accept, cidr: 0.0.0.0/0, matchOperator: Equal}
  - {action: Reject, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 25}}
pools:
- {name: pods, cidr: 10.244.0.0/16, ipipMode: CrossSubnet}
- {name: v6, cidr: 'fd00:44::/32', vxlanMode: Always}
tunnels: {vxlanPort: 8472, vxlanVNI: 7, mtu: 1400, guard: false}
# On unless told otherwise, as it is not in a file.
cni: {enabled: true}
";
    let no_secrets = |_: &Path| Err("none".to_owned());
    let expected = crate::config::parse("file", file, None, &no_secrets).expect("file");
    assert_eq!(scene.config(), expected);
}

#[test]
fn labels_choose_who_has_a_peer() {
    let mut scene = Scene::new(2);
    scene.put(
        Kind::BGPPeer,
        "tor-1",
        json!({"peerIP": "172.30.1.1", "asNumber": 65001, "nodeSelector": "rack == 'r1'"}),
    );
    scene.put(
        Kind::BGPPeer,
        "tor-2",
        json!({"peerIP": "172.30.1.2", "asNumber": 65001, "node": "node-b"}),
    );
    assert_eq!(names(&scene.config()), ["node-b"]);
    scene.node("node-a").labels.insert("rack".to_owned(), "r1".to_owned());
    let translation = scene.translate();
    assert_eq!(names(translation.config.as_ref().expect("config")), ["tor-1", "node-b"]);
    let nodes = |name: &str| translation.nodes_of[&Key::new(Kind::BGPPeer, name)].clone();
    assert_eq!(nodes("tor-1"), ["node-a".to_owned()].into());
    assert_eq!(nodes("tor-2"), ["node-b".to_owned()].into());
}

#[test]
fn a_wrong_object_is_refused_alone() {
    for (kind, spec, words) in [
        (Kind::BGPPeer, json!({"peerIP": "nonsense", "asNumber": 1}), "peerIP: `nonsense`"),
        (Kind::BGPPeer, json!({"peerIP": "10.0.0.9", "asNumber": "many"}), "invalid type"),
        (Kind::BGPPeer, json!({}), "exactly one of peerIP"),
        (Kind::BGPPeer, json!({"peerSelector": "rack ="}), "peerSelector: `rack =`"),
        (
            Kind::BGPPeer,
            json!({"peerIP": "10.0.0.9", "asNumber": 1, "holdTime": "2s"}),
            "holdTime:",
        ),
        (Kind::BGPPeer, Value::Null, "exactly one"),
        (Kind::BGPFilter, json!({"importV4": [{"action": "Maybe"}]}), "Maybe"),
        (
            Kind::BGPFilter,
            json!({"importV4": [{"action": "Accept", "cidr": "fd00::/8",
            "matchOperator": "In"}]}),
            "importV6",
        ),
        (Kind::IPPool, json!({"cidr": "10.244.0.1/16"}), "cidr: `10.244.0.1/16` has bits"),
        (Kind::IPPool, json!({}), "missing field `cidr`"),
        (Kind::BGPConfiguration, json!({}), "the only BGPConfiguration is named default"),
    ] {
        let mut scene = Scene::new(2);
        scene.put(Kind::BGPPeer, "right", json!({"peerIP": "172.30.1.1", "asNumber": 65001}));
        scene.put(kind, "wrong", spec);
        let refused = scene.refused(kind, "wrong");
        assert_eq!((refused.reason, refused.previous_in_use), (Reason::Invalid, false));
        assert!(refused.message.contains(words), "{}", refused.message);
        assert!(!refused.message.contains("line "), "{}", refused.message);
        assert_eq!(names(&scene.config()), ["right", "node-b"]);
    }
}

#[test]
fn a_mistake_keeps_the_version_before() {
    let mut scene = Scene::new(1);
    scene.put(Kind::BGPPeer, "tor", json!({"peerIP": "172.30.1.1", "asNumber": 65001}));
    let before = peer(&scene.config(), "tor");
    scene.put(Kind::BGPPeer, "tor", json!({"peerIP": "172.30.1.1", "asNumber": 0}));
    assert!(scene.refused(Kind::BGPPeer, "tor").previous_in_use);
    assert_eq!(peer(&scene.config(), "tor"), before);
    // And again, from the state that the mistake left behind.
    scene.put(Kind::BGPPeer, "tor", json!({"peerIP": "172.30.1.1", "asNumber": -1}));
    assert!(scene.refused(Kind::BGPPeer, "tor").previous_in_use);
    // Another object of the same name has no version before.
    let key = Key::new(Kind::BGPPeer, "tor");
    scene.objects.custom.get_mut(&key).expect("tor").uid = "new".to_owned();
    assert!(!scene.refused(Kind::BGPPeer, "tor").previous_in_use);
    assert_eq!(names(&scene.config()), Vec::<&str>::new());
}

#[test]
fn of_two_that_contradict_the_older_stays() {
    let mut scene = Scene::new(1);
    scene.put(Kind::BGPPeer, "z-old", json!({"peerIP": "172.30.1.1", "asNumber": 65001}));
    scene.put(Kind::BGPPeer, "a-new", json!({"peerIP": "172.30.1.1", "asNumber": 65002}));
    scene.put(Kind::IPPool, "z-old", json!({"cidr": "10.244.0.0/16"}));
    scene.put(Kind::IPPool, "b-new", json!({"cidr": "10.244.128.0/17"}));
    // Inside the refused one, not inside the old one: nothing is wrong with it.
    scene.put(Kind::IPPool, "c-apart", json!({"cidr": "10.245.0.0/16"}));
    let refused = scene.refused(Kind::BGPPeer, "a-new");
    assert_eq!(refused.reason, Reason::Conflict);
    assert!(refused.message.contains("is the address of z-old already"), "{}", refused.message);
    assert!(scene.refused(Kind::IPPool, "b-new").message.contains("z-old"));
    assert_eq!(names(&scene.config()), ["z-old"]);
    assert_eq!(scene.config().speaker.cluster.pools.len(), 2);
    assert_eq!(scene.translate().refused.len(), 2);
}

#[test]
fn who_only_contradicts_a_refused_one_stays() {
    let mut scene = Scene::new(1);
    scene.put(Kind::IPPool, "first", json!({"cidr": "10.0.0.0/16"}));
    scene.put(Kind::IPPool, "second", json!({"cidr": "10.0.0.0/15"}));
    scene.put(Kind::IPPool, "third", json!({"cidr": "10.1.0.0/16"}));
    let refused = scene.translate().refused;
    assert_eq!(refused.keys().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["second"]);
}

#[test]
fn a_filter_that_is_not_there_refuses_the_peer_until_it_comes() {
    let mut scene = Scene::new(1);
    let tor = json!({"peerIP": "172.30.1.1", "asNumber": 65001, "filters": ["in"]});
    scene.put(Kind::BGPPeer, "tor", tor);
    let refused = scene.refused(Kind::BGPPeer, "tor");
    assert_eq!(refused.reason, Reason::Conflict);
    assert!(refused.message.contains("no filter is named `in`"), "{}", refused.message);
    scene.put(Kind::BGPFilter, "in", json!({"importV4": [{"action": "Accept"}]}));
    let translation = scene.translate();
    assert!(translation.refused.is_empty(), "{:?}", translation.refused);
    assert_eq!(peer(&translation.config.expect("config"), "tor").rules.import[0].len(), 1);
    // A wrong filter never opens a peer: the version before stays, for both.
    scene.put(Kind::BGPFilter, "in", json!({"importV4": [{"action": "Perhaps"}]}));
    assert!(scene.refused(Kind::BGPFilter, "in").previous_in_use);
    assert_eq!(peer(&scene.config(), "tor").rules.import[0].len(), 1);
}

#[test]
fn a_configuration_that_never_was_right_is_waited_for() {
    let mut scene = Scene::new(2);
    scene.put(Kind::BGPConfiguration, "default", json!({"asNumber": 0}));
    let translation = scene.translate();
    let words = translation.config.expect_err("no guess").join("; ");
    assert!(words.contains("BGPConfiguration default: asNumber: AS 0"), "{words}");
    scene.put(Kind::BGPConfiguration, "default", json!({"asNumber": 64999}));
    assert_eq!(scene.config().speaker.asn.0, 64999);
    scene.put(Kind::BGPConfiguration, "default", json!({"asNumber": 64999, "keepaliveTime": "2h"}));
    assert!(scene.refused(Kind::BGPConfiguration, "default").previous_in_use);
    assert_eq!(scene.config().speaker.asn.0, 64999);
}

#[test]
fn without_the_own_node_there_is_no_configuration() {
    let mut scene = Scene::new(2);
    scene.config();
    let accepted = scene.translator.accepted().clone();
    scene.objects.nodes.remove("node-a");
    let words = scene.translate().config.expect_err("no node");
    assert_eq!(words, ["there is no Node node-a"]);
    assert_eq!(scene.translator.accepted(), &accepted, "what ran is remembered");
    let mut scene = Scene::new(2);
    scene.node("node-a").addresses.clear();
    let words = scene.translate().config.expect_err("no address").join("");
    assert!(words.contains("Node node-a: addresses: is empty"), "{words}");
}

#[test]
fn a_node_that_cannot_be_is_left_out_alone() {
    let mut scene = Scene::new(4);
    scene.node("node-b").addresses.clear();
    scene.node("node-c").pod_cidrs = vec!["172.30.0.0/16".to_owned()];
    scene.node("node-d").annotations.insert(AS_ANNOTATION.to_owned(), "x".to_owned());
    let translation = scene.translate();
    assert_eq!(names(&translation.config.expect("config")), Vec::<&str>::new());
    let message = |name: &str| translation.refused[&Key::new(Kind::Node, name)].message.clone();
    assert!(message("node-b").contains("without an address"), "{}", message("node-b"));
    assert!(message("node-c").contains("covers the address 172.30.1.11 of node-a"));
    assert!(message("node-d").contains("is not an AS number"), "{}", message("node-d"));
    // One that loses its address for a moment keeps what it had.
    let mut scene = Scene::new(2);
    let before = scene.config();
    scene.node("node-b").addresses.clear();
    assert_eq!(scene.config(), before);
}

#[test]
fn nodes_of_different_as_are_an_external_mesh() {
    let mut scene = Scene::new(2);
    scene.node("node-a").annotations.insert(AS_ANNOTATION.to_owned(), "65010".to_owned());
    scene.node("node-b").annotations.insert(AS_ANNOTATION.to_owned(), "65011".to_owned());
    let config = scene.config();
    assert_eq!(config.speaker.asn.0, 65010);
    let other = peer(&config, "node-b");
    assert_eq!((other.kind, other.remote_as.0), (PeerKind::Mesh, 65011));
}

fn set_reflector(scene: &mut Scene, name: &str) {
    let node = scene.node(name);
    node.labels.insert("rr".to_owned(), String::new());
    node.annotations.insert(CLUSTER_ID_ANNOTATION.to_owned(), "10.0.0.1".to_owned());
}

#[test]
fn one_object_makes_the_sessions_of_both_sides() {
    let object = json!({"nodeSelector": "!has(rr)", "peerSelector": "has(rr)"});
    // From a client: the reflectors are its peers, the other clients its mesh.
    let mut scene = Scene::new(4);
    scene.put(Kind::BGPPeer, "rr", object.clone());
    set_reflector(&mut scene, "node-d");
    let config = scene.config();
    assert_eq!(names(&config), ["node-d", "node-b", "node-c"]);
    let reflector = peer(&config, "node-d");
    assert_eq!((reflector.kind, reflector.route_reflector_client), (PeerKind::Internal, false));
    // From the reflector: every other node is a client, and there is no mesh.
    let mut scene = Scene::new(3);
    scene.put(Kind::BGPPeer, "rr", object);
    set_reflector(&mut scene, "node-a");
    let config = scene.config();
    assert_eq!(names(&config), ["node-b", "node-c"]);
    assert!(config.speaker.peers.iter().all(|peer| peer.route_reflector_client));
    assert_eq!(config.speaker.cluster_id.to_string(), "10.0.0.1");
}

#[test]
fn reflectors_of_one_cluster_are_no_clients_of_each_other() {
    let mut scene = Scene::new(3);
    scene.put(Kind::BGPPeer, "rr", json!({"peerSelector": "has(rr)"}));
    set_reflector(&mut scene, "node-a");
    set_reflector(&mut scene, "node-b");
    let config = scene.config();
    assert!(!peer(&config, "node-b").route_reflector_client);
    assert!(peer(&config, "node-c").route_reflector_client);
}

#[test]
fn a_node_leaves_the_mesh_for_a_reflector_without_a_reset() {
    let mut scene = Scene::new(3);
    scene.put(
        Kind::BGPConfiguration,
        "default",
        json!({"listenPort": 1179, "holdTime": "30s", "nodeMeshMaxRestartTime": "200s",
            "nodeMeshPassword": {"secretKeyRef": {"name": "bgp", "key": "mesh"}}}),
    );
    scene.secrets.set("bgp", [("mesh".to_owned(), b"hunter2".to_vec())].into());
    let mesh = scene.config();
    for name in ["node-a", "node-b"] {
        let mut scene_now = Scene::new(3);
        scene_now.objects = scene.objects.clone();
        scene_now.secrets = scene.secrets.clone();
        set_reflector(&mut scene_now, name);
        scene_now.put(Kind::BGPPeer, "rr", json!({"peerSelector": "has(rr)"}));
        let now = scene_now.config();
        let change = peer(&mesh, "node-b").change_to(&peer(&now, "node-b"));
        assert_eq!(change, PeerChange::Live, "when {name} becomes the reflector");
    }
}

#[test]
fn a_password_comes_late_and_changes() {
    let mut scene = Scene::new(1);
    let tor = json!({"peerIP": "172.30.1.1", "asNumber": 65001,
        "password": {"secretKeyRef": {"name": "bgp", "key": "tor"}}});
    scene.put(Kind::BGPPeer, "tor", tor);
    let translation = scene.translate();
    assert_eq!(translation.secrets, ["bgp".to_owned()].into());
    let message = scene.refused(Kind::BGPPeer, "tor").message;
    assert_eq!(message, "password: the Secret bgp is not there in the agents' namespace");
    scene.secrets.set("bgp", [("tor".to_owned(), b"hunter2\n".to_vec())].into());
    let first = peer(&scene.config(), "tor");
    assert_eq!(&*first.password.as_ref().expect("password").0, b"hunter2");
    scene.secrets.set("bgp", [("tor".to_owned(), b"hunter3".to_vec())].into());
    let second = peer(&scene.config(), "tor");
    assert!(matches!(first.change_to(&second), PeerChange::Reset(keys) if keys == "password"));
    scene.secrets.set("bgp", [("tor".to_owned(), vec![b'x'; 81])].into());
    assert!(scene.refused(Kind::BGPPeer, "tor").message.contains("81 octets"));
    for words in [format!("{:?}", scene.secrets), format!("{:?}", scene.translate())] {
        assert!(!words.contains("hunter") && !words.contains("104, 117"), "{words}");
    }
}

#[test]
fn secrets_of_peers_that_are_not_ours_are_not_asked_for() {
    let mut scene = Scene::new(2);
    scene.put(
        Kind::BGPPeer,
        "tor",
        json!({"peerIP": "172.30.1.1", "asNumber": 65001, "node": "node-b",
            "password": {"secretKeyRef": {"name": "bgp", "key": "tor"}}}),
    );
    assert_eq!(scene.translate().secrets, BTreeSet::new());
}

#[test]
fn what_ran_last_is_enough_for_a_start() {
    let mut scene = Scene::new(3);
    scene.put(Kind::BGPPeer, "tor", json!({"peerIP": "172.30.1.1", "asNumber": 65001}));
    let before = scene.config();
    scene.put(Kind::BGPPeer, "tor", json!({"peerIP": "wrong", "asNumber": 65001}));
    assert_eq!(scene.config(), before);
    let saved = serde_json::to_string(scene.translator.accepted()).expect("text");
    let mut restarted = Scene::new(0);
    restarted.objects = serde_json::from_str(&saved).expect("objects");
    assert_eq!(restarted.config(), before);
}
