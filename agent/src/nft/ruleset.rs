//! What our table is to be for a configuration: no IO, all decisions.
//!
//! In flow: [`FirewallConfig`] and which parts the kernel can do. Out flow: a [`Table`], or nothing
//! where there is nothing to do.
//!
//! What always holds: a part whose input is empty leaves no rule; every rule names its reason in a
//! comment; no rule of ours accepts, so none weakens another table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::expression::{Expression, Side, Version};
use super::table::{Chain, Elements, HOOK_FORWARD, HOOK_INPUT, HOOK_POSTROUTING, Rule, Set, Table};

/// Where our filters stand: before everybody's who filters at the usual place (0).
const BEFORE_FILTERS: i32 = -10;
/// Where our NAT stands: after everybody's at the usual place (100), so that a more special rule wins.
const AFTER_NAT: i32 = 110;

const IPIP: u8 = 4;
const UDP: u8 = 17;

/// What the firewall is told to do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FirewallConfig {
    /// `false`: no netlink at all, nothing is looked at.
    pub enabled: bool,
    /// Whether the guard is wanted where there are tunnels (`tunnels.guard`).
    pub guard: bool,
    /// Tunnels that pools ask for.
    pub tunnels: Tunnels,
    /// Own addresses.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Addresses of the other nodes.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Own pod CIDRs.
    pub own_pod_cidrs: Vec<IpNet>,
    /// Every pool and every known pod CIDR: what packets go to without NAT.
    pub pods: Vec<IpNet>,
    /// Pools with natOutgoing.
    pub nat: Vec<IpNet>,
    /// Advertised service addresses.
    pub services: Services,
    /// What is done about chains of others that drop what is forwarded.
    pub forward_accept: ForwardAccept,
    /// Whether what others delete is put back.
    pub repair: bool,
}

/// Tunnels in use in the cluster.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tunnels {
    /// IP-in-IP.
    pub ipip: bool,
    /// VXLAN: UDP port and network (VNI, 24 bits).
    pub vxlan: Option<(u16, u32)>,
}

/// Service addresses that this node advertises.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Services {
    /// Whole ranges. Empty: nothing is dropped.
    pub ranges: Vec<IpNet>,
    /// What inside them is somebody's.
    pub claimed: BTreeSet<Claim>,
}

/// A service address that is somebody's.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// IP protocol (6, 17, 132) and port; `None`: the whole address.
    pub port: Option<(u8, u16)>,
}

/// What is done about chains of others that drop what is forwarded (`kernel.forwardAccept`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ForwardAccept {
    /// Rules that accept pod traffic are kept in such chains.
    #[default]
    Auto,
    /// They are reported only.
    Never,
}

impl ForwardAccept {
    /// As the configuration has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "Auto",
            Self::Never => "Never",
        }
    }
}

/// The parts of our table, in the order in which a kernel that lacks something loses them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Part {
    Guard,
    Services,
    Nat,
}

impl Part {
    pub(super) const ALL: [Self; 3] = [Self::Guard, Self::Services, Self::Nat];
}

impl FirewallConfig {
    /// Whether the part has anything to do.
    pub(super) fn wants(&self, part: Part) -> bool {
        match part {
            Part::Guard => self.guard && (self.tunnels.ipip || self.tunnels.vxlan.is_some()),
            Part::Services => !self.services.ranges.is_empty(),
            Part::Nat => !self.nat.is_empty(),
        }
    }
}

