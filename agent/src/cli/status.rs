//! `routelet status`.

use std::io::Write;

use super::client::Client;
use super::output::{self, age, printable};
use super::peers::report;
use super::{Outcome, StatusArgs, Streams};
use crate::api::views::{Cni, Firewall, Kernel, Status, Tunnel};

/// `routelet status`.
pub(super) fn show(
    client: &Client,
    args: &StatusArgs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<Outcome> {
    let status: Status = client.get("/v1/status")?;
    if args.ready {
        return report(&status.pending, streams);
    }
    if !output::structured(args.output.output, &status, streams.out)? {
        page(&status, args.check, streams.out)?;
    }
    if args.check { report(&status.problems, streams) } else { Ok(Outcome::Done) }
}

/// The agent in a page. With `--check` the problems go to standard error instead.
pub(super) fn page(status: &Status, check: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "{} runs routelet {} for {} (process {})",
        printable(&status.node_name),
        status.version,
        age(status.uptime_seconds),
        status.pid
    )?;
    let config = &status.config;
    let peers = &status.peers;
    let disabled =
        if peers.disabled == 0 { String::new() } else { format!(", {} disabled", peers.disabled) };
    let pairs = [
        ("AS", status.as_number.to_string()),
        ("router ID", status.router_id.clone()),
        ("listens on", join(&status.listen, "nowhere")),
        ("pod CIDRs", join(&status.pod_cidrs, "none")),
        (
            "configuration",
            format!(
                "{}, generation {}, loaded {} ago",
                config.file,
                config.generation,
                age(config.loaded_seconds)
            ),
        ),
        ("peers", format!("{} of {} Established{disabled}", peers.established, peers.configured)),
        (
            "prefixes",
            format!(
                "{} received, {} accepted, {} advertised",
                peers.received, peers.accepted, peers.advertised
            ),
        ),
        ("first sync", if status.first_sync { "complete" } else { "not complete" }.to_owned()),
        ("kernel", kernel(&status.kernel)),
        ("pods", pods(&status.cni)),
        ("tunnel guard", status.firewall.guard.clone()),
        ("NAT", status.firewall.nat_outgoing.clone()),
        ("forwarding", forwarding(&status.firewall)),
    ];
    output::pairs(&pairs, "  ", out)?;
    let tunnels: Vec<_> = status.kernel.tunnels.iter().map(tunnel).collect();
    section("Tunnels", &tunnels, out)?;
    section("Warnings", &config.warnings, out)?;
    if !check {
        section("Problems", &status.problems, out)?;
    }
    Ok(())
}

fn section(title: &str, lines: &[String], out: &mut dyn Write) -> std::io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}")?;
    for line in lines {
        writeln!(out, "  {}", printable(line))?;
    }
    Ok(())
}

fn kernel(kernel: &Kernel) -> String {
    if !kernel.enabled {
        return "not managed (kernel.enabled is false)".to_owned();
    }
    let mut words = format!(
        "{} of {} routes installed (table {}, protocol {}, metric {})",
        kernel.installed, kernel.desired, kernel.table, kernel.protocol, kernel.metric
    );
    for (number, word) in [
        (kernel.failed, "failed"),
        (kernel.adopted, "found at start"),
        (kernel.repaired, "repaired"),
    ] {
        if number > 0 {
            words = format!("{words}, {number} {word}");
        }
    }
    if !kernel.synced {
        words.push_str(", stale ones not removed yet");
    }
    words
}

fn pods(cni: &Cni) -> String {
    let file = printable(&cni.file);
    match (cni.enabled, cni.written, cni.mtu) {
        (false, ..) => "attached by others (cni.enabled is false)".to_owned(),
        (true, true, Some(mtu)) => format!("attached by {file} ({}, MTU {mtu})", cni.plugin),
        (true, ..) => format!("{file} is not written yet"),
    }
}

fn forwarding(firewall: &Firewall) -> String {
    let mut words = firewall.forward.clone();
    if firewall.repaired > 0 {
        words = format!("{words}; rules were put back {} times", firewall.repaired);
    }
    words
}

fn tunnel(tunnel: &Tunnel) -> String {
    let mut words = format!("{} ({}): {}", tunnel.device, tunnel.encapsulation, tunnel.state);
    if let (Some(local), Some(mtu)) = (tunnel.local, tunnel.mtu) {
        let addresses = join(&tunnel.addresses, "no address");
        words = format!(
            "{words}, from {local} to {} nodes, MTU {mtu}, its own address {addresses}",
            tunnel.nodes
        );
    }
    words
}

fn join<T: ToString>(values: &[T], none: &str) -> String {
    if values.is_empty() {
        return none.to_owned();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
