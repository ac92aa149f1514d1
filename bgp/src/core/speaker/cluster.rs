//! What the default policy knows about the cluster, laid out for one question per prefix: is it, or
//! is it inside, one of these?

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use ipnet::IpNet;
use smallvec::SmallVec;

use crate::core::policy::{ClusterPrefixes, NodeOrigin};

/// Prefixes with a fast answer to what covers a prefix: a look-up per distinct length.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PrefixIndex {
    lengths: [SmallVec<[u8; 4]>; 2],
    nets: HashSet<IpNet, FixedState>,
}

impl PrefixIndex {
    pub(super) fn new<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let mut index = Self::default();
        for net in nets {
            let lengths = &mut index.lengths[usize::from(matches!(net, IpNet::V6(_)))];
            if !lengths.contains(&net.prefix_len()) {
                lengths.push(net.prefix_len());
            }
            index.nets.insert(net.trunc());
        }
        for lengths in &mut index.lengths {
            lengths.sort_unstable();
        }
        index
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }

    /// The shortest of the prefixes that is `prefix` or covers it.
    pub(super) fn covering(&self, prefix: IpNet) -> Option<IpNet> {
        let lengths = &self.lengths[usize::from(matches!(prefix, IpNet::V6(_)))];
        lengths.iter().take_while(|length| **length <= prefix.prefix_len()).find_map(|length| {
            let net = IpNet::new(prefix.addr(), *length).ok()?.trunc();
            self.nets.contains(&net).then_some(net)
        })
    }

    pub(super) fn covers(&self, prefix: IpNet) -> bool {
        self.covering(prefix).is_some()
    }
}

/// [`ClusterPrefixes`], indexed.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    pub(super) prefixes: Arc<ClusterPrefixes>,
    /// Pools and pod CIDRs of other nodes.
    pub(super) pods: PrefixIndex,
    pub(super) services: PrefixIndex,
    pub(super) own_pod_cidrs: PrefixIndex,
    origins: Origins,
}

/// Which node an address or a prefix belongs to.
#[derive(Clone, Debug, Default)]
struct Origins {
    /// Places in the list of nodes.
    by_address: HashMap<IpAddr, usize, FixedState>,
    by_pod_cidr: HashMap<IpNet, usize, FixedState>,
    pod_cidrs: PrefixIndex,
}

impl Origins {
    fn new(nodes: &[NodeOrigin]) -> Self {
        let each = || nodes.iter().enumerate();
        Self {
            by_address: each()
                .flat_map(|(place, node)| node.addresses.iter().map(move |at| (*at, place)))
                .collect(),
            by_pod_cidr: each()
                .flat_map(|(place, node)| {
                    node.pod_cidrs.iter().map(move |net| (net.trunc(), place))
                })
                .collect(),
            pod_cidrs: PrefixIndex::new(nodes.iter().flat_map(|node| &node.pod_cidrs)),
        }
    }
}

impl Cluster {
    pub(super) fn new(prefixes: Arc<ClusterPrefixes>) -> Self {
        Self {
            pods: PrefixIndex::new(prefixes.pools.iter().chain(&prefixes.pod_cidrs)),
            services: PrefixIndex::new(&prefixes.services),
            own_pod_cidrs: PrefixIndex::new(&prefixes.own_pod_cidrs),
            origins: if prefixes.origin_check {
                Origins::new(&prefixes.origins)
            } else {
                Origins::default()
            },
            prefixes,
        }
    }

    /// The node that has the address; none without the origin check.
    pub(super) fn node_at(&self, address: IpAddr) -> Option<&NodeOrigin> {
        self.prefixes.origins.get(*self.origins.by_address.get(&address)?)
    }

    /// The node whose pod CIDR it is or lies in; none without the origin check.
    pub(super) fn owner_of(&self, prefix: IpNet) -> Option<&NodeOrigin> {
        let net = self.origins.pod_cidrs.covering(prefix)?;
        self.prefixes.origins.get(*self.origins.by_pod_cidr.get(&net)?)
    }

    pub(super) fn is_own_address(&self, address: IpAddr) -> bool {
        self.prefixes.own_addresses.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_prefixes_are_found_in_both_families() {
        let nets: Vec<IpNet> = ["10.244.0.0/16", "10.1.0.0/24", "fd00:1::/64", "10.9.0.7/32"]
            .map(|net| net.parse().unwrap())
            .into();
        let index = PrefixIndex::new(&nets);
        for (prefix, covered) in [
            ("10.244.0.0/16", true),
            ("10.244.7.0/25", true),
            ("10.0.0.0/8", false),
            ("10.1.0.128/25", true),
            ("10.1.1.0/24", false),
            ("10.9.0.7/32", true),
            ("0.0.0.0/0", false),
            ("fd00:1::/64", true),
            ("fd00:1::7/128", true),
            ("fd00:2::/64", false),
        ] {
            assert_eq!(index.covers(prefix.parse().unwrap()), covered, "{prefix}");
        }
        assert!(!PrefixIndex::default().covers("0.0.0.0/0".parse().unwrap()));
    }
}
