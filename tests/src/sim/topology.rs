//! Who is there, and who peers with whom.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use routelet_bgp::core::config::{
    GracefulRestartConfig, OriginatedKind, OriginatedRoute, PeerConfig, PeerKind, SpeakerConfig,
};
use routelet_bgp::core::policy::ClusterPrefixes;
use routelet_proto::{Asn, BgpIdentifier, Family, FamilySet};

const AS: Asn = Asn(64512);

/// A speaker of a topology.
#[derive(Clone, Debug)]
pub struct SpeakerSpec {
    /// Its address, also its BGP Identifier.
    pub address: Ipv4Addr,
    /// Its pod CIDR, if it has one (a reflector may have none).
    pub prefix: Option<Ipv4Net>,
    /// Its configuration.
    pub config: Arc<SpeakerConfig>,
}

/// Speakers and who peers with whom.
#[derive(Clone, Debug)]
pub struct Topology {
    /// What it is, for reports.
    pub name: String,
    /// The speakers.
    pub speakers: Vec<SpeakerSpec>,
}

impl Topology {
    /// `count` nodes, each peering with each.
    #[must_use]
    pub fn full_mesh(count: usize) -> Self {
        let peers: Vec<_> = (0..count).map(|index| peer(index, PeerKind::Mesh, false)).collect();
        let speakers = (0..count)
            .map(|index| {
                let others = peers.iter().enumerate().filter(|(other, _)| *other != index);
                speaker(index, true, others.map(|(_, peer)| peer.clone()).collect())
            })
            .collect();
        Self { name: format!("full mesh of {count}"), speakers }
    }

    /// `reflectors` route reflectors, meshed, and `clients` nodes that each peer with all of them. Of
    /// the clients every `every`th has a prefix: each speaker keeps a path of its own of each prefix
    /// from each reflector, and all of them together must fit in one memory.
    #[must_use]
    pub fn reflected(reflectors: usize, clients: usize, every: usize) -> Self {
        let as_client: Vec<_> = (0..reflectors + clients)
            .map(|index| peer(index, PeerKind::Internal, index >= reflectors))
            .collect();
        let speakers = (0..reflectors + clients)
            .map(|index| {
                let is_reflector = index < reflectors;
                let others = as_client
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != index && (is_reflector || *other < reflectors));
                let originates = !is_reflector && (index - reflectors).is_multiple_of(every);
                speaker(index, originates, others.map(|(_, peer)| peer.clone()).collect())
            })
            .collect();
        let origins = clients.div_ceil(every);
        let name = format!("{clients} clients of {reflectors} reflectors, {origins} with a prefix");
        Self { name, speakers }
    }

    /// The same, with graceful restart between all of them; NOTIFICATIONs are survived too.
    #[must_use]
    pub fn with_graceful_restart(mut self) -> Self {
        self.name.push_str(", graceful restart");
        for speaker in &mut self.speakers {
            let config = Arc::make_mut(&mut speaker.config);
            for peer in &mut config.peers {
                Arc::make_mut(peer).graceful_restart =
                    Some(GracefulRestartConfig { restart_time: 120, notification: true });
            }
        }
        self
    }
}

/// The address of the speaker with this number.
fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0001 + u32::try_from(index).expect("few speakers"))
}

/// Its /24, out of 100.0.0.0/8.
fn pod_cidr(index: usize) -> Ipv4Net {
    let network = 0x6400_0000 + (u32::try_from(index).expect("few speakers") << 8);
    Ipv4Net::new_assert(Ipv4Addr::from(network), 24)
}

fn peer(index: usize, kind: PeerKind, client: bool) -> Arc<PeerConfig> {
    Arc::new(PeerConfig {
        families: FamilySet::EMPTY.with(Family::Ipv4Unicast),
        ttl: 64,
        route_reflector_client: client,
        ..PeerConfig::new(format!("node-{index}"), kind, IpAddr::V4(address(index)), AS, AS)
    })
}

fn speaker(index: usize, with_prefix: bool, peers: Vec<Arc<PeerConfig>>) -> SpeakerSpec {
    let address = address(index);
    let prefix = with_prefix.then(|| pod_cidr(index));
    let own: Vec<IpNet> = prefix.iter().map(|net| IpNet::V4(*net)).collect();
    let config = SpeakerConfig {
        asn: AS,
        router_id: BgpIdentifier(address),
        cluster_id: address,
        host_name: format!("node-{index}"),
        address_v4: Some(address),
        address_v6: None,
        maximum_paths: 16,
        track_next_hops: true,
        initial_deferral: Duration::from_secs(5),
        originated: own
            .iter()
            .map(|prefix| OriginatedRoute { prefix: *prefix, kind: OriginatedKind::PodCidr })
            .collect(),
        cluster: Arc::new(ClusterPrefixes {
            pools: vec!["100.0.0.0/8".parse().expect("a prefix")],
            own_pod_cidrs: own,
            own_addresses: vec![IpAddr::V4(address)],
            connected: vec!["10.0.0.0/8".parse().expect("a prefix")],
            ..ClusterPrefixes::default()
        }),
        peers,
    };
    SpeakerSpec { address, prefix, config: Arc::new(config) }
}
