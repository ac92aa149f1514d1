//! Policy as data: ordered filter rules, and what the default policy knows about the cluster.
//!
//! The first matching rule over a peer's concatenated filters decides; without a match the default
//! policy of the session's kind applies. No rule overrides the loop checks, split horizon, or the
//! refusal of our own pod CIDRs and host addresses. Evaluation lives with the speaker.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use routelet_proto::Family;

/// The rules of one peer, in order, per family and direction.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PolicyRules {
    /// For what it sends, indexed by [`Family::index`].
    pub import: [Vec<Rule>; Family::ALL.len()],
    /// For what we send it.
    pub export: [Vec<Rule>; Family::ALL.len()],
}

/// One rule of a filter.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Rule {
    /// The filter it stands in.
    pub filter: Arc<str>,
    /// Its place in that filter's list, from 0.
    pub index: usize,
    /// What it decides.
    pub action: Action,
    /// What it matches; everything if absent.
    pub prefix: Option<PrefixMatch>,
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// The route passes.
    Accept,
    /// It does not.
    Reject,
}

/// A condition on the prefix: Calico's `cidr`, `matchOperator` and `prefixLength`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PrefixMatch {
    /// The prefix compared with.
    pub net: IpNet,
    /// How.
    pub operator: MatchOperator,
    /// Least and greatest length of the route's prefix, inclusive; only with `In` and `NotIn`.
    pub length: Option<(u8, u8)>,
}

/// `matchOperator`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MatchOperator {
    /// The route is exactly this prefix.
    Equal,
    /// It is not.
    NotEqual,
    /// The route is this prefix or inside it.
    In,
    /// It is not.
    NotIn,
}

/// What the default policy knows about the cluster (design: 'Filters and the default policy').
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClusterPrefixes {
    /// IP pools.
    pub pools: Vec<IpNet>,
    /// Pod CIDRs of other nodes.
    pub pod_cidrs: Vec<IpNet>,
    /// Service ranges and addresses.
    pub services: Vec<IpNet>,
    /// Our own pod CIDRs: never imported, nor anything inside them.
    pub own_pod_cidrs: Vec<IpNet>,
    /// The host's own addresses: never imported.
    pub own_addresses: Vec<IpAddr>,
    /// Subnets the host is on, to tell whether a receiver and a next hop share one.
    pub connected: Vec<IpNet>,
    /// Whether nodes may only send what is theirs: see [`NodeOrigin`].
    pub origin_check: bool,
    /// The other nodes.
    pub origins: Vec<NodeOrigin>,
}

/// Another node, as the mesh origin check knows it.
///
/// From a node of the mesh only its own pod CIDRs are accepted; and what another speaker of our AS sends
/// of a node's pod CIDRs must have that node's address as its next hop. Service addresses are every
/// node's. A node whose pod CIDRs are not known may send what is nobody's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeOrigin {
    /// Its name.
    pub name: Arc<str>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
}

impl PolicyRules {
    /// The first rule for what the peer sends that matches.
    #[must_use]
    pub fn first_import(&self, family: Family, prefix: IpNet) -> Option<&Rule> {
        self.import[family.index()].iter().find(|rule| rule.matches(prefix))
    }

    /// The first rule for what we send the peer that matches.
    #[must_use]
    pub fn first_export(&self, family: Family, prefix: IpNet) -> Option<&Rule> {
        self.export[family.index()].iter().find(|rule| rule.matches(prefix))
    }
}

impl Rule {
    /// Whether the rule decides about `prefix`.
    #[must_use]
    pub fn matches(&self, prefix: IpNet) -> bool {
        self.prefix.is_none_or(|condition| condition.matches(prefix))
    }
}

impl PrefixMatch {
    /// Whether `prefix` meets the condition.
    #[must_use]
    pub fn matches(&self, prefix: IpNet) -> bool {
        match self.operator {
            MatchOperator::Equal => prefix == self.net,
            MatchOperator::NotEqual => prefix != self.net,
            MatchOperator::In => self.covers(prefix),
            MatchOperator::NotIn => !self.covers(prefix),
        }
    }

    fn covers(&self, prefix: IpNet) -> bool {
        self.net.contains(&prefix)
            && self
                .length
                .is_none_or(|(least, greatest)| (least..=greatest).contains(&prefix.prefix_len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(net: &str, operator: MatchOperator, length: Option<(u8, u8)>) -> PrefixMatch {
        PrefixMatch { net: net.parse().unwrap(), operator, length }
    }

    #[test]
    fn operators_match_as_calico_says() {
        use MatchOperator::{Equal, In, NotEqual, NotIn};
        let matches =
            |condition: PrefixMatch, prefix: &str| condition.matches(prefix.parse().unwrap());
        let net = "10.0.0.0/8";
        assert!(matches(condition(net, Equal, None), "10.0.0.0/8"));
        assert!(!matches(condition(net, Equal, None), "10.0.0.0/9"));
        assert!(!matches(condition(net, NotEqual, None), "10.0.0.0/8"));
        assert!(matches(condition(net, NotEqual, None), "10.0.0.0/9"));
        assert!(matches(condition(net, In, None), "10.0.0.0/8"));
        assert!(matches(condition(net, In, None), "10.1.2.0/24"));
        assert!(!matches(condition(net, In, None), "11.0.0.0/8"));
        assert!(!matches(condition(net, In, None), "0.0.0.0/0"));
        assert!(!matches(condition(net, NotIn, None), "10.1.2.0/24"));
        assert!(matches(condition(net, NotIn, None), "0.0.0.0/0"));
        assert!(matches(condition(net, In, Some((16, 24))), "10.1.0.0/16"));
        assert!(matches(condition(net, In, Some((16, 24))), "10.1.2.0/24"));
        assert!(!matches(condition(net, In, Some((16, 24))), "10.1.2.0/25"));
        assert!(!matches(condition(net, In, Some((16, 24))), "10.0.0.0/8"));
        assert!(matches(condition(net, NotIn, Some((16, 24))), "10.1.2.0/25"));
        assert!(!matches(condition("fd00::/8", In, None), "10.0.0.0/8"));
    }
}
