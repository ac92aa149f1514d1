//! What the API shows: stable field names, documented in docs/api.md.
//!
//! In flow: [`super::convert`] fills these from the core's views and the kernel's status. Out flow:
//! JSON for whoever asks, and the same values again on the other side, where the commands read
//! them and print tables.
//!
//! What always holds: every field is always there (`null` where there is nothing to say), ages are
//! whole seconds and end in `Seconds`, a field keeps its name and meaning within `/v1`. A test
//! compares these types with the document, in both directions.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A peer: configuration, session and counts.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its name, unique.
    pub name: String,
    /// Its address.
    #[serde(rename = "peerIP")]
    pub peer_ip: IpAddr,
    /// Interface of a link-local address.
    pub interface: Option<String>,
    /// TCP port we connect to.
    pub port: u16,
    /// `mesh`, `internal`, `reflector client` or `external`.
    pub kind: String,
    /// Its AS.
    pub as_number: u32,
    /// Our AS on this session.
    #[serde(rename = "localASNumber")]
    pub local_as_number: u32,
    /// `false` while disabled.
    pub enabled: bool,
    /// We never connect, only accept.
    pub passive: bool,
    /// State by its RFC 4271 name.
    pub state: String,
    /// How long it has been in that state.
    pub state_seconds: u64,
    /// How long it has been Established; 0 if it is not.
    pub uptime_seconds: u64,
    /// Prefixes in Adj-RIB-In, all families.
    pub received: u64,
    /// Of those, passed by import policy.
    pub accepted: u64,
    /// Prefixes in Adj-RIB-Out, all families.
    pub advertised: u64,
    /// Why it last went down or failed to come up, in words.
    pub last_error: Option<String>,
    /// How long ago that was.
    pub last_error_seconds: Option<u64>,
    /// How often it left Established.
    pub flaps: u64,
    /// The same counts by family.
    pub families: Vec<FamilyCounts>,
    /// Both ends of the connection.
    pub endpoints: Option<Endpoints>,
    /// What the two OPENs agreed on.
    pub negotiated: Option<Negotiated>,
    /// Timers.
    pub timers: Timers,
    /// Messages by type.
    pub messages: Messages,
    /// Octets received.
    pub octets_received: u64,
    /// Octets sent.
    pub octets_sent: u64,
    /// Connections it opened that were refused.
    pub connections_refused: u64,
    /// UPDATEs whose routes were treated as withdrawn (RFC 7606).
    pub treated_as_withdrawn: u64,
    /// Attributes discarded (RFC 7606).
    pub attributes_discarded: u64,
    /// Number of its update group.
    pub update_group: Option<u64>,
    /// Prefixes that wait to be sent to it.
    pub pending: Option<u64>,
}

/// Counts of one family.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyCounts {
    /// `ipv4-unicast` or `ipv6-unicast`.
    pub family: String,
    /// Prefixes in Adj-RIB-In.
    pub received: u64,
    /// Of those, passed by import policy.
    pub accepted: u64,
    /// Prefixes in Adj-RIB-Out.
    pub advertised: u64,
    /// Its End-of-RIB came.
    pub end_of_rib: bool,
    /// Its routes are retained from before it restarted.
    pub stale: bool,
    /// Why its routes are not read any more until the next session (RFC 7606 §2).
    pub disabled: Option<String>,
}

