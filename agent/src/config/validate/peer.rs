//! Peers: those of the file and those of the mesh, each a complete [`PeerConfig`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use routelet_bgp::core::config::{GracefulRestartConfig, NextHopMode, PeerConfig, PeerKind};
use routelet_proto::{Family, FamilySet, HoldTime};

use super::filter::Filters;
use super::{LocalNode, first_v4, first_v6};
use crate::config::problem::{Place, Problems};
use crate::config::scalar::is_link_local;
use crate::config::spec::{At, ConfigSpec, NodeSpec, PeerSpec, SourceAddress};

/// TTL of everything we send unless configured: a neighbour that checks it (RFC 5082) lets us
/// through, and one that is many hops away is reached.
const TTL: u8 = 255;

/// Makes the peers, one after the other.
pub(super) struct PeerBuilder<'a> {
    spec: &'a ConfigSpec,
    local: &'a LocalNode,
    listen: &'a [SocketAddr],
    filters: Filters<'a>,
    problems: &'a mut Problems,
    /// Of `bgp`, checked once.
    hold_time: HoldTime,
    peers: Vec<Arc<PeerConfig>>,
    /// Of the peers of `peers`, and where they stand.
    names: BTreeMap<String, Place>,
    addresses: BTreeMap<(IpAddr, Option<String>), (String, Place)>,
}

