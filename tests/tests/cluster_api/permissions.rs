//! What the service account may do: all that the agents ask for, nothing else, and about its own node
//! only.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, ensure};
use routelet_tests::apiserver::AGENT;
use routelet_tests::harness::eventually;
use routelet_tests::scene::Scene;
use serde_json::Value;

use crate::agents::accepted;
use crate::cluster::{Cluster, PATIENCE, cluster, deploy};

/// A verb, the API group, and the resource with its subresource.
type Access = (String, String, String);

/// What rbac.yaml grants.
fn granted() -> anyhow::Result<BTreeSet<Access>> {
    let text = fs::read_to_string(deploy().join("rbac.yaml"))?;
    let mut all = BTreeSet::new();
    for document in text.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(document)?;
        for rule in object["rules"].as_array().into_iter().flatten() {
            let texts = |key: &str| -> Vec<String> {
                let list = rule[key].as_array().cloned().unwrap_or_default();
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            };
            for verb in texts("verbs") {
                for group in texts("apiGroups") {
                    for resource in texts("resources") {
                        all.insert((verb.clone(), group.clone(), resource));
                    }
                }
            }
        }
    }
    Ok(all)
}

/// What the agents asked for since the log had `from` lines; everything of it was allowed.
fn used(cluster: &Cluster, from: usize) -> anyhow::Result<BTreeSet<Access>> {
    let mut all = BTreeSet::new();
    for event in cluster.api.audit()?.iter().skip(from) {
        let object = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let subresource = text(&object["subresource"]);
        let resource = text(&object["resource"]);
        let resource =
            if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") };
        let refused = event["annotations"]["authorization.k8s.io/decision"] == "forbid";
        ensure!(!refused, "an agent is not allowed to: {event}");
        // Applied for the first time, an object is made.
        let made = event["verb"] == "patch" && event["responseStatus"]["code"] == 201;
        if made {
            all.insert(("create".to_owned(), text(&object["apiGroup"]), resource.clone()));
        }
        all.insert((text(&event["verb"]), text(&object["apiGroup"]), resource));
    }
    Ok(all)
}

/// A cluster in which agents do everything that they can do, and the audit log of it.
pub fn suffice_and_no_more(scene: &Scene) -> anyhow::Result<()> {
    let cluster = cluster()?;
    let from = cluster.api.audit()?.len();
    cluster.api.kubectl(&[
        "create",
        "secret",
        "generic",
        "routelet-passwords",
        "--namespace=kube-system",
        "--from-literal=tor=hunter2",
    ])?;
    cluster.api.apply(EVERYTHING)?;
    let _one = cluster.place(scene, 1)?;
    let _two = cluster.place(scene, 2)?;
    // An Event that happens again within minutes is counted, not made anew. The first refusal has other
    // words than those that follow: there is no accepted version before it.
    accepted(&cluster, "bgppeer/wrong", "False")?;
    for (address, status) in [("172.30.1.201", "True"), ("172.30.1.200", "False")].repeat(2) {
        let change = format!("{{\"spec\":{{\"peerIP\":\"{address}\"}}}}");
        cluster.api.kubectl(&["patch", "bgppeer/wrong", "--type=merge", "--patch", &change])?;
        accepted(&cluster, "bgppeer/wrong", status)?;
    }
    let granted = granted()?;
    eventually("every permission in use", PATIENCE, || {
        let used = used(&cluster, from)?;
        let more: Vec<_> = used.difference(&granted).collect();
        ensure!(more.is_empty(), "used and not granted by rbac.yaml: {more:?}");
        let unused: Vec<_> = granted.difference(&used).collect();
        ensure!(unused.is_empty(), "granted and never used: {unused:?}");
        Ok(())
    })?;
    // Beyond that: what a stolen token could be used for.
    for (verb, resource) in [
        ("get", "pods"),
        ("list", "secrets"),
        ("get", "secrets/other"),
        ("delete", "nodes"),
        ("create", "bgppeers.routelet.dev"),
        ("update", "bgpconfigurations.routelet.dev"),
        ("create", "clusterroles.rbac.authorization.k8s.io"),
    ] {
        let user = format!("--as={AGENT}");
        let arguments = ["auth", "can-i", verb, resource, "-n", "kube-system", user.as_str()];
        let output = cluster.api.run(&arguments, "")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(said.trim() == "no", "{verb} {resource}: {said}");
    }
    Ok(())
}

