//! Filters by name, and the rules of a peer: those of its filters, one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use routelet_bgp::core::policy::PolicyRules;

use super::cluster::check_names;
use crate::config::problem::{Place, Problems, did_you_mean};
use crate::config::spec::{At, FilterSpec};

/// The filters there are.
#[derive(Debug)]
pub(super) struct Filters<'a> {
    by_name: BTreeMap<&'a str, (&'a FilterSpec, bool)>,
    none: Arc<PolicyRules>,
}

impl<'a> Filters<'a> {
    pub(super) fn new(specs: &'a [FilterSpec], problems: &mut Problems) -> Self {
        check_names("filters", specs.iter().map(|filter| &filter.name), problems);
        let by_name =
            specs.iter().map(|filter| (filter.name.value.as_str(), (filter, false))).collect();
        Self { by_name, none: Arc::default() }
    }

    /// No rules at all: the default policy decides.
    pub(super) fn none(&self) -> Arc<PolicyRules> {
        self.none.clone()
    }

    /// The rules of the filters called `names`, in that order.
    pub(super) fn rules(
        &mut self,
        names: &[At<String>],
        path: &str,
        problems: &mut Problems,
    ) -> Arc<PolicyRules> {
        if names.is_empty() {
            return self.none();
        }
        let mut rules = PolicyRules::default();
        for (index, name) in names.iter().enumerate() {
            if names[..index].iter().any(|earlier| earlier.value == name.value) {
                problems.error(name.place, path, format!("`{}` stands here twice", name.value));
                continue;
            }
            let Some((filter, used)) = self.by_name.get_mut(name.value.as_str()) else {
                problems.error(name.place, path, self.unknown(&name.value));
                continue;
            };
            *used = true;
            for family in 0..rules.import.len() {
                rules.import[family].extend(filter.import[family].iter().cloned());
                rules.export[family].extend(filter.export[family].iter().cloned());
            }
        }
        Arc::new(rules)
    }

    fn unknown(&self, name: &str) -> String {
        if self.by_name.is_empty() {
            return format!("no filter is named `{name}`: there are none; add it under `filters`");
        }
        let names: Vec<&str> = self.by_name.keys().copied().collect();
        let hint = did_you_mean(name, names.iter().copied());
        format!("no filter is named `{name}`.{hint} Known: {}", names.join(", "))
    }

    /// Warns of filters that no peer names.
    pub(super) fn warn_unused(&self, problems: &mut Problems) {
        for (name, (filter, used)) in &self.by_name {
            if !used {
                let place: Place = filter.name.place;
                problems.warn(place, format!("filters[{name}]"), "is used by no peer");
            }
        }
    }
}
