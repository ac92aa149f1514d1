//! What others do to our rules, and what becomes of them when the agent starts and stops.

use std::time::Duration;

use anyhow::ensure;
use routelet::lab::node::Node;
use routelet::nft::FirewallConfig;
use routelet_tests::harness::{self, Case};
use routelet_tests::scene::{Scene, pings};

use super::world::{World, config, eventually, inside, ip, nets};

pub const CASES: &[Case] = &[
    ("repair::after_a_flush", after_a_flush),
    ("repair::not_wanted", not_wanted),
    ("repair::who_keeps_deleting", who_keeps_deleting),
    ("repair::of_others_nothing", of_others_nothing),
    ("repair::the_daemon", the_daemon),
    ("repair::forwarding", forwarding),
    ("repair::forwarding_under_read_only_sysctls", forwarding_under_read_only_sysctls),
];

fn natted() -> FirewallConfig {
    FirewallConfig { nat: nets("10.244.0.0/16"), ..config() }
}

fn is_there(world: &World) -> anyhow::Result<()> {
    let table = world.table();
    ensure!(table.contains("masquerade"), "{table}");
    ensure!(!table.contains("counter name"), "{table}");
    Ok(())
}

fn after_a_flush(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        // Left by an earlier life with other rules: overwritten.
        world.nft("table inet routelet { chain old { counter drop } }")?;
        let firewall = world.start(natted()).await?;
        is_there(&world)?;
        ensure!(!world.table().contains("chain old"), "{}", world.table());
        for (round, deed) in
            [(1, "nft flush ruleset"), (2, "nft flush chain inet routelet postrouting")]
        {
            world.run(deed)?;
            eventually(deed, || is_there(&world)).await?;
            assert_eq!(firewall.status().await.repaired, round);
        }
        // Left alone, nothing is done.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(firewall.status().await.repaired, 2);
        // It ends and leaves the rules; nobody mends them any more.
        firewall.stop(false).await;
        is_there(&world)
    })
}

fn not_wanted(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        let firewall = world.start(FirewallConfig { repair: false, ..natted() }).await?;
        world.run("nft delete table inet routelet")?;
        let problem = async || -> anyhow::Result<()> {
            let problems = firewall.status().await.problems;
            ensure!(problems.iter().any(|words| words.contains("changed by nft")), "{problems:?}");
            Ok(())
        };
        for _ in 0..200 {
            if problem().await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        problem().await?;
        assert_eq!(world.table(), "");
        Ok(())
    })
}

fn who_keeps_deleting(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        let firewall = world.start(natted()).await?;
        let end = tokio::time::Instant::now() + Duration::from_secs(4);
        let mut deleted = 0;
        while tokio::time::Instant::now() < end {
            if world.run("nft delete table inet routelet").is_ok() {
                deleted += 1;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ensure!(deleted >= 2, "never repaired");
        ensure!(deleted <= 5, "repaired {deleted} times in four seconds");
        eventually("the table", || is_there(&world)).await?;
        firewall.stop(true).await;
        Ok(())
    })
}

fn of_others_nothing(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        let others =
            "table inet other { chain c { type filter hook input priority 0; tcp dport 1 drop } }
             table ip routelet { chain mine { counter } }";
        world.nft(others)?;
        let before = world.run("nft list ruleset")?;
        let firewall = world.start(natted()).await?;
        is_there(&world)?;
        firewall.stop(true).await;
        assert_eq!(world.run("nft list ruleset")?, before);
        Ok(())
    })
}

