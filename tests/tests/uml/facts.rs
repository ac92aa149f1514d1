//! What the agent's tunnels are built on: statements about the kernel, each tried with plain `ip`.
//! Where one of them does not hold any more, the design has to change, not the test.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, ensure};
use routelet::lab::process::Process;
use routelet_tests::harness::{Case, eventually, program};
use routelet_tests::scene::{Place, Scene};
use routelet_tests::uml;

use crate::stage::{Capture, SOON, drop_pods, ip, reached, refused, routes, run, silent, whole};

pub const CASES: &[Case] = &[
    ("facts::one_device_for_all_remote_nodes", one_device),
    ("facts::a_device_without_local_clashes_with_tunl0", clash),
    ("facts::several_paths_through_one_device", several_paths),
    ("facts::without_an_address_rp_filter_drops_even_loose", no_address),
    ("facts::with_the_nodes_address_replies_leave_outside", nodes_address),
    ("facts::the_last_address_takes_routes_silently", last_address),
    ("facts::mtu_is_1480_and_does_not_follow", mtu),
    ("facts::a_forwarding_entry_is_told_twice", told_twice),
    ("facts::a_kernel_without_the_module_refuses", no_module),
];

const DEVICE: &str = "routelet-ipip";

/// Gives a node the device as the agent makes it, without an address.
fn tunnel(place: &Place) -> anyhow::Result<()> {
    let local = place.address(0);
    ip(&place.netns, &format!("link add {DEVICE} type ipip local {local} ttl 64"))?;
    ip(&place.netns, &format!("link set {DEVICE} up"))?;
    // A new device takes what is set for all and by default; the agent sets it loose.
    place.netns.sysctl(&format!("net/ipv4/conf/{DEVICE}/rp_filter"), "2")
}

/// The address that a node's device gets: the first of its pod CIDR.
fn address(place: &Place) -> IpAddr {
    place.pod_cidr(0).network()
}

fn add_address(place: &Place) -> anyhow::Result<()> {
    ip(&place.netns, &format!("address add {}/32 dev {DEVICE}", address(place))).map(drop)
}

/// Sends a node's packets to another one's pods through the device; `more` may have the source.
fn lead(from: &Place, to: &Place, more: &str) -> anyhow::Result<()> {
    let (cidr, via) = (to.pod_cidr(0), to.address(0));
    let words = format!("route replace {cidr} via {via} dev {DEVICE} onlink {more}");
    ip(&from.netns, &words).map(drop)
}

fn source(place: &Place) -> String {
    format!("src {}", address(place))
}

fn pod(place: &Place) -> IpAddr {
    place.pod_addresses[0]
}

/// Nodes in a subnet each, with the device, its address, and all routes.
fn cluster(
    scene: &Scene,
    count: u8,
) -> anyhow::Result<(routelet_tests::scene::Fabric, Vec<Place>)> {
    uml::need("ipip")?;
    program("ip", "iproute2")?;
    let fabric = scene.fabric(count)?;
    drop_pods(&fabric.tor)?;
    let places = (1..=count)
        .map(|number| fabric.place(number, number))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for place in &places {
        tunnel(place)?;
        add_address(place)?;
        for other in places.iter().filter(|other| other.number != place.number) {
            lead(place, other, &source(place))?;
        }
    }
    Ok((fabric, places))
}

fn one_device(scene: &Scene) -> anyhow::Result<()> {
    let (fabric, places) = cluster(scene, 3)?;
    let mut capture = Capture::start(&fabric.tor)?;
    for _ in 0..2 {
        for (here, there) in [(0, 1), (1, 2), (2, 0)] {
            reached(&places[here].pod, pod(&places[there]))?;
            reached(&places[here].netns, pod(&places[there]))?;
            reached(&places[here].netns, address(&places[there]))?;
        }
        let packets = capture.seen()?;
        ensure!(packets.len() > 10, "the router sees hardly anything: {packets:?}");
        for packet in packets {
            ensure!(packet.protocol == 4, "a packet outside the tunnel: {packet:?}");
        }
        // Once more with the module's own device up beside it.
        for place in &places {
            ip(&place.netns, "link set tunl0 up")?;
        }
    }
    Ok(())
}

