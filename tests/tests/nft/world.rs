//! A node with a pod, and a machine beside it that plays other nodes, strangers and the Internet.
//!
//! ```text
//!  pod 10.244.1.2, fd44:1::2 ── pod0 node eth0 192.0.2.1, 2001:db8::1 ── eth0 beside .2 to .9
//!                                                          beside also has 203.0.113.9, fd99::9
//! ```

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use routelet::lab::netns::{Netns, Via};
use routelet::lab::network::attach_pod;
use routelet::nft::{FirewallConfig, FirewallHandle};
use routelet_tests::harness;
use routelet_tests::scene::Scene;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// How long something that must not arrive is waited for.
pub const QUIET: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);

/// See the module.
pub struct World {
    pub node: Netns,
    pub pod: Netns,
    pub beside: Netns,
}

/// Runs a test in the node's namespace, on one thread with a runtime of its own.
pub fn inside<F>(scene: &Scene, test: impl FnOnce(World) -> F + Send) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    harness::program("nft", "nftables")?;
    let world = World::new(scene)?;
    world.node.clone().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(test(world))
    })
}

impl World {
    /// The machines, without a firewall.
    pub fn new(scene: &Scene) -> anyhow::Result<Self> {
        let network = scene.network();
        let (node, pod, beside) =
            (network.router("node")?, network.host("pod")?, network.host("beside")?);
        node.veth("eth0", &beside, "eth0")?;
        for address in ["192.0.2.1/24", "2001:db8::1/64"] {
            node.add_address("eth0", address.parse()?)?;
        }
        for address in ["192.0.2.2/24", "192.0.2.9/24", "2001:db8::2/64", "2001:db8::9/64"] {
            beside.add_address("eth0", address.parse()?)?;
        }
        for address in ["203.0.113.9/32", "fd99::9/128", "10.244.2.2/32", "fd44:2::2/128"] {
            beside.add_address("lo", address.parse()?)?;
        }
        for (to, via) in [
            ("203.0.113.0/24", "192.0.2.2"),
            ("10.244.2.0/24", "192.0.2.2"),
            ("198.51.100.0/24", "192.0.2.2"),
            ("fd99::/64", "2001:db8::2"),
            ("fd44:2::/64", "2001:db8::2"),
        ] {
            node.add_route(to.parse()?, Via::Gateway(via.parse()?))?;
        }
        attach_pod(&node, "pod0", &pod, &["10.244.1.0/24".parse()?, "fd44:1::/64".parse()?])?;
        Ok(Self { node, pod, beside })
    }

    /// Gives the machine beside a way back to the pods; without it only NAT brings answers.
    pub fn route_back(&self) -> anyhow::Result<()> {
        self.beside.add_route("10.244.1.0/24".parse()?, Via::Gateway("192.0.2.1".parse()?))?;
        self.beside.add_route("fd44:1::/64".parse()?, Via::Gateway("2001:db8::1".parse()?))
    }

    /// Runs a program in the node.
    pub fn run(&self, words: &str) -> anyhow::Result<String> {
        run(&self.node, words)
    }

    /// Feeds `nft` with a script in the node.
    pub fn nft(&self, script: &str) -> anyhow::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        // A statement ends with its line, also before a brace.
        std::fs::write(file.path(), script.replace('}', "\n}"))?;
        self.run(&format!("nft -f {}", file.path().display())).map(drop)
    }

    /// Our table as `nft` lists it; empty if it is not there.
    pub fn table(&self) -> String {
        self.run("nft list table inet routelet").unwrap_or_default()
    }

    /// Starts the firewall.
    pub async fn start(&self, config: FirewallConfig) -> anyhow::Result<FirewallHandle> {
        let firewall = FirewallHandle::start(config).await;
        let problems = firewall.status().await.problems;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(firewall)
    }

    /// Packets the node's rule with this comment has counted.
    pub fn counted(&self, comment: &str) -> anyhow::Result<u64> {
        let table = self.table();
        let line = table.lines().find(|line| line.contains(comment));
        let line = line.with_context(|| format!("no rule `{comment}` in {table}"))?;
        let (_, count) = line.split_once("packets ").context("no counter")?;
        Ok(count.split_whitespace().next().context("no count")?.parse()?)
    }
}