/// The whole way: a file, the daemon, its status, its two kinds of end.
fn the_daemon(scene: &Scene) -> anyhow::Result<()> {
    harness::program("nft", "nftables")?;
    let world = World::new(scene)?;
    let yaml = |nat: bool| {
        format!(
            "node: {{name: a, addresses: [192.0.2.1/24], podCIDRs: [10.244.1.0/24]}}\n\
             bgp: {{asNumber: 64512}}\n\
             nodes: [{{name: b, addresses: [192.0.2.2/24], podCIDRs: [10.244.2.0/24]}}]\n\
             pools: [{{name: pods, cidr: 10.244.0.0/16, natOutgoing: {nat}}}]\n"
        )
    };
    let mut node = scene.routelet("node", &world.node, &yaml(true))?;
    node.start()?;
    harness::eventually("the table", Duration::from_secs(30), || is_there(&world))?;
    let status =
        harness::eventually("the API", Duration::from_secs(30), || node.json(&["status"]))?;
    assert_eq!(status["firewall"]["natOutgoing"], "for 10.244.0.0/16");
    ensure!(node.text(&["status"])?.contains("for 10.244.0.0/16"), "not in the page");
    node.configure(&yaml(false))?;
    node.reload()?;
    harness::eventually("NAT to end", Duration::from_secs(30), || {
        ensure!(world.table().is_empty(), "{}", world.table());
        Ok(())
    })?;
    node.configure(&yaml(true))?;
    node.reload()?;
    harness::eventually("NAT again", Duration::from_secs(30), || is_there(&world))?;
    node.stop()?;
    is_there(&world)?;
    node.start()?;
    harness::eventually("the API", Duration::from_secs(30), || node.text(&["status"]))?;
    node.text(&["stop", "--withdraw"])?;
    harness::eventually("everything to go", Duration::from_secs(30), || {
        ensure!(world.table().is_empty(), "{}", world.table());
        Ok(())
    })
}

const PLAIN: &str = "node: {name: a, addresses: [192.0.2.1/24, '2001:db8::1/64'], podCIDRs: [10.244.1.0/24, 'fd44:1::/64']}\n\
                     bgp: {asNumber: 64512}\n";

/// Somebody switches forwarding off behind our back.
fn forwarding(scene: &Scene) -> anyhow::Result<()> {
    let world = World::new(scene)?;
    world.route_back()?;
    let mut node = scene.routelet("node", &world.node, PLAIN)?;
    node.start()?;
    harness::eventually("the API", Duration::from_secs(30), || node.text(&["status"]))?;
    for (key, target) in
        [("net/ipv4/ip_forward", "192.0.2.2"), ("net/ipv6/conf/all/forwarding", "2001:db8::2")]
    {
        pings(&world.pod, ip(target))?;
        world.node.sysctl(key, "0")?;
        harness::eventually(key, Duration::from_secs(30), || {
            ensure!(world.node.read_sysctl(key)? == "1", "still off");
            Ok(())
        })?;
        pings(&world.pod, ip(target))?;
    }
    ensure!(node.log().contains("IPv4 forwarding was off and is on now"), "{}", node.log());
    node.stop()?;
    Ok(())
}

/// As in a container that is not privileged.
fn forwarding_under_read_only_sysctls(scene: &Scene) -> anyhow::Result<()> {
    let unshare = harness::program("unshare", "util-linux")?;
    let world = World::new(scene)?;
    world.route_back()?;
    world.node.sysctl("net/ipv4/ip_forward", "0")?;
    world.node.sysctl("net/ipv6/conf/all/forwarding", "0")?;
    ensure!(pings(&world.pod, ip("192.0.2.2")).is_err(), "forwarding is not off");
    let script = scene.folder().join("routelet-read-only");
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\nexec {} -m sh -c 'mount --bind /proc/sys /proc/sys && \
             mount -o remount,bind,ro /proc/sys && exec \"$@\"' sh {} \"$@\"\n",
            unshare.display(),
            harness::routelet()?.display()
        ),
    )?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut node = Node::new("a", &world.node, &script, &scene.folder().join("a"), PLAIN)?;
    node.start()?;
    let status =
        harness::eventually("the API", Duration::from_secs(30), || node.json(&["status"]))?;
    harness::eventually("IPv4 to be forwarded", Duration::from_secs(30), || {
        pings(&world.pod, ip("192.0.2.2"))
    })?;
    assert_eq!(world.node.read_sysctl("net/ipv4/ip_forward")?, "0", "not read-only at all");
    let problems = status["problems"].to_string();
    ensure!(problems.contains("sysctl -w net.ipv6.conf.all.forwarding=1"), "{problems}");
    ensure!(!problems.contains("IPv4 forwarding"), "{problems}");
    // A pod that comes later.
    let later = scene.network().host("later")?;
    routelet::lab::network::attach_pod(&world.node, "pod1", &later, &["10.244.1.128/25".parse()?])?;
    harness::eventually("the new link to be forwarded", Duration::from_secs(30), || {
        pings(&later, ip("192.0.2.2"))
    })?;
    node.stop()?;
    Ok(())
}
