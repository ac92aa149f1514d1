//! The answers: one function for every path, as the API conventions say.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{Fault, Name, Request, Shared};

/// A path taken apart.
struct Path {
    namespace: String,
    resource: String,
    name: Option<String>,
    status: bool,
}

impl Path {
    /// `/api/v1/…` and `/apis/GROUP/VERSION/…`.
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/');
        match parts.next()? {
            "api" => parts.next()?,
            "apis" => parts.nth(1)?,
            _ => return None,
        };
        let mut resource = parts.next()?;
        let mut namespace = "";
        if resource == "namespaces" {
            namespace = parts.next()?;
            resource = parts.next()?;
        }
        Some(Self {
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            name: parts.next().map(str::to_owned),
            status: parts.next() == Some("status"),
        })
    }
}

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Response {
    let Some(path) = Path::parse(uri.path()) else {
        return failure(404, "NotFound", "there is no such path");
    };
    let watches = query.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let verb = match (&method, watches, path.status) {
        (&Method::GET, true, _) => "watch",
        (&Method::GET, false, _) if path.name.is_none() => "list",
        (&Method::PATCH, _, true) => "patch status",
        (&Method::PATCH, _, false) => "patch",
        (&Method::POST, ..) => "create",
        _ => method.as_str(),
    };
    let fault = {
        let mut store = shared.store.lock().expect("no handler panics with the lock");
        let resource = path.resource.clone();
        store.requests.push(Request {
            verb: verb.to_owned(),
            resource,
            query: query.clone(),
            body: body.clone(),
        });
        store.fault_of(&path.resource)
    };
    match (&fault, verb) {
        (Fault::Cut, _) => return cut(),
        (Fault::Status(code), _) => return failure(*code, "Fault", "as the test wants it"),
        (Fault::StallLists, "list") => std::future::pending().await,
        (Fault::GoneAtStart, "watch") => {
            return failure(410, "Expired", "too old resource version");
        }
        _ => {}
    }
    match verb {
        "list" => list(&shared, &path, &query, &fault),
        "watch" => watch(shared, &path, &query),
        "patch" | "patch status" => patch(&shared, &path, &query, body),
        "create" => {
            let mut store = shared.store.lock().expect("no handler panics with the lock");
            store.created.push(body.clone());
            (StatusCode::CREATED, axum::Json(body)).into_response()
        }
        _ => failure(405, "MethodNotAllowed", "the fake cannot do that"),
    }
}

/// Whether `fieldSelector` lets the object through; only `metadata.name=` is known.
fn selected(name: &Name, path: &Path, query: &BTreeMap<String, String>) -> bool {
    let wanted = query.get("fieldSelector").and_then(|text| text.strip_prefix("metadata.name="));
    name.resource == path.resource
        && (path.namespace.is_empty() || name.namespace == path.namespace)
        && wanted.is_none_or(|wanted| wanted == name.name)
}

fn list(shared: &Shared, path: &Path, query: &BTreeMap<String, String>, fault: &Fault) -> Response {
    let store = shared.store.lock().expect("no handler panics with the lock");
    let limit = query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    let from: usize = match query.get("continue") {
        Some(_) if *fault == Fault::ExpirePages => {
            return failure(410, "Expired", "The provided continue parameter is too old");
        }
        Some(token) => token.parse().unwrap_or_default(),
        None => 0,
    };
    let all: Vec<&Value> = store
        .objects
        .iter()
        .filter(|(name, _)| selected(name, path, query))
        .map(|(_, object)| object)
        .collect();
    let items: Vec<&Value> = all.iter().skip(from).take(limit).copied().collect();
    let mut metadata = json!({"resourceVersion": store.version.to_string()});
    let next = from + items.len();
    if next < all.len() {
        metadata["continue"] = next.to_string().into();
    }
    let body = json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items});
    axum::Json(body).into_response()
}

/// What a watch has sent so far.
struct Watch {
    shared: Arc<Shared>,
    path: Path,
    query: BTreeMap<String, String>,
    version: u64,
    bookmark: u64,
    life: u64,
    until: Instant,
    ended: bool,
    /// Nothing comes of it any more, not even its end.
    dead: bool,
}

