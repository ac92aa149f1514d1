//! The network that everything happens in, and its three daemons.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use ipnet::IpNet;
use routelet::lab::netns::{Netns, Via};
use routelet::lab::network::{Lan, attach_pod, everything};

use super::daemons::{Neighbor, Seat};
use super::{Cast, Daemon};
use crate::harness::{ip, program};
use crate::scene::Scene;

/// AS of the nodes.
const NODES_AS: u32 = 64512;
/// AS of the ToR.
const TOR_AS: u32 = 65001;
/// Behind the ToR.
const SERVER_NET: &str = "198.51.100.0/24";
const SERVER: &str = "198.51.100.10";

/// See the module.
#[derive(Debug)]
pub struct Stage {
    /// The daemon under test.
    pub node1: Daemon,
    /// The other node's.
    pub node2: Daemon,
    /// The router's.
    pub tor: Daemon,
    /// Their pods.
    pub pods: [Netns; 2],
    /// The pods' addresses.
    pub pod_addresses: [IpAddr; 2],
    server: Netns,
    lan: Lan,
}

impl Stage {
    /// Namespaces and configurations; nothing runs yet.
    ///
    /// # Errors
    /// If the kernel refuses, and a skip where a daemon is not installed.
    pub fn new(scene: &Scene, routelet: &Path, cast: Cast, hold: u16) -> anyhow::Result<Self> {
        let network = scene.network();
        let lan = network.lan("lan")?;
        let tor = network.router("tor")?;
        let nodes = [network.router("node1")?, network.router("node2")?];
        for (netns, host) in [(&tor, 1), (&nodes[0], 11), (&nodes[1], 12)] {
            let address: IpNet = format!("172.31.0.{host}/24").parse()?;
            lan.attach(netns, "eth0", &[address])?;
        }
        let server = network.host("server")?;
        tor.veth("eth9", &server, "eth0")?;
        let gateway: IpNet = "198.51.100.1/24".parse()?;
        tor.add_address("eth9", gateway)?;
        server.add_address("eth0", "198.51.100.10/24".parse()?)?;
        server.add_route(everything(gateway.addr()), Via::Gateway(gateway.addr()))?;
        let pods = [network.host("pod1")?, network.host("pod2")?];
        let mut pod_addresses = Vec::new();
        for (number, (node, pod)) in nodes.iter().zip(&pods).enumerate() {
            let cidr: IpNet = format!("10.244.{}.0/24", number + 1).parse()?;
            pod_addresses.extend(attach_pod(node, "pod0", pod, &[cidr])?);
        }
        let seat = |name: &str, netns: &Netns| seat(name, netns, hold);
        let daemon = |make, name: &str, netns: &Netns| {
            Daemon::new(scene, routelet, make, seat(name, netns)?)
        };
        Ok(Self {
            node1: daemon(cast.node1, "node1", &nodes[0])?,
            node2: daemon(cast.node2, "node2", &nodes[1])?,
            tor: daemon(cast.tor, "tor", &tor)?,
            pods,
            pod_addresses: pod_addresses.try_into().ok().context("two pods, two addresses")?,
            server,
            lan,
        })
    }

    /// Starts the daemons.
    ///
    /// # Errors
    /// If one does not start.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.tor.start()?;
        self.node2.start()?;
        self.node1.start()
    }

    /// Whence and whither each of [`super::STREAMS`] goes.
    #[must_use]
    pub fn probes(&self) -> [(&Netns, IpAddr); 4] {
        let server: IpAddr = SERVER.parse().expect("invariant: it is an address");
        [
            (&self.pods[0], self.pod_addresses[1]),
            (&self.pods[1], self.pod_addresses[0]),
            (&self.server, self.pod_addresses[0]),
            (&self.pods[0], server),
        ]
    }

    /// Whether node 1's kernel forwards to exactly this prefix.
    ///
    /// # Errors
    /// Without `ip`.
    pub fn has_route(&self, prefix: &str) -> anyhow::Result<bool> {
        let routes = ip(self.node1.netns(), &format!("route show exact {prefix}"))?;
        Ok(routes.iter().any(|route| route["type"] == "unicast" || route["type"].is_null()))
    }

    /// Plants a route into node 1's kernel as a former life of its daemon would have left it.
    ///
    /// # Errors
    /// If `ip` refuses.
    pub fn plant(&self, prefix: &str) -> anyhow::Result<()> {
        let (protocol, metric) = self.node1.marks();
        let mut command = Command::new(program("ip", "iproute2")?);
        command.args(["route", "add", prefix, "via", "172.31.0.12", "dev", "eth0"]);
        command.args(["proto", protocol, "metric", metric]);
        self.node1.netns().output(&mut command).map(drop)
    }

    /// Pulls node 2's plug.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn unplug_node2(&self) -> anyhow::Result<()> {
        // The third that was attached.
        self.lan.switch().set_link("port2", false)
    }
}

fn seat(name: &str, netns: &Netns, hold: u16) -> anyhow::Result<Seat> {
    let known = [
        ("tor", "172.31.0.1", TOR_AS, SERVER_NET),
        ("node1", "172.31.0.11", NODES_AS, "10.244.1.0/24"),
        ("node2", "172.31.0.12", NODES_AS, "10.244.2.0/24"),
    ];
    let mut all = known
        .iter()
        .map(|(name, address, asn, network)| {
            Ok(Neighbor {
                name: (*name).to_owned(),
                address: address.parse()?,
                asn: *asn,
                network: network.parse()?,
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let own = all.iter().position(|one| one.name == name).context("an unknown seat")?;
    let own = all.remove(own);
    Ok(Seat { own, netns: netns.clone(), neighbors: all, hold })
}
