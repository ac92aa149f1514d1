//! Watches: the API server's objects as a stream of small changes.
//!
//! ```text
//!  one task a kind:  list (pages) ─► InitDone ─► watch ─► … ─► [410: list again]
//!                         └── gathered, sent whole ──┘  one by one         │
//!                                                        ▼                 ▼
//!                                     bounded channel ─► `source.rs` keeps Objects
//! ```
//!
//! In flow: an [`Api`]. Out flow: [`Update`]s. A list replaces everything of its kind at once, when it
//! is complete; a watch that breaks goes on from where it was; 410 Gone means a new list; errors wait
//! longer each time. What always holds: nothing that the API server fails to say changes anything.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::crd;
use super::objects::{Custom, Kind, Node, NodeObject, SecretObject};
use super::services::{Service, ServiceObject, Slice, SliceObject};

/// What the API server says.
#[derive(Clone, Debug)]
pub(super) enum Update {
    /// About Nodes.
    Nodes(Change<Node>),
    /// About a kind of custom resource.
    Custom(Kind, Change<Custom>),
    /// About Services.
    Services(Change<Service>),
    /// About EndpointSlices.
    Slices(Change<Slice>),
    /// The Secret of this name has these values; `None` when it is not there.
    Secret(String, Option<SecretObject>),
    /// This source failed, in words.
    Trouble(String, String),
}

impl Update {
    /// This list after the change that `next` tells.
    pub(super) fn followed_by(self, next: Self) -> Self {
        fn change<T>(list: Vec<T>, next: Change<T>, name: impl Fn(&T) -> &str) -> Change<T> {
            let mut list = list;
            match next {
                Change::All(all) => return Change::All(all),
                Change::One(one) => {
                    list.retain(|other| name(other) != name(&one));
                    list.push(one);
                }
                Change::Gone(gone) => list.retain(|other| name(other) != gone),
            }
            Change::All(list)
        }
        match (self, next) {
            (Self::Nodes(Change::All(list)), Self::Nodes(next)) => {
                Self::Nodes(change(list, next, |node| &node.name))
            }
            (Self::Custom(kind, Change::All(list)), Self::Custom(_, next)) => {
                Self::Custom(kind, change(list, next, |custom| &custom.name))
            }
            (Self::Services(Change::All(list)), Self::Services(next)) => {
                Self::Services(change(list, next, |service| &service.key))
            }
            (Self::Slices(Change::All(list)), Self::Slices(next)) => {
                Self::Slices(change(list, next, |slice| &slice.key))
            }
            (_, next) => next,
        }
    }

    /// The kind that it is about; none for Secrets and troubles.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Nodes(_) => Some(Kind::Node),
            Self::Custom(kind, _) => Some(*kind),
            Self::Services(_) => Some(Kind::Service),
            Self::Slices(_) => Some(Kind::EndpointSlice),
            Self::Secret(..) | Self::Trouble(..) => None,
        }
    }
}

/// A change of the objects of a kind.
#[derive(Clone, Debug)]
pub(super) enum Change<T> {
    /// These are all.
    All(Vec<T>),
    /// This one is new or has changed.
    One(T),
    /// The one of this name, `namespace/name` where it is in a namespace, is gone.
    Gone(String),
}

impl<T> Change<T> {
    fn map<U>(self, into: impl Fn(T) -> U) -> Change<U> {
        match self {
            Self::All(list) => Change::All(list.into_iter().map(into).collect()),
            Self::One(one) => Change::One(into(one)),
            Self::Gone(name) => Change::Gone(name),
        }
    }
}

/// How the API server is asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a watch is kept open: a connection that died without a word is noticed after this and
    /// 5 s more.
    pub watch: Duration,
    /// How long a list may take between two pages.
    pub list: Duration,
    /// Objects a page.
    pub page: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { watch: Duration::from_secs(290), list: Duration::from_secs(60), page: 500 }
    }
}

impl Pace {
    fn config(self) -> watcher::Config {
        // Answers from the API server's cache are cheap for it; watches correct what is old in them.
        watcher::Config::default()
            .any_semantic()
            .page_size(self.page)
            .timeout(u32::try_from(self.watch.as_secs()).unwrap_or(290).max(1))
    }
}

/// Watches the objects of `kind` for ever.
pub(super) async fn kind(client: Client, kind: Kind, pace: Pace, updates: mpsc::Sender<Update>) {
    match kind {
        Kind::Node => {
            let api: Api<NodeObject> = Api::all(client);
            run(api, "nodes", pace.config(), pace, updates, Update::Nodes).await;
        }
        _ => {
            let resource = resource(kind);
            let api: Api<DynamicObject> = Api::all_with(client, &resource);
            let wrap = move |change| Update::Custom(kind, change);
            run(api, &resource.plural, pace.config(), pace, updates, wrap).await;
        }
    }
}

/// Watches the Services of every namespace for ever.
pub(super) async fn services(client: Client, pace: Pace, updates: mpsc::Sender<Update>) {
    let api: Api<ServiceObject> = Api::all(client);
    run(api, "services", pace.config(), pace, updates, Update::Services).await;
}

/// Watches the EndpointSlices of every namespace for ever, as `node` sees them.
pub(super) async fn slices(
    client: Client,
    node: String,
    pace: Pace,
    updates: mpsc::Sender<Update>,
) {
    let api: Api<SliceObject> = Api::all(client);
    let wrap = move |change: Change<SliceObject>| {
        Update::Slices(change.map(|object| Slice::new(object, &node)))
    };
    run(api, "endpointslices", pace.config(), pace, updates, wrap).await;
}

