//! Two OPENs make an agreement, or a NOTIFICATION (RFC 4271 §6.2, RFC 5492, RFC 9234 §4.2).
//!
//! In: the OPEN we sent, the one received (already well formed: version, hold time and identifier
//! are the codec's to refuse) and what was configured. Out: [`Negotiated`], the only place where
//! one is made.

use bytes::Bytes;
use routelet_proto::{
    AddPathMode, AfiSafi, Capability, DecodeContext, EncodeContext, ErrorCode, Family, FamilySet,
    HoldTime, MAX_EXTENDED_LEN, MAX_STANDARD_LEN, Notification, Open, OpenSubcode, Role,
    SessionKind,
};

use super::open::{IPV6_AFI, ipv4_unicast};
use crate::core::config::PeerConfig;
use crate::core::peer::{Negotiated, PeerGracefulRestart};

/// Why an OPEN is refused: what to tell the peer, and the words for the operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OpenRefused {
    /// What to send.
    pub notification: Notification,
    /// Both values in words.
    pub detail: String,
}

/// What `sent` and `received` agree on.
///
/// # Errors
/// The NOTIFICATION that the peer gets: Bad Peer AS, Bad BGP Identifier, Role Mismatch, or
/// Unsupported Capability where no family is common.
pub fn negotiate(
    config: &PeerConfig,
    sent: &Open,
    received: &Open,
) -> Result<Negotiated, OpenRefused> {
    check_identity(config, sent, received)?;
    check_roles(sent, received)?;
    let families = offered_families(sent).intersection(offered_families(received));
    if families.is_empty() {
        return Err(no_common_family(sent, received));
    }
    let kind =
        if received.asn == config.local_as { SessionKind::Internal } else { SessionKind::External };
    let hold_time = sent.hold_time.min(received.hold_time);
    let four_octet_as =
        both(sent, received, |capability| matches!(capability, Capability::FourOctetAs(_)));
    let extended_message = both(sent, received, |c| *c == Capability::ExtendedMessage);
    let route_refresh = received.capabilities.contains(&Capability::RouteRefresh);
    Ok(Negotiated {
        kind,
        peer_as: received.asn,
        peer_id: received.identifier,
        hold_time,
        keepalive_time: keepalive_time(config, hold_time),
        families,
        decode: DecodeContext {
            four_octet_as,
            extended_message,
            families,
            add_path: add_path(received, sent).intersection(families),
            extended_next_hop: extended_next_hop(sent),
            kind,
        },
        encode: EncodeContext {
            four_octet_as,
            max_len: if extended_message { MAX_EXTENDED_LEN } else { MAX_STANDARD_LEN },
            add_path: add_path(sent, received).intersection(families),
            extended_next_hop: extended_next_hop(received),
        },
        route_refresh,
        enhanced_route_refresh: both(sent, received, |c| *c == Capability::EnhancedRouteRefresh),
        graceful_restart: graceful_restart(sent, received),
        sent: sent.capabilities.clone(),
        received: received.capabilities.clone(),
    })
}

fn check_identity(config: &PeerConfig, sent: &Open, received: &Open) -> Result<(), OpenRefused> {
    if received.asn != config.remote_as {
        return Err(refuse(
            OpenSubcode::BadPeerAs,
            format!("peer's AS is {}, configured asNumber is {}", received.asn, config.remote_as),
        ));
    }
    // RFC 6286 §2.2: unique within an AS only.
    if received.identifier == sent.identifier && received.asn == sent.asn {
        return Err(refuse(
            OpenSubcode::BadBgpIdentifier,
            format!(
                "the peer has our own BGP Identifier {}; set another routerID on one of the two",
                received.identifier
            ),
        ));
    }
    if received.identifier.0.is_unspecified() {
        return Err(refuse(
            OpenSubcode::BadBgpIdentifier,
            "the peer's BGP Identifier is 0.0.0.0".to_owned(),
        ));
    }
    Ok(())
}

/// RFC 9234 §4.2. A peer without a role is accepted: we never ask for the strict mode.
fn check_roles(sent: &Open, received: &Open) -> Result<(), OpenRefused> {
    let mut theirs = roles(received);
    let Some(their_role) = theirs.next() else { return Ok(()) };
    if theirs.any(|other| other != their_role) {
        return Err(refuse(
            OpenSubcode::RoleMismatch,
            "the peer's OPEN has several different roles".to_owned(),
        ));
    }
    match roles(sent).next() {
        None => Ok(()),
        Some(ours) if complement(ours) == their_role => Ok(()),
        Some(ours) => Err(refuse(
            OpenSubcode::RoleMismatch,
            format!(
                "our role is {ours:?}, which needs the peer to be {:?}, but it is {their_role:?}",
                complement(ours)
            ),
        )),
    }
}

fn roles(open: &Open) -> impl Iterator<Item = Role> + '_ {
    open.capabilities.iter().filter_map(|capability| match capability {
        Capability::Role(role) => Some(*role),
        _ => None,
    })
}

