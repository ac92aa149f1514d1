//! How fast routes get into the kernel, move, come back and leave, with nexthop objects and as plain
//! routes: `cargo bench -p routelet --bench kernel`. Needs root or user namespaces; compare figures of
//! one run only.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures with the clock")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::route::RouteProtocol;
use routelet::kernel::{
    KernelConfig, KernelHandle, NextHopSink, NexthopObjects, RouteStatus, Tuning, TunnelConfig,
};
use routelet::lab::netns::{Netns, Via};
use routelet::lab::sandbox;
use routelet_bgp::core::forwarding::{
    ForwardingNextHop, NextHopAnswer, NextHopSet, NextHopState, RouteChange,
};
use routelet_bgp::io::RouteQueue;
use rtnetlink::RouteMessageBuilder;

const ROUTES: u32 = 100_000;

fn main() -> anyhow::Result<()> {
    // As a test (`cargo test --all-targets`) it is only built.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    if let Err(error) = sandbox::enter(sandbox::Control::None) {
        println!("kernel: skipped: {error:#}");
        return Ok(());
    }
    let (node, peer) = (Netns::new("bench-node")?, Netns::new("bench-peer")?);
    for number in 0..2 {
        let device = format!("eth{number}");
        node.veth(&device, &peer, &format!("peer{number}"))?;
        node.add_address(&device, format!("10.0.{number}.1/24").parse()?)?;
    }
    let far: IpNet = "192.0.2.0/24".parse()?;
    node.add_route(far, Via::Gateway("10.0.0.2".parse()?))?;
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for round in 1..=2 {
            for objects in [NexthopObjects::Never, NexthopObjects::Auto] {
                println!("kernel: round {round}, nexthopObjects: {objects}");
                runtime.block_on(measure(&node, &peer, far, objects))?;
            }
        }
        Ok(())
    })
}

/// Stands in for the speaker: it takes all routes back while their next hop is unreachable.
#[derive(Clone)]
struct Speaker {
    queue: Arc<RouteQueue>,
    acts: Arc<AtomicBool>,
}

impl NextHopSink for Speaker {
    async fn answer(&self, answers: Vec<NextHopAnswer>) {
        if !self.acts.load(Relaxed) {
            return;
        }
        for NextHopAnswer { next_hop, state } in answers {
            let reachable = matches!(state, NextHopState::Reachable { .. });
            let next_hops: NextHopSet = reachable.then_some(next_hop).into_iter().collect();
            let decided = Instant::now();
            self.queue.update(|pending| {
                pending.changes.extend((0..ROUTES).map(route).map(|prefix| {
                    (prefix, RouteChange { prefix, next_hops: next_hops.clone(), decided })
                }));
            });
        }
    }
}

struct Bench {
    handle: KernelHandle,
    queue: Arc<RouteQueue>,
}

