//! tshark's reading of single fields, found by their names wherever they stand in its tree.

use std::collections::BTreeSet;

use routelet_proto::{Capability, Message, NextHop, Nlri, Open, SessionKind, Update};
use serde_json::Value;

use crate::files::Corpus;
use crate::{Check, Differences, Findings, same};

const TSHARK: Differences = &[];

pub fn tshark(corpus: &Corpus) -> Result<(), Findings> {
    let theirs = corpus.tshark();
    let mut check = Check::new(TSHARK);
    for entry in corpus.of("valid") {
        let Some(tree) = theirs.get(&entry.id) else { continue };
        let outcome = match entry.decode(SessionKind::Internal) {
            Ok(Message::Open(open)) => compare_open(&open, tree),
            Ok(Message::Update(update)) => compare_update(&update, tree),
            Ok(Message::Notification(notification)) => {
                let (code, _) = notification.code.octets();
                field("code", &code.to_string(), tree, "bgp.notify.major_error").and_then(|()| {
                    match values(tree, "bgp.notify.communication").pop() {
                        Some(text) => same("text", &notification.message(), &Some(text)),
                        None => Ok(()),
                    }
                })
            }
            Ok(Message::RouteRefresh(refresh)) => {
                let family = refresh.family;
                field("AFI", &family.afi.to_string(), tree, "bgp.route_refresh.afi").and_then(
                    |()| field("SAFI", &family.safi.to_string(), tree, "bgp.route_refresh.safi"),
                )
            }
            Ok(Message::Keepalive) | Err(_) => continue,
        };
        check.note(&entry.id, outcome);
    }
    check.finish(600)
}

fn compare_open(open: &Open, tree: &Value) -> Result<(), String> {
    field("My AS", &open.my_as.to_string(), tree, "bgp.open.myas")?;
    field("hold time", &open.hold_time.seconds().to_string(), tree, "bgp.open.holdtime")?;
    field("identifier", &open.identifier.to_string(), tree, "bgp.open.identifier")?;
    let ours: Vec<String> =
        open.capabilities.iter().map(|capability| capability.code().to_string()).collect();
    // Keys that repeat are lost in tshark's JSON, so that only what it kept can be compared.
    for theirs in values(tree, "bgp.cap.type") {
        if !ours.contains(&theirs) {
            return Err(format!("capability {theirs} is not among ours {ours:?}"));
        }
    }
    if let Some(theirs) = values(tree, "bgp.cap.4as").pop() {
        let ours = open.capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(asn.to_string()),
            _ => None,
        });
        same("four-octet AS", &ours, &Some(theirs))?;
    }
    Ok(())
}

fn compare_update(update: &Update, tree: &Value) -> Result<(), String> {
    let ours: BTreeSet<String> = update
        .announced
        .iter()
        .flat_map(|announcement| announcement.nlri.iter_any())
        .chain(update.withdrawn.iter().flat_map(Nlri::iter_any))
        .map(|(_, prefix)| prefix.addr().to_string())
        // tshark gives no address for some prefixes of no octets.
        .filter(|address| address != "0.0.0.0")
        .collect();
    let mut theirs = BTreeSet::new();
    for key in [
        "bgp.nlri_prefix",
        "bgp.withdrawn_prefix",
        "bgp.mp_reach_nlri_ipv6_prefix",
        "bgp.mp_unreach_nlri_ipv6_prefix",
    ] {
        theirs.extend(values(tree, key).into_iter().filter(|address| address != "0.0.0.0"));
    }
    if update.issues.is_empty() {
        same("prefixes", &ours, &theirs)?;
    }
    let Some(announcement) = update.announced.first() else { return Ok(()) };
    let attributes = &announcement.attributes;
    let prefix = "bgp.update.path_attribute.";
    let origin = u8::from(attributes.origin).to_string();
    field("ORIGIN", &origin, tree, &format!("{prefix}origin"))?;
    if let NextHop::V4(address) = attributes.next_hop {
        field("NEXT_HOP", &address.to_string(), tree, &format!("{prefix}next_hop"))?;
    }
    for (ours, key) in [(attributes.med, "multi_exit_disc"), (attributes.local_pref, "local_pref")]
    {
        let theirs = values(tree, &format!("{prefix}{key}")).pop();
        same(key, &ours.map(|number| number.to_string()), &theirs)?;
    }
    // tshark has other fields for the reserved ranges (RFC 1997).
    let plain = attributes.communities.iter().map(|one| one.0 >> 16);
    let plain = plain.filter(|asn| !matches!(asn, 0 | 0xffff)).map(|asn| asn.to_string());
    let communities: Vec<String> = plain.collect();
    same("communities", &communities, &values(tree, &format!("{prefix}community_as")))?;
    let rare = attributes.rare.as_deref();
    let originator = rare.and_then(|rare| rare.originator_id).map(|id| id.to_string());
    same("ORIGINATOR_ID", &originator, &values(tree, &format!("{prefix}originator_id")).pop())?;
    let clusters: Vec<String> = rare
        .map(|rare| rare.cluster_list.iter().map(ToString::to_string).collect())
        .unwrap_or_default();
    same("CLUSTER_LIST", &clusters, &values(tree, "bgp.path_attribute.cluster_id"))?;
    Ok(())
}

/// Compares with the one field of this name, if tshark has it.
fn field(what: &str, ours: &str, tree: &Value, key: &str) -> Result<(), String> {
    match values(tree, key).pop() {
        Some(theirs) => same(what, &ours, &theirs.as_str()),
        None => Err(format!("tshark has no {key}")),
    }
}

/// Every value of this name in the tree, in its order.
fn values(tree: &Value, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect(tree, key, &mut found);
    found
}

fn collect(tree: &Value, key: &str, found: &mut Vec<String>) {
    match tree {
        Value::Object(object) => {
            for (name, value) in object {
                if name == key {
                    match value {
                        Value::String(text) => found.push(text.clone()),
                        Value::Array(list) => {
                            found.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
                        }
                        _ => {}
                    }
                }
                collect(value, key, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, key, found)),
        _ => {}
    }
}
