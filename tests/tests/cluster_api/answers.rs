//! The fake API server (tests/src/fakeapi) is asked the same questions as a real one, and must answer
//! the same: status and body, without what differs from one server to the next.

use anyhow::{Context, bail, ensure};
use axum::http::{Method, Request};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use routelet_tests::fakeapi::FakeApi;
use routelet_tests::scene::Scene;
use serde_json::{Value, json};

use crate::cluster::{Cluster, cluster};

const GROUP: &str = "/apis/routelet.dev/v1alpha1";

/// Both answer alike to lists, pages, watches, applies, and to what is wrong with each.
pub fn the_fake_answers_like_the_real_one(_: &Scene) -> anyhow::Result<()> {
    let cluster = cluster()?;
    let netns = cluster.netns.clone();
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(compare(&cluster))
    })
}

async fn compare(cluster: &Cluster) -> anyhow::Result<()> {
    let path = cluster.api.folder().join("admin.kubeconfig");
    let config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default())
            .await?;
    let real = Client::try_from(config)?;
    let fake_server = FakeApi::start().await;
    let fake = Client::try_from(Config::new(fake_server.url().parse()?))?;
    let both = [("real", &real), ("fake", &fake)];

    // The same objects on both, made by apply as the agent does it.
    for (name, asn) in [("a", 65001), ("b", 65002), ("c", 65003)] {
        let object =
            peer(name, json!({"peerIP": format!("172.30.1.{}", asn - 65000), "asNumber": asn}));
        same(&both, "apply makes", &apply(name, "", "one", &object)?).await?;
    }
    let object = peer("a", json!({"peerIP": "172.30.1.1", "asNumber": 65001}));
    same(&both, "apply changes nothing", &apply("a", "", "one", &object)?).await?;
    let object = peer("a", json!({"peerIP": "172.30.1.9", "asNumber": 65001}));
    same(&both, "apply changes the spec", &apply("a", "", "one", &object)?).await?;
    same(
        &both,
        "a second owner",
        &apply("a", "", "two", &peer("a", json!({"asNumber": 1, "peerIP": "172.30.1.9"})))?,
    )
    .await?;
    let mut status = peer("a", Value::Null);
    status.as_object_mut().context("an object")?.remove("spec");
    status["status"] = json!({"conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted",
        "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 2}]});
    same(&both, "apply of the status", &apply("a", "/status", "one", &status)?).await?;
    status["metadata"]["name"] = json!("nobody");
    same(&both, "status of nobody", &apply("nobody", "/status", "one", &status)?).await?;
    same(&both, "apply without a manager", &patch("/bgppeers/a", &object)?).await?;
    let mut nameless = object.clone();
    nameless.as_object_mut().context("an object")?.remove("kind");
    same(&both, "apply without a kind", &apply("a", "", "one", &nameless)?).await?;

    same(&both, "a list", &get("/bgppeers")?).await?;
    same(&both, "an empty list", &get("/ippools")?).await?;
    same(&both, "a page", &get("/bgppeers?limit=2")?).await?;
    same(&both, "a list from the cache", &get("/bgppeers?limit=2&resourceVersion=0")?).await?;
    same(&both, "a list of what there is not", &get("/nothings")?).await?;
    same(&both, "a list of one", &get("/bgppeers?fieldSelector=metadata.name%3Db")?).await?;
    // Objects of tests before this one are the past on the real server.
    fake_server.compact();
    same(&both, "a watch from too far in the past", &watch("1")?).await?;
    Ok(())
}

/// A question: method, path, content type and body.
struct Question {
    method: Method,
    path: String,
    content: &'static str,
    body: Vec<u8>,
}

fn peer(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "routelet.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec})
}

fn get(path: &str) -> anyhow::Result<Question> {
    Ok(Question {
        method: Method::GET,
        path: format!("{GROUP}{path}"),
        content: "application/json",
        body: Vec::new(),
    })
}

fn watch(version: &str) -> anyhow::Result<Question> {
    get(&format!(
        "/bgppeers?watch=true&resourceVersion={version}&timeoutSeconds=1&allowWatchBookmarks=true"
    ))
}

fn patch(path: &str, object: &Value) -> anyhow::Result<Question> {
    Ok(Question {
        method: Method::PATCH,
        path: format!("{GROUP}{path}"),
        content: "application/apply-patch+yaml",
        body: serde_json::to_vec(object)?,
    })
}

fn apply(name: &str, subresource: &str, manager: &str, object: &Value) -> anyhow::Result<Question> {
    patch(&format!("/bgppeers/{name}{subresource}?fieldManager={manager}"), object)
}

/// Asks both and compares.
async fn same(both: &[(&str, &Client)], what: &str, question: &Question) -> anyhow::Result<()> {
    let mut answers = Vec::new();
    for (who, client) in both {
        let answer = ask(client, question).await.with_context(|| format!("{who}: {what}"))?;
        answers.push(answer);
    }
    let [real, fake] = answers.as_slice() else { bail!("two are asked") };
    ensure!(
        real == fake,
        "{what}: {} {}\nreal {}\nfake {}",
        question.method,
        question.path,
        serde_json::to_string_pretty(real)?,
        serde_json::to_string_pretty(fake)?
    );
    Ok(())
}

/// The status, and every line of the body without what differs between servers.
async fn ask(client: &Client, question: &Question) -> anyhow::Result<Value> {
    let request = Request::builder()
        .method(question.method.clone())
        .uri(&question.path)
        .header("content-type", question.content)
        .header("accept", "application/json")
        .body(Body::from(question.body.clone()))?;
    let response = client.send(request).await?;
    let code = response.status().as_u16();
    let body = response.into_body().collect_bytes().await?;
    let text = String::from_utf8_lossy(&body).into_owned();
    let lines: Vec<Value> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let mut value = serde_json::from_str(line).unwrap_or_else(|_| json!(line));
            blank("", &mut value);
            value
        })
        .collect();
    Ok(json!({"code": code, "lines": lines}))
}

/// Takes out what two servers cannot have in common.
fn blank(key: &str, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("managedFields");
            map.iter_mut().for_each(|(key, value)| blank(key, value));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| blank("", value)),
        Value::String(text) => match key {
            "resourceVersion" | "uid" | "continue" => *text = "…".to_owned(),
            "creationTimestamp" => *text = "…".to_owned(),
            // Versions and times in words.
            "message" => {
                *text = text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
                while text.contains("##") {
                    *text = text.replace("##", "#");
                }
            }
            _ => {}
        },
        _ => {}
    }
}