/// Our table with those parts; `None`: there is nothing to do.
pub(super) fn table(config: &FirewallConfig, parts: &[Part]) -> Option<Table> {
    let mut builder = Builder { config, table: Table::default() };
    let wanted = |part| parts.contains(&part) && config.wants(part);
    let (mut input, mut forward, mut postrouting) = (Vec::new(), Vec::new(), Vec::new());
    for version in Version::ALL {
        if wanted(Part::Guard) {
            builder.guard(version, &mut input, &mut forward);
        }
        if wanted(Part::Services) {
            builder.services(version, &mut forward);
        }
        if wanted(Part::Nat) {
            builder.nat(version, &mut postrouting);
        }
    }
    let mut table = builder.table;
    for (name, kind, hook, priority, rules) in [
        ("input", "filter", HOOK_INPUT, BEFORE_FILTERS, input),
        ("forward", "filter", HOOK_FORWARD, BEFORE_FILTERS, forward),
        ("postrouting", "nat", HOOK_POSTROUTING, AFTER_NAT, postrouting),
    ] {
        if !rules.is_empty() {
            table.chains.push(Chain { name, kind, hook, priority, rules });
        }
    }
    (!table.chains.is_empty()).then_some(table)
}

struct Builder<'a> {
    config: &'a FirewallConfig,
    table: Table,
}

impl Builder<'_> {
    fn guard(&mut self, version: Version, input: &mut Vec<Rule>, forward: &mut Vec<Rule>) {
        let config = self.config;
        let own = of(version, config.own_addresses.iter());
        let mut tunnels = Vec::new();
        // IP-in-IP carries IPv4 in IPv4.
        if config.tunnels.ipip && version == Version::V4 {
            tunnels.push(("IP-in-IP", vec![Expression::Protocol(IPIP)]));
        }
        if let Some((port, vni)) = config.tunnels.vxlan {
            // The network as well: other people's VXLAN on the same port is theirs.
            tunnels.push((
                "VXLAN",
                vec![
                    Expression::Protocol(UDP),
                    Expression::DestinationPort(port),
                    Expression::Vni(vni),
                ],
            ));
        }
        if tunnels.is_empty() || own.is_empty() {
            return;
        }
        let own = self.set("own", version, Elements::Addresses(own));
        let nodes = of(version, config.node_addresses.iter());
        let nodes = self.set("nodes", version, Elements::Addresses(nodes));
        let pods = prefixes_of(version, &config.own_pod_cidrs);
        let pods = (!pods.is_empty()).then(|| self.set("pods", version, Elements::Prefixes(pods)));
        for (name, matches) in tunnels {
            let rule = |steps: Vec<Expression>, comment: String| {
                let end = [Expression::Counter, Expression::Drop];
                let expressions = steps.into_iter().chain(matches.clone()).chain(end).collect();
                Rule { expressions, comment }
            };
            let at = |side, set: &str, within| {
                let family = Expression::Family(version);
                let set = set.to_owned();
                [family, Expression::InSet { version, side, set, within }]
            };
            let mut stranger = at(Side::Destination, &own, true).to_vec();
            stranger.push(at(Side::Source, &nodes, false)[1].clone());
            input.push(rule(stranger, format!("guard: {name} from other than a known node")));
            if let Some(pods) = &pods {
                forward.push(rule(
                    at(Side::Source, pods, true).to_vec(),
                    format!("guard: {name} from a pod"),
                ));
            }
            // A packet that is forwarded with our own address as its source is a lie.
            forward.push(rule(
                at(Side::Source, &own, true).to_vec(),
                format!("guard: {name} in our name"),
            ));
        }
    }

    /// What is still addressed to the range in the forward hook, after DNAT, is nobody's.
    fn services(&mut self, version: Version, forward: &mut Vec<Rule>) {
        let services = &self.config.services;
        let ranges = prefixes_of(version, &services.ranges);
        if ranges.is_empty() {
            return;
        }
        let ranges = self.set("services", version, Elements::Prefixes(ranges));
        let side = Side::Destination;
        let mut expressions = vec![
            Expression::Family(version),
            Expression::InSet { version, side, set: ranges, within: true },
        ];
        let claimed = services.claimed.iter().filter(|claim| Version::of(claim.address) == version);
        let (mut addresses, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for claim in claimed {
            match claim.port {
                None => drop(addresses.insert(claim.address)),
                Some((protocol, port)) => drop(ports.insert((claim.address, protocol, port))),
            }
        }
        if !addresses.is_empty() {
            let set = self.set("claims", version, Elements::Addresses(addresses));
            expressions.push(Expression::InSet { version, side, set, within: false });
        }
        let drop = [Expression::Counter, Expression::Drop];
        if !ports.is_empty() {
            let set = self.set("claim-ports", version, Elements::Ports(ports));
            let mut claimed = expressions.clone();
            claimed.push(Expression::DestinationInPorts { version, set });
            claimed.extend([Expression::Return]);
            forward.push(Rule {
                expressions: claimed,
                comment: "services: this port is a service's".to_owned(),
            });
        }
        expressions.extend(drop);
        forward.push(Rule {
            expressions,
            comment: "services: no service claims this address".to_owned(),
        });
    }

    fn nat(&mut self, version: Version, postrouting: &mut Vec<Rule>) {
        let pools = prefixes_of(version, &self.config.nat);
        if pools.is_empty() {
            return;
        }
        let inside = prefixes_of(version, &self.config.pods);
        let pools = self.set("nat", version, Elements::Prefixes(pools));
        let inside = self.set("inside", version, Elements::Prefixes(inside));
        let (source, destination) = (Side::Source, Side::Destination);
        postrouting.push(Rule {
            expressions: vec![
                Expression::Family(version),
                Expression::InSet { version, side: source, set: pools, within: true },
                Expression::InSet { version, side: destination, set: inside, within: false },
                Expression::Counter,
                Expression::Masquerade,
            ],
            comment: "natOutgoing: from a pool to outside of every pool".to_owned(),
        });
    }

    /// Adds a set; gives its name.
    fn set(&mut self, name: &str, version: Version, elements: Elements) -> String {
        let name = format!("{name}{}", version.digit());
        self.table.sets.push(Set { name: name.clone(), version, elements });
        name
    }
}

