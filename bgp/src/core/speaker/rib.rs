//! One family's table with its update groups: where a path's change becomes what it causes.
//!
//! Every change of paths goes through [`Rib::change`]: it decides anew and, if the best path is
//! another, tells the groups; if the set of next hops is another, it tells the kernel.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use ipnet::IpNet;
use routelet_proto::{NextHop, Nlri, NlriPrefix, Origin, PathAttributes, PathId};
use smallvec::SmallVec;

use super::Output;
use super::attrs::AttrId;
use super::decision::{Candidate, Candidates, Selection, select};
use super::forward::Groups;
use super::import::Verdict;
use super::peers::Slot;
use super::shared::Shared;
use super::table::{
    BEST, CHANGED, Destination, MULTIPATH, Path, Paths, REJECTED, SERVICE, STALE, Table,
    UNREFRESHED, unspecified,
};
use crate::core::config::OriginatedKind;
use crate::core::forwarding::{NextHopSet, RouteChange};
use crate::core::view::DecisionStep;

/// A family's destinations and groups.
#[derive(Debug)]
pub(super) struct Rib<P> {
    pub(super) table: Table<P>,
    pub(super) groups: Groups,
    /// Attributes as received, of paths on which policy changed something.
    received: HashMap<(u32, Slot, PathId), AttrId, FixedState>,
    /// Destinations that start here, in the order configured.
    pub(super) own: Vec<u32>,
}

/// A path as import leaves it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Imported {
    pub(super) received: AttrId,
    pub(super) attrs: AttrId,
    pub(super) rejected: bool,
}

impl<P: NlriPrefix> Rib<P> {
    pub(super) fn new() -> Self {
        Self {
            table: Table::new(),
            groups: Groups::default(),
            received: HashMap::default(),
            own: Vec::new(),
        }
    }

    /// Sets a peer's path of a destination; `keep` are flags that a path already there does not lose.
    pub(super) fn place(
        &mut self,
        shared: &mut Shared,
        slot: Slot,
        id: u32,
        path_id: PathId,
        new: Imported,
        keep: u16,
    ) {
        let changed = new.received != new.attrs;
        let flags = if new.rejected { REJECTED } else { 0 } | if changed { CHANGED } else { 0 };
        let paths = &mut self.table[id].paths;
        let found = paths.iter().position(|path| path.peer == slot && path.path_id == path_id);
        let family = P::FAMILY.index();
        let mut learned = shared.tick();
        if let Some(place) = found {
            let old = &mut paths[place];
            let old_received = received_of(&self.received, id, old);
            if old_received == new.received
                && old.attrs == new.attrs
                && old.flags & (REJECTED | CHANGED) == flags
            {
                old.flags &= !(STALE | UNREFRESHED) | keep;
                return;
            }
            if old_received == new.received {
                learned = old.learned;
            }
        }
        shared.attrs.retain(new.attrs);
        if changed {
            shared.attrs.retain(new.received);
        }
        let next_hop = shared.attrs.get(new.attrs).next_hop;
        shared.attrs.next_hops.used_by(next_hop, P::FAMILY, id);
        let path = |old: u16| Path {
            attrs: new.attrs,
            learned,
            path_id,
            peer: slot,
            flags: flags | old & keep,
        };
        let old = self.change(shared, id, |paths| match found {
            Some(place) => {
                let old = paths[place];
                paths[place] = path(old.flags);
                Some(old)
            }
            None => {
                paths.push(path(0));
                None
            }
        });
        let peer = &mut shared.peers[slot];
        peer.accepted[family] += usize::from(!new.rejected);
        if let Some(old) = old {
            peer.accepted[family] -= usize::from(!old.has(REJECTED));
            self.release(shared, id, &old);
        } else {
            peer.received[family] += 1;
            peer.paths[family].insert(id);
        }
        if changed {
            self.received.insert((id, slot, path_id), new.received);
        }
    }

    /// A peer withdraws paths.
    pub(super) fn withdraw(&mut self, shared: &mut Shared, slot: Slot, nlri: &Nlri) {
        // Look-ups that wait for memory overlap when nothing else is between them.
        let known: SmallVec<[(PathId, u32); 8]> = nlri
            .iter()
            .filter_map(|(path_id, prefix)| Some((path_id, self.table.find(&prefix)?)))
            .collect();
        for (path_id, id) in known {
            self.remove(shared, slot, id, |path| path.path_id == path_id);
        }
    }

    /// Removes a peer's paths for which `which` says so.
    pub(super) fn remove_all(
        &mut self,
        shared: &mut Shared,
        slot: Slot,
        which: impl Fn(&Path) -> bool,
    ) {
        let ids: Vec<u32> = shared.peers[slot].paths[P::FAMILY.index()].iter().collect();
        for id in ids {
            self.remove(shared, slot, id, &which);
        }
    }

