//! Next-hop sets that are written as nexthop objects: when, and what becomes of their routes.
//!
//! In flow: sets that grow or lead elsewhere, news of [`super::super::objects`]. Out flow: jobs for
//! objects, routes to be looked at.
//!
//! What always holds: a set with an object is moved by the object alone, its routes are not touched;
//! a change between objects and plain routes replaces each route in one step.

use std::time::Instant;

use super::super::desired::{Have, SetId, Want};
use super::super::objects::{Finding, KernelObject, News, Objects, ROUTES_FROM};
use super::super::route::Form;
use super::super::writer::Job;
use super::Reconciler;
use super::observe::Culprit;

impl Reconciler {
    /// Writes of objects, if there are any. To be asked before [`Reconciler::next_writes`]: routes
    /// refer to what has been handed over before.
    pub(in super::super) fn next_objects(&mut self) -> Option<Job> {
        let mut writes = self.objects.next_writes();
        if writes.is_empty() && self.may_remove_objects() {
            writes = self.objects.next_deletions(|group| self.table.users(group));
        }
        (!writes.is_empty()).then_some(Job::Objects(writes))
    }

    /// The list of objects that is due, if any.
    pub(in super::super) fn next_object_list(&mut self) -> Option<Job> {
        self.objects.begin_recheck().then_some(Job::ListObjects)
    }

    /// Whether objects wait for their removal.
    pub(super) fn objects_to_remove(&self) -> bool {
        self.may_remove()
            && self.table.unknown() == 0
            && self.objects.supported()
            && self.objects.superfluous(|group| self.table.users(group))
    }

    /// Whether it is certain which objects are used: no route is on its way or unknown.
    fn may_remove_objects(&self) -> bool {
        self.may_remove()
            && self.queue.is_empty()
            && self.in_flight == 0
            && self.table.unknown() == 0
            && self.objects.supported()
    }

    /// Gives a set an object if it has become large enough for one.
    pub(super) fn consider_group(&mut self, set: SetId, now: Instant) {
        if self.table.members(set).len() < ROUTES_FROM
            || self.table.group(set) != 0
            || self.table.stays_plain(set)
            || !self.objects.enabled()
        {
            return;
        }
        let Ok(target) = self.table.set_leads(set) else { return };
        if !Objects::fits(target) {
            return;
        }
        let group = self.objects.claim(set, target, |group| self.table.users(group));
        self.table.set_group(set, group);
        self.push_members(set, now);
    }

    /// The same for all sets: a scan of them.
    pub(super) fn consider_groups(&mut self, now: Instant) {
        for set in self.table.sets() {
            self.consider_group(set, now);
        }
    }

    /// A set leads elsewhere.
    pub(super) fn retarget(&mut self, set: SetId, now: Instant) {
        let group = self.table.group(set);
        if group != 0 {
            match self.table.set_leads(set) {
                Ok(target) if Objects::fits(target) => {
                    let target = target.clone();
                    let ready = self.objects.ready(group, &target);
                    self.objects.set_want(group, Some(target));
                    if ready {
                        self.push_members(set, now);
                    }
                    return;
                }
                Ok(_) => {
                    self.table.set_group(set, 0);
                    self.objects.release(group);
                }
                // What is there stays, as plain routes do, until the speaker takes them back.
                Err(_) => self.objects.set_want(group, None),
            }
        }
        self.consider_group(set, now);
        for id in self.table.members(set).to_vec() {
            self.enqueue(id, now);
        }
    }

    /// A set that nobody uses had this object.
    pub(super) fn release_group(&mut self, group: u32) {
        if group != 0 {
            self.objects.release(group);
            self.group_holds.forget(group);
        }
    }

    /// Every set does without its object from now on.
    pub(super) fn release_groups(&mut self, now: Instant) {
        for set in self.table.sets() {
            let group = self.table.set_group(set, 0);
            self.release_group(group);
        }
        // Those as well that are there by an object of a former life.
        for id in self.table.ids() {
            let wanted = self.table.get(id).is_some_and(|route| route.want() != Want::Nothing);
            if wanted && !self.settled(id) && !self.off(id) {
                self.enqueue(id, now);
            }
        }
    }

