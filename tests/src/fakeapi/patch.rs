//! Patches that are no server-side apply: JSON patch, and strategic merge of a Node's conditions.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{Path, failure, merge, no_manager, not_found};
use super::{Name, Shared};

/// Whether a body of this type is one of them.
pub(super) fn is_other(content_type: &str) -> bool {
    ["application/json-patch+json", "application/strategic-merge-patch+json"]
        .contains(&content_type)
}

/// Answers one.
pub(super) fn answer(
    shared: &Shared,
    path: &Path,
    manager: Option<&String>,
    content_type: &str,
    body: &Value,
) -> Response {
    if manager.is_none_or(String::is_empty) {
        return no_manager();
    }
    let name = path.name.clone().unwrap_or_default();
    let key = Name {
        resource: path.resource.clone(),
        namespace: path.namespace.clone(),
        name: name.clone(),
    };
    let mut store = shared.store.lock().expect("no handler panics with the lock");
    let Some(before) = store.objects.get(&key).cloned() else { return not_found(path, &name) };
    let mut object = before.clone();
    if content_type == "application/json-patch+json" {
        if let Err(words) = json_patch(&mut object, body) {
            return failure(422, "Invalid", &words);
        }
    } else {
        strategic_merge(&mut object, body);
    }
    if object != before {
        object = store.put(&path.resource, object, path.status);
    }
    drop(store);
    shared.wake.send_modify(|count| *count += 1);
    (StatusCode::OK, axum::Json(object)).into_response()
}

/// The operations `test` and `remove` (RFC 6902).
fn json_patch(object: &mut Value, operations: &Value) -> Result<(), String> {
    for operation in operations.as_array().ok_or("a JSON patch is a list")? {
        let path = operation["path"].as_str().ok_or("path is missing")?;
        let found = object.pointer(path).ok_or_else(|| format!("{path} is not there"))?;
        match operation["op"].as_str() {
            Some("test") if *found == operation["value"] => {}
            Some("test") => return Err(format!("the test of {path} failed")),
            Some("remove") => {
                let (parent, last) = path.rsplit_once('/').ok_or("path has no /")?;
                match object.pointer_mut(parent) {
                    Some(Value::Array(list)) => {
                        list.remove(last.parse().map_err(|_| "no index".to_owned())?);
                    }
                    Some(Value::Object(map)) => {
                        map.remove(last);
                    }
                    _ => return Err(format!("{parent} is neither a list nor a map")),
                }
            }
            _ => return Err("the fake knows test and remove only".to_owned()),
        }
    }
    Ok(())
}

/// Conditions are merged by their type, as `patchMergeKey` of a Node says.
fn strategic_merge(object: &mut Value, patch: &Value) {
    for condition in patch["status"]["conditions"].as_array().into_iter().flatten() {
        let conditions = &mut object["status"]["conditions"];
        if !conditions.is_array() {
            *conditions = json!([]);
        }
        let list = conditions.as_array_mut().expect("it is a list");
        match list.iter_mut().find(|one| one["type"] == condition["type"]) {
            Some(one) => merge(one, condition.clone()),
            None => list.push(condition.clone()),
        }
    }
}