/// Both ends of a connection.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// Ours.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// What the two OPENs agreed on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Negotiated {
    /// The peer's BGP Identifier.
    #[serde(rename = "routerID")]
    pub router_id: String,
    /// The lesser of the two hold times; 0: none.
    pub hold_time_seconds: u64,
    /// Time between our KEEPALIVEs; 0: none.
    pub keepalive_time_seconds: u64,
    /// Families both offered.
    pub families: Vec<String>,
    /// AS numbers have four octets.
    #[serde(rename = "fourOctetAS")]
    pub four_octet_as: bool,
    /// Messages may have 65535 octets.
    pub extended_message: bool,
    /// IPv4 routes may have an IPv6 next hop.
    pub extended_next_hop: bool,
    /// Families it may send several paths of.
    pub add_path_receive: Vec<String>,
    /// Families we may send several paths of.
    pub add_path_send: Vec<String>,
    /// It answers ROUTE-REFRESH.
    pub route_refresh: bool,
    /// Both do it enhanced.
    pub enhanced_route_refresh: bool,
    /// Its graceful restart capability, if both have one.
    pub graceful_restart: Option<GracefulRestart>,
    /// Capabilities we sent.
    pub sent: Vec<Capability>,
    /// Capabilities it sent.
    pub received: Vec<Capability>,
}

/// A peer's graceful restart capability.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestart {
    /// R bit: it had restarted.
    pub restarted: bool,
    /// N bit on both sides: NOTIFICATIONs are survived.
    pub notification: bool,
    /// How long we wait for it.
    pub restart_time_seconds: u64,
    /// Families it lists.
    pub families: Vec<String>,
    /// Families it lists with the F bit.
    pub forwarding: Vec<String>,
}

/// One capability of an OPEN.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    /// Its code.
    pub code: u8,
    /// Its name in words.
    pub name: String,
    /// Its value in words; empty if it has none.
    pub value: String,
}

/// Timers of a session.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timers {
    /// The hold time we propose.
    pub configured_hold_time_seconds: u64,
    /// Until ConnectRetryTimer expires, if it runs.
    pub connect_retry_seconds: Option<u64>,
    /// Until HoldTimer expires, if it runs.
    pub hold_seconds: Option<u64>,
    /// Until KeepaliveTimer expires, if it runs.
    pub keepalive_seconds: Option<u64>,
}

/// Messages by direction.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Messages {
    /// From the peer.
    pub received: MessageCounts,
    /// To the peer.
    pub sent: MessageCounts,
}

/// Messages by type since the process started.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageCounts {
    /// OPEN.
    pub open: u64,
    /// UPDATE.
    pub update: u64,
    /// NOTIFICATION.
    pub notification: u64,
    /// KEEPALIVE.
    pub keepalive: u64,
    /// ROUTE-REFRESH.
    pub route_refresh: u64,
}

/// One path of one destination.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Destination.
    pub prefix: IpNet,
    /// Path identifier, 0 without add-path.
    pub path_id: u32,
    /// It can take part in the decision.
    pub valid: bool,
    /// It is the best path.
    pub best: bool,
    /// It shares the traffic with the best.
    pub multipath: bool,
    /// Retained from before its peer restarted.
    pub stale: bool,
    /// Next hop; `null` for a route that starts here.
    pub next_hop: Option<IpAddr>,
    /// The link-local next hop beside it.
    pub link_local_next_hop: Option<IpAddr>,
    /// The peer that sent it, or `local`.
    pub from: String,
    /// `peer`, `podCIDR` or `service`.
    pub source: String,
    /// AS_PATH, sets in braces; empty for a route of our own AS.
    pub as_path: String,
    /// `igp`, `egp` or `incomplete`.
    pub origin: String,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// COMMUNITIES, `65001:100` or their registered names.
    pub communities: Vec<String>,
    /// LARGE COMMUNITIES, `65001:1:2`.
    pub large_communities: Vec<String>,
    /// EXTENDED COMMUNITIES, as 16 hexadecimal digits.
    pub extended_communities: Vec<String>,
    /// ORIGINATOR_ID.
    #[serde(rename = "originatorID")]
    pub originator_id: Option<String>,
    /// CLUSTER_LIST, nearest first.
    pub cluster_list: Vec<String>,
    /// AGGREGATOR, `AS identifier`.
    pub aggregator: Option<String>,
    /// ATOMIC_AGGREGATE is there.
    pub atomic_aggregate: bool,
    /// Only to Customer.
    pub otc: Option<u32>,
    /// Codes of unrecognized attributes it carries.
    pub unknown_attributes: Vec<u8>,
    /// When it was learned or last changed.
    pub age_seconds: u64,
    /// The kernel forwards through it.
    pub installed: bool,
    /// `yes`, or why it is not in the kernel.
    pub kernel: String,
    /// The device that packets leave by; `null` where the route is not in the kernel.
    pub device: Option<String>,
    /// How packets are wrapped: `none`, `IP-in-IP` or `VXLAN`; `null` as `device`.
    pub encapsulation: Option<String>,
    /// What the decision process said.
    pub decision: String,
    /// The step at which it won or lost.
    pub decision_step: Option<u8>,
    /// Why it is where it is: the first 'no' on its way to the kernel, else why it won.
    pub reason: String,
}

