//! What the core shows of itself: plain values for the API, with every 'no' as a typed reason.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use routelet_proto::{Asn, Family, FamilySet, PathAttributes, PathId};

use crate::core::config::{OriginatedKind, PeerConfig};
use crate::core::forwarding::NextHopState;
use crate::core::peer::{Negotiated, PeerId, State};

/// A session, as its machine sees it.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its configuration.
    pub config: Arc<PeerConfig>,
    /// FSM state.
    pub state: State,
    /// When it entered that state.
    pub since: Instant,
    /// How often it left Established.
    pub flaps: u64,
    /// Why it last went down or failed to come up, in words, and when.
    pub last_error: Option<(String, Instant)>,
    /// Code and subcode of the NOTIFICATION that was sent or received then, if one was.
    pub last_error_code: Option<(u8, u8)>,
    /// What is agreed, from OpenConfirm on.
    pub negotiated: Option<Arc<Negotiated>>,
    /// Both ends of the connection.
    pub endpoints: Option<(SocketAddr, SocketAddr)>,
    /// When ConnectRetry, Hold and Keepalive expire next, if they run.
    pub timers: [Option<Instant>; 3],
    /// Messages and octets.
    pub counters: SessionCounters,
}

/// What went over a peer's connections since the process started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionCounters {
    /// Messages received: OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE-REFRESH.
    pub received: [u64; 5],
    /// Messages sent, in the same order.
    pub sent: [u64; 5],
    /// Octets received.
    pub octets_received: u64,
    /// Octets sent.
    pub octets_sent: u64,
    /// Connections the peer opened that were refused.
    pub connections_refused: u64,
    /// UPDATEs whose routes were treated as withdrawn (RFC 7606).
    pub treated_as_withdrawn: u64,
    /// Attributes discarded (RFC 7606).
    pub attributes_discarded: u64,
}

/// A peer, as the tables see it.
#[derive(Clone, Debug)]
pub struct PeerTableView {
    /// Handle.
    pub peer: PeerId,
    /// Name.
    pub name: Arc<str>,
    /// Whether its session is up.
    pub up: bool,
    /// Counts, indexed by [`Family::index`].
    pub families: [FamilyCounts; Family::ALL.len()],
    /// Families whose End-of-RIB came.
    pub end_of_rib: FamilySet,
    /// Why routes of a family are not read any more in this session (RFC 7606 §2 'AFI/SAFI
    /// disable'), indexed by [`Family::index`].
    pub disabled: [Option<String>; Family::ALL.len()],
    /// Families retained as stale after a restart.
    pub stale: FamilySet,
    /// Update group and how many prefixes wait to be sent.
    pub group: Option<(usize, usize)>,
}

/// Prefix counts of a peer and family.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FamilyCounts {
    /// In Adj-RIB-In.
    pub received: usize,
    /// Of those, passed by import policy.
    pub accepted: usize,
    /// In Adj-RIB-Out.
    pub advertised: usize,
}

/// Which routes to show.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteQuery {
    /// Which table.
    pub table: RouteTable,
    /// Which prefixes.
    pub selector: RouteSelector,
    /// Which family; both if absent.
    pub family: Option<Family>,
}

/// Views of the one table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteTable {
    /// Every path of every destination.
    All,
    /// What a peer sent, before policy.
    Received(Arc<str>),
    /// What a peer was sent, after policy.
    Advertised(Arc<str>),
}

/// Which prefixes of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RouteSelector {
    /// Every one.
    All,
    /// This one exactly.
    Exact(IpNet),
    /// The longest that covers the address.
    Longest(IpAddr),
}

/// One path of one destination.
#[derive(Clone, Debug)]
pub struct RouteView {
    /// Destination.
    pub prefix: IpNet,
    /// Path identifier (RFC 7911), 0 without add-path.
    pub path_id: PathId,
    /// Where it came from.
    pub source: RouteSource,
    /// Attributes: before policy for `Received`, as sent for `Advertised`, after policy else.
    pub attributes: Arc<PathAttributes>,
    /// It is the best path.
    pub best: bool,
    /// It shares the traffic with the best.
    pub multipath: bool,
    /// Retained from before the peer restarted.
    pub stale: bool,
    /// Why it is where it is.
    pub reason: PathReason,
    /// Why the kernel is not told of it although it is best or shares the traffic.
    pub not_installed: Option<NotInstalled>,
    /// When it was learned or last changed.
    pub learned: Instant,
}

/// Where a path came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteSource {
    /// It starts here.
    Local(OriginatedKind),
    /// This peer sent it.
    Peer(PeerId, Arc<str>),
}

