//! The configured peers, as the tables need them: who they are, what they sent, where they stand.
//!
//! A peer has a [`PeerId`], which is never used again, and a slot, which is: paths name their peer
//! by two octets. A slot is given to another peer only after every path of the former is gone.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use routelet_proto::{Family, FamilySet, SessionKind};

use super::dest_set::DestSet;
use crate::core::config::PeerConfig;
use crate::core::peer::{PeerId, PeerUp};

/// A peer's place.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Slot(pub(super) u16);

impl Slot {
    /// Ourselves.
    pub(super) const LOCAL: Self = Self(u16::MAX);
}

/// A configured peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) config: Arc<PeerConfig>,
    /// The session is Established.
    pub(super) up: bool,
    /// The session, or the last one while its routes are retained.
    pub(super) session: Option<PeerUp>,
    /// Its BGP Identifier as a number; 0 before the first session.
    pub(super) identifier: u32,
    /// The session's remote address; the configured one before.
    pub(super) address: IpAddr,
    /// The speaker's AS is another.
    pub(super) external: bool,
    /// Told to reset; what it still sends is dropped.
    pub(super) resetting: bool,
    /// Its queue has room.
    pub(super) writable: bool,
    /// Per family: destinations with a path from it.
    pub(super) paths: [DestSet; Family::ALL.len()],
    /// Per family: its paths.
    pub(super) received: [usize; Family::ALL.len()],
    /// Per family: those that import policy passed.
    pub(super) accepted: [usize; Family::ALL.len()],
    /// Families whose End-of-RIB came in this session.
    pub(super) end_of_rib: FamilySet,
    /// Per family: why its routes are not read any more in this session (RFC 4760 §7).
    pub(super) disabled: [Option<String>; Family::ALL.len()],
    /// Families with routes retained, and until when.
    pub(super) stale: FamilySet,
    pub(super) stale_until: Option<Instant>,
    /// For how long routes were retained when the session went down.
    pub(super) stale_for: Duration,
    /// Families between BoRR and EoRR (RFC 7313).
    pub(super) refreshing: FamilySet,
    /// Families that the first sync need not wait for any more.
    pub(super) settled: FamilySet,
    /// When the first sync stops waiting for it; `None`: it does not wait.
    pub(super) deferral: Option<Instant>,
    /// When it began to wait.
    pub(super) deferral_began: Instant,
    /// It has been up while the first sync waited for it.
    pub(super) came_up: bool,
    /// Its host has answered in this life, if only to refuse.
    pub(super) reached: bool,
    /// Per family: its update group.
    pub(super) group: [Option<usize>; Family::ALL.len()],
}

impl Peer {
    fn new(id: PeerId, config: Arc<PeerConfig>, now: Instant) -> Self {
        Self {
            id,
            up: false,
            session: None,
            identifier: 0,
            address: config.address,
            external: config.remote_as != config.local_as,
            resetting: false,
            writable: true,
            paths: Default::default(),
            received: Default::default(),
            accepted: Default::default(),
            end_of_rib: FamilySet::EMPTY,
            disabled: Default::default(),
            stale: FamilySet::EMPTY,
            stale_until: None,
            stale_for: Duration::ZERO,
            refreshing: FamilySet::EMPTY,
            settled: FamilySet::EMPTY,
            deferral: None,
            deferral_began: now,
            came_up: false,
            reached: false,
            group: Default::default(),
            config,
        }
    }

    /// The families of its session, none while it is down.
    pub(super) fn families(&self) -> FamilySet {
        match &self.session {
            Some(session) if self.up => session.negotiated.families,
            _ => FamilySet::EMPTY,
        }
    }

    /// Interface that its link-local next hops are used with.
    pub(super) fn interface(&self) -> u32 {
        self.session.as_ref().map_or(0, |session| session.interface)
    }

    /// Takes over what an Established session tells.
    pub(super) fn establish(&mut self, up: PeerUp) {
        self.up = true;
        self.resetting = false;
        self.writable = true;
        self.end_of_rib = FamilySet::EMPTY;
        self.disabled = Default::default();
        self.refreshing = FamilySet::EMPTY;
        self.identifier = up.negotiated.peer_id.0.into();
        self.address = up.remote.ip();
        self.external = up.negotiated.kind == SessionKind::External;
        self.session = Some(up);
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Peers {
    slots: Vec<Option<Box<Peer>>>,
    by_id: HashMap<PeerId, Slot, FixedState>,
    by_name: HashMap<Arc<str>, Slot, FixedState>,
    next_id: u32,
}

impl Peers {
    /// Adds a peer. `None` if there are 65535 already.
    pub(super) fn add(&mut self, config: Arc<PeerConfig>, now: Instant) -> Option<Slot> {
        let place = match self.slots.iter().position(Option::is_none) {
            Some(place) => place,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        let slot = Slot(u16::try_from(place).ok()?);
        if slot == Slot::LOCAL {
            return None;
        }
        let id = PeerId(self.next_id);
        self.next_id += 1;
        self.by_id.insert(id, slot);
        self.by_name.insert(config.name.clone(), slot);
        self.slots[place] = Some(Box::new(Peer::new(id, config, now)));
        Some(slot)
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        if let Some(peer) = self.slots[slot.0 as usize].take() {
            self.by_id.remove(&peer.id);
            self.by_name.remove(&peer.config.name);
        }
    }

    pub(super) fn slot(&self, id: PeerId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<Slot> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Peer> {
        self.slots.get(slot.0 as usize)?.as_deref()
    }

    /// All, by slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Peer)> {
        self.slots.iter().zip(0..).filter_map(|(peer, place)| Some((Slot(place), peer.as_deref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Peer)> {
        self.slots
            .iter_mut()
            .zip(0..)
            .filter_map(|(peer, place)| Some((Slot(place), peer.as_deref_mut()?)))
    }
}

impl std::ops::Index<Slot> for Peers {
    type Output = Peer;

    fn index(&self, slot: Slot) -> &Peer {
        self.slots[slot.0 as usize].as_ref().expect("invariant: paths name peers that are there")
    }
}

impl std::ops::IndexMut<Slot> for Peers {
    fn index_mut(&mut self, slot: Slot) -> &mut Peer {
        self.slots[slot.0 as usize].as_mut().expect("invariant: paths name peers that are there")
    }
}
