//! Objects become the same validated configuration as a file, object by object.
//!
//! ```text
//!  Objects ─► entries (by rank) ─► parts.rs: ConfigFile ─► config::parts ─► Config
//!                 ▲                                            │ problems
//!                 └── previous version, or left out  ◄─────────┘
//! ```
//!
//! In flow: [`Objects`], the passwords of Secrets, the addresses of this host. Out flow: a
//! [`Translation`]: a configuration, and each object that is not part of it as it is written, with the
//! reason.
//!
//! What always holds: one wrong object never takes the others with it. In its place goes its last
//! accepted version where there is one, so that a mistake ends no session; else it is left out. Of two
//! that contradict each other the older stays. There is no configuration at all without the own Node,
//! nor with a BGPConfiguration that never was right: guessing an AS would be worse than waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use routelet_bgp::core::config::Password;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::parts::Parts;
use super::address::{Choice, Host, choose};
use super::crd::{
    BGPConfigurationSpec, BGPFilterSpec, BGPPeerSpec, CONFIGURATION_NAME, IPPoolSpec, SecretKeyRef,
};
use super::objects::{Custom, Key, Kind, Node, Objects};
use super::secrets::Secrets;
use super::selector::Selector;
use crate::config::Config;
use crate::config::file::ConfigFile;
use crate::config::parts::{Refusal, assemble};
use crate::config::problem::Problem;

mod parts;
#[cfg(test)]
mod tests;

/// Makes configurations of objects, and remembers what it used.
pub struct Translator {
    node_name: String,
    base: ConfigFile,
    host: Arc<dyn Host>,
    /// The versions that the last configuration was made of.
    accepted: Objects,
}

/// What came of the objects.
#[derive(Clone, Debug)]
pub struct Translation {
    /// The configuration, or why there is none.
    pub config: Result<Config, Vec<String>>,
    /// Objects that are not part of it as they are written.
    pub refused: BTreeMap<Key, Refused>,
    /// Which nodes each custom resource is for; an object that did not decode is for all.
    pub nodes_of: BTreeMap<Key, BTreeSet<String>>,
    /// The own addresses and why they are these.
    pub choice: Choice,
    /// Secrets that are referred to.
    pub secrets: BTreeSet<String>,
}

/// Why an object is not used as it is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// Whether its last accepted version is used in its place.
    pub previous_in_use: bool,
}

/// One word for why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// It is wrong by itself.
    Invalid,
    /// It contradicts another object, or refers to one that is not there.
    Conflict,
}

impl Reason {
    /// The `reason` of a condition.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::Conflict => "Conflict",
        }
    }
}

/// An object in a form that is understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Node(Arc<Node>),
    Configuration(Box<BGPConfigurationSpec>),
    Peer(Box<PeerItem>),
    Filter(BGPFilterSpec),
    Pool(IPPoolSpec),
}

/// A BGPPeer with its selectors read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PeerItem {
    pub(super) spec: BGPPeerSpec,
    nodes: Option<Selector>,
    pub(super) peers: Option<Selector>,
}

impl PeerItem {
    /// Whether `node` is one of those that have the peer.
    pub(super) fn selects(&self, node: &Node) -> bool {
        match (&self.spec.node, &self.nodes) {
            (Some(name), _) => *name == node.name,
            (None, Some(selector)) => selector.matches(&node.labels),
            (None, None) => true,
        }
    }

    /// Whether `node` is one of those that are the peer.
    fn is(&self, node: &Node) -> bool {
        self.peers.as_ref().is_some_and(|selector| selector.matches(&node.labels))
    }
}

/// Which version of an object is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Used {
    Current,
    Previous,
    None,
}

/// An object on trial.
struct Entry {
    key: Key,
    current: Option<Item>,
    previous: Option<Item>,
    used: Used,
    refused: Option<(Reason, String)>,
}

impl Entry {
    fn item(&self) -> Option<&Item> {
        match self.used {
            Used::Current => self.current.as_ref(),
            Used::Previous => self.previous.as_ref(),
            Used::None => None,
        }
    }

