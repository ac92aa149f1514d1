//! Update groups: one encoding for all members, nothing wrong to any, nothing that grows.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;
use routelet_proto::{
    Asn, BgpIdentifier, Community, Family, NextHop, PathAttributes, RefreshSubtype, RouteRefresh,
};

use super::rig::{Rig, accept_all, bare_config, config, ip, net, own, path, peer, rule};
use crate::core::config::{NextHopMode, OriginatedKind, PeerConfig, PeerKind};
use crate::core::policy::{Action, MatchOperator, PolicyRules};
use crate::core::view::{RouteSelector, RouteSource, RouteTable, RouteView};

fn external(name: &str, address: &str, asn: u32) -> PeerConfig {
    PeerConfig { rules: accept_all(), ..peer(name, PeerKind::External, address, asn) }
}

fn client(name: &str, address: &str) -> PeerConfig {
    PeerConfig { route_reflector_client: true, ..peer(name, PeerKind::Internal, address, 64512) }
}

fn many(count: u32) -> Vec<IpNet> {
    (0..count)
        .map(|n| IpNet::V4(Ipv4Net::new((0x0b00_0000 + (n << 8)).into(), 24).unwrap()))
        .collect()
}

#[test]
fn five_hundred_members_share_one_encoding() {
    let mut peers = vec![external("source", "10.0.0.2", 65001)];
    for n in 0..500 {
        let address = format!("10.1.{}.{}", n / 250, n % 250 + 1);
        peers.push(external(&format!("m{n}"), &address, 65002));
    }
    let mut rig = Rig::with_peers(bare_config(), peers);
    let before = rig.speaker.encodings();
    rig.announce("source", &path(&[65001], "10.0.0.2"), &["172.16.0.0/16", "172.17.0.0/16"]);
    assert_eq!(rig.speaker.encodings() - before, 1);
    for n in 0..500 {
        assert_eq!(rig.sent(&format!("m{n}")).len(), 2);
    }
    assert!(rig.sent("source").is_empty());
    let groups: Vec<_> = rig.speaker.peers().iter().map(|view| view.group).collect();
    assert!(groups.iter().all(|group| *group == groups[0]), "{groups:?}");
}

#[test]
fn routes_of_many_sources_leave_each_of_them_out() {
    let peers = (1..=20).map(|n| client(&format!("c{n}"), &format!("10.0.0.{}", n + 1))).collect();
    let mut rig = Rig::with_peers(config(), peers);
    for n in 1..=20 {
        let name = format!("c{n}");
        let next_hop = format!("10.0.0.{}", n + 1);
        rig.announce_quietly(
            &name,
            &path(&[], &next_hop),
            &[net(&format!("10.244.{}.0/24", n + 1))],
        );
    }
    let before = rig.speaker.encodings();
    rig.settle();
    assert_eq!(rig.speaker.encodings() - before, 20);
    for n in 1..=20 {
        let name = format!("c{n}");
        assert_eq!(rig.sent(&name).len(), 19);
        assert!(!rig.sent(&name).contains(&format!("10.244.{}.0/24", n + 1)));
        assert_eq!(rig.heard[&name].idle_withdrawals, 0);
    }
    rig.withdraw("c1", &["10.244.2.0/24"]);
    assert!(rig.heard.values().all(|heard| heard.idle_withdrawals == 0), "nor its withdrawal");
}

/// `count` prefixes change `rounds` times while one member takes nothing.
fn a_member_that_stops_reading(count: u32, rounds: u32) {
    let peers = vec![
        external("source", "10.0.0.2", 65001),
        external("fast", "10.0.0.3", 65002),
        external("slow", "10.0.0.4", 65002),
    ];
    let mut rig = Rig::with_peers(bare_config(), peers);
    let prefixes = many(count);
    rig.writable("slow", false);
    for round in 0..rounds {
        let mut attributes = path(&[65001], "10.0.0.2");
        attributes.as_path = attributes.as_path.prepend(Asn(65001), round as usize % 3 + 1);
        for (n, chunk) in prefixes.chunks(250).enumerate() {
            if (n as u32 + round) % 5 == 4 {
                rig.withdraw_quietly("source", chunk);
            } else {
                rig.announce_quietly("source", &attributes, chunk);
            }
            rig.settle();
            assert!(rig.speaker.pending() <= prefixes.len());
        }
    }
    let expected = rig.heard["fast"].routes.clone();
    assert!(expected.len() > prefixes.len() / 2);
    assert!(rig.heard["slow"].routes.is_empty());
    rig.writable("slow", true);
    assert_eq!(rig.heard["slow"].routes, expected);
    let told: usize = rig.heard["slow"]
        .updates
        .iter()
        .map(|update| {
            let announced: usize = update.announced.iter().map(|part| part.nlri.len()).sum();
            announced + update.withdrawn.iter().map(|nlri| nlri.len()).sum::<usize>()
        })
        .sum();
    assert!(told <= prefixes.len(), "the latest state of each prefix, not its history");
    assert_eq!(rig.speaker.pending(), 0);
}

