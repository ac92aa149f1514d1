//! Pods attached by the standard CNI plugins with the configuration that the agent writes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use routelet::cni::FILE_NAME;
use routelet::lab::cni::{Runtime, installed};
use routelet::lab::netns::Netns;
use routelet::lab::node::Node;
use routelet_tests::harness::{self, Case, Skip, eventually, ip};
use routelet_tests::scene::{Fabric, Scene, pings};
use serde_json::Value;

fn main() -> ExitCode {
    let cases: &[Case] = &[
        ("pods::by_ptp", |scene| pods(scene, "ptp")),
        ("pods::by_bridge", |scene| pods(scene, "bridge")),
        ("mtu::follows_the_link_and_running_pods_keep_theirs", mtu_follows),
        ("mtu::one_that_does_not_fit_is_reported", mtu_too_large),
        ("file::outlives_the_agent_and_goes_with_a_withdrawal", life),
        ("file::is_left_alone_while_it_is_right_and_repaired_while_not", repaired),
        ("file::follows_the_pod_cidrs", follows_cidrs),
        ("status::missing_plugins_are_named", missing_plugins),
        ("status::a_file_that_comes_first_is_named", foreign),
    ];
    harness::main(cases)
}

/// How long the agent may take to write the file: the machine may be busy.
const WRITTEN: Duration = Duration::from_secs(60);

/// Nodes of one subnet whose pods are still to come.
struct Cluster {
    fabric: Fabric,
    nodes: Vec<Node>,
    binaries: PathBuf,
}

impl Cluster {
    fn start(scene: &Scene, count: u8, cni: &str) -> anyhow::Result<Self> {
        let binaries = installed().ok_or_else(|| {
            Skip("no CNI plugins: apt-get install containernetworking-plugins".into())
        })?;
        let fabric = scene.fabric(1)?;
        let mut nodes = Vec::new();
        for number in 1..=count {
            let netns = fabric.host(&format!("node{number}"), 1, 10 + number)?;
            let mut node = scene.routelet(
                &format!("node{number}"),
                &netns,
                &yaml(scene, number, count, cni),
            )?;
            node.start()?;
            nodes.push(node);
        }
        Ok(Self { fabric, nodes, binaries })
    }

    fn runtime(&self, scene: &Scene, index: usize) -> anyhow::Result<Runtime> {
        let node = &self.nodes[index];
        let state = scene.folder().join(format!("{}-state", node.name()));
        Runtime::load(node.netns(), &directory(scene, node.name()), &self.binaries, &state)
    }
}

fn directory(scene: &Scene, node: &str) -> PathBuf {
    scene.folder().join(format!("{node}-net.d"))
}

fn yaml(scene: &Scene, number: u8, count: u8, cni: &str) -> String {
    let words = |number: u8| {
        format!(
            "{{name: node{number}, addresses: [172.30.1.{0}/24, 'fd30:0:0:1::{0}/64'], podCIDRs: \
             [10.244.{number}.0/24, 'fd44:0:0:{number}::/64']}}",
            10 + number
        )
    };
    let others: Vec<_> = (1..=count).filter(|other| *other != number).map(words).collect();
    format!(
        "node: {}
bgp: {{connectRetryTime: 1s}}
nodes: [{}]
pools:
  - {{name: pods, cidr: 10.244.0.0/16}}
  - {{name: pods6, cidr: 'fd44::/48'}}
cni: {{enabled: true, confDir: {}{cni}}}",
        words(number),
        others.join(", "),
        directory(scene, &format!("node{number}")).display()
    )
}

/// Waits until the file is there and right, and reads it.
fn written(scene: &Scene, node: &Node) -> anyhow::Result<Value> {
    eventually("the CNI configuration", WRITTEN, || {
        let cni = status(node)?;
        ensure!(cni["written"] == true, "{cni}");
        Ok(())
    })?;
    read(scene, node)
}

fn read(scene: &Scene, node: &Node) -> anyhow::Result<Value> {
    let file = directory(scene, node.name()).join(FILE_NAME);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).context("it is no JSON")
}

fn status(node: &Node) -> anyhow::Result<Value> {
    Ok(node.json(&["status"])?["cni"].clone())
}

