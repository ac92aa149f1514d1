//! What the agents write back to the API server, and whether they may: status, conditions, Events, the
//! permissions and the DaemonSet that are shipped.

#![allow(clippy::disallowed_methods, reason = "tests wait for real tasks and sockets")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use routelet::cli::Cli;
use routelet::kube::crd::PeerStatus;
use routelet::kube::source::{self, Timing};
use routelet::kube::status::{self, Agent, Facts, Rhythm};
use routelet::kube::watch::Pace;
use routelet_tests::fakeapi::{FakeApi, Fault};
use routelet_tests::harness;
use routelet_tests::kube_side::{self, FakeHost};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

/// Two interfaces, so that there is a choice.
const HOST: FakeHost = FakeHost(&[("eth0", "172.30.1.11/24"), ("bond0", "10.9.0.11/16")]);

/// An agent whose sessions are as the test says.
#[derive(Default)]
struct Sessions(Mutex<Facts>);

impl Agent for Sessions {
    async fn facts(&self) -> Facts {
        self.0.lock().expect("facts").clone()
    }
}

impl Sessions {
    fn set(&self, name: &str, state: &str) {
        let mut facts = self.0.lock().expect("facts");
        facts.peers.retain(|peer| peer.name != name);
        facts.peers.push(PeerStatus {
            name: name.to_owned(),
            peer_ip: "172.30.1.1".to_owned(),
            kind: "External".to_owned(),
            as_number: 65001,
            state: state.to_owned(),
            ..PeerStatus::default()
        });
    }
}

/// Starts the Kubernetes side of `node` with its reports.
fn start(api: &FakeApi, node: &str, rhythm: Rhythm) -> (Arc<Sessions>, TempDir) {
    let pace = Pace { watch: Duration::from_secs(30), ..Pace::default() };
    let timing = Timing { pace, quiet: Duration::from_millis(20), ..Timing::default() };
    let state_dir = tempfile::tempdir().expect("directory");
    let mut options = kube_side::options(api, node, state_dir.path(), timing);
    options.host = Arc::new(HOST);
    let client = options.client.clone();
    let states = source::start(options, None).expect("no file, no mistakes");
    let sessions = Arc::new(Sessions::default());
    tokio::spawn(status::report(client, node.to_owned(), states, sessions.clone(), rhythm));
    (sessions, state_dir)
}

const FAST: Rhythm = Rhythm {
    look: Duration::from_millis(50),
    burst: 100,
    interval: Duration::from_millis(50),
    again: Duration::from_millis(50),
};

async fn cluster() -> FakeApi {
    let api = FakeApi::start().await;
    for (name, last) in [("node-a", 1), ("node-b", 2), ("node-c", 3)] {
        api.node(name, &format!("172.30.1.1{last}"), &format!("10.244.{last}.0/24"));
    }
    api
}

fn report(api: &FakeApi) -> Value {
    api.get("bgpnodestatuses", "node-a").map_or(Value::Null, |object| object["status"].clone())
}

fn accepted(api: &FakeApi, resource: &str, name: &str) -> Value {
    let object = api.get(resource, name).unwrap_or_default();
    object["status"]["conditions"][0].clone()
}

#[tokio::test]
async fn a_report_is_written_when_something_changes_and_goes_with_its_node() {
    let api = cluster().await;
    let (sessions, _dir) = start(&api, "node-a", FAST);
    sessions.set("tor", "Active");
    api.until("a report", |api| report(api)["peers"][0]["state"] == "Active").await;
    let object = api.get("bgpnodestatuses", "node-a").expect("the report");
    let node = api.get("nodes", "node-a").expect("the node");
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);
    let status = report(&api);
    assert_eq!(status["address"], "172.30.1.11");
    assert_eq!(status["configuration"]["source"], "Live");
    assert!(status["addressChoice"][0].as_str().is_some_and(|words| words.contains("InternalIP")));
    sessions.set("tor", "Established");
    api.until("another", |api| report(api)["peersEstablished"] == 1).await;
    let writes = api.count("patch status", "bgpnodestatuses");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(api.count("patch status", "bgpnodestatuses"), writes, "nothing has changed");
    // Somebody deletes it: it comes back with the next change.
    api.delete("bgpnodestatuses", "node-a");
    sessions.set("tor", "Idle");
    api.until("it is back", |api| report(api)["peers"][0]["state"] == "Idle").await;
}