    /// Takes the next best version.
    fn refuse(&mut self, reason: Reason, message: String) {
        self.used = match self.used {
            Used::Current if self.previous.is_some() => Used::Previous,
            _ => Used::None,
        };
        // What is wrong with the object as it is written is what its author must know.
        self.refused.get_or_insert((reason, message));
    }
}

impl Translator {
    /// For the node with this name, on this host; `base` has what concerns the host only.
    #[must_use]
    pub(crate) fn new(node_name: String, base: ConfigFile, host: Arc<dyn Host>) -> Self {
        Self { node_name, base, host, accepted: Objects::default() }
    }

    /// The versions that the last configuration was made of.
    #[must_use]
    pub fn accepted(&self) -> &Objects {
        &self.accepted
    }

    /// Takes `accepted` for the versions that were used last.
    pub fn resume(&mut self, accepted: Objects) {
        self.accepted = accepted;
    }

    /// Makes a configuration of `objects`.
    pub fn translate(&mut self, objects: &Objects, secrets: &Secrets) -> Translation {
        let mut entries = self.entries(objects);
        let passwords = |path: &Path| password(secrets, path);
        let (config, choice) = loop {
            let (Some(own), configuration) = (self.own(&entries), configuration(&entries)) else {
                let words = match entries.iter().find(|entry| self.is_own(&entry.key)) {
                    Some(Entry { refused: Some((_, message)), key, .. }) => {
                        format!("{key}: {message}")
                    }
                    _ => format!("there is no Node {}", self.node_name),
                };
                break (Err(vec![words]), Choice::default());
            };
            let configuration = match configuration {
                Ok(configuration) => configuration,
                Err(words) => break (Err(vec![words]), Choice::default()),
            };
            let choice = choose(
                own,
                configuration.node_address_autodetection_v4.as_ref(),
                configuration.node_address_autodetection_v6.as_ref(),
                self.host.as_ref(),
            );
            let services = objects.services.as_deref();
            let parts = Parts::new(&self.base, own, &configuration, &choice, services);
            let (file, beyond) =
                parts.build(entries.iter().map(|entry| (&entry.key, entry.item())));
            let blamed = match assemble(&file, &beyond, &passwords) {
                Ok(config) => break (Ok(config), choice),
                Err(Refusal::Values(problems)) => {
                    blame(&problems, entries.len(), Reason::Invalid, usize::MAX)
                }
                // Once one is out, others may be right: the oldest first, so that whoever only
                // contradicts a wrong one stays.
                Err(Refusal::Conflicts(problems)) => {
                    blame(&problems, entries.len(), Reason::Conflict, 1)
                }
            };
            match blamed {
                Ok(blamed) => {
                    for (index, (reason, message)) in blamed {
                        entries[index].refuse(reason, message);
                    }
                }
                Err(words) => break (Err(words), choice),
            }
        };
        let config = config.map(|mut config| {
            // In a cluster filters are kept for later, and for other nodes.
            config.warnings.retain(|warning| !warning.ends_with("is used by no peer"));
            self.accepted = self.used(objects, &entries);
            config
        });
        Translation {
            config,
            refused: refused(&entries),
            nodes_of: nodes_of(objects, &entries),
            secrets: self.secrets(&entries),
            choice,
        }
    }

    fn is_own(&self, key: &Key) -> bool {
        key.kind == Kind::Node && key.name == self.node_name
    }

