//! Tunnels between nodes for real: VXLAN through a router that knows no pods.
//!
//! Nodes 1 and 2 are in subnet 1, node 3 in subnet 2; the router between them has no route to any pod
//! unless a test says so. Node 1 filters by reverse path strictly, node 2 loosely, node 3 not at all.
//! IP-in-IP is tested in `uml`, on a kernel that has it.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, ensure};
use routelet::lab::netns::Via;
use routelet::lab::node::Node;
use routelet::lab::ping::PingStream;
use routelet_tests::harness::{self, eventually};
use routelet_tests::scene::{Fabric, Place, Scene, address, pings};

const LIMIT: Duration = Duration::from_secs(60);
const PLAIN: [&str; 2] = ["eth0", "eth0"];
const TUNNEL: [&str; 2] = ["routelet-vxlan", "routelet-vxlan6"];

fn main() -> ExitCode {
    harness::main(&[
        ("vxlan::cross_subnet", |scene| carries(scene, "CrossSubnet")),
        ("vxlan::always", |scene| carries(scene, "Always")),
        ("vxlan::modes_change_under_a_ping", modes),
        ("vxlan::a_node_comes_and_goes", node_comes_and_goes),
        ("vxlan::what_is_removed_by_hand_comes_back", repair),
        ("vxlan::the_mtu_follows_and_full_packets_pass", mtu),
        ("vxlan::an_address_change_keeps_the_routes", own_pod_cidr_changes),
        ("vxlan::a_moved_route_is_decided_again", decided_again),
        ("vxlan::only_our_own_leftovers_go", leftovers),
        ("vxlan::routes_explain_and_status_say_it", words),
        ("vxlan::withdraw_leaves_nothing", withdraw),
        ("a_kernel_without_the_tunnel_is_named", no_ipip),
    ])
}

/// Three nodes in two subnets.
struct Cluster {
    fabric: Fabric,
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
        Ok(Self { fabric, places, nodes })
    }

    /// Gives every node other pools, one after the other.
    fn reload(&mut self, pools: &str) -> anyhow::Result<()> {
        for (node, place) in self.nodes.iter_mut().zip(&self.places) {
            node.configure(&configuration(place, &self.places, pools))?;
            node.reload()?;
        }
        Ok(())
    }

    /// Waits until node `from` leads to the pods of node `to` over these devices, by family.
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

    /// Waits until the words of an `ip` or `bridge` command in a node are as wanted.
    fn until(
        &self,
        node: usize,
        command: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let what = format!("`{command}` on {} to be as wanted", self.places[node].name);
        eventually(&what, LIMIT, || {
            let said = said(&self.places[node], command)?;
            ensure!(wanted(&said), "{said}");
            Ok(())
        })
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

    /// The router learns where pods are, as a fabric that speaks BGP would.
    fn router_knows_pods(&self) -> anyhow::Result<()> {
        for place in &self.places {
            for family in [0, 1] {
                let via = Via::Gateway(place.address(family));
                self.fabric.tor.add_route(place.pod_cidr(family), via)?;
            }
        }
        Ok(())
    }

    fn ping(&self, from: usize, to: usize, family: usize) -> anyhow::Result<PingStream> {
        let (from, to) = (&self.places[from], self.places[to].pod_addresses[family]);
        pings(&from.pod, to)?;
        PingStream::start(&from.pod, to, Duration::from_millis(10))
    }
}

fn carries(scene: &Scene, mode: &str) -> anyhow::Result<()> {
    let cluster = Cluster::new(scene, &pools(mode))?;
    let near = if mode == "Always" { TUNNEL } else { PLAIN };
    cluster.until_over(0, 1, near)?;
    for (from, to) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
        cluster.until_over(from, to, TUNNEL)?;
    }
    cluster.all_reach_all()?;
    for node in &cluster.nodes {
        let status = node.text(&["status"])?;
        ensure!(!status.contains("Problems"), "{status}");
    }
    Ok(())
}

