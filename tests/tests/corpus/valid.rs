//! Messages that are well formed: read whole, and as ExaBGP and bgpdump read them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use routelet_proto::{AsSegmentKind, Message, PathAttributes, SessionKind, Treatment};
use serde_json::Value;

use crate::files::{Corpus, Entry};
use crate::{Check, Differences, Findings, lines, same};

const LOOPBACK: &str = "RFC 4271 §6.3: no host has a loopback next hop; treat-as-withdraw";
const UNSPECIFIED: &str = "RFC 4271 §6.3: no host has the next hop 0.0.0.0; treat-as-withdraw";

const COMPLAINTS: Differences = &[
    ("v0038", LOOPBACK),
    ("v0185", LOOPBACK),
    ("v0070", LOOPBACK),
    ("v0076", LOOPBACK),
    ("v0069", LOOPBACK),
    ("v0078", LOOPBACK),
    ("v0074", LOOPBACK),
    ("v0075", LOOPBACK),
    ("v0077", LOOPBACK),
    ("v0186", LOOPBACK),
    ("v0264", UNSPECIFIED),
    ("v0293", "RFC 4271 §4.4: a KEEPALIVE has exactly 19 octets"),
    ("v0294", "RFC 4271 §4.2: a hold time of 1 s is refused"),
    ("v0297", "RFC 4271 §4.5: a NOTIFICATION has at least 21 octets"),
    ("v0406", "RFC 6286 §2.2: the identifier is zero"),
    ("v0451", "RFC 4271 §4.2: an OPEN has at least 29 octets"),
    ("v0452", "RFC 4271 §6.2: the optional parameters are longer than the message"),
    ("v0597", "RFC 4271 §6.3: a NEXT_HOP of 0.0.0.0, ignored beside MP_REACH_NLRI"),
    ("v0531", "RFC 4271 §6.3: attribute 171 has the flags of a well-known one"),
];

/// No message is refused, and none of our families has an issue.
pub fn without_complaint(corpus: &Corpus) -> Result<(), Findings> {
    let mut check = Check::new(COMPLAINTS);
    for entry in corpus.of("valid") {
        let outcome = match entry.decode(SessionKind::Internal) {
            Err(error) => Err(error.to_string()),
            Ok(Message::Update(update)) => {
                let allowed =
                    if entry.only_our_families() { None } else { Some(Treatment::Ignore) };
                match update.issues.iter().find(|issue| Some(issue.treatment) != allowed) {
                    Some(issue) => Err(issue.to_string()),
                    None => Ok(()),
                }
            }
            Ok(_) => Ok(()),
        };
        check.note(&entry.id, outcome);
    }
    check.finish(700)
}

const PREFIXES: Differences = &[
    ("v0038", LOOPBACK),
    ("v0185", LOOPBACK),
    ("v0070", LOOPBACK),
    ("v0076", LOOPBACK),
    ("v0069", LOOPBACK),
    ("v0078", LOOPBACK),
    ("v0074", LOOPBACK),
    ("v0075", LOOPBACK),
    ("v0077", LOOPBACK),
    ("v0186", LOOPBACK),
    ("v0264", UNSPECIFIED),
];

/// Announced by next hop and withdrawn, IPv4 and IPv6 unicast.
pub fn exabgp_prefixes(corpus: &Corpus) -> Result<(), Findings> {
    let mut check = Check::new(PREFIXES);
    for (entry, theirs) in exabgp(corpus) {
        let Some(update) = entry.update(SessionKind::Internal) else { continue };
        let ours_announced: BTreeSet<String> = update
            .announced
            .iter()
            .flat_map(|announcement| announcement.nlri.iter_any())
            .map(|(_, prefix)| prefix.to_string())
            .collect();
        let ours_withdrawn: BTreeSet<String> = update
            .withdrawn
            .iter()
            .flat_map(routelet_proto::Nlri::iter_any)
            .map(|(_, prefix)| prefix.to_string())
            .collect();
        let mut theirs_announced = BTreeSet::new();
        let mut theirs_withdrawn = BTreeSet::new();
        for family in ["ipv4 unicast", "ipv6 unicast"] {
            if let Some(by_next_hop) = theirs["announce"][family].as_object() {
                theirs_announced.extend(by_next_hop.values().flat_map(prefixes));
            }
            theirs_withdrawn.extend(prefixes(&theirs["withdraw"][family]));
        }
        let outcome = same("announced", &ours_announced, &theirs_announced)
            .and_then(|()| same("withdrawn", &ours_withdrawn, &theirs_withdrawn));
        check.note(&entry.id, outcome);
    }
    check.finish(400)
}

