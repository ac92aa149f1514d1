//! The table of routes: what each is to be, and what the kernel is known to have.
//!
//! In flow: wishes of the reconciler, findings about the kernel. Out flow: per route both, and the
//! routes concerned when a next-hop set changes.
//!
//! Next-hop sets are entities of their own, shared by the routes that use them: a change of how a
//! next hop resolves is worked out once per set. What the prefix's pool asks for is part of the set,
//! so that its [`Target`] leads through a tunnel for one pool and plainly for another.
//!
//! What always holds: a set lives as long as a route uses it; a route's number stays the same
//! while it lives; nothing here is a scan but what says so.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use routelet_bgp::core::forwarding::{ForwardingNextHop, NextHopSet};

use super::route::{Form, Hops, RouteKey, Target};
use super::tunnel::{Asked, NoTarget, Way};

/// Number of a next-hop set.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct SetId(u32);

/// What a route is to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Want {
    /// Not there.
    Nothing,
    Blackhole,
    Set(SetId),
}

/// What the kernel has at a route's key, of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Have {
    Absent,
    /// An answer was lost, or a notification told only half.
    Unknown,
    Present {
        form: Form,
        protocol: u8,
    },
}

/// One route.
#[derive(Debug)]
pub(super) struct Route {
    pub key: RouteKey,
    have: Have,
    want: Want,
    /// Place among the members of its set.
    position: u32,
    /// Waits in the queue of writes.
    pub queued: bool,
    /// A write of it is with the writer.
    pub in_flight: bool,
    /// Something happened to it while a write was in flight: what came of that is not certain.
    pub doubt: bool,
    /// Somebody else took it away.
    pub lost: bool,
    /// Why it is not as wanted.
    pub failure: Option<Box<str>>,
    /// When the speaker decided on what is being written, in ticks of [`super::latency`]; 0: that
    /// is written, or was the kernel side's own idea.
    pub decided: u32,
}

impl Route {
    pub(super) fn have(&self) -> &Have {
        &self.have
    }

    pub(super) fn want(&self) -> Want {
        self.want
    }
}

/// What makes a set: routes to the same next hops may still be forwarded by different ways.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct SetKey {
    pub next_hops: NextHopSet,
    pub asked: Asked,
}

struct SetEntry {
    key: SetKey,
    target: Result<Arc<Target>, NoTarget>,
    members: Vec<u32>,
    /// Its nexthop object; 0: its routes are plain.
    group: u32,
    /// The kernel would not have the object; not tried again before something changes.
    plain: bool,
}

/// What a set that nobody uses any more leaves behind.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Retired {
    pub next_hops: NextHopSet,
    /// Its nexthop object; 0: none.
    pub group: u32,
}

/// See the module.
pub(super) struct RouteTable {
    routes: Vec<Option<Route>>,
    free: Vec<u32>,
    by_key: HashMap<RouteKey, u32, FixedState>,
    sets: Vec<Option<SetEntry>>,
    free_sets: Vec<u32>,
    by_set_key: HashMap<SetKey, SetId, FixedState>,
    by_next_hop: HashMap<ForwardingNextHop, Vec<SetId>, FixedState>,
    blackhole: Arc<Target>,
    /// How many routes the kernel has, as far as is known, behind each nexthop object.
    users: HashMap<u32, u32, FixedState>,
    /// How many routes nobody knows what the kernel has of.
    unknown: usize,
}

impl RouteTable {
    pub(super) fn new() -> Self {
        Self {
            routes: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::default(),
            sets: Vec::new(),
            free_sets: Vec::new(),
            by_set_key: HashMap::default(),
            by_next_hop: HashMap::default(),
            blackhole: Arc::new(Target::Blackhole),
            users: HashMap::default(),
            unknown: 0,
        }
    }

