//! A node with two links in a namespace of its own, the kernel side running in it, and a speaker
//! that only remembers what it is told. `ip` checks independently.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ipnet::IpNet;
use routelet::kernel::{
    KernelConfig, KernelHandle, KernelStatus, NextHopSink, NexthopObjects, RouteStatus, Tuning,
    TunnelConfig,
};
use routelet::lab::netns::Netns;
use routelet_bgp::core::forwarding::{ForwardingNextHop, NextHopAnswer, NextHopState, RouteChange};
use routelet_bgp::io::RouteQueue;
use routelet_tests::harness;
use routelet_tests::scene::Scene;

/// The namespace of the test, `eth0` (10.0.0.1/24, fd00::1/64) and `eth1` (10.0.1.1/24,
/// fd00:0:0:1::1/64) with their other ends `peer0` and `peer1` in another.
pub struct World {
    pub node: Netns,
    pub peer: Netns,
}

/// Runs a test in a world, on one thread with a runtime of its own.
pub fn inside<F>(scene: &Scene, test: impl FnOnce(World) -> F + Send) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    harness::program("ip", "iproute2")?;
    let network = scene.network();
    let (node, peer) = (network.host("node")?, network.host("peer")?);
    for number in 0..2 {
        let device = format!("eth{number}");
        node.veth(&device, &peer, &format!("peer{number}"))?;
        node.add_address(&device, format!("10.0.{number}.1/24").parse()?)?;
        node.add_address(&device, format!("fd00:0:0:{number}::1/64").parse()?)?;
        peer.add_address(&format!("peer{number}"), format!("10.0.{number}.2/24").parse()?)?;
    }
    // A test that does not care for its world would let go of it before it has begun.
    let _kept = (node.clone(), peer.clone());
    node.clone().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(test(World { node, peer }))
    })
}

/// The usual configuration.
pub fn config() -> KernelConfig {
    KernelConfig {
        enabled: true,
        table: 254,
        protocol: 179,
        metric: 1179,
        blackhole_metric: 65000,
        blackholes: Vec::new(),
        repair: true,
        nexthop_objects: NexthopObjects::Auto,
        memory: None,
        tunnels: TunnelConfig::default(),
    }
}

/// What tests need to go fast.
pub fn tuning() -> Tuning {
    Tuning { settle: Duration::from_millis(20), ..Tuning::default() }
}

impl World {
    /// Runs `ip` with these words in the node.
    pub fn ip(&self, words: &str) -> anyhow::Result<String> {
        let output = Command::new("ip").args(words.split_whitespace()).output()?;
        if !output.status.success() {
            bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Feeds `ip -batch` with lines.
    pub fn ip_batch(&self, lines: &str) -> anyhow::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), lines)?;
        self.ip(&format!("-batch {}", file.path().display())).map(drop)
    }

    /// Lines of `ip route show` for exactly a prefix, in every table.
    pub fn show(&self, prefix: &str) -> anyhow::Result<Vec<String>> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let shown = self.ip(&format!("{family} route show exact {prefix} table all"))?;
        // A route of several hops is continued on lines that begin with a tab.
        let shown = shown.replace("\n\t", " ");
        Ok(shown
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect())
    }

    /// How many routes of ours there are in the main table.
    pub fn count(&self) -> anyhow::Result<usize> {
        let both = self.ip("-4 route show proto 179")? + &self.ip("-6 route show proto 179")?;
        // A route of several hops is continued on lines that begin with a tab.
        Ok(both.lines().filter(|line| !line.starts_with('\t')).count())
    }

    /// Waits until exactly these lines are shown for a prefix.
    pub async fn until_shown(&self, prefix: &str, lines: &[&str]) -> anyhow::Result<()> {
        eventually(&format!("{prefix} to be {lines:?}"), async || {
            let shown = self.show(prefix)?;
            if shown == lines { Ok(()) } else { bail!("{shown:?}") }
        })
        .await
    }
}

/// The kernel side at work.
pub struct Kernel {
    pub handle: KernelHandle,
    pub queue: Arc<RouteQueue>,
    pub answers: Answers,
}

/// Every answer about each next hop, in order.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<HashMap<ForwardingNextHop, Vec<NextHopState>>>>);

impl NextHopSink for Answers {
    async fn answer(&self, answers: Vec<NextHopAnswer>) {
        let mut all = self.0.lock().unwrap();
        for answer in answers {
            all.entry(answer.next_hop).or_default().push(answer.state);
        }
    }
}

