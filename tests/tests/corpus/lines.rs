//! An UPDATE in the lines of `bgpdump -m`: `A|prefix|AS path|origin|next hop|LOCAL_PREF|MED|
//! communities|AG or NAG|aggregator|` and `W|prefix`. A path identifier follows the prefix.

use std::net::IpAddr;

use ipnet::IpNet;
use routelet_proto::{Community, Nlri, PathAttributes, PathId, Update};

pub fn of(update: &Update) -> Vec<String> {
    let withdrawn = update.withdrawn.iter().flat_map(prefixes).map(|prefix| format!("W|{prefix}"));
    let announced = update.announced.iter().flat_map(|announcement| {
        let tail = attributes(&announcement.attributes);
        prefixes(&announcement.nlri).map(move |prefix| format!("A|{prefix}|{tail}"))
    });
    let mut lines: Vec<String> = withdrawn.chain(announced).collect();
    lines.sort();
    lines
}

/// bgpdump's line in our spelling: host bits cleared, the address text of the standard library, the
/// communities' field there even where the old format leaves it out. An announcement by a next hop
/// that no host can have is the withdrawal that RFC 7606 §3 (e) makes of it, and an AGGREGATOR of
/// AS 0 is discarded (RFC 7607 §2).
pub fn normal(line: &str) -> String {
    let mut fields: Vec<String> = line.split('|').map(str::to_owned).collect();
    if let Some(prefix) = fields.get_mut(1)
        && let Ok(net) = prefix.parse::<IpNet>()
    {
        *prefix = net.trunc().to_string();
    }
    if fields[0] == "W" {
        return fields[..2].join("|");
    }
    if matches!(fields.get(7).map(String::as_str), Some("AG" | "NAG")) {
        fields.insert(7, String::new());
    }
    let atomic = fields.iter().position(|field| matches!(&field[..], "AG" | "NAG"));
    if let Some(aggregator) = atomic.and_then(|place| fields.get_mut(place + 1))
        && aggregator.starts_with("0 ")
    {
        aggregator.clear();
    }
    let next_hop =
        fields.iter().position(|field| matches!(&field[..], "IGP" | "EGP" | "INCOMPLETE"));
    if let Some(place) = next_hop.map(|place| place + 1)
        && let Ok(address) = fields[place].parse::<IpAddr>()
    {
        if address.is_unspecified() || address.is_loopback() {
            return format!("W|{}", fields[1]);
        }
        fields[place] = address.to_string();
    }
    fields.join("|")
}

/// The line as bgpdump prints the old MRT type BGP: MED and communities run together, and a
/// withdrawal has the peer's address in place of the prefix, so that only its being there compares.
pub fn in_old_form(line: &str) -> String {
    let mut fields: Vec<String> = line.split('|').map(str::to_owned).collect();
    if fields[0] == "W" {
        return "W".to_owned();
    }
    if let [_, _, _, _, _, _, med, communities, ..] = &mut fields[..] {
        med.push_str(&std::mem::take(communities));
    }
    fields.join("|")
}

fn prefixes(nlri: &Nlri) -> impl Iterator<Item = String> + '_ {
    let with_path_id = nlri.add_path();
    nlri.iter_any().map(move |(path_id, prefix): (PathId, IpNet)| {
        if with_path_id { format!("{prefix}|{path_id}") } else { prefix.to_string() }
    })
}

fn attributes(attributes: &PathAttributes) -> String {
    let rare = attributes.rare.as_deref();
    let communities: Vec<String> = attributes.communities.iter().map(community).collect();
    let atomic = rare.is_some_and(|rare| rare.atomic_aggregate);
    let aggregator = rare.and_then(|rare| rare.aggregator);
    format!(
        "{}|{}|{}|{}|{}|{}|{}|{}|",
        attributes.as_path,
        attributes.origin.to_string().to_uppercase(),
        attributes.next_hop.address(),
        attributes.local_pref.unwrap_or(0),
        attributes.med.unwrap_or(0),
        communities.join(" "),
        if atomic { "AG" } else { "NAG" },
        aggregator.map_or(String::new(), |one| format!("{} {}", one.asn, one.identifier)),
    )
}

fn community(community: &Community) -> String {
    match *community {
        Community::NO_EXPORT => "no-export".to_owned(),
        Community::NO_ADVERTISE => "no-advertise".to_owned(),
        Community::NO_EXPORT_SUBCONFED => "local-AS".to_owned(),
        other => other.to_string(),
    }
}