fn clash(scene: &Scene) -> anyhow::Result<()> {
    uml::need("ipip")?;
    let node = scene.network().host("node")?;
    let error = refused(&node, "link add other type ipip")?;
    ensure!(error.contains("File exists"), "{error}");
    ip(&node, "link add one type ipip local 10.0.0.1").map(drop)?;
    let error = refused(&node, "link add two type ipip local 10.0.0.1")?;
    ensure!(error.contains("File exists"), "{error}");
    // Another address is another device; so a stale one of ours may stand beside somebody else's.
    ip(&node, "link add two type ipip local 10.0.0.2").map(drop)
}

fn several_paths(scene: &Scene) -> anyhow::Result<()> {
    let (_fabric, places) = cluster(scene, 3)?;
    for place in &places[1..] {
        ip(&place.netns, "route add local 10.244.9.0/24 dev lo")?;
    }
    let hop = |place: &Place| format!("nexthop via {} dev {DEVICE} onlink", place.address(0));
    let words = format!(
        "route add 10.244.9.0/24 src {} {} {}",
        address(&places[0]),
        hop(&places[1]),
        hop(&places[2])
    );
    ip(&places[0].netns, &words)?;
    let mut captures = [Capture::start(&places[1].netns)?, Capture::start(&places[2].netns)?];
    for host in 1..=32 {
        reached(&places[0].pod, [10, 244, 9, host])?;
    }
    for capture in &mut captures {
        let inside = capture.seen()?.into_iter().filter(|packet| packet.protocol == 4).count();
        ensure!(inside > 0, "all went the other way");
    }
    Ok(())
}

fn no_address(scene: &Scene) -> anyhow::Result<()> {
    let (fabric, places) = cluster(scene, 2)?;
    // Whatever the reply does is another matter: the router lets it pass.
    fabric.tor.rp_filter(0)?;
    fabric.tor.add_route(places[1].pod_cidr(0), via(&places[1]))?;
    let [one, two] = &places[..] else { unreachable!() };
    lead(one, two, "")?;
    ip(&one.netns, &format!("address del {}/32 dev {DEVICE}", address(one)))?;
    lead(one, two, "")?;
    // The sender too: replies come in where it would not send.
    one.netns.rp_filter(2)?;
    two.netns.rp_filter(2)?;
    reached(&one.netns, pod(two)).context("with an address on the receiving device")?;
    ip(&two.netns, &format!("address del {}/32 dev {DEVICE}", address(two)))?;
    lead(two, one, "")?;
    reached(&one.pod, pod(two)).context("from a pod the way back is the same device")?;
    silent(&one.netns, pod(two))?;
    two.netns.rp_filter(0)?;
    reached(&one.netns, pod(two)).context("the filter is off")
}

fn nodes_address(scene: &Scene) -> anyhow::Result<()> {
    let (fabric, places) = cluster(scene, 2)?;
    let [one, two] = &places[..] else { unreachable!() };
    two.netns.rp_filter(2)?;
    let mut capture = Capture::start(&fabric.tor)?;
    reached(&one.netns, pod(two))?;
    ensure!(capture.seen()?.iter().all(|packet| packet.protocol == 4), "a packet outside");
    lead(one, two, &format!("src {}", one.address(0)))?;
    // The reply has a pod's source and a node's destination: plain, and the router refuses it.
    silent(&one.netns, pod(two))?;
    let outside = capture.seen()?.into_iter().find(|packet| packet.protocol == 1);
    let reply = outside.context("no reply came to the router")?;
    ensure!(IpAddr::from(reply.source) == pod(two), "{reply:?}");
    ensure!(IpAddr::from(reply.destination) == one.address(0), "{reply:?}");
    Ok(())
}

