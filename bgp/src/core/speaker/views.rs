//! Views: what the tables hold and why, as plain values.
//!
//! Reasons are not stored: import, decision and export are asked again, with the configuration that
//! was in force when they decided, because a change of it decides again at once.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use routelet_proto::{Family, NlriPrefix, PathAttributes};

use super::Speaker;
use super::attrs::AttrId;
use super::decision::Selection;
use super::export::{ExportKey, Source};
use super::peers::{Peer, Slot};
use super::rib::{Rib, explain};
use super::shared::Shared;
use super::table::{CHANGED, Path, REJECTED, SERVICE, STALE};
use crate::core::config::OriginatedKind;
use crate::core::forwarding::NextHopState;
use crate::core::view::{
    DecisionStep, ExplainView, ExportReason, ExportVerdict, FamilyCounts, Ineligible, NotInstalled,
    PathExplanation, PathReason, PeerTableView, RouteQuery, RouteSelector, RouteSource, RouteTable,
    RouteView,
};

impl Speaker {
    pub(super) fn peer_views(&self) -> Vec<PeerTableView> {
        let mut views: Vec<_> =
            self.shared.peers.iter().map(|(slot, peer)| self.peer_view(slot, peer)).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    fn peer_view(&self, slot: Slot, peer: &Peer) -> PeerTableView {
        let groups = |family: Family| {
            let number = peer.group[family.index()]?;
            let group = match family {
                Family::Ipv4Unicast => self.v4.groups.get(number),
                Family::Ipv6Unicast => self.v6.groups.get(number),
            };
            Some((number, group?))
        };
        let counts = |family: Family| FamilyCounts {
            received: peer.received[family.index()],
            accepted: peer.accepted[family.index()],
            advertised: groups(family).map_or(0, |(_, group)| group.advertised(slot)),
        };
        let number = Family::ALL.into_iter().find_map(groups).map(|(number, _)| number);
        let pending = Family::ALL.into_iter().filter_map(groups);
        let pending = pending.map(|(_, group)| group.pending_for(slot)).sum();
        PeerTableView {
            peer: peer.id,
            name: peer.config.name.clone(),
            up: peer.up,
            families: Family::ALL.map(counts),
            end_of_rib: peer.end_of_rib,
            disabled: peer.disabled.clone(),
            stale: peer.stale,
            group: number.map(|number| (number, pending)),
        }
    }

    pub(super) fn route_views(&self, query: &RouteQuery) -> Vec<RouteView> {
        let mut views = Vec::new();
        let wants = |family| query.family.is_none_or(|wanted| wanted == family);
        if wants(Family::Ipv4Unicast) {
            self.v4.views(&self.shared, query, &mut views);
        }
        if wants(Family::Ipv6Unicast) {
            self.v6.views(&self.shared, query, &mut views);
        }
        views
    }

    pub(super) fn explanation(&self, selector: RouteSelector) -> ExplainView {
        let v4 = match selector {
            RouteSelector::All => true,
            RouteSelector::Exact(prefix) => matches!(prefix, IpNet::V4(_)),
            RouteSelector::Longest(address) => matches!(address, IpAddr::V4(_)),
        };
        if v4 {
            self.v4.explanation(&self.shared, selector)
        } else {
            self.v6.explanation(&self.shared, selector)
        }
    }
}

impl<P: NlriPrefix> Rib<P> {
    /// Destinations that a selector means, sorted by prefix.
    fn selected(&self, selector: RouteSelector) -> Vec<u32> {
        match selector {
            RouteSelector::All => {
                let mut ids: Vec<u32> =
                    (0..self.table.end()).filter(|id| !self.table[*id].paths.is_empty()).collect();
                ids.sort_unstable_by_key(|id| self.table[*id].prefix);
                ids
            }
            RouteSelector::Exact(prefix) => P::from_ipnet(prefix.trunc())
                .and_then(|prefix| self.table.find(&prefix))
                .filter(|id| !self.table[*id].paths.is_empty())
                .into_iter()
                .collect(),
            RouteSelector::Longest(address) => self.table.longest(address).into_iter().collect(),
        }
    }