/// Each kind once, one object that is refused, a password, and an address that is no InternalIP.
const EVERYTHING: &str = "apiVersion: routelet.dev/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeAddressAutodetectionV4: {cidrs: [172.31.9.0/24]}, serviceClusterIPs: [{cidr: 10.96.0.0/12}]}
---
apiVersion: routelet.dev/v1alpha1
kind: BGPFilter
metadata: {name: f}
spec: {}
---
apiVersion: routelet.dev/v1alpha1
kind: IPPool
metadata: {name: p}
spec: {cidr: 10.244.0.0/16}
---
apiVersion: routelet.dev/v1alpha1
kind: BGPPeer
metadata: {name: tor}
spec:
  peerIP: 172.30.1.200
  asNumber: 65001
  password: {secretKeyRef: {name: routelet-passwords, key: tor}}
---
apiVersion: routelet.dev/v1alpha1
kind: BGPPeer
metadata: {name: wrong}
spec: {peerIP: 172.30.1.200, asNumber: 65002}
";

/// An agent's token writes about its own node, and is refused for any other.
pub fn own_node_only(_: &Scene) -> anyhow::Result<()> {
    let cluster = cluster()?;
    for number in 1..=2 {
        cluster.api.node(
            &format!("node-{number}"),
            &format!("172.30.1.{}", 10 + number),
            &format!("10.244.{number}.0/24"),
        )?;
    }
    let kubeconfig = cluster.api.agent("node-1")?;
    let kubeconfig = kubeconfig.to_str().context("the path is no text")?.to_owned();
    let attempt = |arguments: &[&str], input: &str| -> anyhow::Result<(bool, String)> {
        let mut all = vec!["--kubeconfig", kubeconfig.as_str()];
        all.extend(arguments);
        let output = cluster.api.run(&all, input)?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let report = |node: &str| {
        format!(
            "apiVersion: routelet.dev/v1alpha1\nkind: BGPNodeStatus\nmetadata: {{name: {node}}}\nspec: {{}}\n"
        )
    };
    let apply =
        ["apply", "--server-side", "--field-manager=routelet", "--validate=false", "-f", "-"];
    let note = |node: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, annotations: {{routelet.dev/ipv4-address: 172.30.1.99/24}}}}\n"
        )
    };
    for (what, own, other) in [
        ("a report", report("node-1"), report("node-2")),
        ("an annotation", note("node-1"), note("node-2")),
    ] {
        let (well, said) = attempt(&apply, &own)?;
        ensure!(well, "{what} about its own node: {said}");
        let (well, said) = attempt(&apply, &other)?;
        ensure!(!well && said.contains("its own node only"), "{what} about another: {said}");
    }
    // The same through the status of a report that is there.
    cluster.api.apply(&report("node-2"))?;
    let status = |node: &str| {
        let text = report(node).replace("spec: {}", "status: {address: 192.0.2.1}");
        attempt(&[&apply[..], &["--subresource=status"]].concat(), &text)
    };
    let (well, said) = status("node-1")?;
    ensure!(well, "the status of its own report: {said}");
    let (well, said) = status("node-2")?;
    ensure!(!well && said.contains("its own node only"), "the status of another: {said}");
    // A token that belongs to no pod names no node, and may write nothing.
    let loose = cluster.api.kubectl(&["create", "token", "routelet", "-n", "kube-system"])?;
    let path = cluster.api.credentials("loose", loose.trim())?;
    let path = path.to_str().context("the path is no text")?;
    let mut all = vec!["--kubeconfig", path];
    all.extend(apply);
    let output = cluster.api.run(&all, &report("node-1"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = !output.status.success() && said.contains("its own node only");
    ensure!(refused, "a token without a node writes: {said}");
    Ok(())
}
