//! What the API server has said, and what of it counts.
//!
//! In flow: updates of the watches. Out flow: the objects that a configuration is made of, whether an
//! update changed them, and the troubles, in words. No task and no disk: [`super::source`] has those.
//!
//! What always holds: a kind that suddenly lists empty, or half of the Nodes gone at once, is believed
//! after a while only; a list of the Nodes that lacks ours never is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::objects::{Custom, Key, Kind, Objects};
use super::secrets::Secrets;
use super::service_watch::ServiceWatch;
use super::state::WatchErrors;
use super::watch::{Change, Update, is_list, values};

/// A trouble that did not happen again for so long is over: back-off waits 30 s at most, and a
/// connection takes as long to fail.
const TROUBLE: Duration = Duration::from_secs(90);

/// See the module.
pub(super) struct Store {
    /// Name of the own Node.
    node: String,
    /// How long a sudden emptiness must last to be believed.
    doubt: Duration,
    pub(super) objects: Objects,
    pub(super) secrets: Secrets,
    pub(super) services: ServiceWatch,
    /// Kinds that have been listed completely.
    listed: BTreeSet<Kind>,
    /// Lists that are hard to believe, and when they are believed.
    doubted: BTreeMap<Kind, (Instant, Update)>,
    troubles: BTreeMap<String, (Instant, String)>,
    errors: Arc<WatchErrors>,
    /// Secrets about which the API server has said anything.
    answered: BTreeSet<String>,
}

impl Store {
    /// An empty one, as the agent of `node` sees it. `doubt`: how long a sudden emptiness must last to
    /// be believed.
    pub(super) fn new(node: String, doubt: Duration, errors: Arc<WatchErrors>) -> Self {
        Self {
            node,
            doubt,
            objects: Objects::default(),
            secrets: Secrets::default(),
            services: ServiceWatch::default(),
            listed: BTreeSet::new(),
            doubted: BTreeMap::new(),
            troubles: BTreeMap::new(),
            errors,
            answered: BTreeSet::new(),
        }
    }

    /// Nobody asks for Services and EndpointSlices any more: their watches end.
    pub(super) fn forget_services(&mut self) {
        self.services = ServiceWatch::default();
        self.listed.retain(|kind| Kind::ALL.contains(kind));
        self.doubted.retain(|kind, _| Kind::ALL.contains(kind));
        self.objects.services = None;
    }

