//! The agent's Kubernetes side against an API server in this process: one test for each thing that
//! goes wrong there, none of which may change the network.

#![allow(clippy::disallowed_methods, reason = "tests wait for real tasks and sockets")]

use std::time::Duration;

use routelet::config::{Config, PeerStep};
use routelet::kube::source::Timing;
use routelet::kube::state::{Origin, State};
use routelet::kube::watch::Pace;
use routelet_tests::fakeapi::{FakeApi, Fault};
use routelet_tests::kube_side::{KubeSide, peers};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

/// Faster than in a cluster.
const TIMING: Timing = Timing {
    pace: Pace { watch: Duration::from_secs(2), list: Duration::from_secs(1), page: 2 },
    quiet: Duration::from_millis(50),
    patience: Duration::from_millis(500),
    doubt: Duration::from_secs(2),
    look: Duration::from_millis(200),
};

fn config(state: &State) -> &Config {
    state.config.as_ref().expect("a configuration")
}

/// Three nodes and an agent on the first that knows them.
async fn scene() -> (FakeApi, TempDir, KubeSide, State) {
    scene_at(FakeApi::start().await).await
}

async fn scene_at(api: FakeApi) -> (FakeApi, TempDir, KubeSide, State) {
    for (name, last) in [("node-a", 1), ("node-b", 2), ("node-c", 3)] {
        api.node(name, &format!("172.30.1.1{last}"), &format!("10.244.{last}.0/24"));
    }
    let state_dir = tempfile::tempdir().expect("directory");
    let mut agent = KubeSide::start(&api, state_dir.path(), TIMING);
    let state = agent.peers(&["node-b", "node-c"]).await;
    assert_eq!(state.origin, Origin::Live);
    (api, state_dir, agent, state)
}

#[tokio::test]
async fn nodes_come_and_go_and_only_their_sessions_change() {
    let (api, _dir, mut agent, first) = scene().await;
    api.node("node-d", "172.30.1.14", "10.244.4.0/24");
    let more = agent.peers(&["node-b", "node-c", "node-d"]).await;
    let plan = config(&first).plan(config(&more));
    assert_eq!(
        plan.peers.into_iter().collect::<Vec<_>>(),
        [("node-d".to_owned(), PeerStep::Added)]
    );

    api.delete("nodes", "node-b");
    let fewer = agent.peers(&["node-c", "node-d"]).await;
    assert_eq!(config(&more).plan(config(&fewer)).interrupted().collect::<Vec<_>>(), ["node-b"]);

    api.edit("nodes", "node-c", |node| node["spec"]["podCIDRs"] = json!(["10.244.33.0/24"]));
    let moved = agent.until("the pod CIDR", |state| state.generation > fewer.generation).await;
    let plan = config(&fewer).plan(config(&moved));
    assert!(plan.peers.is_empty() && plan.speaker.len() == 2, "{plan}");

    api.edit("nodes", "node-c", |node| {
        node["status"]["addresses"][0]["address"] = json!("172.30.1.33");
    });
    let moved_again = agent.until("the address", |state| state.generation > moved.generation).await;
    let plan = config(&moved).plan(config(&moved_again));
    assert_eq!(plan.interrupted().collect::<Vec<_>>(), ["node-c"]);
}

#[tokio::test]
async fn a_cordoned_node_and_a_heartbeat_change_nothing() {
    let (api, _dir, mut agent, first) = scene().await;
    api.edit("nodes", "node-b", |node| {
        node["spec"]["unschedulable"] = json!(true);
        node["spec"]["taints"] =
            json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
    });
    for beat in 0..5 {
        api.edit("nodes", "node-c", |node| {
            node["status"]["conditions"] = json!([{"type": "Ready", "lastHeartbeatTime": beat}]);
        });
    }
    agent.stays(&first).await;
    assert_eq!(*agent.states.borrow(), first);
}

#[tokio::test]
async fn a_server_without_a_cache_gives_lists_in_pages() {
    let api = FakeApi::start().await;
    api.without_cache();
    let (api, _dir, _agent, _) = scene_at(api).await;
    let pages: Vec<_> = api
        .requests()
        .into_iter()
        .filter(|request| request.verb == "list" && request.resource == "nodes")
        .collect();
    assert_eq!(pages.len(), 2, "three nodes, two a page");
    assert!(pages.iter().all(|page| page.query["limit"] == "2"));
    assert!(pages[1].query.contains_key("continue"));
}

