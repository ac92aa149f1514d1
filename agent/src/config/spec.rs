//! What is wanted, in types: the meeting point of the file and, later, Kubernetes objects.
//!
//! In flow: `parse.rs` builds a [`ConfigSpec`] from a file's scalars. Out flow: `validate` makes a
//! [`super::Config`] of it. Each value is possible by itself; whether they fit each other is not known
//! yet. Field names are Calico's where the meaning is the same.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use routelet_bgp::core::config::{NextHopMode, Password};
use routelet_bgp::core::policy::Rule;
use routelet_proto::{Asn, Family, HoldTime, Role};

use super::metrics::MetricsConfig;
use super::problem::Place;
use crate::cni::Plugin;
use crate::kernel::{NexthopObjects, TunnelMode};
use crate::nft::ForwardAccept;

/// A value and the place it was written at; no place for a default.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

impl<T> At<T> {
    /// A value that nobody wrote.
    pub const fn default_of(value: T) -> Self {
        Self { value, place: Place::NONE }
    }
}

/// Everything.
#[derive(Clone, Debug)]
pub struct ConfigSpec {
    /// The node this agent runs on.
    pub node: LocalNodeSpec,
    /// BGPConfiguration.
    pub bgp: BgpSpec,
    /// Members of the mesh; this node may be among them.
    pub nodes: Vec<NodeSpec>,
    /// BGPPeers.
    pub peers: Vec<PeerSpec>,
    /// BGPFilters.
    pub filters: Vec<FilterSpec>,
    /// IPPools.
    pub pools: Vec<PoolSpec>,
    /// What holds for the tunnels that pools ask for.
    pub tunnels: TunnelsSpec,
    /// Addresses of services.
    pub services: ServicesSpec,
    /// Where routes go.
    pub kernel: KernelSpec,
    /// How pods are attached.
    pub cni: CniSpec,
    /// Socket of the local API.
    pub api_socket: PathBuf,
    /// Metrics and probes.
    pub metrics: MetricsConfig,
    /// Where state is kept.
    pub state_dir: PathBuf,
}

/// The node this agent runs on; what is `None` comes from its entry among the nodes, if it has one.
#[derive(Clone, Debug)]
pub struct LocalNodeSpec {
    /// Its place.
    pub place: Place,
    /// Its name.
    pub name: Option<At<String>>,
    /// Its addresses with the lengths of their subnets.
    pub addresses: Option<Vec<At<IpNet>>>,
    /// Its pod CIDRs.
    pub pod_cidrs: Option<Vec<At<IpNet>>>,
    /// Its AS, where it differs from the cluster's.
    pub as_number: Option<At<Asn>>,
    /// BGP Identifier.
    pub router_id: Option<At<Ipv4Addr>>,
    /// Cluster id for route reflection.
    pub route_reflector_cluster_id: Option<At<Ipv4Addr>>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its place.
    pub place: Place,
    /// Its name.
    pub name: At<String>,
    /// Its addresses with the lengths of their subnets.
    pub addresses: Vec<At<IpNet>>,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<At<IpNet>>,
    /// Its AS, where it differs from the cluster's.
    pub as_number: Option<At<Asn>>,
    /// Whether it is a peer of the mesh, where there is one; always so in a file.
    pub mesh: bool,
}

/// BGPConfiguration.
#[derive(Clone, Debug)]
pub struct BgpSpec {
    /// The cluster's AS.
    pub as_number: At<Asn>,
    /// Whether every node of the list is a peer.
    pub node_to_node_mesh_enabled: bool,
    /// TCP MD5 key of the mesh.
    pub node_mesh_password: Option<Password>,
    /// Seconds mesh peers wait for our restart; 0: no graceful restart.
    pub node_mesh_max_restart_time: u16,
    /// TCP port we listen on, and mesh peers too.
    pub listen_port: u16,
    /// Where we listen, if not on the node's addresses.
    pub listen_addresses: Option<Vec<At<IpAddr>>>,
    /// Proposed to peers that have none of their own.
    pub hold_time: At<HoldTime>,
    /// Seconds between KEEPALIVEs, if not a third of the hold time.
    pub keepalive_time: Option<At<u16>>,
    /// ConnectRetryTime.
    pub connect_retry_time: Duration,
    /// Paths of a multipath.
    pub maximum_paths: usize,
    /// Whether nodes may only send what is theirs. `None`: nobody said.
    pub mesh_origin_check: Option<bool>,
}

/// `sourceAddress`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SourceAddress {
    /// The node's address in the peer's subnet, where it has one; else as `UseNodeIP`. Not a word of
    /// the file: it is what holds when the key is left out.
    Nearest,
    /// The node's first address of the peer's family.
    UseNodeIp,
    /// Whatever the kernel chooses.
    None,
    /// This one.
    Address(IpAddr),
}

