//! The source of configurations in a cluster: watches in, [`State`]s out.
//!
//! In flow: updates of the watches, the last good objects on disk, addresses of this host. Out flow: a
//! [`State`] in a `watch` channel, the latest wins: the configuration that should run, where it came
//! from, and everything that hinders a newer one.
//!
//! ```text
//!  disk ─(the API server does not answer in time)─┐
//!  watches ─► Objects ─(quiet for a moment)─► translate ─► State ─► daemon, status
//!                                                 └─► disk
//! ```
//!
//! What always holds: until every kind has been listed completely, nothing of what the API server says
//! counts; what it does not say any more counts only if it says so (a kind that suddenly lists empty,
//! or half of the Nodes gone at once, is believed after a while only, and nothing that lacks our own
//! Node ever is); a configuration that cannot be made leaves the one that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::address::{Choice, Host, HostAddress};
use super::crd::Condition;
use super::disk::{self, Saved};
use super::objects::{Custom, Key, Kind, Node, Objects};
use super::secrets::Secrets;
use super::service_watch::{OwnTask, ServiceWatch, advertises_services};
use super::services::addresses;
use super::translate::{Refused, Translation, Translator};
use super::watch::{Change, Pace, Update, is_list, kind, secret, services, slices, values};
use crate::config::file::ConfigFile;
use crate::config::parts::read_base;
use crate::config::{Config, ConfigError};

/// Where the last good objects are kept by default.
pub const STATE_DIR: &str = "/var/lib/routelet";
/// Updates that may wait; a watch that brings more waits itself.
const UPDATES: usize = 256;
/// A trouble that did not happen again for so long is over: back-off waits 30 s at most, and a
/// connection takes as long to fail.
const TROUBLE: Duration = Duration::from_secs(90);

/// What the source needs to know.
#[derive(Clone)]
pub struct Options {
    /// Talks to the API server.
    pub client: Client,
    /// The node this agent runs on.
    pub node: String,
    /// The agents' namespace, for Secrets.
    pub namespace: String,
    /// Where the last good objects are kept, unless a file says otherwise.
    pub state_dir: PathBuf,
    /// The host's addresses.
    pub host: Arc<dyn Host>,
    /// How fast.
    pub timing: Timing,
}

