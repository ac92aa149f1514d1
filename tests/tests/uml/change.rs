//! What changes while packets flow, and what must not be left behind afterwards.

use std::time::Duration;

use anyhow::{Context, ensure};
use routelet::lab::now;
use routelet_tests::harness::{Case, eventually};
use routelet_tests::scene::Scene;
use routelet_tests::uml;

use crate::cluster::{Cluster, IPIP, PLAIN, VXLAN};
use crate::stage::{SOON, drop_pods, ip, lossless, reached, routes, run};

pub const CASES: &[Case] = &[
    ("change::modes_under_a_ping", modes),
    ("change::ipip_to_vxlan_and_back_under_a_ping", encapsulations),
    ("change::restarts_under_a_ping", |scene| restarts(scene, "ipipMode: CrossSubnet", IPIP)),
    ("change::restarts_under_a_ping_without_a_tunnel", |scene| restarts(scene, "", PLAIN)),
    ("change::another_mode_after_a_restart_leaves_nothing", leftovers),
    ("change::a_stale_device_goes_and_others_stay", stale),
    ("change::a_node_is_removed", removed),
    ("change::a_kernel_without_ipip", no_ipip),
    ("change::a_kernel_without_nf_tables", no_nf_tables),
    ("change::a_kernel_with_half_of_nf_tables", |scene| {
        let _half = uml::with("nf_tables")?;
        no_nf_tables(scene)
    }),
    ("change::loss_and_delay", loss),
];

/// The router knows the pods here: otherwise nothing would pass in mode Never.
fn modes(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(scene, &[1, 2, 1], "ipipMode: CrossSubnet")?;
    cluster.router_knows_pods()?;
    let across = cluster.ping(0, 1)?;
    let inside = cluster.ping(0, 2)?;
    for (pool, way_across, way_inside) in [
        ("ipipMode: Always", IPIP, IPIP),
        ("ipipMode: CrossSubnet", IPIP, PLAIN),
        ("", PLAIN, PLAIN),
        ("ipipMode: Always", IPIP, IPIP),
        ("ipipMode: Never", PLAIN, PLAIN),
    ] {
        cluster.reload(pool)?;
        for (here, there, way) in
            [(0, 1, way_across), (1, 0, way_across), (0, 2, way_inside), (2, 0, way_inside)]
        {
            cluster.until_over(here, there, way).with_context(|| format!("after {pool:?}"))?;
        }
    }
    lossless("across subnets", across)?;
    lossless("inside a subnet", inside)?;
    for index in 0..3 {
        cluster.until_no_device(index, IPIP)?;
    }
    Ok(())
}

fn encapsulations(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(scene, &[1, 2], "ipipMode: CrossSubnet")?;
    drop_pods(&cluster.fabric.tor)?;
    let ping = cluster.ping(0, 1)?;
    // The device that is left lingers; the second change comes while it does.
    for (pool, device) in [("vxlanMode: CrossSubnet", VXLAN), ("ipipMode: Always", IPIP)] {
        cluster.reload(pool)?;
        for (here, there) in [(0, 1), (1, 0)] {
            cluster.until_over(here, there, device)?;
        }
    }
    for index in [0, 1] {
        cluster.until_no_device(index, VXLAN)?;
    }
    lossless("IPIP to VXLAN and back", ping)
}

fn restarts(scene: &Scene, pool: &str, way: &str) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(scene, &[1, 2], pool)?;
    if way == PLAIN {
        cluster.router_knows_pods()?;
    } else {
        drop_pods(&cluster.fabric.tor)?;
    }
    let ping = cluster.ping(0, 1)?;
    for kill in [false, true] {
        for index in [0, 1] {
            if kill {
                cluster.nodes[index].kill();
            } else {
                let status = cluster.nodes[index].stop()?;
                ensure!(status.success(), "SIGTERM: {status}");
            }
            cluster.nodes[index].start()?;
            cluster.nodes[index].wait_established(1, SOON)?;
            cluster.until_over(index, 1 - index, way)?;
        }
    }
    lossless("restarts", ping)
}