fn watch(shared: Arc<Shared>, path: &Path, query: &BTreeMap<String, String>) -> Response {
    let number = |key: &str| query.get(key).and_then(|text| text.parse::<u64>().ok());
    let version = number("resourceVersion").unwrap_or_default();
    let seconds = number("timeoutSeconds").unwrap_or(290);
    let state = {
        let store = shared.store.lock().expect("no handler panics with the lock");
        if version < store.compacted {
            // In the stream, with 200 before it: as a real one says it.
            let status = status(410, "Expired", "too old resource version");
            let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
            return line.into_response();
        }
        let (life, bookmark) = (store.life, store.bookmark);
        drop(store);
        Watch {
            path: Path {
                namespace: path.namespace.clone(),
                resource: path.resource.clone(),
                name: None,
                status: false,
            },
            query: query.clone(),
            version,
            bookmark,
            life,
            until: Instant::now() + Duration::from_secs(seconds),
            ended: false,
            dead: false,
            shared,
        }
    };
    Body::from_stream(stream::unfold(state, next)).into_response()
}

/// The next octets of a watch.
async fn next(mut watch: Watch) -> Option<(io::Result<Bytes>, Watch)> {
    if watch.ended {
        return None;
    }
    let mut wake = watch.shared.wake.subscribe();
    loop {
        wake.mark_unchanged();
        let lines = match new_lines(&mut watch) {
            Ok(lines) => lines,
            Err(error) => {
                watch.ended = true;
                return Some((Err(error), watch));
            }
        };
        if watch.dead {
            std::future::pending::<()>().await;
        }
        if !lines.is_empty() {
            return Some((Ok(lines.into()), watch));
        }
        tokio::select! {
            changed = wake.changed() => changed.ok()?,
            () = sleep_until(watch.until) => return None,
        }
    }
}

fn new_lines(watch: &mut Watch) -> io::Result<String> {
    let store = watch.shared.store.lock().expect("no handler panics with the lock");
    let fault = store.fault_of(&watch.path.resource);
    if store.life != watch.life || fault == Fault::Cut {
        return Err(io::Error::other("the connection is cut"));
    }
    let mut lines = String::new();
    if fault == Fault::StallWatches {
        watch.dead = true;
        return Ok(lines);
    }
    for event in store.log.iter().filter(|event| event.version > watch.version) {
        if selected(&event.name, &watch.path, &watch.query) {
            lines += &format!("{}\n", json!({"type": event.kind, "object": event.object}));
        }
    }
    watch.version =
        store.log.last().map_or(watch.version, |event| watch.version.max(event.version));
    if store.bookmark > watch.bookmark {
        watch.bookmark = store.bookmark;
        watch.version = watch.version.max(store.bookmark);
        let metadata = json!({"resourceVersion": watch.version.to_string()});
        let object = json!({"apiVersion": "v1", "kind": "Bookmarked", "metadata": metadata});
        lines += &format!("{}\n", json!({"type": "BOOKMARK", "object": object}));
    }
    Ok(lines)
}

/// Server-side apply: what is given is set, what is not given stays.
fn patch(shared: &Shared, path: &Path, query: &BTreeMap<String, String>, body: Value) -> Response {
    let name = path.name.clone().unwrap_or_default();
    if query.get("fieldManager").is_none_or(String::is_empty) {
        return failure(400, "BadRequest", "fieldManager is required for apply patch");
    }
    if body["apiVersion"].as_str().is_none() || body["kind"].as_str().is_none() {
        return failure(400, "BadRequest", "apiVersion and kind must be set");
    }
    let mut store = shared.store.lock().expect("no handler panics with the lock");
    let key = Name {
        resource: path.resource.clone(),
        namespace: path.namespace.clone(),
        name: name.clone(),
    };
    let mut object = match store.objects.get(&key) {
        Some(object) => object.clone(),
        None if path.status => {
            return failure(404, "NotFound", &format!("{} \"{name}\" not found", path.resource));
        }
        None => json!({"metadata": {"name": name}}),
    };
    let forced = query.get("force").is_some_and(|force| force == "true");
    let managed = object["metadata"]["managedBy"].as_str();
    if managed.is_some_and(|manager| Some(manager) != query.get("fieldManager").map(String::as_str))
        && !forced
    {
        return failure(409, "Conflict", "Apply failed with 1 conflict");
    }
    let before = object.clone();
    if path.status {
        object["status"] = body["status"].clone();
    } else {
        merge(&mut object, body);
    }
    if object != before {
        object = store.put(&path.resource, object, path.status);
    }
    drop(store);
    shared.wake.send_modify(|count| *count += 1);
    axum::Json(object).into_response()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// An answer that breaks off.
fn cut() -> Response {
    let broken = stream::once(async { Err::<Bytes, _>(io::Error::other("the connection is cut")) });
    Body::from_stream(broken).into_response()
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

fn failure(code: u16, reason: &str, message: &str) -> Response {
    let answer: Result<_, Infallible> = Ok((
        StatusCode::from_u16(code).unwrap_or_default(),
        axum::Json(status(code, reason, message)),
    ));
    answer.into_response()
}