#[tokio::test]
async fn flapping_sessions_are_not_written_each_time() {
    let api = cluster().await;
    let rhythm = Rhythm { burst: 3, interval: Duration::from_secs(60), ..FAST };
    let (sessions, _dir) = start(&api, "node-a", rhythm);
    for flap in 0..20 {
        sessions.set("tor", if flap % 2 == 0 { "Active" } else { "Established" });
        sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(api.count("patch status", "bgpnodestatuses"), 3);
}

#[tokio::test]
async fn a_failing_api_server_is_asked_less_and_less() {
    let api = cluster().await;
    api.fault("bgpnodestatuses", Fault::Status(500));
    let (sessions, _dir) = start(&api, "node-a", FAST);
    sleep(Duration::from_secs(3)).await;
    let asked = api.count("patch", "bgpnodestatuses");
    assert!((3..=10).contains(&asked), "asked {asked} times");
    api.fault("bgpnodestatuses", Fault::None);
    sessions.set("tor", "Active");
    api.until("a report", |api| report(api)["peers"][0]["state"] == "Active").await;
}

#[tokio::test]
async fn objects_say_whether_they_are_accepted() {
    let api = cluster().await;
    api.custom("BGPPeer", "right", json!({"peerIP": "172.30.1.1", "asNumber": 65001}));
    api.custom("BGPPeer", "wrong", json!({"peerIP": "172.30.1.1", "asNumber": 65002}));
    api.custom("BGPPeer", "nobody", json!({"peerIP": "172.30.1.9", "asNumber": 1, "node": "none"}));
    api.custom("IPPool", "pods", json!({"cidr": "10.244.0.0/16"}));
    let agents: Vec<_> = ["node-a", "node-b", "node-c"].map(|node| start(&api, node, FAST)).into();
    let status = |api: &FakeApi, name| accepted(api, "bgppeers", name)["status"].clone();
    api.until("all conditions", |api| {
        status(api, "right") == "True"
            && status(api, "wrong") == "False"
            && status(api, "nobody") == "True"
            && accepted(api, "ippools", "pods")["status"] == "True"
    })
    .await;
    let wrong = accepted(&api, "bgppeers", "wrong");
    assert_eq!((&wrong["reason"], &wrong["observedGeneration"]), (&json!("Conflict"), &json!(1)));
    assert!(wrong["message"].as_str().is_some_and(|words| words.contains("right")), "{wrong}");
    assert_eq!(accepted(&api, "bgppeers", "nobody")["reason"], "NoNode");
    api.until("an Event", |api| !api.created().is_empty()).await;
    // One agent of the three writes each, once.
    sleep(Duration::from_millis(700)).await;
    assert_eq!(api.count("patch status", "bgppeers"), 3);
    assert_eq!(api.count("patch status", "ippools"), 1);
    let events = api.created();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["regarding"]["name"], "wrong");
    assert_eq!((&events[0]["type"], &events[0]["reason"]), (&json!("Warning"), &json!("Refused")));
    // Put right, it says so, and for the new generation.
    api.custom("BGPPeer", "wrong", json!({"peerIP": "172.30.1.2", "asNumber": 65002}));
    api.until("it is right", |api| accepted(api, "bgppeers", "wrong")["status"] == "True").await;
    assert_eq!(accepted(&api, "bgppeers", "wrong")["observedGeneration"], 2);
    drop(agents);
}

