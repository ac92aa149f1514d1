//! The devices as they should be and as they are, and what is to be done about the difference.
//!
//! In flow: the configuration, the topology, neighbour entries, results, time. Out flow: operations,
//! and whether a route may lead over a device. No IO, no clock.

mod entries;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use foldhash::fast::FixedState;

use super::super::hold::Holds;
use super::super::link::{LinkKind, VxlanLink};
use super::super::topology::Topology;
use super::message::{NeighbourKey, NeighbourValue};
use super::{Device, Mac, NoTarget, Operation, Pace, Results, TunnelConfig, TunnelNode};

pub use self::report::TunnelStatus;

/// Operations in one job.
const CHUNK: usize = 1024;
/// A link whose own size says nothing, as the loopback's: what Ethernet has.
const USUAL_MTU: u32 = 1500;
const SMALLEST_MTU: u32 = 1280;

type Entries = HashMap<NeighbourKey, NeighbourValue, FixedState>;

/// See the module.
pub(in super::super) struct Tunnels {
    config: TunnelConfig,
    /// What was before, and until when its devices are kept although routes still have to follow.
    before: Option<(TunnelConfig, Instant)>,
    pace: Pace,
    /// The other nodes by each of their addresses.
    by_address: HashMap<IpAddr, u32, FixedState>,
    /// Of each other node, the address of its VXLAN device; `Err`: who has the same.
    macs: Vec<Result<Mac, String>>,
    devices: [DeviceState; 3],
    /// Waits of the devices, by their place in [`Device::ALL`].
    holds: Holds,
    in_flight: bool,
    /// Interfaces that must not filter strictly, and those that have been seen to.
    loose: BTreeMap<u32, String>,
    loosened: HashSet<u32, FixedState>,
    filter_problems: BTreeMap<u32, String>,
    /// Everything of ours is to go at once.
    withdrawn: bool,
}

/// A node that a tunnel may lead to.
#[derive(Clone, Copy)]
pub(super) struct KnownNode<'a> {
    index: u32,
    node: &'a TunnelNode,
}

impl KnownNode<'_> {
    pub(super) fn name(&self) -> &str {
        &self.node.name
    }
}

/// What a device is to be.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Spec {
    kind: LinkKind,
    mtu: u32,
    mac: Option<Mac>,
    /// Preferred sources of the routes over it, by family: IPv4, IPv6.
    sources: [Option<IpAddr>; 2],
    /// The node's address, where the node has no pods and so no address of its own for the tunnel:
    /// a device without any drops what comes in, unless reverse paths are not filtered at all.
    makeshift: Option<IpAddr>,
}

impl Spec {
    /// Its own addresses.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.sources.into_iter().flatten().chain(self.makeshift)
    }
}

/// Whether routes may lead over a device.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Readiness {
    Ready { interface: u32, sources: [Option<IpAddr>; 2] },
    Not(NoTarget),
}

struct DeviceState {
    device: Device,
    /// `None`: it is not needed. `Err`: it is, and cannot be.
    want: Option<Result<Spec, String>>,
    unneeded_since: Option<Instant>,
    /// Index of the device of ours that is there.
    interface: Option<u32>,
    /// We are removing it ourselves.
    removing: bool,
    readiness: Readiness,
    /// What the kernel said last.
    failure: Option<String>,
    entries_wanted: Entries,
    entries: Entries,
    entries_differ: bool,
}

/// What an operation may touch now.
#[derive(Clone, Copy)]
pub(in super::super) struct Leave<'a> {
    /// The first sync is over and nothing waits to be written.
    pub settled: bool,
    /// Whether a route in the kernel leads over the interface.
    pub used: &'a dyn Fn(u32) -> bool,
    /// Whether a route in the kernel has this preferred source.
    pub source_used: &'a dyn Fn(IpAddr) -> bool,
}

