//! Objects written down as the parts of a configuration file, each at the rank of its object.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::address::{Choice, of_other};
use super::super::crd::{
    BGPConfigurationSpec, BGPFilterSpec, BGPPeerSpec, FilterRule, IPPoolSpec, PasswordSource,
    ServiceRange, TunnelSettings,
};
use super::super::objects::{
    AS_ANNOTATION, CLUSTER_ID_ANNOTATION, Key, Node, ROUTER_ID_ANNOTATION,
};
use super::super::services::{EXCLUDE_LABEL, ServiceAddress, Use};
use super::{Item, PeerItem, password_path};
use crate::config::file::{
    BgpFile, ConfigFile, FilterFile, LengthFile, MemberFile, NodeFile, PasswordFile,
    PasswordSourceFile, PeerFile, PoolFile, RuleFile, ServicesFile, Text, TunnelsFile,
};
use crate::config::parts::Beyond;
use crate::config::problem::Place;

/// What the parts of every object depend on.
pub(super) struct Parts<'a> {
    base: &'a ConfigFile,
    own: &'a Node,
    configuration: &'a BGPConfigurationSpec,
    choice: &'a Choice,
    /// Addresses of Services, as far as they are known.
    services: Option<&'a [ServiceAddress]>,
}

/// Writes texts at one place.
#[derive(Clone, Copy)]
struct Pen(Place);

impl Pen {
    fn text(self, value: impl ToString) -> Text {
        Text { value: value.to_string(), place: self.0 }
    }

    fn maybe(self, value: Option<&impl ToString>) -> Option<Text> {
        value.map(|value| self.text(value.to_string()))
    }

    fn texts<T: ToString>(self, values: &[T]) -> Vec<Text> {
        values.iter().map(|value| self.text(value.to_string())).collect()
    }

    fn password(self, source: Option<&PasswordSource>) -> Option<PasswordFile> {
        source.map(|source| {
            PasswordFile::Source(PasswordSourceFile {
                place: self.0,
                file: Some(self.text(password_path(&source.secret_key_ref))),
                ..PasswordSourceFile::default()
            })
        })
    }
}

impl<'a> Parts<'a> {
    pub(super) fn new(
        base: &'a ConfigFile,
        own: &'a Node,
        configuration: &'a BGPConfigurationSpec,
        choice: &'a Choice,
        services: Option<&'a [ServiceAddress]>,
    ) -> Self {
        Self { base, own, configuration, choice, services }
    }

