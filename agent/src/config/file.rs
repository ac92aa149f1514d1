//! The YAML file as it is written: keys, texts and their places, nothing interpreted.
//!
//! In flow: the text of a file. Out flow: [`ConfigFile`]. Every scalar stays a [`Text`] with its place
//! until `parse.rs` gives it a meaning, so that all mistakes are found in one go and each knows its
//! line; a mapping collects the keys it does not know for the same reason. Structs are never
//! flattened: that would defeat both.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_saphyr::Spanned;

use super::problem::{Place, Problems, did_you_mean};

/// A scalar as it is written, and where.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Text {
    /// What is written, without quotes.
    pub value: String,
    /// Where.
    pub place: Place,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<String>::deserialize(deserializer)?;
        Ok(Self { value: spanned.value, place: place(spanned.referenced) })
    }
}

/// Our place for the parser's.
pub(super) fn place(location: serde_saphyr::Location) -> Place {
    let number = |value| u32::try_from(value).unwrap_or(0);
    Place { line: number(location.line()), column: number(location.column()) }
}

/// Reads the text of a file into its structure; values are not interpreted yet.
///
/// # Errors
/// Text that is not YAML, or a list where a mapping belongs and the like: the one place where the
/// parser stopped.
pub fn read(text: &str, problems: &mut Problems) -> Option<ConfigFile> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
    };
    match serde_saphyr::from_str_with_options::<ConfigFile>(text, options) {
        Ok(file) => Some(file),
        Err(error) => {
            let at = error.location().map_or(Place::NONE, place);
            problems.error(at, "", words(&error));
            None
        }
    }
}

