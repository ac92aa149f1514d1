//! What happens behind our back, and how it is mended.

use routelet::kernel::{KernelConfig, NexthopObjects, Tuning};
use routelet_tests::harness::Case;
use routelet_tests::scene::Scene;

use crate::world::{
    Kernel, config, eventually, failed, inside, now, pause, reachable, tuning, unreachable,
};

pub const CASES: &[Case] = &[
    ("repair::deleted_by_hand", deleted_by_hand),
    ("repair::changed_by_hand", changed_by_hand),
    ("repair::flushed", flushed),
    ("repair::who_keeps_deleting_is_answered_slowly", no_storm),
    ("repair::switched_off", switched_off),
    ("repair::link_down_and_up", link_down_and_up),
    ("repair::link_flap_between_two_looks", link_flap),
    ("repair::link_gone_and_back", link_gone_and_back),
    ("repair::address_removed_and_back", address_removed),
    ("repair::overrun", overrun),
    ("repair::audit_finds_drift", audit),
    ("repair::address_moved_to_another_link", address_moved),
    ("repair::a_network_manager_flushes_the_link", network_manager),
    ("repair::our_own_table_is_flushed", table_flushed),
    ("repair::answers_to_the_writer_are_lost", answers_lost),
    ("repair::one_line_says_what_was_found_and_who_did_it", one_line),
];

const FOUR: &str = "10.1.0.0/24 via 10.0.0.2 dev eth0 proto 179 metric 1179";
const SIX: &str = "fd01::/64 via fd00::2 dev eth0 proto 179 metric 1179 pref medium";

/// Both families installed, and in sync.
async fn with_two_routes(config: KernelConfig, tuning: Tuning) -> anyhow::Result<Kernel> {
    let kernel = Kernel::start_with(config, tuning).await?;
    kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
    kernel.announce("fd01::/64", &["fd00::2"]);
    kernel.until_installed("10.1.0.0/24").await?;
    kernel.until_installed("fd01::/64").await?;
    kernel.first_sync();
    kernel.until_synced().await?;
    Ok(kernel)
}

fn deleted_by_hand(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let pods = KernelConfig { blackholes: vec!["10.244.1.0/24".parse()?], ..config() };
        let kernel = with_two_routes(pods, tuning()).await?;
        world.ip("route del 10.1.0.0/24")?;
        world.ip("-6 route del fd01::/64")?;
        world.ip("route del blackhole 10.244.1.0/24")?;
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        world.until_shown("fd01::/64", &[SIX]).await?;
        let blackhole = "blackhole 10.244.1.0/24 proto 179 metric 65000";
        world.until_shown("10.244.1.0/24", &[blackhole]).await?;
        kernel.until("three repairs", |status| status.repaired == 3).await?;
        kernel.until_installed("10.1.0.0/24").await
    })
}

fn changed_by_hand(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_two_routes(config(), tuning()).await?;
        world.ip("route replace 10.1.0.0/24 via 10.0.1.2 proto 179 metric 1179")?;
        world.ip("-6 route replace fd01::/64 via fd00::9 proto 179 metric 1179")?;
        kernel.until("two repairs", |status| status.repaired == 2).await?;
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        world.until_shown("fd01::/64", &[SIX]).await
    })
}

fn flushed(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        // `ip route flush` cannot delete a route that is there by a nexthop object: it names the
        // object and its hops, which the kernel refuses.
        let plain = KernelConfig { nexthop_objects: NexthopObjects::Never, ..config() };
        let kernel = with_two_routes(plain, tuning()).await?;
        for number in 0..200 {
            kernel.announce(&format!("10.2.{number}.0/24"), &["10.0.0.2"]);
        }
        kernel.until("all in", |status| status.installed == 202).await?;
        // The runtime stands still meanwhile: the flush finds an end.
        world.ip("route flush proto 179")?;
        world.ip("-6 route flush proto 179")?;
        eventually("all back", async || {
            let count = world.count()?;
            anyhow::ensure!(count == 202, "{count}");
            Ok(())
        })
        .await?;
        kernel.until("as many repairs", |status| status.repaired == 202).await
    })
}

fn no_storm(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_two_routes(config(), tuning()).await?;
        // Deleting for a second and a half as soon as it is back.
        let until = now() + std::time::Duration::from_millis(1500);
        let mut deleted = 0;
        while now() < until {
            if world.ip("route del 10.1.0.0/24 metric 1179").is_ok() {
                deleted += 1;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert!((4..=10).contains(&deleted), "deleted {deleted} times");
        // And it is put back in the end, with every repair counted.
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        kernel.until("the repairs", |status| status.repaired >= deleted).await
    })
}

