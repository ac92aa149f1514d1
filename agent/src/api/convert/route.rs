//! Routes and explanations.

use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use routelet_bgp::core::config::OriginatedKind;
use routelet_bgp::core::forwarding::NextHopState;
use routelet_bgp::core::view::{
    ExplainView, ExportVerdict, Ineligible, NotInstalled, PathExplanation, PathReason, RouteSource,
    RouteView,
};
use routelet_proto::{Community, NextHop, PathAttributes};

use super::peer::hex;
use super::seconds_since;
use crate::api::views;
use crate::kernel::{KernelLookup, RouteStatus, RouteWay};

/// `yes`, or why the route is not in the kernel.
fn kernel_words(route: &RouteView, status: Option<&RouteStatus>) -> String {
    match &route.reason {
        PathReason::Ineligible(why) => return format!("no: {why}"),
        PathReason::Lost(step) => return format!("no: not best, lost at step {step}"),
        PathReason::Best(_) | PathReason::Multipath => {}
    }
    match (route.not_installed, status) {
        // What stands behind our own pod CIDR is a blackhole.
        (Some(NotInstalled::Local), Some(RouteStatus::Installed)) => {
            "no: it starts here (blackhole)".to_owned()
        }
        (Some(NotInstalled::Local), Some(RouteStatus::Failed(why))) => {
            format!("failed: its blackhole: {why}")
        }
        (Some(NotInstalled::NoKernel), _) => "no: kernel.enabled is false".to_owned(),
        (Some(why), _) => format!("no: {why}"),
        (None, Some(RouteStatus::Installed)) => "yes".to_owned(),
        (None, Some(RouteStatus::Failed(why))) => format!("failed: {why}"),
        (None, Some(RouteStatus::Pending) | None) => "no: on its way".to_owned(),
    }
}

/// One path, with what became of its prefix in the kernel.
#[must_use]
pub fn route(route: &RouteView, status: Option<&RouteStatus>, now: Instant) -> views::Route {
    let attributes = &*route.attributes;
    let rare = attributes.rare.as_deref();
    let kernel = kernel_words(route, status);
    let installed = kernel == "yes";
    let decision = route.reason.to_string();
    let starts_here = matches!(route.source, RouteSource::Local(_));
    let taken = matches!(route.reason, PathReason::Best(_) | PathReason::Multipath);
    let reason = if taken && !installed && !starts_here {
        format!("not in the kernel: {}", kernel.strip_prefix("no: ").unwrap_or(&kernel))
    } else {
        decision.clone()
    };
    let (from, source) = match &route.source {
        RouteSource::Local(OriginatedKind::PodCidr) => ("local".to_owned(), "podCIDR"),
        RouteSource::Local(OriginatedKind::Service) => ("local".to_owned(), "service"),
        RouteSource::Peer(_, name) => (name.to_string(), "peer"),
    };
    views::Route {
        prefix: route.prefix,
        path_id: route.path_id,
        valid: !matches!(route.reason, PathReason::Ineligible(_)),
        best: route.best,
        multipath: route.multipath,
        stale: route.stale,
        next_hop: next_hop(attributes),
        link_local_next_hop: match attributes.next_hop {
            NextHop::V6WithLinkLocal(_, link_local) => Some(link_local.into()),
            NextHop::V4(_) | NextHop::V6(_) => None,
        },
        from,
        source: source.to_owned(),
        as_path: attributes.as_path.to_string(),
        origin: attributes.origin.to_string(),
        local_pref: attributes.local_pref,
        med: attributes.med,
        communities: attributes.communities.iter().map(|community| name(*community)).collect(),
        large_communities: rare.map_or_else(Vec::new, |rare| {
            rare.large_communities
                .iter()
                .map(|large| format!("{}:{}:{}", large.global, large.local1, large.local2))
                .collect()
        }),
        extended_communities: rare.map_or_else(Vec::new, |rare| {
            rare.extended_communities.iter().map(|extended| hex(&extended.0)).collect()
        }),
        originator_id: attributes.originator_id().map(|identifier| identifier.to_string()),
        cluster_list: attributes.cluster_list().iter().map(ToString::to_string).collect(),
        aggregator: rare
            .and_then(|rare| rare.aggregator)
            .map(|aggregator| format!("{} {}", aggregator.asn, aggregator.identifier)),
        atomic_aggregate: rare.is_some_and(|rare| rare.atomic_aggregate),
        otc: rare.and_then(|rare| rare.otc).map(|asn| asn.0),
        unknown_attributes: rare.map_or_else(Vec::new, |rare| {
            rare.unknown.iter().map(|attribute| attribute.code).collect()
        }),
        age_seconds: seconds_since(now, route.learned),
        installed,
        kernel,
        device: None,
        encapsulation: None,
        decision_step: match route.reason {
            PathReason::Best(step) => step.map(|step| step as u8),
            PathReason::Lost(step) => Some(step as u8),
            PathReason::Multipath | PathReason::Ineligible(_) => None,
        },
        decision,
        reason,
    }
}

