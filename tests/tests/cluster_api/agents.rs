//! Agents that know each other through the server only: sessions, kernel routes, and what `kubectl`
//! changes while they run.

use std::fs;

use anyhow::{Context, ensure};
use routelet_tests::harness::{eventually, ip};
use routelet_tests::scene::{Scene, pings};
use serde_json::Value;

use crate::cluster::{Cluster, Member, PATIENCE, cluster};

/// That a node's kernel has a route of ours to `prefix`, or has not.
fn routed(member: &Member, prefix: &str, wanted: bool) -> anyhow::Result<()> {
    eventually(&format!("{prefix} on {}", member.name), PATIENCE, || {
        let routes = ip(&member.netns, &format!("route show {prefix} proto 179"))?;
        ensure!(routes.is_empty() != wanted, "the kernel has {routes:?}");
        Ok(())
    })
}

/// Waits until an object has a condition Accepted with this status, and gives its message.
pub fn accepted(cluster: &Cluster, object: &str, status: &str) -> anyhow::Result<String> {
    eventually(&format!("{object} Accepted {status}"), PATIENCE, || {
        let found = cluster.api.json(&[object])?;
        let condition = &found["status"]["conditions"][0];
        ensure!(condition["status"] == status, "the condition is {condition}");
        ensure!(
            condition["observedGeneration"] == found["metadata"]["generation"],
            "it is about another generation: {condition}"
        );
        Ok(condition["message"].as_str().unwrap_or_default().to_owned())
    })
}

/// Two agents with the DaemonSet's credentials mesh, pods reach each other, and edits take effect.
pub fn mesh_and_edits(scene: &Scene) -> anyhow::Result<()> {
    let cluster = cluster()?;
    let one = cluster.place(scene, 1)?;
    let two = cluster.place(scene, 2)?;
    one.established(&["node-2"])?;
    two.established(&["node-1"])?;
    routed(&one, "10.244.2.0/24", true)?;
    routed(&two, "10.244.1.0/24", true)?;
    pings(&one.pod, two.pod_address)?;
    eventually("the CNI configuration", PATIENCE, || {
        let list = fs::read_to_string(one.folder.join("cni/10-routelet.conflist"))?;
        ensure!(list.contains("10.244.1.0/24"), "{list}");
        Ok(())
    })?;
    eventually("the reports", PATIENCE, || {
        let reports = cluster.api.kubectl(&["get", "bgpnodestatuses"])?;
        for words in ["ADDRESS", "node-1", "node-2", "172.30.1.11", "64512", "Live"] {
            ensure!(reports.contains(words), "no {words} in\n{reports}");
        }
        let report = cluster.api.json(&["bgpnodestatus", "node-1"])?;
        ensure!(report["status"]["peersEstablished"] == 1, "{report}");
        ensure!(report["metadata"]["ownerReferences"][0]["name"] == "node-1", "{report}");
        Ok(())
    })?;
    let flaps = session(&one, "node-2")?["flaps"].clone();

    // A router appears: another peer, and the session of the mesh does not notice.
    let tor = |asn: u32| {
        format!(
            "apiVersion: routelet.dev/v1alpha1\nkind: BGPPeer\nmetadata: {{name: tor}}\n\
             spec: {{node: node-1, peerIP: 172.30.1.200, asNumber: {asn}}}\n"
        )
    };
    cluster.api.apply(&tor(65001))?;
    has_peer(&one, "tor", 65001)?;
    accepted(&cluster, "bgppeer/tor", "True")?;
    cluster.api.kubectl(&["patch", "bgpp", "tor", "--type=merge", "-p", AS_65002])?;
    has_peer(&one, "tor", 65002)?;
    accepted(&cluster, "bgppeer/tor", "True")?;
    cluster.api.kubectl(&["delete", "bgppeer", "tor"])?;
    one.established(&["node-2"])?;
    let now = session(&one, "node-2")?["flaps"].clone();
    ensure!(
        flaps.is_u64() && now == flaps,
        "another peer reset the mesh: {flaps} flaps, then {now}"
    );

    // An AS of its own: the session comes back as eBGP.
    cluster.api.kubectl(&["annotate", "node", "node-2", "routelet.dev/as-number=64600"])?;
    eventually("node-2 in another AS", PATIENCE, || {
        let peers = one.peers()?;
        let wanted = ("node-2".to_owned(), "Established".to_owned(), 64600);
        ensure!(peers == [wanted], "they are {peers:?}");
        Ok(())
    })?;
    routed(&one, "10.244.2.0/24", true)?;

    // A Node that goes takes its routes with it.
    cluster.api.kubectl(&["delete", "node", "node-2", "--wait=false"])?;
    one.established(&[])?;
    routed(&one, "10.244.2.0/24", false)?;
    for member in [&one, &two] {
        let log = member.log();
        ensure!(!log.contains("not allowed"), "{}:\n{log}", member.name);
    }
    Ok(())
}