/// Watches the Secret `name` of the agents' own namespace for ever.
pub(super) async fn secret(
    client: Client,
    namespace: String,
    name: String,
    pace: Pace,
    updates: mpsc::Sender<Update>,
) {
    let api: Api<SecretObject> = Api::namespaced(client, &namespace);
    let config = pace.config().fields(&format!("metadata.name={name}"));
    let what = format!("secrets/{name}");
    let wrap = move |change: Change<SecretObject>| {
        let secret = match change {
            Change::All(list) => list.into_iter().next(),
            Change::One(secret) => Some(secret),
            Change::Gone(_) => None,
        };
        Update::Secret(name.clone(), secret)
    };
    run(api, &what, config, pace, updates, wrap).await;
}

/// How the API server calls a kind of ours.
pub(super) fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::Node => ApiResource::erase::<NodeObject>(&()),
        Kind::BGPConfiguration => ApiResource::erase::<crd::BGPConfiguration>(&()),
        Kind::BGPPeer => ApiResource::erase::<crd::BGPPeer>(&()),
        Kind::BGPFilter => ApiResource::erase::<crd::BGPFilter>(&()),
        Kind::IPPool => ApiResource::erase::<crd::IPPool>(&()),
        Kind::Service => ApiResource::erase::<ServiceObject>(&()),
        Kind::EndpointSlice => ApiResource::erase::<SliceObject>(&()),
    }
}

async fn run<K, T>(
    api: Api<K>,
    what: &str,
    config: watcher::Config,
    pace: Pace,
    updates: mpsc::Sender<Update>,
    wrap: impl Fn(Change<T>) -> Update,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: From<K>,
{
    loop {
        let mut stream = pin!(watcher(api.clone(), config.clone()).default_backoff());
        // Gathered while a list is under way.
        let mut list: Option<Vec<T>> = None;
        loop {
            let event = match &list {
                // A list must come to an end; a watch may be silent, and is limited by its own time.
                Some(_) => match timeout(pace.list, stream.next()).await {
                    Ok(event) => event,
                    Err(_) => {
                        let words = format!("no answer within {} s", pace.list.as_secs());
                        if updates.send(Update::Trouble(what.to_owned(), words)).await.is_err() {
                            return;
                        }
                        break;
                    }
                },
                None => stream.next().await,
            };
            let update = match event {
                Some(Ok(watcher::Event::Init)) => {
                    list = Some(Vec::new());
                    continue;
                }
                Some(Ok(watcher::Event::InitApply(object))) => {
                    list.get_or_insert_default().push(object.into());
                    continue;
                }
                Some(Ok(watcher::Event::InitDone)) => {
                    wrap(Change::All(list.take().unwrap_or_default()))
                }
                Some(Ok(watcher::Event::Apply(object))) => wrap(Change::One(object.into())),
                Some(Ok(watcher::Event::Delete(object))) => wrap(Change::Gone(name_of(&object))),
                Some(Err(error)) => {
                    // What was gathered of a list that broke off is not all there is.
                    list = None;
                    let gone = is_gone(&error);
                    let update = Update::Trouble(what.to_owned(), words(&error));
                    if updates.send(update).await.is_err() {
                        return;
                    }
                    // The watcher lists again after 410 in a watch, not after 410 at its start.
                    if gone {
                        break;
                    }
                    continue;
                }
                None => break,
            };
            if updates.send(update).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// `name`, or `namespace/name`.
fn name_of(object: &impl Resource) -> String {
    match &object.meta().namespace {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

/// Before a watcher that gave up is started anew; its own back-off begins again then.
const AGAIN: Duration = Duration::from_secs(1);

fn is_gone(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410
    )
}

/// The error as an operator must read it.
fn words(error: &watcher::Error) -> String {
    let status = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => status,
            other => return chain(other),
        },
        watcher::Error::WatchError(status) => status,
        watcher::Error::NoResourceVersion => {
            return "the API server's answer has no resource version".to_owned();
        }
    };
    match status.code {
        401 => {
            "the API server does not know us: is the service account's token mounted?".to_owned()
        }
        403 => format!("not allowed: {}; apply deploy/rbac.yaml", status.message),
        404 => "the API server does not have this resource; apply deploy/crds.yaml".to_owned(),
        410 => "410 Gone: what was seen last is too old; listing again".to_owned(),
        // Too much to do, or a definition that was applied a moment ago: the server says which.
        429 => format!("429: the API server asks us to come again later: {}", status.message),
        code => format!("{code} {}: {}", status.reason, status.message),
    }
}

/// An error with what caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !words.contains(&next) {
            words = format!("{words}: {next}");
        }
        cause = error.source();
    }
    words
}

/// The values of a Secret that is there, none of one that is not.
pub(super) fn values(secret: Option<SecretObject>) -> BTreeMap<String, Vec<u8>> {
    secret.map(SecretObject::into_values).unwrap_or_default()
}

/// Whether an update can only come of a complete list.
pub(super) fn is_list(update: &Update) -> Option<Kind> {
    match update {
        Update::Nodes(Change::All(_)) => Some(Kind::Node),
        Update::Custom(kind, Change::All(_)) => Some(*kind),
        Update::Services(Change::All(_)) => Some(Kind::Service),
        Update::Slices(Change::All(_)) => Some(Kind::EndpointSlice),
        _ => None,
    }
}
