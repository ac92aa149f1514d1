//! From texts to values: each scalar of the file gets its type, or a problem with its place.
//!
//! In flow: [`ConfigFile`]. Out flow: [`ConfigSpec`]; a value that could not be read is noted and
//! replaced by its default, an object that lacks its heart (name, address, prefix) is left out, so
//! that the checks after this one still find what else is wrong. Defaults of scalars live here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use routelet_bgp::core::config::Password;
use routelet_proto::{Asn, HoldTime};

use super::file::{
    ApiFile, BgpFile, CniFile, ConfigFile, KernelFile, MemberFile, MetricsFile, NodeFile,
    PasswordFile, PoolFile, ServicesFile, Text, TunnelsFile,
};
use super::metrics::{MeshPeers, MetricsConfig, parse_listen};
use super::problem::{Place, Problems};
use super::scalar::{self, Scalar};
use super::spec::{
    At, BgpSpec, CniSpec, ConfigSpec, KernelSpec, LocalNodeSpec, NodeSpec, PoolSpec, ServicesSpec,
    TunnelsSpec,
};
use crate::cni::{self, Plugin};
use crate::kernel::{NexthopObjects, TunnelConfig, TunnelMode};
use crate::nft::ForwardAccept;

mod filter;
mod peer;

/// The AS of a cluster that names none, as Calico has it.
const DEFAULT_AS: Asn = Asn(64512);
/// Hold time proposed unless configured (RFC 4271 §10).
const DEFAULT_HOLD_TIME: u16 = 90;
/// Seconds between attempts to connect: a node that comes back is found soon, one that is gone costs
/// each of its peers a SYN in this time.
const DEFAULT_CONNECT_RETRY: Duration = Duration::from_secs(10);
/// Seconds a mesh peer keeps our routes while we restart.
const DEFAULT_MESH_RESTART_TIME: u16 = 300;
/// Seconds other peers do.
const DEFAULT_RESTART_TIME: u16 = 120;
/// The greatest restart time (12 bits, RFC 4724 §3).
const MAXIMUM_RESTART_TIME: u16 = 4095;
/// VXLAN network identifiers have 24 bits (RFC 7348 §5); 0 is left out, some switches refuse it.
const MAXIMUM_VNI: u32 = (1 << 24) - 1;
/// IPv6 needs that much (RFC 8200 §5).
const MINIMUM_TUNNEL_MTU: u32 = 1280;
/// What is left of the largest packet behind the largest header.
const MAXIMUM_TUNNEL_MTU: u32 = 65_465;
/// The port of BGP.
const BGP_PORT: u16 = 179;

/// Protocol numbers that belong to somebody (the kernel's `rtnetlink.h` and `rt_protos`): routes
/// with our number that we do not want are removed, so they must not be another's.
const TAKEN_PROTOCOLS: &[(u8, &str)] = &[
    (8, "gated"),
    (9, "router advertisements"),
    (10, "MRT"),
    (11, "zebra"),
    (12, "BIRD"),
    (13, "DECnet"),
    (14, "XORP"),
    (15, "netsukuku"),
    (16, "DHCP clients and systemd-networkd"),
    (17, "multicast daemons"),
    (18, "keepalived"),
    (42, "Babel"),
    (99, "Open/R"),
    (186, "FRR's bgpd"),
    (187, "FRR's isisd"),
    (188, "FRR's ospfd"),
    (189, "FRR's ripd"),
    (192, "FRR's eigrpd"),
];

/// Where passwords come from: their file's content, or why it cannot be had.
pub type ReadPassword<'a> = &'a dyn Fn(&Path) -> Result<Password, String>;

/// Gives every scalar of `file` its type.
pub fn parse(
    file: &ConfigFile,
    passwords: ReadPassword<'_>,
    problems: &mut Problems,
) -> ConfigSpec {
    file.check_keys("", problems);
    let mut reader = Reader { problems, passwords };
    let nodes = list(file.nodes.as_ref());
    let peers = list(file.peers.as_ref());
    let filters = list(file.filters.as_ref());
    let pools = list(file.pools.as_ref());
    let api = file.api.clone().unwrap_or_default();
    ConfigSpec {
        node: reader.local_node(&file.node.clone().unwrap_or_default()),
        bgp: reader.bgp(&file.bgp.clone().unwrap_or_default()),
        nodes: each(nodes, |index, node| reader.node(node, index)),
        peers: each(peers, |index, peer| reader.peer(peer, index)),
        filters: each(filters, |index, filter| reader.filter(filter, index)),
        pools: each(pools, |index, pool| reader.pool(pool, index)),
        tunnels: reader.tunnels(&file.tunnels.clone().unwrap_or_default()),
        services: reader.services(&file.services.clone().unwrap_or_default()),
        kernel: reader.kernel(&file.kernel.clone().unwrap_or_default()),
        cni: reader.cni(&file.cni.clone().unwrap_or_default()),
        api_socket: reader.api_socket(&api),
        metrics: reader.metrics(&file.metrics.clone().unwrap_or_default()),
        state_dir: reader.or(
            file.state_dir.as_ref(),
            "stateDir",
            PathBuf::from("/var/lib/routelet"),
            scalar::path,
        ),
    }
}

