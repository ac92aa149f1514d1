//! Filters: rules with their conditions, checked against the family of the list they stand in.

use std::sync::Arc;

use routelet_bgp::core::policy::{Action, MatchOperator, PrefixMatch, Rule};
use routelet_proto::Family;

use super::{Reader, entry, list};
use crate::config::file::{FilterFile, LengthFile, RuleFile};
use crate::config::problem::Place;
use crate::config::scalar::{self, Scalar};
use crate::config::spec::FilterSpec;

impl Reader<'_> {
    pub(super) fn filter(&mut self, file: &FilterFile, index: usize) -> Option<FilterSpec> {
        let path = entry("filters", file.name.as_ref(), index);
        file.check_keys(&path, self.problems);
        let name =
            self.need(file.name.as_ref(), file.place, &format!("{path}.name"), scalar::name)?;
        let filter: Arc<str> = name.value.as_str().into();
        let mut rules = |file: Option<&Vec<RuleFile>>, key: &str, family| {
            self.rules(list(file), &filter, &format!("{path}.{key}"), family)
        };
        Some(FilterSpec {
            import: [
                rules(file.import_v4.as_ref(), "importV4", Family::Ipv4Unicast),
                rules(file.import_v6.as_ref(), "importV6", Family::Ipv6Unicast),
            ],
            export: [
                rules(file.export_v4.as_ref(), "exportV4", Family::Ipv4Unicast),
                rules(file.export_v6.as_ref(), "exportV6", Family::Ipv6Unicast),
            ],
            name,
        })
    }

    fn rules(
        &mut self,
        files: &[RuleFile],
        filter: &Arc<str>,
        path: &str,
        family: Family,
    ) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        let mut last_word: Option<Place> = None;
        for (index, file) in files.iter().enumerate() {
            let path = format!("{path}[{index}]");
            file.check_keys(&path, self.problems);
            let action =
                self.need(file.action.as_ref(), file.place, &format!("{path}.action"), |text| {
                    scalar::choice(text, &[("Accept", Action::Accept), ("Reject", Action::Reject)])
                });
            let Ok(prefix) = self.prefix_match(file, &path, family) else { continue };
            if let Some(place) = last_word {
                self.problems.warn(
                    file.place,
                    path,
                    format!(
                        "is never reached: a rule before it{} matches everything",
                        place.hint()
                    ),
                );
            } else if prefix.is_none() {
                last_word = Some(file.place);
            }
            if let Some(action) = action {
                rules.push(Rule { filter: filter.clone(), index, action: action.value, prefix });
            }
        }
        rules
    }

    /// The condition of a rule; `None` for none, an error where it was noted that it is impossible.
    fn prefix_match(
        &mut self,
        file: &RuleFile,
        path: &str,
        family: Family,
    ) -> Result<Option<PrefixMatch>, ()> {
        let key = |key: &str| format!("{path}.{key}");
        let net = self.get(file.cidr.as_ref(), &key("cidr"), |text| cidr(text, family));
        let operator =
            self.get(file.match_operator.as_ref(), &key("matchOperator"), match_operator);
        let range = file.prefix_length.as_ref();
        match (file.cidr.as_ref(), file.match_operator.as_ref()) {
            (None, None) => {
                if let Some(range) = range {
                    self.problems.error(
                        range.place,
                        key("prefixLength"),
                        "needs `cidr` and `matchOperator: In`; for every prefix of the family write \
                         cidr 0.0.0.0/0 or ::/0",
                    );
                    return Err(());
                }
                return Ok(None);
            }
            (Some(cidr), None) => {
                self.problems.error(
                    cidr.place,
                    key("matchOperator"),
                    "is missing beside `cidr`: Equal, NotEqual, In or NotIn",
                );
                return Err(());
            }
            (None, Some(operator)) => {
                self.problems.error(
                    operator.place,
                    key("cidr"),
                    "is missing beside `matchOperator`",
                );
                return Err(());
            }
            (Some(_), Some(_)) => {}
        }
        let (net, operator) = (net.ok_or(())?.value, operator.ok_or(())?.value);
        let length = match range {
            None => None,
            Some(range) if matches!(operator, MatchOperator::Equal | MatchOperator::NotEqual) => {
                self.problems.error(
                    range.place,
                    key("prefixLength"),
                    "goes with `matchOperator: In` or `NotIn` only: Equal and NotEqual compare the \
                     length already",
                );
                return Err(());
            }
            Some(range) => Some(self.length(
                range,
                &key("prefixLength"),
                net.prefix_len(),
                net.max_prefix_len(),
            )?),
        };
        Ok(Some(PrefixMatch { net, operator, length }))
    }

    /// `prefixLength`: from the length of the prefix to that of an address, unless narrowed.
    fn length(
        &mut self,
        file: &LengthFile,
        path: &str,
        shortest: u8,
        longest: u8,
    ) -> Result<(u8, u8), ()> {
        file.check_keys(path, self.problems);
        let bound = |text: &str| scalar::number(text, 0, longest);
        let min = self.get(file.min.as_ref(), &format!("{path}.min"), bound);
        let max = self.get(file.max.as_ref(), &format!("{path}.max"), bound);
        let (least, most) =
            (min.map_or(shortest, |at| at.value), max.map_or(longest, |at| at.value));
        if least > most {
            self.problems.error(
                max.or(min).map_or(file.place, |at| at.place),
                path,
                format!(
                    "nothing is at least /{least} and at most /{most}; min must not exceed max"
                ),
            );
            return Err(());
        }
        if most < shortest {
            self.problems.error(
                max.map_or(file.place, |at| at.place),
                path,
                format!("no prefix inside a /{shortest} is as short as /{most}"),
            );
            return Err(());
        }
        Ok((least, most))
    }
}

fn match_operator(text: &str) -> Scalar<MatchOperator> {
    let words = [
        ("Equal", MatchOperator::Equal),
        ("NotEqual", MatchOperator::NotEqual),
        ("In", MatchOperator::In),
        ("NotIn", MatchOperator::NotIn),
    ];
    scalar::choice(text, &words)
}

fn cidr(text: &str, family: Family) -> Scalar<ipnet::IpNet> {
    let net = scalar::cidr(text)?;
    match (net, family) {
        (ipnet::IpNet::V4(_), Family::Ipv4Unicast) | (ipnet::IpNet::V6(_), Family::Ipv6Unicast) => {
            Ok(net)
        }
        (_, Family::Ipv4Unicast) => Err(format!(
            "`{text}` is IPv6, the list is for IPv4: the rule belongs into importV6 or exportV6"
        )),
        (_, Family::Ipv6Unicast) => Err(format!(
            "`{text}` is IPv4, the list is for IPv6: the rule belongs into importV4 or exportV4"
        )),
    }
}
