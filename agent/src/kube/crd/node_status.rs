//! BGPNodeStatus: what one agent says of itself, for people and for `kubectl get`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// There is nothing to wish for: the agent of the node writes the status.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "routelet.dev",
    version = "v1alpha1",
    kind = "BGPNodeStatus",
    plural = "bgpnodestatuses",
    shortname = "bgpns",
    category = "routelet",
    status = "NodeStatus",
    derive = "PartialEq",
    doc = "What the agent of a node reports; it has the node's name and is written by that agent only.",
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "AS", type_ = "integer", json_path = ".status.asNumber"),
    printcolumn(name = "Peers", type_ = "integer", json_path = ".status.peersTotal"),
    printcolumn(name = "Established", type_ = "integer", json_path = ".status.peersEstablished"),
    printcolumn(
        name = "Configuration",
        type_ = "string",
        json_path = ".status.configuration.source"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Not established",
        type_ = "string",
        json_path = ".status.peers[?(@.state!='Established')].name",
        priority = 1
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct BGPNodeStatusSpec {}

/// The report of an agent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Version of the agent.
    #[serde(default)]
    pub version: String,
    /// Address that the node peers with, the first family it has.
    #[serde(default)]
    pub address: String,
    /// Why it is this address, one sentence a family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address_choice: Vec<String>,
    /// AS of the node.
    #[serde(default)]
    pub as_number: i64,
    /// BGP Identifier of the node.
    #[serde(default, rename = "routerID")]
    pub router_id: String,
    /// How many peers there are.
    #[serde(default)]
    pub peers_total: i64,
    /// How many of them are established.
    #[serde(default)]
    pub peers_established: i64,
    /// The configuration that runs.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
    /// Every peer outside the mesh, and those of the mesh that are not established; at most 64, so that
    /// the reports of a large cluster stay small.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub peers: Vec<PeerStatus>,
    /// `Ready`, with what it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where the configuration that runs came from, and what is not part of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// `Live`, or `LastGood` as long as the agent runs with what it found on disk.
    #[serde(default)]
    pub source: String,
    /// How many configurations were made since the agent started.
    #[serde(default)]
    pub generation: i64,
    /// Objects that this node refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedObject>,
    /// What is legal but probably not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An object that is not part of the configuration as it is written.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedObject {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub message: String,
    /// Whether its last accepted version is used in its place.
    #[serde(default)]
    pub previous_in_use: bool,
}

/// A session, as one row.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Name of the peer.
    pub name: String,
    /// Its address.
    #[serde(rename = "peerIP")]
    pub peer_ip: String,
    /// Mesh, Internal or External.
    pub kind: String,
    /// Its AS.
    pub as_number: i64,
    /// FSM state (RFC 4271 §8.2.2).
    pub state: String,
    /// When it entered that state, as RFC 3339 has it; to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Why it last went down or failed to come up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
