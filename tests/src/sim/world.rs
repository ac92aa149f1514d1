//! The world: nodes, wires between them, and the queue of what happens next.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use foldhash::fast::FixedState;
use routelet_bgp::core::peer::PeerId;
use routelet_bgp::core::session::{ConnectionId, Endpoints, Output as SessionOutput};
use routelet_bgp::core::speaker::Output;
use routelet_proto::{EncodeContext, FamilySet, HEADER_LEN, MAX_STANDARD_LEN, frame_length};

use crate::sim::node::{Node, Slot};
use crate::sim::random::Random;
use crate::sim::topology::Topology;

/// How long a speaker gathers before it sends, as a real one does by handling what has come in
/// before it writes.
const GATHER: Duration = Duration::from_millis(1);
/// What TCP does about a lost segment.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// How wires behave.
#[derive(Clone, Copy, Debug)]
pub struct LinkQuality {
    /// Least latency, one way.
    pub least: Duration,
    /// Greatest latency, one way; each wire draws its own.
    pub most: Duration,
    /// Losses per million segments; each delays the wire by a retransmission.
    pub losses_per_million: u32,
}

/// What may befall the world.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The process of this node dies; its connections are reset; its kernel keeps forwarding.
    Crash(usize),
    /// It starts again.
    Restart(usize),
    /// One random connection of this node is reset.
    Reset(usize),
    /// One random connection of this node carries nothing any more, and nobody is told.
    Silence(usize),
}

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Statistics {
    /// Things that happened.
    pub events: u64,
    /// Messages delivered.
    pub messages: u64,
    /// Of those, prefixes in UPDATEs as counted where they were sent.
    pub update_messages: u64,
    /// Octets delivered.
    pub octets: u64,
    /// Times a session end became Established.
    pub established: u64,
    /// Times one left it.
    pub lost: u64,
    /// Routes that a node took out of its kernel.
    pub removed: u64,
}

/// Names a wire; never used again.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct WireId(u32);

/// One end of a wire.
#[derive(Clone, Copy, Debug)]
struct End {
    node: u32,
    generation: u32,
    peer: PeerId,
    connection: Option<ConnectionId>,
}

#[derive(Debug)]
struct Wire {
    ends: [End; 2],
    latency: Duration,
    /// Nothing overtakes what was sent before, per direction of the receiving end.
    latest: [Instant; 2],
    silent: bool,
}

#[derive(Debug)]
enum Happening {
    SessionTimer(u32, u32, PeerId),
    SpeakerTimer(u32, u32),
    Flush(u32, u32),
    Syn(WireId),
    Connected(WireId),
    Refused(u32, u32, PeerId, ConnectionId),
    Octets(WireId, usize, Bytes),
    Closed(WireId, usize),
    Fault(Fault),
}

struct Entry(Instant, u64, Happening);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A simulated network of speakers.
pub struct World {
    pub(super) nodes: Vec<Node>,
    by_address: HashMap<IpAddr, usize, FixedState>,
    wires: HashMap<WireId, Wire, FixedState>,
    next_wire: u32,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    start: Instant,
    now: Instant,
    random: Random,
    quality: LinkQuality,
    statistics: Statistics,
}

impl World {
    /// A world in which nothing has started yet. `start` is any instant; only differences count.
    #[must_use]
    pub fn new(topology: Topology, quality: LinkQuality, seed: u64, start: Instant) -> Self {
        let by_address = topology
            .speakers
            .iter()
            .enumerate()
            .map(|(index, spec)| (IpAddr::V4(spec.address), index))
            .collect();
        Self {
            nodes: topology.speakers.into_iter().map(|spec| Node::new(start, spec)).collect(),
            by_address,
            wires: HashMap::default(),
            next_wire: 0,
            queue: BinaryHeap::new(),
            order: 0,
            start,
            now: start,
            random: Random::new(seed),
            quality,
            statistics: Statistics::default(),
        }
    }

