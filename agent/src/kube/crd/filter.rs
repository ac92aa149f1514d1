//! BGPFilter: ordered rules for what is accepted from peers and sent to them.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Ordered rules; the first that matches decides, and without a match the default policy does.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "routelet.dev",
    version = "v1alpha1",
    kind = "BGPFilter",
    plural = "bgpfilters",
    shortname = "bgpf",
    category = "routelet",
    status = "super::ObjectStatus",
    derive = "PartialEq",
    doc = "Rules for routes, named by the peers that they apply to.",
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
    validation = Rule::new("(!has(self.importV4) || self.importV4.all(r, !has(r.cidr) || !isCIDR(r.cidr) || cidr(r.cidr).ip().family() == 4)) && (!has(self.exportV4) || self.exportV4.all(r, !has(r.cidr) || !isCIDR(r.cidr) || cidr(r.cidr).ip().family() == 4))").message("importV4 and exportV4 take IPv4 prefixes"),
    validation = Rule::new("(!has(self.importV6) || self.importV6.all(r, !has(r.cidr) || !isCIDR(r.cidr) || cidr(r.cidr).ip().family() == 6)) && (!has(self.exportV6) || self.exportV6.all(r, !has(r.cidr) || !isCIDR(r.cidr) || cidr(r.cidr).ip().family() == 6))").message("importV6 and exportV6 take IPv6 prefixes"),
)]
pub struct BGPFilterSpec {
    /// For IPv4 routes from a peer.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "importV4")]
    #[schemars(length(max = 128))]
    pub import_v4: Option<Vec<FilterRule>>,
    /// For IPv4 routes to a peer.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "exportV4")]
    #[schemars(length(max = 128))]
    pub export_v4: Option<Vec<FilterRule>>,
    /// For IPv6 routes from a peer.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "importV6")]
    #[schemars(length(max = 128))]
    pub import_v6: Option<Vec<FilterRule>>,
    /// For IPv6 routes to a peer.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "exportV6")]
    #[schemars(length(max = 128))]
    pub export_v6: Option<Vec<FilterRule>>,
}

/// A rule. Without a condition it matches everything.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.cidr) == has(self.matchOperator)").message("cidr and matchOperator go together"),
    validation = Rule::new("!has(self.prefixLength) || (has(self.matchOperator) && self.matchOperator in ['In', 'NotIn'])").message("prefixLength goes with matchOperator In or NotIn"),
)]
pub struct FilterRule {
    /// Accept or Reject.
    #[schemars(extend("enum" = ["Accept", "Reject"]))]
    pub action: String,
    /// A prefix that routes are compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43))]
    #[x_kube(validation = Rule::new("isCIDR(self) && cidr(self) == cidr(self).masked()").message("cidr is a prefix without bits behind its length, for example 10.0.0.0/8"))]
    pub cidr: Option<String>,
    /// How: Equal, NotEqual, In or NotIn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Equal", "NotEqual", "In", "NotIn"]))]
    pub match_operator: Option<String>,
    /// Which lengths, for In and NotIn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<PrefixLength>,
}

/// Lengths of prefixes, both included.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[x_kube(
    validation = Rule::new("!has(self.min) || !has(self.max) || self.min <= self.max").message("min must not exceed max"),
)]
pub struct PrefixLength {
    /// The shortest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub min: Option<i32>,
    /// The longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub max: Option<i32>,
}