async fn measure(
    node: &Netns,
    peer: &Netns,
    far: IpNet,
    nexthop_objects: NexthopObjects,
) -> anyhow::Result<()> {
    let config = KernelConfig {
        enabled: true,
        table: 254,
        protocol: 179,
        metric: 1179,
        blackhole_metric: 65000,
        blackholes: Vec::new(),
        repair: true,
        nexthop_objects,
        memory: None,
        tunnels: TunnelConfig::default(),
    };
    let queue = Arc::new(RouteQueue::default());
    let acts = Arc::new(AtomicBool::new(false));
    let speaker = Speaker { queue: queue.clone(), acts: acts.clone() };
    let start = || {
        KernelHandle::start_with(config.clone(), queue.clone(), speaker.clone(), Tuning::default())
    };
    let bench = Bench { handle: start().await?, queue: queue.clone() };
    bench.all_to("installed", Some("192.0.2.7")).await?;
    queue.update(|pending| pending.first_sync = true);
    while !bench.handle.status().await.synced {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.all_to("moved, each by a change of its own", Some("10.0.1.2")).await?;
    bench.all_to("and back", Some("192.0.2.7")).await?;

    // The way to the gateway changes: one event, every route.
    let before = Instant::now();
    node.delete_routes(far)?;
    node.add_route(far, Via::Gateway("10.0.1.2".parse()?))?;
    loop {
        let found = bench.handle.lookup(route(0).addr(), None).await.route;
        let last = bench.handle.lookup(route(ROUTES - 1).addr(), None).await.route;
        let moved = |found: &Option<String>| found.as_ref().is_some_and(|to| to.contains("eth1"));
        let status = bench.handle.status().await;
        if moved(&found) && moved(&last) && status.installed == ROUTES as usize {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    report("moved by one event", ROUTES, before.elapsed());

    repair(&bench).await?;

    let before = Instant::now();
    let repaired = bench.handle.status().await.repaired;
    node.set_link("eth1", false)?;
    node.set_link("eth1", true)?;
    node.add_route(far, Via::Gateway("10.0.1.2".parse()?))?;
    let all = repaired + u64::from(ROUTES);
    while bench.handle.status().await.installed != ROUTES as usize
        || bench.handle.status().await.repaired < all
    {
        tokio::time::sleep(Duration::from_millis(2)).await;
        anyhow::ensure!(before.elapsed() < Duration::from_secs(20), "the flap is not mended");
    }
    report("back after their link went down and up", ROUTES, before.elapsed());

    acts.store(true, Relaxed);
    carrier(&bench, peer).await?;
    acts.store(false, Relaxed);

    bench.handle.stop(false).await;
    let before = Instant::now();
    let bench = Bench { handle: start().await?, queue: queue.clone() };
    report("adopted at start", ROUTES, before.elapsed());
    bench.all_to("wanted again, unchanged", Some("192.0.2.7")).await?;
    let before = Instant::now();
    bench.handle.stop(true).await;
    report("withdrawn at stop", ROUTES, before.elapsed());
    node.delete_routes(far)?;
    node.add_route(far, Via::Gateway("10.0.0.2".parse()?))?;
    Ok(())
}

/// The carrier goes for a while and comes back; the time runs from its return until all routes are
/// there. The speaker withdraws what it cannot reach, as it does in the daemon.
async fn carrier(bench: &Bench, peer: &Netns) -> anyhow::Result<()> {
    bench.queue.update(|pending| {
        let address = "192.0.2.7".parse().expect("an address");
        pending.tracking.insert(ForwardingNextHop { address, interface: 0 }, true);
    });
    for (words, away) in [("a long", 2000), ("a short", 100)] {
        bench.until_installed(ROUTES as usize).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        peer.set_link("peer1", false)?;
        // The kernel itself notices up to a second later.
        let gone = Instant::now();
        while bench.handle.status().await.installed == ROUTES as usize {
            anyhow::ensure!(gone.elapsed() < Duration::from_secs(5), "the carrier stays");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(away)).await;
        peer.set_link("peer1", true)?;
        let back = Instant::now();
        bench.until_installed(ROUTES as usize).await?;
        // What was withdrawn before the carrier came back is not seen as missing by the status.
        loop {
            let last = bench.handle.route_status(vec![route(0), route(ROUTES - 1)]).await;
            if last.iter().all(|status| *status == Some(RouteStatus::Installed))
                && bench.handle.status().await.installed == ROUTES as usize
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        report(&format!("back after {words} loss of the carrier"), ROUTES, back.elapsed());
    }
    Ok(())
}

impl Bench {
    async fn until_installed(&self, count: usize) -> anyhow::Result<()> {
        let before = Instant::now();
        while self.handle.status().await.installed != count {
            tokio::time::sleep(Duration::from_millis(2)).await;
            anyhow::ensure!(before.elapsed() < Duration::from_secs(20), "not all are installed");
        }
        Ok(())
    }

    /// Wants all routes through a next hop, then one more: when that is in, all are.
    async fn all_to(&self, what: &str, via: Option<&str>) -> anyhow::Result<()> {
        let next_hops = via.iter().map(|via| via.parse()).collect::<Result<Vec<_>, _>>()?;
        let change = |prefix| RouteChange {
            prefix,
            next_hops: next_hops
                .iter()
                .map(|address| ForwardingNextHop { address: *address, interface: 0 })
                .collect(),
            decided: Instant::now(),
        };
        let before = Instant::now();
        self.queue.update(|pending| {
            pending
                .changes
                .extend((0..ROUTES).map(|number| (route(number), change(route(number)))));
        });
        let sentinel = route(ROUTES);
        // Let the first lot be taken, so that the last one stands behind it.
        tokio::task::yield_now().await;
        while self.handle.route_status(vec![route(0)]).await == [None] {
            tokio::task::yield_now().await;
        }
        self.queue.update(|pending| {
            pending.changes.insert(sentinel, change(sentinel));
        });
        loop {
            let status = self.handle.route_status(vec![sentinel, route(0)]).await;
            if status.iter().all(|status| *status == Some(RouteStatus::Installed)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while self.handle.status().await.installed <= ROUTES as usize {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        report(what, ROUTES, before.elapsed());
        self.queue.update(|pending| {
            let gone = RouteChange { next_hops: [].into_iter().collect(), ..change(sentinel) };
            pending.changes.insert(sentinel, gone);
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(())
    }
}

/// One route deleted by hand, until it is known to be back.
async fn repair(bench: &Bench) -> anyhow::Result<()> {
    let (connection, netlink, _) = rtnetlink::new_connection().context("netlink")?;
    tokio::spawn(connection);
    let mut times = Vec::new();
    for number in 0..50 {
        let IpNet::V4(prefix) = route(number * 100) else { unreachable!("IPv4 only") };
        let repaired = bench.handle.status().await.repaired;
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(prefix.addr(), prefix.prefix_len())
            .priority(1179)
            .protocol(RouteProtocol::Other(179))
            .build();
        let before = Instant::now();
        netlink.route().del(message).execute().await.context("delete a route")?;
        // The kernel side's own count would cost a scan of the table each time.
        while !matches!(
            netlink_get(&netlink, prefix).await,
            Some(to) if to == "10.0.1.2"
        ) {
            tokio::task::yield_now().await;
        }
        times.push(before.elapsed());
        while bench.handle.status().await.repaired == repaired {
            tokio::task::yield_now().await;
        }
    }
    times.sort_unstable();
    println!(
        "kernel: one route deleted by hand is back after {:.2} ms (median), {:.2} ms (worst of {})",
        times[times.len() / 2].as_secs_f64() * 1e3,
        times[times.len() - 1].as_secs_f64() * 1e3,
        times.len()
    );
    Ok(())
}

/// The gateway of the route to a prefix's address, if there is one.
async fn netlink_get(netlink: &rtnetlink::Handle, prefix: Ipv4Net) -> Option<String> {
    use futures::TryStreamExt;
    use netlink_packet_route::route::{RouteAddress, RouteAttribute};
    let message = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(prefix.addr(), 32);
    let found = netlink.route().get(message.build()).execute().try_next().await.ok()??;
    found.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(gateway.to_string()),
        _ => None,
    })
}

fn route(number: u32) -> IpNet {
    let network = Ipv4Addr::from(u32::from(Ipv4Addr::new(20, 0, 0, 0)) + (number << 8));
    IpNet::V4(Ipv4Net::new_assert(network, 24))
}

fn report(what: &str, routes: u32, took: Duration) {
    println!(
        "kernel: {routes} routes {what}: {:.3} s, {:.0} routes/s",
        took.as_secs_f64(),
        f64::from(routes) / took.as_secs_f64()
    );
}