    fn own<'a>(&self, entries: &'a [Entry]) -> Option<&'a Node> {
        entries.iter().find(|entry| self.is_own(&entry.key)).and_then(|entry| match entry.item() {
            Some(Item::Node(node)) => Some(&**node),
            _ => None,
        })
    }

    /// The objects by rank: the own Node, then kind by kind, what is older first.
    fn entries(&self, objects: &Objects) -> Vec<Entry> {
        let mut entries: Vec<(bool, &str, Entry)> = Vec::new();
        for (name, node) in &objects.nodes {
            let key = Key::new(Kind::Node, name.as_str());
            let previous = self.accepted.nodes.get(name).filter(|old| old.uid == node.uid);
            entries.push((
                !self.is_own(&key),
                &node.created,
                Entry {
                    key,
                    previous: previous.filter(|old| *old != node).cloned().map(Item::Node),
                    current: Some(Item::Node(node.clone())),
                    used: Used::Current,
                    refused: None,
                },
            ));
        }
        for (key, custom) in &objects.custom {
            let previous = self.accepted.custom.get(key).filter(|old| old.uid == custom.uid);
            let previous = previous
                .filter(|old| old.spec != custom.spec)
                .and_then(|old| decode(key, &old.spec).ok());
            let (current, refused) = match decode(key, &custom.spec) {
                Ok(item) => (Some(item), None),
                Err(message) => (None, Some((Reason::Invalid, message))),
            };
            let used = match (&current, &previous) {
                (Some(_), _) => Used::Current,
                (None, Some(_)) => Used::Previous,
                (None, None) => Used::None,
            };
            let entry = Entry { key: key.clone(), current, previous, used, refused };
            entries.push((true, &custom.created, entry));
        }
        entries.sort_by(|(other, created, entry), (other_b, created_b, entry_b)| {
            (other, entry.key.kind, created, &entry.key.name).cmp(&(
                other_b,
                entry_b.key.kind,
                created_b,
                &entry_b.key.name,
            ))
        });
        entries.into_iter().map(|(_, _, entry)| entry).collect()
    }

    /// What was used in the end.
    fn used(&self, objects: &Objects, entries: &[Entry]) -> Objects {
        let mut used = Objects { services: objects.services.clone(), ..Objects::default() };
        for entry in entries {
            let from = match entry.used {
                Used::Current => objects,
                Used::Previous => &self.accepted,
                Used::None => continue,
            };
            if let Some(node) =
                from.nodes.get(&entry.key.name).filter(|_| entry.key.kind == Kind::Node)
            {
                used.nodes.insert(entry.key.name.clone(), node.clone());
            } else if let Some(custom) = from.custom.get(&entry.key) {
                // Conditions are of no use on the disk and would have it written again and again.
                let custom = Custom { accepted: None, ..custom.clone() };
                used.custom.insert(entry.key.clone(), custom);
            }
        }
        used
    }

    /// Names of the Secrets that the wanted and the used versions refer to, where they concern us.
    fn secrets(&self, entries: &[Entry]) -> BTreeSet<String> {
        let own = self.own(entries);
        let mut names = BTreeSet::new();
        for item in
            entries.iter().flat_map(|entry| [entry.current.as_ref(), entry.item()]).flatten()
        {
            let source = match item {
                Item::Configuration(spec) => spec.node_mesh_password.as_ref(),
                Item::Peer(peer) if own.is_some_and(|own| peer.selects(own) || peer.is(own)) => {
                    peer.spec.password.as_ref()
                }
                _ => None,
            };
            names.extend(source.map(|source| source.secret_key_ref.name.clone()));
        }
        names
    }
}

/// The configuration that holds: the default one where nobody wrote any.
fn configuration(entries: &[Entry]) -> Result<BGPConfigurationSpec, String> {
    let key = Key::new(Kind::BGPConfiguration, CONFIGURATION_NAME);
    let Some(entry) = entries.iter().find(|entry| entry.key == key) else {
        return Ok(BGPConfigurationSpec::default());
    };
    match entry.item() {
        Some(Item::Configuration(spec)) => Ok((**spec).clone()),
        _ => {
            let message = entry.refused.as_ref().map_or("", |(_, message)| message);
            Err(format!("{key}: {message}"))
        }
    }
}

/// Gives each problem to the object whose rank is its place: the words of at most `most` objects, the
/// oldest first. If no object is to blame, all the words.
fn blame(
    problems: &[Problem],
    entries: usize,
    reason: Reason,
    most: usize,
) -> Result<BTreeMap<usize, (Reason, String)>, Vec<String>> {
    let mut blamed: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for problem in problems {
        let rank = usize::try_from(problem.place.column).unwrap_or(usize::MAX);
        if !problem.place.is_known() && (1..=entries).contains(&rank) {
            blamed.entry(rank - 1).or_default().push(words(problem));
        }
    }
    if blamed.is_empty() {
        return Err(problems.iter().map(ToString::to_string).collect());
    }
    let of_each = |(index, mut words): (usize, Vec<String>)| {
        words.dedup();
        (index, (reason, words.join("; ")))
    };
    Ok(blamed.into_iter().take(most).map(of_each).collect())
}