fn last_address(scene: &Scene) -> anyhow::Result<()> {
    let (_fabric, places) = cluster(scene, 2)?;
    let [one, two] = &places[..] else { unreachable!() };
    let cidr = two.pod_cidr(0).to_string();
    let mut monitor = Command::new("ip");
    monitor.args(["monitor", "route"]);
    let log = scene.folder().join("monitor.log");
    let monitor = Process::spawn("ip monitor", &one.netns, &mut monitor, &log)?;
    let heard = |words: &str| {
        eventually(words, SOON, || {
            ensure!(monitor.log().contains(words), "{}", monitor.log());
            Ok(())
        })
    };
    eventually("the monitor to listen", SOON, || {
        // The kernel tells of no route that replaces its like.
        ip(&one.netns, "route add blackhole 192.0.2.1/32")?;
        ip(&one.netns, "route del blackhole 192.0.2.1/32")?;
        ensure!(monitor.log().contains("192.0.2.1"), "it does not");
        Ok(())
    })?;
    // With a second address the routes stay, if the source of those that have one is moved first.
    let plain = "10.244.8.0/24";
    ip(&one.netns, &format!("route add {plain} via {} dev {DEVICE} onlink", two.address(0)))?;
    ip(&one.netns, &format!("address add 10.244.77.0/32 dev {DEVICE}"))?;
    lead(one, two, "src 10.244.77.0")?;
    ip(&one.netns, &format!("address del {}/32 dev {DEVICE}", address(one)))?;
    for prefix in [&cidr, plain] {
        ensure!(routes(&one.netns, prefix)?.len() == 1, "{prefix} went with the other address");
    }
    ip(&one.netns, &format!("address del 10.244.77.0/32 dev {DEVICE}"))?;
    for prefix in [&cidr, plain] {
        let left = routes(&one.netns, prefix)?;
        ensure!(left.is_empty(), "the route outlives the last address: {left:?}");
    }
    ip(&one.netns, "route add blackhole 192.0.2.2/32")?;
    heard("192.0.2.2")?;
    let said = monitor.log();
    // That a route loses its preferred source is told by newer kernels.
    ensure!(!said.contains(&format!("Deleted {plain}")), "there was a notification:\n{said}");
    Ok(())
}

fn mtu(scene: &Scene) -> anyhow::Result<()> {
    let (_fabric, places) = cluster(scene, 2)?;
    let [one, two] = &places[..] else { unreachable!() };
    let shown = ip(&one.netns, &format!("link show {DEVICE}"))?;
    ensure!(shown.contains("mtu 1480"), "{shown}");
    ensure!(whole(&one.pod, pod(two), 1480)?, "a full packet does not pass");
    ensure!(!whole(&one.pod, pod(two), 1481)?, "a packet too long passes");
    ip(&one.netns, "link set eth0 mtu 1400")?;
    let shown = ip(&one.netns, &format!("link show {DEVICE}"))?;
    ensure!(shown.contains("mtu 1480"), "it follows by itself: {shown}");
    Ok(())
}

/// Once by the device, with where it leads, and once by the core, which does not know. Newer kernels
/// leave the second one out; nobody may take it for an entry that leads nowhere.
fn told_twice(scene: &Scene) -> anyhow::Result<()> {
    uml::need("vxlan")?;
    let bridge = program("bridge", "iproute2")?;
    let node = scene.network().host("node")?;
    ip(&node, "link add v type vxlan id 4096 dstport 4789 local 127.0.0.1 nolearning")?;
    ip(&node, "link set v up")?;
    let mut monitor = Command::new(&bridge);
    monitor.args(["monitor", "fdb"]);
    let log = scene.folder().join("monitor.log");
    let monitor = Process::spawn("bridge monitor", &node, &mut monitor, &log)?;
    let fdb = |words: &str| run(&node, "bridge", &format!("fdb {words}"));
    let lines = |mac: &str| -> Vec<String> {
        monitor.log().lines().filter(|line| line.contains(mac)).map(str::to_owned).collect()
    };
    eventually("the monitor to listen", SOON, || {
        fdb("replace 02:00:00:00:00:01 dev v dst 192.0.2.1 self permanent")?;
        ensure!(!lines("02:00:00:00:00:01").is_empty(), "it does not");
        Ok(())
    })?;
    fdb("add 02:00:00:00:00:02 dev v dst 192.0.2.2 self permanent")?;
    fdb("add 02:00:00:00:00:03 dev v dst 192.0.2.3 self permanent")?;
    eventually("both to be told", SOON, || {
        ensure!(!lines("02:00:00:00:00:03").is_empty(), "{}", monitor.log());
        Ok(())
    })?;
    let told = lines("02:00:00:00:00:02");
    let leading = told.iter().filter(|line| line.contains("dst 192.0.2.2")).count();
    ensure!((told.len(), leading) == (2, 1), "told as {told:?}");
    Ok(())
}

fn no_module(scene: &Scene) -> anyhow::Result<()> {
    let node = scene.network().host("node")?;
    let _without = uml::without("ipip")?;
    let error = refused(&node, &format!("link add {DEVICE} type ipip local 10.0.0.1"))?;
    ensure!(error.contains("Unknown device type"), "{error}");
    Ok(())
}

fn via(place: &Place) -> routelet::lab::netns::Via<'static> {
    routelet::lab::netns::Via::Gateway(place.address(0))
}