    fn views(&self, shared: &Shared, query: &RouteQuery, out: &mut Vec<RouteView>) {
        let ids = self.selected(query.selector);
        match &query.table {
            RouteTable::All => {
                for id in ids {
                    out.extend(self.paths(shared, id).into_iter().map(|(_, view)| view));
                }
            }
            RouteTable::Received(name) => {
                let Some(slot) = shared.peers.by_name(name) else { return };
                for id in ids {
                    for (path, mut view) in self.paths(shared, id) {
                        if path.peer == slot {
                            view.attributes = attributes(shared, self.received(id, &path));
                            out.push(view);
                        }
                    }
                }
            }
            RouteTable::Advertised(name) => {
                let Some(slot) = shared.peers.by_name(name) else { return };
                let number = shared.peers[slot].group[P::FAMILY.index()];
                let Some(group) = number.and_then(|number| self.groups.get(number)) else { return };
                for id in ids.into_iter().filter(|id| group.exports(*id)) {
                    let best = self.paths(shared, id).into_iter().next();
                    let Some((path, mut view)) = best.filter(|(path, _)| path.peer != slot) else {
                        continue;
                    };
                    let source = Source::of(path.peer, &shared.peers);
                    let stored = &shared.attrs.get(path.attrs).attributes;
                    if let Some(sent) = group.key.rewrite.apply(source, stored) {
                        view.attributes = Arc::new(sent);
                        out.push(view);
                    }
                }
            }
        }
    }

    /// The paths of a destination: the best first, then in the order of preference, ineligible
    /// ones last.
    fn paths(&self, shared: &Shared, id: u32) -> Vec<(Path, RouteView)> {
        let destination = &self.table[id];
        let (selection, steps) = explain(&destination.paths, shared);
        let mut views: Vec<_> = destination
            .paths
            .iter()
            .enumerate()
            .map(|(index, path)| {
                let reason = self.reason(shared, id, path, index, &selection, steps[index]);
                (*path, self.view(shared, id, path, reason))
            })
            .collect();
        views.sort_by_key(|(path, view)| (rank(&view.reason), path.peer, path.path_id));
        views
    }

    fn view(&self, shared: &Shared, id: u32, path: &Path, reason: PathReason) -> RouteView {
        let prefix: IpNet = self.table[id].prefix.into();
        let local = path.peer == Slot::LOCAL;
        let source = if local {
            RouteSource::Local(if path.has(SERVICE) {
                OriginatedKind::Service
            } else {
                OriginatedKind::PodCidr
            })
        } else {
            let peer = &shared.peers[path.peer];
            RouteSource::Peer(peer.id, peer.config.name.clone())
        };
        let best = matches!(reason, PathReason::Best(_));
        let multipath = matches!(reason, PathReason::Multipath);
        let not_installed = match () {
            () if local => Some(NotInstalled::Local),
            () if shared.is_service(prefix) => Some(NotInstalled::Service),
            () if !shared.config.track_next_hops => Some(NotInstalled::NoKernel),
            () => None,
        };
        RouteView {
            prefix,
            path_id: path.path_id,
            source,
            attributes: attributes(shared, path.attrs),
            best,
            multipath,
            stale: path.has(STALE),
            reason,
            not_installed: not_installed.filter(|_| best || multipath),
            learned: shared.instant(path.learned),
        }
    }

