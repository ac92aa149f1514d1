//! A full table.

use routelet_tests::harness::Case;
use routelet_tests::scene::Scene;

use crate::world::{Kernel, config, eventually, inside};

pub const CASES: &[Case] = &[("scale::a_hundred_thousand_in_and_out", in_and_out)];

const ROUTES: usize = 100_000;

fn prefix(number: usize) -> String {
    format!("{}.{}.{}.0/24", 20 + number / 65536, number / 256 % 256, number % 256)
}

fn in_and_out(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        for number in 0..ROUTES {
            kernel.announce(&prefix(number), &["10.0.0.2"]);
        }
        kernel.first_sync();
        kernel.until("all in", |status| status.installed == ROUTES).await?;
        assert_eq!(world.count()?, ROUTES);
        // All move to another next hop, in place.
        for number in 0..ROUTES {
            kernel.announce(&prefix(number), &["10.0.1.2"]);
        }
        eventually("all moved", async || {
            // While `ip` runs nothing else does.
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            let moved = world.ip("route show proto 179 via 10.0.1.2")?.lines().count();
            anyhow::ensure!(moved == ROUTES, "{moved} have moved");
            Ok(())
        })
        .await?;
        kernel.until("that known", |status| status.installed == ROUTES && status.synced).await?;
        // The link goes and comes: every one of them silently away, and back.
        world.ip_batch("link set eth1 down\nlink set eth1 up\n")?;
        assert_eq!(world.count()?, 0);
        kernel.until("all back", |status| status.repaired as usize == ROUTES).await?;
        assert_eq!(world.count()?, ROUTES);
        for number in 0..ROUTES {
            kernel.announce(&prefix(number), &[]);
        }
        kernel.until("all out", |status| status.desired == 0).await?;
        eventually("all out of the kernel", async || {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            let left = world.count()?;
            anyhow::ensure!(left == 0, "{left} left");
            Ok(())
        })
        .await
    })
}
