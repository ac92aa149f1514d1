//! Next-hop sets as kernel nexthop objects.
//!
//! In flow: sets that are to be written as objects and their [`Target`]s, results of writes, what
//! the kernel lists. Out flow: writes of objects, and which sets may be used, are gone, or must do
//! without. No IO, no clock: the reconciler drives it.
//!
//! A [`Target`] stays the truth of what a route is to be; an object is only how it is written. Each
//! set with enough routes gets one *group* (its routes carry the group's id and nothing else), and
//! a group consists of *singles*, one per neighbour and interface, shared by groups. A route points
//! at a group also where there is one next hop, because the kernel can replace a group by a group,
//! but never a single by a group.
//!
//! Why only sets with many routes ([`ROUTES_FROM`]): a group pays because one message moves
//! everything behind it, and because the kernel takes a route with an object faster than one with a
//! gateway. A node of a cluster has one or two prefixes; an object and a group for each node would
//! be three messages instead of one, and more state to go wrong. A set that has once become large
//! keeps its group until its last route leaves.
//!
//! What always holds:
//! - a group is not deleted while a route of ours uses it (the kernel would take the routes along),
//!   nor a single while a group has it; nothing at all is deleted before the first sync;
//! - a route that refers to a group is written after the group, by a writer that keeps the order;
//! - the kernel deletes objects, and the routes behind them, without a word when a link loses its
//!   carrier: after any link event they are listed again, and what is missing is made anew;
//! - where the kernel refuses a group three times, its set does without ([`News::surrendered`])
//!   until something about it changes: plain routes are always a way.

mod message;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::FixedState;

pub(super) use self::message::{
    Content, Gate, KernelObject, Member, Members, write_delete, write_dump, write_group,
    write_single,
};
use super::desired::SetId;
use super::route::{Hop, Hops, Target};
use crate::netlink::WriteError;

/// How many routes a set must have before it becomes an object. Fewer are written faster than the
/// objects would be, and are moved within a millisecond.
pub(super) const ROUTES_FROM: usize = 128;
/// Ids of our objects begin here, far from what people and other daemons choose.
pub(super) const FIRST_ID: u32 = 0x7200_0000;
/// How often the kernel may refuse a group before its set does without.
const TRIES: u8 = 3;

/// What is to be done to one object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ObjectWrite {
    pub id: u32,
    pub protocol: u8,
    pub action: ObjectAction,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum ObjectAction {
    Single(Gate),
    Group {
        members: Members,
        /// Put it in the place of the one that is there, in one step.
        replace: bool,
    },
    Delete,
}

/// What came of results or of a list.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Sets whose group is as wanted: their routes may be written.
    pub ready: Vec<SetId>,
    /// Sets whose group the kernel will not have.
    pub surrendered: Vec<SetId>,
    /// Groups that the kernel has no more, and with them every route that used them.
    pub gone: Vec<Finding>,
    /// Groups in which others have put other members.
    pub changed: Vec<Finding>,
}

/// A group that is not as it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Finding {
    pub group: u32,
    pub set: Option<SetId>,
    /// Netlink port of whoever did it, where a notification told; else the kernel itself, by a link.
    pub port: Option<u32>,
}

/// What the kernel has of an object, as far as is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Presence {
    Absent,
    Present,
    /// An answer was lost or a write failed; only a list can tell.
    Unknown,
}

struct Single {
    gate: Gate,
    have: Presence,
    /// A write of it is with the writer.
    busy: bool,
}

struct Group {
    protocol: u8,
    set: Option<SetId>,
    /// `None`: as it is.
    want: Option<Arc<Target>>,
    have: Presence,
    members: Members,
    /// What `members` come to; `None` where one is not ours, or nothing is there.
    effective: Option<Arc<Target>>,
    busy: bool,
    tries: u8,
    /// What a write on its way makes of it.
    pending: Option<Arc<Target>>,
    /// The kernel refused a route because of it.
    suspect: bool,
}

impl Group {
    fn new(protocol: u8) -> Self {
        Self {
            protocol,
            set: None,
            want: None,
            have: Presence::Absent,
            members: Members::new(),
            effective: None,
            busy: false,
            tries: 0,
            pending: None,
            suspect: false,
        }
    }
}

