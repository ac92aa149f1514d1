//! A Kubernetes API server in this process: real HTTP on loopback, so that the agent runs unchanged.
//!
//! In flow: objects that a test creates, changes and deletes, and [`Fault`]s; requests of the agent.
//! Out flow: lists in pages, watches from a resource version with bookmarks, 410 Gone after
//! [`FakeApi::compact`], server-side apply of objects and their status, and a record of who asked for
//! what. Everything is in memory; a resource version counts changes. Its answers are those of a real
//! server: tests/tests/cluster_api/answers.rs asks both the same questions.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod answer;
mod patch;

/// Group and version of the agent's own kinds.
const CUSTOM: &str = "routelet.dev/v1alpha1";

/// What goes wrong.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Connections are cut in the middle of every answer.
    Cut,
    /// Every request gets this status.
    Status(u16),
    /// Lists never answer.
    StallLists,
    /// Watches answer and then are silent, changes or not.
    StallWatches,
    /// Watches are refused with 410 as their status, not as an event.
    GoneAtStart,
    /// A list breaks off after its first page: the token is too old (410).
    ExpirePages,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `list`, `watch`, `patch`, `patch status`, `create` or the method.
    pub verb: String,
    /// The resource, for example `nodes`.
    pub resource: String,
    /// Everything after `?`.
    pub query: BTreeMap<String, String>,
    /// What was sent.
    pub body: Value,
}

/// The running server; it ends when the value is dropped.
pub struct FakeApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

/// What the handlers share with the test.
struct Shared {
    store: Mutex<Store>,
    /// Changes with every event, fault and end of connections: watches look again.
    wake: watch::Sender<u64>,
}

#[derive(Default)]
struct Store {
    version: u64,
    uids: u64,
    objects: BTreeMap<Name, Value>,
    log: Vec<Event>,
    /// Watches from before this version are too old.
    compacted: u64,
    /// Watches of an earlier life end.
    life: u64,
    fault: BTreeMap<String, Fault>,
    bookmark: u64,
    requests: Vec<Request>,
    created: Vec<Value>,
    /// Who applied a field last, by object and path.
    owners: BTreeMap<(Name, String), String>,
    /// Lists are read page by page, even those that need not be fresh.
    no_cache: bool,
}

/// Resource, namespace (empty for none) and name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Name {
    resource: String,
    namespace: String,
    name: String,
}

#[derive(Clone, Debug)]
struct Event {
    version: u64,
    kind: &'static str,
    name: Name,
    object: Value,
}

impl FakeApi {
    /// Starts a server without any object.
    pub async fn start() -> Self {
        let shared =
            Arc::new(Shared { store: Mutex::new(Store::default()), wake: watch::Sender::new(0) });
        let mut api = Self { address: (Ipv4Addr::LOCALHOST, 0).into(), shared, server: None };
        api.up().await;
        api
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Listens again, at the same address.
    pub async fn up(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the address is free");
        self.address = listener.local_addr().expect("address");
        let router = Router::new().fallback(answer::answer).with_state(self.shared.clone());
        self.server = Some(tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        }));
    }

    /// Stops listening and ends every watch, as a server that dies.
    pub async fn down(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
        self.fault("", Fault::Cut);
        self.end_watches();
    }

    /// Comes back after [`Self::down`], with its objects but without the past.
    pub async fn come_back(&mut self) {
        self.compact();
        self.fault("", Fault::None);
        self.up().await;
    }

    /// From now on this goes wrong with `resource`, or with every resource if that is empty.
    pub fn fault(&self, resource: &str, fault: Fault) {
        self.store().fault.insert(resource.to_owned(), fault);
        self.wake();
    }

    /// Ends every watch in the middle.
    pub fn end_watches(&self) {
        self.store().life += 1;
        self.wake();
    }

    /// Forgets the past: watches that go on from it get 410.
    pub fn compact(&self) {
        let mut store = self.store();
        store.log.clear();
        store.version += 1;
        store.compacted = store.version;
    }

    /// Gives lists in pages, as a server whose watch cache is off. With it, a list that need not be
    /// fresh (`resourceVersion=0`) comes whole, whatever its limit.
    pub fn without_cache(&self) {
        self.store().no_cache = true;
    }

    /// Loses every object without saying so, as a server with an empty cache.
    pub fn lose_everything(&self) -> impl Fn(&Self) + use<> {
        let objects = std::mem::take(&mut self.store().objects);
        move |api| api.store().objects.clone_from(&objects)
    }

    /// Sends a bookmark to every watch.
    pub fn bookmark(&self) {
        let mut store = self.store();
        store.version += 1;
        store.bookmark = store.version;
        drop(store);
        self.wake();
    }

    /// Creates or changes a Node with this address and pod CIDR.
    pub fn node(&self, name: &str, address: &str, pod_cidr: &str) {
        self.put(
            "nodes",
            json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]},
            }),
        );
    }

    /// Creates or changes a custom resource.
    pub fn custom(&self, kind: &str, name: &str, spec: Value) {
        let resource = plural(kind);
        let object = json!({
            "apiVersion": CUSTOM, "kind": kind, "metadata": {"name": name}, "spec": spec,
        });
        self.put(&resource, object);
    }

    /// Creates or changes a Secret; values are given as text.
    pub fn secret(&self, namespace: &str, name: &str, key: &str, base64: &str) {
        self.put(
            "secrets",
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": name, "namespace": namespace}, "data": {key: base64},
            }),
        );
    }

    /// Creates or changes `object`: `metadata` and `status` that are not given stay.
    pub fn put(&self, resource: &str, object: Value) {
        self.store().put(resource, object, false);
        self.wake();
    }

    /// Changes an object by hand.
    pub fn edit(&self, resource: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut object = self.get(resource, name).expect("the object");
        edit(&mut object);
        self.put(resource, object);
    }

    /// Deletes an object.
    pub fn delete(&self, resource: &str, name: &str) {
        let mut store = self.store();
        let key = store.objects.keys().find(|key| key.resource == resource && key.name == name);
        let Some(key) = key.cloned() else { return };
        let Some(mut object) = store.objects.remove(&key) else { return };
        store.version += 1;
        let version = store.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        store.log.push(Event { version, kind: "DELETED", name: key, object });
        drop(store);
        self.wake();
    }

    /// An object as it is now.
    #[must_use]
    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        let store = self.store();
        let mut found =
            store.objects.iter().filter(|(key, _)| key.resource == resource && key.name == name);
        found.next().map(|(_, object)| object.clone())
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.store().requests.clone()
    }

    /// How many requests of this kind there were.
    #[must_use]
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        let store = self.store();
        store.requests.iter().filter(|one| one.verb == verb && one.resource == resource).count()
    }

    /// Objects that were posted: Events.
    #[must_use]
    pub fn created(&self) -> Vec<Value> {
        self.store().created.clone()
    }

    /// Waits until `holds`, at most 90 s: a report that used up its budget waits for a minute.
    ///
    /// # Panics
    /// It never did.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..1800 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let requests: Vec<String> = self
            .requests()
            .iter()
            .map(|one| format!("{} {} {:?}", one.verb, one.resource, one.query))
            .collect();
        panic!("never: {what}; the requests were\n{}", requests.join("\n"));
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock().expect("no handler panics with the lock")
    }

    fn wake(&self) {
        self.shared.wake.send_modify(|count| *count += 1);
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
        if let Ok(mut store) = self.shared.store.lock() {
            store.life += 1;
        }
        self.wake();
    }
}

