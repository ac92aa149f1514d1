//! Packets across subnets through IP-in-IP: pods, hosts, a service; which way they go, what the router
//! sees of them, how long they may be.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use routelet::lab::netns::Netns;
use routelet_tests::harness::{Case, eventually, program};
use routelet_tests::scene::Scene;
use routelet_tests::uml;

use crate::cluster::{Cluster, IPIP, PLAIN};
use crate::stage::{Capture, SOON, Seen, drop_pods, ip, reached, run, whole};

pub const CASES: &[Case] = &[
    ("across::never", never),
    ("across::cross_subnet", cross_subnet),
    ("across::always", always),
    ("across::hosts_and_pods_past_a_router_that_lets_them", hosts_and_pods),
    ("across::a_service_with_a_remote_pod", service),
    ("across::mtu", mtu),
    ("across::several_nodes_with_one_prefix", several),
];

/// Without a mode packets go plain, and there is no device of ours.
fn never(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::start(scene, &[1, 2, 1], "")?;
    cluster.router_knows_pods()?;
    for (here, there) in [(0, 1), (1, 2), (2, 0)] {
        cluster.until_over(here, there, PLAIN)?;
        reached(&cluster.places[here].pod, cluster.pod(there))?;
        ensure!(!cluster.has_device(here, IPIP)?, "there is a device");
    }
    Ok(())
}

/// Node 4 shares the subnet of node 1; the others are behind a router that refuses pods' packets.
fn cross_subnet(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::start(scene, &[1, 2, 3, 1], "ipipMode: CrossSubnet")?;
    drop_pods(&cluster.fabric.tor)?;
    for (here, there) in [(0, 1), (1, 2), (2, 3), (3, 1)] {
        let line = cluster.until_over(here, there, IPIP)?;
        let (via, source) =
            (cluster.places[there].address(0), cluster.places[here].pod_cidr(0).network());
        for words in [format!("via {via} "), "onlink".into(), format!("src {source} ")] {
            ensure!(line.contains(&words), "{line} has no {words:?}");
        }
    }
    cluster.until_over(0, 3, PLAIN)?;
    cluster.until_over(3, 0, PLAIN)?;
    let mut capture = Capture::start(&cluster.fabric.tor)?;
    for (here, place) in cluster.places.iter().enumerate() {
        for there in (0..4).filter(|there| *there != here) {
            reached(&place.pod, cluster.pod(there))?;
            reached(&place.netns, cluster.pod(there))?;
        }
    }
    let (tunnelled, plain) = split(capture.seen()?);
    ensure!(plain.is_empty(), "packets of pods outside the tunnel: {plain:?}");
    ensure!(tunnelled.len() > 20, "the router sees hardly anything: {tunnelled:?}");
    let nodes: Vec<IpAddr> = cluster.places.iter().map(|place| place.address(0)).collect();
    for packet in tunnelled {
        let outer = [packet.source, packet.destination].map(IpAddr::from);
        ensure!(outer.iter().all(|address| nodes.contains(address)), "{packet:?}");
        let inner = packet.inner.context("nothing inside")?;
        // The sender's device has the first address of its pod CIDR: also a host is a pod here.
        ensure!([inner.0, inner.1].iter().all(|address| is_pod(*address)), "{packet:?}");
    }
    Ok(())
}

/// Packets through the tunnel, and packets of pods outside it.
fn split(packets: Vec<Seen>) -> (Vec<Seen>, Vec<Seen>) {
    let (tunnelled, others): (Vec<_>, Vec<_>) =
        packets.into_iter().partition(|packet| packet.protocol == 4);
    let pods = others
        .into_iter()
        .filter(|packet| is_pod(packet.source) || is_pod(packet.destination))
        .collect();
    (tunnelled, pods)
}

fn is_pod(address: Ipv4Addr) -> bool {
    address.octets()[..2] == [10, 244]
}

fn always(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::start(scene, &[1, 2, 1], "ipipMode: Always")?;
    drop_pods(&cluster.fabric.tor)?;
    let mut capture = Capture::start(&cluster.places[2].netns)?;
    for (here, there) in [(0, 1), (0, 2), (1, 2)] {
        cluster.until_over(here, there, IPIP)?;
        cluster.until_over(there, here, IPIP)?;
        reached(&cluster.places[here].pod, cluster.pod(there))?;
        reached(&cluster.places[there].netns, cluster.pod(here))?;
    }
    let neighbour = cluster.places[0].address(0);
    let packets = capture.seen()?;
    ensure!(
        packets
            .iter()
            .any(|packet| packet.protocol == 4 && IpAddr::from(packet.source) == neighbour),
        "nothing encapsulated from the node next to it: {packets:?}"
    );
    // Off its own pod's device there are bare packets; off the subnet none.
    Ok(())
}

/// With reverse path filters strict, loose and off: the agent sees to it.
fn hosts_and_pods(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::start(scene, &[1, 2, 3], "ipipMode: CrossSubnet")?;
    for (here, there) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
        let [from, to] = [&cluster.places[here], &cluster.places[there]];
        cluster.until_over(here, there, IPIP)?;
        reached(&from.netns, cluster.pod(there)).context("host to pod")?;
        // It goes plain: a node is no pod. The answer comes through the tunnel.
        reached(&from.pod, to.address(0)).context("pod to remote node")?;
        reached(&from.pod, to.pod_cidr(0).network()).context("pod to the device of the node")?;
    }
    Ok(())
}