/// See the module.
pub(super) struct Objects {
    /// The kernel has them, and the configuration allows them.
    supported: bool,
    allowed: bool,
    protocol: u8,
    singles: HashMap<u32, Single, FixedState>,
    by_gate: HashMap<Gate, u32, FixedState>,
    groups: HashMap<u32, Group, FixedState>,
    /// Groups that no set has: of a former life, or left behind.
    unclaimed: BTreeSet<u32>,
    /// Groups to be looked at.
    dirty: BTreeSet<u32>,
    /// Groups that are not written for now.
    waiting: BTreeSet<u32>,
    /// Ids in our range that somebody else has.
    foreign: HashSet<u32, FixedState>,
    /// Singles may have become superfluous.
    prune: bool,
    in_flight: usize,
    recheck: bool,
    rechecking: bool,
    /// Who was heard to change which of ours.
    culprits: HashMap<u32, u32, FixedState>,
}

impl Objects {
    /// `allowed`: whether the configuration wants them. Nothing is used before
    /// [`Objects::set_supported`].
    pub(super) fn new(allowed: bool, protocol: u8) -> Self {
        Self {
            supported: false,
            allowed,
            protocol,
            singles: HashMap::default(),
            by_gate: HashMap::default(),
            groups: HashMap::default(),
            unclaimed: BTreeSet::new(),
            dirty: BTreeSet::new(),
            waiting: BTreeSet::new(),
            foreign: HashSet::default(),
            prune: false,
            in_flight: 0,
            recheck: false,
            rechecking: false,
            culprits: HashMap::default(),
        }
    }

    /// What asking the kernel has shown.
    pub(super) fn set_supported(&mut self, supported: bool) {
        self.supported = supported;
    }

    /// What the configuration says now; the caller releases the groups.
    pub(super) fn set_allowed(&mut self, allowed: bool) {
        self.allowed = allowed;
    }

    /// Objects are made under this protocol number from now on; the caller releases the groups.
    pub(super) fn set_protocol(&mut self, protocol: u8) {
        if std::mem::replace(&mut self.protocol, protocol) != protocol {
            self.by_gate.clear();
            self.prune = true;
        }
    }

    /// Whether sets are to be written as objects.
    pub(super) fn enabled(&self) -> bool {
        self.supported && self.allowed
    }

    pub(super) fn supported(&self) -> bool {
        self.supported
    }

    /// Objects in the kernel that are ours: singles, groups.
    pub(super) fn counts(&self) -> (usize, usize) {
        let singles = self.singles.values().filter(|single| single.have == Presence::Present);
        let groups = self.groups.values().filter(|group| group.have == Presence::Present);
        (singles.count(), groups.count())
    }

    /// Whether a target can be written as a group: every hop is a neighbour over an interface. A
    /// preferred source is the route's own and would not move with the object.
    pub(super) fn fits(target: &Target) -> bool {
        let hops = target.hops();
        target.source().is_none() && !hops.is_empty() && hops.iter().all(|hop| gate(hop).is_some())
    }

    /// Whether an object of ours leads over the interface.
    pub(super) fn uses(&self, interface: u32) -> bool {
        self.singles.values().any(|single| single.gate.interface == interface)
    }

    /// Whether the object is one of ours.
    pub(super) fn knows(&self, id: u32) -> bool {
        self.groups.contains_key(&id) || self.singles.contains_key(&id)
    }

    /// A group for the set, which is to lead to `target`: one of a former life that does already
    /// where there is one (that with the most `users`), else a new one.
    pub(super) fn claim(
        &mut self,
        set: SetId,
        target: &Arc<Target>,
        users: impl Fn(u32) -> u32,
    ) -> u32 {
        let fits = |id: &u32| {
            self.groups.get(id).is_some_and(|group| {
                !group.busy
                    && group.protocol == self.protocol
                    && group.effective.as_ref() == Some(target)
            })
        };
        let found = self.unclaimed.iter().copied().filter(fits).max_by_key(|id| users(*id));
        let id = found.unwrap_or_else(|| {
            let id = self.free_id();
            self.groups.insert(id, Group::new(self.protocol));
            id
        });
        self.unclaimed.remove(&id);
        if let Some(group) = self.groups.get_mut(&id) {
            group.set = Some(set);
        }
        self.set_want(id, Some(target.clone()));
        id
    }