#[tokio::test]
async fn pages_that_expire_are_no_list() {
    let api = FakeApi::start().await;
    api.without_cache();
    let (api, _dir, mut agent, first) = scene_at(api).await;
    api.fault("nodes", Fault::ExpirePages);
    api.compact();
    api.end_watches();
    let trouble = agent.until("a trouble", |state| state.troubles.contains_key("nodes")).await;
    assert!(trouble.troubles["nodes"].contains("410"), "{:?}", trouble.troubles);
    agent.stays(&first).await;
    api.fault("nodes", Fault::None);
    api.node("node-d", "172.30.1.14", "10.244.4.0/24");
    agent.peers(&["node-b", "node-c", "node-d"]).await;
}

#[tokio::test]
async fn a_watch_that_breaks_goes_on_where_it_was() {
    let (api, _dir, mut agent, first) = scene().await;
    let lists = api.count("list", "nodes");
    api.until("a watch", |api| api.count("watch", "nodes") == 1).await;
    api.end_watches();
    api.until("another watch", |api| api.count("watch", "nodes") > 1).await;
    api.node("node-d", "172.30.1.14", "10.244.4.0/24");
    agent.peers(&["node-b", "node-c", "node-d"]).await;
    assert_eq!(api.count("list", "nodes"), lists, "nothing is listed again");
    let versions: Vec<u64> = api
        .requests()
        .iter()
        .filter(|request| request.verb == "watch" && request.resource == "nodes")
        .map(|request| request.query["resourceVersion"].parse().expect("a version"))
        .collect();
    assert!(versions.iter().all(|version| *version >= 3), "{versions:?}");
    assert!(first.generation < agent.states.borrow().generation);
}

#[tokio::test]
async fn a_bookmark_is_where_a_watch_goes_on() {
    let (api, _dir, _agent, _) = scene().await;
    api.until("a watch", |api| api.count("watch", "bgppeers") == 1).await;
    api.bookmark();
    // The version of the bookmark: every event before it is forgotten then, and it is enough.
    sleep(Duration::from_millis(200)).await;
    api.end_watches();
    api.until("another watch", |api| api.count("watch", "bgppeers") > 1).await;
    let last = api
        .requests()
        .into_iter()
        .rfind(|request| request.verb == "watch" && request.resource == "bgppeers");
    assert_eq!(last.expect("a watch").query["resourceVersion"], "4");
}

#[tokio::test]
async fn gone_means_a_new_list_and_no_change() {
    for at_start in [false, true] {
        let (api, _dir, mut agent, first) = scene().await;
        let lists = api.count("list", "nodes");
        if at_start {
            api.fault("", Fault::GoneAtStart);
        }
        api.compact();
        api.end_watches();
        api.until("a new list", |api| api.count("list", "nodes") > lists).await;
        api.fault("", Fault::None);
        agent.stays(&first).await;
        api.delete("nodes", "node-b");
        agent.peers(&["node-c"]).await;
    }
}

#[tokio::test]
async fn what_was_deleted_unseen_is_gone_after_the_list() {
    let (api, _dir, mut agent, _) = scene().await;
    api.fault("nodes", Fault::Status(503));
    api.end_watches();
    api.delete("nodes", "node-b");
    api.compact();
    sleep(Duration::from_millis(300)).await;
    api.fault("nodes", Fault::None);
    agent.peers(&["node-c"]).await;
}

#[tokio::test]
async fn a_watch_that_says_nothing_any_more_is_replaced() {
    let (api, _dir, mut agent, first) = scene().await;
    api.until("a watch", |api| api.count("watch", "nodes") >= 1).await;
    api.fault("nodes", Fault::StallWatches);
    api.bookmark();
    sleep(Duration::from_millis(200)).await;
    api.fault("nodes", Fault::None);
    api.node("node-d", "172.30.1.14", "10.244.4.0/24");
    agent.stays(&first).await;
    // 2 s of the watch and 5 s of doubt later there is another connection.
    agent.peers(&["node-b", "node-c", "node-d"]).await;
}

#[tokio::test]
async fn a_list_that_never_answers_is_asked_for_again() {
    let api = FakeApi::start().await;
    api.node("node-a", "172.30.1.11", "10.244.1.0/24");
    api.fault("ippools", Fault::StallLists);
    let state_dir = tempfile::tempdir().expect("directory");
    let mut agent = KubeSide::start(&api, state_dir.path(), TIMING);
    let state = agent.until("a trouble", |state| !state.troubles.is_empty()).await;
    assert_eq!(state.troubles["ippools"], "no answer within 1 s");
    assert_eq!(state.config, None, "what is not listed is not nothing");
    assert!(state.pending().contains(&"ippools: no answer within 1 s".to_owned()));
    api.fault("ippools", Fault::None);
    let state = agent.peers(&[]).await;
    let state = match state.config {
        Some(_) => state,
        None => agent.until("a configuration", |state| state.config.is_some()).await,
    };
    assert_eq!(state.origin, Origin::Live);
}