/// The whole agent.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The node's name.
    pub node_name: String,
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// How long it has been running.
    pub uptime_seconds: u64,
    /// Our AS.
    pub as_number: u32,
    /// Our BGP Identifier.
    #[serde(rename = "routerID")]
    pub router_id: String,
    /// Where BGP listens.
    pub listen: Vec<SocketAddr>,
    /// The node's pod CIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    /// The configuration.
    pub config: ConfigStatus,
    /// Whether every peer has sent End-of-RIB or its deferral has passed.
    pub first_sync: bool,
    /// The peers in numbers.
    pub peers: PeerSums,
    /// The kernel.
    pub kernel: Kernel,
    /// The CNI configuration.
    pub cni: Cni,
    /// The firewall.
    pub firewall: Firewall,
    /// What readiness waits for, a line each; empty if the agent is ready.
    pub pending: Vec<String>,
    /// What is wrong, a line each; empty if nothing is.
    pub problems: Vec<String>,
}

/// Which configuration runs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    /// The file.
    pub file: String,
    /// How many configurations were applied since the start.
    pub generation: u64,
    /// When the running one was.
    pub loaded_seconds: u64,
    /// Why the file, as it is now, was refused; `null` if it runs.
    pub refused: Option<String>,
    /// When it was refused.
    pub refused_seconds: Option<u64>,
    /// What changed in the file but needs a restart.
    pub needs_restart: Vec<String>,
    /// What is legal but probably not meant.
    pub warnings: Vec<String>,
}

/// The peers in numbers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerSums {
    /// Configured.
    pub configured: u64,
    /// Of those, Established.
    pub established: u64,
    /// Of those, disabled.
    pub disabled: u64,
    /// Prefixes received, all peers.
    pub received: u64,
    /// Prefixes accepted, all peers.
    pub accepted: u64,
    /// Prefixes advertised, all peers.
    pub advertised: u64,
}

/// The kernel side.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kernel {
    /// Whether routes are programmed at all.
    pub enabled: bool,
    /// Routing table.
    pub table: u32,
    /// Protocol number of our routes.
    pub protocol: u8,
    /// Metric of our routes.
    pub metric: u32,
    /// Routes wanted.
    pub desired: u64,
    /// Of those, in the kernel.
    pub installed: u64,
    /// Of those, refused.
    pub failed: u64,
    /// Routes of an earlier life found at start.
    pub adopted: u64,
    /// Whether the stale ones have been removed after the first sync.
    pub synced: bool,
    /// Routes put back because somebody else had removed or changed them.
    pub repaired: u64,
    /// The tunnel devices that are needed, or there.
    pub tunnels: Vec<Tunnel>,
    /// Problems in words, each with its fix.
    pub problems: Vec<String>,
}

/// A tunnel device.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    /// Its name.
    pub device: String,
    /// `IP-in-IP` or `VXLAN`.
    pub encapsulation: String,
    /// Routes lead over it.
    pub ready: bool,
    /// `up`, or why it is not.
    pub state: String,
    /// Where outer packets come from.
    pub local: Option<IpAddr>,
    /// The largest packet it takes, octets; `null` where it is not there.
    pub mtu: Option<u32>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Nodes that it can lead to.
    pub nodes: u64,
}

