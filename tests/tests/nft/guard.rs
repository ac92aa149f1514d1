//! Only known nodes may send us tunnel packets, and pods may send none.

use routelet::nft::{FirewallConfig, Tunnels};
use routelet_tests::harness::{self, Case};
use routelet_tests::scene::{Scene, pings};

use super::world::{Ear, addresses, config, inside, ip, run, send_ipip, send_udp};

pub const CASES: &[Case] = &[
    ("guard::ipip", ipip),
    ("guard::vxlan", vxlan),
    ("guard::vxlan_device", vxlan_device),
    ("guard::five_thousand_nodes", five_thousand_nodes),
];

const PORT: u16 = 4789;
const VNI: u32 = 4096;

fn guarded(ipip: bool) -> FirewallConfig {
    let vxlan = (!ipip).then_some((PORT, VNI));
    FirewallConfig { tunnels: Tunnels { ipip, vxlan }, ..config() }
}

/// A VXLAN header with nothing behind it.
fn header(vni: u32) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), &[0; 14]].concat()
}

fn ipip(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        let here = Ear::ipip(&world.node)?;
        let there = Ear::ipip(&world.beside)?;
        world.route_back()?;
        let firewall = world.start(guarded(true)).await?;
        assert!(firewall.status().await.guard.contains("IP-in-IP"), "the status says so");
        send_ipip(&world.beside, "192.0.2.9", "192.0.2.1")?;
        here.must_not_hear()?;
        assert_eq!(world.counted("guard: IP-in-IP from other than a known node")?, 1);
        send_ipip(&world.beside, "192.0.2.2", "192.0.2.1")?;
        here.must_hear("192.0.2.2")?;
        // A pod, to its own node and to another.
        send_ipip(&world.pod, "10.244.1.2", "192.0.2.1")?;
        here.must_not_hear()?;
        send_ipip(&world.pod, "10.244.1.2", "192.0.2.2")?;
        there.must_not_hear()?;
        assert_eq!(world.counted("guard: IP-in-IP from a pod")?, 1);
        // What the pod may send still goes.
        pings(&world.pod, ip("192.0.2.2"))?;
        // The node itself may, of course.
        send_ipip(&world.node, "192.0.2.1", "192.0.2.2")?;
        there.must_hear("192.0.2.1")?;
        // Switched off, everything arrives: the tests above could fail.
        firewall.apply(FirewallConfig { guard: false, ..guarded(true) }).await;
        assert_eq!(world.table(), "", "nothing is left of the table");
        send_ipip(&world.beside, "192.0.2.9", "192.0.2.1")?;
        here.must_hear("192.0.2.9")?;
        send_ipip(&world.pod, "10.244.1.2", "192.0.2.2")?;
        there.must_hear("10.244.1.2")?;
        assert!(firewall.status().await.guard.contains("tunnels.guard"), "the status says so");
        Ok(())
    })
}

fn vxlan(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        world.route_back()?;
        let families = [
            ("192.0.2.1", "192.0.2.2", "192.0.2.9", "10.244.1.2"),
            ("2001:db8::1", "2001:db8::2", "2001:db8::9", "fd44:1::2"),
        ];
        let firewall = world.start(guarded(false)).await?;
        for (own, node, stranger, pod) in families {
            let here = Ear::udp(&world.node, own, PORT)?;
            let there = Ear::udp(&world.beside, node, PORT)?;
            send_udp(&world.beside, stranger, own, PORT, &header(VNI))?;
            here.must_not_hear()?;
            send_udp(&world.beside, node, own, PORT, &header(VNI))?;
            here.must_hear(node)?;
            send_udp(&world.pod, pod, own, PORT, &header(VNI))?;
            here.must_not_hear()?;
            send_udp(&world.pod, pod, node, PORT, &header(VNI))?;
            there.must_not_hear()?;
            // Somebody else's network on the same port is none of our business.
            send_udp(&world.beside, stranger, own, PORT, &header(1))?;
            here.must_hear(stranger)?;
        }
        firewall.apply(FirewallConfig { guard: false, ..guarded(false) }).await;
        for (own, _, stranger, _) in families {
            let here = Ear::udp(&world.node, own, PORT)?;
            send_udp(&world.beside, stranger, own, PORT, &header(VNI))?;
            here.must_hear(stranger)?;
        }
        Ok(())
    })
}

fn vxlan_device(scene: &Scene) -> anyhow::Result<()> {
    harness::program("ip", "iproute2")?;
    inside(scene, async |world| {
        for (netns, local, remote, inner) in [
            (&world.node, "192.0.2.1", "192.0.2.2", "10.9.9.1/24"),
            (&world.beside, "192.0.2.2", "192.0.2.1", "10.9.9.2/24"),
        ] {
            run(
                netns,
                &format!(
                    "ip link add vx type vxlan id {VNI} local {local} remote {remote} dstport {PORT}"
                ),
            )?;
            netns.set_link("vx", true)?;
            netns.add_address("vx", inner.parse()?)?;
        }
        let firewall = world.start(guarded(false)).await?;
        pings(&world.beside, ip("10.9.9.1"))?;
        let nodes = addresses("192.0.2.3");
        firewall.apply(FirewallConfig { node_addresses: nodes, ..guarded(false) }).await;
        assert!(pings(&world.beside, ip("10.9.9.1")).is_err(), "a removed node still gets in");
        firewall.apply(guarded(false)).await;
        pings(&world.beside, ip("10.9.9.1"))
    })
}

fn five_thousand_nodes(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        let mut nodes = addresses("192.0.2.2 2001:db8::2");
        for number in 0..5000_u32 {
            nodes.insert(std::net::Ipv4Addr::from(0x0a00_0000 + number).into());
            nodes
                .insert(std::net::Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(number)).into());
        }
        let firewall = world
            .start(FirewallConfig {
                node_addresses: nodes,
                tunnels: Tunnels { ipip: true, vxlan: Some((PORT, VNI)) },
                ..config()
            })
            .await?;
        let table = world.table();
        for element in ["10.0.19.135", "fd00::1387", "192.0.2.2"] {
            assert!(table.contains(element), "{element} is missing");
        }
        firewall.stop(true).await;
        assert_eq!(world.table(), "");
        Ok(())
    })
}