fn list<T>(list: Option<&Vec<T>>) -> &[T] {
    list.map_or(&[], Vec::as_slice)
}

fn each<T, U>(list: &[T], mut one: impl FnMut(usize, &T) -> Option<U>) -> Vec<U> {
    list.iter().enumerate().filter_map(|(index, item)| one(index, item)).collect()
}

/// `peers[tor-1]`, or `peers[0]` for an entry without a name.
fn entry(list: &str, name: Option<&Text>, index: usize) -> String {
    match name {
        Some(name) => format!("{list}[{}]", name.value),
        None => format!("{list}[{index}]"),
    }
}

struct Reader<'a> {
    problems: &'a mut Problems,
    passwords: ReadPassword<'a>,
}

impl Reader<'_> {
    /// The value of `text`; noted and `None` if it is impossible, `None` if it is not there.
    fn get<T>(
        &mut self,
        text: Option<&Text>,
        path: &str,
        read: impl Fn(&str) -> Scalar<T>,
    ) -> Option<At<T>> {
        let text = text?;
        match read(&text.value) {
            Ok(value) => Some(At { value, place: text.place }),
            Err(message) => {
                self.problems.error(text.place, path, message);
                None
            }
        }
    }

    fn or_at<T>(
        &mut self,
        text: Option<&Text>,
        path: &str,
        default: T,
        read: impl Fn(&str) -> Scalar<T>,
    ) -> At<T> {
        self.get(text, path, read).unwrap_or(At::default_of(default))
    }

    fn or<T>(
        &mut self,
        text: Option<&Text>,
        path: &str,
        default: T,
        read: impl Fn(&str) -> Scalar<T>,
    ) -> T {
        self.or_at(text, path, default, read).value
    }

    /// The value of `text`, which must be there.
    fn need<T>(
        &mut self,
        text: Option<&Text>,
        at: Place,
        path: &str,
        read: impl Fn(&str) -> Scalar<T>,
    ) -> Option<At<T>> {
        if text.is_none() {
            self.problems.error(at, path, "is missing");
        }
        self.get(text, path, read)
    }

    fn values<T>(
        &mut self,
        texts: Option<&Vec<Text>>,
        path: &str,
        read: impl Fn(&str) -> Scalar<T>,
    ) -> Vec<At<T>> {
        let texts = texts.map_or(&[][..], Vec::as_slice);
        texts.iter().filter_map(|text| self.get(Some(text), path, &read)).collect()
    }

    fn password(&mut self, file: Option<&PasswordFile>, at: Place, path: &str) -> Option<Password> {
        let fix = "write `{file: /path/to/it}`: a secret does not belong into the configuration";
        let source = match file? {
            PasswordFile::Source(source) => source,
            PasswordFile::Inline => {
                let message = format!("the password stands here itself; {fix}");
                self.problems.secret_error(at, path, message);
                return None;
            }
        };
        if let Some(key) = source.unknown.first() {
            // Not even the key is named: `{hunter2}` is a mapping too.
            self.problems.secret_error(key.place, path, format!("unknown key; {fix}"));
            return None;
        }
        let at = if source.place.is_known() { source.place } else { at };
        let file = self.need(source.file.as_ref(), at, &format!("{path}.file"), |text| {
            if text.is_empty() { Err("is empty".to_owned()) } else { Ok(PathBuf::from(text)) }
        })?;
        match (self.passwords)(&file.value) {
            Ok(password) => Some(password),
            Err(message) => {
                self.problems.error(file.place, format!("{path}.file"), message);
                None
            }
        }
    }

    fn local_node(&mut self, file: &NodeFile) -> LocalNodeSpec {
        file.check_keys("node", self.problems);
        let addresses = file.addresses.as_ref();
        let pod_cidrs = file.pod_cidrs.as_ref();
        LocalNodeSpec {
            place: file.place,
            name: self.get(file.name.as_ref(), "node.name", scalar::name),
            addresses: addresses
                .map(|_| self.values(addresses, "node.addresses", scalar::interface_address)),
            pod_cidrs: pod_cidrs.map(|_| self.values(pod_cidrs, "node.podCIDRs", prefix)),
            as_number: self.get(file.as_number.as_ref(), "node.asNumber", scalar::as_number),
            router_id: self.get(file.router_id.as_ref(), "node.routerID", scalar::identifier),
            route_reflector_cluster_id: self.get(
                file.route_reflector_cluster_id.as_ref(),
                "node.routeReflectorClusterID",
                scalar::identifier,
            ),
        }
    }

    fn node(&mut self, file: &MemberFile, index: usize) -> Option<NodeSpec> {
        let path = entry("nodes", file.name.as_ref(), index);
        let key = |key: &str| format!("{path}.{key}");
        file.check_keys(&path, self.problems);
        let spec = NodeSpec {
            place: file.place,
            name: self.need(file.name.as_ref(), file.place, &key("name"), scalar::name)?,
            addresses: self.values(
                file.addresses.as_ref(),
                &key("addresses"),
                scalar::interface_address,
            ),
            pod_cidrs: self.values(file.pod_cidrs.as_ref(), &key("podCIDRs"), prefix),
            as_number: self.get(file.as_number.as_ref(), &key("asNumber"), scalar::as_number),
            mesh: true,
        };
        if list(file.addresses.as_ref()).is_empty() {
            self.problems.error(
                file.place,
                key("addresses"),
                "is missing: without an address the node cannot be a peer",
            );
        }
        Some(spec)
    }

    fn bgp(&mut self, file: &BgpFile) -> BgpSpec {
        file.check_keys("bgp", self.problems);
        let listen = file.listen_addresses.as_ref();
        let hold_time = HoldTime::new(DEFAULT_HOLD_TIME).expect("invariant: 90 s is a hold time");
        BgpSpec {
            as_number: self.or_at(
                file.as_number.as_ref(),
                "bgp.asNumber",
                DEFAULT_AS,
                scalar::as_number,
            ),
            node_to_node_mesh_enabled: self.or(
                file.node_to_node_mesh_enabled.as_ref(),
                "bgp.nodeToNodeMeshEnabled",
                true,
                scalar::boolean,
            ),
            node_mesh_password: self.password(
                file.node_mesh_password.as_ref(),
                file.place,
                "bgp.nodeMeshPassword",
            ),
            node_mesh_max_restart_time: self.or(
                file.node_mesh_max_restart_time.as_ref(),
                "bgp.nodeMeshMaxRestartTime",
                DEFAULT_MESH_RESTART_TIME,
                restart_time,
            ),
            listen_port: self.or(file.listen_port.as_ref(), "bgp.listenPort", BGP_PORT, |text| {
                scalar::number(text, 1, u16::MAX)
            }),
            listen_addresses: listen
                .map(|_| self.values(listen, "bgp.listenAddresses", listen_address)),
            hold_time: self.or_at(
                file.hold_time.as_ref(),
                "bgp.holdTime",
                hold_time,
                scalar::hold_time,
            ),
            keepalive_time: self.get(
                file.keepalive_time.as_ref(),
                "bgp.keepaliveTime",
                keepalive_time,
            ),
            connect_retry_time: self.or(
                file.connect_retry_time.as_ref(),
                "bgp.connectRetryTime",
                DEFAULT_CONNECT_RETRY,
                |text| Ok(Duration::from_secs(scalar::seconds(text, 1, u16::MAX)?.into())),
            ),
            mesh_origin_check: self
                .get(file.mesh_origin_check.as_ref(), "bgp.meshOriginCheck", |text| {
                    scalar::choice(text, &[("Enabled", true), ("Disabled", false)])
                })
                .map(|at| at.value),
            maximum_paths: self.or(file.maximum_paths.as_ref(), "bgp.maximumPaths", 16, |text| {
                scalar::number(text, 1, 64)
            }),
        }
    }

    fn pool(&mut self, file: &PoolFile, index: usize) -> Option<PoolSpec> {
        let path = entry("pools", file.name.as_ref(), index);
        let key = |key: &str| format!("{path}.{key}");
        file.check_keys(&path, self.problems);
        let name = self.need(file.name.as_ref(), file.place, &key("name"), scalar::name);
        let cidr = self.need(file.cidr.as_ref(), file.place, &key("cidr"), prefix);
        let [ipip_mode, vxlan_mode] = [
            self.tunnel_mode(file.ipip_mode.as_ref(), &key("ipipMode")),
            self.tunnel_mode(file.vxlan_mode.as_ref(), &key("vxlanMode")),
        ];
        let nat_outgoing =
            self.or(file.nat_outgoing.as_ref(), &key("natOutgoing"), false, scalar::boolean);
        Some(PoolSpec { name: name?, cidr: cidr?, ipip_mode, vxlan_mode, nat_outgoing })
    }

    /// The mode of a tunnel; `None` for `Never`.
    fn tunnel_mode(&mut self, text: Option<&Text>, path: &str) -> Option<At<TunnelMode>> {
        let modes = [
            ("Never", None),
            ("Always", Some(TunnelMode::Always)),
            ("CrossSubnet", Some(TunnelMode::CrossSubnet)),
        ];
        let At { value, place } = self.get(text, path, |text| scalar::choice(text, &modes))?;
        Some(At { value: value?, place })
    }

    fn tunnels(&mut self, file: &TunnelsFile) -> TunnelsSpec {
        file.check_keys("tunnels", self.problems);
        let defaults = TunnelConfig::default();
        TunnelsSpec {
            vxlan_port: self.or(
                file.vxlan_port.as_ref(),
                "tunnels.vxlanPort",
                defaults.vxlan_port,
                |text| scalar::number(text, 1, u16::MAX),
            ),
            vxlan_vni: self.or(
                file.vxlan_vni.as_ref(),
                "tunnels.vxlanVNI",
                defaults.vxlan_vni,
                |text| scalar::number(text, 1, MAXIMUM_VNI),
            ),
            mtu: self
                .get(file.mtu.as_ref(), "tunnels.mtu", |text| {
                    scalar::number(text, MINIMUM_TUNNEL_MTU, MAXIMUM_TUNNEL_MTU)
                })
                .map(|at| at.value),
            guard: self.or(file.guard.as_ref(), "tunnels.guard", defaults.guard, scalar::boolean),
        }
    }

    fn services(&mut self, file: &ServicesFile) -> ServicesSpec {
        file.check_keys("services", self.problems);
        ServicesSpec {
            ranges: self.values(file.ranges.as_ref(), "services.ranges", prefix),
            advertise: self.values(file.advertise.as_ref(), "services.advertise", prefix),
            claimed: None,
        }
    }

    fn kernel(&mut self, file: &KernelFile) -> KernelSpec {
        file.check_keys("kernel", self.problems);
        KernelSpec {
            enabled: self.or(file.enabled.as_ref(), "kernel.enabled", true, scalar::boolean),
            table: self.or(file.table.as_ref(), "kernel.table", 254, table),
            protocol: self.or(file.protocol.as_ref(), "kernel.protocol", 179, protocol),
            metric: self.or(file.metric.as_ref(), "kernel.metric", 1179, metric),
            blackhole_metric: self.or_at(
                file.blackhole_metric.as_ref(),
                "kernel.blackholeMetric",
                65_000,
                metric,
            ),
            repair: self.or(file.repair.as_ref(), "kernel.repair", true, scalar::boolean),
            nexthop_objects: self.or(
                file.nexthop_objects.as_ref(),
                "kernel.nexthopObjects",
                NexthopObjects::Auto,
                nexthop_objects,
            ),
            forward_accept: self.or(
                file.forward_accept.as_ref(),
                "kernel.forwardAccept",
                ForwardAccept::Auto,
                |text| {
                    let modes = [ForwardAccept::Auto, ForwardAccept::Never];
                    scalar::choice(text, &modes.map(|mode| (mode.word(), mode)))
                },
            ),
        }
    }

    fn cni(&mut self, file: &CniFile) -> CniSpec {
        file.check_keys("cni", self.problems);
        let bin_dirs = match &file.bin_dirs {
            None => cni::BIN_DIRS.iter().map(PathBuf::from).collect(),
            Some(texts) => {
                let dirs = self.values(Some(texts), "cni.binDirs", scalar::path);
                dirs.into_iter().map(|at| at.value).collect()
            }
        };
        CniSpec {
            enabled: self.get(file.enabled.as_ref(), "cni.enabled", scalar::boolean),
            conf_dir: self.or(
                file.conf_dir.as_ref(),
                "cni.confDir",
                PathBuf::from(cni::CONF_DIR),
                scalar::path,
            ),
            bin_dirs,
            plugin: self.or(file.plugin.as_ref(), "cni.plugin", Plugin::default(), plugin),
            mtu: self.get(file.mtu.as_ref(), "cni.mtu", mtu).map(|at| at.value),
        }
    }

    fn metrics(&mut self, file: &MetricsFile) -> MetricsConfig {
        file.check_keys("metrics", self.problems);
        let default = MetricsConfig::default();
        let listen = file.listen.as_ref();
        let mesh_peers = file.mesh_peers.as_ref();
        let words =
            [("Auto", MeshPeers::Auto), ("Each", MeshPeers::Each), ("Summed", MeshPeers::Summed)];
        MetricsConfig {
            listen: self.or(listen, "metrics.listen", default.listen, parse_listen),
            mesh_peers: self.or(mesh_peers, "metrics.meshPeers", default.mesh_peers, |text| {
                scalar::choice(text, &words)
            }),
        }
    }

    fn api_socket(&mut self, file: &ApiFile) -> PathBuf {
        file.check_keys("api", self.problems);
        let default = PathBuf::from(super::DEFAULT_SOCKET);
        self.or(file.socket.as_ref(), "api.socket", default, |text| {
            // sun_path has 108 octets, one of them the closing NUL (unix(7)).
            if text.len() > 107 {
                return Err(format!(
                    "is {} octets long; the path of a socket has at most 107",
                    text.len()
                ));
            }
            scalar::path(text)
        })
    }
}