    /// Takes the kernel's list of objects.
    pub(super) fn listed_objects(&mut self, objects: Option<Vec<KernelObject>>, now: Instant) {
        let territories = &self.territories;
        let ours = |protocol| territories.iter().any(|ours| ours.protocol == protocol);
        let news = self.objects.observe(objects.unwrap_or_default(), ours);
        self.object_news(news, now);
    }

    /// Takes what came of writes of objects or of a list.
    pub(super) fn object_news(&mut self, news: News, now: Instant) {
        if !news.gone.is_empty() {
            self.groups_gone(&news.gone, now);
        }
        for finding in news.changed {
            let culprit = Culprit::of(finding.port);
            if let Some(more) = self.gate.admit(now) {
                let group = finding.group;
                tracing::warn!(group, %culprit, more, "found: others have put other next hops into a nexthop object of ours; putting them back");
            }
            self.repaired += 1;
            self.slow_down(finding, now);
        }
        for set in news.surrendered {
            if !self.table.has_set(set) {
                continue;
            }
            let group = self.table.set_group(set, 0);
            self.table.set_stays_plain(set, true);
            self.release_group(group);
            self.errors.surrendered += 1;
            tracing::warn!(
                next_hops = ?self.table.set_key(set).next_hops,
                "the kernel refuses nexthop objects for these next hops: plain routes instead"
            );
            for id in self.table.members(set).to_vec() {
                self.enqueue(id, now);
            }
        }
        for set in news.ready {
            if self.table.has_set(set) {
                self.push_members(set, now);
            }
        }
    }

    /// Looks at the routes of a set that are not as wanted, or are said not to be.
    fn push_members(&mut self, set: SetId, now: Instant) {
        for id in self.table.members(set).to_vec() {
            let failed = self.table.get(id).is_some_and(|route| route.failure.is_some());
            if (failed || !self.settled(id)) && !self.off(id) {
                self.enqueue(id, now);
            }
        }
    }

    /// The kernel has deleted these groups, and with them every route behind them. One scan.
    fn groups_gone(&mut self, gone: &[Finding], now: Instant) {
        let behind = |have: &Have| match have {
            Have::Present { form: Form::Group(group), .. } => {
                gone.iter().find(|finding| finding.group == *group).copied()
            }
            _ => None,
        };
        let routes: Vec<(u32, Finding)> =
            self.table.iter().filter_map(|(id, route)| Some((id, behind(route.have())?))).collect();
        let mut lost = 0;
        for (id, finding) in &routes {
            lost += usize::from(self.gone_with_group(*id, *finding));
        }
        for finding in gone {
            self.slow_down(*finding, now);
        }
        let Some(finding) = gone.iter().find(|finding| finding.set.is_some()) else { return };
        if lost > 0
            && let Some(more) = self.gate.admit(now)
        {
            let culprit = Culprit::of(finding.port);
            let doing = if self.config.repair { "putting them back" } else { "repair is off" };
            tracing::warn!(routes = lost, %culprit, more, "found: a nexthop object of ours was removed, and the routes behind it; {doing}");
        }
    }

    /// Says whether the route was wanted as it was.
    fn gone_with_group(&mut self, id: u32, finding: Finding) -> bool {
        let Some(route) = self.table.get_mut(id) else { return false };
        if route.in_flight {
            route.doubt = true;
            return false;
        }
        let want = route.want();
        self.table.set_have(id, Have::Absent);
        if want == Want::Nothing {
            self.forget(id);
            return false;
        }
        let resolved = self.table.get(id).is_some_and(|route| self.table.target(route).is_ok());
        if resolved && let Some(route) = self.table.get_mut(id) {
            route.lost = true;
            if !self.config.repair {
                let culprit = Culprit::of(finding.port);
                let reason = format!("removed by {culprit}; kernel.repair is off");
                route.failure = Some(reason.into_boxed_str());
                return true;
            }
        }
        self.push(id);
        resolved
    }

    /// Who deletes a group again and again is answered ever more slowly. A link that comes and goes
    /// is not somebody.
    fn slow_down(&mut self, finding: Finding, now: Instant) {
        if finding.set.is_some()
            && finding.port.is_some_and(|port| port != 0)
            && !self.group_holds.lost(finding.group, now)
        {
            self.objects.wait(finding.group);
        }
    }
}
