//! Import: what a peer's path must pass to take part in the decision, and what is changed on it.
//!
//! Checks of the attributes come first and are made once for an UPDATE: loops, next hop, roles. No
//! rule overrides them, nor the refusal of our own pod CIDRs and addresses. Then the first matching
//! rule of the peer's filters decides, without one the default policy of the session's kind. What that
//! accepts must still come from the node whose it is, where the mesh origin check is on.
//! A rejected path stays in the table; the reason is worked out again when somebody asks.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use routelet_proto::{Family, PathAttributes, Role};

use super::cluster::Cluster;
use super::peers::Peer;
use crate::core::config::{PeerKind, SpeakerConfig};
use crate::core::policy::{Action, NodeOrigin, Rule};
use crate::core::view::Ineligible;

/// Who asks: everything import looks at but the path itself.
#[derive(Clone, Copy)]
pub(super) struct Import<'a> {
    pub(super) config: &'a SpeakerConfig,
    pub(super) cluster: &'a Cluster,
    pub(super) peer: &'a Peer,
}

/// What import says of a prefix.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict<'a> {
    /// Accepted by a rule, or by the default policy.
    Accept(Option<&'a Rule>),
    /// Rejected by a rule.
    Filter(&'a Rule),
    /// Rejected by the default policy.
    DefaultPolicy,
    /// One of our pod CIDRs, or inside it.
    OwnPodCidr(IpNet),
    /// An address of this host.
    OwnAddress,
    /// The mesh origin check refuses it.
    Origin(OriginClash),
}

/// A prefix that comes from a node whose it is not.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OriginClash {
    /// The node that sent it, or that it would be forwarded to; `None` if it is none that is known.
    node: Option<Arc<str>>,
    /// Whose it is; `None`: nobody's.
    owner: Option<Arc<str>>,
    /// The next hop, where that is what is wrong.
    next_hop: Option<IpAddr>,
}

impl Verdict<'_> {
    pub(super) fn reason(&self) -> Option<Ineligible> {
        Some(match self {
            Self::Accept(_) => return None,
            Self::Filter(rule) => {
                Ineligible::Filter { filter: rule.filter.clone(), rule: rule.index }
            }
            Self::DefaultPolicy => Ineligible::DefaultPolicy,
            Self::OwnPodCidr(net) => Ineligible::OwnPodCidr(*net),
            Self::OwnAddress => Ineligible::OwnAddress,
            Self::Origin(OriginClash { node, owner, next_hop }) => Ineligible::MeshOrigin {
                node: node.clone(),
                owner: owner.clone(),
                next_hop: *next_hop,
            },
        })
    }
}

impl<'a> Import<'a> {
    /// What is wrong with the attributes as received, if anything.
    pub(super) fn check_attributes(&self, attributes: &PathAttributes) -> Option<Ineligible> {
        let peer = &self.peer.config;
        if self.peer.external {
            // RFC 4271 §6.3: the leftmost AS is the peer's.
            let first = attributes.as_path.first_as();
            if first != Some(peer.remote_as) {
                return Some(Ineligible::FirstAs(first));
            }
        } else {
            // RFC 4456 §8.
            if attributes.originator_id() == Some(self.config.router_id) {
                return Some(Ineligible::OwnOriginatorId);
            }
            if attributes.cluster_list().contains(&self.config.cluster_id) {
                return Some(Ineligible::OwnClusterId);
            }
        }
        // RFC 4271 §9.1.2: our own AS, the one on this session included.
        let allowed = usize::from(peer.num_allowed_local_as);
        let path = &attributes.as_path;
        if path.occurrences(self.config.asn) > allowed
            || peer.local_as != self.config.asn && path.occurrences(peer.local_as) > allowed
        {
            return Some(Ineligible::OwnAsInPath);
        }
        if self.is_own(attributes.next_hop.address()) {
            return Some(Ineligible::OwnNextHop);
        }
        self.leak(attributes).then_some(Ineligible::RouteLeak)
    }

