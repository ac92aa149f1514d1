//! The objects that matter, as small as they can be: what the watches keep and the disk has.
//!
//! In flow: objects of the API server, decoded into [`NodeObject`] (own type: everything that is not
//! used is skipped while it is read) or as they are. Out flow: [`Objects`], which
//! [`super::translate`] makes a configuration of. A specification stays an uninterpreted value here:
//! one object that does not decode must not hide the others of its kind.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::crd::Condition;
use super::services::ServiceAddress;
use super::slim::slim_metadata;

/// AS of a node, where it differs from the cluster's.
pub const AS_ANNOTATION: &str = "routelet.dev/as-number";
/// Cluster id of a node that is a route reflector; such a node is no member of the mesh.
pub const CLUSTER_ID_ANNOTATION: &str = "routelet.dev/route-reflector-cluster-id";
/// BGP Identifier of a node.
pub const ROUTER_ID_ANNOTATION: &str = "routelet.dev/router-id";
/// IPv4 address a node is peered with, with the length of its subnet.
pub const V4_ANNOTATION: &str = "routelet.dev/ipv4-address";
/// IPv6 address a node is peered with, with the length of its subnet.
pub const V6_ANNOTATION: &str = "routelet.dev/ipv6-address";

/// Taint that keeps pods from a node until its network works; an operator registers nodes with it.
pub const STARTUP_TAINT: &str = "routelet.dev/agent-not-ready";

/// A kind of object.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Kind {
    /// Node of Kubernetes itself.
    Node,
    /// BGPConfiguration.
    BGPConfiguration,
    /// BGPPeer.
    BGPPeer,
    /// BGPFilter.
    BGPFilter,
    /// IPPool.
    IPPool,
    /// Service of Kubernetes itself.
    Service,
    /// EndpointSlice of Kubernetes itself.
    EndpointSlice,
}

impl Kind {
    /// Every kind that a configuration is made of. Services and their endpoints are looked at only where
    /// their addresses are advertised.
    pub const ALL: [Self; 5] =
        [Self::Node, Self::BGPConfiguration, Self::BGPFilter, Self::IPPool, Self::BGPPeer];

    /// Its name in `kind`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::BGPConfiguration => "BGPConfiguration",
            Self::BGPPeer => "BGPPeer",
            Self::BGPFilter => "BGPFilter",
            Self::IPPool => "IPPool",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// Its name in URLs, under which its troubles go.
    #[must_use]
    pub const fn resource(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::BGPConfiguration => "bgpconfigurations",
            Self::BGPPeer => "bgppeers",
            Self::BGPFilter => "bgpfilters",
            Self::IPPool => "ippools",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which object.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of this object.
    #[must_use]
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A Node, as far as it is used.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Tells it from an earlier one with its name.
    pub uid: String,
    /// When it was created; what is older goes first.
    pub created: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations of ours.
    pub annotations: BTreeMap<String, String>,
    /// InternalIPs, in their order.
    pub addresses: Vec<String>,
    /// Pod CIDRs, in their order.
    pub pod_cidrs: Vec<String>,
    /// Somebody said that NetworkUnavailable is False.
    #[serde(skip)]
    pub network_available: bool,
    /// Places of [`STARTUP_TAINT`] among its taints.
    #[serde(skip)]
    pub startup_taints: Vec<usize>,
}

/// A custom resource, as far as it is used.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Custom {
    /// Its name.
    pub name: String,
    /// Tells it from an earlier one with its name.
    pub uid: String,
    /// When it was created; what is older goes first.
    pub created: String,
    /// Counts the changes of its specification.
    pub generation: i64,
    /// What it asks for.
    pub spec: Value,
    /// What an agent says of it already.
    pub accepted: Option<Condition>,
}

/// Everything that a configuration is made of.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Objects {
    /// Nodes by name, the own one among them. Shared: there may be thousands, and what is in force keeps
    /// them beside what the API server says now.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// BGPConfiguration, BGPPeer, BGPFilter and IPPool.
    #[serde(with = "as_list")]
    pub custom: BTreeMap<Key, Custom>,
    /// Addresses of Services; `None` where they are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<ServiceAddress>>,
}

/// JSON has no keys that are structures.
mod as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Custom, Key};

    pub fn serialize<S: Serializer>(
        map: &BTreeMap<Key, Custom>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Key, Custom>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

impl Objects {
    /// The custom resources of a kind, by name.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Custom)> {
        self.custom.iter().filter(move |(key, _)| key.kind == kind)
    }
}