fn leftovers(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(scene, &[1, 2], "ipipMode: CrossSubnet")?;
    cluster.router_knows_pods()?;
    for (pool, way, gone) in [
        ("vxlanMode: CrossSubnet", VXLAN, IPIP),
        ("", PLAIN, VXLAN),
        ("ipipMode: Always", IPIP, VXLAN),
    ] {
        for node in &mut cluster.nodes {
            node.stop()?;
        }
        for index in [0, 1] {
            let yaml = cluster.yaml(index, pool);
            cluster.nodes[index].configure(&yaml)?;
            cluster.nodes[index].start()?;
        }
        for index in [0, 1] {
            cluster.until_over(index, 1 - index, way)?;
            cluster.until_no_device(index, gone)?;
        }
        reached(&cluster.places[0].pod, cluster.pod(1))?;
    }
    cluster.nodes[0].text(&["stop", "--withdraw"])?;
    cluster.until_no_device(0, IPIP)?;
    let left = routes(&cluster.places[0].netns, "proto 179")?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// Devices of an agent that is long gone, and of other people.
fn stale(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(scene, &[1, 2], "ipipMode: CrossSubnet")?;
    cluster.router_knows_pods()?;
    let netns = cluster.places[0].netns.clone();
    for words in [
        // The node had another address in its former life.
        "link add routelet-ipip type ipip local 172.30.1.99 ttl 3",
        "address add 10.244.50.0/32 dev routelet-ipip",
        "link set routelet-ipip up",
        "link add theirs type ipip local 172.30.1.98 remote 192.0.2.1",
        "address add 192.0.2.77/32 dev theirs",
        "link set theirs up",
        "link set tunl0 up",
        "address add 192.0.2.78/32 dev tunl0",
        "route add 203.0.113.0/24 dev theirs",
    ] {
        ip(&netns, words)?;
    }
    let others = || -> anyhow::Result<Vec<String>> {
        [
            "-o -d link show theirs",
            "-o address show theirs",
            "-o address show tunl0",
            "-o -d link show tunl0",
        ]
        .iter()
        .map(|words| ip(&netns, words))
        .collect()
    };
    let before = others()?;
    for node in &mut cluster.nodes {
        node.start()?;
    }
    cluster.until_over(0, 1, IPIP)?;
    cluster.until_over(1, 0, IPIP)?;
    reached(&cluster.places[0].pod, cluster.pod(1))?;
    let shown = ip(&netns, &format!("-d link show {IPIP}"))?;
    ensure!(shown.contains("local 172.30.1.11 "), "{shown}");
    let shown = ip(&netns, &format!("address show {IPIP}"))?;
    ensure!(shown.contains("10.244.1.0/32") && !shown.contains("10.244.50.0"), "{shown}");
    cluster.reload("")?;
    cluster.until_over(0, 1, PLAIN)?;
    cluster.until_no_device(0, IPIP)?;
    let after = others()?;
    ensure!(before == after, "other people's devices: {before:?} became {after:?}");
    ensure!(routes(&netns, "203.0.113.0/24")?.len() == 1, "their route is gone");
    Ok(())
}

fn removed(scene: &Scene) -> anyhow::Result<()> {
    for (pool, device) in [("ipipMode: CrossSubnet", IPIP), ("vxlanMode: CrossSubnet", VXLAN)] {
        let mut cluster = Cluster::start(scene, &[1, 2, 3], pool)?;
        cluster.until_over(0, 2, device)?;
        let ping = cluster.ping(0, 1)?;
        let gone = cluster.places[2].pod_cidr(0);
        let address = cluster.places[2].address(0).to_string();
        cluster.nodes[2].kill();
        cluster.removed.push(3);
        cluster.reload(pool)?;
        for index in [0, 1] {
            cluster.until_no_route(index, gone)?;
            eventually("the end of its entries", SOON, || {
                let mut left = ip(&cluster.places[index].netns, "neigh show")?;
                left += &run(&cluster.places[index].netns, "bridge", "fdb show")?;
                let left: Vec<&str> = left
                    .lines()
                    .filter(|line| {
                        line.contains(&format!("dev {device}")) && line.contains(&address)
                    })
                    .collect();
                ensure!(left.is_empty(), "{left:?}");
                Ok(())
            })?;
        }
        lossless("a third node is removed", ping)?;
    }
    Ok(())
}

/// The routes concerned are not there, and everybody says why; the others are.
fn no_ipip(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(scene, &[1, 2, 1], "ipipMode: CrossSubnet")?;
    let without = uml::without("ipip")?;
    for node in &mut cluster.nodes {
        node.start()?;
    }
    cluster.until_over(0, 2, PLAIN)?;
    reached(&cluster.places[0].pod, cluster.pod(2))?;
    let remote = cluster.places[1].pod_cidr(0).to_string();
    for command in [&["status"][..], &["routes", &remote]] {
        eventually("the reason", SOON, || {
            let said = cluster.nodes[0].text(command)?;
            ensure!(said.to_lowercase().contains("ipip") || said.contains("IP-in-IP"), "{said}");
            Ok(())
        })?;
    }
    let left = routes(&cluster.places[0].netns, &remote)?;
    ensure!(left.is_empty(), "a route that should be tunnelled is plain: {left:?}");
    // The module comes: a restart at the latest takes it up.
    drop(without);
    uml::need("ipip")?;
    for node in &mut cluster.nodes {
        node.stop()?;
        node.start()?;
    }
    cluster.until_over(0, 1, IPIP)?;
    cluster.until_over(1, 0, IPIP)?;
    reached(&cluster.places[0].pod, cluster.pod(1))
}

/// Without the guard and NAT everything else works, and status says what is missing. This kernel's
/// nf_tables is a module without any family of ours: the other half of what may be missing.
fn no_nf_tables(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::start(scene, &[1, 2], "ipipMode: CrossSubnet, natOutgoing: true")?;
    drop_pods(&cluster.fabric.tor)?;
    cluster.until_over(0, 1, IPIP)?;
    cluster.until_over(1, 0, IPIP)?;
    reached(&cluster.places[0].pod, cluster.pod(1))?;
    for words in ["the tunnel guard is unavailable", "natOutgoing is unavailable"] {
        eventually(words, SOON, || {
            let said = cluster.nodes[0].text(&["status"])?;
            ensure!(said.contains(words), "{said}");
            Ok(())
        })?;
    }
    Ok(())
}

/// One packet of ten is lost on the way there and one on the way back.
fn loss(scene: &Scene) -> anyhow::Result<()> {
    uml::need("sch_netem")?;
    let mut cluster = Cluster::start(scene, &[1, 2], "ipipMode: CrossSubnet")?;
    drop_pods(&cluster.fabric.tor)?;
    for device in ["eth1", "eth2"] {
        let words = format!("qdisc add dev {device} root netem loss 10% delay 20ms 5ms");
        run(&cluster.fabric.tor, "tc", &words)?;
    }
    let before = cluster.flaps(0)?;
    let began = now();
    let mut rounds: u8 = 0;
    // For longer than the hold time, prefixes come and go.
    while now() - began < Duration::from_secs(12) {
        let number = 20 + rounds;
        rounds += 1;
        cluster.more[1] = format!("10.244.{number}.0/24, ");
        cluster.reload("ipipMode: CrossSubnet")?;
        cluster.until_route(0, format!("10.244.{number}.0/24").parse()?, IPIP)?;
        if rounds > 1 {
            cluster.until_no_route(0, format!("10.244.{}.0/24", number - 1).parse()?)?;
        }
    }
    ensure!(rounds > 2, "only {rounds} changes arrived");
    ensure!(cluster.flaps(0)? == before, "sessions were reset");
    reached(&cluster.places[0].pod, cluster.pod(1))
}