/// What `ip -json address` says of the pod's device.
fn addresses(pod: &Netns) -> anyhow::Result<Vec<String>> {
    let links = ip(pod, "address show dev eth0 scope global")?;
    let all = links.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
    Ok(all
        .filter_map(|info| Some(format!("{}/{}", info["local"].as_str()?, info["prefixlen"])))
        .collect())
}

fn pods(scene: &Scene, plugin: &str) -> anyhow::Result<()> {
    let cluster = Cluster::start(scene, 2, &format!(", plugin: {plugin}"))?;
    let mut pods = Vec::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let list = written(scene, node)?;
        ensure!(list["plugins"][0]["type"] == plugin, "{list}");
        ensure!(list["plugins"][0]["mtu"] == 1500, "{list}");
        let runtime = cluster.runtime(scene, index)?;
        for name in ["a", "b"] {
            let pod = cluster.fabric.network.host(&format!("pod{index}{name}"))?;
            let attached = runtime.add(&pod)?;
            ensure!(attached.addresses.len() == 2, "not dual stack: {:?}", attached.addresses);
            ensure!(addresses(&pod)?.len() == 2, "{:?}", addresses(&pod)?);
            for address in &attached.addresses {
                let number = index + 1;
                let cidr: ipnet::IpNet = if address.is_ipv4() {
                    format!("10.244.{number}.0/24").parse()?
                } else {
                    format!("fd44:0:0:{number}::/64").parse()?
                };
                ensure!(cidr.contains(address), "{address} is not of {cidr}");
                // The first is the tunnel's, the second the node's.
                ensure!(*address != cidr.network(), "{address} is the tunnel device's");
            }
            pods.push((pod, attached, index));
        }
    }
    for (from, ..) in &pods {
        for (_, to, _) in &pods {
            to.addresses.iter().try_for_each(|address| pings(from, *address))?;
        }
    }
    for (index, node) in cluster.nodes.iter().enumerate() {
        for (_, attached, at) in &pods {
            if *at != index {
                // A process of a node reaches pods elsewhere.
                attached.addresses.iter().try_for_each(|address| pings(node.netns(), *address))?;
            }
        }
    }
    let taken = pods[0].1.addresses.clone();
    for (_, attached, index) in &pods {
        cluster.runtime(scene, *index)?.del(attached)?;
    }
    for (pod, ..) in &pods {
        ensure!(pod.link_index("eth0").is_err(), "{} still has its device", pod.name());
    }
    let reserved = scene.folder().join("node1-state/cni/networks/routelet");
    for address in taken {
        ensure!(!reserved.join(address.to_string()).exists(), "{address} is still reserved");
    }
    Ok(())
}

fn mtu_follows(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::start(scene, 1, "")?;
    let node = &cluster.nodes[0];
    written(scene, node)?;
    let old = cluster.fabric.network.host("old")?;
    cluster.runtime(scene, 0)?.add(&old)?;
    ensure!(old.mtu("eth0")? == 1500, "MTU {}", old.mtu("eth0")?);

    node.netns().set_mtu("eth0", 1400)?;
    eventually("the new MTU in the file", WRITTEN, || {
        let list = read(scene, node)?;
        ensure!(list["plugins"][0]["mtu"] == 1400, "{list}");
        Ok(())
    })?;
    ensure!(old.mtu("eth0")? == 1500, "a running pod's MTU was changed");
    let new = cluster.fabric.network.host("new")?;
    let attached = cluster.runtime(scene, 0)?.add(&new)?;
    ensure!(new.mtu("eth0")? == 1400, "MTU {}", new.mtu("eth0")?);
    attached.addresses.iter().try_for_each(|address| pings(&old, *address))
}

fn mtu_too_large(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::start(scene, 1, ", mtu: 9000")?;
    let list = written(scene, &cluster.nodes[0])?;
    ensure!(list["plugins"][0]["mtu"] == 9000, "{list}");
    let words = cluster.nodes[0].text(&["status"])?;
    ensure!(words.contains("cni.mtu is 9000 and 1500 is what fits"), "{words}");
    Ok(())
}