impl Tunnels {
    pub(in super::super) fn new(config: TunnelConfig, pace: Pace) -> Self {
        let mut tunnels = Self {
            config: TunnelConfig::default(),
            before: None,
            pace,
            by_address: HashMap::default(),
            macs: Vec::new(),
            devices: Device::ALL.map(DeviceState::new),
            holds: Holds::default(),
            in_flight: false,
            loose: BTreeMap::new(),
            loosened: HashSet::default(),
            filter_problems: BTreeMap::new(),
            withdrawn: false,
        };
        tunnels.take(config);
        tunnels
    }

    pub(in super::super) fn config(&self) -> &TunnelConfig {
        &self.config
    }

    /// Takes another configuration. Where it needs a device that was not needed before, routes
    /// that are there follow later: see [`Tunnels::follow`].
    pub(in super::super) fn apply(&mut self, config: TunnelConfig, now: Instant) {
        if config == self.config {
            return;
        }
        let comes = Device::ALL
            .into_iter()
            .any(|device| needed(&config, device) && !needed(&self.config, device));
        let before = std::mem::take(&mut self.config);
        self.before = Some((before, if comes { now + self.pace.lead } else { now }));
        self.take(config);
    }

    /// `true` once after each change, when the routes that are there are to follow it.
    pub(in super::super) fn follow(&mut self, now: Instant) -> bool {
        let due = self.before.as_ref().is_some_and(|(_, at)| *at <= now);
        if due {
            self.before = None;
            self.want_entries();
        }
        due
    }

    /// Everything of ours is to go, as soon as no route uses it.
    pub(in super::super) fn withdraw(&mut self) {
        self.withdrawn = true;
        self.before = None;
        self.take(TunnelConfig { pools: Vec::new(), ..self.config.clone() });
    }

    /// Whether there is anything to look after.
    pub(in super::super) fn active(&self) -> bool {
        self.devices.iter().any(|state| state.want.is_some() || state.interface.is_some())
            || Device::ALL.into_iter().any(|device| self.needed(device))
    }

    /// Whether nothing of ours is on its way in or out.
    pub(in super::super) fn idle(&self) -> bool {
        let leaving = self.withdrawn && self.devices.iter().any(|state| state.interface.is_some());
        !self.in_flight && !leaving
    }

    /// When something is due by time alone.
    pub(in super::super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let leaving = self.devices.iter().filter_map(|state| {
            let since = state.unneeded_since.filter(|_| state.interface.is_some())?;
            Some(since + self.linger())
        });
        let follow = self.before.as_ref().map(|(_, at)| *at);
        let timers = leaving.filter(|at| *at > now).chain(follow).chain(self.holds.next());
        timers.min()
    }

    /// Looks at the links and addresses. `ways`: interfaces by which nodes are reached. Returns
    /// whether choices may be other ones than before.
    pub(in super::super) fn observe(
        &mut self,
        topology: &Topology,
        ways: &BTreeSet<u32>,
        now: Instant,
    ) -> bool {
        let mut changed = false;
        for number in 0..self.devices.len() {
            let device = Device::ALL[number];
            let want = self.needed(device).then(|| self.spec(device, topology, ways));
            let found = topology.link_named(device.name());
            let interface = found.filter(|link| Device::of(link) == Some(device));
            let interface = interface.map(|link| link.index);
            let state = &mut self.devices[number];
            // Without its address the node keeps the device as it is: addresses come back.
            let keeps =
                matches!((&want, &state.want), (Some(Err(_)), Some(Ok(_)))) && interface.is_some();
            if !keeps {
                state.want = want;
            }
            match (&state.want, interface) {
                (None, Some(_)) => {
                    state.unneeded_since.get_or_insert(now);
                }
                _ => state.unneeded_since = None,
            }
            if state.want.is_none() {
                state.failure = None;
            }
            if state.interface != interface {
                if state.interface.is_some() && !std::mem::take(&mut state.removing) {
                    self.holds.lost(number as u32, now);
                    if state.want.is_some() {
                        tracing::warn!(%device, "somebody removed the tunnel device");
                    }
                }
                state.interface = interface;
                if interface.is_some() {
                    state.failure = None;
                }
                state.entries.clear();
                state.entries_differ = true;
            }
            let readiness = state.readiness(topology);
            changed |= readiness != state.readiness;
            state.readiness = readiness;
        }
        self.look_at_filters(topology, ways);
        changed
    }

