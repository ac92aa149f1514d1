//! Chains of others that drop what is forwarded.

use anyhow::ensure;
use routelet::nft::{FirewallConfig, ForwardAccept};
use routelet_tests::harness::{self, Case};
use routelet_tests::scene::{Scene, pings};

use super::world::{World, config, eventually, inside, ip};

pub const CASES: &[Case] = &[
    ("forward::iptables_policy", iptables_policy),
    ("forward::native_chains", native_chains),
    ("forward::never", never),
    ("forward::explicit_drops_stay", explicit_drops_stay),
];

fn both_ways(world: &World) -> anyhow::Result<()> {
    pings(&world.pod, ip("192.0.2.2"))?;
    pings(&world.beside, ip("10.244.1.2"))
}

fn iptables_policy(scene: &Scene) -> anyhow::Result<()> {
    harness::program("iptables-nft", "iptables")?;
    inside(scene, async |world| {
        world.route_back()?;
        world.run("iptables-nft -P FORWARD DROP")?;
        ensure!(both_ways(&world).is_err(), "the policy has no effect: the test proves nothing");
        let firewall = world.start(config()).await?;
        both_ways(&world)?;
        let status = firewall.status().await;
        ensure!(status.forward.contains("`ip filter FORWARD`"), "{status:?}");
        // `iptables` can still read its table.
        let shown = world.run("iptables-nft -S FORWARD")?;
        ensure!(
            shown.contains("-s 10.244.0.0/16") && shown.contains("-d 10.244.0.0/16"),
            "{shown}"
        );
        // As Docker does when it starts: everything away, and made anew.
        world.run("iptables-nft -F FORWARD")?;
        eventually("the rules to be back", || both_ways(&world)).await?;
        world.run("nft delete table ip filter")?;
        world.run("iptables-nft -P FORWARD DROP")?;
        eventually("the rules to be in the new chain", || both_ways(&world)).await?;
        // Nobody drops any more: nothing of ours stays there.
        world.run("iptables-nft -P FORWARD ACCEPT")?;
        eventually("our rules to go", || {
            let shown = world.run("iptables-nft -S FORWARD")?;
            ensure!(!shown.contains("10.244"), "{shown}");
            Ok(())
        })
        .await?;
        world.run("iptables-nft -P FORWARD DROP")?;
        eventually("the rules to be back", || both_ways(&world)).await?;
        // A restart of the agent leaves them, and finds them.
        firewall.stop(false).await;
        both_ways(&world)?;
        let firewall = world.start(config()).await?;
        let shown = world.run("iptables-nft -S FORWARD")?;
        ensure!(shown.matches("-A FORWARD").count() == 2, "{shown}");
        firewall.stop(true).await;
        let shown = world.run("iptables-nft -S FORWARD")?;
        ensure!(shown.trim() == "-P FORWARD DROP", "{shown}");
        Ok(())
    })
}

fn native_chains(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        world.route_back()?;
        // As an administrator writes it, and as firewalld ends its chain.
        world.nft(
            "table inet mine { chain f { type filter hook forward priority 0; policy drop;
                 ct state established accept } }
             table inet wall { chain f { type filter hook forward priority 10;
                 tcp dport 1 accept
                 counter reject with icmpx admin-prohibited } }
             table ip6 six { chain f { type filter hook forward priority 0; policy drop; } }",
        )?;
        ensure!(pings(&world.pod, ip("192.0.2.2")).is_err(), "the chains have no effect");
        let firewall = world.start(config()).await?;
        both_ways(&world)?;
        pings(&world.pod, ip("2001:db8::2"))?;
        let status = firewall.status().await;
        for chain in ["`inet mine f`", "`inet wall f`", "`ip6 six f`"] {
            ensure!(status.forward.contains(chain), "{status:?}");
        }
        // firewalld reloads: its table is gone and comes again.
        world.nft(
            "delete table inet wall
             table inet wall { chain f { type filter hook forward priority 10; counter drop } }",
        )?;
        eventually("the reloaded chain", || both_ways(&world)).await?;
        // A rule behind ours that drops everything: ours have to come before it.
        world.run("nft add rule inet mine f drop")?;
        eventually("our rules to stand before the drop", || {
            let chain = world.run("nft list chain inet mine f")?;
            let last = chain.lines().rfind(|line| line.trim() == "drop").is_some();
            let at = |word: &str| chain.find(word);
            ensure!(last && at("to pods fd44::/16") < at("\t\tdrop"), "{chain}");
            Ok(())
        })
        .await?;
        both_ways(&world)?;
        firewall.stop(true).await;
        let left = world.run("nft list ruleset")?;
        ensure!(!left.contains("routelet"), "{left}");
        Ok(())
    })
}

fn never(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        world.route_back()?;
        let script =
            "table ip mine { chain f { type filter hook forward priority 0; policy drop; } }";
        world.nft(script)?;
        let never = FirewallConfig { forward_accept: ForwardAccept::Never, ..config() };
        let firewall = routelet::nft::FirewallHandle::start(never.clone()).await;
        let problems = firewall.status().await.problems;
        let fix = "nft add rule ip mine f ip saddr 10.244.0.0/16 accept";
        ensure!(problems.iter().any(|problem| problem.contains(fix)), "{problems:?}");
        ensure!(!world.run("nft list ruleset")?.contains("routelet"), "a rule although Never");
        // Changed under way.
        firewall.apply(config()).await;
        both_ways(&world)?;
        firewall.apply(never).await;
        ensure!(pings(&world.pod, ip("192.0.2.2")).is_err(), "our rules stayed");
        Ok(())
    })
}

fn explicit_drops_stay(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        world.route_back()?;
        world.nft(
            "table ip mine { chain f { type filter hook forward priority 0; policy drop;
                 ip daddr 203.0.113.9 drop } }",
        )?;
        let _firewall = world.start(config()).await?;
        both_ways(&world)?;
        ensure!(pings(&world.pod, ip("203.0.113.9")).is_err(), "an administrator's drop is undone");
        Ok(())
    })
}
