//! Makes the kernel what it is wanted to be, by the smallest change.
//!
//! In flow: wishes of the speaker and the configuration, kernel events, results of writes, dumps,
//! and the time. Out flow: writes, dumps to make, answers about next hops, status. No IO, no clock.
//!
//! What always holds:
//! - only routes with our protocol number in our table are changed or removed; a wish whose key is
//!   held by somebody else's route is reported and waits until that is gone;
//! - a route is changed in one step, never taken away first;
//! - nothing is removed before the first sync is seen and everything wanted until then is answered;
//! - at most one write of a route is in flight; what is decided meanwhile is written next, latest
//!   first wish forgotten;
//! - a route somebody takes away is put back at once, the next times ever more slowly.

mod grouped;
mod observe;
mod report;
mod tunnels;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use ipnet::IpNet;
use routelet_bgp::core::forwarding::{ForwardingNextHop, NextHopAnswer, NextHopState, RouteChange};
use routelet_proto::{Family, FamilySet};

use super::KernelConfig;
use super::desired::{Have, Route, RouteTable, SetId, SetKey, Want};
use super::hold::{Holds, LogGate};
use super::latency::{Latency, Ticks};
use super::nexthop::{self, NextHops};
use super::objects::Objects;
use super::render;
use super::route::{Form, RouteKey, Target};
use super::topology::{Affected, RouteList, Topology};
use super::tunnel::{Pace, Tunnels};
use super::writer::{Action, Job, Territory, Write};
use super::{KernelErrors, NexthopObjects};

/// Shortest time between two dumps, and how many times its own duration a dump is waited for, so
/// that dumping never takes more than a tenth of the time.
const RECHECK_SHORTEST: Duration = Duration::from_millis(5);
const RECHECK_LONGEST: Duration = Duration::from_secs(2);
const RECHECK_SHARE: u32 = 10;

/// How far the first sync has got.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum SyncState {
    /// Nothing is removed.
    Waiting,
    /// The speaker has said what it wants; that is being written.
    Seen,
    /// Stale routes are being removed.
    Sweeping,
    Done,
}

/// How much is to be dumped.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Recheck {
    Own,
    Everything,
}

/// See the module.
pub(super) struct Reconciler {
    config: KernelConfig,
    /// Where our routes are; the first is the current one, others were before the configuration
    /// changed and are being left.
    territories: Vec<Territory>,
    topology: Topology,
    next_hops: NextHops,
    table: RouteTable,
    objects: Objects,
    tunnels: Tunnels,
    /// Somebody else's routes with a key that ours could have.
    clashes: HashMap<RouteKey, RouteList, FixedState>,
    queue: VecDeque<u32>,
    in_flight: usize,
    holds: Holds,
    /// The same for groups of nexthop objects.
    group_holds: Holds,
    gate: LogGate,
    refusals: LogGate,
    sync: SyncState,
    /// After the last answer to the speaker, its routes through that next hop are waited for.
    settle: Duration,
    settle_until: Instant,
    /// In the kernel, not wanted, and not to be removed yet.
    stale: HashSet<u32, FixedState>,
    /// The first snapshot has been taken.
    loaded: bool,
    adopted: usize,
    /// Families of the adopted routes.
    found: FamilySet,
    repaired: u64,
    answers: HashMap<ForwardingNextHop, NextHopState, FixedState>,
    recheck: Option<Recheck>,
    recheck_running: Option<Instant>,
    recheck_not_before: Instant,
    audit_running: bool,
    write_problem: Option<String>,
    settings_changed: bool,
    ticks: Ticks,
    latency: Latency,
    errors: KernelErrors,
}