    /// Reverse-path filters may have been changed.
    pub(in super::super) fn settings_changed(&mut self) {
        self.loosened.clear();
    }

    /// What is to be done next; it must be answered by [`Tunnels::done`] before there is more.
    pub(in super::super) fn operations(
        &mut self,
        topology: &Topology,
        leave: Leave<'_>,
        now: Instant,
    ) -> Vec<Operation> {
        if self.in_flight {
            return Vec::new();
        }
        // Whoever's time has come waits no more.
        self.holds.due(now);
        let mut operations = Vec::new();
        let linger = self.linger();
        for (number, state) in (0u32..).zip(&mut self.devices) {
            if self.holds.waits(number) {
                continue;
            }
            let over = state.unneeded_since.is_some_and(|since| now >= since + linger);
            state.operations(topology, leave, over, &mut operations);
        }
        for (interface, name) in &self.loose {
            if self.loosened.insert(*interface) {
                operations.push(Operation::Loosen { interface: *interface, name: name.clone() });
            }
        }
        self.in_flight = !operations.is_empty();
        operations
    }

    /// Takes what came of operations.
    pub(in super::super) fn done(&mut self, results: Results, now: Instant) {
        self.in_flight = false;
        for (operation, result) in results {
            let device = match &operation {
                Operation::Loosen { interface, .. } => {
                    match result {
                        Ok(()) => self.filter_problems.remove(interface),
                        Err(refusal) => self.filter_problems.insert(*interface, refusal.words),
                    };
                    continue;
                }
                Operation::Create { device, .. }
                | Operation::Change { device, .. }
                | Operation::Remove { device, .. }
                | Operation::AddAddress { device, .. }
                | Operation::RemoveAddress { device, .. }
                | Operation::PutNeighbour { device, .. }
                | Operation::RemoveNeighbour { device, .. } => *device,
            };
            let state = &mut self.devices[device as usize];
            // Whoever removes a device switches it off first. What we do about that comes too late,
            // and its failure says nothing about the device that is to follow.
            if operation.interface().is_some_and(|interface| state.interface != Some(interface)) {
                continue;
            }
            match result {
                Ok(()) => state.succeeded(&operation),
                Err(refusal) => {
                    let words = state.refused(&operation, &refusal);
                    if state.failure.as_ref() != Some(&words) {
                        tracing::warn!(%device, "{words}");
                    }
                    state.failure = Some(words);
                    self.holds.refused(device as u32, now);
                }
            }
        }
    }

