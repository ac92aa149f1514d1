//! natOutgoing: packets of pods that leave the pools get the node's address.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use routelet::nft::FirewallConfig;
use routelet_tests::harness::Case;
use routelet_tests::scene::Scene;

use super::world::{Ear, World, config, inside, ip, nets, send_udp};

pub const CASES: &[Case] = &[
    ("nat::outside_of_the_pools", outside_of_the_pools),
    ("nat::connections_survive_a_replacement", connections_survive_a_replacement),
    ("nat::behind_a_service", behind_a_service),
];

const PORT: u16 = 5353;

fn natted() -> FirewallConfig {
    FirewallConfig { nat: nets("10.244.0.0/16 fd44::/16"), ..config() }
}

/// Sends from there to there and says which source arrives.
fn source(world: &World, from_pod: bool, from: &str, to: &str) -> anyhow::Result<String> {
    let ear = Ear::udp(&world.beside, to, PORT)?;
    send_udp(if from_pod { &world.pod } else { &world.node }, from, to, PORT, b"x")?;
    let heard = ear.hears(Duration::from_secs(10))?;
    Ok(heard.map_or("nothing".to_owned(), |from| from.to_string()))
}

fn outside_of_the_pools(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        let families = [
            ("10.244.1.2", "192.0.2.1", "203.0.113.9", "10.244.2.2"),
            ("fd44:1::2", "2001:db8::1", "fd99::9", "fd44:2::2"),
        ];
        let firewall = world.start(natted()).await?;
        for (pod, node, outside, other_pod) in families {
            assert_eq!(source(&world, true, pod, outside)?, node, "to the outside");
            assert_eq!(source(&world, true, pod, other_pod)?, pod, "to another node's pod");
            assert_eq!(source(&world, false, node, outside)?, node, "from the node itself");
        }
        // As Calico has it, another node's own address is outside of the pools.
        assert_eq!(source(&world, true, "10.244.1.2", "192.0.2.2")?, "192.0.2.1");
        // The node itself sees its pod's address.
        let ear = Ear::udp(&world.node, "192.0.2.1", PORT)?;
        send_udp(&world.pod, "10.244.1.2", "192.0.2.1", PORT, b"x")?;
        ear.must_hear("10.244.1.2")?;
        // Without the pool nothing is changed.
        firewall.apply(config()).await;
        for (pod, _, outside, _) in families {
            assert_eq!(source(&world, true, pod, outside)?, pod, "without NAT");
        }
        Ok(())
    })
}

fn connections_survive_a_replacement(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        let firewall = world.start(natted()).await?;
        let listener = world.beside.run(|| TcpListener::bind("203.0.113.9:8080"))?;
        let mut client = world.pod.run(|| TcpStream::connect("203.0.113.9:8080"))?;
        let (mut server, from) = listener.accept()?;
        assert_eq!(from.ip(), ip("192.0.2.1"));
        for round in 0..5_u8 {
            // Each of these replaces the whole table.
            let more = nets(&format!("10.99.{round}.0/24"));
            let pods = [natted().pods, more].concat();
            firewall.apply(FirewallConfig { pods, ..natted() }).await;
            ensure!(world.table().contains(&format!("10.99.{round}.0/24")), "not replaced");
            let mut octet = [0];
            client.write_all(&[round])?;
            server.read_exact(&mut octet)?;
            server.write_all(&octet)?;
            client.read_exact(&mut octet)?;
            assert_eq!(octet, [round]);
        }
        Ok(())
    })
}

/// A service address that becomes a pod's: the other pod sees who asks. One that kube-proxy marks to be
/// masqueraded stays its business.
fn behind_a_service(scene: &Scene) -> anyhow::Result<()> {
    inside(scene, async |world| {
        world.nft(
            "table ip proxy {
                chain pre { type nat hook prerouting priority dstnat;
                    ip daddr 198.51.100.1 udp dport 5353 dnat to 10.244.2.2
                    ip daddr 198.51.100.2 udp dport 5353 meta mark set 0x4000 dnat to 10.244.2.2 }
                chain post { type nat hook postrouting priority srcnat; meta mark 0x4000 masquerade }
            }",
        )?;
        let _firewall = world.start(natted()).await?;
        for (service, seen) in [("198.51.100.1", "10.244.1.2"), ("198.51.100.2", "192.0.2.1")] {
            let ear = Ear::udp(&world.beside, "10.244.2.2", PORT)?;
            send_udp(&world.pod, "10.244.1.2", service, PORT, b"x")?;
            ear.must_hear(seen)?;
        }
        Ok(())
    })
}
