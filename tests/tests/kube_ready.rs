//! What the own Node is told when its network works, against an API server in this process: the
//! condition, the startup taint, and every way in which that can fail.

#![allow(clippy::disallowed_methods, reason = "tests wait for real tasks and sockets")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use routelet::kube::source::{self, Timing};
use routelet::kube::status::{self, Agent, Facts, Rhythm};
use routelet::kube::watch::Pace;
use routelet_tests::fakeapi::{FakeApi, Fault};
use routelet_tests::kube_side;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

const TAINT: &str = "routelet.dev/agent-not-ready";

/// An agent that waits for what the test says.
#[derive(Default)]
struct Waiting(Mutex<Facts>);

impl Waiting {
    fn pending(&self, words: &[&str]) {
        let words = words.iter().map(|&words| words.to_owned()).collect();
        self.0.lock().expect("facts").pending = words;
    }
}

impl Agent for Waiting {
    async fn facts(&self) -> Facts {
        self.0.lock().expect("facts").clone()
    }
}

/// A new Node, tainted by two people, whose network is not there yet.
fn register(api: &FakeApi, taints: Value) {
    api.put(
        "nodes",
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "node-a"},
            "spec": {"podCIDRs": ["10.244.1.0/24"], "taints": taints},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "172.30.1.11"}],
                "conditions": [
                    {"type": "Ready", "status": "False"},
                    {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"},
                ],
            },
        }),
    );
}

fn both() -> Value {
    json!([
        {"key": "example.com/other", "effect": "NoSchedule"},
        {"key": TAINT, "effect": "NoSchedule"},
        {"key": TAINT, "effect": "NoExecute"},
    ])
}

async fn start(api: &FakeApi, watch: u64) -> (Arc<Waiting>, TempDir) {
    let pace = Pace { watch: Duration::from_secs(watch), ..Pace::default() };
    let timing = Timing { pace, quiet: Duration::from_millis(20), ..Timing::default() };
    let state_dir = tempfile::tempdir().expect("directory");
    let options = kube_side::options(api, "node-a", state_dir.path(), timing);
    let client = options.client.clone();
    let states = source::start(options, None).expect("no file, no mistakes");
    let agent = Arc::new(Waiting::default());
    agent.pending(&["the first sync"]);
    let rhythm = Rhythm {
        look: Duration::from_millis(50),
        burst: 100,
        interval: Duration::from_millis(50),
        again: Duration::from_millis(50),
    };
    tokio::spawn(status::report(client, "node-a".to_owned(), states, agent.clone(), rhythm));
    let reported = |api: &FakeApi| api.get("bgpnodestatuses", "node-a").is_some();
    api.until("a report", reported).await;
    (agent, state_dir)
}

fn node(api: &FakeApi) -> Value {
    api.get("nodes", "node-a").unwrap_or_default()
}

fn condition(api: &FakeApi) -> Value {
    let node = node(api);
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|one| one["type"] == "NetworkUnavailable").unwrap_or_default()
}

fn keys(api: &FakeApi) -> Vec<String> {
    let node = node(api);
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints.iter().map(|taint| taint["key"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn a_node_is_told_once_when_its_routes_are_there_and_others_words_stay() {
    let api = FakeApi::start().await;
    register(&api, both());
    let (agent, _dir) = start(&api, 30).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(api.count("patch status", "nodes") + api.count("patch", "nodes"), 0);
    agent.pending(&[]);
    api.until("the taints are gone", |api| keys(api) == ["example.com/other"]).await;
    assert_eq!(condition(&api)["status"], "False");
    assert_eq!(condition(&api)["reason"], "RouteletIsUp");
    assert_eq!(node(&api)["status"]["conditions"][0], json!({"type": "Ready", "status": "False"}));
    // Waiting again, and stopping, set nothing back.
    agent.pending(&["something"]);
    sleep(Duration::from_millis(700)).await;
    assert_eq!(condition(&api)["status"], "False");
    assert_eq!((api.count("patch status", "nodes"), api.count("patch", "nodes")), (1, 2));
}

#[tokio::test]
async fn what_another_has_said_already_stays_his() {
    let api = FakeApi::start().await;
    register(&api, json!([]));
    api.edit("nodes", "node-a", |node| {
        node["status"]["conditions"][1] =
            json!({"type": "NetworkUnavailable", "status": "False", "reason": "RouteCreated"});
    });
    let (agent, _dir) = start(&api, 30).await;
    agent.pending(&[]);
    sleep(Duration::from_millis(700)).await;
    assert_eq!(condition(&api)["reason"], "RouteCreated");
    assert_eq!(api.count("patch status", "nodes") + api.count("patch", "nodes"), 0);
}

#[tokio::test]
async fn a_server_that_refuses_is_asked_again() {
    let api = FakeApi::start().await;
    register(&api, both());
    let (agent, _dir) = start(&api, 30).await;
    api.fault("nodes", Fault::Status(500));
    agent.pending(&[]);
    api.until("two attempts", |api| api.count("patch status", "nodes") >= 2).await;
    assert_eq!(keys(&api).len(), 3, "nothing is half done");
    api.fault("nodes", Fault::None);
    api.until("the taints are gone", |api| keys(api) == ["example.com/other"]).await;
    assert_eq!(condition(&api)["status"], "False");
}

#[tokio::test]
async fn taints_that_changed_unseen_are_not_mistaken_for_ours() {
    let api = FakeApi::start().await;
    register(&api, both());
    // The watch is dead for a while, so that the agent knows the old places only.
    let (agent, _dir) = start(&api, 2).await;
    api.fault("nodes", Fault::StallWatches);
    api.bookmark();
    sleep(Duration::from_millis(200)).await;
    api.fault("nodes", Fault::None);
    api.edit("nodes", "node-a", |node| {
        node["spec"]["taints"] = json!([
            {"key": TAINT, "effect": "NoSchedule"},
            {"key": "example.com/other", "effect": "NoSchedule"},
            {"key": "example.com/third", "effect": "NoSchedule"},
        ]);
    });
    agent.pending(&[]);
    api.until("an attempt", |api| api.count("patch", "nodes") > 0).await;
    assert_eq!(keys(&api).len(), 3, "the test of the place failed, and nothing was removed");
    let others = ["example.com/other", "example.com/third"];
    api.until("ours is gone", |api| keys(api) == others).await;
}

#[tokio::test]
async fn a_node_that_registers_anew_is_told_anew() {
    let api = FakeApi::start().await;
    register(&api, both());
    let (agent, _dir) = start(&api, 30).await;
    agent.pending(&[]);
    api.until("the taints are gone", |api| keys(api) == ["example.com/other"]).await;
    api.delete("nodes", "node-a");
    register(&api, both());
    // Not sooner than what was told has settled.
    api.until("they are gone again", |api| keys(api) == ["example.com/other"]).await;
    assert_eq!(condition(&api)["status"], "False");
}
