//! `kubectl routelet`, the program as a user runs it: against an API server in this process, with a
//! `kubectl` that writes down how it was called.

#![allow(clippy::disallowed_methods, reason = "tests wait for real tasks and sockets")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Output;

use routelet_tests::fakeapi::{FakeApi, Fault};
use routelet_tests::harness;
use serde_json::{Value, json};
use tempfile::TempDir;

struct Plugin {
    api: FakeApi,
    directory: TempDir,
}

impl Plugin {
    async fn new() -> Self {
        let api = FakeApi::start().await;
        for (name, last) in [("node-a", 1), ("node-b", 2), ("node-c", 3)] {
            api.node(name, &format!("172.30.1.1{last}"), &format!("10.244.{last}.0/24"));
        }
        let report = |name: &str, ready: &str, message: &str, peers: Value| {
            json!({
                "apiVersion": "routelet.dev/v1alpha1", "kind": "BGPNodeStatus",
                "metadata": {"name": name}, "spec": {},
                "status": {
                    "version": "0.1.0", "address": "172.30.1.11", "asNumber": 64512,
                    "routerID": "172.30.1.11", "peersTotal": 5, "peersEstablished": 4,
                    "configuration": {"source": "Live", "generation": 1}, "peers": peers,
                    "conditions": [{"type": "Ready", "status": ready, "reason": "r",
                        "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                },
            })
        };
        let tor = json!({"name": "tor", "peerIP": "172.30.1.1", "kind": "External",
            "asNumber": 65001, "state": "Established"});
        let down = json!({"name": "node-z", "peerIP": "172.30.1.99", "kind": "Mesh",
            "asNumber": 64512, "state": "Active", "lastError": "no route to host"});
        api.put("bgpnodestatuses", report("node-a", "True", "", json!([tor, down])));
        api.put("bgpnodestatuses", report("node-b", "False", "the first sync", json!([])));
        for (name, node) in [("routelet-1", "node-a"), ("routelet-2", "node-b")] {
            api.put(
                "pods",
                json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": name, "namespace": "kube-system"},
                    "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"},
                }),
            );
        }
        let directory = tempfile::tempdir().expect("directory");
        let here = directory.path();
        let credentials = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": api.url()}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "nobody"}}],
            "users": [{"name": "nobody", "user": {}}],
        });
        fs::write(here.join("kubeconfig"), credentials.to_string()).expect("kubeconfig");
        symlink(harness::routelet().expect("the binary"), here.join("kubectl-routelet"))
            .expect("link");
        fs::create_dir(here.join("bin")).expect("bin");
        let kubectl = here.join("bin/kubectl");
        fs::write(&kubectl, "#!/bin/sh\necho \"$@\"\nexit 7\n").expect("kubectl");
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).expect("mode");
        Self { api, directory }
    }

    async fn run(&self, line: &str) -> Output {
        let here = self.directory.path();
        let mut command = std::process::Command::new(here.join("kubectl-routelet"));
        command
            .args(line.split(' '))
            .env("KUBECONFIG", here.join("kubeconfig"))
            .env("PATH", format!("{}:/bin:/usr/bin", here.join("bin").display()));
        // The server runs in this process: it must go on meanwhile.
        tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("no panic")
            .expect("it runs")
    }

    async fn text(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_shown_at_once_and_one_without_a_report_is_named() {
    let plugin = Plugin::new().await;
    let status = plugin.text("status").await;
    let lines: Vec<Vec<&str>> =
        status.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["NODE", "READY", "PEERS"]);
    assert_eq!(lines[1][..3], ["node-a", "True", "4/5"]);
    assert_eq!(lines[2][..3], ["node-b", "False", "4/5"]);
    assert_eq!(lines[3][..3], ["node-c", "no", "report"]);
    assert!(status.contains("the first sync"), "{status}");

    let peers = plugin.text("peers -o wide").await;
    assert!(peers.contains("no route to host") && peers.contains("(3 of the mesh)"), "{peers}");
    let peers: Value = serde_json::from_str(&plugin.text("peers -o json").await).expect("JSON");
    assert_eq!((&peers[0]["node"], &peers[0]["name"]), (&json!("node-a"), &json!("tor")));

    let failed = plugin.run("peers --check").await;
    assert_eq!(failed.status.code(), Some(1));
    let words = String::from_utf8(failed.stderr).expect("text");
    assert!(words.contains("node-a: peer node-z is Active, not Established: no route to host"));
    assert!(words.contains("node-c: no agent has reported"), "{words}");
    let failed = plugin.run("status --ready").await;
    let words = String::from_utf8(failed.stderr).expect("text");
    assert!(words.contains("node-b: the first sync"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_asked_in_its_pod_and_its_exit_code_is_ours() {
    let plugin = Plugin::new().await;
    let output = plugin.run("explain 10.244.3.7 --node node-b").await;
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).expect("text").trim(),
        "--namespace kube-system exec routelet-2 --container routelet -- routelet explain 10.244.3.7 --output table"
    );
    let words = |output: Output| String::from_utf8(output.stderr).expect("text");
    let none = words(plugin.run("routes --node node-c").await);
    assert!(none.contains("no agent of routelet runs on a node node-c"), "{none}");
    let which = words(plugin.run("routes").await);
    assert!(which.contains("--node NAME"), "{which}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_with_the_fix() {
    let mut plugin = Plugin::new().await;
    let words = |output: Output| {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    for (code, fix) in [(404, "kubectl apply -k deploy"), (403, "--context")] {
        plugin.api.fault("bgpnodestatuses", Fault::Status(code));
        let said = words(plugin.run("status").await);
        assert!(said.contains(fix), "{said}");
    }
    plugin.api.fault("bgpnodestatuses", Fault::None);
    // Without the Nodes the reports are still there.
    plugin.api.fault("nodes", Fault::Status(403));
    let output = plugin.run("status").await;
    assert!(output.status.success());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("node-c"));
    plugin.api.down().await;
    let said = words(plugin.run("status").await);
    assert!(said.contains("cannot reach the API server"), "{said}");
    let said = words(plugin.run("status --kubeconfig /nowhere").await);
    assert!(said.contains("cannot read /nowhere"), "{said}");
}