/// BGPPeer.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// Its name.
    pub name: At<String>,
    /// Whether it is a node of the cluster outside the mesh, for example a reflector; never so in a
    /// file. Such a session differs from one of the mesh in nothing that would reset it.
    pub of_node: bool,
    /// Where it is.
    pub peer_ip: At<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Interface of a link-local address.
    pub interface: Option<At<String>>,
    /// Its AS.
    pub as_number: At<Asn>,
    /// Our AS towards it.
    pub local_as_number: Option<At<Asn>>,
    /// How often our AS may stand in a path from it.
    pub num_allowed_local_as_numbers: At<u8>,
    /// Families to offer.
    pub families: Option<Vec<At<Family>>>,
    /// Names of filters, in order.
    pub filters: Vec<At<String>>,
    /// Next hop of what we send.
    pub next_hop_mode: NextHopMode,
    /// Reflect its routes.
    pub route_reflector_client: At<bool>,
    /// More prefixes of a family end the session.
    pub maximum_prefixes: Option<u32>,
    /// Our role towards it.
    pub role: Option<At<Role>>,
    /// Local address of the connection.
    pub source_address: At<SourceAddress>,
    /// Never connect.
    pub passive: At<bool>,
    /// Hold time to propose.
    pub hold_time: Option<At<HoldTime>>,
    /// Seconds between KEEPALIVEs.
    pub keepalive_time: Option<At<u16>>,
    /// Seconds it waits for our restart; 0: no graceful restart.
    pub max_restart_time: u16,
    /// TTL of what we send.
    pub ttl: Option<At<u8>>,
    /// How many hops away it is at most.
    pub ttl_security: Option<At<u8>>,
    /// TCP MD5 key.
    pub password: Option<Password>,
}

/// BGPFilter; the rules of a family that could not be read are left out.
#[derive(Clone, Debug)]
pub struct FilterSpec {
    /// Its name.
    pub name: At<String>,
    /// For what a peer sends, indexed by [`Family::index`].
    pub import: [Vec<Rule>; Family::ALL.len()],
    /// For what we send it.
    pub export: [Vec<Rule>; Family::ALL.len()],
}

/// IPPool.
#[derive(Clone, Debug)]
pub struct PoolSpec {
    /// Its name.
    pub name: At<String>,
    /// Its prefix.
    pub cidr: At<IpNet>,
    /// Whether what leaves the pools gets the node's address.
    pub nat_outgoing: bool,
    /// When packets to it travel by IP-in-IP; `None`: never.
    pub ipip_mode: Option<At<TunnelMode>>,
    /// When they travel by VXLAN; `None`: never.
    pub vxlan_mode: Option<At<TunnelMode>>,
}

/// What holds for all tunnels.
#[derive(Clone, Copy, Debug)]
pub struct TunnelsSpec {
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// VXLAN network identifier.
    pub vxlan_vni: u32,
    /// MTU of the tunnel devices, if it does not follow from the links below them.
    pub mtu: Option<u32>,
    /// Whether encapsulated packets are taken from known nodes only.
    pub guard: bool,
}

/// Addresses of services.
#[derive(Clone, Debug)]
pub struct ServicesSpec {
    /// What the cluster's service addresses are.
    pub ranges: Vec<At<IpNet>>,
    /// What this node advertises.
    pub advertise: Vec<At<IpNet>>,
    /// The addresses in the ranges that services have; `None` where they are not known, as in a file.
    pub claimed: Option<BTreeSet<IpAddr>>,
}

/// Where routes go.
#[derive(Clone, Debug)]
pub struct KernelSpec {
    /// Whether there are kernel routes at all.
    pub enabled: bool,
    /// Routing table.
    pub table: u32,
    /// Protocol number of our routes.
    pub protocol: u8,
    /// Metric of our routes.
    pub metric: u32,
    /// Metric of the blackholes.
    pub blackhole_metric: At<u32>,
    /// Whether what others delete is put back.
    pub repair: bool,
    /// Whether large next-hop sets become nexthop objects of the kernel.
    pub nexthop_objects: NexthopObjects,
    /// What is done about chains of others that drop what is forwarded.
    pub forward_accept: ForwardAccept,
}

/// How pods are attached.
#[derive(Clone, Debug)]
pub struct CniSpec {
    /// Whether a CNI configuration is written. `None`: nobody said.
    pub enabled: Option<At<bool>>,
    /// Where it is written.
    pub conf_dir: PathBuf,
    /// Where the plugins are.
    pub bin_dirs: Vec<PathBuf>,
    /// The plugin that makes a pod's device.
    pub plugin: Plugin,
    /// MTU of pods. `None`: what fits.
    pub mtu: Option<u32>,
}
