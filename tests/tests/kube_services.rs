//! Addresses of Services against an API server in this process: what a node advertises, when, and what
//! must not change it.

#![allow(clippy::disallowed_methods, reason = "tests wait for real tasks and sockets")]

use std::time::Duration;

use routelet::kube::services::EXCLUDE_LABEL;
use routelet::kube::source::Timing;
use routelet::kube::state::{Origin, State};
use routelet::kube::watch::Pace;
use routelet_bgp::core::config::OriginatedKind;
use routelet_tests::fakeapi::{FakeApi, Fault};
use routelet_tests::kube_side::KubeSide;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

const CLUSTER: &str = "10.96.0.0/12";
const EXTERNAL: &str = "192.0.2.0/24";

/// Faster than in a cluster.
const TIMING: Timing = Timing {
    pace: Pace { watch: Duration::from_secs(30), list: Duration::from_secs(5), page: 2 },
    quiet: Duration::from_millis(50),
    patience: Duration::from_secs(1),
    doubt: Duration::from_secs(3),
    look: Duration::from_millis(200),
};

/// Waits until exactly these service prefixes are advertised.
async fn advertises(agent: &mut KubeSide, prefixes: &[&str]) -> State {
    agent.until(&format!("{prefixes:?}"), |state| advertised(state) == prefixes).await
}

fn advertised(state: &State) -> Vec<String> {
    let routes = state.config.iter().flat_map(|config| &config.speaker.originated);
    let services = routes.filter(|route| route.kind == OriginatedKind::Service);
    let mut prefixes: Vec<String> = services.map(|route| route.prefix.to_string()).collect();
    prefixes.sort();
    prefixes
}

fn ranges(api: &FakeApi, spec: Value) {
    api.custom("BGPConfiguration", "default", spec);
}

fn both() -> Value {
    json!({"serviceClusterIPs": [{"cidr": CLUSTER}], "serviceExternalIPs": [{"cidr": EXTERNAL}]})
}

fn service(api: &FakeApi, name: &str, policy: &str, external: &str) {
    api.put(
        "services",
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.7"],
                "externalIPs": [external], "externalTrafficPolicy": policy},
        }),
    );
}

fn endpoints(api: &FakeApi, service: &str, endpoints: Value) {
    api.put(
        "endpointslices",
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{service}-1"), "namespace": "shop",
                "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": endpoints,
        }),
    );
}

fn here(ready: bool) -> Value {
    json!([{"nodeName": "node-a", "conditions": {"ready": ready, "serving": ready}}])
}

/// One node more than ours, and the ranges.
async fn scene(spec: Value) -> (FakeApi, TempDir, KubeSide) {
    let api = FakeApi::start().await;
    api.node("node-a", "172.30.1.11", "10.244.1.0/24");
    api.node("node-b", "172.30.1.12", "10.244.2.0/24");
    ranges(&api, spec);
    let directory = tempfile::tempdir().expect("directory");
    let mut agent = KubeSide::start(&api, directory.path(), TIMING);
    agent.until("a configuration", |state| state.config.is_some()).await;
    (api, directory, agent)
}

#[tokio::test]
async fn services_are_asked_for_only_where_their_addresses_are_advertised() {
    let (api, _dir, mut agent) = scene(json!({})).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(api.count("list", "services") + api.count("list", "endpointslices"), 0);
    ranges(&api, both());
    let state = advertises(&mut agent, &[CLUSTER, EXTERNAL]).await;
    let config = state.config.expect("a configuration");
    assert_eq!(config.speaker.cluster.services.len(), 2, "and accepted from others");
    assert_eq!(api.count("list", "services"), 1);
    api.until("watches", |api| api.count("watch", "endpointslices") == 1).await;
    // Switched off again, the watches end.
    ranges(&api, json!({}));
    advertises(&mut agent, &[]).await;
    api.end_watches();
    api.until("other watches go on", |api| api.count("watch", "nodes") > 1).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!((api.count("watch", "services"), api.count("list", "services")), (1, 1));
}