#[tokio::test]
async fn an_address_of_its_own_choice_is_told_and_taken_back() {
    let api = cluster().await;
    let (_sessions, _dir) = start(&api, "node-a", FAST);
    let annotation = |api: &FakeApi| {
        let node = api.get("nodes", "node-a").unwrap_or_default();
        node["metadata"]["annotations"]["routelet.dev/ipv4-address"].clone()
    };
    api.until("a report", |api| report(api)["address"] == "172.30.1.11").await;
    assert_eq!(api.count("patch", "nodes"), 0, "the InternalIP needs no telling");
    let choose = json!({"nodeAddressAutodetectionV4": {"interface": "bond*"}});
    api.custom("BGPConfiguration", "default", choose);
    api.until("the annotation", |api| annotation(api) == "10.9.0.11/16").await;
    api.until("the address", |api| report(api)["address"] == "10.9.0.11").await;
    api.custom("BGPConfiguration", "default", json!({}));
    api.until("an empty apply", |api| {
        let last =
            api.requests().into_iter().rfind(|one| one.resource == "nodes" && one.verb == "patch");
        last.is_some_and(|last| last.body["metadata"]["annotations"] == json!({}))
    })
    .await;
}

fn deploy(file: &str) -> Vec<Value> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "deploy", file].iter().collect();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    text.split("\n---\n")
        .filter(|text| text.lines().any(|line| !line.starts_with('#') && !line.is_empty()))
        .map(|text| serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}")))
        .collect()
}

/// Verbs by `group/resource`, of the roles in rbac.yaml.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let mut allowed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().cloned().unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    for role in deploy("rbac.yaml")
        .iter()
        .filter(|one| one["kind"].as_str().is_some_and(|kind| kind.ends_with("Role")))
    {
        for rule in role["rules"].as_array().expect("rules") {
            for resource in texts(&rule["resources"]) {
                allowed.entry(resource).or_default().extend(texts(&rule["verbs"]));
            }
        }
    }
    allowed
}

#[tokio::test]
async fn the_permissions_are_those_that_are_used_and_no_more() {
    let api = cluster().await;
    api.secret("kube-system", "routelet-passwords", "tor", "eA==");
    api.custom("BGPFilter", "f", json!({}));
    api.custom("IPPool", "p", json!({"cidr": "10.244.0.0/16"}));
    api.custom("BGPPeer", "wrong", json!({}));
    api.custom(
        "BGPPeer",
        "tor",
        json!({"peerIP": "172.30.1.1", "asNumber": 65001,
            "password": {"secretKeyRef": {"name": "routelet-passwords", "key": "tor"}}}),
    );
    let choose = json!({"nodeAddressAutodetectionV4": {"interface": "bond*"},
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]});
    api.custom("BGPConfiguration", "default", choose);
    let agents: Vec<_> = ["node-a", "node-b", "node-c"].map(|node| start(&api, node, FAST)).into();
    api.until("watches of Services", |api| {
        ["services", "endpointslices"].iter().all(|resource| api.count("watch", resource) > 0)
    })
    .await;
    api.until("an Event", |api| !api.created().is_empty()).await;
    api.until("every condition", |api| {
        ["bgpfilters", "ippools", "bgpconfigurations"]
            .iter()
            .all(|resource| api.count("patch status", resource) > 0)
    })
    .await;
    api.until("a watch of the Secret", |api| api.count("watch", "secrets") > 0).await;
    api.until("the annotation", |api| api.count("patch", "nodes") > 0).await;
    api.until("the condition", |api| api.count("patch status", "nodes") > 0).await;
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for request in api.requests() {
        let (verb, resource) = match request.verb.strip_suffix(" status") {
            Some(verb) => (verb.to_owned(), format!("{}/status", request.resource)),
            None => (request.verb, request.resource),
        };
        used.entry(resource).or_default().insert(verb);
    }
    let mut allowed = allowed();
    // Server-side apply creates what is not there, and an Event that happens again is patched.
    assert!(allowed.get_mut("bgpnodestatuses").expect("reports").remove("create"));
    assert!(allowed.get_mut("events").expect("events").remove("patch"));
    assert_eq!(used, allowed);
    drop(agents);
}

