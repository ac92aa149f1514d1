//! What is ours, what is not, and what happens at start and stop.

use routelet::kernel::{KernelConfig, RouteStatus};
use routelet_tests::harness::Case;
use routelet_tests::scene::Scene;

use crate::world::{Kernel, config, failed, inside, pause};

pub const CASES: &[Case] = &[
    ("ownership::adopted_and_stale_ones_go_at_first_sync", adoption),
    ("ownership::withdrawn_before_first_sync_stays", withdrawn_before_sync),
    ("ownership::stop_leaves_and_withdraw_removes", stop),
    ("ownership::dropped_handles_leave_the_routes", dropped),
    ("ownership::a_clash_is_reported_and_untouched", clash),
    ("ownership::a_clash_that_nobody_told_of", silent_clash),
    ("ownership::replaced_by_somebody_else", replaced),
    ("ownership::foreign_routes_are_untouched", foreign),
    ("ownership::a_stranger_with_our_number_goes", stranger),
    ("ownership::what_was_left_in_a_former_table_goes", former_table),
];

const OURS: &str = "10.1.0.0/24 via 10.0.0.2 dev eth0 proto 179 metric 1179";

fn adoption(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let first = Kernel::start(config()).await?;
        for number in 1..=5 {
            first.announce(&format!("10.{number}.0.0/24"), &["10.0.0.2"]);
            first.announce(&format!("fd0{number}::/64"), &["fd00::2"]);
        }
        first.announce("10.6.0.0/24", &["10.0.0.2", "10.0.1.2"]);
        first.until("all in", |status| status.installed == 11).await?;
        first.handle.stop(false).await;
        assert_eq!(world.count()?, 11);

        let log = tempfile::NamedTempFile::new()?;
        let mut monitor = std::process::Command::new("ip")
            .args(["monitor", "route"])
            .stdout(log.reopen()?)
            .spawn()?;
        pause().await;
        let second = Kernel::start(config()).await?;
        assert_eq!(second.handle.status().await.adopted, 11);
        // Two as they were, one by another way; the rest is not wanted any more.
        second.announce("10.1.0.0/24", &["10.0.0.2"]);
        second.announce("10.6.0.0/24", &["10.0.0.2", "10.0.1.2"]);
        second.announce("fd01::/64", &["fd00:0:0:1::2"]);
        second.until("the wanted ones", |status| status.installed == 3).await?;
        pause().await;
        assert_eq!(world.count()?, 11, "nothing is removed before the first sync");
        assert!(!second.handle.status().await.synced);
        let before = std::fs::read_to_string(log.path())?;
        second.first_sync();
        second.until_synced().await?;
        pause().await;
        monitor.kill()?;
        monitor.wait()?;
        assert_eq!(world.count()?, 3);
        assert_eq!(world.show("10.1.0.0/24")?, [OURS]);
        assert!(!before.contains("Deleted"), "{before}");
        assert!(!before.contains("10.1.0.0/24"), "an unchanged route was rewritten: {before}");
        assert!(!before.contains("10.6.0.0/24"), "an unchanged route was rewritten: {before}");
        assert!(before.contains("fd01::/64 via fd00:0:0:1::2"), "{before}");
        Ok(())
    })
}

fn withdrawn_before_sync(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.until_installed("10.1.0.0/24").await?;
        // The peer went; another one may still say the same.
        kernel.announce("10.1.0.0/24", &[]);
        pause().await;
        assert_eq!(world.show("10.1.0.0/24")?, [OURS]);
        kernel.first_sync();
        kernel.until_synced().await?;
        assert_eq!(world.count()?, 0);
        Ok(())
    })
}

fn stop(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let pods = KernelConfig { blackholes: vec!["10.244.1.0/24".parse()?], ..config() };
        let kernel = Kernel::start(pods.clone()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.announce("fd01::/64", &["fd00::2"]);
        kernel.until("all in", |status| status.installed == 3).await?;
        kernel.handle.stop(false).await;
        assert_eq!(world.count()?, 3);
        assert_eq!(kernel.status_of("10.1.0.0/24").await, None, "a stopped one knows nothing");
        // Adopted routes that nobody has asked for yet go with a withdrawal too.
        world.ip("route add 10.9.0.0/24 via 10.0.0.2 proto static metric 1179")?;
        let kernel = Kernel::start(pods).await?;
        kernel.handle.stop(true).await;
        assert_eq!(world.count()?, 0);
        assert_eq!(world.show("10.9.0.0/24")?.len(), 1);
        Ok(())
    })
}

fn dropped(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.until_installed("10.1.0.0/24").await?;
        drop(kernel);
        pause().await;
        world.ip("route del 10.1.0.0/24")?;
        pause().await;
        assert_eq!(world.count()?, 0, "nobody is there to put it back");
        Ok(())
    })
}

fn clash(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let theirs = "10.1.0.0/24 via 10.0.1.2 dev eth1 proto bird metric 1179";
        world.ip("route add 10.1.0.0/24 via 10.0.1.2 proto bird metric 1179")?;
        world.ip("-6 route add fd01::/64 via fd00::9 proto bird metric 1179")?;
        let kernel = Kernel::start(config()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.announce("fd01::/64", &["fd00::2"]);
        let clash = "clash: proto bird via 10.0.1.2 has metric 1179; change kernel.metric";
        kernel.until_status("10.1.0.0/24", failed(clash)).await?;
        kernel.until_status("fd01::/64", failed("clash: proto bird via fd00::9")).await?;
        kernel.first_sync();
        kernel.until_synced().await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2", "10.0.1.2"]);
        pause().await;
        assert_eq!(world.show("10.1.0.0/24")?, [theirs]);
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        pause().await;
        // It is gone: ours takes its place.
        world.ip("route del 10.1.0.0/24")?;
        world.ip("-6 route del fd01::/64")?;
        world.until_shown("10.1.0.0/24", &[OURS]).await?;
        kernel.until_installed("10.1.0.0/24").await?;
        kernel.until_installed("fd01::/64").await?;
        // A withdrawal of ours touches nobody else's either.
        world.ip("-6 route add fd02::/64 via fd00::9 proto bird metric 1179")?;
        kernel.announce("fd02::/64", &["fd00::2"]);
        kernel.until_status("fd02::/64", failed("clash")).await?;
        kernel.announce("fd02::/64", &[]);
        kernel.until_status("fd02::/64", Option::is_none).await?;
        pause().await;
        assert_eq!(world.show("fd02::/64")?.len(), 1);
        Ok(())
    })
}

