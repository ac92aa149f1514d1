//! Next-hop sets as nexthop objects, checked by `ip nexthop`.

use std::future::Future;
use std::time::Duration;

use routelet::kernel::{KernelConfig, NexthopObjects, Tuning};
use routelet_tests::harness::{Case, Skip};
use routelet_tests::scene::Scene;

use crate::world::{Kernel, World, config, eventually, inside, now, pause, tuning};

pub const CASES: &[Case] = &[
    ("objects::a_large_set_becomes_one_and_moves_at_once", moves_at_once),
    ("objects::a_small_set_stays_plain", small_sets),
    ("objects::both_families_and_ipv4_behind_ipv6", families),
    ("objects::multipath", multipath),
    ("objects::adopted_and_stale_ones_go_after_first_sync", adoption),
    ("objects::the_switch_loses_no_packet", the_switch),
    ("objects::a_move_loses_no_packet", a_move),
    ("objects::carrier_lost_and_back", carrier),
    ("objects::link_down_and_up", link_down_and_up),
    ("objects::one_of_two_links_loses_its_carrier", one_of_two),
    ("objects::deleted_by_hand", deleted_by_hand),
    ("objects::changed_by_hand", changed_by_hand),
    ("objects::who_keeps_deleting_is_answered_slowly", no_storm),
    ("objects::foreign_ones_are_untouched", foreign),
    ("objects::foreign_routes_with_an_object_resolve", foreign_routes),
    ("objects::withdrawn_at_stop", withdrawn),
    ("objects::own_notifications_overrun_nothing", no_overrun),
];

const ROUTES: usize = 1000;
const GROUP: &str = "1912602624";

fn prefix(number: usize) -> String {
    format!("20.{}.{}.0/24", number / 256, number % 256)
}

/// Skips where the kernel has no nexthop objects.
fn needs_objects(world: &World) -> anyhow::Result<()> {
    if world.ip("nexthop show").is_err() {
        let reason = "the kernel, or ip, has no nexthop objects (Linux 5.3)";
        return Err(Skip(reason.to_owned()).into());
    }
    Ok(())
}

fn objects(world: &World) -> anyhow::Result<Vec<String>> {
    let shown = world.ip("nexthop show")?;
    Ok(shown.lines().map(|line| line.trim().to_owned()).collect())
}

fn groups(world: &World) -> anyhow::Result<usize> {
    Ok(objects(world)?.iter().filter(|line| line.contains(" group ")).count())
}

/// How many routes lead out over a device by an object.
fn behind(world: &World, device: &str) -> anyhow::Result<usize> {
    let shown = world.ip("-4 route show proto 179")?;
    let lines = shown.lines().filter(|line| line.contains(" nhid "));
    Ok(lines.filter(|line| line.contains(&format!("dev {device} "))).count())
}

async fn with_many(world: &World, config: KernelConfig, tuning: Tuning) -> anyhow::Result<Kernel> {
    needs_objects(world)?;
    let kernel = Kernel::start_with(config, tuning).await?;
    world.ip("route add 192.0.2.0/24 via 10.0.0.2")?;
    for number in 0..ROUTES {
        kernel.announce(&prefix(number), &["192.0.2.7"]);
    }
    kernel.first_sync();
    kernel.until("all in", |status| status.installed == ROUTES && status.synced).await?;
    Ok(kernel)
}

async fn until_behind(world: &World, device: &str, count: usize) -> anyhow::Result<()> {
    eventually(&format!("{count} routes by objects over {device}"), async || {
        let found = behind(world, device)?;
        anyhow::ensure!(found == count, "{found}");
        Ok(())
    })
    .await
}

async fn until_objects(world: &World, lines: &[String]) -> anyhow::Result<()> {
    eventually(&format!("the objects {lines:?}"), async || {
        let found = objects(world)?;
        anyhow::ensure!(found == lines, "{found:?}");
        Ok(())
    })
    .await
}

