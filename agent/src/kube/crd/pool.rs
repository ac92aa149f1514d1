//! IPPool: prefixes of the cluster's pods, and how they travel.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A prefix that pods have their addresses from.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "routelet.dev",
    version = "v1alpha1",
    kind = "IPPool",
    plural = "ippools",
    category = "routelet",
    status = "super::ObjectStatus",
    derive = "PartialEq",
    doc = "A prefix of the cluster's pods, and how packets to it travel.",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "IPIP", type_ = "string", json_path = ".spec.ipipMode"),
    printcolumn(name = "VXLAN", type_ = "string", json_path = ".spec.vxlanMode"),
    printcolumn(name = "NAT", type_ = "boolean", json_path = ".spec.natOutgoing"),
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
    validation = Rule::new("self.ipipMode == 'Never' || self.vxlanMode == 'Never'").message("at most one of ipipMode and vxlanMode"),
    validation = Rule::new("self.ipipMode == 'Never' || !isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 4").message("IP-in-IP carries IPv4 only; use vxlanMode"),
)]
pub struct IPPoolSpec {
    /// The prefix.
    #[schemars(length(max = 43))]
    #[x_kube(validation = Rule::new("isCIDR(self) && cidr(self) == cidr(self).masked() && cidr(self).prefixLength() > 0").message("cidr is a prefix without bits behind its length, for example 10.244.0.0/16"))]
    pub cidr: String,
    /// IP-in-IP: Never, Always, or CrossSubnet for nodes that are not on our link.
    #[serde(default = "never")]
    #[schemars(extend("enum" = ["Never", "Always", "CrossSubnet"]))]
    pub ipip_mode: String,
    /// VXLAN, with the same words.
    #[serde(default = "never")]
    #[schemars(extend("enum" = ["Never", "Always", "CrossSubnet"]))]
    pub vxlan_mode: String,
    /// Whether packets from the pool to outside of every pool get the node's address.
    #[serde(default)]
    pub nat_outgoing: bool,
}

fn never() -> String {
    "Never".to_owned()
}