/// The problem as the author of the object must read it: without the place in a file that there is
/// not.
fn words(problem: &Problem) -> String {
    let path = match problem.path.split_once("].") {
        Some((_, key)) => key,
        None => problem.path.split_once('.').map_or("", |(_, key)| key),
    };
    let path = path.strip_suffix(".file").unwrap_or(path);
    if path.is_empty() { problem.message.clone() } else { format!("{path}: {}", problem.message) }
}

fn refused(entries: &[Entry]) -> BTreeMap<Key, Refused> {
    entries
        .iter()
        .filter_map(|entry| {
            let (reason, message) = entry.refused.clone()?;
            let previous_in_use = entry.used == Used::Previous;
            Some((entry.key.clone(), Refused { reason, message, previous_in_use }))
        })
        .collect()
}

/// For each custom resource the names of the nodes that it is for.
fn nodes_of(objects: &Objects, entries: &[Entry]) -> BTreeMap<Key, BTreeSet<String>> {
    entries
        .iter()
        .filter(|entry| entry.key.kind != Kind::Node)
        .map(|entry| {
            let concerned = |node: &Node| match &entry.current {
                Some(Item::Peer(peer)) => peer.selects(node) || peer.is(node),
                _ => true,
            };
            let names = objects.nodes.values().filter(|node| concerned(node));
            (entry.key.clone(), names.map(|node| node.name.clone()).collect())
        })
        .collect()
}

fn decode(key: &Key, spec: &Value) -> Result<Item, String> {
    fn typed<T: DeserializeOwned>(spec: &Value) -> Result<T, String> {
        // An object may lack its spec altogether.
        let empty = Value::Object(serde_json::Map::new());
        let spec = if spec.is_null() { &empty } else { spec };
        T::deserialize(spec).map_err(|error| error.to_string())
    }
    let selector = |key: &str, text: Option<&String>| {
        text.map(|text| Selector::parse(text))
            .transpose()
            .map_err(|error| format!("{key}: {error}"))
    };
    match key.kind {
        Kind::Node | Kind::Service | Kind::EndpointSlice => {
            Err("is not a custom resource".to_owned())
        }
        Kind::BGPConfiguration if key.name != CONFIGURATION_NAME => {
            Err(format!("the only BGPConfiguration is named {CONFIGURATION_NAME}"))
        }
        Kind::BGPConfiguration => typed(spec).map(|spec| Item::Configuration(Box::new(spec))),
        Kind::BGPFilter => typed(spec).map(Item::Filter),
        Kind::IPPool => typed(spec).map(Item::Pool),
        Kind::BGPPeer => {
            let spec: BGPPeerSpec = typed(spec)?;
            if spec.peer_ip.is_some() == spec.peer_selector.is_some() {
                return Err("exactly one of peerIP and peerSelector must be there".to_owned());
            }
            if spec.peer_selector.is_some() && spec.as_number.is_some() {
                return Err("asNumber goes with peerIP: nodes have their own".to_owned());
            }
            if spec.node.is_some() && spec.node_selector.is_some() {
                return Err("node and nodeSelector exclude each other".to_owned());
            }
            let nodes = selector("nodeSelector", spec.node_selector.as_ref())?;
            let peers = selector("peerSelector", spec.peer_selector.as_ref())?;
            Ok(Item::Peer(Box::new(PeerItem { spec, nodes, peers })))
        }
    }
}

/// Where `parts.rs` says that a password is.
fn password_path(reference: &SecretKeyRef) -> String {
    format!("{}/{}", reference.name, reference.key)
}

fn password(secrets: &Secrets, path: &Path) -> Result<Password, String> {
    let path = path.to_string_lossy();
    let (name, key) = path.split_once('/').unwrap_or((&path, ""));
    secrets.password(name, key)
}
