//! The speaker machine: tables, decision, policy, export.
//!
//! In: [`Speaker::handle_peer_up`], [`Speaker::handle_update`], … Out: [`Speaker::poll_output`]
//! until it is empty after each call that handles something, and [`Speaker::poll_transmit`] while
//! it has something and the peers concerned are writable.
//!
//! ```text
//!  UPDATE ─► events ─► import ─► rib: table (attrs, next hops interned) ─► decision
//!                                  │ best path changed        │ next hops changed
//!                                  ▼                          ▼
//!                        forward: group, log, pack      Output::RouteChanged
//!                                  ▼
//!                        Transmit, per member
//! ```
//!
//! One path entry stands in one table per family; rejected ones too, so that a policy edit needs no
//! route refresh. What waits to be sent is which destinations changed, never messages.

mod attrs;
mod cluster;
mod config;
pub mod decision;
mod dest_set;
mod events;
mod export;
mod forward;
mod group;
mod import;
mod log;
mod nexthop;
mod pack;
mod peers;
mod rib;
mod shared;
mod slab;
mod sync;
mod table;
mod views;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::{Ipv4Net, Ipv6Net};
use routelet_proto::{Asn, BgpIdentifier, Family, Notification, RouteRefresh, Update};

use self::attrs::AttrStore;
use self::cluster::Cluster;
use self::peers::Peers;
use self::rib::Rib;
use self::shared::Shared;
use self::sync::Sync;
use crate::core::config::{OriginatedRoute, PeerConfig, SpeakerConfig};
use crate::core::forwarding::{ForwardingNextHop, NextHopAnswer, RouteChange};
use crate::core::peer::{PeerDown, PeerId, PeerUp};
use crate::core::view::{ExplainView, PeerTableView, RouteQuery, RouteSelector, RouteView};

/// An effect the speaker wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Tell the kernel.
    RouteChanged(RouteChange),
    /// Answer now and from now on how this next hop is. If it is tracked already (an untrack in
    /// between may have been overtaken), answer all the same.
    TrackNextHop(ForwardingNextHop),
    /// No longer.
    UntrackNextHop(ForwardingNextHop),
    /// Send this NOTIFICATION and end the session; the words go into `lastError`.
    ResetPeer(PeerId, Notification, String),
    /// What a peer sent of this family cannot be read: its routes are gone, and the family is
    /// ignored until the next session; the words say why.
    FamilyDisabled(PeerId, Family, String),
    /// Every configured peer has sent End-of-RIB or its deferral has passed, and every next hop is
    /// answered; all route changes decided until then have been handed out. Comes once.
    FirstSync,
}

/// What must happen to a session after a new configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerAction {
    /// Start a session.
    Start(PeerId, Arc<PeerConfig>),
    /// Give the session its new configuration; reset it if there are words, which say why.
    Update(PeerId, Arc<PeerConfig>, Option<String>),
    /// End the session (Cease/Peer De-configured) and forget it.
    Stop(PeerId),
}

/// Octets for one peer: whole UPDATEs. Members of a group share the storage.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transmit {
    /// To whom.
    pub peer: PeerId,
    /// What.
    pub octets: Bytes,
    /// How many messages that is, for the counters.
    pub messages: u32,
}

/// The speaker.
#[derive(Debug)]
pub struct Speaker {
    shared: Shared,
    v4: Rib<Ipv4Net>,
    v6: Rib<Ipv6Net>,
    originated: Vec<OriginatedRoute>,
    /// What one member is being sent.
    transmits: VecDeque<Transmit>,
}

/// Does something with the tables of one family, whose prefix types differ.
macro_rules! with_family {
    ($speaker:expr, $family:expr, $rib:ident => $body:expr) => {
        match $family {
            routelet_proto::Family::Ipv4Unicast => {
                let $rib = &mut $speaker.v4;
                $body
            }
            routelet_proto::Family::Ipv6Unicast => {
                let $rib = &mut $speaker.v6;
                $body
            }
        }
    };
}
use with_family;

#[cfg(test)]
mod tests;