#[tokio::test]
async fn local_services_are_advertised_from_nodes_with_a_ready_endpoint() {
    let (api, _dir, mut agent) = scene(both()).await;
    advertises(&mut agent, &[CLUSTER, EXTERNAL]).await;
    service(&api, "web", "Local", "192.0.2.7");
    service(&api, "wide", "Cluster", "192.0.2.8");
    service(&api, "greedy", "Local", "198.51.100.1");
    for name in ["web", "wide", "greedy"] {
        endpoints(&api, name, here(true));
    }
    let with = ["10.96.0.0/12", "10.96.0.7/32", "192.0.2.0/24", "192.0.2.7/32"];
    let state = advertises(&mut agent, &with).await;
    // Packets to what is advertised and nobody has are dropped; these are somebody's.
    let firewall = &state.config.as_ref().expect("a configuration").firewall.services;
    let claimed: Vec<String> = firewall.claimed.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(claimed, ["10.96.0.7", "192.0.2.7", "192.0.2.8"]);
    assert_eq!(firewall.ranges.len(), 4);
    endpoints(&api, "web", here(false));
    // Its cluster IP is that of the others in this scene, and served for them.
    advertises(&mut agent, &["10.96.0.0/12", "10.96.0.7/32", "192.0.2.0/24"]).await;
    endpoints(&api, "web", here(true));
    advertises(&mut agent, &with).await;
    // The pod here terminates while another is ready elsewhere: the address goes before the pod does.
    endpoints(
        &api,
        "web",
        json!([
            {"nodeName": "node-a", "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"nodeName": "node-b", "conditions": {"ready": true}},
        ]),
    );
    advertises(&mut agent, &["10.96.0.0/12", "10.96.0.7/32", "192.0.2.0/24"]).await;
    api.delete("services", "greedy");
    advertises(&mut agent, &["10.96.0.0/12", "192.0.2.0/24"]).await;
}

#[tokio::test]
async fn endpoints_of_other_services_make_no_work() {
    let (api, _dir, mut agent) = scene(both()).await;
    service(&api, "wide", "Cluster", "192.0.2.8");
    let claimed = |state: &State| {
        let config = state.config.as_ref();
        config.is_some_and(|config| config.firewall.services.claimed.len() == 2)
    };
    let mut first = agent.until("its addresses are known", claimed).await;
    // What else the beginning brings, for example the first list of endpoints, is through.
    loop {
        sleep(Duration::from_millis(500)).await;
        let now = agent.states.borrow().clone();
        if now.generation == first.generation {
            break;
        }
        first = now;
    }
    for beat in 0..5 {
        endpoints(&api, "wide", here(beat % 2 == 0));
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_millis(300)).await;
    assert_eq!(agent.states.borrow().generation, first.generation);
}

#[tokio::test]
async fn a_label_keeps_a_node_from_advertising() {
    let (api, _dir, mut agent) = scene(both()).await;
    advertises(&mut agent, &[CLUSTER, EXTERNAL]).await;
    api.edit("nodes", "node-a", |node| node["metadata"]["labels"][EXCLUDE_LABEL] = json!(""));
    let state = advertises(&mut agent, &[]).await;
    assert_eq!(state.config.expect("a configuration").speaker.cluster.services.len(), 2);
    api.edit("nodes", "node-a", |node| node["metadata"]["labels"] = json!({}));
    advertises(&mut agent, &[CLUSTER, EXTERNAL]).await;
}

#[tokio::test]
async fn services_that_cannot_be_listed_hinder_nothing_else() {
    let (api, _dir, mut agent) = scene(json!({})).await;
    api.fault("services", Fault::Status(403));
    ranges(&api, both());
    let state = advertises(&mut agent, &[CLUSTER, EXTERNAL]).await;
    assert!(state.troubles["services"].contains("apply deploy/rbac.yaml"), "{:?}", state.troubles);
    api.node("node-c", "172.30.1.13", "10.244.3.0/24");
    agent
        .until("the new node", |state| {
            state.config.as_ref().is_some_and(|config| config.speaker.peers.len() == 2)
        })
        .await;
    service(&api, "web", "Local", "192.0.2.7");
    endpoints(&api, "web", here(true));
    api.fault("services", Fault::None);
    advertises(&mut agent, &["10.96.0.0/12", "10.96.0.7/32", "192.0.2.0/24", "192.0.2.7/32"]).await;
}

#[tokio::test]
async fn addresses_survive_the_api_server_and_a_restart_without_it() {
    let (mut api, dir, mut agent) = scene(both()).await;
    service(&api, "web", "Local", "192.0.2.7");
    endpoints(&api, "web", here(true));
    let with = ["10.96.0.0/12", "10.96.0.7/32", "192.0.2.0/24", "192.0.2.7/32"];
    advertises(&mut agent, &with).await;
    // A server that lost its memory of them is not believed at once.
    api.delete("services", "web");
    api.compact();
    api.fault("services", Fault::Status(503));
    api.end_watches();
    sleep(Duration::from_millis(300)).await;
    assert_eq!(advertised(&agent.states.borrow()), with);
    service(&api, "web", "Local", "192.0.2.7");
    api.fault("services", Fault::None);
    agent.until("no trouble", |state| state.troubles.is_empty()).await;
    assert_eq!(advertised(&agent.states.borrow()), with);
    let saved = dir.path().join("kubernetes.json");
    let text = std::fs::read_to_string(&saved).expect("saved");
    assert!(text.contains("192.0.2.7"), "{text}");
    drop(agent);
    api.down().await;
    let mut agent = KubeSide::start(&api, dir.path(), TIMING);
    let state = advertises(&mut agent, &with).await;
    assert!(matches!(state.origin, Origin::LastGood(_)));
}

#[tokio::test]
async fn ranges_that_are_pods_are_refused_and_the_version_before_stays() {
    let (api, _dir, mut agent) = scene(both()).await;
    advertises(&mut agent, &[CLUSTER, EXTERNAL]).await;
    ranges(&api, json!({"serviceClusterIPs": [{"cidr": "10.244.0.0/16"}]}));
    let state = agent.until("a refusal", |state| !state.refused.is_empty()).await;
    let words = format!("{:?}", state.refused);
    assert!(words.contains("overlaps") && words.contains("previous_in_use: true"), "{words}");
    assert_eq!(advertised(&state), [CLUSTER, EXTERNAL]);
}
