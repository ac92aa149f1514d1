//! What the core is told to do: the speaker's configuration, already validated.
//!
//! In flow: the agent's configuration room builds a [`SpeakerConfig`] from a file or from
//! Kubernetes objects. Out flow: the speaker and the sessions diff it against what they have.
//! Nothing here is checked again: a value of these types is a valid configuration.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use routelet_proto::{Asn, BgpIdentifier, FamilySet, HoldTime, Role};

use crate::core::policy::{ClusterPrefixes, PolicyRules};

/// Everything the speaker needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeakerConfig {
    /// Our AS number.
    pub asn: Asn,
    /// Our BGP Identifier; kept until restart.
    pub router_id: BgpIdentifier,
    /// Cluster id for route reflection (RFC 4456 §7); defaults to the router id.
    pub cluster_id: Ipv4Addr,
    /// Host name for the FQDN capability.
    pub host_name: String,
    /// The node's IPv4 address, next hop of IPv4 routes on sessions over IPv6.
    pub address_v4: Option<Ipv4Addr>,
    /// The node's IPv6 address, next hop of IPv6 routes on sessions over IPv4.
    pub address_v6: Option<Ipv6Addr>,
    /// How many paths a multipath may have, 1 to 64.
    pub maximum_paths: usize,
    /// Whether there is a kernel: next hops are tracked and route changes handed out. Without one
    /// each next hop is reachable with metric 0 and no route change is made.
    pub track_next_hops: bool,
    /// How long the first sync waits for End-of-RIB from a peer that is not there.
    pub initial_deferral: Duration,
    /// Routes that start here.
    pub originated: Vec<OriginatedRoute>,
    /// What the default policy knows about the cluster.
    pub cluster: Arc<ClusterPrefixes>,
    /// The peers, each name once, each (address, interface) once.
    pub peers: Vec<Arc<PeerConfig>>,
}

/// A route that starts here.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct OriginatedRoute {
    /// What is advertised.
    pub prefix: IpNet,
    /// What it is; service addresses are never installed in a kernel.
    pub kind: OriginatedKind,
}

/// Kinds of route that start here.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OriginatedKind {
    /// A pod CIDR of this node.
    PodCidr,
    /// A service address or range.
    Service,
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConfig {
    /// Its name, unique.
    pub name: Arc<str>,
    /// What it is to us.
    pub kind: PeerKind,
    /// Whether a session is wanted; `false` after `disable`.
    pub enabled: bool,
    /// Where it is.
    pub address: IpAddr,
    /// Interface of a link-local address.
    pub interface: Option<String>,
    /// TCP port to connect to.
    pub port: u16,
    /// Its AS.
    pub remote_as: Asn,
    /// Our AS on this session: the speaker's, or `localASNumber`.
    pub local_as: Asn,
    /// Families to offer.
    pub families: FamilySet,
    /// Never connect, only accept.
    pub passive: bool,
    /// Local address of the connection.
    pub source_address: Option<IpAddr>,
    /// Hold time to propose.
    pub hold_time: HoldTime,
    /// Keepalive interval; a third of the negotiated hold time unless set.
    pub keepalive_time: Option<Duration>,
    /// ConnectRetryTime (RFC 4271 §8), before jitter.
    pub connect_retry_time: Duration,
    /// IP TTL or hop limit of what we send.
    pub ttl: u8,
    /// Least TTL or hop limit of what we accept (RFC 5082), if enforced.
    pub minimum_received_ttl: Option<u8>,
    /// TCP MD5 key (RFC 2385).
    pub password: Option<Password>,
    /// Reflect its routes (RFC 4456).
    pub route_reflector_client: bool,
    /// How often our own AS may stand in a path from it.
    pub num_allowed_local_as: u8,
    /// Next hop of what we send.
    pub next_hop_mode: NextHopMode,
    /// Graceful restart to offer (RFC 4724).
    pub graceful_restart: Option<GracefulRestartConfig>,
    /// More than so many prefixes of a family end the session (Cease/1).
    pub maximum_prefixes: Option<u32>,
    /// Our role towards it (RFC 9234).
    pub role: Option<Role>,
    /// Rules before the default policy.
    pub rules: Arc<PolicyRules>,
}