/// Adds to a path that is in the kernel by which way it leads.
pub fn lead(route: &mut views::Route, ways: &[RouteWay]) {
    let way = ways.iter().find(|way| Some(way.next_hop) == route.next_hop);
    let Some(way) = way.filter(|_| route.installed) else { return };
    route.device = Some(way.device.clone());
    let encapsulation = way.encapsulation.map(|encapsulation| encapsulation.to_string());
    route.encapsulation = Some(encapsulation.unwrap_or_else(|| "none".to_owned()));
}

/// The next hop, unless the route starts here and has none.
fn next_hop(attributes: &PathAttributes) -> Option<IpAddr> {
    Some(attributes.next_hop.address()).filter(|address| !address.is_unspecified())
}

/// A community by its registered name, or in its two halves.
fn name(community: Community) -> String {
    match community {
        Community::GRACEFUL_SHUTDOWN => "graceful-shutdown".to_owned(),
        Community::LLGR_STALE => "llgr-stale".to_owned(),
        Community::NO_LLGR => "no-llgr".to_owned(),
        Community::BLACKHOLE => "blackhole".to_owned(),
        Community::NO_EXPORT => "no-export".to_owned(),
        Community::NO_ADVERTISE => "no-advertise".to_owned(),
        Community::NO_EXPORT_SUBCONFED => "no-export-subconfed".to_owned(),
        Community(value) => format!("{}:{}", value >> 16, value & 0xffff),
    }
}

/// Everything about one destination.
///
/// `covered_by` is the prefix that covers what was asked for when `view` found nothing; `address`
/// is what was looked up in the kernel, if the kernel is managed at all.
#[must_use]
pub fn explain(
    query: &str,
    view: &ExplainView,
    covered_by: Option<IpNet>,
    (address, lookup): (IpAddr, Option<&KernelLookup>),
    (status, ways): (Option<&RouteStatus>, &[RouteWay]),
    now: Instant,
) -> views::Explain {
    let managed = lookup.is_some();
    let lookup = lookup.cloned().unwrap_or_default();
    let paths: Vec<_> = view
        .paths
        .iter()
        .map(|path| {
            let mut shown = route(&path.route, status, now);
            lead(&mut shown, ways);
            let known = shown.next_hop.and_then(|next_hop| {
                lookup.next_hops.iter().find(|known| known.address == Some(next_hop))
            });
            views::ExplainedPath {
                import: import_words(path),
                next_hop_state: next_hop_words(path),
                next_hop_resolution: known.map(|known| known.resolution.clone()),
                encapsulation: known
                    .map(|known| known.encapsulation.clone())
                    .filter(|words| !words.is_empty()),
                mtu: known.and_then(|known| known.mtu),
                neighbour: known.and_then(|known| known.neighbour.clone()),
                as_received: path.received.as_ref().map(|received| {
                    let before = RouteView { attributes: received.clone(), ..path.route.clone() };
                    Box::new(route(&before, status, now))
                }),
                route: shown,
            }
        })
        .collect();
    let kernel_status = match paths.iter().find(|path| path.route.best) {
        Some(best) => best.route.kernel.clone(),
        None if paths.is_empty() => "no: there is no BGP route".to_owned(),
        None => "no: no path is eligible".to_owned(),
    };
    views::Explain {
        query: query.to_owned(),
        prefix: view.prefix,
        covered_by,
        paths,
        exports: view
            .exports
            .iter()
            .map(|(peer, verdict)| {
                let (advertised, reason) = match verdict {
                    ExportVerdict::Advertised(reason) => (true, reason),
                    ExportVerdict::NotAdvertised(reason) => (false, reason),
                };
                views::Export { peer: peer.to_string(), advertised, reason: reason.to_string() }
            })
            .collect(),
        kernel: views::KernelLookup {
            managed,
            status: kernel_status,
            address,
            route: lookup.route,
            candidates: lookup.candidates,
        },
    }
}

/// What was said about a path on its way in.
fn import_words(path: &PathExplanation) -> String {
    match (&path.route.source, &path.route.reason, &path.import_rule) {
        (RouteSource::Local(OriginatedKind::PodCidr), ..) => "starts here: pod CIDR".to_owned(),
        (RouteSource::Local(OriginatedKind::Service), ..) => {
            "starts here: service address".to_owned()
        }
        (_, PathReason::Ineligible(Ineligible::NextHop(..)), Some((filter, rule))) => {
            format!("accepted by filter {filter}, rule {rule}")
        }
        (_, PathReason::Ineligible(Ineligible::NextHop(..)), None) => {
            "accepted by the default policy".to_owned()
        }
        (_, PathReason::Ineligible(why), _) => why.to_string(),
        (_, _, Some((filter, rule))) => format!("accepted by filter {filter}, rule {rule}"),
        (_, _, None) => "accepted by the default policy".to_owned(),
    }
}

fn next_hop_words(path: &PathExplanation) -> String {
    if matches!(path.route.source, RouteSource::Local(_)) {
        return "none: the route starts here".to_owned();
    }
    match &path.next_hop {
        NextHopState::Unknown => "not resolved yet".to_owned(),
        NextHopState::Reachable { metric } => format!("reachable, metric {metric}"),
        NextHopState::Unreachable { reason } => format!("unreachable: {reason}"),
    }
}
