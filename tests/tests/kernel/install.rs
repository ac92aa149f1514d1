//! Routes in, changed and out again.

use routelet::kernel::{KernelConfig, RouteStatus};
use routelet_tests::harness::Case;
use routelet_tests::scene::Scene;

use crate::world::{Kernel, config, eventually, failed, inside, pause, reachable, unreachable};

pub const CASES: &[Case] = &[
    ("install::both_families", both_families),
    ("install::multipath", multipath),
    ("install::replaced_in_one_step", replaced_in_one_step),
    ("install::blackholes_follow_the_configuration", blackholes),
    ("install::another_table", another_table),
    ("install::ipv4_behind_an_ipv6_neighbour", ipv4_behind_ipv6),
    ("install::link_local_next_hop", link_local),
    ("install::a_refusal_is_mapped_to_its_prefix", refusal),
    ("install::moved_to_another_metric_and_table", moved),
    ("install::disabled_touches_nothing", disabled),
    ("install::impossible_configurations", impossible),
    ("install::lookup", lookup),
    ("install::forwarding_is_switched_on", forwarding),
];

fn both_families(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.announce("fd01::/64", &["fd00::2"]);
        kernel.announce("0.0.0.0/0", &["10.0.1.2"]);
        let four = "10.1.0.0/24 via 10.0.0.2 dev eth0 proto 179 metric 1179";
        let six = "fd01::/64 via fd00::2 dev eth0 proto 179 metric 1179 pref medium";
        let default = "default via 10.0.1.2 dev eth1 proto 179 metric 1179";
        world.until_shown("10.1.0.0/24", &[four]).await?;
        world.until_shown("fd01::/64", &[six]).await?;
        world.until_shown("default", &[default]).await?;
        kernel.until_installed("10.1.0.0/24").await?;
        let status = kernel.handle.status().await;
        assert_eq!((status.desired, status.installed, status.failed), (3, 3, 0), "{status:?}");
        assert!(status.problems.is_empty(), "{status:?}");
        kernel.first_sync();
        kernel.until_synced().await?;
        kernel.announce("10.1.0.0/24", &[]);
        kernel.announce("fd01::/64", &[]);
        kernel.announce("0.0.0.0/0", &[]);
        world.until_shown("10.1.0.0/24", &[]).await?;
        world.until_shown("fd01::/64", &[]).await?;
        world.until_shown("default", &[]).await?;
        assert_eq!(kernel.status_of("10.1.0.0/24").await, None);
        assert_eq!(kernel.handle.status().await.desired, 0);
        Ok(())
    })
}

fn multipath(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2", "10.0.1.2"]);
        kernel.announce("fd01::/64", &["fd00::2", "fd00:0:0:1::2"]);
        let four = "10.1.0.0/24 proto 179 metric 1179 nexthop via 10.0.0.2 dev eth0 weight 1 \
                    nexthop via 10.0.1.2 dev eth1 weight 1";
        let six = "fd01::/64 proto 179 metric 1179 pref medium \
                   nexthop via fd00::2 dev eth0 weight 1 \
                   nexthop via fd00:0:0:1::2 dev eth1 weight 1";
        world.until_shown("10.1.0.0/24", &[four]).await?;
        world.until_shown("fd01::/64", &[six]).await?;
        // One hop less, then one more than at first; a blackhole's place for a moment between.
        kernel.announce("10.1.0.0/24", &["10.0.1.2"]);
        kernel.announce("fd01::/64", &["fd00:0:0:1::2"]);
        let four_less = "10.1.0.0/24 via 10.0.1.2 dev eth1 proto 179 metric 1179";
        let six_less = "fd01::/64 via fd00:0:0:1::2 dev eth1 proto 179 metric 1179 pref medium";
        world.until_shown("10.1.0.0/24", &[four_less]).await?;
        world.until_shown("fd01::/64", &[six_less]).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2", "10.0.1.2"]);
        kernel.announce("fd01::/64", &["fd00::2", "fd00:0:0:1::2"]);
        world.until_shown("10.1.0.0/24", &[four]).await?;
        // The kernel lists the hops of a replaced IPv6 route in the order given.
        world.until_shown("fd01::/64", &[six]).await?;
        kernel.until_installed("fd01::/64").await
    })
}

