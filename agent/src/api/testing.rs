//! A daemon of values made by hand, for tests of the API and of the commands.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use routelet_bgp::core::config::{OriginatedKind, PeerConfig, PeerKind};
use routelet_bgp::core::forwarding::NextHopState;
use routelet_bgp::core::peer::{Negotiated, PeerGracefulRestart, PeerId, State};
use routelet_bgp::core::view::{
    DecisionStep, ExplainView, ExportReason, ExportVerdict, FamilyCounts, Ineligible, NotInstalled,
    PathExplanation, PathReason, PeerTableView, RouteQuery, RouteSelector, RouteSource, RouteTable,
    RouteView, SessionCounters, SessionView,
};
use routelet_bgp::io::{PeerCommand, RequestError, StopMode};
use routelet_proto::{
    AfiSafi, Aggregator, AsPath, Asn, BgpIdentifier, Capability, Community, DecodeContext,
    EncodeContext, ExtendedCommunity, Family, FamilySet, GracefulRestartFamily, HoldTime,
    LargeCommunity, NextHop, Origin, PathAttributes, SessionKind, UnknownAttribute,
};

use super::{Backend, Snapshot, convert, views};
use crate::config::{self, Config};
use crate::kernel::{
    Encapsulation, KernelLookup, KernelStatus, NextHopLookup, RouteStatus, RouteWay, TunnelStatus,
};
use crate::nft::FirewallStatus;

/// The configuration of the daemon made by hand.
const FILE: &str = "
node: {name: node-a, addresses: [172.30.1.11/24], podCIDRs: [10.244.1.0/24]}
bgp: {asNumber: 64512}
nodes:
  - {name: node-10, addresses: [172.30.1.20/24], podCIDRs: [10.244.10.0/24]}
  - {name: node-b, addresses: [172.30.1.12/24], podCIDRs: [10.244.2.0/24]}
peers:
  - {name: tor-1, peerIP: 172.30.1.1, asNumber: 65001}
  - {name: tor-2, peerIP: 172.30.1.2, asNumber: 65001, passive: true}
";

/// A daemon as the API sees it, and what was asked of it.
pub(crate) struct Fake {
    pub(crate) now: Instant,
    pub(crate) config: Arc<Config>,
    pub(crate) peers: Vec<(SessionView, PeerTableView)>,
    pub(crate) routes: Vec<RouteView>,
    pub(crate) kernel: KernelStatus,
    pub(crate) firewall: FirewallStatus,
    pub(crate) refused: Option<String>,
    pub(crate) queries: Mutex<Vec<RouteQuery>>,
    pub(crate) commands: Mutex<Vec<(String, PeerCommand)>>,
    pub(crate) stops: Mutex<Vec<StopMode>>,
}

/// One that is up and one that is not.
fn tunnels() -> Vec<TunnelStatus> {
    let tunnel = TunnelStatus {
        device: "routelet-vxlan".to_owned(),
        encapsulation: Encapsulation::Vxlan,
        ready: Ok(()),
        withholds: false,
        local: "172.30.1.11".parse().ok(),
        mtu: 1450,
        addresses: vec!["10.244.1.0".parse().unwrap()],
        nodes: 2,
    };
    let missing = TunnelStatus {
        device: "routelet-vxlan6".to_owned(),
        ready: Err("this node has no IPv6 address, which VXLAN needs".to_owned()),
        local: None,
        mtu: 0,
        addresses: Vec::new(),
        nodes: 0,
        ..tunnel.clone()
    };
    vec![tunnel, missing]
}

impl Fake {
    /// Two nodes, two routers, and a few routes.
    pub(crate) fn new() -> Self {
        let now = tokio::time::Instant::now().into_std();
        let config = config::load_text(Path::new("/etc/routelet/node.yaml"), FILE).unwrap().config;
        let peers = config
            .speaker
            .peers
            .iter()
            .enumerate()
            .map(|(index, peer)| match &*peer.name {
                "tor-1" => established(peer, index, now),
                "tor-2" => connecting(peer, index, now),
                _ => established(peer, index, now),
            })
            .collect();
        Self {
            now,
            config: Arc::new(config),
            peers,
            routes: routes(now),
            kernel: KernelStatus {
                desired: 2,
                installed: 2,
                synced: true,
                tunnels: tunnels(),
                ..Default::default()
            },
            firewall: FirewallStatus {
                guard: "no pool asks for tunnels".to_owned(),
                nat: "for 10.244.0.0/16".to_owned(),
                services: "no ranges are advertised".to_owned(),
                forward: "no chain drops pod traffic by default".to_owned(),
                ..Default::default()
            },
            refused: None,
            queries: Mutex::default(),
            commands: Mutex::default(),
            stops: Mutex::default(),
        }
    }
}

