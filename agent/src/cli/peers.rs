//! `routelet peers` and `routelet peer`.

use std::io::Write;

use super::client::{Client, encode};
use super::output::{self, Columns, Format, age, number, yes};
use super::{Outcome, PeerArgs, PeersArgs, Streams};
use crate::api::views::{Capability, Negotiated, Peer};

const COLUMNS: [&str; 10] = [
    "PEER",
    "NAME",
    "KIND",
    "AS",
    "STATE",
    "UPTIME",
    "RECEIVED",
    "ACCEPTED",
    "ADVERTISED",
    "LAST ERROR",
];
const WIDE_COLUMNS: [&str; 17] = [
    "PEER",
    "NAME",
    "KIND",
    "AS",
    "STATE",
    "UPTIME",
    "RECEIVED",
    "ACCEPTED",
    "ADVERTISED",
    "LOCAL AS",
    "ROUTER ID",
    "FAMILIES",
    "HOLD TIME",
    "FLAPS",
    "GROUP",
    "PENDING",
    "LAST ERROR",
];

/// `routelet peers`.
pub(super) fn list(
    client: &Client,
    args: &PeersArgs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<Outcome> {
    let peers: Vec<Peer> = match &args.name {
        None => client.get("/v1/peers")?,
        Some(name) => vec![client.get(&format!("/v1/peers/{}", encode(name)))?],
    };
    let format = args.output.output;
    if !output::structured(format, &peers, streams.out)? {
        table(&peers, format, streams.out)?;
        if peers.is_empty() {
            writeln!(streams.err, "no peers are configured")?;
        }
    }
    if !args.check {
        return Ok(Outcome::Done);
    }
    let problems: Vec<String> = peers.iter().filter_map(Peer::problem).collect();
    report(&problems, streams)
}

/// Prints what is wrong on standard error; the outcome of a check.
pub(super) fn report(problems: &[String], streams: &mut Streams<'_>) -> anyhow::Result<Outcome> {
    streams.out.flush()?;
    for problem in problems {
        writeln!(streams.err, "{}", output::printable(problem))?;
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::CheckFailed })
}

/// A line for each peer.
pub(super) fn table(peers: &[Peer], format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    let wide = format == Format::Wide;
    let mut columns = if wide { Columns::new(&WIDE_COLUMNS) } else { Columns::new(&COLUMNS) };
    if !peers.is_empty() {
        columns.write(peers.iter().map(|peer| row(peer, wide)), "", out)?;
    }
    Ok(())
}

fn row(peer: &Peer, wide: bool) -> Vec<String> {
    let mut row = vec![
        address(peer),
        peer.name.clone(),
        peer.kind.clone(),
        peer.as_number.to_string(),
        state(peer),
        if peer.state == "Established" { age(peer.uptime_seconds) } else { String::new() },
        peer.received.to_string(),
        peer.accepted.to_string(),
        peer.advertised.to_string(),
    ];
    if wide {
        let agreed = peer.negotiated.as_ref();
        row.extend([
            peer.local_as_number.to_string(),
            agreed.map_or_else(String::new, |agreed| agreed.router_id.clone()),
            agreed.map_or_else(String::new, |agreed| agreed.families.join(",")),
            agreed.map_or_else(String::new, |agreed| interval(agreed.hold_time_seconds)),
            peer.flaps.to_string(),
            number(peer.update_group),
            number(peer.pending),
        ]);
    }
    // A refused attempt before a session that has been up ever since is no news.
    let news = peer.state != "Established" || peer.flaps > 0;
    row.push(if news { last_error(peer) } else { String::new() });
    row
}

/// The address, with the interface of a link-local one.
fn address(peer: &Peer) -> String {
    match &peer.interface {
        Some(interface) => format!("{}%{interface}", peer.peer_ip),
        None => peer.peer_ip.to_string(),
    }
}

fn state(peer: &Peer) -> String {
    if peer.enabled { peer.state.clone() } else { format!("{} (disabled)", peer.state) }
}

fn last_error(peer: &Peer) -> String {
    match (&peer.last_error, peer.last_error_seconds) {
        (Some(words), Some(seconds)) => format!("{words} ({} ago)", age(seconds)),
        (Some(words), None) => words.clone(),
        (None, _) => String::new(),
    }
}

/// A time where 0 means never.
fn interval(seconds: u64) -> String {
    if seconds == 0 { "off".to_owned() } else { age(seconds) }
}

