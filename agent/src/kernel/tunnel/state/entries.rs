//! The entries that lead VXLAN packets: per other node its device's address at a neighbour's, and the
//! node behind that.
//!
//! The neighbour of an IPv4 route is the first address of the node's pod CIDR; the kernel checks no
//! more than that it is none of ours. The neighbour of an IPv6 route is the link-local address made
//! of the device's: of any other the kernel demands that no other route covers it, which the route
//! that is to be replaced does.

use std::net::IpAddr;

use super::super::message::{NeighbourKey, NeighbourValue};
use super::super::{Device, Mac, Neighbour, NoTarget, Operation, TunnelNode};
use super::{CHUNK, DeviceState, Entries, KnownNode, Tunnels, carries};

impl Tunnels {
    /// Takes the entries of all our devices.
    pub(in super::super::super) fn load_entries(&mut self, found: &[Neighbour]) {
        for state in &mut self.devices {
            let of_it = found.iter().filter(|entry| Some(entry.interface) == state.interface);
            state.entries = of_it.map(|entry| (entry.key, entry.value)).collect();
            state.entries_differ = true;
        }
    }

    /// An entry has come, changed or gone; says whether choices may be other ones now.
    pub(in super::super::super) fn entry_event(&mut self, entry: &Neighbour, gone: bool) -> bool {
        let state = self.devices.iter_mut().find(|state| state.interface == Some(entry.interface));
        let Some(state) = state else { return false };
        let wanted = state.entries_wanted.get(&entry.key);
        let before = if gone {
            state.entries.remove(&entry.key)
        } else {
            state.entries.insert(entry.key, entry.value)
        };
        let now = state.entries.get(&entry.key);
        let differs = now != wanted;
        if differs && before.as_ref() == wanted && wanted.is_some() {
            let device = state.device;
            tracing::warn!(%device, key = ?entry.key, "somebody removed or changed an entry");
        }
        state.entries_differ |= differs;
        before.as_ref() != now
    }

    /// The interfaces whose entries are watched.
    pub(in super::super::super) fn watched(&self) -> Vec<u32> {
        let with_entries = self.devices.iter().filter(|state| state.device.has_neighbours());
        with_entries.filter_map(|state| state.interface).collect()
    }

    /// The neighbour of a route to a node, which has its entries.
    pub(super) fn neighbour(
        &self,
        device: Device,
        node: KnownNode<'_>,
        ipv4: bool,
    ) -> Result<IpAddr, NoTarget> {
        let name = &node.node.name;
        let mac = match &self.macs[node.index as usize] {
            Ok(mac) => *mac,
            Err(other) => {
                let reason = format!(
                    "nodes {name} and {other} have the same VXLAN address {}: rename one of them",
                    Mac::of_node(name)
                );
                return Err(NoTarget { reason: reason.into(), withhold: true });
            }
        };
        let Some(underlay) = node.node.underlay(device.over_ipv4()) else {
            let reason = format!("node {name} has no address that {device} can lead to");
            return Err(NoTarget { reason: reason.into(), withhold: true });
        };
        let via = neighbour_of(node.node, mac, ipv4, underlay);
        let entries = &self.devices[device as usize].entries;
        let there = entries.get(&NeighbourKey::Address(via)) == Some(&NeighbourValue::Mac(mac))
            && entries.get(&NeighbourKey::Mac(mac)) == Some(&NeighbourValue::Node(underlay));
        if there {
            Ok(via)
        } else {
            Err(NoTarget::wait(format!("the entries for node {name} on {device} are on their way")))
        }
    }

    /// The entries a device is to have.
    pub(super) fn wanted_entries(&self, device: Device) -> Entries {
        let mut entries = Entries::default();
        if !device.has_neighbours() {
            return entries;
        }
        let before = self.before.as_ref().map(|(before, _)| before);
        let carried = [true, false].map(|ipv4| {
            carries(&self.config, device, ipv4)
                || before.is_some_and(|before| carries(before, device, ipv4))
        });
        if carried == [false; 2] {
            return entries;
        }
        for (node, mac) in self.config.nodes.iter().zip(&self.macs) {
            let (Ok(mac), Some(underlay)) = (mac, node.underlay(device.over_ipv4())) else {
                continue;
            };
            entries.insert(NeighbourKey::Mac(*mac), NeighbourValue::Node(underlay));
            for ipv4 in [true, false] {
                if carried[usize::from(!ipv4)] {
                    let via = neighbour_of(node, *mac, ipv4, underlay);
                    entries.insert(NeighbourKey::Address(via), NeighbourValue::Mac(*mac));
                }
            }
        }
        entries
    }
}

impl DeviceState {
    /// Appends what the entries lack, and, where that may be, what they have too many.
    pub(super) fn entry_operations(
        &mut self,
        interface: u32,
        may_remove: bool,
        operations: &mut Vec<Operation>,
    ) {
        let device = self.device;
        let mut left = false;
        let entry = |(key, value): (&NeighbourKey, &NeighbourValue)| Neighbour {
            interface,
            key: *key,
            value: *value,
        };
        let missing =
            self.entries_wanted.iter().filter(|(key, value)| self.entries.get(key) != Some(*value));
        for neighbour in missing.map(entry) {
            if operations.len() >= CHUNK {
                return;
            }
            operations.push(Operation::PutNeighbour { device, neighbour });
        }
        let surplus = self.entries.iter().filter(|(key, value)| {
            // What the kernel makes by itself for multicast is no permanent entry.
            !self.entries_wanted.contains_key(key) && **value != NeighbourValue::Other
        });
        for neighbour in surplus.map(entry) {
            if operations.len() >= CHUNK {
                return;
            }
            left |= !may_remove;
            if may_remove {
                operations.push(Operation::RemoveNeighbour { device, neighbour });
            }
        }
        self.entries_differ = left;
    }

    pub(super) fn put_entry(&mut self, entry: &Neighbour) {
        if self.interface == Some(entry.interface) {
            self.entries.insert(entry.key, entry.value);
        }
    }

    pub(super) fn drop_entry(&mut self, entry: &Neighbour) {
        if self.interface == Some(entry.interface) {
            self.entries.remove(&entry.key);
        }
    }
}

/// By which neighbour a node is reached inside the tunnel.
fn neighbour_of(node: &TunnelNode, mac: Mac, ipv4: bool, underlay: IpAddr) -> IpAddr {
    let link_local = IpAddr::V6(mac.link_local());
    if !ipv4 {
        return link_local;
    }
    let own = node.inner_address(true);
    own.unwrap_or(if underlay.is_ipv4() { underlay } else { link_local })
}
