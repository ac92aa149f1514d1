//! Chains of others that drop what is forwarded, and what is done about them: decisions, no IO.
//!
//! In flow: the base chains at forward hooks with their rules, and the configuration. Out flow: per
//! chain a [`Plan`]: rules to add and to remove, words for the status.
//!
//! nf_tables asks every base chain; one that drops cannot be overruled by another that accepts. So a
//! chain that drops by default gets rules of ours *at its end*, before an unconditional drop if it
//! ends in one: they accept pod traffic that no rule of the chain has decided. What the chain drops by
//! an earlier rule stays dropped.
//!
//! What always holds: only rules whose comment begins with [`MARK`] are removed; a chain that does not
//! drop by default gets none.

use ipnet::IpNet;

use super::expression::{Expression, Side, Version};
use super::ruleset::{FirewallConfig, ForwardAccept, prefixes_of};
use super::table::{Place, Rule, TABLE};
use super::wire::{NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6};

/// How the comments of our rules in chains of others begin.
pub(super) const MARK: &str = "routelet: ";

/// A base chain at the forward hook.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct ForeignChain {
    pub family: u8,
    pub table: String,
    pub name: String,
    pub policy_drop: bool,
}

/// A rule in such a chain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct ForeignRule {
    pub table: String,
    pub chain: String,
    pub handle: u64,
    pub comment: Option<String>,
    /// Whatever comes is dropped or rejected.
    pub drops_all: bool,
}

/// What is to happen to a chain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Plan {
    /// Handles of rules of ours that go.
    pub remove: Vec<u64>,
    /// Rules of ours that come, at the end or before this handle.
    pub add: Vec<Rule>,
    pub before: Option<u64>,
    /// The chain drops pod traffic unless our rules are there.
    pub drops: bool,
}

impl ForeignChain {
    /// Not ours, and of a family that sees pod traffic.
    pub(super) fn is_foreign(&self) -> bool {
        let seen = [NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6].contains(&self.family);
        seen && !(self.family == NFPROTO_INET && self.table == TABLE)
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place { family: self.family, table: &self.table, chain: &self.name }
    }

    /// As `nft` names it.
    pub(super) fn words(&self) -> String {
        format!("{} {} {}", self.family_word(), self.table, self.name)
    }

    fn family_word(&self) -> &'static str {
        match self.family {
            NFPROTO_IPV4 => "ip",
            NFPROTO_IPV6 => "ip6",
            _ => "inet",
        }
    }

    /// What is to happen to it, given its rules.
    pub(super) fn plan(&self, rules: &[ForeignRule], config: &FirewallConfig) -> Plan {
        let ours: Vec<&ForeignRule> = rules.iter().filter(|rule| rule.is_ours()).collect();
        let end = rules.iter().rfind(|rule| !rule.is_ours());
        let before = end.filter(|rule| rule.drops_all).map(|rule| rule.handle);
        let wanted = self.accepts(config);
        let drops = (self.policy_drop || before.is_some()) && !wanted.is_empty();
        let wanted =
            if drops && config.forward_accept == ForwardAccept::Auto { wanted } else { Vec::new() };
        // Rules of another's that came behind ours since do no harm, unless they drop everything.
        let in_time = before.is_none_or(|end| {
            let end = rules.iter().position(|rule| rule.handle == end);
            rules.iter().rposition(|rule| rule.is_ours()) < end
        });
        let comments = || wanted.iter().map(|rule| Some(rule.comment.as_str()));
        if in_time && ours.iter().map(|rule| rule.comment.as_deref()).eq(comments()) {
            return Plan { drops, ..Plan::default() };
        }
        let remove = ours.iter().map(|rule| rule.handle).collect();
        Plan { remove, add: wanted, before, drops }
    }

    /// The rules that accept pod traffic in it, two a prefix. Their comments tell them apart. They are
    /// of the kind that `iptables` can list.
    fn accepts(&self, config: &FirewallConfig) -> Vec<Rule> {
        let mut rules = Vec::new();
        for prefix in self.prefixes(config) {
            for (side, word) in [(Side::Source, "from"), (Side::Destination, "to")] {
                let version = Version::of(prefix.addr());
                let family = (self.family == NFPROTO_INET).then_some(Expression::Family(version));
                let rest = [
                    Expression::InPrefix { side, prefix },
                    Expression::Counter,
                    Expression::Accept,
                ];
                rules.push(Rule {
                    expressions: family.into_iter().chain(rest).collect(),
                    comment: format!("{MARK}{word} pods {prefix}"),
                });
            }
        }
        rules
    }

    fn prefixes(&self, config: &FirewallConfig) -> Vec<IpNet> {
        // Every pool and pod CIDR, not the own ones alone: a node port leads to pods elsewhere.
        let of = |version| prefixes_of(version, &config.pods);
        match self.family {
            NFPROTO_IPV4 => of(Version::V4),
            NFPROTO_IPV6 => of(Version::V6),
            _ => [of(Version::V4), of(Version::V6)].concat(),
        }
    }

    /// What is wrong, with the fix, where our rules are not wanted or not possible.
    pub(super) fn problem(&self, config: &FirewallConfig, why: Option<&str>) -> String {
        let prefixes = self.prefixes(config);
        let prefix = prefixes.first().map(ToString::to_string).unwrap_or_default();
        let inner = match prefixes.first() {
            Some(IpNet::V6(_)) => "ip6",
            _ => "ip",
        };
        let chain = self.words();
        let why = match why {
            Some(why) => format!("the rules that accept pods cannot be put there ({why})"),
            None => "kernel.forwardAccept is Never".to_owned(),
        };
        format!(
            "the chain `{chain}` drops what is forwarded, pod traffic too, and {why}: run `nft \
             add rule {chain} {inner} saddr {prefix} accept` and the same with `daddr`, or let \
             whoever owns the chain do so"
        )
    }
}

