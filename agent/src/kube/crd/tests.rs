//! The definitions are what is checked in, structural, and refuse what they should.

use kube_cel::Validator;
use serde_json::{Value, json};

use super::*;

/// The schema of the kind called `kind`.
fn schema(kind: &str) -> Value {
    let crd = values()
        .expect("definitions")
        .into_iter()
        .find(|crd| crd["spec"]["names"]["kind"] == kind)
        .expect("the kind");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Messages of the CEL rules that `object` breaks; rules that cannot be evaluated are told, too.
fn broken(kind: &str, name: &str, mut spec: Value) -> Vec<String> {
    let schema = schema(kind);
    apply_defaults(&schema["properties"]["spec"], &mut spec);
    let object = json!({"metadata": {"name": name}, "spec": spec});
    match Validator::new().validate(&schema, &object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// As the API server does before it looks at the rules.
fn apply_defaults(schema: &Value, value: &mut Value) {
    let (Some(properties), Some(map)) = (schema["properties"].as_object(), value.as_object_mut())
    else {
        return;
    };
    for (key, schema) in properties {
        if let Some(default) = schema.get("default") {
            map.entry(key.clone()).or_insert_with(|| default.clone());
        }
    }
}

#[test]
fn definitions_are_the_ones_checked_in() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds.yaml");
    let found = std::fs::read_to_string(file).expect("deploy/crds.yaml");
    let printed = yaml().expect("definitions");
    assert!(found == printed, "deploy/crds.yaml is old: `routelet crds > deploy/crds.yaml`");
}

/// What the API server demands of a schema: <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>.
fn check_structural(path: &str, schema: &Value) {
    let map = schema.as_object().unwrap_or_else(|| panic!("{path}: not a schema"));
    assert!(map.get("type").is_some_and(Value::is_string), "{path}: has no type: {schema}");
    for key in map.keys() {
        let known = [
            "type",
            "description",
            "properties",
            "items",
            "required",
            "enum",
            "default",
            "format",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "pattern",
            "x-kubernetes-validations",
            "x-kubernetes-list-type",
            "x-kubernetes-list-map-keys",
        ];
        assert!(
            known.contains(&key.as_str()),
            "{path}: the key {key} is not allowed or not needed"
        );
    }
    if let Some(format) = map.get("format").and_then(Value::as_str) {
        assert!(["int32", "int64", "date-time", "double"].contains(&format), "{path}: {format}");
    }
    if let Some(properties) = map.get("properties") {
        assert_eq!(map["type"], "object", "{path}");
        for (key, schema) in properties.as_object().expect("properties") {
            check_structural(&format!("{path}.{key}"), schema);
        }
        for key in map.get("required").and_then(Value::as_array).into_iter().flatten() {
            let key = key.as_str().expect("key");
            assert!(properties.get(key).is_some(), "{path}: requires {key}, which it has not");
        }
    }
    if map["type"] == "array" {
        check_structural(&format!("{path}[]"), &map["items"]);
    }
    // A rule over unbounded text or lists is refused for its estimated cost.
    if map.contains_key("x-kubernetes-validations") && map["type"] == "string" {
        assert!(map.contains_key("maxLength"), "{path}: a rule over unbounded text");
    }
    if map.contains_key("x-kubernetes-validations") && map["type"] == "array" {
        assert!(map.contains_key("maxItems"), "{path}: a rule over an unbounded list");
        assert!(map["items"]["type"] != "string" || map["items"].get("maxLength").is_some());
    }
}

#[test]
fn schemas_are_structural() {
    for crd in values().expect("definitions") {
        let kind = crd["spec"]["names"]["kind"].as_str().expect("kind").to_owned();
        assert_eq!(crd["spec"]["scope"], "Cluster", "{kind}");
        let version = &crd["spec"]["versions"][0];
        assert_eq!(version["subresources"]["status"], json!({}), "{kind}");
        assert!(version["additionalPrinterColumns"].as_array().is_some_and(|c| c.len() > 2));
        let schema = &version["schema"]["openAPIV3Schema"];
        check_structural(&kind, schema);
    }
}

#[test]
fn lists_of_rules_are_bounded() {
    let schema = schema("BGPFilter");
    for list in ["importV4", "exportV4", "importV6", "exportV6"] {
        let list = &schema["properties"]["spec"]["properties"][list];
        assert_eq!(list["maxItems"], 128);
        assert_eq!(list["items"]["properties"]["cidr"]["maxLength"], 43);
    }
}

#[test]
fn defaults_are_those_of_the_file() {
    let schema = schema("BGPConfiguration");
    let defaults: Value = schema["properties"]["spec"]["properties"]
        .as_object()
        .expect("properties")
        .iter()
        .filter_map(|(key, schema)| Some((key.clone(), schema.get("default")?.clone())))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert_eq!(
        defaults,
        json!({
            "asNumber": 64512, "nodeToNodeMeshEnabled": true, "nodeMeshMaxRestartTime": "300s",
            "listenPort": 179, "holdTime": "90s", "connectRetryTime": "10s", "maximumPaths": 16,
            "meshOriginCheck": "Enabled",
        })
    );
    let spec: BGPConfigurationSpec = serde_json::from_value(json!({})).expect("empty spec");
    assert_eq!(spec, BGPConfigurationSpec::default());
}

/// Objects and what the rules must say of them; a real API server is asked about the same ones
/// (tests/tests/cluster_api).
fn cases() -> Vec<Value> {
    serde_json::from_str(include_str!("cases.json")).expect("cases.json")
}

#[test]
fn rules_accept_what_is_right_and_refuse_what_is_wrong() {
    let mut refused = 0;
    for case in cases() {
        let text = |key: &str| case[key].as_str().expect("text");
        let errors = broken(text("kind"), text("name"), case["spec"].clone());
        match case["refused"].as_str() {
            None => assert_eq!(errors, Vec::<String>::new(), "{case}"),
            Some(words) => {
                refused += 1;
                assert!(errors.iter().any(|error| error.contains(words)), "{case}: {errors:?}");
            }
        }
    }
    assert!(refused > 20);
}

#[test]
fn objects_survive_a_round_trip() {
    let peer = json!({"peerIP": "10.0.0.1:1179", "asNumber": 4_200_000_001_i64,
        "numAllowedLocalASNumbers": 1, "localASNumber": 65010, "filters": ["a", "b"],
        "password": {"secretKeyRef": {"name": "bgp", "key": "tor"}}});
    let spec: BGPPeerSpec = serde_json::from_value(peer.clone()).expect("peer");
    assert_eq!(serde_json::to_value(spec).expect("peer"), peer);
}