/// No packet is lost however the modes change, and no device stays that nobody asks for.
fn modes(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(scene, &pools("CrossSubnet"))?;
    cluster.router_knows_pods()?;
    cluster.until_over(0, 2, TUNNEL)?;
    cluster.until_over(2, 0, TUNNEL)?;
    let mut streams = Vec::new();
    for (from, to) in [(0, 1), (0, 2)] {
        for family in [0, 1] {
            streams.push((from, to, family, cluster.ping(from, to, family)?));
        }
    }
    for (mode, near, far) in [
        ("Always", TUNNEL, TUNNEL),
        ("CrossSubnet", PLAIN, TUNNEL),
        ("Never", PLAIN, PLAIN),
        ("Always", TUNNEL, TUNNEL),
        ("Never", PLAIN, PLAIN),
    ] {
        cluster.reload(&pools(mode))?;
        for (from, to, devices) in
            [(0, 1, near), (1, 0, near), (0, 2, far), (2, 0, far), (1, 2, far), (2, 1, far)]
        {
            cluster.until_over(from, to, devices).with_context(|| format!("in mode {mode}"))?;
        }
    }
    for node in 0..3 {
        cluster.until(node, "ip link show", |said| !said.contains("routelet-"))?;
    }
    for (from, to, family, stream) in streams {
        let report = stream.stop();
        ensure!(report.lost() == 0, "{from} to {to}, family {family}: {report}");
    }
    Ok(())
}

fn node_comes_and_goes(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(scene, &pools("Always"))?;
    cluster.until_over(0, 2, TUNNEL)?;
    let entries = |cluster: &Cluster, wanted: usize| {
        let all = move |said: &str| said.lines().filter(|line| line.contains("dst ")).count();
        cluster.until(0, "bridge fdb show dev routelet-vxlan", |said| all(said) == wanted)?;
        cluster.until(0, "ip neighbour show dev routelet-vxlan nud permanent", |said| {
            said.lines().count() == wanted
        })
    };
    entries(&cluster, 2)?;
    let without: Vec<_> = [1, 2].map(|number: u8| number).to_vec();
    let two: Vec<&Place> =
        cluster.places.iter().filter(|place| without.contains(&place.number)).collect();
    let yaml = of_places(&cluster.places[0], &two, &pools("Always"));
    let node = &mut cluster.nodes[0];
    node.configure(&yaml)?;
    node.reload()?;
    entries(&cluster, 1)?;
    let yaml = configuration(&cluster.places[0], &cluster.places, &pools("Always"));
    let node = &mut cluster.nodes[0];
    node.configure(&yaml)?;
    node.reload()?;
    entries(&cluster, 2)?;
    cluster.until_over(0, 2, TUNNEL)?;
    cluster.all_reach_all()
}

fn repair(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::new(scene, &pools("Always"))?;
    let netns = &cluster.places[0];
    cluster.until_over(0, 2, TUNNEL)?;
    cluster.all_reach_all()?;
    for command in [
        "ip neighbour flush dev routelet-vxlan nud permanent",
        "ip -6 neighbour flush dev routelet-vxlan6 nud permanent",
    ] {
        said(netns, command)?;
        pings(&netns.pod, cluster.places[2].pod_addresses[0]).context(command)?;
        pings(&netns.pod, cluster.places[2].pod_addresses[1]).context(command)?;
    }
    let fdb = said(netns, "bridge fdb show dev routelet-vxlan")?;
    let mac = fdb.split_whitespace().next().context("no entry")?;
    said(netns, &format!("bridge fdb del {mac} dev routelet-vxlan self"))?;
    cluster.until(0, "bridge fdb show dev routelet-vxlan", |said| said.contains(mac))?;
    // The last address takes the routes with it, without a word; setting the device down too.
    for command in [
        "ip address flush dev routelet-vxlan",
        "ip link set routelet-vxlan down",
        "ip link delete routelet-vxlan",
        "ip link set routelet-vxlan6 down",
        "ip link delete routelet-vxlan6",
    ] {
        said(netns, command)?;
        cluster.until_over(0, 2, TUNNEL).context(command)?;
        cluster.until_over(0, 1, TUNNEL).context(command)?;
        cluster.all_reach_all().context(command)?;
    }
    // A strict filter is made loose again.
    netns.netns.sysctl("net/ipv4/conf/routelet-vxlan/rp_filter", "1")?;
    eventually("the filter to be loose", LIMIT, || {
        let said = netns.netns.read_sysctl("net/ipv4/conf/routelet-vxlan/rp_filter")?;
        ensure!(said.trim() == "2", "{said}");
        Ok(())
    })?;
    let log = cluster.nodes[0].log();
    ensure!(log.contains("somebody removed the tunnel device"), "{log}");
    // A device is switched off before it goes; what was done about that must not count against the next.
    ensure!(!log.contains("ENODEV"), "{log}");
    Ok(())
}

