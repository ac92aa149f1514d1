//! What the speaker is told about next hops, and where routes lead when that changes.

use routelet_tests::harness::Case;
use routelet_tests::scene::Scene;

use crate::world::{Kernel, config, failed, inside, pause, reachable, unreachable};

pub const CASES: &[Case] = &[
    ("next_hops::on_link_gateway_none", on_link_gateway_none),
    ("next_hops::answers_follow_the_link", answers_follow_the_link),
    ("next_hops::carrier_loss", carrier_loss),
    ("next_hops::resolved_again_when_the_route_changes", resolved_again),
    ("next_hops::only_events_that_cover_it_are_answered", only_covering),
    ("next_hops::never_through_our_own_route", never_through_our_own),
    ("next_hops::a_hop_of_several_fails", one_of_several),
];

fn on_link_gateway_none(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        world.ip("route add 192.0.2.0/24 via 10.0.1.2 metric 70")?;
        world.ip("-6 route add 2001:db8::/32 via fd00::9")?;
        world.ip("route add unreachable 198.51.100.0/24")?;
        let kernel = Kernel::start(config()).await?;
        for address in
            ["10.0.0.2", "fd00::2", "192.0.2.9", "2001:db8::1", "203.0.113.9", "10.0.0.1"]
        {
            kernel.track(address);
        }
        kernel.track("198.51.100.7");
        kernel.until_answered("10.0.0.2", reachable(0)).await?;
        kernel.until_answered("fd00::2", reachable(0)).await?;
        kernel.until_answered("192.0.2.9", reachable(70)).await?;
        kernel.until_answered("2001:db8::1", reachable(1024)).await?;
        kernel.until_answered("203.0.113.9", unreachable("no route")).await?;
        kernel.until_answered("10.0.0.1", unreachable("an address of this node")).await?;
        kernel.until_answered("198.51.100.7", unreachable("unreachable 198.51.100.0/24")).await
    })
}

fn answers_follow_the_link(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.track("10.0.0.2");
        kernel.track("fd00::2");
        kernel.track("10.0.1.2");
        for address in ["10.0.0.2", "fd00::2", "10.0.1.2"] {
            kernel.until_answered(address, reachable(0)).await?;
        }
        world.ip("link set eth0 down")?;
        kernel.until_answered("10.0.0.2", unreachable("no route to 10.0.0.2")).await?;
        // The kernel takes an interface's IPv6 addresses away with it.
        kernel.until_answered("fd00::2", unreachable("no route to fd00::2")).await?;
        world.ip("link set eth0 up")?;
        world.ip("-6 address add fd00::1/64 dev eth0")?;
        kernel.until_answered("10.0.0.2", reachable(0)).await?;
        kernel.until_answered("fd00::2", reachable(0)).await?;
        assert_eq!(kernel.answered("10.0.1.2").len(), 1, "the other link was left alone");
        Ok(())
    })
}

fn carrier_loss(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.track("10.0.0.2");
        kernel.announce("10.1.0.0/24", &["10.0.0.2"]);
        kernel.until_installed("10.1.0.0/24").await?;
        kernel.until_answered("10.0.0.2", reachable(0)).await?;
        world.peer.set_link("peer0", false)?;
        kernel.until_answered("10.0.0.2", unreachable("eth0 has no carrier")).await?;
        kernel.until_status("10.1.0.0/24", failed("no carrier")).await?;
        world.peer.set_link("peer0", true)?;
        kernel.until_answered("10.0.0.2", reachable(0)).await?;
        kernel.until_installed("10.1.0.0/24").await?;
        assert_eq!(world.show("10.1.0.0/24")?.len(), 1);
        Ok(())
    })
}