const AS_65002: &str = "{\"spec\": {\"asNumber\": 65002}}";

fn has_peer(member: &Member, name: &str, asn: u64) -> anyhow::Result<()> {
    eventually(&format!("the peer {name} of AS {asn}"), PATIENCE, || {
        let peers = member.peers()?;
        let found = peers.iter().any(|peer| (peer.0.as_str(), peer.2) == (name, asn));
        ensure!(found, "they are {peers:?}");
        Ok(())
    })
}

fn session(member: &Member, name: &str) -> anyhow::Result<Value> {
    let peers = member.json(&["peers"])?;
    let peers = peers.as_array().context("no list")?;
    peers.iter().find(|peer| peer["name"] == name).cloned().context("no such peer")
}

/// Objects that contradict each other, a password that comes late: conditions and Events.
pub fn refusals_are_told(scene: &Scene) -> anyhow::Result<()> {
    let cluster = cluster()?;
    let one = cluster.place(scene, 1)?;
    one.established(&[])?;
    let peer = |name: &str, address: &str, more: &str| {
        format!(
            "apiVersion: routelet.dev/v1alpha1\nkind: BGPPeer\nmetadata: {{name: {name}}}\n\
             spec: {{peerIP: {address}, asNumber: 65001{more}}}\n"
        )
    };
    cluster.api.apply(&peer("first", "172.30.1.200", ""))?;
    accepted(&cluster, "bgppeer/first", "True")?;
    cluster.api.apply(&peer("second", "172.30.1.200", ""))?;
    let words = accepted(&cluster, "bgppeer/second", "False")?;
    ensure!(words.contains("first"), "it does not say with whom: {words}");
    eventually("an Event", PATIENCE, || {
        let events = cluster.api.kubectl(&["get", "events", "--all-namespaces"])?;
        ensure!(events.contains("Refused") && events.contains("bgppeer/second"), "{events}");
        Ok(())
    })?;
    cluster.api.apply(&peer("second", "172.30.1.201", ""))?;
    accepted(&cluster, "bgppeer/second", "True")?;

    let password = ", password: {secretKeyRef: {name: routelet-passwords, key: tor}}";
    cluster.api.apply(&peer("third", "172.30.1.202", password))?;
    let words = accepted(&cluster, "bgppeer/third", "False")?;
    ensure!(words.contains("routelet-passwords"), "{words}");
    cluster.api.kubectl(&[
        "create",
        "secret",
        "generic",
        "routelet-passwords",
        "--namespace=kube-system",
        "--from-literal=tor=hunter2",
    ])?;
    accepted(&cluster, "bgppeer/third", "True")?;
    // A Secret that the permissions do not name.
    let password = ", password: {secretKeyRef: {name: others, key: tor}}";
    cluster.api.apply(&peer("fourth", "172.30.1.203", password))?;
    accepted(&cluster, "bgppeer/fourth", "False")?;
    has_peer(&one, "third", 65001)?;
    let log = one.log();
    ensure!(!log.contains("hunter2"), "a password in the log:\n{log}");
    let all = cluster.api.kubectl(&["get", "bgpnodestatuses,bgppeers,events", "-o", "yaml"])?;
    ensure!(!all.contains("hunter2"), "a password in an object:\n{all}");
    Ok(())
}

/// The server dies and comes back without what it had in memory: sessions stand, edits take effect.
pub fn the_server_restarts(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = cluster()?;
    let one = cluster.place(scene, 1)?;
    let mut two = cluster.place(scene, 2)?;
    one.established(&["node-2"])?;
    two.established(&["node-1"])?;
    let flaps = session(&one, "node-2")?["flaps"].clone();
    cluster.api.down();
    eventually("word of it", PATIENCE, || {
        let status = one.json(&["status"])?.to_string();
        ensure!(status.contains("nodes: "), "{status}");
        Ok(())
    })?;
    let now = session(&one, "node-2")?["flaps"].clone();
    ensure!(flaps.is_u64() && now == flaps, "the session was reset: {flaps} flaps, then {now}");
    // An agent that starts meanwhile begins from its disk.
    two.stop()?;
    two.start()?;
    two.established(&["node-1"])?;
    let status = two.json(&["status"])?.to_string();
    ensure!(status.contains("running with the configuration of"), "{status}");
    cluster.api.up()?;
    cluster.api.kubectl(&["annotate", "node", "node-2", "routelet.dev/as-number=64600"])?;
    eventually("an edit after the restart", PATIENCE, || {
        let peers = one.peers()?;
        let wanted = ("node-2".to_owned(), "Established".to_owned(), 64600);
        ensure!(peers == [wanted], "they are {peers:?}");
        Ok(())
    })?;
    eventually("its own view of it", PATIENCE, || {
        let status = two.json(&["status"])?.to_string();
        ensure!(!status.contains("running with the configuration of"), "{status}");
        Ok(())
    })?;
    Ok(())
}