fn complement(role: Role) -> Role {
    match role {
        Role::Provider => Role::Customer,
        Role::Customer => Role::Provider,
        Role::RouteServer => Role::RouteServerClient,
        Role::RouteServerClient => Role::RouteServer,
        Role::Peer => Role::Peer,
    }
}

/// The families an OPEN offers; IPv4 unicast if it says nothing about families (RFC 4760 §8).
fn offered_families(open: &Open) -> FamilySet {
    let mut any = false;
    let families = open
        .capabilities
        .iter()
        .filter_map(|capability| match capability {
            Capability::Multiprotocol(family) => Some(*family),
            _ => None,
        })
        .inspect(|_| any = true)
        .filter_map(|family| Family::try_from(family).ok())
        .collect();
    if any { families } else { FamilySet::EMPTY.with(Family::Ipv4Unicast) }
}

/// RFC 5492 §5: the data lists the capabilities that we cannot do without, as in an OPEN.
fn no_common_family(sent: &Open, received: &Open) -> OpenRefused {
    let ours = offered_families(sent);
    let data: Vec<u8> = ours
        .iter()
        .flat_map(|family| {
            let AfiSafi { afi, safi } = family.afi_safi();
            let [high, low] = afi.to_be_bytes();
            [1, 4, high, low, 0, safi]
        })
        .collect();
    OpenRefused {
        notification: Notification {
            code: ErrorCode::Open(OpenSubcode::UnsupportedCapability),
            data: Bytes::from(data),
        },
        detail: format!(
            "no address family in common: we offer {}, the peer {}",
            words(ours),
            words(offered_families(received))
        ),
    }
}

fn words(families: FamilySet) -> String {
    if families.is_empty() {
        return "none that we know".to_owned();
    }
    families.iter().map(|family| family.to_string()).collect::<Vec<_>>().join(" and ")
}

fn keepalive_time(config: &PeerConfig, hold_time: HoldTime) -> u16 {
    if hold_time.seconds() == 0 {
        return 0;
    }
    // More than a third of the hold time would risk the session (RFC 4271 §4.4).
    let third = hold_time.seconds() / 3;
    config.keepalive_time.map_or(third, |configured| {
        u16::try_from(configured.as_secs()).unwrap_or(u16::MAX).clamp(1, third)
    })
}

fn both(sent: &Open, received: &Open, is: impl Fn(&Capability) -> bool) -> bool {
    sent.capabilities.iter().any(&is) && received.capabilities.iter().any(&is)
}

/// Families whose NLRI `sender` writes with path identifiers for `receiver` (RFC 7911 §4). The
/// last mention of a family counts.
fn add_path(sender: &Open, receiver: &Open) -> FamilySet {
    let modes = |open: &Open, wanted: AddPathMode| {
        let mut families = FamilySet::EMPTY;
        for capability in &open.capabilities {
            let Capability::AddPath(list) = capability else { continue };
            for (family, mode) in list {
                let Ok(family) = Family::try_from(*family) else { continue };
                families = if *mode == wanted || *mode == AddPathMode::Both {
                    families.with(family)
                } else {
                    families.without(family)
                };
            }
        }
        families
    };
    modes(sender, AddPathMode::Send).intersection(modes(receiver, AddPathMode::Receive))
}

/// Whether `open` says that its sender takes IPv4 routes with an IPv6 next hop (RFC 8950 §4).
fn extended_next_hop(open: &Open) -> bool {
    open.capabilities.iter().any(|capability| match capability {
        Capability::ExtendedNextHop(list) => list.contains(&(ipv4_unicast(), IPV6_AFI)),
        _ => false,
    })
}

/// The peer's graceful restart capability, the last one if there are several (RFC 4724 §3).
fn graceful_restart(sent: &Open, received: &Open) -> Option<PeerGracefulRestart> {
    let last = |open: &Open| {
        let mut found = None;
        for capability in &open.capabilities {
            if let Capability::GracefulRestart { restarted, notification, restart_time, families } =
                capability
            {
                let known = |forwarding: bool| {
                    families
                        .iter()
                        .filter(|listed| listed.forwarding || !forwarding)
                        .filter_map(|listed| Family::try_from(listed.family).ok())
                        .collect()
                };
                found = Some(PeerGracefulRestart {
                    restarted: *restarted,
                    notification: *notification,
                    restart_time: *restart_time,
                    families: known(false),
                    forwarding: known(true),
                });
            }
        }
        found
    };
    let ours: PeerGracefulRestart = last(sent)?;
    let theirs: PeerGracefulRestart = last(received)?;
    Some(PeerGracefulRestart { notification: ours.notification && theirs.notification, ..theirs })
}

fn refuse(subcode: OpenSubcode, detail: String) -> OpenRefused {
    OpenRefused { notification: Notification::new(ErrorCode::Open(subcode)), detail }
}