fn moves_at_once(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_many(&world, config(), tuning()).await?;
        until_behind(&world, "eth0", ROUTES).await?;
        until_objects(
            &world,
            &[
                format!("id {GROUP} group 1912602625 proto 179"),
                "id 1912602625 via 10.0.0.2 dev eth0 scope link proto 179".to_owned(),
            ],
        )
        .await?;
        assert_eq!(kernel.handle.status().await.nexthop_objects, Some(1));
        let log = tempfile::NamedTempFile::new()?;
        let mut monitor = std::process::Command::new("ip")
            .args(["monitor", "nexthop", "route"])
            .stdout(log.reopen()?)
            .spawn()?;
        pause().await;
        world.ip_batch("route replace 192.0.2.0/24 via 10.0.1.2\n")?;
        let moved = until_behind(&world, "eth1", ROUTES).await;
        until_objects(
            &world,
            &[
                format!("id {GROUP} group 1912602626 proto 179"),
                "id 1912602626 via 10.0.1.2 dev eth1 scope link proto 179".to_owned(),
            ],
        )
        .await?;
        pause().await;
        monitor.kill()?;
        monitor.wait()?;
        moved?;
        let seen = std::fs::read_to_string(log.path())?;
        assert!(!seen.contains("Deleted 20."), "a route was missing for a moment: {seen}");
        let replaced = seen.lines().filter(|line| line.contains(&format!("id {GROUP} group")));
        assert_eq!(replaced.count(), 1, "{seen}");
        let status = kernel.handle.status().await;
        assert_eq!((status.installed, status.repaired), (ROUTES, 0), "{status:?}");
        assert_eq!(status.latency.count, ROUTES as u64, "{status:?}");
        Ok(())
    })
}

fn small_sets(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        needs_objects(&world)?;
        let kernel = Kernel::start(config()).await?;
        for number in 0..127 {
            kernel.announce(&prefix(number), &["10.0.0.2"]);
        }
        kernel.first_sync();
        kernel.until("all in", |status| status.installed == 127).await?;
        assert_eq!(objects(&world)?, [""; 0]);
        assert_eq!(behind(&world, "eth0")?, 0);
        // One more: all of them change over. Fewer again: they stay with it, until the last goes.
        kernel.announce(&prefix(127), &["10.0.0.2"]);
        until_behind(&world, "eth0", 128).await?;
        for number in 1..=127 {
            kernel.announce(&prefix(number), &[]);
        }
        until_behind(&world, "eth0", 1).await?;
        kernel.announce(&prefix(0), &[]);
        until_objects(&world, &[]).await
    })
}

fn families(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        needs_objects(&world)?;
        let kernel = Kernel::start(config()).await?;
        for number in 0..300 {
            kernel.announce(&format!("fd01:{number:x}::/64"), &["fd00::2"]);
            kernel.announce(&prefix(number), &["fd00::2"]);
        }
        kernel.until("all in", |status| status.installed == 600).await?;
        let six = format!(
            "fd01:7::/64 nhid {GROUP} proto 179 metric 1179 pref medium nexthop via fd00::2 dev eth0 weight 1"
        );
        world.until_shown("fd01:7::/64", &[&six]).await?;
        let four =
            format!("20.0.7.0/24 nhid {GROUP} via inet6 fd00::2 dev eth0 proto 179 metric 1179");
        world.until_shown("20.0.7.0/24", &[&four]).await?;
        // The kernel takes IPv6 routes by objects along with their link as well.
        world
            .ip_batch("link set eth0 down\nlink set eth0 up\naddress add fd00::1/64 dev eth0\n")?;
        world.until_shown("fd01:7::/64", &[&six]).await?;
        world.until_shown("20.0.7.0/24", &[&four]).await?;
        kernel.until("all back", |status| status.installed == 600).await
    })
}