fn mtu(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::new(scene, &pools("CrossSubnet"))?;
    cluster.until_over(0, 2, TUNNEL)?;
    cluster.until_over(2, 0, TUNNEL)?;
    cluster.until(0, "ip link show routelet-vxlan", |said| said.contains("mtu 1450 "))?;
    cluster.until(0, "ip link show routelet-vxlan6", |said| said.contains("mtu 1430 "))?;
    harness::program("ping", "iputils-ping")?;
    let pod = cluster.places[2].pod_addresses[0];
    // 20 octets of IPv4 and 8 of ICMP are part of the 1450; nothing may be cut into pieces.
    let full = format!("ping -n -c 1 -W 5 -M do -s 1422 {pod}");
    eventually("a full packet to pass", LIMIT, || said(&cluster.places[0], &full).map(drop))?;
    let more = format!("ping -n -c 1 -W 1 -M do -s 1423 {pod}");
    ensure!(said(&cluster.places[0], &more).is_err(), "one octet more passes");
    said(&cluster.places[0], "ip link set eth0 mtu 1400")?;
    cluster.until(0, "ip link show routelet-vxlan", |said| said.contains("mtu 1350 "))?;
    cluster.until(0, "ip link show routelet-vxlan6", |said| said.contains("mtu 1330 "))?;
    cluster.until_over(0, 2, TUNNEL)?;
    cluster.all_reach_all()
}

/// The device gets its new address before it loses the old one: no route is flushed.
fn own_pod_cidr_changes(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(scene, &pools("Always"))?;
    cluster.until_over(0, 2, TUNNEL)?;
    let stream = PingStream::start(
        &cluster.places[0].netns,
        cluster.places[2].pod_addresses[0],
        Duration::from_millis(10),
    )?;
    let before = configuration(&cluster.places[0], &cluster.places, &pools("Always"));
    // The old CIDR stays a pod CIDR, behind the new one: its first address is no longer ours.
    let after =
        before.replacen("podCIDRs: [10.244.1.0/24", "podCIDRs: [10.244.8.0/24, 10.244.1.0/24", 1);
    ensure!(before != after, "{before}");
    // The others know it first, as in a cluster the Node object would tell everybody.
    for index in [1, 2] {
        let yaml = configuration(&cluster.places[index], &cluster.places, &pools("Always"));
        let yaml =
            yaml.replacen("podCIDRs: [10.244.1.0/24", "podCIDRs: [10.244.8.0/24, 10.244.1.0/24", 1);
        cluster.nodes[index].configure(&yaml)?;
        cluster.nodes[index].reload()?;
    }
    cluster.nodes[0].configure(&after)?;
    cluster.nodes[0].reload()?;
    cluster.until(0, "ip address show dev routelet-vxlan", |said| {
        said.contains("10.244.8.0/32") && !said.contains("10.244.1.0/32")
    })?;
    let route = shown(&cluster.places[0], "10.244.3.0/24")?;
    ensure!(route.contains("src 10.244.8.0 "), "{route}");
    cluster.all_reach_all()?;
    let report = stream.stop();
    // What had left with the old source as the address went may not be answered.
    ensure!(report.lost() <= 2, "{report}");
    Ok(())
}

/// Whether a node is on our link is asked of the routes whenever they change.
fn decided_again(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::new(scene, &pools("CrossSubnet"))?;
    cluster.until_over(0, 1, PLAIN)?;
    let (node, tor) = (&cluster.places[0], address(1, 1, 0));
    let other = cluster.places[1].address(0);
    said(node, &format!("ip route add {other}/32 via {tor}"))?;
    cluster.until_over(0, 1, ["routelet-vxlan", "eth0"])?;
    // The two decide differently now, and still reach each other.
    cluster.all_reach_all()?;
    said(node, &format!("ip route del {other}/32"))?;
    cluster.until_over(0, 1, PLAIN)?;
    cluster.all_reach_all()
}

fn leftovers(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(scene, &pools("CrossSubnet"))?;
    cluster.router_knows_pods()?;
    cluster.until_over(0, 2, TUNNEL)?;
    cluster.nodes[0].stop()?;
    let theirs = "ip link add theirs type vxlan id 77 dstport 4790 dev eth0";
    said(&cluster.places[0], theirs)?;
    said(&cluster.places[0], "ip link set theirs up")?;
    let yaml = configuration(&cluster.places[0], &cluster.places, &pools("Never"));
    let node = &mut cluster.nodes[0];
    node.configure(&yaml)?;
    node.start()?;
    cluster.until_over(0, 2, PLAIN)?;
    cluster.until(0, "ip link show", |said| !said.contains("routelet-") && said.contains("theirs"))
}