/// Why a route that carries traffic elsewhere is never handed to the kernel.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NotInstalled {
    /// It starts here.
    Local,
    /// It is a service address: reflected, never installed.
    Service,
    /// Next hops are not tracked: there is no kernel.
    NoKernel,
}

impl fmt::Display for NotInstalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "it starts here",
            Self::Service => "service address",
            Self::NoKernel => "the kernel is not managed",
        })
    }
}

/// Why a path is where it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathReason {
    /// The best path, and the step that decided it if there was another.
    Best(Option<DecisionStep>),
    /// Equal to the best through the IGP-metric step.
    Multipath,
    /// Another path was better at this step.
    Lost(DecisionStep),
    /// It cannot take part in the decision.
    Ineligible(Ineligible),
}

impl fmt::Display for PathReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best(None) => f.write_str("best: the only path"),
            Self::Best(Some(step)) => write!(f, "best at step {step}"),
            Self::Multipath => f.write_str("multipath"),
            Self::Lost(step) => write!(f, "lost at step {step}"),
            Self::Ineligible(reason) => reason.fmt(f),
        }
    }
}

/// Steps of the decision process, in order (RFC 4271 §9.1.2.2, RFC 4456 §9). The discriminant is
/// the number users see.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum DecisionStep {
    /// A route of our own beats a learned one.
    LocallyOriginated = 1,
    /// Greatest LOCAL_PREF.
    LocalPref = 2,
    /// Shortest AS_PATH.
    AsPathLength = 3,
    /// Least ORIGIN.
    Origin = 4,
    /// Least MED, among paths of the same neighbouring AS.
    MultiExitDisc = 5,
    /// eBGP before iBGP.
    ExternalOverInternal = 6,
    /// Least metric to the next hop.
    IgpMetric = 7,
    /// Least BGP Identifier (or ORIGINATOR_ID).
    BgpIdentifier = 8,
    /// Shortest CLUSTER_LIST.
    ClusterListLength = 9,
    /// Least peer address.
    PeerAddress = 10,
    /// Least path identifier (RFC 7911).
    PathIdentifier = 11,
}

impl fmt::Display for DecisionStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::LocallyOriginated => "locally originated",
            Self::LocalPref => "LOCAL_PREF",
            Self::AsPathLength => "AS_PATH length",
            Self::Origin => "ORIGIN",
            Self::MultiExitDisc => "MED",
            Self::ExternalOverInternal => "eBGP over iBGP",
            Self::IgpMetric => "metric to the next hop",
            Self::BgpIdentifier => "BGP Identifier",
            Self::ClusterListLength => "CLUSTER_LIST length",
            Self::PeerAddress => "peer address",
            Self::PathIdentifier => "path identifier",
        };
        write!(f, "{} ({words})", *self as u8)
    }
}

/// Why a path takes no part in the decision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ineligible {
    /// A rule rejected it.
    Filter {
        /// Name of the filter.
        filter: Arc<str>,
        /// Place of the rule in it, from 0.
        rule: usize,
    },
    /// No rule matched and the default policy of the session's kind refuses it.
    DefaultPolicy,
    /// It is one of our pod CIDRs, or inside one.
    OwnPodCidr(IpNet),
    /// It is an address of this host.
    OwnAddress,
    /// The first AS of its path is not the peer's (RFC 4271 §6.3).
    FirstAs(Option<Asn>),
    /// Our own AS is in its path more often than allowed.
    OwnAsInPath,
    /// It started here (RFC 4456 §8).
    OwnOriginatorId,
    /// It went through our cluster (RFC 4456 §8).
    OwnClusterId,
    /// Its next hop is one of our own addresses.
    OwnNextHop,
    /// Role and OTC say it leaked (RFC 9234 §5).
    RouteLeak,
    /// The mesh origin check: it is not from the node whose pod CIDR it is.
    MeshOrigin {
        /// The node that sent it, or whose address its next hop is; `None` if that is none we know.
        node: Option<Arc<str>>,
        /// The node whose pod CIDR it is, or is inside of; `None`: nobody's.
        owner: Option<Arc<str>>,
        /// The next hop, where it came from a reflector and that is what is wrong.
        next_hop: Option<IpAddr>,
    },
    /// Its next hop does not resolve.
    NextHop(IpAddr, NextHopState),
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter { filter, rule } => write!(f, "rejected by filter {filter}, rule {rule}"),
            Self::DefaultPolicy => f.write_str(
                "rejected by the default policy: not in a pool or pod CIDR of the cluster, and no filter accepts it",
            ),
            Self::OwnPodCidr(net) => write!(f, "rejected: it is, or is inside, our own pod CIDR {net}"),
            Self::OwnAddress => f.write_str("rejected: it is an address of this host"),
            Self::FirstAs(Some(asn)) => {
                write!(f, "rejected: its AS_PATH begins with {asn}, not with the peer's AS")
            }
            Self::FirstAs(None) => {
                f.write_str("rejected: its AS_PATH does not begin with the peer's AS")
            }
            Self::OwnAsInPath => f.write_str(
                "rejected: our own AS is in its AS_PATH; set numAllowedLocalASNumbers here, as-override on the router, or give each node its own AS",
            ),
            Self::OwnOriginatorId => f.write_str("rejected: its ORIGINATOR_ID is ours"),
            Self::OwnClusterId => f.write_str("rejected: our cluster id is in its CLUSTER_LIST"),
            Self::OwnNextHop => f.write_str("rejected: its next hop is an address of this host"),
            Self::RouteLeak => f.write_str("rejected: a route leak by BGP roles"),
            Self::MeshOrigin { node, owner, next_hop } => {
                let node = node.as_deref().unwrap_or("no known node");
                f.write_str("rejected by the mesh origin check: ")?;
                match (owner, next_hop) {
                    (Some(owner), Some(next_hop)) => write!(
                        f,
                        "it belongs to {owner}, and its next hop {next_hop} is an address of {node}"
                    ),
                    (Some(owner), None) => write!(f, "{node} sent it, and it belongs to {owner}"),
                    (None, _) => write!(f, "{node} sent it, and it is none of its pod CIDRs"),
                }
            }
            Self::NextHop(address, NextHopState::Unreachable { reason }) => {
                write!(f, "next hop {address} unreachable: {reason}")
            }
            Self::NextHop(address, _) => write!(f, "next hop {address} not resolved yet"),
        }
    }
}