/// Times of the source, for tests to be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How the API server is asked.
    pub pace: Pace,
    /// How long it must be quiet before a configuration is made.
    pub quiet: Duration,
    /// How long a restarted agent waits for the API server before it takes what is on disk.
    pub patience: Duration,
    /// How long a sudden emptiness must last to be believed.
    pub doubt: Duration,
    /// Between two looks at the host's addresses.
    pub look: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pace: Pace::default(),
            quiet: Duration::from_millis(100),
            patience: Duration::from_secs(3),
            doubt: Duration::from_secs(60),
            look: Duration::from_secs(30),
        }
    }
}

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
    pub node: Option<Node>,
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
            Kind::ALL.into_iter().map(|kind| (resource_name(kind).to_owned(), 0)).collect();
        counts.extend(self.lock().iter().map(|(resource, count)| (resource.clone(), *count)));
        counts.into_iter().collect()
    }

    /// Counts one of a source such as `nodes` or `secrets/NAME`.
    fn count(&self, source: &str) {
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

/// Starts the source; it ends when every receiver is dropped. `base` is a file with what concerns this
/// host only: its name, and its text.
///
/// # Errors
/// What is wrong with that file.
pub fn start(
    mut options: Options,
    base: Option<(&str, &str)>,
) -> Result<watch::Receiver<State>, ConfigError> {
    let base = match base {
        Some((name, text)) => {
            let (base, state_dir) = read_base(name, text)?;
            options.state_dir = state_dir;
            base
        }
        None => ConfigFile::default(),
    };
    let (sender, receiver) = watch::channel(State::default());
    let translator = Translator::new(options.node.clone(), base, options.host.clone());
    tokio::spawn(Source::new(options, translator, sender).run());
    Ok(receiver)
}

struct Source {
    options: Options,
    /// `None` while a configuration is being made.
    translator: Option<Translator>,
    state: watch::Sender<State>,
    objects: Objects,
    secrets: Secrets,
    /// Kinds that have been listed completely.
    listed: BTreeSet<Kind>,
    /// Lists that are hard to believe, and when they are believed.
    doubted: BTreeMap<Kind, (Instant, Update)>,
    troubles: BTreeMap<String, (Instant, String)>,
    /// Tasks that watch a Secret.
    secret_tasks: BTreeMap<String, AbortHandle>,
    /// Secrets about which the API server has said anything.
    answered: BTreeSet<String>,
    /// Until when the first configuration waits for Secrets.
    awaited: Option<Instant>,
    /// Whether what the API server says was published once.
    live: bool,
    tasks: JoinSet<()>,
    updates: mpsc::Sender<Update>,
    received: mpsc::Receiver<Update>,
    addresses: Vec<HostAddress>,
    services: ServiceWatch,
    saved: Option<(Objects, Secrets)>,
    written: Option<String>,
}

impl Source {
    fn new(options: Options, translator: Translator, state: watch::Sender<State>) -> Self {
        let (updates, received) = mpsc::channel(UPDATES);
        Self {
            addresses: options.host.addresses(),
            options,
            translator: Some(translator),
            state,
            objects: Objects::default(),
            secrets: Secrets::default(),
            listed: BTreeSet::new(),
            doubted: BTreeMap::new(),
            troubles: BTreeMap::new(),
            secret_tasks: BTreeMap::new(),
            answered: BTreeSet::new(),
            awaited: None,
            live: false,
            tasks: JoinSet::new(),
            updates,
            received,
            services: ServiceWatch::default(),
            saved: None,
            written: None,
        }
    }

    async fn run(mut self) {
        let timing = self.options.timing;
        let on_disk = self.load();
        for one in Kind::ALL {
            let client = self.options.client.clone();
            self.tasks.spawn(kind(client, one, timing.pace, self.updates.clone()));
        }
        let patience = Instant::now() + timing.patience;
        let mut waits_for_disk = on_disk;
        let mut due: Option<Instant> = None;
        let mut look = interval(timing.look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let state = self.state.clone();
        loop {
            let doubt = self.doubted.values().map(|(until, _)| *until).min();
            tokio::select! {
                Some(update) = self.received.recv() => {
                    if self.take(update) {
                        due.get_or_insert(Instant::now() + timing.quiet);
                    }
                }
                () = at(due) => {
                    due = None;
                    if self.is_complete() {
                        waits_for_disk = false;
                        if let Some(until) = self.wait_for_services() {
                            due = Some(until);
                        } else {
                            self.translate_live().await;
                        }
                    } else {
                        self.publish_troubles();
                    }
                }
                () = at(doubt) => {
                    self.believe();
                    due.get_or_insert(Instant::now() + timing.quiet);
                }
                () = at(self.awaited) => {
                    due.get_or_insert(Instant::now());
                }
                () = at(waits_for_disk.then_some(patience)) => {
                    waits_for_disk = false;
                    self.translate_saved().await;
                }
                _ = look.tick() => {
                    let addresses = self.options.host.addresses();
                    if addresses != self.addresses || self.expire() {
                        self.addresses = addresses;
                        due.get_or_insert(Instant::now() + timing.quiet);
                    }
                }
                () = state.closed() => return,
            }
        }
    }

    /// Whether there is something on disk to start from.
    fn load(&mut self) -> bool {
        match disk::load(&self.options.state_dir, &self.options.node) {
            Ok(None) => false,
            Ok(Some(saved)) => {
                if let Some(translator) = &mut self.translator {
                    translator.resume(saved.objects.clone());
                }
                self.secrets = saved.secrets.clone();
                self.written = Some(saved.written);
                self.objects.services.clone_from(&saved.objects.services);
                self.saved = Some((saved.objects, saved.secrets));
                true
            }
            Err(words) => {
                tracing::warn!(reason = %words, "the last good configuration cannot be used");
                false
            }
        }
    }

    fn is_complete(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    /// Takes an update in; whether anything has changed.
    fn take(&mut self, update: Update) -> bool {
        if let Some(kind) = is_list(&update) {
            let relieved = self.troubles.remove(resource_name(kind)).is_some();
            if self.is_doubtful(&update) {
                let until = Instant::now() + self.options.timing.doubt;
                tracing::warn!(
                    %kind,
                    "the API server lists far fewer objects than before; believed in {} s if it stays so",
                    self.options.timing.doubt.as_secs()
                );
                let lacks_us = self.lacks_us(&update);
                self.doubted.insert(kind, (until, update));
                return lacks_us && self.say_that_we_are_not_listed() || relieved;
            }
            self.doubted.remove(&kind);
            if kind == Kind::Node {
                // The server has its memory again: what it forgot of the others comes now, too.
                let until = Instant::now() + self.options.timing.doubt;
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
        let own = &self.options.node;
        let Update::Nodes(Change::All(nodes)) = update else { return false };
        self.objects.nodes.contains_key(own) && nodes.iter().all(|node| node.name != *own)
    }

    /// Notes it as a trouble; whether that is news.
    fn say_that_we_are_not_listed(&mut self) -> bool {
        let words =
            format!("the Node {} is not listed; the list is not believed", self.options.node);
        self.change(Update::Trouble("nodes".to_owned(), words))
    }

    /// Believes what was doubted long enough, unless the server does not even know our own Node.
    fn believe(&mut self) {
        let now = Instant::now();
        let nodes = self.doubted.get(&Kind::Node);
        if nodes.is_some_and(|(_, list)| self.lacks_us(list)) {
            let until = now + self.options.timing.doubt;
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
                let nodes = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
                std::mem::replace(&mut self.objects.nodes, nodes) != self.objects.nodes
            }
            Update::Nodes(Change::One(node)) => {
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
                self.state.borrow().errors.count(&what);
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
    fn expire(&mut self) -> bool {
        let before = self.troubles.len();
        self.troubles.retain(|_, (when, _)| when.elapsed() < TROUBLE);
        self.troubles.len() != before
    }

    /// Watches Services and EndpointSlices exactly where the BGPConfiguration asks for them, and brings
    /// their addresses up to date. Until when a configuration waits for the first of them; after that
    /// it is made with those from the disk, or with none.
    fn wait_for_services(&mut self) -> Option<Instant> {
        if !advertises_services(&self.objects) {
            self.services = ServiceWatch::default();
            self.listed.retain(|kind| Kind::ALL.contains(kind));
            self.doubted.retain(|kind, _| Kind::ALL.contains(kind));
            self.objects.services = None;
            return None;
        }
        if self.services.tasks.is_empty() {
            let Options { client, node, timing, .. } = &self.options;
            let (services, endpoints) = (
                services(client.clone(), timing.pace, self.updates.clone()),
                slices(client.clone(), node.clone(), timing.pace, self.updates.clone()),
            );
            self.services.tasks =
                vec![OwnTask(self.tasks.spawn(services)), OwnTask(self.tasks.spawn(endpoints))];
            self.services.patience = Some(Instant::now() + timing.patience);
        }
        let known =
            [Kind::Service, Kind::EndpointSlice].iter().all(|kind| self.listed.contains(kind));
        if known {
            let services = &self.services;
            let addresses = addresses(services.services.values(), services.slices.values());
            self.objects.services = Some(addresses);
            return None;
        }
        self.services.patience.filter(|until| *until > Instant::now())
    }

    async fn translate_live(&mut self) {
        let Some(translation) = self.translate(self.objects.clone(), self.secrets.clone()).await
        else {
            return;
        };
        self.watch_secrets(&translation.secrets);
        if self.awaits(&translation.secrets) {
            return;
        }
        self.live = true;
        let good = translation.config.is_ok();
        self.publish(translation, Origin::Live);
        if good {
            self.save().await;
        }
    }

    /// Makes a configuration on a thread that may take its time: with a thousand Nodes and many refused
    /// objects it is longer than a task may hold its own. Updates wait in their channel meanwhile.
    async fn translate(&mut self, objects: Objects, secrets: Secrets) -> Option<Translation> {
        let mut translator = self.translator.take()?;
        let made = tokio::task::spawn_blocking(move || {
            let translation = translator.translate(&objects, &secrets);
            (translator, translation)
        });
        // A panic in there has ended the process already: see `app::failure`.
        let (translator, translation) = made.await.ok()?;
        self.translator = Some(translator);
        Some(translation)
    }

    async fn translate_saved(&mut self) {
        let Some((objects, secrets)) = self.saved.clone() else { return };
        let written = self.written.clone().unwrap_or_default();
        let Some(translation) = self.translate(objects, secrets).await else { return };
        match &translation.config {
            Ok(_) => tracing::warn!(
                %written,
                "the API server does not answer; starting from the last good configuration"
            ),
            Err(reasons) => tracing::error!(
                reason = %reasons.join("; "),
                "the API server does not answer, and the last good configuration cannot be used"
            ),
        }
        self.publish(translation, Origin::LastGood(written));
    }

    fn publish(&mut self, translation: Translation, origin: Origin) {
        let Translation { config, refused, nodes_of, choice, .. } = translation;
        let custom = self.observed(nodes_of);
        let troubles = self.words_of_troubles();
        let node = self.objects.nodes.get(&self.options.node).cloned();
        let nodes = Arc::new(self.objects.nodes.keys().cloned().collect());
        self.state.send_if_modified(|state| {
            let mut new = State {
                refused: Arc::new(refused),
                custom: Arc::new(custom),
                node: node.or_else(|| state.node.clone()),
                nodes,
                troubles,
                ..state.clone()
            };
            match config {
                Ok(config) => {
                    if state.config.as_deref() != Some(&config) {
                        new.generation += 1;
                        new.config = Some(Arc::new(config));
                    }
                    new.origin = origin;
                    new.failure = Vec::new();
                    new.choice = choice;
                }
                Err(reasons) => {
                    if reasons != state.failure {
                        tracing::error!(
                            reason = %reasons.join("; "),
                            "the objects give no configuration; what runs stays"
                        );
                    }
                    new.failure = reasons;
                }
            }
            for (key, refused) in new.refused.iter() {
                if state.refused.get(key) != Some(refused) {
                    tracing::warn!(
                        object = %key,
                        reason = %refused.message,
                        previous_in_use = refused.previous_in_use,
                        "refused"
                    );
                }
            }
            let modified = *state != new;
            *state = new;
            modified
        });
    }

    fn observed(&self, mut nodes_of: BTreeMap<Key, BTreeSet<String>>) -> BTreeMap<Key, Observed> {
        let of = |(key, custom): (&Key, &Custom)| {
            let observed = Observed {
                uid: custom.uid.clone(),
                generation: custom.generation,
                accepted: custom.accepted.clone(),
                nodes: nodes_of.remove(key).unwrap_or_default(),
            };
            (key.clone(), observed)
        };
        self.objects.custom.iter().map(of).collect()
    }

    fn words_of_troubles(&self) -> BTreeMap<String, String> {
        self.troubles.iter().map(|(what, (_, words))| (what.clone(), words.clone())).collect()
    }

    /// Tells what hinders a first configuration, and which Node a report about that belongs to.
    fn publish_troubles(&self) {
        let troubles = self.words_of_troubles();
        let node = self.objects.nodes.get(&self.options.node);
        self.state.send_if_modified(|state| {
            let modified =
                state.troubles != troubles || node.is_some() && state.node.as_ref() != node;
            state.troubles = troubles;
            state.node = node.cloned().or_else(|| state.node.take());
            modified
        });
    }

    /// Whether the first configuration has to wait for Secrets that were only just asked for: without
    /// them their peers would be refused for a moment, and others get their addresses.
    fn awaits(&mut self, names: &BTreeSet<String>) -> bool {
        let missing = |name: &String| !self.answered.contains(name) && !self.secrets.has(name);
        if self.live || !names.iter().any(missing) {
            self.awaited = None;
            return false;
        }
        let until = Instant::now() + self.options.timing.patience;
        Instant::now() < *self.awaited.get_or_insert(until)
    }

    /// Watches exactly the Secrets called `names`.
    fn watch_secrets(&mut self, names: &BTreeSet<String>) {
        self.secret_tasks.retain(|name, task| {
            let keep = names.contains(name);
            if !keep {
                task.abort();
            }
            keep
        });
        for name in names {
            if !self.secret_tasks.contains_key(name) {
                let task = self.tasks.spawn(secret(
                    self.options.client.clone(),
                    self.options.namespace.clone(),
                    name.clone(),
                    self.options.timing.pace,
                    self.updates.clone(),
                ));
                self.secret_tasks.insert(name.clone(), task);
            }
        }
        self.secrets.retain(|name| names.contains(name));
        // Tasks that were aborted are not kept.
        while self.tasks.try_join_next().is_some() {}
    }

    /// Keeps what the configuration was made of, if it has changed.
    async fn save(&mut self) {
        let Some(translator) = &self.translator else { return };
        let now = (translator.accepted().clone(), self.secrets.clone());
        if self.saved.as_ref() == Some(&now) {
            return;
        }
        let saved = Saved::new(&self.options.node, now.0.clone(), now.1.clone());
        let directory = self.options.state_dir.clone();
        match tokio::task::spawn_blocking(move || disk::save(&directory, &saved)).await {
            Ok(Ok(())) => self.saved = Some(now),
            Ok(Err(error)) => tracing::warn!(
                %error,
                directory = %self.options.state_dir.display(),
                "the last good configuration cannot be kept; a restart will need the API server"
            ),
            Err(error) => tracing::warn!(%error, "keeping the last good configuration failed"),
        }
    }
}

/// The name under which a kind's troubles go.
fn resource_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Node => "nodes",
        Kind::BGPConfiguration => "bgpconfigurations",
        Kind::BGPPeer => "bgppeers",
        Kind::BGPFilter => "bgpfilters",
        Kind::IPPool => "ippools",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