    /// The parts of `items`, whose order is their rank; the first is the own Node.
    pub(super) fn build<'b>(
        &self,
        items: impl Iterator<Item = (&'b Key, Option<&'b Item>)>,
    ) -> (ConfigFile, Beyond) {
        let mut file = ConfigFile {
            kernel: self.base.kernel.clone(),
            cni: self.base.cni.clone(),
            api: self.base.api.clone(),
            metrics: self.base.metrics.clone(),
            state_dir: self.base.state_dir.clone(),
            ..ConfigFile::default()
        };
        let mut beyond = Beyond::default();
        let mut others: Vec<&Node> = Vec::new();
        let mut peers: Vec<(Pen, &str, &PeerItem)> = Vec::new();
        let lists = (
            file.nodes.get_or_insert_default(),
            file.filters.get_or_insert_default(),
            file.pools.get_or_insert_default(),
        );
        for (rank, (key, item)) in (1_u32..).zip(items) {
            let pen = Pen(Place::of_object(rank));
            match item {
                None => {}
                Some(Item::Node(node)) if node.name == self.own.name => {
                    file.node = Some(self.own_node(pen));
                }
                Some(Item::Node(node)) => {
                    lists.0.push(other_node(pen, node));
                    others.push(node);
                }
                Some(Item::Configuration(spec)) => {
                    file.bgp = Some(bgp(pen, spec));
                    file.tunnels = spec.tunnels.as_ref().map(|settings| tunnels(pen, settings));
                    file.services = Some(self.services(pen, spec));
                    beyond.claimed = self.services.map(|known| claimed(known, spec));
                }
                Some(Item::Filter(spec)) => lists.1.push(filter(pen, &key.name, spec)),
                Some(Item::Pool(spec)) => lists.2.push(pool(pen, &key.name, spec)),
                Some(Item::Peer(peer)) => peers.push((pen, &key.name, peer)),
            }
        }
        beyond.off_mesh = self.reflectors(&others);
        let mut files = Vec::new();
        for (pen, name, peer) in peers {
            match &peer.spec.peer_ip {
                Some(_) if !peer.selects(self.own) => {}
                Some(peer_ip) => {
                    let mut router = of_spec(pen, &peer.spec);
                    router.name = Some(pen.text(name));
                    router.peer_ip = Some(pen.text(peer_ip));
                    router.as_number = pen.maybe(peer.spec.as_number.as_ref());
                    files.push(router);
                }
                None => {
                    let selected = self.selected(peer, &others);
                    for node in selected {
                        // Of two objects that choose the same node the older one decides.
                        if !beyond.node_peers.contains(&node.name)
                            && let Some(node_peer) = self.node_peer(pen, &peer.spec, node)
                        {
                            beyond.node_peers.insert(node.name.clone());
                            beyond.off_mesh.insert(node.name.clone());
                            files.push(node_peer);
                        }
                    }
                }
            }
        }
        file.peers = Some(files);
        (file, beyond)
    }

    /// Ranges of service addresses, and what of them this node advertises: a range as a whole, and the
    /// addresses of Services with externalTrafficPolicy Local that it serves one by one.
    fn services(&self, pen: Pen, spec: &BGPConfigurationSpec) -> ServicesFile {
        let (mut ranges, mut advertise) = (BTreeSet::new(), BTreeSet::new());
        let known: &[ServiceAddress] = self.services.map_or(&[], |known| known);
        for use_ in [Use::Cluster, Use::External, Use::LoadBalancer] {
            let texts = ranges_of(spec, use_).iter().flatten().map(|range| &range.cidr);
            ranges.extend(texts.clone().cloned());
            let nets: Vec<IpNet> = texts.clone().filter_map(|text| text.parse().ok()).collect();
            let local = known.iter().filter(|one| {
                one.use_ == use_
                    && one.here.is_some()
                    && nets.iter().any(|net| net.contains(&one.address))
            });
            // A range that is nothing but such an address is advertised from its nodes only.
            let whole = |text: &&String| {
                let net = text.parse::<IpNet>().ok();
                !local.clone().any(|one| net == Some(IpNet::from(one.address)))
            };
            advertise.extend(texts.filter(whole).cloned());
            let served = local.clone().filter(|one| one.here == Some(true));
            advertise.extend(served.map(|one| IpNet::from(one.address).to_string()));
        }
        if self.own.labels.contains_key(EXCLUDE_LABEL) {
            advertise.clear();
        }
        let texts = |set: BTreeSet<String>| set.into_iter().map(|text| pen.text(text)).collect();
        ServicesFile {
            place: pen.0,
            ranges: Some(texts(ranges)),
            advertise: Some(texts(advertise)),
            ..ServicesFile::default()
        }
    }

    /// Reflectors are no members of the mesh, as Calico has it; on a reflector nobody is.
    fn reflectors(&self, others: &[&Node]) -> BTreeSet<String> {
        let reflects = |node: &Node| node.annotations.contains_key(CLUSTER_ID_ANNOTATION);
        let here = reflects(self.own);
        others.iter().filter(|node| here || reflects(node)).map(|node| node.name.clone()).collect()
    }

    /// The nodes that `peer` makes our peers, from either side, by name.
    fn selected<'b>(&self, peer: &PeerItem, others: &[&'b Node]) -> Vec<&'b Node> {
        let (selects, is) = (peer.selects(self.own), peer.is(self.own));
        let mut selected: BTreeMap<&str, &Node> = BTreeMap::new();
        for node in others {
            if selects && peer.is(node) || is && peer.selects(node) {
                selected.insert(&node.name, node);
            }
        }
        selected.into_values().collect()
    }

    fn own_node(&self, pen: Pen) -> NodeFile {
        let annotation = |key: &str| pen.maybe(self.own.annotations.get(key));
        NodeFile {
            place: pen.0,
            name: Some(pen.text(&self.own.name)),
            addresses: Some(pen.texts(&self.choice.addresses)),
            pod_cidrs: Some(pen.texts(&self.own.pod_cidrs)),
            as_number: annotation(AS_ANNOTATION),
            router_id: annotation(ROUTER_ID_ANNOTATION),
            route_reflector_cluster_id: annotation(CLUSTER_ID_ANNOTATION),
            ..NodeFile::default()
        }
    }

    /// A peer that is a node: like one of the mesh where the object does not say otherwise, so that a
    /// node can leave the mesh for a reflector without a reset.
    fn node_peer(&self, pen: Pen, spec: &BGPPeerSpec, node: &Node) -> Option<PeerFile> {
        let address = |v4: bool| {
            let here = self.choice.addresses.iter().any(|net| net.addr().is_ipv4() == v4);
            of_other(node)
                .iter()
                .map(|text| text.split('/').next().unwrap_or(text).to_owned())
                .find(|text| here && text.contains(':') != v4)
        };
        let address = address(true).or_else(|| address(false))?;
        let port = self.configuration.listen_port;
        let peer_ip = match (port, address.contains(':')) {
            (179, _) => address,
            (_, false) => format!("{address}:{port}"),
            (_, true) => format!("[{address}]:{port}"),
        };
        let cluster_as = self.configuration.as_number.to_string();
        let as_of =
            |node: &Node| node.annotations.get(AS_ANNOTATION).unwrap_or(&cluster_as).clone();
        let cluster_id = |node: &Node| node.annotations.get(CLUSTER_ID_ANNOTATION).cloned();
        let is_client = as_of(self.own) == as_of(node)
            && cluster_id(self.own).is_some_and(|own| cluster_id(node).as_ref() != Some(&own));
        let mut peer = of_spec(pen, spec);
        peer.name = Some(pen.text(&node.name));
        peer.peer_ip = Some(pen.text(peer_ip));
        peer.as_number = Some(pen.text(as_of(node)));
        peer.route_reflector_client = Some(pen.text(is_client));
        peer.source_address.get_or_insert_with(|| pen.text("UseNodeIP"));
        peer.max_restart_time
            .get_or_insert_with(|| pen.text(&self.configuration.node_mesh_max_restart_time));
        if peer.password.is_none() {
            peer.password = pen.password(self.configuration.node_mesh_password.as_ref());
        }
        Some(peer)
    }
}