#[tokio::test]
async fn what_is_not_allowed_or_not_there_is_said() {
    for (code, words) in [
        (401, "service account"),
        (403, "not allowed"),
        (404, "apply deploy/crds.yaml"),
        (429, "come again later"),
        (500, "500"),
    ] {
        let api = FakeApi::start().await;
        api.node("node-a", "172.30.1.11", "10.244.1.0/24");
        api.fault("bgppeers", Fault::Status(code));
        let state_dir = tempfile::tempdir().expect("directory");
        let mut agent = KubeSide::start(&api, state_dir.path(), TIMING);
        let state = agent.until("a trouble", |state| !state.troubles.is_empty()).await;
        assert!(state.troubles["bgppeers"].contains(words), "{:?}", state.troubles);
        assert_eq!(state.config, None);
    }
}

#[tokio::test]
async fn the_network_stays_while_the_api_server_is_away() {
    let (mut api, _dir, mut agent, first) = scene().await;
    api.down().await;
    let away = agent.until("a trouble", |state| !state.troubles.is_empty()).await;
    assert_eq!(away.origin, Origin::Live);
    agent.stays(&first).await;
    api.node("node-d", "172.30.1.14", "10.244.4.0/24");
    api.come_back().await;
    agent.peers(&["node-b", "node-c", "node-d"]).await;
}

#[tokio::test]
async fn a_restarted_agent_starts_from_its_disk() {
    let (mut api, dir, agent, first) = scene().await;
    drop(agent);
    api.down().await;
    let mut agent = KubeSide::start(&api, dir.path(), TIMING);
    let state = agent.peers(&["node-b", "node-c"]).await;
    assert!(matches!(&state.origin, Origin::LastGood(written) if written.starts_with("20")));
    assert_eq!(state.config, first.config);
    assert!(
        state.pending()[0].contains("running with the configuration of"),
        "{:?}",
        state.pending()
    );
    api.delete("nodes", "node-c");
    api.come_back().await;
    let state = agent.peers(&["node-b"]).await;
    assert_eq!(state.origin, Origin::Live);
    // Nothing on disk: nothing is guessed.
    api.down().await;
    let empty = tempfile::tempdir().expect("directory");
    let agent = KubeSide::start(&api, empty.path(), TIMING);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(agent.states.borrow().config, None);
}

#[tokio::test]
async fn a_server_without_its_data_is_not_believed() {
    let (api, _dir, mut agent, _) = scene().await;
    api.custom("BGPPeer", "tor", json!({"peerIP": "172.30.1.1", "asNumber": 65001}));
    let first = agent.peers(&["node-b", "node-c", "tor"]).await;
    let restore = api.lose_everything();
    api.compact();
    api.end_watches();
    let lists = api.count("list", "nodes");
    api.until("a new list", |api| api.count("list", "nodes") > lists).await;
    agent.stays(&first).await;
    // Past the time of doubt, too: a cluster without this node is none.
    sleep(Duration::from_secs(2)).await;
    agent.stays(&first).await;
    let words = agent.states.borrow().troubles["nodes"].clone();
    assert_eq!(words, "the Node node-a is not listed; the list is not believed");
    restore(&api);
    api.compact();
    api.end_watches();
    let back = agent.until("the end of it", |state| !state.troubles.contains_key("nodes")).await;
    assert_eq!((back.generation, &back.config), (first.generation, &first.config));
    agent.stays(&first).await;
}

#[tokio::test]
async fn the_last_object_of_a_kind_may_be_deleted() {
    let (api, _dir, mut agent, _) = scene().await;
    api.custom("BGPPeer", "tor", json!({"peerIP": "172.30.1.1", "asNumber": 65001}));
    agent.peers(&["node-b", "node-c", "tor"]).await;
    api.delete("bgppeers", "tor");
    agent.peers(&["node-b", "node-c"]).await;
}

#[tokio::test]
async fn one_wrong_object_is_refused_and_the_rest_works() {
    let (api, _dir, mut agent, _) = scene().await;
    api.custom("BGPPeer", "wrong", json!({"peerIP": ["a", "list"], "asNumber": {"no": "number"}}));
    api.custom("BGPPeer", "tor", json!({"peerIP": "172.30.1.1", "asNumber": 65001}));
    let state = agent.peers(&["node-b", "node-c", "tor"]).await;
    let state = match state.refused.is_empty() {
        false => state,
        true => agent.until("a refusal", |state| !state.refused.is_empty()).await,
    };
    let names: Vec<&str> = state.refused.keys().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["wrong"]);
    api.custom("BGPPeer", "wrong", json!({"peerIP": "172.30.1.2", "asNumber": 65001}));
    let state = agent.peers(&["node-b", "node-c", "tor", "wrong"]).await;
    assert!(state.refused.is_empty());
}

