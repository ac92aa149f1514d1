//! The custom resources, `routelet.dev/v1alpha1`: what people write and what agents report.
//!
//! In flow: objects as the API server has them. Out flow: the same as Rust values, and the
//! CustomResourceDefinitions themselves ([`yaml`], checked in as `deploy/crds.yaml`). Field names are
//! Calico's where the meaning is the same.
//!
//! What always holds: schemas are structural; every text that a CEL rule looks at is bounded, so that
//! the rule's estimated cost stays within the API server's budget; whatever a schema lets through is
//! still checked by the agent, with the words that a file would get ([`crate::kube::translate`]). A
//! scalar with a form of its own (prefix, duration, choice) is therefore a string here: an object that
//! a newer version wrote must still decode.

#![allow(clippy::duplicated_attributes, reason = "two printer columns may well have one type")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod configuration;
mod filter;
mod node_status;
mod peer;
mod pool;

#[cfg(test)]
mod tests;

pub use self::configuration::{
    AddressAutodetection, BGPConfiguration, BGPConfigurationSpec, CONFIGURATION_NAME, ServiceRange,
    TunnelSettings,
};
pub use self::filter::{BGPFilter, BGPFilterSpec, FilterRule, PrefixLength};
pub use self::node_status::{
    BGPNodeStatus, BGPNodeStatusSpec, ConfigurationStatus, NodeStatus, PeerStatus, RefusedObject,
};
pub use self::peer::{BGPPeer, BGPPeerSpec};
pub use self::pool::{IPPool, IPPoolSpec};

/// API group of everything here.
pub const GROUP: &str = "routelet.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";

/// A key of a Secret in the agent's own namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub struct SecretKeyRef {
    /// Name of the Secret; it lies in the namespace of the agents.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key whose value is the password, at most 80 octets.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Where a password is. It is never written into the object itself.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSource {
    /// The key of a Secret that holds it.
    pub secret_key_ref: SecretKeyRef,
}

/// What the agents say about an object.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// `Accepted`: whether the object is part of the configuration, and if not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A condition as Kubernetes has them.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// `metadata.generation` that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed, as RFC 3339 has it.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// One word for programs.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// A sentence for people.
    #[schemars(length(max = 32768))]
    pub message: String,
}

/// The definitions, in the order in which they are printed.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        BGPConfiguration::crd(),
        BGPPeer::crd(),
        BGPFilter::crd(),
        IPPool::crd(),
        BGPNodeStatus::crd(),
    ]
}

/// The definitions as values, as the API server is given them.
///
/// # Errors
/// Never for the definitions there are; a test says so.
pub fn values() -> Result<Vec<Value>, serde_json::Error> {
    all()
        .into_iter()
        .map(|definition| {
            let mut value = serde_json::to_value(definition)?;
            tidy(&mut value);
            Ok(value)
        })
        .collect()
}

/// The definitions as one YAML text: what `routelet crds` prints and `deploy/crds.yaml` holds.
///
/// # Errors
/// Never for the definitions there are; a test says so.
pub fn yaml() -> anyhow::Result<String> {
    let mut text = String::from("# Printed by `routelet crds`; do not edit.\n");
    for value in values()? {
        text.push_str("---\n");
        let one = serde_saphyr::to_string(&value)?;
        text.push_str(one.trim_start_matches("---\n"));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}

/// Puts right what the generator of schemas says otherwise than the API server likes it.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // A null is no value: without this a `has(self.x)` would be true for `x: null`.
            if map.get("nullable") == Some(&Value::Bool(true)) {
                map.remove("nullable");
            }
            // Formats of Rust's integers are unknown to the API server, which warns of them.
            let unknown = map
                .get("format")
                .and_then(Value::as_str)
                .is_some_and(|format| format.starts_with("uint"));
            if unknown {
                map.remove("format");
            }
            // The generator's name of a Rust type says nothing to whoever reads `kubectl explain`.
            if map.get("title").is_some_and(Value::is_string) {
                map.remove("title");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}