/// What became of a prefix towards one peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ExportVerdict {
    /// It is sent, for this reason: a filter's rule, or the default policy.
    Advertised(ExportReason),
    /// It is not.
    NotAdvertised(ExportReason),
}

/// Why a prefix is or is not sent to a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ExportReason {
    /// The session is not up.
    PeerDown,
    /// The family is not negotiated.
    FamilyNotNegotiated,
    /// It is what the peer itself sent.
    SplitHorizon,
    /// iBGP to iBGP, and neither is a client (RFC 4456 §6).
    NotReflected,
    /// NO_ADVERTISE, or NO_EXPORT to an external peer (RFC 1997).
    Community(&'static str),
    /// We have no address of the family to be its next hop towards this peer.
    NoNextHop(Family),
    /// Role and OTC forbid it (RFC 9234 §5).
    RouteLeak,
    /// A rule decided.
    Filter {
        /// Name of the filter.
        filter: Arc<str>,
        /// Place of the rule in it, from 0.
        rule: usize,
    },
    /// The default policy decided.
    DefaultPolicy,
    /// The first sync is not complete.
    NotSynced,
    /// No path is best.
    NoBestPath,
}

impl fmt::Display for ExportReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerDown => f.write_str("the session is not established"),
            Self::FamilyNotNegotiated => f.write_str("the family is not negotiated"),
            Self::SplitHorizon => f.write_str("the peer itself sent it"),
            Self::NotReflected => f.write_str("learned by iBGP, and not reflected"),
            Self::Community(name) => write!(f, "it carries {name}"),
            Self::NoNextHop(family) => {
                write!(f, "this node has no {family} address to be its next hop towards the peer")
            }
            Self::RouteLeak => f.write_str("BGP roles forbid it"),
            Self::Filter { filter, rule } => write!(f, "filter {filter}, rule {rule}"),
            Self::DefaultPolicy => f.write_str("the default policy"),
            Self::NotSynced => f.write_str("the first sync is not complete"),
            Self::NoBestPath => f.write_str("it has no best path"),
        }
    }
}

/// Everything about one destination.
#[derive(Clone, Debug)]
pub struct ExplainView {
    /// The destination found, `None` if nothing covers what was asked for.
    pub prefix: Option<IpNet>,
    /// Its paths: the best first, then in the order of preference, ineligible ones last.
    pub paths: Vec<PathExplanation>,
    /// What is done with it towards each peer.
    pub exports: Vec<(Arc<str>, ExportVerdict)>,
}

/// One path with what was decided about it on the way in.
#[derive(Clone, Debug)]
pub struct PathExplanation {
    /// The path.
    pub route: RouteView,
    /// What import policy said: the rule, or `None` for the default policy. For local routes `None`.
    pub import_rule: Option<(Arc<str>, usize)>,
    /// What is known of its next hop.
    pub next_hop: NextHopState,
    /// Attributes as received, if policy changed them.
    pub received: Option<Arc<PathAttributes>>,
}