fn replaced_in_one_step(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.announce("fd01::/64", &["fd00::2"]);
        kernel.until_installed("10.1.0.0/24").await?;
        kernel.until_installed("fd01::/64").await?;
        let log = tempfile::NamedTempFile::new()?;
        let mut monitor = std::process::Command::new("ip")
            .args(["monitor", "route"])
            .stdout(log.reopen()?)
            .spawn()?;
        pause().await;
        kernel.announce("10.1.0.0/24", &["10.0.1.2"]);
        kernel.announce("fd01::/64", &["fd00:0:0:1::2"]);
        let four = "10.1.0.0/24 via 10.0.1.2 dev eth1 proto 179 metric 1179";
        let shown = world.until_shown("10.1.0.0/24", &[four]).await;
        kernel.until_installed("fd01::/64").await?;
        pause().await;
        monitor.kill()?;
        monitor.wait()?;
        shown?;
        let seen = std::fs::read_to_string(log.path())?;
        assert!(seen.contains("10.1.0.0/24 via 10.0.1.2"), "{seen}");
        assert!(seen.contains("fd01::/64 via fd00:0:0:1::2"), "{seen}");
        assert!(!seen.contains("Deleted"), "a route was missing for a moment: {seen}");
        Ok(())
    })
}

fn blackholes(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let pods = |cidrs: &[&str]| KernelConfig {
            blackholes: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            ..config()
        };
        let kernel = Kernel::start(pods(&["10.244.1.0/24", "fd44:1::/64"])).await?;
        let four = "blackhole 10.244.1.0/24 proto 179 metric 65000";
        let six = "blackhole fd44:1::/64 dev lo proto 179 metric 65000 pref medium";
        world.until_shown("10.244.1.0/24", &[four]).await?;
        world.until_shown("fd44:1::/64", &[six]).await?;
        assert_eq!(kernel.status_of("10.244.1.0/24").await, Some(RouteStatus::Installed));
        // Somebody else's blackhole is not ours to remove.
        world.ip("route add blackhole 10.244.9.0/24 proto static metric 65000")?;
        kernel.first_sync();
        kernel.until_synced().await?;
        kernel.handle.apply(pods(&["10.244.2.0/24", "fd44:1::/64"])).await;
        let second = "blackhole 10.244.2.0/24 proto 179 metric 65000";
        world.until_shown("10.244.2.0/24", &[second]).await?;
        world.until_shown("10.244.1.0/24", &[]).await?;
        world.until_shown("fd44:1::/64", &[six]).await?;
        assert_eq!(world.show("10.244.9.0/24")?.len(), 1);
        Ok(())
    })
}

fn another_table(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(KernelConfig { table: 5000, ..config() }).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.announce("fd01::/64", &["fd00::2"]);
        let four = "10.1.0.0/24 via 10.0.0.2 dev eth0 table 5000 proto 179 metric 1179";
        let six = "fd01::/64 via fd00::2 dev eth0 table 5000 proto 179 metric 1179 pref medium";
        world.until_shown("10.1.0.0/24", &[four]).await?;
        world.until_shown("fd01::/64", &[six]).await?;
        // A stranger in the main table with our number is in nobody's territory of ours.
        world.ip("route add 10.9.0.0/24 via 10.0.0.2 proto 179 metric 1179")?;
        // Yet no next hop resolves through it.
        kernel.track("10.9.0.7");
        kernel.until_answered("10.9.0.7", unreachable("no route")).await?;
        kernel.first_sync();
        kernel.until_synced().await?;
        world.ip("route del 10.1.0.0/24 table 5000")?;
        world.until_shown("10.1.0.0/24", &[four]).await?;
        kernel.handle.stop(true).await;
        assert_eq!(world.show("10.1.0.0/24")?.len(), 0);
        assert_eq!(world.show("fd01::/64")?.len(), 0);
        assert_eq!(world.show("10.9.0.0/24")?.len(), 1);
        Ok(())
    })
}