impl<'a> PeerBuilder<'a> {
    pub(super) fn new(
        spec: &'a ConfigSpec,
        local: &'a LocalNode,
        listen: &'a [SocketAddr],
        filters: Filters<'a>,
        problems: &'a mut Problems,
    ) -> Self {
        let bgp = &spec.bgp;
        if let Some(keepalive) = bgp.keepalive_time {
            check_timers("bgp", bgp.hold_time, keepalive, problems);
        }
        if bgp.hold_time.value.seconds() == 0 {
            problems.warn(bgp.hold_time.place, "bgp.holdTime", NO_HOLD_TIME);
        }
        Self {
            spec,
            local,
            listen,
            filters,
            problems,
            hold_time: bgp.hold_time.value,
            peers: Vec::new(),
            names: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// The peers, in the order of the file, the mesh behind them.
    pub(super) fn finish(self) -> Vec<Arc<PeerConfig>> {
        self.filters.warn_unused(self.problems);
        self.peers
    }

    /// Adds the peers of `peers`.
    pub(super) fn configured(&mut self) {
        let spec = self.spec;
        for peer in &spec.peers {
            let path = format!("peers[{}]", peer.name.value);
            if let Some(first) = self.names.get(&peer.name.value) {
                let message = format!("is taken{}; names of peers must be unique", first.hint());
                self.problems.error(peer.name.place, format!("{path}.name"), message);
                continue;
            }
            self.names.insert(peer.name.value.clone(), peer.name.place);
            let interface = peer.interface.as_ref().map(|at| at.value.clone());
            let key = (peer.peer_ip.value, interface);
            if let Some((name, place)) = self.addresses.get(&key) {
                self.problems.error(
                    peer.peer_ip.place,
                    format!("{path}.peerIP"),
                    format!(
                        "{} is the address of {name} already{}; one peer has one session, for both \
                         families",
                        peer.peer_ip.value,
                        place.hint()
                    ),
                );
            }
            self.addresses.insert(key, (peer.name.value.clone(), peer.peer_ip.place));
            let config = self.peer(peer, &path);
            self.peers.push(Arc::new(config));
        }
    }

    /// Adds the other nodes.
    pub(super) fn mesh(&mut self, members: &[&NodeSpec]) {
        if !self.spec.bgp.node_to_node_mesh_enabled {
            return;
        }
        for node in members.iter().filter(|node| node.mesh) {
            let path = format!("nodes[{}]", node.name.value);
            let name = &node.name.value;
            if let Some(&place) = self.names.get(name) {
                let message = format!(
                    "is the name of a node{}, which is a peer of the mesh by itself: rename or remove \
                     this peer, or set bgp.nodeToNodeMeshEnabled: false",
                    node.name.place.hint()
                );
                self.problems.error(place, format!("peers[{name}].name"), message);
                continue;
            }
            if let Some(config) = self.mesh_peer(node, &path) {
                self.peers.push(Arc::new(config));
            }
        }
    }

    fn mesh_peer(&mut self, node: &NodeSpec, path: &str) -> Option<PeerConfig> {
        let bgp = &self.spec.bgp;
        let v4 = first_v4(&node.addresses).map(IpAddr::V4).filter(|_| self.local.v4.is_some());
        let v6 = first_v6(&node.addresses).map(IpAddr::V6).filter(|_| self.local.v6.is_some());
        let Some(address) = v4.or(v6) else {
            if !node.addresses.is_empty() && !self.local.addresses.is_empty() {
                self.problems.error(
                    node.addresses[0].place,
                    format!("{path}.addresses"),
                    format!(
                        "has no address of a family that {} has: the two cannot peer",
                        self.local.name
                    ),
                );
            }
            return None;
        };
        if let Some((name, place)) = self.addresses.get(&(address, None)) {
            let message = format!(
                "{address} is the address of {}{}, which is a peer of the mesh by itself: remove this \
                 peer, or set bgp.nodeToNodeMeshEnabled: false",
                node.name.value,
                node.place.hint()
            );
            self.problems.error(*place, format!("peers[{name}].peerIP"), message);
            return None;
        }
        let remote_as = node.as_number.unwrap_or(bgp.as_number).value;
        Some(PeerConfig {
            name: node.name.value.as_str().into(),
            kind: PeerKind::Mesh,
            enabled: true,
            address,
            interface: None,
            port: bgp.listen_port,
            remote_as,
            local_as: self.local.asn,
            families: self.default_families(address),
            passive: false,
            source_address: self.local.address_towards(address),
            hold_time: self.hold_time,
            keepalive_time: self.inherited_keepalive(self.hold_time),
            connect_retry_time: bgp.connect_retry_time,
            ttl: TTL,
            minimum_received_ttl: None,
            password: bgp.node_mesh_password.clone(),
            route_reflector_client: false,
            num_allowed_local_as: 0,
            // Between nodes of different AS the session is external but may be hops long: the
            // third-party next hop that Auto would leave is nobody's neighbour there.
            next_hop_mode: if remote_as == self.local.asn {
                NextHopMode::Auto
            } else {
                NextHopMode::Myself
            },
            graceful_restart: graceful_restart(bgp.node_mesh_max_restart_time, true),
            maximum_prefixes: None,
            role: None,
            rules: self.filters.none(),
        })
    }

    fn peer(&mut self, peer: &PeerSpec, path: &str) -> PeerConfig {
        let local_as = peer.local_as_number.map_or(self.local.asn, |at| at.value);
        let internal = peer.as_number.value == self.local.asn;
        self.check_as(peer, path, internal);
        self.check_address(peer, path);
        let (hold_time, keepalive_time) = self.timers(peer, path);
        let (ttl, minimum_received_ttl) = self.ttl(peer, path);
        let rules = self.filters.rules(&peer.filters, &format!("{path}.filters"), self.problems);
        PeerConfig {
            name: peer.name.value.as_str().into(),
            kind: if internal { PeerKind::Internal } else { PeerKind::External },
            enabled: true,
            address: peer.peer_ip.value,
            interface: peer.interface.as_ref().map(|at| at.value.clone()),
            port: peer.port,
            remote_as: peer.as_number.value,
            local_as,
            families: self.families(peer, path),
            passive: peer.passive.value,
            source_address: self.source_address(peer, path),
            hold_time,
            keepalive_time,
            connect_retry_time: self.spec.bgp.connect_retry_time,
            ttl,
            minimum_received_ttl,
            password: peer.password.clone(),
            route_reflector_client: peer.route_reflector_client.value,
            num_allowed_local_as: peer.num_allowed_local_as_numbers.value,
            next_hop_mode: peer.next_hop_mode,
            graceful_restart: graceful_restart(peer.max_restart_time, peer.of_node),
            maximum_prefixes: peer.maximum_prefixes,
            role: peer.role.map(|at| at.value),
            rules,
        }
    }

    /// What depends on whether the session is internal or external.
    fn check_as(&mut self, peer: &PeerSpec, path: &str, internal: bool) {
        let own = self.local.asn;
        if let Some(local_as) = peer.local_as_number
            && local_as.value != own
        {
            let why = if internal {
                Some(format!("is for peers of another AS; this one has our own, {own}"))
            } else if local_as.value == peer.as_number.value {
                Some(format!("{} is the peer's own AS; give it another", local_as.value))
            } else {
                None
            };
            if let Some(why) = why {
                self.problems.error(local_as.place, format!("{path}.localASNumber"), why);
            }
        }
        if peer.route_reflector_client.value && !internal {
            self.problems.error(
                peer.route_reflector_client.place,
                format!("{path}.routeReflectorClient"),
                format!(
                    "only a peer of our own AS {own} can be a client; this one has {}",
                    peer.as_number.value
                ),
            );
        }
        if let Some(role) = peer.role
            && internal
        {
            self.problems.error(
                role.place,
                format!("{path}.role"),
                format!("only a peer of another AS has a role (RFC 9234); {own} is our own"),
            );
        }
        if peer.num_allowed_local_as_numbers.value > 0 && internal {
            self.problems.warn(
                peer.num_allowed_local_as_numbers.place,
                format!("{path}.numAllowedLocalASNumbers"),
                "on a peer of our own AS this concerns routes that came back from outside only",
            );
        }
    }

    fn check_address(&mut self, peer: &PeerSpec, path: &str) {
        let At { value: address, place } = peer.peer_ip;
        let own = self.local.addresses.iter().any(|at| at.value.addr() == address);
        if own && peer.port == self.spec.bgp.listen_port {
            self.problems.error(
                place,
                format!("{path}.peerIP"),
                format!("{address} is this node's own address; write the peer's"),
            );
        }
        match &peer.interface {
            None if is_link_local(address) => self.problems.error(
                place,
                format!("{path}.peerIP"),
                format!("{address} is link-local: say on which interface, for example `interface: eth0`"),
            ),
            Some(interface) if !is_link_local(address) => self.problems.error(
                interface.place,
                format!("{path}.interface"),
                format!("goes with a link-local peerIP only; {address} is reached by the routes there are"),
            ),
            _ => {}
        }
        let reachable = self.listen.iter().any(|listen| listen.is_ipv4() == address.is_ipv4());
        if peer.passive.value && !reachable {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            self.problems.error(
                peer.passive.place,
                format!("{path}.passive"),
                format!(
                    "we listen on no {family} address, so the session would never come up; see \
                     bgp.listenAddresses"
                ),
            );
        }
    }

    fn source_address(&mut self, peer: &PeerSpec, path: &str) -> Option<IpAddr> {
        let At { value: address, place } = peer.peer_ip;
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        match peer.source_address.value {
            SourceAddress::None => None,
            // The kernel takes the interface's own link-local address.
            SourceAddress::Nearest | SourceAddress::UseNodeIp if is_link_local(address) => None,
            wanted @ (SourceAddress::Nearest | SourceAddress::UseNodeIp) => {
                let nearest = self.local.address_beside(address);
                let source = nearest
                    .filter(|_| wanted == SourceAddress::Nearest)
                    .or_else(|| self.local.address_towards(address));
                if source.is_none() && !self.local.addresses.is_empty() {
                    self.problems.error(
                        place,
                        format!("{path}.peerIP"),
                        format!(
                            "node.addresses has no {family} address to connect from; add one, or set \
                             sourceAddress to an address or None"
                        ),
                    );
                }
                source
            }
            SourceAddress::Address(source) => {
                if source.is_ipv4() != address.is_ipv4() {
                    self.problems.error(
                        peer.source_address.place,
                        format!("{path}.sourceAddress"),
                        format!("{source} cannot connect to {address}; write an {family} address"),
                    );
                }
                Some(source)
            }
        }
    }

    fn families(&mut self, peer: &PeerSpec, path: &str) -> FamilySet {
        let Some(families) = &peer.families else {
            return self.default_families(peer.peer_ip.value);
        };
        for family in families {
            if !self.local.has_family(family.value) && self.spec.kernel.enabled {
                self.problems.warn(
                    family.place,
                    format!("{path}.families"),
                    format!(
                        "the node has no address to be the next hop of {} routes: only those that \
                         keep their next hop can be sent",
                        family.value
                    ),
                );
            }
        }
        families.iter().map(|at| at.value).collect()
    }

    /// The families the node has addresses of, and the session's own; every family where nothing is
    /// forwarded here, so that no next hop of ours is needed.
    fn default_families(&self, peer: IpAddr) -> FamilySet {
        if !self.spec.kernel.enabled {
            return FamilySet::ALL;
        }
        let session = if peer.is_ipv4() { Family::Ipv4Unicast } else { Family::Ipv6Unicast };
        let local = Family::ALL.into_iter().filter(|family| self.local.has_family(*family));
        local.chain([session]).collect()
    }

    fn timers(&mut self, peer: &PeerSpec, path: &str) -> (HoldTime, Option<Duration>) {
        let hold_time = peer.hold_time.unwrap_or(At::default_of(self.hold_time));
        if peer.hold_time.is_some_and(|at| at.value.seconds() == 0) {
            self.problems.warn(hold_time.place, format!("{path}.holdTime"), NO_HOLD_TIME);
        }
        match peer.keepalive_time {
            Some(keepalive) => {
                check_timers(path, hold_time, keepalive, self.problems);
                (hold_time.value, Some(Duration::from_secs(keepalive.value.into())))
            }
            None => (hold_time.value, self.inherited_keepalive(hold_time.value)),
        }
    }

    /// `bgp.keepaliveTime`, where it goes with `hold_time`; else a third of that, as if it were unset:
    /// a peer with a short hold time of its own must not inherit too long an interval.
    fn inherited_keepalive(&self, hold_time: HoldTime) -> Option<Duration> {
        self.spec
            .bgp
            .keepalive_time
            .filter(|keepalive| keepalive.value <= hold_time.seconds() / 3)
            .or(self.spec.bgp.keepalive_time.filter(|_| hold_time == self.hold_time))
            .map(|keepalive| Duration::from_secs(keepalive.value.into()))
    }

    fn ttl(&mut self, peer: &PeerSpec, path: &str) -> (u8, Option<u8>) {
        let ttl = peer.ttl.map_or(TTL, |at| at.value);
        let Some(hops) = peer.ttl_security else { return (ttl, None) };
        if let Some(At { value, place }) = peer.ttl
            && value != TTL
        {
            self.problems.error(
                place,
                format!("{path}.ttl"),
                format!(
                    "{value} contradicts ttlSecurity, for which both sides send 255; leave it out"
                ),
            );
        }
        // What left there with 255 arrives here over `hops` links with 255 - (hops - 1) (RFC 5082 §3).
        (ttl, Some(TTL - (hops.value - 1)))
    }
}

const NO_HOLD_TIME: &str =
    "with 0s there are no keepalives: a peer that vanishes is noticed by TCP only, if ever";

/// KEEPALIVEs must come well within the hold time.
fn check_timers(path: &str, hold: At<HoldTime>, keepalive: At<u16>, problems: &mut Problems) {
    let seconds = hold.value.seconds();
    let path = format!("{path}.keepaliveTime");
    if seconds == 0 {
        problems.error(
            keepalive.place,
            path,
            "goes with a hold time only; holdTime 0s means no keepalives",
        );
    } else if keepalive.value >= seconds {
        problems.error(
            keepalive.place,
            path,
            format!(
                "{}s is not shorter than holdTime {seconds}s{}; a third of it, {}s, is usual",
                keepalive.value,
                hold.place.hint(),
                seconds / 3
            ),
        );
    } else if keepalive.value > seconds / 3 {
        problems.warn(
            keepalive.place,
            path,
            format!(
                "is more than a third of holdTime {seconds}s: two lost keepalives end the session"
            ),
        );
    }
}

fn graceful_restart(restart_time: u16, notification: bool) -> Option<GracefulRestartConfig> {
    (restart_time > 0).then_some(GracefulRestartConfig { restart_time, notification })
}