/// Runs a program in a namespace.
pub fn run(netns: &Netns, words: &str) -> anyhow::Result<String> {
    let mut words = words.split_whitespace();
    let name = words.next().context("nothing to run")?;
    netns.output(Command::new(harness::program(name, name)?).args(words))
}

/// What the node of the world is configured with: node 192.0.2.2 is known, .9 is not.
pub fn config() -> FirewallConfig {
    FirewallConfig {
        enabled: true,
        guard: true,
        own_addresses: addresses("192.0.2.1 2001:db8::1"),
        node_addresses: addresses("192.0.2.2 2001:db8::2"),
        own_pod_cidrs: nets("10.244.1.0/24 fd44:1::/64"),
        pods: nets("10.244.0.0/16 fd44::/16"),
        repair: true,
        ..FirewallConfig::default()
    }
}

pub fn nets(words: &str) -> Vec<IpNet> {
    words.split_whitespace().map(|net| net.parse().expect("a prefix")).collect()
}

pub fn addresses(words: &str) -> BTreeSet<IpAddr> {
    words.split_whitespace().map(|address| address.parse().expect("an address")).collect()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A socket that hears what arrives in a namespace: UDP on a port, or raw for a protocol.
pub struct Ear(Socket);

impl Ear {
    /// UDP.
    pub fn udp(netns: &Netns, address: &str, port: u16) -> anyhow::Result<Self> {
        let address = SocketAddr::new(ip(address), port);
        let socket = netns.run(|| {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            Ok::<_, io::Error>(socket)
        });
        Ok(Self(socket.with_context(|| format!("udp {address}"))?))
    }

    /// Packets of IP protocol 4.
    pub fn ipip(netns: &Netns) -> anyhow::Result<Self> {
        let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(4)));
        Ok(Self(netns.run(raw).context("raw socket")?))
    }

    /// Where the next packet comes from; `None`: there is none for a while.
    pub fn hears(&self, patience: Duration) -> anyhow::Result<Option<IpAddr>> {
        self.0.set_read_timeout(Some(patience))?;
        let mut buffer = [std::mem::MaybeUninit::uninit(); 2048];
        match self.0.recv_from(&mut buffer) {
            Ok((_, from)) => Ok(from.as_socket().map(|from| from.ip())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// That a packet comes, from there.
    pub fn must_hear(&self, from: &str) -> anyhow::Result<()> {
        match self.hears(LONG)? {
            Some(found) if found == ip(from) => Ok(()),
            found => bail!("a packet from {from} was expected, not from {found:?}"),
        }
    }

    /// That nothing comes.
    pub fn must_not_hear(&self) -> anyhow::Result<()> {
        match self.hears(QUIET)? {
            None => Ok(()),
            Some(from) => bail!("a packet from {from} came through"),
        }
    }
}

/// Sends a UDP packet.
pub fn send_udp(
    netns: &Netns,
    from: &str,
    to: &str,
    port: u16,
    payload: &[u8],
) -> anyhow::Result<()> {
    // An IPv6 address cannot be used in the first moments of its link.
    harness::eventually(&format!("udp from {from} to {to}"), LONG, || {
        netns.run(|| UdpSocket::bind((ip(from), 0))?.send_to(payload, (ip(to), port)))?;
        Ok(())
    })
}

/// Sends a packet of IP protocol 4 with a senseless IPv4 header inside.
pub fn send_ipip(netns: &Netns, from: &str, to: &str) -> anyhow::Result<()> {
    let address = |text| SockAddr::from(SocketAddr::new(ip(text), 0));
    netns
        .run(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(4)))?;
            socket.bind(&address(from))?;
            socket.send_to(
                &[0x45, 0, 0, 20, 0, 0, 0, 0, 1, 59, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2],
                &address(to),
            )
        })
        .with_context(|| format!("protocol 4 from {from} to {to}"))?;
    Ok(())
}

/// Waits, letting the firewall's task run.
pub async fn eventually(
    what: &str,
    mut probe: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match probe() {
            Ok(()) => return Ok(()),
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(error.context(format!("waited for {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