fn life(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(scene, 1, "")?;
    let file = directory(scene, "node1").join(FILE_NAME);
    written(scene, &cluster.nodes[0])?;
    let first = fs::metadata(&file)?;
    ensure!(first.mode() & 0o7777 == 0o644, "mode {:o}", first.mode());
    let node = &mut cluster.nodes[0];
    node.stop()?;
    ensure!(file.exists(), "a stop removed it");
    node.start()?;
    written(scene, node)?;
    node.kill();
    node.start()?;
    written(scene, node)?;
    ensure!(fs::metadata(&file)?.ino() == first.ino(), "a restart wrote it again");
    node.text(&["stop", "--withdraw"])?;
    eventually("the file to go", WRITTEN, || {
        ensure!(!file.exists(), "it is still there");
        Ok(())
    })
}

fn repaired(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::start(scene, 1, "")?;
    let node = &cluster.nodes[0];
    let file = directory(scene, "node1").join(FILE_NAME);
    written(scene, node)?;
    let right = fs::read(&file)?;
    let again = || {
        eventually("the right file", WRITTEN, || {
            ensure!(fs::read(&file)? == right, "it is another");
            Ok(())
        })
    };
    fs::write(&file, "somebody's")?;
    again()?;
    fs::remove_file(&file)?;
    again()?;
    let first = fs::metadata(&file)?;
    // Something else happens in the directory.
    fs::write(directory(scene, "node1").join("99-later.conf"), "{}")?;
    let log = node.log().matches("CNI configuration").count();
    node.netns().set_mtu("lo", 9000)?;
    // After them something that does concern it.
    node.netns().set_mtu("eth0", 1400)?;
    eventually("the new MTU in the file", WRITTEN, || {
        ensure!(fs::metadata(&file)?.ino() != first.ino(), "it is the old one");
        Ok(())
    })?;
    let written = node.log().matches("CNI configuration").count() - log;
    ensure!(written == 1, "written {written} times:\n{}", node.log());
    Ok(())
}

fn follows_cidrs(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(scene, 1, "")?;
    let node = &mut cluster.nodes[0];
    written(scene, node)?;
    let more = yaml(scene, 1, 1, "").replacen("podCIDRs: [", "podCIDRs: [10.244.101.0/24, ", 1);
    node.configure(&more)?;
    node.reload()?;
    eventually("both ranges in one set", WRITTEN, || {
        let list = read(scene, node)?;
        let ranges = &list["plugins"][0]["ipam"]["ranges"];
        let set = ranges[0].as_array().context("no set")?;
        ensure!(set.len() == 2 && ranges.as_array().is_some_and(|sets| sets.len() == 2), "{list}");
        Ok(())
    })
}

fn missing_plugins(scene: &Scene) -> anyhow::Result<()> {
    let empty = scene.folder().join("empty");
    fs::create_dir_all(&empty)?;
    let cluster = Cluster::start(scene, 1, &format!(", binDirs: [{}]", empty.display()))?;
    let node = &cluster.nodes[0];
    eventually("the reason", WRITTEN, || {
        let words = node.text(&["status"])?;
        ensure!(words.contains("plugins ptp, host-local, portmap are not in"), "{words}");
        ensure!(status(node)?["written"] == false, "{words}");
        Ok(())
    })?;
    ensure!(read(scene, node).is_err(), "it was written all the same");
    for name in ["ptp", "host-local", "portmap"] {
        fs::copy(cluster.binaries.join(name), empty.join(name))?;
    }
    written(scene, node)?;
    Ok(())
}

fn foreign(scene: &Scene) -> anyhow::Result<()> {
    let before = directory(scene, "node1").join("05-other.conflist");
    fs::create_dir_all(directory(scene, "node1"))?;
    fs::write(&before, "{}")?;
    let cluster = Cluster::start(scene, 1, "")?;
    let node = &cluster.nodes[0];
    written(scene, node)?;
    let words = node.text(&["status"])?;
    ensure!(words.contains("05-other.conflist sorts before"), "{words}");
    ensure!(fs::read_to_string(&before)? == "{}", "it was touched");
    fs::remove_file(&before)?;
    eventually("no problem left", WRITTEN, || {
        let words = node.text(&["status"])?;
        ensure!(!words.contains("sorts before"), "{words}");
        Ok(())
    })
}