/// `routelet peer X`.
pub(super) fn show(
    client: &Client,
    args: &PeerArgs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<Outcome> {
    let peer: Peer = client.get(&format!("/v1/peers/{}", encode(&args.name)))?;
    if !output::structured(args.output.output, &peer, streams.out)? {
        page(&peer, streams.out)?;
    }
    Ok(Outcome::Done)
}

/// Everything about one peer.
pub(super) fn page(peer: &Peer, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{} ({}), {}", output::printable(&peer.name), address(peer), peer.kind)?;
    let agreed = peer.negotiated.as_ref();
    let unknown = || "not negotiated".to_owned();
    let pairs = [
        ("state", format!("{} for {}", state(peer), age(peer.state_seconds))),
        ("AS", format!("{}, ours is {}", peer.as_number, peer.local_as_number)),
        ("router ID", agreed.map_or_else(unknown, |agreed| agreed.router_id.clone())),
        ("connection", connection(peer)),
        ("families", agreed.map_or_else(unknown, |agreed| agreed.families.join(", "))),
        ("graceful restart", agreed.map_or_else(unknown, graceful_restart)),
        ("left Established", format!("{} times", peer.flaps)),
        ("last error", last_error(peer)),
        ("update group", number(peer.update_group)),
        ("prefixes waiting", number(peer.pending)),
    ];
    output::pairs(&pairs, "  ", out)?;

    writeln!(out, "\nCapabilities")?;
    match agreed {
        None => writeln!(out, "  not negotiated")?,
        Some(agreed) => Columns::new(&["CAPABILITY", "SENT", "RECEIVED", "IN USE"]).write(
            capabilities(agreed),
            "  ",
            out,
        )?,
    }

    writeln!(out, "\nTimers")?;
    let hold = agreed.map_or(peer.timers.configured_hold_time_seconds, |a| a.hold_time_seconds);
    let keepalive = agreed.map(|agreed| interval(agreed.keepalive_time_seconds));
    let left = |seconds: Option<u64>| seconds.map_or_else(|| "not running".to_owned(), age);
    let timers = [
        ["Hold", &interval(hold), &left(peer.timers.hold_seconds)],
        ["Keepalive", keepalive.as_deref().unwrap_or("-"), &left(peer.timers.keepalive_seconds)],
        ["ConnectRetry", "-", &left(peer.timers.connect_retry_seconds)],
    ];
    let rows = timers.map(|row| row.map(str::to_owned).to_vec());
    Columns::new(&["TIMER", "TIME", "EXPIRES IN"]).write(rows, "  ", out)?;

    writeln!(out, "\nPrefixes")?;
    let rows = peer.families.iter().map(|family| {
        vec![
            family.family.clone(),
            family.received.to_string(),
            family.accepted.to_string(),
            family.advertised.to_string(),
            yes(family.end_of_rib),
            yes(family.stale),
        ]
    });
    Columns::new(&["FAMILY", "RECEIVED", "ACCEPTED", "ADVERTISED", "END-OF-RIB", "STALE"])
        .write(rows, "  ", out)?;

    writeln!(out, "\nMessages")?;
    let (received, sent) = (&peer.messages.received, &peer.messages.sent);
    let rows = [
        ("OPEN", received.open, sent.open),
        ("UPDATE", received.update, sent.update),
        ("NOTIFICATION", received.notification, sent.notification),
        ("KEEPALIVE", received.keepalive, sent.keepalive),
        ("ROUTE-REFRESH", received.route_refresh, sent.route_refresh),
        ("octets", peer.octets_received, peer.octets_sent),
    ];
    let rows = rows.map(|(name, from, to)| vec![name.to_owned(), from.to_string(), to.to_string()]);
    Columns::new(&["MESSAGE", "RECEIVED", "SENT"]).write(rows, "  ", out)?;

    writeln!(out, "\nErrors survived")?;
    let pairs = [
        ("UPDATEs treated as withdrawn (RFC 7606)", peer.treated_as_withdrawn.to_string()),
        ("attributes discarded (RFC 7606)", peer.attributes_discarded.to_string()),
        ("connections refused", peer.connections_refused.to_string()),
    ];
    output::pairs(&pairs, "  ", out)?;
    Ok(())
}

fn connection(peer: &Peer) -> String {
    match &peer.endpoints {
        Some(ends) => format!("{} to {}", ends.local, ends.remote),
        None if peer.passive => "none; we only accept (passive)".to_owned(),
        None => format!("none; we connect to port {}", peer.port),
    }
}

fn graceful_restart(agreed: &Negotiated) -> String {
    match &agreed.graceful_restart {
        None => "no".to_owned(),
        Some(restart) => {
            let mut words = format!("we wait {} for it", age(restart.restart_time_seconds));
            for (set, word) in [
                (restart.restarted, "it has restarted"),
                (restart.notification, "NOTIFICATIONs are survived"),
            ] {
                if set {
                    words = format!("{words}, {word}");
                }
            }
            format!("{words}; forwarding kept: {}", list_or_none(&restart.forwarding))
        }
    }
}

fn list_or_none(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// A row for each capability either side sent, in the order of codes.
fn capabilities(agreed: &Negotiated) -> Vec<Vec<String>> {
    let mut kinds: Vec<(u8, &str)> = agreed
        .sent
        .iter()
        .chain(&agreed.received)
        .map(|capability| (capability.code, capability.name.as_str()))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
        .into_iter()
        .map(|(code, name)| {
            vec![
                format!("{name} ({code})"),
                values(&agreed.sent, code),
                values(&agreed.received, code),
                in_use(agreed, code),
            ]
        })
        .collect()
}

/// The values of one capability in one OPEN.
fn values(capabilities: &[Capability], code: u8) -> String {
    let mut found = capabilities.iter().filter(|capability| capability.code == code).peekable();
    if found.peek().is_none() {
        return String::new();
    }
    let words: Vec<&str> = found
        .map(|capability| capability.value.as_str())
        .filter(|value| !value.is_empty())
        .collect();
    if words.is_empty() { "yes".to_owned() } else { words.join(", ") }
}

/// What came of one capability.
fn in_use(agreed: &Negotiated, code: u8) -> String {
    match code {
        1 => list_or_none(&agreed.families),
        2 => yes(agreed.route_refresh),
        5 => yes(agreed.extended_next_hop),
        6 => yes(agreed.extended_message),
        64 => yes(agreed.graceful_restart.is_some()),
        65 => yes(agreed.four_octet_as),
        69 => {
            let both = [("receive", &agreed.add_path_receive), ("send", &agreed.add_path_send)];
            let words: Vec<String> = both
                .into_iter()
                .filter(|(_, families)| !families.is_empty())
                .map(|(way, families)| format!("{way} {}", families.join(", ")))
                .collect();
            if words.is_empty() { "no".to_owned() } else { words.join("; ") }
        }
        70 => yes(agreed.enhanced_route_refresh),
        _ => String::new(),
    }
}
