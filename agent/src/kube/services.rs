//! Services: which addresses they have, and which of them this node serves.
//!
//! In flow: Services and EndpointSlices of the API server, decoded into types of our own (what is not
//! used is skipped while it is read; of the endpoints only three bits a slice are kept). Out flow:
//! [`ServiceAddress`]es, sorted, each once, which [`super::translate`] compares with the ranges that may
//! be advertised.
//!
//! What always holds: an address of a Service with externalTrafficPolicy Local is ours to advertise only
//! while an endpoint of its family is ready here. Endpoints that terminate but still serve count only
//! while no endpoint is ready anywhere (KEP-1672): a node that is drained is left before its pods are
//! gone, and the last one is not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};

use super::slim::slim_metadata;

/// The label that keeps a node from advertising service addresses, whatever its value.
pub const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What an address of a Service is for; each has ranges of its own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Use {
    /// `spec.clusterIPs`.
    Cluster,
    /// `spec.externalIPs`.
    External,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
}

/// An address that at least one Service has.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ServiceAddress {
    /// What for.
    pub use_: Use,
    /// The address.
    pub address: IpAddr,
    /// For a Service with externalTrafficPolicy Local: whether this node serves it. `None`: every node
    /// does.
    pub here: Option<bool>,
}

/// A Service, as far as it is used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Service {
    /// `namespace/name`.
    pub(super) key: String,
    addresses: Vec<(Use, IpAddr)>,
    /// externalTrafficPolicy Local.
    pub(super) local: bool,
}

/// An EndpointSlice, as far as it is used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Slice {
    /// `namespace/name`.
    pub(super) key: String,
    /// `namespace/name` of its Service.
    pub(super) service: String,
    is_ipv4: bool,
    /// A ready endpoint is on this node.
    ready_here: bool,
    /// One that terminates and still serves is.
    draining_here: bool,
    /// A ready endpoint is on another node.
    ready_elsewhere: bool,
}

impl Slice {
    /// The slice as the node with this name sees it.
    pub(super) fn new(object: SliceObject, node: &str) -> Self {
        let mut slice = Self {
            key: key(&object.metadata),
            service: format!(
                "{}/{}",
                object.metadata.namespace.as_deref().unwrap_or_default(),
                object
                    .metadata
                    .labels
                    .as_ref()
                    .and_then(|all| all.get(SERVICE_NAME))
                    .map_or("", |name| name),
            ),
            is_ipv4: object.address_type == "IPv4",
            ready_here: false,
            draining_here: false,
            ready_elsewhere: false,
        };
        for endpoint in object.endpoints.unwrap_or_default() {
            let conditions = endpoint.conditions.unwrap_or_default();
            // What is not said is ready, and not terminating (discovery.k8s.io/v1, EndpointConditions).
            let ready = conditions.ready.unwrap_or(true);
            let serving = conditions.serving.unwrap_or(ready);
            let draining = serving && conditions.terminating.unwrap_or(false) && !ready;
            if endpoint.node_name.as_deref() == Some(node) {
                slice.ready_here |= ready;
                slice.draining_here |= draining;
            } else {
                slice.ready_elsewhere |= ready;
            }
        }
        slice
    }
}

/// The addresses of `services`, sorted, each once for each use.
pub(super) fn addresses<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a Slice>,
) -> Vec<ServiceAddress> {
    let mut served: BTreeMap<(&str, bool), [bool; 3]> = BTreeMap::new();
    for slice in slices {
        let bits = served.entry((&slice.service, slice.is_ipv4)).or_default();
        bits[0] |= slice.ready_here;
        bits[1] |= slice.draining_here;
        bits[2] |= slice.ready_elsewhere;
    }
    let mut found: BTreeMap<(Use, IpAddr), Option<bool>> = BTreeMap::new();
    for service in services {
        for (use_, address) in &service.addresses {
            let bits = served.get(&(service.key.as_str(), address.is_ipv4()));
            let [ready_here, draining_here, ready_elsewhere] = bits.copied().unwrap_or_default();
            let here = service.local.then_some(ready_here || draining_here && !ready_elsewhere);
            // Two Services may share an address: it is served where one of them is.
            let entry = found.entry((*use_, *address)).or_insert(here);
            *entry = match (*entry, here) {
                (Some(one), Some(other)) => Some(one || other),
                (one, other) => one.or(other),
            };
        }
    }
    let address = |((use_, address), here)| ServiceAddress { use_, address, here };
    found.into_iter().map(address).collect()
}

fn key(metadata: &ObjectMeta) -> String {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", metadata.name.as_deref().unwrap_or_default())
}

