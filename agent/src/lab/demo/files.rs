//! How packets travel in the demonstration, and the configurations that follow from it.

use std::fmt::Write as _;

use anyhow::Context;
use rtnetlink::{LinkIpIp, LinkVxlan};

use super::super::netns::Netns;

/// Name, subnet and number of each node.
pub(super) const NODES: [(&str, u8, u8); 3] =
    [("node-a", 1, 1), ("node-b", 1, 2), ("node-c", 2, 3)];

/// How packets between pods of different subnets travel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// In IPv4 packets between the nodes (RFC 2003).
    IpIp,
    /// In UDP packets between the nodes (RFC 7348).
    Vxlan,
    /// As they are: the router between the subnets is told where the pods are.
    Router,
}

/// The ways of both families: the best that the kernel has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ways {
    /// For IPv4 pods.
    pub v4: Way,
    /// For IPv6 pods.
    pub v6: Way,
}

impl Ways {
    /// Asks the kernel what it has, in a namespace of its own.
    ///
    /// # Errors
    /// If that cannot be made.
    pub fn probe() -> anyhow::Result<Self> {
        let scratch = Netns::new("probe").context("cannot see which tunnels the kernel has")?;
        let local = std::net::Ipv4Addr::new(192, 0, 2, 1);
        let ipip = LinkIpIp::new("probe4").local(local).build();
        let vxlan = LinkVxlan::new("probev", 4096).port(4789).build();
        let [ipip, vxlan] = [ipip, vxlan].map(|link| {
            scratch.netlink(
                |handle| async move { Ok(handle.link().add(link).execute().await.is_ok()) },
            )
        });
        let (ipip, vxlan) = (ipip?, vxlan?);
        let v6 = if vxlan { Way::Vxlan } else { Way::Router };
        Ok(Self { v4: if ipip { Way::IpIp } else { v6 }, v6 })
    }

    /// Of a family.
    #[must_use]
    pub fn of(self, ipv4: bool) -> Way {
        if ipv4 { self.v4 } else { self.v6 }
    }

    /// Which it is, for the reader.
    pub(super) fn words(self) -> String {
        let tunnelled = "; the ToR knows no pod routes";
        match (self.v4, self.v6) {
            (Way::IpIp, Way::Vxlan) => {
                format!(
                    "pods in different subnets: IPv4 through IP-in-IP, IPv6 through VXLAN{tunnelled}"
                )
            }
            (Way::IpIp, _) => {
                "pods in different subnets: IPv4 through IP-in-IP; this kernel has no \
                               VXLAN, so the ToR forwards IPv6 and is told where the pods are"
                    .to_owned()
            }
            (Way::Vxlan, _) => format!(
                "pods in different subnets: through VXLAN, as this kernel has no IP-in-IP{tunnelled}"
            ),
            (Way::Router, _) => {
                "pods in different subnets: through the ToR, which is told where they \
                                 are, as this kernel has neither IP-in-IP nor VXLAN"
                    .to_owned()
            }
        }
    }

    /// Keys of a pool whose packets travel so. What leaves the pools is given the node's address where
    /// the ToR could not answer the pod.
    fn keys(way: Way) -> &'static str {
        match way {
            Way::IpIp => ", ipipMode: CrossSubnet, natOutgoing: true",
            Way::Vxlan => ", vxlanMode: CrossSubnet, natOutgoing: true",
            Way::Router => "",
        }
    }
}

/// The node itself, as both `node:` and an entry of `nodes:` have it.
fn words(name: &str, subnet: u8, number: u8) -> String {
    let host = 10 + number;
    format!(
        "{{name: {name}, addresses: [172.30.{subnet}.{host}/24, 'fd30:0:0:{subnet}::{host}/64'], \
         podCIDRs: [10.244.{number}.0/24, 'fd44:0:0:{number}::/64']}}"
    )
}

/// The configuration of a node.
pub(super) fn node(name: &str, subnet: u8, number: u8, ways: Ways, repair: bool) -> String {
    let mut others = String::new();
    for (other, subnet, number) in NODES.iter().filter(|(other, ..)| *other != name) {
        let _ = writeln!(others, "  - {}", words(other, *subnet, *number));
    }
    format!(
        "node: {}
bgp: {{asNumber: 64512, nodeToNodeMeshEnabled: true}}
nodes:
{others}peers:
  - {{name: tor, peerIP: 172.30.{subnet}.1, asNumber: 65001, filters: [servers]}}
filters:
  - name: servers
    importV4: [{{action: Accept, cidr: 198.51.100.0/24, matchOperator: Equal}}]
    importV6: [{{action: Accept, cidr: '2001:db8:100::/64', matchOperator: Equal}}]
pools:
  - {{name: pods, cidr: 10.244.0.0/16{}}}
  - {{name: pods6, cidr: 'fd44::/48'{}}}
kernel: {{enabled: true, repair: {repair}}}
",
        words(name, subnet, number),
        Ways::keys(ways.v4),
        Ways::keys(ways.v6),
    )
}

/// The configuration of the ToR: the default policy takes from the nodes what lies in its pools.
pub(super) fn tor(ways: Ways, repair: bool) -> String {
    let mut peers = String::new();
    for (name, subnet, number) in NODES {
        let _ = writeln!(
            peers,
            "  - {{name: {name}, peerIP: 172.30.{subnet}.{}, asNumber: 64512}}",
            10 + number
        );
    }
    let pools = [(ways.v4, "pods, cidr: 10.244.0.0/16"), (ways.v6, "pods6, cidr: 'fd44::/48'")];
    let pools: String = pools
        .iter()
        .filter(|(way, _)| *way == Way::Router)
        .map(|(_, words)| format!("  - {{name: {words}}}\n"))
        .collect();
    format!(
        "node:
  name: tor
  addresses: [172.30.1.1/24, 172.30.2.1/24, 'fd30:0:0:1::1/64', 'fd30:0:0:2::1/64']
  podCIDRs: [198.51.100.0/24, '2001:db8:100::/64']
bgp: {{asNumber: 65001, nodeToNodeMeshEnabled: false}}
peers:
{peers}pools:
{pools}  - {{name: servers, cidr: 198.51.100.0/24}}
  - {{name: servers6, cidr: '2001:db8:100::/64'}}
kernel: {{enabled: true, repair: {repair}}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn every_way_makes_valid_configurations() {
        let no_secrets = |_: &std::path::Path| Err("none".to_owned());
        for v4 in [Way::IpIp, Way::Vxlan, Way::Router] {
            for v6 in [Way::Vxlan, Way::Router] {
                let ways = Ways { v4, v6 };
                assert!(!ways.words().is_empty());
                let mut texts = vec![tor(ways, true)];
                texts.extend(
                    NODES.map(|(name, subnet, number)| node(name, subnet, number, ways, false)),
                );
                for text in texts {
                    let config = config::parse("lab", &text, None, &no_secrets);
                    let config = config.unwrap_or_else(|error| panic!("{error}\n{text}"));
                    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
                }
            }
        }
    }
}
