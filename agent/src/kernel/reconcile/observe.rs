//! What the reconciler makes of news from the kernel: results of writes, dumps, events.
//!
//! What always holds: a finding about a route whose write is in flight is not believed before the
//! write is answered; results and dumps come in the order in which the writer worked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::FixedState;

use super::super::desired::{Have, Want};
use super::super::monitor::Event;
use super::super::render;
use super::super::route::{Form, KernelRoute, MAIN_TABLE, Target};
use super::super::topology::{Affected, Topology};
use super::super::writer::{Action, JobDone, Snapshot, Territory, Write};
use super::{RECHECK_LONGEST, RECHECK_SHARE, RECHECK_SHORTEST, Recheck, Reconciler};
use crate::netlink::{RequestError, WriteError};

/// Who changed a route of ours.
#[derive(Clone, Copy)]
pub(super) enum Culprit {
    /// Somebody's netlink port; 0: the kernel.
    Port(u32),
    /// Somebody's route took its place.
    Protocol(u8),
    /// Seen in a dump only.
    Unseen,
}

impl Culprit {
    /// Whose notification told of it; without one it was the kernel.
    pub(super) fn of(port: Option<u32>) -> Self {
        Self::Port(port.unwrap_or(0))
    }
}

impl std::fmt::Display for Culprit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(0) => write!(f, "the kernel (link or address change)"),
            Self::Port(port) => write!(f, "netlink port {port}, as a rule that process's id"),
            Self::Protocol(protocol) => write!(f, "proto {}", render::protocol(*protocol)),
            Self::Unseen => write!(f, "unknown, found by a dump"),
        }
    }
}

impl Reconciler {
    /// Takes the result of a job.
    pub(in super::super) fn done(&mut self, done: JobDone, now: Instant) {
        match done {
            JobDone::Written(results) => {
                self.in_flight -= results.len();
                for (write, result) in results {
                    self.written(write, result, now);
                }
            }
            JobDone::Objects(results) => {
                let news = self.objects.done(results);
                self.object_news(news, now);
            }
            JobDone::ObjectList(Ok(objects)) => self.listed_objects(objects, now),
            JobDone::ObjectList(Err(error)) => {
                tracing::warn!(%error, "the kernel's nexthop objects could not be listed");
                self.objects.recheck_failed();
                self.request(Recheck::Own);
            }
            JobDone::Tunnel(results) => self.tunnel_done(results, now),
            JobDone::OwnRoutes(Ok(routes)) => {
                self.dump_finished(now);
                self.own_routes(routes, now);
            }
            JobDone::Everything(Ok(snapshot)) => {
                self.dump_finished(now);
                self.snapshot(*snapshot, now);
            }
            JobDone::OwnRoutes(Err(error)) => self.dump_failed(Recheck::Own, &error, now),
            JobDone::Everything(Err(error)) => self.dump_failed(Recheck::Everything, &error, now),
        }
    }

    /// Takes everything the kernel says: at start, and after an overrun.
    pub(in super::super) fn snapshot(&mut self, snapshot: Snapshot, now: Instant) {
        let Snapshot { links, addresses, routes, objects, neighbours } = snapshot;
        self.objects.set_supported(objects.is_some());
        let (own, foreign): (Vec<_>, Vec<_>) =
            routes.into_iter().partition(|route| self.is_ours(route));
        self.clashes.clear();
        for route in &foreign {
            self.note_clash(route, false);
        }
        let main = foreign.into_iter().filter(|route| self.may_resolve_through(route));
        self.topology = Topology::new(links, addresses, main);
        self.listed_objects(objects, now);
        self.observe_tunnels(now);
        self.tunnels.load_entries(&neighbours);
        self.refresh(&[Affected::All], now);
        self.choose_again(now);
        let adopted = own.len();
        let found = own.iter().map(|route| super::family(route.key.prefix)).collect();
        self.own_routes(own, now);
        if !std::mem::replace(&mut self.loaded, true) {
            (self.adopted, self.found) = (adopted, found);
        }
    }