impl Kernel {
    pub async fn start(config: KernelConfig) -> anyhow::Result<Self> {
        Self::start_with(config, tuning()).await
    }

    pub async fn start_with(config: KernelConfig, tuning: Tuning) -> anyhow::Result<Self> {
        let (queue, answers) = (Arc::new(RouteQueue::default()), Answers::default());
        let handle =
            KernelHandle::start_with(config, queue.clone(), answers.clone(), tuning).await?;
        Ok(Self { handle, queue, answers })
    }

    /// The speaker wants a prefix through these next hops; none: not at all.
    pub fn announce(&self, prefix: &str, next_hops: &[&str]) {
        let prefix = prefix.parse().unwrap();
        let next_hops = next_hops.iter().map(|address| next_hop(address)).collect();
        let change = RouteChange { prefix, next_hops, decided: now() };
        self.queue.update(|pending| {
            pending.changes.insert(prefix, change);
        });
    }

    pub fn first_sync(&self) {
        self.queue.update(|pending| pending.first_sync = true);
    }

    pub fn track(&self, address: &str) {
        self.queue.update(|pending| {
            pending.tracking.insert(next_hop(address), true);
        });
    }

    /// All answers so far.
    pub fn answered(&self, address: &str) -> Vec<NextHopState> {
        self.answers.0.lock().unwrap().get(&next_hop(address)).cloned().unwrap_or_default()
    }

    /// Waits until the latest answer is as wanted.
    pub async fn until_answered(
        &self,
        address: &str,
        wanted: impl Fn(&NextHopState) -> bool,
    ) -> anyhow::Result<()> {
        eventually(&format!("an answer about {address}"), async || {
            match self.answered(address).last() {
                Some(state) if wanted(state) => Ok(()),
                other => bail!("{other:?}"),
            }
        })
        .await
    }

    pub async fn status_of(&self, prefix: &str) -> Option<RouteStatus> {
        self.handle.route_status(vec![prefix.parse::<IpNet>().unwrap()]).await.remove(0)
    }

    pub async fn until_status(
        &self,
        prefix: &str,
        wanted: impl Fn(&Option<RouteStatus>) -> bool,
    ) -> anyhow::Result<()> {
        eventually(&format!("the status of {prefix}"), async || {
            let status = self.status_of(prefix).await;
            if wanted(&status) { Ok(()) } else { bail!("{status:?}") }
        })
        .await
    }

    pub async fn until_installed(&self, prefix: &str) -> anyhow::Result<()> {
        self.until_status(prefix, |status| *status == Some(RouteStatus::Installed)).await
    }

    pub async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&KernelStatus) -> bool,
    ) -> anyhow::Result<()> {
        eventually(what, async || {
            let status = self.handle.status().await;
            if wanted(&status) { Ok(()) } else { bail!("{status:?}") }
        })
        .await
    }

    pub async fn until_synced(&self) -> anyhow::Result<()> {
        self.until("the first sync", |status| status.synced).await
    }
}

/// A next hop from words: an address, perhaps `%` and the index of an interface.
pub fn next_hop(words: &str) -> ForwardingNextHop {
    let (address, interface) = words.split_once('%').unwrap_or((words, "0"));
    let address: IpAddr = address.parse().unwrap();
    ForwardingNextHop { address, interface: interface.parse().unwrap() }
}

pub fn reachable(metric: u32) -> impl Fn(&NextHopState) -> bool {
    move |state| *state == NextHopState::Reachable { metric }
}

pub fn unreachable(because: &str) -> impl Fn(&NextHopState) -> bool {
    move |state| matches!(state, NextHopState::Unreachable { reason } if reason.contains(because))
}

pub fn failed(because: &str) -> impl Fn(&Option<RouteStatus>) -> bool {
    move |status| matches!(status, Some(RouteStatus::Failed(reason)) if reason.contains(because))
}

/// Polls, while the runtime goes on, until the probe is content.
pub async fn eventually(
    what: &str,
    mut probe: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let deadline = now() + Duration::from_secs(10);
    loop {
        match probe().await {
            Ok(()) => return Ok(()),
            Err(error) if now() >= deadline => {
                return Err(error).with_context(|| format!("waited too long for {what}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Lets the kernel side run for a while, where the point is that nothing happens.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
