//! A mesh of agents over the three subnets, and what the cases ask of it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use routelet::lab::netns::Via;
use routelet::lab::node::Node;
use routelet::lab::ping::PingStream;
use routelet_tests::harness::{eventually, program};
use routelet_tests::scene::{Fabric, Place, Scene};
use routelet_tests::uml;

use crate::stage::{SOON, ip, reached, routes};

/// The agent's device for IP-in-IP.
pub const IPIP: &str = "routelet-ipip";
/// The agent's device for VXLAN over IPv4.
pub const VXLAN: &str = "routelet-vxlan";
/// The device towards the subnet.
pub const PLAIN: &str = "eth0";

/// Between two packets of a ping that must not lose any.
const INTERVAL: Duration = Duration::from_millis(10);

/// The agents and where they are.
pub struct Cluster {
    pub fabric: Fabric,
    /// Node 1 is the first.
    pub places: Vec<Place>,
    pub nodes: Vec<Node>,
    /// Prefixes of a node beside its usual ones, as YAML: `, 10.244.9.0/24`.
    pub more: Vec<String>,
    /// Numbers of the nodes that nobody knows any more.
    pub removed: Vec<u8>,
}

impl Cluster {
    /// Nodes in these subnets, not yet running. `pool` has the mode: `ipipMode: Always`.
    ///
    /// # Errors
    /// A skip if the guest's kernel lacks a tunnel.
    pub fn new(scene: &Scene, subnets: &[u8], pool: &str) -> anyhow::Result<Self> {
        for module in ["ipip", "vxlan"] {
            uml::need(module)?;
        }
        program("ip", "iproute2")?;
        let fabric = scene.fabric(subnets.iter().copied().max().context("no subnets")?)?;
        let places = (1..)
            .zip(subnets)
            .map(|(number, subnet)| fabric.place(number, *subnet))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let more = vec![String::new(); places.len()];
        let mut cluster = Self { fabric, places, nodes: Vec::new(), more, removed: Vec::new() };
        for index in 0..cluster.places.len() {
            let place = &cluster.places[index];
            let node = scene.routelet(&place.name, &place.netns, &cluster.yaml(index, pool))?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// The same, running, with all routes to IPv4 pods installed.
    ///
    /// # Errors
    /// If they do not come.
    pub fn start(scene: &Scene, subnets: &[u8], pool: &str) -> anyhow::Result<Self> {
        let mut cluster = Self::new(scene, subnets, pool)?;
        for node in &mut cluster.nodes {
            node.start()?;
        }
        cluster.exchanged()?;
        Ok(cluster)
    }

    /// The configuration of a node.
    pub fn yaml(&self, index: usize, pool: &str) -> String {
        let place = &self.places[index];
        let own = place.words().replace("podCIDRs: [", &format!("podCIDRs: [{}", self.more[index]));
        let others: Vec<String> = self
            .places
            .iter()
            .filter(|other| other.number != place.number && !self.removed.contains(&other.number))
            .map(|other| format!("  - {}\n", other.words()))
            .collect();
        format!(
            "node: {own}
bgp: {{asNumber: 64512, connectRetryTime: 1s, holdTime: 9s}}
nodes:
{}pools:
  - {{name: pods, cidr: 10.244.0.0/16{}{pool}}}
  - {{name: pods6, cidr: 'fd44::/48'}}
",
            others.concat(),
            if pool.is_empty() { "" } else { ", " },
        )
    }

    /// Gives all nodes that still belong to it another pool, one after the other, while they run.
    ///
    /// # Errors
    /// If one does not run.
    pub fn reload(&mut self, pool: &str) -> anyhow::Result<()> {
        for index in 0..self.nodes.len() {
            if self.removed.contains(&self.places[index].number) {
                continue;
            }
            let yaml = self.yaml(index, pool);
            self.nodes[index].configure(&yaml)?;
            self.nodes[index].reload()?;
        }
        Ok(())
    }

    /// Waits until each node has a route to the IPv4 pods of each other.
    ///
    /// # Errors
    /// With what is missing.
    pub fn exchanged(&self) -> anyhow::Result<()> {
        for here in 0..self.places.len() {
            for there in (0..self.places.len()).filter(|there| *there != here) {
                self.until_route(here, self.places[there].pod_cidr(0), "")?;
            }
        }
        Ok(())
    }

    /// Waits until a node leads another one's pods over a device, and gives the route's line.
    ///
    /// # Errors
    /// With what it does instead.
    pub fn until_over(&self, here: usize, there: usize, device: &str) -> anyhow::Result<String> {
        let words = format!("dev {device} ");
        self.until_route(here, self.places[there].pod_cidr(0), &words)
    }

    /// Waits until a node has exactly one route of ours to a prefix and it has these words.
    ///
    /// # Errors
    /// With what it has instead.
    pub fn until_route(&self, here: usize, to: IpNet, words: &str) -> anyhow::Result<String> {
        let place = &self.places[here];
        let result = eventually(&format!("{to} on {}", place.name), SOON, || {
            let shown = routes(&place.netns, &format!("{to} proto 179"))?;
            ensure!(shown.len() == 1, "{} routes: {shown:?}", shown.len());
            // The last word is followed by nothing.
            let line = format!("{} ", shown[0]);
            ensure!(line.contains(words), "{line}has no {words:?}");
            Ok(line)
        });
        result.with_context(|| {
            let said = |words: &[&str]| self.nodes[here].text(words).unwrap_or_default();
            format!("{}\n{}", said(&["status"]), said(&["routes"]))
        })
    }

    /// Waits until a node has no route of ours to a prefix.
    ///
    /// # Errors
    /// With what it has.
    pub fn until_no_route(&self, here: usize, to: IpNet) -> anyhow::Result<()> {
        let place = &self.places[here];
        eventually(&format!("no {to} on {}", place.name), SOON, || {
            let shown = routes(&place.netns, &format!("{to} proto 179"))?;
            ensure!(shown.is_empty(), "{shown:?}");
            Ok(())
        })
    }

    /// A pod's IPv4 address.
    pub fn pod(&self, index: usize) -> IpAddr {
        self.places[index].pod_addresses[0]
    }

    /// A ping from pod to pod, a packet every 10 ms, that has had its first answers.
    ///
    /// # Errors
    /// If none comes.
    pub fn ping(&self, here: usize, there: usize) -> anyhow::Result<PingStream> {
        reached(&self.places[here].pod, self.pod(there))?;
        PingStream::start(&self.places[here].pod, self.pod(there), INTERVAL)
    }

    /// Tells the router where the pods are, as one that speaks BGP would know.
    ///
    /// # Errors
    /// If it knows already.
    pub fn router_knows_pods(&self) -> anyhow::Result<()> {
        self.places.iter().try_for_each(|place| {
            self.fabric.tor.add_route(place.pod_cidr(0), Via::Gateway(place.address(0)))
        })
    }

    /// Whether a node has a device of this name.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn has_device(&self, index: usize, device: &str) -> anyhow::Result<bool> {
        let shown = ip(&self.places[index].netns, "-o link show")?;
        Ok(shown.lines().any(|line| line.contains(&format!(": {device}@")))
            || shown.lines().any(|line| line.contains(&format!(": {device}:"))))
    }

    /// Waits until a node's device is gone.
    ///
    /// # Errors
    /// If it stays.
    pub fn until_no_device(&self, index: usize, device: &str) -> anyhow::Result<()> {
        eventually(&format!("the end of {device}"), SOON, || {
            ensure!(!self.has_device(index, device)?, "it is there");
            Ok(())
        })
    }

    /// How often sessions of a node were reset, all together.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn flaps(&self, index: usize) -> anyhow::Result<u64> {
        let peers = self.nodes[index].json(&["peers"])?;
        let peers = peers.as_array().context("peers is no array")?;
        Ok(peers.iter().filter_map(|peer| peer["flaps"].as_u64()).sum())
    }
}