fn of<'a>(version: Version, addresses: impl Iterator<Item = &'a IpAddr>) -> BTreeSet<IpAddr> {
    addresses.filter(|address| Version::of(**address) == version).copied().collect()
}

/// Those of a family, merged: an interval set takes no overlaps.
pub(super) fn prefixes_of(version: Version, prefixes: &[IpNet]) -> Vec<IpNet> {
    match version {
        Version::V4 => {
            let prefixes = prefixes.iter().filter_map(|prefix| match prefix {
                IpNet::V4(prefix) => Some(prefix.trunc()),
                IpNet::V6(_) => None,
            });
            Ipv4Net::aggregate(&prefixes.collect()).into_iter().map(IpNet::V4).collect()
        }
        Version::V6 => {
            let prefixes = prefixes.iter().filter_map(|prefix| match prefix {
                IpNet::V6(prefix) => Some(prefix.trunc()),
                IpNet::V4(_) => None,
            });
            Ipv6Net::aggregate(&prefixes.collect()).into_iter().map(IpNet::V6).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(words: &str) -> Vec<IpNet> {
        words.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    fn addresses(words: &str) -> BTreeSet<IpAddr> {
        words.split_whitespace().map(|address| address.parse().unwrap()).collect()
    }

    fn node() -> FirewallConfig {
        FirewallConfig {
            enabled: true,
            guard: true,
            own_addresses: addresses("192.0.2.1 2001:db8::1"),
            node_addresses: addresses("192.0.2.2 192.0.2.3 2001:db8::2"),
            own_pod_cidrs: nets("10.244.1.0/24 fd44:1::/64"),
            pods: nets("10.244.0.0/16 10.244.1.0/24 fd44::/32"),
            repair: true,
            ..FirewallConfig::default()
        }
    }

    fn text(config: &FirewallConfig) -> String {
        table(config, &Part::ALL).map(|table| table.to_string()).unwrap_or_default()
    }

    #[test]
    fn nothing_wanted_is_no_table() {
        assert_eq!(table(&node(), &Part::ALL), None);
        let nat = FirewallConfig { nat: nets("10.244.0.0/16"), ..node() };
        assert_eq!(table(&nat, &[Part::Guard, Part::Services]), None);
        let tunnels = Tunnels { ipip: true, vxlan: None };
        assert_eq!(table(&FirewallConfig { guard: false, tunnels, ..node() }, &Part::ALL), None);
    }

    #[test]
    fn the_guard_knows_nodes_pods_and_networks() {
        let tunnels = Tunnels { ipip: true, vxlan: Some((4789, 4096)) };
        let shown = text(&FirewallConfig { tunnels, ..node() });
        let expected = "\
set own4 { 192.0.2.1 }
set nodes4 { 192.0.2.2, 192.0.2.3 }
set pods4 { 10.244.1.0/24 }
set own6 { 2001:db8::1 }
set nodes6 { 2001:db8::2 }
set pods6 { fd44:1::/64 }
chain input type filter hook 1 priority -10
  meta nfproto ipv4 ip daddr @own4 ip saddr != @nodes4 meta l4proto 4 counter drop
  meta nfproto ipv4 ip daddr @own4 ip saddr != @nodes4 meta l4proto 17 th dport 4789 @th,96,24 4096 counter drop
  meta nfproto ipv6 ip6 daddr @own6 ip6 saddr != @nodes6 meta l4proto 17 th dport 4789 @th,96,24 4096 counter drop
chain forward type filter hook 2 priority -10
  meta nfproto ipv4 ip saddr @pods4 meta l4proto 4 counter drop
  meta nfproto ipv4 ip saddr @own4 meta l4proto 4 counter drop
  meta nfproto ipv4 ip saddr @pods4 meta l4proto 17 th dport 4789 @th,96,24 4096 counter drop
  meta nfproto ipv4 ip saddr @own4 meta l4proto 17 th dport 4789 @th,96,24 4096 counter drop
  meta nfproto ipv6 ip6 saddr @pods6 meta l4proto 17 th dport 4789 @th,96,24 4096 counter drop
  meta nfproto ipv6 ip6 saddr @own6 meta l4proto 17 th dport 4789 @th,96,24 4096 counter drop
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn nat_is_for_what_leaves_every_pool() {
        let nat = nets("10.244.0.0/16");
        let pods = nets("10.244.0.0/16 10.245.0.0/16 10.244.1.0/24 fd44::/32");
        let shown = text(&FirewallConfig { nat, pods, ..node() });
        // Neighbouring and nested prefixes are one interval.
        let expected = "\
set nat4 { 10.244.0.0/16 }
set inside4 { 10.244.0.0/15 }
chain postrouting type nat hook 4 priority 110
  meta nfproto ipv4 ip saddr @nat4 ip daddr != @inside4 counter masquerade fully-random
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn claimed_service_addresses_pass() {
        let claim = |address: &str, port| Claim { address: address.parse().unwrap(), port };
        let mut services = Services {
            ranges: nets("203.0.113.0/24"),
            claimed: [claim("203.0.113.1", None), claim("203.0.113.2", Some((6, 80)))].into(),
        };
        let expected = "\
set services4 { 203.0.113.0/24 }
set claims4 { 203.0.113.1 }
set claim-ports4 { 203.0.113.2 . 6 . 80 }
chain forward type filter hook 2 priority -10
  meta nfproto ipv4 ip daddr @services4 ip daddr != @claims4 ip daddr . meta l4proto . th dport @claim-ports4 return
  meta nfproto ipv4 ip daddr @services4 ip daddr != @claims4 counter drop
";
        assert_eq!(text(&FirewallConfig { services: services.clone(), ..node() }), expected);
        services.claimed.clear();
        let shown = text(&FirewallConfig { services, ..node() });
        assert!(shown.ends_with("ip daddr @services4 counter drop\n"), "{shown}");
    }
}
