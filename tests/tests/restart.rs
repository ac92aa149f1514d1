//! A node's daemon stops, crashes, is upgraded and frozen while packets go through the node every 10 ms
//! and a TCP connection between pods is never idle. With short times; `make resilience` has the long ones.

use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use routelet::lab::ping::{PingStream, reaches};
use routelet_tests::harness::{self, eventually, ip};
use routelet_tests::resilience::{self, Case, Cast, INTERVAL, Make, Stage, Timing};
use routelet_tests::scene::Scene;
use serde_json::Value;

use Make::{BirdOff, BirdPlain, BirdTuned, FrrOff, FrrPlain, FrrTuned, Routelet};

/// How long sessions and routes may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    harness::main(&[
        ("stop_loses_nothing", |scene| lossless(scene, Case::Stop, FrrTuned, BirdPlain)),
        ("kill_9_loses_nothing", |scene| lossless(scene, Case::Kill, BirdTuned, FrrPlain)),
        ("upgrade_loses_nothing", |scene| lossless(scene, Case::Upgrade, Routelet, FrrPlain)),
        ("stop_twice_loses_nothing", |scene| lossless(scene, Case::StopTwice, Routelet, BirdPlain)),
        ("kill_twice_loses_nothing", |scene| lossless(scene, Case::KillTwice, Routelet, Routelet)),
        ("frozen_within_the_hold_time", |scene| lossless(scene, Case::Freeze, BirdPlain, FrrPlain)),
        ("frozen_beyond_the_hold_time", frozen_long),
        ("a_router_without_graceful_restart", without),
        ("both_nodes_restart_at_once", both),
        ("a_stale_route_goes_at_first_sync", stale),
        ("the_route_of_a_node_that_died_goes_after_its_deferral", died),
        ("the_bits_of_the_open", bits),
        ("withdraw_cleans_up", withdraw),
    ])
}

fn cast(node2: Make, tor: Make) -> Cast {
    Cast { node1: Routelet, node2, tor }
}

/// What all the others are about: graceful restart is negotiated, so not one packet is lost.
fn lossless(scene: &Scene, case: Case, node2: Make, tor: Make) -> anyhow::Result<()> {
    let outcome =
        resilience::run(scene, &harness::routelet()?, cast(node2, tor), case, &Timing::SHORT)?;
    ensure!(outcome.streams.iter().all(|stream| stream.received > 200), "too few: {outcome}");
    // Where two connections cross after the restart, BIRD forgets the stale routes for some milliseconds
    // when it closes one of them; its own route monitor shows it. That is not ours to prevent.
    let log = fs::read_to_string(scene.folder().join("node1").join("routelet.log"))?;
    let crossed = log.lines().any(|line| {
        line.contains("peer=\"tor\"")
            && line.contains("connection closed by the peer after the OPENs")
    });
    let lost = if crossed { outcome.lost_between_pods() } else { outcome.lost() };
    ensure!(lost == 0, "packets were lost: {outcome}");
    let flow = outcome.flow.context("there was a connection")?;
    ensure!(flow.broken.is_none() && flow.echoed == flow.sent, "the connection: {flow}");
    Ok(())
}

/// RFC 8538 between the nodes: they outlive it. The router has given up, and the packets to and from it
/// are lost until the session is up again; that much is no promise.
fn frozen_long(scene: &Scene) -> anyhow::Result<()> {
    let case = Case::FreezeLong;
    let routelet = harness::routelet()?;
    let outcome =
        resilience::run(scene, &routelet, cast(Routelet, FrrPlain), case, &Timing::SHORT)?;
    ensure!(outcome.lost_between_pods() == 0, "packets between pods were lost: {outcome}");
    ensure!(
        outcome.lost() > 0,
        "the router was to give up, or the freeze was too short: {outcome}"
    );
    let flow = outcome.flow.context("there was a connection")?;
    ensure!(flow.broken.is_none() && flow.echoed == flow.sent, "the connection: {flow}");
    Ok(())
}

/// A router that knows nothing of it is told that we go (Cease), and loses what we cannot prevent; the
/// other peers lose nothing by it.
fn without(scene: &Scene) -> anyhow::Result<()> {
    let routelet = harness::routelet()?;
    let outcome =
        resilience::run(scene, &routelet, cast(BirdTuned, FrrOff), Case::Stop, &Timing::SHORT)?;
    ensure!(outcome.lost_between_pods() == 0, "packets between pods were lost: {outcome}");
    ensure!(outcome.lost() > 0, "the router was to drop our routes: {outcome}");
    Ok(())
}

/// As in a rolling update that goes too fast: each keeps the other's routes for as long as its host
/// answers.
fn both(scene: &Scene) -> anyhow::Result<()> {
    let mut stage = up(scene, Routelet, BirdOff)?;
    let streams = stage.probes()[..2]
        .iter()
        .map(|(from, to)| PingStream::start(from, *to, INTERVAL))
        .collect::<anyhow::Result<Vec<_>>>()?;
    stage.node1.kill();
    stage.node2.kill();
    stage.node1.start()?;
    // Longer than a dead host is waited for.
    std::thread::sleep(Duration::from_secs(11));
    stage.node2.start()?;
    established(&stage, 2)?;
    eventually("the first sync", PATIENCE, || synced(&stage))?;
    for stream in streams {
        let report = stream.stop();
        ensure!(report.lost() == 0, "{report}\n{}", stage.node1.log());
    }
    Ok(())
}