#[test]
fn what_waits_for_a_member_that_stops_reading_is_bounded_by_the_table() {
    a_member_that_stops_reading(20_000, 10);
}

/// `cargo test --release -- --ignored a_million`: some 20 s.
#[test]
#[ignore = "takes long without optimization"]
fn a_million_prefixes_change_ten_times_for_a_member_that_stops_reading() {
    a_member_that_stops_reading(1_000_000, 10);
}

#[test]
fn a_member_that_joins_in_the_middle_gets_everything_once() {
    let peers = vec![external("source", "10.0.0.2", 65001), external("late", "10.0.0.3", 65002)];
    let mut config = bare_config();
    config.peers = peers.into_iter().map(Arc::new).collect();
    let mut rig = Rig::new(config);
    rig.up("source");
    let prefixes = many(60_000);
    let attributes = path(&[65001], "10.0.0.2");
    for chunk in prefixes.chunks(500) {
        rig.announce_quietly("source", &attributes, chunk);
    }
    rig.settle();
    let up = rig.session("late");
    rig.heard.insert("late".to_owned(), Default::default());
    rig.speaker.handle_peer_up(rig.now, rig.ids["late"], up);
    // The walk over the table is under way while it changes behind and in front of it.
    let mut taken = 0;
    while let Some(transmit) = rig.speaker.poll_transmit() {
        let octets = transmit.octets;
        rig.heard.get_mut("late").unwrap().octets(octets);
        taken += 1;
        if taken == 2 {
            rig.withdraw_quietly("source", &prefixes[..200]);
            rig.withdraw_quietly("source", &prefixes[25_000..25_100]);
            rig.announce_quietly("source", &attributes, &prefixes[100..150]);
        }
    }
    assert!(taken > 4, "several batches");
    let heard = &rig.heard["late"];
    assert_eq!(heard.routes.len(), 60_000 - 300 + 50);
    assert_eq!(rig.speaker.pending(), 0);
}

const PEERS: [&str; 8] = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"];

fn peers() -> Vec<PeerConfig> {
    let plain = |name, kind, address, asn| peer(name, kind, address, asn);
    let open = |peer: PeerConfig| PeerConfig { rules: accept_all(), ..peer };
    vec![
        external("p0", "10.0.0.2", 65001),
        external("p1", "10.0.0.3", 65001),
        plain("p2", PeerKind::External, "10.7.0.4", 65002),
        client("p3", "10.0.0.5"),
        open(client("p4", "10.0.0.6")),
        plain("p5", PeerKind::Internal, "10.0.0.7", 64512),
        open(plain("p6", PeerKind::Internal, "10.0.0.8", 64512)),
        plain("p7", PeerKind::Mesh, "10.0.0.9", 65010),
    ]
}

const PREFIXES: [&str; 7] = [
    "10.244.2.0/24",
    "10.244.3.0/24",
    "10.244.4.0/24",
    "172.16.0.0/16",
    "10.244.1.0/24",
    "fd00:244:2::/64",
    "fd01::/32",
];

#[derive(Clone, Debug)]
enum Event {
    Announce { peer: usize, prefixes: u8, variant: u8 },
    Withdraw { peer: usize, prefixes: u8 },
    Writable { peer: usize, writable: bool },
    Down { peer: usize },
    Up { peer: usize },
    Rules { peer: usize, rules: u8 },
    Mode { peer: usize, mode: u8 },
    Client { peer: usize },
    Originate { prefixes: u8 },
    Refresh { peer: usize },
    Settle,
}

fn event() -> impl Strategy<Value = Event> {
    let who = || 0..PEERS.len();
    prop_oneof![
        8 => (who(), any::<u8>(), any::<u8>())
            .prop_map(|(peer, prefixes, variant)| Event::Announce { peer, prefixes, variant }),
        4 => (who(), any::<u8>()).prop_map(|(peer, prefixes)| Event::Withdraw { peer, prefixes }),
        3 => (who(), any::<bool>())
            .prop_map(|(peer, writable)| Event::Writable { peer, writable }),
        1 => who().prop_map(|peer| Event::Down { peer }),
        2 => who().prop_map(|peer| Event::Up { peer }),
        1 => (who(), 0..4_u8).prop_map(|(peer, rules)| Event::Rules { peer, rules }),
        1 => (who(), 0..3_u8).prop_map(|(peer, mode)| Event::Mode { peer, mode }),
        1 => (3..7_usize).prop_map(|peer| Event::Client { peer }),
        1 => any::<u8>().prop_map(|prefixes| Event::Originate { prefixes }),
        1 => who().prop_map(|peer| Event::Refresh { peer }),
        4 => Just(Event::Settle),
    ]
}

