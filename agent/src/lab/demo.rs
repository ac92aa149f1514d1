//! What `routelet lab` builds and does.
//!
//! ```text
//!   pod-a        pod-b                          pod-c
//!     │            │                              │        each node announces its pod CIDRs:
//!   node-a       node-b                         node-c     10.244.N.0/24 and fd44:0:0:N::/64
//!     │ .11        │ .12                          │ .13    AS 64512, a full mesh (iBGP)
//!  ───┴──subnet 1──┴────┐                 ┌─subnet 2─┴───
//!  172.30.1.0/24        │ .1           .1 │  172.30.2.0/24
//!  fd30:0:0:1::/64      └────── tor ──────┘  fd30:0:0:2::/64   AS 65001, eBGP with every node
//!                                │ .1
//!                              server     198.51.100.0/24, announced by the ToR
//! ```
//!
//! The ToR runs routelet as well. It knows the pod prefixes, so it forwards packets between pods of
//! the two subnets without a tunnel. The server's network is what the ToR originates; nodes take it
//! because a filter of theirs says so, since the default policy accepts pod prefixes only.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ipnet::IpNet;

use super::cni::{self, Attachment, Runtime};
use super::netns::{Netns, Via};
use super::network::{Network, attach_pod, everything};
use super::node::Node;
use super::ping::{PingReport, PingStream, ping, reaches};
use super::{LabArgs, now, sandbox, wait_until};

/// How long sessions may take to come up.
const SESSIONS: Duration = Duration::from_secs(12);
/// How long the first packet may take to pass once sessions are up.
const FIRST_PACKET: Duration = Duration::from_secs(5);

const SERVER_V4: &str = "198.51.100.10";
const SERVER_V6: &str = "2001:db8:100::10";

/// Name, subnet and number of each node.
const NODES: [(&str, u8, u8); 3] = [("node-a", 1, 1), ("node-b", 1, 2), ("node-c", 2, 3)];

/// Where a node of the lab keeps its configuration, socket, state and log.
#[must_use]
pub fn folder(name: &str) -> PathBuf {
    Path::new("/run/lab").join(name)
}

/// Builds the lab and tells the story. Inside a sandbox only.
///
/// # Errors
/// If it cannot be built, or its sessions do not come up.
pub fn run(args: &LabArgs) -> anyhow::Result<bool> {
    ensure!(sandbox::is_inside(), "the lab is built in a sandbox only");
    let screen = Screen { start: now() };
    screen.step("3 nodes with a pod each in 2 subnets, a ToR between them, a server behind it")?;
    let mut lab = Lab::build(args.remove_route.is_none())?;
    screen.step("starting routelet on tor, node-a, node-b and node-c")?;
    lab.start()?;
    screen.step(
        "all sessions are established: the mesh (iBGP, AS 64512) and the ToR's (eBGP, AS 65001)",
    )?;

    screen.step(&lab.attach_pods()?)?;
    let mut reached = lab.reach_everywhere(&screen)?;
    screen.show("routelet peers, on node-a", &lab.nodes[1].text(&["peers"])?)?;
    screen.show("routelet routes, on node-a", &lab.nodes[1].text(&["routes"])?)?;
    screen.show(
        "routelet explain 10.244.3.2 (pod-c), on node-a",
        &lab.nodes[1].text(&["explain", "10.244.3.2"])?,
    )?;
    if let Some((node, prefix)) = &args.remove_route {
        let count = lab.node(node)?.netns().delete_routes(*prefix)?;
        ensure!(count > 0, "{node} has no route to {prefix} in its kernel");
        screen.step(&format!("the route to {prefix} is taken out of {node}'s kernel"))?;
    }
    reached &= lab.ping_everywhere(&screen)?;
    if reached {
        lab.restart(&screen)?;
    }
    if args.keep {
        screen.show("the lab stays up", &how_to_enter()?)?;
        loop {
            // Ctrl-C and `--down` end this process from outside, and all of the lab with it.
            std::thread::park();
        }
    }
    lab.detach_pods()?;
    let names: Vec<String> = lab.nodes.iter().map(|node| node.name().to_owned()).collect();
    for node in &mut lab.nodes {
        node.stop()?;
    }
    drop(lab);
    let verdict =
        if reached { "every pod reached every other" } else { "PODS DID NOT REACH EACH OTHER" };
    screen.step(&format!("{} are stopped, the lab is taken down: {verdict}", names.join(", ")))?;
    Ok(reached)
}