fn multipath(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        needs_objects(&world)?;
        let kernel = Kernel::start(config()).await?;
        for number in 0..200 {
            kernel.announce(&prefix(number), &["10.0.0.2", "10.0.1.2"]);
            kernel.announce(&format!("fd01:{number:x}::/64"), &["fd00::2", "fd00:0:0:1::2"]);
        }
        kernel.until("all in", |status| status.installed == 400).await?;
        assert_eq!(groups(&world)?, 2);
        let shown = world.show("20.0.7.0/24")?.join(" ");
        assert!(shown.contains("nexthop via 10.0.0.2 dev eth0 weight 1"), "{shown}");
        assert!(shown.contains("nexthop via 10.0.1.2 dev eth1 weight 1"), "{shown}");
        // Some of them by one way only: back to plain routes, in one step each.
        for number in 0..50 {
            kernel.announce(&prefix(number), &["10.0.1.2"]);
        }
        let shown = "20.0.7.0/24 via 10.0.1.2 dev eth1 proto 179 metric 1179";
        world.until_shown("20.0.7.0/24", &[shown]).await?;
        kernel.until("still all", |status| status.installed == 400).await
    })
}

fn adoption(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let first = with_many(&world, config(), tuning()).await?;
        first.handle.stop(false).await;
        let before = objects(&world)?;
        assert_eq!(before.len(), 2);
        // Left by somebody with our number who is gone: not used by any route.
        world.ip("nexthop add id 0x72000077 via 10.0.1.2 dev eth1 proto 179")?;
        world.ip("nexthop add id 0x72000078 group 0x72000077 proto 179")?;
        let log = tempfile::NamedTempFile::new()?;
        let mut monitor = std::process::Command::new("ip")
            .args(["monitor", "nexthop", "route"])
            .stdout(log.reopen()?)
            .spawn()?;
        pause().await;
        let second = Kernel::start(config()).await?;
        // As they were; those that come first are fewer than make an object.
        for number in 0..100 {
            second.announce(&prefix(number), &["192.0.2.7"]);
        }
        second.until("the first", |status| status.installed == 100).await?;
        for number in 100..ROUTES - 1 {
            second.announce(&prefix(number), &["192.0.2.7"]);
        }
        second.until("the others", |status| status.installed == ROUTES - 1).await?;
        pause().await;
        assert_eq!(objects(&world)?.len(), 4, "nothing is removed before the first sync");
        let seen = std::fs::read_to_string(log.path())?;
        assert_eq!(seen, "", "what was there was written again");
        second.first_sync();
        second.until_synced().await?;
        until_objects(&world, &before).await?;
        monitor.kill()?;
        monitor.wait()?;
        assert_eq!(behind(&world, "eth0")?, ROUTES - 1, "the stale route has gone");
        Ok(())
    })
}

/// Pings a host behind one of the routes while something happens; no packet may be lost.
async fn pinging<F: Future<Output = anyhow::Result<()>>>(
    world: &World,
    happens: F,
) -> anyhow::Result<()> {
    world.peer.run(|| -> anyhow::Result<()> {
        let status = std::process::Command::new("ip")
            .args(["address", "add", "20.0.7.1/32", "dev", "lo"])
            .status()?;
        anyhow::ensure!(status.success(), "an address to ping");
        std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
        Ok(())
    })?;
    let log = tempfile::NamedTempFile::new()?;
    let mut ping = std::process::Command::new("ping")
        .args(["-n", "-i", "0.005", "-c", "400", "-W", "2", "20.0.7.1"])
        .stdout(log.reopen()?)
        .spawn()?;
    pause().await;
    happens.await?;
    while ping.try_wait()?.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let said = std::fs::read_to_string(log.path())?;
    anyhow::ensure!(said.contains("400 packets transmitted, 400 received"), "{said}");
    Ok(())
}

fn the_switch(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        routelet_tests::harness::program("ping", "iputils-ping")?;
        let kernel = with_many(&world, config(), tuning()).await?;
        let with = |nexthop_objects| KernelConfig { nexthop_objects, ..config() };
        pinging(&world, async {
            for _ in 0..3 {
                kernel.handle.apply(with(NexthopObjects::Never)).await;
                until_behind(&world, "eth0", 0).await?;
                until_objects(&world, &[]).await?;
                assert_eq!(world.count()?, ROUTES);
                assert_eq!(kernel.handle.status().await.nexthop_objects, None);
                kernel.handle.apply(with(NexthopObjects::Auto)).await;
                until_behind(&world, "eth0", ROUTES).await?;
            }
            Ok(())
        })
        .await?;
        kernel.handle.stop(false).await;
        // Also across a restart.
        let plain = Kernel::start(with(NexthopObjects::Never)).await?;
        for number in 0..ROUTES {
            plain.announce(&prefix(number), &["192.0.2.7"]);
        }
        plain.first_sync();
        until_behind(&world, "eth0", 0).await?;
        until_objects(&world, &[]).await?;
        assert_eq!(world.count()?, ROUTES);
        assert_eq!(plain.handle.status().await.repaired, 0);
        Ok(())
    })
}