    /// The set's routes do not want the group any more; it goes when nothing uses it.
    pub(super) fn release(&mut self, id: u32) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.set = None;
        group.want = None;
        self.dirty.remove(&id);
        self.waiting.remove(&id);
        if group.have == Presence::Absent && !group.busy {
            self.groups.remove(&id);
            self.prune = true;
        } else {
            self.unclaimed.insert(id);
        }
    }

    /// Where the group is to lead; `None`: leave it as it is.
    pub(super) fn set_want(&mut self, id: u32, want: Option<Arc<Target>>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.want = want;
        group.tries = 0;
        self.dirty.insert(id);
    }

    /// Looks at a group that somebody waits for.
    pub(super) fn poke(&mut self, id: u32) {
        if self.groups.contains_key(&id) {
            self.dirty.insert(id);
        }
    }

    /// Where packets go that take the group.
    pub(super) fn effective(&self, id: u32) -> Option<&Arc<Target>> {
        self.groups.get(&id)?.effective.as_ref()
    }

    /// Whether the group leads where it is to.
    pub(super) fn ready(&self, id: u32, target: &Arc<Target>) -> bool {
        self.effective(id).is_some_and(|known| Arc::ptr_eq(known, target) || known == target)
    }

    /// Whether routes may refer to it: it is ready, or will be when the write before theirs is done.
    pub(super) fn usable(&self, id: u32, target: &Arc<Target>) -> bool {
        let pending = self.groups.get(&id).and_then(|group| group.pending.as_ref());
        self.ready(id, target) || pending == Some(target)
    }

    /// A group that somebody deletes again and again waits until [`Objects::go_on`].
    pub(super) fn wait(&mut self, id: u32) {
        self.waiting.insert(id);
    }

    /// Ends the wait.
    pub(super) fn go_on(&mut self, id: u32) {
        if self.waiting.remove(&id) {
            self.poke(id);
        }
    }

    /// The kernel refused a route that refers to the group.
    pub(super) fn suspect(&mut self, id: u32) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.suspect = true;
        }
        self.recheck = true;
    }

    /// Somebody was heard to change an object of ours, or its link has changed (`None`).
    pub(super) fn doubt(&mut self, by: Option<(u32, u32)>) {
        if let Some((id, port)) = by {
            self.culprits.insert(id, port);
        }
        self.recheck |= self.supported;
    }

    /// Whether the objects are to be listed now.
    pub(super) fn begin_recheck(&mut self) -> bool {
        if self.rechecking || !self.recheck {
            return false;
        }
        self.recheck = false;
        self.rechecking = true;
        true
    }

    /// A list could not be had.
    pub(super) fn recheck_failed(&mut self) {
        self.rechecking = false;
        self.recheck = true;
    }

    /// Nothing is on its way or waits to be written.
    pub(super) fn idle(&self) -> bool {
        self.in_flight == 0 && self.dirty.is_empty() && !self.recheck && !self.rechecking
    }

    /// Nothing is on its way to the kernel.
    pub(super) fn quiet(&self) -> bool {
        self.in_flight == 0
    }

    /// The next writes: of one job, in this order.
    pub(super) fn next_writes(&mut self) -> Vec<ObjectWrite> {
        let mut writes = Vec::new();
        if self.recheck || self.rechecking {
            // What is there is not known just now.
            return writes;
        }
        for id in std::mem::take(&mut self.dirty) {
            self.prepare(id, &mut writes);
        }
        self.in_flight += writes.len();
        writes
    }

    /// Whether something is there that nobody uses.
    pub(super) fn superfluous(&self, users: impl Fn(u32) -> u32) -> bool {
        self.prune || self.unclaimed.iter().any(|id| users(*id) == 0)
    }

    /// Deletions of what nobody uses. To be called only when no route that might use a group is on
    /// its way or unknown.
    pub(super) fn next_deletions(&mut self, users: impl Fn(u32) -> u32) -> Vec<ObjectWrite> {
        if !self.idle() {
            return Vec::new();
        }
        let protocol = self.protocol;
        let delete = |id| ObjectWrite { id, protocol, action: ObjectAction::Delete };
        let mut writes = Vec::new();
        for id in self.unclaimed.iter().copied().filter(|id| users(*id) == 0) {
            if let Some(group) = self.groups.get_mut(&id)
                && !group.busy
            {
                group.busy = true;
                writes.push(delete(id));
            }
        }
        if std::mem::take(&mut self.prune) {
            let used: HashSet<u32, FixedState> = self
                .groups
                .values()
                .flat_map(|group| group.members.iter().map(|member| member.id))
                .collect();
            for (id, single) in self.singles.iter_mut().filter(|(id, _)| !used.contains(*id)) {
                single.busy = true;
                if self.by_gate.get(&single.gate) == Some(id) {
                    self.by_gate.remove(&single.gate);
                }
                writes.push(delete(*id));
            }
        }
        self.in_flight += writes.len();
        writes
    }

    /// Takes the results of a job.
    pub(super) fn done(&mut self, results: Vec<(ObjectWrite, Result<(), WriteError>)>) -> News {
        self.in_flight -= results.len();
        let mut news = News::default();
        for (ObjectWrite { id, action, .. }, result) in results {
            match action {
                ObjectAction::Single(_) => self.single_done(id, result),
                ObjectAction::Group { members, .. } => {
                    self.group_done(id, members, result, &mut news);
                }
                ObjectAction::Delete => self.deleted(id, &result),
            }
        }
        news
    }

    /// Takes the kernel's list of all objects. `ours`: whether a protocol number is.
    pub(super) fn observe(
        &mut self,
        objects: Vec<KernelObject>,
        ours: impl Fn(u8) -> bool,
    ) -> News {
        self.rechecking = false;
        self.foreign.clear();
        let mut seen = HashMap::<u32, KernelObject, FixedState>::default();
        for object in objects {
            if object.id >= FIRST_ID && ours(object.protocol) && object.content != Content::Other {
                self.enter(&object);
                seen.insert(object.id, object);
            } else if object.id >= FIRST_ID {
                self.foreign.insert(object.id);
            }
        }
        let mut busy = false;
        for (id, single) in &mut self.singles {
            if single.busy {
                busy = true;
                continue;
            }
            single.have = match seen.get(id).map(|object| &object.content) {
                Some(Content::Single(gate)) if *gate == single.gate => Presence::Present,
                _ => Presence::Absent,
            };
        }
        let mut news = News::default();
        let ids: Vec<u32> = self.groups.keys().copied().collect();
        for id in ids {
            busy |= self.observe_group(id, seen.get(&id), &mut news);
        }
        // What a single of another gate's id has become is of no use; it is made under a new id.
        self.singles.retain(|id, single| {
            let keep = single.busy || single.have == Presence::Present;
            if !keep && self.by_gate.get(&single.gate) == Some(id) {
                self.by_gate.remove(&single.gate);
            }
            keep
        });
        self.culprits.clear();
        self.prune = true;
        // A list says nothing about what was on its way meanwhile.
        self.recheck |= busy;
        news
    }

    fn enter(&mut self, object: &KernelObject) {
        match &object.content {
            Content::Single(gate) if !self.singles.contains_key(&object.id) => {
                let single = Single { gate: *gate, have: Presence::Present, busy: false };
                self.singles.insert(object.id, single);
                if object.protocol == self.protocol {
                    self.by_gate.entry(*gate).or_insert(object.id);
                }
            }
            Content::Group(_) if !self.groups.contains_key(&object.id) => {
                self.groups.insert(object.id, Group::new(object.protocol));
                self.unclaimed.insert(object.id);
            }
            _ => {}
        }
    }

    /// Says whether a write of it is on its way, so that the list is not believed.
    fn observe_group(&mut self, id: u32, object: Option<&KernelObject>, news: &mut News) -> bool {
        let members = match object.map(|object| &object.content) {
            Some(Content::Group(members)) => members.clone(),
            _ => Members::new(),
        };
        let effective = self.comes_to(id, &members);
        let Some(group) = self.groups.get_mut(&id) else { return false };
        if group.busy {
            return true;
        }
        let had = group.have == Presence::Present;
        let same = group.members == members;
        let set = group.set;
        // The single behind it, where that is what somebody deleted.
        let heard = || group.members.iter().find_map(|member| self.culprits.get(&member.id));
        let port = self.culprits.get(&id).or_else(heard).copied();
        let finding = Finding { group: id, set, port };
        group.have = if object.is_some() { Presence::Present } else { Presence::Absent };
        group.members = members;
        group.effective = effective;
        let suspect = std::mem::take(&mut group.suspect);
        if object.is_none() {
            if had {
                news.gone.push(finding);
            }
            if set.is_none() {
                self.groups.remove(&id);
                self.unclaimed.remove(&id);
                return false;
            }
        } else if let (true, Some(set)) = (suspect && same, set) {
            // It is there, and yet routes with it are refused.
            news.surrendered.push(set);
        } else if had && !same && set.is_some() && port.is_some() {
            news.changed.push(finding);
        }
        if let Some(group) = self.groups.get(&id)
            && group.want.is_some()
        {
            if group.want == group.effective {
                news.ready.extend(set);
            }
            self.dirty.insert(id);
        }
        false
    }

    /// The target of a group with these members, shared with the wish where it is the same.
    fn comes_to(&self, id: u32, members: &Members) -> Option<Arc<Target>> {
        let mut hops = Hops::new();
        for member in members {
            let Gate { via, interface, onlink } = self.singles.get(&member.id)?.gate;
            hops.push(Hop { via: Some(via), interface, onlink, hops: member.hops });
        }
        if hops.is_empty() {
            return None;
        }
        hops.sort_unstable();
        let target = Target::Unicast { hops, source: None };
        match self.groups.get(&id).and_then(|group| group.want.as_ref()) {
            Some(want) if **want == target => Some(want.clone()),
            _ => Some(Arc::new(target)),
        }
    }

    fn prepare(&mut self, id: u32, writes: &mut Vec<ObjectWrite>) {
        let Some(group) = self.groups.get(&id) else { return };
        let Some(want) = group.want.clone() else { return };
        if group.busy || group.effective.as_ref() == Some(&want) || self.waiting.contains(&id) {
            return;
        }
        let hops = want.hops();
        let replace = group.have == Presence::Present;
        let protocol = self.protocol;
        let mut members = Members::new();
        for hop in hops {
            let Some(gate) = gate(hop) else { return };
            let single = self.single(gate, protocol, writes);
            members.push(Member { id: single, hops: hop.hops });
        }
        members.sort_unstable();
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.busy = true;
        group.pending = Some(want.clone());
        // From now on its singles are in use.
        group.members.clone_from(&members);
        let action = ObjectAction::Group { members, replace };
        writes.push(ObjectWrite { id, protocol, action });
    }

    /// The single for a gate, made where it is not there.
    fn single(&mut self, gate: Gate, protocol: u8, writes: &mut Vec<ObjectWrite>) -> u32 {
        if let Some(id) = self.by_gate.get(&gate) {
            return *id;
        }
        let id = self.free_id();
        self.singles.insert(id, Single { gate, have: Presence::Absent, busy: true });
        self.by_gate.insert(gate, id);
        writes.push(ObjectWrite { id, protocol, action: ObjectAction::Single(gate) });
        id
    }

    fn single_done(&mut self, id: u32, result: Result<(), WriteError>) {
        let Some(single) = self.singles.get_mut(&id) else { return };
        single.busy = false;
        match result {
            Ok(()) => single.have = Presence::Present,
            Err(WriteError::Lost(_)) => {
                single.have = Presence::Unknown;
                self.recheck = true;
            }
            Err(WriteError::Refused(error)) => {
                if error.errno == libc::EEXIST {
                    self.foreign.insert(id);
                }
                let gate = single.gate;
                self.singles.remove(&id);
                self.by_gate.remove(&gate);
            }
        }
    }

    fn group_done(
        &mut self,
        id: u32,
        members: Members,
        result: Result<(), WriteError>,
        news: &mut News,
    ) {
        let effective = self.comes_to(id, &members);
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.busy = false;
        group.pending = None;
        match result {
            Ok(()) => {
                group.have = Presence::Present;
                group.members = members;
                group.effective = effective;
                group.tries = 0;
                self.prune = true;
                if group.want.is_some() && group.want == group.effective {
                    news.ready.extend(group.set);
                } else {
                    self.dirty.insert(id);
                }
            }
            Err(error) => {
                // It may have gone with its link, or been taken: only a list can tell.
                self.recheck = true;
                group.effective = None;
                if let WriteError::Refused(error) = error {
                    tracing::debug!(group = id, %error, "the kernel refused a group of next hops");
                    group.tries += 1;
                    if group.tries >= TRIES || error.errno == libc::EEXIST {
                        group.tries = 0;
                        news.surrendered.extend(group.set);
                    }
                }
            }
        }
    }

    fn deleted(&mut self, id: u32, result: &Result<(), WriteError>) {
        match result {
            Err(WriteError::Lost(_)) => self.recheck = true,
            Err(WriteError::Refused(error)) if error.errno != libc::ENOENT => {
                tracing::warn!(id, %error, "the kernel keeps a nexthop object nobody uses");
            }
            _ => {}
        }
        self.prune |= self.groups.remove(&id).is_some();
        self.unclaimed.remove(&id);
        self.singles.remove(&id);
    }

    fn free_id(&self) -> u32 {
        (FIRST_ID..)
            .find(|id| {
                !self.groups.contains_key(id)
                    && !self.singles.contains_key(id)
                    && !self.foreign.contains(id)
            })
            .expect("fewer objects than ids")
    }
}

fn gate(hop: &Hop) -> Option<Gate> {
    let via = hop.via.filter(|_| hop.interface != 0)?;
    Some(Gate { via, interface: hop.interface, onlink: hop.onlink })
}

#[cfg(test)]
mod tests;