    /// Takes notifications, in order.
    pub(in super::super) fn events(&mut self, events: Vec<Event>, now: Instant) {
        let (mut affected, mut own) = (Vec::new(), Vec::new());
        let (mut devices, mut entries) = (false, false);
        for event in events {
            devices |= !matches!(event, Event::Route { .. } | Event::RouteGone { .. });
            match event {
                Event::Link(link) => {
                    let (index, used) = (link.index, self.table.uses(link.index));
                    let change = self.topology.link(link);
                    if change != Affected::None {
                        tracing::debug!(link = self.topology.link_name(index), "link changed");
                        // IPv4 routes over it may have gone without a word.
                        if used {
                            self.request(Recheck::Own);
                        }
                        if self.objects.uses(index) {
                            self.objects.doubt(None);
                        }
                    }
                    affected.push(change);
                }
                Event::LinkGone(index) => {
                    if self.objects.uses(index) {
                        self.objects.doubt(None);
                    }
                    if self.table.uses(index) {
                        self.request(Recheck::Own);
                    }
                    affected.push(self.topology.link_gone(index));
                }
                Event::Address(address) => affected.push(self.topology.address(address)),
                Event::AddressGone(address) => {
                    if self.table.uses(address.interface) {
                        self.request(Recheck::Own);
                    }
                    affected.push(self.topology.address_gone(address));
                }
                Event::Route { ref route, .. } | Event::RouteGone { ref route, .. }
                    if self.is_ours(route) =>
                {
                    own.push(event);
                }
                Event::Route { route, replaces, .. } => {
                    affected.push(self.foreign_route(route, replaces, now));
                }
                Event::RouteGone { route, .. } => {
                    affected.push(self.foreign_route_gone(&route, now));
                }
                Event::Object { id, port } => {
                    if self.objects.knows(id) {
                        self.objects.doubt(Some((id, port)));
                    }
                }
                Event::Neighbour(entry) => entries |= self.tunnels.entry_event(&entry, false),
                Event::NeighbourGone(entry) => entries |= self.tunnels.entry_event(&entry, true),
                Event::Settings => {
                    self.settings_changed = true;
                    self.tunnels.settings_changed();
                }
                Event::Overrun => {
                    tracing::warn!("kernel notifications were lost; comparing everything");
                    self.errors.overruns += 1;
                    self.request(Recheck::Everything);
                }
            }
        }
        // Only now, so that a route that went with its link is not taken for deleted by somebody.
        self.refresh(&affected, now);
        if devices {
            self.look_at_tunnels(now);
        }
        if entries {
            self.choose_again(now);
        }
        for event in own {
            self.own_event(event, now);
        }
    }

    pub(super) fn is_ours(&self, route: &KernelRoute) -> bool {
        let territory = Territory { table: route.key.table, protocol: route.protocol };
        self.territories.contains(&territory)
    }

    /// Whether it is a way to a next hop: in the main table and not with our number, not even where
    /// it is none of ours, as after a change of the table across a restart.
    fn may_resolve_through(&self, route: &KernelRoute) -> bool {
        route.key.table == MAIN_TABLE && route.protocol != self.config.protocol
    }

    fn written(&mut self, write: Write, result: Result<(), WriteError>, now: Instant) {
        let Write { id, protocol, action, .. } = write;
        let Some(route) = self.table.get_mut(id) else { return };
        route.in_flight = false;
        let doubt = std::mem::take(&mut route.doubt);
        match result {
            Ok(()) => {
                let have = match action {
                    _ if doubt => Have::Unknown,
                    Action::Delete => Have::Absent,
                    Action::Create(form) | Action::Replace(form) => {
                        Have::Present { form, protocol }
                    }
                };
                self.table.set_have(id, have);
                let Some(route) = self.table.get_mut(id) else { return };
                if route.want() != Want::Nothing {
                    route.failure = None;
                }
                if std::mem::take(&mut route.lost) {
                    self.repaired += 1;
                }
                self.write_problem = None;
                if doubt && self.table.get(id).is_some_and(|route| route.want() != Want::Nothing) {
                    // Counted as a loss, so that who deletes in this very moment is answered
                    // slowly too.
                    self.lost(id, true, Culprit::Unseen, now);
                    return;
                }
                let settled = self.settled(id);
                if let Some(route) = self.table.get_mut(id)
                    && (settled
                        || matches!((route.want(), route.have()), (Want::Nothing, Have::Absent)))
                {
                    let decided = std::mem::take(&mut route.decided);
                    if decided != 0 {
                        self.latency.add(self.ticks.since(decided, now));
                    }
                }
                if !settled {
                    self.push(id);
                }
            }
            Err(WriteError::Lost(reason)) => {
                tracing::warn!(reason, "an answer of the kernel was lost; comparing our routes");
                self.errors.lost += 1;
                self.table.set_have(id, Have::Unknown);
                // Once at once, then ever more slowly: what was lost for a reason is lost again.
                self.holds.lost(id, now);
                self.request(Recheck::Own);
            }
            Err(WriteError::Refused(error)) if error.errno == libc::EEXIST => {
                // Whose it is decides whether it is replaced; only a dump can tell.
                self.table.set_have(id, Have::Unknown);
                let Some(route) = self.table.get_mut(id) else { return };
                route.failure = Some("another route is in its place".into());
                self.request(Recheck::Everything);
            }
            Err(WriteError::Refused(error)) => {
                self.errors.refused += 1;
                let several = |target: &Target| target.hops().len() > 1;
                match &action {
                    // An IPv6 route of several hops is put in hop by hop.
                    Action::Create(Form::Plain(target)) | Action::Replace(Form::Plain(target))
                        if several(target) =>
                    {
                        self.table.set_have(id, Have::Unknown);
                    }
                    // The group may have gone with its link in this moment.
                    Action::Create(Form::Group(group)) | Action::Replace(Form::Group(group))
                        if error.errno == libc::EINVAL =>
                    {
                        self.objects.suspect(*group);
                    }
                    _ => {}
                }
                if error.errno == libc::EPERM {
                    self.write_problem = Some(error.to_string());
                }
                let Some(route) = self.table.get_mut(id) else { return };
                if let Some(more) = self.refusals.admit(now) {
                    let prefix = route.key.prefix;
                    tracing::warn!(%prefix, %error, more, "the kernel refused a route; trying again");
                }
                route.failure = Some(error.to_string().into_boxed_str());
                self.holds.refused(id, now);
            }
        }
    }

