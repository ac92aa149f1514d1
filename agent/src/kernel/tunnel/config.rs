//! What the configuration says about tunnels.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Device;
use super::state::needed;

/// How packets are wrapped.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Encapsulation {
    /// IPv4 in IPv4 (RFC 2003).
    IpIp,
    /// Ethernet in UDP (RFC 7348), over IPv4 or IPv6.
    Vxlan,
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IpIp => "IP-in-IP",
            Self::Vxlan => "VXLAN",
        })
    }
}

/// When packets to a node are wrapped.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TunnelMode {
    /// To every node.
    Always,
    /// To nodes that the kernel reaches through a gateway.
    CrossSubnet,
}

impl fmt::Display for TunnelMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "Always",
            Self::CrossSubnet => "CrossSubnet",
        })
    }
}

/// A prefix of the cluster's pods, and how packets to it travel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TunnelPool {
    /// Its name.
    pub name: String,
    /// Its prefix; pools are apart from each other.
    pub cidr: IpNet,
    /// The tunnel it asks for; `None`: none.
    pub asks: Option<(Encapsulation, TunnelMode)>,
}

impl TunnelPool {
    /// What it asks for, in words.
    #[must_use]
    pub fn asked(&self) -> String {
        self.asks.map_or_else(|| "Never".to_owned(), |(what, mode)| format!("{what} {mode}"))
    }
}

/// A node of the cluster, as far as tunnels are concerned.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TunnelNode {
    /// Its name: the address of its VXLAN device is derived from it.
    pub name: String,
    /// Its addresses; outer packets go to the first of their family.
    pub addresses: Vec<IpAddr>,
    /// Its pod CIDRs; the first address of the first one of a family is that of its tunnel devices.
    pub pod_cidrs: Vec<IpNet>,
}

impl TunnelNode {
    /// The address that tunnels over this family begin and end at.
    #[must_use]
    pub fn underlay(&self, ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == ipv4)
    }

    /// The address of its tunnel devices: the first of its first pod CIDR of the family, which
    /// pods never have. A CIDR of a single address has none to spare.
    #[must_use]
    pub fn inner_address(&self, ipv4: bool) -> Option<IpAddr> {
        let usable = |cidr: &&IpNet| {
            cidr.addr().is_ipv4() == ipv4 && cidr.prefix_len() < cidr.max_prefix_len()
        };
        self.pod_cidrs.iter().find(usable).map(IpNet::network)
    }
}

/// Everything about tunnels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TunnelConfig {
    /// All pools, those that ask for no tunnel too.
    pub pools: Vec<TunnelPool>,
    /// This node.
    pub node: TunnelNode,
    /// The other nodes of the cluster: tunnels lead to these only, and only these may send us
    /// wrapped packets.
    pub nodes: Vec<TunnelNode>,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// VXLAN network identifier, 24 bits.
    pub vxlan_vni: u32,
    /// MTU of the tunnel devices, octets; `None`: that of the link below less the outer headers.
    pub mtu: Option<u32>,
    /// Whether wrapped packets are taken from known nodes only, and from no pod.
    pub guard: bool,
}

impl Default for TunnelConfig {
    fn default() -> Self {
        Self {
            pools: Vec::new(),
            node: TunnelNode::default(),
            nodes: Vec::new(),
            vxlan_port: 4789,
            vxlan_vni: 4096,
            mtu: None,
            guard: true,
        }
    }
}

impl TunnelConfig {
    /// Whether a pool asks for this encapsulation.
    #[must_use]
    pub fn uses(&self, encapsulation: Encapsulation) -> bool {
        self.asked_of(encapsulation).next().is_some()
    }

    /// The addresses of all other nodes.
    pub fn known_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.iter().flat_map(|node| node.addresses.iter().copied())
    }

    /// The pool that a prefix lies in.
    #[must_use]
    pub fn pool_of(&self, prefix: &IpNet) -> Option<&TunnelPool> {
        self.pools.iter().find(|pool| pool.cidr.contains(prefix))
    }

    /// Octets that the tunnels of all pools add to a packet at most.
    #[must_use]
    pub fn overhead(&self) -> u32 {
        let devices = Device::ALL.into_iter().filter(|device| needed(self, *device));
        devices.map(Device::overhead).max().unwrap_or(0)
    }

    /// The pools that ask for this encapsulation.
    pub(in super::super) fn asked_of(
        &self,
        encapsulation: Encapsulation,
    ) -> impl Iterator<Item = &TunnelPool> {
        self.pools
            .iter()
            .filter(move |pool| pool.asks.is_some_and(|(asked, _)| asked == encapsulation))
    }
}