    /// Starts every node, spread evenly over `within`.
    pub fn start_all(&mut self, within: Duration) {
        let count = u32::try_from(self.nodes.len()).expect("few nodes");
        for index in 0..count {
            let at = self.now + within * index / count;
            self.push(at, Happening::Fault(Fault::Restart(index as usize)));
        }
    }

    /// Lets a fault happen `after` from now.
    pub fn schedule(&mut self, after: Duration, fault: Fault) {
        self.push(self.now + after, Happening::Fault(fault));
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// What it cost so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Runs for `time`.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse(Entry(at, ..))) = self.queue.peek()
            && *at <= end
        {
            let Some(Reverse(Entry(at, _, happening))) = self.queue.pop() else { break };
            self.now = at;
            self.statistics.events += 1;
            self.happen(happening);
        }
        self.now = end;
    }

    fn push(&mut self, at: Instant, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Entry(at, self.order, happening)));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::SessionTimer(node, generation, peer) => {
                let (now, index) = (self.now, node as usize);
                if let Some(slot) = self.slot(index, generation, peer)
                    && slot.timer == Some(now)
                {
                    slot.timer = None;
                    slot.session.handle_timeout(now);
                    self.pump(index, peer);
                }
            }
            Happening::SpeakerTimer(node, generation) => {
                let (now, index) = (self.now, node as usize);
                let node = &mut self.nodes[index];
                if node.alive && node.generation == generation && node.speaker_timer == Some(now) {
                    node.speaker_timer = None;
                    node.speaker.handle_timeout(now);
                    self.pump_speaker(index);
                }
            }
            Happening::Flush(node, generation) => {
                let index = node as usize;
                if self.nodes[index].alive && self.nodes[index].generation == generation {
                    self.nodes[index].flush_due = false;
                    self.flush(index);
                }
            }
            Happening::Syn(wire) => self.syn(wire),
            Happening::Connected(wire) => self.connected(wire),
            Happening::Refused(node, generation, peer, id) => {
                let (now, index) = (self.now, node as usize);
                if let Some(slot) = self.slot(index, generation, peer) {
                    slot.session.handle_closed(now, id, "connection refused".to_owned());
                    // The process is away, the host is not.
                    self.nodes[index].speaker.handle_peer_reached(now, peer);
                    self.pump(index, peer);
                }
            }
            Happening::Octets(wire, end, octets) => self.octets(wire, end, &octets),
            Happening::Closed(wire, end) => self.closed(wire, end),
            Happening::Fault(fault) => self.fault(fault),
        }
    }

    fn slot(&mut self, node: usize, generation: u32, peer: PeerId) -> Option<&mut Slot> {
        let node = &mut self.nodes[node];
        if !node.alive || node.generation != generation {
            return None;
        }
        node.sessions.get_mut(&peer)
    }

    /// Carries out what a session wants, then what the speaker wants because of it.
    fn pump(&mut self, index: usize, peer: PeerId) {
        loop {
            let Some(slot) = self.nodes[index].sessions.get_mut(&peer) else { return };
            let Some(output) = slot.session.poll_output() else { break };
            self.session_output(index, peer, output);
        }
        self.arm_session(index, peer);
        self.pump_speaker(index);
    }

    fn session_output(&mut self, index: usize, peer: PeerId, output: SessionOutput) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let Some(slot) = node.sessions.get_mut(&peer) else { return };
        match output {
            SessionOutput::Connect(id) => self.connect(index, peer, id),
            SessionOutput::Send(id, message) => {
                let context = slot.session.negotiated().map_or(
                    EncodeContext {
                        four_octet_as: true,
                        max_len: MAX_STANDARD_LEN,
                        add_path: FamilySet::EMPTY,
                        extended_next_hop: false,
                    },
                    |negotiated| negotiated.encode,
                );
                if let Some(wire) = slot.wire(id) {
                    let mut octets = BytesMut::with_capacity(HEADER_LEN);
                    message.encode(&context, &mut octets);
                    self.send(wire, index, octets.freeze());
                }
            }
            SessionOutput::Close(id) => {
                if slot.current == Some(id) {
                    slot.current = None;
                }
                if let Some(wire) = slot.wire(id) {
                    slot.wires.retain(|(other, _)| *other != id);
                    self.hang_up(wire, index);
                }
            }
            SessionOutput::PeerUp(id, up) => {
                slot.current = Some(id);
                self.statistics.established += 1;
                node.speaker.handle_peer_up(now, peer, *up);
            }
            SessionOutput::Updates(updates) => {
                for update in &updates {
                    node.speaker.handle_update(now, peer, update);
                }
            }
            SessionOutput::RouteRefresh(refresh) => {
                node.speaker.handle_route_refresh(now, peer, refresh);
            }
            SessionOutput::PeerDown(down) => {
                slot.current = None;
                self.statistics.lost += 1;
                node.speaker.handle_peer_down(now, peer, &down);
            }
            SessionOutput::AttemptFailed(_) => {}
        }
    }

    fn pump_speaker(&mut self, index: usize) {
        let now = self.now;
        while let Some(output) = self.nodes[index].speaker.poll_output() {
            let node = &mut self.nodes[index];
            match output {
                Output::RouteChanged(change) if change.next_hops.is_empty() => {
                    // What stems from a former life is removed at the first sync at the earliest.
                    node.adopted.remove(&change.prefix);
                    if node.synced && node.forwarding.remove(&change.prefix).is_some() {
                        self.statistics.removed += 1;
                    }
                }
                Output::RouteChanged(change) => {
                    if !node.synced {
                        node.adopted.insert(change.prefix);
                    }
                    node.forwarding.insert(change.prefix, change.next_hops);
                }
                Output::TrackNextHop(next_hop) => {
                    node.speaker.handle_next_hops(now, &[Node::answer(next_hop)]);
                }
                Output::UntrackNextHop(_) => {}
                Output::ResetPeer(peer, notification, words) => {
                    if let Some(slot) = node.sessions.get_mut(&peer) {
                        slot.session.reset(now, notification, words);
                        self.pump(index, peer);
                    }
                }
                Output::FamilyDisabled(_, family, why) => panic!("{family} disabled: {why}"),
                Output::FirstSync => self.statistics.removed += node.first_sync() as u64,
            }
        }
        let node = &mut self.nodes[index];
        let (generation, number) = (node.generation, u32::try_from(index).expect("few nodes"));
        let due = node.speaker.poll_timeout();
        if due != node.speaker_timer {
            node.speaker_timer = due;
            if let Some(at) = due {
                self.push(at.max(now), Happening::SpeakerTimer(number, generation));
                self.nodes[index].speaker_timer = Some(at.max(now));
            }
        }
        if !self.nodes[index].flush_due {
            self.nodes[index].flush_due = true;
            self.push(now + GATHER, Happening::Flush(number, generation));
        }
    }

    /// Sends what the tables have for the peers.
    fn flush(&mut self, index: usize) {
        while let Some(transmit) = self.nodes[index].speaker.poll_transmit() {
            let Some(slot) = self.nodes[index].sessions.get_mut(&transmit.peer) else { continue };
            slot.session.handle_updates_sent(transmit.messages);
            self.statistics.update_messages += u64::from(transmit.messages);
            if let Some(wire) = slot.current.and_then(|id| slot.wire(id)) {
                self.send(wire, index, transmit.octets);
            }
        }
    }

    fn arm_session(&mut self, index: usize, peer: PeerId) {
        let (now, generation) = (self.now, self.nodes[index].generation);
        let Some(slot) = self.nodes[index].sessions.get_mut(&peer) else { return };
        let due = slot.session.poll_timeout().map(|at| at.max(now));
        // A timer that is due earlier than needed costs an empty turn and is armed anew then.
        match (due, slot.timer) {
            (Some(at), Some(armed)) if armed <= at && armed >= now => {}
            (Some(at), _) => {
                slot.timer = Some(at);
                let number = u32::try_from(index).expect("few nodes");
                self.push(at, Happening::SessionTimer(number, generation, peer));
            }
            (None, _) => slot.timer = None,
        }
    }

    fn connect(&mut self, index: usize, peer: PeerId, id: ConnectionId) {
        let now = self.now;
        let node = &self.nodes[index];
        let slot = &node.sessions[&peer];
        let own = IpAddr::V4(node.spec.address);
        let number = u32::try_from(index).expect("few nodes");
        let generation = node.generation;
        let latency = self.random.between(self.quality.least, self.quality.most);
        let there = self.by_address.get(&slot.peer_address).copied();
        let answering = there.filter(|there| {
            self.nodes[*there].alive && self.nodes[*there].by_address.contains_key(&own)
        });
        let Some(there) = answering else {
            self.push(now + latency * 2, Happening::Refused(number, generation, peer, id));
            return;
        };
        let wire = WireId(self.next_wire);
        self.next_wire += 1;
        let far = End {
            node: u32::try_from(there).expect("few nodes"),
            generation: self.nodes[there].generation,
            peer: self.nodes[there].by_address[&own],
            connection: None,
        };
        let near = End { node: number, generation, peer, connection: Some(id) };
        self.wires
            .insert(wire, Wire { ends: [near, far], latency, latest: [now; 2], silent: false });
        let slot = self.nodes[index].sessions.get_mut(&peer).expect("it asked to connect");
        slot.wires.push((id, wire));
        self.push(now + latency, Happening::Syn(wire));
    }

    fn syn(&mut self, id: WireId) {
        let now = self.now;
        let Some(wire) = self.wires.get(&id) else { return };
        let (near, far, latency) = (wire.ends[0], wire.ends[1], wire.latency);
        let endpoints = self.endpoints(far.node, near.node);
        if self.slot(far.node as usize, far.generation, far.peer).is_none() {
            self.closed_later(id, 0, latency);
            return;
        }
        let slot = self.slot(far.node as usize, far.generation, far.peer).expect("just seen");
        let connection = slot.session.handle_incoming(now, endpoints);
        slot.wires.push((connection, id));
        self.wires.get_mut(&id).expect("just seen").ends[1].connection = Some(connection);
        self.wires.get_mut(&id).expect("just seen").latest[0] = now + latency;
        self.push(now + latency, Happening::Connected(id));
        self.pump(far.node as usize, far.peer);
    }

    fn connected(&mut self, id: WireId) {
        let now = self.now;
        let Some(wire) = self.wires.get(&id) else { return };
        let (near, far) = (wire.ends[0], wire.ends[1]);
        let endpoints = self.endpoints(near.node, far.node);
        let Some(connection) = near.connection else { return };
        if let Some(slot) = self.slot(near.node as usize, near.generation, near.peer) {
            slot.session.handle_connected(now, connection, endpoints);
            self.pump(near.node as usize, near.peer);
        }
    }

    fn endpoints(&self, near: u32, far: u32) -> Endpoints {
        let address =
            |node: u32| SocketAddr::new(IpAddr::V4(self.nodes[node as usize].spec.address), 179);
        Endpoints { local: address(near), remote: address(far), interface: 0 }
    }

    /// Puts octets on a wire at `node`'s end.
    fn send(&mut self, id: WireId, node: usize, octets: Bytes) {
        let lost = self.random.happens(self.quality.losses_per_million);
        let Some(wire) = self.wires.get_mut(&id) else { return };
        if wire.silent {
            return;
        }
        let to = usize::from(wire.ends[0].node as usize == node);
        let delay = wire.latency + if lost { RETRANSMISSION } else { Duration::ZERO };
        let at = (self.now + delay).max(wire.latest[to]);
        wire.latest[to] = at;
        self.push(at, Happening::Octets(id, to, octets));
    }

    fn octets(&mut self, id: WireId, to: usize, octets: &Bytes) {
        let now = self.now;
        let Some(wire) = self.wires.get(&id) else { return };
        let end = wire.ends[to];
        let Some(connection) = end.connection else { return };
        let Some(slot) = self.slot(end.node as usize, end.generation, end.peer) else { return };
        slot.session.handle_received(now, connection, octets.len());
        let mut rest = octets.clone();
        let mut messages = 0;
        while let Some(extended) = slot.session.extended_message(connection)
            && !rest.is_empty()
        {
            let length = frame_length(&rest, extended)
                .expect("speakers write headers that speakers read")
                .expect("whole messages are sent");
            let frame = rest.split_to(length);
            slot.session.handle_frame(now, connection, &frame);
            messages += 1;
        }
        self.statistics.messages += messages;
        self.statistics.octets += octets.len() as u64;
        self.pump(end.node as usize, end.peer);
    }

    /// The end at `node` is closed; the other learns of it.
    fn hang_up(&mut self, id: WireId, node: usize) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let near = usize::from(wire.ends[0].node as usize != node);
        let (far, latency, silent) = (1 - near, wire.latency, wire.silent);
        wire.ends[near].connection = None;
        if silent || wire.ends[far].connection.is_none() {
            // A connection under way is answered by Syn or not at all.
            self.wires.remove(&id);
            return;
        }
        self.closed_later(id, far, latency);
    }

    fn closed_later(&mut self, id: WireId, end: usize, latency: Duration) {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let at = (now + latency).max(wire.latest[end]);
        self.push(at, Happening::Closed(id, end));
    }

    fn closed(&mut self, id: WireId, end: usize) {
        let now = self.now;
        let Some(wire) = self.wires.remove(&id) else { return };
        let end = wire.ends[end];
        let Some(connection) = end.connection else { return };
        if let Some(slot) = self.slot(end.node as usize, end.generation, end.peer) {
            slot.wires.retain(|(_, other)| *other != id);
            slot.session.handle_closed(now, connection, "connection reset by peer".to_owned());
            self.pump(end.node as usize, end.peer);
        }
    }

    fn fault(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Restart(index) => {
                if self.nodes[index].alive {
                    return;
                }
                let seed = self.random.bits();
                for peer in self.nodes[index].start(now, seed) {
                    self.pump(index, peer);
                }
                self.pump_speaker(index);
            }
            Fault::Crash(index) => {
                if !self.nodes[index].alive {
                    return;
                }
                self.nodes[index].alive = false;
                let mut wires: Vec<_> = self.nodes[index]
                    .sessions
                    .values()
                    .flat_map(|slot| slot.wires.iter().map(|(_, wire)| *wire))
                    .collect();
                wires.sort();
                self.nodes[index].sessions.clear();
                for wire in wires {
                    self.hang_up(wire, index);
                }
            }
            Fault::Reset(index) => {
                if let Some(wire) = self.any_wire(index) {
                    // Both ends see it.
                    let Some(gone) = self.wires.remove(&wire) else { return };
                    for end in gone.ends {
                        let Some(connection) = end.connection else { continue };
                        let words = "connection reset by peer".to_owned();
                        if let Some(slot) = self.slot(end.node as usize, end.generation, end.peer) {
                            slot.wires.retain(|(_, other)| *other != wire);
                            slot.session.handle_closed(now, connection, words);
                            self.pump(end.node as usize, end.peer);
                        }
                    }
                }
            }
            Fault::Silence(index) => {
                if let Some(wire) = self.any_wire(index)
                    && let Some(wire) = self.wires.get_mut(&wire)
                {
                    wire.silent = true;
                }
            }
        }
    }

    fn any_wire(&mut self, index: usize) -> Option<WireId> {
        let mut wires: Vec<_> = self.nodes[index]
            .sessions
            .values()
            .filter_map(|slot| slot.current.and_then(|id| slot.wire(id)))
            .collect();
        wires.sort();
        if wires.is_empty() {
            return None;
        }
        let chosen = self.random.below(wires.len());
        Some(wires[chosen])
    }
}
