//! Whole speakers talking to each other through their handles.

use std::net::Ipv6Addr;
use std::sync::Arc;

use ipnet::IpNet;
use routelet_proto::Family;

use super::*;
use crate::core::config::{GracefulRestartConfig, OriginatedKind, OriginatedRoute, SpeakerConfig};
use crate::core::forwarding::{NextHopAnswer, NextHopState};
use crate::core::policy::ClusterPrefixes;
use crate::core::view::{PeerTableView, RouteQuery, RouteSelector, RouteTable, RouteView};
use crate::io::{DriverConfig, PeerCommand, RequestError, SpeakerHandle, StopMode};

/// The IPv6 address of the node at `address`.
fn next_hop(address: Ipv4Addr) -> Ipv6Addr {
    let [.., high, low] = address.octets();
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high.into(), low.into())
}

/// A speaker at `address` that originates `prefixes`.
pub(super) fn config(
    address: Ipv4Addr,
    prefixes: &[&str],
    peers: Vec<PeerConfig>,
) -> Arc<SpeakerConfig> {
    Arc::new(SpeakerConfig {
        asn: Asn(65001),
        router_id: BgpIdentifier(address),
        cluster_id: address,
        host_name: format!("node-{address}"),
        address_v4: Some(address),
        address_v6: Some(next_hop(address)),
        maximum_paths: 16,
        track_next_hops: true,
        initial_deferral: Duration::from_secs(5),
        originated: prefixes
            .iter()
            .map(|prefix| OriginatedRoute {
                prefix: prefix.parse().unwrap(),
                kind: OriginatedKind::PodCidr,
            })
            .collect(),
        cluster: Arc::new(ClusterPrefixes {
            own_pod_cidrs: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            ..ClusterPrefixes::default()
        }),
        peers: peers.into_iter().map(Arc::new).collect(),
    })
}

async fn start(address: Ipv4Addr, prefixes: &[&str]) -> (SpeakerHandle, SocketAddr) {
    let driver = DriverConfig { listen: vec![(address, 0).into()], ..DriverConfig::default() };
    let handle = SpeakerHandle::start(driver, config(address, prefixes, Vec::new())).await.unwrap();
    let listens_on = handle.listen_addresses()[0];
    (handle, listens_on)
}

/// Two speakers with a pod CIDR each that know each other.
struct Two {
    addresses: [Ipv4Addr; 2],
    handles: [SpeakerHandle; 2],
    configs: [Arc<SpeakerConfig>; 2],
}

/// IPv6, since their next hops are the nodes' IPv6 addresses: a loopback address, which IPv4 routes
/// would have here, is refused as a next hop.
const PREFIXES: [&str; 2] = ["fd00:10:244:1::/64", "fd00:10:244:2::/64"];

impl Two {
    async fn new(addresses: [Ipv4Addr; 2], adjust: impl Fn(usize, &mut PeerConfig)) -> Self {
        let (one, at_one) = start(addresses[0], &PREFIXES[..1]).await;
        let (two, at_two) = start(addresses[1], &PREFIXES[1..]).await;
        let configs = [0, 1].map(|side: usize| {
            let remote = [at_two, at_one][side];
            let mut peer = peer(addresses[side], remote);
            peer.name = "other".into();
            adjust(side, &mut peer);
            config(addresses[side], &[PREFIXES[side]], vec![peer])
        });
        one.apply(configs[0].clone()).await.unwrap();
        two.apply(configs[1].clone()).await.unwrap();
        Self { addresses, handles: [one, two], configs }
    }

    async fn peer(&self, side: usize) -> (SessionView, PeerTableView) {
        self.handles[side].peers().await.unwrap().remove(0)
    }