    /// The node that has this address, if it is another one of the cluster.
    pub(super) fn node_at(&self, address: IpAddr) -> Option<KnownNode<'_>> {
        let index = *self.by_address.get(&address)?;
        Some(KnownNode { index, node: &self.config.nodes[index as usize] })
    }

    /// Interface, neighbour and preferred source of a route to a node through a device; `ipv4`:
    /// whether the route is.
    pub(super) fn way(
        &self,
        device: Device,
        node: KnownNode<'_>,
        next_hop: IpAddr,
        ipv4: bool,
    ) -> Result<(u32, IpAddr, Option<IpAddr>), NoTarget> {
        let state = &self.devices[device as usize];
        let (interface, sources) = match &state.readiness {
            Readiness::Ready { interface, sources } => (*interface, sources),
            Readiness::Not(no) => return Err(no.clone()),
        };
        let via =
            if device.has_neighbours() { self.neighbour(device, node, ipv4)? } else { next_hop };
        Ok((interface, via, sources[usize::from(!ipv4)]))
    }

    fn linger(&self) -> std::time::Duration {
        if self.withdrawn { std::time::Duration::ZERO } else { self.pace.linger }
    }

    fn take(&mut self, config: TunnelConfig) {
        self.by_address.clear();
        self.macs.clear();
        let mut owners = HashMap::<Mac, &str, FixedState>::default();
        owners.insert(Mac::of_node(&config.node.name), &config.node.name);
        for (index, node) in (0u32..).zip(&config.nodes) {
            for address in &node.addresses {
                self.by_address.insert(*address, index);
            }
            let mac = Mac::of_node(&node.name);
            self.macs.push(match owners.entry(mac) {
                std::collections::hash_map::Entry::Occupied(owner) => {
                    Err((*owner.get()).to_owned())
                }
                std::collections::hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(&node.name);
                    Ok(mac)
                }
            });
        }
        self.config = config;
        self.want_entries();
    }

    fn want_entries(&mut self) {
        for number in 0..self.devices.len() {
            let wanted = self.wanted_entries(Device::ALL[number]);
            self.devices[number].entries_wanted = wanted;
            self.devices[number].entries_differ = true;
        }
    }

    /// Whether a pool may need the device, now or until routes have followed a change.
    fn needed(&self, device: Device) -> bool {
        let before = self.before.as_ref().is_some_and(|(before, _)| needed(before, device));
        !self.withdrawn && (before || needed(&self.config, device))
    }

    /// What a device is to be, or why it cannot be.
    fn spec(
        &self,
        device: Device,
        topology: &Topology,
        ways: &BTreeSet<u32>,
    ) -> Result<Spec, String> {
        let family = if device.over_ipv4() { "IPv4" } else { "IPv6" };
        let encapsulation = device.encapsulation();
        let Some(local) = self.config.node.underlay(device.over_ipv4()) else {
            return Err(format!("this node has no {family} address, which {encapsulation} needs"));
        };
        let mtu = match self.config.mtu {
            Some(mtu) => mtu,
            None => {
                let below = mtu_below(local, topology, ways)?;
                below.saturating_sub(device.overhead()).max(SMALLEST_MTU)
            }
        };
        let (kind, mac) = match device {
            Device::IpIp => {
                let remote = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                (LinkKind::IpIp { local, remote }, None)
            }
            Device::Vxlan | Device::Vxlan6 => {
                let vxlan = VxlanLink {
                    vni: self.config.vxlan_vni,
                    port: self.config.vxlan_port,
                    local: Some(local),
                    group: None,
                    learning: false,
                };
                (LinkKind::Vxlan(vxlan), Some(Mac::of_node(&self.config.node.name)))
            }
        };
        let before = self.before.as_ref().map(|(before, _)| before);
        let sources = [true, false].map(|ipv4| {
            let carried = carries(&self.config, device, ipv4)
                || before.is_some_and(|before| carries(before, device, ipv4));
            self.config.node.inner_address(ipv4).filter(|_| carried)
        });
        let makeshift = (sources[0].is_none() && local.is_ipv4()).then_some(local);
        Ok(Spec { kind, mtu, mac, sources, makeshift })
    }

    /// Which interfaces must not drop what arrives another way than we would answer.
    fn look_at_filters(&mut self, topology: &Topology, ways: &BTreeSet<u32>) {
        let mut loose = BTreeMap::new();
        let in_use = self.devices.iter().any(|state| matches!(state.want, Some(Ok(_))));
        if in_use {
            let own = self.config.node.addresses.iter().filter(|address| address.is_ipv4());
            let below = own.flat_map(|address| topology.holders(*address));
            let devices = self.devices.iter().filter_map(|state| state.interface);
            for interface in below.chain(devices).chain(ways.iter().copied()) {
                if let Some(link) = topology.link_at(interface).filter(|link| !link.loopback) {
                    loose.insert(interface, link.name.clone());
                }
            }
        }
        self.loosened.retain(|interface| loose.contains_key(interface));
        self.filter_problems.retain(|interface, _| loose.contains_key(interface));
        self.loose = loose;
    }
}

