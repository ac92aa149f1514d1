//! What the server says of deploy/, of the rules in the definitions, and of the examples.

use std::fs;

use anyhow::{Context, ensure};
use routelet_tests::harness::eventually;
use routelet_tests::scene::Scene;
use serde_json::Value;

use crate::cluster::{PATIENCE, cluster, deploy};

/// Every manifest is accepted as it is, without a field that the server does not know.
pub fn manifests_are_accepted(_: &Scene) -> anyhow::Result<()> {
    let cluster = cluster()?;
    let crds = cluster.api.json(&["crd"])?;
    let crds = crds["items"].as_array().context("no definitions")?;
    ensure!(crds.len() == 5, "there are {}", crds.len());
    for crd in crds {
        let conditions = crd["status"]["conditions"].as_array().context("no conditions")?;
        for (kind, wanted) in [("Established", "True"), ("NamesAccepted", "True")] {
            let found = conditions.iter().find(|condition| condition["type"] == kind);
            ensure!(
                found.is_some_and(|condition| condition["status"] == wanted),
                "{}: {conditions:?}",
                crd["metadata"]["name"]
            );
        }
        // Only there when the schema is not structural, or the like.
        let bad: Vec<&Value> = conditions
            .iter()
            .filter(|condition| {
                condition["type"] != "Established"
                    && condition["type"] != "NamesAccepted"
                    && condition["status"] == "True"
            })
            .collect();
        ensure!(bad.is_empty(), "{}: {bad:?}", crd["metadata"]["name"]);
    }
    let policy = cluster.api.json(&["validatingadmissionpolicy", "routelet-own-node"])?;
    let warnings = &policy["status"]["typeChecking"]["expressionWarnings"];
    ensure!(warnings.is_null(), "the policy's expressions: {warnings}");
    let set = cluster.api.json(&["daemonset", "-n", "kube-system", "routelet"])?;
    ensure!(set["spec"]["updateStrategy"]["type"] == "RollingUpdate", "{set}");
    // Applied once more, nothing changes: the server keeps every field as it was written.
    let path = deploy();
    let path = path.to_str().context("the path of deploy/ is no text")?;
    let again = cluster.api.kubectl(&["apply", "--validate=strict", "-k", path])?;
    ensure!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    // The one file is the same.
    let path = format!("{path}/routelet.yaml");
    let again = cluster.api.kubectl(&["apply", "--validate=strict", "-f", &path])?;
    ensure!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    Ok(())
}

/// The cases that the unit tests judge with another implementation of CEL.
pub fn rules_refuse_what_is_wrong(_: &Scene) -> anyhow::Result<()> {
    let cluster = cluster()?;
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../../../agent/src/kube/crd/cases.json"))?;
    let mut wrong = Vec::new();
    for case in &cases {
        let object = serde_json::json!({
            "apiVersion": "routelet.dev/v1alpha1", "kind": case["kind"],
            "metadata": {"name": case["name"]}, "spec": case["spec"],
        });
        let arguments = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = cluster.api.run(&arguments, &object.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let well = match case["refused"].as_str() {
            None => output.status.success(),
            Some(words) => !output.status.success() && said.contains(words),
        };
        if !well {
            wrong.push(format!("{case}: {}: {said}", output.status));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// `kubectl apply` of each example, and the columns that `kubectl get` shows of it.
pub fn examples_are_accepted(_: &Scene) -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut files: Vec<_> = fs::read_dir(deploy().join("examples"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    ensure!(files.len() >= 4, "the examples are {files:?}");
    for file in &files {
        let text = fs::read_to_string(file)?;
        cluster.api.apply(&text).with_context(|| file.display().to_string())?;
    }
    eventually("the columns", PATIENCE, || {
        let peers = cluster.api.kubectl(&["get", "bgpp"])?;
        for words in ["NAME", "PEER", "AS", "ACCEPTED", "tor-rack-1", "172.30.1.1", "65001"] {
            ensure!(peers.contains(words), "no {words} in\n{peers}");
        }
        Ok(())
    })
}