fn switched_off(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let off = KernelConfig { repair: false, ..config() };
        let kernel = with_two_routes(off.clone(), tuning()).await?;
        world.ip("route del 10.1.0.0/24")?;
        kernel.until_status("10.1.0.0/24", failed("kernel.repair is off")).await?;
        pause().await;
        assert_eq!(world.show("10.1.0.0/24")?.len(), 0);
        kernel.handle.apply(KernelConfig { repair: true, ..off }).await;
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        kernel.until_installed("10.1.0.0/24").await
    })
}

fn link_down_and_up(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_two_routes(config(), tuning()).await?;
        kernel.track("10.0.0.2");
        world.ip("link set eth0 down")?;
        kernel.until_answered("10.0.0.2", unreachable("no route")).await?;
        kernel.until_status("10.1.0.0/24", failed("10.0.0.2 unreachable")).await?;
        kernel.until_status("fd01::/64", failed("fd00::2 unreachable")).await?;
        assert_eq!(world.count()?, 0);
        world.ip("link set eth0 up")?;
        world.ip("-6 address add fd00::1/64 dev eth0")?;
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        world.until_shown("fd01::/64", &[SIX]).await?;
        kernel.until_answered("10.0.0.2", reachable(0)).await
    })
}

/// Down and up before anybody looks: IPv4 routes have gone without a notification.
fn link_flap(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_two_routes(config(), tuning()).await?;
        world
            .ip_batch("link set eth0 down\nlink set eth0 up\naddress add fd00::1/64 dev eth0\n")?;
        assert_eq!(world.show("10.1.0.0/24")?.len(), 0);
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        world.until_shown("fd01::/64", &[SIX]).await?;
        kernel.until_installed("10.1.0.0/24").await
    })
}

fn link_gone_and_back(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_two_routes(config(), tuning()).await?;
        world.node.delete_link("eth0")?;
        kernel.until_status("10.1.0.0/24", failed("unreachable")).await?;
        world.node.veth("eth0", &world.peer, "peer0")?;
        world.node.add_address("eth0", "10.0.0.1/24".parse()?)?;
        world.node.add_address("eth0", "fd00::1/64".parse()?)?;
        // Another index, the same routes.
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        world.until_shown("fd01::/64", &[SIX]).await?;
        kernel.until_installed("10.1.0.0/24").await
    })
}

fn address_removed(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_two_routes(config(), tuning()).await?;
        // The last address: the kernel takes every route over the link away, silently.
        world.ip("address del 10.0.0.1/24 dev eth0")?;
        kernel.until_status("10.1.0.0/24", failed("no route to 10.0.0.2")).await?;
        world.ip("address add 10.0.0.1/24 dev eth0")?;
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        // Gone and back before anybody looks.
        world.ip_batch("address del 10.0.0.1/24 dev eth0\naddress add 10.0.0.1/24 dev eth0\n")?;
        assert_eq!(world.show("10.1.0.0/24")?.len(), 0);
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        kernel.until_installed("10.1.0.0/24").await
    })
}

/// So much happens at once that most notifications are lost, the important one among them.
fn overrun(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let tiny = Tuning { monitor_buffer: 4096, ..tuning() };
        let kernel = with_two_routes(config(), tiny).await?;
        kernel.track("192.0.2.1");
        kernel.until_answered("192.0.2.1", unreachable("no route")).await?;
        let mut lines = String::new();
        for number in 0..3000 {
            let (high, low) = (number / 250, number % 250);
            lines.push_str(&format!("route add 10.{}.{low}.0/24 via 10.0.1.2\n", 100 + high));
        }
        lines.push_str("route add 192.0.2.0/24 via 10.0.1.2 metric 3\n");
        lines.push_str("route del 10.1.0.0/24\n");
        world.ip_batch(&lines)?;
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        kernel.until_answered("192.0.2.1", reachable(3)).await?;
        // And it hears well again afterwards.
        world.ip("route del 192.0.2.0/24")?;
        kernel.until_answered("192.0.2.1", unreachable("no route")).await
    })
}

/// A change that no notification tells of is found by the slow comparison.
fn audit(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let often = Tuning { audit: std::time::Duration::from_millis(100), ..tuning() };
        let kernel = with_two_routes(config(), often).await?;
        world.ip("route del 10.1.0.0/24")?;
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        pause().await;
        kernel.until_installed("10.1.0.0/24").await?;
        kernel.until("one repair", |status| status.repaired == 1).await
    })
}