/// A Service on its way from the API server.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Service")]
pub(super) struct ServiceObject {
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
    #[serde(rename = "type")]
    type_: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    external_traffic_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimStatus {
    load_balancer: Option<SlimLoadBalancer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SlimLoadBalancer {
    ingress: Option<Vec<SlimIngress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimIngress {
    ip: Option<String>,
    ip_mode: Option<String>,
}

impl From<ServiceObject> for Service {
    fn from(object: ServiceObject) -> Self {
        let ServiceObject { metadata, spec, status } = object;
        let cluster = match spec.cluster_ips {
            Some(addresses) if !addresses.is_empty() => addresses,
            _ => spec.cluster_ip.into_iter().collect(),
        };
        // Packets to an address of mode Proxy are not for the nodes as they are.
        let ingress = status.load_balancer.unwrap_or_default().ingress.unwrap_or_default();
        let balanced: Vec<String> = ingress
            .into_iter()
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip)
            .collect();
        let mut addresses = Vec::new();
        // ExternalName is a name and nothing else; "None" is no address and does not parse.
        if spec.type_.as_deref() != Some("ExternalName") {
            for (use_, texts) in [
                (Use::Cluster, cluster),
                (Use::External, spec.external_ips.unwrap_or_default()),
                (Use::LoadBalancer, balanced),
            ] {
                let parsed = texts.iter().filter_map(|text| text.parse().ok());
                addresses.extend(parsed.map(|address| (use_, address)));
            }
        }
        Self {
            key: key(&metadata),
            addresses,
            local: spec.external_traffic_policy.as_deref() == Some("Local"),
        }
    }
}

/// An EndpointSlice on its way from the API server.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::discovery::v1::EndpointSlice")]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceObject {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<SlimEndpoint>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimEndpoint {
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default)]
    conditions: Option<SlimConditions>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct SlimConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(name: &str, spec: Value, ingress: Value) -> Service {
        let object = json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": spec, "status": {"loadBalancer": {"ingress": ingress}},
        });
        serde_json::from_value::<ServiceObject>(object).expect("service").into()
    }

    fn slice(service: &str, family: &str, endpoints: Value) -> Slice {
        let object = json!({
            "metadata": {"name": format!("{service}-{family}"), "namespace": "shop",
                "labels": {"kubernetes.io/service-name": service}},
            "addressType": family, "endpoints": endpoints,
        });
        Slice::new(serde_json::from_value(object).expect("slice"), "node-a")
    }

    fn local(slices: &[Slice]) -> [Option<bool>; 2] {
        let spec =
            json!({"clusterIPs": ["10.96.0.7", "fd00:96::7"], "externalTrafficPolicy": "Local"});
        let found = addresses(&[service("web", spec, json!(null))], slices);
        [found[0].here, found[1].here]
    }

    #[test]
    fn addresses_are_found_in_their_three_places() {
        let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "externalIPs": ["192.0.2.7", "not an address"]});
        let ingress = json!([{"ip": "198.51.100.7"}, {"ip": "198.51.100.8", "ipMode": "Proxy"},
            {"hostname": "a.example"}]);
        let found = addresses(&[service("web", spec, ingress)], []);
        let found: Vec<(Use, String, Option<bool>)> =
            found.iter().map(|one| (one.use_, one.address.to_string(), one.here)).collect();
        let one = |use_, text: &str| (use_, text.to_owned(), None);
        assert_eq!(
            found,
            [
                one(Use::Cluster, "10.96.0.7"),
                one(Use::External, "192.0.2.7"),
                one(Use::LoadBalancer, "198.51.100.7")
            ]
        );
        for spec in [
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            json!({"type": "ExternalName", "externalIPs": ["192.0.2.7"]}),
            json!({}),
        ] {
            assert_eq!(addresses(&[service("none", spec, json!(null))], []), []);
        }
    }

    #[test]
    fn a_ready_endpoint_here_counts_for_its_family_only() {
        let here = json!([{"nodeName": "node-a", "conditions": {"ready": true}}]);
        assert_eq!(local(&[]), [Some(false); 2]);
        assert_eq!(local(&[slice("web", "IPv4", here.clone())]), [Some(true), Some(false)]);
        assert_eq!(local(&[slice("web", "IPv6", here.clone())]), [Some(false), Some(true)]);
        assert_eq!(local(&[slice("other", "IPv4", here)]), [Some(false); 2]);
        let said_nothing = json!([{"nodeName": "node-a"}]);
        assert_eq!(local(&[slice("web", "IPv4", said_nothing)])[0], Some(true));
        let elsewhere = json!([{"nodeName": "node-b", "conditions": {"ready": true}}, {}]);
        assert_eq!(local(&[slice("web", "IPv4", elsewhere)])[0], Some(false));
        let starting =
            json!([{"nodeName": "node-a", "conditions": {"ready": false, "serving": false}}]);
        assert_eq!(local(&[slice("web", "IPv4", starting)])[0], Some(false));
    }

    #[test]
    fn what_terminates_counts_while_nothing_is_ready_anywhere() {
        let draining = json!({"nodeName": "node-a",
            "conditions": {"ready": false, "serving": true, "terminating": true}});
        let dead = json!({"nodeName": "node-a",
            "conditions": {"ready": false, "serving": false, "terminating": true}});
        let ready = json!({"nodeName": "node-b", "conditions": {"ready": true}});
        let served = |endpoints: Value| local(&[slice("web", "IPv4", endpoints)])[0];
        assert_eq!(served(json!([draining])), Some(true), "the last that serves");
        assert_eq!(served(json!([draining, ready])), Some(false), "the other node takes over");
        assert_eq!(served(json!([dead])), Some(false));
        // Spread over two slices it is the same.
        let both = [slice("web", "IPv4", json!([draining])), {
            let mut other = slice("web", "IPv4", json!([ready]));
            other.key.push('2');
            other
        }];
        assert_eq!(local(&both)[0], Some(false));
    }

    #[test]
    fn a_shared_address_is_served_where_one_of_its_services_is() {
        let spec =
            |policy: &str| json!({"externalIPs": ["192.0.2.7"], "externalTrafficPolicy": policy});
        let one = service("one", spec("Local"), json!(null));
        let two = service("two", spec("Local"), json!(null));
        let all = service("all", spec("Cluster"), json!(null));
        let here = slice("two", "IPv4", json!([{"nodeName": "node-a"}]));
        assert_eq!(addresses([&one, &two], [&here])[0].here, Some(true));
        assert_eq!(addresses([&one, &two], [])[0].here, Some(false));
        assert_eq!(addresses([&all, &one], [])[0].here, Some(false));
        assert_eq!(addresses([&all], [])[0].here, None);
    }
}