fn chosen(bits: u8) -> Vec<IpNet> {
    (0..PREFIXES.len()).filter(|n| bits >> n & 1 == 1).map(|n| net(PREFIXES[n])).collect()
}

fn variant(peer: &PeerConfig, bits: u8) -> PathAttributes {
    let own: Vec<u32> = if peer.remote_as.0 == 64512 { vec![] } else { vec![peer.remote_as.0] };
    let mut attributes = path(&own, if bits & 1 == 0 { "10.0.0.50" } else { "10.9.9.9" });
    if bits & 2 != 0 {
        attributes.as_path = attributes.as_path.prepend(peer.remote_as, 1);
    }
    attributes.med = (bits & 4 != 0).then_some(30);
    attributes.local_pref = (own.is_empty() && bits & 8 != 0).then_some(150);
    match bits >> 4 & 7 {
        0 => attributes.communities.push(Community::NO_EXPORT),
        1 => attributes.communities.push(Community::NO_ADVERTISE),
        2 => attributes.communities.push(Community(7)),
        3 if own.is_empty() => {
            attributes.rare_mut().originator_id = Some(BgpIdentifier([10, 1, 1, 1].into()));
        }
        _ => {}
    }
    attributes
}

fn rules(choice: u8) -> Arc<PolicyRules> {
    let some = rule(Action::Reject, Some(("10.244.2.0/23", MatchOperator::In)));
    match choice {
        0 => accept_all(),
        1 => Arc::default(),
        2 => {
            let mut rules = PolicyRules::default();
            rules.export[0].push(some);
            rules.into()
        }
        _ => {
            let mut rules = PolicyRules::clone(&accept_all());
            rules.export[0].insert(0, some.clone());
            rules.import[0].insert(0, some);
            rules.into()
        }
    }
}

fn play(rig: &mut Rig, event: &Event) {
    let up = |rig: &Rig, peer: usize| {
        rig.speaker.peers().iter().any(|view| &*view.name == PEERS[peer] && view.up)
    };
    match *event {
        Event::Announce { peer, prefixes, variant: bits } => {
            let attributes = variant(rig.peer_config(PEERS[peer]), bits);
            let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
                chosen(prefixes).into_iter().partition(|net| matches!(net, IpNet::V4(_)));
            rig.announce_quietly(PEERS[peer], &attributes, &v4);
            let next_hop = NextHop::from(ip("fd00::50"));
            rig.announce_quietly(PEERS[peer], &PathAttributes { next_hop, ..attributes }, &v6);
        }
        Event::Withdraw { peer, prefixes } => {
            rig.withdraw_quietly(PEERS[peer], &chosen(prefixes));
        }
        Event::Writable { peer, writable } => {
            rig.speaker.handle_writable(rig.ids[PEERS[peer]], writable);
        }
        Event::Down { peer } => rig.down(PEERS[peer], None),
        Event::Up { peer } if !up(rig, peer) => rig.up(PEERS[peer]),
        Event::Up { .. } => {}
        Event::Rules { peer, rules: choice } => {
            rig.edit_peer(PEERS[peer], |peer| peer.rules = rules(choice));
        }
        Event::Mode { peer, mode } => {
            let modes = [NextHopMode::Auto, NextHopMode::Myself, NextHopMode::Keep];
            rig.edit_peer(PEERS[peer], |peer| peer.next_hop_mode = modes[mode as usize]);
        }
        Event::Client { peer } => {
            rig.edit_peer(PEERS[peer], |peer| {
                peer.route_reflector_client = !peer.route_reflector_client;
            });
        }
        Event::Originate { prefixes } => {
            let kind = OriginatedKind::PodCidr;
            let routes = chosen(prefixes).iter().map(|net| own(&net.to_string(), kind)).collect();
            rig.edit(|config| config.originated = routes);
        }
        Event::Refresh { peer } => {
            let family = Family::Ipv4Unicast.afi_safi();
            let refresh = RouteRefresh { family, subtype: RefreshSubtype::Request };
            rig.speaker.handle_route_refresh(rig.now, rig.ids[PEERS[peer]], refresh);
        }
        Event::Settle => rig.settle(),
    }
}

