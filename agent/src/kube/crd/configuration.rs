//! BGPConfiguration: what holds for the whole cluster.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::PasswordSource;

/// The one name that a BGPConfiguration may have.
pub const CONFIGURATION_NAME: &str = "default";

/// What holds for every node of the cluster.
#[derive(CustomResource, Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "routelet.dev",
    version = "v1alpha1",
    kind = "BGPConfiguration",
    plural = "bgpconfigurations",
    shortname = "bgpconfig",
    category = "routelet",
    status = "super::ObjectStatus",
    derive = "PartialEq",
    doc = "How the nodes of the cluster speak BGP. There is one, named default.",
    validation = Rule::new("self.metadata.name == 'default'").message("the only BGPConfiguration is named default"),
    printcolumn(name = "AS", type_ = "integer", json_path = ".spec.asNumber"),
    printcolumn(name = "Mesh", type_ = "boolean", json_path = ".spec.nodeToNodeMeshEnabled"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.keepaliveTime) || duration(self.keepaliveTime) < duration(self.holdTime)").message("keepaliveTime must be shorter than holdTime"),
)]
pub struct BGPConfigurationSpec {
    /// The cluster's AS; a node's annotation routelet.dev/as-number goes before it.
    #[serde(default = "default_as")]
    #[schemars(range(min = 1, max = 4_294_967_294_i64))]
    pub as_number: i64,
    /// Whether every node peers with every other.
    #[serde(default = "yes")]
    pub node_to_node_mesh_enabled: bool,
    /// TCP MD5 password of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<PasswordSource>,
    /// How long the nodes wait for one of them that restarts, up to 4095s; 0s: no graceful restart.
    #[serde(default = "default_restart_time")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+(ms|s|m|h))+$"))]
    pub node_mesh_max_restart_time: String,
    /// TCP port of BGP on the nodes.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub listen_port: i32,
    /// Hold time that is proposed: 0s for none, or 3s and more.
    #[serde(default = "default_hold_time")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+(ms|s|m|h))+$"))]
    #[x_kube(validation = Rule::new("duration(self) == duration('0s') || duration(self) >= duration('3s')").message("a hold time is 0s or at least 3s (RFC 4271)"))]
    pub hold_time: String,
    /// Time between keepalives; a third of the hold time by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+(ms|s|m|h))+$"))]
    pub keepalive_time: Option<String>,
    /// Time between attempts to connect.
    #[serde(default = "default_connect_retry")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+(ms|s|m|h))+$"))]
    pub connect_retry_time: String,
    /// Equal paths that share the traffic of a prefix.
    #[serde(default = "default_paths")]
    #[schemars(range(min = 1, max = 64))]
    pub maximum_paths: i32,
    /// Enabled: from a node of the mesh only its own pod CIDRs and service addresses are accepted, from a
    /// reflector pod CIDRs only with a next hop of the node that owns them.
    #[serde(default = "enabled")]
    #[schemars(extend("enum" = ["Enabled", "Disabled"]))]
    pub mesh_origin_check: String,
    /// Ranges of cluster IPs that the nodes advertise: each as a whole from every node, and the addresses
    /// of Services with externalTrafficPolicy Local one by one from the nodes with a ready endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "serviceClusterIPs")]
    #[schemars(length(max = 16))]
    pub service_cluster_ips: Option<Vec<ServiceRange>>,
    /// The same for external IPs; Services take others in vain.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "serviceExternalIPs")]
    #[schemars(length(max = 16))]
    pub service_external_ips: Option<Vec<ServiceRange>>,
    /// The same for addresses of load balancers.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "serviceLoadBalancerIPs")]
    #[schemars(length(max = 16))]
    pub service_load_balancer_ips: Option<Vec<ServiceRange>>,
    /// Which of its IPv4 addresses a node peers with; the InternalIP of its Node by default.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "nodeAddressAutodetectionV4"
    )]
    pub node_address_autodetection_v4: Option<AddressAutodetection>,
    /// The same for IPv6.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "nodeAddressAutodetectionV6"
    )]
    pub node_address_autodetection_v6: Option<AddressAutodetection>,
    /// What holds for the tunnels that IPPools ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<TunnelSettings>,
}

/// What holds for all tunnels.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelSettings {
    /// UDP port of VXLAN; 4789 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub vxlan_port: Option<i32>,
    /// VXLAN network identifier; 4096 by default.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "vxlanVNI")]
    #[schemars(range(min = 1, max = 16_777_215))]
    pub vxlan_vni: Option<i32>,
    /// MTU of the tunnel devices; by default that of the link below less the outer headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1280, max = 65465))]
    pub mtu: Option<i32>,
    /// Whether wrapped packets are taken from known nodes only, and from no pod; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<bool>,
}

/// A range of service addresses.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRange {
    /// The prefix, for example 10.96.0.0/12.
    #[schemars(length(max = 43))]
    #[x_kube(validation = Rule::new("isCIDR(self)").message("cidr is a prefix, for example 10.96.0.0/12"))]
    pub cidr: String,
}

/// How a node's address is chosen: exactly one of these.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.kubernetes), has(self.interface), has(self.cidrs), has(self.canReach)].filter(x, x).size() == 1").message("exactly one of kubernetes, interface, cidrs and canReach"),
)]
pub struct AddressAutodetection {
    /// NodeInternalIP: the first InternalIP of the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["NodeInternalIP"]))]
    pub kubernetes: Option<String>,
    /// The first address of the first interface with this name; a `*` at its end stands for any rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub interface: Option<String>,
    /// The first address of any interface inside one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(max = 43)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c))").message("each of cidrs is a prefix, for example 10.0.0.0/8"))]
    pub cidrs: Option<Vec<String>>,
    /// The address that packets to this one leave from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 39))]
    #[x_kube(validation = Rule::new("isIP(self)").message("canReach is an IP address"))]
    pub can_reach: Option<String>,
}

impl Default for BGPConfigurationSpec {
    fn default() -> Self {
        Self {
            as_number: default_as(),
            node_to_node_mesh_enabled: true,
            node_mesh_password: None,
            node_mesh_max_restart_time: default_restart_time(),
            listen_port: default_port(),
            hold_time: default_hold_time(),
            keepalive_time: None,
            connect_retry_time: default_connect_retry(),
            maximum_paths: default_paths(),
            mesh_origin_check: enabled(),
            service_cluster_ips: None,
            service_external_ips: None,
            service_load_balancer_ips: None,
            node_address_autodetection_v4: None,
            node_address_autodetection_v6: None,
            tunnels: None,
        }
    }
}

fn default_as() -> i64 {
    64512
}

fn yes() -> bool {
    true
}

fn enabled() -> String {
    "Enabled".to_owned()
}

fn default_restart_time() -> String {
    "300s".to_owned()
}

fn default_port() -> i32 {
    179
}

fn default_hold_time() -> String {
    "90s".to_owned()
}

fn default_connect_retry() -> String {
    "10s".to_owned()
}

fn default_paths() -> i32 {
    16
}