    fn reason(
        &self,
        shared: &Shared,
        id: u32,
        path: &Path,
        index: usize,
        selection: &Selection,
        lost: Option<DecisionStep>,
    ) -> PathReason {
        if path.has(REJECTED) {
            let import = shared.import(path.peer);
            let received = &shared.attrs.get(self.received(id, path)).attributes;
            let prefix = self.table[id].prefix.into();
            let reason = import
                .check_attributes(received)
                .or_else(|| import.check_prefix(P::FAMILY, prefix, received).reason());
            return PathReason::Ineligible(reason.unwrap_or(Ineligible::DefaultPolicy));
        }
        if selection.best == Some(index) {
            return PathReason::Best(selection.step);
        }
        if selection.multipath.contains(&index) {
            return PathReason::Multipath;
        }
        if let Some(step) = lost {
            return PathReason::Lost(step);
        }
        let stored = shared.attrs.get(path.attrs);
        PathReason::Ineligible(Ineligible::NextHop(
            stored.attributes.next_hop.address(),
            shared.attrs.next_hops.state(stored.next_hop).clone(),
        ))
    }

    fn explanation(&self, shared: &Shared, selector: RouteSelector) -> ExplainView {
        let Some(id) = self.selected(selector).into_iter().next() else {
            return ExplainView { prefix: None, paths: Vec::new(), exports: Vec::new() };
        };
        let prefix: IpNet = self.table[id].prefix.into();
        let paths = self
            .paths(shared, id)
            .into_iter()
            .map(|(path, route)| PathExplanation {
                import_rule: import_rule::<P>(shared, &path, prefix),
                next_hop: next_hop(shared, &path),
                received: path.has(CHANGED).then(|| attributes(shared, self.received(id, &path))),
                route,
            })
            .collect();
        let mut exports: Vec<_> = shared
            .peers
            .iter()
            .map(|(slot, peer)| (peer.config.name.clone(), self.verdict(shared, id, slot, peer)))
            .collect();
        exports.sort_by(|a, b| a.0.cmp(&b.0));
        ExplainView { prefix: Some(prefix), paths, exports }
    }

    /// What is done with a destination towards a peer.
    fn verdict(&self, shared: &Shared, id: u32, slot: Slot, peer: &Peer) -> ExportVerdict {
        let refused = ExportVerdict::NotAdvertised;
        if !peer.up {
            return refused(ExportReason::PeerDown);
        }
        if !peer.families().contains(P::FAMILY) {
            return refused(ExportReason::FamilyNotNegotiated);
        }
        let Some(best) = self.table[id].best() else {
            return refused(ExportReason::NoBestPath);
        };
        if best.peer == slot {
            return refused(ExportReason::SplitHorizon);
        }
        let Some(key) = ExportKey::new(&shared.config, peer, P::FAMILY) else {
            return refused(ExportReason::PeerDown);
        };
        let source = Source::of(best.peer, &shared.peers);
        let stored = &shared.attrs.get(best.attrs).attributes;
        let verdict = key.decide(source, stored, self.table[id].prefix.into());
        if verdict.sends() {
            ExportVerdict::Advertised(verdict.reason())
        } else {
            refused(verdict.reason())
        }
    }
}

fn attributes(shared: &Shared, id: AttrId) -> Arc<PathAttributes> {
    Arc::new(shared.attrs.get(id).attributes.clone())
}

fn import_rule<P: NlriPrefix>(
    shared: &Shared,
    path: &Path,
    prefix: IpNet,
) -> Option<(Arc<str>, usize)> {
    if path.peer == Slot::LOCAL {
        return None;
    }
    let rule = shared.import(path.peer).peer.config.rules.first_import(P::FAMILY, prefix)?;
    Some((rule.filter.clone(), rule.index))
}

fn next_hop(shared: &Shared, path: &Path) -> NextHopState {
    shared.attrs.next_hops.state(shared.attrs.get(path.attrs).next_hop).clone()
}

/// Order of display: the later a path lost, the nearer it was.
fn rank(reason: &PathReason) -> u8 {
    match reason {
        PathReason::Best(_) => 0,
        PathReason::Multipath => 1,
        PathReason::Lost(step) => 32 - *step as u8,
        PathReason::Ineligible(_) => 64,
    }
}