/// What reached the next hops over eth0 now does so over eth1, addresses and neighbours.
fn address_moved(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_two_routes(config(), tuning()).await?;
        world.ip_batch(
            "address del 10.0.0.1/24 dev eth0\n\
             address del fd00::1/64 dev eth0\n\
             address add 10.0.0.1/24 dev eth1\n\
             address add fd00::1/64 dev eth1\n",
        )?;
        let four = FOUR.replace("eth0", "eth1");
        let six = SIX.replace("eth0", "eth1");
        world.until_shown("10.1.0.0/24", &[&four]).await?;
        world.until_shown("fd01::/64", &[&six]).await?;
        // And back, the new one before the old one goes.
        world.ip_batch(
            "address add 10.0.0.1/24 dev eth0\n\
             address add fd00::1/64 dev eth0\n\
             address del 10.0.0.1/24 dev eth1\n\
             address del fd00::1/64 dev eth1\n",
        )?;
        world.until_shown("10.1.0.0/24", &[FOUR]).await?;
        world.until_shown("fd01::/64", &[SIX]).await?;
        kernel.until_installed("10.1.0.0/24").await
    })
}

/// As systemd-networkd and NetworkManager do when they take a link over: every route and address
/// that is not theirs goes, and their own addresses come.
fn network_manager(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = with_two_routes(config(), tuning()).await?;
        for _ in 0..2 {
            world.ip("-4 route flush dev eth0")?;
            world.ip("-6 route flush dev eth0 proto 179")?;
            world.ip_batch(
                "address flush dev eth0\n\
                 address add 10.0.0.1/24 dev eth0\n\
                 address add fd00::1/64 dev eth0\n",
            )?;
            world.until_shown("10.1.0.0/24", &[FOUR]).await?;
            world.until_shown("fd01::/64", &[SIX]).await?;
        }
        kernel.until_installed("10.1.0.0/24").await?;
        kernel.until_installed("fd01::/64").await
    })
}

fn table_flushed(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let table = KernelConfig { table: 5000, ..config() };
        let kernel = with_two_routes(table, tuning()).await?;
        world.ip("route flush table 5000")?;
        world.ip("-6 route flush table 5000")?;
        let four = "10.1.0.0/24 via 10.0.0.2 dev eth0 table 5000 proto 179 metric 1179";
        world.until_shown("10.1.0.0/24", &[four]).await?;
        kernel.until("two repairs", |status| status.repaired == 2).await
    })
}

/// So many refusals that their answers do not fit the buffer: what the kernel has is asked for.
fn answers_lost(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let tiny = Tuning { answer_buffer: 4096, ..tuning() };
        let kernel = Kernel::start_with(config(), tiny).await?;
        // The kernel refuses a broadcast address as a gateway.
        for number in 0..250 {
            let next_hop = if number % 5 == 0 { "10.0.0.2" } else { "10.0.0.255" };
            kernel.announce(&format!("10.1.{number}.0/24"), &[next_hop]);
        }
        kernel.until("the others", |status| status.installed == 50).await?;
        assert!(kernel.handle.status().await.errors.lost > 0);
        assert_eq!(world.count()?, 50);
        // With the cause gone everything is as wanted.
        for number in 0..250 {
            kernel.announce(&format!("10.1.{number}.0/24"), &["10.0.0.2"]);
        }
        kernel.until("all", |status| status.installed == 250).await?;
        assert_eq!(world.count()?, 250);
        Ok(())
    })
}

fn one_line(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let plain = KernelConfig { nexthop_objects: NexthopObjects::Never, ..config() };
        let kernel = with_two_routes(plain, tuning()).await?;
        world.ip("route del 10.1.0.0/24")?;
        kernel.until("a repair", |status| status.repaired == 1).await?;
        let lines = log.warnings();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("a route of ours was removed; putting it back"), "{lines:?}");
        assert!(lines[0].contains("prefix=10.1.0.0/24"), "{lines:?}");
        assert!(lines[0].contains("culprit=netlink port "), "{lines:?}");
        // Another daemon takes the place of one.
        pause_for_the_gate().await;
        world.ip("-6 route replace fd01::/64 via fd00::9 proto bird metric 1179")?;
        kernel.until_status("fd01::/64", failed("clash: proto bird")).await?;
        let lines = log.warnings();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].contains("culprit=proto bird"), "{lines:?}");
        // Many at once: one line, and one with how many more.
        for number in 0..250 {
            kernel.announce(&format!("10.2.{number}.0/24"), &["10.0.0.2"]);
        }
        kernel.until("all in", |status| status.installed > 200).await?;
        pause_for_the_gate().await;
        world.ip("route flush proto 179")?;
        kernel.until("repairs", |status| status.repaired > 200).await?;
        pause_for_the_gate().await;
        let lines = log.warnings();
        assert!((3..=5).contains(&lines.len()), "{lines:?}");
        Ok(())
    })
}

/// One line a second is let through.
async fn pause_for_the_gate() {
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
}

#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn warnings(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        text.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