impl Reconciler {
    /// Begins with nothing known; [`Reconciler::snapshot`] must come next. `former`: where our
    /// routes were in a former life. `settle`: how long the speaker has after an answer before stale
    /// routes go.
    pub(super) fn new(
        config: KernelConfig,
        former: &[Territory],
        settle: Duration,
        now: Instant,
    ) -> Self {
        let current = Territory { table: config.table, protocol: config.protocol };
        let mut territories = vec![current];
        territories.extend(former.iter().filter(|former| **former != current));
        let objects = config.nexthop_objects == NexthopObjects::Auto;
        let pace = Pace { lead: Duration::ZERO, linger: Duration::ZERO };
        let mut reconciler = Self {
            tunnels: Tunnels::new(config.tunnels.clone(), pace),
            objects: Objects::new(objects, config.protocol),
            config,
            territories,
            topology: Topology::default(),
            next_hops: NextHops::default(),
            table: RouteTable::new(),
            clashes: HashMap::default(),
            queue: VecDeque::new(),
            in_flight: 0,
            holds: Holds::default(),
            group_holds: Holds::default(),
            gate: LogGate::default(),
            refusals: LogGate::default(),
            sync: SyncState::Waiting,
            settle,
            settle_until: now,
            stale: HashSet::default(),
            loaded: false,
            adopted: 0,
            found: FamilySet::EMPTY,
            repaired: 0,
            answers: HashMap::default(),
            recheck: None,
            recheck_running: None,
            recheck_not_before: now,
            audit_running: false,
            write_problem: None,
            settings_changed: true,
            ticks: Ticks::new(now),
            latency: Latency::default(),
            errors: KernelErrors::default(),
        };
        for prefix in reconciler.config.blackholes.clone() {
            reconciler.want_blackhole(prefix, now);
        }
        reconciler
    }

    /// Where our routes are.
    pub(super) fn territories(&self) -> Vec<Territory> {
        self.territories.clone()
    }

    /// Families of which there were routes of ours at the start.
    pub(super) fn found(&self) -> FamilySet {
        self.found
    }

    pub(super) fn config(&self) -> &KernelConfig {
        &self.config
    }

    /// Takes a wish of the speaker.
    pub(super) fn change(&mut self, change: RouteChange, now: Instant) {
        let key = self.key(change.prefix);
        if change.next_hops.is_empty() {
            if let Some(id) = self.table.find(&key) {
                self.decided(id, Want::Nothing, change.decided);
                self.set_want(id, Want::Nothing, now);
            }
            return;
        }
        let id = self.table.enter(key);
        let set = self.set_for(&key.prefix, change.next_hops);
        self.decided(id, Want::Set(set), change.decided);
        self.set_want(id, Want::Set(set), now);
        self.consider_group(set, now);
    }

    /// Remembers when the speaker decided, for what is to be written.
    fn decided(&mut self, id: u32, want: Want, at: Instant) {
        let tick = self.ticks.of(at);
        if let Some(route) = self.table.get_mut(id)
            && route.want() != want
        {
            route.decided = tick;
        }
    }

    /// Begins or ceases to track a next hop for the speaker.
    pub(super) fn track(&mut self, next_hop: ForwardingNextHop, begin: bool) {
        if begin {
            let state = nexthop::state(self.next_hops.track(next_hop, &self.topology));
            self.answers.insert(next_hop, state);
        } else {
            self.next_hops.untrack(&next_hop);
            self.answers.remove(&next_hop);
        }
    }

    /// The speaker has said what it wants.
    pub(super) fn first_sync(&mut self) {
        if self.sync == SyncState::Waiting {
            self.sync = SyncState::Seen;
        }
    }

    /// Takes another configuration.
    pub(super) fn apply(&mut self, config: KernelConfig, now: Instant) {
        let before = std::mem::replace(&mut self.config, config);
        let moved = (before.table, before.protocol, before.metric, before.blackhole_metric)
            != (
                self.config.table,
                self.config.protocol,
                self.config.metric,
                self.config.blackhole_metric,
            );
        for prefix in &before.blackholes {
            if moved || !self.config.blackholes.contains(prefix) {
                let key = blackhole_key(&before, *prefix);
                if let Some(id) = self.table.find(&key) {
                    self.set_want(id, Want::Nothing, now);
                }
            }
        }
        if before.protocol != self.config.protocol {
            self.objects.set_protocol(self.config.protocol);
            self.release_groups(now);
        }
        if before.nexthop_objects != self.config.nexthop_objects {
            self.objects.set_allowed(self.config.nexthop_objects == NexthopObjects::Auto);
            self.release_groups(now);
        }
        if moved {
            self.move_routes(&before, now);
        }
        self.consider_groups(now);
        for prefix in self.config.blackholes.clone() {
            self.want_blackhole(prefix, now);
        }
        self.apply_tunnels(self.config.tunnels.clone(), now);
        if self.config.repair && !before.repair {
            for id in self.table.ids() {
                if self.table.get(id).is_some_and(|route| route.lost) {
                    self.enqueue(id, now);
                }
            }
        }
        self.settings_changed = true;
    }