impl Backend for Fake {
    async fn peers(&self) -> Result<Vec<(SessionView, PeerTableView)>, RequestError> {
        Ok(self.peers.clone())
    }

    async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteView>, RequestError> {
        let selected = |route: &&RouteView| match query.selector {
            RouteSelector::All => true,
            RouteSelector::Exact(net) => route.prefix == net,
            RouteSelector::Longest(address) => route.prefix.contains(&address),
        };
        let from = |route: &&RouteView| match &query.table {
            RouteTable::All | RouteTable::Advertised(_) => true,
            RouteTable::Received(peer) => {
                matches!(&route.source, RouteSource::Peer(_, name) if name == peer)
            }
        };
        let found = self.routes.iter().filter(selected).filter(from).cloned().collect();
        self.queries.lock().unwrap().push(query);
        Ok(found)
    }

    async fn explain(&self, selector: RouteSelector) -> Result<ExplainView, RequestError> {
        let query = RouteQuery { table: RouteTable::All, selector, family: None };
        let found = self.routes(query).await?;
        let Some(first) = found.first() else {
            return Ok(ExplainView { prefix: None, paths: Vec::new(), exports: Vec::new() });
        };
        let exports = vec![
            ("node-b".into(), ExportVerdict::NotAdvertised(ExportReason::SplitHorizon)),
            ("tor-1".into(), ExportVerdict::Advertised(ExportReason::DefaultPolicy)),
        ];
        let paths = found.iter().map(|route| PathExplanation {
            route: route.clone(),
            import_rule: match &route.source {
                RouteSource::Peer(_, name) if **name == *"tor-1" => Some(("tor-in".into(), 2)),
                _ => None,
            },
            next_hop: match &route.reason {
                PathReason::Ineligible(Ineligible::NextHop(_, state)) => state.clone(),
                _ => NextHopState::Reachable { metric: 0 },
            },
            received: matches!(route.reason, PathReason::Lost(_)).then(|| {
                let mut before = PathAttributes::clone(&route.attributes);
                before.local_pref = Some(50);
                Arc::new(before)
            }),
        });
        Ok(ExplainView { prefix: Some(first.prefix), paths: paths.collect(), exports })
    }

    async fn command(&self, peer: &str, command: PeerCommand) -> Result<(), RequestError> {
        self.commands.lock().unwrap().push((peer.to_owned(), command));
        Ok(())
    }

    async fn route_status(&self, prefixes: Vec<IpNet>) -> Vec<Option<RouteStatus>> {
        let status = |prefix: IpNet| match prefix.to_string().as_str() {
            "10.244.1.0/24" | "10.244.2.0/24" => Some(RouteStatus::Installed),
            "10.244.10.0/24" => Some(RouteStatus::Failed("File exists: bird has it".to_owned())),
            _ => None,
        };
        prefixes.into_iter().map(status).collect()
    }

    async fn route_ways(&self, prefixes: Vec<IpNet>) -> Vec<Vec<RouteWay>> {
        let ways = |prefix: IpNet| match prefix.to_string().as_str() {
            "10.244.2.0/24" => vec![RouteWay {
                next_hop: "172.30.1.12".parse().unwrap(),
                device: "routelet-ipip".to_owned(),
                encapsulation: Some(Encapsulation::IpIp),
            }],
            _ => Vec::new(),
        };
        prefixes.into_iter().map(ways).collect()
    }

    async fn kernel_status(&self) -> KernelStatus {
        self.kernel.clone()
    }

    async fn firewall_status(&self) -> FirewallStatus {
        self.firewall.clone()
    }

    async fn lookup(&self, address: IpAddr, _: Option<IpNet>) -> KernelLookup {
        KernelLookup {
            route: Some(format!("{address} via 172.30.1.12 dev eth0 src 172.30.1.11")),
            candidates: vec!["10.244.2.0/24 via 172.30.1.12 dev eth0 proto 179 metric 1179".into()],
            next_hops: vec![NextHopLookup {
                address: "172.30.1.12".parse().ok(),
                resolution: "on link over eth0".to_owned(),
                encapsulation: "none: no pool asks for a tunnel".to_owned(),
                mtu: Some(1500),
                neighbour: Some("172.30.1.12 on eth0: 02:00:00:00:00:0c reachable".to_owned()),
            }],
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            config: self.config.clone(),
            file: PathBuf::from("/etc/routelet/node.yaml"),
            generation: 2,
            loaded: self.now - Duration::from_secs(192),
            refused: self.refused.clone().map(|words| (words, self.now)),
            needs_restart: Vec::new(),
            started: self.now - Duration::from_secs(11_520),
            first_sync: true,
            notes: Vec::new(),
            cni: crate::cni::CniStatus::default(),
            problems: Vec::new(),
            cluster: None,
        }
    }