#[test]
fn the_daemon_set_fits_the_agent() {
    let set = &deploy("daemonset.yaml")[0];
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let texts = |args: &Value| -> Vec<String> {
        let args = args.as_array().expect("args").iter();
        args.map(|arg| arg.as_str().expect("text").to_owned()).collect()
    };
    // The arguments are a command line of this agent, the probes are paths and a port of it.
    let mut run = vec!["routelet".to_owned()];
    run.extend(texts(&container["args"]));
    Cli::try_parse_from(&run).expect("the arguments");
    assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/livez", "port": "metrics"}));
    assert_eq!(
        container["readinessProbe"]["httpGet"],
        json!({"path": "/readyz", "port": "metrics"})
    );
    let port = &container["ports"][0];
    assert_eq!(port["name"], "metrics");
    assert_eq!(port["containerPort"], routelet::config::metrics::PORT);
    let command = Cli::command();
    let known: BTreeSet<String> = command
        .find_subcommand("run")
        .expect("run")
        .get_arguments()
        .filter_map(|arg| arg.get_env().map(|name| name.to_string_lossy().into_owned()))
        .collect();
    for variable in container["env"].as_array().expect("env") {
        let name = variable["name"].as_str().expect("name");
        assert!(known.contains(name), "the agent does not read {name}");
    }
    let added = &container["securityContext"]["capabilities"];
    assert_eq!(added["add"], json!(["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"]));
    assert_eq!(added["drop"], json!(["ALL"]));
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    let paths: BTreeSet<&str> = pod["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .filter_map(|volume| volume["hostPath"]["path"].as_str())
        .collect();
    let socket = Path::new(routelet::config::DEFAULT_SOCKET).parent().and_then(Path::to_str);
    let used: BTreeSet<&str> =
        ["/proc/sys/net", source::STATE_DIR, socket.expect("a directory"), routelet::cni::CONF_DIR]
            .into();
    assert_eq!(paths, used);
    for mount in container["volumeMounts"].as_array().expect("mounts") {
        let volume = pod["volumes"]
            .as_array()
            .expect("volumes")
            .iter()
            .find(|volume| volume["name"] == mount["name"]);
        let path = &volume.expect("its volume")["hostPath"]["path"];
        if path == "/proc/sys/net" {
            assert_eq!(mount["mountPath"], routelet::kernel::MOUNTED_SYSCTLS);
        } else {
            assert_eq!(&mount["mountPath"], path);
        }
    }
    assert_eq!(
        container["volumeMounts"].as_array().map(Vec::len),
        pod["volumes"].as_array().map(Vec::len),
        "a volume that is not mounted, or mounted twice"
    );
    for (key, wanted) in [("hostNetwork", json!(true)), ("hostPID", json!(null))] {
        assert_eq!(pod[key], wanted, "{key}");
    }
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
    // The image is the one that this version is built into.
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(container["image"], format!("routelet:{version}"));
    let account = &deploy("rbac.yaml")[0];
    assert_eq!(account["metadata"]["name"], pod["serviceAccountName"]);
    assert_eq!(account["metadata"]["namespace"], set["metadata"]["namespace"]);
}

/// deploy/routelet.yaml is for those who have nothing but a URL; the parts are what is edited.
#[test]
fn the_one_file_is_the_sum_of_the_parts() {
    let kustomization = &deploy("kustomization.yaml")[0];
    let parts = kustomization["resources"].as_array().expect("resources");
    let sum: Vec<Value> =
        parts.iter().flat_map(|part| deploy(part.as_str().expect("a file"))).collect();
    let one = deploy("routelet.yaml");
    assert!(one.len() > 10);
    assert!(one == sum, "deploy/routelet.yaml is old: run `make manifests`");
}

#[tokio::test]
async fn the_examples_are_accepted() {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "deploy", "examples"].iter().collect();
    let files = std::fs::read_dir(folder).expect("the examples");
    let mut files: Vec<String> =
        files.map(|file| file.expect("a file").file_name().display().to_string()).collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    for file in &files {
        let api = cluster().await;
        api.put(
            "secrets",
            json!({
                "metadata": {"name": "routelet-passwords", "namespace": "kube-system"},
                "data": {"rack-1": "aHVudGVyMg==", "rack-2": "aHVudGVyMw=="},
            }),
        );
        api.edit("nodes", "node-a", |node| {
            node["metadata"]["labels"]["topology.example.com/rack"] = json!("r1");
        });
        api.edit("nodes", "node-c", |node| {
            node["metadata"]["labels"]["route-reflector"] = json!("");
            node["metadata"]["annotations"]["routelet.dev/route-reflector-cluster-id"] =
                json!("10.0.0.1");
        });
        let objects = deploy(&format!("examples/{file}"));
        for object in &objects {
            let (kind, name) = (object["kind"].as_str(), object["metadata"]["name"].as_str());
            api.custom(kind.expect("kind"), name.expect("name"), object["spec"].clone());
        }
        let agents: Vec<_> =
            ["node-a", "node-b", "node-c"].map(|node| start(&api, node, FAST)).into();
        for object in &objects {
            let kind = object["kind"].as_str().expect("kind").to_lowercase();
            let name = object["metadata"]["name"].as_str().expect("name").to_owned();
            api.until(&format!("{file}: {kind} {name} is accepted"), |api| {
                accepted(api, &format!("{kind}s"), &name)["status"] == "True"
            })
            .await;
        }
        drop(agents);
    }
}

