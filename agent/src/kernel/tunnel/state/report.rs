//! What the tunnels say about themselves.

use std::net::IpAddr;

use super::super::super::topology::Topology;
use super::super::{Device, Encapsulation};
use super::{Readiness, Tunnels};

/// A tunnel device, for `routelet status`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TunnelStatus {
    /// Its name.
    pub device: String,
    /// How it wraps packets.
    pub encapsulation: Encapsulation,
    /// Whether routes lead over it; `Err`: why not.
    pub ready: Result<(), String>,
    /// Whether routes that need it are held back until it is ready.
    pub withholds: bool,
    /// Where outer packets come from.
    pub local: Option<IpAddr>,
    /// Octets of the largest packet it takes; 0 where it is not there.
    pub mtu: u32,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Nodes it can lead to.
    pub nodes: usize,
}

impl Tunnels {
    /// The devices that are needed, or there.
    pub(in super::super::super) fn status(&self, topology: &Topology) -> Vec<TunnelStatus> {
        let shown =
            self.devices.iter().filter(|state| state.want.is_some() || state.interface.is_some());
        let status = shown.map(|state| {
            let device = state.device;
            let link = state.interface.and_then(|interface| topology.link_at(interface));
            let ready = match (&state.want, &state.readiness) {
                (None, _) => Err("not needed any more, kept for a while".to_owned()),
                (_, Readiness::Ready { .. }) => Ok(()),
                (_, Readiness::Not(no)) => Err(no.reason.to_string()),
            };
            let withholds = state.want.is_some()
                && matches!(&state.readiness, Readiness::Not(no) if no.withhold);
            let over_ipv4 = device.over_ipv4();
            let reachable = self.config.nodes.iter().zip(&self.macs).filter(|(node, mac)| {
                node.underlay(over_ipv4).is_some() && (mac.is_ok() || device == Device::IpIp)
            });
            let nodes = reachable.count();
            TunnelStatus {
                device: device.name().to_owned(),
                encapsulation: device.encapsulation(),
                ready,
                withholds: withholds && nodes > 0,
                local: self.config.node.underlay(over_ipv4),
                mtu: link.map_or(0, |link| link.mtu),
                addresses: link.map_or_else(Vec::new, |link| topology.addresses_on(link.index)),
                nodes,
            }
        });
        status.collect()
    }

    /// What is wrong, in words with the fix.
    pub(in super::super::super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut clash = false;
        for state in &self.devices {
            if state.want.is_none() {
                continue;
            }
            clash |= state.device.has_neighbours();
            match (&state.failure, &state.readiness) {
                (Some(failure), _) => problems.push(failure.clone()),
                (None, Readiness::Not(no)) if no.withhold => {
                    problems.push(format!("{}: {}", state.device, no.reason));
                }
                _ => {}
            }
        }
        if clash {
            for (node, mac) in self.config.nodes.iter().zip(&self.macs) {
                if let Err(other) = mac {
                    problems.push(format!(
                        "nodes {} and {other} have the same VXLAN address: rename one of them",
                        node.name
                    ));
                }
            }
        }
        problems.extend(self.filter_problems.values().cloned());
        problems
    }
}
