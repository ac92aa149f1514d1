//! BGPPeer: somebody that some nodes peer with.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::PasswordSource;

/// A peer of the selected nodes: a router by its address, or nodes by a selector.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "routelet.dev",
    version = "v1alpha1",
    kind = "BGPPeer",
    plural = "bgppeers",
    shortname = "bgpp",
    category = "routelet",
    status = "super::ObjectStatus",
    derive = "PartialEq",
    doc = "A router, or other nodes, that the selected nodes peer with.",
    printcolumn(name = "Peer", type_ = "string", json_path = ".spec.peerIP"),
    printcolumn(name = "AS", type_ = "integer", json_path = ".spec.asNumber"),
    printcolumn(name = "Peers", type_ = "string", json_path = ".spec.peerSelector"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".spec.nodeSelector"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.peerIP) != has(self.peerSelector)").message("exactly one of peerIP and peerSelector"),
    validation = Rule::new("has(self.peerIP) == has(self.asNumber)").message("asNumber goes with peerIP: nodes chosen by peerSelector have their own"),
    validation = Rule::new("!(has(self.node) && has(self.nodeSelector))").message("node and nodeSelector exclude each other"),
    validation = Rule::new("!has(self.interface) || has(self.peerIP)").message("interface goes with peerIP"),
    validation = Rule::new("!has(self.ttlSecurity) || !has(self.ttl) || self.ttl == 255").message("ttlSecurity needs ttl 255 on both sides; leave ttl out"),
    validation = Rule::new("!has(self.keepaliveTime) || !has(self.holdTime) || duration(self.keepaliveTime) < duration(self.holdTime)").message("keepaliveTime must be shorter than holdTime"),
)]
pub struct BGPPeerSpec {
    /// Only the node with this name has the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
    /// Only nodes whose labels match have the peer, for example `rack == 'r1' && !has(spare)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub node_selector: Option<String>,
    /// Address of the peer, with `:port` or `[…]:port` where it is not 179 and `%interface` where it is
    /// link-local.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "peerIP")]
    #[schemars(length(min = 2, max = 64))]
    pub peer_ip: Option<String>,
    /// The peers are the nodes whose labels match. Both sides get the session from this one object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub peer_selector: Option<String>,
    /// Interface of a link-local address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// AS of the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_294_i64))]
    pub as_number: Option<i64>,
    /// AS that we have towards this peer.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "localASNumber")]
    #[schemars(range(min = 1, max = 4_294_967_294_i64))]
    pub local_as_number: Option<i64>,
    /// How often our own AS may stand in a path from it.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "numAllowedLocalASNumbers")]
    #[schemars(range(min = 0, max = 255))]
    pub num_allowed_local_as_numbers: Option<i32>,
    /// Families to offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2), inner(regex(pattern = "^ipv[46]-unicast$")))]
    pub families: Option<Vec<String>>,
    /// Names of BGPFilters, in order; the first rule that matches decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub filters: Option<Vec<String>>,
    /// Next hop of what we send: Auto, Self or Keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Auto", "Self", "Keep"]))]
    pub next_hop_mode: Option<String>,
    /// Reflect the routes of this peer. For nodes chosen by peerSelector the cluster ids decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_reflector_client: Option<bool>,
    /// More prefixes of a family end the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub maximum_prefixes: Option<i64>,
    /// Our role towards it (RFC 9234).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Provider", "Customer", "Peer", "RouteServer", "RouteServerClient"]))]
    pub role: Option<String>,
    /// Local address of the connection: an address, UseNodeIP or None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 39))]
    #[x_kube(validation = Rule::new("self in ['UseNodeIP', 'None'] || isIP(self)").message("sourceAddress is an IP address, UseNodeIP or None"))]
    pub source_address: Option<String>,
    /// Never connect; wait for the peer to do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<bool>,
    /// Hold time that is proposed: 0s for none, or 3s and more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+(ms|s|m|h))+$"))]
    #[x_kube(validation = Rule::new("duration(self) == duration('0s') || duration(self) >= duration('3s')").message("a hold time is 0s or at least 3s (RFC 4271)"))]
    pub hold_time: Option<String>,
    /// Time between keepalives; a third of the hold time by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+(ms|s|m|h))+$"))]
    pub keepalive_time: Option<String>,
    /// How long it waits for us when we restart, up to 4095s; 0s: no graceful restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+(ms|s|m|h))+$"))]
    pub max_restart_time: Option<String>,
    /// TTL of what we send; 255 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub ttl: Option<i32>,
    /// How many hops away it is at most (RFC 5082); packets from further away are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub ttl_security: Option<i32>,
    /// TCP MD5 password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordSource>,
}
