//! Export: which best paths a peer is sent, and with which attributes.
//!
//! Everything this depends on besides the path stands in an [`ExportKey`]; peers with equal keys
//! form an update group. Split horizon is not in it: the source of a path is left out when the
//! group's octets are handed to its members.
//!
//! Choices the RFCs leave open. A peer's AS in the path does not suppress the route: the peer may
//! allow it (allowas-in), and it checks for itself. Towards eBGP the path gets `local_as` and
//! nothing else, also where `localASNumber` differs from the speaker's AS (no-prepend, replace-as).
//! MED never leaves the AS: it is not ours to pass on (RFC 4271 §5.1.4), and own routes have none.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use routelet_proto::{
    Asn, BgpIdentifier, Community, EncodeContext, ExtendedCommunity, Family, NextHop,
    PathAttributes, Role, SessionKind,
};
use smallvec::SmallVec;

use super::peers::{Peer, Peers, Slot};
use crate::core::config::{NextHopMode, PeerKind, SpeakerConfig};
use crate::core::policy::{Action, PolicyRules, Rule};
use crate::core::view::ExportReason;

/// What the octets sent to a peer depend on, for one family.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ExportKey {
    pub(super) rewrite: Rewrite,
    /// Decides the default policy.
    kind: PeerKind,
    rules: Arc<PolicyRules>,
}

/// The part of an [`ExportKey`] that shapes the attributes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rewrite {
    pub(super) family: Family,
    pub(super) encode: EncodeContext,
    session: SessionKind,
    client: bool,
    local_as: Asn,
    role: Option<Role>,
    cluster_id: Ipv4Addr,
    mode: NextHopMode,
    /// Our own address as a next hop of this family.
    own_next_hop: Option<NextHop>,
    /// Subnets the peer is on too; a third party's address in one of them is left as it is.
    shared: SmallVec<[IpNet; 1]>,
}

/// Where a best path comes from, as far as export cares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    /// It starts here.
    Local,
    /// iBGP.
    Internal { client: bool, identifier: BgpIdentifier },
    /// eBGP.
    External,
}

impl Source {
    pub(super) fn of(slot: Slot, peers: &Peers) -> Self {
        if slot == Slot::LOCAL {
            return Self::Local;
        }
        let peer = &peers[slot];
        if peer.external {
            return Self::External;
        }
        Self::Internal {
            client: peer.config.route_reflector_client,
            identifier: BgpIdentifier(peer.identifier.into()),
        }
    }
}

