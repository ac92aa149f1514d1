//! What should run, and what hinders something newer.
//!
//! In flow: what [`super::source`] makes of the objects. Out flow: [`State`], for the daemon, which applies
//! it, and for [`super::status`], which reports it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::address::Choice;
use super::crd::Condition;
use super::objects::{Key, Kind, Node};
use super::translate::Refused;
use crate::config::Config;

/// Where a configuration came from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Origin {
    /// There is none yet.
    #[default]
    None,
    /// From the disk, written then.
    LastGood(String),
    /// From the API server.
    Live,
}

/// What should run, and what hinders something newer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The configuration; `None` as long as there never was one.
    pub config: Option<Arc<Config>>,
    /// Counts the configurations that differed.
    pub generation: u64,
    /// Where it came from.
    pub origin: Origin,
    /// Objects that are not part of it as they are written.
    pub refused: Arc<BTreeMap<Key, Refused>>,
    /// Why the objects as they are now give no configuration at all.
    pub failure: Vec<String>,
    /// The own addresses and why they are these.
    pub choice: Choice,
    /// The own Node.
    pub node: Option<Arc<Node>>,
    /// What the custom resources say of themselves, and which nodes they are for.
    pub custom: Arc<BTreeMap<Key, Observed>>,
    /// Names of all nodes.
    pub nodes: Arc<BTreeSet<String>>,
    /// What the API server fails to tell, by source.
    pub troubles: BTreeMap<String, String>,
    /// How often it failed.
    pub errors: Arc<WatchErrors>,
}

/// Lists and watches that failed since the start. Any two are equal: a state does not change by them.
#[derive(Debug, Default)]
pub struct WatchErrors(Mutex<BTreeMap<String, u64>>);

impl WatchErrors {
    /// By resource; those that never failed are there with 0.
    #[must_use]
    pub fn counts(&self) -> Vec<(String, u64)> {
        let mut counts: BTreeMap<String, u64> =
            Kind::ALL.into_iter().map(|kind| (kind.resource().to_owned(), 0)).collect();
        counts.extend(self.lock().iter().map(|(resource, count)| (resource.clone(), *count)));
        counts.into_iter().collect()
    }

    /// Counts one of a source such as `nodes` or `secrets/NAME`.
    pub(super) fn count(&self, source: &str) {
        let resource = source.split('/').next().unwrap_or(source);
        *self.lock().entry(resource.to_owned()).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().expect("invariant: no holder panics")
    }
}

impl PartialEq for WatchErrors {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl State {
    /// What a configuration from the API server waits for, in words; nothing when it is there.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        let mut pending = Vec::new();
        match &self.origin {
            Origin::Live => {}
            Origin::LastGood(written) => {
                pending
                    .push(format!("the API server: running with the configuration of {written}"));
            }
            Origin::None => pending.push("the first configuration".to_owned()),
        }
        pending.extend(self.failure.iter().cloned());
        pending.extend(self.troubles.iter().map(|(what, words)| format!("{what}: {words}")));
        pending
    }
}

/// A custom resource as the agents see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Tells it from an earlier one with its name.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The condition that it has.
    pub accepted: Option<Condition>,
    /// Names of the nodes that it is for.
    pub nodes: BTreeSet<String>,
}
