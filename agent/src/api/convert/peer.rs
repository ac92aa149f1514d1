//! Peers.

use std::time::Instant;

use routelet_bgp::core::config::{PeerConfig, PeerKind};
use routelet_bgp::core::peer::{Negotiated, State};
use routelet_bgp::core::view::{PeerTableView, SessionView};
use routelet_proto::{AddPathMode, AfiSafi, Capability, Family, FamilySet, Role};

use super::{count, family_names, natural_order, seconds_since};
use crate::api::views;

/// All peers, by kind, then by name as people count.
#[must_use]
pub fn peers(peers: &[(SessionView, PeerTableView)], now: Instant) -> Vec<views::Peer> {
    let mut peers: Vec<_> = peers
        .iter()
        .map(|(session, table)| (kind_rank(&session.config), peer(session, table, now)))
        .collect();
    peers.sort_by(|(rank_a, a), (rank_b, b)| {
        rank_a.cmp(rank_b).then_with(|| natural_order(&a.name, &b.name))
    });
    peers.into_iter().map(|(_, peer)| peer).collect()
}

/// One peer.
#[must_use]
pub fn peer(session: &SessionView, table: &PeerTableView, now: Instant) -> views::Peer {
    let config = &session.config;
    let state_seconds = seconds_since(now, session.since);
    let sum = |of: fn(&routelet_bgp::core::view::FamilyCounts) -> usize| {
        count(table.families.iter().map(of).sum())
    };
    let counters = &session.counters;
    let remaining = |timer: usize| {
        session.timers[timer].map(|expiry| expiry.saturating_duration_since(now).as_secs())
    };
    // What is wrong now comes before what was wrong then.
    let disabled = Family::ALL.into_iter().find_map(|family| {
        let why = table.disabled[family.index()].as_ref()?;
        Some((format!("{family} disabled until the next session: {why}"), session.since))
    });
    let last_error = disabled.or_else(|| session.last_error.clone());
    views::Peer {
        name: config.name.to_string(),
        peer_ip: config.address,
        interface: config.interface.clone(),
        port: config.port,
        kind: kind_words(config).to_owned(),
        as_number: config.remote_as.0,
        local_as_number: config.local_as.0,
        enabled: config.enabled,
        passive: config.passive,
        state: session.state.to_string(),
        state_seconds,
        uptime_seconds: if session.state == State::Established { state_seconds } else { 0 },
        received: sum(|counts| counts.received),
        accepted: sum(|counts| counts.accepted),
        advertised: sum(|counts| counts.advertised),
        last_error: last_error.as_ref().map(|(words, _)| words.clone()),
        last_error_seconds: last_error.map(|(_, at)| seconds_since(now, at)),
        flaps: session.flaps,
        families: families(config.families, table),
        endpoints: session.endpoints.map(|(local, remote)| views::Endpoints { local, remote }),
        negotiated: session.negotiated.as_deref().map(negotiated),
        timers: views::Timers {
            configured_hold_time_seconds: config.hold_time.seconds().into(),
            connect_retry_seconds: remaining(0),
            hold_seconds: remaining(1),
            keepalive_seconds: remaining(2),
        },
        messages: views::Messages {
            received: message_counts(counters.received),
            sent: message_counts(counters.sent),
        },
        octets_received: counters.octets_received,
        octets_sent: counters.octets_sent,
        connections_refused: counters.connections_refused,
        treated_as_withdrawn: counters.treated_as_withdrawn,
        attributes_discarded: counters.attributes_discarded,
        update_group: table.group.map(|(group, _)| count(group)),
        pending: table.group.map(|(_, pending)| count(pending)),
    }
}

/// What a peer is to us, in the words of the KIND column.
fn kind_words(config: &PeerConfig) -> &'static str {
    match config.kind {
        _ if config.route_reflector_client => "reflector client",
        PeerKind::Mesh => "mesh",
        PeerKind::Internal => "internal",
        PeerKind::External => "external",
    }
}

/// The order of kinds in a list: the cluster first, the outside last.
fn kind_rank(config: &PeerConfig) -> u8 {
    match config.kind {
        _ if config.route_reflector_client => 1,
        PeerKind::Mesh => 0,
        PeerKind::Internal => 2,
        PeerKind::External => 3,
    }
}

/// Counts of the families we offer, and of any other that has counts.
fn families(offered: FamilySet, table: &PeerTableView) -> Vec<views::FamilyCounts> {
    Family::ALL
        .into_iter()
        .map(|family| (family, table.families[family.index()]))
        .filter(|(family, counts)| offered.contains(*family) || *counts != Default::default())
        .map(|(family, counts)| views::FamilyCounts {
            family: family.to_string(),
            received: count(counts.received),
            accepted: count(counts.accepted),
            advertised: count(counts.advertised),
            end_of_rib: table.end_of_rib.contains(family),
            stale: table.stale.contains(family),
            disabled: table.disabled[family.index()].clone(),
        })
        .collect()
}