/// As kube-proxy does it: the destination is rewritten, and what is no pod gets the source of the
/// device it leaves by.
fn service(scene: &Scene) -> anyhow::Result<()> {
    for module in ["iptable_nat", "xt_nat", "xt_tcpudp", "xt_MASQUERADE"] {
        uml::need(module)?;
    }
    let iptables = program("iptables-legacy", "iptables")?.display().to_string();
    let cluster = Cluster::start(scene, &[1, 2], "ipipMode: CrossSubnet")?;
    cluster.until_over(0, 1, IPIP)?;
    cluster.until_over(1, 0, IPIP)?;
    let [one, two] = &cluster.places[..] else { unreachable!() };
    let service = SocketAddr::from(([10, 96, 0, 10], 80));
    for chain in ["OUTPUT", "PREROUTING"] {
        let words = format!(
            "-t nat -A {chain} -d {} -p tcp --dport 80 -j DNAT --to-destination {}:8080",
            service.ip(),
            cluster.pod(1)
        );
        run(&one.netns, &iptables, &words)?;
    }
    let listener = two.pod.run(|| TcpListener::bind(("0.0.0.0", 8080)))?;
    answers(&one.pod, service, &listener).context("a pod to the service")?;
    // The node's own packet keeps the node's address: the answer comes past the router.
    let peer = answers(&one.netns, service, &listener).context("a host to the service")?;
    ensure!(peer == one.address(0), "its source is {peer}");
    drop_pods(&cluster.fabric.tor)?;
    let words = "-t nat -A POSTROUTING ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE";
    run(&one.netns, &iptables, words)?;
    let peer = answers(&one.netns, service, &listener).context("a host, masqueraded")?;
    ensure!(peer == one.pod_cidr(0).network(), "its source is {peer}");
    Ok(())
}

/// Exchanges a few octets with a service; gives the address its server sees.
fn answers(from: &Netns, to: SocketAddr, listener: &TcpListener) -> anyhow::Result<IpAddr> {
    let limit = Duration::from_secs(10);
    let mut client = from.run(|| TcpStream::connect_timeout(&to, limit)).context("connect")?;
    client.set_read_timeout(Some(limit))?;
    let (mut server, peer) = listener.accept()?;
    server.write_all(b"hello")?;
    let mut heard = [0; 5];
    client.read_exact(&mut heard).context("it does not answer")?;
    Ok(peer.ip())
}

fn mtu(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::start(scene, &[1, 2, 1], "ipipMode: CrossSubnet")?;
    let one = &cluster.places[0];
    cluster.until_over(0, 1, IPIP)?;
    cluster.until_over(1, 0, IPIP)?;
    cluster.until_over(0, 2, PLAIN)?;
    reached(&one.pod, cluster.pod(1))?;
    reached(&one.pod, cluster.pod(2))?;
    ensure!(whole(&one.pod, cluster.pod(2), 1500)?, "1500 octets do not pass inside the subnet");
    ensure!(whole(&one.pod, cluster.pod(1), 1480)?, "1480 octets do not pass the tunnel");
    ensure!(!whole(&one.pod, cluster.pod(1), 1481)?, "1481 octets pass the tunnel");
    let learned = ip(&one.pod, &format!("route get {}", cluster.pod(1)))?;
    ensure!(learned.contains("mtu 1480"), "the pod was not told: {learned}");
    for (underlay, tunnel) in [(1400, 1380), (1500, 1480)] {
        ip(&one.netns, &format!("link set {PLAIN} mtu {underlay}"))?;
        eventually("the MTU to follow", SOON, || {
            let shown = ip(&one.netns, &format!("link show {IPIP}"))?;
            ensure!(shown.contains(&format!("mtu {tunnel} ")), "{shown}");
            Ok(())
        })?;
        // What the pod learned before would only make packets shorter than they may be.
        ip(&one.pod, "route flush cache")?;
        ensure!(whole(&one.pod, cluster.pod(1), tunnel)?, "{tunnel} octets do not pass");
        ensure!(!whole(&one.pod, cluster.pod(1), tunnel + 1)?, "{tunnel} octets and one pass");
    }
    Ok(())
}

fn several(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(scene, &[1, 2, 3], "ipipMode: CrossSubnet")?;
    drop_pods(&cluster.fabric.tor)?;
    for index in [1, 2] {
        cluster.more[index] = "10.244.9.0/24, ".into();
        let yaml = cluster.yaml(index, "ipipMode: CrossSubnet");
        cluster.nodes[index].configure(&yaml)?;
        ip(&cluster.places[index].netns, "route add local 10.244.9.0/24 dev lo")?;
    }
    for node in &mut cluster.nodes {
        node.start()?;
    }
    cluster.exchanged()?;
    let prefix = "10.244.9.0/24".parse()?;
    for index in [1, 2] {
        let hop = format!("via {} dev {IPIP}", cluster.places[index].address(0));
        cluster.until_route(0, prefix, &hop)?;
    }
    let mut captures =
        [Capture::start(&cluster.places[1].netns)?, Capture::start(&cluster.places[2].netns)?];
    for host in 1..=32 {
        reached(&cluster.places[0].pod, [10, 244, 9, host])?;
    }
    for capture in &mut captures {
        let (tunnelled, _) = split(capture.seen()?);
        ensure!(!tunnelled.is_empty(), "all went the other way");
    }
    // One of them goes: the other one has it all.
    cluster.nodes[1].text(&["stop", "--withdraw"])?;
    eventually("one path", SOON, || {
        let line = cluster.until_route(0, prefix, IPIP)?;
        ensure!(!line.contains("nexthop"), "{line}");
        Ok(())
    })?;
    for host in 1..=8 {
        reached(&cluster.places[0].pod, [10, 244, 9, host])?;
    }
    Ok(())
}