fn other_node(pen: Pen, node: &Node) -> MemberFile {
    MemberFile {
        place: pen.0,
        name: Some(pen.text(&node.name)),
        addresses: Some(pen.texts(&of_other(node))),
        pod_cidrs: Some(pen.texts(&node.pod_cidrs)),
        as_number: pen.maybe(node.annotations.get(AS_ANNOTATION)),
        ..MemberFile::default()
    }
}

fn bgp(pen: Pen, spec: &BGPConfigurationSpec) -> BgpFile {
    BgpFile {
        place: pen.0,
        as_number: Some(pen.text(spec.as_number)),
        node_to_node_mesh_enabled: Some(pen.text(spec.node_to_node_mesh_enabled)),
        node_mesh_password: pen.password(spec.node_mesh_password.as_ref()),
        node_mesh_max_restart_time: Some(pen.text(&spec.node_mesh_max_restart_time)),
        listen_port: Some(pen.text(spec.listen_port)),
        hold_time: Some(pen.text(&spec.hold_time)),
        keepalive_time: pen.maybe(spec.keepalive_time.as_ref()),
        connect_retry_time: Some(pen.text(&spec.connect_retry_time)),
        maximum_paths: Some(pen.text(spec.maximum_paths)),
        mesh_origin_check: Some(pen.text(&spec.mesh_origin_check)),
        ..BgpFile::default()
    }
}

fn tunnels(pen: Pen, settings: &TunnelSettings) -> TunnelsFile {
    TunnelsFile {
        place: pen.0,
        vxlan_port: pen.maybe(settings.vxlan_port.as_ref()),
        vxlan_vni: pen.maybe(settings.vxlan_vni.as_ref()),
        mtu: pen.maybe(settings.mtu.as_ref()),
        guard: pen.maybe(settings.guard.as_ref()),
        ..TunnelsFile::default()
    }
}

