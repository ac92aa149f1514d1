//! A decoded message for people: one line a field, its name in front.

use std::io::{self, Write};

use routelet_proto::attributes::attribute_name;
use routelet_proto::capability::capability_name;
use routelet_proto::{
    Capability, Message, MessageError, NextHop, Nlri, Notification, Open, PathAttributes,
    RefreshSubtype, Treatment, Update,
};

use super::{Decoded, Outcome, hex, is_empty};

pub(super) fn write(decoded: &Decoded<'_>, out: &mut dyn Write) -> io::Result<()> {
    let kind = decoded.kind.map_or_else(|| "of unknown type".to_owned(), |kind| kind.to_string());
    writeln!(out, "message {}: {kind}, {} octets", decoded.number, decoded.octets.len())?;
    match decoded.outcome {
        Outcome::Message(message) => write_message(message, out)?,
        Outcome::Refused(error) => write_refusal(error, out)?,
        Outcome::CutShort(Some(length)) => row(
            "cut short",
            &format!("the header says {length} octets, {} are there", decoded.octets.len()),
            out,
        )?,
        Outcome::CutShort(None) => row("cut short", "a header has 19 octets", out)?,
    }
    for attribute in decoded.raw_attributes() {
        let name = attribute_name(attribute.code).unwrap_or("unknown");
        let what = if attribute.passed_over() { "passed over" } else { "as it stands" };
        let text = format!(
            "octet {}: attribute {} ({name}), flags {}, {}{}: {}",
            attribute.offset,
            attribute.code,
            attribute.flag_names(),
            match attribute.value.len() {
                1 => "1 octet".to_owned(),
                length => format!("{length} octets"),
            },
            if attribute.cut { " of more" } else { "" },
            hex(attribute.value)
        );
        row(what, &text, out)?;
    }
    Ok(())
}

fn write_refusal(error: &MessageError, out: &mut dyn Write) -> io::Result<()> {
    row("treatment", &Treatment::SessionReset.to_string(), out)?;
    row("notification", &error.notification.to_string(), out)?;
    if !error.notification.data.is_empty() {
        row("data", &hex(&error.notification.data), out)?;
    }
    row("reason", &format!("{} (octet {})", error.detail, error.offset), out)
}

fn write_message(message: &Message, out: &mut dyn Write) -> io::Result<()> {
    match message {
        Message::Open(open) => write_open(open, out),
        Message::Update(update) => write_update(update, out),
        Message::Notification(notification) => write_notification(notification, out),
        Message::Keepalive => Ok(()),
        Message::RouteRefresh(refresh) => {
            row("family", &refresh.family.to_string(), out)?;
            row("subtype", &refresh_name(refresh.subtype), out)
        }
    }
}

pub(super) fn refresh_name(subtype: RefreshSubtype) -> String {
    match subtype {
        RefreshSubtype::Request => "request".to_owned(),
        RefreshSubtype::BeginOfRefresh => "begin of refresh".to_owned(),
        RefreshSubtype::EndOfRefresh => "end of refresh".to_owned(),
        RefreshSubtype::Unknown(other) => format!("unknown {other}"),
    }
}

fn write_notification(notification: &Notification, out: &mut dyn Write) -> io::Result<()> {
    row("error", &notification.to_string(), out)?;
    if notification.data.is_empty() { Ok(()) } else { row("data", &hex(&notification.data), out) }
}

fn write_open(open: &Open, out: &mut dyn Write) -> io::Result<()> {
    row("AS", &open.asn.to_string(), out)?;
    if u32::from(open.my_as) != open.asn.0 {
        row("My AS field", &open.my_as.to_string(), out)?;
    }
    row("hold time", &format!("{} s", open.hold_time.seconds()), out)?;
    row("identifier", &open.identifier.to_string(), out)?;
    for capability in &open.capabilities {
        let code = capability.code();
        let name = capability_name(code).unwrap_or("unknown");
        let value = capability_text(capability);
        let separator = if value.is_empty() { "" } else { ": " };
        row("capability", &format!("{name} ({code}){separator}{value}"), out)?;
    }
    Ok(())
}