fn stale(scene: &Scene) -> anyhow::Result<()> {
    let mut stage = up(scene, Routelet, BirdPlain)?;
    stage.node1.stop()?;
    stage.node2.stop()?;
    let stale = "10.99.0.0/24";
    stage.plant(stale)?;
    stage.node1.start()?;
    established(&stage, 1)?;
    // Node 2 is away, and its host answers: the first sync is not yet, and nothing is removed.
    ensure!(stage.has_route(stale)?, "removed before the first sync");
    ensure!(stage.has_route(&stage.node2.network())?, "node 2's route was removed too");
    stage.node2.start()?;
    eventually("the stale route to go", PATIENCE, || {
        ensure!(!stage.has_route(stale)?, "still there");
        Ok(())
    })?;
    ensure!(stage.has_route(&stage.node2.network())?, "node 2's route went with it");
    eventually("the end of the sweep", PATIENCE, || synced(&stage))
}

fn died(scene: &Scene) -> anyhow::Result<()> {
    let case = Case::DiedMeanwhile;
    let timing = Timing { gone: PATIENCE, ..Timing::SHORT };
    let routelet = harness::routelet()?;
    let outcome = resilience::run(scene, &routelet, cast(Routelet, BirdPlain), case, &timing)?;
    let after = outcome.gone.flatten().context("the route has not gone")?;
    ensure!(after >= Duration::from_secs(5), "gone after {after:?}, before any deferral");
    Ok(())
}

/// What node 2 and the router see in node 1's OPEN: R after a restart only, and no more once it is over;
/// F for what was found.
fn bits(scene: &Scene) -> anyhow::Result<()> {
    let mut stage = up(scene, Routelet, Routelet)?;
    let seen = |stage: &Stage| -> anyhow::Result<(Value, Value)> {
        let peers = stage.node2.routelet_json(&["peers"])?;
        let peers = peers.as_array().context("peers is no array")?;
        let peer = peers.iter().find(|peer| peer["name"] == "node1").context("no node1")?;
        ensure!(peer["state"] == "Established", "{peer}");
        let restart = &peer["negotiated"]["gracefulRestart"];
        ensure!(!restart.is_null(), "no graceful restart: {peer}");
        Ok((restart["restarted"].clone(), restart["forwarding"].clone()))
    };
    let wait = |stage: &Stage, restarted: bool, forwarding: usize| {
        eventually("the bits of node 1", PATIENCE, || {
            let (r, f) = seen(stage)?;
            let count = f.as_array().map_or(0, Vec::len);
            ensure!(r == restarted && count == forwarding, "R {r}, F {f}");
            Ok(())
        })
    };
    wait(&stage, false, 0).context("a cold start")?;
    stage.node1.kill();
    stage.node1.start()?;
    wait(&stage, true, 1).context("a restart")?;
    eventually("the first sync", PATIENCE, || synced(&stage))?;
    stage.node2.routelet_text(&["reset", "node1"])?;
    wait(&stage, false, 1).context("a reset after the restart")?;
    // Without its routes there is nothing to be proud of.
    stage.node1.kill();
    flush(&stage)?;
    stage.node1.start()?;
    wait(&stage, true, 0).context("a restart that finds nothing")
}

fn withdraw(scene: &Scene) -> anyhow::Result<()> {
    let mut stage = up(scene, Routelet, FrrPlain)?;
    let network = "10.244.1.0/24";
    let others = |stage: &Stage| -> anyhow::Result<bool> {
        let mut any = false;
        for daemon in [&stage.node2, &stage.tor] {
            any |= !ip(daemon.netns(), &format!("route show exact {network}"))?.is_empty();
        }
        Ok(any)
    };
    ensure!(others(&stage)?, "the others have the route");
    stage.node1.routelet_text(&["stop", "--withdraw"])?;
    stage.node1.wait_ended()?;
    eventually("everybody to forget it", PATIENCE, || {
        ensure!(!others(&stage)?, "still there");
        Ok(())
    })?;
    let left = ip(stage.node1.netns(), "route show proto 179")?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    stage.node1.start()?;
    established(&stage, 2)?;
    ensure!(last_start(&stage)?.contains("restarted=false"), "{}", last_start(&stage)?);
    Ok(())
}

/// A stage on which packets go every way.
fn up(scene: &Scene, node2: Make, tor: Make) -> anyhow::Result<Stage> {
    let mut stage = Stage::new(scene, &harness::routelet()?, cast(node2, tor), 9)?;
    stage.start()?;
    established(&stage, 2)?;
    for (from, to) in stage.probes() {
        let report = reaches(from, to, PATIENCE)?;
        ensure!(report.received > 0, "{} does not reach {to}: {report}", from.name());
    }
    Ok(stage)
}

fn established(stage: &Stage, count: usize) -> anyhow::Result<()> {
    eventually(&format!("{count} sessions of node 1"), PATIENCE, || {
        let up = stage.node1.established()?;
        ensure!(up == count, "{up} are established");
        Ok(())
    })
}

fn synced(stage: &Stage) -> anyhow::Result<()> {
    let status = stage.node1.routelet_json(&["status"])?;
    ensure!(status["kernel"]["synced"] == true, "not in sync: {status}");
    Ok(())
}

/// Takes every route of node 1's daemon away.
fn flush(stage: &Stage) -> anyhow::Result<()> {
    for route in ip(stage.node1.netns(), "route show proto 179")? {
        let prefix = route["dst"].as_str().context("no dst")?;
        let prefix: IpNet = match prefix.parse::<IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => prefix.parse()?,
        };
        stage.node1.netns().delete_routes(prefix)?;
    }
    Ok(())
}

/// The line in which the last start says what it found.
fn last_start(stage: &Stage) -> anyhow::Result<String> {
    let log = stage.node1.log();
    let line = log.lines().rev().find(|line| line.contains("routelet runs"));
    Ok(line.context("no start in the log")?.to_owned())
}
