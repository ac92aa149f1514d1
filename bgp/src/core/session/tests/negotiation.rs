//! What OPENs agree on, and which are refused.

use routelet_proto::{AddPathMode, Capability, Family, OpenSubcode, Role, SessionKind};

use super::*;
use crate::core::peer::Negotiated;
use crate::core::session::{OpenRefused, build_open, negotiate};

/// Negotiates between 10.0.0.1 and 10.0.0.2 after `change` to the peer's OPEN.
fn agree(config: &PeerConfig, change: impl FnOnce(&mut Open)) -> Result<Negotiated, OpenRefused> {
    let sent = build_open(config, &local([10, 0, 0, 1]), false);
    let mirrored =
        PeerConfig { local_as: config.remote_as, remote_as: config.local_as, ..config.clone() };
    let mut received = build_open(&mirrored, &local([10, 0, 0, 2]), false);
    change(&mut received);
    negotiate(config, &sent, &received)
}

fn external() -> PeerConfig {
    peer(LOCAL_AS, REMOTE_AS)
}

fn remove(open: &mut Open, unwanted: impl Fn(&Capability) -> bool) {
    open.capabilities.retain(|capability| !unwanted(capability));
}

#[test]
fn like_speakers_agree_on_everything() {
    let agreed = agree(&with_graceful_restart(external(), true), |_| {}).unwrap();
    assert_eq!(agreed.kind, SessionKind::External);
    assert_eq!(agreed.peer_as, REMOTE_AS);
    assert_eq!(agreed.families, FamilySet::ALL);
    assert_eq!((agreed.hold_time.seconds(), agreed.keepalive_time), (90, 30));
    assert!(agreed.decode.four_octet_as && agreed.encode.four_octet_as);
    assert!(agreed.decode.extended_message);
    assert_eq!(agreed.encode.max_len, 65535);
    assert!(agreed.route_refresh && agreed.enhanced_route_refresh);
    assert!(!agreed.decode.extended_next_hop && !agreed.encode.extended_next_hop, "over IPv4");
    let restart = agreed.graceful_restart.unwrap();
    assert!(restart.notification && !restart.restarted);
    assert_eq!((restart.restart_time, restart.families), (120, FamilySet::ALL));
    assert_eq!(restart.forwarding, FamilySet::EMPTY);
    assert_eq!(agree(&peer(LOCAL_AS, LOCAL_AS), |_| {}).unwrap().kind, SessionKind::Internal);
}

#[test]
fn a_peer_without_capabilities_gets_plain_bgp_4() {
    let agreed = agree(&external(), |open| open.capabilities.clear()).unwrap();
    assert_eq!(agreed.families, FamilySet::EMPTY.with(Family::Ipv4Unicast));
    assert!(!agreed.decode.four_octet_as && !agreed.encode.four_octet_as);
    assert!(!agreed.route_refresh && !agreed.enhanced_route_refresh);
    assert_eq!((agreed.encode.max_len, agreed.decode.extended_message), (4096, false));
    assert_eq!(agreed.graceful_restart, None);
}

#[test]
fn one_family_in_common_is_enough_and_none_is_not() {
    let v6 = Family::Ipv6Unicast.afi_safi();
    let only_v6 = |open: &mut Open| {
        remove(open, |c| matches!(c, Capability::Multiprotocol(_)));
        open.capabilities.push(Capability::Multiprotocol(v6));
    };
    let agreed = agree(&external(), only_v6).unwrap();
    assert_eq!(agreed.families, FamilySet::EMPTY.with(Family::Ipv6Unicast));
    assert_eq!(agreed.decode.families, agreed.families);

    let v4_only = PeerConfig { families: FamilySet::EMPTY.with(Family::Ipv4Unicast), ..external() };
    let refused = agree(&v4_only, only_v6).unwrap_err();
    assert_eq!(
        refused.notification.code,
        routelet_proto::ErrorCode::Open(OpenSubcode::UnsupportedCapability)
    );
    assert_eq!(refused.notification.data[..], [1, 4, 0, 1, 0, 1], "RFC 5492 §5: what we need");
    assert_eq!(
        refused.detail,
        "no address family in common: we offer ipv4-unicast, the peer ipv6-unicast"
    );
}

#[test]
fn hold_times() {
    for (ours, theirs, keepalive, hold, interval) in [
        (90, 30, None, 30, 10),
        (30, 90, None, 30, 10),
        (90, 0, None, 0, 0),
        (0, 90, Some(5), 0, 0),
        (3, 90, None, 3, 1),
        (90, 90, Some(7), 90, 7),
        // A keepalive interval beyond a third of the hold time would lose the session.
        (90, 9, Some(30), 9, 3),
    ] {
        let config = PeerConfig {
            hold_time: HoldTime::new(ours).unwrap(),
            keepalive_time: keepalive.map(Duration::from_secs),
            ..external()
        };
        let agreed =
            agree(&config, |open| open.hold_time = HoldTime::new(theirs).unwrap()).unwrap();
        assert_eq!((agreed.hold_time.seconds(), agreed.keepalive_time), (hold, interval));
    }
}

#[test]
fn the_wrong_as_is_told_in_words() {
    let refused = agree(&external(), |open| open.asn = Asn(4_200_000_001)).unwrap_err();
    assert_eq!(refused.notification.code.octets(), (2, 2));
    assert_eq!(refused.detail, "peer's AS is 4200000001, configured asNumber is 65002");
}

