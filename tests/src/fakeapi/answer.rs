//! The answers: one function for every path, as the API conventions say.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{Fault, Name, Request, Shared, Store, kind_of, patch};

/// A path taken apart.
pub(super) struct Path {
    /// `v1`, or group and version.
    api: String,
    pub(super) namespace: String,
    pub(super) resource: String,
    pub(super) name: Option<String>,
    pub(super) status: bool,
}

impl Path {
    /// `/api/v1/…` and `/apis/GROUP/VERSION/…`.
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/');
        let api = match parts.next()? {
            "api" => parts.next()?.to_owned(),
            "apis" => format!("{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let mut resource = parts.next()?;
        let mut namespace = "";
        if resource == "namespaces" {
            namespace = parts.next()?;
            resource = parts.next()?;
        }
        kind_of(resource)?;
        Some(Self {
            api,
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
    headers: HeaderMap,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Response {
    let Some(path) = Path::parse(uri.path()) else {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
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
        "patch" | "patch status" => {
            let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            match kind.filter(|kind| patch::is_other(kind)) {
                Some(kind) => patch::answer(&shared, &path, query.get("fieldManager"), kind, &body),
                None => apply(&shared, &path, &query, body),
            }
        }
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
    let any = query.get("resourceVersion").is_some_and(|version| version == "0");
    let limit = query.get("limit").and_then(|text| text.parse().ok());
    let limit = limit.filter(|_| !any || store.no_cache).unwrap_or(usize::MAX);
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
    let mut metadata = json!({"continue": "", "resourceVersion": store.version.to_string()});
    let next = from + items.len();
    if next < all.len() {
        metadata["continue"] = next.to_string().into();
        metadata["remainingItemCount"] = (all.len() - next).into();
    }
    let kind = kind_of(&path.resource).map_or("", |(kind, _)| kind);
    let body = json!({
        "apiVersion": path.api, "kind": format!("{kind}List"), "metadata": metadata, "items": items,
    });
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
            let words = format!("too old resource version: {version} ({})", store.compacted);
            let status = status(410, "Expired", &words);
            let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
            return line.into_response();
        }
        let (life, bookmark) = (store.life, store.bookmark);
        drop(store);
        Watch {
            path: Path {
                api: path.api.clone(),
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
        let kind = kind_of(&watch.path.resource).map_or("", |(kind, _)| kind);
        let object = json!({"apiVersion": watch.path.api, "kind": kind, "metadata": metadata});
        lines += &format!("{}\n", json!({"type": "BOOKMARK", "object": object}));
    }
    Ok(lines)
}

/// Server-side apply: what is given is set, what is not given stays.
fn apply(shared: &Shared, path: &Path, query: &BTreeMap<String, String>, body: Value) -> Response {
    let name = path.name.clone().unwrap_or_default();
    let manager = query.get("fieldManager").cloned().unwrap_or_default();
    if manager.is_empty() {
        return no_manager();
    }
    let (api, kind) = (body["apiVersion"].as_str(), body["kind"].as_str());
    if api.is_none() || kind.is_none() {
        let words = format!(
            "invalid object type: {}, Kind={}",
            api.unwrap_or_default(),
            kind.unwrap_or_default()
        );
        return failure(400, "BadRequest", &words);
    }
    let mut store = shared.store.lock().expect("no handler panics with the lock");
    let key = Name {
        resource: path.resource.clone(),
        namespace: path.namespace.clone(),
        name: name.clone(),
    };
    let found = store.objects.get(&key).cloned();
    let made = found.is_none();
    let mut object = match found {
        Some(object) => object,
        None if path.status => return not_found(path, &name),
        None => json!({"metadata": {"name": name}}),
    };
    let part = if path.status { "status" } else { "spec" };
    let mut fields = BTreeMap::new();
    leaves(&format!(".{part}"), &body[part], &mut fields);
    let forced = query.get("force").is_some_and(|force| force == "true");
    if let Some(refusal) = conflict(&store, &key, &object, &manager, &fields).filter(|_| !forced) {
        return refusal;
    }
    for field in fields.keys() {
        store.owners.insert((key.clone(), field.clone()), manager.clone());
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
    let code = if made { StatusCode::CREATED } else { StatusCode::OK };
    (code, axum::Json(object)).into_response()
}

/// The fields of a value with their paths; a list is one field.
fn leaves(path: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                leaves(&format!("{path}.{key}"), value, into);
            }
        }
        Value::Null => {}
        other => {
            into.insert(path.to_owned(), other.clone());
        }
    }
}

/// The refusal, if others own fields that would change.
fn conflict(
    store: &Store,
    key: &Name,
    object: &Value,
    manager: &str,
    fields: &BTreeMap<String, Value>,
) -> Option<Response> {
    let theirs: Vec<(&String, &String)> = fields
        .iter()
        .filter(|(field, value)| object.pointer(&field.replace('.', "/")) != Some(value))
        .filter_map(|(field, _)| {
            let owner = store.owners.get(&(key.clone(), field.clone()))?;
            (owner != manager).then_some((field, owner))
        })
        .collect();
    let (field, owner) = theirs.first()?;
    let count = match theirs.len() {
        1 => "1 conflict".to_owned(),
        many => format!("{many} conflicts"),
    };
    let words = format!("Apply failed with {count}: conflict with \"{owner}\": {field}");
    let causes: Vec<Value> = theirs
        .iter()
        .map(|(field, owner)| {
            json!({"reason": "FieldManagerConflict", "field": field,
                "message": format!("conflict with \"{owner}\"")})
        })
        .collect();
    let mut status = status(409, "Conflict", &words);
    status["details"] = json!({"causes": causes});
    Some((StatusCode::CONFLICT, axum::Json(status)).into_response())
}

pub(super) fn no_manager() -> Response {
    let cause = "Required value: is required for apply patch";
    let words = format!("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: {cause}");
    let mut status = status(422, "Invalid", &words);
    status["details"] = json!({
        "group": "meta.k8s.io", "kind": "PatchOptions",
        "causes": [{"reason": "FieldValueRequired", "message": cause, "field": "fieldManager"}],
    });
    (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(status)).into_response()
}

pub(super) fn not_found(path: &Path, name: &str) -> Response {
    let group = kind_of(&path.resource).map_or("", |(_, group)| group);
    let full = format!("{}.{group}", path.resource);
    let full = full.trim_end_matches('.');
    let mut status = status(404, "NotFound", &format!("{full} \"{name}\" not found"));
    status["details"] = json!({"name": name, "group": group, "kind": path.resource});
    (StatusCode::NOT_FOUND, axum::Json(status)).into_response()
}

pub(super) fn merge(into: &mut Value, from: Value) {
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

pub(super) fn failure(code: u16, reason: &str, message: &str) -> Response {
    let answer: Result<_, Infallible> = Ok((
        StatusCode::from_u16(code).unwrap_or_default(),
        axum::Json(status(code, reason, message)),
    ));
    answer.into_response()
}
