//! Tunnels between nodes for real: VXLAN through a router that knows no pods.
//!
//! Nodes 1 and 2 are in subnet 1, node 3 in subnet 2; the router between them has no route to any pod.
//! Node 1 filters by reverse path strictly, node 2 loosely, node 3 not at all.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use routelet::lab::node::Node;
use routelet_tests::harness::{self, eventually};
use routelet_tests::scene::{Fabric, Place, Scene, pings};

const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    harness::main(&[
        ("vxlan::cross_subnet", |scene| carries(scene, "CrossSubnet")),
        ("vxlan::always", |scene| carries(scene, "Always")),
    ])
}

/// Three nodes in two subnets.
struct Cluster {
    _fabric: Fabric,
    places: Vec<Place>,
    nodes: Vec<Node>,
}

impl Cluster {
    fn new(scene: &Scene, pools: &str) -> anyhow::Result<Self> {
        let fabric = scene.fabric(2)?;
        let places = vec![fabric.place(1, 1)?, fabric.place(2, 1)?, fabric.place(3, 2)?];
        let mut nodes = Vec::new();
        for place in &places {
            let yaml = configuration(place, &places, pools);
            nodes.push(scene.routelet(&place.name, &place.netns, &yaml)?);
        }
        for node in &mut nodes {
            node.start()?;
        }
        for node in &mut nodes {
            node.wait_established(2, LIMIT)?;
        }
        Ok(Self { _fabric: fabric, places, nodes })
    }

    /// Waits until node `from` leads to the pods of node `to` over this device, in both families.
    fn until_over(&self, from: usize, to: usize, devices: [&str; 2]) -> anyhow::Result<()> {
        for (family, device) in devices.into_iter().enumerate() {
            let prefix = self.places[to].pod_cidr(family);
            let what = format!("{prefix} over {device} on {}", self.places[from].name);
            eventually(&what, LIMIT, || {
                let route = shown(&self.places[from], &prefix.to_string())?;
                ensure!(route.contains(&format!("dev {device} ")), "{route:?}");
                Ok(())
            })?;
        }
        Ok(())
    }

    fn all_reach_all(&self) -> anyhow::Result<()> {
        for from in &self.places {
            for to in self.places.iter().filter(|to| to.number != from.number) {
                for family in [0, 1] {
                    let why = || format!("from {} to {}", from.name, to.name);
                    pings(&from.pod, to.pod_addresses[family]).with_context(why)?;
                    pings(&from.netns, to.pod_addresses[family]).with_context(why)?;
                    pings(&from.pod, to.address(family)).with_context(why)?;
                }
            }
        }
        Ok(())
    }
}

fn carries(scene: &Scene, mode: &str) -> anyhow::Result<()> {
    let cluster = Cluster::new(scene, &pools("vxlanMode", mode))?;
    let tunnel = ["routelet-vxlan", "routelet-vxlan6"];
    let near = if mode == "Always" { tunnel } else { ["eth0", "eth0"] };
    cluster.until_over(0, 1, near)?;
    cluster.until_over(0, 2, tunnel)?;
    cluster.until_over(2, 0, tunnel)?;
    cluster.until_over(2, 1, tunnel)?;
    cluster.all_reach_all()?;
    let status = cluster.nodes[0].text(&["status"])?;
    ensure!(!status.contains("Problems"), "{status}");
    Ok(())
}

fn pools(key: &str, mode: &str) -> String {
    format!(
        "[{{name: v4, cidr: 10.244.0.0/16, {key}: {mode}}}, \
         {{name: v6, cidr: 'fd44::/32', vxlanMode: {mode}}}]"
    )
}

fn configuration(place: &Place, places: &[Place], pools: &str) -> String {
    let others: Vec<_> = places
        .iter()
        .filter(|other| other.number != place.number)
        .map(|other| format!("- {}\n", other.words()))
        .collect();
    format!("node: {}\nnodes:\n{}pools: {pools}\n", place.words(), others.concat())
}

/// `ip route show` for exactly a prefix, our blackholes left out, on one line.
fn shown(place: &Place, prefix: &str) -> anyhow::Result<String> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    let mut command = std::process::Command::new("ip");
    command.args([family, "route", "show", "exact", prefix, "proto", "179"]);
    let shown = place.netns.output(&mut command)?;
    Ok(shown.split_whitespace().collect::<Vec<_>>().join(" ") + " ")
}