fn ipv4_behind_ipv6(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.announce("10.1.0.0/24", &["fd00::2"]);
        let shown = "10.1.0.0/24 via inet6 fd00::2 dev eth0 proto 179 metric 1179";
        world.until_shown("10.1.0.0/24", &[shown]).await?;
        kernel.until_installed("10.1.0.0/24").await
    })
}

fn link_local(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let index = world.ip("-o link show dev eth1")?;
        let index = index.split(':').next().unwrap().to_owned();
        let with_interface = format!("fe80::99%{index}");
        let kernel = Kernel::start(config()).await?;
        kernel.track(&with_interface);
        kernel.until_answered(&with_interface, reachable(0)).await?;
        kernel.announce("fd01::/64", &[&with_interface]);
        kernel.announce("fd02::/64", &["fe80::99"]);
        let shown = "fd01::/64 via fe80::99 dev eth1 proto 179 metric 1179 pref medium";
        world.until_shown("fd01::/64", &[shown]).await?;
        kernel.until_status("fd02::/64", failed("without an interface")).await
    })
}

fn refusal(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        // The route that next hops resolve through allows a gateway the kernel then refuses: its
        // address is a broadcast address.
        let kernel = Kernel::start(config()).await?;
        for number in 0..200u32 {
            let next_hop = if number == 77 { "10.0.0.255" } else { "10.0.0.2" };
            kernel.announce(&format!("10.1.{number}.0/24"), &[next_hop]);
        }
        kernel.until_status("10.1.77.0/24", failed("invalid gateway (E")).await?;
        kernel.until("the others", |status| status.installed == 199).await?;
        let status = kernel.handle.status().await;
        assert_eq!((status.desired, status.failed), (200, 1), "{status:?}");
        assert_eq!(world.show("10.1.76.0/24")?.len(), 1);
        assert_eq!(world.show("10.1.77.0/24")?.len(), 0);
        // A better wish cures it.
        kernel.announce("10.1.77.0/24", &["10.0.0.2"]);
        kernel.until_installed("10.1.77.0/24").await
    })
}

fn moved(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let pods = KernelConfig { blackholes: vec!["10.244.1.0/24".parse()?], ..config() };
        let kernel = Kernel::start(pods.clone()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.first_sync();
        kernel.until_synced().await?;
        let moved = KernelConfig { metric: 2000, blackhole_metric: 3000, ..pods.clone() };
        kernel.handle.apply(moved.clone()).await;
        let shown = "10.1.0.0/24 via 10.0.0.2 dev eth0 proto 179 metric 2000";
        world.until_shown("10.1.0.0/24", &[shown]).await?;
        let shown = "blackhole 10.244.1.0/24 proto 179 metric 3000";
        world.until_shown("10.244.1.0/24", &[shown]).await?;
        kernel.handle.apply(KernelConfig { table: 77, protocol: 180, ..moved }).await;
        let shown = "10.1.0.0/24 via 10.0.0.2 dev eth0 table 77 proto 180 metric 2000";
        world.until_shown("10.1.0.0/24", &[shown]).await?;
        let shown = "blackhole 10.244.1.0/24 table 77 proto 180 metric 3000";
        world.until_shown("10.244.1.0/24", &[shown]).await?;
        kernel.until_synced().await?;
        // The number alone: in place.
        let again = KernelConfig { table: 77, ..pods };
        kernel.handle.apply(again).await;
        let shown = "10.1.0.0/24 via 10.0.0.2 dev eth0 table 77 proto 179 metric 1179";
        world.until_shown("10.1.0.0/24", &[shown]).await
    })
}