fn words(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::new(scene, &pools("CrossSubnet"))?;
    cluster.until_over(0, 2, TUNNEL)?;
    cluster.until_over(0, 1, PLAIN)?;
    let node = &cluster.nodes[0];
    let far = node.text(&["explain", "10.244.3.0/24"])?;
    for words in [
        "VXLAN by routelet-vxlan: the pool asks for VXLAN CrossSubnet, and node node3 is behind a gateway",
        "MTU:            1450",
        "10.244.3.0 on routelet-vxlan: 02:",
        "permanent",
    ] {
        ensure!(far.contains(words), "{words:?} is not in\n{far}");
    }
    let near = node.text(&["explain", "10.244.2.0/24"])?;
    for words in [
        "none: the pool asks for VXLAN CrossSubnet, and 172.30.1.12 is on link, dev eth0",
        "MTU:            1500",
    ] {
        ensure!(near.contains(words), "{words:?} is not in\n{near}");
    }
    let routes = node.json(&["routes", "10.244.3.0/24"])?;
    ensure!(routes[0]["device"] == "routelet-vxlan", "{routes}");
    ensure!(routes[0]["encapsulation"] == "VXLAN", "{routes}");
    let status = node.text(&["status"])?;
    let line = "routelet-vxlan (VXLAN): up, from 172.30.1.11 to 2 nodes, MTU 1450, its own address 10.244.1.0";
    ensure!(status.contains(line), "{line:?} is not in\n{status}");
    Ok(())
}

fn withdraw(scene: &Scene) -> anyhow::Result<()> {
    let cluster = Cluster::new(scene, &pools("Always"))?;
    cluster.until_over(0, 2, TUNNEL)?;
    cluster.nodes[0].text(&["stop", "--withdraw"])?;
    cluster.until(0, "ip link show", |said| !said.contains("routelet-"))?;
    cluster.until(0, "ip route show proto 179", str::is_empty)
}

/// Where the kernel has no IP-in-IP, the routes that need it stay out, and the rest works.
fn no_ipip(scene: &Scene) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(scene, &pools("Never"))?;
    let probe = said(&cluster.places[0], "ip link add probe type ipip local 172.30.1.11");
    if probe.is_ok() {
        return Err(
            harness::Skip("this kernel has IP-in-IP; see the tests under uml".to_owned()).into()
        );
    }
    cluster.until_over(0, 2, PLAIN)?;
    cluster.reload("[{name: v4, cidr: 10.244.0.0/16, ipipMode: CrossSubnet}]")?;
    // What stood there in the open goes.
    cluster.until(0, "ip route show proto 179", |said| !said.contains("10.244.3.0/24"))?;
    cluster.until_over(0, 1, PLAIN)?;
    let reason = "this kernel has no IP-in-IP: load the module (`modprobe ipip` on the host) or use vxlanMode";
    let node = &cluster.nodes[0];
    eventually("the reason to be told", LIMIT, || {
        for command in [&["status"][..], &["routes"], &["explain", "10.244.3.0/24"]] {
            let said = node.text(command)?;
            ensure!(said.contains(reason), "{command:?}: {said}");
        }
        Ok(())
    })?;
    ensure!(node.log().contains("this kernel has no IP-in-IP"), "it is not in the log");
    pings(&cluster.places[0].pod, cluster.places[1].pod_addresses[0])
}

fn pools(mode: &str) -> String {
    format!(
        "[{{name: v4, cidr: 10.244.0.0/16, vxlanMode: {mode}}}, \
         {{name: v6, cidr: 'fd44::/32', vxlanMode: {mode}}}]"
    )
}

fn configuration(place: &Place, places: &[Place], pools: &str) -> String {
    of_places(place, &places.iter().collect::<Vec<_>>(), pools)
}

fn of_places(place: &Place, places: &[&Place], pools: &str) -> String {
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
    let shown = said(place, &format!("ip {family} route show exact {prefix} proto 179"))?;
    Ok(shown.split_whitespace().collect::<Vec<_>>().join(" ") + " ")
}

/// What a command says in a node.
fn said(place: &Place, command: &str) -> anyhow::Result<String> {
    let mut words = command.split_whitespace();
    let program = words.next().context("no command")?;
    place.netns.output(Command::new(program).args(words))
}