impl PeerConfig {
    /// A peer with nothing but what it must have: enabled, on port 179, both families, a hold time
    /// of 90 s, 30 s between attempts to connect, TTL 255, no rules, and nothing that is optional.
    #[must_use]
    pub fn new(
        name: impl Into<Arc<str>>,
        kind: PeerKind,
        address: IpAddr,
        remote_as: Asn,
        local_as: Asn,
    ) -> Self {
        Self {
            name: name.into(),
            kind,
            enabled: true,
            address,
            interface: None,
            port: 179,
            remote_as,
            local_as,
            families: FamilySet::ALL,
            passive: false,
            source_address: None,
            hold_time: HoldTime::new(90).expect("90 s is a hold time"),
            keepalive_time: None,
            connect_retry_time: Duration::from_secs(30),
            ttl: 255,
            minimum_received_ttl: None,
            password: None,
            route_reflector_client: false,
            num_allowed_local_as: 0,
            next_hop_mode: NextHopMode::Auto,
            graceful_restart: None,
            maximum_prefixes: None,
            role: None,
            rules: Arc::default(),
        }
    }
}

/// What a peer is to us; decides the default policy.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PeerKind {
    /// Another node of the node-to-node mesh, whatever its AS.
    Mesh,
    /// Configured, of our own AS: a reflector, its client, or another iBGP speaker.
    Internal,
    /// Configured, of another AS: a router outside the cluster.
    External,
}

/// `nextHopMode` of a peer.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum NextHopMode {
    /// Self when an eBGP route goes to iBGP; unchanged when reflecting; to eBGP third-party when
    /// receiver and next hop share a subnet, else self.
    #[default]
    Auto,
    /// Always our own address.
    Myself,
    /// Always as it is, own routes excepted.
    Keep,
}

/// Graceful restart as offered to a peer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct GracefulRestartConfig {
    /// Seconds the peer shall wait for us, 1 to 4095.
    pub restart_time: u16,
    /// Whether NOTIFICATIONs are survived too (RFC 8538): between nodes only.
    pub notification: bool,
}

/// A TCP MD5 key, 1 to 80 octets. Never printed.
#[derive(Clone, Eq, PartialEq)]
pub struct Password(pub Arc<[u8]>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// How a peer's new configuration differs from its old one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PeerChange {
    /// Not at all.
    Unchanged,
    /// In what can change under a running session: policy, next hop, reflection, limits.
    Live,
    /// In what the OPEN or the connection carries; the session is reset. The words name the fields.
    Reset(String),
}

impl PeerConfig {
    /// How `new` differs from `self`. `routelet plan` prints it, the driver acts on it.
    #[must_use]
    pub fn change_to(&self, new: &Self) -> PeerChange {
        let mut fields = Vec::new();
        let mut check = |differs: bool, field: &'static str| {
            if differs {
                fields.push(field);
            }
        };
        check(self.enabled != new.enabled, "enabled");
        check(self.address != new.address, "peerIP");
        check(self.interface != new.interface, "interface");
        check(self.port != new.port, "port");
        check(self.remote_as != new.remote_as, "asNumber");
        check(self.local_as != new.local_as, "localASNumber");
        check(self.families != new.families, "families");
        check(self.passive != new.passive, "passive");
        check(self.source_address != new.source_address, "sourceAddress");
        check(self.hold_time != new.hold_time, "holdTime");
        check(self.keepalive_time != new.keepalive_time, "keepaliveTime");
        check(self.ttl != new.ttl, "ttl");
        check(self.minimum_received_ttl != new.minimum_received_ttl, "ttlSecurity");
        check(self.password != new.password, "password");
        check(self.graceful_restart != new.graceful_restart, "gracefulRestart");
        check(self.role != new.role, "role");
        if !fields.is_empty() {
            PeerChange::Reset(fields.join(", "))
        } else if self == new {
            PeerChange::Unchanged
        } else {
            PeerChange::Live
        }
    }
}
