//! One simulated node: a speaker, its sessions, and the forwarding its kernel would have.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::FixedState;
use ipnet::IpNet;
use routelet_bgp::core::config::PeerConfig;
use routelet_bgp::core::forwarding::{NextHopAnswer, NextHopSet, NextHopState};
use routelet_bgp::core::peer::PeerId;
use routelet_bgp::core::session::{ConnectionId, LocalSpeaker, Session};
use routelet_bgp::core::speaker::{PeerAction, Speaker};
use routelet_proto::FamilySet;

use crate::sim::topology::SpeakerSpec;
use crate::sim::world::WireId;

/// One simulated node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) spec: SpeakerSpec,
    /// Counts its lives; what was under way for an earlier one is void.
    pub(super) generation: u32,
    pub(super) alive: bool,
    pub(super) speaker: Speaker,
    /// What its OPENs say of it.
    local: Option<Arc<LocalSpeaker>>,
    pub(super) sessions: HashMap<PeerId, Slot, FixedState>,
    pub(super) by_address: HashMap<IpAddr, PeerId, FixedState>,
    /// What its kernel has. Outlives the process.
    pub(super) forwarding: HashMap<IpNet, NextHopSet, FixedState>,
    /// What this life has asked for, until its first sync; the rest is stale then.
    pub(super) adopted: HashSet<IpNet, FixedState>,
    pub(super) synced: bool,
    /// A flush is in the queue.
    pub(super) flush_due: bool,
    pub(super) speaker_timer: Option<Instant>,
}

/// One session of a node.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) session: Session,
    pub(super) peer_address: IpAddr,
    pub(super) wires: Vec<(ConnectionId, WireId)>,
    /// The connection that carries the session.
    pub(super) current: Option<ConnectionId>,
    pub(super) timer: Option<Instant>,
}

impl Node {
    pub(super) fn new(now: Instant, spec: SpeakerSpec) -> Self {
        Self {
            spec,
            generation: 0,
            alive: false,
            speaker: Speaker::new(now),
            local: None,
            sessions: HashMap::default(),
            by_address: HashMap::default(),
            forwarding: HashMap::default(),
            adopted: HashSet::default(),
            synced: false,
            flush_due: false,
            speaker_timer: None,
        }
    }

    /// Starts a new life of the process; returns the peers whose sessions were started.
    pub(super) fn start(&mut self, now: Instant, seed: u64) -> Vec<PeerId> {
        self.alive = true;
        self.generation += 1;
        // A former life has left the kernel as it was; there are no reboots here.
        let restarted = self.generation > 1;
        self.speaker = if restarted { Speaker::restarted(now) } else { Speaker::new(now) };
        self.adopted = HashSet::default();
        self.sessions = HashMap::default();
        self.by_address = HashMap::default();
        self.synced = false;
        self.flush_due = false;
        self.speaker_timer = None;
        let local = Arc::new(LocalSpeaker {
            router_id: self.spec.config.router_id,
            host_name: String::new(),
            restarted,
            forwarding: if restarted { FamilySet::ALL } else { FamilySet::EMPTY },
        });
        self.local = Some(local.clone());
        let actions = self.speaker.apply_config(now, self.spec.config.clone());
        let mut started = Vec::with_capacity(actions.len());
        for action in actions {
            let PeerAction::Start(peer, config) = action else {
                panic!("a speaker that starts only starts sessions: {action:?}")
            };
            self.start_session(now, peer, config, local.clone(), seed);
            started.push(peer);
        }
        started
    }

    fn start_session(
        &mut self,
        now: Instant,
        peer: PeerId,
        config: Arc<PeerConfig>,
        local: Arc<LocalSpeaker>,
        seed: u64,
    ) {
        let peer_address = config.address;
        let seed = seed ^ u64::from(peer.0) << 32;
        let mut session = Session::new(now, config, local, seed);
        session.start(now);
        self.by_address.insert(peer_address, peer);
        let slot = Slot { session, peer_address, wires: Vec::new(), current: None, timer: None };
        self.sessions.insert(peer, slot);
    }

    /// The first sync: what nobody has asked for again goes, and the restart is over. Says how many
    /// routes went.
    pub(super) fn first_sync(&mut self) -> usize {
        self.synced = true;
        let before = self.forwarding.len();
        let adopted = std::mem::take(&mut self.adopted);
        self.forwarding.retain(|prefix, _| adopted.contains(prefix));
        if let Some(local) = self.local.take() {
            let settled = Arc::new(local.settled());
            for slot in self.sessions.values_mut() {
                slot.session.update_local(settled.clone());
            }
        }
        before - self.forwarding.len()
    }

    /// Every next hop is on link, as in one subnet.
    pub(super) fn answer(
        next_hop: routelet_bgp::core::forwarding::ForwardingNextHop,
    ) -> NextHopAnswer {
        NextHopAnswer { next_hop, state: NextHopState::Reachable { metric: 0 } }
    }
}

impl Slot {
    pub(super) fn wire(&self, id: ConnectionId) -> Option<WireId> {
        self.wires.iter().find(|(other, _)| *other == id).map(|(_, wire)| *wire)
    }
}