impl DeviceState {
    fn new(device: Device) -> Self {
        Self {
            device,
            want: None,
            unneeded_since: None,
            interface: None,
            removing: false,
            readiness: Readiness::Not(NoTarget::wait(format!("{device} is not looked for yet"))),
            failure: None,
            entries_wanted: Entries::default(),
            entries: Entries::default(),
            entries_differ: false,
        }
    }

    fn readiness(&self, topology: &Topology) -> Readiness {
        let device = self.device;
        let not =
            |reason: String, withhold| Readiness::Not(NoTarget { reason: reason.into(), withhold });
        let spec = match &self.want {
            None => return not(format!("{device} is not in use"), true),
            Some(Err(reason)) => return not(reason.clone(), true),
            Some(Ok(spec)) => spec,
        };
        let Some(link) = topology.link_named(device.name()) else {
            return match &self.failure {
                Some(failure) => not(failure.clone(), true),
                None => not(format!("{device} is being created"), false),
            };
        };
        if Device::of(link) != Some(device) {
            return not(in_the_way(device), true);
        }
        if link.kind != spec.kind || !link.up {
            return match &self.failure {
                Some(failure) => not(failure.clone(), false),
                None => not(format!("{device} is being changed"), false),
            };
        }
        for address in spec.addresses() {
            if !topology.holders(address).any(|interface| interface == link.index) {
                return not(format!("{device} is waiting for its address {address}"), false);
            }
        }
        Readiness::Ready { interface: link.index, sources: spec.sources }
    }

    /// Appends what is to be done. `over`: it has been needed by nobody for long enough.
    fn operations(
        &mut self,
        topology: &Topology,
        leave: Leave<'_>,
        over: bool,
        operations: &mut Vec<Operation>,
    ) {
        let device = self.device;
        let link = topology.link_named(device.name());
        let spec = match (&self.want, self.interface) {
            (None, Some(interface)) => {
                if over && leave.settled && !(leave.used)(interface) {
                    self.removing = true;
                    tracing::info!(%device, "the tunnel device is not in use any more");
                    operations.push(Operation::Remove { device, interface });
                }
                return;
            }
            (None | Some(Err(_)), _) => return,
            (Some(Ok(spec)), _) => spec,
        };
        let create =
            || Operation::Create { device, kind: spec.kind.clone(), mtu: spec.mtu, mac: spec.mac };
        let (Some(link), Some(interface)) = (link, self.interface) else {
            // Somebody else's of that name is in the way.
            if link.is_none() {
                operations.push(create());
            }
            return;
        };
        if link.kind != spec.kind {
            self.removing = true;
            tracing::info!(%device, "the tunnel device is made anew");
            operations.extend([Operation::Remove { device, interface }, create()]);
            return;
        }
        if link.mtu != spec.mtu || !link.up || spec.mac.is_some_and(|mac| link.mac != Some(mac)) {
            let (mtu, mac) = (spec.mtu, spec.mac);
            operations.push(Operation::Change { device, interface, mtu, mac });
        }
        let there = topology.addresses_on(interface);
        for address in spec.addresses() {
            if !there.contains(&address) {
                operations.push(Operation::AddAddress { device, interface, address });
            }
        }
        let ready = matches!(self.readiness, Readiness::Ready { .. });
        if ready && leave.settled {
            let stale = there.into_iter().filter(|address| {
                let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
                !link_local && !spec.addresses().any(|wanted| wanted == *address)
            });
            for address in stale.filter(|address| !(leave.source_used)(*address)) {
                operations.push(Operation::RemoveAddress { device, interface, address });
            }
        }
        if device.has_neighbours() && self.entries_differ {
            self.entry_operations(interface, leave.settled, operations);
        }
    }

