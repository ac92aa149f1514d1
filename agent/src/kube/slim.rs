//! Metadata of objects, as small as it can be.
//!
//! In flow: an object of any kind, while it is read. Out flow: the metadata that somebody looks at;
//! what is skipped never takes memory.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Deserializer};

/// Annotations with this prefix are kept, others are not.
const ANNOTATIONS: &str = "routelet.dev/";

/// Metadata without what is large and not used: managed fields and other people's annotations.
pub(super) fn slim_metadata<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slim {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        generation: Option<i64>,
        creation_timestamp: Option<Time>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
    }
    let slim = Slim::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        uid: slim.uid,
        resource_version: slim.resource_version,
        generation: slim.generation,
        creation_timestamp: slim.creation_timestamp,
        labels: slim.labels,
        annotations: slim.annotations.map(|mut annotations| {
            annotations.retain(|key, _| key.starts_with(ANNOTATIONS));
            annotations
        }),
        ..ObjectMeta::default()
    })
}
