//! A decoded message as one JSON object; docs/decode.md describes its fields.

use routelet_proto::attributes::attribute_name;
use routelet_proto::capability::capability_name;
use routelet_proto::{
    AsSegmentKind, Capability, Message, NextHop, Nlri, Notification, Open, PathAttributes,
    Treatment, Update,
};
use serde_json::{Map, Value, json};

use super::text::refresh_name;
use super::{Decoded, Outcome, hex};

pub(super) fn value(decoded: &Decoded<'_>) -> Value {
    let mut object = json!({
        "message": decoded.number,
        "type": decoded.kind.map(|kind| kind.to_string()),
        "octets": decoded.octets.len(),
        "wellFormed": decoded.well_formed(),
    });
    match decoded.outcome {
        Outcome::Message(Message::Open(open)) => object["open"] = open_value(open),
        Outcome::Message(Message::Update(update)) => object["update"] = update_value(update),
        Outcome::Message(Message::Notification(notification)) => {
            object["notification"] = notification_value(notification);
        }
        Outcome::Message(Message::Keepalive) => {}
        Outcome::Message(Message::RouteRefresh(refresh)) => {
            object["routeRefresh"] = json!({
                "family": refresh.family.to_string(),
                "subtype": refresh_name(refresh.subtype),
            });
        }
        Outcome::Refused(error) => {
            object["error"] = json!({
                "treatment": Treatment::SessionReset.to_string(),
                "notification": notification_value(&error.notification),
                "offset": error.offset,
                "reason": error.detail,
            });
        }
        Outcome::CutShort(expected) => {
            object["error"] = json!({ "reason": "cut short", "expectedOctets": expected });
        }
    }
    let raw: Vec<Value> = decoded
        .raw_attributes()
        .map(|attribute| {
            json!({
                "offset": attribute.offset,
                "code": attribute.code,
                "name": attribute_name(attribute.code),
                "flags": attribute.flags,
                "value": hex(attribute.value),
                "cut": attribute.cut,
            })
        })
        .collect();
    if !raw.is_empty() {
        object["rawAttributes"] = raw.into();
    }
    object
}

fn notification_value(notification: &Notification) -> Value {
    let (code, subcode) = notification.code.octets();
    json!({
        "code": code,
        "subcode": subcode,
        "name": notification.code.to_string(),
        "data": hex(&notification.data),
        "message": notification.message(),
    })
}

fn open_value(open: &Open) -> Value {
    json!({
        "asNumber": open.asn.0,
        "myAs": open.my_as,
        "holdTimeSeconds": open.hold_time.seconds(),
        "identifier": open.identifier.to_string(),
        "capabilities": open.capabilities.iter().map(capability_value).collect::<Vec<_>>(),
    })
}

fn capability_value(capability: &Capability) -> Value {
    let code = capability.code();
    let mut object = json!({ "code": code, "name": capability_name(code) });
    match capability {
        Capability::Multiprotocol(family) => object["family"] = family.to_string().into(),
        Capability::RouteRefresh
        | Capability::ExtendedMessage
        | Capability::EnhancedRouteRefresh => {}
        Capability::ExtendedNextHop(families) => {
            let entry = |(family, afi): &(routelet_proto::AfiSafi, u16)| json!({ "family": family.to_string(), "nextHopAfi": afi });
            object["families"] = families.iter().map(entry).collect();
        }
        Capability::Role(role) => object["role"] = role.to_string().into(),
        Capability::GracefulRestart { restarted, notification, restart_time, families } => {
            object["restarted"] = (*restarted).into();
            object["notification"] = (*notification).into();
            object["restartTimeSeconds"] = (*restart_time).into();
            object["families"] = families
                .iter()
                .map(|entry| {
                    json!({ "family": entry.family.to_string(), "forwarding": entry.forwarding })
                })
                .collect();
        }
        Capability::FourOctetAs(asn) => object["asNumber"] = asn.0.into(),
        Capability::AddPath(families) => {
            object["families"] = families
                .iter()
                .map(|(family, mode)| {
                    json!({ "family": family.to_string(), "mode": mode.to_string() })
                })
                .collect();
        }
        Capability::LongLivedGracefulRestart(families) => {
            object["families"] = families
                .iter()
                .map(|entry| {
                    json!({
                        "family": entry.family.to_string(),
                        "forwarding": entry.forwarding,
                        "staleTimeSeconds": entry.stale_time,
                    })
                })
                .collect();
        }
        Capability::Fqdn { host, domain } => {
            object["host"] = host.as_str().into();
            object["domain"] = domain.as_str().into();
        }
        Capability::Unknown { value, .. } => object["value"] = hex(value).into(),
    }
    object
}