/// What a peer should hold, worked out prefix by prefix from the design's text.
fn expected(rig: &Rig, to: &PeerConfig) -> BTreeMap<IpNet, PathAttributes> {
    let all = rig.routes(RouteTable::All, RouteSelector::All);
    all.iter()
        .filter(|route| route.best)
        .filter_map(|route| Some((route.prefix, export(rig, route, to)?)))
        .collect()
}

fn export(rig: &Rig, route: &RouteView, to: &PeerConfig) -> Option<PathAttributes> {
    let from = match &route.source {
        RouteSource::Local(_) => None,
        RouteSource::Peer(_, name) => Some(rig.peer_config(name)),
    };
    if from.is_some_and(|from| from.name == to.name) {
        return None;
    }
    let to_external = to.remote_as.0 != 64512;
    let from_internal = from.filter(|from| from.remote_as.0 == 64512);
    let reflecting = from_internal.is_some() && !to_external;
    if reflecting
        && !to.route_reflector_client
        && !from_internal.is_some_and(|from| from.route_reflector_client)
    {
        return None;
    }
    let has = |community| route.attributes.communities.contains(&community);
    if has(Community::NO_ADVERTISE) || to_external && has(Community::NO_EXPORT) {
        return None;
    }
    let family = usize::from(matches!(route.prefix, IpNet::V6(_)));
    let passes = to.rules.export[family]
        .iter()
        .find(|rule| rule.prefix.is_none_or(|condition| condition.matches(route.prefix)))
        .map(|rule| rule.action == Action::Accept);
    if !passes.unwrap_or(from.is_none() || reflecting) {
        return None;
    }
    let mut sent = (*route.attributes).clone();
    let own_next_hop = NextHop::from(ip(if family == 0 { "10.0.0.1" } else { "fd00::1" }));
    let shared = to.kind == PeerKind::External
        && to.address.to_string().starts_with("10.0.0.")
        && sent.next_hop.address().to_string().starts_with("10.0.0.");
    let keeps = match to.next_hop_mode {
        NextHopMode::Keep => from.is_some(),
        NextHopMode::Myself => false,
        NextHopMode::Auto if to_external => from.is_some() && shared,
        NextHopMode::Auto => from_internal.is_some(),
    };
    if !keeps {
        sent.next_hop = own_next_hop;
    }
    if to_external {
        sent.as_path = sent.as_path.prepend(Asn(64512), 1);
        sent.med = None;
        sent.local_pref = None;
        sent.rare = None;
    } else {
        sent.local_pref.get_or_insert(100);
        if let Some(from) = from_internal {
            let identifier = match from.address {
                std::net::IpAddr::V4(address) => BgpIdentifier(address),
                std::net::IpAddr::V6(_) => unreachable!("all peers here are IPv4"),
            };
            let rare = sent.rare_mut();
            rare.originator_id.get_or_insert(identifier);
            rare.cluster_list.insert(0, [10, 0, 0, 1].into());
        }
    }
    Some(sent)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_member_ends_with_what_it_would_get_alone(
        events in prop::collection::vec(event(), 1..80),
    ) {
        let mut rig = Rig::with_peers(config(), peers());
        for event in &events {
            play(&mut rig, event);
        }
        for name in PEERS {
            rig.writable(name, true);
        }
        prop_assert_eq!(rig.speaker.pending(), 0);
        for view in rig.speaker.peers().iter().filter(|view| view.up) {
            let to = rig.peer_config(&view.name).clone();
            let expected = expected(&rig, &to);
            prop_assert_eq!(&rig.heard[&*view.name].routes, &expected, "{}", view.name);
            let advertised: usize = view.families.iter().map(|counts| counts.advertised).sum();
            prop_assert_eq!(advertised, expected.len(), "{}", view.name);
            let table = RouteTable::Advertised(view.name.clone());
            let shown: BTreeMap<IpNet, PathAttributes> = rig
                .routes(table, RouteSelector::All)
                .into_iter()
                .map(|route| (route.prefix, (*route.attributes).clone()))
                .collect();
            prop_assert_eq!(&shown, &expected, "{}", view.name);
        }
        for name in PEERS {
            rig.down(name, None);
        }
        rig.edit(|config| config.originated.clear());
        prop_assert_eq!(rig.speaker.sizes(), (0, 0), "nothing is left behind");
        prop_assert!(rig.tracked.is_empty() && rig.fib.is_empty());
    }
}