impl Speaker {
    /// A speaker without peers; [`Self::apply_config`] comes next.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            shared: Shared {
                start: now,
                now,
                config: Arc::new(unconfigured()),
                cluster: Cluster::default(),
                attrs: AttrStore::new(),
                peers: Peers::default(),
                outputs: VecDeque::new(),
                sync: Sync::default(),
                encodings: 0,
            },
            v4: Rib::new(),
            v6: Rib::new(),
            originated: Vec::new(),
            transmits: VecDeque::new(),
        }
    }

    /// The same after a restart: peers may hold our routes, the kernel those of a former life, and
    /// the first sync takes the time to compare them (RFC 4724 §4.1).
    #[must_use]
    pub fn restarted(now: Instant) -> Self {
        let mut speaker = Self::new(now);
        speaker.shared.sync.restarted = true;
        speaker
    }

    /// Takes a configuration and returns what must happen to the sessions. Routes are re-evaluated
    /// where policy changed; nothing else moves.
    pub fn apply_config(&mut self, now: Instant, config: Arc<SpeakerConfig>) -> Vec<PeerAction> {
        self.shared.now = now;
        self.configure(config)
    }

    /// A session is Established.
    pub fn handle_peer_up(&mut self, now: Instant, peer: PeerId, up: PeerUp) {
        self.shared.now = now;
        self.peer_up(peer, up);
    }

    /// The host of a peer whose session is not up has answered, be it to refuse a connection. Needed
    /// once for each peer, and only until the first sync.
    pub fn handle_peer_reached(&mut self, now: Instant, peer: PeerId) {
        self.shared.now = now;
        self.peer_reached(peer);
    }

    /// A session has ended.
    pub fn handle_peer_down(&mut self, now: Instant, peer: PeerId, down: &PeerDown) {
        self.shared.now = now;
        self.peer_down(peer, down);
    }

    /// A peer sent an UPDATE. Dropped unless its session is up.
    pub fn handle_update(&mut self, now: Instant, peer: PeerId, update: &Update) {
        self.shared.now = now;
        self.update(peer, update);
    }

    /// A peer sent a ROUTE-REFRESH. Ignored for a family that is not negotiated.
    pub fn handle_route_refresh(&mut self, now: Instant, peer: PeerId, refresh: RouteRefresh) {
        self.shared.now = now;
        self.route_refresh(peer, refresh);
    }

    /// The kernel side has answers about next hops.
    pub fn handle_next_hops(&mut self, now: Instant, answers: &[NextHopAnswer]) {
        self.shared.now = now;
        self.next_hops(answers);
    }

    /// A peer's queue is full (`false`) or has room again (`true`, also assumed at peer up).
    pub fn handle_writable(&mut self, peer: PeerId, writable: bool) {
        let Some(slot) = self.shared.peers.slot(peer) else { return };
        let peer = &mut self.shared.peers[slot];
        peer.writable = writable;
        if writable {
            let [v4, v6] = peer.group;
            v4.into_iter().for_each(|group| self.v4.groups.wake(group));
            v6.into_iter().for_each(|group| self.v6.groups.wake(group));
        }
    }

    /// The time [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.shared.now = now;
        self.timeout(now);
    }

    /// When [`Self::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.shared.sync.deadline
    }

    /// The next effect.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        let requests = &mut self.shared.attrs.next_hops.requests;
        requests.pop_front().or_else(|| self.shared.outputs.pop_front())
    }

    /// The next octets for a writable peer: own prefixes first, then whatever is pending; a batch
    /// is encoded once for a group and then handed out member by member. A peer gets a batch of
    /// about 64 KiB, in up to three pieces, at a time; declared not writable, it gets no other.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let Self { shared, v4, v6, transmits, .. } = self;
        while transmits.is_empty() {
            let served = v4.groups.serve(&mut v4.table, &v4.own, shared, transmits)
                || v6.groups.serve(&mut v6.table, &v6.own, shared, transmits);
            if !served {
                return None;
            }
        }
        transmits.pop_front()
    }

    /// The peers, by name.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerTableView> {
        self.peer_views()
    }

    /// Routes, sorted by prefix, the best path of each first.
    #[must_use]
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteView> {
        self.route_views(query)
    }

    /// Everything about the destination that covers `address`, or about exactly `prefix`.
    #[must_use]
    pub fn explain(&self, selector: RouteSelector) -> ExplainView {
        self.explanation(selector)
    }

    /// The next hops tracked, for the kernel side when it starts again.
    pub fn tracked_next_hops(&self) -> impl Iterator<Item = ForwardingNextHop> + '_ {
        self.shared.attrs.next_hops.tracked()
    }

    /// How many attribute sets have been encoded since the start; a set that goes to a whole group
    /// counts once.
    #[must_use]
    pub const fn encodings(&self) -> u64 {
        self.shared.encodings
    }

    /// Destinations and distinct attribute sets in the tables.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.v4.table.len() + self.v6.table.len(), self.shared.attrs.len())
    }

    /// Prefixes that wait for some member, summed over the groups; at most the table for each.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.v4.groups.pending() + self.v6.groups.pending()
    }
}

/// What there is before the first configuration: nobody and nothing.
fn unconfigured() -> SpeakerConfig {
    SpeakerConfig {
        asn: Asn::ZERO,
        router_id: BgpIdentifier(Ipv4Addr::UNSPECIFIED),
        cluster_id: Ipv4Addr::UNSPECIFIED,
        host_name: String::new(),
        address_v4: None,
        address_v6: None,
        maximum_paths: 1,
        track_next_hops: false,
        initial_deferral: Duration::ZERO,
        originated: Vec::new(),
        cluster: Arc::default(),
        peers: Vec::new(),
    }
}