    /// Routes get new keys: the new ones are written, and only then the old ones removed, as the
    /// stale ones of a former life are.
    fn move_routes(&mut self, before: &KernelConfig, now: Instant) {
        let territory = Territory { table: self.config.table, protocol: self.config.protocol };
        self.territories.retain(|known| *known != territory);
        self.territories.insert(0, territory);
        self.clashes.clear();
        if self.sync == SyncState::Done || self.sync == SyncState::Sweeping {
            self.sync = SyncState::Seen;
        }
        for id in self.table.ids() {
            let Some(route) = self.table.get(id) else { continue };
            let (key, want) = (route.key, route.want());
            if want == Want::Nothing {
                continue;
            }
            let moved = RouteKey {
                table: self.config.table,
                metric: if key.metric == before.metric { self.config.metric } else { key.metric },
                ..key
            };
            if moved == key {
                self.enqueue(id, now);
                continue;
            }
            let new = self.table.enter(moved);
            self.set_want(new, want, now);
            self.set_want(id, Want::Nothing, now);
        }
        // Who holds the new keys is not known yet; creating without replacing keeps that safe.
        self.request(Recheck::Everything);
    }

    /// Everything of ours is to go.
    pub(super) fn withdraw_all(&mut self, now: Instant) {
        self.sync = SyncState::Done;
        self.stale.clear();
        self.tunnels.withdraw();
        self.look_at_tunnels(now);
        for id in self.table.ids() {
            if self.table.get(id).is_some() {
                self.set_want(id, Want::Nothing, now);
                self.enqueue(id, now);
            }
        }
    }

    /// The next writes, at most `limit`.
    pub(super) fn next_writes(&mut self, limit: usize) -> Vec<Write> {
        let mut writes = Vec::new();
        while writes.len() < limit
            && let Some(id) = self.queue.pop_front()
        {
            writes.extend(self.prepare(id));
        }
        self.in_flight += writes.len();
        writes
    }

    /// The dump that is due, if any.
    pub(super) fn next_dump(&mut self, now: Instant) -> Option<Job> {
        if self.recheck_running.is_some() || now < self.recheck_not_before {
            return None;
        }
        let recheck = self.recheck.take()?;
        self.recheck_running = Some(now);
        self.errors.dumps += u64::from(self.loaded && !self.audit_running);
        Some(match recheck {
            Recheck::Own => Job::DumpOwn(self.territories()),
            Recheck::Everything => Job::DumpAll(self.territories()),
        })
    }

    /// The answers for the speaker that have gathered, latest per next hop.
    pub(super) fn take_answers(&mut self) -> Vec<NextHopAnswer> {
        let answers = std::mem::take(&mut self.answers);
        answers.into_iter().map(|(next_hop, state)| NextHopAnswer { next_hop, state }).collect()
    }

    /// The speaker has taken answers: what it decides by them is waited for before the sweep.
    pub(super) fn answered(&mut self, now: Instant) {
        self.settle_until = now + self.settle;
    }

    /// Compares our routes with the kernel.
    pub(super) fn recheck_own(&mut self) {
        self.request(Recheck::Own);
    }

    /// The topology, for words.
    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Whether a setting such as forwarding may have changed since the last question.
    pub(super) fn take_settings_changed(&mut self) -> bool {
        std::mem::take(&mut self.settings_changed)
    }

    /// Compares everything with the kernel, and says so when there is drift.
    pub(super) fn audit(&mut self) {
        self.audit_running = true;
        for set in self.table.sets() {
            self.table.set_stays_plain(set, false);
        }
        self.request(Recheck::Everything);
    }

    /// Whether nothing waits to be written or answered.
    pub(super) fn idle(&self) -> bool {
        self.queue.is_empty()
            && self.in_flight == 0
            && self.recheck.is_none()
            && self.recheck_running.is_none()
            && self.objects.idle()
            && !self.objects_to_remove()
            && self.tunnels.idle()
    }

    /// Nothing is on its way to the kernel.
    pub(super) fn quiet(&self) -> bool {
        self.in_flight == 0 && self.objects.quiet()
    }