fn prefixes(list: &Value) -> impl Iterator<Item = String> + '_ {
    list.as_array().into_iter().flatten().filter_map(|item| item["nlri"].as_str()).map(cleared)
}

/// ExaBGP leaves bits behind the prefix length as they are.
fn cleared(prefix: &str) -> String {
    prefix.parse::<IpNet>().map_or_else(|_| prefix.to_owned(), |net| net.trunc().to_string())
}

/// UPDATEs that ExaBGP decoded.
fn exabgp(corpus: &Corpus) -> impl Iterator<Item = (&Entry, &Value)> {
    corpus.of("valid").filter_map(|entry| {
        let update = &entry.facts["expected"]["exabgp"]["update"];
        update.is_object().then_some((entry, update))
    })
}

const ATTRIBUTES: Differences = &[];

/// Every attribute that ExaBGP names, of UPDATEs that announce routes of ours.
pub fn exabgp_attributes(corpus: &Corpus) -> Result<(), Findings> {
    let mut check = Check::new(ATTRIBUTES);
    for (entry, theirs) in exabgp(corpus) {
        let Some(update) = entry.update(SessionKind::Internal) else { continue };
        let Some(announcement) = update.announced.first() else { continue };
        let ours = comparable(&announcement.attributes);
        let theirs = theirs["attribute"].as_object().expect("attributes");
        let mut outcome = Ok(());
        for (key, value) in theirs {
            let name = key.as_str();
            let ignored = name == "confederation-path" || name.starts_with("attribute-0x");
            if !ignored {
                let mine = ours.get(name).cloned().unwrap_or(Value::Null);
                outcome = outcome.and_then(|()| same(name, &mine, &normal(name, value)));
            }
        }
        for (name, value) in &ours {
            if !theirs.contains_key(*name) {
                outcome = outcome.and_then(|()| Err(format!("only ours has {name} {value}")));
            }
        }
        check.note(&entry.id, outcome);
    }
    check.finish(300)
}

/// ExaBGP's value in the form of [`comparable`].
fn normal(name: &str, value: &Value) -> Value {
    match name {
        "extended-community" => {
            let numbers = value.as_array().into_iter().flatten().map(|one| one["value"].clone());
            numbers.collect()
        }
        "cluster-list" => value.clone(),
        _ => value.clone(),
    }
}

/// Our attributes in ExaBGP's names and forms.
fn comparable(attributes: &PathAttributes) -> BTreeMap<&'static str, Value> {
    let mut map = BTreeMap::new();
    let mut put = |name, value: Value| {
        let absent = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if !absent {
            map.insert(name, value);
        }
    };
    put("origin", attributes.origin.to_string().into());
    let of_kind = |kind| {
        let segments = attributes.as_path.segments().filter(move |segment| segment.kind == kind);
        segments.flat_map(|segment| segment.asns).map(|asn| Value::from(asn.0)).collect::<Value>()
    };
    put("as-path", of_kind(AsSegmentKind::Sequence));
    put("as-set", of_kind(AsSegmentKind::Set));
    put("med", attributes.med.into());
    put("local-preference", attributes.local_pref.into());
    let halves = |number: u32| Value::from(vec![number >> 16, number & 0xffff]);
    put("community", attributes.communities.iter().map(|one| halves(one.0)).collect());
    if let Some(rare) = &attributes.rare {
        put("atomic-aggregate", if rare.atomic_aggregate { true.into() } else { Value::Null });
        let aggregator = rare.aggregator.map(|one| format!("{}:{}", one.asn, one.identifier));
        put("aggregator", aggregator.into());
        put("originator-id", rare.originator_id.map(|id| id.to_string()).into());
        put("cluster-list", rare.cluster_list.iter().map(ToString::to_string).collect());
        let extended = rare.extended_communities.iter().map(|one| u64::from_be_bytes(one.0));
        put("extended-community", extended.collect());
        let large = rare.large_communities.iter();
        let large = large.map(|one| Value::from(vec![one.global, one.local1, one.local2]));
        put("large-community", large.collect());
    }
    map
}

const BGPDUMP: Differences = &[];

/// Every line of bgpdump, and no other.
pub fn bgpdump_lines(corpus: &Corpus) -> Result<(), Findings> {
    let mut check = Check::new(BGPDUMP);
    for entry in corpus.of("valid") {
        let Some(theirs) = entry.facts["expected"]["bgpdump"].as_array() else { continue };
        let Some(update) = entry.update(SessionKind::Internal) else { continue };
        let ours: BTreeSet<String> = lines::of(&update).into_iter().collect();
        let theirs: BTreeSet<String> =
            theirs.iter().filter_map(Value::as_str).map(lines::normal).collect();
        check.note(&entry.id, same("lines", &ours, &theirs));
    }
    check.finish(400)
}