/// The ranges of a use.
fn ranges_of(spec: &BGPConfigurationSpec, use_: Use) -> &Option<Vec<ServiceRange>> {
    match use_ {
        Use::Cluster => &spec.service_cluster_ips,
        Use::External => &spec.service_external_ips,
        Use::LoadBalancer => &spec.service_load_balancer_ips,
    }
}

/// The addresses of Services that lie in the ranges of their use.
fn claimed(known: &[ServiceAddress], spec: &BGPConfigurationSpec) -> BTreeSet<IpAddr> {
    let in_range = |one: &&ServiceAddress| {
        let mut ranges = ranges_of(spec, one.use_).iter().flatten();
        ranges.any(|range| range.cidr.parse().is_ok_and(|net: IpNet| net.contains(&one.address)))
    };
    known.iter().filter(in_range).map(|one| one.address).collect()
}

/// What of a peer does not depend on who it is.
fn of_spec(pen: Pen, spec: &BGPPeerSpec) -> PeerFile {
    PeerFile {
        place: pen.0,
        interface: pen.maybe(spec.interface.as_ref()),
        local_as_number: pen.maybe(spec.local_as_number.as_ref()),
        num_allowed_local_as_numbers: pen.maybe(spec.num_allowed_local_as_numbers.as_ref()),
        families: spec.families.as_ref().map(|families| pen.texts(families)),
        filters: spec.filters.as_ref().map(|filters| pen.texts(filters)),
        next_hop_mode: pen.maybe(spec.next_hop_mode.as_ref()),
        route_reflector_client: pen.maybe(spec.route_reflector_client.as_ref()),
        maximum_prefixes: pen.maybe(spec.maximum_prefixes.as_ref()),
        role: pen.maybe(spec.role.as_ref()),
        source_address: pen.maybe(spec.source_address.as_ref()),
        passive: pen.maybe(spec.passive.as_ref()),
        hold_time: pen.maybe(spec.hold_time.as_ref()),
        keepalive_time: pen.maybe(spec.keepalive_time.as_ref()),
        max_restart_time: pen.maybe(spec.max_restart_time.as_ref()),
        ttl: pen.maybe(spec.ttl.as_ref()),
        ttl_security: pen.maybe(spec.ttl_security.as_ref()),
        password: pen.password(spec.password.as_ref()),
        ..PeerFile::default()
    }
}

fn filter(pen: Pen, name: &str, spec: &BGPFilterSpec) -> FilterFile {
    let rules = |rules: Option<&Vec<FilterRule>>| {
        rules.map(|rules| rules.iter().map(|one| rule(pen, one)).collect())
    };
    FilterFile {
        place: pen.0,
        name: Some(pen.text(name)),
        import_v4: rules(spec.import_v4.as_ref()),
        export_v4: rules(spec.export_v4.as_ref()),
        import_v6: rules(spec.import_v6.as_ref()),
        export_v6: rules(spec.export_v6.as_ref()),
        ..FilterFile::default()
    }
}

fn rule(pen: Pen, rule: &FilterRule) -> RuleFile {
    RuleFile {
        place: pen.0,
        action: Some(pen.text(&rule.action)),
        cidr: pen.maybe(rule.cidr.as_ref()),
        match_operator: pen.maybe(rule.match_operator.as_ref()),
        prefix_length: rule.prefix_length.as_ref().map(|length| LengthFile {
            place: pen.0,
            min: pen.maybe(length.min.as_ref()),
            max: pen.maybe(length.max.as_ref()),
            ..LengthFile::default()
        }),
        ..RuleFile::default()
    }
}

fn pool(pen: Pen, name: &str, spec: &IPPoolSpec) -> PoolFile {
    PoolFile {
        place: pen.0,
        name: Some(pen.text(name)),
        cidr: Some(pen.text(&spec.cidr)),
        ipip_mode: Some(pen.text(&spec.ipip_mode)),
        vxlan_mode: Some(pen.text(&spec.vxlan_mode)),
        nat_outgoing: Some(pen.text(spec.nat_outgoing)),
        ..PoolFile::default()
    }
}
