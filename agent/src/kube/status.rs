//! What the agents say back: BGPNodeStatus, conditions, Events, and the own Node's address.
//!
//! In flow: [`State`]s of the source, [`Facts`] of the running agent. Out flow: server-side applies.
//!
//! ```text
//!  BGPNodeStatus   every agent its own, when something changed, three at once and then one a minute
//!  Accepted        on an object by one agent: of the nodes the object is for, the one whose name and
//!                  the object's hash highest; so a thousand agents write it once, and never in turns
//!  Events          by the same agent, when it writes that an object is refused
//!  annotations     on the own Node, when its address is not the InternalIP
//!  ready.rs        on the own Node, when the first routes are in the kernel
//! ```
//!
//! What always holds: nothing here changes what runs; the API server's absence costs a wait that grows
//! to a minute; a password is in nothing that is written.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::crd::{
    BGPNodeStatus, Condition, ConfigurationStatus, GROUP, NodeStatus, PeerStatus, RefusedObject,
    VERSION,
};
use super::disk::now;
use super::objects::{Key, Kind, Node, NodeObject, V4_ANNOTATION, V6_ANNOTATION};
use super::ready::Readiness;
use super::state::{Observed, Origin, State};
use super::watch::{chain, resource};

/// Who we are to the API server: the owner of the fields that we apply.
const MANAGER: &str = "routelet";
/// Peers that a report lists at most.
const PEERS: usize = 64;
/// Octets of a message at most.
const MESSAGE: usize = 1024;
/// A condition that was written is not written again for so long, whatever the watch shows.
const SETTLE: Duration = Duration::from_secs(30);

/// What the running agent says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// BGP Identifier.
    pub router_id: String,
    /// Every peer.
    pub peers: Vec<PeerStatus>,
    /// What readiness waits for, in words; nothing when ready.
    pub pending: Vec<String>,
}

/// The running agent, as far as reports need it.
pub trait Agent: Send + Sync + 'static {
    /// How it is now.
    fn facts(&self) -> impl Future<Output = Facts> + Send;
}

/// How often reports are made.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Between two looks at the agent.
    pub look: Duration,
    /// Writes of the node's status that may follow each other at once.
    pub burst: u32,
    /// After that, between two of them.
    pub interval: Duration,
    /// After a failure, doubled with each one up to a minute.
    pub again: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(5),
            burst: 3,
            interval: Duration::from_secs(60),
            again: Duration::from_secs(1),
        }
    }
}

/// Reports for ever what `states` and `agent` say; ends when the source does.
pub async fn report<A: Agent>(
    client: Client,
    node: String,
    mut states: watch::Receiver<State>,
    agent: Arc<A>,
    rhythm: Rhythm,
) {
    let mut reporter = ReporterTask::new(client, node, rhythm);
    loop {
        let state = states.borrow_and_update().clone();
        let facts = agent.facts().await;
        match reporter.write(&state, &facts).await {
            Ok(()) => reporter.again = rhythm.again,
            Err(error) => {
                tracing::debug!(reason = %chain(&error), "the status cannot be written");
                sleep(reporter.again).await;
                reporter.again = (reporter.again * 2).min(Duration::from_secs(60));
            }
        }
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = sleep(rhythm.look) => {}
        }
    }
}

struct ReporterTask {
    client: Client,
    node: String,
    rhythm: Rhythm,
    recorder: Recorder,
    again: Duration,
    /// Writes that may be made at once, and when one more may.
    tokens: u32,
    next_token: Instant,
    /// Whether our BGPNodeStatus is there, as far as we know.
    exists: bool,
    written: Option<NodeStatus>,
    conditions: BTreeMap<Key, (Instant, Condition)>,
    announced: Option<BTreeMap<String, String>>,
    readiness: Readiness,
}