/// The parser's message in our words, without the place, which we say ourselves, on one line.
fn words(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    let message = match message.split_once(" at line ") {
        Some((before, place))
            if place.chars().all(|c| c.is_ascii_digit() || " ,column".contains(c)) =>
        {
            before
        }
        _ => &message,
    };
    if let Some(rest) = message.strip_prefix("duplicate mapping key: ") {
        let key = rest.split_once(',').map_or(rest, |(key, _)| key);
        return format!("the key `{key}` stands twice in this mapping");
    }
    let ours = [
        ("expected mapping start", "a mapping belongs here, for example {name: tor-1}"),
        ("expected sequence start", "a list belongs here, for example [a, b]"),
        ("expected string scalar", "a single value belongs here, not a list or a mapping"),
        (
            "multiple YAML documents",
            "a second document begins here; a configuration is one document",
        ),
    ];
    match ours.iter().find(|(theirs, _)| message.starts_with(theirs)) {
        Some((_, ours)) => (*ours).to_owned(),
        None => message.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// Declares a mapping of the file: each key, the field it is read into, and the field's type.
macro_rules! mapping {
    ($(#[$meta:meta])* $name:ident { $($key:literal => $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            /// Where its first key stands.
            pub place: Place,
            /// Keys it does not know.
            pub unknown: Vec<Text>,
            $(#[doc = concat!("`", $key, "`")] pub $field: Option<$type>,)*
        }

        impl $name {
            /// The keys it knows.
            pub const KEYS: &'static [&'static str] = &[$($key),*];

            /// Notes each key that it does not know, under the path `parent`.
            #[allow(dead_code, reason = "the keys of a password are not named in messages")]
            pub(super) fn check_keys(&self, parent: &str, problems: &mut Problems) {
                unknown_keys(&self.unknown, Self::KEYS, parent, problems);
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Mapping;

                impl<'de> Visitor<'de> for Mapping {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a mapping with keys like `", first!($($key),*), "`"))
                    }

                    fn visit_unit<E: de::Error>(self) -> Result<$name, E> {
                        Ok($name::default())
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let mut read = $name::default();
                        while let Some(key) = map.next_key::<Text>()? {
                            if !read.place.is_known() {
                                read.place = key.place;
                            }
                            match key.value.as_str() {
                                $($key => read.$field = map.next_value()?,)*
                                _ => {
                                    map.next_value::<IgnoredAny>()?;
                                    read.unknown.push(key);
                                }
                            }
                        }
                        Ok(read)
                    }
                }

                deserializer.deserialize_map(Mapping)
            }
        }
    };
}

macro_rules! first {
    ($first:literal $(, $rest:literal)*) => {
        $first
    };
}

fn unknown_keys(unknown: &[Text], known: &[&str], parent: &str, problems: &mut Problems) {
    for key in unknown {
        let hint = did_you_mean(&key.value, known.iter().copied());
        problems.error(
            key.place,
            parent,
            format!("unknown key `{}`.{hint} Known here: {}", key.value, known.join(", ")),
        );
    }
}

mapping! {
    /// The whole file.
    ConfigFile {
        "node" => node: NodeFile,
        "bgp" => bgp: BgpFile,
        "nodes" => nodes: Vec<MemberFile>,
        "peers" => peers: Vec<PeerFile>,
        "filters" => filters: Vec<FilterFile>,
        "pools" => pools: Vec<PoolFile>,
        "tunnels" => tunnels: TunnelsFile,
        "services" => services: ServicesFile,
        "kernel" => kernel: KernelFile,
        "cni" => cni: CniFile,
        "api" => api: ApiFile,
        "metrics" => metrics: MetricsFile,
        "stateDir" => state_dir: Text,
    }
}

mapping! {
    /// `node`: the node this agent runs on.
    NodeFile {
        "name" => name: Text,
        "addresses" => addresses: Vec<Text>,
        "podCIDRs" => pod_cidrs: Vec<Text>,
        "asNumber" => as_number: Text,
        "routerID" => router_id: Text,
        "routeReflectorClusterID" => route_reflector_cluster_id: Text,
    }
}

mapping! {
    /// An entry of `nodes`: a member of the mesh.
    MemberFile {
        "name" => name: Text,
        "addresses" => addresses: Vec<Text>,
        "podCIDRs" => pod_cidrs: Vec<Text>,
        "asNumber" => as_number: Text,
    }
}

mapping! {
    /// `bgp`: Calico's BGPConfiguration.spec.
    BgpFile {
        "asNumber" => as_number: Text,
        "nodeToNodeMeshEnabled" => node_to_node_mesh_enabled: Text,
        "nodeMeshPassword" => node_mesh_password: PasswordFile,
        "nodeMeshMaxRestartTime" => node_mesh_max_restart_time: Text,
        "listenPort" => listen_port: Text,
        "listenAddresses" => listen_addresses: Vec<Text>,
        "holdTime" => hold_time: Text,
        "keepaliveTime" => keepalive_time: Text,
        "connectRetryTime" => connect_retry_time: Text,
        "maximumPaths" => maximum_paths: Text,
        "meshOriginCheck" => mesh_origin_check: Text,
    }
}

mapping! {
    /// An entry of `peers`: Calico's BGPPeer.spec with a name.
    PeerFile {
        "name" => name: Text,
        "peerIP" => peer_ip: Text,
        "interface" => interface: Text,
        "asNumber" => as_number: Text,
        "localASNumber" => local_as_number: Text,
        "numAllowedLocalASNumbers" => num_allowed_local_as_numbers: Text,
        "families" => families: Vec<Text>,
        "filters" => filters: Vec<Text>,
        "nextHopMode" => next_hop_mode: Text,
        "routeReflectorClient" => route_reflector_client: Text,
        "maximumPrefixes" => maximum_prefixes: Text,
        "role" => role: Text,
        "sourceAddress" => source_address: Text,
        "passive" => passive: Text,
        "holdTime" => hold_time: Text,
        "keepaliveTime" => keepalive_time: Text,
        "maxRestartTime" => max_restart_time: Text,
        "ttl" => ttl: Text,
        "ttlSecurity" => ttl_security: Text,
        "password" => password: PasswordFile,
    }
}

mapping! {
    /// An entry of `filters`: Calico's BGPFilter.spec with a name.
    FilterFile {
        "name" => name: Text,
        "importV4" => import_v4: Vec<RuleFile>,
        "exportV4" => export_v4: Vec<RuleFile>,
        "importV6" => import_v6: Vec<RuleFile>,
        "exportV6" => export_v6: Vec<RuleFile>,
    }
}

mapping! {
    /// A rule of a filter.
    RuleFile {
        "action" => action: Text,
        "cidr" => cidr: Text,
        "matchOperator" => match_operator: Text,
        "prefixLength" => prefix_length: LengthFile,
    }
}

mapping! {
    /// `prefixLength` of a rule.
    LengthFile {
        "min" => min: Text,
        "max" => max: Text,
    }
}

mapping! {
    /// An entry of `pools`: Calico's IPPool.spec with a name.
    PoolFile {
        "name" => name: Text,
        "cidr" => cidr: Text,
        "ipipMode" => ipip_mode: Text,
        "vxlanMode" => vxlan_mode: Text,
        "natOutgoing" => nat_outgoing: Text,
    }
}

mapping! {
    /// `tunnels`: what holds for the tunnels that pools ask for.
    TunnelsFile {
        "vxlanPort" => vxlan_port: Text,
        "vxlanVNI" => vxlan_vni: Text,
        "mtu" => mtu: Text,
        "guard" => guard: Text,
    }
}

mapping! {
    /// `services`: addresses of services.
    ServicesFile {
        "ranges" => ranges: Vec<Text>,
        "advertise" => advertise: Vec<Text>,
    }
}

mapping! {
    /// `kernel`: where routes go.
    KernelFile {
        "enabled" => enabled: Text,
        "table" => table: Text,
        "protocol" => protocol: Text,
        "metric" => metric: Text,
        "blackholeMetric" => blackhole_metric: Text,
        "repair" => repair: Text,
        "nexthopObjects" => nexthop_objects: Text,
        "forwardAccept" => forward_accept: Text,
    }
}

mapping! {
    /// `cni`: how the node's pods are attached.
    CniFile {
        "enabled" => enabled: Text,
        "confDir" => conf_dir: Text,
        "binDirs" => bin_dirs: Vec<Text>,
        "plugin" => plugin: Text,
        "mtu" => mtu: Text,
    }
}

mapping! {
    /// `api`: the local control socket.
    ApiFile {
        "socket" => socket: Text,
    }
}

mapping! {
    /// `metrics`: metrics and probes.
    MetricsFile {
        "listen" => listen: Text,
        "meshPeers" => mesh_peers: Text,
    }
}

mapping! {
    /// Where a password is, when it is written as a mapping.
    PasswordSourceFile {
        "file" => file: Text,
    }
}

/// Where a password is. One that was written into the file itself is forgotten at once.
#[derive(Clone, Debug)]
pub enum PasswordFile {
    /// In a file, as it should be.
    Source(PasswordSourceFile),
    /// Right here.
    Inline,
}

impl<'de> Deserialize<'de> for PasswordFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = PasswordFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping with the key `file`")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<PasswordFile, E> {
                Ok(PasswordFile::Inline)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<PasswordFile, E> {
                Ok(PasswordFile::Inline)
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<PasswordFile, E> {
                Ok(PasswordFile::Inline)
            }

            fn visit_i128<E: de::Error>(self, _: i128) -> Result<PasswordFile, E> {
                Ok(PasswordFile::Inline)
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<PasswordFile, E> {
                Ok(PasswordFile::Inline)
            }

            fn visit_u128<E: de::Error>(self, _: u128) -> Result<PasswordFile, E> {
                Ok(PasswordFile::Inline)
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<PasswordFile, E> {
                Ok(PasswordFile::Inline)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PasswordFile, A::Error> {
                let mapping = de::value::MapAccessDeserializer::new(map);
                PasswordSourceFile::deserialize(mapping).map(PasswordFile::Source)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Every key of the file with its full path, `[]` for the entries of a list. The four rule lists of
/// a filter have the same keys and are named once.
#[must_use]
pub fn known_keys() -> Vec<String> {
    let sections: &[(&str, &[&str])] = &[
        ("", ConfigFile::KEYS),
        ("node.", NodeFile::KEYS),
        ("bgp.", BgpFile::KEYS),
        ("bgp.nodeMeshPassword.", PasswordSourceFile::KEYS),
        ("nodes[].", MemberFile::KEYS),
        ("peers[].", PeerFile::KEYS),
        ("peers[].password.", PasswordSourceFile::KEYS),
        ("filters[].", FilterFile::KEYS),
        ("filters[].importV4[].", RuleFile::KEYS),
        ("filters[].importV4[].prefixLength.", LengthFile::KEYS),
        ("pools[].", PoolFile::KEYS),
        ("tunnels.", TunnelsFile::KEYS),
        ("services.", ServicesFile::KEYS),
        ("kernel.", KernelFile::KEYS),
        ("cni.", CniFile::KEYS),
        ("api.", ApiFile::KEYS),
        ("metrics.", MetricsFile::KEYS),
    ];
    sections
        .iter()
        .flat_map(|(prefix, keys)| keys.iter().map(move |key| format!("{prefix}{key}")))
        .collect()
}
