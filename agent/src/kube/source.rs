//! The source of configurations in a cluster: watches in, [`State`]s out.
//!
//! In flow: updates of the watches, the last good objects on disk, addresses of this host. Out flow: a
//! [`State`] in a `watch` channel, the latest wins: the configuration that should run, where it came
//! from, and everything that hinders a newer one.
//!
//! ```text
//!  disk ─(the API server does not answer in time)─┐
//!  watches ─► Store ──(quiet for a moment)─► translate ─► State ─► daemon, status
//!                                                 └─► disk
//! ```
//!
//! What always holds: until every kind has been listed completely, nothing of what the API server says
//! counts; what it does not say any more counts only if it says so, and not at once if that is hard to
//! believe ([`super::store`]); a configuration that cannot be made leaves the one that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::address::{Host, HostAddress};
use super::disk::{self, Saved};
use super::objects::{Custom, Key, Kind, Objects};
use super::secrets::Secrets;
use super::service_watch::{OwnTask, advertises_services};
use super::services::addresses;
use super::state::{Observed, Origin, State};
use super::store::Store;
use super::translate::{Translation, Translator};
use super::watch::{Pace, Update, kind, secret, services, slices};
use crate::config::ConfigError;
use crate::config::file::ConfigFile;
use crate::config::parts::read_base;

/// Where the last good objects are kept by default.
pub const STATE_DIR: &str = "/var/lib/routelet";
/// Updates that may wait; a watch that brings more waits itself.
const UPDATES: usize = 256;

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
    store: Store,
    /// Tasks that watch a Secret.
    secret_tasks: BTreeMap<String, AbortHandle>,
    /// Until when the first configuration waits for Secrets.
    awaited: Option<Instant>,
    /// Whether what the API server says was published once.
    live: bool,
    tasks: JoinSet<()>,
    updates: mpsc::Sender<Update>,
    received: mpsc::Receiver<Update>,
    addresses: Vec<HostAddress>,
    saved: Option<(Objects, Secrets)>,
    written: Option<String>,
}

impl Source {
    fn new(options: Options, translator: Translator, state: watch::Sender<State>) -> Self {
        let (updates, received) = mpsc::channel(UPDATES);
        let errors = state.borrow().errors.clone();
        Self {
            addresses: options.host.addresses(),
            store: Store::new(options.node.clone(), options.timing.doubt, errors),
            options,
            translator: Some(translator),
            state,
            secret_tasks: BTreeMap::new(),
            awaited: None,
            live: false,
            tasks: JoinSet::new(),
            updates,
            received,
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
            let doubt = self.store.doubted_until();
            tokio::select! {
                Some(update) = self.received.recv() => {
                    if self.store.take(update) {
                        due.get_or_insert(Instant::now() + timing.quiet);
                    }
                }
                () = at(due) => {
                    due = None;
                    if self.store.is_complete() {
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
                    self.store.believe();
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
                    if addresses != self.addresses || self.store.expire() {
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
                self.store.secrets = saved.secrets.clone();
                self.written = Some(saved.written);
                self.store.objects.services.clone_from(&saved.objects.services);
                self.saved = Some((saved.objects, saved.secrets));
                true
            }
            Err(words) => {
                tracing::warn!(reason = %words, "the last good configuration cannot be used");
                false
            }
        }
    }

    /// Watches Services and EndpointSlices exactly where the BGPConfiguration asks for them, and brings
    /// their addresses up to date. Until when a configuration waits for the first of them; after that
    /// it is made with those from the disk, or with none.
    fn wait_for_services(&mut self) -> Option<Instant> {
        if !advertises_services(&self.store.objects) {
            self.store.forget_services();
            return None;
        }
        if self.store.services.tasks.is_empty() {
            let Options { client, node, timing, .. } = &self.options;
            let (services, endpoints) = (
                services(client.clone(), timing.pace, self.updates.clone()),
                slices(client.clone(), node.clone(), timing.pace, self.updates.clone()),
            );
            self.store.services.tasks =
                vec![OwnTask(self.tasks.spawn(services)), OwnTask(self.tasks.spawn(endpoints))];
            self.store.services.patience = Some(Instant::now() + timing.patience);
        }
        let services = &self.store.services;
        if self.store.knows_services() {
            let addresses = addresses(services.services.values(), services.slices.values());
            self.store.objects.services = Some(addresses);
            return None;
        }
        self.store.services.patience.filter(|until| *until > Instant::now())
    }

    async fn translate_live(&mut self) {
        let Some(translation) =
            self.translate(self.store.objects.clone(), self.store.secrets.clone()).await
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
        let troubles = self.store.words_of_troubles();
        let node = self.store.objects.nodes.get(&self.options.node).cloned();
        let nodes = Arc::new(self.store.objects.nodes.keys().cloned().collect());
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
        self.store.objects.custom.iter().map(of).collect()
    }

    /// Tells what hinders a first configuration, and which Node a report about that belongs to.
    fn publish_troubles(&self) {
        let troubles = self.store.words_of_troubles();
        let node = self.store.objects.nodes.get(&self.options.node);
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
        if self.live || names.iter().all(|name| self.store.knows_secret(name)) {
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
        self.store.secrets.retain(|name| names.contains(name));
        // Tasks that were aborted are not kept.
        while self.tasks.try_join_next().is_some() {}
    }

    /// Keeps what the configuration was made of, if it has changed.
    async fn save(&mut self) {
        let Some(translator) = &self.translator else { return };
        let now = (translator.accepted().clone(), self.store.secrets.clone());
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

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