/// The order of [`routelet_bgp::core::view::SessionCounters`], by name.
fn message_counts(counts: [u64; 5]) -> views::MessageCounts {
    let [open, update, notification, keepalive, route_refresh] = counts;
    views::MessageCounts { open, update, notification, keepalive, route_refresh }
}

fn negotiated(negotiated: &Negotiated) -> views::Negotiated {
    views::Negotiated {
        router_id: negotiated.peer_id.to_string(),
        hold_time_seconds: negotiated.hold_time.seconds().into(),
        keepalive_time_seconds: negotiated.keepalive_time.into(),
        families: family_names(negotiated.families),
        four_octet_as: negotiated.encode.four_octet_as,
        extended_message: negotiated.decode.extended_message,
        extended_next_hop: negotiated.encode.extended_next_hop,
        add_path_receive: family_names(negotiated.decode.add_path),
        add_path_send: family_names(negotiated.encode.add_path),
        route_refresh: negotiated.route_refresh,
        enhanced_route_refresh: negotiated.enhanced_route_refresh,
        graceful_restart: negotiated.graceful_restart.map(|restart| views::GracefulRestart {
            restarted: restart.restarted,
            notification: restart.notification,
            restart_time_seconds: restart.restart_time.into(),
            families: family_names(restart.families),
            forwarding: family_names(restart.forwarding),
        }),
        sent: negotiated.sent.iter().map(capability).collect(),
        received: negotiated.received.iter().map(capability).collect(),
    }
}

/// A capability in words.
fn capability(capability: &Capability) -> views::Capability {
    let (code, name, value) = match capability {
        Capability::Multiprotocol(family) => (1, "multiprotocol", family.to_string()),
        Capability::RouteRefresh => (2, "route refresh", String::new()),
        Capability::ExtendedNextHop(entries) => (
            5,
            "extended next hop",
            join(entries, |(family, afi)| format!("{family} via {}", afi_name(*afi))),
        ),
        Capability::ExtendedMessage => (6, "extended message", String::new()),
        Capability::Role(role) => (9, "role", role_name(*role).to_owned()),
        Capability::GracefulRestart { restarted, notification, restart_time, families } => {
            let mut value = format!("{restart_time}s");
            for (set, bit) in [(restarted, "restarted"), (notification, "notification")] {
                if *set {
                    value = format!("{value}, {bit}");
                }
            }
            for entry in families {
                value = format!("{value}, {}", kept(entry.family, entry.forwarding));
            }
            (64, "graceful restart", value)
        }
        Capability::FourOctetAs(asn) => (65, "four-octet AS", asn.to_string()),
        Capability::AddPath(entries) => (
            69,
            "add-path",
            join(entries, |(family, mode)| format!("{family} {}", add_path_name(*mode))),
        ),
        Capability::EnhancedRouteRefresh => (70, "enhanced route refresh", String::new()),
        Capability::LongLivedGracefulRestart(entries) => (
            71,
            "long-lived graceful restart",
            join(entries, |entry| {
                format!("{} {}s", kept(entry.family, entry.forwarding), entry.stale_time)
            }),
        ),
        Capability::Fqdn { host, domain } if domain.is_empty() => (73, "FQDN", host.clone()),
        Capability::Fqdn { host, domain } => (73, "FQDN", format!("{host}.{domain}")),
        Capability::Unknown { code, value } => (*code, "unknown", hex(value)),
    };
    views::Capability { code, name: name.to_owned(), value }
}

fn join<T>(entries: &[T], words: impl Fn(&T) -> String) -> String {
    entries.iter().map(words).collect::<Vec<_>>().join(", ")
}

/// A family of a graceful restart capability, with its F bit.
fn kept(family: AfiSafi, forwarding: bool) -> String {
    let bit = if forwarding { " (forwarding)" } else { "" };
    format!("{family}{bit}")
}

fn afi_name(afi: u16) -> String {
    match afi {
        1 => "IPv4".to_owned(),
        2 => "IPv6".to_owned(),
        other => format!("AFI {other}"),
    }
}

fn add_path_name(mode: AddPathMode) -> &'static str {
    match mode {
        AddPathMode::Receive => "receive",
        AddPathMode::Send => "send",
        AddPathMode::Both => "send and receive",
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Provider => "provider",
        Role::RouteServer => "route server",
        Role::RouteServerClient => "route server client",
        Role::Customer => "customer",
        Role::Peer => "peer",
    }
}

/// Octets as hexadecimal digits.
pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
