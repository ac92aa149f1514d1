//! `routelet explain`: one destination as a story.

use std::io::Write;

use super::client::{Client, encode};
use super::output::{self, Columns, age, number, printable};
use super::routes::destination_parameter;
use super::{ExplainArgs, Outcome, Streams};
use crate::api::views::{Explain, ExplainedPath, Route};

/// `routelet explain`.
pub(super) fn show(
    client: &Client,
    args: &ExplainArgs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<Outcome> {
    let parameter = destination_parameter(&args.destination);
    let path = format!("/v1/explain?{parameter}={}", encode(&args.destination));
    let explain: Explain = client.get(&path)?;
    if !output::structured(args.output.output, &explain, streams.out)? {
        story(&explain, streams.out)?;
    }
    Ok(Outcome::Done)
}

/// The story: destination, paths, kernel, peers.
pub(super) fn story(explain: &Explain, out: &mut dyn Write) -> anyhow::Result<()> {
    let query = &explain.query;
    match explain.prefix {
        None => {
            writeln!(out, "There is no BGP route for {query}.")?;
            if let Some(covering) = explain.covered_by {
                writeln!(out, "{covering} covers it: see `routelet explain {covering}`.")?;
            }
        }
        Some(prefix) => {
            let paths = match explain.paths.len() {
                1 => "1 path".to_owned(),
                number => format!("{number} paths"),
            };
            if prefix.to_string() == *query {
                writeln!(out, "{prefix} has {paths}.")?;
            } else {
                writeln!(out, "{query} is in {prefix}, which has {paths}.")?;
            }
        }
    }
    for (number, path) in (1..).zip(&explain.paths) {
        writeln!(out, "\nPath {number}, {}: {}", origin(&path.route), verdict(&path.route))?;
        output::pairs(&details(path), "  ", out)?;
    }

    writeln!(out, "\nKernel")?;
    kernel(explain, out)?;

    if !explain.exports.is_empty() {
        writeln!(out, "\nPeers")?;
        let rows = explain.exports.iter().map(|export| {
            let verdict = if export.advertised { "advertised" } else { "not advertised" };
            vec![export.peer.clone(), verdict.to_owned(), export.reason.clone()]
        });
        Columns::new(&["PEER", "VERDICT", "WHY"]).write(rows, "  ", out)?;
    }
    Ok(())
}

/// What the kernel has.
fn kernel(explain: &Explain, out: &mut dyn Write) -> std::io::Result<()> {
    let kernel = &explain.kernel;
    if !kernel.managed {
        return writeln!(out, "  not managed (kernel.enabled is false)");
    }
    let pairs = [
        ("our route", kernel.status.clone()),
        (
            "packets take",
            kernel.route.clone().unwrap_or_else(|| format!("no route to {}", kernel.address)),
        ),
    ];
    output::pairs(&pairs, "  ", out)?;
    let Some(prefix) = explain.prefix else { return Ok(()) };
    if kernel.candidates.is_empty() {
        return writeln!(out, "  it has no route for exactly {prefix}");
    }
    writeln!(out, "  its routes for exactly {prefix}:")?;
    for candidate in &kernel.candidates {
        writeln!(out, "    {}", printable(candidate))?;
    }
    Ok(())
}

fn origin(route: &Route) -> String {
    match route.source.as_str() {
        "peer" => format!("from {}", printable(&route.from)),
        "podCIDR" => "our own pod CIDR".to_owned(),
        _ => "a service address".to_owned(),
    }
}

/// What became of a path, in two or three words.
fn verdict(route: &Route) -> &'static str {
    if route.best && route.source != "peer" {
        return "best";
    }
    match (route.best, route.multipath, route.valid, route.installed) {
        (true, _, _, true) => "best, in the kernel",
        (true, _, _, false) => "best, not in the kernel",
        (false, true, _, true) => "shares the traffic with the best, in the kernel",
        (false, true, _, false) => "shares the traffic with the best, not in the kernel",
        (false, false, true, _) => "not the best",
        (false, false, false, _) => "not used",
    }
}

fn details(path: &ExplainedPath) -> Vec<(&'static str, String)> {
    let route = &path.route;
    let mut details = vec![("attributes", attributes(route))];
    if let Some(received) = &path.as_received {
        details.push(("as received", attributes(received)));
    }
    details.push(("import", path.import.clone()));
    let hop = match (route.next_hop, &path.next_hop_resolution) {
        (None, _) => path.next_hop_state.clone(),
        (Some(hop), None) => format!("{hop}: {}", path.next_hop_state),
        (Some(hop), Some(resolution)) => format!("{hop}: {}, {resolution}", path.next_hop_state),
    };
    details.push(("next hop", hop));
    if let Some(words) = &path.encapsulation {
        details.push(("encapsulation", words.clone()));
    }
    if let Some(mtu) = path.mtu {
        details.push(("MTU", mtu.to_string()));
    }
    if let Some(words) = &path.neighbour {
        details.push(("neighbour", words.clone()));
    }
    details.push(("decision", route.decision.clone()));
    details.push(("in kernel", route.kernel.clone()));
    let stale = if route.stale { ", stale: its peer is restarting" } else { "" };
    details.push(("learned", format!("{} ago{stale}", age(route.age_seconds))));
    details
}

/// The attributes that are there, in one line.
fn attributes(route: &Route) -> String {
    let list = |name: &str, values: &[String]| {
        if values.is_empty() { String::new() } else { format!("{name} {}", values.join(" ")) }
    };
    let value = |name: &str, value: String| {
        if value.is_empty() { String::new() } else { format!("{name} {value}") }
    };
    let path = if route.as_path.is_empty() { "empty" } else { &route.as_path };
    [
        format!("AS path {path}"),
        value("origin", route.origin.clone()),
        value("next hop", number(route.next_hop)),
        value("LOCAL_PREF", number(route.local_pref)),
        value("MED", number(route.med)),
        list("communities", &route.communities),
        list("large communities", &route.large_communities),
        list("extended communities", &route.extended_communities),
        value("originator ID", number(route.originator_id.as_ref())),
        list("cluster list", &route.cluster_list),
        value("aggregator", number(route.aggregator.as_ref())),
        value("OTC", number(route.otc)),
    ]
    .into_iter()
    .filter(|words| !words.is_empty())
    .collect::<Vec<_>>()
    .join(", ")
}