/// A prefix that is somebody's, not everybody's.
fn prefix(text: &str) -> Scalar<IpNet> {
    let net = scalar::cidr(text)?;
    if net.prefix_len() == 0 {
        return Err(format!("`{text}` is the whole address space; write the prefix that is meant"));
    }
    Ok(net)
}

fn plugin(text: &str) -> Scalar<Plugin> {
    scalar::choice(text, &[("ptp", Plugin::Ptp), ("bridge", Plugin::Bridge)])
}

/// RFC 791 wants 576 octets to be accepted everywhere; a device of Linux takes up to 65535.
fn mtu(text: &str) -> Scalar<u32> {
    scalar::number(text, 576, 65_535)
}

fn listen_address(text: &str) -> Scalar<IpAddr> {
    let address = scalar::address(text)?;
    if scalar::is_link_local(address) {
        return Err(format!(
            "`{text}` is link-local and cannot be bound without an interface; `::` includes it"
        ));
    }
    if address.is_multicast() {
        return Err(format!("`{text}` is not the address of a host"));
    }
    Ok(address)
}

fn restart_time(text: &str) -> Scalar<u16> {
    scalar::seconds(text, 0, MAXIMUM_RESTART_TIME)
}

fn keepalive_time(text: &str) -> Scalar<u16> {
    scalar::seconds(text, 1, u16::MAX / 3)
}