fn disabled(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(KernelConfig { enabled: false, ..config() }).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.track("10.0.0.2");
        kernel.first_sync();
        pause().await;
        assert_eq!(world.count()?, 0);
        assert!(kernel.answered("10.0.0.2").is_empty());
        assert_eq!(kernel.status_of("10.1.0.0/24").await, None);
        let mut left = 0;
        kernel.queue.update(|pending| left = pending.changes.len());
        assert_eq!(left, 0, "the queue is drained");
        kernel.handle.stop(true).await;
        Ok(())
    })
}

fn impossible(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |_world| async move {
        for (config, words) in [
            (KernelConfig { metric: 1024, ..config() }, "1024"),
            (KernelConfig { blackhole_metric: 1024, ..config() }, "blackholeMetric"),
            (KernelConfig { metric: 65000, ..config() }, "must differ"),
            (KernelConfig { protocol: 2, ..config() }, "protocol"),
            (KernelConfig { table: 255, ..config() }, "table"),
        ] {
            let error = Kernel::start(config).await.err().expect("it is refused").to_string();
            assert!(error.contains(words), "{error}");
        }
        Ok(())
    })
}

fn lookup(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let pods = KernelConfig { blackholes: vec!["10.244.1.0/24".parse()?], ..config() };
        let kernel = Kernel::start(pods).await?;
        world.ip("route add 192.0.2.0/24 via 10.0.1.2")?;
        world.ip("route add 10.1.0.0/24 via 10.0.1.2 proto static metric 5000")?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2", "192.0.2.7"]);
        kernel.until_installed("10.1.0.0/24").await?;
        let prefix = Some("10.1.0.0/24".parse()?);
        let found = kernel.handle.lookup("10.1.0.7".parse()?, prefix).await;
        let route = found.route.expect("there is a route");
        assert!(route.starts_with("10.1.0.7 via 10.0."), "{route}");
        assert!(route.contains(" src 10.0."), "{route}");
        assert_eq!(
            found.candidates,
            [
                "10.1.0.0/24 proto 179 metric 1179 nexthop via 10.0.0.2 dev eth0 weight 1 \
                 nexthop via 10.0.1.2 dev eth1 weight 1",
                "10.1.0.0/24 via 10.0.1.2 dev eth1 proto static metric 5000",
            ]
        );
        assert_eq!(found.next_hops[0].resolution, "on link, dev eth0");
        assert_eq!(
            found.next_hops[1].resolution,
            "through '192.0.2.0/24 via 10.0.1.2 dev eth1 proto boot'"
        );
        let found = kernel.handle.lookup("10.244.1.9".parse()?, None).await;
        assert_eq!(found.route.as_deref(), Some("blackhole 10.244.1.9"));
        let found = kernel.handle.lookup("203.0.113.1".parse()?, None).await;
        assert_eq!(found.route, None);
        Ok(())
    })
}

fn forwarding(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let pods = vec!["10.244.1.0/24".parse()?, "fd44:1::/64".parse()?];
        let kernel = Kernel::start(KernelConfig { blackholes: pods, ..config() }).await?;
        let on = || {
            let four = world.node.read_sysctl("net/ipv4/ip_forward")?;
            let six = world.node.read_sysctl("net/ipv6/conf/all/forwarding")?;
            anyhow::ensure!((four.trim(), six.trim()) == ("1", "1"), "{four:?} {six:?}");
            Ok(())
        };
        eventually("forwarding", async || on()).await?;
        // Somebody switches it off again: noticed at once, not at the next audit.
        world.node.sysctl("net/ipv4/ip_forward", "0")?;
        eventually("forwarding again", async || on()).await?;
        assert!(kernel.handle.status().await.problems.is_empty());
        Ok(())
    })
}
