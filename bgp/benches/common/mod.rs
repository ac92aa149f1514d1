//! Speakers with peers that are up, and UPDATEs for them.
#![allow(dead_code, reason = "each bench uses its part")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use routelet_bgp::core::config::{PeerConfig, PeerKind, SpeakerConfig};
use routelet_bgp::core::peer::{Negotiated, PeerId, PeerUp};
use routelet_bgp::core::policy::{Action, PolicyRules, Rule};
use routelet_bgp::core::speaker::{PeerAction, Speaker};
use routelet_proto::{
    Announcement, AsPath, Asn, BgpIdentifier, DecodeContext, EncodeContext, FamilySet, NextHop,
    Nlri, Origin, PathAttributes, SessionKind, Update,
};

pub const OURS: Asn = Asn(64512);

/// A speaker whose peers are up.
pub struct Bench {
    pub speaker: Speaker,
    pub now: Instant,
    pub peers: Vec<PeerId>,
    /// Octets and pieces handed out so far.
    pub octets: usize,
    pub pieces: usize,
}

#[allow(clippy::disallowed_methods, reason = "a bench measures")]
pub fn instant() -> Instant {
    Instant::now()
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0002 + number as u32)
}

fn accept_all() -> Arc<PolicyRules> {
    let rules =
        || vec![Rule { filter: "all".into(), index: 0, action: Action::Accept, prefix: None }];
    Arc::new(PolicyRules { import: [rules(), rules()], export: [rules(), rules()] })
}

fn peer(number: usize, asn: Asn, client: bool) -> PeerConfig {
    let kind = if asn == OURS { PeerKind::Internal } else { PeerKind::External };
    PeerConfig {
        route_reflector_client: client,
        rules: accept_all(),
        ..PeerConfig::new(format!("peer-{number}"), kind, address(number).into(), asn, OURS)
    }
}

impl Bench {
    /// eBGP peers, each of an AS of its own.
    pub fn external(count: usize) -> Self {
        Self::new((0..count).map(|n| peer(n, Asn(65001 + n as u32), false)))
    }

    /// A reflector's clients.
    pub fn clients(count: usize) -> Self {
        Self::new((0..count).map(|n| peer(n, OURS, true)))
    }

    fn new(peers: impl Iterator<Item = PeerConfig>) -> Self {
        let now = instant();
        let mut speaker = Speaker::new(now);
        let config = SpeakerConfig {
            asn: OURS,
            router_id: BgpIdentifier(Ipv4Addr::new(10, 0, 0, 1)),
            cluster_id: Ipv4Addr::new(10, 0, 0, 1),
            host_name: "bench".to_owned(),
            address_v4: Some(Ipv4Addr::new(10, 0, 0, 1)),
            address_v6: None,
            maximum_paths: 16,
            track_next_hops: false,
            initial_deferral: Duration::from_secs(5),
            originated: Vec::new(),
            cluster: Arc::default(),
            peers: peers.map(Arc::new).collect(),
        };
        let actions = speaker.apply_config(now, Arc::new(config));
        let mut peers = Vec::new();
        for action in actions {
            let PeerAction::Start(id, config) = action else { continue };
            speaker.handle_peer_up(now, id, session(&config));
            peers.push(id);
        }
        let mut bench = Self { speaker, now, peers, octets: 0, pieces: 0 };
        bench.drain();
        bench
    }

    /// Gives the speaker an UPDATE and takes what it has to say.
    pub fn update(&mut self, from: usize, update: &Update) {
        self.speaker.handle_update(self.now, self.peers[from], update);
        self.drain();
    }

    pub fn drain(&mut self) {
        while self.speaker.poll_output().is_some() {}
        while let Some(transmit) = self.speaker.poll_transmit() {
            self.octets += transmit.octets.len();
            self.pieces += 1;
        }
    }
}

fn session(config: &PeerConfig) -> PeerUp {
    let kind = if config.remote_as == OURS { SessionKind::Internal } else { SessionKind::External };
    let IpAddr::V4(identifier) = config.address else { unreachable!("peers here are IPv4") };
    PeerUp {
        negotiated: Negotiated {
            kind,
            peer_as: config.remote_as,
            peer_id: BgpIdentifier(identifier),
            hold_time: config.hold_time,
            keepalive_time: 30,
            families: FamilySet::ALL,
            decode: DecodeContext { kind, ..DecodeContext::default() },
            encode: EncodeContext {
                four_octet_as: true,
                max_len: 4096,
                add_path: FamilySet::EMPTY,
                extended_next_hop: false,
            },
            route_refresh: true,
            enhanced_route_refresh: false,
            graceful_restart: None,
            sent: Vec::new(),
            received: Vec::new(),
        },
        local: SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), 179),
        remote: SocketAddr::new(config.address, 40_000),
        interface: 0,
    }
}

/// Prefix `number` of a table of /24s.
pub fn prefix(number: u32) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(0x1000_0000 + (number << 8)), 24).expect("24 is a length")
}

/// Attributes of set `number` as peer `from` (of an AS of its own) sends them.
pub fn attributes(from: usize, number: u32) -> PathAttributes {
    let next_hop = NextHop::V4(address(from));
    let mut attributes = PathAttributes::originated(Origin::Igp, next_hop);
    let first = Asn(65001 + from as u32);
    let (high, low) = (number / 1000, number % 1000);
    attributes.as_path =
        AsPath::sequence(&[first, Asn(100_000 + high), Asn(200_000 + low), Asn(300_000)]);
    attributes
}

/// UPDATEs for `count` prefixes, `each` to an attribute set.
pub fn updates(from: usize, count: u32, each: u32) -> Vec<Update> {
    (0..count / each)
        .map(|set| announce(attributes(from, set), (set * each..(set + 1) * each).map(prefix)))
        .collect()
}

pub fn announce(attributes: PathAttributes, prefixes: impl IntoIterator<Item = Ipv4Net>) -> Update {
    let nlri = Nlri::from_prefixes(prefixes.into_iter().map(|prefix| (0, prefix)), false);
    Update {
        announced: [Announcement { attributes, nlri }].into_iter().collect(),
        ..Update::default()
    }
}

pub fn withdraw(prefixes: impl IntoIterator<Item = Ipv4Net>) -> Update {
    let nlri = Nlri::from_prefixes(prefixes.into_iter().map(|prefix| (0, prefix)), false);
    Update { withdrawn: [nlri].into_iter().collect(), ..Update::default() }
}