#[test]
fn identifiers_are_unique_within_an_as_only() {
    let ours = |open: &mut Open| open.identifier = BgpIdentifier([10, 0, 0, 1].into());
    let refused = agree(&peer(LOCAL_AS, LOCAL_AS), ours).unwrap_err();
    assert_eq!(refused.notification.code.octets(), (2, 3));
    assert!(agree(&external(), ours).is_ok(), "RFC 6286 §2.2");
    let zero = |open: &mut Open| open.identifier = BgpIdentifier([0, 0, 0, 0].into());
    assert_eq!(agree(&external(), zero).unwrap_err().notification.code.octets(), (2, 3));
}

#[test]
fn roles_pair_up_as_rfc_9234_says() {
    let allowed = [
        (Role::Provider, Role::Customer),
        (Role::Customer, Role::Provider),
        (Role::RouteServer, Role::RouteServerClient),
        (Role::RouteServerClient, Role::RouteServer),
        (Role::Peer, Role::Peer),
    ];
    let all =
        [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer];
    for ours in all {
        for theirs in all {
            let config = PeerConfig { role: Some(ours), ..external() };
            let outcome = agree(&config, |open| {
                remove(open, |c| matches!(c, Capability::Role(_)));
                open.capabilities.push(Capability::Role(theirs));
            });
            match outcome {
                Ok(_) => assert!(allowed.contains(&(ours, theirs)), "{ours:?} {theirs:?}"),
                Err(refused) => {
                    assert!(!allowed.contains(&(ours, theirs)), "{ours:?} {theirs:?}");
                    assert_eq!(refused.notification.code.octets(), (2, 11));
                }
            }
        }
    }
    let two = |open: &mut Open| {
        open.capabilities.push(Capability::Role(Role::Peer));
        open.capabilities.push(Capability::Role(Role::Customer));
    };
    assert_eq!(agree(&external(), two).unwrap_err().notification.code.octets(), (2, 11));
    let same_twice = |open: &mut Open| {
        open.capabilities.push(Capability::Role(Role::Peer));
        open.capabilities.push(Capability::Role(Role::Peer));
    };
    assert!(agree(&external(), same_twice).is_ok());
    // One side without a role is no mismatch.
    let config = PeerConfig { role: Some(Role::Provider), ..external() };
    assert!(agree(&config, |open| remove(open, |c| matches!(c, Capability::Role(_)))).is_ok());
    // A role is for external sessions only.
    let internal = PeerConfig { role: Some(Role::Peer), ..peer(LOCAL_AS, LOCAL_AS) };
    let open = build_open(&internal, &local([10, 0, 0, 1]), false);
    assert!(!open.capabilities.iter().any(|c| matches!(c, Capability::Role(_))));
}

#[test]
fn an_offer_to_send_several_paths_is_not_taken_up() {
    let v4 = Family::Ipv4Unicast.afi_safi();
    let agreed = agree(&external(), |open| {
        open.capabilities.push(Capability::AddPath(vec![(v4, AddPathMode::Both)]));
    })
    .unwrap();
    assert_eq!(agreed.decode.add_path, FamilySet::EMPTY);
    assert_eq!(agreed.encode.add_path, FamilySet::EMPTY);

    // Negotiated where both say so, each direction by itself.
    let config = external();
    let with = |mode, identifier| {
        let mut open = build_open(&config, &local(identifier), false);
        open.capabilities.push(Capability::AddPath(vec![(v4, mode)]));
        open
    };
    let mut received = with(AddPathMode::Send, [10, 0, 0, 2]);
    received.asn = REMOTE_AS;
    let agreed = negotiate(&config, &with(AddPathMode::Receive, [10, 0, 0, 1]), &received).unwrap();
    assert_eq!(agreed.decode.add_path, FamilySet::EMPTY.with(Family::Ipv4Unicast));
    assert_eq!(agreed.encode.add_path, FamilySet::EMPTY);
}

#[test]
fn ipv6_next_hops_for_ipv4_over_ipv6() {
    let config = PeerConfig { address: "2001:db8::2".parse().unwrap(), ..external() };
    let agreed = agree(&config, |_| {}).unwrap();
    assert!(agreed.decode.extended_next_hop && agreed.encode.extended_next_hop);
    let agreed = agree(&config, |open| {
        remove(open, |c| matches!(c, Capability::ExtendedNextHop(_)));
    })
    .unwrap();
    assert!(!agreed.encode.extended_next_hop, "the peer did not say that it takes them");
}

#[test]
fn a_large_as_number_hides_behind_as_trans() {
    let config = peer(Asn(4_200_000_000), REMOTE_AS);
    let open = build_open(&config, &local([10, 0, 0, 1]), false);
    assert_eq!((open.my_as, open.asn), (23456, Asn(4_200_000_000)));
    assert!(open.capabilities.contains(&Capability::FourOctetAs(Asn(4_200_000_000))));
}

#[test]
fn a_long_host_name_is_cut_between_characters() {
    let speaker = LocalSpeaker { host_name: "ü".repeat(40), ..(*local([1, 1, 1, 1])).clone() };
    let open = build_open(&external(), &speaker, false);
    let host = open.capabilities.iter().find_map(|capability| match capability {
        Capability::Fqdn { host, .. } => Some(host.clone()),
        _ => None,
    });
    assert_eq!(host, Some("ü".repeat(32)));
}