/// The CNI configuration for the node's pods.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cni {
    /// Whether it is written at all.
    pub enabled: bool,
    /// Where.
    pub file: String,
    /// The file is there, with what is wanted now.
    pub written: bool,
    /// The plugin that makes a pod's device.
    pub plugin: String,
    /// MTU of pods to come, where it is known.
    pub mtu: Option<u32>,
    /// What it waits for.
    pub waiting: Option<String>,
    /// Problems in words, each with its fix.
    pub problems: Vec<String>,
}

/// The firewall, each part in words.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Firewall {
    /// Who may send us tunnel packets.
    pub guard: String,
    /// Source NAT for packets that leave the pools.
    pub nat_outgoing: String,
    /// What becomes of packets to service addresses that are nobody's.
    pub service_addresses: String,
    /// Chains of others that drop what is forwarded.
    pub forward: String,
    /// How often our rules were put back because others had changed them.
    pub repaired: u64,
    /// Problems in words, each with its fix.
    pub problems: Vec<String>,
}

/// Everything about one destination.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explain {
    /// What was asked for.
    pub query: String,
    /// The destination found.
    pub prefix: Option<IpNet>,
    /// The longest prefix that covers what was asked for, when that itself is not in the table.
    pub covered_by: Option<IpNet>,
    /// Its paths, the best first.
    pub paths: Vec<ExplainedPath>,
    /// What is done with it towards each peer.
    pub exports: Vec<Export>,
    /// What the kernel has.
    pub kernel: KernelLookup,
}

/// One path, with what was decided about it on the way in.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedPath {
    /// The path.
    pub route: Route,
    /// What the filters said.
    pub import: String,
    /// What is known of its next hop.
    pub next_hop_state: String,
    /// How the kernel reaches its next hop.
    pub next_hop_resolution: Option<String>,
    /// How packets to it are wrapped and why, or why not.
    pub encapsulation: Option<String>,
    /// The largest packet that the way takes, octets.
    pub mtu: Option<u32>,
    /// What the neighbour table says of the neighbours on the way.
    pub neighbour: Option<String>,
    /// The path as received, if policy changed it.
    pub as_received: Option<Box<Route>>,
}

/// What is done with a destination towards one peer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// The peer.
    pub peer: String,
    /// Whether it is advertised.
    pub advertised: bool,
    /// Why, or why not.
    pub reason: String,
}

/// What the kernel has for a destination.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelLookup {
    /// Whether routes are programmed at all; if not, nothing was looked up.
    pub managed: bool,
    /// What became of our route: `yes`, or why it is not there.
    pub status: String,
    /// The address that was looked up.
    pub address: IpAddr,
    /// The route packets to it really take.
    pub route: Option<String>,
    /// Every route for exactly the prefix.
    pub candidates: Vec<String>,
}

/// What a new configuration changes, or changed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Whether it was applied (reload) or only compared (plan).
    pub applied: bool,
    /// The changes; empty if there is none.
    pub changes: Vec<Change>,
    /// What is legal in it but probably not meant.
    pub warnings: Vec<String>,
}

/// One change of configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// `live`, `reset` (the peer's session is reset) or `restart` (needs a restart of the agent).
    pub effect: String,
    /// What changes, in words.
    pub what: String,
}

/// Which build answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Version of the package.
    pub version: String,
    /// Version of the API.
    pub api: String,
}

/// Something was done.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// What, in words.
    pub done: String,
}

/// Something was not done.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What went wrong.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The body of `reset` and `disable`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAction {
    /// Shown by the other side (RFC 9003); at most 255 octets.
    pub message: Option<String>,
}

/// The body of `plan`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanRequest {
    /// Name of the file, for error messages.
    pub file: String,
    /// Its text.
    pub text: String,
}