    /// What is due by time alone. `answering`: answers are on their way to the speaker.
    pub(super) fn advance(&mut self, answering: bool, now: Instant) {
        for id in self.holds.due(now) {
            self.push(id);
        }
        self.follow(now);
        if let Some(more) = self.gate.flush(now) {
            tracing::warn!(routes = more, "more routes of ours were taken away and are put back");
        }
        if let Some(more) = self.refusals.flush(now) {
            tracing::warn!(refusals = more, "the kernel refused more routes");
        }
        for group in self.group_holds.due(now) {
            self.objects.go_on(group);
        }
        let settled = self.idle() && self.answers.is_empty() && !answering;
        match self.sync {
            SyncState::Seen if settled && now >= self.settle_until => {
                self.sync = SyncState::Sweeping;
                let stale = std::mem::take(&mut self.stale);
                if !stale.is_empty() {
                    tracing::info!(routes = stale.len(), "first sync: removing stale routes");
                }
                for id in stale {
                    self.enqueue(id, now);
                }
                if self.queue.is_empty() {
                    self.synced();
                }
            }
            SyncState::Sweeping if self.idle() => self.synced(),
            _ => {}
        }
    }

    /// When [`Reconciler::advance`] or [`Reconciler::next_dump`] has something next. `answering` as
    /// for `advance`.
    pub(super) fn deadline(&self, answering: bool, now: Instant) -> Option<Instant> {
        let recheck = (self.recheck.is_some() && self.recheck_running.is_none())
            .then_some(self.recheck_not_before);
        let settled = self.idle() && self.answers.is_empty() && !answering;
        let settle = (self.sync == SyncState::Seen && settled).then_some(self.settle_until);
        // The last write may have left nothing to be written, and nobody to tell.
        let swept = (self.sync == SyncState::Sweeping && self.idle()).then_some(now);
        let tunnels = self.tunnels.deadline(now);
        let waits = [self.holds.next(), self.group_holds.next()];
        let gates = [self.gate.next(), self.refusals.next()];
        waits.into_iter().chain(gates).chain([recheck, settle, swept, tunnels]).flatten().min()
    }

    fn synced(&mut self) {
        self.sync = SyncState::Done;
        // What was left behind is gone; a notification about it is nobody's business any more.
        self.territories.truncate(1);
        tracing::info!("kernel routes are in sync");
    }

    fn may_remove(&self) -> bool {
        self.sync >= SyncState::Sweeping
    }

    fn key(&self, prefix: IpNet) -> RouteKey {
        RouteKey { prefix: prefix.trunc(), metric: self.config.metric, table: self.config.table }
    }

    fn want_blackhole(&mut self, prefix: IpNet, now: Instant) {
        let id = self.table.enter(blackhole_key(&self.config, prefix));
        self.set_want(id, Want::Blackhole, now);
    }

    fn set(&mut self, key: SetKey) -> SetId {
        if let Some(set) = self.table.find_set(&key) {
            return set;
        }
        for next_hop in &key.next_hops {
            self.next_hops.retain(*next_hop, &self.topology);
        }
        let target = self.combined(&key);
        self.table.enter_set(key, target)
    }

    fn set_want(&mut self, id: u32, want: Want, now: Instant) {
        let Some(route) = self.table.get_mut(id) else { return };
        if route.want() == want && want != Want::Nothing {
            return;
        }
        route.failure = None;
        route.lost = false;
        if let Some(unused) = self.table.set_want(id, want) {
            for next_hop in &unused.next_hops {
                self.next_hops.release(next_hop);
            }
            self.release_group(unused.group);
        }
        if want != Want::Nothing {
            self.stale.remove(&id);
        }
        self.enqueue(id, now);
    }

    /// Something about the route has changed: it is looked at next, whatever wait it was under.
    fn enqueue(&mut self, id: u32, now: Instant) {
        self.holds.release(id, now);
        self.push(id);
    }

    fn push(&mut self, id: u32) {
        if let Some(route) = self.table.get_mut(id)
            && !route.queued
            && !route.in_flight
        {
            route.queued = true;
            self.queue.push_back(id);
        }
    }

    fn settled(&self, id: u32) -> bool {
        let Some(route) = self.table.get(id) else { return true };
        match (route.have(), self.table.target(route)) {
            (Have::Present { form, protocol }, Ok(wanted)) => {
                *protocol == self.config.protocol && self.fits(form, route, wanted)
            }
            _ => false,
        }
    }

    /// Whether a form is how a route is to be written.
    fn fits(&self, form: &Form, route: &Route, wanted: &Arc<Target>) -> bool {
        match (form, self.table.group_of(route)) {
            (Form::Plain(target), 0) => Arc::ptr_eq(target, wanted) || target == wanted,
            // By an object of a former life: as good as any, until its set has one.
            (Form::Group(group), 0) => self.objects.enabled() && self.objects.ready(*group, wanted),
            (Form::Group(group), own) => *group == own && self.objects.ready(own, wanted),
            (Form::Plain(_), _) => false,
        }
    }