impl ReporterTask {
    fn new(client: Client, node: String, rhythm: Rhythm) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(node.clone()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            node,
            rhythm,
            again: rhythm.again,
            tokens: rhythm.burst,
            next_token: Instant::now() + rhythm.interval,
            exists: false,
            written: None,
            conditions: BTreeMap::new(),
            announced: None,
            readiness: Readiness::default(),
        }
    }

    async fn write(&mut self, state: &State, facts: &Facts) -> kube::Result<()> {
        // Pods wait for it: what else cannot be written must not hinder it.
        let told = self.tell_the_node(state, facts).await;
        self.node_status(state, facts).await?;
        self.announce(state).await?;
        self.conditions(state).await?;
        told
    }

    /// Tells our Node that its network works, once nothing is waited for.
    async fn tell_the_node(&mut self, state: &State, facts: &Facts) -> kube::Result<()> {
        let Some(node) = &state.node else { return Ok(()) };
        if state.config.is_none() || !facts.pending.is_empty() {
            return Ok(());
        }
        self.readiness.tell(&self.client, node, MANAGER).await
    }

    /// Writes our BGPNodeStatus if it has changed and it may be written now.
    async fn node_status(&mut self, state: &State, facts: &Facts) -> kube::Result<()> {
        if Instant::now() >= self.next_token {
            self.tokens = (self.tokens + 1).min(self.rhythm.burst);
            self.next_token = Instant::now() + self.rhythm.interval;
        }
        // The report belongs to the Node, and goes with it: without one it would stay for ever.
        let Some(node) = &state.node else { return Ok(()) };
        let status = node_status(state, facts, self.written.as_ref());
        if self.written.as_ref() == Some(&status) || self.tokens == 0 {
            return Ok(());
        }
        self.tokens -= 1;
        let api: Api<BGPNodeStatus> = Api::all(self.client.clone());
        let params = PatchParams::apply(MANAGER).force();
        if !self.exists {
            let object = json!({
                "apiVersion": format!("{GROUP}/{VERSION}"),
                "kind": "BGPNodeStatus",
                "metadata": {"name": self.node, "ownerReferences": [owner(node)]},
                "spec": {},
            });
            api.patch(&self.node, &params, &Patch::Apply(&object)).await?;
            self.exists = true;
        }
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "BGPNodeStatus",
            "metadata": {"name": self.node},
            "status": status,
        });
        match api.patch_status(&self.node, &params, &Patch::Apply(&object)).await {
            Ok(_) => {
                self.written = Some(status);
                Ok(())
            }
            Err(error) => {
                // Somebody may have deleted it.
                self.exists = false;
                Err(error)
            }
        }
    }

    /// Tells the other nodes our address, where they would take another.
    async fn announce(&mut self, state: &State) -> kube::Result<()> {
        let Some(node) = &state.node else { return Ok(()) };
        let wanted: BTreeMap<String, String> = [V4_ANNOTATION, V6_ANNOTATION]
            .into_iter()
            .zip(state.choice.announced)
            .filter_map(|(key, net)| Some((key.to_owned(), net?.to_string())))
            .collect();
        let there = wanted.iter().all(|(key, value)| node.annotations.get(key) == Some(value));
        let ours = self.announced.as_ref();
        // What an earlier life of ours wrote is taken back; what people wrote is not ours to take.
        let stale = ours.is_none()
            && [V4_ANNOTATION, V6_ANNOTATION]
                .iter()
                .any(|key| node.annotations.contains_key(*key) && !wanted.contains_key(*key));
        if ours == Some(&wanted) && there || ours.is_none() && wanted.is_empty() && !stale {
            return Ok(());
        }
        let object = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node, "annotations": wanted},
        });
        let api: Api<NodeObject> = Api::all(self.client.clone());
        let params = PatchParams::apply(MANAGER).force();
        api.patch(&self.node, &params, &Patch::Apply(&object)).await?;
        self.announced = Some(wanted);
        Ok(())
    }

    /// Writes the conditions of the objects that are ours to write.
    async fn conditions(&mut self, state: &State) -> kube::Result<()> {
        // Only what the API server says is judged, not what was on disk.
        if state.origin != Origin::Live {
            return Ok(());
        }
        self.conditions.retain(|key, _| state.custom.contains_key(key));
        for (key, observed) in state.custom.iter() {
            if !is_writer(&self.node, key, observed, state) {
                continue;
            }
            let condition = condition(key, observed, state);
            if observed.accepted.as_ref() == Some(&condition) {
                continue;
            }
            let recent = self.conditions.get(key).is_some_and(|(when, written)| {
                same_words(written, &condition) && when.elapsed() < SETTLE
            });
            if recent {
                continue;
            }
            self.condition(key, observed, &condition).await?;
            self.conditions.insert(key.clone(), (Instant::now(), condition));
        }
        Ok(())
    }

    async fn condition(
        &self,
        key: &Key,
        observed: &Observed,
        condition: &Condition,
    ) -> kube::Result<()> {
        let resource = resource(key.kind);
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": key.name},
            "status": {"conditions": [condition]},
        });
        let params = PatchParams::apply(MANAGER).force();
        match api.patch_status(&key.name, &params, &Patch::Apply(&object)).await {
            // Gone in the meantime: the watch will say so.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            result => result?,
        };
        if condition.status == "False" {
            let event = Event {
                type_: EventType::Warning,
                reason: "Refused".to_owned(),
                note: Some(condition.message.clone()),
                action: "Validate".to_owned(),
                secondary: None,
            };
            let reference = ObjectReference {
                api_version: Some(resource.api_version.clone()),
                kind: Some(resource.kind.clone()),
                name: Some(key.name.clone()),
                uid: Some(observed.uid.clone()),
                ..ObjectReference::default()
            };
            self.recorder.publish(&event, &reference).await?;
        }
        Ok(())
    }
}