    fn succeeded(&mut self, operation: &Operation) {
        match operation {
            Operation::PutNeighbour { neighbour, .. } => self.put_entry(neighbour),
            Operation::RemoveNeighbour { neighbour, .. } => self.drop_entry(neighbour),
            _ => {}
        }
        self.failure = None;
    }

    /// What the kernel's refusal means, in words with the fix.
    fn refused(&mut self, operation: &Operation, refusal: &super::perform::Refusal) -> String {
        let (device, words) = (self.device, &refusal.words);
        match (operation, refusal.errno) {
            (Operation::Create { .. }, libc::EOPNOTSUPP) => {
                let (what, module, instead) = match device {
                    Device::IpIp => ("IP-in-IP", "ipip", "vxlanMode"),
                    Device::Vxlan | Device::Vxlan6 => ("VXLAN", "vxlan", "ipipMode"),
                };
                format!(
                    "this kernel has no {what}: load the module (`modprobe {module}` on the host) \
                     or use {instead}"
                )
            }
            (Operation::Create { .. }, libc::EEXIST) => format!(
                "{device} cannot be created, another tunnel has the same ends: {words}; see \
                 `ip -d link`"
            ),
            (Operation::Create { .. }, _) => format!("{device} cannot be created: {words}"),
            (Operation::Change { .. }, _) => format!("{device} cannot be changed: {words}"),
            (Operation::Remove { .. }, _) => {
                self.removing = false;
                format!("{device} cannot be removed: {words}")
            }
            (Operation::AddAddress { address, .. }, _) => {
                format!("{device} does not get its address {address}: {words}")
            }
            (Operation::RemoveAddress { address, .. }, _) => {
                format!("{address} cannot be taken from {device}: {words}")
            }
            (Operation::PutNeighbour { .. } | Operation::RemoveNeighbour { .. }, _) => {
                self.entries_differ = true;
                format!("{device}: an entry for a node is refused: {words}")
            }
            (Operation::Loosen { .. }, _) => words.clone(),
        }
    }
}

/// Whether a pool may need the device.
pub(super) fn needed(config: &TunnelConfig, device: Device) -> bool {
    carries(config, device, true) || carries(config, device, false)
}

/// Whether a device is for packets of a family. Pods of a family travel over the underlay of their
/// own family, but where this node has none.
fn carries(config: &TunnelConfig, device: Device, ipv4: bool) -> bool {
    let asked =
        config.asked_of(device.encapsulation()).any(|pool| pool.cidr.addr().is_ipv4() == ipv4);
    asked
        && match device {
            Device::IpIp => ipv4,
            Device::Vxlan | Device::Vxlan6 if device.over_ipv4() == ipv4 => {
                // Without any address it is wanted all the same, and says what is missing.
                config.node.underlay(ipv4).is_some() || config.node.underlay(!ipv4).is_none()
            }
            Device::Vxlan | Device::Vxlan6 => config.node.underlay(ipv4).is_none(),
        }
}

/// The largest packet that the links below take: that of the link with the node's address; where
/// that is the loopback, the smallest of those by which nodes are reached.
fn mtu_below(local: IpAddr, topology: &Topology, ways: &BTreeSet<u32>) -> Result<u32, String> {
    let holders = topology.holders(local).filter_map(|index| topology.link_at(index));
    let mut holders = holders.filter(|link| Device::of(link).is_none()).peekable();
    if holders.peek().is_none() {
        return Err(format!(
            "the node's address {local} is on no interface of this host: correct node.addresses"
        ));
    }
    let mtu = holders.filter(|link| !link.loopback).map(|link| link.mtu).min();
    let of_ways = || {
        let links = ways.iter().filter_map(|index| topology.link_at(*index));
        links.filter(|link| Device::of(link).is_none()).map(|link| link.mtu).min()
    };
    Ok(mtu.or_else(of_ways).unwrap_or(USUAL_MTU))
}

fn in_the_way(device: Device) -> String {
    format!("an interface of another kind has the name {device}: rename or remove it")
}

#[cfg(test)]
mod tests;