    /// Whether every kind that a configuration is made of has been listed completely.
    pub(super) fn is_complete(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    /// Takes an update in; whether anything has changed.
    pub(super) fn take(&mut self, update: Update) -> bool {
        if let Some(kind) = is_list(&update) {
            let relieved = self.troubles.remove(kind.resource()).is_some();
            if self.is_doubtful(&update) {
                let until = Instant::now() + self.doubt;
                tracing::warn!(
                    %kind,
                    "the API server lists far fewer objects than before; believed in {} s if it stays so",
                    self.doubt.as_secs()
                );
                let lacks_us = self.lacks_us(&update);
                self.doubted.insert(kind, (until, update));
                return lacks_us && self.say_that_we_are_not_listed() || relieved;
            }
            self.doubted.remove(&kind);
            if kind == Kind::Node {
                // The server has its memory again: what it forgot of the others comes now, too.
                let until = Instant::now() + self.doubt;
                self.doubted.values_mut().for_each(|(when, _)| *when = until);
            }
            return self.listed.insert(kind) | self.change(update) | relieved;
        }
        // What is told after a list that is not believed yet is about that list.
        if let Some(kind) = update.kind()
            && let Some((until, list)) = self.doubted.remove(&kind)
        {
            let list = list.followed_by(update);
            if self.is_doubtful(&list) {
                self.doubted.insert(kind, (until, list));
                return false;
            }
            return self.change(list);
        }
        self.change(update)
    }

    /// An API server that came back without its data says that everything is gone.
    fn is_doubtful(&self, update: &Update) -> bool {
        match update {
            Update::Nodes(Change::All(nodes)) => {
                let before = self.objects.nodes.len();
                before >= 4 && nodes.len() * 2 < before || self.lacks_us(update)
            }
            Update::Custom(kind, Change::All(list)) => {
                list.is_empty() && self.objects.of(*kind).next().is_some()
            }
            Update::Services(Change::All(list)) => {
                list.is_empty() && !self.services.services.is_empty()
            }
            Update::Slices(Change::All(list)) => {
                list.is_empty() && !self.services.slices.is_empty()
            }
            _ => false,
        }
    }

    /// Whether it is a list of the Nodes without ours, which was there: not one of our cluster.
    fn lacks_us(&self, update: &Update) -> bool {
        let own = &self.node;
        let Update::Nodes(Change::All(nodes)) = update else { return false };
        self.objects.nodes.contains_key(own) && nodes.iter().all(|node| node.name != *own)
    }

    /// Notes it as a trouble; whether that is news.
    fn say_that_we_are_not_listed(&mut self) -> bool {
        let words = format!("the Node {} is not listed; the list is not believed", self.node);
        self.change(Update::Trouble("nodes".to_owned(), words))
    }

    /// Believes what was doubted long enough, unless the server does not even know our own Node.
    pub(super) fn believe(&mut self) {
        let now = Instant::now();
        let nodes = self.doubted.get(&Kind::Node);
        if nodes.is_some_and(|(_, list)| self.lacks_us(list)) {
            let until = now + self.doubt;
            self.doubted.values_mut().for_each(|(when, _)| *when = until);
            self.say_that_we_are_not_listed();
            return;
        }
        let ripe: Vec<Kind> = self
            .doubted
            .iter()
            .filter(|(_, (until, _))| *until <= now)
            .map(|(kind, _)| *kind)
            .collect();
        for kind in ripe {
            if let Some((_, list)) = self.doubted.remove(&kind) {
                self.change(list);
            }
        }
    }

    fn change(&mut self, update: Update) -> bool {
        match update {
            Update::Nodes(Change::All(nodes)) => {
                let nodes =
                    nodes.into_iter().map(|node| (node.name.clone(), Arc::new(node))).collect();
                std::mem::replace(&mut self.objects.nodes, nodes) != self.objects.nodes
            }
            Update::Nodes(Change::One(node)) => {
                let node = Arc::new(node);
                let before = self.objects.nodes.insert(node.name.clone(), node.clone());
                before.as_ref() != Some(&node)
            }
            Update::Nodes(Change::Gone(name)) => self.objects.nodes.remove(&name).is_some(),
            Update::Custom(kind, Change::All(list)) => {
                let mut custom = self.objects.custom.clone();
                custom.retain(|key, _| key.kind != kind);
                custom.extend(list.into_iter().map(|one| (Key::new(kind, &*one.name), one)));
                let differs = custom != self.objects.custom;
                self.objects.custom = custom;
                differs
            }
            Update::Custom(kind, Change::One(one)) => {
                let key = Key::new(kind, &*one.name);
                let before: Option<Custom> = self.objects.custom.insert(key, one.clone());
                before.as_ref() != Some(&one)
            }
            Update::Custom(kind, Change::Gone(name)) => {
                self.objects.custom.remove(&Key::new(kind, name)).is_some()
            }
            // Watches that were ended may have left something behind.
            Update::Services(_) | Update::Slices(_) if self.services.tasks.is_empty() => false,
            Update::Services(change) => self.services.take_services(change),
            Update::Slices(change) => self.services.take_slices(change),
            Update::Secret(name, None) => {
                tracing::warn!(secret = %name, "the Secret is not there; what it had before stays in use");
                self.answered.insert(name)
            }
            Update::Secret(name, secret) => {
                let differs = self.secrets.set(&name, values(secret));
                self.answered.insert(name) || differs
            }
            Update::Trouble(what, words) => {
                self.errors.count(&what);
                if let Some(name) = what.strip_prefix("secrets/") {
                    self.answered.insert(name.to_owned());
                }
                let known = self.troubles.get(&what).is_some_and(|(_, known)| *known == words);
                if !known {
                    tracing::warn!(what, reason = %words, "the API server does not answer as it should");
                }
                self.troubles.insert(what, (Instant::now(), words));
                !known
            }
        }
    }

    /// Forgets troubles that are over; whether there were any.
    pub(super) fn expire(&mut self) -> bool {
        let before = self.troubles.len();
        self.troubles.retain(|_, (when, _)| when.elapsed() < TROUBLE);
        self.troubles.len() != before
    }

    pub(super) fn words_of_troubles(&self) -> BTreeMap<String, String> {
        self.troubles.iter().map(|(what, (_, words))| (what.clone(), words.clone())).collect()
    }

    /// Whether Services and their endpoints have been listed completely.
    pub(super) fn knows_services(&self) -> bool {
        [Kind::Service, Kind::EndpointSlice].iter().all(|kind| self.listed.contains(kind))
    }

    /// Whether there is anything to be had about this Secret: from the API server, or from before.
    pub(super) fn knows_secret(&self, name: &String) -> bool {
        self.answered.contains(name) || self.secrets.has(name)
    }

    /// When the next list that is doubted will be believed.
    pub(super) fn doubted_until(&self) -> Option<Instant> {
        self.doubted.values().map(|(until, _)| *until).min()
    }
}
