//! The networks that tests play in: a ToR with one or two subnets and a server behind it, nodes with
//! a pod each.
//!
//! ```text
//!  subnet S: 172.30.S.0/24, fd30:0:0:S::/64   router .1 (eth<S>), node N .10+N, others .100 on
//!  pods of node N: 10.244.N.0/24, fd44:0:0:N::/64
//!  server: 198.51.100.10, 2001:db8:100::10, behind the router's eth9
//! ```

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use routelet::lab::netns::{Netns, Via};
use routelet::lab::network::{Lan, Network, attach_pod, everything};
use routelet::lab::node::Node;
use routelet::lab::ping::reaches;

use crate::harness;

/// The server's network, as announced.
pub const SERVER_NETS: [&str; 2] = ["198.51.100.0/24", "2001:db8:100::/64"];
/// The server.
pub const SERVER: [&str; 2] = ["198.51.100.10", "2001:db8:100::10"];

/// The stage of one test: namespaces and files of its own.
#[derive(Debug)]
pub struct Scene {
    name: String,
    folder: PathBuf,
}

impl Scene {
    /// An empty one.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let name = name.replace("::", "-");
        let folder = Path::new("/run/scenes").join(&name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { name, folder })
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes namespaces with names of their own.
    #[must_use]
    pub fn network(&self) -> Network {
        Network::new(format!("{}-", self.name))
    }

    /// A node with this configuration, not yet running.
    ///
    /// # Errors
    /// If there is no binary to run.
    pub fn routelet(&self, name: &str, netns: &Netns, yaml: &str) -> anyhow::Result<Node> {
        Node::new(name, netns, &harness::routelet()?, &self.folder.join(name), yaml)
    }

    /// A ToR with that many subnets and a server.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn fabric(&self, subnets: u8) -> anyhow::Result<Fabric> {
        let network = self.network();
        let tor = network.router("tor")?;
        let mut lans = Vec::new();
        for subnet in 1..=subnets {
            let lan = network.lan(&format!("subnet{subnet}"))?;
            lan.attach(&tor, &format!("eth{subnet}"), &addresses(subnet, 1)?)?;
            lans.push(lan);
        }
        let server = network.host("server")?;
        tor.veth("eth9", &server, "eth0")?;
        for (here, there) in
            [("198.51.100.1/24", "198.51.100.10/24"), ("2001:db8:100::1/64", "2001:db8:100::10/64")]
        {
            let here: IpNet = here.parse()?;
            tor.add_address("eth9", here)?;
            server.add_address("eth0", there.parse()?)?;
            server.add_route(everything(here.addr()), Via::Gateway(here.addr()))?;
        }
        Ok(Fabric { network, tor, server, lans })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The networks of a scene.
#[derive(Debug)]
pub struct Fabric {
    /// Makes more namespaces.
    pub network: Network,
    /// The router between the subnets and the server.
    pub tor: Netns,
    /// Behind the router.
    pub server: Netns,
    /// Subnets, the first is 1.
    pub lans: Vec<Lan>,
}

impl Fabric {
    /// A machine in a subnet with a default route to the ToR.
    ///
    /// # Errors
    /// If the name or number is taken.
    pub fn host(&self, name: &str, subnet: u8, host: u8) -> anyhow::Result<Netns> {
        let netns = self.network.router(name)?;
        let lan = self.lans.get(usize::from(subnet) - 1).context("no such subnet")?;
        lan.attach(&netns, "eth0", &addresses(subnet, host)?)?;
        for gateway in addresses(subnet, 1)? {
            netns.add_route(everything(gateway.addr()), Via::Gateway(gateway.addr()))?;
        }
        Ok(netns)
    }

    /// Node `number` with a pod, in a subnet; its reverse path filter is strict for node 1, loose
    /// for node 2, off for node 3, and so on.
    ///
    /// # Errors
    /// If the number is taken.
    pub fn place(&self, number: u8, subnet: u8) -> anyhow::Result<Place> {
        let name = format!("node{number}");
        let netns = self.host(&name, subnet, 10 + number)?;
        let pod = self.network.host(&format!("pod{number}"))?;
        let pod_addresses = attach_pod(&netns, "pod0", &pod, &pod_cidrs(number)?)?;
        // Distributions differ in it: strict, loose and off all have to do.
        netns.rp_filter(number % 3)?;
        Ok(Place { name, number, subnet, netns, pod, pod_addresses })
    }
}

/// Where an agent is to run.
#[derive(Debug)]
pub struct Place {
    /// `node` and the number.
    pub name: String,
    /// Its number, from 1.
    pub number: u8,
    /// Its subnet, from 1.
    pub subnet: u8,
    /// The node.
    pub netns: Netns,
    /// Its pod.
    pub pod: Netns,
    /// The pod's addresses, IPv4 and IPv6.
    pub pod_addresses: Vec<IpAddr>,
}

impl Place {
    /// The node as `node:` and the entries of `nodes:` have it.
    #[must_use]
    pub fn words(&self) -> String {
        let (number, subnet, host) = (self.number, self.subnet, 10 + self.number);
        format!(
            "{{name: {}, addresses: [172.30.{subnet}.{host}/24, 'fd30:0:0:{subnet}::{host}/64'], \
             podCIDRs: [10.244.{number}.0/24, 'fd44:0:0:{number}::/64']}}",
            self.name
        )
    }

    /// Its own address in the family of an index: 0 IPv4, 1 IPv6.
    ///
    /// # Panics
    /// For another index.
    #[must_use]
    pub fn address(&self, family: usize) -> IpAddr {
        address(self.subnet, 10 + self.number, family)
    }

    /// Its pod CIDR in a family.
    ///
    /// # Panics
    /// For another index.
    #[must_use]
    pub fn pod_cidr(&self, family: usize) -> IpNet {
        pod_cidrs(self.number).expect("invariant: the pattern is a prefix")[family]
    }
}

/// The address of a host in a subnet: family 0 is IPv4, 1 is IPv6.
///
/// # Panics
/// For another family.
#[must_use]
pub fn address(subnet: u8, host: u8, family: usize) -> IpAddr {
    addresses(subnet, host).expect("invariant: the pattern is an address")[family].addr()
}

/// That a pod gets an answer from an address within five seconds.
///
/// # Errors
/// If it does not.
pub fn pings(from: &Netns, to: IpAddr) -> anyhow::Result<()> {
    let report = reaches(from, to, Duration::from_secs(5))?;
    ensure!(report.received > 0, "{} does not reach {to}: {report}", from.name());
    Ok(())
}

fn addresses(subnet: u8, host: u8) -> anyhow::Result<[IpNet; 2]> {
    Ok([
        format!("172.30.{subnet}.{host}/24").parse()?,
        format!("fd30:0:0:{subnet}::{host}/64").parse()?,
    ])
}

fn pod_cidrs(number: u8) -> anyhow::Result<[IpNet; 2]> {
    Ok([format!("10.244.{number}.0/24").parse()?, format!("fd44:0:0:{number}::/64").parse()?])
}
