//! Topologies: hosts, the local networks between them, and pods on them.
//!
//! In flow: names and prefixes. Out flow: namespaces connected by devices. A [`Lan`] is a bridge in
//! a namespace of its own, so that any number of hosts share a subnet as on a switch; a pod is
//! attached as the `ptp` CNI plugin does it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use ipnet::IpNet;

use super::netns::{Netns, Via};

/// Makes namespaces whose names share a prefix, so that several topologies live beside each other.
#[derive(Clone, Debug)]
pub struct Network {
    prefix: String,
}

impl Network {
    /// A topology whose namespaces are called `prefix` followed by their own name.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// A machine without devices.
    ///
    /// # Errors
    /// Those of [`Netns::new`].
    pub fn host(&self, name: &str) -> anyhow::Result<Netns> {
        Netns::new(&format!("{}{name}", self.prefix))
    }

    /// A machine that forwards packets.
    ///
    /// # Errors
    /// Those of [`Netns::new`].
    pub fn router(&self, name: &str) -> anyhow::Result<Netns> {
        let netns = self.host(name)?;
        netns.forward()?;
        Ok(netns)
    }

    /// A switch.
    ///
    /// # Errors
    /// Those of [`Netns::new`].
    pub fn lan(&self, name: &str) -> anyhow::Result<Lan> {
        let switch = self.host(name)?;
        switch.bridge("br0")?;
        Ok(Lan { switch, ports: AtomicUsize::new(0) })
    }
}

/// A local network.
#[derive(Debug)]
pub struct Lan {
    switch: Netns,
    ports: AtomicUsize,
}

impl Lan {
    /// Plugs `device` of `host` in and gives it addresses.
    ///
    /// # Errors
    /// If the host has such a device already.
    pub fn attach(&self, host: &Netns, device: &str, addresses: &[IpNet]) -> anyhow::Result<()> {
        let port = format!("port{}", self.ports.fetch_add(1, Ordering::Relaxed));
        self.switch.veth(&port, host, device)?;
        self.switch.enslave(&port, "br0")?;
        addresses.iter().try_for_each(|address| host.add_address(device, *address))
    }

    /// The namespace of its bridge `br0`, to break things in.
    #[must_use]
    pub fn switch(&self) -> &Netns {
        &self.switch
    }
}

/// Attaches a pod to a node: `device` on the node, `eth0` in the pod. Of each pod CIDR the node gets
/// the first address and the pod the second, both as host routes, as the `ptp` plugin does.
/// Gives the pod's addresses.
///
/// # Errors
/// If a CIDR has no room for two addresses, or the device exists.
pub fn attach_pod(
    node: &Netns,
    device: &str,
    pod: &Netns,
    cidrs: &[IpNet],
) -> anyhow::Result<Vec<IpAddr>> {
    node.veth(device, pod, "eth0")?;
    let mut addresses = Vec::new();
    for cidr in cidrs {
        let gateway = nth(*cidr, 1)?;
        let address = nth(*cidr, 2)?;
        node.add_address(device, IpNet::from(gateway))?;
        pod.add_address("eth0", IpNet::from(address))?;
        node.add_route(IpNet::from(address), Via::Device(device))?;
        pod.add_route(IpNet::from(gateway), Via::Device("eth0"))?;
        pod.add_route(everything(gateway), Via::Gateway(gateway))?;
        addresses.push(address);
    }
    Ok(addresses)
}

/// The default route of the family of `address`.
#[must_use]
pub fn everything(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// The address with this number inside a prefix; 0 is the prefix's own.
///
/// # Errors
/// If the prefix is too small.
pub fn nth(net: IpNet, number: u8) -> anyhow::Result<IpAddr> {
    let address = match net.network() {
        IpAddr::V4(base) => {
            u32::from(base).checked_add(number.into()).map(|n| IpAddr::V4(n.into()))
        }
        IpAddr::V6(base) => {
            u128::from(base).checked_add(number.into()).map(|n| IpAddr::V6(n.into()))
        }
    };
    let address = address.with_context(|| format!("{net} has no address {number}"))?;
    ensure!(net.contains(&address), "{net} has no address {number}");
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nth_address_stays_inside() {
        let net = "10.244.1.0/30".parse().unwrap();
        assert_eq!(nth(net, 2).unwrap(), "10.244.1.2".parse::<IpAddr>().unwrap());
        assert!(nth(net, 4).is_err());
        assert!(nth("255.255.255.254/31".parse().unwrap(), 2).is_err());
        let net = "fd44:1::/64".parse().unwrap();
        assert_eq!(nth(net, 1).unwrap(), "fd44:1::1".parse::<IpAddr>().unwrap());
    }
}
