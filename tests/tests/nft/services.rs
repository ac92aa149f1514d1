//! Packets that are forwarded to an advertised service address which no service claims.

use routelet::nft::{Claim, FirewallConfig, Services};
use routelet_tests::harness::Case;
use routelet_tests::scene::Scene;

use super::world::{Ear, config, inside, ip, nets, send_udp};

pub const CASES: &[Case] = &[("services::nobodys_addresses", nobodys_addresses)];

const PORT: u16 = 5353;

fn nobodys_addresses(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        world.route_back()?;
        // The range leads back out, as the default route of a node does; that is the loop.
        world.beside.add_address("lo", "198.51.100.7/32".parse()?)?;
        let loops = Ear::udp(&world.beside, "198.51.100.7", PORT)?;
        let pod = Ear::udp(&world.pod, "10.244.1.2", PORT)?;
        world.nft(
            "table ip proxy { chain pre { type nat hook prerouting priority dstnat;
                ip daddr 198.51.100.1 udp dport 5353 dnat to 10.244.1.2 } }",
        )?;
        world.beside.add_route(
            "198.51.100.1/32".parse()?,
            routelet::lab::netns::Via::Gateway(ip("192.0.2.1")),
        )?;
        let services = |claimed: &[Claim]| FirewallConfig {
            services: Services {
                ranges: nets("198.51.100.0/24"),
                claimed: claimed.iter().copied().collect(),
            },
            ..config()
        };
        let firewall = world.start(config()).await?;
        send_udp(&world.pod, "10.244.1.2", "198.51.100.7", PORT, b"x")?;
        loops.must_hear("10.244.1.2")?;
        firewall.apply(services(&[])).await;
        assert!(firewall.status().await.services.contains("198.51.100.0/24"), "in the status");
        send_udp(&world.pod, "10.244.1.2", "198.51.100.7", PORT, b"x")?;
        loops.must_not_hear()?;
        assert_eq!(world.counted("services: no service claims this address")?, 1);
        // After DNAT it is a pod's address.
        send_udp(&world.beside, "192.0.2.2", "198.51.100.1", PORT, b"x")?;
        pod.must_hear("192.0.2.2")?;
        // What a service claims is let through, by port or whole.
        for (port, comes) in [(Some((17, PORT)), true), (Some((17, 1)), false), (None, true)] {
            firewall.apply(services(&[Claim { address: ip("198.51.100.7"), port }])).await;
            send_udp(&world.pod, "10.244.1.2", "198.51.100.7", PORT, b"x")?;
            if comes {
                loops.must_hear("10.244.1.2")?;
            } else {
                loops.must_not_hear()?;
            }
        }
        Ok(())
    })
}