    /// Compares the table with our routes as the kernel lists them.
    fn own_routes(&mut self, routes: Vec<KernelRoute>, now: Instant) {
        let mut seen = vec![false; self.table.ids().len()];
        let mut targets = HashMap::<Target, Arc<Target>, FixedState>::default();
        for route in routes {
            let form = match route.form() {
                Form::Plain(target) => match targets.get(&*target) {
                    Some(known) => Form::Plain(known.clone()),
                    None => {
                        targets.insert(Target::clone(&target), target.clone());
                        Form::Plain(target)
                    }
                },
                group @ Form::Group(_) => group,
            };
            let id = self.table.enter(route.key);
            if let Some(seen) = seen.get_mut(id as usize) {
                *seen = true;
            }
            self.observe(
                id,
                Have::Present { form, protocol: route.protocol },
                Culprit::Unseen,
                now,
            );
        }
        for id in (0..).zip(&seen).filter(|(_, seen)| !**seen).map(|(id, _)| id) {
            if self.table.get(id).is_some() {
                self.observe(id, Have::Absent, Culprit::Unseen, now);
            }
        }
        self.audit_running = false;
    }

    /// The kernel has this at a route's key, and not by our doing.
    fn observe(&mut self, id: u32, have: Have, culprit: Culprit, now: Instant) {
        let may_remove = self.may_remove();
        let Some(route) = self.table.get_mut(id) else { return };
        if route.in_flight {
            return;
        }
        let absent = have == Have::Absent;
        let was_there = matches!(route.have(), Have::Present { .. });
        if was_there && *route.have() == have {
            return;
        }
        let before = self.table.set_have(id, have);
        let Some(route) = self.table.get_mut(id) else { return };
        if route.want() == Want::Nothing {
            if absent {
                self.forget(id);
            } else if may_remove {
                let prefix = route.key.prefix;
                tracing::warn!(%prefix, %culprit, "a route with our protocol number is not ours");
                self.enqueue(id, now);
            } else {
                self.stale.insert(id);
            }
            return;
        }
        if self.settled(id) {
            if let Some(route) = self.table.get_mut(id) {
                route.failure = None;
                route.lost = false;
            }
            self.holds.release(id, now);
            return;
        }
        // One that was known to be missing, or unknown: not taken away just now.
        if !was_there {
            if !self.holds.waits(id) && !self.off(id) {
                self.push(id);
            }
            return;
        }
        let unresolved = self.table.get(id).is_some_and(|route| self.table.target(route).is_err());
        if unresolved || !self.was_as_wanted(id, &before) {
            self.push(id);
            return;
        }
        self.lost(id, absent, culprit, now);
    }

    /// Whether what the kernel had before was the present wish: else the route was about to be
    /// rewritten anyway, and nobody took anything away.
    fn was_as_wanted(&self, id: u32, before: &Have) -> bool {
        let Some(route) = self.table.get(id) else { return false };
        match (before, self.table.target(route)) {
            (Have::Present { form: Form::Plain(target), .. }, Ok(wanted)) => target == wanted,
            (Have::Present { form: Form::Group(group), .. }, Ok(wanted)) => {
                *group == self.table.group_of(route) || self.objects.ready(*group, wanted)
            }
            _ => false,
        }
    }