/// What export says of a path.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict<'a> {
    /// It is sent: by a rule, or by the default policy.
    Send(Option<&'a Rule>),
    /// It is not, for this reason.
    Refuse(Refusal<'a>),
}

/// Why a path is not sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Refusal<'a> {
    Filter(&'a Rule),
    DefaultPolicy,
    NotReflected,
    Community(&'static str),
    RouteLeak,
    NoNextHop(Family),
}

impl Verdict<'_> {
    pub(super) const fn sends(&self) -> bool {
        matches!(self, Self::Send(_))
    }

    pub(super) fn reason(&self) -> ExportReason {
        let filter =
            |rule: &Rule| ExportReason::Filter { filter: rule.filter.clone(), rule: rule.index };
        match self {
            Self::Send(Some(rule)) | Self::Refuse(Refusal::Filter(rule)) => filter(rule),
            Self::Send(None) | Self::Refuse(Refusal::DefaultPolicy) => ExportReason::DefaultPolicy,
            Self::Refuse(Refusal::NotReflected) => ExportReason::NotReflected,
            Self::Refuse(Refusal::Community(name)) => ExportReason::Community(name),
            Self::Refuse(Refusal::RouteLeak) => ExportReason::RouteLeak,
            Self::Refuse(Refusal::NoNextHop(family)) => ExportReason::NoNextHop(*family),
        }
    }
}

impl ExportKey {
    /// The key of a peer with a session.
    pub(super) fn new(config: &SpeakerConfig, peer: &Peer, family: Family) -> Option<Self> {
        let session = peer.session.as_ref()?;
        let mode = peer.config.next_hop_mode;
        let external = session.negotiated.kind == SessionKind::External;
        let mut shared = SmallVec::new();
        if external && mode == NextHopMode::Auto && peer.config.kind != PeerKind::Mesh {
            let remote = session.remote.ip();
            shared.extend(
                config.cluster.connected.iter().filter(|net| net.contains(&remote)).copied(),
            );
        }
        let encode = session.negotiated.encode;
        Some(Self {
            rewrite: Rewrite {
                family,
                encode,
                session: session.negotiated.kind,
                client: peer.config.route_reflector_client,
                local_as: peer.config.local_as,
                role: peer.config.role.filter(|_| external),
                cluster_id: config.cluster_id,
                mode,
                own_next_hop: own_next_hop(config, session.local.ip(), family, &encode),
                shared,
            },
            kind: peer.config.kind,
            rules: peer.config.rules.clone(),
        })
    }

    /// Whether a path of `source` is sent. Split horizon aside.
    pub(super) fn decide(
        &self,
        source: Source,
        attributes: &PathAttributes,
        prefix: IpNet,
    ) -> Verdict<'_> {
        let external = self.rewrite.session == SessionKind::External;
        // RFC 4456 §6.
        let reflected = match source {
            Source::Internal { client, .. } if !external => {
                if !client && !self.rewrite.client {
                    return Verdict::Refuse(Refusal::NotReflected);
                }
                true
            }
            _ => false,
        };
        if let Some(name) = forbidden_by_community(attributes, external) {
            return Verdict::Refuse(Refusal::Community(name));
        }
        // RFC 9234 §5, egress 2: never up or sideways again.
        if matches!(self.rewrite.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient))
            && attributes.rare.as_ref().is_some_and(|rare| rare.otc.is_some())
        {
            return Verdict::Refuse(Refusal::RouteLeak);
        }
        let rule = match self.rules.first_export(self.rewrite.family, prefix) {
            Some(rule) if rule.action == Action::Reject => {
                return Verdict::Refuse(Refusal::Filter(rule));
            }
            // Design, section 5, column 'advertised': our own, and what a reflector reflects.
            None if source != Source::Local && !(reflected && self.kind != PeerKind::External) => {
                return Verdict::Refuse(Refusal::DefaultPolicy);
            }
            rule => rule,
        };
        if self.rewrite.next_hop(source, attributes).is_none() {
            return Verdict::Refuse(Refusal::NoNextHop(self.rewrite.family));
        }
        Verdict::Send(rule)
    }

    /// Whether a learned path could ever be sent, for what End-of-RIB must wait for.
    pub(super) fn accepts_learned(&self) -> bool {
        self.rules.export[self.rewrite.family.index()]
            .iter()
            .any(|rule| rule.action == Action::Accept)
    }
}

impl Rewrite {
    pub(super) const fn session(&self) -> SessionKind {
        self.session
    }

    fn is_external(&self) -> bool {
        self.session == SessionKind::External
    }

    pub(super) const fn is_client(&self) -> bool {
        self.client
    }

    /// The attributes as sent; `None` if there is no next hop to send.
    pub(super) fn apply(
        &self,
        source: Source,
        attributes: &PathAttributes,
    ) -> Option<PathAttributes> {
        let mut out = attributes.clone();
        out.next_hop = self.next_hop(source, attributes)?;
        if self.is_external() {
            self.apply_external(&mut out);
        } else {
            out.local_pref = Some(attributes.local_pref.unwrap_or(100));
            match source {
                // RFC 4456 §8.
                Source::Internal { identifier, .. } => {
                    let rare = out.rare_mut();
                    rare.originator_id.get_or_insert(identifier);
                    rare.cluster_list.insert(0, self.cluster_id);
                }
                Source::External => clear_reflection(&mut out),
                Source::Local => {}
            }
        }
        Some(out)
    }