    async fn reload(&self) -> Result<views::Plan, String> {
        match &self.refused {
            Some(words) => Err(words.clone()),
            None => Ok(views::Plan { applied: true, changes: Vec::new(), warnings: Vec::new() }),
        }
    }

    fn plan(&self, file: &str, text: &str) -> Result<views::Plan, String> {
        let new = config::load_text(Path::new(file), text).map_err(|error| error.to_string())?;
        let plan = self.config.plan(&new.config);
        let changes = convert::plan::changes(&plan);
        Ok(views::Plan { applied: false, changes, warnings: new.config.warnings })
    }

    fn stop(&self, mode: StopMode) {
        self.stops.lock().unwrap().push(mode);
    }
}

fn established(
    config: &Arc<PeerConfig>,
    index: usize,
    now: Instant,
) -> (SessionView, PeerTableView) {
    let families = FamilySet::EMPTY.with(Family::Ipv4Unicast);
    let unicast = AfiSafi { afi: 1, safi: 1 };
    let capabilities = vec![
        Capability::Multiprotocol(unicast),
        Capability::RouteRefresh,
        Capability::FourOctetAs(config.remote_as),
    ];
    let mut received = capabilities.clone();
    received.push(Capability::GracefulRestart {
        restarted: false,
        notification: true,
        restart_time: 120,
        families: vec![GracefulRestartFamily { family: unicast, forwarding: true }],
    });
    received.push(Capability::Unknown { code: 130, value: vec![0xca, 0xfe].into() });
    let kind = if config.kind == PeerKind::External {
        SessionKind::External
    } else {
        SessionKind::Internal
    };
    let negotiated = Negotiated {
        kind,
        peer_as: config.remote_as,
        peer_id: BgpIdentifier("192.0.2.1".parse().unwrap()),
        hold_time: HoldTime::new(90).unwrap(),
        keepalive_time: 30,
        families,
        decode: DecodeContext { families, add_path: families, kind, ..Default::default() },
        encode: EncodeContext {
            four_octet_as: true,
            max_len: 4096,
            add_path: families,
            extended_next_hop: false,
        },
        route_refresh: true,
        enhanced_route_refresh: false,
        graceful_restart: Some(PeerGracefulRestart {
            restarted: false,
            notification: true,
            restart_time: 120,
            families,
            forwarding: families,
        }),
        sent: capabilities,
        received,
    };
    let ago = |seconds| now - Duration::from_secs(seconds);
    let session = SessionView {
        config: config.clone(),
        state: State::Established,
        since: ago(192),
        flaps: 1,
        last_error_code: (*config.name == *"tor-1").then_some((6, 4)),
        last_error: (*config.name == *"tor-1")
            .then(|| ("received Cease/Administrative Reset (6/4): \u{1b}[2J hi".into(), ago(200))),
        negotiated: Some(Arc::new(negotiated)),
        endpoints: Some(("172.30.1.11:40000".parse().unwrap(), (config.address, 179).into())),
        timers: [None, Some(now + Duration::from_secs(71)), Some(now + Duration::from_secs(11))],
        counters: SessionCounters {
            received: [1, 7, 0, 40, 0],
            sent: [1, 3, 0, 41, 1],
            octets_received: 1234,
            octets_sent: 987,
            connections_refused: 2,
            treated_as_withdrawn: 3,
            attributes_discarded: 4,
        },
    };
    let mut families_counts = [FamilyCounts::default(); 2];
    families_counts[0] = FamilyCounts { received: 5, accepted: 4, advertised: 1 };
    let table = PeerTableView {
        peer: PeerId(u32::try_from(index).unwrap()),
        name: config.name.clone(),
        up: true,
        families: families_counts,
        end_of_rib: families,
        disabled: Default::default(),
        stale: FamilySet::EMPTY,
        group: Some((0, 0)),
    };
    (session, table)
}