fn table(text: &str) -> Scalar<u32> {
    match scalar::number(text, 1, u32::MAX)? {
        255 => Err("table 255 is `local`, the kernel's own; 254 is `main`".to_owned()),
        table => Ok(table),
    }
}

fn protocol(text: &str) -> Scalar<u8> {
    let protocol = scalar::number(text, 0, u8::MAX)?;
    if protocol < 5 {
        return Err(format!(
            "protocol {protocol} is the kernel's own (0 to 4): routelet would remove routes of others; 179 is the default"
        ));
    }
    match TAKEN_PROTOCOLS.iter().find(|(number, _)| *number == protocol) {
        Some((_, owner)) => Err(format!(
            "protocol {protocol} belongs to {owner}: routelet would remove their routes; 179 is the default"
        )),
        None => Ok(protocol),
    }
}

fn nexthop_objects(text: &str) -> Scalar<NexthopObjects> {
    match text {
        "Auto" => Ok(NexthopObjects::Auto),
        "Never" => Ok(NexthopObjects::Never),
        _ => Err(format!("`{text}` is neither `Auto` nor `Never`")),
    }
}

fn metric(text: &str) -> Scalar<u32> {
    match scalar::number(text, 1, u32::MAX)? {
        1024 => Err(
            "1024 is the metric of every IPv6 route that has none: the kernel would replace other people's routes by ours; take any other, for example 1179"
                .to_owned(),
        ),
        metric => Ok(metric),
    }
}