    async fn wait_for_routes(&self) {
        for side in 0..2 {
            let prefix: IpNet = PREFIXES[1 - side].parse().unwrap();
            let deadline = far_future();
            while self.route(side, prefix).await.is_none() {
                assert!(
                    tokio::time::Instant::now().into_std() < deadline,
                    "no route to {prefix}: {:#?}",
                    self.peer(side).await
                );
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    async fn route(&self, side: usize, prefix: IpNet) -> Option<RouteView> {
        let query = RouteQuery {
            table: RouteTable::All,
            selector: RouteSelector::Exact(prefix),
            family: None,
        };
        self.handles[side].routes(query).await.unwrap().pop()
    }

    async fn wait_for_error(&self, side: usize, words: &str) {
        let deadline = far_future();
        loop {
            let error = self.peer(side).await.0.last_error.map(|(error, _)| error);
            if error.as_ref().is_some_and(|error| error.contains(words)) {
                return;
            }
            let now = tokio::time::Instant::now().into_std();
            assert!(now < deadline, "expected {words:?}, last error is {error:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn stop(self) {
        for handle in &self.handles {
            handle.stop(StopMode::Restart).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_cross_and_reach_the_kernel_queue() {
    let two = Two::new([address("127.20.0.1"), address("127.20.0.2")], |_, _| {}).await;
    two.wait_for_routes().await;
    let (session, table) = two.peer(0).await;
    assert_eq!(session.state, State::Established);
    assert_eq!(table.families[Family::Ipv6Unicast.index()].accepted, 1);

    let prefix: IpNet = PREFIXES[1].parse().unwrap();
    let queue = two.handles[0].route_queue();
    let mut tracked = Vec::new();
    let change = in_time("the change for the kernel", async {
        loop {
            let mut pending = queue.take().await;
            tracked.extend(pending.tracking.keys().copied());
            if let Some(change) = pending.changes.remove(&prefix) {
                return change;
            }
            // The kernel side's part: everything is reachable.
            let reachable = |(next_hop, _)| NextHopAnswer {
                next_hop,
                state: NextHopState::Reachable { metric: 0 },
            };
            let answers = pending.tracking.into_iter().map(reachable).collect();
            two.handles[0].answer_next_hops(answers).await;
        }
    })
    .await;
    assert_eq!(tracked.len(), 1);
    assert_eq!(change.next_hops[0].address, next_hop(two.addresses[1]));
    until("first sync", || async { two.handles[0].first_sync().then_some(()) }).await;

    let explained =
        two.handles[0].explain(RouteSelector::Longest("fd00:10:244:2::9".parse().unwrap()));
    assert_eq!(explained.await.unwrap().prefix, Some(prefix));
    let received = |name: &str| RouteQuery {
        table: RouteTable::Received(name.into()),
        selector: RouteSelector::All,
        family: None,
    };
    assert_eq!(two.handles[0].routes(received("other")).await.unwrap().len(), 1);
    assert_eq!(
        two.handles[0].routes(received("nobody")).await.unwrap_err(),
        RequestError::UnknownPeer("nobody".to_owned())
    );
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_resets_disables_and_enables() {
    let two = Two::new([address("127.20.1.1"), address("127.20.1.2")], |_, _| {}).await;
    two.wait_for_routes().await;
    let command = |command| two.handles[0].command("other", command);
    command(PeerCommand::Reset("new cable".to_owned())).await.unwrap();
    two.wait_for_error(1, "received Cease/Administrative Reset (6/4): \"new cable\"").await;
    until("the session again", || async {
        let session = two.peer(1).await.0;
        (session.state == State::Established && session.flaps >= 1).then_some(())
    })
    .await;
    two.wait_for_routes().await;

    command(PeerCommand::Disable("maintenance".to_owned())).await.unwrap();
    two.wait_for_error(1, "received Cease/Administrative Shutdown (6/2): \"maintenance\"").await;
    // The other side tries again, in vain.
    two.wait_for_error(1, "received Cease/Connection Rejected (6/5)").await;
    assert_eq!(two.peer(0).await.0.state, State::Idle);
    assert_eq!(two.route(0, PREFIXES[1].parse().unwrap()).await.map(|route| route.prefix), None);
    // Applying the configuration again does not enable it.
    two.handles[0].apply(two.configs[0].clone()).await.unwrap();
    assert_eq!(two.peer(0).await.0.state, State::Idle);
    command(PeerCommand::Enable).await.unwrap();
    two.wait_for_routes().await;
    assert!(two.handles[0].command("nobody", PeerCommand::Enable).await.is_err());
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_configuration_moves_only_what_it_changes() {
    let two = Two::new([address("127.20.2.1"), address("127.20.2.2")], |_, _| {}).await;
    two.wait_for_routes().await;
    let with = |change: &dyn Fn(&mut PeerConfig)| {
        let mut config = (*two.configs[0]).clone();
        let mut peer = (*config.peers[0]).clone();
        change(&mut peer);
        config.peers = vec![Arc::new(peer)];
        Arc::new(config)
    };
    two.handles[0].apply(with(&|peer| peer.maximum_prefixes = Some(1000))).await.unwrap();
    assert_eq!(two.peer(0).await.0.state, State::Established, "a live change");
    two.handles[0].apply(with(&|peer| peer.hold_time = HoldTime::new(30).unwrap())).await.unwrap();
    two.wait_for_error(1, "received Cease/Other Configuration Change (6/6)").await;
    two.wait_for_error(0, "configuration changed: holdTime").await;
    let session = until("the session again", || async {
        let session = two.peer(0).await.0;
        (session.state == State::Established).then_some(session)
    })
    .await;
    assert_eq!(session.negotiated.unwrap().hold_time.seconds(), 30);

    let nobody = config(two.addresses[0], &PREFIXES[..1], Vec::new());
    two.handles[0].apply(nobody).await.unwrap();
    two.wait_for_error(1, "received Cease/Peer De-configured (6/3)").await;
    assert!(two.handles[0].peers().await.unwrap().is_empty());
    assert_eq!(two.route(0, PREFIXES[1].parse().unwrap()).await.map(|route| route.prefix), None);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_for_a_restart_keeps_the_routes_of_the_other_side() {
    let graceful = |_: usize, peer: &mut PeerConfig| {
        peer.graceful_restart =
            Some(GracefulRestartConfig { restart_time: 120, notification: true });
    };
    let two = Two::new([address("127.20.3.1"), address("127.20.3.2")], graceful).await;
    two.wait_for_routes().await;
    two.handles[1].stop(StopMode::Restart).await;
    until("the end of the session", || async {
        let (session, table) = two.peer(0).await;
        (session.flaps == 1 && !table.up).then_some(())
    })
    .await;
    let route = two.route(0, PREFIXES[1].parse().unwrap()).await.unwrap();
    assert!(route.stale, "retained");
    assert_eq!(two.handles[1].peers().await.unwrap_err(), RequestError::Stopped);
    two.handles[0].stop(StopMode::Withdraw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_for_good_takes_the_routes_away() {
    let graceful = |_: usize, peer: &mut PeerConfig| {
        peer.graceful_restart =
            Some(GracefulRestartConfig { restart_time: 120, notification: true });
    };
    let two = Two::new([address("127.20.4.1"), address("127.20.4.2")], graceful).await;
    two.wait_for_routes().await;
    two.handles[1].stop(StopMode::Withdraw).await;
    until("the routes to go", || async {
        two.route(0, PREFIXES[1].parse().unwrap()).await.is_none().then_some(())
    })
    .await;
    two.handles[0].stop(StopMode::Restart).await;
}

/// The addresses of two peers are swapped in one configuration, and one is renamed: each address
/// is still some peer's.
#[tokio::test]
async fn addresses_pass_from_peer_to_peer() {
    let (hub, near, far) = (address("127.20.7.1"), address("127.20.7.2"), address("127.20.7.3"));
    let (handle, listens_on) = start(hub, &[]).await;
    let named = |name: &str, remote: Ipv4Addr| PeerConfig {
        name: name.into(),
        passive: true,
        ..peer(hub, (remote, 1).into())
    };
    for names in [["a", "b"], ["b", "a"], ["b", "c"], ["c", "b"], ["d", "c"]] {
        let peers = vec![named(names[0], near), named(names[1], far)];
        handle.apply(config(hub, &[], peers)).await.unwrap();
        for (name, remote) in [(names[0], near), (names[1], far)] {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((remote, 0).into()).unwrap();
            let mut played = Played::new(socket.connect(listens_on).await.unwrap());
            // Not the Cease for a session of before, but an OPEN: it is known.
            assert!(matches!(played.receive().await, Some(Message::Open(_))), "{names:?} {name}");
        }
    }
    assert_eq!(handle.strangers(), 0);
    handle.stop(StopMode::Restart).await;
}

#[tokio::test]
async fn a_port_in_use_is_refused_with_words() {
    let (handle, listens_on) = start(address("127.20.5.1"), &[]).await;
    let again = SpeakerHandle::start(
        DriverConfig { listen: vec![listens_on], ..DriverConfig::default() },
        config(address("127.20.5.1"), &[], Vec::new()),
    );
    let error = again.await.unwrap_err().to_string();
    assert!(error.contains("is another BGP daemon running?"), "{error}");
    handle.stop(StopMode::Restart).await;
    // And free again afterwards.
    let (handle, _) = start(address("127.20.5.1"), &[]).await;
    handle.stop(StopMode::Restart).await;
}

#[tokio::test]
async fn a_panic_in_a_task_is_told() {
    let (handle, _) = start(address("127.20.6.1"), &[]).await;
    let runtime = tokio::runtime::Handle::current();
    handle.shared.spawn(&runtime, "the session of peer x".to_owned(), async {
        panic!("a test of panics");
    });
    let words = in_time("the failure", handle.failed()).await;
    assert_eq!(words, "the session of peer x panicked: a test of panics");
    assert_eq!(in_time("the failure again", handle.clone().failed()).await, words);
    handle.stop(StopMode::Restart).await;
}