    fn remove(&mut self, shared: &mut Shared, slot: Slot, id: u32, which: impl Fn(&Path) -> bool) {
        let goes = |path: &Path| path.peer == slot && which(path);
        if !self.table.get(id).is_some_and(|destination| destination.paths.iter().any(&goes)) {
            return;
        }
        let mut gone = Paths::new();
        let last = self.change(shared, id, |paths| {
            paths.retain(|path| {
                let goes = goes(path);
                if goes {
                    gone.push(*path);
                }
                !goes
            });
            paths.iter().all(|path| path.peer != slot)
        });
        let family = P::FAMILY.index();
        if slot != Slot::LOCAL {
            let peer = &mut shared.peers[slot];
            peer.received[family] -= gone.len();
            peer.accepted[family] -= gone.iter().filter(|path| !path.has(REJECTED)).count();
            if last {
                peer.paths[family].remove(id);
            }
        }
        for path in &gone {
            self.release(shared, id, path);
        }
        self.table.free_if_unused(id);
    }

    /// Sets a flag on every path of a peer, without any effect on the decision.
    pub(super) fn mark(&mut self, shared: &Shared, slot: Slot, flag: u16) {
        for id in shared.peers[slot].paths[P::FAMILY.index()].iter() {
            for path in self.table[id].paths.iter_mut().filter(|path| path.peer == slot) {
                path.flags |= flag;
            }
        }
    }

    /// Imports a peer's paths again after its policy changed.
    pub(super) fn import_again(&mut self, shared: &mut Shared, slot: Slot) {
        let ids: Vec<u32> = shared.peers[slot].paths[P::FAMILY.index()].iter().collect();
        for id in ids {
            let paths: Vec<(PathId, AttrId)> = self.table[id]
                .paths
                .iter()
                .filter(|path| path.peer == slot)
                .map(|path| (path.path_id, received_of(&self.received, id, path)))
                .collect();
            for (path_id, received) in paths {
                let import = shared.import(slot);
                let attributes = &shared.attrs.get(received).attributes;
                let rejected = import.check_attributes(attributes).is_some()
                    || !matches!(
                        import.check_prefix(P::FAMILY, self.table[id].prefix.into(), attributes),
                        Verdict::Accept(_)
                    );
                let changed = import.transform(attributes);
                let interface = import.peer.interface();
                let attrs = match changed {
                    Some(changed) => shared.attrs.intern(&changed, interface),
                    None => {
                        shared.attrs.retain(received);
                        received
                    }
                };
                let new = Imported { received, attrs, rejected };
                self.place(shared, slot, id, path_id, new, STALE | UNREFRESHED);
                shared.attrs.release(attrs);
            }
        }
    }

    /// Attributes of a path as received.
    pub(super) fn received(&self, id: u32, path: &Path) -> AttrId {
        received_of(&self.received, id, path)
    }

    /// Adds a route that starts here.
    pub(super) fn originate(&mut self, shared: &mut Shared, prefix: P, kind: OriginatedKind) {
        let next_hop = NextHop::from(unspecified(matches!(prefix.into(), IpNet::V4(_))));
        let attributes = PathAttributes::originated(Origin::Igp, next_hop);
        let attrs = shared.attrs.intern_local(&attributes);
        let id = self.table.find_or_insert(prefix);
        self.own.push(id);
        let path = Path {
            attrs,
            learned: shared.tick(),
            path_id: 0,
            peer: Slot::LOCAL,
            flags: if kind == OriginatedKind::Service { SERVICE } else { 0 },
        };
        self.change(shared, id, |paths| paths.push(path));
    }

    /// Removes a route that starts here.
    pub(super) fn cease(&mut self, shared: &mut Shared, prefix: P) {
        let Some(id) = self.table.find(&prefix) else { return };
        self.own.retain(|own| *own != id);
        self.remove(shared, Slot::LOCAL, id, |_| true);
    }