fn owner(node: &Node) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid})
}

fn node_status(state: &State, facts: &Facts, written: Option<&NodeStatus>) -> NodeStatus {
    let established = facts.peers.iter().filter(|peer| peer.state == "Established").count();
    let listed =
        facts.peers.iter().filter(|peer| peer.kind != "Mesh" || peer.state != "Established");
    let mut pending = facts.pending.clone();
    if state.config.is_none() {
        pending.extend(state.pending());
    }
    let speaker = state.config.as_ref().map(|config| &config.speaker);
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let ready = Condition {
        type_: "Ready".to_owned(),
        status: if pending.is_empty() { "True" } else { "False" }.to_owned(),
        observed_generation: None,
        last_transition_time: String::new(),
        reason: if pending.is_empty() { "Ready" } else { "Pending" }.to_owned(),
        message: shorten(&pending.join("; ")),
    };
    let before = written.and_then(|status| status.conditions.first());
    NodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: speaker
            .and_then(|speaker| {
                let v6 = speaker.address_v6.map(|address| address.to_string());
                speaker.address_v4.map(|address| address.to_string()).or(v6)
            })
            .unwrap_or_default(),
        address_choice: state.choice.words.clone(),
        as_number: speaker.map_or(0, |speaker| speaker.asn.0.into()),
        router_id: facts.router_id.clone(),
        peers_total: count(facts.peers.len()),
        peers_established: count(established),
        configuration: ConfigurationStatus {
            source: match state.origin {
                Origin::None => "None",
                Origin::LastGood(_) => "LastGood",
                Origin::Live => "Live",
            }
            .to_owned(),
            generation: i64::try_from(state.generation).unwrap_or(i64::MAX),
            refused: state
                .refused
                .iter()
                .take(PEERS)
                .map(|(key, refused)| RefusedObject {
                    kind: key.kind.name().to_owned(),
                    name: key.name.clone(),
                    message: shorten(&refused.message),
                    previous_in_use: refused.previous_in_use,
                })
                .collect(),
            warnings: state
                .config
                .iter()
                .flat_map(|config| &config.warnings)
                .take(PEERS)
                .map(|warning| shorten(warning))
                .collect(),
        },
        peers: listed.take(PEERS).cloned().collect(),
        conditions: vec![with_time(ready, before)],
    }
}

/// The condition with the time of its last transition: that of `before` if its status was the same.
fn with_time(condition: Condition, before: Option<&Condition>) -> Condition {
    let kept = before.filter(|before| before.status == condition.status);
    let last_transition_time = kept.map_or_else(now, |before| before.last_transition_time.clone());
    Condition { last_transition_time, ..condition }
}

fn condition(key: &Key, observed: &Observed, state: &State) -> Condition {
    let (status, reason, message) = match state.refused.get(key) {
        Some(refused) => {
            let kept =
                if refused.previous_in_use { "; the version before stays in use" } else { "" };
            ("False", refused.reason.word(), format!("{}{kept}", refused.message))
        }
        None if key.kind == Kind::BGPPeer && observed.nodes.is_empty() => {
            ("True", "NoNode", "valid, but its selectors choose no node".to_owned())
        }
        None => ("True", "Accepted", "part of the configuration".to_owned()),
    };
    let condition = Condition {
        type_: "Accepted".to_owned(),
        status: status.to_owned(),
        observed_generation: Some(observed.generation),
        last_transition_time: String::new(),
        reason: reason.to_owned(),
        message: shorten(&message),
    };
    with_time(condition, observed.accepted.as_ref())
}