impl ForeignRule {
    fn is_ours(&self) -> bool {
        self.comment.as_deref().is_some_and(|comment| comment.starts_with(MARK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> FirewallConfig {
        FirewallConfig {
            enabled: true,
            pods: vec!["10.244.0.0/16".parse().unwrap()],
            ..FirewallConfig::default()
        }
    }

    fn chain(family: u8, policy_drop: bool) -> ForeignChain {
        ForeignChain { family, table: "filter".to_owned(), name: "FORWARD".to_owned(), policy_drop }
    }

    fn rule(handle: u64, comment: &str, drops_all: bool) -> ForeignRule {
        let comment = (!comment.is_empty()).then(|| comment.to_owned());
        ForeignRule { handle, comment, drops_all, ..ForeignRule::default() }
    }

    const FROM: &str = "routelet: from pods 10.244.0.0/16";
    const TO: &str = "routelet: to pods 10.244.0.0/16";

    #[test]
    fn a_chain_that_drops_by_default_gets_two_rules_at_its_end() {
        let plan = chain(NFPROTO_IPV4, true).plan(&[rule(1, "", false)], &config());
        let comments: Vec<_> = plan.add.iter().map(|rule| rule.comment.as_str()).collect();
        assert_eq!((comments, plan.before, plan.drops), (vec![FROM, TO], None, true));
        // There already, and others behind them: nothing to do.
        let rules = [rule(2, FROM, false), rule(3, TO, false), rule(4, "", false)];
        let plan = chain(NFPROTO_IPV4, true).plan(&rules, &config());
        assert_eq!(plan, Plan { drops: true, ..Plan::default() });
    }

    #[test]
    fn rules_stand_before_an_unconditional_drop() {
        let rules = [rule(1, "", false), rule(9, "", true)];
        let plan = chain(NFPROTO_INET, false).plan(&rules, &config());
        assert_eq!((plan.add.len(), plan.before), (2, Some(9)));
        let late = [rule(9, "", true), rule(10, FROM, false), rule(11, TO, false)];
        let plan = chain(NFPROTO_INET, false).plan(&late, &config());
        assert_eq!((plan.remove, plan.add.len(), plan.before), (vec![10, 11], 2, Some(9)));
    }

    #[test]
    fn what_is_not_wanted_any_more_goes() {
        let rules = [rule(2, FROM, false), rule(3, TO, false), rule(4, "somebody's", false)];
        let plan = chain(NFPROTO_IPV4, false).plan(&rules, &config());
        assert_eq!((plan.remove, plan.add.len(), plan.drops), (vec![2, 3], 0, false));
        let never = FirewallConfig { forward_accept: ForwardAccept::Never, ..config() };
        let plan = chain(NFPROTO_IPV4, true).plan(&rules, &never);
        assert_eq!((plan.remove, plan.add.len(), plan.drops), (vec![2, 3], 0, true));
        // Nothing of IPv6 is ours here.
        assert_eq!(chain(NFPROTO_IPV6, true).plan(&[], &config()), Plan::default());
    }

    #[test]
    fn the_fix_names_chain_and_prefix() {
        let words = chain(NFPROTO_IPV4, true).problem(&config(), None);
        assert!(words.contains("nft add rule ip filter FORWARD ip saddr 10.244.0.0/16 accept"));
    }
}