fn update_value(update: &Update) -> Value {
    let issues = update.issues.iter().map(|issue| {
        json!({
            "treatment": issue.treatment.to_string(),
            "attribute": issue.attribute,
            "attributeName": issue.attribute.and_then(attribute_name),
            "offset": issue.offset,
            "reason": issue.detail,
        })
    });
    let announced = update.announced.iter().map(|announcement| {
        json!({
            "attributes": attributes_value(&announcement.attributes),
            "family": announcement.nlri.family().to_string(),
            "prefixes": prefixes(&announcement.nlri),
        })
    });
    let withdrawn = update
        .withdrawn
        .iter()
        .map(|nlri| json!({ "family": nlri.family().to_string(), "prefixes": prefixes(nlri) }));
    json!({
        "announced": announced.collect::<Vec<_>>(),
        "withdrawn": withdrawn.collect::<Vec<_>>(),
        "endOfRib": update.end_of_rib.map(|family| family.to_string()),
        "issues": issues.collect::<Vec<_>>(),
    })
}

fn prefixes(nlri: &Nlri) -> Vec<Value> {
    nlri.iter_any()
        .map(|(path_id, prefix)| {
            if nlri.add_path() {
                json!({ "prefix": prefix.to_string(), "pathId": path_id })
            } else {
                json!({ "prefix": prefix.to_string() })
            }
        })
        .collect()
}

/// Attributes that are not there have no key.
fn attributes_value(attributes: &PathAttributes) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| {
        let absent = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if !absent {
            object.insert(key.to_owned(), value);
        }
    };
    put("origin", attributes.origin.to_string().into());
    put("asPath", attributes.as_path.to_string().into());
    put("asPathSegments", segments(attributes));
    put("nextHop", attributes.next_hop.address().to_string().into());
    if let NextHop::V6WithLinkLocal(_, local) = attributes.next_hop {
        put("nextHopLinkLocal", local.to_string().into());
    }
    put("med", attributes.med.into());
    put("localPref", attributes.local_pref.into());
    put("communities", attributes.communities.iter().map(ToString::to_string).collect());
    if let Some(rare) = &attributes.rare {
        put("atomicAggregate", if rare.atomic_aggregate { true.into() } else { Value::Null });
        if let Some(aggregator) = rare.aggregator {
            put(
                "aggregator",
                json!({
                    "asNumber": aggregator.asn.0,
                    "identifier": aggregator.identifier.to_string(),
                }),
            );
        }
        put("originatorId", rare.originator_id.map(|id| id.to_string()).into());
        put("clusterList", rare.cluster_list.iter().map(ToString::to_string).collect());
        let extended = rare.extended_communities.iter().map(ToString::to_string);
        put("extendedCommunities", extended.collect());
        put("largeCommunities", rare.large_communities.iter().map(ToString::to_string).collect());
        put("otc", rare.otc.map(|asn| asn.0).into());
        let unknown = rare.unknown.iter().map(|attribute| {
            json!({
                "code": attribute.code,
                "name": attribute_name(attribute.code),
                "flags": attribute.flags,
                "value": hex(&attribute.value),
            })
        });
        put("unknown", unknown.collect());
    }
    object.into()
}

fn segments(attributes: &PathAttributes) -> Value {
    attributes
        .as_path
        .segments()
        .map(|segment| {
            let kind = match segment.kind {
                AsSegmentKind::Set => "set",
                AsSegmentKind::Sequence => "sequence",
                AsSegmentKind::ConfedSequence => "confed-sequence",
                AsSegmentKind::ConfedSet => "confed-set",
            };
            let numbers: Vec<u32> = segment.asns.iter().map(|asn| asn.0).collect();
            json!({ "kind": kind, "asNumbers": numbers })
        })
        .collect()
}