    /// What import policy changes, `None` if nothing.
    pub(super) fn transform(&self, attributes: &PathAttributes) -> Option<PathAttributes> {
        let strip_local_pref = self.peer.external && attributes.local_pref.is_some();
        let otc = attributes.rare.as_ref().and_then(|rare| rare.otc);
        // RFC 9234 §5, ingress 3: from a Provider, Peer or Route Server.
        let add_otc = self.peer.external
            && otc.is_none()
            && matches!(
                self.peer.config.role,
                Some(Role::Customer | Role::Peer | Role::RouteServerClient)
            );
        if !strip_local_pref && !add_otc {
            return None;
        }
        let mut changed = attributes.clone();
        if strip_local_pref {
            // RFC 4271 §5.1.5: what an external peer prefers is not ours.
            changed.local_pref = None;
        }
        if add_otc {
            changed.rare_mut().otc = Some(self.peer.config.remote_as);
        }
        Some(changed)
    }

    /// What is said of a prefix whose attributes, as received, are in order.
    pub(super) fn check_prefix(
        &self,
        family: Family,
        prefix: IpNet,
        attributes: &PathAttributes,
    ) -> Verdict<'a> {
        if let Some(net) = self.cluster.own_pod_cidrs.covering(prefix) {
            return Verdict::OwnPodCidr(net);
        }
        if prefix.prefix_len() == prefix.max_prefix_len()
            && self.cluster.is_own_address(prefix.addr())
        {
            return Verdict::OwnAddress;
        }
        let accepted = match self.peer.config.rules.first_import(family, prefix) {
            Some(rule) if rule.action == Action::Accept => Verdict::Accept(Some(rule)),
            Some(rule) => return Verdict::Filter(rule),
            None if self.default_accepts(prefix) => Verdict::Accept(None),
            None => return Verdict::DefaultPolicy,
        };
        match self.origin_clash(prefix, attributes) {
            Some(clash) => Verdict::Origin(clash),
            None => accepted,
        }
    }

    /// What the mesh origin check has against it: see [`crate::core::policy::NodeOrigin`].
    fn origin_clash(&self, prefix: IpNet, attributes: &PathAttributes) -> Option<OriginClash> {
        let cluster = self.cluster;
        if !cluster.prefixes.origin_check || cluster.services.covers(prefix) {
            return None;
        }
        let owner = cluster.owner_of(prefix);
        let clash = |node: Option<&NodeOrigin>, next_hop| OriginClash {
            node: node.map(|node| node.name.clone()),
            owner: owner.map(|owner| owner.name.clone()),
            next_hop,
        };
        match self.peer.config.kind {
            PeerKind::External => None,
            PeerKind::Mesh => {
                let node = cluster.node_at(self.peer.config.address)?;
                let fits = match owner {
                    Some(owner) => owner.name == node.name,
                    None => node.pod_cidrs.is_empty(),
                };
                (!fits).then(|| clash(Some(node), None))
            }
            PeerKind::Internal => {
                let next_hop = attributes.next_hop.address();
                let fits = owner?.addresses.contains(&next_hop);
                (!fits).then(|| clash(cluster.node_at(next_hop), Some(next_hop)))
            }
        }
    }

    /// Design, section 5, column 'accepted'.
    fn default_accepts(&self, prefix: IpNet) -> bool {
        let Cluster { pods, services, .. } = self.cluster;
        match self.peer.config.kind {
            PeerKind::External => pods.covers(prefix),
            PeerKind::Mesh if pods.is_empty() => prefix.prefix_len() > 0,
            PeerKind::Mesh | PeerKind::Internal => pods.covers(prefix) || services.covers(prefix),
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.cluster.is_own_address(address)
            || self.config.address_v4.is_some_and(|own| address == own)
            || self.config.address_v6.is_some_and(|own| address == own)
            || self.peer.session.as_ref().is_some_and(|session| session.local.ip() == address)
    }

    /// RFC 9234 §5, ingress 1 and 2.
    fn leak(&self, attributes: &PathAttributes) -> bool {
        let Some(otc) = attributes.rare.as_ref().and_then(|rare| rare.otc) else { return false };
        self.peer.external
            && match self.peer.config.role {
                Some(Role::Provider | Role::RouteServer) => true,
                Some(Role::Peer) => otc != self.peer.config.remote_as,
                _ => false,
            }
    }
}
