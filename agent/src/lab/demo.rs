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
//! Pods of one subnet reach each other without a tunnel, pods of different ones through IP-in-IP or
//! VXLAN, whatever the kernel has. The ToR runs routelet as well and takes no pod routes, unless the
//! kernel has neither. The server's network is what the ToR originates; nodes take it because a filter
//! of theirs says so, since the default policy accepts pod prefixes only.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ipnet::IpNet;

use self::files::NODES;
use super::cni::{self, Attachment, Runtime};
use super::netns::{Netns, Via};
use super::network::{Network, attach_pod, everything};
use super::node::Node;
use super::ping::{PingReport, PingStream, ping, reaches};
use super::{LabArgs, now, sandbox, wait_until};

mod files;

pub use self::files::{Way, Ways};

/// How long sessions may take to come up.
const SESSIONS: Duration = Duration::from_secs(12);
/// How long the first packet may take to pass once sessions are up.
const FIRST_PACKET: Duration = Duration::from_secs(5);

const SERVER_V4: &str = "198.51.100.10";
const SERVER_V6: &str = "2001:db8:100::10";

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
    let ways = Ways::probe()?;
    screen.step(&ways.words())?;
    let mut lab = Lab::build(ways, args.remove_route.is_none())?;
    screen.step("starting routelet on tor, node-a, node-b and node-c")?;
    lab.start()?;
    screen.step(
        "all sessions are established: the mesh (iBGP, AS 64512) and the ToR's (eBGP, AS 65001)",
    )?;

    screen.step(&lab.attach_pods()?)?;
    if let Some(words) = lab.see_nat()? {
        screen.step(&words)?;
    }
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
    _server: Netns,
    ways: Ways,
    /// What leaves the pools gets the node's address.
    nat: bool,
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
    fn build(ways: Ways, repair: bool) -> anyhow::Result<Self> {
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
        let mut nodes =
            vec![Node::new("tor", &tor, &binary, &folder("tor"), &files::tor(ways, repair))?];
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
            let mut yaml = files::node(name, subnet, number, ways, repair);
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
        Ok(Self { nodes, pods, _server: server, ways, nat: false, plugins, _lans: lans })
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

    /// Looks whether pods can talk to what knows no pod addresses. Says so if not.
    fn see_nat(&mut self) -> anyhow::Result<Option<String>> {
        let status = self.nodes[1].json(&["status"])?;
        self.nat = !status["problems"].to_string().contains("natOutgoing is unavailable");
        let needed = self.ways.v4 != Way::Router || self.ways.v6 != Way::Router;
        Ok((needed && !self.nat).then(|| {
            "this kernel has no nftables, so no source NAT: nodes ping the server in place of pods, \
             whose addresses the ToR does not know"
                .to_owned()
        }))
    }

    /// Whether the server and a pod reach each other in a family.
    fn server_knows_pods(&self, ipv4: bool) -> bool {
        self.nat || self.ways.of(ipv4) == Way::Router
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
    fn pairs(&self) -> Vec<(&str, &Netns, String, IpAddr)> {
        let mut pairs = Vec::new();
        for (from, node) in self.pods.iter().zip(&self.nodes[1..]) {
            for to in self.pods.iter().filter(|to| to.name != from.name) {
                pairs.extend(
                    to.addresses.iter().map(|address| {
                        (from.name.as_str(), &from.netns, to.name.clone(), *address)
                    }),
                );
            }
            for address in [SERVER_V4, SERVER_V6] {
                let address: IpAddr =
                    address.parse().expect("invariant: the constant is an address");
                let (name, netns) = if self.server_knows_pods(address.is_ipv4()) {
                    (from.name.as_str(), &from.netns)
                } else {
                    (node.name(), node.netns())
                };
                pairs.push((name, netns, "server".to_owned(), address));
            }
        }
        pairs
    }

    /// Waits until one packet has passed between every pair.
    fn reach_everywhere(&self, screen: &Screen) -> anyhow::Result<bool> {
        let reports = self.each_pair(|from, address| reaches(from, address, FIRST_PACKET))?;
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
            ping(from, address, 5, Duration::from_millis(20), Duration::from_secs(1))
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
        job: impl Fn(&Netns, IpAddr) -> anyhow::Result<PingReport> + Sync,
    ) -> anyhow::Result<Vec<(String, PingReport)>> {
        let job = &job;
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .pairs()
                .into_iter()
                .map(|(name, from, to, address)| {
                    let pair = format!("{name} → {to:<6} {address:<16}");
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
        let mut streams = [(a, b), (b, a), (c, b), (b, c), (a, c)]
            .map(|(from, to)| {
                (&from.netns, format!("{} → {}", from.name, to.name), to.addresses[0])
            })
            .to_vec();
        if self.server_knows_pods(true) {
            streams.push((&b.netns, "pod-b → server".to_owned(), SERVER_V4.parse()?));
        }
        let streams: Vec<_> = streams
            .into_iter()
            .map(|(from, words, to)| {
                let stream = PingStream::start(from, to, Duration::from_millis(10))?;
                Ok((words, stream))
            })
            .collect::<anyhow::Result<_>>()?;
        screen.step("restarting routelet on node-b while pods ping every 10 ms")?;
        std::thread::sleep(Duration::from_millis(300));
        let node = &mut self.nodes[2];
        node.stop()?;
        node.start()?;
        node.wait_established(3, SESSIONS)?;
        screen.step("node-b is back, its sessions are established")?;
        std::thread::sleep(Duration::from_millis(500));
        for (words, stream) in streams {
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
