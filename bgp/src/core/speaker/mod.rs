//! The speaker machine: tables, decision, policy, export.
//!
//! In: [`Speaker::handle_peer_up`], [`Speaker::handle_update`], … Out: [`Speaker::poll_output`]
//! until it is empty after each call that handles something, and [`Speaker::poll_transmit`] while
//! it has something and the peers concerned are writable.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use routelet_proto::{Notification, RouteRefresh, Update};

use crate::core::config::{PeerConfig, SpeakerConfig};
use crate::core::forwarding::{ForwardingNextHop, NextHopAnswer, RouteChange};
use crate::core::peer::{PeerDown, PeerId, PeerUp};
use crate::core::view::{ExplainView, PeerTableView, RouteQuery, RouteView};

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
    /// Every configured peer has sent End-of-RIB or its deferral has passed; all route changes
    /// decided until then have been handed out. Comes once.
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
pub struct Speaker {}

impl Speaker {
    /// A speaker without peers; [`Self::apply_config`] comes next.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let _ = now;
        todo!()
    }

    /// Takes a configuration and returns what must happen to the sessions. Routes are re-evaluated
    /// where policy changed; nothing else moves.
    pub fn apply_config(&mut self, now: Instant, config: Arc<SpeakerConfig>) -> Vec<PeerAction> {
        let _ = (now, config);
        todo!()
    }

    /// A session is Established.
    pub fn handle_peer_up(&mut self, now: Instant, peer: PeerId, up: PeerUp) {
        let _ = (now, peer, up);
        todo!()
    }

    /// A session has ended.
    pub fn handle_peer_down(&mut self, now: Instant, peer: PeerId, down: &PeerDown) {
        let _ = (now, peer, down);
        todo!()
    }

    /// A peer sent an UPDATE.
    pub fn handle_update(&mut self, now: Instant, peer: PeerId, update: &Update) {
        let _ = (now, peer, update);
        todo!()
    }

    /// A peer sent a ROUTE-REFRESH.
    pub fn handle_route_refresh(&mut self, now: Instant, peer: PeerId, refresh: RouteRefresh) {
        let _ = (now, peer, refresh);
        todo!()
    }

    /// The kernel side has answers about next hops.
    pub fn handle_next_hops(&mut self, now: Instant, answers: &[NextHopAnswer]) {
        let _ = (now, answers);
        todo!()
    }

    /// A peer's queue is full (`false`) or has room again (`true`, also assumed at peer up).
    pub fn handle_writable(&mut self, peer: PeerId, writable: bool) {
        let _ = (peer, writable);
        todo!()
    }

    /// The time [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
        todo!()
    }

    /// When [`Self::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// The next effect.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        todo!()
    }

    /// The next octets for a writable peer: own prefixes first, then whatever is pending; a batch
    /// is encoded once for a group and then handed out member by member.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        todo!()
    }

    /// The peers, by name.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerTableView> {
        todo!()
    }

    /// Routes, sorted by prefix, the best path of each first.
    #[must_use]
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteView> {
        let _ = query;
        todo!()
    }

    /// Everything about the destination that covers `address`, or about exactly `prefix`.
    #[must_use]
    pub fn explain(&self, selector: crate::core::view::RouteSelector) -> ExplainView {
        let _ = selector;
        todo!()
    }

    /// The next hops tracked, for the kernel side when it starts again.
    pub fn tracked_next_hops(&self) -> impl Iterator<Item = ForwardingNextHop> + '_ {
        std::iter::empty()
    }
}