    /// Whether it stays away because repair is switched off.
    pub(super) fn off(&self, id: u32) -> bool {
        !self.config.repair && self.table.get(id).is_some_and(|route| route.lost)
    }

    fn lost(&mut self, id: u32, absent: bool, culprit: Culprit, now: Instant) {
        let (repair, audit) = (self.config.repair, self.audit_running);
        let Some(route) = self.table.get_mut(id) else { return };
        route.lost = true;
        let what = if absent { "removed" } else { "changed" };
        let prefix = route.key.prefix;
        if !repair {
            route.failure =
                Some(format!("{what} by {culprit}; kernel.repair is off").into_boxed_str());
        }
        if let Some(more) = self.gate.admit(now) {
            let doing = if repair { "putting it back" } else { "repair is off" };
            let found = if audit { "audit found drift" } else { "found" };
            tracing::warn!(%prefix, %culprit, more, "{found}: a route of ours was {what}; {doing}");
        }
        if repair && self.holds.lost(id, now) {
            self.push(id);
        }
    }

    fn own_event(&mut self, event: Event, now: Instant) {
        let (route, have, port) = match event {
            Event::Route { route, port, .. } => {
                let have = Have::Present { form: route.form(), protocol: route.protocol };
                (route, have, port)
            }
            Event::RouteGone { route, port } => (route, Have::Absent, port),
            _ => return,
        };
        let id = match self.table.find(&route.key) {
            Some(id) => id,
            None if have == Have::Absent => return,
            None => self.table.enter(route.key),
        };
        let Some(known) = self.table.get_mut(id) else { return };
        if known.in_flight {
            // Before or after our write? It is written once more, which is harmless.
            known.doubt = true;
            return;
        }
        // IPv6 reports hops of a multipath route that go with their link one by one; what is left
        // is not said. Writing the whole route again settles it.
        let partial = have == Have::Absent
            && matches!(known.have(), Have::Present { form: Form::Plain(target), .. }
                if **target != route.target() && target.hops().len() > 1);
        if partial {
            self.table.set_have(id, Have::Unknown);
            self.push(id);
            return;
        }
        self.observe(id, have, Culprit::Port(port), now);
    }

    fn foreign_route(&mut self, route: KernelRoute, replaces: bool, now: Instant) -> Affected {
        if self.note_clash(&route, replaces)
            && replaces
            && let Some(id) = self.table.find(&route.key)
        {
            // It took the place of ours; the clash keeps us from taking it back.
            self.observe(id, Have::Absent, Culprit::Protocol(route.protocol), now);
        }
        if self.may_resolve_through(&route) {
            self.topology.route(route, replaces)
        } else {
            Affected::None
        }
    }

    fn foreign_route_gone(&mut self, route: &KernelRoute, now: Instant) -> Affected {
        if let Some(list) = self.clashes.get_mut(&route.key) {
            list.remove(route);
            if list.is_empty() {
                self.clashes.remove(&route.key);
                if let Some(id) = self.table.find(&route.key) {
                    self.enqueue(id, now);
                }
            }
        }
        if self.may_resolve_through(route) {
            self.topology.route_gone(route)
        } else {
            Affected::None
        }
    }

    /// Remembers somebody else's route where ours could be; says whether it is such a one.
    fn note_clash(&mut self, route: &KernelRoute, replaces: bool) -> bool {
        let key = route.key;
        let metrics = [self.config.metric, self.config.blackhole_metric];
        if key.table != self.config.table || !metrics.contains(&key.metric) {
            return false;
        }
        self.clashes.entry(key).or_default().add(route.clone(), replaces);
        true
    }

    fn dump_finished(&mut self, now: Instant) {
        let took = self.recheck_running.take().map_or(RECHECK_SHORTEST, |started| now - started);
        let pause = (took * RECHECK_SHARE).clamp(RECHECK_SHORTEST, RECHECK_LONGEST);
        self.recheck_not_before = now + pause;
    }

    fn dump_failed(&mut self, recheck: Recheck, error: &RequestError, now: Instant) {
        tracing::warn!(%error, "the kernel's routes could not be listed; trying again");
        self.errors.failed_dumps += 1;
        self.recheck_running = None;
        self.recheck_not_before = now + RECHECK_LONGEST;
        self.request(recheck);
    }
}