/// A daemon that ends with the test.
struct Daemon(std::process::Child);

impl Daemon {
    fn start(api: &FakeApi, node: &str, directory: &Path) -> Self {
        let directory = directory.join(node);
        std::fs::create_dir_all(&directory).expect("directory");
        let kubeconfig = directory.join("kubeconfig");
        let credentials = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": api.url()}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "nobody"}}],
            "users": [{"name": "nobody", "user": {}}],
        });
        std::fs::write(&kubeconfig, credentials.to_string()).expect("kubeconfig");
        let file = directory.join("base.yaml");
        let here = directory.display();
        let base = format!(
            "kernel: {{enabled: false}}\napi: {{socket: {here}/socket}}\nstateDir: {here}/state\n"
        );
        std::fs::write(&file, base).expect("base");
        let log = std::fs::File::create(directory.join("log")).expect("log");
        let child = std::process::Command::new(harness::routelet().expect("the agent's binary"))
            .args(["run", "--kubernetes", "--config"])
            .arg(&file)
            .env("KUBECONFIG", &kubeconfig)
            .env("NODE_NAME", node)
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The whole program, twice: two nodes find each other through the API server and nothing else.
#[tokio::test]
async fn two_agents_mesh_through_the_api_server() {
    let api = FakeApi::start().await;
    api.node("node-a", "127.0.0.11", "10.244.1.0/24");
    api.node("node-b", "127.0.0.12", "10.244.2.0/24");
    api.custom("BGPConfiguration", "default", json!({"listenPort": 17911}));
    let directory = tempfile::tempdir().expect("directory");
    let status = |api: &FakeApi, node: &str| {
        api.get("bgpnodestatuses", node).map_or(Value::Null, |object| object["status"].clone())
    };
    let _a = Daemon::start(&api, "node-a", directory.path());
    let b = Daemon::start(&api, "node-b", directory.path());
    // The first report may come before the session, the next one 5 s after.
    api.until("both report the session", |api| {
        status(api, "node-a")["peersEstablished"] == 1
            && status(api, "node-b")["peersEstablished"] == 1
    })
    .await;
    assert_eq!(status(&api, "node-a")["configuration"]["source"], "Live");
    assert!(directory.path().join("node-a/state/kubernetes.json").exists());
    // A Node that goes takes the peer with it, live.
    drop(b);
    api.delete("nodes", "node-b");
    api.until("no peer is left", |api| status(api, "node-a")["peersTotal"] == 0).await;
}