/// The running lab: the ToR is the first node.
struct Lab {
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    server: Netns,
    /// Folder of the CNI plugins.
    plugins: Option<PathBuf>,
    // Switches and the like live as long as the lab.
    _lans: Vec<super::network::Lan>,
}

struct Pod {
    name: String,
    netns: Netns,
    /// What it got when it was attached.
    addresses: Vec<IpAddr>,
    /// By whom, if by the plugins.
    attached: Option<(Runtime, Attachment)>,
}

impl Lab {
    fn build(repair: bool) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("cannot find this program")?;
        let network = Network::new("");
        let tor = network.router("tor")?;
        let mut lans = Vec::new();
        for subnet in [1, 2] {
            let lan = network.lan(&format!("subnet-{subnet}"))?;
            lan.attach(&tor, &format!("eth{subnet}"), &node_addresses(subnet, 1)?)?;
            lans.push(lan);
        }
        let server = network.host("server")?;
        let behind = network.lan("servers")?;
        behind.attach(
            &tor,
            "eth3",
            &["198.51.100.1/24".parse()?, "2001:db8:100::1/64".parse()?],
        )?;
        behind.attach(
            &server,
            "eth0",
            &[format!("{SERVER_V4}/24").parse()?, format!("{SERVER_V6}/64").parse()?],
        )?;
        for gateway in ["198.51.100.1", "2001:db8:100::1"] {
            default_route(&server, gateway.parse()?)?;
        }
        lans.push(behind);