fn capability_text(capability: &Capability) -> String {
    let list = |entries: Vec<String>| entries.join(", ");
    let forwarding = |kept: bool| if kept { " forwarding kept" } else { "" };
    match capability {
        Capability::Multiprotocol(family) => family.to_string(),
        Capability::RouteRefresh
        | Capability::ExtendedMessage
        | Capability::EnhancedRouteRefresh => String::new(),
        Capability::ExtendedNextHop(families) => {
            list(families.iter().map(|(family, afi)| format!("{family} by AFI {afi}")).collect())
        }
        Capability::Role(role) => role.to_string(),
        Capability::GracefulRestart { restarted, notification, restart_time, families } => {
            let mut entries = vec![format!("restart time {restart_time} s")];
            entries.extend(restarted.then(|| "restarted".to_owned()));
            entries.extend(notification.then(|| "notification".to_owned()));
            entries.extend(
                families
                    .iter()
                    .map(|entry| format!("{}{}", entry.family, forwarding(entry.forwarding))),
            );
            list(entries)
        }
        Capability::FourOctetAs(asn) => asn.to_string(),
        Capability::AddPath(families) => {
            list(families.iter().map(|(family, mode)| format!("{family} {mode}")).collect())
        }
        Capability::LongLivedGracefulRestart(families) => list(
            families
                .iter()
                .map(|entry| {
                    let kept = forwarding(entry.forwarding);
                    format!("{} stale time {} s{kept}", entry.family, entry.stale_time)
                })
                .collect(),
        ),
        Capability::Fqdn { host, domain } if domain.is_empty() => format!("{host:?}"),
        Capability::Fqdn { host, domain } => format!("{host:?} in {domain:?}"),
        Capability::Unknown { value, .. } => hex(value),
    }
}

fn write_update(update: &Update, out: &mut dyn Write) -> io::Result<()> {
    for issue in &update.issues {
        row("treatment", &issue.treatment.to_string(), out)?;
        if let Some(code) = issue.attribute {
            let name = attribute_name(code).unwrap_or("unknown");
            row("attribute", &format!("{code} ({name})"), out)?;
        }
        row("reason", &format!("{} (octet {})", issue.detail, issue.offset), out)?;
    }
    for nlri in &update.withdrawn {
        write_nlri("withdrawn", nlri, out)?;
    }
    for announcement in &update.announced {
        write_attributes(&announcement.attributes, out)?;
        write_nlri("announced", &announcement.nlri, out)?;
    }
    match update.end_of_rib {
        Some(family) => row("End-of-RIB", &family.to_string(), out),
        None if is_empty(update) => row("routes", "none", out),
        None => Ok(()),
    }
}

fn write_nlri(label: &str, nlri: &Nlri, out: &mut dyn Write) -> io::Result<()> {
    for (path_id, prefix) in nlri.iter_any() {
        if nlri.add_path() {
            row(label, &format!("{prefix} path-id {path_id}"), out)?;
        } else {
            row(label, &prefix.to_string(), out)?;
        }
    }
    Ok(())
}

fn write_attributes(attributes: &PathAttributes, out: &mut dyn Write) -> io::Result<()> {
    let empty = if attributes.as_path.is_empty() { "(empty)" } else { "" };
    row("ORIGIN", &attributes.origin.to_string(), out)?;
    row("AS_PATH", &format!("{}{empty}", attributes.as_path), out)?;
    let next_hop = match attributes.next_hop {
        NextHop::V6WithLinkLocal(global, local) => format!("{global} link-local {local}"),
        other => other.address().to_string(),
    };
    row("NEXT_HOP", &next_hop, out)?;
    if let Some(med) = attributes.med {
        row("MULTI_EXIT_DISC", &med.to_string(), out)?;
    }
    if let Some(local_pref) = attributes.local_pref {
        row("LOCAL_PREF", &local_pref.to_string(), out)?;
    }
    let communities = attributes.communities.iter().map(|community| match community.name() {
        Some(name) => format!("{community} ({name})"),
        None => community.to_string(),
    });
    list_row("COMMUNITIES", communities, out)?;
    let Some(rare) = &attributes.rare else { return Ok(()) };
    if rare.atomic_aggregate {
        row("ATOMIC_AGGREGATE", "", out)?;
    }
    if let Some(aggregator) = rare.aggregator {
        row("AGGREGATOR", &format!("{} {}", aggregator.asn, aggregator.identifier), out)?;
    }
    if let Some(originator) = rare.originator_id {
        row("ORIGINATOR_ID", &originator.to_string(), out)?;
    }
    list_row("CLUSTER_LIST", rare.cluster_list.iter().map(ToString::to_string), out)?;
    let extended = rare.extended_communities.iter().map(ToString::to_string);
    list_row("EXTENDED_COMMUNITIES", extended, out)?;
    list_row("LARGE_COMMUNITY", rare.large_communities.iter().map(ToString::to_string), out)?;
    if let Some(asn) = rare.otc {
        row("OTC", &asn.to_string(), out)?;
    }
    for attribute in &rare.unknown {
        let name = attribute_name(attribute.code).unwrap_or("unknown");
        let text = format!(
            "{} ({name}), passed on with Partial: {}",
            attribute.code,
            hex(&attribute.value)
        );
        row("attribute", &text, out)?;
    }
    Ok(())
}

fn list_row(
    label: &str,
    values: impl Iterator<Item = String>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let values: Vec<String> = values.collect();
    if values.is_empty() { Ok(()) } else { row(label, &values.join(" "), out) }
}

fn row(label: &str, value: &str, out: &mut dyn Write) -> io::Result<()> {
    if value.is_empty() {
        writeln!(out, "  {label}")
    } else {
        writeln!(out, "  {label:<20} {value}")
    }
}