fn a_move(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        routelet_tests::harness::program("ping", "iputils-ping")?;
        let kernel = with_many(&world, config(), tuning()).await?;
        pinging(&world, async {
            for (via, device) in [("10.0.1.2", "eth1"), ("10.0.0.2", "eth0"), ("10.0.1.2", "eth1")]
            {
                world.ip(&format!("route replace 192.0.2.0/24 via {via}"))?;
                until_behind(&world, device, ROUTES).await?;
            }
            Ok(())
        })
        .await?;
        kernel.until("all in", |status| status.installed == ROUTES).await
    })
}

fn carrier(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_many(&world, config(), tuning()).await?;
        for _ in 0..3 {
            world.peer.set_link("peer0", false)?;
            eventually("the kernel to take all away", async || {
                anyhow::ensure!(world.count()? == 0 && objects(&world)?.is_empty(), "not yet");
                Ok(())
            })
            .await?;
            kernel.until("that known", |status| status.installed == 0).await?;
            world.peer.set_link("peer0", true)?;
            until_behind(&world, "eth0", ROUTES).await?;
            kernel.until("that known", |status| status.installed == ROUTES).await?;
        }
        Ok(())
    })
}

fn link_down_and_up(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_many(&world, config(), tuning()).await?;
        // Before anybody looks.
        world.ip_batch(
            "link set eth0 down\nlink set eth0 up\nroute add 192.0.2.0/24 via 10.0.0.2\n",
        )?;
        assert_eq!((world.count()?, objects(&world)?.len()), (0, 0));
        until_behind(&world, "eth0", ROUTES).await?;
        kernel.until("repairs", |status| status.repaired == ROUTES as u64).await
    })
}

fn one_of_two(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        needs_objects(&world)?;
        let kernel = Kernel::start(config()).await?;
        for number in 0..ROUTES {
            kernel.announce(&prefix(number), &["10.0.0.2", "10.0.1.2"]);
        }
        kernel.first_sync();
        kernel.until("all in", |status| status.installed == ROUTES && status.synced).await?;
        world.peer.set_link("peer0", false)?;
        until_behind(&world, "eth1", ROUTES).await?;
        kernel.until("that known", |status| status.installed == ROUTES).await?;
        world.peer.set_link("peer0", true)?;
        eventually("both again", async || {
            let shown = world.show("20.0.7.0/24")?.join(" ");
            anyhow::ensure!(shown.contains("dev eth0") && shown.contains("dev eth1"), "{shown}");
            Ok(())
        })
        .await?;
        kernel.until("that known", |status| status.installed == ROUTES).await
    })
}

fn deleted_by_hand(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_many(&world, config(), tuning()).await?;
        world.ip(&format!("nexthop del id {GROUP}"))?;
        kernel.until("repairs", |status| status.repaired == ROUTES as u64).await?;
        until_behind(&world, "eth0", ROUTES).await?;
        // The single alone: the group goes with it.
        world.ip("nexthop del id 1912602625")?;
        kernel.until("repairs", |status| status.repaired == 2 * ROUTES as u64).await?;
        until_behind(&world, "eth0", ROUTES).await?;
        world.ip("nexthop flush proto 179")?;
        kernel.until("repairs", |status| status.repaired == 3 * ROUTES as u64).await?;
        until_behind(&world, "eth0", ROUTES).await?;
        kernel.until("all in", |status| status.installed == ROUTES).await
    })
}

fn changed_by_hand(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_many(&world, config(), tuning()).await?;
        world.ip("nexthop add id 7 via 10.0.1.2 dev eth1")?;
        world.ip(&format!("nexthop replace id {GROUP} group 7 proto 179"))?;
        kernel.until("a repair", |status| status.repaired == 1).await?;
        until_behind(&world, "eth0", ROUTES).await?;
        assert!(objects(&world)?.iter().any(|line| line.starts_with("id 7 ")));
        Ok(())
    })
}