fn resolved_again(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        world.ip("route add 192.0.2.0/24 via 10.0.0.2")?;
        let kernel = Kernel::start(config()).await?;
        kernel.track("192.0.2.9");
        kernel.announce("10.1.0.0/24", &["192.0.2.9"]);
        let first = "10.1.0.0/24 via 10.0.0.2 dev eth0 proto 179 metric 1179";
        let second = "10.1.0.0/24 via 10.0.1.2 dev eth1 proto 179 metric 1179";
        world.until_shown("10.1.0.0/24", &[first]).await?;
        world.ip("route replace 192.0.2.0/24 via 10.0.1.2")?;
        world.until_shown("10.1.0.0/24", &[second]).await?;
        // A longer prefix wins, then goes again.
        world.ip("route add 192.0.2.9/32 via 10.0.0.2")?;
        world.until_shown("10.1.0.0/24", &[first]).await?;
        world.ip("route del 192.0.2.9/32")?;
        world.until_shown("10.1.0.0/24", &[second]).await?;
        // A lower metric wins.
        world.ip("route add 192.0.2.0/24 via 10.0.0.2 metric 5")?;
        pause().await;
        world.until_shown("10.1.0.0/24", &[second]).await?;
        world.ip("route del 192.0.2.0/24 metric 0")?;
        world.until_shown("10.1.0.0/24", &[first]).await?;
        kernel.until_answered("192.0.2.9", reachable(5)).await?;
        world.ip("route del 192.0.2.0/24")?;
        kernel.until_answered("192.0.2.9", unreachable("no route")).await?;
        kernel.until_status("10.1.0.0/24", failed("192.0.2.9 unreachable")).await
    })
}

fn only_covering(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.track("10.0.0.2");
        kernel.until_answered("10.0.0.2", reachable(0)).await?;
        world.ip("route add 192.0.2.0/24 via 10.0.1.2")?;
        world.ip("route add default via 10.0.1.2")?;
        world.ip("address add 10.7.7.7/24 dev eth1")?;
        world.ip("link add pod0 type veth peer name pod1")?;
        world.ip("link set pod0 up")?;
        world.ip("link del pod0")?;
        pause().await;
        assert_eq!(kernel.answered("10.0.0.2").len(), 1);
        world.ip("address add 10.0.0.2/32 dev lo")?;
        kernel.until_answered("10.0.0.2", unreachable("of this node")).await?;
        world.ip("address del 10.0.0.2/32 dev lo")?;
        kernel.until_answered("10.0.0.2", reachable(0)).await
    })
}

fn never_through_our_own(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |_world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.announce("192.0.2.0/24", &["10.0.0.2"]);
        kernel.until_installed("192.0.2.0/24").await?;
        kernel.track("192.0.2.9");
        kernel.until_answered("192.0.2.9", unreachable("no route")).await?;
        kernel.announce("10.1.0.0/24", &["192.0.2.9"]);
        kernel.until_status("10.1.0.0/24", failed("no route to 192.0.2.9")).await
    })
}

fn one_of_several(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, |world| async move {
        let kernel = Kernel::start(config()).await?;
        kernel.announce("10.1.0.0/24", &["10.0.0.2", "10.0.1.2"]);
        kernel.announce("fd01::/64", &["fd00::2", "fd00:0:0:1::2"]);
        kernel.until_installed("10.1.0.0/24").await?;
        kernel.until_installed("fd01::/64").await?;
        world.ip("link set eth0 down")?;
        let four = "10.1.0.0/24 via 10.0.1.2 dev eth1 proto 179 metric 1179";
        let six = "fd01::/64 via fd00:0:0:1::2 dev eth1 proto 179 metric 1179 pref medium";
        world.until_shown("10.1.0.0/24", &[four]).await?;
        world.until_shown("fd01::/64", &[six]).await?;
        world.ip("link set eth0 up")?;
        world.ip("-6 address add fd00::1/64 dev eth0")?;
        let four = "10.1.0.0/24 proto 179 metric 1179 nexthop via 10.0.0.2 dev eth0 weight 1 \
                    nexthop via 10.0.1.2 dev eth1 weight 1";
        let six = "fd01::/64 proto 179 metric 1179 pref medium \
                   nexthop via fd00::2 dev eth0 weight 1 \
                   nexthop via fd00:0:0:1::2 dev eth1 weight 1";
        world.until_shown("10.1.0.0/24", &[four]).await?;
        world.until_shown("fd01::/64", &[six]).await
    })
}