    pub(super) fn find(&self, key: &RouteKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// The route with this key; a new one is neither wanted nor there.
    pub(super) fn enter(&mut self, key: RouteKey) -> u32 {
        if let Some(id) = self.find(&key) {
            return id;
        }
        let route = Route {
            key,
            have: Have::Absent,
            want: Want::Nothing,
            position: 0,
            queued: false,
            in_flight: false,
            doubt: false,
            lost: false,
            failure: None,
            decided: 0,
        };
        let id = place(&mut self.routes, &mut self.free, route);
        self.by_key.insert(key, id);
        id
    }

    pub(super) fn get(&self, id: u32) -> Option<&Route> {
        self.routes.get(id as usize).and_then(Option::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Route> {
        self.routes.get_mut(id as usize).and_then(Option::as_mut)
    }

    /// What the kernel has of a route now; returns what it had.
    pub(super) fn set_have(&mut self, id: u32, have: Have) -> Have {
        let Some(route) = self.routes.get_mut(id as usize).and_then(Option::as_mut) else {
            return Have::Absent;
        };
        match &have {
            Have::Present { form: Form::Group(group), .. } => {
                *self.users.entry(*group).or_default() += 1;
            }
            Have::Unknown => self.unknown += 1,
            _ => {}
        }
        let before = std::mem::replace(&mut route.have, have);
        match &before {
            Have::Present { form: Form::Group(group), .. } => {
                if let Some(users) = self.users.get_mut(group) {
                    *users -= 1;
                    if *users == 0 {
                        self.users.remove(group);
                    }
                }
            }
            Have::Unknown => self.unknown -= 1,
            _ => {}
        }
        before
    }

    /// How many routes the kernel has behind a nexthop object.
    pub(super) fn users(&self, group: u32) -> u32 {
        self.users.get(&group).copied().unwrap_or(0)
    }

    /// How many routes nobody knows what the kernel has of.
    pub(super) fn unknown(&self) -> usize {
        self.unknown
    }

    /// Forgets a route that is not wanted.
    pub(super) fn remove(&mut self, id: u32) {
        self.set_have(id, Have::Absent);
        if let Some(route) = self.routes.get_mut(id as usize).and_then(Option::take) {
            debug_assert_eq!(route.want, Want::Nothing);
            self.by_key.remove(&route.key);
            self.free.push(id);
        }
    }

    /// The numbers of all routes: a scan.
    pub(super) fn ids(&self) -> std::ops::Range<u32> {
        // Numbers are below 2^32 by construction.
        0..self.routes.len() as u32
    }

    /// All routes with their numbers: a scan.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Route)> {
        (0..).zip(&self.routes).filter_map(|(id, route)| route.as_ref().map(|route| (id, route)))
    }

    /// The set with this key, if it exists.
    pub(super) fn find_set(&self, key: &SetKey) -> Option<SetId> {
        self.by_set_key.get(key).copied()
    }

    /// A new set. It must get a member, else it is never removed.
    pub(super) fn enter_set(
        &mut self,
        key: SetKey,
        target: Result<Arc<Target>, NoTarget>,
    ) -> SetId {
        let entry =
            SetEntry { key: key.clone(), target, members: Vec::new(), group: 0, plain: false };
        let set = SetId(place(&mut self.sets, &mut self.free_sets, entry));
        for next_hop in &key.next_hops {
            self.by_next_hop.entry(*next_hop).or_default().push(set);
        }
        self.by_set_key.insert(key, set);
        set
    }

    /// The sets a next hop is in.
    pub(super) fn sets_with(&self, next_hop: &ForwardingNextHop) -> &[SetId] {
        self.by_next_hop.get(next_hop).map_or(&[], Vec::as_slice)
    }

    pub(super) fn set_key(&self, set: SetId) -> &SetKey {
        &self.entry(set).key
    }

    /// The sets that ask for a tunnel: a scan of the sets.
    pub(super) fn sets_that_ask(&self) -> impl Iterator<Item = (SetId, &SetKey)> {
        let sets =
            (0..).zip(&self.sets).filter_map(|(id, entry)| Some((SetId(id), entry.as_ref()?)));
        sets.map(|(id, entry)| (id, &entry.key)).filter(|(_, key)| key.asked != Asked::Nothing)
    }

    /// Gives a set another target; says whether it really is another.
    pub(super) fn set_target(&mut self, set: SetId, target: Result<Arc<Target>, NoTarget>) -> bool {
        let entry = self.entry_mut(set);
        if entry.target == target {
            return false;
        }
        entry.target = target;
        entry.plain = false;
        true
    }

    /// Where a set leads, or why nowhere.
    pub(super) fn set_leads(&self, set: SetId) -> Result<&Arc<Target>, &NoTarget> {
        self.entry(set).target.as_ref()
    }

    /// The routes of a set.
    pub(super) fn members(&self, set: SetId) -> &[u32] {
        &self.entry(set).members
    }

    /// The sets that there are: a scan.
    pub(super) fn sets(&self) -> Vec<SetId> {
        (0..).zip(&self.sets).filter_map(|(at, set)| set.as_ref().map(|_| SetId(at))).collect()
    }

    /// The nexthop object of a set; 0: its routes are plain.
    pub(super) fn group(&self, set: SetId) -> u32 {
        self.entry(set).group
    }

    /// The nexthop object of a wanted route's set; 0: it is plain.
    pub(super) fn group_of(&self, route: &Route) -> u32 {
        match route.want {
            Want::Set(set) => self.entry(set).group,
            _ => 0,
        }
    }

    /// Gives a set a nexthop object, or takes it away (0); returns the one before.
    pub(super) fn set_group(&mut self, set: SetId, group: u32) -> u32 {
        std::mem::replace(&mut self.entry_mut(set).group, group)
    }

    /// Whether a set does without an object because the kernel would not have it.
    pub(super) fn stays_plain(&self, set: SetId) -> bool {
        self.entry(set).plain
    }

    /// See [`RouteTable::stays_plain`]; forgotten with the next target.
    pub(super) fn set_stays_plain(&mut self, set: SetId, plain: bool) {
        self.entry_mut(set).plain = plain;
    }

    /// Whether a set is still there.
    pub(super) fn has_set(&self, set: SetId) -> bool {
        self.sets.get(set.0 as usize).is_some_and(Option::is_some)
    }

    /// Changes what a route is to be. Returns what a set leaves that nobody uses any more.
    pub(super) fn set_want(&mut self, id: u32, want: Want) -> Option<Retired> {
        let route = self.routes[id as usize].as_mut().expect("a route in the table");
        let before = std::mem::replace(&mut route.want, want);
        let position = route.position;
        if before == want {
            return None;
        }
        if let Want::Set(set) = want {
            let entry = self.entry_mut(set);
            // Numbers of routes are below 2^32.
            let position = entry.members.len() as u32;
            entry.members.push(id);
            self.routes[id as usize].as_mut().expect("a route in the table").position = position;
        }
        let Want::Set(set) = before else {
            return None;
        };
        let entry = self.sets[set.0 as usize].as_mut().expect("a set in use");
        entry.members.swap_remove(position as usize);
        if let Some(&moved) = entry.members.get(position as usize) {
            self.routes[moved as usize].as_mut().expect("members are in the table").position =
                position;
        }
        if entry.members.is_empty() { self.remove_set(set) } else { None }
    }

    /// Where a wanted route is to lead, or why nowhere.
    pub(super) fn target(&self, route: &Route) -> Result<&Arc<Target>, Option<&NoTarget>> {
        match route.want {
            Want::Nothing => Err(None),
            Want::Blackhole => Ok(&self.blackhole),
            Want::Set(set) => self.entry(set).target.as_ref().map_err(Some),
        }
    }

    /// Whether any route that the kernel has may lead to where `leads` says: a scan.
    pub(super) fn any_present(&self, leads: impl Fn(&Target) -> bool) -> bool {
        self.routes.iter().flatten().any(|route| match &route.have {
            Have::Absent => false,
            Have::Unknown => true,
            Have::Present { form: Form::Plain(target), .. } => leads(target),
            // Where objects lead is theirs to say.
            Have::Present { form: Form::Group(_), .. } => false,
        })
    }

    /// Whether any set leads over the interface.
    pub(super) fn uses(&self, interface: u32) -> bool {
        self.sets
            .iter()
            .flatten()
            .any(|entry| entry.target.as_ref().is_ok_and(|target| target.uses(interface)))
    }

    fn entry(&self, set: SetId) -> &SetEntry {
        self.sets[set.0 as usize].as_ref().expect("a set in use")
    }

    fn entry_mut(&mut self, set: SetId) -> &mut SetEntry {
        self.sets[set.0 as usize].as_mut().expect("a set in use")
    }

    fn remove_set(&mut self, set: SetId) -> Option<Retired> {
        let entry = self.sets[set.0 as usize].take()?;
        self.free_sets.push(set.0);
        self.by_set_key.remove(&entry.key);
        for next_hop in &entry.key.next_hops {
            if let Some(sets) = self.by_next_hop.get_mut(next_hop) {
                sets.retain(|known| *known != set);
                if sets.is_empty() {
                    self.by_next_hop.remove(next_hop);
                }
            }
        }
        Some(Retired { next_hops: entry.key.next_hops, group: entry.group })
    }
}

/// The target of a set from the ways to its next hops: all hops of those there are; where there is
/// none, the first one's reason.
pub(super) fn combine(
    ways: impl Iterator<Item = Result<Way, NoTarget>>,
) -> Result<Arc<Target>, NoTarget> {
    let (mut all, mut preferred, mut obstacle) = (Hops::new(), None, None::<NoTarget>);
    for way in ways {
        match way {
            Ok(Way { hops, source }) => {
                all.extend_from_slice(&hops);
                preferred = preferred.or(source);
            }
            Err(no) => match &mut obstacle {
                None => obstacle = Some(no),
                Some(first) => first.withhold |= no.withhold,
            },
        }
    }
    if all.is_empty() {
        return Err(obstacle.unwrap_or_else(|| NoTarget::wait("no next hop")));
    }
    all.sort_unstable();
    all.dedup();
    Ok(Arc::new(Target::Unicast { hops: all, source: preferred }))
}

fn place<T>(slots: &mut Vec<Option<T>>, free: &mut Vec<u32>, value: T) -> u32 {
    if let Some(at) = free.pop() {
        slots[at as usize] = Some(value);
        return at;
    }
    slots.push(Some(value));
    u32::try_from(slots.len() - 1).expect("fewer than 2^32 routes fit into memory")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> RouteKey {
        let prefix = format!("10.{number}.0.0/16").parse().unwrap();
        RouteKey { prefix, metric: 1179, table: 254 }
    }

    fn next_hops(number: u8) -> SetKey {
        let address = format!("192.0.2.{number}").parse().unwrap();
        let next_hops = NextHopSet::from_slice(&[ForwardingNextHop { address, interface: 0 }]);
        SetKey { next_hops, asked: Asked::Nothing }
    }

    proptest! {
        /// Against a naive model: after any wishes, each set has exactly the routes that want it
        /// as members, and sets nobody wants are gone.
        #[test]
        fn members_follow_the_wishes(wishes in prop::collection::vec((0u8..8, 0u8..4), 1..200)) {
            let mut table = RouteTable::new();
            let mut model = HashMap::<u8, u8, FixedState>::default();
            for (route, set) in wishes {
                let id = table.enter(key(route));
                let want = match set {
                    0 => Want::Nothing,
                    1 => Want::Blackhole,
                    set => {
                        let hops = next_hops(set);
                        Want::Set(match table.find_set(&hops) {
                            Some(found) => found,
                            None => table.enter_set(hops, Err(NoTarget::wait(""))),
                        })
                    }
                };
                table.set_want(id, want);
                if set == 0 {
                    table.remove(id);
                    model.remove(&route);
                } else {
                    model.insert(route, set);
                }
                for set in 2..4 {
                    let wanted: Vec<u8> =
                        (0..8).filter(|route| model.get(route) == Some(&set)).collect();
                    match table.find_set(&next_hops(set)) {
                        None => prop_assert!(wanted.is_empty()),
                        Some(found) => {
                            let mut members: Vec<_> = table.entry(found).members.iter()
                                .map(|id| table.get(*id).unwrap().key).collect();
                            members.sort_unstable();
                            let wanted: Vec<_> = wanted.into_iter().map(key).collect();
                            prop_assert_eq!(members, wanted);
                        }
                    }
                }
            }
        }
    }
}