        let plugins = cni::installed();
        let mut nodes = vec![Node::new("tor", &tor, &binary, &folder("tor"), &tor_yaml(repair))?];
        let mut pods = Vec::new();
        for (name, subnet, number) in NODES {
            let netns = network.router(name)?;
            let addresses = node_addresses(subnet, 10 + number)?;
            lans[usize::from(subnet) - 1].attach(&netns, "eth0", &addresses)?;
            for gateway in node_addresses(subnet, 1)? {
                default_route(&netns, gateway.addr())?;
            }
            let pod_name = name.replace("node", "pod");
            let pod = network.host(&pod_name)?;
            pods.push(Pod { name: pod_name, netns: pod, addresses: Vec::new(), attached: None });
            let mut yaml = node_yaml(name, subnet, number, repair);
            if let Some(plugins) = &plugins {
                let _ = writeln!(
                    yaml,
                    "cni: {{enabled: true, confDir: {}, binDirs: [{}]}}",
                    conf_dir(name).display(),
                    plugins.display()
                );
            }
            nodes.push(Node::new(name, &netns, &binary, &folder(name), &yaml)?);
        }
        Ok(Self { nodes, pods, server, plugins, _lans: lans })
    }

    /// Gives each node its pod, as soon as the node says that it is ready for it. Says how.
    fn attach_pods(&mut self) -> anyhow::Result<String> {
        let Some(plugins) = &self.plugins else {
            for ((_, _, number), (node, pod)) in
                NODES.iter().zip(self.nodes[1..].iter().zip(&mut self.pods))
            {
                pod.addresses = attach_pod(node.netns(), "pod0", &pod.netns, &pod_cidrs(*number)?)?;
            }
            return Ok("pods are attached by hand: the CNI plugins are not installed (Debian: \
                       apt-get install containernetworking-plugins)"
                .to_owned());
        };
        let mut mtu = 0;
        for (node, pod) in self.nodes[1..].iter().zip(&mut self.pods) {
            let directory = conf_dir(node.name());
            let file = directory.join(crate::cni::FILE_NAME);
            wait_until(&format!("the CNI configuration of {}", node.name()), SESSIONS, || {
                if file.exists() { Ok(()) } else { node_problems(node) }
            })?;
            let state = folder(node.name()).join("cni-state");
            let runtime = Runtime::load(node.netns(), &directory, plugins, &state)?;
            let attachment = runtime.add(&pod.netns)?;
            pod.addresses.clone_from(&attachment.addresses);
            pod.attached = Some((runtime, attachment));
            mtu = pod.netns.mtu("eth0")?;
        }
        Ok(format!(
            "a pod on each node, attached by the CNI plugins ptp, host-local and portmap with the \
             configuration that routelet wrote (MTU {mtu})"
        ))
    }

    fn detach_pods(&mut self) -> anyhow::Result<()> {
        self.pods
            .iter_mut()
            .filter_map(|pod| pod.attached.take())
            .try_for_each(|(runtime, attachment)| runtime.del(&attachment))
    }

    fn start(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.start()?;
        }
        // Each has the three others: the ToR its nodes, a node the two others and the ToR.
        self.nodes.iter_mut().try_for_each(|node| node.wait_established(3, SESSIONS))
    }

    fn node(&self, name: &str) -> anyhow::Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("the lab has no node {name}"))
    }

    /// All directed pairs: from whom, to whom, at which address.
    fn pairs(&self) -> Vec<(&Pod, String, IpAddr)> {
        let mut pairs = Vec::new();
        for from in &self.pods {
            for to in self.pods.iter().filter(|to| to.name != from.name) {
                pairs.extend(to.addresses.iter().map(|address| (from, to.name.clone(), *address)));
            }
            for address in [SERVER_V4, SERVER_V6] {
                let address = address.parse().expect("invariant: the constant is an address");
                pairs.push((from, "server".to_owned(), address));
            }
        }
        pairs
    }

    /// Waits until one packet has passed between every pair.
    fn reach_everywhere(&self, screen: &Screen) -> anyhow::Result<bool> {
        let reports =
            self.each_pair(|from, address| reaches(&from.netns, address, FIRST_PACKET))?;
        let missing: Vec<&String> = reports
            .iter()
            .filter(|(_, report)| report.received == 0)
            .map(|(pair, _)| pair)
            .collect();
        if missing.is_empty() {
            screen.step(&format!("packets pass between all {} pairs", reports.len()))?;
        } else {
            for pair in &missing {
                screen.line(&format!("NOT REACHED  {pair}"))?;
            }
        }
        Ok(missing.is_empty())
    }

    /// Counts five packets between every pair.
    fn ping_everywhere(&self, screen: &Screen) -> anyhow::Result<bool> {
        let reports = self.each_pair(|from, address| {
            ping(&from.netns, address, 5, Duration::from_millis(20), Duration::from_secs(1))
        })?;
        screen.step("five pings between every pair of pods, and to the server")?;
        for (pair, report) in &reports {
            let verdict = if report.received > 0 { "" } else { "  NOT REACHED" };
            let slowest = report.slowest.as_secs_f64() * 1000.0;
            screen.line(&format!("{pair}  {report}, at most {slowest:.2} ms{verdict}"))?;
        }
        Ok(reports.iter().all(|(_, report)| report.received > 0))
    }

    /// Pings from several threads at once; in the order of the pairs.
    fn each_pair(
        &self,
        job: impl Fn(&Pod, IpAddr) -> anyhow::Result<PingReport> + Sync,
    ) -> anyhow::Result<Vec<(String, PingReport)>> {
        let job = &job;
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .pairs()
                .into_iter()
                .map(|(from, to, address)| {
                    let pair = format!("{} → {to:<6} {address:<16}", from.name);
                    (pair, scope.spawn(move || job(from, address)))
                })
                .collect();
            threads
                .into_iter()
                .map(|(pair, thread)| match thread.join() {
                    Ok(report) => Ok((pair, report?)),
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        })
    }

    /// Restarts the agent of node-b while packets pass, every 10 ms, and reports what was lost.
    fn restart(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let [a, b, c] = &self.pods[..] else { unreachable!("invariant: three pods were built") };
        let server = Pod {
            name: "server".into(),
            netns: self.server.clone(),
            addresses: Vec::new(),
            attached: None,
        };
        let streams = [(a, b), (b, a), (c, b), (b, c), (a, c), (&server, b)].map(|(from, to)| {
            let words = format!("{} → {}", from.name, to.name);
            PingStream::start(&from.netns, to.addresses[0], Duration::from_millis(10))
                .map(|stream| (words, stream))
        });
        screen.step("restarting routelet on node-b while pods ping every 10 ms")?;
        std::thread::sleep(Duration::from_millis(300));
        let node = &mut self.nodes[2];
        node.stop()?;
        node.start()?;
        node.wait_established(3, SESSIONS)?;
        screen.step("node-b is back, its sessions are established")?;
        std::thread::sleep(Duration::from_millis(500));
        for stream in streams {
            let (words, stream) = stream?;
            screen.line(&format!("{words:<16}  {}", stream.stop()))?;
        }
        Ok(())
    }
}

/// Where the agent of a node writes its CNI configuration.
fn conf_dir(name: &str) -> PathBuf {
    folder(name).join("net.d")
}

/// Why the CNI configuration is not there yet.
fn node_problems(node: &Node) -> Result<(), String> {
    let status = node.json(&["status"]).map_err(|error| format!("{error:#}"))?;
    Err(status["cni"].to_string())
}

/// Progress with the time since the start.
struct Screen {
    start: Instant,
}