fn same_words(one: &Condition, other: &Condition) -> bool {
    (&one.status, &one.reason, &one.message, one.observed_generation)
        == (&other.status, &other.reason, &other.message, other.observed_generation)
}

/// Whether we are the one agent that writes the object's condition.
fn is_writer(own: &str, key: &Key, observed: &Observed, state: &State) -> bool {
    let nodes = if observed.nodes.is_empty() { &*state.nodes } else { &observed.nodes };
    let writer = nodes.iter().max_by_key(|node| weight(node, key));
    writer.is_some_and(|writer| writer == own)
}

/// Rendezvous hashing with FNV-1a, the same in every version of the agent.
fn weight(node: &str, key: &Key) -> u64 {
    let octets = [node, "/", key.kind.name(), "/", &key.name];
    let hash =
        octets.iter().flat_map(|text| text.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
        });
    // FNV's high bits hardly depend on the last octets: mix once more.
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

fn shorten(text: &str) -> String {
    if text.len() <= MESSAGE {
        return text.to_owned();
    }
    let mut end = MESSAGE - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn one_agent_of_many_writes_each_object() {
        let nodes: BTreeSet<String> = (0..50).map(|node| format!("node-{node}")).collect();
        let state = State { nodes: Arc::new(nodes.clone()), ..State::default() };
        let mut writers = BTreeSet::new();
        for object in 0..100 {
            let key = Key::new(Kind::BGPPeer, format!("tor-{object}"));
            let of: Vec<&String> = nodes
                .iter()
                .filter(|node| is_writer(node, &key, &Observed::default(), &state))
                .collect();
            assert_eq!(of.len(), 1, "{key}");
            writers.insert(of[0].clone());
        }
        assert!(writers.len() > 25, "the work is shared: {writers:?}");
        let only = Observed { nodes: ["node-7".to_owned()].into(), ..Observed::default() };
        assert!(is_writer("node-7", &Key::new(Kind::BGPPeer, "x"), &only, &state));
    }

    #[test]
    fn a_condition_keeps_its_time_as_long_as_its_status() {
        let key = Key::new(Kind::BGPPeer, "tor");
        let before = Condition {
            status: "True".to_owned(),
            last_transition_time: "2020-01-01T00:00:00Z".to_owned(),
            ..Condition::default()
        };
        let observed = Observed { accepted: Some(before), generation: 3, ..Observed::default() };
        let accepted = condition(&key, &observed, &State::default());
        assert_eq!(accepted.last_transition_time, "2020-01-01T00:00:00Z");
        assert_eq!((accepted.observed_generation, &*accepted.reason), (Some(3), "NoNode"));
        let refused = super::super::translate::Refused {
            reason: super::super::translate::Reason::Invalid,
            message: "wrong".to_owned(),
            previous_in_use: true,
        };
        let state =
            State { refused: Arc::new([(key.clone(), refused)].into()), ..State::default() };
        let refused = condition(&key, &observed, &state);
        assert_ne!(refused.last_transition_time, "2020-01-01T00:00:00Z");
        assert_eq!(refused.message, "wrong; the version before stays in use");
    }

    #[test]
    fn a_report_lists_who_is_down_and_who_is_outside_the_mesh() {
        let peer = |name: &str, kind: &str, state: &str| PeerStatus {
            name: name.to_owned(),
            kind: kind.to_owned(),
            state: state.to_owned(),
            ..PeerStatus::default()
        };
        let mut facts = Facts {
            peers: vec![peer("tor", "External", "Established"), peer("down", "Mesh", "Active")],
            ..Facts::default()
        };
        facts.peers.extend((0..1000).map(|node| peer(&format!("n{node}"), "Mesh", "Established")));
        let status = node_status(&State::default(), &facts, None);
        let names: Vec<&str> = status.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["tor", "down"]);
        assert_eq!((status.peers_total, status.peers_established), (1002, 1001));
        assert_eq!(status.conditions[0].status, "False", "there is no configuration");
    }

    #[test]
    fn long_words_are_shortened_at_a_character() {
        assert_eq!(shorten("short"), "short");
        let long = shorten(&"é".repeat(2000));
        assert!(long.len() <= MESSAGE && long.ends_with('…'));
    }
}