/// The foreign route comes in the same moment as the wish: the kernel's own check holds.
fn silent_clash(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        // The runtime stands still while `ip` runs, so the monitor has not heard of it when the
        // wish is taken: whichever comes first, theirs stays.
        for number in 0..20 {
            kernel.announce(&format!("10.1.{number}.0/24"), &["10.0.0.2"]);
            world.ip(&format!("route add 10.1.{number}.0/24 via 10.0.1.2 proto 77 metric 1179"))?;
            kernel.until_status(&format!("10.1.{number}.0/24"), failed("clash: proto 77")).await?;
        }
        assert_eq!(world.count()?, 0);
        Ok(())
    })
}

fn replaced(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.announce("fd01::/64", &["fd00::2"]);
        kernel.until_installed("10.1.0.0/24").await?;
        kernel.until_installed("fd01::/64").await?;
        world.ip("route replace 10.1.0.0/24 via 10.0.1.2 proto bird metric 1179")?;
        world.ip("-6 route replace fd01::/64 via fd00::9 proto bird metric 1179")?;
        kernel.until_status("10.1.0.0/24", failed("clash: proto bird")).await?;
        kernel.until_status("fd01::/64", failed("clash: proto bird")).await?;
        pause().await;
        let theirs = "10.1.0.0/24 via 10.0.1.2 dev eth1 proto bird metric 1179";
        assert_eq!(world.show("10.1.0.0/24")?, [theirs]);
        world.ip("route del 10.1.0.0/24")?;
        world.ip("-6 route del fd01::/64")?;
        world.until_shown("10.1.0.0/24", &[OURS]).await?;
        kernel.until_installed("fd01::/64").await
    })
}

fn foreign(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kept = [
            ("10.1.0.0/24", "via 10.0.1.2 proto static metric 5"),
            ("10.2.0.0/24", "via 10.0.1.2 proto 180 metric 1179"),
            ("10.3.0.0/24", "via 10.0.1.2 proto 179 metric 1179 table 99"),
        ];
        for (prefix, words) in kept {
            world.ip(&format!("route add {prefix} {words}"))?;
        }
        let kernel = Kernel::start(config()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.until_installed("10.1.0.0/24").await?;
        kernel.first_sync();
        kernel.until_synced().await?;
        assert_eq!(world.show("10.1.0.0/24")?.len(), 2);
        kernel.announce("10.1.0.0/24", &[]);
        kernel.until_status("10.1.0.0/24", Option::is_none).await?;
        pause().await;
        kernel.handle.stop(true).await;
        for (prefix, words) in kept {
            assert_eq!(world.show(prefix)?.len(), 1, "{prefix} {words}");
        }
        Ok(())
    })
}

fn stranger(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        world.ip("route add 10.8.0.0/24 via 10.0.0.2 proto 179 metric 1179")?;
        pause().await;
        assert_eq!(world.count()?, 1, "not before the first sync");
        kernel.first_sync();
        kernel.until_synced().await?;
        assert_eq!(world.count()?, 0);
        world.ip("route add 10.8.0.0/24 via 10.0.0.2 proto 179 metric 7")?;
        world.until_shown("10.8.0.0/24", &[]).await?;
        assert_eq!(kernel.status_of("10.8.0.0/24").await, None::<RouteStatus>);
        Ok(())
    })
}

/// The table and the number are changed while nobody runs.
fn former_table(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let state = tempfile::tempdir()?;
        let remembering =
            KernelConfig { memory: Some(state.path().join("kernel-routes")), ..config() };
        let first = KernelConfig { table: 77, protocol: 180, ..remembering.clone() };
        let kernel = Kernel::start(first).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.announce("10.2.0.0/24", &["10.0.0.2"]);
        kernel.until("both", |status| status.installed == 2).await?;
        kernel.handle.stop(false).await;
        // Somebody else's in the same table.
        world.ip("route add 10.9.0.0/24 via 10.0.0.2 proto static table 77")?;
        let kernel = Kernel::start(remembering.clone()).await?;
        assert_eq!(kernel.handle.status().await.adopted, 2);
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.until("it", |status| status.installed == 1).await?;
        pause().await;
        assert_eq!(world.show("10.1.0.0/24")?.len(), 2, "nothing is removed before first sync");
        kernel.first_sync();
        kernel.until_synced().await?;
        assert_eq!(world.show("10.1.0.0/24")?, [OURS]);
        assert_eq!(world.show("10.2.0.0/24")?.len(), 0);
        assert_eq!(world.show("10.9.0.0/24")?.len(), 1);
        kernel.handle.stop(false).await;
        // The number alone.
        let kernel = Kernel::start(KernelConfig { protocol: 181, ..remembering }).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.first_sync();
        kernel.until_synced().await?;
        assert_eq!(
            world.show("10.1.0.0/24")?,
            [OURS.replace("179", "181").replace("1181", "1179")]
        );
        Ok(())
    })
}