impl Store {
    /// Takes `object` in; the status only if it `is_status` or the object is new or a Node.
    fn put(&mut self, resource: &str, mut object: Value, is_status: bool) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = Name {
            resource: resource.to_owned(),
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
        };
        self.version += 1;
        let version = self.version;
        let kind = match self.objects.get(&key) {
            None => {
                self.uids += 1;
                object["metadata"]["uid"] = format!("uid-{}", self.uids).into();
                object["metadata"]["generation"] = 1.into();
                let seconds = self.uids % 60;
                let minutes = self.uids / 60;
                let created = format!("2026-01-01T00:{minutes:02}:{seconds:02}Z");
                object["metadata"]["creationTimestamp"] = created.into();
                "ADDED"
            }
            Some(before) => {
                for key in ["uid", "creationTimestamp", "labels", "annotations"] {
                    if object["metadata"].get(key).is_none()
                        && let Some(kept) = before["metadata"].get(key)
                    {
                        object["metadata"][key] = kept.clone();
                    }
                }
                let generation = before["metadata"]["generation"].as_u64().unwrap_or(1);
                let changed = u64::from(!is_status && before["spec"] != object["spec"]);
                object["metadata"]["generation"] = (generation + changed).into();
                if object.get("status").is_none()
                    && let Some(status) = before.get("status")
                {
                    object["status"] = status.clone();
                }
                "MODIFIED"
            }
        };
        object["metadata"]["resourceVersion"] = version.to_string().into();
        self.objects.insert(key.clone(), object.clone());
        self.log.push(Event { version, kind, name: key, object: object.clone() });
        object
    }

    fn fault_of(&self, resource: &str) -> Fault {
        let general = self.fault.get("").filter(|fault| **fault != Fault::None);
        general.or_else(|| self.fault.get(resource)).cloned().unwrap_or_default()
    }
}

/// The kind of a resource, and its group, that the server has.
fn kind_of(resource: &str) -> Option<(&'static str, &'static str)> {
    let known = [
        ("nodes", "Node", ""),
        ("secrets", "Secret", ""),
        ("pods", "Pod", ""),
        ("services", "Service", ""),
        ("endpointslices", "EndpointSlice", "discovery.k8s.io"),
        ("events", "Event", "events.k8s.io"),
        ("bgpconfigurations", "BGPConfiguration", "routelet.dev"),
        ("bgppeers", "BGPPeer", "routelet.dev"),
        ("bgpfilters", "BGPFilter", "routelet.dev"),
        ("ippools", "IPPool", "routelet.dev"),
        ("bgpnodestatuses", "BGPNodeStatus", "routelet.dev"),
    ];
    known.into_iter().find(|(plural, ..)| *plural == resource).map(|(_, kind, group)| (kind, group))
}

/// `bgppeers` of `BGPPeer`.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    if kind.ends_with("status") { format!("{kind}es") } else { format!("{kind}s") }
}