    /// What is to be written for a route, if anything.
    fn prepare(&mut self, id: u32) -> Option<Write> {
        let settled = self.settled(id);
        let may_remove = self.may_remove();
        let route = self.table.get_mut(id)?;
        route.queued = false;
        let key = route.key;
        if route.want() == Want::Nothing {
            return match *route.have() {
                Have::Absent => {
                    self.forget(id);
                    None
                }
                _ if !may_remove => {
                    self.stale.insert(id);
                    None
                }
                Have::Present { protocol, .. } => {
                    route.in_flight = true;
                    Some(Write { id, key, protocol, action: Action::Delete })
                }
                Have::Unknown => {
                    route.in_flight = true;
                    let protocol = self.config.protocol;
                    Some(Write { id, key, protocol, action: Action::Delete })
                }
            };
        }
        if settled {
            route.failure = None;
            route.decided = 0;
            return None;
        }
        let route = self.table.get(id)?;
        let group = self.table.group_of(route);
        let decision = match self.table.target(route) {
            Err(None) => return None,
            Err(Some(no)) if no.withhold && *route.have() != Have::Absent => {
                let reason = no.reason.clone();
                return self.withhold(id, reason);
            }
            Err(Some(no)) => Err(no.reason.clone()),
            Ok(target) => match self.clash(&key) {
                Some(clash) => Err(clash.into_boxed_str()),
                None if group == 0 => Ok(Form::Plain(target.clone())),
                None if self.objects.usable(group, target) => Ok(Form::Group(group)),
                None => {
                    // It is looked at again when the group is there.
                    self.objects.poke(group);
                    return None;
                }
            },
        };
        let route = self.table.get_mut(id)?;
        match decision {
            Err(reason) => {
                route.failure = Some(reason);
                None
            }
            Ok(form) => {
                route.in_flight = true;
                let action = match route.have() {
                    Have::Absent => Action::Create(form),
                    _ => Action::Replace(form),
                };
                Some(Write { id, key, protocol: self.config.protocol, action })
            }
        }
    }

    /// Takes away what would carry packets in the open that belong into a tunnel.
    fn withhold(&mut self, id: u32, reason: Box<str>) -> Option<Write> {
        let (may_remove, ours) = (self.may_remove(), self.config.protocol);
        let route = self.table.get_mut(id)?;
        route.failure = Some(reason);
        if !may_remove {
            self.stale.insert(id);
            return None;
        }
        route.in_flight = true;
        let protocol = match *route.have() {
            Have::Present { protocol, .. } => protocol,
            Have::Absent | Have::Unknown => ours,
        };
        Some(Write { id, key: route.key, protocol, action: Action::Delete })
    }

    fn clash(&self, key: &RouteKey) -> Option<String> {
        let other = self.clashes.get(key)?.first()?;
        let option = if key.metric == self.config.metric { "metric" } else { "blackholeMetric" };
        let via = other.hops.first().and_then(|hop| hop.via);
        let via = via.map_or_else(String::new, |via| format!(" via {via}"));
        Some(format!(
            "clash: proto {}{via} has metric {}; change kernel.{option}",
            render::protocol(other.protocol),
            key.metric,
        ))
    }

    fn forget(&mut self, id: u32) {
        self.table.remove(id);
        self.stale.remove(&id);
        self.holds.forget(id);
    }

    fn request(&mut self, recheck: Recheck) {
        self.recheck = self.recheck.max(Some(recheck));
    }

    /// Resolves again what may have changed, tells the speaker, and has the routes concerned
    /// looked at.
    fn refresh(&mut self, affected: &[Affected], now: Instant) {
        if affected.iter().all(|affected| *affected == Affected::None) {
            return;
        }
        let mut sets = Vec::new();
        for (next_hop, answer) in self.next_hops.refresh(affected, &self.topology) {
            if let Some(state) = answer {
                self.answers.insert(next_hop, state);
            }
            sets.extend_from_slice(self.table.sets_with(&next_hop));
        }
        sets.sort_unstable();
        sets.dedup();
        self.combine_again(&sets, now);
    }
}

fn family(prefix: IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::Ipv4Unicast,
        IpNet::V6(_) => Family::Ipv6Unicast,
    }
}

fn blackhole_key(config: &KernelConfig, prefix: IpNet) -> RouteKey {
    RouteKey { prefix: prefix.trunc(), metric: config.blackhole_metric, table: config.table }
}

#[cfg(test)]
mod tests;