/// A Node on its way from the API server: everything else is skipped while it is read.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Node")]
pub struct NodeObject {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SlimSpec,
    #[serde(default)]
    status: SlimStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
    taints: Option<Vec<SlimTaint>>,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimTaint {
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SlimStatus {
    addresses: Option<Vec<SlimAddress>>,
    conditions: Option<Vec<SlimCondition>>,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimCondition {
    #[serde(rename = "type")]
    type_: String,
    #[serde(default)]
    status: String,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimAddress {
    #[serde(rename = "type")]
    type_: String,
    address: String,
}

impl From<NodeObject> for Node {
    fn from(object: NodeObject) -> Self {
        let NodeObject { metadata, spec, status } = object;
        let pod_cidrs = match spec.pod_cidrs {
            Some(pod_cidrs) if !pod_cidrs.is_empty() => pod_cidrs,
            _ => spec.pod_cidr.into_iter().filter(|cidr| !cidr.is_empty()).collect(),
        };
        let conditions = status.conditions.unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        Self {
            network_available: conditions
                .iter()
                .any(|one| one.type_ == "NetworkUnavailable" && one.status == "False"),
            startup_taints: taints
                .iter()
                .enumerate()
                .filter(|(_, taint)| taint.key == STARTUP_TAINT)
                .map(|(place, _)| place)
                .collect(),
            created: created(&metadata),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            addresses: status
                .addresses
                .unwrap_or_default()
                .into_iter()
                .filter(|address| address.type_ == "InternalIP")
                .map(|address| address.address)
                .collect(),
            pod_cidrs,
        }
    }
}

impl From<DynamicObject> for Custom {
    fn from(object: DynamicObject) -> Self {
        let DynamicObject { metadata, mut data, .. } = object;
        let accepted = data
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .and_then(|conditions| conditions.iter().find(|one| one["type"] == "Accepted"))
            .and_then(|condition| serde_json::from_value(condition.clone()).ok());
        Self {
            created: created(&metadata),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            spec: data.get_mut("spec").map(Value::take).unwrap_or_default(),
            accepted,
        }
    }
}

/// The time of creation as a text that sorts by time.
fn created(metadata: &ObjectMeta) -> String {
    metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default()
}

/// The part of a Secret that is used; its values are never printed.
#[derive(Clone, Default, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Secret")]
pub struct SecretObject {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    data: Option<BTreeMap<String, k8s_openapi::ByteString>>,
}

impl SecretObject {
    /// Its values by key.
    #[must_use]
    pub fn into_values(self) -> BTreeMap<String, Vec<u8>> {
        self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
    }
}

impl fmt::Debug for SecretObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretObject").field("name", &self.metadata.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_stripped_while_it_is_read() {
        let object: NodeObject = serde_json::from_value(json!({
            "metadata": {
                "name": "node-a", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": {"rack": "r1"},
                "annotations": {"routelet.dev/as-number": "64513", "other.io/large": "x"},
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
            },
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "node-a"},
                    {"type": "InternalIP", "address": "172.30.1.11"},
                    {"type": "ExternalIP", "address": "198.51.100.1"},
                ],
                "images": [{"names": ["a"], "sizeBytes": 1}],
            },
        }))
        .expect("node");
        assert!(object.metadata.managed_fields.is_none());
        let node = Node::from(object);
        assert_eq!(node.addresses, ["172.30.1.11"]);
        assert_eq!(node.pod_cidrs, ["10.244.1.0/24", "fd00:1::/64"]);
        assert_eq!(node.annotations.keys().collect::<Vec<_>>(), ["routelet.dev/as-number"]);
        assert_eq!(node.created, "2026-01-02T03:04:05Z");
    }

    #[test]
    fn a_bare_node_and_a_single_pod_cidr_are_read() {
        let node = |value| Node::from(serde_json::from_value::<NodeObject>(value).expect("node"));
        assert!(node(json!({"metadata": {"name": "a"}})).pod_cidrs.is_empty());
        let one = node(json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.1.0.0/24"}}));
        assert_eq!(one.pod_cidrs, ["10.1.0.0/24"]);
    }

    #[test]
    fn objects_survive_the_disk() {
        let mut objects = Objects::default();
        let node = Node { name: "a".to_owned(), ..Node::default() };
        objects.nodes.insert("a".to_owned(), Arc::new(node));
        let custom = Custom { spec: json!({"cidr": "10.0.0.0/8"}), ..Custom::default() };
        objects.custom.insert(Key::new(Kind::IPPool, "p"), custom);
        let text = serde_json::to_string(&objects).expect("text");
        assert_eq!(serde_json::from_str::<Objects>(&text).expect("objects"), objects);
    }

    #[test]
    fn a_secret_does_not_show_its_values() {
        let secret: SecretObject = serde_json::from_value(json!({
            "metadata": {"name": "bgp"}, "data": {"tor": "aHVudGVyMg=="},
        }))
        .expect("secret");
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(!format!("{secret:?}").contains("tor"));
        assert_eq!(secret.into_values()["tor"], b"hunter2");
    }
}