fn connecting(
    config: &Arc<PeerConfig>,
    index: usize,
    now: Instant,
) -> (SessionView, PeerTableView) {
    let session = SessionView {
        config: config.clone(),
        state: State::Active,
        since: now - Duration::from_secs(61),
        flaps: 0,
        last_error: None,
        last_error_code: None,
        negotiated: None,
        endpoints: None,
        timers: [Some(now + Duration::from_secs(5)), None, None],
        counters: SessionCounters::default(),
    };
    let table = PeerTableView {
        peer: PeerId(u32::try_from(index).unwrap()),
        name: config.name.clone(),
        up: false,
        families: [FamilyCounts::default(); 2],
        end_of_rib: FamilySet::EMPTY,
        disabled: Default::default(),
        stale: FamilySet::EMPTY,
        group: None,
    };
    (session, table)
}

/// A path from a peer.
pub(crate) fn path(prefix: &str, from: &str, reason: PathReason, now: Instant) -> RouteView {
    let next_hop: IpAddr = "172.30.1.12".parse().unwrap();
    let mut attributes = PathAttributes::originated(Origin::Igp, NextHop::from(next_hop));
    attributes.local_pref = Some(100);
    RouteView {
        prefix: prefix.parse().unwrap(),
        path_id: 0,
        source: RouteSource::Peer(PeerId(1), from.into()),
        attributes: Arc::new(attributes),
        best: matches!(reason, PathReason::Best(_)),
        multipath: matches!(reason, PathReason::Multipath),
        stale: false,
        reason,
        not_installed: None,
        learned: now - Duration::from_secs(187_200),
    }
}

fn routes(now: Instant) -> Vec<RouteView> {
    let own = RouteView {
        source: RouteSource::Local(OriginatedKind::PodCidr),
        attributes: Arc::new(PathAttributes::originated(
            Origin::Igp,
            NextHop::V4("0.0.0.0".parse().unwrap()),
        )),
        not_installed: Some(NotInstalled::Local),
        ..path("10.244.1.0/24", "", PathReason::Best(None), now)
    };
    let won = PathReason::Best(Some(DecisionStep::AsPathLength));
    let mut lost =
        path("10.244.2.0/24", "tor-1", PathReason::Lost(DecisionStep::AsPathLength), now);
    lost.attributes = Arc::new(rich_attributes());
    let unresolved = Ineligible::NextHop(
        "172.30.9.9".parse().unwrap(),
        NextHopState::Unreachable { reason: "no route to it".to_owned() },
    );
    vec![
        own,
        path("10.244.2.0/24", "node-b", won, now),
        lost,
        path("10.244.2.0/24", "node-10", PathReason::Multipath, now),
        path("10.244.2.0/24", "tor-2", PathReason::Ineligible(unresolved), now),
        path("10.244.10.0/24", "node-10", PathReason::Best(None), now),
        RouteView {
            not_installed: Some(NotInstalled::Service),
            ..path("10.96.0.0/16", "node-b", PathReason::Best(None), now)
        },
    ]
}

/// Every attribute there is.
pub(crate) fn rich_attributes() -> PathAttributes {
    let global = "2001:db8::1".parse().unwrap();
    let link_local = "fe80::1".parse().unwrap();
    let mut attributes = PathAttributes::originated(
        Origin::Incomplete,
        NextHop::V6WithLinkLocal(global, link_local),
    );
    attributes.as_path = AsPath::sequence(&[Asn(65001), Asn(64513)]);
    attributes.med = Some(20);
    attributes.local_pref = Some(90);
    attributes.communities = [Community(65001 << 16 | 100), Community::NO_EXPORT].into();
    let rare = attributes.rare_mut();
    rare.atomic_aggregate = true;
    rare.aggregator = Some(Aggregator {
        asn: Asn(65001),
        identifier: BgpIdentifier("192.0.2.9".parse().unwrap()),
    });
    rare.originator_id = Some(BgpIdentifier("192.0.2.7".parse().unwrap()));
    rare.cluster_list = vec!["192.0.2.8".parse().unwrap()];
    rare.extended_communities = vec![ExtendedCommunity([0, 2, 0xfd, 0xe9, 0, 0, 0, 100])];
    rare.large_communities = vec![LargeCommunity { global: 65001, local1: 1, local2: 2 }];
    rare.otc = Some(Asn(65001));
    rare.unknown =
        vec![UnknownAttribute { flags: 0xe0, code: 200, value: bytes::Bytes::from_static(&[1]) }];
    attributes
}