impl Screen {
    fn step(&self, words: &str) -> anyhow::Result<()> {
        let elapsed = (now() - self.start).as_secs_f64();
        writeln!(std::io::stdout().lock(), "[{elapsed:5.1} s] {words}").context("cannot print")
    }

    fn line(&self, words: &str) -> anyhow::Result<()> {
        writeln!(std::io::stdout().lock(), "          {words}").context("cannot print")
    }

    fn show(&self, title: &str, text: &str) -> anyhow::Result<()> {
        self.step(&format!("{title}:"))?;
        writeln!(std::io::stdout().lock(), "\n{}\n", text.trim_end()).context("cannot print")
    }
}

fn node_addresses(subnet: u8, number: u8) -> anyhow::Result<[IpNet; 2]> {
    Ok([
        format!("172.30.{subnet}.{number}/24").parse()?,
        format!("fd30:0:0:{subnet}::{number}/64").parse()?,
    ])
}

fn pod_cidrs(number: u8) -> anyhow::Result<[IpNet; 2]> {
    Ok([format!("10.244.{number}.0/24").parse()?, format!("fd44:0:0:{number}::/64").parse()?])
}

fn default_route(netns: &Netns, gateway: IpAddr) -> anyhow::Result<()> {
    netns.add_route(everything(gateway), Via::Gateway(gateway))
}

/// The node itself, as both `node:` and an entry of `nodes:` have it.
fn node_words(name: &str, subnet: u8, number: u8) -> String {
    let host = 10 + number;
    format!(
        "{{name: {name}, addresses: [172.30.{subnet}.{host}/24, 'fd30:0:0:{subnet}::{host}/64'], \
         podCIDRs: [10.244.{number}.0/24, 'fd44:0:0:{number}::/64']}}"
    )
}

fn node_yaml(name: &str, subnet: u8, number: u8, repair: bool) -> String {
    let mut others = String::new();
    for (other, subnet, number) in NODES.iter().filter(|(other, ..)| *other != name) {
        let _ = writeln!(others, "  - {}", node_words(other, *subnet, *number));
    }
    format!(
        "node: {}
bgp: {{asNumber: 64512, nodeToNodeMeshEnabled: true}}
nodes:
{others}peers:
  - {{name: tor, peerIP: 172.30.{subnet}.1, asNumber: 65001, filters: [servers]}}
filters:
  - name: servers
    importV4: [{{action: Accept, cidr: 198.51.100.0/24, matchOperator: Equal}}]
    importV6: [{{action: Accept, cidr: '2001:db8:100::/64', matchOperator: Equal}}]
pools:
  - {{name: pods, cidr: 10.244.0.0/16}}
  - {{name: pods6, cidr: 'fd44::/48'}}
kernel: {{enabled: true, repair: {repair}}}
",
        node_words(name, subnet, number)
    )
}

fn tor_yaml(repair: bool) -> String {
    let mut peers = String::new();
    for (name, subnet, number) in NODES {
        let _ = writeln!(
            peers,
            "  - {{name: {name}, peerIP: 172.30.{subnet}.{}, asNumber: 64512}}",
            10 + number
        );
    }
    format!(
        "node:
  name: tor
  addresses: [172.30.1.1/24, 172.30.2.1/24, 'fd30:0:0:1::1/64', 'fd30:0:0:2::1/64']
  podCIDRs: [198.51.100.0/24, '2001:db8:100::/64']
bgp: {{asNumber: 65001, nodeToNodeMeshEnabled: false}}
peers:
{peers}pools:
  - {{name: pods, cidr: 10.244.0.0/16}}
  - {{name: pods6, cidr: 'fd44::/48'}}
  - {{name: servers, cidr: 198.51.100.0/24}}
  - {{name: servers6, cidr: '2001:db8:100::/64'}}
kernel: {{enabled: true, repair: {repair}}}
"
    )
}

fn how_to_enter() -> anyhow::Result<String> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let program = program.display();
    let mut names: Vec<String> = fs::read_dir(super::netns::DIRECTORY)
        .context("cannot list the namespaces")?
        .flatten()
        .map(|entry| entry.file_name().display().to_string())
        .collect();
    names.sort();
    Ok(format!(
        "In another terminal, as the same user:
  {program} lab --enter node-a                           a shell on node-a
  {program} lab --enter node-a -- routelet routes        a command there
  {program} lab --enter pod-a -- ping 10.244.3.2         a pod is entered the same way
  {program} lab --down                                   takes it down, as Ctrl-C does here
As root also: nsenter --net=/proc/{}/root/run/netns/node-a
There are {}.",
        sandbox::outer_pid(),
        names.join(", ")
    ))
}