fn no_storm(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_many(&world, config(), tuning()).await?;
        let until = now() + Duration::from_millis(1500);
        let mut deleted = 0;
        while now() < until {
            if world.ip(&format!("nexthop del id {GROUP}")).is_ok() {
                deleted += 1;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!((3..=12).contains(&deleted), "deleted {deleted} times");
        until_behind(&world, "eth0", ROUTES).await?;
        kernel.until("all in", |status| status.installed == ROUTES).await
    })
}

fn foreign(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        needs_objects(&world)?;
        // One where ours would begin, one under our number below our range.
        world.ip("nexthop add id 0x72000000 via 10.0.0.2 dev eth0 proto static")?;
        world.ip("nexthop add id 0x72000001 group 0x72000000 proto static")?;
        world.ip("nexthop add id 7 via 10.0.0.2 dev eth0 proto 179")?;
        let theirs = objects(&world)?;
        let kernel = Kernel::start(config()).await?;
        for number in 0..ROUTES {
            kernel.announce(&prefix(number), &["10.0.0.2"]);
        }
        kernel.first_sync();
        kernel.until("all in", |status| status.installed == ROUTES && status.synced).await?;
        assert_eq!(objects(&world)?.len(), theirs.len() + 2);
        // One that comes meanwhile, where our next one would be.
        world.ip("nexthop add id 0x72000004 via 10.0.1.2 dev eth1 proto static")?;
        world.ip("nexthop add id 0x72000005 via 10.0.1.2 dev eth1 proto static")?;
        for number in 0..ROUTES {
            kernel.announce(&prefix(number), &["10.0.1.2"]);
        }
        eventually("all over eth1", async || {
            let moved = world.ip("route show proto 179")?.matches("dev eth1").count();
            anyhow::ensure!(moved == ROUTES, "{moved}");
            Ok(())
        })
        .await?;
        kernel.until("all in", |status| status.installed == ROUTES).await?;
        kernel.handle.stop(true).await;
        let left = objects(&world)?;
        assert_eq!(left.len(), theirs.len() + 2, "{left:?}");
        assert!(theirs.iter().all(|line| left.contains(line)), "{left:?}");
        Ok(())
    })
}

fn foreign_routes(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        needs_objects(&world)?;
        world.ip("nexthop add id 7 via 10.0.1.2 dev eth1")?;
        world.ip("route add 192.0.2.0/24 nhid 7 metric 3")?;
        let kernel = Kernel::start(config()).await?;
        kernel.track("192.0.2.7");
        kernel.until_answered("192.0.2.7", crate::world::reachable(3)).await?;
        kernel.announce("10.1.0.0/24", &["192.0.2.7"]);
        let shown = "10.1.0.0/24 via 10.0.1.2 dev eth1 proto 179 metric 1179";
        world.until_shown("10.1.0.0/24", &[shown]).await
    })
}

fn withdrawn(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_many(&world, config(), tuning()).await?;
        world.ip("nexthop add id 7 via 10.0.1.2 dev eth1")?;
        kernel.handle.stop(true).await;
        assert_eq!(world.count()?, 0);
        assert_eq!(objects(&world)?.len(), 1);
        Ok(())
    })
}

/// One replacement of ours makes the kernel tell of every route behind it.
fn no_overrun(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        world.node.sysctl("net/ipv4/nexthop_compat_mode", "1")?;
        let tiny = Tuning { monitor_buffer: 4096, ..tuning() };
        let kernel = with_many(&world, config(), tiny).await?;
        let before = kernel.handle.status().await.errors;
        for via in ["10.0.1.2", "10.0.0.2", "10.0.1.2"] {
            world.ip(&format!("route replace 192.0.2.0/24 via {via}"))?;
            let device = if via == "10.0.1.2" { "eth1" } else { "eth0" };
            until_behind(&world, device, ROUTES).await?;
        }
        pause().await;
        assert_eq!(kernel.handle.status().await.errors, before);
        Ok(())
    })
}