    fn apply_external(&self, out: &mut PathAttributes) {
        out.as_path = out.as_path.prepend(self.local_as, 1);
        out.local_pref = None;
        out.med = None;
        clear_reflection(out);
        if let Some(rare) = &mut out.rare {
            rare.extended_communities.retain(is_transitive);
        }
        // RFC 9234 §5, egress 1: to a Customer, Peer or RS-Client.
        if matches!(self.role, Some(Role::Provider | Role::Peer | Role::RouteServer)) {
            out.rare_mut().otc.get_or_insert(self.local_as);
        }
        drop_empty(out);
    }

    /// The next hop as sent (design, section 5).
    fn next_hop(&self, source: Source, attributes: &PathAttributes) -> Option<NextHop> {
        let third_party = match (self.mode, source) {
            (_, Source::Local) | (NextHopMode::Myself, _) => false,
            (NextHopMode::Keep, _) => true,
            (NextHopMode::Auto, _) if self.is_external() => {
                let address = attributes.next_hop.address();
                self.shared.iter().any(|net| net.contains(&address))
            }
            (NextHopMode::Auto, Source::Internal { .. }) => true,
            (NextHopMode::Auto, Source::External) => false,
        };
        if !third_party {
            return self.own_next_hop;
        }
        match attributes.next_hop {
            // RFC 2545 §3: a link-local address is not passed on, it means nothing elsewhere.
            NextHop::V6WithLinkLocal(global, _) | NextHop::V6(global)
                if global.is_unicast_link_local() || global.is_unspecified() =>
            {
                self.own_next_hop
            }
            // RFC 8950: an IPv6 next hop of an IPv4 route only where the peer takes it.
            NextHop::V6(_) | NextHop::V6WithLinkLocal(..)
                if self.family == Family::Ipv4Unicast && !self.encode.extended_next_hop =>
            {
                self.own_next_hop
            }
            NextHop::V6WithLinkLocal(global, _) => Some(NextHop::V6(global)),
            other => Some(other),
        }
    }
}

/// Our address as the next hop of a family: the session's where it is of that family, else the
/// node's; for IPv4 routes an IPv6 one where the peer takes it (RFC 8950).
fn own_next_hop(
    config: &SpeakerConfig,
    local: IpAddr,
    family: Family,
    encode: &EncodeContext,
) -> Option<NextHop> {
    let v6 = || match (local, config.address_v6) {
        (IpAddr::V6(local), Some(global)) if local.is_unicast_link_local() => {
            Some(NextHop::V6WithLinkLocal(global, local))
        }
        (IpAddr::V6(local), _) => Some(NextHop::V6(local)),
        (IpAddr::V4(_), global) => global.map(NextHop::V6),
    };
    match (family, local) {
        (Family::Ipv4Unicast, IpAddr::V4(local)) => Some(NextHop::V4(local)),
        (Family::Ipv4Unicast, _) => {
            let v4 = config.address_v4.map(NextHop::V4);
            v4.or_else(|| v6().filter(|_| encode.extended_next_hop))
        }
        (Family::Ipv6Unicast, _) => v6(),
    }
}

/// RFC 1997, "Well-known Communities".
fn forbidden_by_community(attributes: &PathAttributes, external: bool) -> Option<&'static str> {
    attributes.communities.iter().find_map(|community| match *community {
        Community::NO_ADVERTISE => Some("NO_ADVERTISE"),
        Community::NO_EXPORT if external => Some("NO_EXPORT"),
        Community::NO_EXPORT_SUBCONFED if external => Some("NO_EXPORT_SUBCONFED"),
        _ => None,
    })
}

/// RFC 4456 §8: both attributes stay inside the AS.
fn clear_reflection(out: &mut PathAttributes) {
    if let Some(rare) = &mut out.rare {
        rare.originator_id = None;
        rare.cluster_list.clear();
    }
    drop_empty(out);
}

/// No box with nothing in it: equal attributes must be equal values.
fn drop_empty(out: &mut PathAttributes) {
    if out.rare.as_deref().is_some_and(|rare| *rare == Default::default()) {
        out.rare = None;
    }
}

/// RFC 4360 §2: the T bit is 0.
fn is_transitive(community: &ExtendedCommunity) -> bool {
    community.0[0] & 0x40 == 0
}