#[tokio::test]
async fn a_secret_is_read_when_it_is_named_and_follows_its_changes() {
    let (api, dir, mut agent, _) = scene().await;
    assert_eq!(api.count("list", "secrets"), 0, "no Secret is read that nobody names");
    api.custom(
        "BGPPeer",
        "tor",
        json!({"peerIP": "172.30.1.1", "asNumber": 65001,
            "password": {"secretKeyRef": {"name": "bgp", "key": "tor"}}}),
    );
    let late = agent.until("a refusal", |state| !state.refused.is_empty()).await;
    assert!(format!("{:?}", late.refused).contains("the Secret bgp is not there"));
    let password = |state: &State| {
        let tor = state.config.as_ref()?.speaker.peers.iter().find(|peer| &*peer.name == "tor")?;
        tor.password.as_ref().map(|password| password.0.to_vec())
    };
    api.secret("kube-system", "other", "tor", "eA==");
    api.secret("default", "bgp", "tor", "eA==");
    api.secret("kube-system", "bgp", "tor", "aHVudGVyMg==");
    agent.until("the password", |state| password(state).as_deref() == Some(b"hunter2")).await;
    api.secret("kube-system", "bgp", "tor", "aHVudGVyMw==");
    let new = agent.until("another", |state| password(state).as_deref() == Some(b"hunter3")).await;
    api.delete("secrets", "bgp");
    agent.stays(&new).await;
    assert!(!format!("{:?}", *agent.states.borrow()).contains("hunter"));
    for request in api.requests() {
        if request.resource == "secrets" {
            assert_eq!(request.query["fieldSelector"], "metadata.name=bgp");
        }
    }
    // The session must come up again without an API server, too.
    drop(agent);
    api.fault("", Fault::Cut);
    let mut agent = KubeSide::start(&api, dir.path(), TIMING);
    agent.until("the password", |state| password(state).as_deref() == Some(b"hunter3")).await;
}

/// Seen on a real server: without this, a peer without its password was refused for a moment, and
/// another with the same address had a session meanwhile.
#[tokio::test]
async fn the_first_configuration_waits_for_the_secrets_that_it_names() {
    let api = FakeApi::start().await;
    api.node("node-a", "172.30.1.11", "10.244.1.0/24");
    api.secret("kube-system", "bgp", "tor", "aHVudGVyMg==");
    let with = |name: &str| {
        let password = json!({"secretKeyRef": {"name": name, "key": "tor"}});
        json!({"peerIP": "172.30.1.1", "asNumber": 65001, "password": password})
    };
    api.custom("BGPPeer", "tor", with("bgp"));
    let directory = tempfile::tempdir().expect("directory");
    let mut agent = KubeSide::start(&api, directory.path(), TIMING);
    let first = agent.until("a configuration", |state| state.config.is_some()).await;
    assert_eq!(peers(&first), ["tor".to_owned()].into());
    assert!(first.refused.is_empty(), "{:?}", first.refused);
    drop(agent);

    // One that never comes holds nothing up for long; nor does one that may not be read.
    for fault in [Fault::None, Fault::StallLists, Fault::Status(403)] {
        api.custom("BGPPeer", "tor", with("none"));
        api.fault("secrets", fault);
        let directory = tempfile::tempdir().expect("directory");
        let mut agent = KubeSide::start(&api, directory.path(), TIMING);
        let first = agent.until("a configuration", |state| state.config.is_some()).await;
        assert_eq!(first.refused.len(), 1);
    }
}

#[tokio::test]
async fn a_server_that_learns_its_nodes_anew_changes_nothing() {
    let (api, _dir, mut agent, first) = scene().await;
    let restore = api.lose_everything();
    api.compact();
    api.end_watches();
    let lists = api.count("list", "nodes");
    api.until("a new list", |api| api.count("list", "nodes") > lists).await;
    // The others register again before we do.
    api.node("node-c", "172.30.1.13", "10.244.3.0/24");
    agent.stays(&first).await;
    api.node("node-b", "172.30.1.12", "10.244.2.0/24");
    agent.stays(&first).await;
    restore(&api);
    api.node("node-a", "172.30.1.11", "10.244.1.0/24");
    sleep(Duration::from_millis(500)).await;
    let plan = config(&first).plan(config(&agent.states.borrow().clone()));
    assert!(plan.is_empty(), "{plan}");
    api.delete("nodes", "node-c");
    agent.peers(&["node-b"]).await;
}