    /// Decides destinations again because something they depend on changed.
    pub(super) fn decide_again(&mut self, shared: &mut Shared, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            if self.table.get(id).is_some_and(|destination| !destination.paths.is_empty()) {
                self.change(shared, id, |_| ());
            }
        }
    }

    /// Exports the best paths of a peer again, after what it is to us as a source has changed.
    pub(super) fn export_again(&mut self, shared: &mut Shared, slot: Slot) {
        for id in shared.peers[slot].paths[P::FAMILY.index()].iter() {
            let destination = &mut self.table[id];
            let best = destination.best().filter(|best| best.peer == slot);
            if let Some(best) = best.map(|best| (best.peer, best.attrs)) {
                self.groups.change(shared, destination, id, Some(slot), Some(best));
            }
        }
    }

    /// Notes anew which destinations use which next hop, after tracking was switched on.
    pub(super) fn note_next_hops(&self, shared: &mut Shared) {
        for id in 0..self.table.end() {
            for path in &self.table[id].paths {
                let next_hop = shared.attrs.get(path.attrs).next_hop;
                shared.attrs.next_hops.used_by(next_hop, P::FAMILY, id);
            }
        }
    }

    /// Tells the kernel of every destination for which that is other than it was.
    pub(super) fn install_again(&self, shared: &mut Shared, installed: impl Fn(IpNet) -> bool) {
        for id in 0..self.table.end() {
            let prefix = self.table[id].prefix.into();
            let installs = shared.installs(prefix);
            if installed(prefix) == installs {
                continue;
            }
            let set = shared.next_hops(&self.table[id]);
            if !set.is_empty() {
                let next_hops = if installs { set } else { NextHopSet::new() };
                let decided = shared.now;
                let change = RouteChange { prefix, next_hops, decided };
                shared.outputs.push_back(Output::RouteChanged(change));
            }
        }
    }

    fn release(&mut self, shared: &mut Shared, id: u32, path: &Path) {
        shared.attrs.release(path.attrs);
        if path.has(CHANGED)
            && let Some(received) = self.received.remove(&(id, path.peer, path.path_id))
        {
            shared.attrs.release(received);
        }
    }

    /// Changes a destination's paths, decides, and passes on what is different then. Attributes
    /// that the change drops must be released after it, not before: their number tells whether the
    /// best path is another.
    fn change<R>(
        &mut self,
        shared: &mut Shared,
        id: u32,
        change: impl FnOnce(&mut Paths) -> R,
    ) -> R {
        let destination = &mut self.table[id];
        let prefix = destination.prefix.into();
        let installs = shared.installs(prefix);
        let best = |destination: &Destination<P>| {
            destination.best().map(|best| (best.peer, best.path_id, best.attrs))
        };
        let old = best(destination);
        let old_next_hops =
            if installs { shared.next_hops(destination) } else { NextHopSet::new() };
        let result = change(&mut destination.paths);
        decide(&mut destination.paths, shared);
        let new = best(destination);
        if installs {
            let next_hops = shared.next_hops(destination);
            if next_hops != old_next_hops {
                let change = RouteChange { prefix, next_hops, decided: shared.now };
                shared.outputs.push_back(Output::RouteChanged(change));
            }
        }
        if old != new {
            let old = old.map(|(peer, ..)| peer);
            let new = new.map(|(peer, _, attrs)| (peer, attrs));
            self.groups.change(shared, destination, id, old, new);
        }
        result
    }
}

fn received_of(
    received: &HashMap<(u32, Slot, PathId), AttrId, FixedState>,
    id: u32,
    path: &Path,
) -> AttrId {
    if !path.has(CHANGED) {
        return path.attrs;
    }
    received.get(&(id, path.peer, path.path_id)).copied().unwrap_or(path.attrs)
}

/// Runs the decision process: sets the flags and puts the best path first.
fn decide(paths: &mut Paths, shared: &Shared) {
    for path in paths.iter_mut() {
        path.flags &= !(BEST | MULTIPATH);
    }
    let selection = match &paths[..] {
        [] => return,
        [path] => {
            if metric(path, shared).is_some() {
                paths[0].flags |= BEST | MULTIPATH;
            }
            return;
        }
        paths => select(&mut candidates(paths, shared), shared.config.maximum_paths, |_, _| ()),
    };
    for index in &selection.multipath {
        paths[*index].flags |= MULTIPATH;
    }
    if let Some(best) = selection.best {
        paths[best].flags |= BEST;
        paths.swap(0, best);
    }
}

/// Decides without changing anything, and says at which step each path lost.
pub(super) fn explain(paths: &[Path], shared: &Shared) -> (Selection, Vec<Option<DecisionStep>>) {
    let mut steps = vec![None; paths.len()];
    let mut candidates = candidates(paths, shared);
    let selection = select(&mut candidates, shared.config.maximum_paths, |index, step| {
        steps[index] = Some(step);
    });
    (selection, steps)
}

/// The metric of a path's next hop if the path may take part in the decision.
fn metric(path: &Path, shared: &Shared) -> Option<u32> {
    if path.has(REJECTED) {
        return None;
    }
    shared.attrs.next_hops.metric(shared.attrs.get(path.attrs).next_hop)
}

fn candidates(paths: &[Path], shared: &Shared) -> Candidates {
    let eligible = paths.iter().enumerate().filter_map(|(index, path)| {
        let metric = metric(path, shared)?;
        let stored = shared.attrs.get(path.attrs);
        let attributes = &stored.attributes;
        let local = path.peer == Slot::LOCAL;
        let peer = (!local).then(|| &shared.peers[path.peer]);
        let originator = attributes.originator_id().map(|identifier| u32::from(identifier.0));
        Some(Candidate {
            index,
            local,
            local_pref: attributes.local_pref.unwrap_or(100),
            as_path_length: stored.as_path_length,
            origin: attributes.origin,
            med: attributes.med.unwrap_or(0),
            neighbor: attributes.as_path.first_as(),
            external: peer.is_some_and(|peer| peer.external),
            metric,
            identifier: originator.unwrap_or_else(|| peer.map_or(0, |peer| peer.identifier)),
            cluster_list_length: attributes.cluster_list().len(),
            peer_address: peer.map_or(unspecified(true), |peer| peer.address),
            path_id: path.path_id,
            peer: path.peer.0,
        })
    });
    eligible.collect()
}
