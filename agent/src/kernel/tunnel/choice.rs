//! By which way packets travel: decided per next hop and what the prefix's pool asks for.
//!
//! In flow: what is asked, a next hop, how the kernel resolves it, the state of the devices. Out
//! flow: a [`Choice`], with the reason in words.
//!
//! What always holds: a next hop that is no address of a known node is forwarded to plainly, in
//! mode Always too; one that needs a tunnel is never forwarded to plainly. Whether a next hop is on
//! our link is what the kernel's routes say, never guessed from the length of a prefix.

use std::net::IpAddr;

use ipnet::IpNet;
use routelet_bgp::core::forwarding::ForwardingNextHop;
use smallvec::smallvec;

use super::super::route::{Hop, Hops};
use super::super::topology::Resolution;
use super::state::Tunnels;
use super::{Device, Encapsulation, NoTarget, TunnelMode};

/// What is asked for a prefix. Next-hop sets are shared by the routes that ask for the same.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(in super::super) enum Asked {
    /// No tunnel.
    #[default]
    Nothing,
    Tunnel {
        encapsulation: Encapsulation,
        mode: TunnelMode,
        /// Whether the prefix is IPv4: what is inside the tunnel has addresses of its own.
        ipv4: bool,
    },
}

/// How packets get to a next hop.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) struct Way {
    pub hops: Hops,
    /// Preferred source of the route; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
}

/// The decision about one next hop.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) enum Choice {
    /// As the kernel's routes have it.
    Plain { way: Way, why: String },
    /// Through a device of ours.
    Tunnel { device: Device, way: Way, why: String },
    /// Not at all.
    No(NoTarget),
}

impl Choice {
    /// How packets are wrapped.
    pub(in super::super) fn encapsulation(&self) -> Option<Encapsulation> {
        match self {
            Self::Tunnel { device, .. } => Some(device.encapsulation()),
            Self::Plain { .. } | Self::No(_) => None,
        }
    }

    /// The decision and its reason.
    pub(in super::super) fn words(&self) -> String {
        match self {
            Self::Plain { why, .. } => format!("none: {why}"),
            Self::Tunnel { device, why, .. } => {
                format!("{} by {device}: {why}", device.encapsulation())
            }
            Self::No(no) => format!("not installed: {}", no.reason),
        }
    }

    /// Where packets go, whatever the reason.
    pub(in super::super) fn way(self) -> Result<Way, NoTarget> {
        match self {
            Self::Plain { way, .. } | Self::Tunnel { way, .. } => Ok(way),
            Self::No(no) => Err(no),
        }
    }
}

impl Tunnels {
    /// What the pool of a prefix asks for.
    pub(in super::super) fn asked_for(&self, prefix: &IpNet) -> Asked {
        match self.config().pool_of(prefix).and_then(|pool| pool.asks) {
            Some((encapsulation, mode)) => {
                Asked::Tunnel { encapsulation, mode, ipv4: prefix.addr().is_ipv4() }
            }
            None => Asked::Nothing,
        }
    }

    /// Decides about one next hop.
    pub(in super::super) fn choose(
        &self,
        asked: Asked,
        next_hop: &ForwardingNextHop,
        resolution: &Resolution,
    ) -> Choice {
        let address = next_hop.address;
        let (hops, metric, how) = match resolution {
            Resolution::Reachable { hops, metric, how } => (hops, *metric, how),
            Resolution::Unreachable(why) => {
                let reason = format!("next hop {address} unreachable: {why}");
                return Choice::No(NoTarget::wait(reason));
            }
        };
        let plain =
            |why: String| Choice::Plain { way: Way { hops: hops.clone(), source: None }, why };
        let Asked::Tunnel { encapsulation, mode, ipv4 } = asked else {
            return plain("no pool asks for a tunnel".to_owned());
        };
        let asks = format!("the pool asks for {encapsulation} {mode}");
        let Some(node) = self.node_at(address) else {
            return plain(format!("{asks}, but {address} is no address of a known node"));
        };
        if mode == TunnelMode::CrossSubnet && metric == 0 {
            return plain(format!("{asks}, and {address} is {how}"));
        }
        let device = match (encapsulation, address.is_ipv4()) {
            (Encapsulation::IpIp, true) => Device::IpIp,
            (Encapsulation::IpIp, false) => {
                let reason = format!(
                    "{asks}, but the next hop {address} is IPv6, which IP-in-IP cannot lead to"
                );
                return Choice::No(NoTarget { reason: reason.into(), withhold: true });
            }
            (Encapsulation::Vxlan, true) => Device::Vxlan,
            (Encapsulation::Vxlan, false) => Device::Vxlan6,
        };
        match self.way(device, node, address, ipv4) {
            Ok((interface, via, source)) => {
                let hop = Hop { via: Some(via), interface, onlink: true, hops: 0 };
                let why = match mode {
                    TunnelMode::Always => format!("{asks}, and {address} is node {}", node.name()),
                    TunnelMode::CrossSubnet => format!(
                        "{asks}, and node {} is behind a gateway: {address} is reached {how}",
                        node.name()
                    ),
                };
                Choice::Tunnel { device, way: Way { hops: smallvec![hop], source }, why }
            }
            Err(no) => Choice::No(no),
        }
    }
}
